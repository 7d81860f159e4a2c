"""
Databases in files, for tests and demonstrations: each key gets a copy of a golden file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ._provider import Database, Databases, check_function, migrated
from ._registry import CREATING, file_lock

__all__ = ["SQLiteFile"]

# Neither begins like a key, so what is half made or half removed is never taken for a database.
_MAKING, _DROPPING, _LOCK = ".making-", ".dropping-", ".lock"
_SUFFIX = ".db"
_MOMENT = 12  # digits


class SQLiteFile:
    """
    A copy of a golden SQLite file for each key, made with SQLite's backup API (https://www.sqlite.org/backup.html), so that it is whole
    also while somebody writes to the golden file.

    The folder is the list of keys: in it is a folder for each key, put there by one renaming when the copy is finished. The file in
    it has another name each time it is made, so who still has the file of an earlier life open can write to no later one.

    Args:
        golden: The file to copy; None for a database that *migrate* fills.
        folder: Where the copies are, on a local disk, and nothing else is; it is made.
        migrate: Called with the ``sqlite:///`` URL of each new copy before it counts as made.
        timeout: Seconds to wait for another process that makes or drops one.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        golden: str | os.PathLike[str] | None,
        folder: str | os.PathLike[str],
        *,
        migrate: Callable[[str], object] | None = None,
        timeout: float = 60.0,
    ) -> None:
        check_function("SQLiteFile", migrate)
        if golden is None and migrate is None:
            raise ConfigurationError("SQLiteFile(golden=None): give a golden file, or migrate=, a function that makes the tables")
        self._golden = None if golden is None else Path(golden).absolute()
        self._folder = _check_folder(Path(folder).absolute())
        self._migrate = migrate
        self._timeout = timeout

    def create(self, key: RoutingKey | str) -> str:
        """
        Copy the golden file for a key, unless it has a copy; see `Provider.create`.
        """
        key = RoutingKey(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked(key):
            self._clean()
            found = self._file(key)
            if found is None:
                shutil.rmtree(self._folder / key, ignore_errors=True)  # emptied by somebody else
                found = self._make(key)
            return _url(found)

    def drop(self, key: RoutingKey | str) -> None:
        """
        Remove a key's file; see `Provider.drop`. What is written by connections that are still open is lost.
        """
        key = RoutingKey(key)
        if not self._folder.is_dir():
            return
        with self._locked(key):
            if (self._folder / key).exists():
                # Gone at once for everybody, however long the rest takes.
                (self._folder / key).rename(self._folder / f"{_DROPPING}{secrets.token_hex(8)}")
            self._clean()

    def databases(self) -> Databases:
        """
        Return the files that are there, and the keys of those that are half made; see `Provider.databases`.
        """
        if not self._folder.is_dir():
            return Databases({}, {})
        # First what is being made: finished meanwhile it is among the others, too.
        names = [entry.name for entry in os.scandir(self._folder)]
        making = [RoutingKey.parse(name.removeprefix(_MAKING)) for name in names if name.startswith(_MAKING)]
        finished: dict[RoutingKey, Database] = {}
        for key in {*map(RoutingKey.parse, names), *making} - {None}:
            if key is not None and (file := self._file(key)) is not None:
                finished[key] = Database(_url(file), file.stem, _since(file))
        return Databases(finished, {key: CREATING for key in making if key is not None and key not in finished})

    def _make(self, key: RoutingKey) -> Path:
        # The file tells when it was made; its folder's time is that of the last write.
        life = f"{round(time.time() * 1000):0{_MOMENT}x}{secrets.token_hex(10)}"
        making = self._folder / f"{_MAKING}{key}"
        try:
            making.mkdir()
            file = making / f"{life}{_SUFFIX}"
            self._copy(file)
            if self._migrate is not None:
                with migrated("SQLiteFile", key):
                    self._migrate(_url(file))
            making.rename(self._folder / key)
        except (OSError, sqlite3.Error) as error:
            raise PartitionError(f"{self._golden} cannot be copied to {making} for routing key {str(key)!r}: {error}") from error
        return self._folder / key / file.name

    def _copy(self, file: Path) -> None:
        with closing(sqlite3.connect(file)) as target:
            if self._golden is not None:
                # By name as a URI, since SQLite would make a file that is not there.
                with closing(
                    sqlite3.connect(f"file:{quote(str(self._golden))}?mode=ro", uri=True, timeout=self._timeout)
                ) as golden:
                    golden.backup(target)

    def _file(self, key: RoutingKey) -> Path | None:
        try:
            files = [Path(entry.path) for entry in os.scandir(self._folder / key) if entry.name.endswith(_SUFFIX)]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return files[0] if files else None

    def _clean(self) -> None:
        # With the lock nobody is at work on them.
        for entry in list(os.scandir(self._folder)):
            if entry.name.startswith((_MAKING, _DROPPING)):
                shutil.rmtree(entry.path, ignore_errors=True)

    def _locked(self, key: RoutingKey) -> AbstractContextManager[None]:
        busy = PartitionError(
            f"another process has been making or dropping a database in {self._folder} for {self._timeout:g} s, so that of routing key "
            f"{str(key)!r} has to wait: try again"
        )
        return file_lock(str(self._folder / _LOCK), self._timeout, busy)


def _since(file: Path) -> float | None:
    try:
        return int(file.stem[:_MOMENT], 16) / 1000
    except ValueError:
        return None  # of somebody else's


def _url(file: Path) -> str:
    return URL.create("sqlite", database=str(file)).render_as_string()


def _check_folder(folder: Path) -> Path:
    if "?" in str(folder):
        raise ConfigurationError(
            f"SQLiteFile(folder={str(folder)!r}): a URL cannot have a '?' in a file's name; use another folder"
        )
    return folder
