"""
What a chaos run shows, and what it leaves in ``build/chaos.json``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.services.kafka import version as kafka_version

from .campaign import Outcome
from .checker import Report
from .plan import Plan
from .scenarios import SCENARIOS

__all__ = ["progress", "show", "show_mutants", "write"]

_FIGURES = (
    "messages",
    "keyed",
    "cycles",
    "least_at_cut",
    "kills",
    "pauses",
    "lost",
    "wrong_owner",
    "cross_owner",
    "unknown",
    "dropped",
    "duplicates",
    "duplicates_unexplained",
)

#: Of these there must be none.
_NONE = ("lost", "wrong_owner", "cross_owner", "unknown", "duplicates_unexplained")


@contextmanager
def progress(console: Console, plan: Plan) -> Iterator[Callable[[str, int, int], None]]:
    """
    Show how far a run is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} lives"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=plan.cycles)
        yield lambda text, lived, sent: bar.update(task, description=text, completed=lived)


def figures(outcome: Outcome) -> dict[str, Any]:
    """
    Return the figures by name.
    """
    found = {name: getattr(outcome.report, name) for name in _FIGURES}
    if outcome.transacted is not None:
        # What is lost or has a wrong owner there counts like any other.
        found["lost"] += outcome.transacted.lost
        found["wrong_owner"] += outcome.transacted.wrong_owner
        found["transactional_messages"] = outcome.transacted.messages
        found["transactional_duplicates"] = outcome.transacted.duplicates
    return found


def show(outcome: Outcome) -> None:
    """
    Print what was found.
    """
    console = Console()
    table = Table("figure", "value", title="Chaos: Kafka")
    for name, value in figures(outcome).items():
        table.add_row(name, str(value))
    for cause, count in sorted(outcome.report.causes.items()):
        table.add_row(f"duplicates by {cause}", str(count))
    console.print(table)
    for problem in (*outcome.report.problems, *(outcome.transacted.problems if outcome.transacted is not None else ())):
        console.print(problem, style="red", markup=False, soft_wrap=True)
    for missed in outcome.missed:
        console.print(f"missed: {missed}", style="bold red", markup=False)


def show_mutants(found: Mapping[str, tuple[Report, float]], *, control: bool) -> bool:
    """
    Print which mutants were caught, and return whether all were; of a control, whether there was nothing to be caught.
    """
    table = Table(title="Scenarios with nothing broken" if control else "Mutants")
    for heading in ("mutant", "found", "s", ""):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it leaves out or does")
    all_well = True
    for name, (report, seconds) in found.items():
        scenario = SCENARIOS[name]
        well = report.good if control else bool(getattr(report, scenario.figure))
        all_well &= well
        shown = {figure: getattr(report, figure) for figure in _NONE}
        numbers = ", ".join(f"{figure} {number}" for figure, number in shown.items() if number)
        verdict = ("as it should be" if well else "[red]WRONG[/]") if control else ("caught" if well else "[red]NOT CAUGHT[/]")
        table.add_row(name, numbers or "nothing", str(round(seconds)), verdict, scenario.what)
    console = Console()
    console.print(table)
    if control:
        for report, _ in found.values():
            for problem in report.problems:
                console.print(problem, style="red", markup=False, soft_wrap=True)
    return all_well


def write(plan: Plan, outcome: Outcome, seconds: float) -> None:
    """
    Write ``build/chaos.json``.
    """
    build = Path("build")
    build.mkdir(exist_ok=True)
    versions = {
        "python": platform.python_version(),
        "kafka": kafka_version(),
        "confluent-kafka": metadata.version("confluent-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
        "request-tenancy": metadata.version("request-tenancy"),
    }
    found = {"plan": plan.name, **figures(outcome), "causes": outcome.report.causes, "missed": outcome.missed}
    found |= {"seconds": round(seconds, 1), "versions": versions}
    (build / "chaos.json").write_text(json.dumps({"kafka": found}, indent=2) + "\n")
