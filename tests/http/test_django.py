from __future__ import annotations

import asyncio
import gc
import io
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings
from django.urls import path
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tenancy
from tenancy.context import routing_key
from tenancy.http import asgi, wsgi
from tenancy.http import django as adapter
from tenancy.http.django import TenancyMiddleware
from tenancy.http.reception import Reception
from tenancy.routes import LiveRoutes
from tests import django_settings  # noqa: F401 - first of all
from tests.http.servers import ServerContract, Work, serving, through
from tests.http.test_wsgi import Source, Watched, complaints, serving_wsgi

OURS = "tenancy.http.django.TenancyMiddleware"
THEIRS = "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware"
KEY = {"baggage": "sd-routing-key=pr-42"}

settings.ROOT_URLCONF = __name__

WORK = Work()


# The contract


def view(request: Any) -> HttpResponse:
    WORK.run(request.headers["x-body"])
    return HttpResponse("ok")


async def view_async(request: Any) -> HttpResponse:
    await asyncio.sleep(0)
    WORK.run(request.headers["x-body"])
    await asyncio.sleep(0)
    return HttpResponse("ok")


def stream(request: Any) -> StreamingHttpResponse:
    def chunks(name: str) -> Iterator[str]:
        yield "first"
        WORK.run(name)
        yield "second"

    return StreamingHttpResponse(chunks(request.headers["x-body"]))


async def stream_async(request: Any) -> StreamingHttpResponse:
    async def chunks(name: str) -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(0)
        WORK.run(name)
        yield "second"

    return StreamingHttpResponse(chunks(request.headers["x-body"]))


def sync_only(get_response: Any) -> Any:
    """A middleware of the old kind: under ASGI all that stands outside of it runs in a thread."""

    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


SYNC_ONLY = f"{__name__}.sync_only"


def wsgi_app(*middleware: str) -> Any:
    with override_settings(MIDDLEWARE=list(middleware)):
        return WSGIHandler()


def asgi_app(*middleware: str) -> Any:
    with override_settings(MIDDLEWARE=list(middleware)):
        return ASGIHandler()


def instrumented(make: Callable[..., Any], *, theirs: str | None = None, position: int = 0) -> Any:
    """A handler made while both are instrumented, ours before or after theirs."""
    with override_settings(MIDDLEWARE=[SYNC_ONLY] if position else []), ExitStack() as stack:
        instrumentor = DjangoInstrumentor()
        if theirs is not None:
            stack.callback(instrumentor.uninstrument)
        stack.callback(adapter.uninstrument)
        if theirs == "first":
            instrumentor.instrument(tracer_provider=TracerProvider(), middleware_position=position)
        adapter.instrument()
        if theirs == "last":
            instrumentor.instrument(tracer_provider=TracerProvider(), middleware_position=position)
        return make()


@pytest.fixture(scope="class")
def django_server(request: pytest.FixtureRequest) -> Iterator[None]:
    cls = request.cls
    cls.work = WORK
    app = cls.build()
    with complaints() as said, serving(app, lifespan="off") if cls.interface == "asgi" else serving_wsgi(Watched(app)) as url:
        cls.url = url
        yield
    assert said == []


@pytest.mark.usefixtures("django_server")
class DjangoContract(ServerContract):
    build: Callable[[], Any]
    interface = "wsgi"


BUILDS: dict[str, tuple[Callable[[], Any], str, tuple[str, ...]]] = {
    "WSGI": (lambda: wsgi_app(OURS), "wsgi", ("/", "/stream", "/stream-async")),
    "ASGI": (lambda: asgi_app(OURS), "asgi", ("/", "/async", "/stream", "/stream-async")),
    "ASGIInThread": (lambda: asgi_app(OURS, SYNC_ONLY), "asgi", ("/", "/stream-async")),
    "ASGIBehindThread": (lambda: asgi_app(SYNC_ONLY, OURS), "asgi", ("/async",)),
    "WSGIInstrumented": (lambda: instrumented(WSGIHandler), "wsgi", ("/",)),
    "WSGITheirsFirst": (lambda: instrumented(WSGIHandler, theirs="first"), "wsgi", ("/stream",)),
    "WSGITheirsInside": (lambda: instrumented(WSGIHandler, theirs="first", position=1), "wsgi", ("/stream",)),
    "ASGITheirsLast": (lambda: instrumented(ASGIHandler, theirs="last"), "asgi", ("/stream-async",)),
    "ASGITheirsInside": (lambda: instrumented(ASGIHandler, theirs="last", position=1), "asgi", ("/async",)),
    "WSGIWrapped": (lambda: wsgi.TenancyMiddleware(wsgi_app()), "wsgi", ("/stream",)),
    "ASGIWrapped": (lambda: asgi.TenancyMiddleware(asgi_app()), "asgi", ("/stream-async",)),
}

