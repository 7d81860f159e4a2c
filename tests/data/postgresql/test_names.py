from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Table, Text, create_engine, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover, uncover
from tenancy.data.postgresql.layout import Layout
from tenancy.data.postgresql.structure import Table as Structure
from tenancy.data.postgresql.structure import dollar_quoted, literal, quoted
from tests.data.postgresql.isolated import address_of, options, own_database, run

# Keys at the limits of their grammar, and some that look like one another.
KEYS = [
    "a",
    "b",
    "a-b",
    "a--b",
    "a-b-c",
    "k" * 63,
    "k" * 62 + "l",
    "a" + "-" * 61 + "b",
    "a" + "-" * 60 + "b",
    "0",
    "1e5",
    "select",
    "pg-1",
]

NASTY = [
    'a"b', "a'b", 'a""b', "a''b", "a%b", "%s", "%(x)s", "%%", "a:b", ":x", "a::b", "a\\b", "a\\", "\\:", "$tenancy$",
    "$tenancy_$", "$$", "$1", "a$tenancy$; --", "a b", " ", "a;b", "a--b", "a/*b", "a.b", '".', "a\nb", "a\tb", "É", "ß", "☃",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ééééééééééééééééééééééééééééééé", "orders__delta",
    "orders__hidden", "orders__hidden_key", "orders__writes", "orders__checks", "orders__after", "tenancy_base", "select",
    "table", "user", "order", "null", "None", "true", "public", "tenancy", "tenancy_moved_0", "tenancy_renamed_1", "{x}", "{",
    "}", "{0}", "?", "*", "d", "h", "u", "b", "r", "a", "v", "p", "OLD", "NEW", "old", "new", "added", "removed", "mine",
    "found_values", "TG_OP", "k0", "p0", "v0", "a0",
]  # fmt: skip
names = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=63),
    st.tuples(
        st.sampled_from(NASTY), st.sampled_from(["", "__delta", "__hidden", "__writes", "_pkey", '"', "'", "%", "$tenancy$"])
    ).map("".join),
).filter(lambda name: 0 < len(name.encode()) <= 63 and "\0" not in name)


# Pure.


@given(st.text(st.characters(blacklist_characters="\0")))
def test_no_text_leaves_its_quotes(text: str) -> None:
    assert quoted(text)[1:-1].replace('""', "") == text.replace('"', "")
    assert literal(text).lstrip("E")[1:-1].replace("''", "").find("'") == -1
    body = dollar_quoted(text)
    tag = body[: body.index("$", 1) + 1]
    assert body == f"{tag}{text}{tag}"
    assert tag not in text


@given(st.lists(names, min_size=1, max_size=8, unique=True), st.sampled_from(KEYS))
@example(["x" * 63, "x" * 62, "x" * 55, "x" * 51], "a")
@example(["a", "a__delta", "a__hidden", "a__b"], "a")
@example(["tenancy", "tenancy__changed", "tenancy__changed_", "tenancy__stripes"], "a")
def test_no_two_things_of_a_partition_have_one_name(tables: list[str], key: str) -> None:
    layout = Layout(tenancy.RoutingKey(key), ["public"], set(tables))
    found: list[str] = []
    for name in tables:
        made = layout.names(Structure("public", name, ()))
        schema = f"{made.schema}."
        inner = [made.delta, made.hidden, made.writes, made.checks, made.fault, made.after, schema + made.hidden_key]
        inner += [f"{made.references[:-1]}_{number}{made.references[-1]}" for number in (0, 1, 999)]
        inner.append(made.table)
        found += [each.removeprefix(schema) for each in inner]
    found += [each.rpartition(".")[2] for each in (layout.changed, layout.stripes)]
    assert len(set(found)) == len(found)
    assert all(len(each[1:-1].replace('""', '"').encode()) <= 63 for each in found)


def test_no_two_keys_have_one_schema() -> None:
    bases = ["public", "Public", "a", "a__b", "x" * 63, "x" * 62 + "y", 'a"b', "é" * 31]
    made = [schema for key in KEYS for schema in Layout(tenancy.RoutingKey(key), bases, ()).schemas.values()]
    assert len(set(made)) == len(made)
    assert all(len(schema.encode()) <= 63 and schema.isidentifier() for schema in made)


# On a server.


class Place:
    def __init__(self, address: str, name: str) -> None:
        self.url = address_of(address, name)
        self.owner = create_engine(self.url, **options(address))
        self.covered = create_engine(self.url, **options(address))
        self.asyncpg = address_of(address, name, driver="asyncpg")
        cover(self.covered)
        PostgresIsolation(self.owner).install()

    def close(self) -> None:
        uncover(self.covered)
        self.covered.dispose()
        self.owner.dispose()


@pytest.fixture(scope="module")
def place(postgresql: str) -> Iterator[Place]:
    with own_database(postgresql) as name:
        made = Place(postgresql, name)
        yield made
        made.close()


def everything(engine: Engine, schema: str) -> list[Any]:
    sql = (
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(schema)} AND c.relkind = 'r' ORDER BY 1"
    )
    return [(name, run(engine, f"SELECT t::text FROM {name} t ORDER BY 1")) for (name,) in run(engine, sql)]


