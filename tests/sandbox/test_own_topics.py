"""
Topics of a sandbox's own on a real broker: made before a key is active, and removed with the sandbox, whatever happens in between.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import NewTopic

import tenancy
from tenancy import HandoverError
from tenancy.messaging.confluent_kafka import inject, topic_name
from tenancy.messaging.kafka import gap as gap_module
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.routes import Handover, OwnTopic, State
from tenancy.routes.stores import put_workload, table_of
from tenancy.sandbox import Controller, Fork
from tenancy.sandbox import controller as controller_module
from tenancy.testing import MemoryStore
from tests.messaging.kafka.support import World, subscribed, take, wait_for
from tests.messaging.support import WORKLOAD

pytestmark = pytest.mark.service

SANDBOX = "pr-1"


class DeathError(Exception):
    """
    The process is killed here.
    """


class Mortal:
    """
    A store or a broker for a controller that is killed before, or after, one of the calls by which something is changed.

    Args:
        target: The real one.
        changes: What these calls are called.
        lives: After how many of them, of all that share it.
    """

    def __init__(self, target: Any, changes: Sequence[str], lives: list[int]) -> None:
        self._target = target
        self._changes = changes
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in self._changes:
            return found

        def change(*args: Any, **options: Any) -> Any:
            self._lose()
            result = found(*args, **options)
            self._lose()
            return result

        return change

    def _lose(self) -> None:
        self._lives[0] -= 1
        if self._lives[0] == 0:
            raise DeathError


class Stage:
    """
    A topic of the baseline, a route store, and controllers for which time passes while they wait.
    """

    def __init__(self, kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kafka = kafka
        self.broker = KafkaBroker({"bootstrap.servers": kafka})
        self.admin = self.broker._admin
        self.base = f"tenancy-{uuid.uuid4().hex[:12]}"
        self.own = f"{self.base}.{SANDBOX}"
        self.config = {"cleanup.policy": "compact", "retention.ms": "7200000", "max.message.bytes": "54321"}
        self.make(self.base, 3, self.config)
        self.store = MemoryStore(lease=10)
        self.store.write([put_workload(WORKLOAD)])
        self.fork = Fork(WORKLOAD, SANDBOX, {self.base: [self.base]}, [self.base])
        self._time = 1000.0
        for module in (controller_module, gap_module):
            monkeypatch.setattr(module, "now", lambda: self._time)

    def make(self, name: str, partitions: int = 1, config: dict[str, str] | None = None) -> str:
        self.admin.create_topics([NewTopic(name, partitions, 1, config=config or {})])[name].result(30)
        return str(wait_for(lambda: self.id(name)))  # the broker does not know it at once

    def delete(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(30)
        wait_for(lambda: not self.id(name))

    def id(self, name: str) -> str:
        found = self.broker.topics([name]).get(name)
        return "" if found is None else found.id

    def controller(self, lives: int = 0, **options: Any) -> Controller:
        left = [lives]
        store, kafka = Mortal(self.store, ("write",), left), Mortal(self.broker, ("create_topic", "delete_topic"), left)
        return Controller(store, kafka, sleep=self._sleep, **options)  # type: ignore[arg-type]

    def _sleep(self, seconds: float) -> None:
        self._time += seconds

    def create(self, **options: Any) -> Handover:
        (row,) = self.controller(**options).create(SANDBOX, [self.fork], deadline=60)
        return row

    def remove(self, **options: Any) -> Handover:
        (row,) = self.controller(**options).delete(SANDBOX, deadline=60)
        return row

    @property
    def topics(self) -> list[OwnTopic]:
        """What the store knows of topics of sandboxes' own."""
        return [*table_of(self.store.snapshot(), origin="test").own_topics()]

    def leaves(self, *names: str) -> bool:
        """Whether these topics are there of those that belong to this test, and the store knows of none."""

        def present() -> set[str]:
            return {name for name in self.admin.list_topics(timeout=10).topics if self.base in name}

        wait_for(lambda: present() == set(names))  # the broker does not know at once that one is gone
        return not self.topics


@pytest.fixture
def world(kafka: str) -> Iterator[World]:
    made = World(kafka)
    made.store = MemoryStore(lease=0.5)  # of which each test waits three
    made.store.write([put_workload(WORKLOAD)])
    yield made
    made.close()


