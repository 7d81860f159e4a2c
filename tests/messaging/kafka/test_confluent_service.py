from __future__ import annotations

import threading
import time
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

import tenancy
from tenancy import ConfigurationError, HandoverError, IdentityError
from tenancy.messaging.confluent_kafka import (
    HoldLimit,
    SelectiveConsumer,
    SelectiveDeserializingConsumer,
    consumer,
    topic_name,
    transactional_id,
    wait_synced,
    with_key,
)
from tenancy.observe import _gauges
from tenancy.routes import State
from tenancy.sandbox import Fork
from tests.messaging.kafka.support import WORKLOAD, Polling, World, nothing, subscribed, take, wait_for
from tests.messaging.support import become

pytestmark = pytest.mark.service


def test_every_method_of_the_client_is_there() -> None:
    """A selective consumer has all that a consumer has, and is one."""
    theirs = {name for name in dir(confluent_kafka.Consumer) if not name.startswith("_") or name in ("__enter__", "__exit__")}
    assert theirs <= set(dir(SelectiveConsumer))
    assert issubclass(SelectiveConsumer, confluent_kafka.cimpl.Consumer)


class TestSelecting:
    """Who gets what, while a route stands."""

    def test_each_gets_its_own(self, world: World) -> None:
        """From the start cut on the sandbox has its key; everything else, unknown keys included, is the baseline's."""
        world.send(None, "pr-1")
        world.fork()
        world.send("pr-1", None, "pr-9", "pr-1")
        with subscribed(world.consumer(), world.topic) as baseline:
            assert take(baseline, 4) == [0, 1, 3, 4]
            assert nothing(baseline)
        with subscribed(world.consumer("pr-1"), world.topic) as fork:
            assert take(fork, 2) == [2, 5]
            assert nothing(fork)
            assert fork.group_id == f"{world.topic}.pr-1.1"

    def test_a_sandbox_begins_at_its_cut(self, world: World) -> None:
        """It does not read the topic from its beginning: what lies before its cut never reaches it."""
        world.send(*["pr-1"] * 50)
        world.fork()
        with subscribed(world.consumer("pr-1"), world.topic) as fork:
            wait_for(lambda: fork.poll(0.1) or fork.assignment())
            assert fork.position(fork.assignment())[0].offset in (50, confluent_kafka.OFFSET_INVALID)
            world.send("pr-1")
            assert take(fork, 1) == [50]

    def test_messages_that_are_skipped_are_committed(self, world: World) -> None:
        """A group that owns nothing of a topic has no lag, whoever commits."""
        world.fork()
        last = world.send(*[None] * 20)[-1]
        for config in ({}, {"enable.auto.commit": False, "auto.commit.interval.ms": 300}):
            with subscribed(world.consumer("pr-1", **config), world.topic) as fork:
                assert nothing(fork, 1.5)
            assert world.committed(f"{world.topic}.pr-1.1") == last + 1

    def test_consume_and_iterate(self, world: World) -> None:
        """Batches and iteration give the same as poll."""
        world.fork()
        world.send(None, "pr-1", None, None)
        with subscribed(world.consumer(), world.topic) as baseline:
            batch: list[int] = []
            wait_for(lambda: batch.extend(message.offset() for message in baseline.consume(2, 0.2)) or len(batch) >= 3)
            assert batch == [0, 2, 3]
            world.send("pr-1", None)
            assert next(iter(baseline)).offset() == 5

    def test_the_context_is_the_messages(self, world: World) -> None:
        """Receiving changes nothing; a scope has the message's key, and none for a message without."""
        world.send("pr-9", None)
        with subscribed(world.consumer(accept="all"), world.topic) as baseline, tenancy.scope("ambient"):
            seen = []
            for _ in range(2):
                message = wait_for(lambda: baseline.poll(0.2))
                assert tenancy.routing_key() == "ambient"
                with baseline.scope(message):
                    seen.append(tenancy.routing_key())
            assert seen == ["pr-9", None]
            assert tenancy.routing_key() == "ambient"

    def test_a_key_that_is_not_known_is_not_passed_on(self, world: World) -> None:
        """By default a handler has only keys that the route table knows."""
        world.send("pr-9")
        with subscribed(world.consumer(), world.topic) as baseline, baseline.scope(wait_for(lambda: baseline.poll(0.2))):
            assert tenancy.routing_key() is None

    def test_switched_off_it_is_a_plain_consumer(self, world: World) -> None:
        """It takes everything, and commits as it did."""
        tenancy.configure(enabled=False)
        world.send("pr-1", None)
        config = {"bootstrap.servers": world.kafka, "group.id": world.topic, "auto.offset.reset": "earliest"}
        with subscribed(SelectiveConsumer(config), world.topic) as plain:
            assert take(plain, 2) == [0, 1]
        assert world.committed() == 2


