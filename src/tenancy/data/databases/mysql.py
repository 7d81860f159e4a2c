"""
MySQL and MariaDB: a database for each key, made like a golden one, or by your own migrations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import URL

from ..._optional import extra
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...naming import partition_name
from ...routes.stores._urls import without_secrets
from ._mysql_text import names_in_front
from ._provider import RegisteredProvider, check_function, migrated
from ._registry import Attempt, Registry, admin_url

with extra("mysql", "pymysql", "sqlalchemy"):
    import pymysql

__all__ = ["MySQLDatabase"]

_TABLES = ("BASE TABLE", "SYSTEM VERSIONED")
_DEFINER = re.compile(
    r"\sDEFINER\s*=\s*(?:`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s@]+)\s*@\s*(?:`(?:[^`]|``)*`|'(?:[^']|'')*'|\S+)", re.IGNORECASE
)

# https://mariadb.com/kb/en/mariadb-error-codes/
_NO_SUCH_THREAD, _NOT_THE_OWNER, _LOCK_WAIT = 1094, 1095, 1205


class MySQLDatabase(RegisteredProvider):
    """
    Databases on one MySQL or MariaDB server, each made like a golden database: its tables with their keys, its views, triggers,
    procedures and functions; rows of the tables that are named. Events are not copied: the server would run them once for each key.

    A database's name is ``partition_name(key, golden, kind="mysql-database")``.

    Args:
        golden: The name of the golden database.
        admin_url: Another database on that server, for a user that may create databases and read the golden one: to the server itself, not
            through a pooler. The table ``tenancy_databases`` is there.
        rows: The tables whose rows are copied, or ``all``; the others begin empty.
        schema: ``copy`` the golden database's, or ``empty``: *migrate* makes all of it, and there need be no golden database.
        migrate: Called with the URL of each new database, for the user of *admin_url*, before it counts as made: a sandbox's own migration.
        timeout: Seconds to wait for another process that makes or drops the same key's database, and for sessions in the way of a drop.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        golden: str,
        admin_url: str | URL,
        *,
        rows: Iterable[str] | Literal["all"] = (),
        schema: Literal["copy", "empty"] = "copy",
        migrate: Callable[[str], object] | None = None,
        timeout: float = 120.0,
    ) -> None:
        check_function("MySQLDatabase", migrate)
        given: Any = golden
        if not (isinstance(given, str) and 0 < len(given) <= 64 and "\0" not in given):
            raise ConfigurationError(f"MySQLDatabase(golden={golden!r}): a database's name has 1 to 64 characters")
        if isinstance(rows, str) and rows != "all":
            raise ConfigurationError(f"MySQLDatabase(rows={rows!r}): give a list of tables, or 'all'")
        if schema not in ("copy", "empty"):
            raise ConfigurationError(f"MySQLDatabase(schema={schema!r}): use 'copy' or 'empty'")
        if schema == "empty" and (migrate is None or rows):
            raise ConfigurationError("MySQLDatabase(schema='empty'): give migrate=, a function that makes the tables, and no rows=")
        url = _admin(admin_url)
        if not url.database or url.database == golden:
            raise ConfigurationError(
                f"MySQLDatabase(golden={golden!r}): admin_url names {'the golden' if url.database else 'no'} database; "
                "name another one on that server, for the table tenancy_databases"
            )
        super().__init__(golden, Registry(url, timeout=timeout))
        self._rows = None if isinstance(rows, str) else frozenset(rows)
        self._copies = schema == "copy"
        self._migrate = migrate

    def database(self, key: RoutingKey | str) -> str:
        """
        Return the name of a key's database, whether it is there or not.
        """
        return partition_name(key, self.name, kind="mysql-database")

    def has(self, database: str) -> bool:
        """
        Return whether a name, in lower case, is that of the golden database or of a key's, made or not.
        """
        return database == self.name.lower() or database.startswith(self.database("a").partition("__a")[0] + "__")

    def exists(self, key: RoutingKey, attempt: Attempt) -> bool:
        """
        Return whether the server has the database.
        """
        with self._translated(key):
            found = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
            return bool(_rows(attempt.driver, found, self.database(key)))

    def make(self, key: RoutingKey, attempt: Attempt) -> str:
        """
        Make a database like the golden one, then call *migrate*.

        Raises:
            PartitionError: If something in the golden database cannot be copied; it is named.
        """
        name = self.database(key)
        with self._translated(key):
            driver = attempt.driver
            characters = _rows(
                driver,
                "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s",
                self.name,
            )
            if self._copies and not characters:
                raise PartitionError(f"{self.registry.name} sees no database {self.name!r} to copy: make the golden database first")
            suffix = "".join(f" CHARACTER SET {charset} COLLATE {collation}" for charset, collation in characters)
            _run(driver, f"CREATE DATABASE {_quoted(name)}{suffix}")
            if self._copies:
                _Copy(driver, self.name, name, self._rows).run()
        if self._migrate is not None:
            with migrated("MySQLDatabase", key):
                self._migrate(self.registry.url.set(database=name).render_as_string(hide_password=False))
        return f"mysql:///{name}"

    def remove(self, key: RoutingKey, attempt: Attempt) -> None:
        """
        Drop the database, and end the sessions in it.

        Raises:
            PartitionError: If that is not allowed, or a session of somebody else keeps it from being dropped.
        """
        name = self.database(key)
        driver = attempt.driver
        with self._translated(key):
            for (session,) in _rows(
                driver, "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND ID <> CONNECTION_ID()", name
            ):
                try:
                    _run(driver, f"KILL CONNECTION {int(session)}")
                except pymysql.MySQLError as error:
                    if error.args[0] not in (_NO_SUCH_THREAD, _NOT_THE_OWNER):
                        raise
            # The server's own is a day.
            _run(driver, f"SET SESSION lock_wait_timeout = {max(1, int(self.registry.timeout))}")
            _run(driver, f"DROP DATABASE IF EXISTS {_quoted(name)}")

    @contextmanager
    def _translated(self, key: RoutingKey) -> Iterator[None]:
        try:
            yield
        except pymysql.MySQLError as error:
            secret = self.registry.url.render_as_string(hide_password=False)
            hint = ""
            if error.args and error.args[0] == _LOCK_WAIT:
                hint = "; a session of another user is in it (SHOW PROCESSLIST), which this user may not end: end that one first"
            raise PartitionError(
                f"the database {self.database(key)!r} of routing key {str(key)!r}: {without_secrets(str(error), secret)}{hint}"
            ) from error


