from __future__ import annotations

import logging
import os

import pytest

from tenancy.cli import root


def test_what_a_library_logs_when_it_is_interrupted_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SQLAlchemy says with a traceback that it was interrupted while it closed a connection; other errors of libraries are shown."""
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "filters", [])
    library = logging.getLogger("a.library")
    monkeypatch.setattr(library, "propagate", False)

    def main(**_: object) -> None:
        for error in (KeyboardInterrupt(), ValueError("of a value")):
            library.error("closing a connection", exc_info=error)

    monkeypatch.setattr(root.tenancy, "main", main)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    root.run()  # type: ignore[misc]
    said = capfd.readouterr().err
    assert said.count("closing a connection") == 1
    assert "ValueError: of a value" in said
    assert "KeyboardInterrupt" not in said
