"""
`concurrent.futures`: work that is handed to a pool keeps the routing key of whoever handed it over.

A thread or a process of a pool has a context of its own, in which nothing is current; without this, `loop.run_in_executor` and
`executor.submit` would turn the work of a key into the baseline's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from opentelemetry.context import Context

from ._patches import Patches
from .config import switched_on
from .context import attached, cleared, routing_key, with_key
from .key import RoutingKey

__all__ = ["instrument", "uninstrument"]

_active: Patches | None = None


def instrument() -> None:
    """
    Make ``submit`` and ``map`` of thread and process pools carry the routing key, and with them `loop.run_in_executor`.

    Threads that you start yourself are left alone, since one that outlives its request would keep the request's key:
    ``Thread(target=tenancy.scope(tenancy.routing_key())(work))`` is right for one that does not.
    """
    global _active
    if _active is not None or not switched_on():
        return
    _active = patches = Patches()
    for pool in (ThreadPoolExecutor, ProcessPoolExecutor):
        patches.wrap(pool, "submit", functools.partial(_submit, patches))


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    global _active
    if _active is not None:
        patches, _active = _active, None
        patches.undo()


def _submit(mine: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        key = routing_key()
        if _active is mine and (key is not None or cleared()):
            fn = _Keyed(fn, key)
        if _active is not mine or not isinstance(self, ProcessPoolExecutor):
            return original(self, fn, *args, **kwargs)
        # A worker that is forked for this starts with a copy of what is current here, and would keep it for whatever it does later.
        with attached(Context()):
            return original(self, fn, *args, **kwargs)

    return submit


class _Keyed:
    """
    A function that runs under a key; a class, because a process pool pickles what it is given.
    """

    __slots__ = ("function", "key")

    def __init__(self, function: Callable[..., Any], key: RoutingKey | None) -> None:
        self.function = function
        self.key = key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with attached(with_key(self.key)):
            return self.function(*args, **kwargs)
