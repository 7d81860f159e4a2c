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
from typing import Any, Protocol

import confluent_kafka
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.services.kafka import version as kafka_version

from . import campaign
from .rabbitmq import campaign as rabbitmq

__all__ = ["Scenario", "kafka_part", "progress", "rabbitmq_part", "show", "show_mutants", "write"]

_KAFKA = (
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

_RABBITMQ = (
    "messages",
    "keyed",
    "cycles",
    "least_in_flight",
    "kills",
    "restarts",
    "cuts",
    "forwarded",
    "moved",
    "lost",
    "wrong_owner",
    "cross_owner",
    "cross_owner_plain",
    "unknown",
    "altered",
    "looped",
    "duplicates",
    "duplicates_unexplained",
    "handled_twice",
)

#: Of these there must be none.
_NONE = ("lost", "wrong_owner", "cross_owner", "unknown", "altered", "looped", "duplicates_unexplained")


class Scenario(Protocol):
    """
    How a mutant is caught.
    """

    @property
    def what(self) -> str:
        """
        What the mutant leaves out or does.
        """
        ...

    @property
    def figure(self) -> str:
        """
        Which figure must not be 0.
        """
        ...


@contextmanager
def progress(console: Console, cycles: int) -> Iterator[Callable[[str, int, int], None]]:
    """
    Show how far a run of so many lives is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} lives"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=cycles)
        yield lambda text, lived, sent: bar.update(task, description=text, completed=lived)


def kafka_part(plan: str, outcome: campaign.Outcome, seconds: float) -> dict[str, Any]:
    """
    Return what is to be said of a run on Kafka, by name.
    """
    found = {name: getattr(outcome.report, name) for name in _KAFKA}
    if outcome.transacted is not None:
        # What is lost or has a wrong owner there counts like any other.
        found["lost"] += outcome.transacted.lost
        found["wrong_owner"] += outcome.transacted.wrong_owner
        found["transactional_messages"] = outcome.transacted.messages
        found["transactional_duplicates"] = outcome.transacted.duplicates
    versions = {
        "kafka": kafka_version(),
        "confluent-kafka": metadata.version("confluent-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
    }
    return _part(plan, found, outcome, versions, seconds)


def rabbitmq_part(plan: str, outcome: rabbitmq.Outcome, seconds: float) -> dict[str, Any]:
    """
    Return what is to be said of a run on RabbitMQ, by name.
    """
    found = {name: getattr(outcome.report, name) for name in _RABBITMQ}
    found["left_behind"] = len(outcome.left_behind)
    versions = {"rabbitmq": outcome.version, "aio-pika": metadata.version("aio-pika")}
    return _part(plan, found, outcome, versions, seconds)


def _part(
    plan: str, found: Mapping[str, Any], outcome: campaign.Outcome | rabbitmq.Outcome, versions: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    own = {"python": platform.python_version(), **versions, "request-tenancy": metadata.version("request-tenancy")}
    told = {"causes": outcome.report.causes, "missed": outcome.missed, "seconds": round(seconds, 1), "versions": own}
    return {"plan": plan, **found, **told}


def show(title: str, part: Mapping[str, Any], problems: tuple[str, ...]) -> None:
    """
    Print what was found.
    """
    console = Console()
    table = Table("figure", "value", title=f"Chaos: {title}")
    for name, value in part.items():
        if isinstance(value, int):
            table.add_row(name, str(value))
    for cause, count in sorted(part["causes"].items()):
        table.add_row(f"duplicates by {cause}", str(count))
    console.print(table)
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    for missed in part["missed"]:
        console.print(f"missed: {missed}", style="bold red", markup=False)


def show_mutants(found: Mapping[str, tuple[Any, float]], scenarios: Mapping[str, Scenario], *, control: bool) -> bool:
    """
    Print which mutants were caught, and return whether all were; of a control, whether there was nothing to be caught.

    Args:
        found: What the checker says, and how long it took, by mutant.
        scenarios: How each is caught.
        control: Whether nothing was broken.
    """
    table = Table(title="Scenarios with nothing broken" if control else "Mutants")
    for heading in ("mutant", "found", "s", ""):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it leaves out or does")
    all_well = True
    for name, (report, seconds) in found.items():
        scenario = scenarios[name]
        well = report.good if control else bool(getattr(report, scenario.figure))
        all_well &= well
        shown = {figure: getattr(report, figure, 0) for figure in _NONE}
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


def write(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Write ``build/chaos.json``.

    Args:
        parts: What is to be said of each broker.
    """
    build = Path("build")
    build.mkdir(exist_ok=True)
    (build / "chaos.json").write_text(json.dumps(parts, indent=2) + "\n")