class TestProducers:
    """What sends."""

    def test_with_key(self, world: World) -> None:
        """Code that knows nothing of keys sends them: one by one, with headers of its own in any place, and in batches."""
        producer = with_key(confluent_kafka.Producer({"bootstrap.servers": world.kafka}))
        assert isinstance(producer, confluent_kafka.Producer)
        with tenancy.scope("pr-5"):
            producer.produce(world.topic, b"0", partition=0)
            producer.produce(world.topic, b"1", None, 0, None, None, 0, [("mine", b"1")])
            producer.produce(world.topic, b"2", partition=0, headers={"mine": b"1"})
            if hasattr(producer, "produce_batch"):
                producer.produce_batch(world.topic, [{"value": b"3"}, {"value": b"4"}], partition=0)
        producer.produce(world.topic, b"5", partition=0)
        assert producer.flush(10) == 0
        reader = confluent_kafka.cimpl.Consumer({"bootstrap.servers": world.kafka, "group.id": "none"})
        reader.assign([TopicPartition(world.topic, 0, 0)])
        ours = ("baggage", b"sd-routing-key=pr-5")
        last = 6 if hasattr(producer, "produce_batch") else 4
        found = [wait_for(lambda: reader.poll(0.2)).headers() for _ in range(last)]
        assert found[:3] == [[ours], [("mine", b"1"), ours], [("mine", b"1"), ours]]
        assert found[3:-1] in ([], [[ours], [ours]])
        assert not found[-1]
        reader.close()

    def test_names_of_a_sandbox(self) -> None:
        """A sandbox fences nobody, and may have topics of its own."""
        become("pr-42")
        assert (transactional_id("orders-0"), topic_name("orders")) == ("orders-0.pr-42", "orders.pr-42")
        become(None)
        assert (transactional_id("orders-0"), topic_name("orders")) == ("orders-0", "orders")

    def test_a_decorated_handler_is_refused_where_positions_count(self, world: World) -> None:
        """It would decide by the table of the moment."""
        become(None)
        handler = consumer(routes=world.store.live())(lambda message: None)
        with pytest.raises(ConfigurationError, match=r"Use confluent_kafka\.SelectiveConsumer"):
            wait_synced(handler)

    def test_others_are_not_deserialized(self, world: World) -> None:
        """A message that is another's may have a form that this version does not know."""
        world.fork()
        world.send("pr-1", None)

        def deserialize(value: bytes, _: Any) -> str:
            assert value == b"None"
            return "done"

        config = {"value.deserializer": deserialize}
        with subscribed(world.consumer(kind=SelectiveDeserializingConsumer, **config), world.topic) as baseline:
            assert wait_for(lambda: baseline.poll(0.2)).value() == "done"


