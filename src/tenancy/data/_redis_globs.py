"""
What a pattern of Redis could match, for the patterns that would hear of everybody's keys. No input or output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["could_match", "tells_of_keys"]

# The characters that may stand in a place; None for any number of any.
_Token = frozenset[int] | None

_ANY: Final = frozenset(range(256))
# As Redis takes them (`stringmatchlen`): a class that does not end, ends with the pattern; a range may end with a bracket; and a
# backslash at the end is itself.
_TOKEN: Final = re.compile(rb"\*|\?|\[(\^?)((?:\\.|[^\]\\]-.|[^\]\\]|\\\Z)*)(?:\]|\Z)|\\?(.)", re.DOTALL)
_MEMBER: Final = re.compile(rb"(?=[^\\])(.)-(.)|\\?(.)", re.DOTALL)


def _tokens(pattern: bytes) -> list[_Token]:
    found: list[_Token] = []
    for token in _TOKEN.finditer(pattern):
        if token[0] == b"*":
            found.append(None)
        elif token[0] == b"?":
            found.append(_ANY)
        elif token[3] is not None:
            found.append(frozenset(token[3]))
        else:
            members = _members(token[2])
            found.append(_ANY - members if token[1] else members)
    return found


def _members(text: bytes) -> frozenset[int]:
    found: set[int] = set()
    for member in _MEMBER.finditer(text):
        if member[3] is not None:
            found.update(member[3])
        else:
            first, last = sorted((member[1][0], member[2][0]))
            found.update(range(first, last + 1))
    return frozenset(found)


def _meet(one: list[_Token], other: list[_Token]) -> bool:
    # Whether there is a text that both match: *places* are those of *other* that can be reached with what has been read of *one*.
    places = _rest(other, {0})
    for token in one:
        if token is None:
            places = set(range(min(places), len(other) + 1))
            continue
        reached = set()
        for place in places:
            if place < len(other):
                there = other[place]
                if there is None:
                    reached.add(place)
                elif there & token:
                    reached.add(place + 1)
        places = _rest(other, reached)
        if not places:
            return False
    return len(other) in places


def _rest(tokens: list[_Token], places: Iterable[int]) -> set[int]:
    # With the places behind what may be nothing.
    found = set(places)
    for place, token in enumerate(tokens):
        if token is None and place in found:
            found.add(place + 1)
    return found


# https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/ and, from Redis 8.8 on,
# https://redis.io/docs/latest/develop/pubsub/subkeyspace-notifications/
_CHANNELS: Final = tuple(
    _tokens(b"__%b@*__:*" % kind)
    for kind in (b"keyspace", b"keyevent", b"subkeyspace", b"subkeyevent", b"subkeyspaceitem", b"subkeyspaceevent")
)
_UNDERSCORE: Final = frozenset(b"_")


def could_match(pattern: bytes, other: bytes) -> bool:
    """
    Return whether there is a text that both patterns match.
    """
    return _meet(_tokens(pattern), _tokens(other))


def tells_of_keys(pattern: bytes) -> bool:
    """
    Return whether a pattern is one for the channels on which Redis tells of everybody's keys: it could match one of them, and matches nothing
    that does not begin with two underscores, as an application's ``*`` does.
    """
    tokens = _tokens(pattern)
    return tokens[:2] == [_UNDERSCORE, _UNDERSCORE] and any(_meet(tokens, channel) for channel in _CHANNELS)
