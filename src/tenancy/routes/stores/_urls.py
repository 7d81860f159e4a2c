"""
The URLs of route stores, as people and logs may see them.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["hidden", "without_secrets"]

_PASSWORD = re.compile(r"(://[^/?#@:]*):(.*)@")
_QUERY_PASSWORD = re.compile(r"(?i)([?&]\w*password=)([^&#]*)")


def hidden(url: str) -> str:
    """
    Return a URL without its passwords.
    """
    # All up to the last @, since passwords contain every character there is.
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def without_secrets(text: str, url: str) -> str:
    """
    Return a text in one line, in which the passwords of a URL do not occur; what drivers say often has what they were given.
    """
    found = [match[2] for pattern in (_PASSWORD, _QUERY_PASSWORD) for match in pattern.finditer(url)]
    for secret in filter(None, (form for given in found for form in (given, unquote(given)))):
        text = text.replace(secret, "***")
    return " ".join(text.split())
