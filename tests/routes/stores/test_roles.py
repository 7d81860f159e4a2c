"""
The roles of the page about route stores: real ones, made by the page's own statements.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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
        reader.unregister(MEMBER)
        controller.register(MEMBER)
        controller.unregister(MEMBER)
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
    statements, _ = blocks(PAGE, "sql")
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


def check_workloads(own: RouteStore, controller: RouteStore) -> None:
    """Who is a reader of shop/orders registers and unregisters its consumers, and no other's, whatever it says of itself."""
    other = MEMBER._replace(workload="shop/notify", group="notify")
    controller.register(other)
    own.register(MEMBER)
    own.register(MEMBER)
    assert controller.members("shop/orders") == [MEMBER]
    with pytest.raises(RouteSourceError, match=r"(?i)permission|policy"):
        own.register(other._replace(member="c-9"))
    with suppress(RouteSourceError):  # Redis says no; PostgreSQL shows nothing that could be removed
        own.unregister(other)
    assert controller.members("shop/notify") == [other]
    own.unregister(MEMBER)
    assert controller.members("shop/orders") == []
    own.snapshot()
    with pytest.raises(RouteSourceError, match=r"(?i)permission"):
        own.write([])


def test_a_role_for_each_workload(own_service: Callable[[str], services.Service]) -> None:
    """The page's statements keep one workload's readers from the registrations of another's, also by a statement of their own."""
    address = own_service("postgresql").address
    open_store(address).create()
    with psycopg.connect(address, autocommit=True) as owner:
        for statements in blocks(PAGE, "sql"):
            owner.execute(statements.encode())
    own, controller = (address.replace("postgres@", f"{role}@") for role in ("shop_orders", "tenancy_controller"))
    check_workloads(open_store(own), open_store(controller))
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute(b"DELETE FROM tenancy_members")
        connection.execute(b"UPDATE tenancy_members SET document = '{}'")
    assert len(open_store(controller).members("shop/notify")) == 1
    with pytest.raises(RouteSourceError, match=r"(?i)policy"):
        open_store(address.replace("postgres@", "tenancy_reader@")).register(MEMBER)


def test_a_user_for_each_workload(own_service: Callable[[str], services.Service]) -> None:
    """The page's user of Redis with the narrower pattern cannot touch the registrations of another workload."""
    address = own_service("redis").address
    (lines,) = (text for text in blocks(PAGE, "text") if "ACL SETUSER" in text)
    admin: Any = client_library.Redis.from_url(address)
    narrow, wide = "~tenancy::members:shop/orders", "~tenancy::members:*"
    assert f"`{narrow}` in place of `{wide}`" in PAGE.read_text()
    for line in lines.splitlines():
        assert admin.execute_command(*line.replace(wide, narrow).split()) == b"OK"
    controller = open_store(address.replace("//", "//tenancy-controller:controller-password@"))
    controller.create()
    as_reader = address.replace("//", "//tenancy-reader:reader-password@")
    check_workloads(open_store(as_reader), controller)
    reader: Any = client_library.Redis.from_url(as_reader)
    for command in (("HDEL", "tenancy::members:shop/notify", "c-1"), ("EXPIRE", "tenancy::members:shop/notify", "1")):
        with pytest.raises(client_library.exceptions.NoPermissionError):
            reader.execute_command(*command)


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
        ("HSET", "tenancy::routes", "version", "9"),
        ("HDEL", "tenancy::routes", "id"),
        ("EXPIRE", "tenancy::routes", "1"),
        ("DEL", "tenancy::routes"),
        ("PUBLISH", "tenancy::changes", "9"),
        ("GET", "another"),
        ("HGETALL", "another"),
        ("KEYS", "*"),
        ("FLUSHALL",),
    ):
        with pytest.raises(client_library.exceptions.NoPermissionError):
            reader.execute_command(*command)
    with pytest.raises(client_library.ResponseError, match=r"(?i)permission|ACL"):
        reader.eval("return redis.call('HSET', KEYS[1], 'version', '9')", 1, "tenancy::routes")
    assert controller.head().version == 3
