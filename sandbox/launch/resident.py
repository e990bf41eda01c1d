"""A server: a resident process of ours that clones an init for each run, at a message's price instead of a process's start.

It is started like a janitor, with a table of its own (`plan.template`), and lives as long as its `Server` or the process that made it. A keeper, host-side
like a janitor, outlives both, waits for every run's end and removes what it was told to remove. May import plan, kernel, abi.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from sandbox.errors import ProtocolError, SandboxError, SetupError
from sandbox.launch.spawn import Launched, Owned, executor_command, sealed_memory, spawn_executor
from sandbox.launch.stash import Stash
from sandbox.plan import fds
from sandbox.plan.codec import NO_ROW, RECORD, Ask, Kind, Record, Table, decode_record, encode_request

_START_MS = 10_000
_SIGKILL = 9


class ServerGoneError(SetupError):
    """The server of a run does not live any more; another one can be started."""


class Channel:
    """The asking side of whatever starts runs; thread-safe, of use only in the process that made it."""

    __slots__ = ("_sender", "made_by", "pidfd")

    def __init__(self) -> None:
        self.made_by = os.getpid()
        self._sender: object = None
        self.pidfd = -1
        """Of what starts them: readable once it is dead. Borrowed by whoever waits for it."""

    @property
    def alive(self) -> bool:
        """Whether it can still start something."""
        if self.pidfd < 0 or os.getpid() != self.made_by:
            return False
        import select

        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def _drop(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()  # type: ignore[attr-defined]

    def launch(
        self,
        launched: Launched,
        table_fd: int,
        *,
        stdio: tuple[int, int, int],
        extra: tuple[int, ...] = (),
        flags: int,
        recycle_network: bool = False,
        stash: Stash | None = None,
    ) -> None:
        """Ask for one run. Safe from any thread: one message.

        What follows is told on `launched.descriptors.status`: STARTED, READY, EXITED as ever; REAPED by the server, once init was reaped; FAILED of row
        `codec.NO_ROW` when init could not be cloned (`clone_refusal`); and the end of the socket, without REAPED when the server died with the run.

        Args:
            launched: an empty one; it gets the ends of status, GO and CONTROL and neither pid nor pidfd. Closing it ends the run.
            table_fd: a memory file with the table of `build_run_plan`; borrowed, may be used again.
            stdio: the payload's standard streams; borrowed.
            extra: descriptors for `fds.SERVED_EXTRA` and up; borrowed.
            flags: of `clone_flags`.
            recycle_network: whether the network namespace may be one that another run has used; only where `may_recycle_network` says so,
                and with ``clone_flags(recycled_network=True)``.
            stash: where pipes and sockets come from; None makes them.

        Raises:
            ServerGoneError: it is dead; nothing was started.
            SandboxError: this is another process than the one that started it.
        """
        import _socket
        import struct

        if os.getpid() != self.made_by:
            raise SandboxError(
                f"launch: the server belongs to process {self.made_by}, this is {os.getpid()}", hint="a fork needs a `Sandbox` of its own"
            )
        sender = self._sender
        if sender is None:
            raise ServerGoneError("ask the server for a run", errno.EBADF, hint="it was closed")
        assert isinstance(sender, _socket.socket)
        assert 3 + 4 + len(extra) <= fds.MAXIMUM_PASSED
        ends = launched.descriptors
        mine: list[int] = []
        try:
            stash = stash or Stash()
            ends.status, status = stash.pair()
            mine.append(status)
            go, ends.go = stash.pipe()
            mine.append(go)
            control, ends.control = stash.pipe()
            mine.append(control)
            passed = (*stdio, table_fd, mine[0], go, control, *extra)
            ask = Ask.RECYCLE_NETWORK if recycle_network else Ask(0)
            rights = struct.pack(f"{len(passed)}i", *passed)
            sender.sendmsg([encode_request(flags, ask)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                raise ServerGoneError("ask the server for a run", error.errno, hint="it was killed, or ran out of memory") from None
            raise
        finally:
            for fd in mine:
                os.close(fd)


class Server(Channel):
    """A running server; thread-safe, of use only in the process that started it. Made by `start`."""

    __slots__ = ("_channel", "_keeper", "notes", "pid")

    def __init__(self) -> None:
        super().__init__()
        self.pid = 0
        """The server's own pid, as this process sees it."""
        self.notes: tuple[str, ...] = ()
        self._keeper = Launched()
        self._channel: object = None

    @classmethod
    def start(
        cls,
        table: Table,
        *,
        executor: str = "auto",
        extra: tuple[int, ...] = (),
        started: Callable[[int], None] | None = None,
        explain: Callable[[int, int], SandboxError] | None = None,
    ) -> Server:
        """Start a server and wait until it serves.

        Args:
            table: of `build_server_plan`.
            executor: see `executor_command`.
            extra: descriptors for `fds.FIRST_EXTRA` and up, what the keeper removes is relative to them; borrowed.
            started: is called with the server's pid before it is let on, where its plan waits for id maps (a root caller); None where it does not.
            explain: turns (row, errno) of a failure into an error.

        Raises:
            SandboxError: it could not be started; nothing is left.
        """
        server = cls()
        try:
            server._start(table, executor, extra, started, explain or _explain_plainly)
        except BaseException:
            server.close()
            raise
        return server

    def _start(
        self,
        table: Table,
        executor: str,
        extra: tuple[int, ...],
        started: Callable[[int], None] | None,
        explain: Callable[[int, int], SandboxError],
    ) -> None:
        import _socket

        ends = self._keeper.descriptors
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        with Owned() as own:
            memory = own(sealed_memory(table))
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind, 0)
            ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
            self._channel = ours
            status = own(theirs.detach())
            sender, receiver = _socket.socketpair(_socket.AF_UNIX, kind, 0)
            self._sender = sender
            requests = own(receiver.detach())
            go, ends.go = os.pipe2(os.O_CLOEXEC)
            own(go)
            release, ends.release = os.pipe2(os.O_CLOEXEC)
            own(release)
            supervisor = own(os.pidfd_open(os.getpid()))
            wanted = {
                fds.TABLE: memory,
                fds.STATUS: status,
                fds.GO: go,
                fds.SUPERVISOR: supervisor,
                fds.RELEASE: release,
                fds.REQUESTS: requests,
            }
            wanted |= {fds.FIRST_EXTRA + index: fd for index, fd in enumerate(extra)}
            spawn_executor(executor_command(executor), "sandbox-server", wanted, self._keeper.pids)
            self._keeper.pidfd = os.pidfd_open(self._keeper.pid)
        while True:
            record = receive_record(self._channel)
            if record is None:
                raise SetupError("start the server", errno.ECONNRESET, hint="it ended before it could serve; was it killed?")
            if record.kind is Kind.FAILED:
                raise explain(record.row, record.a)
            if record.kind is Kind.STARTED:
                self.pid = record.pid
                try:
                    self.pidfd = os.pidfd_open(record.pid)
                except ProcessLookupError:
                    continue  # dead already: what it has to say about that comes next
                if started is not None:
                    started(record.pid)
                    os.write(ends.go, bytes([fds.WORD_MADE]))
            elif record.kind is Kind.READY:
                break
        ends.close_one("go")

    @property
    def keeper_pid(self) -> int:
        """The keeper's pid: a child of this process, and the server's parent."""
        return self._keeper.pid

    def close(self) -> None:
        """End the server and with it all its runs, wait until nothing of them is left, reap the keeper; idempotent. A fork only lets go."""
        import signal

        self._drop()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()  # type: ignore[attr-defined]
        pidfd, self.pidfd = self.pidfd, -1
        here = os.getpid() == self.made_by
        if pidfd >= 0:
            try:
                if here:
                    # Not only by the end of the socket: a fork of this process may hold a copy.
                    signal.pidfd_send_signal(pidfd, _SIGKILL)
            except ProcessLookupError:
                pass
            os.close(pidfd)
        if here:
            self._keeper.close()
        else:
            self._keeper.pids.clear()
            if self._keeper.pidfd >= 0:
                os.close(self._keeper.pidfd)
                self._keeper.pidfd = -1
            self._keeper.descriptors.close()


