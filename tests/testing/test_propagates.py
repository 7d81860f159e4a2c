"""`assert_propagates`: applications that carry the key pass, and each way to lose, mix or leak it is found."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import django.conf
import pytest
import requests
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from flask import Flask
from opentelemetry import context as otel
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as OpenTelemetryWSGI
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.http.asgi import TenancyMiddleware
from tenancy.testing import MemoryRoutes, Response, assert_propagates, assert_propagates_async
from tests.http.servers import respond

Instrument = Callable[..., Any]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, body=str(tenancy.routing_key() or "").encode())


def fastapi(call: Callable[[], Any] = lambda: None) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def handle() -> str | None:
        call()
        return tenancy.routing_key()

    @app.get("/async")
    async def handle_async() -> str | None:
        await asyncio.sleep(0)
        return tenancy.routing_key()

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        body = await request.body()

        async def chunks() -> Any:
            for _ in range(3):
                await asyncio.sleep(0)
                yield f"{tenancy.routing_key() or '-'} {len(body)}\n"

        return StreamingResponse(chunks())

    return app


def wsgi(environ: Any, start_response: Any) -> Iterator[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([str(tenancy.routing_key() or "").encode(), b""])


class Carrying:
    """A WSGI middleware in a few lines, right in all that counts, with a fault where a test wants one."""

    def __init__(self, app: Any = wsgi, *, keep: bool = False, close: bool = True) -> None:
        self.app, self.keep, self.close = app, keep, close

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        key = tenancy.extract({"baggage": environ.get("HTTP_BAGGAGE", "")})
        if self.keep:
            otel.attach(tenancy.propagator.with_key(key))
            return self.app(environ, start_response)  # type: ignore[no-any-return]
        with tenancy.scope(key):
            body = list(self.app(environ, start_response))
        return iter(body)


def text(response: Response) -> str:
    return response.text


def failure(app: Any, path: str = "/", **options: Any) -> str:
    with pytest.raises(AssertionError, match="the application does not carry the routing key") as caught:
        assert_propagates(app, path, **options)
    return str(caught.value)


# Applications that do


def test_with_our_middleware() -> None:
    """Added to FastAPI, or around any application: sync and async handlers, request bodies in parts and streamed responses."""
    app = fastapi()
    app.add_middleware(TenancyMiddleware)
    for path in ("/", "/async"):
        assert_propagates(app, path, seen=Response.json)

    def last(response: Response) -> str:
        key, size = response.text.splitlines()[-1].split()
        assert size == "5000"
        return key.strip("-")

    assert_propagates(app, "/stream", method="POST", body=b"x" * 5000, seen=last)
    assert_propagates(TenancyMiddleware(asgi), seen=text)
    assert_propagates(partial(TenancyMiddleware(asgi)), seen=text)


def test_with_another_middleware_around_ours() -> None:
    """Starlette's runs the application in a task of its own, so that the key is current further in only."""
    app = fastapi()
    app.add_middleware(TenancyMiddleware)
    outside = set()

    @app.middleware("http")
    async def around(request: Request, call_next: Any) -> Any:
        outside.add(tenancy.routing_key())
        return await call_next(request)

    assert_propagates(app, seen=Response.json)
    assert_propagates(app)
    assert outside == {None, "around-the-server"}


@pytest.mark.parametrize("build", ["fastapi", "asgi", "flask", "wsgi"])
def test_with_opentelemetry_s_instrumentation_alone(build: str) -> None:
    """It carries baggage, in whichever way it is switched on."""
    provider = TracerProvider()
    app: Any
    if build == "fastapi":
        app = fastapi()
        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
        assert_propagates(app, seen=Response.json)
    elif build == "asgi":
        assert_propagates(OpenTelemetryMiddleware(asgi, tracer_provider=provider), seen=text)
    elif build == "flask":
        app = Flask(__name__)
        app.add_url_rule("/", view_func=lambda: tenancy.routing_key() or "")
        FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
        assert_propagates(app, seen=text)
    else:
        assert_propagates(OpenTelemetryWSGI(wsgi, tracer_provider=provider), seen=text)


