"""
``make bench``: measures every figure, shows them, writes ``build/bench.json``, and exits non-zero if a bar is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests import services

from . import core, footprint, grpc, http, kafka, postgresql, rabbitmq, rabbitmq_pika, redis
from .harness import ROUNDS, Result, measure


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="figures to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds of each figure (default {ROUNDS})")
    options = parser.parse_args()
    known = [*core.cases(), *http.cases(), *grpc.cases(), *footprint.cases()]
    brokers = [*kafka.NAMES, *rabbitmq.NAMES, *rabbitmq_pika.NAMES]
    names = [*(case.name for case in known), *brokers, *postgresql.NAMES, *redis.NAMES]
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    wanted = set(options.names or names)
    results = []
    with ExitStack() as stack, Progress(console=Console(stderr=True), transient=True) as progress:
        if wanted.intersection(kafka.NAMES):
            known += kafka.cases(stack.enter_context(services.start("kafka")).address)
        if wanted.intersection(rabbitmq.NAMES):
            known += rabbitmq.cases(stack.enter_context(services.start("rabbitmq")).address, stack)
        if wanted.intersection(rabbitmq_pika.NAMES):
            known += rabbitmq_pika.cases(stack.enter_context(services.start("rabbitmq")).address)
        if wanted.intersection(postgresql.NAMES):
            known += postgresql.cases(stack.enter_context(services.start("postgresql")).address, stack, wanted)
        if wanted.intersection(redis.NAMES):
            known += redis.cases(stack.enter_context(services.start("redis")).address, stack)
        cases = [case for case in known if case.name in wanted]
        for case in cases:
            task = progress.add_task(case.name, total=options.rounds)
            results.append(measure(case, rounds=options.rounds, advance=lambda task=task: progress.advance(task)))
    build = Path("build")
    build.mkdir(exist_ok=True)
    figures = {
        result.name: {name: asdict(result)[name] for name in ("ratio", "low", "high", "aa", "bar", "unit")} for result in results
    }
    (build / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(results)
    return 0 if all(result.met for result in results) else 1


def show(results: list[Result]) -> None:
    table = Table(title="Ratios, median of all rounds with its 95 % interval")
    for heading in ("figure", "what", "ratio", "interval", "A/A", "bar", ""):
        table.add_column(heading, no_wrap=heading != "what")
    for result in results:
        met = "" if result.bar is None else "[green]met[/]" if result.met else "[red]not met[/]"
        interval = f"{shown(result, result.low)} to {shown(result, result.high)}"
        table.add_row(
            result.name,
            result.what,
            shown(result, result.ratio),
            interval,
            f"{result.aa:.3f}",
            "" if result.bar is None else f"{result.bar:g}",
            met,
        )
    Console().print(table)


def shown(result: Result, figure: float) -> str:
    return f"{figure:.1f} {result.unit}" if result.unit else f"{figure:.3f}"


if __name__ == "__main__":
    sys.exit(main())
