"""
The requests that `assert_propagates` sends, and what is said about each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Literal

from opentelemetry.context import Context

from .. import propagator
from ..config import settings
from ..context import attached, with_key
from ..key import RoutingKey
from ._apps import Exchange, Request, Response, ask_asgi, ask_wsgi, current_exchange
from .hop import Hop
from .hops import Hops, recording

__all__ = ["Check"]

_AROUND = RoutingKey("around-the-server")
_MALFORMED = "NOT_A_KEY"
_SHOWN = 10  # problems at most


class Check:
    """
    One application under test; the arguments are those of `tenancy.testing.assert_propagates`.
    """

    def __init__(
        self,
        app: Any,
        kind: Literal["asgi", "wsgi"],
        request: Request,
        keys: list[RoutingKey],
        hops: int,
        ignore: list[str],
        seen: Callable[[Response], str | None] | None,
        seconds: float,
    ) -> None:
        self._app, self._kind, self._request, self._keys = app, kind, request, keys
        self._hops, self._ignore, self._seen, self._seconds = hops, ignore, seen, seconds
        self._state: dict[str, Any] = {}
        self._exchanges: list[Exchange] = []
        self._recorder = _Recorder()
        self._problems: list[str] = []
        self._cause: BaseException | None = None

    def verdict(self) -> None:
        """
        Raise what was found.
        """
        __tracebackhide__ = True
        if self._problems:
            problems = list(dict.fromkeys(self._problems))  # many at once say the same
            shown = problems[:_SHOWN]
            if len(problems) > len(shown):
                shown.append(f"and {len(problems) - len(shown)} more")
            raise AssertionError("\n- ".join(["the application does not carry the routing key:", *shown])) from self._cause

    async def run(self, crowd: int) -> None:
        """
        Send all requests.
        """
        with recording(self._recorder):
            async with _started(self._app, self._state, self._seconds) if self._kind == "asgi" else nullcontext():
                await self._requests(crowd)
        # At the end, for what an application sends when it has answered.
        for exchange in self._exchanges:
            self._judge_hops(exchange)
        unknown = self._recorder.report()
        if unknown is not None:
            self._problems.append(unknown)

    async def _requests(self, crowd: int) -> None:
        await self._single(None, "without a key")
        if self._problems:
            return  # it does not do what it is for, so nothing else would say anything
        await self._single(None, f"without a key, while {_AROUND} is current around the application", around=_AROUND)
        for key in self._keys:
            await self._single(key, f"with {key}")
        await self._malformed()
        if self._kind == "wsgi":
            await self._single(self._keys[0], f"with {self._keys[0]}, whose caller goes away", stop_after=1)
        if crowd and not self._problems and not any(exchange.hops.report() for exchange in self._exchanges):
            await self._crowd(crowd)

    async def _single(
        self, key: RoutingKey | None, what: str, *, around: RoutingKey | None = None, stop_after: int | None = None
    ) -> None:
        exchange = self._exchange(self._keyed(key), key, what)
        self._recorder.alone = exchange
        await self._ask(exchange, around, stop_after)
        complete = stop_after is None
        if self._judge(exchange, complete=complete, around=around) and complete:
            exchange.hops_expected = self._hops

    async def _malformed(self) -> None:
        request = self._request._replace(headers=[*self._request.headers, ("baggage", f"{settings().member}={_MALFORMED}")])
        exchange = self._recorder.alone = self._exchange(request, None, f"with {_MALFORMED!r} in the key's place")
        await self._ask(exchange)
        if self._judge(exchange, complete=False) and exchange.status >= 500:
            self._problem(exchange, f"was answered with {exchange.status}: {exchange.response.text[:200]!r}")

    async def _crowd(self, number: int) -> None:
        keys = [None, *self._keys]
        crowd = []
        for at in range(number):
            key = keys[at % len(keys)]
            what = f"{'without a key' if key is None else f'with {key}'}, among {number} requests at once"
            crowd.append(self._exchange(self._keyed(key), key, what, pauses=at % 4))
        # A hop that says nothing of where it comes from may be anybody's now.
        self._recorder.alone = self._exchange(self._request, None, f"among {number} requests at once")
        await asyncio.gather(*map(self._ask, crowd))
        for exchange in crowd:
            self._judge(exchange)

    def _exchange(self, request: Request, key: RoutingKey | None, what: str, pauses: int = 0) -> Exchange:
        exchange = Exchange(request, key, what, Hops(key, self._ignore), pauses)
        self._exchanges.append(exchange)
        return exchange

    def _keyed(self, key: RoutingKey | None) -> Request:
        if key is None:
            return self._request
        return self._request._replace(headers=propagator.inject(self._request.headers, key=key, binary=False))

    async def _ask(self, exchange: Exchange, around: RoutingKey | None = None, stop_after: int | None = None) -> None:
        context = Context() if around is None else with_key(around, Context())

        def in_thread() -> None:
            with attached(context):
                ask_wsgi(self._app, exchange, stop_after)

        async def in_task() -> None:
            with attached(context):
                await ask_asgi(self._app, exchange, self._state)

        try:
            await asyncio.wait_for(_in_thread(in_thread) if self._kind == "wsgi" else in_task(), self._seconds)
        except asyncio.TimeoutError:
            exchange.error = TimeoutError(f"it was not done within {self._seconds:g} s (timeout=)")

    def _judge(self, exchange: Exchange, *, complete: bool = True, around: RoutingKey | None = None) -> bool:
        """
        Judge an answer, of which there may be only a part; return whether there is one at all.
        """
        key, error = exchange.key, exchange.error
        if error is not None:
            self._cause = self._cause or error
            self._problem(exchange, f"ended with {type(error).__name__}: {error}")
            return False
        if complete and not 100 < exchange.status < 400:
            answer = (
                f"was answered with {exchange.status}: {exchange.response.text[:200]!r}" if exchange.status else "was not answered"
            )
            self._problem(exchange, f"{answer}. Say a path=, method= and headers= that it answers")
            return False
        # Further out than whoever makes the key current, what was around is still there.
        allowed = {key, None, around if exchange.attached & {key} else None}
        for other in sorted(exchange.met - allowed, key=str):
            self._problem(exchange, f"was served while {other} was current")
        if key is not None and key not in exchange.met | exchange.attached | {hop.key for hop in exchange.hops}:
            self._problem(
                exchange,
                f"never made {key} current. It takes TenancyMiddleware, tenancy.instrument() or an instrumentation of OpenTelemetry; and a "
                "key that is accepted (TENANCY_ACCEPT, the route table): see keys=",
            )
        if exchange.left_behind:
            self._problem(exchange, "left something current behind it, for the next request of the same thread")
        if complete and self._seen is not None:
            told = self._seen(exchange.response)
            if (told or None) != key:
                self._problem(exchange, f"was answered by a handler that saw {_shown(told)}")
        return True

    def _judge_hops(self, exchange: Exchange) -> None:
        if len(exchange.hops) < exchange.hops_expected:
            self._problem(exchange, f"made {len(exchange.hops)} outbound hops that could be seen, fewer than hops={self._hops}")
        report = exchange.hops.report()
        if report is not None:
            self._problem(exchange, report.replace("\n", "\n  "))
        for hop in exchange.hops:
            if hop.key not in (None, exchange.key) and hop.problem is None and exchange is not self._recorder.alone:
                self._problem(exchange, f"made a hop that carries {hop.key}: {hop}")

    def _problem(self, exchange: Exchange, problem: str) -> None:
        self._problems.append(f"{self._request.method} {self._request.path}, {exchange.what}: {problem}")


def _shown(told: Any) -> str:
    """
    What *seen* returned, in words, and as it is where it is neither a key nor none.
    """
    if not told:
        return (
            "no key" if told is None or isinstance(told, str) else f"no key: seen= returned {told!r}, of type {type(told).__name__}"
        )
    if isinstance(told, str) and RoutingKey.parse(told) is not None:
        return told
    return f"something else than a routing key: seen= returned {repr(told)[:200]}, of type {type(told).__name__}"


class _Recorder(Hops):
    """
    Gives each hop to the exchange that it belongs to.
    """

    #: Whose a hop is that does not say where it comes from.
    alone: Exchange | None = None

    def _record(self, hop: Hop) -> None:
        exchange = current_exchange() or self.alone
        if exchange is not None:
            exchange.hops._record(hop)


async def _in_thread(work: Callable[[], None]) -> None:
    """
    Run *work* in a thread that holds up nobody: a pool would wait for one that hangs when the process ends.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # whoever waited has given up, and the loop is closed
                pass

    threading.Thread(target=run, name="tenancy.testing", daemon=True).start()
    await done.wait()