def test_with_django() -> None:
    """Its WSGI handler is an application like any other; whoever makes the key current inside is found."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="-", MIDDLEWARE=[])
        django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.test import override_settings

    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[]):  # other tests have settings of their own
        app = get_wsgi_application()
        assert "never made pr-42 current" in failure(app, "/django")
        assert_propagates(Carrying(app), "/django", seen=text)


def django_view(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(tenancy.routing_key() or "")


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":
        from django.urls import path

        return [path("django", django_view)]
    raise AttributeError(name)


def test_with_wsgi() -> None:
    """A middleware of ten lines, with the body read and the response in parts."""
    assert_propagates(Carrying(), seen=text)
    assert_propagates(Carrying(), "/%C3%BC?a=1", method="POST", body=b"x" * 5000, headers={"content-type": "text/plain"})


async def test_in_a_running_loop() -> None:
    """Awaited where the application needs this loop; the other one works here as well, in a thread of its own."""
    loop = asyncio.get_running_loop()
    loops = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.add(asyncio.get_running_loop())
        await asgi(scope, receive, send)

    with tenancy.scope("pr-9"):
        await assert_propagates_async(TenancyMiddleware(app), seen=text)
        assert loops == {loop}
        await assert_propagates_async(Carrying(), seen=text)
        assert tenancy.routing_key() == "pr-9"
    with pytest.raises(AssertionError, match="never made"):
        await assert_propagates_async(asgi)
    assert_propagates(TenancyMiddleware(app), seen=text)
    assert len(loops) == 2


def test_known_keys() -> None:
    """Where only those of the route table are accepted, others are refused, and the message says what to do."""
    app = TenancyMiddleware(asgi, routes=MemoryRoutes({"shop/orders": ["pr-1", "pr-2"]}))
    assert_propagates(app, keys=["pr-1", "pr-2"], seen=text)
    message = failure(app)
    assert "never made pr-42 current" in message
    assert "see keys=" in message


def test_the_application_is_started_and_ended() -> None:
    """With its lifespan and what that has made; one that cannot start says why; one that has none needs none."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        seen.append("start")
        yield {"greeting": "hello"}
        seen.append("end")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    def handle(request: Request) -> str:
        return str(request.state.greeting)

    app.add_middleware(TenancyMiddleware)
    assert_propagates(app)
    assert seen == ["start", "end"]

    @asynccontextmanager
    async def failing(app: FastAPI) -> Any:
        yield
        raise LookupError("it cannot end")

    app.router.lifespan_context = failing
    with pytest.raises(AssertionError, match=r"(?s)did not end as it should: .*it cannot end"):
        assert_propagates(app)
    table = MemoryRoutes()
    table.lose("no such table")
    tenancy.configure(routes_deadline=0.05)
    with pytest.raises(AssertionError, match=r"did not start: .*no such table"):
        assert_propagates(TenancyMiddleware(asgi, routes=table))


# Applications that do not


def test_without_a_middleware() -> None:
    """Nobody makes the key current."""
    for app in (asgi, fastapi(), wsgi):
        message = failure(app)
        assert "GET /, with pr-42: never made pr-42 current" in message
        assert "GET /, with pr-43: never made pr-43 current" in message


def test_a_handler_that_does_not_see_it() -> None:
    """It became current somewhere, and not where the work is done."""

    def in_a_pool() -> str | None:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(tenancy.routing_key).result()

    app = FastAPI()
    app.add_api_route("/", in_a_pool)
    app.add_middleware(TenancyMiddleware)
    assert_propagates(app)
    assert "with pr-42: was answered by a handler that saw no key" in failure(app, seen=Response.json)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (lambda response: response.text, "something else than a routing key: seen= returned '\"pr-42\"', of type str"),
        (lambda response: {"key": "pr-42"}, "something else than a routing key: seen= returned {'key': 'pr-42'}, of type dict"),
        (lambda response: response.text.encode() and b"", "no key: seen= returned b'', of type bytes"),
        (lambda response: response.text and "pr-7", "pr-7"),
    ],
)
def test_what_seen_returned_is_shown(seen: Callable[[Response], Any], told: str) -> None:
    """As it is, with its type, where it can be no key: a handler that saw none is another mistake than a function that reads it wrongly."""
    app = FastAPI()
    app.add_api_route("/", lambda: tenancy.routing_key())
    app.add_middleware(TenancyMiddleware)
    assert f"with pr-42: was answered by a handler that saw {told}\n" in failure(
        app, seen=lambda response: seen(response) if "pr" in response.text else None
    )


