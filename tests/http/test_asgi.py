from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tenancy
from tenancy import ConfigurationError, RoutesNotSyncedError
from tenancy.baggage import members
from tenancy.context import attached, with_key
from tenancy.http.asgi import TenancyMiddleware
from tenancy.http.httpx import AsyncTenancyTransport
from tenancy.propagator import current_codec
from tenancy.routes import LiveRoutes, RouteTable
from tenancy.routes.table import Route
from tenancy.testing import MemoryRoutes
from tests.http.servers import plain_client, recorder, respond, serving, through

Pairs = list[tuple[bytes, bytes]]


class Inner:
    """An application that remembers what it was given, and does a test's bidding."""

    def __init__(self, body: Callable[[Any], Any] = lambda scope: None, headers: Pairs | None = None) -> None:
        self.scopes: list[Any] = []
        self.keys: list[str | None] = []
        self.body = body
        self.headers = headers or []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.keys.append(tenancy.routing_key())
        self.body(scope)
        await respond(send, headers=self.headers)

    @property
    def seen(self) -> Pairs:
        return list(self.scopes[-1]["headers"])


def request(*headers: tuple[bytes, bytes], kind: str = "http", **more: Any) -> dict[str, Any]:
    return {"type": kind, "method": "GET", "path": "/", "headers": list(headers), **more}


async def call(app: Any, scope: Any, *messages: Any) -> list[Any]:
    sent: list[Any] = []
    waiting = list(messages or [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


KEY = (b"baggage", b"sd-routing-key=pr-42")


class Slow:
    """A route source that takes until a test lets it go on."""

    name = "the test's routes"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.reads = 0

    def read(self) -> RouteTable:
        self.reads += 1
        self.gate.wait(10)
        return RouteTable([Route("shop/orders", tenancy.RoutingKey("pr-42"), "pr-42")])

    def mark(self) -> object:
        return None


def routes(*keys: str, broken: bool = False) -> MemoryRoutes:
    table = MemoryRoutes({"shop/orders": keys})
    if broken:
        table.lose("No such file")
    return table


# What the application sees of the headers


async def test_clean_headers_are_handed_on_as_they_are() -> None:
    """Where the headers say just what was admitted, the application gets the same scope."""
    inner = Inner()
    for headers in (
        [],
        [(b"baggage", b"a=1")],
        [KEY],
        [(b"a", b"1"), (b"baggage", b"a=1;p=2,sd-routing-key=pr-42, b=2"), (b"tracestate", b"v=1")],
    ):
        scope = request(*headers)
        await call(TenancyMiddleware(inner), scope)
        assert inner.scopes[-1] is scope
        assert scope == request(*headers)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(b"baggage", b"a=1"), (b"baggage", b"sd-routing-key=pr-42")], [(b"baggage", b"sd-routing-key=pr-42,a=1")]),
        ([(b"baggage", b"sd-routing-key=pr-1,sd-routing-key=pr-42")], [(b"baggage", b"sd-routing-key=pr-42")]),
        ([(b"baggage", b"sd-routing-key=pr-42,a=1,sd-routing-key=pr-42")], [(b"baggage", b"sd-routing-key=pr-42,a=1")]),
        ([(b"baggage", b"sd-routing-key=pr-42;ttl=1")], [(b"baggage", b"sd-routing-key=pr-42")]),
        ([(b"baggage", b"sd%2Drouting-key=pr%2D42,a=%41")], [(b"baggage", b"sd-routing-key=pr-42,a=%41")]),
        ([(b"ot-baggage-sd-routing-key", b"pr-42")], [(b"baggage", b"sd-routing-key=pr-42")]),
        (
            [(b"tracestate", b"v=1,sd-routing-key=pr-42"), (b"x", b"1")],
            [(b"x", b"1"), (b"baggage", b"sd-routing-key=pr-42"), (b"tracestate", b"v=1")],
        ),
        ([(b"uberctx-sd-routing-key", b"pr-1"), KEY], [KEY]),
        (
            [(b"Baggage", b"sd-routing-key=pr-42"), (b"baggage", b"\xff\xfe=\x80")],
            [(b"baggage", b"sd-routing-key=pr-42,\xff\xfe=\x80")],
        ),
    ],
)
async def test_other_headers_become_one_entry(before: Pairs, after: Pairs) -> None:
    """Several lines, duplicates, properties, encodings and other dialects are one plain entry for the application, in a copy."""
    inner = Inner()
    scope = request(*before)
    await call(TenancyMiddleware(inner), scope)
    assert inner.seen == after
    assert inner.keys == ["pr-42"]
    assert scope == request(*before)


