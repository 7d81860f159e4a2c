from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.data.databases.places import KINDS, Place, drop_place, make_place

ALL: Any = [pytest.param(kind, marks=pytest.mark.service if kind in ("postgresql", "mariadb") else ()) for kind in KINDS]


@pytest.fixture(scope="module", params=ALL)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = make_place(request.param, tmp_path_factory.mktemp("databases"), request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """
    A golden database, and a provider, of each kind, without any key's database.
    """
    yield replace(shared)
    shared.clear()
