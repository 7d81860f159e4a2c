"""
A route table in Redis, or in Valkey.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ..._optional import extra
from ...errors import ConfigurationError, RouteSourceError
from ..lease import DEFAULT_LEASE
from ._base import SCHEMA, Head, Member, Put, Snapshot
from ._shared import (
    DAY,
    TIMEOUT,
    NoTableError,
    check_lease,
    check_puts,
    check_writable,
    conflict,
    decoded,
    encoded,
    is_same,
    member_of,
)
from ._urls import hidden, without_secrets

with extra("redis", "redis"):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

__all__ = ["RedisStore", "open_store"]

_HEAD = ("id", "version", "lease", "schema")
_DOCUMENT = "document:"
_LOOK = 0.25  # seconds in which a watcher notices that it is to end
_AGAIN = 1.0  # seconds between two attempts of a watcher to connect

# KEYS: the table. ARGV: id, lease, schema.
_CREATE = """
if redis.call('HEXISTS', KEYS[1], 'id') == 0 then
  redis.call('HSET', KEYS[1], 'id', ARGV[1], 'version', '0', 'lease', ARGV[2], 'schema', ARGV[3])
end
"""

# KEYS: the table. ARGV: the channel, the schema; then name, expected version, text for each document, the text empty to remove it.
_WRITE = """
local known = redis.call('HMGET', KEYS[1], 'version', 'schema')
if not known[1] then return {'absent'} end
if known[2] ~= ARGV[2] then return {'schema', known[2]} end
for i = 3, #ARGV, 3 do
  local text = redis.call('HGET', KEYS[1], ARGV[i])
  local found = text and string.match(text, '^%d+') or '0'
  if found ~= ARGV[i + 1] then return {'conflict', (i - 3) / 3, found} end
end
redis.call('HINCRBY', KEYS[1], 'version', 1)
local version = redis.call('HGET', KEYS[1], 'version')
for i = 3, #ARGV, 3 do
  if ARGV[i + 2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], version .. ' ' .. ARGV[i + 2])
  end
end
redis.call('PUBLISH', ARGV[1], version)
return {'written', version}
"""

# KEYS: the members of a workload. ARGV: member, text, seconds in a day. Who was not seen for a day is forgotten.
_REGISTER = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', now) .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if now - tonumber(string.match(all[i + 1], '^%d+') or '0') > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], all[i]) end
end
"""

