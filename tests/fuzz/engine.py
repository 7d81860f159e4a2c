"""
One run of the engine, in a process of its own, since it never returns: ``python -m tests.fuzz.engine [--bug NAME] [--blind] -- ARGUMENTS``.

The arguments are libFuzzer's. It is `tests.fuzz.__main__` that calls this and makes sense of what it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bug", help="put this bug of tests.fuzz.bugs into the codec")
    parser.add_argument("--blind", action="store_true", help="give the engine no coverage to be guided by")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()

    import atheris

    logging.disable(logging.CRITICAL)  # the standard propagator warns of each header that it does not like

    def seen(package: str) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if options.blind else atheris.instrument_imports(include=[package])

    with seen("tenancy"):
        import tenancy
        import tenancy.propagator
    from . import cases, mutator, oracles

    with seen("tests"):
        from . import bugs

    tenancy.configure(tenancy.Settings())  # whatever the environment says
    codecs = oracles.codecs()
    if options.bug:
        codecs = {letter: bugs.BUGS[options.bug](codec) for letter, codec in codecs.items()}

    @atheris.instrument_func
    def execute(data: bytes) -> None:
        case = cases.parse(data)
        oracles.check(case, codecs[case.fields])

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, longest))
        return mutator.mutated(data, random.Random(seed))[:longest]

    atheris.Setup([sys.argv[0], *options.arguments], execute, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
