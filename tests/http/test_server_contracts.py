"""The propagation contract for everything that receives HTTP, behind real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import websockets
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import tenancy
from tenancy.http import fastapi as adapter
from tenancy.http.asgi import TenancyMiddleware
from tests.contract import Headers, Rejected
from tests.http.servers import ServerContract, Work, header, respond, serving

Build = Callable[[Work], Any]


def handlers(app: FastAPI, work: Work, *, sync: bool = False) -> FastAPI:
    if sync:

        @app.get("/")
        def handle(request: Request) -> str:
            work.run(request.headers["x-body"])
            return "ok"

    else:

        @app.get("/")
        async def handle_async(request: Request) -> str:
            await asyncio.sleep(0)
            work.run(request.headers["x-body"])
            await asyncio.sleep(0)
            return "ok"

    return app


def plain(work: Work) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        work.run(header(scope, b"x-body") or "")
        await asyncio.sleep(0)
        await respond(send)

    return TenancyMiddleware(app)


def fastapi(work: Work) -> Any:
    app = handlers(FastAPI(), work)
    app.add_middleware(TenancyMiddleware)
    return app


def fastapi_sync(work: Work) -> Any:
    app = handlers(FastAPI(), work, sync=True)
    app.add_middleware(TenancyMiddleware)
    return app


def fastapi_instrumented(work: Work) -> Any:
    adapter.instrument()
    return handlers(FastAPI(), work)


def otel_outside(work: Work) -> Any:
    app = fastapi(work)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())
    return app


def otel_outside_sync(work: Work) -> Any:
    app = fastapi_sync(work)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())
    return app


def otel_inside(work: Work) -> Any:
    app = handlers(FastAPI(), work)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())
    return TenancyMiddleware(app)


def otel_middleware_inside(work: Work) -> Any:
    app = fastapi(work)
    app.user_middleware.append(app.user_middleware[0].__class__(OpenTelemetryMiddleware, tracer_provider=TracerProvider()))
    return app


def otel_first_then_ours(work: Work) -> Any:
    app = handlers(FastAPI(), work)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())
    adapter.instrument()
    return app


def native_telemetry(work: Work) -> Any:
    app = handlers(FastAPI(telemetry={"tracer_provider": TracerProvider(), "auto_configure": False}), work)
    app.add_middleware(TenancyMiddleware)
    return app


def behind_base_http_middleware(work: Work) -> Any:
    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app = fastapi(work)
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.user_middleware.append(app.user_middleware[0].__class__(BaseHTTPMiddleware, dispatch=passing))
    return app


def streaming(work: Work, *, sync: bool = False) -> Any:
    async def chunks(name: str) -> AsyncIterator[str]:
        yield "data: first\n\n"
        await asyncio.sleep(0)
        work.run(name)
        yield "data: second\n\n"

    def sync_chunks(name: str) -> Iterator[str]:
        yield "data: first\n\n"
        work.run(name)
        yield "data: second\n\n"

    async def stream(request: Request) -> StreamingResponse:
        make = sync_chunks if sync else chunks
        return StreamingResponse(make(request.headers["x-body"]), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", stream)])
    app.add_middleware(TenancyMiddleware)
    return app


def streaming_sync(work: Work) -> Any:
    return streaming(work, sync=True)


def background(work: Work) -> Any:
    app = FastAPI()

    @app.get("/")
    async def handle(request: Request, tasks: BackgroundTasks) -> str:
        tasks.add_task(work.run, request.headers["x-body"])
        return "ok"

    app.add_middleware(TenancyMiddleware)
    return app


BUILDS: dict[str, Build] = {
    "PlainASGI": plain,
    "FastAPI": fastapi,
    "FastAPISync": fastapi_sync,
    "FastAPIInstrumented": fastapi_instrumented,
    "OpenTelemetryOutside": otel_outside,
    "OpenTelemetryOutsideSync": otel_outside_sync,
    "OpenTelemetryInside": otel_inside,
    "OpenTelemetryMiddlewareInside": otel_middleware_inside,
    "OpenTelemetryFirst": otel_first_then_ours,
    "NativeTelemetry": native_telemetry,
    "BaseHTTPMiddleware": behind_base_http_middleware,
    "ServerSentEvents": streaming,
    "StreamingSync": streaming_sync,
}


@pytest.fixture(scope="class")
def server(request: pytest.FixtureRequest) -> Iterator[None]:
    work = request.cls.work = Work()
    with serving(request.cls.build(work)) as url:
        request.cls.url = url
        try:
            yield
        finally:
            adapter.uninstrument()


@pytest.mark.usefixtures("server")
class BuiltContract(ServerContract):
    build: Build


for _name, _build in BUILDS.items():
    globals()[f"Test{_name}"] = type(f"Test{_name}", (BuiltContract,), {"build": staticmethod(_build), "__module__": __name__})


class TestBackgroundTask(BuiltContract):
    build = staticmethod(background)

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


async def _messages(websocket: WebSocket, work: Work) -> None:
    await websocket.accept()
    async for name in websocket.iter_text():
        await asyncio.sleep(0)
        work.run(name)
        await websocket.send_text("done")


@pytest.mark.usefixtures("server")
class WebSocketContract(ServerContract):
    """The key of the handshake is that of every message; a malformed one ends the handshake."""

    build: Build

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


def websocket(work: Work) -> Any:
    async def endpoint(websocket: WebSocket) -> None:
        await _messages(websocket, work)

    return Starlette(routes=[WebSocketRoute("/", endpoint)])


class TestWebSocket(WebSocketContract):
    @staticmethod
    def build(work: Work) -> Any:
        return TenancyMiddleware(websocket(work))


class TestWebSocketOpenTelemetryOutside(WebSocketContract):
    @staticmethod
    def build(work: Work) -> Any:
        return OpenTelemetryMiddleware(TenancyMiddleware(websocket(work)), tracer_provider=TracerProvider())


class TestWebSocketOpenTelemetryInside(WebSocketContract):
    @staticmethod
    def build(work: Work) -> Any:
        return TenancyMiddleware(OpenTelemetryMiddleware(websocket(work), tracer_provider=TracerProvider()))
