"""A6: capabilities, securebits, no_new_privs, user namespaces, mounts.

Nested user namespaces give back every capability, and most kernel holes of ten years need one of CAP_NET_ADMIN and CAP_SYS_ADMIN (CVE-2022-0185,
CVE-2022-0492, CVE-2023-0386, CVE-2023-32233 …). Two walls each: the filter and a counter in the kernel; the filter and empty sets.
"""

from __future__ import annotations

from typing import Any

import pytest
from escape.raw import CLONE_NEWUSER, NAMESPACES, calls, outcomes, request
from escape.support import Alteration, drop, no_filter, one_user_namespace, run_payload

from sandbox.kernel.probe import probe_host
from sandbox.plan.steps import DropCapabilities, ForbidNamespaces, InstallFilter, MaskProc, NoNewPrivileges
from sandbox.policy.profile import LandlockMode, ProcMode

PROFILES = ("strict", "python", "default", "build", "shell", "judge")
ROOT: dict[str, Any] = {"uid": 0, "gid": 0}
NO_LANDLOCK: dict[str, Any] = {"landlock": LandlockMode.OFF}
LANDLOCK = probe_host().landlock_abi > 0
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
keep_capabilities: Alteration = drop(("payload", DropCapabilities))


@pytest.mark.parametrize("profile", PROFILES)
def test_five_empty_sets_and_no_way_back(profile: str) -> None:
    """Rule: drop all five sets, securebits locked, no_new_privs, uid != 0. Removed: the step, then the bounding set is full; for uid 0 all but two are."""
    run = run_payload("a6_privileges.py", profile=profile)
    assert {run[name] for name in SETS} == {"0"}
    assert (run["NoNewPrivs"], run["Seccomp"], run["Uid"], run["Gid"]) == ("1", "2", "1000", "1000")
    assert set(run["Groups"].split()) <= {
        "1000",
        "65534",
    }  # a caller's other groups, which only root can drop, have no name and no file inside
    assert int(run["securebits"]) == 0b11101111 == 0xEF
    assert run["capset"] != "ok" and run["ambient"] != "ok" and run["setuid"] != "ok" and run["unlock"] != "ok"


def test_capabilities_come_back_without_the_step() -> None:
    """The bounding set is what is left for an ordinary uid; uid 0 gets everything at its execve. With the step, uid 0 has nothing either (NOROOT)."""
    run = run_payload("a6_privileges.py", alter=keep_capabilities)
    assert run["CapBnd"] != "0" and run["CapEff"] == "0" and int(run["securebits"]) & 1 == 0
    run = run_payload("a6_privileges.py", alter=(keep_capabilities, no_filter), profile_changes=ROOT)
    assert "0" not in {run["CapPrm"], run["CapEff"], run["CapBnd"]} and run["capset"] == "ok" and run["ambient"] == "ok"
    run = run_payload("a6_privileges.py", alter=no_filter, profile_changes=ROOT)
    assert {run[name] for name in SETS} == {"0"} and run["capset"] != "ok" and run["ambient"] != "ok" and run["unlock"] != "ok"


def test_no_new_privileges_by_itself() -> None:
    """Rule: NNP always (setuid, file capabilities). Removed: the step; then a filter cannot even be installed, and without one the field is 0."""
    run = run_payload("a6_privileges.py", without=[("payload", NoNewPrivileges), ("payload", InstallFilter)], profile_changes=NO_LANDLOCK)
    assert run["NoNewPrivs"] == "0"
    with pytest.raises(Exception, match=r"EACCES|EPERM"):
        run_payload("a6_privileges.py", without=[("payload", NoNewPrivileges)], profile_changes=NO_LANDLOCK)


