"""What the supervisor takes over from a run that is being made: init, by a descriptor of that very process, and what the payload opened for us."""

from __future__ import annotations

import errno
import os

from sandbox.cgroup.none import parse_stat, read_stat
from sandbox.errors import ProtocolError, SetupError
from sandbox.kernel.calls import pidfd_getfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.codec import Record
    from sandbox.supervise.records import Collected
    from sandbox.supervise.reins import Reins
    from sandbox.supervise.watched import Watched


def take_init(watched: Watched, reins: Reins, pid: int, parent: int) -> bool:
    """Have a run by its init from now on; False when that process is gone, even if its number is somebody else's by now.

    Args:
        watched: of the run.
        reins: where its descriptor and its number are put.
        pid: init's number, as it was reported.
        parent: the janitor's; a server's is `watched.parent`.
    """
    reins.init_pid = pid
    reins.init, stat = _open_init(watched, pid, parent)
    if reins.init < 0:
        return False
    if watched.adopted is not None:
        watched.adopted(pid, stat)
    return True


def _open_init(watched: Watched, pid: int, parent: int) -> tuple[int, bytes]:
    """Return a pidfd and ``stat`` of that number if the janitor or server has it as a child, which only init is; else -1."""
    pidfd, content = -1, b""
    try:
        if watched.arrived is not None:
            pidfd, content = watched.arrived.take_init()
        if not content:
            if pidfd < 0:
                pidfd = os.pidfd_open(pid)
            content = read_stat(pid)
        stat = parse_stat(content)
        if stat is not None and stat.parent == (watched.parent or parent):
            return pidfd, content
    except (ProcessLookupError, FileNotFoundError):
        pass
    except BaseException:
        if pidfd >= 0:
            os.close(pidfd)
        raise
    if pidfd >= 0:
        os.close(pidfd)
    return -1, b""


def fetch_descriptors(watched: Watched, collected: Collected, record: Record) -> None:
    """Take the descriptors that a payload which is ready has for us: the listener, a terminal's master, a machine view's files.

    Raises:
        ProcessLookupError: it has ended meanwhile.
        SandboxError: it has what nobody asked for, or they may not be taken.
    """
    arrived = watched.arrived
    listener = arrived.take_listener() if arrived is not None else -1
    if listener >= 0:
        assert watched.listen is not None and watched.terminal is None
        collected.listener = watched.listen(listener)
        assert arrived is not None
        live = arrived.take_live()
        if live >= 0 and watched.machine is not None:
            watched.machine.take(live)
        elif live >= 0:
            os.close(live)
        return
    pidfd = os.pidfd_open(record.pid)
    try:
        if record.a >= 0:
            if watched.listen is None:
                raise ProtocolError("a listener that nobody asked for")
            collected.listener = watched.listen(pidfd_getfd(pidfd, record.a))
        if record.row and watched.machine is not None:
            _take_live(watched, pidfd, record.row)
        if record.b >= 0 and watched.terminal is not None:
            watched.pumps += watched.terminal(pidfd_getfd(pidfd, record.b))
    except PermissionError as error:
        raise SetupError(
            "fetch the audit's descriptor with pidfd_getfd", error.errno or errno.EPERM, step="audit",
            hint="kernel.yama.ptrace_scope 3 forbids it: `sysctl kernel.yama.ptrace_scope=1`",
        ) from None  # fmt: skip
    finally:
        os.close(pidfd)


def _take_live(watched: Watched, pidfd: int, number: int) -> None:
    """Take the tmpfs of live files. A fork of an interpreter has closed it, for it will not be closed by an execve: its files stay as they are."""
    assert watched.machine is not None
    try:
        watched.machine.take(pidfd_getfd(pidfd, number))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
