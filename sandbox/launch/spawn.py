"""Start an executor with its table and descriptors; the user's own process is never forked.

posix_spawn(3) shares memory until the exec, so it costs the same from a 10 MB and a 10 GB caller and is safe with threads.
May import plan, kernel, abi. Knows nothing of policies, profiles and limits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from sandbox.errors import SandboxError, SetupError
from sandbox.launch.shield import SIGNALS, Shield
from sandbox.plan import fds
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from functools import partial
    from types import TracebackType

    from sandbox.launch.anchor import Anchor
    from sandbox.plan.codec import Table
else:
    from _functools import partial

NATIVE = os.path.join(os.path.dirname(__file__), "native", "sandbox-init")  # no pathlib: its import costs more than a launch
REFERENCE = os.path.join(os.path.dirname(__file__), "executor.py")
EXECUTORS = ("auto", "native", "python")

_LOW = 64  # descriptors are moved above this before dup2, so that no source is overwritten by a target
_F_ADD_SEALS, _SEALS = 1033, 0xF  # seal, shrink, grow, write


@dataclass(slots=True)
class Descriptors:
    """The parent's and the child's ends of everything that connects the two; closed by `close`.

    `stdin`, `stdout`, `stderr` are the child's ends. `extra` are borrowed.
    """

    status: int
    go: int
    control: int
    release: int

    def close(self) -> None:
        """Close the parent's ends; what is already closed is -1."""
        for name in ("status", "go", "control", "release"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def close_one(self, name: str) -> None:
        """Close one parent's end."""
        fd = getattr(self, name)
        if fd >= 0:
            setattr(self, name, -1)
            os.close(fd)


class Launched:
    """A janitor: its pid and pidfd, and the parent's ends. Empty until `spawn` fills it.

    It is there before the janitor, so that an interrupt at any moment finds somebody who ends what was started. Blocked signals are not enough: another
    thread may take them, and Python runs the handler in the main thread all the same.
    """

    __slots__ = ("descriptors", "pidfd", "pids")

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.pidfd = -1
        self.descriptors = Descriptors(status=-1, go=-1, control=-1, release=-1)

    @property
    def pid(self) -> int:
        """The janitor's pid, 0 before `spawn`."""
        return self.pids[0] if self.pids else 0

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything, which kills what still runs, and reap the janitor; signals wait meanwhile, or an interrupt would leave a part of it.

        Idempotent: what an interrupt raises before they wait, at the entrance, leaves all of it, and it is done then.
        """
        try:
            self._close()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        with Shield():
            if self.pidfd < 0 and self.descriptors.go >= 0:
                try:
                    os.write(self.descriptors.go, bytes([fds.WORD_STOP]))
                except OSError:
                    pass
            if self.descriptors.release >= 0:
                try:
                    os.write(self.descriptors.release, bytes([fds.WORD_RELEASE]))
                except OSError:
                    pass  # it is gone already
            self.descriptors.close()
            pidfd, self.pidfd = self.pidfd, -1
            if pidfd >= 0:
                try:
                    # Not by number: that may be another child's, if the caller's own SIGCHLD handling was faster.
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
                except ChildProcessError:
                    pass
                os.close(pidfd)
            elif self.pids:  # it was never supervised
                try:
                    os.waitpid(self.pids[0], 0)
                except ChildProcessError:
                    pass
            self.pids.clear()


def executor_command(kind: str = "auto") -> list[str]:
    """Return the command line of an executor.

    Args:
        kind: ``native``, ``python`` (the reference), or ``auto``: native where it was built.

    Raises:
        SandboxError: `kind` is none of these, or `native` is not there.
    """
    if kind not in EXECUTORS:
        raise SandboxError(f"unknown executor `{kind}`", hint=f"one of {', '.join(EXECUTORS)}")
    if kind != "python" and os.access(NATIVE, os.X_OK):
        return [NATIVE]
    if kind == "native":
        raise SandboxError(f"native executor `{NATIVE}` is not built", hint="reinstall with a C compiler present, or run `./dev setup`")
    return [sys.executable, "-I", "-S", REFERENCE]


class Owned:
    """Context manager: descriptors that are closed at the end; called with one, it takes and returns it."""

    __slots__ = ("_fds",)

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __call__(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def __enter__(self) -> Owned:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for fd in self._fds:
            os.close(fd)


def sealed_memory(table: Table) -> int:
    """Return a memory file with the table that nobody can change any more; the caller owns it."""
    memory = os.memfd_create("table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(table.data)
        fcntl.fcntl(memory, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def spawn_executor(command: list[str], title: str, wanted: Mapping[int, int], pids: list[int]) -> None:
    """Start a program with an empty environment, all signals blocked, and descriptors by (number there → ours, borrowed); add its pid to `pids`."""
    with Owned() as own:
        low = max(_LOW, 1 + max(wanted))
        try:
            moved = {target: own(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, low)) for target, fd in wanted.items()}
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EMFILE):  # the first where the limit is below the number itself
                raise
            hint = f"it needs numbers up to {low + len(wanted)} for its descriptors: `ulimit -n`"
            raise SetupError("start the sandbox", errno.EMFILE, hint=hint) from None
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in moved.items()]
        start = partial(os.posix_spawn, file_actions=actions, setsigdef=SIGNALS, setsigmask=SIGNALS)
        # In one step for the interpreter: an exception of a signal handler cannot come between the start and the note of it.
        pids.extend(map(start, (command[0],), ([title, *command[1:]],), ({},)))


def spawn(
    launched: Launched,
    table: Table,
    *,
    stdio: tuple[int, int, int],
    extra: tuple[int, ...] = (),
    executor: str = "auto",
    anchor: Anchor | None = None,
) -> None:
    """Start the executor.

    Args:
        launched: an empty one, filled as things come to be; whatever happens, close it.
        table: what it will run.
        stdio: the payload's standard streams; borrowed.
        extra: descriptors for `fds.FIRST_EXTRA` and up; borrowed.
        executor: see `executor_command`; ignored with an anchor.
        anchor: who starts it, in the cgroup where that one is; None for this process itself.
    """
    import _socket

    owned: list[int] = []

    def own(fd: int) -> int:
        owned.append(fd)
        return fd

    ends = launched.descriptors
    try:
        memory = own(sealed_memory(table))
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        ends.status = ours.detach()
        status_child = own(theirs.detach())
        go_r, ends.go = os.pipe2(os.O_CLOEXEC)
        own(go_r)
        control_r, ends.control = os.pipe2(os.O_CLOEXEC)
        own(control_r)
        release_r, ends.release = os.pipe2(os.O_CLOEXEC)
        own(release_r)
        supervisor = own(os.pidfd_open(os.getpid()))
        wanted = (*stdio, memory, status_child, go_r, control_r, supervisor, release_r, *extra)
        assert wanted.index(memory) == fds.TABLE and wanted.index(release_r) == fds.RELEASE
        if anchor is not None:
            launched.pids.append(anchor.spawn(list(wanted)))
        else:
            spawn_executor(executor_command(executor), "sandbox-init", dict(enumerate(wanted)), launched.pids)
        launched.pidfd = os.pidfd_open(launched.pid)
    finally:
        for fd in owned:
            os.close(fd)
