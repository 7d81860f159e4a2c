"""
Signadot's route server as a source: a real HTTP server that answers in the shapes that its API documents.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tenancy import ConfigurationError, RouteSourceError
from tenancy.routes import LiveRoutes, Route, open_routes
from tenancy.routes.sources.signadot import SignadotSource, open_source
from tests.routes.stores.contract import eventually
from tests.routes.stores.outages import silent_server


def rule(name: str, key: str, sandbox: str, kind: str = "Deployment") -> dict[str, Any]:
    """A routing rule, as the server gives it."""
    return {
        "routingKey": key,
        "baseline": {"kind": kind, "namespace": "shop", "name": name},
        "destinationSandbox": {"name": sandbox},
        "mappings": [{"workloadPort": 8080, "destinations": [{"host": "fork.shop.svc", "port": 8080}]}],
    }


class RouteServer(ThreadingHTTPServer):
    """
    The REST side of a route server.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body: bytes = b"{}"
        self.status, self.etags = 200, True
        self.asked: list[tuple[str, int, int]] = []  # path, status, bytes

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, *rules: dict[str, Any]) -> None:
        self.body = json.dumps({"routingRules": list(rules)} if rules else {}).encode()


class Handler(BaseHTTPRequestHandler):
    server: RouteServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body, status = self.server.body, self.server.status
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        if self.server.etags and status == 200 and self.headers.get("If-None-Match") == etag:
            body, status = b"", 304
        self.server.asked.append((self.path, status, len(body)))
        self.send_response(status)
        if self.server.etags:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[RouteServer]:
    with RouteServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_rules_are_routes(server: RouteServer) -> None:
    """Each rule is a route of its baseline workload; a route group leads one key to several sandboxes; declared workloads are known."""
    server.answer(
        rule("orders", "k1", "pr-42"),
        rule("notify", "k1", "team-a"),
        rule("orders", "k2", "team-a"),
        rule("orders", "k2", "team-a", kind="ArgoRollout"),
    )
    table = open_source(f"signadot+{server.address}?workload=shop/pricing&workload=shop/orders").read()
    assert sorted((route.workload, route.key, route.sandbox) for route in table) == [
        ("shop/notify", "k1", "team-a"),
        ("shop/orders", "k1", "pr-42"),
        ("shop/orders", "k2", "team-a"),
    ]
    assert table.workloads == {"shop/notify", "shop/orders", "shop/pricing"}
    assert table.lease is None
    assert server.asked == [("/api/v1/workloads/routing-rules", 200, len(server.body))]


def test_no_rules_are_no_routes(server: RouteServer) -> None:
    """What is empty is left out of the answer."""
    assert list(open_source(f"signadot+{server.address}/").read()) == []


def test_the_live_table_follows(server: RouteServer) -> None:
    """A change is seen; while nothing changes, nothing is sent."""
    server.answer(rule("orders", "k1", "pr-1"))
    routes = LiveRoutes(SignadotSource(server.address), interval=0.05)
    try:
        assert routes.wait_synced(5).keys() == {"k1"}
        time.sleep(0.3)
        assert [size for _, _, size in server.asked if size] == [len(server.body)]
        assert {status for _, status, _ in server.asked[1:]} == {304}
        server.answer(rule("orders", "k2", "pr-2"))
        eventually(lambda: list(routes.table) == [Route("shop/orders", "k2", "pr-2")])  # type: ignore[arg-type]
    finally:
        routes.close()


def test_a_server_without_etags(server: RouteServer) -> None:
    """Equal answers are no change, and others are."""
    server.etags = False
    server.answer(rule("orders", "k1", "pr-1"))
    source = SignadotSource(server.address)
    mark = source.mark()
    assert source.mark() == mark
    server.answer(rule("orders", "k2", "pr-1"))
    assert source.mark() != mark


def test_the_last_rules_stay_in_force(server: RouteServer) -> None:
    """A server that fails, answers something else or goes away changes nothing; what it says when it is back does."""
    server.answer(rule("orders", "k1", "pr-1"))
    routes = LiveRoutes(SignadotSource(server.address), interval=0.02)
    try:
        routes.wait_synced(5)
        server.status = 503
        eventually(lambda: "answered 503" in str(routes._error))
        server.status, server.body = 200, b"<html>"
        eventually(lambda: "not JSON" in str(routes._error))
        assert routes.table.keys() == {"k1"}
        server.answer()
        eventually(lambda: not routes.table.keys())
    finally:
        routes.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff", "not JSON"),
        (b"[]", "without a list routingRules"),
        (b'{"routingRules": {}}', "without a list routingRules"),
        (b'{"routingRules": [7]}', r"routingRules\[0\] has not the fields"),
        (json.dumps({"routingRules": [{**rule("orders", "k1", "pr-1"), "baseline": {}}]}).encode(), r"routingRules\[0\]"),
        (json.dumps({"routingRules": [rule("orders", "K 1", "pr-1")]}).encode(), "'K 1'"),
        (json.dumps({"routingRules": [rule("orders", "k1", "a"), rule("orders", "k1", "b")]}).encode(), "forked twice under k1"),
    ],
)
def test_an_answer_that_is_none(server: RouteServer, body: bytes, said: str) -> None:
    """It is told what is wrong with it, and where."""
    server.body = body
    with pytest.raises(RouteSourceError, match=said):
        SignadotSource(server.address).read()


def test_a_server_that_cannot_be_had() -> None:
    """Nobody listens, or nobody answers: told within the time-out."""
    with silent_server() as port:
        start = time.monotonic()
        with pytest.raises(RouteSourceError, match="cannot be reached: timed out"):
            SignadotSource(f"http://127.0.0.1:{port}").read()
        assert time.monotonic() - start < 2.6
    with pytest.raises(RouteSourceError, match="refused"):
        SignadotSource(f"http://127.0.0.1:{port}").mark()


@pytest.mark.parametrize(
    "url",
    [
        "signadot:",
        "signadot://routeserver:7778",
        "signadot+ftp://routeserver",
        "signadot+http:///x",
        "signadot+http://user:secret@routeserver",
        "signadot+http://routeserver?workload=orders",
        "signadot+http://routeserver?kind=Deployment",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """They are refused when the table is opened."""
    with pytest.raises(ConfigurationError, match=r"write signadot\+http://"):
        open_routes(url)


def test_a_scheme_is_found(server: RouteServer) -> None:
    """Settings name the server by its URL."""
    server.answer(rule("orders", "k1", "pr-1"))
    routes = open_routes(f"signadot+{server.address}?workload=shop/notify")
    assert routes.wait_synced(5).workloads == {"shop/notify", "shop/orders"}
    routes.close()
