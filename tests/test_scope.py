from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy import cache_key, routing_key, scope

tracer = TracerProvider().get_tracer("test")


@pytest.fixture(autouse=True)
def _nothing_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test starts and ends without a key, and OpenTelemetry never fails to detach."""
    assert routing_key() is None
    yield
    assert routing_key() is None
    assert not [record for record in caplog.records if "detach" in record.getMessage() and record.levelno >= logging.ERROR]


def test_the_key_lives_in_baggage_alone() -> None:
    """A scope is OpenTelemetry baggage, and baggage set by others is a key."""
    with scope("pr-42") as key:
        assert key == routing_key() == baggage.get_baggage("sd-routing-key") == "pr-42"
        assert isinstance(routing_key(), tenancy.RoutingKey)
    token = otel.attach(baggage.set_baggage("sd-routing-key", "pr-7"))
    assert routing_key() == "pr-7"
    otel.detach(token)
    token = otel.attach(baggage.set_baggage("sd-routing-key", "NOT A KEY"))
    assert routing_key() is None
    otel.detach(token)


def test_scopes_nest_and_clear() -> None:
    """An inner scope replaces the key, None clears it, other baggage stays, and the outer one comes back."""
    token = otel.attach(baggage.set_baggage("other", "1"))
    with scope("pr-1"):
        with scope("pr-2"), scope(None):
            assert routing_key() is None
            assert baggage.get_all() == {"other": "1"}
        assert routing_key() == "pr-1"
    otel.detach(token)


def test_one_scope_can_be_entered_again() -> None:
    """A scope object is reusable and re-entrant."""
    again = scope("pr-1")
    with again, scope("pr-2"), again:
        assert routing_key() == "pr-1"


async def test_one_scope_can_be_open_in_several_tasks() -> None:
    """Each of them gets its own outer value back, in whatever order they leave."""
    shared = scope("pr-1")
    opened = asyncio.Event()

    async def first() -> str | None:
        with scope("outer"):
            with shared:
                await opened.wait()
            return routing_key()

    async def second() -> str | None:
        with shared:
            opened.set()
            await asyncio.sleep(0.01)
        return routing_key()

    assert await asyncio.gather(first(), second()) == ["outer", None]


def test_what_was_left_current_inside_of_a_scope_goes_with_it() -> None:
    """A scope ends even where something in it did not tidy up."""
    with scope("pr-1"):
        otel.attach(baggage.set_baggage("other", "1"))
    assert baggage.get_all() == {}


def test_a_key_in_the_tracestate_that_came_in_is_not_sent_on() -> None:
    """Under another key, or none, the current span is the same but for its tracestate, which is restored after."""
    parent = trace.SpanContext(1, 2, True, trace.TraceFlags(1), trace.TraceState([("v", "1"), ("sd-routing-key", "pr-1")]))
    with tracer.start_as_current_span("work", trace.set_span_in_context(trace.NonRecordingSpan(parent))) as span:
        with scope("pr-1"):
            assert trace.get_current_span() is span
        for key in (None, "pr-2"):
            with scope(key):
                same = trace.get_current_span()
                assert same.get_span_context().span_id == span.get_span_context().span_id
                assert dict(same.get_span_context().trace_state) == {"v": "1"}
                same.set_attribute("seen", str(key))
                same.add_event("event")
                assert same.is_recording()
                headers: dict[str, str] = {}
                propagate.inject(headers)
                assert headers["tracestate"] == "v=1"
                with tracer.start_as_current_span("child") as child:
                    assert "sd-routing-key" not in child.get_span_context().trace_state
        assert trace.get_current_span() is span
        assert span.attributes["seen"] == "pr-2"  # type: ignore[attr-defined]


class Record:
    def __init__(self, headers: Any) -> None:
        self._headers = headers

    def headers(self) -> Any:
        return self._headers


@pytest.mark.parametrize(
    "source",
    [
        Record([("baggage", b"sd-routing-key=pr-42")]),
        SimpleNamespace(headers={"baggage": "sd-routing-key=pr-42"}),
        SimpleNamespace(headers=(("baggage", b"sd-routing-key=pr-42"),)),
        SimpleNamespace(properties=SimpleNamespace(headers={"baggage": b"sd-routing-key=pr-42"})),
        {"Baggage": "sd-routing-key=pr-42"},
        [(b"baggage", b"sd-routing-key=pr-42")],
    ],
)
def test_a_message_says_its_key(source: Any) -> None:
    """Messages of every client, and bare headers, are taken."""
    with scope("outer"):
        with scope(source):
            assert routing_key() == "pr-42"
        assert routing_key() == "outer"


@pytest.mark.parametrize(
    "source", [None, Record(None), Record([]), {}, SimpleNamespace(headers=None), Record([("baggage", b"sd-routing-key=NO")])]
)
def test_a_message_without_a_key_clears(source: Any) -> None:
    """Nothing ambient leaks into the work of a message that has no key."""
    with scope("outer"):
        with scope(source):
            assert routing_key() is None
        assert routing_key() == "outer"


def test_what_is_no_source_is_refused() -> None:
    """A bad key and an object without headers raise before anything changes."""
    with pytest.raises(tenancy.InvalidRoutingKeyError):
        scope("PR 42")
    with pytest.raises(tenancy.ConfigurationError, match="no headers"):
        scope(42)
    with pytest.raises(tenancy.ConfigurationError, match="one by one"):
        scope([Record([("baggage", b"sd-routing-key=pr-42")])])


def test_exceptions_pass_and_restore() -> None:
    """A scope swallows nothing."""
    with pytest.raises(LookupError), scope("pr-1"):
        raise LookupError


def test_functions_keep_their_signature() -> None:
    """A decorated function is the same to callers and to inspection."""

    @scope("pr-42")
    def work(first: int, *, second: str = "b") -> tuple[int, str, str | None]:
        """Documented."""
        return first, second, routing_key()

    assert work(1, second="c") == (1, "c", "pr-42")
    assert work.__name__ == "work"
    assert work.__doc__ == "Documented."
    assert list(inspect.signature(work).parameters) == ["first", "second"]


async def test_what_returns_a_coroutine_is_scoped_until_it_has_run() -> None:
    """An object with an async __call__, and a coroutine function that another decorator hides."""

    class Service:
        async def __call__(self) -> str | None:
            await asyncio.sleep(0)
            return routing_key()

    assert await scope("pr-42")(Service())() == "pr-42"
    assert await scope("pr-42")(lambda: Service()())() == "pr-42"


async def test_coroutines_keep_the_key_across_awaits_and_cancellation() -> None:
    """A decorated coroutine has its key after every await; a cancelled one leaves nothing behind."""
    started = asyncio.Event()

    @scope("pr-42")
    async def work(pause: float) -> str | None:
        started.set()
        await asyncio.sleep(pause)
        return routing_key()

    assert inspect.iscoroutinefunction(work)
    assert await work(0) == "pr-42"
    started.clear()
    task = asyncio.create_task(work(60))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def inline() -> str | None:
        try:
            with scope("pr-1"):
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            return routing_key()
        return "not cancelled"

    task2 = asyncio.create_task(inline())
    await asyncio.sleep(0)
    task2.cancel()
    assert await task2 is None


def test_a_generator_has_the_key_and_its_consumer_does_not() -> None:
    """The key is there in every step of the body, and gone at every yield; send, throw, return and close work as always."""
    log: list[str | None] = []

    @scope("pr-42")
    def work() -> Iterator[Any]:
        try:
            log.append(routing_key())
            got = yield "first"
            log.append(routing_key())
            try:
                yield got
            except LookupError:
                log.append(routing_key())
                yield "caught"
        finally:
            log.append(routing_key())
        return "result"

    steps = work()
    assert inspect.isgenerator(steps)
    assert next(steps) == "first"
    assert routing_key() is None
    assert steps.send("sent") == "sent"  # type: ignore[attr-defined]
    with scope("consumer"):
        assert steps.throw(LookupError()) == "caught"  # type: ignore[attr-defined]
        assert routing_key() == "consumer"
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert end.value.value == "result"
        assert routing_key() == "consumer"
    assert log == ["pr-42"] * 4
    for _ in (closed := work()):
        break
    closed.close()  # type: ignore[attr-defined]
    assert log == ["pr-42"] * 6


def test_a_span_in_a_generator_that_outlives_a_yield_does_not_leak() -> None:
    """A span opened in the body is current in its later steps and never in the consumer; the consumer's own span stays."""

    @scope("pr-42")
    def work() -> Iterator[Any]:
        with tracer.start_as_current_span("inside") as span:
            yield span
            yield trace.get_current_span() is span and routing_key() == "pr-42"
        yield trace.get_current_span() is not span and routing_key() == "pr-42"

    with tracer.start_as_current_span("outside") as outside:
        steps = work()
        for step in (1, 2, 3):
            value = next(steps)
            assert step == 1 or value is True
            assert trace.get_current_span() is outside
            assert routing_key() is None
        assert list(steps) == []
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_breaking_out_of_an_async_generator_restores() -> None:
    """A consumer that stops half-way keeps its own key, before and after the generator is closed."""
    log: list[str | None] = []

    @scope("pr-42")
    async def work() -> AsyncIterator[int]:
        try:
            for number in range(3):
                log.append(routing_key())
                await asyncio.sleep(0)
                with tracer.start_as_current_span("inside"):
                    yield number
        finally:
            log.append(routing_key())

    assert inspect.isasyncgenfunction(work)
    with scope("consumer"):
        async for _ in work():
            assert routing_key() == "consumer"
            break
        assert routing_key() == "consumer"
        gc.collect()
        await asyncio.sleep(0.01)
        assert routing_key() == "consumer"
        assert [number async for number in work()] == [0, 1, 2]
        assert routing_key() == "consumer"
        steps = work()
        assert await anext(steps) == 0
        with pytest.raises(LookupError):
            await steps.athrow(LookupError())  # type: ignore[attr-defined]
        await asyncio.create_task(drain(work()))
    assert set(log) == {"pr-42"}
    assert trace.get_current_span() is trace.INVALID_SPAN


