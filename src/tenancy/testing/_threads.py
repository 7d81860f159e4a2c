"""
Threads that are the work of a key: those that it has started, and whose end it has waited for.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from .._patches import Patches
from ..context import routing_key
from ..key import RoutingKey

__all__ = ["Threads", "started_by"]

_MARK = "_tenancy_started_by"


def started_by(thread: threading.Thread) -> RoutingKey | None:
    """
    Return the key whose work has started a thread, as far as it was seen.
    """
    return getattr(thread, _MARK, None)


class Threads:
    """
    Tells of every thread that the work of a key has started, and whose end the same work has waited for, until `close`.

    What happens in such a thread is part of that work, whatever its own context says. Of a thread for which nobody waits that cannot be
    known: it may outlive the work, and serve others.

    Args:
        joined: Is called with the thread, which has ended, and the key.
    """

    def __init__(self, joined: Callable[[threading.Thread, RoutingKey], None]) -> None:
        self._joined = joined
        self._open = True
        self._patches = Patches()
        self._patches.wrap(threading.Thread, "start", self._start)
        self._patches.wrap(threading.Thread, "join", self._join)

    def close(self) -> None:
        """
        Take everything out again. Where somebody has wrapped one of ours meanwhile it stays beneath, and does nothing.
        """
        self._open = False
        self._patches.undo()

    def _start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def start(thread: threading.Thread, *args: Any, **kwargs: Any) -> Any:
            if self._open:
                setattr(thread, _MARK, routing_key())
            return original(thread, *args, **kwargs)

        return start

    def _join(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def join(thread: threading.Thread, *args: Any, **kwargs: Any) -> Any:
            result = original(thread, *args, **kwargs)
            key = started_by(thread)
            if self._open and key is not None and key == routing_key() and not thread.is_alive():
                self._joined(thread, key)
            return result

        return join
