"""
A controller process: creates or deletes one sandbox, going on with whatever another one has left.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tenancy.errors import HandoverError
from tenancy.messaging.kafka import gap
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.messaging.kafka.groups import group_name
from tenancy.routes.stores import open_store
from tenancy.sandbox import Controller, Fork, Progress

from . import mutants
from .journal import Assigned, Dropped, Handled, Journal, Progressed, clock
from .spec import WORKLOAD, Spec

__all__ = ["main"]

_DEADLINE = 120.0


def main() -> int:
    """
    Do what the environment says; 0: done.
    """
    spec = Spec.given()
    mutants.install(spec)
    journal = Journal(spec.directory, spec.name)
    _watch_gap(journal, spec)
    controller = Controller(
        open_store(spec.store),
        KafkaBroker({"bootstrap.servers": spec.kafka, "reconnect.backoff.max.ms": 500}),
        progress=lambda told: journal.write(_progressed(spec, told)),
    )
    spec.sign("ready").touch()
    while spec.sign("wait").exists():
        time.sleep(0.01)
    try:
        if spec.act == "create":
            controller.create(spec.sandbox, [Fork(WORKLOAD, spec.key)], deadline=_DEADLINE)
        else:
            policy: Any = _settle(journal, spec) if spec.remaining == "handle" else "drop"
            controller.delete(spec.sandbox, deadline=_DEADLINE, drain=spec.drain, remaining=policy)
    except HandoverError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _progressed(spec: Spec, told: Progress) -> Progressed:
    return Progressed(spec.name, str(told.key), told.state.value, told.waiting, clock())


def _group(spec: Spec, row: Any) -> str:
    return group_name(spec.group, row.sandbox, row.generation)


def _settle(journal: Journal, spec: Spec) -> Any:
    """
    The function that handles what a sandbox has left.
    """

    def handle(message: Any) -> None:
        began = clock()
        time.sleep(0.002)
        place = (message.topic(), message.partition(), message.offset())
        journal.write(Handled(*place, spec.key, spec.name, spec.sandbox, os.getpid(), _gap_group[0], began, clock(), True))

    return handle


_gap_group = [""]


def _watch_gap(journal: Journal, spec: Spec) -> None:
    """
    Write down from when on the gap reader reads, and what it drops; what it does stays as it is.
    """
    read, settle = gap.GapReader._read, gap.GapReader._settle

    def reading(self: Any, base: str, left: Any, end: float) -> None:
        # Not exactly when the commits were asked for, but nobody commits any more: the group is empty.
        _gap_group[0] = _group(spec, self._row)
        for topic, partition in left:
            journal.write(Assigned(_gap_group[0], topic, partition, spec.name, os.getpid(), clock()))
        read(self, base, left, end)

    def settling(self: Any, message: Any) -> bool:
        before = self.dropped
        handled = settle(self, message)
        if self.dropped > before:
            journal.write(
                Dropped(message.topic(), message.partition(), message.offset(), self._row.sandbox, _gap_group[0], clock())
            )
        return handled

    gap.GapReader._read = reading  # type: ignore[method-assign]
    gap.GapReader._settle = settling  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
