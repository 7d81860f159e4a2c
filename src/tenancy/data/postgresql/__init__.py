"""
A shared PostgreSQL database, partitioned by routing key without copying it.

`PostgresIsolation` makes the partitions; `cover` has the transactions of a SQLAlchemy engine run in them,
`tenancy.data.postgresql.django.cover` those of Django, and `enter` or `enter_async` one of a driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .driver import enter, enter_async

if TYPE_CHECKING:
    from .engine import cover, uncover
    from .isolation import PostgresIsolation, Problem, Status
    from .modes import Mode, Rows

__all__ = ["Mode", "PostgresIsolation", "Problem", "Rows", "Status", "cover", "enter", "enter_async", "uncover"]

# What needs SQLAlchemy is imported where it is asked for: a service with another driver does without.
_LATER = {
    "Mode": "modes",
    "PostgresIsolation": "isolation",
    "Problem": "isolation",
    "Rows": "modes",
    "Status": "isolation",
    "cover": "engine",
    "uncover": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
