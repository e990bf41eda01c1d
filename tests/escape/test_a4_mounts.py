"""A4, mounts and races: nothing is built where somebody else can reach; sources, mount points and devices are opened without following links."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import (
    Alteration,
    change,
    drop,
    give,
    run_payload,
    shared_directory,
)

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.api.prepare import Prepared
from sandbox.errors import PolicyError, SetupError
from sandbox.plan import lower_mounts
from sandbox.plan.codec import Op, Slot
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Bind
from sandbox.plan.steps import AttachTree, CloneDevice, Plan, RestrictLandlock
from sandbox.policy.profile import ProcMode

no_landlock: Alteration = drop(RestrictLandlock)


def share(path: Path, **files: str) -> Path:
    """Make a directory with files that the payload owns (`same_user`)."""
    shared_directory(path)
    for name, content in files.items():
        (path / name).write_text(content)
        give(path / name)
    return path


# ---- the source is exchanged -----------------------------------------------------------------------------------------


def follow_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the wall out of the lowering: sources are opened by path as open(2) does it, links and all."""

    def open_source(low: Any, path: str) -> int:
        source = int(low.slot("source"))
        low.call("openat", uapi.AT_FDCWD, path, uapi.O_PATH | uapi.O_CLOEXEC, store=source, label=f"`{path}`")
        return source

    monkeypatch.setattr(lower_mounts, "_open_source", open_source)


def exchange(one: Path, other: Path) -> None:
    """renameat2(RENAME_EXCHANGE): both names exist at every moment."""
    number = syscall_number(Arch(os.uname().machine), "renameat2")
    if ctypes.CDLL(None, use_errno=True).syscall(number, -100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.parametrize("component", ["the source", "its parent"])
@pytest.mark.parametrize("walled", [True, False], ids=["whole", "links followed"])
def test_a_source_that_becomes_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str, walled: bool) -> None:
    """CVE-2021-30465. Rule: sources by openat2(NO_SYMLINKS) on what was resolved. The exchange happens after the look and before the mount;
    removed: the resolve flags, then the secret is shared."""
    secret = shared_directory(tmp_path / "secret")
    good = shared_directory(tmp_path / "parent")
    for top in (secret, good):
        share(top / "given", file="secret" if top is secret else "given")
    target, trap = (good, secret) if component == "its parent" else (good / "given", secret / "given")
    link = tmp_path / "link"
    link.symlink_to(trap)
    if not walled:
        follow_links(monkeypatch)

    def swap(prepared: Prepared) -> Prepared:
        exchange(target, link)
        return prepared

    attack = functools.partial(run_payload, "a4_look.py", "/data/file", volumes=[f"{good / 'given'}:/data"], refit=swap, same_user=True)
    if walled:
        with pytest.raises(SetupError, match="ELOOP"):
            attack()
    else:
        assert attack()["content-0"] == "secret"


def test_a_source_swapped_all_the_time_never_shows_the_secret(tmp_path: Path) -> None:
    """The same as a race: a thread exchanges the source with a link to the secret without rest; each start shows the given file or refuses."""
    share(tmp_path / "secret", file="secret")
    good = share(tmp_path / "given", file="given")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "secret")
    stop = threading.Event()

    def swapper() -> None:
        while not stop.is_set():
            exchange(good, link)

    thread = threading.Thread(target=swapper)
    thread.start()
    seen = []
    try:
        for _ in range(12):
            try:
                # Whichever the name was when it was looked at, only a directory that it really was may come in.
                bind = Bind(path="/data", source=str(good), directory=True, why="race")
                run = run_payload(["/bin/cat", "/data/file"], refit=functools.partial(_with_bind, bind=bind), same_user=True)
                seen.append(run.out.decode())
            except SetupError as error:
                assert "ELOOP" in str(error), error
                seen.append("refused")
    finally:
        stop.set()
        thread.join()
    assert set(seen) <= {"given", "refused"}, seen


def _with_bind(prepared: Prepared, bind: Bind) -> Prepared:
    return replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, bind)))


# ---- the target is a link --------------------------------------------------------------------------------------------


def nested(outer: Path, inner: Path, at: str) -> Callable[[Prepared], Prepared]:
    """Share `inner` inside the shared `outer` (after all other paths), at a name that somebody may have made a link of meanwhile."""

    def refit(prepared: Prepared) -> Prepared:
        binds = (Bind(path="/zone", source=str(outer), directory=True), Bind(path=at, source=str(inner), directory=True))
        return replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, *binds)))

    return refit


