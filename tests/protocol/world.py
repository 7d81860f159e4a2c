"""
The world of the hand-over: every process of it can be moved one small step, in any order, and everything can go wrong.

What is under test is real: `decide_record`, `Handover.claim`, the steps of `tenancy.routes.lives`, the lease, `LiveRoutes`, `Selection`,
`PartitionLedger`, `Controller` and `GapReader`. Brokers, clients, the store and clocks are models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from tenancy.messaging.kafka import gap as gap_module
from tenancy.routes import judge as judge_module
from tenancy.routes import lease as lease_module
from tenancy.routes import live as live_module
from tenancy.routes.handover import State
from tenancy.sandbox import controller as controller_module
from tests.protocol.checker import Checker, Record, ViolationError
from tests.protocol.cluster import BASE, LEASE, WORKLOAD, Kafka, Store, stage
from tests.protocol.consumer import Consumer
from tests.protocol.operators import GapConsumer, Operator

__all__ = ["ACTIONS", "Config", "Switches", "World", "played"]

KEYS = ("pr-1", "pr-2")


class Switches(NamedTuple):
    """
    Rules that live in code with I/O, of which the world has a model: what is on in the healthy protocol.
    """

    #: M6: whether a view is as old as the start of its read, or as the answer.
    lease_from: str = "start"
    #: M7: whether freshness is asked for after the record was fetched, or before.
    asks: str = "after"
    #: M10: whether the store compares.
    compares: bool = True
    #: M11: whether cuts are log ends, or what the baseline's group has committed.
    cuts: str = "log ends"
    #: M14: whether rows may be erased once the baseline has committed past them.
    erases: bool = False
    #: M19: one name for all gap readers, so that nobody's claim is another's; empty: each has its own.
    claimant: str = ""
    #: M23: where a group goes on whose position is gone.
    reset: str = "earliest"
    #: M26: whether a sandbox commits before it leaves its group.
    commits_before_leaving: bool = True


class Config(NamedTuple):
    """
    What there is in a world.
    """

    partitions: int = 1
    baselines: int = 2
    sandboxes: int = 1
    keys: int = 1
    #: Whether an instance of the baseline starts without the library.
    stranger: bool = False
    #: Kinds of things that may go wrong: ``crash evict stop outage partition retention truncation rebalance operators``.
    faults: frozenset[str] = frozenset()
    rates: tuple[float, ...] = (1.0,)
    #: Whether the rows themselves are looked at, too.
    structure: bool = True


class World:
    """
    Everything, at one moment.

    Args:
        config: What there is.
        switches: The rules.
    """

    def __init__(self, config: Config, switches: Switches = Switches()) -> None:  # noqa: B008 - immutable
        self.config = config
        self.switches = switches
        self.time = 100.0
        #: M7: what `View.fresh` said before the record was fetched; None: it is to say the truth.
        self.asked: bool | None = None
        #: Whether every instance of the baseline has the library.
        self.upgraded = not config.stranger
        self._counter = 0
        self.kafka = Kafka(config.partitions)
        truncation = "truncation" in config.faults
        self.checker = Checker(self.kafka.logs, self.kafka.starts, structure=config.structure, truncation=truncation)
        self.store = Store(self.checker, self.kafka)
        self.store.compares = switches.compares
        self.operators: list[Operator] = []
        self._lives = 0
        self.consumers: list[Consumer] = []
        for number in range(config.baselines):
            self.consumers.append(Consumer(self, f"b{number}", self._rate(number), baseline=True))
        for number in range(config.sandboxes):
            self.consumers.append(Consumer(self, f"s{number}", self._rate(number + 7), baseline=False))
        if config.stranger:
            self.consumers.append(Consumer(self, "old", 1.0, baseline=True, library=False))
        self.trace: list[str] = []

    def _rate(self, number: int) -> float:
        return self.config.rates[number % len(self.config.rates)]

    def counted(self) -> int:
        """
        Return a number that was not used before.
        """
        self._counter += 1
        return self._counter

    def row(self, key: str = KEYS[0]) -> Any:
        """
        Return the lives of a key as they are in the store.
        """
        table = self.store._table
        if table is None:
            out, self.store.out = self.store.out, False
            table = self.store.table()
            self.store.out = out
        return table.handover(WORKLOAD, key)  # type: ignore[arg-type]

    def rows(self) -> list[Any]:
        """
        Return the lives of all keys that have any.
        """
        return [row for key in KEYS[: self.config.keys] if (row := self.row(key)) is not None]

    def sandbox_now(self) -> str:
        """
        Return which sandbox an instance is of that is started now.
        """
        living = [row.sandbox for row in self.rows() if row.state is not State.NONE]
        return living[0] if living else f"s{self._lives or 1}"

    def is_late_for(self, stranger: Consumer) -> bool:
        """
        Return whether an instance without the library may not join any more: nothing is promised where one comes after the check.
        """
        return stranger.member is None and self._lives > 0

    def act(self, name: str, a: int, b: int) -> bool:
        """
        Take one step.

        Args:
            name: Which.
            a: Of whom.
            b: How.

        Returns:
            Whether that was possible.
        """
        before = len(self.operators)
        done = bool(getattr(self, f"do_{name}")(a, b))
        if done:
            self.trace.append(self._told(name, a, before))
        return done

    def _told(self, name: str, a: int, before: int) -> str:
        if name in _OF_CONSUMERS:
            return f"{self.consumers[a % len(self.consumers)]} {name}"
        if name in _OF_OPERATORS and before:
            operator = self.operators[a % len(self.operators)]
            return f"{operator} {name}: {operator.doing}"
        return f"{name} (time {self.time:.2f})"

    def _consumer(self, a: int) -> Consumer:
        return self.consumers[a % len(self.consumers)]

    def _may(self, fault: str) -> bool:
        return fault in self.config.faults

    # What goes well

    def do_produce(self, a: int, b: int) -> bool:
        log = self.kafka.logs[a % len(self.kafka.logs)]
        kinds = (KEYS[0], KEYS[0], KEYS[0], None, "pr-9", KEYS[self.config.keys - 1])
        log.append(Record(a % len(self.kafka.logs), len(log), kinds[b % len(kinds)]))
        return True

    def do_read(self, a: int, b: int) -> bool:
        return self._consumer(a).read()

    def do_sync(self, a: int, b: int) -> bool:
        """A whole read at once."""
        done = [self._consumer(a).read() for _ in range(3)]
        return all(done)

    def do_follow(self, a: int, b: int) -> bool:
        return self._consumer(a).follow()

    def do_fetch(self, a: int, b: int) -> bool:
        return self._consumer(a).fetch(b, 1 + b % 3)

    def do_poll(self, a: int, b: int) -> bool:
        return self._consumer(a).poll(b)

    def do_end(self, a: int, b: int) -> bool:
        return self._consumer(a).end(b)

    def do_commit(self, a: int, b: int) -> bool:
        return self._consumer(a).commit()

    def do_assign(self, a: int, b: int) -> bool:
        consumer = self._consumer(a)
        if not consumer.able or consumer.member is None or consumer.evicted:
            return False
        group = self.kafka.group(consumer.group)
        free = [partition for partition in range(len(self.kafka.logs)) if partition not in group.owners]
        if not free:
            return False
        partition = free[b % len(free)]
        group.owners[partition] = consumer.member
        consumer.assigned(partition)
        return True

    def do_go(self, a: int, b: int) -> bool:
        """A consumer goes on with all that it does; each part is a step of its own in the trace."""
        parts = (("assign", b), ("assign", b + 1), ("fetch", b), *[("poll", b)] * 3, ("end", b), ("commit", b), ("follow", b))
        for name, at in parts:
            self.act(name, a, at)
        return False

    def do_operate(self, a: int, b: int) -> bool:
        return bool(self.operators) and self.operators[a % len(self.operators)].step()

    def do_launch(self, a: int, b: int) -> bool:
        """A controller creates or deletes, or goes on with what is half done."""
        living = [operator for operator in self.operators if operator.up]
        if len(living) >= (2 if self._may("operators") else 1):
            return False
        self.operators = living
        states = {row.state for row in self.rows() if row.state is not State.NONE}
        if states == {State.ACTIVE} and b % 3 == 1:
            return False
        creates = not states or (states <= {State.CREATING, State.ACTIVE} and (b % 3 == 0 or len(states) == 2))
        if creates and not states:
            self._lives += 1
        sandbox = self.sandbox_now() if states else f"s{1 + (self._lives - 1) // 2}"  # each twice
        keys = KEYS[: self.config.keys] if b % 2 or self.config.keys == 1 else KEYS[:1]
        name = f"c{self.counted()}"
        rate = self.config.rates[-1]
        drain = (0.0, 5.0, 30.0)[a % 3]
        remaining = "drop" if b % 4 == 3 else "handle"
        self.operators.append(Operator(self, name, rate, sandbox, keys if creates else (), drain=drain, remaining=remaining))
        return True

    def do_tick(self, a: int, b: int) -> bool:
        self.time += (0.05, 0.5, 2.0, 4.0, 11.0)[b % 5]
        return True

    def do_wake(self, a: int, b: int) -> bool:
        """Time goes on until just when a controller does."""
        wakes = [operator.wakes for operator in self.operators if operator.up and operator.wakes > self.time]
        if not wakes:
            return False
        self.time = wakes[a % len(wakes)]
        return True

    def do_expire(self, a: int, b: int) -> bool:
        """Time goes on until just before, or after, a lease ends."""
        consumer = self._consumer(a)
        view = consumer.routes.view()
        ends = 0.0 if view is None else (view.taken + LEASE) / consumer.rate + (-0.01, 0.01)[b % 2]
        if ends <= self.time:
            return False
        self.time = ends
        return True

    # What goes wrong

    def do_crash(self, a: int, b: int) -> bool:
        consumer = self._consumer(a)
        if not self._may("crash") or not consumer.up:
            return False
        consumer.crash()
        return True

    def do_restart(self, a: int, b: int) -> bool:
        """What is dead is started again; an instance of a sandbox that is gone makes room for one of the next."""
        consumer = self._consumer(a)
        if consumer.up and not self._is_over(consumer):
            return False
        if not consumer.library and (self.upgraded or self._lives):
            return False
        self._evict(consumer)
        consumer.boot()
        return True

    def _is_over(self, consumer: Consumer) -> bool:
        if consumer.baseline or consumer.member is not None or consumer.running:
            return False
        lives = {(row.sandbox, row.generation) for row in self.rows() if row.state is not State.NONE}
        wrong = consumer.sandbox != self.sandbox_now() if not consumer.group else consumer.checked_group not in lives
        return bool(lives) and wrong and (consumer.retired or not consumer.group)

    def do_evict(self, a: int, b: int) -> bool:
        consumer = self._consumer(a)
        if consumer.member is None or consumer.evicted or (consumer.up and not self._may("evict")):
            return False
        self._evict(consumer)
        return True

    def _evict(self, consumer: Consumer) -> None:
        if consumer.member is not None:
            self.kafka.disturb(consumer.group, self.kafka.group(consumer.group).drop(consumer.member))

    def do_stop(self, a: int, b: int) -> bool:
        processes = [*self.consumers, *self.operators]
        process = processes[a % len(processes)]
        if not self._may("stop") or not process.up:
            return False
        process.stopped = not process.stopped
        return True

    def do_rebalance(self, a: int, b: int) -> bool:
        taker = self._consumer(a)
        if not self._may("rebalance") or not taker.able or taker.member is None or taker.evicted:
            return False
        group = self.kafka.group(taker.group)
        if not group.owners:
            return False
        partition = sorted(group.owners)[b % len(group.owners)]
        giver = group.members[group.owners[partition]]
        if not giver.able or giver is taker:
            return False
        giver.revoked(partition)
        self.kafka.disturb(taker.group, [partition])
        group.owners[partition] = taker.member
        taker.assigned(partition)
        return True

    def do_outage(self, a: int, b: int) -> bool:
        if not self._may("outage"):
            return False
        self.store.out = not self.store.out
        return True

    def do_grow(self, a: int, b: int) -> bool:
        if not self._may("partition") or len(self.kafka.logs) > self.config.partitions + 1:
            return False
        self.kafka.starts[len(self.kafka.logs)] = 0
        self.kafka.logs.append([])
        return True

    def do_retain(self, a: int, b: int) -> bool:
        partition = a % len(self.kafka.logs)
        start, end = self.kafka.starts[partition], len(self.kafka.logs[partition])
        if not self._may("retention") or start == end:
            return False
        until = min(end, start + 1 + b % 3)
        for record in self.kafka.logs[partition][start:until]:
            record.expired = True
        self.kafka.starts[partition] = until
        return True

    def do_truncate(self, a: int, b: int) -> bool:
        log = self.kafka.logs[a % len(self.kafka.logs)]
        keep = len(log) - 1 - b % 3
        if not self._may("truncation") or keep < self.kafka.starts[a % len(self.kafka.logs)]:
            return False
        for record in log[keep:]:
            record.gone = True
        del log[keep:]
        return True

    def do_kill(self, a: int, b: int) -> bool:
        """A controller dies."""
        if not self._may("operators") or not self.operators:
            return False
        operator = self.operators[a % len(self.operators)]
        if not operator.up:
            return False
        operator.crash()
        return True

    def do_upgrade(self, a: int, b: int) -> bool:
        """The instance without the library is replaced."""
        if self.upgraded:
            return False
        old = self.consumers[-1]
        old.commit()
        old.crash()
        self._evict(old)
        self.upgraded = True
        return True

    def do_erase(self, a: int, b: int) -> bool:
        """A mutant's: rows are removed once the baseline has committed past them."""
        row = self.row()
        if not self.switches.erases or self.store.out or row is None or row.state is not State.NONE or not row.epochs:
            return False
        commits = self.kafka.group(BASE).committed
        if any(commits.get(p, 0) < end for p, end in enumerate((row.epochs[-1].end or {}).get("t", ()))):
            return False
        self.store.write([_put(row._replace(epochs=()))])
        return True

    # The end

    def settle(self) -> None:
        """
        Let everything go on fairly, and check that all that was produced is handled and every life is settled.
        """
        if self._may("truncation"):  # what was cut off has to come again first
            return
        self.store.out = False
        for _ in range(120):
            self._fair_round()
            if self._is_settled():
                return
        raise ViolationError("never settled", "; ".join(self._unsettled()))

    def _fair_round(self) -> None:
        for name in ("upgrade",):
            self.act(name, 0, 0)
        for process in [*self.consumers, *self.operators]:
            process.stopped = False
        for at, consumer in enumerate(self.consumers):
            self.act("restart", at, 0)
            if not consumer.up:
                continue
            if consumer._read is not None:
                consumer._read = None
            for name in ("read", "read", "read", "follow", "assign", "assign", "assign"):
                self.act(name, at, 0)
            for partition in range(len(consumer.fetched)):
                while self.act("fetch", at, partition):
                    pass
            while self.act("poll", at, 0):
                pass
            while self.act("end", at, 0):
                pass
            self.act("commit", at, 0)
        self.operators = [operator for operator in self.operators if operator.up]
        if not self.operators and {row.state for row in self.rows()} - {State.NONE, State.ACTIVE}:
            self.act("launch", 1, 1)
        for _ in range(60):  # one alone: two that delete the same take the gap reader's claim from one another
            if not (self.operators and self.act("operate", 0, 0)):
                break
        self.act("tick", 0, 3)

    def _is_settled(self) -> bool:
        return not self._unsettled()

    def _unsettled(self) -> list[str]:
        left = [f"{operator}: {operator.doing}" for operator in self.operators if operator.up]
        left += [f"{row.key} is {row.state.value}" for row in self.rows() if row.state not in (State.NONE, State.ACTIVE)]
        commits = self.kafka.group(BASE).committed
        for partition, log in enumerate(self.kafka.logs):
            if any(not record.expired for record in log[commits.get(partition, 0) :]):
                left.append(f"the baseline has committed {commits.get(partition)} of {len(log)} of partition {partition}")
            for record in log:
                if not (record.expired or record.dropped or self.checker.owner(record) in record.done):
                    left.append(f"{record} was not handled")
        return left

    def close(self) -> None:
        """
        End what still runs.
        """
        for operator in self.operators:
            operator.crash()


