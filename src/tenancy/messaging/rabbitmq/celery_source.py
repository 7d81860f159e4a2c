"""
One queue on the broker that a Celery worker consumes, and the task messages of it that are in the worker's hands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..._optional import extra
from ...errors import ConfigurationError, HandoverError
from .celery_forward import Errands, Raw
from .choice import Choice, Choices, Life
from .membership import REGISTER_EVERY, Membership
from .topology import check_queue

with extra("celery", "celery"):
    from celery.worker import state
    from kombu.transport.base import to_rabbitmq_queue_arguments
    from kombu.transport.pyamqp import Transport

__all__ = ["Delivered", "Source", "check_worker", "declared_of"]


class Delivered:
    """
    A task message that was delivered, until it is handed on, sent on or given back.

    Args:
        message: The ``kombu.Message``.
        source: The queue from which it came.
        handle: What Celery does with it.
    """

    __slots__ = ("choice", "due", "given_back", "handle", "held", "message", "raw", "request", "returned", "source", "widened")

    def __init__(self, message: Any, source: Source, handle: Callable[[Any], Any]) -> None:
        self.message = message
        self.raw = Raw.of(message)
        self.source = source
        self.handle = handle
        #: What was decided, once it is this process's.
        self.choice: Choice | None = None
        #: Celery's request, once it has made one.
        self.request: Any = None
        #: The life for which it was forwarded in vain.
        self.returned = 0
        #: When it is decided on again, while it is kept.
        self.due = 0.0
        self.held = False
        self.widened = False
        self.given_back = False


class Source:
    """
    One queue on the broker.

    Args:
        choices: Decides.
        queue: Its name there.
        life: The life of the key whose queue it is; None: it is the baseline's.
        declared: With what options the queue was declared, where that is known.
    """

    def __init__(self, choices: Choices, queue: str, life: Life | None = None, declared: Mapping[str, Any] | None = None) -> None:
        self.choices = choices
        self.queue = queue
        self.life = life
        self.epoch = 0 if life is None else life.epoch
        #: Whether no task is begun any more.
        self.leaving = False
        #: What is neither handed to Celery nor settled.
        self.deciding: dict[int, Delivered] = {}
        #: What Celery has, and has not begun.
        self.unbegun: dict[int, Delivered] = {}
        self._begun: list[Any] = []
        self._member = Membership(choices, queue, declared)
        self._channel: Any = None
        self._registered = 0.0

    def mark(self, connection: Any) -> None:
        """
        Make this consumer known to the broker, by a queue that lives as long as the connection does.
        """
        self._channel = connection.channel()
        self._channel.queue_declare(self._member.renew(), exclusive=True, durable=False, auto_delete=False)
        self._registered = 0.0

    def register(self) -> None:
        """
        Make this consumer known to the route store; blocks.
        """
        self._registered = time.monotonic()
        self._member.register()

    def keep_registered(self, errands: Errands) -> None:
        """
        Register again, when it is time.
        """
        if time.monotonic() - self._registered > REGISTER_EVERY:
            self._registered = time.monotonic()
            errands.run(self._member.register)

    def unregister(self) -> None:
        """
        Be known to the route store no more; blocks.
        """
        self._member.unregister()

    def unmark(self) -> None:
        """
        Be known to the broker no more.
        """
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:  # else it went with its connection
            channel.queue_delete(self._member.mark)
            channel.close()

    def begin(self, delivered: Delivered) -> None:
        """
        Note that a task is begun.
        """
        self.unbegun.pop(id(delivered), None)
        self._begun.append(delivered.request)
        if len(self._begun) > 100:
            self._begun = [request for request in self._begun if _runs(request)]

    @property
    def busy(self) -> bool:
        """
        Whether a task that was begun has not ended, or a message is still being sent on.
        """
        self._begun = [request for request in self._begun if _runs(request)]
        return bool(self._begun or self.deciding)


def _runs(request: Any) -> bool:
    return state.requests.get(request.id) is request


def declared_of(queue: Any) -> dict[str, Any]:
    """
    Return with what options a ``kombu.Queue`` is declared.

    Raises:
        ConfigurationError: If messages of such a queue cannot be handed over.
    """
    name = queue.name
    if queue.exclusive or queue.auto_delete:
        raise ConfigurationError(
            f"{name} is exclusive or auto_delete, as those of Broadcast and worker_direct are: its messages could not be handed over and "
            "taken back, since the queue goes away by itself. Have it consumed by a worker without tenancy.messaging.celery.setup"
        )
    if queue.no_ack:
        raise ConfigurationError(
            f"{name} has no_ack: the broker would forget tasks at delivery that are yet to be sent on, or are kept"
        )
    arguments = to_rabbitmq_queue_arguments(
        dict(queue.queue_arguments or {}),
        expires=queue.expires,
        message_ttl=queue.message_ttl,
        max_length=queue.max_length,
        max_length_bytes=queue.max_length_bytes,
        max_priority=queue.max_priority,
    )
    try:
        check_queue(name, arguments)
    except HandoverError as error:
        raise ConfigurationError(str(error)) from error
    return {"durable": bool(queue.durable), "arguments": arguments}


def check_worker(consumer: Any) -> None:
    """
    Make sure that a worker is of a kind whose tasks can be handed over.

    Args:
        consumer: Its ``celery.worker.consumer.Consumer``.

    Raises:
        ConfigurationError: If it is not.
    """
    transport = consumer.app.connection_for_read().transport
    if not isinstance(transport, Transport):
        raise ConfigurationError(
            f"the broker is reached by {type(transport).__module__}, and tasks can be handed over on RabbitMQ alone (amqp://, amqps://): "
            "others have no way to send a task on and know that it has arrived. With setup(app, select=False) the key is carried on "
            "every broker; give each sandbox a queue of its own then"
        )
    if consumer.hub is None:
        raise ConfigurationError(
            "the pool is gevent or eventlet, with which tasks cannot be handed over, since the worker has no event loop of its own; use "
            "--pool prefork, threads or solo, or setup(app, select=False), which only carries the key"
        )
