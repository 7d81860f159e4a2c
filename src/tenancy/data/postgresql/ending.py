"""
SQL that would end the transaction that it is executed in, and with it the partition. Pure text.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["ends", "refusal"]

# Most statements are done with after this and a look for a semicolon: what begins otherwise, and has one part, ends nothing.
_PERHAPS = re.compile(r"\s*(?:commit|end|rollback|abort|prepare|--|/\*)", re.IGNORECASE)
_QUOTED = re.compile(
    r"(?<![\w$])[eE]'(?:[^'\\]|\\.|''|'\s*\n\s*')*(?:'|\Z)"  # with backslashes, and maybe continued on the next line
    r"|'[^']*(?:'|\Z)|\"[^\"]*(?:\"|\Z)|--[^\n\r]*"
    r"|(?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$).*?(?:(?P=dollar)|\Z)"
    r"|(?P<comment>/\*)",
    re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
# END is the end of a CASE elsewhere; and a rollback to a savepoint ends no transaction.
_ENDS = re.compile(
    r"(?:\A|;)\s*(?:(?:commit|end|abort)\b|prepare\s+transaction\b|rollback\b(?!(?:\s+(?:work|transaction))?\s+to\b))",
    re.IGNORECASE,
)


def ends(sql: Any, raw: Any = None) -> bool:
    """
    Return whether a statement, or one of several in a text, is transaction control by which the transaction ends.

    Args:
        sql: What a driver is given to execute: text, or an object of psycopg's that makes it.
        raw: The driver's connection, for such an object.
    """
    if not isinstance(sql, str):
        sql = sql.decode("latin-1") if isinstance(sql, bytes) else sql.as_string(raw) if hasattr(sql, "as_string") else str(sql)
    if ";" not in sql and _PERHAPS.match(sql) is None:
        return False
    return _ENDS.search(_plain(sql)) is not None


def refusal(key: Any, advice: str) -> str:
    """
    Return what is said of such a statement.

    Args:
        key: Whose transaction it is.
        advice: What ends it instead.
    """
    return f"this SQL would end the transaction, and with it the partition of {key}, so what comes next could be the baseline's: {advice}"


def _plain(sql: str) -> str:
    # Without what is quoted, and without comments, which nest.
    found, at = [], 0
    while (match := _QUOTED.search(sql, at)) is not None:
        found.append(sql[at : match.start()])
        at, depth = match.end(), int(match["comment"] is not None)
        while depth:
            edge = _COMMENT.search(sql, at)
            if edge is None:
                at = len(sql)
                break
            at, depth = edge.end(), depth + (1 if edge[0] == "/*" else -1)
    found.append(sql[at:])
    return " ".join(found)
