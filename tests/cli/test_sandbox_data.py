"""
``tenancy sandbox`` and the data of a sandbox's keys, on a real PostgreSQL.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from tenancy import ConfigurationError, HandoverError, RoutingKey
from tenancy.data.databases import Database
from tenancy.data.postgresql import PostgresIsolation
from tenancy.routes import State
from tenancy.routes.stores import table_of
from tenancy.sandbox import Controller, Fork
from tenancy.sandbox.partitions import note
from tests.cli.test_sandbox import WORKLOAD, Shell

pytestmark = pytest.mark.service

APPLICATION = """
from sqlalchemy import create_engine
from tenancy.data.databases import SQLiteFile
from tenancy.data.postgresql import PostgresIsolation

isolation = PostgresIsolation(create_engine({url!r}))
files = SQLiteFile("golden.db", "made")
gone = SQLiteFile("gone.db", "lost")
several = [isolation]
number = 7
"""


class Shop(Shell):
    """
    A shell beside an application with a database.
    """

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.name = url.rpartition("/")[2]
        address = url.replace("postgresql://", "postgresql+psycopg://")
        (folder / "shop.py").write_text(APPLICATION.format(url=address))
        self.isolation = PostgresIsolation(create_engine(address))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE users (id bigserial PRIMARY KEY, email text UNIQUE)")
        self.isolation.install()

    def states(self, key: str = "pr-1") -> tuple[list[str], list[bool]]:
        """Return the state of a key's partition, as the database and as the route table have it."""
        table = table_of(self.store.snapshot(), origin=self.store.name)
        noted = [partition.dropped for partition in table.partitions(RoutingKey(key)) if partition.database == self.name]
        return [status.state for status in self.isolation.status(key)], noted


@pytest.fixture
def shop(postgresql: str, unique: str, tmp_path: Path) -> Iterator[Shop]:
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {unique}")  # type: ignore[call-overload,unused-ignore]
        yield Shop(tmp_path, f"{postgresql.rpartition('/')[0]}/{unique}")
        admin.execute(f"DROP DATABASE {unique} WITH (FORCE)")  # type: ignore[call-overload,unused-ignore]


def test_a_whole_life(shop: Shop) -> None:
    """The partition is there before anything is handed over, and gone when all is taken back; each command can be run again."""
    for _ in range(2):
        created = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation")
        assert created.status == 0, created.err
        assert shop.states() == (["ready"], [False])
    told = " ".join(shop("status", "pr-1").out.split())
    assert f"pr-1: its partition of {shop.name} state public__pr_1" in told
    (noted,) = shop.json("status", "pr-1")["partitions"]
    assert (noted["database"], noted["place"], noted["dropped"]) == (shop.name, ["public__pr_1"], False)
    assert created.err.splitlines()[0] == f"shop/orders pr-1: creating, waiting for its partition of {shop.name}"
    deleted = shop("delete", "pr-1", "--isolation", "shop:isolation", "--json")
    assert deleted.status == 0, deleted.err
    assert shop.states() == (["dropped"], [True])
    assert [partition["dropped"] for partition in deleted.report["partitions"]] == [True]
    assert f"pr-1: its partition of {shop.name} state dropped" in " ".join(shop("status", "pr-1").out.split())
    assert shop("delete", "pr-1", "--isolation", "shop:isolation").status == 0
    assert f"shop/orders pr-1: draining, waiting for its partition of {shop.name} to be gone" in deleted.err.splitlines()


@pytest.mark.slow
def test_the_variable_names_it_too(shop: Shop) -> None:
    """As for ``tenancy data``; several, as a provider of databases beside it, are separated by spaces."""
    names = "shop:isolation shop:files"
    with sqlite3.connect(shop.folder / "golden.db") as golden:
        golden.execute("CREATE TABLE users (id integer PRIMARY KEY)")
    ran = shop("create", "pr-1", "--fork", WORKLOAD, TENANCY_ISOLATION=names)
    assert ran.status == 0, ran.err
    assert shop.states() == (["ready"], [False])
    made = shop.folder / "made" / "pr-1"
    assert made.is_dir()
    ran = shop("delete", "pr-1", TENANCY_ISOLATION=names)
    assert ran.status == 0, ran.err
    assert (shop.states(), made.exists()) == ((["dropped"], [True]), False)


