"""
The two roles of partitions, and what they must not be able to do.

Statements of a key are run by the first, which has no rights on the baseline's tables but to read those that are the same for all: a name
that leads past the partition, or a partition that is not there, is refused by the server. It is a net below mistakes, and no wall
against whoever can run any SQL: ``RESET ROLE`` leaves it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ..._optional import extra
from ...errors import ConfigurationError
from .execution import PLAIN
from .structure import quoted

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["checked_role", "made_roles", "opened", "role_problems"]

# What is the server's, or a partition's, and not the baseline's.
_BASELINE = (
    "n.nspname NOT LIKE 'pg\\_%%' AND n.nspname NOT IN ('information_schema', 'tenancy') AND NOT EXISTS (SELECT FROM tenancy.partitions p, "
    "jsonb_each_text(p.schemas) s WHERE s.value = n.nspname)"
)

# Rights on tables and sequences, and on columns, by who was given them; what nothing was said about is its owner's
# (https://www.postgresql.org/docs/current/ddl-priv.html). Of a sequence only UPDATE sets it back.
_RIGHTS = f"""
WITH relations AS (
  SELECT c.oid, c.relkind, c.relowner, format('%%I.%%I', n.nspname, c.relname) AS name, n.nspname,
         coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)) AS acl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_BASELINE}
), rights AS (
  SELECT r.oid, r.nspname, r.name, r.relkind, r.relowner, a.grantee, a.privilege_type AS privilege, NULL AS of_column
  FROM relations r, aclexplode(r.acl) a
  UNION ALL
  SELECT r.oid, r.nspname, r.name, r.relkind, r.relowner, a.grantee, a.privilege_type, t.attname::text
  FROM relations r JOIN pg_attribute t ON t.attrelid = r.oid AND t.attacl IS NOT NULL, aclexplode(t.attacl) a
)
SELECT name, relkind = 'S', grantee = relowner, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
       string_agg(DISTINCT privilege || coalesce(' (' || quote_ident(of_column) || ')', ''), ', ')
