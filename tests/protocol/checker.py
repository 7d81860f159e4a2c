"""
What must hold of the hand-over of a Kafka topic, written without the code that is tested: who may handle a record, and what may be committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "BASELINE",
    "Checker",
    "Handling",
    "Life",
    "Record",
    "ViolationError",
]

#: The owner of what no life of the key claims. Other owners are the numbers of those lives.
BASELINE = 0


class ViolationError(AssertionError):
    """
    Something happened that must not.

    Args:
        kind: What, as one of a fixed set of words.
        text: What, in words.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Handling:
    """
    One run of a handler.
    """

    __slots__ = ("disturbed", "ended", "gap", "lapsed", "owner", "term", "who")

    def __init__(self, who: Any, owner: int, disturbed: int, *, gap: bool = False, lapsed: bool = False, term: int = 0) -> None:
        self.who = who
        self.owner = owner
        #: How often the partition had been disturbed when it began.
        self.disturbed = disturbed
        self.gap = gap
        #: Whether it began in an instance that had been evicted and did not know.
        self.lapsed = lapsed
        #: Of a gap reader: how often the claim had changed hands, and how often the store had gone away.
        self.term = term
        self.ended = False


class Record:
    """
    One record of a log.
    """

    __slots__ = ("done", "dropped", "expired", "gone", "handlings", "key", "offset", "partition")

    def __init__(self, partition: int, offset: int, key: str | None) -> None:
        self.partition = partition
        self.offset = offset
        self.key = key
        self.handlings: list[Handling] = []
        #: The owners that have handled it to the end.
        self.done: set[int] = set()
        self.dropped = False
        #: Retention took it before it was handled; truncation took it.
        self.expired = False
        self.gone = False

    def __repr__(self) -> str:
        return f"{self.partition}:{self.offset}({self.key or 'no key'})"


class Life:
    """
    What was ever written of one life of a key; it stays, whatever becomes of the row.
    """

    def __init__(self, number: int, group: tuple[str, int], start: tuple[int, ...]) -> None:
        self.number = number
        #: The sandbox and the generation of its groups.
        self.group = group
        self.start = start
        self.end: tuple[int, ...] | None = None
        #: Whether a gap reader has begun to handle what is left.
        self.gap = False
        #: Whether it was settled.
        self.over = False


def _at(cuts: tuple[int, ...], partition: int) -> int:
    return cuts[partition] if partition < len(cuts) else 0