def test_without_it_what_is_there_is_said_and_stays(shop: Shop) -> None:
    """Nothing is dropped that was not named; whoever deletes the sandbox hears of it."""
    assert shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation").status == 0
    deleted = shop("delete", "pr-1")
    assert deleted.status == 0
    assert f"pr-1 still has its partition of {shop.name}, and `tenancy data drop pr-1` drops it" in deleted.err
    assert shop.states() == (["ready"], [False])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop:number", "shop:number is a int; name a PostgresIsolation, or a provider of databases"),
        ("shop:several", "shop:several is a list; name a PostgresIsolation"),
        ("shop:PostgresIsolation", "shop:PostgresIsolation is a type; name a PostgresIsolation"),
        ("shop:nothing", "has no attribute 'nothing'"),
        ("shop.py:isolation", "names a file"),
    ],
)
def test_what_is_no_database(shop: Shop, name: str, said: str) -> None:
    """It is refused before anything is written."""
    ran = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", name)
    assert ran.status == 2
    assert said in " ".join(ran.err.replace("│", "").split())
    assert shop.row().state is State.NONE


def test_what_cannot_be_made_is_not_handed_over(shop: Shop) -> None:
    """It is said why; once that is mended the same command goes on."""
    with shop.isolation._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE logs (line text)")
    ran = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation")
    assert ran.status == 1
    assert f"the partition of pr-1 in {shop.name} was not made" in ran.err
    assert "primary key" in ran.err
    assert "Traceback" not in ran.err
    assert (shop.row().state, shop.states()) == (State.NONE, ([], []))
    with shop.isolation._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE logs ADD PRIMARY KEY (line)")
    assert shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation").status == 0


@pytest.mark.slow
def test_a_database_that_is_not_there(shop: Shop) -> None:
    """It is said in a line what the driver says."""
    text = (shop.folder / "shop.py").read_text().replace(shop.name, f"{shop.name}_x")
    (shop.folder / "shop.py").write_text(text)
    ran = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation")
    assert ran.status == 1
    assert f'database "{shop.name}_x" does not exist' in ran.err
    assert "Traceback" not in ran.err
    assert shop.row().state is State.NONE


@pytest.mark.slow
@pytest.mark.parametrize("state", [State.CREATING, State.DELETING])
def test_a_killed_command_is_gone_on_with(shop: Shop, state: State) -> None:
    """A create that was killed left the partition; a delete had not dropped it yet."""
    arguments = ["--isolation", "shop:isolation"]
    if state is State.DELETING:
        assert shop("create", "pr-1", "--fork", WORKLOAD, *arguments).status == 0
        shop.killed_while(state, "delete", "pr-1", *arguments)
    else:
        shop.killed_while(state, "create", "pr-1", "--fork", WORKLOAD, *arguments)
    assert shop.states() == (["ready"], [False])
    assert shop("delete", "pr-1", *arguments).status == 0
    assert shop.states() == (["dropped"], [True])


@pytest.mark.slow
def test_a_create_that_failed_half_way_says_what_it_has_made(shop: Shop) -> None:
    """The partitions of the databases before the one that failed; a delete says so as well, and drops nothing that was not handed over."""
    stays = f"pr-1 still has its partition of {shop.name}, and `tenancy data drop pr-1` drops it"
    created = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation", "--isolation", "shop:gone")
    assert created.status == 1
    assert "the partition of pr-1 in SQLiteFile was not made" in created.err
    assert f"nothing was handed over; {stays}" in created.err
    deleted = shop("delete", "pr-1", "--isolation", "shop:isolation")
    assert deleted.status == 0
    assert "knows of no sandbox pr-1, so there is nothing to delete" in deleted.err
    assert stays in deleted.err
    assert shop.states() == (["ready"], [False])


