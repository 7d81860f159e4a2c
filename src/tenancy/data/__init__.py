"""
Data: rows and partitions that stay with their routing key, a module for each library.
"""
