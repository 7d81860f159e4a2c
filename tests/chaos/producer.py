"""
The producer process: sends records with and without keys, and writes down what the broker has confirmed.
"""

from __future__ import annotations

import random
import signal
import time
from typing import Any

from confluent_kafka import Producer

from tenancy.messaging.confluent_kafka import inject

from .journal import Journal, Sent, clock
from .spec import Spec

__all__ = ["main"]

PARTITIONS = 8


def main() -> None:
    """
    Send until told to stop, and then wait for what is under way.
    """
    spec = Spec.given()
    journal = Journal(spec.directory, spec.name)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    producer = Producer(
        {
            "bootstrap.servers": spec.kafka,
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # never: a record is confirmed, however long the broker is away
            "linger.ms": 5,
            "log_level": 2,
            "reconnect.backoff.max.ms": 500,
        }
    )

    def confirmed(error: Any, message: Any) -> None:
        if error is None:
            key, _, value = message.value().decode().partition(" ")
            journal.write(Sent(message.topic(), message.partition(), message.offset(), key or None, value))

    chance = random.Random(spec.name)
    keys = (*spec.keys, None, None)
    headers = {key: inject([("chaos-key", key.encode())] if key else [], key=key) for key in keys}
    spec.sign("ready").touch()
    began, number = clock(), 0
    while not stopping:
        number += 1
        key = chance.choice(keys)
        try:
            producer.produce(
                spec.topic,
                f"{key or ''} {number}".encode(),
                partition=chance.randrange(PARTITIONS),
                headers=headers[key],
                on_delivery=confirmed,
            )
        except BufferError:
            producer.poll(0.1)
        producer.poll(0)
        time.sleep(max(0.0, began + number / spec.rate - clock()))
        began = max(began, clock() - number / spec.rate - 1)  # what the broker's absence has cost is not made good at once
    producer.flush(60)
    journal.sync()


if __name__ == "__main__":
    main()
