"""
Every python snippet of the documentation runs: the snippets of a page one after the other, as a reader would type them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.docs.pages import PAGES, ROOT, write_files

# A process for each page: a page may switch things on that stay on.
RUN = """
import sys
from pathlib import Path
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(Path(sys.argv[1])).examples():
    example.evaluate()
"""


# Where a page that needs a database has it from.
DATABASE = "DATABASE_URL"


def _page(page: Path) -> object:
    marks = [pytest.mark.service] if DATABASE in page.read_text() else []
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [_page(page) for page in PAGES])
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """As the baseline of a workload that the route table knows, in a checkout, beside the files that the page names: what pages assume."""
    routes = tmp_path / "routes.json"
    routes.write_text(
        json.dumps({"workloads": ["shop/orders"], "routes": [{"workload": "shop/orders", "key": "pr-42", "sandbox": "pr-42"}]})
    )
    write_files(page, tmp_path)
    ours = {
        "TENANCY_WORKLOAD": "shop/orders",
        "TENANCY_ROLE": "baseline",
        "TENANCY_ROUTES": routes.as_uri(),
        "PYTHONPATH": str(ROOT),
    }
    if DATABASE in page.read_text():
        ours[DATABASE] = _database(str(request.getfixturevalue("postgresql")))
    command = [sys.executable, "-c", RUN, str(page)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **ours}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def _database(server: str) -> str:
    name = f"docs_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("postgresql://", "postgresql+psycopg://", 1).rpartition("/")[0] + f"/{name}"
