"""
Celery on a real RabbitMQ, with real workers: one of them begins each task, through create and delete, and has its key.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.messaging.celery_support import running, until
from tests.messaging.support import WORKLOAD

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]


@pytest.mark.parametrize("pool", [pytest.param("solo", marks=pytest.mark.slow), "prefork"])
def test_the_life_of_a_sandbox(rabbitmq: str, tmp_path: Path, pool: str) -> None:
    """Tasks with the key are the sandbox's while it is there, and the baseline's before and after; all others are always the baseline's."""
    with running(rabbitmq, tmp_path) as workers:
        workers.start(pool=pool)
        workers.start("pr-1", pool=pool)
        workers.send("with tenancy.scope('pr-1'): work.delay('before')\nwork.delay('plain')")
        assert workers.owners("before", "plain") == [("baseline", None), ("baseline", None)]
        workers.create()
        workers.send("""
with tenancy.scope('pr-1'):
    work.delay('keyed')
    again.delay('again')
    fails_twice.delay('auto')
    work.apply_async(('later',), countdown=1)
    parent.delay('parent')
    chain(work.si('one'), work.si('two'))()
    group(work.si('first'), work.si('second'))()
    chord([work.si('left'), work.si('right')])(collect.s('both'))
    fails.apply_async(('broken',), link_error=failed.s())
    work.apply_async(('linked',), link=work.si('link'))
    app.send_task('tests.messaging.celery_app.work', ('by name',))
work.delay('plain 2')
with tenancy.scope('pr-9'): work.delay('other')
with tenancy.scope('pr-1'): work.apply(('eager',))
""")
        names = [
            *("keyed", "later", "parent", "parent/child", "one", "two", "first", "second", "left", "right", "both"),
            *("broken", "failed", "linked", "link", "by name"),
        ]
        assert workers.owners(*names) == [("pr-1", "pr-1")] * len(names)
        assert workers.owners("plain 2", "other") == [("baseline", None)] * 2
        assert workers.owners("eager") == [("sender", "pr-1")]
        for name in ("again", "auto"):
            until(lambda name=name: len(workers.did(name)) == 3)
            assert [(line["who"], line["key"], line["retries"]) for line in workers.did(name)] == [
                ("pr-1", "pr-1", number) for number in range(3)
            ]
        assert workers.did("both")[0]["results"] == ["left", "right"]
        workers.send("with tenancy.scope('pr-1'): work.apply_async(('much later',), countdown=8)")
        time.sleep(1)  # the sandbox's worker has it in its hands
        workers.delete()
        assert workers.broker.state(workers.its_queue()) is None
        workers.send("with tenancy.scope('pr-1'): work.delay('after')\nwork.delay('plain 3')")
        assert workers.owners("after", "plain 3") == [("baseline", None)] * 2
        assert workers.owners("much later") == [("baseline", None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "more"),
    [
        ("prefork", {"APP_LATE": "1", "APP_TRACED": "1"}),
        ("prefork", {"APP_PREFETCH": "1", "APP_ARGUMENTS": '{"x-queue-type": "quorum"}'}),
        ("solo", {"APP_COMPRESSION": "gzip", "APP_ARGUMENTS": '{"x-max-priority": 5}'}),
        ("threads", {"APP_PREFETCH": "0"}),
    ],
    ids=["late, traced", "quorum", "compressed", "no prefetch limit"],
)
def test_create_and_delete_while_tasks_are_sent(rabbitmq: str, tmp_path: Path, pool: str, more: dict[str, str]) -> None:
    """Each task is begun once, tasks of the key by the sandbox alone while it is there, and none is lost."""
    with running(rabbitmq, tmp_path, **more) as workers:
        for sandbox in (None, None, "pr-1"):
            workers.start(sandbox, pool=pool)
        its = []
        with workers.traffic():
            time.sleep(1.5)
            for _ in range(2):
                workers.create()
                began = time.time()
                time.sleep(1.5)
                its.append((began, time.time()))
                workers.delete()
        sent = workers.sent()
        until(lambda: len(workers.did()) >= len(sent))
        time.sleep(1)
        did = workers.did()
        assert sorted(line["name"] for line in did) == sorted(line["name"] for line in sent)
        ran = {line["name"]: line for line in did}
        keyed = [line for line in sent if line["key"]]
        assert {ran[line["name"]]["who"] for line in sent if not line["key"]} == {"baseline"}
        # Not the last ones of a life, which may have waited for the sandbox to end, and are the baseline's then.
        during = [line for line in keyed if any(began <= line["from"] < ended - 1 for began, ended in its)]
        assert len(during) > 20
        assert {(ran[line["name"]]["who"], ran[line["name"]]["key"]) for line in during} == {("pr-1", "pr-1")}
        assert {ran[line["name"]]["who"] for line in keyed if line["from"] < its[0][0] - 3} <= {"baseline"}


