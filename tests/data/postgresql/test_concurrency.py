from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, text

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover, uncover
from tests.data.postgresql.isolated import address_of, options, own_database, run

pytestmark = pytest.mark.service

ROWS = 10
ROUNDS = 60
WORKERS: tuple[str | None, ...] = (None, "pr-1", "pr-2")
MODES = ("overlay", "copy", "empty")


class Shop:
    """
    One table of each mode, with the same rows; and an engine whose transactions are those of the routing key at hand.
    """

    def __init__(self, address: str, name: str) -> None:
        self.owner = create_engine(address_of(address, name), **options(address))
        for mode in MODES:
            run(
                self.owner,
                f"CREATE TABLE {mode}s (id integer PRIMARY KEY, owner text NOT NULL, changes integer NOT NULL, tag text UNIQUE)",
                f"INSERT INTO {mode}s SELECT n, 'baseline', 0, 't' || n FROM generate_series(1, {ROWS}) n",
            )
        self.isolation = PostgresIsolation(self.owner, {f"{mode}s": mode for mode in MODES})
        self.isolation.install()
        for key in WORKERS:
            if key:
                self.isolation.create(key)
        self.covered = create_engine(address_of(address, name), pool_size=3, max_overflow=0, **options(address))
        cover(self.covered)

    def rows(self, key: str | None, mode: str) -> dict[int, tuple[Any, ...]]:
        with tenancy.scope(key):
            return {row[0]: row[1:] for row in run(self.covered, f"SELECT id, owner, changes, tag FROM {mode}s")}


@pytest.fixture(scope="module")
def shop(postgresql: str) -> Iterator[Shop]:
    with own_database(postgresql) as name:
        made = Shop(postgresql, name)
        yield made
        uncover(made.covered)
        made.covered.dispose()
        made.owner.dispose()


@pytest.mark.parametrize("mode", MODES)
def test_two_keys_and_the_baseline_change_the_same_rows_at_once_and_each_has_its_own(shop: Shop, mode: str) -> None:
    barrier = threading.Barrier(len(WORKERS))

    def work(key: str | None) -> dict[int, tuple[Any, ...] | None]:
        """Change, delete and insert the rows that all the others do, too, and return what became of those that were changed."""
        chance, owner = random.Random(f"{mode}-{key}"), key or "baseline"
        engine = shop.covered.execution_options(isolation_level="REPEATABLE READ")
        own: dict[int, tuple[Any, ...] | None] = {}
        barrier.wait()
        for number in range(ROUNDS):
            row = chance.randrange(1, ROWS + 1)
            given = {"id": row, "owner": owner, "tag": f"t{row}"}
            with tenancy.scope(key), engine.connect() as connection:
                seen = connection.execute(text(f"SELECT owner, changes, tag FROM {mode}s WHERE id = :id"), given).first()
                if row in own:  # nobody but this thread has changed it for the key
                    assert seen == own[row]
                else:
                    assert seen is None or seen[0] == "baseline"
                if seen is None:
                    connection.execute(text(f"INSERT INTO {mode}s VALUES (:id, :owner, 1, :tag)"), given)
                    found: tuple[Any, ...] | None = (owner, 1, f"t{row}")
                elif chance.random() < 0.3:
                    assert connection.execute(text(f"DELETE FROM {mode}s WHERE id = :id"), given).rowcount == 1
                    found = None
                else:
                    change = (
                        f"UPDATE {mode}s SET owner = :owner, changes = changes + 1 WHERE id = :id RETURNING owner, changes, tag"
                    )
                    found = tuple(connection.execute(text(change), given).one())
                    assert found == (owner, seen[1] + 1, seen[2])
                if number % 5 == 4:
                    connection.rollback()
                else:
                    connection.commit()
                    own[row] = found
        return own

    before = {key: shop.rows(key, mode) for key in WORKERS}
    with ThreadPoolExecutor(len(WORKERS)) as pool:
        own = dict(zip(WORKERS, pool.map(work, WORKERS), strict=True))
    baseline = {**before[None], **own[None]}
    for key in WORKERS:
        # Of the rows that a key has not changed it sees in an overlay what the baseline has made of them.
        others = baseline if mode == "overlay" else before[key]
        wanted = {row: values for row, values in {**others, **own[key]}.items() if values is not None}
        assert shop.rows(key, mode) == wanted, key
    stored = run(shop.owner, f"SELECT id, owner, changes, tag FROM public.{mode}s")
    assert {row[0]: row[1:] for row in stored} == {row: values for row, values in baseline.items() if values is not None}
    assert {row[1] for row in stored} == {"baseline"}


def test_a_key_waits_for_no_row_that_another_or_the_baseline_has_locked(shop: Shop) -> None:
    with shop.owner.begin() as baseline, tenancy.scope("pr-1"), shop.covered.begin() as one:
        baseline.exec_driver_sql("UPDATE overlays SET owner = 'baseline' WHERE id = 5")
        one.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        one.exec_driver_sql("UPDATE overlays SET owner = 'pr-1'")
        with tenancy.scope("pr-2"), shop.covered.begin() as other:
            other.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            other.exec_driver_sql("UPDATE overlays SET owner = 'pr-2'")
            other.exec_driver_sql("DELETE FROM overlays WHERE id = 5")
            other.rollback()


def test_what_a_key_has_not_committed_nobody_sees(shop: Shop) -> None:
    with tenancy.scope("pr-1"), shop.covered.begin() as one:
        one.exec_driver_sql("INSERT INTO overlays VALUES (77, 'pr-1', 0, 'x')")
        for key in ("pr-1", "pr-2", None):
            assert 77 not in shop.rows(key, "overlay")
        one.rollback()
