"""
``make chaos``: hand-over on real brokers while processes are killed, stopped and replaced; and mutants of it, each of which must be caught.
"""
