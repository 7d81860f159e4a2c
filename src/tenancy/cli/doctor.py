"""
``tenancy doctor``: what carries the routing key through this process, what is lost, and what to do.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

import click

from .drawing import draw
from .inspection import inspect, parse_reference
from .inspection.application import place_of

__all__ = ["doctor"]


class _NotWritten(click.ClickException):
    exit_code = 2


def _reference(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            parse_reference(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _modules(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not all(part.isidentifier() for part in name.split(".")):
            raise click.BadParameter(f"{name!r} is not the name of a module; write it as in an import, such as shop.main")
    return value


@click.command()
@click.option(
    "--app",
    metavar="MODULE:ATTRIBUTE",
    callback=_reference,
    help="Import the application first, as a server would: shop.main:app, or shop.main:create_app().",
)
@click.option(
    "--import",
    "modules",
    metavar="MODULE",
    multiple=True,
    callback=_modules,
    help="Import a module first; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def doctor(context: click.Context, app: str | None, modules: tuple[str, ...], as_json: bool) -> None:
    """
    Tell what carries the routing key through this service, what is lost, and what to do.

    Run it where the service runs, with the service's environment. A fresh process has nothing switched on, so let it import the service
    (--app, --import), or start it as the service is started: opentelemetry-instrument tenancy doctor.

    Exit status: 0 nothing is wrong, 1 something is wrong or lost, 2 the command could not be run as given.
    """
    try:
        # What the application prints while it is imported is not part of the report.
        with redirect_stdout(sys.stderr):
            report = inspect(modules, app)
    except KeyboardInterrupt as error:
        click.echo(f"tenancy doctor: interrupted{place_of(error)}", err=True)
        raise click.Abort from error
    _write(json.dumps(report.as_json(), indent=2) + "\n" if as_json else draw(report))
    context.exit(0 if report.ok else 1)


def _write(text: str) -> None:
    """
    Write to standard output, whatever its encoding, also where nobody reads it to the end.
    """
    stream = sys.stdout
    if stream is None:  # closed by whoever started this
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise _NotWritten(f"the report cannot be written: {error}") from error
