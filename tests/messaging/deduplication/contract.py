"""
What every deduplication does, whatever keeps it: from threads and from asyncio, and, on servers, from processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenancy.errors import ConfigurationError, DeduplicationError
from tenancy.messaging.deduplication import Claim, Deduplication, Outcome, once, open_deduplication
from tests.docs.pages import ROOT

T = TypeVar("T")

SCOPE = "shop/orders:orders"

#: Texts with which something that is not quoted, cut or encoded goes wrong.
HOSTILE = (
    "'; DROP TABLE tenancy_messages; --",
    '"quoted" and \\ and %s and %(name)s and :name and ?',
    "Grüße, 世界, 👋, \u202e",
    "new\nline\ttab\r",
    "\u0000",
    "\ud800",
    " ",
    "a b",
    "sha256:" + "0" * 64,
    "x" * 200,
    "x" * 201,
    "x" * 100_000,
    "x" * 100_001,
)


class Place:
    """
    Where a test keeps what it remembers.

    Args:
        url: Where other processes find it; None: nobody else does.
    """

    def __init__(self, url: str | None) -> None:
        self.url = url

    def open(self, **times: float) -> Deduplication:
        """One more handle to the same place."""
        assert self.url is not None
        return open_deduplication(self.url, **times)

    def age(self, seconds: float) -> None:
        """Have that much time pass for all that is remembered."""
        raise NotImplementedError

    def close(self) -> None:
        """Clear up."""


class FromAsyncio:
    """
    The methods for asyncio of a deduplication, called from a loop in a thread, under the names of the others.
    """

    def __init__(self, inner: Deduplication, loop: asyncio.AbstractEventLoop) -> None:
        self.inner, self._loop = inner, loop

    def claim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        return self._run(self.inner.aclaim(scope, message_id, owner=owner))

    def done(self, claim: Claim) -> bool:
        return self._run(self.inner.adone(claim))

    def release(self, claim: Claim) -> bool:
        return self._run(self.inner.arelease(claim))

    def close(self) -> None:
        self._run(self.inner.aclose())

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(60)


def together(calls: list[Callable[[], T]]) -> list[T]:
    """Make calls at the same time, in a thread each, and return what they returned."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(started, calls))


def answered(call: Callable[[], T]) -> T:
    """Make a call again where it was not answered in time: SQLite lets one in after the other, and of a hundred some wait longer."""
    end = time.monotonic() + 30
    while True:
        try:
            return call()
        except DeduplicationError as error:
            if time.monotonic() > end or ("locked" not in str(error) and "in use by other threads" not in str(error)):
                raise


def outcomes(claims: list[Claim]) -> dict[str, int]:
    """How many there are of each outcome."""
    found = [claim.outcome.value for claim in claims]
    return {outcome: found.count(outcome) for outcome in set(found)}


#: Threads of a process that all claim the same ids at the same time, and print for each thread which ones they got.
CLAIMANTS = """
import json, sys, time
from tenancy.messaging.deduplication import open_deduplication
from tests.messaging.deduplication.contract import SCOPE, answered, together
url, start, threads, ids = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
deduplication = open_deduplication(url)
time.sleep(max(0, start - time.time()))
calls = [lambda: [answered(lambda: deduplication.claim(SCOPE, name)).outcome.value for name in ids]] * threads
print(json.dumps(together(calls)))
"""


