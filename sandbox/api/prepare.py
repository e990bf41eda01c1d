"""From a request to everything a launch needs, without starting anything: load, override, resolve, compile, probe.

What the host cannot enforce refuses here, before a process exists, unless the profile names the fallback.
"""

from __future__ import annotations

import os
import time

from sandbox.abi.arch import Arch
from sandbox.api.enforcing import describe_view, describe_walls, is_refused
from sandbox.api.limits import Chosen, Scheduling, choose_limits
from sandbox.api.recall import recall_filter, recall_policy, recall_profile, recall_without_emulation
from sandbox.api.requesting import uses_reference
from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.errors import PolicyError, SetupError, UnsupportedError
from sandbox.kernel import calls
from sandbox.kernel.probe import probe_host
from sandbox.plan.root import Bind, Overlay, RootSpec
from sandbox.policy.emulation import emulates
from sandbox.policy.model import EMULATED
from sandbox.policy.profile import IdMode, Limits, MachineView, Profile
from sandbox.record import dataclass, field, replace
from sandbox.registry.place import list_hidden
from sandbox.result import Enforcement
from sandbox.rootfs.host import build_root_spec
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

        if not is_refused(policy, "userfaultfd") or calls.ask_kernel("write-memory") != 1:
            # With that call a program could hold up who writes to its memory for as long as it likes.
            policy = recall_without_emulation(policy)
        rooted = all(is_refused(policy, name) for name in ("chroot", "fchroot", "pivot_root"))
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
        enforced=(*describe_walls(profile, policy, compiled, host, command.audit, layered), *describe_view(machine, policy, host, command), *chosen.enforced),
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


def _is_oom_protected() -> bool:
    try:
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            return int(file.read()) < 0
    except (OSError, ValueError):
        return False


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


def _emulated_calls(policy: SyscallPolicy, arch: Arch) -> tuple[tuple[int, str, bool], ...]:
    """Return number and name of the calls that the supervisor answers, and whether it answers all of them."""
    from sandbox.abi.tables import syscall_number

    pairs = ((syscall_number(arch, name), name) for name in EMULATED)
    return tuple((number, name, emulates(policy, name)) for number, name in pairs if number is not None)