@pytest.mark.parametrize("profile", ["strict", "default"])
@pytest.mark.parametrize(
    ("layers", "alter", "expected"),
    [
        ("filter and counter", (), ["EPERM", "EPERM", "ENOSYS"]),
        ("filter", (drop(ForbidNamespaces),), ["EPERM", "EPERM", "ENOSYS"]),
        ("counter", (no_filter,), ["ENOSPC", "ENOSPC", "ENOSPC"]),
        ("none", (no_filter, drop(ForbidNamespaces)), ["ok", "ok", "ok"]),
    ],
)
def test_no_user_namespace_inside(profile: str, layers: str, alter: tuple[Alteration, ...], expected: list[str]) -> None:
    """Rule: max_*_namespaces and the filter, each enough alone. Removed: both; then unshare, clone and clone3 all make one."""
    attack = [
        request("unshare", CLONE_NEWUSER),
        request("clone", CLONE_NEWUSER | 17, 0, 0, 0, 0),
        request("clone3", f"#{CLONE_NEWUSER}.0.0.0.17", 88),
    ]
    assert outcomes(calls(*attack, profile=profile, alter=alter)[0]) == expected


def test_no_namespace_of_any_kind_inside() -> None:
    """Rule: the same for every kind, alone and with a user namespace; setns too. Removed: the filter, then ENOSPC, or EPERM for want of rights."""
    kinds = [flag for name, flag in NAMESPACES.items() if name != "time"]
    attack = [request("unshare", flag) for flag in (*NAMESPACES.values(), *(flag | CLONE_NEWUSER for flag in kinds))]
    attack += [request("clone", flag | 17, 0, 0, 0, 0) for flag in kinds] + [request("setns", 0, 0)]
    assert set(outcomes(calls(*attack)[0])) == {"EPERM"}
    assert set(outcomes(calls(*attack, alter=no_filter)[0])) <= {"EPERM", "ENOSPC", "EINVAL", "EBADF"}
    assert "ok" in outcomes(calls(*attack, alter=(no_filter, drop(ForbidNamespaces)))[0])


def test_a_namespace_inside_would_give_everything_back() -> None:
    """What the walls are for: the new namespace's first process has every capability, mounts, and has a network to configure."""
    run = run_payload("a6_nested.py")
    assert run["unshare"] == "EPERM" and "CapEff" not in run.facts
    open_doors = (no_filter, drop(ForbidNamespaces))
    run = run_payload("a6_nested.py", alter=open_doors, profile_changes=NO_LANDLOCK)
    assert run["unshare"] == "ok" and int(run["CapEff"], 16) >> 21 & 1 and run["mount"] == "ok"
    run = run_payload("a6_nested.py", alter=open_doors)
    assert run["unshare"] == "ok" and run["mount"] == ("EPERM" if LANDLOCK else "ok")  # a third wall: Landlock allows no change of mounts


def test_the_counter_cannot_be_raised() -> None:
    """Rule: the counter belongs to the outer namespace. Writing the inner one's, where all walls around it are down, helps nothing. Removed: the counter."""
    command = ("sh", "-c", "echo 9 > /proc/sys/user/max_user_namespaces && echo raised; unshare -U echo made")
    how: dict[str, Any] = {"profile": "default", "profile_changes": ROOT | NO_LANDLOCK}
    bare = (no_filter, keep_capabilities, drop(MaskProc))
    assert run_payload(command, profile="default").out == b""
    assert run_payload(command, alter=bare, **how).out == b"raised\n"
    assert run_payload(command, alter=(*bare, drop(ForbidNamespaces)), **how).out == b"raised\nmade\n"


MOUNTS = [
    request("mount", "'none", "'/tmp", "'tmpfs", 0, 0),
    request("mount", "'/usr", "'/tmp", 0, 0x1000, 0),
    request("mount", 0, "'/", 0, 0x40000, 0),
    request("umount2", "'/tmp", 2),
    request("fsopen", "'tmpfs", 0),
    request("open_tree", -100, "'/usr", 1),
    request("pivot_root", "'/tmp", "'/tmp"),
    request("chroot", "'/tmp"),
]
KERNEL_ONLY = [
    request("fsconfig", 99, 0, "'size", "'1", 0), request("fsmount", 99, 0, 0), request("fspick", -100, "'/nowhere", 0),
    request("move_mount", 99, "'", -100, "'/tmp", 4),
    request("mount_setattr", -100, "'/nowhere", 0, "@", 32), request("statmount", "@", "@", 512, 0), request("listmount", "@", "@", 1, 0),
    request("swapon", "'/nowhere", 0), request("swapoff", "'/nowhere"), request("quotactl", 0, 0, 0, 0), request("open_by_handle_at", -100, "@", 0),
    request("name_to_handle_at", -100, "'/usr", "@", "@", 0),
]  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_no_mount_in_any_way(profile: str) -> None:
    """Rule: filter the mount API. Every way there is; each is a record, so it was the filter."""
    answers, run = calls(*MOUNTS, *KERNEL_ONLY, profile=profile)
    assert set(outcomes(answers)) == {"EPERM"}
    assert sum(run.result.denials.values()) == len(MOUNTS) + len(KERNEL_ONLY)


