"""
Which records are this consumer's: decides, sets aside what cannot be decided yet, and says how far may be committed.

It knows no client library and does no I/O; `tenancy.messaging.confluent_kafka` and `tenancy.messaging.aiokafka` feed it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ...config import Accept, settings
from ...errors import IdentityError
from ...key import RoutingKey
from ...observe import count, key_label, report_malformed, warn_once, watch_held
from ...propagator import read
from ...routes import Handover, LiveRoutes, Position, Reader, RouteSource, RouteTable, State, Verdict, View, decide_record
from ...routes.admission import Admission
from ...routes.judge import Judge
from ...routes.record import is_reading
from .groups import group_name
from .ledger import Held, PartitionLedger
from .memory import Known, Memory, What

__all__ = ["HoldLimit", "Partition", "Selection"]

#: A topic, and the number of one of its partitions.
Partition = tuple[str, int]

_NOTHING: Mapping[tuple[bytes, str, int], Any] = MappingProxyType({})


class HoldLimit(NamedTuple):
    """
    How much of a partition may be set aside before it is paused.

    Args:
        records: How many records.
        size: How many bytes.
    """

    records: int = 1000
    size: int = 16 * 1024 * 1024


class Selection:
    """
    The records of one consumer.

    Args:
        adapter: Who asks, for counters and logs, such as ``confluent_kafka``.
        workload: This process's workload; default the setting.
        accept: Which keys are accepted; default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        hold: How much may be set aside.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source.
    """

    def __init__(
        self,
        adapter: str,
        *,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        hold: HoldLimit | None = None,
    ) -> None:
        self.adapter = adapter
        self._judge = Judge(adapter, workload=workload, routes=routes)
        self._routes = self._judge.routes
        self._accept = Admission(adapter, accept=accept, routes=self._routes).accept
        self.reader = Reader(self._judge.identity)
        self.baseline = self._judge.identity.sandbox is None
        self._limit = HoldLimit() if hold is None else hold
        self.ledgers: dict[Partition, PartitionLedger] = {}
        #: Records that were set aside and turned out to be this consumer's: where, at which offset, and the record.
        self.ready: deque[tuple[Partition, int, Any]] = deque()
        #: Whether any record is set aside.
        self.holding = False
        #: How many records had no key, and are not counted yet.
        self.unkeyed = 0
        self._full: set[Partition] = set()
        self._reviewed: View | None = None
        self._reading = False
        self._checked: RouteTable | None = None
        self._memory = Memory()
        self._own: Collection[str] = ()
        self._own_of: RouteTable | None = None
        watch_held(self)

    # Who reads

    def join(self, base: str) -> str:
        """
        Return the consumer group of this process. A sandbox waits for its routes, which say which of its lives this is.

        Args:
            base: The baseline's group.

        Raises:
            IdentityError: If the table has no route of this sandbox for this workload.
            RoutesNotSyncedError: If the table could not be read before the deadline of the settings.
        """
        sandbox = self._judge.identity.sandbox
        if sandbox is None:
            return base
        end = time.monotonic() + settings().routes_deadline
        table = self._routes.wait_synced(settings().routes_deadline)
        if table.lease is None:
            self._judge.wait_synced()
            return group_name(base, sandbox)
        while True:
            rows = [row for row in table.handovers(self._judge.identity.workload) if row.sandbox == sandbox]
            generations = [row.generation for row in rows if row.state is not State.NONE]
            if generations:
                self.reader = Reader(self._judge.identity, generations[0])
                return group_name(base, sandbox, generations[0])
            if time.monotonic() >= end:
                raise IdentityError(
                    f"{self._routes.source.name} hands no key to {self._judge.identity}, so it has nothing to read; run `tenancy sandbox "
                    f"create {sandbox} --fork {self._judge.identity.workload}`, or set TENANCY_ROUTES_DEADLINE to wait longer"
                )
            time.sleep(0.05)
            self._routes.hurry()
            table = self._routes.table

    @property
    def exact(self) -> bool:
        """
        Whether the route table says from which record on a route holds, so that hand-over is exact.
        """
        view = self._routes.view()
        return view is not None and view.table.lease is not None

    @property
    def source(self) -> RouteSource:
        """
        Where the route table comes from.
        """
        return self._routes.source

    def view(self) -> View | None:
        """
        Return the route table as it was last read.
        """
        return self._routes.view()

    def retired(self) -> bool:
        """
        Return whether this is a sandbox's consumer whose routes are gone.
        """
        view = self._routes.view()
        if self.baseline or view is None or view.table.lease is None or not view.fresh():
            return False
        return all(row.state is State.NONE for row in self._mine(view.table))

    def draining(self) -> bool:
        """
        Return whether somebody waits for a sandbox's consumer to commit the last of what is its own.
        """
        table = None if self.baseline else self._routes.peek()
        return table is not None and any(row.state is State.DRAINING for row in self._mine(table))

    def _mine(self, table: RouteTable) -> list[Handover]:
        rows = table.handovers(self._judge.identity.workload)
        sandbox = self._judge.identity.sandbox
        return [row for row in rows if row.sandbox == sandbox and row.generation == self.reader.generation]

    def reading(self) -> bool:
        """
        Return whether this consumer may be a member of its group. A sandbox is not while a gap reader reads in its place, or once it is gone;
        while the route table cannot be had it stays what it was.
        """
        view = self._routes.view()
        if self.baseline or view is None or view.table.lease is None:
            return True
        if view.fresh():
            self._reading = is_reading(self.reader, view.table)
        return self._reading

    def start(self, topic: str, partition: int) -> int | None:
        """
        Return where a sandbox begins on a partition of which its group has committed nothing, or None where that is not said.
        """
        view = self._routes.view()
        if self.baseline or view is None or view.table.lease is None:
            return None
        starts = []
        for row in self._mine(view.table):
            current = row.current
            if current is not None and topic in current.start:
                offsets = current.start[topic]
                starts.append(offsets[partition] if partition < len(offsets) else 0)
        return min(starts, default=None)

    # What becomes of a record

    def own_topics(self) -> Collection[str]:
        """
        Return the topics of this sandbox's own, in which also what has no key is to be decided on; for the baseline there are none.
        """
        view = None if self.baseline else self._routes.view()
        if view is not None and view.table is not self._own_of:
            self._own = {topic.name for topic in view.table.own_topics(self._judge.identity.sandbox)}
            self._own_of = view.table
        return self._own

    def key(self, headers: Any) -> RoutingKey | None:
        """
        Return the routing key that decides about a record. A malformed one counts as none.
        """
        reading = read(headers, adapter=self.adapter)
        if reading.malformed is not None:
            report_malformed(self.adapter, reading.malformed, "the record counts as one without a routing key")
            return None
        key = reading.key
        accept = self._accept
        if key is None or accept in ("all", "known"):
            return key
        if accept == "none" or not accept(key):  # type: ignore[operator]
            count("tenancy.keys.refused", {"adapter": self.adapter})
            return None
        return key

    def shortcuts(self) -> Mapping[tuple[bytes, str, int], Known]:
        """
        Return what is known about keys, by their bytes, topic and partition, for records that were fetched before this is called.

        It holds for what is at hand, and is empty where the table is not fresh or something is set aside.
        """
        view = self._routes.view()
        if view is None or self.holding or not view.fresh():
            return _NOTHING
        return self._memory.known(view.table)

    def unchanged(self) -> bool:
        """
        Return whether what was decided last still holds: the table is the same, and fresh.
        """
        view = self._routes.view()
        return view is not None and view.table is self._memory.table and view.fresh()

    def take(self, headers: Any, topic: str, partition: int, offset: int, record: Any, size: int = 0) -> bool:
        """
        Decide on a record that was just fetched, and return whether it is handed on; if not, it is skipped or set aside.

        Args:
            headers: Its headers.
            topic: Its topic.
            partition: Its partition.
            offset: Its offset.
            record: The record, as the client has it.
            size: About how many bytes it takes.
        """
        key = self.key(headers)
        if key is None and topic not in self.own_topics():
            return self.baseline
        place = (topic, partition)
        ledger = self.ledgers.get(place)
        if ledger is None:
            ledger = self.ledgers[place] = PartitionLedger()
        elif ledger.held and any(held.key == key for held in ledger.held):
            # Behind another one with this key, whose turn comes first.
            self._hold(ledger, place, Held(offset, record, key, size, time.monotonic()))
            return False
        verdict = self.decide(key, Position(topic, partition, offset))
        if verdict.held:
            self._hold(ledger, place, Held(offset, record, key, size, time.monotonic()))
            return False
        what = self._count(verdict)
        if key is not None and not self.holding:
            self._remember(key, place, offset, verdict, what)
        return verdict.owned

    def _remember(self, key: RoutingKey, place: Partition, offset: int, verdict: Verdict, what: What) -> None:
        view = self._routes.view()
        if view is None or view.table is not self._memory.table or callable(self._accept):
            return  # a function for accept is asked about every record
        row = view.table.handover(self._judge.identity.workload, key)
        first = 0 if row is None else row.last_cut(*place)
        if offset >= first:
            self._memory.remember(key, *place, Known(first, verdict.owned, what))

    def decide(self, key: RoutingKey | None, position: Position) -> Verdict:
        """
        Decide on a record with a key, or in a topic of this sandbox's own, by the table as it is known now.
        """
        view = self._routes.view()
        if view is None:
            return decide_record(key, position, self.reader, None, fresh=False)
        table = view.table
        if table is not self._checked:
            self._judge.wait_synced()
            self._checked = table
        if key is not None and table.lease is None and self._accept == "known" and not table.knows(key):
            # Without hand-over a key that is not known is none.
            return decide_record(None, position, self.reader, table, fresh=True)
        return decide_record(key, position, self.reader, table, fresh=view.fresh())

    def context_key(self, key: RoutingKey | None) -> RoutingKey | None:
        """
        Return the key under which an owned record is handled: its own, if it is accepted.
        """
        if key is None or self._accept != "known":
            return key
        table = self._routes.peek()
        return key if table is not None and table.knows(key) else None

    # What was set aside

    def review(self) -> None:
        """
        Decide anew on what was set aside, where more is known than before: what is this consumer's becomes `ready`.
        """
        view = self._routes.view()
        if view is None or not view.fresh():
            self._routes.hurry()
            return
        if view is self._reviewed:
            return
        self._reviewed = view
        for place, ledger in self.ledgers.items():
            waiting: set[RoutingKey | None] = set()
            for held in tuple(ledger.held):
                if held.key in waiting:
                    continue
                verdict = self.decide(held.key, Position(*place, held.offset))
                if verdict.held:
                    waiting.add(held.key)
                    continue
                ledger.release(held)
                self._count(verdict)
                if verdict.owned:
                    # From here on it stands in the way of a commit until it is settled, whoever tracks the others.
                    ledger.hand(held.offset)
                    self.ready.append((place, held.offset, held.record))
        self.holding = any(ledger.held for ledger in self.ledgers.values())

    def unhold(self, place: Partition, first: int) -> None:
        """
        Drop what is set aside of a partition from an offset on, since it will come again.
        """
        ledger = self.ledger(*place)
        for held in tuple(ledger.held):
            if held.offset >= first:
                ledger.release(held)
        self.holding = any(ledger.held for ledger in self.ledgers.values())

    def full(self) -> set[Partition]:
        """
        Return the partitions of which no more may be set aside, so that they are to be paused.
        """
        if self._full:
            self._full = {place for place in self._full if place in self.ledgers and self._is_full(self.ledgers[place])}
        return self._full

    def held(self) -> tuple[int, float]:
        """
        Return how many records are set aside, and for how many seconds the first of them.
        """
        ledgers = [ledger for ledger in list(self.ledgers.values()) if ledger.held]
        since = min((ledger.held[0].since for ledger in ledgers), default=0.0)
        return sum(len(ledger.held) for ledger in ledgers), time.monotonic() - since if since else 0.0

    def labels(self) -> dict[str, str]:
        """
        Return by what its metrics are told apart.
        """
        return {"adapter": self.adapter, "workload": self._judge.identity.workload}

    # How far may be committed

    def ledger(self, topic: str, partition: int) -> PartitionLedger:
        """
        Return the ledger of a partition.
        """
        place = (topic, partition)
        found = self.ledgers.get(place)
        if found is None:
            found = self.ledgers[place] = PartitionLedger()
        return found

    def forget(self, partitions: Iterable[Partition]) -> None:
        """
        Drop everything about partitions that are somebody else's from now on: who gets them reads them again.
        """
        gone = set(partitions)
        for place in gone:
            self.ledgers.pop(place, None)
        self._full -= gone
        self.ready = deque(entry for entry in self.ready if entry[0] not in gone)
        self.holding = any(ledger.held for ledger in self.ledgers.values())

    def report(self, unkeyed: int = 0) -> None:
        """
        Add what was decided since the last time to the counters.

        Args:
            unkeyed: How many records had no key, beside those in `unkeyed`.
        """
        self._memory.count(("own" if self.baseline else "skip", "unkeyed", "_none"), self.unkeyed + unkeyed)
        self.unkeyed = 0
        for (verdict, code, label), amount in self._memory.counted().items():
            if not amount:
                continue
            count(
                "tenancy.verdicts",
                {
                    "adapter": self.adapter,
                    "verdict": verdict,
                    "reason": code,
                    "routing_key": label,
                    "workload": self._judge.identity.workload,
                },
                amount,
            )

    def _hold(self, ledger: PartitionLedger, place: Partition, held: Held) -> None:
        ledger.hold(held)
        self.holding = True
        self._reviewed = None
        if self._is_full(ledger):
            self._full.add(place)
            warn_once(
                f"hold:{self.adapter}:{place}",
                "%s: %d records of %s [%d] wait because it cannot be said whose they are, so the partition is paused. %s",
                self.adapter,
                len(ledger.held),
                *place,
                self._why(),
            )

    def _why(self) -> str:
        view = self._routes.view()
        if view is None or not view.fresh():
            return f"{self._routes.source.name} was not read within its lease: see that it can be reached."
        return "A sandbox is being created or deleted: see `tenancy sandbox status`."

    def _is_full(self, ledger: PartitionLedger) -> bool:
        return len(ledger.held) >= self._limit.records or ledger.held_bytes >= self._limit.size

    def _count(self, verdict: Verdict) -> What:
        table = self._routes.peek()
        known = verdict.key is not None and table is not None and table.knows(verdict.key)
        what = (verdict.action.value, verdict.code, key_label(verdict.key, known=known))
        self._memory.count(what)
        return what
