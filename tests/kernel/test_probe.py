"""The probes on a real kernel: what works here, and refusals that can be made without privilege."""

from __future__ import annotations

import errno
import json
import os
import statistics
import time
from collections.abc import Callable

import pytest

from sandbox.cli import doctor
from sandbox.kernel import probe_calls as calls
from sandbox.kernel import probe_trial as trial
from sandbox.kernel import procfs
from sandbox.kernel.probe import parse_release, probe_host
from sandbox.kernel.probe_deep import probe_deep
from sandbox.kernel.probe_judge import Status
from sandbox.kernel.probe_trial import Outcome, try_in_child
from sandbox.kernel.probe_userns import explain_userns_refusal, gather_userns_facts

MOUNTS = calls.CLONE_NEWNS


def in_child(action: Callable[[], object]) -> str:
    """Run an action that confines itself in a forked child and return the text of its answer."""
    outcome = try_in_child(lambda: str(action()))
    assert outcome.ok, outcome.detail
    return outcome.detail


def refusal_of(action: Callable[[], str]) -> str:
    """Try something, expect it refused, and return its errno's name, the cause named and the fix."""
    outcome = try_in_child(action)
    facts = gather_userns_facts()
    refusal = explain_userns_refusal(outcome.errno, facts)
    return f"{errno.errorcode.get(outcome.errno, outcome.errno)}: {refusal.cause}: {refusal.fix}"


def own_proc() -> procfs.ProcVerdict:
    return procfs.judge_proc(procfs.parse_mountinfo(procfs.read_bytes("/proc/self/mountinfo") or b""))


def test_probe_host_tells_this_machine() -> None:
    features = probe_host()
    assert (features.arch, features.kernel) == (os.uname().machine, os.uname().release)
    assert (features.uid, features.gid) == (os.geteuid(), os.getegid())
    assert features.notify_wait_killable is (parse_release(features.kernel) >= (5, 19))


def test_probe_host_is_cheap() -> None:
    times = []
    for _ in range(50):
        start = time.thread_time_ns()
        probe_host()
        times.append(time.thread_time_ns() - start)
    # The time of this thread, so that a busy machine does not matter: a tenth of a millisecond. What makes a namespace to see takes tens.
    assert statistics.median(times) < 10_000_000


def test_probe_host_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    probe_host()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.landlock
def test_landlock_abi_is_enforced() -> None:
    assert probe_host().landlock_abi >= 1
    assert try_in_child(trial.landlock) == Outcome(detail="enforced")


@pytest.mark.userns
def test_deep_probe_agrees_with_the_cheap_one() -> None:
    features, findings = probe_host(), {finding.name: finding for finding in probe_deep(doctor.find_executable())}
    assert findings["user namespace"].status is Status.WORKS
    assert (findings["fresh /proc"].status is Status.WORKS) is features.proc_mountable
    assert (findings["session keyring"].status is Status.WORKS) is features.keyrings
    assert (findings["time namespace"].status is Status.WORKS) is features.time_namespace
    assert ("pivot_root is refused" in findings["mounts"].detail) is not features.root_pivotable
    assert ("killable wait, synchronous wake-up" in findings["user notification"].detail) is features.notify_sync_wake


@pytest.mark.userns
@pytest.mark.parametrize("action", [trial.mounts, trial.mounts_without_pivot, trial.nested_user_namespace, trial.other_namespaces])
def test_trials_of_what_every_run_needs(action: Callable[[], str]) -> None:
    assert try_in_child(action).ok


@pytest.mark.newuidmap
def test_id_range() -> None:
    (finding,) = [finding for finding in probe_deep() if finding.name == "id range"]
    assert finding.status is Status.WORKS, finding.detail


# ---- the rule for a fresh /proc, held against the kernel -------------------------------------------------------------


def cover_nothing() -> None:
    """Leave /proc as it is."""


def cover_file() -> None:
    calls.mount("/dev/null", "/proc/cpuinfo", None, calls.MS_BIND)


def cover_directory() -> None:
    calls.mount("tmpfs", "/proc/sys", "tmpfs", 0, "size=4k")


