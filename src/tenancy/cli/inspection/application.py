"""
The application of the service: imported, so that what it switches on is seen, and looked at from outside.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import ConfigurationError
from .package import working_folder
from .patching import source_of
from .report import Application, Finding, Library

__all__ = ["covered_by_instrument", "import_application", "inspect_application", "parse_reference", "place_of"]

_MAX_DEPTH, _MAX_LISTED = 32, 100
_MAX_NAMED = 5
# What applications of Starlette, FastAPI, Flask, Quart, aiohttp and Django have, and nothing else of theirs.
_OF_APPLICATIONS = ("user_middleware", "wsgi_app", "asgi_app", "middlewares", "load_middleware")
# The arguments of an ASGI and of a WSGI application, by the names that all of them use.
_OF_FUNCTIONS = (("scope", "receive", "send"), ("environ", "start_response"))
_FACTORY = re.compile(r"(?:create|make|build|get)_(?:wsgi_|asgi_)?app(?:lication)?")
_VARIABLE = re.compile(r"\bTENANCY_[A-Z_]+")


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
    missing = False
    findings: list[Finding] = []
    for name in modules:
        findings += _guarded(name, lambda name=name: import_module(name))
    if reference is not None:
        module, attribute, call = parse_reference(reference)

        def load() -> None:
            nonlocal application, missing
            found: Any = import_module(module)
            for part in attribute.split("."):
                missing = not hasattr(found, part)
                if missing:
                    return
                found = getattr(found, part)
            application = found() if call else found

        findings += _guarded(reference, load)
        if missing:
            findings.append(_missing(reference, module, attribute))
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
    instrumented = found = False
    for part in _chain(application):
        sources = [_source(part), *map(_source, _middleware(part))]
        ours += [source for source in sources if source.startswith("tenancy.")]
        instrumented |= any(source.startswith("opentelemetry.") for source in sources)
        instrumented |= _read(part, "_is_instrumented_by_opentelemetry") is True
        if not found and (_takes_wrappers(part) or not sources[0].startswith(("tenancy.", "opentelemetry."))):
            core, found = part, _takes_wrappers(part)
    frameworks = dict.fromkeys(kind.__module__.partition(".")[0] for kind in type(core).__mro__[:-1])
    return Application(name, _source(type(core)), tuple(frameworks), tuple(dict.fromkeys(ours)), instrumented)


def covered_by_instrument(application: Application, libraries: Iterable[Library]) -> Application:
    """
    Return an application with what `tenancy.instrument` puts around it at its first request, if nothing of ours is there already.

    Args:
        application: The application as it was imported.
        libraries: The libraries, as this process has them.
    """
    if application.tenancy:
        return application
    on = [
        f"{library.tenancy.module}.instrument"
        for library in libraries
        if library.role == "server" and library.tenancy.state == "on" and library.name.partition(" ")[0] in application.frameworks
    ]
    return replace(application, tenancy=tuple(on))


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


def _missing(reference: str, module: str, attribute: str) -> Finding:
    """
    The finding that a module has no such application, with those that it has.
    """
    listed = [f"{module}:{name}" for name in _applications(sys.modules[module])]
    shown = " or ".join(f"--app '{name}'" if name.endswith(")") else f"--app {name}" for name in listed)
    return Finding(
        "error",
        "application-failed",
        reference,
        f"{module} was imported, and has no {attribute!r}",
        shown
        or f"name what holds the application in {module}, such as {module}:app or {module}:create_app(); or --import {module}",
    )


def _applications(module: ModuleType) -> list[str]:
    """
    The names in a module of what looks like an application, or like a function that makes one.
    """
    found = [name for name, value in vars(module).items() if not name.startswith("_") and _is_application(name, value)]
    found += [f"{name}()" for name, value in vars(module).items() if inspect.isfunction(value) and _FACTORY.fullmatch(name)]
    return found[:_MAX_NAMED]


def _is_application(name: str, value: Any) -> bool:
    if isinstance(value, (type, ModuleType)) or not callable(value):
        return False
    if name in ("app", "application") or type(value).__module__.startswith(("tenancy.http.", "opentelemetry.instrumentation.")):
        return True
    if inspect.isfunction(value):
        return value.__code__.co_varnames[: value.__code__.co_argcount] in _OF_FUNCTIONS
    # Statically, since proxies and mocks have every attribute.
    return any(inspect.getattr_static(value, attribute, None) is not None for attribute in _OF_APPLICATIONS)


def _remedy(name: str, error: BaseException) -> str:
    module = name.partition(":")[0]
    variables = [name for name in _VARIABLE.findall(str(error)) if name in os.environ]
    if isinstance(error, ConfigurationError) and variables:
        return f"correct {variables[0]}, or remove it, and run this again"
    if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{module}.".startswith(f"{error.name}."):
        return f"run this where {module} can be imported: in the folder that the service starts in, or with its PYTHONPATH"
    return "run this with all that the service needs to start, its environment above all; or mend what it raises"


def place_of(error: BaseException) -> str:
    """
    The last line of the application's own, rather than of a library that it called.
    """
    others = ("<frozen", os.path.dirname(os.__file__), str(Path(__file__).parents[2]))
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
        application = next((part for part in _inside(application) if callable(part)), None)
        # A method that stands where a wrapper could is the application's own.
        if application is None or id(application) in seen or id(_read(application, "__self__")) in seen:
            return


def _takes_wrappers(part: Any) -> bool:
    """
    Whether it is an application of Flask's kind: what it holds is not inside of it, but stands around it.
    """
    return any(inspect.getattr_static(type(part), name, None) is not None for name in ("wsgi_app", "asgi_app"))


def _inside(part: Any) -> Iterator[Any]:
    """
    What a part may have been put around: an attribute of it, or what a function keeps in its closure.
    """
    for name in ("wsgi_app", "asgi_app", "app", "application", "_app", "inner"):
        yield _read(part, name)
    for cell in (part.__closure__ or ()) if inspect.isfunction(part) else ():
        content = _read(cell, "cell_contents")
        yield None if isinstance(content, type) else content


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
