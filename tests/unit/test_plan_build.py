"""From values to a plan: the order of steps, the root from its entries, and what refuses or is noted on weak hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.abi import uapi
from sandbox.abi.host import HostFeatures
from sandbox.errors import InternalError, UnsupportedError
from sandbox.plan import fds
from sandbox.plan.build import Request, build_plan
from sandbox.plan.check import check_plan
from sandbox.plan.landlock import MAKE_BLOCK, MAKE_CHAR, RESOLVE_UNIX, handled_rights, landlock_step
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import (
    AttachTree,
    AwaitMaps,
    AwaitSupervisor,
    BecomeIds,
    BecomeUser,
    ClonePayload,
    CloneTree,
    CloseFrom,
    DropCapabilities,
    DropGroups,
    EnterRoot,
    Execute,
    ForbidNamespaces,
    Guard,
    InstallFilter,
    JoinCgroups,
    LoopbackUp,
    MakeDirectory,
    MakeSymlink,
    MapIds,
    MapPayload,
    MaskProc,
    MountProc,
    MountTmpfs,
    NewKeyring,
    NewSession,
    NewTimeNamespace,
    OpenTerminal,
    Plan,
    Reap,
    RestrictLandlock,
    SetLimit,
    Step,
    WriteFile,
)  # fmt: skip
from sandbox.policy.profile import LandlockMode, Limits, NetworkMode, ProcMode, Profile

HOST = HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1002, landlock_abi=6)
PROFILE = Profile(name="p", description="", path="p.toml", policy="strict")
USR = Bind(path="/usr", source="/usr", directory=True)
TMP = Tmpfs(path="/tmp", size_bytes=4096, inodes=10)
ROOT = RootSpec(entries=(USR, TMP), workdir="/tmp", argv0="/usr/bin/true")
REQUEST = Request(
    profile=PROFILE, host=HOST, root=ROOT, argv=("true",), environment=(("A", "b"),), outside_uid=1001, outside_gid=1002,
    filter_bpf=bytes(8), init_filter_bpf=bytes(8),
)  # fmt: skip


def build(profile: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **request: Any) -> Plan:
    """Build a plan from the request above with some things changed."""
    changed = replace(REQUEST, profile=replace(PROFILE, **(profile or {})), host=replace(HOST, **(host or {})), **request)
    return build_plan(changed)


def kinds(steps: tuple[Step, ...], *wanted: type[Step]) -> list[type[Step]]:
    """Return the types of those steps that are of a wanted kind, in order."""
    return [type(step) for step in steps if isinstance(step, wanted)]


def first(plan: Plan, kind: type[Step]) -> Any:
    """Return the first step of a kind."""
    return next(step for step in plan.steps() if isinstance(step, kind))


# ---- ordinary user and root ----------------------------------------------------------------------------------------------


def test_ordinary_user_maps_itself_and_takes_trees_inside() -> None:
    plan = build()
    assert first(plan, MapIds) == MapIds(inside_uid=1000, inside_gid=1000, outside_uid=1001, outside_gid=1002)
    assert not kinds(plan.janitor, CloneTree, DropGroups)
    assert kinds(plan.init, MapIds, CloneTree, EnterRoot)[:2] == [MapIds, CloneTree]
    assert not kinds(plan.steps(), BecomeIds, AwaitSupervisor)


def test_root_takes_trees_with_its_own_rights_and_waits_for_the_maps() -> None:
    plan = build(host={"uid": 0}, external_map=True, outside_uid=0x70000000, outside_gid=0x70000000)
    assert kinds(plan.janitor, DropGroups, CloneTree) == [DropGroups, CloneTree]
    assert not kinds(plan.init, CloneTree, MapIds)
    assert kinds(plan.init, AwaitSupervisor, BecomeIds) == [AwaitSupervisor, BecomeIds]
    inner = first(plan, MapIds)
    assert inner.inner and (inner.outside_uid, inner.inside_uid) == (1000, 1000)


def test_cgroups_are_waited_for_joined_and_removed() -> None:
    plan = build(directories=2, joins=((0, "r/cgroup.procs"), (1, "r/cgroup.procs")), removals=((0, "r"), (1, "r")))
    assert first(plan, AwaitSupervisor) == AwaitSupervisor(maps=False, cgroups=True)
    assert first(plan, JoinCgroups).files == ((fds.FIRST_EXTRA, "r/cgroup.procs"), (fds.FIRST_EXTRA + 1, "r/cgroup.procs"))
    assert first(plan, Guard).removals == ((fds.FIRST_EXTRA, "r"), (fds.FIRST_EXTRA + 1, "r"))
    assert plan.janitor[1] == CloseFrom(first=fds.FIRST_EXTRA + 2)


def test_janitor_closes_everything_that_is_not_counted() -> None:
    assert build().janitor[:2] == (NewSession(), CloseFrom(first=fds.FIRST_EXTRA))


# ---- what profiles ask for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"), [(ProcMode.NONE, []), (ProcMode.MINIMAL, [MountProc]), (ProcMode.FULL, [MountProc, MaskProc])]
)
def test_proc(mode: ProcMode, expected: list[type[Step]]) -> None:
    plan = build({"proc": mode})
    assert kinds(plan.init, MountProc, MaskProc) == expected
    assert ("no /proc inside: asked for by the profile" in plan.notes) is (mode is ProcMode.NONE)


def test_network_terminal_time_and_limits() -> None:
    assert not kinds(build().steps(), LoopbackUp, OpenTerminal, NewTimeNamespace)
    plan = build({"network": NetworkMode.LOOPBACK, "time_namespace": True}, interactive=True, uptime_s=77, rlimits=((7, 5, 6),))
    assert kinds(plan.init, LoopbackUp, OpenTerminal, EnterRoot, NewTimeNamespace) == [
        LoopbackUp,
        OpenTerminal,
        EnterRoot,
        NewTimeNamespace,
    ]
    assert first(plan, NewTimeNamespace).monotonic_offset_s == -77
    assert SetLimit(resource=7, name="RLIMIT_NOFILE", soft=5, hard=6) in plan.payload
    assert NewSession(terminal=True) in plan.payload


@pytest.mark.parametrize(("wall", "patience"), [(None, 0), (10**9, 6 * 10**9)])
def test_init_keeps_a_later_deadline_of_its_own(wall: int | None, patience: int) -> None:
    assert first(build({"limits": Limits(wall_ns=wall)}), Reap).patience_ns == patience


RANGES = (((0, 1000), (1000, 1), (1001, 64535)),) * 2


def test_id_range_is_mapped_again_by_init() -> None:
    """The payload's namespace is below the one that owns the mounts, as with one id."""
    plan = build(map_range=True, external_map=True, ranges=RANGES)
    assert first(plan, ClonePayload).flags == uapi.CLONE_NEWUSER and first(plan, ForbidNamespaces).allowed_users == 1
    assert not kinds(plan.payload, MapIds) and kinds(plan.payload, AwaitMaps) == kinds(plan.payload[:1], AwaitMaps) == [AwaitMaps]
    assert first(plan, DropCapabilities).keep == () and kinds(plan.payload, BecomeUser) == []
    labels = [row.label for row in lower_plan(plan).rows]
    assert "write `2/uid_map` `0 0 1000\n1000 1000 1\n1001 1001 64535`" in labels
    with pytest.raises(UnsupportedError, match="a fresh /proc"):
        build(map_range=True, host={"proc_mountable": False}, external_map=True)


