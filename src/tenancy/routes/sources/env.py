"""
A route table in an environment variable: ``env:``, or ``env:VARIABLE``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...errors import RouteSourceError
from ..table import RouteTable, parse_table
from ._documents import parse_document

__all__ = ["EnvironmentSource", "open_source"]

VARIABLE = "TENANCY_ROUTE_TABLE"


class EnvironmentSource:
    """
    Reads the table from a variable that holds it as JSON or YAML.

    Without the variable, and in a Signadot sandbox, the one route that Signadot's own variables tell of is used.

    Args:
        variable: The variable's name.
        environ: The environment; default the process's own.
    """

    def __init__(self, variable: str = VARIABLE, environ: Mapping[str, str] | None = None) -> None:
        self.name = f"the environment variable {variable}"
        self._variable = variable
        self._environ = os.environ if environ is None else environ

    def read(self) -> RouteTable:
        """
        Parse the variable's value.

        Raises:
            RouteSourceError: If it is not set, or is not a route table.
        """
        text = self._environ.get(self._variable)
        if text is not None:
            return parse_table(parse_document(text, origin=self.name), origin=self.name)
        told = self._signadot()
        if told is None:
            raise RouteSourceError(
                f'{self.name} is not set; give it a route table in JSON, such as {{"workloads": ["shop/orders"]}}'
            )
        return told

    def mark(self) -> object:
        """
        Return None: a process's environment is taken as it was at start.
        """
        return None

    def _signadot(self) -> RouteTable | None:
        environ = self._environ
        name, sandbox = environ.get("SIGNADOT_BASELINE_NAME"), environ.get("SIGNADOT_SANDBOX_NAME")
        key = environ.get("SIGNADOT_SANDBOX_ROUTING_KEY")
        if not (name and sandbox and key):
            return None
        workload = f"{environ.get('SIGNADOT_BASELINE_NAMESPACE', 'default')}/{name}"
        return parse_table({"routes": [{"workload": workload, "key": key, "sandbox": sandbox}]}, origin="SIGNADOT_* variables")


def open_source(url: str) -> EnvironmentSource:
    """
    Return the source of an ``env:`` URL.
    """
    return EnvironmentSource(url.partition(":")[2].strip("/") or VARIABLE)