@pytest.mark.service
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(
    schema=names.filter(lambda name: not name.startswith("pg_") and name not in ("public", "tenancy", "information_schema")),
    tables=st.lists(names, min_size=2, max_size=3, unique=True),
    columns=st.lists(names, min_size=3, max_size=3, unique=True),
    others=st.lists(names, min_size=3, max_size=3, unique=True),
    mode=st.sampled_from(["overlay", "overlay", "copy", "empty"]),
    key=st.sampled_from(KEYS),
)
@example(
    '"; DROP SCHEMA tenancy CASCADE; --',
    ["a$tenancy$; DROP TABLE x; --", "%s"],
    ["id:x", "%(y)s", "\\"],
    ["c'", 'k"', "$tenancy$"],
    "overlay",
    "a",
)
@example("%", ["orders", "orders__delta"], ["%", "%%", ":x"], ["a%", "b%", "c%"], "overlay", "a--b")
@example(
    "x" * 63, ["x" * 63, "x" * 62], ["tenancy_base", "tenancy_base_", "é" * 31], ["y" * 63, "y" * 62, "y" * 61], "overlay", "k" * 63
)
@example("\\", ["\\:a", "a\\"], ["\\", "\\\\", "a\\:b"], ["\\", "\\1", "\\%"], "overlay", "a-b")
@example("orders", ["orders__hidden_key", "orders"], ["h", "u", "d"], ["orders__hidden", "orders__checks", "x"], "overlay", "a")
@example("A", ["A", '"A"'], ["A", '"A"', '""A""'], ["C", '"C"', "B"], "copy", "a")
@example("(", ["Orders", " REFERENCES "], ['a"b', "a'b", ")"], [" REFERENCES x(", "b", "c"], "copy", "a")
@example("v", ["a", "b"], ["found_values", "mine", "r"], ["x", "y", "z"], "overlay", "a")
def test_whatever_things_are_called_a_partition_lives_and_the_baseline_stays(
    place: Place, schema: str, tables: list[str], columns: list[str], others: list[str], mode: Any, key: str
) -> None:
    metadata = MetaData()
    identity, label, parent = columns
    unique, foreign, check = others
    first, second = tables[:2]
    one = Table(first, metadata, Column(identity, Integer, key="id", primary_key=True), Column(label, Text, key="label"))
    Table(
        second,
        metadata,
        Column(identity, Integer, key="id", primary_key=True),
        Column(label, Text, key="label"),
        Column(parent, Integer, ForeignKey(one.c.id), key="parent"),
    )
    two = metadata.tables[second]
    base, child, q = f"{quoted(schema)}.{quoted(first)}", f"{quoted(schema)}.{quoted(second)}", quoted
    # Each index has to have a name that no table has.
    index = unique if unique not in tables else f"{unique[:20]}_i"
    key_of = {name: f"pk{at}" for at, name in enumerate(tables)}
    triggers = [
        f"CREATE TRIGGER {q(foreign)} BEFORE UPDATE OF {q(label)} ON {base} FOR EACH ROW EXECUTE FUNCTION {q(schema)}.{q(check)}()"
    ]
    run(
        place.owner,
        f"CREATE SCHEMA {q(schema)}",
        f"SET LOCAL search_path = {q(schema)}",
        *(
            f"CREATE TABLE {q(name)} ({q(identity)} integer CONSTRAINT {q(key_of[name])} PRIMARY KEY, "
            f"{q(label)} text DEFAULT {literal(label)}, {q(parent)} integer, "
            f"CONSTRAINT {q(check)} CHECK ({q(label)} <> {literal(check + 'x')}))"
            for name in tables
        ),
        f"CREATE UNIQUE INDEX {q(index)} ON {base} ({q(label)})",
        f"ALTER TABLE {child} ADD CONSTRAINT {q(foreign)} FOREIGN KEY ({q(parent)}) REFERENCES {base} ON DELETE CASCADE",
        f"CREATE FUNCTION {q(schema)}.{q(check)}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        *(triggers if mode != "overlay" else []),
        f"INSERT INTO {base} VALUES (1, 'one'), (2, 'two'), (3, 'three')",
        f"INSERT INTO {child} VALUES (1, 'one', 1), (2, 'two', 2)",
    )
    isolation = PostgresIsolation(place.owner, dict.fromkeys(tables, mode), schemas=[schema])
    try:
        before = everything(place.owner, schema)
        assert isolation.statements(key)
        isolation.create(key)
        with tenancy.scope(key):
            with place.covered.begin() as connection:
                if mode == "empty":
                    connection.execute(
                        insert(one), [{"id": 1, "label": "one"}, {"id": 2, "label": "two"}, {"id": 3, "label": "three"}]
                    )
                    connection.execute(
                        insert(two), [{"id": 1, "label": "one", "parent": 1}, {"id": 2, "label": "two", "parent": 2}]
                    )
                connection.execute(insert(one), [{"id": 11, "label": "eleven"}, {"id": 12, "label": "twelve"}])
                connection.execute(update(one).where(one.c.id == 1).values(label="uno"))
                statement = upsert(one).values(id=2, label="dos")
                connection.execute(
                    statement.on_conflict_do_update(index_elements=[one.c.id], set_={"label": statement.excluded.label})
                )
                connection.execute(upsert(one).values(id=13, label="three").on_conflict_do_nothing(index_elements=[one.c.label]))
                connection.execute(one.delete().where(one.c.id == 3))
                connection.execute(insert(two), [{"id": 11, "label": "x", "parent": 11}])
                connection.execute(one.delete().where(one.c.id == 1))  # and what refers to it
            for refused in (
                insert(two).values(id=99, parent=98),
                insert(one).values(id=99, label="dos"),
                insert(one).values(id=99, label=check + "x"),
            ):
                with pytest.raises(Exception, match="violates"), place.covered.begin() as connection:
                    connection.execute(refused)
            with place.covered.begin() as connection:
                wanted = [(2, "dos"), (11, "eleven"), (12, "twelve")]
                assert connection.execute(select(one).order_by(one.c.id)).all() == wanted
                assert connection.execute(select(two.c.id, two.c.parent).order_by(two.c.id)).all() == [(2, 2), (11, 11)]
        assert everything(place.owner, schema) == before
        assert _quiet(isolation)
        (status,) = (status for status in isolation.status() if status.key == key)
        assert status.size > 0

        with isolation.migration() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {base} ADD more integer DEFAULT 7".replace("%", "%%"))
        assert _quiet(isolation)
        with tenancy.scope(key), place.covered.begin() as connection:
            assert connection.execute(select(one).order_by(one.c.id)).all() == wanted
            connection.execute(update(one).values(label=one.c.label))
        isolation.refresh(key)
        assert isolation.status(key)[0].changed == {}
        isolation.drop(key, forget=True)
        assert run(place.owner, f"SELECT count(*) FROM pg_namespace WHERE nspname = {literal(status.schemas[schema])}") == [(0,)]
    finally:
        isolation.drop(key, forget=True)
        run(place.owner, f"DROP SCHEMA {quoted(schema)} CASCADE")


