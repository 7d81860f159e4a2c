"""
Wheels made by hand, so that real installations can be tried without a package index.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import tenancy

#: What the other distribution on the public index looks like: a package of the same name, one module of its own, no dependencies.
STRANGER = {"tenancy/__init__.py": b"from .lease import rent\n", "tenancy/lease.py": b"def rent():\n    return 1\n"}


def make_wheel(folder: Path, name: str, files: Mapping[str, bytes], **metadata_files: bytes) -> Path:
    """Write a wheel of version 0.1.0."""
    stem = f"{name.replace('-', '_')}-0.1.0"
    contents = dict(files)
    described = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n".encode(),
        "WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **metadata_files,
    }
    contents.update({f"{stem}.dist-info/{file}": content for file, content in described.items()})
    record = [f"{path},sha256={_hash(content)},{len(content)}" for path, content in contents.items()]
    contents[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,", ""]).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in contents.items():
            wheel.writestr(file, content)
    return path


def our_wheel(folder: Path) -> Path:
    """A wheel of this project, with the metadata of the installed one."""
    source = Path(tenancy.__file__).parent
    files = {f"tenancy/{path.relative_to(source).as_posix()}": path.read_bytes() for path in source.rglob("*.py")}
    own = metadata.distribution("request-tenancy")
    described = {name: (own.read_text(name) or "").encode() for name in ("METADATA", "entry_points.txt")}
    return make_wheel(folder, "request-tenancy", files, **described)


class Environment:
    """
    A virtual environment that sees the packages of this one, behind its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=100)
        self.python = str(next(folder.glob("[bS]*/python*")).parent / "python")
        self.packages = next(path for path in folder.rglob("site-packages") if path.is_dir() and not path.is_symlink())
        here = next(path for path in sys.path if path.endswith("site-packages") and (Path(path) / "click").exists())
        # Only a few: not our own, which is installed there from its source.
        for name in ("click", "rich", "pygments", "markdown_it", "mdurl", "packaging", "opentelemetry", "typing_extensions.py"):
            (self.packages / name).symlink_to(Path(here) / name)
        for path in Path(here).glob("opentelemetry_api-*.dist-info"):
            (self.packages / path.name).symlink_to(path)

    def pip(self, *arguments: str) -> None:
        """Run pip on this environment, without a network."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=100)

    def install(self, *wheels: Path) -> None:
        """Install wheels, one after the other."""
        for wheel in wheels:
            self.pip("install", "--no-index", "--no-deps", "--force-reinstall", str(wheel))


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
