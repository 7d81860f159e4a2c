from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import FieldDoesNotExist
from django.db import IntegrityError, InterfaceError, OperationalError, connections, transaction
from django.db.models import Count, F, Value
from django.db.models.functions import Lower, Upper

import tenancy
from tenancy.data.postgresql import django as hook
from tenancy.data.postgresql import transaction as policies
from tenancy.errors import ConfigurationError, IdentityError, PartitionError
from tenancy.testing import Configure
from tests.data.postgresql.compatibility import KEY, OTHER, Place, place, unchanged
from tests.data.postgresql.django_models import Always, Handle, Job, NaturalKey, Order, User, connect, disconnect

pytestmark = pytest.mark.service

ALIAS, SECOND = "tenancy_compat", "tenancy_other"
USERS, ORDERS, JOBS = User.objects.using(ALIAS), Order.objects.using(ALIAS), Job.objects.using(ALIAS)
BASELINE = ["ada@x", "bob@x", "cy@x"]


@pytest.fixture(scope="module")
def where(postgresql: str) -> Iterator[Place]:
    """A database with the partitions of two keys."""
    with place(postgresql) as made:
        yield made


@pytest.fixture
def plain(where: Place) -> Iterator[Place]:
    """Django connected to it, and the baseline as it was when the test is over."""
    connect(ALIAS, where.application, TEST_OWNER=where.owner)
    try:
        with unchanged(where):
            yield where
    finally:
        hook.uncover()
        disconnect(ALIAS)
        where.reset()


@pytest.fixture
def covered(plain: Place) -> Place:
    """The same, covered."""
    hook.cover(ALIAS)
    return plain


def emails() -> list[str]:
    return sorted(USERS.values_list("email", flat=True))


def atomic(**options: Any) -> Any:
    return transaction.atomic(using=ALIAS, **options)


# Whose work it is


def test_work_of_a_key_is_seen_by_that_key_alone(covered: Place) -> None:
    """And still there in the next transaction."""
    with tenancy.scope(KEY), atomic():
        USERS.create(email="new@x")
        USERS.filter(email="cy@x").delete()
        USERS.filter(email="ada@x").update(name="Changed")
    with tenancy.scope(KEY), atomic():
        assert emails() == ["ada@x", "bob@x", "new@x"]
        assert USERS.get(email="ada@x").name == "Changed"
    with tenancy.scope(OTHER), atomic():
        assert emails() == BASELINE
        assert USERS.get(email="ada@x").name == "Ada"
    assert emails() == BASELINE


def test_one_connection_carries_nothing_on(covered: Place) -> None:
    """The same session of the server serves the keys and the baseline in turn."""
    seen = set()
    for key in (KEY, None, OTHER, None, KEY):
        with tenancy.scope(key), atomic(), connections[ALIAS].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid(), current_user, current_schema(), current_setting('tenancy.routing_key', true)")
            process, user, schema, setting = cursor.fetchone()
            seen.add(process)
            if key is None:
                assert (user, schema, setting or None) == ("compat_app", "public", None)
            else:
                assert (user, schema, setting) == ("tenancy_keyed", f"public__{key.replace('-', '_')}", key)
    assert len(seen) == 1


def test_outside_of_a_transaction_a_key_is_refused(covered: Place) -> None:
    """The error says what to do, and work without a key goes on as ever."""
    with tenancy.scope(KEY):
        for work in (emails, lambda: USERS.create(email="new@x"), lambda: USERS.filter(id=1).update(age=1)):
            with pytest.raises(PartitionError, match=r"ATOMIC_REQUESTS = True, or atomic\(\)"):
                work()
    assert emails() == BASELINE


