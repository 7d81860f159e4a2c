from __future__ import annotations

import functools
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import wrapt

import tenancy
from tenancy import instrumentation
from tenancy._patches import Patches
from tenancy.cli.inspection.application import inspect_application, parse_reference
from tenancy.cli.inspection.catalogue import LIBRARIES
from tenancy.cli.inspection.distributions import allows, read_installed
from tenancy.cli.inspection.libraries import _adapter_name
from tenancy.cli.inspection.patching import is_from, layers, our_patches, source_of
from tenancy.cli.inspection.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://ann:secret@host/0", "redis://***@host/0"),
        ("'postgresql+asyncpg://ann:p@ss:w/rd@host/db'", "'postgresql+asyncpg://***@host/db'"),
        ("https://token@host", "https://***@host"),
        ("file:///etc/a@b.yaml", "file:///etc/a@b.yaml"),
        ("https://host/path", "https://host/path"),
        ("host=db password=hunter2 user=ann", "host=db password=*** user=ann"),
        ("{'password': 'hunter 2', 'api_key': b'x'}", "{'password': ***, 'api_key': b***}"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("two: amqp://a:b@c and redis://d:e@f", "two: amqp://***@c and redis://***@f"),
    ],
)
def test_secrets_are_taken_out(text: str, shown: str) -> None:
    """User names and passwords of URLs, and what stands behind ``password=`` and the like, wherever they stand in a report."""
    assert redacted(text) == shown
    assert redacted({"a": [text, ({"b": text},)], "c": 1}) == {"a": [shown, ({"b": shown},)], "c": 1}


@pytest.mark.parametrize(
    ("versions", "version", "allowed"),
    [
        (">=2.31", "2.31.0", True),
        (">=2.31", "2.4", False),
        (">=2.31", "3.0rc1", True),
        ("<2.1.0,>=1.0", "2.1.9", False),
        ("~=3.0", "3.14.5", True),
        ("", "1", True),
        (None, "1", True),
        (">=1", None, None),
        (">=1", "not a version", None),
        ("nonsense", "1", None),
    ],
)
def test_versions_that_are_allowed(versions: str | None, version: str | None, allowed: bool | None) -> None:
    """As pip has it; what cannot be told is None, never an error."""
    assert allows(versions, version) is allowed


