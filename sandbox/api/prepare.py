"""From a request to everything a launch needs, without starting anything: load, override, resolve, compile, probe.

What the host cannot enforce refuses here, before a process exists, unless the profile names the fallback.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.abi.host import HostFeatures
from sandbox.api.recall import recall_filter, recall_policy, recall_profile
from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.cgroup.model import Backend, CgroupRun
from sandbox.cgroup.none import fallback_enforcements, rlimits_for
from sandbox.errors import PolicyError, UnsupportedError
from sandbox.kernel.probe import probe_host
from sandbox.plan.build import Request
from sandbox.plan.root import Bind, RootSpec
from sandbox.policy.model import SyscallPolicy
from sandbox.policy.profile import CwdMode, IdMode, LandlockMode, Limits, Profile
from sandbox.result import Enforcement
from sandbox.rootfs.host import build_root_spec
from sandbox.seccomp.filter import Filter
from sandbox.seccomp.initfilter import build_init_filter

if TYPE_CHECKING:
    from sandbox.plan.steps import Plan

_LIMITED = ("memory", "processes", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run and how, before anything was looked up.

    `cwd` is the host directory that the command starts in and that may be shared, or None for neither. `executor` is ``auto``, ``native`` or ``python``.
    """

    argv: tuple[str, ...]
    profile: Profile
    cwd: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    audit: bool = True
    require_cgroup: bool = False
    interactive: bool = False
    executor: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A launch that only waits to be started; `backend` is None where rlimits and sampling stand in.

    `sampled` names the limits that sampling enforces.
    """

    run_id: str
    command: Command
    profile: Profile
    policy: SyscallPolicy
    filter: Filter
    host: HostFeatures
    arch: Arch
    root: RootSpec
    environment: tuple[tuple[str, str], ...]
    backend: Backend | None
    sampled: frozenset[str]
    rlimits: tuple[tuple[int, int, int], ...]
    enforced: tuple[Enforcement, ...]
    notes: tuple[str, ...]

    @property
    def as_root(self) -> bool:
        """Whether the caller is root, so that the payload gets a host id of its own."""
        return self.host.uid == 0

    @property
    def external_map(self) -> bool:
        """Whether the supervisor writes the id maps."""
        return self.as_root or self.profile.ids is IdMode.RANGE


def prepare(command: Command) -> Prepared:
    """Look everything up.

    Raises:
        SandboxError: something is wrong with the request, or this host cannot enforce it.
    """
    profile = command.profile
    uses_reference(command.executor)  # an unknown or missing executor refuses here, not after half a launch
    host = probe_host()
    arch = Arch(host.arch)
    policy = recall_policy(profile.policy)
    compiled = recall_filter(policy, arch, notify=command.audit)
    root, environment = build_root_spec(
        profile, argv=command.argv, cwd=command.cwd, environ=command.environ, files=command.files, is_root=host.uid == 0
    )
    backend, sampled, limits_enforced, notes = _choose_limits(profile, command.require_cgroup)
    if host.uid == 0 and profile.ids is IdMode.RANGE:
        raise UnsupportedError(
            "an ordinary caller", "identity.ids", reason="root's payload gets a single id of its own", hint="run as an ordinary user"
        )
    return Prepared(
        run_id=f"{time.time_ns() // 1_000_000:x}-{os.urandom(4).hex()}",
        command=command,
        profile=profile,
        policy=policy,
        filter=compiled,
        host=host,
        arch=arch,
        root=root,
        environment=tuple(sorted(environment.items())),
        backend=backend,
        sampled=sampled,
        rlimits=_rlimits(profile.limits, sampled, notes),
        enforced=(*_walls(profile, policy, compiled, host, command.audit), *limits_enforced),
        notes=(*root.notes, *notes),
    )


def build_request(prepared: Prepared, *, outside_id: int, cgroup: CgroupRun | None) -> Request:
    """Put a prepared launch and the run's own numbers into the plan's terms.

    Args:
        prepared: what to run.
        outside_id: the host id of a root run; ignored otherwise.
        cgroup: the run's cgroup, reserved.
    """
    index = {fd: number for number, fd in enumerate(cgroup_directories(cgroup))}

    def indexed(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
        return tuple((index[fd], path) for fd, path in files)

    return Request(
        profile=prepared.profile,
        host=prepared.host,
        root=prepared.root,
        argv=_inner_argv(prepared),
        environment=prepared.environment,
        outside_uid=outside_id if prepared.as_root else prepared.host.uid,
        outside_gid=outside_id if prepared.as_root else prepared.host.gid,
        filter_bpf=prepared.filter.bpf,
        init_filter_bpf=build_init_filter(prepared.arch, reference=uses_reference(prepared.command.executor)),
        audit=prepared.filter.notify,
        external_map=prepared.external_map,
        map_range=prepared.profile.ids is IdMode.RANGE,
        directories=len(index),
        joins=indexed(cgroup.joins) if cgroup is not None else (),
        removals=indexed(cgroup.removals) if cgroup is not None else (),
        thaws=indexed(cgroup.thaws) if cgroup is not None else (),
        rlimits=prepared.rlimits,
        interactive=prepared.command.interactive,
        oom_protected=_is_oom_protected(),
        uptime_s=int(time.clock_gettime(time.CLOCK_MONOTONIC)) if prepared.profile.time_namespace else 0,
    )


def cgroup_directories(cgroup: CgroupRun | None) -> tuple[int, ...]:
    """Return the directory descriptors that the janitor and init are given for a run's cgroup, each once, in the order that the plan counts on."""
    return () if cgroup is None else tuple(dict.fromkeys(fd for fd, _ in (*cgroup.joins, *cgroup.removals, *cgroup.thaws)))


