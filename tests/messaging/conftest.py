from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenancy.observe import _logging as logs
from tenancy.routes import LiveRoutes
from tests.messaging.support import live, write_table


@pytest.fixture(autouse=True)
def _warned_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged once is logged in each test."""
    monkeypatch.setattr(logs, "_warned", set())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The file of a route table in which pr-1 and pr-2 fork the workload."""
    path = tmp_path / "routes.json"
    write_table(path, "pr-1", "pr-2")
    return path


@pytest.fixture
def routes(table: Path) -> Iterator[LiveRoutes]:
    """That route table, followed."""
    followed = live(table)
    yield followed
    followed.close()