for _name, (_build, _interface, _paths) in BUILDS.items():
    for _path in _paths:
        _title = f"Test{_name}{_path[1:].title().replace('-', '')}"
        globals()[_title] = type(
            _title,
            (DjangoContract,),
            {"build": staticmethod(_build), "interface": _interface, "path": _path, "__module__": __name__},
        )

urlpatterns = [path("", view), path("async", view_async), path("stream", stream), path("stream-async", stream_async)]


# One request


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = otel.get_current()
    yield
    assert otel.get_current() == before


def told(request: Any) -> JsonResponse:
    """What a view can see."""
    names = ("HTTP_BAGGAGE", "HTTP_OT_BAGGAGE_SD_ROUTING_KEY", "HTTP_UBERCTX_SD_ROUTING_KEY", "HTTP_TRACESTATE")
    headers = {name: value for name, value in request.headers.items() if f"HTTP_{name.upper().replace('-', '_')}" in names}
    scope = [(name.decode(), value.decode("latin-1")) for name, value in getattr(request, "scope", {}).get("headers", [])]
    return JsonResponse(
        {
            "key": tenancy.routing_key(),
            "meta": {name: request.META[name] for name in names if name in request.META},
            "environ": getattr(request, "environ", request.META) is request.META,
            "headers": {name.lower(): value for name, value in headers.items()},
            "scope": [pair for pair in scope if f"HTTP_{pair[0].upper().replace('-', '_')}" in names],
        }
    )


async def told_async(request: Any) -> JsonResponse:
    return told(request)


def cacheable(request: Any) -> HttpResponse:
    return HttpResponse("ok", headers={"Cache-Control": "public, max-age=60", "Vary": "Accept"})


def failing(request: Any) -> HttpResponse:
    raise LookupError("the view failed")


NOTES: list[tuple[str, str | None]] = []


def note(name: str) -> None:
    NOTES.append((name, tenancy.routing_key()))


class Chunks:
    """A body with all that one can have."""

    def __iter__(self) -> Iterator[bytes]:
        note("iter")
        yield b"chunk"

    def close(self) -> None:
        note("close")


