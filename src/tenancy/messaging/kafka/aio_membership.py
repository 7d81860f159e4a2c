"""
The partitions of a `SelectiveConsumer` of aiokafka: when a sandbox joins its group and leaves it, where it begins, and what stands still.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..._optional import extra
from ...observe import warn_once
from .aio_offsets import Client, Offsets
from .aio_runner import Runner
from .registration import Registration
from .selection import Partition, Selection

with extra("aiokafka", "aiokafka"):
    from aiokafka.abc import ConsumerRebalanceListener
    from aiokafka.errors import KafkaError
    from aiokafka.structs import TopicPartition

__all__ = ["LOOK_EVERY", "Membership"]

#: How often at least it is looked at what was set aside, and at the life of the sandbox.
LOOK_EVERY = 0.2


class Membership:
    """
    The partitions of one consumer.

    Args:
        selection: Its records.
        offsets: Its offsets.
        client: The client.
        member: Returns what the broker calls it, and the topics to which it is subscribed.
        rebalance: Seconds that the group waits for a member in a rebalance.
        placing: Whether it begins where a key was handed over, where its group has committed nothing.
    """

    def __init__(
        self,
        selection: Selection,
        offsets: Offsets,
        client: Client,
        *,
        member: Callable[[], tuple[str | None, Iterable[str]]],
        rebalance: float,
        placing: bool,
    ) -> None:
        self._selection = selection
        self._offsets = offsets
        self._client = client
        self._member = member
        self._rebalance = rebalance
        self._placing = placing
        self._tending = asyncio.Lock()
        self._due = 0.0
        self._registration: Registration | None = None
        self.group: str | None = None
        #: Whether partitions are assigned, and placed, and not just being given up.
        self.steady = asyncio.Event()
        #: What its user subscribed to, and whether the client is told yet.
        self.wanted: dict[str, Any] | None = None
        self.subscribed = False
        #: What its user assigned, and is not placed yet.
        self.unplaced: set[Any] = set()
        #: How often somebody went elsewhere.
        self.moves = 0
        self.paused: set[Partition] = set()
        self.paused_by_user: set[Partition] = set()
        self.runner: Runner | None = None

    def join(self, group: str) -> None:
        """
        Say in which group it reads.
        """
        self.group = group
        self._registration = Registration(self._selection, group)

    def close(self) -> None:
        """
        Take the registration back.
        """
        if self._registration is not None:
            self._registration.close()

    @property
    def retired(self) -> bool:
        """
        Whether nothing will come any more, because the sandbox's route is gone.
        """
        return not self.subscribed and self._selection.retired()

    async def tend(self) -> None:
        """
        See to what is due, if it is time to.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOOK_EVERY
        if self._selection.holding or self.paused:
            self._selection.review()
            self._pause_full()
        if not (self._selection.baseline or self._tending.locked()):
            async with self._tending:
                await self.follow_life()

    # The group

    async def follow_life(self) -> None:
        """
        Join or leave the group as the life of a sandbox asks for; the baseline is always a member.
        """
        if self.wanted is None or self._selection.baseline:
            return
        reading = self._selection.reading()
        if reading and not self.subscribed:
            self._client.subscribe(**self.wanted)
            self.subscribed = True
        elif not reading and self.subscribed:
            self.steady.clear()
            if self.runner is not None:
                await self.runner.finish()
            await self._offsets.last_flush(self.group)
            self.leave()

    def subscribe(self, topics: Any, pattern: str | None, listener: Any) -> None:
        """
        Subscribe, now or as soon as a sandbox may join.
        """
        wanted = {"topics": topics, "pattern": pattern, "listener": _Listener(self, listener)}
        if self._selection.baseline or self.subscribed:
            self._client.subscribe(**wanted)
            self.subscribed = True
        self.wanted = wanted

    def unsubscribe(self) -> None:
        """
        Leave the group for good.
        """
        waits = self.wanted is not None and not self.subscribed
        self.wanted = None
        if not waits:
            self.leave()

    def leave(self) -> None:
        """
        Leave the group; nothing is committed.
        """
        self.subscribed = False
        self.steady.clear()
        self.forget(self._client.assigned())
        self._client.unsubscribe()

    async def given_up(self, partitions: Iterable[Any]) -> None:
        """
        Partitions are about to be somebody else's.
        """
        self.steady.clear()
        if self.runner is not None:
            await self.runner.finish(0.8 * self._rebalance)
        await self._offsets.last_flush(self.group)
        self.forget(partitions)

    async def given(self, partitions: Iterable[Any]) -> None:
        """
        Partitions were assigned by the group.
        """
        if self._placing:
            await self._place(partitions)
        if self._registration is not None:
            member, topics = self._member()
            self._registration.topics = tuple(sorted(topics))
            self._registration.assigned(member)

    # Partitions

    def started(self) -> None:
        """
        The consumer was started with what its user, or nobody's group, has assigned.
        """
        if self._placing:
            self.unplaced |= self._client.assigned()

    def assigned(self, partitions: Iterable[Any]) -> None:
        """
        Partitions were assigned by the user.
        """
        self.unplaced = set(partitions) if self._placing else set()
        self.steady.set()

    async def place_unplaced(self) -> bool:
        """
        Begin where a sandbox has to on partitions that its user has assigned, and return whether that is known.
        """
        if not self._selection.reading():
            return False
        unplaced, self.unplaced = self.unplaced, set()
        await self._place(unplaced)
        return True

    async def _place(self, partitions: Iterable[Any]) -> None:
        for place in partitions:
            start, moves = self._selection.start(*place), self.moves
            try:
                committed = None if self.group is None else await self._client.committed(place)
            except KafkaError as error:  # from the first record on, then: what comes before the hand-over is skipped
                warn_once(f"place:{self.group}", "aiokafka: what %s has committed cannot be read: %s", self.group, error)
                continue
            if committed is None and start is not None and place in self._client.assigned() and moves == self.moves:
                self._client.seek(place, start)
                self._offsets.unread([place])

    def sought(self, partitions: Iterable[Any]) -> None:
        """
        The user went elsewhere.
        """
        self.moves += 1
        self._offsets.sought(partitions)
        self.unplaced -= set(partitions)

    def forget(self, partitions: Iterable[Any]) -> None:
        """
        Drop everything about partitions that are given up.
        """
        gone = set(partitions)
        self._offsets.forget(gone)
        self.paused -= gone
        self.paused_by_user -= gone

    def give_back(self, partitions: Iterable[Any]) -> None:
        """
        Have the client read again what nobody decided on, once the partitions go on.
        """
        for place, offset in self._offsets.unread(partitions).items():
            self._client.seek(TopicPartition(*place), offset)

    def _pause_full(self) -> None:
        full = set(self._selection.full())
        if full == self.paused:
            return
        pause, resume = full - self.paused, self.paused - full - self.paused_by_user
        self.paused = full
        self._client.pause(*(TopicPartition(*place) for place in pause))
        self._client.resume(*(TopicPartition(*place) for place in resume))
        self.give_back(pause)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # untyped
    """
    Tells of what is assigned and revoked, and tells the user's own listener.
    """

    def __init__(self, membership: Membership, listener: Any) -> None:
        self._membership = membership
        self._listener = listener

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self._membership.steady.clear()
        try:
            if self._listener is not None:
                await _awaited(self._listener.on_partitions_revoked(revoked))
        finally:
            await self._membership.given_up(revoked)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        try:
            await self._membership.given(assigned)
            if self._listener is not None:
                await _awaited(self._listener.on_partitions_assigned(assigned))
        finally:
            self._membership.steady.set()


async def _awaited(result: Any) -> None:
    if inspect.isawaitable(result):
        await result
