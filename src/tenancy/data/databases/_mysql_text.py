"""
Which databases a statement of MySQL's names. There a name in front of a table's is a database's, and every database is within reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Named", "databases_named", "names_in_front"]

# What is no code is skipped; a comment that begins with ! is code (https://dev.mysql.com/doc/refman/8.4/en/comments.html). A text in double
# quotes with a dot behind it can only be a name, in whatever mode.
_GRAMMAR = r"""
    (?P<skipped>\s+ | \#[^\n]* | --(?=[\s\0]|\Z)[^\n]* | /\*(?!M?!).*?\*/ | /\*M?!\d* | \*/ | %(?:\(\w+\)s|s\b) | @+[\w$.]*)
  | (?P<quoted>`(?:[^`]|``)+` | "(?:[^"]|"")*"ANSI)
  | (?P<text>'(?:PLAIN|'')*' | "(?:PLAIN|"")*")
  | (?P<word>[\w$]+)
  | (?P<mark>.)
"""


def _pattern(*, escapes: bool, ansi: bool) -> re.Pattern[str]:
    text, double = (r"""[^'\\]|\\.""", r"""[^"\\]|\\.""") if escapes else ("[^']", '[^"]')
    written = _GRAMMAR.replace("ANSI", "" if ansi else r"(?=\s*\.)").replace("'(?:PLAIN", f"'(?:{text}").replace("PLAIN", double)
    return re.compile(written, re.VERBOSE | re.DOTALL)


_PATTERNS = {(escapes, ansi): _pattern(escapes=escapes, ansi=ansi) for escapes in (True, False) for ansi in (True, False)}


class Named(NamedTuple):
    """
    What a statement names.

    Args:
        databases: The names, in lower case.
        moves: Whether it makes another database the current one.
    """

    databases: frozenset[str]
    moves: bool


class _Token(NamedTuple):
    kind: str
    text: str  # a word in capitals, a quoted name without its quotes
    names: tuple[str, ...] = ()  # of a word or quoted name: what is joined to it by dots; of `a.*` the last is a star


_NONE = Named(frozenset(), False)
_CACHED = 4096  # characters of a statement
_MAY_NAME = re.compile(r"\.|\b(?:USE|DATABASE|SCHEMA)\b", re.IGNORECASE)


def databases_named(statement: str, *, escapes: bool = True, ansi: bool = False) -> Named:
    """
    Return the databases that a statement names where it names a table, a routine or a column of a table.

    Where `a.b` stands tells what it is: in a list of tables `a` is a database, in an expression a table. Where it cannot be told it counts
    as a database.

    Args:
        statement: SQL as it would go to the driver, with or without its parameters' places.
        escapes: Whether a backslash escapes a quote, that is, ``NO_BACKSLASH_ESCAPES`` is not set.
        ansi: Whether double quotes are those of names, that is, ``ANSI_QUOTES`` is set.
    """
    if _MAY_NAME.search(statement) is None:
        return _NONE  # such as long lists of rows
    return (_read if len(statement) <= _CACHED else _read.__wrapped__)(statement, escapes, ansi)


@lru_cache(maxsize=1024)
def _read(statement: str, escapes: bool, ansi: bool) -> Named:
    reader = _Reader(list(_tokens(statement, escapes=escapes, ansi=ansi)))
    reader.read()
    return Named(frozenset(name.lower() for name in reader.found), reader.moves)


def names_in_front(statement: str) -> set[str]:
    """
    Return all names that stand in front of a dot, whatever they are, in lower case.
    """
    return {token.names[0].lower() for token in _tokens(statement) if len(token.names) > 1}


def _tokens(statement: str, *, escapes: bool = True, ansi: bool = False) -> Iterator[_Token]:
    chain: list[str] = []  # a name, and what has been joined to it
    kind = ""
    dot = False
    for match in _PATTERNS[escapes, ansi].finditer(statement):
        text, is_a = match[0], match.lastgroup or ""
        if is_a == "skipped":
            continue
        if is_a == "quoted":
            text = text[1:-1].replace(text[0] * 2, text[0])
        if chain and dot and (is_a in ("word", "quoted") or text == "*"):
            chain.append(text)
            dot = False
            continue
        if chain and not dot and text == "." and is_a == "mark" and not (kind == "word" and chain[0].upper() in _SWITCHES):
            dot = True
            continue
        if chain:
            yield _Token(kind, chain[0].upper() if kind == "word" else chain[0], tuple(chain))
            chain, dot = [], False
        if is_a in ("word", "quoted"):
            chain, kind = [text], is_a
        else:
            yield _Token(is_a, text)
    if chain:
        yield _Token(kind, chain[0].upper() if kind == "word" else chain[0], tuple(chain))


# Reserved words after which tables are named, or values. Only reserved ones: any other could be an alias.
_TABLES = {"FROM", "JOIN", "STRAIGHT_JOIN", "INTO", "UPDATE", "TABLE", "REFERENCES", "RENAME", "INSERT", "REPLACE", "DELETE", "ON"}
_VALUES = {"SELECT", "WHERE", "HAVING", "SET", "VALUES", "LIMIT", "BY"}
_SWITCHES = _TABLES | _VALUES
_END = _Token("end", "")


@dataclass
class _Level:
    """
    What is between two parentheses, or a whole statement.
    """

    tables: bool  # a name here is a table's
    selects: bool = False
    joins: bool = False
    condition: bool = False  # after ON; a comma leads back to the tables


class _Reader:
    def __init__(self, tokens: list[_Token]) -> None:
        self.found: set[str] = set()
        self.moves = False
        self._tokens = tokens
        self._at = 0
        self._begin()

    def _begin(self) -> None:
        self._levels = [_Level(tables=True)]
        self._verb = ""
        self._inserts = False

    def read(self) -> None:
        for at, token in enumerate(self._tokens):
            self._at = at
            level = self._levels[-1]
            if token.kind == "mark":
                self._mark(token.text, level)
            elif len(token.names) > 1:
                self._name(token.names, level)
            elif token.kind == "word":
                if not self._verb:
                    self._verb = token.text
                    self.moves = self.moves or (token.text == "USE" and self._near(1).kind != "end")
                self._word(token.text, level)

    def _near(self, distance: int) -> _Token:
        index = self._at + distance
        return self._tokens[index] if 0 <= index < len(self._tokens) else _END

    def _mark(self, mark: str, level: _Level) -> None:
        if mark == "(":
            before = self._near(-1)
            columns = self._inserts and bool(before.names)
            self._levels.append(_Level(tables=level.tables and not columns and before.text != "JSON_TABLE"))
        elif mark == ")" and len(self._levels) > 1:
            self._levels.pop()
        elif mark == "," and level.condition:
            level.tables, level.condition = True, False
        elif mark == ";":
            self._begin()

    def _name(self, names: tuple[str, ...], level: _Level) -> None:
        called = self._near(1).text == "(" and not level.tables
        whole = names[-1] == "*" and len(names) == 2 and self._verb not in ("GRANT", "REVOKE")
        if len(names) > 2 or called or (level.tables and not whole):
            self.found.add(names[0])

    def _word(self, word: str, level: _Level) -> None:
        before, after = self._near(-1).text, self._near(1).text
        if word in ("DATABASE", "SCHEMA") and self._verb in ("CREATE", "DROP", "ALTER") and len(self._levels) == 1:
            self._database()
        elif word == "RETURNING" and self._verb in ("INSERT", "REPLACE", "DELETE"):
            level.tables = False
        elif word == "ON":
            self._on(after, level)
        elif word in ("INSERT", "REPLACE", "DELETE"):
            if after != "(":
                level.tables = True
                self._inserts = word != "DELETE"
        elif word in _VALUES:
            self._value(word, before, level)
        elif word in _TABLES and self._leads_to_tables(word, before, level):
            level.tables, level.condition = True, False
            level.joins = level.joins or word in ("JOIN", "STRAIGHT_JOIN")
        elif word == "UPDATE" and before == "KEY":
            level.tables = False

    def _on(self, after: str, level: _Level) -> None:
        # ON DUPLICATE KEY, NULL ON EMPTY, ON DELETE; then the condition of a join; else CREATE INDEX ... ON, GRANT ... ON.
        if after == "DUPLICATE":
            level.tables = level.condition = False
        elif after not in ("EMPTY", "ERROR", "UPDATE"):
            level.tables, level.condition = not level.joins, level.joins

    def _value(self, word: str, before: str, level: _Level) -> None:
        # None of a list's end: CHARACTER SET, and USE INDEX FOR ORDER BY.
        by = word == "BY" and (before not in ("ORDER", "GROUP", "PARTITION") or self._near(-2).text == "FOR")
        if (word == "SET" and before == "CHARACTER") or by:
            return
        if word == "SELECT":
            level.selects, level.joins = True, False
        level.tables = level.condition = self._inserts = False

    def _leads_to_tables(self, word: str, before: str, level: _Level) -> bool:
        if word == "FROM":  # in extract(year FROM x) it does not
            return level.selects or level.tables or len(self._levels) == 1
        if word == "STRAIGHT_JOIN":  # a modifier of SELECT's, too
            return level.tables or level.joins
        return not (word == "UPDATE" and before in ("KEY", "ON"))

    def _database(self) -> None:
        for token in self._tokens[self._at + 1 :]:
            if token.names and token.text not in ("IF", "NOT", "EXISTS"):
                self.found.add(token.names[0])
                return
