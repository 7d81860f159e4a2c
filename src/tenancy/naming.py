"""
Names made from a routing key: schemas, topics, groups, queues, Services, prefixes.

Every such name comes from `partition_name`, so that one rule keeps two keys from ever meeting in one place, and so that no server
ever cuts a name for us (PostgreSQL silently truncates at 63 bytes, where two long names may become one).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import ConfigurationError
from .key import RoutingKey

__all__ = ["PartitionKind", "find_partition_key", "is_workload", "partition_name"]

PartitionKind = Literal[
    "postgresql-schema",
    "mysql-database",
    "redis-prefix",
    "s3-prefix",
    "kafka-topic",
    "kafka-group",
    "amqp-queue",
    "amqp-handover",
    "kubernetes-name",
]

_HASH_LENGTH = 16  # base32 characters: 80 bits


@dataclass(frozen=True)
class _Shape:
    """
    How names of one kind look.

    A *plain* name is ``base + separator + key``; it is used only where it can be taken apart again without doubt. Every other pair
    gets a *hashed* name, ``base + separator + key + hash_separator + hash`` with base and key cut as needed, whose form no plain
    name can have.
    """

    limit: int  # bytes; all characters are ASCII
    separator: str
    hash_separator: str
    allowed: re.Pattern[str]  # what a base must match for a plain name
    filler: str  # replaces what is not allowed
    hyphen: str = "-"  # what the key's hyphens become
    unique_separator: bool = False  # the separator may stand only once in a plain name


# PostgreSQL: identifiers are cut at NAMEDATALEN - 1 = 63 bytes, unquoted ones fold to lower case, schemas may not begin with pg_.
# MySQL: identifiers have at most 64 characters. Both are kept to characters that need no quotes.
_SQL = re.compile(r"(?!pg(?:_|$))[a-z](?:_?[a-z0-9])*")
_SUFFIXES: dict[str, _Shape] = {
    "postgresql-schema": _Shape(63, "__", "__", _SQL, "_", hyphen="_", unique_separator=True),
    "mysql-database": _Shape(64, "__", "__", _SQL, "_", hyphen="_", unique_separator=True),
    # Kafka: org.apache.kafka.common.internals.Topic allows 249 of [a-zA-Z0-9._-].
    "kafka-topic": _Shape(249, ".", "_", re.compile(r"[a-zA-Z0-9._-]+"), "-"),
    "kafka-group": _Shape(249, ".", "_", re.compile(r"[a-zA-Z0-9._:/-]+"), "-"),
    # AMQP 0-9-1: a queue name is a short string of at most 255 bytes, and amq.* belongs to the broker.
    "amqp-queue": _Shape(255, ".", "_", re.compile(r"(?!amq(?:\.|$))[a-zA-Z0-9._:/-]+"), "-"),
    # As above, with room for what tells the lives of a key apart.
    "amqp-handover": _Shape(224, ".", "_", re.compile(r"(?!amq(?:\.|$))[a-zA-Z0-9._:/-]+"), "-"),
    # Kubernetes: a Service name is an RFC 1035 label.
    "kubernetes-name": _Shape(63, "--", "--", re.compile(r"[a-z](?:-?[a-z0-9])*"), "-", unique_separator=True),
}
# A prefix has the key in front, where the key's end cannot be mistaken: no key's prefix is the beginning of another's.
_PREFIXES: dict[str, tuple[int, str]] = {"redis-prefix": (512, ":"), "s3-prefix": (512, "/")}


def partition_name(key: RoutingKey | str, base: str, *, kind: PartitionKind) -> str:
    """
    Return the name under which *key* has its own version of *base*.

    The name is never longer than the kind allows and needs no quotes. Two different pairs of key and base never share a name: short
    ones can be taken apart again, all others carry 80 bits of a SHA-256. A pure function: the same in every process and version.

    Args:
        key: The routing key, or the sandbox's name where a sandbox owns the thing (both have the same grammar).
        base: What the baseline calls it, for example a group, a queue or a schema; not empty.
        kind: What is being named.

    Returns:
        For key ``pr-42`` and base ``shop``: ``shop__pr_42`` (PostgreSQL schema, MySQL database), ``shop.pr-42`` (Kafka topic and
        group, AMQP queue), ``shop--pr-42`` (Kubernetes name), ``tenancy:pr-42:shop:`` and ``tenancy/pr-42/shop/`` (prefixes).

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key.
        ConfigurationError: If *base* is empty or *kind* is unknown.
    """
    key = RoutingKey(key)
    if not base:
        raise ConfigurationError(f"base is {base!r}; give the name that the baseline uses")
    if kind in _PREFIXES:
        return _prefix(key, base, kind)
    shape = _SUFFIXES.get(kind)
    if shape is None:
        raise ConfigurationError(f"kind is {kind!r}; use one of {', '.join(get_args(PartitionKind))}")
    label = key.replace("-", shape.hyphen)
    plain = f"{base}{shape.separator}{label}"
    clean = shape.allowed.fullmatch(base) is not None
    apart = not shape.unique_separator or (shape.separator not in base and shape.separator not in label)
    if clean and apart and len(plain) <= shape.limit:
        return plain
    return _hashed(key, base, kind, shape)


def find_partition_key(name: str, keys: Iterable[RoutingKey | str], base: str, *, kind: PartitionKind) -> RoutingKey | None:
    """
    Return the key among *keys* whose `partition_name` is *name*, or None: the way back from a name found on a server.

    Args:
        name: A name of that kind, as the server has it.
        keys: The keys that are known, for example ``table.keys()``.
        base: What the baseline calls it.
        kind: What is named.
    """
    for key in keys:
        if partition_name(key, base, kind=kind) == name:
            return RoutingKey(key)
    return None


# Both halves are Kubernetes names: DNS labels, RFC 1123 section 2.1.
_WORKLOAD = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def is_workload(name: object) -> bool:
    """
    Return whether *name* names a workload: ``namespace/name``, each a DNS label in lower case.
    """
    return isinstance(name, str) and _WORKLOAD.fullmatch(name) is not None


def _hash(key: str, base: str, kind: str) -> str:
    digest = hashlib.sha256(f"{kind}\0{base}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return b32encode(digest)[:_HASH_LENGTH].decode().lower()


def _prefix(key: RoutingKey, base: str, kind: str) -> str:
    limit, separator = _PREFIXES[kind]
    tail = base.strip(separator)
    name = f"tenancy{separator}{key}{separator}{tail}{separator}"
    if tail == base and base.isascii() and base.isprintable() and " " not in base and len(name) <= limit:
        return name
    cut = re.sub(rf"[^a-zA-Z0-9._{separator}-]", "-", tail)[:64].strip(separator)
    return f"tenancy{separator}{key}{separator}{cut}_{_hash(key, base, kind)}{separator}"


def _hashed(key: RoutingKey, base: str, kind: str, shape: _Shape) -> str:
    digest = _hash(key, base, kind)
    room = shape.limit - len(shape.separator) - len(shape.hash_separator) - len(digest)
    label = _cut(key.replace("-", shape.hyphen), shape, room // 2)
    stem = _cut(base.lower() if shape.unique_separator else base, shape, room - len(label))
    if shape.allowed.fullmatch(stem) is None:
        # Nothing usable is left of the base, or it begins with what the server keeps for itself.
        stem = _cut("x" + shape.filler + stem, shape, room - len(label))
    return f"{stem}{shape.separator}{label}{shape.hash_separator}{digest}"


def _cut(text: str, shape: _Shape, room: int) -> str:
    characters = "a-z0-9_" if shape.hyphen == "_" else "a-z0-9-" if shape.unique_separator else "a-zA-Z0-9._-"
    text = re.sub(rf"[^{characters}]", shape.filler, text)
    if shape.unique_separator:
        text = re.sub(f"{re.escape(shape.filler)}+", shape.filler, text).strip(shape.filler)
    return text[:room].rstrip(shape.filler + ".") or "x"