def test_what_stops_mounts_without_the_filter() -> None:
    """The second wall: no capability; the third: the mount namespace is the outer user namespace's. Removed: all; then the payload mounts over its files."""
    answers, run = calls(*MOUNTS, alter=no_filter)
    assert set(outcomes(answers)) == {"EPERM"} and not run.result.denials
    answers, _ = calls(*KERNEL_ONLY, alter=no_filter)
    assert set(outcomes(answers)) - {"EPERM", "ENOSYS"}  # some look at their arguments first: they were reached
    answers, _ = calls(*MOUNTS, alter=(no_filter, keep_capabilities), profile_changes=ROOT | NO_LANDLOCK)
    assert outcomes(answers) == [*["EPERM"] * 7, "ok"], outcomes(answers)  # chroot is no change of mounts
    answers, _ = calls(*MOUNTS, alter=(no_filter, keep_capabilities, one_user_namespace), profile_changes=ROOT | NO_LANDLOCK)
    assert outcomes(answers)[0] == "ok" and outcomes(answers)[4] == "ok" and outcomes(answers).count("ok") >= 4, outcomes(answers)


def test_mounts_are_locked() -> None:
    """Rule: mounts belong to the outer user namespace. With every capability in the inner one and no filter: no umount, no remount rw, no look under a
    mask, and none of it in a mount namespace of its own, where they are locked. Removed: the inner namespace; then the masks come off and /usr is
    writable."""
    bare = (no_filter, keep_capabilities)
    how: dict[str, Any] = {"profile": "default", "profile_changes": ROOT | NO_LANDLOCK}
    run = run_payload("a6_locked.py", alter=bare, **how)
    assert int(run["CapEff"], 16) >> 21 & 1  # CAP_SYS_ADMIN: it is not for want of that
    locked = {
        name: run[name] for name in ("umount-mask", "umount-proc-sys", "remount-usr", "remount-root", "umount-usr", "bind-under", "setattr")
    }
    assert "ok" not in locked.values(), locked
    assert run["tmpfs"] == "EPERM"
    run = run_payload("a6_locked.py", "unshare", alter=bare, **how)
    assert "ok" not in {run[name] for name in locked}, run.facts
    assert run["tmpfs"] == "ok"  # while a mount of its own it may make there
    run = run_payload("a6_locked.py", alter=(*bare, one_user_namespace), **how)
    free = {name: run[name] for name in locked}
    assert free["umount-mask"] == free["umount-proc-sys"] == free["remount-usr"] == free["remount-root"] == "ok", free


def test_groups_stay() -> None:
    """Rule: setgroups is denied before gid_map is written (CVE-2014-8989: dropping a group can give access). Removed: filter and capabilities; it still is.

    The kernel refuses the gid_map of an ordinary user without it, so that this wall cannot be left out by mistake; the last line shows that.
    """
    attack = request("setgroups", 0, 0)
    assert run_payload(("cat", "/proc/self/setgroups")).out == b"deny\n"
    for alter in ((), (no_filter,), (no_filter, keep_capabilities)):
        assert outcomes(calls(attack, alter=alter, profile_changes=ROOT)[0]) == ["EPERM"]
    run = run_payload(("cat", "/proc/self/setgroups"), alter=(no_filter, one_user_namespace), profile_changes={"proc": ProcMode.FULL})
    assert run.out == b"deny\n"


def test_keeping_root_inside_is_no_way_out() -> None:
    """Rule: uid != 0 inside. A setuid program or file capability changes nothing: every mount is nosuid, and no_new_privs is set."""
    run = run_payload("a6_suid.py")
    assert run["euid"] == "1000" and run["flags"] == "nosuid"
