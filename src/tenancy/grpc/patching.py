"""
`instrument`: every channel and server that is made from now on carries our interceptors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .._optional import extra
from .._patches import Patches
from ..config import switched_on
from .aio_client import aio_client_interceptors
from .aio_server import AioServerInterceptor
from .client import ClientInterceptor
from .server import ServerInterceptor

with extra("grpc", "grpc"):
    import grpc
    import grpc.aio

__all__ = ["instrument", "uninstrument"]

_active: Patches | None = None


def instrument() -> None:
    """
    Make every channel and server carry the routing key that is made from now on by ``grpc.insecure_channel``, ``grpc.secure_channel``,
    ``grpc.server`` or their counterparts in ``grpc.aio``; whoever imported one of these by name before keeps the plain one.

    A key goes only to targets that the setting ``trusted_hosts`` allows. Calling this again, or with tenancy switched off, does nothing.
    """
    global _active
    if _active is not None or not switched_on():
        return
    _active = patches = Patches()
    patches.wrap(grpc, "insecure_channel", functools.partial(_channel, patches))
    patches.wrap(grpc, "secure_channel", functools.partial(_channel, patches))
    patches.wrap(grpc, "server", functools.partial(_server, patches, ServerInterceptor))
    patches.wrap(grpc.aio, "insecure_channel", functools.partial(_aio_channel, patches, 3))
    patches.wrap(grpc.aio, "secure_channel", functools.partial(_aio_channel, patches, 4))
    patches.wrap(grpc.aio, "server", functools.partial(_server, patches, AioServerInterceptor))


def uninstrument() -> None:
    """
    Undo `instrument`. Channels and servers that exist already stay as they are.
    """
    global _active
    if _active is not None:
        patches, _active = _active, None
        patches.undo()


def _channel(mine: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def channel(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        if _active is not mine:  # undone, but somebody else's wrapper still calls us
            return made
        return grpc.intercept_channel(made, ClientInterceptor(trusted=_target(args, kwargs)))

    return channel


def _aio_channel(mine: Patches, position: int, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def channel(*args: Any, **kwargs: Any) -> Any:
        if _active is mine:
            # Last, so that ours has the last word about what goes out.
            ours = aio_client_interceptors(trusted=_target(args, kwargs))
            args, kwargs = _with_interceptors(args, kwargs, position, lambda given: [*given, *ours])
        return original(*args, **kwargs)

    return channel


def _server(mine: Patches, kind: Callable[[], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def server(*args: Any, **kwargs: Any) -> Any:
        if _active is mine:
            args, kwargs = _with_interceptors(args, kwargs, 2, functools.partial(_served, kind))
        return original(*args, **kwargs)

    return server


def _served(kind: Callable[[], Any], given: Sequence[Any]) -> list[Any]:
    """
    The interceptors of a server with ours first, but behind OpenTelemetry's: it begins from what the caller sent, and its span is open
    for our attributes. One of ours that is there already was put there with a purpose, and stays the only one.
    """
    if any(isinstance(interceptor, (ServerInterceptor, AioServerInterceptor)) for interceptor in given):
        return list(given)
    at = 0
    while at < len(given) and type(given[at]).__module__.startswith("opentelemetry."):
        at += 1
    return [*given[:at], kind(), *given[at:]]


def _target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    target = args[0] if args else kwargs.get("target")
    return target if isinstance(target, str) else ""


def _with_interceptors(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, change: Callable[[Sequence[Any]], list[Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """
    The arguments of a call with the interceptors among them changed, whether they were given by position or by name.
    """
    if len(args) > position:
        return (*args[:position], change(tuple(args[position] or ())), *args[position + 1 :]), kwargs
    return args, {**kwargs, "interceptors": change(tuple(kwargs.get("interceptors") or ()))}
