"""
What the things of a partition are called. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ...key import RoutingKey
from ...naming import partition_name
from .structure import Table, qualified, quoted

__all__ = ["Layout", "Names"]

_LIMIT = 63  # bytes: NAMEDATALEN - 1
# What a number takes that follows a name; more than 999 a table does not have.
_NUMBERED = {"references": 4}


@dataclass(frozen=True)
class Names:
    """
    What a table of the baseline is in a partition; each quoted and with its schema.

    Args:
        schema: The partition's schema.
        table: What queries call it: a view, or a table.
        delta: The table of a key's own rows of an overlay.
        hidden: The table of those of the baseline's rows that an overlay does not show.
        hidden_key: The primary key of that; without its schema.
        writes: The function that an overlay's view writes by.
        checks: The function that checks what was written.
        fault: The function that makes rows of the baseline a key's own.
        references: The function that checks references; a number follows.
        after: The function that ends a statement, and writes down what one has changed.
    """

    schema: str
    table: str
    delta: str
    hidden: str
    hidden_key: str
    writes: str
    checks: str
    fault: str
    references: str
    after: str


class Layout:
    """
    The names of one key's partition.

    Args:
        key: The routing key.
        schemas: The baseline's schemas, in the order in which they are searched.
        taken: The names of all relations that these have.
    """

    def __init__(self, key: RoutingKey, schemas: Iterable[str], taken: Collection[str]) -> None:
        self.key = key
        self.schemas = {schema: partition_name(key, schema, kind="postgresql-schema") for schema in schemas}
        self._taken = taken
        self._names: dict[str, Names] = {}

    @property
    def path(self) -> str:
        """
        The ``search_path`` under which unqualified names are the partition's, and then the baseline's.
        """
        return ", ".join(f"{quoted(own)}, {quoted(schema)}" for schema, own in self.schemas.items())

    def relation(self, table: Table) -> str:
        """
        Return what queries call a table, for SQL.
        """
        return qualified(self.schemas[table.schema], table.name)

    def place(self, schema: str, name: str) -> str:
        """
        Return the same, by the names of its schema and its own.
        """
        return qualified(self.schemas[schema], name)

    @property
    def changed(self) -> str:
        """
        The table of what a statement has changed, until it is over; for SQL.
        """
        return self._shared("changed")

    @property
    def stripes(self) -> str:
        """
        The table by whose rows those who refer to a row, and those who remove it, wait for one another; for SQL.
        """
        return self._shared("stripes")

    def _shared(self, what: str) -> str:
        name = f"tenancy__{what}"
        while name in self._taken:
            name += "_"
        return qualified(next(iter(self.schemas.values())), name)

    def inner(self, table: Table, suffix: str) -> str:
        """
        Return the name of something that a table needs beside itself, not quoted.
        """
        name = f"{table.name}__{suffix}"
        limit = _LIMIT - _NUMBERED.get(suffix, 0)
        plain = "__" not in f"{table.name}{suffix}" and "%" not in name
        if len(name.encode()) <= limit and name not in self._taken and plain:
            return name
        # Where two underscores stand once, it is plain which table and what of it is meant; elsewhere two could mean the same.
        mark = hashlib.sha256(f"{table.name}\0{suffix}".encode()).hexdigest()[:12]
        shown = suffix.replace("%", "_").encode()[:20].decode(errors="ignore")
        # A per cent sign is a placeholder to drivers, and not all that is composed doubles it.
        kept = table.name.replace("%", "_").encode()[: limit - len(shown.encode()) - len(mark) - 4].decode(errors="ignore")
        return f"{kept}__{shown}__{mark}"

    def names(self, table: Table) -> Names:
        """
        Return what a table's things are called.
        """
        found = self._names.get(table.full_name)
        if found is None:
            found = self._names[table.full_name] = self._named(table)
        return found

    def _named(self, table: Table) -> Names:
        own = self.schemas[table.schema]

        def inner(suffix: str) -> str:
            return qualified(own, self.inner(table, suffix))

        return Names(
            quoted(own),
            qualified(own, table.name),
            inner("delta"),
            inner("hidden"),
            quoted(self.inner(table, "hidden_key")),
            inner("writes"),
            inner("checks"),
            inner("fault"),
            inner("references"),
            inner("after"),
        )
