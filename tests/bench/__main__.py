"""
``make bench``: measures every figure, shows them, writes ``build/bench.json``, and exits non-zero if a bar is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import core, http
from .harness import ROUNDS, Result, measure


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="figures to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds of each figure (default {ROUNDS})")
    options = parser.parse_args()
    cases = [case for case in [*core.cases(), *http.cases()] if not options.names or case.name in options.names]
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for case in cases:
            task = progress.add_task(case.name, total=options.rounds)
            results.append(measure(case, rounds=options.rounds, advance=lambda task=task: progress.advance(task)))
    build = Path("build")
    build.mkdir(exist_ok=True)
    figures = {result.name: {name: asdict(result)[name] for name in ("ratio", "low", "high", "aa", "bar")} for result in results}
    (build / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(results)
    return 0 if all(result.met for result in results) else 1


def show(results: list[Result]) -> None:
    table = Table(title="Ratios, median of all rounds with its 95 % interval")
    for heading in ("figure", "what", "ratio", "interval", "A/A", "bar", ""):
        table.add_column(heading)
    for result in results:
        met = "[green]met[/]" if result.met else "[red]not met[/]"
        interval = f"{result.low:.3f} to {result.high:.3f}"
        table.add_row(result.name, result.what, f"{result.ratio:.3f}", interval, f"{result.aa:.3f}", f"{result.bar:g}", met)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
