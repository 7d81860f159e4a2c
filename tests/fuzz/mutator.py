"""
Changes to a case that keep its format: lines, members, names, encodings. The engine's own changes to bytes alternate with them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import quote

from .cases import FIELDS, NAMES, SHAPES

__all__ = ["mutated"]

_KEYS = [b"pr-42", b"", b"a", b"x" * 63]
_MEMBERS = [
    *(b"a=1", b"k=%2C", b"k=\xc3\xa9", b"", b"pr-4", b"sd-routing-key", b"sd-routing-key=pr-1", b"sd-routing-key=pr-2;a=1"),
    *(b"sd-routing-key =PR", b"+sd-routing-key=pr-3", b"sd%2Drouting-key=pr-4", b"okteto-divert=pr-5", b"a=sd-routing-key=pr-6"),
    *(b"sd-routing-key=pr-42", b"sd-routing-key=pr-421", b"sd-routing-key=pr-42;a=1"),  # with the key of _KEYS
]
_BLANKS = [b" ", b"\t", b"+", b"%20", b"\n"]
_NAMES = [letter.encode() for letter in NAMES]
_TIMES = [*[b""] * 20, b"2", b"90", b"179", b"180", b"181"]


def mutated(data: bytes, generator: random.Random) -> bytes:
    """
    Return *data* with one to four changes.
    """
    first, *lines = data.split(b"\n")
    for _ in range(generator.randint(1, 4)):
        if generator.random() < 0.15:
            first = _first(first, generator)
        else:
            lines = _lines(lines, generator)
    return b"\n".join([first, *lines])


def _first(first: bytes, generator: random.Random) -> bytes:
    letters, key = first[:6].ljust(6), first[6:]
    at = generator.randrange(4)
    if at == 3:
        return letters + generator.choice(_KEYS)
    letter = generator.choice([list(SHAPES), list(FIELDS), list("tf-")][at]).encode()
    return letters[: 2 * at] + letter + letters[2 * at + 1 :] + key


def _lines(lines: list[bytes], generator: random.Random) -> list[bytes]:
    if not lines or generator.random() < 0.1:
        return [*lines, generator.choice(_NAMES) + b" " + generator.choice(_MEMBERS)]
    at = generator.randrange(len(lines))
    chance = generator.random()
    if chance < 0.05:
        return [*lines[:at], *lines[at + 1 :]]
    if chance < 0.1:
        return [*lines, lines[at]]
    name, _, value = lines[at].partition(b" ")
    if name[1:].isdigit() and generator.random() < 0.5:  # repetitions are slow, and there are always enough of them
        name = name[:1]
    if chance < 0.2:
        name = generator.choice(_NAMES) + generator.choice(_TIMES)
    else:
        members = value.split(b",")
        where = generator.randrange(len(members))
        members[where : where + 1] = generator.choice(_CHANGES)(members[where], generator)
        value = b",".join(members)
    return [*lines[:at], name + b" " + value, *lines[at + 1 :]]


def _encoded(member: bytes, generator: random.Random) -> list[bytes]:
    if not member:
        return [b"%00"]
    at = generator.randrange(len(member))
    return [member[:at] + f"%{member[at]:02{generator.choice('xX')}}".encode() + member[at + 1 :]]


def _blank(member: bytes, generator: random.Random) -> list[bytes]:
    name, equals, value = member.partition(b"=")
    blank = generator.choice(_BLANKS)
    return [generator.choice([blank + member, member + blank, name + blank + equals + value, name + equals + blank + value])]


def _case(member: bytes, generator: random.Random) -> list[bytes]:
    return [generator.choice([member.upper(), member.lower(), member.title()])]


def _quoted(member: bytes, generator: random.Random) -> list[bytes]:
    return [quote(member, safe="=").encode()]


_CHANGES: list[Callable[[bytes, random.Random], list[bytes]]] = [
    _encoded,
    _blank,
    _case,
    _quoted,
    lambda member, generator: [],
    lambda member, generator: [member, member],
    lambda member, generator: [member, generator.choice(_MEMBERS)],
    lambda member, generator: [generator.choice(_MEMBERS), member],
    lambda member, generator: [member + b";" + generator.choice(_MEMBERS)],
    lambda member, generator: [member.partition(b"=")[0]],
    lambda member, generator: [member + b"="],
]
