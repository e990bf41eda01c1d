"""The plan: typed steps that say what they are for.

Every step is a frozen value with `describe()`; `lower.py` turns it into rows. A new feature is a new step and its
lowering, never new code after the fork. Steps are listed in the order in which a launch meets them.
"""

from __future__ import annotations

from typing import TypeAlias

from sandbox.plan.steps_ids import AwaitMaps, BecomeIds, BecomeUser, DropGroups, MapIds, MapPayload, PrepareMaps
from sandbox.plan.steps_mounts import (
    AttachTree,
    BeginSkeleton,
    CloneDevice,
    CloneTree,
    CoverPath,
    EnterRoot,
    LinkFile,
    MakeDirectory,
    MakeSymlink,
    MaskProc,
    MountDevpts,
    MountLive,
    MountOverlay,
    MountProc,
    MountRoot,
    MountTmpfs,
    OpenHostProc,
    OpenTerminal,
    PrivateMounts,
    RootReadOnly,
    TakeStash,
    WriteFile,
)
from sandbox.plan.steps_processes import (
    AwaitGo,
    AwaitSupervisor,
    CloexecFrom,
    CloneInit,
    ClonePayload,
    CloseFrom,
    DieWithJanitor,
    DropCapabilities,
    Execute,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LimitWatches,
    LoopbackUp,
    NewKeyring,
    NewSession,
    NewTimeNamespace,
    NoNewPrivileges,
    NotDumpable,
    PreferForOom,
    Reap,
    ReportStarted,
    ResetScheduling,
    ResetSignals,
    RestrictLandlock,
    SetAffinity,
    SetHostname,
    SetIoPriority,
    SetLimit,
    SetNice,
    SetWorkdir,
)
from sandbox.plan.steps_served import (
    AdoptOrphans,
    AwaitCommand,
    Become,
    Dumpable,
    ExecuteCommand,
    InheritForked,
    InheritRoot,
    KeepHostProc,
    ReserveCommand,
    Serve,
)
from sandbox.record import dataclass

Step: TypeAlias = (
    NewSession | CloseFrom | CloneInit | Guard | DieWithJanitor | ReportStarted | JoinCgroups | MapIds | AwaitSupervisor | BecomeIds | DropGroups
    | PrivateMounts | OpenHostProc | CloneTree | CloneDevice | MountRoot | MakeDirectory | MakeSymlink | WriteFile | LinkFile | AttachTree | MountTmpfs
    | BeginSkeleton | MountOverlay | MountLive | MountProc | MaskProc | CoverPath | MountDevpts
    | OpenTerminal | LoopbackUp | SetHostname | NewTimeNamespace | RootReadOnly | EnterRoot
    | ForbidNamespaces | LimitWatches | ClonePayload | NotDumpable | CloexecFrom | ResetScheduling | SetNice | SetIoPriority
    | SetAffinity | SetLimit | NewKeyring | PreferForOom | RestrictLandlock | ResetSignals
    | SetWorkdir | DropCapabilities | NoNewPrivileges | InstallFilter | AwaitGo | Execute | Reap
    | AdoptOrphans | KeepHostProc | Serve | InheritRoot | Dumpable | TakeStash | ReserveCommand | AwaitCommand | ExecuteCommand | Become | InheritForked
    | PrepareMaps | MapPayload | AwaitMaps | BecomeUser
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole launch, in order, by process.

    `janitor` ends in CloneInit and Guard, `init` in ClonePayload and Reap, `payload` in Execute. A server's plan has no `payload`: its `init` ends in
    Serve; that of a run that a server starts has no `janitor`. `notes` says what is weaker than asked, and why.
    """

    arch: str
    janitor: tuple[Step, ...]
    init: tuple[Step, ...]
    payload: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def steps(self) -> tuple[Step, ...]:
        """All steps; an index into this tuple is a row's `step`."""
        return self.janitor + self.init + self.payload


__all__ = [
    "AdoptOrphans",
    "AttachTree",
    "AwaitCommand",
    "AwaitGo",
    "AwaitMaps",
    "AwaitSupervisor",
    "Become",
    "BecomeIds",
    "BecomeUser",
    "BeginSkeleton",
    "CloexecFrom",
    "CloneDevice",
    "CloneInit",
    "ClonePayload",
    "CloneTree",
    "CloseFrom",
    "CoverPath",
    "DieWithJanitor",
    "DropCapabilities",
    "DropGroups",
    "Dumpable",
    "EnterRoot",
    "Execute",
    "ExecuteCommand",
    "ForbidNamespaces",
    "Guard",
    "InheritForked",
    "InheritRoot",
    "InstallFilter",
    "JoinCgroups",
    "KeepHostProc",
    "LimitWatches",
    "LinkFile",
    "LoopbackUp",
    "MakeDirectory",
    "MakeSymlink",
    "MapIds",
    "MapPayload",
    "MaskProc",
    "MountDevpts",
    "MountLive",
    "MountOverlay",
    "MountProc",
    "MountRoot",
    "MountTmpfs",
    "NewKeyring",
    "NewSession",
    "NewTimeNamespace",
    "NoNewPrivileges",
    "NotDumpable",
    "OpenHostProc",
    "OpenTerminal",
    "Plan",
    "PreferForOom",
    "PrepareMaps",
    "PrivateMounts",
    "Reap",
    "ReportStarted",
    "ReserveCommand",
    "ResetScheduling",
    "ResetSignals",
    "RestrictLandlock",
    "RootReadOnly",
    "Serve",
    "SetAffinity",
    "SetHostname",
    "SetIoPriority",
    "SetLimit",
    "SetNice",
    "SetWorkdir",
    "Step",
    "TakeStash",
    "WriteFile",
]
