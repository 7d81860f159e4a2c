"""
Every python snippet of the documentation runs: the snippets of a page one after the other, as a reader would type them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path) -> None:
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
    command = [sys.executable, "-c", RUN, str(page)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **ours}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
