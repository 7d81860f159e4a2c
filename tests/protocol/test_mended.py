"""
What once did not hold, each by the shortest way that led there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tenancy.routes import State
from tests.protocol.checker import ViolationError
from tests.protocol.operators import Operator
from tests.protocol.world import Config, World, played


@pytest.fixture(autouse=True)
def _model(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The model is in the place of clocks and clients; what gap readers drop is not told."""
    caplog.set_level(logging.ERROR, logger="tenancy")
    with played():
        yield


def _go(world: World, operator: Operator, until: Callable[[], bool]) -> None:
    """
    Let a controller go on until something holds.
    """
    for _ in range(1000):
        if until():
            return
        world.time = max(world.time, operator.wakes)
        operator.step()
    raise RuntimeError(f"{operator} did not get there: {operator.doing}")


def _is(world: World, state: State) -> Callable[[], bool]:
    return lambda: (row := world.row()) is not None and row.state is state


def _launched(world: World, *, drain: float = 0.0, keys: tuple[str, ...] = ()) -> Operator:
    operator = Operator(world, f"c{world.counted()}", 1.0, "s1", keys, drain=drain)
    world.operators.append(operator)
    return operator


def _active(world: World) -> None:
    """
    Create a sandbox.
    """
    creator = _launched(world, keys=("pr-1",))
    _go(world, creator, lambda: not creator.up)
    assert _is(world, State.ACTIVE)()


def test_a_gap_reader_repeats_nothing_after_an_outage_of_the_store() -> None:
    """A record that was handled, but not noted because the store was away, is not handled again by the same reader."""
    config = Config(baselines=1, faults=frozenset({"outage"}))
    world = World(config)
    _active(world)
    world.act("produce", 0, 0)
    operator = _launched(world)
    _go(world, operator, lambda: operator.doing.startswith("handles"))
    world.act("outage", 0, 0)
    _go(world, operator, lambda: operator.doing == "waits")
    world.act("outage", 0, 0)
    _go(world, operator, lambda: not operator.up)


def test_what_a_sandbox_has_committed_is_not_repeated_when_its_group_is_deleted() -> None:
    """An instance that is evicted just when its life ends, and whose view is still good, does not begin anew in a group that was deleted."""
    world = World(Config(baselines=1, faults=frozenset({"evict"})))
    _active(world)
    for name in ("sync", "follow", "assign"):
        world.act(name, 1, 0)
    world.act("produce", 0, 0)
    for name in ("fetch", "poll", "end", "commit"):
        world.act(name, 1, 0)
    operator = _launched(world, drain=30.0)
    _go(world, operator, _is(world, State.DRAINING))
    world.act("sync", 1, 0)
    _go(world, operator, _is(world, State.NONE))
    world.act("evict", 1, 0)
    for _ in range(50):  # it may wait, but time does not go on
        operator.step()
    for name in ("follow", "follow", "assign", "fetch", "poll"):
        world.act(name, 1, 0)


def test_a_controller_that_stood_still_does_not_end_a_later_life() -> None:
    """A gap reader that is done, and stood still before it ended the life, does not end the one after it."""
    world = World(Config(baselines=1, sandboxes=0))
    _active(world)
    world.act("produce", 0, 0)
    late = _launched(world)
    _go(world, late, lambda: any(record.done for record in world.kafka.logs[0]))
    _go(world, late, lambda: late.doing == "reads the table")  # of which it is to write the end
    other = _launched(world)
    _go(world, other, lambda: not other.up)
    assert _is(world, State.NONE)()
    _active(world)
    world.act("produce", 0, 0)
    _go(world, _launched(world), _is(world, State.RECLAIMING))
    _go(world, late, lambda: not late.up)


def test_two_controllers_that_delete_the_same_come_to_an_end() -> None:
    """Of two that reclaim the same life one gives way: they do not take the claim from one another for ever."""
    world = World(Config(baselines=1, sandboxes=0))
    _active(world)
    world.act("produce", 0, 0)
    both = [_launched(world), _launched(world)]
    for _ in range(2000):
        if not any(operator.up for operator in both):
            return
        for operator in both:
            operator.step()
        world.time += 1.0
    raise ViolationError("never settled", f"{both[0].doing}; {both[1].doing}; {world.row().state}, of {world.row().claimant}")