@pytest.mark.parametrize(("uid", "keeps"), [(0, True), (33, False)])
def test_root_of_an_image_with_its_own_ids_owns_its_files(uid: int, keeps: bool) -> None:
    """Whoever the program is, what is made over the image is its root's; the seven capabilities are root's alone."""
    image = RootSpec(entries=(Overlay(path="/", lowers=("/l",), size_bytes=1, inodes=1),), workdir="/", argv0="/bin/sh")
    plan = build({"image": "x", "uid": uid, "gid": uid}, map_range=True, external_map=True, ranges=RANGES, root=image)
    assert [step.uid for step in plan.init if isinstance(step, BecomeIds)] == [0]
    assert [step.uid for step in plan.payload if isinstance(step, BecomeUser)] == [uid]
    (drop,) = (step for step in plan.payload if isinstance(step, DropCapabilities))
    assert drop.keep == ((0, 1, 3, 4, 5, 6, 7) if keeps else ())
    with pytest.raises(InternalError, match="capabilities that the payload may not keep"):
        check_plan(replace(plan, payload=tuple(replace(s, keep=(21,)) if isinstance(s, DropCapabilities) else s for s in plan.payload)), filtered=True)
    with pytest.raises(InternalError, match="goes on before its ids are mapped"):
        check_plan(replace(plan, payload=tuple(s for s in plan.payload if not isinstance(s, AwaitMaps))), filtered=True)
    with pytest.raises(InternalError, match="anywhere but right after it was cloned"):
        init = [s for s in plan.init if not isinstance(s, MapPayload)]
        check_plan(replace(plan, init=(first(plan, MapPayload), *init)), filtered=True)