class DeduplicationContract:
    """
    The contract; a subclass gives the fixture `place`, a new one for each test.
    """

    @pytest.fixture(params=["threads", "asyncio"])
    def opened(self, place: Place, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
        """Opens one more handle to the place, whose methods are those for threads, or those for asyncio; closed after the test."""
        handles: list[Any] = []
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def open_(**times: float) -> Any:
            handle: Any = place.open(**times)
            handles.append(handle if request.param == "threads" else FromAsyncio(handle, loop))
            return handles[-1]

        yield open_
        for handle in handles:
            handle.close()
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

    def test_one_has_it_until_it_is_done(self, opened: Callable[..., Any]) -> None:
        """The first to claim has the message; for others it is busy, then done, and they are told by whom and for how long."""
        first, second = opened(ttl=30, retention=600), opened(ttl=30, retention=600)
        claim = first.claim(SCOPE, "m-1", owner="first")
        assert (claim.outcome, claim.scope, claim.message_id, claim.owner) == (Outcome.OURS, SCOPE, "m-1", "first")
        assert claim.ours
        assert 29 < claim.seconds <= 30
        for other in (second.claim(SCOPE, "m-1", owner="second"), first.claim(SCOPE, "m-1", owner="first")):
            assert other.busy
            assert other.owner == "first"
            assert 20 < other.seconds <= 30
        assert first.done(claim) is True
        for other in (second.claim(SCOPE, "m-1"), first.claim(SCOPE, "m-1")):
            assert other.done
            assert other.owner == "first"
            assert 590 < other.seconds <= 600
        assert first.done(claim) is True
        assert first.release(claim) is False
        assert second.claim(SCOPE, "m-1").done

    def test_who_fails_gives_it_back(self, opened: Callable[..., Any]) -> None:
        """What is released is whose who claims it next, at once; released twice is released once."""
        first, second = opened(), opened()
        claim = first.claim(SCOPE, "m-1")
        assert first.release(claim) is True
        assert first.release(claim) is False
        again = second.claim(SCOPE, "m-1")
        assert again.ours
        assert again.token != claim.token
        assert first.release(claim) is False
        assert first.claim(SCOPE, "m-1").busy

    def test_the_claim_of_somebody_who_died_expires(self, place: Place, opened: Callable[..., Any]) -> None:
        """Until then the message is busy; after that it is somebody else's, who is done with it like anybody."""
        first, second = opened(ttl=30), opened(ttl=30)
        assert first.claim(SCOPE, "m-1").ours
        place.age(20)
        busy = second.claim(SCOPE, "m-1")
        assert busy.busy
        assert 5 < busy.seconds <= 10
        place.age(11)
        claim = second.claim(SCOPE, "m-1", owner="second")
        assert claim.ours
        assert first.claim(SCOPE, "m-1").owner == "second"
        assert second.done(claim) is True

    def test_who_is_done_late_changes_nothing_for_the_worse(self, place: Place, opened: Callable[..., Any]) -> None:
        """The claim expired and somebody else has it: that the message was handled is noted, and stays when that one fails."""
        slow, other = opened(ttl=30), opened(ttl=30)
        late = slow.claim(SCOPE, "m-1", owner="slow")
        place.age(31)
        claim = other.claim(SCOPE, "m-1")
        assert claim.ours
        assert slow.done(late) is False
        assert slow.claim(SCOPE, "m-1").done
        assert other.release(claim) is False
        told = other.claim(SCOPE, "m-1")
        assert told.done
        assert told.owner == "slow"
        assert other.done(claim) is False
        assert other.claim(SCOPE, "m-1").owner == "slow"

    def test_who_is_done_after_somebody_else_was(self, place: Place, opened: Callable[..., Any]) -> None:
        """What was noted first stays as it was noted."""
        slow, other = opened(ttl=30, retention=600), opened(ttl=30, retention=600)
        late = slow.claim(SCOPE, "m-1", owner="slow")
        place.age(31)
        claim = other.claim(SCOPE, "m-1", owner="other")
        assert other.done(claim) is True
        place.age(100)
        assert slow.done(late) is False
        told = slow.claim(SCOPE, "m-1")
        assert told.owner == "other"
        assert 490 < told.seconds <= 500

    def test_who_fails_late_leaves_the_claim_of_somebody_else(self, place: Place, opened: Callable[..., Any]) -> None:
        """Nobody can release what is no longer theirs."""
        slow, other = opened(ttl=30), opened(ttl=30)
        late = slow.claim(SCOPE, "m-1")
        place.age(31)
        claim = other.claim(SCOPE, "m-1")
        assert slow.release(late) is False
        assert slow.claim(SCOPE, "m-1").busy
        assert other.done(claim) is True

    def test_a_claim_that_expired_and_that_nobody_took(self, place: Place, opened: Callable[..., Any]) -> None:
        """Its holder cannot know that, and is told that the claim was lost; what is done is noted nevertheless."""
        slow = opened(ttl=30)
        done, released = slow.claim(SCOPE, "m-1"), slow.claim(SCOPE, "m-2")
        place.age(31)
        assert slow.done(done) is False
        assert slow.release(released) is False
        assert slow.claim(SCOPE, "m-1").done
        assert slow.claim(SCOPE, "m-2").ours

    def test_what_was_done_is_remembered_for_a_time(self, place: Place, opened: Callable[..., Any]) -> None:
        """For the retention, from when it was done, and no longer."""
        handle = opened(ttl=30, retention=600)
        handle.done(handle.claim(SCOPE, "m-1"))
        place.age(590)
        assert handle.claim(SCOPE, "m-1").done
        place.age(11)
        claim = handle.claim(SCOPE, "m-1")
        assert claim.ours
        assert handle.done(claim) is True
        place.age(590)
        assert handle.claim(SCOPE, "m-1").done

    def test_a_day_is_the_default(self, place: Place, opened: Callable[..., Any]) -> None:
        """A claim lasts a minute, and what was handled is remembered for a day."""
        handle = opened()
        claim = handle.claim(SCOPE, "m-1")
        assert 59 < claim.seconds <= 60
        handle.done(claim)
        assert 86390 < handle.claim(SCOPE, "m-1").seconds <= 86400

    def test_time_passes_by_itself(self, opened: Callable[..., Any]) -> None:
        """Nothing has to be called for a claim to expire, and for what was handled to be forgotten."""
        handle = opened(ttl=0.3, retention=0.4)
        assert handle.claim(SCOPE, "m-1").ours
        assert handle.claim(SCOPE, "m-1").busy
        time.sleep(0.35)
        claim = handle.claim(SCOPE, "m-1")
        assert claim.ours
        handle.done(claim)
        assert handle.claim(SCOPE, "m-1").done
        time.sleep(0.45)
        assert handle.claim(SCOPE, "m-1").ours

    def test_scopes_do_not_see_one_another(self, opened: Callable[..., Any]) -> None:
        """Two workloads that each got a copy each handle theirs; names that run together are not one name."""
        handle = opened()
        pairs = [
            (SCOPE, "m-1"),
            ("shop/notify:orders", "m-1"),
            ("shop/orders:orders.v2", "m-1"),
            ("a", "b c"),
            ("a b", "c"),
            ("a", "b"),
        ]
        claims = [handle.claim(scope, name) for scope, name in pairs]
        assert all(claim.ours for claim in claims)
        assert all(handle.done(claim) for claim in claims)

    def test_ids_are_only_that(self, opened: Callable[..., Any]) -> None:
        """Quotes, other alphabets, what cannot be encoded and what is very long are ids like others, each its own; so are scopes."""
        handle, other = opened(), opened()
        claims = [handle.claim(SCOPE, name, owner=name) for name in HOSTILE] + [handle.claim(name, "m-1") for name in HOSTILE]
        assert all(claim.ours for claim in claims)
        assert [claim.message_id for claim in claims[: len(HOSTILE)]] == list(HOSTILE)
        assert all(other.claim(claim.scope, claim.message_id).busy for claim in claims)
        assert all(handle.done(claim) for claim in claims[::2])
        assert all(handle.release(claim) for claim in claims[1::2])
        found = [other.claim(claim.scope, claim.message_id).outcome for claim in claims]
        assert found == [Outcome.DONE, Outcome.OURS] * (len(claims) // 2)

    @pytest.mark.parametrize("nothing", ["", None, 7])
    def test_what_has_no_id_cannot_be_claimed(self, opened: Callable[..., Any], nothing: Any) -> None:
        """It is refused before anything is asked."""
        with pytest.raises(DeduplicationError, match=r"the message id is .*give text"):
            opened().claim(SCOPE, nothing)
        with pytest.raises(DeduplicationError, match=r"the scope is .*give text"):
            opened().claim(nothing, "m-1")

    def test_what_is_not_ours_is_not_settled(self, opened: Callable[..., Any]) -> None:
        """Whoever was told that it is busy can say neither that it is done nor that it failed."""
        handle = opened()
        claim = handle.claim(SCOPE, "m-1")
        busy = handle.claim(SCOPE, "m-1")
        assert handle.done(busy) is False
        assert handle.release(busy) is False
        assert handle.claim(SCOPE, "m-1").busy
        assert handle.done(claim) is True

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 0.0001])
    @pytest.mark.parametrize("name", ["ttl", "retention"])
    def test_times_are_times(self, place: Place, name: str, seconds: float) -> None:
        """What is no time, or shorter than a store can keep, is refused before anything is made."""
        with pytest.raises(ConfigurationError, match=f"{name} is"):
            place.open(**{name: seconds})

    def test_of_a_hundred_that_claim_at_once_one_wins(self, place: Place, opened: Callable[..., Any]) -> None:
        """A new message, one whose claim expired, one that was given back, and one whose retention is over."""
        handles = [opened(ttl=30, retention=600) for _ in range(4)]
        calls = [lambda handle=handle: answered(lambda: handle.claim(SCOPE, "m-1")) for handle in handles] * 25

        def winner() -> Claim:
            claims = together(calls)
            assert outcomes(claims) == {"ours": 1, "busy": 99}
            return next(claim for claim in claims if claim.ours)

        winner()
        place.age(31)
        assert handles[0].release(winner()) is True
        claim = winner()
        assert handles[1].done(claim) is True
        assert outcomes(together(calls)) == {"done": 100}
        place.age(601)
        winner()

    def test_random_threads(self, opened: Callable[..., Any]) -> None:
        """Handlers that fail and come again: no message is handled by two at once, and each succeeds exactly once."""
        handle = opened()
        names = [f"m-{number}" for number in range(6)]
        running = {name: threading.Lock() for name in names}
        succeeded: list[str] = []

        def work(seed: int) -> None:
            chance = random.Random(seed)
            left = set(names)
            end = time.monotonic() + 30
            while left and time.monotonic() < end:
                name = chance.choice(sorted(left))
                claim = handle.claim(SCOPE, name)
                if claim.done:
                    left.discard(name)
                if not claim.ours:
                    continue
                assert running[name].acquire(blocking=False), "two at once"
                time.sleep(chance.random() * 0.005)
                running[name].release()
                if chance.random() < 0.6:
                    assert handle.release(claim) is True
                else:
                    succeeded.append(name)
                    assert handle.done(claim) is True
            assert not left

        together([lambda seed=seed: work(seed) for seed in range(6)])
        assert sorted(succeeded) == names

    def test_random_walks(self, place: Place) -> None:
        """
        Whatever several claimants do in whatever order, however long they take, each answer is the one that a plain model gives.
        """
        handle = place.open(ttl=1000, retention=10_000)
        who, which = st.integers(0, 2), st.integers(0, 1)
        step = st.one_of(
            st.tuples(st.sampled_from(["claim", "claim", "done", "release"]), who, which),
            st.tuples(st.just("age"), st.sampled_from([300, 1500, 21_000]), st.just(0)),
        )

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(step, max_size=25))
        def walk(steps: list[tuple[str, int, int]]) -> None:
            scope, model = f"walk:{uuid4().hex}", Model(1000, 10_000)
            claims: dict[tuple[int, int], Claim] = {}
            for action, who, which in steps:
                if action == "age":
                    model.now += who
                    place.age(who)
                elif action == "claim":
                    claim = handle.claim(scope, f"m-{which}")
                    assert claim.outcome.value == model.claim(which, claim.token)
                    if claim.ours:
                        claims[who, which] = claim
                elif (who, which) in claims:
                    told = getattr(handle, action)(claims[who, which])
                    assert told is getattr(model, action)(which, claims[who, which].token)

        walk()
        handle.close()

    async def test_who_is_cancelled_leaves_no_claim(self, place: Place) -> None:
        """Wherever a claim was when its task was cancelled, the message can be claimed at once; a claim that was told is settled."""
        handle = place.open()
        try:
            for number in range(20):
                task = asyncio.create_task(handle.aclaim(SCOPE, f"m-{number}"))
                await asyncio.sleep(number * 0.0003)
                task.cancel()
                try:
                    claim = await task
                except asyncio.CancelledError:
                    claim = await handle.aclaim(SCOPE, f"m-{number}")
                assert claim.ours
                task_ = asyncio.create_task(handle.adone(claim))
                await asyncio.sleep(number * 0.0003)
                task_.cancel()
                settled = await asyncio.gather(task_, return_exceptions=True)
                # A task that never began is nobody's doing.
                assert (await handle.aclaim(SCOPE, f"m-{number}")).done or (number == 0 and settled != [True])
        finally:
            await handle.aclose()
            handle.close()

    async def test_a_hundred_tasks(self, place: Place) -> None:
        """One wins, and the others wait for it: with a wait they end when it is done, and it ran once."""
        handle = place.open()
        ran: list[int] = []

        async def handled(number: int) -> Outcome:
            async with once(handle, SCOPE, "m-1", wait=30) as claim:
                if claim.ours:
                    await asyncio.sleep(0.1)
                    ran.append(number)
                return claim.outcome

        try:
            found = await asyncio.gather(*(handled(number) for number in range(100)))
        finally:
            await handle.aclose()
            handle.close()
        assert len(ran) == 1
        assert sorted(found) == [Outcome.DONE] * 99 + [Outcome.OURS]

    def test_one_handle_in_several_loops(self, place: Place) -> None:
        """One loop after the other, and threads between them, use one handle."""
        handle = place.open()

        async def claim() -> Claim:
            try:
                return await handle.aclaim(SCOPE, "m-1")
            finally:
                await handle.aclose()

        assert asyncio.run(claim()).ours
        assert handle.claim(SCOPE, "m-1").busy
        assert asyncio.run(claim()).busy
        handle.close()

    def test_a_closed_handle_is_opened_by_its_next_use(self, opened: Callable[..., Any]) -> None:
        """What is closed gives back its connections, and nothing else."""
        handle = opened()
        claim = handle.claim(SCOPE, "m-1")
        handle.close()
        handle.close()
        assert handle.done(claim) is True


