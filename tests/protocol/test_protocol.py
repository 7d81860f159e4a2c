"""
The hand-over protocol of Kafka, its steps interleaved at random: nothing is handled by two, or by nobody, and every mutant is caught.

A walker takes far more steps in a second than Hypothesis, and is what finds things; Hypothesis finds them, too, and shows the shortest way.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.protocol.mutants import MUTANTS
from tests.protocol.walk import Found, drawn, shrunk, walk
from tests.protocol.world import ACTIONS, Config, Switches, World, played

STEPS = 60_000
LENGTH = 600


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What gap readers drop is warned of, thousands of times."""
    caplog.set_level(logging.ERROR, logger="tenancy")


def _told(found: Found) -> str:
    """
    Say what a walk found, by the shortest way that leads there.
    """
    short = shrunk(found)
    return f"{short.violation}\n{short.world.config}\n" + "\n".join(short.world.trace)


def test_nothing_is_handled_by_two_or_by_nobody() -> None:
    """Whatever is interleaved, and whatever goes wrong, every record is handled by its owner, and every life is settled in the end."""
    steps, seen = 0, Counter[str]()
    with played():
        seed = 0
        while steps < STEPS:
            found = walk(seed, drawn(random.Random(seed)), Switches(), {}, LENGTH)
            assert found.violation is None, _told(found)
            steps += found.taken
            seed += 1
            for lives in found.world.checker.lives.values():
                seen["lives"] += len(lives)
                seen["later lives"] += max(0, len(lives) - 1)
                seen["ended lives"] += sum(life.end is not None for life in lives)
                seen["gaps"] += sum(life.gap for life in lives)
            for record in (record for log in found.world.kafka.logs for record in log):
                seen.update("baseline" if handling.owner == 0 else "sandbox" for handling in record.handlings if not handling.gap)
    # Worlds in which nothing happens prove nothing.
    assert min(seen[what] for what in ("later lives", "gaps", "sandbox")) >= 10
    assert min(seen[what] for what in ("lives", "ended lives", "baseline")) >= 50


def test_a_log_that_lost_its_end_gives_no_record_to_two() -> None:
    """After an unclean truncation records may be lost, as the failure table says; none has two owners, and no cut precedes an earlier one."""
    steps = 0
    with played():
        for seed in range(40):
            config = drawn(random.Random(seed))
            found = walk(seed, config._replace(faults=config.faults | {"truncation"}), Switches(), {}, LENGTH)
            assert found.violation is None, _told(found)
            steps += found.taken
    assert steps > 10_000


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    """Whatever rule is left out, the checker sees what that leads to, within a bounded number of steps."""
    mutant, steps = MUTANTS[name], 0
    with played(), mutant.patches():
        for seed in range(mutant.walks):
            config = drawn(random.Random(seed))
            # Every other world has nothing else that goes wrong, which could excuse what the mutant does.
            faults = frozenset(mutant.faults) | (config.faults if seed % 2 else frozenset())
            config = config._replace(faults=faults, structure=mutant.structure, **mutant.config)
            found = walk(seed, config, mutant.switches, mutant.weights, LENGTH, mutant.script)
            steps += found.taken
            if found.violation is not None and found.violation.kind in mutant.kinds:
                return
    pytest.fail(f"{name} was not caught in {steps} steps")


class Protocol(RuleBasedStateMachine):
    """
    The same worlds, as Hypothesis walks through them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(played())
        self.world: World | None = None

    @initialize(
        partitions=st.integers(1, 2),
        baselines=st.integers(1, 2),
        sandboxes=st.integers(1, 2),
        keys=st.integers(1, 2),
        faults=st.frozensets(
            st.sampled_from(("crash", "evict", "stop", "outage", "partition", "retention", "rebalance", "operators"))
        ),
        created=st.sampled_from((True, True, False)),
    )
    def begin(self, partitions: int, baselines: int, sandboxes: int, keys: int, faults: frozenset[str], created: bool) -> None:
        self.world = World(Config(partitions, baselines, sandboxes, keys, faults=faults, rates=(0.995, 1.005)))
        if created:  # what comes after is more than how to get there
            self.controller(0, 1, 20)
            self.controller(0, 1, 40)
            for at in range(baselines + sandboxes):
                for name in ("sync", "follow", "follow", "assign"):
                    self._act(name, at, 0)

    def _act(self, name: str, a: int, b: int) -> None:
        assert self.world is not None
        self.world.act(name, a, b)

    @rule(
        name=st.sampled_from(("read", "sync", "follow", "assign", "fetch", "poll", "end", "commit")),
        a=st.integers(0, 5),
        b=st.integers(0, 11),
    )
    def consumer(self, name: str, a: int, b: int) -> None:
        self._act(name, a, b)

    @rule(a=st.integers(0, 5), b=st.integers(0, 11))
    def go(self, a: int, b: int) -> None:
        self._act("go", a, b)

    @rule(partition=st.integers(0, 1), reads=st.booleans())
    def flow(self, partition: int, reads: bool) -> None:
        """A record comes, and everybody goes on."""
        self._act("produce", partition, 0)
        for at in range(len(self.world.consumers) if self.world else 0):
            if reads:
                self._act("sync", at, 0)
            self._act("go", at, 1)

    @rule(a=st.integers(0, 3), b=st.integers(0, 5))
    def produce(self, a: int, b: int) -> None:
        self._act("produce", a, b)

    @rule(a=st.integers(0, 2), b=st.integers(0, 3), steps=st.integers(1, 12))
    def controller(self, a: int, b: int, steps: int) -> None:
        if not any(operator.up for operator in (self.world.operators if self.world else ())):
            self._act("launch", a, b)
        for _ in range(steps):
            self._act("operate", a, b)
        if steps > 6:  # it waits by now
            self._act("wake", a, b)

    @rule(name=st.sampled_from(("tick", "wake", "wake", "expire")), a=st.integers(0, 5), b=st.integers(0, 4))
    def time(self, name: str, a: int, b: int) -> None:
        self._act(name, a, b)

    @rule(
        name=st.sampled_from(("crash", "restart", "evict", "stop", "rebalance", "outage", "grow", "retain", "kill", "launch")),
        a=st.integers(0, 7),
        b=st.integers(0, 5),
    )
    def fault(self, name: str, a: int, b: int) -> None:
        self._act(name, a, b)

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.world.settle()
        finally:
            if self.world is not None:
                self.world.close()
            self._stack.close()


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_every_step_is_tried() -> None:
    """A walk tries everything that a world can do."""
    possible = {name.removeprefix("do_") for name in dir(World) if name.startswith("do_")}
    assert possible == set(ACTIONS)
