"""
The guard around an adapter's import of its client library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingDependencyError

__all__ = ["extra"]


@contextmanager
def extra(name: str, *packages: str) -> Iterator[None]:
    """
    Turn the failing import of one of *packages* into an error that names the command to run.

    Args:
        name: The extra of this distribution that brings the packages.
        packages: Import names; the failure to import anything else, such as a broken dependency of theirs, is passed on as it is.

    Raises:
        MissingDependencyError: If one of *packages* is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in packages:
            raise
        raise MissingDependencyError(
            f"{error.name} is not installed; run: pip install 'request-tenancy[{name}]'", name=error.name
        ) from error
