"""
A controller process: creates or deletes one sandbox, going on with whatever another one has left.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tenancy.errors import HandoverError
from tenancy.messaging.rabbitmq import broker
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.routes.stores import open_store
from tenancy.sandbox import Controller, Fork, Progress

from ..journal import Journal, Progressed, clock
from ..spec import WORKLOAD
from . import mutants
from .entries import Returned, Took, Wrote
from .spec import Spec

__all__ = ["main"]

_DEADLINE = 120.0


def main() -> int:
    """
    Do what the environment says; 0: done.
    """
    spec = Spec.given()
    mutants.install(spec)
    journal = Journal(spec.directory, spec.name)
    _watch_broker(journal, spec)
    store = open_store(spec.store)
    _watch_store(store, journal)
    controller = Controller(store, rabbit=RabbitBroker(spec.rabbitmq), progress=lambda told: journal.write(_progressed(spec, told)))
    spec.sign("ready").touch()
    while spec.sign("wait").exists():
        time.sleep(0.01)
    try:
        if spec.act == "create":
            rows = controller.create(spec.sandbox, [Fork(WORKLOAD, spec.key)], deadline=_DEADLINE)
        else:
            rows = controller.delete(spec.sandbox, deadline=_DEADLINE)
    except HandoverError as error:
        print(error, file=sys.stderr)
        return 1
    for row in rows:
        journal.write(Returned(spec.act, str(row.key), row.epoch, spec.sandbox, clock()))
    return 0


def _progressed(spec: Spec, told: Progress) -> Progressed:
    return Progressed(spec.name, str(told.key), told.state.value, told.waiting, clock())


def _watch_store(store: Any, journal: Journal) -> None:
    """
    Write down when each row is asked to be written, and when it was.
    """
    write = store.write

    def writing(puts: Any) -> int:
        asked = clock()
        rows = [put.document for put in puts if put.document is not None and "epoch" in put.document]
        entries = [Wrote(str(row["key"]), row["epoch"], row["state"], row["sandbox"], asked) for row in rows]
        for entry in entries:
            journal.write(entry)
        version = write(puts)
        for entry in entries:
            journal.write(entry._replace(replied=clock()))
        return version

    store.write = writing


def _watch_broker(journal: Journal, spec: Spec) -> None:
    """
    Write down what is about to be moved, and wait, before a queue is closed or removed, where the stage says so.
    """
    publish = broker._publish_back

    async def publishing(channel: Any, base: str, message: Any) -> None:
        journal.write(Took(message.correlation_id, spec.name, os.getpid(), clock()))
        await publish(channel, base, message)
        time.sleep(spec.slow)

    broker._publish_back = publishing
    RabbitBroker.close_in = _gated("close", RabbitBroker.close_in, spec)  # type: ignore[method-assign]
    RabbitBroker.remove = _gated("remove", RabbitBroker.remove, spec)  # type: ignore[method-assign]


def _gated(what: str, step: Any, spec: Spec) -> Any:
    held, there = spec.sign(f"hold-{what}"), spec.sign(f"at-{what}")

    def gated(*args: Any, **options: Any) -> None:
        there.touch()
        while held.exists():
            time.sleep(0.02)
        step(*args, **options)

    return gated


if __name__ == "__main__":
    sys.exit(main())
