"""
Databases on MariaDB: what is copied, what cannot be, hostile names, and names of databases in statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, make_url, select, text

import tenancy
from tenancy.data.databases import DatabasePerKey
from tenancy.data.databases.mysql import MySQLDatabase
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.databases.places import Place, drop_place, make_place, on_server, quoted

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", params=["mariadb"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = make_place("mariadb", tmp_path_factory.mktemp("databases"), request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)


@pytest.fixture
def fresh(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A golden database of the test's own."""
    made = make_place("mariadb", tmp_path, request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)


def in_golden(place: Place, *statements: str) -> None:
    on_server(make_url(place.baseline).set(database=place.golden), "mariadb", list(statements))


@pytest.mark.parametrize(
    "golden", ["Shop `x`; DROP DATABASE tenancy; --", "SHOP", "shöp %s {x} %(y)s", "пример", "a'b\"c\\d", "x" * 64]
)
def test_hostile_golden_names(golden: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Quotes, upper case, other scripts, percent signs: the copy is the golden database's, and its name needs no quotes."""
    place = make_place("mariadb", tmp_path, request.getfixturevalue, golden=golden)
    try:
        provider = place.provider()
        address = provider.create("pr-42")
        assert re.fullmatch(r"mysql:///[a-z][a-z0-9_]{0,63}", address)
        assert place.rows(address) == [("kept",)]
        provider.drop("pr-42")
    finally:
        drop_place(place, request.getfixturevalue)


def test_all_of_a_golden_database(fresh: Place) -> None:
    """Keys to one another in a circle, generated columns, hostile names, views of views, triggers, routines, character sets; no events."""
    in_golden(
        fresh,
        f"ALTER DATABASE {quoted('mariadb', fresh.golden)} CHARACTER SET latin2 COLLATE latin2_bin",
        "CREATE TABLE users (id INT PRIMARY KEY AUTO_INCREMENT, best INT, name VARCHAR(9) DEFAULT '%s', "
        "loud VARCHAR(9) AS (UPPER(name)) STORED, quiet VARCHAR(9) AS (LOWER(name)) VIRTUAL, at TIMESTAMP(3) DEFAULT CURRENT_TIMESTAMP(3), "
        "UNIQUE (name), CHECK (name <> ''))",
        "CREATE TABLE `odd ``name; %s` (`a ``b` INT PRIMARY KEY, user INT, FOREIGN KEY (user) REFERENCES users (id) ON DELETE CASCADE)",
        "ALTER TABLE users ADD FOREIGN KEY (best) REFERENCES `odd ``name; %s` (`a ``b`)",
        "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
        "INSERT INTO users (id, name) VALUES (0, 'Zero'), (7, 'Seven')",
        "INSERT INTO `odd ``name; %s` VALUES (1, 7)",
        "UPDATE users SET best = 1 WHERE id = 7",
        "CREATE VIEW a_names AS SELECT id, quiet FROM users",
        "CREATE VIEW b_names AS SELECT quiet FROM a_names WHERE id > 0",
        "CREATE OR REPLACE VIEW a_names AS SELECT id, quiet FROM users",
        "CREATE VIEW a_first AS SELECT quiet FROM b_names",
        "CREATE TRIGGER marks_twice BEFORE INSERT ON marks FOR EACH ROW SET NEW.n = NEW.n * 2",
        "CREATE PROCEDURE many() BEGIN SELECT 'a.b', COUNT(*) FROM users; END",
        "CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN x * 2",
        "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM users",
    )
    for rows, users in (("all", [(0, "Zero", "ZERO", "zero", None), (7, "Seven", "SEVEN", "seven", 1)]), (["golden"], [])):
        provider = fresh.provider(rows=rows)
        address = provider.create("pr-42")
        assert fresh.rows(address, "SELECT id, name, loud, quiet, best FROM users ORDER BY id") == users
        assert fresh.rows(address, "SELECT * FROM a_first") == [("seven",)] * bool(users)
        assert fresh.rows(address, "SELECT * FROM golden") == [(1, "kept")]
        fresh.rows(address, "INSERT INTO marks VALUES (1, 'x', 4)")
        assert fresh.rows(address, "SELECT n, twice(n) FROM marks") == [(8, 16)]
        assert fresh.rows(address, "CALL many()") == [("a.b", len(users))]
        assert fresh.rows(address, "SELECT @@character_set_database, @@collation_database") == [("latin2", "latin2_bin")]
        if users:
            fresh.rows(address, "DELETE FROM users WHERE id = 0")
            fresh.rows(address, "INSERT INTO users (name) VALUES ('new')")
            assert fresh.rows(address, "SELECT MAX(id) FROM users") == [(8,)]
        name = make_url(address).database
        assert fresh.rows(address, f"SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = '{name}'") == [(0,)]
        keys = "SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS"
        found = f"{keys} WHERE CONSTRAINT_SCHEMA = '{name}' AND UNIQUE_CONSTRAINT_SCHEMA = '{name}'"
        assert fresh.rows(address, found) == [(2,)]
        provider.drop("pr-42")
    golden = f"mysql:///{fresh.golden}"
    assert fresh.rows(golden, "SELECT COUNT(*) FROM users") == [(2,)]
    assert fresh.rows(golden, "SELECT COUNT(*) FROM marks") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t BEFORE INSERT ON marks FOR EACH ROW INSERT INTO {golden}.bulk VALUES (1, 'x')",
        "CREATE PROCEDURE p() DELETE FROM {quoted} . marks",
        "CREATE SEQUENCE numbers",
    ],
)
def test_what_cannot_be_copied(fresh: Place, statement: str) -> None:
    """What names the golden database would change it; it is refused by name, and nothing counts as made."""
    in_golden(fresh, statement.format(golden=fresh.golden, quoted=f"`{fresh.golden}`"))
    with pytest.raises(PartitionError, match=r"'t'|'p'|numbers \(sequence\)") as caught:
        fresh.provider().create("pr-42")
    assert "migrate=" in str(caught.value)
    assert fresh.provider().databases() == {}
    fresh.provider().drop("pr-42")