def _is_oom_protected() -> bool:
    try:
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            return int(file.read()) < 0
    except (OSError, ValueError):
        return False


def _inner_argv(prepared: Prepared) -> tuple[str, ...]:
    """The payload's argv; a relative command of a directory that is not shared gets the path that it has inside."""
    first, *rest = prepared.command.argv
    if "/" in first and not first.startswith("/") and prepared.root.workdir != prepared.command.cwd:
        return (prepared.root.argv0, *rest)
    return prepared.command.argv


def dry_plan(prepared: Prepared) -> Plan:
    """Build the plan as a run would, with placeholders for what only a run has."""
    from sandbox.plan.build import build_plan

    run = None if prepared.backend is None else prepared.backend.reserve(prepared.run_id, prepared.profile.limits)
    try:
        return build_plan(build_request(prepared, outside_id=0x70000000, cgroup=run))
    finally:
        if run is not None:
            run.close()


def load_command_profile(profile: str | Profile) -> Profile:
    """Return a profile by name or path, or the one given."""
    return profile if isinstance(profile, Profile) else recall_profile(profile)


def check_log_place(prepared: Prepared, path: str) -> None:
    """Refuse an audit log that the program itself could rewrite.

    Raises:
        PolicyError: it lies in something that is shared writable.
    """
    real = os.path.realpath(path)
    for entry in prepared.root.entries:
        if isinstance(entry, Bind) and entry.writable and (real == entry.source or real.startswith(entry.source + "/")):
            raise PolicyError(
                f"audit log `{path}`: it lies in `{entry.source}`, which is shared writable: the program could rewrite it",
                origin=entry.why,
                hint="put the log elsewhere",
            )


def uses_reference(executor: str) -> bool:
    """Whether the Python executor will run, whose init needs a wider filter."""
    from sandbox.launch.spawn import executor_command

    return len(executor_command(executor)) > 1


def without_cwd(profile: Profile) -> Profile:
    """Return the profile with the working directory not shared."""
    return replace(profile, cwd=CwdMode.NO)


