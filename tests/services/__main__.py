"""
Keeps servers warm between test runs: `python -m tests.services kafka redis` starts them, prints a line to export for each, and waits.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time

from . import NAMES, StartError, Unavailable, find, start_all, variable


def main() -> int:
    """
    Start what the command line names, and stop it at Ctrl-C or SIGTERM.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"services to start: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--install", action="store_true", help="get what they need (download, install, pull), and start nothing")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    for name in names:
        if name not in NAMES:
            parser.error(f"no service {name!r}: choose from {', '.join(NAMES)}")
    # A shell starts a background job with SIGINT ignored, so SIGTERM cannot be turned into that.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if arguments.install:
            for name in names:
                print(find(name))
        else:
            _run(names)
    except (Unavailable, StartError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(names: list[str] | tuple[str, ...]) -> None:
    began = time.monotonic()
    with start_all(names) as running:
        for name, service in running.items():
            print(f"export {variable(name)}={shlex.quote(service.address)}", flush=True)
        print(f"# ready after {time.monotonic() - began:.1f} s; Ctrl-C stops them", file=sys.stderr, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
