"""
From bytes to a case: a carrier of some shape, the fields to read and write, and the key to write into it.

The format is text that people can write by hand. The first line has three letters and a key; each other line is a header::

    d s - pr-42                      shape (SHAPES), fields (FIELDS), binary (t, f, -), the key; none where it is no key
    b a=1,sd-routing-key=pr-1        a letter of NAMES, or a name; then the value
    b181 k=v                         the value 181 times over, with commas between

Every sequence of bytes is a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from tenancy.config import DIALECTS, Field
from tenancy.key import RoutingKey

__all__ = ["FIELDS", "NAMES", "SHAPES", "Case", "Multi", "parse"]

_SIGNADOT, _OKTETO = DIALECTS["signadot"], DIALECTS["okteto"]

#: letter -> the fields that are read, and those that are written
FIELDS: Mapping[str, tuple[tuple[Field, ...], tuple[Field, ...]]] = {
    "s": (_SIGNADOT, _SIGNADOT[:1]),
    "o": (_OKTETO, _OKTETO),
    "a": (_SIGNADOT, _SIGNADOT),
    "2": (_SIGNADOT[:1] + _OKTETO, _SIGNADOT[:1] + _OKTETO),
    "h": ((Field("header", "X-Tenant"), *_SIGNADOT[:1]), (*_SIGNADOT[:1], Field("header", "X-Tenant"))),
}

NAMES: Mapping[str, str] = {
    "b": "baggage",
    "B": "Baggage",
    "G": "BAGGAGE",
    "t": "tracestate",
    "T": "TraceState",
    "o": "ot-baggage-sd-routing-key",
    "u": "UberCtx-SD-Routing-Key",
    "x": "x-tenant",
    "h": "host",
}

_MOST_LINES, _MOST_MEMBERS, _MOST_BYTES = 12, 200, 9_000


class Multi(MutableMapping[str, Any]):
    """
    A multi-dictionary in the manner of httpx, Starlette and multidict: names repeat, and are found in any case.
    """

    def __init__(self, lines: Iterable[tuple[str, Any]]) -> None:
        self.lines = list(lines)

    def multi_items(self) -> list[tuple[str, Any]]:
        return list(self.lines)

    def copy(self) -> Multi:
        return Multi(self.lines)

    def __getitem__(self, name: str) -> Any:
        return next(value for known, value in self.lines if known.lower() == name.lower())

    def __setitem__(self, name: str, value: Any) -> None:
        self.lines = [line for line in self.lines if line[0].lower() != name.lower()] + [(name, value)]

    def __delitem__(self, name: str) -> None:
        kept = [line for line in self.lines if line[0].lower() != name.lower()]
        if len(kept) == len(self.lines):
            raise KeyError(name)
        self.lines = kept

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(known.lower() == name.lower() for known, _ in self.lines)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self.lines])

    def __len__(self) -> int:
        return len(self.lines)


def _text(value: bytes) -> str:
    for errors in ("strict", "surrogatepass"):
        try:
            return value.decode("utf-8", errors)
        except UnicodeDecodeError:
            pass
    return value.decode("latin-1")


def _texts(lines: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in lines]


def _binary(lines: list[tuple[str, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("utf-8", "surrogatepass"), value) for name, value in lines]


def _table(lines: list[tuple[str, bytes]]) -> dict[str, Any]:
    """
    An AMQP table: the lines of a repeated name as a list, and values of other types among them.
    """
    table: dict[str, Any] = {"x-delivery-count": 3, "x-death": [{"queue": "q", "count": 1}], "x-none": None}
    for name, value in _texts(lines):
        table[name] = [*table[name], value] if isinstance(table.get(name), list) else [value]
    return table


def _junk(lines: list[tuple[str, bytes]]) -> list[Any]:
    junk: list[Any] = [None, 7, "ab", b"cd", (), ("baggage",), ("baggage", 1, 2)]
    for name, value in lines:
        junk = [name, (name, [value, junk]), {name: junk}, *junk]
    return junk


#: letter -> from lines to a carrier, in the shapes that libraries use
SHAPES: Mapping[str, Callable[[list[tuple[str, bytes]]], Any]] = {
    "d": lambda lines: dict(_texts(lines)),
    "e": dict,
    "f": lambda lines: dict(_binary(lines)),
    "l": _texts,
    "p": _binary,
    "t": lambda lines: tuple(_texts(lines)),
    "q": tuple,
    "s": lambda lines: {name: {"DataType": "String", "StringValue": value} for name, value in _texts(lines)},
    "v": lambda lines: {name: {"dataType": "String", "stringValue": value} for name, value in _texts(lines)},
    "a": _table,
    "m": lambda lines: Multi(_texts(lines)),
    "g": lambda lines: iter(_texts(lines)),
    "i": lambda lines: [("none", None), ("baggage", None), ("number", 5), *_texts(lines)],
    "n": lambda lines: None,
    "j": _junk,
}


@dataclass(frozen=True)
class Case:
    """
    What one execution is about.

    Args:
        shape: A letter of `SHAPES`.
        fields: A letter of `FIELDS`.
        binary: What `Codec.write` is told.
        key: The key to write.
        lines: Names and values of the headers.
    """

    shape: str
    fields: str
    binary: bool | None
    key: RoutingKey | None
    lines: list[tuple[str, bytes]]

    def carrier(self) -> Any:
        """
        Make the carrier; a new one, equal to all others of this case, at each call.
        """
        return SHAPES[self.shape](self.lines)


def parse(data: bytes) -> Case:
    """
    Return the case that *data* stands for; never raises.
    """
    first, *rest = data.split(b"\n")[: _MOST_LINES + 1]
    letters = first[:6].ljust(6).decode("latin-1")
    lines, members, left = [], _MOST_MEMBERS, _MOST_BYTES
    for line in rest:
        head, _, value = line.partition(b" ")
        name = head.decode("latin-1")
        if name[1:].isdecimal():
            times = min(int(name[1:4]), members // (value.count(b",") + 1), left // (len(value) + 1))
            name, value = name[:1], b",".join([value] * times)
        members, left = max(members - value.count(b","), 0), max(left - len(value), 0)
        lines.append((NAMES.get(name, name), value))
    return Case(
        shape=_chosen(letters[0], SHAPES),
        fields=_chosen(letters[2], FIELDS),
        binary={"t": True, "f": False}.get(letters[4]),
        key=RoutingKey.parse(first[6:].decode("latin-1")),
        lines=lines,
    )


def _chosen(letter: str, table: Mapping[str, Any]) -> str:
    return letter if letter in table else list(table)[ord(letter) % len(table)]
