"""Which mechanism keeps each limit of a run, and what is refused because none can.

`prepare` asks before anything is started; `open_backend` there asks again when the place for cgroups turned out not to be had. Nothing is applied here.
"""

from __future__ import annotations

import os

from sandbox.abi import uapi
from sandbox.cgroup.run import asked_of_cgroup
from sandbox.errors import UnsupportedError
from sandbox.policy.profile import UNLIMITED, IoClass, Limits, Profile
from sandbox.record import dataclass, replace
from sandbox.result import Enforcement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.abi.arch import Arch
    from sandbox.cgroup.model import Backend, BackendReport
    from sandbox.policy.model import SyscallPolicy

SAMPLED = ("memory", "processes", "cpu")
"""Limits that rlimits and sampling can keep, more weakly, where a profile accepts it."""

_SCHED_OTHER, _SCHED_IDLE = 0, 5
_IO_CLASS = {IoClass.BEST_EFFORT: 2, IoClass.IDLE: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """What the processes of a run get from the scheduler, instead of what the caller has.

    Attributes:
        policy: SCHED_OTHER, or SCHED_IDLE where the caller has that and may not leave it.
        base_nice: of the processes of ours.
        nice: of the payload.
        io_priority: as ioprio_set(2) takes it; 0 follows from `nice`.
        affinity: processors, where no cgroup keeps them; empty for none.
    """

    policy: int = _SCHED_OTHER
    base_nice: int = 0
    nice: int = 0
    io_priority: int = 0
    affinity: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What keeps the limits.

    Attributes:
        backend: where the run's cgroup will be; None for none.
        limits: what that one is to apply.
        sampled: the limits that sampling enforces.
        scheduling: see there.
        rlimits: (resource, soft, hard) of the payload.
        enforced: what is said in the result besides what the cgroup says.
        notes: what is weaker, in sentences.
    """

    backend: Backend | None
    limits: Limits
    sampled: frozenset[str]
    scheduling: Scheduling
    rlimits: tuple[tuple[int, int, int], ...]
    enforced: tuple[Enforcement, ...]
    notes: tuple[str, ...]


def choose_limits(
    profile: Profile, policy: SyscallPolicy, arch: Arch, *, require_cgroup: bool,
    find: Callable[[], Backend | None], explain: Callable[[], BackendReport],
) -> Chosen:  # fmt: skip
    """Decide for every limit.

    Args:
        profile: what is asked.
        policy: the payload's, which decides what it could undo.
        arch: the machine's.
        require_cgroup: refuse where rlimits and sampling would do.
        find: looks for a place for cgroups; called only when one is wanted.
        explain: says why there is none.

    Raises:
        UnsupportedError: a limit can't be kept here, and the profile does not accept less.
    """
    limits = profile.limits
    wanted = asked_of_cgroup(limits) | ({"cpu"} if limits.cpu_ns is not None else frozenset())
    backend = find() if wanted or require_cgroup else None
    provides = backend.provides if backend is not None else frozenset[str]()
    missing = set(wanted - provides)
    if require_cgroup and (backend is None or missing):
        report = explain()
        raise UnsupportedError("a writable cgroup", "--require-cgroup", reason=report.reason, hint=_fix(report, missing))
    notes: list[str] = []
    entries: list[Enforcement] = []
    affinity: tuple[int, ...] = ()
    if "cpuset" in missing:
        entries.append(_affinity(profile, policy, arch, explain))
        affinity = limits.cpuset
        missing.discard("cpuset")
    refused = sorted(missing - (set(profile.fallback) & set(SAMPLED)))
    if refused:
        report = explain()
        fix = _fix(report, set(refused))
        if set(refused) <= set(SAMPLED):
            fix = fix or f"set `fallback = {sorted(missing)!r}` in the profile to accept rlimits and sampling"
        raise UnsupportedError(
            f"a writable cgroup with {', '.join(refused)}", f"limits.{refused[0]}", reason=report.reason,
            origin=dict(profile.origins).get(f"limits.{refused[0]}"), hint=fix,
        )  # fmt: skip
    if missing:
        from sandbox.cgroup.none import fallback_enforcements

        entries += fallback_enforcements(only(limits, missing))
        names = ", ".join(sorted(missing))
        notes.append(
            f"no writable cgroup: {names} enforced by rlimits and sampling (profile `{profile.name}` accepts that; `--require-cgroup` refuses)"
        )
    scheduling = _scheduling(profile, policy, arch, affinity, entries, notes)
    rlimits = _rlimits(limits, frozenset(missing), notes, entries)
    return Chosen(
        backend=backend if provides & wanted or (require_cgroup and backend is not None) else None,
        limits=replace(limits, cpuset=()) if affinity else limits,
        sampled=frozenset(missing),
        scheduling=scheduling,
        rlimits=rlimits,
        enforced=tuple(entries),
        notes=tuple(notes),
    )


def only(limits: Limits, names: set[str] | frozenset[str]) -> Limits:
    """Return limits with nothing but those of memory, processes and CPU time that are named."""
    return Limits(
        memory_bytes=limits.memory_bytes if "memory" in names else None,
        processes=limits.processes if "processes" in names else None,
        cpu_ns=limits.cpu_ns if "cpu" in names else None,
    )


def caller_scheduling() -> tuple[int, int, bool]:
    """Return the calling thread's policy and nice value, and whether it may go to nice 0 from there."""
    import resource

    policy = os.sched_getscheduler(0) & ~0x40000000  # SCHED_RESET_ON_FORK
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    room = resource.getrlimit(uapi.RLIMIT_NICE)[0]
    return policy, nice, os.geteuid() == 0 or room == resource.RLIM_INFINITY or room >= 20


def _fix(report: BackendReport, missing: set[str]) -> str | None:
    from sandbox.cgroup.find import controllers_fix

    return report.fix or controllers_fix(missing) or None


def _refuses(policy: SyscallPolicy, arch: Arch, name: str, arguments: tuple[int, ...]) -> bool:
    """Whether the payload is refused a call with which it would undo a limit."""
    from sandbox.abi.tables import syscall_number
    from sandbox.policy.model import PERMITTING
    from sandbox.seccomp.decide import decide

    number = syscall_number(arch, name)
    return number is None or decide(policy, arch, number, (*arguments, 0, 0, 0, 0, 0, 0)[:6]).action not in PERMITTING


def _affinity(profile: Profile, policy: SyscallPolicy, arch: Arch, explain: Callable[[], BackendReport]) -> Enforcement:
    """Pin by sched_setaffinity(2), where the policy keeps the payload from undoing it."""
    absent = [number for number in profile.limits.cpuset if number >= (os.cpu_count() or 1)]
    if absent:
        raise UnsupportedError(
            f"processor {absent[0]}", "limits.cpuset", reason=f"there are {os.cpu_count()}", origin=_origin(profile, "cpuset")
        )
    if not _refuses(policy, arch, "sched_setaffinity", (0, 128)):
        report = explain()
        raise UnsupportedError(
            "the cgroup controller `cpuset`, or a policy that refuses sched_setaffinity", "limits.cpuset", origin=_origin(profile, "cpuset"),
            reason=f"with policy `{policy.name}` the program could leave its processors ({report.reason})",
            hint=_fix(report, {"cpuset"}) or "use the policy `judge`",
        )  # fmt: skip
    weaker = f"not a cpuset: it holds because policy `{policy.name}` refuses sched_setaffinity"
    return Enforcement(what="cpuset", how="sched_setaffinity", weaker=weaker)


def _origin(profile: Profile, key: str) -> str | None:
    return dict(profile.origins).get(f"limits.{key}")


def _scheduling(
    profile: Profile, policy: SyscallPolicy, arch: Arch, affinity: tuple[int, ...], entries: list[Enforcement], notes: list[str]
) -> Scheduling:
    limits = profile.limits
    current, nice, free = caller_scheduling()
    base, chosen = 0, _SCHED_OTHER
    if not free:
        base = max(0, nice)
        chosen = _SCHED_IDLE if current == _SCHED_IDLE else _SCHED_OTHER
        if base > limits.nice and _origin(profile, "nice") is not None:
            raise UnsupportedError(
                f"a caller that is allowed nice {limits.nice}", "limits.nice", origin=_origin(profile, "nice"),
                reason=f"it runs at nice {base} and RLIMIT_NICE lets it not go back",
            )  # fmt: skip
        if base or chosen:
            kept = "the idle policy" if chosen else f"nice {base}"
            notes.append(f"the program runs with {kept}, like the caller, who may not go back to an ordinary priority")
    if limits.nice:
        entries.append(Enforcement(what="nice", how=f"setpriority {max(base, limits.nice)}"))
    value = 0
    if limits.io_priority is not None:
        kind, level = limits.io_priority.kind, limits.io_priority.level
        value = _IO_CLASS[kind] << 13 | (7 if kind is IoClass.IDLE else level)
        held = _refuses(policy, arch, "ioprio_set", (1, 0, 2 << 13))
        weaker = "" if held else f"policy `{policy.name}` allows ioprio_set: the program may go back to best-effort"
        entries.append(
            Enforcement(what="io priority", how=f"ioprio_set {kind}" + ("" if kind is IoClass.IDLE else f":{level}"), weaker=weaker)
        )
    return Scheduling(policy=chosen, base_nice=base, nice=max(base, limits.nice), io_priority=value, affinity=affinity)


def _rlimits(limits: Limits, sampled: frozenset[str], notes: list[str], entries: list[Enforcement]) -> tuple[tuple[int, int, int], ...]:
    """All rlimits of the payload; none can be above what the caller itself may have."""
    import resource

    wanted: dict[int, tuple[int, int]] = {
        # 1, not 0: for a piped core_pattern only the value 1 stops the host's handler (fs/coredump.c, do_coredump).
        uapi.RLIMIT_CORE: (1, 1),
        uapi.RLIMIT_NOFILE: (limits.open_files, limits.open_files),
        uapi.RLIMIT_MEMLOCK: (64 << 10, 64 << 10),
        uapi.RLIMIT_SIGPENDING: (1024, 1024),
        uapi.RLIMIT_MSGQUEUE: (64 << 10, 64 << 10),
        uapi.RLIMIT_NICE: (0, 0),
        uapi.RLIMIT_RTPRIO: (0, 0),
    }
    if limits.cpu_ns is not None:
        # A second line, of each process: should the supervisor be stopped. Late enough that its own verdict comes first.
        seconds = -(-limits.cpu_ns // 1_000_000_000) + 1
        wanted[uapi.RLIMIT_CPU] = (seconds, seconds + 1)
    entries.append(Enforcement(what="open files", how="RLIMIT_NOFILE"))
    if limits.file_bytes is not None:
        wanted[uapi.RLIMIT_FSIZE] = (limits.file_bytes, limits.file_bytes)
        entries.append(Enforcement(what="file size", how="RLIMIT_FSIZE"))
    if limits.stack_bytes is not None:
        wanted[uapi.RLIMIT_STACK] = (limits.stack_bytes, limits.stack_bytes)
        if limits.stack_bytes != UNLIMITED:
            entries.append(Enforcement(what="stack", how="RLIMIT_STACK"))
    entries.append(Enforcement(what="scratch files", how="size and nr_inodes of each tmpfs"))
    if sampled:
        from sandbox.cgroup.none import rlimits_for

        for number, soft, hard in rlimits_for(only(limits, sampled)):
            wanted[number] = (soft, hard)
    found = []
    for number, (soft, hard) in sorted(wanted.items()):
        _, ceiling = resource.getrlimit(number)
        if ceiling != resource.RLIM_INFINITY and hard > ceiling:
            if number == uapi.RLIMIT_CORE:
                notes.append("the caller's hard RLIMIT_CORE is 0: a piped core_pattern handler would still be started")
            if number == uapi.RLIMIT_STACK and limits.stack_bytes == UNLIMITED:
                notes.append(f"the caller's hard RLIMIT_STACK is {ceiling} bytes: the stack is not unlimited")
            soft, hard = min(soft, ceiling), ceiling
        found.append((number, soft, hard))
    return tuple(found)
