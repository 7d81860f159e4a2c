"""
What remembers which messages were handled: claims by message id, each for a time, within the scope of a workload and a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from importlib import import_module
from typing import Any, Protocol, TypeVar

from ...config import settings
from ...errors import ConfigurationError, DeduplicationError, IdentityError
from ...naming import is_workload
from ...observe import count
from ...routes.stores._urls import hidden
from ._records import Claim

__all__ = ["RETENTION", "SCHEMES", "TTL", "Deduplication", "InThreads", "counted", "open_deduplication", "scope_of", "whole"]

T = TypeVar("T")

#: Seconds after which a claim expires: more than handling a message takes, and what the copy of a message waits when a claimant died.
TTL = 60.0

#: Seconds for which it is remembered that a message was handled: more than its copy can be under way.
RETENTION = 86400.0

#: URL scheme -> the function that opens such a deduplication.
SCHEMES: Mapping[str, str] = {
    "sqlite": "tenancy.messaging.deduplication.sql:open_deduplication",
    "postgresql": "tenancy.messaging.deduplication.sql:open_deduplication",
    "redis": "tenancy.messaging.deduplication.redis:open_deduplication",
    "rediss": "tenancy.messaging.deduplication.redis:open_deduplication",
}


class Deduplication(Protocol):
    """
    Remembers which messages were handled. Every method raises `DeduplicationError` where the place cannot be had; those that begin with
    ``a`` are the same for asyncio.

    - Of all that claim a message id within one scope, one has it at a time, in whatever threads, processes and sandboxes they are.
    - A claim expires. So the copy of a message whose claimant died is handled after that time, and one whose claimant is slower than that
      may be handled by two at once: the deduplication never loses a message, and at-least-once stays what it is.
    - Whoever comes late changes nothing for the worse: `release` removes the caller's own claim alone, and `done` notes that the message
      was handled, which is true whoever has the claim by then.
    - All times are the server's. Nobody's clock has to be right; but where the server's is set forward, claims expire early.
    """

    name: str

    def claim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Ask whether a message is to be handled now.

        Args:
            scope: Within what the id counts; see `scope_of`.
            message_id: The message's id, the same for all its copies; not empty.
            owner: Who asks, for people to read; default the host's name and the process's number.
        """
        ...

    def done(self, claim: Claim) -> bool:
        """
        Note that the message was handled, and return whether the claim still was ours; if it had expired, somebody else may have handled
        the message, too.
        """
        ...

    def release(self, claim: Claim) -> bool:
        """
        Give a claim back, since the message was not handled: whoever claims next has it. Return whether the claim still was ours.
        """
        ...

    def close(self) -> None:
        """
        Give back what it holds; the next call takes it again.
        """
        ...

    async def aclaim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Like `claim`. Where the caller is cancelled meanwhile, the claim is given back before the cancellation goes on.
        """
        ...

    async def adone(self, claim: Claim) -> bool:
        """
        Like `done`. It is done also where the caller is cancelled meanwhile.
        """
        ...

    async def arelease(self, claim: Claim) -> bool:
        """
        Like `release`. It is done also where the caller is cancelled meanwhile.
        """
        ...

    async def aclose(self) -> None:
        """
        Like `close`, for the event loop that runs.
        """
        ...


class InThreads:
    """
    The methods for asyncio of a deduplication that has only the others: each call is made in a thread.
    """

    async def aclaim(self: Deduplication, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        See `Deduplication.aclaim`.
        """
        return await claimed(asyncio.to_thread(self.claim, scope, message_id, owner=owner), self)

    async def adone(self: Deduplication, claim: Claim) -> bool:
        """
        See `Deduplication.adone`.
        """
        return await whole(asyncio.to_thread(self.done, claim))

    async def arelease(self: Deduplication, claim: Claim) -> bool:
        """
        See `Deduplication.arelease`.
        """
        return await whole(asyncio.to_thread(self.release, claim))

    async def aclose(self: Deduplication) -> None:
        """
        See `Deduplication.aclose`.
        """
        await whole(asyncio.to_thread(self.close))


async def whole(call: Coroutine[Any, Any, T]) -> T:
    """
    Await a call to its end, also where the caller is cancelled meanwhile; the cancellation then goes on after it.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is left to be told
        raise


async def claimed(call: Coroutine[Any, Any, Claim], deduplication: Deduplication) -> Claim:
    """
    Await a claim. Where the caller is cancelled meanwhile nobody would know of it, so it is given back.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            claim = await task
            if claim.ours:
                await deduplication.arelease(claim)
        except DeduplicationError:
            pass  # it expires
        raise


def counted(claim: Claim) -> Claim:
    """
    Count a claim by what came of it, and return it.
    """
    count("tenancy.messages.claims", {"outcome": claim.outcome.value})
    return claim


def scope_of(queue: str, *, workload: str | None = None) -> str:
    """
    Return the scope within which the ids of a queue's messages count: the workload and the queue, so that every workload that gets a copy
    of a message handles its own.

    Args:
        queue: What the baseline calls the queue, in every fork, too: a message that was forwarded to a sandbox's queue and its copy are one.
        workload: The workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If the workload is not known.
        ConfigurationError: If *queue* is empty.
    """
    workload = settings().workload if workload is None else workload
    if not is_workload(workload):
        raise IdentityError(
            f"workload (TENANCY_WORKLOAD) is {workload!r}; set it, or pass workload='namespace/name', such as 'shop/orders'"
        )
    if not queue:
        raise ConfigurationError(f"queue is {queue!r}; give the name that the baseline uses")
    return f"{workload}:{queue}"


def open_deduplication(url: str, *, ttl: float = TTL, retention: float = RETENTION) -> Deduplication:
    """
    Open the deduplication at a URL; nothing is read or written yet.

    Args:
        url: ``redis://host/0``, ``postgresql://user@host/database`` or ``sqlite:///path/to/messages.db``.
        ttl: Seconds after which a claim expires: more than it takes to handle a message, or two may be at it at once; and no more than its
            copy may wait when a claimant died. Default a minute.
        retention: Seconds for which it is remembered that a message was handled: more than its copy can be under way. Default a day.

    Raises:
        ConfigurationError: If the URL names none, or a time is none.
        MissingDependencyError: If the extra that it needs is not installed.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if ":" not in url or scheme not in SCHEMES:
        raise ConfigurationError(
            f"{hidden(url)!r} is no place for deduplication; use a URL whose scheme is one of {', '.join(sorted(SCHEMES))}, such as "
            "redis://localhost/0"
        )
    module, _, name = SCHEMES[scheme].partition(":")
    opened: Deduplication = getattr(import_module(module), name)(url, ttl=ttl, retention=retention)
    return opened
