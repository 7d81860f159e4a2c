"""
The SQL of an overlay: a view of the baseline's rows with a key's own changes on top. Pure.

A key's own rows are in a table of the same form, the *delta*; the primary keys of those of the baseline's rows that it has changed or
deleted are in a second one, *hidden*. The form of the view keeps the baseline's indexes in use: what it is made of is pulled up into the
query as an append relation, which conditions, joins and orders are pushed into, and beside it stands an anti-join. That is an outer
join, for which PostgreSQL refuses ``FOR UPDATE``: it would lock nothing of the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .checks import FAULTING, NOT_FAULTING, guarded
from .layout import Layout, Names
from .references import References
from .structure import Column, Index, Table, dollar_quoted, literal, quoted

__all__ = ["arguments", "checked", "delta", "fault", "indexed", "own_table", "view", "writes"]


def _list(columns: tuple[Column, ...], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{quoted(column.name)}" for column in columns)


def _same(columns: tuple[Column, ...], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quoted(column.name)} = {right}.{quoted(column.name)}" for column in columns)


def delta(table: Table, names: Names) -> Iterator[str]:
    """
    Yield what makes the tables that an overlay writes to.
    """
    first = _with_the_table(table.indexes)
    constraints = [(index.name, index.definition) for index in first]
    constraints += [(name, checked(definition)) for name, definition in table.checks]
    yield own_table(table, names.delta, constraints)
    for index in table.indexes[len(first) :]:
        yield indexed(names.delta, index)
    key = table.primary_key
    columns = ", ".join(f"{quoted(column.name)} {column.type} NOT NULL" for column in key)
    yield f"CREATE TABLE {names.hidden} ({columns}, CONSTRAINT {names.hidden_key} PRIMARY KEY ({_list(key)}))"


def _with_the_table(indexes: tuple[Index, ...]) -> list[Index]:
    """
    Return those that can be made with the table, which takes less time, and are in the same order then, by which violations are found.
    """
    found: list[Index] = []
    for index in indexes:
        # The primary key comes first whatever stands first; and of two with the same keys one would be left out
        # (transformIndexConstraints in the server's sources).
        if not index.constraint or index.primary == bool(found) or any(each.keys == index.keys for each in found):
            break
        found.append(index)
    return found


def checked(definition: str) -> str:
    """
    Return what ``CHECK`` a key's own rows have for one of the baseline's. It does not hold while a row of the baseline is made the key's
    own as it is, which may break it: ``NOT VALID``, or true when it was written.
    """
    condition, _, rest = definition.removeprefix("CHECK (").rpartition(")")
    return f"CHECK (NOT ({NOT_FAULTING}) OR ({condition})){rest}"


def own_table(table: Table, name: str, constraints: Iterable[tuple[str, str]] | None = None) -> str:
    """
    Return what makes a table of the same form, without its indexes and references; what counts, counts on in the baseline's sequences.

    Args:
        table: The table of the baseline.
        name: What it is called, for SQL.
        constraints: The constraints that it is made with, by name; None: the CHECK constraints.
    """
    options = "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE"
    if constraints is None:
        options += " INCLUDING CONSTRAINTS"
    defaults = "".join(
        f"; ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} SET DEFAULT {column.default}"
        for column in table.columns
        if column.identity
    )
    added = "".join(f", CONSTRAINT {quoted(each)} {definition}" for each, definition in constraints or ())
    return f"CREATE TABLE {name} (LIKE {table.sql} {options}{added}){defaults}"


def indexed(name: str, index: Index) -> str:
    """
    Return what makes an index, or its constraint, on a table in a partition, by the name that it has in the baseline.
    """
    if index.constraint:
        return f"ALTER TABLE {name} ADD CONSTRAINT {quoted(index.name)} {index.definition}"
    return f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {quoted(index.name)} ON {name} {index.definition}"


def view(table: Table, layout: Layout) -> Iterator[str]:
    """
    Yield what makes the view, with the baseline's defaults.
    """
    names = layout.names(table)
    flag = "tenancy_base"
    while any(column.name == flag for column in table.columns):
        flag += "_"
    key = table.primary_key
    shown = _list(table.columns)
    yield (
        f"CREATE VIEW {names.table} AS SELECT {_list(table.columns, 'u.')} FROM ("
        f"SELECT {shown}, false AS {flag} FROM {names.delta} UNION ALL SELECT {shown}, true FROM {table.sql}) u "
        f"LEFT JOIN {names.hidden} h ON u.{flag} AND {_same(key, 'h', 'u')} WHERE h.{quoted(key[0].name)} IS NULL"
    )
    defaults = [
        f"ALTER COLUMN {quoted(column.name)} SET DEFAULT {column.default}" for column in table.columns if column.default is not None
    ]
    if defaults:  # by ALTER TABLE, since ALTER VIEW knows one at a time
        yield f"ALTER TABLE {names.table} {', '.join(defaults)}"


def writes(table: Table, layout: Layout, references: References) -> Iterator[str]:
    """
    Yield the function by which the view is written to, and its trigger.

    Args:
        table: The table.
        layout: The partition.
        references: What a change does to what refers to the table.
    """
    names = layout.names(table)
    key, stored = table.primary_key, table.stored
    new = _list(stored, "NEW.")
    this = _same(key, "d", "OLD")
    generated = [column for column in table.columns if column.generated]
    computed = "".join(
        f"IF NEW.{quoted(column.name)} IS NOT NULL THEN RAISE EXCEPTION 'cannot insert a non-DEFAULT value into column \"%', "
        f"{literal(column.name + chr(34))} USING ERRCODE = 'generated_always'; END IF;\n"
        for column in generated
    )
    fixed = [*generated, *(column for column in table.columns if column.identity == "a")]
    recomputed = "".join(
        f"IF NEW.{quoted(column.name)} IS DISTINCT FROM OLD.{quoted(column.name)} THEN RAISE EXCEPTION "
        f"'column \"% can only be updated to DEFAULT', {literal(column.name + chr(34))} USING ERRCODE = 'generated_always'; END IF;\n"
        for column in fixed
    )
    lost = (
        "RAISE EXCEPTION 'could not serialize access due to concurrent update' USING ERRCODE = 'serialization_failure', "
        f"HINT = {literal(f'Another transaction has changed this row of {table.name}: run this one again.')};"
    )
    # The row is compared as a whole, and byte by byte, since there are types without an equality
    # (https://www.postgresql.org/docs/current/functions-comparisons.html#COMPOSITE-TYPE-COMPARISON).
    # Column by column, since a table that has followed another may have them in another order.
    unchanged = f"ROW({_list(table.columns, 'd.')})::record *= ROW({_list(table.columns, 'OLD.')})::record"
    # What this statement has changed already it does not change again, like an UPDATE with a FROM that finds a row twice. Who has written a
    # row that can be seen is this transaction, or one of its savepoints, if it is not over.
    age = "age(d.xmin)"
    mine = f"{age} <= 0 AND pg_xact_status((pg_current_xact_id()::text::bigint - {age})::text::xid8) = 'in progress'"
    changed = f"""
    IF EXISTS (SELECT FROM {names.delta} d WHERE {this} AND CASE WHEN {mine} THEN true ELSE false END) OR {references.twice()} THEN
      RETURN NULL;
    END IF;
    {lost}"""
    hiding = f"""INSERT INTO {names.hidden} ({_list(key)}) SELECT {_list(key, "b.")} FROM {table.sql} b WHERE {_same(key, "b", "OLD")}
      AND ROW({_list(table.columns, "b.")})::record *= ROW({_list(table.columns, "OLD.")})::record
      AND NOT EXISTS (SELECT FROM {names.delta} d WHERE {this}) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN{changed}
    END IF;"""
    update = f"""UPDATE {names.delta} d SET ({_list(stored)}) = ROW({new}) WHERE {this} AND {unchanged}
    RETURNING {_list(table.columns, "d.")} INTO r;"""
    body = f"""
