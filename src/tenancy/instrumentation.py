"""
`instrument`: switch on every adapter whose library is installed, without a change to the code that uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

from .config import switched_on
from .errors import ConfigurationError

__all__ = ["auto_instrument", "instrument", "uninstrument"]

# Import strings, so that nothing is loaded before it is wanted: library -> our module with instrument() and uninstrument().
_ADAPTERS: Mapping[str, str] = {
    "fastapi": "tenancy.http.fastapi",
    "requests": "tenancy.http.requests",
    "httpx": "tenancy.http.httpx",
    "grpc": "tenancy.grpc",
    "concurrent.futures": "tenancy.executors",
}

_active: dict[str, str] = {}


def instrument(*libraries: str) -> tuple[str, ...]:
    """
    Make libraries carry the routing key: patch them once, for the whole process.

    Message consumers are not patched: which message is whose is decided where the consumer is decorated.

    Args:
        libraries: Any of ``fastapi``, ``requests``, ``httpx``, ``grpc``, ``concurrent.futures``; default all that are
            installed.

    Returns:
        The libraries that are instrumented now; none where tenancy is switched off.

    Raises:
        ConfigurationError: If a name is unknown.
        IdentityError: If tenancy is switched off in a sandbox.
        MissingDependencyError: If a library that is named is not installed.
    """
    if not switched_on():
        return ()
    for library in libraries:
        if library not in _ADAPTERS:
            raise ConfigurationError(f"{library!r} cannot be instrumented; use any of {', '.join(_ADAPTERS)}")
    for library in libraries or [name for name in _ADAPTERS if _installed(name)]:
        if library not in _active:
            import_module(_ADAPTERS[library]).instrument()
            _active[library] = _ADAPTERS[library]
    return tuple(_active)


def uninstrument() -> None:
    """
    Undo `instrument`: every patched attribute is the original again.
    """
    while _active:
        _, module = _active.popitem()
        import_module(module).uninstrument()


def auto_instrument() -> None:
    """
    What ``opentelemetry-instrument`` calls: `instrument`, which here never raises, since that would stop all other instrumentation.
    """
    try:
        instrument()
    except Exception:  # the host application goes first
        logging.getLogger("tenancy").warning("request-tenancy could not be switched on", exc_info=True)


def _installed(library: str) -> bool:
    try:
        found = find_spec(library)
        return found is not None and found.origin is not None  # a folder that happens to have the name has no origin
    except (ImportError, ValueError):
        return False
