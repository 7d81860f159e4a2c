"""
Starts the shop's servers and services, sends the traffic, and collects what happened.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswer
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aio_pika
import httpx
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tenancy import partition_name
from tenancy.mesh import Baseline, Endpoint, EnvoyTarget, Fork, Listener, render
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.routes.stores import open_store, put_workload
from tenancy.sandbox import Controller
from tenancy.sandbox import Fork as SandboxFork
from tests import services
from tests.services import envoy
from tests.services.base import free_port
from tests.services.process import Process

from .check import Hop, Report, Request, check
from .database import Database
from .plan import BASELINE, DEMO, EXPECTED, SERVICES, Plan

__all__ = ["Shop", "Worker"]

_ROOT = Path(__file__).resolve().parents[2]
#: Seconds for which what was read of the route table may be acted on; 10 unless one is in a hurry.
LEASE = 2.0
_HTTP = {"storefront": "http1", "pricing": "grpc", "orders": "http1"}


class Worker(NamedTuple):
    """
    One process of a service.

    Args:
        service: Which service.
        version: Which version of it.
        number: Which of its processes, from 1.
    """

    service: str
    version: str
    number: int

    def __str__(self) -> str:
        return f"{self.service}-{self.version}-{self.number}"


class Shop:
    """
    A running shop.

    Args:
        sabotage: What to break on purpose; empty for nothing.
        without: Servers to do without, even where they could be had.
        say: Takes a line of progress.
        plan: Who forks what, and what must happen then.
        workers: How many processes each version of a service has.
        module: What runs as a service; ``{}`` stands for its name.
    """

    def __init__(
        self,
        sabotage: str,
        without: Collection[str],
        say: Callable[[str], None],
        *,
        plan: Plan = DEMO,
        workers: int = 1,
        module: str = "examples.shop.services.{}",
    ) -> None:
        self.id = uuid4().hex[:8]
        self.front = ""
        self._plan = plan
        self._workers = workers
        self._module = module
        self._sabotage = sabotage
        self._without = without
        self._say = say
        self._stack = ExitStack()
        self._exact = False
        self._routes = ""
        self._processes: dict[Worker, Process] = {}
        self.legs: dict[str, str] = {"envoy": "envoy", "grpc": "grpc"}
        self.services: tuple[str, ...] = SERVICES

    def __enter__(self) -> Shop:
        self._stack.__enter__()
        try:
            self._run = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tenancy-shop-")))
            self._start_servers()
            self._start_services()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def traffic(self, of_each: int, *, at_once: int = 16) -> list[Request]:
        """
        Send requests of every kind, interleaved and concurrent.

        Args:
            of_each: How many of each kind.
            at_once: How many are under way at the same time.
        """
        kinds = [kind for kind in EXPECTED for _ in range(of_each)]
        random.Random(42).shuffle(kinds)
        with httpx.Client(timeout=30, trust_env=False) as client:

            def send(numbered: tuple[int, str | None]) -> Request:
                number, kind = numbered
                order = f"order-{number:04d}"
                headers = {"baggage": f"shopper=somebody,sd-routing-key={kind}"} if kind else {}
                try:
                    status = client.post(f"{self.front}/checkout/{order}", headers=headers).status_code
                except httpx.HTTPError:
                    status = 0
                return Request(order, kind, status)

            with ThreadPoolExecutor(at_once) as pool:
                return list(pool.map(send, enumerate(kinds)))

    def settle(
        self, requests: Sequence[Request], *, deadline: float = 30.0, quiet: float = 2.0, parts: Collection[str] = ()
    ) -> Report:
        """
        Wait until all is handled and nothing more comes, and check it.

        Args:
            requests: What was sent.
            deadline: Seconds to wait for what is missing.
            quiet: Seconds without a new line in a ledger after which nothing more is expected.
            parts: Parts of services that tell what they did as well, such as ``pricing.thread``.
        """
        end, seen, since = time.monotonic() + deadline, -1, time.monotonic()
        while True:
            self._watch()
            told = sum(ledger.stat().st_size for ledger in self._run.glob("*/ledger.jsonl"))
            if told != seen:
                seen, since = told, time.monotonic()
            late = time.monotonic() > end
            if late or time.monotonic() - since > quiet:
                hops = (hop for ledger in self.ledgers().values() for hop in ledger)
                report = check(
                    requests, hops, self._database.rows(self._tables), services=(*self.services, *parts), plan=self._plan
                )
                if late or not report.lost:
                    return report
                since = time.monotonic()  # what is missing may still come
            time.sleep(0.1)

    @property
    def _tables(self) -> tuple[str, ...]:
        return ("orders", "notifications") if "notify" in self.services else ("orders",)

    def seen(self) -> dict[str, dict[str, int]]:
        """
        Return whose rows of the orders, and how many, are seen without a key and with each.
        """
        return self._database.seen("orders")

    def retire(self) -> None:
        """
        Take all keys back from their sandboxes, as at the end of a pull request; where hand-over is not exact there is nothing to do.
        """
        self._for_each_sandbox(lambda controller, sandbox, _: controller.delete(sandbox, deadline=60))

    def ledgers(self) -> dict[Worker, list[Hop]]:
        """
        Return what each process wrote into its ledger, in this order.
        """
        return {worker: [Hop(**json.loads(line)) for line in self._lines(worker)] for worker in self._processes}

    def tail(self, worker: Worker) -> str:
        """
        Return the end of what a process printed.
        """
        return (self._run / str(worker) / "log").read_text(errors="replace")[-3000:]

    def _start_servers(self) -> None:
        self._say("starting Kafka, RabbitMQ and PostgreSQL")
        names = ("kafka", "rabbitmq", "postgresql")
        running = self._stack.enter_context(services.start_all(name for name in names if self._can_be_had(name)))
        kafka, rabbitmq, postgresql = (running[name].address if name in running else None for name in names)
        self.legs["kafka"] = "apache" if kafka else "mock"
        self.legs["rabbitmq"] = "real" if rabbitmq else "skipped"
        self.legs["database"] = "postgresql" if postgresql else "sqlite"
        if not kafka:
            self._say("Kafka: librdkafka's in-process mock cluster takes its place")
            kafka = self._stack.enter_context(services.mock_kafka()).address
        if not rabbitmq:
            self._say("RabbitMQ: skipped, so 'notify' does not run")
            self.services = tuple(service for service in SERVICES if service != "notify")
        if not postgresql:
            self._say("PostgreSQL: SQLite takes its place")
        keys = {expected.partition for expected in self._plan.expected.values() if expected.partition} - {BASELINE}
        self._database = Database(postgresql, self._run, self.id, keys)
        self._at_end("the database", self._database.drop)
        self._environment = {"SHOP_KAFKA": kafka, "SHOP_RABBITMQ": rabbitmq or "", "SHOP_DATABASE": self._database.url}
        self._create_tables()
        self._database.partition()  # before anything can be routed to where it would need them
        self._create_topic(kafka)
        if rabbitmq:
            self._at_end("the queues", lambda: asyncio.run(self._delete_queues(rabbitmq)))
            asyncio.run(self._create_queue(rabbitmq))

    def _can_be_had(self, name: str) -> bool:
        if name in self._without:
            return False
        try:
            services.find(name)
        except services.Unavailable as reason:
            self._say(str(reason))
            return False
        return True

    def _at_end(self, what: str, remove: Callable[[], None]) -> None:
        def removed() -> None:
            try:
                remove()
            except Exception as error:  # noqa: BLE001 - a server that is gone must not hide why, nor keep the rest from being ended
                self._say(f"{what} could not be removed: {error}")

        self._stack.callback(removed)

    def _create_tables(self) -> None:
        # The services define the tables; a process of their own makes them, since this one has none of their settings.
        script = "from examples.shop.common import DATABASE, metadata; import sqlalchemy; "
        script += "metadata.create_all(sqlalchemy.create_engine(DATABASE))"
        # In a session of its own it does not hear the terminal's Ctrl-C, which is for this process to act on.
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=self._variables(Worker("demo", BASELINE, 1), 0),
            cwd=_ROOT,
            start_new_session=True,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the database does not create the shop's tables:\n{done.stderr[-1000:]}")

    def _create_topic(self, kafka: str) -> None:
        admin, topic = AdminClient({"bootstrap.servers": kafka}), f"shop-orders-{self.id}"
        try:
            if self.legs["kafka"] == "mock":
                admin.list_topics(topic, 10)  # the mock makes the topics that it is asked about
                return
            admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(30)
        except (KafkaException, NoAnswer) as error:
            raise RuntimeError(f"Kafka at {kafka} does not create the shop's topic: {str(error) or 'no answer in 30 s'}") from error
        self._at_end("the topic", lambda: admin.delete_topics([topic])[topic].result(30))

    async def _create_queue(self, rabbitmq: str) -> None:
        connection = await aio_pika.connect(rabbitmq)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(f"shop.fulfilled.{self.id}", aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(f"shop.notify.{self.id}", durable=True)
            await queue.bind(exchange, "order.*")

    async def _delete_queues(self, rabbitmq: str) -> None:
        connection = await aio_pika.connect(rabbitmq)
        async with connection:
            channel = await connection.channel()
            await channel.exchange_delete(f"shop.fulfilled.{self.id}")
            for queue in (
                f"shop.notify.{self.id}",
                *(partition_name(name, f"shop.notify.{self.id}", kind="amqp-queue") for name in self._sandboxes("notify")),
            ):
                await channel.queue_delete(queue)

    def _start_services(self) -> None:
        # Consumers that are broken on purpose are strangers, beside which no sandbox is created.
        strangers = {"no-filter", "ambient"}.intersection(self._sabotage.replace(":", ",").split(","))
        self._exact = self.legs["kafka"] == "apache" and not strangers
        self._routes = self._make_routes()
        running = [(service, BASELINE) for service in self.services]
        running += [(service, sandbox) for service, sandbox in self._plan.forks if service in self.services]
        ports = {version: [free_port() for _ in range(self._workers)] for version in running}
        doors = dict(zip(_HTTP, (free_port() for _ in _HTTP), strict=True))
        self.front = f"http://127.0.0.1:{doors['storefront']}"
        self._environment["SHOP_ORDERS_URL"] = f"http://127.0.0.1:{doors['orders']}"
        self._environment["SHOP_PRICING_TARGET"] = f"127.0.0.1:{doors['pricing']}"
        names = ", ".join(f"{name} ({version})" for name, version in running)
        self._say(f"starting Envoy and {len(running) * self._workers} processes: {names}")
        (document,) = render(
            [
                Baseline(f"shop/{name}", Endpoint("127.0.0.1", ports[name, BASELINE][0]), protocol=protocol)
                for name, protocol in _HTTP.items()
            ],
            [
                Fork(f"shop/{name}", key=key, sandbox=sandbox, upstream=Endpoint("127.0.0.1", ports[name, sandbox][0]))
                for key, forks in self._plan.routes.items()
                for name, sandbox in forks.items()
                if name in _HTTP
            ],
            EnvoyTarget([Listener(f"shop/{name}", Endpoint("127.0.0.1", door)) for name, door in doors.items()]),
        )
        self._stack.enter_context(envoy.running(_balanced(document.content, ports.values())))
        for (name, version), own in ports.items():
            for number, port in enumerate(own, 1):
                self._start_worker(Worker(name, version, number), port)
        # While they start: the forks wait until they are handed something, and nobody else has to.
        self._for_each_sandbox(lambda controller, sandbox, forks: controller.create(sandbox, forks, deadline=60))
        self._wait_ready()

    def _make_routes(self) -> str:
        """
        Make the route table, and return its URL: a store, of which nothing is handed out yet; or a file, where the route table cannot say
        from which record on a route holds.
        """
        if not self._exact:
            path = self._run / "routes.json"
            path.write_text(json.dumps(self._plan.route_table()))
            return path.as_uri()
        url = f"sqlite:///{self._run / 'routes.db'}"
        store = open_store(url)
        store.create(LEASE)
        store.write([put_workload(f"shop/{service}") for service in SERVICES])
        store.close()
        return url

    def _for_each_sandbox(self, do: Callable[[Controller, str, list[SandboxFork]], object]) -> None:
        if not self._exact:
            return
        kafka, rabbitmq = str(self._environment["SHOP_KAFKA"]), str(self._environment["SHOP_RABBITMQ"])
        forks: dict[str, list[SandboxFork]] = {}
        for key, services_of in self._plan.routes.items():
            for service, sandbox in services_of.items():
                groups = {f"shop-fulfilment-{self.id}": [f"shop-orders-{self.id}"]} if service == "fulfilment" else {}
                queues = {f"shop.notify.{self.id}": ""} if service == "notify" and rabbitmq else {}
                forks.setdefault(sandbox, []).append(SandboxFork(f"shop/{service}", key, groups, queues=queues))

        def run(sandbox: str) -> None:
            store, rabbit = open_store(self._routes), RabbitBroker(rabbitmq) if rabbitmq else None
            try:
                do(Controller(store, KafkaBroker({"bootstrap.servers": kafka}), rabbit=rabbit), sandbox, forks[sandbox])
            finally:
                store.close()
                if rabbit is not None:
                    rabbit.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(run, forks))

    def _start_worker(self, worker: Worker, port: int) -> None:
        directory = self._run / str(worker)
        directory.mkdir()
        log = self._stack.enter_context((directory / "log").open("wb"))
        process = Process(
            [sys.executable, "-m", self._module.format(worker.service)],
            environment=self._variables(worker, port),
            directory=_ROOT,
            log=log,
        )
        self._processes[worker] = process
        self._stack.callback(process.stop, 5.0)

    def _variables(self, worker: Worker, port: int) -> dict[str, str]:
        role = {"TENANCY_ROLE": "baseline"} if worker.version == BASELINE else {"TENANCY_SANDBOX": worker.version}
        own = {
            variable: value for variable, value in os.environ.items() if not variable.startswith(("TENANCY_", "SIGNADOT_", "OTEL_"))
        }
        return {
            **own,
            **self._environment,
            **role,
            "TENANCY_WORKLOAD": f"shop/{worker.service}",
            "TENANCY_ROUTES": self._routes,
            "TENANCY_ROUTES_DEADLINE": "30",
            "TENANCY_RESPONSE_HEADER": "x-tenancy-served-by",
            "SHOP_ID": self.id,
            "SHOP_RUN": str(self._run / str(worker)),
            "SHOP_SERVICE": worker.service,
            "SHOP_VERSION": worker.version,
            "SHOP_PORT": str(port),
            "SHOP_SABOTAGE": self._sabotage,
            "PYTHONUNBUFFERED": "1",
            # All of it is here; a proxy of this machine's is for what is not.
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _wait_ready(self, deadline: float = 60.0) -> None:
        end = time.monotonic() + deadline
        waiting = list(self._processes)
        while waiting:
            self._watch()
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{', '.join(map(str, waiting))} did not become ready in {deadline:g} s; the log of the first:\n"
                    f"{self.tail(waiting[0])}"
                )
            waiting = [each for each in waiting if not (self._run / str(each) / f"ready-{each.service}-{each.version}").exists()]
            time.sleep(0.05)

    def _watch(self) -> None:
        for worker, process in self._processes.items():
            if process.exit_code is not None:
                raise RuntimeError(f"{worker} ended with {process.exit_code}:\n{self.tail(worker)}")

    def _lines(self, worker: Worker) -> list[str]:
        try:
            written = (self._run / str(worker) / "ledger.jsonl").read_text()
        except FileNotFoundError:
            return []
        return written.split("\n")[:-1]  # without a last line that is not complete yet

    def _sandboxes(self, service: str) -> list[str]:
        return [sandbox for name, sandbox in self._plan.forks if name == service]


def _balanced(bootstrap: Mapping[str, Any], workers: Iterable[Sequence[int]]) -> dict[str, Any]:
    """
    Return an Envoy configuration in which each upstream's requests go to all of its processes in turn.

    Args:
        bootstrap: What was rendered, with the port of the first process of each.
        workers: The ports of the processes of each upstream.
    """
    balanced = copy.deepcopy(dict(bootstrap))
    others = {ports[0]: ports[1:] for ports in workers}
    for cluster in balanced["static_resources"]["clusters"]:
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        (first,) = endpoints["lb_endpoints"]
        for port in others[first["endpoint"]["address"]["socket_address"]["port_value"]]:
            further = copy.deepcopy(first)
            further["endpoint"]["address"]["socket_address"]["port_value"] = port
            endpoints["lb_endpoints"].append(further)
    return balanced