def test_hops_without_the_key(peer: str, instrument: Instrument) -> None:
    """Sent by a bare client, or from a thread that lost it; switched on, they pass, as many as were expected."""
    app = fastapi(lambda: requests.get(peer, timeout=20))
    app.add_middleware(TenancyMiddleware)
    message = failure(app, hops=1)
    assert f"GET {peer}/, by urllib3\n" in message
    assert "carries no routing key, and the work is pr-42's" in message
    assert_propagates(app, ignore=["127.0.0.1"])
    instrument("requests")
    assert_propagates(app, hops=1)
    assert "made 1 outbound hops that could be seen, fewer than hops=2" in failure(app, hops=2)

    def in_a_thread() -> None:
        thread = threading.Thread(target=lambda: requests.get(peer, timeout=20))
        thread.start()
        thread.join()

    app = fastapi(in_a_thread)
    app.add_middleware(TenancyMiddleware)
    message = failure(app, hops=1)
    assert "with pr-42: 1 of 1 outbound hops" in message
    assert "a thread, a pool or a callback has lost it" in message


def test_hops_with_another_request_s_key(peer: str) -> None:
    """A client that keeps the first key it saw is found at the second request."""
    kept: list[dict[str, str]] = []

    def call() -> None:
        if not kept and tenancy.routing_key():
            kept.append(tenancy.inject())
        requests.get(peer, headers=kept[0] if kept else {}, timeout=20)

    app = fastapi(call)
    app.add_middleware(TenancyMiddleware)
    assert "carries pr-42, and the work is pr-43's" in failure(app)

    def detached() -> None:
        with tenancy.scope("pr-7"):
            requests.get(peer, headers=tenancy.inject(), timeout=20)

    app = fastapi(detached)
    app.add_middleware(TenancyMiddleware)
    assert "without a key: made a hop that carries pr-7" in failure(app)


def test_hops_that_leave_after_the_answer(peer: str, instrument: Instrument) -> None:
    """Each belongs to the request that caused it, though it leaves while the next one is served."""
    app = FastAPI()
    waiting: list[tuple[asyncio.Event, asyncio.Task[Any]]] = []

    async def later(go: asyncio.Event) -> None:
        await go.wait()
        await asyncio.to_thread(requests.get, peer, timeout=20)

    @app.get("/")
    async def handle() -> None:
        before = list(waiting)
        waiting.clear()
        go = asyncio.Event()
        waiting.append((go, asyncio.create_task(later(go))))
        for event, task in before:
            event.set()
            await task

    app.add_middleware(TenancyMiddleware)
    instrument("requests")
    assert_propagates(app, hops=1, crowd=6)
    waiting.clear()
    tenancy.uninstrument()
    message = failure(app, crowd=0)
    assert "with pr-42: 1 of 1 outbound hops" in message
    assert "carries no routing key, and the work is pr-42's" in message
    assert "pr-43" not in message


def test_a_key_that_leaks_into_other_requests() -> None:
    """Through a variable of the module, or a context that is never left."""
    state: dict[str, Any] = {}

    async def mixing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            state["headers"] = scope["headers"]
            await asyncio.sleep(0)
            with tenancy.scope([(name, value) for name, value in state["headers"] if name == b"baggage"]):
                await asgi(scope, receive, send)

    assert failure(mixing).count("with pr-42, among 40 requests at once: never made pr-42 current") == 1
    assert "among 41 requests at once: was served while pr-42 was current" in failure(mixing, crowd=41)
    assert_propagates(mixing, crowd=0)
    kept = failure(Carrying(keep=True))
    assert "left something current behind it" in kept


