"""aiohttp's server behind real sockets: the propagation contract, and what is aiohttp's own."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import pytest
import websockets
from aiohttp import web
from aiohttp.web_app import Application
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation import aiohttp_server as theirs_module
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tenancy
from tenancy import ConfigurationError
from tenancy.http import aiohttp_server as adapter
from tenancy.http.aiohttp_server import setup
from tenancy.http.edge import EdgeRequest
from tenancy.routes import LiveRoutes, RouteTable
from tenancy.routes.table import Route
from tenancy.testing import MemoryRoutes
from tests.contract import Headers, Rejected
from tests.http.servers import ServerContract, Work, plain_client

Build = Callable[[Work], web.Application]
KEY = {"baggage": "sd-routing-key=pr-42"}

_storage_key: Callable[[str, type], Any] = getattr(web, "RequestKey", lambda name, _: name)
USER, LEFT, ANSWER = _storage_key("user", str), _storage_key("left", str), web.AppKey("answer", int)


@contextmanager
def serving(app: web.Application, **options: Any) -> Iterator[str]:
    """Run an application on a free port of 127.0.0.1; gives its address."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=1, **options)

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def get(url: str, headers: Any = (), method: str = "GET", **options: Any) -> httpx.Response:
    """One request, by a client that knows nothing of tenancy."""

    async def fetch() -> httpx.Response:
        async with plain_client() as client:
            return await client.request(method, url, headers=headers, **options)

    return asyncio.run(fetch())


def routes(*keys: str, broken: bool = False) -> MemoryRoutes:
    table = MemoryRoutes({"shop/orders": keys})
    if broken:
        table.lose("No such file")
    return table


async def handle(request: web.Request) -> web.Response:
    return web.json_response({"key": tenancy.routing_key(), "headers": [[n.lower(), v] for n, v in request.headers.items()]})


def application(*middlewares: Any, **options: Any) -> web.Application:
    """An application that answers with its key and what it sees of the headers."""
    app = web.Application(middlewares=list(middlewares))
    app.router.add_route("*", "/", handle)
    setup(app, **options)
    return app


def answer(app: web.Application, headers: Any = (), path: str = "/", **options: Any) -> Any:
    with serving(app) as url:
        return get(url + path, headers, **options).json()


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


# The contract


def plain(work: Work) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        await asyncio.sleep(0)
        work.run(request.headers["x-body"])
        await asyncio.sleep(0)
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", handle)
    app.router.add_get("/sub/", handle)
    return app


def ours(work: Work) -> web.Application:
    app = plain(work)
    setup(app)
    return app


def instrumented(work: Work) -> web.Application:
    adapter.instrument()
    return plain(work)


def opentelemetry_instrumented(work: Work) -> web.Application:
    """OpenTelemetry's instrumentor, and `setup` after it: our middleware is inside of theirs."""
    AioHttpServerInstrumentor().instrument(tracer_provider=TracerProvider())
    try:
        return ours(work)
    finally:
        AioHttpServerInstrumentor().uninstrument()


def opentelemetry_and_instrumented(work: Work) -> web.Application:
    AioHttpServerInstrumentor().instrument(tracer_provider=TracerProvider())
    try:
        return instrumented(work)
    finally:
        AioHttpServerInstrumentor().uninstrument()


def opentelemetry_inside(work: Work) -> web.Application:
    app = ours(work)
    AioHttpServerInstrumentor().instrument()  # its middleware needs what this sets
    AioHttpServerInstrumentor().uninstrument()
    app.middlewares.append(their_middleware())
    return app


def their_middleware() -> Any:
    return theirs_module.create_aiohttp_middleware(TracerProvider())


def sub_application(work: Work) -> web.Application:
    """A sub-application with a middleware of its own, in one that has it, too."""
    app, sub = web.Application(), plain(work)
    setup(sub)
    app.add_subapp("/sub", sub)
    setup(app)
    return app


def sub_application_alone(work: Work) -> web.Application:
    app, sub = web.Application(), plain(work)
    setup(sub)
    app.add_subapp("/sub", sub)
    return app


def streamed(work: Work) -> web.Application:
    """`StreamResponse.write` in the handler."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        work.run(request.headers["x-body"])
        await response.write(b"second")
        return response

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    return app


def body_of_an_iterator(work: Work) -> web.Application:
    """A body that is made when the handler and all middleware have returned."""

    async def handle(request: web.Request) -> web.Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0)
            work.run(request.headers["x-body"])
            yield b"second"

        return web.Response(body=body())

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    return app


def body_of_an_iterator_with_opentelemetry(work: Work) -> web.Application:
    AioHttpServerInstrumentor().instrument(tracer_provider=TracerProvider())
    try:
        return body_of_an_iterator(work)
    finally:
        AioHttpServerInstrumentor().uninstrument()


def signals(work: Work) -> web.Application:
    """The application's own signal, sent when the handler and all middleware have returned."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response()

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        work.run(request.headers["x-body"])

    app = web.Application()
    app.router.add_get("/", handle)
    app.on_response_prepare.append(signal)
    setup(app)
    return app


