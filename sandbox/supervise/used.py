"""What a program that was executed ahead has used before its command came: read once, and taken off what the run is told to have used."""

from __future__ import annotations

import os

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cgroup.model import CgroupRun, CgroupUsage

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Of one process and the children that it waited for.

    Attributes:
        user_share: of its CPU time, between 0 and 1, as the kernel's ticks tell it.
        waited_ns: CPU time of the children.
        minor_faults: page faults without I/O.
        major_faults: page faults with I/O.
        voluntary_switches: of its first thread, as are the involuntary ones.
        involuntary_switches: see there.
        read_bytes: read from block devices.
        write_bytes: written to them.
        counted: the cgroup's counters at that time, where there is one.
    """

    user_share: float = 1.0
    waited_ns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    counted: CgroupUsage | None = None


def read_used(pid: int, cgroup: CgroupRun | None) -> Used:
    """Return what a process, the only one of its run, has used until now; nothing of what cannot be read.

    Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_io(5).
    """
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if len(fields) < 15:
        return Used()
    # Counted from field 3: 10 minflt, 11 cminflt, 12 majflt, 13 cmajflt, 14 utime, 15 stime, 16 cutime, 17 cstime.
    faults, children, major, major_children, user, system, waited_user, waited_system = (int(field) for field in fields[7:15])
    status, io = _lines(_read(pid, "status")), _lines(_read(pid, "io"))
    return Used(
        user_share=user / (user + system) if user + system else 1.0,
        waited_ns=(waited_user + waited_system) * _NS_PER_TICK,
        minor_faults=faults + children,
        major_faults=major + major_children,
        voluntary_switches=status.get(b"voluntary_ctxt_switches", 0),
        involuntary_switches=status.get(b"nonvoluntary_ctxt_switches", 0),
        read_bytes=io.get(b"read_bytes", 0),
        write_bytes=io.get(b"write_bytes", 0),
        counted=cgroup.usage() if cgroup is not None else None,
    )


def _lines(content: bytes) -> dict[bytes, int]:
    """Return the ``key: number`` lines."""
    pairs = (line.partition(b":") for line in content.splitlines())
    return {key: int(value) for key, _, value in pairs if value.strip().isdigit()}


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
