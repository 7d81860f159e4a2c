"""
The moment in which a Celery worker begins a task: it is decided on once more then, since what was decided when its message came may be old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..._optional import extra
from ...context import attached, with_key
from ...key import RoutingKey
from ...propagator import inject
from ...routes import Action
from .celery_forward import Loop
from .celery_source import Delivered
from .choice import Choice

with extra("celery", "celery"):
    from celery.exceptions import TaskRevokedError
    from celery.worker import state

__all__ = ["Beginnings", "write_key"]


class Beginnings:
    """
    Is asked before each task is begun, whatever it has waited for: its time, a rate limit, a child of the pool.

    Args:
        loop: The worker's event loop.
        decide: Takes back what is not to be begun, and decides on it.
    """

    def __init__(self, loop: Loop, decide: Callable[[Delivered], None]) -> None:
        self._loop = loop
        self._decide = decide
        # The message of which Celery is making a request.
        self._given: Delivered | None = None
        # A pool of threads takes more tasks than it can begin; for others Celery counts.
        self._waiting: deque[Callable[[], Any]] = deque()
        self._running: set[Any] = set()

    @contextmanager
    def given(self, delivered: Delivered) -> Iterator[None]:
        """
        Have the request that Celery makes meanwhile be known as that of a message.
        """
        before, self._given = self._given, delivered
        try:
            yield
        finally:
            self._given = before

    def requested(self, request: Any) -> None:
        """
        Take note of the request that Celery has made of a message, and be asked before its task is begun.
        """
        delivered = self._given
        if delivered is None or delivered.choice is None:
            return
        delivered.request = request
        delivered.source.unbegun[id(delivered)] = delivered
        write_key(request.request_dict, delivered.choice.key)
        request.execute_using_pool = partial(self._begin, delivered, request.execute_using_pool)
        # What fails outside of the pool is dealt with here, and may send tasks of its own.
        for name in ("on_failure", "on_timeout"):
            setattr(request, name, partial(_with_key, delivered, getattr(request, name)))

    def forget(self) -> None:
        """
        Begin nothing of what waits.
        """
        self._waiting.clear()

    def _begin(self, delivered: Delivered, original: Callable[..., Any], pool: Any, **options: Any) -> Any:
        source, request = delivered.source, delivered.request
        if delivered.given_back:
            state.task_ready(request)
            raise TaskRevokedError(request.id)
        threads = type(pool).__module__ == "celery.concurrency.thread"
        if threads and len(self._running) >= pool.limit:
            self._waiting.append(partial(self._begin, delivered, original, pool, **options))
            return None
        choice = _again(delivered)
        if choice is None:
            source.unbegun.pop(id(delivered), None)
            source.deciding[id(delivered)] = delivered
            state.task_ready(request)
            self._decide(delivered)
            raise TaskRevokedError(request.id)  # which has the worker go on to the next
        if choice is not delivered.choice:
            delivered.choice = choice
            write_key(request.request_dict, choice.key)
        source.begin(delivered)
        if threads:
            self._running.add(request)
            for name in ("on_success", "on_failure"):
                setattr(request, name, partial(self._ended, request, getattr(request, name)))
        return original(pool, **options)

    def _ended(self, request: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        finally:
            self._loop.call(partial(self._next, request))

    def _next(self, request: Any) -> None:
        self._running.discard(request)
        while self._waiting:
            begin = self._waiting.popleft()
            try:
                begin()
            except TaskRevokedError:
                continue
            return


def _again(delivered: Delivered) -> Choice | None:
    """
    Return by what a task is this process's now, or None where it is not, or not surely.
    """
    source, choice = delivered.source, delivered.choice
    if source.leaving or choice is None:
        return None
    if source.choices.stands(choice):
        return choice
    try:
        raw = delivered.raw
        choice = source.choices.choose(raw.headers, epoch=source.epoch, returned=delivered.returned, exchange=raw.exchange)
    except Exception:  # noqa: BLE001 - it is asked again, and told then
        return None
    return choice if choice.action is Action.OWN else None


def write_key(headers: dict[str, Any], key: RoutingKey | None) -> None:
    """
    Have headers say under which key a task runs, and nothing else.

    Args:
        headers: What Celery hands to the pool.
        key: The key; None: none.
    """
    written = inject(headers, key=key, binary=False)
    headers.clear()
    headers.update(written)


def _with_key(delivered: Delivered, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with attached(with_key(None if delivered.choice is None else delivered.choice.key)):
        return original(*args, **kwargs)
