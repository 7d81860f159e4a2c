"""
What must happen, as a literal table: who serves each hop of each kind of request, and whose rows it writes.
"""

from __future__ import annotations

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


def route_table() -> dict[str, object]:
    """
    Return the route table of the shop, as the services read it from a file.
    """
    return {
        "version": 1,
        "workloads": [f"shop/{service}" for service in SERVICES],
        "routes": [
            {"workload": f"shop/{service}", "key": sandbox, "sandbox": sandbox}
            for sandbox, forks in SANDBOXES.items()
            for service in forks
        ],
    }
