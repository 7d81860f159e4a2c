"""
Route stores in SQLite and PostgreSQL: the contract, and what is different about databases.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenancy import ConfigurationError, RouteSourceError
from tenancy.routes.stores import Member, Put, RouteStore, open_store, put_workload
from tenancy.routes.stores import _sqlite as sqlite_module
from tenancy.routes.stores.sql import SQLStore
from tests import services
from tests.routes.stores.contract import Place, ServerContract, eventually, watching
from tests.routes.stores.outages import PATIENCE, OutageContract, silent_server

# Someone who has begun to write, and goes no further.
STOPPED = """
import sys, time
from tenancy.routes.stores import open_store
with open_store(sys.argv[1])._database.connect(writing=True) as connection:
    connection.exec_driver_sql("UPDATE tenancy_meta SET version = version + 1")
    print("locked", flush=True)
    time.sleep(60)
"""


class SQLPlace(Place):
    url: str

    def open(self) -> RouteStore:
        return open_store(self.url)

    def run(self, statement: str) -> None:
        raise NotImplementedError

    def age(self, seconds: float) -> None:
        self.run(f"UPDATE tenancy_members SET seen = seen - {seconds}")

    def tamper(self, **fields: Any) -> None:
        self.run("UPDATE tenancy_meta SET " + ", ".join(f"{name} = '{value}'" for name, value in fields.items()))


class SQLitePlace(SQLPlace):
    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.path = path

    def run(self, statement: str) -> None:
        connection = sqlite3.connect(self.path, timeout=5)
        with connection:
            connection.execute(statement)
        connection.close()


class PostgreSQLPlace(SQLPlace):
    def __init__(self, dsn: str, schema: str) -> None:
        super().__init__(f"{dsn}?options=-csearch_path%3D{schema}")
        self.url = f"{dsn}?options=-csearch_path%3D{schema}"
        self._dsn, self._schema = dsn, schema

    def run(self, statement: str) -> None:
        with psycopg.connect(self._dsn, options=f"-csearch_path={self._schema}", autocommit=True) as connection:
            connection.execute(statement.encode())


class TestSQLite(ServerContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> SQLitePlace:
        return SQLitePlace(tmp_path / "routes.db")

    def test_nothing_is_made_by_looking(self, tmp_path: Path) -> None:
        """A misspelt path leaves no empty database behind."""
        store = open_store(f"sqlite:///{tmp_path}/rotues.db")
        for call in (store.head, store.snapshot, lambda: store.write([])):
            with pytest.raises(RouteSourceError, match=r"no route table at sqlite:.*rotues.db"):
                call()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(RouteSourceError, match=r"there is no folder .*missing"):
            open_store(f"sqlite:///{tmp_path}/missing/routes.db").create()

    def test_one_that_is_made_right_after_it_was_looked_for(self, place: SQLitePlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """That it was not there is no failure, though it is there by now: of many that make it at once, each makes it or finds it."""
        opened = sqlite3.connect

        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            try:
                return opened(*args, **options)
            except sqlite3.OperationalError:
                place.path.touch()
                raise

        monkeypatch.setattr(sqlite_module.sqlite3, "connect", connect)
        assert place.open().create(3).lease == 3

    def test_paths_with_signs_and_spaces(self, tmp_path: Path) -> None:
        """They are written as they are, or with a percent sign, as in other URLs."""
        folder = tmp_path / "a folder"
        folder.mkdir()
        open_store(f"sqlite:///{folder}/routes #%25%41&b.db").create()
        assert [path.name for path in folder.iterdir()] == ["routes #%A&b.db"]

    @pytest.mark.parametrize(
        "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/routes.db", "sqlite:///a.db?x=1", "sqlite:a"]
    )
    def test_what_is_no_file_is_refused(self, url: str) -> None:
        """A database in memory would be another one for every process."""
        with pytest.raises(ConfigurationError, match=r"is no file; write sqlite:///routes.db"):
            open_store(url)

    def test_a_relative_path_stays_where_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service that changes its folder keeps its table."""
        monkeypatch.chdir(tmp_path)
        store = open_store("sqlite:///routes.db")
        head = store.create()
        monkeypatch.chdir("/")
        assert store.head() == head

    def test_what_is_not_a_table(self, tmp_path: Path) -> None:
        """Another program's database, a table of that name with other columns, a text: each is told, and left as it is."""
        text, other, alike = tmp_path / "text.db", tmp_path / "other.db", tmp_path / "alike.db"
        text.write_text("no database at all, but long enough to have a header" * 10)
        SQLitePlace(other).run("CREATE TABLE users (name)")
        SQLitePlace(alike).run("CREATE TABLE tenancy_meta (name)")
        for path, said in (
            (text, "file is not a database"),
            (other, "there is no route table at"),
            (alike, "no such column|there is no route table at"),
        ):
            before = path.read_bytes()
            store = open_store(f"sqlite:///{path}")
            for call in (store.head, store.snapshot, lambda store=store: store.write([])):
                with pytest.raises(RouteSourceError, match=said):
                    call()
            assert path.read_bytes() == before
        for path in (text, alike):
            with pytest.raises(RouteSourceError):
                open_store(f"sqlite:///{path}").create()
        assert open_store(f"sqlite:///{other}").create().version == 0

    def test_a_document_that_somebody_spoilt(self, place: SQLitePlace, store: RouteStore) -> None:
        """The error names it."""
        store.write([put_workload("shop/orders")])
        for spoilt in ("{", "[]"):
            place.run(f"UPDATE tenancy_documents SET document = '{spoilt}'")
            with pytest.raises(RouteSourceError, match="the document 'workload/shop/orders' is not"):
                store.snapshot()

    def test_a_file_that_is_locked(self, place: SQLitePlace, store: RouteStore) -> None:
        """A writer that does not end holds nobody up for longer than the time-out; whoever reads while it has not begun to commit, reads."""
        holder = sqlite3.connect(place.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        assert store.head().version == 0
        start = time.monotonic()
        with pytest.raises(RouteSourceError, match="locked"):
            store.write([])
        assert 1.5 < time.monotonic() - start < 3
        holder.execute("ROLLBACK")
        holder.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(RouteSourceError, match="locked"):
            store.head()
        assert 1.5 < time.monotonic() - start < 3
        holder.close()
        assert store.write([]) == 1

    def test_a_file_that_is_replaced_is_seen(self, place: SQLitePlace, store: RouteStore, tmp_path: Path) -> None:
        """A table that was put back from a copy is read at once, and wakes whoever watches."""
        copy = tmp_path / "copy.db"
        copy.write_bytes(place.path.read_bytes())
        store.write([])
        with watching(store) as woken:
            os.replace(copy, place.path)
            assert store.head().version == 0
            assert woken.wait(1.0)
            time.sleep(0.3)
            woken.clear()
            store.write([])
            assert woken.wait(1.0)
            place.path.unlink()
            with pytest.raises(RouteSourceError, match="there is no route table"):
                store.head()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_nobody_forks_while_sqlite_works(self, store: RouteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A child that inherits SQLite's belief in a lock would read what is half written."""
        inside, left = threading.Event(), threading.Event()

        def work() -> None:
            with store._database.connect():  # type: ignore[attr-defined]
                inside.set()
                time.sleep(0.4)
                left.set()

        worker = threading.Thread(target=work)
        worker.start()
        inside.wait(5)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if left.is_set() and sqlite_module._calls.acquire(timeout=0) else 1)
        worker.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.head().version == 0


@pytest.mark.service
class TestPostgreSQL(OutageContract, ServerContract):
    service = "postgresql"

    @pytest.fixture
    def place(self, postgresql: str, unique: str) -> Iterator[PostgreSQLPlace]:
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {unique}".encode())
            yield PostgreSQLPlace(postgresql, unique)
            connection.execute(f"DROP SCHEMA {unique} CASCADE".encode())

    def test_both_ways_to_write_the_url(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """The driver may be named; another one than psycopg 3 is refused."""
        assert open_store(place.url.replace("postgresql:", "postgresql+psycopg:")).head() == store.head()
        with pytest.raises(ConfigurationError, match="asks for the driver asyncpg; write postgresql://"):
            open_store(place.url.replace("postgresql:", "postgresql+asyncpg:"))

    def test_a_replica_is_refused(self, own_service: Callable[[str], services.Service]) -> None:
        """A server that follows another one is never asked for routes, and says so."""
        server = own_service("postgresql")
        store = open_store(server.address)
        store.create()
        server.stop()
        standby = server.directory / "data" / "standby.signal"  # type: ignore[attr-defined]
        standby.touch()
        server.start()
        for call in (store.head, store.snapshot):
            with pytest.raises(RouteSourceError, match="is a replica, which lags behind"):
                call()
        with pytest.raises(RouteSourceError, match="read-only transaction"):
            store.write([])
        server.stop()
        standby.unlink()
        server.start()
        assert store.head().version == 0

    def test_a_writer_that_is_stopped_does_not_keep_others_out(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """Its transaction is ended by the server after twice the time-out; readers never wait for it."""
        with subprocess.Popen([sys.executable, "-c", STOPPED, place.url], stdout=subprocess.PIPE) as stopped:
            try:
                assert stopped.stdout is not None
                assert stopped.stdout.readline() == b"locked\n"
                os.kill(stopped.pid, signal.SIGSTOP)
                start = time.monotonic()
                assert store.head().version == 0
                assert time.monotonic() - start < 0.5
                with pytest.raises(RouteSourceError, match="timeout"):
                    store.write([])
                assert time.monotonic() - start < PATIENCE
                eventually(lambda: store.write([]) == 1 if time.monotonic() - start > 4 else None, 7)
            finally:
                stopped.kill()

    def test_what_is_confirmed_is_kept(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """A server that confirms what it has in memory alone confirms our writes later; what is stricter stays."""
        for given, kept in (("off", "on"), ("on", "on"), ("remote_write", "remote_write")):
            other = open_store(f"{place.url}%20-csynchronous_commit%3D{given}")
            with other._database.connect(writing=True) as connection:  # type: ignore[attr-defined]
                assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == kept
            with other._database.connect() as connection:  # type: ignore[attr-defined]
                assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == given

    def test_the_isolation_of_the_server_does_not_matter(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """Where transactions are serializable by default, a writer that has waited for another one goes on all the same."""
        url = f"{place.url}%20-cdefault_transaction_isolation%3Dserializable"
        with open_store(url)._database.connect(writing=True) as connection:  # type: ignore[attr-defined]
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
        writers = [threading.Thread(target=lambda: [open_store(url).write([]) for _ in range(10)]) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(30)
        assert store.head().version == 40

    def test_passwords_are_not_told(self, postgresql: str) -> None:
        """Neither by the store's name nor by an error."""
        server = postgresql.rpartition("@")[2]
        for url in (
            f"postgresql://nobody:se%40cret@{server}",
            f"postgresql://nobody@{server}?password=se%40cret",
            f"postgresql://nobody:se/cr@et@{server}",
            "postgresql://nobody:secret@127.0.0.1:1/tenancy",
        ):
            store = open_store(url)
            with pytest.raises(RouteSourceError) as caught:
                store.head()
            for text in (store.name, str(caught.value), repr(caught.value)):
                assert "cret" not in text, text

    def test_a_connection_that_was_cut_is_made_again(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """An idle connection that the server has closed is not noticed by whoever calls."""
        for number in range(3):
            assert store.head().version == number
            place.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenancy'")
            time.sleep(0.05)
            assert store.write([]) == number + 1

    def test_a_watcher_connects_again(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """It is woken once when its connection is back, since it may have missed something, and by each write after that."""
        with watching(store) as woken:
            place.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            assert woken.wait(3.0)
            time.sleep(0.3)
            woken.clear()
            assert not woken.wait(1.0)
            store.write([])
            assert woken.wait(1.0)

    def test_connections_are_few(self, place: PostgreSQLPlace, store: RouteStore) -> None:
        """One for reading and writing, and one to listen, however often it is used."""
        with watching(store), psycopg.connect(place.url.partition("?")[0]) as connection:
            for _ in range(20):
                store.head()
                store.write([Put("a", None)])
                store.register(Member("shop/orders", "c-1", "orders"))
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenancy' AND state = 'idle'"
                " AND (query LIKE 'LISTEN%' OR backend_start > now() - interval '5 s')"
            ).fetchone()
        assert found is not None
        assert found[0] <= 2

    def test_a_server_that_never_answers_after_it_was_asked(self, place: PostgreSQLPlace) -> None:
        """Nor does one that accepts the connection, and is silent from then on."""
        store = SQLStore(place.url, timeout=0.5)
        store.create()
        start = time.monotonic()
        with pytest.raises(RouteSourceError, match=r"did not answer within 0\.5 s"), store._connected() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(30)")
        assert 0.4 < time.monotonic() - start < 1.0
        assert store.head().version == 0


def test_a_silent_server_is_given_up() -> None:
    """Something that listens and never says a word holds nobody up for longer than the time-out."""
    with silent_server() as port:
        store = open_store(f"postgresql://someone:secret@127.0.0.1:{port}/tenancy")
        for call in (store.create, lambda: store.write([])):
            start = time.monotonic()
            with pytest.raises(RouteSourceError) as caught:
                call()
            assert time.monotonic() - start < 2.6
            assert "secret" not in str(caught.value)


def test_a_watcher_of_a_silent_server_ends() -> None:
    """It ends with its attempt to connect, at the latest."""
    with silent_server() as port:
        store = open_store(f"postgresql://someone@127.0.0.1:{port}/tenancy")
        closing = threading.Event()
        watcher = threading.Thread(target=store.watch, args=(lambda: None, closing.is_set))
        watcher.start()
        time.sleep(0.2)
        closing.set()
        watcher.join(3)
        assert not watcher.is_alive()


def test_a_name_that_leads_nowhere() -> None:
    """The error has the driver's words, in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = open_store(f"postgresql://127.0.0.1:{taken.getsockname()[1]}/tenancy")
        with pytest.raises(RouteSourceError, match="refused") as caught:
            store.head()
    assert "\n" not in str(caught.value)
