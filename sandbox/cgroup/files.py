"""Reading, writing and removing cgroup files by directory fd, with errors that name the file.

The backends of this room import it, nobody else. No limits are known here.
"""

from __future__ import annotations

import errno
import os
import re
import select
import time

from sandbox.errors import InternalError, SetupError, UnsupportedError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
UNLIMITED_BYTES = (1 << 63) - PAGE_BYTES
"""PAGE_COUNTER_MAX in bytes: v1 reads this, v2 reads ``max``. Source: kernel include/linux/page_counter.h."""

_REMOVE_TIMEOUT_S = 2.0
_RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


class NodeFiles:
    """The control files of one cgroup, addressed as `relative` below the directory `fd`.

    Args:
        fd: an O_PATH directory; borrowed.
        relative: the cgroup below it.
        shown: the path of `fd` for messages.
    """

    __slots__ = ("fd", "relative", "shown")

    def __init__(self, fd: int, relative: str, shown: str) -> None:
        self.fd = fd
        self.relative = relative
        self.shown = shown

    def path(self, name: str) -> str:
        """Return the full path of a control file, for messages."""
        return f"{self.shown}/{self.relative}/{name}" if self.relative else f"{self.shown}/{name}"

    def open(self, name: str, flags: int) -> int:
        """Open a control file; the caller owns the fd.

        Raises:
            SetupError: the file cannot be opened.
        """
        try:
            return os.open(f"{self.relative}/{name}" if self.relative else name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        except OSError as error:
            raise SetupError(f"open `{self.path(name)}`", error.errno or errno.EIO, step="cgroup") from None

    def read(self, name: str) -> str:
        """Return the content of a control file.

        Raises:
            SetupError: it cannot be opened or read.
        """
        fd = self.open(name, os.O_RDONLY)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
            return b"".join(parts).decode("ascii", "replace")
        except OSError as error:
            raise SetupError(f"read `{self.path(name)}`", error.errno or errno.EIO, step="cgroup") from None
        finally:
            os.close(fd)

    def read_optional(self, name: str) -> str | None:
        """Return the content of a control file that older kernels do not have, else None."""
        try:
            return self.read(name)
        except SetupError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise

    def write(self, name: str, value: str) -> None:
        """Write a control file in one call.

        Raises:
            SetupError: it cannot be opened, or the kernel refuses the value.
        """
        fd = self.open(name, os.O_WRONLY)
        try:
            os.write(fd, value.encode("ascii"))
        except OSError as error:
            raise SetupError(f"write `{value}` to `{self.path(name)}`", error.errno or errno.EIO, step="cgroup") from None
        finally:
            os.close(fd)

    def write_optional(self, name: str, value: str) -> bool:
        """Write a control file that some kernels do not have; return whether it was there."""
        try:
            self.write(name, value)
        except SetupError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def write_limit(self, name: str, value: int, *, needed_by: str, page: bool) -> None:
        """Write a limit and read it back: a limit that did not take effect must not be reported as enforced.

        Args:
            name: the control file.
            value: bytes or a count.
            needed_by: the profile key, for the message.
            page: whether the kernel rounds down to whole pages.

        Raises:
            UnsupportedError: the file reads otherwise than written.
        """
        self.write(name, str(value))
        wanted = value - value % PAGE_BYTES if page else value
        text = self.read(name).strip()
        if text == "max":
            got = UNLIMITED_BYTES if page else -1
        else:
            got = int(text) if text.isdecimal() else -1
        if got != wanted:
            raise UnsupportedError(
                f"`{name}`", needed_by, reason=f"`{self.path(name)}` reads `{text}` after `{value}` was written", origin="cgroup"
            )

    def write_exact(self, name: str, value: str, *, needed_by: str, read: str | None = None, expected: str | None = None) -> None:
        """Write a setting and read it back, where it must be to the letter.

        Args:
            name: the control file.
            value: what to write.
            needed_by: the profile key, for the message.
            read: the file that tells what is in effect; default the same.
            expected: what must be in a line of its own there; default `value`.

        Raises:
            UnsupportedError: the kernel refuses the value, or it did not take effect as written.
        """
        read, expected = read or name, value if expected is None else expected
        try:
            self.write(name, value)
        except SetupError as error:
            if error.errno not in (errno.EINVAL, errno.ERANGE, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP):
                raise
            reason = f"the kernel does not take `{value}` in `{self.path(name)}`: {os.strerror(error.errno)}"
            raise UnsupportedError(f"`{name}`", needed_by, reason=reason, origin="cgroup") from None
        text = self.read(read)
        if expected not in (line.strip() for line in text.splitlines()):
            reason = f"`{self.path(read)}` reads `{text.strip()}` after `{value}` was written"
            raise UnsupportedError(f"`{name}`", needed_by, reason=reason, origin="cgroup")


def check_run_id(run_id: str) -> str:
    """Return `run_id` when it is fit to be a directory name; anything with a slash could leave our directory.

    Raises:
        InternalError: it is not; run ids are made by us.
    """
    if _RUN_ID.fullmatch(run_id) is None:
        raise InternalError(f"run id `{run_id}` is not a plain name")
    return run_id


def open_directory(path: str) -> int:
    """Open a directory O_PATH|O_CLOEXEC without following a link in its last part; the caller owns the fd.

    Raises:
        SetupError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise SetupError(f"open `{path}`", error.errno or errno.EIO, step="cgroup") from None


def parse_keyed(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file such as cpu.stat; lines of another shape are skipped."""
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 2 and parts[1].isdecimal():
            found[parts[0]] = int(parts[1])
    return found


def parse_pids(text: str) -> tuple[int, ...]:
    """Return the pids of a cgroup.procs file; 0 (a process of another pid namespace) is kept."""
    return tuple(int(word) for word in text.split() if word.isdecimal())


def parse_number(text: str | None) -> int | None:
    """Return the number of a single-value file, or None for a missing file, ``max`` and anything else."""
    if text is None:
        return None
    text = text.strip()
    return int(text) if text.isdecimal() else None


def parse_pressure(text: str | None) -> int | None:
    """Return the ``some`` total of a pressure file in nanoseconds; None for a missing file. Source: kernel Documentation/accounting/psi.rst."""
    for line in (text or "").splitlines():
        if line.startswith("some "):
            total = line.rpartition(" total=")[2]
            return int(total) * 1000 if total.isdecimal() else None
    return None


def parse_io_stat(text: str) -> tuple[int, int]:
    """Return the bytes read and written of all devices in io.stat, lines of ``MAJOR:MINOR rbytes=N wbytes=N …``."""
    read = written = 0
    for word in text.split():
        name, _, value = word.partition("=")
        if value.isdecimal():
            read += int(value) if name == "rbytes" else 0
            written += int(value) if name == "wbytes" else 0
    return read, written


def parse_io_service(text: str) -> tuple[int, int]:
    """Return the bytes read and written of all devices in blkio.throttle.io_service_bytes, lines of ``MAJOR:MINOR Read N``."""
    read = written = 0
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[2].isdecimal():
            read += int(parts[2]) if parts[1] == "Read" else 0
            written += int(parts[2]) if parts[1] == "Write" else 0
    return read, written


def swap_in_use() -> bool:
    """Return whether the host has swap; when it can't be read, the answer that claims less."""
    try:
        with open("/proc/swaps", "rb") as file:
            return len(file.read().splitlines()) > 1
    except OSError:
        return True


def remove_shared(fd: int, relative: str) -> None:
    """Remove a shared parent when nobody uses it; that somebody does is no error.

    Args:
        fd: the directory that `relative` starts from; borrowed.
        relative: the shared directory.
    """
    try:
        os.rmdir(relative, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBUSY, errno.ENOTEMPTY):
            raise SetupError(f"rmdir `{relative}`", error.errno or errno.EIO, step="cgroup") from None


def remove_run(node: NodeFiles) -> None:
    """Remove a run's directory, waiting up to two seconds for members that are still dying; gone already is success.

    Raises:
        SetupError: it cannot be removed; EBUSY when a member outlived the wait.
    """
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while True:
        try:
            os.rmdir(node.relative, dir_fd=node.fd)
            return
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise SetupError(f"rmdir `{node.path('').rstrip('/')}`", error.errno or errno.EIO, step="cgroup") from None
        _wait_for_change(node, max(0.0, deadline - time.monotonic()))


def _wait_for_change(node: NodeFiles, timeout_s: float) -> None:
    """Block until a member ends (pidfd) or v2 reports a change (POLLPRI); where neither can be watched, for a millisecond."""
    poll = select.poll()
    opened: list[int] = []
    try:
        events = _open_quietly(node, "cgroup.events")
        if events is not None:
            opened.append(events)
            if parse_keyed(os.read(events, 4096).decode("ascii", "replace")).get("populated") == 0:
                return
            poll.register(events, select.POLLPRI)
        else:
            try:
                members = parse_pids(node.read("cgroup.procs"))
            except SetupError:
                members = ()
            for pid in members[:64]:
                try:
                    opened.append(os.pidfd_open(pid))
                except OSError:  # gone, or of another pid namespace
                    continue
                poll.register(opened[-1], select.POLLIN)
        if not opened or poll.poll(timeout_s * 1000):
            # An event came, or nothing can be watched: the last steps of an exit take microseconds and have no event.
            time.sleep(0.001)
    finally:
        for fd in opened:
            os.close(fd)


def _open_quietly(node: NodeFiles, name: str) -> int | None:
    try:
        return node.open(name, os.O_RDONLY)
    except SetupError:
        return None