def raised(work: Work) -> web.Application:
    """A response that is raised, with a body that is made later."""

    async def handle(request: web.Request) -> web.Response:
        async def body() -> AsyncIterator[bytes]:
            work.run(request.headers["x-body"])
            yield b"ok"

        raise web.HTTPAccepted(body=body())

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    return app


def missing(work: Work) -> web.Application:
    """No route is found; another middleware sees that."""

    @web.middleware
    async def watch(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPNotFound:
            work.run(request.headers["x-body"])
            raise
        return response

    app = web.Application(middlewares=[watch])
    setup(app)
    return app


BUILDS: dict[str, tuple[Build, str]] = {
    "Setup": (ours, "/"),
    "Instrument": (instrumented, "/"),
    "OpenTelemetryOutside": (opentelemetry_instrumented, "/"),
    "OpenTelemetryAndInstrument": (opentelemetry_and_instrumented, "/"),
    "OpenTelemetryInside": (opentelemetry_inside, "/"),
    "SubApplication": (sub_application, "/sub/"),
    "SubApplicationAlone": (sub_application_alone, "/sub/"),
    "StreamResponse": (streamed, "/"),
    "BodyOfAnIterator": (body_of_an_iterator, "/"),
    "BodyOfAnIteratorOpenTelemetry": (body_of_an_iterator_with_opentelemetry, "/"),
    "Signals": (signals, "/"),
    "Raised": (raised, "/"),
    "NotFound": (missing, "/nowhere"),
}


@pytest.fixture(scope="class")
def server(request: pytest.FixtureRequest) -> Iterator[None]:
    work = request.cls.work = Work()
    with serving(request.cls.build(work)) as url:
        request.cls.url = url
        yield


@pytest.mark.usefixtures("server")
class BuiltContract(ServerContract):
    build: Build


for _name, (_build, _path) in BUILDS.items():
    _members = {"build": staticmethod(_build), "path": _path, "__module__": __name__}
    globals()[f"Test{_name}"] = type(f"Test{_name}", (BuiltContract,), _members)


class TestTask(BuiltContract):
    """A task that the handler starts, and that outlives the response."""

    @staticmethod
    def build(work: Work) -> web.Application:
        tasks = set()

        async def handle(request: web.Request) -> web.Response:
            name = request.headers["x-body"]

            async def later() -> None:
                await asyncio.sleep(0.001)
                work.run(name)

            task = asyncio.create_task(later())
            tasks.add(task)
            task.add_done_callback(lambda done: (tasks.discard(done), done.exception()))
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/", handle)
        setup(app)
        return app

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        """The response comes before the task has run."""
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


def websocket(work: Work) -> web.Application:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await asyncio.sleep(0)
            work.run(message.data)
            await socket.send_str("done")
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    return app


class TestWebSocket(BuiltContract):
    """The key of the handshake is that of every message; a malformed one ends the handshake."""

    @staticmethod
    def build(work: Work) -> web.Application:
        app = websocket(work)
        setup(app)
        return app

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        first, second = self.work.add(tenancy.routing_key), self.work.add(body)
        try:
            async with websockets.connect(
                self.url.replace("http://", "ws://") + "/", additional_headers=headers, open_timeout=30, proxy=None
            ) as connection:
                await connection.send(first)
                await connection.recv()
                await connection.send(second)
                await connection.recv()
        except websockets.InvalidStatus as refused:
            raise Rejected(refused.response.status_code) if refused.response.status_code == 400 else refused from None
        except websockets.ConnectionClosedError:
            return None
        finally:
            before = self.work.result(first)
        after = self.work.result(second)
        assert body is not tenancy.routing_key or before == after
        return after


class TestWebSocketOpenTelemetry(TestWebSocket):
    @staticmethod
    def build(work: Work) -> web.Application:
        AioHttpServerInstrumentor().instrument(tracer_provider=TracerProvider())
        try:
            return TestWebSocket.build(work)
        finally:
            AioHttpServerInstrumentor().uninstrument()


# What the application sees of the headers


async def test_clean_headers_are_as_they_came() -> None:
    """Where they say just what was admitted, nobody has touched them."""
    seen: list[Any] = []

    @web.middleware
    async def outside(request: web.Request, handler: Any) -> web.StreamResponse:
        before = request.headers, request.raw_headers, request._message
        response: web.StreamResponse = await handler(request)
        seen.append(
            all(one is other for one, other in zip(before, (request.headers, request.raw_headers, request._message), strict=True))
        )
        return response

    app = application()
    app.middlewares.insert(0, outside)
    with serving(app) as url:
        for baggage_line in ("", "a=1", "sd-routing-key=pr-42", "a=1;p=2,sd-routing-key=pr-42, b=2"):
            assert (await asyncio.to_thread(get, url, {"baggage": baggage_line})).status_code == 200
    assert seen == [True] * 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("baggage", "a=1"), ("Baggage", "sd-routing-key=pr-42")], [["baggage", "sd-routing-key=pr-42,a=1"]]),
        ([("baggage", "sd-routing-key=pr-1,sd-routing-key=pr-42")], [["baggage", "sd-routing-key=pr-42"]]),
        ([("baggage", "sd%2Drouting-key=pr%2D42;ttl=1,a=%41")], [["baggage", "sd-routing-key=pr-42,a=%41"]]),
        ([("ot-baggage-sd-routing-key", "pr-42")], [["baggage", "sd-routing-key=pr-42"]]),
        ([("tracestate", "v=1,sd-routing-key=pr-42")], [["baggage", "sd-routing-key=pr-42"], ["tracestate", "v=1"]]),
    ],
)
def test_other_headers_become_one_entry(before: Headers, after: list[list[str]]) -> None:
    """Several lines, duplicates, properties, encodings and other dialects are one plain entry for the application."""
    said = answer(application(), [*before, ("x-many", "1"), ("x-many", "2")])
    assert said["key"] == "pr-42"
    assert [pair for pair in said["headers"] if pair[0] in ("baggage", "tracestate", "ot-baggage-sd-routing-key")] == after
    assert [value for name, value in said["headers"] if name == "x-many"] == ["1", "2"]


