"""
``tenancy sandbox``: hand keys to a sandbox, take them back, and see where that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from ..errors import HandoverError, MissingDependencyError, TenancyError
from ..key import RoutingKey
from ..routes import Handover, RouteTable, State
from ..routes.stores import RouteStore, table_of
from ..sandbox import Controller, Fork
from ..sandbox.leftovers import Leftovers
from ..sandbox.partitions import left
from .data_options import databases_options
from .following import Following
from .inspection.redaction import redacted
from .kafka_options import handler_of, open_kafka, own_topics_of, reads_of
from .queues import told_leftover
from .rabbit_options import open_rabbit, queues_of
from .routes import (
    _as_json,
    _broker,
    _broker_file,
    _Failed,
    _key,
    _opened,
    _place,
    _print_json,
    _rabbit,
    _told,
    _workload,
)
from .situation import Situation, situation_of
from .situations import document, end, partitions_of, print_rows, print_situations, situation_document
from .topics import topics_of

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker
    from ..messaging.kafka.gap import Remaining
    from ..messaging.rabbitmq.broker import RabbitBroker
    from ..sandbox.partitions import Partitioned

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
    "--queue", "queues", metavar="NAME[=EXCHANGE]", multiple=True,
    help="Which queue of RabbitMQ the baseline consumes, with =EXCHANGE where a headers exchange routes to the sandbox's by itself, or none; "
    "with several forks NAMESPACE/NAME:QUEUE. May be given several times. Default what its running instances have registered.",
)  # fmt: skip
@click.option(
    "--own-topic", "own", metavar="TOPIC", multiple=True,
    help="A topic of the baseline in whose place it has one of its own, which is made like that one and removed with the sandbox; with "
    "several forks NAMESPACE/NAME:TOPIC where only one of them uses it. May be given several times.",
)  # fmt: skip
@databases_options
@_broker
@_broker_file
@_rabbit
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
    queues: tuple[str, ...],
    own: tuple[str, ...],
    databases: list[Partitioned],
    servers: str | None,
    kafka_config: str | None,
    rabbitmq: str | None,
    deadline: float,
    late: str,
    store: str | None,
    as_json: bool,
) -> None:
    """
    Hand a routing key to a sandbox, on each workload that it forks: pr-42 --fork shop/orders --fork shop/notify.

    It waits for one lease of the route table and about a second, so that nobody acts on what was before; then the sandbox has the key, from
    the end of each topic on. What an earlier run has begun is gone on with, and what is done stays. With --isolation its keys have partitions
    of those databases before.

    Exit status: 0 the sandbox has its keys, 1 it has not, and what is there can be resumed, 2 the command could not be run as given.
    """
    topics, consumed = own_topics_of(forks, own), queues_of(forks, queues)
    wanted = [
        Fork(workload, name if key is None else key, groups, topics[workload], consumed[workload])
        for workload, groups in reads_of(forks, reads).items()
    ]
    with _said(), _opened(store) as opened:
        kafka, rabbit = open_kafka(servers, kafka_config), open_rabbit(rabbitmq)
        _check_forks(opened, wanted, kafka, rabbit)
        again = "run the same command again and it goes on from there, or `tenancy sandbox delete " + name + "`"
        keys = {name if key is None else key}
        with _following(name, keys, opened, kafka, rabbit, databases, deadline, again) as controller:
            rows = controller.create(name, wanted, deadline=deadline, late=late)
        end(name, opened, rows, as_json)


@sandbox.command()
@_name
@databases_options
@_broker
@_broker_file
@_rabbit
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
    databases: list[Partitioned],
    servers: str | None,
    kafka_config: str | None,
    rabbitmq: str | None,
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
    gone stays so. With --isolation the partitions of its keys are dropped at last, with all that is in them.

    Exit status: 0 it is gone, 1 it is not, and what is there can be resumed, 2 the command could not be run as given.
    """
    if (remaining == "baseline") != (handler is not None):
        raise click.UsageError("--remaining baseline and --handler MODULE:FUNCTION go together: the function handles what is left")
    rest: Remaining = "drop" if handler is None else handler_of(handler)
    with _said(), _opened(store) as opened:
        rows = _rows(opened, name)
        if not rows:
            click.echo(f"{redacted(opened.name)} knows of no sandbox {name}, so there is nothing to delete", err=True)
        kafka, rabbit = open_kafka(servers, kafka_config), open_rabbit(rabbitmq)
        for row in rows:
            if row.state not in (State.NONE, State.CREATING):
                _check_kafka(row.workload, row.groups, kafka)
            if row.state is not State.NONE:
                _check_rabbit(row.workload, row.queues, rabbit)
        if kafka is None and any(_table(opened).own_topics(name)):
            raise click.UsageError(
                f"{name} has topics of its own, and it is not said where Kafka is; give --kafka HOST:PORT, or set TENANCY_KAFKA"
            )
        with _following(
            name, {name}, opened, kafka, rabbit, databases, deadline, "run the same command again and it goes on from there"
        ) as controller:
            rows = controller.delete(name, deadline=deadline, drain=drain, remaining=rest)
            for leftover in Leftovers(opened, rabbit).of(name):
                click.echo(f"tenancy sandbox: {redacted(told_leftover(leftover))}", err=True)
            if stays := _stays(opened, {row.key for row in rows} | {name}):
                click.echo(redacted(f"tenancy sandbox: {stays}"), err=True)
        end(name, opened, rows, as_json)