def _quiet(isolation: PostgresIsolation) -> bool:
    problems = [problem.text for problem in isolation.check()]
    assert problems == []
    return True


@pytest.mark.service
def test_all_keys_at_the_limits_of_their_grammar_live_beside_one_another(place: Place) -> None:
    run(
        place.owner,
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.orders (id integer PRIMARY KEY, owner text)",
        "INSERT INTO shop.orders VALUES (1, 'baseline')",
    )
    isolation = PostgresIsolation(place.owner, schemas=["shop"])
    for key in KEYS:
        isolation.create(key)
    for key in KEYS:
        with tenancy.scope(key):
            run(place.covered, f"UPDATE orders SET owner = '{key}'", f"INSERT INTO orders VALUES (2, '{key}')")
    for key in KEYS:
        with tenancy.scope(key):
            assert run(place.covered, "SELECT owner FROM orders") == [(key,)] * 2
    assert run(place.owner, "SELECT owner FROM shop.orders") == [("baseline",)]
    for key in KEYS:
        isolation.drop(key, forget=True)
    assert run(place.owner, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shop\\_\\_%'") == []
    run(place.owner, "DROP SCHEMA shop CASCADE")


@pytest.mark.parametrize(
    "key", ["", "A", "a_b", "a'b", 'a"', "a;b", "-a", "a-", "a" * 64, "public", "baseline", "a\n", "a b", "é", "$tenancy$", "a%"]
)
@pytest.mark.service
def test_what_is_no_key_reaches_no_statement(place: Place, key: str) -> None:
    isolation = PostgresIsolation(place.owner, schemas=["public"])
    for call in (isolation.create, isolation.drop, isolation.refresh, isolation.status, isolation.statements):
        with pytest.raises(tenancy.errors.InvalidRoutingKeyError):
            call(key)


@pytest.mark.service
@pytest.mark.parametrize("name", ['we"ird %s', "o'r\\", "a$tenancy$", "MiXed", "r" * 63])
def test_roles_may_be_called_anything(postgresql: str, name: str) -> None:
    role, reader = name, f"x{name}"[:62]
    with own_database(postgresql) as database:
        owner = create_engine(address_of(postgresql, database), **options(postgresql))
        run(owner, "CREATE TABLE orders (id integer PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
        isolation = PostgresIsolation(owner, role=role, reader=reader)
        isolation.install()
        isolation.create("pr-1")
        assert _quiet(isolation)
        covered = create_engine(address_of(postgresql, database), **options(postgresql))
        cover(covered)
        with tenancy.scope("pr-1"):
            assert run(covered, "DELETE FROM orders", "SELECT current_user::text, count(*) FROM orders") == [(role, 0)]
        uncover(covered)
        covered.dispose()
        isolation.drop("pr-1")
        run(owner, f"DROP OWNED BY {quoted(role)}, {quoted(reader)}", f"DROP ROLE {quoted(role)}, {quoted(reader)}")
        owner.dispose()
