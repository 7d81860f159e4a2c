"""
Patching other people's classes so that it can be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Patches"]

_INHERITED = object()


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
        # What stands in the owner itself, which a wrapper with a descriptor's behaviour (OpenTelemetry's, say) is not when it is read.
        before = vars(owner).get(name, _INHERITED)
        replacement = wrapper(getattr(owner, name))
        setattr(owner, name, replacement)
        self._applied.append((owner, name, before, replacement))

    def undo(self) -> None:
        """
        Put the originals back, last first. Where somebody else has wrapped ours meanwhile, theirs stays.
        """
        while self._applied:
            owner, name, before, replacement = self._applied.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