BYTES = st.binary(max_size=12).map(lambda value: value.replace(b",", b"").replace(b"\n", b""))
NAMES = st.sampled_from(
    [b"baggage", b"Baggage", b"tracestate", b"ot-baggage-sd-routing-key", b"uberctx-sd-routing-key", b"x-other", b"accept"]
)
OURS = st.sampled_from(
    [
        b"sd-routing-key=pr-42",
        b"sd-routing-key=PR_42",
        b" sd-routing-key = pr-7 ;p",
        b"sd%2drouting-key=pr-9",
        b"sd-routing-key=",
        b"sd-routing-key",
    ]
)
VALUES = st.lists(BYTES | OURS | st.sampled_from([b"a=1", b"b=2;p=3", b" c = 4 "]), max_size=5).map(b",".join)


@given(st.lists(st.tuples(NAMES, VALUES | st.just(b"pr-42")), max_size=6), st.sampled_from(["all", "none", "function"]))
def test_any_headers(headers: Pairs, accept: Any) -> None:
    """Whatever comes, the application reads from its headers just the key that is current, and every other byte is as it was."""
    inner = Inner()
    chosen = (lambda key: key == "pr-42") if accept == "function" else accept
    scope = request(*headers)
    asyncio.run(call(TenancyMiddleware(inner, accept=chosen, on_malformed="ignore"), scope))
    assert scope["headers"] == headers
    reading = current_codec().read(inner.seen)
    assert (reading.key, reading.malformed, reading.conflict) == (inner.keys[0], None, False)
    carriers = {b"baggage", b"tracestate", b"ot-baggage-sd-routing-key", b"uberctx-sd-routing-key"}

    def others(found: Pairs) -> list[Any]:
        return [pair for pair in found if pair[0].lower() not in carriers]

    def joined(found: Pairs, name: bytes) -> str:
        value = b",".join(value for header, value in found if header.lower() == name).decode("latin-1")
        kept = members(value, without=("sd-routing-key",), decode=name == b"baggage")
        if any(b"\\" in value for _, value in headers):
            # Of these OpenTelemetry would undo the escapes, and read what is not there.
            kept = [member for member in kept if member.isascii()]
        return ",".join(kept).strip(" \t")  # no header begins or ends with white space

    assert others(inner.seen) == others(headers)
    assert joined(inner.seen, b"baggage") == joined(headers, b"baggage")
    assert joined(inner.seen, b"tracestate") == joined(headers, b"tracestate")
    if inner.keys[0] is not None:
        assert (
            sum(value.count(b"sd-routing-key=" + inner.keys[0].encode()) for name, value in inner.seen if name.lower() in carriers)
            == 1
        )


async def test_headers_may_be_any_iterable() -> None:
    """The specification promises no list."""
    inner = Inner()
    await call(TenancyMiddleware(inner), {**request(), "headers": iter([(b"x", b"1"), KEY])})
    assert inner.keys == ["pr-42"]
    assert inner.seen == [(b"x", b"1"), KEY]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_nothing_ambient_has_a_say(kind: str) -> None:
    """A request without a key has none, whatever was current where it was served, and other people's baggage stays."""
    inner = Inner(lambda scope: injected.append(tenancy.inject({})))
    injected: list[dict[str, str]] = []
    ambient = baggage.set_baggage("user", "1", baggage.set_baggage("sd-routing-key", "PR_99"))
    for context in (with_key(tenancy.RoutingKey("pr-99")), ambient):
        with attached(context):
            await call(TenancyMiddleware(inner), request(kind=kind))
            assert otel.get_current() is context
    assert inner.keys == [None, None]
    assert injected == [{}, {}]


