"""Profile × RootSpec × Filter × HostFeatures → Plan.

The order of steps is written down here and nowhere else; `check.py` proves what must hold of it. Pure: the answers of the
file system and the kernel come in as values.
"""

from __future__ import annotations

from sandbox.abi import uapi
from sandbox.abi.host import HostFeatures
from sandbox.errors import UnsupportedError
from sandbox.plan import fds
from sandbox.plan.build_root import RootSteps, whole_root
from sandbox.plan.check import check_plan
from sandbox.plan.landlock import landlock_step
from sandbox.plan.root import Overlay, RootSpec
from sandbox.plan.steps import (
    AwaitCommand,
    AwaitGo,
    AwaitSupervisor,
    BecomeIds,
    CloexecFrom,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DieWithJanitor,
    DropCapabilities,
    DropGroups,
    EnterRoot,
    Execute,
    ExecuteCommand,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LimitWatches,
    LoopbackUp,
    MapIds,
    NewKeyring,
    NewSession,
    NewTimeNamespace,
    NoNewPrivileges,
    NotDumpable,
    OpenHostProc,
    OpenTerminal,
    Plan,
    PreferForOom,
    PrivateMounts,
    Reap,
    ReportStarted,
    ReserveCommand,
    ResetScheduling,
    ResetSignals,
    RootReadOnly,
    SetAffinity,
    SetHostname,
    SetIoPriority,
    SetLimit,
    SetNice,
    SetWorkdir,
    Step,
)  # fmt: skip
from sandbox.plan.steps_ids import CAPABILITIES, AwaitMaps, BecomeUser, MapPayload, PrepareMaps
from sandbox.policy.profile import LandlockMode, NetworkMode, ProcMode, Profile
from sandbox.record import dataclass, replace

OOM_SCORE = 500
COMMAND_BYTES = 4 << 20  # argv and environment may be a quarter of the stack's limit, which is 2 MiB on most systems; execve(2)
INOTIFY_INSTANCES, INOTIFY_WATCHES = 32, 8192  # a host's user has 128 instances by default (fs.inotify.max_user_instances)
INIT_GRACE_NS = 5_000_000_000  # how long after the wall limit init waits for the supervisor to act


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All that one launch is made of, as values.

    `outside_uid`/`outside_gid` are the host ids that the payload's become. `external_map` means the supervisor writes the maps (root,
    or a range); `ranges` are the (first, count) of the uids and gids of a range, see `MapPayload`.
    `directories` counts the descriptors from `fds.FIRST_EXTRA` on: directories that `joins` (cgroup.procs files),
    `removals` (cgroups), `thaws` (freezers) and `entries` (files of the registry) are relative to, by index. `rlimits` are (resource, soft, hard).
    `scheduler` to `affinity` are what the processes get instead of the caller's own, see `api.limits.Scheduling`. `oom_protected` tells that the
    caller's own oom_score_adj is negative. `held` are the indices of descriptors that the janitor keeps open, the locks of volumes,
    `maps` are (volume, index) of user namespaces that map the ids of its files. `uptime_s` is the host's uptime at which the clocks inside begin; 0 where
    they are the host's. `cgroups_made` tells that the files of `joins` exist before init runs, so that it need not wait for them; `moved` that the
    supervisor puts init into its cgroups itself and says so. `filter_bpf` None means that no filter was asked for.
    """

    profile: Profile
    host: HostFeatures
    root: RootSpec
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    outside_uid: int
    outside_gid: int
    filter_bpf: bytes | None
    init_filter_bpf: bytes
    audit: bool = True
    external_map: bool = False
    map_range: bool = False
    ranges: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] = ((), ())
    directories: int = 0
    joins: tuple[tuple[int, str], ...] = ()
    cgroups_made: bool = False
    moved: bool = False
    removals: tuple[tuple[int, str], ...] = ()
    thaws: tuple[tuple[int, str], ...] = ()
    entries: tuple[tuple[int, str], ...] = ()
    held: tuple[int, ...] = ()
    maps: tuple[tuple[str, int], ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    interactive: bool = False
    uptime_s: int = 0
    oom_protected: bool = False
    scheduler: int = 0
    base_nice: int = 0
    nice: int = 0
    io_priority: int = 0
    affinity: tuple[int, ...] = ()


def build_plan(request: Request) -> Plan:
    """Build the plan of one launch.

    Raises:
        UnsupportedError: the host lacks something that the profile insists on.
    """
    host = request.host
    notes: list[str] = []
    as_root = host.uid == 0
    root = whole_root(request, notes)
    inner = inner_namespace(request, notes)
    janitor: list[Step] = [NewSession(), CloseFrom(first=fds.FIRST_EXTRA + request.directories), *keeper_steps(request, root)]
    flags, names = NAMESPACES
    janitor += [CloneInit(flags=flags, names=names), guard(request)]
    init = [*begin_init(request, fds.FIRST_EXTRA), *enter_steps(request, root, own_trees=not as_root, notes=notes)]
    init += [*end_init(request, inner, notes)]
    payload = tuple(payload_steps(request, inner, notes))
    plan = Plan(arch=host.arch, janitor=tuple(janitor), init=tuple(init), payload=payload, notes=tuple(notes))
    check_plan(plan, filtered=request.filter_bpf is not None)
    return plan


def inner_namespace(request: Request, notes: list[str]) -> bool:
    """Whether the payload has a user namespace of its own inside of init's; refuses what this host cannot do."""
    if request.profile.time_namespace and not request.host.time_namespace:
        raise UnsupportedError("time namespaces (Linux 5.6)", "namespaces.time")
    if request.map_range and not request.host.proc_mountable:
        raise UnsupportedError("a fresh /proc", "namespaces.ids", reason="the payload's id map is written through one, and parts of the outer /proc are masked")
    return True


