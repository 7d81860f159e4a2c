"""
Who stands in front of an attribute, seen by looking at it: our patches, OpenTelemetry's, and what others put in their place.

Nothing is imported here; only what is imported already is looked at.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ..._patches import Patches

__all__ = ["State", "find", "holders", "is_from", "layers", "our_patches", "source_of"]

_MAX_LAYERS = 32


class State(NamedTuple):
    """
    The patches of one of our adapters.

    Args:
        patched: The attributes that are ours now.
        replaced: Those that were ours, each with who has taken it.
        early: Modules that use an attribute's original, since they took it by name before.
    """

    patched: tuple[str, ...]
    replaced: tuple[str, ...]
    early: tuple[str, ...]


def our_patches(adapter: str) -> State:
    """
    Look at every attribute that an adapter has replaced.

    Args:
        adapter: Our module, such as ``tenancy.http.requests``.
    """
    patched: list[str] = []
    replaced: list[str] = []
    early: list[str] = []
    for owner, name, replacement in _applied(adapter):
        label = f"{_name_of(owner)}.{name}"
        current = vars(owner).get(name)
        if not any(layer is replacement for layer in layers(current)):
            replaced.append(f"{label} (now of {source_of(current) or 'somebody else'})")
            continue
        patched.append(label)
        original = getattr(replacement, "__wrapped__", None)
        if isinstance(owner, ModuleType) and original is not None:
            early += [f"{module}.{attribute}" for module, attribute in holders(original, owner.__name__)]
    return State(tuple(patched), tuple(replaced), tuple(dict.fromkeys(early)))


def layers(value: Any) -> Iterator[Any]:
    """
    Yield *value* and what it wraps, from the outside in; for a class, what it inherits from.
    """
    if isinstance(value, type):
        yield from value.__mro__[:-1]
        return
    for _ in range(_MAX_LAYERS):
        yield value
        inner = _attribute(value, "__wrapped__")
        if inner is None or inner is value:
            return
        value = inner


def source_of(value: Any) -> str:
    """
    Return the module whose code *value* is, looking through `functools.wraps` and wrapt, which both claim to be what they wrap.
    """
    if isinstance(value, type):
        return str(value.__module__)
    for name in ("_self_wrapper", "func", "__func__"):
        inner = _attribute(value, name) if name != "func" or isinstance(value, functools.partial) else None
        value = value if inner is None else inner
    scope = _attribute(value, "__globals__")
    found = scope.get("__name__") if isinstance(scope, dict) else _attribute(value, "__module__")
    return found if isinstance(found, str) else ""


def is_from(value: Any, package: str) -> bool:
    """
    Return whether any layer of *value* is code of *package*.
    """
    return any(f"{source_of(layer)}.".startswith(f"{package}.") for layer in layers(value))


def find(path: str) -> Any:
    """
    Return what ``module:attribute`` names, or None where the module is not imported or has no such thing.
    """
    module, _, names = path.partition(":")
    found: Any = sys.modules.get(module)
    for name in names.split("."):
        # From the owner itself: a wrapper with a descriptor's behaviour is something else when it is read.
        found = vars(found).get(name) if isinstance(found, (type, ModuleType)) else None
    return found


def holders(original: Any, package: str) -> list[tuple[str, str]]:
    """
    Return where else *original* is bound to a name: modules outside of *package*, where it comes from, that took it by name.

    Args:
        original: What was replaced in its own module.
        package: Its own module; it and its neighbours are left out.
    """
    own = f"{package.partition('.')[0]}."
    found: list[tuple[str, str]] = []
    for name, module in list(sys.modules.items()):
        if not f"{name}.".startswith((own, "tenancy.", "opentelemetry.")):
            # Not every entry is a module: some programs put objects there.
            found += [(name, attribute) for attribute, value in list(getattr(module, "__dict__", {}).items()) if value is original]
    return found


def _applied(adapter: str) -> Iterator[tuple[Any, str, Any]]:
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if not f"{name}.".startswith(f"{adapter}.") or not isinstance(module, ModuleType):
            continue
        for value in list(vars(module).values()):
            # Not isinstance, for which lazy objects, such as Django's settings, find out what they are.
            if type(value) is Patches and id(value) not in seen:
                seen.add(id(value))
                for owner, attribute, _, replacement in list(value._applied):
                    yield owner, attribute, replacement


def _name_of(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - an object of somebody else, which may do anything when it is asked
        return None
