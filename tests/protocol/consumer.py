"""
A consumer in the world of the model: what an adapter does with `Selection` and its ledgers, one small step at a time.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tenancy.errors import IdentityError, RouteSourceError
from tenancy.messaging.kafka.selection import HoldLimit, Selection
from tenancy.routes.identity import Identity
from tenancy.routes.live import LiveRoutes
from tenancy.routes.stores import Member
from tenancy.routes.table import RouteTable
from tests.protocol.checker import Handling, Record
from tests.protocol.cluster import BASE, TOPIC, WORKLOAD, Group, Process, stage

__all__ = ["Consumer", "Routes"]

_LIMIT = HoldLimit(records=4)


class Answer:
    """
    A route source that gives the answer to the one read that is under way.
    """

    name = "the route store"

    def __init__(self) -> None:
        self.table: RouteTable | None = None

    def read(self) -> RouteTable:
        """
        Return the table that was read.
        """
        if self.table is None:
            raise RouteSourceError(f"{self.name} does not answer")
        return self.table

    def mark(self) -> object:
        """
        Return what tells the table from an earlier one.
        """
        table = self.read()
        return table.id, table.version


class Routes(LiveRoutes):
    """
    A live route table without its thread: the world says when it looks.
    """

    def __init__(self) -> None:
        self.answer = Answer()
        super().__init__(self.answer)

    def view(self) -> Any:
        """
        Return the table as it was last read.
        """
        return self._view


class Consumer(Process):
    """
    An instance of the baseline, or of a sandbox.

    Args:
        world: Where.
        name: What it is called.
        rate: How fast its clock is.
        baseline: Whether it is one of the baseline; else it is of whatever sandbox is there when it starts.
        library: Whether it knows of tenancy at all.
    """

    def __init__(self, world: Any, name: str, rate: float, *, baseline: bool, library: bool = True) -> None:
        super().__init__(world, name, rate)
        self.baseline = baseline
        self.library = library
        self.sandbox: str | None = None
        self.starts = 0
        self.boot()

    def boot(self) -> None:
        """
        Start anew, knowing nothing.
        """
        self.up, self.stopped = True, False
        self.starts += 1
        if not self.baseline:
            self.sandbox = self.world.sandbox_now()
        self.identity = Identity(WORKLOAD, self.sandbox)
        self.routes = Routes()
        self.selection = self._enter(lambda: Selection("model", workload=WORKLOAD, accept="all", routes=self.routes, hold=_LIMIT))
        self.group = BASE if self.baseline else ""
        self.member: str | None = None
        self.retired = False
        #: When the read that is under way was begun, and what the store answered; None: it has not answered yet, or cannot.
        self._read: float | None = None
        self._answer: tuple[RouteTable | None] | None = None
        self.queues: dict[int, deque[Record]] = {}
        #: Records that are its own, and not handed on yet.
        self.ahead: deque[Record] = deque()
        self.fetched: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        self.floors: dict[int, int] = {}
        self.running: list[tuple[Record, Handling]] = []
        self.registered = False
        # M7: whether the table was fresh when the last poll ended.
        self.fresh_at_poll = False

    def _enter(self, do: Any) -> Any:
        stage.process = self
        return do()

    @property
    def able(self) -> bool:
        """
        Whether it runs.
        """
        return self.up and not self.stopped

    @property
    def evicted(self) -> bool:
        """
        Whether its group goes on without it, which it does not know.
        """
        return self.member is not None and self.member not in self.world.kafka.group(self.group).members

    @property
    def checked_group(self) -> tuple[str, int] | None:
        """
        By what the checker knows the group.
        """
        return None if self.baseline else (str(self.sandbox), self.selection.reader.generation)

    # The table

    def read(self) -> bool:
        """
        Go one step on with a read of the table: begin, have it answered, take the answer.
        """
        if not (self.able and self.library):
            return False
        if self._read is None:
            self._read, self._answer = self.now(), None
        elif self._answer is None:
            self._answer = (None if self.world.store.out else self.world.store.table(),)
        else:
            self.routes.answer.table = self._answer[0]
            if self.world.switches.lease_from == "start":
                self.taken = self._read
            try:
                self._enter(self.routes.refresh)
            finally:
                self.taken = None
            self._read = self._answer = None
        return True

    # The group

    def follow(self) -> bool:
        """
        Join the group, learn that it was evicted, or leave, as the state of things asks for.
        """
        if not self.able or (not self.library and self.world.is_late_for(self)):
            return False
        if self.evicted:
            self._forget(list(self.positions))
            self.member = None
            return True
        if self.member is None:
            return self._join()
        if self.baseline:
            return self._register()
        reading = self._enter(self.selection.reading)
        if not reading and not self.running:
            self.leave()
            self.retired = self._enter(self.selection.retired)
            return True
        return False

    def _join(self) -> bool:
        if not self.baseline:
            view = self.routes.view()
            if view is None or self.retired:
                return False
            if not self.group:
                if all(row.sandbox != self.sandbox or row.state.value == "none" for row in view.table.handovers(WORKLOAD)):
                    return False
                try:
                    self.group = self._enter(lambda: self.selection.join(BASE))
                except IdentityError:
                    return False
            if not self._enter(self.selection.reading):
                self.retired = self._enter(self.selection.retired)
                return False
        self.member = f"{self.name}.{self.starts}.{self.world.counted()}"
        self.world.kafka.group(self.group).members[self.member] = self
        self.registered = False
        return True

    def _register(self) -> bool:
        if self.registered or not self.library or self.world.store.out:
            return False
        self.registered = True
        assert self.member is not None
        self.world.store.registered[self.name] = Member(WORKLOAD, self.member, BASE, (TOPIC,))
        return True

    def leave(self) -> None:
        """
        Commit what is done, and leave the group.
        """
        if self.world.switches.commits_before_leaving:
            self.commit()
        if self.world.config.keys > 1:
            # What is held of one key stands before what is done of another in the commits of their group.
            self.world.kafka.disturb(self.group, self.positions)
        self._group().drop(str(self.member))
        self._forget(list(self.positions))
        self.member = None

    def assigned(self, partition: int) -> None:
        """
        Begin to read a partition.
        """
        position = self._group().committed.get(partition)
        self.floors[partition] = 0 if self.baseline else self.world.checker.committed.get((self.checked_group, partition), 0)
        if self.baseline:
            self.floors[partition] = self.world.checker.committed.get((None, partition), 0)
        if position is None and not self.baseline:
            position = self._enter(lambda: self.selection.start(TOPIC, partition))
        self.fetched[partition] = self.world.kafka.starts[partition] if position is None else position
        self.positions[partition] = -1
        self.queues[partition] = deque()

    def revoked(self, partition: int) -> None:
        """
        Give up a partition, having committed what is done.
        """
        self._commit(partition)
        self._forget([partition])

    def _forget(self, partitions: list[int]) -> None:
        for partition in partitions:
            for kept in (self.queues, self.fetched, self.positions, self.floors):
                kept.pop(partition, None)  # type: ignore[attr-defined]
        self.ahead = deque(record for record in self.ahead if record.partition not in partitions)
        self._enter(lambda: self.selection.forget([(TOPIC, partition) for partition in partitions]))

    def _group(self) -> Group:
        return self.world.kafka.group(self.group)

    # Records

    def fetch(self, at: int, most: int) -> bool:
        """
        Fetch records of one of its partitions.
        """
        if not self.able or not self.fetched:
            return False
        partition = sorted(self.fetched)[at % len(self.fetched)]
        log, begin = self.world.kafka.logs[partition], self.fetched[partition]
        first = self.world.kafka.starts[partition]
        if begin < first or begin > len(log):  # out of range, so the client starts anew
            begin = first if self.baseline or self.world.switches.reset == "earliest" else len(log)
        found = log[begin : begin + most]
        self.queues[partition].extend(found)
        self.fetched[partition] = begin + len(found)
        return bool(found)

    def poll(self, at: int) -> bool:
        """
        Take the next record that is its own; several are decided on at once, and those that are not handed on yet are looked at again.
        """
        if not self.able:
            return False
        if not self.library:
            return self._poll_blindly(at)
        fresh, self.fresh_at_poll = self.fresh_at_poll, self.is_fresh()
        if self.world.switches.asks == "before":
            self.world.asked = fresh
        try:
            self._enter(self._attend)
            found = bool(self.ahead)
            if at % 5 == 0 or not self.ahead:
                found = self._enter(lambda: self._decide(at, 1 + at % 3))
        finally:
            self.world.asked = None
        if self.ahead:
            record = self.ahead.popleft()
            self.selection.ledger(TOPIC, record.partition).hand(record.offset)
            self._handle(record)
        return found

    def _attend(self) -> None:
        selection = self.selection
        if not self.baseline and self.ahead and not selection.unchanged():
            taken = list(self.ahead)
            self.ahead.clear()
            self.ahead.extend(record for record in taken if self._owns(record))
        if selection.holding:
            selection.review()
            while selection.ready:
                (_, partition), offset, record = selection.ready.popleft()
                selection.ledger(TOPIC, partition).settle(offset)
                self.ahead.append(record)

    def _decide(self, at: int, most: int) -> bool:
        full = self.selection.full()
        partitions = [p for p, queue in sorted(self.queues.items()) if queue and (TOPIC, p) not in full]
        if not partitions:
            return False
        partition = partitions[at % len(partitions)]
        queue = self.queues[partition]
        for _ in range(min(most, len(queue))):
            record = queue.popleft()
            self.positions[partition] = record.offset + 1
            if self._owns(record):
                self.ahead.append(record)
        return True

    def is_fresh(self) -> bool:
        """
        Return whether what it has read of the table may be acted on.
        """
        view = self.routes.view()
        return view is not None and bool(self._enter(view.fresh))

    def _owns(self, record: Record) -> bool:
        if record.key is None:
            return self.selection.baseline
        shortcuts = self.selection.shortcuts()
        known = None if self.selection.holding else shortcuts.get((record.key.encode(), TOPIC, record.partition))
        if known is not None and record.offset >= known.first:
            return known.owned
        headers = [("baggage", b"sd-routing-key=" + record.key.encode())]
        return self.selection.take(headers, TOPIC, record.partition, record.offset, record)

    def _poll_blindly(self, at: int) -> bool:
        partitions = [p for p, queue in sorted(self.queues.items()) if queue]
        if not partitions:
            return False
        partition = partitions[at % len(partitions)]
        record = self.queues[partition].popleft()
        self.positions[partition] = record.offset + 1
        self.selection.ledger(TOPIC, partition).hand(record.offset)
        self._handle(record)
        return True

    def _handle(self, record: Record) -> None:
        world = self.world
        floor = self.floors.get(record.partition, 0)
        disturbed = world.kafka.disturbed.get((self.group, record.partition), 0)
        handling = world.checker.begins(record, self.checked_group, self.name, disturbed, floor=floor, lapsed=self.evicted)
        self.running.append((record, handling))

    def end(self, at: int) -> bool:
        """
        A handler ends, whichever.
        """
        if not self.able or not self.running:
            return False
        record, handling = self.running.pop(at % len(self.running))
        self.world.checker.ends(record, handling)
        self.selection.ledger(TOPIC, record.partition).settle(record.offset)
        return True

    def commit(self) -> bool:
        """
        Commit what is done of all partitions.
        """
        done = [self._commit(partition) for partition in list(self.positions) if self.able]
        return any(done)

    def _commit(self, partition: int) -> bool:
        position = min(
            [self.positions.get(partition, -1), *(record.offset for record in self.ahead if record.partition == partition)]
        )
        ledger = self.selection.ledger(TOPIC, partition)
        offset = ledger.committable(position)
        if offset <= ledger.committed or offset < 0 or self.evicted or self.member is None:
            return False
        ledger.committed = offset
        self._group().committed[partition] = offset
        self.world.checker.commits(self.checked_group, partition, offset)
        return True

    # Faults

    def crash(self) -> None:
        """
        Die; the group does not know yet.
        """
        self.up = False
        self.world.kafka.disturb(self.group, self.positions)
        self.running = []
