"""
Databases made by a command of your own: a script, a vendor's command-line tool, a container.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...routes.stores._urls import hidden
from ._provider import RegisteredProvider, check_function, migrated, parsed
from ._registry import Attempt, Registry

__all__ = ["Command"]

_SHOWN = 2000  # characters of what a command wrote to its standard error
_READ = 64 * 1024  # bytes at the end of what it wrote to its standard output


class Command(RegisteredProvider):
    """
    Databases that a command makes. It prints the address as the last line of its output.

    No shell is involved. ``{key}`` in an argument becomes the routing key; the command also finds it in the environment, as
    ``TENANCY_DATABASE_KEY``, with a token of this making in ``TENANCY_DATABASE_LIFE``. The command that drops finds there the token of the
    making to undo, and the address in ``TENANCY_DATABASE_ADDRESS``, where one was printed. It must end with 0 where there is nothing to drop,
    since it is run before an unfinished creation is repeated.

    If this process is killed the command may go on by itself. What it then makes is never used; the command that drops must find it by
    the key, or the token, unless each making gets a database of another name.

    Args:
        create: The program and its arguments.
        drop: The program that drops, and its arguments.
        registry: Where the addresses are kept, as they were printed: whoever can read it can read passwords in them.
        name: What the databases are of; commands with different names do not know of one another.
        timeout: Seconds that a command may take; then it and its children are killed.
        environment: Variables for the commands, beside those of this process.
        migrate: Called with the address of each new database before it counts as made.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        create: Sequence[str],
        *,
        drop: Sequence[str],
        registry: Registry | str,
        name: str = "command",
        timeout: float = 300.0,
        environment: Mapping[str, str] | None = None,
        migrate: Callable[[str], object] | None = None,
    ) -> None:
        given: tuple[tuple[str, Any], ...] = (("create", create), ("drop", drop))
        for option, words in given:
            if isinstance(words, str) or not words or not all(isinstance(word, str) and "\0" not in word for word in words):
                raise ConfigurationError(
                    f"Command({option}={words!r}): give a list of the program and its arguments, such as ['scripts/database', '{{key}}']"
                )
        seconds: Any = timeout
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise ConfigurationError(f"Command(timeout={timeout!r}): give seconds, more than 0")
        check_function("Command", migrate)
        super().__init__(name, registry if isinstance(registry, Registry) else Registry(registry, timeout=timeout + 30))
        self._create = tuple(create)
        self._drop = tuple(drop)
        self._timeout = timeout
        self._environment = dict(environment or {})
        self._migrate = migrate

    def make(self, key: RoutingKey, attempt: Attempt) -> str:
        """
        Run the command that creates, and return the address that it printed.

        Raises:
            PartitionError: If it failed, took too long, or printed no address.
        """
        output = self._run(self._create, key, attempt.life, "")
        lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
        if not lines:
            raise PartitionError(
                f"{self._create[0]} printed nothing for routing key {str(key)!r}; its last line must be the database's URL"
            )
        address = lines[-1]
        parsed(address, f"the last line that {self._create[0]} printed for routing key {str(key)!r}")
        if self._migrate is not None:
            with migrated("Command", key):
                self._migrate(address)
        return address

    def remove(self, key: RoutingKey, attempt: Attempt) -> None:
        """
        Run the command that drops.

        Raises:
            PartitionError: If it failed or took too long.
        """
        entry = attempt.entry
        self._run(self._drop, key, entry.life if entry else attempt.life, entry.address if entry else "")

    def _run(self, words: Sequence[str], key: RoutingKey, life: str, address: str) -> bytes:
        arguments = [word.replace("{key}", key) for word in words]
        ours = {"TENANCY_DATABASE_KEY": str(key), "TENANCY_DATABASE_LIFE": life, "TENANCY_DATABASE_ADDRESS": address}
        # Files, not pipes: something that the command leaves running would keep a pipe open for ever.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                    arguments,
                    env={**os.environ, **self._environment, **ours},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise PartitionError(f"{words[0]} cannot be run for routing key {str(key)!r}: {error}") from error
            try:
                code = process.wait(self._timeout)
            except BaseException as error:
                _end(process)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise PartitionError(
                    f"{words[0]} took longer than {self._timeout:g} s for routing key {str(key)!r} and was killed; give Command(timeout=...) "
                    f"more, or see what it waits for{_said(errors)}"
                ) from error
            if code != 0:
                raise PartitionError(f"{words[0]} ended with {code} for routing key {str(key)!r}{_said(errors)}")
            return _end_of(output, _READ)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.kill()
    process.wait()


def _end_of(file: IO[bytes], size: int) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - size))
    return file.read()


def _said(errors: IO[bytes]) -> str:
    text = hidden(_end_of(errors, 4 * _SHOWN).decode("utf-8", "replace")[-_SHOWN:].strip())
    return f":\n{text}" if text else ", and said nothing"
