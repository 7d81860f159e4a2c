"""
``python -m tests.examples.crowd.worker``: a service of the shop (``SHOP_SERVICE``) that tells more than its own hop, and can be broken.

Wherever the service writes into its ledger, the same work is looked at again after a pause, in a task, in a thread and in a process, as
`PARTS` of the plan says: while other requests are under way there. Nothing else is different from the service as it stands.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import runpy
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import opentelemetry.context
from opentelemetry.context import Context

import tenancy

from .plan import KEYS, PARTS

SERVICE = os.environ["SHOP_SERVICE"]
VERSION = os.environ["SHOP_VERSION"]
LEDGER = os.path.join(os.environ["SHOP_RUN"], "ledger.jsonl")
PAUSE = 0.002  # seconds; long enough for others to run, in any kind of concurrency

# What to break, by service: "global:pricing,no-filter:notify".
FAULTS = dict(fault.split(":")[::-1] for fault in os.environ.get("SHOP_SABOTAGE", "").split(",") if fault)
FAULT = FAULTS.get(SERVICE, "")
# What the services themselves know of it.
os.environ["SHOP_SABOTAGE"] = FAULT


class Global:
    """
    The mistake of mistakes: what is current, in a variable of a module instead of in the context of a task or thread.
    """

    def __init__(self) -> None:
        self._current = Context()

    def attach(self, context: Context) -> Any:
        before, self._current = self._current, context
        return before

    def get_current(self) -> Context:
        return self._current

    def detach(self, token: Any) -> None:
        self._current = token


def tell(part: str, order: str) -> None:
    """
    Write down which routing key this order has here.
    """
    line = json.dumps({"order": order, "service": part, "version": VERSION, "key": tenancy.routing_key()})
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(ledger, f"{line}\n".encode())
    finally:
        os.close(ledger)


class Parts:
    """
    Does again, in other places, what the service tells of.

    Args:
        pools: The pools of threads and processes that the parts need.
    """

    def __init__(self, pools: Mapping[str, Executor]) -> None:
        self._pools = pools
        self._under_way: set[asyncio.Task[None] | Future[None]] = set()
        self._do = [getattr(self, part.partition(".")[2]) for part in PARTS if part.partition(".")[0] == SERVICE]

    def all(self, order: str) -> None:
        for do in self._do:
            do(order)

    def pause(self, order: str) -> None:
        """In this thread, which waits meanwhile."""
        time.sleep(PAUSE)
        tell(f"{SERVICE}.pause", order)

    def task(self, order: str) -> None:
        """In a task, for which nobody waits."""

        async def later() -> None:
            await asyncio.sleep(PAUSE)
            tell(f"{SERVICE}.task", order)

        self._keep(asyncio.get_running_loop().create_task(later()))

    def thread(self, order: str) -> None:
        """In a thread of a pool, which has had other requests' work."""
        self._keep(self._pools["thread"].submit(tell, f"{SERVICE}.thread", order))

    def process(self, order: str) -> None:
        """In a process of a pool, which has had other requests' work."""
        self._keep(self._pools["process"].submit(tell, f"{SERVICE}.process", order))

    def _keep(self, work: Any) -> None:
        # A failure is printed into the log; in the ledger it is a hop that is lost.
        self._under_way.add(work)
        work.add_done_callback(self._done)

    def _done(self, work: Any) -> None:
        self._under_way.discard(work)
        work.result()


def also(handled: Callable[[str], None], parts: Parts) -> Callable[[str], None]:
    """
    Return `handled` with the parts behind it.
    """

    def told(order: str) -> None:
        handled(order)
        parts.all(order)

    return told


def main() -> None:
    from examples.shop import common

    if FAULT == "global":
        opentelemetry.context._RUNTIME_CONTEXT = Global()  # type: ignore[assignment]
    if FAULT != "bare-pools":
        tenancy.instrument("concurrent.futures")
    with ExitStack() as stack:
        pools: dict[str, Executor] = {}
        if f"{SERVICE}.process" in PARTS:
            pools["process"] = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")))
            # Forked now, before there is a second thread; where nobody hands keys over, in the context of somebody's work.
            with tenancy.scope(KEYS[0] if FAULT == "bare-pools" else None):
                pools["process"].submit(os.getpid).result()
        pools["thread"] = stack.enter_context(ThreadPoolExecutor(4))
        common.handled = also(common.handled, Parts(pools))
        runpy.run_module(f"examples.shop.services.{SERVICE}", run_name="__main__")


if __name__ == "__main__":
    main()
