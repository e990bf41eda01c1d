"""What must hold of a server's plan and of the plans of its runs; `plan.template` asks before it hands one out. Pure."""

from __future__ import annotations

from sandbox.plan import fds
from sandbox.plan.check import (
    BUILDS_ROOT,
    check_end,
    check_ground,
    check_init_end,
    check_payload,
    check_root,
    check_sequence,
    check_targets,
    require,
)
from sandbox.plan.steps import (
    AdoptOrphans,
    AttachTree,
    CloneDevice,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    CoverPath,
    DieWithJanitor,
    Dumpable,
    EnterRoot,
    Execute,
    ForbidNamespaces,
    Guard,
    InheritRoot,
    JoinCgroups,
    KeepHostProc,
    MapIds,
    MountLive,
    MountRoot,
    MountTmpfs,
    NewSession,
    NotDumpable,
    Plan,
    PrivateMounts,
    RootReadOnly,
    Serve,
    TakeStash,
)


def check_server_plan(plan: Plan, *, template: bool) -> None:
    """Prove that a server is alone in its namespaces, that its root is finished before it serves, and that it mounts nothing of a run's.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    require(not plan.payload, "a server has a payload")
    check_sequence("keeper", plan.janitor, (NewSession, CloseFrom, AdoptOrphans, CloneInit, Guard))
    check_end("keeper", plan.janitor, (CloneInit, Guard))
    check_end("server", plan.init, (NotDumpable, Serve))
    if not template:
        require(
            not any(isinstance(step, (*BUILDS_ROOT, CloneTree)) for step in plan.steps()), "a server without a template mounts something"
        )
        return
    check_sequence("server", plan.init, (PrivateMounts, MountRoot, RootReadOnly, EnterRoot, NotDumpable, Serve))
    check_sequence("server", plan.init, (DieWithJanitor, PrivateMounts, KeepHostProc, EnterRoot))
    for step in plan.init:
        require(
            not isinstance(step, (JoinCgroups, MountTmpfs, MountLive, Execute, ClonePayload))
            and (not isinstance(step, CoverPath) or step.path == step.source),
            f"the server takes a step of a run's: `{step.describe()}`",
        )
    check_targets(plan)
    check_ground(plan.init)
    taken = [step.key for step in plan.steps() if isinstance(step, (CloneTree, CloneDevice))]
    attached = [step.key for step in plan.init if isinstance(step, AttachTree)]
    require(set(attached) <= set(taken) and len(set(attached)) == len(attached), "every tree that is attached was taken once")
    removals = [fd for step in plan.janitor if isinstance(step, Guard) for fd, _ in step.removals + step.thaws + step.entries]
    require(all(fds.FIRST_EXTRA <= fd < fds.REQUESTS for fd in removals), "descriptors of cgroups and entries overlap the fixed ones")


def check_run_plan(plan: Plan, *, template: bool, filtered: bool) -> None:
    """Prove that a run begins as its own pid 1, ends as any other, and, in a copy of a server's root, that its payload has nothing over what the server owns.

    Args:
        plan: a finished plan.
        template: whether init lives in a copy of the server's root.
        filtered: whether the payload must end up under a filter.

    Raises:
        InternalError: an invariant does not hold; a bug of ours.
    """
    require(not plan.janitor, "a run of a server has a janitor")
    check_init_end(plan)
    check_payload(plan, filtered=filtered)
    check_targets(plan)
    check_ground(plan.init)
    if not template:
        check_sequence("init", plan.init, (Dumpable, JoinCgroups, PrivateMounts, MountRoot, RootReadOnly, EnterRoot, ClonePayload))
        check_root(plan.init)
        return
    check_sequence("init", plan.init, (InheritRoot, JoinCgroups, DieWithJanitor, ClonePayload))
    stashed = False
    for step in plan.init:
        require(
            not isinstance(step, (MountRoot, EnterRoot, CloneTree, CloneDevice, MapIds)),
            f"a run takes a step of its server: `{step.describe()}`",
        )
        stashed |= isinstance(step, MountTmpfs)
        require(not (stashed and isinstance(step, TakeStash)), "a kept tree is taken after a tmpfs has covered it")
    clone = next(step for step in plan.init if isinstance(step, ClonePayload))
    require(bool(clone.flags), "the payload shares the user namespace that owns the server's root")
    require(any(isinstance(step, MapIds) and step.inner for step in plan.payload), "the payload has no ids of its own namespace")
    require(not any(isinstance(step, ForbidNamespaces) for step in plan.init), "a limit of namespaces that all runs would share")