@pytest.mark.parametrize("field", ["header:ot-baggage-sd-routing-key", "tracestate:sd-routing-key", "baggage:okteto-divert"])
async def test_what_is_inside_reads_baggage(field: str) -> None:
    """Whichever dialect is written on the way out, instrumentation inside of the middleware finds the key where it looks for it."""
    tenancy.configure(read="signadot,okteto", write=field)
    inner = Inner()
    app = TenancyMiddleware(OpenTelemetryMiddleware(inner, tracer_provider=TracerProvider()))
    for header in ("baggage", "ot-baggage-sd-routing-key"):
        await through(app, [(header, "sd-routing-key=pr-42" if header == "baggage" else "pr-42")])
    await through(app, [("baggage", "okteto-divert=pr-42")])
    assert inner.keys == ["pr-42"] * 3


async def test_what_the_application_puts_into_the_scope_is_seen_outside() -> None:
    """A copy of the scope does not hide the matched route from middleware further out."""
    scope = request((b"ot-baggage-sd-routing-key", b"pr-42"), path="/api/items", root_path="")
    await call(TenancyMiddleware(Inner(lambda inner: inner.update(route="/items", root_path="/api"))), scope)
    assert scope == {
        **request((b"ot-baggage-sd-routing-key", b"pr-42")),
        "path": "/api/items",
        "route": "/items",
        "root_path": "/api",
    }


# Which keys are accepted


@pytest.mark.parametrize(
    ("accept", "with_table", "accepted"),
    [
        (None, False, {"pr-1", "pr-2"}),
        (None, True, {"pr-1"}),
        ("known", True, {"pr-1"}),
        ("all", True, {"pr-1", "pr-2"}),
        ("none", True, set()),
        ("none", False, set()),
        (lambda key: key.endswith("2"), True, {"pr-2"}),
    ],
)
async def test_accept(accept: Any, with_table: bool, accepted: set[str]) -> None:
    """A key that is not accepted is neither current nor in the headers; the request is served as the baseline's."""
    inner = Inner()
    app = TenancyMiddleware(inner, accept=accept, routes=routes("pr-1") if with_table else None)
    for key in ("pr-1", "pr-2"):
        sent = await call(
            app, request((b"baggage", f"a=1,sd-routing-key={key}".encode()), (b"ot-baggage-sd-routing-key", key.encode()))
        )
        assert sent[0]["status"] == 200
        expected = key if key in accepted else None
        assert inner.keys[-1] == expected
        assert inner.seen == [(b"baggage", f"sd-routing-key={key},a=1".encode() if expected else b"a=1")]


async def test_accept_by_setting(tmp_path: Path) -> None:
    """The environment says what is accepted, an argument says it louder."""
    tenancy.configure(accept="none")
    inner = Inner()
    await call(TenancyMiddleware(inner), request(KEY))
    await call(TenancyMiddleware(inner, accept="all"), request(KEY))
    assert inner.keys == [None, "pr-42"]
    with pytest.raises(ConfigurationError, match="TENANCY_ROUTES"):
        TenancyMiddleware(inner, accept="known")


@pytest.mark.parametrize("header", [b"sd-routing-key=pr-2", b"a=1,sd-routing-key=PR_2"])
@pytest.mark.parametrize("order", ["outside", "inside", "none"])
async def test_a_refused_key_travels_no_further(order: str, header: bytes) -> None:
    """Nothing that the application sends on has it: neither what OpenTelemetry injects, nor headers that it forwards as they came."""
    injected: list[dict[str, str]] = []
    forwarded: list[Any] = []

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        injected.append(carrier)
        async with httpx.AsyncClient(transport=AsyncTenancyTransport(httpx.ASGITransport(recorder))) as client:
            forwarded.append(
                (await client.get("http://orders/", headers=[pair for pair in scope["headers"] if pair[0] != b"host"])).json()
            )
        await respond(send)

    def refusing(app: Any) -> Any:
        return TenancyMiddleware(app, accept="none", on_malformed="ignore")

    app: Any = {
        "outside": lambda: OpenTelemetryMiddleware(refusing(gateway), tracer_provider=TracerProvider()),
        "inside": lambda: refusing(OpenTelemetryMiddleware(gateway, tracer_provider=TracerProvider())),
        "none": lambda: refusing(gateway),
    }[order]()
    response = await through(app, [("baggage", header.decode()), ("uberctx-sd-routing-key", "pr-2")])
    assert response.status_code == 200
    assert "pr-2" not in json.dumps([injected, forwarded]).lower().replace("pr_2", "pr-2")


