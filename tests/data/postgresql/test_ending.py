from __future__ import annotations

from typing import Any

import pytest

from tenancy.data.postgresql.ending import ends


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "commit and chain",
        " END;",
        "/* a /* b */ */ ROLLBACK",
        "ABORT AND CHAIN",
        "SELECT 1; COMMIT; BEGIN",
        "SELECT $a$ ; $a$; COMMIT",
        "PREPARE TRANSACTION 'x'",
        "ROLLBACK WORK",
        "ROLLBACK TRANSACTION AND CHAIN",
        "-- x\nEND",
        "SELECT E'\\''; COMMIT",
        "SELECT ';'; COMMIT --'",
        b"COMMIT",
        "COMMIT/**/AND CHAIN",
        "ROLLBACK/**/;",
        "SELECT a$1$ FROM t;COMMIT;--$1$",
        "END TRANSACTION",
        "; COMMIT",
    ],
)
def test_what_ends_a_transaction(sql: Any) -> None:
    assert ends(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT CASE WHEN a THEN b\nEND FROM t; SELECT 1",
        "DO $$ BEGIN COMMIT; END $$",
        "SELECT '; COMMIT'",
        'SELECT "; COMMIT"',
        "ROLLBACK TO x",
        "ROLLBACK WORK TO SAVEPOINT x",
        "rollback to savepoint x;",
        "-- ; COMMIT",
        "SELECT /* ; COMMIT */ 1;",
        "SELECT E'\\'; COMMIT'",
        "PREPARE p AS SELECT 1",
        "SELECT committed; SELECT endless",
        "end_of_x",
        "SELECT 'a;'';COMMIT'",
        "DO $x$ BEGIN; END $x$;",
        "commitment",
        "SELECT '\\'; --'; COMMIT",
        "SELECT $a$ $A$ ; COMMIT $a$",
    ],
)
def test_what_does_not(sql: Any) -> None:
    assert not ends(sql)
