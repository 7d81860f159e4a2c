"""
`SelectiveConsumer` of aiokafka on a real Kafka.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, IllegalStateError
from aiokafka.structs import OffsetAndMetadata

import tenancy
from tenancy import ConfigurationError
from tenancy.messaging.aiokafka import HoldLimit, with_key
from tests.messaging.kafka.aio_support import Rows, committed, consumer, make_topic, nothing_comes, receive, send, until

pytestmark = pytest.mark.service

MIXED = [None, "pr-1", None, "pr-9", "pr-1", None]
#: Who owns each of them where pr-1 is handed over from the second record on.
BASELINE, SANDBOX = [0, 2, 3, 5], [1, 4]


@pytest.fixture
async def topic(kafka: str) -> str:
    return await make_topic(kafka)


@pytest.fixture
def rows() -> Rows:
    return Rows()


# Whose a record is


@pytest.mark.parametrize("way", ["getone", "getmany", "async for", "run"])
async def test_each_record_has_one_owner(kafka: str, topic: str, rows: Rows, way: str) -> None:
    """However they are received, the baseline and the sandbox get their own records, and both commit all of them."""
    rows.active(topic, topic, 1)
    await send(kafka, topic, MIXED)
    got: dict[str | None, list[tuple[int, str | None]]] = {}
    for sandbox, wanted in ((None, BASELINE), ("pr-1", SANDBOX)):
        seen = got[sandbox] = []
        async with consumer(kafka, topic, sandbox=sandbox, routes=rows.live(), group=topic) as made:

            def note(record: Any, made: Any = made, seen: list[Any] = seen) -> None:
                with made.scope(record):
                    seen.append((int(record.value), tenancy.routing_key()))

            if way == "getone":
                for _ in wanted:
                    note(await asyncio.wait_for(made.getone(), 30))
            elif way == "getmany":
                while len(seen) < len(wanted):
                    for place, records in (await made.getmany(timeout_ms=1000, max_records=2)).items():
                        assert records
                        assert place == TopicPartition(topic, 0)
                        for record in records:
                            note(record)
            elif way == "async for":
                async for record in made:
                    note(record)
                    if len(seen) == len(wanted):
                        break
            else:

                async def handle(record: Any, seen: list[Any] = seen) -> None:
                    await asyncio.sleep(0)
                    seen.append((int(record.value), tenancy.routing_key()))

                running = asyncio.create_task(made.run(handle, workers=2))
                await until(lambda made=made: _is(kafka, str(made.group_id), topic, len(MIXED)))
                await made.stop()
                await asyncio.wait_for(running, 30)
            assert tenancy.routing_key() is None
            group = made.group_id
            assert group is not None
            if way != "run":
                assert await nothing_comes(made)
                await until(lambda group=group: _is(kafka, group, topic, len(MIXED)))
        assert await committed(kafka, group, topic) == len(MIXED)
    assert got[None] == [(number, None) for number in BASELINE]
    assert got["pr-1"] == [(number, "pr-1") for number in SANDBOX]


async def _is(kafka: str, group: str, topic: str, offset: int | None) -> bool:
    return await committed(kafka, group, topic) == offset


async def test_the_ambient_context_is_left_alone(kafka: str, topic: str, rows: Rows) -> None:
    """Receiving changes nothing about what is current; a scope does, and only inside."""
    rows.active(topic, topic, 0)
    await send(kafka, topic, ["pr-1", "pr-1"])
    async with consumer(kafka, topic, sandbox="pr-1", routes=rows.live(), group=topic) as made:
        with tenancy.scope("pr-7"):
            record = await asyncio.wait_for(made.getone(), 30)
            assert tenancy.routing_key() == "pr-7"
            with made.scope(record):
                assert tenancy.routing_key() == "pr-1"
            assert tenancy.routing_key() == "pr-7"
            await asyncio.wait_for(made.getmany(timeout_ms=5000), 30)
            assert tenancy.routing_key() == "pr-7"


# What may be committed


async def test_a_record_in_hand_is_not_committed(kafka: str, topic: str, rows: Rows) -> None:
    """With automatic commits a record is done when the next one is asked for: not before, also not at the end."""
    await send(kafka, topic, [None, None, "pr-9", None])
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        assert await receive(made, 3) == [0, 1, 2]
        await until(lambda: _is(kafka, topic, topic, 2))
        await asyncio.sleep(0.5)
        assert await committed(kafka, topic, topic) == 2
    assert await committed(kafka, topic, topic) == 2
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        assert await receive(made, 2) == [2, 3]


async def test_commits_by_hand(kafka: str, topic: str, rows: Rows) -> None:
    """What was skipped goes along with a commit, in every form of it, and nothing is committed that was not."""
    rows.active(topic, topic, 0)
    await send(kafka, topic, ["pr-1", None, "pr-1", "pr-1", None, None, None, "pr-1"])
    place = TopicPartition(topic, 0)
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic, enable_auto_commit=False) as made:
        assert await receive(made, 1) == [1]
        await until(lambda: _is(kafka, topic, topic, 1))  # the skipped one before it
        await made.commit({place: 2})
        assert await committed(kafka, topic, topic) == 2
        assert await receive(made, 2) == [4, 5]
        await until(lambda: _is(kafka, topic, topic, 4))
        await asyncio.sleep(1.3)
        assert await made.committed(place) == 4
        await made.commit({place: OffsetAndMetadata(5, "note")})
        assert await made.committed(place) == 5
        await made.commit()
        assert await made.committed(place) == 6
        assert await made.position(place) == 6
        assert await receive(made, 1) == [6]
        assert await nothing_comes(made, 0.3)
        await made.commit({place: (7, "note")})
        assert await made.committed(place) == 8
        with pytest.raises(IllegalStateError):
            await made.commit({TopicPartition(topic, 7): 1})
        with pytest.raises(ValueError):
            await made.commit({})
        with pytest.raises(ValueError):
            await made.getmany(max_records=0)


async def test_records_end_in_any_order(kafka: str, topic: str, rows: Rows) -> None:
    """With several workers only what is done, and all before it is, gets committed; a failure comes out when what runs has ended."""
    await send(kafka, topic, [None] * 6)
    gates = [asyncio.Event() for _ in range(6)]
    begun: list[int] = []
    ended: list[int] = []

    async def handle(record: Any) -> None:
        number = int(record.value)
        begun.append(number)
        await gates[number].wait()
        if number == 3:
            raise LookupError("the fourth")
        ended.append(number)

    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        running = asyncio.create_task(made.run(handle, workers=3))
        await until(lambda: begun == [0, 1, 2])
        gates[1].set()
        gates[2].set()
        await until(lambda: begun == [0, 1, 2, 3, 4])
        await asyncio.sleep(0.5)
        assert not await committed(kafka, topic, topic)
        gates[0].set()
        await until(lambda: _is(kafka, topic, topic, 3))
        await until(lambda: len(begun) == 6)
        gates[3].set()
        await asyncio.sleep(0.3)
        assert not running.done()
        gates[4].set()
        gates[5].set()
        with pytest.raises(LookupError, match="the fourth"):
            await asyncio.wait_for(running, 30)
        assert sorted(ended) == [0, 1, 2, 4, 5]
    assert await committed(kafka, topic, topic) == 3


async def test_a_run_that_is_cancelled_takes_its_handlers_along(kafka: str, topic: str, rows: Rows) -> None:
    """Cancelling `run` cancels what runs, of which nothing is committed."""
    await send(kafka, topic, [None] * 3)
    begun: list[int] = []
    cancelled: list[int] = []

    async def handle(record: Any) -> None:
        begun.append(int(record.value))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(int(record.value))
            raise

    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        running = asyncio.create_task(made.run(handle, workers=2))
        await until(lambda: begun == [0, 1])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert cancelled == [0, 1]
    assert not await committed(kafka, topic, topic)


# Waiting


async def test_a_wait_that_is_cancelled_loses_nothing(kafka: str, topic: str, rows: Rows) -> None:
    """A hundred waits that are cut short at any moment, while records come, and each record is returned once."""
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        sending = asyncio.create_task(_trickle(kafka, topic))
        got: list[int] = []
        cut = 0
        while len(got) < 100:
            try:
                got.append(int((await asyncio.wait_for(made.getone(), 0.004)).value))
            except asyncio.TimeoutError:
                cut += 1
        await sending
    assert got == list(range(100))
    assert cut > 20


async def _trickle(kafka: str, topic: str) -> None:
    for number in range(0, 100, 10):
        await send(kafka, topic, [None] * 10, first=number)
        await asyncio.sleep(0.02)


# Setting aside


async def test_records_wait_while_a_sandbox_is_created(kafka: str, topic: str, rows: Rows) -> None:
    """What may become the sandbox's is set aside, all else goes on, nothing is committed past it, and then each gets its own."""
    rows.create(topic, topic)
    await send(kafka, topic, MIXED)
    live = rows.live()
    async with (
        consumer(kafka, topic, sandbox=None, routes=live, group=topic) as baseline,
        consumer(kafka, topic, sandbox="pr-1", routes=live, group=topic) as sandbox,
    ):
        place = TopicPartition(topic, 0)
        assert await receive(baseline, 4) == BASELINE
        assert await nothing_comes(baseline)
        assert await baseline.position(place) == 1
        await baseline.commit()
        assert await committed(kafka, topic, topic) == 1
        await baseline.commit({place: 6})
        assert await committed(kafka, topic, topic) == 1
        assert sandbox.assignment() == set()  # it has not joined
        assert sandbox.subscription() == {topic}
        assert await nothing_comes(sandbox)
        rows.activate(topic, 4)
        assert await receive(sandbox, 1) == [4]
        assert await receive(baseline, 1) == [1]
        assert await nothing_comes(sandbox)
        assert await nothing_comes(baseline)
        await until(lambda: _is(kafka, topic, topic, 6))
        assert sandbox.group_id is not None
        await until(lambda: _is(kafka, str(sandbox.group_id), topic, 6))