# Malformed keys


@pytest.mark.parametrize(
    ("headers", "place", "shown"),
    [
        ([("baggage", "sd-routing-key=PR_42")], "member 'sd-routing-key' of the header 'baggage'", "'PR_42'"),
        ([("ot-baggage-sd-routing-key", "PR_42")], "header 'ot-baggage-sd-routing-key'", "'PR_42'"),
        ([("tracestate", "sd-routing-key=PR_42")], "member 'sd-routing-key' of the header 'tracestate'", "'PR_42'"),
        ([("baggage", "a=1"), ("uberctx-sd-routing-key", "none")], "header 'uberctx-sd-routing-key'", "'none'"),
        ([("baggage", "sd-routing-key=<script>alert(1)</script>")], "header 'baggage'", r"'\x3cscript>"),
        ([("baggage", "sd-routing-key=%1B[31m%0d%0aX: y")], "header 'baggage'", r"'\x1b[31m\r\nX: y'"),
        ([("baggage", "sd-routing-key=" + "x" * 500)], "header 'baggage'", "'" + "x" * 64 + "'"),
        ([("baggage", "sd-routing-key=%C3%A9")], "header 'baggage'", r"'\xe9'"),
    ],
)
async def test_a_malformed_key_is_rejected(headers: list[tuple[str, str]], place: str, shown: str) -> None:
    """The caller gets 400 and a text with the place, the value and the grammar; nothing of it is raw, and the application never runs."""
    inner = Inner()
    response = await through(TenancyMiddleware(inner), headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert place in response.text
    assert shown in response.text
    assert "a-z, 0-9 and '-'" in response.text
    assert "baseline" in response.text
    assert "<" not in response.text
    assert response.text.isascii()
    assert response.text.strip().isprintable()
    assert inner.scopes == []


async def test_a_malformed_key_may_be_ignored() -> None:
    """By argument the request is served without a key, and the application does not see it."""
    inner = Inner()
    with tenancy.scope("pr-99"):
        sent = await call(TenancyMiddleware(inner, on_malformed="ignore"), request((b"baggage", b"a=1,sd-routing-key=PR_42,b=2")))
    assert sent[0]["status"] == 200
    assert inner.keys == [None]
    assert inner.seen == [(b"baggage", b"a=1,b=2")]


async def test_malformed_keys_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first one is a warning."""
    app = TenancyMiddleware(Inner())
    for _ in range(3):
        await call(app, request((b"baggage", b"sd-routing-key=PR_42")))
    assert [record.getMessage().count("'PR_42'") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("headers", "synced", "status", "code"), [([(b"baggage", b"sd-routing-key=PR_42")], True, 400, 1008), ([KEY], False, 503, 1013)]
)
async def test_a_handshake_is_refused(headers: Pairs, synced: bool, status: int, code: int) -> None:
    """A WebSocket is answered with a response where the server can do that, else closed before it is accepted."""
    tenancy.configure(routes_deadline=0.05)
    app = TenancyMiddleware(Inner(), routes=routes(broken=not synced))
    scope = request(*headers, kind="websocket", extensions={"websocket.http.response": {}})
    start, body = await call(app, scope, {"type": "websocket.connect"})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert (body["type"], len(body["body"])) == ("websocket.http.response.body", int(dict(start["headers"])[b"content-length"]))
    (closed,) = await call(app, request(*headers, kind="websocket"), {"type": "websocket.connect"})
    assert (closed["type"], closed["code"]) == ("websocket.close", code)


# Responses


async def test_responses_to_keyed_requests_are_private() -> None:
    """A shared cache must not keep them; by argument or setting nothing is added; other responses stay as they are."""
    cacheable: Pairs = [(b"cache-control", b"public, max-age=60"), (b"vary", b"accept")]
    kept = (cacheable, [(b"cache-control", b"private, max-age=60"), (b"vary", b"accept, baggage")])
    inner = Inner(headers=cacheable)

    async def headers(app: Any, *sent: tuple[bytes, bytes]) -> Pairs:
        return [pair for pair in (await call(app, request(*sent)))[0]["headers"] if pair[0] in (b"cache-control", b"vary")]

    assert await headers(TenancyMiddleware(inner), KEY) == kept[1]
    assert await headers(TenancyMiddleware(inner)) == kept[0]
    assert await headers(TenancyMiddleware(inner, accept="none"), KEY) == kept[0]
    assert await headers(TenancyMiddleware(inner, cache_headers=False), KEY) == kept[0]
    tenancy.configure(cache_headers=False)
    assert await headers(TenancyMiddleware(inner), KEY) == kept[0]
    assert await headers(TenancyMiddleware(inner, cache_headers=True), KEY) == kept[1]
    assert cacheable == kept[0]


async def test_the_messages_of_the_application_are_not_changed() -> None:
    """What is sent is a copy, and messages that are no start of a response are the same objects."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]}
    body = {"type": "http.response.body", "body": b""}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send(body)

    sent = await call(TenancyMiddleware(app), request(KEY))
    assert start["headers"] == [(b"a", b"1")]
    assert sent[0]["headers"][0] == (b"a", b"1")
    assert sent[1] is body
    sent = await call(TenancyMiddleware(app), request())
    assert sent[0] is start


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([], 'shop/orders; baseline; reason="no routing key, so it is the baseline\'s"'),
        ([KEY], 'shop/orders; baseline; routing_key=pr-42; reason="pr-42 forks shop/orders in sandbox pr-42, not the baseline"'),
        (
            [(b"baggage", b"sd-routing-key=pr-7")],
            'shop/orders; baseline; reason="pr-7 is not accepted: the route table does not know it"',
        ),
    ],
)
async def test_a_header_tells_who_served(headers: Pairs, said: str) -> None:
    """By argument or setting each response names the workload, the sandbox or the baseline, and the reason."""
    tenancy.configure(workload="shop/orders", role="baseline", response_header="X-Tenancy-Served-By")
    app = TenancyMiddleware(Inner(), routes=routes("pr-42"))
    sent = await call(app, request(*headers))
    assert (b"x-tenancy-served-by", said.encode()) in sent[0]["headers"]
    sent = await call(TenancyMiddleware(Inner(), routes=routes("pr-42"), response_header="x-who"), request(*headers))
    assert dict(sent[0]["headers"])[b"x-who"] == said.encode()


