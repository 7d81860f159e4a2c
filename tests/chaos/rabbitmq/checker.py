"""
Says of a run on RabbitMQ whether every message had exactly one owner. Pure: it knows the producer's log, the handlers' logs and the rows of
the route store with their times, and nothing of the library.

A message has no position, so times say whose it is: from when ``active`` was written until ``deleting`` is, no process of the baseline
begins a message of the key; before ``creating`` and after ``draining`` was written, no process of a sandbox does. In between either may.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..journal import Fault
from .entries import Confirmed, Did, Returned, Took, Tried, Wrote
from .inbox import Effect

__all__ = ["Life", "Logs", "Report", "check", "lives_of"]

#: How many problems a report spells out.
_MOST_PROBLEMS = 20

# How long after a process was done with a message its acknowledgement may still be under way, in seconds.
_UNDER_WAY = 10.0

# How often a message may be forwarded, beside the faults that explain it.
_MOST_FORWARDS = 12


class Life(NamedTuple):
    """
    One life of a key, as the route store's rows have it.

    Args:
        key: The key.
        epoch: Which of its lives.
        sandbox: Whose it was.
        creating: When the first row was asked to be written.
        active: When it surely was active; infinite: never.
        deleting: When its end was asked to be written; infinite: never.
        draining: When nobody of the sandbox surely was to begin anything; infinite: never.
        deleted: When ``delete`` has returned; infinite: never.
    """

    key: str
    epoch: int
    sandbox: str
    creating: float
    active: float = math.inf
    deleting: float = math.inf
    draining: float = math.inf
    deleted: float = math.inf


class Logs(NamedTuple):
    """
    What was written down during a run; *effects*: what came of messages where handlers asked the deduplication, None where they did not.
    """

    tried: Sequence[Tried]
    confirmed: Sequence[Confirmed]
    did: Sequence[Did]
    took: Sequence[Took] = ()
    faults: Sequence[Fault] = ()
    effects: Sequence[Effect] | None = None


class Report(NamedTuple):
    """
    What was found; `problems` has the first ones in words.

    Args:
        messages: How many messages the broker has confirmed.
        keyed: How many of them have a key.
        cycles: How many lives of keys began, were active, and ended.
        least_in_flight: The least number of messages with the key that were published during one create or delete.
        kills: How many processes were killed.
        restarts: How often the broker was started again.
        cuts: How many processes had their connections cut.
        forwarded: How many messages were forwarded.
        moved: How many went back to the baseline when their sandbox was deleted.
        lost: How many messages nobody has handled.
        wrong_owner: How many were begun by somebody who was not to begin them any more, or not yet.
        cross_owner: How many were handled by two owners, with the deduplication if the run has it.
        cross_owner_plain: How many were begun by two owners, so would have been handled by both without the deduplication.
        unknown: How many were handled that nobody has sent.
        altered: How many were not as they were published.
        looped: How many were forwarded again and again.
        duplicates: How many times a message was begun again, also where the deduplication has seen to it that nothing came of it.
        duplicates_unexplained: How many times without a death, a cut or a restart by which an acknowledgement can have been lost.
        handled_twice: How many times something came of it again.
        causes: How many of the others are due to what.
        problems: The first problems, in words.
    """

    messages: int
    keyed: int
    cycles: int
    least_in_flight: int
    kills: int
    restarts: int
    cuts: int
    forwarded: int
    moved: int
    lost: int
    wrong_owner: int
    cross_owner: int
    cross_owner_plain: int
    unknown: int
    altered: int
    looped: int
    duplicates: int
    duplicates_unexplained: int
    handled_twice: int
    causes: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """
        Whether every message had exactly one owner, and every repeat a reason.
        """
        bad = (self.lost, self.wrong_owner, self.cross_owner, self.unknown, self.altered, self.looped, self.duplicates_unexplained)
        return not any(bad)


def lives_of(wrote: Iterable[Wrote], returned: Iterable[Returned]) -> list[Life]:
    """
    Return the lives of keys, from the rows that controllers have written.

    A row that was asked for may not have been written, and one that was written may not be known of, since its controller died. So what a
    process may do is bounded by when it was asked for, and what it must not by when somebody was sure.
    """
    asked: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    sure: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    owners: dict[tuple[str, int], str] = {}
    for row in wrote:
        owners[row.key, row.epoch] = row.sandbox
        asked[row.key, row.epoch, row.state].append(row.asked)
        if row.replied:
            sure[row.key, row.epoch, row.state].append(row.replied)
    for call in returned:
        sure[call.key, call.epoch, {"create": "active"}.get(call.act, "deleted")].append(call.at)
    lives = []
    for (key, epoch), sandbox in sorted(owners.items()):

        def first(times: Mapping[tuple[str, int, str], list[float]], *states: str, at: tuple[str, int] = (key, epoch)) -> float:
            return min((time for state in states for time in times.get((*at, state), ())), default=math.inf)

        lives.append(
            Life(
                key,
                epoch,
                sandbox,
                first(asked, "creating"),
                first(sure, "active"),
                first(asked, "deleting"),
                first(sure, "draining", "reclaiming", "none", "deleted"),
                first(sure, "deleted"),
            )
        )
    return lives


def check(logs: Logs, lives: Iterable[Life]) -> Report:
    """
    Check a run.

    Args:
        logs: What was written down.
        lives: The lives of keys, by `lives_of`.
    """
    by_key: dict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: (life.key, life.epoch)):
        by_key[life.key].append(life)
    known = {each.id for each in logs.tried} | {each.id for each in logs.confirmed}
    did: dict[str, list[Did]] = defaultdict(list)
    for entry in logs.did:
        did[entry.id].append(entry)
    problems: list[str] = []

    mattered: dict[str, list[str]] = defaultdict(list)
    for each in logs.did if logs.effects is None else logs.effects:
        mattered[each.id].append(each.sandbox)
    lost = [each for each in logs.confirmed if each.id not in did or each.id not in mattered]
    problems += [f"{each.id} of {each.queue} (key {each.key}, published {each.at:.3f}) was handled by nobody" for each in lost]
    wrong = cross_plain = 0
    for id_, entries in did.items():
        faulty = [(entry, why) for entry in entries if (why := _wrong(entry, by_key.get(entry.key or "", ())))]
        wrong += bool(faulty)
        problems += [f"{id_} (key {entry.key}) was begun by {_who(entry)}, {why}" for entry, why in faulty[:1]]
        cross_plain += len({entry.sandbox for entry in entries}) > 1
    crossed = [id_ for id_, owners in mattered.items() if len(set(owners)) > 1]
    problems += [f"{id_} was handled by two owners: {', '.join(map(_who, did[id_]))}" for id_ in crossed]
    unknown = [id_ for id_ in did if id_ not in known]
    problems += [f"{id_} was handled, and nobody has sent it" for id_ in unknown]
    altered = [entry for entry in logs.did if entry.altered]
    problems += [f"{entry.id} was not as it was published: {entry.altered}" for entry in altered]

    history = _History(logs)
    looped = [id_ for id_, took in history.took.items() if len(took) > _MOST_FORWARDS + history.disturbances(took)]
    problems += [f"{id_} was forwarded {len(history.took[id_])} times" for id_ in looped]
    causes: dict[str, int] = defaultdict(int)
    duplicates = unexplained = 0
    for id_, entries in did.items():
        ordered = sorted(entries, key=lambda entry: entry.began)
        for at, again in enumerate(ordered[1:], 1):
            duplicates += 1
            if cause := history.explain(ordered[:at], again):
                causes[cause] += 1
            else:
                unexplained += 1
                problems.append(f"{id_} (key {again.key}) was begun by {', '.join(map(_who, ordered))}, for no reason")
    controllers = {entry.worker for entry in logs.took if entry.worker.startswith(("create-", "delete-"))}
    return Report(
        messages=len(logs.confirmed),
        keyed=sum(each.key is not None for each in logs.confirmed),
        cycles=sum(life.active < life.deleted < math.inf for own in by_key.values() for life in own),
        least_in_flight=_least_in_flight(by_key, logs.confirmed),
        kills=sum(fault.kind == "kill" for fault in logs.faults),
        restarts=sum(fault.kind == "broker" for fault in logs.faults),
        cuts=sum(fault.kind == "cut" for fault in logs.faults),
        forwarded=len({entry.id for entry in logs.took if entry.worker not in controllers}),
        moved=len({entry.id for entry in logs.took if entry.worker in controllers}),
        lost=len(lost),
        wrong_owner=wrong,
        cross_owner=len(crossed),
        cross_owner_plain=cross_plain,
        unknown=len(unknown),
        altered=len(altered),
        looped=len(looped),
        duplicates=duplicates,
        duplicates_unexplained=unexplained,
        handled_twice=sum(len(owners) - 1 for owners in mattered.values()),
        causes=dict(causes),
        problems=tuple(problems[:_MOST_PROBLEMS]),
    )


def _wrong(entry: Did, lives: Sequence[Life]) -> str:
    """
    Return why a process was not to begin a message; nothing where it was.
    """
    if not entry.sandbox:
        for life in lives:
            if life.active < entry.began < life.deleting:
                return f"while it was {life.sandbox}'s, from {life.active:.3f} to {life.deleting:.3f}"
        return ""
    for life in lives:
        if life.sandbox == entry.sandbox and life.creating <= entry.began <= life.draining:
            return ""
    own = [life for life in lives if life.sandbox == entry.sandbox]
    return (
        "which has " + "; ".join(f"its key from {life.creating:.3f} to {life.draining:.3f}" for life in own)
        if own
        else ("which never had its key")
    )


class _History:
    """
    Who had which message in his hands, and what became of whom.
    """

    def __init__(self, logs: Logs) -> None:
        self.took: dict[str, list[Took]] = defaultdict(list)
        for each in logs.took:
            self.took[each.id].append(each)
        self._restarts = sorted((fault.at, fault.at + fault.seconds) for fault in logs.faults if fault.kind == "broker")
        self._faults: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
        for fault in logs.faults:
            if fault.kind in ("kill", "cut"):
                cause = "death" if fault.kind == "kill" else "cut"
                self._faults[fault.pid].append((fault.at, fault.at + fault.seconds, cause))
        for listed in self._faults.values():
            listed.sort()

    def explain(self, before: Sequence[Did], again: Did) -> str:
        """
        Return by what an acknowledgement can have been lost, so that a message was begun again; nothing if by nothing.

        Args:
            before: Who has begun it before.
            again: Who has begun it then.
        """
        hands = [(entry.pid, entry.began, entry.ended) for entry in before]
        hands += [(entry.pid, entry.at, entry.at) for entry in self.took.get(again.id, ()) if entry.at < again.began]
        for pid, began, ended in hands:
            for at, over, cause in self._faults.get(pid, ()):
                if began <= over and at <= min(ended + _UNDER_WAY, again.began):
                    return cause
            for stopped, _ in self._restarts:
                if began - _UNDER_WAY <= stopped <= min(ended + _UNDER_WAY, again.began):
                    return "restart"
        return ""

    def disturbances(self, took: Sequence[Took]) -> int:
        """
        Return how many faults, and seconds without the broker, lie within the time in which a message was forwarded.
        """
        first, last = took[0].at, max(entry.at for entry in took)
        faults = [at for listed in self._faults.values() for at, _, _ in listed if first <= at <= last]
        return len(faults) + sum(math.ceil(back - stopped) + 5 for stopped, back in self._restarts if stopped <= last)


def _least_in_flight(lives: Mapping[str, Sequence[Life]], confirmed: Iterable[Confirmed]) -> int:
    """
    Count what was published with a key during each create and each delete of it, and return the least number.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for each in confirmed:
        times[each.key or ""].append(each.at)
    least = []
    for key, own in lives.items():
        listed = sorted(times[key])
        for life in own:
            if life.active < life.deleted < math.inf:
                spans = ((life.creating, life.active), (life.deleting, life.deleted))
                least += [bisect_right(listed, end) - bisect_right(listed, start) for start, end in spans]
    return min(least, default=0)


def _who(entry: Did) -> str:
    return f"{entry.worker} for {entry.sandbox or 'the baseline'} ({entry.pid}, {entry.began:.3f} to {entry.ended:.3f})"
