"""
What a partition is made of: for each table what its mode asks for. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...errors import PartitionError
from .checks import checks, within_statement
from .deferred import deferred_uniques
from .layout import Layout
from .modes import OWN, Mode, Rows, value_of
from .overlay import delta, fault, indexed, own_table, view, writes
from .references import References, kept
from .refusals import refusals, unserved
from .structure import ForeignKey, Table, View, dollar_quoted, literal, qualified, quoted
from .working import Working

__all__ = ["Plan"]


class Plan:
    """
    What a partition is made of.

    Args:
        layout: What its things are called.
        tables: The baseline's tables.
        views: The baseline's views, each after those that it is made of.
        modes: The mode of each table.
        reader: The role by whose rights views and functions look at the baseline.
        keyed: The role that statements of a key are run by.
    """

    def __init__(
        self,
        layout: Layout,
        tables: Iterable[Table],
        views: Iterable[View],
        modes: Callable[[Table], Mode | Rows],
        *,
        reader: str,
        keyed: str,
    ) -> None:
        self.layout = layout
        self._reader, self._keyed = quoted(reader), quoted(keyed)
        self.tables = {(table.schema, table.name): (table, modes(table)) for table in tables}
        views = list(views)
        left_out = unserved(views, {table.full_name: mode for table, mode in self.tables.values()})
        self._views = [each for each in views if (each.schema, each.name) not in left_out]
        self._referring = self._by_target()
        self._working = self._shared()

    def refusals(self) -> list[str]:
        """
        Return what stands against it.
        """
        return refusals(self.tables.values())

    def _of(self, *modes: str) -> list[Table]:
        return [table for table, mode in self.tables.values() if mode in modes]

    def visible(self, schema: str, name: str) -> str:
        """
        Return for SQL what a table is for the key.
        """
        found = self.tables.get((schema, name))
        return qualified(schema, name) if found is None or found[1] == "readonly" else self.layout.place(schema, name)

    def _by_triggers(self, key: ForeignKey) -> bool:
        """
        Return whether triggers are to check a foreign key in the partition, since one of its ends is no table of the key's own.
        """
        # A real one to the baseline's table would keep the baseline from deleting what the key's rows refer to.
        _, target = self.tables.get((key.to_schema, key.to_table), (None, "readonly"))
        return not (self.tables[key.schema, key.table][1] in OWN and target in OWN)

    def _by_target(self) -> dict[str, list[ForeignKey]]:
        """
        The foreign keys of a key's own rows that are checked by triggers, by the table that they refer to; oldest first.
        """
        found: dict[str, list[ForeignKey]] = {table.full_name: [] for table, _ in self.tables.values()}
        every = [key for table, mode in self.tables.values() if mode != "readonly" for key in table.foreign_keys]
        for key in sorted(every, key=lambda key: key.order):
            if self._by_triggers(key):
                found.setdefault(f"{key.to_schema}.{key.to_table}", []).append(key)
        return found

    def _remover(self, key: ForeignKey) -> Table | None:
        """
        The table that a foreign key refers to, if its rows can be gone for the key.
        """
        table, mode = self.tables.get((key.to_schema, key.to_table), (None, "readonly"))
        return table if mode == "overlay" or mode in OWN else None

    def storage(self) -> Iterator[str]:
        """
        Yield what makes the schemas, and the tables that keep a key's rows.
        """
        for own in self.layout.schemas.values():
            yield f"CREATE SCHEMA {quoted(own)}"
        for table in self._of("overlay"):
            yield from delta(table, self.layout.names(table))
        for table in self._of(*OWN):
            name = self.layout.relation(table)
            yield own_table(table, name)
            if self.tables[table.schema, table.name][1] == "copy":
                columns = ", ".join(quoted(column.name) for column in table.stored)
                yield f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {table.sql}"
            for index in table.indexes:
                yield indexed(name, index)
        yield from self.foreign_keys()

    def foreign_keys(self) -> Iterator[str]:
        """
        Yield what makes the foreign keys that PostgreSQL can check in the partition by itself.
        """
        for table in self._of(*OWN):
            for key in table.foreign_keys:
                if not self._by_triggers(key):
                    yield self._native(key)

    def _native(self, key: ForeignKey) -> str:
        columns = ", ".join(quoted(name) for name in key.columns)
        target = self.visible(key.to_schema, key.to_table)
        relation = self.layout.place(key.schema, key.table)
        return (
            f"ALTER TABLE {relation} ADD CONSTRAINT {quoted(key.name)} FOREIGN KEY ({columns}) REFERENCES {target}{key.definition}"
        )

    def surface(self) -> Iterator[str]:
        """
        Yield what stands before those tables: views, functions and triggers; and who may do what. All of it can be made anew.
        """
        overlays = self._of("overlay")
        for table in overlays:
            yield from view(table, self.layout)
        yield from self._working.storage(self._reader)
        for table, mode in self.tables.values():
            if isinstance(mode, Rows):
                yield from self._rows(table, mode)
        for table, mode in self.tables.values():
            if mode != "overlay" and mode not in OWN:
                continue
            names = self.layout.names(table)
            overlay = mode == "overlay"
            written = names.delta if overlay else names.table
            keys = [key for key in table.foreign_keys if self._by_triggers(key)]
            yield from checks(table, self.layout, self._working, written, self.visible, keys, self._remover, overlay=overlay)
            if overlay:
                yield from writes(table, self.layout, self._references(table))
                yield from fault(table, names)
                yield from deferred_uniques(table, self.layout)
            yield from self._references(table).triggers()
            if not overlay:
                yield from self._triggers(table, names.table)
        yield from self._rights()
        if self._views:  # their queries are about whatever is found first
            yield f"SELECT set_config('search_path', {literal(self.layout.path)}, true)"
        for each in self._views:
            yield f"CREATE VIEW {self.layout.place(each.schema, each.name)} AS {each.definition}"
            yield f"GRANT SELECT ON {self.layout.place(each.schema, each.name)} TO {self._keyed}"

    def _shared(self) -> Working:
        changed, referred, deferred = [], [], []
        for table in self._of("overlay", *OWN):
            keys, own = self._referring[table.full_name], self._within(table)
            if keys:
                referred.append(table)
            if keys or own or self._overlaid(table):
                changed.append((table, kept(table, keys, own)))
            deferred += [key for key in keys if key.deferred]
        return Working(self.layout, changed, referred, deferred)

    def _overlaid(self, table: Table) -> bool:
        return self.tables[table.schema, table.name][1] == "overlay"

    def _within(self, table: Table) -> list[ForeignKey]:
        return [key for key in table.foreign_keys if within_statement(key)] if self._overlaid(table) else []

    def _references(self, table: Table) -> References:
        own, overlay = self._within(table), self._overlaid(table)
        return References(table, self.layout, self._working, self.visible, self._referring[table.full_name], own, overlay=overlay)

    def _triggers(self, table: Table, name: str) -> Iterator[str]:
        for _, definition in table.triggers:
            # Quoted or not, as PostgreSQL finds necessary.
            places = [f" ON {a}.{b} " for a in (table.schema, quoted(table.schema)) for b in (table.name, quoted(table.name))]
            head, on, rest = next((parts for place in places if (parts := definition.partition(place))[1]), (definition, "", ""))
            if not on:
                raise PartitionError(f"{table.full_name}: the trigger is defined in a way that is not understood: {definition}")
            yield f"{head} ON {name} {rest}"
        for trigger, fires in table.firing:
            yield f"ALTER TABLE {name} ENABLE {fires} TRIGGER {quoted(trigger)}"

    def _rows(self, table: Table, mode: Rows) -> Iterator[str]:
        name, column = self.layout.relation(table), quoted(mode.column)
        value = value_of(table, mode, self.layout.key)
        columns = ", ".join(quoted(each.name) for each in table.columns)
        yield f"CREATE VIEW {name} AS SELECT {columns} FROM {table.sql} WHERE {column} = {value} WITH CASCADED CHECK OPTION"
        for each in table.columns:
            default = value if each.name == mode.column else each.default
            if default is not None:
                yield f"ALTER VIEW {name} ALTER COLUMN {quoted(each.name)} SET DEFAULT {default}"
        # The reader, for what a change of another table does to rows that refer to it.
        yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {self._keyed}, {self._reader}"

    def _rights(self) -> Iterator[str]:
        reader, keyed = self._reader, self._keyed
        for schema, own in self.layout.schemas.items():
            yield f"GRANT USAGE ON SCHEMA {quoted(own)} TO {keyed}"
            yield f"GRANT USAGE, CREATE ON SCHEMA {quoted(own)} TO {reader}"
            yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {reader}, {keyed}"
            # What counts is the baseline's, so that no number is given out twice; to set it back takes another right.
            yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {quoted(schema)} TO {reader}, {keyed}"
        overlays = self._of("overlay")
        if overlays:  # for all of them at once, which takes less time
            names = [self.layout.names(table) for table in overlays]
            bases, views = ", ".join(table.sql for table in overlays), ", ".join(each.table for each in names)
            deltas, hidden = ", ".join(each.delta for each in names), ", ".join(each.hidden for each in names)
            yield f"GRANT SELECT ON {bases} TO {reader}"
            yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {deltas} TO {reader}"
            yield f"GRANT SELECT, INSERT ON {hidden} TO {reader}"
            yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {views} TO {keyed}, {reader}"
            # Rows that are written many at once go there by themselves, and are checked there.
            yield f"GRANT SELECT, INSERT, UPDATE ON {deltas} TO {keyed}"
            yield from (f"ALTER VIEW {each.table} OWNER TO {reader}" for each in names)
        referred = []
        for table in self._of(*OWN):
            name = self.layout.relation(table)
            # What triggers check is not looked at by TRUNCATE.
            truncate = "" if self._referring[table.full_name] else "TRUNCATE, "
            referred += [] if truncate else [name]
            yield f"GRANT SELECT, INSERT, UPDATE, DELETE, {truncate}REFERENCES ON {name} TO {keyed}, {reader}"
        if referred:  # a migration may have had it referred to
            yield f"REVOKE TRUNCATE ON {', '.join(referred)} FROM {keyed}, {reader}"
        for table in self._of("readonly"):
            yield f"GRANT SELECT ON {table.sql} TO {keyed}, {reader}"
        outside = {
            (key.to_schema, key.to_table)
            for table, mode in self.tables.values()
            if mode != "readonly"
            for key in table.foreign_keys
            if (key.to_schema, key.to_table) not in self.tables
        }
        for schema in sorted({schema for schema, _ in outside} - self.layout.schemas.keys()):
            yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {reader}"
        for schema, name in sorted(outside):
            yield f"GRANT SELECT ON {qualified(schema, name)} TO {reader}"
        # What looks at the baseline does so by this role's rights, which are to read it, and no others.
        for own in self.layout.schemas.values():
            body = f"""
DECLARE f regprocedure;
BEGIN
FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = {literal(quoted(own))}::regnamespace AND prosecdef LOOP
  EXECUTE format('ALTER FUNCTION %s OWNER TO %s', f, {literal(reader)});
END LOOP;
END """
            yield f"DO {dollar_quoted(body)}"