async def test_the_header_without_a_table_and_on_a_websocket() -> None:
    """Where it is not said who this process is, the reason alone is told; an accepted WebSocket tells it, too."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    sent = await call(TenancyMiddleware(app, response_header="x-who"), request(KEY, kind="websocket"))
    assert sent == [
        {"type": "websocket.accept", "headers": [(b"x-who", b'unknown; routing_key=pr-42; reason="pr-42: every key is accepted"')]}
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"response_header": "a b"}, "TENANCY_RESPONSE_HEADER"),
        ({"on_malformed": "drop"}, "on_malformed"),
        ({"accept": "some"}, "accept"),
    ],
)
def test_arguments_are_checked(arguments: Any, named: str) -> None:
    """A wrong one raises when the application is put together."""
    with pytest.raises(ConfigurationError, match=named):
        TenancyMiddleware(Inner(), **arguments)


# The route table


async def lifespan(app: Any) -> tuple[list[Any], list[Any]]:
    received: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        await send({"type": "lifespan.startup.complete"})
        received.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})

    sent = await call(app(inner), {"type": "lifespan", "state": {}}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    return [message["type"] for message in received], sent


async def test_a_start_waits_for_the_table() -> None:
    """The application starts after the table was read, and sees every message of its lifespan."""
    table = routes("pr-42")
    received, sent = await lifespan(lambda inner: TenancyMiddleware(inner, routes=table))
    assert table.peek() is not None
    assert received == ["lifespan.startup", "lifespan.shutdown"]
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    received, _ = await lifespan(TenancyMiddleware)
    assert received == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_start_without_a_table_fails() -> None:
    """The server is told why, and the application never starts."""
    tenancy.configure(routes_deadline=0.05)
    received, sent = await lifespan(lambda inner: TenancyMiddleware(inner, routes=routes(broken=True)))
    assert received == []
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "No such file" in sent[0]["message"]
    assert "TENANCY_ROUTES" in sent[0]["message"]


async def test_under_a_real_server() -> None:
    """Its start fails where the table cannot be read; without lifespan it starts, and requests with a key are answered with 503."""
    tenancy.configure(routes_deadline=0.05)
    app = TenancyMiddleware(Inner(), routes=routes(broken=True))
    with pytest.raises(RuntimeError, match="did not start"), serving(app, lifespan="on"):
        pass
    with serving(app, lifespan="off") as url:
        async with plain_client() as client:
            assert (await client.get(url)).status_code == 200
            assert (await client.get(url, headers={"baggage": "sd-routing-key=pr-42"})).status_code == 503


async def test_a_workload_that_the_table_does_not_know_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The application serves whatever arrives, so it starts, with a warning."""
    tenancy.configure(workload="shop/order", role="baseline")
    received, _ = await lifespan(lambda inner: TenancyMiddleware(inner, routes=routes("pr-42")))
    assert received
    assert "did you mean shop/orders" in caplog.text