class TestHolding:
    """What cannot be decided yet."""

    def test_while_a_sandbox_is_created(self, world: World) -> None:
        """Its key waits and nothing is committed past it, all else goes on; then each gets its own."""
        world.step("create")
        world.send("pr-1", None, "pr-1", None)
        with subscribed(world.consumer(**{"enable.auto.commit": False}), world.topic) as baseline:
            assert take(baseline, 2) == [1, 3]
            baseline.commit(asynchronous=False)
            assert world.committed() == 0
            assert baseline.position(baseline.assignment())[0].offset == 0
            world.step("activate")  # at 4: what was sent before is the baseline's
            assert take(baseline, 2) == [0, 2]
            baseline.commit(asynchronous=False)
            assert world.committed() == 4

    def test_while_a_sandbox_is_deleted(self, world: World) -> None:
        """Both set the key aside; then the sandbox has what lies before the end, and the baseline the rest."""
        world.fork()
        with subscribed(world.consumer(), world.topic) as baseline, subscribed(world.consumer("pr-1"), world.topic) as fork:
            wait_for(lambda: fork.poll(0.1) or fork.assignment())
            world.step("delete")
            world.send("pr-1", None, "pr-1")
            assert take(baseline, 1) == [1]
            assert nothing(fork)
            world.step("drain")  # at 3
            world.send("pr-1")
            assert take(fork, 2) == [0, 2]
            assert take(baseline, 1) == [3]
            assert nothing(fork)

    def test_a_revoked_partition_takes_what_was_held_along(self, world: World) -> None:
        """Who gets the partition reads it again; nothing is lost and nothing is handled twice."""
        world.step("create")
        world.send("pr-1", None)
        with subscribed(world.consumer(), world.topic) as first:
            assert take(first, 1) == [1]
        with subscribed(world.consumer(), world.topic) as second:
            world.step("activate")
            assert take(second, 2) == [0, 1]  # the second was not committed, being behind one that waited

    def test_what_was_set_aside_keeps_to_a_pause(self, world: World) -> None:
        """Also where it is decided while its partition is paused."""
        world.step("create")
        world.send(None, "pr-1")
        with subscribed(world.consumer(), world.topic) as baseline:
            assert take(baseline, 1) == [0]
            wait_for(lambda: baseline.poll(0.1) or baseline._selection.holding)
            here = baseline.assignment()
            baseline.pause(here)
            world.step("activate")
            assert nothing(baseline)
            baseline.resume(here)
            assert take(baseline, 1) == [1]

    def test_a_full_partition_is_paused(self, world: World) -> None:
        """No more than so many are set aside; then not even messages without a key come, until it is decided."""
        world.step("create")
        world.send(*["pr-1"] * 8, None)
        with subscribed(world.consumer(hold=HoldLimit(records=3), **{"queued.max.messages.kbytes": 1}), world.topic) as baseline:
            wait_for(lambda: baseline.poll(0.1) or baseline._paused)
            world.send(None)
            assert nothing(baseline)
            world.step("abandon")
            assert sorted(take(baseline, 10)) == list(range(10))

    def test_while_the_store_is_lost(self, world: World) -> None:
        """Keyed messages wait once the lease is over, others go on; both are there when it is back."""
        with subscribed(world.consumer(), world.topic) as baseline:
            world.send("pr-1")
            assert take(baseline, 1) == [0]
            world.store.lose()
            time.sleep(2.1)
            world.send("pr-1", None)
            assert take(baseline, 1) == [2]
            assert nothing(baseline)
            world.store.restore()
            assert take(baseline, 1) == [1]

    def test_what_is_set_aside_can_be_seen(self, world: World) -> None:
        """How much waits, and for how long, is measured."""
        world.step("create")
        world.send("pr-1", "pr-1")
        with subscribed(world.consumer(), world.topic) as baseline:
            wait_for(lambda: baseline.poll(0.1) or baseline._selection.held()[0] == 2)
            number, age = baseline._selection.held()
            assert (number, 0 < age < 30) == (2, True)
            assert baseline._selection in _gauges._watched
            assert {"adapter": "confluent_kafka", "workload": WORKLOAD} in [
                observation.attributes for observation in _gauges._amounts(None) if observation.value == 2
            ]

    def test_a_start_without_the_store(self, world: World) -> None:
        """The baseline starts, and takes what has no key; what has one waits."""
        world.store.lose()
        world.send("pr-1", None)
        with subscribed(world.consumer(), world.topic) as baseline:
            assert take(baseline, 1) == [1]
            world.store.restore()
            assert take(baseline, 1) == [0]


