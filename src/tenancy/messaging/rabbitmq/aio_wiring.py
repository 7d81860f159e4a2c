"""
What all ways of consuming one queue with aio-pika share: the connection, who decides, who sends on, and how much may be under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .aio_forward import Forwarder, close_channel
from .aio_source import Give, Source
from .choice import Choices, Life

__all__ = ["FOLLOW_EVERY", "Wiring", "comes_back", "ended"]

#: How often it is looked whether a sandbox has another queue, and whether the connection is another one.
FOLLOW_EVERY = 0.1


@dataclass
class Wiring:
    """
    One queue of the baseline, or a sandbox's in its place.

    Args:
        connection: The connection.
        choices: Decides.
        prefetch: How many messages are handled at once.
        hold: How many more may be kept.
        rejects: Whether a message whose key is malformed is rejected.
        options: With what the baseline's queue is declared.
    """

    connection: Any
    choices: Choices
    prefetch: int
    hold: int
    rejects: bool
    options: Mapping[str, Any]
    forwarder: Forwarder = field(init=False)
    #: The baseline's queue, where this is the baseline.
    base: Any = field(init=False, default=None)
    _channel: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.forwarder = Forwarder(self.connection, self.choices)

    async def opened(self) -> Any:
        """
        Return the channel that belongs to the queue.
        """
        if self._channel is None:
            self._channel = await self.channel()
        return self._channel

    async def channel(self) -> Any:
        """
        Open one more channel: one that is closed, because a queue is gone, must not take others along.
        """
        channel = self.connection.channel()
        await channel.initialize()
        # Those that are handled, and beside them those that are kept: they must not be in the way of others.
        await channel.set_qos(prefetch_count=self.prefetch + self.hold)
        return channel

    def source(self, queue: Any, life: Life | None, give: Give, *, gets: bool = False) -> Source:
        """
        Return a queue on the broker as a source of messages.

        Args:
            queue: The ``aio_pika`` queue.
            life: The life of the key whose queue it is; None: it is the baseline's.
            give: Gets what is this process's.
            gets: Whether messages are got from it one by one.
        """
        declared = {name: value for name, value in self.options.items() if life is None and name in ("durable", "arguments")}
        epoch = 0 if life is None else life.epoch
        return Source(
            self.choices,
            self.forwarder,
            queue,
            give,
            hold=self.hold,
            rejects=self.rejects,
            epoch=epoch,
            declared=declared,
            gets=gets,
        )

    async def close(self) -> None:
        """
        Give the channels back.
        """
        await self.forwarder.close()
        await close_channel(self._channel)


def comes_back(connection: Any) -> bool:
    """
    Return whether a connection opens its channels again, as a robust one does.
    """
    return hasattr(connection, "reconnect_callbacks")


async def ended(task: asyncio.Task[None] | None) -> None:
    """
    End a task that goes on for ever.
    """
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
