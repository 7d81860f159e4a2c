"""
The same random statements, in an overlay and on a plain copy of the database: the same results, the same errors, the same rows; and the
baseline's rows never change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tenancy.data.postgresql import Mode, Rows, maker
from tests.data.postgresql.compare import Difference, Pair, Side
from tests.data.postgresql.statements import Block, Statement, Transaction, block, blocks

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]

SEQUENCES = int(os.environ.get("TENANCY_DIFFERENTIAL_SEQUENCES", "2000" if os.environ.get("CI") else "300"))
# The same sequences each time, until another number is given.
SEED = int(os.environ.get("TENANCY_DIFFERENTIAL_SEED", "42"))
# Of so many sequences one finds each of the bugs below.
FINDING = 400

_numbers = count()


@pytest.fixture(scope="module")
def pair(postgresql: str) -> Iterator[Pair]:
    found = Pair(postgresql, f"diff{uuid4().hex[:8]}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def overlay(pair: Pair) -> Side:
    return pair.overlay("pr-42")


def test_an_overlay_does_what_a_plain_database_does(pair: Pair, overlay: Side) -> None:
    @seed(SEED)
    @settings(max_examples=SEQUENCES, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
    @given(blocks())
    def same(block: Block) -> None:
        pair.compare(overlay, block)

    same()


@pytest.mark.parametrize("copies", [("team", "task", "node"), ("person", "note", "link")])
def test_overlays_beside_copies_do_what_a_plain_database_does(postgresql: str, copies: tuple[str, ...]) -> None:
    modes: dict[str, Mode | Rows] = dict.fromkeys(copies, "copy")
    pair = Pair(postgresql, f"mixed{uuid4().hex[:8]}", modes)
    try:
        overlay = pair.overlay("pr-42")
        for number in range(SEQUENCES // 10):
            pair.compare(overlay, block(Random(number).choice))
    finally:
        pair.close()


def test_a_change_of_the_baseline_would_be_seen(pair: Pair, overlay: Side) -> None:
    with pair.shared.begin() as connection:
        connection.exec_driver_sql("UPDATE team SET size = size + 1")
    try:
        with pytest.raises(Difference, match="baseline"):
            pair.compare(overlay, Block(()))
    finally:
        with pair.shared.begin() as connection:
            connection.exec_driver_sql("UPDATE team SET size = size - 1")


def _search(pair: Pair, overlay: Side, rare: str | None) -> None:
    if rare is not None:
        pair.compare(overlay, Block((Transaction((Statement("sql", rare),)),)))
    for number in range(FINDING):
        pair.compare(overlay, block(Random(number).choice))


#: What is replaced in the SQL that makes a partition, by what, and in how it is named.
BUGS = {
    "deleted rows are shown": (r' WHERE h\."\w+" IS NULL', ""),
    "defaults of the view are missing": (
        r'(ALTER TABLE \S+"member" .*)ALTER COLUMN "role" SET DEFAULT [^,]*',
        r'\1ALTER COLUMN "role" DROP DEFAULT',
    ),
    "unique values of the baseline are not looked at": (r'email AS k0 FROM "public"', "'none' AS k0 FROM \"public\""),
    "a partial index is taken for a whole one": (r'(nick AS k0 FROM "public"."person") WHERE active', r"\1"),
    "an expression of an index is forgotten": (r"lower\(name\) AS k0", "name AS k0"),
    "a row that was deleted still has its unique values": (r'(FROM \S+hidden" h WHERE h."\w+" = b.p0)', r"\1 AND false"),
    "nothing cascades": (r'(DELETE FROM \S+"task" WHERE)', r"\1 false AND"),
    "nothing is set to NULL": (r'(UPDATE \S+"task" SET "reviewer" = NULL WHERE)', r"\1 false AND"),
    "what refers to nothing is let in": (r'p\."code" = a\."team"', "true"),
    "what refers to nothing in its own table is let in": (r'p\."id" = q\.n\d', "true"),
    "a deferred reference is not checked": (r'p\."id" = NEW\."task"', "true"),
    "a deferred reference to what is gone is not checked": (r'c\."task" = OLD\.o\d', "false"),
    "what is referred to can go": (r'(FROM \S+"member" c WHERE)', r"\1 false AND"),
    "keys that move leave behind what refers to them": (r'(UPDATE \S+"task" SET "team" = q\.n\d WHERE)', r"\1 false AND"),
    "an upsert does not see the baseline": (
        r"SELECT b\.p0 FROM (.*) b JOIN",
        r"SELECT b.p0 FROM (SELECT * FROM \1 b LIMIT 0) b JOIN",
    ),
    "a change of a row twice is an error": (r"\) = 'in progress'", ") = 'never'"),
    "a deletion of a row twice is an error": (r"q WHERE q\.tab = ", "q WHERE false AND q.tab = "),
    "the first change of a row checks all of it": (r"IS DISTINCT FROM 'on'", "IS DISTINCT FROM 'never'"),
}


#: Those that few sequences come upon, with a statement that does.
RARE = {
    "a partial index is taken for a whole one": "INSERT INTO person (email, nick) VALUES ('new', 'n3')",
    "keys that move leave behind what refers to them": "UPDATE team SET code = 'dd' WHERE code = 'd'",
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_would_be_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    wrong, replacement = BUGS[bug]
    original, changed = maker.run, []

    def broken(connection: Any, statements: Any) -> None:
        given = list(statements)
        altered = [re.sub(wrong, replacement, each) for each in given]
        changed.append(given != altered)
        original(connection, altered)

    monkeypatch.setattr(maker, "run", broken)
    overlay = pair.overlay(f"bug-{next(_numbers)}")
    assert any(changed)
    with pytest.raises(Difference):
        _search(pair, overlay, RARE.get(bug))
