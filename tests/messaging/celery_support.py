"""
Real Celery workers of the baseline and of sandboxes, each a process of its own, and what they did.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenancy.key import RoutingKey
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.routes import Handover
from tenancy.routes.stores import open_store, put_workload
from tenancy.sandbox import Controller, Fork
from tests.messaging.support import WORKLOAD

__all__ = ["Workers", "running", "until"]

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], deadline: float = 30.0) -> Any:
    """Return the first true value of a condition; an error if that takes too long."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


class Workers:
    """
    One queue, its workers, and the log of what they did.

    Args:
        url: The broker.
        place: A directory for the route store, the results and the logs.
        more: Environment variables for all of them.
    """

    def __init__(self, url: str, place: Path, **more: str) -> None:
        self.place = place
        self.queue = f"celery-{uuid.uuid4().hex[:10]}"
        self.log = place / "log.jsonl"
        self.log.touch()
        (place / "results").mkdir(exist_ok=True)
        self.routes = f"sqlite:///{place}/routes.db"
        self.store = open_store(self.routes)
        self.store.create(lease=1.0)
        self.store.write([put_workload(WORKLOAD)])
        self.url = url
        self.broker = RabbitBroker(url)
        self.controller = Controller(self.store, rabbit=self.broker)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TENANCY_")},
            "APP_BROKER": url,
            "APP_QUEUE": self.queue,
            "APP_LOG": str(self.log),
            "APP_RESULTS": str(place / "results"),
            "PYTHONUNBUFFERED": "1",
            **more,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, sandbox: str | None = None, *options: str, pool: str = "solo", **more: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it is ready."""
        who = {"TENANCY_ROLE": "baseline"} if sandbox is None else {"TENANCY_SANDBOX": sandbox}
        number = len(self._processes)
        output = self.place / f"worker-{number}.txt"
        command = [
            "-A",
            "tests.messaging.celery_app",
            "worker",
            "-P",
            pool,
            "-c",
            "2",
            "-n",
            f"w{number}@{self.queue}",
            "-l",
            "INFO",
        ]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *command, *options],
                cwd=ROOT,
                env={
                    **self.environment,
                    **who,
                    "APP_WHO": sandbox or "baseline",
                    "TENANCY_WORKLOAD": WORKLOAD,
                    "TENANCY_ROUTES": self.routes,
                    **more,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        until(lambda: process.poll() is not None or " ready." in output.read_text())
        return process

    def output(self) -> str:
        """Return what the workers wrote."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.place.glob("worker-*.txt")))

    def send(self, code: str) -> None:
        """Run code that sends tasks, in a process that knows nothing of itself."""
        code = f"import tenancy\nfrom celery import chain, chord, group\nfrom tests.messaging.celery_app import *\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def traffic(self, every: float = 0.01) -> Iterator[None]:
        """Have tasks sent all the while, with and without the key; what was sent, and when, is a line in a file."""
        code = f"""
import time, json, pathlib
number, place = 0, pathlib.Path({str(self.place)!r})
with (place / "sent.jsonl").open("a") as sent:
    while not (place / "stop").exists():
        for key in ("pr-1", None):
            number += 1
            name = f"{{number}}"
            print(json.dumps({{"name": name, "key": key, "from": time.time()}}), file=sent)
            with tenancy.scope(key):
                work.apply_async((name, 0.002), countdown=0.5 if number % 10 < 2 else None)
        time.sleep({every})
"""
        sender = threading.Thread(target=self.send, args=(code,))
        sender.start()
        try:
            yield
        finally:
            (self.place / "stop").touch()
            sender.join()

    def sent(self) -> list[dict[str, Any]]:
        """Return what `traffic` has sent."""
        return [json.loads(line) for line in (self.place / "sent.jsonl").read_text().splitlines()]

    def did(self, *names: str) -> list[dict[str, Any]]:
        """Return the lines of the log, in order."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if not names or line["name"] in names]

    def owners(self, *names: str) -> list[tuple[str, str | None]]:
        """Wait until tasks were run, and return by whom and under which key; each once."""
        until(lambda: {line["name"] for line in self.did(*names)} == set(names))
        time.sleep(0.2)
        lines = self.did(*names)
        assert len(lines) == len(names), lines
        by_name = {line["name"]: (line["who"], line["key"]) for line in lines}
        return [by_name[name] for name in names]

    def reconnect(self) -> None:
        """Have the controller start anew."""
        self.broker = RabbitBroker(self.url)
        self.controller = Controller(self.store, rabbit=self.broker)

    def create(self, sandbox: str = "pr-1", **options: Any) -> Handover:
        """Create a sandbox, as `tenancy sandbox create` does."""
        (row,) = self.controller.create(sandbox, [Fork(WORKLOAD, sandbox, **options)], deadline=30)
        return row

    def delete(self, sandbox: str = "pr-1") -> Handover:
        """Delete it."""
        (row,) = self.controller.delete(sandbox, deadline=30)
        return row

    def its_queue(self, epoch: int = 1, key: str = "pr-1") -> str:
        """Return what a life's queue is called."""
        return names_of(self.queue, RoutingKey(key), epoch).queue

    @staticmethod
    def stop(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
        """Have a worker end."""
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
        for process in self._processes:
            if process.poll() is None:
                self.stop(process, signal.SIGQUIT)
        self.broker.close()
        self.store.close()


@contextmanager
def running(url: str, place: Path, **more: str) -> Iterator[Workers]:
    """Have workers, whose output is shown where a test fails."""
    workers = Workers(url, place, **more)
    try:
        yield workers
    except BaseException:
        print(workers.output()[-12000:])
        print(workers.log.read_text()[-4000:])
        raise
    finally:
        workers.close()
