"""
What a table can be for a key. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from .structure import Table, literal

__all__ = ["OWN", "Mode", "Rows", "checked", "mode_of", "value_of"]

#: What a table is for a key; `Rows` is the fifth.
Mode = Literal["overlay", "copy", "empty", "readonly"]

#: Those modes in which a key has a table of its own.
OWN = ("copy", "empty")


@dataclass(frozen=True)
class Rows:
    """
    The mode in which a key shares the baseline's table and has those of its rows whose column has the key's value.

    Args:
        column: The column, such as ``org_id``.
        value: Returns the column's value for a routing key; or a mapping to look it up in. Default: the key itself.
    """

    column: str
    value: Callable[[RoutingKey], Any] | Mapping[str, Any] = str

    def of(self, key: RoutingKey) -> Any:
        """
        Return the value for a key.

        Raises:
            PartitionError: If it has none.
        """
        found = self.value.get(key) if isinstance(self.value, Mapping) else self.value(key)
        if found is None:
            raise PartitionError(f"routing key {str(key)!r} has no value for {self.column!r} in Rows(value=...)")
        return found


def mode_of(table: Table, modes: Mapping[str, Mode | Rows], default: Mode) -> Mode | Rows:
    """
    Return the mode of a table, which may be named with or without its schema.

    Args:
        table: The table.
        modes: The modes by table.
        default: The mode of all others.
    """
    return modes.get(table.full_name, modes.get(table.name, default))


def value_of(table: Table, mode: Rows, key: RoutingKey) -> str:
    """
    Return for SQL the value by which a table's rows are a key's.
    """
    kind = next(each.type for each in table.columns if each.name == mode.column)
    return f"{literal(str(mode.of(key)))}::{kind}"


def checked(modes: Mapping[str, Any], default: Any) -> None:
    """
    Raises:
        ConfigurationError: If something is no mode.
    """
    known = get_args(Mode)
    for name, mode in [*modes.items(), (None, default)]:
        if mode not in known and not isinstance(mode, Rows):
            where = "default" if name is None else f"tables[{name!r}]"
            raise ConfigurationError(f"{where} is {mode!r}; use one of {', '.join(known)}, or Rows(column=...) for a table")
    if isinstance(default, Rows):
        raise ConfigurationError("default is a Rows; say for each table by which column its rows are a key's")
