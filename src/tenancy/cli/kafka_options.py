"""
What the command line is told about Kafka: where it is, what is read from it, and who handles what is left.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, HandoverError
from ..messaging._gate import gate_of
from .inspection.application import place_of
from .inspection.package import working_folder
from .inspection.redaction import redacted

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker

__all__ = ["handler_of", "open_kafka", "own_topics_of", "reads_of"]

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_NONE = "none"


def open_kafka(servers: str | None, file: str | None) -> KafkaBroker | None:
    """
    Return the Kafka cluster that the options name, or TENANCY_KAFKA; None where nobody names one.

    Args:
        servers: ``host:port,...``; goes before what *file* says.
        file: A file of librdkafka properties.

    Raises:
        click.UsageError: If they cannot be used.
        MissingDependencyError: If confluent-kafka is not installed.
    """
    config = {} if file is None else dict(_properties(file))
    if servers:
        config["bootstrap.servers"] = servers
    elif "bootstrap.servers" not in config:
        config["bootstrap.servers"] = os.environ.get("TENANCY_KAFKA", "")
    if not config["bootstrap.servers"]:
        if file is not None:
            raise click.UsageError(f"{file} has no bootstrap.servers; add it, or give --kafka HOST:PORT")
        return None
    from ..messaging.kafka.broker import KafkaBroker

    try:
        return KafkaBroker(config)
    except Exception as error:  # of the client's own type, for a property that it does not know
        raise click.UsageError(f"Kafka's client does not take its configuration: {redacted(str(error))}") from error


def _properties(file: str) -> Iterator[tuple[str, str]]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise click.BadParameter(f"{file} cannot be read: {error}", param_hint="--kafka-config") from error
    for number, line in enumerate(lines, start=1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not name.strip():
            raise click.BadParameter(
                f"line {number} of {file} is no property; write name=value, such as bootstrap.servers=kafka:9092",
                param_hint="--kafka-config",
            )
        yield name.strip(), value.strip()


def reads_of(forks: tuple[str, ...], reads: tuple[str, ...]) -> dict[str, dict[str, list[str]] | None]:
    """
    Return, for each fork, the groups of its baseline with their topics, as ``--reads`` names them; None where it does not.

    Args:
        forks: The workloads.
        reads: ``GROUP=TOPIC,...`` or ``none``, with ``namespace/name:`` before it where there are several forks.

    Raises:
        click.BadParameter: If one cannot be read.
    """
    found: dict[str, dict[str, list[str]] | None] = dict.fromkeys(forks)
    for given in reads:
        workload = next((name for name in found if given.startswith(f"{name}:")), None)
        rest = given if workload is None else given[len(workload) + 1 :]
        if workload is None:
            if len(found) > 1:
                raise _bad(given, f"does not say whose; write one of {', '.join(f'{name}:GROUP=TOPIC' for name in found)}")
            (workload,) = found
        groups = found[workload] = found[workload] or {}
        if rest == _NONE:
            continue
        group, equals, topics = rest.rpartition("=")
        names = [name.strip() for name in topics.split(",")]
        if not equals or not group:
            raise _bad(given, "names no group and topics; write GROUP=TOPIC,TOPIC, such as orders=orders.v1, or none")
        wrong = [name for name in names if not _TOPIC.fullmatch(name)]
        if wrong:
            raise _bad(
                given, f"has {wrong[0]!r} for a topic; topics are letters, digits, '.', '_' and '-', with commas between them"
            )
        groups.setdefault(group, []).extend(names)
    return found


def own_topics_of(forks: tuple[str, ...], own: tuple[str, ...]) -> dict[str, list[str]]:
    """
    Return, for each fork, the topics of the baseline in whose place it has its own, as ``--own-topic`` names them.

    Args:
        forks: The workloads.
        own: ``TOPIC``, which is meant for all of them, or ``namespace/name:TOPIC``.

    Raises:
        click.BadParameter: If one cannot be read.
    """
    found: dict[str, list[str]] = {name: [] for name in forks}
    for given in own:
        workload, _, topic = given.rpartition(":")
        if not _TOPIC.fullmatch(topic):
            raise _bad(given, "names no topic; topics are letters, digits, '.', '_' and '-'", "--own-topic")
        if workload and workload not in found:
            raise _bad(
                given,
                f"is of no workload that is forked; write one of {', '.join(f'{name}:TOPIC' for name in found)}",
                "--own-topic",
            )
        for name in (workload,) if workload else found:
            found[name].append(topic)
    return found


def _bad(given: str, why: str, option: str = "--reads") -> click.BadParameter:
    return click.BadParameter(f"{given!r} {why}", param_hint=option)


def handler_of(reference: str) -> Callable[[Any], Any]:
    """
    Import the function that handles what a sandbox has left; the working folder goes first in the import path.

    Args:
        reference: ``package.module:function``.

    Raises:
        click.BadParameter: If there is none of that name, or if it would lose messages.
    """
    module, colon, name = reference.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise _unusable(f"{reference!r} names no function; write module:function, such as shop.fulfilment:on_order")
    folder = working_folder()
    if folder is not None and str(folder) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = import_module(module)
    except Exception as error:  # whatever a module of somebody else's raises
        raise _unusable(f"{module} cannot be imported: {type(error).__name__}: {error}{place_of(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise _unusable(f"{module} has no {name}")
        found = getattr(found, part)
    if not callable(found) or isinstance(found, type):
        raise _unusable(f"{reference} is no function but {type(found).__name__}")
    call = found if inspect.isroutine(found) else type(found).__call__
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(call):
        raise _unusable(
            f"{reference} is a coroutine function, which nobody would await; give a function that runs it: asyncio.run(...)"
        )
    if _is_selective(found):
        raise _unusable(
            f"{reference} is decorated with @consumer, which decides once more whose each message is and could leave it to nobody; give the "
            "function beneath it, by a name of its own"
        )

    def handle(message: Any) -> None:
        try:
            found(message)
        except Exception as error:
            raise HandoverError(
                f"{reference} raised {type(error).__name__}: {error}{place_of(error)}, for {message.topic()} [{message.partition()}] at "
                f"{message.offset()}; the same command goes on with this message"
            ) from error

    return handle


def _is_selective(function: Any) -> bool:
    try:
        return gate_of(function) is not None
    except ConfigurationError:
        return False


def _unusable(why: str) -> click.BadParameter:
    return click.BadParameter(redacted(why), param_hint="--handler")
