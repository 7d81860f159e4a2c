"""
The SQL that keeps a partition's rows unique, and what they refer to there, as the baseline's constraints do; by their names. Pure.

What is checked is checked at the end of a statement for all that it wrote, by the same triggers whichever way it was written: through an
overlay's view row by row, or into the delta at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from .layout import Layout
from .registry import SETTING
from .structure import ForeignKey, Index, Table, dollar_quoted, literal, qualified, quoted
from .working import Working

__all__ = [
    "FAULTING",
    "NOT_FAULTING",
    "Removers",
    "Visible",
    "checks",
    "fulfilled",
    "given",
    "guarded",
    "missing",
    "referred",
    "rows_equal",
    "within_statement",
]

#: Returns for SQL what a table is for a key: its own version, or the baseline's where it has none.
Visible = Callable[[str, str], str]

#: Returns the table that a foreign key refers to, if rows of it can come to be gone for a key; else None.
Removers = Callable[[ForeignKey], "Table | None"]

#: The setting that is ``on`` while the baseline's rows are made a key's own, as they are: nothing about them is to be checked.
FAULTING = "tenancy.faulting"
NOT_FAULTING = f"current_setting('{FAULTING}', true) IS DISTINCT FROM 'on'"


def _columns(names: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{quoted(name)}" for name in names)


def _raised(message: str, condition: str, table: Table | ForeignKey, constraint: str, detail: str) -> str:
    name = table.name if isinstance(table, Table) else table.table
    return (
        f"RAISE EXCEPTION USING MESSAGE = {literal(message)}, ERRCODE = '{condition}', CONSTRAINT = {literal(constraint)}, "
        f"TABLE = {literal(name)}, SCHEMA = {literal(table.schema)}, DETAIL = {detail};"
    )


def _detail(names: Iterable[str], values: str, rest: str) -> str:
    return f"{literal('Key (' + ', '.join(names) + ')=(')} || {values} || {literal(rest)}"


def within_statement(key: ForeignKey) -> bool:
    """
    Return whether rows of one statement may refer to one another, so that what is written row by row cannot be checked before all of it is.
    """
    return (key.schema, key.table) == (key.to_schema, key.to_table)


def guarded(layout: Layout) -> str:
    """
    Return what raises, in PL/pgSQL, where it is not the partition's key that writes, but another one by its name.
    """
    key = literal(str(layout.key))
    return (
        f"IF current_setting('{SETTING}', true) IS DISTINCT FROM {key} THEN\n"
        f"  RAISE EXCEPTION 'this is the partition of %', {key} USING ERRCODE = 'insufficient_privilege';\nEND IF;\n"
    )


def checks(
    table: Table,
    layout: Layout,
    working: Working,
    written: str,
    visible: Visible,
    keys: Iterable[ForeignKey],
    removers: Removers,
    *,
    overlay: bool,
) -> Iterator[str]:
    """
    Yield what checks the rows that a statement has written to a table in a partition.

    Args:
        table: The table of the baseline.
        layout: The partition.
        working: What its statements work with.
        written: The table in the partition, for SQL.
        visible: What a key sees of tables.
        keys: Those of the table's foreign keys that PostgreSQL does not check there by itself.
        removers: The tables whose rows the key can remove.
        overlay: Whether the key sees the baseline's rows beside its own.
    """
    names, keys = layout.names(table), list(keys)
    later = [key for key in keys if key.deferred]
    bodies = {}
    for event in ("INSERT", "UPDATE"):
        uniques = [_unique(table, index, names.hidden, event) for index in table.uniques if not index.deferred] if overlay else []
        references = []
        for key in keys:
            if key in later:
                continue
            check = _reference(key, working, visible, removers, event)
            # What comes through the view comes row by row, so that here it is not the end of its statement.
            references.append(
                f"IF pg_trigger_depth() = 1 THEN\n  {check}END IF;\n  " if overlay and within_statement(key) else check
            )
        bodies[event] = "".join(uniques + references)
    if overlay and not any(column.default for column in table.primary_key):
        # Where the baseline comes to have a row with the same primary key, the key goes on seeing its own alone.
        columns = _columns(column.name for column in table.primary_key)
        for event in bodies:
            bodies[event] += f"INSERT INTO {names.hidden} ({columns}) SELECT {columns} FROM added ON CONFLICT DO NOTHING;\n"
    if any(bodies.values()):
        body = f"""
