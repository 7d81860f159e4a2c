"""
The lives of keys in a run on RabbitMQ: each slot creates a sandbox, uses it, deletes it, and begins anew, and something befalls each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ..troupe import Actor
from .stage import Stage

__all__ = ["Slot"]

# Seconds that the mover takes for each message where it is to be met at work.
_SLOWLY = 0.03
_AMID = 10


class Slot:
    """
    One key, and the sandboxes that have it one after the other.

    Args:
        stage: The run.
        number: Which slot, from 0.
        side: How many messages with the key are handled on each side, about.
        lived: Is called after each life.
    """

    def __init__(self, stage: Stage, number: int, side: int, lived: Callable[[], object]) -> None:
        self.key = f"pr-{number}"
        self._stage = stage
        self._number = number
        self._side = side
        self._lived = lived
        self._random = random.Random(number)

    def live(self, twists: Sequence[str]) -> None:
        """
        Go through one life for each twist.
        """
        for number, twist in enumerate(twists):
            self._live(f"sb-{self._number}-{'ab'[number % 2]}", f"{self._number}-{number}", twist)
            self._lived()

    def _live(self, sandbox: str, id_: str, twist: str) -> None:
        stage = self._stage
        stage.more(self.key, self._side)
        if twist == "abandon":
            self._abandon(sandbox)
        kind = self._random.choice(("callback", "iterator"))
        # So slow that there is something left, where that is to be moved.
        slow = 1.0 if twist in ("kill-mover", "cut-mover", "dead") else 0.0
        workers = [] if twist == "late" else [stage.worker(f"{sandbox}-{id_}", sandbox=sandbox, kind=kind, slow=slow)]
        self._create(sandbox, twist)
        if twist in ("late", "two"):
            workers.append(stage.worker(f"{sandbox}-{id_}-more", sandbox=sandbox, kind=kind))
        stage.ready(*workers)
        stage.sleep(self._random.uniform(0.5, 1.5))
        stage.more(self.key, self._side)
        if twist == "kill-active":
            stage.kill(workers[0])
            stage.sleep(self._random.uniform(0, 2))
            workers[0] = stage.again(workers[0])
            stage.ready(workers[0])
        elif twist == "cut-active":
            for _ in range(2):
                stage.cut(workers[0])
                stage.sleep(self._random.uniform(0.5, 2))
        elif twist == "two":
            stage.stop(workers.pop())
            stage.note("leave")
        elif slow:
            stage.more(self.key, 2 * self._side)
            stage.kill(workers.pop())
        self._delete(sandbox, twist)
        for worker in workers:
            stage.stop(worker)
        stage.more(self.key, self._side)

    def _create(self, sandbox: str, twist: str) -> None:
        stage = self._stage
        manager = self._creator(sandbox)
        if twist == "kill-creator":
            stage.sleep(self._random.uniform(0, 2.5))
            manager = self._replaced(manager)
        self._finish(manager, f"{sandbox} to be created")

    def _delete(self, sandbox: str, twist: str) -> None:
        stage = self._stage
        manager = stage.manager("delete", sandbox, self.key, slow=_SLOWLY if twist.endswith("-mover") else 0.0)
        if twist == "kill-deleter":
            stage.wait(f"{self.key} to be deleted", lambda: self._is("deleting", manager))
            stage.sleep(self._random.uniform(0, 2.5))
            manager = self._replaced(manager)
        elif twist.endswith("-mover"):
            stage.wait("messages to be moved", lambda: stage.taken(manager) >= _AMID or stage.ended(manager))
            if twist == "kill-mover":
                manager = self._replaced(manager)
            else:
                stage.cut(manager)
        self._finish(manager, f"{sandbox} to be deleted")

    def _abandon(self, sandbox: str) -> None:
        stage = self._stage
        manager = self._creator(sandbox)
        stage.sleep(self._random.uniform(0, 1.5))
        stage.kill(manager)
        self._finish(stage.manager("delete", sandbox, self.key), f"{sandbox} to be given up")

    def _creator(self, sandbox: str) -> Actor:
        """
        Start to create a sandbox, and return when its queues are made.
        """
        stage = self._stage
        while not stage.making.acquire(timeout=0.1):
            stage.watch()
        try:
            manager = stage.manager("create", sandbox, self.key)
            stage.wait(f"{self.key} to be created", lambda: self._is("creating", manager))
        finally:
            stage.making.release()
        return manager

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
