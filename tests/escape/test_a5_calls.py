"""A5, the filter: calls that open other ways into the kernel. io_uring, socket families, filters of one's own, priority-inheritance futexes.

A refused call is told from one that the kernel refused by its record: each attack runs with the filter and without, and the second time nobody records it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from escape.raw import allow, calls, outcomes, refused, request, write_policy
from escape.support import drop, neighbour, no_filter, run_payload

from sandbox.plan.steps import InstallFilter

PROFILES = ("strict", "python", "default", "build", "shell", "judge")
NEW_LISTENER, TSYNC = 8, 1


@pytest.mark.parametrize("profile", PROFILES)
def test_io_uring_is_refused_politely(profile: str) -> None:
    """Rule: io_uring opens files and sockets behind the filter; EPERM and not a kill, since libuv probes. Removed: the filter; then it sets up a ring."""
    attack = [request("io_uring_setup", 1, "@"), request("io_uring_enter", 99, 0, 0, 0, 0), request("io_uring_register", 99, 0, 0, 0)]
    assert calls(*attack, profile=profile)[0] == refused("EPERM") * 3
    reached, run = calls(*attack, profile=profile, alter=no_filter)
    assert outcomes(reached) in (["ok", "EBADF", "EBADF"], ["EPERM", "EBADF", "EBADF"]) and not run.result.denials


FAMILIES = {
    "AF_ALG": (38, 5, 0), "AF_VSOCK": (40, 1, 0), "AF_PACKET": (17, 3, 0), "AF_RXRPC": (33, 2, 0), "AF_KEY": (15, 3, 2), "AF_XDP": (44, 3, 0),
    "AF_TIPC": (30, 1, 0), "AF_BLUETOOTH": (31, 1, 0), "AF_CAN": (29, 3, 1), "AF_SMC": (43, 1, 0), "AF_NFC": (39, 5, 0), "AF_QIPCRTR": (42, 2, 0),
    "NETLINK_AUDIT": (16, 3, 9), "NETLINK_NETFILTER": (16, 3, 12), "NETLINK_XFRM": (16, 3, 6), "NETLINK_GENERIC": (16, 3, 16),
    "NETLINK_KOBJECT_UEVENT": (16, 3, 15), "NETLINK_SOCK_DIAG": (16, 3, 4), "MPTCP": (2, 1, 262), "raw": (2, 3, 255), "SCTP": (2, 1, 132),
}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_socket_families(profile: str) -> None:
    """Rule: socket() only AF_UNIX, and INET in an own network namespace where asked. Removed: the filter; then they are the kernel's to answer."""
    attack = [request("socket", *words) for words in FAMILIES.values()]
    answers, run = calls(*attack, profile=profile)
    assert outcomes(answers) == ["EPERM"] * len(attack), dict(zip(FAMILIES, outcomes(answers), strict=True))
    assert run.result.denials == {"socket": len(attack)}
    answers, run = calls(*attack, profile=profile, alter=no_filter)
    assert "ok" in outcomes(answers) and not run.result.denials


def test_strict_has_no_socket_at_all_and_others_have_their_own() -> None:
    """Rule: sockets by profile. Removed: strict's rule, by taking another profile."""
    attack = [request("socket", 1, 1, 0), request("socket", 2, 1, 0), request("socket", 16, 3, 0), request("socket", 10, 2, 0)]
    assert outcomes(calls(*attack)[0]) == ["EPERM"] * 4
    assert outcomes(calls(*attack, profile="python")[0]) == ["ok", "EPERM", "EPERM", "EPERM"]
    assert outcomes(calls(*attack, profile="default")[0]) == ["ok"] * 4


def test_kernel_tls_is_refused() -> None:
    """Rule: upper protocols of TCP. setsockopt(TCP_ULP, "tls") on no socket: with the rule ENOPROTOOPT, without it the kernel looks for the socket."""
    attack = request("setsockopt", 99, 6, 31, "'tls", 4)
    for profile in PROFILES:
        answers, run = calls(attack, profile=profile)
        assert answers == refused("ENOPROTOOPT") and run.result.denials == {"setsockopt": 1}
    assert calls(attack, profile="default", alter=no_filter)[0] == refused("EBADF")


