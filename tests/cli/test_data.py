"""
``tenancy data``, run as people do, on a real PostgreSQL.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenancy.routes.stores import open_store, table_of
from tests.cli.support import Ran, run

pytestmark = pytest.mark.service

TABLES = """
CREATE TABLE users (id bigserial PRIMARY KEY, email text UNIQUE);
INSERT INTO users (email) VALUES ('ada'), ('grace');
CREATE TABLE jobs (id serial PRIMARY KEY, state text);
CREATE TABLE logs (line text);
"""


class Shell:
    """
    A folder, a database, and commands about it.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.where = ("--database", url, "--table", "logs=empty", "--table", "jobs=copy")
        self.store = f"sqlite:///{folder}/routes.db"

    def __call__(self, *arguments: str, **variables: str) -> Ran:
        command = (sys.executable, "-m", "tenancy.cli", "data", *arguments)
        return run(*command, cwd=self.folder, variables={"COLUMNS": "160", **variables})

    def there(self, *arguments: str, **variables: str) -> Ran:
        ran = self(*arguments, *self.where, **variables)
        assert ran.status == 0, ran.err
        return ran

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload,unused-ignore]
            return list(done.fetchall()) if done.description else []


@pytest.fixture
def shell(postgresql: str, unique: str, tmp_path: Path) -> Iterator[Shell]:
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {unique}")  # type: ignore[call-overload,unused-ignore]
        shell = Shell(tmp_path, f"{postgresql.rpartition('/')[0]}/{unique}")
        shell.sql(TABLES)
        yield shell
        admin.execute(f"DROP DATABASE {unique} WITH (FORCE)")  # type: ignore[call-overload,unused-ignore]


@pytest.fixture
def prepared(shell: Shell) -> Shell:
    shell.there("install")
    return shell


def test_a_partition_is_made_looked_at_and_dropped(prepared: Shell) -> None:
    """What a key has changed is shown by table; after the drop it is said that it was there, and nothing of it is left."""
    made = prepared.there("create", "pr-42", "--ttl", "2h", "--json").report
    assert made["database"] == prepared.url.rpartition("/")[2]
    (partition,) = made["partitions"]
    assert (partition["key"], partition["state"], partition["schemas"]) == ("pr-42", "ready", {"public": "public__pr_42"})
    assert partition["expires"] > partition["created"]
    prepared.sql("BEGIN; SELECT tenancy.enter('pr-42'); UPDATE users SET email = 'x' WHERE id = 1; COMMIT")
    (partition,) = prepared.there("status", "pr-42", "--json").report["partitions"]
    assert partition["changed"] == {"public.users": {"own": 1, "hidden": 1}}
    assert "public.users: 1 own, 1 hidden" in prepared.there("status").out
    (partition,) = prepared.there("refresh", "pr-42", "--json").report["partitions"]
    assert partition["changed"] == {}
    (partition,) = prepared.there("drop", "pr-42", "--json").report["partitions"]
    assert partition["state"] == "dropped"
    assert prepared.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public%pr%42'") == [(0,)]
    assert prepared.sql("SELECT email FROM users ORDER BY id") == [("ada",), ("grace",)]
    gone = prepared("status", "pr-42", *prepared.where)
    assert gone.status == 1
    assert "tenancy data create pr-42" in gone.err
    assert prepared.there("drop", "pr-42", "--forget", "--json").report["partitions"] == []


def test_each_table_that_a_key_has_changed_is_on_a_line_of_its_own(prepared: Shell) -> None:
    """Whatever the tables are called."""
    prepared.sql('CREATE TABLE "a\nb" (id bigserial PRIMARY KEY)')
    prepared.there("create", "pr-42")
    prepared.sql(
        """BEGIN; SELECT tenancy.enter('pr-42'); INSERT INTO users (email) VALUES ('x'); INSERT INTO "a\nb" DEFAULT VALUES; COMMIT"""
    )
    lines = prepared.there("status").out.splitlines()
    assert [line[line.index("public.") :] for line in lines[1:] if "public." in line] == [
        "public.users: 1 own, 0 hidden",
        "public.a\\nb: 1 own, 0 hidden",
    ]


