"""
What all route stores have in common: their texts, their time-outs, and the form in which a document is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ConfigurationError, ConflictError, RouteSourceError
from ._base import SCHEMA, Member, Put

__all__ = [
    "DAY",
    "TIMEOUT",
    "NoTableError",
    "check_lease",
    "check_puts",
    "check_writable",
    "conflict",
    "decoded",
    "encoded",
    "is_same",
    "member_of",
]

#: Seconds within which a store has to answer; three reads fit into the default lease.
TIMEOUT = 2.0

#: Seconds for which a member is remembered.
DAY = 86400


class NoTableError(RouteSourceError):
    """
    The place is there, and there is no route table in it.
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"there is no route table at {place}; create one with `tenancy routes init`")


def check_lease(lease: float) -> None:
    """
    Make sure that a lease is a time.

    Raises:
        ConfigurationError: If it is not.
    """
    if not (math.isfinite(lease) and lease > 0):
        raise ConfigurationError(f"the lease is {lease!r}; it must be a number of seconds above 0, such as 10")


def check_puts(puts: Sequence[Put]) -> None:
    """
    Make sure that no document is written twice at once.

    Raises:
        ValueError: If one is.
    """
    names = [put.name for put in puts]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the document {twice!r} is to be written twice at once")


def check_writable(schema: int, place: str) -> None:
    """
    Make sure that a table is of the form that is written here.

    Raises:
        RouteSourceError: If it is not.
    """
    if schema != SCHEMA:
        raise RouteSourceError(
            f"{place} holds documents of form {schema}, and this version of request-tenancy writes {SCHEMA}; nothing was written"
        )


def conflict(place: str, put: Put, found: int) -> ConflictError:
    """
    Return the error about a document that somebody else has written.

    Args:
        place: The store's name.
        put: What was to be written.
        found: The version at which the document was written last; 0: it is not there.
    """
    stands, seen = (f"at version {version}" if version else "not there" for version in (found, put.expected))
    return ConflictError(
        f"{place}: the document {put.name!r} is {stands}, where it was {seen} when it was read; nothing was written. Read it again"
    )


def encoded(document: Mapping[str, Any]) -> str:
    """
    Return a document as text, in ASCII.
    """
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def decoded(text: Any, place: str, name: str) -> Mapping[str, Any]:
    """
    Return the document that a text holds.

    Raises:
        RouteSourceError: If it holds none.
    """
    try:
        document = json.loads(text)
    except (TypeError, ValueError) as error:
        raise RouteSourceError(f"{place}: the document {name!r} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RouteSourceError(f"{place}: the document {name!r} is not a JSON object")
    return document


def is_same(member: Member, other: Member) -> bool:
    """
    Return whether two are the same consumer, whatever it has seen or said of itself meanwhile.
    """
    return all(getattr(member, name) == getattr(other, name) for name in ("workload", "member", "group", "table", "sandbox"))


def member_of(document: Any, place: str) -> Member:
    """
    Return the member that a document tells of; fields that are not known here are left out.

    Raises:
        RouteSourceError: If it tells of none.
    """
    try:
        known = {name: document[name] for name in Member._fields if name in document}
        return Member(**{**known, "topics": tuple(known.get("topics", ()))})
    except TypeError as error:
        raise RouteSourceError(f"{place}: a member is not what it should be: {error}") from error