async def test_an_application_without_lifespan_stays_one() -> None:
    """Its exception is what tells the server."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    with pytest.raises(AssertionError):
        await call(TenancyMiddleware(inner, routes=routes("pr-42")), {"type": "lifespan"}, {"type": "lifespan.startup"})


async def test_without_a_table_keyed_requests_fail_and_others_do_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    """A keyed request is answered with 503 and a clear text, never served as the baseline's; one without a key is served at once."""
    tenancy.configure(routes_deadline=0.3)
    table = routes("pr-42", broken=True)
    inner = Inner()
    app = TenancyMiddleware(inner, routes=table)
    keyed = [asyncio.create_task(call(app, request(KEY))) for _ in range(50)]
    await asyncio.sleep(0.05)
    start = time.monotonic()
    for headers in ([], [(b"baggage", b"a=1")]):
        assert (await call(app, request(*headers)))[0]["status"] == 200
    assert await asyncio.to_thread(lambda: "the pool of threads has room") is not None
    assert time.monotonic() - start < 0.2
    for sent in await asyncio.gather(*keyed):
        assert sent[0]["status"] == 503
        assert b"route table" in sent[1]["body"]
        assert b"No such file" not in sent[1]["body"]
    assert inner.keys == [None, None]
    assert "No such file" in caplog.text
    table.restore()
    assert (await call(app, request(KEY)))[0]["status"] == 200
    assert inner.keys[-1] == "pr-42"


@pytest.mark.parametrize("accept", ["all", lambda key: True])
async def test_the_table_is_awaited_whatever_is_accepted(accept: Any) -> None:
    """Where there is a route source nothing with a key is decided before it was read."""
    tenancy.configure(routes_deadline=0.05)
    app = TenancyMiddleware(Inner(), accept=accept, routes=routes(broken=True))
    assert (await call(app, request(KEY)))[0]["status"] == 503
    assert (await call(TenancyMiddleware(Inner(), accept="none", routes=routes(broken=True)), request(KEY)))[0]["status"] == 200


