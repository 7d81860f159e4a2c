"""
The register of the partitions in a database, and the function by which a transaction enters one.

They are in a schema of their own in the database itself, so that who enters, and who drops, sees the same; also behind a pooler, and
whatever process it was that made the partition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from .structure import literal, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = [
    "CHANGES",
    "PREPARE",
    "SCHEMA",
    "Registered",
    "UnpreparedError",
    "allowed",
    "entering",
    "forget",
    "install",
    "installed",
    "lock",
    "lock_all",
    "lock_rights",
    "owner_of",
    "read",
    "write",
]

#: The schema of the register.
SCHEMA = "tenancy"
#: The sequence that numbers what statements change.
CHANGES = f"{SCHEMA}.changes"
#: The setting that says, within a transaction, in whose partition it is.
SETTING = "tenancy.routing_key"

#: What to do where there is no register.
PREPARE = "the database is not prepared for partitions: call PostgresIsolation.install() once, or run `tenancy data install`"

_VERSION = 1


class UnpreparedError(ConfigurationError):
    """
    A database has no register.
    """


@dataclass(frozen=True)
class Registered:
    """
    A partition, as the database has it registered.

    Args:
        key: Its routing key.
        state: ``ready``; ``detached``, while the baseline's tables are being changed; ``dropped``, for a while after it was dropped.
        schemas: The baseline's schemas, and its own in their place.
        path: Its ``search_path``.
        modes: The mode of each table.
        shape: What of its tables has to be known to see how the baseline's were changed.
        fingerprint: What the baseline looked like when it was made.
        created: When it was made.
        expires: When it may be dropped; None: not by itself.
        role: The role that its statements are run by.
    """

    key: RoutingKey
    state: str
    schemas: dict[str, str]
    path: str
    modes: dict[str, str]
    shape: dict[str, Any]
    fingerprint: str
    created: datetime
    expires: datetime | None
    role: str


def install(keyed: str, reader: str) -> Iterator[str]:
    """
    Yield what makes the register.

    Args:
        keyed: The role that statements of a key are run by.
        reader: The role that partitions' functions are run by.
    """
    role = quoted(keyed)
    yield f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
    yield f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.partitions (
  key text PRIMARY KEY, state text NOT NULL, schemas jsonb NOT NULL, path text NOT NULL, modes jsonb NOT NULL, shape jsonb NOT NULL,
  fingerprint text NOT NULL,
  version integer NOT NULL DEFAULT {_VERSION}, created timestamptz NOT NULL DEFAULT now(), expires timestamptz, role text NOT NULL,
  revision text NOT NULL DEFAULT pg_current_xact_id()::text)"""
    yield f"CREATE SEQUENCE IF NOT EXISTS {CHANGES}"
    # The lock is held to the end of the transaction, and whoever drops the partition waits for it. Where all statements see what was
    # committed before the first of them, one that had to wait would see the partition as it was before it was dropped or changed.
    # So would one whose first statement was before that: rows of tables that were made since are not seen. What functions of the catalog say
    # of a table is as of now, and what a query reads there as of then: a refresh makes all tables anew, a change of the baseline's
    # all views, and the file of a table whose rows it rewrites.
    # A schema that is not there is left out of a path in silence; whether it is, is asked of what is committed now.
    # What the session had on its path stays behind the partition: the schema of an extension, say, whose functions queries use.
    yield f"""CREATE OR REPLACE FUNCTION {SCHEMA}.enter(routing_key text) RETURNS text LANGUAGE plpgsql AS $tenancy$
DECLARE
  p record;
  inside text := coalesce(current_setting('{SETTING}', true), '');
BEGIN
  IF inside NOT IN ('', routing_key) THEN RETURN 'inside ' || inside; END IF;
  IF inside = '' AND pg_current_xact_id_if_assigned() IS NOT NULL THEN RETURN 'begun'; END IF;
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    IF NOT pg_try_advisory_xact_lock_shared(hashtextextended('tenancy.' || routing_key, 0)) THEN
      RAISE EXCEPTION 'could not serialize access to the partition of %, which is being changed or dropped', routing_key
        USING ERRCODE = 'serialization_failure';
    END IF;
  ELSE
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('tenancy.' || routing_key, 0));
  END IF;
  SELECT state, path, role, revision, schemas INTO p FROM {SCHEMA}.partitions WHERE key = routing_key;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF p.state = 'ready' THEN
    IF EXISTS (SELECT FROM jsonb_each_text(p.schemas) s WHERE to_regnamespace(quote_ident(s.value)) IS NULL) THEN RETURN 'gone'; END IF;
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AND EXISTS (
      SELECT FROM {SCHEMA}.partitions r CROSS JOIN jsonb_each(r.shape) t
      JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemas ->> (t.value ->> 'schema')
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.value ->> 'name'
      WHERE r.key = routing_key AND (pg_catalog.pg_table_is_visible(c.oid) IS NULL
        OR (c.relkind = 'r' AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode))
    ) THEN
      RAISE EXCEPTION 'could not serialize access to the partition of %, which was changed after this transaction began', routing_key
        USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM set_config('search_path', p.path || coalesce(', ' || nullif(current_setting('search_path'), ''), ''), true);
    PERFORM set_config('role', p.role, true), set_config('{SETTING}', routing_key, true);
    RETURN 'ready ' || p.revision;
  END IF;
  RETURN p.state;
END $tenancy$"""
    yield f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC"
    yield f"GRANT SELECT ON {SCHEMA}.partitions TO PUBLIC"
    yield f"GRANT USAGE ON SEQUENCE {CHANGES} TO {quoted(reader)}"
    yield f"GRANT EXECUTE ON FUNCTION {SCHEMA}.enter(text) TO PUBLIC"
    yield f"COMMENT ON SCHEMA {SCHEMA} IS {literal(f'request-tenancy: the partitions of this database; keyed role {role}')}"


