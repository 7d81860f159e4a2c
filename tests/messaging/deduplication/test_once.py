"""
The block that runs once for each message, the scopes, and the names under which ids are kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tenancy
from tenancy import ConfigurationError, IdentityError
from tenancy.errors import DeduplicationError
from tenancy.messaging import deduplication as package
from tenancy.messaging.deduplication import Claim, Outcome, once, scope_of
from tenancy.messaging.deduplication._base import counted as count_claim
from tenancy.messaging.deduplication._base import whole
from tenancy.messaging.deduplication._once import pause_before
from tenancy.messaging.deduplication._records import name_of
from tenancy.testing import MemoryDeduplication
from tests.messaging.deduplication.contract import HOSTILE, SCOPE


@pytest.fixture
def memory() -> MemoryDeduplication:
    return MemoryDeduplication(ttl=30, retention=600)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The outcomes that were counted."""
    outcomes: list[str] = []

    def count(name: str, attributes: dict[str, str]) -> None:
        assert name == "tenancy.messages.claims"
        outcomes.append(attributes["outcome"])

    monkeypatch.setattr(package._base, "count", count)
    monkeypatch.setattr(package._once, "count", count)
    return outcomes


@pytest.fixture(params=["with", "async with"])
def way(request: pytest.FixtureRequest) -> Any:
    """Runs a function within the block, in both ways, and returns the claim."""

    def run_with(memory: MemoryDeduplication, handler: Any = None, message_id: str | None = "m-1", **options: Any) -> Claim:
        with once(memory, SCOPE, message_id, **options) as claim:
            if handler is not None:
                handler()
        return claim

    async def run_async(memory: MemoryDeduplication, handler: Any = None, message_id: str | None = "m-1", **options: Any) -> Claim:
        async with once(memory, SCOPE, message_id, **options) as claim:
            if handler is not None:
                handler()
        return claim

    return run_with if request.param == "with" else lambda *args, **options: asyncio.run(run_async(*args, **options))


def fail() -> None:
    raise LookupError("the handler failed")


def test_a_block_that_ends_is_done(memory: MemoryDeduplication, way: Any, counted: list[str]) -> None:
    """The next one is told so, and the block is entered all the same, so that it can acknowledge."""
    assert way(memory, owner="pod 7").ours
    entered: list[int] = []
    claim = way(memory, lambda: entered.append(1))
    assert claim.done
    assert claim.owner == "pod 7"
    assert entered
    assert counted == ["ours", "done"]


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_block_that_raises_gives_the_claim_back(memory: MemoryDeduplication, way: Any, error: type[BaseException]) -> None:
    """Whatever it raises goes on, and the message can be claimed at once."""

    def handler() -> None:
        raise error

    with pytest.raises(error):
        way(memory, handler)
    assert way(memory).ours


def test_somebody_else_is_not_disturbed(memory: MemoryDeduplication, way: Any) -> None:
    """A block that found the message busy settles nothing, whether it ends or raises."""
    claim = memory.claim(SCOPE, "m-1")
    assert way(memory).busy
    with pytest.raises(LookupError):
        way(memory, fail)
    assert memory.claim(SCOPE, "m-1").busy
    assert memory.done(claim) is True


def test_who_waits_has_it_when_it_is_given_back(memory: MemoryDeduplication, way: Any) -> None:
    """Soon after; and is told that it is done when it is done, or busy when the time is over."""
    first, second = memory.claim(SCOPE, "m-1"), memory.claim(SCOPE, "m-2")
    timers = [threading.Timer(0.3, memory.release, [first]), threading.Timer(0.3, memory.done, [second])]
    for timer in timers:
        timer.start()
    start = time.monotonic()
    assert way(memory, wait=5.0).ours
    assert way(memory, message_id="m-2", wait=5.0).done
    assert 0.25 < time.monotonic() - start < 2.0
    memory.claim(SCOPE, "m-3")
    start = time.monotonic()
    assert way(memory, message_id="m-3", wait=0.3).busy
    assert 0.29 < time.monotonic() - start < 1.0


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_message_without_an_id(
    memory: MemoryDeduplication, way: Any, counted: list[str], caplog: pytest.LogCaptureFixture, nothing: str | None
) -> None:
    """It is handled each time it comes, also where nothing can be had; that is counted, and logged once."""
    memory.lose()
    for _ in range(3):
        claim = way(memory, message_id=nothing)
        assert claim.ours
        assert memory.done(claim) is True
        assert memory.release(claim) is True
    with pytest.raises(LookupError):
        way(memory, fail, message_id=nothing)
    assert counted == ["unidentified"] * 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{SCOPE}: a message has no id" in caplog.text


