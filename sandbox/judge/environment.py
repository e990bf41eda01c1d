"""What makes times noisy on this host: settings of the processor, the kernel and the neighbours, with what each does to times and how to change it.

Reads files below ``/proc`` and ``/sys`` and changes nothing. Any of them may be missing, as in a container or a virtual machine: that is an answer,
too (`State.UNKNOWN`). The measured probe is in `noise`. Only the command line imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sandbox.audit.events import escape_untrusted
from sandbox.enums import StrEnum
from sandbox.judge.host import Tree, cgroup_mounts, is_virtual, parse_list, quota, read_ticks, steal_share
from sandbox.record import dataclass

_BUSY_SHARE = 0.25
_STEAL_SHARE = 0.01
_CLOCKS_IN_USER_SPACE = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "riscv_clocksource", "timebase")


class State(StrEnum):
    """Whether a setting makes times noisy."""

    QUIET = "quiet"
    NOISY = "noisy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One setting of the host.

    Attributes:
        name: one word.
        state: whether it makes times noisy as it is.
        value: what was found, in words.
        effect: what it does to times.
        advice: how to change it, "" where nothing is to be done.
        source: the file that says so.
    """

    name: str
    state: State
    value: str
    effect: str
    advice: str = ""
    source: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {
            "name": self.name, "state": str(self.state), "value": self.value, "effect": self.effect, "advice": self.advice, "source": self.source,
        }  # fmt: skip


def read_facts(tree: Tree) -> tuple[Fact, ...]:
    """Return what of the host bears on times, in the order in which it is worth changing."""
    return tuple(look(tree) for look in _LOOKS)


# ---- processors -------------------------------------------------------------------------------------------------


def _governor(tree: Tree) -> Fact:
    source = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    found: dict[str, int] = {}
    for processor in sorted(tree.allowed):
        governor = tree.read(f"/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_governor")
        if governor is not None:
            shown = escape_untrusted(governor, 40)
            found[shown] = found.get(shown, 0) + 1
    effect = "a processor that is slowed down while it has little to do runs the first tens of milliseconds of a program slowly"
    if not found:
        return Fact(
            name="governor", state=State.UNKNOWN, value="no frequency control is visible", effect=effect, source=source,
            advice="in a virtual machine or container the host decides: set it there",
        )  # fmt: skip
    value = ", ".join(f"{governor} on {_count(count, 'processor')}" for governor, count in sorted(found.items()))
    if set(found) == {"performance"}:
        return Fact(name="governor", state=State.QUIET, value=value, effect=effect, source=source)
    return Fact(
        name="governor", state=State.NOISY, value=value, effect=effect, source=source, advice=f"echo performance | sudo tee {source}"
    )  # fmt: skip


def _turbo(tree: Tree) -> Fact:
    effect = (
        "the clock rises while the processor is cool and its neighbours idle, so that the same program is faster alone than beside others"
    )
    for source, on, command in (
        ("/sys/devices/system/cpu/intel_pstate/no_turbo", "0", "echo 1"),
        ("/sys/devices/system/cpu/cpufreq/boost", "1", "echo 0"),
    ):
        found = tree.read(source)
        if found in ("0", "1"):
            state = State.NOISY if found == on else State.QUIET
            value = "on" if found == on else "off"
            advice = f"{command} | sudo tee {source}" if found == on else ""
            return Fact(name="turbo", state=state, value=value, effect=effect, advice=advice, source=source)
    return Fact(
        name="turbo", state=State.UNKNOWN, value="not visible", effect=effect, advice="switch it off in the firmware, or on the virtual machine's host",
        source="/sys/devices/system/cpu/intel_pstate/no_turbo, /sys/devices/system/cpu/cpufreq/boost",
    )  # fmt: skip


