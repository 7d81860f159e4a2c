from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest

import tenancy
from tenancy import ConfigurationError
from tenancy.messaging.pika import SelectiveChannel
from tests.messaging.rabbitmq.pika_support import WAYS, WORKLOAD, World, a_world, once, wait_for

pytestmark = pytest.mark.service


@pytest.fixture(params=["classic", "quorum"])
def world(rabbitmq: str, request: pytest.FixtureRequest) -> Iterator[World]:
    with a_world(rabbitmq, request.param) as world:
        yield world


@pytest.fixture
def classic(rabbitmq: str) -> Iterator[World]:
    with a_world(rabbitmq) as world:
        yield world


@pytest.mark.parametrize("way", WAYS)
def test_each_has_one_owner(world: World, way: str) -> None:
    """While a sandbox comes, works and goes, every message is handled once: by the sandbox those of its key, by the baseline all others."""
    baseline = world.read(way=way)
    first = world.send(None, "pr-1", "pr-9")
    wait_for(lambda: once(first, baseline))
    fork = world.read("pr-1", way)
    stop, sent = threading.Event(), list(first)

    def keep_sending() -> None:
        with a_sender(world) as send:
            while not stop.is_set():
                sent.extend(send())
                time.sleep(0.02)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        world.create()
        mine = world.send("pr-1", None, "pr-1", "pr-9")
        wait_for(lambda: set(mine) <= {*fork.bodies, *baseline.bodies})
        assert {mine[0], mine[2]} <= set(fork.bodies)
        assert {mine[1], mine[3]} <= set(baseline.bodies)
        world.delete()
        late = world.send("pr-1")
        wait_for(lambda: set(late) <= set(baseline.bodies))
    finally:
        stop.set()
        sender.join()
    wait_for(lambda: once([*sent, *mine, *late], baseline, fork))
    assert all(body.endswith(b":pr-1") for body in fork.bodies)
    assert {seen.key for seen in fork.seen} == {"pr-1"}
    assert {seen.key for seen in baseline.seen} <= {None, "pr-1"}


class a_sender:  # noqa: N801 - it is used as a function
    """Publishes three messages at each call, from a thread of its own."""

    def __init__(self, world: World) -> None:
        self._world, self._number = world, 0

    def __enter__(self) -> Any:
        self._connection = pika.BlockingConnection(pika.URLParameters(self._world.url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        return self._send

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def _send(self) -> list[bytes]:
        from tenancy.messaging.pika import inject

        bodies = []
        for key in (None, "pr-1", "pr-9"):
            body = f"s{self._number}:{key}".encode()
            self._number += 1
            self._channel.basic_publish(self._world.exchange, "order.new", body, inject(None, key=key), mandatory=True)
            bodies.append(body)
        return bodies
