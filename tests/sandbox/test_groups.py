"""
When the consumer groups of a sandbox are deleted: a lease after its end, when nobody can begin anew in them any more. On a real broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import confluent_kafka
import pytest

from tenancy.messaging.kafka import gap as gap_module
from tenancy.routes import State
from tenancy.routes.lease import outwait
from tenancy.sandbox import Controller, Fork, Progress
from tenancy.sandbox import controller as controller_module
from tests.messaging.kafka.support import World
from tests.messaging.support import WORKLOAD
from tests.sandbox.test_own_topics import world as world  # a fixture

pytestmark = pytest.mark.service


class Watched:
    """
    A broker that notes when a group is deleted.
    """

    def __init__(self, broker: Any, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._clock = clock
        self.deleted: list[tuple[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def delete_group(self, group: str) -> None:
        self.deleted.append((group, self._clock()))
        self._broker.delete_group(group)


@pytest.mark.parametrize("killed", [False, True])
def test_a_lease_after_the_end(world: World, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """Also by a controller that finds it ended already: he cannot know when, and waits a whole lease of his own."""
    time = 1000.0
    ended: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal time
        time += seconds

    def told(progress: Progress) -> None:
        if progress.state is State.NONE and not ended:
            ended.append(time)
            if killed:
                raise KeyboardInterrupt

    for module in (controller_module, gap_module):
        monkeypatch.setattr(module, "now", lambda: time)
    broker = Watched(world.broker, lambda: time)

    def controller() -> Controller:
        return Controller(world.store, broker, progress=told, sleep=sleep)  # type: ignore[arg-type]

    (row,) = controller().create("pr-1", [Fork(WORKLOAD, "pr-1", {world.topic: [world.topic]})], deadline=60)
    group = f"{world.topic}.pr-1.{row.generation}"
    committing = confluent_kafka.cimpl.Consumer({"bootstrap.servers": world.kafka, "group.id": group})
    committing.commit(offsets=[confluent_kafka.TopicPartition(world.topic, 0, 0)], asynchronous=False)
    committing.close()
    if killed:
        with pytest.raises(KeyboardInterrupt):
            controller().delete("pr-1", deadline=60)
        assert (world.row().state, broker.deleted) == (State.NONE, [])
        time += 0.5
        ended = [time]
    controller().delete("pr-1", deadline=60)
    ((deleted, at),) = broker.deleted
    assert deleted == group
    lease = outwait(world.store.head().lease)
    assert lease - 0.001 <= at - ended[0] < lease + 1
    assert group not in {found.group_id for found in world.admin.list_consumer_groups().result(10).valid}
