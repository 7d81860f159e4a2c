"""
Where route tables are read from, a module for each URL scheme.
"""