def _choose_limits(profile: Profile, require_cgroup: bool) -> tuple[Backend | None, frozenset[str], tuple[Enforcement, ...], list[str]]:
    limits = profile.limits
    asked = (limits.memory_bytes, limits.processes, limits.cpu_ns)
    wanted = {name for name, value in zip(_LIMITED, asked, strict=True) if value is not None}
    backend = find_backend() if wanted or require_cgroup else None
    provides = backend.provides if backend is not None else frozenset()
    missing = wanted - provides
    if require_cgroup and (backend is None or missing):
        report = explain_backend()
        raise UnsupportedError("a writable cgroup", "--require-cgroup", reason=report.reason, hint=report.fix or None)
    refused = sorted(missing - set(profile.fallback))
    if refused:
        report = explain_backend()
        raise UnsupportedError(
            f"a writable cgroup with {', '.join(refused)}",
            f"limits.{refused[0]}",
            reason=report.reason,
            origin=dict(profile.origins).get(f"limits.{refused[0]}"),
            hint=report.fix or f"set `fallback = {sorted(missing)!r}` in the profile to accept rlimits and sampling",
        )
    if not missing:
        return backend, frozenset(), (), []
    weaker = Limits(
        memory_bytes=limits.memory_bytes if "memory" in missing else None,
        processes=limits.processes if "processes" in missing else None,
        cpu_ns=limits.cpu_ns if "cpu" in missing else None,
    )
    enforced = fallback_enforcements(weaker)
    names = ", ".join(sorted(missing))
    note = (
        f"no writable cgroup: {names} enforced by rlimits and sampling (profile `{profile.name}` accepts that; `--require-cgroup` refuses)"
    )
    return (backend if provides & wanted else None), frozenset(missing), enforced, [note]


def _rlimits(limits: Limits, sampled: frozenset[str], notes: list[str]) -> tuple[tuple[int, int, int], ...]:
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
    if limits.file_bytes is not None:
        wanted[uapi.RLIMIT_FSIZE] = (limits.file_bytes, limits.file_bytes)
    if limits.stack_bytes is not None:
        wanted[uapi.RLIMIT_STACK] = (limits.stack_bytes, limits.stack_bytes)
    weaker = Limits(
        memory_bytes=limits.memory_bytes if "memory" in sampled else None,
        processes=limits.processes if "processes" in sampled else None,
        cpu_ns=limits.cpu_ns if "cpu" in sampled else None,
    )
    for number, soft, hard in rlimits_for(weaker):
        wanted[number] = (soft, hard)
    found = []
    for number, (soft, hard) in sorted(wanted.items()):
        _, ceiling = resource.getrlimit(number)
        if ceiling != resource.RLIM_INFINITY and hard > ceiling:
            if number == uapi.RLIMIT_CORE:
                notes.append("the caller's hard RLIMIT_CORE is 0: a piped core_pattern handler would still be started")
            soft, hard = min(soft, ceiling), ceiling
        found.append((number, soft, hard))
    return tuple(found)


def _walls(profile: Profile, policy: SyscallPolicy, compiled: Filter, host: HostFeatures, audit: bool) -> tuple[Enforcement, ...]:
    entries = [
        Enforcement(what="namespaces", how="user mount pid net ipc uts cgroup" + (" time" if profile.time_namespace else "")),
        Enforcement(
            what="root filesystem",
            how="tmpfs root, " + ("pivot_root" if host.root_pivotable else "move-mount and chroot") + ", mounts locked",
        ),
        Enforcement(what="system calls", how=f"seccomp filter `{policy.name}`, {compiled.instructions} instructions"),
        Enforcement(what="capabilities", how="five empty sets, securebits locked, no_new_privs"),
    ]
    if profile.landlock is not LandlockMode.OFF:
        missing = "Landlock is absent on this kernel" if host.landlock_abi == 0 else ""
        entries.append(
            Enforcement(what="paths", how=f"mounts, Landlock ABI {host.landlock_abi}" if not missing else "mounts", weaker=missing)
        )
    if not audit:
        entries.append(Enforcement(what="audit", how="off", weaker="denied calls are refused in the kernel and not recorded"))
    return tuple(entries)