@asynccontextmanager
async def _started(app: Any, state: dict[str, Any], seconds: float) -> AsyncIterator[None]:
    """
    Start and end an ASGI application, where it has a lifespan (https://asgi.readthedocs.io/en/latest/specs/lifespan.html).

    Raises:
        AssertionError: If it does not start.
    """
    asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def serve() -> None:
        await app(scope, asked.get, told.put)

    running = asyncio.ensure_future(serve())

    async def ask(what: str) -> dict[str, Any]:
        asked.put_nowait({"type": what})
        answer = asyncio.ensure_future(told.get())
        await asyncio.wait({answer, running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        if not running.done():
            raise AssertionError(f"the application did not answer {what!r} within {seconds:g} s (timeout=)")
        return {"type": "none"}

    try:
        answer = await ask("lifespan.startup")
        if answer["type"] == "lifespan.startup.failed":
            raise AssertionError(f"the application did not start: {answer.get('message') or 'it does not say why'}")
        yield
        if answer["type"] == "lifespan.startup.complete":
            answer = await ask("lifespan.shutdown")
            if answer["type"] != "lifespan.shutdown.complete":
                raise AssertionError(f"the application did not end as it should: {answer.get('message') or running}")
    finally:
        running.cancel()
        await asyncio.wait({running}, timeout=seconds)
        if running.done() and not running.cancelled():
            running.exception()  # one without a lifespan raises as soon as it is asked for it