#variable_conflict use_column
DECLARE
  r {names.table}%ROWTYPE;
BEGIN
{guarded(layout)}IF TG_OP = 'INSERT' THEN
  {computed}INSERT INTO {names.delta} ({_list(stored)}) VALUES ({new}) RETURNING {_list(table.columns)} INTO r;
  {references.noted("I")}
  RETURN r;
ELSIF TG_OP = 'UPDATE' THEN
  {recomputed}IF NEW *= OLD THEN
    IF {references.twice()} THEN RETURN NULL; END IF;
    {references.noted("S")}
  END IF;
  {update}
  IF NOT FOUND THEN
    {hiding}
    PERFORM set_config('{FAULTING}', 'on', true);
    INSERT INTO {names.delta} ({_list(stored)}) VALUES ({_list(stored, "OLD.")});
    PERFORM set_config('{FAULTING}', '', true);
    {update.replace(f" AND {unchanged}", "")}
  END IF;
  {references.noted("U")}
  RETURN r;
ELSE
  DELETE FROM {names.delta} d WHERE {this} AND {unchanged};
  IF NOT FOUND THEN
    {hiding}
  END IF;
  {references.noted("D")}
  RETURN OLD;
END IF;
END """
    yield f"CREATE FUNCTION {names.writes}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"
    yield (
        f"CREATE TRIGGER tenancy_writes INSTEAD OF INSERT OR UPDATE OR DELETE ON {names.table} "
        f"FOR EACH ROW EXECUTE FUNCTION {names.writes}()"
    )


def arguments(table: Table) -> dict[str, tuple[str, str]]:
    """
    Return for each column by which a row can conflict with another one the name and the type of the argument of the function that `fault`
    yields.
    """
    needed = {name for index in table.uniques for name in index.columns}
    if needed & {column.name for column in table.columns if column.generated}:
        needed = {column.name for column in table.columns}
    return {column.name: (f"tenancy_{at}", column.type) for at, column in enumerate(table.stored) if column.name in needed}


def fault(table: Table, names: Names) -> Iterator[str]:
    """
    Yield the function that makes those of the baseline's rows a key's own that a new row could conflict with, so that an
    ``INSERT ... ON CONFLICT`` into the delta meets them. What is not given is what it would be by default.
    """
    key, stored = table.primary_key, table.stored
    given = arguments(table)
    defaults = {column.name: column.default for column in table.columns}
    parameters, columns = [], []
    for at, (name, (argument, kind)) in enumerate(given.items(), 1):
        default = defaults[name]
        # What counts is not to count here, and what it gives is new anyway.
        default = "NULL" if default is None or "nextval(" in default else default
        parameters.append(f"{argument} {kind} DEFAULT {default}")
        columns.append(f"${at} AS {quoted(name)}")
    computed = [
        column for column in table.columns if column.generated and column.name in {n for i in table.uniques for n in i.columns}
    ]
    row = f"SELECT {', '.join(columns)}"
    if computed:
        row = f"SELECT n.*, {', '.join(f'{column.expression} AS {quoted(column.name)}' for column in computed)} FROM ({row}) n"
    found = []
    for index in table.uniques:
        where = f" WHERE {index.where}" if index.where else ""
        keys = ", ".join(f"{each} AS k{at}" for at, each in enumerate(index.keys))
        equals = "IS NOT DISTINCT FROM" if index.nulls_equal else "="
        same = " AND ".join(f"b.k{at} {equals} n.k{at}" for at in range(len(index.keys)))
        shown = ", ".join(f"{quoted(column.name)} AS p{at}" for at, column in enumerate(key))
        primary = ", ".join(f"b.p{at}" for at in range(len(key)))
        found.append(
            f"SELECT {primary} FROM (SELECT {shown}, {keys} FROM {table.sql}{where}) b JOIN (SELECT {keys} FROM ({row}) n{where}) n ON {same}"
        )
    candidates = "\n    UNION ".join(found)
    body = f"""
#variable_conflict use_column
BEGIN
PERFORM set_config('{FAULTING}', 'on', true);
WITH f AS (
  INSERT INTO {names.hidden} ({_list(key)})
    {candidates}
  ON CONFLICT DO NOTHING RETURNING {_list(key)}
)
INSERT INTO {names.delta} ({_list(stored)}) SELECT {_list(stored, "b.")} FROM {table.sql} b JOIN f ON {_same(key, "b", "f")};
PERFORM set_config('{FAULTING}', '', true);
RETURN true;
END """
    header = f"CREATE FUNCTION {names.fault}({', '.join(parameters)}) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS "
    yield header + dollar_quoted(body)
