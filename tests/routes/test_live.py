from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tenancy
from tenancy import ConfigurationError, RoutesNotSyncedError, RouteSourceError, RoutingKey
from tenancy.routes import LiveRoutes, RouteTable, open_routes, parse_table, routes_for
from tenancy.routes.sources.env import EnvironmentSource
from tenancy.routes.sources.file import FileSource, open_source


def document(*keys: str, version: int = 1) -> str:
    routes = [{"workload": "shop/orders", "key": key, "sandbox": key} for key in keys]
    return json.dumps({"version": version, "workloads": ["shop/orders"], "routes": routes})


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, LiveRoutes]]:
    path = tmp_path / "routes.json"
    routes = LiveRoutes(FileSource(path), interval=0.02)
    yield path, routes
    routes.close()


def test_an_edit_is_seen(live: tuple[Path, LiveRoutes]) -> None:
    """A changed file is the new table, without anybody asking."""
    path, routes = live
    path.write_text(document("pr-1"))
    assert routes.wait_synced(1).keys() == {"pr-1"}
    path.write_text(document("pr-1", "pr-2", version=2))
    eventually(lambda: routes.table.keys() == {"pr-1", "pr-2"})
    os.replace(_written(path.with_suffix(".new"), document("pr-3")), path)
    eventually(lambda: routes.table.keys() == {"pr-3"})


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_swap_of_a_mounted_configmap_is_seen(tmp_path: Path) -> None:
    """Kubernetes renames a symbolic link to a new folder; the file's own link never changes."""

    def mount(name: str, text: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "routes.yaml").write_text(text)
        link = tmp_path / "..data_tmp"
        link.symlink_to(name)
        os.replace(link, tmp_path / "..data")

    mount("..2026_01", document("pr-1"))
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    routes = LiveRoutes(FileSource(tmp_path / "routes.yaml"), interval=0.02)
    assert routes.wait_synced(1).keys() == {"pr-1"}
    mount("..2026_02", document("pr-2"))
    eventually(lambda: routes.table.keys() == {"pr-2"})
    routes.close()


