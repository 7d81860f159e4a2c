"""The service that was written from the README alone, as a baseline and as a fork, behind a mesh and on real servers."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread

import pytest
import sqlalchemy
from confluent_kafka.admin import AdminClient, NewTopic

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).parents[2] / "examples" / "readme" / "service.py"
STEPS = ("start", "grpc", "httpx", "requests", "ordered", "kafka", "rabbitmq", "fulfilled")
ROUTES = "version: 1\nworkloads: [shop/readme]\nroutes:\n  - {workload: shop/readme, key: pr-42, sandbox: pr-42}\n"
START = 120.0  # seconds until a process serves
FLOW = 180.0  # seconds until the last step of all requests
QUIET = 3.0  # seconds in which nothing more may happen

# What a request carries; its status; the key of every step, and the role that does it.
KINDS: dict[str, tuple[str | None, int, str | None, str]] = {
    "plain": (None, 200, None, "baseline"),
    "keyed": ("user=ann,sd-routing-key=pr-42", 200, "pr-42", "pr-42"),
    "unknown": ("user=ann,sd-routing-key=pr-99", 200, None, "baseline"),
    "malformed": ("sd-routing-key=PR_42", 400, None, "baseline"),
}


@dataclass
class Mesh:
    """Sends a request with the fork's key to the fork, and every other one to the baseline."""

    url: str
    ports: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)  # path and baggage of each request


@contextmanager
def start_mesh() -> Iterator[Mesh]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            baggage = ",".join(self.headers.get_all("baggage", []))
            mesh.seen.append((self.path, baggage))
            role = "pr-42" if re.search(r"(^|,)\s*sd-routing-key=pr-42\s*([,;]|$)", baggage) else "baseline"
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            connection = HTTPConnection("127.0.0.1", mesh.ports[role], timeout=FLOW)
            try:
                connection.request("POST", self.path, body, self.headers)
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
            self.send_response(response.status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mesh = Mesh(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield mesh
        finally:
            server.shutdown()
            thread.join()


def post(url: str, baggage: str | None) -> tuple[int, str]:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=FLOW)
    try:
        connection.request("POST", f"/{path}", headers={"baggage": baggage} if baggage else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def serves(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_service(log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves; it is stopped in any case."""
    with log.open("wb") as output, subprocess.Popen([sys.executable, PROGRAM], env=env, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: process.poll() is not None or serves(int(env["PORT"])), START)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns at the deadline as well: what is then missing, the assertions behind it show."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def read_steps(path: Path) -> list[tuple[str, str, str, str | None]]:
    text = path.read_text() if path.exists() else ""
    return [(step["id"], step["step"], step["role"], step["key"]) for step in map(json.loads, text.splitlines())]


def tails(logs: list[Path]) -> str:
    return "\n".join(f"{log.name}:\n{log.read_text()[-4000:]}" for log in logs)


def test_every_step_has_one_owner_and_the_right_key(
    kafka: str, rabbitmq: str, postgresql: str, unique: str, tmp_path: Path
) -> None:
    """Every step of every request is done once, by whom its key says and under that key, and its rows are that key's."""
    engine = sqlalchemy.create_engine(re.sub(r"^postgres(ql)?:", "postgresql+psycopg:", postgresql))
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(unique, 2, 1)])[unique].result(60)
    routes, steps_file = tmp_path / "routes.yaml", tmp_path / "steps.jsonl"
    routes.write_text(ROUTES)
    with ExitStack() as stack:
        mesh = stack.enter_context(start_mesh())
        shared = {name: value for name, value in os.environ.items() if not name.startswith(("TENANCY_", "SIGNADOT_", "OTEL_"))} | {
            "NAME": unique,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "AMQP_URL": rabbitmq,
            "DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "PEER_URL": mesh.url,
            "STEPS_FILE": str(steps_file),
            "TENANCY_WORKLOAD": "shop/readme",
            "TENANCY_ROUTES": f"file://{routes}",
        }
        logs = []
        for role, who in (("baseline", {"TENANCY_ROLE": "baseline"}), ("pr-42", {"TENANCY_SANDBOX": "pr-42"})):
            mesh.ports[role] = free_port()
            logs.append(tmp_path / f"{role}.log")
            stack.enter_context(run_service(logs[-1], shared | who | {"PORT": str(mesh.ports[role])}))

        sent = [(f"{kind}-{number}", kind) for number in range(6) for kind in KINDS]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda one: post(f"{mesh.url}/start/{one[0]}", KINDS[one[1]][0]), sent))
        statuses = [(order, status) for (order, _), (status, _) in zip(sent, answers, strict=True)]
        assert statuses == [(order, KINDS[kind][1]) for order, kind in sent], tails(logs)

        served = [(order, KINDS[kind]) for order, kind in sent if KINDS[kind][1] == 200]
        expected = [(order, step, role, key) for order, (_, _, key, role) in served for step in STEPS]
        wait_until(lambda: len(read_steps(steps_file)) >= len(expected), FLOW)
        time.sleep(QUIET)
        seen, due = Counter(read_steps(steps_file)), Counter(expected)
        assert seen == due, f"missing: {due - seen}\nsurplus: {seen - due}\n{tails(logs)}"

    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(f'SELECT id, step, tenant FROM "{unique}"')).all()
        connection.execute(sqlalchemy.text(f'DROP TABLE "{unique}"'))
        connection.commit()
    engine.dispose()
    assert Counter(map(tuple, rows)) == Counter(
        (order, step, key or "baseline") for order, (_, _, key, _) in served for step in ("ordered", "fulfilled")
    )

    between = [baggage for path, baggage in mesh.seen if path.startswith("/next/")]
    assert len(between) == 2 * len(served)
    assert sum(baggage.count("sd-routing-key") for baggage in between) == 2 * sum(key is not None for _, (_, _, key, _) in served)
    assert not any("pr-99" in baggage for baggage in between)
