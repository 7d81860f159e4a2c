"""
The route store for tests, which does what the real ones do.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tenancy import RouteSourceError, RoutingKey
from tenancy.routes import Handover, LiveRoutes, State
from tenancy.routes.stores import Member, StoreSource, put_handover
from tenancy.testing import MemoryStore
from tests.routes.stores.contract import Place, StoreContract, eventually


class MemoryPlace(Place):
    def __init__(self) -> None:
        super().__init__(None)
        self._store = MemoryStore()

    def open(self) -> MemoryStore:
        return self._store

    def age(self, seconds: float) -> None:
        self._store._members = {at: (seen - seconds, member) for at, (seen, member) in self._store._members.items()}

    def tamper(self, **fields: Any) -> None:
        assert self._store._table is not None
        self._store._table = self._store._table._replace(**fields)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def place(self) -> Place:
        return MemoryPlace()


def test_a_store_that_is_lost_answers_nothing() -> None:
    """Every call fails with the reason until it is restored, and nothing was forgotten."""
    store = MemoryStore(lease=2)
    store.write([])
    store.lose("no route to host")
    for call in (
        store.head,
        store.snapshot,
        store.create,
        lambda: store.write([]),
        lambda: store.register(Member("shop/orders", "c-1", "orders")),
        lambda: store.unregister(Member("shop/orders", "c-1", "orders")),
        lambda: store.members("shop/orders"),
    ):
        with pytest.raises(RouteSourceError, match="no route to host"):
            call()
    store.restore()
    assert store.head().version == 1


def test_a_live_table_grows_stale_with_a_lost_store() -> None:
    """It keeps what it has read, is not fresh after a lease, and is again when the store is back."""
    store = MemoryStore(lease=0.3)
    store.write([put_handover(Handover("shop/orders", RoutingKey("pr-42"), State.ACTIVE, 1, "pr-42"))])
    live = store.live()
    try:
        assert live.wait_synced(5).keys() == {"pr-42"}
        store.lose()
        eventually(lambda: not live.view().fresh(), 2)  # type: ignore[union-attr]
        assert live.table.keys() == {"pr-42"}
        store.restore()
        eventually(lambda: live.view().fresh(), 2)  # type: ignore[union-attr]
    finally:
        live.close()


class _Unwatched:
    """A source that nobody is told of."""

    def __init__(self, store: MemoryStore) -> None:
        source = StoreSource(store)
        self.name, self.read, self.mark = source.name, source.read, source.mark


def test_who_is_in_a_hurry_does_not_wait_for_the_next_look() -> None:
    """With a long lease and nobody who watches, a write is seen when somebody asks for it."""
    store = MemoryStore(lease=30)
    live = LiveRoutes(_Unwatched(store))
    try:
        live.wait_synced(5)
        store.write([])
        time.sleep(0.3)
        assert live.table.version == 0
        live.hurry()
        eventually(lambda: live.table.version == 1, 0.5)
    finally:
        live.close()