@pytest.mark.slow
def test_what_is_not_for_use_is_not_handed_over(shop: Shop) -> None:
    """A partition that is detached; of one that is not as it would be made now it is said."""
    shop.isolation.create("pr-1")
    shop.isolation.detach()
    ran = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation")
    assert (ran.status, f"the partition of pr-1 in {shop.name} is detached" in ran.err) == (1, True), ran.err
    assert shop.row().state is State.NONE
    shop.isolation.attach()
    with shop.isolation._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE more (id bigserial PRIMARY KEY)")
    ran = shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation")
    assert ran.status == 0
    assert f"{shop.name}: the baseline's tables are not what they were when the partition of pr-1 was made" in ran.err


@pytest.mark.slow
def test_a_transaction_is_waited_for(shop: Shop) -> None:
    """What the sandbox has begun it ends in its partition."""
    assert shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation").status == 0
    with shop.isolation._engine.connect() as connection:
        connection.exec_driver_sql("SELECT tenancy.enter('pr-1')")
        connection.exec_driver_sql("INSERT INTO users (email) VALUES ('ada')")
        # Who runs the create again does not stand in anybody's way.
        assert shop("create", "pr-1", "--fork", WORKLOAD, "--isolation", "shop:isolation", "--deadline", "5").status == 0
        ran = shop("delete", "pr-1", "--isolation", "shop:isolation", "--deadline", "5")
        assert ran.status == 1
        assert (
            f"the partition of pr-1 in {shop.name} was not dropped: transactions of pr-1, or a migration, had not ended" in ran.err
        )
        assert "pr-1 on shop/orders is draining" in ran.err
        process = shop.started("delete", "pr-1", "--isolation", "shop:isolation")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        connection.commit()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert shop.states() == (["dropped"], [True])


class Watched:
    """
    A database that notes where its keys are when it is asked for something.
    """

    name = "watched"

    def __init__(self, shell: Shell) -> None:
        self.shell, self.seen, self.keys = shell, list[tuple[str, str, State]](), set[str]()

    def create(self, key: RoutingKey | str) -> str:
        self.seen.append(("create", key, self.shell.row(key=str(key)).state))
        self.keys.add(str(key))
        return "sqlite://"

    def drop(self, key: RoutingKey | str) -> None:
        self.seen.append(("drop", key, self.shell.row(key=str(key)).state))
        self.keys.discard(str(key))

    def databases(self) -> dict[RoutingKey, Database]:
        return {}