class TestCommitting:
    """Never past what is not done."""

    def test_a_skip_waits_for_what_is_before_it(self, world: World) -> None:
        """Committing one message commits the skipped ones behind it, and not those behind the next."""
        world.fork()
        world.send(None, "pr-1", None, "pr-1", "pr-1")
        with subscribed(world.consumer(**{"enable.auto.commit": False}), world.topic) as baseline:
            first = wait_for(lambda: baseline.poll(0.2))
            second = wait_for(lambda: baseline.poll(0.2))
            assert nothing(baseline, 1.2)
            assert world.committed() < 0
            baseline.commit(first, asynchronous=False)
            assert world.committed() == 2
            (told,) = baseline.commit(second, asynchronous=False)
            assert (told.offset, world.committed()) == (5, 5)

    def test_stored_offsets(self, world: World) -> None:
        """With enable.auto.offset.store off, what was stored is committed with what was skipped behind it."""
        world.fork()
        world.send(None, "pr-1", None)
        config = {"enable.auto.offset.store": False, "enable.auto.commit": False}
        with subscribed(world.consumer(**config), world.topic) as baseline:
            first = wait_for(lambda: baseline.poll(0.2))
            wait_for(lambda: baseline.poll(0.2))
            baseline.store_offsets(first)
            baseline.commit(asynchronous=False)
            assert world.committed() == 2

    def test_automatic_commits_are_of_what_was_done(self, world: World) -> None:
        """The message in hand is not committed while it is handled; it is when the next one is asked for, and at the end."""
        world.send(None, None)
        with subscribed(world.consumer(**{"auto.commit.interval.ms": 50}), world.topic) as baseline:
            assert take(baseline, 1) == [0]
            time.sleep(0.5)
            assert world.committed() < 1
            assert take(baseline, 1) == [1]
        assert world.committed() == 2

    @pytest.mark.parametrize("way", ["poll", "consume", "with"])
    def test_what_an_exception_leaves_in_hand_comes_again(self, world: World, way: str) -> None:
        """A loop that an exception ends, and that closes its consumer on the way out, has not handled its last message."""
        world.send(None, None, None)
        first = world.consumer()
        first.subscribe([world.topic])

        def fail() -> None:
            if way == "consume":
                for offset in (0, 1):
                    assert wait_for(lambda: first.consume(1, 0.2))[0].offset() == offset
            else:
                take(first, 2)
            raise LookupError

        def loop() -> None:
            if way == "with":
                with first:
                    fail()
            try:
                fail()
            finally:
                first.close()

        with pytest.raises(LookupError):
            loop()
        assert world.committed() == 1

    def test_seeking_and_pausing(self, world: World) -> None:
        """After a seek everything comes again; a paused partition gives nothing, not even what was fetched."""
        world.send(*[None] * 30)
        with subscribed(world.consumer(), world.topic) as baseline:
            assert take(baseline, 5) == [0, 1, 2, 3, 4]
            here = baseline.assignment()
            assert baseline.position(here)[0].offset == 5
            baseline.pause(here)
            assert nothing(baseline)
            baseline.resume(here)
            assert take(baseline, 2) == [5, 6]
            baseline.seek(TopicPartition(world.topic, 0, 1))
            assert take(baseline, 29) == list(range(1, 30))

    def test_an_event_is_not_in_the_way_of_a_commit(self, world: World) -> None:
        """The end of a partition, for whoever asked to be told of it, is nothing that anybody would settle."""
        world.send(*[None] * 40)
        config = {"enable.auto.commit": False, "enable.partition.eof": True, "auto.commit.interval.ms": 100}
        with subscribed(world.consumer(**config), world.topic) as baseline:
            events, messages = list[int](), list[Any]()
            wait_for(
                lambda: (messages if (m := wait_for(lambda: baseline.poll(0.2))).error() is None else events).append(m) or events
            )
            messages += [message for _ in range(1) if world.send(None) and (message := wait_for(lambda: baseline.poll(0.2)))]
            for message in messages:
                baseline.settle(message)
            wait_for(lambda: baseline.poll(0.1) or world.committed() == 41)

    @pytest.mark.parametrize("in_order", [False, True])
    @pytest.mark.parametrize("way", ["poll", "consume"])
    def test_a_decision_that_raises_loses_nothing(self, world: World, way: str, in_order: bool) -> None:
        """A function for accept that fails in the middle of a batch: its messages come again, and none was committed."""
        keys = [*[None] * 20, "pr-1", *[None] * 5, "pr-9", *[None] * 20]
        world.step("create")
        world.send(*keys)
        broken = [True]

        def accept(key: Any) -> bool:
            if key == "pr-9" and broken[0]:
                raise LookupError("on purpose")
            return True

        def some() -> list[int]:
            found = consumer.consume(50, 0.2) if way == "consume" else [consumer.poll(0.2)]
            return [message.offset() for message in found if message is not None]

        consumer = world.consumer(accept=accept, in_order=in_order, **{"auto.commit.interval.ms": 100})
        found, raised = list[int](), 0
        with subscribed(consumer, world.topic):
            if in_order:
                world.step("activate")
            while raised < 3:
                try:
                    found += some()
                except LookupError:
                    raised += 1
            time.sleep(0.6)
            assert world.committed() <= (26 if in_order else 20)
            broken[0] = False
            if not in_order:
                world.step("activate")
            wait_for(lambda: found.extend(some()) or len(found) >= len(keys))
            assert nothing(consumer)
        assert sorted(found) == list(range(len(keys)))
        assert world.committed() == len(keys)

    def test_a_seek_commits_nothing(self, world: World) -> None:
        """Whoever commits himself and goes back has not committed that."""
        world.send(*[None] * 6)
        with subscribed(world.consumer(**{"enable.auto.commit": False, "auto.commit.interval.ms": 100}), world.topic) as baseline:
            assert take(baseline, 6)[-1] == 5
            baseline.commit(asynchronous=False)
            baseline.seek(TopicPartition(world.topic, 0, 1))
            (first,) = (wait_for(lambda: baseline.poll(0.2)) for _ in range(1))
            nothing(baseline, 0.3)
            time.sleep(0.6)
            nothing(baseline, 0.3)
            assert world.committed() == 6
            baseline.commit(first, asynchronous=False)
            assert world.committed() == 2

    def test_run_with_workers(self, world: World) -> None:
        """Handlers run in threads, each with its key; what fails is raised, and neither it nor what lies behind it is committed."""
        world.send(None, "pr-9", None, None, None)
        seen, slow = dict[int, Any](), threading.Event()

        def handle(message: Any) -> None:
            seen[message.offset()] = tenancy.routing_key()
            if message.offset() == 1:
                slow.wait(5)
                raise LookupError("on purpose")
            if message.offset() == 4:
                slow.set()

        baseline = world.consumer(accept="all", **{"enable.auto.commit": False})
        with subscribed(baseline, world.topic), pytest.raises(LookupError, match="on purpose"):
            baseline.run(handle, workers=8)
        assert seen == {0: None, 1: "pr-9", 2: None, 3: None, 4: None}
        assert world.committed() == 1

    def test_what_has_ended_is_committed_while_nothing_comes(self, world: World) -> None:
        """Whoever waits for a sandbox to drain need not wait for its next message."""
        world.send(None)
        baseline = world.consumer(**{"auto.commit.interval.ms": 100})
        with subscribed(baseline, world.topic):
            running = threading.Thread(target=baseline.run, args=(lambda message: None,), kwargs={"workers": 2})
            running.start()
            wait_for(lambda: world.committed() == 1)
            baseline.stop()
            running.join(10)
            assert not running.is_alive()

    def test_run_ends_where_it_is_stopped(self, world: World) -> None:
        """What ran is committed."""
        world.send(None, None)
        baseline = world.consumer()
        with subscribed(baseline, world.topic):
            baseline.run(lambda message: baseline.stop() if message.offset() == 1 else None)
        assert world.committed() == 2


