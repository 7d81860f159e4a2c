"""
The demo's report, for people and for scripts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .check import Report
from .plan import EXPECTED, KINDS, SERVICES

__all__ = ["as_json", "show"]


Seen = dict[str, dict[str, int]]


def as_json(report: Report, legs: dict[str, str], seen: Seen) -> dict[str, Any]:
    """
    Return the report as one JSON object.

    Args:
        report: What was found.
        legs: What carried the requests.
        seen: Whose rows of the orders, and how many, the baseline and each key see.
    """
    hops: dict[str, Counter[str]] = {service: Counter() for service in SERVICES}
    for services in report.served.values():
        for service, versions in services.items():
            hops[service].update(versions)
    return {
        "requests": report.requests,
        "misrouted": report.misrouted,
        "lost": report.lost,
        "wrong_rows": report.wrong_rows,
        "legs": legs,
        "seen": seen,
        "hops": {service: dict(sorted(versions.items())) for service, versions in hops.items()},
        "problems": report.problems,
    }


def show(console: Console, report: Report, legs: dict[str, str], seen: Seen) -> None:
    """
    Print who served each hop of each kind of request, and where the rows went.

    Args:
        console: Where to.
        report: What was found.
        legs: What carried the requests.
        seen: Whose rows of the orders, and how many, the baseline and each key see.
    """
    # Without frames, and no column narrower than its longest word: so it fits into 80 columns.
    table = Table(
        title="Who served what (expected in grey where it differs)", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for heading, longest in zip(("request", *SERVICES, "rows in"), ("malformed", *SERVICES, "baseline"), strict=True):
        table.add_column(heading, min_width=len(longest))
    for kind, expected in EXPECTED.items():
        served = report.served.get(kind, {})
        cells = [_cell(served.get(service), getattr(expected, service)) for service in SERVICES]
        partitions: Counter[str] = Counter()
        for rows in report.partitions.get(kind, {}).values():
            partitions.update(rows)
        table.add_row(KINDS[kind], *cells, _cell(partitions, expected.partition))
    console.print(table)
    if seen:
        console.print(_seen(seen))
    console.print("Served by: " + ", ".join(f"{leg}: {what}" for leg, what in legs.items()))
    for problem in report.problems:
        console.print(f"  {problem}", style="red", markup=False, soft_wrap=True)
    verdict = f"{report.requests} requests: {report.misrouted} misrouted, {report.lost} lost, {report.wrong_rows} wrong rows"
    console.print(verdict, style="bold green" if report.good else "bold red")


def _seen(seen: Seen) -> Table:
    table = Table(title="The same table of orders, as each sees it", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("seen by")
    for owner in seen:
        table.add_column("the baseline's rows" if owner == "baseline" else f"{owner}'s rows", justify="right")
    for owner, rows in seen.items():
        table.add_row("no key" if owner == "baseline" else owner, *(str(rows.get(other, "")) for other in seen))
    return table


def _cell(seen: Counter[str] | None, expected: str | None) -> str:
    if seen is None:
        return "[dim]not run[/]"
    if not seen:
        return "[dim]-[/]" if expected is None else f"[red]nobody[/] [dim]{expected}[/]"
    colour = "green" if set(seen) == {expected} else "red"
    text = ", ".join(f"{version} x{count}" for version, count in sorted(seen.items()))
    return f"[{colour}]{text}[/]" + ("" if colour == "green" else f" [dim]{expected or 'nobody'}[/]")