async def test_all_views_of_the_headers_agree() -> None:
    """Decoded, raw, and those that aiohttp reads itself; bytes that are no UTF-8 stay, which `request.clone` does not survive."""
    seen: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.headers, request.raw_headers, request._message.headers, request._message.raw_headers))
        return web.Response(text=request.cookies["c"])

    app = web.Application()
    app.router.add_get("/", handle)

    @web.middleware
    async def look(request: web.Request, handler: Any) -> Any:
        assert request.headers["ot-baggage-sd-routing-key"] == "pr-42"  # what was looked at before is not remembered
        assert request.raw_headers
        return await handler(request)

    setup(app)
    app.middlewares.insert(0, look)
    with serving(app) as url:
        headers = [
            (b"ot-baggage-sd-routing-key", b"pr-42"),
            (b"X-Other", b"\xff\xe9"),
            (b"Cookie", b"c=1"),
            (b"baggage", b"a=\xff"),
        ]
        assert (await asyncio.to_thread(get, url, headers)).text == "1"
    decoded, raw, parsed, parsed_raw = seen[0]
    assert decoded is parsed
    assert raw is parsed_raw
    assert decoded["X-OTHER"] == "\udcff\udce9"
    assert decoded["baggage"] == "sd-routing-key=pr-42,a=\udcff"
    assert (b"X-Other", b"\xff\xe9") in raw
    assert (b"baggage", b"sd-routing-key=pr-42,a=\xff") in raw
    assert "ot-baggage-sd-routing-key" not in decoded


async def test_the_request_stays_the_one_that_it_is() -> None:
    """With other headers, too, it has the storage, the scheme and remote address, and the body that middleware outside gave it."""

    @web.middleware
    async def outside(request: web.Request, handler: Any) -> web.StreamResponse:
        request = request.clone(scheme="https", remote="192.0.2.7", host="shop.example.com")
        assert await request.read() == b"body"
        response: web.StreamResponse = await handler(request)
        response.headers["x-left"] = request[LEFT]
        return response

    async def handle(request: web.Request) -> web.Response:
        request[LEFT] = "by the handler"
        assert request.match_info["name"] == "pr"
        assert request.app is app
        assert request.config_dict[ANSWER] == 42
        return web.Response(text=f"{await request.text()} {request.url} {request.remote} {tenancy.routing_key()}")

    app = web.Application()
    app[ANSWER] = 42
    app.router.add_post("/{name}", handle)
    setup(app)
    app.middlewares.insert(0, outside)
    with serving(app) as url:
        response = await asyncio.to_thread(get, f"{url}/pr?a=1", {"ot-baggage-sd-routing-key": "pr-42"}, "POST", content=b"body")
    assert response.text == "body https://shop.example.com/pr?a=1 192.0.2.7 pr-42"
    assert response.headers["x-left"] == "by the handler"


