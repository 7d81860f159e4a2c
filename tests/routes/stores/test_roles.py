"""
The roles of the page about route stores: real ones, made by the page's own statements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis as client_library

from tenancy import RouteSourceError
from tenancy.routes import LiveRoutes
from tenancy.routes.stores import Member, RouteStore, StoreSource, open_store, put_workload
from tests import services
from tests.docs.pages import ROOT, blocks
from tests.routes.stores.contract import eventually

PAGE = ROOT / "docs" / "how-to" / "route-store.md"
MEMBER = Member("shop/orders", "c-1", "orders", ("orders.v1",))

pytestmark = pytest.mark.service


def check_roles(reader: RouteStore, controller: RouteStore) -> None:
    """A reader reads, watches and registers, and cannot write a route; a controller does all."""
    assert controller.write([put_workload("shop/orders")]) == 1
    assert controller.create() == reader.create() == reader.head()
    live = LiveRoutes(StoreSource(reader))
    try:
        assert live.wait_synced(5).workloads == {"shop/orders"}
        for refused in (lambda: reader.write([put_workload("shop/notify")]), lambda: reader.write([])):
            with pytest.raises(RouteSourceError, match=r"(?i)permission"):
                refused()
        assert reader.head().version == 1
        reader.register(MEMBER)
        reader.register(MEMBER)
        assert controller.members("shop/orders") == reader.members("shop/orders") == [MEMBER]
        reader.unregister("shop/orders", "c-1")
        controller.register(MEMBER)
        controller.unregister("shop/orders", "c-1")
        assert reader.members("shop/orders") == []
        assert controller.write([put_workload("shop/notify")]) == 2
        eventually(lambda: live.table.version == 2, 1.5)  # it is told: by itself it looks every three seconds
        assert controller.write([put_workload("shop/notify", expected=2)._replace(document=None)]) == 3
    finally:
        live.close()


def test_the_roles_of_postgresql(own_service: Callable[[str], services.Service]) -> None:
    """The page's statements let a reader change nothing but members, and the controller all but the tables themselves."""
    address = own_service("postgresql").address
    open_store(address).create()
    (statements,) = blocks(PAGE, "sql")
    with psycopg.connect(address, autocommit=True) as owner:
        owner.execute(statements.encode())
    as_reader, as_controller = (address.replace("postgres@", f"{role}@") for role in ("tenancy_reader", "tenancy_controller"))
    check_roles(open_store(as_reader), open_store(as_controller))
    for role, statements in (
        (as_reader, ["UPDATE tenancy_meta SET version = 9", "DELETE FROM tenancy_documents", "TRUNCATE tenancy_documents"]),
        (as_reader, ["INSERT INTO tenancy_documents VALUES ('a', 1, '{}')", "SELECT FROM tenancy_meta FOR UPDATE"]),
        (as_controller, ["DELETE FROM tenancy_meta", "INSERT INTO tenancy_meta VALUES (2)", "DROP TABLE tenancy_meta"]),
    ):
        with psycopg.connect(role, autocommit=True) as connection:
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())


def test_the_users_of_redis(own_service: Callable[[str], services.Service]) -> None:
    """The page's users: a reader changes nothing but members, not even by a script; the controller needs no more than it has."""
    address = own_service("redis").address
    (lines,) = (text for text in blocks(PAGE, "text") if "ACL SETUSER" in text)
    admin: Any = client_library.Redis.from_url(address)
    for line in lines.splitlines():
        assert admin.execute_command(*line.split()) == b"OK"
    as_reader = address.replace("//", "//tenancy-reader:reader-password@")
    controller = open_store(address.replace("//", "//tenancy-controller:controller-password@"))
    controller.create()
    check_roles(open_store(as_reader), controller)
    reader: Any = client_library.Redis.from_url(as_reader)
    for command in (
        ("HSET", "tenancy:routes", "version", "9"),
        ("HDEL", "tenancy:routes", "id"),
        ("EXPIRE", "tenancy:routes", "1"),
        ("DEL", "tenancy:routes"),
        ("PUBLISH", "tenancy:changes", "9"),
        ("GET", "another"),
        ("HGETALL", "another"),
        ("KEYS", "*"),
        ("FLUSHALL",),
    ):
        with pytest.raises(client_library.exceptions.NoPermissionError):
            reader.execute_command(*command)
    with pytest.raises(client_library.ResponseError, match=r"(?i)permission|ACL"):
        reader.eval("return redis.call('HSET', KEYS[1], 'version', '9')", 1, "tenancy:routes")
    assert controller.head().version == 3