async def drain(steps: AsyncIterator[int]) -> None:
    async for _ in steps:
        assert routing_key() == "consumer"


async def test_an_async_generator_may_be_stepped_from_several_tasks() -> None:
    """Steps that run in different tasks all have the key, and their tasks do not."""

    @scope("pr-42")
    async def work() -> AsyncIterator[str | None]:
        while True:
            await asyncio.sleep(0)
            yield routing_key()

    steps = work()

    async def one() -> tuple[str | None, str | None]:
        return await anext(steps), routing_key()

    for _ in range(3):
        assert await asyncio.create_task(one()) == ("pr-42", None)
    await steps.aclose()  # type: ignore[attr-defined]


async def test_many_tasks_and_threads_each_have_their_own() -> None:
    """200 tasks and 200 threads, interleaved, never see each other's key."""

    async def task(number: int) -> bool:
        with scope(f"k{number}"):
            for _ in range(5):
                await asyncio.sleep(0)
                if routing_key() != f"k{number}":
                    return False
            return await asyncio.to_thread(routing_key) == f"k{number}"

    assert all(await asyncio.gather(*map(task, range(200))))


def test_no_name_of_the_baseline_is_the_name_of_a_key() -> None:
    """Two pieces of work share a cached value only if they have the same key and use the same name."""
    names = ["a", "tenancy:pr-42:a", "tenancy::a", "pr-42:a", ":a", "tenancy:"]
    found = [cache_key(name) for name in names]
    for key in ("pr-42", "pr-4"):
        with scope(key):
            found += [cache_key(name) for name in names]
    assert len(set(found)) == len(found)
    assert cache_key("a") == "a"
