from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from websockets.sync.client import connect

import tenancy
from tenancy.context import routing_key
from tenancy.http import fastapi as adapter
from tenancy.http.fastapi import CurrentRoutingKey, TenancyMiddleware
from tenancy.http.reception import Reception
from tests.http.servers import get, serving

KEY = {"baggage": "sd-routing-key=pr-42"}


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were admitted, one entry for each decision."""
    decided: list[str] = []
    original, keyless = Reception.receive, Reception.receive_without_key

    def receive(self: Reception, headers: Any, reading: Any, *, nested: bool = False, **more: Any) -> Any:
        received = original(self, headers, reading, nested=nested, **more)
        if received.refusal is None and not nested:
            decided.append(str(routing_key(received.context)))
        return received

    def receive_without_key(self: Reception, *, nested: bool = False) -> Any:
        received = keyless(self, nested=nested)
        if not nested:
            decided.append(str(routing_key(received.context)))
        return received

    monkeypatch.setattr(Reception, "receive", receive)
    monkeypatch.setattr(Reception, "receive_without_key", receive_without_key)
    return decided


def service(app: FastAPI) -> FastAPI:
    @app.get("/")
    async def read(key: CurrentRoutingKey) -> str | None:
        return key

    @app.get("/sync")
    def read_sync(key: CurrentRoutingKey) -> str | None:
        assert key == tenancy.routing_key()
        return key

    return app


def test_the_dependency() -> None:
    """Handlers, sync and async, and other dependencies get the request's key or None; the API's description does not show it."""
    app = service(FastAPI())
    app.add_middleware(TenancyMiddleware)

    def name(key: CurrentRoutingKey) -> str:
        return f"name of {key}"

    @app.get("/nested")
    def nested(value: str = Depends(name)) -> str:
        return value

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, key: CurrentRoutingKey) -> None:
        await websocket.accept()
        await websocket.send_json(key)
        await websocket.close()

    for path in ("/", "/sync"):
        assert get(app, path, headers=KEY).json() == "pr-42"
        assert get(app, path).json() is None
    assert get(app, "/nested", headers=KEY).json() == "name of pr-42"
    with (
        serving(app) as url,
        connect(url.replace("http://", "ws://") + "/socket", additional_headers=KEY, proxy=None) as connection,
    ):
        assert connection.recv() == '"pr-42"'
    assert "parameters" not in get(app, "/openapi.json").json()["paths"]["/"]["get"]


def test_applications_before_and_after() -> None:
    """An application that was made before instrument() and has not started has the middleware, and so has one made after."""
    before = service(FastAPI())
    adapter.instrument()
    after = service(FastAPI())
    for app in (before, after):
        assert get(app, "/", headers=KEY).json() == "pr-42"
        assert get(app, "/sync", headers=KEY).json() == "pr-42"


def test_an_application_that_has_started_stays_as_it_is() -> None:
    """Middleware cannot be added to a running application, and it is not."""
    app = service(FastAPI())
    assert get(app, "/", headers=KEY).json() is None
    adapter.instrument()
    assert get(app, "/", headers=KEY).json() is None
    assert app.user_middleware == []


def test_starlette_applications() -> None:
    """Starlette alone is enough."""

    async def read(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(tenancy.routing_key()))

    adapter.instrument()
    assert get(Starlette(routes=[Route("/", read)]), "/", headers=KEY).text == "pr-42"


def test_it_is_added_once(admissions: list[str]) -> None:
    """However the middleware came to an application, it is there once and decides once."""
    adapter.instrument()
    adapter.instrument()
    added = service(FastAPI())
    added.add_middleware(TenancyMiddleware)
    given = service(FastAPI(middleware=[Middleware(TenancyMiddleware)]))

    class Own(TenancyMiddleware):
        pass

    derived = service(FastAPI(middleware=[Middleware(Own)]))
    for app in (added, given, derived, service(FastAPI())):
        assert get(app, "/", headers=KEY).json() == "pr-42"
        assert len(app.user_middleware) == 1
    assert admissions == ["pr-42"] * 4


def test_around_and_mounted(admissions: list[str]) -> None:
    """A middleware around the application, and one of an application that it mounts, do not decide a second time."""
    adapter.instrument()
    outer = FastAPI()
    outer.mount("/inner", service(FastAPI()))
    outer.include_router(APIRouter())
    assert get(outer, "/inner/", headers=KEY).json() == "pr-42"
    assert admissions == ["pr-42"]
    assert get(TenancyMiddleware(service(FastAPI()), accept="none"), "/", headers=KEY).json() is None
    assert admissions == ["pr-42", "None"]
    assert get(Starlette(routes=[Mount("/a", service(FastAPI()))]), "/a/", headers=KEY).json() == "pr-42"
    assert admissions == ["pr-42", "None", "pr-42"]


@pytest.mark.parametrize("order", ["ours first", "theirs first", "theirs first, one application"])
@pytest.mark.parametrize("native", [False, True])
def test_beside_opentelemetry(order: str, native: bool, admissions: list[str]) -> None:
    """In either order, whether it instruments the process or one application, and beside FastAPI's own telemetry."""
    import fastapi

    provider = TracerProvider()
    options: Any = {"telemetry": {"tracer_provider": provider, "auto_configure": False}} if native else {}
    instrumentor = FastAPIInstrumentor()
    if order == "ours first":
        adapter.instrument()
    if order != "theirs first, one application":
        instrumentor.instrument(tracer_provider=provider)
    try:
        app = service(fastapi.FastAPI(**options))
        if order == "theirs first, one application":
            FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
        adapter.instrument()
        assert get(app, "/", headers={"ot-baggage-sd-routing-key": "pr-42"}).json() == "pr-42"
        assert get(app, "/", headers={"baggage": "sd-routing-key=PR_42"}).status_code == 400
        assert get(app, "/").json() is None
        assert admissions == ["pr-42", "None"]
    finally:
        if order == "theirs first, one application":
            FastAPIInstrumentor.uninstrument_app(app)
        else:
            instrumentor.uninstrument()