@pytest.mark.parametrize("where", ["last", "middle", "dots"])
def test_a_mount_point_that_is_a_link_is_refused(tmp_path: Path, where: str) -> None:
    """CVE-2021-30465, CVE-2026-41579, CVE-2026-47766. Rule: mount points inside shared trees by openat2(BENEATH | NO_SYMLINKS). The link leads
    to the payload's home; removed: that way of opening, then the mount lands there."""
    outer, inner = shared_directory(tmp_path / "outer"), share(tmp_path / "inner", file="inner")
    links = {"last": "in", "middle": "sub", "dots": "up"}
    (outer / links[where]).symlink_to({"last": "/home/user", "middle": "../home", "dots": ".."}[where])
    at = {"last": "/zone/in", "middle": "/zone/sub/user", "dots": "/zone/up/home/user"}[where]
    attack = functools.partial(run_payload, ["/bin/cat", "/home/user/file"], refit=nested(outer, inner, at))
    with pytest.raises(SetupError, match="ELOOP"):
        attack()
    if where != "last":  # move_mount(2) itself does not follow a last link
        assert attack(alter=change(AttachTree, within=False)).out == b"inner"


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/proc/self", "/dev", "/dev/null", "/dev/pts", "/sys", "/sys/kernel", "/etc/../proc", "//dev", "/home/../dev/shm"],
)
def test_nothing_is_shared_over_what_the_sandbox_makes(tmp_path: Path, target: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: a volume on /proc, /dev or /sys. Rule: they are the sandbox's own."""
    with pytest.raises(PolicyError):
        run_payload(["/bin/true"], volumes=[f"{tmp_path}:{target}"])


def test_a_target_that_is_a_link_in_the_root_is_refused(tmp_path: Path) -> None:
    """Rule: as above, for links of the root itself (/bin is one where /usr is merged)."""
    if not Path("/bin").is_symlink():
        pytest.skip("/bin is no link here")
    with pytest.raises(PolicyError, match="symbolic link"):
        run_payload(["/bin/true"], volumes=[f"{tmp_path}:/bin"])


def test_the_root_is_built_on_its_own_descriptor_alone() -> None:
    """CVE-2019-12439, CVE-2021-26910, CVE-2026-3888. Rule: a fresh tmpfs, no directory of the host is used for set-up (a rule on the table)."""
    run = run_payload(["/bin/true"], profile="default")
    table = lower_plan(run.plan)
    makers = ("mkdirat", "mknodat", "symlinkat", "linkat")
    # What is live lies on a tmpfs of its own, by whose descriptor it is made.
    making = [row for row in table.rows if row.label.split()[0] in makers and "`/sys/machine/" not in row.label]
    root = {row.args[1 if row.label.startswith("symlinkat") else 0] for row in making}
    assert len(making) > 10 and len(root) == 1 and isinstance(root.pop(), Slot)
    created = [row for row in table.rows if row.label.startswith("openat ") and isinstance(row.args[2], int) and row.args[2] & os.O_CREAT]
    assert created and all(isinstance(row.args[0], Slot) and row.args[2] & os.O_EXCL for row in created)


def test_the_working_directory_is_proved_to_be_inside() -> None:
    """CVE-2024-21626, crun's fix. Rule: after pivot_root getcwd() must begin with a slash, as it does not outside the root (a rule on the table)."""
    rows = lower_plan(run_payload(["/bin/true"]).plan).rows
    place = next(index for index, row in enumerate(rows) if row.label.startswith("getcwd"))
    assert {row.label.split()[0] for row in rows[place - 4 : place]} >= {"pivot_root", "umount2", "chdir"} or rows[
        place - 2
    ].label.startswith("chroot")
    check = rows[place + 1]
    assert check.op is Op.EXPECT and check.args[0] == rows[place].args[0] and check.args[3] == ord("/") and not check.tolerate


# ---- devices ---------------------------------------------------------------------------------------------------------


def other_device(name: str, expected_name: str) -> Alteration:
    """Let the plan take another file of /dev where it takes /dev/null: what a replaced node would be."""

    def alter(plan: Plan) -> Plan:
        def swap(step: Any) -> Any:
            return replace(step, name=name) if isinstance(step, CloneDevice) and step.name == expected_name else step

        return replace(plan, janitor=tuple(map(swap, plan.janitor)), init=tuple(map(swap, plan.init)))

    return alter


@pytest.mark.parametrize(("node", "error"), [("zero", "ENODEV"), ("fd", "ELOOP"), ("shm", "ENODEV"), ("random", "ENODEV")])
def test_a_replaced_device_is_refused(node: str, error: str) -> None:
    """CVE-2025-31133, CVE-2025-52565: /dev/null is another node, a link, a directory. Rule: type and number are checked on the descriptor."""
    with pytest.raises(SetupError, match=error):
        run_payload(["/bin/true"], alter=other_device(node, "null"))


def test_without_the_check_a_replaced_device_comes_in() -> None:
    """Removed: the right number (the check is told that of the replacement); then /dev/null inside is /dev/zero."""
    assert run_payload("a4_look.py")["device-null"] == "True 1:3"

    def number_too(plan: Plan) -> Plan:
        def swap(step: Any) -> Any:
            return replace(step, name="zero", minor=5) if isinstance(step, CloneDevice) and step.name == "null" else step

        return replace(plan, janitor=tuple(map(swap, plan.janitor)), init=tuple(map(swap, plan.init)))

    assert run_payload("a4_look.py", alter=number_too)["device-null"] == "True 1:5"


def test_dev_proc_and_sys_hold_nothing_else() -> None:
    """Rule: /dev is six nodes, /proc processes only, /sys no sysfs but a few files of ours: there is nothing of the host to mask."""
    run = run_payload("a4_look.py")
    assert run["dev"] == "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert run["proc"] == "self thread-self" and run["sys"] == "devices fs"
    assert not [mount for mount in run["mounts"].split() if mount.startswith(("/proc/", "/sys"))]
    # Removed: subset=pid.
    assert "kallsyms" in run_payload("a4_look.py", alter=change(_mount_proc(), minimal=False))["proc"]


def _mount_proc() -> Any:
    from sandbox.plan.steps import MountProc

    return MountProc


def test_a_run_without_proc_has_none() -> None:
    """Rule: plan a mode without /proc for hosts whose own is masked: then it is an empty directory."""
    run = run_payload(["/bin/sh", "-c", "echo proc=$(echo /proc/*)"], profile_changes={"proc": ProcMode.NONE})
    assert run["proc"] == "/proc/*"
