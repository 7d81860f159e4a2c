"""
What can be told about SQL that came as text: only enough to refuse it where it might read or write rows of another owner.
"""

from __future__ import annotations

import re

__all__ = ["cannot_touch_rows", "may_read_tables"]

# Quoted strings, quoted identifiers and comments say nothing about the structure of a statement, so they are taken out before looking for
# keywords: together and from left to right, since an apostrophe in a comment opens nothing, and a dash in a string neither.
_QUOTES = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*(?:(?!/\*|\*/).)*\*/|(?P<dollar>\$(?:[^\W\d]\w*)?\$)"
_QUOTED = re.compile(_QUOTES, re.DOTALL)
# There are two more ways to quote an identifier on SQLite; elsewhere the brackets belong to arrays.
_QUOTED_SQLITE = re.compile(rf"\[[^\]]*\]|`(?:[^`]|``)*`|{_QUOTES}", re.DOTALL)
_UNTOLD = re.compile(r"/\*|\$(?:[^\W\d]\w*)?\$")
_READS = re.compile(r"\b(?:select|table|union|intersect|except|join)\b|;", re.IGNORECASE)
# SQLite reads a table in `x IN name`; what a parameter stands for is a list.
_IN_TABLE = re.compile(r"\bin\b(?!\s*[(:?])", re.IGNORECASE)
# In parentheses, FROM belongs to a function, as in extract(year FROM x); a subselect there has its SELECT. A column may be named "is" or
# "distinct" where it follows a dot or AS, so it takes both words to make an operator.
_NESTING = re.compile(r"[()]|(?<!\.)\bis\s+(?:not\s+)?distinct\s+from\b|\bfrom\b", re.IGNORECASE)
_DOTTED = re.compile(r"\s*\.\s*")
_EXPLAIN = re.compile(r"\s*explain\b(?:\s*\([^()]*\)|\s+(?:query\s+plan|analyze|verbose)\b)*", re.IGNORECASE)
_SELECT = re.compile(r"\s*(?:select|values)\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:into|insert|update|delete|merge)\b", re.IGNORECASE)
_SESSION = re.compile(
    r"\s*(?:begin|start\s+transaction|commit|rollback|abort|savepoint|release|set|reset|show|pragma|listen|unlisten|notify|discard|"
    r"prepare\s+transaction)\b",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"\s*(?:create|alter|drop|comment|grant|revoke)\b", re.IGNORECASE)
_FILLS = re.compile(r"\bselect\b|\bas[\s(]+table\b|\bexecute\b|;", re.IGNORECASE)
_NEW_TABLE = re.compile(
    r"\s*create\s+(?:(?:or\s+replace|global|local|temp|temporary|unlogged|foreign|recursive|materialized)\s+)*(?:table|view)\b",
    re.IGNORECASE,
)
# In parentheses, AS belongs to a column or to a CAST; outside of them it says what to fill the table or the view with.
_NESTED_AS = re.compile(r"[()]|\bas\b", re.IGNORECASE)


def may_read_tables(fragment: str, dialect: str = "") -> bool:
    """
    Return whether a piece of SQL inside a built statement could read a table of its own, or could end the clause that it stands in.

    Args:
        fragment: The text given to `text()`, `literal_column()`, a hint, a prefix or a suffix.
        dialect: The name of SQLAlchemy's dialect.
    """
    plain = _unquoted(fragment, dialect)
    return plain is None or _reads(plain, dialect)


def cannot_touch_rows(statement: str, dialect: str = "") -> bool:
    """
    Return whether a whole statement surely reads and writes no table: session settings, transaction control, definitions, and selects
    without a FROM, such as ``SELECT 1`` or ``SELECT nextval('orders_id_seq')``. Functions are taken at their word.

    Args:
        statement: SQL as it would go to the driver.
        dialect: The name of SQLAlchemy's dialect.
    """
    plain = _unquoted(statement, dialect)
    if plain is None:
        return False
    plain = plain.strip().removesuffix(";")
    if _SESSION.match(plain):
        return ";" not in plain
    explained = _EXPLAIN.match(plain)
    query = plain[explained.end() :] if explained else plain
    begun = _SELECT.match(query)
    if begun:
        rest = query[begun.end() :]
        return not _WRITES.search(rest) and not _reads(rest, dialect)
    if not _DEFINITION.match(plain) or _FILLS.search(plain):
        return False
    return not (_NEW_TABLE.match(plain) and _stands_outside("as", _NESTED_AS.findall(plain)))


def _reads(plain: str, dialect: str) -> bool:
    if _READS.search(plain) or (dialect == "sqlite" and _IN_TABLE.search(plain)):
        return True
    return _stands_outside("from", _NESTING.findall(_DOTTED.sub(".", plain)))


def _stands_outside(word: str, tokens: list[str]) -> bool:
    # True also where the parentheses do not close what they open.
    depth = 0
    for found in tokens:
        depth += (found == "(") - (found == ")")
        if depth < 0 or (depth == 0 and found.lower() == word):
            return True
    return depth != 0


def _unquoted(text: str, dialect: str) -> str | None:
    # A backslash may or may not escape a quote, depending on the server's settings, and comments may or may not nest, depending on the
    # database; of text in dollars the end is not looked for. Then nothing can be told.
    if "\\'" in text:
        return None
    quoted = _QUOTED_SQLITE if dialect == "sqlite" else _QUOTED
    plain = quoted.sub(lambda match: match["dollar"] or " ", text)
    return None if _UNTOLD.search(plain) else plain
