"""
Which value of the partition column a routing key has, and what becomes of the value where it meets a column.

A database converts what it is given: to an Integer column '1' is 1. So values are compared only after they have been made what the
column holds, or two owners that differ in Python would share rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CHAR, Dialect, Enum, TypeDecorator, Uuid
from sqlalchemy.exc import DontWrapMixin

from ..errors import PartitionError
from ..key import RoutingKey
from ._sqlalchemy_rules import Owner

__all__ = ["Values", "fit"]

# Keys come from requests, and somebody may send a new one each time.
_REMEMBERED: Final = 10_000

_NUMBERS: Final = (int, float, Decimal)


class _RefusedError(PartitionError, DontWrapMixin):
    """
    Handed on by SQLAlchemy as it is, which would otherwise wrap what is raised while the parameters of a statement are made.
    """


class Values:
    """
    Tells owners' values, and sees to it that no two owners have the same.

    Args:
        column: The name of the partition column.
        value: Returns the value for a routing key, or None for a key without a partition.
        baseline: The owner of work without a key; None where such work is not restricted.
        unknown: ``baseline`` or ``refuse``: what becomes of a key without a partition.
    """

    def __init__(self, column: str, value: Callable[[Any], Any], baseline: Owner | None, unknown: str) -> None:
        self.column = column
        self.baseline = baseline
        self._value = value
        self._unknown = unknown
        self._keys: dict[str | None, RoutingKey] = {}

    def owner(self, key: RoutingKey | None) -> Owner | None:
        """
        Return whose the work of *key* is; None where it is not restricted.

        Raises:
            PartitionError: If the key owns no rows, or those of the baseline.
        """
        if key is None:
            return self.baseline
        value = self._value(key)
        if value is None:
            if self._unknown == "refuse":
                raise _RefusedError(
                    f"routing key {str(key)!r} has no value for {self.column!r} in RowPartition(value=...), so it owns no rows here"
                )
            return self.baseline
        owner = Owner(value, key)
        if self.baseline is not None and value == self.baseline.value:
            raise self._of_baseline(owner)
        return owner

    def fitted(self, owner: Owner, type_: Any, dialect: Dialect) -> Any:
        """
        Return the owner's value as a column holds it.

        Args:
            owner: Whose value.
            type_: The column's type.
            dialect: That of the engine.

        Raises:
            PartitionError: If it is no value for such a column, or is the value of another owner there.
        """
        value = self._fitted(owner, type_)
        if owner.key is None:
            return value
        form = _form(value, type_, dialect)
        if self.baseline is not None:
            theirs = self._fitted(self.baseline, type_)
            if theirs == value or _form(theirs, type_, dialect) == form:
                raise self._of_baseline(owner)
        if len(self._keys) >= _REMEMBERED:
            self._keys.clear()
        first = self._keys.setdefault(form, owner.key)
        if first != owner.key:
            # Unless the value has been taken from that key and given to this one.
            if self._has(first, form, type_, dialect):
                raise _RefusedError(
                    f"routing keys {str(first)!r} and {str(owner.key)!r} both have {self.column} = {value!r}, and would share their rows: "
                    "give each a value of its own"
                )
            self._keys[form] = owner.key
        return value

    def _has(self, key: RoutingKey, form: str | None, type_: Any, dialect: Dialect) -> bool:
        # The work at hand is another key's, and none of its business is an error that this one gives now.
        with suppress(Exception):
            value = self._value(key)
            return value is not None and _form(fit(value, type_), type_, dialect) == form
        return False

    def _fitted(self, owner: Owner, type_: Any) -> Any:
        try:
            return fit(owner.value, type_)
        except ValueError:
            raise _RefusedError(
                f"{owner} has {self.column} = {owner.value!r}, which is no value for a column of type {type_!r}: "
                "give RowPartition values of the column's own type"
            ) from None

    def _of_baseline(self, owner: Owner) -> PartitionError:
        return _RefusedError(f"{owner} has {self.column} = {owner.value!r}, but those are the baseline's rows")


def fit(value: Any, type_: Any) -> Any:
    """
    Return *value* as a column of *type_* holds it, where that is the same value for certain.

    Raises:
        ValueError: If it is not.
    """
    # What a decorator makes of its values, and types of the application's own, are not known here.
    target = object if value is None or isinstance(type_, TypeDecorator) else _python_type(type_)
    if target is object:
        return value
    try:
        if isinstance(type_, Uuid):
            made = value if isinstance(value, UUID) else UUID(value if isinstance(value, str) else "")
            return made if type_.as_uuid else str(made)
        if isinstance(type_, Enum) and type_.enum_class is not None and not isinstance(value, type_.enum_class):
            return dict(zip(type_.enums, type_.enum_class.__members__.values(), strict=True))[value]
        if target is str:
            return _as_str(value)
        if target in (int, bool, float, Decimal):
            return _as_number(value, target)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(value) from error
    if not isinstance(value, target) or (target is date and isinstance(value, datetime)):
        raise ValueError(value)
    return value


def _as_str(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration's member the value, not the name
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value if isinstance(value, UUID) else int(value))
    raise ValueError(value)


def _as_number(value: Any, target: Any) -> Any:
    if isinstance(value, str):
        made = Decimal(value) if target is not int else int(value)
        if target is bool or (target is int and str(made) != value):
            raise ValueError(value)
        return float(made) if target is float else made
    if not isinstance(value, _NUMBERS):
        raise TypeError(value)
    if target in (float, Decimal):
        return value
    if target(value) != value:
        raise ValueError(value)
    return target(value)


def _form(value: Any, type_: Any, dialect: Dialect) -> str | None:
    # Equal for what the database may find equal, so that in doubt two owners are taken for one, and refused.
    process = None if value is None else type_.dialect_impl(dialect).bind_processor(dialect)
    sent = value if process is None else process(value)
    if sent is None:
        return None
    try:
        text = str(int(sent)) if isinstance(sent, _NUMBERS) and sent == int(sent) else _as_str(sent)
    except (ArithmeticError, InvalidOperation, ValueError):
        text = str(sent)
    if isinstance(type_, CHAR) or getattr(type_, "collation", None):
        text = text.rstrip(" ")
    folds = getattr(type_, "collation", None) or getattr(type_, "__visit_name__", None) == "CITEXT"
    return text.casefold() if folds else text


def _python_type(type_: Any) -> Any:
    try:
        return type_.python_type
    except NotImplementedError:
        return object
