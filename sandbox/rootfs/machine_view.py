"""The machine that a program in the sandbox is shown: as many processors and as much memory as its limits allow, and nothing of the host's use.

`see_machine` decides on it, `add_machine` puts its files into the root: below `/sys` always, over `/proc` where that is whole. What the files say is
`machine_files`. Looks at the host (processors, memory, the kind of processor) and changes nothing. `api` and `rootfs.host` import it.
"""

from __future__ import annotations

import os
import time

from sandbox.plan.root import Cover, Directory, FileBytes, LiveFiles
from sandbox.policy.profile import MachineView, ProcMode
from sandbox.record import dataclass
from sandbox.rootfs.machine_files import DIRECTORIES, cgroup_files, describe_processors, proc_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.root import RootEntry
    from sandbox.policy.profile import Profile

PLACE = "/sys/machine"
"""Where the files lie that cover what the kernel says."""

_SYSTEM = "/sys/devices/system/cpu"
_CGROUP = "/sys/fs/cgroup"
_ALIKE = 8
"""With more processors than this only their directories are made, not their topology: each file is a call more of every launch."""
_MODEL_BYTES = 8192
_MODEL_KEYS = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "fpu", "fpu_exception", "cpuid level", "wp", "flags", "clflush size",
    "cache_alignment", "address sizes", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run's machine is like. Only plain values: a stored launch has it, too.

    Attributes:
        live: whether its files are kept up to date.
        files: whether there is a whole /proc for them to cover.
        processors: the numbers that are shown, ascending.
        last: the highest number of a processor that a thread may find itself on, as getcpu(2) says it, which nobody can change.
        memory_bytes: all there is.
        processes: limit; 0 for none.
        quota_ppm: limit of CPU time in millionths of a processor; 0 for none.
        limited: whether `memory_bytes` is the run's limit, not the host's memory.
        cpuset: whether the processors are all that the run may use.
        origin_s: the host's uptime at which the clocks inside begin; 0 where they are the host's or begin with the run.
        boot_s: CLOCK_REALTIME of that moment.
        model: lines of /proc/cpuinfo that all processors have.
        proc: whether there is a /proc of the run's in which a caller's pids can be looked up: nobody inside can put another root before it.
        calls: number, name and whether all of it is answered, of the calls that the supervisor answers.
    """

    live: bool
    files: bool
    processors: tuple[int, ...]
    last: int
    memory_bytes: int
    processes: int = 0
    quota_ppm: int = 0
    limited: bool = False
    cpuset: bool = False
    origin_s: int = 0
    boot_s: int = 0
    model: str = ""
    proc: bool = True
    calls: tuple[tuple[int, str, bool], ...] = ()


def see_machine(
    profile: Profile, *, time_namespace: bool, rooted: bool = True, calls: tuple[tuple[int, str, bool], ...] = ()
) -> Machine | None:
    """Return the machine of a profile's runs, or None where they see the host's.

    Args:
        profile: its limits say how much there is; what is not limited is as the host has it.
        rooted: whether the policy refuses every call that changes a root.
        calls: see `Machine`.
        time_namespace: whether this kernel can let clocks begin at another moment.
    """
    if profile.machine_view is MachineView.OFF:
        return None
    limits = profile.limits
    allowed = tuple(sorted(limits.cpuset or os.sched_getaffinity(0)))
    shown = allowed
    if limits.cpu_quota_ppm is not None:
        shown = allowed[: max(1, -(-limits.cpu_quota_ppm // 1_000_000))]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = total if limits.memory_bytes is None else min(total, limits.memory_bytes)
    files = profile.proc is ProcMode.FULL
    origin, boot = find_origin()
    shifted = files and time_namespace and not profile.time_namespace
    return Machine(
        live=profile.machine_view is MachineView.LIVE,
        files=files,
        processors=shown,
        # A mask can be widened again, a cpuset or what keeps the mask cannot.
        last=allowed[-1] if limits.cpuset else max((os.cpu_count() or 1) - 1, allowed[-1]),
        memory_bytes=memory,
        processes=limits.processes or 0,
        quota_ppm=limits.cpu_quota_ppm or 0,
        limited=memory == limits.memory_bytes,
        cpuset=bool(limits.cpuset),
        origin_s=origin if shifted else 0,
        boot_s=boot if shifted else boot - origin if files else 0,
        model=read_model() if files else "",
        proc=profile.proc is not ProcMode.NONE and rooted and not profile.nested_namespaces,
        calls=calls,
    )


def find_origin() -> tuple[int, int]:
    """Return the uptime and the time of day at which this process first asked: where the clocks of its runs begin.

    One moment for all of them, so that tables of runs stay the same; it tells of the host no more than that this process is older.
    """
    global _origin
    if _origin is None:
        _origin = int(time.clock_gettime(time.CLOCK_BOOTTIME)), int(time.time())
    return _origin


_origin: tuple[int, int] | None = None


def read_model() -> str:
    """Return what /proc/cpuinfo says of the kind of processor, which CPUID tells any program anyway; not its clock, nor where it sits."""
    global _model
    if _model is None:
        try:
            fd = os.open("/proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
            try:
                block = os.read(fd, _MODEL_BYTES).partition(b"\n\n")[0].decode("ascii", "replace")
            finally:
                os.close(fd)
        except OSError:
            block = ""
        lines = [line for line in block.split("\n") if line.partition(":")[0].strip() in _MODEL_KEYS]
        _model = "".join(line + "\n" for line in lines)
    return _model


_model: str | None = None


def add_machine(machine: Machine) -> tuple[list[RootEntry], tuple[Cover, ...]]:
    """Return the entries of the root that show a machine, and what they cover once /proc is mounted."""
    entries: list[RootEntry] = []

    def add(path: str, content: str) -> None:
        entries.append(FileBytes(path=path, content=content.encode(), mode=0o444))

    # Whoever keeps an array by sched_getcpu(3) sizes it by `possible`.
    shown, possible = format_list(machine.processors), f"0-{machine.last}" if machine.last else "0"
    add(f"{_SYSTEM}/online", shown + "\n")
    add(f"{_SYSTEM}/present", shown + "\n")
    add(f"{_SYSTEM}/possible", possible + "\n")
    for core, number in enumerate(machine.processors):
        directory = f"{_SYSTEM}/cpu{number}"
        if len(machine.processors) > _ALIKE:
            entries.append(Directory(path=directory))
            continue
        for name, content in describe_processors(core, number, shown):
            add(f"{directory}/topology/{name}", content)
    covers: list[Cover] = []
    over = proc_files(machine) if machine.files else {}
    groups = cgroup_files(machine)
    if machine.live:
        files = {**over, **{f"cgroup/{name}": content for name, content in groups.items()}}
        directories = (*(DIRECTORIES if machine.files else ()), "cgroup")
        entries += [LiveFiles(path=PLACE, files=tuple(files.items()), directories=directories), Directory(path=_CGROUP)]
        covers.append(Cover(path=_CGROUP, source=f"{PLACE}/cgroup"))
    else:
        entries += [FileBytes(path=f"{PLACE}/{name}", content=content, mode=0o444) for name, content in over.items()]
        entries += [FileBytes(path=f"{_CGROUP}/{name}", content=content, mode=0o444) for name, content in groups.items()]
    covers += [Cover(path=f"/proc/{name}", source=f"{PLACE}/{name}") for name in over if "/" not in name]
    covers += [Cover(path=f"/proc/{name}", source=f"{PLACE}/{name}") for name in (DIRECTORIES if over else ())]
    return entries, tuple(covers)


def format_list(numbers: tuple[int, ...]) -> str:
    """Return ascending numbers as the kernel lists processors: ``0-3,5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
