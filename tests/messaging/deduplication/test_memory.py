"""
The deduplication for tests, which does what the real ones do.
"""

from __future__ import annotations

import pytest

from tenancy.errors import DeduplicationError
from tenancy.testing import MemoryDeduplication
from tests.messaging.deduplication.contract import SCOPE, DeduplicationContract, Place


class MemoryPlace(Place):
    """All handles are one; their times are those of the last that was opened."""

    def __init__(self) -> None:
        super().__init__(None)
        self._one = MemoryDeduplication()

    def open(self, **times: float) -> MemoryDeduplication:
        opened = MemoryDeduplication(**times)
        self._one.ttl, self._one.retention = opened.ttl, opened.retention
        return self._one

    def age(self, seconds: float) -> None:
        self._one.advance(seconds)


class TestMemory(DeduplicationContract):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        return MemoryPlace()


def test_one_that_is_lost_answers_nothing() -> None:
    """Every call fails with the reason until it is restored, and nothing was forgotten."""
    memory = MemoryDeduplication()
    claim = memory.claim(SCOPE, "m-1")
    memory.lose("no route to host")
    for call in (lambda: memory.claim(SCOPE, "m-1"), lambda: memory.done(claim), lambda: memory.release(claim)):
        with pytest.raises(DeduplicationError, match="no route to host"):
            call()
    memory.restore()
    assert memory.done(claim) is True
