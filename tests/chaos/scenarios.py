"""
Short runs that are steered towards the hole that a mutant has; without the mutant nothing happens in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .checker import Report
from .spec import LEASE
from .stage import Actor, Stage

__all__ = ["SCENARIOS", "Scenario", "play"]

_KEY, _SANDBOX = "pr-1", "sb-1"
_SIDE = 40
_RATE = 250.0


class Scenario(NamedTuple):
    """
    How a mutant is caught.

    Args:
        what: What the mutant leaves out or does.
        figure: Which of the checker's figures must not be 0.
        act: What happens.
    """

    what: str
    figure: str
    act: Callable[[Stage, list[Actor]], None]


def play(name: str, kafka: str, directory: Path, *, mutant: bool = True) -> Report:
    """
    Play a mutant's scenario.

    Args:
        name: The mutant.
        kafka: Bootstrap servers of Apache Kafka.
        directory: An empty directory.
        mutant: Whether the mutant is in the processes.

    Raises:
        Late: If it is not over in time.
        RuntimeError: If a process has ended that should not have.
    """
    with Stage(kafka, f"sqlite:///{directory}/routes.db", directory, mutant=name if mutant else "", deadline=90) as stage:
        baseline = [stage.worker(f"baseline-{number}") for number in range(2)]
        producer = stage.producer(_RATE, [_KEY])
        stage.ready(*baseline, producer)
        stage.more(_KEY, _SIDE)
        SCENARIOS[name].act(stage, baseline)
        stage.more(_KEY, _SIDE)
        stage.stop(producer)
        return stage.settle(8)


def _created(stage: Stage) -> Actor:
    """
    Create the sandbox, and return its worker.
    """
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    _finished(stage, stage.manager("create", _SANDBOX, _KEY))
    stage.ready(worker)
    stage.more(_KEY, _SIDE)
    return worker


def _finished(stage: Stage, manager: Actor) -> None:
    stage.wait(f"{manager.spec.name} to be done", lambda: stage.ended(manager))
    stage.watch()


def _reader_in_the_dark(stage: Stage, baseline: list[Actor]) -> None:
    """
    A process of the baseline hears nothing of a sandbox that is created.
    """
    manager = stage.manager("create", _SANDBOX, _KEY, wait=True)
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    stage.ready(manager)
    stage.freeze(baseline[0])
    stage.go(manager)
    _finished(stage, manager)
    stage.ready(worker)
    stage.more(_KEY, _SIDE)
    stage.thaw(baseline[0])


def _reader_that_misses_the_cut(stage: Stage, baseline: list[Actor]) -> None:
    """
    A process of the baseline knows that a sandbox is created, and does not hear when it is active.
    """
    manager = stage.manager("create", _SANDBOX, _KEY)
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    stage.wait("the sandbox to be created", lambda: stage.state(_KEY) == "creating")
    stage.sleep(LEASE * 1.25)
    stage.freeze(baseline[0])
    _finished(stage, manager)
    stage.ready(worker)
    stage.more(_KEY, _SIDE)
    stage.thaw(baseline[0])


def _reader_that_misses_the_end(stage: Stage, baseline: list[Actor]) -> None:
    """
    A process of the baseline believes for long that a sandbox is active.
    """
    _created(stage)
    stage.freeze(baseline[0])
    _finished(stage, stage.manager("delete", _SANDBOX, _KEY))
    stage.more(_KEY, 2 * _SIDE)
    stage.thaw(baseline[0])


def _controller_that_is_replaced(stage: Stage, baseline: list[Actor]) -> None:
    """
    A controller dies right after its first write, and another one goes on, while a process of the baseline hears nothing.
    """
    first = stage.manager("create", _SANDBOX, _KEY, wait=True)
    second = stage.manager("create", _SANDBOX, _KEY, wait=True)
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    stage.ready(first, second)
    stage.freeze(baseline[0])
    stage.go(first)
    stage.wait("the sandbox to be created", lambda: stage.state(_KEY) == "creating")
    stage.kill(first)
    stage.go(second)
    _finished(stage, second)
    stage.ready(worker)
    stage.more(_KEY, _SIDE)
    stage.thaw(baseline[0])


def _late_commits(stage: Stage, baseline: list[Actor]) -> None:
    """
    The whole baseline is stopped with records handled and not committed, and goes on when a sandbox has been created.
    """
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    manager = stage.manager("create", _SANDBOX, _KEY, wait=True)
    stage.ready(manager)
    stage.go(manager)
    first, second = baseline
    stage.pause(first, 0, lambda: stage.pause(second, 0, lambda: _finished(stage, manager)))
    stage.ready(worker)


def _crash_with_records_aside(stage: Stage, baseline: list[Actor]) -> None:
    """
    The whole baseline crashes while it has records set aside, others of the same partitions being committed.
    """
    manager = stage.manager("create", _SANDBOX, _KEY)
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    stage.wait("the sandbox to be created", lambda: stage.state(_KEY) == "creating")
    stage.sleep(LEASE * 1.2)
    for each in baseline:
        stage.kill(each)
    baseline[:] = [stage.again(each) for each in baseline]
    _finished(stage, manager)
    stage.ready(worker)


def _stranger(stage: Stage, baseline: list[Actor]) -> None:
    """
    A member of the baseline's group knows nothing of tenancy. The controller must wait until it is gone.
    """
    stranger = stage.worker("stranger", kind="plain")
    stage.ready(stranger)
    stage.sleep(2)
    manager = stage.manager("create", _SANDBOX, _KEY)
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX)
    stage.wait("the sandbox to be created", lambda: stage.state(_KEY) == "creating")
    stage.sleep(2.5 * LEASE)
    stage.more(_KEY, _SIDE)
    stage.stop(stranger)
    _finished(stage, manager)
    stage.ready(worker)


def _crash_at_work(stage: Stage, baseline: list[Actor]) -> None:
    """
    The whole baseline crashes with records under way.
    """
    for each in baseline:
        stage.kill(each)
    baseline[:] = [stage.again(each) for each in baseline]
    stage.ready(*baseline)


#: Mutant -> how it is caught.
SCENARIOS: dict[str, Scenario] = {
    "M1": Scenario("decides by a table older than the lease", "wrong_owner", _reader_in_the_dark),
    "M2": Scenario("reads the log's ends before the lease is over", "wrong_owner", _reader_in_the_dark),
    "M3": Scenario("handles what should wait during a create", "wrong_owner", _reader_that_misses_the_cut),
    "M5": Scenario("skips by a table older than the lease", "lost", _reader_that_misses_the_end),
    "M9": Scenario("goes on with another's create without a lease", "wrong_owner", _controller_that_is_replaced),
    "M11": Scenario("cuts at the group's commits", "wrong_owner", _late_commits),
    "M15": Scenario("commits past what waits", "lost", _crash_with_records_aside),
    "M24": Scenario("creates while a member knows nothing of tenancy", "wrong_owner", _stranger),
    "live": Scenario("asks who has the key now, not at the record", "wrong_owner", _reader_in_the_dark),
    "commit-first": Scenario("commits before it handles", "lost", _crash_at_work),
}
