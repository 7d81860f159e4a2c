from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from examples.shop.check import Hop, Report, Request, check
from examples.shop.plan import EXPECTED, SERVICES

ROOT = Path(__file__).resolve().parents[2]


def perfect() -> tuple[list[Request], list[Hop], dict[str, list[tuple[str, str]]]]:
    """One request of each kind, and everything as planned."""
    requests, hops = [], []
    rows: dict[str, list[tuple[str, str]]] = {"orders": [], "notifications": []}
    for number, (kind, expected) in enumerate(EXPECTED.items()):
        order = f"order-{number}"
        requests.append(Request(order, kind, expected.status))
        for service in SERVICES:
            version = getattr(expected, service)
            if version is not None:
                hops.append(Hop(order, service, version, kind if kind in ("pr-42", "pr-77") else None))
        if expected.partition:
            for table in rows.values():
                table.append((order, expected.partition))
    return requests, hops, rows


def counts(report: Report) -> tuple[int, int, int]:
    return report.misrouted, report.lost, report.wrong_rows


def test_the_judge_finds_nothing_where_all_is_well() -> None:
    """A perfect run is good."""
    report = check(*perfect())
    assert report.good
    assert report.requests == len(EXPECTED)


def test_the_judge_finds_each_fault() -> None:
    """A wrong version, a wrong key, a repeat, a loss, a wrong status, a wrong, missing, doubled or foreign row or hop: each is counted."""
    requests, hops, rows = perfect()
    assert counts(check(requests, [hops[0]._replace(version="pr-42"), *hops[1:]], rows)) == (1, 0, 0)
    assert counts(check(requests, [hops[0]._replace(key="pr-42"), *hops[1:]], rows)) == (1, 0, 0)
    assert counts(check(requests, [hops[0], *hops], rows)) == (1, 0, 0)
    assert counts(check(requests, hops[1:], rows)) == (0, 1, 0)
    assert counts(check([requests[0]._replace(status=502), *requests[1:]], hops, rows)) == (1, 0, 0)
    assert counts(check(requests, [*hops, Hop("nobody's", "orders", "baseline", None)], rows)) == (1, 0, 0)
    order, partition = rows["orders"][1]
    for wrong in ([], [(order, "baseline")], [(order, partition)] * 2, [(order, partition), ("nobody's", "baseline")]):
        broken = {**rows, "orders": [rows["orders"][0], *wrong, *rows["orders"][2:]]}
        assert counts(check(requests, hops, broken)) == (0, 0, 1), wrong


def demo(*arguments: str, seconds: float = 110) -> tuple[int, dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TENANCY_REQUIRE_SERVICES"}
    command = [sys.executable, "-m", "examples.shop", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.service
def test_the_demo_runs_on_real_servers(kafka: str, rabbitmq: str, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all servers every hop and row is as planned."""
    for name, address in (("KAFKA", kafka), ("RABBITMQ", rabbitmq), ("POSTGRESQL", postgresql)):
        monkeypatch.setenv(f"TENANCY_TEST_{name}", address)
    status, report = demo("--of-each=5")
    assert status == 0
    assert report["legs"] == {"envoy": "envoy", "grpc": "grpc", "kafka": "apache", "rabbitmq": "real", "database": "postgresql"}
    assert (report["requests"], report["misrouted"], report["lost"], report["wrong_rows"]) == (25, 0, 0, 0)
    assert report["hops"] == {
        "storefront": {"baseline": 15, "pr-77": 5},
        "pricing": {"baseline": 15, "pr-42": 5},
        "orders": {"baseline": 20},
        "fulfilment": {"baseline": 15, "pr-42": 5},
        "notify": {"baseline": 15, "pr-77": 5},
    }


@pytest.mark.service
def test_the_demo_runs_without_servers_and_says_so() -> None:
    """The mock takes Kafka's place, SQLite PostgreSQL's, RabbitMQ is skipped; what runs is still as planned."""
    status, report = demo("--of-each=5", "--without=kafka", "--without=rabbitmq", "--without=postgresql")
    assert status == 0
    assert report["legs"] == {"envoy": "envoy", "grpc": "grpc", "kafka": "mock", "rabbitmq": "skipped", "database": "sqlite"}
    assert (report["misrouted"], report["lost"], report["wrong_rows"]) == (0, 0, 0)


@pytest.mark.service
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_leaves_no_process(stop: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end everything that was started."""
    mark = f"SHOP_TEST_MARK={tmp_path}"
    environment = {**os.environ, "SHOP_TEST_MARK": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "examples.shop",
        "--without=kafka",
        "--without=rabbitmq",
        "--without=postgresql",
        "--of-each=1000",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sending"):
            break
    assert len(marked(mark)) > 5
    process.send_signal(stop)
    process.stderr.read()
    assert process.wait(30) in (130, 143)
    end = time.monotonic() + 10
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == []


def marked(mark: str) -> list[int]:
    """The processes that have the mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found