class Checker:
    """
    Follows everything that happens in a world.

    Args:
        logs: The records of every partition, as they are now.
        log_start: The first offset that can be read of a partition.
        structure: Whether the rows themselves are looked at, too (I1, I2, I5), and not only what becomes of records.
        truncation: Whether logs may lose their ends; then only owners are looked at, since nothing can be said about the rest.
    """

    def __init__(
        self,
        logs: list[list[Record]],
        log_start: Mapping[int, int],
        *,
        structure: bool = True,
        truncation: bool = False,
    ) -> None:
        self._logs = logs
        self._log_start = log_start
        self._structure = structure
        self._truncation = truncation
        self.lives: dict[str, list[Life]] = {}
        self.states: dict[str, str] = {}
        self._claimants: dict[str, str] = {}
        self._terms: dict[str, int] = {}
        #: Up to where each group has ever committed, by owner's group and partition.
        self.committed: dict[tuple[tuple[str, int] | None, int], int] = {}
        #: The record that each gap reader has begun last.
        self._last_of: dict[Any, Record] = {}

    # Whose it is

    def owner(self, record: Record) -> int:
        """
        Return whose a record is by everything that was ever written.
        """
        for life in self.lives.get(record.key or "", ()):
            if record.offset < _at(life.start, record.partition):
                return BASELINE
            if life.end is None or record.offset < _at(life.end, record.partition):
                return life.number
        return BASELINE

    def life(self, key: str, number: int) -> Life:
        """
        Return one life of a key.
        """
        return next(life for life in self.lives[key] if life.number == number)

    # What happens to records

    def begins(
        self, record: Record, group: tuple[str, int] | None, who: Any, disturbed: int, *, floor: int = 0, lapsed: bool = False
    ) -> Handling:
        """
        A consumer's handler begins.

        Args:
            record: What it handles.
            group: The sandbox and the generation of its groups; None: the baseline.
            who: Which consumer.
            disturbed: How often the partition was disturbed so far.
            floor: What its group had committed when it got the partition.
            lapsed: Whether the consumer was evicted and does not know.
        """
        handling = Handling(who, self._acts_for(record, group), disturbed, lapsed=lapsed)
        self._check_owner(record, handling.owner, f"{who} handles {record}")
        if group is not None and not record.gone and self.life(record.key or "", handling.owner).gap:
            raise ViolationError("two at once", f"{who} handles {record}, and a gap reader has begun in its place")
        if not (self._truncation or lapsed or record.gone):
            if record.offset < floor:
                raise ViolationError(
                    "repeat", f"{who} handles {record}, though its group had committed {floor} before it got the partition"
                )
            for other in record.handlings:
                if other.owner == handling.owner and not (other.gap or other.lapsed) and other.disturbed == disturbed:
                    raise ViolationError(
                        "repeat", f"{who} handles {record}, which {other.who} has handled, and nothing has happened since"
                    )
        record.handlings.append(handling)
        return handling

    def gap_begins(self, record: Record, reader: Any, disturbed: int) -> Handling:
        """
        A gap reader begins to handle a record.

        Args:
            record: What it handles.
            reader: Its name.
            disturbed: How often the partition was disturbed so far in the sandbox's group.
        """
        key = record.key or ""
        owner = self.owner(record)
        if owner != BASELINE:
            self.life(key, owner).gap = True
        term = self._terms.get(key, 0)
        handling = Handling(reader, owner, disturbed, gap=True, term=term)
        if owner == BASELINE and not record.gone:
            raise ViolationError("wrong owner", f"gap reader {reader} handles {record}, which is the baseline's")
        self._check_owner(record, owner, f"gap reader {reader} handles {record}")
        if self._claimants.get(key) != reader or self.states.get(key) != "reclaiming":
            raise ViolationError("two at once", f"gap reader {reader} handles {record} without a claim")
        for other in record.handlings:
            if self._truncation or other.lapsed:
                continue
            if not other.gap:
                if other.disturbed == disturbed:
                    kind = "repeat" if other.ended else "two at once"
                    raise ViolationError(kind, f"gap reader {reader} handles {record}, which {other.who} handles or has handled")
            elif self._last_of[other.who] is not record:
                raise ViolationError("repeat", f"gap reader {reader} handles {record}, which {other.who} was long done with")
            elif other.term == term:
                raise ViolationError(
                    "two at once", f"gap reader {reader} handles {record}, which {other.who} handles or has handled"
                )
        self._last_of[reader] = record
        record.handlings.append(handling)
        return handling

    def ends(self, record: Record, handling: Handling) -> None:
        """
        A handler ends well.
        """
        handling.ended = True
        record.done.add(handling.owner)

    def commits(self, group: tuple[str, int] | None, partition: int, offset: int) -> None:
        """
        A group commits.
        """
        before = self.committed.get((group, partition), 0)
        if offset > before:
            self.committed[group, partition] = offset
            self._check_committed(group, self._logs[partition][before:offset])

    def _acts_for(self, record: Record, group: tuple[str, int] | None) -> int:
        if group is None:
            return BASELINE
        return next((life.number for life in self.lives.get(record.key or "", ()) if life.group == group), -1)

    def _check_owner(self, record: Record, owner: int, what: str) -> None:
        expected = self.owner(record)
        if not record.gone and owner != expected:
            raise ViolationError("wrong owner", f"{what} for {_name(owner)}, and it is that of {_name(expected)}")

    def _check_committed(self, group: tuple[str, int] | None, records: Iterable[Record]) -> None:
        if self._truncation:
            return
        for record in records:
            owner = self.owner(record)
            if owner == self._acts_for(record, group) and owner not in record.done and not (record.dropped or record.expired):
                raise ViolationError("loss", f"{record} is committed by the group of {_name(owner)}, and was not handled")

    # What is written

    def written(self, key: str, row: Mapping[str, Any] | None, ends: list[int]) -> None:
        """
        A row was written.

        Args:
            key: The key.
            row: The document; None: it was removed.
            ends: The ends of the logs.
        """
        lives = self.lives.setdefault(key, [])
        before = self.states.get(key, "none")
        state = row["state"] if row else "none"
        epochs = row["epochs"] if row else []
        self.states[key] = state
        claimant = row["claimant"] if row else ""
        if claimant != self._claimants.get(key):
            self._claimants[key] = claimant
            self._terms[key] = self._terms.get(key, 0) + 1
        known = {life.number: life for life in lives}
        for entry in epochs:
            life = known.get(entry["number"])
            starts = tuple(entry["start"].get("t", ()))
            stops = None if entry["end"] is None else tuple(entry["end"].get("t", ()))
            if life is None:
                life = Life(entry["number"], (row["sandbox"], row["generation"]), starts)  # type: ignore[index]
                self._check_start(key, life, lives, ends)
                lives.append(life)
            elif self._structure and (life.start != starts or (life.end is not None and life.end != stops)):
                raise ViolationError("I1", f"the cuts of life {life.number} of {key} were written again")
            if life.end is None and stops is not None:
                life.end = stops
                self._check_end(key, life, ends)
        if state == "none" and before != "none" and lives and lives[-1].end is None:
            lives.pop()  # nothing was ever said of its end, so nothing is claimed by it
        if self._structure and not self._truncation:
            self._check_kept(key, {entry["number"] for entry in epochs})
        if state == "none" and before in ("draining", "reclaiming"):
            self._check_finished(key, lives[-1])
            lives[-1].over = True
        self._check_all()

    def _check_start(self, key: str, life: Life, earlier: list[Life], ends: list[int]) -> None:
        for partition in range(len(ends)) if self._structure else ():
            start = _at(life.start, partition)
            floor = max((_at(other.end or (), partition) for other in earlier), default=0)
            if start < floor or (start > max(ends[partition], floor) and not self._truncation):
                raise ViolationError(
                    "I2", f"life {life.number} of {key} starts at {start} of partition {partition}, not from {floor} on"
                )

    def _check_end(self, key: str, life: Life, ends: list[int]) -> None:
        for partition in range(len(ends)) if self._structure else ():
            start, end = _at(life.start, partition), _at(life.end or (), partition)
            below = end < start and partition < len(life.end or ())
            if below or (end > max(ends[partition], start) and not self._truncation):
                raise ViolationError(
                    "I2", f"life {life.number} of {key} ends at {end} of partition {partition}, where it starts at {start}"
                )

    def _check_kept(self, key: str, numbers: set[int]) -> None:
        for life in self.lives[key]:
            if life.number not in numbers and any(self._log_start[p] < end for p, end in enumerate(life.end or ())):
                raise ViolationError("I5", f"life {life.number} of {key} was erased, and its records can still be read")

    def _check_finished(self, key: str, life: Life) -> None:
        for partition, end in enumerate(life.end or ()):
            for record in self._logs[partition][_at(life.start, partition) : end]:
                settled = life.number in record.done or record.dropped or record.expired or record.key != key
                if not (settled or self._truncation):
                    raise ViolationError("loss", f"life {life.number} of {key} is ended, and {record} was not handled")

    def _check_all(self) -> None:
        """
        Look at everything anew, since cuts were written.
        """
        for log in self._logs:
            for record in log:
                for handling in record.handlings:
                    self._check_owner(record, handling.owner, f"{handling.who} has handled {record}")
        for (group, partition), offset in self.committed.items():
            self._check_committed(group, self._logs[partition][:offset])


def _name(owner: int) -> str:
    return "the baseline" if owner == BASELINE else f"life {owner}" if owner > 0 else "an unknown life"
