"""Where "/" is the initial ramfs, pivot_root(2) is refused; the way without it runs the same programs and shows as little of the host."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import HOME, PYTHON, Run, no_filter, one_user_namespace, run_payload

from sandbox.api.prepare import Prepared
from sandbox.errors import SetupError
from sandbox.kernel.probe import probe_host
from sandbox.plan.steps import DropCapabilities
from sandbox.policy.profile import LandlockMode

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.landlock]

MARK = "/etc/host-mark"
"""A file of the host that everybody may read and no profile shares."""

ESCAPE = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, result):
    print(f"{{name}}={{0 if result == 0 else -ctypes.get_errno()}}", flush=True)
def look(name):
    print(f"{{name}}={{os.path.exists({MARK!r})}}", flush=True)
look("seen")
print("parents=" + str(os.path.exists("/../../.." + {MARK!r})))
own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
tell("umount", libc.umount2(b"/", 2))                     # MNT_DETACH: what lies under our root?
tell("setns", libc.setns(own, 0x00020000))                # the root of the mount namespace, not of the chroot
look("seen_after")
sys.stdout.flush()
os.mkdir("/tmp/jail")
up = os.open("/", os.O_RDONLY)
tell("chroot", libc.chroot(b"/tmp/jail"))
os.fchdir(up)
for _ in range(20):
    os.chdir("..")
tell("back", libc.chroot(b"."))
look("seen_outside")
"""


# Uid 0 of the payload's user namespace gets every capability at its execve; Landlock would refuse to unmount by itself.
MIGHTY = {"profile_changes": {"uid": 0, "gid": 0, "landlock": LandlockMode.OFF}, "without": (("payload", DropCapabilities),)}


def attack(**options: Any) -> Run:
    return run_payload((*PYTHON, f"{HOME}/main.py"), files={"main.py": ESCAPE.encode()}, limits={"wall": 60}, **options)


def test_the_root_is_the_initial_ramfs() -> None:
    line = next(line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    assert line[0] == line[1], "the root mount is its own parent"
    assert line[line.index("-") + 1] == "rootfs"
    assert not probe_host().root_pivotable
    assert os.path.exists(MARK)


@pytest.mark.parametrize("executor", ["native", "python"])
def test_pivot_root_is_refused(executor: str) -> None:
    """The other way is there because of this."""

    def insist(prepared: Prepared) -> Prepared:
        return replace(prepared, host=replace(prepared.host, root_pivotable=True))

    with pytest.raises(SetupError) as caught:
        run_payload(["/bin/true"], refit=insist, executor=executor, limits={"wall": 60})
    assert caught.value.errno == errno.EINVAL
    assert "pivot_root" in str(caught.value)


@pytest.mark.parametrize("executor", ["native", "python"])
def test_strict_runs_a_command(sandbox_cli: Any, place: Path, executor: str) -> None:
    report = place / "result.json"
    words = [
        "exec",
        "-p",
        "strict",
        "-l",
        "wall=60s",
        "--executor",
        executor,
        "--result",
        report,
        "--",
        "sh",
        "-c",
        "cat; id -u; ls /.. /; exit 7",
    ]
    done = sandbox_cli(*words, input=b"hello\n", cwd=place, timeout=120)
    result = json.loads(report.read_text())
    assert done.returncode == 7, done.stderr
    hello, uid, listings = done.stdout.decode().split("\n", 2)
    assert (hello, uid) == ("hello", "1000")
    above, root = listings.strip().split("\n\n")
    assert above.splitlines()[1:] == root.splitlines()[1:], "nothing is above the root"
    assert {"srv", "init", "root"}.isdisjoint(root.split())
    assert result["verdict"] == "nonzero-exit"
    assert any("initial ramfs" in note for note in result["notes"]), result["notes"]
    assert any("move-mount and chroot" in entry["how"] for entry in result["enforced"]), result["enforced"]


def test_plan_says_so(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--dry-run", "--", "true", timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"chroot into the new root" in done.stdout and b"pivot" not in done.stdout.replace(b"pivot_root", b"")
    assert b"initial ramfs" in done.stdout


def test_no_mount_of_the_host_is_seen() -> None:
    run = run_payload(["/bin/cat", "/proc/self/mountinfo"], limits={"wall": 60})
    assert run.result.ok, run.err
    mounts = [line.split() for line in run.out.decode().splitlines()]
    assert [
        (root, kind) for *_, root, point, kind in ((*line[:4], line[4], line[line.index("-") + 1]) for line in mounts) if point == "/"
    ] == [("/", "tmpfs")]
    # Shared directories are of the initial ramfs, too, but never its root.
    shared = {line[3] for line in mounts if line[line.index("-") + 1] == "rootfs"}
    assert "/usr" in shared and "/" not in shared


def test_host_tree_cannot_be_reached() -> None:
    run = attack()
    assert {run[name] for name in ("seen", "parents", "seen_after", "seen_outside")} == {"False"}
    assert {run[name] for name in ("umount", "setns", "chroot", "back")} == {f"-{errno.EPERM}"}


def test_mounts_are_locked_even_with_capabilities() -> None:
    """Neither filter nor empty capability sets: what still holds is the inner user namespace, for which the overmount of "/" is locked."""
    run = attack(alter=no_filter, **MIGHTY)
    assert run["umount"] == f"-{errno.EINVAL}"
    assert (run["setns"], run["chroot"], run["back"]) == ("0", "0", "0")
    assert {run[name] for name in ("seen", "parents", "seen_after", "seen_outside")} == {"False"}


def test_escape_works_without_the_walls() -> None:
    """The same attack with the walls taken out reaches the host's tree, so it is the walls that stop it."""
    run = attack(alter=[one_user_namespace, no_filter], **MIGHTY)
    assert (run["umount"], run["setns"]) == ("0", "0")
    assert (run["seen"], run["seen_after"]) == ("False", "True")