def test_a_drop_says_what_there_was_to_drop(prepared: Shell) -> None:
    """Of that key alone, whatever others have."""
    prepared.there("create", "pr-1")
    none = prepared.there("drop", "pr-9")
    assert (none.out, "has no partition of pr-9, so there is nothing to drop" in none.err) == ("", True)
    prepared.there("drop", "pr-9", "--json")
    forgotten = prepared.there("drop", "pr-1", "--forget")
    assert "the partition of pr-1 is gone, and nothing is remembered of it" in forgotten.out
    assert "no key has a partition" in prepared.there("status").out


def test_a_time_to_live_stays_until_another_is_given(prepared: Shell) -> None:
    """A partition that is made again is left as it is."""

    def expires(*arguments: str) -> Any:
        return prepared.there("create", "pr-7", "--json", *arguments).report["partitions"][0]["expires"]

    first = expires("--ttl", "2h")
    assert first is not None
    assert expires() == first
    assert expires("--ttl", "36500d") > first


def test_a_partition_that_is_not_as_it_would_be_made_now_is_not_called_ready_in_silence(prepared: Shell) -> None:
    """What differs is said beside the JSON, and what to do, after which nothing is."""
    assert prepared.there("create", "pr-42").err == ""
    prepared.there("create", "pr-43")
    others = ("--database", prepared.url, "--table", "logs=empty", "--table", "jobs=empty")
    again = prepared("create", "pr-42", "--json", *others)
    assert (again.status, again.report["partitions"][0]["state"]) == (0, "ready")
    (line,) = again.err.splitlines()
    assert "pr-42 was there already, and stays as it is; public.jobs is copy in the partition of pr-42, and should be empty" in line
    assert "`tenancy data refresh pr-42`" in line
    assert prepared("refresh", "pr-42", *others).status == 0
    assert prepared("create", "pr-42", *others).err == ""


def test_a_view_that_no_partition_has_is_named_when_one_is_made(prepared: Shell) -> None:
    prepared.sql("CREATE MATERIALIZED VIEW many AS SELECT count(*) FROM users; CREATE VIEW shown AS SELECT * FROM many")
    first, again = (prepared.there("create", "pr-42").err for _ in range(2))
    name = prepared.url.rpartition("/")[2]
    assert first.startswith(f"{name}: the view public.shown is not in the partition of pr-42"), first
    assert again.startswith(f"{name}: pr-42 was there already, and stays as it is; the view public.shown"), again
    assert prepared("check", *prepared.where).status == 1
    assert prepared.there("check", "--without", "shown").out == f"{name}: nothing is wrong\n"
    assert "--table, --default, --without and --schema go" in prepared("check", "--without", "shown", "--isolation", "a:b").err


def test_a_route_table_that_cannot_be_had_leaves_no_doubt_about_the_partition(prepared: Shell) -> None:
    """It is said what was done, and the same command does the rest when the table is there."""
    away = ("--store", prepared.store)
    made = prepared("create", "pr-42", *away, *prepared.where)
    assert (made.status, "the partition of pr-42 is there, but the route table does not say so" in made.err) == (1, True), made.err
    store = open_store(prepared.store)
    store.create(1.0)
    prepared.there("create", "pr-42", *away)
    prepared.there("create", "pr-43", *away)
    (prepared.folder / "routes.db").rename(prepared.folder / "elsewhere.db")
    store.close()
    for arguments in (("drop", "pr-42"), ("drop", "pr-43", "--forget")):
        dropped = prepared(*arguments, *away, *prepared.where)
        told = f"{arguments[1]} has no partition any more, but the route table does not say so"
        assert (dropped.status, told in dropped.err, "run this command again" in dropped.err) == (1, True, True), dropped.err
    assert prepared.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public%pr%'") == [(0,)]
    for leftover in prepared.folder.glob("routes.db*"):
        leftover.unlink()
    (prepared.folder / "elsewhere.db").rename(prepared.folder / "routes.db")
    prepared.there("expire", *away)
    prepared.there("drop", "pr-43", "--forget", *away)
    store = open_store(prepared.store)
    assert [(one.key, one.dropped) for one in table_of(store.snapshot(), origin="").partitions()] == [("pr-42", True)]
    store.close()


