"""
Which messages of a queue are this process's, and where the others go; for every client of RabbitMQ. It knows no client and does no I/O.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from opentelemetry.context import Context, get_current
from opentelemetry.trace import INVALID_SPAN, get_current_span

from ...baggage import ABSENT
from ...config import Accept
from ...context import with_key
from ...errors import ConfigurationError
from ...key import RoutingKey
from ...observe import annotate_span, count, key_label, report_malformed, watch_held
from ...propagator import current_codec, read
from ...routes import Action, Identity, LiveRoutes, Route, RouteSource, RouteTable, Verdict, decide
from ...routes.admission import Admission
from ...routes.delivery import Delivery, decide_delivery
from ...routes.judge import Judge
from .copies import returned_epoch, was_forwarded
from .names import Names, names_of

__all__ = ["Choice", "Choices", "EveryChoice", "Life"]

# A verdict, its reason's code, and the key's label, by which it is counted.
_Counted = tuple[str, str, str]
# For so many keys what was decided is kept in mind: more than anybody forks at a time.
_MOST_DECIDED = 1024


class Life(NamedTuple):
    """
    A queue that a sandbox reads.

    Args:
        key: The routing key whose messages are in it.
        epoch: The life of that key.
        names: What it is called.
    """

    key: RoutingKey
    epoch: int
    names: Names


class Choice(NamedTuple):
    """
    What becomes of one message.

    Args:
        verdict: Whose it is, and why.
        key: The key under which it is handled.
        malformed: Whether something stood in it where a key should be that cannot be one.
        table: The table by which that was decided.
    """

    verdict: Verdict
    key: RoutingKey | None = None
    malformed: bool = False
    table: RouteTable | None = None

    @property
    def action(self) -> Action:
        """
        What to do with it.
        """
        return self.verdict.action

    @property
    def route(self) -> Route | None:
        """
        Where it is forwarded; None: to the baseline's queue.
        """
        return self.verdict.route


class Choices:
    """
    Decides on the messages of one queue of the baseline, or of a sandbox's in its place.

    Args:
        adapter: Who asks, for counters and logs, such as ``aio_pika``.
        queue: The baseline's queue.
        workload: This process's workload; default the setting.
        accept: Which keys are accepted; default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source.
    """

    def __init__(
        self,
        adapter: str,
        queue: str,
        *,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
    ) -> None:
        if not queue:
            raise ConfigurationError(f"the queue is {queue!r}; give the name that the baseline uses")
        self.adapter = adapter
        self.queue = queue
        self._judge = Judge(adapter, workload=workload, routes=routes)
        self._routes = self._judge.routes
        self._accept = Admission(adapter, accept=accept, routes=self._routes).accept
        # When each message that is kept was met, so that the first is known.
        self._held: dict[int, float] = {}
        #: Whether this process is the baseline.
        self.baseline = self._judge.identity.sandbox is None
        self._read = current_codec().read
        self._unkeyed = 0
        self._counted: Counter[_Counted] = Counter()
        # What was decided by a table for a key in a life, where nothing else is asked: it stands as long as the table is fresh.
        self._decided: tuple[RouteTable | None, dict[tuple[RoutingKey | None, int], tuple[Choice, _Counted]]] = None, {}
        self._ambient: Context | None = None
        self._cleared: Context | None = None
        self._traced = True
        watch_held(self)

    @property
    def identity(self) -> Identity:
        """
        Who this process is.
        """
        return self._judge.identity

    @property
    def source(self) -> RouteSource:
        """
        Where the route table comes from.
        """
        return self._routes.source

    def table(self) -> RouteTable | None:
        """
        Return the route table as it was last read.
        """
        return self._routes.peek()

    async def synced(self) -> None:
        """
        Wait for the route table, and make sure that it knows this workload and says in which life a key is.

        Raises:
            RoutesNotSyncedError: If the deadline of the settings passed.
            IdentityError: If the table does not know this workload.
            ConfigurationError: If the table is of a kind that says nothing of lives.
        """
        await self._judge.synced()
        self._check()

    def wait_synced(self) -> None:
        """
        Like `synced`, for a thread.
        """
        self._judge.wait_synced()
        self._check()

    def _check(self) -> None:
        table = self._routes.table
        if table.lease is None:
            raise ConfigurationError(
                f"{self.source.name} does not say when a key's messages are forwarded to a sandbox, so {self.queue} cannot be read by it; "
                "use a route store (TENANCY_ROUTES: sqlite, postgresql or redis), or @consumer and a queue for each sandbox"
            )

    # What becomes of a message

    def choose(
        self, headers: Mapping[str, Any] | None, *, epoch: int = 0, returned: int = 0, exchange: str | None = None
    ) -> Choice:
        """
        Decide on a message that was delivered; the verdict is counted, with the next `report`, unless it is to be kept.

        Args:
            headers: Its headers, as they came.
            epoch: The life of the key whose queue it was taken from; 0: the baseline's queue.
            returned: The life for which it has just been forwarded in vain; 0: what its headers say.
            exchange: What its delivery says; None: it is not known.
        """
        given = {} if headers is None else headers
        reading = self._read(given)
        if reading is ABSENT and not epoch and self.baseline:  # most messages: whatever the table says, they are the baseline's
            self._unkeyed += 1
            return self._annotated(_UNKEYED)
        key = reading.key
        if reading.conflict:
            count("tenancy.keys.conflicting", {"adapter": self.adapter})
        if reading.malformed is not None:
            report_malformed(self.adapter, reading.malformed, "the message counts as one without a routing key")
            key = None
        view = self._routes.view()
        table = None if view is None else view.table
        fresh = view is not None and view.fresh()
        # What it takes to be sure without asking again: a table that has not changed, and nothing of this message's own.
        usual = (
            fresh and reading.malformed is None and not returned and not was_forwarded(given) and self._accept in ("all", "known")
        )
        decided = self._decided
        if decided[0] is not table:
            decided = self._decided = table, {}
        if usual and (known := decided[1].get((key, epoch))) is not None:
            choice, counted = known
        else:
            delivery = Delivery(self.queue, epoch, 0)
            key = self._accepted(key)
            if key is not None and not epoch:
                delivery = delivery._replace(returned=returned or self._came_back(key, given, exchange))
            verdict = decide_delivery(key, delivery, self._judge.identity, table, fresh=fresh)
            choice = Choice(verdict, self._context_key(verdict.key), reading.malformed is not None, table)
            if verdict.held:
                self._routes.hurry()
                return choice
            counted = self._as_counted(verdict, table)
            if usual and len(decided[1]) < _MOST_DECIDED:
                decided[1][key, epoch] = choice, counted
        self._counted[counted] += 1
        return self._annotated(choice)

    def context(self, choice: Choice) -> Context:
        """
        Return the OpenTelemetry context in which a message is handled: the current one, with its key or, on purpose, with none.
        """
        if choice.key is not None:
            return with_key(choice.key)
        ambient = get_current()
        if ambient is not self._ambient or self._cleared is None:  # mostly it is the one in which the connection was made
            self._ambient, self._cleared = ambient, with_key(None, ambient)
            self._traced = get_current_span(ambient) is not INVALID_SPAN
        return self._cleared

    def stands(self, choice: Choice) -> bool:
        """
        Return whether what was decided still holds, for a message that is about to be handled only now.
        """
        if choice.verdict.key is None and self.baseline:
            return True
        view = self._routes.view()
        return view is not None and view.table is choice.table and view.fresh()

    def key(self, headers: Any) -> RoutingKey | None:
        """
        Return the key under which a message that is this process's is handled.
        """
        reading = read(headers, adapter=self.adapter)
        return None if reading.malformed is not None else self._context_key(self._accepted(reading.key))

    def report(self) -> None:
        """
        Add what was decided since the last time to the counters; call it now and then.
        """
        counted, self._counted = self._counted, Counter()
        counted[_OWN_UNKEYED], self._unkeyed = counted[_OWN_UNKEYED] + self._unkeyed, 0
        for (verdict, code, label), amount in (+counted).items():
            count("tenancy.verdicts", {**self.labels(), "verdict": verdict, "reason": code, "routing_key": label}, amount)

    def _annotated(self, choice: Choice) -> Choice:
        if self._traced or get_current() is not self._ambient:
            verdict = choice.verdict
            annotate_span(verdict.key, verdict=verdict.action.value, reason=verdict.reason)
        return choice

    def _as_counted(self, verdict: Verdict, table: RouteTable | None) -> _Counted:
        key = verdict.key
        return verdict.action.value, verdict.code, key_label(key, known=key is not None and table is not None and table.knows(key))

    def _came_back(self, key: RoutingKey, headers: Mapping[str, Any], exchange: str | None) -> int:
        """
        Return the life for which a message was forwarded in vain. An alternate exchange leaves the name of the one that it was published to;
        what came by a dead-letter exchange, or was published again, has another. What headers say of deaths is not enough: from RabbitMQ 4.0
        on the broker counts them anew for each copy.
        """
        epoch = returned_epoch(headers)
        return epoch if epoch and exchange in (None, names_of(self.queue, key, epoch).exchange) else 0

    def _accepted(self, key: RoutingKey | None) -> RoutingKey | None:
        accept = self._accept
        if key is None or accept in ("all", "known"):  # what the table knows is part of the decision
            return key
        if accept == "none" or not accept(key):  # type: ignore[operator]
            count("tenancy.keys.refused", {"adapter": self.adapter})
            return None
        return key

    def _context_key(self, key: RoutingKey | None) -> RoutingKey | None:
        if key is None or self._accept != "known":
            return key
        table = self._routes.peek()
        return key if table is not None and table.knows(key) else None

    # Which queues

    def lives(self) -> Iterator[Life]:
        """
        Return the queues that a sandbox's process reads, as far as the table is known.
        """
        table = self._routes.peek()
        if table is None:
            return
        for row in table.handovers(self._judge.identity.workload):
            if row.sandbox == self._judge.identity.sandbox and row.forwarded and self.queue in row.queues:
                yield Life(row.key, row.epoch, names_of(self.queue, row.key, row.epoch))

    def names(self, route: Route) -> Names:
        """
        Return what leads to the sandbox of a route.
        """
        return names_of(self.queue, route.key, route.generation)

    # What is kept

    def hold(self, message: object) -> None:
        """
        Note that a message is kept, since it cannot be said yet whose it is.
        """
        self._held.setdefault(id(message), time.monotonic())

    def unhold(self, message: object) -> None:
        """
        Note that it is kept no longer.
        """
        self._held.pop(id(message), None)

    def held(self) -> tuple[int, float]:
        """
        Return how many messages are kept, and for how many seconds the first of them.
        """
        since = next(iter(self._held.values()), None)
        return len(self._held), 0.0 if since is None else time.monotonic() - since

    def labels(self) -> dict[str, str]:
        """
        Return by what its metrics are told apart.
        """
        return {"adapter": self.adapter, "workload": self._judge.identity.workload}


class EveryChoice(Choices):
    """
    What is decided where tenancy is switched off: everything is this process's, without a key.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: str) -> None:
        self.adapter = ""
        self.queue = queue
        self._held = {}
        self.baseline = True
        self._counted = Counter()
        self._unkeyed = 0
        self._ambient = self._cleared = None

    @property
    def source(self) -> Any:
        return None

    def table(self) -> None:
        return None

    async def synced(self) -> None:
        return

    def wait_synced(self) -> None:
        return

    def choose(
        self,
        headers: Mapping[str, Any] | None,  # noqa: ARG002 - as above
        *,
        epoch: int = 0,  # noqa: ARG002 - as above
        returned: int = 0,  # noqa: ARG002 - as above
        exchange: str | None = None,  # noqa: ARG002 - as above
    ) -> Choice:
        return _EVERY

    def stands(self, choice: Choice) -> bool:  # noqa: ARG002 - as above
        return True

    def key(self, headers: Any) -> None:  # noqa: ARG002 - as above
        return None


_UNKEYED = Choice(decide(None, Identity("", None), None))
_OWN_UNKEYED = (_UNKEYED.action.value, _UNKEYED.verdict.code, key_label(None, known=False))
_EVERY = Choice(Verdict(Action.OWN, "tenancy is switched off", "off"))
