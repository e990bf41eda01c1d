"""Cgroup v2: one directory below a node that is ours: delegated, named by SANDBOX_CGROUP, or the real root.

v2 allows no processes in a node whose children have controllers, so where this process itself sits in the node it first
moves into a child, `sandbox-supervisor`; that happens in `clear_way`, never while probing, and only in a node that `find` judged ours.
Source: kernel Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os

from sandbox.cgroup.devices import format_processors, io_rates, resolve_device
from sandbox.cgroup.files import (
    NodeFiles,
    check_run_id,
    open_directory,
    parse_io_stat,
    parse_keyed,
    parse_number,
    parse_pids,
    parse_pressure,
    swap_in_use,
)
from sandbox.cgroup.model import INIT_PROCESSES, MAXIMUM_PIDS, CgroupNow, CgroupUsage
from sandbox.cgroup.run import CONTROLLER_OF, CPU_PERIOD_US, GuardedNames, RunBase, asked_of_cgroup, cpu_quota_us, refuse_missing
from sandbox.errors import SetupError
from sandbox.policy.profile import Limits
from sandbox.result import Enforcement

CONTROLLERS = {"memory": ("memory",), "pids": ("processes",), "cpu": ("cpus", "cpu-weight"), "cpuset": ("cpuset",), "io": ("io",)}
"""The controllers in use, and what each provides; CPU time is counted without one, and the freezer is in the core."""

BASIC = frozenset({"memory", "pids"})
"""Enabled for every run; the others only where a limit needs them, `io` also to count bytes in a node of our own."""

SUPERVISOR = "sandbox-supervisor"
"""The child that our own processes move into; a process that finds itself there knows the parent is ours."""

_MOVE_TRIES = 20


class V2Backend:
    """A node in which this process may make children with controllers.

    Args:
        base: the node's directory.
        controllers: the ones to enable, a subset of `CONTROLLERS`.
        shared: a directory below `base`, made on demand, that holds all runs (so that at the root they share one weight).
        prefix: put before the run id.
        movable: the pids that may be moved out of the way, None for all in the node.
    """

    name = "cgroup2"
    ready = True

    def __init__(
        self, base: str, controllers: frozenset[str], *, shared: str = "", prefix: str = "run-", movable: frozenset[int] | None
    ) -> None:
        self._base = base
        self._controllers = controllers
        self._shared = shared
        self._prefix = prefix
        self._movable = movable
        self.provides = provided(controllers)
        self.where = f"{base}/{shared}" if shared else base

    def reserve(self, run_id: str, limits: Limits) -> V2Run:
        """See `Backend.reserve`."""
        relative = self._prefix + check_run_id(run_id)
        refuse_missing(self.provides, limits, self.name)
        devices = tuple(resolve_device(limit.device) for limit in limits.io)
        fd = open_directory(self._base)
        base = NodeFiles(fd, "", self._base)
        shared = (NodeFiles(fd, self._shared, self._base),) if self._shared else ()
        node = NodeFiles(fd, f"{self._shared}/{relative}" if self._shared else relative, self._base)
        return V2Run(base, node, shared, self._wanted(limits), self._movable, limits, devices)

    def _wanted(self, limits: Limits) -> frozenset[str]:
        needed = {CONTROLLER_OF[key] for key in asked_of_cgroup(limits)}
        counting = {"io"} if not self._shared else set()
        return self._controllers & (BASIC | needed | counting)

    def clear_way(self) -> None:
        """Prepare the node for its first run; see `CgroupRun.clear_way`.

        Raises:
            SetupError: a call failed, or processes of others are in the way.
        """
        fd = open_directory(self._base)
        try:
            enable_controllers(NodeFiles(fd, "", self._base), self._wanted(Limits()), self._movable)
        finally:
            os.close(fd)

    def guard(self, run_ids: tuple[str, ...]) -> GuardedNames:
        """See `Backend.guard`."""
        names = [self._prefix + check_run_id(run_id) for run_id in run_ids]
        run = self.reserve(run_ids[0], Limits())
        try:
            run.clear_way()
        finally:
            run.close()
        fd = open_directory(self._base)
        shared = [self._shared] if self._shared else []
        return GuardedNames(tuple((fd, "/".join([*shared, name])) for name in names) + tuple((fd, name) for name in shared), (), [fd])

    def create(self, run_id: str, limits: Limits) -> V2Run:
        """See `Backend.create`."""
        run = self.reserve(run_id, limits)
        run.make()
        return run


class V2Run(RunBase):
    """One run's cgroup on v2; see `CgroupRun`."""

    backend = "cgroup2"

    def __init__(
        self,
        base: NodeFiles,
        node: NodeFiles,
        shared: tuple[NodeFiles, ...],
        controllers: frozenset[str],
        movable: frozenset[int] | None,
        limits: Limits,
        devices: tuple[str, ...],
    ) -> None:
        super().__init__((node,), shared, limits)
        self._base = base
        self._node = node
        self._controllers = controllers
        self._movable = movable
        self._devices = devices

    def usage(self) -> CgroupUsage:
        """See `CgroupRun.usage`. memory.peak exists since Linux 5.19, pids.peak since 6.1."""
        cpu = parse_keyed(self._node.read("cpu.stat"))
        io = self._node.read_optional("io.stat")
        read, written = (None, None) if io is None else parse_io_stat(io)
        memory = parse_number(self._node.read_optional("memory.peak")) if "memory" in self._controllers else None
        events = parse_keyed(self._node.read("memory.events")) if "memory" in self._controllers else {}
        peak = parse_number(self._node.read_optional("pids.peak")) if "pids" in self._controllers else None
        hits = parse_keyed(self._node.read("pids.events")).get("max") if "pids" in self._controllers else None
        return CgroupUsage(
            cpu_user_ns=cpu.get("user_usec", 0) * 1000,
            cpu_sys_ns=cpu.get("system_usec", 0) * 1000,
            cpu_source="cpu.stat",
            memory_peak_bytes=memory,
            memory_source=None if memory is None else "memory.peak",
            processes_peak=None if peak is None else max(0, peak - INIT_PROCESSES),
            processes_source=None if peak is None else "pids.peak",
            oom_kills=events.get("oom_kill"),
            process_limit_hits=hits,
            io_read_bytes=read,
            io_write_bytes=written,
            io_source=None if io is None else "io.stat",
            throttled_ns=None if "throttled_usec" not in cpu else cpu["throttled_usec"] * 1000,
            throttled_periods=cpu.get("nr_throttled"),
            pressure_cpu_ns=parse_pressure(self._node.read_optional("cpu.pressure")),
            pressure_memory_ns=parse_pressure(self._node.read_optional("memory.pressure")),
            pressure_io_ns=parse_pressure(self._node.read_optional("io.pressure")),
            memory_max_hits=events.get("max"),
        )

    def current(self) -> CgroupNow:
        """See `CgroupRun.current`."""
        memory = parse_keyed(self._read_now(self._node, "memory.stat") or "")
        anon, cached, shared = memory.get("anon"), memory.get("file"), memory.get("shmem", 0)
        processes = parse_number(self._read_now(self._node, "pids.current"))
        frozen = parse_keyed(self._read_now(self._node, "cgroup.events") or "").get("frozen")
        return CgroupNow(
            cpu_ns=self.cpu_ns(),
            memory_bytes=parse_number(self._read_now(self._node, "memory.current")),
            memory_anon_bytes=None if anon is None else anon + shared,
            memory_file_bytes=None if cached is None else max(0, cached - shared),
            memory_kernel_bytes=_kernel_memory(memory),
            processes=None if processes is None else max(0, processes - INIT_PROCESSES),
            frozen=None if frozen is None else bool(frozen),
        )

    def freeze(self) -> bool:
        """See `CgroupRun.freeze`. cgroup.freeze exists since Linux 5.2."""
        return self._node.write_optional("cgroup.freeze", "1")

    def thaw(self) -> bool:
        """See `CgroupRun.thaw`."""
        return self._node.write_optional("cgroup.freeze", "0")

    def kill(self) -> bool:
        """See `CgroupRun.kill`. cgroup.kill exists since Linux 5.14.

        The directory must not be used again afterwards: several kernels kill a later CLONE_INTO_CGROUP child at birth.
        """
        return self._node.write_optional("cgroup.kill", "1")

    def _parse_cpu(self, content: bytes) -> int:
        return parse_keyed(content.decode("ascii", "replace")).get("usage_usec", 0) * 1000

    def clear_way(self) -> None:
        """See `CgroupRun.clear_way`."""
        enable_controllers(self._base, self._controllers, self._movable)

    def _make_directories(self) -> None:
        self.clear_way()  # nothing to do after `clear_way`, unless somebody has taken the controllers away
        super()._make_directories()

    def _prepare_shared(self, node: NodeFiles) -> None:
        enable_controllers(node, self._controllers, frozenset())

    def _apply(self) -> None:
        node, enforced = self._node, []
        if self._limits.memory_bytes is not None:
            weaker = ""
            if not node.write_optional("memory.swap.max", "0") and swap_in_use():
                weaker = "swapped-out memory is not counted: this kernel has no memory.swap.max (boot with swapaccount=1)"
            node.write_limit("memory.max", self._limits.memory_bytes, needed_by="limits.memory", page=True)
            # One kill ends the whole run; a payload must not go on with a random part of it missing.
            node.write("memory.oom.group", "1")
            enforced.append(Enforcement(what="memory", how="cgroup2 memory.max", weaker=weaker))
        if self._limits.processes is not None:
            number = min(self._limits.processes + INIT_PROCESSES, MAXIMUM_PIDS)
            node.write_limit("pids.max", number, needed_by="limits.processes", page=False)
            enforced.append(Enforcement(what="processes", how="cgroup2 pids.max"))
        enforced += self._apply_shares(node)
        # A payload that may mount cgroup2 (nested namespaces) would otherwise make children that outlive our rmdir.
        node.write_optional("cgroup.max.descendants", "0")
        self._cpu_fd = node.open("cpu.stat", os.O_RDONLY)
        self._fds.append(self._cpu_fd)
        enforced.append(Enforcement(what="cpu-time accounting", how="cgroup2 cpu.stat"))
        self.enforced = tuple(enforced)

    def _apply_shares(self, node: NodeFiles) -> list[Enforcement]:
        """Apply what says how much of processors and disks the run gets, rather than how much in all."""
        enforced = []
        if (quota := cpu_quota_us(self._limits)) is not None:
            node.write_exact("cpu.max", f"{quota} {CPU_PERIOD_US}", needed_by="limits.cpus")
            enforced.append(Enforcement(what="cpus", how="cgroup2 cpu.max"))
        if self._limits.cpu_weight is not None:
            node.write_exact("cpu.weight", str(self._limits.cpu_weight), needed_by="limits.cpu-weight")
            enforced.append(Enforcement(what="cpu weight", how="cgroup2 cpu.weight"))
        if self._limits.cpuset:
            # What is not available is left out of the effective set without an error.
            node.write_exact("cpuset.cpus", format_processors(self._limits.cpuset), needed_by="limits.cpuset", read="cpuset.cpus.effective")
            enforced.append(Enforcement(what="cpuset", how="cgroup2 cpuset.cpus"))
        for limit, device in zip(self._limits.io, self._devices, strict=True):
            rates = io_rates(limit)
            line = " ".join([device, *(f"{name}={rate}" for name, rate in rates if rate is not None)])
            shown = " ".join([device, *(f"{name}={'max' if rate is None else rate}" for name, rate in rates)])
            node.write_exact("io.max", line, needed_by="limits.io", expected=shown)
            enforced.append(Enforcement(what=f"io of {limit.device}", how=f"cgroup2 io.max {device}"))
        return enforced


