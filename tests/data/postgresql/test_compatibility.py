from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tenancy.data.postgresql import PostgresIsolation, enter
from tenancy.errors import PartitionError
from tests.data.postgresql.compatibility import KEY, MODES, Place, place, unchanged
from tests.data.postgresql.compatibility_cases import SAME
from tests.data.postgresql.compatibility_schema import KEYLESS, SCHEMAS

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def where(postgresql: str) -> Iterator[Place]:
    """A database with the partitions of two keys; its baseline is the same when all tests are over."""
    with place(postgresql) as made, unchanged(made):
        yield made


@pytest.fixture(scope="module")
def baseline(where: Place) -> Iterator[psycopg.Connection[Any]]:
    """A connection to do in the baseline what is rolled back then."""
    with psycopg.connect(where.owner) as connection:
        yield connection


@pytest.fixture(scope="module")
def ours(where: Place) -> Iterator[psycopg.Connection[Any]]:
    """A connection for a key's work."""
    with psycopg.connect(where.application) as connection:
        yield connection


def outcome(connection: psycopg.Connection[Any], statements: list[str]) -> list[Any]:
    """Return what each statement returned, up to the first that failed; what was put off to the end of the transaction is one more."""
    found: list[Any] = []
    try:
        for statement in [*statements, "SET CONSTRAINTS ALL IMMEDIATE"]:
            cursor = connection.execute(statement)
            found.append((cursor.rowcount, cursor.fetchall() if cursor.description else None))
    except psycopg.Error as error:
        column = error.diag.column_name if error.sqlstate == "23502" else None
        found.append((error.sqlstate, error.diag.constraint_name, column))
    finally:
        connection.rollback()
    return found


@pytest.mark.parametrize("what", SAME)
def test_the_same_as_in_the_baseline(what: str, baseline: psycopg.Connection[Any], ours: psycopg.Connection[Any]) -> None:
    """The same rows, counts and returned values, the same SQLSTATE and the same constraint, column by column of every kind."""
    baseline.execute("SET LOCAL search_path = " + ", ".join(f'"{schema}"' for schema in SCHEMAS))
    expected = outcome(baseline, SAME[what])
    assert enter(ours, KEY)
    assert outcome(ours, SAME[what]) == expected