def receive_record(channel: object) -> Record | None:
    """Take one record from a status socket with SO_PASSCRED; None at its end.

    Raises:
        SetupError: none comes.
        ProtocolError: what came is no record.
    """
    import _socket
    import select
    import struct

    assert isinstance(channel, _socket.socket)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    if not poll.poll(_START_MS):
        raise SetupError("start the server", errno.ETIMEDOUT)
    try:
        data, ancillary, _, _ = channel.recvmsg(RECORD.size, _socket.CMSG_SPACE(12))
    except ConnectionResetError:
        return None
    if not data:
        return None
    pid = next((struct.unpack_from("i", content)[0] for _, kind, content in ancillary if kind == _socket.SCM_CREDENTIALS), 0)
    record = decode_record(data, pid)
    if record is None:
        raise ProtocolError(f"the server sent {len(data)} bytes that are no record")
    return record


def clone_refusal(row: int, error: int) -> SetupError | None:
    """Return the error of a FAILED record that is the server's own (`codec.NO_ROW`), None for any other."""
    if row != NO_ROW:
        return None
    from sandbox.kernel.probe_userns import gather_userns_facts, userns_refusal_hint

    hint = userns_refusal_hint(error, gather_userns_facts(executor_command()[0])) or None
    return SetupError("clone3", error, step="clone init into new namespaces, by the server", hint=hint)


def _explain_plainly(row: int, error: int) -> SandboxError:
    return SetupError(f"row {row} of the server's table", error)
