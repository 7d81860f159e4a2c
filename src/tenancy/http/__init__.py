"""
HTTP: middleware for servers, transports for clients; a module for each, imported by name.
"""
