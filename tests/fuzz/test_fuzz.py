from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.services import flag

from . import bugs, campaign, mutator
from .cases import SHAPES, parse
from .oracles import check, codecs

#: Cases in which each seeded bug must be found; most need a few hundred.
BUDGET = 100_000


@pytest.fixture
def engine() -> None:
    """The coverage-guided engine; skip where it cannot be had, and fail where it must be."""
    if not campaign.available():
        if flag("TENANCY_REQUIRE_SERVICES"):
            pytest.fail(f"TENANCY_REQUIRE_SERVICES is set, but {campaign.UNAVAILABLE}", pytrace=False)
        pytest.skip(campaign.UNAVAILABLE)


@pytest.mark.parametrize("path", sorted(campaign.CORPUS.iterdir()), ids=lambda path: path.stem)
def test_every_seed_holds(path: Path) -> None:
    """What the fuzzer starts from is right, on every Python."""
    case = parse(path.read_bytes())
    check(case, codecs()[case.fields])


def test_the_seeds_have_every_shape() -> None:
    """No shape of carrier has to be found by chance."""
    assert {parse(path.read_bytes()).shape for path in campaign.CORPUS.iterdir()} == set(SHAPES)


def test_a_few_thousand_random_cases_hold() -> None:
    """Without the engine too, cases made by chance are tried, on every Python."""
    made = [path.read_bytes() for path in campaign.CORPUS.iterdir()]
    generator, using = random.Random(1), codecs()
    for _ in range(3000):
        data = mutator.mutated(generator.choice(made), generator)
        case = parse(data)
        check(case, using[case.fields])
        if generator.random() < 0.05 and len(data) < 200:
            made.append(data)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("bug", [bug for bug in bugs.BUGS if bug != "needle"])
def test_a_seeded_bug_is_found(bug: str, tmp_path: Path) -> None:
    """Starting from one ordinary header, the fuzzer finds each bug, and its reproducer fails with the bug alone."""
    _found(bug, tmp_path)


@pytest.mark.usefixtures("engine")
@pytest.mark.timeout(240)
def test_it_is_coverage_that_finds_the_needle(tmp_path: Path) -> None:
    """The same seed and the same kinds of changes, five times the cases, but no coverage to be guided by: nothing is found."""
    guided = _found("needle", tmp_path)
    assert guided.corpus > 50
    executions = min(max(5 * guided.executions, 20_000), 60_000)
    blind = campaign.run(tmp_path, executions=executions, seconds=150, seed=1, seeds=[campaign.PLAIN], bug="needle", blind=True)
    assert blind.failure is None
    assert blind.executions == executions


def _found(bug: str, folder: Path) -> campaign.Outcome:
    for seed in (1, 2, 3):
        outcome = campaign.run(folder, executions=BUDGET, seconds=35, seed=seed, seeds=[campaign.PLAIN], bug=bug)
        if outcome.failure is not None:
            break
    assert outcome.failure is not None, f"{bug} was not found in {outcome.executions} executions"
    assert outcome.reproducer is not None
    case = parse(outcome.reproducer.read_bytes())
    codec = codecs()[case.fields]
    check(case, codec)
    with pytest.raises((AssertionError, ValueError)):
        check(case, bugs.BUGS[bug](codec))
    return outcome
