"""
gRPC: client and server interceptors, sync and asyncio, for unary and streaming calls.

Put them on a channel or a server by hand, or call `instrument` and have every channel and server made afterwards carry them.
"""

from __future__ import annotations

from .aio_client import aio_client_interceptors
from .aio_server import AioServerInterceptor
from .client import ClientInterceptor
from .patching import instrument, uninstrument
from .server import ServerInterceptor

__all__ = [
    "AioServerInterceptor",
    "ClientInterceptor",
    "ServerInterceptor",
    "aio_client_interceptors",
    "instrument",
    "uninstrument",
]