# What differs, and how: SQLSTATE of the error, or the rows.
DIFFERENT: dict[str, tuple[list[str], Any]] = {
    "select for update": (["SELECT id FROM users FOR UPDATE"], "0A000"),
    "select for share, skip locked": (["SELECT id FROM users FOR SHARE SKIP LOCKED"], "0A000"),
    "on conflict in text, with a target": (["INSERT INTO users (email) VALUES ('ada@x') ON CONFLICT (email) DO NOTHING"], "42P10"),
    "on conflict in text, without": (["INSERT INTO users (email) VALUES ('ada@x') ON CONFLICT DO NOTHING"], "23505"),
    "on conflict on a constraint in text": (
        ["INSERT INTO users (email) VALUES ('ada@x') ON CONFLICT ON CONSTRAINT users_email_is_unique DO NOTHING"],
        "42704",
    ),
    "truncate": (["TRUNCATE users"], "42809"),
    "copy from a table": (["COPY users TO STDOUT"], "42809"),
    "lock table": (["LOCK TABLE users IN ROW EXCLUSIVE MODE"], "42501"),
    "ctid": (["SELECT ctid FROM users"], "42703"),
    "tableoid": (["SELECT tableoid FROM users"], "42703"),
    "a group by the primary key alone": (["SELECT id, email FROM users GROUP BY id"], "42803"),
    "create table": (["CREATE TABLE own (a integer)"], "42501"),
    "create index": (["CREATE INDEX ON users (name)"], "42501"),
    "add column": (["ALTER TABLE users ADD COLUMN more integer"], "42501"),
    "drop table": (["DROP TABLE users"], "42809"),
    "a reference to an overlay": (["CREATE TEMP TABLE own (a integer REFERENCES users)"], "42809"),
    "setval": (["SELECT setval('orders_id_seq', 1)"], "42501"),
    "a partition by its own name": (["SELECT * FROM events_2025"], "42501"),
    "a write through a view of the baseline": (["UPDATE grown SET age = 30"], "42501"),
    "a write to a readonly table": (["DELETE FROM countries"], "42501"),
    "another owner's row of a Rows table": (["UPDATE tickets SET org = 'acme'"], "44000"),
    "a name with a schema": (["SELECT * FROM public.users"], "42501"),
    "a name with a schema, of another one": (["DELETE FROM sales.lines"], "42501"),
    "a column set to its default that is generated": (["UPDATE users SET shout = DEFAULT"], "428C9"),
    "a unique constraint that is checked when the statement ends": (["UPDATE ended_unique SET rank = rank + 1"], "23505"),
    # What is let pass that the baseline refuses.
    "a number for GENERATED ALWAYS": (["INSERT INTO always (id, note) VALUES (77, 'x') RETURNING id"], [(77,)]),
    "a row for which there is no partition": (
        ["INSERT INTO events (day, kind) VALUES ('2036-06-06', 'c') RETURNING kind"],
        [("c",)],
    ),
    "the sequence of a column": (["SELECT pg_get_serial_sequence('users', 'id')"], [(None,)]),
    # Views and functions of the baseline.
    "a materialized view": (["SELECT * FROM stored"], "42501"),
    "a function with the name of a schema": (["SELECT * FROM users_by_name('Ada')"], "42501"),
    "a function": (["DELETE FROM users WHERE id = 3", "SELECT how_many_users()"], [(2,)]),
    # Modes.
    "rows of a Rows table": (["SELECT title FROM tickets"], [("mine already",)]),
    "a new row of a Rows table": (["INSERT INTO tickets (title) VALUES ('new') RETURNING org"], [("pr-42",)]),
    "an empty table": (["SELECT count(*) FROM audit"], [(0,)]),
    "an empty table does not keep what the baseline's refers to": (
        ["DELETE FROM users WHERE id = 3", "SELECT count(*) FROM users"],
        [(2,)],
    ),
    "an empty table refers to an overlay": (
        ["INSERT INTO audit (actor, what) VALUES (3, 'x')", "DELETE FROM users WHERE id = 3"],
        "23503",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs(what: str, ours: psycopg.Connection[Any]) -> None:
    """All of what the documentation says to be different, and no row of the baseline is changed by it."""
    statements, expected = DIFFERENT[what]
    assert enter(ours, KEY)
    try:
        if isinstance(expected, str):
            with pytest.raises(psycopg.Error) as caught:
                _all(ours, statements)
            assert caught.value.sqlstate == expected, caught.value
            return
        assert _all(ours, statements).fetchall() == expected
    finally:
        ours.rollback()


def _all(connection: psycopg.Connection[Any], statements: list[str]) -> psycopg.Cursor[Any]:
    return [connection.execute(statement) for statement in statements][-1]


def test_merge(ours: psycopg.Connection[Any]) -> None:
    """It is refused, by servers that have it; those of PostgreSQL 17 run the triggers."""
    if ours.info.server_version < 150000:
        pytest.skip("this server has no MERGE")
    enter(ours, KEY)
    text = "MERGE INTO users u USING (VALUES ('ada@x')) v(e) ON u.email = v.e WHEN MATCHED THEN UPDATE SET age = 1"
    if ours.info.server_version < 170000:
        with pytest.raises(psycopg.Error, match="MERGE"):
            ours.execute(text)
    else:
        assert ours.execute(text).rowcount == 1
    ours.rollback()


def test_what_is_copied_in_and_out(where: Place, ours: psycopg.Connection[Any]) -> None:
    """COPY FROM an overlay, and COPY TO of a query."""
    enter(ours, KEY)
    with ours.cursor() as cursor:
        with cursor.copy("COPY users (email, name) FROM STDIN") as copy:
            for number in range(100):
                copy.write_row((f"{number}@x", "copied"))
        with cursor.copy("COPY (SELECT email FROM users WHERE name = 'copied') TO STDOUT") as copy:
            assert len(list(copy.rows())) == 100
        with pytest.raises(psycopg.errors.UniqueViolation), cursor.copy("COPY users (email) FROM STDIN") as copy:
            copy.write_row(("ada@x",))
    ours.rollback()


def test_numbers_are_the_baselines(where: Place, baseline: psycopg.Connection[Any], ours: psycopg.Connection[Any]) -> None:
    """Two keys and the baseline are never given the same one."""
    given = []
    for key in (KEY, "pr-43", None, KEY):
        if key is not None:
            enter(ours, key)
        connection = ours if key else baseline
        for text in (
            "users (email) VALUES ('n@x')",
            "always DEFAULT VALUES",
            "jobs (payload) VALUES ('{}')",
            "kinds DEFAULT VALUES",
        ):
            given += [(text[:5], row[0]) for row in connection.execute(f"INSERT INTO {text} RETURNING id")]
        connection.rollback()
    assert len(set(given)) == len(given) == 16


def test_prepared_statements_follow_the_search_path(where: Place) -> None:
    """The server plans one anew where its tables are others."""
    with psycopg.connect(where.application, prepare_threshold=0) as connection:
        for _ in range(3):
            for key, count in ((KEY, 2), (None, 3), ("pr-43", 3)):
                if key is not None:
                    enter(connection, key)
                if key == KEY:
                    connection.execute("DELETE FROM handles WHERE handle = 'Bob'")
                assert connection.execute("SELECT count(*) FROM handles", prepare=True).fetchone() == (count,)
                connection.rollback()


def test_temporary_tables(ours: psycopg.Connection[Any]) -> None:
    """They are the session's, and in nobody's way."""
    enter(ours, KEY)
    ours.execute("CREATE TEMP TABLE own (a integer) ON COMMIT DROP")
    assert ours.execute("INSERT INTO own SELECT id FROM users RETURNING a").rowcount == 3
    ours.rollback()


def test_tables_without_a_primary_key(where: Place) -> None:
    """They are refused as an overlay, with what else they can be; and can be that."""
    with psycopg.connect(where.owner) as connection:
        connection.execute(KEYLESS)
    try:
        with pytest.raises(PartitionError, match=r"public\.logs: it has no primary key.*use mode copy, empty or readonly"):
            where.isolation.create("pr-44")
        for mode in ("copy", "empty", "readonly"):
            PostgresIsolation(where.engine, {**MODES, "logs": mode}, schemas=SCHEMAS).create("pr-44")
            with psycopg.connect(where.application) as connection:
                enter(connection, "pr-44")
                assert connection.execute("SELECT * FROM logs").fetchall() == []
            where.isolation.drop("pr-44", forget=True)
    finally:
        with psycopg.connect(where.owner) as connection:
            connection.execute("DROP TABLE logs")
