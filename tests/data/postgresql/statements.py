"""
Random statements about the tables of `clinic`, each as SQL text or composed by SQLAlchemy.

None of them depends on the order in which PostgreSQL comes to rows: there it may do one thing or another by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from tests.data.postgresql.clinic import TABLES

__all__ = ["Block", "Control", "Statement", "Transaction", "block", "blocks"]

T = TypeVar("T")

#: Stands for a value that no other statement has.
FRESH = "@"

_NAMES = ("a", "b", "c", "d", "zz", FRESH, None)
_PEOPLE = (1, 2, 3, 4, 5, 77, 101, 201, 301, None)
_NODES = (1, 2, 3, 4, 5, 6, 77, FRESH, None)
_TASKS = (1, 2, 3, 4, 77, 101, 201, 202, None)

#: What may be in each column, with what may not.
_VALUES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "team": {
        "code": ("a", "b", "c", "d", "e", FRESH, None),
        "name": ("Alpha", "alpha", "Beta", "Omega", FRESH, FRESH, None),
        "size": (0, 1, 7, -1, None),
    },
    "person": {
        "id": (1, 2, 5, 6, 101, FRESH, None),
        "email": ("p1", "p2", "p4", "q", FRESH, FRESH, FRESH, None),
        "nick": ("n1", "n2", "n3", "n5", "n9", FRESH, None),
        "team": _NAMES,
        "boss": _PEOPLE,
        "mood": ("sad", "ok", "happy", None),
        "tags": ([], ["x"], ["x", "y'"], None),
        "data": ({"k": 1}, [], {"deep": [None, "é"]}),
        "active": (True, True, False, None),
    },
    "node": {
        "id": (1, 2, 3, 5, 6, 7, 8, FRESH),
        "parent": _NODES,
        "next": _NODES,
        "label": ("one", "bad", FRESH, None),
    },
    "link": {"id": (1, 2, 3, 4, 5, 6, 7, 8, FRESH), "next": (1, 2, 4, 6, 7, 8, FRESH, None), "prev": (1, 3, 5, 7, 8, FRESH, None)},
    "task": {
        "id": (1, 2, 4, 6, 101, FRESH),
        "owner": (*_PEOPLE[:-1], 1, 2),
        "reviewer": _PEOPLE,
        "team": _NAMES,
        "priority": (0, 3, 9, 10, None),
    },
    "member": {
        "person": (1, 2, 3, 4, 5, 77, 101, None),
        "team": ("a", "b", "c", "d", "zz", FRESH, None),
        "role": ("lead", "plain", None),
    },
    "note": {
        "id": (1, 2, 4, 6, 101, FRESH),
        "person": (1, 2, 3, 77, 101, None),
        "team": ("a", "b", "c", FRESH, None),
        "task": _TASKS,
        "body": ("text", "it's 100%", None),
    },
    "badge": {
        "name": ("gold", "iron", "tin", "new", FRESH, None),
        "email": ("p1", "p2", "p3", "zz", FRESH, None),
        "note": (1, 2, 4, 77, 101, None),
    },
}

#: Columns that an INSERT always has.
_GIVEN = {
    "team": ("code", "name"),
    "person": ("email",),
    "node": ("id",),
    "link": ("id",),
    "task": ("owner",),
    "member": ("person", "team"),
}
_GIVEN |= {"note": (), "badge": ("name",)}

#: Changes that a constant does not make; ``{n}`` is another number for each statement.
_CHANGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "team": (("code", "code || '{n}'"), ("name", "name || '{n}'"), ("size", "size + 1"), ("size", "size - 1")),
    "person": (
        ("id", "id + 1000 * {n}"),
        ("email", "email || '{n}'"),
        ("nick", "nick || '{n}'"),
        ("boss", "id"),
        ("active", "NOT active"),
        ("tags", "tags || 'more'::text"),
        ("data", "coalesce(data, '{{}}') || '[1]'"),
        ("team", "DEFAULT"),
    ),
    "node": (("id", "id + 1000 * {n}"), ("parent", "id"), ("next", "parent"), ("parent", "next"), ("label", "label || '{n}'")),
    "link": (("id", "id + 1000 * {n}"), ("next", "id"), ("next", "NULL"), ("prev", "next")),
    "task": (("id", "id + 1000 * {n}"), ("priority", "priority + 1"), ("reviewer", "owner"), ("priority", "DEFAULT")),
    "member": (("role", "role || '{n}'"), ("role", "DEFAULT")),
    "note": (("id", "id + 1000 * {n}"), ("body", "body || '{n}'"), ("person", "NULL")),
    "badge": (("name", "name || '{n}'"), ("email", "name"), ("note", "NULL")),
}

_QUERIES = (
    "SELECT p.id, t.name FROM person p JOIN team t ON t.code = p.team ORDER BY 1, 2",
    "SELECT t.code, count(p.id), sum(t.size) FROM team t LEFT JOIN person p ON p.team = t.code GROUP BY 1 ORDER BY 1",
    (
        "WITH RECURSIVE r AS (SELECT id, 0 AS depth FROM node WHERE parent IS NULL UNION SELECT n.id, depth + 1 FROM node n "
        "JOIN r ON n.parent = r.id WHERE depth < 9) SELECT * FROM r ORDER BY 1, 2"
    ),
    "SELECT id, tags, data -> 'k', shout FROM person WHERE mood >= 'ok' OR tags @> ARRAY['x'] ORDER BY id",
    "SELECT * FROM task WHERE EXISTS (SELECT FROM note WHERE note.task = task.id) ORDER BY id",
    "SELECT person, team, role, rank() OVER (PARTITION BY team ORDER BY person) FROM member ORDER BY 1, 2",
    "SELECT name FROM badge WHERE email NOT IN (SELECT email FROM person WHERE active) ORDER BY name LIMIT 2",
)

_JOINED = (
    "UPDATE person SET nick = nick || '{n}' FROM task WHERE task.owner = person.id AND person.id <> 3",
    "UPDATE task SET priority = 5 FROM person p JOIN member m ON m.person = p.id WHERE task.reviewer = p.id",
    "UPDATE node SET label = 'child' FROM node p WHERE node.parent = p.id",
    "UPDATE team SET size = size + 1 FROM person WHERE person.team = team.code",
    "UPDATE node n SET parent = c.parent FROM node c WHERE c.id = n.parent",
    "DELETE FROM note USING member m, team t WHERE note.person = m.person AND t.code = m.team",
    "DELETE FROM node USING node c WHERE c.parent = node.id",
    "DELETE FROM task USING person p WHERE p.id IN (task.owner, task.reviewer) AND p.mood = 'sad'",
    "DELETE FROM person USING task WHERE task.reviewer = person.id",
    "INSERT INTO member (person, team) SELECT id, team FROM person WHERE team IS NOT NULL",
    "INSERT INTO note (person, team, task) SELECT owner, team, id FROM task WHERE priority > 1 ORDER BY id",
    "INSERT INTO person (email, nick) SELECT code || '{n}', name FROM team WHERE size > 1 ORDER BY code",
    "INSERT INTO node (id, parent) SELECT id + 1000 * {n}, id FROM node",
    "INSERT INTO node (id, parent) VALUES (6, 7), (7, 6)",
    "INSERT INTO link (id, next) VALUES (7, 8), (8, 7)",
    "UPDATE link SET id = id + 1000 * {n}, next = next + 1000 * {n}",
    "DELETE FROM link USING link o WHERE o.next = link.id",
    "UPDATE node SET id = id + 1000 * {n}, parent = parent + 1000 * {n} WHERE id < 5",
    (
        "WITH gone AS (DELETE FROM badge RETURNING name, note) INSERT INTO note (body, id) SELECT name, 1000 * {n} + note FROM gone "
        "WHERE note IS NOT NULL"
    ),
    "WITH t AS (INSERT INTO team (code, name) VALUES ('g{n}', 'G{n}') RETURNING code) UPDATE person SET team = t.code FROM t WHERE id = 1",
)

#: For ON CONFLICT: columns, and the condition of a partial index.
_TARGETS: Mapping[str, tuple[tuple[tuple[str, ...], str | None], ...]] = {
    "team": ((("code",), None), (("name",), None), (("lower(name)",), None)),
    "person": ((("id",), None), (("email",), None), (("nick",), "active")),
    "node": ((("id",), None),),
    "link": ((("id",), None),),
    "task": ((("id",), None),),
    "member": ((("person", "team"), None),),
    "note": ((("id",), None),),
    "badge": ((("name",), None),),
}


@dataclass(frozen=True)
class Statement:
    """
    One statement.

    Args:
        kind: ``sql``, or ``insert`` for one that SQLAlchemy composes.
        sql: The text of the first, in which ``{n}`` is the number of the statement.
        table: The table of the second.
        rows: Its rows.
        conflict: Its ON CONFLICT: the columns, the condition, and what to set (None: nothing); None: it has none.
        returning: Whether it returns the rows.
        many: Whether the rows are given as many parameters, and not in the statement.
    """

    kind: str
    sql: str = ""
    table: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()
    conflict: tuple[tuple[str, ...] | None, str | None, tuple[str, ...] | None] | None = None
    returning: bool = False
    many: bool = False

    def run(self, connection: Connection, number: int) -> tuple[int, list[tuple[Any, ...]]]:
        """
        Execute it and return how many rows it was about, and those that it returned in a known order.

        Args:
            connection: A connection in a transaction.
            number: Its number in the sequence.
        """
        result = (
            connection.exec_driver_sql(self.sql.format(n=number).replace("%", "%%"))
            if self.kind == "sql"
            else connection.execute(*self._composed(number))
        )
        if not result.returns_rows:
            return result.rowcount, []
        found = [tuple(row) for row in result.all()]
        return len(found), found if self.sql.startswith(("SELECT", "WITH R")) else sorted(found, key=repr)

    def _composed(self, number: int) -> tuple[Any, ...]:
        table = TABLES[self.table]
        rows = [{name: _fresh(table.c[name].type.python_type, value, number) for name, value in row.items()} for row in self.rows]
        composed = insert(table)
        if not self.many:
            composed = composed.values(rows if len(rows) > 1 else rows[0])
        if self.conflict is not None:
            columns, where, changes = self.conflict
            named: Any = {}
            if columns is not None:
                named["index_elements"] = [text(each) if "(" in each else table.c[each] for each in columns]
            if where is not None:
                named["index_where"] = text(where)
            if changes is None:
                composed = composed.on_conflict_do_nothing(**named)
            else:
                composed = composed.on_conflict_do_update(**named, set_={name: composed.excluded[name] for name in changes})
        if self.returning:
            composed = composed.returning(*table.c)
        return (composed, rows) if self.many else (composed,)


@dataclass(frozen=True)
class Control:
    """
    What is done to savepoints and constraints between statements: ``save``, ``release``, ``back``, ``immediate`` or ``deferred``.
    """

    kind: str


@dataclass(frozen=True)
class Transaction:
    """
    Statements in one transaction.

    Args:
        steps: What is done in it.
        guarded: Whether each statement is in a savepoint, and the transaction goes on after an error.
        commit: Whether it is committed.
    """

    steps: tuple[Statement | Control, ...]
    guarded: bool = True
    commit: bool = True


@dataclass(frozen=True)
class Block:
    """
    A sequence of transactions.

    Args:
        transactions: The transactions.
        before: Those that come before, and leave some of the rows changed, or gone.
    """

    transactions: tuple[Transaction, ...]
    before: tuple[Transaction, ...] = ()


def _fresh(kind: type[Any], value: Any, number: int) -> Any:
    if value != FRESH:
        return value
    return f"g{number}" if kind is str else 1000 * number + 7


def _literal(column: str, table: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if value == FRESH:
        return "'g{n}'" if TABLES[table].c[column].type.python_type is str else "1000 * {n} + 7"
    if isinstance(value, bool | int):
        return str(value).lower()
    if column == "data":
        value = json.dumps(value)
    elif isinstance(value, list):
        return f"ARRAY[{', '.join(_literal('', '', each) for each in value)}]::text[]"
    return "'" + str(value).replace("'", "''").replace("{", "{{").replace("}", "}}") + "'"


class Pick(Protocol):
    """
    Picks one of some things.
    """

    def __call__(self, things: Sequence[T], /) -> T: ...


def _flag(pick: Pick) -> bool:
    return pick((False, True))


def _row(pick: Pick, table: str) -> dict[str, Any]:
    values = _VALUES[table]
    return {name: pick(values[name]) for name in values if name in _GIVEN[table] or _flag(pick)}


def _insert(pick: Pick, *, upsert: bool = False) -> Statement:
    table = pick(("person", "person", "team", *_NAMED) if upsert else _NAMED)
    row = _row(pick, table)
    if not row:
        return Statement("sql", f"INSERT INTO {table} DEFAULT VALUES")
    # All rows have the columns of the first.
    rows = [row, *({name: pick(_VALUES[table][name]) for name in row} for _ in range(pick((0, 0, 1, 2))))]
    returning = _flag(pick)
    if not upsert and _flag(pick):
        columns = ", ".join(row)
        values = ", ".join("(" + ", ".join(_literal(name, table, each[name]) for name in row) + ")" for each in rows)
        return Statement("sql", f"INSERT INTO {table} ({columns}) VALUES {values}{' RETURNING *' if returning else ''}")
    conflict = None
    if upsert:
        columns_, where = pick(((None, None), *_TARGETS[table]))
        changes = None if columns_ is None or _flag(pick) else tuple({pick(list(row)): 0, pick(list(row)): 0})
        conflict = (columns_, where, changes)
    return Statement("insert", "", table, tuple(rows), conflict, returning, len(rows) > 1 and _flag(pick))


def _where(pick: Pick, table: str) -> str:
    kind = pick(("key", "key", "keys", "column", "null", "all"))
    name = next(iter(_VALUES[table])) if kind in ("key", "keys") else pick(list(_VALUES[table]))
    values = [value for value in _VALUES[table][name] if value is not None and name != "data"] or [None]
    if kind == "all":
        return ""
    if kind == "null":
        return f" WHERE {table}.{name} IS NULL"
    if kind == "keys":
        return f" WHERE {table}.{name} IN ({', '.join(_literal(name, table, pick(values)) for _ in range(pick((2, 3))))})"
    return f" WHERE {table}.{name} = {_literal(name, table, pick(values))}"


def _returning(pick: Pick, table: str) -> str:
    return f" RETURNING {table}.*" if _flag(pick) else ""


def _update(pick: Pick) -> Statement:
    table = pick(_NAMED)
    changes: dict[str, str] = {}
    for _ in range(pick((1, 1, 2))):
        name, change = pick(_CHANGES[table])
        if _flag(pick):
            name = pick(list(_VALUES[table]))
            change = _literal(name, table, pick(_VALUES[table][name]))
        changes[name] = change
    sets = ", ".join(f"{name} = {change}" for name, change in changes.items())
    return Statement("sql", f"UPDATE {table} SET {sets}{_where(pick, table)}{_returning(pick, table)}")


def _delete(pick: Pick) -> Statement:
    table = pick(_NAMED)
    return Statement("sql", f"DELETE FROM {table}{_where(pick, table)}{_returning(pick, table)}")


def _other(pick: Pick) -> Statement:
    return Statement("sql", pick((*_QUERIES, *_JOINED, *_JOINED)))


def _upsert(pick: Pick) -> Statement:
    return _insert(pick, upsert=True)


def _control(pick: Pick) -> Control:
    return Control(pick(("save", "back", "release", "immediate", "deferred")))


_NAMED = sorted(TABLES)
_KINDS = (_insert, _update, _delete, _insert, _update, _delete, _upsert, _upsert, _other, _other, _control)


def block(pick: Pick) -> Block:
    """
    Return a sequence.

    Args:
        pick: Picks one of some things.
    """
    found = []
    for _ in range(pick((1, 1, 2))):
        steps = tuple(pick(_KINDS)(pick) for _ in range(pick((1, 2, 3, 4))))
        found.append(Transaction(steps, _flag(pick), pick((True, True, True, False))))
    return Block(tuple(found), pick(_BEFORE))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """
    Return a sequence, as Hypothesis would have it.
    """
    return block(lambda things: things[draw(_index(len(things)))])


@cache
def _index(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, size - 1)


def _transaction(*statements: str) -> Transaction:
    return Transaction(tuple(Statement("sql", sql) for sql in statements), guarded=False)


#: What may have happened before.
_BEFORE = (
    (),
    (
        _transaction(
            "UPDATE team SET size = size + 1",
            "UPDATE person SET mood = 'happy', nick = nick || 'x' WHERE id IN (1, 3)",
            "UPDATE node SET label = 'was' WHERE id < 4",
            "UPDATE task SET priority = 1 WHERE id = 2",
            "UPDATE member SET role = 'changed' WHERE person = 1",
            "UPDATE note SET body = 'changed'",
            "UPDATE badge SET note = 4 WHERE name = 'tin'",
        ),
    ),
    (
        _transaction(
            "DELETE FROM badge",
            "DELETE FROM note WHERE id IN (3, 4)",
            "DELETE FROM member WHERE person = 3",
            "DELETE FROM node WHERE id = 1",
        ),
        _transaction(
            "INSERT INTO node (id, parent) VALUES (1, NULL), (2, 1), (6, 2)",
            "INSERT INTO badge (name, email, note) VALUES ('gold', 'p3', 2), ('new', 'p1', NULL)",
            "INSERT INTO person (email, nick, boss) VALUES ('q', 'n9', 1), ('p9', 'n8', 2)",
            "DELETE FROM task WHERE id = 4",
        ),
        _transaction("UPDATE person SET email = 'p' || id || 'x' WHERE id IN (2, 4)", "INSERT INTO team VALUES ('e', 'p2', 4)"),
    ),
)
