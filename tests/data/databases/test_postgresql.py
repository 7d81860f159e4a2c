"""
Clones on PostgreSQL: hostile names, a golden database in use, rights, settings, connections that are told to lead elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

import tenancy
from tenancy.data.databases import DatabasePerKey, Registry
from tenancy.data.databases.postgresql import PostgresClone
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.databases.places import Place, drop_place, make_place, on_server

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", params=["postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = make_place("postgresql", tmp_path_factory.mktemp("clones"), request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)


HOSTILE = ['Shop "x"; DROP DATABASE tenancy; --', "SHOP", "shöp %s {x} %(y)s", "пример", "a'b`c\\d", "x" * 63, "shop__pr_42", " "]


@pytest.mark.parametrize("golden", HOSTILE)
def test_hostile_golden_names(golden: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Quotes, upper case, other scripts, percent signs: the clone is the golden database's, and its name needs no quotes."""
    place = make_place("postgresql", tmp_path, request.getfixturevalue, golden=golden)
    try:
        provider = place.provider()
        address = provider.create("pr-42")
        assert re.fullmatch(r"postgresql:///[a-z][a-z0-9_]{0,62}", address)
        assert place.rows(address) == [("kept",)]
        provider.drop("pr-42")
        assert provider.databases() == {}
    finally:
        drop_place(place, request.getfixturevalue)