def installed(connection: Connection) -> bool:
    """
    Return whether a database has the register.
    """
    return connection.exec_driver_sql(f"SELECT to_regclass('{SCHEMA}.partitions') IS NOT NULL").scalar() is True


def allowed(connection: Connection) -> None:
    """
    Check that the role of a connection may make the register, or has made it.

    Raises:
        ConfigurationError: If it may not; the message names the right, or the role.
    """
    owner_of(connection)
    may, me, database = connection.exec_driver_sql(
        "SELECT has_database_privilege(current_database(), 'CREATE'), current_user, quote_ident(current_database())"
    ).one()
    if not may:
        raise ConfigurationError(f"{me} may not make schemas in this database: GRANT CREATE ON DATABASE {database} TO {quoted(me)}")


def owner_of(connection: Connection) -> str | None:
    """
    Return the role that the register belongs to, and with it the partitions; None: there is none.

    Raises:
        ConfigurationError: If the role of the connection is no member of it.
    """
    row = connection.exec_driver_sql(
        f"SELECT pg_get_userbyid(nspowner)::text, pg_has_role(nspowner, 'USAGE'), current_user FROM pg_namespace WHERE nspname = '{SCHEMA}'"
    ).first()
    if row is None:
        return None
    owner, mine, me = row
    if not mine:
        raise ConfigurationError(
            f"the schema {SCHEMA} of this database belongs to {owner}, and {me} is no member of that role: "
            f"give an engine of {owner} as admin=, or {owner} in the URL of --database"
        )
    return str(owner)


def entering(key: RoutingKey) -> str:
    """
    Return the statement by which a transaction enters a key's partition. It returns the partition's state, with its revision where that is
    ``ready``; ``unknown``; ``inside``, and whose, where the transaction is in another one; or ``begun``, where
    it has written already.

    Args:
        key: The routing key, which has no character that would need a quote.
    """
    return f"SELECT {SCHEMA}.enter('{RoutingKey(key)}')"


def lock_all(connection: Connection) -> None:
    """
    Wait until no partition is being made or dropped, and let none be until this transaction ends.
    """
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy', 0))")


def lock_rights(connection: Connection) -> None:
    """
    Wait until nobody else grants rights on the baseline's tables: PostgreSQL refuses two at once ("tuple concurrently updated").
    """
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.rights', 0))")


def lock(connection: Connection, key: RoutingKey, timeout: float | None = None) -> None:
    """
    Wait until no transaction is in a key's partition any more, and let none in until this one ends.

    Args:
        connection: A connection in a transaction.
        key: The routing key.
        timeout: Seconds to wait at most, for this and whatever else this transaction waits for; None: as long as it takes.

    Raises:
        PartitionError: If it had to wait longer.
    """
    if timeout is not None:
        connection.exec_driver_sql(f"SELECT set_config('lock_timeout', '{max(1, round(timeout * 1000))}ms', true)")
    # In this order, as `lock_all` has it.
    for sql in ("_shared(hashtextextended('tenancy', 0))", f"(hashtextextended('tenancy.{RoutingKey(key)}', 0))"):
        try:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{sql}")
        except Exception as error:  # SQLAlchemy's, which those who only enter need not have
            orig = getattr(error, "orig", None)
            if getattr(orig, "sqlstate", getattr(orig, "pgcode", None)) != "55P03":  # lock_not_available
                raise
            raise PartitionError(
                f"transactions of {key}, or a migration, had not ended in {timeout:g} s; look for sessions that are idle in a transaction in "
                "pg_stat_activity"
            ) from error


def read(connection: Connection, key: RoutingKey | None = None) -> list[Registered]:
    """
    Return the partitions that are registered, or one of them.
    """
    sql = f"SELECT key, state, schemas, path, modes, shape, fingerprint, created, expires, role FROM {SCHEMA}.partitions"
    rows: Any = (
        connection.exec_driver_sql(f"{sql} ORDER BY key")
        if key is None
        else connection.exec_driver_sql(f"{sql} WHERE key = %(key)s", {"key": str(key)})
    )
    return [
        Registered(RoutingKey(row[0]), row[1], _json(row[2]), row[3], _json(row[4]), _json(row[5]), row[6], row[7], row[8], row[9])
        for row in rows.all()
    ]


def write(connection: Connection, key: RoutingKey, **values: Any) -> None:
    """
    Register a partition, or change what is registered of it.

    Args:
        connection: A connection in a transaction.
        key: The routing key.
        values: Columns of the register; dictionaries become JSON.
    """
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    if connection.exec_driver_sql(f"SELECT FROM {SCHEMA}.partitions WHERE key = %(key)s", {"key": str(key)}).first() is None:
        names = ", ".join(["key", *given])
        places = ", ".join(["%(key)s", *(f"%({name})s" for name in given)])
        connection.exec_driver_sql(f"INSERT INTO {SCHEMA}.partitions ({names}) VALUES ({places})", {"key": str(key), **given})
    else:
        changes = ", ".join(["revision = pg_current_xact_id()::text", *(f"{name} = %({name})s" for name in given)])
        connection.exec_driver_sql(f"UPDATE {SCHEMA}.partitions SET {changes} WHERE key = %(key)s", {"key": str(key), **given})


def forget(connection: Connection, key: RoutingKey) -> None:
    """
    Remove what is registered of a partition.
    """
    connection.exec_driver_sql(f"DELETE FROM {SCHEMA}.partitions WHERE key = %(key)s", {"key": str(key)})


def _json(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) else value)
