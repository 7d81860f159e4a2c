"""
Carriers: the shapes in which libraries hold headers, behind one reader and one writer.

Dictionaries, lists of pairs, ASGI byte pairs, gRPC metadata, AMQP tables, SQS message attributes and multi-dictionaries are all read
by `pairs` and rebuilt by `rebuilt`; no adapter has a getter or setter of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any

from .errors import ConfigurationError

__all__ = ["header_name", "headers_of", "pairs", "rebuilt", "text"]


def pairs(carrier: Any) -> Iterable[Any]:
    """
    Return the (name, value) pairs of a carrier, repeated names included, whatever its shape; never raises.
    """
    if carrier is None:
        return ()
    if isinstance(carrier, (list, tuple)):
        return carrier
    items = getattr(carrier, "multi_items", None) or getattr(carrier, "items", None)
    if callable(items):
        return items()  # type: ignore[no-any-return]
    return carrier if isinstance(carrier, Iterable) and not isinstance(carrier, (str, bytes)) else ()


def text(value: Any) -> str | None:
    """
    Return a header value as text, or None where it is not one.

    Bytes are read as Latin-1, which maps every byte to one character and back, so nothing of other people's is changed.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value).decode("latin-1")
    if isinstance(value, Mapping):  # an SQS message attribute, as boto3 or as a Lambda event writes it
        value = value.get("StringValue", value.get("stringValue"))
        return value if isinstance(value, str) else None
    if isinstance(value, (list, tuple)):  # of lines; what is nested deeper is nobody's header
        return ",".join(part for part in map(text, (line for line in value if isinstance(line, (str, bytes)))) if part is not None)
    return None


def header_name(name: Any) -> Any:
    """
    Return a header's name in the form in which names are compared: lower case, and text.
    """
    if isinstance(name, bytes):
        return name.decode("latin-1").lower()
    return name.lower() if isinstance(name, str) else name


def rebuilt(carrier: Any, drop: Collection[str], add: Iterable[tuple[str, str]], *, binary: bool | None = None) -> Any:
    """
    Return a new carrier of the same shape, without the headers named in *drop* and with those in *add*; the original stays as it was.

    Args:
        carrier: The carrier to start from; None makes a dictionary.
        drop: Lower-case header names.
        add: Pairs of name and value, as text.
        binary: Whether values are bytes; None: as those that the carrier already has.

    Raises:
        ConfigurationError: If it is no carrier.
    """
    if carrier is None:
        carrier = {}
    if isinstance(carrier, (list, tuple)):
        kept: list[Any] = [pair for pair in carrier if header_name(pair[0]) not in drop] if drop else list(carrier)
        names, values = _converters((pair for pair in carrier), binary)
        kept.extend((names(name), values(value)) for name, value in add)
        return tuple(kept) if isinstance(carrier, tuple) else kept
    names, values = _converters(pairs(carrier), binary)
    new = _copied(carrier)
    for name in [name for name in new if header_name(name) in drop]:
        if name in new:  # a multi-dictionary lists a repeated name twice and removes both at once
            del new[name]
    for name, value in add:
        new[names(name)] = values(value)
    return new


def headers_of(message: Any) -> Any:
    """
    Return the carrier of a message: its headers, as an attribute or as a method, or the message itself where it is a carrier.

    Args:
        message: A message or record of any client (confluent-kafka, aiokafka, kafka-python, aio-pika, pika's properties), a request
            that has headers, or a carrier.

    Raises:
        ConfigurationError: If no headers can be found on it.
    """
    if message is None or isinstance(message, Mapping):
        return message
    if isinstance(message, (list, tuple)):
        for entry in message:
            if not isinstance(entry, (list, tuple)) or len(entry) != 2:
                raise ConfigurationError(
                    f"a {type(message).__name__} that holds a {type(entry).__name__} is no list of headers; pass pairs of name and value, "
                    "and take the messages of a batch one by one"
                )
        return message
    for owner in (message, getattr(message, "properties", None)):
        headers = getattr(owner, "headers", message)
        if headers is not message:
            return headers() if callable(headers) and not hasattr(headers, "items") else headers
    if callable(getattr(message, "items", None)):
        return message
    raise ConfigurationError(
        f"a {type(message).__name__} has no headers to read a routing key from; pass a routing key, a message with headers, its "
        "headers, or None"
    )


def _copied(carrier: Any) -> MutableMapping[Any, Any]:
    if isinstance(carrier, MutableMapping):
        # A mapping's own copy() first: copy.copy() of requests' and httpx's headers shares their storage with the original.
        own = getattr(carrier, "copy", None)
        duplicate: MutableMapping[Any, Any] = own() if callable(own) else copy.copy(carrier)
        return duplicate if duplicate is not carrier else dict(carrier)
    try:
        return dict(carrier)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"a {type(carrier).__name__} holds no headers; pass a mapping, or a list of pairs of name and value"
        ) from None


def _converters(existing: Iterable[Any], binary: bool | None) -> tuple[Callable[[str], Any], Callable[[str], Any]]:
    names_binary, values_binary, attributes = False, False, False
    for name, value in existing:
        names_binary = isinstance(name, bytes)
        if isinstance(value, Mapping) and ("DataType" in value or "dataType" in value):  # not just any table of an AMQP message
            attributes = True
            break
        if value is not None:
            values_binary = isinstance(value, bytes)
            break
    names = _encoded if names_binary else str
    if binary if binary is not None else values_binary:
        return names, _encoded
    return names, _attribute if attributes else str


def _encoded(value: str) -> bytes:
    for encoding, errors in (("latin-1", "strict"), ("utf-8", "surrogateescape")):
        try:
            return value.encode(encoding, errors)
        except UnicodeEncodeError:
            pass
    return value.encode("utf-8", "surrogatepass")  # half of a pair, of which nobody can say what it was


def _attribute(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}