def test_partitions_are_noted_in_the_route_table(prepared: Shell) -> None:
    """A store that can be written has them, by --store or TENANCY_ROUTES; a key with data of its own is one that the table knows."""
    store = open_store(prepared.store)
    store.create(1.0)
    prepared.there("create", "pr-42", "--store", prepared.store)
    prepared.there("create", "pr-43", "--ttl", "1s", TENANCY_ROUTES=prepared.store)
    table = table_of(store.snapshot(), origin="")
    noted = {str(one.key): (one.place, one.kind, one.dropped, bool(one.expires)) for one in table.partitions()}
    assert noted == {
        "pr-42": (("public__pr_42",), "postgresql-schema", False, False),
        "pr-43": (("public__pr_43",), "postgresql-schema", False, True),
    }
    assert all(table.knows(one.key) for one in table.partitions())
    listed = run(
        sys.executable, "-m", "tenancy.cli", "routes", "list", cwd=prepared.folder, variables={"TENANCY_ROUTES": prepared.store}
    )
    assert "public__pr_42" in listed.out
    prepared.sql("UPDATE tenancy.partitions SET expires = now() - interval '1 second' WHERE key = 'pr-43'")
    assert prepared.there("expire", "--store", prepared.store, "--json").report["dropped"] == ["pr-43"]
    prepared.there("drop", "pr-42", "--forget", "--store", prepared.store)
    table = table_of(store.snapshot(), origin="")
    assert [(one.key, one.dropped) for one in table.partitions()] == [("pr-43", True)]
    assert not any(table.knows(one.key) for one in table.partitions())
    store.close()


def test_a_route_table_that_cannot_be_written_is_left_alone_unless_it_is_named(prepared: Shell) -> None:
    """What services read may be a file; to ask for it to be written is an error."""
    (prepared.folder / "routes.json").write_text("{}")
    url = (prepared.folder / "routes.json").as_uri()
    prepared.there("create", "pr-42", TENANCY_ROUTES=url)
    refused = prepared("create", "pr-42", "--store", url, *prepared.where)
    assert refused.status == 2
    assert "is no route store" in refused.err
    assert (prepared.folder / "routes.json").read_text() == "{}"


def test_check_says_what_is_wrong_and_what_to_do(prepared: Shell) -> None:
    """Its exit status is 1 where something is: rights that lead past a partition, and tables that have changed."""
    prepared.there("create", "pr-42")
    assert "nothing is wrong" in prepared.there("check").out
    prepared.sql("GRANT SELECT ON users TO PUBLIC; ALTER TABLE users ADD COLUMN age int")
    ran = prepared("check", "--json", *prepared.where)
    assert ran.status == 1
    about_rights, about_tables = ran.report["problems"]
    assert "REVOKE SELECT ON public.users FROM PUBLIC" in about_rights["text"]
    assert about_tables["key"] == "pr-42"
    assert "`tenancy data detach` and `tenancy data attach`, or `tenancy data refresh pr-42`" in about_tables["text"]
    (partition,) = prepared.there("detach", "--json").report["partitions"]
    assert (partition["key"], partition["state"]) == ("pr-42", "detached")
    assert "or run `tenancy data attach`" in prepared("check", *prepared.where).out
    prepared.there("attach")
    prepared.sql("REVOKE SELECT ON users FROM PUBLIC")
    assert "nothing is wrong" in prepared.there("check").out


