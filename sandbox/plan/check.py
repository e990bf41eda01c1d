"""What must hold of every plan, whatever the profile says; `build_plan` asks before it hands one out.

The order of steps is security: a filter before the mounts would break them, a mount after the filter would mean a hole in
the filter. So the order is not only written down (in `build.py`) but proved, here, of the finished value. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.errors import InternalError
from sandbox.plan import fds
from sandbox.plan.codec import Op, Table
from sandbox.plan.steps import (
    AttachTree,
    AwaitCommand,
    AwaitGo,
    AwaitMaps,
    Become,
    BecomeUser,
    BeginSkeleton,
    CloexecFrom,
    CloneDevice,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    CoverPath,
    DropCapabilities,
    EnterRoot,
    Execute,
    ExecuteCommand,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LimitWatches,
    LinkFile,
    MakeDirectory,
    MakeSymlink,
    MapIds,
    MapPayload,
    MaskProc,
    MountDevpts,
    MountLive,
    MountOverlay,
    MountProc,
    MountRoot,
    MountTmpfs,
    NewKeyring,
    NewSession,
    NoNewPrivileges,
    NotDumpable,
    Plan,
    PrivateMounts,
    Reap,
    RestrictLandlock,
    RootReadOnly,
    SetLimit,
    Step,
    WriteFile,
)
from sandbox.plan.steps_ids import CAPABILITIES

BUILDS_ROOT = (
    MountRoot, MakeDirectory, MakeSymlink, WriteFile, LinkFile, AttachTree, MountTmpfs, BeginSkeleton, MountOverlay, MountLive, MountProc, MaskProc,
    CoverPath, MountDevpts,
)  # fmt: skip
# The only steps that may go on after an error, and why: a capability number, a /proc file, a namespace type or inotify that this kernel does not have; a
# process that is dead already; a supervisor that is gone; a cgroup or an entry that somebody else removed.
_TOLERANT = (DropCapabilities, MaskProc, CoverPath, ForbidNamespaces, LimitWatches, Guard)


def check_plan(plan: Plan, *, filtered: bool) -> None:
    """Prove the invariants of a plan's order and paths.

    Args:
        plan: a finished plan.
        filtered: whether the payload must end up under a filter.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    check_sequence("janitor", plan.janitor, (NewSession, CloseFrom, CloneInit, Guard))
    check_end("janitor", plan.janitor, (CloneInit, Guard))
    check_sequence(
        "init", plan.init, (JoinCgroups, PrivateMounts, MountRoot, MountDevpts, RootReadOnly, EnterRoot, ClonePayload, NotDumpable)
    )
    check_init_end(plan)
    entered = _index(plan.init, EnterRoot)
    for position, step in enumerate(plan.init):
        require(not isinstance(step, BUILDS_ROOT) or position < entered, f"`{step.describe()}` comes after the root was entered")
    check_payload(plan, filtered=filtered)
    _check_trees(plan)
    check_targets(plan)
    check_ground(plan.init)
    check_root(plan.init)


def check_root(steps: tuple[Step, ...]) -> None:
    """A root that is an overlay has a skeleton, and what is read-only there is /dev: the root is the run's own. Every other root is read-only itself."""
    whole = [position for position, step in enumerate(steps) if isinstance(step, MountOverlay) and step.path == "/"]
    sealed = {step.path for step in steps if isinstance(step, RootReadOnly)}
    if whole:
        require(len(whole) == 1 and _index(steps, BeginSkeleton) < whole[0], "a root of layers has no skeleton")
        ours = set[str]()  # mount points of our own tmpfs, in which there is no link but ours
        for step in steps[whole[0] :]:
            if isinstance(step, (AttachTree, MountTmpfs)):
                parents = {step.path[:at] for at in range(1, len(step.path)) if step.path[at] == "/"}
                require(step.within or bool(parents & ours), f"`{step.describe()}` would follow the links of an image")
                if isinstance(step, MountTmpfs):
                    ours.add(step.path)
    else:
        require(not any(isinstance(step, BeginSkeleton) for step in steps), "a skeleton without an overlay")
    require(all(step.stage == bool(whole) for step in steps if isinstance(step, EnterRoot)), "the stage of an overlay is left mounted, or there is none")
    require(sealed == {"/dev" if whole else "/"}, "the root, or the /dev of an image, can be written to")


def check_init_end(plan: Plan) -> None:
    """Prove that init clones the payload, gives it its ids where it needs them, and has nothing left when it reaps."""
    mapped = [position for position, step in enumerate(plan.init) if isinstance(step, MapPayload)]
    require(mapped in ([], [_index(plan.init, ClonePayload) + 1]), "the payload's ids are mapped anywhere but right after it was cloned")
    steps = tuple(step for step in plan.init if not isinstance(step, MapPayload))
    check_end("init", steps, (ClonePayload, NotDumpable, CloseFrom, DropCapabilities, NoNewPrivileges, InstallFilter, Reap))


