"""What the files of a machine view say, for limits alone or with what a run uses: the formats of procfs and cgroup v2.

Pure. A file that is kept up to date has one length whatever it says, so that one pwrite(2) changes it: it has blanks at the end of its last line.
`rootfs.machine_view` and `api` import this module.

Source: Linux Documentation/filesystems/proc.rst, Documentation/admin-guide/cgroup-v2.rst, fs/proc/*.c. What programs read: docs/reference/machine-view.md.
"""

from __future__ import annotations

import os

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.rootfs.machine_view import Machine

DIRECTORIES = ("pressure",)
"""Of /proc, covered as a whole."""

_TICKS = 100  # USER_HZ, one number on every architecture that matters; asm-generic/param.h
_FLAGS_FOR = 16  # a line of flags is 1.5 KB
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run uses at a moment, as `supervise.machine_view.Moment` has it.

    Times are since its clocks began; `busy_ns` is CPU time, `load` the averages over 1, 5 and 15 minutes.
    """

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


NOTHING = Figures()
"""Of a static view: everything there is is free."""


def proc_files(machine: Machine, at: Figures = NOTHING) -> dict[str, bytes]:
    """Return what covers files of /proc, by name."""
    release, version = os.uname()[2:4]
    texts = {
        "cpuinfo": cpuinfo(machine),
        "swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "partitions": "major minor  #blocks  name\n\n",
        "diskstats": "",
        "version": f"Linux version {release} {version}\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | live_proc_files(machine, at)


def live_proc_files(machine: Machine, at: Figures) -> dict[str, bytes]:
    """Return those of them that change while a run lasts."""
    files = {
        "meminfo": meminfo(machine, at),
        "stat": _sized(machine, stat(machine, at), 384 + 64 * len(machine.processors)),
        "loadavg": _sized(machine, loadavg(at), 64),
        "vmstat": _sized(machine, vmstat(machine, at), 384),
        "pressure/cpu": PRESSURE,
        "pressure/io": PRESSURE,
        "pressure/memory": PRESSURE,
    }
    if machine.live:  # else it would stand still, and programs divide by what has passed; the kernel's own begins where the clocks do
        files["uptime"] = _sized(machine, uptime(machine, at), 64)
    return files


PRESSURE = (
    b"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
)  # fmt: skip


def _sized(machine: Machine, text: str, size: int) -> bytes:
    """Return the text, with its last line made so long that the whole has a size, if it may have to be changed in place."""
    return (text.removesuffix("\n").ljust(size - 1) + "\n" if machine.live else text).encode()


def meminfo(machine: Machine, at: Figures) -> bytes:
    """Return /proc/meminfo; all numbers have one width, for none is larger than the first."""
    total = machine.memory_bytes >> 10
    used = min(total, at.memory_bytes >> 10)
    cached = min(used, at.file_bytes >> 10)
    slab = min(used - cached, at.kernel_bytes >> 10)
    anonymous = used - cached - slab
    free = total - used
    numbers = {
        "MemTotal": total, "MemFree": free, "MemAvailable": free + cached, "Buffers": 0, "Cached": cached, "SwapCached": 0,
        "Active": anonymous, "Inactive": cached, "Active(anon)": anonymous, "Inactive(anon)": 0, "Active(file)": 0, "Inactive(file)": cached,
        "Unevictable": 0, "Mlocked": 0, "SwapTotal": 0, "SwapFree": 0, "Dirty": 0, "Writeback": 0, "AnonPages": anonymous, "Mapped": 0, "Shmem": 0,
        "KReclaimable": 0, "Slab": slab, "SReclaimable": 0, "SUnreclaim": slab, "KernelStack": 0, "PageTables": 0, "Bounce": 0,
        "CommitLimit": total, "Committed_AS": anonymous, "VmallocTotal": 0, "VmallocUsed": 0, "AnonHugePages": 0, "ShmemHugePages": 0,
    }  # fmt: skip
    width = max(8, len(str(total)))
    lines = [f"{name + ':':<15} {number:{width}} kB\n" for name, number in numbers.items()]
    lines += [f"HugePages_{name + ':':<6} {0:>{width}}\n" for name in ("Total", "Free", "Rsvd", "Surp")]
    lines.append(f"{'Hugepagesize:':<15} {2048:>{width}} kB\n")
    return "".join(lines).encode()


def cpuinfo(machine: Machine) -> str:
    """Return /proc/cpuinfo."""
    count = len(machine.processors)
    short = "".join(line + "\n" for line in machine.model.splitlines() if line.partition(":")[0].strip() not in ("flags", "Features"))
    blocks = []
    for core, number in enumerate(machine.processors):
        lines = machine.model if core < _FLAGS_FOR else short
        place = f"physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {core}\ncpu cores\t: {count}\n"
        blocks.append(f"processor\t: {number}\n{lines}{place}\n")
    return "".join(blocks)


def stat(machine: Machine, at: Figures) -> str:
    """Return /proc/stat: all CPU time is called user's, evenly of all processors."""
    count = len(machine.processors)
    busy = at.busy_ns * _TICKS // 1_000_000_000
    idle = max(0, at.lived_ns * _TICKS // 1_000_000_000 * count - busy)
    each, rest = f"{busy // count} 0 0 {idle // count}", " 0 0 0 0 0 0"
    lines = [f"cpu  {busy} 0 0 {idle}{rest}", *(f"cpu{number} {each}{rest}" for number in machine.processors)]
    lines += ["intr 0", "ctxt 0", f"btime {at.boot_s or machine.boot_s}", f"processes {at.processes}", f"softirq {' '.join('0' * 11)}"]
    lines += [f"procs_running {at.running}", "procs_blocked 0"]
    return "\n".join(lines) + "\n"


def loadavg(at: Figures) -> str:
    """Return /proc/loadavg."""
    return "{:.2f} {:.2f} {:.2f} ".format(*at.load) + f"{at.running}/{at.processes} {at.processes}\n"


def uptime(machine: Machine, at: Figures) -> str:
    """Return /proc/uptime: since the clocks began, and the idle time of all processors."""
    idle = max(0, at.lived_ns * len(machine.processors) - at.busy_ns)
    return f"{at.uptime_ns / 1e9:.2f} {idle / 1e9:.2f}\n"


def vmstat(machine: Machine, at: Figures) -> str:
    """Return the lines of /proc/vmstat that programs look for."""
    total, used, cached = machine.memory_bytes // _PAGE, at.memory_bytes // _PAGE, at.file_bytes // _PAGE
    numbers: dict[str, int] = dict.fromkeys(
        ("pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault", "pgmajfault", "pgfree", "pgsteal_kswapd", "pgscan_kswapd", "oom_kill"), 0
    )
    numbers |= {"nr_file_pages": cached, "nr_anon_pages": max(0, used - cached), "nr_free_pages": max(0, total - used)}
    return "".join(f"{name} {number}\n" for name, number in numbers.items())


def cgroup_files(machine: Machine, at: Figures = NOTHING) -> dict[str, bytes]:
    """Return the files of /sys/fs/cgroup, by name: as the kernel's own of a cgroup with these limits."""
    maximum = str(machine.memory_bytes) if machine.limited else "max"
    quota = f"{max(1000, machine.quota_ppm // 10)} 100000" if machine.quota_ppm else "max 100000"
    from sandbox.rootfs.machine_view import format_list

    shown = format_list(machine.processors)
    texts = {
        "cgroup.controllers": "cpuset cpu memory pids\n",
        "cpu.max": f"{quota}\n",
        "cpuset.cpus.effective": f"{shown}\n",
        "memory.max": f"{maximum}\n",
        "memory.high": "max\n",
        "memory.low": "0\n",
        "memory.swap.max": "0\n",
        "memory.swap.current": "0\n",
        "pids.max": f"{machine.processes or 'max'}\n",
    }
    return {name: text.encode() for name, text in texts.items()} | live_cgroup_files(machine, at)


def live_cgroup_files(machine: Machine, at: Figures) -> dict[str, bytes]:
    """Return those of them that change while a run lasts."""
    anonymous = max(0, at.memory_bytes - at.file_bytes - at.kernel_bytes)
    stat = (
        f"anon {anonymous}\nfile {at.file_bytes}\nkernel {at.kernel_bytes}\nshmem 0\nfile_mapped 0\ninactive_anon 0\nactive_anon {anonymous}\n"
        f"inactive_file {at.file_bytes}\nactive_file 0\nunevictable 0\nslab_reclaimable 0\nslab_unreclaimable 0\npgfault 0\npgmajfault 0\n"
    )
    used = f"{at.memory_bytes}\n"
    busy = at.busy_ns // 1000
    return {
        "memory.current": _sized(machine, used, 24),
        "memory.stat": _sized(machine, stat, 512),
        "cpu.stat": _sized(machine, f"usage_usec {busy}\nuser_usec {busy}\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n", 160),
        "pids.current": _sized(machine, f"{at.processes}\n", 12),
    }


def describe_processors(core: int, number: int, siblings: str) -> Iterable[tuple[str, str]]:
    """Return the files of one processor's topology: a core of its own in the one package."""
    alone = f"{number}\n"
    return (
        ("core_id", f"{core}\n"), ("physical_package_id", "0\n"), ("thread_siblings_list", alone), ("core_cpus_list", alone),
        ("core_siblings_list", f"{siblings}\n"),
    )  # fmt: skip


__all__ = [
    "DIRECTORIES", "NOTHING", "Figures", "cgroup_files", "describe_processors", "live_cgroup_files", "live_proc_files", "proc_files",
]  # fmt: skip
