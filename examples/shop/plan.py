"""
What must happen, as a literal table: who serves each hop of each kind of request, and whose rows it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

BASELINE = "baseline"

#: Which sandbox forks which workloads; sandbox and routing key have the same name here.
SANDBOXES = {"pr-42": ("pricing", "fulfilment"), "pr-77": ("storefront", "notify")}

SERVICES = ("storefront", "pricing", "orders", "fulfilment", "notify")


class Expected(NamedTuple):
    """
    What one kind of request must meet.
    """

    status: int
    storefront: str | None
    pricing: str | None
    orders: str | None
    fulfilment: str | None
    notify: str | None
    partition: str | None


# value of the routing key: (status, storefront, pricing, orders, fulfilment, notify, partition)
EXPECTED: dict[str | None, Expected] = {
    None: Expected(200, "baseline", "baseline", "baseline", "baseline", "baseline", "baseline"),
    "pr-42": Expected(200, "baseline", "pr-42", "baseline", "pr-42", "baseline", "pr-42"),
    "pr-77": Expected(200, "pr-77", "baseline", "baseline", "baseline", "pr-77", "pr-77"),
    "pr-99": Expected(200, "baseline", "baseline", "baseline", "baseline", "baseline", "baseline"),
    "PR_42!": Expected(400, None, None, None, None, None, None),
}

#: What each kind is called on the screen.
KINDS = {None: "no key", "pr-42": "pr-42", "pr-77": "pr-77", "pr-99": "unknown key (pr-99)", "PR_42!": "malformed key (PR_42!)"}


class Plan(NamedTuple):
    """
    What the shop is told, and what must happen then.

    Args:
        routes: routing key -> service -> the sandbox whose fork serves it there.
        expected: kind of request -> what it must meet; a kind is the value of the routing key that a request carries.
    """

    routes: Mapping[str, Mapping[str, str]]
    expected: Mapping[str | None, Expected]

    @property
    def forks(self) -> list[tuple[str, str]]:
        """
        The forks that run, as pairs of service and sandbox; several keys may lead to one.
        """
        return list(dict.fromkeys(fork for forks in self.routes.values() for fork in forks.items()))

    def route_table(self) -> dict[str, object]:
        """
        Return the route table of the shop, as the services read it from a file.
        """
        return {
            "version": 1,
            "workloads": [f"shop/{service}" for service in SERVICES],
            "routes": [
                {"workload": f"shop/{service}", "key": key, "sandbox": sandbox}
                for key, forks in self.routes.items()
                for service, sandbox in forks.items()
            ],
        }


#: The plan of `make demo`.
DEMO = Plan({sandbox: dict.fromkeys(forks, sandbox) for sandbox, forks in SANDBOXES.items()}, EXPECTED)
