"""
A block that runs once for each message id: claim, handle, and say how it ended.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from ...errors import DeduplicationError
from ...observe import count, warn_once
from ._base import Deduplication
from ._records import Claim, Outcome

__all__ = ["once", "pause_before"]

_SHORTEST = 0.05  # seconds between two claims of somebody who waits
_LONGEST = 1.0


class once:  # noqa: N801 - it is used as a function: `with once(...) as claim`, `async with once(...) as claim`
    """
    Claim a message for a block: ``with once(...) as claim``, or ``async with``. When the block ends, the message is done; when it raises,
    or is cancelled, the claim is given back, and the exception goes on.

    The block is always entered, so that it can answer the broker:

    - ``claim.ours``: handle the message, then acknowledge it.
    - ``claim.done``: acknowledge it.
    - ``claim.busy``: somebody else is at work on it, or died at it; return it to the queue, after a pause.

    A message without an id is ours each time, is counted (outcome ``unidentified``) and logged once for each scope. Where the claim cannot
    be made, `DeduplicationError` is raised, and the message is not handled. Where it cannot be said afterwards that the message was
    handled, that is logged and no more: it was.

    Args:
        deduplication: What remembers.
        scope: Within what the id counts; see `scope_of`.
        message_id: The message's id, the same for all its copies; None or empty where it has none.
        owner: Who claims, for people to read; default the host's name and the process's number.
        wait: Seconds to wait, where somebody else is at work on it, for that to end. Keep it below the time in which the broker wants an
            answer.
    """

    __slots__ = ("_claim", "_deduplication", "_message_id", "_owner", "_scope", "_wait")

    def __init__(
        self, deduplication: Deduplication, scope: str, message_id: str | None, *, owner: str | None = None, wait: float = 0.0
    ) -> None:
        self._deduplication = deduplication
        self._scope = scope
        self._message_id = message_id
        self._owner = owner
        self._wait = wait
        self._claim: Claim | None = None

    def __enter__(self) -> Claim:
        self._claim = claim = self._unidentified() or self._waited()
        return claim

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        claim = self._claim
        if claim is None or not claim.ours:
            return
        try:
            if kind is not None:
                self._deduplication.release(claim)
            elif not self._deduplication.done(claim):
                self._late(claim)
        except DeduplicationError as unsaid:
            self._unsaid(kind, unsaid)

    async def __aenter__(self) -> Claim:
        self._claim = claim = self._unidentified() or await self._awaited()
        return claim

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        claim = self._claim
        if claim is None or not claim.ours:
            return
        try:
            if kind is not None:
                await self._deduplication.arelease(claim)
            elif not await self._deduplication.adone(claim):
                self._late(claim)
        except DeduplicationError as unsaid:
            self._unsaid(kind, unsaid)

    def _waited(self) -> Claim:
        assert self._message_id  # noqa: S101 - there is one, or it is unidentified
        end = time.monotonic() + self._wait
        attempt = 0
        while True:
            claim = self._deduplication.claim(self._scope, self._message_id, owner=self._owner)
            pause = pause_before(claim, attempt, end - time.monotonic())
            if pause is None:
                return claim
            time.sleep(pause)
            attempt += 1

    async def _awaited(self) -> Claim:
        assert self._message_id  # noqa: S101 - there is one, or it is unidentified
        end = time.monotonic() + self._wait
        attempt = 0
        while True:
            claim = await self._deduplication.aclaim(self._scope, self._message_id, owner=self._owner)
            pause = pause_before(claim, attempt, end - time.monotonic())
            if pause is None:
                return claim
            await asyncio.sleep(pause)
            attempt += 1

    def _unidentified(self) -> Claim | None:
        if self._message_id:
            return None
        count("tenancy.messages.claims", {"outcome": "unidentified"})
        warn_once(
            f"unidentified:{self._scope}",
            "%s: a message has no id, so it cannot be told from its copy, and is handled each time it comes. Further ones are only counted "
            "(tenancy.messages.claims, outcome unidentified).",
            self._scope,
        )
        return Claim(self._scope, "", Outcome.OURS)

    def _late(self, claim: Claim) -> None:
        count("tenancy.messages.claims", {"outcome": "late"})
        warn_once(
            f"late:{self._scope}",
            "%s: the claim of message %.64r expired before the message was handled, so somebody else may have handled it, too. Make ttl "
            "longer than a handler takes. Further ones are only counted (tenancy.messages.claims, outcome late).",
            self._scope,
            claim.message_id,
        )

    def _unsaid(self, kind: type[BaseException] | None, error: DeduplicationError) -> None:
        ended = (
            "was handled; its copy may be handled, too"
            if kind is None
            else "failed; it can be claimed again when its claim has expired"
        )
        warn_once(f"unsaid:{self._scope}", "%s: it could not be noted that a message %s: %s", self._scope, ended, error)


def pause_before(claim: Claim, attempt: int, left: float) -> float | None:
    """
    Return for how many seconds somebody pauses before claiming again, or None where the answer stands: ever longer, but no longer than the
    other claim lasts.

    Args:
        claim: The answer.
        attempt: How often they have claimed again already.
        left: For how many seconds they still wait.
    """
    if not claim.busy or left <= 0:
        return None
    lasts = max(_SHORTEST, claim.seconds + 0.001)
    return min(_SHORTEST * 2.0 ** min(attempt, 10), _LONGEST, lasts, left)