async def test_what_waited_is_committed_one_by_one(kafka: str, topic: str, rows: Rows) -> None:
    """Of several records that waited, those that are not handed on yet, and the one in hand, are not committed."""
    rows.create(topic, topic)
    await send(kafka, topic, ["pr-1", "pr-1", "pr-1", None])
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        assert await receive(made, 1) == [3]
        assert await nothing_comes(made, 0.3)
        rows.activate(topic, 4)
        for done in range(3):
            assert await receive(made, 1) == [done]
            await until(lambda done=done: _is(kafka, topic, topic, done))
            await asyncio.sleep(0.4)
            assert await committed(kafka, topic, topic) == done
        assert await nothing_comes(made, 0.3)
        await until(lambda: _is(kafka, topic, topic, 4))


async def test_a_full_partition_is_paused(kafka: str, topic: str, rows: Rows) -> None:
    """Beyond the limit the partition stands still, until what was set aside is decided; what its user paused stays so."""
    rows.create(topic, topic)
    await send(kafka, topic, ["pr-1", "pr-1", None, None])
    place = TopicPartition(topic, 0)
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic, hold=HoldLimit(records=2)) as made:
        assert await receive(made, 2) == [2, 3]
        assert await nothing_comes(made, 0.4)
        await send(kafka, topic, [None] * 3, first=4)
        assert await nothing_comes(made)
        assert made._membership.paused == {place}
        assert made.paused() == set()
        made.resume(place)
        assert await nothing_comes(made, 0.4)
        rows.activate(topic, 2)
        assert sorted(await receive(made, 5)) == [0, 1, 4, 5, 6]
        made.pause(place)
        assert made.paused() == {place}
        await send(kafka, topic, [None], first=7)
        assert await nothing_comes(made, 0.4)
        made.resume(place)
        assert await receive(made, 1) == [7]


