"""
Secrets out of texts.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

__all__ = ["redacted"]

T = TypeVar("T")

# All up to the last @, since passwords contain every character there is; a file URL has no user.
_USER = re.compile(r"(?i)(?<!file)://[^\s'\"<>]*@")
_NAMED = re.compile(
    r"(?i)((?:password|passwd|pwd|passphrase|token|secret|credentials?|(?:api|access)[-_]?key|authorization)['\"]?\s*[=:]\s*(?:b(?=['\"]))?)"
    r"('[^']*'|\"[^\"]*\"|(?:basic\s+|bearer\s+)?[^\s&,;'\"]+)"
)


def redacted(value: T) -> T:
    """
    Return *value* without user names and passwords of URLs, and without what stands behind ``password=`` and the like.

    Args:
        value: A text; or lists, tuples and dictionaries of texts, of which a copy is returned.
    """
    return _redacted(value)  # type: ignore[no-any-return]


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _NAMED.sub(r"\1***", _USER.sub("://***@", value))
    if isinstance(value, dict):
        return {_redacted(name): _redacted(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_redacted, value))
    return value
