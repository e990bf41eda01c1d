"""The supervisor's side of an entry: a listener that its own loop serves, without a thread and without ever waiting.

One descriptor (an epoll of the listener and its few connections) is what the loop has to know. A request is one packet of a few words, an
answer one packet. Who may ask is settled by the directory and by the peer's uid. Nothing of it is inside the sandbox.
"""

from __future__ import annotations

import os
import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

REQUEST_BYTES = 64
ANSWER_BYTES = 2048
_CONNECTIONS = 16
_TURN = 16  # requests and new connections handled before the run has its turn again
_SHUT_RDWR = 2
_UCRED = struct.Struct("iII")


class Control:
    """Serves one listener.

    Args:
        listener: a listening, non-blocking SOCK_SEQPACKET socket; borrowed.
        answer: gets the words of a request, the uid that asks and whether that has hung up meanwhile, returns the answer's text; must not block.

    Attributes:
        fd: readable when `serve` has something to do.
    """

    def __init__(self, listener: int, answer: Callable[[str, int, bool], str]) -> None:
        import _socket

        self._answer = answer
        self._listener = _socket.socket(fileno=os.dup(listener))
        self._peers: dict[int, tuple[socket, int]] = {}  # the oldest first
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self.fd = self._epoll.fileno()

    def serve(self) -> bool:
        """Take what is there, a bounded part of it at a time; return whether there was anything."""
        ready = self._epoll.poll(0, _TURN)
        for fd, events in ready:
            if fd == self._listener.fileno():
                for _ in range(_TURN):
                    if not self._accept():
                        break
            else:
                self._take(fd, bool(events & select.EPOLLRDHUP))
        return bool(ready)

    def drain(self) -> None:
        """Take what has come and was not looked at, at the end of a run: a request that was sent while we were stopped."""
        for _ in range(4):
            if not self.serve():
                break

    def hang_up(self) -> None:
        """Drop every connection, also those that nobody has accepted yet; whoever connects from now on is served."""
        if not self._peers and not self._epoll.poll(0, 1):
            return
        while self._accept():
            pass
        for fd in list(self._peers):
            self._drop(fd)

    def forget(self) -> None:
        """Let go, in a fork: whoever is connected stays so with its parent."""
        for peer, _ in self._peers.values():
            peer.close()
        self._peers.clear()
        self._epoll.close()
        self._listener.close()

    def close(self) -> None:
        """Drop every connection, which tells whoever waits for the end of the run; idempotent."""
        for fd in list(self._peers):
            self._drop(fd)
        self._epoll.close()
        self._listener.close()

    def _accept(self) -> bool:
        import _socket

        try:
            number, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return False  # none is left, or no descriptor for it: then it stays in the queue
        peer = _socket.socket(fileno=number)
        peer.setblocking(False)
        _, uid, _ = _UCRED.unpack(peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid()):
            peer.close()
            return True
        if len(self._peers) >= _CONNECTIONS:
            self._drop(next(iter(self._peers)))
        self._peers[number] = (peer, uid)
        self._epoll.register(number, select.EPOLLIN | select.EPOLLRDHUP)
        return True

    def _take(self, fd: int, gone: bool) -> None:
        known = self._peers.get(fd)
        if known is None:
            return  # dropped in this turn
        peer, uid = known
        try:
            request = peer.recv(REQUEST_BYTES + 1)
            if not 0 < len(request) <= REQUEST_BYTES:
                raise ConnectionError  # the end, or nothing of ours
            answer = self._answer(request.decode("ascii", "replace"), uid, gone)
            peer.send(answer.encode("utf-8", "replace")[:ANSWER_BYTES])
        except BlockingIOError:
            self._drop(fd)  # it asks faster than it reads
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        peer, _ = self._peers.pop(fd)
        self._epoll.unregister(fd)
        try:
            peer.shutdown(_SHUT_RDWR)  # a fork of this process may hold a copy, and whoever waits for the end would wait for that
        except OSError:
            pass  # the other side was faster
        peer.close()