@pytest.fixture
def stage(kafka: str, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(kafka, monkeypatch)


def test_it_is_like_the_baselines(stage: Stage) -> None:
    """Partitions, replication and configuration are those of the baseline's topic; when the sandbox is gone, so is its topic."""
    states: list[tuple[str, bool]] = []
    row = stage.create(progress=lambda told: states.append((told.state.value, bool(stage.id(stage.own)))))
    assert ("creating", False) in states
    assert states[-1] == ("active", True)  # it is there before the key is active
    assert row.groups == {stage.base: (stage.own,)}
    assert row.epochs[-1].start == {stage.own: (0, 0, 0)}
    (topic,) = stage.topics
    assert (topic.name, topic.base, topic.sandbox, topic.id) == (stage.own, stage.base, SANDBOX, stage.id(stage.own))
    base, own = stage.broker.shape(stage.base), stage.broker.shape(stage.own)
    assert base is not None
    assert own is not None
    assert dict(base.config) == stage.config
    assert (own.partitions, own.replication) == (base.partitions, base.replication) == (3, 1)
    assert {name: text for name, text in own.config.items() if name != "flush.messages"} == stage.config
    assert int(own.config["flush.messages"]) > 2**61  # never, as it is without
    assert stage.remove().state is State.NONE
    assert stage.leaves(stage.base)
    assert stage.remove().state is State.NONE


def test_every_life_has_a_new_one(stage: Stage) -> None:
    """What was in the topic of an earlier life is gone, and where that began and ended means nothing for the next."""
    stage.create()
    first = stage.id(stage.own)
    stage.broker.topics([stage.own])
    producer = confluent_kafka.cimpl.Producer({"bootstrap.servers": stage.kafka})
    for partition in range(3):
        producer.produce(stage.own, b"x", b"k", partition)
    assert producer.flush(10) == 0
    stage.remove()
    row = stage.create()
    assert stage.id(stage.own) not in ("", first)
    assert [epoch.start for epoch in row.epochs] == [{}, {stage.own: (0, 0, 0)}]
    stage.remove()


@pytest.mark.parametrize("command", ["create", "delete", "give up"])
def test_killed_at_every_change(stage: Stage, command: str) -> None:
    """Before and after each of them: the same command goes on, the topic is the one that was made, and nothing is left in the end."""
    for lives in range(1, 100):
        if command == "delete":
            stage.create()
        try:
            stage.remove(lives=lives) if command == "delete" else stage.create(lives=lives)
            ended = True
        except DeathError:
            ended = False
        before = stage.id(stage.own)
        if command == "create":
            assert stage.create().state is State.ACTIVE
            (topic,) = stage.topics
            assert topic.id == stage.id(stage.own)
            assert before in ("", topic.id)
        for row in stage.controller().delete(SANDBOX, deadline=60):
            assert row.state is State.NONE
        assert stage.leaves(stage.base)
        if ended:
            break
    assert lives >= 8


def test_one_of_that_name_is_left_alone(stage: Stage) -> None:
    """One that was there before: the sandbox is not created, nothing is written, and no delete removes it."""
    id_before = stage.make(stage.own)
    with pytest.raises(HandoverError, match=f"has a topic {stage.own} already"):
        stage.create()
    assert stage.topics == []
    assert [*table_of(stage.store.snapshot(), origin="test").handovers()] == []
    assert stage.controller().delete(SANDBOX, deadline=60) == []
    assert stage.id(stage.own) == id_before


def test_one_that_is_made_meanwhile_is_left_alone(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """By a broker that makes topics by itself, say: create says so, and delete removes what is ours to remove, which is nothing."""
    with pytest.raises(DeathError):
        stage.create(lives=2)  # after it was noted
    (topic,) = stage.topics
    assert topic.id == ""
    id_before = stage.make(stage.own)
    with pytest.raises(HandoverError, match=f"has a topic {stage.own} that was made since"):
        stage.create()
    stage.remove()
    assert stage.id(stage.own) == id_before
    assert stage.topics == []
    assert f"the topic {stage.own} is not the one that was made for sandbox {SANDBOX}" in caplog.text


def test_one_that_was_made_again_is_left_alone(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody deleted it, and made another one; delete says so, ends the sandbox, and leaves it."""
    stage.create()
    stage.delete(stage.own)
    id_before = stage.make(stage.own, 3)
    caplog.set_level(logging.ERROR, logger="tenancy")
    assert stage.remove().state is State.NONE
    assert (stage.id(stage.own), stage.topics) == (id_before, [])
    assert "is not the one that was made" in caplog.text


def test_one_that_is_gone_already(stage: Stage) -> None:
    """Somebody deleted it: there is nothing to remove."""
    stage.create()
    stage.delete(stage.own)
    assert stage.remove().state is State.NONE
    assert stage.topics == []


def test_without_a_topic_of_the_baseline(stage: Stage) -> None:
    """There is nothing to make it like; a name that is none is refused before that."""
    missing = f"{stage.base}.missing"
    with pytest.raises(HandoverError, match=f"Kafka has no topic {missing}"):
        stage.controller().create(SANDBOX, [stage.fork._replace(own_topics=[missing])], deadline=60)
    for wrong in (stage.base, [""]):
        with pytest.raises(HandoverError, match="own_topics"):
            stage.controller().create(SANDBOX, [stage.fork._replace(own_topics=wrong)], deadline=60)
    with pytest.raises(HandoverError, match="KafkaBroker"):
        Controller(stage.store).create(SANDBOX, [Fork(WORKLOAD, SANDBOX, {}, [stage.base])], deadline=60)
    assert stage.leaves(stage.base)


def test_it_cannot_be_had_later(stage: Stage) -> None:
    """What an active sandbox reads is settled: asking for a topic of its own afterwards is an error, and changes nothing."""
    plain = stage.fork._replace(own_topics=[])
    stage.controller().create(SANDBOX, [plain], deadline=60)
    with pytest.raises(HandoverError, match="delete it first"):
        stage.create()
    assert stage.topics == []
    stage.remove()


def test_two_controllers_make_one(stage: Stage) -> None:
    """They run at once, and both end; also where one of them deletes what the other creates."""
    ended: list[Any] = []

    def create() -> None:
        try:
            ended.append(stage.create().state)
        except HandoverError as error:
            ended.append(error)

    for _ in range(2):
        threads = [threading.Thread(target=create) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert ended == [State.ACTIVE] * 3
        (topic,) = stage.topics
        assert topic.id == stage.id(stage.own)
        ended.clear()
        stage.remove()
        assert stage.leaves(stage.base)


def test_who_comes_too_late_removes_what_he_made(stage: Stage) -> None:
    """A controller that stood still just before it made the topic, while another one deleted the sandbox, leaves none behind."""
    broker = stage.broker

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(broker, name)

        def create_topic(self, *args: Any) -> bool:
            stage.remove()
            return broker.create_topic(*args)

    late = Controller(stage.store, Late(), sleep=stage._sleep)  # type: ignore[arg-type]
    with pytest.raises(HandoverError, match="somebody else has gone on"):
        late.create(SANDBOX, [stage.fork], deadline=60)
    assert stage.leaves(stage.base)


def test_several_workloads_share_it(stage: Stage) -> None:
    """It is the sandbox's: made once, and removed when the last of its keys is gone. Who only produces to it needs no group."""
    forks = [stage.fork, Fork("shop/web", SANDBOX, {}, [stage.base])]
    stage.store.write([put_workload("shop/web")])
    rows = stage.controller().create(SANDBOX, forks, deadline=60)
    assert [row.groups for row in rows] == [{stage.base: (stage.own,)}, {}]
    assert len(stage.topics) == 1
    rows = stage.controller().create(SANDBOX, forks, deadline=60)
    assert [row.epoch for row in rows] == [1, 1]
    stage.controller().delete(SANDBOX, deadline=60)
    assert stage.leaves(stage.base)


def test_a_cluster_that_lets_nothing_be_marked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is made without; what nobody can tell from another's is left, and said."""
    monkeypatch.setattr("tenancy.messaging.kafka.broker._MARK", "no.such.setting")
    stage.create()
    own = stage.broker.shape(stage.own)
    assert own is not None
    assert own.config == stage.config
    stage.remove()
    assert stage.leaves(stage.base)
    with pytest.raises(DeathError):
        stage.create(lives=4)  # after it was made, before that was noted
    assert stage.id(stage.own)
    with pytest.raises(HandoverError, match="was made since"):
        stage.create()
    stage.remove()
    assert stage.leaves(stage.base, stage.own)
    stage.delete(stage.own)


def test_what_kafka_refuses_is_said_at_once(stage: Stage) -> None:
    """A topic that cannot be made is no outage: it is not tried until the deadline."""
    shape = stage.broker.shape(stage.base)
    assert shape is not None
    with pytest.raises(HandoverError, match=r"does not make the topic .*(?i:replication)"):
        stage.broker.create_topic(stage.own, shape._replace(replication=3), 1)
    with pytest.raises(HandoverError, match="does not make the topic"):
        stage.broker.create_topic("a/b", shape, 1)
    assert stage.leaves(stage.base)


# What is read from it


@contextmanager
def alive(world: World, **options: Any) -> Iterator[str]:
    """A sandbox with a topic of its own, for which time really passes."""
    own = f"{world.topic}.{SANDBOX}"
    fork = Fork(WORKLOAD, SANDBOX, {world.topic: [world.topic]}, [world.topic])
    world.controller().create(SANDBOX, [fork], deadline=60)
    yield own
    world.controller().delete(SANDBOX, deadline=60, **options)
    wait_for(lambda: own not in world.admin.list_topics(timeout=10).topics)


def _send(world: World, topic: str, *keys: str | None) -> None:
    producer = confluent_kafka.cimpl.Producer({"bootstrap.servers": world.kafka})
    for key in keys:
        producer.produce(topic, str(key).encode(), headers=inject(key=key), partition=0)
    assert producer.flush(10) == 0


@pytest.mark.parametrize("in_order", [False, True])
def test_all_that_is_in_it_is_the_sandboxs(world: World, in_order: bool) -> None:
    """Records with its key, with another one, or with none; the shared topic is the baseline's, and what is left is drained at the end."""
    with alive(world) as own:
        tenancy.configure(workload=WORKLOAD, sandbox=SANDBOX)
        assert topic_name(world.topic) == own
        _send(world, own, None, SANDBOX, "pr-9", None)
        world.send(SANDBOX, None)
        fork = world.consumer(SANDBOX, in_order=in_order)
        fork.subscribe([own, world.topic])
        found: list[tuple[str, int, str | None]] = []

        def handle(message: Any) -> None:
            found.append((message.topic(), message.offset(), tenancy.routing_key()))

        worker = threading.Thread(target=lambda: fork.run(handle), daemon=True)
        worker.start()
        with subscribed(world.consumer(), world.topic) as baseline:
            assert take(baseline, 2) == [0, 1]
        wait_for(lambda: len(found) == 4)
        _send(world, own, None)
    worker.join(30)
    assert not worker.is_alive()
    fork.close()
    # A key that no route knows is none, as everywhere.
    assert found == [(own, 0, None), (own, 1, SANDBOX), (own, 2, None), (own, 3, None), (own, 4, None)]


def test_what_is_left_in_it_is_handled_by_the_policy(world: World) -> None:
    """A function in the place of a sandbox that is dead gets all of it, with the key of each, or without one."""
    left: list[tuple[int, str | None]] = []
    with alive(world, drain=0, remaining=lambda message: left.append((message.offset(), tenancy.routing_key()))) as own:
        _send(world, own, None, SANDBOX, None)
    assert left == [(0, None), (1, SANDBOX), (2, None)]


def test_nobody_else_takes_it(world: World) -> None:
    """The baseline that meets it, by a pattern say, skips what has a key; a consumer of another sandbox skips all."""
    with alive(world) as own:
        _send(world, own, SANDBOX, "pr-9")
        world.step("create", "pr-2")
        world.step("activate", "pr-2")
        for sandbox in (None, "pr-2"):
            with subscribed(world.consumer(sandbox), own) as other:
                wait_for(lambda other=other: other.poll(0.2) or other.assignment())
                assert other.poll(1.0) is None
        world.step("delete", "pr-2")
        world.step("drain", "pr-2")
        world.step("finish", "pr-2")
        with suppress(confluent_kafka.KafkaException):
            world.broker.delete_group(f"{world.topic}.pr-2.1")
        fork = world.consumer(SANDBOX)
        with subscribed(fork, own):
            assert take(fork, 2) == [0, 1]
            fork.commit(asynchronous=False)
