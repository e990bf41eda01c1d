"""Plans of servers and of their runs: what is shared and what is a run's own, which requests can use one server, and what the checks refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox.abi import uapi
from sandbox.abi.host import HostFeatures
from sandbox.errors import InternalError
from sandbox.plan import fds
from sandbox.plan.build import Request, build_plan
from sandbox.plan.check_served import check_run_plan, check_server_plan
from sandbox.plan.root import Bind, Directory, FileBytes, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import (
    AdoptOrphans,
    AttachTree,
    AwaitSupervisor,
    BecomeIds,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DieWithJanitor,
    Dumpable,
    EnterRoot,
    Execute,
    ForbidNamespaces,
    Guard,
    InheritRoot,
    InstallFilter,
    JoinCgroups,
    KeepHostProc,
    LimitWatches,
    LoopbackUp,
    MakeDirectory,
    MakeSymlink,
    MapIds,
    MountDevpts,
    MountProc,
    MountRoot,
    MountTmpfs,
    NewKeyring,
    NewSession,
    NotDumpable,
    OpenTerminal,
    Plan,
    PrivateMounts,
    ReportStarted,
    RootReadOnly,
    Serve,
    SetHostname,
    Step,
    TakeStash,
    WriteFile,
)
from sandbox.plan.template import anew_refusal, build_run_plan, build_server_plan, clone_flags, template_refusal
from sandbox.policy.profile import NetworkMode, ProcMode, Profile

ENTRIES: tuple[RootEntry, ...] = (
    Bind(path="/usr", source="/usr", directory=True),
    Bind(path="/etc/services", source="/etc/services", directory=False),
    Symlink(path="/bin", target="usr/bin"),
    FileBytes(path="/etc/passwd", content=b"me"),
    Tmpfs(path="/tmp", size_bytes=4096, inodes=10),
    Tmpfs(path="/home/user", size_bytes=4096, inodes=10, mode=0o700),
    FileBytes(path="/home/user/in/given", content=b"data"),
    Symlink(path="/home/user/link", target="in"),
    Bind(path="/home/user/work", source="/srv/work", directory=True, writable=True),
    Bind(path="/home/user/work/mask", source="/dev/null", directory=False),
    Bind(path="/tmp/file", source="/srv/file", directory=False),
)  # fmt: skip
REQUEST = Request(
    profile=Profile(name="p", description="", path="p.toml", policy="strict"),
    host=HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1002, landlock_abi=6),
    root=RootSpec(entries=ENTRIES, workdir="/home/user", argv0="/usr/bin/true"),
    argv=("true",), environment=(("A", "b"),), outside_uid=1001, outside_gid=1002, filter_bpf=bytes(8), init_filter_bpf=bytes(8),
)  # fmt: skip


def paths(steps: tuple[Step, ...], *kinds: type[Step]) -> list[str]:
    """Return the paths of the steps of some kinds, in order."""
    return [step.path for step in steps if isinstance(step, kinds)]  # type: ignore[union-attr]


def kinds(steps: tuple[Step, ...]) -> list[type[Step]]:
    return [type(step) for step in steps]


# ---- the two halves of a root --------------------------------------------------------------------------------------------


def test_what_the_server_has_and_what_the_run_makes() -> None:
    server, run = build_server_plan(REQUEST, template=True), build_run_plan(REQUEST, template=True)
    assert not paths(server.init, MountTmpfs) and paths(run.init, MountTmpfs) == ["/dev/shm", "/home/user", "/tmp"]
    assert set(paths(server.init, MakeDirectory)) >= {"/tmp", "/home", "/home/user", "/dev/shm", "/dev/pts", "/proc"}
    assert paths(server.init, MakeSymlink)[0] == "/bin" and paths(run.init, MakeSymlink) == ["/home/user/link"]
    assert "/etc/passwd" in paths(server.init, WriteFile)
    assert paths(run.init, WriteFile) == ["/home/user/in/given", "/tmp/file"]
    assert paths(run.init, MakeDirectory) == ["/home/user/in", "/home/user/work"]
    assert MountDevpts in kinds(run.init) and MountDevpts not in kinds(server.init)
    # One procfs must be seen for another to be mounted.
    assert kinds(server.init).count(MountProc) == kinds(run.init).count(MountProc) == 1


def test_trees_below_a_tmpfs_are_kept_where_the_run_covers_them() -> None:
    server, run = build_server_plan(REQUEST, template=True), build_run_plan(REQUEST, template=True)
    kept = paths(run.init, TakeStash)
    assert kept == ["/dev/shm/0", "/dev/shm/1", "/dev/shm/2"]
    assert [path for path in paths(server.init, AttachTree) if path.startswith("/dev/shm/")] == kept
    taken = {step.key: step.bind.path for step in server.init if isinstance(step, CloneTree)}
    attached = [(step.path, step.within) for step in run.init if isinstance(step, AttachTree)]
    assert attached == [("/home/user/work", False), ("/home/user/work/mask", True), ("/tmp/file", False)]
    assert [taken[step.key] for step in run.init if isinstance(step, TakeStash)] == [path for path, _ in attached]
    order = kinds(run.init)
    assert max(index for index, kind in enumerate(order) if kind is TakeStash) < order.index(MountTmpfs)


def test_what_is_mounted_inside_of_a_shared_tree_is_the_runs() -> None:
    """Its mount point is the host's: when that is removed or replaced the kernel drops the mount, in a server once for all runs to come."""
    mask = Bind(path="/usr/share/socket", source="/dev/null", directory=False)
    request = replace(REQUEST, root=replace(REQUEST.root, entries=(*ENTRIES, mask)))
    server, run = build_server_plan(request, template=True), build_run_plan(request, template=True)
    assert "/usr/share/socket" not in paths(server.init, AttachTree)
    assert [step.within for step in run.init if isinstance(step, AttachTree) and step.path == "/usr/share/socket"] == [True]


