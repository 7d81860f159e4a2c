"""
Reads the baseline's tables from PostgreSQL's catalogue (https://www.postgresql.org/docs/current/catalogs.html).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from .structure import Column, ForeignKey, Index, Policy, Relation, Table, View, literal, qualified, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["missing_schemas", "read_tables", "read_views", "relation_names"]

_WRITTEN = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "quote_all_identifiers": "off",
}

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid) AND c.relkind <> 'p' AS inherits
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY n.nspname, c.relname"""

_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid),
       a.attgenerated <> '', a.attidentity::text, a.attnotnull,
       CASE WHEN a.attidentity <> '' THEN pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname) END, a.attcollation
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""

_INDEXES = """
SELECT i.indrelid, x.relname, pg_get_constraintdef(o.oid), pg_get_indexdef(i.indexrelid), i.indisunique, i.indisprimary,
       coalesce(o.contype = 'x', false),
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k),
       pg_get_expr(i.indpred, i.indrelid), coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false), c.relkind = 'p',
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY(i.indkey) OR
             EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
             ORDER BY a.attnum),
       CASE WHEN i.indisunique THEN i.indkey::int[] END, CASE WHEN i.indisunique THEN i.indcollation::oid[] END
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
     LEFT JOIN pg_constraint o ON o.conindid = i.indexrelid AND o.conrelid = i.indrelid AND o.contype IN ('p', 'u', 'x')
WHERE i.indrelid = ANY(%(oids)s::oid[]) AND i.indisvalid
ORDER BY i.indrelid, i.indexrelid"""

_COLLATIONS = """
SELECT l.oid, format('%%I.%%I', n.nspname, l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE l.oid = ANY(%(oids)s::oid[])"""
_DEFAULT_COLLATION = 100  # the number of "default", as the server's sources fix it

_FOREIGN_KEYS = """
SELECT o.conrelid, o.conname, n.nspname, c.relname,
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k(num, at) JOIN pg_attribute a
             ON a.attrelid = o.conrelid AND a.attnum = k.num ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k(num, at) JOIN pg_attribute a
             ON a.attrelid = o.confrelid AND a.attnum = k.num ORDER BY k.at),
       o.confdeltype::text, o.confupdtype::text, o.confmatchtype = 'f', o.condeferrable, o.condeferred, pg_get_constraintdef(o.oid),
       ARRAY(SELECT a.attname::text FROM jsonb_array_elements_text(nullif(to_jsonb(o) -> 'confdelsetcols', 'null')) k(num)
             JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num::integer),
       rank() OVER (ORDER BY o.oid),
       format('FOREIGN KEY (%%s) REFERENCES %%I.%%I',
              (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.at) FROM unnest(o.conkey) WITH ORDINALITY k(num, at)
               JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num), n.nspname, c.relname)
FROM pg_constraint o JOIN pg_class c ON c.oid = o.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE o.conrelid = ANY(%(oids)s::oid[]) AND o.contype = 'f' AND o.conparentid = 0
ORDER BY o.conrelid, o.oid"""

_TRIGGERS = """
SELECT tgrelid, tgname, pg_get_triggerdef(oid), CASE tgenabled WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END FROM pg_trigger
WHERE tgrelid = ANY(%(oids)s::oid[]) AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgrelid, tgname"""

_CHECKS = """
SELECT conrelid, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = ANY(%(oids)s::oid[]) AND contype = 'c' ORDER BY conrelid, conname"""

