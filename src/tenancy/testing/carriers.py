"""
Headers in memory, in each shape in which a library holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args
from wsgiref.util import setup_testing_defaults

from .. import propagator
from ..carrier import headers_of, pairs, text
from ..errors import ConfigurationError
from ..key import RoutingKey

__all__ = ["SHAPES", "Headers", "Shape", "carrier", "header_lines", "header_pairs"]

#: ``asgi``: byte pairs with names in lower case; ``wsgi``: an environ; ``dict``; ``pairs``: a list of text; ``grpc``: a tuple of metadata;
#: ``kafka``: a list of names and bytes; ``amqp``: a table that also has what is no text; ``sqs``: message attributes.
Shape = Literal["asgi", "wsgi", "dict", "pairs", "grpc", "kafka", "amqp", "sqs"]

#: All shapes, for ``pytest.mark.parametrize("shape", SHAPES)``.
SHAPES: tuple[Shape, ...] = get_args(Shape)

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


def carrier(shape: Shape, headers: Headers = (), *, key: RoutingKey | str | None = None) -> Any:
    """
    Return headers in the shape in which a library holds them.

    Args:
        shape: One of `SHAPES`.
        headers: Names and values as text; a name may come twice, where the shape can hold that (elsewhere the values are joined).
        key: The routing key that they carry besides, written as an adapter writes it; None: none is added, and none is taken away.

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key. For one that is malformed on purpose give the header itself.
        ConfigurationError: If *shape* is unknown.
    """
    make = _SHAPED.get(shape)
    if make is None:
        raise ConfigurationError(f"shape is {shape!r}; use one of {', '.join(SHAPES)}")
    given = header_pairs(headers)
    return make(given if key is None else propagator.inject(given, key=key, binary=False))


def header_pairs(headers: Headers) -> list[tuple[str, str]]:
    """
    Return headers that were given as text as a list of pairs.
    """
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


def header_lines(carrier: Any) -> list[tuple[str, str]]:
    """
    Return the headers of a carrier or a message of any shape as text, each name in lower case, in their order.

    Args:
        carrier: What `carrier` made, or what a library or the code under test did.
    """
    held = headers_of(carrier)
    if isinstance(held, Mapping) and "REQUEST_METHOD" in held:
        held = [(name[5:].replace("_", "-"), value) for name, value in held.items() if name.startswith("HTTP_")]
    found = ((text(name), text(value)) for name, value in pairs(held))
    return [(name.lower(), value) for name, value in found if name is not None and value is not None]


_Pairs = list[tuple[str, str]]


def _asgi(headers: _Pairs) -> Any:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _wsgi(headers: _Pairs) -> Any:
    environ: dict[str, Any] = {"QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ.update((f"HTTP_{name.upper().replace('-', '_')}", value) for name, value in _joined(headers).items())
    return environ


def _grpc(headers: _Pairs) -> Any:
    return tuple((name.lower(), value) for name, value in headers)


def _kafka(headers: _Pairs) -> Any:
    return [(name, value.encode("latin-1")) for name, value in headers]


def _amqp(headers: _Pairs) -> Any:
    return {**_joined(headers), "x-delivery-count": 1}


def _sqs(headers: _Pairs) -> Any:
    return {name: {"DataType": "String", "StringValue": value} for name, value in _joined(headers).items()}


def _joined(headers: _Pairs) -> dict[str, str]:
    """
    Headers in a mapping, in which a name stands once: in the spelling that came first.
    """
    spelled: dict[str, str] = {}
    joined: dict[str, str] = {}
    for name, value in headers:
        known = spelled.setdefault(name.lower(), name)
        joined[known] = f"{joined[known]},{value}" if known in joined else value
    return joined


_SHAPED: Mapping[str, Callable[[_Pairs], Any]] = {
    "asgi": _asgi,
    "wsgi": _wsgi,
    "dict": _joined,
    "pairs": list,
    "grpc": _grpc,
    "kafka": _kafka,
    "amqp": _amqp,
    "sqs": _sqs,
}
