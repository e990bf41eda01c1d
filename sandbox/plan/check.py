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
    AwaitGo,
    CloexecFrom,
    CloneDevice,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DropCapabilities,
    EnterRoot,
    Execute,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LimitWatches,
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

_BUILDS_ROOT = (MountRoot, MakeDirectory, MakeSymlink, WriteFile, AttachTree, MountTmpfs, MountProc, MaskProc, MountDevpts)
# The only steps that may go on after an error, and why: a capability number, a /proc file, a namespace type or inotify that this kernel does not have; a
# process that is dead already; a supervisor that is gone; a cgroup or an entry that somebody else removed.
_TOLERANT = (DropCapabilities, MaskProc, ForbidNamespaces, LimitWatches, Guard)


def check_plan(plan: Plan, *, filtered: bool) -> None:
    """Prove the invariants of a plan's order and paths.

    Args:
        plan: a finished plan.
        filtered: whether the payload must end up under a filter.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    _sequence("janitor", plan.janitor, (NewSession, CloseFrom, CloneInit, Guard))
    _ends("janitor", plan.janitor, (CloneInit, Guard))
    _sequence("init", plan.init, (JoinCgroups, PrivateMounts, MountRoot, MountDevpts, RootReadOnly, EnterRoot, ClonePayload, NotDumpable))
    _ends("init", plan.init, (ClonePayload, NotDumpable, CloseFrom, DropCapabilities, NoNewPrivileges, InstallFilter, Reap))
    confine: tuple[type[Step], ...] = (CloexecFrom, NewSession, DropCapabilities, NoNewPrivileges)
    last: tuple[type[Step], ...] = (InstallFilter, AwaitGo, Execute) if filtered else (AwaitGo, Execute)
    _sequence("payload", plan.payload, confine + last)
    _ends("payload", plan.payload, last)
    entered = _index(plan.init, EnterRoot)
    for position, step in enumerate(plan.init):
        _require(not isinstance(step, _BUILDS_ROOT) or position < entered, f"`{step.describe()}` comes after the root was entered")
    for step in plan.payload:
        _require(not isinstance(step, (*_BUILDS_ROOT, CloneTree, CloneDevice)), f"the payload takes a mount step: `{step.describe()}`")
        if isinstance(step, (SetLimit, NewKeyring, MapIds)):
            _require(
                plan.payload.index(step) < _index(plan.payload, DropCapabilities), f"`{step.describe()}` needs rights that were dropped"
            )
        if isinstance(step, RestrictLandlock):
            _require(plan.payload.index(step) > _index(plan.payload, NoNewPrivileges), "Landlock comes before no_new_privs")
    _check_trees(plan)
    for path in _targets(plan.steps()):
        _require(path.startswith("/") and path == _normal(path), f"target `{path}` is not absolute and normal")
    _check_ground(plan.init)


def _check_ground(steps: Iterable[Step]) -> None:
    """Nothing is made inside a shared tree: in a writable one that would be a change of the host."""
    ours = {"/": True}
    for step in steps:
        match step:
            case AttachTree(path=path):
                ours[path] = False
            case MountTmpfs(path=path):
                ours[path] = True
            case MakeDirectory(path=path) | MakeSymlink(path=path) | WriteFile(path=path):
                parent = path.rpartition("/")[0]
                while parent and parent not in ours:
                    parent = parent.rpartition("/")[0]
                _require(ours[parent or "/"], f"`{path}` would be made in the shared tree `{parent}`")
            case _:
                pass


def check_table(plan: Plan, table: Table) -> None:
    """Prove that every row's failure is fatal unless its step is one that may go on.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    steps = plan.steps()
    clones = [row for row in table.rows if row.op is Op.CLONE]
    _require(len(clones) == 2, "a table must have exactly two clones")
    for index, row in enumerate(table.rows):
        step = steps[row.step]
        _require(not row.tolerate or isinstance(step, _TOLERANT), f"row {index} (`{row.label}`) goes on after an error")
    for row in clones:
        _require(table.rows.index(row) < row.number < len(table.rows), "a clone's child must continue further down")


def _check_trees(plan: Plan) -> None:
    taken = [step.key for step in plan.steps() if isinstance(step, (CloneTree, CloneDevice))]
    attached = [step.key for step in plan.steps() if isinstance(step, AttachTree)]
    _require(sorted(taken) == sorted(attached) and len(set(taken)) == len(taken), "every tree that is taken is attached once")
    removals = [fd for step in plan.janitor if isinstance(step, Guard) for fd, _ in step.removals + step.thaws + step.entries]
    _require(all(fd >= fds.FIRST_EXTRA for fd in removals), "descriptors of cgroups and entries overlap the fixed ones")


def _targets(steps: Iterable[Step]) -> Iterable[str]:
    for step in steps:
        if isinstance(step, (MakeDirectory, MakeSymlink, WriteFile, AttachTree, MountTmpfs)):
            yield step.path


def _normal(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/" + "/".join(parts)


def _sequence(name: str, steps: tuple[Step, ...], kinds: tuple[type[Step], ...]) -> None:
    """Each kind occurs, and its last occurrence comes before the last of the next kind."""
    places = [_index(steps, kind) for kind in kinds]
    _require(places == sorted(places), f"{name}: steps out of order: {', '.join(kind.__name__ for kind in kinds)}")


def _ends(name: str, steps: tuple[Step, ...], kinds: tuple[type[Step], ...]) -> None:
    tail = steps[-len(kinds) :]
    _require(tuple(type(step) for step in tail) == kinds, f"{name}: does not end in {', '.join(kind.__name__ for kind in kinds)}")


def _index(steps: tuple[Step, ...], kind: type[Step]) -> int:
    """The place of the last step of a kind."""
    places = [position for position, step in enumerate(steps) if isinstance(step, kind)]
    _require(bool(places), f"no step `{kind.__name__}`")
    return places[-1]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InternalError(f"plan check: {what}", hint="please report this; nothing was started")
