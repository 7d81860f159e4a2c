"""
What every provider promises: repeated, at once, killed in the middle, with connections open, for hostile keys.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

from tenancy import InvalidRoutingKeyError, RoutingKey
from tenancy.data.databases import Provider
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.databases.places import Place

HOSTILE = [
    "a", "0", "a-b", "a--b", "a---b", "a-b-c", "x" * 63, "x" * 62 + "y", "x" * 31 + "-" + "y" * 31, "x" * 31 + "--" + "y" * 30, "1-2",
    "1--2", "template0", "postgres", "mysql", "information-schema", "con", "nul", "xn--p1ai",
]  # fmt: skip


def run(what: str, key: str, place: Place) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.data.databases.places", what, key, place.dump()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_database_is_made_once(place: Place) -> None:
    """Created twice, by two providers, it is one database, with the golden rows and with what was written since."""
    provider = place.provider()
    assert isinstance(provider, Provider)
    address = provider.create("pr-42")
    assert place.rows(address) == [("kept",)]
    place.rows(address, "INSERT INTO golden VALUES (2, 'mine')")
    assert provider.create(RoutingKey("pr-42")) == address
    assert place.provider().create("pr-42") == address
    assert place.rows(address) == [("kept",), ("mine",)]
    assert {key: database.address for key, database in place.provider().databases().items()} == {"pr-42": address}
    assert place.rows(place.baseline) == [("kept",)]


def test_a_database_is_dropped_and_made_anew(place: Place) -> None:
    """Dropped twice it is gone, and the next one has nothing of it, and another life."""
    provider = place.provider()
    provider.drop("pr-42")
    address = provider.create("pr-42")
    found = provider.databases()[RoutingKey("pr-42")]
    life = found.life
    assert found.since is not None
    assert abs(time.time() - found.since) < 60
    place.rows(address, "INSERT INTO golden VALUES (2, 'mine')")
    provider.drop("pr-42")
    provider.drop("pr-42")
    assert provider.databases() == {}
    if place.kind not in ("sqlite", "command"):  # SQLite makes a file where there is none
        with pytest.raises(DBAPIError):
            place.rows(address)
    again = provider.create("pr-42")
    assert place.rows(again) == [("kept",)]
    assert provider.databases()[RoutingKey("pr-42")].life != life


def test_hostile_keys_have_databases_of_their_own(place: Place) -> None:
    """No two keys share a database, whatever a server would do to their names."""
    provider = place.provider()
    keys = HOSTILE if place.kind == "sqlite" else HOSTILE[1::2] + HOSTILE[2:8:2]
    addresses = {key: provider.create(key) for key in keys}
    assert len(set(addresses.values())) == len(keys)
    for key, address in addresses.items():
        place.rows(address, f"INSERT INTO marks VALUES (1, '{key}', 0)")
    assert [place.rows(address, "SELECT owner FROM marks") for address in addresses.values()] == [[(key,)] for key in keys]
    assert set(provider.databases()) == set(keys)
    first, *others = keys
    provider.drop(first)
    assert set(place.provider().databases()) == set(others)
    assert [place.rows(addresses[key], "SELECT owner FROM marks") for key in others] == [[(key,)] for key in others]


def test_what_is_no_key_reaches_no_server(place: Place) -> None:
    """It is refused, and named."""
    for key in ("", "PR-42", "a_b", "a.b", "../x", "a;b", "a" * 64, "baseline", 'a"b', "a`b", "\0", "ä"):
        for call in (place.provider().create, place.provider().drop):
            with pytest.raises(InvalidRoutingKeyError):
                call(key)


def test_several_processes_and_threads_create_at_once(place: Place) -> None:
    """All get the one database, finished."""
    runs = [run("create", "pr-42", place) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        here = set(pool.map(lambda _: place.provider().create("pr-42"), range(4)))
    for each in runs:
        output, errors = each.communicate(timeout=60)
        assert each.returncode == 0, errors
        here.add(output.strip())
    assert len(here) == 1
    assert place.rows(here.pop()) == [("kept",)]


def test_a_creation_killed_in_its_last_step_is_never_used(place: Place) -> None:
    """It is in no list, and made anew by the next, without what was half done; or removed by a drop."""
    for ending in ("create", "drop"):
        killed = run("slow", "pr-42", place)
        assert killed.stdout is not None
        assert killed.stdout.readline() == "migrating\n", killed.communicate()[1]
        assert place.provider().databases() == {}
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert place.provider().databases() == {}
        if ending == "create":
            assert place.rows(place.provider().create("pr-42")) == [("kept",)]
        place.provider().drop("pr-42")
        assert place.provider().databases() == {}
        if isinstance(place.provider(), Provider) and hasattr(place.provider(), "registry"):
            assert place.provider().registry.entries(place.provider().name) == {}


def test_creations_killed_at_any_moment(place: Place) -> None:
    """What is listed is whole, and what is not can be made."""
    seed = random.randrange(1000)
    chance = random.Random(seed)
    place.provider().drop("pr-42")
    began = time.monotonic()
    run("create", "other", place).communicate()
    usual = time.monotonic() - began
    for _ in range(6):
        killed = run("create", "pr-42", place)
        time.sleep(chance.uniform(0.4, 1.05) * usual)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        for database in place.provider().databases().values():
            assert place.rows(database.address) == [("kept",)], seed
        assert place.rows(place.provider().create("pr-42")) == [("kept",)], seed
        place.provider().drop("pr-42")


def test_it_is_dropped_while_connections_are_open(place: Place) -> None:
    """A transaction that is open keeps nobody from dropping it, and nothing of it is in the next database."""
    provider = place.provider()
    address = provider.create("pr-42")
    engine = create_engine(place.url(address))
    connection = engine.connect()
    connection.exec_driver_sql("INSERT INTO golden VALUES (2, 'open')")
    provider.drop("pr-42")
    again = provider.create("pr-42")
    assert place.rows(again) == [("kept",)]
    with pytest.raises(DBAPIError) if place.kind not in ("sqlite", "command") else _anything():
        connection.exec_driver_sql("INSERT INTO golden VALUES (3, 'late')")
        connection.commit()
    connection.invalidate()
    engine.dispose()
    assert place.rows(again) == [("kept",)]


class _anything:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> bool:
        return True


def test_a_migration_that_fails(place: Place) -> None:
    """Its database is not used; the error names the key and the cause; the next creation begins anew."""

    def fails(url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO golden VALUES (2, 'half')")
        engine.dispose()
        raise LookupError("no such revision")

    with pytest.raises(PartitionError, match=r"'pr-42'.*LookupError: no such revision"):
        place.provider(migrate=fails).create("pr-42")
    assert place.provider().databases() == {}
    assert place.rows(place.provider().create("pr-42")) == [("kept",)]


def test_a_migration_changes_the_keys_database_alone(place: Place) -> None:
    """It is called once, with a URL that works as it is."""
    calls: list[str] = []

    def migrate(url: str) -> None:
        calls.append(url)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE golden ADD COLUMN extra VARCHAR(9) DEFAULT 'new'")
        engine.dispose()

    provider = place.provider(migrate=migrate)
    address = provider.create("pr-42")
    provider.create("pr-42")
    assert place.rows(address, "SELECT * FROM golden") == [(1, "kept", "new")]
    assert place.rows(place.baseline, "SELECT * FROM golden") == [(1, "kept")]
    assert len(calls) == 1


def test_a_golden_database_that_is_not_there(place: Place) -> None:
    """The error names it, and nothing is made."""
    place.golden += "-no"
    with pytest.raises(PartitionError, match="-no"):
        place.provider().create("pr-42")
    assert place.provider().databases() == {}


def test_what_cannot_be_used_is_refused(place: Place) -> None:
    """A migration that is no function is named at once."""
    bad: Any = "alembic upgrade head"
    with pytest.raises(ConfigurationError, match="alembic"):
        place.provider(migrate=bad)


def test_addresses_hold_no_password(place: Place) -> None:
    """What is stored for databases on the baseline's server names the database, and nothing else."""
    if place.kind in ("sqlite", "command"):
        return
    url = make_url(place.provider().create("pr-42"))
    assert (url.username, url.password, url.host) == (None, None, None)
