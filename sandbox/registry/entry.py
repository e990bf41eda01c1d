"""One run's entry: a small file that is locked while its supervisor lives, and a socket beside it.

The lock, not a number, says whether an entry is alive: the kernel lets go of it with the last process that has it, whatever killed that, and it means the same
in every pid namespace. What is in the file is for people, and for ending a run whose supervisor does not answer; nobody trusts it (see `registry.scan`).
Every run imports this: what only readers need is in `registry.facts`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = ".sock"
MAGIC = "sandbox-run 1\n"
JANITOR = "janitor {:10d} {:20d}\n"
COMMAND_BYTES = 2048
_TRIES = 20
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)  # open(2): no support by the file system, or by the kernel
_BACKLOG = 4096  # every look at a stopped supervisor stays in it


def encode_entry(run_id: str, *, name: str, profile: str, pid: int, began_ns: int, argv: Sequence[str]) -> bytes:
    """Return the file's bytes: lines of `key value`, then the command's words, each ended by a NUL; `facts.Facts` says what they are."""
    lines = [MAGIC, JANITOR.format(0, 0), f"run {run_id}\n", f"name {name}\n", f"profile {one_line(profile)}\n", f"pid {pid}\n"]
    head = "".join([*lines, f"began {began_ns}\n\n"])
    words = "".join(word + "\0" for word in argv)
    return head.encode("utf-8", "surrogateescape") + words.encode("utf-8", "surrogateescape")[:COMMAND_BYTES]


def entry_names(run_id: str) -> tuple[str, str]:
    """Return the files of a run's entry, in the order in which they are to be removed: whoever finds the first of them alone may remove it."""
    return run_id + SOCKET, run_id


class Registration:
    """The entry of a run of ours.

    Args:
        directory: where entries are; taken.
        run_id: the run's id.
        content: of `encode_entry`.

    Attributes:
        directory: the same descriptor, until `close`.
        names: of `entry_names`.
        listener: a listening SOCK_SEQPACKET socket.

    Raises:
        OSError: it cannot be made; nothing of it is left.
    """

    def __init__(self, directory: int, run_id: str, content: bytes) -> None:
        self.directory = directory
        self.names = entry_names(run_id)
        self.listener = -1
        self._file = -1
        try:
            self._file = _make_locked(directory, run_id)
            self.listener = _listen(directory, self.names[0])
            os.write(self._file, content)  # last: whoever reads it may call at once
        except BaseException:
            self.close()
            raise

    def write(self, content: bytes, at: int) -> None:
        """Change a part of the file.

        Raises:
            OSError: not all of it could be written.
        """
        if os.pwrite(self._file, content, at) != len(content):
            raise OSError(errno.ENOSPC, "write an entry")

    def publish(self, janitor: int) -> None:
        """Add the janitor, a child of ours that has not been waited for."""
        try:
            with open(f"/proc/{janitor}/stat", "rb", buffering=0) as file:
                started = start_ticks(file.read(4096))
        except OSError:
            started = 0  # a /proc that hides even our children: the run can be ended by its supervisor only
        if started:
            try:
                os.pwrite(self._file, JANITOR.format(janitor, started).encode(), len(MAGIC))
            except OSError:
                pass  # likewise

    def forget(self) -> None:
        """Let go and remove nothing, in a fork: the entry is its parent's."""
        for fd in (self.listener, self._file, self.directory):
            if fd >= 0:
                os.close(fd)
        self.directory = self.listener = self._file = -1

    def close(self) -> None:
        """Remove what is still there and let go; idempotent."""
        if self.directory >= 0:
            if self._file >= 0:  # else the names may be somebody else's
                for name in self.names:
                    try:
                        os.unlink(name, dir_fd=self.directory)
                    except OSError:
                        pass  # the janitor has removed it, or whoever removed the directory
            for fd in (self.listener, self._file, self.directory):
                if fd >= 0:
                    os.close(fd)
            self.directory = self.listener = self._file = -1


def start_ticks(stat: bytes) -> int:
    """Return when a process started, in clock ticks since boot, from its /proc/PID/stat; 0 where that is malformed.

    Source: proc_pid_stat(5), field 22; the name in field 2 may contain anything, so the last parenthesis ends it.
    """
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else 0


def open_by(directory: int, name: str) -> str:
    """Return a path of at most 107 bytes for bind(2) and connect(2), whose way cannot be changed meanwhile."""
    return f"/proc/self/fd/{directory}/{name}"


def monotonic_ns() -> int:
    """Return CLOCK_MONOTONIC, in which an entry's `began` is."""
    return time.monotonic_ns()


def _make_locked(directory: int, name: str) -> int:
    """Make a file that has its name only once it is locked: whoever sweeps may lock, and then remove, what it finds unlocked."""
    try:
        fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        return _make_visible(directory, name)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_visible(directory: int, name: str) -> int:
    """Make it where a file cannot be nameless (overlayfs before Linux 6.1, NFS): whoever sweeps between its making and its lock takes it away.

    The lock is waited for, so that the sweep has removed its find, and not the next file of that name.
    """
    for _ in range(_TRIES):
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=directory)
            raise
        os.close(fd)
    raise BlockingIOError(11, "it is taken away again and again")


def _listen(directory: int, name: str) -> int:
    import _socket

    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0)
    made.bind(open_by(directory, name))
    made.listen(_BACKLOG)
    return made.detach()


def one_line(text: str) -> str:
    """Return a text without what would end a line."""
    return "".join(one if one.isprintable() else "?" for one in text)