class Model:
    """
    What is remembered of each message, in plain words.
    """

    def __init__(self, ttl: float, retention: float) -> None:
        self.now = 0.0
        self._ttl, self._retention = ttl, retention
        self._claimed: dict[int, tuple[str, float]] = {}
        self._done: dict[int, tuple[str, float]] = {}

    def claim(self, which: int, token: str) -> str:
        if self._remembered(which):
            return "done"
        if self._holder(which):
            return "busy"
        self._claimed[which] = token, self.now + self._ttl
        return "ours"

    def done(self, which: int, token: str) -> bool:
        if self._remembered(which):
            return self._remembered(which) == token
        ours = self._holder(which) == token
        self._claimed.pop(which, None)
        self._done[which] = token, self.now + self._retention
        return ours

    def release(self, which: int, token: str) -> bool:
        if self._remembered(which) or self._holder(which) != token:
            return False
        del self._claimed[which]
        return True

    def _remembered(self, which: int) -> str:
        token, until = self._done.get(which, ("", 0.0))
        return token if until > self.now else ""

    def _holder(self, which: int) -> str:
        token, until = self._claimed.get(which, ("", 0.0))
        return token if until > self.now else ""


class ServerContract(DeduplicationContract):
    """
    What one does besides that other processes use, too.
    """

    def test_of_a_hundred_in_processes_one_wins(self, place: Place) -> None:
        """Four processes with as many threads each claim the same messages: each is claimed by one."""
        assert place.url is not None
        names = [f"m-{number}" for number in range(5)]
        arguments = [place.url, str(time.time() + 2.5), "25", json.dumps(names)]
        command = [sys.executable, "-c", CLAIMANTS, *arguments]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(4)
        ]
        found: list[list[str]] = []
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            found += json.loads(out)
        assert len(found) == 100
        for of_one in zip(*found, strict=True):
            assert sorted(of_one) == ["busy"] * 99 + ["ours"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_forked_child_has_connections_of_its_own(self, place: Place) -> None:
        """Parent and children use one handle at the same time, and each message is one's."""
        handle = place.open()
        assert handle.claim(SCOPE, "before").ours
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                ours = 99
                try:
                    ours = sum(handle.claim(SCOPE, f"m-{number}").ours for number in range(20))
                finally:
                    os._exit(ours)
            pids.append(pid)
        ours = sum(handle.claim(SCOPE, f"m-{number}").ours for number in range(20))
        assert ours + sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids) == 20
        handle.close()

    def test_who_is_killed_at_work(self, place: Place) -> None:
        """A process that dies leaves its claim, and nothing that would keep others from taking it when it has expired."""
        assert place.url is not None
        code = (
            "import os, sys\n"
            "from tenancy.messaging.deduplication import once, open_deduplication\n"
            "with once(open_deduplication(sys.argv[1], ttl=1.0), sys.argv[2], 'm-1') as claim:\n"
            "    os._exit(7 if claim.ours else 1)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, place.url, SCOPE], check=False).returncode == 7
        handle = place.open()
        assert handle.claim(SCOPE, "m-1").busy
        with once(handle, SCOPE, "m-1", wait=5) as claim:
            assert claim.ours
        assert handle.claim(SCOPE, "m-1").done
        handle.close()
