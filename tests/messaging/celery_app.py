"""
The Celery application of the tests: what each task did is a line in a file.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery
from kombu import Queue

import tenancy
from tenancy.messaging.celery import setup

QUEUE = os.environ["APP_QUEUE"]
WHO = os.environ.get("APP_WHO", "sender")
LOG = os.environ["APP_LOG"]

if "APP_TRACED" in os.environ:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor().instrument(use_span_links=os.environ["APP_TRACED"] == "links")

app = Celery("tests", broker=os.environ["APP_BROKER"], backend=f"file://{os.environ['APP_RESULTS']}")
app.conf.update(
    task_default_queue=QUEUE,
    task_queues=[
        Queue(
            QUEUE,
            durable=True,
            auto_delete="APP_AUTO_DELETE" in os.environ,
            queue_arguments=json.loads(os.environ.get("APP_ARGUMENTS", "{}")),
        )
    ],
    task_acks_late="APP_LATE" in os.environ,
    task_compression=os.environ.get("APP_COMPRESSION"),
    worker_prefetch_multiplier=int(os.environ.get("APP_PREFETCH", "4")),
    worker_hijack_root_logger=False,
    control_queue_exclusive=False,
    event_queue_exclusive=False,
    result_expires=None,
)
setup(app)


def note(name: str, **more: Any) -> None:
    """Write down who ran a task, under which key."""
    line = json.dumps({"name": name, "who": WHO, "key": tenancy.routing_key(), "at": time.time(), **more})
    with open(LOG, "a") as file:
        file.write(f"{line}\n")


@app.task
def work(name: str, takes: float = 0.0) -> str:
    note(name)
    time.sleep(takes)
    return name


@app.task(bind=True, max_retries=3)
def again(self: Any, name: str) -> None:
    note(name, retries=self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)


@app.task(bind=True, autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0.2, max_retries=3)
def fails_twice(self: Any, name: str) -> None:
    note(name, retries=self.request.retries)
    if self.request.retries < 2:
        raise ValueError(name)


@app.task
def fails(name: str) -> None:
    note(name)
    raise ValueError(name)


@app.task
def failed(request: Any, error: Any, trace: Any) -> None:
    note("failed")


@app.task
def collect(results: list[str], name: str) -> None:
    note(name, results=sorted(results))


@app.task
def parent(name: str) -> None:
    note(name)
    work.delay(f"{name}/child")
