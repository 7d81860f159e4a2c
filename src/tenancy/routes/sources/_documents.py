"""
YAML or JSON text to plain data.
"""

from __future__ import annotations

import json
from typing import Any

from ..._optional import extra
from ...errors import RouteSourceError

__all__ = ["parse_document"]


def parse_document(text: str, *, origin: str, json_only: bool = False) -> Any:
    """
    Parse a document.

    Args:
        text: JSON, or YAML where PyYAML is installed.
        origin: Where it came from, for messages.
        json_only: Whether YAML is not even tried.

    Raises:
        RouteSourceError: If it is neither.
        MissingDependencyError: If it is not JSON and PyYAML is not installed.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        if json_only:
            raise RouteSourceError(f"{origin} is not JSON: {error}") from error
    with extra("yaml", "yaml"):
        import yaml
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders
    except yaml.YAMLError as error:
        raise RouteSourceError(f"{origin} is neither JSON nor YAML: {error}") from error