def test_nested_namespaces_are_left_alone_only_when_asked_for() -> None:
    assert not kinds(build({"nested_namespaces": True}).init, ForbidNamespaces)
    assert kinds(build().init, ForbidNamespaces)


def test_without_audit_there_is_no_listener() -> None:
    assert [step.listener for step in build(audit=False).payload if isinstance(step, InstallFilter)] == [False]
    assert [step.listener for step in build().payload if isinstance(step, InstallFilter)] == [True]


def test_execute_is_last_and_has_what_was_asked() -> None:
    assert build().payload[-1] == Execute(path="/usr/bin/true", argv=("true",), environment=(("A", "b"),))


# ---- weak hosts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "host", "feature"), [
    ({"time_namespace": True}, {"time_namespace": False}, "time namespaces (Linux 5.6)"),
    ({}, {"landlock_abi": 0}, "Landlock"),
    ({}, {"proc_mountable": False}, "a fresh /proc"),
    ({"proc": ProcMode.FULL}, {"proc_mountable": False}, "a fresh /proc"),
])  # fmt: skip
def test_refusals(profile: dict[str, Any], host: dict[str, Any], feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        build(profile, host)
    assert caught.value.feature == feature
    build(profile)  # with the feature


@pytest.mark.parametrize(("profile", "host", "note"), [
    ({"landlock": LandlockMode.BEST_EFFORT}, {"landlock_abi": 0}, "Landlock is absent on this kernel: paths are held by mounts alone"),
    ({"landlock": LandlockMode.OFF}, {}, "Landlock is off: asked for by the profile"),
    ({}, {"root_pivotable": False}, "the host runs on its initial ramfs: entered the root by chroot instead of pivot_root"),
    ({}, {"user_namespace_sysctl": False},
     "user.max_*_namespaces cannot be written here (/proc/sys is read-only): nested namespaces are refused by the filter alone"),
    ({"proc": ProcMode.NONE}, {"proc_mountable": False}, "no /proc inside: asked for by the profile"),
])  # fmt: skip
def test_never_weaker_in_silence(profile: dict[str, Any], host: dict[str, Any], note: str) -> None:
    assert build(profile, host).notes == (note,)
    assert build().notes == ()


def test_keyrings_may_be_absent() -> None:
    assert kinds(build().payload, NewKeyring) and not kinds(build(host={"keyrings": False}).payload, NewKeyring)


# ---- the root from its entries -------------------------------------------------------------------------------------------


def root_steps(*entries: RootEntry) -> list[Step]:
    """Return the steps that make some entries, those of every root left out."""
    plain = {step.describe() for step in build(root=replace(ROOT, entries=())).init}
    return [
        step for step in build(root=replace(ROOT, entries=entries)).init if step.describe() not in plain and not isinstance(step, CloneTree)
    ]


def test_entries_become_steps_parents_first() -> None:
    made = root_steps(FileBytes(path="/etc/a/b", content=b"x"), Symlink(path="/bin", target="usr/bin"), TMP, USR)
    assert made == [
        MakeSymlink(path="/bin", target="usr/bin"), MakeDirectory(path="/etc"), MakeDirectory(path="/etc/a"),
        WriteFile(path="/etc/a/b", content=b"x"), MakeDirectory(path="/tmp"), MountTmpfs(path="/tmp", size_bytes=4096, inodes=10, mode=0o1777, executable=True),
        MakeDirectory(path="/usr"), AttachTree(path="/usr", key="tree:0"),
    ]  # fmt: skip


def test_what_lies_in_a_shared_tree_is_mounted_without_following_links() -> None:
    inner = Bind(path="/usr/local/x", source="/srv/x", directory=True)
    made = root_steps(USR, inner)
    assert made[-1] == AttachTree(path="/usr/local/x", key="tree:1", within=True)
    assert not [step for step in made if isinstance(step, (MakeDirectory, WriteFile)) and step.path.startswith("/usr/")]


def test_what_lies_in_a_tmpfs_over_a_shared_tree_is_made() -> None:
    cover = Tmpfs(path="/usr/local", size_bytes=1, inodes=1)
    made = root_steps(USR, cover, Bind(path="/usr/local/x", source="/srv/x", directory=False))
    assert made[-2:] == [WriteFile(path="/usr/local/x", content=b"", mode=0o444), AttachTree(path="/usr/local/x", key="tree:1")]


def test_names_that_sort_between_a_directory_and_its_content() -> None:
    """``/a-b`` sorts before ``/a/b`` as text, but must not come between a directory and what is in it."""
    made = root_steps(FileBytes(path="/a/b", content=b"1"), FileBytes(path="/a-b", content=b"2"), Directory(path="/a", mode=0o700))
    assert made == [MakeDirectory(path="/a", mode=0o700), WriteFile(path="/a/b", content=b"1"), WriteFile(path="/a-b", content=b"2")]


NAMES = st.sampled_from(["a", "b", "a-b", "é", ".x"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
ENTRIES = st.one_of(
    st.builds(Directory, path=PATHS), st.builds(Tmpfs, path=PATHS, size_bytes=st.just(1), inodes=st.just(1)),
    st.builds(Bind, path=PATHS, source=st.just("/srv"), directory=st.just(True), writable=st.booleans()),
)  # fmt: skip


@given(st.lists(ENTRIES, max_size=8))
def test_any_directories_make_a_sound_plan(entries: list[RootEntry]) -> None:
    unique = tuple({entry.path: entry for entry in entries}.values())
    try:
        plan = build(root=replace(ROOT, entries=unique))
    except InternalError as error:
        assert "would be made in the shared tree" in error.message
        shared = [entry.path for entry in unique if isinstance(entry, Bind)]
        assert any(entry.path.startswith(f"{path}/") for entry in unique if isinstance(entry, Directory) for path in shared)
        return
    lower_plan(plan)
    there = {"/"}
    binds: set[str] = set()
    for step in plan.init:
        if isinstance(step, (MakeDirectory, WriteFile, MakeSymlink)):
            assert step.path not in there, "made twice"
            assert step.path.rpartition("/")[0] in there | {""}, "no parent"
            there.add(step.path)
        elif isinstance(step, MountTmpfs):
            there.add(step.path)
        elif isinstance(step, AttachTree) and step.within:
            assert any(step.path.startswith(f"{bind}/") for bind in binds)
            there.add(step.path)
            binds.add(step.path)
        elif isinstance(step, MountTmpfs) and step.within:
            assert any(step.path.startswith(f"{bind}/") for bind in binds)
            there.add(step.path)
        elif isinstance(step, AttachTree):
            assert step.path in there, "no mount point"
            binds.add(step.path)


# ---- Landlock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("abi", "bits"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (6, 16), (8, 16), (9, 17)])
def test_rights_by_abi(abi: int, bits: int) -> None:
    assert handled_rights(abi) == (1 << bits) - 1


@pytest.mark.parametrize("abi", range(1, 10))
def test_rules_mirror_the_mounts(abi: int) -> None:
    entries = (
        USR,
        TMP,
        Bind(path="/rw", source="/srv", directory=True, writable=True),
        Bind(path="/f", source="/srv/f", directory=False, writable=True),
    )
    step = landlock_step(replace(ROOT, entries=entries), abi, proc_writable=True)
    assert isinstance(step, RestrictLandlock)
    assert step.scoped == (3 if abi >= 6 else 0)
    rules = dict(step.rules)
    assert "/usr" not in rules, "read-only trees have the rights of `/`"
    assert rules["/"] == 0b1101
    for path, access in rules.items():
        assert access & ~step.handled == 0, "the kernel refuses rights that are not handled"
        assert not access & (MAKE_CHAR | MAKE_BLOCK), path
        assert not access & RESOLVE_UNIX, "no path leads to a socket outside"
    assert rules["/f"] & 0b1111110111000 == 0, "a file's rule has no rights of directories (EINVAL)"
    assert rules["/rw"] & 2 and rules["/tmp"] & 2
    assert landlock_step(ROOT, 0, proc_writable=True) is None
    read_only = landlock_step(ROOT, abi, proc_writable=False)
    assert read_only is not None and "/proc" not in dict(read_only.rules)
