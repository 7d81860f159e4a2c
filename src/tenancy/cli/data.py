"""
``tenancy data``: make, look at and drop the partitions of a shared PostgreSQL database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from ..config import settings
from ..errors import MissingDependencyError, TenancyError
from ..key import RoutingKey
from .data_options import duration, isolation_of, isolation_options, registering
from .drawing import _text
from .inspection.redaction import redacted
from .inspection.report import counted
from .routes import _as_json, _console, _Failed, _key, _print, _print_json, _told

if TYPE_CHECKING:
    from ..data.postgresql import PostgresIsolation, Status

__all__ = ["data"]

_which = click.argument("key", metavar="KEY", callback=_key)
_store = click.option(
    "--store", metavar="URL", help="The route table in which it is noted too; default that of TENANCY_ROUTES, if it can be written."
)
_TTL = "After which time `tenancy data expire` drops it, such as 2h or 7d; default never, and the time that it has if it is there."


@click.group()
def data() -> None:
    """
    Make, look at and drop the partitions of a shared PostgreSQL database.
    """


@data.command()
@isolation_options
@click.option(
    "--grant-to", "roles", metavar="ROLE", multiple=True,
    help="A role that the application connects as, where it is another one than here. May be given several times.",
)  # fmt: skip
@_as_json
def install(roles: tuple[str, ...], as_json: bool, **where: Any) -> None:
    """
    Prepare a database: the two roles, and the register of partitions. What is there stays.
    """
    with _asked(where) as (isolation, name):
        isolation.install(grant_to=roles)
    if as_json:
        return _print_json({"database": name, "role": isolation.role, "reader": isolation.reader})
    click.echo(f"{name}: prepared; statements of a key are run by the role {isolation.role}")


@data.command()
@_which
@click.option("--ttl", callback=duration, metavar="TIME", help=_TTL)
@isolation_options
@_store
@_as_json
def create(key: RoutingKey, ttl: timedelta | None, store: str | None, as_json: bool, **where: Any) -> None:
    """
    Make the partition of a key: it sees the baseline's rows, and changes none. What is there stays.
    """
    with _asked(where) as (isolation, name), _noting(store) as note:
        there = any(each.state != "dropped" for each in isolation.status(key))
        status = isolation.create(key, ttl=ttl)
        # One that was there already need not be as it would be made now; and a new one need not have all that the baseline has.
        stays = f"{key} was there already, and stays as it is; " if there else ""
        for problem in isolation.check(key):
            click.echo(redacted(f"{name}: {stays}{problem.text}"), err=True)
        note(name, key, _state(isolation, key), f"the partition of {key} is there")
    _show(name, [status], as_json)


@data.command()
@_which
@click.option("--forget", is_flag=True, help="Do not remember for seven days that it was there.")
@isolation_options
@_store
@_as_json
def drop(key: RoutingKey, forget: bool, store: str | None, as_json: bool, **where: Any) -> None:
    """
    Drop the partition of a key with all that is in it, once no transaction is in it any more.
    """
    with _asked(where) as (isolation, name), _noting(store) as note:
        before = isolation.status(key)
        isolation.drop(key, forget=forget)
        after = isolation.status(key)
        note(name, key, _state(isolation, key), f"{key} has no partition any more")
    if as_json or after:
        return _show(name, after, as_json)
    if before:
        return click.echo(f"{name}: the partition of {key} is gone, and nothing is remembered of it")
    click.echo(f"{name} has no partition of {key}, so there is nothing to drop", err=True)


@data.command()
@click.argument("key", metavar="[KEY]", required=False, callback=_key)
@isolation_options
@_as_json
def status(key: RoutingKey | None, as_json: bool, **where: Any) -> None:
    """
    List the partitions, or one of them: state, size, and how many rows the key has changed in which table.

    Exit status: 0, or 1 if the key that is named has no partition.
    """
    with _asked(where) as (isolation, name):
        found = isolation.status(key)
        if key is not None and not any(each.state != "dropped" for each in found):
            raise _Failed(f"{name} has no partition of {key}; `tenancy data create {key}` makes it")
    _show(name, found, as_json)


@data.command()
@isolation_options
@_as_json
@click.pass_context
def check(context: click.Context, /, as_json: bool, **where: Any) -> None:
    """
    Look for what is wrong: rights that lead past a partition, and partitions that are not as the baseline's tables are now.

    Exit status: 0 nothing is wrong, 1 something is, 2 the command could not be run as given.
    """
    with _asked(where) as (isolation, name):
        problems = isolation.check()
    if as_json:
        _print_json({"database": name, "problems": [{"key": problem.key, "text": problem.text} for problem in problems]})
    else:
        for problem in problems:
            click.echo(redacted(f"{name if problem.key is None else problem.key}: {problem.text}"))
        if not problems:
            click.echo(f"{name}: nothing is wrong")
    context.exit(1 if problems else 0)


@data.command()
@isolation_options
@_as_json
def detach(as_json: bool, **where: Any) -> None:
    """
    Take away all by which partitions stand in the way of a change of the baseline's tables; until attach, work with their keys is refused.
    """
    with _asked(where) as (isolation, name):
        isolation.detach()
        found = isolation.status() if as_json else []
    if as_json:
        return _show(name, found, as_json)
    click.echo(f"{name}: detached; run the migration, and `tenancy data attach`")


@data.command()
@isolation_options
@_as_json
def attach(as_json: bool, **where: Any) -> None:
    """
    Make partitions follow the baseline's tables as they are now.
    """
    with _asked(where) as (isolation, name):
        isolation.attach()
        found = isolation.status()
    _show(name, found, as_json)


@data.command()
@_which
@isolation_options
@_as_json
def refresh(key: RoutingKey, as_json: bool, **where: Any) -> None:
    """
    Drop all that a key has changed, and make its partition anew.
    """
    with _asked(where) as (isolation, name):
        status = isolation.refresh(key)
    _show(name, [status], as_json)


@data.command()
@isolation_options
@_store
@_as_json
def expire(store: str | None, as_json: bool, **where: Any) -> None:
    """
    Drop the partitions whose time is over. Run it now and then.
    """
    with _asked(where) as (isolation, name), _noting(store) as note:
        before = [status.key for status in isolation.status()]
        gone = isolation.expire()
        after = {status.key: status for status in isolation.status()}
        for key in before:
            # Also those that were dropped before, which may not have been noted then.
            if key not in after or after[key].state == "dropped":
                note(
                    name,
                    key,
                    _state(isolation, key),
                    f"dropped {counted(len(gone), 'partition')}{': ' if gone else ''}{', '.join(gone)}",
                )
    if as_json:
        return _print_json({"database": name, "dropped": gone})
    click.echo(f"{name}: dropped {counted(len(gone), 'partition')}{': ' if gone else ''}{', '.join(gone)}")


@data.command()
@_which
@isolation_options
@_as_json
def sql(key: RoutingKey, as_json: bool, **where: Any) -> None:
    """
    Print the SQL by which `create` would make the partition of a key, and run none of it.
    """
    with _asked(where) as (isolation, name):
        statements = isolation.statements(key)
    if as_json:
        # As it is, unlike other JSON: SQL with something taken out is other SQL.
        return click.echo(json.dumps({"database": name, "key": key, "statements": statements}, indent=2))
    for statement in statements:
        click.echo(f"{statement};\n")


@contextmanager
def _asked(where: dict[str, Any]) -> Iterator[tuple[PostgresIsolation, str]]:
    with _told():
        try:
            isolation = isolation_of(**where)
            from sqlalchemy.exc import SQLAlchemyError

            from ..data.postgresql.registry import UnpreparedError
        except MissingDependencyError as error:
            raise click.UsageError(str(error)) from error
        try:
            yield isolation, isolation.database
        except UnpreparedError as error:
            raise _Failed(f"{isolation.database}: {error}") from error
        except Exception as error:
            # Partitions are made by the driver's own cursor, whose errors are not SQLAlchemy's.
            if not isinstance(error, SQLAlchemyError) and type(error).__module__.partition(".")[0] not in ("psycopg", "psycopg2"):
                raise
            raise _Failed(redacted(f"{isolation.database}: {getattr(error, 'orig', None) or error}".strip())) from error


@contextmanager
def _noting(store: str | None) -> Iterator[Any]:
    with registering(settings().routes if store is None else store, store is not None) as noted:

        def note(database: str, key: RoutingKey, ask: Callable[[], Status | None], done: str) -> None:
            try:
                noted(database, key, ask)
            except TenancyError as error:
                text = f"{database}: {done}, but the route table does not say so: {error}; when it can be written, run this command again"
                raise _Failed(redacted(text)) from error

        yield note


def _state(isolation: PostgresIsolation, key: RoutingKey) -> Callable[[], Status | None]:
    return lambda: next(iter(isolation.status(key)), None)


def _show(name: str, found: list[Status], as_json: bool) -> None:
    if as_json:
        return _print_json({"database": name, "partitions": [_document(status) for status in found]})
    if not found:
        return click.echo(f"{name}: no key has a partition")
    console, drawn = _console()
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("key", "state", "schemas", "expires", "size", "changed"):
        shown.add_column(title, overflow="fold")
    for status in found:
        changed = [f"{table}: {own} own, {hidden} hidden" for table, (own, hidden) in status.changed.items()] or ["nothing"]
        expires = "" if status.expires is None else status.expires.isoformat(timespec="minutes", sep=" ")
        size = f"{status.size / 1e6:.1f} MB"
        schemas = ", ".join(status.schemas.values())
        cells = map(_text, (status.key, status.state, schemas, expires, size))
        shown.add_row(*cells, Text("\n").join(map(_text, [] if status.state == "dropped" else changed)))
    console.print(shown)
    _print(drawn)


def _document(status: Status) -> dict[str, Any]:
    return {
        "key": status.key,
        "state": status.state,
        "schemas": dict(status.schemas),
        "created": status.created.isoformat(),
        "expires": None if status.expires is None else status.expires.isoformat(),
        "size": status.size,
        "changed": {table: {"own": own, "hidden": hidden} for table, (own, hidden) in status.changed.items()},
    }