# What keeps a table from some modes: rules, policies, what refers to it from elsewhere, and what its partitions have for themselves.
_FURTHER = """
WITH RECURSIVE leaf(root, oid) AS (
  SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
  WHERE c.relkind = 'p' AND c.oid = ANY(%(oids)s::oid[])
  UNION ALL SELECT l.root, i.inhrelid FROM leaf l JOIN pg_inherits i ON i.inhparent = l.oid
), own(root, oid, thing) AS (
  SELECT l.root, l.oid, format('the unique index %%s', x.relname) FROM leaf l JOIN pg_index i ON i.indrelid = l.oid
    JOIN pg_class x ON x.oid = i.indexrelid
    WHERE (i.indisunique OR i.indisexclusion) AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
  UNION ALL SELECT l.root, l.oid, format('the constraint %%s', o.conname) FROM leaf l JOIN pg_constraint o ON o.conrelid = l.oid
    WHERE (o.contype = 'c' AND o.conislocal AND o.coninhcount = 0) OR (o.contype = 'f' AND o.conparentid = 0)
  UNION ALL SELECT l.root, l.oid, format('the foreign key %%s, which refers to it,', o.conname) FROM leaf l
    JOIN pg_constraint o ON o.confrelid = l.oid WHERE o.contype = 'f' AND o.conparentid = 0
  UNION ALL SELECT l.root, l.oid, format('NOT NULL for %%s', a.attname) FROM leaf l JOIN pg_attribute a ON a.attrelid = l.oid
    WHERE a.attnum > 0 AND a.attnotnull AND EXISTS (
      SELECT FROM pg_attribute b WHERE b.attrelid = l.root AND b.attname = a.attname AND NOT b.attnotnull)
  UNION ALL SELECT l.root, l.oid, format('the trigger %%s', t.tgname) FROM leaf l JOIN pg_trigger t ON t.tgrelid = l.oid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'D'
  UNION ALL SELECT l.root, l.oid, format('the rule %%s', r.rulename) FROM leaf l JOIN pg_rewrite r ON r.ev_class = l.oid
    WHERE r.ev_type <> '1' AND r.rulename <> '_RETURN' AND r.ev_enabled <> 'D'
  UNION ALL SELECT l.root, l.oid, 'row security' FROM leaf l JOIN pg_class c ON c.oid = l.oid WHERE c.relrowsecurity
)
SELECT ev_class, 'rule', rulename::text, pg_get_ruledef(oid), false FROM pg_rewrite
  WHERE ev_class = ANY(%(oids)s::oid[]) AND ev_type <> '1' AND rulename <> '_RETURN' AND ev_enabled <> 'D'
UNION ALL SELECT polrelid, 'policy', polname::text, concat_ws(' ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)),
  0 = ANY(polroles) FROM pg_policy WHERE polrelid = ANY(%(oids)s::oid[])
UNION ALL SELECT confrelid, 'reference', conname::text, conrelid::regclass::text,
    confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd')
  FROM pg_constraint WHERE confrelid = ANY(%(oids)s::oid[]) AND contype = 'f' AND conparentid = 0 AND NOT conrelid = ANY(%(oids)s::oid[])
    AND conrelid NOT IN (SELECT oid FROM leaf)
UNION ALL SELECT i.indrelid, 'operators', i.indexrelid::regclass::text, p.opcname::text, false
  FROM pg_index i JOIN pg_opclass p ON p.oid = ANY(i.indclass::oid[])
  WHERE i.indrelid = ANY(%(oids)s::oid[]) AND i.indisunique AND NOT p.opcdefault
UNION ALL SELECT root, 'leaf', oid::regclass::text, thing, false FROM own
ORDER BY 1, 2, 3, 4"""

_VIEWS = """
SELECT c.oid, n.nspname, c.relname, pg_get_viewdef(c.oid),
       ARRAY(SELECT DISTINCT d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass
             WHERE r.ev_class = c.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid),
       (SELECT json_agg(json_build_array(m.nspname, t.relname, t.relkind,
                 m.nspname IN ('pg_catalog', 'information_schema') OR EXISTS (
                   SELECT FROM pg_depend e WHERE e.objid = t.oid AND e.classid = 'pg_class'::regclass AND e.deptype = 'e'),
                 pg_table_is_visible(t.oid)) ORDER BY m.nspname, t.relname)
        FROM pg_class t JOIN pg_namespace m ON m.oid = t.relnamespace
        WHERE t.oid <> c.oid AND t.oid IN (
          SELECT d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass
          WHERE r.ev_class = c.oid AND d.refclassid = 'pg_class'::regclass))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind = 'v'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY n.nspname, c.relname"""


