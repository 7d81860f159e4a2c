"""
Into and out of carriers: `inject`, `extract`, and an OpenTelemetry propagator that does both for a whole process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar, overload
from urllib.parse import quote_plus, unquote_plus

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.propagators import textmap

from . import config
from .baggage import Codec, Reading, codec, members
from .carrier import pairs, rebuilt, text
from .config import Settings, settings
from .context import cleared, routing_key, with_key
from .key import RoutingKey
from .observe import count, report_malformed

__all__ = ["TenancyPropagator", "current_codec", "extract", "inject", "read"]

CarrierT = TypeVar("CarrierT")

# name -> (decoded value, the member as it came): lets members of others leave as they came, byte for byte.
_RAW = otel.create_key("tenancy-raw-members")


class _Current:
    """
    Stands for "the key of the current context" as a default argument.
    """

    def __repr__(self) -> str:
        return "<the current routing key>"


CURRENT = _Current()


def current_codec() -> Codec:
    """
    Return the codec for the fields of the current settings.
    """
    global _codec_of, _codec
    if _codec_of is not config._current or _codec_of is None:
        current = settings()
        _codec, _codec_of = codec(current.read, current.write), current
    return _codec


_codec_of: Settings | None = None
_codec: Codec


def read(carrier: Any, *, adapter: str) -> Reading:
    """
    Read a carrier and count what is odd about it; a malformed key is left to the caller.

    Args:
        carrier: Headers in any shape.
        adapter: Who asks, for the counters.
    """
    reading = current_codec().read(carrier)
    if reading.conflict:
        count("tenancy.keys.conflicting", {"adapter": adapter})
    return reading


def extract(headers: Any, *, adapter: str = "extract") -> RoutingKey | None:
    """
    Return the routing key that a carrier names, or None; nothing ambient has a say in it.

    Args:
        headers: Headers in any shape: a mapping, a list of pairs, with text or bytes; or None.
        adapter: Who asks, for the counters.

    A malformed key counts as none; it is counted and logged once.
    """
    reading = read(headers, adapter=adapter)
    if reading.malformed is not None:
        report_malformed(adapter, reading.malformed, "the work is treated as the baseline's")
    return reading.key


@overload
def inject(
    headers: dict[str, str] | None = None, *, key: RoutingKey | str | _Current | None = CURRENT, binary: bool | None = None
) -> dict[str, str]: ...
@overload
def inject(headers: CarrierT, *, key: RoutingKey | str | _Current | None = CURRENT, binary: bool | None = None) -> CarrierT: ...
def inject(headers: Any = None, *, key: RoutingKey | str | _Current | None = CURRENT, binary: bool | None = None) -> Any:
    """
    Return a copy of *headers* that carries the routing key exactly once.

    Args:
        headers: Headers in any shape: a mapping, a list or tuple of pairs, with text or bytes; None makes a dictionary. It is not
            changed.
        key: What to write; None removes any key. Default: the current key. Where there is none, a key that *headers* already has
            is kept, brought to one entry, unless the work at hand was said to have none (``scope(None)``, a refused key).
        binary: Whether header values are bytes; default: as those that *headers* has.

    Raises:
        InvalidRoutingKeyError: If *key* is given and is not a routing key.
    """
    using = _codec if _codec_of is config._current is not None else current_codec()
    if key is CURRENT:
        chosen = routing_key()
        if chosen is None and not cleared():
            if isinstance(headers, Iterator):  # it can be gone through only once
                headers = list(headers)
            chosen = extract(headers, adapter="inject")
    else:
        chosen = None if key is None else RoutingKey(key)  # type: ignore[arg-type]
    if chosen is not None and not binary and type(headers) is dict:
        quick = using.write_text(headers, chosen)
        if quick is not None:
            return quick
    written = using.write(headers, chosen, binary=binary)
    if written.dropped:
        count("tenancy.baggage.dropped_members", amount=written.dropped)
    return written.carrier


class TenancyPropagator(textmap.TextMapPropagator):
    """
    An OpenTelemetry propagator that reads and writes baggage, the routing key by this library's rules.

    Use it beside the standard one (``OTEL_PROPAGATORS=tracecontext,baggage,tenancy``) or instead of it (``tracecontext,tenancy``); it
    must come last. What it adds to the standard one: the key always goes first, so that no limit can drop it; all ``baggage`` lines and
    dialects are read; names are found whatever their case; other people's members leave as they came.

    An unknown name in ``OTEL_PROPAGATORS`` stops a process at import, so name it only where this distribution is installed.
    """

    def extract(
        self,
        carrier: textmap.CarrierT,
        context: Context | None = None,
        getter: textmap.Getter[textmap.CarrierT] = textmap.default_getter,
    ) -> Context:
        """
        Return *context* with the carrier's baggage; without a context, from an empty one, never from the current.
        """
        context = Context() if context is None else context
        headers = _headers(carrier, getter)
        current = settings()
        own = {field.name for field in current.read if field.kind == "baggage"}
        raw: dict[str, tuple[str, str]] = {}
        lines = ",".join(value for name, value in headers if name == "baggage")
        for member in members(lines, without=own):
            name, equals, value = member.partition("=")
            name = unquote_plus(name.strip(" \t")).strip()
            if equals and name:
                value = unquote_plus(value.strip(" \t")).strip()
                raw[name] = (value, member.strip(" \t"))
                context = baggage.set_baggage(name, value, context)
        if raw:
            context = otel.set_value(_RAW, raw, context)
        key = extract(headers, adapter="propagator")
        # Also without a key: the standard propagator may have put in what is none.
        stale = any(baggage.get_baggage(name, context) is not None for name in own)
        return with_key(key, context) if key is not None or stale else context

    def inject(
        self,
        carrier: textmap.CarrierT,
        context: Context | None = None,
        setter: textmap.Setter[textmap.CarrierT] = textmap.default_setter,
    ) -> None:
        """
        Write the context's baggage into the carrier, the routing key first.
        """
        own = {field.name for field in settings().read if field.kind == "baggage"}
        raw = otel.get_value(_RAW, context)
        remembered: Mapping[str, tuple[str, str]] = raw if isinstance(raw, dict) else {}
        others = []
        for name, value in baggage.get_all(context).items():
            if name not in own:
                before = remembered.get(name)
                same = before is not None and before[0] == value
                others.append(before[1] if before is not None and same else f"{quote_plus(str(name))}={quote_plus(str(value))}")
        start = {"baggage": ",".join(others)} if others else {}
        written = current_codec().write(start, routing_key(context))
        if written.dropped:
            count("tenancy.baggage.dropped_members", amount=written.dropped)
        for name, header in written.carrier.items():
            _remove(carrier, name)
            setter.set(carrier, name, header)

    @property
    def fields(self) -> set[str]:
        """
        The headers that `inject` writes.
        """
        return {field.name.lower() if field.kind == "header" else field.kind for field in settings().write}


def _headers(carrier: Any, getter: textmap.Getter[Any]) -> list[tuple[str, str]]:
    """
    The headers that matter, found both by the getter, which knows the carrier's shape, and by our own reader, which is not put off by
    case or repetition.
    """
    names = {field.name.lower() if field.kind == "header" else field.kind for field in settings().read}
    found: list[tuple[str, str]] = []
    for name in sorted(names):
        try:
            values = getter.get(carrier, name) or []
        except Exception:  # noqa: BLE001 - a getter that cannot read its carrier must not fail the request
            values = []
        found.extend((name, entry) for entry in map(text, values) if entry is not None)
    missing = names.difference(name for name, _ in found)
    if missing:
        found += [(name.lower(), value) for name, value in pairs(carrier) if isinstance(name, str) and name.lower() in missing]
    return found


def _remove(carrier: Any, name: str) -> None:
    """
    Take a header out of a carrier whose setter appends, so that the key does not stand there twice.
    """
    if isinstance(carrier, list):
        carrier[:] = rebuilt(carrier, {name}, ())
    elif isinstance(carrier, MutableMapping):
        for present in [present for present in carrier if isinstance(present, str) and present.lower() == name]:
            if present in carrier:
                del carrier[present]
