"""
Ratios that can be trusted on a busy machine: all variants of a case in every round, in random order, by process CPU time.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ROUNDS", "Case", "Result", "measure"]

ROUNDS = 30
_ROUND_SECONDS = 0.02  # how long one variant runs in one round, about
_RESAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """
    One figure.

    Args:
        name: Its name in the table and in ``build/bench.json``.
        bar: What the figure may be at most; None: it is shown for information.
        variants: What is timed; each does its work as often as it is told. One that measures in a process of its own does it once, and
            returns the seconds.
        ratio: Makes the figure of the seconds that each variant took for one piece of work.
        yardstick: The variant that is compared with itself.
        what: The figure in words.
        unit: What the figure is in, where it is no ratio.
    """

    name: str
    bar: float | None
    variants: Mapping[str, Callable[[int], object]]
    ratio: Callable[[Mapping[str, float]], float]
    yardstick: str
    what: str
    unit: str = ""


@dataclass(frozen=True)
class Result:
    """
    A measured figure: the median over all rounds, its bootstrap 95 % interval, and the yardstick against itself.
    """

    name: str
    what: str
    ratio: float
    low: float
    high: float
    aa: float
    bar: float | None
    unit: str = ""

    @property
    def met(self) -> bool:
        """
        Whether the bar, if there is one, is met: the interval does not lie above it.
        """
        return self.bar is None or self.low <= self.bar


def measure(case: Case, *, rounds: int = ROUNDS, advance: Callable[[], object] = lambda: None) -> Result:
    """
    Measure a case.

    Args:
        case: What to measure.
        rounds: How often each variant runs.
        advance: Called after every round, for a progress bar.
    """
    again = f"{case.yardstick} again"
    variants = {**case.variants, again: case.variants[case.yardstick]}
    times = {name: _repeats(work) for name, work in variants.items()}
    shuffle = random.Random(case.name)
    ratios, same = [], []
    for _ in range(rounds):
        order = list(variants)
        shuffle.shuffle(order)
        seconds = {name: _seconds(variants[name], times[name]) for name in order}
        ratios.append(case.ratio(seconds))
        same.append(seconds[again] / seconds[case.yardstick])
        advance()
    low, high = _interval(ratios)
    return Result(case.name, case.what, statistics.median(ratios), low, high, statistics.median(same), case.bar, case.unit)


def _seconds(work: Callable[[int], object], times: int) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.process_time_ns()
        own = work(times)
        return own if isinstance(own, float) else (time.process_time_ns() - start) / times / 1e9
    finally:
        gc.enable()


def _repeats(work: Callable[[int], object]) -> int:
    times = 1
    while True:  # also warms up
        start = time.process_time_ns()
        if isinstance(work(times), float):
            return 1
        seconds = (time.process_time_ns() - start) / 1e9
        if seconds >= _ROUND_SECONDS / 2:
            return max(1, round(times * _ROUND_SECONDS / seconds))
        times *= 2


def _interval(values: Sequence[float]) -> tuple[float, float]:
    resample = random.Random(0)
    medians = sorted(statistics.median(resample.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return medians[round(0.025 * (_RESAMPLES - 1))], medians[round(0.975 * (_RESAMPLES - 1))]
