"""
Which databases a statement of MySQL's names, told by where a name stands.
"""

from __future__ import annotations

import pytest

from tenancy.data.databases._mysql_text import databases_named

NAMING = [
    "SELECT name FROM (SELECT 1) x STRAIGHT_JOIN shop.users",
    "SELECT 1 FROM (SELECT 1) x, shop.users, (SELECT 2) y",
    "SELECT * FROM /* hint */ shop.users",
    "INSERT shop.orders(owner) VALUES (1)",
    "UPDATE LOW_PRIORITY shop.orders SET a=1",
    "TRUNCATE shop.orders",
    "DROP TABLE IF EXISTS shop.orders",
    "CREATE TABLE IF NOT EXISTS shop.evil(a int)",
    "RENAME TABLE orders TO shop.moved",
    "SELECT a.x, b.y FROM a JOIN b ON a.i = f(b.i, 2), shop.c",
    "SELECT shop.users.name FROM users",
    "SELECT shop.f(1)",
    "CALL shop.p",
    "SELECT a FROM t WHERE x IN (SELECT y FROM `shop`.t)",
    "SELECT a FROM t USE INDEX FOR ORDER BY (i), shop.users",
    "ALTER TABLE t ALTER c SET DEFAULT 1, RENAME TO shop.x",
    "CREATE INDEX i ON shop.t (a)",
    "GRANT SELECT ON shop.* TO x",
    "DROP DATABASE IF EXISTS shop",
    "SELECT 1 /*!50000 FROM shop.users */",
    'SELECT 1 FROM "shop" . users',
    "SELECT 1; TRUNCATE shop.x",
    "CREATE TRIGGER t BEFORE INSERT ON marks FOR EACH ROW INSERT shop.log VALUES (1)",
    "DELETE shop.orders FROM shop.orders",
    "DELETE FROM a USING a, shop.b WHERE 1",
    "INSERT INTO t (a) SELECT x FROM b UNION TABLE shop.c",
    "SELECT 1 SELECT 'it\\'s' FROM shop.x",
]

ORDINARY = [
    "SELECT shop.id, shop.owner AS x, f(shop.x, 2) FROM shop WHERE shop.id IN (1, 2) AND shop.x > 1 ORDER BY shop.x, shop.y LIMIT 1",
    "INSERT INTO users(name) VALUES ('FROM shop.x')",
    "INSERT INTO shop (shop.id, owner) VALUES (1, 'x') ON DUPLICATE KEY UPDATE shop.id = 1, shop.owner = VALUES(shop.owner)",
    "UPDATE shop, b SET shop.x = b.y, shop.z = 1 WHERE shop.id = b.id",
    "SELECT EXTRACT(YEAR FROM shop.at), TRIM(LEADING 'x' FROM shop.name) FROM shop",
    "SELECT STRAIGHT_JOIN shop.id FROM shop JOIN b ON shop.id = b.id AND (shop.x = 1 OR shop.y = 2) LEFT JOIN c ON c.id = shop.id",
    "SELECT a FROM shop, JSON_TABLE(shop.doc, '$[*]' COLUMNS (a INT PATH '$.a')) j",
    "DELETE shop.* FROM shop JOIN b ON shop.i = b.i",
    "SELECT @shop.x, \"FROM shop.x\", 'it\\'s FROM shop.x' # FROM shop.x",
    "SELECT 1 -- FROM shop.x",
    "SELECT SUM(shop.x) OVER (PARTITION BY shop.a ORDER BY shop.b) FROM shop GROUP BY shop.a, shop.b HAVING shop.a > 1",
    "SELECT * FROM shop FOR UPDATE",
    "SELECT (SELECT COUNT(*) FROM b WHERE b.x = shop.x), shop.y FROM shop",
    "INSERT INTO t (a) VALUES (1) AS new ON DUPLICATE KEY UPDATE a = shop.a",
    "SELECT REPLACE(shop.x, 'a', 'b'), CASE WHEN shop.x = 1 THEN shop.y ELSE shop.z END FROM shop",
    "SELECT * FROM t USE INDEX (a)",
]


@pytest.mark.parametrize("statement", NAMING)
def test_a_database_is_named(statement: str) -> None:
    """In front of a table or a routine, quoted or not, behind whatever words, commas and comments."""
    assert "shop" in databases_named(statement).databases


@pytest.mark.parametrize("statement", ORDINARY)
def test_a_table_is_named(statement: str) -> None:
    """In an expression a name in front of a dot is a table's; texts and comments name nothing."""
    named = databases_named(statement)
    assert not named.databases
    assert not named.moves


def test_modes_of_the_server() -> None:
    """What a text is depends on them."""
    tricky = r"SELECT '\' FROM shop.users -- '".replace("\\\\", "\\")
    assert not databases_named(tricky, escapes=True).databases
    assert databases_named(tricky, escapes=False).databases == {"shop"}
    assert databases_named('SELECT 1 FROM a, "x" "y", shop.b', ansi=True).databases == {"shop"}
    assert databases_named(" use x").moves
