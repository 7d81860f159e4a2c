"""
A deduplication in memory, for tests of what handles messages once.
"""

from __future__ import annotations

import itertools
import threading
import time

from ..errors import DeduplicationError
from ..messaging.deduplication import Claim, Outcome
from ..messaging.deduplication._base import RETENTION, TTL, InThreads, counted
from ..messaging.deduplication._records import (
    CLAIMED,
    DONE,
    Record,
    check_seconds,
    finished,
    given_up,
    judged,
    name_of,
    new_token,
    owner_of,
)

__all__ = ["MemoryDeduplication"]

_numbers = itertools.count(1)


class MemoryDeduplication(InThreads):
    """
    A deduplication in the memory of this process, which does what the real ones do. A test can have time pass with `advance`, and take it
    away with `lose`.

    Args:
        ttl: Seconds after which a claim expires.
        retention: Seconds for which it is remembered that a message was handled.

    Raises:
        ConfigurationError: If a time is none.
    """

    def __init__(self, *, ttl: float = TTL, retention: float = RETENTION) -> None:
        self.name = f"the deduplication {next(_numbers)} of a test"
        self.ttl = check_seconds("ttl", ttl)
        self.retention = check_seconds("retention", retention)
        self._lock = threading.Lock()
        self._lost: str | None = None
        self._passed = 0.0
        self._records: dict[tuple[str, str], tuple[float, Record]] = {}  # until when, and what

    def advance(self, seconds: float) -> None:
        """
        Have time pass: claims expire, and what was handled is forgotten.
        """
        with self._lock:
            self._passed += seconds

    def lose(self, reason: str = "the connection was refused") -> None:
        """
        Make every call fail until `restore`, as that of a server that is down does.

        Args:
            reason: Why, as the error says it.
        """
        with self._lock:
            self._lost = reason

    def restore(self) -> None:
        """
        Make it answer again.
        """
        with self._lock:
            self._lost = None

    def claim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Ask whether a message is to be handled now.

        Raises:
            DeduplicationError: If it is lost.
        """
        key, token, owner = _key(scope, message_id), new_token(), owner_of(owner)
        with self._lock:
            claim = judged(self._found(key), scope, message_id, token)
            if claim is None:
                self._keep(key, Record(CLAIMED, token, owner, self.ttl))
                claim = Claim(scope, message_id, Outcome.OURS, token, self.ttl, owner)
        return counted(claim)

    def done(self, claim: Claim) -> bool:
        """
        Note that the message was handled, and return whether the claim still was ours.

        Raises:
            DeduplicationError: If it is lost.
        """
        if not claim.token:
            return claim.ours
        key = _key(claim.scope, claim.message_id)
        with self._lock:
            writes, ours = finished(self._found(key), claim.token)
            if writes:
                self._keep(key, Record(DONE, claim.token, claim.owner, self.retention))
        return ours

    def release(self, claim: Claim) -> bool:
        """
        Give a claim back, and return whether it still was ours.

        Raises:
            DeduplicationError: If it is lost.
        """
        if not claim.token:
            return claim.ours
        key = _key(claim.scope, claim.message_id)
        with self._lock:
            writes, ours = given_up(self._found(key), claim.token)
            if writes:
                del self._records[key]
        return ours

    def close(self) -> None:
        """
        Nothing is held.
        """

    def _found(self, key: tuple[str, str]) -> Record | None:
        if self._lost is not None:
            raise DeduplicationError(f"{self.name} cannot be reached: {self._lost}")
        until, record = self._records.get(key, (0.0, None))
        return None if record is None else record._replace(seconds=until - self._now())

    def _keep(self, key: tuple[str, str], record: Record) -> None:
        self._records[key] = self._now() + record.seconds, record

    def _now(self) -> float:
        return time.monotonic() + self._passed


def _key(scope: str, message_id: str) -> tuple[str, str]:
    return name_of(scope, "scope"), name_of(message_id, "message id")