#variable_conflict use_column
DECLARE found_values text;
BEGIN
{guarded(layout) if overlay else ""}IF TG_OP = 'INSERT' THEN
  {bodies["INSERT"]}
ELSE
  {bodies["UPDATE"]}
END IF;
RETURN NULL;
END """
        yield f"CREATE FUNCTION {names.checks}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"
        yield (
            f"CREATE TRIGGER tenancy_inserted AFTER INSERT ON {written} REFERENCING NEW TABLE AS added "
            f"FOR EACH STATEMENT WHEN ({NOT_FAULTING}) EXECUTE FUNCTION {names.checks}()"
        )
        yield (
            f"CREATE TRIGGER tenancy_updated AFTER UPDATE ON {written} REFERENCING NEW TABLE AS added OLD TABLE AS removed "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {names.checks}()"
        )
    for key in later:
        outermost = overlay and within_statement(key)
        yield from _deferred_reference(table, key, layout, working, written, visible, removers, outermost=outermost)


def _unique(table: Table, index: Index, hidden: str, event: str) -> str:
    labels = [f"k{at}" for at in range(len(index.keys))]
    keys = ", ".join(f"{each} AS {label}" for each, label in zip(index.keys, labels, strict=True))
    where = f" WHERE {index.where}" if index.where else ""
    equals = "IS NOT DISTINCT FROM" if index.nulls_equal else "="
    primary = [column.name for column in table.primary_key]
    shown = ", ".join(f"{quoted(name)} AS p{at}" for at, name in enumerate(primary))
    same = " AND ".join(f"a.{label} {equals} b.{label}" for label in labels)
    concealed = " AND ".join(f"h.{quoted(name)} = b.p{at}" for at, name in enumerate(primary))
    kept = ""
    if event == "UPDATE":  # what an update has left as it was is not checked, as everywhere
        unchanged = " AND ".join(f"r.{label} IS NOT DISTINCT FROM a.{label}" for label in labels)
        kept = f" AND NOT EXISTS (SELECT FROM (SELECT {keys} FROM removed{where}) r WHERE {unchanged})"
    values = " || ', ' || ".join(f"a.{label}::text" for label in labels)
    detail = _detail(index.keys, "found_values", ") already exists.")
    raised = _raised(
        f'duplicate key value violates unique constraint "{index.name}"', "unique_violation", table, index.name, detail
    )
    return f"""SELECT coalesce({values}, 'null') INTO found_values FROM (SELECT {keys} FROM added{where}) a
    JOIN (SELECT {shown}, {keys} FROM {table.sql}{where}) b ON {same}
    WHERE NOT EXISTS (SELECT FROM {hidden} h WHERE {concealed}){kept} LIMIT 1;
  IF FOUND THEN {raised} END IF;
  """


def given(key: ForeignKey, row: Mapping[str, str]) -> str:
    """
    Return the condition under which a row refers to anything: with ``MATCH SIMPLE`` all columns are there, with ``MATCH FULL`` one is.

    Args:
        key: The foreign key.
        row: The row's columns, for SQL.
    """
    return "(" + (" OR " if key.full else " AND ").join(f"{row[name]} IS NOT NULL" for name in key.columns) + ")"


def missing(key: ForeignKey, values: str) -> str:
    """
    Return what raises that what a row refers to is not there.
    """
    detail = _detail(key.columns, values, f') is not present in table "{key.to_table}".')
    message = f'insert or update on table "{key.table}" violates foreign key constraint "{key.name}"'
    return _raised(message, "foreign_key_violation", key, key.name, detail)


def referred(key: ForeignKey, values: str) -> str:
    """
    Return what raises that a row which is gone is referred to.
    """
    detail = _detail(key.to_columns, values, f') is still referenced from table "{key.table}".')
    message = f'update or delete on table "{key.to_table}" violates foreign key constraint "{key.name}" on table "{key.table}"'
    return _raised(message, "foreign_key_violation", key, key.name, detail)


def rows_equal(alias: str, row: Mapping[str, str]) -> str:
    """
    Return the condition under which columns are as they are in a row, NULL included.
    """
    return " AND ".join(f"{alias}.{quoted(name)} IS NOT DISTINCT FROM {value}" for name, value in row.items())


def fulfilled(alias: str, row: Mapping[str, str]) -> str:
    """
    Return the condition under which columns equal those of a row.
    """
    return " AND ".join(f"{alias}.{quoted(name)} = {value}" for name, value in row.items())


def _row(key: ForeignKey, row: str) -> dict[str, str]:
    return {name: f"{row}.{quoted(name)}" for name in key.columns}


def _values(key: ForeignKey, row: str) -> str:
    return "concat_ws(', ', " + _columns(key.columns, f"{row}.") + ")"


def _waiting(key: ForeignKey, working: Working, removers: Removers, rows: str) -> str:
    """
    What waits for transactions that remove what rows refer to, and lets them wait for this one.
    """
    target = removers(key)
    if target is None:
        return ""
    row = _row(key, "a")
    # As an array it is made once, and not for each row of that table anew.
    hashes = f"ARRAY(SELECT DISTINCT {working.stripe(target, row.values())} FROM {rows} a WHERE {given(key, row)})"
    return f"PERFORM FROM {working.stripes} s WHERE s.n = ANY ({hashes}) ORDER BY s.n FOR SHARE;\n  "


def _reference(key: ForeignKey, working: Working, visible: Visible, removers: Removers, event: str) -> str:
    kept, rows = "", "added"
    if event == "UPDATE":
        unchanged = " AND ".join(f"r.{quoted(name)} IS NOT DISTINCT FROM a.{quoted(name)}" for name in key.columns)
        kept = f" AND NOT EXISTS (SELECT FROM removed r WHERE {unchanged})"
        rows = f"(SELECT * FROM added a WHERE true{kept})"
    row = _row(key, "a")
    found = fulfilled("p", dict(zip(key.to_columns, row.values(), strict=True)))
    return f"""{_waiting(key, working, removers, rows)}SELECT {_values(key, "a")} INTO found_values FROM added a
    WHERE {given(key, row)} AND NOT EXISTS (SELECT FROM {visible(key.to_schema, key.to_table)} p WHERE {found}){kept} LIMIT 1;
  IF FOUND THEN {missing(key, "found_values")} END IF;
  """


def _deferred_reference(
    table: Table,
    key: ForeignKey,
    layout: Layout,
    working: Working,
    written: str,
    visible: Visible,
    removers: Removers,
    *,
    outermost: bool,
) -> Iterator[str]:
    schema = layout.schemas[table.schema]
    function = qualified(schema, layout.inner(table, f"refers_{key.name}"))
    row = _row(key, "NEW")
    found = fulfilled("p", dict(zip(key.to_columns, row.values(), strict=True)))
    primary = {column.name: f"NEW.{quoted(column.name)}" for column in table.primary_key}
    # As everywhere, what has been changed again since is not looked at.
    same = " AND ".join(filter(None, (fulfilled("a", primary), rows_equal("a", row))))
    alive = f"EXISTS (SELECT FROM {written} a WHERE {same})"
    target = removers(key)
    lock = ""
    if target is not None:
        lock = f"PERFORM FROM {working.stripes} s WHERE s.n = {working.stripe(target, row.values())} FOR SHARE;\n  "
    body = f"""
#variable_conflict use_column
BEGIN
IF {given(key, row)} THEN
  {lock}IF NOT EXISTS (SELECT FROM {visible(key.to_schema, key.to_table)} p WHERE {found}) AND {alive} THEN
    {missing(key, _values(key, "NEW"))}
  END IF;
END IF;
RETURN NULL;
END """
    yield f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"
    when = f"{NOT_FAULTING} AND pg_trigger_depth() = 0" if outermost else NOT_FAULTING
    yield (
        f"CREATE CONSTRAINT TRIGGER {quoted(key.name)} AFTER INSERT OR UPDATE ON {written} DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {function}()"
    )
