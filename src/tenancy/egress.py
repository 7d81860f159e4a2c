"""
Egress: to which hosts a routing key may be sent. The decision is pure; no name is ever resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Union

from .config import settings
from .errors import ConfigurationError
from .observe import count, warn_once

__all__ = ["Egress", "current_egress", "report_withheld"]

Address = Union[IPv4Address, IPv6Address]  # noqa: UP007 - evaluated at run time
Network = Union[IPv4Network, IPv6Network]  # noqa: UP007

# Private use (RFC 1918, RFC 4193), loopback (RFC 1122, RFC 4291) and link-local (RFC 3927, RFC 4291). Not `is_private`, whose meaning
# changed between Python versions and which includes documentation and reserved ranges.
_PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10")
)  # fmt: skip
# Kubernetes Services, and the name that ICANN reserved for private use (resolution 2024.07.29.06).
_PRIVATE_SUFFIXES = (".svc", ".cluster.local", ".internal")

# An underscore is no host name's, but Docker Compose makes names of services that have it.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
# https://url.spec.whatwg.org/#ends-in-a-number-checker: a host whose last label is a number is an IPv4 address, or nothing.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_MAX_LENGTH = 300  # characters; a name has at most 253 (RFC 1035, section 2.3.4), beside brackets, a port and a last dot
_MEMORY = 1024


class Egress:
    """
    Decides whether a host may be told the routing key.

    Always trusted: names of one label (``orders``), ``localhost``, names under ``.svc``, ``.cluster.local`` and ``.internal``, and
    private, loopback and link-local addresses.

    Args:
        trusted: Further hosts: names, ``*.example.com`` (every name below, not ``example.com`` itself), addresses, and networks such as
            ``100.64.0.0/10``.

    Raises:
        ConfigurationError: If an entry of *trusted* is none of these.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        names: set[str] = set()
        suffixes = list(_PRIVATE_SUFFIXES)
        networks = list(_PRIVATE)
        for entry in trusted:
            network = _network(entry)
            if network is not None:
                networks.append(network)
                continue
            wildcard = entry.startswith("*.")
            name = _normal(entry[2:] if wildcard else entry)
            if name is None or _addresses(name) is not None:
                raise ConfigurationError(
                    f"trusted_hosts (TENANCY_TRUSTED_HOSTS) has {entry!r}; use a host name, '*.example.com', an address or a network such as "
                    "100.64.0.0/10, without scheme, port or path"
                )
            if wildcard:
                suffixes.append(f".{name.rstrip('.')}")
            else:
                names.add(name.rstrip("."))
        self._names = frozenset(names)
        self._suffixes = tuple(suffixes)
        self._networks = tuple(networks)
        self._remembered = lru_cache(maxsize=_MEMORY)(self._decide)

    def allows(self, host: str | None) -> bool:
        """
        Return whether *host* may be told the routing key; never raises.

        Args:
            host: A name or an address, as in the URL that is called, with a port or without; an IPv6 address with brackets or without. What
                is not clearly a host (user information, a path, white space, an empty name) is not trusted.
        """
        if not host or len(host) > _MAX_LENGTH:
            return False
        return self._remembered(host)

    def _decide(self, host: str) -> bool:
        name = _normal(_without_port(host))
        if name is None:
            return False
        meant = _addresses(name)
        if meant is not None:
            return bool(meant) and all(map(self._contains, meant))
        bare = name.rstrip(".")
        if bare == "localhost" or bare in self._names or bare.endswith(self._suffixes):
            return True
        # One label with a dot behind it is a top-level domain: it is looked up as it stands, not in the search list of the pod.
        return "." not in name

    def _contains(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def current_egress() -> Egress:
    """
    Return the egress rule of the current settings.
    """
    return _egress(settings().trusted_hosts)


def report_withheld(adapter: str, host: str | None) -> None:
    """
    Count that a key was not sent, and warn about the host the first time.

    Args:
        adapter: Who withheld it, such as ``httpx``.
        host: The host that is not trusted.
    """
    count("tenancy.egress.withheld", {"adapter": adapter})
    shown = (host or "")[:_MAX_LENGTH]
    warn_once(
        f"egress:{shown}",
        "%s: the routing key was withheld from %r, which is not a trusted host. If it is one of yours, add it to trusted_hosts "
        "(TENANCY_TRUSTED_HOSTS). Further ones are only counted (tenancy.egress.withheld).",
        adapter,
        shown,
    )


@lru_cache(maxsize=32)
def _egress(trusted: tuple[str, ...]) -> Egress:
    return Egress(trusted)


def _network(entry: str) -> Network | None:
    try:
        return ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or (name.startswith("[") and name.endswith("]"))):
        return name
    return host


def _normal(host: str) -> str | None:
    """
    A host in lower case and in ASCII, an IPv6 address without its brackets and zone; None where it is not a host.
    """
    if ":" in host:
        return _ipv6(host)
    if not host.isascii():
        lowered = host.lower()
        try:
            encoded = lowered.encode("idna").decode("ascii")
            # Names that IDNA 2003 and 2008 encode differently (an eszett, say) and look-alikes of ASCII (full-width digits) do not come
            # back the same; which host a client would make of them is not known here.
            if encoded.encode("ascii").decode("idna") != lowered:
                return None
        except UnicodeError:
            return None
        host = encoded
    host = host.lower()
    return host if _NAME.fullmatch(host.removesuffix(".")) else None


def _ipv6(host: str) -> str | None:
    if host.startswith("[") != host.endswith("]"):
        return None
    text = host.strip("[]").partition("%")[0]
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        return None


def _addresses(name: str) -> tuple[Address, ...] | None:
    """
    The addresses that a normalised host may mean: several where resolvers disagree, none where it is a number that is no address; None
    where it is a name.
    """
    if ":" in name:
        address = ip_address(name)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (address if mapped is None else mapped,)
    labels = name.removesuffix(".").split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    readings = {_ipv4(labels, octal=True)}
    if any(len(label) > 1 and label[0] == "0" and label.isdigit() for label in labels):
        readings.add(_ipv4(labels, octal=False))  # libc reads a leading zero as octal, others do not
    return tuple(address for address in readings if address is not None) if None not in readings else ()


def _ipv4(labels: list[str], *, octal: bool) -> IPv4Address | None:
    """
    What inet_aton(3) makes of one to four decimal, octal or hexadecimal numbers, of which the last fills the remaining bytes.
    """
    if len(labels) > 4 or not all(map(_NUMBER.fullmatch, labels)):
        return None
    value = 0
    for index, label in enumerate(labels):
        try:
            number = int(label, 16 if label.startswith("0x") else 8 if octal and label[0] == "0" else 10)
        except ValueError:
            return None
        last = index == len(labels) - 1
        width = 8 * (5 - len(labels)) if last else 8
        if number >= 1 << width:
            return None
        value = value << width | number
    return IPv4Address(value)
