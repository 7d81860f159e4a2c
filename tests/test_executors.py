from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import tenancy
from tenancy import routing_key, scope


@pytest.fixture
def instrumented() -> Iterator[None]:
    tenancy.instrument("concurrent.futures")
    yield
    tenancy.uninstrument()


def key_and(number: int) -> tuple[str | None, int]:
    return routing_key(), number


@pytest.fixture(params=["threads", "processes"])
def pool(request: pytest.FixtureRequest, instrumented: None) -> Iterator[Executor]:
    """Both kinds of pool, with workers that live through several keys."""
    spawning = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(1) if request.param == "threads" else ProcessPoolExecutor(1, mp_context=spawning) as made:
        yield made


def test_work_of_a_pool_has_the_key_of_whoever_handed_it_over(pool: Executor) -> None:
    """The key goes along, and the next piece of work on the same worker has its own, or none."""
    for key in ("pr-1", "pr-2", None, "pr-3"):
        with scope(key):
            assert pool.submit(key_and, 7).result() == (key, 7)
            assert list(pool.map(key_and, [1, 2])) == [(key, 1), (key, 2)]
    assert pool.submit(key_and, number=7).result() == (None, 7)
    with scope("pr-1"):
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 7, 0).result()


def test_a_forked_worker_keeps_no_key() -> None:
    """A worker that is forked under a key, or where there is none on purpose, does its next work in a context of its own."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    # In a process of its own, which has no threads when it forks.
    code = """
import multiprocessing, tenancy
from concurrent.futures import ProcessPoolExecutor

tenancy.instrument("concurrent.futures")
headers = {"baggage": "sd-routing-key=pr-7"}
for first in ("pr-1", None):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        with tenancy.scope(first):
            print(pool.submit(tenancy.routing_key).result(), tenancy.routing_key())
        print(pool.submit(tenancy.routing_key).result(), pool.submit(tenancy.inject, headers).result())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    after = "None {'baggage': 'sd-routing-key=pr-7'}"
    assert done.stdout.splitlines() == ["pr-1 pr-1", after, "None None", after]


async def test_run_in_executor_has_the_key(instrumented: None) -> None:
    """Of 200 pieces of work on the loop's default pool, each has its own key."""
    loop = asyncio.get_running_loop()

    async def one(number: int) -> bool:
        with scope(f"k{number}"):
            await asyncio.sleep(0)
            in_pool = await loop.run_in_executor(None, routing_key)
            return in_pool == await asyncio.to_thread(routing_key) == routing_key() == f"k{number}"

    assert all(await asyncio.gather(*map(one, range(200))))


def test_what_was_cleared_stays_cleared(instrumented: None) -> None:
    """Work that was said to have no key does not pass on one that it finds in headers, in a pool either."""
    headers = {"baggage": "sd-routing-key=pr-1"}
    with ThreadPoolExecutor(1) as pool, scope(None):
        assert pool.submit(tenancy.inject, headers).result() == {}


def test_switched_off_nothing_is_patched() -> None:
    """Off, and after undoing, the methods are the originals."""
    originals = ThreadPoolExecutor.submit, ProcessPoolExecutor.submit
    tenancy.configure(enabled=False)
    tenancy.instrument("concurrent.futures")
    assert (ThreadPoolExecutor.submit, ProcessPoolExecutor.submit) == originals
    tenancy.configure(enabled=True)
    tenancy.instrument("concurrent.futures")
    assert ThreadPoolExecutor.submit is not originals[0]
    tenancy.uninstrument()
    assert ThreadPoolExecutor.submit is originals[0]
    assert ProcessPoolExecutor.submit is originals[1]