def provided(controllers: frozenset[str]) -> frozenset[str]:
    """Return what a node with these controllers can do; see `Backend.provides`."""
    return frozenset(key for controller in controllers for key in CONTROLLERS[controller]) | {"cpu", "freeze"}


def named_run(relative: str, controllers: frozenset[str], limits: Limits) -> V2Run:
    """Return a run of a node that is not there yet, for a plan that is only shown."""
    nowhere = NodeFiles(-1, "", "…")
    return V2Run(nowhere, NodeFiles(-1, relative, "…"), (), controllers, frozenset(), limits, ())


def _kernel_memory(stat: dict[str, int]) -> int | None:
    """Return the kernel's memory: ``kernel`` since Linux 5.18, its parts before, and socket buffers, which are apart."""
    if "anon" not in stat:
        return None
    parts = sum(stat.get(name, 0) for name in ("kernel_stack", "pagetables", "percpu", "slab"))
    return stat.get("kernel", parts) + stat.get("sock", 0)


def enable_controllers(node: NodeFiles, controllers: frozenset[str], movable: frozenset[int] | None) -> None:
    """Enable `controllers` for the children of `node`, moving `movable` members out of it when they are in the way.

    Args:
        node: a cgroup that is ours.
        controllers: names for cgroup.subtree_control.
        movable: pids that may be moved into the supervisor child; None for all.

    Raises:
        SetupError: EBUSY when others sit in the node; what the kernel says otherwise.
    """
    for _ in range(_MOVE_TRIES):
        missing = controllers - set(node.read("cgroup.subtree_control").split())
        if not missing:
            return
        try:
            node.write("cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
        except SetupError as error:
            if error.errno != errno.EBUSY:
                raise
            members = parse_pids(node.read("cgroup.procs"))
            if movable is not None and not set(members) <= movable:
                raise SetupError(error.call, errno.EBUSY, step="cgroup", hint=other_members_hint(node.path("cgroup.procs"))) from None
            _move(node, members)
    raise SetupError(f"enable controllers in `{node.path('cgroup.subtree_control')}`", errno.EBUSY, step="cgroup")


def other_members_hint(path: str) -> str:
    """Return what to do about foreign processes in our node."""
    return (
        f"other processes are in `{path}`; start the sandbox alone in a scope, systemd-run --user --scope -p Delegate=yes COMMAND, "
        "or set SANDBOX_CGROUP to that directory to let them be moved"
    )


def _move(node: NodeFiles, members: tuple[int, ...]) -> None:
    child = NodeFiles(node.fd, f"{node.relative}/{SUPERVISOR}" if node.relative else SUPERVISOR, node.shown)
    try:
        os.mkdir(child.relative, 0o755, dir_fd=node.fd)
    except FileExistsError:
        pass
    except OSError as error:
        raise SetupError(f"mkdir `{child.path('').rstrip('/')}`", error.errno or errno.EIO, step="cgroup") from None
    for pid in members:
        try:
            child.write("cgroup.procs", str(pid))
        except SetupError as error:
            if error.errno != errno.ESRCH:  # it ended meanwhile
                raise
