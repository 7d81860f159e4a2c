"""
What goes through Envoy besides plain requests: WebSockets, server-sent events, gRPC, slow and large things.
"""

from __future__ import annotations

import http.client
import json
import queue
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from websockets.sync.client import connect

from tests.mesh.conftest import Mesh
from tests.mesh.wire import open_request, request

pytestmark = pytest.mark.service

KEY = ("baggage", "a=1,sd-routing-key=pr-42;p=1")
OWNERS = pytest.mark.parametrize(("headers", "owner"), [([], "baseline"), ([KEY], "pr-42")])
Headers = list[tuple[str, str]]


@OWNERS
def test_websocket(mesh: Mesh, headers: Headers, owner: str) -> None:
    """The upgrade passes, and the whole conversation is with the owner."""
    with connect(f"ws://127.0.0.1:{mesh.chat}/", additional_headers=headers, proxy=None) as chat:
        assert chat.recv(10) == owner
        for text in ("one", "x" * 200_000):
            chat.send(text)
            assert chat.recv(10) == f"{owner}: {text}"


def test_websocket_at_the_edge(mesh: Mesh) -> None:
    """An upgrade is stripped like any request."""
    with connect(f"ws://127.0.0.1:{mesh.chat_edge}/", additional_headers=[KEY], proxy=None) as chat:
        assert chat.recv(10) == "baseline"


@OWNERS
def test_server_sent_events_are_not_held_back(mesh: Mesh, headers: Headers, owner: str) -> None:
    """Each event arrives before the service has written the next one."""
    gate = mesh.web_servers[owner].next_event
    with open_request(mesh.web, headers, path="/events") as connection:
        data = b""
        for number in range(3):
            wanted = f"data: {owner} {number}\n\n".encode()
            while wanted not in data:
                chunk = connection.recv(4096)
                assert chunk, data
                data += chunk
            gate.release()
        while not data.endswith(b"0\r\n\r\n"):
            chunk = connection.recv(4096)
            assert chunk, data
            data += chunk
    assert data.count(b"data: ") == 3


def test_timeouts_are_the_workloads_own(mesh: Mesh) -> None:
    """A workload's limit holds where it has one, and there is none by default."""
    assert request(mesh.hasty, path="/sleep/1.5").status == 504
    assert request(mesh.web, path="/sleep/1.5").served_by == "baseline"


def test_silent_streams_end_after_the_idle_timeout(mesh: Mesh) -> None:
    """A stream that says nothing for longer than the workload's idle timeout is closed, without its last chunk."""
    with open_request(mesh.hasty, [], path="/events") as connection:
        started = time.monotonic()
        data = b""
        while chunk := connection.recv(4096):
            data += chunk
    assert time.monotonic() - started < 10
    assert not data.endswith(b"0\r\n\r\n")


def test_a_fork_that_is_down_is_an_error(mesh: Mesh) -> None:
    """The fork owns the request: nobody else may answer it."""
    assert request(mesh.web, [("baggage", "sd-routing-key=pr-down")]).status == 503


def test_large_bodies_and_reused_connections(mesh: Mesh) -> None:
    """Bodies pass whole, and on one connection each request has its own owner."""
    connection = http.client.HTTPConnection("127.0.0.1", mesh.web, timeout=30)
    body = b"x" * 4_000_000
    for headers, owner in [
        ({}, "baseline"),
        (dict([KEY]), "pr-42"),
        ({}, "baseline"),
        ({"baggage": "sd-routing-key=pr-7"}, "pr-7"),
    ]:
        connection.request("POST", "/upload", body, headers)
        answer = json.loads(connection.getresponse().read())
        assert (answer["served_by"], answer["received"]) == (owner, len(body))
    connection.close()


def test_other_peoples_headers_are_left_alone(mesh: Mesh) -> None:
    """The proxy adds the plain header and the scheme, and takes nothing away."""
    connection = http.client.HTTPConnection("127.0.0.1", mesh.web, timeout=30)
    sent = {
        "Host": "shop.example",
        "User-Agent": "me",
        "X-Request-Id": "7",
        "Server": "s",
        "Cookie": "a=b",
        "X_y": "1",
        "TE": "trailers",
    }
    connection.request("GET", "/", headers={**sent, **dict([KEY])})
    answer = connection.getresponse()
    through: dict[str, str] = dict(json.loads(answer.read())["headers"])
    connection.close()
    assert answer.headers["server"] == "echo"
    assert {name: value for name, value in answer.headers.items() if name.startswith("x-envoy")} == {}
    added = set(through) - {name.lower() for name in sent} - {"baggage", "accept-encoding"}
    assert added == {"x-forwarded-proto", "x-sd-routing-key"}
    assert {name: through.get(name.lower()) for name in sent} == sent


@pytest.fixture
def stock(mesh: Mesh) -> Iterator[grpc.Channel]:
    with _channel(mesh.stock) as channel:
        yield channel


def _channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    )


def _unary(channel: grpc.Channel, request: bytes, metadata: Headers) -> dict[str, Any]:
    call = channel.unary_unary("/shop.Stock/Unary")
    answer: dict[str, Any] = json.loads(call(request, metadata=metadata, timeout=20))
    return answer


@OWNERS
def test_grpc_unary(stock: grpc.Channel, headers: Headers, owner: str) -> None:
    """Each call on one channel goes to its own owner, large messages too."""
    for size in (0, 5_000_000):
        answer = _unary(stock, b"x" * size, headers)
        assert (answer["served_by"], answer["received"]) == (owner, size)
        told = [value for name, value in answer["headers"] if name == "x-sd-routing-key"]
        assert told == (["pr-42"] if headers else [])
    assert _unary(stock, b"", [])["served_by"] == "baseline"


def test_grpc_hostile_metadata(stock: grpc.Channel, mesh: Mesh) -> None:
    """Repeated metadata and spoofed headers are read as over HTTP/1.1; the edge strips both."""
    assert _unary(stock, b"", [("baggage", "sd-routing-key=pr-7"), KEY])["served_by"] == "pr-42"
    assert _unary(stock, b"", [("x-sd-routing-key", "pr-42")])["served_by"] == "baseline"
    with _channel(mesh.stock_edge) as edge:
        answer = _unary(edge, b"", [("baggage", "b=2"), KEY, ("x-sd-routing-key", "pr-42"), ("ot-baggage-sd-routing-key", "pr-42")])
    assert answer["served_by"] == "baseline"
    assert [header for header in answer["headers"] if "baggage" in header[0] or "routing" in header[0]] == [
        ["baggage", "b=2"],
        ["baggage", "a=1"],
    ]


@OWNERS
def test_grpc_streams(stock: grpc.Channel, headers: Headers, owner: str) -> None:
    """Streams in one and in both directions; in both, each answer comes before the next question is asked."""
    down = stock.unary_stream("/shop.Stock/Down")(b"", metadata=headers, timeout=20)
    assert list(down) == [f"{owner} {number}".encode() for number in range(3)]
    questions: queue.Queue[bytes | None] = queue.Queue()
    both = stock.stream_stream("/shop.Stock/Both")(iter(questions.get, None), metadata=headers, timeout=20)
    for question in (b"one", b"two", b"three"):
        questions.put(question)
        assert next(both) == owner.encode() + b" " + question
    questions.put(None)
    assert list(both) == []
