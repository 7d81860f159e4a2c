"""The tests on the page about testing are tests: they pass as they stand, and fail as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def save(folder: Path, **changes: str) -> None:
    """Write the page's files, as its reader would."""
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        named = re.match(r"# (\w+\.py)\n", block)
        if named is not None:
            for before, after in changes.items():
                block = block.replace(before, after)
            (folder / named[1]).write_text(block)


def run(folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False).stdout


def test_they_pass(tmp_path: Path) -> None:
    """All of them, in one run."""
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "conftest.py",
        "shop.py",
        "test_application.py",
        "test_consumers.py",
        "test_flask.py",
        "test_hops.py",
        "test_key.py",
        "test_threads.py",
    ]
    assert "14 passed" in run(tmp_path)


def test_they_fail_without_instrumentation(tmp_path: Path) -> None:
    """With the message that the page shows."""
    save(tmp_path, **{'tenancy.instrument("httpx")': "pass"})
    shown = run(tmp_path)
    assert "4 failed, 10 passed" in shown
    (message,) = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert _unnumbered(message) in _unnumbered(shown)


def _unnumbered(text: str) -> str:
    return " ".join(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text).split())