def test_the_halves_together_make_the_whole() -> None:
    """Nothing that a launch of its own builds is missing, and nothing is built twice."""
    builds = (MakeDirectory, MakeSymlink, WriteFile, AttachTree, MountTmpfs)
    whole = sorted((type(step).__name__, step.path) for step in build_plan(REQUEST).init if isinstance(step, builds))
    halves = (*build_server_plan(REQUEST, template=True).init, *build_run_plan(REQUEST, template=True).init)
    made = sorted((type(step).__name__, step.path) for step in halves if isinstance(step, builds) and not step.path.startswith("/dev/shm/"))
    assert made == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"map_range": True}, "id range"),
        ({"host": replace(REQUEST.host, proc_mountable=False)}, "/proc"),
        ({"root": replace(REQUEST.root, entries=(*ENTRIES, Tmpfs(path="/usr/hidden", size_bytes=1, inodes=1)))}, "`/usr/hidden`"),
        ({"root": replace(REQUEST.root, entries=(*ENTRIES, Bind(path="/dev/shm", source="/srv", directory=True)))}, "`/dev/shm`"),
    ],
)
def test_what_has_no_template(changes: dict[str, Any], words: str) -> None:
    assert template_refusal(REQUEST) == ""
    assert words in template_refusal(replace(REQUEST, **changes))


def test_root_has_no_server_without_a_template() -> None:
    assert anew_refusal(REQUEST) == "" and anew_refusal(replace(REQUEST, host=replace(REQUEST.host, uid=0)))


# ---- which requests share a server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ("other",)}, {"environment": ()}, {"rlimits": ((7, 1, 1),)}, {"filter_bpf": bytes(16)}, {"joins": ((0, "a"),)}, {"uptime_s": 7},
        {"interactive": True}, {"affinity": (1,)}, {"nice": 3}, {"root": replace(REQUEST.root, workdir="/tmp", argv0="/bin/sh")},
        {"root": replace(REQUEST.root, entries=(*ENTRIES, FileBytes(path="/tmp/more", content=b"x")))},
        {"profile": replace(REQUEST.profile, network=NetworkMode.LOOPBACK)},
    ],
)  # fmt: skip
def test_what_is_the_runs_own_makes_no_other_server(changes: dict[str, Any]) -> None:
    assert build_server_plan(replace(REQUEST, **changes), template=True) == build_server_plan(REQUEST, template=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"root": replace(REQUEST.root, entries=ENTRIES[1:])}, {"outside_uid": 5}, {"scheduler": 5}, {"base_nice": 1},
        {"removals": ((0, "r"),), "directories": 1},
        {"root": replace(REQUEST.root, entries=(*ENTRIES, FileBytes(path="/etc/more", content=b"x")))}, {"profile": replace(REQUEST.profile, hostname="other")},
        {"profile": replace(REQUEST.profile, uid=7)}, {"profile": replace(REQUEST.profile, proc=ProcMode.FULL)}, {"oom_protected": True},
    ],
)  # fmt: skip
def test_what_the_server_has_makes_another_server(changes: dict[str, Any]) -> None:
    assert build_server_plan(replace(REQUEST, **changes), template=True) != build_server_plan(REQUEST, template=True)


