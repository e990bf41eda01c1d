"""Whoever looks for runs: reads entries, removes dead ones, asks the living, and ends a run whose supervisor does not answer.

Everything in the directory is taken for hostile: it is opened without following or waiting, read up to a bound, and believed only where
the kernel confirms it. One bad entry never hides another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import signal
import stat
import struct
import time
from collections.abc import Sequence

from sandbox.record import dataclass
from sandbox.registry.control import ANSWER_BYTES
from sandbox.registry.entry import SOCKET, open_by, start_ticks
from sandbox.registry.facts import MAXIMUM_BYTES, Facts, decode_facts, is_run_id, is_slot, parent_pid
from sandbox.registry.slot import SLOT_MAGIC, TURN

MAXIMUM_ENTRIES = 10_000
_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One living entry."""

    facts: Facts
    directory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What is in a directory: living entries, the oldest first, and the names that are none."""

    found: tuple[Found, ...]
    strange: tuple[str, ...]


def scan_place(directory: int, uid: int) -> Scan:
    """Read a place, and remove the entries of supervisors that are gone.

    Args:
        directory: a descriptor of it; borrowed, and kept in what is found.
        uid: whose place it is.
    """
    found: list[Found] = []
    strange: list[str] = []
    names = os.listdir(directory)
    present = set(names)
    for name in sorted(names)[:MAXIMUM_ENTRIES]:
        run_id = name.removesuffix(SOCKET)
        if not is_run_id(run_id):
            strange.append(name)
        elif name == run_id:
            facts = _read_living(directory, name, uid, strange)
            if facts is not None:
                found.append(Found(facts=facts, directory=directory))
        elif run_id not in present and not _exists(directory, run_id):
            _remove(directory, name)  # a file is made before its socket and removed after it, and no run's id comes twice
    strange += sorted(names)[MAXIMUM_ENTRIES:]
    return Scan(found=tuple(found), strange=tuple(strange))


def _read_living(directory: int, name: str, uid: int, strange: list[str]) -> Facts | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None  # it has just ended
    except OSError:  # a link, a socket
        strange.append(name)
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            strange.append(name)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            data = os.pread(fd, MAXIMUM_BYTES, 0)
            facts = decode_facts(data, name)
            if facts is None:
                # Between the making of an entry and its first bytes it is empty, and that is no fault; nor is a slot without a run.
                strange += [name] if status.st_size and not is_slot(data) else []
            elif facts.slot and not _same_turn(fd, facts):
                return None  # the run ended while we read
            return facts
        except OSError:  # a file system without locks
            strange.append(name)
            return None
        # Nobody has it: dead. We hold the lock, so that whoever made it this moment sees that it was taken away.
        _remove(directory, name + SOCKET)
        _remove(directory, name)
        return None
    finally:
        os.close(fd)


def _same_turn(fd: int, facts: Facts) -> bool:
    """Whether a slot has the same run still, so that all that was read is of that one."""
    return os.pread(fd, len(TURN.format(0)), len(SLOT_MAGIC)) == TURN.format(facts.turn).encode()


def _is_current(directory: int, facts: Facts) -> bool:
    """Whether a slot has that run now, looked at by its name."""
    try:
        fd = os.open(facts.slot, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        return _same_turn(fd, facts)
    finally:
        os.close(fd)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    except OSError:
        return False


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # another look was faster; a directory of that name is not ours to empty


class Line:
    """A connection to one supervisor.

    Args:
        found: whose.

    Attributes:
        supervisor: the pid that listens, as the kernel tells it.

    Raises:
        ConnectionRefusedError, FileNotFoundError: the run has ended.
        BlockingIOError: nobody takes the calls, and the queue is full.
        PermissionError: another user listens there.
    """

    def __init__(self, found: Found) -> None:
        import _socket

        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.connect(open_by(found.directory, found.facts.entry + SOCKET))
            if found.facts.slot and not _is_current(found.directory, found.facts):
                # The end of a run first changes the entry and then hangs up on all that have connected: whoever still reads the turn is one of these.
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the slot has another run, or none")
            raw = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size)
            self.supervisor, uid, _ = _UCRED.unpack(raw)
            if uid != os.fstat(found.directory).st_uid:
                raise PermissionError(errno.EPERM, "another user listens")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def send(self, request: str) -> None:
        """Send a request; what cannot be sent at once is lost and no answer will come."""
        try:
            self._socket.send(request.encode("ascii"))
        except OSError:
            pass

    def receive(self) -> str | None:
        """Return the answer that is there; an empty one when the run has ended, None when nothing has come."""
        try:
            return self._socket.recv(ANSWER_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return None
        except OSError:
            return ""

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def await_answer(line: Line, timeout_s: float) -> str | None:
    """Wait for one answer; an empty one when the run has ended, None when the time is over."""
    return ask_all([line], None, timeout_s)[0]


def ask_all(lines: Sequence[Line | None], request: str | None, timeout_s: float) -> list[str | None]:
    """Ask many at once, so that those who do not answer cost the time only once.

    Returns:
        the answers in the same order, as of `Line.receive`; None also for a line that is None.
    """
    answers: list[str | None] = [None] * len(lines)
    poll = select.poll()
    waiting = {}
    for index, line in enumerate(lines):
        if line is not None:
            if request is not None:
                line.send(request)
            waiting[line.fileno()] = (index, line)
            poll.register(line.fileno(), select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            index, line = waiting[fd]
            answers[index] = line.receive()
            if answers[index] is not None:
                poll.unregister(fd)
                del waiting[fd]
    return answers


def end_by_force(facts: Facts, supervisor: int) -> int:
    """Kill the init of a run whose supervisor does not answer; return a pidfd of it, to wait for, or -1 where it has ended already.

    The entry says which process the janitor is; it is believed only where the kernel says that this is a child of the process that listens, and started when
    the entry says: a number that went to somebody else, or one that a forged entry names, is left alone.

    Raises:
        ProcessLookupError: the entry names no janitor of this supervisor.
    """
    if facts.slot:
        return _end_served(facts, supervisor)
    pid, started = facts.janitor
    janitor = _open_checked(pid, parent=supervisor, started=started)
    if janitor < 0:
        raise ProcessLookupError(errno.ESRCH, "the entry names no child of the process that listens")
    try:
        children = _read(f"/proc/{pid}/task/{pid}/children")
        if children is None:  # a kernel without CONFIG_PROC_CHILDREN: init ends with its janitor
            signal.pidfd_send_signal(janitor, signal.SIGKILL)
            return os.dup(janitor)
        for word in children.split():
            init = _open_checked(int(word), parent=pid, started=0)
            if init >= 0:
                signal.pidfd_send_signal(init, signal.SIGKILL)
                _thaw(int(word))
                return init
        return -1
    finally:
        os.close(janitor)


def _end_served(facts: Facts, supervisor: int) -> int:
    """Do the same where a server has started init: keeper, server and init must each be the child of the one before."""
    if parent_pid(_read(f"/proc/{facts.keeper}/stat") or b"") != supervisor or parent_pid(_read(f"/proc/{facts.server}/stat") or b"") != facts.keeper:
        raise ProcessLookupError(errno.ESRCH, "the entry names no server of the process that listens")
    pid, started = facts.init
    if not started:
        raise ProcessLookupError(errno.ESRCH, "the run has not begun")
    init = _open_checked(pid, parent=facts.server, started=started)
    if init >= 0:
        signal.pidfd_send_signal(init, signal.SIGKILL)
        _thaw(pid)
    return init


def _open_checked(pid: int, *, parent: int, started: int) -> int:
    """Return a pidfd of a process if it is the one that is meant, else -1. The descriptor comes first: what is read then is of that process, or of nobody."""
    if pid <= 1 or parent <= 1:
        return -1
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    text = _read(f"/proc/{pid}/stat")
    if text is not None and parent_pid(text) == parent and (not started or start_ticks(text) == started):
        return pidfd
    os.close(pidfd)
    return -1


def _thaw(pid: int) -> None:
    """Let a process of a frozen cgroup of version 1 see its SIGKILL, which it does not before it is thawed (opencontainers/runc#3217)."""
    path = next(
        (found[1] for found in re.findall(rb"^\d+:([^:\n]*,)?freezer(?:,[^:\n]*)?:(/.*)$", _read(f"/proc/{pid}/cgroup") or b"", re.M)), None
    )
    if path is None or b"sandbox" not in path:  # only a run's own is ours to thaw
        return
    for line in (_read("/proc/self/mountinfo", 1 << 20) or b"").split(b"\n"):
        fields = line.split(b" ")
        if b" - cgroup " in line and b"freezer" in fields[-1].split(b","):
            try:
                fd = os.open(fields[4] + path + b"/freezer.state", os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.write(fd, b"THAWED")
            finally:
                os.close(fd)


def _read(path: str, maximum: int = 65536) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            parts = []
            while maximum > 0 and (part := file.read(maximum)):
                parts.append(part)
                maximum -= len(part)
            return b"".join(parts)
    except OSError:
        return None
