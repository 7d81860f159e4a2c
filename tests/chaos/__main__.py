"""
``make chaos``: runs it, shows what came of it, writes ``build/chaos.json``, and exits non-zero if a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tests import services

from . import campaign, plan, scenarios
from .rabbitmq import campaign as rabbitmq_campaign
from .rabbitmq import plan as rabbitmq_plan
from .rabbitmq import scenarios as rabbitmq_scenarios
from .screen import kafka_part, progress, rabbitmq_part, show, show_mutants, write

_PLANS = ("full", "quick", "tiny")
_SCENARIOS: Mapping[str, Mapping[str, Any]] = {"kafka": scenarios.SCENARIOS, "rabbitmq": rabbitmq_scenarios.SCENARIOS}
_PLAY: Mapping[str, Callable[..., Any]] = {"kafka": scenarios.play, "rabbitmq": rabbitmq_scenarios.play}
_ALL = {name: scenario for own in _SCENARIOS.values() for name, scenario in own.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kafka", dest="parts", action="append_const", const="kafka", help="the part on Kafka alone")
    parser.add_argument("--rabbitmq", dest="parts", action="append_const", const="rabbitmq", help="the part on RabbitMQ alone")
    parser.add_argument("--quick", dest="plan", action="store_const", const="quick", default="full", help="the one-minute version")
    parser.add_argument("--plan", choices=_PLANS, help="which version (default full)")
    parser.add_argument("--mutant", choices=_ALL, action="append", default=[], help="break this on purpose, and see it caught")
    parser.add_argument("--mutants", action="store_true", help="break each of them in turn")
    parser.add_argument(
        "--control", action="store_true", help="with --mutant(s): the same, with nothing broken and nothing to be seen"
    )
    parser.add_argument("--keep", action="store_true", help="keep the journals, and say where they are")
    options = parser.parse_args()
    parts = options.parts or list(_SCENARIOS)
    directory = Path(tempfile.mkdtemp(prefix="tenancy-chaos-"))
    try:
        if options.mutants or options.mutant:
            names = [name for part in parts for name in _SCENARIOS[part]] if options.mutants else options.mutant
            return hunt(names, directory, control=options.control)
        return run(parts, options.plan, directory)
    except services.Unavailable as reason:
        print(f"chaos: {reason}", file=sys.stderr)
        return 2
    finally:
        if options.keep:
            print(f"The journals are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def run(parts: Sequence[str], name: str, directory: Path) -> int:
    """
    Run the plan of a name, on each of the brokers.
    """
    ways = {"kafka": _on_kafka, "rabbitmq": _on_rabbitmq}
    found = {}
    for part in parts:
        place = directory / part
        place.mkdir()
        found[part], problems = ways[part](name, place)
        show({"kafka": "Kafka", "rabbitmq": "RabbitMQ"}[part], found[part], problems)
        write(found)
    return 1 if any(part["missed"] for part in found.values()) else 0


def _on_kafka(name: str, directory: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    chosen = {each.name: each for each in (plan.FULL, plan.QUICK, plan.TINY)}[name]
    began = time.monotonic()
    with services.Running(kafka=services.find("kafka", own=True), postgresql=services.find("postgresql", own=True)) as running:
        for service in running.values():
            service.start()
        with progress(Console(stderr=True), chosen.cycles) as tell:
            outcome = campaign.run(chosen, running["kafka"], running["postgresql"], directory, tell=tell)
    problems = (*outcome.report.problems, *(outcome.transacted.problems if outcome.transacted is not None else ()))
    return kafka_part(name, outcome, time.monotonic() - began), problems


def _on_rabbitmq(name: str, directory: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    chosen = {each.name: each for each in (rabbitmq_plan.FULL, rabbitmq_plan.QUICK, rabbitmq_plan.TINY)}[name]
    began = time.monotonic()
    with services.start("rabbitmq", own=True) as service, progress(Console(stderr=True), chosen.cycles) as tell:
        outcome = rabbitmq_campaign.run(chosen, service, directory, tell=tell)
    return rabbitmq_part(name, outcome, time.monotonic() - began), outcome.report.problems


def hunt(names: Sequence[str], directory: Path, *, control: bool) -> int:
    """
    Play the scenarios of mutants, with or without them.
    """
    found = {}
    for part, own in _SCENARIOS.items():
        if not (chosen := [name for name in names if name in own]):
            continue
        with services.start(part) as service:
            for name in chosen:
                place = directory / name
                place.mkdir()
                began = time.monotonic()
                report = _PLAY[part](name, service.address, place, mutant=not control)
                found[name] = report, time.monotonic() - began
                print(f"chaos: {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if show_mutants(found, _ALL, control=control) else 1


if __name__ == "__main__":
    sys.exit(main())
