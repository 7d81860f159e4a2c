"""
The SQL that keeps a partition's rows unique, and what they refer to there, as the baseline's constraints do; by their names. Pure.

What is checked is checked at the end of a statement for all that it wrote, by the same triggers whichever way it was written: through an
overlay's view row by row, or into the delta at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .layout import Layout
from .structure import ForeignKey, Index, Table, literal, qualified, quoted

__all__ = ["FAULTING", "References", "checks", "within_statement"]

#: Returns for SQL what a table is for a key: its own version, or the baseline's where it has none.
Visible = Callable[[str, str], str]

#: The setting that is ``on`` while the baseline's rows are made a key's own, as they are: nothing about them is to be checked.
FAULTING = "tenancy.faulting"


def _columns(names: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{quoted(name)}" for name in names)


def _equal(left: str, left_names: Iterable[str], right: str, right_names: Iterable[str]) -> str:
    pairs = zip(left_names, right_names, strict=True)
    return " AND ".join(f"{left}{quoted(one)} = {right}{quoted(other)}" for one, other in pairs)


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
    return (key.schema, key.table) == (key.to_schema, key.to_table) and not key.deferred


def checks(
    table: Table, layout: Layout, written: str, visible: Visible, keys: Iterable[ForeignKey], *, overlay: bool
) -> Iterator[str]:
    """
    Yield what checks the rows that a statement has written to a table in a partition.

    Args:
        table: The table of the baseline.
        layout: The partition.
        written: The table in the partition, for SQL.
        visible: What a key sees of tables.
        keys: Those of the table's foreign keys that PostgreSQL does not check there by itself.
        overlay: Whether the key sees the baseline's rows beside its own.
    """
    names, keys = layout.names(table), list(keys)
    later = [key for key in keys if key.deferred or (overlay and within_statement(key))]
    bodies = {}
    for event in ("INSERT", "UPDATE"):
        uniques = [_unique(table, index, names.hidden, event) for index in table.uniques if not index.deferred] if overlay else []
        references = [_reference(key, visible, event) for key in keys if key not in later]
        bodies[event] = "".join(uniques + references)
    if overlay and not any(column.default for column in table.primary_key):
        # Where the baseline comes to have a row with the same primary key, the key goes on seeing its own alone.
        columns = _columns(column.name for column in table.primary_key)
        bodies["INSERT"] += f"INSERT INTO {names.hidden} ({columns}) SELECT {columns} FROM added ON CONFLICT DO NOTHING;\n"
        bodies["UPDATE"] += f"INSERT INTO {names.hidden} ({columns}) SELECT {columns} FROM added ON CONFLICT DO NOTHING;\n"
    if any(bodies.values()):
        yield f"""CREATE FUNCTION {names.checks}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $tenancy$
DECLARE found_values text;
BEGIN
IF TG_OP = 'INSERT' THEN
  {bodies["INSERT"]}
ELSE
  {bodies["UPDATE"]}
END IF;
RETURN NULL;
END $tenancy$"""
        yield (
            f"CREATE TRIGGER tenancy_inserted AFTER INSERT ON {written} REFERENCING NEW TABLE AS added "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {names.checks}()"
        )
        yield (
            f"CREATE TRIGGER tenancy_updated AFTER UPDATE ON {written} REFERENCING NEW TABLE AS added OLD TABLE AS removed "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {names.checks}()"
        )
    for key in later:
        yield from _deferred_reference(table, key, layout, written, visible)


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


def _given(key: ForeignKey, row: str) -> str:
    """
    The condition under which a row refers to anything: with ``MATCH SIMPLE`` all columns are there, with ``MATCH FULL`` one is.
    """
    word = " OR " if key.full else " AND "
    return "(" + word.join(f"{row}.{quoted(name)} IS NOT NULL" for name in key.columns) + ")"


def _missing(key: ForeignKey) -> str:
    detail = _detail(key.columns, "found_values", f') is not present in table "{key.to_table}".')
    message = f'insert or update on table "{key.table}" violates foreign key constraint "{key.name}"'
    return _raised(message, "foreign_key_violation", key, key.name, detail)


def _values(key: ForeignKey, row: str) -> str:
    return "concat_ws(', ', " + _columns(key.columns, f"{row}.") + ")"


def _reference(key: ForeignKey, visible: Visible, event: str) -> str:
    kept = ""
    if event == "UPDATE":
        unchanged = " AND ".join(f"r.{quoted(name)} IS NOT DISTINCT FROM a.{quoted(name)}" for name in key.columns)
        kept = f" AND NOT EXISTS (SELECT FROM removed r WHERE {unchanged})"
    found = _equal("p.", key.to_columns, "a.", key.columns)
    return f"""SELECT {_values(key, "a")} INTO found_values FROM added a WHERE {_given(key, "a")}
    AND NOT EXISTS (SELECT FROM {visible(key.to_schema, key.to_table)} p WHERE {found}){kept} LIMIT 1;
  IF FOUND THEN {_missing(key)} END IF;
  """


def _deferred_reference(table: Table, key: ForeignKey, layout: Layout, written: str, visible: Visible) -> Iterator[str]:
    schema = layout.schemas[table.schema]
    function = qualified(schema, layout.inner(table, f"refers_{key.name}"))
    found = _equal("p.", key.to_columns, "NEW.", key.columns)
    still = " AND ".join(f"a.{quoted(name)} IS NOT DISTINCT FROM NEW.{quoted(name)}" for name in key.columns)
    rows = [column.name for column in table.primary_key]
    alive = f" AND EXISTS (SELECT FROM {written} a WHERE {still}{_same_row(rows)})"
    yield f"""CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $tenancy$
