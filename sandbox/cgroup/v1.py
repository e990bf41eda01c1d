"""Cgroup v1: one directory in each hierarchy that a run needs.

For root, or for an ordinary user below directories that root prepared. v1 has no kill, no group kill on out-of-memory (an eventfd
tells instead) and no atomic join; members write themselves into each hierarchy, which costs 35 us for each, so those that only a
limit needs are joined only for it. A frozen process of v1 does not die before it is thawed.
Source: kernel Documentation/admin-guide/cgroup-v1/{memory,pids,cpuacct,freezer-subsystem,blkio-controller}.rst.
"""

from __future__ import annotations

import errno
import os

from sandbox.cgroup.devices import format_processors, io_rates, resolve_device
from sandbox.cgroup.files import NodeFiles, check_run_id, open_directory, parse_io_service, parse_keyed, parse_number, swap_in_use
from sandbox.cgroup.model import INIT_PROCESSES, MAXIMUM_PIDS, CgroupNow, CgroupUsage
from sandbox.cgroup.run import CONTROLLER_OF, CPU_PERIOD_US, GuardedNames, RunBase, asked_of_cgroup, cpu_quota_us, refuse_missing
from sandbox.errors import SetupError
from sandbox.policy.profile import Limits
from sandbox.result import Enforcement

CONTROLLERS = {"memory": ("memory",), "pids": ("processes",), "cpuacct": ("cpu",)}
"""The hierarchies that the three limits with a fallback need, and what each provides."""

OPTIONAL = {"freezer": ("freeze",), "cpu": ("cpus", "cpu-weight"), "cpuset": ("cpuset",), "blkio": ("io",)}
"""Further hierarchies; `freezer` is joined by every run, to be paused, the others where a limit needs them."""

_ALWAYS = frozenset({*CONTROLLERS, "freezer"})
_RATES = {"rbps": "read_bps_device", "wbps": "write_bps_device", "riops": "read_iops_device", "wiops": "write_iops_device"}


_WEIGHT_SHARES = 1024  # of a weight of 100; source: kernel/sched/core.c, cpu_weight_write_u64
_WRITEBACK = "only direct and synchronous writes count: what the page cache writes back later is on nobody's account"


class V1Backend:
    """Hierarchies in whose `bases` this process may make directories.

    Args:
        bases: controller to directory; co-mounted controllers name the same one.
        prefix: put before the run id, where the directory is not ours alone.
    """

    name = "cgroup1"
    ready = True

    def __init__(self, bases: dict[str, str], prefix: str) -> None:
        self._bases = bases
        self._prefix = prefix
        known = CONTROLLERS | OPTIONAL
        self.provides = frozenset(key for controller in bases for key in known[controller])
        self.where = ", ".join(sorted(set(bases.values())))

    def reserve(self, run_id: str, limits: Limits) -> V1Run:
        """See `Backend.reserve`."""
        relative = self._prefix + check_run_id(run_id)
        refuse_missing(self.provides, limits, self.name)
        devices = tuple(resolve_device(limit.device) for limit in limits.io)
        needed = {"blkio" if key == "io" else CONTROLLER_OF[key] for key in asked_of_cgroup(limits)}
        bases = {controller: base for controller, base in self._bases.items() if controller in _ALWAYS | needed}
        # Co-mounted controllers are one directory and one node.
        by_base: dict[str, NodeFiles] = {}
        try:
            for base in bases.values():
                if base not in by_base:
                    by_base[base] = NodeFiles(open_directory(base), relative, base)
        except SetupError:
            for node in by_base.values():
                os.close(node.fd)
            raise
        return V1Run(by_base, {controller: by_base[base] for controller, base in bases.items()}, limits, devices)

    def guard(self, run_ids: tuple[str, ...]) -> GuardedNames:
        """See `Backend.guard`."""
        names = [self._prefix + check_run_id(run_id) for run_id in run_ids]
        fds: dict[str, int] = {}
        try:
            for base in dict.fromkeys(self._bases.values()):
                fds[base] = open_directory(base)
        except SetupError:
            for fd in fds.values():
                os.close(fd)
            raise
        freezer = fds.get(self._bases.get("freezer", ""))
        thaws = tuple((freezer, f"{name}/freezer.state") for name in names) if freezer is not None else ()
        return GuardedNames(tuple((fd, name) for name in names for fd in fds.values()), thaws, list(fds.values()))

    def create(self, run_id: str, limits: Limits) -> V1Run:
        """See `Backend.create`."""
        run = self.reserve(run_id, limits)
        run.make()
        return run