class TestTransactions:
    """Consume, process, produce: all of it or nothing."""

    def test_exactly_once(self, world: World) -> None:
        """An aborted transaction leaves neither output nor commit, and its message comes again; skips are committed within."""
        world.fork()
        output = World(world.kafka)
        world.send(None, "pr-1", None, "pr-1")
        producer = confluent_kafka.cimpl.Producer({"bootstrap.servers": world.kafka, "transactional.id": world.topic})
        producer.init_transactions(30)
        with subscribed(world.consumer(in_order=True, **{"enable.auto.commit": False}), world.topic) as baseline:
            done, failed = list[int](), list[int]()

            def failing(offset: int) -> None:
                if offset == 2 and not failed:
                    failed.append(offset)
                    raise LookupError("on purpose")

            while len(done) < 2:
                message = wait_for(lambda: baseline.poll(0.2))
                try:
                    with baseline.transaction(producer):
                        producer.produce(output.topic, str(message.offset()).encode(), partition=0)
                        failing(message.offset())
                    done.append(message.offset())
                except LookupError:
                    pass
            assert done == [0, 2]
            assert world.committed() == 4 or nothing(baseline, 0.5)
        reader = confluent_kafka.cimpl.Consumer(
            {"bootstrap.servers": world.kafka, "group.id": output.topic, "isolation.level": "read_committed"}
        )
        reader.assign([TopicPartition(output.topic, 0, 0)])
        values = [wait_for(lambda: reader.poll(0.2)).value() for _ in range(2)]
        assert values == [b"0", b"2"]
        assert reader.poll(1.0) is None
        reader.close()
        output.close()

    def test_nothing_passes_what_is_set_aside(self, world: World) -> None:
        """In order, the partition waits for a message that cannot be decided on, and goes on behind it without a gap or a repeat."""
        world.send(None, None)
        world.step("create")
        world.send("pr-1", None, "pr-1", None)
        with subscribed(world.consumer(in_order=True, **{"enable.auto.commit": False}), world.topic) as baseline:
            assert take(baseline, 2) == [0, 1]
            assert nothing(baseline, 1.0)
            world.send(None)
            assert nothing(baseline)
            assert baseline.position(baseline.assignment())[0].offset == 2
            world.step("activate")
            world.send(None, "pr-1", None)
            assert take(baseline, 7) == [2, 3, 4, 5, 6, 7, 9]
            baseline.commit(asynchronous=False)
            assert world.committed() == 10

    def test_out_of_order_is_refused(self, world: World) -> None:
        """A transaction could not commit what was handed on behind a message that waits."""
        config = {"enable.auto.commit": False}
        with (
            subscribed(world.consumer(**config), world.topic) as baseline,
            pytest.raises(ConfigurationError, match="in_order=True"),
            baseline.transaction(None),
        ):
            pass

    def test_automatic_commits_are_refused(self, world: World) -> None:
        """They cannot be undone."""
        with (
            subscribed(world.consumer(), world.topic) as baseline,
            pytest.raises(ConfigurationError, match=r"enable\.auto\.commit"),
            baseline.transaction(None),
        ):
            pass


