"""
Targets: the host that a channel leads to, and whether a routing key may go there.
"""

from __future__ import annotations

import re

from ..egress import current_egress, report_withheld
from ..observe import count

__all__ = ["Destination", "hosts_of"]

# https://grpc.github.io/grpc/core/md_doc_naming.html
_LOCAL = ("unix:", "unix-abstract:")
_AUTHORITY = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/]*/?")
_SCHEME = re.compile(r"(dns|ipv4|ipv6|xds|google-c2p):(?!//)", re.IGNORECASE)


class Destination:
    """
    Where the calls of one channel go.

    Args:
        trusted: Whether the key may go there; or the channel's target, to be judged by the setting ``trusted_hosts``.
    """

    __slots__ = ("_host", "trusted")

    def __init__(self, trusted: bool | str) -> None:
        self._host = _untrusted(trusted) if isinstance(trusted, str) else None
        self.trusted = self._host is None if isinstance(trusted, str) else trusted

    def withhold(self) -> None:
        """
        Count that a key was kept from going out, and warn about the host the first time.
        """
        if self._host is None:  # whoever said False needs no warning
            count("tenancy.egress.withheld", {"adapter": "grpc"})
        else:
            report_withheld("grpc", self._host)


def hosts_of(target: str) -> tuple[str, ...] | None:
    """
    Return the hosts that a channel's target names, without ports; none for a socket of this machine, None where nothing can be read.

    Args:
        target: What a channel is made with: ``orders:50051``, ``dns:///orders.shop.svc:50051``, ``ipv4:10.0.0.1:80,10.0.0.2:80``,
            ``[::1]:50051``, ``unix:/run/orders.sock``, ``xds:///orders``.
    """
    if target.lower().startswith(_LOCAL):
        return ()
    scheme = _AUTHORITY.match(target) or _SCHEME.match(target)
    rest = target[scheme.end() :] if scheme else target
    if scheme and scheme.group().lower().startswith(("ipv4:", "ipv6:")):
        found = [_host(address) for address in rest.split(",")]
    else:
        found = [_host(rest)]
    return tuple(found) if all(found) else None


def _host(address: str) -> str:
    """
    An address without its port.
    """
    address = address.strip()
    if address.startswith("["):
        return address[1:].partition("]")[0]
    name, colon, _ = address.partition(":")
    return address if colon and address.count(":") > 1 else name  # several colons and no brackets: an IPv6 address alone


def _untrusted(target: str) -> str | None:
    """
    The first host of a target that is not trusted, or the target itself where no host can be read; None where all are trusted.
    """
    hosts = hosts_of(target)
    if hosts is None:
        return target
    egress = current_egress()
    return next((host for host in hosts if not egress.allows(host)), None)
