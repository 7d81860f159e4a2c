"""
Deduplication in Redis, or in Valkey.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

from ..._optional import extra
from ...errors import ConfigurationError, DeduplicationError
from ...routes.stores._shared import TIMEOUT
from ...routes.stores._urls import hidden, without_secrets
from ._base import RETENTION, TTL, claimed, counted, whole
from ._records import CLAIMED, DONE, Claim, Outcome, Record, check_seconds, judged, name_of, new_token, owner_of

with extra("redis", "redis"):
    import redis
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

__all__ = ["RedisDeduplication", "open_deduplication"]

_AGAIN = (redis.ConnectionError,)

# A record is one key, with a time to live: "state token owner". An expired one is gone, so no script has to look at a clock. Each script does
# what `_records` decides, and no other command comes in between.

# KEYS: the record. ARGV: its text for a claim, the claim's time to live in milliseconds. Answers the record that is there now.
_CLAIM = """
local held = redis.call('GET', KEYS[1])
if held then return {held, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1], tonumber(ARGV[2])}
"""

# KEYS: the record. ARGV: the token, its text for what is done, how long it is kept in milliseconds. Answers 1 if the claim was still ours.
_DONE = """
local held = redis.call('GET', KEYS[1])
local state, token = string.match(held or '', '^(%S+) (%S+)')
if state ~= 'done' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return token == ARGV[1] and 1 or 0
"""

# KEYS: the record. ARGV: the token. Answers 1 if the claim was still ours.
_RELEASE = """
local held = redis.call('GET', KEYS[1])
local state, token = string.match(held or '', '^(%S+) (%S+)')
if state ~= 'claimed' or token ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class RedisDeduplication:
    """
    A deduplication in Redis: a key for each message id, which Redis removes when its time is over.

    Every call is answered or fails within the time-out. A process that was forked makes connections of its own, and so does each event
    loop.

    Args:
        url: ``redis://user:password@host:6379/0``, or ``rediss://`` with TLS. ``?prefix=name:`` has the names of all keys begin otherwise
            than with ``tenancy::``, which no name that is made from a routing key does; all other options are those of redis-py.
        ttl: Seconds after which a claim expires.
        retention: Seconds for which it is remembered that a message was handled.
        timeout: Seconds for which a call waits: for the connection, and for each part of the answer.

    Raises:
        ConfigurationError: If the URL is not one of these, or a time is none.
    """

    def __init__(self, url: str, *, ttl: float = TTL, retention: float = RETENTION, timeout: float = TIMEOUT) -> None:
        self.url = url
        self.name = f"the deduplication {hidden(url)}"
        self.ttl = check_seconds("ttl", ttl)
        self.retention = check_seconds("retention", retention)
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._prefix = f"{query.pop('prefix', 'tenancy::')}message:"
        self._address = urlunsplit(parts._replace(query=urlencode(query)))
        # A call on a connection that turns out to be closed is made once more: all of them can be, since each has a token. What has taken too
        # long is not.
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry_on_error": list(_AGAIN),
            "decode_responses": True,
        }
        try:
            # A child that is forked has connections of its own: redis-py sees to that.
            self._client = redis.Redis.from_url(self._address, retry=Retry(NoBackoff(), 1, _AGAIN), **self._options)
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # so that options are checked now
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{hidden(url)!r} is no URL of Redis: {without_secrets(str(error), url)}") from error
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()

    def claim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Ask whether a message is to be handled now; see `Deduplication.claim`.

        Raises:
            DeduplicationError: If Redis cannot be had; nobody knows then whether there is a claim, which expires if there is.
        """
        key, token, text = self._record(scope, message_id, CLAIMED, new_token(), owner)
        with self._connected() as client:
            answer = client.register_script(_CLAIM)([key], [text, _milliseconds(self.ttl)])
        return self._judged(answer, scope, message_id, token)

    def done(self, claim: Claim) -> bool:
        """
        Note that the message was handled; see `Deduplication.done`.

        Raises:
            DeduplicationError: If Redis cannot be had.
        """
        if not claim.token:
            return claim.ours
        key, token, text = self._record(claim.scope, claim.message_id, DONE, claim.token, claim.owner)
        with self._connected() as client:
            return bool(client.register_script(_DONE)([key], [token, text, _milliseconds(self.retention)]))

    def release(self, claim: Claim) -> bool:
        """
        Give a claim back; see `Deduplication.release`.

        Raises:
            DeduplicationError: If Redis cannot be had; the claim expires.
        """
        if not claim.token:
            return claim.ours
        with self._connected() as client:
            return bool(client.register_script(_RELEASE)([self._key(claim.scope, claim.message_id)], [claim.token]))

    def close(self) -> None:
        """
        Close the connections of this process, except for those of event loops; the next call makes new ones.
        """
        self._client.close()

    async def aclaim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Ask whether a message is to be handled now; see `Deduplication.aclaim`.

        Raises:
            DeduplicationError: If Redis cannot be had; nobody knows then whether there is a claim, which expires if there is.
        """
        key, token, text = self._record(scope, message_id, CLAIMED, new_token(), owner)

        async def ask() -> Claim:
            answer = await self._run(_CLAIM, key, text, _milliseconds(self.ttl))
            return self._judged(answer, scope, message_id, token)

        return await claimed(ask(), self)

    async def adone(self, claim: Claim) -> bool:
        """
        Note that the message was handled; see `Deduplication.adone`.

        Raises:
            DeduplicationError: If Redis cannot be had.
        """
        if not claim.token:
            return claim.ours
        key, token, text = self._record(claim.scope, claim.message_id, DONE, claim.token, claim.owner)
        return bool(await whole(self._run(_DONE, key, token, text, _milliseconds(self.retention))))

    async def arelease(self, claim: Claim) -> bool:
        """
        Give a claim back; see `Deduplication.arelease`.

        Raises:
            DeduplicationError: If Redis cannot be had; the claim expires.
        """
        if not claim.token:
            return claim.ours
        return bool(await whole(self._run(_RELEASE, self._key(claim.scope, claim.message_id), claim.token)))

    async def aclose(self) -> None:
        """
        Close the connections of the event loop that runs; the next call makes new ones.
        """
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.connection_pool.disconnect()

    def _key(self, scope: str, message_id: str) -> str:
        # Neither name has a space.
        return f"{self._prefix}{name_of(scope, 'scope')} {name_of(message_id, 'message id')}"

    def _record(self, scope: str, message_id: str, state: str, token: str, owner: str | None) -> tuple[str, str, str]:
        return self._key(scope, message_id), token, f"{state} {token} {owner_of(owner)}"

    def _judged(self, answer: Any, scope: str, message_id: str, token: str) -> Claim:
        text, milliseconds = answer
        state, found, owner = [*text.split(" ", 2), "", ""][:3]
        if state not in (CLAIMED, DONE) or not found:
            raise DeduplicationError(f"{self.name}: the key {self._key(scope, message_id)!r} holds something else: {text[:64]!r}")
        # Less than a millisecond counts as one. A key without a time to live was not written here, or was made to stay.
        seconds = max(1, milliseconds) / 1000 if milliseconds >= 0 else self.retention
        claim = judged(Record(state, found, owner, seconds), scope, message_id, token)
        return counted(claim or Claim(scope, message_id, Outcome.BUSY))

    async def _run(self, script: str, key: str, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = redis.asyncio.Redis.from_url(self._address, retry=AsyncRetry(NoBackoff(), 1, _AGAIN), **self._options)
            self._clients[loop] = client
        with self._connected():
            return await client.register_script(script)([key], arguments)

    @contextmanager
    def _connected(self) -> Iterator[redis.Redis]:
        try:
            yield self._client
        except (redis.RedisError, OSError, UnicodeDecodeError) as error:
            raise DeduplicationError(f"{self.name}: {without_secrets(str(error), self.url)}") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def open_deduplication(url: str, *, ttl: float = TTL, retention: float = RETENTION) -> RedisDeduplication:
    """
    Return the deduplication at a ``redis:`` or ``rediss:`` URL.

    Raises:
        ConfigurationError: If the URL is not one of Redis, or a time is none.
    """
    return RedisDeduplication(url, ttl=ttl, retention=retention)