def test_the_sql_of_a_partition_runs_by_itself(prepared: Shell) -> None:
    """What is printed is what `create` does."""
    prepared.sql("ALTER TABLE users ADD COLUMN password text DEFAULT 'token=secret'")
    sql = prepared.there("sql", "pr-42").out
    told = prepared.there("sql", "pr-42", "--json").report
    assert (told["database"], told["key"]) == (prepared.url.rpartition("/")[2], "pr-42")
    assert "".join(f"{statement};\n\n" for statement in told["statements"]) == sql
    prepared.sql(sql)
    assert prepared.sql("SELECT count(*) FROM public__pr_42.users") == [(2,)]


def test_an_isolation_of_the_application_is_imported(prepared: Shell) -> None:
    """From where the command is run, as `python -m` would; by an option or a variable."""
    (prepared.folder / "shopdata.py").write_text(
        "from sqlalchemy import create_engine\n"
        "from tenancy.data.postgresql import PostgresIsolation\n"
        f"isolation = PostgresIsolation(create_engine({prepared.url.replace('postgresql:', 'postgresql+psycopg:')!r}), default='copy')\n"
        "other = 1\n"
    )
    made = prepared("create", "pr-42", "--isolation", "shopdata:isolation")
    assert made.status == 0, made.err
    assert prepared("status", TENANCY_ISOLATION="shopdata:isolation").status == 0
    assert prepared.sql("SELECT relkind::text FROM pg_class WHERE oid = 'public__pr_42.users'::regclass") == [("r",)]
    for name, told in (
        ("shopdata:other", "is a int"),
        ("shopdata:none", "cannot be had"),
        ("nowhere:x", "cannot be had: No module named 'nowhere'"),
        ("x", "MODULE:NAME"),
        ("shopdata.py:isolation", "such as shopdata:isolation"),
        ("./shopdata.py:isolation", "such as shopdata:isolation"),
        (".shopdata:isolation", "cannot be had"),
    ):
        ran = prepared("status", "--isolation", name)
        assert (ran.status, told in ran.err, "Traceback" in ran.err) == (2, True, False), ran.err
    both = prepared("status", "--isolation", "shopdata:isolation", "--table", "a=copy")
    assert both.status == 2


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os; os.environ['DATABASE_URL_OF_THE_SHOP']", "KeyError: 'DATABASE_URL_OF_THE_SHOP'"),
        ("isolation = (", "SyntaxError: "),
        ("import sys; sys.exit('no database')", "SystemExit: no database"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise ValueError('postgresql://shop:hunter2@db/shop')", "ValueError: postgresql://***@db/shop"),
    ],
)
def test_an_application_that_cannot_be_imported_is_no_crash_of_the_command(tmp_path: Path, source: str, told: str) -> None:
    """What it raises is said in a line, without passwords, and how to see more of it."""
    (tmp_path / "shopdata.py").write_text(source)
    ran = Shell(tmp_path, "")("status", "--isolation", "shopdata:isolation")
    assert (ran.status, told in ran.err, "python -c 'import shopdata'" in ran.err) == (2, True, True), ran.err
    assert "Traceback" not in ran.err
    assert "hunter2" not in ran.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nonsense", "'nonsense' is no PostgreSQL database"),
        ("", "'' is no PostgreSQL database"),
        ("mysql://root:hunter2@127.0.0.1/shop", "'mysql://***@127.0.0.1/shop' is no PostgreSQL database"),
        ("sqlite:///x.db", "'sqlite:///x.db' is no PostgreSQL database"),
        ("shop:hunter2@db/shop", "***@db/shop' is no PostgreSQL database"),
        ("host=db password=hunter2", "'host=db password=***' is no PostgreSQL database"),
        ("postgresql://x@h:notaport/d", "'postgresql://***@h:notaport/d' cannot be read"),
        ("postgresql://x:hun'ter@2:hunter2@h/d", "'postgresql://***@h/d' cannot be read"),
    ],
)
def test_what_is_no_database_is_refused(tmp_path: Path, url: str, shown: str) -> None:
    """With exit status 2, the value without its password, and what to write; nothing is connected to."""
    ran = Shell(tmp_path, url)("status", "--database", url)
    assert (ran.status, shown in ran.err, "postgresql://USER@HOST" in ran.err) == (2, True, True), ran.err
    assert "Traceback" not in ran.err
    assert "hunter2" not in ran.err


