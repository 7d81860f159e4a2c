"""
Standing in for another object whose class cannot be subclassed or whose instances are made elsewhere.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Proxy"]


class Proxy:
    """
    An object that is another one in everything but the methods that a subclass has; `isinstance` takes it for that one.

    Args:
        target: The other object; it is not changed.
    """

    def __init__(self, target: Any) -> None:
        self._tenancy_target = target

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._tenancy_target.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tenancy_target, name)

    def __len__(self) -> int:
        return len(self._tenancy_target)

    def __bool__(self) -> bool:
        return True
