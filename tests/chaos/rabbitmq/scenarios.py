"""
Short runs that are steered towards the hole that a mutant has; without the mutant nothing happens in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..spec import LEASE
from ..troupe import Actor
from .checker import Report
from .stage import Stage

__all__ = ["SCENARIOS", "Scenario", "play"]

_KEY, _SANDBOX = "pr-1", "sb-1"
_SIDE = 30


class Scenario(NamedTuple):
    """
    How a mutant is caught.

    Args:
        what: What the mutant leaves out or does.
        figure: Which of the checker's figures must not be 0.
        act: What happens.
        rate: Messages a second.
    """

    what: str
    figure: str
    act: Callable[[Stage, list[Actor]], None]
    rate: float = 150.0


def play(name: str, rabbitmq: str, directory: Path, *, mutant: bool = True) -> Report:
    """
    Play a mutant's scenario.

    Args:
        name: The mutant.
        rabbitmq: URL of RabbitMQ.
        directory: An empty directory.
        mutant: Whether the mutant is in the processes.

    Raises:
        Late: If it is not over in time.
        RuntimeError: If a process has ended that should not have.
    """
    with Stage(rabbitmq, directory, mutant=name if mutant else "", deadline=90) as stage:
        baseline = [stage.worker(f"baseline-{number}", kind=kind) for number, kind in enumerate(("callback", "iterator"))]
        producer = stage.producer(SCENARIOS[name].rate, [_KEY])
        stage.ready(*baseline, producer)
        stage.more(_KEY, _SIDE)
        SCENARIOS[name].act(stage, baseline)
        stage.more(_KEY, _SIDE)
        stage.stop(producer)
        return stage.settle(8)


def _created(stage: Stage, *, slow: float = 0.0) -> Actor:
    """
    Create the sandbox, and return its worker.
    """
    worker = stage.worker(_SANDBOX, sandbox=_SANDBOX, slow=slow)
    _finished(stage, stage.manager("create", _SANDBOX, _KEY))
    stage.ready(worker)
    stage.more(_KEY, _SIDE)
    return worker


def _finished(stage: Stage, manager: Actor) -> None:
    stage.wait(f"{manager.spec.name} to be done", lambda: stage.ended(manager))
    stage.watch()


def _cut_while_forwarding(stage: Stage, baseline: list[Actor]) -> None:
    """
    The baseline's processes lose their connections, and their lives, while they forward.
    """
    _created(stage)
    for _ in range(2):
        for each in baseline:
            stage.cut(each)
            stage.sleep(1)
    for number, each in enumerate(baseline):
        stage.more(_KEY, _SIDE)
        stage.kill(each)
        baseline[number] = stage.again(each)
        stage.ready(baseline[number])


def _reader_that_misses_the_end(stage: Stage, baseline: list[Actor]) -> None:
    """
    A process of the baseline goes on forwarding for a while when nothing takes it any more.
    """
    _created(stage)
    manager = stage.manager("delete", _SANDBOX, _KEY, wait=True)
    stage.ready(manager)
    stage.freeze(baseline[0])
    stage.go(manager)
    _finished(stage, manager)
    stage.thaw(baseline[0])


def _late_publish(stage: Stage, baseline: list[Actor]) -> None:
    """
    What a process of the baseline has decided to forward is published only when the sandbox's queue was found empty.
    """
    worker = _created(stage)
    stage.hold(baseline[0])
    stage.more(_KEY, _SIDE)
    before = stage.taken(baseline[0])
    stage.wait("something to be forwarded late", lambda: stage.taken(baseline[0]) or before)
    manager = stage.manager("delete", _SANDBOX, _KEY, hold="remove")
    stage.wait("the queue to be empty", lambda: manager.spec.sign("at-remove").exists() or stage.ended(manager))
    stage.release(baseline[0])
    stage.sleep(1)
    stage.release(manager)
    _finished(stage, manager)
    stage.stop(worker)


def _sandbox_in_the_dark(stage: Stage, baseline: list[Actor]) -> None:
    """
    A sandbox with much to do does not hear that it is deleted.
    """
    worker = _created(stage, slow=0.8)
    stage.more(_KEY, 6 * _SIDE)
    manager = stage.manager("delete", _SANDBOX, _KEY, wait=True)
    stage.ready(manager)
    stage.freeze(worker)
    stage.go(manager)
    stage.sleep(LEASE + 3)
    stage.thaw(worker)
    _finished(stage, manager)


def _sandbox_that_hangs(stage: Stage, baseline: list[Actor]) -> None:
    """
    A sandbox stands still with messages in its hands while it is deleted, and is killed.
    """
    worker = _created(stage, slow=1.0)
    stage.more(_KEY, _SIDE)
    manager = stage.manager("delete", _SANDBOX, _KEY, wait=True)
    stage.ready(manager)

    def deleted() -> None:
        stage.go(manager)
        stage.sleep(LEASE + 5)

    stage.pause(worker, 0, deleted, last=True)
    _finished(stage, manager)


def _deleter_that_is_overtaken(stage: Stage, baseline: list[Actor]) -> None:
    """
    A controller stands still before it closes the queue; another one ends the life, the next one begins, and then it goes on.
    """
    stage.stop(_created(stage))
    first = stage.manager("delete", _SANDBOX, _KEY, hold="close")
    stage.wait("the sandbox to be deleted", lambda: first.spec.sign("at-close").exists())
    _finished(stage, stage.manager("delete", _SANDBOX, _KEY))
    _created(stage)
    stage.release(first)
    _finished(stage, first)
    stage.more(_KEY, _SIDE)
    _finished(stage, stage.manager("delete", _SANDBOX, _KEY))


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


def _alone_in_the_dark(stage: Stage, baseline: list[Actor]) -> None:
    """
    The only process of the baseline does not hear that a sandbox is deleted, and forwards what comes back.
    """
    stage.stop(baseline[1])
    _created(stage)
    manager = stage.manager("delete", _SANDBOX, _KEY, wait=True)
    stage.ready(manager)
    stage.freeze(baseline[0])
    stage.go(manager)
    stage.wait("the sandbox to be deleted", lambda: stage.state(_KEY) == "deleting")
    stage.sleep(LEASE + 1)
    stage.thaw(baseline[0])
    _finished(stage, manager)


#: Mutant -> how it is caught.
SCENARIOS: dict[str, Scenario] = {
    "R1": Scenario("acknowledges before the broker has confirmed the copy", "lost", _cut_while_forwarding),
    "R2": Scenario("has no alternate exchange, and takes what came back for sent", "lost", _reader_that_misses_the_end),
    "R3": Scenario("leaves the sandbox's queue bound while it is deleted", "lost", _late_publish),
    "R4": Scenario("moves what is left before the lease is over", "wrong_owner", _sandbox_in_the_dark, 300.0),
    "R7": Scenario("deletes a queue of which messages are in somebody's hands", "lost", _sandbox_that_hangs),
    "R9": Scenario("calls the queue of each life of a key the same", "wrong_owner", _deleter_that_is_overtaken),
    "R10": Scenario("says that a key is active before the lease is over", "wrong_owner", _reader_in_the_dark),
    "R11": Scenario("forwards again what came back", "looped", _alone_in_the_dark),
    "R14": Scenario("decides by a table older than the lease", "wrong_owner", _reader_in_the_dark),
}
