"""
``tenancy sandbox``: hand keys to a sandbox, take them back, and see where that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click
from rich.padding import Padding
from rich.table import Table

from ..errors import MissingDependencyError, TenancyError
from ..key import RoutingKey
from ..routes import Handover, RouteTable, State
from ..routes.stores import RouteStore, table_of
from ..sandbox import Controller, Fork
from .drawing import _heading, _pairs, _text
from .explanation import cuts
from .following import Following
from .inspection.redaction import redacted
from .inspection.report import counted
from .kafka_options import handler_of, open_kafka, own_topics_of, reads_of
from .routes import (
    _as_json,
    _broker,
    _broker_file,
    _console,
    _Failed,
    _key,
    _lines,
    _opened,
    _place,
    _print,
    _print_json,
    _row,
    _told,
    _workload,
)
from .situation import Situation, situation_of
from .topics import TopicState, topics_of

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker
    from ..messaging.kafka.gap import Remaining

__all__ = ["sandbox"]

_SECONDS = click.FloatRange(min=0, min_open=True)

_name = click.argument("name", metavar="NAME", callback=_key)


@click.group()
def sandbox() -> None:
    """
    Hand keys to a sandbox, take them back, and see where that is.
    """


@sandbox.command()
@_name
@click.option(
    "--fork", "forks", metavar="NAMESPACE/NAME", multiple=True, required=True, callback=_workload,
    help="A workload that it forks; may be given several times.",
)  # fmt: skip
@click.option("--key", metavar="KEY", callback=_key, help="The routing key; default the sandbox's name.")
@click.option(
    "--reads", metavar="GROUP=TOPIC,...", multiple=True,
    help="In which consumer group the baseline reads which topics, or none; with several forks NAMESPACE/NAME:GROUP=TOPIC,... Default what "
    "its running instances have registered.",
)  # fmt: skip
@click.option(
    "--own-topic", "own", metavar="TOPIC", multiple=True,
    help="A topic of the baseline in whose place it has one of its own, which is made like that one and removed with the sandbox; with "
    "several forks NAMESPACE/NAME:TOPIC where only one of them uses it. May be given several times.",
)  # fmt: skip
@_broker
@_broker_file
@click.option(
    "--deadline", type=_SECONDS, default=120.0, show_default=True, metavar="SECONDS", help="When to give up; what is done stays."
)
@click.option(
    "--late", type=click.Choice(["baseline", "drop"]), default="baseline", show_default=True,
    help="Whose records with the key are, after the sandbox is gone: the baseline's, or nobody's.",
)  # fmt: skip
@_place
@_as_json
def create(
    name: RoutingKey,
    forks: tuple[str, ...],
    key: RoutingKey | None,
    reads: tuple[str, ...],
    own: tuple[str, ...],
    servers: str | None,
    kafka_config: str | None,
    deadline: float,
    late: str,
    store: str | None,
    as_json: bool,
) -> None:
    """
    Hand a routing key to a sandbox, on each workload that it forks: pr-42 --fork shop/orders --fork shop/notify.

    It waits for one lease of the route table and about a second, so that nobody acts on what was before; then the sandbox has the key, from
    the end of each topic on. What an earlier run has begun is gone on with, and what is done stays.

    Exit status: 0 the sandbox has its keys, 1 it has not, and what is there can be resumed, 2 the command could not be run as given.
    """
    topics = own_topics_of(forks, own)
    wanted = [
        Fork(workload, name if key is None else key, groups, topics[workload])
        for workload, groups in reads_of(forks, reads).items()
    ]
    with _said(), _opened(store) as opened:
        kafka = open_kafka(servers, kafka_config)
        _check_forks(opened, wanted, kafka)
        again = "run the same command again and it goes on from there, or `tenancy sandbox delete " + name + "`"
        with _following(name, opened, kafka, deadline, again) as controller:
            rows = controller.create(name, wanted, deadline=deadline, late=late)
        _end(name, opened, rows, as_json)


@sandbox.command()
@_name
@_broker
@_broker_file
@click.option(
    "--deadline", type=_SECONDS, default=120.0, show_default=True, metavar="SECONDS", help="When to give up; what is done stays."
)
@click.option(
    "--drain", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Of these, how long the sandbox has to handle what came before the end; default half.",
)  # fmt: skip
@click.option(
    "--remaining", type=click.Choice(["drop", "baseline"]), default="drop", show_default=True,
    help="What becomes of what it has not handled by then: nobody handles it, or --handler does, in the baseline's place.",
)  # fmt: skip
@click.option("--handler", metavar="MODULE:FUNCTION", help="A function of one confluent_kafka.Message: shop.fulfilment:on_order.")
@_place
@_as_json
def delete(
    name: RoutingKey,
    servers: str | None,
    kafka_config: str | None,
    deadline: float,
    drain: float | None,
    remaining: str,
    handler: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """
    Take all keys back from a sandbox: it handles what came before, the baseline what comes after.

    It waits for one lease of the route table and about a second, then until the sandbox has handled what is its own. What it has not handled
    by then is read in its place. Keep its processes running until this ends. What an earlier run has begun is gone on with; a sandbox that is
    gone stays so.

    Exit status: 0 it is gone, 1 it is not, and what is there can be resumed, 2 the command could not be run as given.
    """
    if (remaining == "baseline") != (handler is not None):
        raise click.UsageError("--remaining baseline and --handler MODULE:FUNCTION go together: the function handles what is left")
    rest: Remaining = "drop" if handler is None else handler_of(handler)
    with _said(), _opened(store) as opened:
        rows = _rows(opened, name)
        if not rows:
            click.echo(f"{redacted(opened.name)} knows of no sandbox {name}, so there is nothing to delete", err=True)
        kafka = open_kafka(servers, kafka_config)
        for row in rows:
            if row.state not in (State.NONE, State.CREATING):
                _check_kafka(row.workload, row.groups, kafka)
        if kafka is None and any(_table(opened).own_topics(name)):
            raise click.UsageError(
                f"{name} has topics of its own, and it is not said where Kafka is; give --kafka HOST:PORT, or set TENANCY_KAFKA"
            )
        with _following(name, opened, kafka, deadline, "run the same command again and it goes on from there") as controller:
            rows = controller.delete(name, deadline=deadline, drain=drain, remaining=rest)
        _end(name, opened, rows, as_json)


@sandbox.command()
@click.argument("name", metavar="[NAME]", required=False, callback=_key)
@_broker
@_broker_file
@_place
@_as_json
@click.pass_context
def status(
    context: click.Context, name: RoutingKey | None, servers: str | None, kafka_config: str | None, store: str | None, as_json: bool
) -> None:
    """
    Say where a sandbox is, or all that there are: states in words, what is left to handle, what is wrong, and what to do next.

    Exit status: 0 nothing is wrong, 1 something is, or nobody knows that sandbox, 2 the command could not be run as given.
    """
    with _said(), _opened(store) as opened:
        rows = [row for row in _rows(opened, name) if name is not None or row.state is not State.NONE]
        if name is not None and not rows:
            raise _Failed(f"{redacted(opened.name)} knows of no sandbox {name}; `tenancy sandbox list` has those that there are")
        kafka = open_kafka(servers, kafka_config)
        situations = [situation_of(row, opened, kafka) for row in rows]
        topics = topics_of(_table(opened), name, kafka)
        if as_json:
            keys = [_situation(situation) for situation in situations]
            _print_json({"store": opened.name, "keys": keys, "topics": [vars(topic) for topic in topics]})
        else:
            _print_situations(opened, situations, topics)
    wrong = kafka is not None and any(situation.findings for situation in situations)
    context.exit(1 if wrong or any(topic.findings for topic in topics) else 0)


@sandbox.command(name="list")
@click.option("--all", "gone", is_flag=True, help="Also those that are gone.")
@_place
@_as_json
def list_(gone: bool, store: str | None, as_json: bool) -> None:
    """
    List sandboxes, with their workloads, keys, states and cuts, as the route store has them.
    """
    with _said(), _opened(store) as opened:
        rows = [row for row in _rows(opened, None) if gone or row.state is not State.NONE]
        if as_json:
            return _print_json({"store": opened.name, "keys": [_document(row) for row in rows]})
        _print_rows(opened, rows, "no sandbox has a key")


@contextmanager
def _said() -> Iterator[None]:
    with _told():
        try:
            yield
        except MissingDependencyError as error:
            raise click.UsageError(str(error)) from error


@contextmanager
def _following(name: str, store: RouteStore, kafka: KafkaBroker | None, deadline: float, again: str) -> Iterator[Controller]:
    """
    Show what a controller does; whoever interrupts it is told what is there now.
    """
    store.head()  # so that a store that is not there is said at once, and not at the deadline
    try:
        # What a handler prints is not part of the result.
        with redirect_stdout(sys.stderr), Following(deadline) as follow:
            yield Controller(store, kafka, progress=follow)
    except TenancyError:
        click.echo(f"tenancy sandbox: {_left(name, store)}; {again}", err=True)
        raise
    except KeyboardInterrupt as error:
        click.echo(f"tenancy sandbox: interrupted; {_left(name, store)}; {again}", err=True)
        raise click.Abort from error


def _left(name: str, store: RouteStore) -> str:
    try:
        rows = _rows(store, name)
    except TenancyError as error:
        return f"where it is cannot be said ({redacted(str(error))})"
    told = ", ".join(f"{row.key} on {row.workload} is {row.state.value}" for row in rows)
    return f"nothing is lost, and {told}" if rows else "nothing was written"


def _check_forks(store: RouteStore, forks: list[Fork], kafka: KafkaBroker | None) -> None:
    table = _table(store)
    for fork in forks:
        if fork.workload not in table.workloads:
            known = ", ".join(sorted(table.workloads)) or "none"
            raise _Failed(
                f"{redacted(store.name)} does not know {fork.workload}; it knows {known}. Correct --fork, or run `tenancy routes declare "
                f"{fork.workload}`"
            )
        row = table.handover(fork.workload, RoutingKey(fork.key))
        if row is not None and row.state is State.CREATING:
            groups: Any = row.groups
        elif fork.groups is not None:
            groups = fork.groups
        else:
            groups = {member.group for member in store.members(fork.workload)}
        _check_kafka(fork.workload, groups, kafka)
        if fork.own_topics and kafka is None:
            raise click.UsageError(
                "--own-topic needs Kafka, and it is not said where that is; give --kafka HOST:PORT, or set TENANCY_KAFKA"
            )


def _check_kafka(workload: str, groups: Any, kafka: KafkaBroker | None) -> None:
    if groups and kafka is None:
        raise click.UsageError(
            f"{workload} reads Kafka in {', '.join(sorted(groups))}, and it is not said where that is; give --kafka HOST:PORT, or set "
            "TENANCY_KAFKA"
        )


def _table(store: RouteStore) -> RouteTable:
    return table_of(store.snapshot(), origin=store.name)


def _rows(store: RouteStore, name: str | None) -> list[Handover]:
    rows = _table(store).handovers()
    return sorted((row for row in rows if name in (None, row.sandbox)), key=lambda row: (row.sandbox, row.workload, row.key))


def _document(row: Handover) -> dict[str, Any]:
    return {"workload": row.workload, **_row(row)}


def _situation(situation: Situation) -> dict[str, Any]:
    return {
        **_document(situation.row),
        "state_in_words": situation.state_in_words,
        "kafka": [vars(reading) for reading in situation.readings],
        "findings": situation.findings,
        "next": situation.next,
    }


def _end(name: str, store: RouteStore, rows: list[Handover], as_json: bool) -> None:
    if as_json:
        return _print_json({"store": store.name, "sandbox": name, "keys": [_document(row) for row in rows]})
    if rows:
        _print_rows(store, rows, "")


def _print_rows(store: RouteStore, rows: list[Handover], none: str) -> None:
    console, drawn = _console()
    console.print(_text(store.name))
    if not rows:
        console.print(_text(f"  {none}"))
    for name in dict.fromkeys(row.sandbox for row in rows):
        console.print()
        _heading(console, name)
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("workload", "key", "state", "life", "records of its own"):
            shown.add_column(title, overflow="fold")
        for row in rows:
            if row.sandbox == name:
                told = "\n".join(cuts(row)) or ("none yet" if row.groups else "reads no Kafka")
                shown.add_row(*map(_text, (row.workload, row.key, row.state.value, str(row.epoch))), _lines(told))
        console.print(Padding(shown, (0, 0, 0, 2)))
    _print(drawn)


def _print_situations(store: RouteStore, situations: list[Situation], topics: list[TopicState]) -> None:
    console, drawn = _console()
    console.print(_text(store.name))
    if not situations:
        console.print(_text("  no sandbox has a key"))
    for situation in situations:
        row = situation.row
        console.print()
        _heading(console, f"{row.sandbox}: {row.key} on {row.workload}")
        rows = [("state", f"{row.state.value}, life {row.epoch}: {situation.state_in_words}")]
        told = "\n".join(cuts(row))
        if told:
            rows.append(("cuts", told))
        if row.claimant:
            rows.append(("gap reader", row.claimant))
        for reading in situation.readings:
            left = "begins nowhere yet" if reading.left is None else f"{reading.left} records left, those of other keys included"
            rows.append(("group", f"{reading.sandbox_group}: {left}; members: {', '.join(reading.members) or 'none'}"))
        asked = situation.readings or row.state is State.NONE
        rows += [("wrong" if asked else "note", finding) for finding in situation.findings]
        rows.append(("next", situation.next))
        _pairs(console, rows)
    for topic in topics:
        console.print()
        _heading(console, f"{topic.sandbox}: {topic.topic}, a topic of its own in the place of {topic.base}")
        there = "" if topic.partitions is None else f", {counted(topic.partitions, 'partition')}"
        _pairs(console, [("state", f"{topic.state}{there}"), *(("wrong", finding) for finding in topic.findings)])
    _print(drawn)
