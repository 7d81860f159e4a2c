"""
Which partitions a `SelectiveConsumer` of confluent-kafka has, from where it reads them, and which of them pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..._optional import extra
from ...observe import warn_once
from .confluent_ahead import Ahead
from .confluent_config import Plan
from .confluent_offsets import Offsets
from .registration import Registration
from .runner import Runner
from .selection import Partition, Selection

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaException, TopicPartition
    from confluent_kafka.cimpl import Consumer  # not a class that OpenTelemetry's instrumentation has put in its place

__all__ = ["AssignedConsumer"]


class AssignedConsumer(Consumer):
    """
    A ``confluent_kafka.Consumer`` whose partitions begin where they should, and of which nothing is kept that was given up.
    """

    _selection: Selection | None
    _plan: Plan
    _offsets: Offsets
    _registration: Registration
    _runner: Runner | None
    _ahead: Ahead

    def _flush(self, *, now: bool = True) -> None:
        raise NotImplementedError

    @property
    def _selected(self) -> Selection:
        assert self._selection is not None  # noqa: S101 - asked before
        return self._selection

    def _begin(self) -> None:
        self._subscription: tuple[list[str], dict[str, Any]] | None = None
        self._subscribed = False
        self._user_assigned = False
        self._paused_by_user: set[Partition] = set()
        self._paused: set[Partition] = set()

    def subscribe(self, topics: list[str], *args: Any, **callbacks: Any) -> None:
        """
        Subscribe as ``Consumer.subscribe`` does. A sandbox joins its group once it is settled where its messages begin.
        """
        callbacks.update(zip(("on_assign", "on_revoke", "on_lost"), args, strict=False))
        if self._selection is None:
            super().subscribe(topics, **callbacks)
            return
        self._subscription = (list(topics), {name: call for name, call in callbacks.items() if call is not None})
        self._subscribed = False
        self._registration.topics = tuple(topics)
        self._follow_life()

    def unsubscribe(self) -> None:
        """
        Leave the group, having stored what is done.
        """
        self._subscription, self._subscribed = None, False
        if self._selection is not None:
            self._flush()
        super().unsubscribe()

    def assign(self, partitions: Sequence[Any]) -> None:
        """
        Assign partitions. In a sandbox those without an offset of their own begin at its group's commit, or where its key was handed to it.
        """
        if self._selection is None:
            super().assign(list(partitions))
            return
        self._user_assigned = True
        self._given_up(super().assignment())
        super().assign(list(self._placed(partitions)))

    def incremental_assign(self, partitions: Sequence[Any]) -> None:
        """
        Add partitions to the assignment; see `assign`.
        """
        if self._selection is None:
            super().incremental_assign(list(partitions))
            return
        self._user_assigned = True
        super().incremental_assign(list(self._placed(partitions)))

    def unassign(self) -> None:
        """
        Give up all partitions.
        """
        if self._selection is not None:
            self._flush()
            self._given_up(super().assignment())
        super().unassign()

    def incremental_unassign(self, partitions: Sequence[Any]) -> None:
        """
        Give up some partitions.
        """
        if self._selection is not None:
            self._flush()
            self._given_up(partitions)
        super().incremental_unassign(list(partitions))

    def seek(self, partition: Any) -> None:
        """
        Go to an offset; what was set aside of the partition is dropped, since it will be read again if it is wanted.
        """
        super().seek(partition)
        if self._selection is not None:
            self._forget([partition])
            self._offsets.sought((partition.topic, partition.partition))

    def _go_back(self, partition: Any) -> None:
        """
        Have the client give out again what was not decided on; all that is known about it stays.
        """
        super().seek(partition)

    def pause(self, partitions: Sequence[Any]) -> None:
        """
        Pause partitions.
        """
        super().pause(list(partitions))
        if self._selection is not None:
            places = {(entry.topic, entry.partition) for entry in partitions}
            self._paused_by_user |= places
            self._ahead.pause(places)

    def resume(self, partitions: Sequence[Any]) -> None:
        """
        Resume partitions; one of which too much is set aside goes on as soon as that is decided.
        """
        if self._selection is None:
            super().resume(list(partitions))
            return
        places = {(entry.topic, entry.partition) for entry in partitions}
        self._paused_by_user -= places
        self._ahead.resume(places)
        super().resume([entry for entry in partitions if (entry.topic, entry.partition) not in self._paused])

    # What the group does

    def _follow_life(self) -> None:
        """
        Join the group when there is something to read, and leave it when somebody else reads in its place.
        """
        if self._subscription is None:
            return
        reading = self._selected.reading()
        if reading and not self._subscribed:
            topics, callbacks = self._subscription
            self._subscribed = True
            super().subscribe(
                topics,
                on_assign=lambda _, partitions: self._on_assign(partitions, callbacks.get("on_assign")),
                on_revoke=lambda _, partitions: self._on_revoke(partitions, callbacks.get("on_revoke")),
                on_lost=lambda _, partitions: self._on_lost(partitions, callbacks.get("on_lost") or callbacks.get("on_revoke")),
            )
        elif not reading and self._subscribed:
            self._subscribed = False
            self._finish_running()
            self._flush()
            super().unsubscribe()
            warn_once(
                f"left:{self._plan.group}",
                "confluent_kafka: sandbox %s has left the group %s: its route is gone, or what is left of it is handled by others.",
                self._selected.reader.identity.sandbox,
                self._plan.group,
            )

    def _finish_running(self) -> None:
        if self._runner is not None:
            self._runner.finish()

    def _on_assign(self, partitions: list[Any], callback: Any) -> None:
        placed = self._placed(partitions)
        self._user_assigned = False
        if callback is not None:
            callback(self, placed)
        if not self._user_assigned and placed is not partitions:
            (super().incremental_assign if self._plan.incremental else super().assign)(list(placed))
        self._registration.assigned(self.memberid())

    def _on_revoke(self, partitions: list[Any], callback: Any) -> None:
        self._finish_running()
        self._flush()
        if callback is not None:
            callback(self, partitions)
        self._given_up(partitions)

    def _given_up(self, partitions: Iterable[Any]) -> None:
        self._forget(partitions)
        self._paused_by_user -= {(entry.topic, entry.partition) for entry in partitions}

    def _on_lost(self, partitions: list[Any], callback: Any) -> None:
        if callback is not None:
            callback(self, partitions)
        self._given_up(partitions)

    def _placed(self, partitions: Sequence[Any]) -> Sequence[Any]:
        """
        Say where a sandbox begins on those partitions of which its group has committed nothing.
        """
        selection = self._selected
        if selection.baseline or not selection.exact:
            return partitions
        unsaid = [entry for entry in partitions if entry.offset < 0]
        try:
            committed = {(entry.topic, entry.partition): entry.offset for entry in super().committed(unsaid, timeout=10)}
        except KafkaException as error:
            # Without it all is well, too, only slower: it reads from the beginning, and skips what is not its own.
            warn_once(
                f"committed:{self._plan.group}", "confluent_kafka: the commits of %s could not be read: %s", self._plan.group, error
            )
            return partitions
        placed = []
        for entry in partitions:
            start = selection.start(entry.topic, entry.partition)
            if entry.offset < 0 and committed.get((entry.topic, entry.partition), -1) < 0 and start is not None:
                entry = TopicPartition(entry.topic, entry.partition, start)
            placed.append(entry)
        return placed

    def _forget(self, partitions: Iterable[Any]) -> None:
        gone = {(entry.topic, entry.partition) for entry in partitions}
        self._selected.forget(gone)
        self._offsets.forget(gone)
        self._ahead.forget(gone)
        # The client keeps a partition paused also when it is given up and comes again.
        for place in gone & (self._paused - self._paused_by_user):
            try:
                super().resume([TopicPartition(*place)])
            except KafkaException as error:
                warn_once(f"resume:{self._plan.group}", "confluent_kafka: %s [%d] could not be resumed: %s", *place, error)
        self._paused -= gone

    def _pause_full(self) -> None:
        full = self._selected.full()
        if full == self._paused:
            return
        pause, resume = full - self._paused, self._paused - full - self._paused_by_user
        self._paused = set(full)
        if pause:
            super().pause([TopicPartition(*place) for place in pause])
        if resume:
            super().resume([TopicPartition(*place) for place in resume])
