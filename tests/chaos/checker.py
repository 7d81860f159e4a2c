"""
Says of a chaos run whether every record had exactly one owner. Pure: it knows the producer's log, the handlers' logs and the cut table,
and nothing of the library, whose decision it makes anew from the specification.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .journal import Assigned, Committed, Dropped, Fault, Handled, Revoked, Sent

__all__ = ["Life", "Logs", "Report", "check", "owner"]

Place = tuple[str, int, int]

#: How many problems a report spells out.
_MOST_PROBLEMS = 20


class Life(NamedTuple):
    """
    One life of a key, as the cut table has it.

    Args:
        key: The key.
        number: Which of its lives, from 1.
        sandbox: Whose it was.
        start: The offsets from which on records are the sandbox's, by topic and partition.
        end: Those from which on they are not any more; None: it has not ended.
    """

    key: str
    number: int
    sandbox: str
    start: Mapping[str, Sequence[int]]
    end: Mapping[str, Sequence[int]] | None = None


class Logs(NamedTuple):
    """
    What was written down during a run.
    """

    sent: Sequence[Sent]
    handled: Sequence[Handled]
    dropped: Sequence[Dropped] = ()
    committed: Sequence[Committed] = ()
    assigned: Sequence[Assigned] = ()
    revoked: Sequence[Revoked] = ()
    faults: Sequence[Fault] = ()


class Report(NamedTuple):
    """
    What was found; `problems` has the first ones in words.

    Args:
        messages: How many records the broker has confirmed.
        keyed: How many of them have a key.
        cycles: How many lives of keys began and ended.
        least_at_cut: The least number of records with its key on one side of a cut: between it and the cut before or after it.
        kills: How many processes were killed.
        pauses: How many were stopped for longer than their session and the lease.
        lost: How many records nobody has handled, nor dropped in a sandbox's place as the policy says.
        wrong_owner: How many were handled or dropped by somebody whose they are not.
        cross_owner: How many were handled by two owners.
        unknown: How many were handled that nobody has sent.
        dropped: How many were dropped, and not handled.
        duplicates: How many times a record was handled again, by the same owner.
        duplicates_unexplained: How many times without a death, pause or rebalance in between, or in spite of a commit.
        causes: How many of the others are due to what.
        problems: The first problems, in words.
    """

    messages: int
    keyed: int
    cycles: int
    least_at_cut: int
    kills: int
    pauses: int
    lost: int
    wrong_owner: int
    cross_owner: int
    unknown: int
    dropped: int
    duplicates: int
    duplicates_unexplained: int
    causes: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """
        Whether every record had exactly one owner, and every repeat a reason.
        """
        return not (self.lost or self.wrong_owner or self.cross_owner or self.unknown or self.duplicates_unexplained)


def owner(lives: Sequence[Life], topic: str, partition: int, offset: int) -> str:
    """
    Return whose a record is: a sandbox's name, or nothing for the baseline's.

    Args:
        lives: Those of the record's key, in order.
        topic: The record's topic.
        partition: Its partition.
        offset: Its offset.
    """
    for life in lives:
        if topic not in life.start:
            continue
        if offset < _cut(life.start[topic], partition):
            return ""
        if life.end is None or offset < _cut(life.end.get(topic, ()), partition):
            return life.sandbox
    return ""


def check(logs: Logs, lives: Iterable[Life], *, long_pause: float = 0.0) -> Report:
    """
    Check a run.

    Args:
        logs: What was written down.
        lives: The cut table.
        long_pause: Seconds from which on a pause counts.
    """
    by_key: dict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: (life.key, life.number)):
        by_key[life.key].append(life)
    sent = {(each.topic, each.partition, each.offset): each for each in logs.sent}
    handled: dict[Place, list[Handled]] = defaultdict(list)
    for entry in logs.handled:
        handled[entry.topic, entry.partition, entry.offset].append(entry)
    dropped: dict[Place, set[str]] = defaultdict(set)
    for drop in logs.dropped:
        dropped[drop.topic, drop.partition, drop.offset].add(drop.sandbox)

    problems: list[str] = []
    wrong = cross = lost = 0
    for place, record in sent.items():
        own = owner(by_key.get(record.key or "", ()), *place)
        by = {entry.sandbox for entry in handled.get(place, ())}
        if len(by) > 1:
            cross += 1
        if by - {own} or dropped.get(place, set()) - {own}:
            wrong += 1
            problems.append(
                f"{_named(record)} is {own or 'the baseline'}'s: {_told(handled.get(place, ()), dropped.get(place, ()))}"
            )
        elif not by and not dropped.get(place):
            lost += 1
            problems.append(f"{_named(record)} is {own or 'the baseline'}'s, and nobody has handled it")
    unknown = [place for place in (*handled, *dropped) if place not in sent]
    problems += [f"{place} was handled, and nobody has sent it" for place in unknown]

    history = _History(logs)
    causes: dict[str, int] = defaultdict(int)
    duplicates = unexplained = 0
    for place, entries in handled.items():
        for group in {entry.group for entry in entries}:
            same = sorted((entry for entry in entries if entry.group == group), key=lambda entry: entry.ended)
            for first, again in pairwise(same):
                duplicates += 1
                cause, reason = history.explain(first, again)
                if cause:
                    causes[cause] += 1
                else:
                    unexplained += 1
                    problems.append(f"{place} was handled by {_who(first)} and again by {_who(again)}: {reason}")
    return Report(
        messages=len(sent),
        keyed=sum(record.key is not None for record in sent.values()),
        cycles=sum(life.end is not None for own in by_key.values() for life in own),
        least_at_cut=_least_at_cut(by_key, sent.values()),
        kills=sum(fault.kind == "kill" for fault in logs.faults),
        pauses=sum(fault.kind == "pause" and fault.seconds >= long_pause for fault in logs.faults),
        lost=lost,
        wrong_owner=wrong,
        cross_owner=cross,
        unknown=len(unknown),
        dropped=sum(place not in handled for place in dropped),
        duplicates=duplicates,
        duplicates_unexplained=unexplained,
        causes=dict(causes),
        problems=tuple(problems[:_MOST_PROBLEMS]),
    )


class _History:
    """
    Who read which partition since when, what was committed until then, and what became of whom.
    """

    def __init__(self, logs: Logs) -> None:
        self._sessions: dict[tuple[str, str, int, str, int], list[float]] = defaultdict(list)
        for each in logs.assigned:
            self._sessions[each.group, each.topic, each.partition, each.worker, each.pid].append(each.at)
        commits: dict[tuple[str, str, int], list[tuple[float, int]]] = defaultdict(list)
        for entry in logs.committed:
            commits[entry.group, entry.topic, entry.partition].append((entry.at, entry.offset))
        # Until when what was committed: the highest offset so far, since what is committed must never be handled again.
        self._commits: dict[tuple[str, str, int], tuple[list[float], list[int]]] = {}
        for place, listed in commits.items():
            listed.sort()
            highest, reached = -1, []
            for _, offset in listed:
                highest = max(highest, offset)
                reached.append(highest)
            self._commits[place] = ([at for at, _ in listed], reached)
        for sessions in self._sessions.values():
            sessions.sort()
        self._deaths = {fault.pid for fault in logs.faults if fault.kind == "kill"}
        self._pauses = {fault.pid for fault in logs.faults if fault.kind == "pause"}

    def explain(self, first: Handled, again: Handled) -> tuple[str, str]:
        """
        Return why a record was handled again, or nothing and what is wrong with it.
        """
        began = self._session(again)
        if began is None:
            return "", "it was never assigned the partition"
        if (first.worker, first.pid) == (again.worker, again.pid) and self._session(first) == began:
            return "", "in one and the same assignment"
        committed = self._committed(again, began)
        if committed > again.offset:
            return "", f"although {committed} was committed when it began to read"
        if first.pid in self._deaths:
            return "death", ""
        if first.pid in self._pauses or again.pid in self._pauses:
            return "pause", ""
        return "rebalance", ""

    def _session(self, entry: Handled) -> float | None:
        """
        Return when the assignment began in which a record was handled.
        """
        sessions = self._sessions.get((entry.group, entry.topic, entry.partition, entry.worker, entry.pid), [])
        at = bisect_right(sessions, entry.began)
        return sessions[at - 1] if at else None

    def _committed(self, entry: Handled, when: float) -> int:
        times, reached = self._commits.get((entry.group, entry.topic, entry.partition), ([], []))
        at = bisect_left(times, when)
        return reached[at - 1] if at else -1


def _least_at_cut(lives: Mapping[str, Sequence[Life]], sent: Iterable[Sent]) -> int:
    """
    Count the records of each key between all pairs of neighbouring cuts, over all partitions, and return the least number.
    """
    offsets: dict[str, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for record in sent:
        if record.key is not None and record.key in lives:
            offsets[record.key][record.topic, record.partition].append(record.offset)
    least: list[int] = []
    for key, own in lives.items():
        cuts = [side for life in own for side in (life.start, life.end) if side is not None]
        counts = [0] * (len(cuts) + 1)
        for (topic, partition), found in offsets[key].items():
            bounds = [_cut(side.get(topic, ()), partition) for side in cuts]
            for offset in found:
                counts[bisect_right(bounds, offset)] += 1
        least += counts
    return min(least, default=0)


def _cut(offsets: Sequence[int], partition: int) -> int:
    return offsets[partition] if partition < len(offsets) else 0


def _named(record: Sent) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset} (key {record.key})"


def _who(entry: Handled) -> str:
    return f"{entry.worker}{' in its place' if entry.gap else ''} ({entry.pid}, {entry.began:.3f} to {entry.ended:.3f})"


def _told(entries: Iterable[Handled], dropped: Iterable[str]) -> str:
    told = [f"{_who(entry)} has handled it for {entry.sandbox or 'the baseline'}" for entry in entries]
    return "; ".join(told + [f"a gap reader has dropped it for {sandbox}" for sandbox in dropped])
