"""
What a response says about the routing key of its request: who may keep it, and who served it. Pure; headers are lists of byte pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..config import settings
from ..errors import IdentityError
from ..key import RoutingKey
from ..routes.identity import resolve_identity

__all__ = ["HeaderPairs", "private", "served_by"]

HeaderPairs = list[tuple[bytes, bytes]]

# A directive may have a quoted value, in which commas do not separate (RFC 9111, section 5.2).
_DIRECTIVE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_PUBLIC = {"public", "s-maxage", "private"}
# Caches that know these put them before Cache-Control (RFC 9213, section 2.2; Surrogate-Control is their predecessor).
_TARGETED = {b"cdn-cache-control", b"surrogate-control"}
_SPECIAL = {b"cache-control", b"vary", *_TARGETED}
_UNSAFE = re.compile(r"[^\x20-\x7e]")
_MAX_REASON = 200


def private(headers: Iterable[tuple[bytes, bytes]], vary_by: tuple[str, ...] = ("baggage",)) -> HeaderPairs:
    """
    Return *headers* so that no shared cache keeps the response, and a private one only for requests with the same key.

    ``Cache-Control`` becomes ``private``, without ``public`` and ``s-maxage`` and with all else that it said; ``no-store`` and ``private``
    stay as they are (RFC 9111, section 5.2.2). ``Vary`` gets ``baggage``, unless it has it or is ``*`` (RFC 9110, section 12.5.5).

    Args:
        headers: The response's headers.
        vary_by: The request headers, in lower case, that can bring a key.
    """
    headers = list(headers)
    if _SPECIAL.isdisjoint([name.lower() for name, _ in headers]):
        return [*headers, (b"cache-control", b"private"), (b"vary", ", ".join(vary_by).encode("latin-1"))]
    kept: HeaderPairs = []
    control: list[str] = []
    vary: list[str] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"cache-control":
            control.append(value.decode("latin-1"))
        elif lowered == b"vary":
            vary.append(value.decode("latin-1"))
        elif lowered not in _TARGETED:
            kept.append((name, value))
    kept.extend((b"cache-control", line.encode("latin-1")) for line in _cache_control(control))
    kept.extend((b"vary", line.encode("latin-1")) for line in _vary(vary, vary_by))
    return kept


def _cache_control(lines: list[str]) -> list[str]:
    directives = [found.strip() for line in lines for found in _DIRECTIVE.findall(line) if found.strip()]
    bare = {directive.lower() for directive in directives}
    if "private" in bare or "no-store" in bare:
        return lines
    # `private="name"` is about one header only, so it goes as well.
    return [", ".join(["private", *(one for one in directives if one.partition("=")[0].strip().lower() not in _PUBLIC)])]


def _vary(lines: list[str], vary_by: tuple[str, ...]) -> list[str]:
    names = [name.strip() for line in lines for name in line.split(",") if name.strip()]
    known = {name.lower() for name in names}
    missing = [name for name in vary_by if name not in known]
    if "*" in names or not missing:
        return lines
    return [", ".join([*names, *missing])]


def served_by(key: RoutingKey | None, reason: str) -> bytes:
    """
    Return the value of the header that tells a caller who served and why, such as
    ``shop/storefront; baseline; routing_key=pr-42; reason="pr-42 does not fork shop/storefront, so it is the baseline's"``.

    Args:
        key: The key of the request.
        reason: Why it was served here, in words; what is not printable ASCII is replaced.
    """
    try:
        workload, sandbox = resolve_identity()
        who = [workload, "baseline" if sandbox is None else f"sandbox={sandbox}"]
    except IdentityError:
        who = [settings().workload or "unknown"]
    if key is not None:
        who.append(f"routing_key={key}")
    quoted = reason[:_MAX_REASON].replace("\\", "/").replace('"', "'")
    return _UNSAFE.sub("?", "; ".join([*who, f'reason="{quoted}"'])).encode("ascii")
