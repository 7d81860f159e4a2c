"""
``tenancy sandbox`` and ``tenancy routes explain`` for workloads that consume queues; on a real RabbitMQ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tenancy import RoutingKey
from tenancy.cli.rabbit_options import open_rabbit, queues_of
from tenancy.cli.states import OF_QUEUES, OF_RECORDS, words_of
from tenancy.routes import Handover, State
from tests.cli.support import Ran, run
from tests.cli.test_sandbox import WORKLOAD, Shell


@pytest.mark.parametrize(
    ("forks", "queues", "expected"),
    [
        (["a/b"], [], {"a/b": None}),
        (["a/b"], ["q"], {"a/b": {"q": ""}}),
        (["a/b"], ["q 1", "r=x.y"], {"a/b": {"q 1": "", "r": "x.y"}}),
        (["a/b"], ["none"], {"a/b": {}}),
        (["a/b"], ["a/b:q:1"], {"a/b": {"q:1": ""}}),
        (["a/b", "a/c"], ["a/c:q", "a/b:none"], {"a/b": {}, "a/c": {"q": ""}}),
    ],
)
def test_the_option(forks: list[str], queues: list[str], expected: Any) -> None:
    """The queues of each fork, with what routes to them."""
    assert queues_of(tuple(forks), tuple(queues)) == expected


@pytest.mark.parametrize(
    ("forks", "queue", "said"),
    [
        (["a/b"], "", "names no queue"),
        (["a/b"], "=x", "names no queue"),
        (["a/b"], "q=", "names no queue"),
        (["a/b"], "q\n", "names no queue"),
        (["a/b"], "ü" * 200, "too long"),
        (["a/b", "a/c"], "q", "does not say whose"),
    ],
)
def test_a_bad_option(forks: list[str], queue: str, said: str) -> None:
    """It is refused before anything is written."""
    with pytest.raises(click.BadParameter, match=said):
        queues_of(tuple(forks), (queue,))


def test_where_the_broker_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option goes before the variable, and no error shows a password."""
    monkeypatch.delenv("TENANCY_RABBITMQ", raising=False)
    assert open_rabbit(None) is None
    for url in ("http://me:s3cret@host", "amqp://me:s3cret@", "amqp://me:s3cret@host:x/"):
        with pytest.raises(click.UsageError, match="amqp://HOST") as refused:
            open_rabbit(url)
        assert "s3cret" not in str(refused.value)


def test_rabbitmq_is_not_forgotten(tmp_path: Path) -> None:
    """Where a workload consumes queues, nothing is begun or ended without a broker; a password is not shown."""
    from tenancy.routes.lives import activate, begin_create
    from tenancy.routes.stores import put_handover

    shell = Shell(tmp_path)
    ran = shell("create", "pr-1", "--fork", WORKLOAD, "--queue", "orders")
    assert (ran.status, "shop/orders consumes orders on RabbitMQ" in ran.err, "TENANCY_RABBITMQ" in ran.err) == (2, True, True)
    assert shell.row().state is State.NONE
    row = begin_create([], WORKLOAD, RoutingKey("pr-1"), "pr-1", {}, queues={"orders": ""})
    shell.store.write([put_handover(row)])
    shell.store.write([put_handover(activate(shell.row(), {}))])
    ran = shell("delete", "pr-1")
    assert (ran.status, "consumes orders on RabbitMQ" in ran.err) == (2, True)
    told = shell.json("status", "pr-1")["keys"][0]
    assert (told["rabbitmq"], "--rabbitmq URL" in told["findings"][0]) == ([], True)
    ran = shell("status", "pr-1", TENANCY_RABBITMQ="amqp://me:s3cret@127.0.0.1:1/")
    assert (ran.status, "does not answer" in ran.out, "s3cret" in ran.out + ran.err) == (1, True, False), ran.out
    ran = shell("delete", "pr-1", "--deadline", "3", TENANCY_RABBITMQ="amqp://me:s3cret@127.0.0.1:1/")
    assert (ran.status, "deleting, waiting for an answer: RabbitMQ" in ran.err, "s3cret" in ran.err) == (1, True, False), ran.err


def test_states_in_words() -> None:
    """Each says what holds for what carries the work: records, messages, or both."""
    row = Handover(WORKLOAD, RoutingKey("pr-1"))
    for state in State:
        here = row._replace(state=state)
        assert words_of(here) == words_of(here._replace(groups={"g": ("t",)})) == OF_RECORDS[state]
        assert words_of(here._replace(queues={"q": ""})) == OF_QUEUES[state]
        both = words_of(here._replace(queues={"q": ""}, groups={"g": ("t",)}))
        assert both == OF_RECORDS[state] or both == f"{OF_RECORDS[state]}. On RabbitMQ: {OF_QUEUES[state]}"


