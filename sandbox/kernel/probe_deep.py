"""The deep probe: every kernel feature the sandbox uses, tried for real, with the one command that mends what is missing.

It forks a child for each trial, so it is for `sandbox doctor` and tests, never for a run and never for a threaded program. What belongs to
other floors (cgroups, the executor, libseccomp) is added by `cli.doctor`. Only that module and tests may import this one.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable
from functools import partial

from sandbox.kernel import probe_calls as calls
from sandbox.kernel import probe_trial as trial
from sandbox.kernel import procfs
from sandbox.kernel.probe_judge import (
    Finding,
    Need,
    Status,
    describe_outcome,
    judge_clone3,
    judge_hardening,
    judge_id_range,
    judge_landlock,
    judge_surroundings,
    judge_userns,
)
from sandbox.kernel.probe_trial import Outcome, try_in_child
from sandbox.kernel.probe_userns import UsernsFacts, container_fix, explain_userns_refusal, gather_userns_facts


def probe_deep(executable: str = "") -> list[Finding]:
    """Try every feature and return the findings, the most needed first.

    Args:
        executable: absolute path of the program that makes namespaces on a run, for AppArmor's profiles.
    """
    facts = gather_userns_facts(executable)
    userns = judge_userns(try_in_child(trial.user_namespace), facts)
    findings = [userns, judge_clone3(try_in_child(trial.clone3_call), facts)]
    inside = userns.status is not Status.MISSING
    findings += [_inside(inside, facts, *row) for row in _NAMESPACE_TRIALS]
    findings += [
        judge_surroundings(facts),
        _mounts(inside, facts),
        *_proc_findings(inside, facts),
        _tried(
            "seccomp filter",
            trial.seccomp_filter,
            "every run",
            Need.EVERY,
            partial(_blocked_fix, facts, "boot a kernel with CONFIG_SECCOMP_FILTER=y"),
        ),
        _notification(inside, facts),
        _landlock(facts),
        _tried("session keyring", trial.keyring, "every run, where keyrings exist", Need.OPTIONAL, _nothing),
        _id_range(inside, facts),
        *_optional(inside, facts),
        *judge_hardening(
            core_pattern=procfs.read_text("/proc/sys/kernel/core_pattern", 4096),
            legacy_tiocsti=procfs.read_sysctl("dev/tty/legacy_tiocsti"),
            yama=procfs.read_sysctl("kernel/yama/ptrace_scope"),
            release=facts.kernel,
        ),
    ]
    return sorted(findings, key=lambda finding: list(Need).index(finding.need))


_NAMESPACE_TRIALS: tuple[tuple[str, Callable[[], str], str, Need], ...] = (
    ("nested namespace", trial.nested_user_namespace, "every run: it locks the mounts", Need.EVERY),
    ("other namespaces", trial.other_namespaces, "every run", Need.EVERY),
    ("network namespace", trial.network_namespace, "every run", Need.EVERY),
    ("devpts", trial.fresh_devpts, "interactive runs", Need.STRICT),
    ("overlay", trial.overlay, "layered root file systems", Need.OPTIONAL),
    ("time namespace", trial.time_namespace, "profiles with time_namespace", Need.OPTIONAL),
)


def _tried(name: str, action: Callable[[], str], needed_by: str, need: Need, fix: Callable[[Outcome], str]) -> Finding:
    outcome = try_in_child(action)
    if outcome.ok:
        return Finding(name=name, status=Status.WORKS, detail=outcome.detail, needed_by=needed_by, need=need)
    return Finding(name=name, status=Status.MISSING, detail=describe_outcome(outcome), fix=fix(outcome), needed_by=needed_by, need=need)


def _inside(possible: bool, facts: UsernsFacts, name: str, action: Callable[[], str], needed_by: str, need: Need) -> Finding:
    """Try something that needs a user namespace; where there is none say so, and leave the fix to that finding."""
    if not possible:
        return Finding(name=name, status=Status.MISSING, detail="needs a user namespace", needed_by=needed_by, need=need)
    return _tried(name, action, needed_by, need, partial(_fix_inside, facts, name))


def _fix_inside(facts: UsernsFacts, name: str, outcome: Outcome) -> str:
    if outcome.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC) and name != "overlay":
        return explain_userns_refusal(outcome.errno, facts).fix
    match name:
        case "mounts" if outcome.errno == errno.ENOSYS:
            return "use Linux 5.12 or newer (mount_setattr)"
        case "overlay" if outcome.errno == errno.EIO:
            return "use Linux 6.6 or newer, or an upper directory on a disk"
        case "overlay" if outcome.errno == errno.ENODEV:
            return "sudo modprobe overlay"
        case "overlay":
            return "use Linux 5.11 or newer"
        case "time namespace":
            return "boot a kernel with CONFIG_TIME_NS=y (Linux 5.6 or newer)"
    return ""


def _mounts(inside: bool, facts: UsernsFacts) -> Finding:
    finding = _inside(inside, facts, "mounts", trial.mounts, "every run", Need.EVERY)
    if inside and finding.status is Status.MISSING and "pivot_root" in finding.detail:
        # an initial ramfs root: a run then moves its root over "/" and chroots
        other = try_in_child(trial.mounts_without_pivot)
        if other.ok:
            detail = f"{other.detail}, as pivot_root is refused here"
            return Finding(name=finding.name, status=Status.WORKS, detail=detail, needed_by=finding.needed_by, need=finding.need)
    return finding


def _proc_findings(inside: bool, facts: UsernsFacts) -> list[Finding]:
    finding = _inside(inside, facts, "fresh /proc", partial(trial.fresh_proc, "subset=pid"), "every run but proc = none", Need.STRICT)
    if finding.status is Status.WORKS or not inside:
        return [finding]
    verdict = procfs.judge_proc(procfs.parse_mountinfo(procfs.read_bytes("/proc/self/mountinfo", 16 << 20) or b""))
    covers = f": {', '.join(verdict.covers[:3])}" + (" …" if len(verdict.covers) > 3 else "") if verdict.covers else ""
    detail = f"{finding.detail}: outer /proc: {verdict.reason}{covers}" if verdict.reason else finding.detail
    fix = container_fix(facts) or ('start it where /proc is whole, or set proc = "none" in the profile' if verdict.reason else finding.fix)
    return [Finding(name=finding.name, status=finding.status, detail=detail, fix=fix, needed_by=finding.needed_by, need=finding.need)]


def _notification(inside: bool, facts: UsernsFacts) -> Finding:
    name, needed_by = "user notification", "the audit of denied calls"
    both = calls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    outcome = try_in_child(partial(trial.user_notification, both, isolated=inside, sync=True))
    if outcome.ok:
        detail = f"{outcome.detail}, killable wait, synchronous wake-up"
        return Finding(name=name, status=Status.WORKS, detail=detail, needed_by=needed_by, need=Need.STRICT)
    plain = try_in_child(partial(trial.user_notification, isolated=inside))
    if not plain.ok:
        fix = _blocked_fix(facts, "use Linux 5.6 or newer", plain)
        if procfs.read_sysctl("kernel/yama/ptrace_scope") == 3:
            fix = "remove kernel.yama.ptrace_scope=3 from /etc/sysctl.d and reboot"
        return Finding(name=name, status=Status.MISSING, detail=describe_outcome(plain), fix=fix, needed_by=needed_by, need=Need.STRICT)
    killable = try_in_child(partial(trial.user_notification, both, isolated=inside)).ok
    # without the synchronous wake-up it is only slower, without the killable wait a signal may lose a record
    detail = f"{plain.detail}, " + ("no synchronous wake-up: slower" if killable else "no killable wait: a signal may lose a record")
    status, fix = (Status.WORKS, "") if killable else (Status.DEGRADED, "use Linux 5.19 or newer")
    return Finding(name=name, status=status, detail=detail, fix=fix, needed_by=needed_by, need=Need.STRICT)


def _landlock(facts: UsernsFacts) -> Finding:
    try:
        abi, refusal = calls.landlock_abi(), 0
    except OSError as error:
        abi, refusal = 0, error.errno or errno.EIO
    finding = judge_landlock(abi, refusal, procfs.read_text("/sys/kernel/security/lsm", 4096))
    outcome = try_in_child(trial.landlock) if abi else Outcome()
    if outcome.ok:
        return finding
    fix = _blocked_fix(facts, "", outcome)
    return Finding(
        name=finding.name, status=Status.MISSING, detail=describe_outcome(outcome), fix=fix, needed_by=finding.needed_by, need=Need.STRICT
    )


def _id_range(inside: bool, facts: UsernsFacts) -> Finding:
    uid, gid, needed_by = os.geteuid(), os.getegid(), "profiles with ids = range"
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    subuid = procfs.parse_subids(procfs.read_text("/etc/subuid") or "", (user, str(uid)))
    subgid = procfs.parse_subids(procfs.read_text("/etc/subgid") or "", (user, str(uid)))
    helpers = _find_program("newuidmap"), _find_program("newgidmap")
    if uid == 0:
        return _inside(inside, facts, "id range", partial(trial.id_range, ()), needed_by, Need.OPTIONAL)
    early = judge_id_range(subuid=subuid, subgid=subgid, helpers=helpers, user=user, no_new_privs=facts.no_new_privs)
    if early is not None:
        return early
    if not inside:
        return Finding(name="id range", status=Status.MISSING, detail="needs a user namespace", needed_by=needed_by)
    commands = tuple(
        (helper or "", "0", str(own), "1", "1", str(first), str(min(count, 65535)))
        for helper, own, (first, count) in zip(helpers, (uid, gid), (subuid[0], subgid[0]), strict=True)
    )
    fix = "sudo apt-get install --reinstall uidmap"
    finding = _tried("id range", partial(trial.id_range, commands), needed_by, Need.OPTIONAL, lambda _: fix)
    if finding.status is Status.WORKS:
        count = min(subuid[0][1], subgid[0][1])
        return Finding(name=finding.name, status=finding.status, detail=f"{finding.detail}, {count} ids", needed_by=finding.needed_by)
    return finding


def _optional(inside: bool, facts: UsernsFacts) -> list[Finding]:
    """Counters and nodes that make results better and that no run depends on."""
    software = try_in_child(partial(trial.perf_counter, 1, 1))  # PERF_COUNT_SW_TASK_CLOCK
    hardware = try_in_child(partial(trial.perf_counter, 0, 1))  # PERF_COUNT_HW_INSTRUCTIONS
    paranoid = procfs.read_sysctl("kernel/perf_event_paranoid")
    if hardware.ok:
        perf = Finding(name="perf counters", status=Status.WORKS, detail="instructions counted", needed_by="instruction counts")
    elif hardware.errno in (errno.EACCES, errno.EPERM) and paranoid is not None and paranoid > 2:
        perf = Finding(
            name="perf counters",
            status=Status.MISSING,
            detail=f"kernel.perf_event_paranoid is {paranoid}",
            fix="sudo sysctl -w kernel.perf_event_paranoid=2",
            needed_by="instruction counts",
        )
    else:
        why = "no hardware counters on this machine" if hardware.errno in (errno.ENOENT, errno.EOPNOTSUPP) else describe_outcome(hardware)
        fix = "" if hardware.errno in (errno.ENOENT, errno.EOPNOTSUPP) else _blocked_fix(facts, "", hardware)
        status = Status.DEGRADED if software.ok else Status.MISSING
        perf = Finding(name="perf counters", status=status, detail=why, fix=fix, needed_by="instruction counts")
    io = procfs.read_text("/proc/self/io", 4096) is not None
    pressure = procfs.read_text("/proc/pressure/cpu", 4096) is not None
    nodes = [name for name in ("null", "zero", "full", "random", "urandom", "tty") if not os.path.exists(f"/dev/{name}")]
    return [
        perf,
        Finding(
            name="I/O counters",
            status=Status.WORKS if io else Status.MISSING,
            detail="/proc/PID/io is readable" if io else "no /proc/PID/io",
            fix="" if io else "boot a kernel with CONFIG_TASK_IO_ACCOUNTING=y",
            needed_by="bytes read and written",
        ),
        Finding(
            name="pressure",
            status=Status.WORKS if pressure else Status.MISSING,
            detail="/proc/pressure is readable" if pressure else "no /proc/pressure",
            fix="" if pressure else "add psi=1 to the kernel command line and reboot",
            needed_by="noise-aware timing",
        ),
        Finding(
            name="device nodes",
            status=Status.MISSING if nodes else Status.WORKS,
            detail=f"missing in /dev: {', '.join(nodes)}" if nodes else "null zero full random urandom tty",
            fix="start the container with the usual device nodes" if nodes else "",
            needed_by="every run: bound into its own /dev",
            need=Need.EVERY if set(nodes) & {"null", "zero", "urandom"} else Need.STRICT,
        ),
    ]


def _find_program(name: str) -> str | None:
    """Look in the system's directories only: a run with the caller's PATH must not pick another helper."""
    return next((path for base in ("/usr/bin", "/bin", "/usr/sbin", "/sbin") if os.access(path := f"{base}/{name}", os.X_OK)), None)


def _blocked_fix(facts: UsernsFacts, otherwise: str, outcome: Outcome) -> str:
    if outcome.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES) and facts.seccomp_mode == 2:
        return container_fix(facts) if facts.container else "start it outside of the enclosing sandbox or service"
    return otherwise


def _nothing(outcome: Outcome) -> str:
    return ""
