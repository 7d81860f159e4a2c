"""The resolvers at the edge: what they find, what they do not take for a key, and what becomes of it."""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import context as otel
from opentelemetry import propagate
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import tenancy
from tenancy import ConfigurationError, config
from tenancy.baggage import ABSENT, Reading
from tenancy.config import EdgeField, Settings
from tenancy.http.asgi import TenancyMiddleware
from tenancy.http.edge import Edge, EdgeRequest
from tenancy.key import GRAMMAR, RESERVED
from tests.http.servers import plain_client, serving, through
from tests.http.test_asgi import Inner, Pairs, call, request, routes

HOST = "host:{key}.preview.example.com"
KEYS = st.from_regex(GRAMMAR, fullmatch=True).filter(lambda key: key not in RESERVED)


def found(edge: Any, *headers: tuple[Any, Any], query: str = "", **more: Any) -> str | None:
    """The key that a resolver finds; what is malformed raises."""
    reading = Edge(edge).read(EdgeRequest(list(headers), query, **more))
    assert reading.malformed is None, reading
    return reading.key


def malformed(edge: Any, *headers: tuple[Any, Any], query: str = "") -> str | None:
    return Edge(edge).read(EdgeRequest(list(headers), query)).malformed


# Host names


@pytest.mark.parametrize(
    "host",
    [
        "pr-42.preview.example.com",
        "PR-42.Preview.Example.COM",
        "pr-42.preview.example.com:8443",
        "pr-42.preview.example.com.",
        "pr-42.preview.example.com.:80",
        "pr-42.preview.example.com:",
        "  pr-42.preview.example.com ",
    ],
)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_host_name(host: str, kind: Callable[[str], Any]) -> None:
    """Case, port, white space and the dot of the root do not matter."""
    assert found(HOST, (kind("Host"), kind(host))) == "pr-42"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "preview.example.com",
        ".preview.example.com",
        "a.pr-42.preview.example.com",
        "pr-42.preview.example.com.evil.example",
        "pr-42.preview.example.org",
        "pr-42-preview.example.com",
        "pr-42.previewXexample.com",
        "evil.example:pr-42.preview.example.com",
        "pr-42.preview.example.com:80:80",
        "pr-42.preview.example.com:x",
        "pr-42.preview.example.com..",
        "127.0.0.1:8000",
        "[::1]:8000",
        "[::1",
        "localhost",
        "pr-42",
    ],
)
def test_other_hosts_say_nothing(host: str) -> None:
    """A host that is not exactly of the pattern names no key, and no malformed one either."""
    assert Edge(HOST).read(EdgeRequest([("host", host)])) is ABSENT


@pytest.mark.parametrize(
    ("pattern", "host", "key"),
    [
        ("{key}--shop.preview.example.com", "pr-42--shop.preview.example.com", "pr-42"),
        ("{key}--shop.preview.example.com", "a--b--shop.preview.example.com", "a--b"),
        ("{key}--shop.preview.example.com", "pr-42.preview.example.com", None),
        ("{key}--shop.preview.example.com", "pr-42--shop--x.preview.example.com", None),
        ("orders-{key}.example.com", "orders-pr-42.example.com", "pr-42"),
        ("orders-{key}.example.com", "orders.example.com", None),
        ("orders-{key}.example.com", "orders-.example.com", None),
        ("orders-{key}.example.com", "my-orders-pr-42.example.com", None),
        ("www.{key}.example.com", "www.pr-42.example.com", "pr-42"),
        ("www.{key}.example.com", "wwwxpr-42.example.com", None),
        ("pr{key}.example.com", "pr42.example.com", "42"),
        ("orders-{key}", "orders-pr-42", "pr-42"),
        ("{key}.Example.COM", "pr-42.example.com", "pr-42"),
        ("{key}.xn--bcher-kva.example", "pr-42.xn--bcher-kva.example", "pr-42"),
        ("{key}.xn--bcher-kva.example", "pr-42.bücher.example", None),
    ],
)
def test_patterns(pattern: str, host: str, key: str | None) -> None:
    """The key is one label or a part of one, and all else of the name is as it was written, label for label."""
    assert found(f"host:{pattern}", ("host", host)) == key


