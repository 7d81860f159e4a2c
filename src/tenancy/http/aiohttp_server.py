"""
aiohttp, the server: `setup` gives an application the routing key of each request, `instrument` every application of the process.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from opentelemetry import context as otel

from .._optional import extra
from .._patches import Patches
from ..baggage import ABSENT
from ..config import Accept, switched_on
from ..context import attached, routing_key, with_key
from ..errors import ConfigurationError, RoutesNotSyncedError
from ..key import RoutingKey
from ..observe import warn_once
from ..routes.live import LiveRoutes
from ._responses import HeaderPairs
from .edge import EdgeRequest, Resolver
from .reception import OnMalformed, Reception, Refusal

with extra("aiohttp", "aiohttp", "multidict"):
    from aiohttp import web
    from aiohttp.web_app import Application  # the class itself: OpenTelemetry puts another one in its place
    from multidict import CIMultiDict, CIMultiDictProxy

__all__ = ["instrument", "setup", "uninstrument"]

_ADAPTER = "aiohttp"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Since 3.14 a request's storage has keys with a type, and warns of others.
_storage_key: Callable[[str, type], Any] = getattr(web, "RequestKey", lambda name, _: name)
_REPLY = _storage_key("tenancy.reply", object)


def setup(
    app: web.Application,
    *,
    accept: Accept | None = None,
    on_malformed: OnMalformed = "reject",
    response_header: str | None = None,
    cache_headers: bool | None = None,
    edge: Iterable[Resolver] | Resolver | None = None,
    routes: LiveRoutes | None = None,
) -> None:
    """
    Make the routing key of each request current while an application serves it: in handlers, middleware, tasks that they start, streamed
    responses and every message of a WebSocket; nothing where tenancy is switched off.

    The middleware goes before all that the application has, but for OpenTelemetry's; what is to stand outside of it, such as the one that
    finds out who the user is, is put before it afterwards (``app.middlewares.insert(0, ...)``). The application's start waits for the route
    table.

    A key that is not accepted, and one that is malformed, is removed from the headers of the request. In a sub-application it decides again
    only if it has an *accept* of its own, and never asks its *edge*.

    Args:
        app: The application, before it starts or is added to another.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: What becomes of a request whose key breaks the grammar: ``reject`` answers 400, ``ignore`` serves it without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``, which is
            none.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``, which is true.
        edge: Where a key is looked for in requests that carry none, such as ``"host:{key}.preview.example.com"``; default the setting
            ``edge``, which is nowhere.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If an argument cannot be used, or the application has it already or can no longer be given it.
        IdentityError: If tenancy is switched off in a sandbox.
    """
    if not switched_on():
        return
    if _has_it(app):
        raise ConfigurationError(f"{app!r} was set up already; call setup() once for each application")
    if app.middlewares.frozen:
        raise ConfigurationError(f"{app!r} has started or is part of another application; call setup() before that")
    tenancy = _Tenancy(
        app,
        accept=accept,
        on_malformed=on_malformed,
        response_header=response_header,
        cache_headers=cache_headers,
        edge=edge,
        routes=routes,
    )
    tenancy.join()
    app.on_startup.insert(0, tenancy.start)


class _Tenancy:
    """
    What one application does about the keys of its requests.
    """

    def __init__(self, app: web.Application, *, accept: Accept | None = None, **options: Any) -> None:
        self._app = app
        self._reception = Reception(_ADAPTER, accept=accept, **options)
        self._decides_again = accept is not None

    def join(self) -> None:
        """
        Become the application's outermost middleware, but inside of OpenTelemetry's: its span has to be there to be told whose request it is.
        """
        middlewares = self._app.middlewares
        theirs = [str(getattr(middleware, "__module__", "")).startswith("opentelemetry.") for middleware in middlewares]
        middlewares.insert([*theirs, False].index(False), self.serve)
        self._app.on_response_prepare.append(self.prepare)

    async def start(self, _: web.Application) -> None:
        """
        Wait for the route table.
        """
        signal = self._app.on_response_prepare
        if not signal.frozen:  # the last word about the response's headers, after what was registered meanwhile
            signal.remove(self.prepare)
            signal.append(self.prepare)
        if self._reception.routes is not None:
            await self._reception.sync()
            await self._reception.check_workload()

    @web.middleware
    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """
        Serve one request.
        """
        nested = self._is_nested(request)
        if nested and not self._decides_again:
            return await handler(request)
        reception = self._reception
        headers = list(request.raw_headers)
        reading, ours = ABSENT, reception.wants(headers)
        if ours:
            reading = reception.read(ours, None if nested else lambda: _edge_request(request))
            if reading.key is not None and not reception.synced:
                try:
                    await reception.sync()
                except RoutesNotSyncedError as error:
                    return _answer(reception.not_synced(error))
        received = reception.receive(headers, reading, ours=ours, nested=nested)
        if received.refusal is not None:
            return _answer(received.refusal)
        if received.headers is not None:
            _rewrite(request, received.headers)
        if received.reply is not None:
            request[_REPLY] = received.reply
        token = None if received.context is None else otel.attach(received.context)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if received.context is not None:
                _finish_with(routing_key(received.context), error)
            raise
        finally:
            if token is not None:
                otel.detach(token)
        if received.context is not None:
            _finish_with(routing_key(received.context), response)
        return response

    def _is_nested(self, request: web.Request) -> bool:
        """
        Whether an application that this one is part of has decided about the request.
        """
        for app in request.match_info.apps:
            if app is self._app:
                break
            if _has_it(app):
                return True
        return False

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """
        Say in the headers of a response, which are about to be sent, what its caller has to know.
        """
        reply = request.pop(_REPLY, None)
        if reply is not None:
            came = [(_encoded(name), _encoded(value)) for name, value in response.headers.items()]
            told = reply.headers(came, cacheable=response.status != 101)
            if told != came:
                response.headers.clear()
                response.headers.extend([(_decoded(name), _decoded(value)) for name, value in told])


_patches = Patches()


def instrument() -> None:
    """
    Set up every application of this process that has not started yet, unless it was already; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        _patches.wrap(Application, "startup", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`; applications that have started stay as they are.
    """
    _patches.undo()


def _patched(original: Callable[[web.Application], Awaitable[None]]) -> Callable[[web.Application], Awaitable[None]]:
    @functools.wraps(original)
    async def startup(self: web.Application) -> None:
        if _patches and not _has_it(self):
            if self.middlewares.frozen:
                warn_once(f"{_ADAPTER}:frozen", "%s: %r cannot be set up, since it was frozen before its start", _ADAPTER, self)
            else:
                tenancy = _Tenancy(self)
                tenancy.join()
                await tenancy.start(self)
        await original(self)

    return startup


def _has_it(app: web.Application) -> bool:
    return any(isinstance(getattr(middleware, "__self__", None), _Tenancy) for middleware in app.middlewares)


def _edge_request(request: web.Request) -> EdgeRequest:
    return EdgeRequest(request.raw_headers, request.rel_url.raw_query_string, None, request)


def _rewrite(request: web.Request, headers: HeaderPairs) -> None:
    """
    Give a request other headers.

    Not by ``request.clone()``: the copy has a storage of its own, so that middleware further out (aiohttp_session's, say) misses what
    handlers put in; it forgets the scheme and the remote address that such a middleware has set; and once the body was read there is none.
    """
    parsed = CIMultiDictProxy(CIMultiDict([(_decoded(name), _decoded(value)) for name, value in headers]))
    request._message = request._message._replace(headers=parsed, raw_headers=tuple(headers))
    request._headers = parsed
    for name in ("headers", "raw_headers", "message"):
        request._cache.pop(name, None)


def _finish_with(key: RoutingKey | None, response: Any) -> None:
    """
    Let a response be finished with the request's key: aiohttp does that after all middleware, but signals for its headers, and a body that is
    made while it is sent, are the request's work, too.
    """
    if not isinstance(response, web.StreamResponse) or response.prepared:
        return
    prepare, write_eof = response.prepare, response.write_eof

    async def prepare_with_key(request: web.BaseRequest) -> Any:
        with attached(with_key(key)):
            return await prepare(request)

    async def write_eof_with_key(data: bytes = b"") -> None:
        for name in ("prepare", "write_eof"):  # the response is done with them, and they refer to it
            vars(response).pop(name, None)
        with attached(with_key(key)):
            await write_eof(data)

    vars(response).update(prepare=prepare_with_key, write_eof=write_eof_with_key)


def _answer(refusal: Refusal) -> web.Response:
    headers = CIMultiDict([(name.decode("ascii"), value.decode("ascii")) for name, value in refusal.headers])
    return web.Response(status=refusal.status, body=refusal.body, headers=headers)


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")  # as aiohttp reads headers


def _encoded(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