@pytest.mark.slow
def test_what_waits_in_a_workers_hands_goes_to_whom_it_belongs(rabbitmq: str, tmp_path: Path) -> None:
    """A task that the baseline keeps for its time is the sandbox's if that is there by then; what waits for others is decided on as late."""
    with running(rabbitmq, tmp_path, APP_PREFETCH="10") as workers:
        workers.start(pool="threads")
        workers.start("pr-1", pool="threads")
        workers.send("""
with tenancy.scope('pr-1'): work.apply_async(('eta',), countdown=7)
for name in ('long', 'longer'): work.delay(name, 6)
with tenancy.scope('pr-1'): work.delay('behind')
work.delay('behind too')
""")
        time.sleep(1)
        workers.create()
        assert workers.owners("eta", "behind", "behind too", "long", "longer") == [
            ("pr-1", "pr-1"),
            ("pr-1", "pr-1"),
            ("baseline", None),
            ("baseline", None),
            ("baseline", None),
        ]
        workers.delete()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_runs_is_waited_for_at_the_end_of_a_sandbox(rabbitmq: str, tmp_path: Path, pool: str) -> None:
    """The sandbox is gone only when what it has begun is over, also where that was acknowledged at its beginning; the rest is given back."""
    with running(rabbitmq, tmp_path, APP_PREFETCH="1") as workers:
        workers.start(pool=pool)
        workers.start("pr-1", pool=pool)
        workers.create()
        workers.send("with tenancy.scope('pr-1'):\n    for number in range(5): work.delay(f'{number}', 5)")
        until(lambda: len(workers.did()) == 2)
        began = time.time()
        workers.delete()
        assert time.time() - began > 3
        names = [f"{number}" for number in range(5)]
        assert sorted(who for who, _ in workers.owners(*names)) == ["baseline", "baseline", "baseline", "pr-1", "pr-1"]


@pytest.mark.slow
def test_links_of_spans_do_not_lose_the_key(rabbitmq: str, tmp_path: Path) -> None:
    """With `use_span_links=True` OpenTelemetry gives a task no baggage; the key is there all the same, and travels on."""
    with running(rabbitmq, tmp_path, APP_TRACED="links") as workers:
        workers.start()
        workers.start("pr-1")
        workers.create()
        workers.send("with tenancy.scope('pr-1'): parent.delay('parent')\nparent.delay('plain')")
        assert workers.owners("parent", "parent/child") == [("pr-1", "pr-1")] * 2
        assert workers.owners("plain", "plain/child") == [("baseline", None)] * 2
        workers.delete()


@pytest.mark.slow
def test_a_broker_that_is_started_again(own_service: Any, tmp_path: Path) -> None:
    """Workers take up their queues, and make themselves known, with each connection."""
    service = own_service("rabbitmq")
    with running(service.address, tmp_path) as workers:
        workers.start()
        workers.start("pr-1")
        workers.create()
        workers.send("with tenancy.scope('pr-1'): work.delay('keyed')\nwork.delay('plain')")
        assert workers.owners("keyed", "plain") == [("pr-1", "pr-1"), ("baseline", None)]
        service.stop()
        service.start()
        workers.reconnect()
        until(lambda: workers.broker.state(workers.its_queue()).consumers == 1, 60)
        workers.send("with tenancy.scope('pr-1'): work.delay('keyed 2')\nwork.delay('plain 2')")
        assert workers.owners("keyed 2", "plain 2") == [("pr-1", "pr-1"), ("baseline", None)]
        workers.delete()
        workers.create()
        workers.delete()


