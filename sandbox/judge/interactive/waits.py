"""Who waits for whom: looks at every thread of a party, and what two of them prove.

A look reads /proc of the host. It is of one moment only in this sense: the numbers of context switches of every thread, init's included, are read with it,
and a thread that has not been switched out since then has not run. So when a second look finds the same threads with the same numbers, each blocked where
nobody but another of them (or we) can wake it, they were all blocked at once, and will be for ever. What the kernel would not tell, proves nothing.
"""

from __future__ import annotations

import os

from sandbox.abi.arch import native_arch
from sandbox.judge.interactive.calls import Wait, Waiting, explain, is_helper, parse_call
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAXIMUM_THREADS = 512
_MAXIMUM_DESCRIPTORS = 256
_SIGALRM_BIT = 1 << 13
_DEAD = (b"Z", b"X")

PF_EXITING = 0x4
"""Source: kernel include/linux/sched.h; field 9 of proc_pid_stat(5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One party at one moment.

    Attributes:
        waiting: what each of its threads does, runtimes' helpers left out.
        marks: the threads with how often they were switched out; equal marks mean that none has run.
        open_because: why it may go on by itself, "" when it cannot.
    """

    waiting: tuple[Waiting, ...] = ()
    marks: tuple[tuple[int, ...], ...] = ()
    open_because: str = ""

    @property
    def stuck(self) -> bool:
        """Whether nothing in it can go on before another party does."""
        return not self.open_because

    @property
    def runs(self) -> bool:
        """Whether one of its threads runs."""
        return any(each.wait is Wait.RUNS for each in self.waiting)

    @property
    def waits_for_others(self) -> bool:
        """Whether one of its threads waits for a pipe of the graph, and none runs."""
        return not self.runs and any(each.wait in (Wait.READS, Wait.WRITES) for each in self.waiting)

    @property
    def words(self) -> str:
        """What it waits for, after its name: of its threads the one that waits for another party."""
        for wait in (Wait.READS, Wait.WRITES, Wait.OPEN, Wait.OWN, Wait.RUNS):
            for each in self.waiting:
                if each.wait is wait:
                    return each.words
        return "has no thread"

    def unmoved_since(self, before: Look | None) -> bool:
        """Whether it was stuck at an earlier look already and none of its threads has run in between."""
        return before is not None and before.stuck and before.marks == self.marks


def look_at(pids: Sequence[int], graph: frozenset[str]) -> Look:
    """Look at every thread of one party.

    Args:
        pids: its processes, the sandbox's init first, as the host numbers them.
        graph: the pipes of the graph that it holds, as ``pipe:[N]``.
    """
    if not pids:
        return Look(open_because="it has ended")
    waiting: list[Waiting] = []
    marks: list[tuple[int, ...]] = []
    because, init = "", b""
    for index, pid in enumerate(pids):
        try:
            tasks = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
            if len(marks) + len(tasks) > _MAXIMUM_THREADS:
                return Look(waiting=tuple(waiting), open_because=f"it has more than {_MAXIMUM_THREADS} threads")
            if index == 0:
                for task in tasks:
                    status = _status(pid, task)
                    marks.append(_mark(pid, task, status))  # it wakes for whoever ends
                    init = status[b"Name"]
                continue
            because = because or _own_timers(pid)
            for task in tasks:
                because = _look_at_thread(pid, task, graph, init, waiting, marks) or because
        except (OSError, ValueError, KeyError) as error:
            return Look(waiting=tuple(waiting), open_because=f"it could not be looked at: {error}")
    if not waiting:
        because = because or "it is about to end"
    return Look(waiting=tuple(waiting), marks=tuple(marks), open_because=because)


def is_ending(pid: int) -> bool:
    """Whether a process has begun to end, or is gone. Its descriptors are closed only after that, so whoever sees them closed can ask.

    Every thread is asked: the first one may have left the others behind.
    """
    try:
        return all(_thread_is_ending(f"/proc/{pid}/task/{task}") for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return True


def _thread_is_ending(place: str) -> bool:
    try:
        fields = _read(f"{place}/stat").rpartition(b")")[2].split()
        return fields[0] in _DEAD or bool(int(fields[6]) & PF_EXITING)
    except (OSError, IndexError, ValueError):
        return True


def _look_at_thread(
    pid: int, task: str, graph: frozenset[str], init: bytes, waiting: list[Waiting], marks: list[tuple[int, ...]]
) -> str:  # fmt: skip
    """Add one thread; return why it may go on by itself, or nothing."""
    status = _status(pid, task)  # before the call: what blocks after this was read is switched out once more
    state, name = status.get(b"State", b"")[:1], status.get(b"Name", b"")
    if _is_starting(name, init):
        return "it is about to start"
    if state in _DEAD:
        marks.append((pid, int(task)))
        return ""
    if is_helper(os.path.basename(_link(f"/proc/{pid}/task/{task}/exe")), name.decode("utf-8", "replace")):
        return ""
    marks.append(_mark(pid, task, status))
    place = f"/proc/{pid}/task/{task}"  # a thread may have descriptors of its own
    call = parse_call(_read(f"{place}/syscall"), native_arch())
    seen = explain(call, lambda fd: _link(f"{place}/fd/{fd}"), lambda: _kinds(place), graph)
    if seen.stuck and state != b"S":  # what waits for a disk goes on by itself, and who stopped a thread lets it go on
        seen = Waiting(wait=Wait.RUNS, words="runs")
    waiting.append(seen)
    if not seen.stuck:
        return f"it {seen.words}"
    if int(status.get(b"SigCgt", b"0"), 16) & _SIGALRM_BIT:
        return "it handles SIGALRM, and the kernel does not tell whether an alarm is set"
    return ""


def _is_starting(name: bytes, init: bytes) -> bool:
    """Whether a process has not executed its program yet: it waits for a word of ours, and that is no pipe of its own."""
    return name == init


def _own_timers(pid: int) -> str:
    """Return that a process has timers of its own, or nothing. Source: proc_pid_timers(5)."""
    try:
        return "it has set a timer" if _read(f"/proc/{pid}/timers") else ""
    except FileNotFoundError:
        return "this kernel does not tell who has timers" if os.path.exists(f"/proc/{pid}/stat") else ""


def _kinds(place: str) -> tuple[str, ...] | None:
    names = os.listdir(f"{place}/fd")
    return tuple(_link(f"{place}/fd/{name}") for name in names) if len(names) <= _MAXIMUM_DESCRIPTORS else None


def _mark(pid: int, task: str, status: dict[bytes, bytes]) -> tuple[int, ...]:
    return pid, int(task), int(status[b"voluntary_ctxt_switches"]), int(status[b"nonvoluntary_ctxt_switches"])


def _status(pid: int, task: str) -> dict[bytes, bytes]:
    """Return the lines of proc_pid_status(5)."""
    lines = (line.partition(b":") for line in _read(f"/proc/{pid}/task/{task}/status").splitlines())
    return {key: value.strip() for key, _, value in lines}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
