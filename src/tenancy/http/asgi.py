"""
ASGI: middleware for FastAPI, Starlette and every other ASGI application (https://asgi.readthedocs.io/en/latest/specs/).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import baggage, trace
from opentelemetry import context as otel

from ..baggage import codec
from ..config import Accept, Field, settings, switched_on
from ..context import attached, with_key
from ..errors import ConfigurationError, IdentityError, RoutesNotSyncedError
from ..key import RESERVED
from ..observe import annotate_span, count, warn_once
from ..propagator import current_codec
from ..routes.admission import Admission, Admitted
from ..routes.judge import Judge, judge_if_known
from ..routes.live import LiveRoutes
from ..routes.verdict import Verdict
from ._responses import private, served_by

__all__ = ["TenancyMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ADAPTER = "asgi"
# Stands in the scope while one of us is at work, so that a mounted application with a middleware of its own does not decide again.
_MARK = "tenancy.admitted"
_SHARED = (b"baggage", b"tracestate")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1, and the registry it set up.
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013

_NOT_SYNCED = (
    "This service could not read its route table, so it does not know whose work a request with a routing key is, and serves only requests "
    "without one. Its log has the reason; try again later.\n"
)


class TenancyMiddleware:
    """
    Makes the routing key of each request current while the application serves it: in handlers, dependencies, background tasks,
    streamed responses and every message of a WebSocket.

    ``app.add_middleware(TenancyMiddleware)``, or ``app = TenancyMiddleware(app)``. Where tenancy is switched off it is the inner
    application itself.

    A key that is not accepted, and one that is malformed, is removed from the headers that the application sees. A middleware inside of
    another (a mounted application that has its own) decides again only if it has an *accept* of its own.

    Args:
        app: The inner application.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: What becomes of a request whose key breaks the grammar: ``reject`` answers 400, or refuses the WebSocket handshake;
            ``ignore`` serves it without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``, which is
            none.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``, which is true.
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
        on_malformed: Literal["reject", "ignore"] = "reject",
        response_header: str | None = None,
        cache_headers: bool | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        using = settings()
        if on_malformed not in ("reject", "ignore"):
            raise ConfigurationError(f"on_malformed is {on_malformed!r}; use 'reject' or 'ignore'")
        header = using.response_header if response_header is None else response_header
        if header and not _TOKEN.fullmatch(header):
            raise ConfigurationError(
                f"response_header (TENANCY_RESPONSE_HEADER) is {header!r}; use a header name such as 'x-tenancy-served-by'"
            )
        self.app = app
        self._admission = Admission(_ADAPTER, accept=accept, routes=routes)
        self._decides_again = accept is not None
        self._reject = on_malformed == "reject"
        self._header = header.lower().encode("ascii") if header else None
        self._cache_headers = using.cache_headers if cache_headers is None else cache_headers
        # What stands inside reads the key from baggage, under the name that it has in the OpenTelemetry context.
        self._rewrite = codec(using.read, (Field("baggage", using.member),)).write
        self._members = tuple(field.name for field in using.read if field.kind == "baggage")
        self._synced = self._admission.routes is None or self._admission.accept == "none"
        self._syncing: asyncio.Task[None] | None = None
        self._judge: Judge | None = None
        self._judge_wanted = True

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
        if _MARK in scope and not self._decides_again:
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        if not isinstance(headers, (list, tuple)):  # the specification asks for an iterable only
            headers = scope["headers"] = list(headers)
        for _, value in headers:
            if b"\\" in value:
                headers = scope["headers"] = _without_escapes(headers)
                break
        if not self._synced and current_codec().read(headers).key is not None:
            try:
                await self._sync()
            except RoutesNotSyncedError as error:
                warn_once(f"asgi:{error}", "asgi: a request with a routing key was answered with 503: %s", error)
                await _answer(scope, receive, send, 503, _NOT_SYNCED)
                return
        admitted = self._admission.admit(headers)
        if admitted.outcome == "malformed" and self._reject:
            annotate_span(None, reason=admitted.reason)
            await _answer(scope, receive, send, 400, _malformed(headers, admitted))
            return
        nested = _MARK in scope
        verdict = None if nested else self._verdict(admitted)
        if admitted.outcome == "absent":
            if self._header is not None and not nested:
                send = _Reply(send, self, admitted, verdict).send
            scope[_MARK] = True
            try:
                # Without OpenTelemetry in front the context is empty, and there is nothing to look for.
                if otel.get_current() and self._ambient():
                    with attached(with_key(None)):
                        await self.app(scope, receive, send)
                else:
                    await self.app(scope, receive, send)
            finally:
                if not nested:
                    scope.pop(_MARK, None)
            return
        if not nested:
            send = _Reply(send, self, admitted, verdict).send
        await self._serve(self._cleaned(scope, headers, admitted), scope, receive, send, admitted)

    async def _serve(self, inner: Scope, scope: Scope, receive: Receive, send: Send, admitted: Admitted) -> None:
        """
        Serve a connection whose headers had something that was meant as a key.
        """
        nested = _MARK in inner
        inner[_MARK] = True
        try:
            with attached(with_key(admitted.key)):
                await self.app(inner, receive, send)
        finally:
            if not nested:
                del inner[_MARK]
            if inner is not scope:
                # What the application puts into the scope (the matched route, say) is for whoever stands outside, too.
                scope.update((name, value) for name, value in inner.items() if name != "headers")

    def _cleaned(self, scope: Scope, headers: Any, admitted: Admitted) -> Scope:
        """
        The scope itself where its headers say just what was admitted, else a copy whose headers do.

        OpenTelemetry's instrumentation inside of us reads them again, by rules of its own, and handlers pass them on as they are.
        """
        written = self._rewrite(headers, admitted.key, binary=True)
        if written.dropped:
            count("tenancy.baggage.dropped_members", amount=written.dropped)
        if _same(headers, written.carrier):
            return scope
        return {**scope, "headers": written.carrier}

    def _ambient(self) -> bool:
        return any(baggage.get_baggage(name) is not None for name in self._members)

    def _verdict(self, admitted: Admitted) -> Verdict | None:
        """
        Count, and put on the current span, whose work this is, where the settings say who this process is.
        """
        if self._judge_wanted:
            self._judge_wanted = False
            self._judge = judge_if_known(_ADAPTER, routes=self._admission.routes)
        verdict = None
        if self._judge is not None and (admitted.key is None or self._synced):
            verdict = self._judge.judge(admitted.key)
        elif admitted.key is not None:
            annotate_span(admitted.key, reason=admitted.reason)
        if admitted.outcome in ("refused", "malformed"):
            annotate_span(None, reason=admitted.reason)
        return verdict

    async def _sync(self) -> None:
        """
        Wait for the route table, all requests that need it together: each holding a thread of the pool would leave none for others.
        """
        loop = asyncio.get_running_loop()
        waiting = self._syncing
        if waiting is None or waiting.done() or waiting.get_loop() is not loop:
            waiting = self._syncing = loop.create_task(asyncio.to_thread(self._admission.wait_synced))
            waiting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(waiting)
        self._synced = True

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] == "lifespan.startup" and self._admission.routes is not None:
            try:
                await self._sync()
                await self._check_workload()
            except RoutesNotSyncedError as error:
                await send({"type": "lifespan.startup.failed", "message": f"request-tenancy: {error}"})
                return
        replay: list[Message] = [message]

        async def again() -> Message:
            return replay.pop() if replay else await receive()

        await self.app(scope, again, send)

    async def _check_workload(self) -> None:
        judge = judge_if_known(_ADAPTER, routes=self._admission.routes)
        if judge is not None:
            try:
                await judge.synced()
            except IdentityError as error:  # it serves whatever arrives, so this only makes its verdicts wrong
                warn_once(f"asgi:{error}", "asgi: %s", error)


