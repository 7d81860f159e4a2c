from __future__ import annotations

import pytest

from tenancy.testing import MemoryRoutes
from tests.messaging.support import forks


@pytest.fixture
def routes() -> MemoryRoutes:
    """A route table in which pr-1 and pr-2 fork the workload."""
    return MemoryRoutes(forks("pr-1", "pr-2"))
