"""
The processes of a run on RabbitMQ, each with a proxy of its own between it and the broker; and when the run is over.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import aiormq
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.exceptions import ChannelLockedResource

from tenancy.key import RoutingKey
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.routes.stores import open_store, put_workload

from ..journal import Fault, clock
from ..spec import KEY_OF_NOBODY, LEASE, WORKLOAD
from ..troupe import Actor, Troupe
from .checker import Logs, Report, check, lives_of
from .entries import KINDS, Confirmed, Did, Returned, Took, Tried, Wrote
from .inbox import Inbox
from .proxy import Proxies
from .spec import Spec, arguments_of, queues_of

__all__ = ["Stage"]


class Stage(Troupe):
    """
    The processes of one run, on a classic and a quorum queue and one route store.

    Args:
        rabbitmq: URL of RabbitMQ.
        run: An empty directory for the journals.
        mutant: What is broken on purpose.
        deadline: Seconds after which everything that is waited for is given up.
        once: Whether handlers ask the deduplication.
    """

    package = "tests.chaos.rabbitmq"
    kinds = KINDS
    confirmed = Confirmed

    def __init__(self, rabbitmq: str, run: Path, *, mutant: str = "", deadline: float = 600.0, once: bool = True) -> None:
        super().__init__(run, deadline=deadline)
        self.base = f"chaos-{uuid4().hex[:8]}"
        self.keys: tuple[str, ...] = ()
        self._rabbitmq = rabbitmq
        self._store_url = f"sqlite:///{run}/routes.db"
        self._mutant = mutant
        self._once = once
        self._proxies = Proxies(rabbitmq)
        #: Is had while queues are made, and by whoever kills the broker.
        self.making = threading.Lock()

    def __enter__(self) -> Stage:
        store = open_store(self._store_url)
        store.create(LEASE)
        store.write([put_workload(WORKLOAD)])
        asyncio.run(self._declared())
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._proxies.close()

    # Processes

    def worker(self, name: str, *, sandbox: str = "", kind: str = "callback", slow: float = 0.0) -> Actor:
        """
        Start a consumer process; one of the baseline if no sandbox is named.
        """
        return self._start(self._spec(name, sandbox=sandbox, act=kind, slow=slow), "worker")

    def producer(self, rate: float, keys: Sequence[str]) -> Actor:
        """
        Start the producer.
        """
        self.keys = tuple(keys)
        return self._start(self._spec("producer", rate=rate, keys=(*keys, KEY_OF_NOBODY)), "producer")

    def manager(self, act: str, sandbox: str, key: str, *, slow: float = 0.0, wait: bool = False, hold: str = "") -> Actor:
        """
        Start a controller process; *wait*: it begins when told by `go`; *hold*: it does not ``close`` or ``remove`` a queue before it is
        told by `release`.
        """
        spec = self._spec(f"{act}-{sandbox}-{next(self._numbers)}", act=act, sandbox=sandbox, key=key, slow=slow)
        if wait:
            spec.sign("wait").touch()
        if hold:
            spec.sign(f"hold-{hold}").touch()
        return self._start(spec, "manager")

    # What is done to them

    def hold(self, actor: Actor) -> None:
        """
        Let a worker wait with what it is about to forward.
        """
        actor.spec.sign("hold-forward").touch()

    def release(self, actor: Actor) -> None:
        """
        Let a process go on that waits.
        """
        for what in ("hold-forward", "hold-close", "hold-remove"):
            actor.spec.sign(what).unlink(missing_ok=True)

    def cut(self, actor: Actor) -> None:
        """
        Cut a process's connections, with what the broker has just confirmed to it on the way.
        """
        began = clock()
        self._proxies.cut(actor.spec.name)
        self.note("cut", actor, clock() - began, at=began)

    def taken(self, actor: Actor) -> int:
        """
        Return how many messages a process was about to forward or to move so far.
        """
        self.journals.update()
        return sum(each.pid == actor.pid for each in self.journals.of(Took))

    # The end

    def settle(self, patience: float = 25.0, *, quiet: float = 1.0) -> Report:
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
            did = self.journals.of(Did)
            missing = {each.id for each in self.journals.of(Confirmed)} - {each.id for each in did}
            if len(did) != before:
                before, since = len(did), clock()
            if clock() - since > (patience if missing else quiet):
                return self.report()
            time.sleep(0.3)

    def report(self) -> Report:
        """
        Check what has been written down so far.
        """
        self.journals.update()
        effects = None
        if self._once:
            inbox = Inbox(self.run / "inbox.db")
            effects = inbox.effects()
            inbox.close()
        logs = Logs(*(list(self.journals.of(kind)) for kind in (Tried, Confirmed, Did, Took, Fault)), effects)
        return check(logs, self.lives())

    def lives(self) -> list[Any]:
        """
        Return the lives of keys.
        """
        self.journals.update()
        return lives_of(self.journals.of(Wrote), self.journals.of(Returned))

    def left_behind(self) -> list[str]:
        """
        Return the queues and exchanges of sandboxes that are still there, and the baseline's queues that are not empty.
        """
        return asyncio.run(self._left())

    def version(self) -> str:
        """
        Return the broker's version.
        """
        return asyncio.run(_version(self._rabbitmq))

    async def _declared(self) -> None:
        connection = await aio_pika.connect(self._rabbitmq)
        async with connection:
            channel = await connection.channel()
            for kind, name in queues_of(self.base).items():
                await channel.declare_queue(name, durable=True, arguments=arguments_of(kind))

    async def _left(self) -> list[str]:
        found = []
        connection = await aio_pika.connect(self._rabbitmq)
        async with connection:
            for base in queues_of(self.base).values():
                for life in self.lives():
                    names = names_of(base, RoutingKey(life.key), life.epoch)
                    found += [f"queue {each}" for each in (names.queue, names.lock, names.dead) if await _there(connection, each)]
                    found += [
                        f"exchange {each}" for each in (names.exchange, names.back) if await _there(connection, each, exchange=True)
                    ]
                channel = await connection.channel()
                queue = await channel.declare_queue(base, durable=True, passive=True)
                if queue.declaration_result.message_count:
                    found.append(f"{queue.declaration_result.message_count} messages in {base}")
        return found

    def _spec(self, name: str, **fields: Any) -> Spec:
        return Spec(
            name=name,
            run=str(self.run),
            rabbitmq=self._proxies.url(name),
            store=self._store_url,
            base=self.base,
            once=self._once,
            mutant=self._mutant,
            **fields,
        )


async def _version(url: str) -> str:
    connection = await aiormq.connect(url)
    try:
        return str(connection.server_properties["version"])
    finally:
        await connection.close()


async def _there(connection: Any, name: str, *, exchange: bool = False) -> bool:
    channel = await connection.channel()
    try:
        await (channel.declare_exchange if exchange else channel.declare_queue)(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    except ChannelLockedResource:
        return True
    await channel.close()
    return True
