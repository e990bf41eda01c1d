"""What is left where there is no cgroup: rlimits of each process, and a sampler that adds up the tree.

`supervise` samples and kills, `plan` turns the rlimits into rows, `api` copies `fallback_enforcements` into the result. Nothing here
blocks or kills. It is weaker than a cgroup, and `fallback_enforcements` says in which way:

- The kernel enforces nothing over the sum of the processes' memory; between two samples the tree may pass its limit.
- Pages that nobody maps are not seen: memfd or SysV segments that were written and unmapped, socket and pipe buffers. The caps of
  each tmpfs bound files; memfd_create and shmget must be refused by the policy where the bound shall hold.
- CPU time of a process whose parent ignores SIGCHLD vanishes when it ends (the kernel adds it to nobody). Once samples prove
  that it does, it is estimated (`unheeded`); until then the wall limit is what bounds that.
"""

from __future__ import annotations

import os
import time

from sandbox.cgroup.unheeded import Seen, Unheeded
from sandbox.record import dataclass
from sandbox.result import Enforcement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.profile import Limits

RLIMIT_CPU, RLIMIT_DATA, RLIMIT_NPROC = 0, 2, 6  # asm-generic/resource.h: the same on x86-64 and arm64

DATA_FACTOR = 2
"""How far RLIMIT_DATA lies above the memory limit.

RLIMIT_AS is unusable: it counts reserved address space, and java reserves 8.8 GB, node 0.7 GB, 50 glibc threads 1.3 GB with 4 MB
touched; node dies at once under 512 MiB, java under 2 GiB. RLIMIT_DATA counts private writable pages only (java 0.5 GB, node
47 MB), but those too before they are touched: java's first heap needs 2 x 256 MiB. Twice the limit lets every program start that a
cgroup of that size would let start, and still stops one process from running far away between two samples.
"""

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_STATUS = (b"RssAnon:", b"RssShmem:", b"VmPTE:", b"VmSwap:")
_MAPPED = (b"RssFile:",)
_ROLLUP = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
_TABLES = (b"VmPTE:",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the tree.

    Attributes:
        processes: the payload's processes, without our init; zombies count.
        threads: their threads.
        rss_bytes: anonymous, mapped shared, swapped-out and page-table memory. Pages that forked processes still share count once for
            each, so it is never too low for mapped memory; ask `TreeSampler.proportional_bytes` before killing for it.
        file_bytes: mapped file pages of the payload's process that has most of them; no limit counts them.
        table_bytes: page tables of the payload's process that has most memory.
        truncated: more processes than the bound: the figures are lower bounds and the tree is over any sensible limit.
    """

    processes: int
    threads: int
    rss_bytes: int
    file_bytes: int
    table_bytes: int
    truncated: bool


class TreeSampler:
    """Adds up the processes below one init by /proc; costs about 90 us for each process, so pace it by what it took.

    A pid may vanish, or be reused, between two reads; figures of one moment may therefore miss a process that moved in the tree, and
    the next sample has it again. Nothing is ever signalled by these pids.

    Args:
        pid: the sandbox's init, as the host sees it, not yet reaped.
        proc: where the host's procfs is mounted.
        max_pids: the most processes and threads to read in one sample; a run has far fewer.
    """

    def __init__(self, pid: int, *, proc: str = "/proc", max_pids: int = 4096) -> None:
        self._pid = pid
        self._proc = proc
        self._max_pids = max_pids
        self._cpu_ns = 0
        self._unheeded = Unheeded(_NS_PER_TICK, os.cpu_count() or 1)
        self._has_children_file = _has_children_file(proc, pid)

    def pids(self) -> list[int]:
        """Return init and all its descendants."""
        return self._tree()[0]

    def cpu_ns(self) -> int:
        """Return user plus system time of living processes and of all that were waited for, init's included, in nanoseconds; never falls.

        Exact for the living; what was waited for the kernel shows in ticks of 10 ms, rounded down. Where samples prove that nobody waits, and the kernel
        shows nothing, it is estimated.
        """
        total = 0
        for pid in self._tree()[0]:
            stat = parse_stat(_read(f"{self._proc}/{pid}/stat"))
            if stat is not None:
                total += process_cpu_ns(pid) + stat.waited_ticks * _NS_PER_TICK
        self._cpu_ns = max(self._cpu_ns, total, self.estimated_ns)
        return self._cpu_ns

    @property
    def estimated_ns(self) -> int:
        """CPU time of the living and of the ended as of the last sample, where samples prove that nobody waits for what ends; else 0."""
        return self._unheeded.total_ns if self._unheeded.proved else 0

    @property
    def vanishing(self) -> bool:
        """Whether a process had ended between the last two samples."""
        return self._unheeded.vanishing

    def sample(self) -> Sample:
        """Read the whole tree once."""
        pids, truncated = self._tree()
        processes = threads = memory = mapped = largest = tables = 0
        seen: dict[int, Seen] = {}
        for pid in pids:
            stat = parse_stat(_read(f"{self._proc}/{pid}/stat"))
            if stat is None:
                continue
            seen[pid] = _see(pid, stat)
            status = _read(f"{self._proc}/{pid}/status")
            own = sum_kib(status, _STATUS)
            memory += own
            if pid != self._pid:
                processes += 1
                threads += stat.threads
                mapped = max(mapped, sum_kib(status, _MAPPED))
                if own >= largest:
                    largest, tables = own, sum_kib(status, _TABLES)
        if not truncated:
            self._unheeded.take(time.monotonic_ns(), seen, self._look)
        return Sample(
            processes=processes, threads=threads, rss_bytes=memory * 1024, file_bytes=mapped * 1024, table_bytes=tables * 1024, truncated=truncated
        )

    def _look(self, pid: int) -> Seen | None:
        stat = parse_stat(_read(f"{self._proc}/{pid}/stat"))
        return None if stat is None else _see(pid, stat)

    def proportional_bytes(self) -> int:
        """Return the tree's memory with each shared page counted once.

        A process that may not be looked at (our undumpable init, a payload that made itself so) counts as `sample` counts it, so that hiding
        never makes a tree smaller. Walks page tables (milliseconds for each GiB): for confirming that a limit was passed, not for every sample.
        """
        total = 0
        for pid in self._tree()[0]:
            try:
                with open(f"{self._proc}/{pid}/smaps_rollup", "rb") as file:
                    total += sum_kib(file.read(), _ROLLUP)
            except PermissionError:
                total += sum_kib(_read(f"{self._proc}/{pid}/status"), _STATUS)
                continue
            except OSError:  # gone, or a zombie without memory (ESRCH)
                continue
            total += sum_kib(_read(f"{self._proc}/{pid}/status"), _TABLES)
        return total * 1024

    def _tree(self) -> tuple[list[int], bool]:
        """Return the pids of init and all its descendants, init first, and whether the bound cut them off."""
        by_parent = None if self._has_children_file else self._scan()
        found = [self._pid]
        seen = {self._pid}
        threads = 0
        for pid in found:  # grows while it is walked
            if by_parent is None:
                children, tasks = self._children(pid, self._max_pids - threads)
                threads += tasks
            else:
                children = by_parent.get(pid, [])
            for child in children:
                if child not in seen:  # a reused pid could close a circle
                    seen.add(child)
                    found.append(child)
            if len(found) > self._max_pids or threads > self._max_pids:
                return found[: self._max_pids], True
        return found, False

    def _children(self, pid: int, budget: int) -> tuple[list[int], int]:
        """Read the children of every thread (a child belongs to the thread that forked it), and count the threads."""
        found: list[int] = []
        try:
            threads = os.listdir(f"{self._proc}/{pid}/task")
        except OSError:
            return found, 0
        for thread in threads[: max(0, budget)]:
            words = _read(f"{self._proc}/{pid}/task/{thread}/children").split()
            found.extend(int(word) for word in words if word.isdigit())
        return found, len(threads)

    def _scan(self) -> dict[int, list[int]]:
        """Read every process's parent, for kernels without CONFIG_PROC_CHILDREN; an orphan's parent is init, so none is missed."""
        found: dict[int, list[int]] = {}
        for name in os.listdir(self._proc):
            if name.isdecimal():
                stat = parse_stat(_read(f"{self._proc}/{name}/stat"))
                if stat is not None:
                    found.setdefault(stat.parent, []).append(int(name))
        return found


def _has_children_file(proc: str, pid: int) -> bool:
    """Whether this kernel tells a task's children (CONFIG_PROC_CHILDREN); the host's own procfs is asked once."""
    global _host_has_children_file
    if proc != "/proc":
        return os.path.exists(f"{proc}/{pid}/task/{pid}/children")
    if _host_has_children_file is None:
        _host_has_children_file = os.path.exists("/proc/thread-self/children")
    return _host_has_children_file


_host_has_children_file: bool | None = None


def process_cpu_ns(pid: int) -> int:
    """Return the CPU time of one process, its children not counted, in nanoseconds; 0 for one that is gone.

    Source: clock_getres(2), NOTES; kernel include/linux/posix-timers_types.h: ~pid << 3 | CPUCLOCK_SCHED.
    """
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields of /proc/PID/stat that are used here; `waited_ticks` is the time of children that were waited for, in ticks of SC_CLK_TCK, `waited_faults`
    their minor page faults, and `start` is when it was started."""

    parent: int
    threads: int
    waited_ticks: int
    waited_faults: int = 0
    start: int = 0
    runs: bool = False


def read_stat(pid: int) -> bytes:
    """Return /proc/PID/stat.

    Raises:
        OSError: there is no such process.
    """
    file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


def parse_stat(content: bytes) -> Stat | None:
    """Parse /proc/PID/stat; None when it is empty or malformed.

    The second field is a name that the process chose: it may hold spaces, newlines and ``) R 1 1``, so the last ``)`` ends it.
    Source: proc_pid_stat(5).
    """
    fields = content.rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    try:
        # Counted from field 3, state: 4 ppid, 11 cminflt, 16 cutime, 17 cstime, 20 num_threads, 22 starttime.
        return Stat(
            parent=int(fields[1]), threads=int(fields[17]), waited_ticks=int(fields[13]) + int(fields[14]), waited_faults=int(fields[8]),
            start=int(fields[19]), runs=fields[0] == b"R",
        )  # fmt: skip
    except ValueError:
        return None


def _see(pid: int, stat: Stat) -> Seen:
    waited_ns = stat.waited_ticks * _NS_PER_TICK
    return Seen(start=stat.start, cpu_ns=process_cpu_ns(pid), waited_ns=waited_ns, waited_faults=stat.waited_faults, runs=stat.runs or stat.threads > 1)


def sum_kib(content: bytes, keys: tuple[bytes, ...]) -> int:
    """Add up the ``key: N kB`` lines of a status or smaps_rollup file that have one of the keys, in KiB; none of them is the file's first line.

    The name in status is escaped by the kernel, so a process can't forge a line. Source: kernel fs/proc/array.c, proc_task_name.
    """
    total = 0
    for key in keys:
        at = content.find(b"\n" + key)
        words = content[at + 1 + len(key) : at + 64].split(None, 2) if at >= 0 else []
        if len(words) > 1 and words[0].isdigit() and words[1] == b"kB":
            total += int(words[0])
    return total


def rlimits_for(limits: Limits) -> list[tuple[int, int, int]]:
    """Return (resource, soft, hard) for the payload, where a cgroup is missing.

    RLIMIT_NPROC counts the processes and threads of one user in one user namespace, so it is exact for a payload that is alone in
    its own (since Linux 5.14) and meaningless outside one. RLIMIT_CPU is whole seconds of each process: soft raises SIGXCPU,
    hard a second later kills.
    """
    found = []
    if limits.cpu_ns is not None:
        seconds = max(1, -(-limits.cpu_ns // 1_000_000_000))
        found.append((RLIMIT_CPU, seconds, seconds + 1))
    if limits.memory_bytes is not None:
        found.append((RLIMIT_DATA, DATA_FACTOR * limits.memory_bytes, DATA_FACTOR * limits.memory_bytes))
    if limits.processes is not None:
        found.append((RLIMIT_NPROC, limits.processes, limits.processes))
    return found


def fallback_enforcements(limits: Limits) -> tuple[Enforcement, ...]:
    """Return what the fallback enforces and in which way each is weaker than a cgroup."""
    found = []
    if limits.memory_bytes is not None:
        weaker = "the sum over processes is only sampled, and memory that no process maps is not seen"
        found.append(Enforcement(what="memory", how="sampled RSS, RLIMIT_DATA of each process", weaker=weaker))
    if limits.processes is not None:
        found.append(Enforcement(what="processes", how="RLIMIT_NPROC of the user namespace", weaker="the peak is only sampled"))
    weaker = "sampled; time of processes whose parent ignores SIGCHLD is lost until that shows, and estimated from then on"
    found.append(Enforcement(what="cpu-time accounting", how="/proc/PID/stat of the tree, RLIMIT_CPU of each process", weaker=weaker))
    return tuple(found)


def _read(path: str) -> bytes:
    """Return the content, or nothing for a process that is gone; os.open because a sample reads hundreds of files."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)