async def test_a_slow_source_blocks_nobody() -> None:
    """While the table is being read the event loop goes on, and a caller who leaves does not end the reading for the others."""
    tenancy.configure(workload="shop/orders", role="baseline")
    source = Slow()
    app = TenancyMiddleware(Inner(), routes=LiveRoutes(source))
    impatient = asyncio.create_task(call(app, request(KEY)))
    patient = asyncio.create_task(call(app, request(KEY)))
    await asyncio.sleep(0.02)
    for _ in range(20):
        assert (await asyncio.wait_for(call(app, request()), 1))[0]["status"] == 200
    impatient.cancel()
    await asyncio.sleep(0.02)
    source.gate.set()
    assert (await asyncio.wait_for(patient, 5))[0]["status"] == 200
    assert impatient.cancelled()
    assert source.reads == 1


@pytest.mark.parametrize(
    "value",
    [
        b"\\x73d-routing-key=pr-2,z=\xff",
        b"a=1\\x2csd-routing-key=pr-2,z=\xff",
        b"sd-routing-key=pr-1,\\163d-routing-key=pr-2,z=\xff",
    ],
)
async def test_a_key_behind_backslashes_is_none(value: bytes) -> None:
    """OpenTelemetry's instrumentation inside undoes the escapes of a header that is not UTF-8; it gets one that is."""
    inner = Inner()
    app = TenancyMiddleware(OpenTelemetryMiddleware(inner, tracer_provider=TracerProvider()), accept=lambda key: key == "pr-1")
    await call(app, request((b"baggage", value)))
    assert inner.keys in ([None], ["pr-1"])
    assert all(member in value.split(b",") for _, left in inner.seen for member in left.split(b","))
    plain = Inner()
    await call(TenancyMiddleware(plain), request((b"baggage", b"a=\\x41,b=\xc3\xa9"), (b"x", b"\\\xff")))
    assert plain.seen == [(b"baggage", b"a=\\x41,b=\xc3\xa9"), (b"x", b"\\\xff")]


# In the application's place


async def test_switched_off_it_is_not_there() -> None:
    """The middleware is the inner application itself, whatever its arguments."""
    tenancy.configure(enabled=False)
    inner = Inner()
    assert TenancyMiddleware(inner) is inner
    assert TenancyMiddleware(inner, accept="known", on_malformed="ignore") is inner
    assert TenancyMiddleware(app=inner) is inner


async def test_a_sandbox_cannot_be_switched_off() -> None:
    """It would act as the baseline."""
    tenancy.configure(enabled=False, sandbox="pr-42")
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        TenancyMiddleware(Inner())


async def test_other_scopes_pass_untouched() -> None:
    """What is neither HTTP nor a WebSocket nor a lifespan goes through with the same objects."""
    given: list[Any] = []

    async def inner(*arguments: Any) -> None:
        given.extend(arguments)

    scope, receive, send = {"type": "x-mqtt"}, object(), object()
    await TenancyMiddleware(inner)(scope, receive, send)  # type: ignore[arg-type]
    assert [id(one) for one in given] == [id(scope), id(receive), id(send)]
    assert scope == {"type": "x-mqtt"}


@pytest.mark.parametrize("headers", [[], [KEY], [(b"ot-baggage-sd-routing-key", b"pr-42")]])
@pytest.mark.parametrize(
    "error", [LookupError("x"), asyncio.CancelledError(), KeyboardInterrupt(), RoutesNotSyncedError("of the application")]
)
async def test_exceptions_pass_and_the_context_is_restored(headers: Pairs, error: BaseException) -> None:
    """The application's exception is the caller's, the same object, and nothing stays current or in the scope."""

    def fail(scope: Any) -> None:
        raise error

    scope = request(*headers)
    with tenancy.scope("pr-99"):
        before = otel.get_current()
        with pytest.raises(type(error)) as caught:
            await call(TenancyMiddleware(Inner(fail)), scope)
        assert caught.value is error
        assert otel.get_current() == before
    assert scope == request(*headers)


