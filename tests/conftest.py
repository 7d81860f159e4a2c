from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tenancy import config


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts with the default settings, whatever the environment says, and leaves none behind."""
    for name in list(os.environ):
        if name.startswith(("TENANCY_", "SIGNADOT_")) and not name.startswith(("TENANCY_TEST_", "TENANCY_REQUIRE_", "TENANCY_INSTALL_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(config, "_current", None)
    yield
