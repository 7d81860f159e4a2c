"""
The Envoy target: one static bootstrap configuration, one listener for each entrance to a workload.

The key is read once for each request by a Lua filter with the codec's own rules, written to a plain header, and looked up there in an
``exact_match_map``: the cost of a request does not grow with the number of sandboxes.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/lua_filter,
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/matching/matching_api
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ..config import DIALECTS, Field
from ..errors import ConfigurationError
from ..key import RESERVED
from .model import Baseline, Endpoint, check_seconds, check_workload
from .plan import Document, Plan, Route, fingerprint

__all__ = ["EnvoyTarget", "Listener"]

_TYPE = "type.googleapis.com/envoy."

# No quote, backslash or line feed, so that a name can stand in a Lua string as it is.
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._*/@-]*")
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_TAKEN = frozenset({"baggage", "tracestate", "traceparent", "host", "connection", "content-length", "transfer-encoding", "upgrade"})

# Headers that hold lists of name=value from which some reader takes baggage: W3C baggage and trace context; Jaeger's "jaeger-baggage",
# which OpenTelemetry Java's JaegerPropagator reads too; and the earlier name of W3C baggage, which .NET still reads:
# https://learn.microsoft.com/dotnet/api/system.diagnostics.distributedcontextpropagator.createdefaultpropagator
_LISTS = ("baggage", "tracestate", "jaeger-baggage", "correlation-context")
# What makes a header of a baggage member's name: nothing, the plain form, Datadog and OpenTracing, Jaeger, Brave and Sleuth.
_PREFIXES = ("", "x-", "ot-baggage-", "uberctx-", "baggage-")

# Below the shortest default of the common Python servers: gunicorn 2 seconds, uvicorn and hypercorn 5.
_KEEP_ALIVE = 1.5


@dataclass(frozen=True)
class Listener:
    """
    One entrance: an address where Envoy takes requests for one workload.

    Args:
        workload: The workload, ``namespace/name``; it may have several entrances.
        endpoint: Where Envoy listens, for HTTP/1.1 and HTTP/2 without TLS.
        edge: Whether this is the public gateway: routing keys of callers are stripped, in every spelling, and the baseline serves.
        trusted: Only with *edge*: networks such as ``10.0.0.0/8`` whose callers keep their keys. The address of the connection
            counts, never a header.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    workload: str
    endpoint: Endpoint
    edge: bool = False
    trusted: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_workload(self.workload)
        endpoint: object = self.endpoint
        if not isinstance(endpoint, Endpoint) or endpoint.address is None:
            raise ConfigurationError(f"{self.workload} listens on {endpoint}; give an Endpoint with an IP address")
        if isinstance(self.trusted, str):
            raise ConfigurationError(f"trusted of {self.workload} is one string, {self.trusted!r}; give a tuple of networks")
        if self.trusted and not self.edge:
            raise ConfigurationError(
                f"{self.workload} trusts {', '.join(self.trusted)}, but is no edge; set edge=True, or drop trusted"
            )
        object.__setattr__(self, "trusted", _networks(self.workload, self.trusted))


