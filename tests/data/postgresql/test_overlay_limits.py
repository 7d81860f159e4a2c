"""
What an overlay does not do as a plain table does, it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.data.postgresql.compare import Pair
from tests.data.postgresql.statements import Statement

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def pair(postgresql: str) -> Iterator[Pair]:
    found = Pair(postgresql, f"limit{uuid4().hex[:8]}")
    yield found
    found.close()


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO team VALUES ('a', 'A') ON CONFLICT (code) DO NOTHING", "PartitionError"),
        ("INSERT INTO team VALUES ('a', 'A') ON CONFLICT DO NOTHING", "23505"),
        ("SELECT * FROM team FOR UPDATE", "PartitionError"),
        ("UPDATE person SET shout = DEFAULT", "428C9"),
        ("UPDATE public.team SET size = 2", "PartitionError"),
        ("WITH t AS (INSERT INTO team VALUES ('new', 'New')) INSERT INTO person (email, team) VALUES ('n', 'new')", "23503"),
    ],
)
def test_what_an_overlay_cannot_do_is_refused(pair: Pair, sql: str, error: str) -> None:
    side = pair.overlay("pr-42")
    pair.reset("pr-42")
    side.begin()
    side.raw("SELECT aside.step(1)")
    outcome = side.run(Statement("sql", sql), 1)
    side.end(commit=False)
    assert outcome.error is not None
    assert outcome.error[0] == error


@pytest.mark.slow
def test_many_statements_of_one_transaction_do_not_slow_one_another_down(pair: Pair) -> None:
    side = pair.overlay("pr-42")
    pair.reset("pr-42")
    side.begin()
    side.raw("INSERT INTO link SELECT generate_series(100, 3100)")
    blocks = []
    for start in (100, 2600):
        plan = "".join(f"DELETE FROM link WHERE id = {number};" for number in range(start, start + 500))
        before = side.raw("SELECT clock_timestamp()").fetchone()[0]
        side.raw(plan)
        blocks.append((side.raw("SELECT clock_timestamp()").fetchone()[0] - before).total_seconds())
        if start == 100:
            side.raw("".join(f"DELETE FROM link WHERE id = {number};" for number in range(600, 2600)))
    side.end(commit=False)
    assert blocks[1] < 5 * blocks[0], blocks
