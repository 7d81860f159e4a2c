"""
What all consumers share: which messages are this process's, decided from the message alone. No client library is imported here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from typing import Any, NamedTuple

from opentelemetry.context import Context

from ..config import Accept, switched_on
from ..context import with_key
from ..errors import ConfigurationError
from ..key import RoutingKey
from ..naming import PartitionKind, partition_name
from ..observe import warn_once
from ..propagator import current_codec
from ..routes import Action, LiveRoutes, Verdict, decide, resolve_identity
from ..routes.admission import Admission
from ..routes.judge import Judge

__all__ = ["Decision", "Gate", "checked", "disguised", "find_message", "gate_of", "own_name"]

_GATE = "__tenancy_gate__"


class Decision(NamedTuple):
    """
    What becomes of one message.

    Args:
        verdict: Whose it is, and why.
        malformed: Whether something stood in it where a key should be that cannot be one.
    """

    verdict: Verdict
    malformed: bool = False

    @property
    def owned(self) -> bool:
        """
        Whether the message is this process's.
        """
        return self.verdict.owned

    @property
    def context(self) -> Context:
        """
        The OpenTelemetry context in which the message is handled: the current one, with the message's key or, on purpose, with none.
        """
        return with_key(self.verdict.key)


class Gate:
    """
    Decides on messages by the live route table.

    Args:
        adapter: Who asks, for counters and logs, such as ``aio_pika``.
        workload: This process's workload; default the setting.
        accept: Which keys are accepted; default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        instead: What to use where the table says from which message on a route holds, which nobody can tell here; empty: nothing does.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source.
    """

    def __init__(
        self,
        adapter: str,
        *,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        instead: str = "",
    ) -> None:
        self._instead = instead
        self._judge = Judge(adapter, workload=workload, routes=routes)
        self._admission = Admission(adapter, accept=accept, routes=self._judge.routes)
        self._open = False
        self._opening: asyncio.Task[None] | None = None

    @property
    def sandbox(self) -> str | None:
        """
        The sandbox that this process belongs to; None: it is the baseline.
        """
        return self._judge.identity.sandbox

    def waits(self, headers: Any) -> bool:
        """
        Return whether a message has to wait for the route table. Without a key it never has to.
        """
        return not self._open and current_codec().read(headers).key is not None

    def wait_synced(self) -> None:
        """
        Wait for the route table, once, and make sure that it knows this workload.

        Raises:
            RoutesNotSyncedError: If the deadline of the settings passed.
            IdentityError: If the table does not know this workload.
            ConfigurationError: If the table asks for more than can be kept to here.
        """
        if not self._open:
            self._judge.wait_synced()
            self._opened()

    async def synced(self) -> None:
        """
        Like `wait_synced`, without blocking the event loop; however many messages wait, they wait together.
        """
        if self._open:
            return
        loop, opening = asyncio.get_running_loop(), self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._judge.synced())
            # Whoever waits may be cancelled meanwhile; then nobody is left to be told of a failure.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(opening)
        self._opened()

    def key(self, headers: Any) -> RoutingKey | None:
        """
        Return the key of a message that is known to be this process's.

        Raises:
            RoutesNotSyncedError: If the message has a key and the table was never read.
        """
        return self._admission.admit(headers).key

    def decide(self, headers: Any, *, only_copy: bool = False) -> Decision:
        """
        Decide on a message; the verdict is counted.

        Args:
            headers: The message's headers, in any shape.
            only_copy: Whether the message is known to have come to this process alone. The baseline then takes what it would leave to
                a sandbox, since there it would never arrive.

        Raises:
            RoutesNotSyncedError: If the message has a key and the table was never read.
        """
        admitted = self._admission.admit(headers)
        key = admitted.key
        verdict = decide(key, self._judge.identity, None if key is None else self._judge.routes.table)
        if only_copy and not verdict.owned and self.sandbox is None:
            verdict = verdict._replace(
                action=Action.OWN, code="only_copy", reason=f"{verdict.reason}; but no other process got it, so it is handled here"
            )
        self._judge.record(verdict)
        return Decision(verdict, admitted.outcome == "malformed")

    def _opened(self) -> None:
        if self._instead and self._judge.routes.table.lease is not None:
            raise ConfigurationError(
                f"{self._judge.routes.source.name} says from which record on a key is a sandbox's, and a decorated handler cannot keep to "
                f"that: what it skips or handles at the wrong moment would have two owners or none. Use {self._instead}"
            )
        self._open = True
        warn_once(
            f"messaging:hand-over:{self._judge.adapter}",
            "%s: %s consumes as told by %s. Such a table does not say from which message on a route holds: while one is added or "
            "removed, a message with its key may be handled twice or not at all. See 'Hand-over' in docs/guarantees.md.",
            self._judge.adapter,
            self._judge.identity,
            self._judge.routes.source.name,
            level=logging.INFO,
        )


def own_name(base: str, kind: PartitionKind, workload: str | None) -> str:
    """
    Return what this process calls its own version of *base*: the baseline *base* itself, a sandbox its `partition_name`.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If *base* is empty.
    """
    if not base:
        raise ConfigurationError(f"base is {base!r}; give the name that the baseline uses")
    if not switched_on():
        return base
    sandbox = resolve_identity(workload).sandbox
    return base if sandbox is None else partition_name(sandbox, base, kind=kind)


def checked(function: Any) -> Any:
    """
    Return what runs when *function* is called, having made sure that it can be a handler.

    Raises:
        ConfigurationError: If it cannot be called, or is a generator, whose body would run after the message was decided on and outside
            of its key.
    """
    inner = _innermost(function)
    if not callable(inner):
        raise ConfigurationError(
            f"{function!r} cannot be a message handler; decorate a function: @consumer or @consumer('shop/orders')"
        )
    call = inner if inspect.isroutine(inner) else type(inner).__call__
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigurationError(
            f"{function!r} is a generator and cannot be a message handler; return a value instead of yielding it"
        )
    return call


def disguised(wrapper: Any, function: Any, gate: Gate) -> Any:
    """
    Return *wrapper* with the name, the documentation and the signature of *function*, which may be a partial or a callable object.
    """
    inner = _innermost(function)
    functools.update_wrapper(wrapper, inner, updated=("__dict__",) if inspect.isroutine(inner) else ())
    if not inspect.isroutine(inner):
        wrapper.__name__ = wrapper.__qualname__ = type(inner).__name__
    wrapper.__wrapped__ = function
    setattr(wrapper, _GATE, gate)
    return wrapper


def gate_of(handler: Any) -> Gate | None:
    """
    Return the gate of a decorated handler, or None where tenancy is switched off.

    Raises:
        ConfigurationError: If *handler* was not decorated.
    """
    gate = getattr(_innermost(handler), _GATE, None)
    if isinstance(gate, Gate):
        return gate
    if not switched_on():
        return None
    raise ConfigurationError(f"{handler!r} is not a decorated message handler; give what @consumer returned")


def find_message(args: tuple[Any, ...], kwargs: dict[str, Any], kind: type, looks: tuple[str, str]) -> Any:
    """
    Return the message among a handler's arguments: the first that is one, so that ``self`` may come before it; or None where the client
    had none.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        kind: The client's class of messages.
        looks: Attributes that also make an argument a message, such as a stand-in in a test.

    Raises:
        TypeError: If there is neither a message nor None.
    """
    for argument in args:
        if isinstance(argument, kind):
            return argument
    arguments: tuple[Any, ...] = (*args, *kwargs.values())
    for argument in arguments:
        if isinstance(argument, kind):
            return argument
    for argument in arguments:
        if all(hasattr(argument, name) for name in looks):
            return argument
    if any(argument is None for argument in arguments):
        return None
    given = ", ".join(type(argument).__name__ for argument in arguments) or "nothing"
    raise TypeError(f"a message handler was called without a message: got {given}, and no {kind.__name__}")


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function