def test_remote_control(rabbitmq: str, tmp_path: Path) -> None:
    """Of a queue that workers are told to consume a sandbox takes its own in its place; a revoked task is not begun."""
    with running(rabbitmq, tmp_path) as workers:
        workers.start()
        workers.start("pr-1")
        more = f"{workers.queue}-more"
        workers.send(f"app.control.add_consumer({more!r}, reply=True, timeout=3)")
        workers.create(queues={workers.queue: "", more: ""})
        workers.send(f"""
with tenancy.scope('pr-1'):
    work.apply_async(('more',), queue={more!r})
    later = work.apply_async(('revoked',), countdown=3)
    app.control.revoke(later.id)
work.apply_async(('plain',), queue={more!r})
""")
        assert workers.owners("more", "plain") == [("pr-1", "pr-1"), ("baseline", None)]
        time.sleep(3)
        assert not workers.did("revoked")
        workers.send(f"app.control.cancel_consumer({more!r}, reply=True, timeout=3)")
        workers.delete()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"APP_BROKER": "memory://"}, "RabbitMQ alone"),
        ({"APP_AUTO_DELETE": "1"}, "exclusive or auto_delete"),
        ({"APP_ARGUMENTS": '{"x-queue-type": "stream"}'}, "is a stream"),
        ({"TENANCY_ROLE": ""}, "TENANCY_ROLE"),
        ({"TENANCY_WORKLOAD": "shop/unknown"}, "shop/unknown"),
    ],
)
def test_a_worker_that_cannot_be_safe_does_not_start(rabbitmq: str, tmp_path: Path, more: dict[str, str], says: str) -> None:
    """Brokers, queues and identities with which tasks could not be handed over are refused by name."""
    with running(rabbitmq, tmp_path) as workers:
        process = workers.start(**more)
        process.wait(30)
        assert process.returncode != 0
        assert says in workers.output()


@pytest.mark.slow
def test_what_cannot_be_decided_waits_and_nothing_else_does(rabbitmq: str, tmp_path: Path) -> None:
    """While the route store cannot be read, tasks with a key are kept, more of them than are prefetched, and all others go by."""
    with running(rabbitmq, tmp_path, APP_PREFETCH="1") as workers:
        workers.start()
        workers.start("pr-1")
        workers.create()
        table, away = tmp_path / "routes.db", tmp_path / "away.db"
        table.rename(away)
        time.sleep(2.5)
        workers.send("""
for number in range(10):
    with tenancy.scope('pr-1'): work.delay(f'keyed {number}')
    work.delay(f'plain {number}')
""")
        plain, keyed = [f"plain {number}" for number in range(10)], [f"keyed {number}" for number in range(10)]
        assert workers.owners(*plain) == [("baseline", None)] * 10
        assert not workers.did(*keyed)
        table.unlink(missing_ok=True)
        away.rename(table)
        assert workers.owners(*keyed) == [("pr-1", "pr-1")] * 10
        workers.delete()


@pytest.mark.slow
def test_a_worker_that_dies_and_one_that_ends(rabbitmq: str, tmp_path: Path) -> None:
    """With late acknowledgement nothing is lost with a worker that is killed, and one that is told to end takes leave."""
    with running(rabbitmq, tmp_path, APP_LATE="1", APP_PREFETCH="1") as workers:
        first = workers.start(pool="prefork")
        its = workers.start("pr-1", pool="prefork")
        workers.create()
        workers.send("""
for number in range(10):
    with tenancy.scope('pr-1'): work.delay(f'keyed {number}', 0.5)
    work.delay(f'plain {number}', 0.5)
""")
        until(lambda: len(workers.did()) >= 4)
        first.kill()
        its.kill()
        workers.start(pool="prefork")
        its = workers.start("pr-1", pool="prefork")
        names = {f"{kind} {number}" for kind in ("keyed", "plain") for number in range(10)}
        until(lambda: {line["name"] for line in workers.did()} == names)
        assert {(line["name"][:5], line["who"]) for line in workers.did()} == {("keyed", "pr-1"), ("plain", "baseline")}
        workers.stop(its)
        assert [member.sandbox for member in workers.store.members(WORKLOAD) if workers.broker.alive(member.member)] == [""]
        workers.delete()
