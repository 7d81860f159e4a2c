"""
The judge of the demo: compares what was asked, what each service wrote into the ledger and what stands in the database with the plan. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .plan import DEMO, SERVICES, Plan

__all__ = ["Hop", "Report", "Request", "check"]


class Request(NamedTuple):
    """
    One request that was sent.

    Args:
        order: Its own order id.
        kind: The value of the routing key that it carried.
        status: The HTTP status that came back; 0 where none did.
    """

    order: str
    kind: str | None
    status: int


class Hop(NamedTuple):
    """
    One line of the ledger.

    Args:
        order: The order that was handled.
        service: Which service handled it.
        version: Which version of the service.
        key: The routing key that it saw.
    """

    order: str
    service: str
    version: str
    key: str | None


@dataclass
class Report:
    """
    What was found.

    Args:
        requests: How many requests were sent.
        misrouted: Hops that the wrong version served, or saw the wrong key, or served twice; and answers with the wrong status.
        lost: Hops that nobody served.
        wrong_rows: Rows that are missing, too many, or in the wrong partition.
        served: kind -> service -> version -> how often.
        partitions: kind -> table -> partition -> how many rows.
        places: Where the findings are: a service, ``rows in`` a table, or ``answer`` for what the caller was told -> how many.
        problems: The first findings, in words.
    """

    requests: int = 0
    misrouted: int = 0
    lost: int = 0
    wrong_rows: int = 0
    served: dict[str | None, dict[str, Counter[str]]] = field(default_factory=dict)
    partitions: dict[str | None, dict[str, Counter[str]]] = field(default_factory=dict)
    places: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """
        Whether nothing at all was wrong.
        """
        return not (self.misrouted or self.lost or self.wrong_rows)


def check(
    requests: Sequence[Request],
    hops: Iterable[Hop],
    rows: Mapping[str, Iterable[tuple[str, str]]],
    *,
    services: Sequence[str] = SERVICES,
    plan: Plan = DEMO,
) -> Report:
    """
    Check every request against the plan.

    Args:
        requests: All that were sent.
        hops: The whole ledger.
        rows: For each table, the pairs of order and partition that stand in it.
        services: The services that run; the plan of the others is not looked at. What stands behind a dot is part of one: the hop
            ``pricing.thread`` must meet what ``pricing`` must meet.
        plan: What must happen.
    """
    report = Report(requests=len(requests))
    handled: dict[tuple[str, str], list[Hop]] = defaultdict(list)
    for hop in hops:
        handled[hop.order, hop.service].append(hop)
    written: dict[tuple[str, str], list[str]] = defaultdict(list)
    for table, pairs in rows.items():
        for order, partition in pairs:
            written[order, table].append(partition)
    for request in requests:
        expected = plan.expected[request.kind]
        if request.status != expected.status:
            _note(report, "misrouted", "answer", f"{request.order}: HTTP {request.status} instead of {expected.status}")
        key = request.kind if request.kind in plan.routes else None
        for service in services:
            seen = handled.pop((request.order, service), [])
            _check_hop(report, request, service, seen, getattr(expected, service.partition(".")[0]), key)
        for table in rows:
            partitions = written.pop((request.order, table), [])
            report.partitions.setdefault(request.kind, {}).setdefault(table, Counter()).update(partitions)
            wanted = [expected.partition] if expected.partition else []
            if partitions != wanted:
                found = f"in {table} {partitions or 'no row'} instead of {wanted or 'no row'}"
                _note(report, "wrong_rows", f"rows in {table}", f"{request.order}: {found}")
    for order, service in handled:
        _note(report, "misrouted", service, f"{order}: {service} handled an order that nobody sent")
    for order, table in written:
        _note(report, "wrong_rows", f"rows in {table}", f"{order}: {table} has a row of an order that nobody sent")
    return report


def _check_hop(report: Report, request: Request, service: str, seen: list[Hop], expected: str | None, key: str | None) -> None:
    report.served.setdefault(request.kind, {}).setdefault(service, Counter()).update(hop.version for hop in seen)
    right = 0
    for hop in seen:
        if hop.version != expected:
            found = f"was served by {hop.version}, which saw the key {hop.key}, instead of {expected or 'nobody'}"
            _note(report, "misrouted", service, f"{request.order}: {service} {found}")
        elif hop.key != key:
            _note(report, "misrouted", service, f"{request.order}: {service} saw the key {hop.key} instead of {key}")
        else:
            right += 1
            if right > 1:
                _note(report, "misrouted", service, f"{request.order}: {service} ({hop.version}) handled it {right} times")
    if expected is not None and not seen:
        _note(report, "lost", service, f"{request.order}: nobody handled it at {service}; {expected} should have")


def _note(report: Report, what: str, place: str, problem: str) -> None:
    setattr(report, what, getattr(report, what) + 1)
    report.places[place] += 1
    if len(report.problems) < 20:
        report.problems.append(f"{what}: {problem}")
