"""A root of layers as a plan: what is hidden before anything is mounted, what the rows say to overlayfs, and that the proof of it can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sandbox.abi.host import HostFeatures
from sandbox.errors import InternalError, UnsupportedError
from sandbox.plan.build import Request, build_plan
from sandbox.plan.check import check_plan
from sandbox.plan.lower import lower_plan
from sandbox.plan.lower_overlay import MAXIMUM_LAYERS
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import (
    AttachTree,
    BeginSkeleton,
    CloneTree,
    EnterRoot,
    MakeDirectory,
    MountDevpts,
    MountOverlay,
    MountProc,
    MountTmpfs,
    Plan,
    RestrictLandlock,
    RootReadOnly,
    Step,
    WriteFile,
)  # fmt: skip
from sandbox.plan.template import anew_refusal, build_run_plan, template_refusal
from sandbox.policy.profile import ProcMode, Profile

HOST = HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1001, landlock_abi=6)
IMAGE = Overlay(path="/", lowers=("/store/top", "/store/base"), size_bytes=1 << 20, inodes=100, why="image `x`")
ENTRIES: tuple[RootEntry, ...] = (
    IMAGE,
    Directory(path="/etc", mode=0o750),
    FileBytes(path="/etc/hostname", content=b"sandbox\n"),
    Symlink(path="/etc/mtab", target="/proc/self/mounts"),
    Tmpfs(path="/tmp", size_bytes=4096, inodes=10),
    FileBytes(path="/tmp/given", content=b"data"),
    Bind(path="/srv/data", source="/host/data", directory=True, writable=True, why="volume"),
    Bind(path="/srv/one", source="/host/one", directory=False),
)


def request_of(*entries: RootEntry, host: HostFeatures = HOST, proc: ProcMode = ProcMode.MINIMAL) -> Request:
    """Return a launch with these entries."""
    profile = Profile(name="p", description="", path="p.toml", policy="strict", proc=proc)
    return Request(
        profile=profile, host=host, root=RootSpec(entries=entries, workdir="/", argv0="/bin/sh"), argv=("sh",), environment=(),
        outside_uid=1001, outside_gid=1001, filter_bpf=bytes(8), init_filter_bpf=bytes(8),
    )  # fmt: skip


PLAN = build_plan(request_of(*ENTRIES))


def places(plan: Plan, kind: type[Step]) -> list[int]:
    """Return where steps of a kind are in init."""
    return [index for index, step in enumerate(plan.init) if isinstance(step, kind)]


def test_what_is_ours_is_made_before_the_overlay_and_mounted_after_it() -> None:
    skeleton, overlay = places(PLAN, BeginSkeleton)[0], places(PLAN, MountOverlay)[0]
    made = {step.path: step for step in PLAN.init[skeleton:overlay] if isinstance(step, (MakeDirectory, WriteFile))}
    assert {"/etc", "/etc/hostname", "/proc", "/dev", "/tmp", "/srv", "/srv/data", "/srv/one"} <= set(made)
    assert made["/etc"].mode == 0o750 and isinstance(made["/srv/one"], WriteFile)
    after = PLAN.init[overlay:]
    mounted = {step.path for step in after if isinstance(step, (MountTmpfs, AttachTree))}
    assert {"/dev", "/dev/shm", "/dev/null", "/tmp", "/srv/data", "/srv/one"} <= mounted
    assert {step.path for step in after if isinstance(step, (MakeDirectory, WriteFile))} >= {"/dev/pts", "/tmp/given"}
    assert not [step for step in after if isinstance(step, (MakeDirectory, WriteFile)) and not step.path.startswith(("/dev/", "/tmp/"))]
    assert min(places(PLAN, MountProc) + places(PLAN, MountDevpts)) > overlay


def test_mounts_over_the_image_follow_no_links() -> None:
    over = {step.path: step.within for step in PLAN.init if isinstance(step, (MountTmpfs, AttachTree))}
    assert over["/tmp"] and over["/dev"] and over["/srv/data"] and over["/srv/one"]
    assert not over["/dev/null"] and not over["/dev/shm"]


def test_layers_are_taken_read_only_and_the_root_is_entered_without_the_stage() -> None:
    taken = [step.bind for step in PLAN.steps() if isinstance(step, CloneTree)]
    assert [(bind.source, bind.writable) for bind in taken] == [
        ("/store/top", False), ("/store/base", False), ("/host/data", True), ("/host/one", False),
    ]  # fmt: skip
    assert [step.path for step in PLAN.init if isinstance(step, RootReadOnly)] == ["/dev"]
    assert [step.stage for step in PLAN.init if isinstance(step, EnterRoot)] == [True]
    rows = [row.label for row in lower_plan(PLAN).rows]
    assert [label for label in rows if label.startswith("umount2")] == ["umount2 the stage", "umount2 the host's tree"]


def test_overlayfs_is_told_no_path_of_the_host() -> None:
    labels = [row.label for row in lower_plan(PLAN).rows]
    assert "mount overlay lowerdir=0:1:2,upperdir=u/upper,workdir=u/work,userxattr,index=off" in labels
    assert "fsconfig tmpfs nr_inodes=100" in labels


def test_where_no_root_can_be_pivoted_the_overlay_lies_over_it() -> None:
    plan = build_plan(request_of(*ENTRIES, host=replace(HOST, root_pivotable=False)))
    labels = [row.label for row in lower_plan(plan).rows]
    assert labels.index("move_mount overlay on `/`") < labels.index("chroot")
    assert not [label for label in labels if label.startswith("umount2")]


def test_root_takes_the_layers_with_its_own_rights() -> None:
    plan = build_plan(request_of(*ENTRIES, host=replace(HOST, uid=0, gid=0)))
    assert [step.bind.source for step in plan.janitor if isinstance(step, CloneTree)][:2] == ["/store/top", "/store/base"]
    assert not any(isinstance(step, CloneTree) for step in plan.init)


def test_changes_in_a_directory_of_the_hosts() -> None:
    plan = build_plan(request_of(replace(IMAGE, upper="/state/run", size_bytes=0, inodes=0)))
    binds = [step.bind for step in plan.init if isinstance(step, CloneTree)]
    assert [(bind.source, bind.writable) for bind in binds][-1] == ("/state/run", True)
    assert not [row for row in lower_plan(plan).rows if row.label == "mkdirat `u/upper`"]
    (overlay,) = (step for step in plan.init if isinstance(step, MountOverlay))
    assert overlay.describe() == "mount overlay at `/`: 2 layers read-only, changes in a directory of the host's (image `x`)"


def test_an_overlay_in_the_ordinary_root() -> None:
    tree = Overlay(path="/home/me/tree", lowers=("/home/me/tree",), size_bytes=4096, inodes=10, why="copy-on-write")
    mask = Bind(path="/home/me/tree/agent", source="/dev/null", directory=False)
    plan = build_plan(request_of(Bind(path="/usr", source="/usr", directory=True), tree, mask))
    assert not places(plan, BeginSkeleton)
    overlay = places(plan, MountOverlay)[0]
    assert [step.within for step in plan.init[overlay:] if isinstance(step, AttachTree) and step.path == mask.path] == [True]
    assert [step.path for step in plan.init if isinstance(step, RootReadOnly)] == ["/"]
    labels = [row.label for row in lower_plan(plan).rows]
    assert "mount overlay lowerdir=1,upperdir=u/upper,workdir=u/work,userxattr,index=off" in labels
    assert labels.index("umount2 where the layers are") < labels.index("pivot_root")
    (wall,) = (step for step in plan.payload if isinstance(step, RestrictLandlock))
    assert dict(wall.rules)["/home/me/tree"] == dict(wall.rules)["/dev/shm"]


def test_such_a_run_is_never_of_a_template() -> None:
    request = request_of(*ENTRIES)
    assert template_refusal(request) == "what is written to the overlay at `/` is the run's own"
    assert not anew_refusal(request)
    assert places(build_run_plan(request, template=False), MountOverlay)


def test_too_many_layers_are_refused_with_the_fix() -> None:
    lowers = tuple(f"/store/{number}" for number in range(MAXIMUM_LAYERS))
    words = [row.label for row in lower_plan(build_plan(request_of(replace(IMAGE, lowers=lowers)))).rows if row.label.startswith("mount overlay")]
    assert len(words[0]) < 4096
    with pytest.raises(UnsupportedError, match="499 layers") as caught:
        build_plan(request_of(replace(IMAGE, lowers=(*lowers, "/store/more"))))
    assert "import it again" in (caught.value.hint or "")


def edited(edit: Callable[[list[Step]], object]) -> Plan:
    """Return the plan with its init edited in place."""
    steps = list(PLAN.init)
    edit(steps)
    return replace(PLAN, init=tuple(steps))


def alter(kind: type[Step], **fields: object) -> Callable[[list[Step]], None]:
    """Return an edit that changes the last step of a kind."""

    def edit(steps: list[Step]) -> None:
        index = max(index for index, step in enumerate(steps) if isinstance(step, kind))
        steps[index] = replace(steps[index], **fields)  # type: ignore[arg-type]

    return edit


def drop(kind: type[Step]) -> Callable[[list[Step]], None]:
    """Return an edit that removes the steps of a kind."""
    return lambda steps: steps.__setitem__(slice(None), [step for step in steps if not isinstance(step, kind)])


def write_after(steps: list[Step]) -> None:
    """Make a file through the overlay, where a link of the image may lead elsewhere."""
    steps.insert(places(PLAN, MountOverlay)[0] + 1, WriteFile(path="/etc/late", content=b"x"))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop(BeginSkeleton), "no step `BeginSkeleton`"),
        (drop(MountOverlay), "every tree that is taken is attached once"),
        (alter(RootReadOnly, path="/"), "can be written to"),
        (alter(EnterRoot, stage=False), "the stage of an overlay is left mounted"),
        (alter(MountOverlay, size_bytes=0), "its changes no cap"),
        (alter(MountOverlay, lowers=()), "has no layer"),
        (lambda steps: steps.__setitem__(slice(None), [replace(s, within=False) if isinstance(s, MountTmpfs) and s.path == "/tmp" else s for s in steps]),
         "would follow the links of an image"),
        (write_after, "`/etc/late` would be made in the shared tree"),
        (lambda steps: steps.insert(-8, replace(steps[places(PLAN, MountOverlay)[0]], upper="")), "comes after the root was entered"),
    ],
)  # fmt: skip
def test_the_proof_can_fail(edit: Callable[[list[Step]], object], words: str) -> None:
    check_plan(PLAN, filtered=True)
    with pytest.raises(InternalError) as caught:
        check_plan(edited(edit), filtered=True)
    assert words in str(caught.value)