def test_a_view_that_names_its_database(fresh: Place) -> None:
    """The server leaves the name out where it can, so such a view is copied as its key's own."""
    in_golden(fresh, f"CREATE VIEW v AS SELECT word FROM {fresh.golden}.golden")
    address = fresh.provider().create("pr-42")
    fresh.rows(address, "UPDATE golden SET word = 'mine'")
    assert fresh.rows(address, "SELECT * FROM v") == [("mine",)]


def test_rows_of_a_table_that_is_not_there(place: Place) -> None:
    """It is named."""
    with pytest.raises(PartitionError, match="'nothing'"):
        place.provider(rows=["golden", "nothing"]).create("pr-42")


def test_made_by_migrations_alone(place: Place) -> None:
    """Without a golden database there is nothing but what they make."""

    def migrate(url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE made (id INT)")
        engine.dispose()

    provider = MySQLDatabase("no_golden", place.admin, schema="empty", migrate=migrate)
    address = provider.create("pr-42")
    assert place.rows(address, "SHOW TABLES") == [("made",)]
    provider.drop("pr-42")


def test_a_transaction_of_another_user_in_it(place: Place, unique: str) -> None:
    """It is ended, and the database dropped."""
    address = place.provider().create("pr-42")
    engine = create_engine(place.url(address))
    connection = engine.connect()
    connection.exec_driver_sql("INSERT INTO marks VALUES (1, 'open', 0)")
    place.provider(timeout=2).drop("pr-42")
    assert place.provider().databases() == {}
    connection.invalidate()
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM {0}.marks",
        "SELECT * FROM `{0}` . `marks`",
        "select *\nfrom (\n{0}.marks)",
        "INSERT INTO {0}.marks VALUES (1, 'x', 0)",
        "UPDATE {0}.marks SET n = 1",
        "DELETE FROM {0}.marks",
        "SELECT * FROM golden JOIN {0}.marks USING (id)",
        "TRUNCATE TABLE {0}.marks",
        "INSERT IGNORE INTO {0}.marks VALUES (1, 'x', 0)",
        "REPLACE INTO {0}.marks VALUES (1, 'x', 0)",
        "SELECT * FROM golden, {0}.marks WHERE 1",
        "USE {0}",
    ],
)
def test_statements_that_name_the_baselines_database(place: Place, statement: str) -> None:
    """With a key they are refused, without one they run."""
    place.provider().create("pr-42")
    engine = place.engine()
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    written = statement.format(make_url(place.baseline).database)
    with tenancy.scope("pr-42"), engine.connect() as connection, pytest.raises(PartitionError, match="names a database"):
        connection.execute(text(written))
    with engine.connect() as connection:
        connection.execute(text(written))
    engine.dispose()
    databases.uninstall(engine)


def test_a_table_that_names_the_baselines_database(place: Place) -> None:
    """schema= is refused with a key; names that only look like it are not."""
    place.provider().create("pr-42")
    engine = place.engine()
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    name = make_url(place.baseline).database
    table = Table("marks", MetaData(), Column("id", Integer), schema=name)
    with tenancy.scope("pr-42"), engine.connect() as connection:
        with pytest.raises(PartitionError, match="names a database"):
            connection.execute(select(table))
        found = f"SELECT {name}.id, '{name}.x' FROM marks AS {name} WHERE {name}.id > 0"
        assert connection.execute(text(found)).all() == []
    engine.dispose()
    databases.uninstall(engine)


def test_an_init_command_that_leads_elsewhere(place: Place) -> None:
    """It is found out on the first connection."""
    place.provider().create("pr-42")
    engine = place.engine(connect_args={"init_command": f"USE {make_url(place.baseline).database}"})
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="instead of"), engine.connect():
        pass
    engine.dispose()
    databases.uninstall(engine)


def test_what_cannot_be_used(place: Place) -> None:
    """It is refused at once."""
    admin = place.admin
    wrong: list[tuple[Any, Any, dict[str, Any]]] = [
        ("", admin, {}),
        ("x" * 65, admin, {}),
        ("golden", admin, {"rows": "golden"}),
        ("golden", admin, {"schema": "none"}),
        ("golden", admin, {"schema": "empty"}),
        ("golden", "mysql://user:secret@host", {}),
        ("golden", "mysql://user:secret@host/golden", {}),
        ("golden", "postgresql://user:secret@host/x", {}),
    ]
    for golden, url, options in wrong:
        with pytest.raises(ConfigurationError) as caught:
            MySQLDatabase(golden, url, **options)
        assert "secret" not in str(caught.value)
