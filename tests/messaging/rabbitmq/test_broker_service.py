from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from tenancy.key import RoutingKey
from tenancy.messaging.rabbitmq.broker import QueueError, RabbitBroker
from tenancy.messaging.rabbitmq.names import Names, names_of
from tests.chaos.rabbitmq.proxy import Proxies

pytestmark = pytest.mark.service

KEY = RoutingKey("pr-1")


class Queue:
    """A baseline's queue with a sandbox's beside it, and a controller's view of the broker that can be cut off."""

    def __init__(self, url: str) -> None:
        self.proxies = Proxies(url)
        self.base = f"test-{uuid.uuid4().hex[:8]}"
        self.names: Names = names_of(self.base, KEY, 1)
        self.broker = RabbitBroker(self.proxies.url("broker"))
        self.other = RabbitBroker(url)


@pytest.fixture
def queue(rabbitmq: str) -> Iterator[Queue]:
    found = Queue(rabbitmq)
    step = found.other._session.run
    step(lambda channel: channel.declare_queue(found.base, durable=True))
    found.broker.make(found.base, found.names, {"durable": True}, key=KEY)
    yield found
    for name in (found.base, found.names.queue, found.names.dead):
        step(lambda channel, name=name: channel.queue_delete(name))
    for name in (found.names.exchange, found.names.back):
        step(lambda channel, name=name: channel.exchange_delete(name))
    found.other.close()
    found.broker.close()
    found.proxies.close()


def test_a_connection_that_was_lost_is_made_anew(queue: Queue) -> None:
    """As soon as the loss is noticed questions are answered again, as a controller asks them: until there is an answer."""
    assert queue.broker.state(queue.names.queue) == (0, 0)
    for _ in range(2):
        assert queue.proxies.cut("broker")
        end = time.monotonic() + 10
        while True:
            try:
                assert queue.broker.state(queue.names.queue) == (0, 0)
                break
            except QueueError:
                assert time.monotonic() < end
                time.sleep(0.05)


def test_only_who_has_the_lock_moves_and_deletes(queue: Queue) -> None:
    """It is lost with its connection: somebody else may have it since, and a message of the queue in his hands."""
    for without in (lambda: queue.broker.move(queue.base, queue.names, "baseline"), lambda: queue.broker.remove(queue.names)):
        with pytest.raises(QueueError, match="lock"):
            without()
    taken = queue.broker.lock(queue.names)
    assert taken == queue.broker.lock(queue.names) != 0
    assert not queue.other.lock(queue.names)
    queue.proxies.cut("broker")
    while not queue.other.lock(queue.names):
        pass  # until the broker has seen it
    with pytest.raises(QueueError):
        queue.broker.remove(queue.names)
    assert not queue.broker.lock(queue.names)
    assert queue.other.state(queue.names.queue) == (0, 0)
    queue.other.remove(queue.names)
    assert queue.other.state(queue.names.queue) is None
