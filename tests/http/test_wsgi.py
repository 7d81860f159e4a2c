from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import httpx
import pytest
import waitress.server
import werkzeug.serving
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tenancy
from tenancy import ConfigurationError
from tenancy.baggage import members
from tenancy.context import attached, with_key
from tenancy.http.wsgi import TenancyMiddleware
from tenancy.propagator import current_codec
from tenancy.routes import LiveRoutes, RouteTable
from tenancy.routes.table import Route
from tests.http.servers import ServerContract, Work

KEY = {"HTTP_BAGGAGE": "sd-routing-key=pr-42"}
Headers = list[tuple[str, str]]


# Servers, as the tests of Flask and Django use them


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 256


class _QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        pass


@contextmanager
def serving_wsgi(app: Any, server: str = "waitress") -> Iterator[str]:
    """Run an application under a threaded server on a free port of 127.0.0.1; gives its address."""
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    stop: Callable[[], Any]
    if server == "waitress":
        made: Any = waitress.server.create_server(app, host="127.0.0.1", port=0, threads=16)
        port, run, stop = made.effective_port, made.run, functools.partial(made.trigger.pull_trigger, made.close)
    else:
        if server == "wsgiref":
            made = _Threaded(("127.0.0.1", 0), _Quiet)
            made.set_app(app)
        else:
            made = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietWerkzeug)
        port, run, stop = made.server_port, functools.partial(made.serve_forever, 0.05), made.shutdown
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop()
        if server != "waitress":
            thread.join(10)
            made.server_close()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What OpenTelemetry says about contexts that were left in another order than they were entered."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("opentelemetry.context")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


class Watched:
    """An application, and what its threads had current before and after each request."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.left: list[Any] = []

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        self.left.append(otel.get_current())
        body: Any = ()
        try:
            body = self.app(environ, start_response)
            self.left.append(otel.get_current())
            for chunk in body:
                self.left.append(otel.get_current())
                yield chunk
        finally:
            if hasattr(body, "close"):
                body.close()
            self.left.append(otel.get_current())


# The contract


def plain(work: Work) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        time.sleep(0)
        work.run(environ["HTTP_X_BODY"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return TenancyMiddleware(app)


def streaming(work: Work) -> Any:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        time.sleep(0)
        work.run(environ["HTTP_X_BODY"])
        yield b"second"

    return TenancyMiddleware(app)


def started_late(work: Work) -> Any:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        work.run(environ["HTTP_X_BODY"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"ok"

    return TenancyMiddleware(app)


def written(work: Work) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"first")
        work.run(environ["HTTP_X_BODY"])
        write(b"second")
        return []

    return TenancyMiddleware(app)


class _Closing:
    """A body that works when it is closed."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"ok"])


def closing(work: Work) -> Any:
    def app(environ: Any, start_response: Any) -> _Closing:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return _Closing(lambda: work.run(environ["HTTP_X_BODY"]))

    return TenancyMiddleware(app)


def otel_outside(work: Work) -> Any:
    return OpenTelemetryMiddleware(streaming(work), tracer_provider=TracerProvider())


def otel_inside(work: Work) -> Any:
    return TenancyMiddleware(OpenTelemetryMiddleware(streaming(work).app, tracer_provider=TracerProvider()))


def otel_inside_plain(work: Work) -> Any:
    return TenancyMiddleware(OpenTelemetryMiddleware(plain(work).app, tracer_provider=TracerProvider()))


@pytest.fixture(scope="class")
def wsgi_server(request: pytest.FixtureRequest) -> Iterator[None]:
    work = request.cls.work = Work()
    watched = Watched(request.cls.build(work))
    with complaints() as said, serving_wsgi(watched, request.cls.server) as url:
        request.cls.url = url
        yield
    assert said == []
    left = [context for context in watched.left if tenancy.routing_key(context) is not None]
    assert watched.left
    if request.cls.leaves_nothing:
        assert left == []


@pytest.mark.usefixtures("wsgi_server")
class WSGIContract(ServerContract):
    build: Callable[[Work], Any]
    server = "waitress"
    #: Whether no context with a key is left in the server's thread, at any time; OpenTelemetry's middleware outside leaves its own.
    leaves_nothing = True


def contract(name: str, build: Callable[[Work], Any], base: type = WSGIContract, **attributes: Any) -> type:
    return type(f"Test{name}", (base,), {"build": staticmethod(build), **attributes})


TestWaitress = contract("Waitress", plain)
TestWSGIRef = contract("WSGIRef", plain, server="wsgiref")
TestWerkzeug = contract("Werkzeug", plain, server="werkzeug")
TestStreamingWaitress = contract("StreamingWaitress", streaming)
TestStreamingWSGIRef = contract("StreamingWSGIRef", streaming, server="wsgiref")
TestStreamingWerkzeug = contract("StreamingWerkzeug", streaming, server="werkzeug")
TestStartedLate = contract("StartedLate", started_late)
TestWritten = contract("Written", written, server="wsgiref")
TestOpenTelemetryOutside = contract("OpenTelemetryOutside", otel_outside, leaves_nothing=False)
TestOpenTelemetryInside = contract("OpenTelemetryInside", otel_inside)
TestOpenTelemetryInsidePlain = contract("OpenTelemetryInsidePlain", otel_inside_plain)