@dataclass(frozen=True)
class EnvoyTarget:
    """
    Renders one Envoy bootstrap configuration, for ``envoy --config-path``.

    Args:
        listeners: The entrances; every workload that is routed needs at least one.
        read: Where a key is looked for, in this order: the same fields as the services' own ``read`` setting, or mesh and services
            would see different keys.
        header: The name of the plain header that tells the workload which key was read; a caller's own is removed.
        admin: Where Envoy's administration interface listens; it must never be public. None: nowhere.
        max_header_kilobytes: How large all headers of a request together may be, 1 to 8192 KiB.
        keep_alive: Seconds that an idle HTTP/1.1 connection to a workload stays open; less than the workload's server keeps it, or
            now and then a request meets the closing connection and fails with 503.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    listeners: Sequence[Listener]
    read: tuple[Field, ...] = DIALECTS["signadot"]
    header: str = "x-sd-routing-key"
    admin: Endpoint | None = None
    max_header_kilobytes: int = 96
    keep_alive: float = _KEEP_ALIVE

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "listeners", tuple(sorted(self.listeners, key=lambda entry: (entry.workload.split("/"), entry.endpoint)))
        )
        object.__setattr__(self, "read", tuple(self.read))
        if not self.read:
            raise ConfigurationError("read is empty; name where a key is looked for, such as DIALECTS['signadot']")
        for field in self.read:
            if field.kind == "header":
                _check_header(field.name)
            elif field.kind not in ("baggage", "tracestate") or _MEMBER.fullmatch(field.name) is None:
                raise ConfigurationError(f"read has {field}; use fields such as Field('baggage', 'sd-routing-key')")
        _check_header(self.header)
        check_seconds("keep_alive", self.keep_alive)
        if type(self.max_header_kilobytes) is not int or not 1 <= self.max_header_kilobytes <= 8192:
            raise ConfigurationError(f"max_header_kilobytes is {self.max_header_kilobytes!r}; give a whole number from 1 to 8192")
        if self.admin is not None and self.admin.address is None:
            raise ConfigurationError(
                f"admin is {self.admin}; give an Endpoint with an IP address, such as Endpoint('127.0.0.1', 9901)"
            )
        _check_bindings(self.listeners, self.admin)

    def documents(self, plan: Plan) -> tuple[Document, ...]:
        """
        Return the bootstrap configuration, as the one document ``envoy``.

        Its ``node.metadata`` carries the SHA-256 of the rest, so that a running Envoy (``/config_dump`` of its administration
        interface) can be compared with what was rendered.

        Raises:
            ConfigurationError: If a workload has no listener, a listener no workload, or an upstream is one of the listeners.
        """
        self._check_plan(plan)
        routes = {route.baseline.workload: route for route in plan.routes}
        bootstrap: dict[str, Any] = {
            "node": {"id": "request-tenancy", "cluster": "request-tenancy"},
            "static_resources": {
                "listeners": [self._listener(listener, routes[listener.workload]) for listener in self.listeners],
                "clusters": [cluster for route in plan.routes for cluster in self._clusters(route)],
            },
        }
        if self.admin is not None:
            bootstrap["admin"] = {"address": _socket(self.admin)}
        bootstrap["node"]["metadata"] = {"tenancy": {"sha256": fingerprint(bootstrap)}}
        return (Document("envoy", bootstrap),)

    def _check_plan(self, plan: Plan) -> None:
        entrances = {listener.workload for listener in self.listeners}
        routed = {route.baseline.workload for route in plan.routes}
        if routed - entrances:
            raise ConfigurationError(f"no listener for {', '.join(sorted(routed - entrances))}; add a Listener for each workload")
        if entrances - routed:
            raise ConfigurationError(
                f"a listener for {', '.join(sorted(entrances - routed))}, which has no baseline route; add a Baseline"
            )
        for route in plan.routes:
            for upstream in (route.baseline.upstream, *(fork.upstream for fork in route.forks)):
                for listener in self.listeners:
                    if _is_loop(listener.endpoint, upstream):
                        raise ConfigurationError(
                            f"{route.baseline.workload} is sent to {upstream}, where Envoy itself listens for {listener.workload}: that "
                            "is a loop; give the address of the service"
                        )

    def _listener(self, listener: Listener, route: Route) -> dict[str, Any]:
        rendered: dict[str, Any] = {"name": f"{listener.workload}|{listener.endpoint}", "address": _socket(listener.endpoint)}
        if not listener.edge:
            rendered["filter_chains"] = [{"filters": [self._http(listener, route, strip=False)]}]
            return rendered
        if listener.trusted:
            networks = [ipaddress.ip_network(network) for network in listener.trusted]
            ranges = [{"address_prefix": str(network.network_address), "prefix_len": network.prefixlen} for network in networks]
            rendered["filter_chains"] = [
                {
                    "name": "trusted",
                    "filter_chain_match": {"source_prefix_ranges": ranges},
                    "filters": [self._http(listener, route, strip=False)],
                }
            ]
        rendered["default_filter_chain"] = {"name": "stripped", "filters": [self._http(listener, route, strip=True)]}
        return rendered

    def _http(self, listener: Listener, route: Route, *, strip: bool) -> dict[str, Any]:
        manager: dict[str, Any] = {
            "stat_prefix": listener.workload,
            "codec_type": "AUTO",  # HTTP/1.1, and HTTP/2 by its preface, which is what gRPC clients send
            "route_config": {"name": listener.workload, "virtual_hosts": [self._virtual_host(route, strip=strip)]},
            "max_request_headers_kb": self.max_header_kilobytes,
            "http_filters": [
                _typed("envoy.filters.http.lua", "extensions.filters.http.lua.v3.Lua", self._script(strip=strip)),
                _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True}),
            ],
            # Other people's headers are not ours to change.
            "generate_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
        }
        if listener.edge:
            manager["use_remote_address"] = True  # believe the connection, not the caller, about where a request is from
        if route.baseline.protocol == "http1":
            manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        return _typed(
            "envoy.filters.network.http_connection_manager",
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        )

    def _virtual_host(self, route: Route, *, strip: bool) -> dict[str, Any]:
        baseline = _route(route.baseline, "baseline")
        host: dict[str, Any] = {"name": route.baseline.workload, "domains": ["*"]}
        # Behind the strip nothing leads to a fork, so not even a fault in the filter could.
        if strip or not route.forks:
            host["routes"] = [baseline]
            return host
        keys = {str(fork.key): _action(_route(route.baseline, str(fork.key))) for fork in route.forks}
        # The input of a route matcher can only be a request header, not metadata.
        on = {"@type": f"{_TYPE}type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": self.header.lower()}
        host["matcher"] = {
            "matcher_tree": {"input": {"name": "routing-key", "typed_config": on}, "exact_match_map": {"map": keys}},
            "on_no_match": _action(baseline),
        }
        return host

    def _clusters(self, route: Route) -> Iterable[dict[str, Any]]:
        yield self._cluster(route.baseline, "baseline", route.baseline.upstream)
        for fork in route.forks:
            yield self._cluster(route.baseline, str(fork.key), fork.upstream)

    def _cluster(self, baseline: Baseline, owner: str, upstream: Endpoint) -> dict[str, Any]:
        name = _cluster_name(baseline, owner)
        if baseline.protocol == "http1":
            options: dict[str, Any] = {
                "common_http_protocol_options": {"idle_timeout": _duration(self.keep_alive)},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        else:
            options = {"explicit_http_config": {"http2_protocol_options": {}}}
        options["@type"] = f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster: dict[str, Any] = {
            "name": name,
            "type": "STRICT_DNS" if upstream.address is None else "STATIC",
            "connect_timeout": _duration(baseline.connect_timeout),
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(upstream)}}]}],
            },
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        }
        if upstream.address is None:
            # The default asks for IPv6 first, and "localhost" is then ::1, where few servers listen.
            cluster["dns_lookup_family"] = "V4_PREFERRED"
        return cluster

    def _script(self, *, strip: bool) -> dict[str, Any]:
        members = {field.name for field in self.read if field.kind != "header"}
        headers = {field.name for field in self.read if field.kind == "header"} | {self.header}
        headers |= {prefix + member for prefix in _PREFIXES for member in members}
        names: dict[str, Any] = {
            "READ": [[field.kind, field.name.lower() if field.kind == "header" else field.name] for field in self.read],
            "HEADER": self.header.lower(),
            "RESERVED": dict.fromkeys(sorted(RESERVED), True),
            "STRIP": strip
            and {
                "members": sorted({_folded(member) for member in members}),
                "headers": dict.fromkeys(sorted({_folded(header) for header in headers}), True),
                "lists": list(_LISTS),
            },
        }
        head = "".join(f"local {name} = {_lua(value)}\n" for name, value in names.items())
        return {"default_source_code": {"inline_string": head + _body()}}


@lru_cache(maxsize=1)
def _body() -> str:
    return files(__package__).joinpath("envoy.lua").read_text("ascii")


def _lua(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'  # the grammars of names leave nothing to escape
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{_lua(name)}] = {_lua(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(_lua, value)) + "}"
    raise TypeError(f"no Lua for a {type(value).__name__}")


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


def _typed(name: str, type_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": _TYPE + type_name, **config}}


def _cluster_name(baseline: Baseline, owner: str) -> str:
    return f"{baseline.workload}@{owner}"  # "baseline" is a reserved word, so no key can be taken for it


def _route(baseline: Baseline, owner: str) -> dict[str, Any]:
    action = {
        "cluster": _cluster_name(baseline, owner),
        # Zero is "no limit" in both; left out, they would be 15 seconds and 5 minutes, which cut streams.
        # https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts
        "timeout": _duration(baseline.timeout),
        "idle_timeout": _duration(baseline.idle_timeout),
    }
    return {"name": owner, "match": {"prefix": "/"}, "route": action}


def _action(route: dict[str, Any]) -> dict[str, Any]:
    return {"action": {"name": "route", "typed_config": {"@type": f"{_TYPE}config.route.v3.Route", **route}}}


def _socket(endpoint: Endpoint) -> dict[str, Any]:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _duration(seconds: float | None) -> str:
    return f"{seconds or 0:.3f}".rstrip("0").rstrip(".") + "s"


def _check_header(name: str) -> None:
    if _HEADER.fullmatch(name) is None or name.lower() in _TAKEN:
        raise ConfigurationError(f"{name!r} cannot be the name of a routing key's header; use one such as 'x-sd-routing-key'")


def _is_loop(listening: Endpoint, upstream: Endpoint) -> bool:
    here, there = listening.address, upstream.address
    if here is None or listening.port != upstream.port:
        return False
    if there is None:
        return upstream.host == "localhost" and (here.is_loopback or here.is_unspecified)
    return there == here or (there.is_loopback and here.is_unspecified)


def _is_everywhere(endpoint: Endpoint) -> bool:
    return endpoint.address is not None and endpoint.address.is_unspecified


def _check_bindings(listeners: Iterable[Listener], admin: Endpoint | None) -> None:
    bound: dict[int, list[tuple[Endpoint, str]]] = {}
    wanted = [(listener.endpoint, listener.workload) for listener in listeners]
    for endpoint, what in wanted + ([(admin, "the administration interface")] if admin else []):
        for other, user in bound.get(endpoint.port, ()):
            if endpoint.address == other.address or _is_everywhere(endpoint) or _is_everywhere(other):
                raise ConfigurationError(f"{what} on {endpoint} and {user} on {other} collide; give each an address of its own")
        bound.setdefault(endpoint.port, []).append((endpoint, what))


def _networks(workload: str, texts: Iterable[str]) -> tuple[str, ...]:
    networks = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigurationError(f"{workload} trusts {text!r}, which is no network ({error}); write 10.0.0.0/8") from None
        if network.prefixlen == 0:
            raise ConfigurationError(f"{workload} trusts {text}, which is everyone; drop edge=True if that is meant")
        networks.append(network)
    networks.sort(key=lambda network: (network.version, network.network_address.packed, network.prefixlen))
    return tuple(map(str, dict.fromkeys(networks)))
