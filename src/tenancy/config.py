"""
Settings: arguments first, then ``TENANCY_*`` variables, then ``SIGNADOT_*`` variables, then defaults.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

from .errors import ConfigurationError, IdentityError
from .key import RoutingKey

__all__ = ["DIALECTS", "Accept", "EdgeField", "Field", "Settings", "configure", "edge_fields", "settings", "switched_on"]

#: Which inbound keys are accepted: those that the route table knows, all, none, or those for which a function returns true.
Accept = Literal["known", "all", "none"] | Callable[[RoutingKey], bool]


class Field(NamedTuple):
    """
    One place in a carrier where a routing key can stand.

    Args:
        kind: ``baggage`` (a member of the W3C ``baggage`` header), ``tracestate`` (a member of the W3C ``tracestate`` header) or
            ``header`` (a header of its own).
        name: The member's or the header's name; header names are compared without regard to case.
    """

    kind: Literal["baggage", "tracestate", "header"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class EdgeField(NamedTuple):
    """
    One place where an HTTP request from outside can name a routing key that it does not carry.

    Args:
        kind: ``header`` (a header of its own), ``host`` (a part of the host name), ``cookie`` or ``query`` (a parameter of the query).
        name: The header's, the cookie's or the parameter's name; of ``host`` a host name with ``{key}`` in the key's place.
    """

    kind: Literal["header", "host", "cookie", "query"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


#: Vendors' names for the routing key. https://www.signadot.com/docs/guides/preview-web-frontend,
#: https://www.okteto.com/docs/development/divert
DIALECTS: Mapping[str, tuple[Field, ...]] = {
    "signadot": (
        Field("baggage", "sd-routing-key"),
        Field("header", "ot-baggage-sd-routing-key"),
        Field("header", "uberctx-sd-routing-key"),
        Field("tracestate", "sd-routing-key"),
    ),
    "okteto": (Field("baggage", "okteto-divert"),),
}


@dataclass(frozen=True)
class Settings:
    """
    How this process takes part in tenancy.

    Args:
        enabled: False switches everything off: nothing is patched, middleware returns the inner application
            (``TENANCY_ENABLED``).
        read: Where an inbound key is looked for, in this order; dialect names (``signadot``, ``okteto``) or single fields such as
            ``baggage:sd-routing-key`` (``TENANCY_READ``, comma separated).
        write: Where an outbound key is written; must be among *read*. Default: the first baggage field of *read*
            (``TENANCY_WRITE``).
        workload: This process's workload, ``namespace/name`` (``TENANCY_WORKLOAD``, else ``SIGNADOT_BASELINE_NAMESPACE`` and
            ``SIGNADOT_BASELINE_NAME``).
        role: ``baseline`` or ``sandbox`` (``TENANCY_ROLE``).
        sandbox: The name of the sandbox that this process belongs to (``TENANCY_SANDBOX``, else ``SIGNADOT_SANDBOX_NAME``).
        routes: The URL of the route source: ``file:///etc/tenancy/routes.yaml``, ``env:`` or ``env:VARIABLE``
            (``TENANCY_ROUTES``).
        routes_deadline: Seconds that a start may wait for the route table (``TENANCY_ROUTES_DEADLINE``).
        accept: Which inbound keys are accepted; default ``known`` where there is a route source, else ``all``
            (``TENANCY_ACCEPT``).
        edge: Where a key is looked for in HTTP requests that carry none: ``header:NAME``, ``host:{key}.preview.example.com``,
            ``cookie:NAME``, ``query:NAME``; as an argument also functions (``TENANCY_EDGE``, comma separated). Default: nowhere.
        trusted_hosts: Hosts beyond the private defaults to which a key may be sent: names, ``*.example.com``, networks such as
            ``100.64.0.0/10`` (``TENANCY_TRUSTED_HOSTS``, comma separated).
        response_header: The name of a response header that tells a caller who served, and why (``TENANCY_RESPONSE_HEADER``).
        cache_headers: Whether responses to keyed requests are marked as not cacheable for others (``TENANCY_CACHE_HEADERS``).
    """

    enabled: bool = True
    read: tuple[Field, ...] = DIALECTS["signadot"]
    write: tuple[Field, ...] = (Field("baggage", "sd-routing-key"),)
    workload: str | None = None
    role: Literal["baseline", "sandbox"] | None = None
    sandbox: str | None = None
    routes: str | None = None
    routes_deadline: float = 10.0
    accept: Accept | None = None
    edge: tuple[EdgeField | Callable[..., Any], ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    response_header: str | None = None
    cache_headers: bool = True

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
        """
        Read the settings from *environ*, with *arguments* before it.

        Args:
            environ: Environment variables; default the process's own.
            arguments: Any parameter of `Settings`, as its own type or as the text that the environment variable would hold.

        Raises:
            ConfigurationError: If a value cannot be used; it names the setting, the value and what is possible.
        """
        environ = os.environ if environ is None else environ
        values = _from_environment(environ)
        known = {field.name for field in fields(cls)}
        for name, value in arguments.items():
            if name not in known:
                raise ConfigurationError(f"{name!r} is not a setting; use one of {', '.join(sorted(known))}")
            values[name] = (name, value)
        parsed = {name: _parse(name, value, origin) for name, (origin, value) in values.items()}
        if "read" in parsed and "write" not in parsed:
            parsed["write"] = _default_write(parsed["read"])
        return _checked(cls(**parsed))

    @cached_property
    def member(self) -> str:
        """
        The name of the baggage member under which the key stands in the OpenTelemetry context.
        """
        return next(field.name for field in self.read if field.kind == "baggage")

    @cached_property
    def members(self) -> frozenset[str]:
        """
        The names of all baggage members that can hold a key.
        """
        return frozenset(field.name for field in self.read if field.kind == "baggage")


_current: Settings | None = None


def settings() -> Settings:
    """
    Return this process's settings; read from the environment at the first call.
    """
    global _current
    if _current is None:
        _current = Settings.load()
    return _current


def configure(new: Settings | None = None, /, **arguments: Any) -> Settings:
    """
    Set this process's settings, before anything else of the library is used.

    Args:
        new: Complete settings; without it they are read from the environment.
        arguments: Single settings, which go before both.

    Returns:
        The settings that hold from now on.

    Raises:
        ConfigurationError: If a value cannot be used.
    """
    global _current
    if new is None:
        _current = Settings.load(**arguments)
    else:
        parsed = {name: _parse(name, value, name) for name, value in arguments.items()}
        _current = _checked(replace(new, **parsed))
    return _current


def switched_on(using: Settings | None = None) -> bool:
    """
    Return whether tenancy is on.

    Args:
        using: The settings; default this process's own.

    Raises:
        IdentityError: If it is off in a sandbox, which would then act as the baseline.
    """
    using = settings() if using is None else using
    if not using.enabled and (using.sandbox is not None or using.role == "sandbox"):
        raise IdentityError(
            f"tenancy is switched off (TENANCY_ENABLED) in {f'sandbox {using.sandbox!r}' if using.sandbox else 'a sandbox'}, which would "
            "take the baseline's work; switch it on, or remove TENANCY_SANDBOX and TENANCY_ROLE"
        )
    return using.enabled


_ON = {"1", "true", "yes", "on"}
_OFF = {"0", "false", "no", "off"}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    values: dict[str, tuple[str, Any]] = {}
    sandbox, baseline = environ.get("SIGNADOT_SANDBOX_NAME"), environ.get("SIGNADOT_BASELINE_NAME")
    if sandbox:
        values["sandbox"] = ("SIGNADOT_SANDBOX_NAME", sandbox)
    if baseline:
        namespace = environ.get("SIGNADOT_BASELINE_NAMESPACE", "default")
        values["workload"] = ("SIGNADOT_BASELINE_NAME", f"{namespace}/{baseline}")
    for field in fields(Settings):
        variable = f"TENANCY_{field.name.upper()}"
        text = environ.get(variable, "").strip()
        if text:
            values[field.name] = (variable, text)
    return values


def _parse(name: str, value: Any, origin: str) -> Any:
    if name in ("enabled", "cache_headers"):
        return _flag(value, origin)
    if name in ("read", "write"):
        return _fields(value, origin)
    if name == "trusted_hosts":
        return tuple(_items(value, origin, str))
    if name == "edge":
        return edge_fields(value, origin)
    if name == "routes_deadline":
        return _seconds(value, origin)
    if name != "accept" and value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{origin} is {value!r}; give text, not {type(value).__name__}")
    return value


def _seconds(value: Any, origin: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds >= 0:  # nor is anything later than a deadline that is no number
        raise ConfigurationError(f"{origin} is {value!r}; give seconds, 0 or more, such as 10")
    return seconds


def _flag(value: Any, origin: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _ON | _OFF:
        return text in _ON
    raise ConfigurationError(f"{origin} is {value!r}; use one of {', '.join(sorted(_ON | _OFF))}")


def _items(value: Any, origin: str, *kinds: type) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    items = list(value) if isinstance(value, Iterable) else [value]
    if all(isinstance(item, kinds) for item in items):
        return items
    raise ConfigurationError(f"{origin} is {value!r}; give text with commas between its entries, or a list")


def _fields(value: Any, origin: str) -> tuple[Field, ...]:
    found: list[Field] = []
    for item in [value] if isinstance(value, Field) else _items(value, origin, str, Field):
        if isinstance(item, Field):
            found.append(item)
        elif item in DIALECTS:
            found.extend(DIALECTS[item])
        else:
            kind, colon, name = str(item).partition(":")
            if not colon or not name or kind not in ("baggage", "tracestate", "header"):
                raise ConfigurationError(
                    f"{origin} has {item!r}; use a dialect ({', '.join(sorted(DIALECTS))}) or a field such as "
                    "'baggage:sd-routing-key', 'header:x-sd-routing-key' or 'tracestate:sd-routing-key'"
                )
            found.append(Field(cast(Any, kind), name))
    return tuple(dict.fromkeys(found))


# A header's name, and a cookie's (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
# Whole headers of others, in which a key is at most a part.
_NOT_AT_EDGE = {"baggage", "tracestate", "cookie", "host"}


def edge_fields(value: Any, origin: str = "edge") -> tuple[EdgeField | Callable[..., Any], ...]:
    """
    Return where a key is looked for in requests that carry none; see the setting ``edge``.

    Args:
        value: Fields or functions, one or many, or text such as ``"host:{key}.preview.example.com,cookie:routing-key"``.
        origin: Who says so, for the error.

    Raises:
        ConfigurationError: If an entry can find nothing.
    """
    alone = isinstance(value, EdgeField) or callable(value)
    entries = [value] if alone else _items(value, origin, str, EdgeField, Callable)  # type: ignore[arg-type]
    return tuple(_edge_field(entry, origin) for entry in entries)


def _edge_field(entry: Any, origin: str) -> EdgeField | Callable[..., Any]:
    if callable(entry):
        if inspect.iscoroutinefunction(entry) or inspect.iscoroutinefunction(getattr(entry, "__call__", None)):  # noqa: B004
            raise ConfigurationError(
                f"{origin} has the coroutine function {entry!r}, whose result is awaited by nobody; use a function"
            )
        return entry  # type: ignore[no-any-return]
    kind, _, name = (part.strip() for part in str(entry).partition(":"))
    if kind == "host":
        # In place of the key anything that is one: what is left must be a name that a browser can ask for.
        if name.count("{key}") != 1 or name == "{key}" or not _HOST.fullmatch(name.lower().replace("{key}", "k")):
            raise ConfigurationError(
                f"{origin} has {str(entry)!r}; use a host name with {{key}} in the key's place, without a port, such as "
                "'host:{key}.preview.example.com' or 'host:orders-{key}.example.com'"
            )
        return EdgeField("host", name.lower())
    named = _TOKEN.fullmatch(name) if kind in ("header", "cookie") else kind == "query" and name
    if not named or (kind == "header" and name.lower() in _NOT_AT_EDGE):
        raise ConfigurationError(
            f"{origin} has {str(entry)!r}; use 'header:NAME', 'host:{{key}}.preview.example.com', 'cookie:NAME', 'query:NAME', or a function"
        )
    return EdgeField(cast(Any, kind), name)


def _default_write(read: tuple[Field, ...]) -> tuple[Field, ...]:
    return tuple(field for field in read if field.kind == "baggage")[:1]


def _checked(settings: Settings) -> Settings:
    if not _default_write(settings.read):
        shown = ", ".join(map(str, settings.read)) or "nothing"
        raise ConfigurationError(f"read is {shown}; it needs a baggage field, since the key lives in OpenTelemetry baggage")
    stray = [str(field) for field in settings.write if field not in settings.read]
    if stray or not settings.write:
        raise ConfigurationError(f"write is {', '.join(stray) or 'empty'}; write at least one field, and only such as are in read")
    if settings.role not in (None, "baseline", "sandbox"):
        raise ConfigurationError(f"role (TENANCY_ROLE) is {settings.role!r}; use 'baseline' or 'sandbox'")
    if settings.accept not in (None, "known", "all", "none") and not callable(settings.accept):
        raise ConfigurationError(f"accept (TENANCY_ACCEPT) is {settings.accept!r}; use 'known', 'all', 'none' or a function")
    if settings.sandbox is not None and RoutingKey.parse(settings.sandbox) is None:
        raise ConfigurationError(
            f"sandbox (TENANCY_SANDBOX) is {settings.sandbox!r}; a sandbox's name has a routing key's grammar, such as 'pr-42'"
        )
    return settings