def streamed(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(Chunks())


async def streamed_async(request: Any) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            for _ in range(50):  # before Django 5 it does not learn that nobody listens
                note("chunk")
                yield b"x" * 65536
                await asyncio.sleep(0.01)
        finally:
            note("finally")

    return StreamingHttpResponse(chunks())


def sent_file(request: Any) -> FileResponse:
    return FileResponse(open(request.GET["path"], "rb"))


class Made(io.RawIOBase):
    """A file that the application makes up."""

    def read(self, size: int = -1) -> bytes:
        note("read")
        return b"" if len(NOTES) > 1 else b"made"

    def close(self) -> None:
        note("close")


def made_file(request: Any) -> FileResponse:
    return FileResponse(Made())


def handler500(request: Any) -> HttpResponse:
    return HttpResponse(f"{tenancy.routing_key()}", status=500)


urlpatterns += [
    path("told", told),
    path("told-async", told_async),
    path("cacheable", cacheable),
    path("failing", failing),
    path("streamed", streamed),
    path("streamed-async", streamed_async),
    path("file", sent_file),
    path("made", made_file),
]


def get(app: Any, path: str = "/told", headers: Any = KEY) -> httpx.Response:
    if isinstance(app, (ASGIHandler, asgi.TenancyMiddleware)):
        return asyncio.run(through(app, headers, path))
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client:
        return client.get(path, headers=dict(httpx.Headers(headers).items()))  # joined, as servers do


INTERFACES = {
    "wsgi": (wsgi_app, "/told"),
    "asgi": (asgi_app, "/told-async"),
    "asgi in a thread": (lambda *middleware: asgi_app(*middleware, SYNC_ONLY), "/told"),
}


@pytest.fixture(params=INTERFACES)
def interface(request: pytest.FixtureRequest) -> tuple[Callable[..., Any], str]:
    return INTERFACES[request.param]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ([("baggage", "a=1"), ("baggage", "sd-routing-key=pr-42")], "sd-routing-key=pr-42,a=1"),
        ([("baggage", "sd-routing-key=pr-1,sd-routing-key=pr-42")], "sd-routing-key=pr-42"),
        ([("baggage", "sd-routing-key=pr-42;ttl=1")], "sd-routing-key=pr-42"),
        ([("ot-baggage-sd-routing-key", "pr-42"), ("baggage", "a=1")], "sd-routing-key=pr-42,a=1"),
        ([("uberctx-sd-routing-key", "pr-1"), ("baggage", "sd-routing-key=pr-42")], "sd-routing-key=pr-42"),
        ([("baggage", "a=1,sd-routing-key=pr-42")], "a=1,sd-routing-key=pr-42"),
    ],
)
def test_a_view_sees_what_was_admitted(interface: Any, headers: Any, seen: str) -> None:
    """META, the headers and the scope have one entry of one dialect, and the members of others as they came."""
    make, where = interface
    answer = get(make(OURS), where, headers).json()
    assert answer["key"] == "pr-42"
    assert answer["environ"] is True
    found = {answer["meta"].pop("HTTP_BAGGAGE"), answer["headers"].pop("baggage"), *(value for _, value in answer.pop("scope"))}
    # A server for WSGI joins what comes on several lines.
    assert {value.replace(", ", ",") for value in found} == {seen}
    assert (answer["meta"], answer["headers"]) == ({}, {})


class Refusing(TenancyMiddleware):
    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response, accept="none", on_malformed="ignore")


@pytest.mark.parametrize("header", ["a=1,sd-routing-key=pr-7", "sd-routing-key=PR_7,a=1"])
def test_a_refused_key_is_not_there(interface: Any, header: str) -> None:
    """Neither current nor anywhere in the request, and OpenTelemetry outside or inside does not bring it back."""
    make, where = interface
    refusing = f"{__name__}.Refusing"
    instrumentor = DjangoInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        for middleware in ([refusing], [THEIRS, refusing], [refusing, THEIRS]):
            answer = get(make(*middleware), where, [("baggage", header), ("ot-baggage-sd-routing-key", "pr-7")]).json()
            assert answer["key"] is None
            assert answer["meta"] == {"HTTP_BAGGAGE": "a=1"}
            assert answer["headers"] == {"baggage": "a=1"}
            assert answer["scope"] in ([], [["baggage", "a=1"]])
    finally:
        instrumentor.uninstrument()


@pytest.mark.parametrize("value", [b"\\x73d-routing-key=pr-2,z=\xff", b"sd-routing-key=pr-1,\\163d-routing-key=pr-2,z=\xff"])
def test_a_key_behind_backslashes_is_none(value: bytes) -> None:
    """OpenTelemetry's middleware inside undoes the escapes of a header that is not UTF-8; it gets one that is."""
    instrumentor = DjangoInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        app = asgi_app(f"{__name__}.OnlyFirst", THEIRS)
        answer = get(app, "/told-async", [(b"baggage", value)]).json()
    finally:
        instrumentor.uninstrument()
    assert answer["key"] in (None, "pr-1")
    assert all(part.isascii() for _, part in answer["scope"])


class OnlyFirst(TenancyMiddleware):
    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response, accept=lambda key: key == "pr-1")


@pytest.mark.parametrize("kind", [tuple, iter])
def test_headers_may_be_any_iterable(kind: Any) -> None:
    """The specification of ASGI promises no list; what is refused is not in the scope either."""
    app = asgi_app(f"{__name__}.OnlyFirst")

    def server(*pairs: tuple[bytes, bytes]) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "headers": kind(pairs)}, receive, send)

        return serve

    for key, seen in (("pr-1", "pr-1"), ("pr-7", None)):
        answer = asyncio.run(through(server((b"baggage", f"a=1,sd-routing-key={key}".encode())), path="/told-async")).json()
        assert answer["key"] == seen
        assert key == seen or "pr-7" not in str(answer)