@pytest.mark.parametrize("headers", [KEY, {"ot-baggage-sd-routing-key": "pr-42"}, {"baggage": "a=1"}])
async def test_bodies_of_requests(headers: dict[str, str]) -> None:
    """A body is read whole, in chunks, as a form, and while it still comes; also one that asks first (`Expect`)."""

    async def handle(request: web.Request) -> web.Response:
        if request.content_type == "multipart/form-data":
            form = await request.post()
            field = form["file"]
            assert isinstance(field, web.FileField)
            return web.Response(body=field.file.read())
        return web.Response(body=b"".join([chunk async for chunk in request.content.iter_any()]))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            await asyncio.sleep(0)
            yield b"x" * 1000

    app = web.Application()
    app.router.add_post("/", handle)
    setup(app)
    with serving(app) as url:
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.post(url, data=body()) as response:
                assert await response.read() == b"x" * 50000
            async with session.post(url, data=body(), expect100=True) as response:
                assert await response.read() == b"x" * 50000
            form = aiohttp.FormData()
            form.add_field("file", b"y" * 100000, filename="f")
            async with session.post(url, data=form) as response:
                assert await response.read() == b"y" * 100000


@pytest.mark.parametrize("order", ["alone", "outside", "inside"])
@pytest.mark.parametrize("line", ["sd-routing-key=pr-2", "a=1,sd-routing-key=PR_2"])
def test_a_refused_key_travels_no_further(order: str, line: str) -> None:
    """Neither the headers nor what OpenTelemetry injects has it, wherever its middleware stands."""
    from opentelemetry import propagate

    async def handle(request: web.Request) -> web.Response:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return web.json_response([carrier, tenancy.inject({}), list(request.headers.items())])

    AioHttpServerInstrumentor().instrument()
    AioHttpServerInstrumentor().uninstrument()
    theirs = their_middleware()
    app = web.Application(middlewares=[theirs] if order == "outside" else [])
    app.router.add_get("/", handle)
    setup(app, accept="none", on_malformed="ignore")
    if order == "inside":
        app.middlewares.append(theirs)
    parent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "v=1,sd-routing-key=pr-2"}
    said = answer(app, {"baggage": line, "uberctx-sd-routing-key": "pr-2", **parent})
    assert "pr-2" not in json.dumps(said).lower().replace("_", "-")
    assert ("traceparent" in said[0]) == (order != "alone")


# Which keys are accepted, and what is answered in the application's place


@pytest.mark.parametrize(
    ("accept", "accepted"), [(None, {"pr-1"}), ("all", {"pr-1", "pr-2"}), ("none", set()), (lambda key: key == "pr-2", {"pr-2"})]
)
def test_accept(accept: Any, accepted: set[str]) -> None:
    """A key that is not accepted is neither current nor in the headers; the request is served as the baseline's."""
    with serving(application(accept=accept, routes=routes("pr-1"))) as url:
        for key in ("pr-1", "pr-2"):
            said = get(url, {"baggage": f"sd-routing-key={key},a=1"}).json()
            expected = key if key in accepted else None
            assert said["key"] == expected
            assert ["baggage", f"sd-routing-key={key},a=1" if expected else "a=1"] in said["headers"]


def test_nothing_ambient_has_a_say() -> None:
    """A request without a key has none, whatever was current where the server was started, and other people's baggage stays."""

    async def handle(request: web.Request) -> web.Response:
        async def body() -> AsyncIterator[bytes]:
            yield json.dumps([said, tenancy.routing_key()]).encode()

        said = [tenancy.routing_key(), baggage.get_baggage("user"), tenancy.inject({})]
        return web.Response(body=body())

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    token = otel.attach(baggage.set_baggage("user", "1"))
    try:
        with tenancy.scope("pr-99"):
            assert answer(app) == [[None, "1", {}], None]
    finally:
        otel.detach(token)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_malformed_key_is_rejected(method: str) -> None:
    """The caller gets 400 and a text with the place and the value; the application never runs; the connection goes on."""
    with serving(application()) as url, httpx.Client(verify=False) as client:
        content = b"x" * 10000 if method == "POST" else None
        response = client.request(method, url, headers={"baggage": "sd-routing-key=<b>%1B"}, content=content)
        assert response.status_code == 400
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert method == "HEAD" or r"'\x3cb>\x1b'" in response.text
        assert int(response.headers["content-length"]) > 0
        assert client.get(url, headers=KEY).json()["key"] == "pr-42"


def test_a_malformed_key_may_be_ignored() -> None:
    """By argument the request is served without a key, and the application does not see it."""
    said = answer(application(on_malformed="ignore"), {"baggage": "a=1,sd-routing-key=PR_42"})
    assert said["key"] is None
    assert ["baggage", "a=1"] in said["headers"]


