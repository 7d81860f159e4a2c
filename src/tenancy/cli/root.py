"""
The command ``tenancy`` itself: its commands, and how it ends.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

from .data import data
from .doctor import doctor
from .routes import routes
from .sandbox import sandbox

__all__ = ["run", "tenancy"]

_INTERRUPTED = 130  # 128 and SIGINT, as shells have it


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="request-tenancy", prog_name="request-tenancy")
def tenancy() -> None:
    """
    Request tenancy: test a pull request beside shared staging.
    """


tenancy.add_command(data)
tenancy.add_command(doctor)
tenancy.add_command(routes)
tenancy.add_command(sandbox)


def run() -> NoReturn:
    """
    Run the command line, and end the process.
    """
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_no_interrupt)
    try:
        status = tenancy.main(prog_name="tenancy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort:
        status = _INTERRUPTED
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # whoever read it has gone
            pass
    # At once: the threads that an imported application has started, and exporters that wait for their collector, are not waited for.
    os._exit(status if isinstance(status, int) else 0)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    # A library that is interrupted while it closes a connection logs that with a traceback; what there is to say, the command says.
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))