def _smt(tree: Tree) -> Fact:
    source = "/sys/devices/system/cpu/smt/active"
    effect = "two programs on the threads of one core share its units: each is slower, by a third and more, when the other computes"
    active = tree.read(source)
    cores: dict[str, list[int]] = {}
    for processor in sorted(tree.allowed):
        siblings = tree.read(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        if siblings is not None:
            cores.setdefault(siblings, []).append(processor)
    shared = sum(len(threads) > 1 for threads in cores.values())
    if active is None and not cores:
        return Fact(
            name="smt",
            state=State.UNKNOWN,
            value="not visible",
            effect=effect,
            source=source,
            advice="judge on as many workers as there are cores",
        )
    if shared == 0:
        half = any(len(parse_list(siblings)) > 1 for siblings in cores)
        value = "one thread of each core is used" if half else "off"
        note = "a virtual machine's processors may yet be threads of one core of its host" if is_virtual(tree) else ""
        return Fact(name="smt", state=State.QUIET, value=value, effect=effect, source=source, advice=note)
    return Fact(
        name="smt", state=State.NOISY, value=f"{_count(shared, 'core')} with several threads among {_count(len(tree.allowed), 'processor')}", effect=effect,
        source=source, advice=f"echo off | sudo tee /sys/devices/system/cpu/smt/control, or judge with --jobs {len(cores)} or less",
    )  # fmt: skip


def _processors(tree: Tree) -> Fact:
    effect = "a worker without a processor of its own waits, which wall time counts and CPU time does not, and comes back to caches of another program"
    online = parse_list(tree.read("/sys/devices/system/cpu/online") or "")
    isolated = parse_list(tree.read("/sys/devices/system/cpu/isolated") or "")
    value = f"{_count(len(tree.allowed), 'processor')} of {max(len(online), len(tree.allowed))}"
    if isolated & tree.allowed:
        value += f", {len(isolated & tree.allowed)} isolated"
    time = quota(tree)
    if time is not None and time < len(tree.allowed):
        return Fact(
            name="processors", state=State.NOISY, value=f"{value}, held to the time of {time:.2g}", effect=effect, source="cpu.max",
            advice="a quota stops programs in the middle: take it away, or give whole processors by a cpuset",
        )  # fmt: skip
    return Fact(
        name="processors", state=State.QUIET, value=value, effect=effect, source="sched_getaffinity(2)",
        advice="" if len(tree.allowed) > 1 else "with one processor the judge itself disturbs what it measures",
    )  # fmt: skip


def _load(tree: Tree) -> Fact:
    source = "/proc/loadavg"
    effect = "others on the same processors empty caches and take memory bandwidth; CPU time grows by some percent, wall time by as much as they take"
    found = (tree.read(source) or "").split()
    try:
        load = float(found[0])
    except (IndexError, ValueError):
        return Fact(name="load", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    waited = re.search(r"^some avg10=([\d.]+)", tree.read("/proc/pressure/cpu") or "", re.MULTILINE)
    value = f"{load:.2f} on {_count(len(tree.allowed), 'processor')}" + (
        f", {waited[1]} % of the last 10 s somebody waited for one" if waited else ""
    )
    if load <= _BUSY_SHARE * len(tree.allowed):
        return Fact(name="load", state=State.QUIET, value=value, effect=effect, source=source)
    return Fact(
        name="load", state=State.NOISY, value=value, effect=effect, source=source, advice="end or move what else runs; `top` shows it"
    )


# ---- the machine below ------------------------------------------------------------------------------------------


def _steal(tree: Tree) -> Fact:
    source = "/proc/stat"
    effect = "time that a virtual machine's host gave to others passes on the wall clock, and on some hosts within CPU time"
    share = steal_share(None, read_ticks(tree))
    virtual = is_virtual(tree)
    if share is None:
        return Fact(name="steal", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    value = f"{share:.2%} since boot" + (", in a virtual machine" if virtual else "")
    if share < _STEAL_SHARE:
        advice = "a host that hides steal shows 0: the probe below tells" if virtual and share == 0 else ""
        return Fact(name="steal", state=State.QUIET, value=value, effect=effect, source=source, advice=advice)
    return Fact(
        name="steal", state=State.NOISY, value=value, effect=effect, source=source, advice="a host with dedicated processors, pinned to this machine"
    )  # fmt: skip


def _clock(tree: Tree) -> Fact:
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    effect = "a clock that only the kernel can read makes programs that look at it often much slower, and their times less exact"
    found = tree.read(source)
    if found is None:
        return Fact(name="clock", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    if found in _CLOCKS_IN_USER_SPACE:
        return Fact(name="clock", state=State.QUIET, value=found, effect=effect, source=source)
    return Fact(
        name="clock", state=State.NOISY, value=escape_untrusted(found, 40), effect=effect, source=source,
        advice="`dmesg | grep -i clocksource` says why the kernel left tsc; a virtual machine needs an invariant one from its host",
    )  # fmt: skip


def _numa(tree: Tree) -> Fact:
    source = "/proc/sys/kernel/numa_balancing"
    effect = "memory of another node is slower, and pages that are moved between nodes cost faults within the program's CPU time"
    nodes = len([name for name in tree.names("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)])
    if nodes <= 1:
        return Fact(name="numa", state=State.QUIET, value="one node", effect=effect, source="/sys/devices/system/node")
    if tree.read(source) == "0":
        return Fact(
            name="numa", state=State.QUIET, value=f"{nodes} nodes, pages are not moved", effect=effect, source=source,
            advice="bind the judge to one node: numactl --cpunodebind=0 --membind=0 sandbox judge …",
        )  # fmt: skip
    return Fact(
        name="numa", state=State.NOISY, value=f"{nodes} nodes, pages are moved between them", effect=effect, source=source,
        advice=f"echo 0 | sudo tee {source}, and bind the judge to one node with numactl(8)",
    )  # fmt: skip


# ---- memory -----------------------------------------------------------------------------------------------------


def _swap(tree: Tree) -> Fact:
    source = "/proc/swaps"
    effect = "a program whose pages went out waits for the disk, and does not meet its memory limit where only memory is limited"
    found = tree.read(source)
    if found is None:
        return Fact(name="swap", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    areas = [line.split() for line in found.splitlines()[1:]]
    if not areas:
        return Fact(name="swap", state=State.QUIET, value="none", effect=effect, source=source)
    size = sum(int(area[2]) for area in areas if len(area) > 2 and area[2].isdigit())
    return Fact(
        name="swap", state=State.NOISY, value=f"{_count(len(areas), 'area')} of {size >> 10} MiB", effect=effect, source=source, advice="sudo swapoff -a"
    )  # fmt: skip


def _thp(tree: Tree) -> Fact:
    source = "/sys/kernel/mm/transparent_hugepage/enabled"
    effect = "whether large arrays get huge pages depends on how fragmented memory is: the same program gains some percent, or loses them to compaction"
    chosen = re.search(r"\[(\w+)\]", tree.read(source) or "")
    if chosen is None:
        return Fact(name="thp", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    if chosen[1] == "always":
        return Fact(name="thp", state=State.NOISY, value="always", effect=effect, source=source, advice=f"echo madvise | sudo tee {source}")
    return Fact(name="thp", state=State.QUIET, value=chosen[1], effect=effect, source=source)


def _ksm(tree: Tree) -> Fact:
    source = "/sys/kernel/mm/ksm/run"
    effect = "equal pages are merged, and the write that parts them again is a fault within the program's CPU time"
    found = tree.read(source)
    if found is None or found == "0" or found == "2":
        return Fact(name="ksm", state=State.QUIET, value="off" if found else "not there", effect=effect, source=source)
    return Fact(name="ksm", state=State.NOISY, value="on", effect=effect, source=source, advice=f"echo 2 | sudo tee {source}")


def _aslr(tree: Tree) -> Fact:
    source = "/proc/sys/kernel/randomize_va_space"
    effect = "where code and stack lie changes which of their cache lines collide: most programs do not care, a few vary by some percent"
    found = tree.read(source)
    if found is None:
        return Fact(name="aslr", state=State.UNKNOWN, value="not visible", effect=effect, source=source)
    if found == "0":
        return Fact(
            name="aslr", state=State.QUIET, value="off", effect=effect, source=source, advice=f"better on a host that others can reach: sudo tee {source} <<<2"
        )  # fmt: skip
    return Fact(
        name="aslr", state=State.NOISY, value="on" if found == "2" else "on, but for the heap", effect=effect, source=source,
        advice="leave it on where strangers' programs run, and give limits room; off (0) only on a machine that does nothing but judge",
    )  # fmt: skip


# ---- what can be measured ---------------------------------------------------------------------------------------


def _cgroup(tree: Tree) -> Fact:
    effect = "without a cgroup memory is sampled: a peak between two samples is not seen, and CPU time of a process that nobody waited for is lost"
    groups = [line.split(":", 2) for line in (tree.read("/proc/self/cgroup") or "").splitlines() if line.count(":") >= 2]
    mounts = cgroup_mounts(tree)
    for _, controllers, path in groups:
        if controllers == "" and (mount := mounts.get("")) is not None:
            place = mount + path.rstrip("/")
            has = (tree.read(f"{place}/cgroup.controllers") or "").split()
            if "memory" in has:
                exact = _has_peak(tree, place)
                may = tree.writable(f"{place}/cgroup.procs")
                advice = "" if exact else "Linux 5.19 or newer has memory.peak; before it the largest sample counts"
                if not may:
                    advice = "this user cannot make cgroups: `sandbox doctor` names the command that mends it"
                return Fact(
                    name="cgroup", state=State.QUIET if exact and may else State.NOISY, effect=effect, advice=advice,
                    source=escape_untrusted(f"{place}/cgroup.controllers"),
                    value=f"v2{', memory.peak' if exact else ', no memory.peak'}{'' if may else ', not writable'}",
                )  # fmt: skip
    for _, controllers, path in groups:
        if "memory" in controllers.split(",") and (mount := mounts.get("memory")) is not None:
            place = mount + path.rstrip("/")
            may = tree.writable(place)
            return Fact(
                name="cgroup", state=State.QUIET if may else State.NOISY, effect=effect, source=escape_untrusted(place),
                value="v1, memory.max_usage_in_bytes" + ("" if may else ", not writable"),
                advice="" if may else "this user cannot make cgroups: `sandbox doctor` names the command that mends it",
            )  # fmt: skip
    return Fact(
        name="cgroup", state=State.NOISY, value="no memory controller", effect=effect, source="/proc/self/cgroup",
        advice="`sandbox doctor` names the command that mends it",
    )  # fmt: skip


def _has_peak(tree: Tree, place: str) -> bool:
    """Whether the kernel has memory.peak; the root group has no such file, so its children are asked, and else the kernel's version."""
    if tree.exists(f"{place}/memory.peak"):
        return True
    if any(tree.exists(f"{place}/{name}/memory.peak") for name in tree.names(place)[:64]):
        return True
    release = re.match(r"(\d+)\.(\d+)", tree.read("/proc/sys/kernel/osrelease") or "")
    return release is not None and (int(release[1]), int(release[2])) >= (5, 19)


_LOOKS: tuple[Callable[[Tree], Fact], ...] = (
    _governor, _turbo, _smt, _processors, _load, _steal, _clock, _numa, _swap, _thp, _ksm, _aslr, _cgroup,
)  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
