"""The plan: typed steps that say what they are for.

Every step is a frozen value with `describe()`; `lower.py` turns it into rows. A new feature is a new step and its
lowering, never new code after the fork. Steps are listed in the order in which a launch meets them.
"""

from __future__ import annotations

from typing import TypeAlias

from sandbox.plan.steps_mounts import (
    AttachTree,
    CloneDevice,
    CloneTree,
    EnterRoot,
    MakeDirectory,
    MakeSymlink,
    MaskProc,
    MountDevpts,
    MountProc,
    MountRoot,
    MountTmpfs,
    OpenHostProc,
    OpenTerminal,
    PrivateMounts,
    RootReadOnly,
    WriteFile,
)
from sandbox.plan.steps_processes import (
    AwaitGo,
    AwaitSupervisor,
    BecomeIds,
    CloexecFrom,
    CloneInit,
    ClonePayload,
    CloseFrom,
    DieWithJanitor,
    DropCapabilities,
    DropGroups,
    Execute,
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
from sandbox.record import dataclass

Step: TypeAlias = (
    NewSession | CloseFrom | CloneInit | Guard | DieWithJanitor | ReportStarted | JoinCgroups | MapIds | AwaitSupervisor | BecomeIds | DropGroups
    | PrivateMounts | OpenHostProc | CloneTree | CloneDevice | MountRoot | MakeDirectory | MakeSymlink | WriteFile | AttachTree | MountTmpfs
    | MountProc | MaskProc | MountDevpts | OpenTerminal | LoopbackUp | SetHostname | NewTimeNamespace | RootReadOnly | EnterRoot
    | ForbidNamespaces | LimitWatches | ClonePayload | NotDumpable | CloexecFrom | ResetScheduling | SetNice | SetIoPriority
    | SetAffinity | SetLimit | NewKeyring | PreferForOom | RestrictLandlock | ResetSignals
    | SetWorkdir | DropCapabilities | NoNewPrivileges | InstallFilter | AwaitGo | Execute | Reap
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole launch, in order, by process.

    `janitor` ends in CloneInit and Guard, `init` in ClonePayload and Reap, `payload` in Execute. `notes` says what is weaker than asked, and why.
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
    "AttachTree",
    "AwaitGo",
    "AwaitSupervisor",
    "BecomeIds",
    "CloexecFrom",
    "CloneDevice",
    "CloneInit",
    "ClonePayload",
    "CloneTree",
    "CloseFrom",
    "DieWithJanitor",
    "DropCapabilities",
    "DropGroups",
    "EnterRoot",
    "Execute",
    "ForbidNamespaces",
    "Guard",
    "InstallFilter",
    "JoinCgroups",
    "LimitWatches",
    "LoopbackUp",
    "MakeDirectory",
    "MakeSymlink",
    "MapIds",
    "MaskProc",
    "MountDevpts",
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
    "PrivateMounts",
    "Reap",
    "ReportStarted",
    "ResetScheduling",
    "ResetSignals",
    "RestrictLandlock",
    "RootReadOnly",
    "SetAffinity",
    "SetHostname",
    "SetIoPriority",
    "SetLimit",
    "SetNice",
    "SetWorkdir",
    "Step",
    "WriteFile",
]
