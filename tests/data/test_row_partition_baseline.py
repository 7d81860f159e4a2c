"""
Work without a routing key, with `baseline=ANY`: nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenancy.data.sqlalchemy import ANY, RowPartition
from tests.data.conftest import Database
from tests.data.shop import dump
from tests.data.test_row_partition_statements import ALL, WRITE, normal, run


@pytest.fixture(scope="module", autouse=True)
def partition(database: Database) -> Iterator[None]:
    rows = RowPartition("org_id", baseline=ANY)
    rows.install(database.engine)
    yield
    rows.uninstall(database.engine)


@pytest.mark.parametrize("name", ALL)
def test_unrestricted_without_key(database: Database, reference: Database, name: str) -> None:
    """A statement without a key does what it does without a partition."""
    shape = ALL[name]
    if shape.only not in (None, database.name):
        pytest.skip(f"{shape.only} only")
    database.hold()
    reference.hold()
    if name in WRITE:
        database.holds = reference.holds = None
    assert normal(run(database, shape), None) == normal(run(reference, shape), None)
    if name in WRITE:
        assert dump(database.plain) == dump(reference.plain)
