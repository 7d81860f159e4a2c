"""
``make chaos``: runs it, shows what came of it, writes ``build/chaos.json``, and exits non-zero if a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests import services

from . import campaign
from .plan import FULL, QUICK, TINY, Plan
from .scenarios import SCENARIOS, play
from .screen import progress, show, show_mutants, write

_PLANS = {plan.name: plan for plan in (FULL, QUICK, TINY)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--quick", dest="plan", action="store_const", const="quick", default="full", help="the one-minute version")
    parser.add_argument("--plan", choices=_PLANS, help="which version (default full)")
    parser.add_argument("--mutant", choices=SCENARIOS, action="append", default=[], help="break this on purpose, and see it caught")
    parser.add_argument("--mutants", action="store_true", help="break each of them in turn")
    parser.add_argument(
        "--control", action="store_true", help="with --mutant(s): the same, with nothing broken and nothing to be seen"
    )
    parser.add_argument("--keep", action="store_true", help="keep the journals, and say where they are")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tenancy-chaos-"))
    try:
        if options.mutants or options.mutant:
            return hunt(list(SCENARIOS) if options.mutants else options.mutant, directory, control=options.control)
        return run(_PLANS[options.plan], directory)
    except services.Unavailable as reason:
        print(f"chaos: {reason}", file=sys.stderr)
        return 2
    finally:
        if options.keep:
            print(f"The journals are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def run(plan: Plan, directory: Path) -> int:
    """
    Run a plan.
    """
    began = time.monotonic()
    with services.Running(kafka=services.find("kafka", own=True), postgresql=services.find("postgresql", own=True)) as running:
        for service in running.values():
            service.start()
        with progress(Console(stderr=True), plan) as tell:
            outcome = campaign.run(plan, running["kafka"], running["postgresql"], directory, tell=tell)
    show(outcome)
    write(plan, outcome, time.monotonic() - began)
    return 1 if outcome.missed else 0


def hunt(names: Sequence[str], directory: Path, *, control: bool) -> int:
    """
    Play the scenarios of mutants, with or without them.
    """
    found = {}
    with services.Running(kafka=services.find("kafka")) as running:
        running["kafka"].start()
        for name in names:
            place = directory / name
            place.mkdir()
            began = time.monotonic()
            report = play(name, running["kafka"].address, place, mutant=not control)
            found[name] = report, time.monotonic() - began
            print(f"chaos: {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if show_mutants(found, control=control) else 1


if __name__ == "__main__":
    sys.exit(main())
