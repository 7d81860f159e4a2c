"""
The SQL of what a partition's statements work with, and all of its tables share: a table of what a statement has changed, until it is over,
and rows by which transactions wait for one another. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .layout import Layout
from .registry import CHANGES
from .structure import Column, ForeignKey, Table, quoted

__all__ = ["Working"]

# One page of an index holds so many numbers (https://www.postgresql.org/docs/current/storage-page-layout.html).
_NUMBERS = 400
_FEWEST, _MOST = 4, 64


class Working:
    """
    What a partition's statements work with.

    Args:
        layout: The partition.
        kept: The tables of which changes are written down, each with the columns that have to be known of a changed row.
        referred: Those that others refer to.
        deferred: The foreign keys that are checked at the end of a transaction where what they refer to is changed.
    """

    def __init__(
        self,
        layout: Layout,
        kept: Iterable[tuple[Table, Sequence[Column]]],
        referred: Iterable[Table],
        deferred: Iterable[ForeignKey],
    ) -> None:
        self.changed, self.stripes = layout.changed, layout.stripes
        self._types: list[str] = []
        self._tables: dict[str, tuple[int, dict[str, int]]] = {}
        for number, (table, columns) in enumerate(kept):
            places: dict[str, int] = {}
            for column in columns:
                used = places.values()
                free = [at for at, kind in enumerate(self._types) if kind == column.type and at not in used]
                if not free:
                    free = [len(self._types)]
                    self._types.append(column.type)
                places[column.name] = free[0]
            self._tables[table.full_name] = number, places
        names = [table.full_name for table in referred]
        # A power of two, as many as there is room for.
        self._each = _FEWEST
        while self._each < _MOST and 2 * self._each * len(names) <= _NUMBERS:
            self._each *= 2
        self._first = {name: self._each * at for at, name in enumerate(names)}
        self._named: dict[str, ForeignKey] = {}
        for key in sorted(deferred, key=lambda key: key.order):
            self._named.setdefault(key.name, key)

    def number(self, table: Table) -> int:
        """
        Return what a table is called in the table of changes.
        """
        return self._tables[table.full_name][0]

    def places(self, table: Table) -> dict[str, int]:
        """
        Return by the name of each column of a table that is kept which of the columns ``o0``, ``o1`` (what it was) and ``n0``, ``n1`` (what
        it is) of the table of changes are its.
        """
        return self._tables[table.full_name][1]

    def stripe(self, table: Table, values: Iterable[str]) -> str:
        """
        Return for SQL the number of the row by which those wait for one another who refer to a row of a table with these values, and who
        remove it.
        """
        # As JSON equal numbers are equal, whatever their types and their number of places.
        return f"{self._first[table.full_name]} + (jsonb_hash(jsonb_build_array({', '.join(values)})) & {self._each - 1})"

    def first(self, key: ForeignKey) -> bool:
        """
        Return whether a deferred foreign key is the first of its name, so that a trigger on the table of changes can have it.
        """
        return self._named.get(key.name) == key

    def storage(self, reader: str) -> Iterator[str]:
        """
        Yield what makes these tables, which it does anew.

        Args:
            reader: The role that functions run by, for SQL.
        """
        yield f"DROP TABLE IF EXISTS {self.changed}, {self.stripes}"
        if self._tables:
            columns = "".join(f", o{at} {kind}, n{at} {kind}" for at, kind in enumerate(self._types))
            # Not UNLOGGED: to make such a table takes several times as long, since it is synced to the disk at once.
            yield (
                f"CREATE TABLE {self.changed} (tab integer, at bigint DEFAULT nextval('{CHANGES}'), event \"char\" NOT NULL, "
                f"mark integer{columns}, PRIMARY KEY (tab, at))"
            )
            yield f"CREATE INDEX ON {self.changed} (tab, mark)"
            yield f"GRANT SELECT, INSERT, DELETE ON {self.changed} TO {reader}"
        if self._first:
            rows = self._each * len(self._first)
            # Filled while it is made, it has no map of its free space, which would take more than its rows.
            yield f"CREATE TABLE {self.stripes} AS SELECT n FROM generate_series(0, {rows - 1}) n"
            yield f"ALTER TABLE {self.stripes} ADD PRIMARY KEY (n) WITH (fillfactor = 100)"
            yield f"GRANT SELECT, UPDATE ON {self.stripes} TO {reader}"

    @staticmethod
    def mark(row: str, key: Iterable[Column]) -> str:
        """
        Return for SQL a number by which changes of a row are found.

        Args:
            row: ``NEW`` or ``OLD``.
            key: The columns of its primary key.
        """
        values = " || ',' || ".join(f"{row}.{quoted(column.name)}::text" for column in key)
        return f"hashtext({values})"