def test_outside_of_a_transaction_each_statement_may_have_its_own(plain: Place) -> None:
    """As autocommit does it, and each of them in the partition."""
    hook.cover(ALIAS, outside="transaction")
    with tenancy.scope(KEY):
        made = USERS.create(email="new@x")
        USERS.bulk_create([User(email="ada@x"), User(email="more@x")], ignore_conflicts=True)
        assert USERS.get_or_create(email="new@x")[0].id == made.id
        assert [user.email for user in USERS.order_by("email").iterator(chunk_size=1)] == [
            *BASELINE[:1],
            "bob@x",
            "cy@x",
            "more@x",
            "new@x",
        ]
        with pytest.raises(IntegrityError):
            USERS.create(email="bob@x")
        with connections[ALIAS].cursor() as cursor, pytest.raises(PartitionError, match="outside of a transaction"):
            cursor.copy("COPY users (email) FROM STDIN")
        assert connections[ALIAS].get_autocommit()
        made.delete()
        assert "new@x" not in emails()
    with tenancy.scope(OTHER):
        assert emails() == BASELINE


def test_a_change_of_key_within_a_transaction_is_refused(covered: Place) -> None:
    """From one key to another, to none, and from none to one; the transaction can be rolled back."""
    with tenancy.scope(KEY), atomic():
        USERS.create(email="new@x")
        with tenancy.scope(OTHER):
            with pytest.raises(PartitionError, match="is of pr-42, and is now used for pr-43"):
                emails()
            with connections[ALIAS].cursor() as cursor, pytest.raises(PartitionError):
                cursor.execute("SAVEPOINT one; DELETE FROM users")
        with tenancy.scope(None), pytest.raises(PartitionError, match="is now used for the baseline"):
            emails()
        assert "new@x" in emails()
    with atomic():
        emails()
        with tenancy.scope(KEY), pytest.raises(PartitionError, match="is of the baseline, and is now used for pr-42"):
            emails()

    def lost() -> None:
        with tenancy.scope(KEY), atomic():
            USERS.create(email="lost@x")
            with tenancy.scope(OTHER):
                emails()

    with pytest.raises(PartitionError):
        lost()
    with tenancy.scope(KEY), atomic():
        assert "lost@x" not in emails()


def test_a_transaction_is_of_the_key_of_its_first_statement(covered: Place) -> None:
    """An atomic block around a scope in which all its work is done."""
    with atomic(), tenancy.scope(KEY):
        USERS.create(email="new@x")
    with tenancy.scope(KEY), atomic():
        assert "new@x" in emails()


def test_savepoints(covered: Place) -> None:
    """A rollback to one leaves the transaction in the partition, also where the scope is within the block that fails."""

    def lost() -> None:
        USERS.create(email="lost@x")
        raise ZeroDivisionError

    with tenancy.scope(KEY), atomic():
        with pytest.raises(ZeroDivisionError), atomic():
            lost()
        with pytest.raises(IntegrityError), atomic():
            USERS.create(email="ada@x")
        USERS.create(email="kept@x")
    with atomic():
        with tenancy.scope(KEY):
            assert "kept@x" in emails()
        with pytest.raises(ZeroDivisionError), atomic(), tenancy.scope(KEY):
            lost()
    with tenancy.scope(KEY), atomic():
        assert emails() == [*BASELINE, "kept@x"]


def test_on_commit(covered: Place) -> None:
    """What runs when the transaction is over is outside of it, and takes one of its own."""
    seen: list[Any] = []

    def after() -> None:
        with pytest.raises(PartitionError):
            emails()
        with atomic():
            seen.append(emails())

    with tenancy.scope(KEY), atomic():
        USERS.create(email="new@x")
        transaction.on_commit(after, using=ALIAS)
    assert seen == [[*BASELINE, "new@x"]]


def test_past_djangos_cursors(covered: Place) -> None:
    """COPY, a procedure and the driver's own cursor are in the partition, as the first thing of a transaction too."""
    with tenancy.scope(KEY), atomic(), connections[ALIAS].cursor() as cursor, cursor.copy("COPY users (email) FROM STDIN") as copy:
        copy.write_row(["copied@x"])
    with tenancy.scope(KEY), atomic():
        own = connections[ALIAS].connection.cursor()
        own.execute("SELECT count(*) FROM users")
        assert own.fetchone()[0] == 4
    with tenancy.scope(KEY), atomic(), connections[ALIAS].cursor() as cursor:
        cursor.callproc("current_schema")
        assert cursor.fetchone() == ("public__pr_42",)
    with (
        atomic(),
        connections[ALIAS].cursor() as cursor,
        tenancy.scope(KEY),
        cursor.copy("COPY (SELECT email FROM users) TO STDOUT") as copy,
    ):
        assert ("copied@x",) in list(copy.rows())
    with tenancy.scope(KEY), connections[ALIAS].cursor() as cursor, pytest.raises(PartitionError):
        cursor.copy("COPY users (email) FROM STDIN")