class TestOfTheController:
    """The same as library calls, with a database that watches."""

    def test_before_and_after(self, tmp_path: Path) -> None:
        """When it is made nobody may handle anything yet, and when it is dropped nobody any more, and its life is not over."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        controller = Controller(shell.store, data=[watched])
        controller.create("pr-1", [Fork(WORKLOAD, "pr-1"), Fork("shop/web", "pr-1"), Fork(WORKLOAD, "pr-2")])
        controller.create("pr-1", [Fork(WORKLOAD, "pr-1")])
        assert watched.seen == [
            ("create", "pr-1", State.NONE),
            ("create", "pr-2", State.NONE),
            ("create", "pr-1", State.CREATING),
            ("create", "pr-2", State.CREATING),
            ("create", "pr-1", State.ACTIVE),
        ]
        watched.seen.clear()
        controller.delete("pr-1")
        assert ({what for what, *_ in watched.seen}, watched.keys) == ({"drop"}, set())
        assert ("drop", "pr-2", State.DRAINING) in watched.seen
        watched.seen.clear()
        controller.delete("pr-1")
        assert watched.seen == []

    @pytest.mark.slow
    def test_a_key_of_two_sandboxes(self, tmp_path: Path) -> None:
        """On different workloads they share its data, which goes with the last of them."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        controller = Controller(shell.store, data=[watched])
        controller.create("one", [Fork(WORKLOAD, "pr-1")])
        controller.create("two", [Fork("shop/web", "pr-1")])
        controller.delete("one")
        assert "drop" not in [what for what, *_ in watched.seen]
        controller.delete("two")
        assert watched.keys == set()

    @pytest.mark.parametrize("forks", [[WORKLOAD], [WORKLOAD, "shop/web"], ["shop/web", WORKLOAD]])
    def test_somebody_elses_key(self, tmp_path: Path, forks: list[str]) -> None:
        """Its data is left alone by who may not have it, whatever else they fork."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        Controller(shell.store).create("one", [Fork(WORKLOAD, "pr-1")])
        with pytest.raises(HandoverError, match="one"):
            Controller(shell.store, data=[watched]).create("two", [Fork(workload, "pr-1") for workload in forks])
        assert watched.seen == []

    @pytest.mark.slow
    def test_what_a_key_has_since_it_was_given_back(self, tmp_path: Path) -> None:
        """It is not the sandbox's any more, and stays."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        controller = Controller(shell.store, data=[watched])
        controller.create("team", [Fork(WORKLOAD, "k-1")])
        controller.delete("team")
        watched.create("k-1")
        controller.create("team", [Fork(WORKLOAD, "k-2")])
        controller.delete("team")
        assert watched.keys == {"k-1"}

    @pytest.mark.slow
    def test_a_delete_meanwhile_that_has_not_seen_the_create(self, tmp_path: Path) -> None:
        """What it dropped is made again before the key is active."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        controller = Controller(shell.store, data=[watched], sleep=lambda _: watched.keys.clear())
        controller.create("pr-1", [Fork(WORKLOAD, "pr-1")])
        assert (watched.keys, shell.row().state) == ({"pr-1"}, State.ACTIVE)

    @pytest.mark.slow
    def test_a_create_that_is_given_up(self, tmp_path: Path) -> None:
        """Before the key was active: its partition goes before its life ends."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        with pytest.raises(HandoverError, match="deadline"):
            Controller(shell.store, data=[watched]).create("pr-1", [Fork(WORKLOAD, "pr-1")], deadline=0.1)
        watched.seen.clear()
        Controller(shell.store, data=[watched]).delete("pr-1")
        assert watched.seen[0] == ("drop", "pr-1", State.CREATING)
        assert shell.row().state is State.NONE

    def test_a_database_that_raises(self, tmp_path: Path) -> None:
        """Whatever it raises is said with the key and the database, and nothing was handed over."""
        shell = Shell(tmp_path)
        watched = Watched(shell)
        watched.create = lambda key: str(1 // 0)  # type: ignore[method-assign]
        with pytest.raises(
            HandoverError, match="the partition of pr-1 in watched was not made: integer division or modulo by zero"
        ):
            Controller(shell.store, data=[watched]).create("pr-1", [Fork(WORKLOAD, "pr-1")])
        assert shell.row().state is State.NONE

    def test_a_database_of_coroutines(self, tmp_path: Path) -> None:
        """It would not have been made when the key is active."""
        shell = Shell(tmp_path)
        watched: Any = Watched(shell)

        async def create(key: RoutingKey) -> str:
            return key

        watched.create = create
        with pytest.raises(HandoverError, match="was not made: Watched has coroutines, and a controller waits for none"):
            Controller(shell.store, data=[watched]).create("pr-1", [Fork(WORKLOAD, "pr-1")])
        assert shell.row().state is State.NONE

    @pytest.mark.parametrize("data", ["shop.database:isolation", ["shop.database:isolation"], [Watched], Watched, [object()], 7])
    def test_what_is_no_database(self, tmp_path: Path, data: Any) -> None:
        """It is refused before anything is done."""
        with pytest.raises(ConfigurationError, match="give a list of PostgresIsolation and of providers"):
            Controller(Shell(tmp_path).store, data=data)


def test_what_is_noted_is_what_is_there_by_then(shop: Shop) -> None:
    """Where somebody makes a partition again while another one notes that it was dropped."""
    key = RoutingKey("pr-1")
    shop.isolation.create(key)
    shop.isolation.drop(key)
    asked = list[str]()

    def ask() -> Any:
        status = shop.isolation.status(key)[0]
        asked.append(status.state)
        if len(asked) == 1:  # the other one is faster
            shop.isolation.create(key)
            note(shop.store, shop.name, key, lambda: shop.isolation.status(key)[0])
        return status

    note(shop.store, shop.name, key, ask)
    assert asked == ["dropped", "ready"]
    assert shop.states() == (["ready"], [False])
