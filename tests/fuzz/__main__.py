"""
Looks for inputs that the codec gets wrong; exits non-zero when there is one, or when it could not try as many as it was asked to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import traceback
from pathlib import Path

from .campaign import PLAIN, UNAVAILABLE, Outcome, available, run

BUILD = Path("build")
FOLDER = BUILD / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000, help="cases to try (default 200000)")
    parser.add_argument("--seconds", type=int, default=600, help="when to stop in any case (default 600)")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 2), help="how many share the work")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers (default: a new one each time)")
    parser.add_argument("--seeded", action="store_true", help="put bugs into the codec, one at a time, and find each")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="try one case alone, and show it")
    options = parser.parse_args()
    if options.reproduce:
        return reproduce(options.reproduce)
    if not available():
        print(UNAVAILABLE, file=sys.stderr)
        return 2
    BUILD.mkdir(exist_ok=True)
    if options.seeded:
        return seeded(options.runs, options.seconds, 1 if options.seed is None else options.seed)
    return search(options)


def search(options: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1, 2**31) if options.seed is None else options.seed
    print(f"fuzz: {options.runs:,} cases, {options.processes} processes, seed {seed}, at most {options.seconds} s", flush=True)
    outcome = run(FOLDER, executions=options.runs, seconds=options.seconds, seed=seed, processes=options.processes)
    show(outcome)
    if outcome.failure is not None:
        return 1
    if outcome.executions < options.runs:
        print(f"only {outcome.executions:,} of {options.runs:,} cases in {options.seconds} s; give it more --seconds")
        return 1
    return 0


def show(outcome: Outcome) -> None:
    rate = outcome.executions / outcome.seconds
    print(f"fuzz: {outcome.executions:,} executions in {outcome.seconds:.1f} s, {rate:,.0f} a second")
    print(
        f"fuzz: branches {outcome.coverage[0]} -> {outcome.coverage[1]}, features {outcome.features[0]} -> {outcome.features[1]}, ",
        end="",
    )
    print(f"corpus {outcome.corpus} inputs")
    figures = {
        "executions": outcome.executions,
        "seconds": round(outcome.seconds, 1),
        "executions_per_second": round(rate),
        "branches": outcome.coverage,
        "features": outcome.features,
        "failed": outcome.failure is not None,
    }
    (BUILD / "fuzz.json").write_text(json.dumps(figures, indent=2) + "\n")
    if outcome.failure is None:
        print("fuzz: nothing found that does not hold")
        return
    print(f"\n{outcome.failure}\n")
    if outcome.reproducer is not None:
        print(
            f"The case is in {outcome.reproducer}; see it alone with: python -m tests.fuzz --reproduce {shlex.quote(str(outcome.reproducer))}"
        )


def seeded(executions: int, seconds: int, seed: int) -> int:
    from .bugs import BUGS

    missed = []
    for bug in BUGS:
        outcome = run(FOLDER, executions=executions, seconds=seconds, seed=seed, seeds=[PLAIN], bug=bug)
        found = outcome.failure is not None
        verb = "found after" if found else "NOT FOUND in"
        print(f"fuzz: {bug}: {verb} {outcome.executions:,} executions, {outcome.seconds:.1f} s", flush=True)
        if not found:
            missed.append(bug)
    blind = run(FOLDER, executions=executions, seconds=seconds, seed=seed, seeds=[PLAIN], bug="needle", blind=True)
    says = "found, too" if blind.failure is not None else "not found"
    print(f"fuzz: needle without coverage to be guided by: {says}, {blind.executions:,} executions, {blind.seconds:.1f} s")
    return 1 if missed else 0


def reproduce(path: Path) -> int:
    import tenancy

    from .cases import parse
    from .oracles import check, codecs

    tenancy.configure(tenancy.Settings())
    case = parse(path.read_bytes())
    print(f"{case}\ncarrier: {case.carrier()!r}")
    try:
        check(case, codecs()[case.fields])
    except Exception:
        traceback.print_exc()
        return 1
    print("It holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
