"""
Where databases of keys are made in tests: each kind of provider over its golden database, in this process and in others.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, create_engine, make_url

from tenancy.data.databases import Command, SQLiteFile
from tenancy.data.databases._provider import Provider

__all__ = ["KINDS", "TABLES", "Place", "drop_place", "file_with", "main", "make_place", "on_server", "quoted"]

KINDS = ("sqlite", "command", "postgresql", "mariadb")
HERE = Path(__file__)

# One row, so that a copy can be told from an empty database, and a table for what the tests write.
TABLES = (
    "CREATE TABLE golden (id INTEGER PRIMARY KEY, word VARCHAR(20) NOT NULL)",
    "INSERT INTO golden VALUES (1, 'kept')",
    "CREATE TABLE marks (id INTEGER PRIMARY KEY, owner VARCHAR(80) NOT NULL, n INTEGER NOT NULL)",
    "CREATE TABLE bulk (id INTEGER PRIMARY KEY, text VARCHAR(200) NOT NULL)",
)


@dataclass
class Place:
    """
    A golden database and a baseline, and how a provider of it is made; written down, so that another process can make it, too.

    Args:
        kind: One of `KINDS`.
        golden: The golden database: its name, or its file.
        admin: The URL of the registry's database, or a folder.
        baseline: The URL of the baseline's database, without a driver.
    """

    kind: str
    golden: str
    admin: str
    baseline: str
    options: dict[str, Any] = field(default_factory=dict)

    def provider(self, **options: Any) -> Provider:
        options = {"timeout": 30.0, **self.options, **options}
        if self.kind == "sqlite":
            return SQLiteFile(self.golden, self.admin, **options)
        if self.kind == "command":
            script = [sys.executable, str(HERE.with_name("maker.py"))]
            words = [self.golden, str(Path(self.admin).with_name("made"))]
            return Command(
                [*script, "create", *words], drop=[*script, "drop", *words], registry=f"sqlite:///{self.admin}", **options
            )
        if self.kind == "postgresql":
            from tenancy.data.databases.postgresql import PostgresClone

            return PostgresClone(self.golden, self.admin, **options)
        from tenancy.data.databases.mysql import MySQLDatabase

        return MySQLDatabase(self.golden, self.admin, **{"rows": "all", **options})

    def url(self, address: str, driver: str | None = None) -> Any:
        """
        Return where an address leads, as a URL with a driver.
        """
        base, found = make_url(self.baseline), make_url(address)
        whole = found if self.kind in ("sqlite", "command") else base.set(database=found.database)
        return whole.set(drivername=driver or DRIVERS[self.kind][0])

    def rows(self, address: str, statement: str = "SELECT word FROM golden") -> list[Any]:
        engine = create_engine(self.url(address))
        try:
            with engine.begin() as connection:
                result = connection.exec_driver_sql(statement)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def engine(self, **options: Any) -> Engine:
        return create_engine(self.url(self.baseline), **options)

    def clear(self, keep: Iterable[str] = ()) -> None:
        """
        Drop all there is but what is to be kept, and empty that, and the baseline.
        """
        provider: Any = self.provider()
        known = provider.registry.entries(provider.name) if hasattr(provider, "registry") and provider.registry.installed() else {}
        there = provider.databases() if known or self.kind == "sqlite" else {}
        for key in {*known, *there} - set(keep):
            provider.drop(key)
        for address in (self.baseline, *(there[key].address for key in there if key in keep)):
            self.rows(address, "DELETE FROM marks")
            self.rows(address, "DROP TABLE IF EXISTS late")

    def dump(self) -> str:
        return json.dumps({name: getattr(self, name) for name in ("kind", "golden", "admin", "baseline", "options")})


DRIVERS = {
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "command": ("sqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgresql+psycopg", "postgresql+asyncpg", "postgresql+psycopg_async"),
    "mariadb": ("mysql+pymysql", "mysql+asyncmy", "mysql+aiomysql"),
}


def file_with(path: Path, statements: tuple[str, ...] = TABLES) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return str(path)


def make_place(kind: str, folder: Path, server: Callable[[str], str], golden: str | None = None) -> Place:
    """
    Make a golden database, a baseline and a place for the registry.
    """
    if kind in ("sqlite", "command"):
        path = file_with(folder / "golden.db")
        baseline = shutil.copy(path, folder / "baseline.db")
        return Place(kind, path, str(folder / ("made" if kind == "sqlite" else "registry.db")), f"sqlite:///{baseline}")
    url = make_url(server(kind))
    unique = f"t{uuid4().hex[:10]}"
    golden = golden if golden is not None else f"{unique}_golden"
    admin, baseline = f"{unique}_admin", f"{unique}_baseline"
    on_server(url, kind, [f"CREATE DATABASE {quoted(kind, name)}" for name in (golden, admin, baseline)])
    for name in (golden, baseline):
        on_server(url.set(database=name), kind, list(TABLES))
    shown = [url.set(database=name).render_as_string(hide_password=False) for name in (admin, baseline)]
    return Place(kind, golden, *shown)


def drop_place(place: Place, server: Callable[[str], str]) -> None:
    if place.kind in ("sqlite", "command"):
        return
    provider: Any = place.provider()
    keys = provider.registry.entries(place.golden) if provider.registry.installed() else {}
    names = [provider.database(key) for key in keys]
    names += [place.golden, *(make_url(each).database or "" for each in (place.admin, place.baseline))]
    force = " WITH (FORCE)" if place.kind == "postgresql" else ""
    url = make_url(server(place.kind))
    on_server(url, place.kind, [f"DROP DATABASE IF EXISTS {quoted(place.kind, name)}{force}" for name in names])


def quoted(kind: str, name: str) -> str:
    mark = '"' if kind == "postgresql" else "`"
    return mark + name.replace(mark, mark * 2) + mark


def on_server(url: Any, kind: str, statements: list[str]) -> list[Any]:
    engine = create_engine(url.set(drivername=DRIVERS[kind][0]), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            cursor = connection.connection.driver_connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        engine.dispose()


def main() -> None:
    """
    In another process: create or drop a key's database, and say when; a slow migration gives time to be killed.
    """
    import time

    what, key, text = sys.argv[1:4]
    place = Place(**json.loads(text))

    def slow(_url: str) -> None:
        print("migrating", flush=True)
        time.sleep(60)

    if what == "slow":
        place.provider(migrate=slow).create(key)
    elif what == "create":
        print(place.provider().create(key), flush=True)
    else:
        place.provider().drop(key)


if __name__ == "__main__":
    main()
