"""
What every process of a chaos run writes down, a JSON array a line, so that it survives the process; and who reads it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "KINDS",
    "Assigned",
    "Committed",
    "Dropped",
    "Entry",
    "Fault",
    "Handled",
    "Journal",
    "Journals",
    "Progressed",
    "Revoked",
    "Sent",
    "clock",
]

#: Seconds on a clock that all processes of this machine share.
clock = time.monotonic


class Sent(NamedTuple):
    """
    A record that the broker has confirmed to the producer.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    value: str


class Handled(NamedTuple):
    """
    A record that a handler is done with. *sandbox*: for whom, empty for the baseline; *gap*: by a gap reader, in the sandbox's place.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    worker: str
    sandbox: str
    pid: int
    group: str
    began: float
    ended: float
    gap: bool = False


class Dropped(NamedTuple):
    """
    A record that a gap reader has dropped, as its policy says.
    """

    topic: str
    partition: int
    offset: int
    sandbox: str
    group: str
    at: float


class Committed(NamedTuple):
    """
    A commit that the broker has confirmed.
    """

    group: str
    topic: str
    partition: int
    offset: int
    worker: str
    pid: int
    at: float


class Assigned(NamedTuple):
    """
    A partition that a process begins to read, just before it asks where it is to begin.
    """

    group: str
    topic: str
    partition: int
    worker: str
    pid: int
    at: float


class Revoked(NamedTuple):
    """
    A partition that a process gives up, or has lost.
    """

    group: str
    topic: str
    partition: int
    worker: str
    pid: int
    at: float
    lost: bool = False


class Progressed(NamedTuple):
    """
    What a controller says about a key.
    """

    controller: str
    key: str
    state: str
    waiting: str
    at: float


class Fault(NamedTuple):
    """
    What was done to the system: ``kill``, ``pause``, ``join``, ``leave``, ``broker``, ``store``, ``freeze``, ``cut``.

    *seconds*: how long it lasted.
    """

    kind: str
    what: str
    pid: int
    at: float
    seconds: float = 0.0


#: What is written down; each kind is a `NamedTuple`.
Entry = tuple[Any, ...]

#: What is written down in a run on Kafka.
KINDS: tuple[type[Entry], ...] = (Sent, Handled, Dropped, Committed, Assigned, Revoked, Progressed, Fault)


class Journal:
    """
    Writes the journal of one process; each line in one call, so that a line is there or is not.

    Args:
        directory: Where the journals of the run are.
        name: The process.
    """

    def __init__(self, directory: Path, name: str) -> None:
        path = directory / f"{name}-{os.getpid()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: Entry) -> None:
        """
        Add an entry.
        """
        os.write(self._file, (json.dumps([type(entry).__name__, *entry]) + "\n").encode())

    def sync(self) -> None:
        """
        Wait until what was written is on the disk.
        """
        os.fsync(self._file)


class Journals:
    """
    All journals of a run, read on as they grow.

    Args:
        directory: Where they are.
        kinds: What may stand in them.
    """

    def __init__(self, directory: Path, kinds: Sequence[type[Entry]] = KINDS) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._entries: dict[type[Entry], list[Entry]] = {kind: [] for kind in kinds}

    def update(self) -> None:
        """
        Read what was added; a line that is not complete yet waits for the next time.
        """
        with self._lock:
            for path in sorted(self._directory.glob("*.jsonl")):
                start = self._read.get(path, 0)
                if path.stat().st_size == start:
                    continue
                with path.open("rb") as file:
                    file.seek(start)
                    text = file.read()
                whole = text.rfind(b"\n") + 1
                self._read[path] = start + whole
                for line in text[:whole].splitlines():
                    name, *fields = json.loads(line)
                    kind = self._kinds[name]
                    self._entries[kind].append(kind(*fields))

    def of(self, kind: type[Entry]) -> list:  # type: ignore[type-arg]
        """
        Return all entries of a kind that were read so far; the list grows with the next `update`.
        """
        return self._entries[kind]