def test_a_sub_application_decides_only_by_a_rule_of_its_own() -> None:
    """What was refused outside is not accepted inside, by its headers or by an edge; what was accepted may be refused."""

    def nested(inner: dict[str, Any], **outer: Any) -> web.Application:
        app, sub = web.Application(), application(**inner)
        app.add_subapp("/sub", sub)
        setup(app, **outer)
        return app

    cookie = {**KEY, "cookie": "k=pr-42"}
    assert answer(nested({"accept": "all", "edge": "cookie:k"}, accept="none"), cookie, "/sub/")["key"] is None
    assert answer(nested({"edge": "cookie:k"}), {"cookie": "k=pr-42"}, "/sub/")["key"] is None
    assert answer(nested({"accept": "none"}), KEY, "/sub/")["key"] is None
    assert answer(nested({}), KEY, "/sub/")["key"] == "pr-42"
    tenancy.configure(accept="none")
    assert answer(nested({}, accept="all"), KEY, "/sub/")["key"] == "pr-42"


def test_verdicts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is one verdict, also in a sub-application that was set up, too."""
    counted: list[Any] = []
    monkeypatch.setattr("tenancy.routes.judge.count", lambda name, labels: counted.append((labels["adapter"], labels["verdict"])))
    tenancy.configure(workload="shop/orders", role="baseline")
    table = routes("pr-42")
    app, sub = web.Application(), application(accept="all", routes=table)
    app.add_subapp("/sub", sub)
    setup(app, routes=table)
    answer(app, KEY, "/sub/")
    answer_again = [("aiohttp", "skip")]
    assert counted == answer_again


# The route table


class Slow:
    """A route source that takes a while, and says when it is done."""

    name = "the test's routes"

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def read(self) -> RouteTable:
        time.sleep(0.2)
        self.order.append("read")
        return RouteTable([Route("shop/orders", tenancy.RoutingKey("pr-42"), "pr-42")])

    def mark(self) -> object:
        return None


@pytest.mark.parametrize("instrumented", [True, False])
def test_a_start_waits_for_the_table(instrumented: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the application does at its start comes after the table was read."""
    order: list[str] = []

    async def first(app: web.Application) -> AsyncIterator[None]:
        order.append("started")
        yield

    app = web.Application()
    app.cleanup_ctx.append(first)
    if instrumented:
        monkeypatch.setattr("tenancy.routes.admission.routes_for", lambda: LiveRoutes(Slow(order)))
        adapter.instrument()
    else:
        setup(app, routes=LiveRoutes(Slow(order)))
    with serving(app):
        assert order == ["read", "started"]


