"""
The site builds without a warning, all its links lead somewhere, and its reference has every public name.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from pydoc import locate
from typing import get_args
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

import tenancy
from tenancy.observe._counters import CounterName
from tests.docs.pages import PAGES, ROOT, links

pytest.importorskip("sphinx", minversion="9.0", reason="Sphinx 9 is not installed; it needs Python 3.11")

#: What the reference leaves out: parts of a package that hands on what is public of them, and what nobody imports.
INTERNAL = re.compile(
    r"tenancy\.(?:cli|data|errors|http|messaging|scope|testing\.plugin"
    r"|(?:cli|grpc|mesh|testing)\..*"
    r"|data\.postgresql\.(?!django$).*"
    r"|http\.reception"
    r"|messaging\.(?:kafka|rabbitmq)(?:\.(?!broker$).*)?"
    r"|routes\.(?:delivery|handover|identity|lease|lives|live|record|sources|sources\.store|table|verdict)"
    r"|sandbox\..*)"
)


class Page(HTMLParser):
    """
    What a built page links to, and what in it can be linked to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.append(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    built = folder / "html"
    options = ["-n", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "doctrees"), "-c", "docs"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in sorted(built.rglob("*.html"))}


def public_modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(tenancy.__path__, "tenancy."):
        if "._" not in found.name and not INTERNAL.fullmatch(found.name):
            yield found.name


def test_every_page_is_in_the_site(site: dict[Path, Page]) -> None:
    """A page of the repository is a page of the site, under the same name."""
    built = next(iter(site)).parent
    while not (built / "docs").is_dir():
        built = built.parent
    missing = [page.name for page in PAGES if built / page.relative_to(ROOT).with_suffix(".html") not in site]
    assert missing == []
    assert (built / "index.html") in site


def test_links_within_the_site(site: dict[Path, Page]) -> None:
    """Every link to a page, a file or a fragment of the site finds it, and none downloads a page as Markdown."""
    broken = []
    checked = 0
    for page in site.values():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            checked += 1
            path = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            fragment = unquote(parts.fragment)
            if not path.exists() or path.suffix == ".md" or (fragment and path in site and fragment not in site[path].ids):
                broken.append((page.path.name, target))
    assert checked > 1000
    assert broken == []


def test_links_in_the_repository() -> None:
    """Every relative link of a page finds its file from where the page stands, and none is absolute."""
    relative = [(page, target.partition("#")[0]) for page in PAGES for target in links(page) if not urlsplit(target).scheme]
    assert len(relative) > 50
    assert [(page.name, target) for page, target in relative if target and not (page.parent / target).is_file()] == []


def test_links_to_elsewhere(site: dict[Path, Page]) -> None:
    """Links that leave the site are https, and name a host and no machine of ours; nothing is loaded from elsewhere."""
    outside = {target for page in site.values() for target in page.targets if urlsplit(target).netloc or urlsplit(target).scheme}
    strange = [target for target in outside if urlsplit(target).scheme not in ("https", "data") or not re.search(r"\w\.\w", target)]
    assert strange == []
    for page in site.values():
        loaded = re.findall(
            r"<(?:script|img|iframe|link rel=\"stylesheet\")[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*", page.path.read_text()
        )
        assert loaded == [], page.path.name


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    """Each name that a public module lists in ``__all__`` is documented, under that module or the one that it comes from."""
    documented = {name for path, page in site.items() if path.parent.name == "reference" for name in page.ids if "." in name}
    objects = [locate(name) for name in documented]
    modules = ["tenancy", *public_modules()]
    names = [(module, name) for module in modules for name in importlib.import_module(module).__all__]
    assert len(names) > 100
    missing = []
    for module, name in names:
        thing = getattr(importlib.import_module(module), name)
        if f"{module}.{name}" not in documented and not any(thing is known for known in objects):
            missing.append(f"{module}.{name}")
    assert missing == []


def test_every_counter_is_explained() -> None:
    """The page about operations says of each counter what it means."""
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in get_args(CounterName) if f"| `{name}` |" not in text] == []


def test_every_setting_is_explained() -> None:
    """The page about settings has a row for each, with its variable and its argument."""
    text = (ROOT / "docs" / "settings.md").read_text()
    names = [field.name for field in fields(tenancy.Settings)]
    assert [name for name in names if f"| `TENANCY_{name.upper()}` | `{name}` |" not in text] == []


def test_the_picture_stands_alone() -> None:
    """The picture says in words what it shows, knows light and dark, and loads nothing."""
    text = (ROOT / "docs" / "_static" / "one-request.svg").read_text()
    drawing = ElementTree.fromstring(text)
    assert {element.tag.rpartition("}")[2] for element in drawing.iter()} >= {"title", "desc"}
    assert "prefers-color-scheme: dark" in text
    assert "<script" not in text
    assert "@import" not in text
    assert re.findall(r"\w+://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\((.)", text)) == {"#"}
