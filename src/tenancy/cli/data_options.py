"""
Which databases a command is about, and how their tables are partitioned.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from .._optional import extra
from ..errors import MissingDependencyError
from ..key import RoutingKey
from ..routes.stores import open_store
from ..routes.stores._base import SCHEMES
from ..sandbox.partitions import is_partitioned, note
from .inspection.redaction import redacted

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..data.postgresql import PostgresIsolation, Status
    from ..sandbox.partitions import Partitioned

__all__ = ["databases_options", "duration", "isolation_of", "isolation_options", "registering"]

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_POSTGRESQL = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?://")


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    """
    Read a time such as ``90s``, ``30m``, ``2h`` or ``7d``; a callback of click's.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", value, re.ASCII)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{value!r} is no time; write a number and s, m, h or d, such as 2h")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def isolation_options(function: F) -> F:
    """
    Give a command the options that say which database it is about.
    """
    where = "A PostgresIsolation of your application, shop.database:isolation; default TENANCY_ISOLATION."
    database = "Instead of it: the database, postgresql://USER@HOST/NAME, as a role that owns its tables."
    table = "With --database: the mode of a table: overlay, copy, empty or readonly. May be given several times."
    for option in (
        click.option(
            "--schema", "schemas", metavar="NAME", multiple=True, help="With --database: a schema of its tables; default public."
        ),
        click.option(
            "--without",
            metavar="VIEW",
            multiple=True,
            help="With --database: a view that keys can do without. May be given several times.",
        ),
        click.option("--default", metavar="MODE", help="With --database: the mode of all other tables; default overlay."),
        click.option("--table", "tables", metavar="NAME=MODE", multiple=True, help=table),
        click.option("--database", metavar="URL", help=database),
        click.option("--isolation", metavar="MODULE:NAME", envvar="TENANCY_ISOLATION", help=where),
    ):
        function = option(function)
    return function


def isolation_of(
    isolation: str | None,
    database: str | None,
    tables: tuple[str, ...],
    default: str | None,
    without: tuple[str, ...],
    schemas: tuple[str, ...],
) -> PostgresIsolation:
    """
    Return the isolation that a command is about.

    Raises:
        click.UsageError: If what was given names none, or more than one.
        MissingDependencyError: If the driver is not installed.
    """
    from ..data.postgresql import PostgresIsolation

    if database is None:
        if isolation is None:
            raise click.UsageError(
                "it is not said which database this is about; give --isolation MODULE:NAME or --database URL, or set TENANCY_ISOLATION"
            )
        if tables or default or schemas or without:
            raise click.UsageError(
                "--table, --default, --without and --schema go with --database; an isolation of your application has its own"
            )
        return _isolation(isolation)
    # TENANCY_ISOLATION is a default, and gives way.
    if click.get_current_context().get_parameter_source("isolation") is ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"--isolation {isolation!r} and --database {_shown(database)!r} each name a database; give one of them"
        )
    modes: dict[str, Any] = {}
    for entry in tables:
        name, equals, mode = entry.rpartition("=")
        if not equals or not name:
            raise click.UsageError(f"--table {entry!r}: write NAME=MODE, such as jobs=copy")
        modes[name] = mode
    given: Any = {"default": default or "overlay", "schemas": schemas or ("public",), "without": without}
    return PostgresIsolation(_engine(database), modes, **given)


def _engine(database: str) -> Engine:
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    if not _POSTGRESQL.match(database):
        raise click.UsageError(f"--database {_shown(database)!r} is no PostgreSQL database; write postgresql://USER@HOST/NAME")
    try:
        url = make_url(_POSTGRESQL.sub("postgresql+psycopg://", database, count=1))
    except (ArgumentError, ValueError):
        # What they say may have a part of the password in it, where that is what cannot be read.
        raise click.UsageError(
            f"--database {_shown(database)!r} cannot be read; write postgresql://USER@HOST:PORT/NAME, with a number for PORT, and in a "
            "password %40 for @, %3A for : and %2F for /"
        ) from None
    try:
        with extra("postgresql", "psycopg"):
            return create_engine(url)
    except MissingDependencyError:
        raise
    except ImportError as error:  # it is there, and the library of PostgreSQL that it needs is not
        raise click.UsageError(f"psycopg cannot be imported: {error}; run: pip install 'request-tenancy[postgresql]'") from error


def _shown(database: str) -> str:
    # All up to the last @, since passwords contain every character there is, and the scheme may have been left out.
    return redacted(re.sub(r"(?s)^([a-z0-9+_]*:/*)?.*@", lambda match: f"{match[1] or ''}***@", database))


def databases_options(function: F) -> F:
    """
    Give a command the option that says in which databases the keys of a sandbox have partitions.
    """
    told = (
        "A database in which its keys have partitions, shop.database:isolation: a PostgresIsolation of your application, or a provider of "
        "databases. May be given several times; default TENANCY_ISOLATION."
    )
    option = click.option(
        "--isolation", "databases", metavar="MODULE:NAME", multiple=True, envvar="TENANCY_ISOLATION", callback=_databases, help=told
    )
    return option(function)


def _databases(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> list[Partitioned]:
    found = []
    for name in names:
        database = _imported(name)
        if not is_partitioned(database):
            raise click.UsageError(
                f"{name} is a {type(database).__name__}; name a PostgresIsolation, or a provider of databases, such as a PostgresClone"
            )
        found.append(database)
    return found


def _isolation(name: str) -> PostgresIsolation:
    from ..data.postgresql import PostgresIsolation

    if len(names := name.split()) > 1:
        raise click.UsageError(f"{name!r} names {len(names)} databases; say with --isolation which of them this is about")
    found = _imported(name)
    if not isinstance(found, PostgresIsolation):
        raise click.UsageError(f"{name} is a {type(found).__name__}, and no PostgresIsolation")
    return found


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise click.UsageError(f"{name!r} names no isolation; write MODULE:NAME, such as shop.database:isolation")
    if module.endswith(".py") or "/" in module:
        meant = module.removesuffix(".py").strip("./").replace("/", ".")
        raise click.UsageError(f"{name!r} names a file; write the module as Python imports it, such as {meant}:{attribute}")
    sys.path.insert(0, os.getcwd())  # as `python -m` has it
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the application does when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise click.UsageError(f"{name} cannot be had: {error}; run the command where it can be imported") from error
        what = redacted(f"{type(error).__name__}: {error}")
        raise click.UsageError(
            f"{name} cannot be had, since importing {module} raises {what}; `python -c 'import {module}'` shows where"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise click.UsageError(f"{name} cannot be had: {error}") from error
    return found


@contextmanager
def registering(url: str | None, given: bool) -> Iterator[Callable[[str, RoutingKey, Callable[[], Status | None]], None]]:
    """
    Return what notes the partition of a key in the route table, where there is one that can be written; None: it is forgotten there.

    Args:
        url: The route table; None: there is none.
        given: Whether it was asked for; a table that cannot be written is an error then.
    """
    if url is None or (not given and url.partition(":")[0].partition("+")[0] not in SCHEMES):
        yield lambda *_: None
        return
    store = open_store(url)
    try:
        yield lambda database, key, ask: note(store, database, key, ask)
    finally:
        store.close()
