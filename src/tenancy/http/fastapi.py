"""
FastAPI and Starlette: the routing key as a dependency, and `instrument` for every application of the process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

from .._optional import extra
from .._patches import Patches
from ..config import switched_on
from ..context import routing_key
from ..key import RoutingKey
from .asgi import TenancyMiddleware

with extra("fastapi", "fastapi", "starlette"):
    from fastapi import Depends, FastAPI
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

__all__ = ["CurrentRoutingKey", "TenancyMiddleware", "instrument", "uninstrument"]


async def _current() -> RoutingKey | None:
    return routing_key()


#: For the parameters of handlers and dependencies: the routing key of the request, or None.
CurrentRoutingKey = Annotated[RoutingKey | None, Depends(_current)]

_patches = Patches()


def instrument() -> None:
    """
    Give every FastAPI and Starlette application that has not started yet the middleware, outermost, unless it was added already; nothing
    where tenancy is switched off.

    It stands where ``app.add_middleware(TenancyMiddleware)`` as the last call would put it: inside of Starlette's own handler for errors
    that nothing else handles, and of OpenTelemetry's instrumentation.
    """
    if switched_on() and not _patches:
        # Not build_middleware_stack: OpenTelemetry's instrumentation keeps the one that was there before, for each application.
        _patches.wrap(Starlette, "__call__", _patched)
        _patches.wrap(FastAPI, "__call__", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`; applications that have started keep the middleware.
    """
    _patches.undo()


def _patched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def __call__(self: Starlette, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        if self.middleware_stack is None and _patches:
            _add(self)
        await original(self, scope, receive, send)

    return __call__


def _add(app: Starlette) -> None:
    for middleware in app.user_middleware:
        added = getattr(middleware, "cls", None)
        if isinstance(added, type) and issubclass(added, TenancyMiddleware):
            return
    app.user_middleware.insert(0, Middleware(TenancyMiddleware))