def test_an_application_that_takes_what_is_around_it() -> None:
    """Work without a key has none, whatever was current where the server was started."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        key = tenancy.extract(scope.get("headers"))
        with tenancy.scope(key or tenancy.routing_key()):
            await asgi(scope, receive, send)

    assert "around-the-server is current around the application: was served while around-the-server was current" in failure(app)


def test_malformed_keys() -> None:
    """Refused or passed over, as one likes; what fails on them is told, and so is what takes them for a key."""
    assert_propagates(TenancyMiddleware(asgi, on_malformed="ignore"), seen=text)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = dict(scope.get("headers", ())).get(b"baggage", b"").decode().partition("=")[2]
        with tenancy.scope(value or None):
            await asgi(scope, receive, send)

    message = failure(app)
    assert "with 'NOT_A_KEY' in the key's place: ended with InvalidRoutingKeyError" in message

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except tenancy.InvalidRoutingKeyError:
            await respond(send, 500, body=b"oh no")

    assert "with 'NOT_A_KEY' in the key's place: was answered with 500: 'oh no'" in failure(answering)


def test_requests_that_are_not_served_say_nothing() -> None:
    """An application that answers with an error, not at all, raises, or hangs, does not pass; its exception is the cause."""
    app = fastapi(lambda: 1 / 0)
    app.add_middleware(TenancyMiddleware)
    with pytest.raises(AssertionError, match="ended with ZeroDivisionError") as caught:
        assert_propagates(app)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert """was answered with 404: '{"detail":"Not Found"}'. Say a path=""" in failure(app, "/nowhere")

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0 if scope["type"] == "lifespan" else 60)

    def hanging_wsgi(environ: Any, start_response: Any) -> Any:
        time.sleep(3)

    assert "was not answered" in failure(silent)
    start = time.monotonic()
    for kind in (hanging, hanging_wsgi):
        assert "it was not done within 0.1 s" in failure(kind, timeout=0.1)
    assert time.monotonic() - start < 2

    async def never_starting(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    with pytest.raises(AssertionError, match=r"did not answer 'lifespan.startup' within 0.1 s"):
        assert_propagates(never_starting, timeout=0.1)


def test_many_problems_of_a_kind_are_told_once() -> None:
    """The message stays readable."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            with tenancy.scope(f"k{id(receive)}" if len(scope["headers"]) > 1 else None):
                await asgi(scope, receive, send)

    message = failure(app, keys=[f"pr-{number}" for number in range(20)])
    assert message.count("\n") < 15
    assert " more" in message


# What is said wrong


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no application, or none that can be told, and what is no key."""
    for app, what in (
        (object(), "is no application"),
        (lambda: None, "cannot be told whether"),
        (lambda *args: None, "say kind='asgi' or kind='wsgi'"),
    ):
        with pytest.raises(tenancy.ConfigurationError, match=what):
            assert_propagates(app)
    with pytest.raises(tenancy.ConfigurationError, match="kind is 'http'"):
        assert_propagates(asgi, kind="http")  # type: ignore[arg-type]
    for keys in ("pr-42", []):
        with pytest.raises(tenancy.ConfigurationError, match="keys is"):
            assert_propagates(asgi, keys=keys)
    with pytest.raises(tenancy.InvalidRoutingKeyError):
        assert_propagates(asgi, keys=["PR_42"])
    with pytest.raises(TypeError):
        assert_propagates(asgi, wrong=True)  # type: ignore[call-arg]


def test_the_kind_is_seen_or_said() -> None:
    """By what is a coroutine, by how many arguments are taken, or by what the caller says."""

    class Later:
        def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
            return TenancyMiddleware(asgi)(scope, receive, send)

    assert_propagates(Later(), seen=text)
    assert_propagates(lambda *args: Later()(*args), kind="asgi", seen=text)
    assert_propagates(lambda *args: Carrying()(*args), kind="wsgi", seen=text)


def test_everything_is_undone() -> None:
    """Neither what is watched nor what is current stays."""
    attach = type(otel._RUNTIME_CONTEXT).attach
    with tenancy.scope("pr-9"):
        assert_propagates(TenancyMiddleware(asgi))
        failure(asgi)
        assert tenancy.routing_key() == "pr-9"
    assert type(otel._RUNTIME_CONTEXT).attach is attach
