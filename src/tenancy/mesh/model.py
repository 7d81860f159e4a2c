"""
What a mesh target is told: where the baseline of each workload listens, and who forks it. Nothing here is of one mesh.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, get_args

from ..errors import ConfigurationError, InvalidRoutingKeyError
from ..key import RoutingKey
from ..naming import is_workload

__all__ = ["Baseline", "Endpoint", "Fork", "Protocol", "check_seconds", "check_workload"]

#: What a workload speaks. gRPC is HTTP/2; it has a name of its own because Kubernetes targets have a route kind of its own for it.
Protocol = Literal["http1", "http2", "grpc"]

# As RFC 1123 has it, and with the underscore that container runtimes allow in service names.
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_HOST = 253  # characters; RFC 1035, section 2.3.4


@dataclass(frozen=True, order=True)
class Endpoint:
    """
    A host and a port.

    Args:
        host: An IPv4 or IPv6 address without brackets, or a DNS name.
        port: 1 to 65535.

    Raises:
        ConfigurationError: If either cannot be one.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        problem = _host_problem(self.host)
        if problem is not None:
            raise ConfigurationError(f"{self.host!r} is not a host: {problem}; use an IP address or a DNS name")
        if type(self.port) is not int or not 1 <= self.port <= 65535:
            raise ConfigurationError(f"{self.port!r} is not a port of {self.host}; use a number from 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """
        Read ``host:port``, or ``[address]:port`` for IPv6.

        Raises:
            ConfigurationError: If *text* has no such form.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or (":" in host and not bracketed):
            raise ConfigurationError(f"{text!r} is not an address; write host:port, or [address]:port for IPv6")
        return cls(host[1:-1] if bracketed else host, int(port))

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """
        The host as an IP address; None where it is a name.
        """
        return _address(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Baseline:
    """
    The stable version of a workload: what serves every request that no fork owns.

    Forks are reached with the protocol and the timeouts of their baseline.

    Args:
        workload: ``namespace/name``, such as ``shop/pricing``.
        upstream: Where the baseline itself listens.
        protocol: What it speaks there.
        timeout: Seconds for a whole response; None (the default) for no limit, which server-sent events, gRPC streams and long
            downloads need.
        idle_timeout: Seconds that a request, stream or WebSocket may be silent in both directions; None for no limit.
        connect_timeout: Seconds to open a connection.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    workload: str
    upstream: Endpoint
    protocol: Protocol = "http1"
    timeout: float | None = None
    idle_timeout: float | None = 3600.0
    connect_timeout: float = 5.0

    def __post_init__(self) -> None:
        check_workload(self.workload)
        _check_upstream(self.workload, self.upstream)
        if self.protocol not in get_args(Protocol):
            raise ConfigurationError(
                f"{self.workload} has the protocol {self.protocol!r}; use one of {', '.join(get_args(Protocol))}"
            )
        for name in ("timeout", "idle_timeout"):
            if getattr(self, name) is not None:
                check_seconds(f"the {name} of {self.workload}", getattr(self, name))
        check_seconds(f"the connect_timeout of {self.workload}", self.connect_timeout)


@dataclass(frozen=True)
class Fork:
    """
    One sandbox's version of a workload, and the key that leads to it.

    A route group, whose key leads to forks of several sandboxes, is one `Fork` for each of them.

    Args:
        workload: The workload that is forked, ``namespace/name``.
        key: The routing key; a `tenancy.RoutingKey` afterwards.
        sandbox: The sandbox's name, with the grammar of a routing key.
        upstream: Where the fork listens.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    workload: str
    key: str
    sandbox: str
    upstream: Endpoint

    def __post_init__(self) -> None:
        check_workload(self.workload)
        for name in ("key", "sandbox"):
            try:
                object.__setattr__(self, name, RoutingKey(getattr(self, name)))
            except InvalidRoutingKeyError as error:
                raise ConfigurationError(f"the {name} of a fork of {self.workload} cannot be used: {error}") from error
        _check_upstream(f"the fork of {self.workload} in sandbox {self.sandbox}", self.upstream)


def check_workload(name: object) -> None:
    """
    Raise a `ConfigurationError` where *name* is not ``namespace/name``.
    """
    if not is_workload(name):
        raise ConfigurationError(f"{name!r} is not a workload; write namespace/name in lower case, such as 'shop/pricing'")


def check_seconds(what: str, value: object) -> None:
    """
    Raise a `ConfigurationError` where *value* is not a time that can be waited for.

    Args:
        what: What the value is, for the message.
        value: Seconds, from a millisecond to a year.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not 0.001 <= value <= 31_536_000
    ):
        raise ConfigurationError(f"{what} is {value!r}; give seconds, from 0.001 to a year, or leave it out")


def _check_upstream(what: str, upstream: object) -> None:
    if not isinstance(upstream, Endpoint):
        raise ConfigurationError(f"the upstream of {what} is {upstream!r}; give an Endpoint, such as Endpoint('10.0.0.7', 8080)")
    if upstream.address is not None and upstream.address.is_unspecified:
        raise ConfigurationError(f"the upstream of {what} is {upstream}, where nothing can be reached; give the address it has")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _host_problem(host: object) -> str | None:
    if not isinstance(host, str) or not host:
        return "it is empty or not text"
    if _address(host) is not None:
        return "a zone cannot be used here" if "%" in host else None
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_HOST or any(_HOST_LABEL.fullmatch(label) is None for label in labels):
        return "neither an address nor a DNS name"
    # https://url.spec.whatwg.org/#ends-in-a-number-checker: such a name would be read as a broken IPv4 address.
    return "it looks like an IPv4 address, but is none" if labels[-1].isdigit() else None
