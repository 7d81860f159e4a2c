"""
Bugs to be found: the codec with one mistake put in, of the kinds that such code has had.

Each is made from the outside, by what the codec's public methods take and return, so that it outlives changes inside of the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from tenancy.baggage import Reading, Written
from tenancy.carrier import pairs, rebuilt, text
from tenancy.key import RoutingKey

from .oracles import CodecLike

__all__ = ["BUGS"]


class _Bug:
    """
    The codec as it is; a subclass puts one mistake into one method.
    """

    def __init__(self, codec: CodecLike) -> None:
        self.codec = codec

    def read(self, carrier: Any) -> Reading:
        return self.codec.read(carrier)

    def read_baggage(self, raw: str) -> Reading:
        return self.codec.read_baggage(raw)

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        return self.codec.write(carrier, key, binary=binary)


class _CaseSensitive(_Bug):
    """Header names are compared as they stand."""

    def read(self, carrier: Any) -> Reading:
        if isinstance(carrier, dict):
            carrier = {name: value for name, value in carrier.items() if name == name.lower()}
        return self.codec.read(carrier)


class _LosesPercent(_Bug):
    """A member of others goes when its value is percent-encoded."""

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        return _with_members(super().write(carrier, key, binary=binary), lambda member: "%" not in member)


class _OneTooMany(_Bug):
    """The 180th member is not taken for one over the limit, but the 181st is."""

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        written = super().write(carrier, key, binary=binary)
        for line in _lines(written.carrier):
            if line.count(",") + 1 == 180:
                return written._replace(dropped=written.dropped + 1)
        return written


class _FirstWins(_Bug):
    """Of several values the first is taken."""

    def read_baggage(self, raw: str) -> Reading:
        reading = super().read_baggage(raw)
        if reading.conflict:
            return super().read_baggage(",".join(reversed(raw.split(","))))
        return reading


class _NoPlus(_Bug):
    """A quick way that passes over a name with an encoded blank."""

    def read_baggage(self, raw: str) -> Reading:
        if "+" in raw and "%" not in raw:
            raw = ",".join(member for member in raw.split(",") if "+" not in member.partition("=")[0])
        return super().read_baggage(raw)


class _ChangesTheCaller(_Bug):
    """The caller's dictionary is written into, where it has no baggage yet."""

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        written = super().write(carrier, key, binary=binary)
        if type(carrier) is dict and "baggage" not in carrier and key is not None:
            carrier.setdefault("baggage", written.carrier.get("baggage"))
        return written


class _Raises(_Bug):
    """A member without a value is split where it cannot be."""

    def read_baggage(self, raw: str) -> Reading:
        for member in raw.split(","):
            if member.startswith("sd-routing-key") and ";" in member:
                _name, _value = member.partition(";")[0].split("=")
        return super().read_baggage(raw)


class _Repeats(_Bug):
    """An encoded spelling of the key's own name is not removed before the new entry is written."""

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        written = super().write(carrier, key, binary=binary)
        stale = [member for line in _lines(carrier) for member in line.split(",") if "%" in member.partition("=")[0]]
        stale = [member for member in stale if unquote_plus(member.partition("=")[0]).strip() == "sd-routing-key"]
        if not stale or key is None:
            return written
        line = ",".join([*_lines(written.carrier), *stale])
        return written._replace(carrier=rebuilt(written.carrier, {"baggage"}, [("baggage", line)]))


class _Needle(_Bug):
    """A member of others goes when it is called just so: six steps, of which none but the last can be seen from outside."""

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        written = super().write(carrier, key, binary=binary)
        return _with_members(written, _is_no_needle)


def _is_no_needle(member: str) -> bool:
    if member == member.lower():
        return True
    if member.isprintable():
        return True
    if len(member) < 12:
        return True
    if member.count("=") < 3:
        return True
    if member.isascii():
        return True
    if "%" not in member:
        return True
    if " " not in member:
        return True
    return "+" not in member


def _lines(carrier: Any) -> Iterator[str]:
    if isinstance(carrier, Iterator):
        return
    for pair in pairs(carrier):
        name, value = pair
        if (name.decode("latin-1") if isinstance(name, bytes) else name).lower() == "baggage":
            line = text(value)
            if line is not None:
                yield line


def _with_members(written: Written, keep: Callable[[str], bool]) -> Written:
    """
    Take those members out of what was written that *keep* does not want.
    """
    if isinstance(written.carrier, Iterator):
        return written
    before = [member for line in _lines(written.carrier) for member in line.split(",")]
    after = [member for member in before if keep(member)]
    if len(after) == len(before):
        return written
    return written._replace(carrier=rebuilt(written.carrier, {"baggage"}, [("baggage", ",".join(after))] if after else []))


#: name -> makes a codec with this bug from the codec
BUGS: Mapping[str, Callable[[CodecLike], CodecLike]] = {
    "case-sensitive": _CaseSensitive,
    "loses-percent": _LosesPercent,
    "one-too-many": _OneTooMany,
    "first-wins": _FirstWins,
    "no-plus": _NoPlus,
    "changes-the-caller": _ChangesTheCaller,
    "raises": _Raises,
    "repeats": _Repeats,
    "needle": _Needle,
}
