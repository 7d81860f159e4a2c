from __future__ import annotations

from pathlib import Path

import pytest

from tests import services
from tests.chaos import campaign
from tests.chaos.plan import FULL, QUICK, TINY, TWISTS
from tests.chaos.rabbitmq import campaign as rabbitmq_campaign
from tests.chaos.rabbitmq import mutants as rabbitmq_mutants
from tests.chaos.rabbitmq import plan as rabbitmq_plan
from tests.chaos.rabbitmq import scenarios as rabbitmq_scenarios
from tests.chaos.scenarios import SCENARIOS, play


@pytest.mark.service
def test_a_tiny_run_meets_its_bars(tmp_path: Path) -> None:
    """A sandbox that dies at its end and a killed baseline leave every record with one owner, and nothing of the harness behind."""
    with services.Running(kafka=_own("kafka"), postgresql=_own("postgresql")) as running:
        for service in running.values():
            service.start()
        outcome = campaign.run(TINY, running["kafka"], running["postgresql"], tmp_path, tell=lambda *_: None)
    assert outcome.missed == ()
    assert outcome.report.kills >= TINY.kills


@pytest.mark.service
def test_the_checker_sees_a_mutant(kafka: str, tmp_path: Path) -> None:
    """Where records are committed before they are handled, some are lost when their process is killed."""
    assert play("commit-first", kafka, tmp_path).lost


@pytest.mark.service
def test_a_tiny_run_on_rabbitmq_meets_its_bars(tmp_path: Path) -> None:
    """A sandbox that dies at its end, and a baseline that is killed and cut off, leave every message with one owner, and no queue behind."""
    with _own("rabbitmq") as service:
        service.start()
        outcome = rabbitmq_campaign.run(rabbitmq_plan.TINY, service, tmp_path, tell=lambda *_: None)
    assert outcome.missed == ()
    assert outcome.left_behind == ()
    assert outcome.report.moved


@pytest.mark.service
def test_the_checker_sees_a_mutant_on_rabbitmq(rabbitmq: str, tmp_path: Path) -> None:
    """Where a key is active before the lease is over, the baseline begins messages of it."""
    assert rabbitmq_scenarios.play("R10", rabbitmq, tmp_path).wrong_owner


def test_every_twist_has_its_turn() -> None:
    """The full run has all that can befall a life, in every slot at another time, and so much of it that its bars can be met."""
    assert FULL.cycles >= 40
    assert set(FULL.twists) == set(TWISTS)
    assert FULL.lives * FULL.slots >= len(TWISTS)
    assert QUICK.cycles >= len(QUICK.twists)
    assert rabbitmq_plan.FULL.cycles >= 20
    assert set(rabbitmq_plan.FULL.twists) == set(rabbitmq_plan.TWISTS)
    assert rabbitmq_plan.FULL.cycles >= len(rabbitmq_plan.TWISTS)
    assert rabbitmq_plan.QUICK.cycles >= len(rabbitmq_plan.QUICK.twists)


def test_every_mutant_that_is_asked_for_has_a_scenario() -> None:
    """Those of the protocol that a run with real brokers is to catch, and two ways to do without it."""
    assert set(SCENARIOS) == {"M1", "M2", "M3", "M5", "M9", "M11", "M15", "M24", "live", "commit-first"}
    assert set(rabbitmq_scenarios.SCENARIOS) == {"R1", "R2", "R3", "R4", "R7", "R9", "R10", "R11", "R14"}
    assert set(rabbitmq_mutants.MUTANTS) == set(rabbitmq_scenarios.SCENARIOS)


def _own(name: str) -> services.Service:
    try:
        return services.find(name, own=True)
    except services.Unavailable as reason:
        if services.flag("TENANCY_REQUIRE_SERVICES"):
            pytest.fail(f"TENANCY_REQUIRE_SERVICES is set, but there is {reason}", pytrace=False)
        pytest.skip(str(reason))