def test_the_names_of_the_scheme_that_others_use_are_understood(prepared: Shell) -> None:
    """As `postgres` in the URLs of hosting companies, and with a driver, as in SQLAlchemy's."""
    for scheme in ("postgres:", "postgresql+psycopg2:", "postgresql+asyncpg:"):
        ran = prepared("status", "--database", prepared.url.replace("postgresql:", scheme, 1))
        assert ran.status == 0, ran.err


@pytest.mark.parametrize("missing", ["psycopg", "psycopg_c psycopg_binary psycopg.pq"])
def test_without_the_driver_it_is_said_what_to_install(tmp_path: Path, missing: str) -> None:
    """Where psycopg is not there, and where it is without the library of PostgreSQL."""
    program = f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r})); from tenancy.cli import main; main()"
    ran = run(sys.executable, "-c", program, "data", "status", "--database", "postgresql://127.0.0.1:1/shop", cwd=tmp_path)
    assert (ran.status, "pip install 'request-tenancy[postgresql]'" in ran.err) == (2, True), ran.err
    assert "Traceback" not in ran.err


def test_one_database_is_named_and_not_two(prepared: Shell) -> None:
    """--isolation beside --database is refused; TENANCY_ISOLATION is a default, and gives way."""
    ran = prepared("status", "--isolation", "shopdata:isolation", "--database", prepared.url)
    assert (ran.status, "'shopdata:isolation' and --database" in ran.err) == (2, True), ran.err
    prepared.there("status", TENANCY_ISOLATION="shopdata:isolation")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "PR"), "is not a routing key"),
        (("create", "pr-1", "--ttl", "2x"), "is no time"),
        (("create", "pr-1", "--ttl", "0s"), "is no time"),
        (("create", "pr-1", "--table", "nope=copy"), "there is no table nope"),
        (("create", "pr-1", "--table", "users=half"), "'half'"),
        (("create", "pr-1", "--table", "users"), "NAME=MODE"),
        (("create", "pr-1", "--default", "half"), "default is 'half'"),
    ],
)
def test_what_cannot_be_meant_is_refused(prepared: Shell, arguments: tuple[str, ...], told: str) -> None:
    """With exit status 2, the thing, the value, and what to write; nothing is made."""
    ran = prepared(*arguments, *prepared.where)
    assert (ran.status, told in ran.err) == (2, True), ran.err
    assert prepared.there("status", "--json").report["partitions"] == []


def test_what_stands_against_it_is_said(shell: Shell) -> None:
    """A database that is not prepared, tables that cannot be overlaid, a server that is not there, and no database at all."""
    for arguments in (
        ("create", "pr-1"),
        ("drop", "pr-1"),
        ("refresh", "pr-1"),
        ("status",),
        ("expire",),
        ("detach",),
        ("attach",),
    ):
        unprepared = shell(*arguments, *shell.where)
        assert (unprepared.status, "run `tenancy data install`" in unprepared.err) == (1, True), unprepared.err
        assert "Usage" not in unprepared.err
    unprepared = shell("check", *shell.where)
    assert (unprepared.status, "run `tenancy data install`" in unprepared.out) == (1, True), unprepared.out
    shell.there("install")
    refused = shell("create", "pr-1", "--database", shell.url)
    assert (refused.status, "public.logs: it has no primary key" in refused.err) == (1, True)
    standby = f"{shell.url}?options=-c%20default_transaction_read_only%3Don"
    refused = shell("create", "pr-1", "--database", standby, *shell.where[2:])
    assert (refused.status, "Traceback" in refused.err) == (1, False), refused.err
    assert refused.err.startswith(f"Error: {shell.url.rpartition('/')[2]}: cannot execute CREATE SCHEMA in a read-only transaction")
    away = shell("status", "--database", "postgresql://127.0.0.1:1/shop")
    assert (away.status, "shop: connection" in away.err) == (1, True), away.err
    assert shell("status").status == 2
