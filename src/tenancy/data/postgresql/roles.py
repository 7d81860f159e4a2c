"""
The two roles of partitions, and what they must not be able to do.

Statements of a key are run by the first, which has no rights on the baseline's tables but to read those that are the same for all: a name
that leads past the partition, or a partition that is not there, is refused by the server. It is a net below mistakes, and no wall
against whoever can run any SQL: ``RESET ROLE`` leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from .structure import quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["made_roles", "role_problems"]

_WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")


def made_roles(connection: Connection, keyed: str, reader: str, grant_to: list[str]) -> None:
    """
    Make the roles, where they are not there yet, and let the application's become the first.

    Args:
        connection: A connection in a transaction.
        keyed: The role that statements of a key are run by.
        reader: The role by whose rights views look at the baseline.
        grant_to: The roles that the application connects as.
    """
    me, superuser = connection.exec_driver_sql("SELECT current_user, usesuper FROM pg_user WHERE usename = current_user").one()
    # Roles are the whole server's, so another database may be about to make the same ones.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.roles', 0))")
    for name in (keyed, reader):
        if _exists(connection, name):
            continue
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(
                    f"CREATE ROLE {quoted(name)} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS".replace("%", "%%")
                )
        except Exception as error:
            if not _exists(connection, name):
                raise ConfigurationError(
                    f"the role {name} cannot be made ({error}); have it made by somebody who may: CREATE ROLE {quoted(name)} NOLOGIN"
                ) from error
    for name, roles in ((keyed, [*grant_to, *([] if superuser else [me])]), (reader, [] if superuser else [me])):
        for role in roles:
            member = connection.exec_driver_sql("SELECT pg_has_role(%(role)s, %(name)s, 'MEMBER')", {"role": role, "name": name})
            if not member.scalar():
                connection.exec_driver_sql(f"GRANT {quoted(name)} TO {quoted(role)}".replace("%", "%%"))


def role_problems(
    connection: Connection, keyed: str, reader: str, schemas: Iterable[str], modes: Mapping[str, str] | None = None
) -> list[str]:
    """
    Return by what the roles could do what they must not do.

    Args:
        connection: A connection.
        keyed: The role that statements of a key are run by.
        reader: The role by whose rights views look at the baseline.
        schemas: The baseline's schemas.
        modes: For each table, by its name for SQL, its mode; None: only rights to change are looked for.
    """
    found = []
    for name in (keyed, reader):
        row = connection.exec_driver_sql(
            "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = %(name)s", {"name": name}
        ).first()
        if row is None:
            found.append(f"there is no role {name}: call install()")
            continue
        if any(row):
            found.append(f"the role {name} is a superuser, or bypasses row security: use a role of its own that is neither")
        owned = connection.exec_driver_sql(
            "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm') AND (pg_has_role(%(name)s, c.relowner, 'USAGE') OR "
            "has_table_privilege(%(name)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))",
            {"schemas": list(schemas), "name": name},
        )
        writable = [row[0] for row in owned]
        if writable:
            found.append(
                f"the role {name} may change {', '.join(writable)} of the baseline: take those rights from it, and from PUBLIC"
            )
    if modes and not found:
        for table, mode in modes.items():
            if mode == "readonly":
                continue
            readable = connection.exec_driver_sql(
                "SELECT has_table_privilege(%(name)s, %(table)s, 'SELECT')", {"name": keyed, "table": table}
            ).scalar()
            if readable:
                found.append(
                    f"the role {keyed} may read {table} of the baseline, so a name with a schema would lead past a key's partition: "
                    f"REVOKE SELECT ON {table} FROM PUBLIC, or from {keyed}"
                )
    return found


def _exists(connection: Connection, name: str) -> bool:
    return connection.exec_driver_sql("SELECT FROM pg_roles WHERE rolname = %(name)s", {"name": name}).first() is not None
