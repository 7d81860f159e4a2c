"""
One run of the crowd: the shop is started, everything is sent, and every trace of it is compared with the plan.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from examples.shop.check import Hop, Report, Request
from examples.shop.plan import BASELINE
from examples.shop.runner import Shop, Worker
from tests.services import variable
from tests.services.process import Process

from .clients import CALLERS, Answer, shared
from .plan import PARTS, PLAN, Orders
from .wire import Copy, drain, records, tap

__all__ = ["WORKERS", "Flight", "Outcome", "flight", "idle", "run", "wrong_answers", "wrong_copies"]

WORKERS = 2  # processes of each version of each service

_ROOT = Path(__file__).resolve().parents[3]


class Flight(NamedTuple):
    """
    How much was under way at the same time.

    Args:
        requests: The most requests.
        kinds: The most kinds of requests, and with that of keys.
        mixed: The share of requests that had one of another kind beside them when they began.
    """

    requests: int
    kinds: int
    mixed: float


@dataclass
class Outcome:
    """
    What came of a run.

    Args:
        report: What the shop's own judge found in ledgers and database.
        answers: What the callers were told, for each of them.
        copies: What went over the brokers.
        ledgers: What each process of the shop told.
        logs: What each of them printed at last, where it printed anything.
        sent: Seconds until the last answer.
        settled: Seconds until the last row.
    """

    report: Report
    answers: dict[str, list[Answer]]
    copies: dict[str, list[Copy]]
    ledgers: dict[Worker, list[Hop]]
    logs: dict[Worker, str]
    sent: float
    settled: float

    def findings(self, orders: Orders) -> list[str]:
        """
        Return everything that is wrong, in words; of what the shop's judge found, the first.

        Args:
            orders: What was to be sent.
        """
        answers = (answer for answers in self.answers.values() for answer in answers)
        return [*self.report.problems, *wrong_answers(orders, answers), *wrong_copies(orders, self.copies)]

    def summary(self) -> str:
        """
        Return the figures in one line.
        """
        answers = [answer for answers in self.answers.values() for answer in answers]
        hops = sum(map(len, self.ledgers.values()))
        copies = ", ".join(f"{len(copies)} messages in {where}" for where, copies in self.copies.items())
        rows = sum(sum(count.values()) for tables in self.report.partitions.values() for count in tables.values())
        found = f"{self.report.misrouted} misrouted, {self.report.lost} lost, {self.report.wrong_rows} wrong rows"
        callers = ", ".join(f"{caller} {len(answers)}" for caller, answers in self.answers.items())
        times = f"answered in {self.sent:.1f} s ({len(answers) / self.sent:.0f} a second), done in {self.settled:.1f} s"
        return f"{len(answers)} requests ({callers}), {hops} hops, {copies}, {rows} rows: {found}; {times}"


def run(orders: Orders, *, sabotage: str = "", say: Callable[[str], None] = print, deadline: float = 300.0) -> Outcome:
    """
    Send everything through a shop of its own, on the servers that the environment names.

    Args:
        orders: What to send.
        sabotage: What to break, by service: ``global:pricing,no-filter:notify``.
        say: Takes a line of progress.
        deadline: Seconds until the last answer.
    """
    kafka, rabbitmq = (os.environ[variable(name)] for name in ("kafka", "rabbitmq"))
    with Shop(sabotage, (), say, plan=PLAN, workers=WORKERS, module="tests.examples.crowd.worker") as shop:
        queue = asyncio.run(tap(rabbitmq, f"shop.fulfilled.{shop.id}"))
        began = time.monotonic()
        answers = _send(shop.front, orders, say, began + deadline)
        sent = time.monotonic() - began
        say(f"{sent:5.1f} s: all answered; waiting until everything is handled")
        requests = [Request(answer.order, answer.kind, answer.status) for each in answers.values() for answer in each]
        report = shop.settle(requests, deadline=15 if sabotage else 120, parts=PARTS)
        settled = time.monotonic() - began
        say(f"{settled:5.1f} s: settled; reading what the brokers have")
        copies = {"Kafka": records(kafka, f"shop-orders-{shop.id}"), "RabbitMQ": asyncio.run(drain(rabbitmq, queue))}
        ledgers = shop.ledgers()
        logs = {worker: tail for worker in ledgers if (tail := shop.tail(worker).strip())}
        return Outcome(report, answers, copies, ledgers, logs, sent, settled)


def _send(front: str, orders: Orders, say: Callable[[str], None], end: float) -> dict[str, list[Answer]]:
    began = time.monotonic()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TENANCY_", "SIGNADOT_", "OTEL_"))}
    variables |= {"PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenancy-crowd-")))
        processes = {}
        for caller, share in shared(orders).items():
            (place / f"{caller}.orders").write_text(json.dumps(share))
            log = stack.enter_context((place / f"{caller}.log").open("wb"))
            files = [str(place / f"{caller}.{what}") for what in ("orders", "answers")]
            command = [sys.executable, "-m", "tests.examples.crowd.clients", caller, front, *files]
            processes[caller] = Process(command, environment=variables, directory=_ROOT, log=log)
            stack.callback(processes[caller].stop, 5.0)
        told = began
        while any(process.exit_code is None for process in processes.values()):
            now = time.monotonic()
            if now - told > 5 or now > end:
                told = now
                answered = {caller: _lines(place / f"{caller}.answers") for caller in CALLERS}
                progress = ", ".join(f"{caller} {len(lines)}" for caller, lines in answered.items())
                say(f"{now - began:5.1f} s: {sum(map(len, answered.values()))} of {len(orders)} answered ({progress})")
                if now > end:
                    raise TimeoutError(f"{now - began:.0f} s were not enough: {progress} of {len(orders)} requests were answered")
            time.sleep(0.1)
        for caller, process in processes.items():
            if process.exit_code:
                log_text = (place / f"{caller}.log").read_text(errors="replace")
                raise RuntimeError(f"the caller over {caller} ended with {process.exit_code}:\n{log_text[-3000:]}")
        return {caller: [Answer(*json.loads(line)) for line in _lines(place / f"{caller}.answers")] for caller in CALLERS}


def _lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def wrong_answers(orders: Orders, answers: Iterable[Answer]) -> Iterator[str]:
    """
    Yield what is wrong with the answers: too many, too few, somebody else's, or of a version that the plan does not name.
    """
    left = Counter(orders)
    for answer in answers:
        left[answer.order, answer.kind] -= 1
        expected = PLAN.expected[answer.kind]
        if answer.status != expected.status:
            yield f"{answer.order}: HTTP {answer.status} instead of {expected.status}: {answer.text[:200]}"
        if answer.status != 200:
            continue
        who = ["shop/storefront", "baseline" if expected.storefront == BASELINE else f"sandbox={expected.storefront}"]
        if answer.kind in PLAN.routes:
            who.append(f"routing_key={answer.kind}")
        if answer.served_by.partition("; reason=")[0] != "; ".join(who):
            yield f"{answer.order}: served by {answer.served_by!r} instead of {'; '.join(who)!r}"
        body = json.dumps({"order": answer.order, "price": 100 + len(answer.order)}, separators=(",", ":"))
        if answer.text != body:
            yield f"{answer.order}: the answer is {answer.text!r} instead of {body!r}"
    for (order, _), missing in left.items():
        if missing:
            yield f"{order}: {1 - missing} answers instead of 1"


def wrong_copies(orders: Orders, copies: Mapping[str, Sequence[Copy]]) -> Iterator[str]:
    """
    Yield what is wrong with the messages: each broker must have one for each order that was taken, which carries its key and nothing else.
    """
    for where, found in copies.items():
        by_order: dict[str, list[list[tuple[str, str]]]] = {}
        for copy in found:
            by_order.setdefault(copy.order, []).append(copy.headers)
        for order, kind in orders:
            headers = [("baggage", f"sd-routing-key={kind}")] if kind in PLAN.routes else []
            wanted = [headers] if PLAN.expected[kind].status == 200 else []
            seen = by_order.pop(order, [])
            if seen != wanted:
                yield f"{order}: {where} has messages with the headers {seen} instead of {wanted}"
        for order in by_order:
            yield f"{order}: {where} has a message about an order that nobody sent"


def flight(answers: Iterable[Answer]) -> Flight:
    """
    Return how much was under way at the same time, as the callers saw it.
    """
    events = sorted(event for answer in answers for event in ((answer.began, 1, answer), (answer.ended, -1, answer)))
    under_way: Counter[str | None] = Counter()
    most_requests = most_kinds = 0
    mixed: set[str] = set()
    for _, step, answer in events:
        under_way[answer.kind] += step
        if not under_way[answer.kind]:
            del under_way[answer.kind]
        most_requests = max(most_requests, under_way.total())
        most_kinds = max(most_kinds, len(under_way))
        if len(under_way) > 1 and step > 0:
            mixed.add(answer.order)
    return Flight(most_requests, most_kinds, len(mixed) / max(1, len(events) // 2))


def idle(ledgers: Mapping[Worker, Sequence[Hop]]) -> Iterator[str]:
    """
    Yield which process of the shop had less than a fifth of its version's work, or never met one of the keys that are its version's.
    """
    own = {worker: [hop.key for hop in hops if hop.service == worker.service] for worker, hops in ledgers.items()}
    for worker, keys in own.items():
        everything = sum(len(others) for other, others in own.items() if other[:2] == worker[:2])
        if 5 * len(keys) < everything or not keys:
            yield f"{worker} handled only {len(keys)} of {everything}"
        met = {
            kind if kind in PLAN.routes else None
            for kind, expected in PLAN.expected.items()
            if getattr(expected, worker.service) == worker.version
        }
        if missing := met - set(keys):
            yield f"{worker} never met {', '.join(sorted(map(str, missing)))}"
