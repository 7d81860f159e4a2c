"""
What makes a database for a key: the protocol, and the life of a database that any way of making one goes through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ._registry import READY, Attempt, Registry, shown_url

__all__ = ["Database", "Databases", "Provider", "RegisteredProvider", "check_function", "migrated", "parsed"]


@dataclass(frozen=True)
class Database:
    """
    A key's database, finished and ready to be used.

    Args:
        address: A URL. One without a host, such as ``postgresql:///shop__pr_42``, is a database on the server of the baseline's engine, for
            its user.
        life: A token of this making of the database: one that was dropped and made again has another.
        since: When it was finished, in seconds since 1970, by the clock of who made it; None where nobody knows.
    """

    address: str = field(repr=False)
    life: str
    since: float | None = field(default=None, compare=False)


class Databases(dict[RoutingKey, Database]):
    """
    The databases that are finished, by key, and which are not: work of those keys is refused, so that it goes to no other database.

    Args:
        finished: Those that can be used.
        unfinished: Keys whose database is being made or dropped, or was when something failed, with ``creating`` or ``dropping``.
    """

    def __init__(self, finished: Mapping[RoutingKey, Database], unfinished: Mapping[RoutingKey, str]) -> None:
        super().__init__(finished)
        self.unfinished = unfinished


@runtime_checkable
class Provider(Protocol):
    """
    Makes and drops the databases of keys, and knows which there are. Every call may be repeated, from any process, also after a crash.
    """

    def create(self, key: RoutingKey | str) -> str:
        """
        Make the key's database, unless it is there; what an earlier call left unfinished is removed first.

        Args:
            key: The routing key.

        Returns:
            the address, see `Database`.

        Raises:
            InvalidRoutingKeyError: If *key* is not a routing key.
            PartitionError: If it cannot be made; it does not count as made then.
        """
        ...

    def drop(self, key: RoutingKey | str) -> None:
        """
        Remove the key's database, finished or not, and all connections to it; nothing where there is none.

        Args:
            key: The routing key.

        Raises:
            InvalidRoutingKeyError: If *key* is not a routing key.
            PartitionError: If it cannot be removed; call it again then.
        """
        ...

    def databases(self) -> Mapping[RoutingKey, Database]:
        """
        Return the databases that are finished, by key; as `Databases`, if it is known which are not.

        Raises:
            PartitionError: If it cannot be told which there are.
        """
        ...


class RegisteredProvider(ABC):
    """
    A provider whose databases are listed in a `Registry`. A subclass says how one is made and removed; the order of steps, crashes,
    other processes and repeated calls are seen to here.

    Each step is noted before it is taken. A database counts from the moment that its last step is noted, so that of a creation which was cut
    off nothing is ever used, and the next one knows that there is something to remove.

    Args:
        name: What the databases are of, for example the name of the golden database.
        registry: Where they are listed.
    """

    def __init__(self, name: str, registry: Registry) -> None:
        given: Any = name
        if not (isinstance(given, str) and 0 < len(given) <= 255):
            raise ConfigurationError(f"the name is {name!r}; give 1 to 255 characters, such as 'shop'")
        self.name = name
        self.registry = registry

    @abstractmethod
    def make(self, key: RoutingKey, attempt: Attempt) -> str:
        """
        Make the key's database, where there is none, and return its address.

        Args:
            key: The routing key.
            attempt: The registry's hold on the key while this lasts, with a token and a connection to the registry's server.
        """

    @abstractmethod
    def remove(self, key: RoutingKey, attempt: Attempt) -> None:
        """
        Remove the key's database, finished, half made or not there.

        Args:
            key: The routing key.
            attempt: The registry's hold on the key; its ``entry`` has what was noted, with the address if the database was finished.
        """

    def exists(self, key: RoutingKey, attempt: Attempt) -> bool:  # noqa: ARG002 - a subclass looks
        """
        Return whether the database of a key is there, as far as that can be seen: somebody may have removed it by hand.
        """
        return attempt.entry is not None

    def has(self, database: str) -> bool:  # noqa: ARG002 - a subclass knows
        """
        Return whether a name, in lower case, is that of the golden database or of a key's, made or not, on a server where statements can name
        other databases.
        """
        return False

    def install(self) -> None:
        """
        Make the registry's table, unless it is there; `create` does so, too.

        Raises:
            PartitionError: If it cannot be made.
        """
        self.registry.install()

    def create(self, key: RoutingKey | str) -> str:
        """
        Make the key's database, unless it is there; see `Provider.create`.
        """
        key = RoutingKey(key)
        self.registry.install()
        with self.registry.attempt(self.name, key) as attempt:
            there = self.exists(key, attempt)
            entry = attempt.entry
            if entry is not None and entry.state == READY and there:
                return entry.address
            if entry is None and there:
                raise PartitionError(
                    f"there is a database for routing key {str(key)!r} of {self.name!r} that {self.registry.name} does not know, so somebody "
                    "else's: rename it or drop it by hand, then create again"
                )
            attempt.begin()
            if entry is not None:
                self.remove(key, attempt)
            address = self.make(key, attempt)
            attempt.finish(address, place(parsed(address, f"the address of routing key {str(key)!r}")))
            return address

    def drop(self, key: RoutingKey | str) -> None:
        """
        Remove the key's database; see `Provider.drop`.
        """
        key = RoutingKey(key)
        if not self.registry.installed():
            return
        with self.registry.attempt(self.name, key) as attempt:
            if attempt.entry is None:
                return
            attempt.begin(dropping=True)
            self.remove(key, attempt)
            attempt.forget()

    def databases(self) -> Databases:
        """
        Return the databases that are finished, and the keys of others; see `Provider.databases`.
        """
        entries = self.registry.entries(self.name)
        finished = {key: Database(entry.address, entry.life, entry.since) for key, entry in entries.items() if entry.state == READY}
        return Databases(finished, {key: entry.state for key, entry in entries.items() if key not in finished})


def parsed(address: str, what: str) -> URL:
    """
    Return an address as a URL.

    Args:
        address: The text.
        what: What it is, for the error.

    Raises:
        PartitionError: If it is no URL of a database.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError) as error:
        raise PartitionError(f"{what} is {shown_url(address)}; it must be a URL such as postgresql://user@host/database") from error
    if not url.database:
        raise PartitionError(f"{what} is {shown_url(address)}, which names no database")
    return url


def place(url: URL) -> str:
    """
    Return what of an address says where a database is, so that two ways to write it are known to be one.
    """
    backend = "mysql" if url.get_backend_name() == "mariadb" else url.get_backend_name()
    port = url.port or {"postgresql": 5432, "mysql": 3306}.get(backend)
    hosts = url.query.get("host", ())
    host = url.host or (hosts if isinstance(hosts, str) else ",".join(hosts))
    return f"{backend}://{host.lower()}:{port if host else ''}/{url.database}"


def check_function(owner: str, migrate: Callable[[str], object] | None) -> None:
    """
    Raise unless *migrate* can be called.
    """
    if migrate is not None and not callable(migrate):
        raise ConfigurationError(f"{owner}(migrate={migrate!r}): give a function of a URL, such as one that runs your migrations")


@contextmanager
def migrated(owner: str, key: RoutingKey) -> Iterator[None]:
    """
    Say of an error in the user's own function that the database does not count as made.
    """
    try:
        yield
    except Exception as error:
        raise PartitionError(
            f"{owner}: migrate() failed for the database of routing key {str(key)!r}, which is not used and made anew by the next create: "
            f"{type(error).__name__}: {error}"
        ) from error