def test_who_is_late_is_told(memory: MemoryDeduplication, way: Any, counted: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """A block that took longer than its claim lasts ends as others do; it is counted, and logged once."""
    for name in ("m-1", "m-2"):
        assert way(memory, lambda: memory.advance(31), name).ours
        assert memory.claim(SCOPE, name).done
    assert counted == ["ours", "late", "done"] * 2
    assert len(caplog.records) == 1
    assert "the claim of message 'm-1' expired before the message was handled" in caplog.text


def test_what_cannot_be_claimed_is_not_handled(memory: MemoryDeduplication, way: Any) -> None:
    """The error is raised before the block."""
    memory.lose("no route to host")
    entered: list[int] = []
    with pytest.raises(DeduplicationError, match="no route to host"):
        way(memory, lambda: entered.append(1))
    assert not entered


def test_what_was_handled_stays_so(memory: MemoryDeduplication, way: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where it cannot be noted, the block ends as if it were; the claim expires, and is another's then."""
    assert way(memory, memory.lose).ours
    assert "it could not be noted that a message was handled; its copy may be handled, too" in caplog.text
    memory.restore()
    assert memory.claim(SCOPE, "m-1").busy
    memory.advance(31)
    assert memory.claim(SCOPE, "m-1").ours


def test_the_error_of_the_handler_goes_before(memory: MemoryDeduplication, way: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where the claim cannot be given back, the handler's own error is what the caller sees."""

    def handler() -> None:
        memory.lose()
        fail()

    with pytest.raises(LookupError):
        way(memory, handler)
    assert "it could not be noted that a message failed" in caplog.text


async def test_who_is_cancelled_while_waiting(memory: MemoryDeduplication) -> None:
    """Leaves nothing behind."""
    claim = memory.claim(SCOPE, "m-1")

    async def wait() -> None:
        async with once(memory, SCOPE, "m-1", wait=30):
            pytest.fail("it was handled")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory.release(claim) is True
    assert memory.claim(SCOPE, "m-1").ours


async def test_who_is_cancelled_at_work_has_given_back_before_it_ends(memory: MemoryDeduplication) -> None:
    """When the cancelled task is over, the message can be claimed."""

    begun = asyncio.Event()

    async def work() -> None:
        async with once(memory, SCOPE, "m-1"):
            begun.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await begun.wait()
    assert memory.claim(SCOPE, "m-1").busy
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory.claim(SCOPE, "m-1").ours


@pytest.mark.parametrize("fails", [False, True])
async def test_a_call_is_made_to_its_end(fails: bool) -> None:
    """Also where the caller is cancelled, and before that goes on; how the call ended is nobody's then."""
    ended: list[bool] = []

    async def call() -> None:
        await asyncio.sleep(0.1)
        ended.append(True)
        if fails:
            raise DeduplicationError("the connection was refused")

    task = asyncio.create_task(whole(call()))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended
    if fails:
        with pytest.raises(DeduplicationError):
            await whole(call())


@given(st.floats(0, 100), st.integers(0, 2000), st.floats(0.001, 100))
def test_a_pause_is_never_too_long(seconds: float, attempt: int, left: float) -> None:
    """Neither longer than a second, nor than is waited at all, nor than the other claim lasts, but for what keeps it from spinning."""
    pause = pause_before(Claim(SCOPE, "m-1", Outcome.BUSY, seconds=seconds), attempt, left)
    assert pause is not None
    assert 0 < pause <= min(1.0, left, max(0.05, seconds + 0.001))
    assert pause_before(Claim(SCOPE, "m-1", Outcome.BUSY, seconds=seconds), attempt, 0) is None
    assert pause_before(Claim(SCOPE, "m-1", Outcome.DONE, seconds=seconds), attempt, left) is None
    assert pause_before(Claim(SCOPE, "m-1", Outcome.OURS, seconds=seconds), attempt, left) is None


def test_the_scope_is_the_workload_and_the_baselines_queue() -> None:
    """It is the same in the baseline and in every sandbox; the workload is the setting's, or what was passed."""
    for identity in ({"role": "baseline"}, {"sandbox": "pr-42"}, {}):
        tenancy.configure(workload="shop/orders", **identity)
        assert scope_of("orders") == "shop/orders:orders"
    assert scope_of("orders", workload="shop/notify") == "shop/notify:orders"
    with pytest.raises(ConfigurationError, match="queue is ''"):
        scope_of("")
    with pytest.raises(IdentityError, match=r"workload .TENANCY_WORKLOAD. is 'Orders'"):
        scope_of("orders", workload="Orders")
    tenancy.configure(workload=None)
    with pytest.raises(IdentityError, match=r"workload .TENANCY_WORKLOAD. is None"):
        scope_of("orders")


@given(st.lists(st.one_of(st.text(min_size=1), st.sampled_from(HOSTILE)), min_size=2, max_size=6, unique=True))
def test_names_are_printable_short_and_never_shared(texts: list[str]) -> None:
    """Whatever an id is: its name can be kept anywhere, has no space, and is no other id's; a name's own name is another one, or itself."""
    names = [name_of(text, "message id") for text in texts]
    assert len(set(names)) == len(texts)
    for text, name in zip(texts, names, strict=True):
        assert name.isprintable()
        assert " " not in name
        assert 0 < len(name) <= 200
        assert name == text or name_of(name, "message id") != name


def test_a_claim_is_counted_and_handed_on(counted: list[str]) -> None:
    """What is counted is what is returned."""
    claim = Claim(SCOPE, "m-1", Outcome.BUSY)
    assert count_claim(claim) is claim
    assert counted == ["busy"]
