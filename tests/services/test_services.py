from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import psycopg
import pymysql
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from tests import services
from tests.services import install, kafka, mariadb, postgresql, rabbitmq, redis
from tests.services.base import free_port
from tests.services.guardian import alive, wait_gone

ROOT = Path(__file__).resolve().parents[2]

service = pytest.mark.service
Own = Callable[[str], services.Service]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own; to be the TMPDIR of a run that is watched."""
    with tempfile.TemporaryDirectory(prefix="tenancy-place-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with one empty directory, and no permission to install."""
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    for variable in ("TENANCY_TEST_REDIS", "TENANCY_INSTALL_SERVICES", "TENANCY_REQUIRE_SERVICES"):
        monkeypatch.delenv(variable, raising=False)
    return empty


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def command(address: str, *words: str) -> str:
    """Send one command to Redis."""
    url = urlsplit(address)
    with socket.create_connection((url.hostname, url.port), timeout=5) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(1000).decode().strip()


def produce(address: str, topic: str, value: str, headers: list[tuple[str, bytes]] | None = None) -> None:
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": address})
    producer.produce(topic, value, headers=headers, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(30) == 0
    assert failed == []


def poll(consumer: Consumer, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            return message
    raise AssertionError("no message")


@contextlib.contextmanager
def consuming(address: str, topic: str) -> Iterator[Consumer]:
    """A consumer in the group named after the topic, which commits only what it is told to."""
    settings = {"bootstrap.servers": address, "group.id": topic, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def leftovers(place: Path) -> list[str]:
    """List the processes that have a directory in their environment or as their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) == os.getpid() or not alive(int(process.name)):
                continue
            if str(place).encode() in (process / "environ").read_bytes() or str(place) in os.readlink(process / "cwd"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def assert_nothing_left(place: Path, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while (left := [*leftovers(place), *map(str, place.iterdir())]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def run_python(place: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    for name in services.NAMES:
        environment.pop(services.variable(name), None)
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# A round trip each.


@service
def test_kafka_carries_headers_and_forms_groups(kafka: str, unique: str) -> None:
    produce(kafka, unique, "hello", headers=[("baggage", b"sd-routing-key=pr-42")])

    with consuming(kafka, unique) as consumer:
        message = poll(consumer)
        consumer.commit(message, asynchronous=False)
        assert (message.value(), message.headers()) == (b"hello", [("baggage", b"sd-routing-key=pr-42")])
        assert consumer.committed([TopicPartition(unique, 0)], timeout=10)[0].offset == 1


@service
def test_kafka_commits_transactions(kafka: str, unique: str) -> None:
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": unique})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(unique, "in a transaction")
    producer.commit_transaction(30)

    with consuming(kafka, unique) as consumer:
        assert poll(consumer).value() == b"in a transaction"


@service
async def test_rabbitmq_carries_headers(rabbitmq: str, unique: str) -> None:
    async with await aio_pika.connect(rabbitmq) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(unique, auto_delete=True)
        await channel.default_exchange.publish(aio_pika.Message(b"hello", headers={"baggage": "a=b"}), unique, mandatory=True)
        message = await queue.get(timeout=10)
        await message.ack()
        assert (message.body, message.headers) == (b"hello", {"baggage": "a=b"})
        await queue.delete()


@service
def test_postgresql_has_the_database(postgresql: str, unique: str) -> None:
    with psycopg.connect(postgresql) as connection:
        connection.execute(f"CREATE TABLE {unique} (word text)")
        connection.execute(f"INSERT INTO {unique} VALUES ('hello')")
        assert connection.execute(f"SELECT word, current_database() FROM {unique}").fetchone() == ("hello", "tenancy")
        connection.execute(f"DROP TABLE {unique}")


@service
def test_mariadb_has_the_database(mariadb: str, unique: str) -> None:
    with mysql(mariadb) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {unique} (word text)")
        cursor.execute(f"INSERT INTO {unique} VALUES ('hello')")
        cursor.execute(f"SELECT word, DATABASE() FROM {unique}")
        assert cursor.fetchone() == ("hello", "tenancy")
        cursor.execute(f"DROP TABLE {unique}")


@pytest.mark.service
def test_pgbouncer_hands_one_connection_from_transaction_to_transaction(pgbouncer: str) -> None:
    with psycopg.connect(pgbouncer) as one, psycopg.connect(pgbouncer) as other:
        pids = set()
        for connection in (one, other) * 5:
            pids.add(connection.execute("SELECT pg_backend_pid()").fetchone())
            connection.commit()
    assert len(pids) == 1


@service
def test_redis_remembers(redis: str, unique: str) -> None:
    assert command(redis, "SET", unique, "hello", "EX", "60") == "+OK"
    assert command(redis, "GET", unique).split() == ["$5", "hello"]


def test_the_mock_of_kafka_is_had_only_by_asking(unique: str) -> None:
    with services.mock_kafka() as mock:
        produce(mock.address, unique, "hello")
        with consuming(mock.address, unique) as consumer:
            assert poll(consumer).value() == b"hello"


# Stopped, killed, started again: the same address and the same data, and in the end nothing is left.


def use_kafka(address: str, name: str, first: bool) -> None:
    if first:
        produce(address, name, "kept")
    with consuming(address, name) as consumer:
        assert poll(consumer).value() == b"kept"


def use_postgresql(address: str, name: str, first: bool) -> None:
    # Behind PgBouncer a prepared statement may be another session's.
    with psycopg.connect(address, prepare_threshold=None) as connection:
        if first:
            connection.execute(f"CREATE TABLE {name} AS SELECT 'kept' AS word")
        assert connection.execute(f"SELECT word FROM {name}").fetchone() == ("kept",)


def mysql(address: str) -> pymysql.Connection:
    url = urlsplit(address)
    return pymysql.connect(
        host=url.hostname, port=url.port, user=url.username, password=url.password or "", database=url.path[1:], autocommit=True
    )


def use_mariadb(address: str, name: str, first: bool) -> None:
    with mysql(address) as connection, connection.cursor() as cursor:
        if first:
            cursor.execute(f"CREATE TABLE {name} AS SELECT 'kept' AS word")
        cursor.execute(f"SELECT word FROM {name}")
        assert cursor.fetchone() == ("kept",)


def use_rabbitmq(address: str, name: str, first: bool) -> None:
    import asyncio

    async def use() -> None:
        async with await aio_pika.connect(address) as connection:
            channel = await connection.channel(publisher_confirms=True)
            queue = await channel.declare_queue(name, durable=True)
            if first:
                # RabbitMQ 3.10 writes down up to three seconds late that there is a queue, whatever it confirms meanwhile.
                await asyncio.sleep(3)
                message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, name)
            else:
                message = await queue.get(timeout=10)
                await message.reject(requeue=True)
                assert message.body == b"kept"

    asyncio.run(use())


@service
@pytest.mark.parametrize(
    ("name", "use", "way"),
    [
        ("kafka", use_kafka, "kill"),
        ("rabbitmq", use_rabbitmq, "kill"),
        ("postgresql", use_postgresql, "kill"),
        ("postgresql", use_postgresql, "stop"),
        ("mariadb", use_mariadb, "kill"),
        ("pgbouncer", use_postgresql, "kill"),
    ],
)
def test_a_server_comes_back_as_it_was(
    own_service: Own, name: str, use: Callable[[str, str, bool], None], way: str, unique: str
) -> None:
    server = own_service(name)
    address, directory, pids = server.address, getattr(server, "directory", None), server.pids()
    use(address, unique, True)

    getattr(server, way)()
    assert wait_gone(pids, 0) == []
    server.start()
    assert server.address == address
    use(address, unique, False)

    pids = server.pids()
    server.close()
    assert wait_gone(pids, 0) == []
    assert directory is None or not directory.exists()


@service
def test_start_does_nothing_for_a_server_that_runs_and_close_nothing_for_a_closed_one(own_service: Own) -> None:
    server = own_service("redis")
    pids = server.pids()
    server.start()
    assert server.pids() == pids
    server.close()
    server.close()
    assert wait_gone(pids, 0) == []


@service
def test_a_server_that_does_not_start_shows_its_log_and_leaves_nothing(own_service: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    server = redis.Redis.locate() if shutil.which("redis-server") else pytest.skip("no redis-server")
    monkeypatch.setattr(server, "command", lambda: [server._binary, "--port", "none"])
    with pytest.raises(services.StartError, match=r"redis ended with 1 while it was starting:\n(.|\n)*'port \"none\"'"):
        server.start()
    assert server.pids() == []
    server.close()


# However the run ends.


@service
def test_a_run_that_is_killed_leaves_nothing(place: Path, rabbitmq: str, postgresql: str) -> None:
    program = """
import os, signal
from tests import services
services.start_all(["rabbitmq", "postgresql", "redis"])
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = run_python(place, "-c", program)
    output, errors = run.communicate(timeout=100)
    assert (output, run.returncode) == ("started\n", -signal.SIGKILL), errors
    assert_nothing_left(place)


@service
def test_a_run_that_forgets_to_close_leaves_nothing(place: Path, redis: str) -> None:
    run = run_python(place, "-c", "from tests import services; print(services.start('redis').pids(), flush=True)")
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    # The run waits for its guardian, so there is nothing to wait for here.
    assert_nothing_left(place, seconds=0)
    assert output.startswith("[")


@service
def test_ctrl_c_while_servers_start_leaves_nothing(place: Path, rabbitmq: str) -> None:
    run = run_python(place, "-m", "tests.services", "rabbitmq", "redis")
    deadline = time.monotonic() + 30
    while not any("beam" in line for line in leftovers(place)) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=40)
    assert (output, run.returncode) == ("", 0), errors
    assert_nothing_left(place, seconds=0)


@service
def test_the_command_keeps_servers_warm_until_it_is_told_to_stop(place: Path, redis: str, postgresql: str) -> None:
    run = run_python(place, "-m", "tests.services", "redis", "postgresql")
    assert run.stdout is not None
    lines = [run.stdout.readline(), run.stdout.readline()]
    values = dict(re.fullmatch(r"export (\w+)=(.*)\n", line).groups() for line in lines)
    assert command(values["TENANCY_TEST_REDIS"], "PING") == "+PONG"
    with psycopg.connect(values["TENANCY_TEST_POSTGRESQL"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=40)
    assert run.returncode == 0
    assert_nothing_left(place, seconds=0)


# Where a service comes from.


@service
def test_a_server_given_by_address_is_used_and_not_stopped(own_service: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_elses = own_service("redis")
    monkeypatch.setenv("TENANCY_TEST_REDIS", somebody_elses.address)
    with services.start("redis") as given:
        assert (given.address, given.origin) == (somebody_elses.address, "environment")
        with pytest.raises(RuntimeError, match="not ours to kill"):
            given.kill()
    assert command(somebody_elses.address, "PING") == "+PONG"
    with services.start("redis", own=True) as own:
        assert own.address != given.address


def test_a_given_address_where_nothing_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANCY_TEST_KAFKA", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("tests.services.base.PATIENCE", 0.1)
    with pytest.raises(services.StartError, match="TENANCY_TEST_KAFKA is set, but nothing answers at"):
        services.start("kafka")


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("one:9092,two:9093", ("one", 9092)),
        ("amqp://guest:g%40st@127.0.0.1:5672/", ("127.0.0.1", 5672)),
        ("postgresql+psycopg://u:p@db:5433/tenancy?sslmode=disable", ("db", 5433)),
        ("host=db user=me", ("db", 5432)),
        ("host=/run/postgresql user=me", None),
        ("redis://[::1]:6379/0", ("::1", 6379)),
        ("postgresql:///tenancy", None),
    ],
)
def test_the_endpoint_of_an_address(address: str, endpoint: tuple[str, int] | None) -> None:
    assert services._endpoint(address) == endpoint


def test_without_a_service_the_message_says_what_was_tried_and_what_to_do(nothing: Path) -> None:
    with pytest.raises(services.Unavailable) as caught:
        services.start("redis")
    assert str(caught.value) == (
        "no redis: TENANCY_TEST_REDIS is not set; there is no redis-server on PATH; TENANCY_INSTALL_SERVICES=1 is not set, so nothing is "
        "installed; there is no docker command. To have it, set TENANCY_TEST_REDIS to a URL such as redis://127.0.0.1:6379/0, or install "
        "redis-server (TENANCY_INSTALL_SERVICES=1 lets root's tests do it)"
    )


@service
def test_if_one_of_several_is_missing_none_is_left_running(nothing: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    try:
        postgresql.PostgreSQL.locate()
    except Exception as reason:
        pytest.skip(str(reason))
    with pytest.raises(services.Unavailable, match="no redis"):
        services.start_all(["postgresql", "redis"])
    assert_nothing_left(place, seconds=0)


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_without_a_service_tests_skip_unless_it_is_required(nothing: Path, tmp_path: Path, required: str, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text("def test_one(redis): ...\n")
    arguments = [
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-rs",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TENANCY_REQUIRE_SERVICES": required}
    done = subprocess.run([sys.executable, *arguments, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout, done.stdout
    assert done.returncode == (1 if required else 0)
    loud = [line for line in done.stdout.splitlines() if "no redis: TENANCY_TEST_REDIS is not set" in line]
    assert len(loud) == (1 if not required else len(loud)) >= 1


def test_a_package_is_installed_only_when_allowed(nothing: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy, calls = tmp_path / "policy-rc.d", tmp_path / "calls"
    script(nothing / "apt-get", f'[ -x {policy} ] && echo "$DEBIAN_FRONTEND $*" >> {calls}\n')
    monkeypatch.setattr(install, "_POLICY", policy)
    monkeypatch.setattr(install, "_updated", False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(services.Unavailable, match="TENANCY_INSTALL_SERVICES=1 is not set"):
        services.find("redis")
    assert not calls.exists()

    monkeypatch.setenv("TENANCY_INSTALL_SERVICES", "1")
    with pytest.raises(services.Unavailable, match="there is no redis-server on PATH; there is no docker"):
        services.find("redis")
    update, installation = calls.read_text().splitlines()
    assert re.fullmatch(r"noninteractive -qq .* update", update)
    assert re.fullmatch(r"noninteractive -qq .* install --yes --no-install-recommends redis-server", installation)
    assert not policy.exists()


@service
def test_a_container_is_driven_like_a_local_server(
    nothing: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_service: Own
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"], prepend=os.defpath + ":")
    real = shutil.which("redis-server") or pytest.skip("no redis-server to stand in for the container's")
    calls, pid = tmp_path / "calls", tmp_path / "pid"
    begin = f"{real} --port $(cat {tmp_path}/port) --bind 127.0.0.1 --save '' --dir {tmp_path} --daemonize yes --pidfile {pid} >&2"
    script(
        nothing / "docker",
        f"""PATH={os.defpath}
echo "$*" >> {calls}
case $1 in
  info) echo '"28.0"' ;;
  run) echo "$*" | sed 's/.*127.0.0.1:\\([0-9]*\\):6379.*/\\1/' > {tmp_path}/port; {begin} ;;
  start) {begin} ;;
  stop|kill|rm) [ ! -f {pid} ] || kill -9 $(cat {pid}); rm -f {pid} ;;
  inspect) [ -f {pid} ] && echo true ;;
esac
""",
    )
    monkeypatch.setenv("PATH", str(nothing))
    with services.start("redis") as server:
        assert server.origin == "docker"
        assert command(server.address, "PING") == "+PONG"
        server.kill()
        server.start()
        assert command(server.address, "PING") == "+PONG"
    with pytest.raises(OSError):
        command(server.address, "PING")
    verbs = [line.split()[0] for line in calls.read_text().splitlines()]
    assert verbs == ["info", "image", "run", "inspect", "kill", "inspect", "start", "rm"]
    started = calls.read_text().splitlines()[2]
    assert re.fullmatch(
        r"run --detach --name tenancy-redis-\w+ --publish 127.0.0.1:\d+:6379 redis:7 redis-server --save  --appendonly no", started
    )


def test_a_docker_command_without_an_engine_is_no_docker(nothing: Path) -> None:
    script(nothing / "docker", 'echo "Cannot connect" >&2\nexit 1\n')
    with pytest.raises(services.Unavailable, match="no Docker engine answers"):
        services.start("redis")


def test_runs_that_fetch_kafka_at_the_same_time_do_not_break_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    script(
        tools / "mvn",
        f"""echo called >> {tmp_path}/calls
target=$(echo "$*" | sed 's/.*-DoutputDirectory=//')
mkdir "$target"; sleep 0.5; echo jar > "$target/kafka.jar"
""",
    )
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    program = "from tests.services import kafka; path = kafka._class_path(); print(path, (path / 'kafka.jar').read_text().strip())"
    runs = [subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {run.communicate(timeout=60)[0] for run in runs}
    cache = tmp_path / "cache" / "request-tenancy"
    (path,) = cache.glob("kafka-4*")
    assert answers == {f"{path} jar\n"}
    assert (tmp_path / "calls").read_text() == "called\n"
    assert sorted(each.name for each in cache.iterdir()) == sorted([path.name, "kafka.lock"])


def test_ports_are_given_once_and_are_not_those_of_outgoing_connections() -> None:
    with ThreadPoolExecutor(4) as pool:
        ports = list(pool.map(lambda _: free_port(), range(60)))
    assert len(set(ports)) == 60
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if limits.exists():
        low, high = map(int, limits.read_text().split())
        assert [port for port in ports if low <= port <= high] == []


def test_compose_has_the_same_images_and_settings_as_the_tests() -> None:
    declared = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    kinds = (kafka.Kafka, rabbitmq.RabbitMQ, postgresql.PostgreSQL, mariadb.MariaDB, redis.Redis)
    assert set(declared) == {kind.name for kind in kinds}
    for kind in kinds:
        image, entry = kind.image(), declared[kind.name]
        assert entry["image"] == image.name
        assert entry["ports"] == [f"127.0.0.1:{image.port}:{image.port}"]
        assert tuple(entry.get("command", ())) == image.arguments
        assert entry.get("environment", {}) == {
            key: text.replace("{port}", str(image.port)) for key, text in image.environment.items()
        }
        assert f"export {kind.variable}={kind.url('127.0.0.1', image.port)}" in (ROOT / "compose.yaml").read_text()
