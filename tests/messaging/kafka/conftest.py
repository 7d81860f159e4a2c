from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.messaging.kafka.support import World


@pytest.fixture
def world(kafka: str) -> Iterator[World]:
    """A topic with one partition, and a route store."""
    made = World(kafka)
    yield made
    made.close()
