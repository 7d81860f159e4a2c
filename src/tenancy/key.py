"""
What a routing key is.
"""

from __future__ import annotations

import re
from typing import Any

from .errors import InvalidRoutingKeyError

__all__ = ["GRAMMAR", "RESERVED", "RoutingKey"]

# A DNS label (RFC 1123, section 2.1) in lower case: such a value travels unencoded through baggage, fits a Kubernetes label and a
# host name, and needs no escape in the regular expressions of Envoy, Istio and Linkerd.
#: The grammar of a routing key, as a regular expression.
GRAMMAR = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

_matches = re.compile(GRAMMAR).fullmatch

#: Words that look like a key but are what a program writes when it has none; as a key each would be a phantom tenant.
RESERVED = frozenset({"baseline", "default", "none", "null", "undefined", "public"})


class RoutingKey(str):
    """
    The opaque name that a request carries to say which sandbox it is for.

    It is a `str`, so it can be compared, formatted, serialised and used as a dictionary key like one.

    Args:
        value: 1 to 63 characters, ``[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?``, and not one of `RESERVED`.

    Raises:
        InvalidRoutingKeyError: If *value* is anything else, with the reason.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> RoutingKey:
        if type(value) is cls:
            return value
        problem = _problem(value)
        if problem is not None:
            raise InvalidRoutingKeyError(problem)
        return str.__new__(cls, str.__str__(value))  # of an enumeration's member the value, not the name

    @classmethod
    def parse(cls, value: object) -> RoutingKey | None:
        """
        Return *value* as a routing key, or None where it is not one; never raises.
        """
        if type(value) is cls:
            return value
        if isinstance(value, str) and _matches(value) is not None and value not in RESERVED:
            return str.__new__(cls, str.__str__(value))
        return None

    def __repr__(self) -> str:
        return f"RoutingKey({str.__repr__(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (RoutingKey, (str(self),))

    def __str__(self) -> str:
        return str.__str__(self)


def _problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"a routing key is a str, not {type(value).__name__}; decode or convert it first"
    if _matches(value) is None:
        shown = repr(value) if len(value) <= 64 else f"{value[:64]!r}... ({len(value)} characters)"
        return (
            f"{shown} is not a routing key: use 1 to 63 of the characters a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit, such as 'pr-42'"
        )
    if value in RESERVED:
        return f"{value!r} is reserved and cannot be a routing key; choose a name such as 'pr-42'"
    return None