class Queued(Shell):
    """
    A folder with a route store, and a queue.
    """

    def __init__(self, folder: Path, url: str, queue: str) -> None:
        from tenancy.messaging.rabbitmq.broker import RabbitBroker
        from tenancy.messaging.rabbitmq.names import names_of

        super().__init__(folder)
        self.queue = queue
        self.broker = RabbitBroker(url)
        self.variables["TENANCY_RABBITMQ"] = url
        self.names = names_of(queue, RoutingKey("pr-1"), 1)
        self.declare(queue)

    def declare(self, queue: str) -> None:
        self.broker._session.run(lambda channel: channel.declare_queue(queue, durable=True))

    def send(self, queue: str, amount: int = 1) -> None:
        import aio_pika

        async def step(channel: Any) -> None:
            for _ in range(amount):
                await channel.default_exchange.publish(aio_pika.Message(b"x"), queue)

        self.broker._session.run(step)

    def explained(self, *arguments: str) -> Ran:
        command = (sys.executable, "-m", "tenancy.cli", "routes", "explain", "--workload", WORKLOAD, "--key", "pr-1")
        return run(*command, *arguments, cwd=self.folder, variables=self.variables)


@pytest.fixture
def queued(tmp_path: Path, rabbitmq: str, unique: str) -> Iterator[Queued]:
    shell = Queued(tmp_path, rabbitmq, unique)
    yield shell
    shell.broker._session.run(lambda channel: channel.queue_delete(unique))
    shell.broker.close()


@pytest.mark.service
class TestOnRabbitMQ:
    """Sandboxes whose workloads consume a queue of a real broker."""

    def test_a_whole_life(self, queued: Queued) -> None:
        """Made, listed, shown with what is in its queue, explained, and gone with what was left given back."""
        ran = queued("create", "pr-1", "--fork", WORKLOAD)
        assert (ran.status, "--queue NAME" in ran.err) == (1, True), ran.err  # nobody has registered anything
        created = queued.json("create", "pr-1", "--fork", WORKLOAD, "--queue", queued.queue)
        assert created["keys"][0]["queues"] == {queued.queue: ""}
        assert f"{queued.queue}: all that has the key, in {queued.names.queue}" in " ".join(queued("list").out.split())
        queued.send(queued.names.queue, 3)
        queued.send(queued.names.dead)
        status = queued("status", "pr-1", "--json")
        (told,) = status.report["keys"]
        (one,) = told["rabbitmq"]
        assert (one["queue"], one["sandbox_queue"], one["ready"], one["consumers"]) == (queued.queue, queued.names.queue, 3, 0)
        assert (one["readers"], one["dead"], one["unregistered"]) == ([], 1, 0)
        assert (status.status, "has rejected 1 message" in told["findings"][0]) == (1, True)
        assert told["state_in_words"] == OF_QUEUES[State.ACTIVE]
        assert told["next"].startswith("start the sandbox's consumers")
        shown = " ".join(queued("status", "pr-1").out.split())
        assert f"{queued.names.queue}, in the place of {queued.queue}: 3 messages ready" in shown
        explained = queued.explained("--queue", queued.queue, "--json").report
        assert (explained["owner"], explained["queue"]) == ("pr-1", queued.queue)
        assert {answer["reader"]: answer["action"] for answer in explained["readers"]} == {
            "baseline": "forward",
            "sandbox pr-1": "own",
        }
        assert queued.explained("--queue", "another", "--json").report["owner"] == "baseline"
        assert f"pr-1, a message of queue {queued.queue}: sandbox pr-1's" in " ".join(
            queued.explained("--queue", queued.queue).out.split()
        )
        both = ("--queue", "q", "--topic", "t", "--partition", "0", "--offset", "0")
        assert queued.explained(*both).status == 2
        ran = queued("delete", "pr-1")
        assert ran.status == 0, ran.err
        assert queued.explained("--queue", queued.queue, "--json").report["owner"] == "baseline"
        assert [queued.broker.state(name) for name in queued.names] == [None] * 5
        state = queued.broker.state(queued.queue)
        assert state is not None
        assert state.ready == 3

    def test_what_a_killed_create_has_left(self, queued: Queued) -> None:
        """Status names it, delete removes it, and a create that comes then has the next life."""
        create = ("create", "pr-1", "--fork", WORKLOAD, "--queue", queued.queue)
        assert queued(*create).status == 0
        assert queued("delete", "pr-1").status == 0
        queued.broker.make(queued.queue, queued.names._replace(**_next(queued)), {}, key=RoutingKey("pr-1"))
        ran = queued("status", "pr-1")
        assert (ran.status, "was made for life 2 of pr-1" in " ".join(ran.out.split())) == (1, True), ran.out
        ran = queued("delete", "pr-1")
        assert ran.status == 0, ran.err
        assert queued("status", "pr-1").status == 0
        assert (queued.row().state, queued.row().epoch) == (State.NONE, 2)
        assert queued.json(*create)["keys"][0]["epoch"] == 3
        assert queued("delete", "pr-1").status == 0


def _next(queued: Queued) -> dict[str, str]:
    from tenancy.messaging.rabbitmq.names import names_of

    return names_of(queued.queue, RoutingKey("pr-1"), 2)._asdict()
