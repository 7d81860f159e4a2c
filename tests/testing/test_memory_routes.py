from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import tenancy
from tenancy import RoutesNotSyncedError, RouteSourceError, RoutingKey
from tenancy.http.asgi import TenancyMiddleware
from tenancy.messaging.confluent_kafka import consumer
from tenancy.routes import Route, routes_for
from tenancy.testing import MemoryRoutes, kafka_message
from tests.http.servers import get, respond


def generations(table: MemoryRoutes) -> dict[str, int]:
    return {f"{route.workload} {route.key} {route.sandbox}": route.generation for route in table.table}


def test_a_table_is_written_as_a_mapping() -> None:
    """Workloads with the keys that fork them, by a sandbox of that name or another one; those that nobody forks are known too."""
    table = MemoryRoutes({"shop/orders": ["pr-1", "pr-2"], "shop/notify": {"pr-1": "team-a"}, "shop/pricing": []})
    assert table.wait_synced(0).workloads == {"shop/orders", "shop/notify", "shop/pricing"}
    assert sorted(table.table) == [
        Route("shop/notify", RoutingKey("pr-1"), "team-a"),
        Route("shop/orders", RoutingKey("pr-1"), "pr-1"),
        Route("shop/orders", RoutingKey("pr-2"), "pr-2"),
    ]
    assert len(MemoryRoutes().table) == 0


def test_a_change_holds_at_once_and_counts() -> None:
    """Each change is a new version, and a key that is used again a new generation; what did not change keeps its own."""
    table = MemoryRoutes({"shop/orders": ["pr-1"]})
    assert table.table.version == 1
    table.fork("shop/notify", "pr-1")
    table.fork("shop/orders", "pr-2", "team-a")
    assert table.table.version == 3
    assert generations(table) == {"shop/orders pr-1 pr-1": 1, "shop/notify pr-1 pr-1": 1, "shop/orders pr-2 team-a": 1}
    table.unfork("shop/orders", "pr-1")
    assert "shop/orders" in table.table.workloads
    assert table.fork("shop/orders", "pr-1") == Route("shop/orders", RoutingKey("pr-1"), "pr-1", 2)
    table.replace({"shop/orders": ["pr-1", "pr-3"]})
    assert generations(table) == {"shop/orders pr-1 pr-1": 2, "shop/orders pr-3 pr-3": 1}
    table.unfork("shop/orders", "pr-1")
    assert table.table.workloads == {"shop/orders"}


def test_names_are_checked_as_in_a_file() -> None:
    """A mistake is told where it is made, and the table stays as it was."""
    table = MemoryRoutes({"shop/orders": ["pr-1"]})
    for change in (
        lambda: table.fork("orders", "pr-1"),
        lambda: table.fork("shop/orders", "PR_1"),
        lambda: table.fork("shop/orders", "pr-1", "Team A"),
        lambda: table.unfork("shop/orders", "pr-2"),
        lambda: table.replace({"shop/orders": "pr-1"}),
        lambda: table.replace({"shop": []}),
    ):
        with pytest.raises(RouteSourceError):
            change()
    assert generations(table) == {"shop/orders pr-1 pr-1": 1}
    assert table.table.version == 1


def test_a_source_is_lost_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    """Never read, it is not synced; read once, the last table stays in force; found again, it is the newest."""
    table = MemoryRoutes({"shop/orders": ["pr-1"]})
    table.lose("no route to host")
    with pytest.raises(RoutesNotSyncedError, match="no route to host"):
        table.wait_synced(0)
    with pytest.raises(RoutesNotSyncedError):
        _ = table.table
    table.restore()
    assert table.wait_synced(0).keys() == {"pr-1"}
    table.lose()
    assert "The last good route table (version 1) stays in force" in caplog.text
    table.fork("shop/orders", "pr-2")
    assert table.table.keys() == {"pr-1"}
    table.restore()
    assert table.table.keys() == {"pr-1", "pr-2"}


def test_it_begins_anew() -> None:
    """As if it had just been made: empty, found again, and read by nobody, with first generations."""
    table = MemoryRoutes({"shop/orders": ["pr-1"]})
    table.wait_synced(0)
    table.lose()
    table.clear()
    assert len(table.wait_synced(0)) == 0
    assert table.fork("shop/orders", "pr-1").generation == 1
    assert table.table.keys() == {"pr-1"}
    table.clear()
    table.lose()
    with pytest.raises(RoutesNotSyncedError):
        table.wait_synced(0)


def test_it_takes_no_thread() -> None:
    """Nobody has to look whether it changed."""
    before = threading.active_count()
    MemoryRoutes({"shop/orders": ["pr-1"]}).wait_synced(0)
    assert threading.active_count() == before


def test_settings_find_it() -> None:
    """By its URL, in this process."""
    table, other = MemoryRoutes({"shop/orders": ["pr-42"]}), MemoryRoutes()
    assert table.url == table.url != other.url
    tenancy.configure(routes=table.url, role="baseline", workload="shop/orders")
    assert routes_for() is table
    handled: list[str | None] = []

    @consumer()
    def on_order(message: object) -> None:
        handled.append(tenancy.routing_key())

    on_order(kafka_message(key="pr-42"))
    assert handled == []
    table.unfork("shop/orders", "pr-42")
    table.fork("shop/notify", "pr-42")
    on_order(kafka_message(key="pr-42"))
    assert handled == ["pr-42"]


def test_a_middleware_takes_it() -> None:
    """A key is accepted from the moment that the test forks something under it."""

    async def app(scope: object, receive: object, send: object) -> None:
        await respond(send, body=str(tenancy.routing_key()).encode())

    table = MemoryRoutes({"shop/orders": []})
    served = TenancyMiddleware(app, routes=table)
    headers = {"baggage": "sd-routing-key=pr-42"}
    assert get(served, headers=headers).text == "None"
    table.fork("shop/orders", "pr-42")
    assert get(served, headers=headers).text == "pr-42"


def test_another_process_reads_it() -> None:
    """The variables say the whole table, as it is now."""
    table = MemoryRoutes({"shop/orders": {"pr-42": "team-a"}, "shop/notify": []})
    code = "from tenancy.routes import routes_for; t = routes_for().wait_synced(1); print(*t, *sorted(t.workloads), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **table.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "Route(workload='shop/orders', key=RoutingKey('pr-42'), sandbox='team-a', generation=1)",
        "shop/notify",
        "shop/orders",
    ]
