"""
The pages of the documentation, and the files that they tell their readers to make.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGES", "ROOT", "blocks", "links", "write_files"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("integrations/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_NAMED = re.compile(r"# (\w+\.py)\n")


def blocks(page: Path, language: str) -> list[str]:
    """
    Return the code blocks of a page in one language, as they stand.
    """
    return [text for _, name, text in _FENCE.findall(page.read_text()) if name == language]


def links(page: Path) -> list[str]:
    """
    Return the targets of a page's links, as they stand; what looks like one in code is none.
    """
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", page.read_text())))


def write_files(page: Path, folder: Path) -> dict[str, Path]:
    """
    Write the Python blocks that begin with the name of a file, as ``# name.py``, to files of that name.
    """
    found: dict[str, Path] = {}
    for text in blocks(page, "python"):
        named = _NAMED.match(text)
        if named is not None:
            found[named[1]] = folder / named[1]
            found[named[1]].write_text(text)
    return found
