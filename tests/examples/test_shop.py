from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.shop.check import Hop, Report, Request, check
from examples.shop.plan import EXPECTED, SERVICES
from examples.shop.screen import show

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


def test_the_table_fits_into_80_columns() -> None:
    """No heading is cut where the terminal is 80 columns wide."""
    console = Console(file=io.StringIO(), width=80)
    show(console, check(*perfect()), {"kafka": "apache"}, {"baseline": {"baseline": 2}, "pr-42": {"baseline": 2, "pr-42": 1}})
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    assert all(heading in shown for heading in ("request", *SERVICES, "rows in"))
    assert max(map(len, shown.splitlines())) <= 80


def demo(*arguments: str, seconds: float = 110) -> tuple[int, dict[str, Any]]:
    done = run(*arguments, seconds=seconds)
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout)


def run(*arguments: str, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TENANCY_REQUIRE_SERVICES"}
    command = [sys.executable, "-m", "examples.shop", "--json", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


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
    assert report["seen"] == {
        "baseline": {"baseline": 10},
        "pr-42": {"baseline": 10, "pr-42": 5},
        "pr-77": {"baseline": 10, "pr-77": 5},
    }


@pytest.mark.service
def test_the_demo_runs_without_servers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mock takes Kafka's place, SQLite PostgreSQL's, RabbitMQ is skipped; what runs is still as planned, behind a proxy as well."""
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    status, report = demo("--of-each=5", "--without=kafka", "--without=rabbitmq", "--without=postgresql")
    assert status == 0
    assert report["legs"] == {"envoy": "envoy", "grpc": "grpc", "kafka": "mock", "rabbitmq": "skipped", "database": "sqlite"}
    assert (report["misrouted"], report["lost"], report["wrong_rows"]) == (0, 0, 0)


def test_a_demo_that_would_check_nothing_is_refused() -> None:
    """No requests, no verdict: success on nothing would fool whoever reads only the exit status."""
    done = run("--of-each=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--of-each: at least 1" in done.stderr


def test_a_given_server_that_refuses_is_named_without_a_traceback() -> None:
    """A database that does not let the demo in ends it with the database's own words, and standard output stays empty."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        patch.setenv("TENANCY_TEST_POSTGRESQL", f"postgresql://postgres@127.0.0.1:{port}/tenancy?connect_timeout=2")
        done = run("--without=kafka", "--without=rabbitmq")
    assert (done.returncode, done.stdout) == (1, "")
    assert "PostgreSQL does not create the shop's database" in done.stderr
    assert "examples/shop/" not in done.stderr


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
