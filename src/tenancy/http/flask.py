"""
Flask: the WSGI middleware, and `instrument` for every application of the process.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .._optional import extra
from .._patches import Patches
from ..config import switched_on
from .wsgi import TenancyMiddleware

with extra("flask", "flask"):
    from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["TenancyMiddleware", "instrument", "uninstrument"]

# What middleware calls the application inside of it: Werkzeug's, OpenTelemetry's, a function that `functools.wraps` another.
_INSIDE = ("app", "wsgi_app", "application", "wsgi", "__wrapped__")
_FAR = 100

_patches = Patches()
_middleware: TenancyMiddleware | None = None
_has_own: WeakKeyDictionary[Flask, bool] = WeakKeyDictionary()


def instrument() -> None:
    """
    Give every Flask application of this process the middleware, outermost, those that serve already included; not the ones that have it
    in their ``wsgi_app``, and nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        _patches.wrap(Flask, "__call__", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    global _middleware
    _patches.undo()
    _has_own.clear()
    _middleware = None


def _patched(original: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    @functools.wraps(original)
    def __call__(self: Flask, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: N807
        if not _patches or _served_by_own(self):
            return original(self, environ, start_response)
        return _shared().serve(functools.partial(original, self), environ, start_response)

    return __call__


def _shared() -> TenancyMiddleware:
    """
    The middleware of all applications, made for the first request: until then an application may say what its settings are.
    """
    global _middleware
    if _middleware is None:
        _middleware = TenancyMiddleware(_nobody)
    return _middleware


def _nobody(*_: Any) -> Iterable[bytes]:
    raise AssertionError("each request brings its own application")


def _served_by_own(app: Flask) -> bool:
    found = _has_own.get(app)
    if found is None:
        found = _has_own[app] = _has_middleware(app)
    return found


def _has_middleware(app: Flask) -> bool:
    """
    Whether one of ours stands somewhere between an application's ``wsgi_app`` as it is now and as it was.
    """
    waiting: list[tuple[Any, bool]] = [(app.wsgi_app, False)]
    seen: set[tuple[int, bool]] = set()
    while waiting and len(seen) < _FAR:
        found, ours = waiting.pop()
        if isinstance(found, types.MethodType) and found.__self__ is app:
            if ours:
                return True
            continue
        ours = ours or isinstance(found, TenancyMiddleware)
        if found is None or (id(found), ours) in seen:
            continue
        seen.add((id(found), ours))
        # Statically, since this must run no code of others.
        inside = [inspect.getattr_static(found, name, None) for name in _INSIDE]
        if isinstance(found, types.FunctionType):  # OpenTelemetry's, for one, keeps it in a closure
            inside.extend(map(_content, found.__closure__ or ()))
        waiting.extend((one, ours) for one in inside)
    return False


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None
