"""
What is told from SQL that came as text.
"""

from __future__ import annotations

import pytest

from tenancy.data._sqlalchemy_raw import cannot_touch_rows, may_read_tables


@pytest.mark.parametrize(
    "fragment",
    [
        "",
        "*",
        "1",
        "a = 1 OR b = 2",
        "id DESC NULLS LAST",
        "selected = 1",
        "extract(year FROM made_at) = 2026",
        "name = 'select * from users'",
        '"select" = 1',
        "name = 'it''s ('",
        "(a = 1) AND (b IN (1, 2))",
        "FOR UPDATE SKIP LOCKED",
        "a IS DISTINCT FROM b",
        "a IS NOT DISTINCT FROM b AND (extract(day FROM made_at) > 1)",
        "amount > 10 -- don't select (the small ones\n",
        "/*+ HashJoin(users orders) */",
        "name = '--' AND (a = 1)",
    ],
)
def test_fragments_that_read_nothing(fragment: str) -> None:
    """A condition or an expression is a part of the restricted statement."""
    assert not may_read_tables(fragment)


@pytest.mark.parametrize(
    "fragment",
    [
        "(SELECT 1)",
        "id IN (select id from users)",
        "id IN (TABLE users)",
        "UNION ALL VALUES (1)",
        "EXCEPT SELECT 1",
        "1; DELETE FROM users",
        "1 = 1) OR (1 = 1",
        ")",
        "(",
        "name = '\\' OR id IN (select 1) --'",
        "name = 'open (select",
        "id > 0 -- the owner's\n AND id IN (SELECT 1) -- it's safe",
        "* FROM users",
        "count(*) from users",
        "a = b CROSS JOIN users",
        "name = $$'$$ OR id IN (SELECT 1) -- '",
        "a /*",
    ],
)
def test_fragments_that_may_read(fragment: str) -> None:
    """A subselect, or whatever leaves its place, is refused."""
    assert may_read_tables(fragment)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select 1;",
        "  SELECT pg_catalog.version()",
        "SELECT nextval('users_id_seq')",
        "SELECT set_config('x', 'y from z', true)",
        "SHOW standard_conforming_strings",
        "SET LOCAL lock_timeout = '1s'",
        'PRAGMA main.table_info("users")',
        "SAVEPOINT sa_savepoint_1",
        "RELEASE SAVEPOINT sa_savepoint_1",
        "ROLLBACK TO SAVEPOINT sa_savepoint_1",
        "PREPARE TRANSACTION 'x'",
        "CREATE TABLE x (id INTEGER REFERENCES y (id) ON DELETE CASCADE)",
        "ALTER TABLE x ADD COLUMN y INTEGER",
        "DROP TABLE x",
        "NOTIFY channel, 'payload'",
        "SELECT 1 -- FROM users",
        "/* it's a health check */ SELECT 1",
    ],
)
def test_statements_that_touch_no_rows(statement: str) -> None:
    """What an application needs for its health checks and migrations."""
    assert cannot_touch_rows(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "SELECT * FROM users",
        "SELECT 1 UNION SELECT id FROM users",
        "SELECT (TABLE users)",
        "SELECT 1; DELETE FROM users",
        "SELECT 1 INTO users",
        "WITH x AS (DELETE FROM users RETURNING id) SELECT 1",
        "VALUES (1)",
        "TABLE users",
        "INSERT INTO users VALUES (1)",
        "UPDATE users SET id = 1",
        "DELETE FROM users",
        "TRUNCATE users",
        "MERGE INTO users",
        "COPY users TO STDOUT",
        "EXPLAIN ANALYZE DELETE FROM users",
        "CALL work()",
        "DO $$ BEGIN DELETE FROM users; END $$",
        "PREPARE x AS SELECT * FROM users",
        "EXECUTE x",
        "SET x = 1; DELETE FROM users",
        "CREATE TABLE x AS SELECT * FROM users",
        "CREATE TABLE x AS TABLE users",
        "CREATE VIEW x AS SELECT * FROM users",
        "SETTLE users",
        "-- harmless\nDELETE FROM users",
        "/* SELECT 1 */ DELETE FROM users",
        "SELECT '\\' FROM users --'",
        "SELECT id -- the user's id\nFROM users -- it's the key",
        "SELECT id /* the user's id */ FROM users /* it's the key */",
        "SELECT id /* a /* user's */ FROM users -- '",
        "SELECT $$'$$, id FROM users, (VALUES ($$'$$)) AS x",
        "SELECT $a$'$a$, id FROM users -- '",
        "SELECT 1 /* -- */ FROM users",
    ],
)
def test_statements_that_may_touch_rows(statement: str) -> None:
    """Everything else is refused, also where it is only not understood."""
    assert not cannot_touch_rows(statement)
