"""
What the processes of a chaos run are told when they start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tenancy.routes import RouteTable
from tenancy.routes.stores import StoreSource, open_store

__all__ = ["KEY_OF_NOBODY", "LEASE", "SESSION", "WORKLOAD", "FreezableSource", "Spec", "told", "told_to"]

WORKLOAD = "shop/orders"

#: A key that no sandbox ever has.
KEY_OF_NOBODY = "pr-nobody"

#: Seconds for which a read of the route table may be acted on.
LEASE = 2.0

#: Seconds without a heartbeat after which a member of a group is given up.
SESSION = 3.0

_VARIABLE = "CHAOS_SPEC"


def told_to(fields: Mapping[str, Any]) -> dict[str, str]:
    """
    Return the environment of a process that is told something.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TENANCY_", "SIGNADOT_", "OTEL_"))}
    return {**own, _VARIABLE: json.dumps(fields), "PYTHONUNBUFFERED": "1"}


def told() -> dict[str, Any]:
    """
    Return what this process was told.
    """
    return json.loads(os.environ[_VARIABLE])


class Spec(NamedTuple):
    """
    What one process is told.

    Args:
        name: What it is called in the journals.
        run: The directory of the run.
        kafka: Bootstrap servers.
        store: URL of the route store.
        topic: The topic.
        group: The baseline's consumer group.
        sandbox: The sandbox's name; empty for the baseline.
        key: The sandbox's key, for controllers.
        act: What a controller does, or which kind of worker it is.
        drain: Seconds that the sandbox has to handle what is its own, for controllers.
        remaining: What becomes of what it leaves: ``drop`` or ``handle``.
        keys: The keys that the producer uses.
        rate: Messages a second, of the producer.
        settings: Further configuration of the consumer.
        mutant: What is broken on purpose; empty for nothing.
    """

    name: str
    run: str
    kafka: str
    store: str
    topic: str
    group: str
    sandbox: str = ""
    key: str = ""
    act: str = ""
    drain: float = 20.0
    remaining: str = "drop"
    keys: tuple[str, ...] = ()
    rate: float = 100.0
    settings: tuple[tuple[str, str], ...] = ()
    mutant: str = ""

    def variables(self) -> dict[str, str]:
        """
        Return the environment of the process.
        """
        return told_to(self._asdict())

    @staticmethod
    def given() -> Spec:
        """
        Return what this process was told.
        """
        fields = told()
        pairs = tuple((name, value) for name, value in fields.pop("settings"))
        return Spec(**{**fields, "keys": tuple(fields["keys"])}, settings=pairs)

    @property
    def directory(self) -> Path:
        """
        The directory of the run.
        """
        return Path(self.run)

    def sign(self, what: str) -> Path:
        """
        Return the file whose being there tells this process, or whoever started it, something.
        """
        return self.directory / f"{what}-{self.name}"


class FreezableSource(StoreSource):
    """
    The route store as one process sees it, which cannot be had while the file ``freeze-<name>`` is there.

    Args:
        spec: The process.
    """

    def __init__(self, spec: Any) -> None:
        super().__init__(open_store(spec.store))
        self._frozen = spec.sign("freeze")

    def read(self) -> RouteTable:
        """
        Read the table, unless it is frozen.
        """
        self._check()
        return super().read()

    def mark(self) -> object:
        """
        Return the table's version, unless it is frozen.
        """
        self._check()
        return super().mark()

    def _check(self) -> None:
        if self._frozen.exists():
            raise OSError("frozen")
