"""
One outbound hop: what it says, what it should say, and the difference in words.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from opentelemetry import context as otel

from ..config import settings
from ..context import cleared, routing_key
from ..egress import current_egress
from ..key import RoutingKey
from ..propagator import current_codec
from ._taps import Sighting
from .carriers import header_lines

__all__ = ["Hop", "described", "hop_of"]


@dataclass(frozen=True)
class Hop:
    """
    One outbound request, call or message, as its client was about to send it.

    Args:
        client: The innermost client that can be told: ``urllib3`` (which requests ends in, too), ``http.client`` (urllib, and whatever
            else ends in it), ``httpcore`` (httpx), ``httpcore2`` (httpx2), ``aiohttp``, ``grpc``, ``grpc.aio``, ``aiormq`` (aio-pika),
            or ``producer`` for one that was wrapped.
        action: What is asked for, such as ``GET http://orders:80/stock``.
        destination: The host, without a port; for a message its exchange or topic.
        headers: All headers as text, names in lower case.
        key: The routing key that it carries.
        current: The key of the work that sends it, as its context says.
        expected: The key that it should carry: *current*, else that of the recorder, else that of the work which has started its thread and
            waited for it, unless the work was said to have none.
        trusted: Whether the destination may be told a key.
        cleared: Whether the work was said to have no key.
        malformed: What stands in it where a key should be and cannot be one.
        conflicting: Whether it names several different keys.
        telemetry: Whether OpenTelemetry sends it about this process, as an exporter does; it is nobody's work.
        place: Where in the code under test it was sent, where that can be told.
    """

    client: str
    action: str
    destination: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    key: RoutingKey | None
    current: RoutingKey | None
    expected: RoutingKey | None
    trusted: bool
    cleared: bool = False
    malformed: str | None = None
    conflicting: bool = False
    telemetry: bool = False
    place: str | None = None

    @property
    def leaks(self) -> bool:
        """
        Whether it tells a key to a host that is not trusted.
        """
        return not self.trusted and (self.key is not None or self.malformed is not None)

    @property
    def lost(self) -> bool:
        """
        Whether the context in which it was sent has lost the key of its work.
        """
        return self.current is None and self.expected is not None

    @property
    def problem(self) -> str | None:
        """
        What is wrong with it, in words; None where it says what it should.
        """
        carried = self._carried
        if not self.trusted:
            return f"carries {carried}, to a host that is not trusted" if self.leaks else None
        if self.conflicting:
            return f"carries several routing keys, of which {carried} is read"
        if self.telemetry or self.key == self.expected:
            return None
        if self.expected is None:
            return f"carries {carried}, and the work was said to have none" if self.cleared else None
        work = f"the work is {self.expected}'s"
        if self.lost:
            work += ". The context in which it was sent says nothing: a thread, a pool or a callback has lost it"
        return f"carries {carried}, and {work}"

    @property
    def summary(self) -> str:
        """
        What it is, and what it carries.
        """
        return f"{self}: carries {self._carried}" if self.problem is None else f"{self}: {self.problem}"

    def matches(self, destination: str) -> bool:
        """
        Return whether it goes to a destination.

        Args:
            destination: A host without a port, an exchange or a topic; or a pattern such as ``*.shop.svc``.
        """
        return fnmatchcase(self.destination.lower(), destination.lower())

    def __str__(self) -> str:
        return f"{self.action}, by {self.client}"

    @property
    def _carried(self) -> str:
        if self.key is None and self.malformed is not None:
            return f"{self.malformed[:64]!r}, which is no routing key"
        return self.key or "no routing key"


def hop_of(sighting: Sighting) -> Hop:
    """
    Return what a client was about to send, with what is current where it does.
    """
    reading = current_codec().read(sighting.headers)
    current, egress = routing_key(), current_egress()
    return Hop(
        client=sighting.client,
        action=sighting.action,
        destination=sighting.destination,
        headers=tuple(header_lines(sighting.headers)),
        key=reading.key,
        current=current,
        expected=current,
        trusted=sighting.hosts is not None and all(map(egress.allows, sighting.hosts)),
        cleared=cleared(),
        malformed=reading.malformed,
        conflicting=reading.conflict,
        telemetry=_SUPPRESSED is not None and bool(otel.get_value(_SUPPRESSED)),
        place=_place(),
    )


def described(wrong: Sequence[Hop], total: int) -> str:
    """
    Return what is wrong with some hops, of *total*, and what to do.
    """
    one = len(wrong) == 1
    lines = [f"{len(wrong)} of {total} outbound hops {'does' if one else 'do'} not carry what {'it' if one else 'they'} should:"]
    for hop in wrong:
        lines += [f"  {hop}", f"    {hop.problem}", f"    its headers: {_headers(hop)}"]
        if hop.place is not None:
            lines.append(f"    sent at {hop.place}")
    if any(hop.trusted for hop in wrong):
        shown = next(hop.destination for hop in wrong if hop.trusted)
        lines.append(
            "A hop carries the key if its client does: tenancy.instrument(), a transport, adapter or interceptor of tenancy, or "
            f"headers=tenancy.inject(headers). Where none is needed, ignore the destination: ignore({shown!r})."
        )
    if any(hop.lost for hop in wrong):
        lines.append(
            "A thread of its own takes the key along as Thread(target=tenancy.scope(tenancy.routing_key())(work)), and a pool by "
            "tenancy.instrument()."
        )
    if any(hop.leaks for hop in wrong):
        lines.append("A host that may be told a key is named in trusted_hosts (TENANCY_TRUSTED_HOSTS).")
    return "\n".join(lines)


def _headers(hop: Hop) -> str:
    """
    The values of the headers that can hold a key, and no more than the names of all others, whose values may be secret.
    """
    ours = {field.name.lower() if field.kind == "header" else field.kind for field in settings().read}
    shown = [f"{name}: {value[:200]}" if name in ours else name for name, value in hop.headers]
    return ", ".join(sorted(shown, key=lambda text: ":" not in text)) or "none"


# Set by OpenTelemetry's own exporters while they send.
_SUPPRESSED: str | None = getattr(otel, "_SUPPRESS_INSTRUMENTATION_KEY", None)

_LIBRARIES = tuple(
    {
        os.path.join(path, "")
        for name, path in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {os.path.join(str(Path(__file__).parents[1]), "")}
)


def _place() -> str | None:
    """
    The innermost line that is of no library.
    """
    frame = sys._getframe(1)
    while True:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARIES) and not name.startswith("<"):
            return f"{_relative(name)}:{frame.f_lineno}, in {frame.f_code.co_name}"
        if frame.f_back is None:
            return None
        frame = frame.f_back


def _relative(path: str) -> str:
    try:
        shorter = os.path.relpath(path)
    except (OSError, ValueError):  # there is no current directory, or it is on another drive
        return path
    return path if shorter.startswith("..") else shorter
