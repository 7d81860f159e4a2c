"""
Admission: what becomes of the key that a piece of inbound work carries. One rule for every transport.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, NamedTuple

from ..baggage import Reading
from ..config import Accept, settings
from ..errors import ConfigurationError
from ..key import RoutingKey
from ..observe import count, report_malformed
from ..propagator import read
from .live import LiveRoutes, routes_for
from .table import RouteTable

__all__ = ["ABSENT", "Admission", "Admitted"]


class Admitted(NamedTuple):
    """
    The outcome for one piece of work.

    Args:
        key: The key that the work has from here on, or None.
        outcome: ``absent``: it carried none; ``accepted``; ``refused``: well-formed, but not accepted here; ``malformed``.
        reason: Why, in words.
        clean: Whether the carrier says just this; if not, what travels on must be rewritten.
    """

    key: RoutingKey | None
    outcome: Literal["absent", "accepted", "refused", "malformed"]
    reason: str
    clean: bool = True


ABSENT = Admitted(None, "absent", "no routing key")


class Admission:
    """
    Decides which inbound keys are accepted, for one adapter.

    Args:
        adapter: Who asks, for counters and logs, such as ``asgi``.
        accept: Which keys are accepted; default the setting, else ``known`` where there is a route source, and ``all`` where not.
        routes: The live route table; default the one of the settings.

    Raises:
        ConfigurationError: If *accept* is ``known`` and there is no route source, or is nothing that can decide.
    """

    def __init__(self, adapter: str, *, accept: Accept | None = None, routes: LiveRoutes | None = None) -> None:
        self.adapter = adapter
        self.routes = routes if routes is not None else routes_for()
        accept = accept if accept is not None else settings().accept
        if accept is None:
            accept = "all" if self.routes is None else "known"
        if accept == "known" and self.routes is None:
            raise ConfigurationError(
                "accept is 'known', but there is no route source; set routes (TENANCY_ROUTES), or accept='all'"
            )
        if accept not in ("known", "all", "none") and not callable(accept):
            raise ConfigurationError(f"accept is {accept!r}; use 'known', 'all', 'none' or a function")
        if inspect.iscoroutinefunction(accept) or inspect.iscoroutinefunction(getattr(accept, "__call__", None)):  # noqa: B004
            raise ConfigurationError(
                f"accept is the coroutine function {accept!r}, whose result is awaited by nobody and would pass for true; use a function"
            )
        self.accept: Accept = accept

    def wait_synced(self) -> None:
        """
        Wait for the route table, if there is one; raises `RoutesNotSyncedError` at the deadline of the settings.
        """
        if self.routes is not None:
            self.routes.wait_synced(settings().routes_deadline)

    def admit(self, carrier: Any) -> Admitted:
        """
        Decide about the key in *carrier*; what is odd is counted.

        Raises:
            RoutesNotSyncedError: If the carrier has a key, known keys are accepted, and the table was never read.
        """
        return self.decide(read(carrier, adapter=self.adapter))

    def decide(self, reading: Reading) -> Admitted:
        """
        Decide about what was read; see `admit`.
        """
        if reading.malformed is not None:
            report_malformed(self.adapter, reading.malformed, "it is not used, and not passed on")
            return Admitted(None, "malformed", f"{reading.malformed[:64]!r} is not a routing key", clean=False)
        key = reading.key
        if key is None:
            return ABSENT
        accept = self.accept
        if accept == "all":
            accepted, why = True, "every key is accepted"
        elif accept == "none":
            accepted, why = False, "no key is accepted here"
        elif accept == "known":
            accepted = self._table().knows(key)
            why = "the route table knows it" if accepted else "the route table does not know it"
        else:
            accepted = bool(accept(key))
            why = "the accept function took it" if accepted else "the accept function refused it"
        if accepted:
            return Admitted(key, "accepted", f"{key}: {why}", clean=not reading.conflict)
        count("tenancy.keys.refused", {"adapter": self.adapter})
        return Admitted(None, "refused", f"{key} is not accepted: {why}", clean=False)

    def _table(self) -> RouteTable:
        assert self.routes is not None  # noqa: S101 - the constructor made sure
        return self.routes.table
