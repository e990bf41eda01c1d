"""The one protocol behind which every limits backend stands, and the values that cross it.

Only types live here. `supervise`, `api` and `cli doctor` import it; a backend's own classes stay in its module.
A later feature (freezing, cpu quota, pressure) is a new method or a new optional field here, never a new protocol.
"""

from __future__ import annotations

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sandbox.policy.profile import Limits
    from sandbox.result import Enforcement
else:
    Protocol = object

INIT_PROCESSES = 1
"""Processes of ours inside the run's cgroup: its init. Limits are raised and peaks lowered by it, so that
`limits.processes` means the payload's own processes and threads."""

MAXIMUM_PIDS = 1 << 22
"""PID_MAX_LIMIT; pids.max refuses larger numbers. Source: kernel include/linux/threads.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupUsage:
    """What one run's cgroup counted; None means that this kernel has no such counter.

    Times are nanoseconds and include processes that ended long ago. `memory_peak_bytes` includes page cache and kernel memory that
    was charged to the run. `process_limit_hits` counts refused forks.

    Attributes:
        io_read_bytes: bytes read from block devices, all of them together; what the page cache answered is not in it.
        io_write_bytes: the same written; on v1 the kernel charges what it writes back later to nobody, so only direct and synchronous writes.
        io_source: the file that counted the two.
        throttled_ns: how long runnable processes were held back by a quota of CPU time.
        throttled_periods: in how many periods that happened.
        pressure_cpu_ns: how long at least one process waited for a processor (PSI, ``some``).
        pressure_memory_ns: the same for memory.
        pressure_io_ns: the same for block devices.
        memory_max_hits: how often an allocation met the memory limit; the kernel then reclaims page cache, so that is no sign of too
            little memory by itself.
    """

    cpu_user_ns: int
    cpu_sys_ns: int
    cpu_source: str
    memory_peak_bytes: int | None = None
    memory_source: str | None = None
    processes_peak: int | None = None
    processes_source: str | None = None
    oom_kills: int | None = None
    process_limit_hits: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_source: str | None = None
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    pressure_cpu_ns: int | None = None
    pressure_memory_ns: int | None = None
    pressure_io_ns: int | None = None
    memory_max_hits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupNow:
    """What one run's cgroup uses at this moment; None means that this kernel cannot tell.

    Attributes:
        cpu_ns: CPU time of all members so far, the dead included.
        memory_bytes: everything charged to the run.
        memory_anon_bytes: what cannot be dropped without swap: anonymous memory, tmpfs, memfd and System V segments.
        memory_file_bytes: page cache of files, which the kernel drops when the limit is met.
        memory_kernel_bytes: page tables, stacks, inodes, socket and pipe buffers and the like.
        processes: the payload's processes and threads, our init not among them.
        frozen: whether everything is frozen; None where there is no freezer.
    """

    cpu_ns: int
    memory_bytes: int | None = None
    memory_anon_bytes: int | None = None
    memory_file_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    processes: int | None = None
    frozen: bool | None = None


class CgroupRun(Protocol):
    """The cgroup of one run, or on v1 one cgroup per hierarchy.

    Owns every fd it names until `close`. All fds are CLOEXEC; none may stay open in the payload
    (CVE-2024-21626 began with a leaked cgroup fd).
    """

    @property
    def backend(self) -> str:
        """``cgroup2`` or ``cgroup1``."""

    @property
    def removals(self) -> tuple[tuple[int, str], ...]:
        """Directories to rmdir, in this order, as (fd of a directory, path relative to it); valid before `make`.

        For unlinkat(fd, path, AT_REMOVEDIR) by the janitor once everything is dead. ENOENT is success. EBUSY on a path
        that ends in the run's own name deserves a short retry; on a shared parent it means that others use it.
        """

    @property
    def joins(self) -> tuple[tuple[int, str], ...]:
        """The files that take the member ("0" = the writer), as (fd of a directory, path relative to it); valid before `make`.

        For a janitor that was started first and opens them itself.
        """

    @property
    def thaws(self) -> tuple[tuple[int, str], ...]:
        """Files that take the word THAWED, as (fd of a directory, path relative to it), where a frozen process does not die by SIGKILL (v1).

        For the janitor, after the kill and before it waits; valid before `make`.
        """

    @property
    def join_fds(self) -> tuple[int, ...]:
        """The same files opened O_WRONLY|O_CLOEXEC; empty before `make`.

        The kernel checks the credentials of whoever opened them, so init may write from inside its user namespace. Init must join
        before it unshares the cgroup namespace, else the namespace's root is the supervisor's own cgroup.
        Source: kernel kernel/cgroup/cgroup.c, cgroup_procs_write_start; commit e57457641613.
        """

    @property
    def directories(self) -> tuple[int, ...]:
        """Its own directories, O_PATH|O_CLOEXEC, between `make` and `close`: for an init that is started once they are there."""

    @property
    def enforced(self) -> tuple[Enforcement, ...]:
        """What this cgroup enforces or measures, and by which file."""

    @property
    def oom_fd(self) -> int | None:
        """An eventfd that turns readable when the run's cgroup went out of memory, where the kernel kills only one process.

        None where the kernel kills the whole cgroup by itself. Whoever sees it readable should kill the run: no process with
        oom_score_adj -1000 is ever chosen, it spins at the limit. That value is inherited from protected services, and a payload
        that inherited it as its minimum may set it again; so whoever starts the janitor as root must raise it there.
        Source: kernel fs/proc/base.c, __set_oom_adj.
        """

    def clear_way(self) -> None:
        """Make the place fit for runs, which may mean moving our own processes; called before the janitor is started.

        On v2 a node with processes in it cannot have children with controllers, and the janitor and init are born in their parent's
        cgroup: after them it would be too late. Nothing of the run exists yet.

        Raises:
            SetupError: a call failed, or processes of others are in the way.
        """

    def make(self) -> None:
        """Make the directories, apply the limits and read them back.

        Raises:
            SetupError: a call failed; what was made is removed again.
            UnsupportedError: a limit did not take effect as written, or cannot on this host.
        """

    def cpu_ns(self) -> int:
        """Return the CPU time used so far by all present and past members, in nanoseconds; one pread."""

    def usage(self) -> CgroupUsage:
        """Read every counter. Only before the directories are removed: the counters go with them."""

    def current(self) -> CgroupNow:
        """Return what the run uses now: one pread of each file, which stay open after the first call; from `make` to `remove`."""

    def freeze(self) -> bool:
        """Stop every member until `thaw`; return False where there is no freezer.

        True says that the kernel is at it: `current` tells when everything is frozen. A process in an uninterruptible wait (v1) is
        frozen when that ends. CPU time stands still meanwhile, wall time does not.
        """

    def thaw(self) -> bool:
        """Let every member go on; return False where there is no freezer. Harmless when nothing is frozen."""

    def kill(self) -> bool:
        """Kill every member at once; return False where the kernel has no such call (v1, v2 before 5.14).

        On v1 it thaws the run all the same: there a frozen process dies only after that.
        """

    def remove(self) -> None:
        """Thaw what is frozen (v1) and remove the directories; idempotent. Waits up to two seconds for dying members, by event."""

    def close(self) -> None:
        """Close every fd; idempotent. Does not remove."""


class Guarded(Protocol):
    """The cgroups that runs of one server may have, by their ids: for its keeper, which outlives us.

    `removals` and `thaws` are as of `CgroupRun`.
    """

    @property
    def removals(self) -> tuple[tuple[int, str], ...]: ...
    @property
    def thaws(self) -> tuple[tuple[int, str], ...]: ...
    def close(self) -> None:
        """Close the descriptors; idempotent."""


class Backend(Protocol):
    """A place where this process may make cgroups."""

    @property
    def name(self) -> str:
        """``cgroup2`` or ``cgroup1``."""

    @property
    def ready(self) -> bool:
        """Whether runs can be made; False for a place that must be opened first."""

    @property
    def provides(self) -> frozenset[str]:
        """What it can limit, count or do: ``memory``, ``processes``, ``cpu``, ``cpus``, ``cpu-weight``, ``cpuset``, ``io`` (profile keys), ``freeze``."""

    @property
    def where(self) -> str:
        """The directory that runs are made in, for messages."""

    def reserve(self, run_id: str, limits: Limits) -> CgroupRun:
        """Return a run whose `removals` and `joins` are known but of which nothing exists yet.

        Hand `removals` to the janitor, then call `make`: so a SIGKILL of the caller leaves nothing at any moment.

        Args:
            run_id: 1 to 64 characters of ``A-Za-z0-9_.-``, not beginning with a dot.
            limits: those of memory, processes, CPU shares, processors and block devices are applied here.

        Raises:
            UnsupportedError: a limit is asked for that `provides` lacks.
        """

    def guard(self, run_ids: tuple[str, ...]) -> Guarded:
        """Return all that runs with these ids may make here, whatever their limits, and make the place fit for them (`CgroupRun.clear_way`).

        Raises:
            SetupError: a call failed, or processes of others are in the way.
        """

    def create(self, run_id: str, limits: Limits) -> CgroupRun:
        """Reserve and make in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """What `doctor` says: which backend there is and why, or why none and the command that gets one.

    `provides` is sorted. `fix` is empty when nothing better is to be had by one command.
    """

    backend: str | None
    provides: tuple[str, ...]
    reason: str
    fix: str = ""