def test_switched_off_nothing_is_patched() -> None:
    """Every attribute is the original, and applications have no middleware."""
    owners = [
        (owner, name)
        for owner in (FastAPI, Starlette)
        for name in ("__call__", "__init__", "build_middleware_stack", "add_middleware")
    ]
    originals = [getattr(owner, name) for owner, name in owners]
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert all(getattr(owner, name) is original for (owner, name), original in zip(owners, originals, strict=True))
    app = service(FastAPI())
    app.add_middleware(TenancyMiddleware)
    assert get(app, "/", headers=KEY).json() is None


def test_it_can_be_undone() -> None:
    """After uninstrument() every attribute is the original again; doing it twice is nothing."""
    originals = [FastAPI.__call__, Starlette.__call__]
    adapter.instrument()
    assert FastAPI.__call__ is not originals[0]
    adapter.uninstrument()
    adapter.uninstrument()
    assert all(one is other for one, other in zip([FastAPI.__call__, Starlette.__call__], originals, strict=True))
    assert get(service(FastAPI()), "/", headers=KEY).json() is None


def test_a_wrong_setting_stops_the_start() -> None:
    """The first message to the application, which is its start, raises, and the error says what to change."""
    adapter.instrument()
    tenancy.configure(response_header="a b")
    with pytest.raises(tenancy.ConfigurationError, match="TENANCY_RESPONSE_HEADER"):
        get(service(FastAPI()))


def test_a_server_takes_the_application_for_what_it_is() -> None:
    """Servers look whether the call is a coroutine function, so it stays one."""
    import inspect

    adapter.instrument()
    assert inspect.iscoroutinefunction(FastAPI().__call__)
    assert inspect.iscoroutinefunction(Starlette().__call__)
    assert inspect.iscoroutinefunction(TenancyMiddleware(FastAPI()).__call__)


def test_without_fastapi_the_error_names_the_extra() -> None:
    """The adapter tells what to install."""
    code = "import sys; sys.modules['fastapi'] = None\nimport tenancy.http.fastapi"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'request-tenancy[fastapi]'" in result.stderr
