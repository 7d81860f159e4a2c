"""
A recorder of outbound hops: what really leaves this process, and whether it says whose work it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar, overload

from .._proxy import Proxy
from ..key import RoutingKey
from ._taps import Sighting, Taps
from ._threads import Threads, started_by
from .hop import Hop, described, hop_of

__all__ = ["Hops", "record_hops", "recording"]

T = TypeVar("T")


class Hops(Sequence[Hop]):
    """
    The hops that were recorded, in their order.

    Args:
        key: The key that hops should carry whose own context says nothing, such as those of a thread that lost it.
        ignore: Destinations that are of no interest, as for `ignore`.

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key.
    """

    def __init__(self, key: RoutingKey | str | None = None, ignore: Iterable[str] = ()) -> None:
        self.key: RoutingKey | None = None if key is None else RoutingKey(key)
        self._hops: list[Hop] = []
        self._errors: list[Exception] = []
        self._lost: list[tuple[threading.Thread, Hop]] = []
        self._ignored: list[str] = []
        self.ignore(*([ignore] if isinstance(ignore, str) else ignore))

    @overload
    def __getitem__(self, index: int) -> Hop: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hop]: ...
    def __getitem__(self, index: int | slice) -> Hop | list[Hop]:
        return self._hops[index]

    def __len__(self) -> int:
        return len(self._hops)

    def __repr__(self) -> str:
        return f"<Hops: {len(self)}, of which {len(self.problems())} with a problem>"

    def to(self, destination: str) -> list[Hop]:
        """
        Return the hops to a destination.

        Args:
            destination: A host without a port, an exchange or a topic; or a pattern such as ``*.shop.svc``.
        """
        return [hop for hop in self._hops if hop.matches(destination)]

    def ignore(self, *destinations: str) -> None:
        """
        Ask nothing of hops to these destinations, earlier ones included. To tell a key to a host that is not trusted stays a problem.

        Args:
            destinations: Hosts without ports, exchanges or topics; or patterns such as ``*.amazonaws.com``.
        """
        self._ignored += destinations

    def clear(self) -> None:
        """
        Forget what was recorded so far.
        """
        self._hops.clear()
        self._errors.clear()
        self._lost.clear()

    def problems(self) -> list[Hop]:
        """
        Return the hops that do not say what they should.
        """
        return self._problems(list(self._hops))

    def check(self) -> None:
        """
        Make sure that every hop says what it should.

        Raises:
            AssertionError: If one does not; the message lists each, with its headers and its place in the code.
        """
        __tracebackhide__ = True
        message = self.report()
        if message is not None:
            raise AssertionError(message)

    def report(self, since: int = 0) -> str | None:
        """
        Return what is wrong, in words, or None.

        Args:
            since: How many hops, from the first, are left out.
        """
        found = self._hops[since:]
        wrong = self._problems(found)
        parts = [described(wrong, len(found))] if wrong else []
        if since == 0:
            parts += [f"A hop could not be understood, which is a fault of tenancy.testing: {error!r}" for error in self._errors]
        return "\n".join(parts) or None

    def wrap(self, producer: T) -> T:
        """
        Return a producer that tells of what it produces: for clients that are not written in Python, such as ``confluent_kafka.Producer``.

        Args:
            producer: Any object with ``produce(topic, ..., headers=...)``. It is not changed: give what is returned to the code under test.
        """
        wrapped: Any = _Producer(producer, self)
        return wrapped  # type: ignore[no-any-return]

    def _problems(self, hops: list[Hop]) -> list[Hop]:
        return [hop for hop in hops if hop.problem is not None and (hop.leaks or not any(map(hop.matches, self._ignored)))]

    def _record(self, hop: Hop) -> None:
        silent = hop.expected is None and not hop.cleared
        if silent and self.key is not None:
            hop = replace(hop, expected=self.key)
        elif silent and hop.key is None:
            thread = threading.current_thread()
            if started_by(thread) is not None:
                self._lost.append((thread, hop))
        self._hops.append(hop)

    def _joined(self, thread: threading.Thread, key: RoutingKey) -> None:
        """
        Expect a key of those hops of a thread that have lost it.
        """
        lost = [hop for sender, hop in tuple(self._lost) if sender is thread]
        for at, hop in enumerate(tuple(self._hops) if lost else ()):
            if any(hop is one for one in lost):
                self._hops[at] = replace(hop, expected=key)


class record_hops:  # noqa: N801 - it is used as a function: `with record_hops() as hops:`
    """
    Record every outbound hop of this process while a block runs, and at its end make sure that each said whose work it is.

    Seen are requests of http.client (so of requests, urllib3 and urllib), httpx, httpx2 and aiohttp, calls of gRPC, what aio-pika
    publishes, and what a producer that was wrapped (`Hops.wrap`) produces: as they leave, beneath all instrumentation. Not seen is what
    never leaves: a mock in the client's place, a transport that calls an application in this process, and with TLS or aiohttp a request to a
    peer that is not there.

    A hop has a problem if it goes to a trusted host without the key of the work that sends it, or with another one; if it tells a key to a
    host that is not trusted; if it carries one though the work was said to have none; or if it carries several. At the end of the block
    that is an `AssertionError`.

    A hop whose own context says nothing has lost it if a thread sends it that the work of a key has started and waited for (``join``). With
    *key*, any other has lost it, too.

    Args:
        key: The key that hops should carry whose own context says nothing: finds all work that lost its context on the way, in a callback
            or in a thread for which nobody waits, say. Default: nothing more is asked of such hops.
        ignore: Destinations that need no key, as for `Hops.ignore`.
        check: Whether to check at the end; it is left out where the block raises.

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key.
    """

    def __init__(self, *, key: RoutingKey | str | None = None, ignore: Iterable[str] = (), check: bool = True) -> None:
        self._hops = Hops(key, ignore)
        self._check = check

    def __enter__(self) -> Hops:
        self._recording = recording(self._hops)
        self._recording.__enter__()
        return self._hops

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        __tracebackhide__ = True
        self._recording.__exit__(kind, error, trace)
        if self._check and kind is None:
            self._hops.check()


_lock = threading.Lock()
_recorders: list[Hops] = []
_taps: tuple[Taps, Threads] | None = None


@contextmanager
def recording(hops: Hops) -> Iterator[None]:
    """
    Tell a recorder of every outbound hop while a block runs.
    """
    global _taps
    with _lock:
        if _taps is None:
            _taps = Taps(_saw, _failed), Threads(_joined)
        taps, threads = _taps
        _recorders.append(hops)
    try:
        yield
    finally:
        with _lock:
            _recorders.remove(hops)
            if not _recorders:
                _taps = None
                taps.close()
                threads.close()
    for client, error in taps.unseen.items():
        warnings.warn(f"tenancy.testing cannot see the hops of this version of {client}: {error!r}", stacklevel=4)


def _saw(sighting: Sighting) -> None:
    hop = hop_of(sighting)
    for recorder in tuple(_recorders):  # another thread may end its own meanwhile
        recorder._record(hop)


def _joined(thread: threading.Thread, key: RoutingKey) -> None:
    for recorder in tuple(_recorders):
        recorder._joined(thread, key)


def _failed(error: Exception) -> None:
    for recorder in tuple(_recorders):
        recorder._errors.append(error)


class _Producer(Proxy):
    """
    A producer of messages, and a recorder who is told of each.
    """

    def __init__(self, producer: Any, hops: Hops) -> None:
        super().__init__(producer)
        self._tenancy_hops = hops

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        headers = kwargs.get("headers", args[6] if len(args) > 6 else None)  # the seventh after the topic, for confluent_kafka
        try:
            given = list(headers.items()) if isinstance(headers, dict) else list(headers or ())
            self._tenancy_hops._record(hop_of(Sighting("producer", f"produce to {topic}", topic, given, ())))
        except Exception as error:  # noqa: BLE001 - the message goes out all the same
            self._tenancy_hops._errors.append(error)
        return self._tenancy_target.produce(topic, *args, **kwargs)
