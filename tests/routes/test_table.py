from __future__ import annotations

import timeit
from typing import Any

import pytest

from tenancy import RouteSourceError, RoutingKey
from tenancy.routes import Identity, Route, RouteTable, decide, parse_table

ORDERS = "shop/orders"


def table(*routes: tuple[str, str, str], workloads: tuple[str, ...] = ()) -> RouteTable:
    return RouteTable([Route(workload, RoutingKey(key), sandbox) for workload, key, sandbox in routes], workloads=workloads)


def test_a_document_becomes_a_table() -> None:
    """The documented form is read, and what is looked up is found."""
    read = parse_table(
        {
            "version": 7,
            "workloads": ["shop/notify"],
            "routes": [
                {"workload": ORDERS, "key": "pr-42", "sandbox": "pr-42"},
                {"workload": "shop/pricing", "key": "group", "sandbox": "pr-7", "generation": 3},
            ],
        },
        origin="a test",
    )
    assert read.version == 7
    assert read.workloads == {"shop/notify", ORDERS, "shop/pricing"}
    assert read.keys() == {"pr-42", "group"}
    assert read.route("shop/pricing", RoutingKey("group")) == Route("shop/pricing", RoutingKey("group"), "pr-7", 3)
    assert read.route(ORDERS, RoutingKey("group")) is None
    assert read.route("shop/none", RoutingKey("pr-42")) is None
    assert read.knows(RoutingKey("group"))
    assert not read.knows(RoutingKey("pr-7"))
    assert len(read) == len(list(read)) == 2
    assert parse_table({}, origin="a test").keys() == frozenset()


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        (None, "mapping"),
        ([], "mapping"),
        ({"route": []}, "route"),
        ({"routes": {}}, "must be a list"),
        ({"routes": ["x"]}, r"routes\[0\]"),
        ({"routes": [{"workload": ORDERS, "key": "a"}]}, "lacks sandbox"),
        ({"routes": [{"workload": ORDERS, "key": "a", "sandbox": "a", "state": "x"}]}, "state"),
        ({"routes": [{"workload": ORDERS, "key": "PR 42", "sandbox": "a"}]}, "PR 42"),
        ({"routes": [{"workload": ORDERS, "key": 42, "sandbox": "a"}]}, "key is 42.*quotes"),
        ({"routes": [{"workload": ORDERS, "key": "a", "sandbox": False}]}, "sandbox is False.*quotes"),
        ({"routes": [{"workload": "orders", "key": "a", "sandbox": "a"}]}, "namespace/name"),
        ({"routes": [{"workload": "a/b/c", "key": "a", "sandbox": "a"}]}, "a/b/c"),
        ({"routes": [{"workload": ORDERS, "key": "a", "sandbox": "a", "generation": "1"}]}, "generation"),
        ({"routes": [{"workload": ORDERS, "key": "a", "sandbox": "a"}, {"workload": ORDERS, "key": "a", "sandbox": "b"}]}, "twice"),
        ({"workloads": ["orders"]}, r"workloads\[0\]"),
        ({"version": True}, "version"),
    ],
)
def test_a_wrong_document_is_refused_where_it_is_wrong(document: Any, shown: str) -> None:
    """The error names the entry and what it must be."""
    with pytest.raises(RouteSourceError, match=shown) as caught:
        parse_table(document, origin="a test")
    assert "a test" in str(caught.value) or "twice" in shown


FORKED = table((ORDERS, "pr-42", "pr-42"), (ORDERS, "group", "pr-7"), ("shop/pricing", "pr-9", "pr-9"), workloads=("shop/notify",))


@pytest.mark.parametrize(
    ("key", "sandbox", "owned", "code"),
    [
        (None, None, True, "unkeyed"),
        (None, "pr-42", False, "unkeyed"),
        ("pr-42", None, False, "forked_elsewhere"),
        ("pr-42", "pr-42", True, "forked_here"),
        ("pr-42", "pr-7", False, "forked_elsewhere"),
        ("group", "pr-7", True, "forked_here"),  # the key is not the sandbox's name
        ("pr-7", "pr-7", False, "not_forked"),
        ("pr-7", None, True, "not_forked"),
        ("pr-9", None, True, "not_forked"),  # forked, but another workload
        ("pr-9", "pr-9", False, "not_forked"),
        ("unknown", None, True, "not_forked"),
        ("unknown", "pr-42", False, "not_forked"),
    ],
)
def test_the_verdict(key: str | None, sandbox: str | None, owned: bool, code: str) -> None:
    """The fork under the key owns the work, in every other case the baseline, and the reason says so in words."""
    verdict = decide(RoutingKey.parse(key), Identity(ORDERS, sandbox), FORKED)
    assert (verdict.owned, verdict.code) == (owned, code)
    assert verdict.key == key
    assert len(verdict.reason.split()) > 3


@pytest.mark.parametrize("workload", [ORDERS, "shop/pricing", "shop/notify"])
@pytest.mark.parametrize("key", [None, "pr-42", "group", "pr-7", "pr-9", "unknown"])
def test_every_piece_of_work_has_exactly_one_owner(workload: str, key: str | None) -> None:
    """Among the baseline and all sandboxes, one and only one owns it."""
    everybody = [None, "pr-42", "pr-7", "pr-9", "idle"]
    assert sum(decide(RoutingKey.parse(key), Identity(workload, sandbox), FORKED).owned for sandbox in everybody) == 1


def test_work_without_a_key_needs_no_table_and_work_with_one_does() -> None:
    """A lost route source stops keyed work only."""
    assert decide(None, Identity(ORDERS, None), None).owned
    assert not decide(None, Identity(ORDERS, "pr-42"), None).owned
    with pytest.raises(ValueError, match="pr-42"):
        decide(RoutingKey("pr-42"), Identity(ORDERS, None), None)


def test_ten_thousand_routes_decide_as_fast_as_one() -> None:
    """The time of a verdict does not grow with the table: 10,000 times the routes may not cost 3 times as much."""
    many = RouteTable(Route(f"shop/w{n % 100}", RoutingKey(f"pr-{n // 100}"), f"pr-{n // 100}") for n in range(10_000))
    one = RouteTable([Route("shop/w7", RoutingKey("pr-42"), "pr-42")])
    key, identity = RoutingKey("pr-42"), Identity("shop/w7", None)
    assert len(many) == 10_000

    def seconds(of: RouteTable) -> float:
        return min(timeit.repeat(lambda: decide(key, identity, of), number=2000, repeat=15))

    assert min(seconds(many) / seconds(one) for _ in range(3)) < 3
