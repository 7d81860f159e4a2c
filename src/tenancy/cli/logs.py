"""
Topics whose logs are not those in which a key was handed over, so that its cuts say nothing true of them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import HandoverError
from ..routes import Epoch, Handover
from ..routes.handover import Cuts, cut

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker, Topic

__all__ = ["ask_logs", "wrong_logs"]


def ask_logs(row: Handover, kafka: KafkaBroker) -> list[str]:
    """
    Ask a Kafka cluster, and return in words what is wrong with the topics in which a key was handed over; that it does not answer, say.

    Args:
        row: The lives of the key.
        kafka: The cluster.
    """
    try:
        topics = kafka.topics({name for epoch in row.epochs for name in epoch.start})
        return [*wrong_logs(row, topics, kafka.log_ends(topics))]
    except HandoverError as error:
        return [str(error)]


def wrong_logs(row: Handover, topics: Mapping[str, Topic], ends: Cuts) -> Iterator[str]:
    """
    Return in words what is wrong: topics that are gone or were made again, and logs that end before a cut.

    Args:
        row: The lives of a key.
        topics: Those of its topics that there are now.
        ends: Where their logs end.
    """
    present = row.current
    said = set()
    if present is not None:
        for name, starts in sorted(present.start.items()):
            wrong = _in_present(name, topics.get(name), present, ends.get(name, ()), (starts, (present.end or {}).get(name, ())))
            if wrong:
                said.add(name)
                yield wrong
    for epoch in row.epochs:
        if epoch is present:
            continue
        for name, cuts in sorted((epoch.end or {}).items()):
            topic = topics.get(name)
            if topic is None or name in said or cuts == epoch.start[name]:
                continue  # what is gone, and what was empty, takes no record from anybody
            wrong = _in_past(name, topic, epoch, row, ends.get(name, ()), cuts)
            if wrong:
                said.add(name)
                yield wrong


def _in_present(name: str, topic: Topic | None, epoch: Epoch, ends: tuple[int, ...], cuts: tuple[tuple[int, ...], ...]) -> str:
    if topic is None:
        return f"topic {name} is gone"
    if epoch.ids.get(name, topic.id) != topic.id:
        return (
            f"topic {name} was deleted and made again, so the cuts are those of another log: delete the sandbox and create it anew"
        )
    short = _short(ends, *cuts)
    return f"the log of {name} ends before a cut, on partition {short}: records were lost in the broker" if short else ""


def _in_past(name: str, topic: Topic, epoch: Epoch, row: Handover, ends: tuple[int, ...], cuts: tuple[int, ...]) -> str:
    what = f"records with {row.key} that are written between the cuts of life {epoch.number} count as handled by then, and are skipped: lost"
    if epoch.ids.get(name, topic.id) != topic.id:
        return (
            f"topic {name} was deleted and made again since life {epoch.number}, whose cuts are those of another log: {what}. They go when "
            "the key is handed to a sandbox again"
        )
    short = _short(ends, cuts)
    if not short:
        return ""
    return f"the log of {name} ends before the end of life {epoch.number}, on partition {short}: records were lost in the broker, and {what}"


def _short(ends: tuple[int, ...], *cuts: tuple[int, ...]) -> str:
    """
    Return the partitions whose log ends before a cut.
    """
    lowest = [max(cut(offsets, partition) for offsets in cuts) for partition in range(len(ends))]
    return ", ".join(f"{at} ({end} of {least})" for at, (end, least) in enumerate(zip(ends, lowest, strict=True)) if end < least)
