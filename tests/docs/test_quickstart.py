"""
The quickstart and the page about adapters, followed to the letter: files, commands, output.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import ROOT, blocks, write_files

QUICKSTART = ROOT / "docs" / "quickstart.md"
PORTS = ("8001", "8002")
# A reader of the quickstart has set nothing yet.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("TENANCY_", "SIGNADOT_"))}

Start = Callable[..., subprocess.Popen[str]]


def commands(page: Path) -> list[tuple[str, str]]:
    """Each command of a page, with the output that the page shows for it."""
    shown = "\n".join(blocks(page, "console"))
    return [(command, output.strip()) for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", shown, re.MULTILINE)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts programs in the folder of the page's files, and ends them after the test."""
    with ExitStack() as stack:

        def started(*command: str, **variables: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**ENVIRONMENT, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in held]


def wait_until_open(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"nothing listens on {port}: {process.communicate()[0]}")


def called(command: str) -> str:
    """What curl prints for a command of the page."""
    _, *arguments = shlex.split(command)
    headers = dict(argument.split(": ", 1) for option, argument in itertools.pairwise(arguments) if option == "-H")
    return httpx.get(arguments[-1], headers=headers, timeout=30).text.strip()


def test_the_services_answer_as_shown(start: Start, tmp_path: Path) -> None:
    """Two services, started by the page's commands, answer its requests with what it shows."""
    files = write_files(QUICKSTART, tmp_path)
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def moved(text: str) -> str:
        return re.sub("|".join(PORTS), lambda found: ports[found[0]], text)

    for file in files.values():
        file.write_text(moved(file.read_text()))
    asked = 0
    for command, output in commands(QUICKSTART):
        if command.startswith("uvicorn "):
            arguments = shlex.split(moved(command))
            wait_until_open(int(arguments[-1]), start("-m", *arguments))
        elif command.startswith("curl "):
            assert called(moved(command)) == output
            asked += 1
    assert asked == 3


def test_each_order_has_the_owner_shown(start: Start, tmp_path: Path) -> None:
    """The baseline and the sandbox, started by the page's commands, print what the page shows and no more; with neither role it refuses."""
    pytest.importorskip("confluent_kafka")
    write_files(QUICKSTART, tmp_path)
    (table,) = blocks(QUICKSTART, "json")
    (tmp_path / "routes.json").write_text(table)
    shown = dict(commands(QUICKSTART))
    (exported,) = {command for command in shown if command.startswith("export ")}
    common = dict(word.split("=", 1) for word in shlex.split(exported.replace("$PWD", str(tmp_path)))[1:])

    orders = start("orders.py")
    assert orders.stdout is not None
    assert orders.stdout.readline().strip() == shown["python orders.py"]
    running = {}
    for command in shown:
        if command.endswith(" python fulfilment.py"):
            variable, _, value = command.split()[0].partition("=")
            running[command] = start("fulfilment.py", **common, **{variable: value})
    assert len(running) == 2
    for command, process in running.items():
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in shown[command].splitlines()]
        assert lines == shown[command].splitlines()
    time.sleep(1)
    for process in running.values():
        process.kill()
        assert process.communicate()[0] == ""

    refused = start("fulfilment.py", **common)
    last = refused.communicate(timeout=30)[0].strip().splitlines()[-1]
    assert shown["python fulfilment.py"].splitlines() == ["...", last]
    assert "IdentityError" in last


def test_the_adapter_of_the_page_keeps_the_contract(tmp_path: Path) -> None:
    """The example adapter passes the contract in the way that the page tells its readers to run it."""
    page = ROOT / "docs" / "write-an-adapter.md"
    write_files(page, tmp_path)
    ((command, _),) = commands(page)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [sys.executable, "-m", *shlex.split(command), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