def test_without_packaging_versions_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not one of our dependencies."""
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    assert allows(">=1", "2") is None


def metadata(folder: Path, name: str, **files: str | bytes) -> Path:
    made = folder / name
    made.mkdir()
    for file, content in files.items():
        (made / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return made


def test_broken_metadata_is_left_out_and_named(tmp_path: Path) -> None:
    """Empty folders, bytes that are no text, missing names and unreadable entry points leave the rest as it is."""
    metadata(
        tmp_path,
        "good-1.dist-info",
        METADATA="Name: good.One\nVersion: 1\nRequires-Dist: x (>=2) ; extra == 'y'\n",
        **{"entry_points.txt": "[g]\na = b:c\n"},
    )
    metadata(tmp_path, "empty-1.dist-info")
    metadata(tmp_path, "nameless-1.dist-info", METADATA="Version: 1\n")
    metadata(tmp_path, "binary-1.dist-info", METADATA=b"Name: binary\xff\nVersion: 1\n")
    metadata(
        tmp_path, "points-1.dist-info", METADATA="Name: points\nVersion: 1\n", **{"entry_points.txt": "not an entry point\n[[["}
    )
    metadata(tmp_path, "versionless.dist-info", METADATA="Name: versionless\n", RECORD=b"\xff")
    (tmp_path / "file-1.dist-info").write_text("")
    installed = read_installed([str(tmp_path), str(tmp_path / "nowhere"), "\0"])
    good = installed.find("Good_one")
    assert good is not None
    assert (good.version, good.requirements) == ("1", (("x", ">=2", "y"),))
    assert [(point.name, source.name) for point, source in installed.entry_points("g")] == [("a", "good.One")]
    assert installed.find("points") is not None
    assert installed.version("versionless") is None
    assert {Path(path).name for path in installed.broken} >= {"empty-1.dist-info", "nameless-1.dist-info"}


def test_the_first_of_two_distributions_is_the_one(tmp_path: Path) -> None:
    """As for an import."""
    for number in ("1", "2"):
        folder = tmp_path / number
        folder.mkdir()
        metadata(folder, f"twice-{number}.dist-info", METADATA=f"Name: twice\nVersion: {number}\n")
    assert read_installed([str(tmp_path / "2"), str(tmp_path / "1")]).version("twice") == "2"


def plain(value: object) -> object:
    return value


def test_whose_code_an_attribute_is() -> None:
    """`functools.wraps` and wrapt pretend to be what they wrap; the module is told all the same."""

    @functools.wraps(print)
    def wrapped(*args: object) -> None:
        print(*args)

    wrapping = wrapt.FunctionWrapper(len, lambda inner, _instance, args, options: inner(*args, **options))
    assert wrapped.__module__ == "builtins"
    assert source_of(wrapped) == __name__
    assert source_of(wrapping) == __name__
    assert source_of(functools.partial(plain, 1)) == __name__
    assert source_of(print) == "builtins"
    assert source_of(42) == ""
    assert list(layers(wrapping)) == [wrapping, len]
    assert is_from(wrapping, "builtins")
    assert not is_from(wrapping, "built")


def test_our_patches_are_looked_at_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patched, wrapped by others, replaced by others, and undone."""
    adapter, target, user = ModuleType("tenancy.made_up"), ModuleType("made_up_client"), ModuleType("service_of_somebody")
    original = target.send = plain
    user.send_it = original  # type: ignore[attr-defined]
    patches = adapter._patches = Patches()
    for module in (adapter, target, user):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    patches.wrap(target, "send", lambda inner: functools.wraps(inner)(lambda value: inner(value)))
    state = our_patches("tenancy.made_up")
    assert (state.patched, state.replaced) == (("made_up_client.send",), ())
    assert "service_of_somebody.send_it" in state.early

    ours = target.send
    target.send = functools.wraps(ours)(lambda value: ours(value))
    assert our_patches("tenancy.made_up").patched == ("made_up_client.send",)
    target.send = original
    state = our_patches("tenancy.made_up")
    assert (state.patched, state.replaced) == ((), (f"made_up_client.send (now of {__name__})",))
    target.send = ours
    patches.undo()
    assert our_patches("tenancy.made_up") == ((), (), ())


@pytest.mark.parametrize(
    ("text", "taken"),
    [("shop.main:app", ("shop.main", "app", False)), ("a:b.c", ("a", "b.c", False)), ("a:make()", ("a", "make", True))],
)
def test_references_to_applications(text: str, taken: tuple[str, str, bool]) -> None:
    """As uvicorn and gunicorn write them."""
    assert parse_reference(text) == taken


@pytest.mark.parametrize("text", ["", "a", "a:", ":b", "a:b(1)", "a b:c", "a:b:c", "../a:b"])
def test_what_is_no_reference(text: str) -> None:
    """It says what to write."""
    with pytest.raises(ValueError, match=r"shop\.main:app"):
        parse_reference(text)


def test_objects_that_answer_with_errors_or_circles() -> None:
    """An application is looked at without trusting it."""

    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    class Circle:
        def __call__(self) -> None:
            pass

    one, other = Circle(), Circle()
    one.app, other.app = other, one  # type: ignore[attr-defined]
    endless = SimpleNamespace(user_middleware=iter(int, 1), middlewares=42)
    assert inspect_application("x:y", Hostile()).tenancy == ()
    assert inspect_application("x:y", one).tenancy == ()
    assert inspect_application("x:y", endless).tenancy == ()


def test_every_adapter_is_in_the_catalogue() -> None:
    """What ``tenancy.instrument`` knows is described; each entry says what is lost, and what to do."""
    assert {_adapter_name(entry) for entry in LIBRARIES} >= set(instrumentation._ADAPTERS)
    for entry in LIBRARIES:
        assert entry.uncovered, entry.name
        assert entry.do or _adapter_name(entry), entry.name
        assert entry.opentelemetry or not entry.instrumentors, entry.name


def test_our_modules_that_are_named_exist() -> None:
    """A module that the catalogue tells people to use is there."""
    named = {
        module
        for entry in LIBRARIES
        for text in (entry.do, *entry.by_hand)
        for module in re.findall(r"\btenancy(?:\.[a-z_]+)+", text)
    }
    functions = {f"tenancy.{name}" for name in tenancy.__all__}
    missing = {name for name in named - functions if find_spec(name.removesuffix(".")) is None}
    assert missing == set()
