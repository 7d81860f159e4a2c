"""
What a sandbox's queue is like: like the baseline's, with bounds, and a place of its own for what it rejects. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigurationError, HandoverError
from .names import Names

__all__ = ["MOST_BYTES", "MOST_MESSAGES", "check_consumer", "check_declared", "check_queue", "sandbox_arguments"]

#: How much a sandbox's queue may hold, so that one that nobody reads does not fill the broker, which then stops publishers everywhere
#: (https://www.rabbitmq.com/docs/alarms). What is beyond is refused, and waits in the baseline's queue.
MOST_MESSAGES = 100_000
MOST_BYTES = 256 * 1024 * 1024

# A queue with one of these is not to be copied: it would go away by itself with all that is in it.
_DROPPED = frozenset(
    {"x-expires", "x-overflow", "x-max-length", "x-max-length-bytes", "x-queue-master-locator", "x-queue-leader-locator"}
)


def check_queue(queue: str, arguments: Mapping[str, Any]) -> None:
    """
    Make sure that messages of a queue can be handed over.

    Args:
        queue: The baseline's queue.
        arguments: With what it was declared.

    Raises:
        HandoverError: If they cannot, with the reason.
    """
    if arguments.get("x-queue-type") == "stream":
        raise HandoverError(
            f"{queue} is a stream, whose messages stay where they are after they were read: forwarding would hand out each again and again. "
            "Give each sandbox an offset of its own with plain consumers, or use a classic or quorum queue"
        )
    if arguments.get("x-single-active-consumer"):
        raise HandoverError(
            f"{queue} has x-single-active-consumer, which asks for the order of all messages, and forwarding does not keep that; use a queue "
            "without it"
        )


def check_declared(queue: str, options: Mapping[str, Any], *, prefetch_count: int, hold: int, malformed: str) -> None:
    """
    Make sure that a process can consume a queue of which messages may be handed over.

    Args:
        queue: The baseline's queue.
        options: With what it is declared.
        prefetch_count: How many messages are handled at once.
        hold: How many more may be kept.
        malformed: What becomes of one whose key is malformed.

    Raises:
        ConfigurationError: If it cannot, with the reason.
    """
    if malformed not in ("ignore", "dead-letter"):
        raise ConfigurationError(f"malformed is {malformed!r}; use 'ignore' or 'dead-letter'")
    if prefetch_count < 1 or hold < 1:
        raise ConfigurationError(f"prefetch_count is {prefetch_count} and hold {hold}; give 1 or more of each")
    for name in ("exclusive", "passive", "auto_delete"):
        if options.get(name):
            raise ConfigurationError(
                f"{name}=True cannot be used with {queue}: its messages could not be handed over and taken back, since the queue goes away "
                "by itself, or only this connection may use it. Declare a durable queue"
            )
    _check_arguments(queue, options.get("arguments") or {})


def check_consumer(queue: str, arguments: Mapping[str, Any] | None, **refused: Any) -> None:
    """
    Make sure that a way to consume a queue loses no messages, and keeps none from other instances.

    Args:
        queue: The baseline's queue.
        arguments: Those of the consumer.
        refused: By the name that the client has for each: whether the broker is to expect no acknowledgement (``no_ack``, ``auto_ack``), and
            whether this is to be the only consumer (``exclusive``).

    Raises:
        ConfigurationError: If it does, with the reason.
    """
    for name, value in refused.items():
        if value:
            why = (
                "other instances of this workload could not consume, and none could take the messages of one that dies"
                if name == "exclusive"
                else "the broker would forget messages at delivery that are yet to be sent on, or are kept"
            )
            raise ConfigurationError(f"{name}=True cannot be used with {queue}: {why}")
    if "x-stream-offset" in (arguments or {}):
        _check_arguments(queue, {"x-queue-type": "stream"})


def _check_arguments(queue: str, arguments: Mapping[str, Any]) -> None:
    try:
        check_queue(queue, arguments)
    except HandoverError as error:
        raise ConfigurationError(str(error)) from error


def sandbox_arguments(names: Names, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return with what a sandbox's queue is declared.

    Args:
        names: Its names.
        arguments: With what the baseline's was declared.
    """
    own = {name: value for name, value in arguments.items() if name not in _DROPPED}
    own["x-max-length"] = min(MOST_MESSAGES, arguments.get("x-max-length") or MOST_MESSAGES)
    own["x-max-length-bytes"] = min(MOST_BYTES, arguments.get("x-max-length-bytes") or MOST_BYTES)
    own["x-overflow"] = "reject-publish"
    if "x-dead-letter-exchange" not in own:  # where there is one, it may be what brings a message back for another try
        own["x-dead-letter-exchange"] = ""
        own["x-dead-letter-routing-key"] = names.dead
    return own
