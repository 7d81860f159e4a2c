"""
The steps in the life of a key, where the protocol's own walk does not lead: topics that were made again, and topics of a sandbox's own.
"""

from __future__ import annotations

import pytest

from tenancy import RoutingKey
from tenancy.routes import Action, Epoch, Handover, Identity, OwnTopic, Position, Reader, RouteTable, State, decide_record
from tenancy.routes.lives import activate, begin_create

WORKLOAD, KEY = "shop/orders", RoutingKey("pr-1")
PAST = Epoch(1, "pr-1", {"a": (10,), "b": (20,)}, {"a": (15,), "b": (25,)}, {"a": "A", "b": "B"})


def _created(*epochs: Epoch) -> Handover:
    row = Handover(WORKLOAD, KEY, State.NONE, len(epochs), "pr-1", epochs=epochs)
    return begin_create([row], WORKLOAD, KEY, "pr-1", {"orders": ("a", "b")})


def test_cuts_of_a_log_that_is_gone_go() -> None:
    """A topic that was made again begins anew: nothing is skipped for an earlier life, and the next one begins at the log's end."""
    row = activate(_created(PAST), {"a": (3,), "b": (30,)}, {"a": "another", "b": "B"})
    past, present = row.epochs
    assert (past.number, past.sandbox) == (1, "pr-1")
    assert (past.start, past.end, past.ids) == ({"b": (20,)}, {"b": (25,)}, {"b": "B"})
    assert (present.start, present.ids) == ({"a": (3,), "b": (30,)}, {"a": "another", "b": "B"})
    assert [row.claim("a", 0, offset).sandbox for offset in (2, 3, 12)] == [None, "pr-1", "pr-1"]
    assert [row.claim("b", 0, offset).epoch for offset in (19, 20, 25, 30)] == [0, 1, 0, 2]


@pytest.mark.parametrize("ids", [{"a": "A", "b": "B"}, {"a": "A"}, {}, None])
def test_cuts_of_the_same_log_stay(ids: dict[str, str] | None) -> None:
    """Also where the log has become shorter, and where no id is known."""
    row = activate(_created(PAST), {"a": (3,)}, ids)
    assert row.epochs[0] == PAST
    assert row.epochs[1].start == {"a": (15,)}


OWN = OwnTopic("orders.pr-1", "orders", "pr-1", 1, "id")
READERS = {
    None: Reader(Identity(WORKLOAD, None)),
    "pr-1": Reader(Identity(WORKLOAD, "pr-1"), 2),
    "pr-2": Reader(Identity(WORKLOAD, "pr-2"), 1),
    "earlier": Reader(Identity(WORKLOAD, "pr-1"), 1),
}


@pytest.mark.parametrize("key", [None, KEY, RoutingKey("pr-9")])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("who", READERS)
def test_a_topic_of_a_sandboxs_own(key: RoutingKey | None, state: State, fresh: bool, who: str | None) -> None:
    """All of it is the sandbox's while it lives, whatever the key and the position; nobody else's, ever; and nothing without the lease."""
    row = Handover(WORKLOAD, KEY, state, 1, "pr-1", 2, (Epoch(1, "pr-1", {OWN.name: (7,)}, {OWN.name: (9,)}),))
    table = RouteTable(handovers=[row], lease=10, topics=[OWN])
    for offset in (0, 7, 8, 9, 100):
        verdict = decide_record(key, Position(OWN.name, 0, offset), READERS[who], table, fresh=fresh)
        if not fresh:
            assert (verdict.action, verdict.code) == (Action.HOLD, "stale")
        elif who != "pr-1" or state is State.NONE:
            assert verdict.action is Action.SKIP
        else:
            assert verdict.action is (Action.HOLD if state is State.RECLAIMING else Action.OWN)
        assert verdict.key == key
        # Elsewhere nothing is changed by it.
        elsewhere = decide_record(None, Position("orders", 0, offset), READERS[who], table, fresh=fresh)
        assert elsewhere.action is (Action.OWN if who is None else Action.SKIP)