# ---- processes -----------------------------------------------------------------------------------------------------------


def test_a_server_and_its_keeper() -> None:
    request = replace(
        REQUEST,
        directories=2,
        removals=((0, "a"),),
        thaws=((0, "a/state"),),
        entries=((1, "e"),),
        joins=((0, "a/procs"),),
        interactive=True,
    )
    plan = build_server_plan(request, template=True)
    close = next(step for step in plan.janitor if isinstance(step, CloseFrom))
    assert close == CloseFrom(
        first=0, keep=(fds.STATUS, fds.GO, fds.SUPERVISOR, fds.RELEASE, fds.FIRST_EXTRA, fds.FIRST_EXTRA + 1, fds.REQUESTS)
    )
    assert kinds(plan.janitor)[:3] == [NewSession, CloseFrom, AdoptOrphans]
    assert plan.janitor[-1] == Guard(
        removals=((fds.FIRST_EXTRA, "a"),), thaws=((fds.FIRST_EXTRA, "a/state"),), entries=((fds.FIRST_EXTRA + 1, "e"),), server=True
    )
    assert not {JoinCgroups, OpenTerminal, LoopbackUp, ClonePayload} & set(kinds(plan.init)) and not plan.payload
    assert plan.init[-2:] == (NotDumpable(), Serve(template=True))
    anew = build_server_plan(REQUEST, template=False)
    assert kinds(anew.init) == [ReportStarted, DieWithJanitor, NewKeyring, NotDumpable, Serve]
    assert not any(isinstance(step, CloneTree) for step in anew.steps())


def test_root_maps_the_server_once() -> None:
    request = replace(REQUEST, host=replace(REQUEST.host, uid=0), external_map=True, moved=True)
    server, run = build_server_plan(request, template=True), build_run_plan(request, template=True)
    assert AwaitSupervisor(maps=True, cgroups=False) in server.init and BecomeIds in kinds(server.init)
    assert any(isinstance(step, CloneTree) for step in server.janitor) and not any(isinstance(step, CloneTree) for step in server.init)
    assert AwaitSupervisor(maps=False, cgroups=True) in run.init and BecomeIds not in kinds(run.init)


def test_runs_and_their_cgroups() -> None:
    joins = {"directories": 1, "joins": ((0, "r/cgroup.procs"),)}
    for template in (False, True):
        run = build_run_plan(replace(REQUEST, **joins), template=template)
        assert AwaitSupervisor(maps=False, cgroups=True) in run.init
        assert next(step for step in run.init if isinstance(step, JoinCgroups)).files == ((fds.SERVED_EXTRA, "r/cgroup.procs"),)
        ahead = build_run_plan(replace(REQUEST, **joins, cgroups_made=True), template=template)
        assert AwaitSupervisor not in kinds(ahead.init)


def test_limits_of_namespaces_are_the_runs_own() -> None:
    anew, run = build_run_plan(REQUEST, template=False), build_run_plan(REQUEST, template=True)
    assert ForbidNamespaces(allowed_users=1) in anew.init and ForbidNamespaces not in kinds(anew.payload)
    assert ForbidNamespaces(allowed_users=0) in run.payload and ForbidNamespaces not in kinds(run.init)
    assert LimitWatches in kinds(run.payload), "a filter that allows everything"
    refuses = replace(REQUEST, filter_bpf=bytes.fromhex("0600000001000500"))
    assert LimitWatches not in kinds(build_run_plan(refuses, template=True).payload)
    assert LimitWatches not in kinds(build_run_plan(refuses, template=False).init)


def test_clone_flags() -> None:
    every = uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS | uapi.CLONE_NEWPID | uapi.CLONE_NEWNET | uapi.CLONE_NEWIPC | uapi.CLONE_NEWUTS
    assert clone_flags(template=False, recycled_network=False) == every
    assert clone_flags(template=True, recycled_network=False) == every & ~uapi.CLONE_NEWUSER
    assert clone_flags(template=True, recycled_network=True) == every & ~uapi.CLONE_NEWUSER & ~uapi.CLONE_NEWNET