@pytest.mark.parametrize("label", ["-x", "x-", "a_b", "none", "baseline", "x" * 64, "user@pr-42", "pr 42", "%70r-42", "a/b"])
def test_a_label_that_is_no_key(label: str) -> None:
    """Where the pattern fits, what stands in the key's place is malformed if it is none."""
    assert malformed(HOST, ("host", f"{label}.preview.example.com")) == label


def test_several_hosts_name_none() -> None:
    """A proxy may have gone by another one than we would; the same one twice is one."""
    one, other = ("host", "pr-1.preview.example.com"), ("Host", "pr-2.preview.example.com")
    assert found(HOST, one, other) is None
    assert found(HOST, one, ("host", "example.com")) is None
    assert found(HOST, one, ("HOST", "PR-1.preview.example.com:80")) == "pr-1"
    assert found(HOST, ("x-forwarded-host", "pr-1.preview.example.com")) is None


@given(KEYS, st.integers(0, 65535), st.booleans())
def test_every_key_can_be_a_host(key: str, port: int, upper: bool) -> None:
    """Whatever key there is, its host name leads to it."""
    host = f"{key}.preview.example.com:{port}"
    assert found(HOST, (b"host", (host.upper() if upper else host).encode())) == key


# Headers, cookies, parameters


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([("x-key", "pr-42")], "pr-42"),
        ([("X-KEY", b" pr-42\t")], "pr-42"),
        ([(b"X-Key", b"pr-42")], "pr-42"),
        ([("x-key", "")], None),
        ([("x-key", "  ")], None),
        ([("x-keys", "pr-42")], None),
        ([], None),
    ],
)
def test_a_header(headers: Any, key: str | None) -> None:
    """Found whatever its case; an empty one is none."""
    assert found("header:X-Key", *headers) == key


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("routing-key=pr-42", "pr-42"),
        ("a=1; routing-key=pr-42; b=2", "pr-42"),
        ("a=1;routing-key=pr-42;b=2", "pr-42"),
        ('routing-key="pr-42"', "pr-42"),
        ("routing-key = pr-42 ", "pr-42"),
        ("routing-key=", None),
        ('routing-key=""', None),
        ("routing-key", None),
        ("Routing-Key=pr-42", None),
        ("xrouting-key=pr-42", None),
        ("a=routing-key=pr-42", None),
        ("routing-key=; routing-key=pr-42", "pr-42"),
        (";;=;=x;routing-key=pr-42;", "pr-42"),
    ],
)
def test_a_cookie(line: str, key: str | None) -> None:
    """Names have their own case, values may be quoted; an empty one is none."""
    assert found("cookie:routing-key", ("Cookie", line)) == key
    assert found("cookie:routing-key", (b"cookie", line.encode())) == key


def test_cookies_on_several_lines() -> None:
    """HTTP/2 may send one line for each cookie."""
    assert found("cookie:k", ("cookie", "a=1"), ("x", "k=pr-1"), ("cookie", "k=pr-42")) == "pr-42"


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("routing-key=pr-42", "pr-42"),
        ("a=1&routing-key=pr-42&b=2", "pr-42"),
        ("routing%2Dkey=pr%2D42", "pr-42"),
        ("routing-key=", None),
        ("routing-key", None),
        ("Routing-Key=pr-42", None),
        ("a=%26routing-key=pr-42", None),
        ("a=1;routing-key=pr-42", None),
        ("routing-key=pr-42&routing-key=", "pr-42"),
        ("", None),
    ],
)
def test_a_parameter(query: str, key: str | None) -> None:
    """Names and values are decoded; an empty one is none."""
    assert found("query:routing-key", query=query) == key