class TestClosing(WSGIContract):
    build = staticmethod(closing)
    server = "wsgiref"

    async def receive(self, headers: Any, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        """The response is complete before its body is closed."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        outcome: list[Any] = [None]

        def observed() -> None:
            try:
                outcome[0] = body()
            finally:
                loop.call_soon_threadsafe(done.set)

        await super().receive(headers, observed)
        await asyncio.wait_for(done.wait(), 10)
        return outcome[0]


# One request at a time


class Inner:
    """An application that remembers what it was given, and does a test's bidding."""

    def __init__(self, body: Callable[[Any], Any] = lambda environ: [b"ok"], headers: Headers | None = None) -> None:
        self.environs: list[Any] = []
        self.keys: list[str | None] = []
        self.body = body
        self.headers = headers or []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.environs.append(environ)
        self.keys.append(tenancy.routing_key())
        start_response("200 OK", [*self.headers, ("Content-Type", "text/plain")])
        return self.body(environ)

    @property
    def seen(self) -> dict[str, str]:
        return ours(self.environs[-1])


VARIABLES = {"HTTP_BAGGAGE", "HTTP_TRACESTATE", "HTTP_OT_BAGGAGE_SD_ROUTING_KEY", "HTTP_UBERCTX_SD_ROUTING_KEY"}


def ours(environ: Any) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name in VARIABLES}


def request(headers: Any = (), **more: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"QUERY_STRING": "", **dict(headers), **more}
    setup_testing_defaults(environ)
    return environ


class Answer:
    def __init__(self) -> None:
        self.status = ""
        self.headers: Headers = []
        self.body = b""
        self.calls: list[tuple[Any, ...]] = []

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        self.calls.append((status, headers, exc_info))
        self.status, self.headers = status, headers
        return self.written.append

    @functools.cached_property
    def written(self) -> list[bytes]:
        return []

    @property
    def code(self) -> int:
        return int(self.status.split(" ", 1)[0])

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name), None)


def call(app: Any, environ: dict[str, Any]) -> Answer:
    answer = Answer()
    body = app(environ, answer.start_response)
    try:
        answer.body = b"".join(answer.written) + b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer


class Source:
    """A route source that a test breaks and mends."""

    name = "the test's routes"

    def __init__(self, *keys: str, broken: bool = False) -> None:
        self.keys = keys
        self.broken = broken
        self.gate = threading.Event()
        self.gate.set()

    def read(self) -> RouteTable:
        self.gate.wait(10)
        if self.broken:
            raise tenancy.RouteSourceError("the test's routes: No such file")
        return RouteTable((Route("shop/orders", tenancy.RoutingKey(key), key) for key in self.keys), workloads=["shop/orders"])

    def mark(self) -> object:
        return self.broken


def routes(*keys: str, broken: bool = False) -> LiveRoutes:
    return LiveRoutes(Source(*keys, broken=broken), interval=0.01)


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    before = otel.get_current()
    yield
    assert otel.get_current() == before


