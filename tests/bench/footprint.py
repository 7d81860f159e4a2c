"""
What the library costs before it does anything: the time of its import, and the memory of a large route table.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from .harness import Case

__all__ = ["cases"]

_ROUTES = 10_000

# In a process of its own each time, which has nothing loaded, and reports the CPU time that it took itself.
_IMPORT = """
import time
start = time.process_time()
{statement}
print(time.process_time() - start)
"""

_TABLE = f"""
import gc, tracemalloc
from tenancy.routes.table import parse_table

def document():
    routes = [
        {{"workload": f"shop/service-{{n % 100}}", "key": f"pr-{{n // 4}}", "sandbox": f"sandbox-{{n // 4}}"}} for n in range({_ROUTES})
    ]
    return {{"version": 1, "workloads": [f"shop/service-{{n}}" for n in range(100)], "routes": routes}}

tracemalloc.start()
table = parse_table(document(), origin="bench")
gc.collect()
assert len(table) == {_ROUTES}
print(tracemalloc.get_traced_memory()[0] / 1e6)
"""


def _child(code: str) -> Callable[[int], float]:
    def work(times: int) -> float:
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return work


def cases() -> list[Case]:
    """
    Return the cases.
    """
    return [
        Case(
            "import_added",
            60,
            {
                "opentelemetry": _child(_IMPORT.format(statement="import opentelemetry.baggage")),
                "ours": _child(_IMPORT.format(statement="import opentelemetry.baggage, tenancy")),
            },
            lambda seconds: (seconds["ours"] - seconds["opentelemetry"]) * 1000,
            "opentelemetry",
            "import tenancy, after opentelemetry.baggage",
            "ms",
        ),
        Case(
            "routes_memory",
            20,
            {"table": _child(_TABLE)},
            lambda megabytes: megabytes["table"],
            "table",
            f"a route table of {_ROUTES:,} routes",
            "MB",
        ),
    ]
