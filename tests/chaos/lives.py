"""
The lives of keys in a chaos run: each slot creates a sandbox, uses it, deletes it, and begins anew, and something befalls each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from .spec import SESSION
from .stage import Actor, Stage

__all__ = ["Slot"]

# Seconds that a sandbox has to handle what is its own, where it will not.
_IN_VAIN = 1.0
_ENOUGH = 40.0

#: The consumer protocols under which sandboxes read, in turn.
_PROTOCOLS = (
    (("partition.assignment.strategy", "range"),),
    (("partition.assignment.strategy", "cooperative-sticky"),),
    (("group.protocol", "consumer"),),
)


class Slot:
    """
    One key, and the sandboxes that have it one after the other.

    Args:
        stage: The run.
        number: Which slot, from 0.
        side: How many records with the key there are to be on each side of a cut.
        lived: Is called after each life.
    """

    def __init__(self, stage: Stage, number: int, side: int, lived: Callable[[], object]) -> None:
        self.key = f"pr-{number}"
        self._stage = stage
        self._number = number
        self._side = side + 10
        self._lived = lived
        self._random = random.Random(number)

    def live(self, twists: Sequence[str]) -> None:
        """
        Go through one life for each twist.
        """
        for number, twist in enumerate(twists):
            # Two names, so that a group is used again and another sandbox has the key in between.
            self._live(f"sb-{self._number}-{'ab'[number % 2]}", f"{self._number}-{number}", twist)
            self._lived()

    def _live(self, sandbox: str, id_: str, twist: str) -> None:
        stage = self._stage
        stage.more(self.key, self._side)
        if twist == "abandon":
            self._abandon(sandbox)
        settings = _PROTOCOLS[self._random.randrange(len(_PROTOCOLS))]
        workers = [] if twist == "late" else [stage.worker(f"{sandbox}-{id_}", sandbox=sandbox, settings=settings)]
        self._create(sandbox, twist)
        if twist in ("late", "two"):
            workers.append(stage.worker(f"{sandbox}-{id_}-more", sandbox=sandbox, settings=settings))
        # Not before it reads: what befalls it is to befall one at work.
        stage.ready(*workers)
        stage.sleep(self._random.uniform(0.5, 1.5))
        stage.more(self.key, self._side)
        if twist == "kill-active":
            stage.kill(workers[0])
            stage.sleep(self._random.uniform(0, SESSION))
            workers[0] = stage.again(workers[0])
            stage.ready(workers[0])
        elif twist == "pause-active":
            # Longer than the lease and every session: in a group of KIP-848 the broker sets it, to 6 s.
            stage.pause(workers[0], 2 * SESSION + 2)
        elif twist == "two":
            stage.stop(workers.pop())
            stage.note("leave")
        self._end(sandbox, workers, twist)
        for worker in workers:
            worker.expected_to_end = True
            if not stage.ended(worker):
                stage.wait(
                    f"{worker.spec.name} to see that it is not needed any more", lambda worker=worker: stage.ended(worker), 30
                )
        stage.more(self.key, self._side)

    def _end(self, sandbox: str, workers: list[Actor], twist: str) -> None:
        stage = self._stage
        if twist in ("dead-handle", "dead-drop", "kill-gap"):
            for worker in workers:
                stage.kill(worker)
            self._delete(sandbox, twist, _IN_VAIN, "drop" if twist == "dead-drop" else "handle")
        elif twist == "hung-handle":
            stage.pause(workers[0], 0, lambda: self._delete(sandbox, twist, _IN_VAIN, "handle"))
        else:
            self._delete(sandbox, twist, _ENOUGH, "drop")

    def _create(self, sandbox: str, twist: str) -> None:
        stage = self._stage
        manager = stage.manager("create", sandbox, self.key)
        if twist == "kill-creator":
            stage.wait(f"{self.key} to be created", lambda: self._is("creating", manager))
            stage.sleep(self._random.uniform(0, 2.5))
            manager = self._replaced(manager)
        self._finish(manager, f"{sandbox} to be created")

    def _delete(self, sandbox: str, twist: str, drain: float, remaining: str) -> None:
        stage = self._stage
        manager = stage.manager("delete", sandbox, self.key, drain=drain, remaining=remaining)
        at = {"kill-deleter": "deleting", "kill-gap": "reclaiming"}.get(twist)
        if at is not None:
            stage.wait(f"{self.key} to be {at}", lambda: self._is(at, manager))
            stage.sleep(self._random.uniform(0, 2.5))
            manager = self._replaced(manager)
        self._finish(manager, f"{sandbox} to be deleted")

    def _abandon(self, sandbox: str) -> None:
        stage = self._stage
        manager = stage.manager("create", sandbox, self.key)
        stage.wait(f"{self.key} to be created", lambda: self._is("creating", manager))
        stage.sleep(self._random.uniform(0, 1.5))
        stage.kill(manager)
        self._finish(stage.manager("delete", sandbox, self.key), f"{sandbox} to be given up")

    def _is(self, state: str, manager: Actor) -> bool:
        return self._stage.state(self.key) == state or self._stage.ended(manager)

    def _replaced(self, manager: Actor) -> Actor:
        if self._stage.ended(manager):
            return manager
        self._stage.kill(manager)
        self._stage.sleep(self._random.uniform(0, 1))
        return self._stage.again(manager)

    def _finish(self, manager: Actor, what: str) -> None:
        self._stage.wait(what, lambda: self._stage.ended(manager), 150)
        self._stage.watch()