def cover_empty_mount_point() -> None:
    target = next((path for path in ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd") if os.path.isdir(path)), None)
    if target is not None:  # else the same as nothing, which the kernel judges alike
        calls.mount("tmpfs", target, "tmpfs", 0, "size=4k")


def cover_all() -> None:
    calls.mount("tmpfs", "/mnt", "tmpfs", 0, "size=4k")
    calls.mount("/proc", "/tmp", None, calls.MS_BIND)
    calls.mount("/dev/null", "/tmp/cpuinfo", None, calls.MS_BIND)
    calls.mount("/dev/null", "/proc/meminfo", None, calls.MS_BIND)


def cover_one_of_two() -> None:
    calls.mount("/proc", "/tmp", None, calls.MS_BIND)
    calls.mount("/dev/null", "/proc/meminfo", None, calls.MS_BIND)


def bare_proc(flags: int) -> str:
    """Mount a fresh procfs without mapping any id, which a read-only /proc would refuse for a reason of its own."""
    calls.unshare(calls.CLONE_NEWUSER | calls.CLONE_NEWNS | calls.CLONE_NEWPID)

    def mount() -> str:
        calls.mount("proc", "/mnt", "proc", flags)
        return os.readlink("/mnt/self")

    outcome = try_in_child(mount)
    if not outcome.ok:
        raise OSError(outcome.errno, outcome.detail)
    return outcome.detail


def make_read_only() -> None:
    calls.mount(None, "/proc", None, calls.MS_REMOUNT | calls.MS_BIND | calls.MS_RDONLY)


@pytest.mark.userns
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (cover_nothing, "True False"),
        (cover_file, "False False"),
        (cover_directory, "False False"),
        (cover_empty_mount_point, "True False"),
        (cover_all, "False False"),
        (cover_one_of_two, "True False"),
        (make_read_only, "True True"),
    ],
)
def test_judge_proc_says_what_the_kernel_does(prepare: Callable[[], None], expected: str) -> None:
    if not own_proc().mountable:
        pytest.skip(f"the outer /proc is masked: {own_proc().reason}")

    def compare() -> str:
        trial.enter_user_namespace(MOUNTS)
        prepare()
        verdict = own_proc()
        writable, read_only = try_in_child(lambda: bare_proc(0)), try_in_child(lambda: bare_proc(calls.MS_RDONLY))
        assert {writable.errno, read_only.errno} <= {0, errno.EPERM}, (writable, read_only)
        if (writable.ok, read_only.ok) != (verdict.mountable and not verdict.read_only, verdict.mountable):
            raise OSError(errno.EIO, f"{verdict} but {writable} {read_only}")
        return f"{verdict.mountable} {verdict.read_only}"

    assert in_child(compare) == expected


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.userns
@pytest.mark.parametrize("name", ["user", "net"])
def test_refused_by_a_limit(name: str) -> None:
    def confined() -> str:
        trial.enter_user_namespace()
        with open(f"/proc/sys/user/max_{name}_namespaces", "w") as file:
            file.write("0")
        return refusal_of(trial.user_namespace if name == "user" else trial.network_namespace)

    said = in_child(confined)
    assert said == f"ENOSPC: the sysctl user.max_{name}_namespaces is 0 in the enclosing sandbox: start it outside of that sandbox"


@pytest.mark.userns
def test_refused_where_proc_is_read_only() -> None:
    def confined() -> str:
        trial.enter_user_namespace(MOUNTS)
        make_read_only()
        return refusal_of(trial.user_namespace)

    assert in_child(confined).startswith("EROFS: /proc is mounted read-only, so that no ids can be mapped")


@pytest.mark.userns
def test_refused_by_nesting() -> None:
    def confined() -> str:
        for _ in range(40):
            try:
                trial.enter_user_namespace()
            except OSError:
                break
        return refusal_of(trial.user_namespace)

    assert in_child(confined).startswith("ENOSPC: an enclosing sandbox forbids more namespaces, or they are nested too deep")


@pytest.mark.userns
def test_refused_in_a_chroot() -> None:
    def confined() -> str:
        trial.enter_user_namespace(MOUNTS)
        calls.mount("tmpfs", "/tmp", "tmpfs", 0, "size=16k")
        os.makedirs("/tmp/root/proc")
        calls.mount("/proc", "/tmp/root/proc", None, calls.MS_BIND | calls.MS_REC)
        os.chroot("/tmp/root")
        os.chdir("/")
        return refusal_of(trial.user_namespace)

    assert in_child(confined).startswith("EPERM: the process runs in a chroot")


@pytest.mark.userns
@pytest.mark.seccomp
@pytest.mark.parametrize(
    ("call", "number", "action"), [("unshare", errno.EPERM, trial.user_namespace), ("clone3", errno.ENOSYS, trial.clone3_call)]
)
def test_refused_by_a_filter(call: str, number: int, action: Callable[[], str]) -> None:
    def confined() -> str:
        calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
        calls.install_filter(trial.filter_one_call(call, 0x00050000 | number), 0)
        facts = gather_userns_facts()
        assert facts.seccomp_mode == 2 and facts.no_new_privs
        return refusal_of(action)

    said = in_child(confined)
    assert said.startswith(f"{errno.errorcode[number]}: ")
    assert "seccomp filter" in said


@pytest.mark.userns
@pytest.mark.seccomp
def test_doctor_where_user_namespaces_are_refused() -> None:
    def confined() -> str:
        calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
        calls.install_filter(trial.filter_one_call("unshare", 0x00050000 | errno.EPERM), 0)
        findings = doctor.collect_findings()
        assert doctor.grade(findings) == 125
        missing = {finding.name for finding in findings if finding.detail == "needs a user namespace"}
        assert {"mounts", "fresh /proc", "network namespace", "nested namespace"} <= missing
        return next(finding.fix for finding in findings if finding.name == "user namespace")

    assert in_child(confined)


def test_doctor_on_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.run(["--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["strict"] == {0: "full", 1: "degraded", 125: "impossible"}[code]
    assert len({row["name"] for row in report["findings"]}) == len(report["findings"]) >= 20
    assert all(row["status"] in ("works", "degraded", "missing") and row["detail"] and row["needed_by"] for row in report["findings"])


# ---- the trials' own frame -------------------------------------------------------------------------------------------


def test_a_trial_that_dies_or_raises_is_reported() -> None:
    def die() -> str:
        os.kill(os.getpid(), 9)
        return "alive"

    def leave() -> str:
        os._exit(3)

    def fail() -> str:
        raise OSError(errno.ENOTTY, "ioctl here")

    assert try_in_child(die) == Outcome(errno=errno.EIO, detail="the trial was killed by signal 9")
    assert try_in_child(leave) == Outcome(errno=errno.EIO, detail="the trial gave no answer")
    assert try_in_child(lambda: str(1 // 0)) == Outcome(errno=errno.EIO, detail="ZeroDivisionError: integer division or modulo by zero")
    assert try_in_child(fail) == Outcome(errno=errno.ENOTTY, detail="ioctl here")


def test_a_trial_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_DEADLINE_MS", 50)
    reader, writer = os.pipe()
    try:
        assert try_in_child(lambda: str(os.read(reader, 1))).errno == errno.ETIMEDOUT
    finally:
        os.close(reader)
        os.close(writer)
