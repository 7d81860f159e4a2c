"""
What is known of topics that may be compacted, and which records need it.
"""

from __future__ import annotations

import uuid

import pytest

from tenancy import ConfigurationError, RoutingKey
from tenancy.messaging import aiokafka as aio
from tenancy.messaging import confluent_kafka as confluent
from tenancy.messaging.confluent_kafka import record_key, topic_name
from tenancy.messaging.kafka.compaction import Compaction, is_compacted
from tenancy.messaging.kafka.confluent_guard import Guard
from tests.messaging.support import become

KEY = RoutingKey("pr-42")


@pytest.mark.parametrize(
    ("policy", "compacted"),
    [("compact", True), ("compact,delete", True), ("delete, compact", True), ("delete", False), ("", False), (None, False)],
)
def test_the_policy(policy: str | None, compacted: bool) -> None:
    """Also one of several."""
    assert is_compacted(policy) is compacted


def test_an_answer_holds_for_some_minutes(caplog: pytest.LogCaptureFixture) -> None:
    """Then it is asked again; where there is no answer then, what was known goes on to hold, and is asked for soon. It is bounded."""
    now = 1000.0
    compaction = Compaction("test", clock=lambda: now)
    assert compaction.known("orders") is None
    assert compaction.note("orders", True)
    now += 299
    assert compaction.known("orders") is True
    now += 2
    assert compaction.known("orders") is None
    assert compaction.note("orders", None, "because")
    now += 59
    assert compaction.known("orders") is True
    now += 2
    assert compaction.known("orders") is None
    assert not caplog.records
    name = uuid.uuid4().hex
    for _ in range(2):
        assert not compaction.note(name, None, "because of that")
    (told,) = caplog.messages
    assert name in told
    assert told.endswith("because of that")
    assert compaction.known(name) is False
    for number in range(2000):
        compaction.note(f"topic-{number}", False)
    assert len(compaction._known) == 1000


def test_who_says_it_is_believed() -> None:
    """A list, or a function; a name alone is a mistake."""
    for compacted in (["prices"], {"prices"}, lambda topic: topic == "prices"):
        compaction = Compaction("test", compacted)
        assert (compaction.known("prices"), compaction.known("orders")) == (True, False)
    with pytest.raises(ConfigurationError, match="'prices'"):
        Compaction("test", "prices")
    become(None)
    with pytest.raises(ConfigurationError):
        confluent.with_key(object(), compacted="prices")
    with pytest.raises(ConfigurationError):
        aio.with_key(object(), compacted="prices")


def test_nothing_is_asked_without_need() -> None:
    """Without a routing key, without a record key, and under a record key that is told apart, in a topic of one's own."""

    def asked(_: str) -> bool:
        raise AssertionError

    guard = Guard(None, asked)
    guard.check("prices", b"k", None)
    guard.check("prices", None, KEY)
    guard.check("prices", record_key(b"k", routing_key=KEY), KEY)
    become("pr-42")
    guard.check(topic_name("prices"), b"k", KEY)
    become(None)
    with pytest.raises(AssertionError):
        guard.check("prices", record_key(b"k", routing_key="pr-7"), KEY)