@pytest.mark.parametrize("broken", ["{", '{"routes": [{}]}', "", "[]", '{"routes": 1}', "a: [\x00"])
def test_a_broken_edit_keeps_the_last_good_table(
    live: tuple[Path, LiveRoutes], broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be read, or is gone, changes nothing but is told once; a mended one is taken."""
    path, routes = live
    path.write_text(document("pr-1"))
    routes.wait_synced(1)
    with caplog.at_level(logging.WARNING, "tenancy"):
        path.write_text(broken)
        eventually(lambda: any("stays in force" in record.getMessage() for record in caplog.records))
        time.sleep(0.1)
        path.unlink()
        time.sleep(0.1)
    assert routes.table.keys() == {"pr-1"}
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records)
    path.write_text(document("pr-2"))
    eventually(lambda: routes.table.keys() == {"pr-2"})


def test_a_file_that_is_being_written_is_read_when_it_is_done(live: tuple[Path, LiveRoutes]) -> None:
    """Half of a document may be a table as well; what changed while it was read is read again."""
    path, routes = live
    read = routes.source.read
    path.write_text(document("pr-1", "pr-2"))
    routes.wait_synced(1)
    seen = set()

    def while_written() -> RouteTable:
        table = read()
        if len(table) == 1:
            path.write_text(document("pr-1", "pr-2", "pr-3"))
            seen.update(len(routes.table) for _ in range(3))
        return table

    routes.source.read = while_written  # type: ignore[method-assign]
    path.write_text(document("pr-1"))
    eventually(lambda: len(routes.table) != 2)
    assert (seen, len(routes.table)) == ({2}, 3)


def test_a_file_of_the_same_size_and_time_is_seen(live: tuple[Path, LiveRoutes]) -> None:
    """An image built to be reproducible gives all files one time, and keys are often of one length."""
    path, routes = live
    path.write_text(document("pr-1"))
    os.utime(path, (0, 0))
    assert routes.wait_synced(1).keys() == {"pr-1"}
    path.write_text(document("pr-2"))
    os.utime(path, (0, 0))
    eventually(lambda: routes.table.keys() == {"pr-2"})


def test_a_mended_file_with_the_same_content_is_read(live: tuple[Path, LiveRoutes]) -> None:
    """After an error the next look reads again, even if nothing tells the file from the one before."""
    path, routes = live
    path.write_text(document("pr-1"))
    routes.wait_synced(1)
    path.write_text("{")
    eventually(lambda: routes._error is not None)
    path.write_text(document("pr-1"))
    eventually(lambda: routes._error is None)


def test_the_start_waits_for_a_table_and_not_for_ever(live: tuple[Path, LiveRoutes]) -> None:
    """Before the first read nothing is decided; at the deadline the error says what is wrong and what to do."""
    path, routes = live
    assert routes.peek() is None
    with pytest.raises(RoutesNotSyncedError, match="No such file"):
        _ = routes.table
    with pytest.raises(RoutesNotSyncedError, match="TENANCY_ROUTES") as caught:
        routes.wait_synced(0.1)
    assert str(path) in str(caught.value)
    threading.Timer(0.1, lambda: _written(path, document("pr-1"))).start()
    assert routes.wait_synced(5).keys() == {"pr-1"}


async def test_the_barrier_does_not_block_the_event_loop(live: tuple[Path, LiveRoutes]) -> None:
    """Waiting for the table leaves the loop to others."""
    import asyncio

    path, routes = live
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    with pytest.raises(RoutesNotSyncedError):
        await routes.synced(0.2)
    ticking.cancel()
    assert ticks >= 5
    path.write_text(document("pr-1"))
    assert (await routes.synced(1)).keys() == {"pr-1"}


def test_a_forked_process_follows_as_well(live: tuple[Path, LiveRoutes]) -> None:
    """A worker forked after the first read, whose thread is gone, sees later changes."""
    path, routes = live
    path.write_text(document("pr-1"))
    routes.wait_synced(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            routes.peek()
            os.write(writer, b"r")
            end = time.monotonic() + 5
            while routes.table.keys() != {"pr-2"} and time.monotonic() < end:
                time.sleep(0.01)
            os._exit(0 if routes.table.keys() == {"pr-2"} else 1)
        finally:
            os._exit(2)
    assert os.read(reader, 1) == b"r"
    path.write_text(document("pr-2"))
    _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_fork_while_the_source_is_being_read_does_not_hang(live: tuple[Path, LiveRoutes]) -> None:
    """A worker forked in the middle of a read in another thread can still read for itself."""
    path, routes = live
    path.write_text(document("pr-1"))
    routes.wait_synced(1)
    with routes._lock:  # what a reading thread holds
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(0 if routes.wait_synced(5).keys() == {"pr-1"} else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_source_that_breaks_in_its_own_way_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a source raises, whoever asks for the table meets the documented errors only, it is counted once, and it may mend."""
    counted: list[str] = []
    monkeypatch.setattr("tenancy.routes.live.count", lambda name: counted.append(name))

    class Odd:
        name = "an odd source"
        broken = True

        def mark(self) -> object:
            if self.broken:
                raise ZeroDivisionError("it broke")
            return "mark"

        def read(self) -> RouteTable:
            return parse_table(json.loads(document("pr-1")), origin=self.name)

    source = Odd()
    routes = LiveRoutes(source, interval=0.01)
    assert routes.peek() is None
    with pytest.raises(RoutesNotSyncedError, match="ZeroDivisionError: it broke"):
        routes.wait_synced(0.05)
    source.broken = False
    assert routes.wait_synced(5).keys() == {"pr-1"}
    source.broken = True
    eventually(lambda: counted)
    time.sleep(0.1)
    assert counted == ["tenancy.routes.reload_failures"]
    assert routes.table.keys() == {"pr-1"}
    routes.close()


def test_yaml_is_read(tmp_path: Path) -> None:
    """YAML is as good as JSON."""
    path = tmp_path / "routes.yaml"
    path.write_text("workloads: [shop/notify]\nroutes:\n- {workload: shop/orders, key: pr-42, sandbox: pr-42}\n")
    assert FileSource(path).read().route("shop/orders", RoutingKey("pr-42")) is not None


def test_the_environment_is_a_source() -> None:
    """A variable holds the table; without it, Signadot's own variables tell of one route."""
    assert EnvironmentSource(environ={"TENANCY_ROUTE_TABLE": document("pr-1")}).read().keys() == {"pr-1"}
    assert EnvironmentSource("MY_TABLE", {"MY_TABLE": document("pr-2")}).read().keys() == {"pr-2"}
    signadot = {
        "SIGNADOT_BASELINE_NAMESPACE": "shop",
        "SIGNADOT_BASELINE_NAME": "orders",
        "SIGNADOT_SANDBOX_NAME": "my-sandbox",
        "SIGNADOT_SANDBOX_ROUTING_KEY": "pr-3",
    }
    (route,) = EnvironmentSource(environ=signadot).read()
    assert route == ("shop/orders", "pr-3", "my-sandbox", 1)
    with pytest.raises(RouteSourceError, match="TENANCY_ROUTE_TABLE"):
        EnvironmentSource(environ={}).read()


def test_urls_name_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme says which source; one URL is one live table; a wrong URL is refused with an example."""
    path = _written(tmp_path / "with space.json", document("pr-1"))
    assert open_source(path.as_uri()).path == path
    assert open_routes(path.as_uri()) is open_routes(path.as_uri())
    assert routes_for() is None
    tenancy.configure(routes=path.as_uri())
    found = routes_for()
    assert found is not None
    assert found.wait_synced(1).keys() == {"pr-1"}
    monkeypatch.setenv("TENANCY_TEST_TABLE", document("pr-9"))
    assert open_routes("env:TENANCY_TEST_TABLE").wait_synced(1).keys() == {"pr-9"}
    for url in ("routes.yaml", "nats://x", "file://host/routes.yaml", "file:"):
        with pytest.raises(ConfigurationError, match="TENANCY_ROUTES"):
            open_routes(url)
