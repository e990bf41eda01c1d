"""A4: roots of layers. From an overlay to what it is made of, to the host by an image's links, sockets and FIFOs, and what uid 0 is worth there.

References: CVE-2018-15664 and CVE-2019-14271 (links of an image followed by the engine), CVE-2021-30465 (a link in a mount's way), CVE-2023-0386 and
CVE-2021-3493 (set-id and capabilities through overlayfs), CVE-2016-1576 (overlayfs in a user namespace).
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import Run, drop, no_filter, one_user_namespace, run_payload

from sandbox.api.prepare import Prepared
from sandbox.errors import InternalError, SetupError
from sandbox.plan.root import Bind, FileBytes, Overlay
from sandbox.plan.steps import BeginSkeleton, DropCapabilities, InstallFilter, MountOverlay, Plan, WriteFile
from sandbox.policy.profile import LandlockMode, ProcMode

ROOT: dict[str, Any] = {"uid": 0, "gid": 0}
PATIENT: dict[str, Any] = {"cpu": "none"}  # a busy machine is no reason to fail: what these tests are about is not time
WORD = "secret-of-the-host"
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Path]:
    """Make a layer with traps: links to the host, a socket with a listener, a FIFO, a set-id file."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o055)
    top = tmp_path / "a-layer-of-the-store"
    trap = top / "trap"
    trap.mkdir(parents=True)
    trap.chmod(0o777)
    (tmp_path / "host-file").write_text(WORD)
    (trap / "absolute").symlink_to(tmp_path / "host-file")
    (trap / "relative").symlink_to("../../host-file")
    (trap / "up").symlink_to("../../../../../../../../../../.." + str(tmp_path / "host-file"))
    os.mkfifo(trap / "fifo", 0o666)
    (trap / "fifo").chmod(0o666)
    (top / "etc").mkdir()
    yield top


def on_layers(*layers: Path, upper: Path | None = None, **fields: Any) -> Callable[[Prepared], Prepared]:
    """Return a change that puts the whole of a prepared root over layers."""
    owner = 0 if os.geteuid() == 0 else -1
    given: dict[str, Any] = {"size_bytes": 0 if upper else 16 << 20, "inodes": 0 if upper else 1000, "why": "image `trap`", "owner": owner} | fields
    overlay = Overlay(path="/", lowers=tuple(str(layer) for layer in layers), upper=None if upper is None else str(upper), **given)
    return lambda prepared: replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, overlay)), kept=None)


def attack(layer: Path, **how: Any) -> Run:
    """Run the payload on a layer, as the image's root, under the widest policy."""
    given: dict[str, Any] = {"profile": "default", "policy": "permissive", "profile_changes": ROOT, "refit": on_layers(layer), "limits": PATIENT} | how
    return run_payload("a4_images.py", "a-layer-of-the-store", str(layer.parent), "host-file", "kept-changes", **given)


def test_no_path_of_layers_or_changes_is_seen(layer: Path, tmp_path: Path) -> None:
    """Rule: overlayfs is told names relative to the stage. Removed: the overlay; the same directory shared as a volume is named in mountinfo."""
    run = attack(layer)
    assert run["mount-words"] == "none" and "lowerdir=0:1,upperdir=u/upper,workdir=u/work" in run["root-line"]
    assert run["through-proc"] in ("ENOENT", "EACCES") and run["dotdot"] == "True"
    run = run_payload("a4_images.py", str(layer.parent), profile="default", volumes=[f"{layer}/trap:/trap:rw"], profile_changes=ROOT, limits=PATIENT)
    assert run["mount-words"] == str(layer.parent) or Path("/").stat().st_dev != layer.stat().st_dev


def test_links_of_an_image_lead_nowhere(layer: Path) -> None:
    """Rule: pivot_root before anything of the image is used. Control: outside, each of them leads to the file."""
    run = attack(layer)
    assert {run["link-absolute"], run["link-relative"], run["link-up"]} == {"ENOENT"}
    assert (layer / "trap/absolute").read_text() == (layer / "trap/up").read_text() == WORD


