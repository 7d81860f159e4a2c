"""
What can be told about SQL that came as text: only enough to refuse it where it might read or write rows of another owner.
"""

from __future__ import annotations

import re

__all__ = ["cannot_touch_rows", "may_read_tables"]

# Quoted strings, quoted identifiers and comments say nothing about the structure of a statement, so they are taken out before looking for
# keywords: together and from left to right, since an apostrophe in a comment opens nothing, and a dash in a string neither.
_QUOTED = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*(?:(?!/\*|\*/).)*\*/|(?P<dollar>\$(?:[^\W\d]\w*)?\$)", re.DOTALL
)
_UNTOLD = re.compile(r"/\*|\$(?:[^\W\d]\w*)?\$")
_READS = re.compile(r"\b(?:select|table|union|intersect|except|join)\b|;", re.IGNORECASE)
# In parentheses, FROM belongs to a function, as in extract(year FROM x); a subselect there has its SELECT.
_NESTING = re.compile(r"[()]|\b(?:distinct\s+)?from\b", re.IGNORECASE)
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
    for found in _NESTING.findall(plain):
        depth += (found == "(") - (found == ")")
        if depth < 0 or (depth == 0 and found.lower() == "from"):
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
    # A backslash may or may not escape a quote, depending on the server's settings, and comments may or may not nest, depending on the
    # database; of text in dollars the end is not looked for. Then nothing can be told.
    if "\\'" in text:
        return None
    plain = _QUOTED.sub(lambda match: match["dollar"] or " ", text)
    return None if _UNTOLD.search(plain) else plain
