"""
The codec: the one reader and writer of routing keys, for every carrier and dialect.

Pure functions; they report what they met (`Reading`, `Written`) and leave counting and policy to their callers. The rules are those of
W3C Baggage (https://www.w3.org/TR/baggage/#header-content) as OpenTelemetry's own propagator reads them, so that both always see the
same key wherever both accept the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from .carrier import pairs, rebuilt, text
from .config import Field
from .key import GRAMMAR, RESERVED, RoutingKey

__all__ = ["ABSENT", "MAX_BYTES", "MAX_MEMBERS", "Codec", "Reading", "Written", "codec", "members"]

# https://www.w3.org/TR/baggage/#limits asks for at least 64 members and 8192 bytes; OpenTelemetry reads up to 180 members.
MAX_MEMBERS = 180
MAX_BYTES = 8192

_SHORT = MAX_MEMBERS  # characters; what is shorter has fewer members, and bytes, than allowed
_OWS = " \t"
_PASSED, _PASSED_LENGTH = 1024, 64  # names remembered, and characters of each

# A routing key that is followed by nothing or by the next member.
_plain = re.compile(rf"{GRAMMAR}(?![^,])").match


class Reading(NamedTuple):
    """
    What a carrier says.

    Args:
        key: The routing key, or None.
        malformed: The value that stands where the key should be but cannot be one, or None.
        conflict: Whether several places or members named different values.
    """

    key: RoutingKey | None
    malformed: str | None = None
    conflict: bool = False


class Written(NamedTuple):
    """
    A new carrier.

    Args:
        carrier: The carrier, of the shape that was given.
        dropped: How many of other people's baggage members had to go, because the whole would be over the limits.
    """

    carrier: Any
    dropped: int = 0


ABSENT = Reading(None)


_new_text = str.__new__
_new_tuple = tuple.__new__


class Codec:
    """
    Reads the key from the *read* fields, in order, and writes it to the *write* fields.
    """

    def __init__(self, read: tuple[Field, ...], write: tuple[Field, ...]) -> None:
        self._read = read
        self._write = write
        self._baggage = tuple(field.name for field in read if field.kind == "baggage")
        #: What a ``baggage`` header with a key has in it, unless something is encoded; empty: it can be any of several names.
        self.only = self._baggage[0] if len(self._baggage) == 1 else ""
        self._assigned = f"{self.only}="
        self._plain = len(write) == 1 and write[0].kind == "baggage" and bool(self.only)
        self._tracestate = tuple(field.name for field in read if field.kind == "tracestate")
        self._own = {field.name.lower() for field in read if field.kind == "header"}
        shared = {"baggage"} | ({"tracestate"} if self._tracestate else set())
        # Both spellings of each name, so that a byte pair needs no decoding to be passed over; apart, because Python can be told
        # (`python -bb`) to raise where text is compared with bytes, as a set of both does.
        self._wanted = {name: name for name in self._own | shared}
        self._wanted_bytes = {name.encode(): name for name in self._wanted}
        #: Names of headers that are not ours, as they were met: most requests have no others.
        self.passed: set[str] = set()
        self._passed_bytes: set[bytes] = set()
        self._ordinary: set[str] = {"baggage"}

    def read(self, carrier: Any) -> Reading:
        """
        Read the routing key from a carrier; never raises.

        All entries of a repeated header count. Where one field names several values the last one wins; where several fields do, the
        first field in the order of *read*. Either is a conflict.
        """
        if type(carrier) is list or type(carrier) is tuple:  # ASGI, Kafka, gRPC
            if not carrier:
                return ABSENT
            only, line = self.only, None
            ours: Any = []  # what may have to do with a key
            try:
                binary = type(carrier[0][0]) is bytes
                passed: Any = self._passed_bytes if binary else self.passed
                baggage: Any = b"baggage" if binary else "baggage"
                for name, value in carrier:
                    if name in passed:
                        continue
                    if name == baggage:
                        raw = value.decode("latin-1") if type(value) is bytes else value
                        if type(raw) is str:
                            if only not in raw and "%" not in raw:
                                continue
                            line = raw
                    ours.append((name, value))
            except Exception:  # noqa: BLE001 - no pairs, or of all sorts: the careful way deals with it
                ours, line = self.ours(carrier), None
            if not ours:
                return ABSENT
            if line is not None and len(ours) == 1:
                return self.read_baggage(line)
            carrier = ours
        elif type(carrier) is dict:  # AMQP, and clients of HTTP
            try:
                if self.only and self._ordinary.issuperset(carrier):
                    raw = carrier.get("baggage", "")
                    if type(raw) is str:
                        return ABSENT if self.only not in raw and "%" not in raw else self.read_baggage(raw)
            except BytesWarning:  # names that are bytes, under `python -bb`
                pass
        found = self._headers(carrier)
        if not found:
            return ABSENT
        if self.only and len(found) == 1 and "baggage" in found:
            return self.read_baggage(found["baggage"])
        values: list[str] = []
        for field in self._read:
            raw = found.get(field.name.lower() if field.kind == "header" else field.kind)
            if raw is None:
                continue
            if field.kind == "header":
                values.extend(_values([part.strip(_OWS) for part in raw.split(",")]))
            else:
                values.extend(_values(_named(raw, field.name, decode=field.kind == "baggage")))
        return _reading(values)

    def scan(self, headers: Sequence[tuple[str, bytes]]) -> bytes | bool:
        """
        Look for a key among pairs of text and bytes, parsing nothing.

        Args:
            headers: Headers as clients of Kafka have them.

        Returns:
            False: there is none. The key's bytes, not checked, where one member of one ``baggage`` header names it in the plain way. True:
            there may be one, so `read` them.
        """
        passed, only = self.passed, self.only
        found: bytes | bool = False
        try:
            for name, value in headers:
                if name == "baggage":
                    line = value.decode("latin-1")  # to find something in text is several times faster than in bytes
                    if only in line or "%" in line:
                        raw = self.scan_line(line)
                        if raw is True or found:
                            return True
                        found = raw
                elif name not in passed:
                    return True
        except (AttributeError, BytesWarning):  # a header without a value, say; or names that are bytes after all
            return True
        return found

    def scan_line(self, line: str) -> bytes | bool:
        """
        Return what `scan` says of the value of a ``baggage`` header in which there may be a key.
        """
        before, assigned, after = line.partition(self._assigned)
        only = self.only
        if assigned and (not before or before[-1] == ",") and only not in after and only not in before and "%" not in line:
            return after.partition(",")[0].encode("latin-1")
        return True

    def absent(self, headers: Sequence[tuple[str, bytes]]) -> bool:
        """
        Return whether pairs of text and bytes surely name no key.
        """
        return self.scan(headers) is False

    def ours(self, headers: Sequence[Any]) -> Sequence[Any]:
        """
        Return those pairs that may have to do with a key: all but the ones whose name is known to be another's, and none where all that is
        left is a ``baggage`` header that surely names no key, whoever reads it.
        """
        try:
            binary = type(headers[0][0]) is bytes
            passed: Any = self._passed_bytes if binary else self.passed
            found = [pair for pair in headers if pair[0] not in passed]
            if binary and len(found) == 1 and found[0][0] == b"baggage" and type(found[0][1]) is bytes:
                line = found[0][1].decode("latin-1")
                # OpenTelemetry's ASGI instrumentation undoes backslash escapes.
                if self.only not in line and "%" not in line and "\\" not in line:
                    return ()
            return found
        except Exception:  # noqa: BLE001 - whatever that is, the careful way deals with it
            return headers

    def read_baggage(self, raw: str) -> Reading:
        """
        Read the routing key from the raw value of a ``baggage`` header; never raises.
        """
        # By far the commonest header mentions the name once, as `name=value`, and has nothing encoded.
        only = self.only
        if only and "%" not in raw:
            before, found, after = raw.partition(self._assigned)
            if not found:
                if only not in raw:
                    return ABSENT
            elif (not before or before[-1] == ",") and only not in after and only not in before:
                match = _plain(after)
                if match is not None:
                    value = match[0]
                    if value not in RESERVED:
                        # What Reading(RoutingKey(value)) does, in half the time.
                        return _new_tuple(Reading, (_new_text(RoutingKey, value), None, False))
        values: list[str] = []
        for name in self._baggage:
            values.extend(_values(_named(raw, name, decode=True)))
        return _reading(values) if values else ABSENT

    def canonical(self, carrier: Any, key: RoutingKey) -> bool:
        """
        Return whether a carrier names *key* in one place only, in the form that every reader of W3C Baggage understands.

        Where that is hard to tell, because something is encoded, it returns False; to `write` it anew is right in any case.

        Args:
            carrier: Pairs of name and value.
            key: The key that was read from it.
        """
        line: str | None = None
        for name, value in carrier:
            if type(name) is bytes:
                known = None if name in self._passed_bytes else self._wanted_bytes.get(name.lower())
            else:
                known = None if name in self.passed else self._wanted.get(name.lower())
            if known is None:
                continue
            entry = text(value) or ""
            if known != "baggage":
                if known in self._own or any(field in entry for field in self._tracestate):
                    return False
            elif line is not None:  # there are readers that look at one line only
                return False
            else:
                line = entry
        ours = f",{self._assigned}{key},"
        return bool(self.only) and line is not None and line.count(self.only) == 1 and ours in f",{line}," and self._is_plain(line)

    @staticmethod
    def _is_plain(line: str) -> bool:
        """
        Whether a ``baggage`` value has nothing encoded and is within the limits.
        """
        return "%" not in line and line.isascii() and len(line) <= MAX_BYTES and line.count(",") < MAX_MEMBERS

    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written:
        """
        Return a new carrier that says *key* exactly once in each written field, and nowhere else.

        Other people's baggage members keep their bytes and their order, behind ours; only where the limits of W3C Baggage force it,
        whole members go from the end. Without a key, ours are removed and nothing is added.

        Args:
            carrier: Any shape that `tenancy.carrier.pairs` reads; None makes a dictionary.
            key: The key, or None.
            binary: Whether header values are bytes; None: as those that the carrier has.
        """
        if key is not None and type(carrier) is dict and not binary:
            quick = self.write_text(carrier, key)
            if quick is not None:
                return Written(quick)
        if isinstance(carrier, Iterator):  # it can be gone through only once
            carrier = list(carrier)
        found = self._headers(carrier)
        if key and not found and self._plain:
            return Written(rebuilt(carrier, (), [("baggage", self._assigned + key)], binary=binary))
        add: list[tuple[str, str]] = []
        ours = [field.name for field in self._write if field.kind == "baggage"] if key else []
        others = members(found.get("baggage", ""), without=self._baggage)
        entries = [f"{name}={key}" for name in ours] + others
        dropped = 0
        if ours:
            entries, dropped = _within_limits(entries)
        if entries:
            add.append(("baggage", ",".join(entries).strip(_OWS)))  # a header cannot begin or end with white space
        if self._tracestate:
            states = [f"{field.name}={key}" for field in self._write if field.kind == "tracestate"] if key else []
            states += members(found.get("tracestate", ""), without=self._tracestate, decode=False)
            if states:
                add.append(("tracestate", ",".join(states).strip(_OWS)))
        if key:
            add.extend((field.name, str(key)) for field in self._write if field.kind == "header")
        return Written(rebuilt(carrier, found, add, binary=binary), dropped)

    def write_text(self, carrier: dict[Any, Any], key: RoutingKey) -> dict[Any, Any] | None:
        """
        Return what `write` makes of a dictionary of text whose only header of interest is an ordinary ``baggage``, or None for any other.
        """
        if not self._plain:
            return None
        ours, only = self._assigned + key, self.only
        try:
            line = carrier.get("baggage")
            # As OpenTelemetry's propagator has just written it, from the same context.
            if type(line) is str and self._ordinary.issuperset(carrier):
                first, _, others = line.partition(",")
                if first == ours and only not in others and "%" not in others and len(line) < _SHORT and line[-1] > " ":
                    return carrier.copy()
        except BytesWarning:  # names that are bytes, under `python -bb`
            return None
        others = ""
        for name, value in carrier.items():
            if type(name) is not str or type(value) is not str:
                return None
            if name in self.passed:
                continue
            if name.lower() not in self._wanted:
                self._pass(name)
                continue
            if name != "baggage" or "%" in value:
                return None
            others = value
        if others.startswith(self._assigned):
            others = others.partition(",")[2]
        if only in others:
            return None
        line = f"{ours},{others}".strip(_OWS) if others else ours
        if not self._is_plain(line):
            return None
        new = carrier.copy()
        new["baggage"] = line
        return new

    def _pass(self, name: Any) -> None:
        """
        Remember the name of a header that is not ours.
        """
        if type(name) is bytes and len(name) <= _PASSED_LENGTH:
            if len(self._passed_bytes) >= _PASSED:  # somebody invents names; the usual ones are back at once
                self._passed_bytes = set()
            self._passed_bytes.add(name)
        elif type(name) is str and len(name) <= _PASSED_LENGTH:
            if len(self.passed) >= _PASSED:
                self.passed, self._ordinary = set(), {"baggage"}
            self.passed.add(name)
            self._ordinary.add(name)

    def _headers(self, carrier: Any) -> dict[str, str]:
        """
        The headers that can hold a key, each name in lower case, the entries of a repeated one joined.
        """
        found: dict[str, str] = {}
        wanted: Any = self._wanted
        wanted_bytes: Any = self._wanted_bytes
        try:
            for pair in pairs(carrier):
                try:
                    name, value = pair
                    lower = name.lower()
                    known = (wanted_bytes if isinstance(lower, bytes) else wanted).get(lower)
                except (AttributeError, TypeError, ValueError):
                    continue
                if known is not None:
                    entry = text(value)
                    if entry is not None:
                        found[known] = f"{found[known]},{entry}" if known in found else entry
                else:
                    self._pass(name)
        except (TypeError, ValueError):  # not pairs: there are no headers here
            return found
        return found


@lru_cache(maxsize=32)
def codec(read: tuple[Field, ...], write: tuple[Field, ...]) -> Codec:
    """
    Return the codec for these fields; the same object for the same fields.
    """
    return Codec(read, write)


def members(raw: str, *, without: Iterable[str] = (), decode: bool = True) -> list[str]:
    """
    Return the members of a ``baggage`` or ``tracestate`` value as they stand, less the empty ones and those named in *without*.
    """
    names = set(without)
    return [member for member in raw.split(",") if member.strip(_OWS) and _name(member, decode) not in names]


def _name(member: str, decode: bool) -> str:
    name = member.partition("=")[0].strip(_OWS)
    if decode and ("%" in name or "+" in name):
        # OpenTelemetry decodes names after validating them, so an encoded spelling of ours is ours, for good or ill.
        return unquote_plus(name).strip()
    return name


def _named(raw: str, name: str, *, decode: bool) -> list[str]:
    """
    The values of the members called *name*, without properties, percent-decoded.
    """
    if name not in raw and not (decode and ("%" in raw or "+" in raw)):
        return []
    found = []
    for member in raw.split(","):
        if _name(member, decode) != name:
            continue
        _, equals, value = member.partition("=")
        if not equals:
            continue  # not a list-member: OpenTelemetry passes over it as well
        value = value.partition(";")[0].strip(_OWS)
        if "%" in value or "+" in value:
            value = unquote_plus(value).strip()
        found.append(value)
    return found


def _values(found: list[str]) -> list[str]:
    """
    What one field says, the last value first: it is the freshest hop's.
    """
    return found[::-1]


def _reading(values: list[str]) -> Reading:
    if not values:
        return ABSENT
    value = values[0]
    conflict = any(other != value for other in values)
    key = RoutingKey.parse(value)
    return Reading(key, None if key is not None else value, conflict)


def _within_limits(entries: list[str]) -> tuple[list[str], int]:
    kept = entries[:MAX_MEMBERS]
    size = sum(len(entry.encode("utf-8", "surrogatepass")) + 1 for entry in kept) - 1
    while size > MAX_BYTES and len(kept) > 1:
        size -= len(kept.pop().encode("utf-8", "surrogatepass")) + 1
    return kept, len(entries) - len(kept)
