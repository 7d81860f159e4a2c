"""
Celery: a task has the routing key of the work that sent it, and a worker begins only the tasks that are this process's.

The key travels in the headers of the task's message, through retries, times to come, chains, groups and chords. On RabbitMQ the baseline's
workers send on what a sandbox forks, and a sandbox's workers consume the queues that ``tenancy sandbox create`` made for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakSet

from .._optional import extra
from ..config import Accept, switched_on
from ..context import attached, with_key
from ..errors import ConfigurationError
from ..propagator import extract
from ..propagator import inject as written
from ..routes import LiveRoutes
from .rabbitmq.celery_selection import Options, Selection

with extra("celery", "celery"):
    from celery import Celery, bootsteps, signals

__all__ = ["setup"]

_CARRIED = "__tenancy_carried__"

_set_up: WeakSet[Celery] = WeakSet()


def setup(
    app: Celery,
    *,
    workload: str | None = None,
    select: bool = True,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    hold: int = 200,
    malformed: Literal["ignore", "dead-letter"] = "ignore",
) -> None:
    """
    Have an application's tasks carry the routing key, and its workers begin only the tasks that are theirs. Call it where the application is
    made, so that those who send tasks, workers and the children of their pools all do.

    A process that only sends tasks needs to know nothing of itself. A worker needs to know who it is, and a route store. Where tenancy is
    switched off this does nothing.

    Args:
        app: The application.
        workload: The workload that its workers are, ``namespace/name``; default the setting.
        select: Whether workers begin only what is theirs, which takes RabbitMQ and a pool of the kind ``prefork``, ``threads`` or ``solo``;
            False: the key is carried, on any broker, and a worker begins all that is in its queues.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        hold: How many task messages may be kept, unacknowledged, beside those that Celery prefetches, while it cannot be said whose they
            are.
        malformed: What the owner does with a task whose key is malformed: ``ignore``, begin it without a key; ``dead-letter``, reject it.

    Raises:
        ConfigurationError: If an argument cannot be used, or the application was set up before. A worker raises it at its start if the
            broker, the pool or a queue is of a kind that cannot be handed over, or if there is no route store.
        IdentityError: If tenancy is switched off in a sandbox. A worker raises it at its start if it is not said who it is.
    """
    if malformed not in ("ignore", "dead-letter"):
        raise ConfigurationError(f"malformed is {malformed!r}; use 'ignore' or 'dead-letter'")
    if hold < 1:
        raise ConfigurationError(f"hold is {hold}; give 1 or more")
    if not switched_on():
        return
    if app in _set_up:
        raise ConfigurationError(f"{app.main or 'the application'} was set up before; call setup() once, where it is made")
    _set_up.add(app)
    signals.before_task_publish.connect(_carry_out, weak=False, dispatch_uid="tenancy")
    signals.worker_process_init.connect(_in_children(app), weak=False, dispatch_uid=f"tenancy:{id(app)}")
    app.steps["consumer"].add(_Carrying)
    if select:
        options = Options(workload, accept, routes, hold, malformed)
        app.steps["consumer"].add(type("Selecting", (_Selecting,), {"options": options}))


def _carry_out(headers: dict[str, Any] | None = None, properties: dict[str, Any] | None = None, **_: Any) -> None:
    """
    Write the key into the headers of a message that is about to be sent; both are Celery's own, made for this message.
    """
    if headers is not None:
        carrying = written(headers, binary=False)
        headers.clear()
        headers.update(carrying)
    if properties is not None and not properties.get("message_id"):
        # Not the task's id, which its retries have as well.
        properties["message_id"] = uuid.uuid4().hex


def _in_children(app: Celery) -> Callable[..., None]:
    def start(**_: Any) -> None:
        _carry_in(app)

    return start


def _carry_in(app: Celery) -> None:
    """
    Have each task run with the key of its message current, and with it what Celery does before and after: retries, callbacks, chains, chords.

    Signals would not do: what several of their receivers make current is not put back in the opposite order.
    """
    for task in app.tasks.values():
        if task.__trace__ is not None and not hasattr(task.__trace__, _CARRIED):
            task.__trace__ = _with_key(task.__trace__)


def _with_key(trace: Callable[..., Any]) -> Callable[..., Any]:
    def run(task_id: Any, args: Any, kwargs: Any, request: Any = None, *more: Any, **options: Any) -> Any:
        with attached(with_key(extract(request, adapter="celery"))):
            return trace(task_id, args, kwargs, request, *more, **options)

    setattr(run, _CARRIED, True)
    return run


class _Carrying(bootsteps.StartStopStep):  # type: ignore[misc]
    """
    Tasks that run in the worker's own process have the key of their message.
    """

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        original = c.update_strategies

        def update_strategies() -> None:
            original()
            _carry_in(c.app)

        c.update_strategies = update_strategies


class _Selecting(bootsteps.StartStopStep):  # type: ignore[misc]
    """
    A worker gets only the tasks that are its own.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    options = Options()

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        selection = self._selection = Selection(c, self.options)
        create_task_handler, add_task_queue, cancel_task_queue = c.create_task_handler, c.add_task_queue, c.cancel_task_queue

        def create(*args: Any, **options: Any) -> Callable[[Any], None]:
            handle = create_task_handler(*args, **options)
            return lambda message: selection.received(message, handle)

        def add(queue: Any, *args: Any, **options: Any) -> None:
            selection.add_task_queue(add_task_queue, queue, *args, **options)

        def cancel(queue: str) -> None:
            selection.cancel_task_queue(cancel_task_queue, queue)

        def requested(request: Any = None, **_: Any) -> None:
            selection.requested(request)

        c.create_task_handler, c.add_task_queue, c.cancel_task_queue = create, add, cancel
        signals.task_received.connect(requested, sender=c, weak=False)

    def start(self, c: Any) -> None:  # noqa: ARG002 - as Celery calls it
        self._selection.begin()

    def stop(self, c: Any) -> None:  # noqa: ARG002 - as Celery calls it
        self._selection.end()

    def terminate(self, c: Any) -> None:  # noqa: ARG002 - as Celery calls it
        self._selection.end()

    def shutdown(self, c: Any) -> None:  # noqa: ARG002 - as Celery calls it
        self._selection.close()
