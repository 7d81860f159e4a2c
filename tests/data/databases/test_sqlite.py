"""
Copies of SQLite files: whole while somebody writes, of another file in each life, and what the folder may hold.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import StaticPool, create_engine, text

import tenancy
from tenancy.data.databases import DatabasePerKey, SQLiteFile
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.databases.places import file_with


def test_a_copy_is_whole_while_somebody_writes(tmp_path: Path) -> None:
    """Each copy has all of a transaction or nothing of it; also with a write-ahead log."""
    golden = file_with(
        tmp_path / "golden.db", ("PRAGMA journal_mode = WAL", "CREATE TABLE t (a, b)", "INSERT INTO t VALUES (0, 0)")
    )
    ending = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(golden, timeout=30)) as connection:
            while not ending.is_set():
                connection.execute("UPDATE t SET a = a + 1")
                connection.execute("UPDATE t SET b = b + 1")
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    provider = SQLiteFile(golden, tmp_path / "made")
    try:
        for number in range(20):
            file = provider.create(f"k{number}").removeprefix("sqlite:///")
            with closing(sqlite3.connect(file)) as connection:
                ((a, b),) = connection.execute("SELECT a, b FROM t").fetchall()
                assert a == b
    finally:
        ending.set()
        writer.join()


def test_who_has_an_earlier_life_open_cannot_reach_the_next(tmp_path: Path) -> None:
    """Not even by the journal that it leaves."""
    provider = SQLiteFile(file_with(tmp_path / "golden.db"), tmp_path / "made")
    first = provider.create("pr-42")
    with closing(sqlite3.connect(first.removeprefix("sqlite:///"))) as connection:
        connection.execute("SELECT * FROM golden").fetchall()
        provider.drop("pr-42")
        second = provider.create("pr-42")
        assert first != second
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO golden VALUES (2, 'late')")
    with closing(sqlite3.connect(second.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT word FROM golden").fetchall() == [("kept",)]


def test_hostile_paths(tmp_path: Path) -> None:
    """Spaces, percent signs, '#' and other scripts are names like others; a '?' is refused."""
    folder = tmp_path / "a b%20#ü"
    folder.mkdir()
    provider = SQLiteFile(file_with(folder / "golden %41#.db"), folder / "made")
    engine = create_engine(provider.create("pr-42"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT word FROM golden")).scalar() == "kept"
    engine.dispose()
    with pytest.raises(ConfigurationError, match="\\?"):
        SQLiteFile(folder / "golden.db", tmp_path / "a?b")


def test_what_else_is_in_the_folder(tmp_path: Path) -> None:
    """Files and folders that are no key's are left alone; a folder of a key without a file is no database."""
    folder = tmp_path / "made"
    (folder / "Notes").mkdir(parents=True)
    (folder / "pr-41").write_text("a file")
    (folder / "pr-42").mkdir()
    provider = SQLiteFile(file_with(tmp_path / "golden.db"), folder)
    assert provider.databases() == {}
    provider.create("pr-42")
    assert set(provider.databases()) == {"pr-42"}
    assert (folder / "Notes").is_dir()


def test_a_golden_file_that_is_none(tmp_path: Path) -> None:
    """It is named, and not made."""
    (tmp_path / "text.db").write_text("no database" * 1000)
    for name in ("none.db", "text.db"):
        provider = SQLiteFile(tmp_path / name, tmp_path / "made")
        with pytest.raises(PartitionError, match=name):
            provider.create("pr-42")
        assert provider.databases() == {}
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ConfigurationError, match="migrate="):
        SQLiteFile(None, tmp_path / "made")


def test_a_baseline_in_memory(tmp_path: Path) -> None:
    """An engine in memory is the baseline's; keys have files."""
    provider = SQLiteFile(file_with(tmp_path / "golden.db"), tmp_path / "made")
    provider.create("pr-42")
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    databases = DatabasePerKey(provider)
    databases.install(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE golden (id INT, word TEXT)"))
        connection.execute(text("INSERT INTO golden VALUES (1, 'in memory')"))
    for key, word in ((None, "in memory"), ("pr-42", "kept"), (None, "in memory")):
        with tenancy.scope(key), engine.connect() as connection:
            assert connection.execute(text("SELECT word FROM golden")).scalar() == word
    engine.dispose()
    databases.uninstall(engine)
