"""
``tenancy sandbox``, run as people do: on a real route store, and on a real Kafka.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import tenancy
from tenancy import RoutingKey
from tenancy.cli.kafka_options import handler_of, open_kafka, reads_of
from tenancy.routes import Handover, LiveRoutes, State
from tenancy.routes.stores import StoreSource, open_store, put_workload, table_of
from tenancy.sandbox import Controller, Fork
from tests.cli.support import Ran, environment, run
from tests.docs.pages import ROOT, blocks

WORKLOAD = "shop/orders"
LEASE = 1.0
COMMAND = (sys.executable, "-m", "tenancy.cli", "sandbox")


def wait_for(condition: Callable[[], Any], deadline: float = 30.0) -> Any:
    """Return the first true value of a condition; an error if that takes too long."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


class Shell:
    """
    A folder with a route store in it, and commands about it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/routes.db"
        self.store = open_store(self.url)
        self.store.create(LEASE)
        self.store.write([put_workload(WORKLOAD), put_workload("shop/web")])
        self.variables = {"TENANCY_ROUTES": self.url, "COLUMNS": "150"}

    def __call__(self, *arguments: str, **variables: str) -> Ran:
        return run(*COMMAND, *arguments, cwd=self.folder, variables={**self.variables, **variables})

    def json(self, *arguments: str) -> dict[str, Any]:
        ran = self(*arguments, "--json")
        assert ran.status == 0, ran.err
        return ran.report

    def started(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([*COMMAND, *arguments], cwd=self.folder, env=environment(self.variables), **options)

    def row(self, workload: str = WORKLOAD, key: str = "pr-1") -> Handover:
        found = table_of(self.store.snapshot(), origin=self.store.name).handover(workload, RoutingKey(key))
        return found or Handover(workload, RoutingKey(key))

    def killed_while(self, state: State, *arguments: str) -> None:
        """Start a command and kill it in a state, which then stands."""
        process = self.started(*arguments)
        with process:
            wait_for(lambda: self.row().state is state)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert self.row().state is state


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


class TestWithoutKafka:
    """Sandboxes whose workloads read none."""

    def test_a_whole_life(self, shell: Shell) -> None:
        """It is created on each of its workloads, listed, and deleted; what is done already stays so."""
        created = shell.json("create", "pr-1", "--fork", WORKLOAD, "--fork", "shop/web")
        assert created["sandbox"] == "pr-1"
        shown = [(row["workload"], row["key"], row["sandbox"], row["state"], row["epoch"]) for row in created["keys"]]
        assert shown == [(WORKLOAD, "pr-1", "pr-1", "active", 1), ("shop/web", "pr-1", "pr-1", "active", 1)]
        assert shell.json("create", "pr-1", "--fork", WORKLOAD, "--fork", "shop/web")["keys"] == created["keys"]
        assert shell.json("list")["keys"] == created["keys"]
        told = shell.json("status", "pr-1")["keys"]
        assert [(row["workload"], row["findings"], row["kafka"]) for row in told] == [(WORKLOAD, [], []), ("shop/web", [], [])]
        assert told[0]["next"] == "nothing; `tenancy sandbox delete pr-1` takes the key back"
        deleted = shell.json("delete", "pr-1")
        assert [(row["workload"], row["state"], row["epoch"]) for row in deleted["keys"]] == [
            (WORKLOAD, "none", 1),
            ("shop/web", "none", 1),
        ]
        assert shell.json("delete", "pr-1")["keys"] == deleted["keys"]
        assert shell.json("list")["keys"] == []
        assert [row["state"] for row in shell.json("list", "--all")["keys"]] == ["none", "none"]

    def test_it_takes_a_lease(self, shell: Shell) -> None:
        """Nothing is active before nobody acts on what was before; meanwhile standard error says what is waited for."""
        began = time.monotonic()
        ran = shell("create", "pr-1", "--fork", WORKLOAD)
        assert time.monotonic() - began > LEASE * 1.01 + 1.0
        assert ran.err.splitlines() == [
            "shop/orders pr-1: creating",
            "shop/orders pr-1: creating, waiting for 2 s, until nobody acts on what was before",
            "shop/orders pr-1: active",
        ]
        assert [" ".join(line.split()) for line in ran.out.splitlines()][2:] == [
            "pr-1",
            "workload key state life records of its own",
            "shop/orders pr-1 active 1 reads no Kafka",
        ]

    def test_on_a_terminal_it_counts_down(self, shell: Shell) -> None:
        """What is waited for, and how long yet until the deadline, in place."""
        master, slave = pty.openpty()
        process = shell.started("create", "pr-1", "--fork", WORKLOAD, "--json", stderr=slave)
        os.close(slave)
        drawn = b""
        try:
            while part := os.read(master, 4096):
                drawn += part
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(master)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, '"active"' in out) == (0, True)
        for said in (b"creating", b"waiting for 2 s", b"waiting for 1 s", b"until the deadline"):
            assert said in drawn, drawn

    @pytest.mark.parametrize("state", [State.CREATING, State.DELETING])
    def test_a_killed_command_is_gone_on_with(self, shell: Shell, state: State) -> None:
        """After SIGKILL the state stands, and the same command finishes, in the same life."""
        create, delete = ("create", "pr-1", "--fork", WORKLOAD), ("delete", "pr-1")
        command, end = (create, State.ACTIVE) if state is State.CREATING else (delete, State.NONE)
        if state is State.DELETING:
            assert shell(*create).status == 0
        shell.killed_while(state, *command)
        assert f"`tenancy sandbox {command[0]} pr-1" in shell.json("status", "pr-1")["keys"][0]["next"]
        began = time.monotonic()
        assert shell(*command).status == 0
        assert time.monotonic() - began > LEASE * 1.01 + 1.0  # whoever resumes waits a lease of his own
        assert (shell.row().state, shell.row().epoch) == (end, 1)

    def test_an_unfinished_create_can_be_given_up(self, shell: Shell) -> None:
        """Delete ends it at once, and its number is spent."""
        shell.killed_while(State.CREATING, "create", "pr-1", "--fork", WORKLOAD)
        assert shell("delete", "pr-1").status == 0
        assert (shell.row().state, shell.row().epoch, shell.row().epochs) == (State.NONE, 1, ())

    def test_ctrl_c(self, shell: Shell) -> None:
        """It ends with what is there now and how to go on, and the status of an interrupt."""
        with shell.started("create", "pr-1", "--fork", WORKLOAD) as process:
            wait_for(lambda: shell.row().state is State.CREATING)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "interrupted; nothing is lost, and pr-1 on shop/orders is creating; run the same command again" in said
        assert "Traceback" not in said
        assert shell("create", "pr-1", "--fork", WORKLOAD).status == 0

    def test_the_deadline(self, shell: Shell) -> None:
        """Its error names the state that is left."""
        ran = shell("create", "pr-1", "--fork", WORKLOAD, "--deadline", "0.5")
        assert (ran.status, ran.out) == (1, "")
        assert "pr-1 on shop/orders is still creating for sandbox pr-1 at the deadline" in ran.err
        assert shell.row().state is State.CREATING

    def test_the_key_is_somebody_elses(self, shell: Shell) -> None:
        """It is said whose; a key of its own does not help where another sandbox has that."""
        assert shell("create", "pr-1", "--fork", WORKLOAD, "--key", "common").status == 0
        ran = shell("create", "pr-2", "--fork", WORKLOAD, "--key", "common")
        assert (ran.status, "common on shop/orders is active for sandbox pr-1" in ran.err) == (1, True)

    def test_what_nobody_knows(self, shell: Shell, tmp_path: Path) -> None:
        """A misspelt workload, sandbox, store; an empty store. Deleting what is not there is done already."""
        for arguments, status, said in (
            (("create", "pr-1", "--fork", "shop/ordres"), 1, "it knows shop/orders, shop/web"),
            (("create", "pr-1", "--fork", "orders"), 2, "write namespace/name"),
            (("create", "PR_1", "--fork", WORKLOAD), 2, "PR_1"),
            (("create", "pr-1"), 2, "--fork"),
            (("status", "pr-9"), 1, "knows of no sandbox pr-9"),
            (("delete", "pr-9"), 0, "there is nothing to delete"),
            (("delete", "pr-1", "--store", f"sqlite:///{tmp_path}/other.db"), 1, "tenancy routes init"),
            (("list", "--store", "file:///routes.json"), 2, "is no route store"),
            (("delete", "pr-1", "--remaining", "baseline"), 2, "--handler"),
            (("delete", "pr-1", "--handler", "shop:handle"), 2, "--remaining baseline"),
            (("delete", "pr-1", "--deadline", "0"), 2, "--deadline"),
        ):
            began = time.monotonic()
            ran = shell(*arguments)
            assert (ran.status, said in " ".join(ran.err.split()), ran.out) == (status, True, ""), ran.err
            assert time.monotonic() - began < 10
        assert shell.row().state is State.NONE

    def test_without_the_client_of_kafka(self, shell: Shell) -> None:
        """A sandbox whose workloads read no Kafka does not need it; who names a broker is told what to install."""
        program = "import sys; sys.modules['confluent_kafka'] = None; from tenancy.cli import main; main()"

        def ran(*arguments: str) -> Ran:
            return run(sys.executable, "-c", program, "sandbox", *arguments, cwd=shell.folder, variables=shell.variables)

        for arguments in (("create", "pr-1", "--fork", WORKLOAD), ("status", "pr-1"), ("list",), ("delete", "pr-1")):
            done = ran(*arguments)
            assert done.status == 0, done.err
        refused = ran("create", "pr-1", "--fork", WORKLOAD, "--kafka", "127.0.0.1:1")
        assert (refused.status, "pip install 'request-tenancy[kafka]'" in refused.err) == (2, True)

    def test_kafka_is_not_forgotten(self, shell: Shell) -> None:
        """Where a workload reads Kafka, nothing is begun or ended without a broker: cuts that nobody asked it for would lose messages."""
        create = ("create", "pr-1", "--fork", WORKLOAD, "--reads", "orders=orders.v1")
        ran = shell(*create)
        assert (ran.status, "shop/orders reads Kafka in orders" in ran.err, "TENANCY_KAFKA" in ran.err) == (2, True, True)
        assert shell.row().state is State.NONE
        from tenancy.routes.lives import activate, begin_create
        from tenancy.routes.stores import put_handover

        row = begin_create([], WORKLOAD, RoutingKey("pr-1"), "pr-1", {"orders": ("orders.v1",)})
        shell.store.write([put_handover(row)])
        assert shell(*create).status == 2
        shell.store.write([put_handover(activate(shell.row(), {"orders.v1": (3,)}))])
        ran = shell("delete", "pr-1")
        assert (ran.status, "shop/orders reads Kafka in orders" in ran.err) == (2, True)
        assert shell.row().state is State.ACTIVE
        told = shell.json("status", "pr-1")["keys"][0]
        assert (told["kafka"], "--kafka HOST:PORT" in told["findings"][0]) == ([], True)
        with pytest.raises(tenancy.HandoverError, match=r"shop/orders reads Kafka in orders.*KafkaBroker"):
            Controller(shell.store).delete("pr-1", deadline=5)
        with pytest.raises(tenancy.HandoverError, match="KafkaBroker"):
            Controller(shell.store).create("pr-2", [Fork("shop/web", "pr-2", {"web": ["orders.v1"]})], deadline=5)
        assert shell.row().state is State.ACTIVE


def test_what_the_page_shows_is_what_is_printed(tmp_path: Path) -> None:
    """The commands of the page about hand-over, one after the other, print what stands under them; with a shorter lease."""
    variables = {"COLUMNS": "80"}
    compared = 0
    for block in blocks(ROOT / "docs" / "how-to" / "hand-over.md", "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.replace("--lease 10", f"--lease {LEASE:g}").partition("\n")
            if command.startswith("export "):
                variables |= [command.removeprefix("export ").split("=", 1)]
                continue
            done = run(sys.executable, "-m", "tenancy.cli", *shlex.split(command)[1:], cwd=tmp_path, variables=variables)
            assert done.status == 0, done.err
            if shown:
                assert done.out == shown
                compared += 1
    assert compared == 4


class TestOptions:
    """What the options say."""

    @pytest.mark.parametrize(
        ("forks", "reads", "expected"),
        [
            (["a/b"], [], {"a/b": None}),
            (["a/b"], ["g=t"], {"a/b": {"g": ["t"]}}),
            (["a/b"], ["g=t1,t2", "h=t3"], {"a/b": {"g": ["t1", "t2"], "h": ["t3"]}}),
            (["a/b"], ["g:1=t"], {"a/b": {"g:1": ["t"]}}),
            (["a/b"], ["none"], {"a/b": {}}),
            (["a/b", "a/c"], ["a/c:g=t"], {"a/b": None, "a/c": {"g": ["t"]}}),
            (["a/b", "a/c"], ["a/c:none"], {"a/b": None, "a/c": {}}),
        ],
    )
    def test_reads(self, forks: list[str], reads: list[str], expected: Any) -> None:
        """Groups and topics of each fork."""
        assert reads_of(tuple(forks), tuple(reads)) == expected

    @pytest.mark.parametrize(
        ("reads", "said"),
        [
            ("g", "names no group"),
            ("=t", "names no group"),
            ("g=", "''"),
            ("g=a b", "'a b'"),
            ("g=t,,u", "''"),
            ("other/x:g=t u", "'t u'"),
        ],
    )
    def test_bad_reads(self, shell: Shell, reads: str, said: str) -> None:
        """Each is refused before anything is written, and says what to write."""
        with pytest.raises(click.BadParameter, match=said):
            reads_of((WORKLOAD,), (reads,))
        if reads == "g":
            ran = shell("create", "pr-1", "--fork", WORKLOAD, "--reads", reads)
            assert (ran.status, "GROUP=TOPIC,TOPIC" in ran.err) == (2, True)

    def test_reads_of_several_forks(self) -> None:
        """It has to be said whose they are."""
        with pytest.raises(click.BadParameter, match="does not say whose"):
            reads_of(("a/b", "a/c"), ("g=t",))

    def test_a_handler(self, shell: Shell, tmp_path: Path) -> None:
        """What cannot be called, or would lose messages, is refused before anything is written."""
        (tmp_path / "app.py").write_text(
            "import functools\nfrom tenancy.messaging.confluent_kafka import consumer\n"
            "async def asynchronous(message): ...\n"
            "later = functools.partial(asynchronous)\n"
            "@consumer('shop/orders')\ndef decorated(message): ...\n"
            "number = 5\n"
        )
        (tmp_path / "broken.py").write_text("1 / 0\n")
        for reference, said in (
            ("app", "write module:function"),
            ("app:missing", "app has no missing"),
            ("nowhere:handle", "nowhere cannot be imported"),
            ("broken:handle", "ZeroDivisionError"),
            ("app:number", "is no function but int"),
            ("app:asynchronous", "coroutine function"),
            ("app:later", "coroutine function"),
            ("app:decorated", "the function beneath it"),
        ):
            variables = {"TENANCY_ROLE": "baseline"}
            ran = shell("delete", "pr-1", "--remaining", "baseline", "--handler", reference, **variables)
            assert (ran.status, said in " ".join(ran.err.replace("\n", " ").split())) == (2, True), ran.err

    def test_a_handler_that_raises(self) -> None:
        """The error names the message, and is the library's own."""

        class Message:
            def topic(self) -> str:
                return "orders.v1"

            def partition(self) -> int:
                return 3

            def offset(self) -> int:
                return 17

        with pytest.raises(tenancy.HandoverError, match=r"json:loads raised TypeError: .* for orders\.v1 \[3\] at 17"):
            handler_of("json:loads")(Message())

    def test_properties(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client's own names; an option goes before the file, the file before the variable, and no error shows a password."""
        pytest.importorskip("confluent_kafka")
        monkeypatch.setenv("TENANCY_KAFKA", "variable:1")
        file = tmp_path / "kafka.properties"
        file.write_text("# ours\n\nbootstrap.servers = file:1\nclient.id=a=b\n")
        for servers, given, expected in (
            (None, None, "variable:1"),
            (None, str(file), "file:1"),
            ("option:1", str(file), "option:1"),
        ):
            found = open_kafka(servers, given)
            assert found is not None
            assert (found.config["bootstrap.servers"], found.config.get("client.id")) == (expected, "a=b" if given else None)
        file.write_text("sasl.password=s3cret\nbootstrap.server=x:1\n")
        with pytest.raises(click.UsageError, match=r"bootstrap\.server\b") as refused:
            open_kafka(None, str(file))
        assert "s3cret" not in str(refused.value)
        file.write_text("bootstrap.servers\n")
        with pytest.raises(click.BadParameter, match="line 1"):
            open_kafka(None, str(file))
        with pytest.raises(click.BadParameter, match="cannot be read"):
            open_kafka(None, str(tmp_path / "missing"))
        monkeypatch.delenv("TENANCY_KAFKA")
        file.write_text("client.id=x\n")
        with pytest.raises(click.UsageError, match=r"has no bootstrap\.servers"):
            open_kafka(None, str(file))
        assert open_kafka(None, None) is None


class Shop(Shell):
    """
    The same with a topic, and consumers of it.
    """

    def __init__(self, folder: Path, kafka: str, topic: str) -> None:
        from confluent_kafka import cimpl
        from confluent_kafka.admin import AdminClient, NewTopic

        super().__init__(folder)
        self.kafka, self.topic = kafka, topic
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self.admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
        self._producer = cimpl.Producer({"bootstrap.servers": kafka, "linger.ms": 0})
        self.variables["TENANCY_KAFKA"] = kafka
        self.create = ("create", "pr-1", "--fork", WORKLOAD, "--reads", f"{topic}={topic}")

    def send(self, *keys: str | None) -> None:
        from tenancy.messaging.confluent_kafka import inject

        for key in keys:
            self._producer.produce(self.topic, str(key).encode(), headers=inject(key=key), partition=0)
        assert self._producer.flush(10) == 0

    def consuming(self, handled: list[int], sandbox: str | None = None) -> Callable[[], None]:
        """Start a consumer that appends offsets, and return what ends it."""
        from tenancy.messaging.confluent_kafka import SelectiveConsumer

        tenancy.configure(workload=WORKLOAD, role=None if sandbox else "baseline", sandbox=sandbox)
        routes = LiveRoutes(StoreSource(open_store(self.url)))
        config = {
            "bootstrap.servers": self.kafka,
            "group.id": self.topic,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "session.timeout.ms": 6000,
        }
        consumer = SelectiveConsumer(config, routes=routes)
        consumer.subscribe([self.topic])

        def work() -> None:
            with consumer:
                consumer.run(lambda message: handled.append(message.offset()))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def end() -> None:
            consumer.stop()
            thread.join(30)
            assert not thread.is_alive()
            routes.close()

        return end

    def groups(self) -> set[str]:
        return {group.group_id for group in self.admin.list_consumer_groups().result(10).valid}


@pytest.fixture
def shop(tmp_path: Path, kafka: str, unique: str) -> Shop:
    return Shop(tmp_path, kafka, unique)


@pytest.mark.service
class TestOnKafka:
    """Sandboxes whose workloads read from a real broker."""

    def test_a_whole_life(self, shop: Shop) -> None:
        """What came before is the baseline's, then the sandbox's, then the baseline's; status says how far it is, and the group is gone."""
        baseline: list[int] = []
        fork: list[int] = []
        end_baseline = shop.consuming(baseline)
        try:
            wait_for(lambda: shop.store.members(WORKLOAD))
            shop.send("pr-1", None)
            created = shop.json("create", "pr-1", "--fork", WORKLOAD)  # the groups are those that are registered
            (row,) = created["keys"]
            assert (row["state"], row["groups"]) == ("active", {shop.topic: [shop.topic]})
            assert row["epochs"][0]["start"] == {shop.topic: [2, 0]}
            shop.send("pr-1", None, "pr-1")
            waiting = shop.json("status", "pr-1")["keys"][0]
            assert [(reading["left"], reading["members"]) for reading in waiting["kafka"]] == [(3, [])]
            assert waiting["next"].startswith("start the sandbox's consumers")
            end_fork = shop.consuming(fork, "pr-1")
            wait_for(lambda: fork == [2, 4])
            wait_for(lambda: shop.json("status", "pr-1")["keys"][0]["kafka"][0]["left"] == 0)
            (reading,) = shop.json("status", "pr-1")["keys"][0]["kafka"]
            assert (reading["group"], reading["sandbox_group"]) == (shop.topic, f"{shop.topic}.pr-1.1")
            assert (len(reading["members"]), reading["unregistered"], reading["expired"]) == (1, [], 0)
            assert "records left, those of other keys included; members: " in shop("status").out
            ran = shop("delete", "pr-1", "--deadline", "60")
            assert ran.status == 0, ran.err
            shop.send("pr-1")
            wait_for(lambda: baseline == [0, 1, 3, 5])
            end_fork()
            assert fork == [2, 4]
            assert f"{shop.topic}.pr-1.1" not in shop.groups()
            assert (shop.row().state, shop.row().epochs[0].end) == (State.NONE, {shop.topic: (5, 0)})
        finally:
            end_baseline()

    def test_killed_in_every_state(self, shop: Shop) -> None:
        """SIGKILL while creating, deleting and reclaiming: the same command finishes, and each message is handled once."""
        (shop.folder / "left.py").write_text(
            "import tenancy\ndef handle(message):\n    print('handled')\n"
            "    with open('left.txt', 'a') as file:\n        print(message.offset(), tenancy.routing_key(), file=file)\n"
        )
        delete = ("delete", "pr-1", "--drain", "0", "--remaining", "baseline", "--handler", "left:handle", "--deadline", "60")
        shop.send("pr-1")
        shop.killed_while(State.CREATING, *shop.create)
        assert shop(*shop.create).status == 0
        assert shop.row().epochs[0].start == {shop.topic: (1, 0)}
        shop.send("pr-1", None, "pr-9", "pr-1")
        shop.killed_while(State.DELETING, *delete)
        shop.killed_while(State.RECLAIMING, *delete)
        told = shop.json("status", "pr-1")["keys"][0]
        assert (told["state"], told["kafka"][0]["left"], bool(told["claimant"])) == ("reclaiming", 4, True)
        ran = shop(*delete, "--json")
        assert ran.status == 0, ran.err
        assert ran.report["keys"][0]["state"] == "none"  # what a handler prints is not in between
        assert "handled" in ran.err
        assert (shop.folder / "left.txt").read_text().splitlines() == ["1 pr-1", "4 pr-1"]
        assert shop.row().epoch == 1

    def test_a_handler_that_fails(self, shop: Shop) -> None:
        """The message is named, the state stands, and the same command goes on with it."""
        (shop.folder / "left.py").write_text("def handle(message):\n    1 / 0\n")
        assert shop(*shop.create).status == 0
        shop.send("pr-1")
        delete = ("delete", "pr-1", "--drain", "0", "--remaining", "baseline", "--handler", "left:handle")
        ran = shop(*delete)
        assert ran.status == 1
        assert (
            f"left:handle raised ZeroDivisionError: division by zero (at {shop.folder}/left.py:2), for {shop.topic} [0] at 0"
            in ran.err
        )
        assert shop.row().state is State.RECLAIMING
        (shop.folder / "left.py").write_text("def handle(message):\n    pass\n")
        assert shop(*delete).status == 0

    def test_members_without_the_library(self, shop: Shop) -> None:
        """At the deadline the error names the state and the member; so does status, with what to do."""
        from confluent_kafka import cimpl

        stranger = cimpl.Consumer({"bootstrap.servers": shop.kafka, "group.id": shop.topic, "client.id": "old-pod"})
        stranger.subscribe([shop.topic])
        try:
            wait_for(lambda: stranger.poll(0.1) or stranger.assignment())
            ran = shop(*shop.create, "--deadline", "4")
            assert (ran.status, "is still creating" in ran.err, "old-pod" in ran.err) == (1, True, True)
            status = shop("status", "pr-1", "--json")
            (told,) = status.report["keys"]
            assert (status.status, "old-pod" in told["findings"][0], told["kafka"][0]["left"]) == (1, True, None)
            assert told["next"].startswith("end or upgrade the members that are named")
        finally:
            stranger.close()
        assert shop(*shop.create).status == 0

    @pytest.mark.slow
    def test_a_sandbox_that_hangs(self, shop: Shop) -> None:
        """A member of its group that does not leave is named at the deadline, in `reclaiming`."""
        from confluent_kafka import cimpl

        assert shop(*shop.create).status == 0
        shop.send("pr-1")
        hung = cimpl.Consumer({"bootstrap.servers": shop.kafka, "group.id": f"{shop.topic}.pr-1.1", "client.id": "hung-pod"})
        hung.subscribe([shop.topic])
        try:
            wait_for(lambda: hung.poll(0.1) or hung.assignment())
            ran = shop("delete", "pr-1", "--drain", "0", "--deadline", "7")
            assert (ran.status, "is still reclaiming" in ran.err, "hung-pod" in ran.err) == (1, True, True), ran.err
            assert "end the sandbox's processes" in shop.json("status", "pr-1")["keys"][0]["next"]
        finally:
            hung.close()
        assert shop("delete", "pr-1").status == 0

    def test_a_topic_that_was_made_again(self, shop: Shop) -> None:
        """Its cuts are those of another log: status says so."""
        from confluent_kafka.admin import NewTopic

        shop.send(None, "pr-1")
        assert shop(*shop.create).status == 0
        shop.admin.delete_topics([shop.topic])[shop.topic].result(30)
        wait_for(lambda: shop.topic not in shop.admin.list_topics(timeout=10).topics)
        ran = shop("status", "pr-1")
        assert (ran.status, f"topic {shop.topic} is gone" in ran.out) == (1, True)

        def made() -> bool:
            try:
                shop.admin.create_topics([NewTopic(shop.topic, 2, 1)])[shop.topic].result(30)
            except Exception:  # the deletion is still under way
                return False
            return True

        wait_for(made)
        ran = shop("status", "pr-1")
        assert (ran.status, "was deleted and made again" in " ".join(ran.out.split())) == (1, True), ran.out

    @pytest.mark.slow
    def test_a_broker_that_is_not_there(self, shop: Shop) -> None:
        """Status has what the store knows; a command says meanwhile what it waits for, and at its deadline why it failed."""
        assert shop(*shop.create).status == 0
        status = shop("status", "pr-1", "--kafka", "127.0.0.1:1", "--json")
        (told,) = status.report["keys"]
        assert (status.status, told["state"], "127.0.0.1:1 does not answer" in told["findings"][0]) == (1, "active", True)
        ran = shop("delete", "pr-1", "--kafka", "127.0.0.1:1", "--deadline", "14")
        assert (ran.status, "deleting, waiting for an answer: Kafka at 127.0.0.1:1 does not answer" in ran.err) == (1, True), (
            ran.err
        )
        assert "pr-1 on shop/orders is deleting; run the same command again" in ran.err
        assert shop("delete", "pr-1").status == 0
