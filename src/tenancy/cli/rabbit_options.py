"""
What the command line is told about RabbitMQ: where it is, and which queues are consumed.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from .inspection.redaction import redacted

if TYPE_CHECKING:
    from ..messaging.rabbitmq.broker import RabbitBroker

__all__ = ["open_rabbit", "queues_of"]

_NONE = "none"
# What AMQP takes for a name: up to 255 bytes; and nothing that would make a line of text two.
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def open_rabbit(url: str | None) -> RabbitBroker | None:
    """
    Return the RabbitMQ broker that the option names, or TENANCY_RABBITMQ; None where nobody names one.

    Args:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps``.

    Raises:
        click.UsageError: If that is no such URL.
        MissingDependencyError: If aio-pika is not installed.
    """
    url = url or os.environ.get("TENANCY_RABBITMQ", "")
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise click.UsageError(
            f"RabbitMQ's address is {redacted(url)!r}; write --rabbitmq amqp://HOST:5672/VHOST, with the user and the password before HOST "
            "in TENANCY_RABBITMQ, where no list of processes shows them"
        )
    from ..messaging.rabbitmq.broker import RabbitBroker

    return RabbitBroker(url)


def queues_of(forks: tuple[str, ...], queues: tuple[str, ...]) -> dict[str, dict[str, str] | None]:
    """
    Return, for each fork, the queues of its baseline, as ``--queue`` names them; None where it does not.

    Args:
        forks: The workloads.
        queues: ``NAME``, ``NAME=EXCHANGE`` or ``none``, with ``namespace/name:`` before it where there are several forks.

    Raises:
        click.BadParameter: If one cannot be read.
    """
    found: dict[str, dict[str, str] | None] = dict.fromkeys(forks)
    for given in queues:
        workload = next((name for name in found if given.startswith(f"{name}:")), None)
        rest = given if workload is None else given[len(workload) + 1 :]
        if workload is None:
            if len(found) > 1:
                raise _bad(given, f"does not say whose; write one of {', '.join(f'{name}:NAME' for name in found)}")
            (workload,) = found
        named = found[workload] = found[workload] or {}
        if rest == _NONE:
            continue
        name, equals, exchange = rest.partition("=")
        if not _NAME.fullmatch(name) or (equals and not _NAME.fullmatch(exchange)):
            raise _bad(given, "names no queue; write NAME, or NAME=EXCHANGE where a headers exchange routes by itself, or none")
        if len(name.encode()) > _LONGEST or len(exchange.encode()) > _LONGEST:
            raise _bad(given, f"is too long; RabbitMQ's names have up to {_LONGEST} bytes")
        named[name] = exchange
    return found


_LONGEST = 255


def _bad(given: str, why: str) -> click.BadParameter:
    return click.BadParameter(f"{given!r} {why}", param_hint="--queue")
