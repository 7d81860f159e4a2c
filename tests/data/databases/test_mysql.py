"""
Databases on MariaDB: what is copied, what cannot be, hostile names, and names of databases in statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    column,
    create_engine,
    delete,
    insert,
    make_url,
    select,
    table,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable, DropTable

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


NAMING = [
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
    "SELECT n FROM (SELECT 1) x STRAIGHT_JOIN {0}.marks",
    "SELECT n FROM (SELECT 1) x, {0}.marks, (SELECT 2) y",
    "SELECT n FROM /* hint */ {0}.marks",
    "SELECT 1 AS n /*!50000 FROM {0}.marks */",
    "SELECT n FROM golden g JOIN golden h ON g.id = abs(h.id), {0}.marks",
    "SELECT 'it\\'s', n FROM {0}.marks",
    "INSERT {0}.marks(id, owner, n) VALUES (1, 'x', 0)",
    "UPDATE LOW_PRIORITY {0}.marks SET n = 1",
    "TRUNCATE {0}.marks",
    "DROP TABLE IF EXISTS {0}.nothing",
    "CREATE TABLE IF NOT EXISTS {0}.marks (id INT)",
    "ALTER TABLE {0}.marks ALTER n SET DEFAULT 1, RENAME TO {0}.marks",
    "RENAME TABLE {0}.marks TO {0}.moved, {0}.moved TO {0}.marks",
    "USE {0}",
]

ORDINARY = [
    "SELECT {0}.id, {0}.owner AS x, abs({0}.n), 2 FROM marks AS {0} WHERE {0}.id IN (1, 2) ORDER BY {0}.id, {0}.n LIMIT 1",
    "INSERT INTO marks(id, owner, n) VALUES (1, 'FROM {0}.x', 0)",
    "UPDATE marks AS {0} SET {0}.n = 1, {0}.owner = 'it\\'s from {0}.x' WHERE {0}.id = 1",
    "SELECT EXTRACT(YEAR FROM NOW()), TRIM(LEADING 'x' FROM {0}.owner) FROM marks AS {0} -- FROM {0}.x",
    "SELECT STRAIGHT_JOIN {0}.id FROM marks {0} JOIN golden ON {0}.id = golden.id AND ({0}.n = 1 OR {0}.n = 2) # FROM {0}.x",
    "DELETE {0}.* FROM marks {0} JOIN golden ON {0}.id = golden.id",
    "SELECT (SELECT COUNT(*) FROM golden g WHERE g.id = {0}.id), {0}.n FROM marks {0} GROUP BY {0}.id, {0}.n FOR UPDATE",
    'SELECT "FROM {0}.marks", /* FROM {0}.marks */ @{0}.x',
]


@pytest.fixture
def routed(place: Place) -> Iterator[Engine]:
    """An engine on the baseline; pr-42 and pr-43 have databases."""
    for key in ("pr-42", "pr-43"):
        place.provider().create(key)
    engine = place.engine()
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    yield engine
    engine.dispose()
    databases.uninstall(engine)


def test_statements_that_name_another_database(place: Place, routed: Engine) -> None:
    """Text that names the baseline's, the golden one or another key's is refused with a key; without one it runs."""
    baseline, other = make_url(place.baseline).database or "", place.provider().database("pr-43")  # type: ignore[attr-defined]
    for statement in NAMING:
        for name in (baseline, place.golden, other, other.upper().replace("43", "45")):
            written = statement.format(name)
            with tenancy.scope("pr-42"), routed.connect() as connection, pytest.raises(PartitionError, match="names a database"):
                connection.execute(text(written))
            with tenancy.scope("pr-42"), routed.connect() as connection, pytest.raises(PartitionError, match="names a database"):
                connection.exec_driver_sql(written)
        with routed.connect() as connection:
            connection.execute(text(statement.format(baseline)))
            connection.rollback()


def test_statements_that_only_look_like_it(place: Place, routed: Engine) -> None:
    """A table that is called as the database is, texts and comments; and the key's own database."""
    own = place.provider().database("pr-42")  # type: ignore[attr-defined]
    for name in (make_url(place.baseline).database, place.golden):
        for statement in ORDINARY:
            with tenancy.scope("pr-42"), routed.begin() as connection:
                connection.exec_driver_sql(statement.format(name))
    with tenancy.scope("pr-42"), routed.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT n FROM {own}.marks").all() == []


class Base(DeclarativeBase):
    pass


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
def test_tables_that_name_another_database(place: Place, routed: Engine) -> None:
    """Whatever SQLAlchemy makes of schema= is refused with a key, for any database but its own; a map to its own is not."""
    name, other = make_url(place.baseline).database, place.provider().database("pr-43")  # type: ignore[attr-defined]
    marks = Table("marks", MetaData(), Column("id", Integer), Column("n", Integer))
    golden = Table("golden", MetaData(), Column("id", Integer), Column("word", String(20)))
    for schema in (name, place.golden, other, "somebody_elses"):
        named = marks.to_metadata(MetaData(), schema=schema)
        for statement in (
            select(named),
            select(golden.c.word, named.c.n),
            select(golden).where(golden.c.id.in_(select(named.c.id))),
            select(golden).join(named, named.c.id == golden.c.id),
            insert(named).values(id=1),
            insert(table("marks", column("id"), schema=schema)).values(id=1),
            insert(marks).from_select(["id"], select(named.c.id)),
            update(named).values(n=1),
            delete(named),
            CreateTable(named),
            DropTable(named, if_exists=True),
        ):
            with tenancy.scope("pr-42"), routed.connect() as connection, pytest.raises(PartitionError, match="names a database"):
                connection.execute(statement)
        with tenancy.scope("pr-42"), routed.connect() as connection, pytest.raises(PartitionError, match="names a database"):
            connection.execution_options(schema_translate_map={None: schema}).execute(select(marks))
    with tenancy.scope("pr-42"), routed.connect() as connection:
        shared = select(marks.to_metadata(MetaData(), schema=name))
        assert connection.execution_options(schema_translate_map={name: None}).execute(shared).all() == []


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
def test_the_orm_and_a_table_of_the_databases_name(place: Place, routed: Engine) -> None:
    """A comma in FROM with schema= is refused; where a table is called as the database is, ordinary queries are not."""
    name = make_url(place.baseline).database or ""

    class Order(Base):
        __tablename__ = name
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        owner: Mapped[str] = mapped_column(String(80))

    class Elsewhere(Base):
        __tablename__ = "marks"
        __table_args__ = ({"schema": name},)
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    with tenancy.scope("pr-42"), Session(routed) as session:
        Order.__table__.create(session.connection())  # type: ignore[attr-defined]
        session.add(Order(id=1, owner=f"FROM {name}.x"))
        session.commit()
        assert len(session.query(Order).all()) == 1
        assert session.execute(select(Order.id, Order.owner.label("x"))).all() == [(1, f"FROM {name}.x")]
        assert session.scalars(select(Order).from_statement(text(f"SELECT {name}.id, {name}.owner FROM {name}"))).one().id == 1
        with pytest.raises(PartitionError, match="names a database"):
            session.execute(select(Order.owner, Elsewhere.n))


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
