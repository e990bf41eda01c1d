"""Descriptors off the path of a run: pipes and sockets are made before the next one asks for them, and the last one's are closed after its result is known.

Each is used by one run only. Whoever launches through a server fills the stash again while the server works; `close` belongs to the end of all runs.
"""

from __future__ import annotations

import _socket
import _thread
import os

_PIPES, _PAIRS = 5, 1
_DATAGRAMS = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC


class Stash:
    """What one client of servers has ready; thread-safe."""

    __slots__ = ("_closed", "_lock", "_over", "_pairs", "_pipes")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._pipes: list[tuple[int, int]] = []
        self._pairs: list[tuple[int, int]] = []
        self._over: list[int] = []
        self._closed = False

    def pipe(self) -> tuple[int, int]:
        """Return a new pipe's reading and writing end; the caller owns both."""
        try:
            return self._pipes.pop()
        except IndexError:
            return os.pipe2(os.O_CLOEXEC)

    def pair(self) -> tuple[int, int]:
        """Return the ends of a new status socket, the one that learns credentials first; the caller owns both."""
        try:
            return self._pairs.pop()
        except IndexError:
            return status_pair()

    def discard(self, fd: int) -> None:
        """Close a descriptor of a run that is over, soon."""
        with self._lock:
            if not self._closed:
                self._over.append(fd)
                return
        os.close(fd)

    def refill(self) -> None:
        """Close what was discarded, and make what the next run will ask for; that there are no descriptors left for it is no error here."""
        with self._lock:
            over, self._over = self._over, []
        for fd in over:
            os.close(fd)
        with self._lock:
            if self._closed:
                return
            try:
                while len(self._pipes) < _PIPES:
                    self._pipes.append(os.pipe2(os.O_CLOEXEC))
                while len(self._pairs) < _PAIRS:
                    self._pairs.append(status_pair())
            except OSError:
                pass

    def close(self) -> None:
        """Close everything; what is discarded from now on is closed at once. Idempotent."""
        with self._lock:
            self._closed = True
            over, self._over = self._over, []
            for fd in over:
                os.close(fd)
            # Another thread may be about to start a run: what it has taken is its own, so nothing is closed that was not taken from here first.
            for ends in (self._pipes, self._pairs):
                while ends:
                    try:
                        taken = ends.pop()
                    except IndexError:
                        break
                    for fd in taken:
                        os.close(fd)

    def forget(self) -> None:
        """In a fork: the ends are the parent's, and nothing of its may be used here."""
        self._lock = _thread.allocate_lock()
        self.close()
        self._closed = False


def status_pair() -> tuple[int, int]:
    """Return the ends of a status socket; the first learns the credentials of who sends."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _DATAGRAMS, 0)
    ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    return ours.detach(), theirs.detach()
