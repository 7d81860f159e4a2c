"""
A ``confluent_kafka.Consumer`` that hands on only what this process owns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..._optional import extra
from ...config import Accept, switched_on
from ...context import attached, with_key
from ...errors import ConfigurationError
from ...observe import count, warn_once
from ...propagator import current_codec
from ...routes import LiveRoutes
from .registration import Registration
from .selection import HoldLimit, Partition, Selection

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
    from confluent_kafka.cimpl import Consumer  # not a class that OpenTelemetry's instrumentation has put in its place

__all__ = ["SelectiveConsumer"]

_LATEST = {"latest", "largest", "end"}
_ON = {True, "true", "True", "1", "t"}
# How long a poll blocks inside the client at most, so that what was set aside is looked at again.
_STEP = 0.2
_STORE_EVERY = 1.0
_FOREVER = float("inf")


class SelectiveConsumer(Consumer):
    """
    A ``confluent_kafka.Consumer`` that yields only the messages that are this process's, and otherwise is one: the same configuration, the
    same methods, the same callbacks.

    The baseline reads in the group that the configuration names. A sandbox reads the same topics in a group of its own, from where its key
    was handed to it. What belongs to others is skipped, and committed along: never before the messages that you have not yet committed or
    stored yourself. What cannot be decided yet, because a sandbox is just being created or deleted or because the route table cannot be
    had, is set aside; nothing behind it is committed, and everything else goes on.

    Receiving changes nothing about the current context. Use ``with consumer.scope(message):`` around the handling, or `run`.

    Where tenancy is switched off it is a plain ``Consumer``.

    Args:
        config: The configuration, as for ``Consumer``. In a sandbox ``auto.offset.reset`` may not be ``latest``.
        args: Further arguments of ``Consumer``, such as a logger.
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        hold: How much may be set aside of each partition before it is paused; default 1,000 records or 16 MiB.
        options: Keyword arguments of ``Consumer``.

    Raises:
        IdentityError: If it is not said who this process is, or if the route table has nothing for this sandbox.
        ConfigurationError: If there is no route source, or if the configuration would lose a sandbox's messages.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *args: Any,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        hold: HoldLimit | None = None,
        **options: Any,
    ) -> None:
        given = dict(config)
        self._selection: Selection | None = None
        if switched_on():
            self._selection = Selection("confluent_kafka", workload=workload, accept=accept, routes=routes, hold=hold)
            self._prepare(given)
        super().__init__(given, *args, **options)
        self._fetch: Callable[[float], Any] = super().poll
        self._fetch_many: Callable[[int, float], list[Any]] = super().consume
        self._commit: Callable[..., Any] = super().commit
        self._absent = current_codec().absent
        self._closed = False

    def _prepare(self, config: dict[str, Any]) -> None:
        """
        Take over from the configuration what is done here instead, and remember it.
        """
        selection = self._selected
        base = config.get("group.id")
        if not base:
            raise ConfigurationError(
                "config has no 'group.id'; give the baseline's consumer group, of which a sandbox's is derived"
            )
        config["group.id"] = self._group = selection.join(str(base))
        if not selection.baseline:
            reset = config.get("auto.offset.reset")
            if reset in _LATEST:
                raise ConfigurationError(
                    f"config has 'auto.offset.reset': {reset!r}, with which sandbox {selection.reader.identity.sandbox} would lose messages: "
                    "those between where its key was handed to it and where it joined. Use 'earliest'; it begins at the hand-over, not "
                    "at the beginning of the topic"
                )
            config["auto.offset.reset"] = reset or "earliest"
        self._commits = config.get("enable.auto.commit", True) in _ON
        self._stores = config.get("enable.auto.offset.store", True) in _ON
        config["enable.auto.offset.store"] = False
        # With cooperative assignors and KIP-848 the assignment is changed step by step.
        cooperative = "cooperative" in str(config.get("partition.assignment.strategy", ""))
        self._incremental = cooperative or str(config.get("group.protocol", "")).lower() == "consumer"
        self._tracking = not (self._commits and self._stores)
        self._interval = _STORE_EVERY if self._commits else float(config.get("auto.commit.interval.ms", 5000)) / 1000
        self._next = 0.0
        self._busy = False
        self._unkeyed = 0
        self._pending: list[Any] = []
        self._batch: list[Any] = []
        self._subscription: tuple[list[str], dict[str, Any]] | None = None
        self._subscribed = False
        self._user_assigned = False
        self._paused_by_user: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._seen: Any = None
        self._registration = Registration(selection, self._group)

    @property
    def _selected(self) -> Selection:
        assert self._selection is not None  # noqa: S101 - asked before
        return self._selection

    # Receiving

    def poll(self, timeout: float | None = None) -> Any:
        """
        Return the next message that is this process's, or an error event, or None where none came in time.

        Args:
            timeout: Seconds to wait at most; None or less than 0: for ever.
        """
        fetch = self._fetch
        if self._selection is None:
            return fetch(-1 if timeout is None else timeout)
        began = time.monotonic()
        if (self._busy or began >= self._next) and (record := self._attend(began)) is not None:
            return record
        end = _FOREVER if timeout is None or timeout < 0 else began + timeout
        step = _STEP if end - began > _STEP else end - began
        take, absent, baseline = self._selection.take, self._absent, self._selection.baseline
        while True:
            message = fetch(step)
            if message is not None:
                if message.error() is not None:
                    return message
                headers = _headers(message)
                if headers is None or absent(headers):
                    self._unkeyed += 1
                    owned = baseline
                else:
                    owned = take(headers, message.topic(), message.partition(), message.offset(), message, len(message))
                if owned:
                    if self._tracking:
                        self._pending.append(message)
                    return message
            now = time.monotonic()
            if (self._selection.holding or self._busy or now >= self._next) and (record := self._attend(now)) is not None:
                return record
            if now >= end:
                return None
            step = min(_STEP, end - now)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        """
        Return up to so many messages that are this process's, and error events; fewer, or none, where no more came in time.

        Args:
            num_messages: How many at most.
            timeout: Seconds to wait at most; less than 0: for ever.
        """
        fetch = self._fetch_many
        if self._selection is None:
            return fetch(num_messages, timeout)
        began = time.monotonic()
        # An attribute, since a rebalance may take some of it away before it is complete.
        self._batch = batch = list[Any]()
        if self._busy or began >= self._next:
            self._collect(began, num_messages)
        end = _FOREVER if timeout < 0 else began + timeout
        step = min(_STEP, max(end - began, 0.0))
        while len(batch) < num_messages:
            batch += self._chosen(fetch(num_messages - len(batch), step))
            if len(batch) == num_messages:
                break
            now = time.monotonic()
            if batch and not self._tracking:
                # Not done before the next call, and a rebalance may come first.
                self._pending = [message for message in batch if message.error() is None]
                self._busy = True
            if self._selection.holding or now >= self._next:
                self._collect(now, num_messages)
            if now >= end:
                break
            step = min(_STEP, end - now)
        self._batch = []
        return batch

    def _collect(self, now: float, most: int) -> None:
        """
        Add what was set aside and is now to be handed on to the batch.
        """
        while len(self._batch) < most and (record := self._attend(now)) is not None:
            self._batch.append(record)

    def _chosen(self, messages: list[Any]) -> list[Any]:
        """
        Decide on a batch; the order stays.
        """
        selection = self._selected
        take, absent, baseline = selection.take, self._absent, selection.baseline
        unkeyed = 0
        chosen: list[Any] = []
        append = chosen.append
        for message in messages:
            if message.error() is not None:
                append(message)
                continue
            headers = _headers(message)
            if headers is None or absent(headers):
                unkeyed += 1
                if baseline:
                    append(message)
            elif take(headers, message.topic(), message.partition(), message.offset(), message, len(message)):
                append(message)
        self._unkeyed += unkeyed
        if self._tracking:
            self._pending += [message for message in chosen if message.error() is None]
        return chosen

    def __iter__(self) -> Iterator[Any]:
        """
        Yield messages until the consumer is closed, or has nothing to read any more because its sandbox is gone.

        Raises:
            KafkaException: For an error event, other than the end of a partition.
        """
        while not self._closed:
            message = self.poll(_STEP)
            if message is None:
                if self.retired:
                    return
                continue
            error = message.error()
            if error is None:
                yield message
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)

    def __enter__(self) -> SelectiveConsumer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Handling

    def scope(self, message: Any) -> AbstractContextManager[None]:
        """
        Return a context manager that makes a message's routing key current, or none where it has none.

        Args:
            message: A message that this consumer returned.
        """
        if self._selection is None:
            return attached(with_key(None))
        headers = None if message.error() is not None else _headers(message)
        if headers is None or self._absent(headers):
            return attached(with_key(None))
        return attached(with_key(self._selection.context_key(self._selection.key(headers))))

    @property
    def retired(self) -> bool:
        """
        Whether this is a sandbox's consumer whose route is gone, so that nothing will come any more.
        """
        return self._selection is not None and self._subscription is not None and not self._subscribed and self._selection.retired()

    @property
    def group_id(self) -> str:
        """
        The consumer group in which it reads.
        """
        return self._group

    # Committing

    def commit(self, message: Any = None, offsets: Sequence[Any] | None = None, asynchronous: bool = True) -> Any:
        """
        Commit as ``Consumer.commit`` does; what was skipped behind it is committed along, and nothing that was set aside is passed.
        """
        if self._selection is None:
            return self._commit(**_given(message=message, offsets=offsets, asynchronous=asynchronous))
        if message is None and offsets is None:
            if self._stores:
                self._settle_all()
            listed = self._committable()
        else:
            asked = [_behind(message)] if message is not None else list(offsets or ())
            listed = self._extended(asked)
        if not listed:
            return self._commit(asynchronous=asynchronous)  # which says so itself
        for entry in listed:
            self._note(entry)
        return self._commit(offsets=listed, asynchronous=asynchronous)

    def store_offsets(self, message: Any = None, offsets: Sequence[Any] | None = None) -> None:
        """
        Store offsets as ``Consumer.store_offsets`` does; what was skipped behind them is stored along.
        """
        if self._selection is None:
            super().store_offsets(**_given(message=message, offsets=offsets))
            return
        if self._stores:
            raise KafkaException(
                KafkaError(KafkaError._INVALID_ARG, "store_offsets needs 'enable.auto.offset.store': False in the configuration")
            )
        listed = self._extended([_behind(message)] if message is not None else list(offsets or ()))
        for entry in listed:
            self._note(entry)
        super().store_offsets(offsets=listed)

    def position(self, partitions: Sequence[Any]) -> list[Any]:
        """
        Return where to go on after what was handed on so far: the next offset, or that of the first record that was set aside.
        """
        found: list[Any] = super().position(list(partitions))
        if self._selection is not None:
            for entry in found:
                ledger = self._selection.ledgers.get((entry.topic, entry.partition))
                waiting = [ledger.held[0].offset] if ledger is not None and ledger.held else []
                waiting += [offset for place, offset, _ in self._selection.ready if place == (entry.topic, entry.partition)]
                if waiting and entry.offset > min(waiting):
                    entry.offset = min(waiting)
        return found

    # The assignment

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
        self._forget(super().assignment())
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
            self._forget(super().assignment())
        super().unassign()

    def incremental_unassign(self, partitions: Sequence[Any]) -> None:
        """
        Give up some partitions.
        """
        if self._selection is not None:
            self._flush()
            self._forget(partitions)
        super().incremental_unassign(list(partitions))

    def seek(self, partition: Any) -> None:
        """
        Go to an offset; what was set aside of the partition is dropped, since it will be read again if it is wanted.
        """
        super().seek(partition)
        if self._selection is not None:
            self._forget([partition])

    def pause(self, partitions: Sequence[Any]) -> None:
        """
        Pause partitions; what was set aside of them is still handed on.
        """
        super().pause(list(partitions))
        if self._selection is not None:
            self._paused_by_user |= {(entry.topic, entry.partition) for entry in partitions}

    def resume(self, partitions: Sequence[Any]) -> None:
        """
        Resume partitions; one of which too much is set aside goes on as soon as that is decided.
        """
        if self._selection is None:
            super().resume(list(partitions))
            return
        self._paused_by_user -= {(entry.topic, entry.partition) for entry in partitions}
        super().resume([entry for entry in partitions if (entry.topic, entry.partition) not in self._paused])

    def close(self) -> None:
        """
        Store or commit what is done, leave the group and close.
        """
        if not self._closed and self._selection is not None:
            self._registration.close()
            try:
                self._flush()
            except (KafkaException, RuntimeError):  # closed already, or never connected
                pass
        self._closed = True
        super().close()

    # What goes on between two polls

    def _attend(self, now: float) -> Any:
        """
        See to what is due, and return a record that was set aside and is to be handed on, if there is one.
        """
        selection = self._selected
        if not (self._tracking or self._batch):
            # Whoever polls again is done with what was returned before.
            self._settle_all()
        if now >= self._next:
            self._next = now + min(self._interval, _STORE_EVERY)
            self._flush()
            self._follow_life()
        if selection.holding:
            selection.review()
            self._pause_full()
        record = None
        if selection.ready:
            _, _, record = selection.ready.popleft()
        self._busy = bool(selection.holding or selection.ready or (record is not None and not self._tracking))
        return record

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
            self._flush()
            super().unsubscribe()
            warn_once(
                f"left:{self._group}",
                "confluent_kafka: sandbox %s has left the group %s: its route is gone, or what is left of it is handled by others.",
                self._selected.reader.identity.sandbox,
                self._group,
            )

    def _on_assign(self, partitions: list[Any], callback: Any) -> None:
        placed = self._placed(partitions)
        self._user_assigned = False
        if callback is not None:
            callback(self, placed)
        if not self._user_assigned and placed is not partitions:
            (super().incremental_assign if self._incremental else super().assign)(list(placed))
        self._registration.assigned(self.memberid())

    def _on_revoke(self, partitions: list[Any], callback: Any) -> None:
        self._flush()
        if callback is not None:
            callback(self, partitions)
        self._forget(partitions)

    def _on_lost(self, partitions: list[Any], callback: Any) -> None:
        if callback is not None:
            callback(self, partitions)
        self._forget(partitions)

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
            warn_once(f"committed:{self._group}", "confluent_kafka: the commits of %s could not be read: %s", self._group, error)
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
        self._pending = [message for message in self._pending if (message.topic(), message.partition()) not in gone]
        self._batch[:] = [message for message in self._batch if (message.topic(), message.partition()) not in gone]
        self._paused -= gone
        self._paused_by_user -= gone

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

    def _flush(self) -> None:
        """
        Store, or where nothing is committed automatically commit, up to what is not done.
        """
        selection = self._selected
        selection.report(self._unkeyed)
        self._unkeyed = 0
        listed = [entry for entry in self._committable() if entry.offset > self._noted(entry)]
        if not listed:
            return
        for entry in listed:
            self._note(entry)
        try:
            if self._commits and not selection.draining():
                super().store_offsets(offsets=listed)
            else:
                self._commit(offsets=listed, asynchronous=True)
        except KafkaException as error:  # of a partition that is just being given up: whoever gets it skips the same again
            warn_once(f"store:{self._group}", "confluent_kafka: offsets of %s could not be stored: %s", self._group, error)

    def _committable(self) -> list[Any]:
        self._enter_pending()
        listed = []
        assigned = super().assignment()
        for entry in super().position(assigned) if assigned else ():
            if entry.offset >= 0:
                ledger = self._selected.ledgers.get((entry.topic, entry.partition))
                offset = entry.offset if ledger is None else ledger.committable(entry.offset)
                listed.append(TopicPartition(entry.topic, entry.partition, offset))
        return listed

    def _extended(self, asked: list[Any]) -> list[Any]:
        """
        Return offsets that somebody commits, moved behind what was skipped after them, and not past what was set aside.
        """
        self._enter_pending()
        positions = {(entry.topic, entry.partition): entry.offset for entry in super().position(asked)}
        listed = []
        for entry in asked:
            position = positions[entry.topic, entry.partition]
            if entry.offset < 0 or position < 0:
                listed.append(entry)
                continue
            ledger = self._selected.ledger(entry.topic, entry.partition)
            ledger.settle_before(entry.offset)
            offset = ledger.committable(position)
            ours = TopicPartition(entry.topic, entry.partition, offset)
            if getattr(entry, "metadata", None) is not None:
                ours.metadata = entry.metadata
            listed.append(ours)
        return listed

    def _enter_pending(self) -> None:
        for message in self._pending:
            self._selected.ledger(message.topic(), message.partition()).hand(message.offset())
        self._pending.clear()

    def _settle_all(self) -> None:
        self._pending.clear()
        for ledger in self._selected.ledgers.values():
            ledger.settle_all()
        # What was set aside and is not handed on yet stands in the way all the same.
        for place, offset, _ in self._selected.ready:
            self._selected.ledger(*place).hand(offset)

    def _note(self, entry: Any) -> None:
        self._selected.ledger(entry.topic, entry.partition).committed = entry.offset

    def _noted(self, entry: Any) -> int:
        return self._selected.ledger(entry.topic, entry.partition).committed


def _headers(message: Any) -> Any:
    try:
        return message.headers()
    except (SystemError, UnicodeError) as error:
        # A header's name is not UTF-8. The client does not survive being asked a second time.
        count("tenancy.keys.malformed", {"adapter": "confluent_kafka"})
        warn_once(
            "unreadable:confluent_kafka",
            "confluent_kafka: the headers of a message cannot be read (%r), so it counts as one without a routing key. Further ones are "
            "only counted (tenancy.keys.malformed).",
            error,
        )
        return None


def _behind(message: Any) -> Any:
    return TopicPartition(message.topic(), message.partition(), message.offset() + 1)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
