"""
The application of the service: imported, so that what it switches on is seen, and looked at from outside.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from .package import working_folder
from .patching import source_of
from .report import Application, Finding

__all__ = ["import_application", "inspect_application", "parse_reference", "place_of"]

_MAX_DEPTH, _MAX_LISTED = 32, 100


def parse_reference(reference: str) -> tuple[str, str, bool]:
    """
    Take ``module:attribute`` or ``module:factory()`` apart.

    Returns:
        The module, the attribute, and whether it is to be called.

    Raises:
        ValueError: If it is neither.
    """
    module, colon, attribute = reference.partition(":")
    call = attribute.endswith("()")
    attribute = attribute.removesuffix("()")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ValueError(
            f"{reference!r} names no application; write module:attribute, such as shop.main:app, or shop.main:create_app()"
        )
    return module, attribute, call


def import_application(modules: tuple[str, ...], reference: str | None) -> tuple[Any, list[Finding]]:
    """
    Import modules, and get the application out of one; what they raise is a finding.

    The working folder goes first in the import path, as it does for uvicorn, gunicorn and ``python -m``.

    Args:
        modules: Modules to import.
        reference: ``module:attribute`` or ``module:factory()``; imported after them.

    Returns:
        The application, or None.
    """
    folder = working_folder()
    if (modules or reference) and folder is not None and str(folder) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(folder))
    application: Any = None
    findings: list[Finding] = []
    for name in modules:
        findings += _guarded(name, lambda name=name: import_module(name))
    if reference is not None:
        module, attribute, call = parse_reference(reference)

        def load() -> None:
            nonlocal application
            found: Any = import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            application = found() if call else found

        findings += _guarded(reference, load)
    return application, findings


def inspect_application(name: str, application: Any) -> Application:
    """
    Look at an application's class, at what is wrapped around it, and at its middleware.

    Args:
        name: How it was named.
        application: The application.
    """
    core = application
    ours: list[str] = []
    instrumented = False
    for part in _chain(application):
        sources = [_source(part), *map(_source, _middleware(part))]
        ours += [source for source in sources if source.startswith("tenancy.")]
        instrumented |= any(source.startswith("opentelemetry.") for source in sources)
        instrumented |= _read(part, "_is_instrumented_by_opentelemetry") is True
        if not sources[0].startswith(("tenancy.", "opentelemetry.")):
            core = part
    frameworks = dict.fromkeys(kind.__module__.partition(".")[0] for kind in type(core).__mro__[:-1])
    return Application(name, _source(type(core)), tuple(frameworks), tuple(dict.fromkeys(ours)), instrumented)


def _guarded(name: str, load: Any) -> list[Finding]:
    try:
        load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too: an application that leaves is what the report has to tell
        shown = f"{type(error).__name__}: {error}".rstrip(": ")
        return [
            Finding(
                "error",
                "application-failed",
                name,
                f"importing it raised {shown}{place_of(error)}; what it would have switched on is not seen here",
                _remedy(name, error),
            )
        ]
    return []


def _remedy(name: str, error: BaseException) -> str:
    module = name.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{module}.".startswith(f"{error.name}."):
        return f"run this where {module} can be imported: in the folder that the service starts in, or with its PYTHONPATH"
    return "run this with all that the service needs to start, its environment above all; or mend what it raises"


def place_of(error: BaseException) -> str:
    """
    The last line of the application's own, rather than of a library that it called.
    """
    others = ("<frozen", os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others) and "site-packages" not in frame.filename
    ]
    return f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _chain(application: Any) -> Iterator[Any]:
    """
    The application, and what it wraps, from the outside in.
    """
    seen: set[int] = set()
    for _ in range(_MAX_DEPTH):
        yield application
        seen.add(id(application))
        wrapped = [_read(application, name) for name in ("wsgi_app", "app", "application", "_app", "inner")]
        application = next((part for part in wrapped if callable(part)), None)
        # A method that stands where a wrapper could is the application's own.
        if application is None or id(application) in seen or id(_read(application, "__self__")) in seen:
            return


def _middleware(application: Any) -> list[Any]:
    """
    The middleware that an application lists.
    """
    added = [_read(entry, "cls") or entry for entry in _listed(application, "user_middleware")]
    return [*added, *_listed(application, "middlewares"), *_django(application)]


def _source(part: Any) -> str:
    """
    The class of an object, a function's module and name, a dotted path as it is.
    """
    if isinstance(part, str):
        return part
    if _read(part, "__globals__") is not None:
        return f"{source_of(part)}.{_read(part, '__qualname__') or ''}"
    kind = part if isinstance(part, type) else type(part)
    return f"{kind.__module__}.{kind.__qualname__}"


def _django(application: Any) -> list[str]:
    if not type(application).__module__.startswith("django.core.handlers"):
        return []
    settings = sys.modules.get("django.conf")
    middleware = _read(getattr(settings, "settings", None), "MIDDLEWARE")
    return [name for name in middleware if isinstance(name, str)] if isinstance(middleware, (list, tuple)) else []


def _listed(application: Any, name: str) -> list[Any]:
    found = _read(application, name)
    try:
        return list(islice(found, _MAX_LISTED)) if isinstance(found, Iterable) and not isinstance(found, (str, bytes)) else []
    except Exception:  # noqa: BLE001 - an object of somebody else
        return []


def _read(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 - an object of somebody else, which may do anything when it is asked
        return None
