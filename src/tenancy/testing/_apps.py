"""
One request to an application in this process, ASGI or WSGI, with a look at what is current wherever the application meets its server.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults

from opentelemetry import context as otel
from opentelemetry.context import Context

from .._patches import Patches
from ..context import routing_key
from ..errors import ConfigurationError
from ..key import RoutingKey
from .hops import Hops

__all__ = ["Exchange", "Request", "Response", "ask_asgi", "ask_wsgi", "current_exchange", "kind_of", "watching"]

_CHUNK = 1024  # bytes of a request's body that are given at once, so that a longer one comes in parts


class Response(NamedTuple):
    """
    What an application answered.

    Args:
        status: The status code.
        headers: Names in lower case, and values.
        body: All of the body.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        """
        The body as text.
        """
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """
        Return what the body says in JSON.
        """
        return json.loads(self.body)


class Request(NamedTuple):
    """
    What is asked of an application.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Exchange:
    """
    One request, and what was seen of it.

    Args:
        request: The request.
        key: The routing key that it carries.
        what: What is special about it, in words.
        hops: The outbound hops that it makes.
        pauses: How often others get their turn wherever the application meets its server.
    """

    request: Request
    key: RoutingKey | None
    what: str
    hops: Hops
    pauses: int = 0
    #: How many hops it must make at least.
    hops_expected: int = 0
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    #: The keys that were current where the application met its server.
    met: set[RoutingKey | None] = field(default_factory=set)
    #: The keys that anybody made current on the way; None: somebody made work without a key current.
    attached: set[RoutingKey | None] = field(default_factory=set)
    #: Whether something else was current when it was over.
    left_behind: bool = False
    error: BaseException | None = None

    @property
    def response(self) -> Response:
        """
        What was answered.
        """
        return Response(self.status, self.headers, bytes(self.body))

    def meet(self) -> None:
        """
        Look at what is current here.
        """
        self.met.add(routing_key())


def kind_of(app: Any) -> Literal["asgi", "wsgi"]:
    """
    Return what an application is, by what it is called with.

    Raises:
        ConfigurationError: If it cannot be told.
    """
    if not callable(app):
        raise ConfigurationError(f"{app!r} is no application: it cannot be called")
    inner: Any = app
    while isinstance(inner, functools.partial):
        inner = inner.func
    call = inner if inspect.isroutine(inner) else type(inner).__call__
    if inspect.iscoroutinefunction(call):
        return "asgi"
    try:
        wanted = [
            parameter
            for parameter in inspect.signature(app).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
    except (TypeError, ValueError):
        wanted = []
    if len(wanted) in (2, 3):
        return "wsgi" if len(wanted) == 2 else "asgi"
    raise ConfigurationError(
        f"it cannot be told whether {app!r} is an ASGI or a WSGI application; say kind='asgi' or kind='wsgi'. One for another kind of server "
        "is started by the test, called by a client, and watched with record_hops()"
    )


_current: ContextVar[Exchange | None] = ContextVar("tenancy_testing_exchange", default=None)


def current_exchange() -> Exchange | None:
    """
    Return the exchange that the code at hand serves, as far as its context says.
    """
    return _current.get()


@contextmanager
def watching() -> Iterator[None]:
    """
    Write down, for each exchange, which keys are made current, however deep in the application that is.
    """

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def attach(self: Any, context: Context) -> Any:
            exchange = _current.get()
            if exchange is not None:
                exchange.attached.add(routing_key(context))
            return original(self, context)

        return attach

    patches = Patches()
    patches.wrap(type(otel._RUNTIME_CONTEXT), "attach", wrapper)
    try:
        yield
    finally:
        patches.undo()


async def ask_asgi(app: Any, exchange: Exchange, state: dict[str, Any]) -> None:
    """
    Send a request to an ASGI application, in the current task.

    Args:
        app: The application.
        exchange: The request; what comes of it is written there.
        state: What the application has made at its start.
    """
    request = exchange.request
    path, _, query = request.path.partition("?")
    chunks = [request.body[at : at + _CHUNK] for at in range(0, len(request.body), _CHUNK)] or [b""]
    done = asyncio.Event()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in _with_host(request)],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        "state": dict(state),
    }

    async def receive() -> dict[str, Any]:
        exchange.meet()
        await _pause(exchange.pauses)
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        exchange.meet()
        await _pause(exchange.pauses)
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            exchange.headers = [
                (bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
        elif message["type"] == "http.response.body":
            exchange.body += message.get("body", b"")
            if not message.get("more_body", False):
                done.set()

    token = _current.set(exchange)
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - whoever asked says what it means
        exchange.error = error
    finally:
        done.set()
        _current.reset(token)


async def _pause(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def ask_wsgi(app: Any, exchange: Exchange, stop_after: int | None = None) -> None:
    """
    Send a request to a WSGI application, in the current thread.

    Args:
        app: The application.
        exchange: The request; what comes of it is written there.
        stop_after: How many parts of the body are taken before the caller goes away; default all.
    """
    request = exchange.request
    path, _, query = request.path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(request.body)) if request.body else "",
        "wsgi.input": _Input(request.body, exchange),
        "wsgi.multithread": True,
    }
    for name, value in _with_host(request):
        plain = name.upper().replace("-", "_")
        variable = plain if plain in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{plain}"
        environ[variable] = f"{environ[variable]},{value}" if variable in environ and value else value
    setup_testing_defaults(environ)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:  # noqa: ARG001
        exchange.meet()
        exchange.status = int(status.split(" ", 1)[0])
        exchange.headers = [(name.lower(), value) for name, value in headers]
        return exchange.body.extend

    before = otel.get_current()
    token = _current.set(exchange)
    try:
        body = app(environ, start_response)
        try:
            for number, chunk in enumerate(body, 1):
                exchange.body += chunk
                if number == stop_after:
                    break
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
    except Exception as error:  # noqa: BLE001 - whoever asked says what it means
        exchange.error = error
    finally:
        _current.reset(token)
        exchange.left_behind = otel.get_current() != before


class _Input(io.BytesIO):
    """
    A request's body, and a look at what is current for whoever reads it.
    """

    def __init__(self, body: bytes, exchange: Exchange) -> None:
        super().__init__(body)
        self._exchange = exchange

    def read(self, size: int | None = -1, /) -> bytes:
        self._exchange.meet()
        return super().read(size)


def _with_host(request: Request) -> list[tuple[str, str]]:
    named = any(name.lower() == "host" for name, _ in request.headers)
    return request.headers if named else [("host", "testserver"), *request.headers]
