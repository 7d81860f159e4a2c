"""
Django's connections, whose transactions run in the partition of the routing key at hand.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal

from ..._optional import extra
from ..._patches import Patches
from ...config import switched_on
from ...context import routing_key
from ...errors import ConfigurationError, PartitionError
from ._django_inserts import inserting
from ._django_locks import lockable, locking
from .ending import ends, refusal
from .overlays import Known, Overlay, escaped
from .registry import entering
from .transaction import BASELINE, Policies, Policy, Transaction, advice, entering_failed

with extra("django", "django"):
    from django.db import connections
    from django.db.backends.postgresql.base import DatabaseWrapper
    from django.db.backends.postgresql.features import DatabaseFeatures
    from django.db.backends.utils import CursorWrapper
    from django.db.models.sql.compiler import SQLCompiler, SQLInsertCompiler
    from django.db.transaction import atomic
    from django.db.utils import DatabaseError

__all__ = ["cover", "uncover"]

# https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
_IDLE, _UNKNOWN = 0, 4
# Where a connection has in mind whose transaction it is in.
_INSIDE = "_tenancy_transaction"
# While it is asked whether it may be one of a key; after an exception in the middle of that nobody knows.
_ENTERING = Transaction(None, "")
# What Django itself executes for atomic(), also after the work of a key within is over.
_SAVEPOINT = re.compile(r'(?:SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT) "?\w+"?')
# What the drivers' cursors do past execute().
_PAST = {"copy", "copy_expert", "copy_from", "copy_to", "stream", "callproc"}


def cover(
    *aliases: str, unknown: Policy = "baseline", late: Policy = "refuse", outside: Literal["refuse", "transaction"] = "refuse"
) -> None:
    """
    Run every transaction of databases of Django in the partition of the routing key under which it begins; without a key nothing is done.
    Does nothing where tenancy is switched off.

    Call it once when the process starts, in the ``ready()`` of an ``AppConfig``. One statement enters the partition, for that transaction
    alone; so persistent connections, and poolers between transactions, carry nothing on.

    Args:
        aliases: The databases, as they are called in ``DATABASES``; default ``default``. Each has its partitions.
        unknown: What becomes of work whose key has no partition in the database: ``baseline`` serves it as work without a key, and counts
            it in ``tenancy.partition.unknown_keys``; ``refuse`` raises.
        late: The same for a key whose partition was dropped.
        outside: What becomes of a statement of a key outside of ``atomic()``: ``refuse`` raises; ``transaction`` gives it a transaction of
            its own, which is what autocommit means, at the price of a round trip to begin it and one to end it.

    Raises:
        ConfigurationError: If an argument cannot be used, a database is no PostgreSQL, or is covered already.
        IdentityError: If tenancy is switched off in a sandbox.
    """
    policies = Policies("cover", unknown, late)
    if outside not in ("refuse", "transaction"):
        raise ConfigurationError(f"cover(outside={outside!r}): use 'refuse' or 'transaction'")
    if not switched_on():
        return
    names = aliases or ("default",)
    for alias in names:
        if alias not in connections.databases:
            raise ConfigurationError(
                f"cover({alias!r}): there is no such database in DATABASES; it has {', '.join(connections.databases)}"
            )
        if not isinstance(connections[alias], DatabaseWrapper):
            raise ConfigurationError(f"cover({alias!r}) is made for PostgreSQL, and that is {connections[alias].vendor}")
        if alias in _covered:
            raise ConfigurationError(f"the database {alias!r} is covered already")
    if not _patches:
        _patch()
    for alias in names:
        _covered[alias] = _Cover(policies, outside)


def uncover() -> None:
    """
    Undo `cover`, for all databases; does nothing if it was not called.
    """
    _covered.clear()
    _patches.undo()


class _Cover:
    """
    What is done on the connections of one database, in whatever thread.
    """

    def __init__(self, policies: Policies, outside: str) -> None:
        self._policies = policies
        self._outside = outside
        self._known = Known()

    def listen(self, connection: Any) -> None:
        """
        Have every statement of a connection pass here first.
        """
        if self.executing not in connection.execute_wrappers:
            # The outermost: who adds his own for a while takes the innermost away again.
            connection.execute_wrappers.insert(0, self.executing)

    def executing(self, execute: Callable[..., Any], sql: Any, parameters: Any, many: bool, context: Any) -> Any:
        """
        Execute a statement: Django's ``execute_wrapper``.
        """
        connection = context["connection"]
        if _covered.get(connection.alias) is not self:
            return execute(sql, parameters, many, context)
        if self.alone(connection):
            with atomic(using=connection.alias):
                return self.executing(execute, sql, parameters, many, context)
        inside = self.at_work(connection, passing=isinstance(sql, str) and _SAVEPOINT.fullmatch(sql) is not None)
        if inside.revision is not None and ends(sql, connection.connection):
            raise PartitionError(refusal(inside.key, "leave atomic(), or use commit() or rollback() of the connection"))
        try:
            return execute(sql, parameters, many, context)
        except DatabaseError as error:
            if inside.revision is None:
                raise
            cause: Any = error.__cause__
            state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
            text = advice(state, str(cause), "bulk_create(ignore_conflicts=True) or update_conflicts=True")
            if text is None:
                raise
            raise PartitionError(text) from error

    def inserting(self, compiler: Any, execute: Callable[[], Any]) -> Any:
        """
        Execute an ``INSERT`` that Django composes.
        """
        connection = compiler.connection
        connection.ensure_connection()
        if self.alone(connection):
            with atomic(using=connection.alias):
                return self.inserting(compiler, execute)
        overlay = self._overlay(connection, compiler.query)
        return execute() if overlay is None else inserting(compiler, overlay, execute)

    def selecting(self, compiler: Any, execute: Callable[[], Any]) -> Any:
        """
        Execute another statement that Django composes.
        """
        connection = compiler.connection
        if not lockable(compiler.query) or connection.get_autocommit():
            return execute()
        overlay = self._overlay(connection, compiler.query)
        return execute() if overlay is None else locking(compiler, overlay, execute)

    def _overlay(self, connection: Any, query: Any) -> Overlay | None:
        inside = self.at_work(connection)
        if inside.revision is None:
            return None
        found = self._known.of(inside, lambda sql: _asked(connection, sql)).get(query.get_meta().db_table)
        return found and escaped(found)

    def alone(self, connection: Any) -> bool:
        """
        Return whether a statement would be its own transaction, and is to be given one.
        """
        raw = connection.connection
        return self._outside == "transaction" and routing_key() is not None and raw is not None and raw.autocommit and _idle(raw)

    def at_work(self, connection: Any, *, passing: bool = False) -> Transaction:
        """
        Return whose the connection's transaction is; where it begins now, it enters the partition.

        Args:
            connection: Django's connection.
            passing: Whether what comes next is no work of anybody.
        """
        raw, key = connection.connection, routing_key()
        status = _UNKNOWN if raw is None else int(raw.info.transaction_status)
        if status == _UNKNOWN:  # it is closed, and nothing can be done on it
            return BASELINE
        if status == _IDLE:
            setattr(connection, _INSIDE, None)
            if key is None:
                found = BASELINE
            elif raw.autocommit:
                raise PartitionError(
                    f"the database {connection.alias!r} is used for {key} outside of a transaction, where nothing holds for more than one "
                    "statement, so the work would be done in the baseline's tables: use ATOMIC_REQUESTS = True, or atomic(), or "
                    "cover(outside='transaction')"
                )
            else:
                setattr(connection, _INSIDE, _ENTERING)
                with entering_failed():
                    answer = _asked(connection, entering(key))
                setattr(connection, _INSIDE, None)
                found = self._policies.settled(key, answer)
            setattr(connection, _INSIDE, found)
            return found
        inside: Transaction | None = getattr(connection, _INSIDE, None)
        if passing:
            return inside or BASELINE
        if inside is _ENTERING:
            raise PartitionError(
                "this transaction was to enter a partition, and it is not known whether it did: end it, and begin another"
            )
        if inside is None:
            if key is None:
                return BASELINE
            raise PartitionError(
                f"this transaction did not begin as one of {key}: it was refused, or began past Django, or before cover() was called; "
                "begin another"
            )
        inside.continues(key, "use atomic() within the work of each routing key, not around that of several")
        return inside


_covered: dict[str, _Cover] = {}
_patches = Patches()


def _idle(raw: Any) -> bool:
    return int(raw.info.transaction_status) == _IDLE


def _asked(connection: Any, sql: str) -> str:
    # By the driver's own cursor: it is no statement of the application's, to be logged and counted.
    with connection.wrap_database_errors:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(sql)
            return str(cursor.fetchone()[0])
        finally:
            cursor.close()


def _patch() -> None:
    def cursors(original: Any) -> Any:
        @functools.wraps(original)
        def create_cursor(self: Any, *arguments: Any, **options: Any) -> Any:
            if (found := _covered.get(self.alias)) is not None:
                found.listen(self)
            return original(self, *arguments, **options)

        return create_cursor

    def attributes(original: Any) -> Any:
        @functools.wraps(original)
        def attribute(self: Any, name: str) -> Any:
            if name in _PAST and (found := _covered.get(self.db.alias)) is not None:
                found.at_work(self.db)
            return original(self, name)

        return attribute

    def procedures(original: Any) -> Any:
        @functools.wraps(original)
        def callproc(self: Any, *arguments: Any, **options: Any) -> Any:
            if (found := _covered.get(self.db.alias)) is not None:
                found.at_work(self.db)
            return original(self, *arguments, **options)

        return callproc

    def autocommit(original: Any) -> Any:
        @functools.wraps(original)
        def set_autocommit(self: Any, autocommit: bool, *arguments: Any, **options: Any) -> None:
            original(self, autocommit, *arguments, **options)
            found = _covered.get(self.alias)
            # Where Django is told to leave transactions alone, this is called while it connects.
            if found is None or autocommit or not self.settings_dict["AUTOCOMMIT"] or routing_key() is None:
                return
            try:
                # At once, so that what is done by the driver's own cursors is in the partition as well.
                found.at_work(self)
            except BaseException:
                # atomic() is not entered then, and nobody else would set it back.
                _set_back(self, original)
                raise

        return set_autocommit

    def ending(original: Any) -> Any:
        @functools.wraps(original)
        def end(self: Any, *arguments: Any, **options: Any) -> Any:
            try:
                return original(self, *arguments, **options)
            finally:
                raw = self.connection
                if raw is None or raw.closed or _idle(raw):
                    setattr(self, _INSIDE, None)

        return end

    def composed(how: Callable[[_Cover, Any, Callable[[], Any]], Any]) -> Callable[[Any], Any]:
        def wrapper(original: Any) -> Any:
            @functools.wraps(original)
            def execute_sql(self: Any, *arguments: Any, **options: Any) -> Any:
                execute = functools.partial(original, self, *arguments, **options)
                found = _covered.get(self.connection.alias)
                return execute() if found is None else how(found, self, execute)

            return execute_sql

        return wrapper

    def grouping(original: Any) -> Any:
        @functools.wraps(original)
        def allows_group_by_selected_pks_on_model(self: Any, model: Any) -> bool:
            # A view has no primary key that PostgreSQL could tell the other columns by.
            keyed = self.connection.alias in _covered and routing_key() is not None
            return not keyed and bool(original(self, model))

        return allows_group_by_selected_pks_on_model

    _patches.wrap(DatabaseWrapper, "create_cursor", cursors)
    _patches.wrap(DatabaseWrapper, "set_autocommit", autocommit)
    for name in ("commit", "rollback", "close"):
        _patches.wrap(DatabaseWrapper, name, ending)
    _patches.wrap(CursorWrapper, "__getattr__", attributes)
    _patches.wrap(CursorWrapper, "callproc", procedures)
    _patches.wrap(DatabaseFeatures, "allows_group_by_selected_pks_on_model", grouping)
    _patches.wrap(SQLInsertCompiler, "execute_sql", composed(_Cover.inserting))
    _patches.wrap(SQLCompiler, "execute_sql", composed(_Cover.selecting))


def _set_back(connection: Any, set_autocommit: Callable[..., Any]) -> None:
    try:
        connection.rollback()
        set_autocommit(connection, True)
    except DatabaseError:
        connection.close()
