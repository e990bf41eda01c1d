"""Callers of sandboxes: processes and terminals of the test itself, with a session, a key or a descriptor of their own.

Only `escape.support` imports this module; tests take the names from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import struct
import termios
import traceback
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

_T = TypeVar("_T")


def in_child(function: Callable[[], _T]) -> _T:
    """Call a function in a forked process and return (or raise) what it did; for callers with a terminal, a session, a key, a fd of their own."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        answer: tuple[bool, Any]
        try:
            answer = (True, function())
        except pytest.fail.Exception as failure:
            answer = (False, failure.msg)
        except BaseException:
            answer = (False, traceback.format_exc())
        try:
            with os.fdopen(writer, "wb") as stream:
                stream.write(pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    assert data, "the caller's process died without an answer"
    good, value = pickle.loads(data)
    if not good:
        pytest.fail(f"in the caller's process:\n{value}", pytrace=False)
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A pseudo terminal of the test; raw, so that every byte pushed into its input counts at once."""

    master: int
    slave: int

    def pending(self) -> int:
        """Return how many bytes wait in the terminal's input: what a shell would read as typed."""
        return int(struct.unpack("i", fcntl.ioctl(self.slave, termios.FIONREAD, bytes(4)))[0])

    def attributes(self) -> list[Any]:
        """Return the termios state."""
        return termios.tcgetattr(self.slave)

    def in_session(self, function: Callable[[], _T]) -> _T:
        """Call a function in a process whose session has this terminal as its controlling one, as a shell's command has."""

        def caller() -> _T:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            return function()

        return in_child(caller)


@contextlib.contextmanager
def open_terminal() -> Iterator[Terminal]:
    """Open a pty pair for a test."""
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        yield Terminal(master=master, slave=slave)
    finally:
        os.close(master)
        os.close(slave)


def namespace_members(link: str) -> list[int]:
    """Return the host's numbers of the processes in a pid namespace, as its link text says; those we may not ask do not count."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == link:
                    found.append(int(name))
            except OSError:
                continue
    return found
