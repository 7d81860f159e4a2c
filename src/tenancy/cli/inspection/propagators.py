"""
OpenTelemetry's propagators: what ``OTEL_PROPAGATORS`` says, what is really set, and what their order loses.
"""

from __future__ import annotations

import difflib
import os
from importlib import import_module
from typing import Any

from .distributions import Installed
from .report import Finding, Propagators

__all__ = ["inspect_propagators"]

_VARIABLE = "OTEL_PROPAGATORS"
_DEFAULT = ("tracecontext", "baggage")
_RIGHT = "export OTEL_PROPAGATORS=tracecontext,baggage"
_NAMES = {
    "opentelemetry.trace.propagation.tracecontext.TraceContextTextMapPropagator": "tracecontext",
    "opentelemetry.baggage.propagation.W3CBaggagePropagator": "baggage",
    "tenancy.propagator.TenancyPropagator": "tenancy",
}


def inspect_propagators(installed: Installed) -> tuple[Propagators, list[Finding]]:
    """
    Compare what is configured with what is set, and judge both.

    Args:
        installed: The installed distributions.
    """
    text = os.environ.get(_VARIABLE, "")
    configured = tuple(name.strip() for name in text.split(",")) if text else _DEFAULT
    origin = _VARIABLE if text else "default"
    unknown = _unknown(configured, installed)
    if unknown:
        # Not asked for: the import would fail, as it does in the service.
        return Propagators(configured, origin, None), [_unknown_name(name, installed) for name in unknown]
    try:
        active = _active(import_module("opentelemetry.propagate").get_global_textmap())
    except Exception as error:  # noqa: BLE001 - a propagator of somebody else may fail in any way; the service fails with it
        finding = Finding(
            "error",
            "propagators-broken",
            f"{_VARIABLE}={text}" if text else _VARIABLE,
            f"`import opentelemetry.propagate` fails with {type(error).__name__}: {error}; so does every program that uses OpenTelemetry "
            "here",
            f"{_RIGHT}, or install what the propagator needs",
        )
        return Propagators(configured, origin, None), [finding]
    return Propagators(configured, origin, active), _judge(configured, origin, active, installed)


def _unknown(configured: tuple[str, ...], installed: Installed) -> list[str]:
    known = {entry.name for entry, _ in installed.entry_points("opentelemetry_propagator")}
    unknown = []
    for name in configured:
        if name.lower() == "none":  # OpenTelemetry looks no further
            break
        if name not in known:
            unknown.append(name)
    return unknown


def _unknown_name(name: str, installed: Installed) -> Finding:
    known = sorted({entry.name for entry, _ in installed.entry_points("opentelemetry_propagator")})
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return Finding(
        "error",
        "propagator-unknown",
        f"{_VARIABLE} ({name!r})",
        "no installed distribution has a propagator of this name, and `import opentelemetry.propagate` raises ValueError for it: "
        "opentelemetry-instrument and every program that uses OpenTelemetry stop at start",
        f"write {close[0]!r}" if close else f"remove it, or install what brings it; there are {', '.join(known) or 'none'}",
    )


def _judge(configured: tuple[str, ...], origin: str, active: tuple[str, ...], installed: Installed) -> list[Finding]:
    findings = []
    about = _VARIABLE if origin == _VARIABLE else "propagators"
    expected = () if "none" in map(str.lower, configured) else configured
    in_code = active != expected
    where = f"{about} ({', '.join(active) or 'none'}{', set in code' if in_code else ''})"
    fix = "set_global_textmap: tracecontext, then baggage" if in_code else _RIGHT
    relied_on = any(True for _ in installed.entry_points("opentelemetry_instrumentor"))
    carries = "baggage" in active or "tenancy" in active
    if not carries:
        findings.append(
            Finding(
                "warning" if relied_on else "note",
                "propagators-without-baggage",
                where,
                "without baggage OpenTelemetry's instrumentations neither send nor take in the routing key; only libraries that tenancy "
                "itself covers carry it",
                fix,
            )
        )
    # With `tenancy` in it the key does not leak: it clears what is not in the carrier.
    if "baggage" in active and "tenancy" not in active and "tracecontext" not in active[: active.index("baggage")]:
        findings.append(
            Finding(
                "warning",
                "propagators-order",
                where,
                "tracecontext does not come before baggage: for a request or message without a key, extraction then starts from what is "
                "current, so the key of earlier work can pass to it",
                fix,
            )
        )
    if "tenancy" in active and active[-1] != "tenancy":
        findings.append(
            Finding(
                "warning",
                "propagators-order",
                where,
                f"{active[-1]} comes after tenancy, which must be the last: what it writes replaces what tenancy wrote, and where a header "
                "is over its limits the key may be dropped",
                "export OTEL_PROPAGATORS=tracecontext,baggage,tenancy",
            )
        )
    return findings


def _active(propagator: Any) -> tuple[str, ...]:
    """
    The names of what is set, in order; a class that has no well-known name by its path.
    """
    parts = getattr(propagator, "_propagators", None)
    if isinstance(parts, (list, tuple)):
        return tuple(name for part in parts for name in _active(part))
    path = f"{type(propagator).__module__}.{type(propagator).__qualname__}"
    return (_NAMES.get(path, path),)
