from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.messaging.kafka.support import World


@pytest.fixture
def world(kafka: str) -> Iterator[World]:
    """A topic with one partition, and a route store."""
    from tests.messaging.kafka.support import World  # confluent-kafka is not there where aiokafka is tested alone

    made = World(kafka)
    yield made
    made.close()
