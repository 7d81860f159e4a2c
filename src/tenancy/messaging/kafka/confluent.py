"""
A ``confluent_kafka.Consumer`` that hands on only what this process owns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import MappingProxyType
from typing import Any

from ..._optional import extra
from ...config import Accept, switched_on
from ...context import attached, with_key
from ...errors import ConfigurationError
from ...propagator import current_codec
from ...routes import LiveRoutes
from .confluent_ahead import Ahead
from .confluent_choice import headers_of
from .confluent_config import planned
from .confluent_offsets import Client, Offsets, behind
from .confluent_transactions import TransactionalConsumer
from .registration import Registration
from .runner import Runner
from .selection import HoldLimit, Selection
from .sieve import Sieve

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, KafkaException

__all__ = ["SelectiveConsumer"]

# How long a poll blocks inside the client at most, so that what was set aside is looked at again.
_STEP = 0.2
# How often it is looked whether something is due, in seconds.
_LOOK_EVERY = 0.5
# How much longer than it may a poll goes on, in seconds, while it finds only messages that are others'.
_PATIENCE = 0.1
_FOREVER = float("inf")


class SelectiveConsumer(TransactionalConsumer):
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
        in_order: Whether nothing behind a message that was set aside is handed on before it: the partition waits. For transactions, which
            could not commit what lies behind it, and for handlers that need the order of all messages and not just of each key's.
        options: Keyword arguments of ``Consumer``.

    Raises:
        IdentityError: If it is not said who this process is, or if the route table has nothing for this sandbox.
        ConfigurationError: If there is no route source, or if the configuration would lose a sandbox's messages.
    """

    _options: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        config: Mapping[str, Any],
        *args: Any,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        hold: HoldLimit | None = None,
        in_order: bool = False,
        **options: Any,
    ) -> None:
        self._selection = None
        if self._options:  # of a kind of consumer whose constructor passes on nothing but the configuration
            workload, accept, routes, hold = (self._options.get(name) for name in ("workload", "accept", "routes", "hold"))
            in_order = bool(self._options.get("in_order"))
        self._in_order = in_order
        if in_order:
            hold = HoldLimit(records=1)
        if switched_on():
            self._selection = Selection("confluent_kafka", workload=workload, accept=accept, routes=routes, hold=hold)
        self._plan = planned(config, self._selection)
        super().__init__(self._plan.config, *args, **options)
        self._fetch: Callable[[float], Any] = super().poll
        self._fetch_many: Callable[[int, float], list[Any]] = super().consume
        self._client = Client(super().assignment, super().position, super().commit, super().store_offsets)
        self._scan, self._keyed = current_codec().scan, Sieve(current_codec()).keyed
        self._closed = False
        self._next = 0.0
        self._ahead = Ahead()
        self._queue = self._ahead.queue
        # What was handed on last, and counts as done when the next is asked for.
        self._in_hand: tuple[Any, ...] = ()
        self._runner = None
        if self._selection is not None:
            self._begin()
            self._offsets = Offsets(self._client, self._selection, self._plan, self._ahead)
            self._registration = Registration(self._selection, self._plan.group)
            self._baseline = self._selection.baseline

    # Receiving

    def poll(self, timeout: float | None = None) -> Any:
        """
        Return the next message that is this process's, or an error event, or None where none came in time.

        Args:
            timeout: Seconds to wait at most; None or less than 0: for ever.
        """
        now = monotonic()
        if now < self._next and self._queue and self._baseline:
            return self._handed_on()
        if self._selection is None:
            return self._fetch(-1 if timeout is None else timeout)
        end = _FOREVER if timeout is None or timeout < 0 else now + timeout
        self._in_hand = ()
        while True:
            self._fill(now, end)
            if self._queue:
                return self._handed_on()
            now = monotonic()
            if now >= end:
                return None

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        """
        Return up to so many messages that are this process's, and error events; fewer, or none, where no more came in time.

        Args:
            num_messages: How many at most.
            timeout: Seconds to wait at most; less than 0: for ever.
        """
        if self._selection is None:
            return self._fetch_many(num_messages, timeout)
        now = monotonic()
        end = _FOREVER if timeout < 0 else now + timeout
        self._in_hand = ()
        # Where a rebalance can take some of it away again before it is complete.
        ahead, batch = self._ahead, self._ahead.batch
        while True:
            back = self._is_back()
            if back:
                self._attend(now)
            while ahead.queue and len(batch) < num_messages:
                batch.append(ahead.queue.popleft())
            if back and len(batch) < num_messages:
                step = max(0.0, min(_STEP, end - now))
                batch += self._chosen(self._fetch_many(num_messages - len(batch), step))
            now = monotonic()
            if len(batch) >= num_messages or now >= end:
                break
        found, ahead.batch = batch, []
        self._in_hand = tuple(found)
        if self._offsets.tracking:
            self._offsets.pending += [message for message in found if message.error() is None]
        return found

    def _handed_on(self) -> Any:
        message = self._queue.popleft()
        self._in_hand = (message,)
        if self._offsets.tracking and message.error() is None:
            self._offsets.pending.append(message)
        return message

    def _fill(self, now: float, end: float) -> None:
        """
        Fetch messages, until some are this process's or there are none for a while.

        Args:
            now: The time.
            end: When to come back at the latest.
        """
        ahead, selection = self._ahead, self._selected
        if not self._is_back():
            return
        while True:
            self._attend(now)
            if ahead.queue:
                return
            messages = self._fetch_many(ahead.wanted, 0.0) if ahead.wanted > 1 else []
            if not messages:
                ahead.wanted = 1
                message = self._fetch(max(0.0, min(_STEP, end - now)))
                messages = [] if message is None else [message]
            now = monotonic()
            ahead.adapt(len(messages), now)
            # They may be of a partition that was given up in between, of which the client knows; see librdkafka's version barriers.
            ahead.queue.extend(self._chosen(messages))
            if ahead.queue or not messages or selection.holding or now >= end + _PATIENCE:
                return

    def __iter__(self) -> Iterator[Any]:
        """
        Yield messages until the consumer is closed, or has nothing to read any more because its sandbox is gone.

        Raises:
            KafkaException: For an error event, other than the end of a partition.
        """
        while (message := self.next_message()) is not None:
            yield message

    def next_message(self) -> Any:
        """
        Return the next message that is this process's, however long that takes; None once there will be none any more.

        Raises:
            KafkaException: For an error event, other than the end of a partition.
        """
        while not (self._closed or (self._runner is not None and self._runner.stopped)):
            message = self.poll(_STEP)
            if message is None:
                if self.retired:
                    return None
                continue
            error = message.error()
            if error is None:
                return message
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
        return None

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
        headers = None if message.error() is not None else headers_of(message)
        if headers is None or self._scan(headers) is False:
            return attached(with_key(None))
        return attached(with_key(self._selection.context_key(self._selection.key(headers))))

    def run(self, handler: Callable[[Any], Any], *, workers: int = 1) -> None:
        """
        Handle messages, each with its routing key current, until `stop` is called, the consumer is closed, or its sandbox is gone.

        A message counts as done, and may be committed, when its handler has returned; with several workers they may end in any order.
        Before a partition is given up, what runs is waited for. An exception of the handler is raised here, once all that runs has ended;
        its message is not committed.

        Args:
            handler: A function of one message.
            workers: How many run at once, each in a thread; with 1 it is called in this thread.

        Raises:
            KafkaException: For an error event, other than the end of a partition.
        """
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}; give 1 or more")
        self._runner = Runner(self, handler, workers)
        if self._selection is not None:
            self._offsets.tracking = True
        try:
            self._runner.run()
        finally:
            self._runner = None
            if self._selection is not None:
                self._flush()

    def stop(self) -> None:
        """
        End `run`, from a handler, a signal handler or another thread, when what runs has ended.
        """
        if self._runner is not None:
            self._runner.stopped = True

    def settle(self, message: Any) -> None:
        """
        Say that one message is done, where several are handled at once and end in any order; what is done is committed in time.

        Args:
            message: A message that this consumer returned.
        """
        if self._selection is not None:
            self._offsets.settle(message)
        elif not self._plan.commits:
            self._client.commit(message=message, asynchronous=True)
        elif not self._plan.stores:
            self._client.store_offsets(message=message)

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
        return self._plan.group

    # Committing

    def commit(self, message: Any = None, offsets: Sequence[Any] | None = None, asynchronous: bool = True) -> Any:
        """
        Commit as ``Consumer.commit`` does; what was skipped behind it is committed along, and nothing that was set aside is passed.
        """
        if self._selection is None:
            return self._client.commit(**_given(message=message, offsets=offsets, asynchronous=asynchronous))
        if message is None and offsets is None:
            if self._plan.stores:
                self._offsets.settle_all()
            listed = self._offsets.committable()
        else:
            listed = self._offsets.extended([behind(message)] if message is not None else list(offsets or ()))
        if not listed:
            return self._client.commit(asynchronous=asynchronous)  # which says so itself
        return self._client.commit(offsets=listed, asynchronous=asynchronous)

    def store_offsets(self, message: Any = None, offsets: Sequence[Any] | None = None) -> None:
        """
        Store offsets as ``Consumer.store_offsets`` does; what was skipped behind them is stored along.
        """
        if self._selection is None:
            self._client.store_offsets(**_given(message=message, offsets=offsets))
            return
        if self._plan.stores:
            raise KafkaException(
                KafkaError(KafkaError._INVALID_ARG, "store_offsets needs 'enable.auto.offset.store': False in the configuration")
            )
        listed = self._offsets.extended([behind(message)] if message is not None else list(offsets or ()))
        self._client.store_offsets(offsets=listed)

    def position(self, partitions: Sequence[Any]) -> list[Any]:
        """
        Return where to go on after what was handed on so far: the next offset, or that of the first record that was set aside.
        """
        if self._selection is None:
            return self._client.position(list(partitions))
        return self._offsets.resumable(list(partitions))

    def close(self) -> None:
        """
        Store or commit what is done, leave the group and close. While an exception is on its way, what was handed on last is not done.
        """
        if not self._closed and self._selection is not None:
            self._registration.close()
            if sys.exc_info()[0] is not None and not self._offsets.tracking:
                self._offsets.pending = [message for message in self._in_hand if message.error() is None]
            try:
                self._flush()
            except (KafkaException, RuntimeError):  # closed already, or never connected
                pass
        self._closed = True
        super().close()

    # What goes on between two polls

    def _attend(self, now: float) -> None:
        """
        See to what is due.
        """
        selection, ahead = self._selected, self._ahead
        if not self._baseline and ahead.queue and not selection.unchanged():
            # What a sandbox was to get may be somebody else's by now.
            ahead.queue.extend(self._chosen(ahead.take_back()))
        if now >= self._next:
            self._next = now + _LOOK_EVERY
            self._flush(now=False)
            self._follow_life()
            if ahead.queue:
                # Nobody else asks the client for anything meanwhile, and it would take the consumer for dead.
                ahead.queue.extend(self._chosen(self._fetch_many(1, 0.0)))
        if selection.holding or self._paused:
            selection.review()
            while selection.ready:
                place, offset, message = selection.ready.popleft()
                selection.ledger(*place).settle(offset)
                ahead.queue.append(message)
            if self._paused_by_user:
                ahead.pause(self._paused_by_user)
            self._pause_full()

    def _flush(self, *, now: bool = True) -> None:
        if self._runner is not None:
            self._runner.collect()
        self._selected.report()
        self._offsets.flush(now=now)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
