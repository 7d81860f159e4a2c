"""
What becomes of a message id when somebody claims it, finishes or gives up: decided here, without I/O, for whatever keeps the records.

A store keeps at most one record for each scope and message id. Each decision below is made on the record as it is at one moment, and what
it says is written in the same moment: within a lock, a script or a transaction of the store. Every claim has a token of its own, made at
random, and that is all that tells one claimant from another.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import socket
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from ...errors import ConfigurationError, DeduplicationError

__all__ = [
    "CLAIMED",
    "DONE",
    "Claim",
    "Outcome",
    "Record",
    "Writes",
    "check_seconds",
    "finished",
    "given_up",
    "judged",
    "name_of",
    "new_token",
    "owner_of",
]

CLAIMED = "claimed"
DONE = "done"

_LONGEST = 200  # characters; an AMQP message id has up to 255 bytes, one of Kafka's headers has no limit
_HASHED = "sha256:"


class Outcome(str, Enum):
    """
    What came of a claim.
    """

    #: The message is to be handled by whoever claimed it, until the claim expires.
    OURS = "ours"
    #: It was handled.
    DONE = "done"
    #: Somebody else is at work on it, or has died at it.
    BUSY = "busy"


@dataclass(frozen=True)
class Claim:
    """
    The answer to a claim.

    Args:
        scope: Within what the message id counts.
        message_id: The message's id.
        outcome: What came of it.
        token: What tells this claim from every other one of the id; empty: nothing is kept of it.
        seconds: For how long that holds, at most, from when the store answered: until our claim expires, until somebody else's does, or
            until it is forgotten that the message was handled.
        owner: Whose claim it is, for people to read; where the message was handled, who did.
    """

    scope: str
    message_id: str
    outcome: Outcome
    token: str = ""
    seconds: float = 0.0
    owner: str = ""

    @property
    def ours(self) -> bool:
        """
        Whether the message is to be handled now.
        """
        return self.outcome is Outcome.OURS

    @property
    def done(self) -> bool:
        """
        Whether it was handled already.
        """
        return self.outcome is Outcome.DONE

    @property
    def busy(self) -> bool:
        """
        Whether somebody else is at work on it, so that it has to come again.
        """
        return self.outcome is Outcome.BUSY


class Record(NamedTuple):
    """
    What is kept of a message id.

    Args:
        state: `CLAIMED` or `DONE`.
        token: The token of the claim.
        owner: Whose it is, for people to read.
        seconds: How long it still holds, by the store's clock; 0 or less: it has expired, and is as good as gone.
    """

    state: str
    token: str
    owner: str
    seconds: float


class Writes(NamedTuple):
    """
    What to do with a record.

    Args:
        writes: Whether it is changed, as the caller asked.
        ours: Whether the claim was still the caller's.
    """

    writes: bool
    ours: bool


def judged(record: Record | None, scope: str, message_id: str, token: str) -> Claim | None:
    """
    Return the answer to a claim, or None where the record is to be written for it.

    Of many that claim at once, one writes a record and all others meet it. A claim that is made again with the same token, because its
    answer was lost, is the same claim.

    Args:
        record: What is kept of the message id.
        scope: Within what it counts.
        message_id: The message's id.
        token: The token of whoever claims.
    """
    if record is None or record.seconds <= 0:
        return None
    if record.state == DONE:
        return Claim(scope, message_id, Outcome.DONE, "", record.seconds, record.owner)
    if record.token == token:
        return Claim(scope, message_id, Outcome.OURS, token, record.seconds, record.owner)
    return Claim(scope, message_id, Outcome.BUSY, "", record.seconds, record.owner)


def finished(record: Record | None, token: str) -> Writes:
    """
    Return what becomes of a record when a claimant is done.

    That the message was handled is a fact, and is noted whoever has the claim by now. If the claim has expired meanwhile, somebody else may
    be at work: nobody stops them, but when they fail the message does not come a third time, and where they mark it within their own
    transaction, they find that they came too late. What was noted before stays as it was noted.

    Args:
        record: What is kept of the message id.
        token: The token of whoever is done.
    """
    if record is None or record.seconds <= 0:
        return Writes(writes=True, ours=False)
    if record.state == DONE:
        return Writes(writes=False, ours=record.token == token)
    return Writes(writes=True, ours=record.token == token)


def given_up(record: Record | None, token: str) -> Writes:
    """
    Return whether a record is removed when a claimant gives up: only where it is that one's claim, so that neither the claim of somebody
    else, nor that the message was handled, is ever forgotten by it.

    Args:
        record: What is kept of the message id.
        token: The token of whoever gives up.
    """
    if record is None or record.state != CLAIMED or record.token != token:
        return Writes(writes=False, ours=False)
    return Writes(writes=True, ours=record.seconds > 0)


def name_of(text: str, what: str) -> str:
    """
    Return the name under which a text is kept: itself where it is short and has neither spaces nor anything that is not to be printed, so
    that people can look for it; else a hash. No two texts have the same one.

    Args:
        text: A scope or a message id; the latter is whatever the publisher wrote.
        what: What it is, for the error.

    Raises:
        DeduplicationError: If it is empty, or no text.
    """
    given: Any = text
    if not isinstance(given, str) or not given:
        raise DeduplicationError(f"the {what} is {given!r}, so a message cannot be told from another; give text")
    if len(text) <= _LONGEST and text.isprintable() and " " not in text and not text.startswith(_HASHED):
        return text
    return _HASHED + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_seconds(name: str, seconds: float) -> float:
    """
    Return a time, having made sure that it is one that a store can keep.

    Raises:
        ConfigurationError: If it is not.
    """
    if not (math.isfinite(seconds) and seconds >= 0.001):
        raise ConfigurationError(f"{name} is {seconds!r}; it must be a number of seconds above 0, such as 60")
    return float(seconds)


def owner_of(owner: str | None) -> str:
    """
    Return what a claimant is called, in printable characters.

    Args:
        owner: The name that was given; None: that of this process.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}" if owner is None else owner
    return "".join(character if character.isprintable() else "?" for character in owner[:_LONGEST])


def new_token() -> str:
    """
    Return what tells a claim from every other.
    """
    return secrets.token_hex(12)
