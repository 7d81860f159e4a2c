from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.bench import core, footprint, grpc, http
from tests.bench import kafka as kafka_figures
from tests.bench import redis as redis_figures
from tests.bench.harness import Case, measure

CASES = [*core.cases(), *http.cases(), *grpc.cases(), *footprint.cases()]


def constant(seconds: float) -> object:
    return lambda times: seconds


@pytest.mark.parametrize(("bar", "met"), [(0.5, True), (0.4, False), (None, True)])
def test_a_figure_is_the_ratio_of_its_variants(bar: float | None, met: bool) -> None:
    """Whoever takes half the time of the yardstick has the ratio 0.5, and meets just the bars that are no lower."""
    case = Case(
        "half",
        bar,
        {"ours": constant(1.0), "theirs": constant(2.0)},  # type: ignore[dict-item]
        lambda seconds: seconds["ours"] / seconds["theirs"],
        "theirs",
        "half",
    )
    result = measure(case, rounds=3)
    assert (result.ratio, result.low, result.high, result.aa) == (0.5, 0.5, 0.5, 1.0)
    assert result.met is met


@pytest.mark.parametrize(
    ("name", "work"), [(f"{case.name}-{name}", work) for case in CASES for name, work in case.variants.items()]
)
def test_every_variant_does_its_work(name: str, work: object) -> None:
    """What `make bench` times runs through; how long it takes is nobody's business here."""
    work(2)  # type: ignore[operator]


def test_names_are_unique() -> None:
    """No figure hides another in build/bench.json."""
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.service
def test_the_figures_of_kafka(kafka: str) -> None:
    """Each variant on a real broker gets the messages that it should, and the list of names is true."""
    cases = list(kafka_figures.cases(kafka))
    assert tuple(case.name for case in cases) == kafka_figures.NAMES
    for case in cases:
        for work in case.variants.values():
            assert isinstance(work(1), float)


@pytest.mark.service
def test_the_figures_of_redis(redis: str) -> None:
    """Each variant on a real Redis does its work."""
    with ExitStack() as stack:
        cases = list(redis_figures.cases(redis, stack))
        assert tuple(case.name for case in cases) == redis_figures.NAMES
        for case in cases:
            for work in case.variants.values():
                work(2)
