"""
Whose a transaction is, what becomes of a key without a partition, and what to do about what the server refuses; the same for every driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...observe import count
from .registry import PREPARE

__all__ = ["BASELINE", "Policies", "Policy", "Transaction", "advice", "entering_failed", "unprepared"]

#: What becomes of work whose key has no partition: it is the baseline's, or it is refused.
Policy = Literal["baseline", "refuse"]

_READY = "ready"


class Transaction(NamedTuple):
    """
    Whose a transaction is.

    Args:
        key: The routing key that it began under.
        revision: Of the partition that it is in; None: it is the baseline's.
    """

    key: RoutingKey | None
    revision: str | None

    def continues(self, key: RoutingKey | None, advice: str) -> None:
        """
        Check that it goes on under the key that it began under; work of a key that is the baseline's may go on without a key.

        Args:
            key: The routing key now.
            advice: What to do otherwise.

        Raises:
            PartitionError: If it does not.
        """
        if key != self.key and not (key is None and self.revision is None):
            raise PartitionError(
                f"this transaction is of {self.key or 'the baseline'}, and is now used for {key or 'the baseline'}: {advice}"
            )


BASELINE = Transaction(None, None)


class Policies:
    """
    What becomes of keys that have no partition.

    Args:
        where: The function that the options were given to, for messages.
        unknown: Of those that never had one here.
        late: Of those whose was dropped.

    Raises:
        ConfigurationError: If one is no policy.
    """

    def __init__(self, where: str, unknown: str, late: str) -> None:
        for option, choice in (("unknown", unknown), ("late", late)):
            if choice not in ("baseline", "refuse"):
                raise ConfigurationError(f"{where}({option}={choice!r}): use 'baseline' or 'refuse'")
        self._choices = {"unknown": unknown, "dropped": late}

    def settled(self, key: RoutingKey, answer: str) -> Transaction:
        """
        Return whose a transaction is.

        Args:
            key: The routing key that it begins under.
            answer: What the server answered to the statement that enters the key's partition.

        Raises:
            PartitionError: If the key cannot be served.
        """
        state, _, revision = answer.partition(" ")
        if state == _READY:
            return Transaction(key, revision)
        if state == "inside":
            raise PartitionError(f"this transaction is of {revision}, and cannot become one of {key}: end it first")
        if state == "begun":
            raise PartitionError(
                f"this transaction has written to the baseline's tables already, so it cannot become one of {key}: enter before all else"
            )
        if state == "gone":
            raise PartitionError(
                f"a schema of the partition of {key} is gone, which somebody has dropped: call refresh({str(key)!r}), "
                f"or run `tenancy data refresh {key}`"
            )
        if state not in self._choices:
            raise PartitionError(
                f"the partition of {key} is {state}, while the baseline's tables are changed or it is made: try again"
            )
        if self._choices[state] == "refuse":
            what = "has no partition in this database: create it" if state == "unknown" else "had a partition, which was dropped"
            raise PartitionError(f"routing key {str(key)!r} {what}")
        count("tenancy.partition.unknown_keys")
        return Transaction(key, None)


_LOCKS, _GROUPS, _BEGUN = "0A000", "42803", "25001"
# By a word of the statement, which is there in whatever language.
_ABOUT: Mapping[str, str] = {_LOCKS: "FOR ", _GROUPS: "GROUP BY", _BEGUN: "SET TRANSACTION"}
# By https://www.postgresql.org/docs/current/errcodes-appendix.html
_ADVICE: Mapping[str, str] = {
    _LOCKS: "SELECT ... FOR UPDATE would lock nothing of the baseline's rows in an overlay; leave it out, or use mode copy for that table",
    "42P10": "an ON CONFLICT in SQL given as text does not meet the baseline's rows in an overlay; write it with {upsert}, or use mode copy "
    "for that table",
    _GROUPS: "an overlay is a view, and has no primary key to tell other columns by; name them all in GROUP BY, or use mode copy for that "
    "table",
    _BEGUN: "a transaction of a routing key has entered its partition by a query already; set it before the transaction begins: "
    "execution_options(isolation_level=...) of SQLAlchemy, OPTIONS of Django's DATABASES, or what your driver has for it",
    "42501": "work with a routing key can read and change only its partition: leave the schema out of the name, or give the table a mode",
}


def advice(state: str | None, message: str, upsert: str) -> str | None:
    """
    Return what a server's error in a partition means, and what to do; None: it is what it would be in the baseline.

    Args:
        state: Its SQLSTATE.
        message: Its message.
        upsert: By what an ON CONFLICT can be written.
    """
    found = _ADVICE.get(state or "")
    if found is None or _ABOUT.get(state or "", "") not in message:
        return None
    return f"{message.splitlines()[0] if message else state}: {found.format(upsert=upsert)}"


_SETUP: Mapping[str, str] = {
    "3F000": PREPARE,
    "42883": PREPARE,
    "42501": "this role may not become the one that statements of a key are run by: call PostgresIsolation.install(grant_to=[...]) with it, "
    "or run `tenancy data install --grant-to ROLE`",
}


def unprepared(error: BaseException) -> ConfigurationError | None:
    """
    Return what an error of the server's while a transaction enters a partition says of the database; None: it is about something else.

    Args:
        error: The driver's error, or Django's, which has the driver's as its cause.
    """
    driver = error if _state(error) else error.__cause__
    text = _SETUP.get(_state(driver) or "")
    return None if text is None else ConfigurationError(f"{str(driver).splitlines()[0]}: {text}")


@contextlib.contextmanager
def entering_failed() -> Iterator[None]:
    """
    Say, of an error of the server's while a transaction enters a partition, what was not prepared.

    Raises:
        ConfigurationError: If the database was not prepared by `PostgresIsolation.install`, or not for this role.
    """
    try:
        yield
    except Exception as error:
        found = unprepared(error)
        if found is None:
            raise
        raise found from error


def _state(error: BaseException | None) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
