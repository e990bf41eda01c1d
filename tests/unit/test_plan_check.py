"""The proof of a plan's order can fail: each confinement removed or moved, each bad path, each tolerated row is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sandbox.abi.host import HostFeatures
from sandbox.errors import InternalError
from sandbox.plan import fds
from sandbox.plan.build import Request, build_plan
from sandbox.plan.check import check_plan, check_table
from sandbox.plan.codec import Op
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Bind, RootSpec, Tmpfs
from sandbox.plan.steps import (
    AttachTree,
    AwaitGo,
    CloexecFrom,
    CloneInit,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DropCapabilities,
    EnterRoot,
    Execute,
    Guard,
    InstallFilter,
    JoinCgroups,
    MakeDirectory,
    MakeSymlink,
    MountDevpts,
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
)  # fmt: skip
from sandbox.policy.profile import Profile

PLAN = build_plan(
    Request(
        profile=Profile(name="p", description="", path="p.toml", policy="strict"),
        host=HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1001, landlock_abi=6),
        root=RootSpec(
            entries=(Bind(path="/usr", source="/usr", directory=True), Tmpfs(path="/tmp", size_bytes=1, inodes=1)), workdir="/", argv0="/usr/bin/true"
        ),
        argv=("true",), environment=(), outside_uid=1001, outside_gid=1001, filter_bpf=bytes(8), init_filter_bpf=bytes(8), rlimits=((7, 1, 1),),
    )
)  # fmt: skip


def change(section: str, edit: Callable[[list[Step]], object]) -> Plan:
    """Return the plan with one section edited in place."""
    steps = list(getattr(PLAN, section))
    edit(steps)
    return replace(PLAN, **{section: tuple(steps)})


def place(steps: list[Step], kind: type[Step]) -> int:
    """Return where the last step of a kind is."""
    return max(index for index, step in enumerate(steps) if isinstance(step, kind))


def move(kind: type[Step], index: int) -> Callable[[list[Step]], object]:
    """Return an edit that moves the last step of a kind."""
    return lambda steps: steps.insert(index, steps.pop(place(steps, kind)))


def test_the_plan_itself_is_sound() -> None:
    check_plan(PLAN, filtered=True)


REQUIRED = (
    *(("janitor", kind) for kind in (NewSession, CloseFrom, CloneInit, Guard)),
    *(("init", kind) for kind in (JoinCgroups, PrivateMounts, MountRoot, MountDevpts, RootReadOnly, EnterRoot, ClonePayload, NotDumpable, CloseFrom,
                                  DropCapabilities, NoNewPrivileges, InstallFilter, Reap)),
    *(("payload", kind) for kind in (CloexecFrom, NewSession, DropCapabilities, NoNewPrivileges, InstallFilter, AwaitGo, Execute)),
)  # fmt: skip


@pytest.mark.parametrize(("section", "kind"), REQUIRED)
def test_nothing_that_confines_may_be_missing(section: str, kind: type[Step]) -> None:
    with pytest.raises(InternalError, match="plan check"):
        check_plan(change(section, lambda steps: steps.pop(place(steps, kind))), filtered=True)


@pytest.mark.parametrize(("section", "edit"), [
    ("payload", move(InstallFilter, 0)),
    ("payload", move(InstallFilter, -1)),
    ("payload", move(NoNewPrivileges, 0)),
    ("payload", move(DropCapabilities, 0)),
    ("payload", move(SetLimit, -1)),
    ("payload", move(NewKeyring, -4)),
    ("payload", move(RestrictLandlock, 0)),
    ("payload", move(Execute, 0)),
    ("payload", move(AwaitGo, 0)),
    ("init", move(RootReadOnly, 0)),
    ("init", move(PrivateMounts, -8)),
    ("init", move(EnterRoot, 5)),
    ("init", move(MountTmpfs, -8)),
    ("init", move(DropCapabilities, 0)),
    ("init", move(InstallFilter, 0)),
    ("init", move(JoinCgroups, -8)),
    ("janitor", move(CloseFrom, 0)),
    ("janitor", move(Guard, 0)),
    ("payload", lambda steps: steps.append(steps[0])),
    ("payload", lambda steps: steps.insert(0, MakeDirectory(path="/x"))),
    ("payload", lambda steps: steps.insert(0, AttachTree(path="/usr", key="tree:0"))),
    ("init", lambda steps: steps.append(steps[0])),
])  # fmt: skip
def test_order_is_proved(section: str, edit: Callable[[list[Step]], object]) -> None:
    with pytest.raises(InternalError, match="plan check") as caught:
        check_plan(change(section, edit), filtered=True)
    assert caught.value.hint == "please report this; nothing was started"


@pytest.mark.parametrize("path", ["", "relative", "/a/../b", "/a/./b", "/a//b", "/a/", "/..", "//a", "/."])
def test_targets_are_absolute_and_normal(path: str) -> None:
    with pytest.raises(InternalError, match="not absolute and normal"):
        check_plan(change("init", lambda steps: steps.insert(place(steps, MountRoot) + 1, MakeDirectory(path=path))), filtered=True)


@pytest.mark.parametrize("edit", [
    lambda steps: steps.pop(place(steps, CloneTree)),
    lambda steps: steps.insert(place(steps, CloneTree), steps[place(steps, CloneTree)]),
    lambda steps: steps.pop(place(steps, AttachTree)),
    lambda steps: steps.insert(place(steps, AttachTree), steps[place(steps, AttachTree)]),
])  # fmt: skip
def test_every_tree_is_attached_once(edit: Callable[[list[Step]], object]) -> None:
    with pytest.raises(InternalError, match="every tree that is taken is attached once"):
        check_plan(change("init", edit), filtered=True)


def test_removals_may_not_overlap_our_descriptors() -> None:
    with pytest.raises(InternalError, match="overlap"):
        check_plan(change("janitor", lambda steps: steps.__setitem__(-1, Guard(removals=((fds.GO, "x"),)))), filtered=True)


def test_a_filter_is_needed_where_one_is_asked_for() -> None:
    unfiltered = change("payload", lambda steps: steps.pop(place(steps, InstallFilter)))
    check_plan(unfiltered, filtered=False)
    with pytest.raises(InternalError):
        check_plan(unfiltered, filtered=True)


@pytest.mark.parametrize("step", [MakeDirectory(path="/usr/made"), MakeDirectory(path="/usr/a/b"), WriteFile(path="/usr/x", content=b""),
                                  MakeSymlink(path="/usr/l", target="x")])  # fmt: skip
def test_nothing_is_made_in_a_shared_tree(step: Step) -> None:
    with pytest.raises(InternalError, match="would be made in the shared tree `/usr`"):
        check_plan(change("init", lambda steps: steps.insert(place(steps, MountDevpts), step)), filtered=True)


# ---- the table -----------------------------------------------------------------------------------------------------------


def test_rows_that_go_on_after_an_error_are_refused() -> None:
    table = lower_plan(PLAN)
    check_table(PLAN, table)
    steps = PLAN.steps()
    for index, row in enumerate(table.rows):
        if isinstance(steps[row.step], (InstallFilter, NoNewPrivileges, AttachTree)):
            rows = (*table.rows[:index], replace(row, tolerate=(1,)), *table.rows[index + 1 :])
            with pytest.raises(InternalError, match="goes on after an error"):
                check_table(PLAN, replace(table, rows=rows))


def test_clones_that_are_missing_or_go_back_are_refused() -> None:
    table = lower_plan(PLAN)
    clones = [index for index, row in enumerate(table.rows) if row.op is Op.CLONE]
    for index in clones:
        for rows in (
            (*table.rows[:index], *table.rows[index + 1 :]),
            (*table.rows[:index], replace(table.rows[index], number=index), *table.rows[index + 1 :]),
            (*table.rows[:index], replace(table.rows[index], number=len(table.rows)), *table.rows[index + 1 :]),
        ):
            with pytest.raises(InternalError):
                check_table(PLAN, replace(table, rows=rows))
