"""
PostgreSQL: a database for each key, cloned from an idle golden one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import URL

from ..._optional import extra
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...naming import partition_name
from ...routes.stores._urls import without_secrets
from ._provider import RegisteredProvider, check_function, migrated
from ._registry import Attempt, Registry, admin_url

with extra("postgresql", "psycopg", "sqlalchemy"):
    import psycopg
    from psycopg import sql

__all__ = ["PostgresClone"]

_STRATEGIES = {"wal_log": "WAL_LOG", "file_copy": "FILE_COPY"}

_SESSIONS = """
SELECT pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'no application_name'),
       coalesce(host(client_addr), 'local'), coalesce(state, '?')
FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() ORDER BY pid
"""

# What CREATE DATABASE does not copy, see its page in PostgreSQL's documentation: settings and grants of the database itself.
_SETTINGS = """
SELECT coalesce(r.rolname, ''), c.setting
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
     unnest(s.setconfig) AS c(setting)
WHERE d.datname = %s AND (s.setrole = 0 OR r.rolname IS NOT NULL)
"""
_GRANTS = """
SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable
FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = %s AND d.datacl IS NOT NULL AND (a.grantee = 0 OR r.rolname IS NOT NULL)
"""


class PostgresClone(RegisteredProvider):
    """
    Databases cloned on one PostgreSQL server with ``CREATE DATABASE ... TEMPLATE``
    (https://www.postgresql.org/docs/current/manage-ag-templatedbs.html): everything in the golden database is in the clone, and so are
    its settings and grants.

    Nobody may be connected to the golden database while it is copied, so give a copy of the baseline that nobody uses, never the
    baseline itself. The name of a clone is ``partition_name(key, golden, kind="postgresql-schema")``, whose rules are those of databases.

    Args:
        golden: The name of the database to clone.
        admin_url: Another database on that server, for a role that may create databases and owns the golden one or is a superuser: to the
            server itself, not through a pooler in transaction mode. The table ``tenancy_databases`` is there.
        migrate: Called with the URL of each new clone, for the role of *admin_url*, before it counts as made: a sandbox's own migration.
        strategy: ``wal_log`` or ``file_copy``, on PostgreSQL 15 or later (older ones always copy files); default the server's choice.
        timeout: Seconds to wait for another process that makes or drops the same key's database.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        golden: str,
        admin_url: str | URL,
        *,
        migrate: Callable[[str], object] | None = None,
        strategy: Literal["wal_log", "file_copy"] | None = None,
        timeout: float = 120.0,
    ) -> None:
        check_function("PostgresClone", migrate)
        if strategy is not None and strategy not in _STRATEGIES:
            raise ConfigurationError(f"PostgresClone(strategy={strategy!r}): use 'wal_log', 'file_copy' or None")
        given: Any = golden
        if not (isinstance(given, str) and 0 < len(given.encode()) <= 63 and "\0" not in given):
            raise ConfigurationError(f"PostgresClone(golden={golden!r}): a database's name has 1 to 63 bytes")
        url = _admin(admin_url)
        if url.database == golden:
            raise ConfigurationError(
                f"PostgresClone(golden={golden!r}): admin_url leads to the golden database itself, which cannot be cloned while somebody is "
                "connected to it; use another database of that server, such as 'postgres'"
            )
        super().__init__(golden, Registry(url, timeout=timeout))
        self._migrate = migrate
        self._strategy = strategy

    def database(self, key: RoutingKey | str) -> str:
        """
        Return the name of a key's database, whether it is there or not.
        """
        return partition_name(key, self.name, kind="postgresql-schema")

    def exists(self, key: RoutingKey, attempt: Attempt) -> bool:
        """
        Return whether the server has the database.
        """
        with self._translated(key):
            return self._has(attempt, self.database(key))

    def make(self, key: RoutingKey, attempt: Attempt) -> str:
        """
        Clone the golden database, then call *migrate*.

        Raises:
            PartitionError: If it cannot be cloned; sessions that are in the way are named.
        """
        name = self.database(key)
        with self._translated(key):
            self._clone(attempt.driver, name)
        if self._migrate is not None:
            with migrated("PostgresClone", key):
                self._migrate(self.registry.url.set(database=name).render_as_string(hide_password=False))
        return f"postgresql:///{name}"

    def remove(self, key: RoutingKey, attempt: Attempt) -> None:
        """
        Drop the database, and end the sessions in it.

        Raises:
            PartitionError: If that is not allowed.
        """
        name = sql.Identifier(self.database(key))
        driver: psycopg.Connection[Any] = attempt.driver
        with self._translated(key):
            if driver.info.server_version >= 130000:
                driver.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            elif self._has(attempt, self.database(key)):
                driver.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
                ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
                driver.execute(ended, [self.database(key)])
                driver.execute(sql.SQL("DROP DATABASE {}").format(name))

    def _clone(self, driver: psycopg.Connection[Any], name: str) -> None:
        found = driver.execute(
            "SELECT r.rolname, pg_has_role(d.datdba, 'MEMBER') FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = %s",
            [self.name],
        ).fetchone()
        if found is None:
            raise PartitionError(
                f"the server of {self.registry.name} has no database {self.name!r} to clone: make the golden database first"
            )
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(self.name))
        owner, member = found
        if member:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        if self._strategy is not None and driver.info.server_version >= 150000:
            statement += sql.SQL(" STRATEGY {}").format(sql.SQL(_STRATEGIES[self._strategy]))
        elif self._strategy == "wal_log":
            raise ConfigurationError("PostgresClone(strategy='wal_log') needs PostgreSQL 15; leave it out")
        try:
            driver.execute(statement)
        except psycopg.errors.ObjectInUse as error:
            sessions = driver.execute(_SESSIONS, [self.name]).fetchall()
            shown = "; ".join(f"pid {pid}, {user}, {program}, {host}, {state}" for pid, user, program, host, state in sessions[:10])
            more = f", and {len(sessions) - 10} more" if len(sessions) > 10 else ""
            raise PartitionError(
                f"{self.name!r} cannot be cloned while somebody is connected to it ({shown or 'a session that has left since'}{more}): "
                "clone a golden database that nobody uses, kept so with ALTER DATABASE ... ALLOW_CONNECTIONS false"
            ) from error
        self._restore(driver, name)

    def _restore(self, driver: psycopg.Connection[Any], name: str) -> None:
        database = sql.Identifier(name)
        grants = driver.execute(_GRANTS, [self.name]).fetchall()
        if grants:
            driver.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        for role, privilege, grantable in grants:
            to = sql.Identifier(role) if role else sql.SQL("PUBLIC")
            option = sql.SQL(" WITH GRANT OPTION" if grantable and role else "")
            driver.execute(sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(sql.SQL(privilege), database, to, option))
        for role, setting in driver.execute(_SETTINGS, [self.name]).fetchall():
            parameter, _, value = setting.partition("=")
            whose = (
                sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), database)
                if role
                else sql.SQL("DATABASE {}").format(database)
            )
            named = sql.SQL(".").join(map(sql.Identifier, parameter.split(".")))
            try:
                # By way of this session: no other takes a list, such as search_path, in the form in which it is stored.
                driver.execute("SELECT set_config(%s, %s, false)", [parameter, value])
                driver.execute(sql.SQL("ALTER {} SET {} FROM CURRENT").format(whose, named))
                driver.execute(sql.SQL("RESET {}").format(named))
            except psycopg.errors.CantChangeRuntimeParam:
                driver.execute(sql.SQL("ALTER {} SET {} TO {}").format(whose, named, sql.Literal(value)))
            except psycopg.errors.InsufficientPrivilege as error:
                of = f" for the role {role!r}" if role else ""
                raise PartitionError(
                    f"{self.name!r} has the setting {parameter!r}{of}, which this role may not copy: let a superuser make the clones, "
                    "or remove the setting from the golden database"
                ) from error

    def _has(self, attempt: Attempt, name: str) -> bool:
        return attempt.driver.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None

    @contextmanager
    def _translated(self, key: RoutingKey) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            secret = self.registry.url.render_as_string(hide_password=False)
            hint = ""
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                hint = "; the role needs CREATEDB, and to own the golden database, which must else be marked IS_TEMPLATE"
            raise PartitionError(
                f"the database {self.database(key)!r} of routing key {str(key)!r}: {without_secrets(str(error), secret)}{hint}"
            ) from error


def _admin(url: str | URL) -> URL:
    return admin_url(url, "PostgresClone", ("postgresql",))
