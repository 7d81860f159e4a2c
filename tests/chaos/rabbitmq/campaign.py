"""
A whole run on RabbitMQ by its plan.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.services import Service

from ..journal import Fault
from .checker import Report
from .entries import Confirmed, Did
from .faults import Faults
from .lives import Slot
from .plan import Plan
from .stage import Stage

__all__ = ["Outcome", "run"]

_BASELINE = ("callback", "iterator", "callback")


class Outcome(NamedTuple):
    """
    What came of a run.

    Args:
        report: What the checker says.
        left_behind: The queues and exchanges that were still there.
        missed: The bars that were missed, in words.
        version: The broker's.
    """

    report: Report
    left_behind: tuple[str, ...]
    missed: tuple[str, ...]
    version: str


def run(plan: Plan, rabbitmq: Service, directory: Path, *, tell: Callable[[str, int, int], None]) -> Outcome:
    """
    Run it.

    Args:
        plan: How much is done.
        rabbitmq: RabbitMQ, which is stopped and killed, and started again.
        directory: An empty directory.
        tell: Takes what is going on, how many lives are lived, and how many messages are sent.

    Raises:
        Late: If it is not done by its deadline.
        RuntimeError: If a process has ended that should not have.
    """
    with Stage(rabbitmq.address, directory, deadline=plan.deadline) as stage:
        lived = itertools.count(1)
        done = 0

        def count() -> None:
            nonlocal done
            done = next(lived)

        slots = [Slot(stage, number, plan.side, count) for number in range(plan.slots)]
        baseline = [stage.worker(f"baseline-{number}", kind=kind) for number, kind in enumerate(_BASELINE)]
        producer = stage.producer(plan.rate, [slot.key for slot in slots])
        stage.ready(*baseline, producer)
        twists = itertools.cycle(plan.twists)
        shares = [[next(twists) for _ in range(plan.lives)] for _ in slots]
        threads = [
            *(_thread(stage, lambda slot=slot, share=share: slot.live(share)) for slot, share in zip(slots, shares, strict=True)),
            _thread(stage, lambda: _strike(stage, plan, Faults(stage, baseline, producer, rabbitmq))),
        ]
        while any(thread.is_alive() for thread in threads):
            _tell(stage, done, tell)
            threads[0].join(0.5) if threads[0].is_alive() else stage.sleep(0.3)
        stage.watch()
        stage.wait(f"{plan.messages} messages", lambda: _tell(stage, done, tell) >= plan.messages, plan.deadline)
        stage.stop(producer, 60)
        tell("waiting until all is handled", done, len(stage.journals.of(Confirmed)))
        stage.settle()
        for worker in baseline:
            stage.stop(worker)
        report = stage.report()
        left = tuple(stage.left_behind())
        return Outcome(report, left, _missed(plan, report, left), stage.version())


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
    sent, did, faults = (len(stage.journals.of(kind)) for kind in (Confirmed, Did, Fault))
    tell(f"{sent} sent, {did} handled, {faults} faults", lived, sent)
    return sent


def _missed(plan: Plan, report: Report, left: tuple[str, ...]) -> tuple[str, ...]:
    least = {
        "messages": (report.messages, plan.messages),
        "cycles": (report.cycles, plan.cycles),
        "kills": (report.kills, plan.kills),
        "restarts": (report.restarts, plan.restarts),
        "cuts": (report.cuts, plan.cuts),
        "messages in flight at a create or delete": (report.least_in_flight, plan.side),
    }
    most = {
        name: getattr(report, name)
        for name in (
            "lost",
            "wrong_owner",
            "cross_owner",
            "unknown",
            "altered",
            "looped",
            "duplicates_unexplained",
            "handled_twice",
        )
    }
    missed = [f"{found} {name}, of at least {wanted}" for name, (found, wanted) in least.items() if found < wanted]
    missed += [f"{found} {name}, of none" for name, found in most.items() if found]
    return (*missed, *(f"left behind: {each}" for each in left))