@pytest.mark.parametrize("value", ["PR_42", "none", "pr-42 x", "é", "x" * 64, "pr\x00", "'pr-42'"])
def test_values_that_are_no_keys(value: str) -> None:
    """They are malformed, wherever they stand."""
    assert malformed("header:k", ("k", value)) == value
    assert malformed("cookie:k", ("cookie", f"k={value}")) == value
    assert malformed("query:k", query=f"k={quote(value)}") == value
    assert malformed("cookie:k", ("cookie", 'k="')) == '"'


@pytest.mark.parametrize(
    ("edge", "headers", "query", "reading"),
    [
        ("header:k", [("k", "pr-1"), ("K", "pr-2")], "", Reading("pr-2", None, True)),  # type: ignore[arg-type]
        ("header:k", [("k", "pr-1, pr-2")], "", Reading("pr-2", None, True)),  # type: ignore[arg-type]
        ("cookie:k", [("cookie", "k=pr-1; k=pr-2")], "", Reading("pr-1", None, True)),  # type: ignore[arg-type]
        ("cookie:k", [("cookie", "k=pr-1"), ("cookie", "k=pr-1")], "", Reading("pr-1", None, False)),  # type: ignore[arg-type]
        ("query:k", [], "k=pr-1&k=pr-2", Reading("pr-2", None, True)),  # type: ignore[arg-type]
        ("query:k", [], "k=pr-1&k=PR_2", Reading(None, "PR_2", True)),
    ],
)
def test_several_values(edge: str, headers: Any, query: str, reading: Reading) -> None:
    """Of headers and parameters the last counts, of cookies the first, as browsers order them; that they differ is told."""
    assert Edge(edge).read(EdgeRequest(headers, query)) == reading


TEXT = st.text(max_size=30)
BYTES = st.binary(max_size=30)
LINES = st.tuples(
    st.sampled_from([b"host", b"Host", b"cookie", b"COOKIE", b"k", b"K", b"x"]),
    BYTES | st.sampled_from([b"k=pr-1", b"pr-1", b'k="', b"pr-1.preview.example.com", b"pr-1.preview.example.com:1:2"]),
)


@given(st.lists(LINES | st.tuples(TEXT, TEXT), max_size=6), TEXT | BYTES.map(lambda value: value.decode("latin-1")))
@example([], "%")
@example([(b"cookie", b'k="')], "&=&%zz=")
def test_whatever_comes(headers: Any, query: str) -> None:
    """No request makes a resolver raise, and what it finds is a key, or is called malformed."""
    for edge in (HOST, "header:k", "cookie:k", "query:k", [HOST, "cookie:k", "query:k", "header:k"]):
        reading = Edge(edge).read(EdgeRequest(headers, query))
        assert reading is ABSENT or (reading.key is None) != (reading.malformed is None)
        assert reading.key is None or tenancy.RoutingKey.parse(str(reading.key)) == reading.key
        assert reading.malformed != ""


@given(KEYS, st.text(max_size=20), st.text(max_size=20))
def test_a_parameter_among_others(key: str, name: str, value: str) -> None:
    """Whatever else a query has, the parameter is found, and nothing else is taken for it."""
    others = f"{quote(name)}={quote(value)}"
    assert found("query:rk", query=f"{others}&rk={key}") == key
    if name != "rk":
        assert found("query:rk", query=others) is None


# Functions


