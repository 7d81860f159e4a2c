"""
What a command waits for, on standard error: a table that changes on a terminal, lines elsewhere.
"""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from ..key import RoutingKey
from ..routes import State
from ..sandbox import Progress
from .drawing import _text
from .inspection.redaction import redacted
from .states import BRIEFLY

__all__ = ["Following"]

_SETTLED = (State.ACTIVE, State.NONE)


class Following:
    """
    Shows what a controller is at; the controller calls it with each step.

    Args:
        deadline: Seconds that the command may take.
    """

    def __init__(self, deadline: float) -> None:
        self._until = time.monotonic() + deadline
        self._told: dict[tuple[str, RoutingKey], Progress] = {}
        self._lines: set[str] = set()
        self._live: Live | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            console = Console(stderr=True, markup=False, highlight=False, emoji=False)
            self._spinner = Spinner("line")
            self._live = Live(console=console, transient=True, get_renderable=self._drawn, refresh_per_second=5)

    def __enter__(self) -> Following:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        self._told[progress.workload, progress.key] = progress
        if self._live is not None:
            return
        line = f"{progress.workload} {progress.key}: {progress.state.value}"
        if progress.waiting:
            line += f", waiting for {progress.waiting}"
        told = re.sub(r"\d+", "", line)  # seconds that run down, and figures that run up, are worth one line
        if told not in self._lines:
            self._lines.add(told)
            click.echo(redacted(line), err=True)

    def _drawn(self) -> Table:
        shown = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(4):
            shown.add_column(overflow="fold")
        for at in sorted(self._told):
            progress = self._told[at]
            settled = progress.state in _SETTLED and not progress.waiting
            waiting = BRIEFLY[progress.state] if not progress.waiting else f"waiting for {progress.waiting}"
            shown.add_row(
                _text("done") if settled else self._spinner,
                _text(f"{progress.workload} {progress.key}"),
                _text(progress.state.value, "bold green" if settled else "bold yellow"),
                _text(waiting),
            )
        left = max(0.0, self._until - time.monotonic())
        shown.add_row("", "", "", _text(f"{left:.0f} s until the deadline; Ctrl-C leaves what is there for another time", "dim"))
        return shown