# ---- checks that can fail ------------------------------------------------------------------------------------------------


def without(section: str, *gone: type[Step]) -> Any:
    return lambda plan: replace(plan, **{section: tuple(step for step in getattr(plan, section) if not isinstance(step, gone))})


def added(section: str, step: Step, at: int = 0) -> Any:
    return lambda plan: replace(plan, **{section: (*getattr(plan, section)[:at], step, *getattr(plan, section)[at:])})


@pytest.mark.parametrize(
    "spoil",
    [
        without("janitor", AdoptOrphans), without("janitor", CloseFrom), without("janitor", Guard), without("init", RootReadOnly), without("init", EnterRoot),
        without("init", PrivateMounts), without("init", NotDumpable), without("init", Serve), without("init", KeepHostProc),
        added("init", MountTmpfs(path="/tmp", size_bytes=1, inodes=1, mode=0o1777, executable=True), 12), added("init", JoinCgroups(files=())),
        added("init", ClonePayload(flags=0)), added("payload", Execute(path="/x", argv=(), environment=())),
        added("init", AttachTree(path="/usr", key="tree:9"), 40),
        added("init", MakeDirectory(path="../x"), 12), added("init", WriteFile(path="/usr/x", content=b""), -4),
        lambda plan: replace(plan, janitor=(*plan.janitor[:-1], replace(plan.janitor[-1], removals=((fds.REQUESTS, "x"),)))),
    ],
)  # fmt: skip
def test_a_spoilt_server_plan_is_refused(spoil: Any) -> None:
    plan = build_server_plan(REQUEST, template=True)
    check_server_plan(plan, template=True)
    with pytest.raises(InternalError):
        check_server_plan(spoil(plan), template=True)


def test_a_server_without_a_template_mounts_nothing() -> None:
    plan = build_server_plan(REQUEST, template=False)
    with pytest.raises(InternalError):
        check_server_plan(added("init", MountRoot(size_bytes=1, inodes=1))(plan), template=False)


@pytest.mark.parametrize(
    "spoil",
    [
        without("init", InheritRoot), without("init", ClonePayload), without("init", NotDumpable), without("init", InstallFilter), without("init", JoinCgroups),
        added("init", MountRoot(size_bytes=1, inodes=1), 3), added("init", EnterRoot(pivot=True), 3), added("init", ForbidNamespaces(allowed_users=1), 3),
        added("init", TakeStash(path="/dev/shm/7", key="tree:7"), 14), added("janitor", NewSession()), without("payload", MapIds),
        without("payload", InstallFilter), added("payload", ForbidNamespaces(allowed_users=0), 20), added("payload", SetHostname(name="x"), 40),
        lambda plan: replace(plan, init=tuple(replace(step, flags=0) if isinstance(step, ClonePayload) else step for step in plan.init)),
    ],
)  # fmt: skip
def test_a_spoilt_run_plan_is_refused(spoil: Any) -> None:
    plan = build_run_plan(REQUEST, template=True)
    check_run_plan(plan, template=True, filtered=True)
    with pytest.raises(InternalError):
        check_run_plan(spoil(plan), template=True, filtered=True)


def test_a_run_built_anew_is_checked_like_a_launch() -> None:
    plan = build_run_plan(REQUEST, template=False)
    for spoil in (without("init", Dumpable), without("init", RootReadOnly), without("init", EnterRoot), without("payload", InstallFilter)):
        with pytest.raises(InternalError):
            check_run_plan(spoil(plan), template=False, filtered=True)


def test_directories_between_are_made_by_whoever_makes_what_is_in_them() -> None:
    request = replace(REQUEST, root=replace(REQUEST.root, entries=(*ENTRIES, Directory(path="/tmp/a/b"), Directory(path="/opt/a/b"))))
    server, run = build_server_plan(request, template=True), build_run_plan(request, template=True)
    assert [path for path in paths(run.init, MakeDirectory) if path.startswith("/tmp/")] == ["/tmp/a", "/tmp/a/b"]
    assert [path for path in paths(server.init, MakeDirectory) if path.startswith("/opt")] == ["/opt", "/opt/a", "/opt/a/b"]


def test_plan_values_print() -> None:
    for plan in (
        build_server_plan(REQUEST, template=True),
        build_run_plan(REQUEST, template=True, waits=True),
        build_run_plan(REQUEST, template=False),
    ):
        assert isinstance(plan, Plan) and all(step.describe() for step in plan.steps())
