"""
The codec under a coverage-guided fuzzer: ``python -m tests.fuzz --runs 200000``, and ``--seeded`` for proof that it finds bugs.
"""
