"""
``tenancy sandbox create --own-topic``, and what ``status`` says of topics and of logs that are not what they were; on a real Kafka.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click
import pytest

from tenancy.cli.kafka_options import own_topics_of
from tenancy.routes import State
from tests.cli.test_sandbox import WORKLOAD, Shell, Shop, wait_for


@pytest.mark.parametrize(
    ("forks", "own", "expected"),
    [
        (["a/b"], [], {"a/b": []}),
        (["a/b"], ["t", "t.2"], {"a/b": ["t", "t.2"]}),
        (["a/b"], ["a/b:t"], {"a/b": ["t"]}),
        (["a/b", "a/c"], ["t", "a/c:u"], {"a/b": ["t"], "a/c": ["t", "u"]}),
    ],
)
def test_the_option(forks: list[str], own: list[str], expected: dict[str, list[str]]) -> None:
    """A topic of all forks, or of one."""
    assert own_topics_of(tuple(forks), tuple(own)) == expected


@pytest.mark.parametrize("own", ["", "a b", "a/b:", "x/y:t", "t:u", "a/b:t,u"])
def test_a_bad_option(own: str) -> None:
    """It is refused before anything is written."""
    with pytest.raises(click.BadParameter, match=r"names no topic|of no workload"):
        own_topics_of(("a/b",), (own,))


def test_kafka_is_needed(tmp_path: Path) -> None:
    """Nothing is begun where nobody could make the topic."""
    shell = Shell(tmp_path)
    ran = shell("create", "pr-1", "--fork", WORKLOAD, "--reads", "none", "--own-topic", "orders")
    assert (ran.status, "--own-topic needs Kafka" in ran.err) == (2, True)
    assert shell.row().state is State.NONE


@pytest.fixture
def shop(tmp_path: Path, kafka: str, unique: str) -> Shop:
    return Shop(tmp_path, kafka, unique)


def _topics(shop: Shop) -> set[str]:
    return {name for name in shop.admin.list_topics(timeout=10).topics if shop.topic in name}


def _status(shop: Shop, *arguments: str) -> tuple[int, dict[str, Any]]:
    ran = shop("status", *arguments, "--json")
    return ran.status, ran.report


@pytest.mark.service
class TestOwnTopics:
    """A sandbox with a topic of its own."""

    def test_a_whole_life(self, shop: Shop) -> None:
        """It is made like the baseline's, status shows it, and it goes with the sandbox; no other does."""
        own = f"{shop.topic}.pr-1"
        created = shop(*shop.create, "--own-topic", shop.topic)
        assert created.status == 0, created.err
        assert own in created.out
        assert _topics(shop) == {shop.topic, own}
        status, report = _status(shop, "pr-1")
        (topic,) = report["topics"]
        assert (status, topic["topic"], topic["base"], topic["state"], topic["partitions"]) == (0, own, shop.topic, "made", 2)
        assert report["keys"][0]["kafka"][0]["left"] == 0
        told = " ".join(shop("status").out.split())
        assert f"pr-1: {own}, a topic of its own in the place of {shop.topic} state made, 2 partitions" in told
        assert shop("create", "pr-1", "--fork", WORKLOAD, "--own-topic", shop.topic).status == 0  # it is done already
        ran = shop("delete", "pr-1")
        assert ran.status == 0, ran.err
        wait_for(lambda: _topics(shop) == {shop.topic})
        assert _status(shop, "pr-1")[1]["topics"] == []

    def test_without_kafka_it_is_not_ended(self, shop: Shop) -> None:
        """Who deletes has to say where the topic is."""
        assert shop("create", "pr-1", "--fork", WORKLOAD, "--reads", "none", "--own-topic", shop.topic).status == 0
        ran = shop("delete", "pr-1", TENANCY_KAFKA="")
        assert (ran.status, "pr-1 has topics of its own" in ran.err) == (2, True)
        assert shop("delete", "pr-1").status == 0
        wait_for(lambda: _topics(shop) == {shop.topic})

    def test_killed_and_given_up(self, shop: Shop) -> None:
        """A create that was killed is gone on with, or given up; nothing is left behind."""
        create = (*shop.create, "--own-topic", shop.topic)
        shop.killed_while(State.CREATING, *create)
        assert shop(*create).status == 0
        assert _topics(shop) == {shop.topic, f"{shop.topic}.pr-1"}
        assert shop("delete", "pr-1").status == 0
        shop.killed_while(State.CREATING, *create)
        assert shop("delete", "pr-1").status == 0
        wait_for(lambda: _topics(shop) == {shop.topic})

    def test_a_delete_that_is_killed_when_the_keys_are_gone(self, shop: Shop) -> None:
        """Status says of what is left, without a name, too; the same command removes it."""
        assert shop(*shop.create, "--own-topic", shop.topic).status == 0
        with shop.started("delete", "pr-1") as process:
            wait_for(lambda: shop.row().state is State.NONE)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        status, report = _status(shop)
        assert (status, report["keys"]) == (1, [])
        assert "tenancy sandbox delete pr-1" in report["topics"][0]["findings"][0]
        assert shop("delete", "pr-1").status == 0
        wait_for(lambda: _topics(shop) == {shop.topic})
        assert _status(shop)[1]["topics"] == []

    def test_one_of_that_name(self, shop: Shop) -> None:
        """It is not this command's, so nothing is begun, and it stays."""
        from confluent_kafka.admin import NewTopic

        own = f"{shop.topic}.pr-1"
        shop.admin.create_topics([NewTopic(own, 1, 1)])[own].result(30)
        wait_for(lambda: own in _topics(shop))
        ran = shop(*shop.create, "--own-topic", shop.topic)
        assert (ran.status, f"has a topic {own} already" in ran.err, "nothing was written" in ran.err) == (1, True, True), ran.err
        assert shop("delete", "pr-1").status == 0
        assert own in _topics(shop)

    def test_somebody_elses_hands(self, shop: Shop) -> None:
        """One that is gone, or was made again by somebody else, is told."""
        from confluent_kafka.admin import NewTopic

        own = f"{shop.topic}.pr-1"
        assert shop(*shop.create, "--own-topic", shop.topic).status == 0
        shop.admin.delete_topics([own])[own].result(30)
        wait_for(lambda: own not in _topics(shop))
        status, report = _status(shop, "pr-1")
        assert (status, "it is gone" in report["topics"][0]["findings"][0]) == (1, True)
        shop.admin.create_topics([NewTopic(own, 2, 1)])[own].result(30)
        wait_for(lambda: own in _topics(shop))
        status, report = _status(shop, "pr-1")
        assert (status, "made another one" in report["topics"][0]["findings"][0]) == (1, True)
        ran = shop("delete", "pr-1")
        assert ran.status == 0, ran.err
        assert own in _topics(shop)
