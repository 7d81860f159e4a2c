"""
A judge: `decide` for one process, with the verdict counted and put on the current span.
"""

from __future__ import annotations

from ..config import settings
from ..errors import ConfigurationError, IdentityError
from ..key import RoutingKey
from ..observe import annotate_span, count, key_label
from .identity import Identity, check_known, resolve_identity
from .live import LiveRoutes, routes_for
from .table import RouteTable
from .verdict import Verdict, decide

__all__ = ["Judge", "judge_if_known"]


class Judge:
    """
    Decides on pieces of work for this process.

    Args:
        adapter: Who asks, for counters, such as ``aio_pika``.
        workload: This process's workload; default the setting.
        routes: The live route table; default the one of the settings.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source.
    """

    def __init__(self, adapter: str, *, workload: str | None = None, routes: LiveRoutes | None = None) -> None:
        self.adapter = adapter
        self.identity: Identity = resolve_identity(workload)
        found = routes if routes is not None else routes_for()
        if found is None:
            raise ConfigurationError(
                f"{self.identity} has no route table, so it cannot tell whose work is whose; set TENANCY_ROUTES, such as "
                "file:///etc/tenancy/routes.yaml"
            )
        self.routes: LiveRoutes = found
        self._checked: RouteTable | None = None

    def wait_synced(self) -> None:
        """
        Wait for the route table, and make sure that it knows this workload.

        Raises:
            RoutesNotSyncedError: If the deadline of the settings passed.
            IdentityError: If the table does not know this workload.
        """
        self._check(self.routes.wait_synced(settings().routes_deadline))

    async def synced(self) -> None:
        """
        Like `wait_synced`, without blocking the event loop.
        """
        self._check(await self.routes.synced(settings().routes_deadline))

    def judge(self, key: RoutingKey | None) -> Verdict:
        """
        Decide on a piece of work, count the verdict and put it on the current span.

        Raises:
            RoutesNotSyncedError: If the work has a key and the table was never read; work without one needs no table.
        """
        verdict = decide(key, self.identity, None if key is None else self.routes.table)
        self.record(verdict)
        return verdict

    def record(self, verdict: Verdict) -> None:
        """
        Count a verdict that was reached, and put it on the current span.
        """
        key = verdict.key
        table = None if key is None else self.routes.peek()
        known = key is not None and table is not None and table.knows(key)
        count(
            "tenancy.verdicts",
            {
                "adapter": self.adapter,
                "verdict": verdict.action.value,
                "reason": verdict.code,
                "routing_key": key_label(key, known=known),
                "workload": self.identity.workload,
            },
        )
        annotate_span(key, verdict=verdict.action.value, reason=verdict.reason)

    def _check(self, table: RouteTable) -> None:
        if table is not self._checked:
            check_known(self.identity, table)
            self._checked = table


def judge_if_known(adapter: str, *, routes: LiveRoutes | None = None) -> Judge | None:
    """
    Return a judge for a transport that serves whatever arrives and only tells how it came, or None where the settings do not say who
    this process is or where the routes are.
    """
    try:
        return Judge(adapter, routes=routes)
    except (IdentityError, ConfigurationError):
        return None
