"""
``tenancy routes``: make a route table, make workloads known in it, and see who owns what, and why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import StringIO
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ..config import settings
from ..errors import ConfigurationError, ConflictError, IdentityError, InvalidRoutingKeyError, TenancyError
from ..key import RoutingKey
from ..naming import is_workload
from ..routes import Handover, Position, RouteTable, State, open_routes
from ..routes.lease import DEFAULT_LEASE
from ..routes.stores import RouteStore, open_store, put_workload
from .drawing import _heading, _pairs, _text
from .explanation import Explanation, cuts, explain
from .inspection.redaction import redacted
from .inspection.report import counted
from .kafka_options import open_kafka
from .logs import ask_logs

__all__ = ["routes"]

_MIN_WIDTH, _MAX_WIDTH = 60, 160


class _Failed(click.ClickException):
    exit_code = 1


@contextmanager
def _told() -> Iterator[None]:
    """
    Turn our errors into those of a command line: 2 for what was given, 1 for what was found.
    """
    try:
        yield
    except IdentityError as error:
        raise _Failed(redacted(str(error))) from error
    except ConfigurationError as error:
        raise click.UsageError(redacted(str(error))) from error
    except TenancyError as error:
        raise _Failed(redacted(str(error))) from error


def _workload(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    for name in (value,) if isinstance(value, str) else value or ():
        if not is_workload(name):
            raise click.BadParameter(f"{name!r} is no workload; write namespace/name in lower case, such as shop/orders")
    return value


def _key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> RoutingKey | None:
    try:
        return None if value is None else RoutingKey(value)
    except InvalidRoutingKeyError as error:
        raise click.BadParameter(str(error)) from error


_place = click.option("--store", metavar="URL", help="The route table; default that of TENANCY_ROUTES.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_broker = click.option("--kafka", "servers", metavar="HOST:PORT,...", help="The Kafka cluster; default TENANCY_KAFKA.")
_rabbit = click.option(
    "--rabbitmq", "rabbitmq", metavar="URL", help="The RabbitMQ broker, amqp://HOST:5672/VHOST; default TENANCY_RABBITMQ."
)
_broker_file = click.option(
    "--kafka-config", metavar="FILE", help="librdkafka properties for it, a line name=value each: credentials, certificates."
)


@click.group()
def routes() -> None:
    """
    Make a route table, make workloads known in it, and see who owns what.
    """


@routes.command()
@_place
@click.option(
    "--lease", type=float, default=DEFAULT_LEASE, show_default=True, metavar="SECONDS", help="How long a read may be acted on."
)
@_as_json
def init(store: str | None, lease: float, as_json: bool) -> None:
    """
    Make an empty route table, unless there is one.

    The lease is the table's for as long as it lives: making a route active, and taking it away, each wait for a little more than one lease;
    consumers that cannot read the table for that long set records with a routing key aside.
    """
    with _told(), _opened(store) as opened:
        head = opened.create(lease)
        if as_json:
            return _print_json({"store": opened.name, **head._asdict()})
    kept = "" if head.lease == lease else f"; it was there, so the lease stays {head.lease:g} s"
    click.echo(f"{redacted(opened.name)}: table {head.id}, version {head.version}, lease {head.lease:g} s{kept}")


@routes.command()
@click.argument("workloads", metavar="WORKLOAD...", nargs=-1, required=True, callback=_workload)
@_place
@_as_json
def declare(workloads: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """
    Make workloads known, so that their consumers may start: shop/orders shop/notify.

    A consumer whose workload the table does not know refuses to start, since a misspelt one would take every sandbox's records.
    """
    with _told(), _opened(store) as opened:
        new = _declare(opened, dict.fromkeys(workloads))
    if as_json:
        return _print_json({"store": opened.name, "declared": new})
    for workload in dict.fromkeys(workloads):
        click.echo(f"{workload}: {'declared' if workload in new else 'known already'}")


@routes.command(name="list")
@_place
@click.option("--workload", metavar="NAMESPACE/NAME", callback=_workload, help="Only this one.")
@_as_json
def list_(store: str | None, workload: str | None, as_json: bool) -> None:
    """
    List workloads, the keys that fork them, and since which positions.
    """
    with _told():
        origin, table = _read(store)
    names = sorted(table.workloads) if workload is None else [workload]
    if workload is not None and workload not in table.workloads:
        raise _Failed(f"{redacted(origin)} does not know {workload}; `tenancy routes declare {workload}` makes it known")
    listed = [{"workload": name, "keys": [_row(row) for row in _rows(table, name)]} for name in names]
    if as_json:
        head = {"source": origin, "id": table.id, "version": table.version, "lease": table.lease}
        partitions = [] if workload is not None else [partition._asdict() for partition in table.partitions()]
        return _print_json({**head, "workloads": listed, "partitions": partitions})
    _print_list(origin, table, names, partitions=workload is None)


@routes.command(name="explain")
@_place
@click.option("--workload", metavar="NAMESPACE/NAME", required=True, callback=_workload, help="Whose work it is.")
@click.option("--key", metavar="KEY", callback=_key, help="The routing key; without it, for work that has none.")
@click.option("--topic", metavar="TOPIC", help="A record's topic; with --partition and --offset.")
@click.option("--partition", type=click.IntRange(0), metavar="NUMBER", help="Its partition.")
@click.option("--offset", type=click.IntRange(0), metavar="NUMBER", help="Its offset.")
@click.option("--queue", metavar="NAME", help="The baseline's queue on RabbitMQ, for a message of it.")
@click.option("--as", "reader", metavar="baseline|SANDBOX", help="What this one does; default all that could have it.")
@_broker
@_broker_file
@_as_json
def explain_(
    store: str | None,
    workload: str,
    key: RoutingKey | None,
    topic: str | None,
    partition: int | None,
    offset: int | None,
    queue: str | None,
    reader: str | None,
    servers: str | None,
    kafka_config: str | None,
    as_json: bool,
) -> None:
    """
    Say who owns work of a workload that has a routing key, and why: a request, with --queue a message of RabbitMQ that is met now, or with
    --topic, --partition and --offset a record of Kafka.

    Where it is said where Kafka is, it also says whether the topics are still those in which the key was handed over.
    """
    if topic is None and partition is None and offset is None:
        position = None
    elif topic is None or partition is None or offset is None:
        raise click.UsageError("--topic, --partition and --offset say together where a record stands; give all three, or none")
    else:
        position = Position(topic, partition, offset)
    if queue is not None and position is not None:
        raise click.UsageError("--queue is for a message of RabbitMQ, and --topic for a record of Kafka; give one of them")
    with _told():
        origin, table = _read(store)
        row = None if key is None else table.handover(workload, key)
        kafka = open_kafka(servers, kafka_config) if row is not None and row.epochs else None
        findings = ask_logs(row, kafka) if row is not None and kafka is not None else []
        explanation = explain(table, workload, key, position, reader, findings, queue=queue)
    if as_json:
        return _print_json({"source": origin, "version": table.version, **asdict(explanation)})
    _print_explanation(origin, table, explanation)


@contextmanager
def _opened(url: str | None) -> Iterator[RouteStore]:
    store = open_store(_url(url))
    try:
        yield store
    finally:
        store.close()


def _url(url: str | None) -> str:
    url = settings().routes if url is None else url
    if not url:
        raise ConfigurationError("no route table is named; give --store sqlite:///routes.db, or set TENANCY_ROUTES")
    return url


def _read(url: str | None) -> tuple[str, RouteTable]:
    source = open_routes(_url(url)).source
    return source.name, source.read()


def _declare(store: RouteStore, workloads: dict[str, None]) -> list[str]:
    while True:
        known = store.snapshot().documents
        puts = [put for put in map(put_workload, workloads) if put.name not in known]
        try:
            if puts:
                store.write(puts)
        except ConflictError:
            continue  # somebody else declares one of them at this moment
        return [workload for workload in workloads if put_workload(workload).name not in known]


def _rows(table: RouteTable, workload: str) -> list[Handover]:
    """
    What the table says about each key of a workload; where it knows no cuts, that a sandbox has it.
    """
    rows = {row.key: row for row in table.handovers(workload)}
    for route in table:
        if route.workload == workload and route.key not in rows:
            rows[route.key] = Handover(workload, route.key, State.ACTIVE, route.generation, route.sandbox)
    return [rows[key] for key in sorted(rows)]


def _row(row: Handover) -> dict[str, Any]:
    shown = row._asdict()
    del shown["workload"]
    return {**shown, "state": row.state.value, "epochs": [epoch._asdict() for epoch in row.epochs]}


def _print_json(document: Any) -> None:
    click.echo(json.dumps(redacted(document), indent=2))


def _console() -> tuple[Console, StringIO]:
    drawn = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(file=drawn, force_terminal=terminal or None, markup=False, highlight=False, emoji=False)
    console.width = max(_MIN_WIDTH, min(console.width, _MAX_WIDTH))
    return console, drawn


def _print(drawn: StringIO) -> None:
    click.echo("\n".join(line.rstrip() for line in drawn.getvalue().splitlines()))


def _print_list(origin: str, table: RouteTable, names: list[str], *, partitions: bool) -> None:
    console, drawn = _console()
    console.print(_text(_headline(origin, table)))
    for name in names:
        rows = _rows(table, name)
        console.print()
        _heading(console, name)
        if not rows:
            console.print(_text("  no key forks it"))
            continue
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("key", "state", "sandbox", "life", "records of its own"):
            shown.add_column(title, overflow="fold")
        for row in rows:
            told = "\n".join(cuts(row)) or ("none yet" if table.lease else "all that have the key")
            shown.add_row(*map(_text, (row.key, row.state.value, row.sandbox, str(row.epoch))), _lines(told))
        console.print(Padding(shown, (0, 0, 0, 2)))
    found = sorted(table.partitions()) if partitions else []
    if found:
        console.print()
        _heading(console, "data")
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("database", "key", "partition", "expires"):
            shown.add_column(title, overflow="fold")
        for one in found:
            place = "dropped" if one.dropped else ", ".join(one.place)
            shown.add_row(*map(_text, (one.database, one.key, place, one.expires)))
        console.print(Padding(shown, (0, 0, 0, 2)))
    _print(drawn)


def _print_explanation(origin: str, table: RouteTable, explanation: Explanation) -> None:
    console, drawn = _console()
    key = "no routing key" if explanation.key is None else f"key {explanation.key}"
    place = "" if explanation.position is None else ", {topic} [{partition}] at {offset}".format(**explanation.position)
    place = place if explanation.queue is None else f", a message of queue {explanation.queue}"
    console.print(_text(f"{explanation.workload}, {key}{place}: {explanation.owner_in_words}", "bold"))
    rows = [("why", explanation.why), ("table", _headline(origin, table))]
    if explanation.state is not None:
        rows.insert(1, ("state", explanation.state))
    if explanation.cuts:
        rows.append(("cuts", "\n".join(explanation.cuts)))
    rows += [("wrong", finding) for finding in explanation.findings]
    rows += [(answer.reader, f"{answer.action}: {answer.reason}") for answer in explanation.readers]
    _pairs(console, rows)
    _print(drawn)


def _headline(origin: str, table: RouteTable) -> str:
    lease = "no lease: hand-over is not exact" if table.lease is None else f"lease {table.lease:g} s"
    return f"{origin}, version {table.version}, {lease}, {counted(len(table.workloads), 'workload')}"


def _lines(value: str) -> Any:
    text = _text("")
    for number, line in enumerate(value.split("\n")):
        text.append("\n" if number else "").append_text(_text(line))
    return text
