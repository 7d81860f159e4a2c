"""
The SQL of what becomes of rows that refer to one that is deleted, or whose key is changed, where PostgreSQL does not see to it by itself.
Pure.

As PostgreSQL does, it is seen to when the statement is over, row by row, for each foreign key in the order in which they were made
(https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-PARMS-REFERENCES). Until then what was changed is written
down in a table, which is empty again at the statement's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .checks import Visible, fulfilled, given, missing, referred, rows_equal
from .layout import Layout
from .structure import Column, ForeignKey, Table, dollar_quoted, quoted
from .working import Working

__all__ = ["References", "kept"]


def kept(table: Table, keys: Iterable[ForeignKey], own: Iterable[ForeignKey]) -> list[Column]:
    """
    Return the columns of a table that have to be known of a row that was changed.

    Args:
        table: The table.
        keys: The foreign keys that refer to it.
        own: Those of its own that are checked when the statement is over.
    """
    moved = {name for key in keys for name in key.to_columns} | {name for key in own for name in key.columns}
    primary = {column.name for column in table.primary_key}
    return [column for column in table.columns if column.name in moved | primary]


class References:
    """
    What a change of a table does to what refers to it.

    Args:
        table: The table that is referred to.
        layout: The partition.
        working: What its statements work with.
        visible: What a key sees of tables.
        keys: The foreign keys that refer to it, oldest first.
        own: Those of its own foreign keys that rows of one statement can fulfil for one another, and that are checked when it is over.
        overlay: Whether the table is an overlay.
    """

    def __init__(
        self,
        table: Table,
        layout: Layout,
        working: Working,
        visible: Visible,
        keys: Iterable[ForeignKey],
        own: Iterable[ForeignKey],
        *,
        overlay: bool,
    ) -> None:
        self._table = table
        self._names = layout.names(table)
        self._layout = layout
        self._visible = visible
        self._keys = list(keys)
        self._own = list(own)
        self._overlay = overlay
        self._working = working
        self._places: dict[str, int] = working.places(table) if self._needed else {}
        self._mine = f"tab = {working.number(table)}" if self._needed else ""

    @property
    def _needed(self) -> bool:
        return self._overlay or bool(self._keys or self._own)

    def noted(self, event: str) -> str:
        """
        Return what writes down a row that was inserted, updated or deleted, in PL/pgSQL with NEW and OLD.

        Args:
            event: ``I``, ``U`` or ``D``; ``S`` for an update that changes nothing.
        """
        if event == "I" and not self._own:
            return ""
        places, values = ["tab", "event"], [str(self._working.number(self._table)), f"'{event}'"]
        if self._overlay and event != "I":
            places.append("mark")
            values.append(self._working.mark("OLD", self._table.primary_key))
        for name, at in self._places.items():
            if event != "I":
                places.append(f"o{at}")
                values.append(f"OLD.{quoted(name)}")
            if event in ("I", "U"):
                places.append(f"n{at}")
                values.append(f"NEW.{quoted(name)}")
        insert = f"INSERT INTO {self._working.changed} ({', '.join(places)}) VALUES ({', '.join(values)});"
        return f"IF {self._moved('OLD', 'NEW')} THEN {insert} END IF;" if event == "U" else insert

    def twice(self) -> str:
        """
        Return the condition under which the row OLD was deleted, moved or left as it is by this statement already.
        """
        key = self._table.primary_key
        same = " AND ".join(f"q.o{self._places[column.name]} = OLD.{quoted(column.name)}" for column in key)
        return f"EXISTS (SELECT FROM {self._working.changed} q WHERE q.{self._mine} AND q.mark = {self._working.mark('OLD', key)} AND {same})"

    def _moved(self, old: str, new: str) -> str:
        sides = [", ".join(f"{row}.{quoted(name)}" for name in self._places) for row in (old, new)]
        return f"ROW({sides[0]}) IS DISTINCT FROM ROW({sides[1]})"

    def triggers(self) -> Iterator[str]:
        """
        Yield what writes changes down, and sees to them.
        """
        if not self._needed:
            return
        names = self._names
        yield self._after()
        if self._overlay:
            yield (
                f"CREATE TRIGGER tenancy_z_after AFTER INSERT OR UPDATE OR DELETE ON {names.table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {names.after}()"
            )
        if self._keys or self._own:
            written = names.delta if self._overlay else names.table
            # What the view's trigger writes there row by row it writes down itself, and it is not the end of anything.
            outermost = "pg_trigger_depth() = 0" if self._overlay else "true"
            events = "UPDATE" if self._overlay else "UPDATE OR DELETE"
            yield (
                f"CREATE TRIGGER tenancy_notes AFTER {events} ON {written} FOR EACH ROW WHEN ({outermost}) "
                f"EXECUTE FUNCTION {names.after}()"
            )
            yield (
                f"CREATE TRIGGER tenancy_z_after AFTER {events} ON {written} FOR EACH STATEMENT WHEN ({outermost}) "
                f"EXECUTE FUNCTION {names.after}()"
            )
        for number, key in enumerate(self._keys):
            if key.deferred:
                yield from self._deferred(number, key)

    def _after(self) -> str:
        changed, stripes = self._working.changed, self._working.stripes
        # Earlier statements of this transaction have left dead rows behind, which are not to be gone through each time; two bounds make
        # the planner use the index.
        setting = f"tenancy.seen_{self._table.number}"
        unseen = f"{self._mine} AND at > seen AND at <= last"
        lock = ""
        if self._keys:
            hashes = " UNION ".join(
                f"SELECT {self._working.stripe(self._table, (f'w.o{self._places[name]}' for name in columns))} FROM {changed} w "
                f"WHERE w.event IN ('D', 'U') AND {unseen}"
                for columns in sorted({key.to_columns for key in self._keys})
            )
            # Whoever makes a row refer to one of these waits here, or has to be waited for.
            lock = (
                f"WITH locked AS MATERIALIZED (SELECT n FROM {stripes} WHERE n IN ({hashes}) ORDER BY n FOR UPDATE) "
                f"UPDATE {stripes} s SET n = s.n FROM locked WHERE s.n = locked.n;\n"
            )
        actions = "".join(self._reaction(key) for key in self._keys)
        own = "".join(self._fulfilled(key, "q") for key in self._own if not key.deferred)
        # One function for rows and for statements, since to make one takes its time.
        noted = ""
        if self._keys or self._own:
            noted = f"""IF TG_LEVEL = 'ROW' THEN
  IF TG_OP = 'UPDATE' THEN
    {self.noted("U")}
  ELSE
    {self.noted("D")}
  END IF;
  RETURN NULL;
