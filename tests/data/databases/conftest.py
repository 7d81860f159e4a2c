from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.databases.places import KINDS, Place, drop_place, make_place

ALL: Any = [pytest.param(kind, marks=pytest.mark.service if kind in ("postgresql", "mariadb") else ()) for kind in KINDS]


@pytest.fixture(params=ALL)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """
    A golden database, and a provider, of each kind.
    """
    made = make_place(request.param, tmp_path, request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)