@pytest.mark.parametrize("instrumented", [True, False])
def test_a_start_without_a_table_fails(instrumented: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start raises with the reason."""
    tenancy.configure(routes_deadline=0.05)
    app = web.Application()
    if instrumented:
        monkeypatch.setattr("tenancy.routes.admission.routes_for", lambda: routes(broken=True))
        adapter.instrument()
    else:
        setup(app, routes=routes(broken=True))
    with pytest.raises(tenancy.RoutesNotSyncedError, match="No such file"), serving(app):
        pass


def test_a_workload_that_the_table_does_not_know_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The application serves whatever arrives, so it starts, with a warning."""
    tenancy.configure(workload="shop/order", role="baseline")
    with serving(application(routes=routes("pr-42"))):
        assert "did you mean shop/orders" in caplog.text


async def test_in_a_sub_application_that_started_without_a_table() -> None:
    """Where nobody ran its start, requests with a key are answered with 503 until the table is there; others do not wait."""
    tenancy.configure(routes_deadline=0.05)
    table = routes("pr-42", broken=True)
    app = application(routes=table)
    app.on_startup.clear()
    with serving(app) as url:
        assert (await asyncio.to_thread(get, url)).status_code == 200
        refused = await asyncio.to_thread(get, url, KEY)
        assert refused.status_code == 503
        assert "route table" in refused.text
        assert "No such file" not in refused.text
        with pytest.raises(websockets.InvalidStatus) as handshake:
            await websockets.connect(url.replace("http", "ws"), additional_headers=KEY, proxy=None)
        assert handshake.value.response.status_code == 503
        table.restore()
        assert (await asyncio.to_thread(get, url, KEY)).json()["key"] == "pr-42"


# Responses


def responses(app: web.Application, path: Any) -> web.Application:
    """Every way of answering, with headers that let anybody keep the answer."""
    cacheable = {"cache-control": "public, max-age=60", "vary": "accept"}

    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok", headers=cacheable)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=cacheable)
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        await response.prepare(request)
        await response.write(b"ok")
        return response

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers=cacheable)

    async def error(request: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound(headers=cacheable)

    async def compressed(request: web.Request) -> web.StreamResponse:
        response = web.Response(text="ok" * 1000, headers=cacheable)
        response.enable_compression()
        return response

    for handler in (plain, stream, file, error, compressed):
        app.router.add_get(f"/{handler.__name__}", handler)
    return app


@pytest.mark.parametrize("name", ["plain", "stream", "file", "error", "compressed"])
def test_responses_to_keyed_requests_are_private(name: str, tmp_path: Any) -> None:
    """A shared cache must not keep them, however they are made; others stay as they are."""
    (tmp_path / "file").write_text("ok")
    app = responses(web.Application(), tmp_path / "file")
    setup(app)
    with serving(app) as url:
        keyed, other = get(f"{url}/{name}", KEY), get(f"{url}/{name}")
    assert (keyed.headers["cache-control"], keyed.headers["vary"]) == ("private, max-age=60", "accept, baggage")
    assert (other.headers["cache-control"], other.headers["vary"]) == ("public, max-age=60", "accept")
    assert keyed.content == other.content
    assert keyed.headers.get_list("set-cookie") == other.headers.get_list("set-cookie")
    assert len(keyed.headers.get_list("set-cookie")) == (2 if name == "stream" else 0)


def test_errors_that_nobody_handles_are_private() -> None:
    """aiohttp's own 500 and 404, too."""

    async def fail(request: web.Request) -> web.Response:
        raise LookupError("the handler failed")

    app = web.Application()
    app.router.add_get("/", fail)
    setup(app)
    with serving(app) as url:
        for path, status in (("/", 500), ("/nowhere", 404)):
            response = get(url + path, KEY)
            assert (response.status_code, response.headers["cache-control"]) == (status, "private")
            assert "cache-control" not in get(url + path).headers


@pytest.mark.parametrize("later", [True, False])
def test_we_have_the_last_word_about_caches(later: bool) -> None:
    """Also where a signal of the application, registered before or after us, lets everybody keep everything."""

    async def public(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["cache-control"] = "public"

    app = web.Application()
    app.router.add_get("/", handle)
    if later:
        setup(app)
    app.on_response_prepare.append(public)
    if not later:
        adapter.instrument()
    with serving(app) as url:
        assert get(url, KEY).headers["cache-control"] == "private"
        assert get(url).headers["cache-control"] == "public"


def test_cache_headers_can_be_left_out() -> None:
    """By argument or setting nothing is added."""
    for options in ({"cache_headers": False}, {}):
        if not options:
            tenancy.configure(cache_headers=False)
        with serving(application(**options)) as url:
            assert "cache-control" not in get(url, KEY).headers


def test_a_header_tells_who_served() -> None:
    """Once, by argument or setting, also from a sub-application; an accepted WebSocket tells it without a word about caches."""
    tenancy.configure(workload="shop/orders", role="baseline", response_header="X-Tenancy-Served-By")
    table = routes("pr-42")
    app, sub = application(routes=table), application(routes=table)
    app.router.add_get("/socket", websocket_handler)
    app.add_subapp("/sub", sub)
    reason = 'reason="pr-42 forks shop/orders in sandbox pr-42, not the baseline"'
    with serving(app) as url:
        for path in ("/", "/sub/", "/nowhere"):
            assert get(url + path, KEY).headers["x-tenancy-served-by"] == f"shop/orders; baseline; routing_key=pr-42; {reason}"
        assert "is the baseline's" in get(url).headers["x-tenancy-served-by"]

        async def shake() -> Any:
            async with websockets.connect(url.replace("http", "ws") + "/socket", additional_headers=KEY, proxy=None) as connection:
                assert connection.response is not None
                return connection.response.headers

        headers = asyncio.run(shake())
        assert "routing_key=pr-42" in headers["x-tenancy-served-by"]
        assert "cache-control" not in headers


async def websocket_handler(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    return socket


# In the application's place


def test_switched_off_it_is_not_there() -> None:
    """An application that is set up is the same as one that is not, and nothing is patched."""
    tenancy.configure(enabled=False)
    original = vars(Application)["startup"]
    adapter.instrument()
    app, bare = web.Application(), web.Application()
    setup(app, accept="known")
    assert vars(Application)["startup"] is original
    assert [list(app.middlewares), len(app.on_startup), len(app.on_response_prepare)] == [
        list(bare.middlewares),
        len(bare.on_startup),
        len(bare.on_response_prepare),
    ]


def test_a_sandbox_cannot_be_switched_off() -> None:
    """It would act as the baseline."""
    tenancy.configure(enabled=False, sandbox="pr-42")
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        setup(web.Application())
    with pytest.raises(tenancy.IdentityError, match="switched off"):
        adapter.instrument()


def test_instrumenting_can_be_undone() -> None:
    """The patched attribute is the original again, whatever was done in between."""
    original = vars(Application)["startup"]
    adapter.instrument()
    adapter.instrument()
    assert vars(Application)["startup"] is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert vars(Application)["startup"] is original


def test_instrument_by_name() -> None:
    """`tenancy.instrument` knows it under the name of the module that people import."""
    original = vars(Application)["startup"]
    try:
        assert "aiohttp.web" in tenancy.instrument("aiohttp.web")
        app = web.Application()
        app.router.add_get("/", handle)
        assert answer(app, KEY)["key"] == "pr-42"
    finally:
        tenancy.uninstrument()
    assert vars(Application)["startup"] is original


def test_an_application_has_it_once() -> None:
    """Set up and instrumented it has one middleware; set up twice, or too late, it says so."""
    app = application(accept="none")
    adapter.instrument()
    assert answer(app, KEY)["key"] is None
    assert sum("tenancy" in repr(middleware) for middleware in app.middlewares) == 1
    with pytest.raises(ConfigurationError, match="once"):
        setup(app)
    other, sub = web.Application(), web.Application()
    other.add_subapp("/sub", sub)
    with pytest.raises(ConfigurationError, match="before that"):
        setup(sub)


def test_a_frozen_application_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Instrumented, one that was frozen before its start serves as it is, with a warning."""
    app = web.Application()
    app.router.add_get("/", handle)
    app.freeze()
    adapter.instrument()
    assert answer(app, KEY)["key"] is None
    assert "cannot be set up" in caplog.text


def test_arguments_are_checked() -> None:
    """A wrong one raises when the application is put together, and leaves it as it was."""
    app = web.Application()
    for arguments in (
        {"response_header": "a b"},
        {"on_malformed": "drop"},
        {"accept": "some"},
        {"edge": "host:x"},
        {"accept": "known"},
    ):
        with pytest.raises(ConfigurationError):
            setup(app, **arguments)
    assert list(app.middlewares) == []


def test_exceptions_pass() -> None:
    """Middleware outside gets the handler's own exception, and its response, the same objects."""
    seen: list[Any] = []
    raised = [LookupError("x"), web.HTTPConflict(), tenancy.RoutesNotSyncedError("of the application"), asyncio.TimeoutError()]
    waiting = list(raised)

    async def fail(request: web.Request) -> web.Response:
        raise waiting.pop(0)

    @web.middleware
    async def outside(request: web.Request, handler: Any) -> Any:
        try:
            return await handler(request)
        except Exception as error:
            seen.append(error)
            raise

    app = web.Application()
    app.router.add_get("/", fail)
    setup(app)
    app.middlewares.insert(0, outside)
    with serving(app) as url:
        assert [get(url, KEY).status_code for _ in raised] == [500, 409, 500, 504]
    assert all(one is other for one, other in zip(seen, raised, strict=True))


async def test_a_client_that_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """Its handler is cancelled, nothing stays current, and nobody complains about contexts; the next one is served."""
    begun, ended = threading.Event(), threading.Event()
    after: list[Any] = []

    async def forever(request: web.Request) -> web.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    @web.middleware
    async def outside(request: web.Request, handler: Any) -> Any:
        before = otel.get_current()
        try:
            return await handler(request)
        finally:
            after.append(otel.get_current() is before)
            ended.set()

    app = application()
    app.router.add_get("/forever", forever)
    app.middlewares.insert(0, outside)
    with serving(app, handler_cancellation=True) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /forever HTTP/1.1\r\nHost: x\r\nbaggage: sd-routing-key=pr-42\r\n\r\n")
        assert await asyncio.to_thread(begun.wait, 10)
        writer.close()
        assert await asyncio.to_thread(ended.wait, 10)
        assert (await asyncio.to_thread(get, url)).json()["key"] is None
    assert after == [True, True]
    assert "Failed to detach" not in caplog.text


async def test_a_client_that_leaves_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A body that is made while it is sent ends with its client, and nothing stays current."""
    states: list[Any] = []
    ended = threading.Event()

    async def endless(request: web.Request) -> web.Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    states.append(tenancy.routing_key())
                    yield b"x" * 100_000
            finally:
                ended.set()

        return web.Response(body=body())

    app = application()
    app.router.add_get("/endless", endless)
    with serving(app) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\nbaggage: sd-routing-key=pr-42\r\n\r\n")
        await reader.readexactly(300_000)
        writer.close()
        deadline = asyncio.get_running_loop().time() + 10
        while not ended.is_set() and asyncio.get_running_loop().time() < deadline:
            gc.collect()
            await asyncio.sleep(0.05)
        assert ended.is_set()
        assert (await asyncio.to_thread(get, url)).json()["key"] is None
    assert set(states) == {"pr-42"}
    assert "Failed to detach" not in caplog.text


def test_a_connection_that_is_kept_carries_nothing_over() -> None:
    """Requests one after the other on one connection, pipelined or not, have each their own key."""
    with serving(application()) as url, httpx.Client() as client:
        for key in ("pr-1", None, "pr-2", None):
            headers = {"baggage": f"sd-routing-key={key}"} if key else {}
            assert client.get(url, headers=headers).json()["key"] == key

        async def pipelined() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nbaggage: sd-routing-key=pr-1\r\n\r\n")
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

        answers = asyncio.run(pipelined())
    assert answers.index(b'"key": "pr-1"') < answers.index(b'"key": null')


def test_a_response_is_not_kept() -> None:
    """What lets it be finished with the key is gone when it is finished, without the garbage collector."""
    made: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        response = web.Response(text="ok")
        made.append(weakref.ref(response))
        return response

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    gc.disable()
    try:
        with serving(app) as url, httpx.Client() as client:
            for _ in range(4):  # the connection keeps the last one
                assert client.get(url, headers=KEY).text == "ok"
            assert [reference() for reference in made[:2]] == [None, None]
    finally:
        gc.enable()


def test_no_warning_in_development() -> None:
    """aiohttp warns of attributes and keys that a request should not have; it has no reason to."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with serving(application(response_header="x-who")) as url:
            assert get(url, {"ot-baggage-sd-routing-key": "pr-42"}).json()["key"] == "pr-42"


# What can be seen


def test_the_server_span_tells_the_key_and_the_verdict() -> None:
    """OpenTelemetry's instrumentor stands outside, so its span has the key, the verdict and the reason."""
    tenancy.configure(workload="shop/orders", role="baseline")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    try:
        app = application(routes=routes("pr-42"))
    finally:
        AioHttpServerInstrumentor().uninstrument()
    with serving(app) as url:
        for key in ("pr-42", "pr-7"):
            get(url, {"baggage": f"sd-routing-key={key}"})
    served, refused = (span.attributes for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    assert served is not None
    assert refused is not None
    assert (served["tenancy.routing_key"], served["tenancy.verdict"]) == ("pr-42", "skip")
    assert "tenancy.routing_key" not in refused
    assert "pr-7 is not accepted" in str(refused["tenancy.reason"])


def test_the_log_has_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """Records that a handler logs carry the request's key."""

    async def handle(request: web.Request) -> web.Response:
        logging.getLogger("shop").warning("served")
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handle)
    setup(app)
    caplog.handler.addFilter(keys := tenancy.observe.RoutingKeyFilter())
    try:
        with serving(app) as url:
            get(url, KEY)
            get(url)
    finally:
        caplog.handler.removeFilter(keys)
    assert [record.__dict__["routing_key"] for record in caplog.records if record.name == "shop"] == ["pr-42", "-"]


# The edge


def test_a_key_found_at_the_edge() -> None:
    """In the host name, a cookie, a raw query, or by what a middleware outside has found out about the user."""

    def of_user(request: EdgeRequest) -> str | None:
        user: str | None = request.native.get(USER)
        return {"anna": "pr-42"}.get(user or "")

    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> Any:
        request[USER] = request.headers.get("authorization")
        return await handler(request)

    app = application(edge=["host:{key}.preview.example.com", "cookie:routing-key", "query:rk", of_user])
    app.middlewares.insert(0, authenticate)
    with serving(app) as url:
        for headers, query in (
            ({"host": "pr-42.preview.example.com:8080"}, ""),
            ({"cookie": "a=1; routing-key=pr-42"}, ""),
            ({}, "?rk=pr%2D42&a=1%26rk=pr-7"),
            ({"authorization": "anna"}, ""),
        ):
            response = get(f"{url}/{query}", headers)
            assert response.json()["key"] == "pr-42"
            assert ["baggage", "sd-routing-key=pr-42"] in response.json()["headers"]
            assert response.headers["vary"] == "baggage, cookie"
        assert get(url, {"authorization": "bert"}).json()["key"] is None
        assert get(url, {**KEY, "cookie": "routing-key=pr-7"}).json()["key"] == "pr-42"
        assert "host name" in get(url, {"host": "none.preview.example.com"}).text
        assert get(f"{url}/?rk=pr%252D42").status_code == 400  # decoded once
