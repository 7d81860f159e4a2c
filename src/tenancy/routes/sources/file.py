"""
A route table in a file, such as a mounted ConfigMap: ``file:///etc/tenancy/routes.yaml``.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import ConfigurationError, RouteSourceError
from ..table import RouteTable, parse_table
from ._documents import parse_document

__all__ = ["FileSource", "open_source"]


class FileSource:
    """
    Reads the table from a YAML or JSON file, and sees when it is edited, replaced, or swapped behind a symbolic link, which is how
    Kubernetes updates a mounted ConfigMap.

    Args:
        path: The file; ``.json`` is read as JSON, anything else as YAML if PyYAML is installed and as JSON if not.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = f"the route file {self.path}"

    def read(self) -> RouteTable:
        """
        Read and parse the file.

        Raises:
            RouteSourceError: If it cannot be read, or is not a route table.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RouteSourceError(f"{self.name} cannot be read: {error}") from error
        return parse_table(parse_document(text, origin=self.name, json_only=self.path.suffix == ".json"), origin=self.name)

    def mark(self) -> object:
        """
        Return what identifies the file's present content: where the links lead, and that file's inode, times and size.
        """
        try:
            real = os.path.realpath(self.path)
            status = os.stat(real)
        except OSError:
            return ("missing", str(self.path))
        return (real, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def open_source(url: str) -> FileSource:
    """
    Return the source of a ``file:`` URL.

    Raises:
        ConfigurationError: If the URL names another host, or no path.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigurationError(f"routes (TENANCY_ROUTES) is {url!r}; write file:///path/to/routes.yaml, with three slashes")
    return FileSource(unquote(parts.path))
