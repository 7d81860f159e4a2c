"""
What a sandbox's queue is like: like the baseline's, with bounds, and a place of its own for what it rejects. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import HandoverError
from .names import Names

__all__ = ["MOST_BYTES", "MOST_MESSAGES", "check_queue", "sandbox_arguments"]

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