# KEYS: the members of a workload. ARGV: member, the text that was found: whoever has registered since stays.
_UNREGISTER = """
local found = redis.call('HMGET', KEYS[1], ARGV[1])[1]
if found and string.match(found, '^%d+ (.*)$') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""


class RedisStore:
    """
    A route store in Redis: one hash, so that one command reads all of it as it was at one moment.

    Every call is answered or fails within the time-out. A process that was forked makes connections of its own.

    Args:
        url: ``redis://user:password@host:6379/0``, or ``rediss://`` with TLS. ``?prefix=name:`` has the names of all keys begin otherwise
            than with ``tenancy::``, which no name that is made from a routing key does; all other options are those of redis-py.
        timeout: Seconds for which a call waits: for the connection, and for each part of the answer.

    Raises:
        ConfigurationError: If the URL is not one of these.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self.url = url
        self.name = f"the route store {hidden(url)}"
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        prefix = query.pop("prefix", "tenancy::")
        self._table, self._channel, self._members = f"{prefix}routes", f"{prefix}changes", f"{prefix}members:"
        try:
            # A call that is tried again has no time-out. A child that is forked has connections of its own: redis-py sees to that.
            self._client = redis.Redis.from_url(
                urlunsplit(parts._replace(query=urlencode(query))),
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # so that options are checked now
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{hidden(url)!r} is no URL of Redis: {without_secrets(str(error), url)}") from error

    def create(self, lease: float = DEFAULT_LEASE) -> Head:
        """
        Make an empty table, unless there is one, which then stays as it is, its lease included.

        Args:
            lease: Seconds for which a read of the table may be acted on.

        Raises:
            ConfigurationError: If the lease is not a time.
            RouteSourceError: If the table cannot be made.
        """
        check_lease(lease)
        try:
            return self.head()
        except NoTableError:
            pass
        with self._connected() as client:
            client.register_script(_CREATE)([self._table], [secrets.token_hex(8), repr(float(lease)), SCHEMA])
        return self.head()

    def head(self) -> Head:
        """
        Return the table's id and version.

        Raises:
            RouteSourceError: If it cannot be read.
        """
        return self._head(self._read(lambda pipeline: pipeline.hmget(self._table, _HEAD)))

    def snapshot(self) -> Snapshot:
        """
        Read the whole table, in one command.

        Raises:
            RouteSourceError: If it cannot be read.
        """
        fields = self._read(lambda pipeline: pipeline.hgetall(self._table))
        head = self._head([fields.get(name) for name in _HEAD])
        documents = {}
        for field, text in fields.items():
            if field.startswith(_DOCUMENT):
                name, (version, _, document) = field[len(_DOCUMENT) :], text.partition(" ")
                documents[name] = (self._number(version), decoded(document, self.name, name))
        return Snapshot(head, documents)

    def write(self, puts: Sequence[Put]) -> int:
        """
        Write documents, all or none, and return the table's new version.

        Args:
            puts: What to write, each document once.

        Raises:
            ConflictError: If one of them was written since it was read; nothing is changed then.
            RouteSourceError: If it cannot be written, or if it is not known whether it was.
        """
        check_puts(puts)
        arguments: list[Any] = [self._channel, SCHEMA]
        for put in puts:
            arguments += [_DOCUMENT + put.name, put.expected, "" if put.document is None else encoded(put.document)]
        with self._connected(writing=True) as client:
            outcome, *told = client.register_script(_WRITE)([self._table], arguments)
        if outcome == "absent":
            raise NoTableError(hidden(self.url))
        if outcome == "schema":
            check_writable(self._number(told[0]), self.name)
        if outcome == "conflict":
            raise conflict(self.name, puts[int(told[0])], self._number(told[1]))
        return self._number(told[0])

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* for each message; and after each time that a connection was lost, since one may have been missed.
        """
        first = True
        while not closed():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(self._channel)
                    if not first:
                        changed()
                    while not closed():
                        if subscription.get_message(timeout=_LOOK) is not None:
                            changed()
            except Exception:  # noqa: BLE001, S110 - whoever reads the table says what is wrong
                pass
            first = False
            end = time.monotonic() + _AGAIN
            while not closed() and time.monotonic() < end:
                time.sleep(_LOOK)

    def register(self, member: Member) -> None:
        """
        Note that a consumer runs.

        Raises:
            RouteSourceError: If it cannot be written.
        """
        with self._connected() as client:
            key = self._members + member.workload
            client.register_script(_REGISTER)([key], [member.member, encoded(member._asdict()), DAY])

    def unregister(self, member: Member) -> None:
        """
        Forget a consumer, if it is the one that is registered: of the same group, sandbox and table.

        Raises:
            RouteSourceError: If it cannot be written.
        """
        with self._connected() as client:
            key = self._members + member.workload
            (text,) = client.hmget(key, [member.member])
            found = str(text or "").partition(" ")[2]
            if found and is_same(member_of(decoded(found, self.name, "member"), self.name), member):
                client.register_script(_UNREGISTER)([key], [member.member, found])

    def members(self, workload: str) -> list[Member]:
        """
        Return the consumers of a workload that were registered within the last day.

        Raises:
            RouteSourceError: If they cannot be read.
        """
        with self._connected() as client, client.pipeline() as pipeline:
            pipeline.time()
            pipeline.hgetall(self._members + workload)
            (now, _), found = pipeline.execute()
        texts = [text.partition(" ") for _, text in sorted(found.items())]
        recent = [document for seen, _, document in texts if now - self._number(seen) <= DAY]
        return [member_of(decoded(document, self.name, "member"), self.name) for document in recent]

    def close(self) -> None:
        """
        Close all connections; the next call makes new ones.
        """
        self._client.close()

    def _read(self, ask: Callable[[redis.client.Pipeline], Any]) -> Any:
        with self._connected() as client, client.pipeline() as pipeline:
            pipeline.role()
            ask(pipeline)
            role, answer = pipeline.execute()
        if role[0] != "master":
            raise RouteSourceError(f"{self.name} is a replica, which lags behind; use the primary's address")
        return answer

    def _head(self, values: Sequence[str | None]) -> Head:
        id_, version, lease, schema = values
        if id_ is None:
            raise NoTableError(hidden(self.url))
        try:
            return Head(id_, self._number(version), float(lease or ""), self._number(schema))
        except ValueError as error:
            raise RouteSourceError(f"{self.name} holds something that is no route table: {error}") from error

    def _number(self, text: str | None) -> int:
        try:
            return int(text or "")
        except ValueError as error:
            raise RouteSourceError(f"{self.name} holds something that is no route table: {error}") from error

    @contextmanager
    def _connected(self, *, writing: bool = False) -> Iterator[redis.Redis]:
        try:
            yield self._client
        except (redis.RedisError, OSError) as error:
            said = without_secrets(str(error), self.url)
            unknown = writing and isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError))
            told = f"it is not known whether this was written: {said}. Read the table again" if unknown else said
            raise RouteSourceError(f"{self.name}: {told}") from error


def open_store(url: str) -> RedisStore:
    """
    Return the store at a ``redis:`` or ``rediss:`` URL.

    Raises:
        ConfigurationError: If the URL is not one of Redis.
    """
    return RedisStore(url)