def test_a_transaction_that_began_past_django_is_refused(covered: Place) -> None:
    """Nothing was entered then, whatever the last transaction was."""
    with tenancy.scope(KEY), atomic():
        emails()
    with atomic():
        connections[ALIAS].connection.execute("SELECT 1")
        with tenancy.scope(KEY), pytest.raises(PartitionError, match="did not begin as one of pr-42"):
            emails()


def test_an_exception_while_a_transaction_enters(covered: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a time limit's, after the server has done it: what comes next, with a key or without, is refused until the transaction ends."""
    asked = hook._asked

    def interrupted(connection: Any, statement: str) -> str:
        asked(connection, statement)
        raise InterruptedError

    with atomic():
        with tenancy.scope(KEY), monkeypatch.context() as patched:
            patched.setattr(hook, "_asked", interrupted)
            with pytest.raises(InterruptedError):
                emails()
        for key in (None, KEY, OTHER):
            with tenancy.scope(key), pytest.raises(PartitionError, match="not known whether it did"):
                emails()
    assert emails() == BASELINE
    with tenancy.scope(KEY):
        with monkeypatch.context() as patched:
            patched.setattr(hook, "_asked", interrupted)
            with pytest.raises(InterruptedError), atomic():
                raise AssertionError("it comes before")
        assert connections[ALIAS].get_autocommit()
        with tenancy.scope(None):
            assert emails() == BASELINE
        with atomic():
            assert emails() == BASELINE


def test_many_to_many_and_sessions_way_to_write(covered: Place) -> None:
    """What Django does by itself: an insert that ignores conflicts, twice."""
    with tenancy.scope(KEY), atomic():
        for _ in range(2):
            Handle.objects.using(ALIAS).bulk_create([Handle(handle="m", region="us", number=7)], ignore_conflicts=True)
        assert Handle.objects.using(ALIAS).filter(region="us", number=7).count() == 1
        # By an index on an expression, with a condition.
        Handle.objects.using(ALIAS).bulk_create([Handle(handle="ADA"), Handle(handle="ADA", active=False)], ignore_conflicts=True)
        assert Handle.objects.using(ALIAS).filter(handle="ADA").count() == 1
        Handle.objects.using(ALIAS).bulk_create([Handle(handle=Lower(Value("BOB")))], ignore_conflicts=True)
        assert not Handle.objects.using(ALIAS).filter(handle="bob").exists()


def test_a_connection_that_is_lost(covered: Place) -> None:
    """The error is the driver's, and the next transaction has a new connection, which enters as well."""
    with tenancy.scope(KEY):
        with pytest.raises((OperationalError, InterfaceError)), atomic():
            _killed()
        with atomic():
            USERS.create(email="after@x")
        with connections[ALIAS].cursor() as cursor:
            connections[ALIAS].close()
            with pytest.raises((OperationalError, InterfaceError)):
                cursor.execute("SELECT 1")
    assert emails() == BASELINE


def _killed() -> None:
    process = connections[ALIAS].connection.info.backend_pid
    with psycopg.connect(connections[ALIAS].settings_dict["TEST_OWNER"], autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(%s)", (process,))
    emails()


def test_sql_that_ends_the_transaction(covered: Place) -> None:
    """It is refused, since the next one would not be in the partition."""
    with tenancy.scope(KEY), atomic(), connections[ALIAS].cursor() as cursor:
        cursor.execute("INSERT INTO users (email) VALUES ('new@x')")
        for statement in ("COMMIT", "ROLLBACK AND CHAIN", b"COMMIT AND CHAIN", psycopg.sql.SQL("SELECT 1; COMMIT; BEGIN")):
            with pytest.raises(PartitionError, match=f"would end the transaction.*{KEY}.*leave atomic"):
                cursor.execute(statement)
        cursor.execute("SELECT CASE WHEN id = 1 THEN ';' ELSE '; COMMIT' END FROM users;")
        assert emails() == [*BASELINE, "new@x"]


def test_without_autocommit(plain: Place) -> None:
    """A project that ends its transactions itself."""
    disconnect(ALIAS)
    connect(ALIAS, plain.application, AUTOCOMMIT=False)
    hook.cover(ALIAS)
    with tenancy.scope(KEY):
        USERS.create(email="new@x")
        with atomic():
            USERS.create(email="inner@x")
        transaction.commit(using=ALIAS)
        USERS.create(email="lost@x")
        transaction.rollback(using=ALIAS)
    assert emails() == BASELINE
    transaction.commit(using=ALIAS)
    with tenancy.scope(KEY):
        assert emails() == [*BASELINE, "inner@x", "new@x"]
        transaction.rollback(using=ALIAS)


def test_somebody_elses_wrapper(covered: Place) -> None:
    """One that is there while the connection is first used takes only itself away."""
    seen = []

    def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
        seen.append(sql)
        return execute(sql, *rest)

    with tenancy.scope(KEY):
        with connections[ALIAS].execute_wrapper(wrapper), atomic():
            emails()
        assert len(seen) == 1
        with atomic():
            assert USERS.create(email="new@x").pk
        with pytest.raises(PartitionError):
            emails()


def test_threads(covered: Place) -> None:
    """Each has connections of its own, all of them covered, and its own key."""
    failed: list[BaseException] = []

    def work(key: str, number: int) -> None:
        try:
            for turn in range(5):
                with tenancy.scope(key), atomic():
                    USERS.create(email=f"{key}-{number}-{turn}@x")
                    assert all(email.startswith(key) for email in emails() if email not in BASELINE)
                assert emails() == BASELINE
        except BaseException as error:
            failed.append(error)
        finally:
            connections[ALIAS].close()

    threads = [threading.Thread(target=work, args=((KEY, OTHER)[number % 2], number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with tenancy.scope(KEY), atomic():
        assert len(emails()) == 3 + 15


async def test_asyncio(plain: Place) -> None:
    """The asynchronous methods run in a thread with the key of the task; they are outside of transactions."""
    hook.cover(ALIAS, outside="transaction")

    async def work(key: str) -> list[str]:
        with tenancy.scope(key):
            await USERS.acreate(email=f"{key}@x")
            await asyncio.sleep(0)
            return [user.email async for user in USERS.order_by("email") if user.email not in BASELINE]

    assert await asyncio.gather(work(KEY), work(OTHER)) == [[f"{KEY}@x"], [f"{OTHER}@x"]]
    hook.uncover()
    hook.cover(ALIAS)
    with tenancy.scope(KEY):
        with pytest.raises(PartitionError):
            await USERS.aget(email="ada@x")

        @sync_to_async
        @atomic()
        def together() -> list[str]:
            return emails()

        assert f"{KEY}@x" in await together()
    await sync_to_async(lambda: connections[ALIAS].close())()


def test_several_databases(covered: Place, postgresql: str) -> None:
    """Each has its own partitions, and one that is not covered none."""
    with place(postgresql) as second:
        connect(SECOND, second.application)
        try:
            others = User.objects.using(SECOND)
            with tenancy.scope(KEY):
                assert others.count() == 3  # nobody has covered it
            hook.cover(SECOND)
            with tenancy.scope(KEY), atomic(), transaction.atomic(using=SECOND):
                others.create(email="second@x")
                USERS.create(email="first@x")
            with tenancy.scope(KEY), atomic(), transaction.atomic(using=SECOND):
                assert sorted(others.values_list("email", flat=True)) == [*BASELINE, "second@x"]
                assert emails() == [*BASELINE, "first@x"]
        finally:
            disconnect(SECOND)


# Keys without a partition


def test_keys_without_a_partition(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By policy the baseline's, and counted, or refused; then the connection can be used."""
    counted: list[str] = []
    monkeypatch.setattr(policies, "count", lambda name, *rest, **more: counted.append(name))
    plain.isolation.create("gone")
    plain.isolation.drop("gone")
    hook.cover(ALIAS)
    with tenancy.scope("nobodys"), atomic():
        assert emails() == BASELINE
    assert counted == ["tenancy.partition.unknown_keys"]
    with tenancy.scope("gone"), pytest.raises(PartitionError, match="was dropped"), atomic():
        raise AssertionError("refused before")
    assert connections[ALIAS].get_autocommit()
    assert not connections[ALIAS].in_atomic_block
    hook.uncover()
    hook.cover(ALIAS, unknown="refuse", late="baseline")
    with tenancy.scope("gone"), atomic():
        assert emails() == BASELINE
    with tenancy.scope("nobodys"), pytest.raises(PartitionError, match="create it"), atomic():
        raise AssertionError("refused before")
    with atomic():
        assert emails() == BASELINE
        with tenancy.scope("nobodys"), pytest.raises(PartitionError):
            emails()
    with tenancy.scope(KEY), atomic():
        assert emails() == BASELINE


def test_a_database_that_is_not_prepared(plain: Place, postgresql: str) -> None:
    """The error says what to call, and the connection can be used."""
    connect(SECOND, postgresql)
    hook.cover(SECOND)
    try:
        with tenancy.scope(KEY), pytest.raises(ConfigurationError, match=r"install\(\) once"), transaction.atomic(using=SECOND):
            raise AssertionError("refused before")
        with connections[SECOND].cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        disconnect(SECOND)


def test_what_cannot_be_covered(plain: Place, tenancy_settings: Configure) -> None:
    """Errors name it; switched off nothing is changed, and in a sandbox that is an error."""
    for arguments, options, message in (
        (("nowhere",), {}, "there is no such database"),
        ((ALIAS,), {"unknown": "x"}, "unknown='x'"),
        ((ALIAS,), {"late": "x"}, "late='x'"),
        ((ALIAS,), {"outside": "x"}, "outside='x'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            hook.cover(*arguments, **options)  # type: ignore[arg-type]
    hook.cover(ALIAS)
    with pytest.raises(ConfigurationError, match="covered already"):
        hook.cover(ALIAS)
    hook.uncover()
    before = [vars(owner).get(name) for owner, name in _PATCHED]
    tenancy_settings(enabled=False)
    hook.cover(ALIAS)
    assert [vars(owner).get(name) for owner, name in _PATCHED] == before
    with tenancy.scope(KEY):
        assert emails() == BASELINE
    tenancy_settings(sandbox="pr-42")
    with pytest.raises(IdentityError):
        hook.cover(ALIAS)


_PATCHED = [
    (hook.DatabaseWrapper, "create_cursor"),
    (hook.DatabaseWrapper, "set_autocommit"),
    (hook.DatabaseWrapper, "commit"),
    (hook.CursorWrapper, "__getattr__"),
    (hook.SQLInsertCompiler, "execute_sql"),
]


def test_uncover(covered: Place) -> None:
    """Nothing is left, on connections that are open either."""
    with tenancy.scope(KEY), atomic():
        emails()
    hook.uncover()
    with tenancy.scope(KEY):
        assert emails() == BASELINE
        USERS.filter(email="nobody").delete()


# What Django composes


def test_conflicts_of_bulk_create(covered: Place) -> None:
    """Rows of the baseline, and the key's own, are met as if they were in one table."""
    with tenancy.scope(KEY), atomic():
        USERS.create(email="own@x", name="Own")
        USERS.bulk_create(
            [User(email="ada@x", name="Not"), User(email="own@x", name="Not"), User(email="new@x", name="New")],
            ignore_conflicts=True,
        )
        assert dict(USERS.values_list("email", "name")) == {
            "ada@x": "Ada",
            "bob@x": "Bob",
            "cy@x": "Cy",
            "own@x": "Own",
            "new@x": "New",
        }
        made = USERS.bulk_create(
            [User(email="bob@x", name="Bobby"), User(email="own@x", name="Mine"), User(email="more@x", name="More")],
            update_conflicts=True,
            unique_fields=["email"],
            update_fields=["name"],
        )
        assert dict(USERS.values_list("email", "name")) == {
            "ada@x": "Ada",
            "bob@x": "Bobby",
            "cy@x": "Cy",
            "own@x": "Mine",
            "new@x": "New",
            "more@x": "More",
        }
        assert USERS.get(email="bob@x").id == 2
        if made[0].pk is not None:  # since Django 5.0
            assert made[0].pk == 2
    with tenancy.scope(KEY), atomic():
        NaturalKey.objects.using(ALIAS).bulk_create(
            [NaturalKey(code="a", title="mine"), NaturalKey(code="c", title="new")],
            update_conflicts=True,
            unique_fields=["code"],
            update_fields=["title"],
        )
        assert dict(NaturalKey.objects.using(ALIAS).values_list("code", "title")) == {"a": "mine", "b": "B", "c": "new"}
        handles = Handle.objects.using(ALIAS)
        handles.bulk_create(
            [
                Handle(handle="x", region="eu", number=1),
                Handle(handle="y", region=None, number=1),
                Handle(handle="z", region="eu", number=9),
            ],
            ignore_conflicts=True,
        )
        assert sorted(handles.values_list("handle", flat=True)) == ["Ada", "Bob", "ada", "y", "z"]


def test_bulk_create_is_checked_for_all_rows(covered: Place) -> None:
    """It goes into the delta at once, and what is wrong with a row is refused by the name of the baseline's constraint."""
    with tenancy.scope(KEY), atomic():
        USERS.bulk_create([User(email=f"{number}@x") for number in range(500)])
        assert USERS.count() == 503
        statements: list[str] = []

        def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
            statements.append(sql)
            return execute(sql, *rest)

        with connections[ALIAS].execute_wrapper(wrapper):
            made = ORDERS.bulk_create([Order(user_id=1, amount=number) for number in range(3)])
        assert 'INSERT INTO "public__pr_42"."orders__delta" AS "orders" ' in statements[0]
        assert all(order.pk for order in made)
    for wrong, constraint in (
        ([User(email="fine@x"), User(email="ada@x")], "users_email_is_unique"),
        ([User(email="fine@x", age=-1)], "users_age_is_positive"),
        ([Order(user_id=1, amount=1), Order(user_id=999, amount=1)], "orders_user_exists"),
    ):
        with tenancy.scope(KEY), pytest.raises(IntegrityError) as caught, atomic():
            type(wrong[0])._default_manager.using(ALIAS).bulk_create(wrong)
        assert caught.value.__cause__.diag.constraint_name == constraint  # type: ignore[union-attr]
    with tenancy.scope(KEY), atomic():
        assert not USERS.filter(email="fine@x").exists()


def test_upserts_in_sql_are_refused_with_a_hint(covered: Place) -> None:
    """Nothing could make the baseline's rows the key's own before; a duplicate is at least an error."""
    text = "INSERT INTO users (email) VALUES ('ada@x') ON CONFLICT (email) DO NOTHING"
    with tenancy.scope(KEY), pytest.raises(PartitionError, match="bulk_create"), atomic(), connections[ALIAS].cursor() as cursor:
        cursor.execute(text)
    with tenancy.scope(KEY), pytest.raises(IntegrityError), atomic(), connections[ALIAS].cursor() as cursor:
        cursor.execute(text.replace(" (email) DO", " DO"))


def test_select_for_update_locks(covered: Place) -> None:
    """Rows of an overlay and of a copy, in all its forms; of other keys nothing waits."""
    with tenancy.scope(KEY), atomic():
        assert [user.email for user in USERS.select_for_update().filter(age__gt=1).order_by("email")] == ["ada@x", "bob@x"]
        assert [user.email for user in USERS.select_for_update().order_by("-email")[:1]] == ["cy@x"]
        assert list(USERS.select_for_update().filter(age__gt=99)) == []
        assert list(USERS.select_for_update().none()) == []
        assert USERS.select_for_update().values_list("name", flat=True).get(id=1) == "Ada"
        assert USERS.select_for_update().only("name").get(id=1).age == 36
        with _another():
            with tenancy.scope(KEY):
                with pytest.raises(OperationalError, match="lock timeout"), atomic():
                    USERS.select_for_update(nowait=True).get(id=1)
                with atomic():
                    USERS.create(email="free@x")
                    assert USERS.select_for_update(nowait=True, no_key=True).get(email="free@x")
                with atomic(), connections[ALIAS].cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = 50")
                    with pytest.raises(OperationalError, match="lock timeout"):
                        USERS.filter(id=1).update(name="?")
                    transaction.set_rollback(True, using=ALIAS)
            with tenancy.scope(OTHER), atomic():
                USERS.select_for_update(nowait=True).get(id=1)
            with tenancy.scope(None), atomic():
                USERS.select_for_update(nowait=True).get(id=1)
        USERS.update(age=20)
    with tenancy.scope(KEY), atomic():
        assert USERS.select_for_update().get(id=1).age == 20
        assert USERS.select_for_update(no_key=True).filter(orders__amount=10, id=1).count() == 1
        with _another(), tenancy.scope(KEY), pytest.raises(OperationalError, match="could not obtain lock"), atomic():
            USERS.select_for_update(nowait=True).get(id=1)
    with tenancy.scope(KEY), atomic():
        orders = ORDERS.select_related("user").filter(user__email="ada@x").select_for_update(of=("self",)).order_by("id")
        assert [(order.id, order.user.name) for order in orders] == [(1, "Ada"), (2, "Ada")]
        assert [job.id for job in JOBS.select_for_update(skip_locked=True).order_by("id")] == sorted(
            JOBS.values_list("id", flat=True)
        )


def test_an_update_waits_and_sees_what_was_written_under_the_lock(covered: Place) -> None:
    """No increment is lost."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                with tenancy.scope(KEY), atomic():
                    user = USERS.select_for_update().get(id=1)
                    USERS.filter(id=1).update(age=user.age + 1)
        except BaseException as error:
            failed.append(error)
        finally:
            connections[ALIAS].close()

    with tenancy.scope(KEY), atomic():
        USERS.filter(id=1).update(name="mine")  # the key's own from here on
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with tenancy.scope(KEY), atomic():
        assert USERS.get(id=1).age == 36 + 40


def test_select_for_update_of_several_tables_is_refused(covered: Place) -> None:
    """It would lock nothing of them."""
    for queries in (ORDERS.select_related("user"), ORDERS.filter(user__email="ada@x"), ORDERS.distinct()):
        with tenancy.scope(KEY), pytest.raises(PartitionError, match="FOR UPDATE would lock nothing"), atomic():
            list(queries.select_for_update())
    with tenancy.scope(KEY), pytest.raises(PartitionError, match="FOR UPDATE would lock nothing"), atomic():
        list(USERS.select_for_update(skip_locked=True))


@contextmanager
def _another() -> Iterator[None]:
    """Another connection of this thread, under the same alias."""
    first, connections[ALIAS] = connections[ALIAS], connections.create_connection(ALIAS)
    try:
        yield
    finally:
        connections[ALIAS].close()
        connections[ALIAS] = first


def test_a_name_with_a_schema_is_refused(covered: Place) -> None:
    """It would lead past the partition."""
    for text in ("SELECT * FROM public.users", "UPDATE public.users SET name = 'x'", "DELETE FROM sales.lines"):
        refused = pytest.raises(PartitionError, match="leave the schema out")
        with tenancy.scope(KEY), refused, atomic(), connections[ALIAS].cursor() as cursor:
            cursor.execute(text)


def test_everyday_methods(covered: Place) -> None:
    """The ORM's ways to write and read."""
    with tenancy.scope(KEY), atomic():
        user, created = USERS.get_or_create(email="ada@x", defaults={"name": "?"})
        assert (user.id, user.name, created) == (1, "Ada", False)
        user, created = USERS.update_or_create(email="new@x", defaults={"name": "New"})
        assert created
        user, created = USERS.update_or_create(email="ada@x", defaults={"name": "Ada"})
        assert (user.id, created) == (1, False)
        user = USERS.get(email="new@x")
        users = list(USERS.order_by("id")[:2])
        for each in users:
            each.name += "!"
        USERS.bulk_update(users, ["name"])
        user.refresh_from_db()
        assert list(USERS.order_by("id").values_list("name", flat=True)) == ["Ada!", "Bob!", "Cy", "New"]
        assert USERS.annotate(loud=Upper("name")).get(id=1).loud == "ADA!"
        assert USERS.filter(id=1).update(age=F("age") + 1) == 1
        assert [(each.email, each.n) for each in USERS.annotate(n=Count("orders")).order_by("id")] == [
            ("ada@x", 2),
            ("bob@x", 1),
            ("cy@x", 0),
            ("new@x", 0),
        ]
        assert [order.user.name for order in ORDERS.select_related("user").order_by("id")] == ["Ada!", "Ada!", "Bob!"]
        assert {each.id: len(each.orders.all()) for each in USERS.prefetch_related("orders")}[1] == 2
        assert [each.id for each in USERS.order_by("id").iterator(chunk_size=1)][:3] == [1, 2, 3]
        count, kinds = ORDERS.filter(user_id=1).delete()
        assert count == 2, kinds
        assert USERS.in_bulk([1])[1].age == 37
        assert USERS.aggregate(n=Count("id")) == {"n": 4}
        assert Always.objects.using(ALIAS).create(note="x").pk
        assert Always.objects.using(ALIAS).bulk_create([Always(note="y"), Always()])[1].pk
        assert list(USERS.filter(id=1).union(USERS.filter(id=2)).values_list("id", flat=True).order_by("id")) == [1, 2]
        assert [user.name for user in USERS.raw("SELECT * FROM users WHERE id = %s", [1])] == ["Ada!"]
        assert USERS.explain()


@pytest.mark.skipif(sys.platform == "win32", reason="a child process with psycopg2 alone")
def test_psycopg2(where: Place) -> None:
    """The same by the older driver, which Django takes where psycopg is not there."""
    pytest.importorskip("psycopg2")
    code = """
import os, sys
sys.modules["psycopg"] = None
from django.conf import settings
import django
settings.configure(DATABASES={}, SECRET_KEY="test", USE_TZ=True)
django.setup()
import tenancy
from django.db import connections, transaction
from tenancy.data.postgresql import django as hook, enter
from tenancy.errors import PartitionError
from tests.data.postgresql.django_models import User, connect
connect("a", os.environ["DSN"])
hook.cover("a")
users = User.objects.using("a")
with tenancy.scope("pr-42"):
    try:
        users.count()
        raise AssertionError
    except PartitionError:
        pass
    with transaction.atomic(using="a"):
        more = {"update_conflicts": True, "unique_fields": ["email"], "update_fields": ["name"]}
        users.bulk_create([User(email="ada@x", name="Mine"), User(email="two@x")], **more)
        assert users.get(id=1).name == "Mine"
        assert [user.id for user in users.select_for_update().filter(id=2)] == [2]
        transaction.set_rollback(True, using="a")
    with transaction.atomic(using="a"):
        assert users.count() == 3
        with connections["a"].cursor() as cursor:
            import io
            cursor.copy_expert("COPY users (email) FROM STDIN", io.StringIO("copied@x\\n"))
        assert users.count() == 4
        transaction.set_rollback(True, using="a")
print(type(connections["a"].connection).__module__)
"""
    with unchanged(where):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DSN": where.application},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "psycopg2" in done.stdout


def test_models_are_unchanged(covered: Place) -> None:
    """What the hook does not touch: an error of Django's own stays one."""
    with tenancy.scope(KEY), atomic(), pytest.raises(FieldDoesNotExist):
        USERS.bulk_create([User(email="a@x")], update_conflicts=True, unique_fields=["nothing"], update_fields=["name"])