def test_a_function() -> None:
    """It sees the request, and returns a key, or nothing in whatever way it says so."""

    class Plan(str, enum.Enum):
        PREVIEW = "pr-42"

    def of(request: EdgeRequest) -> str | None:
        return f"pr-{request.header('X-Number')}" if request.header("x-number") else request.cookie("k") or request.parameter("k")

    assert found(of, ("x-number", "1"), ("X-Number", b"2")) == "pr-2"
    assert found(of, ("cookie", "k=pr-3; k=pr-4"), query="k=pr-5") == "pr-3"
    assert found(of, query="k=pr-5&k=pr-6") == "pr-6"
    assert found(of) is None
    assert found(of, ("cookie", "k="), query="k=") is None
    assert EdgeRequest([("h", "")], "k=").parameter("k") == EdgeRequest([("h", "")], "k=").header("H") == ""
    assert found(lambda request: "") is None
    assert found(lambda request: tenancy.RoutingKey("pr-42")) == "pr-42"
    assert found(lambda request: Plan.PREVIEW) == "pr-42"
    assert found(lambda request: request.user, user="pr-42") == "pr-42"
    assert Edge(lambda request: "PR_42").read(EdgeRequest([])).malformed == "PR_42"


@pytest.mark.parametrize("value", [42, False, b"pr-42", ["pr-42"], object()])
def test_a_function_that_returns_no_text(value: Any) -> None:
    """Is a mistake, and is told with the function's name and the type, not with the value."""

    def key_of_user(request: EdgeRequest) -> Any:
        return value

    with pytest.raises(ConfigurationError, match=f"key_of_user.*{type(value).__name__}"):
        found(key_of_user)


