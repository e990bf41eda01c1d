"""What a running sandbox uses at one moment, and how a supervisor's answer is read as that; `registered` writes it, `running` asks for it."""

from __future__ import annotations

import re
import time

from sandbox.enums import StrEnum
from sandbox.record import dataclass

_NUMBER = re.compile(r"[0-9]{1,19}")


class RunState(StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"
    UNRESPONSIVE = "unresponsive"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStats:
    """What a run uses at one moment; None means that this host cannot tell, or that there is no such limit.

    `age_ns` counts from the run's registration, `wall_ns` from the payload's start and without pauses, as the limit does. `memory_bytes` is
    everything charged to the run, page cache and kernel memory included, or the sum over its processes where there is no cgroup; its three parts
    are known with a cgroup only.
    """

    state: RunState
    age_ns: int
    wall_ns: int | None = None
    wall_limit_ns: int | None = None
    cpu_ns: int | None = None
    cpu_limit_ns: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_anon_bytes: int | None = None
    memory_file_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    processes: int | None = None
    processes_limit: int | None = None
    output_bytes: int | None = None
    output_limit_bytes: int | None = None
    denials: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types: times in nanoseconds, sizes in bytes."""
        return {
            "state": str(self.state), "age_ns": self.age_ns, "wall_ns": self.wall_ns, "wall_limit_ns": self.wall_limit_ns,
            "cpu_ns": self.cpu_ns, "cpu_limit_ns": self.cpu_limit_ns, "memory_bytes": self.memory_bytes,
            "memory_limit_bytes": self.memory_limit_bytes, "memory_anon_bytes": self.memory_anon_bytes,
            "memory_file_bytes": self.memory_file_bytes, "memory_kernel_bytes": self.memory_kernel_bytes, "processes": self.processes,
            "processes_limit": self.processes_limit, "output_bytes": self.output_bytes, "output_limit_bytes": self.output_limit_bytes,
            "denials": self.denials,
        }  # fmt: skip


def parse_stats(text: str, began_ns: int) -> RunStats:
    """Read an answer; what a hostile one says is numbers and one word of ours, or it is not understood.

    Args:
        text: what the supervisor said.
        began_ns: when the run was registered, CLOCK_MONOTONIC.
    """
    fields = {}
    for line in text.split("\n")[:64]:
        key, _, value = line.partition(" ")
        fields[key] = value
    age = max(0, time.monotonic_ns() - began_ns)
    state = fields.get("state", "")
    if state not in RunState._value2member_map_:
        return RunStats(state=RunState.UNRESPONSIVE, age_ns=age)

    def number(key: str) -> int | None:
        value = fields.get(key, "")
        return int(value) if _NUMBER.fullmatch(value) else None

    return RunStats(
        state=RunState(state), age_ns=age, wall_ns=number("wall_ns"), wall_limit_ns=number("wall_limit_ns"), cpu_ns=number("cpu_ns"),
        cpu_limit_ns=number("cpu_limit_ns"), memory_bytes=number("memory_bytes"), memory_limit_bytes=number("memory_limit_bytes"),
        memory_anon_bytes=number("memory_anon_bytes"), memory_file_bytes=number("memory_file_bytes"),
        memory_kernel_bytes=number("memory_kernel_bytes"), processes=number("processes"),
        processes_limit=number("processes_limit"), output_bytes=number("output_bytes"), output_limit_bytes=number("output_limit_bytes"),
        denials=number("denials"),
    )  # fmt: skip


__all__ = ["RunState", "RunStats", "parse_stats"]