async def test_who_is_paused_gets_nothing_that_was_fetched_before(kafka: str, topic: str, rows: Rows) -> None:
    """A pause holds at once, also for records that are in this process already, and they come afterwards."""
    await send(kafka, topic, [None] * 5)
    place = TopicPartition(topic, 0)
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        assert await receive(made, 2) == [0, 1]
        made.pause(place)
        assert await nothing_comes(made, 0.4)
        assert await made.position(place) == 2
        made.resume(place)
        assert await receive(made, 3) == [2, 3, 4]


async def test_seeking_drops_what_was_set_aside(kafka: str, topic: str, rows: Rows) -> None:
    """Every way to go elsewhere reads anew from there, and what waits is not handed on twice."""
    rows.create(topic, topic)
    await send(kafka, topic, ["pr-1", None, "pr-1", None])
    place = TopicPartition(topic, 0)
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic, enable_auto_commit=False) as made:
        assert await receive(made, 2) == [1, 3]
        made.seek(place, 0)
        rows.activate(topic, 4)
        assert await receive(made, 4) == [0, 1, 2, 3]
        assert await nothing_comes(made, 0.3)
        await made.seek_to_beginning(place)
        assert await receive(made, 1) == [0]
        await made.commit({place: 2})
        await made.seek_to_end()
        assert await nothing_comes(made, 0.3)
        assert await made.seek_to_committed(place) == {place: 2}
        assert await receive(made, 2) == [2, 3]


# Rebalances