def test_a_function_that_returns_a_coroutine() -> None:
    """Is told so, and the coroutine is closed."""

    async def later() -> str:
        return "pr-42"

    coroutine = later()
    with pytest.raises(ConfigurationError, match="coroutine"):
        found(lambda request: coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# Settings


async def awaited(request: EdgeRequest) -> str:
    return "pr-42"


class Awaited:
    async def __call__(self, request: EdgeRequest) -> str:
        return "pr-42"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("pr-42", "'pr-42'"),
        ("jwt:key", "'header:NAME'"),
        ("header:", "'header:'"),
        ("header:a b", "'header:a b'"),
        ("header:baggage", "'header:baggage'"),
        ("header:Host", "'header:Host'"),
        ("header:cookie", "'cookie:NAME'"),
        ("cookie:a;b", "'cookie:a;b'"),
        ("cookie:a=b", "'cookie:a=b'"),
        ("query:", "'query:'"),
        ("Cookie:k", "'Cookie:k'"),
        ("host:", "a host name"),
        ("host:preview.example.com", "'host:preview.example.com'"),
        ("host:{key}", "'host:{key}'"),
        ("host:{key}.{key}.example.com", "in the key's place"),
        ("host:{name}.example.com", "in the key's place"),
        ("host:{key}.example.com:8000", "without a port"),
        ("host:https://{key}.example.com", "in the key's place"),
        ("host:*.{key}.example.com", "in the key's place"),
        ("host:{key}..example.com", "in the key's place"),
        ("host:{key}.example.com.", "in the key's place"),
        ("host:{key}.bücher.example", "in the key's place"),
        (awaited, "coroutine function"),
        (Awaited(), "coroutine function"),
        (42, "42"),
        ([42], "42"),
        (["cookie:k", 42], "42"),
    ],
)
def test_mistakes_are_found_at_start(entry: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that can find nothing raises when the middleware is made, when the process is configured, and when its variables are read."""
    with pytest.raises(ConfigurationError, match=r"edge (has|is)") as caught:
        TenancyMiddleware(Inner(), edge=entry)
    assert told in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"edge (has|is)"):
        tenancy.configure(edge=entry)
    if isinstance(entry, str):
        with pytest.raises(ConfigurationError, match="TENANCY_EDGE has"):
            Settings.load({"TENANCY_EDGE": entry})
        monkeypatch.setattr(config, "_current", None)
        monkeypatch.setenv("TENANCY_EDGE", entry)
        with pytest.raises(ConfigurationError, match="TENANCY_EDGE has"):
            TenancyMiddleware(Inner())


async def test_the_setting_and_the_argument() -> None:
    """The argument goes before the setting, and an empty one switches it off."""
    app = Inner()
    tenancy.configure(edge="cookie:a, query:b")
    assert tenancy.settings().edge == (EdgeField("cookie", "a"), EdgeField("query", "b"))
    cookies = (b"cookie", b"a=pr-1; c=pr-2")
    await call(TenancyMiddleware(app), request(cookies))
    await call(TenancyMiddleware(app, edge="cookie:c"), request(cookies))
    await call(TenancyMiddleware(app, edge=EdgeField("cookie", "c")), request(cookies))
    await call(TenancyMiddleware(app, edge=()), request(cookies))
    await call(TenancyMiddleware(app, edge=""), request(cookies))
    assert app.keys == ["pr-1", "pr-2", "pr-2", None, None]


# In the middleware


EDGE = [HOST, "cookie:routing-key", "query:rk", "header:x-key"]
FOUND: dict[str, Any] = {
    "host": {"headers": [(b"host", b"pr-42.preview.example.com")]},
    "cookie": {"headers": [(b"cookie", b"routing-key=pr-42")]},
    "query": {"headers": [], "query_string": b"rk=pr-42"},
    "header": {"headers": [(b"x-key", b"pr-42")]},
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("place", FOUND)
async def test_a_key_found_at_the_edge_is_carried(place: str, kind: str) -> None:
    """It is current, stands in the baggage that the application sees, beside what the caller sent, and travels on; the scope is a copy."""
    inner = Inner(lambda scope: injected.append(tenancy.inject({})))
    injected: list[dict[str, str]] = []
    scope = request(kind=kind, **{**FOUND[place], "headers": [*FOUND[place]["headers"], (b"baggage", b"user=1")]})
    before = [*scope["headers"]]
    with tenancy.scope("pr-99"):
        await call(TenancyMiddleware(inner, edge=EDGE), scope)
        assert tenancy.routing_key() == "pr-99"
    assert inner.keys == ["pr-42"]
    assert injected == [{"baggage": "sd-routing-key=pr-42"}]
    assert inner.seen == [*FOUND[place]["headers"], (b"baggage", b"sd-routing-key=pr-42,user=1")]
    assert scope["headers"] == before


@pytest.mark.parametrize("place", FOUND)
@pytest.mark.parametrize("order", ["inside", "outside"])
async def test_opentelemetry_sees_it(place: str, order: str) -> None:
    """What OpenTelemetry sends on has the key, wherever its middleware stands."""
    injected: list[dict[str, str]] = []

    def body(scope: Any) -> None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        injected.append(carrier)

    app: Any = Inner(body)
    if order == "inside":
        app = TenancyMiddleware(OpenTelemetryMiddleware(app, tracer_provider=TracerProvider()), edge=EDGE)
    else:
        app = OpenTelemetryMiddleware(TenancyMiddleware(app, edge=EDGE), tracer_provider=TracerProvider())
    more = {"path": "/", "scheme": "http", "server": ("x", 80), "client": ("x", 1), "http_version": "1.1", **FOUND[place]}
    await call(app, request(**more))
    assert injected[0]["baggage"] == "sd-routing-key=pr-42"


@pytest.mark.parametrize("place", FOUND)
async def test_a_key_that_is_carried_goes_first(place: str) -> None:
    """The edge is not asked where the request has a key of its own, in whatever dialect, not even where that one is refused or malformed."""
    asked: list[EdgeRequest] = []
    inner = Inner()

    def spy(request: EdgeRequest) -> None:
        asked.append(request)

    for carried in (
        (b"baggage", b"sd-routing-key=pr-1"),
        (b"uberctx-sd-routing-key", b"pr-1"),
        (b"baggage", b"sd-routing-key=PR_1"),
    ):
        scope = request(**{**FOUND[place], "headers": [*FOUND[place]["headers"], carried]})
        for accept in ("all", "none"):
            app = TenancyMiddleware(inner, edge=[spy, *EDGE], accept=accept, on_malformed="ignore")  # type: ignore[arg-type]
            await call(app, scope)
    assert inner.keys == ["pr-1", None, "pr-1", None, None, None]
    assert asked == []


async def test_the_first_resolver_goes_first() -> None:
    """In the order in which they are named, also past one that finds something malformed."""
    headers = [(b"cookie", b"a=pr-1; b=pr-2; c=PR_3; d=")]
    for edge, key in (("cookie:a,cookie:b", "pr-1"), ("cookie:b,cookie:a", "pr-2"), ("cookie:d,cookie:x,cookie:b", "pr-2")):
        inner = Inner()
        await call(TenancyMiddleware(inner, edge=edge), request(*headers))
        assert inner.keys == [key]
    assert (await call(TenancyMiddleware(Inner(), edge="cookie:c,cookie:a"), request(*headers)))[0]["status"] == 400


@pytest.mark.parametrize("place", FOUND)
async def test_a_key_that_is_not_accepted(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is served by the baseline, counted as refused, and written nowhere; nor may a mounted application take it up again."""
    counted: list[str] = []
    monkeypatch.setattr("tenancy.routes.admission.count", lambda name, labels: counted.append(name))
    inner = Inner(lambda scope: injected.append(tenancy.inject({})))
    injected: list[dict[str, str]] = []
    table = routes("pr-1")
    app = TenancyMiddleware(TenancyMiddleware(inner, edge=EDGE, accept="all"), edge=EDGE, routes=table)
    sent = await call(app, request(**FOUND[place]))
    assert sent[0]["status"] == 200
    assert (inner.keys, injected, counted) == ([None], [{}], ["tenancy.keys.refused"])
    assert not any(name == b"baggage" for name, _ in inner.seen)


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"headers": [(b"host", b"<b>.preview.example.com")]}, "host name"),
        ({"headers": [(b"cookie", b"routing-key=<b>")]}, "cookie 'routing-key'"),
        ({"headers": [], "query_string": b"rk=%3Cb%3E"}, "query parameter 'rk'"),
        ({"headers": [(b"x-key", b"<b>")]}, "header 'x-key'"),
    ],
)
async def test_a_malformed_key_is_rejected(parts: Any, place: str) -> None:
    """With 400 and a text that names the place where it stands, of all where one is looked for; or it counts as none."""
    edge = next(entry for entry in EDGE if entry.partition(":")[0] == place.partition(" ")[0])
    inner = Inner()
    sent = await call(TenancyMiddleware(inner, edge=edge), request(**parts))
    assert (sent[0]["status"], inner.keys) == (400, [])
    text = sent[1]["body"].decode()
    assert f"in the {place} cannot be used" in text
    assert r"'\x3cb>'" in text
    several = await call(TenancyMiddleware(inner, edge=EDGE), request(**parts))
    assert several[1]["body"] == sent[1]["body"]
    by_function = await call(TenancyMiddleware(inner, edge=lambda request: "<b>"), request(**parts))
    assert b"in the request as a whole cannot be used" in by_function[1]["body"]
    await call(TenancyMiddleware(inner, edge=edge, on_malformed="ignore"), request(**parts))
    assert inner.keys == [None]


