"""
Defects that are put into a process on purpose: each leaves out one thing that the protocol says, and the checker must see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tenancy.messaging.rabbitmq import choice, names
from tenancy.messaging.rabbitmq.aio_forward import Forwarder
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.messaging.rabbitmq.outcome import Outcome
from tenancy.routes import State
from tenancy.routes.lease import View
from tenancy.sandbox import Controller
from tenancy.sandbox.queues import Queues

from .spec import Spec

__all__ = ["MUTANTS", "install"]

_publishing: set[Any] = set()


def _acknowledges_first(_: Spec) -> None:
    forward = Forwarder.forward

    async def later(self: Any, message: Any, route: Any) -> None:
        await asyncio.sleep(0.2)  # what a busy process or broker takes
        await forward(self, message, route)

    async def forwarding(self: Any, message: Any, route: Any) -> Outcome:
        task = asyncio.create_task(later(self, message, route))
        _publishing.add(task)
        task.add_done_callback(_publishing.discard)
        return Outcome.SENT

    Forwarder.forward = forwarding  # type: ignore[method-assign]


def _no_way_back(_: Spec) -> None:
    from aio_pika import RobustChannel
    from aio_pika.channel import Channel

    forward = Forwarder.forward

    async def forwarding(self: Any, message: Any, route: Any) -> Outcome:
        outcome = await forward(self, message, route)
        return Outcome.SENT if outcome is Outcome.RETURNED else outcome

    for kind in (Channel, RobustChannel):
        declare = kind.declare_exchange

        async def declaring(self: Any, *args: Any, declare: Any = declare, **options: Any) -> Any:
            return await declare(self, *args, **{**options, "arguments": None})

        kind.declare_exchange = declaring  # type: ignore[method-assign]
    Forwarder.forward = forwarding  # type: ignore[method-assign]


def _stays_bound(_: Spec) -> None:
    RabbitBroker.close_in = lambda self, names, **options: None  # type: ignore[method-assign]


def _no_lease_in(state: State) -> Callable[[Spec], None]:
    def install(_: Spec) -> None:
        wait = Controller._wait_settled

        def waiting(self: Any, row: Any, end: float) -> None:
            if row.state is not state:
                wait(self, row, end)

        Controller._wait_settled = waiting  # type: ignore[method-assign]

    return install


def _counts_what_is_ready(_: Spec) -> None:
    def draining(self: Any, row: Any, base: str, names: Any) -> str:
        if not self._rabbit.lock(names):
            return "another one"
        self._rabbit.move(base, names, "baseline")
        state = self._rabbit.state(names.queue)
        if state is not None and state.ready:
            return "more"
        self._rabbit.remove(names)
        return ""

    Queues._drain = draining  # type: ignore[method-assign]


def _same_names(_: Spec) -> None:
    named = names.names_of

    def naming(base: str, key: Any, epoch: int) -> Any:
        return named(base, key, 1)

    names.names_of = choice.names_of = naming


def _no_mark(_: Spec) -> None:
    choose = choice.Choices.choose

    def choosing(self: Any, headers: Any, **given: Any) -> Any:
        return choose(self, headers, **{**given, "returned": 0})

    choice.returned_epoch = lambda headers: 0
    choice.Choices.choose = choosing  # type: ignore[method-assign]


def _no_lease(_: Spec) -> None:
    View.fresh = lambda self: True  # type: ignore[method-assign]


#: Name -> what it does to a process.
MUTANTS: dict[str, Callable[[Spec], None]] = {
    "R1": _acknowledges_first,
    "R2": _no_way_back,
    "R3": _stays_bound,
    "R4": _no_lease_in(State.DELETING),
    "R7": _counts_what_is_ready,
    "R9": _same_names,
    "R10": _no_lease_in(State.CREATING),
    "R11": _no_mark,
    "R14": _no_lease,
}


def install(spec: Spec) -> None:
    """
    Put a process's defect into it, if it is to have one.
    """
    if spec.mutant:
        MUTANTS[spec.mutant](spec)