DECLARE found_values text := {_values(key, "NEW")};
BEGIN
IF {_given(key, "NEW")} AND NOT EXISTS (SELECT FROM {visible(key.to_schema, key.to_table)} p WHERE {found}){alive} THEN
  {_missing(key)}
END IF;
RETURN NULL;
END $tenancy$"""
    yield (
        f"CREATE CONSTRAINT TRIGGER {quoted(key.name)} AFTER INSERT OR UPDATE ON {written} DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW EXECUTE FUNCTION {function}()"
    )


def _same_row(names: list[str]) -> str:
    return "".join(f" AND a.{quoted(name)} = NEW.{quoted(name)}" for name in names)


class References:
    """
    What becomes of the rows that refer to one that is deleted, or whose key is changed, where PostgreSQL does not see to that by itself.

    Args:
        table: The table that is referred to.
        layout: The partition.
        visible: What a key sees of tables.
        keys: The foreign keys that refer to it.
        own: The names of its constraints that are checked row by row, and not before the end of a statement.
    """

    def __init__(self, table: Table, layout: Layout, visible: Visible, keys: Iterable[ForeignKey], own: Iterable[str]) -> None:
        self._table = table
        self._layout = layout
        self._visible = visible
        self._keys = list(keys)
        self._own = list(own)

    @property
    def deletes(self) -> str:
        """
        What a deletion of the row OLD does, in PL/pgSQL.
        """
        return "".join(self._action(key, key.on_delete, deleted=True) for key in self._keys)

    @property
    def moves(self) -> str:
        """
        What an update from OLD to NEW does.
        """
        found = []
        for key in self._keys:
            action = self._action(key, key.on_update, deleted=False)
            if action:
                changed = f"ROW({_columns(key.to_columns, 'NEW.')}) IS DISTINCT FROM ROW({_columns(key.to_columns, 'OLD.')})"
                found.append(f"IF {changed} THEN {action} END IF;\n")
        return "".join(found)

    def _action(self, key: ForeignKey, action: str, *, deleted: bool) -> str:
        child = self._visible(key.schema, key.table)
        where = _equal("", key.columns, "OLD.", key.to_columns)
        if action == "c" and deleted:
            return f"DELETE FROM {child} WHERE {where};\n"
        if action == "c":
            to = ", ".join(f"{quoted(one)} = NEW.{quoted(other)}" for one, other in zip(key.columns, key.to_columns, strict=True))
            return f"UPDATE {child} SET {to} WHERE {where};\n"
        if action in ("n", "d"):
            word = "NULL" if action == "n" else "DEFAULT"
            return f"UPDATE {child} SET {', '.join(f'{quoted(name)} = {word}' for name in key.columns)} WHERE {where};\n"
        if action == "r":
            return f"IF EXISTS (SELECT FROM {child} WHERE {where}) THEN {self._referred(key, 'OLD')} END IF;\n"
        return ""

    def _referred(self, key: ForeignKey, row: str) -> str:
        values = "concat_ws(', ', " + _columns(key.to_columns, f"{row}.") + ")"
        detail = _detail(key.to_columns, values, f') is still referenced from table "{key.table}".')
        message = f'update or delete on table "{key.to_table}" violates foreign key constraint "{key.name}" on table "{key.table}"'
        return _raised(message, "foreign_key_violation", key, key.name, detail)

    def triggers(self, *, overlay: bool) -> Iterator[str]:
        """
        Yield what checks at the end of a statement, or of the transaction where that is when the constraint is checked, that nothing refers
        to what is gone; for a table that is no overlay also what else becomes of what does.

        Args:
            overlay: Whether the table is an overlay.
        """
        table, layout = self._table, self._layout
        names = layout.names(table)
        schema = layout.schemas[table.schema]
        ended = [qualified(schema, name) for name in self._own]
        for number, key in enumerate(self._keys):
            if "a" not in (key.on_delete, key.on_update):
                continue
            function, trigger = f"{names.references[:-1]}_{number}{names.references[-1]}", layout.inner(table, f"referred_{number}")
            yield self._check(key, function, overlay=overlay)
            run = f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
            if overlay:
                hiding = layout.inner(table, f"hidden_{number}")
                yield f"CREATE CONSTRAINT TRIGGER {quoted(trigger)} AFTER DELETE OR UPDATE ON {names.delta} {run}"
                yield f"CREATE CONSTRAINT TRIGGER {quoted(hiding)} AFTER INSERT ON {names.hidden} {run}"
            else:
                hiding = trigger
                yield f"CREATE CONSTRAINT TRIGGER {quoted(trigger)} AFTER DELETE OR UPDATE ON {names.table} {run}"
            if not key.deferred:
                ended += sorted({qualified(schema, trigger), qualified(schema, hiding)})
        if ended:
            constraints = ", ".join(ended)
            yield f"""CREATE FUNCTION {names.after}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $tenancy$