@sandbox.command()
@click.argument("name", metavar="[NAME]", required=False, callback=_key)
@_broker
@_broker_file
@_rabbit
@_place
@_as_json
@click.pass_context
def status(
    context: click.Context,
    name: RoutingKey | None,
    servers: str | None,
    kafka_config: str | None,
    rabbitmq: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """
    Say where a sandbox is, or all that there are: states in words, what is left to handle, what is wrong, and what to do next.

    Exit status: 0 nothing is wrong, 1 something is, or nobody knows that sandbox, 2 the command could not be run as given.
    """
    with _said(), _opened(store) as opened:
        rows = [row for row in _rows(opened, name) if name is not None or row.state is not State.NONE]
        kafka, rabbit = open_kafka(servers, kafka_config), open_rabbit(rabbitmq)
        context.call_on_close(lambda: None if rabbit is None else rabbit.close())
        leftovers = [] if name is None else _left_of(name, opened, rabbit)
        if name is not None and not rows and not leftovers:
            raise _Failed(f"{redacted(opened.name)} knows of no sandbox {name}; `tenancy sandbox list` has those that there are")
        situations = [situation_of(row, opened, kafka, rabbit) for row in rows]
        topics = topics_of(_table(opened), name, kafka)
        partitions = partitions_of(opened, rows)
        if as_json:
            keys = [situation_document(situation) for situation in situations]
            of_topics = [vars(topic) for topic in topics]
            _print_json({"store": opened.name, "keys": keys, "topics": of_topics, "left": leftovers, "partitions": partitions})
        else:
            print_situations(opened, situations, topics, leftovers, partitions)
    wrong = any(_asked(situation, kafka, rabbit) and situation.findings for situation in situations)
    context.exit(1 if wrong or leftovers or any(topic.findings for topic in topics) else 0)


@sandbox.command(name="list")
@click.option("--all", "gone", is_flag=True, help="Also those that are gone.")
@_place
@_as_json
def list_(gone: bool, store: str | None, as_json: bool) -> None:
    """
    List sandboxes, with their workloads, keys, states, cuts and queues, as the route store has them.
    """
    with _said(), _opened(store) as opened:
        rows = [row for row in _rows(opened, None) if gone or row.state is not State.NONE]
        if as_json:
            return _print_json({"store": opened.name, "keys": [document(row) for row in rows]})
        print_rows(opened, rows, "no sandbox has a key")


@contextmanager
def _said() -> Iterator[None]:
    with _told():
        try:
            yield
        except MissingDependencyError as error:
            raise click.UsageError(str(error)) from error


@contextmanager
def _following(
    name: str,
    keys: set[RoutingKey],
    store: RouteStore,
    kafka: KafkaBroker | None,
    rabbit: RabbitBroker | None,
    databases: list[Partitioned],
    deadline: float,
    again: str,
) -> Iterator[Controller]:
    """
    Show what a controller does; whoever interrupts it is told what is there now.
    """
    store.head()  # so that a store that is not there is said at once, and not at the deadline
    try:
        # What a handler prints is not part of the result.
        with redirect_stdout(sys.stderr), Following(deadline) as follow:
            yield Controller(store, kafka, rabbit=rabbit, data=databases, progress=follow)
    except TenancyError:
        click.echo(f"tenancy sandbox: {_left(name, keys, store)}; {again}", err=True)
        raise
    except KeyboardInterrupt as error:
        click.echo(f"tenancy sandbox: interrupted; {_left(name, keys, store)}; {again}", err=True)
        raise click.Abort from error
    finally:
        if rabbit is not None:
            rabbit.close()


def _left(name: str, keys: set[RoutingKey], store: RouteStore) -> str:
    try:
        rows, stays = _rows(store, name), _stays(store, keys)
    except TenancyError as error:
        return f"where it is cannot be said ({redacted(str(error))})"
    told = ", ".join(f"{row.key} on {row.workload} is {row.state.value}" for row in rows)
    handed = f"nothing is lost, and {told}" if rows else "nothing was handed over" if stays else "nothing was written"
    return f"{handed}; {stays}" if stays else handed


def _stays(store: RouteStore, keys: set[RoutingKey]) -> str:
    """
    Say of which databases keys that nobody has any more still have partitions; nothing, where of none.
    """
    return "; ".join(
        f"{partition.key} still has its partition of {partition.database}, and `tenancy data drop {partition.key}` drops it"
        for partition in left(store, keys)
    )


def _check_forks(store: RouteStore, forks: list[Fork], kafka: KafkaBroker | None, rabbit: RabbitBroker | None) -> None:
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
            queues: Any = row.queues
        else:
            members = [member for member in store.members(fork.workload) if not member.sandbox]
            groups = {member.group for member in members if member.group} if fork.groups is None else fork.groups
            consumed = {queue for member in members if not member.group for queue in member.topics}
            queues = consumed if fork.queues is None else fork.queues
        _check_kafka(fork.workload, groups, kafka)
        _check_rabbit(fork.workload, queues, rabbit)
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


def _check_rabbit(workload: str, queues: Any, rabbit: RabbitBroker | None) -> None:
    if queues and rabbit is None:
        raise click.UsageError(
            f"{workload} consumes {', '.join(sorted(queues))} on RabbitMQ, and it is not said where that is; give --rabbitmq "
            "amqp://HOST:5672/VHOST, or set TENANCY_RABBITMQ"
        )


def _asked(situation: Situation, kafka: KafkaBroker | None, rabbit: RabbitBroker | None) -> bool:
    """
    Whether what was found is more than that nobody was asked.
    """
    row = situation.row
    return kafka is not None or (rabbit is not None and bool(row.queues))


def _left_of(name: RoutingKey, store: RouteStore, rabbit: RabbitBroker | None) -> list[str]:
    try:
        return [told_leftover(one) for one in Leftovers(store, rabbit).of(name)]
    except HandoverError as error:
        return [str(error)]


def _table(store: RouteStore) -> RouteTable:
    return table_of(store.snapshot(), origin=store.name)


def _rows(store: RouteStore, name: str | None) -> list[Handover]:
    rows = _table(store).handovers()
    return sorted((row for row in rows if name in (None, row.sandbox)), key=lambda row: (row.sandbox, row.workload, row.key))
