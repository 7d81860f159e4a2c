"""
The deduplication of a run: what comes of a message, and the mark that it was handled, are one transaction of SQLite's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from ..journal import clock

__all__ = ["Effect", "Inbox"]

# Seconds after which the claim of somebody who has not said how it ended is another's; longer than a handler takes.
_TTL = 3.0


class Effect(NamedTuple):
    """
    What came of a message. *sandbox*: in whose data, empty for the baseline's.
    """

    id: str
    sandbox: str
    worker: str


class Inbox:
    """
    The messages that were handled, whoever did it.

    Args:
        path: The SQLite file.
        worker: Who asks.
        sandbox: For whom; empty for the baseline.
    """

    def __init__(self, path: Path, worker: str = "", sandbox: str = "") -> None:
        self._worker = worker
        self._sandbox = sandbox
        # What a killed process has written is there; only the machine's own death would lose it.
        self._database = sqlite3.connect(path, timeout=20, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE IF NOT EXISTS claims (id TEXT PRIMARY KEY, claimant TEXT, until REAL)")
        self._database.execute("CREATE TABLE IF NOT EXISTS effects (id TEXT, sandbox TEXT, worker TEXT)")

    def claim(self, id_: str, claimant: str) -> Literal["ours", "done", "busy"]:
        """
        Ask whether a message is to be handled now.

        Args:
            id_: The message.
            claimant: Tells this attempt to handle it from every other one.
        """
        with self._transaction():
            row = self._database.execute("SELECT until FROM claims WHERE id = ?", (id_,)).fetchone()
            if row is not None and row[0] is None:
                return "done"
            if row is not None and row[0] > clock():
                return "busy"
            self._database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (id_, claimant, clock() + _TTL))
            return "ours"

    def done(self, id_: str, claimant: str) -> bool:
        """
        Let something come of a message, unless the claim is another's by now; return whether it did.
        """
        with self._transaction():
            mine = self._database.execute(
                "UPDATE claims SET until = NULL WHERE id = ? AND claimant = ? AND until IS NOT NULL", (id_, claimant)
            )
            if mine.rowcount:
                self._database.execute("INSERT INTO effects VALUES (?, ?, ?)", (id_, self._sandbox, self._worker))
            return bool(mine.rowcount)

    def effects(self) -> list[Effect]:
        """
        Return what came of all messages.
        """
        return [Effect(*row) for row in self._database.execute("SELECT id, sandbox, worker FROM effects")]

    def close(self) -> None:
        """
        Close the file.
        """
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
