"""
A route store in Redis: the contract, and what is different about Redis.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client_library

from tenancy import ConfigurationError, RouteSourceError
from tenancy.routes import LiveRoutes
from tenancy.routes.stores import Member, RouteStore, open_store, put_workload
from tests import services
from tests.routes.stores.contract import Place, ServerContract, eventually, watching
from tests.routes.stores.outages import OutageContract, silent_server


class RedisPlace(Place):
    url: str

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(f"{url}?prefix={prefix}:")
        self.prefix = prefix
        self.client = client_library.Redis.from_url(url, decode_responses=True)

    def open(self) -> RouteStore:
        return open_store(self.url)

    def age(self, seconds: float) -> None:
        for key in self.client.scan_iter(f"{self.prefix}:members:*"):
            for member, text in self.client.hgetall(key).items():
                seen, _, document = text.partition(" ")
                self.client.hset(key, member, f"{int(seen) - int(seconds)} {document}")

    def tamper(self, **fields: Any) -> None:
        self.client.hset(f"{self.prefix}:routes", mapping=fields)


@pytest.mark.service
class TestRedis(OutageContract, ServerContract):
    service = "redis"

    @pytest.fixture
    def place(self, redis: str, unique: str) -> Iterator[RedisPlace]:
        place = RedisPlace(redis, unique)
        yield place
        for key in list(place.client.scan_iter(f"{unique}:*")):
            place.client.delete(key)
        place.client.close()

    def restored(self, store: Any, live: LiveRoutes) -> None:
        """This server keeps nothing, so the table is gone, which is told; a new one is another table."""
        with pytest.raises(RouteSourceError, match="there is no route table at"):
            store.head()
        store.create(1.0)
        live.refresh()
        assert "it was put back, or is another one" in str(live._error)
        assert not live.view().fresh()  # type: ignore[union-attr]

    def test_the_prefix_is_that_of_all_keys(self, place: RedisPlace, store: RouteStore) -> None:
        """Two prefixes are two tables, and without one it is ``tenancy::``."""
        other = open_store(place.url.replace(f"{place.prefix}:", f"{place.prefix}:other:"))
        with pytest.raises(RouteSourceError, match="there is no route table"):
            other.head()
        other.create()
        store.write([put_workload("shop/orders")])
        assert other.head().version == 0
        assert sorted(place.client.scan_iter(f"{place.prefix}:*")) == [f"{place.prefix}:other:routes", f"{place.prefix}:routes"]

    def test_a_member_is_not_kept_for_ever(self, place: RedisPlace, store: RouteStore) -> None:
        """The key has a time to live, and who was not seen for a day goes with the next that registers."""
        store.register(Member("shop/orders", "c-1", "orders"))
        place.age(90000)
        store.register(Member("shop/orders", "c-2", "orders"))
        key = f"{place.prefix}:members:shop/orders"
        assert list(place.client.hgetall(key)) == ["c-2"]
        assert 86000 < place.client.ttl(key) <= 86400

    def test_a_replica_is_refused(self, own_service: Callable[[str], services.Service]) -> None:
        """A server that follows another one is never asked for routes, and says so."""
        primary, replica = own_service("redis"), own_service("redis")
        open_store(primary.address).create()
        host, port = primary.address.rpartition("/")[0].removeprefix("redis://").split(":")
        follower = client_library.Redis.from_url(replica.address)
        follower.replicaof(host, port)
        eventually(lambda: follower.exists("tenancy::routes"), 20)
        store = open_store(replica.address)
        for call in (store.head, store.snapshot):
            with pytest.raises(RouteSourceError, match="is a replica, which lags behind"):
                call()
        with pytest.raises(RouteSourceError, match="read only replica"):
            store.write([])

    def test_what_is_not_a_table(self, place: RedisPlace) -> None:
        """Keys of those names that hold something else are told, and left as they are."""
        name = f"{place.prefix}:routes"
        store = place.open()
        place.client.set(name, "text")
        for call in (store.head, store.snapshot, store.create, lambda: store.write([])):
            with pytest.raises(RouteSourceError, match="WRONGTYPE"):
                call()
        place.client.delete(name)
        broken = {"id": "x", "version": "one", "lease": "2", "schema": "1"}
        for fields in ({"id": "x"}, broken, {**broken, "version": "1", "lease": ""}):
            place.client.delete(name)
            place.client.hset(name, mapping=fields)
            for call in (store.head, store.snapshot):
                with pytest.raises(RouteSourceError, match="holds something that is no route table"):
                    call()

    def test_a_document_that_somebody_spoilt(self, place: RedisPlace, store: RouteStore) -> None:
        """The error names it, or says that it is no table."""
        for spoilt, said in (
            ("1 {", "the document 'a' is not JSON"),
            ("1 []", "'a' is not a JSON object"),
            ("x {}", "no route table"),
        ):
            place.client.hset(f"{place.prefix}:routes", "document:a", spoilt)
            with pytest.raises(RouteSourceError, match=said):
                store.snapshot()

    def test_scripts_that_the_server_has_forgotten(self, place: RedisPlace, store: RouteStore) -> None:
        """They are sent again."""
        store.write([])
        place.client.script_flush()
        assert store.write([]) == 2

    def test_a_connection_that_was_cut_is_made_again(self, place: RedisPlace, store: RouteStore) -> None:
        """An idle connection that the server has closed is not noticed by whoever calls."""
        for number in range(3):
            assert store.head().version == number
            place.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.05)
            assert store.write([]) == number + 1

    def test_a_watcher_connects_again(self, place: RedisPlace, store: RouteStore) -> None:
        """It is woken once when its connection is back, since it may have missed something, and by each write after that."""
        with watching(store) as woken:
            place.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert woken.wait(3.0)
            time.sleep(0.3)
            woken.clear()
            assert not woken.wait(1.0)
            store.write([])
            assert woken.wait(1.0)

    def test_passwords_are_not_told(self, redis: str) -> None:
        """Neither by the store's name nor by an error."""
        server = redis.rpartition("//")[2]
        for url in (f"redis://nobody:se%40cret@{server}", f"redis://:secret@{server}", f"redis://{server}?password=secret"):
            store = open_store(url)
            with pytest.raises(RouteSourceError) as caught:
                store.head()
            for text in (store.name, str(caught.value), repr(caught.value)):
                assert "cret" not in text, text


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://host/0?no_such_option=1", "redis://host/0?socket_timeout=soon"])
def test_a_url_that_is_none(url: str) -> None:
    """It is refused when the store is opened, not when it is needed."""
    with pytest.raises(ConfigurationError, match="is no URL of Redis"):
        open_store(url)


def test_a_silent_server_is_given_up() -> None:
    """Something that listens and never says a word holds nobody up for longer than the time-out."""
    with silent_server() as port:
        store = open_store(f"redis://someone:secret@127.0.0.1:{port}/0")
        for call in (store.create, lambda: store.write([])):
            start = time.monotonic()
            with pytest.raises(RouteSourceError) as caught:
                call()
            assert time.monotonic() - start < 2.6
            assert "secret" not in str(caught.value)


def test_a_watcher_of_a_silent_server_ends() -> None:
    """It ends with its attempt to connect, at the latest."""
    with silent_server() as port:
        store = open_store(f"redis://127.0.0.1:{port}/0")
        closing = threading.Event()
        watcher = threading.Thread(target=store.watch, args=(lambda: None, closing.is_set))
        watcher.start()
        time.sleep(0.2)
        closing.set()
        watcher.join(3)
        assert not watcher.is_alive()