def test_goldens_of_one_server_do_not_meet(place: Place, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One registry lists the databases of several golden ones; each provider has its own."""
    other = make_place("postgresql", tmp_path, request.getfixturevalue, golden=f"{place.golden}_2")
    try:
        first, second = place.provider(), PostgresClone(other.golden, place.admin)
        assert first.create("pr-42") != second.create("pr-42")
        assert list(first.databases().values()) != list(second.databases().values())
        first.drop("pr-42")
        assert set(second.databases()) == {"pr-42"}
        second.drop("pr-42")
    finally:
        drop_place(other, request.getfixturevalue)


def test_a_golden_database_in_use(place: Place) -> None:
    """The sessions are named, nothing is made, and once they are gone it works."""
    url = make_url(place.baseline).set(database=place.golden).render_as_string(hide_password=False)
    with psycopg.connect(url, application_name="nightly report") as connection:
        named = rf"pid {connection.info.backend_pid}, postgres, nightly report.*ALLOW_CONNECTIONS false"
        with pytest.raises(PartitionError, match=named):
            place.provider().create("pr-42")
        assert place.provider().databases() == {}
    assert place.rows(place.provider().create("pr-42")) == [("kept",)]


@pytest.mark.parametrize("strategy", ["wal_log", "file_copy"])
def test_strategies(place: Place, strategy: Any) -> None:
    """Both make the same."""
    assert place.rows(place.provider(strategy=strategy).create("pr-42")) == [("kept",)]


def test_a_template_that_takes_no_connections(place: Place) -> None:
    """It can be cloned, and its clones take connections."""
    golden = f'"{place.golden}"'
    on_server(make_url(place.admin), "postgresql", [f"ALTER DATABASE {golden} ALLOW_CONNECTIONS false"])
    try:
        assert place.rows(place.provider().create("pr-42")) == [("kept",)]
    finally:
        on_server(make_url(place.admin), "postgresql", [f"ALTER DATABASE {golden} ALLOW_CONNECTIONS true"])


def test_settings_grants_and_owner_are_the_goldens(place: Place, unique: str) -> None:
    """What CREATE DATABASE leaves out: a search path with hostile names, settings of roles, who may connect; for ordinary roles, too."""
    golden, url = f'"{place.golden}"', make_url(place.admin)
    maker, user = f"{unique}_maker", f"{unique} User"
    on_server(
        url,
        "postgresql",
        [
            f"CREATE ROLE {maker} LOGIN CREATEDB",
            f'CREATE ROLE "{user}" LOGIN',
            f"ALTER DATABASE {golden} OWNER TO {maker}",
            f"ALTER DATABASE {golden} SET search_path TO public, \"Odd, name\", '$user'",
            f"ALTER DATABASE {golden} SET tenancy.test TO 'it''s'",
            f"ALTER ROLE \"{user}\" IN DATABASE {golden} SET timezone TO 'Asia/Tokyo'",
            f"ALTER DATABASE {golden} SET work_mem TO '7MB'",
            f"REVOKE CONNECT ON DATABASE {golden} FROM PUBLIC",
            f'GRANT CONNECT ON DATABASE {golden} TO "{user}"',
            f'GRANT CREATE ON SCHEMA public TO {maker}; GRANT CREATE ON DATABASE "{url.database}" TO {maker}',
        ],
    )
    on_server(url, "postgresql", [f"GRANT ALL ON SCHEMA public TO {maker}"])
    ordinary = PostgresClone(place.golden, url.set(username=maker))
    provider = place.provider()
    provider.install()
    on_server(url, "postgresql", [f"GRANT ALL ON tenancy_databases TO {maker}"])
    try:
        with pytest.raises(PartitionError, match=f"'TimeZone' for the role '{user}'"):
            ordinary.create("pr-42")
        assert ordinary.databases() == {}
        address = provider.create("pr-42")
        clone = make_url(address).database
        look = """
SELECT (SELECT rolname FROM pg_roles WHERE oid = datdba), datacl::text,
       (SELECT string_agg(setrole::text || array_to_string(setconfig, '|'), ';' ORDER BY setrole)
        FROM pg_db_role_setting WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = """
        found = [on_server(url, "postgresql", [look + f"'{name}'"])[0] for name in (place.golden, clone)]
        assert found[0][0] == found[1][0] == maker
        assert sorted(found[0][1].strip("{}").split(",")) == sorted(found[1][1].strip("{}").split(","))
        assert found[0][2] == found[1][2]
        provider.drop("pr-42")
        on_server(
            url,
            "postgresql",
            [f'ALTER ROLE "{user}" IN DATABASE {golden} RESET ALL', f"ALTER DATABASE {golden} RESET tenancy.test"],
        )
        assert make_url(ordinary.create("pr-42")).database == clone
        ordinary.drop("pr-42")
    finally:
        on_server(
            url,
            "postgresql",
            [
                f"ALTER DATABASE {golden} OWNER TO postgres",
                f"ALTER DATABASE {golden} RESET ALL",
                f"GRANT CONNECT ON DATABASE {golden} TO PUBLIC",
                f'REVOKE ALL ON DATABASE {golden} FROM "{user}"',
                f"REVOKE ALL ON tenancy_databases FROM {maker}",
                f'REVOKE ALL ON SCHEMA public FROM {maker}; REVOKE ALL ON DATABASE "{url.database}" FROM {maker}',
                f'DROP ROLE "{user}"',
                f"DROP ROLE {maker}",
            ],
        )


def test_a_role_without_rights(place: Place, unique: str) -> None:
    """The error says which it needs; and a role that may only read the table can tell which databases there are."""
    url = make_url(place.admin)
    place.provider().create("pr-42")
    on_server(url, "postgresql", [f"CREATE ROLE {unique} LOGIN", f"GRANT SELECT ON tenancy_databases TO {unique}"])
    try:
        reader = PostgresClone(place.golden, url.set(username=unique))
        assert set(reader.databases()) == {"pr-42"}
        with pytest.raises(PartitionError, match="permission denied"):
            reader.create("pr-43")
        on_server(url, "postgresql", [f"GRANT ALL ON tenancy_databases TO {unique}"])
        with pytest.raises(PartitionError, match="the role needs CREATEDB"):
            reader.create("pr-43")
        assert set(reader.databases()) == {"pr-42"}
        place.provider().drop("pr-43")
    finally:
        on_server(url, "postgresql", [f"REVOKE ALL ON tenancy_databases FROM {unique}", f"DROP ROLE {unique}"])


def test_a_database_of_somebody_elses(place: Place) -> None:
    """One with the name of a key's that the registry does not know is neither used nor dropped."""
    provider = place.provider()
    name = provider.database("pr-42")
    url = make_url(place.admin)
    provider.install()
    on_server(url, "postgresql", [f"CREATE DATABASE {name}"])
    try:
        with pytest.raises(PartitionError, match="somebody else's"):
            provider.create("pr-42")
        provider.drop("pr-42")
        assert on_server(url, "postgresql", [f"SELECT 1 FROM pg_database WHERE datname = '{name}'"]) == [(1,)]
        assert provider.databases() == {}
    finally:
        on_server(url, "postgresql", [f"DROP DATABASE {name}"])


def test_a_database_that_was_dropped_by_hand(place: Place) -> None:
    """The next creation makes it anew."""
    provider = place.provider()
    provider.create("pr-42")
    on_server(make_url(place.admin), "postgresql", [f"DROP DATABASE {provider.database('pr-42')}"])
    assert place.rows(provider.create("pr-42")) == [("kept",)]


def test_connections_told_to_lead_elsewhere(place: Place) -> None:
    """An argument or an option that names another database is found out on the first connection, with either driver."""
    place.provider().create("pr-42")
    baseline = make_url(place.baseline).database
    engines = [
        create_engine(place.url(place.baseline)._replace(database=""), connect_args={"dbname": baseline}),
        create_engine(place.url(place.baseline).update_query_dict({"dbname": baseline})),
    ]
    for engine in engines:
        databases = DatabasePerKey(place.provider())
        databases.install(engine)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_database()").scalar() == baseline
        with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="instead of"), engine.connect():
            pass
        engine.dispose()
        databases.uninstall(engine)


def test_arguments_of_the_engine_hold_for_keys(place: Place) -> None:
    """connect_args=, and what a listener puts in at each connection, such as a password that changes."""
    from sqlalchemy import event

    place.provider().create("pr-42")
    engine = place.engine(connect_args={"application_name": "shop", "options": "-c statement_timeout=12345"})
    event.listen(engine, "do_connect", lambda _dialect, _record, _arguments, options: options.update(keepalives_idle=77))
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    with tenancy.scope("pr-42"), engine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("application_name", "statement_timeout")]
        assert shown == ["shop", "12345ms"]
        assert connection.connection.driver_connection.info.get_parameters()["keepalives_idle"] == "77"
    engine.dispose()
    databases.uninstall(engine)


