"""
The SQL that checks ``UNIQUE ... DEFERRABLE INITIALLY DEFERRED`` over an overlay where the baseline does: at the end of the transaction. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from .layout import Layout
from .structure import Table, dollar_quoted, literal, qualified, quoted

__all__ = ["deferred_uniques"]


def deferred_uniques(table: Table, layout: Layout) -> Iterator[str]:
    """
    Yield what checks that no row of a key's own has what a row of the baseline has that it sees, for each constraint of a table that is
    checked so late. Among the key's own rows the delta's constraint does it.

    Args:
        table: The table of the baseline, which is overlaid.
        layout: The partition.
    """
    names, schema = layout.names(table), layout.schemas[table.schema]
    primary = [quoted(column.name) for column in table.primary_key]
    for index in table.uniques:
        if not index.deferred:
            continue
        function = qualified(schema, layout.inner(table, f"unique_{index.name}"))
        labels = [f"k{at}" for at in range(len(index.keys))]
        keys = ", ".join(f"{each} AS {label}" for each, label in zip(index.keys, labels, strict=True))
        shown = ", ".join(f"{name} AS p{at}" for at, name in enumerate(primary))
        equals = "IS NOT DISTINCT FROM" if index.nulls_equal else "="
        same = " AND ".join(f"a.{label} {equals} b.{label}" for label in labels)
        # The row as it is by then, if it is still there.
        mine = " AND ".join(f"{name} = NEW.{name}" for name in primary)
        hidden = " AND ".join(f"h.{name} = b.p{at}" for at, name in enumerate(primary))
        values = " || ', ' || ".join(f"coalesce(a.{label}::text, 'null')" for label in labels)
        detail = f"{literal('Key (' + ', '.join(index.keys) + ')=(')} || found_values || ') already exists.'"
        message = literal(f'duplicate key value violates unique constraint "{index.name}"')
        body = f"""
DECLARE found_values text;
BEGIN
SELECT {values} INTO found_values FROM (SELECT {keys} FROM {names.delta} WHERE {mine}) a
  JOIN (SELECT {shown}, {keys} FROM {table.sql}) b ON {same} WHERE NOT EXISTS (SELECT FROM {names.hidden} h WHERE {hidden}) LIMIT 1;
IF FOUND THEN
  RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = 'unique_violation', CONSTRAINT = {literal(index.name)},
    TABLE = {literal(table.name)}, SCHEMA = {literal(table.schema)}, DETAIL = {detail};
END IF;
RETURN NULL;
END """
        yield f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {dollar_quoted(body)}"
        yield (
            f"CREATE CONSTRAINT TRIGGER {quoted(layout.inner(table, f'unique_{index.name}'))} AFTER INSERT OR UPDATE ON {names.delta} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