class Told(ConsumerRebalanceListener):
    """A listener of which one method is a coroutine function."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.told.append(("assigned", len(assigned)))

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await asyncio.sleep(0)
        self.told.append(("revoked", len(revoked)))


async def test_who_gives_up_a_partition_drops_what_it_held(kafka: str, rows: Rows) -> None:
    """A rebalance while records wait: whoever has the partition then has them, and each is handed on once."""
    topic = await make_topic(kafka, 2)
    rows.create(topic, topic)
    for partition in (0, 1):
        await send(kafka, topic, ["pr-1", None], partition=partition, first=10 * partition)
    live = rows.live()
    told = Told()
    async with consumer(kafka, sandbox=None, routes=live, group=topic) as first:
        first.subscribe([topic], listener=told)
        assert sorted(await receive(first, 2)) == [1, 11]
        assert await nothing_comes(first, 0.5)  # and they are done
        assert first._selection is not None
        assert len(first._selection.ledgers[topic, 0].held) == 1
        waiting = asyncio.create_task(first.getone())
        async with consumer(kafka, topic, sandbox=None, routes=live, group=topic) as second:
            await until(lambda: len(first.assignment()) == 1)
            (kept,) = first.assignment()
            (given,) = second.assignment()
            assert kept != given
            assert not first._selection.ledgers.get((topic, given.partition), None)
            rows.activate(topic, 1, 1)
            # What lies behind a record that was held was not committed, so it comes again.
            got = [int((await asyncio.wait_for(waiting, 30)).value), *await receive(first, 1)]
            got += await receive(second, 2)
            assert sorted(got) == [0, 1, 10, 11]
            assert await nothing_comes(first, 0.3)
            assert await nothing_comes(second, 0.3)
    assert told.told[0] == ("revoked", 0)
    assert told.told[1] == ("assigned", 2)
    assert ("revoked", 2) in told.told
    for partition in (0, 1):
        assert await committed(kafka, topic, topic, partition) == 2


async def test_run_ends_what_runs_before_a_partition_is_given_up(kafka: str, rows: Rows) -> None:
    """A handler that runs when the group is rebalanced ends and is committed first, so that nobody handles its record again."""
    topic = await make_topic(kafka, 2)
    for partition in (0, 1):
        await send(kafka, topic, [None], partition=partition, first=partition)
    live = rows.live()
    handled: list[tuple[str, int]] = []
    begun = asyncio.Event()

    def handler(name: str) -> Any:
        async def handle(record: Any) -> None:
            handled.append((name, int(record.value)))
            if len(handled) == 2:
                begun.set()
            await asyncio.sleep(1.5)

        return handle

    async with consumer(kafka, topic, sandbox=None, routes=live, group=topic) as first:
        one = asyncio.create_task(first.run(handler("first"), workers=2))
        await asyncio.wait_for(begun.wait(), 30)
        async with consumer(kafka, topic, sandbox=None, routes=live, group=topic) as second:
            two = asyncio.create_task(second.run(handler("second")))
            await until(lambda: len(first.assignment()) == 1)
            await asyncio.sleep(1)
            await second.stop()
            await asyncio.wait_for(two, 30)
        await first.stop()
        await asyncio.wait_for(one, 30)
    assert sorted(handled) == [("first", 0), ("first", 1)]


async def test_a_crash_gives_records_to_the_same_owner(kafka: str, topic: str, rows: Rows) -> None:
    """What is delivered again after a crash, also of a key whose route is gone since, goes to whoever had it before."""
    rows.active(topic, topic, 2)
    await send(kafka, topic, ["pr-1", None, "pr-1", "pr-1"])
    live = rows.live()
    for again in range(2):
        for sandbox, wanted in ((None, [0, 1]), ("pr-1", [2, 3])):
            async with consumer(kafka, topic, sandbox=sandbox, routes=live, group=topic, enable_auto_commit=False) as made:
                assert await receive(made, 2) == wanted, again
                assert await nothing_comes(made, 0.3)
                if again == 0:
                    made._offsets.tracking = True  # as if it was killed: nothing more is committed
    rows.delete()
    rows.drain(topic, 4)
    rows.finish()
    async with consumer(kafka, topic, sandbox=None, routes=live, group=topic, enable_auto_commit=False) as made:
        assert await receive(made, 2) == [0, 1]
        assert await nothing_comes(made, 0.3)


# The life of a sandbox


async def test_a_sandbox_begins_at_the_hand_over_and_ends_with_it(kafka: str, topic: str, rows: Rows) -> None:
    """It begins where its key was handed to it, commits up to the end, leaves its group once its route is gone, and iteration ends."""
    await send(kafka, topic, ["pr-1"] * 3)
    rows.active(topic, topic, 2)
    async with consumer(kafka, topic, sandbox="pr-1", routes=rows.live(), group=topic, enable_auto_commit=False) as made:
        group = str(made.group_id)
        assert group == f"{topic}.pr-1.1"
        got: list[int] = []

        async def iterate() -> None:
            async for record in made:
                got.append(int(record.value))
                await made.commit()

        iterating = asyncio.create_task(iterate())
        await until(lambda: got == [2])
        await send(kafka, topic, ["pr-1", None, "pr-1"], first=3)
        await until(lambda: got == [2, 3, 5])
        rows.delete()
        await send(kafka, topic, ["pr-1", None], first=6)
        await asyncio.sleep(0.5)
        assert got == [2, 3, 5]
        rows.drain(topic, 7)
        await until(lambda: got == [2, 3, 5, 6])
        await until(lambda: _is(kafka, group, topic, 8))
        rows.finish()
        await asyncio.wait_for(iterating, 30)
        assert made.retired
        assert made.assignment() == set()
        with pytest.raises(ConsumerStoppedError):
            await made.getone()


async def test_a_sandbox_leaves_while_another_reads_in_its_place(kafka: str, topic: str, rows: Rows) -> None:
    """Reclaimed, it commits what is done, leaves its group, and hands on nothing."""
    rows.active(topic, topic, 0)
    await send(kafka, topic, ["pr-1"] * 3)
    async with consumer(kafka, topic, sandbox="pr-1", routes=rows.live(), group=topic) as made:
        assert await receive(made, 2) == [0, 1]
        rows.delete()
        rows.drain(topic, 3)
        rows.reclaim()
        await asyncio.sleep(0.5)  # until this is known here
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(made.getone(), 1.0)
        assert made.assignment() == set()
        assert await committed(kafka, str(made.group_id), topic) == 2
        assert not made.retired


async def test_assigning_by_hand(kafka: str, topic: str, rows: Rows) -> None:
    """A sandbox that assigns partitions itself begins at the hand-over, then at its commit, or where it was sent to."""
    rows.active(topic, topic, 2)
    await send(kafka, topic, ["pr-1"] * 4)
    place = TopicPartition(topic, 0)
    live = rows.live()
    async with consumer(kafka, sandbox="pr-1", routes=live, group=topic, enable_auto_commit=False) as made:
        made.assign([place])
        assert await made.position(place) == 2
        assert await receive(made, 1) == [2]
        await made.commit()
    async with consumer(kafka, sandbox="pr-1", routes=live, group=topic) as made:
        made.assign([place])
        assert await receive(made, 1) == [3]
        made.assign([place])
        made.seek(place, 2)
        assert await receive(made, 2) == [2, 3]
    assert await committed(kafka, f"{topic}.pr-1.1", topic) == 3


async def test_without_a_group(kafka: str, topic: str, rows: Rows) -> None:
    """Everybody reads everything, gets its own, begins at the hand-over, and commits nothing."""
    rows.active(topic, topic, 2)
    await send(kafka, topic, ["pr-1", None, "pr-1", None])
    for sandbox, wanted in ((None, [0, 1, 3]), ("pr-1", [2]), ("pr-1", [2])):
        async with consumer(kafka, topic, sandbox=sandbox, routes=rows.live(), group=None) as made:
            assert await receive(made, len(wanted)) == wanted
            assert await nothing_comes(made, 0.3)
            with pytest.raises(IllegalOperation):
                await made.commit()
            assert made.group_id is None


async def test_a_pattern(kafka: str, topic: str, rows: Rows) -> None:
    """Topics that match a pattern are read, by the baseline and by a sandbox from its hand-over on."""
    rows.active(topic, topic, 1)
    await send(kafka, topic, ["pr-1", "pr-1", None])
    for sandbox, wanted in ((None, [0, 2]), ("pr-1", [1])):
        async with consumer(kafka, sandbox=sandbox, routes=rows.live(), group=topic) as made:
            made.subscribe(pattern=f"^{topic}$")
            assert await receive(made, len(wanted)) == wanted
            assert await nothing_comes(made, 0.3)
            made.unsubscribe()
            assert made.subscription() == set()


@pytest.mark.parametrize("bad", [0, 1])
async def test_a_deserializer_that_fails_costs_no_other_record(kafka: str, rows: Rows, bad: int) -> None:
    """Records that were fetched together with one that cannot be read are returned, and that one stays where it is."""
    topic = await make_topic(kafka, 2)

    def number(value: bytes) -> bytes:
        if value == b"3":
            raise ArithmeticError("a bad record")
        return value

    await send(kafka, topic, [None] * 5, partition=bad)
    await send(kafka, topic, [None] * 5, partition=1 - bad, first=10)
    async with consumer(kafka, sandbox=None, routes=rows.live(), group=topic, value_deserializer=number) as made:
        made.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
        await asyncio.sleep(1)  # until both are there
        got: list[int] = []
        errors = 0
        while errors < 3 or len(got) < 8:
            try:
                got += await receive(made, 1)
            except ArithmeticError:
                errors += 1
        assert sorted(got) == [0, 1, 2, 10, 11, 12, 13, 14]
        place = TopicPartition(topic, bad)
        assert await made.position(place) == 3
        made.seek(place, 4)
        assert await receive(made, 1) == [4]


async def test_a_table_that_cannot_be_read_holds_records_with_a_key_alone(kafka: str, topic: str, rows: Rows) -> None:
    """Without a route table the baseline starts, hands on what has no key, and the others once the table can be read."""
    rows.store.lose()
    await send(kafka, topic, [None, "pr-9", None])
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        assert await receive(made, 2) == [0, 2]
        assert await nothing_comes(made, 0.5)
        assert await committed(kafka, topic, topic) == 1
        rows.store.restore()
        assert await receive(made, 1) == [1]


# Transactions


async def test_what_is_sent_and_what_is_done_are_one_transaction(
    kafka: str, topic: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both happen, with what was skipped; or none, and then the records come again; and nothing that waits is passed."""
    rows.create(topic, topic)
    out = await make_topic(kafka)
    await send(kafka, topic, [None, "pr-9", None, "pr-1", None])
    async with (
        consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic, enable_auto_commit=False) as made,
        with_key(AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"{topic}-baseline")) as producer,
    ):

        async def passed_on(count: int) -> list[int]:
            numbers = []
            for _ in range(count):
                record = await asyncio.wait_for(made.getone(), 30)
                numbers.append(int(record.value))
                with made.scope(record):
                    await producer.send(out, record.value)
            return numbers

        async def half_done(count: int) -> None:
            async with made.transaction(producer):
                await passed_on(count)
                raise LookupError

        with pytest.raises(LookupError):
            await half_done(2)
        async with made.transaction(producer):
            assert await passed_on(2) == [0, 1]

        async def stale(_: Any) -> int:
            return 0

        # The broker may not say yet what was committed in the transaction before.
        with monkeypatch.context() as patched:
            patched.setattr(made, "committed", stale)
            with pytest.raises(LookupError):
                await half_done(1)
        await until(lambda: _is(kafka, topic, topic, 2))
        async with made.transaction(producer):
            assert await passed_on(2) == [2, 4]
        await until(lambda: _is(kafka, topic, topic, 3))
        rows.activate(topic, 5)
        async with made.transaction(producer):
            assert await passed_on(1) == [3]
        await until(lambda: _is(kafka, topic, topic, 5))
    async with AIOKafkaConsumer(
        out, bootstrap_servers=kafka, auto_offset_reset="earliest", isolation_level="read_committed"
    ) as reader:
        sent = [await asyncio.wait_for(reader.getone(), 30) for _ in range(5)]
        assert [record.value for record in sent] == [b"0", b"1", b"2", b"4", b"3"]
        assert not await reader.getmany(timeout_ms=300)
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as made:
        with pytest.raises(ConfigurationError, match="enable_auto_commit=False"):
            async with made.transaction(producer):
                pass


async def test_all_of_a_topic_of_its_own_is_the_sandboxs(kafka: str, topic: str, rows: Rows) -> None:
    """Whatever key a record has there, or none; another one that meets it leaves what has a key."""
    rows.active(topic, topic, 0)
    rows.own(topic)
    await send(kafka, topic, [None, "pr-1", "pr-9", None])
    async with consumer(kafka, topic, sandbox="pr-1", routes=rows.live(), group=topic) as fork:
        assert await receive(fork, 4) == [0, 1, 2, 3]
    async with consumer(kafka, topic, sandbox=None, routes=rows.live(), group=topic) as baseline:
        assert await receive(baseline, 2) == [0, 3]
        assert await nothing_comes(baseline)
