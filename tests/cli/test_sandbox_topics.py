"""
``tenancy sandbox create --own-topic``, and what ``status`` says of topics and of logs that are not what they were; on a real Kafka.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import NewTopic

from tenancy import RoutingKey
from tenancy.cli.kafka_options import own_topics_of
from tenancy.routes import Epoch, Handover, State
from tenancy.routes.stores import put_handover
from tests.cli.support import Ran, run
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
def shop(tmp_path: Path, kafka: str, unique: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("tests.cli.test_sandbox.LEASE", 0.2)  # nobody consumes here
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
        own = f"{shop.topic}.pr-1"
        shop.admin.create_topics([NewTopic(own, 1, 1)])[own].result(30)
        wait_for(lambda: own in _topics(shop))
        ran = shop(*shop.create, "--own-topic", shop.topic)
        assert (ran.status, f"has a topic {own} already" in ran.err, "nothing was written" in ran.err) == (1, True, True), ran.err
        assert shop("delete", "pr-1").status == 0
        assert own in _topics(shop)

    def test_somebody_elses_hands(self, shop: Shop) -> None:
        """One that is gone, or was made again by somebody else, is told."""
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


@pytest.mark.service
class TestOtherLogs:
    """Topics that were made again, and logs that were cut off: the cuts say nothing true of them, and the commands say so."""

    def test_made_again_while_a_sandbox_has_the_key(self, shop: Shop) -> None:
        """Status and explain say so, also in JSON; explain says who decides by what nobody can know otherwise."""
        shop.send(None, "pr-1")
        assert shop(*shop.create).status == 0
        assert self._explained(shop) == []
        self._make_again(shop)
        assert "was deleted and made again" in self._explained(shop)[0]
        ran = shop("status", "pr-1")
        assert (ran.status, "was deleted and made again" in " ".join(ran.out.split())) == (1, True)

    def test_made_again_after_a_sandbox_had_the_key(self, shop: Shop) -> None:
        """The baseline skips what is written below the old end; status and explain say so, and the next life does away with it."""
        shop.send(None)
        assert shop(*shop.create).status == 0
        shop.send("pr-1", "pr-1")
        assert shop("delete", "pr-1", "--drain", "0").status == 0
        assert self._explained(shop) == []
        assert shop("status", "pr-1").status == 0
        self._make_again(shop)
        shop.send(None, "pr-1")
        (said,) = self._explained(shop)
        assert "made again since life 1" in said
        ran = shop("status", "pr-1")
        assert (ran.status, "wrong" in ran.out, "made again since life 1" in " ".join(ran.out.split())) == (1, True, True)
        place = ("--topic", shop.topic, "--partition", "0", "--offset", "1")
        assert "over" in self._explain(shop, *place)["owner_in_words"]
        assert shop(*shop.create).status == 0
        assert self._explained(shop) == []
        assert shop.row().epochs[1].start == {shop.topic: (2, 0)}
        assert self._explain(shop, *place)["owner"] == "baseline"
        assert shop("delete", "pr-1").status == 0

    def test_without_kafka_explain_says_what_the_table_says(self, shop: Shop) -> None:
        """The broker is asked only where it is said where that is."""
        self._cut_off(shop, State.ACTIVE, start=5)
        arguments = ("explain", "--workload", WORKLOAD, "--key", "pr-1", "--json")
        assert self._routes(shop, *arguments, TENANCY_KAFKA="").report["findings"] == []
        assert len(self._routes(shop, *arguments, "--kafka", shop.kafka, TENANCY_KAFKA="").report["findings"]) == 1

    def test_a_log_that_was_cut_off_while_it_drains(self, shop: Shop) -> None:
        """Status says it; the drain, and the gap reader, wait until the log has grown up to the end cut again."""
        delete = ("delete", "pr-1", "--drain", "0")
        self._cut_off(shop, State.DRAINING, start=0, end=3)
        ran = shop("status", "pr-1")
        assert (ran.status, f"the log of {shop.topic} ends before a cut, on partition 0 (1 of 3)" in " ".join(ran.out.split())) == (
            1,
            True,
        )
        ran = shop(*delete, "--deadline", "4")
        assert (ran.status, shop.row().state) == (1, State.RECLAIMING), ran.err
        shop.send("pr-1", None)
        assert shop("status", "pr-1", "--json").report["keys"][0]["findings"] == []
        assert shop(*delete).status == 0
        assert shop.row().state is State.NONE

    def test_a_log_that_was_cut_off_while_a_sandbox_is_active(self, shop: Shop) -> None:
        """It can be deleted at once; nothing below the start cut was the sandbox's, so it ends empty."""
        self._cut_off(shop, State.ACTIVE, start=5)
        assert "ends before a cut, on partition 0 (1 of 5)" in _status(shop, "pr-1")[1]["keys"][0]["findings"][0]
        assert shop("delete", "pr-1", "--deadline", "30").status == 0
        assert shop.row().epochs[0].end == {shop.topic: (5, 0)}

    def test_a_log_that_was_cut_off_below_the_end_of_a_life(self, shop: Shop) -> None:
        """What is written there again is skipped: lost, as status and explain say."""
        self._cut_off(shop, State.NONE, start=0, end=3)
        (said,) = self._explained(shop)
        assert "ends before the end of life 1, on partition 0 (1 of 3)" in said
        assert "skipped: lost" in said
        assert "ends before the end of life 1" in _status(shop, "pr-1")[1]["keys"][0]["findings"][0]
        answer = self._explain(shop, "--topic", shop.topic, "--partition", "0", "--offset", "1", "--as", "baseline")
        assert answer["readers"][0]["action"] == "skip"

    def _cut_off(self, shop: Shop, state: State, start: int, end: int | None = None) -> None:
        """Write what is in the table after the log lost its end: cuts that lie behind it."""
        id_ = str(shop.admin.describe_topics(TopicCollection([shop.topic]))[shop.topic].result(10).topic_id)
        epoch = Epoch(1, "pr-1", {shop.topic: (start, 0)}, None if end is None else {shop.topic: (end, 0)}, {shop.topic: id_})
        row = Handover(WORKLOAD, RoutingKey("pr-1"), state, 1, "pr-1", 1, (epoch,), groups={shop.topic: (shop.topic,)})
        shop.store.write([put_handover(row)])
        shop.send(None)

    def _make_again(self, shop: Shop) -> None:
        shop.admin.delete_topics([shop.topic])[shop.topic].result(30)
        wait_for(lambda: shop.topic not in _topics(shop))

        def made() -> bool:
            try:
                shop.admin.create_topics([NewTopic(shop.topic, 2, 1)])[shop.topic].result(30)
            except KafkaException:  # the deletion is still under way
                return False
            return True

        wait_for(made)
        wait_for(lambda: shop.topic in _topics(shop))

    def _routes(self, shop: Shop, *arguments: str, **variables: str) -> Ran:
        command = (sys.executable, "-m", "tenancy.cli", "routes", *arguments)
        return run(*command, cwd=shop.folder, variables={**shop.variables, **variables})

    def _explain(self, shop: Shop, *more: str) -> dict[str, Any]:
        ran = self._routes(shop, "explain", "--workload", WORKLOAD, "--key", "pr-1", *more, "--json")
        assert ran.status == 0, ran.err
        return ran.report

    def _explained(self, shop: Shop) -> list[str]:
        """What explain finds, which it says to people, too."""
        findings: list[str] = self._explain(shop)["findings"]
        shown = self._routes(shop, "explain", "--workload", WORKLOAD, "--key", "pr-1").out
        assert ("wrong" in shown) == bool(findings)
        assert all(" ".join(finding.split()) in " ".join(shown.split()) for finding in findings)
        return findings
