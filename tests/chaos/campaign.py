"""
A whole chaos run by its plan.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.services import Service

from .checker import Report
from .faults import Faults
from .journal import Fault, Handled, Sent
from .lives import Slot
from .plan import Plan
from .stage import Actor, Stage
from .transactions import Transacted, transact

__all__ = ["Outcome", "run"]

_BASELINE = 3


class Outcome(NamedTuple):
    """
    What came of a run.

    Args:
        report: What the checker says.
        missed: The bars that were missed, in words.
        transacted: What came of the transactional part; None: there was none.
    """

    report: Report
    missed: tuple[str, ...]
    transacted: Transacted | None = None


def run(plan: Plan, kafka: Service, store: Service, directory: Path, *, tell: Callable[[str, int, int], None]) -> Outcome:
    """
    Run it.

    Args:
        plan: How much is done.
        kafka: Apache Kafka, which is stopped and started again.
        store: The server of the route store, which is stopped and started again.
        directory: An empty directory.
        tell: Takes what is going on, how many lives are lived, and how many messages are sent.

    Raises:
        Late: If it is not done by its deadline.
        RuntimeError: If a process has ended that should not have.
    """
    outcome = _hand_over(plan, kafka, store, directory / "main", tell)
    if not plan.transactions:
        return outcome
    tell("transactions", plan.cycles, outcome.report.messages)
    place = directory / "transactions"
    place.mkdir()
    transacted = transact(plan.transactions, kafka.address, f"sqlite:///{place}/routes.db", place)
    wrong = {f"{name} in transactions": getattr(transacted, name) for name in ("duplicates", "lost", "wrong_owner")}
    missed = (*outcome.missed, *(f"{found} {name}, of none" for name, found in wrong.items() if found))
    return Outcome(outcome.report, missed, transacted)


def _hand_over(plan: Plan, kafka: Service, store: Service, directory: Path, tell: Callable[[str, int, int], None]) -> Outcome:
    directory.mkdir()
    settings = (("partition.assignment.strategy", "cooperative-sticky"),)
    with Stage(kafka.address, store.address, directory, deadline=plan.deadline, settings=settings) as stage:
        lived = itertools.count(1)
        done = 0

        def count() -> None:
            nonlocal done
            done = next(lived)

        slots = [Slot(stage, number, plan.side, count) for number in range(plan.slots)]
        baseline = [stage.worker(f"baseline-{number}") for number in range(_BASELINE)]
        producer = stage.producer(plan.rate, [slot.key for slot in slots])
        stage.ready(*baseline, producer)
        twists = itertools.cycle(plan.twists)
        shares = [[next(twists) for _ in range(plan.lives)] for _ in slots]
        threads = [
            *(_thread(stage, lambda slot=slot, share=share: slot.live(share)) for slot, share in zip(slots, shares, strict=True)),
            _thread(stage, lambda: _strike(stage, plan, Faults(stage, baseline, kafka, store))),
        ]
        while any(thread.is_alive() for thread in threads):
            _tell(stage, done, tell)
            threads[0].join(0.5) if threads[0].is_alive() else stage.sleep(0.3)
        stage.watch()
        stage.wait(f"{plan.messages} messages", lambda: _tell(stage, done, tell) >= plan.messages, plan.deadline)
        stage.stop(producer, 60)
        tell("waiting until all is handled", done, len(stage.journals.of(Sent)))
        report = stage.settle()
        _end(stage, baseline)
        report = stage.report()
        return Outcome(report, _missed(plan, stage, report))


def _thread(stage: Stage, work: Callable[[], None]) -> threading.Thread:
    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, the run ends with it
            stage.failed.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def _strike(stage: Stage, plan: Plan, faults: Faults) -> None:
    for fault in plan.faults:
        stage.sleep(plan.every)
        faults.strike(fault)


def _tell(stage: Stage, lived: int, tell: Callable[[str, int, int], None]) -> int:
    stage.journals.update()
    sent, handled, faults = (len(stage.journals.of(kind)) for kind in (Sent, Handled, Fault))
    tell(f"{sent} sent, {handled} handled, {faults} faults", lived, sent)
    return sent


def _end(stage: Stage, baseline: list[Actor]) -> None:
    for worker in baseline:
        stage.stop(worker)


def _missed(plan: Plan, stage: Stage, report: Report) -> tuple[str, ...]:
    faults = {fault.kind for fault in stage.journals.of(Fault)}
    least = {
        "messages": (report.messages, plan.messages),
        "cycles": (report.cycles, plan.cycles),
        "kills": (report.kills, plan.kills),
        "pauses": (report.pauses, plan.pauses),
        "records on one side of a cut": (report.least_at_cut, plan.side),
    }
    most = {
        "lost": report.lost,
        "wrong_owner": report.wrong_owner,
        "cross_owner": report.cross_owner,
        "unknown": report.unknown,
        "duplicates_unexplained": report.duplicates_unexplained,
    }
    missed = [f"{found} {name}, of at least {wanted}" for name, (found, wanted) in least.items() if found < wanted]
    missed += [f"{found} {name}, of none" for name, found in most.items() if found]
    return (*missed, *(f"no {fault}" for fault in sorted(set(plan.faults) - faults)))