def keeper_steps(request: Request, root: RootSteps) -> list[Step]:
    """Return what a janitor, or the keeper of a server, does before it clones."""
    steps: list[Step] = [ResetScheduling(policy=request.scheduler, nice=request.base_nice)]
    if request.oom_protected:
        steps.append(PreferForOom(score=0, host=True))
    if request.host.uid == 0:
        # Real root takes the trees with its own rights: the payload's host id need not reach them by path.
        steps += [DropGroups(), *_mapped(request, root), *root.devices]
    return steps


def _mapped(request: Request, root: RootSteps) -> list[CloneTree]:
    """Return the steps that take trees, those of named volumes with their ids mapped."""
    maps = {name: fds.FIRST_EXTRA + index for name, index in request.maps}
    return [replace(tree, map_fd=maps[tree.bind.mapped]) if tree.bind.mapped in maps else tree for tree in root.trees]


def guard(request: Request, *, server: bool = False) -> Guard:
    """Return the last step of a janitor or keeper."""

    def placed(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
        return tuple((fds.FIRST_EXTRA + index, path) for index, path in files)

    held = tuple(fds.FIRST_EXTRA + index for index in request.held)
    return Guard(removals=placed(request.removals), thaws=placed(request.thaws), entries=placed(request.entries), held=held, server=server)


def begin_init(request: Request, first_extra: int) -> list[Step]:
    """Return how an init with namespaces of its own begins: report, wait for what the supervisor makes, cgroups, ids."""
    profile = request.profile
    joins = tuple((first_extra + index, path) for index, path in request.joins)
    steps: list[Step] = [ReportStarted()]
    cgroups = bool(joins or request.moved) and not request.cgroups_made
    if request.external_map or cgroups:
        steps.append(AwaitSupervisor(maps=request.external_map, cgroups=cgroups))
    steps += [JoinCgroups(files=joins), OpenHostProc()]
    if request.external_map:
        # Of an image with its own ids, whatever is made over it is its root's.
        steps.append(BecomeIds(uid=0, gid=0) if is_ranged_image(request) else BecomeIds(uid=profile.uid, gid=profile.gid))
    else:
        steps += [MapIds(inside_uid=profile.uid, inside_gid=profile.gid, outside_uid=request.outside_uid, outside_gid=request.outside_gid)]
    return [*steps, DieWithJanitor(), PrivateMounts(), *([PrepareMaps()] if request.map_range else [])]


def is_ranged_image(request: Request) -> bool:
    """Whether the root is an image with the ids that it has itself."""
    return request.map_range and bool(request.profile.image)


def enter_steps(request: Request, root: RootSteps, *, own_trees: bool, notes: list[str]) -> list[Step]:
    """Return how the root is built and entered; `own_trees` where init itself takes the trees."""
    profile, host = request.profile, request.host
    steps: list[Step] = [*root.trees, *root.devices] if own_trees else []
    steps += [*root.shared, *root.stashed]
    if profile.network is NetworkMode.LOOPBACK:
        steps.append(LoopbackUp())
    whole = any(isinstance(entry, Overlay) and entry.path == "/" for entry in request.root.entries)
    steps += [SetHostname(name=profile.hostname), RootReadOnly(path="/dev" if whole else "/")]
    if request.interactive:
        steps.append(OpenTerminal())
    if not host.root_pivotable:
        notes.append("the host runs on its initial ramfs: entered the root by chroot instead of pivot_root")
    return [*steps, EnterRoot(pivot=host.root_pivotable, stage=whole)]


def end_init(request: Request, inner: bool, notes: list[str], *, own_namespace: bool = True, watches: bool = True) -> list[Step]:
    """Return how an init that stands in its root goes on, to its end.

    Args:
        request: the launch.
        inner: whether the payload gets a user namespace of its own.
        notes: grows.
        own_namespace: whether init's user namespace is the run's own, so that its limits are; else the payload sets them in the inner one.
        watches: whether inotify needs a limit, see `namespace_limits`.
    """
    profile = request.profile
    steps: list[Step] = []
    if profile.time_namespace or request.uptime_s:
        steps.append(NewTimeNamespace(monotonic_offset_s=-request.uptime_s, boottime_offset_s=-request.uptime_s))
    if own_namespace:
        steps += namespace_limits(request, 1 if inner else 0, notes, watches=watches)
    if request.map_range:
        steps += _limits_of_all_ids(request)
    return [
        *steps,
        ClonePayload(flags=uapi.CLONE_NEWUSER if inner else 0),
        *([MapPayload(uids=request.ranges[0], gids=request.ranges[1])] if request.map_range else []),
        NotDumpable(),
        CloseFrom(first=0, keep=(fds.STATUS, fds.CONTROL)),
        DropCapabilities(bounding=False),  # that set is for execve, which init's filter kills
        NoNewPrivileges(),
        InstallFilter(bpf=request.init_filter_bpf, policy="init", listener=False),
        Reap(patience_ns=0 if profile.limits.wall_ns is None else profile.limits.wall_ns + INIT_GRACE_NS),
    ]


def _limits_of_all_ids(request: Request) -> list[Step]:
    """Return the limits that count for each id, as those that the payload's namespace takes over for all of its ids together when it is made.

    Source: kernel/user_namespace.c, create_user_ns: set_userns_rlimit_max. Of processes init is one more.
    """
    counted = (uapi.RLIMIT_NPROC, uapi.RLIMIT_MEMLOCK, uapi.RLIMIT_SIGPENDING, uapi.RLIMIT_MSGQUEUE)
    found: list[Step] = []
    for resource, soft, hard in request.rlimits:
        if resource in counted:
            more = int(resource == uapi.RLIMIT_NPROC)
            found.append(SetLimit(resource=resource, name=uapi.RLIMIT_NAMES[resource], soft=soft + more, hard=hard + more, or_less=bool(more)))
    return found


def namespace_limits(request: Request, allowed_users: int, notes: list[str], *, watches: bool) -> list[Step]:
    """Return what is set in user.max_* of a user namespace; nothing of inotify without `watches`: the filter refuses it altogether."""
    steps: list[Step] = []
    if not request.profile.nested_namespaces:
        if request.host.user_namespace_sysctl:
            steps.append(ForbidNamespaces(allowed_users=allowed_users))
        else:
            notes.append(
                "user.max_*_namespaces cannot be written here (/proc/sys is read-only): nested namespaces are refused by the filter alone"
            )
    if request.host.user_namespace_sysctl and watches:
        steps.append(LimitWatches(instances=INOTIFY_INSTANCES, watches=INOTIFY_WATCHES))
    return steps


def _namespaces() -> tuple[int, tuple[str, ...]]:
    pairs = (
        ("user", uapi.CLONE_NEWUSER), ("mount", uapi.CLONE_NEWNS), ("pid", uapi.CLONE_NEWPID),
        ("net", uapi.CLONE_NEWNET), ("ipc", uapi.CLONE_NEWIPC), ("uts", uapi.CLONE_NEWUTS),
    )  # fmt: skip
    flags = 0
    for _, flag in pairs:
        flags |= flag
    return flags, tuple(name for name, _ in pairs)


NAMESPACES = _namespaces()
"""What a run has of its own: the clone flags, and their names."""


def payload_steps(
    request: Request, inner: bool, notes: list[str], *, own_limits: bool = False, waits: bool = False, watches: bool = True
) -> list[Step]:
    """Return what becomes the payload.

    Args:
        request: the launch.
        inner: whether it is in a user namespace of its own.
        notes: grows.
        own_limits: whether the limits of namespaces are to be set in that one, because the one above is shared.
        waits: whether it is told what to execute only when all is done.
        watches: whether inotify needs a limit, see `namespace_limits`.
    """
    profile, host = request.profile, request.host
    steps: list[Step] = []
    if request.map_range:
        steps.append(AwaitMaps())
        if is_ranged_image(request):
            steps.append(BecomeUser(uid=profile.uid, gid=profile.gid))
    elif inner:
        steps.append(MapIds(inside_uid=profile.uid, inside_gid=profile.gid, outside_uid=profile.uid, outside_gid=profile.gid, inner=True))
    if own_limits:
        steps += namespace_limits(request, 0, notes, watches=watches)
    steps += [PreferForOom(score=OOM_SCORE), CloexecFrom(first=3), NewSession(terminal=request.interactive)]
    if request.nice > request.base_nice:
        steps.append(SetNice(nice=request.nice))
    steps.append(SetIoPriority(value=request.io_priority))
    if request.affinity:
        steps.append(SetAffinity(processors=request.affinity))
    steps += [SetLimit(resource=r, name=uapi.RLIMIT_NAMES[r], soft=soft, hard=hard) for r, soft, hard in request.rlimits]
    if host.keyrings:
        steps.append(NewKeyring())
    steps += [ResetSignals(), SetWorkdir(path=request.root.workdir)]
    # The root of an image owns its files, and becomes its other users, in a namespace that owns nothing else.
    keep = tuple(sorted(CAPABILITIES.values())) if is_ranged_image(request) and profile.uid == 0 else ()
    steps += [DropCapabilities(keep=keep), NoNewPrivileges()]
    wall = landlock_step(request.root, host.landlock_abi, proc_writable=profile.proc is ProcMode.FULL)
    match profile.landlock:
        case LandlockMode.OFF:
            notes.append("Landlock is off: asked for by the profile")
        case LandlockMode.REQUIRED if wall is None:
            raise UnsupportedError(
                "Landlock", "landlock", hint='boot with `lsm=landlock,...`, or set `landlock = "best-effort"` in the profile'
            )
        case _ if wall is None:
            notes.append("Landlock is absent on this kernel: paths are held by mounts alone")
        case _:
            steps.append(wall)
    if request.filter_bpf is not None:
        steps.append(
            InstallFilter(bpf=request.filter_bpf, policy=profile.policy, listener=request.audit, wait_killable=host.notify_wait_killable)
        )
    if waits:
        return [ReserveCommand(size_bytes=COMMAND_BYTES), *steps, AwaitCommand(size_bytes=COMMAND_BYTES), ExecuteCommand()]
    return [*steps, AwaitGo(), Execute(path=request.root.argv0, argv=request.argv, environment=request.environment)]
