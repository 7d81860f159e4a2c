from __future__ import annotations

from tenancy.key import RoutingKey
from tenancy.routes import Handover, State
from tenancy.routes.stores import put_handover, put_workload, table_of
from tenancy.sandbox import Controller
from tenancy.testing import MemoryStore

WORKLOAD, KEY = "shop/orders", RoutingKey("pr-1")


def test_a_delete_that_somebody_else_has_finished_returns_the_life_that_ended() -> None:
    """Not the next one, which has begun meanwhile, and goes on."""
    store = MemoryStore(lease=2.0)
    store.write([put_workload(WORKLOAD), put_handover(Handover(WORKLOAD, KEY, State.ACTIVE, 1, "sb-1", 1))])

    def sleep(_: float) -> None:
        row = table_of(store.snapshot(), origin="").handover(WORKLOAD, KEY)
        assert row is not None
        if row.epoch == 1:
            store.write([put_handover(row._replace(state=State.ACTIVE, epoch=2, sandbox="sb-2"))])

    ended = Controller(store, sleep=sleep).delete("sb-1")
    assert [(row.epoch, row.sandbox, row.state) for row in ended] == [(1, "sb-1", State.NONE)]
    assert [(row.epoch, row.state) for row in Controller(store).status("sb-2")] == [(2, State.ACTIVE)]
