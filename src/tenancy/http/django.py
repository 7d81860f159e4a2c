"""
Django: middleware for its settings, under WSGI and ASGI, and `instrument` for every handler of the process.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from .._optional import extra
from .._patches import Patches
from ..baggage import Reading
from ..config import Accept, switched_on
from ..context import Step, async_steps, attached
from ..errors import RoutesNotSyncedError
from ..routes.live import LiveRoutes
from ._responses import HeaderPairs
from .asgi import without_escapes
from .edge import EdgeRequest, Resolver
from .reception import OnMalformed, Received, Reception, Refusal
from .wsgi import MARK, Steps, Variables, Work, edge_headers, is_file

with extra("django", "django", "asgiref"):
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
    from django.conf import settings
    from django.core.exceptions import MiddlewareNotUsed
    from django.core.handlers.base import BaseHandler
    from django.http import HttpResponse, StreamingHttpResponse
    from django.utils.module_loading import import_string

__all__ = ["TenancyMiddleware", "instrument", "uninstrument"]


class TenancyMiddleware:
    """
    Makes the routing key of each request current in the middleware below it, in views, sync and async, and in every step of a streamed
    response, under WSGI and ASGI.

    ``MIDDLEWARE = ["tenancy.http.django.TenancyMiddleware", ...]``, in the first place, or right after OpenTelemetry's. It takes its
    arguments from the settings of `tenancy`; for others name a subclass whose ``__init__`` passes them on. Where tenancy is switched off,
    Django leaves it out.

    A key that is not accepted, and one that is malformed, is removed from ``request.META`` and ``request.headers``. Where the route table
    could not be read yet, requests with a key are answered with 503: under WSGI at once, under ASGI at the deadline of the settings.

    Args:
        get_response: The next middleware, or the view.
        accept: Which keys are accepted; default the setting ``accept``.
        on_malformed: What becomes of a request whose key breaks the grammar: ``reject`` answers 400; ``ignore`` serves it without a key.
        response_header: The name of a response header that tells who served, and why; default the setting ``response_header``, which is
            none.
        cache_headers: Whether responses to requests with a key are marked as not cacheable for others; default the setting
            ``cache_headers``, which is true.
        edge: Where a key is looked for in requests that carry none; default the setting ``edge``, which is nowhere. A function gets the
            Django request as ``native``, and as ``user`` that of the request, if the middleware stands after the one that sets it.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If an argument cannot be used.
        IdentityError: If tenancy is switched off in a sandbox.
        MiddlewareNotUsed: If tenancy is switched off.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self,
        get_response: Callable[[Any], Any],
        *,
        accept: Accept | None = None,
        on_malformed: OnMalformed = "reject",
        response_header: str | None = None,
        cache_headers: bool | None = None,
        edge: Iterable[Resolver] | Resolver | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        if not switched_on():
            raise MiddlewareNotUsed("tenancy is switched off (TENANCY_ENABLED)")
        self.get_response = get_response
        self._reception = Reception(
            "django",
            accept=accept,
            on_malformed=on_malformed,
            response_header=response_header,
            cache_headers=cache_headers,
            edge=edge,
            routes=routes,
        )
        self._reception.follow()
        self._variables = Variables()
        self._decides_again = accept is not None
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """
        Serve one request.
        """
        if self._async:
            return self._serve_async(request)
        nested = _is_nested(request)
        if nested and not self._decides_again:
            return self.get_response(request)
        headers = self._headers(request)
        reading = self._read(request, headers, nested)
        refusal = self._reception.unsynced() if reading.key is not None else None
        if refusal is not None:
            return _answer(refusal)
        received = self._reception.receive(headers, reading, nested=nested)
        if received.refusal is not None:
            return _answer(received.refusal)
        step, work = _step(received), self._begin(request, headers, received)
        try:
            with step:
                response = self.get_response(request)
        finally:
            work.end()
        return _told(response, received, step)

    async def _serve_async(self, request: Any) -> Any:
        nested = _is_nested(request)
        if nested and not self._decides_again:
            return await self.get_response(request)
        headers, reception = self._headers(request), self._reception
        # Where there is a user, it is one that is read from the database as soon as it is looked at.
        read = sync_to_async(self._read) if reception.asks and hasattr(request, "user") else None
        reading = self._read(request, headers, nested) if read is None else await read(request, headers, nested)
        if reading.key is not None and not reception.synced:
            try:
                await reception.sync()
            except RoutesNotSyncedError as error:
                return _answer(reception.not_synced(error))
        received = reception.receive(headers, reading, nested=nested)
        if received.refusal is not None:
            return _answer(received.refusal)
        step, work = _step(received), self._begin(request, headers, received)
        try:
            with step:
                response = await self.get_response(request)
        finally:
            work.end()
        return _told(response, received, step)

    def _headers(self, request: Any) -> HeaderPairs:
        """
        The headers that can hold a key. Under ASGI all that came, since whoever looks there for them sees each line, as META does not.
        """
        if not hasattr(request, "scope"):
            return self._variables.read(request.META)
        headers = request.scope.get("headers", [])
        if not isinstance(headers, list):  # an iterator is used up by now
            headers = list(headers) or self._variables.read(request.META)
        return without_escapes(headers) if any(b"\\" in value for _, value in headers) else headers

    def _read(self, request: Any, headers: HeaderPairs, nested: bool) -> Reading:
        return self._reception.read(headers, None if nested else functools.partial(_edge_request, request))

    def _begin(self, request: Any, headers: HeaderPairs, received: Received) -> Work:
        """
        Let the request say what was admitted, wherever one may look.
        """
        before, scope = request.META, getattr(request, "scope", {})
        if received.headers is not None:
            headers = received.headers
        elif not scope or headers is scope.get("headers"):
            return Work(before, before, self._variables)
        request.META = self._variables.replaced(before, headers)
        request.__dict__.pop("headers", None)  # made of META, when it was first asked for
        if hasattr(request, "environ"):
            request.environ = request.META
        if scope:
            request.scope = {**scope, "headers": headers}
        return Work(before, request.META, self._variables)


