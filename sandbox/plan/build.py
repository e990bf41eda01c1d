"""Profile × RootSpec × Filter × HostFeatures → Plan.

The order of steps is written down here and nowhere else; `check.py` proves what must hold of it. Pure: the answers of the
file system and the kernel come in as values.
"""

from __future__ import annotations

from sandbox.abi import uapi
from sandbox.abi.host import HostFeatures
from sandbox.errors import UnsupportedError
from sandbox.plan import fds
from sandbox.plan.check import check_plan
from sandbox.plan.landlock import landlock_step
from sandbox.plan.root import Bind, Directory, FileBytes, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import (
    AttachTree,
    AwaitGo,
    AwaitSupervisor,
    BecomeIds,
    CloexecFrom,
    CloneDevice,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DieWithJanitor,
    DropCapabilities,
    DropGroups,
    EnterRoot,
    Execute,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LimitWatches,
    LoopbackUp,
    MakeDirectory,
    MakeSymlink,
    MapIds,
    MaskProc,
    MountDevpts,
    MountProc,
    MountRoot,
    MountTmpfs,
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
    WriteFile,
)  # fmt: skip
from sandbox.policy.profile import LandlockMode, NetworkMode, ProcMode, Profile
from sandbox.record import dataclass

ROOT_BYTES = 16 << 20
ROOT_INODES = 4096
OOM_SCORE = 500
INOTIFY_INSTANCES, INOTIFY_WATCHES = 32, 8192  # a host's user has 128 instances by default (fs.inotify.max_user_instances)
INIT_GRACE_NS = 5_000_000_000  # how long after the wall limit init waits for the supervisor to act

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))

