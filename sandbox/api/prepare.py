"""From a request to everything a launch needs, without starting anything: load, override, resolve, compile, probe.

What the host cannot enforce refuses here, before a process exists, unless the profile names the fallback.
"""

from __future__ import annotations

import os
import time

from sandbox.abi.arch import Arch
from sandbox.api.limits import Chosen, Scheduling, choose_limits
from sandbox.api.recall import recall_filter, recall_policy, recall_profile, recall_without_emulation
from sandbox.api.start import cgroup_directories
from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.errors import PolicyError, SetupError, UnsupportedError
from sandbox.kernel import calls
from sandbox.kernel.probe import probe_host
from sandbox.plan.build import Request
from sandbox.plan.root import Bind, Overlay, RootSpec
from sandbox.policy.emulation import emulates
from sandbox.policy.model import EMULATED, PERMITTING
from sandbox.policy.profile import IdMode, LandlockMode, Limits, MachineView, Profile
from sandbox.record import dataclass, field, replace
from sandbox.registry.entry import SOCKET
from sandbox.registry.place import list_hidden
from sandbox.result import Enforcement
from sandbox.rootfs.host import build_root_spec
from sandbox.seccomp.initfilter import build_init_filter
from sandbox.store import hidden_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox.abi.host import HostFeatures
    from sandbox.api.keeping import CowRequest, Keeping
    from sandbox.api.tables import Kept
    from sandbox.cgroup.model import Backend, BackendReport, CgroupRun
    from sandbox.images.model import Image
    from sandbox.launch.anchor import Anchor
    from sandbox.plan.codec import Table
    from sandbox.plan.root import VolumeUse
    from sandbox.plan.steps import Plan
    from sandbox.policy.model import SyscallPolicy
    from sandbox.rootfs.image import Layered
    from sandbox.rootfs.machine_view import Machine
    from sandbox.seccomp.filter import Filter
    from sandbox.volumes.opening import Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run and how, before anything was looked up.

    `cwd` is the host directory that the command starts in and that may be shared, or None for neither. `executor` is ``auto``, ``native`` or ``python``.
    On an image `argv` may be empty, for what the image runs; `entrypoint` stands in for the image's.
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
    name: str = ""
    entrypoint: tuple[str, ...] | None = None
    cow: CowRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A launch that only waits to be started; `backend` is None where rlimits and sampling stand in.

    `sampled` names the limits that sampling enforces, `cgroup_limits` are those that the cgroup is to apply. `anchor` starts the run where
    only a process that is there already can (`open_backend`). `image` is what the root is made of, where it is one. `machine` is what the program is
    shown of the machine; None is the host. `kept` has the tables of the recipe that it is from, where it is from one; `keeping` says what it sees
    copy-on-write.
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
    cgroup_limits: Limits
    scheduling: Scheduling
    rlimits: tuple[tuple[int, int, int], ...]
    enforced: tuple[Enforcement, ...]
    notes: tuple[str, ...]
    oom_protected: bool = False
    machine: Machine | None = None
    anchor: Anchor | None = None
    image: Image | None = None
    kept: Kept | None = None
    keeping: Keeping | None = None
    opened: Opened | None = None

    @property
    def volumes(self) -> tuple[VolumeUse, ...]:
        """The named volumes that are to be opened before the run: `opened`, then."""
        return self.root.volumes

    def with_volumes(self, opened: Opened) -> Prepared:
        """Return the launch with its volumes open."""
        return replace(self, opened=opened)

    @property
    def as_root(self) -> bool:
        """Whether the caller is root, so that the payload gets a host id of its own."""
        return self.host.uid == 0

    @property
    def external_map(self) -> bool:
        """Whether the supervisor writes the id maps."""
        return self.as_root or self.profile.ids is IdMode.RANGE

    @property
    def owners(self) -> tuple[int, ...]:
        """The host uids whose files in a root run's layers are to be the payload's."""
        found = {entry.owner for entry in self.root.entries if isinstance(entry, Overlay) and entry.owner >= 0} if self.as_root else set()
        return tuple(sorted(found))

    def whole(self) -> Prepared:
        """Return this: a launch from disk (`stored.Stored`) is less than that."""
        return self

    def find_table(self, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> tuple[Plan, Table] | None:
        """Return nothing: the tables of what was prepared by this process are `kept`, or built."""
        return None


def prepare(command: Command) -> Prepared:
    """Look everything up.

    Raises:
        SandboxError: something is wrong with the request, or this host cannot enforce it.
    """
    profile = command.profile
    if command.name:
        from sandbox.registry.facts import check_name

        check_name(command.name)
    uses_reference(command.executor)  # an unknown or missing executor refuses here, not after half a launch
    host = probe_host()
    arch = Arch(host.arch)
    machine: Machine | None = None
    policy = recall_policy(profile.policy)
    if profile.machine_view is MachineView.OFF:
        policy = recall_without_emulation(policy)
    else:
        from sandbox.rootfs.machine_view import see_machine

        if not _is_refused(policy, "userfaultfd") or calls.ask_kernel("write-memory") != 1:
            # With that call a program could hold up who writes to its memory for as long as it likes.
            policy = recall_without_emulation(policy)
        rooted = all(_is_refused(policy, name) for name in ("chroot", "fchroot", "pivot_root"))
        machine = see_machine(profile, time_namespace=host.time_namespace, rooted=rooted, calls=_emulated_calls(policy, arch))
    compiled = recall_filter(policy, arch, notify=command.audit)
    keeping = None
    if command.cow is not None:
        from sandbox.api.keeping import keep_image, plan_keeping, volumes_of, with_overlays

        keeping = plan_keeping(command.cow, command.environ)
        if not profile.image and (command.cow.root or any(tree.image for tree in keeping.trees)):
            raise PolicyError("keep what is written over an image: there is none", hint="`--image NAME`, or `mounts.image` in the profile")
    image = layered = None
    if profile.image:
        from sandbox.api.layered import compose, find

        image = find(profile, command.environ)
        if command.cow is not None and keeping is not None:
            keeping, image = keep_image(keeping, command.cow, image)
        layered = compose(image, command)
        profile = layered.profile
        command = replace(command, argv=layered.argv, profile=profile)
    elif command.entrypoint is not None:
        raise PolicyError("an entry point was given, and no image", hint="`--image NAME`, or `mounts.image` in the profile")
    run_id = new_run_id()
    shown = profile
    if keeping is not None:
        shown = replace(profile, volumes=(*profile.volumes, *volumes_of(keeping)))
    root, environment = build_root_spec(
        shown,
        argv=command.argv,
        cwd=command.cwd,
        environ=command.environ,
        files=command.files,
        is_root=host.uid == 0,
        layered=layered,
        hidden=lambda: (*list_hidden(os.environ, host.uid), *hidden_paths(os.environ)),
        machine=machine,
    )
    if keeping is not None:
        root = with_overlays(root, keeping, run_id, is_root=host.uid == 0)
    chosen = choose_limits(profile, policy, arch, require_cgroup=command.require_cgroup, find=find_backend, explain=explain_backend)
    if host.uid == 0 and profile.ids is IdMode.RANGE:
        raise UnsupportedError(
            "an ordinary caller", "namespaces.ids", reason="root's payload gets a single id of its own", hint="run as an ordinary user"
        )
    return Prepared(
        run_id=run_id,
        command=command,
        profile=profile,
        policy=policy,
        filter=compiled,
        host=host,
        arch=arch,
        root=root,
        environment=tuple(sorted(environment.items())),
        **_limit_fields(chosen),
        enforced=(*_walls(profile, policy, compiled, host, command.audit, layered), *_shown(machine, policy, host, command), *chosen.enforced),
        notes=(*root.notes, *chosen.notes),
        oom_protected=_is_oom_protected(),
        image=image,
        keeping=keeping,
        machine=machine,
    )


def new_run_id() -> str:
    """Return an id that no other run has: the time in milliseconds, so that ids sort by it, and chance."""
    return f"{time.time_ns() // 1_000_000:x}-{os.urandom(4).hex()}"


def open_backend(prepared: Prepared) -> Prepared:
    """Make sure that the place for cgroups is there: a scope is asked of systemd only now, once for all runs of this process.

    Where systemd refuses, it is as if there had been no such place: the profile's fallback, or no run.

    Raises:
        UnsupportedError: a limit can't be kept without a cgroup, and the profile does not accept less.
    """
    if prepared.backend is None or prepared.backend.ready:
        return prepared
    from sandbox.api.scope import open_scope
    from sandbox.cgroup.systemd import ScopeOffer

    assert isinstance(prepared.backend, ScopeOffer)
    command = prepared.command
    try:
        scope = open_scope(prepared.backend, command.executor)
        missing = prepared.backend.provides - scope.backend.provides
        reason = f"the scope lacks the controllers of {', '.join(sorted(missing))}" if missing else ""
    except SetupError as error:
        scope, reason = None, " ".join(str(error).split("\n")[0].removeprefix("error: ").split())
        reason += f" ({error.hint})" if error.hint else ""
    backend: Backend | None = None if scope is None else scope.backend

    def explain() -> BackendReport:
        report = explain_backend()
        return replace(report, backend=None, reason=f"{report.reason}, but: {reason}", fix="") if reason else report

    if scope is not None and not missing:
        return replace(prepared, backend=backend, anchor=scope.anchor)
    before = choose_limits(
        prepared.profile, prepared.policy, prepared.arch, require_cgroup=command.require_cgroup, find=find_backend, explain=explain
    )
    chosen = choose_limits(
        prepared.profile, prepared.policy, prepared.arch, require_cgroup=command.require_cgroup, find=lambda: backend, explain=explain
    )
    return replace(
        prepared,
        **_limit_fields(chosen),
        kept=None,
        anchor=scope.anchor if scope is not None and chosen.backend is not None else None,
        enforced=(*prepared.enforced[: len(prepared.enforced) - len(before.enforced)], *chosen.enforced),
        notes=(*prepared.root.notes, *chosen.notes, f"systemd: {reason}"),
    )


def _limit_fields(chosen: Chosen) -> dict[str, Any]:
    return {
        "backend": chosen.backend,
        "sampled": chosen.sampled,
        "cgroup_limits": chosen.limits,
        "scheduling": chosen.scheduling,
        "rlimits": chosen.rlimits,
    }


def build_request(prepared: Prepared, *, outside_id: int, cgroup: CgroupRun | None, entries: tuple[str, ...] = ()) -> Request:
    """Put a prepared launch and the run's own numbers into the plan's terms.

    Args:
        prepared: what to run.
        outside_id: the host id of a root run; ignored otherwise.
        cgroup: the run's cgroup, reserved.
        entries: the files of the run's entry, in the directory whose descriptor comes after those of `cgroup_directories`.
    """
    index = {fd: number for number, fd in enumerate(cgroup_directories(cgroup))}
    names = [*sorted({use.name for use in prepared.root.volumes}), *(f":{owner}" for owner in prepared.owners)]
    locks = len(index) + bool(entries)  # of what a copy-on-write run changes, then of volumes; the janitor only holds them
    maps = locks + bool(prepared.keeping is not None and prepared.keeping.path) + len({use.name for use in prepared.root.volumes})

    def indexed(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
        return tuple((index[fd], path) for fd, path in files)

    return Request(
        profile=prepared.profile,
        host=prepared.host,
        root=prepared.root,
        argv=inner_argv(prepared),
        environment=prepared.environment,
        outside_uid=outside_id if prepared.as_root else prepared.host.uid,
        outside_gid=outside_id if prepared.as_root else prepared.host.gid,
        filter_bpf=prepared.filter.bpf,
        init_filter_bpf=build_init_filter(prepared.arch, reference=uses_reference(prepared.command.executor)),
        audit=prepared.filter.notify,
        external_map=prepared.external_map,
        map_range=prepared.profile.ids is IdMode.RANGE,
        ranges=_find_ranges(prepared),
        directories=maps + (len(names) if prepared.as_root else 0),
        joins=indexed(cgroup.joins) if cgroup is not None else (),
        removals=indexed(cgroup.removals) if cgroup is not None else (),
        thaws=indexed(cgroup.thaws) if cgroup is not None else (),
        entries=tuple((len(index), name) for name in entries),
        held=tuple(range(locks, maps)),
        maps=tuple((name, maps + number) for number, name in enumerate(names)) if prepared.as_root else (),
        rlimits=prepared.rlimits,
        scheduler=prepared.scheduling.policy,
        base_nice=prepared.scheduling.base_nice,
        nice=prepared.scheduling.nice,
        io_priority=prepared.scheduling.io_priority,
        affinity=prepared.scheduling.affinity,
        interactive=prepared.command.interactive,
        oom_protected=prepared.oom_protected,
        uptime_s=uptime_s(prepared),
    )


def _find_ranges(prepared: Prepared) -> Any:
    """Return what ids a range maps; the maps themselves refuse where there is none."""
    if prepared.profile.ids is not IdMode.RANGE:
        return (), ()
    from sandbox.launch.idmap import inner_extents

    return inner_extents(prepared.host.uid, *map_centre(prepared.profile))


def map_centre(profile: Profile) -> tuple[int, int]:
    """Return the uid and gid inside that are the caller outside: of an image, root, whoever the program is, for so its layers were unpacked."""
    return (0, 0) if profile.image and profile.ids is IdMode.RANGE else (profile.uid, profile.gid)


def uptime_s(prepared: Prepared) -> int:
    """Return the host's uptime in seconds at which the payload's clocks begin; 0 where they are the host's."""
    if prepared.profile.time_namespace:
        return int(time.clock_gettime(time.CLOCK_MONOTONIC))
    return prepared.machine.origin_s if prepared.machine is not None else 0


def _is_oom_protected() -> bool:
    try:
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            return int(file.read()) < 0
    except (OSError, ValueError):
        return False


def inner_argv(prepared: Prepared) -> tuple[str, ...]:
    """The payload's argv; a relative command of a directory that is not shared gets the path that it has inside."""
    first, *rest = prepared.command.argv
    if "/" in first and not first.startswith("/") and prepared.root.workdir != prepared.command.cwd:
        return (prepared.root.argv0, *rest)
    return prepared.command.argv


def dry_plan(prepared: Prepared) -> Plan:
    """Build the plan as a run would, with placeholders for what only a run has."""
    from sandbox.plan.build import build_plan

    run = None if prepared.backend is None else prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
    try:
        return build_plan(build_request(prepared, outside_id=0x70000000, cgroup=run, entries=(f"RUN{SOCKET}", "RUN")))
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


def _describe_root(layered: Layered | None) -> tuple[str, str]:
    """Return what a run's root is, in a few words, and in which way it is less than was asked for."""
    if layered is None:
        return "tmpfs root", ""
    layers = len(layered.root.lowers)
    how = "one read-only tree" if layered.flat else f"overlay of {layers} layer{'s' * (layers != 1)}, changes on a tmpfs"
    return f"{layered.root.why}, {how}", layered.weaker


def _walls(
    profile: Profile, policy: SyscallPolicy, compiled: Filter, host: HostFeatures, audit: bool, layered: Layered | None
) -> tuple[Enforcement, ...]:  # fmt: skip
    root, weaker = _describe_root(layered)
    entries = [
        Enforcement(what="namespaces", how="user mount pid net ipc uts cgroup" + (" time" if profile.time_namespace else "")),
        Enforcement(
            what="root filesystem",
            weaker=weaker,
            how=root + ", " + ("pivot_root" if host.root_pivotable else "move-mount and chroot") + ", mounts locked",
        ),
        Enforcement(what="system calls", how=f"seccomp filter `{policy.name}`, {compiled.instructions} instructions"),
        Enforcement(
            what="capabilities",
            how="seven of a namespace of its own ids, no_new_privs"
            if profile.image and profile.ids is IdMode.RANGE and profile.uid == 0
            else "five empty sets, securebits locked, no_new_privs",
        ),
    ]
    if profile.landlock is not LandlockMode.OFF:
        missing = "Landlock is absent on this kernel" if host.landlock_abi == 0 else ""
        entries.append(
            Enforcement(what="paths", how=f"mounts, Landlock ABI {host.landlock_abi}" if not missing else "mounts", weaker=missing)
        )
    if not audit:
        entries.append(Enforcement(what="audit", how="off", weaker="denied calls are refused in the kernel and not recorded"))
    return tuple(entries)


def _shown(machine: Machine | None, policy: SyscallPolicy, host: HostFeatures, command: Command) -> tuple[Enforcement, ...]:
    """Say what a machine view shows, and what goes on to tell of the host."""
    if machine is None:
        return ()
    weaker = []
    if not command.audit:
        weaker.append("without a listener sysinfo and sched_getaffinity tell of the host")
    elif host_calls := [name for name in EMULATED if not emulates(policy, name) and not _is_refused(policy, name)]:
        why = f"policy `{policy.name}` allows " + ("them" if _is_refused(policy, "userfaultfd") else "userfaultfd")
        if calls.ask_kernel("write-memory") != 1:
            why = "process_vm_writev is refused here"
        weaker.append(f"{' and '.join(host_calls)} tell of the host: {why}")
    if machine.files and not host.time_namespace:
        weaker.append("this kernel has no time namespaces: the uptime is the host's")
    where = "/sys, /proc" if machine.files else "/sys"
    answered = [name for name in EMULATED if command.audit and emulates(policy, name)]
    size = f"{len(machine.processors)} processors, {machine.memory_bytes >> 20} MiB"
    text = f"{'live' if machine.live else 'static'}: {size} in {', '.join([where, *answered])}"
    return (Enforcement(what="machine view", how=text, weaker="; ".join(weaker)),)


def _emulated_calls(policy: SyscallPolicy, arch: Arch) -> tuple[tuple[int, str, bool], ...]:
    """Return number and name of the calls that the supervisor answers, and whether it answers all of them."""
    from sandbox.abi.tables import syscall_number

    pairs = ((syscall_number(arch, name), name) for name in EMULATED)
    return tuple((number, name, emulates(policy, name)) for number, name in pairs if number is not None)


def _is_refused(policy: SyscallPolicy, name: str) -> bool:
    """Whether no call of that name is made."""
    outcomes = [entry.rule.outcome for entry in policy.rules.get(name, ())] or [policy.default]
    return not any(outcome.action in PERMITTING for outcome in outcomes)
