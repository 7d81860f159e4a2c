from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenancy import RoutingKey
from tenancy.messaging.kafka import ledger as module
from tenancy.messaging.kafka.ledger import Held, PartitionLedger

KEY = RoutingKey("pr-1")


def held(offset: int, size: int = 1) -> Held:
    return Held(offset, f"record {offset}", KEY, size, 0.0)


def test_what_was_skipped_is_committed_behind_what_is_done() -> None:
    """Skips in front need nobody; those behind a message that was handed on wait until it is settled."""
    ledger = PartitionLedger()
    assert ledger.committable(3) == 3
    ledger.hand(3)
    assert ledger.committable(7) == 3
    ledger.settle_before(4)
    assert ledger.committable(7) == 7


def test_handlers_end_in_any_order() -> None:
    """The first that is not done stands in the way, whichever of the others are."""
    ledger = PartitionLedger()
    for offset in (1, 2, 5):
        ledger.hand(offset)
    ledger.settle(5)
    ledger.settle(1)
    assert ledger.committable(9) == 2
    ledger.settle(2)
    assert ledger.committable(9) == 9
    ledger.settle(2)  # twice, or never handed on: nothing happens
    assert ledger.committable(9) == 9


def test_nothing_is_committed_past_a_held_record() -> None:
    """Also where somebody commits a later one; and what he committed counts once it is released."""
    ledger = PartitionLedger()
    waiting = held(2, size=7)
    ledger.hold(waiting)
    ledger.hand(4)
    ledger.settle_before(5)
    assert (ledger.committable(6), ledger.held_bytes) == (2, 7)
    ledger.release(waiting)
    assert (ledger.committable(6), ledger.held_bytes) == (6, 0)
    ledger.hand(2)  # handed on after later ones
    assert ledger.committable(6) == 2


def test_whoever_never_settles_does_not_fill_the_memory(monkeypatch: object) -> None:
    """Beyond a limit the ledger knows only the first, which still stands in the way; a commit moves it exactly."""
    before, module._MOST_HANDED = module._MOST_HANDED, 10
    try:
        ledger = PartitionLedger()
        for offset in range(100):
            ledger.hand(offset)
        assert (ledger.committable(100), ledger.outstanding) == (0, 0)
        ledger.settle_before(50)
        assert ledger.committable(100) == 50
        ledger.settle_all()
        assert ledger.committable(100) == 100
    finally:
        module._MOST_HANDED = before


@given(st.lists(st.tuples(st.sampled_from(["skip", "hand", "hold"]), st.integers(0, 3)), max_size=30), st.data())
def test_against_a_simple_model(fates: list[tuple[str, int]], data: st.DataObject) -> None:
    """What may be committed is the first offset that is neither skipped nor settled, whatever happened in which order."""
    ledger, unsettled, waiting = PartitionLedger(), set[int](), dict[int, Held]()
    for offset, (fate, settled) in enumerate(fates):
        if fate == "hand":
            ledger.hand(offset)
            unsettled.add(offset)
        elif fate == "hold":
            waiting[offset] = held(offset)
            ledger.hold(waiting[offset])
        for _ in range(settled):
            what = data.draw(st.sampled_from(["settle", "before", "release"]))
            at = data.draw(st.integers(0, offset))
            if what == "settle":
                ledger.settle(at)
                unsettled.discard(at)
            elif what == "before":
                ledger.settle_before(at)
                unsettled -= set(range(at))
            elif at in waiting:
                ledger.release(waiting.pop(at))
                ledger.hand(at)
                unsettled.add(at)
        assert ledger.committable(offset + 1) == min([offset + 1, *unsettled, *waiting])
