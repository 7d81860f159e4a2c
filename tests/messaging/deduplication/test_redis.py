"""
Deduplication in Redis: the contract, and what is different about Redis.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client_library

from tenancy.errors import ConfigurationError, DeduplicationError
from tenancy.messaging.deduplication import open_deduplication
from tests import services
from tests.messaging.deduplication.contract import SCOPE, Place, ServerContract
from tests.messaging.deduplication.outages import OutageContract
from tests.routes.stores.contract import eventually


class RedisPlace(Place):
    url: str

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(f"{url}?prefix={prefix}:")
        self.prefix = prefix
        self.client = client_library.Redis.from_url(url, decode_responses=True)

    def names(self) -> list[str]:
        return sorted(self.client.scan_iter(f"{self.prefix}:*", count=1000))

    def age(self, seconds: float) -> None:
        for key in self.names():
            left = self.client.pttl(key) - round(seconds * 1000)
            if left > 0:
                self.client.pexpire(key, left)
            else:
                self.client.delete(key)


@pytest.mark.service
class TestRedis(OutageContract, ServerContract):
    service = "redis"

    @pytest.fixture
    def place(self, redis: str, unique: str) -> Iterator[RedisPlace]:
        place = RedisPlace(redis, unique)
        yield place
        for key in place.names():
            place.client.delete(key)
        place.client.close()

    def test_a_key_for_each_message_which_redis_removes(self, place: RedisPlace) -> None:
        """Its name tells the message, and it has a time to live, as a claim and as what was done."""
        handle = place.open(ttl=30, retention=600)
        claim = handle.claim(SCOPE, "m-1", owner="pod 7")
        [key] = place.names()
        assert key == f"{place.prefix}:message:shop/orders:orders m-1"
        assert place.client.get(key) == f"claimed {claim.token} pod 7"
        assert 29_000 < place.client.pttl(key) <= 30_000
        handle.done(claim)
        assert place.client.get(key) == f"done {claim.token} pod 7"
        assert 599_000 < place.client.pttl(key) <= 600_000
        handle.close()

    def test_the_prefix_is_that_of_all_keys(self, place: RedisPlace) -> None:
        """Two prefixes are two places."""
        one, other = place.open(), open_deduplication(place.url.replace(f"{place.prefix}:", f"{place.prefix}:other:"))
        assert one.claim(SCOPE, "m-1").ours
        assert other.claim(SCOPE, "m-1").ours
        assert [key.startswith(f"{place.prefix}:other:") for key in place.names()] == [False, True]
        one.close()
        other.close()

    def test_what_is_no_record(self, place: RedisPlace) -> None:
        """A key of that name that holds something else is told, and left as it is."""
        handle = place.open()
        key = f"{place.prefix}:message:{SCOPE} m-1"
        for value in ("text", "", "claimed", "other x y"):
            place.client.set(key, value)
            with pytest.raises(DeduplicationError, match="holds something else"):
                handle.claim(SCOPE, "m-1")
            assert place.client.get(key) == value
        place.client.delete(key)
        place.client.rpush(key, "x")
        with pytest.raises(DeduplicationError, match="WRONGTYPE"):
            handle.claim(SCOPE, "m-1")
        handle.close()

    def test_a_server_that_has_forgotten_the_scripts(self, place: RedisPlace) -> None:
        """They are sent again."""
        handle = place.open()
        claim = handle.claim(SCOPE, "m-1")
        place.client.script_flush()
        assert handle.done(claim) is True
        place.client.script_flush()
        assert handle.claim(SCOPE, "m-1").done
        handle.close()

    async def test_connections_that_were_closed(self, place: RedisPlace) -> None:
        """A server or a proxy that closes idle connections is not noticed by whoever calls, in threads or in a loop."""
        handle = place.open()
        claim, other = handle.claim(SCOPE, "m-1"), await handle.aclaim(SCOPE, "m-2")
        calls: list[Callable[[], Any]] = [
            lambda: handle.done(claim),
            lambda: handle.adone(other),
            lambda: handle.aclaim(SCOPE, "m-3"),
            lambda: handle.claim(SCOPE, "m-4"),
        ]
        for call in calls:
            place.client.client_kill_filter(_type="normal", skipme=True)
            answer = call()
            answer = await answer if inspect.isawaitable(answer) else answer
            assert answer is True or answer.ours
        await handle.aclose()
        handle.close()

    def test_a_replica_is_refused(self, own_service: Callable[[str], services.Service]) -> None:
        """A server that follows another one claims nothing, and says so."""
        primary, replica = own_service("redis"), own_service("redis")
        open_deduplication(primary.address).claim(SCOPE, "m-1")
        host, port = primary.address.rpartition("/")[0].removeprefix("redis://").split(":")
        follower = client_library.Redis.from_url(replica.address)
        follower.replicaof(host, port)
        eventually(lambda: follower.exists(f"tenancy::message:{SCOPE} m-1"), 20)
        with pytest.raises(DeduplicationError, match="read only replica"):
            open_deduplication(replica.address).claim(SCOPE, "m-2")


@pytest.mark.parametrize("url", ["redis://localhost/0?nothing=1", "redis://localhost:port/0"])
def test_what_is_no_url_of_redis_is_refused(url: str) -> None:
    """It is told when it is opened, not at the first message."""
    with pytest.raises(ConfigurationError, match="is no URL of Redis"):
        open_deduplication(url)


@pytest.mark.parametrize("url", ["", "redis", "mysql://host/database", "http://user:secret@host"])
def test_what_is_no_place_is_refused(url: str) -> None:
    """The error names the schemes that there are, and no password."""
    with pytest.raises(ConfigurationError, match="use a URL whose scheme is one of postgresql, redis, rediss, sqlite") as caught:
        open_deduplication(url)
    assert "secret" not in str(caught.value)