FROM rights
WHERE privilege = ANY(%(privileges)s) AND (relkind <> 'S' OR privilege = 'UPDATE')
  AND (grantee = 0 OR pg_has_role(%(role)s, grantee, 'USAGE'))
  AND (%(schemas)s::text[] IS NULL OR nspname = ANY(%(schemas)s::text[]) AND oid <> ALL(%(open)s::text[]::regclass[]) AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.objid = rights.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'))
GROUP BY 1, 2, 3, 4 ORDER BY 1, 4"""

_DEFINERS = f"""
SELECT p.oid::regprocedure::text, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prosecdef AND p.prorettype <> 'trigger'::regtype AND has_function_privilege(%(role)s, p.oid, 'EXECUTE') AND {_BASELINE}
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
ORDER BY 1"""

_WRITES = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
# Where two installations meet at the same row of a catalogue that all databases of a server share, one of them is told so.
_TRIES = 20


def checked_role(option: str, name: str) -> None:
    """
    Raises:
        ConfigurationError: If a name cannot be a role's (https://www.postgresql.org/docs/current/sql-createrole.html).
    """
    if not name or len(name.encode()) > 63 or name.startswith("pg_") or name in ("public", "none") or "\0" in name:
        raise ConfigurationError(
            f"{option} is {name!r}; give the name of a role, of at most 63 bytes, that the server does not keep for itself"
        )


def made_roles(connection: Connection, keyed: str, reader: str, grant_to: list[str]) -> None:
    """
    Make the roles, where they are not there yet, and let the application's become the first.

    Args:
        connection: A connection in a transaction.
        keyed: The role that statements of a key are run by.
        reader: The role by whose rights views look at the baseline.
        grant_to: The roles that the application connects as.

    Raises:
        ConfigurationError: If this connection's role may not do it; the message says what somebody has to do who may.
    """
    me, superuser, version = connection.exec_driver_sql(
        "SELECT current_user::text, rolsuper, current_setting('server_version_num')::integer FROM pg_roles WHERE rolname = current_user"
    ).one()
    # One installation after the other, in this database.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.roles', 0))")
    for name in (keyed, reader):
        create = f"CREATE ROLE {quoted(name)} NOLOGIN"
        options = " NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
        _until(connection, lambda name=name: _exists(connection, name), create + options, create)  # type: ignore[misc]
    # Since version 16 who has made a role may give it away, but need not be able to become it.
    become = "SET" if version >= 160000 else "MEMBER"
    for name, roles in ((keyed, [*grant_to, *([] if superuser else [me])]), (reader, [] if superuser else [me])):
        for role in roles:
            if not _exists(connection, role):
                raise ConfigurationError(f"there is no role {role}; see grant_to= of install(), or --grant-to")

            def member(role: str = role, name: str = name) -> bool:
                sql = f"SELECT pg_has_role(%(role)s, %(name)s, '{become}')"
                return bool(connection.exec_driver_sql(sql, {"role": role, "name": name}).scalar())

            grant = f"GRANT {quoted(name)} TO {quoted(role)}"
            _until(connection, member, grant, grant)


def _until(connection: Connection, done: Callable[[], bool], statement: str, advice: str) -> None:
    for attempt in range(_TRIES):
        if done():
            return
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(statement, execution_options=PLAIN)
        except DBAPIError as error:
            # Somebody in another database was at the same row: it has been done now, or can be.
            if getattr(error.orig, "sqlstate", getattr(error.orig, "pgcode", None)) not in ("XX000", "23505", "42710"):
                raise ConfigurationError(f"{str(error.orig).strip()}; have it done by somebody who may: {advice}") from error
            time.sleep(0.02 * attempt)
    if not done():
        raise ConfigurationError(
            f"this cannot be done while others change roles: {statement}; call install() again, or run `tenancy data install`"
        )


def role_problems(connection: Connection, keyed: str, reader: str) -> list[str]:
    """
    Return by what the roles could change what they must not, and what to do.

    Args:
        connection: A connection to a database that has the register.
        keyed: The role that statements of a key are run by.
        reader: The role by whose rights views look at the baseline.
    """
    found = []
    if missing := [name for name in (keyed, reader) if not _exists(connection, name)]:
        return [f"there is no role {name}: call install(), or run `tenancy data install`" for name in missing]
    for name in (keyed, reader):
        row = connection.exec_driver_sql(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole, pg_has_role(rolname, %(reader)s::name, 'MEMBER') FROM pg_roles "
            "WHERE rolname = %(name)s",
            {"name": name, "reader": reader},
        ).one()
        if row[0]:
            found.append(
                f"the role {name} is a superuser, bypasses row security or may make roles: "
                f"ALTER ROLE {quoted(name)} NOSUPERUSER NOBYPASSRLS NOCREATEROLE, or use a role of its own"
            )
            continue
        if name == keyed and row[1]:
            found.append(
                f"the role {name} is a member of {reader}, which may read the baseline: REVOKE {quoted(reader)} FROM {quoted(name)}"
            )
        everything = connection.exec_driver_sql(
            "SELECT rolname FROM pg_roles WHERE rolname IN ('pg_write_all_data', 'pg_read_all_data') "
            "AND pg_has_role(%(name)s, oid, 'MEMBER')",
            {"name": name},
        )
        found += [f"the role {name} is a member of {row[0]}: REVOKE {row[0]} FROM {quoted(name)}" for row in everything]
        found += _given(connection, name, _WRITES, "change")
    return found


def opened(connection: Connection, keyed: str, schemas: Iterable[str], modes: Mapping[str, str]) -> list[str]:
    """
    Return by what a name with a schema would lead past a key's partition, and what to do.

    Args:
        connection: A connection to a database that has the register.
        keyed: The role that statements of a key are run by.
        schemas: The baseline's schemas.
        modes: For each table, by its name for SQL, its mode.
    """
    schemas = list(schemas)
    found = _given(connection, keyed, ["SELECT"], "read", schemas, [name for name, mode in modes.items() if mode == "readonly"])
    creating = connection.exec_driver_sql(
        "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname = ANY(%(schemas)s) AND has_schema_privilege(%(role)s, oid, 'CREATE')",
        {"schemas": schemas, "role": keyed},
    )
    found += [
        f"the role {keyed} may make tables in the schema {row[0]} of the baseline: "
        f"REVOKE CREATE ON SCHEMA {row[0]} FROM PUBLIC, or from {keyed}"
        for row in creating
    ]
    definers = connection.exec_driver_sql(_DEFINERS, {"role": keyed})
    found += [
        f"the role {keyed} may call {row[0]}, which does what its owner may do, in the baseline too: "
        f"REVOKE EXECUTE ON {row[1]} {row[0]} FROM PUBLIC, or make it SECURITY INVOKER"
        for row in definers
    ]
    return found


def _given(
    connection: Connection,
    role: str,
    privileges: list[str],
    verb: str,
    schemas: list[str] | None = None,
    open_to_all: list[str] | None = None,
) -> list[str]:
    found = []
    given = {"role": role, "privileges": privileges, "schemas": schemas, "open": open_to_all or []}
    for name, sequence, owner, grantee, rights in connection.exec_driver_sql(_RIGHTS, given):
        word = f"SEQUENCE {name}" if sequence else name
        if not owner:
            undo = f"REVOKE {rights} ON {word} FROM {grantee}"
        elif grantee in (role, quoted(role)):
            undo = f"ALTER TABLE {name} OWNER TO another role"
        else:
            undo = f"REVOKE {grantee} FROM {quoted(role)}"
        found.append(
            f"the role {role} may {verb} {name} of the baseline, so a name with a schema would lead past a key's partition: {undo}"
        )
    return found


def _exists(connection: Connection, name: str) -> bool:
    return connection.exec_driver_sql("SELECT FROM pg_roles WHERE rolname = %(name)s", {"name": name}).first() is not None