class V1Run(RunBase):
    """One run's cgroups on v1; see `CgroupRun`."""

    backend = "cgroup1"

    def __init__(
        self, by_base: dict[str, NodeFiles], by_controller: dict[str, NodeFiles], limits: Limits, devices: tuple[str, ...]
    ) -> None:
        super().__init__(tuple(by_base.values()), (), limits)
        self._memory = by_controller.get("memory")
        self._pids = by_controller.get("pids")
        self._cpuacct = by_controller["cpuacct"]
        self._freezer = by_controller.get("freezer")
        self._cpu = by_controller.get("cpu")
        self._cpuset = by_controller.get("cpuset")
        self._blkio = by_controller.get("blkio")
        self._devices = devices

    @property
    def thaws(self) -> tuple[tuple[int, str], ...]:
        """See `CgroupRun.thaws`."""
        return () if self._freezer is None else ((self._freezer.fd, f"{self._freezer.relative}/freezer.state"),)

    def usage(self) -> CgroupUsage:
        """See `CgroupRun.usage`.

        The total is the scheduler's exact clock; user and system are sampled by the timer tick on v1, so they only
        divide that total, all of it user time when no tick hit, as the kernel itself does.
        Source: kernel kernel/sched/cputime.c, cputime_adjust.
        """
        total = parse_number(self._cpuacct.read("cpuacct.usage")) or 0
        user = parse_number(self._cpuacct.read_optional("cpuacct.usage_user")) or 0
        system = parse_number(self._cpuacct.read_optional("cpuacct.usage_sys")) or 0
        system_ns = total * system // (user + system) if system else 0
        memory = parse_number(self._memory.read("memory.max_usage_in_bytes")) if self._memory else None
        oom = parse_keyed(self._memory.read("memory.oom_control")).get("oom_kill") if self._memory else None
        peak = parse_number(self._pids.read_optional("pids.peak")) if self._pids else None
        hits = parse_keyed(self._pids.read_optional("pids.events") or "").get("max") if self._pids else None
        met = None
        if self._memory is not None:
            # Where both limits are the same the one with swap is met first. Newer kernels (6.18) count neither and show 0: that says nothing.
            counts = (parse_number(self._memory.read_optional(name)) for name in ("memory.failcnt", "memory.memsw.failcnt"))
            met = sum(count or 0 for count in counts) or None
        cpu = parse_keyed(self._cpu.read("cpu.stat")) if self._cpu else {}
        io = self._blkio.read_optional("blkio.throttle.io_service_bytes") if self._blkio else None
        read, written = (None, None) if io is None else parse_io_service(io)
        return CgroupUsage(
            cpu_user_ns=total - system_ns,
            cpu_sys_ns=system_ns,
            cpu_source="cpuacct.usage",
            memory_peak_bytes=memory,
            memory_source=None if memory is None else "memory.max_usage_in_bytes",
            processes_peak=None if peak is None else max(0, peak - INIT_PROCESSES),
            processes_source=None if peak is None else "pids.peak",
            oom_kills=oom,
            process_limit_hits=hits,
            io_read_bytes=read,
            io_write_bytes=written,
            io_source=None if io is None else "blkio.throttle.io_service_bytes of the limited devices",
            throttled_ns=cpu.get("throttled_time"),
            throttled_periods=cpu.get("nr_throttled"),
            memory_max_hits=met,
        )

    def current(self) -> CgroupNow:
        """See `CgroupRun.current`."""
        stat = parse_keyed(self._read_now(self._memory, "memory.stat") or "")
        anon, cached, shared = stat.get("total_rss"), stat.get("total_cache"), stat.get("total_shmem", 0)
        processes = parse_number(self._read_now(self._pids, "pids.current"))
        state = self._read_now(self._freezer, "freezer.state")
        return CgroupNow(
            cpu_ns=self.cpu_ns(),
            memory_bytes=parse_number(self._read_now(self._memory, "memory.usage_in_bytes")),
            memory_anon_bytes=None if anon is None else anon + shared,
            memory_file_bytes=None if cached is None else max(0, cached - shared),
            memory_kernel_bytes=parse_number(self._read_now(self._memory, "memory.kmem.usage_in_bytes")),
            processes=None if processes is None else max(0, processes - INIT_PROCESSES),
            frozen=None if state is None else state.strip() == "FROZEN",
        )

    def freeze(self) -> bool:
        """See `CgroupRun.freeze`."""
        return self._set_frozen("FROZEN")

    def thaw(self) -> bool:
        """See `CgroupRun.thaw`."""
        return self._set_frozen("THAWED")

    def kill(self) -> bool:
        """See `CgroupRun.kill`."""
        self.thaw()
        return False

    def remove(self) -> None:
        """See `CgroupRun.remove`."""
        if self._made:
            self.thaw()
        super().remove()

    def _set_frozen(self, word: str) -> bool:
        return self._freezer is not None and self._freezer.write_optional("freezer.state", word)

    def _parse_cpu(self, content: bytes) -> int:
        return int(content)

    def _apply(self) -> None:
        enforced = []
        if self._memory is not None and self._limits.memory_bytes is not None:
            enforced.append(self._limit_memory(self._memory, self._limits.memory_bytes))
        if self._pids is not None and self._limits.processes is not None:
            number = min(self._limits.processes + INIT_PROCESSES, MAXIMUM_PIDS)
            self._pids.write_limit("pids.max", number, needed_by="limits.processes", page=False)
            enforced.append(Enforcement(what="processes", how="cgroup1 pids.max"))
        enforced += self._apply_shares()
        self._cpu_fd = self._cpuacct.open("cpuacct.usage", os.O_RDONLY)
        self._fds.append(self._cpu_fd)
        enforced.append(Enforcement(what="cpu-time accounting", how="cgroup1 cpuacct.usage"))
        self.enforced = tuple(enforced)

    def _apply_shares(self) -> list[Enforcement]:
        """Apply what says how much of processors and disks the run gets, rather than how much in all."""
        enforced = []
        limits = self._limits
        if self._cpu is not None and (quota := cpu_quota_us(limits)) is not None:
            self._cpu.write_exact("cpu.cfs_period_us", str(CPU_PERIOD_US), needed_by="limits.cpus")
            self._cpu.write_exact("cpu.cfs_quota_us", str(quota), needed_by="limits.cpus")
            enforced.append(Enforcement(what="cpus", how="cgroup1 cpu.cfs_quota_us"))
        if self._cpu is not None and limits.cpu_weight is not None:
            shares = max(2, (limits.cpu_weight * _WEIGHT_SHARES + 50) // 100)
            self._cpu.write_exact("cpu.shares", str(shares), needed_by="limits.cpu-weight")
            enforced.append(Enforcement(what="cpu weight", how="cgroup1 cpu.shares"))
        if self._cpuset is not None and limits.cpuset:
            # A new cpuset has neither processors nor memory nodes, and takes nobody in without both.
            mems = NodeFiles(self._cpuset.fd, "", self._cpuset.shown).read("cpuset.mems").strip()
            self._cpuset.write_exact("cpuset.mems", mems, needed_by="limits.cpuset")
            self._cpuset.write_exact(
                "cpuset.cpus", format_processors(limits.cpuset), needed_by="limits.cpuset", read="cpuset.effective_cpus"
            )
            enforced.append(Enforcement(what="cpuset", how="cgroup1 cpuset.cpus"))
        for limit, device in zip(limits.io, self._devices, strict=True):
            assert self._blkio is not None
            for name, rate in io_rates(limit):
                if rate is not None:
                    self._blkio.write_exact(f"blkio.throttle.{_RATES[name]}", f"{device} {rate}", needed_by="limits.io")
            weaker = "" if limit.write_bytes is None and limit.write_operations is None else _WRITEBACK
            enforced.append(Enforcement(what=f"io of {limit.device}", how=f"cgroup1 blkio.throttle {device}", weaker=weaker))
        return enforced

    def _limit_memory(self, memory: NodeFiles, limit: int) -> Enforcement:
        memory.write_limit("memory.limit_in_bytes", limit, needed_by="limits.memory", page=True)
        weaker = ""
        if memory.read_optional("memory.memsw.limit_in_bytes") is not None:
            # memory+swap equal to memory: nothing can be swapped out past the limit.
            memory.write_limit("memory.memsw.limit_in_bytes", limit, needed_by="limits.memory", page=True)
        elif swap_in_use():
            weaker = "swapped-out memory is not counted: swap accounting is off (boot with swapaccount=1)"
        memory.write_optional("memory.swappiness", "0")
        # TCP buffers are counted apart on v1 and without a bound of their own.
        memory.write_optional("memory.kmem.tcp.limit_in_bytes", str(limit))
        if parse_keyed(memory.read("memory.oom_control")).get("oom_kill_disable"):
            # Inherited from a prepared parent; it would hang the run at its limit instead of ending it.
            memory.write("memory.oom_control", "0")
        self.oom_fd = self._watch_oom(memory)
        return Enforcement(what="memory", how="cgroup1 memory.limit_in_bytes", weaker=weaker)

    def _watch_oom(self, memory: NodeFiles) -> int:
        """Return an eventfd that the kernel signals when this cgroup is out of memory.

        Source: kernel Documentation/admin-guide/cgroup-v1/memory.rst, section 10 OOM Control.
        """
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise SetupError("eventfd", error.errno or errno.EIO, step="cgroup") from None
        self._fds.append(event)
        control = memory.open("memory.oom_control", os.O_RDONLY)
        try:
            memory.write("cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
        return event
