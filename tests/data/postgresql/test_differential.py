"""
The same random statements, in an overlay and on a plain copy of the database: the same results, the same errors, the same rows; and the
baseline's rows never change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.data.postgresql.compare import Pair, Side
from tests.data.postgresql.statements import Block, transactions

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]

SEQUENCES = int(os.environ.get("TENANCY_DIFFERENTIAL_SEQUENCES", "2000" if os.environ.get("CI") else "300"))
# The same sequences each time, until another number is given; it is printed where a difference is found.
SEED = int(os.environ.get("TENANCY_DIFFERENTIAL_SEED", "42"))


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
    @settings(
        max_examples=SEQUENCES,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(transactions())
    def same(block: Block) -> None:
        pair.compare(overlay, block)

    same()
