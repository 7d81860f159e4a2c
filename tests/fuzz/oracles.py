"""
What must hold for every case: the codec against a slow and simple statement of its rules, and against the standard propagator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

import tenancy
from tenancy.baggage import Codec, Reading, Written, members
from tenancy.config import Field
from tenancy.key import RoutingKey

from .cases import FIELDS, Case, Multi

__all__ = ["CodecLike", "check", "codecs"]

_STANDARD = W3CBaggagePropagator()
_OWS = " \t"
_LONG = 500
_MOST_MEMBERS, _MOST_BYTES = 180, 8192  # what the standard propagator reads

Headers = list[tuple[str, str]]


class Says(NamedTuple):
    """
    What a carrier says, by the rules.
    """

    key: RoutingKey | None
    malformed: str | None = None
    conflict: bool = False


class CodecLike(Protocol):
    """
    The codec, or one with a bug that was put in to be found.
    """

    def read(self, carrier: Any) -> Reading: ...
    def read_baggage(self, raw: str) -> Reading: ...
    def write(self, carrier: Any, key: RoutingKey | None, *, binary: bool | None = None) -> Written: ...


def codecs() -> dict[str, CodecLike]:
    """
    Return the codec for each letter of `FIELDS`.
    """
    return {letter: Codec(read, write) for letter, (read, write) in FIELDS.items()}


def check(case: Case, codec: CodecLike) -> None:
    """
    Check everything that can be said of a case.

    Args:
        case: The case.
        codec: A codec for its fields.

    Raises:
        AssertionError: If something does not hold.
        Exception: If the codec raises.
    """
    read, write = FIELDS[case.fields]
    if case.shape == "j":
        codec.read(case.carrier())
        return
    before = _pairs(case.carrier())
    headers = _headers(before)
    _writes(case, codec, before, headers, read, write)
    size = sum(len(value) for _, value in headers)
    if size > _LONG and size % 8:  # long headers take most of the time, and tell the least
        return
    reading, expected = codec.read(case.carrier()), _expected(headers, read)
    assert _said(reading) == expected, f"reads {reading}, not {expected}"
    raw = _joined(headers, "baggage")
    if raw is not None:
        _reads_alike(codec, raw, read)
        _agrees_with_the_standard(codec.read_baggage(raw), raw, read)
    if reading.key is not None and case.shape in "lptq" and isinstance(codec, Codec) and codec.canonical(before, reading.key):
        _is_canonical(headers, reading.key, read)
    if case.fields == "s":
        assert tenancy.extract(case.carrier()) == reading.key, "extract disagrees with the codec"
        injected = tenancy.inject(case.carrier(), key=case.key, binary=case.binary)
        assert _pairs(injected) == _pairs(codec.write(case.carrier(), case.key, binary=case.binary).carrier), "inject disagrees"


def _reads_alike(codec: CodecLike, raw: str, read: tuple[Field, ...]) -> None:
    """
    The quick ways and the slow ones, text and bytes, one line and several: one and the same reading.
    """
    expected = _expected([("baggage", raw)], tuple(field for field in read if field.kind == "baggage"))
    assert _said(codec.read_baggage(raw)) == expected, f"read_baggage says {codec.read_baggage(raw)}, not {expected}"
    carriers: list[Any] = [{"Baggage": raw}, (("baggage", raw),), [("BAGGAGE", raw.split(","))], Multi([("baggage", raw)])]
    if raw.isascii():
        carriers.append([(b"baggage", part.encode()) for part in raw.split(",")])
    chosen = carriers[len(raw) % len(carriers)]
    assert _said(codec.read(chosen)) == expected, f"{chosen} reads {codec.read(chosen)}, not {expected}"


def _is_canonical(headers: Headers, key: RoutingKey, read: tuple[Field, ...]) -> None:
    """
    One line of baggage names the key once, the standard propagator reads it, and nothing else has to do with keys.
    """
    field = next(field for field in read if field.kind == "baggage")
    (line,) = [value for name, value in headers if name == "baggage"]
    assert line.count(field.name) == 1
    assert _standard(line, field.name) == key, "called canonical, but the standard reads something else"
    assert all(name != other.name.lower() for name, _ in headers for other in read if other.kind == "header")
    states = [other.name for other in read if other.kind == "tracestate"]
    assert not any(state in value for name, value in headers for state in states if name == "tracestate")


def _agrees_with_the_standard(reading: Reading, raw: str, read: tuple[Field, ...]) -> None:
    names = [field.name for field in read if field.kind == "baggage"]
    if len(names) > 1:
        return
    theirs = _standard(raw, names[0])
    if theirs is None:
        return
    assert reading.key is not None or reading.malformed is not None, f"the standard sees {theirs!r}, the codec nothing"
    ours = [member for member in raw.split(",") if _name(member) == names[0] and "=" in member]
    accepted = [value for value in (_standard(member, names[0]) for member in ours) if value is not None]
    # The standard skips what is no list-member by its own grammar, such as a value with a blank; we know such a member as malformed.
    if len(accepted) == len(ours) and len(raw) <= _MOST_BYTES and raw.count(",") < _MOST_MEMBERS:
        assert theirs == accepted[-1]
        valid = RoutingKey.parse(_without_properties(theirs))
        assert reading.key == valid or "%3b" in ours[-1].lower(), f"the standard sees {theirs!r}, the codec {reading}"
    if reading.key is not None and not reading.conflict:
        assert reading.key == _without_properties(theirs), f"the standard sees {theirs!r}, the codec {reading}"


def _writes(
    case: Case, codec: CodecLike, before: list[tuple[Any, Any]], headers: Headers, read: tuple[Field, ...], write: tuple[Field, ...]
) -> None:
    carrier = case.carrier()
    written = codec.write(carrier, case.key, binary=case.binary)
    if case.shape != "g":  # a generator can be gone through only once
        assert written.carrier is not carrier or carrier == ()
        assert _pairs(carrier) == before, "the caller's carrier has changed"
        assert type(written.carrier) is type(carrier) or carrier is None, f"a {type(written.carrier).__name__} came back"
    after = _pairs(written.carrier)
    assert _headers(_pairs(case.carrier())) == headers
    new = _headers(after)
    names = [field.name for field in read if field.kind == "baggage"]
    limited, dropped = _others(_joined(headers, "baggage"), names), 0
    ours = [f"{field.name}={case.key}" for field in write if field.kind == "baggage"] if case.key else []
    if ours:
        limited, dropped = _within_limits(ours + limited)
    assert written.dropped == dropped, f"{written.dropped} members were dropped, not {dropped}"
    _holds(new, "baggage", limited, case)
    states = [field.name for field in read if field.kind == "tracestate"]
    if states:
        kept = _others(_joined(headers, "tracestate"), states, decode=False)
        if case.key:
            kept = [f"{field.name}={case.key}" for field in write if field.kind == "tracestate"] + kept
        _holds(new, "tracestate", kept, case)
    own = {field.name.lower() for field in read if field.kind == "header"}
    written_headers = {field.name.lower() for field in write if field.kind == "header"}
    for name in own:
        _holds(new, name, [str(case.key)] if case.key and name in written_headers else [], case)
    # What is not ours to touch: equal, and in the same order.
    touched = {*own, "baggage"} | ({"tracestate"} if states else set())
    assert [pair for pair in after if _lower(pair[0]) not in touched] == [
        pair for pair in before if _lower(pair[0]) not in touched
    ], "another header has changed"
    again = codec.read(written.carrier if case.shape != "g" else list(after))
    assert _said(again) == Says(case.key), f"what was written for {case.key!r} reads {again}"
    line = ",".join(limited)
    if len(limited) <= 32 and line.isascii():
        theirs = _standard(line, names[0])
        assert theirs == case.key, f"of what was written for {case.key!r} the standard reads {theirs!r}"
    if case.shape == "d":  # dictionaries of text have a short way of their own
        long = codec.write(list(before), case.key, binary=case.binary)
        _holds(_headers(long.carrier), "baggage", limited, case)
        assert long.dropped == dropped


def _holds(new: Headers, name: str, expected: list[str], case: Case) -> None:
    """
    The new carrier has one header with just these members, in this order, or none where there are no members.
    """
    found = [value for known, value in new if known == name]
    assert len(found) == (1 if expected else 0), f"{name} is {found}, not of {expected}"
    if not expected:
        return
    assert found[0] == found[0].strip(_OWS), f"{name} is {found}; no header may begin or end with white space"
    whole = ",".join(expected).strip(_OWS)
    if case.binary or (case.binary is None and case.shape in "efpq"):
        whole = _encoded(whole)
    # A blank between two commas is no member; the quick way leaves it where it is.
    kept = ",".join(member for member in found[0].split(",") if member.strip(_OWS))
    assert kept.strip(_OWS) == whole, f"{name} is {found}, not of {expected}"


def _encoded(value: str) -> str:
    """
    What text becomes in a carrier of bytes, read as Latin-1 again.
    """
    for encoding, errors in (("latin-1", "strict"), ("utf-8", "surrogateescape"), ("utf-8", "surrogatepass")):
        try:
            return value.encode(encoding, errors).decode("latin-1")
        except UnicodeEncodeError:
            pass
    raise AssertionError("every text can be encoded")


# ---------------------------------------------------------------------------------------------------------------------------------------
# The rules of the codec once more, slow and simple, from the guarantees and W3C Baggage


class _Member(NamedTuple):
    name: str
    value: str | None


def _pairs(carrier: Any) -> list[tuple[Any, Any]]:
    if carrier is None:
        return []
    if isinstance(carrier, Multi):
        return carrier.multi_items()
    return list(carrier.items()) if isinstance(carrier, Mapping) else list(carrier)


def _lower(name: str | bytes) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else name).lower()


def _headers(pairs: list[tuple[Any, Any]]) -> Headers:
    """
    All pairs whose value is text, the lines of a list as one.
    """
    headers = []
    for name, value in pairs:
        if isinstance(value, Mapping):
            value = value.get("StringValue", value.get("stringValue"))
        if isinstance(value, list):
            value = ",".join(line for line in value if isinstance(line, str))
        if isinstance(value, (str, bytes)):
            headers.append((_lower(name), value.decode("latin-1") if isinstance(value, bytes) else value))
    return headers


def _joined(headers: Headers, name: str) -> str | None:
    lines = [value for known, value in headers if known == name]
    return ",".join(lines) if lines else None


@lru_cache(maxsize=10_000)
def _name(member: str, decode: bool = True) -> str:
    name = member.split("=")[0].strip(_OWS)
    return unquote_plus(name).strip() if decode and ("%" in name or "+" in name) else name


def _values(raw: str, name: str, decode: bool) -> list[str]:
    found = []
    for member in raw.split(","):
        if _name(member, decode) == name and "=" in member:
            value = member.split("=", 1)[1].split(";")[0].strip(_OWS)
            found.append(unquote_plus(value).strip() if "%" in value or "+" in value else value)
    return found


def _said(reading: Reading) -> Says:
    return Says(reading.key, reading.malformed, reading.conflict)


def _expected(headers: Headers, read: Iterable[Field]) -> Says:
    """
    The reading by the rules: fields in their order, and of one field the last value first.
    """
    values: list[str] = []
    for field in read:
        raw = _joined(headers, field.name.lower() if field.kind == "header" else field.kind)
        if raw is None:
            continue
        parts = [part.strip(_OWS) for part in raw.split(",")]
        values += reversed(parts if field.kind == "header" else _values(raw, field.name, field.kind == "baggage"))
    if not values:
        return Says(None)
    key = RoutingKey.parse(values[0])
    return Says(key, values[0] if key is None else None, len(set(values)) > 1)


def _others(raw: str | None, names: list[str], decode: bool = True) -> list[str]:
    others = [member for member in (raw or "").split(",") if member.strip(_OWS) and _name(member, decode) not in names]
    if len(others) < 50:
        assert members(raw or "", without=names, decode=decode) == others
    return others


def _within_limits(entries: list[str]) -> tuple[list[str], int]:
    """
    As many whole entries, from the first, as W3C Baggage allows.
    """
    sizes = accumulate(len(entry.encode("utf-8", "surrogatepass")) + 1 for entry in entries[:_MOST_MEMBERS])
    kept = sum(size - 1 <= _MOST_BYTES for size in sizes)
    return entries[:kept], len(entries) - kept


def _without_properties(value: str) -> str:
    return value.split(";")[0].strip()


def _standard(raw: str, name: str) -> str | None:
    """
    What OpenTelemetry's own propagator reads, or None where it takes nothing from the header.
    """
    try:
        value = baggage.get_baggage(name, _STANDARD.extract({"baggage": raw}, Context()))
    except UnicodeEncodeError:  # a lone surrogate; it cannot measure the header
        return None
    return None if value is None else str(value)
