"""
Databases by a command: what it prints, how it fails, and what it is told.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tenancy.data.databases import Command
from tenancy.errors import ConfigurationError, PartitionError

DROP = [sys.executable, "-c", ""]


def command(tmp_path: Path, program: str, *arguments: str, **options: Any) -> Command:
    return Command(
        [sys.executable, "-c", program, *arguments],
        **{"drop": DROP, "registry": f"sqlite:///{tmp_path / 'registry.db'}", **options},
    )


def test_the_last_line_is_the_address(tmp_path: Path) -> None:
    """Whatever is printed before, in whatever encoding, and however much."""
    program = "import sys; sys.stdout.buffer.write(b'\\xff' * 3_000_000 + b'\\n'); print('postgresql://u@host/pr42\\r\\n \\n')"
    assert command(tmp_path, program).create("pr-42") == "postgresql://u@host/pr42"


def test_it_is_told_the_key_and_no_shell_is_involved(tmp_path: Path) -> None:
    """As an argument, and in the environment; nothing in the arguments is interpreted."""
    program = f"""
import os, sys
open({str(tmp_path / "told")!r}, "a").write(repr((sys.argv[1:], os.environ["TENANCY_DATABASE_KEY"], os.environ["MORE"])) + "\\n")
print("sqlite:////" + sys.argv[1])
"""
    made = command(
        tmp_path, program, "{key}", "x-{key}-$HOME; echo `date` > " + str(tmp_path / "shell"), environment={"MORE": "yes"}
    )
    assert made.create("pr-42") == "sqlite:////pr-42"
    assert made.create("pr-42") == "sqlite:////pr-42"
    told = (tmp_path / "told").read_text()
    assert told == repr((["pr-42", f"x-pr-42-$HOME; echo `date` > {tmp_path / 'shell'}"], "pr-42", "yes")) + "\n"
    assert not (tmp_path / "shell").exists()


def test_what_drops_is_told_what_was_made(tmp_path: Path) -> None:
    """The address and the token of the making; and before an unfinished creation is repeated, the token alone."""
    log = tmp_path / "log"
    told = "os.environ['TENANCY_DATABASE_LIFE'] + ' ' + os.environ['TENANCY_DATABASE_ADDRESS']"
    tell = f"import os; open({str(log)!r}, 'a').write({told} + '\\n')"
    drop = [sys.executable, "-c", tell]
    with pytest.raises(PartitionError, match="ended with 3"):
        command(tmp_path, tell + "; raise SystemExit(3)", drop=drop).create("pr-42")
    made = command(tmp_path, tell + "; print('sqlite:////x')", drop=drop)
    made.create("pr-42")
    made.drop("pr-42")
    made.drop("pr-42")
    failed, undone, second, dropped = log.read_text().splitlines()
    assert undone == failed
    assert dropped == second + "sqlite:////x"
    assert failed != second


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import sys; sys.stderr.write('no space left\\npostgres://u:secret@h/x'); sys.exit(7)",
            "ended with 7(.|\n)*no space left",
        ),
        ("import sys; sys.exit(1)", "ended with 1 for routing key 'pr-42', and said nothing"),
        ("", "printed nothing"),
        ("print('done')", "'done'; it must be a URL"),
        ("print('postgresql://user:secret@host')", "names no database"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
    ],
)
def test_how_it_fails(tmp_path: Path, program: str, said: str) -> None:
    """The error says with what, names the key, and shows no password; nothing counts as made."""
    made = command(tmp_path, program)
    with pytest.raises(PartitionError, match=said) as caught:
        made.create("pr-42")
    assert "'pr-42'" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert made.databases() == {}


def test_one_that_cannot_be_run(tmp_path: Path) -> None:
    """The program is named."""
    with pytest.raises(PartitionError, match="no-such-program"):
        Command(["no-such-program"], drop=DROP, registry=f"sqlite:///{tmp_path / 'r.db'}").create("pr-42")


def test_one_that_takes_too_long(tmp_path: Path) -> None:
    """It is killed with its children, and what it said is shown; what it left running keeps nobody waiting."""
    program = f"""
import subprocess, sys, time
sys.stderr.write("waiting for the moon"); sys.stderr.flush()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2); open({str(tmp_path / "late")!r}, 'w')"])
time.sleep(60)
"""
    began = time.monotonic()
    with pytest.raises(PartitionError, match=r"longer than 1 s(.|\n)*waiting for the moon"):
        command(tmp_path, program, timeout=1).create("pr-42")
    assert time.monotonic() - began < 10
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
    left = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)']); print('sqlite:////x')"
    began = time.monotonic()
    command(tmp_path, left).create("pr-43")
    assert time.monotonic() - began < 4


def test_two_keys_are_never_in_one_database(tmp_path: Path) -> None:
    """A command that forgets the key is found out, also where it writes the address in another way."""
    program = "import os; print('postgresql://' + ('u:p@HOST:5432' if os.environ['TENANCY_DATABASE_KEY'] == 'a' else 'v@host') + '/x?a=1')"
    made = command(tmp_path, program)
    made.create("a")
    with pytest.raises(PartitionError, match="another key's already") as caught:
        made.create("b")
    assert "'b'" in str(caught.value)
    with pytest.raises(PartitionError, match="another key's already"):
        command(tmp_path, program, name="other").create("b")
    assert set(made.databases()) == {"a"}
    made.drop("b")
    assert set(made.databases()) == {"a"}


@pytest.mark.parametrize(
    "options",
    [
        {"create": "make {key}"},
        {"create": []},
        {"create": ["a\0b"]},
        {"drop": "drop"},
        {"drop": [1]},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"name": ""},
        {"name": "x" * 256},
        {"registry": "redis://host"},
        {"registry": "sqlite://"},
        {"registry": "nothing"},
    ],
)
def test_what_cannot_be_used(tmp_path: Path, options: dict[str, Any]) -> None:
    """It is refused at once."""
    given: dict[str, Any] = {"create": ["x"], "drop": ["y"], "registry": f"sqlite:///{tmp_path / 'r.db'}", **options}
    with pytest.raises(ConfigurationError):
        Command(given.pop("create"), **given)