def read_tables(connection: Connection, schemas: Iterable[str]) -> list[Table]:
    """
    Return the tables of some schemas; partitions of a partitioned table are part of that, and what belongs to an extension is left out.

    Args:
        connection: A connection in a transaction; its ``search_path`` is another one when this returns.
        schemas: Their names.
    """
    # Without anything on the path PostgreSQL writes every name with its schema.
    with _written_alike(connection, ""):
        return _tables(connection, schemas)


def _tables(connection: Connection, schemas: Iterable[str]) -> list[Table]:
    found = _rows(connection, _TABLES, schemas=list(schemas))
    oids = [row[0] for row in found]
    columns: dict[int, list[Column]] = defaultdict(list)
    collations: dict[tuple[int, int], int] = {}
    for oid, number, name, kind, default, generated, identity, not_null, sequence, collation in _rows(
        connection, _COLUMNS, oids=oids
    ):
        collations[oid, number] = collation
        if identity:
            default = f"nextval({literal(sequence)}::regclass)"
        expression = default if generated else None
        columns[oid].append(Column(number, name, kind, None if generated else default, expression, identity, not_null))
    names = {oid: (schema, name) for oid, schema, name, *_ in found}
    indexes: dict[int, list[Index]] = defaultdict(list)
    for row, keys in _collated(connection, _rows(connection, _INDEXES, oids=oids), collations):
        oid, name, constraint, definition, unique, primary, exclusion, _, where, nulls_equal, partitioned, about = row
        if constraint is None:
            definition = _after_table(name, definition, names[oid], unique=unique, partitioned=partitioned)
        of = name, constraint or definition, constraint is not None, unique, primary, exclusion
        indexes[oid].append(Index(*of, tuple(keys), where, nulls_equal, tuple(about)))
    foreign: dict[int, list[ForeignKey]] = defaultdict(list)
    for oid, name, schema, table, own, other, on_delete, on_update, full, deferrable, deferred, text, *more in _rows(
        connection, _FOREIGN_KEYS, oids=oids
    ):
        mine = names[oid]
        columns_set, order, start = more
        if not text.startswith(start):
            raise ConfigurationError(
                f"the foreign key {name} of {qualified(*mine)} is defined in a way that is not understood: {text}"
            )
        rest = text[len(start) :]
        key = (name, *mine, tuple(own), schema, table, tuple(other), on_delete, on_update, full, deferrable, deferred, rest)
        foreign[oid].append(ForeignKey(*key, tuple(columns_set), order))
    triggers: dict[int, list[tuple[str, str]]] = defaultdict(list)
    firing: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for oid, name, definition, fires in _rows(connection, _TRIGGERS, oids=oids):
        triggers[oid].append((name, definition))
        if fires:
            firing[oid].append((name, fires))
    further: dict[tuple[int, str], list[tuple[str, str, bool]]] = defaultdict(list)
    for oid, what, name, text, flag in _rows(connection, _FURTHER, oids=oids):
        further[oid, what].append((name, text, flag))
    checks: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for oid, name, definition in _rows(connection, _CHECKS, oids=oids):
        checks[oid].append((name, definition))
    return [
        Table(
            schema,
            name,
            tuple(columns[oid]),
            oid,
            tuple(indexes[oid]),
            tuple(checks[oid]),
            tuple(foreign[oid]),
            tuple(triggers[oid]),
            inherits,
            row_security,
            forced,
            tuple(Policy(policy, public, text) for policy, text, public in further[oid, "policy"]),
            tuple(firing[oid]),
            tuple((rule, text) for rule, text, _ in further[oid, "rule"]),
            tuple(f"{thing} of its partition {leaf}" for leaf, thing, _ in further[oid, "leaf"]),
            tuple(further[oid, "reference"]),
            tuple((index, operators) for index, operators, _ in further[oid, "operators"]),
        )
        for oid, schema, name, _, row_security, forced, inherits in found
    ]


