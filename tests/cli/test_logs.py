"""
What is said of logs that are not those in which a key was handed over.
"""

from __future__ import annotations

import pytest

from tenancy import RoutingKey
from tenancy.cli.logs import ask_logs, wrong_logs
from tenancy.messaging.kafka.broker import KafkaBroker, Topic
from tenancy.routes import Epoch, Handover, State

PAST = Epoch(1, "pr-1", {"t": (1, 1)}, {"t": (5, 1)}, {"t": "A"})
PRESENT = Epoch(2, "pr-1", {"t": (7, 2)}, None, {"t": "A"})
ENDED = PRESENT._replace(end={"t": (9, 2)})


def _row(state: State, *epochs: Epoch) -> Handover:
    return Handover("shop/orders", RoutingKey("pr-1"), state, len(epochs), "pr-1", epochs=epochs)


@pytest.mark.parametrize(
    ("row", "topic", "ends", "said"),
    [
        (_row(State.ACTIVE, PAST, PRESENT), Topic("A", 2), (7, 2), []),
        (_row(State.ACTIVE, PAST, PRESENT), None, (), ["topic t is gone"]),
        (_row(State.ACTIVE, PAST, PRESENT), Topic("B", 2), (99, 99), ["made again, so the cuts are those of another log"]),
        (_row(State.ACTIVE, PAST, PRESENT), Topic("A", 2), (6, 2), ["ends before a cut, on partition 0 (6 of 7)"]),
        (_row(State.DRAINING, PAST, ENDED), Topic("A", 2), (8, 1), ["ends before a cut, on partition 0 (8 of 9), 1 (1 of 2)"]),
        (_row(State.DRAINING, PAST, ENDED), Topic("A", 3), (9, 2, 0), []),
        (
            _row(State.CREATING, PAST)._replace(epoch=2),
            Topic("A", 2),
            (4, 0),
            ["before the end of life 1, on partition 0 (4 of 5), 1 (0 of 1)"],
        ),
        (_row(State.NONE, PAST), Topic("A", 2), (5, 1), []),
        (_row(State.NONE, PAST), Topic("A", 2), (4, 1), ["ends before the end of life 1"]),
        (_row(State.NONE, PAST), Topic("B", 2), (99, 99), ["made again since life 1"]),
        (_row(State.NONE, PAST), None, (), []),
        (_row(State.NONE, PAST._replace(end=PAST.start)), Topic("B", 2), (0, 0), []),
        (_row(State.NONE, PAST._replace(ids={})), Topic("B", 2), (5, 1), []),
        (_row(State.NONE, PAST, ENDED), Topic("B", 2), (9, 2), ["made again since life 1"]),
        (_row(State.NONE), Topic("A", 2), (0, 0), []),
    ],
)
def test_each_is_said_once(row: Handover, topic: Topic | None, ends: tuple[int, ...], said: list[str]) -> None:
    """Gone, made again, or cut off: of the present life whatever it is, of earlier ones what takes records from somebody."""
    topics = {} if topic is None else {"t": topic}
    found = [*wrong_logs(row, topics, {"t": ends} if topics else {})]
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True)), found


def test_a_broker_that_does_not_answer_is_told() -> None:
    """In the place of what it would have said."""
    kafka = KafkaBroker({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, timeout=0.2)
    (said,) = ask_logs(_row(State.ACTIVE, PAST, PRESENT), kafka)
    assert "Kafka at 127.0.0.1:1 does not answer" in said
