"""What a blocked system call waits for, and who alone can end it: the pure half of `waits`.

A call that is not in the table, or that has a time-out, proves nothing; nothing here guesses.
"""

from __future__ import annotations

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_name
from sandbox.enums import StrEnum
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Wait(StrEnum):
    """What a thread does.

    READS and WRITES wait for a pipe of the graph; OWN for something that only its own party can bring about; OPEN may go on by itself (a time-out, a
    timer, a descriptor of which we know nothing), and RUNS does.
    """

    READS = "reads"
    WRITES = "writes"
    OWN = "own"
    OPEN = "open"
    RUNS = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What one thread does, with the words for it."""

    wait: Wait
    words: str

    @property
    def stuck(self) -> bool:
        """Whether it can go on only when another thread or party does."""
        return self.wait in (Wait.READS, Wait.WRITES, Wait.OWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A blocked system call: its name, "" for one that no table has, and its six arguments."""

    name: str
    args: tuple[int, ...]


_RUNS = Waiting(wait=Wait.RUNS, words="runs")
_FUTEX_COMMAND = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_FUTEX_WAITS = (0, 6, 9, 11, 13)  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_INT = 0xFFFFFFFF
_STREAMS = {0: "stdin", 1: "stdout"}
# Where the pointer to a time-out is: with none the call waits for ever. Source: the man page of each.
_TIMEOUT_POINTER = {"ppoll": 2, "pselect6": 4, "select": 4, "epoll_pwait2": 3}
_TIMEOUT_INT = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}  # milliseconds, -1 waits for ever
_CHILDREN = ("wait4", "waitid")
_SIGNALS = ("pause", "rt_sigsuspend")  # not rt_sigtimedwait: it may wait for an alarm, and while it does the kernel does not show what was blocked
_QUIET_KINDS = ("pipe:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "/")
"""Descriptors that only the party's own threads, or a pipe of the graph, make ready: files and directories always are (what waits for one does not wait)."""


def parse_call(text: bytes, arch: Arch) -> Call | None:
    """Return the call of a /proc/PID/syscall file, None for a thread that runs, or does not wait in a call.

    Source: proc_pid_syscall(5).
    """
    words = text.split()
    if len(words) < 7 or not words[0].isdigit():
        return None
    return Call(name=syscall_name(arch, int(words[0])) or "", args=tuple(int(word, 16) for word in words[1:7]))


def explain(call: Call | None, kind_of: Callable[[int], str], kinds: Callable[[], tuple[str, ...] | None], graph: frozenset[str]) -> Waiting:
    """Return what a thread waits for.

    Args:
        call: what it is in, None for one that runs.
        kind_of: what a descriptor of its process is, as readlink(2) of /proc/PID/fd/N tells; "" for one that is not there.
        kinds: what all of them are; None where that cannot be told.
        graph: the pipes of the graph that this party holds, as ``pipe:[N]``.
    """
    if call is None:
        return _RUNS
    name, args = call.name, call.args
    if name in ("read", "readv", "write", "writev"):
        return _explain_transfer(name, args[0], kind_of(args[0]), graph)
    if name == "futex" and args[1] & _FUTEX_COMMAND in _FUTEX_WAITS:
        return _own("waits for another thread") if not args[3] else _open("waits for another thread, with a time-out")
    if name in _CHILDREN:
        return _own("waits for a child")
    if name in _SIGNALS:
        return _own("waits for a signal")
    if name in _TIMEOUT_POINTER or name in _TIMEOUT_INT:
        return _explain_poll(name, args, kinds(), graph)
    return _open(f"is in `{name}`" if name else "is in a system call that no table has")


def _explain_transfer(name: str, fd: int, kind: str, graph: frozenset[str]) -> Waiting:
    reads = name.startswith("read")
    if kind in graph:
        stream = _STREAMS.get(fd, f"descriptor {fd}")
        return Waiting(wait=Wait.READS if reads else Wait.WRITES, words=f"{'reads' if reads else 'writes to'} {stream}")
    if kind.startswith("pipe:"):
        return _own(f"{'reads from' if reads else 'writes to'} a pipe of its own")
    if reads and kind == "anon_inode:[eventfd]":
        return _own("waits for another thread")
    return _open(f"{'reads from' if reads else 'writes to'} `{kind or fd}`")


def _explain_poll(name: str, args: tuple[int, ...], kinds: tuple[str, ...] | None, graph: frozenset[str]) -> Waiting:
    timed = args[_TIMEOUT_POINTER[name]] != 0 if name in _TIMEOUT_POINTER else args[_TIMEOUT_INT[name]] & _INT < 1 << 31
    if timed:
        return _open(f"is in `{name}` with a time-out")
    if kinds is None:
        return _open(f"is in `{name}`, its descriptors cannot be told")
    # Not only those that it waits for, which only its memory tells: any of another kind could be one of them.
    for kind in kinds:
        if not kind.startswith(_QUIET_KINDS):
            return _open(f"is in `{name}` and has `{kind}`")
    if any(kind in graph for kind in kinds):
        return Waiting(wait=Wait.READS, words=f"waits for its streams in `{name}`")
    return _own(f"waits in `{name}`")


def _own(words: str) -> Waiting:
    return Waiting(wait=Wait.OWN, words=words)


def _open(words: str) -> Waiting:
    return Waiting(wait=Wait.OPEN, words=words)


# ---- threads that never run a program's own code ----------------------------------------------------------------

_JVM = ("VM Periodic Tas", "VM Thread", "Monitor Deflati", "Common-Cleaner", "Service Thread", "Sweeper thread", "Code Cache Swee", "process reaper")
_JVM_BEGIN = ("C1 Compiler", "C2 Compiler", "G1 ", "GC Thread", "Shenandoah", "ZGC", "XDriver", "ZDriver", "ZDirector", "ZStat", "ZUncommitter", "ZWorker")


def is_helper(program: str, thread: str) -> bool:
    """Whether a thread belongs to a runtime and never runs code of the program: its timed waits and its work lead nowhere.

    A program can give its own threads such names; then it is called stuck though that thread sleeps, and nobody but itself is harmed.

    Args:
        program: the last component of /proc/PID/exe.
        thread: its name as the kernel has it, 15 characters at most.
    """
    return program == "java" and (thread in _JVM or thread.startswith(_JVM_BEGIN))