class TestRefusals:
    """What would lose messages does not start."""

    def test_latest_in_a_sandbox(self, world: World) -> None:
        """It would lose what lies between the hand-over and its joining."""
        world.fork()
        with pytest.raises(ConfigurationError, match=r"'auto.offset.reset': 'latest'.*'earliest'"):
            world.consumer("pr-1", **{"auto.offset.reset": "latest"})

    def test_no_group(self, world: World) -> None:
        """Without a group there is none to derive a sandbox's from."""
        with pytest.raises(ConfigurationError, match=r"group\.id"):
            world.consumer(**{"group.id": ""})

    def test_a_sandbox_that_has_nothing_to_read(self, world: World) -> None:
        """The error says how to create it."""
        tenancy.configure(workload=WORKLOAD, sandbox="pr-8", routes_deadline=0.2)
        with pytest.raises(IdentityError, match="tenancy sandbox create pr-8 --fork shop/orders"):
            SelectiveConsumer({"bootstrap.servers": world.kafka, "group.id": world.topic}, routes=world.store.live())

    def test_a_workload_that_the_table_does_not_know(self, world: World) -> None:
        """It would never meet a route, and take every sandbox's messages."""
        world.send("pr-1")
        tenancy.configure(workload="shop/oders", role="baseline")
        config = {"bootstrap.servers": world.kafka, "group.id": world.topic, "auto.offset.reset": "earliest"}
        reader = SelectiveConsumer(config, routes=world.store.live())
        with subscribed(reader, world.topic), pytest.raises(IdentityError, match=r"did you mean shop/orders"):
            wait_for(lambda: reader.poll(0.2))

    def test_the_clients_own_errors_are_its_own(self, world: World) -> None:
        """Storing where the client stores is refused as the client refuses it, and so is a commit of nothing."""
        with subscribed(world.consumer(), world.topic) as baseline:
            with pytest.raises(KafkaException, match=r"enable\.auto\.offset\.store"):
                baseline.store_offsets(offsets=[TopicPartition(world.topic, 0, 1)])
            with pytest.raises(KafkaException):
                baseline.commit(asynchronous=False)


