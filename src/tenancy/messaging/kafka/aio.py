"""
An ``aiokafka.AIOKafkaConsumer`` that hands on only what this process owns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any

from ..._optional import extra
from ...config import Accept, switched_on
from ...context import attached, with_key
from ...errors import ConfigurationError
from ...propagator import current_codec
from ...routes import LiveRoutes
from .aio_membership import Membership
from .aio_offsets import Client, Offsets
from .aio_reception import Reception
from .aio_runner import Runner
from .selection import HoldLimit, Selection

with extra("aiokafka", "aiokafka"):
    from aiokafka import AIOKafkaConsumer
    from aiokafka.abc import ConsumerRebalanceListener
    from aiokafka.errors import ConsumerStoppedError
    from aiokafka.util import commit_structure_validate

__all__ = ["SelectiveConsumer"]

_SKIPS_EVERY = 1.0
_FOREVER = float("inf")


class SelectiveConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # untyped
    """
    An ``aiokafka.AIOKafkaConsumer`` that yields only the records that are this process's, and otherwise is one: the same configuration,
    the same methods, the same listener.

    The baseline reads in the group that ``group_id`` names. A sandbox reads the same topics in a group of its own, from where its key was
    handed to it; its ``start()`` waits for the route table, and until it may join its group it gets no records. What belongs to others is
    skipped, and committed along: never before records that are still in your hands. What cannot be decided yet, because a sandbox is just
    being created or deleted or because the route table cannot be had, is set aside; nothing behind it is committed, and everything else
    goes on.

    With ``enable_auto_commit``, which is aiokafka's default, a record counts as done when the next one is asked for, and not, as in
    aiokafka, when it is returned; so one that is in hand when the process ends comes again. Tasks that share a consumer use `run`, commit
    by hand, or `settle` each record.

    Receiving changes nothing about the current context. Use ``with consumer.scope(record):`` around the handling, or `run`.

    Once a sandbox's route is gone, an ``async for`` ends, and `getone` and `getmany` raise ``ConsumerStoppedError``.

    Without ``group_id`` nothing is committed, and a sandbox begins where its key was handed to it at each start. Where tenancy is switched
    off it is a plain ``AIOKafkaConsumer``.

    Args:
        topics: Topics to subscribe to.
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        hold: How much may be set aside of each partition before it is paused; default 1,000 records or 16 MiB.
        config: The configuration, as for ``AIOKafkaConsumer``. In a sandbox with a group ``auto_offset_reset`` may not be ``latest``.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source, or if the configuration would lose a sandbox's records.
    """

    def __init__(
        self,
        *topics: str,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        hold: HoldLimit | None = None,
        **config: Any,
    ) -> None:
        self._selection: Selection | None = None
        self._closed = True  # until there is a client, so that its __del__ does not mind
        if not switched_on():
            super().__init__(*topics, **config)
            return
        self._selection = selection = Selection("aiokafka", workload=workload, accept=accept, routes=routes, hold=hold)
        group = config.get("group_id")
        automatic = bool(config.get("enable_auto_commit", True))
        self._base: str | None = group
        self._interval = config.get("auto_commit_interval_ms", 5000) / 1000
        if not automatic:
            self._interval = min(self._interval, _SKIPS_EVERY)
        placing = not selection.baseline and _places(config, str(selection.reader.identity.sandbox))
        config["enable_auto_commit"] = False
        # Without a group there is nothing to join, and nobody to give anything up to.
        super().__init__(*(topics if group is None else ()), **config)
        client = Client(
            super().getmany,
            super().commit,
            super().committed,
            super().seek,
            super().pause,
            super().resume,
            super().subscribe,
            super().unsubscribe,
            lambda: None if (subscription := self._subscription.subscription) is None else subscription.assignment,
        )
        self._offsets = Offsets(selection, client, automatic=automatic)
        self._membership = Membership(
            selection,
            self._offsets,
            client,
            member=lambda: (self._coordinator.member_id, self._subscription.topics),
            rebalance=self._rebalance_timeout_ms / 1000,
            placing=placing,
        )
        self._reception = Reception(selection, self._offsets, self._membership, client, check=self._check)
        self._absent = current_codec().absent
        self._keeper: asyncio.Task[None] | None = None
        if group is None:
            self._membership.steady.set()
        elif topics:
            self.subscribe(topics)

    @property
    def _selected(self) -> Selection:
        assert self._selection is not None  # noqa: S101 - asked before
        return self._selection

    @property
    def group_id(self) -> str | None:
        """
        The consumer group in which it reads; a sandbox's is known once it was started.
        """
        group: str | None = self._group_id
        return group

    @property
    def retired(self) -> bool:
        """
        Whether this is a sandbox's consumer whose route is gone, so that nothing will come any more.
        """
        return self._selection is not None and self._membership.retired

    # Its life

    async def start(self) -> None:
        """
        Connect and join the group. A sandbox waits for the route table, and joins once it is settled where its records begin; that may be
        after this returns.

        Raises:
            IdentityError: If the route table has nothing for this sandbox.
            RoutesNotSyncedError: If a sandbox's route table could not be read before the deadline of the settings.
        """
        if self._selection is None:
            await super().start()
            return
        if self._selection.baseline:
            # The first look at the table may take a while; it need not succeed.
            await asyncio.to_thread(self._selection.view)
        else:
            group = await asyncio.to_thread(self._selection.join, self._base or "none")
            if self._base is not None:
                self._group_id: Any = group
        if self._base is not None:
            self._membership.join(self._group_id)
            await self._membership.follow_life()
        await super().start()
        if self._base is not None:
            self._keeper = asyncio.create_task(self._keep())
        if not self._membership.subscribed:
            self._membership.started()

    async def stop(self) -> None:
        """
        Wait for the handlers of `run`, commit what is done, leave the group and close.
        """
        if self._selection is not None and not self._closed:
            if (runner := self._membership.runner) is not None:
                runner.stopped = True
                await runner.finish()
            self._membership.close()
            if self._keeper is not None:
                self._keeper.cancel()
                with suppress(asyncio.CancelledError):
                    await self._keeper
                await self._offsets.last_flush(self._group_id)
        await super().stop()

    async def _keep(self) -> None:
        """
        Commit from time to time what is done.
        """
        due = time.monotonic() + self._interval
        while True:
            await asyncio.sleep(min(self._interval, _SKIPS_EVERY))
            # Whoever waits for a sandbox to drain waits for its commit.
            if self._selected.draining() or time.monotonic() >= due:
                due = time.monotonic() + self._interval
                await self._offsets.flush(self._group_id)

    def _check(self) -> None:
        if self._closed:
            raise ConsumerStoppedError
        if self._membership.subscribed:
            self._coordinator.check_errors()

    # Receiving

    async def getone(self, *partitions: Any) -> Any:
        """
        Return the next record that is this process's, however long that takes.

        Args:
            partitions: From which partitions; default any.

        Raises:
            ConsumerStoppedError: If the consumer is closed, or its sandbox's route is gone.
        """
        if self._selection is None:
            return await super().getone(*partitions)
        return await self._reception.one(partitions, _FOREVER)

    async def next_record(self, seconds: float) -> Any:
        """
        Return the next record that is this process's, or None where none came in time.

        Args:
            seconds: How long to wait at most.

        Raises:
            ConsumerStoppedError: If the consumer is closed, or its sandbox's route is gone.
        """
        if self._selection is not None:
            return await self._reception.one((), seconds)
        for records in (await super().getmany(timeout_ms=int(seconds * 1000), max_records=1)).values():
            return records[0]
        return None

    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> dict[Any, list[Any]]:
        """
        Return records that are this process's by partition; an empty dictionary where none came in time.

        Args:
            partitions: From which partitions; default any.
            timeout_ms: Milliseconds to wait at most where there is none.
            max_records: How many at most; default that of the configuration.

        Raises:
            ConsumerStoppedError: If the consumer is closed, or its sandbox's route is gone.
        """
        if self._selection is None:
            found: dict[Any, list[Any]] = await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
            return found
        if max_records is not None and max_records < 1:
            raise ValueError("`max_records` must be a positive Integer")
        return await self._reception.many(partitions, timeout_ms / 1000, max_records or self._max_poll_records)

    async def __anext__(self) -> Any:
        if self._selection is None:
            return await super().__anext__()
        try:
            return await self._reception.one((), _FOREVER)
        except ConsumerStoppedError:
            raise StopAsyncIteration from None

    # Handling

    def scope(self, record: Any) -> AbstractContextManager[None]:
        """
        Return a context manager that makes a record's routing key current, or none where it has none.

        Args:
            record: A record that this consumer returned.
        """
        headers = record.headers
        if self._selection is None or not headers or self._absent(headers):
            return attached(with_key(None))
        return attached(with_key(self._selection.context_key(self._selection.key(headers))))

    async def run(self, handler: Callable[[Any], Any], *, workers: int = 1) -> None:
        """
        Handle records, each with its routing key current, until the consumer is stopped or its sandbox is gone.

        A record counts as done, and is committed in time, when its handler has returned; with several workers they may end in any order.
        Before a partition is given up, what runs is waited for, as long as the group allows that. An exception of a handler is raised here,
        once all that runs has ended; its record is not committed, and neither is any behind it. If this is cancelled, so are the handlers.

        Args:
            handler: A function or coroutine function of one record.
            workers: How many run at once, each in a task.
        """
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}; give 1 or more")
        runner = Runner(self, handler, workers)
        if self._selection is None:
            await runner.run(ConsumerStoppedError)
            return
        self._membership.runner = runner
        self._offsets.tracking = True
        try:
            await runner.run(ConsumerStoppedError)
        finally:
            self._membership.runner = None
            if not self._closed:
                await self._offsets.last_flush(self._group_id)

    def settle(self, record: Any) -> None:
        """
        Say that one record is done, where several are handled at once and end in any order; what is done is committed in time.

        Args:
            record: A record that this consumer returned. From the first call on nothing else counts as done by itself.
        """
        if self._selection is not None:
            self._offsets.settle(record)

    # Committing

    async def commit(self, offsets: Mapping[Any, Any] | None = None) -> None:
        """
        Commit as ``AIOKafkaConsumer.commit`` does; what was skipped behind it is committed along, and nothing that was set aside is passed.
        """
        if self._selection is None or self._group_id is None or not self.assignment():
            await super().commit(offsets)
            return
        asked = None if offsets is None else commit_structure_validate(offsets)
        if asked is None and self._membership.runner is None:
            self._offsets.settle_all()
        await self._offsets.commit(asked)

    async def position(self, partition: Any) -> int:
        """
        Return where to go on after what was handed on so far: the next offset, or that of the first record that was set aside.
        """
        if self._selection is None:
            found: int = await super().position(partition)
            return found
        if partition in self._membership.unplaced:
            await self._membership.place_unplaced()
        return self._offsets.resumable(partition, await super().position(partition))

    @asynccontextmanager
    async def transaction(self, producer: Any) -> AsyncIterator[None]:
        """
        Make what *producer* sends in a block, and the commit of what was handled in it, one transaction: both happen, or none.

        Where the block raises, the transaction is aborted and the consumer goes back to what was committed last. What was skipped is
        committed within the transaction, too.

        Args:
            producer: A producer with a ``transactional_id``, which has to have the sandbox in its name, or a sandbox would fence the
                baseline.

        Raises:
            ConfigurationError: If offsets are committed automatically, which no transaction could undo, or if there is no group.
        """
        if self._group_id is None or (self._selection is not None and not self._offsets.tracking):
            raise ConfigurationError(
                "a transaction commits the offsets itself; give the consumer a group_id and enable_auto_commit=False"
            )
        try:
            async with producer.transaction():
                yield
                done = {place: await self.position(place) for place in self.assignment()}
                if done:
                    await producer.send_offsets_to_transaction(done, self._group_id)
        except BaseException:
            await self._rewind()
            raise
        if self._selection is not None:
            self._offsets.settle_all()
            for place, offset in done.items():
                self._offsets.note(place, offset)

    async def _rewind(self) -> None:
        """
        Go back to what was committed last. The broker may not say so yet where that was in a transaction, too.
        """
        for place in self.assignment():
            noted = -1 if self._selection is None else self._offsets.noted(place)
            offset = max(noted, -1 if (committed := await self.committed(place)) is None else committed)
            start = None if self._selection is None else self._selection.start(*place)
            if offset < 0 and start is None:
                await self.seek_to_beginning(place)
                continue
            self.seek(place, max(offset, -1 if start is None else start))
            if self._selection is not None:
                self._offsets.note(place, noted)

    # The assignment

    def subscribe(self, topics: Any = (), pattern: str | None = None, listener: Any = None) -> None:
        """
        Subscribe as ``AIOKafkaConsumer.subscribe`` does. A sandbox joins its group once it is settled where its records begin.

        With a pattern, a topic that comes to match it while a route stands is the baseline's: it has no place in that hand-over.
        """
        if self._selection is None or self._base is None:
            super().subscribe(topics, pattern, listener)
            return
        if listener is not None and not isinstance(listener, ConsumerRebalanceListener):
            raise TypeError("listener should be an instance of ConsumerRebalanceListener")
        self._membership.subscribe(topics, pattern, listener)

    def unsubscribe(self) -> None:
        """
        Leave the group. Commit before, if anything is to be committed.
        """
        if self._selection is None:
            super().unsubscribe()
        else:
            self._membership.unsubscribe()

    def subscription(self) -> Any:
        """
        Return the topics that it is subscribed to.
        """
        if self._selection is not None and not self._membership.subscribed and self._membership.wanted is not None:
            return frozenset(self._membership.wanted["topics"] or ())
        return super().subscription()

    def assign(self, partitions: Iterable[Any]) -> None:
        """
        Assign partitions. In a sandbox they begin at its group's commit, or where its key was handed to it, unless you `seek`.
        """
        partitions = list(partitions)
        if self._selection is not None:
            self._membership.forget(self.assignment())
        super().assign(partitions)
        if self._selection is not None:
            self._membership.assigned(partitions)

    def seek(self, partition: Any, offset: int) -> None:
        """
        Go to an offset; what was set aside of the partition is dropped, since it will be read again if it is wanted.
        """
        super().seek(partition, offset)
        self._sought([partition])

    async def seek_to_beginning(self, *partitions: Any) -> bool:
        """
        Go to the first offset of partitions, by default all; see `seek`.
        """
        self._sought(partitions or self.assignment())
        found: bool = await super().seek_to_beginning(*partitions)
        return found

    async def seek_to_end(self, *partitions: Any) -> bool:
        """
        Go to the end of partitions, by default all; see `seek`.
        """
        self._sought(partitions or self.assignment())
        found: bool = await super().seek_to_end(*partitions)
        return found

    async def seek_to_committed(self, *partitions: Any) -> dict[Any, int | None]:
        """
        Go to what the group has committed of partitions, by default of all; see `seek`.
        """
        found: dict[Any, int | None] = await super().seek_to_committed(*partitions)
        for place, offset in found.items():
            if offset:
                self.seek(place, offset)  # again, since somebody may have read on meanwhile
        return found

    def pause(self, *partitions: Any) -> None:
        """
        Pause partitions; what was set aside of them is still handed on.
        """
        super().pause(*partitions)
        if self._selection is not None:
            self._membership.paused_by_user |= set(partitions)
            self._membership.give_back(partitions)

    def paused(self) -> set[Any]:
        """
        Return the partitions that you have paused.
        """
        paused: set[Any] = super().paused()
        return paused if self._selection is None else {place for place in paused if place in self._membership.paused_by_user}

    def resume(self, *partitions: Any) -> None:
        """
        Resume partitions; one of which too much is set aside goes on as soon as that is decided.
        """
        if self._selection is None:
            super().resume(*partitions)
            return
        self._membership.paused_by_user -= set(partitions)
        super().resume(*(place for place in partitions if place not in self._membership.paused))

    def _sought(self, partitions: Iterable[Any]) -> None:
        if self._selection is not None:
            self._membership.sought(partitions)


def _places(config: dict[str, Any], sandbox: str) -> bool:
    """
    Prepare the configuration of a sandbox, and return whether it begins where its key was handed to it.
    """
    reset = config.get("auto_offset_reset")
    if reset == "latest":
        if config.get("group_id") is None:
            return False
        raise ConfigurationError(
            f"auto_offset_reset is 'latest', with which sandbox {sandbox} would lose records: those between where its key was handed to it "
            "and where it joined. Use 'earliest', or leave it out in a sandbox; it begins at the hand-over, not at the beginning of the topic"
        )
    config["auto_offset_reset"] = "earliest"
    return True
