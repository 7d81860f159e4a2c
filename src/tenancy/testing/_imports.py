"""
What is done with a module once it is there: now, or as soon as somebody imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Arrivals"]

Arrived = Callable[[ModuleType], None]


class Arrivals(MetaPathFinder):
    """
    Calls a function with each of some modules, right after it was imported; with those that were imported before, at once.

    Args:
        wanted: The modules, and what is called with each.
    """

    def __init__(self, wanted: Mapping[str, Arrived]) -> None:
        self._waiting: dict[str, Arrived] = {}
        for name, arrived in wanted.items():
            module = sys.modules.get(name)
            if module is not None:
                arrived(module)
            else:
                self._waiting[name] = arrived
        if self._waiting:
            sys.meta_path.insert(0, self)

    def close(self) -> None:
        """
        Wait for nothing any more.
        """
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """
        Return what the other finders find, for a module that is waited for; None for any other.
        """
        arrived = self._waiting.get(name)
        if arrived is None:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                # A namespace package, such as an empty folder that happens to have the name, has no loader, or none that runs anything.
                if spec.loader is not None and spec.origin is not None:
                    spec.loader = _Announcing(spec.loader, arrived)
                return spec
        return None


class _Announcing(Loader):
    """
    A module's own loader, and an announcement when it is done.
    """

    def __init__(self, loader: Loader, arrived: Arrived) -> None:
        self._loader = loader
        self._arrived = arrived

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is as if nobody had been in between.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._arrived(module)