class _Reply:
    """
    The responses of one request, with what the caller has to know.
    """

    __slots__ = ("_admitted", "_annotate", "_cache_headers", "_header", "_send", "_verdict")

    def __init__(self, send: Send, using: TenancyMiddleware, admitted: Admitted, verdict: Verdict | None) -> None:
        self._send = send
        self._admitted = admitted
        self._verdict = verdict
        self._header = using._header
        self._cache_headers = using._cache_headers and admitted.key is not None
        # OpenTelemetry's instrumentation outside of us has a span already; one inside of us makes it only now.
        self._annotate = not trace.get_current_span().is_recording()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept"):
            if self._annotate:
                verdict = self._verdict
                annotate_span(self._admitted.key, verdict=verdict.action.value if verdict else None, reason=self._reason())
            headers = list(message.get("headers") or ())
            if self._cache_headers and kind == "http.response.start":
                headers = private(headers)
            if self._header is not None:
                headers.append((self._header, served_by(self._admitted.key, self._reason())))
            message = {**message, "headers": headers}
        await self._send(message)

    def _reason(self) -> str:
        admitted = self._admitted
        return self._verdict.reason if self._verdict is not None and admitted.outcome in ("absent", "accepted") else admitted.reason


def _without_escapes(headers: Any) -> list[Any]:
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


def _same(headers: Any, written: Any) -> bool:
    """
    Whether rewriting changed nothing but the order of headers and of baggage members.
    """
    return len(headers) == len(written) and _shared(headers) == _shared(written)


def _shared(headers: Any) -> list[list[bytes]]:
    return sorted(sorted(value.split(b",")) for name, value in headers if name.lower() in _SHARED)


def _malformed(headers: Any, admitted: Admitted) -> str:
    """
    The text that tells a caller what is wrong with the key.
    """
    using = settings()
    where = next((field for field in using.read if codec((field,), ()).read(headers).malformed is not None), using.read[0])
    place = f"header '{where.name}'" if where.kind == "header" else f"member '{where.name}' of the header '{where.kind}'"
    reason = admitted.reason.replace("<", "\\x3c")  # whatever shows this text, it is no markup
    return (
        f"The routing key in the {place} cannot be used: {reason}. A routing key is 1 to 63 of the characters a-z, 0-9 and '-', beginning "
        f"and ending with a letter or digit, and none of the reserved words {', '.join(sorted(RESERVED))}.\n"
    )


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    """
    Answer in place of the application; a WebSocket's handshake is refused.
    """
    body = text.encode("ascii", "backslashreplace")
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    kind = "http"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            code = _POLICY_VIOLATION if status == 400 else _TRY_AGAIN_LATER
            await send({"type": "websocket.close", "code": code, "reason": body.decode("ascii")[:120]})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body, "more_body": False})