def _is_nested(request: Any) -> bool:
    return MARK in request.META or MARK in getattr(request, "scope", ())


def _edge_request(request: Any) -> EdgeRequest:
    environ = request.META
    user = request.user if hasattr(request, "user") else environ.get("REMOTE_USER")
    return EdgeRequest(edge_headers(environ), environ.get("QUERY_STRING") or "", user, request)


def _step(received: Received) -> Step | nullcontext[None]:
    return nullcontext() if received.context is None else Step(received.context)


def _answer(refusal: Refusal) -> Any:
    """
    The response in place of the view's.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in refusal.headers}
    return HttpResponse(refusal.body, status=refusal.status, headers=headers)


def _told(response: Any, received: Received, step: Step | nullcontext[None]) -> Any:
    """
    The response as it leaves: with what the caller has to know, and, where it is streamed, with the key for what is still to run.
    """
    if received.reply is not None:
        before = list(response.items())
        after = received.reply.text_headers(before)
        for name, value in before:
            if (name, value) not in after:
                del response[name]
        for name, value in after:
            if (name, value) not in before:
                response[name] = value
    if (
        isinstance(step, Step)
        and isinstance(response, StreamingHttpResponse)
        and not is_file(getattr(response, "file_to_stream", None))
    ):
        content = response.streaming_content
        response.streaming_content = async_steps(content, step) if response.is_async else Steps(content, step)
        # What the response has to close is not closed by what is iterated.
        response.close = functools.partial(_closed, response.close, step)
    return response


def _closed(close: Callable[[], None], step: Step) -> None:
    with attached(step.context):  # which may be inside of itself, as in Django's test client: a step is in one place at a time
        close()


_PATH = f"{__name__}.{TenancyMiddleware.__qualname__}"

_patches = Patches()
_loading = threading.RLock()


def instrument() -> None:
    """
    Give every Django handler that is made from now on the middleware, outermost but for OpenTelemetry's, unless ``MIDDLEWARE`` names it or
    a subclass; nothing where tenancy is switched off.

    The settings of Django are not looked at before Django does that itself, and stay as they are.
    """
    if switched_on() and not _patches:
        _patches.wrap(BaseHandler, "load_middleware", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`; handlers that exist keep the middleware.
    """
    _patches.undo()


def _patched(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def load_middleware(self: Any, is_async: bool = False) -> None:
        # One at a time, since it sees the middleware only where all see it.
        with _loading:
            before = settings.MIDDLEWARE
            place = _place(before) if _patches else None
            if place is None:
                original(self, is_async)
                return
            settings.MIDDLEWARE = [*before[:place], _PATH, *before[place:]]
            try:
                original(self, is_async)
            finally:
                settings.MIDDLEWARE = before

    return load_middleware


def _place(paths: Any) -> int | None:
    """
    Where the middleware belongs in a list of middleware, or None where it is there already.
    """
    if any(isinstance(found, type) and issubclass(found, TenancyMiddleware) for found in map(_imported, reversed(paths))):
        return None
    # Its span is open then, for our attributes; and it begins from what the caller sent, which we correct.
    return next((place for place, path in enumerate(paths) if not str(path).startswith("opentelemetry.")), len(paths))


def _imported(path: Any) -> Any:
    try:
        return import_string(path)
    except Exception:  # noqa: BLE001 - Django says what is wrong with it
        return None
