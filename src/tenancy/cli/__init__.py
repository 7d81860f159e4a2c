"""
The command line, ``tenancy``: one module for each command.
"""

from __future__ import annotations

import sys

from .._optional import extra
from ..errors import MissingDependencyError

__all__ = ["main"]


def main() -> int:
    """
    Run the command line, and return its exit status.
    """
    try:
        with extra("cli", "click", "rich"):
            from .root import run
    except MissingDependencyError as error:
        sys.stderr.write(f"tenancy: {error}\n")
        return 2
    return run()
