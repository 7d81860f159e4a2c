"""
`assert_propagates`: does an application make the routing key of a request current, and does all that it sends carry it?
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from opentelemetry.context import Context

from ..context import attached
from ..errors import ConfigurationError
from ..key import RoutingKey
from ._apps import Request, Response, kind_of, watching
from ._check import Check
from .carriers import Headers, header_pairs

__all__ = ["assert_propagates", "assert_propagates_async"]


def assert_propagates(
    app: Any,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes = b"",
    keys: Sequence[str] = ("pr-42", "pr-43"),
    hops: int = 0,
    ignore: Iterable[str] = (),
    seen: Callable[[Response], str | None] | None = None,
    crowd: int = 40,
    timeout: float = 30.0,
    kind: Literal["asgi", "wsgi"] | None = None,
) -> None:
    """
    Send requests through an application in this process, and make sure that it carries their routing keys.

    It is asked for *path* without a key, also while another one is current around it; with each of *keys*; with something that is no key;
    and many times at once, with all of these mixed. Each time

    - the key of the request, and no other, must become current while it is served, and be gone afterwards;
    - every outbound hop that is made (see `record_hops`) must carry that key, or none where there is none, to trusted hosts only;
    - the answer must be no error: a status below 400, or below 500 where what stands in the key's place is none.

    Whether `TenancyMiddleware`, OpenTelemetry's instrumentation or code of your own makes the key current does not matter. Whether one of
    your functions has it is seen by the hops that the function makes, or by what *seen* reads from the response.

    The application runs in a thread of its own, lifespan included. Where it needs the running event loop, await `assert_propagates_async`.

    Args:
        app: An ASGI or WSGI application.
        path: What is asked for, with a query where one is needed.
        method: The request's method.
        headers: Its headers, as text.
        body: Its body.
        keys: The routing keys. Where only known keys are accepted, say some that are.
        hops: How many outbound hops each request makes at least. With 0 nobody notices that a mock swallows them all.
        ignore: Destinations that need no key, as for `record_hops`.
        seen: A function from the `Response` to the key that a handler says it had, or None.
        crowd: How many requests are sent at once.
        timeout: Seconds that one request, or the start of the application, may take.
        kind: ``asgi`` or ``wsgi``, where it cannot be told.

    Raises:
        AssertionError: If any of it does not hold; the message says what, request by request.
        ConfigurationError: If an argument cannot be used.
    """
    __tracebackhide__ = True
    check = _check(app, kind, Request(method, path, header_pairs(headers), body), keys, hops, ignore, seen, timeout)
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            asyncio.run(_run(check, crowd))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="tenancy.testing", daemon=True).start()
    outcome.result()
    check.verdict()


async def assert_propagates_async(
    app: Any,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes = b"",
    keys: Sequence[str] = ("pr-42", "pr-43"),
    hops: int = 0,
    ignore: Iterable[str] = (),
    seen: Callable[[Response], str | None] | None = None,
    crowd: int = 40,
    timeout: float = 30.0,
    kind: Literal["asgi", "wsgi"] | None = None,
) -> None:
    """
    Like `assert_propagates`, in the running event loop.
    """
    __tracebackhide__ = True
    check = _check(app, kind, Request(method, path, header_pairs(headers), body), keys, hops, ignore, seen, timeout)
    await _run(check, crowd)
    check.verdict()


async def _run(check: Check, crowd: int) -> None:
    with watching(), attached(Context()):
        await check.run(crowd)


def _check(
    app: Any,
    kind: Literal["asgi", "wsgi"] | None,
    request: Request,
    keys: Sequence[str],
    hops: int,
    ignore: Iterable[str],
    seen: Callable[[Response], str | None] | None,
    seconds: float,
) -> Check:
    if kind not in (None, "asgi", "wsgi"):
        raise ConfigurationError(f"kind is {kind!r}; use 'asgi' or 'wsgi'")
    if isinstance(keys, str) or not keys:
        raise ConfigurationError(f"keys is {keys!r}; give a list of routing keys, such as ['pr-42']")
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    return Check(app, kind or kind_of(app), request, [RoutingKey(key) for key in keys], hops, ignored, seen, seconds)
