"""
Patching other people's classes so that it can be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Patches"]


class Patches:
    """
    The attributes that one adapter has replaced.
    """

    def __init__(self) -> None:
        self._applied: list[tuple[Any, str, Any, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._applied)

    def wrap(self, owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
        """
        Replace ``owner.name`` by ``wrapper(original)``.

        Args:
            owner: A class or a module.
            name: The attribute.
            wrapper: Makes the replacement from the original.
        """
        original = getattr(owner, name)
        replacement = wrapper(original)
        setattr(owner, name, replacement)
        self._applied.append((owner, name, original, replacement))

    def undo(self) -> None:
        """
        Put the originals back, last first. Where somebody else has wrapped ours meanwhile, theirs stays.
        """
        while self._applied:
            owner, name, original, replacement = self._applied.pop()
            if getattr(owner, name, None) is replacement:
                setattr(owner, name, original)
