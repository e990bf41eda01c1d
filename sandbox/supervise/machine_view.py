"""Keeps the files of a live machine view up to date, and answers sysinfo(2) and sched_getaffinity(2) in the kernel's place.

What is shown comes as values and one callable; nothing is decided here. The payload chooses when it calls and with which pointers: an answer
is written as the kernel would write it, into memory that the caller may write to, and to nobody else's. Nothing of this happens before somebody asks
or `_FIRST_NS` have passed, and measuring takes at most one part in `_SHARE` of a processor.

Source: sysinfo(2), sched_getaffinity(2), process_vm_readv(2), seccomp_unotify(2); kernel/sys.c, do_sysinfo; kernel/sched/syscalls.c.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from sandbox.kernel.calls import affinity_sizes, write_memory
from sandbox.kernel.seccomp_notify import answer_call, notification_is_valid, refuse_call
from sandbox.record import dataclass
from sandbox.supervise.records import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.kernel.seccomp_notify import Notification
    from sandbox.supervise.sampling import Sampling

_FIRST_NS = 200_000_000
_PERIOD_NS = 500_000_000
_FRESH_NS = 100_000_000  # how old the figures of an answer may be
_SHARE = 200
_SYSINFO = struct.Struct("=q3Q6QHH4x2QI4x")  # uptime, loads, total free shared buffer total-swap free-swap, procs, high memory, unit
_LOAD_SHIFT = 16  # SI_LOAD_SHIFT
_LOAD_SPANS = (60.0, 300.0, 900.0)
_GONE = -1
_ALL = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a run is shown.

    Attributes:
        processors: numbers, ascending.
        memory_bytes: all there is.
        calls: number, name and whether every call of it is answered.
        live: whether files are kept up to date.
        proc: whether a caller's pids are those of the procfs at its root; else every pid is taken to have the caller's own mask.
        origin_s: the host's uptime at which the clocks inside begin; None where they are to begin with the run.
        render: makes the files that change, by name.
        begin: makes those that are to be right from the start.
    """

    processors: tuple[int, ...]
    memory_bytes: int
    calls: tuple[tuple[int, str, bool], ...]
    live: bool
    proc: bool
    origin_s: int | None
    render: Callable[[Moment], Mapping[str, bytes]]
    begin: Callable[[Moment], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the run uses at a moment; `load` are averages over 1, 5 and 15 minutes of how many processors it kept busy."""

    uptime_ns: int = 0
    lived_ns: int = 0
    busy_ns: int = 0
    memory_bytes: int = 0
    file_bytes: int = 0
    kernel_bytes: int = 0
    processes: int = 1
    running: int = 1
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)
    boot_s: int = 0


class MachineState:
    """A run's figures as its view shows them, and the directory of its live files.

    Attributes:
        next_ns: when the files are to be written again, of CLOCK_MONOTONIC; None is never.
    """

    def __init__(self, shown: Shown, *, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self.shown = shown
        self.next_ns: int | None = None
        self.cost_ns = 0
        self.looks = 0
        self._monotonic = monotonic
        self._fd = -1
        self._stands = True
        self._sampling: Sampling | None = None
        self._began_ns = 0
        self._boot_s = 0
        self._looked_ns = 0
        self._busy_ns = 0
        self._load = (0.0, 0.0, 0.0)
        self._used = Moment()
        self._written: dict[str, bytes] = {}

    @property
    def stands(self) -> bool:
        """Whether files that were to be live stay, or stayed, as they were."""
        return self.shown.live and self._stands

    def take(self, fd: int) -> None:
        """Take the directory of the live files, as whoever may write to it has it."""
        self._fd = fd
        self._stands = False

    def begin(self, now_ns: int, sampling: Sampling) -> None:
        """The payload is let go; from now on `sampling` can be asked what it uses."""
        self._began_ns = self._looked_ns = now_ns
        self._sampling = sampling
        self._boot_s = int(time.time()) if self.shown.origin_s is None else 0
        if self._fd >= 0:
            self.next_ns = now_ns + _FIRST_NS
            self._begin_uptime(now_ns)

    def _begin_uptime(self, now_ns: int) -> None:
        """Write the one figure that is not what it will be after a moment: for whoever compares it with when a process was started."""
        try:
            for name, content in self.shown.begin(self._moment(now_ns)).items():
                self._write(name, content)
        except OSError:
            self._give_up()

    def look(self, now_ns: int) -> None:
        """Measure, and write what has changed to the files. Whatever goes wrong with them, the run goes on: then they say what they said."""
        self._measure(now_ns)
        began = time.thread_time_ns()
        try:
            for name, content in self.shown.render(self._moment(now_ns)).items():
                if self._written.get(name) != content:
                    self._write(name, content)
                    self._written[name] = content
        except OSError:
            self._give_up()
            return
        self.cost_ns += time.thread_time_ns() - began
        self.looks += 1
        self.next_ns = now_ns + max(_PERIOD_NS, _SHARE * self.cost_ns)

    def uptime_ns(self, now_ns: int) -> int:
        """Return how long the machine has been up."""
        if self.shown.origin_s is not None:
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.shown.origin_s * 1_000_000_000
        return now_ns - self._began_ns if self._began_ns else 0

    def now(self) -> Moment:
        """Return figures for an answer, measured anew where they are old, but not for every question."""
        now_ns = self._monotonic()
        if self.shown.live and self._sampling is not None and now_ns - self._looked_ns >= max(_FRESH_NS, _SHARE * self.cost_ns):
            self._measure(now_ns)
        return self._moment(now_ns)

    def close(self) -> None:
        """Let go of the files; idempotent."""
        self.next_ns = None
        self._sampling = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _give_up(self) -> None:
        self._stands = True
        self.next_ns = None

    def _moment(self, now_ns: int) -> Moment:
        used = self._used
        return Moment(
            uptime_ns=self.uptime_ns(now_ns), lived_ns=max(0, now_ns - self._began_ns), busy_ns=used.busy_ns, memory_bytes=used.memory_bytes,
            file_bytes=used.file_bytes, kernel_bytes=used.kernel_bytes, processes=used.processes, running=used.running, load=self._load,
            boot_s=self._boot_s,
        )  # fmt: skip

    def _measure(self, now_ns: int) -> None:
        if self._sampling is None:
            return
        began = time.thread_time_ns()
        at = self._sampling.describe(Snapshot(state="running", init_pid=0, wall_ns=0, paused_ns=0, output_bytes=0, denials=0))
        busy = max(self._busy_ns, at.cpu_ns or 0)
        passed = max(1, now_ns - self._looked_ns)
        working = (busy - self._busy_ns) / passed
        self._load = _decay(self._load, working, passed / 1e9)
        self._busy_ns, self._looked_ns = busy, now_ns
        processes = at.processes or 1
        self._used = Moment(
            busy_ns=busy, memory_bytes=min(at.memory_bytes or 0, self.shown.memory_bytes), file_bytes=at.memory_file_bytes or 0,
            kernel_bytes=at.memory_kernel_bytes or 0, processes=processes, running=max(1, min(processes, round(working))),
        )  # fmt: skip
        self.cost_ns = time.thread_time_ns() - began

    def _write(self, name: str, content: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            os.pwrite(fd, content, 0)
        finally:
            os.close(fd)


def _decay(load: tuple[float, float, float], working: float, passed_s: float) -> tuple[float, float, float]:
    """Return the averages after a time in which so many processors worked. Source: kernel/sched/loadavg.c."""
    kept = [0.5 ** (passed_s / (span * 0.6931471805599453)) for span in _LOAD_SPANS]
    one, five, fifteen = [before * keep + working * (1.0 - keep) for before, keep in zip(load, kept, strict=True)]
    return one, five, fifteen


class Emulator:
    """Answers the calls that a view covers, for one run's listener.

    Attributes:
        direct: numbers of calls that are answered whatever their arguments, so that the policy need not be asked.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._names = {number: name for number, name, _ in state.shown.calls}
        self.direct = frozenset(number for number, _, always in state.shown.calls if always)
        self._least, self._most = affinity_sizes()

    def answer(self, fd: int, notification: Notification) -> bool:
        """Answer one call; False when there is no such call any more.

        Raises:
            OSError: the listener itself does not work.
        """
        name = self._names.get(notification.number)
        if name == "sysinfo":
            error, value = self._sysinfo(fd, notification), 0
        elif name == "sched_getaffinity":
            error, value = self._affinity(fd, notification)
        else:
            error, value = errno.ENOSYS, 0
        if error == _GONE:
            return False
        return refuse_call(fd, notification.identity, error) if error else answer_call(fd, notification.identity, value)

    def _sysinfo(self, fd: int, notification: Notification) -> int:
        at = self._state.now()
        total = self._state.shown.memory_bytes
        data = _SYSINFO.pack(
            at.uptime_ns // 1_000_000_000, *[round(load * (1 << _LOAD_SHIFT)) % _ALL for load in at.load],
            total, max(0, total - at.memory_bytes), 0, 0, 0, 0, min(at.processes, 0xFFFF), 0, 0, 0, 1,
        )  # fmt: skip
        return _put(fd, notification, notification.args[0], data)

    def _affinity(self, fd: int, notification: Notification) -> tuple[int, int]:
        pid, size = notification.args[0] & 0xFFFF_FFFF, notification.args[1] & 0xFFFF_FFFF
        if size < self._least or size % 8:
            return errno.EINVAL, 0
        real = self._find_mask(notification, pid - (1 << 32) if pid >= 1 << 31 else pid)
        if not real:
            return errno.ESRCH, 0
        shown = self._state.shown.processors
        # As within a cpuset: what was set by sched_setaffinity(2), as far as it exists; whoever is only elsewhere is told the truth.
        numbers = [number for number in shown if number in real] or sorted(real)[: len(shown)]
        size = min(size, self._most)
        mask = sum(1 << number for number in numbers) & ((1 << 8 * size) - 1)
        return _put(fd, notification, notification.args[2], mask.to_bytes(size, "little")), size

    def _find_mask(self, notification: Notification, pid: int) -> set[int]:
        """Return the processors that a thread may be on, by its number inside; nothing for one that is not there."""
        shown = self._state.shown
        if pid < 0:
            return set()
        if pid and shown.proc:
            # Nobody inside can change the root, or what is mounted there; so this is the run's own procfs, and no FIFO of the payload's.
            status = _read(f"/proc/{notification.pid}/root/proc/{pid}/status")
            at = status.find(b"\nCpus_allowed_list:")
            if at >= 0:
                return set(_parse_list(status[at:].split(None, 2)[1]))
            return set(shown.processors) if pid == 1 else set()  # init lets nobody look at it
        try:
            return os.sched_getaffinity(notification.pid)
        except OSError:
            return set()


def _put(fd: int, notification: Notification, address: int, data: bytes) -> int:
    """Write to a caller's memory; return 0, what the call fails with, or `_GONE`.

    Not by /proc/PID/mem, which would write to what the caller itself may not. A number is somebody else's only after its owner has gone, so the
    caller is asked for directly before: all numbers would have to be used up between these two calls.
    """
    if notification.pid <= 0:
        return errno.EPERM
    if not notification_is_valid(fd, notification.identity):
        return _GONE
    try:
        written = write_memory(notification.pid, address, data)
    except OSError as error:
        return _GONE if error.errno == errno.ESRCH else error.errno or errno.EFAULT
    return 0 if written == len(data) else errno.EFAULT


def _parse_list(text: bytes) -> list[int]:
    numbers: list[int] = []
    for part in text.split(b","):
        first, _, last = part.partition(b"-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.read(fd, 8192)
    except OSError:
        return b""
    finally:
        os.close(fd)


__all__ = ["Emulator", "MachineState", "Moment", "Shown"]
