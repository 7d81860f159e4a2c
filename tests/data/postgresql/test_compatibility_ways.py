from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import inspect

import tenancy
from tenancy.errors import PartitionError
from tests.data.postgresql.compatibility import KEY, OTHER, Place, place, unchanged
from tests.data.postgresql.compatibility_ways import WAYS, Base, Core, DjangoORM, Psycopg, Way

pytestmark = pytest.mark.service

BASELINE = {"ada@x": "Ada", "bob@x": "Bob", "cy@x": "Cy"}


@pytest.fixture(scope="module")
def where(postgresql: str) -> Iterator[Place]:
    """A database with the partitions of two keys."""
    with place(postgresql) as made:
        yield made


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(where: Place, request: pytest.FixtureRequest) -> Iterator[Way]:
    """A way to work with it; when the test is over, the baseline's rows are what they were."""
    made = request.param(where)
    try:
        with unchanged(where):
            yield made
    finally:
        made.close()
        where.reset()


def test_insert_with_defaults_and_generated_columns(way: Way) -> None:
    """What the server fills in comes back; a number is the baseline's next; the row is the key's alone."""
    with way.work(KEY):
        first = way.add("new@x")
        assert first[1:] == ("nobody", "NOBODY")
        assert way.add("two@x", name="Two", age=2)[1:] == ("Two", "TWO")
        assert way.users() == {**BASELINE, "new@x": "nobody", "two@x": "Two"}
    with way.work(OTHER):
        assert way.users() == BASELINE
        assert way.add("new@x")[0] > first[0]
    with way.work(None):
        assert way.users() == BASELINE


def test_many_at_once(way: Way) -> None:
    """With their ids, in one go."""
    with way.work(KEY):
        ids = way.add_many([f"{number}@x" for number in range(500)])
        assert len(set(ids)) == 500
        assert len(way.users()) == 503


def test_update_and_delete(way: Way) -> None:
    """Of rows of the baseline, and of those that the key has changed already; in one transaction and in the next."""
    with way.work(KEY):
        assert way.rename("ada@x", "Ada!") == 1
        assert way.rename("ada@x", "Ada!!") == 1
        assert way.rename("nobody@x", "?") == 0
        assert way.older() == 3
        assert way.remove("cy@x") == 1
    with way.work(KEY):
        assert way.users() == {"ada@x": "Ada!!", "bob@x": "Bob"}
        assert way.raw("SELECT age FROM users WHERE age IS NOT NULL ORDER BY age") == [(18,), (37,)]
        assert way.remove("ada@x") == 1
        assert way.remove("ada@x") == 0
        assert way.users() == {"bob@x": "Bob"}


def test_joins_and_cascades(way: Way) -> None:
    """Over rows of the baseline and of the key; what refers to a row goes with it."""
    with way.work(KEY):
        user = way.add("new@x")[0]
        way.order(user, 5)
        way.order(1, 7)
        assert way.amounts() == {"ada@x": [10, 20, 7], "bob@x": [30], "new@x": [5]}
        assert way.remove("ada@x") == 1
        assert way.amounts() == {"bob@x": [30], "new@x": [5]}


def test_constraints_by_their_names(way: Way) -> None:
    """Unique, foreign key and CHECK, over rows of both; a savepoint gets the transaction over the error."""
    with way.work(KEY):
        way.add("own@x")
        for wrong, constraint in (
            (lambda: way.add("ada@x"), "users_email_is_unique"),
            (lambda: way.add("own@x"), "users_email_is_unique"),
            (lambda: way.add("young@x", age=-1), "users_age_is_positive"),
            (lambda: way.order(999, 1), "orders_user_exists"),
        ):
            with pytest.raises(way.errors, match=constraint), way.savepoint():
                wrong()
        assert way.users() == {**BASELINE, "own@x": "nobody"}


def test_primary_keys(way: Way) -> None:
    """One is changed; one is deleted and comes again; one is changed and then deleted."""
    with way.work(KEY):
        way.recode("a", "z")
        assert way.codes() == {"z": "A", "b": "B"}
    with way.work(KEY):
        way.uncode("b")
        way.code("b", "again")
        assert way.codes() == {"z": "A", "b": "again"}
        way.uncode("z")
        way.code("a", "new")
    with way.work(KEY):
        assert way.codes() == {"b": "again", "a": "new"}
        with pytest.raises(way.errors, match="natural_key_pkey"), way.savepoint():
            way.code("a", "twice")