async def test_cancelling_restores(caplog: pytest.LogCaptureFixture) -> None:
    """A request that its client has left ends without a word about contexts."""

    async def forever(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(call(TenancyMiddleware(forever), request(KEY)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "Failed to detach" not in caplog.text


async def test_a_mounted_application_decides_once() -> None:
    """A middleware inside of another passes on what the outer one decided, unless it has a rule of its own; afterwards no trace is left."""
    inner = Inner()
    scope = request(KEY)
    await call(TenancyMiddleware(TenancyMiddleware(inner), accept="none"), scope)
    await call(TenancyMiddleware(TenancyMiddleware(inner), accept="all"), scope)
    await call(TenancyMiddleware(TenancyMiddleware(inner, accept="none")), scope)
    await call(TenancyMiddleware(inner, accept="none"), scope)
    assert inner.keys == [None, "pr-42", None, None]
    tenancy.configure(accept="none")
    await call(TenancyMiddleware(TenancyMiddleware(inner), accept="all"), scope)
    assert inner.keys[-1] == "pr-42"
    assert scope == request(KEY)


# What can be seen


def tracing() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


@pytest.mark.parametrize("order", ["outside", "inside"])
async def test_the_server_span_tells_the_key_and_the_verdict(order: str) -> None:
    """Wherever OpenTelemetry's middleware stands, its span has the key, the verdict and the reason."""
    tenancy.configure(workload="shop/orders", role="baseline")
    provider, exporter = tracing()
    table = routes("pr-42")
    app: Any
    if order == "outside":
        app = OpenTelemetryMiddleware(TenancyMiddleware(Inner(), routes=table), tracer_provider=provider)
    else:
        app = TenancyMiddleware(OpenTelemetryMiddleware(Inner(), tracer_provider=provider), routes=table)
    for key in ("pr-42", "pr-7"):
        await through(app, [("baggage", f"sd-routing-key={key}")])
    served, refused = (span.attributes for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    assert served is not None
    assert refused is not None
    assert served["tenancy.routing_key"] == "pr-42"
    assert served["tenancy.verdict"] == "skip"
    assert "forks shop/orders in sandbox pr-42" in str(served["tenancy.reason"])
    assert "tenancy.routing_key" not in refused
    assert "pr-7 is not accepted" in str(refused["tenancy.reason"])


async def test_without_an_identity_the_span_has_the_key() -> None:
    """Where nobody said who this process is there is no verdict, and the key is on the span all the same."""
    provider, exporter = tracing()
    await through(
        OpenTelemetryMiddleware(TenancyMiddleware(Inner()), tracer_provider=provider), [("baggage", "sd-routing-key=pr-42")]
    )
    (span,) = (span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    assert span.attributes is not None
    assert span.attributes["tenancy.routing_key"] == "pr-42"
    assert "tenancy.verdict" not in span.attributes


async def test_verdicts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is one verdict, with or without a key, also where middleware stands inside of middleware."""
    counted: list[Any] = []
    monkeypatch.setattr(
        "tenancy.routes.judge.count",
        lambda name, labels: counted.append((name, labels["adapter"], labels["verdict"], labels["reason"])),
    )
    tenancy.configure(workload="shop/orders", role="baseline")
    table = routes("pr-42")
    app = TenancyMiddleware(TenancyMiddleware(Inner(), accept="all", routes=table), routes=table)
    await call(app, request())
    await call(app, request(KEY))
    assert counted == [("tenancy.verdicts", "asgi", "own", "unkeyed"), ("tenancy.verdicts", "asgi", "skip", "forked_elsewhere")]


async def test_the_log_has_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """Records that a handler logs carry the request's key."""
    from tenancy.observe import RoutingKeyFilter

    caplog.handler.addFilter(keys := RoutingKeyFilter())
    try:
        with caplog.at_level(logging.INFO, "shop"):
            app = TenancyMiddleware(Inner(lambda scope: logging.getLogger("shop").info("served")))
            await call(app, request(KEY))
            await call(app, request())
    finally:
        caplog.handler.removeFilter(keys)
    assert [record.__dict__["routing_key"] for record in caplog.records] == ["pr-42", "-"]