async def test_conflicts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those between headers are."""
    counted: list[str] = []
    monkeypatch.setattr("tenancy.http.reception.count", lambda name, labels: counted.append(name))
    await call(TenancyMiddleware(Inner(), edge="cookie:k"), request((b"cookie", b"k=pr-1; k=pr-2")))
    assert counted == ["tenancy.keys.conflicting"]


@pytest.mark.parametrize(
    ("edge", "vary"),
    [
        (HOST, b"baggage"),
        ("query:rk", b"baggage"),
        (lambda request: "pr-42", b"baggage"),
        ("cookie:routing-key", b"baggage, cookie"),
        ("header:X-Key", b"baggage, x-key"),
        ([*EDGE, "cookie:other", "header:x-key"], b"baggage, cookie, x-key"),
    ],
)
async def test_what_a_response_depends_on(edge: Any, vary: bytes) -> None:
    """`Vary` names the headers that can bring a key; a host name and a query are part of the address."""
    headers = [pair for place in FOUND.values() for pair in place["headers"]]
    sent = await call(TenancyMiddleware(Inner(), edge=edge), request(*headers, query_string=b"rk=pr-42"))
    assert dict(sent[0]["headers"]) == {b"cache-control": b"private", b"vary": vary, b"content-length": b"2"}
    sent = await call(TenancyMiddleware(Inner(), edge=edge), request(*headers, (b"baggage", b"sd-routing-key=pr-1")))
    assert dict(sent[0]["headers"])[b"vary"] == vary


async def test_the_route_table_is_awaited() -> None:
    """For a key that was found, as for one that was carried; a request without one does not wait."""
    tenancy.configure(routes_deadline=0.05)
    app = TenancyMiddleware(Inner(), edge=EDGE, routes=routes(broken=True))
    assert (await call(app, request(**FOUND["cookie"])))[0]["status"] == 503
    assert (await call(app, request((b"cookie", b"other=1"))))[0]["status"] == 200


async def test_the_exceptions_of_a_function_pass() -> None:
    """The host application decides what becomes of them; nothing stays current or in the scope."""
    error = PermissionError("no such user")

    def fail(request: EdgeRequest) -> str:
        raise error

    scope = request()
    before = otel.get_current()
    with pytest.raises(PermissionError) as caught:
        await call(TenancyMiddleware(Inner(), edge=fail), scope)
    assert caught.value is error
    assert otel.get_current() is before
    assert scope == request()


async def test_what_a_function_sees() -> None:
    """The headers as they came, the query, the user and the scope itself."""
    seen: list[EdgeRequest] = []
    scope = request((b"x", b"1"), (b"baggage", b"a=1"), query_string=b"a=%20&b", user="anna")
    await call(TenancyMiddleware(Inner(), edge=seen.append), scope)
    assert seen == [EdgeRequest([(b"x", b"1"), (b"baggage", b"a=1")], "a=%20&b", "anna", scope)]
    assert seen[0].native is scope
    await call(TenancyMiddleware(Inner(), edge=seen.append), {"type": "http", "headers": []})
    assert seen[1][:3] == ([], "", None)


# Off


@given(
    st.lists(st.tuples(st.sampled_from([b"host", b"cookie", b"baggage", b"x-key", b"x"]), BYTES), max_size=5),
    st.binary(max_size=20),
    st.sampled_from(["all", "none"]),
)
def test_switched_off_nothing_is_looked_at(headers: Pairs, query: bytes, accept: Any) -> None:
    """By default, and where nobody names a key, the application gets the same scope and the caller the same bytes."""
    host = [(b"host", b"pr-42.preview.example.com"), (b"cookie", b"routing-key=pr-42"), (b"x-key", b"pr-42")]
    scope = request(*headers, *host, query_string=b"rk=pr-42&" + query)
    plain, off, on = Inner(), Inner(), Inner()
    app = TenancyMiddleware(plain, accept=accept, on_malformed="ignore")
    sent = asyncio.run(call(app, {**scope}))
    assert asyncio.run(call(TenancyMiddleware(off, accept=accept, on_malformed="ignore", edge=()), {**scope})) == sent
    assert off.scopes == plain.scopes
    quiet = request(*headers, query_string=query)
    quiet["headers"] = [pair for pair in headers if pair[0] in (b"baggage", b"x")]
    one = asyncio.run(call(TenancyMiddleware(plain, accept=accept, on_malformed="ignore"), {**quiet}))
    other = asyncio.run(call(TenancyMiddleware(on, accept=accept, on_malformed="ignore", edge=[HOST, "cookie:rk"]), {**quiet}))
    assert on.scopes[-1] == plain.scopes[-1]
    assert on.keys[-1] == plain.keys[-1]
    vary = [(name, value.replace(b"baggage, cookie", b"baggage")) for name, value in other[0]["headers"]]
    assert vary == one[0]["headers"]


# With real servers and frameworks


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def key(request: Request) -> Any:
        return [tenancy.routing_key(), request.headers.get("baggage")]

    return app


async def test_over_real_sockets() -> None:
    """A server hands host, cookies and query on as they came; requests side by side have each their own key."""
    app = shop()
    app.add_middleware(TenancyMiddleware, edge=EDGE)
    with serving(app) as url:
        async with plain_client() as client:

            async def get(number: int) -> Any:
                await asyncio.sleep(0)
                variants: list[dict[str, Any]] = [
                    {"headers": {"host": f"PR-{number}.preview.example.com:80"}},
                    {"headers": {"cookie": f"a=1; routing-key=pr-{number}"}},
                    {"params": {"rk": f"pr-{number}"}},
                    {"headers": {"x-key": f"pr-{number}"}},
                    {},
                ]
                return (await client.get(url, **variants[number % 5])).json()

            answers = await asyncio.gather(*map(get, range(100)))
    assert answers == [[f"pr-{number}", f"sd-routing-key=pr-{number}"] if number % 5 < 4 else [None, None] for number in range(100)]


class Backend(AuthenticationBackend):
    async def authenticate(self, connection: Any) -> Any:
        name = connection.headers.get("authorization")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


def of_user(request: EdgeRequest) -> str | None:
    user = request.user
    return {"anna": "pr-42"}.get(user.display_name) if user is not None and user.is_authenticated else None


async def test_by_the_user() -> None:
    """What an authentication outside of us has found out is there; one inside of us comes too late."""
    for outside, expected in ((True, "pr-42"), (False, None)):
        app = shop()
        layers: list[Any] = [
            lambda app=app: app.add_middleware(TenancyMiddleware, edge=of_user),
            lambda app=app: app.add_middleware(AuthenticationMiddleware, backend=Backend()),
        ]
        for add in layers if outside else reversed(layers):
            add()
        assert (await through(app, {"authorization": "anna"})).json()[0] == expected
        assert (await through(app, {"authorization": "bert"})).json()[0] is None
        assert (await through(app)).json()[0] is None


async def test_a_mounted_application_does_not_ask() -> None:
    """The edge is the outermost middleware's."""

    async def key(request: Any) -> JSONResponse:
        return JSONResponse(tenancy.routing_key())

    inner = Starlette(routes=[Route("/", key)])
    inner.add_middleware(TenancyMiddleware, edge="cookie:k")
    outer = Starlette(routes=[Mount("/inner", inner)])
    assert (await through(outer, {"cookie": "k=pr-42"}, "/inner/")).json() == "pr-42"
    outer = Starlette(routes=[Mount("/inner", inner)])
    outer.add_middleware(TenancyMiddleware)
    assert (await through(outer, {"cookie": "k=pr-42"}, "/inner/")).json() is None


async def test_a_websocket() -> None:
    """The handshake's host, cookies and query count as a request's do."""
    import websockets

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(str(tenancy.routing_key()))
        await websocket.close()

    with serving(TenancyMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), edge=EDGE)) as url:
        at = url.replace("http", "ws")
        for path, headers in (("/?rk=pr-42", {}), ("/", {"cookie": "routing-key=pr-42"}), ("/", {"x-key": "pr-42"})):
            async with websockets.connect(at + path, additional_headers=headers, proxy=None) as connection:
                assert await connection.recv() == "pr-42"
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(at + "/?rk=PR_42", proxy=None)


async def test_a_request_without_any_header() -> None:
    """HTTP/1.0 needs none, and a query is looked at all the same."""
    with serving(TenancyMiddleware(Inner(), edge="query:rk")) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"GET /?rk=PR_42 HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
