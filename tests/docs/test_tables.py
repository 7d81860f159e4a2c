"""
Tables of the documentation that repeat what the code knows.
"""

from __future__ import annotations

import re

from tenancy import instrumentation
from tests.docs.pages import ROOT


def test_the_names_for_instrument_are_those_of_the_code() -> None:
    """The table of all integrations has each name that `tenancy.instrument` takes, beside its module, and no other."""
    page = (ROOT / "integrations" / "README.md").read_text()
    rows = re.findall(r'^\| .+? \| `(tenancy[\w.]+)` \| `"([\w.]+)"` \|', page, re.MULTILINE)
    assert {name: module for module, name in rows} == instrumentation._ADAPTERS