def test_rollback(way: Way) -> None:
    """Nothing is left, of the whole or of a savepoint."""

    def lost() -> None:
        way.add("lost@x")
        way.rename("ada@x", "lost")
        way.remove("cy@x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), way.work(KEY):
        lost()
    with way.work(KEY):
        with pytest.raises(ZeroDivisionError), way.savepoint():
            lost()
        assert way.users() == BASELINE


def test_on_conflict(way: Way) -> None:
    """What an ORM or Core composes meets rows of both; SQL as text is refused, or fails on the duplicate."""
    rows = [("ada@x", "Changed"), ("own@x", "Changed"), ("new@x", "New")]
    with way.work(KEY):
        way.add("own@x", name="Own")
    if isinstance(way, Psycopg):
        with pytest.raises(way.errors, match="ON CONFLICT"), way.work(KEY):
            way.upsert(rows)
        with pytest.raises(way.errors, match="users_email_is_unique"), way.work(KEY):
            way.ignore(rows)
        return
    with way.work(KEY):
        way.ignore(rows)
        assert way.users() == {**BASELINE, "own@x": "Own", "new@x": "New"}
    with way.work(KEY):
        way.upsert([*rows, ("more@x", "More")])
        assert way.users() == {
            "ada@x": "Changed",
            "bob@x": "Bob",
            "cy@x": "Cy",
            "own@x": "Changed",
            "new@x": "New",
            "more@x": "More",
        }
    with way.work(OTHER):
        assert way.users() == BASELINE


def test_for_update(way: Way) -> None:
    """It locks, or it is refused."""
    if isinstance(way, DjangoORM):
        with way.work(KEY):
            assert way.lock("ada@x") == ["ada@x"]
        return
    with pytest.raises((PartitionError, way.errors), match="FOR UPDATE"), way.work(KEY):
        way.lock("ada@x")
    with way.work(KEY):
        assert way.raw("SELECT id FROM jobs ORDER BY id FOR UPDATE SKIP LOCKED") == way.raw("SELECT id FROM jobs ORDER BY id")


def test_sql_as_text(way: Way) -> None:
    """It is in the partition as well; a name that leads out of it is refused."""
    with way.work(KEY):
        way.raw("UPDATE users SET name = 'All'")
        assert way.raw("SELECT DISTINCT name FROM users") == [("All",)]
        assert way.raw("SELECT email, amount::int FROM paid ORDER BY email") == [("ada@x", 10), ("bob@x", 30)]
    for refused, hint in (
        ("SELECT id, email FROM users GROUP BY id", "name them all in GROUP BY"),
        ("SELECT id FROM users FOR SHARE", "would lock nothing"),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "set it before the transaction begins"),
    ):
        error = way.errors if isinstance(way, Psycopg) else PartitionError
        with pytest.raises(error, match=None if isinstance(way, Psycopg) else hint), way.work(KEY):
            way.raw(refused)
    for statement in ("SELECT * FROM public.users", "DELETE FROM public.users", "TRUNCATE public.users"):
        with pytest.raises((PartitionError, way.errors), match="permission denied"), way.work(KEY):
            way.raw(statement)


def test_a_key_and_then_another_on_one_connection(way: Way) -> None:
    """Each sees its own."""
    for turn in range(3):
        for key in (KEY, OTHER, None):
            with way.work(key):
                if key is not None:
                    way.add(f"{key}-{turn}@x")
                assert {email for email in way.users() if email not in BASELINE} == (
                    set() if key is None else {f"{key}-{before}@x" for before in range(turn + 1)}
                )


def test_tables_are_there(where: Place) -> None:
    """To SQLAlchemy, which would make those that are missing."""
    way = Core(where)
    with tenancy.scope(KEY), way.engine.begin() as connection:
        Base.metadata.create_all(connection)
        assert inspect(connection).has_table("users")
    way.close()