@pytest.mark.skipif(os.geteuid() == 0, reason="a payload of root's is another user than the listener")
def test_sockets_and_fifos_of_a_layer_are_not_the_hosts(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlayfs gives them inodes of its own. Control: shared as a volume, which is not searched for them here, both reach the other end."""
    reader = os.open(layer / "trap/fifo", os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.chdir(layer / "trap")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # by a short path
        listener.listen()
        listener.setblocking(False)
        try:
            run = attack(layer)
            assert run["socket"] == "ECONNREFUSED" and run["fifo"] == "ok"
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert os.read(reader, 10) == b""
            shared = Bind(path="/trap", source=str(layer / "trap"), directory=True, writable=True)

            def unmasked(prepared: Prepared) -> Prepared:
                return replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, shared)), kept=None)

            run = attack(layer, refit=unmasked)
            assert run["socket"] == "ok"
            listener.accept()[0].close()
            assert os.read(reader, 10) == b"hello" or run["fifo"] == "ok"
        finally:
            os.close(reader)


def test_attributes_devices_and_set_id_files_are_inert(layer: Path, tmp_path: Path) -> None:
    """Rule: `userxattr` keeps overlayfs's own attributes from the payload, nosuid and nodev hold, and no capability is there for mknod."""
    shutil.copy("/usr/bin/python3", layer / "trap/set-id")
    (layer / "trap/set-id").chmod(0o6755)
    run = attack(layer)
    assert run["nosuid"] == run["nodev"] == "True"
    assert run["xattr-trusted"] == "EPERM" and run["xattr-capability"] != "ok"
    assert run["device"] != "ok" and run["block"] != "ok"
    assert run["set-id"] == run["euid"] == "0"


@pytest.mark.root
def test_a_device_in_a_layer_is_none(layer: Path) -> None:
    """Rule: nodev. Control: outside, it is a device."""
    os.mknod(layer / "trap/real", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (layer / "trap/real").chmod(0o666)
    run = run_payload(("sh", "-c", "cat /trap/real; cat /dev/null && echo null"), profile="default", refit=on_layers(layer))
    assert run.out == b"null\n" and b"Permission denied" in run.err
    os.close(os.open(layer / "trap/real", os.O_RDWR))


@pytest.mark.skipif(os.geteuid() == 0, reason="a directory of root's is not the payload's")
def test_what_is_kept_has_no_attribute_of_the_payloads_choice(layer: Path, tmp_path: Path) -> None:
    """What it sets is not what overlayfs reads: the kernel refuses or renames it. Control: set on the directory itself, it counts."""
    kept = tmp_path / "kept-changes"
    for name in ("upper", "work"):
        (kept / name).mkdir(parents=True)
    run = attack(layer, refit=on_layers(layer, upper=kept))
    assert run["mount-words"] == "none"
    own = kept / "upper/trap/dir"
    names = set(os.listxattr(own))
    assert "user.overlay.redirect" not in names
    if run["xattr-opaque"] == "ok":  # Linux 6.7 and later rename it
        assert "user.overlay.overlay.opaque" in names
    (layer / "trap/dir").mkdir()
    (layer / "trap/dir/below").write_text("x")
    listing = ("sh", "-c", "ls /trap/dir")
    run = run_payload(listing, profile="default", refit=on_layers(kept / "upper", layer))
    hidden = run.out == b""
    os.setxattr(own, "user.overlay.opaque", b"y")
    assert run_payload(listing, profile="default", refit=on_layers(kept / "upper", layer)).out == b""
    os.removexattr(own, "user.overlay.opaque")
    assert hidden or run_payload(listing, profile="default", refit=on_layers(kept / "upper", layer)).out == b"below\n"


# ---- the skeleton --------------------------------------------------------------------------------------------------------


def no_skeleton(plan: Plan) -> Plan:
    """Take /etc out of the topmost layer and make its files through the overlay, as if it were a plain directory."""
    init = list(plan.init)
    begin = next(index for index, step in enumerate(init) if isinstance(step, BeginSkeleton))
    mount = next(index for index, step in enumerate(init) if isinstance(step, MountOverlay))
    ours = [step for step in init[begin + 1 : mount] if isinstance(step, WriteFile) and step.path.startswith("/etc/")]
    rest = [step for step in init[begin + 1 : mount] if not getattr(step, "path", "").startswith("/etc")]
    return replace(plan, init=(*init[: begin + 1], *rest, init[mount], *ours, *init[mount + 1 :]))


def test_a_link_in_the_way_of_what_is_ours(layer: Path, tmp_path: Path) -> None:
    """Rule: mount points and files are in a layer above the image's. Removed: `/etc -> /outside` is followed, to the host, whose tree init still sees.

    CVE-2019-14271, CVE-2021-30465.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (layer / "etc").rmdir()
    (layer / "etc").symlink_to(outside)
    (layer / "proc").symlink_to(outside)
    refit = on_layers(layer)
    run = run_payload(("sh", "-c", "cat /etc/hostname; ls -d /proc/self"), profile="default", refit=refit)
    assert run.out == b"sandbox\n/proc/self\n" and os.listdir(outside) == []
    with pytest.raises((SetupError, InternalError)):
        run_payload(("true",), profile="default", refit=refit, alter=no_skeleton)
    assert os.listdir(outside), "the control reached nothing: the link was not in the way"


def test_kept_changes_cannot_put_a_link_in_a_mounts_way(layer: Path, tmp_path: Path) -> None:
    """What an earlier run left is above the skeleton. Rule: mount points are opened without links, beneath the root; so the run is refused."""
    earlier = tmp_path / "earlier"
    (earlier / "upper").mkdir(parents=True)
    (earlier / "work").mkdir()
    (earlier / "upper/home").symlink_to("/etc")
    with pytest.raises(SetupError, match="mount point `/home/user`"):
        run_payload(("true",), profile="default", refit=on_layers(layer, upper=earlier))


# ---- uid 0 ---------------------------------------------------------------------------------------------------------------


def test_uid_0_holds_nothing(layer: Path) -> None:
    """Rule: five empty sets, securebits locked, no_new_privs. Removed: the step that drops them, then the image's root has what root has."""
    how: dict[str, Any] = {"limits": PATIENT, "profile_changes": ROOT, "refit": on_layers(layer), "profile": "default"}
    run = run_payload("a6_privileges.py", alter=no_filter, **how)
    assert {run[name] for name in SETS} == {"0"} and run["Uid"] == "0" and int(run["securebits"]) == 0xEF
    assert run["capset"] != "ok" and run["ambient"] != "ok" and run["unlock"] != "ok"
    run = run_payload("a6_privileges.py", alter=(drop(("payload", DropCapabilities)), no_filter), **how)
    assert "0" not in {run[name] for name in ("CapPrm", "CapEff", "CapBnd")} and run["capset"] == "ok"


def test_uid_0_takes_no_mount_apart(layer: Path) -> None:
    """Rule: the mounts are the outer namespace's. Even with every capability of the inner one nothing comes off; in one namespace for both it does."""
    bare = (no_filter, drop(("payload", DropCapabilities)))
    how: dict[str, Any] = {"limits": PATIENT, "profile": "default", "refit": on_layers(layer), "profile_changes": {**ROOT, "landlock": LandlockMode.OFF}}
    names = ("umount-mask", "umount-proc-sys", "remount-usr", "remount-root", "umount-usr", "bind-under", "setattr")
    run = run_payload("a6_locked.py", alter=no_filter, **how)
    assert "ok" not in {run[name] for name in (*names, "tmpfs")}
    run = run_payload("a6_locked.py", alter=bare, **how)
    assert "ok" not in {run[name] for name in names} and run["tmpfs"] == "EPERM" and int(run["CapEff"], 16) >> 21 & 1
    run = run_payload("a6_locked.py", alter=(*bare, one_user_namespace), **how)
    assert run["umount-mask"] == run["umount-proc-sys"] == "ok"


@pytest.mark.parametrize("proc", [ProcMode.MINIMAL, ProcMode.FULL])
def test_uid_0_writes_to_nothing_more_of_proc(layer: Path, proc: ProcMode) -> None:
    """Some of /proc/sys belongs to uid 0 of the namespace. Rule: it is read-only. Removed: the mask, then uid 0 finds more to write to than uid 1000."""
    from sandbox.plan.steps import MaskProc

    found = {}
    for who, ids in (("root", ROOT), ("user", {})):
        run = run_payload("a6_proc.py", "kcore", "sysrq-trigger", profile="default", refit=on_layers(layer), profile_changes={**ids, "proc": proc})
        found[who] = run.facts
        assert run["writable"] == "0" and run["sysfs"] == "absent"
    assert found["root"] == found["user"]
    if proc is ProcMode.FULL:
        bare: dict[str, Any] = {"profile": "default", "alter": (drop(MaskProc), drop(("payload", InstallFilter))), "refit": on_layers(layer)}
        free = run_payload("a6_proc.py", profile_changes={**ROOT, "proc": proc, "landlock": LandlockMode.OFF}, **bare)
        assert int(free["writable"]) > 0


def test_files_of_ours_are_the_runs(layer: Path) -> None:
    """The skeleton is a layer like the others: what is written to it is the run's, and the next run has it anew."""
    entry = FileBytes(path="/etc/marker", content=b"ours\n")

    def refit(prepared: Prepared) -> Prepared:
        prepared = on_layers(layer)(prepared)
        return replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, entry)), kept=None)

    for _ in range(2):
        run = run_payload(("sh", "-c", "cat /etc/marker; echo theirs >/etc/marker; cat /etc/marker"), profile="default", refit=refit)
        assert run.out == b"ours\ntheirs\n", run.err
