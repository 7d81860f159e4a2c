"""
``python -m examples.shop``: runs the demo, and exits non-zero if one hop, message or row was not as planned.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from rich.console import Console

from tenancy import TenancyError
from tests.services import StartError

from .runner import Shop
from .screen import as_json, show

SABOTAGES = ("no-filter", "drop-baggage", "ambient", "wrong-partition")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="Five services, two sandboxes, every hop checked.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--of-each", type=int, default=25, metavar="N", help="requests of each of the five kinds (default 25)")
    parser.add_argument("--sabotage", choices=SABOTAGES, default="", help="break one thing on purpose; the demo must notice")
    servers = ("kafka", "rabbitmq", "postgresql")
    parser.add_argument("--without", choices=servers, action="append", default=[], help="do as if this server could not be had")
    options = parser.parse_args()
    if options.of_each < 1:
        parser.error("--of-each: at least 1, or nothing is checked")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    errors = Console(stderr=True, highlight=False)
    try:
        with errors.status("starting") as status:

            def say(line: str) -> None:
                errors.print(line, markup=False, soft_wrap=True)
                status.update(line)

            with Shop(options.sabotage, options.without, say) as shop:
                say(f"sending {5 * options.of_each} requests")
                requests = shop.traffic(options.of_each)
                say("waiting until everything is handled")
                report = shop.settle(requests, deadline=12 if options.sabotage else 30)
                seen = shop.seen()
                if report.good:
                    say("taking the keys back from the sandboxes")
                    shop.retire()
                say("stopping")
    except (RuntimeError, StartError, TenancyError) as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("stopped")
        return 130
    if options.json:
        print(json.dumps(as_json(report, shop.legs, seen)))
    else:
        show(Console(highlight=False), report, shop.legs, seen)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
