"""
The decision who owns a piece of work: a pure function of the work's key, this process's identity and the route table.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..key import RoutingKey
from .identity import Identity
from .table import Route, RouteTable

__all__ = ["Action", "Verdict", "decide"]


class Action(str, Enum):
    """
    What to do with a piece of work.
    """

    OWN = "own"
    SKIP = "skip"
    #: Set it aside: it cannot be said yet whose it is.
    HOLD = "hold"
    #: Send it on to whose it is, since it exists once and nobody else gets it.
    FORWARD = "forward"


class Verdict(NamedTuple):
    """
    What to do with a piece of work, and why.

    Args:
        action: What to do.
        reason: Why, in words.
        code: Why, as one of a fixed set of words, for counters.
        key: The key of the work.
        route: The route that decided, where there was one.
    """

    action: Action
    reason: str
    code: str
    key: RoutingKey | None = None
    route: Route | None = None

    @property
    def owned(self) -> bool:
        """
        Whether the work is this process's.
        """
        return self.action is Action.OWN

    @property
    def held(self) -> bool:
        """
        Whether it cannot be said yet whose the work is.
        """
        return self.action is Action.HOLD


def decide(key: RoutingKey | None, identity: Identity, table: RouteTable | None) -> Verdict:
    """
    Decide whether a piece of work is this process's: it belongs to the sandbox that forks this workload under its key, and in every
    other case to the baseline.

    Args:
        key: The key of the work, or None.
        identity: Who this process is.
        table: The route table. Work without a key needs none.
    """
    sandbox = identity.sandbox
    if key is None:
        if sandbox is None:
            return _UNKEYED_BASELINE
        return Verdict(Action.SKIP, f"no routing key, so it is the baseline's and not sandbox {sandbox}'s", "unkeyed")
    if table is None:
        raise ValueError(f"a decision about {key} needs a route table")
    route = table.route(identity.workload, key)
    if route is None:
        if sandbox is None:
            return Verdict(Action.OWN, f"{key} does not fork {identity.workload}, so it is the baseline's", "not_forked", key)
        return Verdict(
            Action.SKIP,
            f"{key} does not fork {identity.workload}, so it is the baseline's and not sandbox {sandbox}'s",
            "not_forked",
            key,
        )
    if route.sandbox == sandbox:
        return Verdict(Action.OWN, f"{key} forks {identity.workload} in sandbox {sandbox}", "forked_here", key, route)
    mine = "the baseline" if sandbox is None else f"sandbox {sandbox}"
    return Verdict(
        Action.SKIP, f"{key} forks {identity.workload} in sandbox {route.sandbox}, not {mine}", "forked_elsewhere", key, route
    )


_UNKEYED_BASELINE = Verdict(Action.OWN, "no routing key, so it is the baseline's", "unkeyed")
