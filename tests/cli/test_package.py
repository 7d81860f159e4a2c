from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.support import DOCTOR, SCRIPTS, Ran, doctor, run
from tests.cli.wheels import STRANGER, Environment, make_wheel, our_wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment to install into."""
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


def installed(environment: Environment, cwd: Path, *options: str) -> Ran:
    return run(environment.python, *options, "-m", "tenancy.cli", "doctor", "--json", cwd=cwd)


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_another_distribution_of_the_name(environment: Environment, tmp_path: Path, order: str) -> None:
    """Recognised in both orders, although one writes over the other; what it has done is told, and what to run mends it."""
    wheels = [our_wheel(tmp_path), make_wheel(tmp_path, "tenancy", STRANGER)]
    environment.install(*(wheels if order == "ours first" else reversed(wheels)))
    ours = run(environment.python, "-c", "import tenancy; print(hasattr(tenancy, 'instrument'))", cwd=tmp_path)
    assert ours.out.strip() == str(order == "theirs first")
    ran = installed(environment, tmp_path)
    finding = ran.finding("package-foreign")
    assert (ran.status, finding["about"], finding["level"]) == (1, "tenancy 0.1.0", "error")
    assert ("tenancy/__init__.py is not ours any more" in finding["says"]) is (order == "ours first")
    assert ran.report["package"]["whole"] is (order == "theirs first")
    assert ran.report["package"]["others"] == [{"kind": "distribution", "name": "tenancy 0.1.0", "wins": False}]
    assert finding["do"] == "pip uninstall tenancy && pip install --force-reinstall --no-deps request-tenancy"

    environment.pip("uninstall", "--yes", "tenancy")
    ran = installed(environment, tmp_path)
    assert "tenancy/__init__.py" in ran.finding("package-damaged")["says"]
    assert "package-foreign" not in ran.codes
    environment.install(wheels[0])
    ran = installed(environment, tmp_path)
    assert not [code for code in ran.codes if code.startswith("package")]
    assert ran.report["package"]["whole"] is True


def test_a_damaged_file(environment: Environment, tmp_path: Path) -> None:
    """Any file of ours that is not as it was installed is named."""
    environment.install(our_wheel(tmp_path))
    with (environment.packages / "tenancy" / "scope.py").open("a") as file:
        file.write("# edited\n")
    ran = installed(environment, tmp_path)
    assert ran.finding("package-damaged")["says"] == "not as it was installed: tenancy/scope.py"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_local_package_of_the_name(environment: Environment, tmp_path: Path, kind: str) -> None:
    """
    A program that is started beside it imports it in place of ours, and so would ``python -m tenancy.cli``; the script, and
    ``python -I -m``, are not deceived, and tell.
    """
    environment.install(our_wheel(tmp_path))
    local = tmp_path / ("tenancy" if kind == "folder" else "tenancy.py")
    if kind == "folder":
        local.mkdir()
        (local / "__init__.py").write_text("")
    else:
        local.write_text("")
    assert installed(environment, tmp_path).status != 0
    ran = installed(environment, tmp_path, "-I")
    finding = ran.finding("package-shadowed")
    assert (ran.status, finding["about"], finding["level"]) == (1, str(local), "error")
    assert {"kind": kind, "name": str(local), "wins": True} in ran.report["package"]["others"]
    script = run(str(SCRIPTS / "tenancy"), "doctor", "--json", cwd=tmp_path)
    assert script.finding("package-shadowed")["about"] == str(local)


def test_a_package_of_the_name_in_pythonpath(tmp_path: Path) -> None:
    """Also where the interpreter was told not to look there."""
    other = tmp_path / "elsewhere" / "tenancy"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    ran = run(sys.executable, "-I", *DOCTOR[1:], "--json", cwd=tmp_path, variables={"PYTHONPATH": str(other.parent)})
    assert ran.finding("package-shadowed")["about"] == str(other)


def test_a_folder_without_init_is_none(tmp_path: Path) -> None:
    """A folder of manifests called tenancy is not imported in place of a package."""
    (tmp_path / "tenancy").mkdir()
    ran = doctor(cwd=tmp_path)
    assert ran.report["package"]["others"] == []
    assert not [code for code in ran.codes if code.startswith("package")]


def test_without_metadata(environment: Environment, tmp_path: Path) -> None:
    """A copy that was not installed has no entry points and no supported versions; that is told, and nothing else fails."""
    environment.install(our_wheel(tmp_path))
    environment.pip("uninstall", "--yes", "request-tenancy")
    (environment.packages / "tenancy").symlink_to(Path(__file__).parents[2] / "src" / "tenancy")
    try:
        ran = installed(environment, tmp_path)
    finally:
        (environment.packages / "tenancy").unlink()
    assert ran.finding("package-metadata-missing")["level"] == "warning"
    assert "inspection-failed" not in ran.codes
    assert ran.report["versions"]["request-tenancy"] is None


@pytest.mark.parametrize("name", ["requests", "httpx", "flask", "confluent_kafka", "kafka"])
def test_an_empty_file_named_like_a_library(tmp_path: Path, name: str) -> None:
    """It breaks nothing, and is told for what it is."""
    (tmp_path / f"{name}.py").write_text("")
    ran = doctor(cwd=tmp_path)
    assert "inspection-failed" not in ran.codes
    says = ran.finding("library-shadowed", name)["says"]
    assert f"./{name}.py" in says
    assert ran.finding("library-shadowed", name)["level"] == ("note" if name == "kafka" else "warning")
    if name == "kafka":  # not installed here, and nothing of ours would patch it
        assert "with no version" in says
        assert ran.library("kafka")["version"] is None
    else:
        assert "in place of" in says
    script = run(str(SCRIPTS / "tenancy"), "doctor", "--json", cwd=tmp_path)
    assert f"./{name}.py" in script.finding("library-shadowed", name)["says"]


def test_versions_out_of_range(environment: Environment, tmp_path: Path) -> None:
    """What we support is in our own metadata, and what an instrumentation supports in its own; neither is believed to work beyond."""
    old = make_wheel(tmp_path, "requests", {"requests/__init__.py": b""})
    instrumentation = make_wheel(
        tmp_path,
        "opentelemetry-instrumentation-pika",
        {"made_up_instrumentation.py": b""},
        METADATA=b"Name: opentelemetry-instrumentation-pika\nVersion: 0.66b1\nRequires-Dist: pika>=0.12.0; extra == 'instruments'\n",
        **{"entry_points.txt": b"[opentelemetry_instrumentor]\npika = made_up_instrumentation:Pika\n"},
    )
    pika = make_wheel(tmp_path, "pika", {"pika/__init__.py": b""})
    environment.install(our_wheel(tmp_path), old, pika, instrumentation)
    try:
        ran = installed(environment, tmp_path)
    finally:
        environment.pip("uninstall", "--yes", "requests", "pika", "opentelemetry-instrumentation-pika")
    requests = ran.library("requests")["tenancy"]
    assert (requests["supported"], requests["requires"]) == (False, ">=2.31")
    assert "pip install 'requests>=2.31'" in ran.finding("library-unsupported", "requests")["do"]
    instrumented = ran.library("pika")["opentelemetry"]
    assert (instrumented["state"], instrumented["supported"], instrumented["requires"]) == ("unsupported", False, ">=0.12.0")
    assert "SelectiveChannel" in ran.finding("instrumentation-unsupported")["do"]
    assert json.dumps(ran.report["libraries"]).count('"imported": true') <= 3


def test_broken_metadata_of_others(environment: Environment, tmp_path: Path) -> None:
    """It is a note with its folder, and the report is whole."""
    environment.install(our_wheel(tmp_path))
    broken = environment.packages / "broken-1.dist-info"
    broken.mkdir()
    try:
        ran = installed(environment, tmp_path)
    finally:
        broken.rmdir()
    assert ran.finding("metadata-broken")["about"].endswith("broken-1.dist-info")
    assert "inspection-failed" not in ran.codes
