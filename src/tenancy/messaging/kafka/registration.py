"""
A consumer tells the route store that it runs, so that no sandbox is created while members of the baseline's group do not know of it.
"""

from __future__ import annotations

import threading
import time
from importlib import metadata
from typing import Any

from ...errors import TenancyError
from ...observe import warn_once
from ...routes.stores import Member, StoreSource
from .selection import Selection

__all__ = ["Registration"]

_AGAIN = 60.0
_RETRY = 1.0


class Registration:
    """
    The registration of one consumer; a background thread keeps it up, and nothing waits for it.

    Args:
        selection: The records of the consumer.
        group: Its consumer group.
    """

    def __init__(self, selection: Selection, group: str) -> None:
        self._selection = selection
        self._group = group
        self._member = ""
        self._registered: Member | None = None
        self.topics: tuple[str, ...] = ()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def assigned(self, member: str | None) -> None:
        """
        Say what the broker calls this consumer; known after a partition was assigned for the first time.
        """
        source: Any = self._selection.source
        if not member or not isinstance(source, StoreSource):
            return
        self._member = str(member)
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"tenancy-member {self._group}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """
        Take the registration back, in the background.
        """
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(_AGAIN)
            self._wake.clear()
            try:
                self._tell()
            except TenancyError as error:
                warn_once(
                    f"register:{self._group}", "a member of the group %s could not be registered, so no sandbox can be created: %s",
                    self._group, error,
                )  # fmt: skip
                if not self._closed:
                    time.sleep(_RETRY)
                    self._wake.set()
            if self._closed:
                return

    def _tell(self) -> None:
        source = self._selection.source
        assert isinstance(source, StoreSource)  # noqa: S101 - asked before the thread was started
        workload = self._selection.reader.identity.workload
        if self._registered is not None and (self._closed or self._registered.member != self._member):
            source.store.unregister(self._registered)
            self._registered = None
        if self._closed:
            return
        view = self._selection.view()
        table, version = ("", 0) if view is None else (view.table.id, view.table.version)
        library = metadata.version("request-tenancy")
        sandbox = self._selection.reader.identity.sandbox or ""
        member = Member(workload, self._member, self._group, self.topics, library, table, version, sandbox)
        source.store.register(member)
        self._registered = member
