"""
Defects that are put into a process on purpose: each leaves out one thing that the protocol says, and the checker must see it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tenancy.messaging.kafka import selection
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.messaging.kafka.ledger import PartitionLedger
from tenancy.routes import decide, decide_record, handover
from tenancy.routes.lease import View
from tenancy.routes.verdict import Action
from tenancy.sandbox import Controller

from .spec import Spec

__all__ = ["MUTANTS", "install"]


def _no_lease(_: Spec) -> None:
    View.fresh = lambda self: True  # type: ignore[method-assign]


def _early_log_ends(spec: Spec) -> None:
    wait, ends = Controller._wait_settled, KafkaBroker.log_ends
    early: list[Any] = []

    def waiting(self: Any, row: Any, end: float) -> None:
        if not early:
            early.append(ends(self._groups._kafka, self._groups.topics(row)))
        wait(self, row, end)

    if spec.act == "create":
        Controller._wait_settled = waiting  # type: ignore[method-assign]
        KafkaBroker.log_ends = lambda self, topics: early[0]  # type: ignore[method-assign]


def _no_hold(_: Spec) -> None:
    handover._COMING = handover.Claim(None, decided=False)


def _skips_without_lease(_: Spec) -> None:
    def decided(*args: Any, fresh: bool) -> Any:
        verdict = decide_record(*args, fresh=args[-1] is not None)
        return verdict if verdict.action is Action.SKIP else decide_record(*args, fresh=fresh)

    selection.decide_record = decided


def _hasty_successor(_: Spec) -> None:
    wait = Controller._wait_settled

    def waiting(self: Any, row: Any, end: float) -> None:
        if self._settled.get((row.workload, row.key), (-1, 0.0))[0] == row.version:
            wait(self, row, end)

    Controller._wait_settled = waiting  # type: ignore[method-assign]


def _commits_for_log_ends(spec: Spec) -> None:
    KafkaBroker.log_ends = lambda self, topics: {  # type: ignore[method-assign]
        name: tuple(max(offset, 0) for offset in offsets) for name, offsets in self.committed(spec.group, topics).items()
    }


def _commit_past_held(_: Spec) -> None:
    committable = PartitionLedger.committable

    def careless(self: Any, position: int) -> int:
        held, self.held = self.held, deque()
        try:
            return committable(self, position)
        finally:
            self.held = held

    PartitionLedger.committable = careless  # type: ignore[method-assign]


def _strangers_welcome(_: Spec) -> None:
    Controller._wait_members = lambda self, row, end: None  # type: ignore[method-assign]


def _live(_: Spec) -> None:
    def decided(key: Any, position: Any, reader: Any, table: Any, *, fresh: bool) -> Any:
        if key is None or table is None:
            return decide_record(key, position, reader, table, fresh=fresh)
        return decide(key, reader.identity, table)

    selection.decide_record = decided


def _in_the_worker(_: Spec) -> None:
    """
    The worker itself does it.
    """


#: Name -> what it does to a process.
MUTANTS: dict[str, Callable[[Spec], None]] = {
    "M1": _no_lease,
    "M2": _early_log_ends,
    "M3": _no_hold,
    "M5": _skips_without_lease,
    "M9": _hasty_successor,
    "M11": _commits_for_log_ends,
    "M15": _commit_past_held,
    "M24": _strangers_welcome,
    "live": _live,
    "commit-first": _in_the_worker,
}


def install(spec: Spec) -> None:
    """
    Put a process's defect into it, if it is to have one.
    """
    if spec.mutant:
        MUTANTS[spec.mutant](spec)