class TestController:
    """Create and delete, under traffic."""

    @pytest.mark.parametrize(
        "config",
        [{}, {"partition.assignment.strategy": "cooperative-sticky"}, {"group.protocol": "consumer"}, {"group.instance.id": "one"}],
        ids=["eager", "cooperative", "kip-848", "static"],
    )
    def test_each_message_has_one_owner(self, kafka: str, config: dict[str, Any]) -> None:
        """Through create, drain and delete, while messages come all the time: each is handled once, by whom the cuts say."""
        world = World(kafka, partitions=3)
        settings = {"session.timeout.ms": 6000, **config}
        if "group.protocol" in config:
            settings["session.timeout.ms"] = None
        log: list[tuple[str, int, int]] = []
        members = [("baseline", None)] * (1 if "group.instance.id" in config else 2)
        running = [Polling(_consumer(world, sandbox, settings), world.topic, log, name) for name, sandbox in members]
        for thread in running:
            thread.start()
        sent: dict[tuple[int, int], str | None] = {}
        stopped = threading.Event()

        def traffic() -> None:
            keys = [None, "pr-1", "pr-9"]
            while not stopped.is_set():
                for partition in range(3):
                    offsets = world.send(*keys, partition=partition)
                    sent.update({(partition, offset): key for offset, key in zip(offsets, keys, strict=True)})
                time.sleep(0.005)

        sender = threading.Thread(target=traffic)
        sender.start()
        try:
            wait_for(lambda: len(world.store.members(WORKLOAD)) == len(members))
            controller = world.controller()
            creating = threading.Thread(target=controller.create, args=("pr-1", [Fork(WORKLOAD, "pr-1")]))
            creating.start()
            wait_for(lambda: world.row().state is State.CREATING)
            fork_settings = {**settings, **({"group.instance.id": "fork"} if "group.instance.id" in config else {})}
            fork = Polling(_consumer(world, "pr-1", fork_settings), world.topic, log, "pr-1")
            fork.start()
            creating.join(60)
            wait_for(lambda: any(name == "pr-1" for name, _, _ in log), 30)
            (row,) = controller.delete("pr-1", deadline=60)
            assert row.state is State.NONE
            time.sleep(0.5)
        finally:
            stopped.set()
            sender.join()
        wait_for(lambda: {(partition, offset) for _, partition, offset in log} >= sent.keys(), 30)
        for thread in (fork, *running):
            thread.end()
        owners: dict[tuple[int, int], list[str]] = {place: [] for place in sent}
        for name, partition, offset in log:
            owners[partition, offset].append(name)
        wrong = {
            place: names
            for place, names in owners.items()
            if names != [(row.claim(world.topic, *place).sandbox if sent[place] == "pr-1" else None) or "baseline"]
        }
        assert wrong == {}
        assert "pr-1" in {name for names in owners.values() for name in names}
        groups = {group.group_id for group in world.admin.list_consumer_groups().result(10).valid}
        assert f"{world.topic}.pr-1.1" not in groups
        world.close()

    def test_a_sandbox_that_is_gone(self, world: World) -> None:
        """What it has left is dropped, or handled by a function in the baseline's place; then the baseline goes on."""
        handled: list[tuple[int, Any]] = []
        policies: list[Any] = ["drop", lambda message: handled.append((message.offset(), tenancy.routing_key()))]
        for remaining in policies:
            world.fork()
            (left,) = world.send("pr-1")
            world.controller().delete("pr-1", deadline=30, drain=0.2, remaining=remaining)
            assert handled == ([] if remaining == "drop" else [(left, "pr-1")])
            assert world.row().state is State.NONE

    def test_members_without_the_library(self, world: World) -> None:
        """They are named, and the route stays in creation until they are gone."""
        stranger = confluent_kafka.cimpl.Consumer(
            {"bootstrap.servers": world.kafka, "group.id": world.topic, "client.id": "old-pod"}
        )
        stranger.subscribe([world.topic])
        try:
            wait_for(lambda: stranger.poll(0.1) or stranger.assignment())
            forks = [Fork(WORKLOAD, "pr-1", {world.topic: [world.topic]})]
            with pytest.raises(HandoverError, match=r"still creating.*old-pod"):
                world.controller().create("pr-1", forks, deadline=5)
            assert world.row().state is State.CREATING
        finally:
            stranger.close()
        (row,) = world.controller().create("pr-1", forks, deadline=30)
        assert (row.state, row.epoch) == (State.ACTIVE, 1)

    def test_who_has_the_key(self, world: World) -> None:
        """Another sandbox cannot have it; the same one has it already."""
        forks = [Fork(WORKLOAD, "pr-1", {world.topic: [world.topic]})]
        world.controller().create("pr-1", forks)
        assert [row.epoch for row in world.controller().create("pr-1", forks)] == [1]
        with pytest.raises(HandoverError, match="pr-1 on shop/orders is active for sandbox pr-1"):
            world.controller().create("pr-2", forks)

    def test_a_topic_that_was_made_again(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """It is told loudly when the key is taken back, and the sandbox can be deleted."""
        world.send(*["pr-1"] * 5)
        controller = world.controller()
        (row,) = controller.create("pr-1", [Fork(WORKLOAD, "pr-1", {world.topic: [world.topic]})])
        assert controller.remade(row) == []
        world.admin.delete_topics([world.topic])[world.topic].result(30)
        wait_for(lambda: not world.broker.topics([world.topic]))
        world.admin.create_topics([NewTopic(world.topic, 1, 1)])[world.topic].result(30)
        wait_for(lambda: world.broker.topics([world.topic]))
        assert controller.remade(row) == [world.topic]
        (row,) = controller.delete("pr-1", deadline=30, drain=0.5)
        assert row.state is State.NONE
        assert "was made again since pr-1 on shop/orders was handed to sandbox pr-1" in caplog.text

    def test_a_topic_that_is_not_there(self, world: World) -> None:
        """It is named, and nothing becomes active."""
        with pytest.raises(HandoverError, match="no topic missing-topic"):
            world.controller().create("pr-1", [Fork(WORKLOAD, "pr-1", {world.topic: ["missing-topic"]})], deadline=20)
        assert world.row().state is State.CREATING
        world.controller().delete("pr-1")
        assert (world.row().state, world.row().epoch) == (State.NONE, 1)


def _consumer(world: World, sandbox: str | None, settings: dict[str, Any]) -> Any:
    consumer_settings = {name: value for name, value in settings.items() if value is not None}
    if "session.timeout.ms" not in consumer_settings:
        return world.consumer(sandbox, kind=_without_session_timeout, **consumer_settings)
    return world.consumer(sandbox, **consumer_settings)


def _without_session_timeout(config: dict[str, Any], **options: Any) -> Any:
    # With KIP-848 it is the broker's to say.
    return SelectiveConsumer({name: value for name, value in config.items() if name != "session.timeout.ms"}, **options)
