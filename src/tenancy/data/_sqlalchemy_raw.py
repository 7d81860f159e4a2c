"""
What can be told about SQL that came as text: only enough to refuse it where it might read or write rows of another owner.
"""

from __future__ import annotations

import re

__all__ = ["cannot_touch_rows", "may_read_tables"]

# Quoted strings and identifiers say nothing about the structure of a statement, so they are taken out before looking for keywords.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_READS = re.compile(r"\b(?:select|table|union|intersect|except)\b|;", re.IGNORECASE)
_FROM = re.compile(r"\b(?:from|into|table|join|union|intersect|except|select\b.*\bselect)\b|;", re.IGNORECASE | re.DOTALL)
_SELECT = re.compile(r"\s*select\b", re.IGNORECASE)
_SESSION = re.compile(
    r"\s*(?:begin|start\s+transaction|commit|rollback|abort|savepoint|release|set|reset|show|pragma|listen|unlisten|notify|discard|"
    r"prepare\s+transaction)\b",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"\s*(?:create|alter|drop|comment|grant|revoke)\b", re.IGNORECASE)
_FILLS = re.compile(r"\bselect\b|\bas\s+table\b|\bexecute\b|;", re.IGNORECASE)


def may_read_tables(fragment: str) -> bool:
    """
    Return whether a piece of SQL inside a built statement could read a table of its own, or could end the clause that it stands in.

    Args:
        fragment: The text given to `text()`, `literal_column()`, a hint, a prefix or a suffix.
    """
    plain = _unquoted(fragment)
    if plain is None or _READS.search(plain):
        return True
    depth = 0
    for character in plain:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return True
    return depth != 0


def cannot_touch_rows(statement: str) -> bool:
    """
    Return whether a whole statement surely reads and writes no table: session settings, transaction control, definitions, and selects
    without a FROM, such as ``SELECT 1`` or ``SELECT nextval('orders_id_seq')``. Functions are taken at their word.

    Args:
        statement: SQL as it would go to the driver.
    """
    plain = _unquoted(statement)
    if plain is None:
        return False
    plain = plain.strip().removesuffix(";")
    if _SESSION.match(plain):
        return ";" not in plain
    if _SELECT.match(plain):
        return not _FROM.search(plain)
    return bool(_DEFINITION.match(plain)) and not _FILLS.search(plain)


def _unquoted(text: str) -> str | None:
    # A backslash may or may not escape a quote, depending on the server's settings: then nothing can be told.
    if "\\'" in text:
        return None
    return _QUOTED.sub(" ", text)
