"""
Who owns a message of a queue, for every state in the life of a key.
"""

from __future__ import annotations

import pytest

from tenancy.key import RoutingKey
from tenancy.routes import Action, Handover, Identity, RouteTable, State
from tenancy.routes.delivery import Delivery, decide_delivery

WORKLOAD = "shop/orders"
KEY = RoutingKey("pr-1")
BASELINE, SANDBOX, OTHER = Identity(WORKLOAD, None), Identity(WORKLOAD, "pr-1"), Identity(WORKLOAD, "pr-2")
MINE = Delivery("orders", 2)


def table(state: State, *, late: str = "baseline", queues: tuple[str, ...] = ("orders",)) -> RouteTable:
    row = Handover(WORKLOAD, KEY, state, 2, "pr-1", 1, late=late, queues=dict.fromkeys(queues, ""))
    return RouteTable(handovers=[row], lease=10.0)


@pytest.mark.parametrize(
    ("state", "baseline", "sandbox"),
    [
        (State.NONE, Action.OWN, Action.HOLD),
        (State.CREATING, Action.FORWARD, Action.OWN),
        (State.ACTIVE, Action.FORWARD, Action.OWN),
        (State.DELETING, Action.OWN, Action.HOLD),
        (State.DRAINING, Action.OWN, Action.HOLD),
        (State.RECLAIMING, Action.OWN, Action.HOLD),
    ],
)
def test_each_state_says_who_begins_a_message(state: State, baseline: Action, sandbox: Action) -> None:
    """The baseline sends on what it does not handle, and a sandbox that loses the key leaves what is in its queue to the mover."""
    assert decide_delivery(KEY, Delivery("orders"), BASELINE, table(state), fresh=True).action is baseline
    assert decide_delivery(KEY, MINE, SANDBOX, table(state), fresh=True).action is sandbox


def test_what_is_sent_on_names_the_life_of_the_key() -> None:
    """So a queue of an earlier life is never meant."""
    verdict = decide_delivery(KEY, Delivery("orders"), BASELINE, table(State.ACTIVE), fresh=True)
    assert verdict.route is not None
    assert (verdict.route.sandbox, verdict.route.generation) == ("pr-1", 2)


@pytest.mark.parametrize("state", list(State))
def test_nobody_begins_a_message_with_a_key_on_an_old_table(state: State) -> None:
    """Neither the baseline nor the sandbox; both wait."""
    assert decide_delivery(KEY, Delivery("orders"), BASELINE, table(state), fresh=False).held
    assert decide_delivery(KEY, MINE, SANDBOX, table(state), fresh=False).held


def test_without_a_key_nothing_waits() -> None:
    """The baseline handles it whatever the table says, and a sandbox that gets one gives it back."""
    assert decide_delivery(None, Delivery("orders"), BASELINE, None, fresh=False).owned
    verdict = decide_delivery(None, MINE, SANDBOX, None, fresh=False)
    assert verdict.action is Action.FORWARD
    assert verdict.route is None


def test_what_came_back_is_handled_once_and_not_sent_again() -> None:
    """A copy that comes back is the baseline's in that life of the key, and is sent on in the next."""
    assert decide_delivery(KEY, Delivery("orders", returned=2), BASELINE, table(State.ACTIVE), fresh=True).code == "came_back"
    assert decide_delivery(KEY, Delivery("orders", returned=1), BASELINE, table(State.ACTIVE), fresh=True).action is Action.FORWARD
    assert decide_delivery(KEY, Delivery("orders", returned=2), BASELINE, table(State.ACTIVE), fresh=False).held


def test_a_queue_that_is_not_handed_over_is_the_baseline_s() -> None:
    """Only the queues that were named at the create are read in a sandbox."""
    verdict = decide_delivery(KEY, Delivery("mails"), BASELINE, table(State.ACTIVE), fresh=True)
    assert (verdict.action, verdict.code) == (Action.OWN, "not_forked")


def test_what_comes_late_goes_by_the_policy() -> None:
    """After the end it is the baseline's, or nobody's."""
    assert decide_delivery(KEY, Delivery("orders"), BASELINE, table(State.NONE), fresh=True).owned
    verdict = decide_delivery(KEY, Delivery("orders"), BASELINE, table(State.NONE, late="drop"), fresh=True)
    assert (verdict.action, verdict.code) == (Action.SKIP, "retired")


@pytest.mark.parametrize(
    ("key", "identity", "delivery"),
    [(RoutingKey("pr-9"), SANDBOX, MINE), (KEY, OTHER, MINE), (KEY, SANDBOX, Delivery("orders", 1))],
    ids=["another key", "another sandbox", "another life"],
)
def test_a_sandbox_gives_back_what_is_not_its_own(key: RoutingKey, identity: Identity, delivery: Delivery) -> None:
    """To the baseline's queue, where it is decided on anew."""
    verdict = decide_delivery(key, delivery, identity, table(State.ACTIVE), fresh=True)
    assert verdict.action is Action.FORWARD
    assert verdict.route is None


def test_before_the_table_was_read_a_key_waits() -> None:
    """Start needs no table, and decides nothing without one."""
    assert decide_delivery(KEY, Delivery("orders"), BASELINE, None, fresh=False).held
    assert decide_delivery(KEY, MINE, SANDBOX, None, fresh=False).held
