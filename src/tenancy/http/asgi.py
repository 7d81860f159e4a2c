"""
ASGI: middleware for FastAPI, Starlette and every other ASGI application (https://asgi.readthedocs.io/en/latest/specs/).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from ..config import Accept, switched_on
from ..errors import RoutesNotSyncedError
from ..routes.live import LiveRoutes
from .edge import EdgeRequest, Resolver
from .reception import OnMalformed, Reception, Refusal, Reply

__all__ = ["TenancyMiddleware", "without_escapes"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Stands in the scope while one of us is at work, so that a mounted application with a middleware of its own does not decide again.
_MARK = "tenancy.admitted"
_SHARED = (b"baggage", b"tracestate")
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1, and the registry it set up.
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013


class TenancyMiddleware:
    """
    Makes the routing key of each request current while the application serves it: in handlers, dependencies, background tasks,
    streamed responses and every message of a WebSocket.

    ``app.add_middleware(TenancyMiddleware)``, or ``app = TenancyMiddleware(app)``. Where tenancy is switched off it is the inner
    application itself.

    A key that is not accepted, and one that is malformed, is removed from the headers that the application sees. A middleware inside of
    another (a mounted application that has its own) decides again only if it has an *accept* of its own, and never asks its *edge*.

    Args:
        app: The inner application.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: What becomes of a request whose key breaks the grammar: ``reject`` answers 400, or refuses the WebSocket handshake;
            ``ignore`` serves it without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``, which is
            none.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``, which is true.
        edge: Where a key is looked for in requests that carry none, such as ``"host:{key}.preview.example.com"``; default the setting
            ``edge``, which is nowhere.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If an argument cannot be used.
        IdentityError: If tenancy is switched off in a sandbox.
    """

    if not TYPE_CHECKING:

        def __new__(cls, app, **_):
            return super().__new__(cls) if switched_on() else app

    def __init__(
        self,
        app: App,
        *,
        accept: Accept | None = None,
        on_malformed: OnMalformed = "reject",
        response_header: str | None = None,
        cache_headers: bool | None = None,
        edge: Iterable[Resolver] | Resolver | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        self.app = app
        self._reception = Reception(
            "asgi",
            accept=accept,
            on_malformed=on_malformed,
            response_header=response_header,
            cache_headers=cache_headers,
            edge=edge,
            routes=routes,
        )
        self._decides_again = accept is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection.
        """
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            if kind == "lifespan":
                await self._lifespan(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        nested = _MARK in scope
        if nested and not self._decides_again:
            await self.app(scope, receive, send)
            return
        came = scope["headers"]
        if type(came) is not list:  # the specification asks for an iterable only
            came = scope["headers"] = list(came)
        headers = came
        reception = self._reception
        ours = reception.wants(headers)
        if not ours:
            received = reception.receive_without_key(nested=nested)
        else:
            for _, value in ours:
                if b"\\" in value:
                    headers = ours = without_escapes(came)
                    break
            reading = reception.read(ours, None if nested else lambda: _edge_request(scope))
            if reading.key is not None and not reception.synced:
                try:
                    await reception.sync()
                except RoutesNotSyncedError as error:
                    await _answer(scope, receive, send, reception.not_synced(error))
                    return
            received = reception.receive(headers, reading, ours=ours, nested=nested)
            if received.refusal is not None:
                await _answer(scope, receive, send, received.refusal)
                return
        if received.reply is not None:
            send = _Reply(send, received.reply).send
        seen = headers if received.headers is None else received.headers
        inner = scope if seen is came else {**scope, "headers": seen}
        inner[_MARK] = True
        token = None if received.context is None else otel.attach(received.context)
        try:
            await self.app(inner, receive, send)
        finally:
            if token is not None:
                otel.detach(token)
            if not nested:
                inner.pop(_MARK, None)
            if inner is not scope:
                # What the application puts into the scope (the matched route, say) is for whoever stands outside, too.
                scope.update((name, value) for name, value in inner.items() if name != "headers")

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] == "lifespan.startup" and self._reception.routes is not None:
            try:
                await self._reception.sync()
                await self._reception.check_workload()
            except RoutesNotSyncedError as error:
                await send({"type": "lifespan.startup.failed", "message": f"request-tenancy: {error}"})
                return
        replay: list[Message] = [message]

        async def again() -> Message:
            return replay.pop() if replay else await receive()

        await self.app(scope, again, send)


class _Reply:
    """
    The responses of one request.
    """

    __slots__ = ("_reply", "_send")

    def __init__(self, send: Send, reply: Reply) -> None:
        self._send = send
        self._reply = reply

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept"):
            headers = self._reply.headers(message.get("headers") or (), cacheable=kind == "http.response.start")
            message = {**message, "headers": headers}
        await self._send(message)


def _edge_request(scope: Scope) -> EdgeRequest:
    query = (scope.get("query_string") or b"").decode("latin-1")
    return EdgeRequest(scope["headers"], query, scope.get("user"), scope)


def without_escapes(headers: Any) -> list[Any]:
    """
    The headers less those members of others that would let OpenTelemetry's ASGI instrumentation, inside of us, see a key that is not there:
    where a value is not UTF-8 it undoes backslash escapes, of the whole value. Neither may stand in a ``baggage`` header.
    """
    return [
        (name, b",".join(member for member in value.split(b",") if member.isascii()))
        if name.lower() in _SHARED and b"\\" in value and not _is_utf8(value)
        else (name, value)
        for name, value in headers
    ]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _answer(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """
    Answer in place of the application; a WebSocket's handshake is refused.
    """
    kind = "http"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            code = _POLICY_VIOLATION if refusal.status == 400 else _TRY_AGAIN_LATER
            await send({"type": "websocket.close", "code": code, "reason": refusal.body.decode("ascii")[:120]})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": refusal.status, "headers": refusal.headers})
    await send({"type": f"{kind}.response.body", "body": refusal.body, "more_body": False})
