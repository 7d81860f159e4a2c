"""
`instrument`: switch on every adapter whose library is installed, without a change to the code that uses it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .config import switched_on
from .errors import ConfigurationError

__all__ = ["auto_instrument", "instrument", "uninstrument"]

# Import strings, so that nothing is loaded before it is wanted: library -> our module with instrument() and uninstrument().
_ADAPTERS: Mapping[str, str] = {
    "fastapi": "tenancy.http.fastapi",
    "flask": "tenancy.http.flask",
    "django": "tenancy.http.django",
    "requests": "tenancy.http.requests",
    "httpx": "tenancy.http.httpx",
    "aiohttp": "tenancy.http.aiohttp_client",
    "aiohttp.web": "tenancy.http.aiohttp_server",
    "urllib3": "tenancy.http.urllib3",
    "urllib": "tenancy.http.urllib",
    "grpc": "tenancy.grpc",
    "concurrent.futures": "tenancy.executors",
}

_active: dict[str, str] = {}
_told: set[str] = set()

_FOREIGN = (
    "tenancy/__init__.py is another distribution's, so that neither tenancy.instrument() nor anything else of request-tenancy can be "
    "imported from it; run: pip uninstall tenancy && pip install --force-reinstall --no-deps request-tenancy"
)


def instrument(*libraries: str) -> tuple[str, ...]:
    """
    Make libraries carry the routing key: patch them once, for the whole process.

    Message consumers are not patched: which message is whose is decided where the consumer is decorated. A library that is not named
    and cannot be imported is left out with a warning, since the program may do without it.

    Args:
        libraries: Any of ``fastapi``, ``flask``, ``django``, ``requests``, ``httpx``, ``aiohttp`` (its client),
            ``aiohttp.web`` (its server), ``urllib3``, ``urllib``, ``grpc``, ``concurrent.futures``; default all that are installed.

    Returns:
        The libraries that are instrumented now; none where tenancy is switched off.

    Raises:
        ConfigurationError: If a name is unknown, or if a file of that name stands in the place of the library.
        IdentityError: If tenancy is switched off in a sandbox.
        MissingDependencyError: If a library that is named is not installed.
    """
    if not switched_on():
        return ()
    if not hasattr(sys.modules[__package__], "instrument"):
        _tell(__package__, _FOREIGN)
    for library in libraries:
        if library not in _ADAPTERS:
            raise ConfigurationError(f"{library!r} cannot be instrumented; use any of {', '.join(_ADAPTERS)}")
        namesake = _namesake(library)
        if namesake is not None:
            raise ConfigurationError(
                f"{library!r} cannot be instrumented: {namesake} stands in its place; give that file another name"
            )
    for library in libraries or _ADAPTERS:
        if library not in _active:
            adapter = import_module(_ADAPTERS[library]) if libraries else _adapter(library)
            if adapter is not None:
                adapter.instrument()
                _active[library] = _ADAPTERS[library]
    return tuple(_active)


def uninstrument(*libraries: str) -> None:
    """
    Undo `instrument`: every patched attribute is the original again.

    Args:
        libraries: Names as for `instrument`; default all.

    Raises:
        ConfigurationError: If a name is unknown.
    """
    for library in libraries:
        if library not in _ADAPTERS:
            raise ConfigurationError(f"{library!r} cannot be instrumented; use any of {', '.join(_ADAPTERS)}")
    for library in libraries or tuple(reversed(_active)):
        module = _active.pop(library, None)
        if module is not None:
            import_module(module).uninstrument()


def auto_instrument() -> None:
    """
    What ``opentelemetry-instrument`` calls: `instrument`, which here never raises, since that would stop all other instrumentation.
    """
    try:
        instrument()
    except Exception:  # the host application goes first
        logging.getLogger("tenancy").warning("request-tenancy could not be switched on", exc_info=True)


def _adapter(library: str) -> Any:
    """
    The adapter of a library that is installed and can be imported, or None.
    """
    namesake = _namesake(library)
    if namesake is not None:
        _tell(library, f"{library} is not instrumented: {namesake} stands in its place; give that file another name")
    elif _installed(library):
        try:
            return import_module(_ADAPTERS[library])
        except Exception as error:  # noqa: BLE001 - whatever is the matter with it, the program may do without
            _tell(library, f"{library} is not instrumented, because it cannot be imported: {error!r}")
    return None


def _installed(library: str) -> bool:
    found = _found(library)
    return found is not None and found.origin is not None  # a folder that happens to have the name has no origin


def _namesake(library: str) -> str | None:
    """
    The file that is imported by the name of a library and cannot be it, since every library here is a package.
    """
    found = _found(library)
    return found.origin or found.name if found is not None and found.submodule_search_locations is None else None


def _found(library: str) -> Any:
    """
    Where a library is, found without running any of its code.
    """
    try:
        return find_spec(library.partition(".")[0])
    except (ImportError, ValueError):
        return None


def _tell(about: str, message: str) -> None:
    if about not in _told:
        _told.add(about)
        logging.getLogger("tenancy").warning("%s", message)
