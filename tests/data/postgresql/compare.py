"""
Runs the same statements in an overlay and on a plain copy of the database, and says where they differ.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Insert, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

import tenancy
from tenancy.data.postgresql import Mode, PostgresIsolation, Rows, cover
from tests.data.postgresql.clinic import CONSTRAINTS, DDL, SEQUENCES, TABLES, rows, seeds
from tests.data.postgresql.statements import Block, Control, Statement, Transaction

__all__ = ["Difference", "Pair", "Side"]

_HELP = f"""
CREATE SCHEMA aside;
CREATE FUNCTION aside.step(n bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
  PERFORM {", ".join(f"setval('public.{name}', 100 * n)" for name in SEQUENCES)};
END $$;
GRANT USAGE ON SCHEMA aside TO PUBLIC;
"""
_KEPT = "".join(f"CREATE TABLE aside.{name} AS SELECT * FROM public.{name};\n" for name in TABLES)
# A computed column is computed again.
_COLUMNS = {name: ", ".join(column.name for column in table.c if column.computed is None) for name, table in TABLES.items()}
# Those whose rows can refer to one another.
_ARRANGED = ("person", "node", "link")
# A statement that violates more constraints than this is not looked at any further.
_MOST = 12


class Difference(AssertionError):
    """
    The overlay does not do what the plain database does.
    """


@dataclass(frozen=True)
class Outcome:
    """
    What became of a statement.

    Args:
        count: How many rows it was about.
        rows: The rows that it returned.
        error: The SQLSTATE, and the constraint or column, of its error.
        text: The error in words.
    """

    count: int = 0
    rows: tuple[tuple[Any, ...], ...] = ()
    error: tuple[str, str | None] | None = None
    text: str = ""


class Side:
    """
    One of the two databases.

    Args:
        engine: An engine for it.
        key: The routing key that it is used with; None: none.
    """

    def __init__(self, engine: Engine, key: str | None = None) -> None:
        self.engine = engine
        self.key = key
        self.connection: Connection | None = None

    @property
    def _scope(self) -> Any:
        return tenancy.scope(self.key)

    def begin(self, isolation: str = "READ COMMITTED") -> None:
        """
        Begin a transaction, and look at the database as it is.
        """
        with self._scope:
            self.connection = self.engine.connect().execution_options(isolation_level=isolation)
            self.connection.begin()
            self.raw("SELECT FROM team")

    def raw(self, sql: str) -> Any:
        """
        Execute something by the driver alone.
        """
        assert self.connection is not None
        raw: Any = self.connection.connection.dbapi_connection
        return raw.execute(sql)

    def run(self, statement: Statement, number: int) -> Outcome:
        assert self.connection is not None
        with self._scope:
            try:
                count, found = statement.run(self.connection, number)
            except Exception as error:
                return _failed(error)
        return Outcome(count, tuple(found))

    def end(self, *, commit: bool) -> Outcome:
        """
        Commit or roll back.
        """
        connection, self.connection = self.connection, None
        assert connection is not None
        with self._scope:
            try:
                (connection.commit if commit else connection.rollback)()
            except Exception as error:
                return _failed(error)
            finally:
                with suppress(Exception):
                    connection.rollback()
                connection.close()
        return Outcome()

    def content(self) -> str:
        return str(self.raw(rows()).fetchone()[0])


def _failed(error: Exception) -> Outcome:
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    if state is None:
        return Outcome(error=(type(error).__name__, None), text=f"{type(error).__name__}: {error}")
    return Outcome(error=(state, original.diag.constraint_name or original.diag.column_name), text=str(original))


def _together(arranged: Collection[str], connection: Connection, statement: Any, *_: Any) -> None:
    """
    Have rows that are given all at once inserted by one statement where it does not matter which comes first, as an overlay has them.
    """
    if isinstance(statement, Insert):
        connection.dialect.use_insertmanyvalues_wo_returning = str(statement.table) not in arranged and (
            getattr(statement, "_post_values_clause", None) is None
        )


class Pair:
    """
    An overlay and a plain copy of the same database.

    Args:
        address: The DSN of a server.
        name: The start of the names of two databases that are made there.
        modes: The modes of tables that are no overlays.
    """

    def __init__(self, address: str, name: str, modes: Mapping[str, Mode | Rows] | None = None) -> None:
        url = make_url(address).set(drivername="postgresql+psycopg")
        self._modes = modes
        self._server = create_engine(url, isolation_level="AUTOCOMMIT")
        self._names = [f"{name}_plain", f"{name}_shared"]
        quick = {"options": "-c synchronous_commit=off"}
        self._admins = []
        for each in self._names:
            with self._server.connect() as connection:
                connection.exec_driver_sql(f'CREATE DATABASE "{each}"')
            self._admins.append(create_engine(url.set(database=each), connect_args=quick))
            with self._admins[-1].begin() as connection:
                connection.connection.cursor().execute(DDL + seeds() + _HELP + _KEPT)
        self.plain = Side(self._admins[0])
        arranged = {*_ARRANGED, *(modes or ())}
        event.listen(self.plain.engine, "before_execute", functools.partial(_together, arranged))
        self.shared = self._admins[1]
        self.isolation = PostgresIsolation(self.shared, modes)
        self.isolation.install()
        self.engine = create_engine(self.shared.url, connect_args=quick, pool_size=4)
        cover(self.engine, unknown="refuse")
        self.baseline = self._baseline()
        self.empty: dict[str, str] = {}

    def overlay(self, key: str) -> Side:
        """
        Make a partition for a key, and return its side.
        """
        self.isolation.create(key)
        with self.shared.begin() as connection:
            relations = connection.exec_driver_sql(
                "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %(schema)s AND c.relkind = 'r'",
                {"schema": self.isolation.status(key)[0].schemas["public"]},
            ).scalars()
            found = list(relations)
            own = {f"public.{name}" for name, mode in (self._modes or {}).items() if mode == "copy"}
            filled = [(each, each.rpartition(".")[2]) for each in found if f"public.{each.rpartition('.')[2]}" in own]
            self.empty[key] = "".join(f"DELETE FROM {table};" for table in found if "__stripes" not in table)
            self.empty[key] += "".join(
                f"INSERT INTO {table} ({_COLUMNS[name]}) SELECT {_COLUMNS[name]} FROM public.{name};" for table, name in filled
            )
        return Side(self.engine, key)

    def close(self) -> None:
        for engine in (self.engine, *self._admins):
            engine.dispose()
        with self._server.connect() as connection:
            for each in self._names:
                connection.exec_driver_sql(f'DROP DATABASE "{each}" WITH (FORCE)')
        self._server.dispose()

    def _baseline(self) -> str:
        with self.shared.begin() as connection:
            return str(connection.exec_driver_sql(rows("public")).scalar())

    def reset(self, key: str) -> None:
        """
        Bring both back to what they began with.
        """
        start = "SET LOCAL session_replication_role = replica;"
        with self._admins[0].begin() as connection:
            # A computed column is computed again.
            columns = {name: ", ".join(c.name for c in table.c if c.computed is None) for name, table in TABLES.items()}
            sql = "".join(
                f"DELETE FROM {name}; INSERT INTO {name} ({columns[name]}) SELECT {columns[name]} FROM aside.{name};"
                for name in TABLES
            )
            connection.connection.cursor().execute(start + sql)  # type: ignore[arg-type]
        with self.shared.begin() as connection:
            connection.connection.cursor().execute(start + self.empty[key])  # type: ignore[arg-type]

    def compare(self, overlay: Side, block: Block) -> None:
        """
        Run a sequence on both.

        Raises:
            Difference: If they do not do the same.
        """
        assert overlay.key is not None
        self.reset(overlay.key)
        log: list[str] = []
        number = 0
        for transaction in (*block.before, *block.transactions):
            with self._both(overlay):
                number = self._transaction(overlay, transaction, number, log)
        if self._baseline() != self.baseline:
            raise Difference("\n".join([*log, "the baseline's rows have changed"]))

    @contextmanager
    def _both(self, overlay: Side) -> Iterator[None]:
        self.plain.begin()
        try:
            overlay.begin()
            yield
        finally:
            for side in (overlay, self.plain):
                if side.connection is not None:
                    side.end(commit=False)

    def _transaction(self, overlay: Side, transaction: Transaction, number: int, log: list[str]) -> int:
        plain, saved, guard = self.plain, 0, False
        log.append("BEGIN")
        for step in transaction.steps:
            number += 1
            if isinstance(step, Control):
                if guard:
                    plain.raw("RELEASE guard")
                    if transaction.guarded:
                        overlay.raw("RELEASE guard")
                guard = False
                saved = self._control(overlay, step, saved, number, log)
                continue
            # In one message each; what went well before is released only now.
            plain.raw(f"{'RELEASE guard; ' if guard else ''}SAVEPOINT guard; SELECT aside.step({number})")
            start = f"{'RELEASE guard; ' if guard else ''}SAVEPOINT guard; " if transaction.guarded else ""
            overlay.raw(f"{start}SELECT aside.step({number})")
            guard = True
            expected, got = plain.run(step, number), overlay.run(step, number)
            log.append(f"{number}: {_shown(step, number)}\n    plain: {expected}\n    overlay: {got}")
            if not self._same(step, number, expected, got):
                raise Difference("\n".join(log))
            if expected.error:
                plain.raw("ROLLBACK TO guard")
                if not transaction.guarded:
                    return number
                overlay.raw("ROLLBACK TO guard")
        self._contents(overlay, log)
        if transaction.commit:
            got = overlay.end(commit=True)
            violated = self._violated() if got.error else set()
            expected = plain.end(commit=True)
            log.append(f"COMMIT\n    plain: {expected}\n    overlay: {got}")
            if expected.error != got.error and not (expected.error and got.error and got.error[1] in violated):
                raise Difference("\n".join(log))
        return number

    def _control(self, overlay: Side, step: Control, saved: int, number: int, log: list[str]) -> int:
        if step.kind in ("immediate", "deferred"):
            sql = f"SET CONSTRAINTS ALL {step.kind.upper()}"
            violated = self._violated()
            found = []
            for side in (self.plain, overlay):
                side.raw("SAVEPOINT guard")
                try:
                    side.raw(sql)
                    found.append(Outcome())
                    side.raw("RELEASE guard")
                except Exception as error:
                    found.append(_failed(error))
                    side.raw("ROLLBACK TO guard")
            log.append(f"{number}: {sql}\n    plain: {found[0]}\n    overlay: {found[1]}")
            one, other = found[0].error, found[1].error
            if one != other and not (one and other and other[1] in violated):
                raise Difference("\n".join(log))
            return saved
        if step.kind != "save" and not saved:
            return saved
        name = f"s{saved if step.kind != 'save' else saved + 1}"
        sql = {"save": f"SAVEPOINT {name}", "release": f"RELEASE {name}", "back": f"ROLLBACK TO {name}; RELEASE {name}"}[step.kind]
        log.append(f"{number}: {sql}")
        for side in (self.plain, overlay):
            side.raw(sql)
        return saved + 1 if step.kind == "save" else saved - 1

    def _contents(self, overlay: Side, log: list[str]) -> None:
        expected, got = self.plain.content(), overlay.content()
        if expected != got:
            raise Difference("\n".join([*log, "contents", f"    plain: {expected}", f"    overlay: {got}"]))

    def _same(self, step: Statement, number: int, expected: Outcome, got: Outcome) -> bool:
        if expected.error is None or got.error is None:
            return expected == got
        return expected.error == got.error or got.error in self._violations(step, number, expected)

    def _violations(self, step: Statement, number: int, first: Outcome) -> set[tuple[str, str | None]]:
        """
        Return all that a statement violates: each time what it was refused for is switched off, and it is tried again.
        """
        found = set()
        plain, outcome = self.plain, first
        plain.raw("ROLLBACK TO guard; SAVEPOINT looking")
        while outcome.error is not None and outcome.error not in found and len(found) < _MOST:
            found.add(outcome.error)
            state, name = outcome.error
            plain.raw("SAVEPOINT off")
            try:
                for sql in _off(state, name or "", outcome.text):
                    plain.raw(sql)
            except Exception:
                break
            plain.raw(f"SAVEPOINT again; SELECT aside.step({number})")
            outcome = plain.run(step, number)
            plain.raw("ROLLBACK TO again")
        plain.raw("ROLLBACK TO looking; RELEASE looking")
        return found

    def _violated(self) -> set[str]:
        """
        Return those of the deferred constraints that are violated now.
        """
        found = set()
        for name in CONSTRAINTS:
            self.plain.raw("SAVEPOINT deferred")
            try:
                self.plain.raw(f"SET CONSTRAINTS {name} IMMEDIATE")
            except Exception:
                found.add(name)
            self.plain.raw("ROLLBACK TO deferred; RELEASE deferred")
        return found


def _off(state: str, name: str, message: str) -> Iterator[str]:
    if state == "23505":  # what refers to it stays, which DROP CONSTRAINT would take along
        yield f"UPDATE pg_index SET indisunique = false WHERE indexrelid = '{name}'::regclass"
    elif state == "23502":
        table = message.split(' of relation "')[1].split('"')[0]
        # Not by ALTER TABLE, which refuses a primary key's column.
        yield f"UPDATE pg_attribute SET attnotnull = false WHERE attrelid = '{table}'::regclass AND attname = '{name}'"
    elif name == "label_check":
        yield "ALTER DOMAIN label DROP CONSTRAINT label_check"
    elif state == "23503":  # not by ALTER TABLE, which refuses a table about which something is still to be checked
        trigger = f"SELECT oid FROM pg_constraint WHERE conname = '{name}'"
        yield f"UPDATE pg_trigger SET tgenabled = 'D' WHERE tgconstraint = ({trigger})"
        yield "UPDATE pg_class SET relname = relname WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    else:
        yield f"""DO $$ DECLARE t regclass; BEGIN
            SELECT conrelid::regclass INTO STRICT t FROM pg_constraint WHERE conname = '{name}';
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT {name}', t); END $$"""


def _shown(step: Statement, number: int) -> str:
    if step.kind == "sql":
        return step.sql.format(n=number)
    return f"INSERT {step.table} {step.rows} conflict={step.conflict} returning={step.returning} many={step.many}"
