from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import tenancy.cli
from tenancy.cli.inspection import report
from tests.cli.support import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "doctor.md").read_text()


def plain(line: str) -> str:
    """A line without what differs from one machine to the next: versions, times, the width of columns."""
    return " ".join(re.sub(r"\d+(?:\.\d+)*(?:[abrc]+\d+)?", "N", line).split())


def test_what_the_page_shows_is_what_is_printed(tmp_path: Path) -> None:
    """Each line of the console block that follows the application, in its order; lines of three dots stand for any others."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "main.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    block = next(block for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) if "$ tenancy doctor" in block)
    lines = block.splitlines()
    variables = dict(
        word.split("=", 1) for line in lines if line.startswith("$ export ") for word in shlex.split(line.removeprefix("$ export "))
    )
    command = shlex.split(next(line for line in lines if line.startswith("$ tenancy ")).removeprefix("$ "))
    ran = run(str(Path(run.__globals__["SCRIPTS"]) / command[0]), *command[1:], cwd=tmp_path, variables=variables)
    assert ran.status == 1

    printed = [plain(line) for line in ran.out.splitlines()]
    at = 0
    skipping = False
    for line in lines:
        if line.startswith("$ "):
            continue
        if line == "...":
            skipping = True
            continue
        found = printed.index(plain(line), at) if skipping else at
        assert printed[found : found + 1] == [plain(line)], ran.out
        at, skipping = found + 1, False
    assert at == len(printed)


def test_every_field_of_the_report_is_on_the_page() -> None:
    """The schema is documented."""
    parts = [part for part in vars(report).values() if dataclasses.is_dataclass(part)]
    assert len(parts) > 8
    names = {field.name for part in parts for field in dataclasses.fields(part)}
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_code_is_on_the_page() -> None:
    """And none that does not exist."""
    source = "".join(path.read_text() for path in (Path(tenancy.cli.__file__).parent / "inspection").glob("*.py"))
    words = {node.value for node in ast.walk(ast.parse(source.replace("from __future__ import annotations", ""))) if is_code(node)}
    table = PAGE[PAGE.index("The codes of findings") : PAGE.index("User names and passwords")]
    documented = set(re.findall(r"`([a-z-]+)`", table))
    assert len(documented) > 20
    assert documented <= words
    assert {
        word for word in words if word.partition("-")[0] in {code.partition("-")[0] for code in documented}
    } - NO_CODES == documented


#: Texts of the same form that are not codes.
NO_CODES = {"opentelemetry-instrument"}


def is_code(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z]+(-[a-z]+)+", node.value) is not None
    )
