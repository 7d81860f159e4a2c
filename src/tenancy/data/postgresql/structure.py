"""
What the baseline's tables look like, as far as a partition of them needs to know. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

__all__ = [
    "Column",
    "ForeignKey",
    "Index",
    "Policy",
    "Relation",
    "Table",
    "View",
    "dollar_quoted",
    "fingerprint",
    "literal",
    "qualified",
    "quoted",
]


@lru_cache(4096)
def quoted(name: str) -> str:
    """
    Return an identifier of SQL, quoted (https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS).
    """
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    """
    Return the quoted name of something in a schema.
    """
    return f"{quoted(schema)}.{quoted(name)}"


def literal(text: str) -> str:
    """
    Return a string of SQL, whatever ``standard_conforming_strings`` is.
    """
    escaped = text.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in escaped else f"'{escaped}'"


def dollar_quoted(text: str) -> str:
    """
    Return a string of SQL that reads as it is written, for a function's body
    (https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-DOLLAR-QUOTING).
    """
    tag = "$tenancy$"
    while tag in text:
        tag = f"{tag[:-1]}_$"
    return f"{tag}{text}{tag}"


@dataclass(frozen=True)
class Column:
    """
    A column.

    Args:
        number: Its number, which stays where it is renamed.
        name: Its name.
        type: Its type, with modifiers, as PostgreSQL writes it.
        default: The expression of its default, also where that is a sequence's next value; None: none.
        expression: How it is computed from others; None: it is not.
        identity: ``a`` for ``GENERATED ALWAYS AS IDENTITY``, ``d`` for ``BY DEFAULT``, else empty.
        not_null: Whether it refuses NULL.
    """

    number: int
    name: str
    type: str
    default: str | None = None
    expression: str | None = None
    identity: str = ""
    not_null: bool = False

    @property
    def generated(self) -> bool:
        """
        Whether it is computed from others.
        """
        return self.expression is not None


@dataclass(frozen=True)
class Index:
    """
    An index, or the constraint that it is for.

    Args:
        name: Its name.
        definition: What follows ``ADD CONSTRAINT name`` for a constraint, and ``ON table`` for an index.
        constraint: Whether it is a constraint's.
        unique: Whether it keeps rows unique.
        primary: Whether it is the primary key's.
        exclusion: Whether it is an exclusion constraint's.
        keys: The expressions that it is on, each as it would stand in a SELECT from the table.
        where: The condition of a partial index.
        nulls_equal: Whether it is ``NULLS NOT DISTINCT``.
        columns: The names of the columns that its expressions and its condition are about.
    """

    name: str
    definition: str
    constraint: bool
    unique: bool
    primary: bool
    exclusion: bool
    keys: tuple[str, ...]
    where: str | None = None
    nulls_equal: bool = False
    columns: tuple[str, ...] = ()

    @property
    def deferred(self) -> bool:
        """
        Whether it is a constraint's that is checked at the end of a transaction.
        """
        return self.constraint and self.definition.endswith(" INITIALLY DEFERRED")


@dataclass(frozen=True)
class ForeignKey:
    """
    A foreign key.

    Args:
        name: Its name.
        schema: The schema of the table that has it.
        table: That table.
        columns: Its columns.
        to_schema: The schema of the table that it refers to.
        to_table: That table.
        to_columns: The columns there.
        on_delete: ``a`` no action, ``r`` restrict, ``c`` cascade, ``n`` set null, ``d`` set default.
        on_update: The same.
        full: Whether it is ``MATCH FULL``.
        deferrable: Whether its check can be put off to the end of the transaction.
        deferred: Whether it is.
        definition: What follows the name of the table that it refers to.
        set_columns: The columns that ``ON DELETE SET NULL (...)`` or ``SET DEFAULT (...)`` names; empty: all.
        order: Its place among all that were read, oldest first.
    """

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    to_schema: str
    to_table: str
    to_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    full: bool = False
    deferrable: bool = False
    deferred: bool = False
    definition: str = ""
    set_columns: tuple[str, ...] = ()
    order: int = 0


@dataclass(frozen=True)
class Policy:
    """
    A policy of row security.

    Args:
        name: Its name.
        public: Whether it is for all roles.
        expression: Its conditions, as PostgreSQL writes them.
    """

    name: str
    public: bool
    expression: str


@dataclass(frozen=True)
class Table:
    """
    A table of the baseline.

    Args:
        schema: Its schema.
        name: Its name.
        columns: Its columns, in their order.
        number: Its number, which stays where it is renamed.
        indexes: Its indexes, oldest first, as PostgreSQL checks them.
        checks: Its CHECK constraints, by name.
        foreign_keys: Its foreign keys.
        triggers: The definitions of its own triggers, by name.
        inherits: Whether it is part of an inheritance tree that is no partitioning.
        row_security: Whether it has row security.
        forced: Whether that is for its owner as well.
        policies: The policies of that.
        firing: ``REPLICA`` or ``ALWAYS`` for those of its triggers that do not fire as usual, by name.
        rules: The definitions of its rules, by name.
        of_leaves: What its partitions have that it has not, each as it is said to people.
        referred_from: The foreign keys by which tables refer to it that were not read, each with its table, and whether by them a change
            here changes rows there.
        operators: Those of its unique indexes that are by other operator classes than the default ones, each with one of these.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    number: int = 0
    indexes: tuple[Index, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    triggers: tuple[tuple[str, str], ...] = ()
    inherits: bool = False
    row_security: bool = False
    forced: bool = False
    policies: tuple[Policy, ...] = ()
    firing: tuple[tuple[str, str], ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    of_leaves: tuple[str, ...] = ()
    referred_from: tuple[tuple[str, str, bool], ...] = ()
    operators: tuple[tuple[str, str], ...] = ()

    @property
    def full_name(self) -> str:
        """
        Its name with its schema, for people.
        """
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """
        Its name with its schema, for SQL.
        """
        return qualified(self.schema, self.name)

    @cached_property
    def primary_key(self) -> tuple[Column, ...]:
        """
        The columns of its primary key; empty: it has none.
        """
        named = {column.name: column for column in self.columns} | {quoted(column.name): column for column in self.columns}
        for index in self.indexes:
            if index.primary:
                return tuple(named[key] for key in index.keys)
        return ()

    @cached_property
    def uniques(self) -> tuple[Index, ...]:
        """
        Its unique indexes, the primary key's among them.
        """
        return tuple(index for index in self.indexes if index.unique and not index.exclusion)

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """
        Its columns that are not computed from others.
        """
        return tuple(column for column in self.columns if not column.generated)


@dataclass(frozen=True)
class Relation:
    """
    A relation that a view is made of.

    Args:
        schema: Its schema.
        name: Its name.
        kind: ``r`` or ``p`` for a table, ``v`` for a view, ``m`` for a materialized view, ``S`` for a sequence
            (https://www.postgresql.org/docs/current/catalog-pg-class.html).
        shared: Whether it is the system's, or an extension's.
        named: Whether the view's query names it without its schema.
    """

    schema: str
    name: str
    kind: str
    shared: bool
    named: bool


@dataclass(frozen=True)
class View:
    """
    A view of the baseline.

    Args:
        schema: Its schema.
        name: Its name.
        definition: Its query, in which what is found first by its name in the schemas that are covered has no schema.
        relations: What it is made of.
    """

    schema: str
    name: str
    definition: str
    relations: tuple[Relation, ...] = ()


def fingerprint(tables: Iterable[Table], views: Iterable[View] = ()) -> str:
    """
    Return what differs when anything of these differs that a partition is made after.
    """
    parts: list[Table | View] = [*(replace(table, number=0) for table in tables), *views]
    parts.sort(key=lambda part: (part.schema, part.name))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
