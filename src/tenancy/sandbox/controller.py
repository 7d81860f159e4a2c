"""
The controller: takes the steps in the life of keys, and waits between them until nobody acts on what was before.

It remembers nothing but what is in the route store. Whoever finds a life half-way goes on with it, after a lease of his own.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConflictError, HandoverError, RouteSourceError
from ..key import RoutingKey
from ..routes import Handover, RouteTable, State
from ..routes.lease import now, outwait
from ..routes.lives import abandon, activate, begin_create, begin_delete, claim_gap, drain, finish, replace_reader
from ..routes.stores import Put, RouteStore, put_handover, put_workload, table_of
from .forks import Fork, Progress, checked
from .groups import Groups
from .leftovers import Leftovers
from .own_topics import OwnTopics
from .partitions import Partitions
from .queues import Queues

if TYPE_CHECKING:  # whoever names no Kafka needs no client for it
    from ..messaging.kafka.broker import KafkaBroker
    from ..messaging.kafka.gap import Remaining
    from ..messaging.rabbitmq.broker import RabbitBroker
    from .partitions import Partitioned

__all__ = ["Controller", "Fork", "Progress"]

T = TypeVar("T")

_LOOK_EVERY = 0.2
# For how many leases another gap reader may show nothing of itself.
_PATIENCE = 3


class Controller:
    """
    Creates and deletes sandboxes.

    Args:
        store: The route store.
        kafka: The Kafka cluster; None: no workload reads from one.
        rabbit: The RabbitMQ broker; None: no workload consumes from one.
        data: The databases in which the keys of sandboxes have partitions, each a `tenancy.data.postgresql.PostgresIsolation`, or a provider
            of databases for keys. They are made before a key is active, and dropped when nothing that could still write to them is left.
        progress: Is called whenever something changes.
        sleep: How to wait.
    """

    def __init__(
        self,
        store: RouteStore,
        kafka: KafkaBroker | None = None,
        *,
        rabbit: RabbitBroker | None = None,
        data: Iterable[Partitioned] = (),
        progress: Callable[[Progress], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._progress = progress
        self._sleep = sleep
        #: By what it is known as a gap reader.
        self.name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        # When nobody acts any more on what was before the row that is known here, by the row's version.
        self._settled: dict[tuple[str, RoutingKey], tuple[int, float]] = {}
        self._told: dict[tuple[str, RoutingKey], Progress] = {}
        # Of which rows the queues were closed, by their version.
        self._closed: dict[tuple[str, RoutingKey], int] = {}
        self._groups = Groups(store, kafka)
        self._own = OwnTopics(store, kafka)
        self._queues = Queues(store, rabbit)
        self._leftovers = Leftovers(store, rabbit)
        self._partitions = Partitions(store, data, progress)
        # What passes: a step is taken again until the deadline.
        self._passing: tuple[type[Exception], ...] = (RouteSourceError,)
        if kafka is not None:
            from ..messaging.kafka.broker import BrokerError

            self._passing = (*self._passing, BrokerError)
        if rabbit is not None:
            from ..messaging.rabbitmq.broker import QueueError

            self._passing = (*self._passing, QueueError)

    def create(self, sandbox: str, forks: Iterable[Fork], *, deadline: float = 120.0, late: str = "baseline") -> list[Handover]:
        """
        Hand keys to a sandbox; what is half done is gone on with, and what is done stays.

        Args:
            sandbox: The sandbox's name.
            forks: What it forks.
            deadline: Seconds after which to give up; what is there then stays, visible, and can be resumed or deleted.
            late: What the baseline does with records that come after the sandbox is gone: ``baseline`` handles them, ``drop`` drops them.

        Returns:
            The lives, all of them active.

        Raises:
            HandoverError: If a key is another sandbox's, if a member of a baseline's group does not know of tenancy, if a partition cannot be
                made, or at the deadline.
        """
        sandbox = RoutingKey(sandbox)
        wanted = [checked(fork) for fork in forks]
        if late not in ("baseline", "drop"):
            raise HandoverError(f"late is {late!r}; use 'baseline' or 'drop'")
        end = now() + deadline
        self._until(lambda: self._own.remove(sandbox), "topics of its earlier life to be gone", end)
        self._retried(lambda: self._partitions.make(sandbox, wanted, end), end)
        for fork in wanted:
            self._begin(sandbox, fork, late, end)
        self._until(lambda: self._own.make(sandbox), "topics of its own", end)
        return [self._create(sandbox, fork, end) for fork in wanted]

    def delete(
        self, sandbox: str, *, deadline: float = 120.0, drain: float | None = None, remaining: Remaining = "drop"
    ) -> list[Handover]:
        """
        Take all keys back from a sandbox: it handles what came before, the baseline what comes after.

        Args:
            sandbox: The sandbox's name.
            deadline: Seconds after which to give up; what is there then stays, visible, and can be resumed.
            drain: Seconds that the sandbox has to handle what is its own, of these; default half of them.
            remaining: What becomes of what it does not handle in time: nobody does (``drop``), or a function gets each message.

        Returns:
            The lives, all of them ended.

        Raises:
            HandoverError: At the deadline, if the sandbox's group has members that do not leave it, or if a partition cannot be dropped.
        """
        end = now() + deadline
        drained_by = end - deadline + (deadline / 2 if drain is None else drain)
        rows = self._retried(lambda: self.status(sandbox), end)
        for row in rows:
            if row.state not in (State.NONE, State.CREATING):
                self._groups.check(row.workload, row.groups)
                self._queues.check(row.workload, row.queues)
        for row in rows:  # all at once, so that they wait together
            if row.state is State.ACTIVE:
                self._write(begin_delete(row))
        ended = [self._delete(row, end, drained_by, remaining) for row in rows]
        self._until(lambda: self._own.remove(RoutingKey(sandbox)), "topics of its own to be gone", end)
        self._until(lambda: self._leftovers.remove(sandbox), "queues that a create has left to be gone", end)
        for before, row in zip(rows, ended, strict=True):
            if before.state is not State.NONE:  # where two of a key ended at once, each was not the last
                self._retried(lambda row=row: self._partitions.drop(row, end), end)  # type: ignore[misc]
        return ended

    def status(self, sandbox: str | None = None) -> list[Handover]:
        """
        Return the lives of all keys of a sandbox, or of all sandboxes.
        """
        return [row for row in self._table().handovers() if sandbox is None or row.sandbox == sandbox]

    def remade(self, row: Handover) -> list[str]:
        """
        Return the topics that were deleted and made again since a key was handed over: where their cuts lie means nothing any more.
        """
        return self._groups.remade(row)

    # The steps

    def _begin(self, sandbox: str, fork: Fork, late: str, end: float) -> None:
        def step() -> bool:
            table = self._table()
            row = table.handover(fork.workload, RoutingKey(fork.key))
            if row is not None and row.sandbox == sandbox and row.state in (State.CREATING, State.ACTIVE):
                self._own.check(table, sandbox, fork.workload, fork.own_topics)
                return True
            groups, queues = self._read_by(fork)
            named = {group: self._own.replaced(sandbox, fork.own_topics, topics) for group, topics in groups.items()}
            self._groups.check(fork.workload, named)
            self._queues.check(fork.workload, queues)
            rows = table.handovers(fork.workload)
            new = begin_create(rows, fork.workload, RoutingKey(fork.key), sandbox, named, late=late, queues=queues)
            self._queues.make(new)  # before anybody forwards to them
            own = self._own.claims(table, sandbox, fork.own_topics)
            return self._write(new, own, workload=fork.workload not in table.workloads)

        while not self._retried(step, end):
            pass

    def _create(self, sandbox: str, fork: Fork, end: float) -> Handover:
        def step() -> Handover | None:
            row = self._row(fork.workload, RoutingKey(fork.key))
            if row.sandbox != sandbox or row.state not in (State.CREATING, State.ACTIVE):
                raise HandoverError(
                    f"{row.key} on {row.workload} is {row.state.value} for sandbox {row.sandbox or 'nobody'}: somebody else has gone on "
                    "with it"
                )
            self._tell(row)
            if row.state is State.ACTIVE:
                return row
            self._groups.check(row.workload, row.groups)
            self._queues.check(row.workload, row.queues)
            self._wait_settled(row, end)
            self._wait_members(row, end)
            self._partitions.make(sandbox, [fork], end, again=True)
            ends, ids = self._groups.beginnings(row)
            self._write(activate(row, self._own.beginnings(sandbox, ends), ids))
            return None

        while (done := self._retried(step, end)) is None:
            pass
        return done

    def _delete(self, first: Handover, end: float, drained_by: float, remaining: Remaining) -> Handover:
        def step() -> Handover | None:
            row = self._row(first.workload, first.key)
            self._tell(row)
            if row.state is State.NONE or row.epoch != first.epoch:
                self._queues.leave(first)
                ended = first._replace(state=State.NONE, version=row.version)
                if ended.groups:
                    # Whoever was put out of its group just now would begin anew where its commits are gone.
                    self._wait_settled(ended, end)
                    self._delete_groups(ended, end)
                return row if row.epoch == first.epoch else ended
            if row.state is State.CREATING:
                if (abandoned := abandon(row)).state is State.NONE:
                    self._partitions.drop(row, end)
                self._write(abandoned)
                return None
            self._groups.check(row.workload, row.groups)
            self._queues.check(row.workload, row.queues)
            if row.state is State.ACTIVE:
                self._write(begin_delete(row))
            elif row.state is State.DELETING:
                self._close_in(row)
                self._wait_settled(row, end)
                self._groups.tell_remade(row)
                self._write(drain(row, self._groups.ends(row)))
            elif row.state is State.DRAINING:
                waiting = self._queues.drain(row)
                if not self._groups.is_drained(row):
                    waiting = waiting or f"sandbox {row.sandbox} to handle what came before the end"
                if not waiting:
                    self._partitions.drop(row, end)
                    self._write(finish(row))
                elif now() >= drained_by:
                    self._write(replace_reader(row, self.name))
                else:
                    self._pause(row, waiting, end)
            else:
                self._reclaim(row, end, remaining)
            return None

        while (done := self._retried(step, end)) is None:
            pass
        return done

    def _retried(self, step: Callable[[], T], end: float) -> T:
        """
        Take a step, again and again while the store or the broker cannot be had: each begins with what is in the store.
        """
        while True:
            try:
                return step()
            except self._passing as error:
                if now() >= end:
                    raise
                for told in tuple(self._told.values()):
                    if told.state not in (State.ACTIVE, State.NONE):
                        self._tell(told, f"an answer: {error}")
                self._sleep(_LOOK_EVERY)

    def _reclaim(self, row: Handover, end: float, remaining: Remaining) -> None:
        if row.claimant != self.name:
            self._queues.leave(row)
            # Of somebody who may still be at work, and then is left in peace: two would take it from one another for ever.
            patience = now() + _PATIENCE * outwait(self._store.head().lease)
            while now() < patience:
                self._pause(row, f"{row.claimant}, which handles what is left, or stands still", end)
                if self._row(row.workload, row.key).version != row.version:
                    return
            self._write(claim_gap(row, self.name))
            return
        self._wait_settled(row, end)
        for group in self._groups.of_sandbox(row):
            while members := self._groups.members(group):
                named = ", ".join(map(str, members))
                self._pause(row, f"the members of {group} to leave it, since they might still handle something: {named}", end)
        reader = self._groups.reader(row, self.name, remaining, tell=lambda text: self._tell(row, text), sleep=self._sleep)
        if reader is not None and not reader.run(end):
            return
        while waiting := self._queues.drain(row):
            self._pause(row, waiting, end)
        found = self._row(row.workload, row.key)
        if found.epoch == row.epoch and found.claimant == self.name:  # else somebody has ended this life, and it may be a later one
            self._partitions.drop(found, end)
            self._write(finish(found))

    def _close_in(self, row: Handover) -> None:
        """
        Let nothing more into the queues of a life, and count the lease from there on.
        """
        at = (row.workload, row.key)
        if row.queues and self._closed.get(at) != row.version:
            self._queues.close_in(row)
            self._closed[at] = row.version
            self._settled[at] = (row.version, now())

    def _delete_groups(self, row: Handover, end: float) -> None:
        for group in self._groups.spent(row):
            while self._groups.members(group):
                self._pause(row, f"the members of {group} to leave it", end)
            self._groups.delete(group)

    # Waiting

    def _until(self, step: Callable[[], bool], what: str, end: float) -> None:
        """
        Take a step of what concerns a whole sandbox until it is done.
        """
        while not self._retried(step, end):
            if now() >= end:
                raise HandoverError(
                    f"the deadline passed, waiting for {what}; nothing is lost, and whoever runs this again goes on from here"
                )
            self._sleep(_LOOK_EVERY)

    def _wait_settled(self, row: Handover, end: float) -> None:
        """
        Wait until nobody acts on what was before a row any more.
        """
        lease = self._store.head().lease
        version, since = self._settled.get((row.workload, row.key), (-1, 0.0))
        if version != row.version:
            # Somebody else wrote it; it is as old as our looking at it.
            since = now()
            self._settled[row.workload, row.key] = (row.version, since)
        until = since + outwait(lease)
        while (left := until - now()) > 0:
            self._pause(row, f"{left:.0f} s, until nobody acts on what was before", end, at_most=left)

    def _wait_members(self, row: Handover, end: float) -> None:
        """
        Wait until every member of the baseline's groups is one that knows of tenancy.
        """
        for group in row.groups:
            while strangers := self._groups.strangers(row, group):
                named = ", ".join(map(str, strangers))
                self._pause(
                    row,
                    f"members of {group} that are not registered by this library, and would take {row.key}'s records as well: {named}",
                    end,
                )
        while unknown := self._queues.strangers(row):
            named = ", ".join(map(str, unknown))
            self._pause(
                row, f"consumers that are not registered by this library, and would take {row.key}'s messages as well: {named}", end
            )

    def _pause(self, row: Handover, what: str, end: float, *, at_most: float = _LOOK_EVERY) -> None:
        self._tell(row, what)
        if now() >= end:
            raise HandoverError(
                f"{row.key} on {row.workload} is still {row.state.value} for sandbox {row.sandbox} at the deadline, waiting for {what}; "
                "nothing is lost, and whoever runs this again goes on from here"
            )
        self._sleep(min(_LOOK_EVERY, at_most))

    # What others know

    def _table(self) -> RouteTable:
        return table_of(self._store.snapshot(), origin=self._store.name)

    def _row(self, workload: str, key: RoutingKey) -> Handover:
        return self._table().handover(workload, key) or Handover(workload, key)

    def _write(self, row: Handover, more: Sequence[Put] = (), *, workload: bool = False) -> bool:
        """
        Write a row, and what goes with it, and return whether that was possible; if not, somebody else was faster.
        """
        puts = [put_handover(row), *more, *([put_workload(row.workload)] if workload else [])]
        try:
            version = self._store.write(puts)
        except ConflictError:
            return False
        self._settled[row.workload, row.key] = (version, now())
        self._tell(row)
        return True

    def _read_by(self, fork: Fork) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
        """
        Return the groups with their topics, and the queues, of a fork's baseline: as given, or as its running instances have registered them.
        """
        workload = fork.workload
        groups = self._groups.registered(workload) if fork.groups is None else dict(fork.groups)
        queues = self._queues.registered(workload) if fork.queues is None else dict(fork.queues)
        if fork.groups is None and not groups and self._groups.known and not self._queues.registered(workload):
            raise HandoverError(
                f"no running instance of {workload} has registered what it reads from Kafka; start the baseline first, or name its groups "
                "and topics: --reads GROUP=TOPIC,TOPIC; or, where it reads none, --reads none"
            )
        if fork.queues is None and not queues and self._queues.known and not self._groups.registered(workload):
            raise HandoverError(
                f"no running instance of {workload} has registered what it consumes on RabbitMQ; start the baseline first, or name its "
                "queues: --queue NAME; or, where it consumes none, --queue none"
            )
        return groups, queues

    def _tell(self, row: Handover | Progress, waiting: str = "") -> None:
        told = Progress(row.workload, row.key, row.state, waiting)
        before = self._told.get((row.workload, row.key))
        if told != before and (waiting or before is None or before.state is not told.state):
            self._told[row.workload, row.key] = told
            self._progress(told)