def test_what_cannot_be_used(place: Place) -> None:
    """It is refused at once, without a password in what is said."""
    wrong: list[tuple[Any, Any, dict[str, Any]]] = [
        ("", place.admin, {}),
        ("x" * 64, place.admin, {}),
        ("x\0", place.admin, {}),
        (7, place.admin, {}),
        ("golden", place.admin, {"strategy": "clone"}),
        ("golden", "mysql://user:secret@host/x", {}),
        ("golden", "user:secret@host", {}),
        (make_url(place.admin).database, place.admin, {}),
    ]
    for golden, admin, options in wrong:
        with pytest.raises(ConfigurationError) as caught:
            PostgresClone(golden, admin, **options)
        assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    """The error names it, without the password."""
    provider = PostgresClone("golden", "postgresql://user:secret@127.0.0.1:1/x")
    for call in (provider.databases, lambda: provider.create("pr-42"), lambda: provider.drop("pr-42"), provider.install):
        with pytest.raises(PartitionError, match=r"127\.0\.0\.1") as caught:
            call()
        assert "secret" not in str(caught.value)
    with pytest.raises(PartitionError):
        DatabasePerKey(provider).install(create_engine("postgresql+psycopg://user@127.0.0.1:1/x"))


def test_the_hold_on_a_key_is_waited_for(place: Place) -> None:
    """And not for ever; another key's is free."""
    registry = Registry(place.admin, timeout=0.3)
    place.provider().install()
    with registry.attempt(place.golden, tenancy.RoutingKey("pr-42")):
        with registry.attempt(place.golden, tenancy.RoutingKey("pr-43")):
            pass
        with pytest.raises(PartitionError, match="another process has been making or dropping"):
            place.provider(timeout=0.3).create("pr-42")
    place.provider(timeout=0.3).create("pr-42")


def test_a_hold_that_was_lost(place: Place) -> None:
    """Who lost the hold amid its work cannot note the end of it, even on a new connection."""
    provider: Any = place.provider()
    provider.install()
    key = tenancy.RoutingKey("pr-42")

    def work() -> None:
        with provider.registry.attempt(provider.name, key) as attempt:
            attempt.begin()
            on_server(make_url(place.admin), "postgresql", [f"SELECT pg_terminate_backend({attempt.driver.info.backend_pid})"])
            place.provider().create("pr-42")
            with pytest.raises(DBAPIError):
                attempt.finish("postgresql:///x", "x")
            attempt.connection.rollback()
            attempt.finish("postgresql:///x", "x")

    with pytest.raises(PartitionError, match="was lost"):
        work()
    assert provider.databases()[key].address == f"postgresql:///{provider.database(key)}"
