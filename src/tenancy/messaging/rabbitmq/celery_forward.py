"""
Sending a task message on from a Celery worker: what may block is done in a thread, and what follows from it in the worker's event loop.
"""

from __future__ import annotations

import queue
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..._optional import extra
from ...observe import warn_once
from .copies import copy_headers, original_of
from .outcome import Outcome

with extra("celery", "celery"):
    from amqp import Message
    from kombu.compression import compress

__all__ = ["Errands", "Forwarder", "Loop", "Raw", "restore"]

# Seconds within which the broker has to confirm a copy.
_CONFIRM = 10.0


class Loop:
    """
    The way back from a thread into the event loop of a worker.

    Args:
        hub: The worker's hub.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def attach(self) -> None:
        """
        Have the hub listen; it forgets that with each connection to the broker.
        """
        self._hub.add_reader(self._reader, self.drain)

    def call(self, function: Callable[[], None]) -> None:
        """
        Have a function called in the event loop, from whatever thread.
        """
        self._calls.put(function)
        try:
            self._writer.send(b"\0")
        except OSError:  # it is full, so the loop is awake
            return

    def drain(self, *_: Any) -> None:
        """
        Call what is to be called.
        """
        try:
            while self._reader.recv(4096):
                pass
        except OSError:
            pass
        while True:
            try:
                function = self._calls.get_nowait()
            except queue.Empty:
                return
            function()


class Errands:
    """
    A thread for what may block.

    Args:
        name: The thread's name.
        loop: Where what follows is done.
    """

    def __init__(self, name: str, loop: Loop) -> None:
        self._name = name
        self._loop = loop
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, errand: Callable[[], Any], then: Callable[[Any], None] | None = None) -> None:
        """
        Have *errand* called in the thread, and *then* with what it returns in the event loop.
        """

        def step() -> None:
            result = errand()
            if then is not None:
                self._loop.call(lambda: then(result))

        if self._thread is None:
            # Not before the first errand, which comes after the children of a pool were forked.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._errands.put(step)

    def close(self, timeout: float = 5.0) -> None:
        """
        Wait until all is done.
        """
        if self._thread is not None:
            self._errands.put(None)
            self._thread.join(timeout)

    def _work(self) -> None:
        while (step := self._errands.get()) is not None:
            step()


class Raw(NamedTuple):
    """
    A message as it was received, before Celery or we changed anything.

    Args:
        body: Its body.
        headers: Its headers.
        properties: Its properties, as py-amqp has them.
        exchange: The exchange that its delivery names.
        amqp_routing_key: The routing key of RabbitMQ's that its delivery names.
    """

    body: Any
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    exchange: str
    amqp_routing_key: str

    @classmethod
    def of(cls, message: Any) -> Raw:
        """
        Return what a ``kombu.Message`` of py-amqp says.
        """
        info = message.delivery_info
        return cls(
            message.body,
            message.headers or {},
            message.properties or {},
            info.get("exchange") or "",
            info.get("routing_key") or "",
        )


class Forwarder:
    """
    Publishes copies on a connection of its own, one after the other; for a thread of its own.

    Args:
        app: The Celery application; its broker is that of the queues.
        adapter: Who asks, for logs.
    """

    def __init__(self, app: Any, adapter: str) -> None:
        self._app = app
        self._adapter = adapter
        self._connection: Any = None
        self._channel: Any = None
        self._returned = False

    def forward(self, raw: Raw, *, queue: str, exchange: str, epoch: int) -> Outcome:
        """
        Publish a copy of a message; blocks until the broker has answered. The message itself is still to be acknowledged.

        Args:
            raw: The message, as it was received.
            queue: The baseline's queue.
            exchange: What leads to the sandbox's; empty: it goes to the baseline's queue.
            epoch: The life of the key for which it is forwarded; 0: it goes to the baseline's queue.
        """
        try:
            channel = self._ready()
            self._returned = False
            channel.basic_publish(
                _copy(raw, epoch),
                exchange=exchange,
                routing_key=raw.amqp_routing_key if epoch else queue,
                mandatory=True,
                confirm_timeout=_CONFIRM,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the message is kept and tried again
            self.close()
            warn_once(
                f"forward:{queue}:{type(error).__name__}",
                "%s: a message of %s could not be forwarded (%r) and is tried again; see that its sandbox reads, and whether %s is full. "
                "Further ones are not logged.",
                self._adapter,
                queue,
                error,
                exchange or queue,
            )
            return Outcome.FAILED
        return Outcome.RETURNED if self._returned else Outcome.SENT

    def there(self, queue: str) -> bool:
        """
        Return whether there is a queue of that name; to consume one that is not there would close the worker's channel.
        """
        try:
            self._ready().queue_declare(queue, passive=True)
        except Exception:  # noqa: BLE001 - then it is looked again
            self.close()
            return False
        return True

    def close(self) -> None:
        """
        Give the connection back.
        """
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except Exception:  # noqa: BLE001 - it is broken, and none of ours any more
                return

    def _ready(self) -> Any:
        if self._channel is None:
            self._connection = self._app.connection_for_read(heartbeat=0, transport_options={"confirm_publish": True})
            self._channel = self._connection.channel()
            self._channel.events["basic_return"].add(self._came_back)
        return self._channel

    def _came_back(self, *_: Any) -> None:
        # The broker returns a message before it confirms it, and there is never more than one under way.
        self._returned = True


def _copy(raw: Raw, epoch: int) -> Any:
    properties = dict(raw.properties)
    properties["application_headers"] = copy_headers(
        raw.headers,
        epoch=epoch,
        exchange=raw.exchange,
        amqp_routing_key=raw.amqp_routing_key,
        user_id=properties.pop("user_id", None),
        message_id=properties.get("message_id"),
    )
    properties["message_id"] = uuid.uuid4().hex
    body, compression = raw.body, raw.headers.get("compression")
    if compression:  # kombu has undone it, and its header says that it is still there
        body, _ = compress(body, compression)  # type: ignore[no-untyped-call]
    return Message(body, **properties)


def restore(message: Any, raw: Raw) -> None:
    """
    Make a received message look as it did before it was forwarded.

    Args:
        message: A ``kombu.Message`` that nobody has seen yet.
        raw: What it was when it was received.
    """
    original = original_of(
        raw.headers,
        exchange=raw.exchange,
        amqp_routing_key=raw.amqp_routing_key,
        user_id=raw.properties.get("user_id"),
        message_id=raw.properties.get("message_id"),
    )
    message.headers = original.headers
    message.delivery_info = {
        **message.delivery_info,
        "exchange": original.exchange,
        "routing_key": original.amqp_routing_key,
    }
    properties = {name: value for name, value in raw.properties.items() if name not in ("user_id", "message_id")}
    aside = {"user_id": original.user_id, "message_id": original.message_id}
    message.properties = {**properties, **{name: value for name, value in aside.items() if value is not None}}