@pytest.mark.parametrize("profile", PROFILES)
def test_no_listener_and_no_synchronised_filter_inside(profile: str) -> None:
    """Rule: refuse seccomp(NEW_LISTENER) and TSYNC. Removed: the filter; then they are the kernel's to answer (here with a bad program)."""
    program = "#1.0"  # one instruction at NULL
    attack = [request("seccomp", 1, flags, program) for flags in (NEW_LISTENER, TSYNC, NEW_LISTENER | 16 | TSYNC)]
    answers, run = calls(*attack, profile=profile)
    assert answers == refused("EPERM") * 3 and run.result.denials == {"seccomp": 3}
    answers, run = calls(*attack, profile=profile, alter=no_filter)
    assert outcomes(answers) == ["EINVAL"] * 3 and not run.result.denials


def test_a_listener_of_the_payload_would_work_without_the_rule(tmp_path: Path) -> None:
    """The same with a filter that is one. Without the rule the kernel says EBUSY while the audit listens, and takes it when it does not."""
    weaker = write_policy(tmp_path, allow("seccomp"), base="default")
    assert run_payload("a5_listener.py", policy="default")["listener"] == "EPERM"
    assert run_payload("a5_listener.py", policy=weaker)["listener"] == "EBUSY"
    assert run_payload("a5_listener.py", policy=weaker, audit=False)["listener"] == "ok"
    assert run_payload("a5_listener.py", policy="default", audit=False)["listener"] == "EPERM"


def test_priority_inheritance_futexes() -> None:
    """Rule: ordinary calls carry bugs too (CVE-2026-43499); PI operations by the op argument. Removed: the filter; then the lock is taken."""
    attack = [request("futex", "@", op, 0, 0, "@", 0) for op in (6, 8, 6 | 128, 13)] + [
        request("futex", "@", op, 0, 1, "@", 0) for op in (11, 12)
    ]
    for policy in ("strict", "judge", "python", "build"):
        answers, run = calls(*attack, policy=policy)
        assert answers == refused("ENOSYS") * 6 and run.result.denials == {"futex": 6}
    answers, run = calls(*attack, alter=no_filter)
    assert "ENOSYS" not in outcomes(answers)[:4] and outcomes(answers)[0] == "ok"


def test_page_stealing_calls() -> None:
    """Rule: vmsplice everywhere, splice and tee in strict (Dirty Pipe, CVE-2022-0847, writes to read-only files). Removed: the filter."""
    attack = [request("vmsplice", 1, "@", 0, 0), request("splice", 99, 0, 1, 0, 1, 0), request("tee", 99, 1, 1, 0)]
    assert outcomes(calls(*attack)[0]) == ["EPERM", "ENOSYS", "ENOSYS"]
    assert outcomes(calls(*attack, profile="default")[0]) == ["EPERM", "EBADF", "EBADF"]
    assert outcomes(calls(*attack, alter=no_filter)[0]) == ["ok", "EBADF", "EBADF"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_process_is_filtered(profile: str) -> None:
    """Rule: no_new_privs always, one filter, inherited by every process. Removed: the filter; then the field says 0."""
    for alter, seccomp in ((None, "2"), (no_filter, "0")):
        run = run_payload("a5_inherit.py", profile=profile, alter=alter or ())
        assert {run[name] for name in ("self", "child", "grandchild", "executed", "thread")} == {f"{seccomp} 1"}


def test_init_is_filtered_too() -> None:
    """Rule: the filter is inherited by every process, *also the init*. Seen from outside, as init is hidden inside. Removed: init's filter."""
    mark = f"a5-{os.getpid()}"
    for alter, seccomp in ((None, "2"), (drop(("init", InstallFilter)), "0")):
        with neighbour("a5_inherit.py", "wait", mark, alter=alter or ()) as beside:
            beside.wait_for("thread")
            inits = {parent: _status(parent, "Seccomp") for parent in _parents_of_payload(mark)}
            beside.end()
        assert set(inits.values()) == {seccomp}, inits


def _parents_of_payload(mark: str) -> set[int]:
    """Return the pid, as the host sees it, of whoever is parent of the process that waits."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if arguments[-2:-1] == [mark.encode()] and (parent := int(_status(int(name), "PPid"))) != 1:
                found.add(parent)
        except OSError:
            continue
    return found


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field + ":"))
