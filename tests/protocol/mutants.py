"""
The mutants of the hand-over protocol: what is left out or changed in each, and what that leads to.

Where a rule lives in code that runs under the model, the real function is replaced by one that lacks it ("real"); where it lives in code that
talks to a broker, a store or a client, of which the world has a model, it is a switch of that model ("model").

====== ===== ==================================================================================================================
mutant where what is replaced
====== ===== ==================================================================================================================
M1     real  ``View.fresh``: a view can be acted on for ever
M2     real  ``Controller._wait_settled``: log ends are read before the lease is waited out
M3     real  ``Handover.claim``: nothing is held in ``creating``
M4     real  ``Handover.claim``: nothing is held in ``deleting``
M5     real  ``decide_record``: what is skipped needs no lease
M6     model `Routes` takes a read to be as old as its answer
M7     model the adapter asks ``View.fresh`` before it has the record
M8     real  ``outwait``: no margin for clocks that run apart
M9     real  ``Controller._wait_settled``: who finds a life half-way does not wait
M10    model the store writes without comparing
M11    model the broker names the commits of the baseline's group as log ends
M12    real  ``Groups.topics``: partitions are listed before the lease is waited out
M13          Not caught, as said in the specification: without the epoch in the name of the group the rows still protect
M14a   real  ``finish``: rows are erased with the end of the life
M14b   model rows are erased once the baseline has committed past them
M15    real  ``PartitionLedger.committable``: what is held does not stand in the way
M16    real  ``begin_delete``: an active life is removed in one write
M17    real  ``Controller._wait_settled``: the gap reader does not wait for a lease
M18    real  ``Groups.members``: the gap reader does not look for members of the sandbox's group
M19    model all gap readers have one name, so that none has a claim of its own
M20    real  ``record_progress``: notes nothing
M21    real  ``decide_record``: a sandbox needs no lease in ``draining``
M22    real  ``decide_record`` and ``is_reading``: a sandbox takes ``reclaiming`` for ``draining``
M23    model a sandbox's group goes on at the end of a log whose records are gone
M24    real  ``Controller._wait_members``: members without the library are put up with
M25    real  ``activate``: a start is the log's end, wherever earlier lives ended
M26    model a sandbox leaves its group without a commit
====== ===== ==================================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

from tenancy.messaging.kafka import gap as gap_module
from tenancy.messaging.kafka import selection as selection_module
from tenancy.messaging.kafka.ledger import PartitionLedger
from tenancy.routes import record as record_module
from tenancy.routes.handover import Claim, Handover, State
from tenancy.routes.lease import View
from tenancy.routes.verdict import Action
from tenancy.sandbox import controller as controller_module
from tenancy.sandbox.controller import Controller
from tenancy.sandbox.groups import Groups
from tests.protocol.cluster import stage
from tests.protocol.walk import Step
from tests.protocol.world import Switches

__all__ = ["MUTANTS", "Mutant"]

Patches = AbstractContextManager[Any]


class Mutant(NamedTuple):
    """
    One change to the protocol.

    Args:
        kinds: What of it the checker must see.
        patches: Returns what makes the change in the real code.
        switches: The rules of the model.
        faults: What has to go wrong for it to matter.
        config: What else there has to be in the world, as keyword arguments of ``Config``.
        weights: Which steps to try more, or less, often.
        structure: Whether the rows themselves are looked at, too, and not only what becomes of records.
        walks: Through how many worlds to walk at most.
        script: With which steps to begin, where a walk comes to them too rarely.
    """

    kinds: tuple[str, ...]
    patches: Callable[[], Patches] = nullcontext
    switches: Switches = Switches()
    faults: tuple[str, ...] = ()
    config: dict[str, Any] = {}  # noqa: RUF012 - never changed
    weights: dict[str, int] = {}  # noqa: RUF012 - never changed
    structure: bool = False
    walks: int = 1500
    script: tuple[Step, ...] = ()


def _all(*patches: Any) -> Patches:
    stack = ExitStack()
    for one in patches:
        stack.enter_context(one)
    return stack


def _no_lease() -> Patches:
    return patch.object(View, "fresh", lambda view: True)


def _asked_before() -> Patches:
    fresh = View.fresh

    def asked(view: View) -> bool:
        assert stage.process is not None
        before = stage.process.world.asked
        return fresh(view) if before is None else bool(before)

    return patch.object(View, "fresh", asked)


_settled = Controller._wait_settled
_topics = Groups.topics
_claim = Handover.claim
_decide = record_module.decide_record
_members = Groups.members
_raises = controller_module.activate


def _ends_before_the_lease() -> Patches:
    def wait(self: Any, row: Any, end: float) -> None:
        kafka = self._groups._kafka
        ends = kafka.log_ends(self._groups.topics(row))
        _settled(self, row, end)
        kafka.log_ends = lambda topics: ends

    return patch.object(Controller, "_wait_settled", wait)


def _partitions_before_the_lease() -> Patches:
    def wait(self: Any, row: Any, end: float) -> None:
        groups = self._groups
        listed = _topics(groups, row)
        _settled(self, row, end)
        groups.topics = lambda row: groups.__dict__.pop("topics") and listed

    return patch.object(Controller, "_wait_settled", wait)


def _holds_not_in(state: State) -> Callable[[], Patches]:
    def claim(self: Handover, topic: str, partition: int, offset: int) -> Claim:
        found = _claim(self, topic, partition, offset)
        return found._replace(hold=False) if self.state is state else found

    return lambda: patch.object(Handover, "claim", claim)


def _skips_without_lease() -> Patches:
    def decide(key: Any, position: Any, reader: Any, table: Any, *, fresh: bool) -> Any:
        verdict = _decide(key, position, reader, table, fresh=True)
        return verdict if verdict.action is Action.SKIP else _decide(key, position, reader, table, fresh=fresh)

    return patch.object(selection_module, "decide_record", decide)


def _waits_not(matters: Callable[[Any, Any], bool]) -> Callable[[], Patches]:
    def wait(self: Any, row: Any, end: float) -> None:
        if not matters(self, row):
            _settled(self, row, end)

    return lambda: patch.object(Controller, "_wait_settled", wait)


def _is_of_another(controller: Any, row: Any) -> bool:
    version, _ = controller._settled.get((row.workload, row.key), (-1, 0.0))
    return bool(version != row.version)


def _finishes_by_erasing() -> Patches:
    finish = controller_module.finish
    return patch.object(controller_module, "finish", lambda row: finish(row)._replace(epochs=()))


def _commits_past_held() -> Patches:
    def committable(self: Any, position: int) -> int:
        return min(position, self._handed[0]) if self._handed else position

    return patch.object(PartitionLedger, "committable", committable)


def _deletes_at_once() -> Patches:
    return patch.object(controller_module, "begin_delete", lambda row: row._replace(state=State.NONE, epochs=row.epochs[:-1]))


def _sees_no_members() -> Patches:
    def members(self: Any, group: str) -> list[Any]:
        return [] if group != "orders" else _members(self, group)

    return patch.object(Groups, "members", members)


def _drains_without_lease() -> Patches:
    def decide(key: Any, position: Any, reader: Any, table: Any, *, fresh: bool) -> Any:
        row = None if table is None or key is None else table.handover(reader.identity.workload, key)
        draining = reader.identity.sandbox is not None and row is not None and row.state is State.DRAINING
        return _decide(key, position, reader, table, fresh=fresh or draining)

    return patch.object(selection_module, "decide_record", decide)


def _goes_on_in_reclaiming() -> Patches:
    sandbox = record_module._for_sandbox

    def decide(key: Any, position: Any, reader: Any, row: Any, fresh: bool) -> Any:
        if row is not None and row.state is State.RECLAIMING:
            row = row._replace(state=State.DRAINING)
        return sandbox(key, position, reader, row, fresh)

    return patch.object(record_module, "_for_sandbox", decide)


def _starts_anywhere() -> Patches:
    def activate(row: Any, log_ends: Any, ids: Any = None) -> Any:
        new = _raises(row, log_ends, ids)
        return new._replace(epochs=(*new.epochs[:-1], new.epochs[-1]._replace(start=dict(log_ends))))

    return patch.object(controller_module, "activate", activate)


# One instance of the baseline has records of a life in hand, and is evicted; the life ends; the other instance commits past it. The
# controller is given more steps than it has, so that it may take more of them one day.
_ERASED: tuple[Step, ...] = (
    *[(name, at, 0) for at in (0, 1) for name in ("sync", "follow", "follow")],
    ("assign", 0, 0),
    ("launch", 0, 1), *[("operate", 0, 0)] * 20, ("wake", 0, 0), *[("operate", 0, 0)] * 40,
    *[("produce", 0, 0)] * 2, ("fetch", 0, 1), ("evict", 0, 0),
    ("launch", 0, 2), *[("operate", 0, 0)] * 20, ("wake", 0, 0), *[("operate", 0, 0)] * 40, ("wake", 0, 0), *[("operate", 0, 0)] * 60,
    ("assign", 1, 0), ("sync", 1, 0), ("fetch", 1, 1), *[("poll", 1, 1)] * 3, ("commit", 1, 0),
    ("erase", 0, 0), ("sync", 0, 0), ("poll", 0, 1),
)  # fmt: skip

# A partition is added while a lease is waited out, and the baseline handles a record of it by what it knew before.
_GROWN: tuple[Step, ...] = (
    ("sync", 0, 0), *[("follow", 0, 0)] * 2, ("assign", 0, 0),
    ("launch", 0, 1), *[("operate", 0, 0)] * 20,
    ("grow", 0, 0), ("assign", 0, 0), ("produce", 1, 0),
    *[(name, 0, at) for at in (0, 1) for name in ("fetch", "poll", "end")],
    ("wake", 0, 0), *[("operate", 0, 0)] * 40,
    ("sync", 1, 0), *[("follow", 1, 0)] * 2, *[("assign", 1, at) for at in (0, 1)],
    *[(name, 1, at) for at in (0, 1) for name in ("fetch", "poll")],
)  # fmt: skip

MUTANTS: dict[str, Mutant] = {
    "M1": Mutant(("wrong owner", "loss"), _no_lease),
    "M2": Mutant(("wrong owner", "loss"), _ends_before_the_lease),
    "M3": Mutant(("wrong owner",), _holds_not_in(State.CREATING)),
    "M4": Mutant(("wrong owner", "loss"), _holds_not_in(State.DELETING)),
    "M5": Mutant(("loss",), _skips_without_lease),
    "M6": Mutant(("wrong owner", "loss"), switches=Switches(lease_from="answer")),
    "M7": Mutant(("wrong owner", "loss"), _asked_before, switches=Switches(asks="before")),
    "M8": Mutant(
        ("wrong owner", "loss"),
        lambda: patch.object(controller_module, "outwait", lambda lease: lease),
        config={"rates": (0.995, 0.995, 0.995, 1.005)},
    ),
    "M9": Mutant(
        ("wrong owner", "loss"), _waits_not(_is_of_another), faults=("operators",), weights={"kill": 3, "launch": 14, "wake": 6}
    ),
    "M10": Mutant(("wrong owner", "loss"), switches=Switches(compares=False), faults=("operators", "stop")),
    "M11": Mutant(("wrong owner", "loss"), switches=Switches(cuts="commits")),
    "M12": Mutant(
        ("wrong owner", "loss"),
        _partitions_before_the_lease,
        faults=("partition",),
        config={"baselines": 1, "partitions": 1, "sandboxes": 1, "keys": 1, "stranger": False, "rates": (1.0,)},
        script=_GROWN,
    ),
    "M14a": Mutant(("wrong owner",), _finishes_by_erasing),
    "M14b": Mutant(
        ("wrong owner",),
        switches=Switches(erases=True),
        faults=("evict",),
        config={"baselines": 2, "partitions": 1, "sandboxes": 1, "keys": 1, "stranger": False, "rates": (1.0,)},
        script=_ERASED,
    ),
    "M15": Mutant(("loss",), _commits_past_held, faults=("crash",)),
    "M16": Mutant(("wrong owner", "loss"), _deletes_at_once),
    "M17": Mutant(
        ("two at once", "repeat"), _waits_not(lambda _, row: row.state is State.RECLAIMING), faults=("evict",), weights={"evict": 5}
    ),
    "M18": Mutant(("two at once", "repeat"), _sees_no_members),
    "M19": Mutant(("two at once", "repeat"), switches=Switches(claimant="gap"), faults=("operators",)),
    "M20": Mutant(
        ("repeat",),
        lambda: patch.object(gap_module, "record_progress", lambda row, *_: row),
        faults=("operators",),
        weights={"kill": 2, "operate": 60},
    ),
    "M21": Mutant(("two at once", "repeat"), _drains_without_lease, faults=("evict", "stop"), weights={"evict": 5}),
    "M22": Mutant(("two at once", "repeat"), _goes_on_in_reclaiming, faults=("evict", "stop"), weights={"evict": 5}),
    "M23": Mutant(("loss",), switches=Switches(reset="latest"), faults=("retention",), weights={"retain": 3}),
    "M24": Mutant(("wrong owner",), lambda: patch.object(Controller, "_wait_members", lambda *_: None), config={"stranger": True}),
    "M25": Mutant(("I2",), _starts_anywhere, faults=("truncation",), structure=True),
    "M26": Mutant(("repeat", "two at once"), switches=Switches(commits_before_leaving=False)),
}
