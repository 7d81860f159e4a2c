"""
Processes on a stage: started, killed, stopped for a while and continued, each of it written down; and what a run is waited for by.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.services.process import Process

from .journal import KINDS, Entry, Fault, Journal, Journals, Progressed, Sent, clock

__all__ = ["Actor", "Late", "Troupe"]

_ROOT = Path(__file__).resolve().parents[2]


class Late(RuntimeError):
    """
    The run has not got where it should be by its deadline.
    """


class Actor:
    """
    One process on the stage.

    Args:
        spec: What it was told.
        process: The process.
        module: What it runs.
    """

    def __init__(self, spec: Any, process: Process, module: str) -> None:
        self.spec = spec
        self.module = module
        self.process = process
        self.pid = process.pid
        self.expected_to_end = False


class Troupe:
    """
    The processes of one run; on what broker they play is a subclass's affair.

    Args:
        run: An empty directory for the journals.
        deadline: Seconds after which everything that is waited for is given up.
    """

    #: Where the modules are that its processes run.
    package: ClassVar[str] = "tests.chaos"
    #: What may stand in a journal.
    kinds: ClassVar[tuple[type[Entry], ...]] = KINDS
    #: The entry of a message that the broker has confirmed.
    confirmed: ClassVar[type[Any]] = Sent

    def __init__(self, run: Path, *, deadline: float) -> None:
        self.run = run
        self.end = clock() + deadline
        self.journals = Journals(run, self.kinds)
        self.actors: dict[str, Actor] = {}
        self._journal = Journal(run, "stage")
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.failed: list[BaseException] = []

    def __exit__(self, *error: object) -> None:
        # Threads that still do something on the stage end with the next thing that they do.
        self.failed.append(Late("the run is over"))
        with self._lock:
            actors = list(self.actors.values())
        for actor in actors:
            self._signal(actor, signal.SIGCONT)
            actor.process.kill()

    # What is done to them

    def again(self, actor: Actor) -> Actor:
        """
        Start a process once more that is gone.
        """
        return self._start(actor.spec, actor.module)

    def go(self, actor: Actor) -> None:
        """
        Let a controller begin that waits.
        """
        actor.spec.sign("wait").unlink(missing_ok=True)

    def kill(self, actor: Actor) -> None:
        """
        End a process at once.
        """
        actor.expected_to_end = True
        began = clock()
        actor.process.kill()
        self.note("kill", actor, clock() - began, at=began)  # up to then it was at work

    def stop(self, actor: Actor, seconds: float = 15.0) -> None:
        """
        Ask a process to end, and see that it does.
        """
        actor.expected_to_end = True
        actor.process.stop(seconds)

    def freeze(self, actor: Actor) -> None:
        """
        Keep the route store from a process.
        """
        self.note("freeze", actor)
        actor.spec.sign("freeze").touch()

    def thaw(self, actor: Actor) -> None:
        """
        Let a process have the route store again.
        """
        actor.spec.sign("freeze").unlink(missing_ok=True)

    def pause(self, actor: Actor, seconds: float, during: Callable[[], object] | None = None, *, last: bool = False) -> None:
        """
        Stop a process for so long, or for longer if what is done meanwhile takes longer; *last*: it is killed without going on.
        """
        began = clock()
        self._signal(actor, signal.SIGSTOP)
        try:
            if during is not None:
                during()
            self.sleep(max(0.0, began + seconds - clock()))
        finally:
            self.note("pause", actor, clock() - began, at=began)
            if last:
                self.kill(actor)
            self._signal(actor, signal.SIGCONT)

    def note(self, kind: str, actor: Actor | None = None, seconds: float = 0.0, *, at: float | None = None) -> None:
        """
        Write down what is done to the system.
        """
        name, pid = (actor.spec.name, actor.pid) if actor is not None else ("", 0)
        self._journal.write(Fault(kind, name, pid, clock() if at is None else at, seconds))

    # Waiting

    def sleep(self, seconds: float) -> None:
        """
        Let time pass, while nothing is wrong.
        """
        until = clock() + seconds
        while (left := until - clock()) > 0:
            self.watch()
            time.sleep(min(0.1, left))

    def wait(self, what: str, done: Callable[[], Any], seconds: float = 60.0) -> Any:
        """
        Wait until something is the case, and return what says so.

        Raises:
            Late: If it is not in time.
        """
        until = min(clock() + seconds, self.end)
        while not (found := done()):
            self.watch()
            if clock() > until:
                raise Late(f"waited in vain for {what}")
            time.sleep(0.03)
        return found

    def ready(self, *actors: Actor) -> None:
        """
        Wait until processes have started.
        """
        for actor in actors:
            self.wait(f"{actor.spec.name} to start", actor.spec.sign("ready").exists)

    def watch(self) -> None:
        """
        See that nothing went wrong: no process has ended that should not, and the deadline lies ahead.
        """
        if self.failed:
            raise self.failed[0]
        if clock() > self.end:
            raise Late("the run's deadline has passed")
        for actor in list(self.actors.values()):
            code = actor.process.exit_code
            if code and not actor.expected_to_end:
                actor.expected_to_end = True
                raise RuntimeError(f"{actor.spec.name} ended with {code}:\n{self.tail(actor)}")

    def ended(self, actor: Actor) -> bool:
        """
        Return whether a process has ended.
        """
        return actor.process.exit_code is not None

    def state(self, key: str) -> str:
        """
        Return where in its life a key is, as controllers have said last.
        """
        self.journals.update()
        told = [each for each in self.journals.of(Progressed) if each.key == key]
        return max(told, key=lambda each: each.at).state if told else "none"

    def sent(self, key: str) -> int:
        """
        Return how many records with a key were sent so far.
        """
        self.journals.update()
        return self._counted()[key]

    def more(self, key: str, least: int) -> None:
        """
        Wait until so many more records with a key were sent.
        """
        before = self.sent(key)
        self.wait(f"{least} more records with {key}", lambda: self.sent(key) >= before + least)

    def _counted(self) -> Counter[str | None]:
        with self._lock:
            listed = self.journals.of(self.confirmed)
            counts, seen = getattr(self, "_counts", (Counter[str | None](), 0))
            total = len(listed)
            counts.update(each.key for each in listed[seen:total])
            self._counts = (counts, total)
            return counts

    def tail(self, actor: Actor) -> str:
        """
        Return the end of what a process printed.
        """
        return (self.run / f"{actor.spec.name}.log").read_text(errors="replace")[-2000:]

    def _start(self, spec: Any, module: str) -> Actor:
        spec.sign("ready").unlink(missing_ok=True)
        with self._lock, (self.run / f"{spec.name}.log").open("ab") as log:
            if self.failed:
                raise self.failed[0]
            command = [sys.executable, "-m", f"{self.package}.{module}"]
            process = Process(command, environment=spec.variables(), directory=_ROOT, log=log)
            actor = self.actors[spec.name] = Actor(spec, process, module)
        return actor

    @staticmethod
    def _signal(actor: Actor, number: signal.Signals) -> None:
        if actor.process.exit_code is None:
            os.kill(actor.pid, number)