# What a full procfs tells of the host or lets a holder of the wrong capability do; OCI's masked and read-only paths and more.
PROC_HIDDEN_FILES = (
    "cmdline", "config.gz", "interrupts", "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats",
    "modules", "sched_debug", "slabinfo", "sys/kernel/random/boot_id", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
PROC_HIDDEN_DIRECTORIES = ("acpi", "driver", "scsi")
PROC_READ_ONLY = ("bus", "fs", "irq", "sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All that one launch is made of, as values.

    `outside_uid`/`outside_gid` are the host ids that the payload's become. `external_map` means the supervisor writes the maps (root,
    or a range). `directories` counts the descriptors from `fds.FIRST_EXTRA` on: directories that `joins` (cgroup.procs files),
    `removals` (cgroups), `thaws` (freezers) and `entries` (files of the registry) are relative to, by index. `rlimits` are (resource, soft, hard).
    `scheduler` to `affinity` are what the processes get instead of the caller's own, see `api.limits.Scheduling`. `oom_protected` tells that the
    caller's own oom_score_adj is negative. `filter_bpf` None means that no filter was asked for.
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
    directories: int = 0
    joins: tuple[tuple[int, str], ...] = ()
    removals: tuple[tuple[int, str], ...] = ()
    thaws: tuple[tuple[int, str], ...] = ()
    entries: tuple[tuple[int, str], ...] = ()
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
    profile, host = request.profile, request.host
    notes: list[str] = []
    as_root = host.uid == 0
    trees, devices, build = _root_steps(request, notes)
    if profile.time_namespace and not host.time_namespace:
        raise UnsupportedError("time namespaces (Linux 5.6)", "namespaces.time")

    janitor: list[Step] = [NewSession(), CloseFrom(first=fds.FIRST_EXTRA + request.directories)]
    janitor.append(ResetScheduling(policy=request.scheduler, nice=request.base_nice))
    if request.oom_protected:
        janitor.append(PreferForOom(score=0, host=True))
    if as_root:
        # Real root takes the trees with its own rights: the payload's host id need not reach them by path.
        janitor += [DropGroups(), *trees, *devices]
    flags, names = _namespaces()
    joins = tuple((fds.FIRST_EXTRA + index, path) for index, path in request.joins)
    removals = tuple((fds.FIRST_EXTRA + index, path) for index, path in request.removals)
    thaws = tuple((fds.FIRST_EXTRA + index, path) for index, path in request.thaws)
    entries = tuple((fds.FIRST_EXTRA + index, path) for index, path in request.entries)
    janitor += [CloneInit(flags=flags, names=names), Guard(removals=removals, thaws=thaws, entries=entries)]

    init: list[Step] = [ReportStarted()]
    if request.external_map or joins:
        init.append(AwaitSupervisor(maps=request.external_map, cgroups=bool(joins)))
    init += [JoinCgroups(files=joins), OpenHostProc()]
    if request.external_map:
        init.append(BecomeIds(uid=profile.uid, gid=profile.gid))
    else:
        init += [MapIds(inside_uid=profile.uid, inside_gid=profile.gid, outside_uid=request.outside_uid, outside_gid=request.outside_gid)]
    init += [DieWithJanitor(), PrivateMounts()]
    if not as_root:
        init += [*trees, *devices]
    init += build
    if profile.network is NetworkMode.LOOPBACK:
        init.append(LoopbackUp())
    init += [SetHostname(name=profile.hostname), RootReadOnly()]
    if request.interactive:
        init.append(OpenTerminal())
    init.append(EnterRoot(pivot=host.root_pivotable))
    if not host.root_pivotable:
        notes.append("the host runs on its initial ramfs: entered the root by chroot instead of pivot_root")
    if profile.time_namespace:
        init.append(NewTimeNamespace(monotonic_offset_s=-request.uptime_s, boottime_offset_s=-request.uptime_s))
    inner = not request.map_range
    if not inner:
        notes.append("id range: mounts are held by empty capability sets, not by a second user namespace")
    if not profile.nested_namespaces:
        if host.user_namespace_sysctl:
            init.append(ForbidNamespaces(allowed_users=1 if inner else 0))
        else:
            notes.append(
                "user.max_*_namespaces cannot be written here (/proc/sys is read-only): nested namespaces are refused by the filter alone"
            )
    if host.user_namespace_sysctl:
        init.append(LimitWatches(instances=INOTIFY_INSTANCES, watches=INOTIFY_WATCHES))
    init += [
        ClonePayload(flags=uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS if inner else 0),
        NotDumpable(),
        CloseFrom(first=0, keep=(fds.STATUS, fds.CONTROL)),
        DropCapabilities(),
        NoNewPrivileges(),
        InstallFilter(bpf=request.init_filter_bpf, policy="init", listener=False),
        Reap(patience_ns=0 if profile.limits.wall_ns is None else profile.limits.wall_ns + INIT_GRACE_NS),
    ]
    payload = tuple(_payload_steps(request, inner, notes))
    plan = Plan(arch=host.arch, janitor=tuple(janitor), init=tuple(init), payload=payload, notes=tuple(notes))
    check_plan(plan, filtered=request.filter_bpf is not None)
    return plan


def _namespaces() -> tuple[int, tuple[str, ...]]:
    pairs = (
        ("user", uapi.CLONE_NEWUSER), ("mount", uapi.CLONE_NEWNS), ("pid", uapi.CLONE_NEWPID),
        ("net", uapi.CLONE_NEWNET), ("ipc", uapi.CLONE_NEWIPC), ("uts", uapi.CLONE_NEWUTS),
    )  # fmt: skip
    flags = 0
    for _, flag in pairs:
        flags |= flag
    return flags, tuple(name for name, _ in pairs)


def _payload_steps(request: Request, inner: bool, notes: list[str]) -> list[Step]:
    profile, host = request.profile, request.host
    steps: list[Step] = []
    if inner:
        steps.append(MapIds(inside_uid=profile.uid, inside_gid=profile.gid, outside_uid=profile.uid, outside_gid=profile.gid, inner=True))
    steps += [PreferForOom(score=OOM_SCORE), CloexecFrom(first=3), NewSession(terminal=request.interactive)]
    if request.nice > request.base_nice:
        steps.append(SetNice(nice=request.nice))
    steps.append(SetIoPriority(value=request.io_priority))
    if request.affinity:
        steps.append(SetAffinity(processors=request.affinity))
    steps += [SetLimit(resource=r, name=uapi.RLIMIT_NAMES[r], soft=soft, hard=hard) for r, soft, hard in request.rlimits]
    if host.keyrings:
        steps.append(NewKeyring())
    steps += [ResetSignals(), SetWorkdir(path=request.root.workdir), DropCapabilities(), NoNewPrivileges()]
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
    steps.append(AwaitGo())
    steps.append(Execute(path=request.root.argv0, argv=request.argv, environment=request.environment))
    return steps


def _root_steps(request: Request, notes: list[str]) -> tuple[list[CloneTree], list[CloneDevice], list[Step]]:
    """Return trees to take, devices to take, and the steps that build the root from them."""
    profile = request.profile
    entries = {entry.path: entry for entry in _own_entries(request)}
    entries |= {entry.path: entry for entry in request.root.entries}
    trees: list[CloneTree] = []
    build: list[Step] = [MountRoot(size_bytes=ROOT_BYTES, inodes=ROOT_INODES)]
    made = {"/"}
    for path in sorted(entries, key=lambda p: p.split("/")):
        entry = entries[path]
        within = _covering_bind(path, entries) is not None
        if not within:
            for parent in _parents(path):
                if parent not in made:
                    made.add(parent)
                    build.append(MakeDirectory(path=parent))
        build += _entry_steps(entry, within, path in made, trees)
        made.add(path)
    devices = [CloneDevice(name=name, major=major, minor=minor, key=f"dev:{name}") for name, major, minor in DEVICES]
    for device in devices:
        build += [WriteFile(path=f"/dev/{device.name}", content=b""), AttachTree(path=f"/dev/{device.name}", key=device.key)]
    build.append(MountDevpts())
    if profile.proc is not ProcMode.NONE:
        if not request.host.proc_mountable:
            raise UnsupportedError(
                "a fresh /proc", "namespaces.proc", reason="parts of the outer /proc are masked, so the kernel refuses a new one",
                hint="run the outer container with its /proc unmasked (docker: `--security-opt systempaths=unconfined`), or set `proc = \"none\"`",
            )  # fmt: skip
        build.append(MountProc(minimal=profile.proc is ProcMode.MINIMAL))
        if profile.proc is ProcMode.FULL:
            build.append(MaskProc(files=PROC_HIDDEN_FILES, directories=PROC_HIDDEN_DIRECTORIES, read_only=PROC_READ_ONLY))
    else:
        notes.append("no /proc inside: asked for by the profile")
    return trees, devices, build


def _own_entries(request: Request) -> list[RootEntry]:
    limits = request.profile.limits
    return [
        Directory(path="/proc", mode=0o555),
        Directory(path="/dev"),
        Directory(path="/dev/pts"),
        Directory(path="/var/empty", mode=0o555),
        Tmpfs(path="/dev/shm", size_bytes=limits.shm_bytes, inodes=limits.shm_inodes, executable=False),
        Symlink(path="/dev/fd", target="/proc/self/fd"),
        Symlink(path="/dev/stdin", target="/proc/self/fd/0"),
        Symlink(path="/dev/stdout", target="/proc/self/fd/1"),
        Symlink(path="/dev/stderr", target="/proc/self/fd/2"),
        Symlink(path="/dev/ptmx", target="pts/ptmx"),
    ]


def _entry_steps(entry: RootEntry, within: bool, made: bool, trees: list[CloneTree]) -> list[Step]:
    match entry:
        case Directory(path=path, mode=mode):
            return [] if made else [MakeDirectory(path=path, mode=mode)]
        case Symlink(path=path, target=target):
            return [MakeSymlink(path=path, target=target)]
        case FileBytes(path=path, content=content, mode=mode):
            return [WriteFile(path=path, content=content, mode=mode)]
        case Tmpfs(path=path, size_bytes=size, inodes=inodes, mode=mode, executable=executable):
            point: list[Step] = [] if made or within else [MakeDirectory(path=path)]
            return [*point, MountTmpfs(path=path, size_bytes=size, inodes=inodes, mode=mode, executable=executable)]
        case Bind(path=path, directory=directory):
            key = f"tree:{len(trees)}"
            trees.append(CloneTree(bind=entry, key=key))
            ground: list[Step] = []
            if not within and not made:
                ground.append(MakeDirectory(path=path) if directory else WriteFile(path=path, content=b"", mode=0o444))
            return [*ground, AttachTree(path=path, key=key, within=within)]


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def _covering_bind(path: str, entries: dict[str, RootEntry]) -> str | None:
    """The nearest entry above `path` that is a shared tree and not hidden by a tmpfs in between, or None."""
    for parent in reversed(_parents(path)):
        match entries.get(parent):
            case Bind():
                return parent
            case Tmpfs():
                return None
            case _:
                continue
    return None
