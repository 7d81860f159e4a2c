"""What of a database's own things cannot be kept apart is refused when a partition is made, with what to do; and what is near to it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

import tenancy
from tenancy.data.postgresql import PostgresIsolation, Rows, cover, uncover
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.postgresql.isolated import address_of, options, own_database, run

pytestmark = pytest.mark.service

KEY = "pr-1"
Make = Callable[..., PostgresIsolation]


@pytest.fixture
def name(postgresql: str) -> Iterator[str]:
    with own_database(postgresql) as made:
        yield made


@pytest.fixture
def owner(postgresql: str, name: str) -> Iterator[Engine]:
    """An engine for the owner of the database."""
    engine = create_engine(address_of(postgresql, name), **options(postgresql))
    yield engine
    engine.dispose()


@pytest.fixture
def covered(postgresql: str, name: str) -> Iterator[Engine]:
    engine = create_engine(address_of(postgresql, name), **options(postgresql))
    cover(engine)
    yield engine
    uncover(engine)
    engine.dispose()


@pytest.fixture
def make(owner: Engine) -> Make:
    """Returns an isolation whose partition was made, after some statements of the owner."""

    def made(statements: str, tables: dict[str, Any] | None = None, **given: Any) -> PostgresIsolation:
        run(owner, *filter(None, map(str.strip, statements.split(";\n"))))
        isolation = PostgresIsolation(owner, tables or {}, **given)
        isolation.install()
        isolation.create(KEY)
        return isolation

    return made


ORGS = "CREATE TABLE orgs (id text PRIMARY KEY);\nINSERT INTO orgs VALUES ('base'), ('pr-1');\n"
ITEMS = "CREATE TABLE items (id integer PRIMARY KEY, org_id text REFERENCES orgs {});\nINSERT INTO items VALUES (1, 'pr-1');\n"
PARTITIONED = """CREATE TABLE events (id integer PRIMARY KEY, kind text) PARTITION BY RANGE (id);
CREATE TABLE early PARTITION OF events FOR VALUES FROM (0) TO (10);
"""
DOCS = "CREATE TABLE docs (id integer PRIMARY KEY, who text);\nALTER TABLE docs ENABLE ROW LEVEL SECURITY;\n"
FORCED = "ALTER TABLE docs FORCE ROW LEVEL SECURITY;\n"
RULE = """CREATE TABLE log (id integer PRIMARY KEY);
CREATE TABLE orders (id integer PRIMARY KEY);
CREATE RULE logged AS ON INSERT TO orders DO ALSO INSERT INTO log VALUES (NEW.id);
"""
FAMILY = "CREATE TABLE parent (id integer PRIMARY KEY);\nCREATE TABLE child () INHERITS (parent);\n"
OUTSIDE = """CREATE SCHEMA audit;
CREATE TABLE orders (id integer PRIMARY KEY);
CREATE TABLE audit.log (order_id integer CONSTRAINT log_order REFERENCES orders ON DELETE CASCADE);
"""
TRIGGER = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';\n"


@pytest.mark.parametrize(
    ("statements", "tables", "match"),
    [
        *(
            (ORGS + ITEMS.format(does), {"orgs": Rows("id"), "items": mode}, f"public.orgs: .*items_org_id_fkey of public.items .{does}")
            for mode, does in [
                ("overlay", "ON DELETE CASCADE"),
                ("copy", "ON DELETE SET NULL"),
                ("empty", "ON UPDATE CASCADE"),
                ("readonly", "ON DELETE SET DEFAULT"),
            ]
        ),
        (OUTSIDE, {"orders": Rows("id")}, "public.orders: .*log_order of audit.log; make that NO ACTION"),
        *((OUTSIDE, {"orders": mode}, "log_order of audit.log; name their schemas") for mode in ("overlay", "copy", "empty")),
        *((RULE, {"orders": mode}, r"public.orders: it has rules \(logged\)") for mode in ("overlay", "copy", "empty", Rows("id"))),
        *((FAMILY, {"parent": mode, "child": "readonly"}, "inheritance tree.*; use mode readonly$") for mode in ("overlay", "copy", "empty")),
        *(
            (PARTITIONED + statement, {"events": mode}, f"public.events: .*would not have {thing} of its partition public.early; drop")
            for mode, statement, thing in [
                ("overlay", "CREATE UNIQUE INDEX own ON early (kind)", "the unique index own"),
                ("copy", "ALTER TABLE early ADD CONSTRAINT own CHECK (kind <> 'x')", "the constraint own"),
                ("empty", "ALTER TABLE early ALTER kind SET NOT NULL", "NOT NULL for kind"),
                ("empty", TRIGGER + "CREATE TRIGGER own BEFORE INSERT ON early FOR EACH ROW EXECUTE FUNCTION nothing()", "the trigger own"),
                ("copy", "CREATE RULE own AS ON INSERT TO early DO ALSO NOTHING", "the rule own"),
                ("overlay", "ALTER TABLE early ENABLE ROW LEVEL SECURITY", "row security"),
                ("copy", ORGS + "ALTER TABLE early ADD CONSTRAINT own FOREIGN KEY (kind) REFERENCES orgs", "the constraint own"),
                ("overlay", "CREATE TABLE more (at integer CONSTRAINT own REFERENCES early)", "the foreign key own, .*"),
            ]
        ),
        *(
            (DOCS + policy, {"docs": mode}, match)
            for mode, policy, match in [
                ("readonly", "CREATE POLICY mine ON docs USING (who = current_user)", r"goes by the role \(mine\)"),
                ("readonly", "CREATE POLICY mine ON docs USING (pg_has_role(who, 'member'))", r"goes by the role \(mine\)"),
                ("readonly", "CREATE POLICY app ON docs TO pg_monitor USING (true)", r"goes by the role \(app\)"),
                ("readonly", "", "without a policy, which would show no row"),
                (Rows("who"), "CREATE POLICY every ON docs USING (true)", "does not hold for its owner.*FORCE ROW"),
                (Rows("who"), f"{FORCED}CREATE POLICY mine ON docs USING (who = session_user)", "by the role"),
                ("overlay", "CREATE POLICY every ON docs USING (true)", "has row security, .*use mode readonly"),
                ("overlay", "CREATE POLICY mine ON docs USING (who = current_user)", r"goes by the role \(mine\).*move the table"),
            ]
        ),
        (
            "CREATE TABLE words (id integer PRIMARY KEY, word text);\nCREATE UNIQUE INDEX words_once ON words (word text_pattern_ops)",
            {},
            "public.words: its unique index public.words_once is by text_pattern_ops",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_apart_is_refused(
    make: Make, owner: Engine, statements: str, tables: dict[str, Any], match: str
) -> None:
    with pytest.raises(PartitionError, match=match):
        make(statements, tables)
    assert run(owner, "SELECT FROM pg_namespace WHERE nspname LIKE '%\\_\\_%'") == []


@pytest.mark.parametrize(
    ("statements", "tables"),
    [
        (ORGS + ITEMS.format("") + "DELETE FROM items", {"orgs": Rows("id")}),
        (ORGS + ITEMS.format("ON DELETE CASCADE"), {"orgs": Rows("id"), "items": Rows("org_id")}),
        (ORGS + ITEMS.format("ON DELETE CASCADE"), {"orgs": "readonly"}),
        (OUTSIDE, {"orders": "readonly"}),
        (RULE, {"orders": "readonly"}),
        (RULE + "ALTER TABLE orders DISABLE RULE logged", {}),
        (FAMILY, {"parent": "readonly", "child": "readonly"}),
        (PARTITIONED + "CREATE INDEX own ON early (kind);\nCREATE INDEX every ON events (kind)", {}),
        (PARTITIONED + "CREATE UNIQUE INDEX own ON early (kind)", {"events": "readonly"}),
        (DOCS + "CREATE POLICY every ON docs USING (who <> 'current_user')", {"docs": "readonly"}),
        (DOCS + FORCED + "CREATE POLICY every ON docs USING (who <> 'x')", {"docs": Rows("who")}),
    ],
)
def test_what_is_near_to_that_is_not(make: Make, statements: str, tables: dict[str, Any]) -> None:
    isolation = make(statements, tables)
    assert isolation.check() == []
    isolation.drop(KEY)


def test_a_partition_is_not_dropped_where_rows_of_the_baseline_would_go_with_it(make: Make, owner: Engine) -> None:
    isolation = make(ORGS + ITEMS.format(""), {"orgs": Rows("id")})
    again = "ALTER TABLE items DROP CONSTRAINT items_org_id_fkey, ADD CONSTRAINT goes FOREIGN KEY (org_id) REFERENCES orgs "
    run(owner, again + "ON DELETE CASCADE")
    with pytest.raises(
        PartitionError, match=r"the partition of pr-1 was not removed: public.orgs: the foreign key goes of public.items"
    ):
        isolation.drop(KEY)
    assert run(owner, "SELECT (SELECT count(*) FROM orgs), (SELECT count(*) FROM items)") == [(2, 1)]
    run(owner, again.replace("items_org_id_fkey", "goes"), "DELETE FROM items")
    isolation.drop(KEY)
    assert run(owner, "SELECT id FROM orgs") == [("base",)]


def test_a_rule_that_comes_later_is_found_and_stops_a_migration(make: Make, owner: Engine) -> None:
    isolation = make("CREATE TABLE orders (id integer PRIMARY KEY)")
    with (
        pytest.raises(PartitionError, match=r"cannot follow: public.orders: it has rules \(kept\)"),
        isolation.migration() as migrating,
    ):
        migrating.exec_driver_sql("CREATE RULE kept AS ON DELETE TO orders DO INSTEAD NOTHING")
    assert isolation.check() == []
    run(owner, "CREATE RULE kept AS ON DELETE TO orders DO INSTEAD NOTHING")
    (found,) = isolation.check()
    assert "the baseline's tables are not what they were" in found.text


VIEWED = """CREATE SCHEMA billing;
CREATE SCHEMA hr;
CREATE TABLE orders (id integer PRIMARY KEY);
CREATE TABLE billing.orders (id integer PRIMARY KEY);
CREATE TABLE countries (id integer PRIMARY KEY);
CREATE TABLE billing.countries (id integer PRIMARY KEY);
CREATE TABLE hr.people (id integer PRIMARY KEY);
INSERT INTO orders VALUES (1), (2);
INSERT INTO billing.orders VALUES (1), (2), (3);
INSERT INTO billing.countries VALUES (1);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM orders;
"""


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ("CREATE VIEW v AS SELECT id FROM billing.orders", "billing.orders, whose name another schema that is covered has too"),
        (
            "CREATE VIEW v AS SELECT n AS id FROM counted",
            "public.counted, a materialized view, whose rows are those of the baseline",
        ),
        (
            "CREATE VIEW v AS SELECT id FROM hr.people",
            "hr.people, which is a partition of a table or in a schema that is not covered",
        ),
        (PARTITIONED + "CREATE VIEW v AS SELECT id FROM early", "public.early, which is a partition of a table or in"),
        ("CREATE VIEW w AS SELECT id FROM hr.people;\nCREATE VIEW v AS SELECT id FROM w", "public.w, which is not there either"),
    ],
)
def test_a_view_that_would_show_the_baseline_is_left_out_and_found(make: Make, covered: Engine, view: str, reason: str) -> None:
    seen = "CREATE VIEW seen AS SELECT id FROM orders WHERE id > 1"
    isolation = make(f"{VIEWED}{view};\n{seen}", schemas=["public", "billing"])
    found = {problem.text for problem in isolation.check(KEY)}
    assert any(
        f"the view public.v is not in the partition of pr-1, and is refused to it: it is made of {reason}" in each for each in found
    )
    assert len(found) == view.count("CREATE VIEW")
    with tenancy.scope(KEY):
        with pytest.raises(PartitionError, match="permission denied for view v"):
            run(covered, "SELECT * FROM v")
        assert run(covered, "DELETE FROM orders WHERE id = 2", "SELECT * FROM seen") == []
    assert run(covered, "SELECT * FROM seen") == [(2,)]


def test_a_view_that_keys_can_do_without_is_refused_and_not_named(make: Make, covered: Engine, owner: Engine) -> None:
    sql = f"{VIEWED}CREATE VIEW v AS SELECT n AS id FROM counted; CREATE VIEW w AS SELECT id FROM hr.people"
    isolation = make(sql, schemas=["public", "billing"], without=["v"])
    (problem,) = isolation.check(KEY)
    assert "the view public.w is not in the partition" in problem.text
    assert "without=['public.w'], or --without public.w" in problem.text
    with tenancy.scope(KEY), pytest.raises(PartitionError, match="permission denied for view v"):
        run(covered, "SELECT * FROM v")
    both = PostgresIsolation(owner, schemas=["public", "billing"], without=["v", "public.w"])
    assert both.check(KEY) == []
    none = PostgresIsolation(owner, schemas=["public", "billing"], without=["v", "public.w", "counted", "gone"])
    # A migration may drop it, and what is installed then is not to stand in the way.
    assert [problem.text.partition(",")[0] for problem in none.check()] == [
        "there is no view counted in public",
        "there is no view gone in public",
    ]
    assert none.create("pr-2").state == "ready"
    for wrong in ("v", [1], None, 7):
        with pytest.raises(ConfigurationError, match=r"without is .*; give a list of names of views"):
            PostgresIsolation(owner, without=wrong)  # type: ignore[arg-type]


def test_a_view_of_what_no_key_can_change_is_there(make: Make, covered: Engine) -> None:
    isolation = make(
        VIEWED + "CREATE VIEW v AS SELECT c.id, o.id AS o FROM billing.countries c, orders o, pg_class p "
        "WHERE p.relname = 'orders' AND p.relnamespace = 'public'::regnamespace",
        {"billing.countries": "readonly"},
        schemas=["public", "billing"],
    )
    assert isolation.check() == []
    with tenancy.scope(KEY):
        assert run(covered, "DELETE FROM orders WHERE id = 2", "SELECT id, o FROM v") == [(1, 1)]


@pytest.mark.parametrize("key", ["word", "lower(word)"])
def test_a_unique_index_by_another_collation_holds_against_the_baseline(
    make: Make, covered: Engine, owner: Engine, key: str
) -> None:
    make(
        "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level1', deterministic = false);\n"
        "CREATE TABLE words (id integer PRIMARY KEY, word text);\n"
        f"CREATE UNIQUE INDEX words_once ON words ({key} COLLATE any_case);\n"
        "INSERT INTO words VALUES (1, 'é'), (2, 'other')"
    )
    for changed in ("INSERT INTO words VALUES (3, 'E')", "UPDATE words SET word = 'E' WHERE id = 2"):
        with tenancy.scope(KEY), pytest.raises(Exception, match='violates unique constraint "words_once"'):
            run(covered, changed)
    with tenancy.scope(KEY):
        run(covered, "DELETE FROM words WHERE id = 1", "INSERT INTO words VALUES (3, 'E')")


CHILD = """CREATE SCHEMA hr;
CREATE TABLE hr.people (id integer PRIMARY KEY);
CREATE TABLE countries (id integer PRIMARY KEY);
INSERT INTO hr.people VALUES (1), (2);
INSERT INTO countries VALUES (1), (2);
CREATE TABLE notes (
  id integer, country integer REFERENCES countries, person integer REFERENCES hr.people DEFERRABLE INITIALLY DEFERRED
)"""


@pytest.mark.parametrize("mode", ["copy", "empty"])
def test_rows_of_a_copy_do_not_keep_the_baseline_from_deleting(make: Make, covered: Engine, owner: Engine, mode: str) -> None:
    make(CHILD, {"countries": "readonly", "notes": mode})
    with tenancy.scope(KEY):
        run(covered, "INSERT INTO notes VALUES (1, 1, 1)", "UPDATE notes SET country = 2")
        for wrong in ("INSERT INTO notes VALUES (2, 9, 1)", "INSERT INTO notes VALUES (2, 1, 9)"):
            with pytest.raises(Exception, match='insert or update on table "notes" violates foreign key constraint'):
                run(covered, wrong)
    run(owner, "DELETE FROM countries", "DELETE FROM hr.people", "TRUNCATE countries, notes")
    with tenancy.scope(KEY):
        assert run(covered, "SELECT * FROM notes") == [(1, 2, 1)]


def test_a_copy_that_an_overlay_refers_to_cannot_be_truncated(make: Make, covered: Engine) -> None:
    lines = "CREATE TABLE lines (id integer PRIMARY KEY, job integer REFERENCES jobs)"
    isolation = make("CREATE TABLE jobs (id integer PRIMARY KEY);\nINSERT INTO jobs VALUES (1)", {"jobs": "copy"})
    with tenancy.scope(KEY):
        run(covered, "TRUNCATE jobs", "INSERT INTO jobs VALUES (1)")
    with isolation.migration() as migrating:
        migrating.exec_driver_sql(lines)
    with tenancy.scope(KEY):
        run(covered, "INSERT INTO lines VALUES (1, 1)")
        with pytest.raises(PartitionError, match="permission denied for table jobs"):
            run(covered, "TRUNCATE jobs")
        with pytest.raises(Exception, match="lines_job_fkey"):
            run(covered, "DELETE FROM jobs")


def test_triggers_of_a_copy_fire_when_the_baselines_do(make: Make, covered: Engine, owner: Engine) -> None:
    isolation = make(
        "CREATE TABLE jobs (id integer PRIMARY KEY, seen text DEFAULT '');\n"
        "CREATE FUNCTION sees() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.seen := NEW.seen || TG_NAME; RETURN NEW; END';\n"
        + "".join(
            f'CREATE TRIGGER "{each}" BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION sees();\n'
            for each in ("1Usual", "2Replica", "3Always", "4Never")
        )
        + 'ALTER TABLE jobs ENABLE REPLICA TRIGGER "2Replica";\n'
        'ALTER TABLE jobs ENABLE ALWAYS TRIGGER "3Always";\n'
        'ALTER TABLE jobs DISABLE TRIGGER "4Never"',
        {"jobs": "copy"},
    )
    for _ in range(2):
        with tenancy.scope(KEY):
            assert run(covered, "DELETE FROM jobs", "INSERT INTO jobs VALUES (1) RETURNING seen") == [("1Usual3Always",)]
        states = "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = 'public__pr_1.jobs'::regclass ORDER BY 1"
        assert run(owner, states) == [("1Usual", "O"), ("2Replica", "R"), ("3Always", "A")]
        with isolation.migration() as migrating:
            migrating.exec_driver_sql("ALTER TABLE jobs ADD IF NOT EXISTS more integer")