def _collated(
    connection: Connection, rows: Iterable[Any], columns: Mapping[tuple[int, int], int]
) -> Iterator[tuple[Any, list[str]]]:
    """
    Yield what was read of indexes, each with its keys; these with their collation where what is unique by it may not be by the column's.
    """
    # Looked up in the query that reads indexes, this takes many times as long as all of it.
    apart: list[dict[int, int]] = []
    rows = list(rows)
    for *row, numbers, collations in rows:
        pairs = list(zip(numbers or (), collations or (), strict=False))
        own = [(at, collation, columns.get((row[0], number), _DEFAULT_COLLATION)) for at, (number, collation) in enumerate(pairs)]
        apart.append({at: collation for at, collation, usual in own if collation not in (0, usual)})
    names: dict[int, str] = {}
    if wanted := list({collation for each in apart for collation in each.values()}):
        names = dict(_rows(connection, _COLLATIONS, oids=wanted))
    for (*row, _, _), each in zip(rows, apart, strict=True):
        yield row, [f"{key} COLLATE {names[each[at]]}" if at in each else key for at, key in enumerate(row[7])]


def read_views(connection: Connection, schemas: Iterable[str]) -> list[View]:
    """
    Return the views of some schemas, each after those that it is made of.

    Args:
        connection: A connection in a transaction; its ``search_path`` is another one when this returns.
        schemas: Their names.
    """
    path = list(schemas)
    # What can be found on the path PostgreSQL writes without its schema; so the same text is about a partition where the path begins there.
    with _written_alike(connection, ", ".join(map(quoted, path))):
        rows = _rows(connection, _VIEWS, schemas=path)
    views, waiting = {row[0] for row in rows}, {}
    for oid, schema, name, definition, needs, relations in rows:
        view = View(schema, name, definition.rstrip().rstrip(";"), tuple(Relation(*each) for each in relations or ()))
        waiting[oid] = view, set(needs) & views
    ordered: list[View] = []
    while waiting:
        ready = [oid for oid, (_, needs) in waiting.items() if not needs & waiting.keys()]
        # They cannot go round; if they did, creating them would say so.
        ordered += [waiting.pop(oid)[0] for oid in ready or list(waiting)]
    return ordered


@contextlib.contextmanager
def _written_alike(connection: Connection, path: str) -> Iterator[None]:
    # What PostgreSQL writes an expression like depends on these, and sessions may have others.
    before = connection.exec_driver_sql(f"SELECT {', '.join(f'current_setting({literal(name)})' for name in _WRITTEN)}").one()
    _set(connection, {**_WRITTEN, "search_path": path})
    yield
    # What is executed afterwards, as a change of a type, goes by the session's own.
    _set(connection, dict(zip(_WRITTEN, before, strict=True)))


def _set(connection: Connection, values: Mapping[str, str]) -> None:
    calls = ", ".join(f"set_config({literal(name)}, %({name})s, true)" for name in values)
    connection.exec_driver_sql(f"SELECT {calls}", dict(values))


def missing_schemas(connection: Connection, schemas: Iterable[str]) -> list[str]:
    """
    Return those of some schemas that are not there.
    """
    there = {
        row[0]
        for row in _rows(connection, "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%(schemas)s)", schemas=list(schemas))
    }
    return [schema for schema in schemas if schema not in there]


def relation_names(connection: Connection, schemas: Iterable[str]) -> set[str]:
    """
    Return the names of all relations of some schemas: tables, indexes, sequences, views.
    """
    sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%(schemas)s)"
    return {row[0] for row in _rows(connection, sql, schemas=list(schemas))}


def _rows(connection: Connection, sql: str, **parameters: Any) -> list[Any]:
    return list(connection.exec_driver_sql(sql, parameters).all())


def _after_table(name: str, definition: str, table: tuple[str, str], *, unique: bool, partitioned: bool) -> str:
    # Quoted or not, as PostgreSQL finds necessary.
    words = f"CREATE {'UNIQUE ' if unique else ''}INDEX "
    only = "ONLY " if partitioned else ""
    for shown in (name, quoted(name)):
        for schema in (table[0], quoted(table[0])):
            for relation in (table[1], quoted(table[1])):
                start = f"{words}{shown} ON {only}{schema}.{relation} USING "
                if definition.startswith(start):
                    return "USING " + definition[len(start) :]
    raise ConfigurationError(f"the index {name} of {qualified(*table)} is defined in a way that is not understood: {definition}")
