"""
Celery on a real RabbitMQ, with real workers: one of them begins each task, through create and delete, and has its key.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.messaging.celery_support import running, until

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
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
        names = (
            "keyed later parent parent/child one two first second left right both broken failed linked link".split() + ["by name"]
        )
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
        until(lambda: "much later" in workers.output())
        workers.delete()
        assert workers.broker.state(workers.its_queue()) is None
        workers.send("with tenancy.scope('pr-1'): work.delay('after')\nwork.delay('plain 3')")
        assert workers.owners("after", "plain 3") == [("baseline", None)] * 2
        assert workers.owners("much later") == [("baseline", None)]
