"""
``python -m tests.examples.crowd.clients asyncio URL ORDERS ANSWERS``: one of the three callers, each a process of its own.

A caller has its keys in scopes, and leaves it to the library to carry them: from a scope that has ended into a task, a thread or a
process, and from there into the request. Only what no scope takes, a malformed key, is written into the request by hand.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import requests
import urllib3

import tenancy

from .plan import MALFORMED, Orders

__all__ = ["AT_ONCE", "CALLERS", "Answer", "shared"]

#: How many requests each caller has under way. Each gets its share of all requests by it, so that all are busy to the end.
AT_ONCE = {"asyncio": 24, "threads": 16, "processes": 8}

_PATIENCE = 60.0  # seconds for one answer


class Answer(NamedTuple):
    """
    What came of one request.

    Args:
        order: Its order id.
        kind: What it carried.
        status: The HTTP status; 0 where none came.
        served_by: The response header that tells who served.
        text: The body; or the error where no answer came.
        began: When it was sent, on the monotonic clock, which all processes of a machine share.
        ended: When its answer was here.
    """

    order: str
    kind: str | None
    status: int
    served_by: str
    text: str
    began: float
    ended: float


def over_asyncio(front: str, orders: Orders, note: Callable[[Answer], None]) -> None:
    """
    A task for each request, with aiohttp.
    """
    tenancy.instrument("aiohttp")

    async def send(session: aiohttp.ClientSession, order: str, kind: str | None) -> Answer:
        began = time.monotonic()
        try:
            async with session.post(f"/checkout/{order}") as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
            return _unanswered(order, kind, error, began)
        return Answer(order, kind, response.status, _served_by(response.headers), text, began, time.monotonic())

    async def run() -> None:
        gate, tasks = asyncio.Semaphore(AT_ONCE["asyncio"]), []

        def ended(task: asyncio.Task[Answer]) -> None:
            gate.release()
            if not task.cancelled() and task.exception() is None:
                note(task.result())

        async with aiohttp.ClientSession(front, timeout=aiohttp.ClientTimeout(_PATIENCE)) as session:
            for order, kind in orders:
                await gate.acquire()
                if kind in MALFORMED:
                    work: Any = asyncio.to_thread(_by_hand, front, order, kind)
                else:
                    work = send(session, order, kind)
                with _scope(kind):
                    tasks.append(asyncio.create_task(work))
                tasks[-1].add_done_callback(ended)
            await asyncio.gather(*tasks)

    asyncio.run(run())


def over_threads(front: str, orders: Orders, note: Callable[[Answer], None]) -> None:
    """
    A pool of threads, each of which sends many with urllib3, over connections that they share.
    """
    tenancy.instrument("urllib3", "concurrent.futures")
    with ThreadPoolExecutor(AT_ONCE["threads"]) as pool:
        _over_pool(pool, _by_urllib3, front, orders, note)


def over_processes(front: str, orders: Orders, note: Callable[[Answer], None]) -> None:
    """
    A pool of processes, each of which sends many with requests. They are forked when the first request is handed over, under its key.
    """
    tenancy.instrument("requests", "concurrent.futures")
    with ProcessPoolExecutor(AT_ONCE["processes"], mp_context=multiprocessing.get_context("fork")) as pool:
        _over_pool(pool, _by_requests, front, orders, note)


CALLERS = {"asyncio": over_asyncio, "threads": over_threads, "processes": over_processes}

# For all threads; and for the one thread of each forked process, which inherits no open connection.
_manager = urllib3.PoolManager(maxsize=AT_ONCE["threads"], retries=False)
_session = requests.Session()
_session.trust_env = False


def shared(orders: Orders) -> dict[str, Orders]:
    """
    Return what each caller sends.
    """
    turns = [caller for caller, at_once in AT_ONCE.items() for _ in range(at_once)]
    random.Random(3).shuffle(turns)
    shares: dict[str, Orders] = {caller: [] for caller in AT_ONCE}
    for number, order in enumerate(orders):
        shares[turns[number % len(turns)]].append(order)
    return shares


def _over_pool(pool: Executor, send: Callable[..., Answer], front: str, orders: Orders, note: Callable[[Answer], None]) -> None:
    futures: list[Future[Answer]] = []
    for order, kind in orders:
        with _scope(kind):
            futures.append(pool.submit(_by_hand if kind in MALFORMED else send, front, order, kind))
    for future in futures:
        note(future.result())


def _by_urllib3(front: str, order: str, kind: str | None) -> Answer:
    began = time.monotonic()
    try:
        response = _manager.request("POST", f"{front}/checkout/{order}", timeout=_PATIENCE)
    except urllib3.exceptions.HTTPError as error:
        return _unanswered(order, kind, error, began)
    return Answer(order, kind, response.status, _served_by(response.headers), response.data.decode(), began, time.monotonic())


def _by_requests(front: str, order: str, kind: str | None) -> Answer:
    began = time.monotonic()
    try:
        response = _session.post(f"{front}/checkout/{order}", timeout=_PATIENCE)
    except requests.RequestException as error:
        return _unanswered(order, kind, error, began)
    return Answer(order, kind, response.status_code, _served_by(response.headers), response.text, began, time.monotonic())


def _by_hand(front: str, order: str, kind: str | None) -> Answer:
    began = time.monotonic()
    connection = HTTPConnection(urlsplit(front).netloc, timeout=_PATIENCE)
    try:
        connection.request("POST", f"/checkout/{order}", headers={"baggage": f"shopper=somebody,sd-routing-key={kind}"})
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(order, kind, response.status, _served_by(response.headers), text, began, time.monotonic())
    except (OSError, HTTPException) as error:
        return _unanswered(order, kind, error, began)
    finally:
        connection.close()


def _scope(kind: str | None) -> AbstractContextManager[object]:
    # None at all where there is no key, rather than one that says so: whatever another one left behind would show.
    return nullcontext() if kind is None or kind in MALFORMED else tenancy.scope(kind)


def _unanswered(order: str, kind: str | None, error: Exception, began: float) -> Answer:
    return Answer(order, kind, 0, "", repr(error), began, time.monotonic())


def _served_by(headers: Any) -> str:
    return str(headers.get("x-tenancy-served-by", ""))


def main() -> None:
    caller, front, orders, answers = sys.argv[1:]
    with Path(answers).open("w", buffering=1) as written:
        note = functools.partial(_note, written.write)
        CALLERS[caller](front, [tuple(order) for order in json.loads(Path(orders).read_text())], note)


def _note(write: Callable[[str], Any], answer: Answer) -> None:
    write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
