"""Tests as a user of the plugin writes them; they run on the oldest pytest that the plugin supports, which the project's own do not."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tenancy
from tenancy.testing import Configure, Hops, MemoryRoutes


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/stock"
        server.shutdown()


@pytest.fixture
def instrumented() -> Iterator[None]:
    tenancy.instrument("urllib")
    yield
    tenancy.uninstrument()


@pytest.mark.tenancy_key("pr-7")
def test_the_marker() -> None:
    """The body of a marked test is the work of its key."""
    assert tenancy.routing_key() == "pr-7"


def test_the_scope(tenancy_scope: tenancy.RoutingKey) -> None:
    """The fixture makes its key current."""
    assert tenancy.routing_key() == tenancy_scope == "pr-42"


def test_routes_and_settings(tenancy_routes: MemoryRoutes, tenancy_settings: Configure) -> None:
    """A route table in memory is the one that the settings name."""
    tenancy_routes.fork("shop/orders", "pr-42")
    assert tenancy.settings().routes == tenancy_routes.url
    tenancy_settings(role="baseline")
    assert tenancy.settings().role == "baseline"


@pytest.mark.usefixtures("instrumented")
def test_a_hop_with_the_key(tenancy_scope: tenancy.RoutingKey, tenancy_hops: Hops, url: str) -> None:
    """An outbound request that says whose work it is is recorded."""
    urllib.request.urlopen(url, timeout=20).close()
    assert [hop.key for hop in tenancy_hops] == [tenancy_scope]


@pytest.mark.xfail(strict=True)
def test_a_hop_without_the_key(tenancy_scope: tenancy.RoutingKey, tenancy_hops: Hops, url: str) -> None:
    """A request of the baseline, sent in the middle of a key's work, fails the test although its body does not."""
    urllib.request.urlopen(url, timeout=20).close()