def _put(row: Any) -> Any:
    return controller_module.put_handover(row)


_OF_CONSUMERS = {
    "read",
    "sync",
    "follow",
    "fetch",
    "poll",
    "end",
    "commit",
    "assign",
    "crash",
    "restart",
    "evict",
    "rebalance",
    "expire",
}
_OF_OPERATORS = {"operate", "kill", "launch"}

#: How often each step is tried by a walk.
ACTIONS: dict[str, int] = {
    "produce": 9, "read": 9, "sync": 5, "follow": 4, "fetch": 6, "poll": 10, "end": 7, "commit": 6, "assign": 4, "go": 10,
    "operate": 40, "launch": 5, "tick": 3, "wake": 12, "expire": 2,
    "crash": 1, "restart": 2, "evict": 2, "stop": 2, "rebalance": 2, "outage": 1, "grow": 1, "retain": 1, "truncate": 1,
    "kill": 1, "upgrade": 1, "erase": 2,
}  # fmt: skip


@contextmanager
def played() -> Iterator[None]:
    """
    Put the clocks and the clients of the model in the place of the real ones.
    """
    with ExitStack() as stack:
        for module in (lease_module, live_module, controller_module, gap_module):
            stack.enter_context(patch.object(module, "now", stage.now))
        stack.enter_context(patch.object(gap_module, "Consumer", GapConsumer))
        stack.enter_context(patch.object(judge_module, "resolve_identity", lambda _: stage.process.identity))  # type: ignore[union-attr]
        stack.enter_context(patch.object(controller_module, "_LOOK_EVERY", 12.0))
        yield