class _Copy:
    """
    Makes in one database what is in another.

    Args:
        driver: A connection in autocommit mode.
        golden: The one.
        name: The other, which is empty.
        rows: The tables whose rows are copied; None for all.
    """

    def __init__(self, driver: Any, golden: str, name: str, rows: frozenset[str] | None) -> None:
        self._driver = driver
        self._golden = golden
        self._name = name
        self._wanted = rows

    def run(self) -> None:
        before = _rows(self._driver, "SELECT @@SESSION.sql_mode, @@SESSION.foreign_key_checks, DATABASE()")[0]
        try:
            # Tables may refer to one another in a circle, and rows of another day's modes be there.
            _run(self._driver, "SET SESSION foreign_key_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
            self._all()
        finally:
            _run(self._driver, "SET SESSION sql_mode = %s, foreign_key_checks = %s", *before[:2])
            _run(self._driver, f"USE {_quoted(before[2])}")

    def _all(self) -> None:
        kinds = dict(
            _rows(
                self._driver,
                "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s ORDER BY 1",
                self._golden,
            )
        )
        strange = sorted(f"{name} ({kind.lower()})" for name, kind in kinds.items() if kind not in (*_TABLES, "VIEW"))
        if strange:
            raise PartitionError(
                f"{self._golden!r} has what cannot be copied: {', '.join(strange)}; "
                "use schema='empty' and migrate=, a function that makes all of it"
            )
        unknown = sorted((self._wanted or frozenset()) - {name for name, kind in kinds.items() if kind in _TABLES})
        if unknown:
            raise PartitionError(f"rows= names {', '.join(map(repr, unknown))}, but {self._golden!r} has no such table")
        tables = [name for name, kind in kinds.items() if kind in _TABLES]
        for table in tables:
            self._create("TABLE", table, 1)
        for table in tables:
            if self._wanted is None or table in self._wanted:
                self._fill(table)
        routines = "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s ORDER BY 2"
        for kind, routine in _rows(self._driver, routines, self._golden):
            self._create(kind, routine, 2)
        self._views([name for name, kind in kinds.items() if kind == "VIEW"])
        triggers = (
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = %s "
            "ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER"
        )
        for (trigger,) in _rows(self._driver, triggers, self._golden):
            self._create("TRIGGER", trigger, 2)

    def _views(self, left: list[str]) -> None:
        # A view may read another, which must be there first.
        while left:
            later: list[str] = []
            for view in left:
                try:
                    self._create("VIEW", view, 1)
                except pymysql.MySQLError:
                    later.append(view)
            if len(later) == len(left):
                self._create("VIEW", left[0], 1)  # to say why
            left = later

    def _create(self, kind: str, name: str, column: int) -> None:
        # The server leaves the database's name out of what it shows only while that is the current one.
        _run(self._driver, f"USE {_quoted(self._golden)}")
        shown = _rows(self._driver, f"SHOW CREATE {kind} {_quoted(name)}")[0]
        statement = shown[column]
        if statement is None:
            raise PartitionError(
                f"the {kind.lower()} {name!r} of {self._golden!r} may not be read by this user, so it cannot be copied"
            )
        if column == 2:
            _run(self._driver, "SET SESSION sql_mode = %s", shown[1])
        if _names(statement, self._golden):
            raise PartitionError(
                f"the {kind.lower()} {name!r} names its own database {self._golden!r}, so that of a key would use the golden one: write it "
                "without the database's name, or use schema='empty' and migrate="
            )
        _run(self._driver, f"USE {_quoted(self._name)}")
        _run(self._driver, statement if kind == "TABLE" else _DEFINER.sub("", statement, count=1))
        if column == 2:
            _run(self._driver, "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")

    def _fill(self, table: str) -> None:
        found = (
            "SELECT COLUMN_NAME, EXTRA FROM information_schema.COLUMNS "
            "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION"
        )
        columns = ", ".join(
            _quoted(column)
            for column, more in _rows(self._driver, found, self._golden, table)
            if not re.search(r"\b(?:VIRTUAL|STORED|PERSISTENT)\b", more or "", re.IGNORECASE)  # generated: not to be written
        )
        into, origin = (f"{_quoted(place)}.{_quoted(table)}" for place in (self._name, self._golden))
        _run(self._driver, f"INSERT INTO {into} ({columns}) SELECT {columns} FROM {origin}")  # noqa: S608 - quoted names


def _names(statement: str, database: str) -> bool:
    return database.lower() in names_in_front(statement)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _run(driver: Any, statement: str, *values: Any) -> None:
    with driver.cursor() as cursor:
        cursor.execute(statement, values or None)


def _rows(driver: Any, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with driver.cursor() as cursor:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())


def _admin(url: str | URL) -> URL:
    return admin_url(url, "MySQLDatabase", ("mysql", "mariadb"))
