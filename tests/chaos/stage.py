"""
The processes of a run on Kafka, and when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka.admin import AdminClient, NewTopic

from tenancy.routes.stores import RouteStore, open_store, put_workload, table_of

from .checker import Life, Logs, Report, check
from .journal import Assigned, Committed, Dropped, Fault, Handled, Revoked, Sent, clock
from .producer import PARTITIONS
from .spec import KEY_OF_NOBODY, LEASE, SESSION, WORKLOAD, Spec
from .troupe import Actor, Late, Troupe

__all__ = ["Actor", "Late", "Stage"]

_GROUP = "orders"


class Stage(Troupe):
    """
    The processes of one run, on one topic and one route store.

    Args:
        kafka: Bootstrap servers of Apache Kafka.
        store: URL of the route store.
        run: An empty directory for the journals.
        mutant: What is broken on purpose.
        deadline: Seconds after which everything that is waited for is given up.
        settings: Further configuration of the baseline's consumers.
    """

    def __init__(
        self,
        kafka: str,
        store: str,
        run: Path,
        *,
        mutant: str = "",
        deadline: float = 600.0,
        settings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(run, deadline=deadline)
        self.topic = f"chaos-{uuid4().hex[:8]}"
        self.keys: tuple[str, ...] = ()
        self._kafka = kafka
        self._store_url = store
        self._mutant = mutant
        self._settings = settings

    def __enter__(self) -> Stage:
        admin = AdminClient({"bootstrap.servers": self._kafka, "log_level": 2})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(30)
        store = self.store()
        store.create(LEASE)
        store.write([put_workload(WORKLOAD)])
        return self

    def store(self) -> RouteStore:
        """
        Return the route store.
        """
        return open_store(self._store_url)

    # Processes

    def worker(self, name: str, *, sandbox: str = "", kind: str = "selective", settings: Sequence[tuple[str, str]] = ()) -> Actor:
        """
        Start a consumer process; one of the baseline if no sandbox is named.
        """
        spec = self._spec(name, sandbox=sandbox, act=kind, settings=tuple(settings) if sandbox else self._settings)
        return self._start(spec, "worker" if kind != "transactional" else "transactor")

    def producer(self, rate: float, keys: Sequence[str]) -> Actor:
        """
        Start the producer.
        """
        self.keys = tuple(keys)
        weighted = [*keys, *keys, KEY_OF_NOBODY, KEY_OF_NOBODY]
        spec = self._spec("producer", rate=rate, keys=tuple(weighted))
        return self._start(spec, "producer")

    def manager(
        self, act: str, sandbox: str, key: str, *, drain: float = 20.0, remaining: str = "drop", wait: bool = False
    ) -> Actor:
        """
        Start a controller process; *wait*: it begins when told by `go`.
        """
        spec = self._spec(
            f"{act}-{sandbox}-{next(self._numbers)}", act=act, sandbox=sandbox, key=key, drain=drain, remaining=remaining
        )
        if wait:
            spec.sign("wait").touch()
        return self._start(spec, "manager")

    # The end

    def settle(self, patience: float = 20.0, *, quiet: float = 1.0) -> Report:
        """
        Wait until nobody has anything left to handle, and check the run.

        Args:
            patience: Seconds without anything handled after which what is missing will not come.
            quiet: Seconds without anything handled after which nothing comes that would be too much.
        """
        since, before = clock(), -1
        while True:
            self.watch()
            self.journals.update()
            handled, dropped = self.journals.of(Handled), self.journals.of(Dropped)
            seen = {(each.topic, each.partition, each.offset) for each in [*handled, *dropped]}
            missing = sum((each.topic, each.partition, each.offset) not in seen for each in self.journals.of(Sent))
            if len(handled) != before:
                before, since = len(handled), clock()
            if clock() - since > (patience if missing else quiet):
                return self.report()
            time.sleep(0.3)

    def report(self) -> Report:
        """
        Check what has been written down so far.
        """
        self.journals.update()
        logs = Logs(*(list(self.journals.of(kind)) for kind in (Sent, Handled, Dropped, Committed, Assigned, Revoked, Fault)))
        return check(logs, self.lives(), long_pause=max(SESSION, LEASE))

    def lives(self) -> list[Life]:
        """
        Return the cut table.
        """
        store = self.store()
        rows = table_of(store.snapshot(), origin=store.name).handovers(WORKLOAD)
        return [Life(str(row.key), epoch.number, epoch.sandbox, epoch.start, epoch.end) for row in rows for epoch in row.epochs]

    def _spec(self, name: str, **fields: Any) -> Spec:
        return Spec(
            name=name,
            run=str(self.run),
            kafka=self._kafka,
            store=self._store_url,
            topic=self.topic,
            group=_GROUP + "-" + self.topic,
            mutant=self._mutant,
            **fields,
        )