def test_headers_that_were_looked_at_before_are_made_anew(interface: Any) -> None:
    """Django keeps them from the first time on, which a middleware outside of ours may have been."""
    make, where = interface
    answer = get(make(f"{__name__}.looking", f"{__name__}.Refusing"), where).json()
    assert answer["headers"] == {}


def looking(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        assert request.headers["baggage"]
        return get_response(request)

    return middleware


def test_the_environment_of_the_server_is_not_changed() -> None:
    """What the server and its access log have is as it came, plus what Django puts there."""
    environs: list[Any] = []
    app = wsgi_app(OURS, f"{__name__}.marking")

    def server(environ: Any, start_response: Any) -> Any:
        environs.append(environ)
        return app(environ, start_response)

    get(server, "/told", {"ot-baggage-sd-routing-key": "pr-42"})
    assert environs[0]["HTTP_OT_BAGGAGE_SD_ROUTING_KEY"] == "pr-42"
    assert "HTTP_BAGGAGE" not in environs[0]
    assert environs[0]["REMOTE_USER"] == "anna"
    assert "tenancy.admitted" not in environs[0]


def marking(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        request.META["REMOTE_USER"] = "anna"
        return get_response(request)

    return middleware


def test_what_a_server_brings_that_is_no_header_at_all() -> None:
    """Requests as tests make them, without a server, are served."""
    with override_settings(MIDDLEWARE=[OURS]):
        assert Client().get("/told", headers=KEY).json()["key"] == "pr-42"
        assert Client().get("/told", HTTP_BAGGAGE=None).json()["key"] is None

        async def ask() -> Any:
            return await AsyncClient().get("/told-async", headers=KEY)

        assert asyncio.run(ask()).json()["key"] == "pr-42"


def test_a_malformed_key_is_rejected(interface: Any) -> None:
    """400, with what is wrong; the view never runs."""
    make, where = interface
    response = get(make(OURS), where, {"baggage": "sd-routing-key=PR_42"})
    assert response.status_code == 400
    assert "member 'sd-routing-key' of the header 'baggage'" in response.text
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("headers", [KEY, {}])
def test_responses_to_keyed_requests_are_private(interface: Any, headers: Any) -> None:
    """A shared cache must not keep them, and others are left as they are."""
    make, _ = interface
    tenancy.configure(response_header="X-Who")
    response = get(make(OURS), "/cacheable", headers)
    expected = ("private, max-age=60", "Accept, baggage") if headers else ("public, max-age=60", "Accept")
    assert (response.headers["cache-control"], response.headers["vary"]) == expected
    assert ("routing_key=pr-42" in response.headers["x-who"]) is bool(headers)
    plain = get(make(OURS), "/told", headers)
    assert plain.headers.get("cache-control") == ("private" if headers else None)


@pytest.mark.parametrize("position", ["outside", "inside"])
def test_djangos_own_cache(position: str) -> None:
    """It keeps no response of a keyed request, or one for each key where one said so, and never gives one to another key."""
    from django.core.cache import cache

    caches = ["django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.FetchFromCacheMiddleware"]
    cache.clear()
    for private in (True, False):
        tenancy.configure(cache_headers=private)
        app = wsgi_app(*([*caches, OURS] if position == "outside" else [OURS, *caches]))
        keys = [get(app, "/vary", headers).json() for headers in (KEY, {}, {"baggage": "sd-routing-key=pr-7"}, KEY)]
        assert keys == ["pr-42", None, "pr-7", "pr-42"]


def vary(request: Any) -> JsonResponse:
    return JsonResponse(tenancy.routing_key(), safe=False, headers={"Cache-Control": "max-age=60", "Vary": "baggage"})


def test_error_pages_have_the_key(interface: Any) -> None:
    """They are made inside of all middleware."""
    make, _ = interface
    response = get(make(OURS), "/failing")
    assert (response.status_code, response.text) == (500, "pr-42")


# Streamed responses


@pytest.fixture
def notes() -> Iterator[list[tuple[str, str | None]]]:
    NOTES.clear()
    yield NOTES
    NOTES.clear()


def _wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_streamed_body_has_the_key_when_it_is_closed(interface: Any, notes: Any) -> None:
    """And so have receivers of request_finished; that of request_started comes before any middleware."""
    make, _ = interface

    def started(**_: Any) -> None:
        note("started")

    def finished(**_: Any) -> None:
        note("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        assert get(make(OURS), "/streamed").text == "chunk"
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)
    assert notes == [("started", None), ("iter", "pr-42"), ("close", "pr-42"), ("finished", "pr-42")]


def test_a_stream_that_the_caller_leaves(notes: Any) -> None:
    """What an asynchronous generator cleans up has the key, on a real server, and the next request has none."""
    with serving(asgi_app(OURS), lifespan="off") as url, httpx.Client() as client:
        with client.stream("GET", url + "/streamed-async", headers=KEY) as response:
            next(response.iter_raw())
        _wait_for(lambda: notes[-1:] == [("finally", "pr-42")])
        assert set(notes) == {("chunk", "pr-42"), ("finally", "pr-42")}
        assert client.get(url + "/told").json()["key"] is None


def test_an_async_stream_that_is_closed_half_way(notes: Any) -> None:
    """What its generator cleans up has the key, whoever closes it."""

    async def ask() -> None:
        async def get_response(request: Any) -> Any:
            return await streamed_async(request)

        response = await TenancyMiddleware(get_response)(AsyncRequestFactory().get("/", headers=KEY))
        steps = response._iterator
        assert await anext(steps)
        await steps.aclose()
        gc.collect()
        await asyncio.sleep(0.05)
        assert tenancy.routing_key() is None

    asyncio.run(ask())
    assert notes == [("chunk", "pr-42"), ("finally", "pr-42")]


def test_what_iterates_never_has_the_key() -> None:
    """Neither between two steps nor when it stops half-way, of a sync and an async response."""
    with override_settings(MIDDLEWARE=[OURS]):
        response: Any = Client().get("/streamed", headers=KEY)
        steps = iter(response)
        assert next(steps) == b"chunk"
        assert tenancy.routing_key() is None
        response.close()
        assert tenancy.routing_key() is None

        async def ask() -> None:
            response: Any = await AsyncClient().get("/streamed-async", headers=KEY)
            async for _ in response:
                assert tenancy.routing_key() is None
                break
            assert tenancy.routing_key() is None

        asyncio.run(ask())
    NOTES.clear()


def test_files_are_sent_by_the_server(tmp_path: Path, notes: Any) -> None:
    """A file of the operating system stays one for `wsgi.file_wrapper`; what the application made up is read with the key."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    wrapped: list[Any] = []
    app = wsgi_app(OURS)

    def server(environ: Any, start_response: Any) -> Any:
        environ["wsgi.file_wrapper"] = lambda file, size: wrapped.append(file) or iter([file.read()])
        return app(environ, start_response)

    assert get(server, f"/file?path={file}").content == b"content"
    assert [one.name for one in wrapped] == [str(file)]
    wrapped.clear()
    response = get(server, "/made")
    assert response.content == b"made"
    assert wrapped == []
    assert set(notes) == {("read", "pr-42"), ("close", "pr-42")}
    wrapped.clear()
    notes.clear()
    assert get(server, "/made", {}).content == b"made"
    assert len(wrapped) == 1


def test_a_streamed_response_without_a_key_is_djangos_own() -> None:
    """Nothing of it is replaced."""
    seen: list[Any] = []

    def get_response(request: Any) -> Any:
        body = iter([b"a"])
        seen.append(body)
        return StreamingHttpResponse(body)

    response = TenancyMiddleware(get_response)(RequestFactory().get("/"))
    assert response._iterator is seen[0]
    assert "close" not in vars(response)


# The route table


def test_without_a_table_keyed_requests_fail_and_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    """503 at once under WSGI, at the deadline under ASGI, until the table could be read."""
    tenancy.configure(routes_deadline=0.05)
    for make, where in INTERFACES.values():
        source = Source("pr-42", broken=True)
        middleware = with_routes(LiveRoutes(source, interval=0.01))
        app = make(f"{__name__}.{middleware}")
        assert get(app, where, {}).json()["key"] is None
        answer = get(app, where)
        assert answer.status_code == 503
        assert "No such file" not in answer.text
        source.broken = False
        time.sleep(0.05)
        assert get(app, where).json()["key"] == "pr-42"
    assert "No such file" in caplog.text


def with_routes(table: LiveRoutes) -> str:
    class Routed(TenancyMiddleware):
        def __init__(self, get_response: Any) -> None:
            super().__init__(get_response, routes=table)

    globals()["Routed"] = Routed
    return "Routed"


# At the edge


def test_a_key_from_the_edge(interface: Any) -> None:
    """It is looked for in the request, and the view sees it as any other."""
    make, where = interface
    tenancy.configure(edge=["header:x-preview", "query:preview", lambda request: request.native.GET.get("native")])
    app = make(OURS)
    for address, headers in ((where, {"x-preview": "pr-42"}), (f"{where}?preview=pr-42", {}), (f"{where}?native=pr-42", {})):
        answer = get(app, address, headers).json()
        assert answer["key"] == "pr-42"
        assert answer["meta"] == {"HTTP_BAGGAGE": "sd-routing-key=pr-42"}


def test_a_key_of_the_user(interface: Any) -> None:
    """Behind the middleware that finds the user a resolver may look at it, also where that reads the database; in front there is none."""
    from django.utils.functional import SimpleLazyObject

    make, where = interface

    class User:
        key = "pr-42"

    def found() -> User:
        from asgiref.sync import async_to_sync

        async_to_sync(asyncio.sleep)(0)  # which raises where there is an event loop, as database access does
        return User()

    def authenticating(get_response: Any) -> Any:
        def middleware(request: Any) -> Any:
            request.user = SimpleLazyObject(found)
            return get_response(request)

        return middleware

    globals()["authenticating"] = authenticating
    tenancy.configure(edge=lambda request: getattr(request.user, "key", None))
    assert get(make(f"{__name__}.authenticating", OURS), where, {}).json()["key"] == "pr-42"
    assert get(make(OURS, f"{__name__}.authenticating"), where, {}).json()["key"] is None


# instrument()


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were admitted, one entry for each decision."""
    decided: list[str] = []
    original = Reception.receive

    def receive(self: Reception, headers: Any, reading: Any, *, nested: bool = False, **more: Any) -> Any:
        received = original(self, headers, reading, nested=nested, **more)
        if received.refusal is None and not nested:
            decided.append(str(routing_key(received.context)))
        return received

    monkeypatch.setattr(Reception, "receive", receive)
    return decided


class Subclass(TenancyMiddleware):
    pass


class Accepting(TenancyMiddleware):
    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response, accept="all")


def test_a_subclass_in_the_settings_has_the_say(interface: Any) -> None:
    """Its arguments count, as if nothing were instrumented."""
    make, where = interface
    tenancy.configure(accept="none")
    adapter.instrument()
    assert get(make(f"{__name__}.Accepting"), where).json()["key"] == "pr-42"
    assert get(make(), where).json()["key"] is None


@pytest.mark.parametrize(
    "middleware",
    [[], [SYNC_ONLY], [OURS], [SYNC_ONLY, OURS], [f"{__name__}.Subclass"], (OURS,), (SYNC_ONLY,), [OURS, OURS]],
)
def test_it_is_there_once(middleware: Any, interface: Any, admissions: list[str]) -> None:
    """However the middleware came to a handler, it decides once, and Django's settings are the object that they were."""
    _, where = interface
    adapter.instrument()
    adapter.instrument()
    with override_settings(MIDDLEWARE=middleware):
        wsgi_handler, asgi_handler = WSGIHandler(), ASGIHandler()
        assert settings.MIDDLEWARE is middleware
    assert get(wsgi_handler).json()["key"] == "pr-42"
    assert get(asgi_handler, where).json()["key"] == "pr-42"
    assert get(wsgi.TenancyMiddleware(wsgi_handler)).json()["key"] == "pr-42"
    assert get(asgi.TenancyMiddleware(asgi_handler), where).json()["key"] == "pr-42"
    assert admissions == ["pr-42"] * 4


def test_handlers_before_and_after() -> None:
    """A handler that exists stays as it is; one that is made after has the middleware, Django's test client included."""
    before = wsgi_app()
    adapter.instrument()
    assert get(before).json()["key"] is None
    assert get(wsgi_app()).json()["key"] == "pr-42"
    assert Client().get("/told", headers=KEY).json()["key"] == "pr-42"


@pytest.mark.parametrize("order", ["ours first", "theirs first", "theirs inside"])
def test_beside_opentelemetry(order: str, interface: Any, admissions: list[str]) -> None:
    """In either order; where their middleware stands outside, as it does by default, its span has the key and the reason."""
    make, where = interface
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = DjangoInstrumentor()
    if order == "ours first":
        adapter.instrument()
    with override_settings(MIDDLEWARE=[SYNC_ONLY]):
        instrumentor.instrument(tracer_provider=provider, middleware_position=int(order == "theirs inside"))
        adapter.instrument()
        try:
            app = make.__globals__["asgi_app" if make is not wsgi_app else "wsgi_app"](*settings.MIDDLEWARE)
        finally:
            instrumentor.uninstrument()
    assert get(app, where, {"ot-baggage-sd-routing-key": "pr-42"}).json()["key"] == "pr-42"
    assert get(app, where, {}).json()["key"] is None
    assert get(app, where, {"baggage": "sd-routing-key=PR_42"}).status_code == 400
    assert admissions == ["pr-42", "None"]
    served, unkeyed, *_ = (span.attributes or {} for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    if order != "theirs inside":
        assert served["tenancy.routing_key"] == "pr-42"
        assert served["tenancy.reason"] == "pr-42: every key is accepted"
    assert "tenancy.routing_key" not in unkeyed


def test_what_is_wrong_is_said_by_django() -> None:
    """Middleware that cannot be imported, and settings of a wrong kind, are its errors, as they are without us."""
    adapter.instrument()
    for middleware, error in (["no.such.module"], ImportError), (None, TypeError), ([f"{__name__}.nothing"], ImportError):
        with override_settings(MIDDLEWARE=middleware), pytest.raises(error):
            WSGIHandler()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns far more often than they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_handlers_made_at_the_same_time(often: None) -> None:
    """Each has the middleware, and the settings stay as they are."""
    adapter.instrument()
    before = settings.MIDDLEWARE
    handlers: list[Any] = []
    gate = threading.Barrier(8)

    def make() -> None:
        gate.wait(10)
        handlers.extend([WSGIHandler() for _ in range(20)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings.MIDDLEWARE is before
    assert len(handlers) == 160
    assert all(get(handler).json()["key"] == "pr-42" for handler in handlers)


def test_switched_off_nothing_is_patched() -> None:
    """Every attribute is the original, and Django leaves the middleware out."""
    original = BaseHandler.load_middleware
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert BaseHandler.load_middleware is original
    for make, where in INTERFACES.values():
        assert get(make(OURS), where).json()["key"] is None


def test_a_sandbox_cannot_be_switched_off() -> None:
    """It would act as the baseline, so the start fails."""
    tenancy.configure(enabled=False, sandbox="pr-42")
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        wsgi_app(OURS)
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        adapter.instrument()


def test_it_can_be_undone() -> None:
    """After uninstrument() the attribute is the original again; doing it twice is nothing."""
    original = vars(BaseHandler)["load_middleware"]
    adapter.instrument()
    assert vars(BaseHandler)["load_middleware"] is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert vars(BaseHandler)["load_middleware"] is original
    assert get(wsgi_app()).json()["key"] is None


def test_without_settings_nothing_happens() -> None:
    """Where Django is installed and not used, instrumenting touches no settings; a handler raises what it always raised."""
    code = """
import tenancy
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
assert tenancy.instrument("django") == ("django",)
assert not settings.configured
from django.core.handlers.wsgi import WSGIHandler
try:
    WSGIHandler()
except ImproperlyConfigured as error:
    print(error)
tenancy.uninstrument()
assert not settings.configured
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "DJANGO_SETTINGS_MODULE" in done.stdout, done.stderr


def test_without_django_the_error_names_the_extra() -> None:
    """The adapter tells what to install."""
    code = "import sys; sys.modules['django'] = None\nimport tenancy.http.django"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'request-tenancy[django]'" in result.stderr


urlpatterns.append(path("vary", vary))
