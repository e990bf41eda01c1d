"""Who uses a volume: an entry for each run, locked for as long as anything of the run lives; and whether one more may.

As with the registry's entries, the lock and no number says whether an entry is alive. It is taken on a description that the run's janitor holds as well, so a
SIGKILL of the caller frees it when the janitor has ended the run, and not earlier; the program inside has neither the descriptor nor a way to the file.
Whoever decides something about a volume holds its mutex meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from sandbox.errors import SandboxError
from sandbox.record import dataclass
from sandbox.volumes.place import LOCK, RUNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST = "sandbox-use 1"
_ENTRY_BYTES = 4096
_STEP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One run's use of a volume; `locked`: it keeps writers out, other readers too if it writes. `entry` is the file's name."""

    run_id: str
    name: str = ""
    pid: int = 0
    writable: bool
    locked: bool = False
    began_ns: int = 0
    entry: str = ""


class VolumeInUse(SandboxError):
    """Another run keeps the volume. `uses` are those that do."""

    def __init__(self, message: str, *, uses: Sequence[Use], origin: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, origin=origin, hint=hint)
        self.uses = tuple(uses)


def take_mutex(volume: int, *, wait: bool = True) -> int:
    """Wait for a volume's mutex and return its descriptor, whose closing lets go; without `wait` -1 where somebody has it."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=volume)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd


def find_uses(volume: int, *, sweep: bool = True) -> list[Use]:
    """Return who uses a volume, and with `sweep` remove the entries of those that are gone; the caller has the mutex then."""
    found = []
    directory = os.open(RUNS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=volume)
    try:
        for name in sorted(os.listdir(directory)):
            use = _read_living(directory, name, sweep)
            if use is not None:
                found.append(use)
    finally:
        os.close(directory)
    return found


def _read_living(directory: int, name: str, sweep: bool) -> Use | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _decode(os.pread(fd, _ENTRY_BYTES, 0), name)
        try:
            if sweep:
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass  # its run was faster
        return None
    finally:
        os.close(fd)


def conflicts(wanted: Use, uses: Sequence[Use]) -> list[Use]:
    """Return the uses that do not go together with one more.

    Whoever has locked a volume is alone in writing to it, or, if it only reads, has nobody writing. Who only reads and locks nothing is never in the way.
    """
    return [use for use in uses if (wanted.writable and use.locked) or (wanted.locked and use.writable)]


def register(volume: int, use: Use) -> int:
    """Make a use's entry and return its locked descriptor, which the run is to hold; the caller has the mutex.

    Raises:
        OSError: it cannot be made; nothing of it is left.
    """
    directory = os.open(RUNS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=volume)
    try:
        return _make_locked(directory, use.entry, _encode(use))
    finally:
        os.close(directory)


def unregister(volume: int, fd: int, entry: str) -> None:
    """Remove an entry and let go of it, in this process."""
    try:
        os.unlink(f"{RUNS}/{entry}", dir_fd=volume)
    except OSError:
        pass  # removed by whoever came after the end of the run
    os.close(fd)


def _make_locked(directory: int, name: str, content: bytes) -> int:
    """Make a file that has its name only when it is locked and whole, where the file system can do that; else nobody looks without the mutex, which we have."""
    try:
        fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
        link = True
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        link = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, content)
        if link:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def await_end(volume: int, use: Use, deadline_ns: int, wakes: Sequence[int] = ()) -> bool:
    """Wait until a use has ended; return whether it has by then. The caller does not have the mutex.

    Args:
        volume: descriptor; borrowed.
        use: what is in the way.
        deadline_ns: CLOCK_MONOTONIC.
        wakes: descriptors, borrowed; when one is readable nobody wants to wait any more.

    Raises:
        SandboxError: one of `wakes` was readable.
    """
    try:
        fd = os.open(f"{RUNS}/{use.entry}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=volume)
    except FileNotFoundError:
        return True
    step = 0.005
    poll = select.poll()
    for wake in wakes:
        poll.register(wake, select.POLLIN)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                left = (deadline_ns - time.monotonic_ns()) / 1e9
                if left <= 0:
                    return False
                # A lock has no descriptor that tells of its end.
                if poll.poll(min(step, left) * 1000):
                    raise SandboxError("the run was ended while it waited for a volume") from None
                step = min(2 * step, _STEP_S)
    finally:
        os.close(fd)


def describe_uses(uses: Sequence[Use]) -> str:
    """Return the runs in words: ``run `19ad-…` (`build`), which writes to it``."""
    shown = []
    for use in uses[:3]:
        name = f" (`{use.name}`)" if use.name else ""
        what = ("has it locked" if use.locked else "uses it") + (" and writes to it" if use.writable else " and only reads")
        shown.append(f"run `{use.run_id}`{name}, which {what}")
    return "; ".join(shown) + (f"; and {len(uses) - 3} more" if len(uses) > 3 else "")


def _encode(use: Use) -> bytes:
    lines = [_FIRST, f"run {use.run_id}", f"name {use.name}", f"pid {use.pid}", f"began {use.began_ns}"]
    lines += [f"writable {int(use.writable)}", f"locked {int(use.locked)}"]
    return ("\n".join(lines) + "\n").encode()


def _decode(content: bytes, entry: str) -> Use:
    """Return what an entry says; of one that says nothing that we know, the strictest."""
    first, *lines = content.decode("utf-8", "replace").split("\n")
    fields = dict(line.partition(" ")[::2] for line in lines)
    try:
        if first != _FIRST:
            raise ValueError
        return Use(
            run_id=fields["run"], name=fields["name"], pid=int(fields["pid"]), began_ns=int(fields["began"]), entry=entry,
            writable=fields["writable"] != "0", locked=fields["locked"] != "0",
        )  # fmt: skip
    except (KeyError, ValueError):
        return Use(run_id=entry, writable=True, locked=True, entry=entry)


__all__ = ["Use", "VolumeInUse", "await_end", "conflicts", "describe_uses", "find_uses", "register", "take_mutex", "unregister"]
