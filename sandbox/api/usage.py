"""From what was counted, sampled and reported to one `Usage`, each figure from the best source that this run had."""

from __future__ import annotations

from sandbox.record import replace
from sandbox.result import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cgroup.model import CgroupUsage
    from sandbox.supervise.records import Collected
    from sandbox.supervise.used import Used

_OOM_SOURCES = {"cgroup2": "memory.events oom_kill", "cgroup1": "memory.oom_control oom_kill"}


def make_usage(collected: Collected, counted: CgroupUsage | None, backend: str) -> Usage:
    """Return what the payload used: CPU time without ours (setting up, and init).

    Args:
        collected: facts of the supervisor.
        counted: the cgroup's counters, where there was one.
        backend: its name.
    """
    usage = _from_processes(collected)
    if counted is None:
        return usage
    if collected.before is not None and collected.before.counted is not None:
        counted = _count_from(counted, collected.before.counted)
    user, system = _without(counted.cpu_user_ns, counted.cpu_sys_ns, collected.setup_cgroup_ns + collected.init_cpu_ns, collected)
    usage = replace(
        usage,
        cpu_user_ns=user,
        cpu_sys_ns=system,
        cpu_source=counted.cpu_source,
        throttled_ns=counted.throttled_ns,
        throttled_periods=counted.throttled_periods,
        pressure_cpu_ns=counted.pressure_cpu_ns,
        pressure_memory_ns=counted.pressure_memory_ns,
        pressure_io_ns=counted.pressure_io_ns,
        process_limit_hits=counted.process_limit_hits,
    )
    if counted.memory_peak_bytes is not None:
        anon, file, kernel = collected.memory_peaks
        usage = replace(
            usage,
            memory_peak_bytes=counted.memory_peak_bytes,
            memory_source=counted.memory_source,
            memory_anon_peak_bytes=anon,
            memory_file_peak_bytes=file,
            memory_kernel_peak_bytes=kernel,
            memory_samples=collected.memory_samples,
            memory_sample_gap_ns=collected.memory_gap_ns if collected.memory_samples else None,
            memory_sample_step_bytes=collected.memory_step_bytes if collected.memory_samples else None,
        )
    if counted.oom_kills is not None:
        usage = replace(
            usage,
            oom_kills=counted.oom_kills,
            oom_source=_OOM_SOURCES[backend],
            memory_max_hits=counted.memory_max_hits,
        )
    if counted.processes_peak is not None:
        usage = replace(usage, processes_peak=counted.processes_peak, processes_source=counted.processes_source)
    if counted.io_source is not None:
        usage = replace(
            usage, io_read_bytes=counted.io_read_bytes, io_write_bytes=counted.io_write_bytes, io_source=counted.io_source
        )
    return usage


def _from_processes(collected: Collected) -> Usage:
    """What the processes' own counters say, and sampling."""
    usage = Usage(
        wall_ns=collected.wall_ns,
        paused_ns=collected.paused_ns,
        cpu_user_ns=0,
        cpu_sys_ns=0,
        cpu_source="rusage of the process tree",
        output_bytes=collected.output_bytes,
        instructions=collected.instructions,
        instructions_source=collected.instructions_source,
    )
    # Without init's report what the janitor saw of init and its children is the best there is; killed children of a killed init are missing in it.
    tree = collected.tree if collected.tree is not None else collected.whole
    if tree is not None:
        user, system = _without(tree.user_ns, tree.sys_ns, collected.setup_payload_ns, collected)
        usage = replace(
            usage,
            cpu_user_ns=user,
            cpu_sys_ns=system,
            maxrss_bytes=tree.maxrss_bytes,
            memory_peak_bytes=tree.maxrss_bytes,
            memory_source="ru_maxrss of the largest process",
            io_read_bytes=tree.read_bytes,
            io_write_bytes=tree.write_bytes,
            io_source="rusage of the process tree",
            voluntary_switches=tree.voluntary_switches,
            involuntary_switches=tree.involuntary_switches,
            minor_faults=tree.minor_faults,
            major_faults=tree.major_faults,
        )
        if collected.before is not None:
            usage = _without_before(usage, collected.before)
    if collected.sampled_cpu_ns > usage.cpu_ns:  # a parent that ignored SIGCHLD, or init was killed
        user = min(collected.sampled_cpu_ns, usage.cpu_user_ns)
        usage = replace(
            usage, cpu_user_ns=user, cpu_sys_ns=collected.sampled_cpu_ns - user, cpu_source="sampled clocks of all processes"
        )
    if collected.samples:
        usage = replace(usage, memory_sampled_bytes=collected.sampled_memory_bytes)
        usage = replace(usage, processes_peak=collected.sampled_processes, processes_source="sampled threads")
    if collected.sampled_memory_bytes > (usage.memory_peak_bytes or 0):
        usage = replace(usage, memory_peak_bytes=collected.sampled_memory_bytes, memory_source="sampled RSS of all processes")
    return usage


def _without_before(usage: Usage, before: Used) -> Usage:
    """Take off what a program that was executed ahead had used when its command came; its memory stays, for the sandbox has it."""
    return replace(
        usage,
        io_read_bytes=max(0, (usage.io_read_bytes or 0) - before.read_bytes),
        io_write_bytes=max(0, (usage.io_write_bytes or 0) - before.write_bytes),
        voluntary_switches=max(0, (usage.voluntary_switches or 0) - before.voluntary_switches),
        involuntary_switches=max(0, (usage.involuntary_switches or 0) - before.involuntary_switches),
        minor_faults=max(0, (usage.minor_faults or 0) - before.minor_faults),
        major_faults=max(0, (usage.major_faults or 0) - before.major_faults),
    )


def _count_from(counted: CgroupUsage, before: CgroupUsage) -> CgroupUsage:
    """The same for a cgroup's counters, CPU time aside, whose baseline is read when the command comes."""
    names = (
        "throttled_ns", "throttled_periods", "pressure_cpu_ns", "pressure_memory_ns", "pressure_io_ns", "process_limit_hits", "io_read_bytes",
        "io_write_bytes", "memory_max_hits",
    )  # fmt: skip
    pairs = ((name, getattr(counted, name), getattr(before, name)) for name in names)
    return replace(counted, **{name: max(0, now - then) for name, now, then in pairs if now is not None and then is not None})


def _without(user_ns: int, sys_ns: int, ours_ns: int, collected: Collected) -> tuple[int, int]:
    """Take what was used before off: setting up is system calls, so from system time first; a program that was executed ahead is told by its ticks."""
    ahead = 0 if collected.before is None else round(ours_ns * collected.before.user_share)
    user = max(0, user_ns - ahead)
    ours_ns -= user_ns - user
    system = max(0, sys_ns - ours_ns)
    return max(0, user - (ours_ns - (sys_ns - system))), system