END IF;
"""
        loop = f"""FOR q IN SELECT * FROM {changed} WHERE {unseen} ORDER BY at LOOP
{actions}{own}END LOOP;
"""
        # What is deferred, and is not at the moment, is checked when the rows are taken away.
        body = f"""
#variable_conflict use_column
DECLARE
  q record;
  seen bigint := coalesce(nullif(current_setting('{setting}', true), ''), '0');
  last bigint;
BEGIN
{noted}last := (SELECT max(at) FROM {changed} WHERE {self._mine} AND at > seen AND at < seen + 1000000000000);
IF last IS NULL THEN RETURN NULL; END IF;
PERFORM set_config('{setting}', last::text, true);
{lock}{loop if actions or own else ""}DELETE FROM {changed} WHERE {unseen};
RETURN NULL;
END """
        return f"CREATE FUNCTION {self._names.after}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"

    def _old(self, name: str) -> str:
        return f"q.o{self._places[name]}"

    def _new(self, name: str) -> str:
        return f"q.n{self._places[name]}"

    def _changes(self, names: Iterable[str], change: str = "q") -> str:
        places = [self._places[name] for name in names]
        left, right = (", ".join(f"{change}.{side}{at}" for at in places) for side in "on")
        return f"ROW({left}) IS DISTINCT FROM ROW({right})"

    def _reaction(self, key: ForeignKey) -> str:
        deletion, update = self._action(key, key.on_delete, deleted=True), self._action(key, key.on_update, deleted=False)
        found = f"  IF q.event = 'D' THEN\n    {deletion}\n" if deletion else "  IF q.event = 'D' THEN NULL;\n"
        if update:
            found += f"  ELSIF q.event = 'U' AND {self._changes(key.to_columns)} THEN\n    {update}\n"
        return found + "  END IF;\n" if deletion or update else ""

    def _action(self, key: ForeignKey, action: str, *, deleted: bool) -> str:
        child = self._visible(key.schema, key.table)
        pairs = list(zip(key.columns, key.to_columns, strict=True))
        where = " AND ".join(f"{quoted(one)} = {self._old(other)}" for one, other in pairs)
        if action == "c" and deleted:
            return f"DELETE FROM {child} WHERE {where};"
        if action == "c":
            return f"UPDATE {child} SET {', '.join(f'{quoted(one)} = {self._new(other)}' for one, other in pairs)} WHERE {where};"
        if action in ("n", "d"):
            word = "NULL" if action == "n" else "DEFAULT"
            columns = key.set_columns if deleted and key.set_columns else key.columns
            update = f"UPDATE {child} SET {', '.join(f'{quoted(name)} = {word}' for name in columns)} WHERE {where};"
            # A default that is the key that is gone changes nothing, and so is not checked as a change.
            return update + (f"\n    {self._unreferred(key, self._old, still=True)}" if action == "d" else "")
        if action == "r" or not key.deferred:
            return self._unreferred(key, self._old, still=action != "r")
        return ""

    def _unreferred(self, key: ForeignKey, old: Callable[[str], str], *, still: bool) -> str:
        """
        What raises if a row that is gone is referred to; and, if that is allowed to help, no other has its key now.
        """
        pairs = list(zip(key.columns, key.to_columns, strict=True))
        where = " AND ".join(f"c.{quoted(one)} = {old(other)}" for one, other in pairs)
        there = " AND ".join(f"p.{quoted(other)} = {old(other)}" for other in key.to_columns)
        there = f" AND NOT EXISTS (SELECT FROM {self._names.table} p WHERE {there})" if still else ""
        values = f"concat_ws(', ', {', '.join(old(name) for name in key.to_columns)})"
        child = self._visible(key.schema, key.table)
        return f"IF EXISTS (SELECT FROM {child} c WHERE {where}){there} THEN {referred(key, values)} END IF;"

    def _fulfilled(self, key: ForeignKey, change: str) -> str:
        row = {name: f"{change}.n{self._places[name]}" for name in key.columns}
        target = {other: row[one] for one, other in zip(key.columns, key.to_columns, strict=True)}
        primary = {column.name: f"{change}.n{self._places[column.name]}" for column in self._table.primary_key}
        # As everywhere, what has been changed again since is not looked at.
        alive = f"{fulfilled('a', primary)} AND {rows_equal('a', row)}"
        values = f"concat_ws(', ', {', '.join(row.values())})"
        return f"""  IF ({change}.event = 'I' OR {change}.event = 'U' AND {self._changes(key.columns, change)}) AND {given(key, row)} THEN
    PERFORM FROM {self._working.stripes} s WHERE s.n = {self._working.stripe(self._table, row.values())} FOR SHARE;
    IF NOT EXISTS (SELECT FROM {self._names.table} p WHERE {fulfilled("p", target)})
      AND EXISTS (SELECT FROM {self._names.delta} a WHERE {alive}) THEN {missing(key, values)} END IF;
  END IF;
"""

    def _deferred(self, number: int, key: ForeignKey) -> Iterator[str]:
        function = f"{self._names.references[:-1]}_{number}{self._names.references[-1]}"
        events = [f"'{event}'" for event, action in (("D", key.on_delete), ("U", key.on_update)) if action == "a"]
        body = ""
        if events:
            gone = f"OLD.event IN ({', '.join(events)}) AND {self._changes(key.to_columns, 'OLD')}"
            body = f"  IF {gone} THEN {self._unreferred(key, lambda name: f'OLD.o{self._places[name]}', still=True)} END IF;\n"
        if key in self._own:
            body += self._fulfilled(key, "OLD")
        if not body:
            return
        body = f"""
#variable_conflict use_column
BEGIN
{body}RETURN NULL;
END """
        yield f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"
        name = key.name if self._working.first(key) else self._layout.inner(self._table, f"referred_{number}")
        yield (
            f"CREATE CONSTRAINT TRIGGER {quoted(name)} AFTER DELETE ON {self._working.changed} DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW WHEN (OLD.{self._mine} AND OLD.event IN ('I', 'U', 'D')) EXECUTE FUNCTION {function}()"
        )
