"""The anchor: a small child that keeps a cgroup alive and starts janitors in it, which are children of this process all the same.

A process cannot be moved, nor born, into a subtree across a cgroup that is root's, as that of a login session; only systemd moves it. So systemd
moves one, and what shall run there is started by that one. `spawn` uses it; `api` starts it. May import plan and kernel.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import struct

from sandbox.errors import SetupError
from sandbox.plan.anchor import CLIENT, MAXIMUM_PASSED, MOVED, SOCKET, TABLE, build_anchor_table, build_waiting_table
from sandbox.plan.codec import RECORD, Op, Table


class Anchor:
    """A running anchor; thread-safe, of use only in the process that started it.

    It ends when this process ends, however that happens, or when `close` is called. Its own end harms no run.

    Args:
        command: the executor that it is and that it starts.
        title: argv[0] of what it starts.

    Raises:
        SetupError: it cannot be started.
    """

    def __init__(self, command: list[str], title: str) -> None:
        from sandbox.launch import spawn

        self._lock = _thread.allocate_lock()
        self.command = tuple(command)
        machine = os.uname().machine
        with spawn.Owned() as own:
            first = own(spawn.sealed_memory(build_waiting_table(machine, self.command)))
            self._table = build_anchor_table(machine, self.command, title)
            memory = own(spawn.sealed_memory(self._table))
            self._moved = own(os.eventfd(0, os.EFD_CLOEXEC))
            import _socket

            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
            self._socket = ours
            child = own(theirs.detach())
            try:
                me = own(os.pidfd_open(os.getpid()))
                wanted = {SOCKET: child, CLIENT: me, TABLE: memory, MOVED: self._moved, 3: first}
                pids: list[int] = []
                spawn.spawn_executor(command, "sandbox-anchor", wanted, pids)
                self.pid = pids[0]
                self._pidfd = os.pidfd_open(self.pid)
                self._moved = fcntl.fcntl(self._moved, fcntl.F_DUPFD_CLOEXEC, 0)
            except OSError as error:
                ours.close()
                raise SetupError("start the anchor", error.errno or errno.EIO, step="cgroup") from None

    def settle(self) -> None:
        """Say that it is where it shall be: from now on it ends as soon as this process does. Idempotent; `spawn` does it as well."""
        if self._moved >= 0:
            os.eventfd_write(self._moved, 1)
            os.close(self._moved)
            self._moved = -1

    def spawn(self, descriptors: list[int]) -> int:
        """Start an executor with these descriptors as its 0, 1, 2 …; return its pid, a child of this process.

        Raises:
            SetupError: the anchor is gone, or could not do it; it is of no further use.
        """
        import _socket

        if len(descriptors) > MAXIMUM_PASSED:
            raise SetupError("pass descriptors to the anchor", errno.E2BIG, step="cgroup")
        with self._lock:
            self.settle()
            try:
                rights = struct.pack(f"{len(descriptors)}i", *descriptors)
                self._socket.sendmsg([b"s"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
                answer = self._socket.recv(RECORD.size)
            except OSError as error:
                raise SetupError("start a process through the anchor", error.errno or errno.EIO, step="cgroup") from None
        if len(answer) == RECORD.size:
            raise _explain(self._table, *RECORD.unpack(answer)[1:3])
        if len(answer) != 8:
            raise SetupError("start a process through the anchor", errno.ECONNRESET, step="cgroup", hint="it is gone; was it killed?")
        return int.from_bytes(answer, "little")

    def alive(self) -> bool:
        """Return whether it can still start something."""
        import select

        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """End it and reap it; idempotent. The runs that it has started go on."""
        import signal

        self._socket.close()
        self._drop_word()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            try:
                # Not only by the end of the socket: a fork of this process may hold a copy.
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            except ChildProcessError:
                pass
            os.close(pidfd)

    def forget(self) -> None:
        """Close what a fork inherited, in the fork: the anchor is its parent's."""
        self._socket.close()
        self._drop_word()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _drop_word(self) -> None:
        if self._moved >= 0:
            os.close(self._moved)
            self._moved = -1


def _explain(table: Table, row: int, error: int) -> SetupError:
    """Turn the failure of a round into an error. A clone is refused to the anchor by what refuses it to every run: a filter of the service, a limit."""
    entry = table.rows[row] if row < len(table.rows) else None
    hint = None
    if entry is not None and entry.op is Op.CLONE:
        from sandbox.kernel.probe_userns import gather_userns_facts, userns_refusal_hint

        hint = userns_refusal_hint(error, gather_userns_facts())
    return SetupError(
        entry.label if entry is not None else "go through the table", error, step="start a process through the anchor", hint=hint
    )