BEGIN
SET CONSTRAINTS {constraints} IMMEDIATE;
SET CONSTRAINTS {constraints} DEFERRED;
RETURN NULL;
END $tenancy$"""
            for on in (names.table, names.delta) if overlay else (names.table,):
                events = "UPDATE" if on == names.delta else "UPDATE OR DELETE"
                events = f"INSERT OR {events}" if self._own else events
                # What the view's trigger writes there row by row is not the end of anything.
                outermost = " WHEN (pg_trigger_depth() = 0)" if on == names.delta else ""
                yield f"CREATE TRIGGER tenancy_z_after AFTER {events} ON {on} FOR EACH STATEMENT{outermost} EXECUTE FUNCTION {names.after}()"
        deletes, moves = ("", "") if overlay else (self.deletes, self.moves)
        if deletes or moves:
            yield f"""CREATE FUNCTION {names.writes}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $tenancy$
BEGIN
IF TG_OP = 'DELETE' THEN
  {deletes}
ELSE
  {moves}
END IF;
RETURN NULL;
END $tenancy$"""
            yield f"CREATE TRIGGER tenancy_writes AFTER DELETE OR UPDATE ON {names.table} FOR EACH ROW EXECUTE FUNCTION {names.writes}()"

    def _check(self, key: ForeignKey, function: str, *, overlay: bool) -> str:
        table = self._table
        names = self._layout.names(table)
        hidden = ""
        if overlay:
            primary = [column.name for column in table.primary_key]
            hidden = f"""
IF TG_OP = 'INSERT' THEN
  SELECT b.* INTO gone FROM {table.sql} b WHERE {_equal("b.", primary, "NEW.", primary)};
  IF NOT FOUND THEN RETURN NULL; END IF;
ELSE
  gone := OLD;
END IF;"""
        start = hidden or "\ngone := OLD;"
        still = _equal("p.", key.to_columns, "gone.", key.to_columns)
        referring = _equal("c.", key.columns, "gone.", key.to_columns)
        return f"""CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $tenancy$
DECLARE gone record;
BEGIN{start}
IF NOT EXISTS (SELECT FROM {names.table} p WHERE {still})
  AND EXISTS (SELECT FROM {self._visible(key.schema, key.table)} c WHERE {referring}) THEN
  {self._referred(key, "gone")}
END IF;
RETURN NULL;
END $tenancy$"""
