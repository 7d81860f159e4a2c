"""
The command line, ``tenancy``: one module for each command.
"""
