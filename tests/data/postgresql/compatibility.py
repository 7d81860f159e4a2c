"""
A database of a test module's own, with a key's partition in it; and what is in the baseline, to see that it stays so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, create_engine

from tenancy.data.postgresql import PostgresIsolation, Rows
from tests.data.postgresql.compatibility_schema import SCHEMAS, SEEDS, TABLES, VERSIONED

__all__ = ["KEY", "MODES", "OTHER", "Place", "place", "unchanged"]

KEY, OTHER = "pr-42", "pr-43"

#: All others are overlays.
MODES: Mapping[str, Any] = {"jobs": "copy", "job_runs": "copy", "audit": "empty", "countries": "readonly", "tickets": Rows("org")}

#: Who the application connects as: no superuser, and no owner of anything.
APPLICATION = "compat_app"


@dataclass
class Place:
    """
    The database.

    Args:
        name: What it is called.
        owner: The DSN for who owns the tables.
        application: The DSN for the application.
        isolation: Who makes partitions there; those of `KEY` and `OTHER` are there.
        engine: An engine for the owner.
    """

    name: str
    owner: str
    application: str
    isolation: PostgresIsolation
    engine: Engine

    def url(self, driver: str = "psycopg") -> str:
        """
        Return SQLAlchemy's URL for the application.
        """
        return self.application.replace("postgresql://", f"postgresql+{driver}://", 1)

    def contents(self) -> dict[str, str]:
        """
        Return for each table of the baseline a checksum of its rows.
        """
        names = (
            "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"
        )
        checksum = "SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {} t"
        with psycopg.connect(self.owner) as connection:
            tables = [row[0] for row in connection.execute(names, (list(SCHEMAS),))]
            return {table: connection.execute(sql.SQL(checksum).format(sql.SQL(table))).fetchone()[0] for table in tables}  # type: ignore[index]

    def reset(self) -> None:
        """
        Take back what keys have changed in overlays.
        """
        with psycopg.connect(self.owner) as connection:
            connection.execute(_RESET)


_RESET = """DO $$
DECLARE t record; found boolean;
BEGIN
FOR t IN SELECT v ->> 'delta' AS delta, v ->> 'hidden' AS hidden
    FROM tenancy.partitions, jsonb_each(shape) s(k, v) WHERE v ->> 'mode' = 'overlay' LOOP
  EXECUTE format('SELECT EXISTS (SELECT FROM %s) OR EXISTS (SELECT FROM %s)', t.delta, t.hidden) INTO found;
  IF found THEN EXECUTE format('TRUNCATE %s, %s', t.delta, t.hidden); END IF;
END LOOP;
END $$"""


@contextmanager
def place(server: str, modes: Mapping[str, Any] = MODES) -> Iterator[Place]:
    """
    Make the database with all tables on a server, and drop it.

    Args:
        server: The DSN of a superuser.
        modes: The modes of the tables.
    """
    name = f"compat_{uuid4().hex[:10]}"
    base = server.rpartition("/")[0]
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (APPLICATION,)).fetchone() is None:
            admin.execute(f"CREATE ROLE {APPLICATION} LOGIN")
    owner = f"{base}/{name}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(TABLES)
        for condition, statements in VERSIONED:
            if connection.execute(f"SELECT {condition}").fetchone()[0]:  # type: ignore[index]
                connection.execute(statements)
        connection.execute(SEEDS)
        for schema in SCHEMAS:
            connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO {APPLICATION}')
            connection.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA "{schema}" TO {APPLICATION}')
            connection.execute(f'GRANT ALL ON ALL SEQUENCES IN SCHEMA "{schema}" TO {APPLICATION}')
        path = ", ".join(f'"{schema}"' for schema in SCHEMAS)
        connection.execute(f"ALTER DATABASE {name} SET search_path = {path}")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    engine = create_engine(owner.replace("postgresql://", "postgresql+psycopg://", 1))
    isolation = PostgresIsolation(engine, modes, schemas=SCHEMAS)
    try:
        isolation.install(grant_to=[APPLICATION])
        isolation.create(KEY)
        isolation.create(OTHER)
        user, host = base.rpartition("@")[::2]
        application = f"{user.split('://')[0]}://{APPLICATION}@{host}/{name}"
        yield Place(name, owner, application, isolation, engine)
    finally:
        engine.dispose()
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def unchanged(where: Place) -> Iterator[None]:
    """
    Fail if the baseline's rows are not what they were.
    """
    before = where.contents()
    yield
    after = where.contents()
    if after != before:
        pytest.fail(f"the baseline has changed: {[name for name in before if before[name] != after.get(name)]}")
