"""
What a Celery worker does with each task message: it hands it to Celery, sends it on, or keeps it until it can be said whose it is.

All of it runs in the worker's event loop, except for what may block (`celery_forward`). A task is decided on when its message comes, and once
more when it is begun: between the two it may have waited for its time, for a rate limit, or for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..._optional import extra
from ...config import Accept
from ...context import attached
from ...errors import ConfigurationError
from ...observe import warn_once
from ...propagator import inject
from ...routes import Action, LiveRoutes, Route
from .celery_begin import Beginnings, write_key
from .celery_forward import Errands, Forwarder, Loop, restore
from .celery_source import Delivered, Source, check_worker, declared_of
from .choice import Choice, Choices, Life
from .copies import is_copy
from .outcome import Outcome

with extra("celery", "celery"):
    from celery.worker import state
    from kombu.entity import Queue

__all__ = ["Options", "Selection"]

# How often it is looked whether a message that is kept can be decided on, and whether a sandbox has another queue.
_LOOK_EVERY = 0.1
# What could not be sent on is tried again after so many seconds, and as often what was decided is counted.
_AGAIN = 1.0
# How long a worker that ends waits for the broker to confirm what is being sent on.
_END = 5.0


class Options(NamedTuple):
    """
    What `tenancy.messaging.celery.setup` was told.
    """

    workload: str | None = None
    accept: Accept | None = None
    routes: LiveRoutes | None = None
    hold: int = 200
    malformed: str = "ignore"


class Selection:
    """
    Which task messages are this worker's.

    Args:
        consumer: The worker's ``celery.worker.consumer.Consumer``.
        options: What it was told.

    Raises:
        IdentityError: If it is not said who this process is, or the route table does not know it.
        ConfigurationError: If there is no route store, or the broker, the pool or a queue is of a kind that cannot be handed over.
        RoutesNotSyncedError: If the route table could not be read before the deadline of the settings.
    """

    def __init__(self, consumer: Any, options: Options) -> None:
        check_worker(consumer)
        self._c = consumer
        self._options = options
        self._choices: dict[str, Choices] = {}
        self._declared: dict[str, Mapping[str, Any]] = {}
        # All queues that this worker has to do with, and those that it consumes: by their name on the broker.
        self._known: dict[str, Source] = {}
        self._sources: dict[str, Source] = {}
        self._by_tag: dict[str, Source] = {}
        self._lives: dict[Life, Source] = {}
        self._leaving: list[Source] = []
        self._kept: dict[int, Delivered] = {}
        self._loop = Loop(consumer.hub)
        self._beginnings = Beginnings(self._loop, self._decide)
        self._broker = Errands("tenancy-celery-forward", self._loop)
        self._store = Errands("tenancy-celery-register", self._loop)
        self._forwarder = Forwarder(consumer.app, "celery")
        self._ticking: Any = None
        self._counted = 0.0
        self._connection: Any = None
        queues = consumer.app.amqp.queues
        consumed = list(queues.consume_from.values())
        for queue in consumed:
            self._know(queue)
        if not self._choices:
            raise ConfigurationError("the worker consumes no queue; give it one by -Q or task_queues")
        self._baseline = next(iter(self._choices.values())).baseline
        if not self._baseline:  # it neither reads nor declares the baseline's
            queues.deselect([queue.name for queue in consumed])

    def _know(self, queue: Any) -> Choices:
        self._declared[queue.name] = declared_of(queue)
        options = self._options
        choices = Choices("celery", queue.name, workload=options.workload, accept=options.accept, routes=options.routes)
        choices.wait_synced()
        self._choices[queue.name] = choices
        return choices

    # With each connection

    def begin(self) -> None:
        """
        Begin with a connection to the broker, before anything is consumed.
        """
        c = self._c
        self._connection = c.connection
        if self._baseline:
            for name in self._choices:
                self._open(name)
        self._loop.attach()
        self._ticking = c.timer.call_repeatedly(_LOOK_EVERY, self._tick)

    def end(self) -> None:
        """
        End with a connection; what is in nobody's hands then, the broker takes back.
        """
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        until = time.monotonic() + _END
        if self._connection is not None and self._connection.connected:
            while any(d.due == 0 for source in self._known.values() for d in source.deciding.values()) and time.monotonic() < until:
                self._loop.drain()
                time.sleep(0.01)
        self._connection = None
        for choices in self._choices.values():
            choices.report()
        for source in self._known.values():
            source.leaving = True
            for delivered in (*source.deciding.values(), *source.unbegun.values()):
                delivered.given_back = True
                self._release(delivered)
            source.unbegun.clear()
            if source.life is not None and source not in self._leaving:  # unless it is taken up again
                self._leaving.append(source)
        self._sources.clear()
        self._by_tag.clear()
        self._lives.clear()
        self._beginnings.forget()

    def close(self) -> None:
        """
        Be known no more; the worker ends.
        """
        for source in self._known.values():
            self._store.run(source.unregister)
        self._broker.run(self._forwarder.close)
        self._broker.close()
        self._store.close()

    def add_task_queue(
        self, original: Callable[..., Any], queue: str, exchange: Any = None, kind: Any = None, key: Any = None, **options: Any
    ) -> None:
        """
        Consume one more queue, as remote control may tell a worker to; a sandbox consumes its own in its place.
        """
        queues = self._c.app.amqp.queues
        if queue not in self._choices:
            if queue not in queues:
                queues.add(queue, exchange=exchange or queue, exchange_type=kind or "direct", routing_key=key, **options)
            self._know(queues[queue])
            if self._baseline:
                self._open(queue)
        if self._baseline:
            original(queue, exchange, kind, key, **options)

    def cancel_task_queue(self, original: Callable[..., Any], queue: str) -> None:
        """
        Consume a queue no more.
        """
        self._choices.pop(queue, None)
        source = self._sources.get(queue)
        if source is not None:
            self._leave(source)
        if self._baseline:
            original(queue)

    def _open(self, name: str) -> None:
        source = self._sources[name] = self._source_of(self._choices[name], name, None, self._declared[name])
        source.mark(self._connection)
        source.register()

    def _source_of(self, choices: Choices, queue: str, life: Life | None, declared: Mapping[str, Any] | None = None) -> Source:
        source = self._known.get(queue)
        if source is None:
            source = self._known[queue] = Source(choices, queue, life, declared)
        source.leaving = False
        if source in self._leaving:
            self._leaving.remove(source)
        return source

    # Each message

    def requested(self, request: Any) -> None:
        """
        Take note of the request that Celery has made of a message.
        """
        self._beginnings.requested(request)

    def received(self, message: Any, handle: Callable[[Any], Any]) -> None:
        """
        Decide on a message that was delivered.

        Args:
            message: The ``kombu.Message``.
            handle: What Celery does with a message.
        """
        source = self._from(message)
        if source is None:  # its queue was just left
            self._answer(message.requeue)
            return
        delivered = Delivered(message, source, handle)
        source.deciding[id(delivered)] = delivered
        self._decide(delivered)

    def _from(self, message: Any) -> Source | None:
        tag = message.delivery_info.get("consumer_tag")
        source = self._by_tag.get(tag)
        if source is None:
            for name, known in self._c.task_consumer._active_tags.items():
                if known == tag and name in self._sources:
                    source = self._by_tag[tag] = self._sources[name]
        return source

    def _decide(self, delivered: Delivered) -> None:
        source = delivered.source
        if source.leaving:
            self._give_back(delivered)
            return
        try:
            raw = delivered.raw
            choice = source.choices.choose(raw.headers, epoch=source.epoch, returned=delivered.returned, exchange=raw.exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost by it
            warn_once(
                f"undecided:{type(error).__qualname__}",
                "celery: whose a message of %s is could not be decided: %r. It is kept until that is mended. Further ones are not logged.",
                source.queue,
                error,
            )
            self._keep(delivered, _AGAIN)
            return
        if choice.action is Action.OWN:
            self._own(delivered, choice)
        elif choice.action is Action.FORWARD:
            self._forward(delivered, choice.route)
        elif choice.action is Action.SKIP:
            self._settle(delivered, delivered.message.ack)
        else:
            self._keep(delivered, _LOOK_EVERY)

    def _own(self, delivered: Delivered, choice: Choice) -> None:
        message, source = delivered.message, delivered.source
        self._release(delivered)
        if choice.malformed and self._options.malformed == "dead-letter":
            self._settle(delivered, message.reject)
            return
        delivered.choice = choice
        if delivered.request is not None:  # it has waited, and is begun now
            source.unbegun[id(delivered)] = delivered
            write_key(delivered.request.request_dict, choice.key)
            state.task_reserved(delivered.request)
            self._c.on_task_request(delivered.request)
            return
        if is_copy(delivered.raw.headers):
            restore(message, delivered.raw)
        # What the pool is given says what was decided here, where the route table is.
        message.headers = inject(message.headers, key=choice.key, binary=False)
        with attached(source.choices.context(choice)), self._beginnings.given(delivered):
            delivered.handle(message)

    def _forward(self, delivered: Delivered, route: Route | None) -> None:
        source = delivered.source
        delivered.due = 0.0
        exchange, epoch = ("", 0) if route is None else (source.choices.names(route).exchange, route.generation)
        forward = partial(self._forwarder.forward, delivered.raw, queue=source.choices.queue, exchange=exchange, epoch=epoch)
        self._broker.run(forward, partial(self._forwarded, delivered, route))

    def _forwarded(self, delivered: Delivered, route: Route | None, outcome: Outcome) -> None:
        if id(delivered) not in delivered.source.deciding:  # its connection was lost meanwhile
            return
        if outcome is Outcome.SENT:
            self._settle(delivered, delivered.message.ack)
        elif outcome is Outcome.RETURNED and route is not None:
            delivered.returned = route.generation
            self._decide(delivered)
        else:
            self._keep(delivered, _AGAIN)

    # What is kept

    def _keep(self, delivered: Delivered, seconds: float) -> None:
        # It is not given back to come again: what is given back stands at the head of the queue, in the way of all others, and a quorum
        # queue counts how often it came.
        choices = delivered.source.choices
        delivered.due = time.monotonic() + seconds
        self._kept[id(delivered)] = delivered
        if delivered.held:
            return
        delivered.held = True
        if choices.held()[0] < self._options.hold:  # it must not be in the way of others
            before = self._c.qos.value
            self._c.qos.increment_eventually()
            delivered.widened = self._c.qos.value != before
        choices.hold(delivered)

    def _release(self, delivered: Delivered) -> None:
        delivered.source.deciding.pop(id(delivered), None)
        self._kept.pop(id(delivered), None)
        if delivered.held:
            delivered.held = False
            delivered.source.choices.unhold(delivered)
        if delivered.widened:
            delivered.widened = False
            self._c.qos.decrement_eventually()

    def _settle(self, delivered: Delivered, answer: Callable[[], Any]) -> None:
        self._release(delivered)
        self._answer(answer)

    def _give_back(self, delivered: Delivered) -> None:
        delivered.given_back = True
        self._settle(delivered, delivered.message.requeue)

    def _answer(self, answer: Callable[[], Any]) -> None:
        try:
            answer()
        except (*self._c.connection_errors, *self._c.channel_errors):
            return  # the broker has it back

    # Now and then

    def _tick(self) -> None:
        if self._connection is None:
            return
        self._loop.drain()
        now = time.monotonic()
        for delivered in [kept for kept in self._kept.values() if kept.due <= now]:
            self._kept.pop(id(delivered), None)
            self._decide(delivered)
        if not self._baseline:
            self._follow()
        if now > self._counted + _AGAIN:
            self._counted = now
            for choices in self._choices.values():
                choices.report()
        for source in self._sources.values():
            source.keep_registered(self._store)
        for source in [source for source in self._leaving if not source.busy]:
            self._leaving.remove(source)
            self._known.pop(source.queue, None)
            self._store.run(source.unregister)
            source.unmark()

    def _follow(self) -> None:
        """
        Consume the queues that the table has for this sandbox, and no others.
        """
        lives = {life: choices for choices in self._choices.values() for life in choices.lives()}
        for life in [life for life in self._lives if life not in lives]:
            self._leave(self._lives.pop(life))
        for life, choices in lives.items():
            if life not in self._lives:
                source = self._lives[life] = self._source_of(choices, life.names.queue, life)
                source.mark(self._connection)
                self._store.run(source.register)
                self._look_for(source)

    def _look_for(self, source: Source) -> None:
        self._broker.run(partial(self._forwarder.there, source.queue), partial(self._take_up, source, self._connection))

    def _take_up(self, source: Source, connection: Any, there: bool) -> None:
        if source.leaving or connection is None or self._connection is not connection:
            return
        if not there:
            self._c.timer.call_after(_AGAIN, self._look_for, (source,))
            return
        self._sources[source.queue] = source
        consumer = self._c.task_consumer
        consumer.add_queue(Queue(source.queue, no_declare=True))  # type: ignore[no-untyped-call]
        consumer.consume()

    def _leave(self, source: Source) -> None:
        source.leaving = True
        self._leaving.append(source)
        if self._sources.pop(source.queue, None) is not None and not self._baseline:
            self._c.task_consumer.cancel_by_queue(source.queue)
        for delivered in [waiting for waiting in source.deciding.values() if waiting.due]:
            self._give_back(delivered)
        unbegun, source.unbegun = source.unbegun, {}
        for delivered in unbegun.values():
            entry = getattr(delivered.request, "_eta_timer_entry", None)
            if entry is not None and not entry.canceled and delivered.request not in state.reserved_requests:
                entry.cancel()
                self._c.qos.decrement_eventually()
            state.task_ready(delivered.request)
            self._give_back(delivered)