def check_payload(plan: Plan, *, filtered: bool) -> None:
    """Prove the order of the payload's own steps: rights are used, dropped, and the filter is last before it is let go."""
    confine: tuple[type[Step], ...] = (CloexecFrom, NewSession, DropCapabilities, NoNewPrivileges)
    waits = any(isinstance(step, AwaitCommand) for step in plan.payload)
    last: tuple[type[Step], ...] = (AwaitCommand, ExecuteCommand) if waits else (AwaitGo, Execute)
    if any(isinstance(step, Become) for step in plan.payload):
        last = (AwaitGo, Become)
        before = plan.payload[_index(plan.payload, InstallFilter if filtered else AwaitGo) - 1]
        require(isinstance(before, CloseFrom) and before.first == 3, "an interpreter goes on with descriptors of ours")
    if filtered:
        last = (InstallFilter, *last)
    check_sequence("payload", plan.payload, confine + last)
    check_end("payload", plan.payload, last)
    mapped = any(isinstance(step, MapPayload) for step in plan.init)
    require(mapped == any(isinstance(step, AwaitMaps) for step in plan.payload), "the payload goes on before its ids are mapped, or waits for nobody")
    for step in plan.payload:
        if isinstance(step, DropCapabilities) and step.keep:
            allowed = mapped and any(isinstance(other, BecomeUser) and other.uid == 0 for other in plan.payload)
            require(allowed and set(step.keep) <= set(CAPABILITIES.values()) and step.bounding, "capabilities that the payload may not keep")
        require(not isinstance(step, (*BUILDS_ROOT, CloneTree, CloneDevice)), f"the payload takes a mount step: `{step.describe()}`")
        if isinstance(step, (SetLimit, NewKeyring, MapIds, ForbidNamespaces, LimitWatches)):
            require(
                plan.payload.index(step) < _index(plan.payload, DropCapabilities), f"`{step.describe()}` needs rights that were dropped"
            )
        if isinstance(step, RestrictLandlock):
            require(plan.payload.index(step) > _index(plan.payload, NoNewPrivileges), "Landlock comes before no_new_privs")


def check_targets(plan: Plan) -> None:
    """Prove that every path that is made or mounted on is absolute and normal."""
    for path in _targets(plan.steps()):
        require(path.startswith("/") and path == _normal(path), f"target `{path}` is not absolute and normal")


def check_ground(steps: Iterable[Step]) -> None:
    """Nothing is made inside a shared tree: in a writable one that would be a change of the host."""
    ours = {"/": True}
    for step in steps:
        match step:
            case AttachTree(path=path) | MountOverlay(path=path):
                ours[path] = False  # in an overlay it would be kept with the changes, or made where a link leads
            case MountTmpfs(path=path):
                ours[path] = True
            case MountLive(path=path):
                ours[path] = False  # it is the supervisor's from then on
            case MakeDirectory(path=path) | MakeSymlink(path=path) | WriteFile(path=path) | LinkFile(path=path):
                parent = path.rpartition("/")[0]
                while parent and parent not in ours:
                    parent = parent.rpartition("/")[0]
                require(ours[parent or "/"], f"`{path}` would be made in the shared tree `{parent}`")
            case _:
                pass


def check_table(plan: Plan, table: Table) -> None:
    """Prove that every row's failure is fatal unless its step is one that may go on.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    steps = plan.steps()
    clones = [row for row in table.rows if row.op is Op.CLONE]
    sections = sum(bool(section) for section in (plan.janitor, plan.init, plan.payload))
    require(len(clones) == sections - 1, "a table must have one clone fewer than processes")
    for index, row in enumerate(table.rows):
        step = steps[row.step]
        allowed = isinstance(step, _TOLERANT) or (isinstance(step, SetLimit) and step.or_less and step in plan.init)
        require(not row.tolerate or allowed, f"row {index} (`{row.label}`) goes on after an error")
    for row in clones:
        require(table.rows.index(row) < row.number < len(table.rows), "a clone's child must continue further down")


def _check_trees(plan: Plan) -> None:
    taken = [step.key for step in plan.steps() if isinstance(step, (CloneTree, CloneDevice))]
    attached = [step.key for step in plan.steps() if isinstance(step, AttachTree)]
    for step in plan.steps():
        if isinstance(step, MountOverlay):
            attached += [*step.lowers, *filter(None, (step.upper,))]
            require(bool(step.lowers) and (bool(step.upper) or step.size_bytes > 0), f"the overlay at `{step.path}` has no layer, or its changes no cap")
    require(sorted(taken) == sorted(attached) and len(set(taken)) == len(taken), "every tree that is taken is attached once")
    removals = [fd for step in plan.janitor if isinstance(step, Guard) for fd, _ in step.removals + step.thaws + step.entries]
    require(all(fd >= fds.FIRST_EXTRA for fd in removals), "descriptors of cgroups and entries overlap the fixed ones")


def _targets(steps: Iterable[Step]) -> Iterable[str]:
    for step in steps:
        if isinstance(
            step, (MakeDirectory, MakeSymlink, WriteFile, LinkFile, AttachTree, MountTmpfs, MountOverlay, MountLive, CoverPath, RootReadOnly)
        ):
            yield step.path
        if isinstance(step, (LinkFile, CoverPath)):
            yield step.source


def _normal(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/" + "/".join(parts)


def check_sequence(name: str, steps: tuple[Step, ...], kinds: tuple[type[Step], ...]) -> None:
    """Each kind occurs, and its last occurrence comes before the last of the next kind."""
    places = [_index(steps, kind) for kind in kinds]
    require(places == sorted(places), f"{name}: steps out of order: {', '.join(kind.__name__ for kind in kinds)}")


def check_end(name: str, steps: tuple[Step, ...], kinds: tuple[type[Step], ...]) -> None:
    """The last steps are exactly of these kinds."""
    tail = steps[-len(kinds) :]
    require(tuple(type(step) for step in tail) == kinds, f"{name}: does not end in {', '.join(kind.__name__ for kind in kinds)}")


def _index(steps: tuple[Step, ...], kind: type[Step]) -> int:
    """The place of the last step of a kind."""
    places = [position for position, step in enumerate(steps) if isinstance(step, kind)]
    require(bool(places), f"no step `{kind.__name__}`")
    return places[-1]


def require(holds: bool, what: str) -> None:
    """Raise unless it holds."""
    if not holds:
        raise InternalError(f"plan check: {what}", hint="please report this; nothing was started")