@pytest.mark.parametrize(
    "headers", [{}, KEY, {"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "pr-42"}, {"HTTP_BAGGAGE": "sd-routing-key=PR_42"}]
)
@pytest.mark.parametrize(
    "body",
    [lambda environ: [b"a", b"b"], lambda environ: (part for part in (b"a", b"b")), lambda environ: FileWrapper(io.BytesIO(b"ab"))],
)
@pytest.mark.filterwarnings("error")
def test_it_keeps_to_the_specification(headers: Any, body: Any) -> None:
    """wsgiref's validator finds nothing to say about either side."""
    inner = Inner(body)
    app = validator(TenancyMiddleware(validator(inner), response_header="x-who"))
    answer = call(app, request(headers))
    assert answer.body == b"ab" if answer.code == 200 else b"routing key" in answer.body


# What the application sees of its environment


def test_an_environment_that_is_right_is_handed_on_as_it_is() -> None:
    """Where the headers say just what was admitted, the application gets the same environment, and nothing stays in it."""
    inner = Inner()
    for headers in (
        {},
        {"HTTP_BAGGAGE": "a=1"},
        KEY,
        {"HTTP_BAGGAGE": "a=1;p=2,sd-routing-key=pr-42, b=2", "HTTP_TRACESTATE": "v=1"},
    ):
        environ = request(headers)
        before = dict(environ)
        call(TenancyMiddleware(inner), environ)
        assert inner.environs[-1] is environ
        assert environ == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"HTTP_BAGGAGE": "sd-routing-key=pr-1, sd-routing-key=pr-42"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42"}),
        ({"HTTP_BAGGAGE": "sd-routing-key=pr-42,a=1,sd-routing-key=pr-42"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42,a=1"}),
        ({"HTTP_BAGGAGE": "sd-routing-key=pr-42;ttl=1"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42"}),
        ({"HTTP_BAGGAGE": "sd%2Drouting-key=pr%2D42,a=%41"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42,a=%41"}),
        ({"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "pr-42"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42"}),
        (
            {"HTTP_TRACESTATE": "v=1,sd-routing-key=pr-42", "HTTP_X": "1"},
            {"HTTP_BAGGAGE": "sd-routing-key=pr-42", "HTTP_TRACESTATE": "v=1"},
        ),
        ({"HTTP_UBERCTX_SD_ROUTING_KEY": "pr-1", **KEY}, KEY),
        ({"HTTP_BAGGAGE": "sd-routing-key=pr-42,\xff\xfe=\x80"}, {"HTTP_BAGGAGE": "sd-routing-key=pr-42,\xff\xfe=\x80"}),
        (
            {"HTTP_UBERCTX_SD_ROUTING_KEY": "pr-42", "HTTP_BAGGAGE": "\xc3\xa9=1"},
            {"HTTP_BAGGAGE": "sd-routing-key=pr-42,\xc3\xa9=1"},
        ),
    ],
)
def test_other_headers_become_one_entry(before: Any, after: Any) -> None:
    """Duplicates, properties, encodings and other dialects are one plain entry for the application, in a copy."""
    inner = Inner()
    environ = request(before)
    came = dict(environ)
    call(TenancyMiddleware(inner), environ)
    assert inner.seen == after
    assert inner.keys == ["pr-42"]
    assert environ == came
    assert {name: value for name, value in inner.environs[0].items() if name not in VARIABLES} == {
        name: value for name, value in came.items() if name not in VARIABLES
    }


TEXT = st.text(st.characters(max_codepoint=255, exclude_characters=",\n\r"), max_size=12)
OURS = st.sampled_from(
    [
        "sd-routing-key=pr-42",
        "sd-routing-key=PR_42",
        " sd-routing-key = pr-7 ;p",
        "sd%2drouting-key=pr-9",
        "sd-routing-key=",
        "sd-routing-key",
    ]
)
VALUES = st.lists(TEXT | OURS | st.sampled_from(["a=1", "b=2;p=3", " c = 4 "]), max_size=5).map(
    lambda parts: ",".join(parts).strip(" \t")
)  # as servers do


@given(
    st.dictionaries(st.sampled_from([*sorted(VARIABLES), "HTTP_X"]), VALUES | st.just("pr-42")),
    st.sampled_from(["all", "none", "function"]),
)
def test_any_headers(headers: dict[str, str], accept: Any) -> None:
    """Whatever comes, the application reads from its environment just the key that is current, and every other member is as it was."""
    inner = Inner()
    chosen = (lambda key: key == "pr-42") if accept == "function" else accept
    environ = request(headers)
    came = dict(environ)
    call(TenancyMiddleware(inner, accept=chosen, on_malformed="ignore"), environ)
    assert environ == came
    seen = [(name[5:].replace("_", "-").lower(), value) for name, value in inner.seen.items()]
    reading = current_codec().read(seen)
    assert (reading.key, reading.malformed, reading.conflict) == (inner.keys[0], None, False)
    for name in ("HTTP_BAGGAGE", "HTTP_TRACESTATE"):
        kept, given = (
            members(found.get(name, ""), without=("sd-routing-key",), decode=name == "HTTP_BAGGAGE")
            for found in (inner.seen, headers)
        )
        # A header neither begins nor ends with white space.
        assert ",".join(kept).strip(" \t") == ",".join(given).strip(" \t")
    assert inner.environs[0].get("HTTP_X") == headers.get("HTTP_X")


def test_nothing_ambient_has_a_say() -> None:
    """A request without a key has none, in its body neither, whatever was current where it is served, and other people's baggage stays."""
    found: list[Any] = []

    def body(environ: Any) -> Iterator[bytes]:
        found.append((tenancy.routing_key(), tenancy.inject({}), baggage.get_baggage("user")))
        yield b"ok"

    inner = Inner(body)
    ambient = baggage.set_baggage("user", "1", baggage.set_baggage("sd-routing-key", "PR_99"))
    for context in (with_key(tenancy.RoutingKey("pr-99")), ambient):
        with attached(context):
            call(TenancyMiddleware(inner), request())
            assert otel.get_current() is context
    assert inner.keys == [None, None]
    assert found == [(None, {}, None), (None, {}, "1")]


@pytest.mark.parametrize("field", ["header:ot-baggage-sd-routing-key", "tracestate:sd-routing-key", "baggage:okteto-divert"])
def test_what_is_inside_reads_baggage(field: str) -> None:
    """Whichever dialect is written on the way out, instrumentation inside of the middleware finds the key where it looks for it."""
    tenancy.configure(read="signadot,okteto", write=field)
    inner = Inner()
    app = TenancyMiddleware(OpenTelemetryMiddleware(inner, tracer_provider=TracerProvider()))
    for headers in (KEY, {"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "pr-42"}, {"HTTP_BAGGAGE": "okteto-divert=pr-42"}):
        call(app, request(headers))
    assert inner.keys == ["pr-42"] * 3


def test_what_the_application_puts_into_the_environment_is_seen_outside() -> None:
    """A copy of it does not hide the user from an access log, whether it is put there at once or while the body is made."""

    def body(environ: Any) -> Iterator[bytes]:
        environ["REMOTE_USER"] = "anna"
        yield b""
        environ["late"] = True

    def app(environ: Any, start_response: Any) -> Any:
        environ["PATH_INFO"] = "/inner"
        return Inner(body)(environ, start_response)

    environ = request({"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "pr-42"})
    expected = {**environ, "PATH_INFO": "/inner", "REMOTE_USER": "anna", "late": True}
    answer = Answer()
    answered = TenancyMiddleware(app)(environ, answer.start_response)
    assert environ["PATH_INFO"] == "/inner"
    assert list(answered) == [b""]
    answered.close()  # type: ignore[attr-defined]
    assert environ == expected


@pytest.mark.parametrize("value", [None, b"sd-routing-key=pr-42", 3, "sd-routing-key=pr-42,\u2713=1"])
def test_an_environment_that_no_server_makes(value: Any) -> None:
    """A test's may have anything in it, and is served."""
    assert call(TenancyMiddleware(Inner()), request(HTTP_BAGGAGE=value)).code == 200


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
def test_accept(accept: Any, with_table: bool, accepted: set[str]) -> None:
    """A key that is not accepted is neither current nor in the headers; the request is served as the baseline's."""
    inner = Inner()
    app = TenancyMiddleware(inner, accept=accept, routes=routes("pr-1") if with_table else None)
    for key in ("pr-1", "pr-2"):
        headers = {"HTTP_BAGGAGE": f"a=1,sd-routing-key={key}", "HTTP_OT_BAGGAGE_SD_ROUTING_KEY": key}
        assert call(app, request(headers)).code == 200
        expected = key if key in accepted else None
        assert inner.keys[-1] == expected
        assert inner.seen == {"HTTP_BAGGAGE": f"sd-routing-key={key},a=1" if expected else "a=1"}


@pytest.mark.parametrize("header", ["sd-routing-key=pr-2", "a=1,sd-routing-key=PR_2"])
@pytest.mark.parametrize("order", ["outside", "inside", "none"])
def test_a_refused_key_travels_no_further(order: str, header: str) -> None:
    """Nothing that the application sends on has it, in its handler or its body: neither what OpenTelemetry injects, nor its headers."""
    sent: list[Any] = []

    def body(environ: Any) -> Iterator[bytes]:
        for _ in range(2):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            sent.append([carrier, tenancy.inject({"baggage": environ.get("HTTP_BAGGAGE", "")}), ours(environ)])
            yield b""

    def refusing(app: Any) -> Any:
        return TenancyMiddleware(app, accept="none", on_malformed="ignore")

    app: Any = {
        "outside": lambda: OpenTelemetryMiddleware(refusing(Inner(body)), tracer_provider=TracerProvider()),
        "inside": lambda: refusing(OpenTelemetryMiddleware(Inner(body), tracer_provider=TracerProvider())),
        "none": lambda: refusing(Inner(body)),
    }[order]()
    assert call(app, request({"HTTP_BAGGAGE": header, "HTTP_UBERCTX_SD_ROUTING_KEY": "pr-2"})).code == 200
    assert len(sent) == 2
    assert "pr-2" not in json.dumps(sent).lower().replace("pr_2", "pr-2")


@pytest.mark.parametrize(
    ("headers", "place", "shown"),
    [
        ({"HTTP_BAGGAGE": "sd-routing-key=PR_42"}, "member 'sd-routing-key' of the header 'baggage'", "'PR_42'"),
        ({"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "PR_42"}, "header 'ot-baggage-sd-routing-key'", "'PR_42'"),
        ({"HTTP_BAGGAGE": "sd-routing-key=<script>alert(1)</script>"}, "header 'baggage'", r"'\x3cscript>"),
        ({"HTTP_BAGGAGE": "sd-routing-key=%1B[31m%0d%0aX: y"}, "header 'baggage'", r"'\x1b[31m\r\nX: y'"),
        ({"HTTP_BAGGAGE": "sd-routing-key=\xc3\xa9"}, "header 'baggage'", r"\xe9"),
    ],
)
def test_a_malformed_key_is_rejected(headers: Any, place: str, shown: str) -> None:
    """The caller gets 400 and a text with the place, the value and the grammar; the application never runs."""
    inner = Inner()
    answer = call(TenancyMiddleware(inner), request(headers))
    assert answer.status == "400 Bad Request"
    text = answer.body.decode("ascii")
    assert place in text
    assert shown in text or "\\xc3" in text
    assert text.strip().isprintable()
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("cache-control") == "no-store"
    assert inner.environs == []
    head = call(TenancyMiddleware(inner), request(headers, REQUEST_METHOD="HEAD"))
    assert (head.code, head.body, head.header("content-length")) == (400, b"", str(len(answer.body)))


def test_a_malformed_key_may_be_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """By argument the request is served without a key, the application does not see it, and it is logged once."""
    inner = Inner()
    app = TenancyMiddleware(inner, on_malformed="ignore")
    with tenancy.scope("pr-99"):
        for _ in range(3):
            assert call(app, request(HTTP_BAGGAGE="a=1,sd-routing-key=PR_42,b=2")).code == 200
    assert inner.keys == [None] * 3
    assert inner.seen == {"HTTP_BAGGAGE": "a=1,b=2"}
    assert [record.getMessage().count("'PR_42'") for record in caplog.records] == [1]


# Responses


CACHEABLE = [("Cache-Control", "public, max-age=60"), ("Vary", "accept")]


def test_responses_to_keyed_requests_are_private() -> None:
    """A shared cache must not keep them; by argument nothing is added; other responses are left as they are."""
    inner = Inner(headers=CACHEABLE)

    def said(app: Any, headers: Any = KEY) -> Any:
        answer = call(app, request(headers))
        return answer.header("cache-control"), answer.header("vary")

    kept = "public, max-age=60", "accept"
    assert said(TenancyMiddleware(inner)) == ("private, max-age=60", "accept, baggage")
    assert said(TenancyMiddleware(inner), {}) == kept
    assert said(TenancyMiddleware(inner, accept="none")) == kept
    assert said(TenancyMiddleware(inner, cache_headers=False)) == kept


def test_start_response_is_called_as_the_application_calls_it() -> None:
    """Late, twice with exc_info, by position or by name; each time with what the caller has to know, and the application's list as it was."""
    given = list(CACHEABLE)
    failure: Any = (ValueError, ValueError("x"), None)

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", given)
        yield b""
        start_response("500 Oops", given, failure)
        start_response("500 Oops", given, exc_info=failure)
        yield b"x"

    answer = call(TenancyMiddleware(app, response_header="X-Who"), request(KEY))
    assert given == CACHEABLE
    assert [(status, error) for status, _, error in answer.calls] == [
        ("200 OK", None),
        ("500 Oops", failure),
        ("500 Oops", failure),
    ]
    for _, headers, _ in answer.calls:
        assert type(headers) is list
        assert dict(headers)["cache-control"] == "private, max-age=60"
        assert dict(headers)["x-who"] == 'unknown; routing_key=pr-42; reason="pr-42: every key is accepted"'


def test_start_response_is_the_servers_own_where_there_is_nothing_to_say() -> None:
    """Without a key, and with caches left alone, the application calls what the server gave."""
    given: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        given.append(start_response)
        return []

    def server(*_: Any) -> Any:
        raise AssertionError

    with TracerProvider().get_tracer("test").start_as_current_span("server"):  # which is told at once
        for headers, arguments in (({}, {}), (KEY, {"cache_headers": False})):
            TenancyMiddleware(app, **arguments)(request(headers), server)  # type: ignore[arg-type]
    assert given == [server, server]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, 'shop/orders; baseline; reason="no routing key, so it is the baseline\'s"'),
        (KEY, 'shop/orders; baseline; routing_key=pr-42; reason="pr-42 forks shop/orders in sandbox pr-42, not the baseline"'),
        (
            {"HTTP_BAGGAGE": "sd-routing-key=pr-7"},
            'shop/orders; baseline; reason="pr-7 is not accepted: the route table does not know it"',
        ),
    ],
)
def test_a_header_tells_who_served(headers: Any, said: str) -> None:
    """By argument or setting each response names the workload, the sandbox or the baseline, and the reason."""
    tenancy.configure(workload="shop/orders", role="baseline", response_header="X-Tenancy-Served-By")
    assert call(TenancyMiddleware(Inner(), routes=routes("pr-42")), request(headers)).header("x-tenancy-served-by") == said
    assert (
        call(TenancyMiddleware(Inner(), routes=routes("pr-42"), response_header="x-who"), request(headers)).header("x-who") == said
    )


# Bodies


def test_without_a_key_the_body_is_the_applications_own() -> None:
    """The same object goes to the server."""
    for body in ([b"a"], (part for part in [b"a"]), FileWrapper(io.BytesIO(b"a")), b"", _Closing(lambda: None)):
        app = TenancyMiddleware(Inner(lambda environ, body=body: body))  # type: ignore[misc]
        assert app(request(), Answer().start_response) is body
        if not hasattr(body, "__next__"):
            assert app(request(HTTP_BAGGAGE="a=1"), Answer().start_response) is body


def test_lists_and_files_go_to_the_server_as_they_are(tmp_path: Path) -> None:
    """Of a list it makes a Content-Length, and it sends a file by itself; nothing of the application runs in either."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        for body in ([b"a"], (b"a",), FileWrapper(file), file):
            app = TenancyMiddleware(Inner(lambda environ, body=body: body))  # type: ignore[misc]
            environ = request(KEY, **{"wsgi.file_wrapper": FileWrapper})
            before = dict(environ)
            assert app(environ, Answer().start_response) is body
            assert environ == before


def test_a_file_that_is_none_is_read_with_the_key() -> None:
    """What the application made to look like one is its own code."""
    keys: list[str | None] = []

    class Made:
        def read(self, size: int) -> bytes:
            keys.append(tenancy.routing_key())
            return b"" if len(keys) > 1 else b"content"

        def fileno(self) -> int:
            raise OSError

    app = TenancyMiddleware(Inner(lambda environ: environ["wsgi.file_wrapper"](Made(), 8)))
    assert call(app, request(KEY, **{"wsgi.file_wrapper": FileWrapper})).body == b"content"
    assert keys == ["pr-42", "pr-42"]


def test_a_body_knows_its_length_if_it_did_before() -> None:
    """Servers ask for it, to make a Content-Length of a body with one part."""

    class Sized:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[bytes]:
            yield str(tenancy.routing_key()).encode()

    for body, sized in ((Sized(), True), (iter([b"pr-42"]), False)):
        answered: Any = TenancyMiddleware(Inner(lambda environ, body=body: body))(request(KEY), Answer().start_response)  # type: ignore[misc]
        assert hasattr(answered, "__len__") is sized
        assert not sized or len(answered) == 1
        assert list(answered) == [b"pr-42"]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_body_that_is_left_half_way(steps: int) -> None:
    """The server's thread never has the key between two steps, and what the body cleans up when it is closed does."""
    keys: list[str | None] = []

    def body(environ: Any) -> Iterator[bytes]:
        try:
            for _ in range(2):
                keys.append(tenancy.routing_key())
                yield b"x"
        finally:
            keys.append(tenancy.routing_key())

    with tenancy.scope("pr-99"):
        environ = request(KEY)
        answered: Any = TenancyMiddleware(Inner(body))(environ, Answer().start_response)
        for _ in range(steps):
            next(answered, None)
            assert tenancy.routing_key() == "pr-99"
        answered.close()
        answered.close()
        assert tenancy.routing_key() == "pr-99"
    assert keys == ["pr-42"] * ([0, 2, 3, 3][steps])
    assert "tenancy.admitted" not in environ


def test_what_a_body_leaves_current_is_there_at_its_next_step() -> None:
    """An open span of a body's is open at each of its steps, and never outside."""
    tracer = TracerProvider().get_tracer("test")
    found: list[Any] = []

    def body(environ: Any) -> Iterator[bytes]:
        with tracer.start_as_current_span("streaming") as span:
            yield b""
            found.append(trace.get_current_span() is span)
            yield b""
        found.append(trace.get_current_span() is trace.INVALID_SPAN)

    answered = iter(TenancyMiddleware(Inner(body))(request(KEY), Answer().start_response))
    for _ in answered:
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert found == [True, True]


def test_steps_in_several_threads() -> None:
    """A server may take each step where it likes."""
    keys: list[str | None] = []

    def body(environ: Any) -> Iterator[bytes]:
        while len(keys) < 5:
            keys.append(tenancy.routing_key())
            yield b""

    answered: Any = TenancyMiddleware(Inner(body))(request(KEY), Answer().start_response)

    def step() -> None:
        next(answered)
        assert tenancy.routing_key() is None

    for _ in range(5):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert keys == ["pr-42"] * 5


@pytest.mark.parametrize("headers", [{}, KEY, {"HTTP_OT_BAGGAGE_SD_ROUTING_KEY": "pr-42"}])
@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), tenancy.RoutesNotSyncedError("of the application")])
@pytest.mark.parametrize("where", ["application", "first step", "second step", "close"])
def test_exceptions_pass(headers: Any, error: BaseException, where: str) -> None:
    """The application's exception is the server's, the same object, and nothing stays current or in the environment."""

    def fail(here: str) -> None:
        if here == where:
            raise error

    def body(environ: Any) -> Iterator[bytes]:
        try:
            fail("first step")
            yield b""
            fail("second step")
        finally:
            fail("close")

    def app(environ: Any, start_response: Any) -> Any:
        fail("application")
        return body(environ)

    environ = request(headers)
    before = dict(environ)
    with tenancy.scope("pr-99"):
        current = otel.get_current()
        with pytest.raises(type(error)) as caught:
            call(TenancyMiddleware(app), environ)
        assert caught.value is error
        assert otel.get_current() == current
    assert environ == before


# One inside of another


def test_one_inside_of_another_decides_once() -> None:
    """It passes on what the outer one decided, unless it has a rule of its own; afterwards no trace is left."""
    inner = Inner()
    environ = request(KEY)
    for app in (
        TenancyMiddleware(TenancyMiddleware(inner), accept="none"),
        TenancyMiddleware(TenancyMiddleware(inner), accept="all"),
        TenancyMiddleware(TenancyMiddleware(inner, accept="none")),
        TenancyMiddleware(inner, accept="none"),
    ):
        call(app, environ)
    assert inner.keys == [None, "pr-42", None, None]
    tenancy.configure(accept="none")
    call(TenancyMiddleware(TenancyMiddleware(inner), accept="all"), environ)
    assert inner.keys[-1] == "pr-42"
    assert environ == request(KEY, **{name: environ[name] for name in ("wsgi.input", "wsgi.errors")})


def test_one_inside_that_is_called_late_decides_once() -> None:
    """Also where the application around it is a generator, which calls it at its first step."""
    inner = Inner()
    within = TenancyMiddleware(inner)

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from within(environ, start_response)

    tenancy.configure(accept="none")
    call(TenancyMiddleware(app, accept="all"), request(KEY))
    assert inner.keys == ["pr-42"]


def test_verdicts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is one verdict, with or without a key, also where middleware stands inside of middleware."""
    counted: list[Any] = []
    monkeypatch.setattr(
        "tenancy.routes.judge.count",
        lambda name, labels: counted.append((name, labels["adapter"], labels["verdict"], labels["reason"])),
    )
    tenancy.configure(workload="shop/orders", role="baseline")
    table = routes("pr-42")
    app = TenancyMiddleware(TenancyMiddleware(Inner(), accept="all", routes=table), routes=table)
    call(app, request())
    call(app, request(KEY))
    assert counted == [("tenancy.verdicts", "wsgi", "own", "unkeyed"), ("tenancy.verdicts", "wsgi", "skip", "forked_elsewhere")]


# At the edge


@pytest.mark.parametrize(
    ("edge", "environ"),
    [
        ("host:{key}.preview.example.com", {"HTTP_HOST": "pr-42.preview.example.com:8080"}),
        ("header:x-preview", {"HTTP_X_PREVIEW": "pr-42"}),
        ("cookie:preview", {"HTTP_COOKIE": "a=1; preview=pr-42"}),
        ("query:preview", {"QUERY_STRING": "a=1&preview=pr-42"}),
        (lambda request: "pr-42" if request.user == "anna" else None, {"REMOTE_USER": "anna"}),
        (lambda request: request.native["my.key"], {"my.key": "pr-42"}),
        (lambda request: request.header("content-type"), {"CONTENT_TYPE": "pr-42"}),
    ],
)
def test_a_key_from_the_edge(edge: Any, environ: Any) -> None:
    """Where a request carries none, it is found in the place that the argument names, and the application sees it as any other."""
    inner = Inner()
    app = TenancyMiddleware(inner, edge=edge)
    call(app, request(environ))
    call(app, {**request(environ), "HTTP_BAGGAGE": "sd-routing-key=pr-1"})
    assert inner.keys == ["pr-42", "pr-1"]
    assert ours(inner.environs[0]) == KEY


def test_one_inside_of_another_never_asks_its_edge() -> None:
    """Where the outer one has found no key there is none."""
    inner = Inner()
    app = TenancyMiddleware(TenancyMiddleware(inner, accept="all", edge="header:x-preview"), edge="header:x-other")
    call(app, request(HTTP_X_PREVIEW="pr-42"))
    assert inner.keys == [None]


def test_a_request_without_any_header_has_an_edge_too() -> None:
    """Its query is looked at."""
    inner = Inner()
    answer = Answer()
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": "preview=pr-42"}
    TenancyMiddleware(inner, edge="query:preview")(environ, answer.start_response)
    assert inner.keys == ["pr-42"]


# The route table


@pytest.mark.parametrize("accept", [None, "all", lambda key: True])
def test_without_a_table_keyed_requests_fail_at_once_and_others_are_served(accept: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No thread waits: a keyed request is answered with 503, until the table could be read; nothing of the reason is told the caller."""
    source = Source("pr-42", broken=True)
    inner = Inner()
    app = TenancyMiddleware(inner, accept=accept, routes=LiveRoutes(source, interval=0.01))
    start = time.monotonic()
    for headers in ({}, {"HTTP_BAGGAGE": "a=1"}):
        assert call(app, request(headers)).code == 200
    for _ in range(3):
        answer = call(app, request(KEY))
        assert answer.status == "503 Service Unavailable"
        assert b"route table" in answer.body
        assert b"No such file" not in answer.body
    assert time.monotonic() - start < 1
    assert inner.keys == [None, None]
    assert caplog.text.count("No such file") == 1
    source.broken = False
    end = time.monotonic() + 5
    while call(app, request(KEY)).code == 503:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert inner.keys[-1] == "pr-42"


def test_where_no_key_is_accepted_no_table_is_needed() -> None:
    """Such a key is nobody's."""
    assert call(TenancyMiddleware(Inner(), accept="none", routes=routes(broken=True)), request(KEY)).code == 200


def test_the_table_is_followed_from_the_start() -> None:
    """It is read before the first request, and what changes is seen by the next one."""
    source = Source()
    source.mark = lambda: source.keys  # type: ignore[method-assign]
    table = LiveRoutes(source, interval=0.01)
    inner = Inner()
    app = TenancyMiddleware(inner, routes=table)
    assert table._view is not None
    source.keys = ("pr-42",)
    end = time.monotonic() + 5
    while inner.keys[-1:] != ["pr-42"]:
        assert time.monotonic() < end
        call(app, request(KEY))
    assert inner.keys[0] is None


def test_a_workload_that_the_table_does_not_know_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The application serves whatever arrives, so it starts, with a warning; as soon as there is a table."""
    tenancy.configure(workload="shop/order", role="baseline")
    TenancyMiddleware(Inner(), routes=routes("pr-42"))
    assert caplog.text.count("did you mean shop/orders") == 1
    caplog.clear()
    source = Source("pr-42", broken=True)
    table = LiveRoutes(source, interval=0.01)
    tenancy.configure(workload="shop/orderz", role="baseline")
    app = TenancyMiddleware(Inner(), routes=table)
    assert "did you mean" not in caplog.text
    source.broken = False
    table.refresh()
    call(app, request(KEY))
    call(app, request(KEY))
    assert caplog.text.count("did you mean shop/orders") == 1


# What can be seen


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_the_server_span_tells_the_key_and_the_verdict(order: str) -> None:
    """Wherever OpenTelemetry's middleware stands, its span has the key, the verdict and the reason."""
    tenancy.configure(workload="shop/orders", role="baseline")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    table = routes("pr-42")
    app: Any
    if order == "outside":
        app = OpenTelemetryMiddleware(TenancyMiddleware(Inner(), routes=table), tracer_provider=provider)
    else:
        app = TenancyMiddleware(OpenTelemetryMiddleware(Inner(), tracer_provider=provider), routes=table)
    for key in ("pr-42", "pr-7"):
        call(app, request(HTTP_BAGGAGE=f"sd-routing-key={key}"))
    served, refused = (span.attributes for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    assert served is not None
    assert refused is not None
    assert served["tenancy.routing_key"] == "pr-42"
    assert served["tenancy.verdict"] == "skip"
    assert "forks shop/orders in sandbox pr-42" in str(served["tenancy.reason"])
    assert "tenancy.routing_key" not in refused
    assert "pr-7 is not accepted" in str(refused["tenancy.reason"])


# In the application's place


def test_switched_off_it_is_not_there() -> None:
    """The middleware is the inner application itself, whatever its arguments."""
    tenancy.configure(enabled=False)
    inner = Inner()
    assert TenancyMiddleware(inner) is inner
    assert TenancyMiddleware(inner, accept="known", on_malformed="ignore") is inner
    assert TenancyMiddleware(app=inner) is inner


def test_a_sandbox_cannot_be_switched_off() -> None:
    """It would act as the baseline."""
    tenancy.configure(enabled=False, sandbox="pr-42")
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        TenancyMiddleware(Inner())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"response_header": "a b"}, "TENANCY_RESPONSE_HEADER"),
        ({"on_malformed": "drop"}, "on_malformed"),
        ({"accept": "some"}, "accept"),
        ({"accept": "known"}, "TENANCY_ROUTES"),
        ({"edge": "where:x"}, "edge"),
    ],
)
def test_arguments_are_checked(arguments: Any, named: str) -> None:
    """A wrong one raises when the application is put together."""
    with pytest.raises(ConfigurationError, match=named):
        TenancyMiddleware(Inner(), **arguments)


@pytest.mark.parametrize("server", ["waitress", "wsgiref", "werkzeug"])
def test_refusals_and_files_under_real_servers(server: str, tmp_path: Path) -> None:
    """A refusal is a whole response, HEAD and connections that are kept included, and a file arrives with its length."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "100000")])
        return environ.get("wsgi.file_wrapper", FileWrapper)(path.open("rb"))

    with serving_wsgi(TenancyMiddleware(app), server) as url, httpx.Client(timeout=10) as client:
        for _ in range(2):
            for method in ("GET", "HEAD", "POST"):
                answer = client.request(method, url, headers={"baggage": "sd-routing-key=PR_42"})
                assert answer.status_code == 400
                assert answer.text.startswith("The routing key in") or method == "HEAD"
            assert len(client.get(url, headers={"baggage": "sd-routing-key=pr-42"}).content) == 100_000
            assert len(client.get(url).content) == 100_000


def test_it_loads_the_standard_library_alone() -> None:
    """No client library, and nothing of asyncio's servers."""
    import subprocess

    code = "import sys, tenancy.http.wsgi; print({'flask', 'django', 'asgiref', 'werkzeug', 'wsgiref'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
