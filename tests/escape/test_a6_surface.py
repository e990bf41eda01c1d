"""A6: the kernel's less used surface, its clocks, its /proc, its core dumps."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.raw import X86, calls, outcomes, refused, request
from escape.support import Alteration, drop, no_filter, run_payload, shared_directory

from sandbox.abi import uapi
from sandbox.plan.steps import DropCapabilities, MaskProc, Plan, SetLimit
from sandbox.policy.profile import ProcMode

PROFILES = ("strict", "python", "default", "build", "shell", "judge")

# What the kernel answers an ordinary process when it is reached; a name of an errno, or ok. None: it says EPERM itself, for want of a capability.
SURFACE: list[tuple[str, str, str | None]] = [
    ("userfaultfd", request("userfaultfd", 1), "ok"),  # 1 is UFFD_USER_MODE_ONLY: for everybody
    ("bpf", request("bpf", 5, 0, 0), None),
    ("perf_event_open", request("perf_event_open", 0, 0, -1, -1, 0), "EFAULT"),
    ("personality", request("personality", 0x0400000), "ok"),
    ("kexec_load", request("kexec_load", 0, 0, 0, 0), None),
    ("kexec_file_load", request("kexec_file_load", -1, -1, 0, 0, 0), None),
    ("init_module", request("init_module", 0, 0, 0), None),
    ("finit_module", request("finit_module", -1, 0, 0), None),
    ("delete_module", request("delete_module", "'none", 0), None),
    ("quotactl", request("quotactl", 0, 0, 0, 0), "ENODEV"),
    ("fanotify_init", request("fanotify_init", 0x200, 0), "ok"),  # FAN_REPORT_FID: for everybody since 5.13
    ("fanotify_mark", request("fanotify_mark", -1, 1, 0, 0, 0), "EINVAL"),
    ("mbind", request("mbind", "@", 4096, 0, 0, 0, 0), "ok"),
    ("set_mempolicy", request("set_mempolicy", 0, 0, 0), "ok"),
    ("migrate_pages", request("migrate_pages", 0, 0, 0, 0), "EINVAL"),
    ("move_pages", request("move_pages", 0, 0, 0, 0, 0, 0), "ok"),
    ("acct", request("acct", 0), None),
    ("reboot", request("reboot", 0, 0, 0, 0), None),
    ("syslog", request("syslog", 10, 0, 0), None),
    ("sethostname", request("sethostname", "'x", 1), None),
    ("setdomainname", request("setdomainname", "'x", 1), None),
    ("vhangup", request("vhangup"), None),
    ("memfd_secret", request("memfd_secret", 0), "ok"),
    ("lookup_dcookie", request("lookup_dcookie", 0, 0, 0), "ENOSYS"),
    ("cachestat", request("cachestat", -1, "@", "@", 0), "EBADF"),
    ("process_madvise", request("process_madvise", -1, "@", 1, 0, 0), "EBADF"),
    ("process_mrelease", request("process_mrelease", -1, 0), "EBADF"),
    ("pidfd_getfd", request("pidfd_getfd", -1, 0, 0), "EBADF"),
    ("kcmp", request("kcmp", 0, 0, 0, 0, 0), "ESRCH"),
    ("process_vm_readv", request("process_vm_readv", 0, "@", 1, "@", 1, 0), "ok"),
    ("ptrace", request("ptrace", 0, 0, 0, 0), "ok"),
    ("add_key", request("add_key", "'user", "'a5", "'secret", 6, -2), "ok"),
    ("request_key", request("request_key", "'user", "'none", 0, 0), "ENOKEY"),
    ("keyctl", request("keyctl", 0, -2, 0), "ok"),
]
if X86:
    SURFACE += [
        ("modify_ldt", request("modify_ldt", 0, "@", 512), "ok"),
        ("iopl", request("iopl", 0), "ok"),
        ("ioperm", request("ioperm", 0, 1, 0), "ok"),
        ("uselib", request("uselib", "'/nowhere"), "ENOSYS"),
        ("ustat", request("ustat", 0, "@"), "EINVAL"),
        ("sysfs", request("sysfs", 3, 0, 0), "ok"),
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_surface_is_refused(profile: str) -> None:
    """Rule: the lists of Docker, nsjail and isolate, and more. Every call is a record. Removed in the next test: the filter."""
    answers, run = calls(*(attack for _, attack, _ in SURFACE), profile=profile)
    assert {name: answer for (name, _, _), answer in zip(SURFACE, outcomes(answers), strict=True) if answer != "EPERM"} == {}
    assert run.result.denials == dict.fromkeys((name for name, _, _ in SURFACE), 1)


def test_the_surface_is_reached_without_the_filter() -> None:
    """The same calls are the kernel's to answer then: what it allows everybody works, and of the rest nobody learns."""
    answers, run = calls(*(attack for _, attack, _ in SURFACE), alter=no_filter)
    assert not run.result.denials
    got = {name: answer for (name, _, _), answer in zip(SURFACE, outcomes(answers), strict=True)}
    # A kernel may be built without one of them.
    wrong = {name: (got[name], want) for name, _, want in SURFACE if want and got[name] != want and got[name] != "ENOSYS"}
    assert len(wrong) <= 3, wrong
    assert list(got.values()).count("ok") >= 10


CLOCKS = [
    (request("clock_settime", 99, "@"), "EINVAL"), (request("settimeofday", "^", 0), "EINVAL"),
    (request("adjtimex", "@"), "ok"), (request("clock_adjtime", 0, "@"), "ok"),
]  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_clocks(profile: str) -> None:
    """Rule: clock_settime, settimeofday, adjtimex, clock_adjtime are not namespaced: filter, and capability. Removed: the filter; then they are reached."""
    attack = [text for text, _ in CLOCKS]
    answers, run = calls(*attack, profile=profile)
    assert answers == refused("EPERM") * 4
    assert set(run.result.denials) == {"clock_settime", "settimeofday", "adjtimex", "clock_adjtime"}
    answers, run = calls(*attack, profile=profile, alter=no_filter)
    assert outcomes(answers) == [expected for _, expected in CLOCKS] and not run.result.denials
    # The second wall: setting it for real still needs a right on the host that nobody here has. (The time is the present's: harmless should it work.)
    command = ("python3", "-c", "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())")
    run = run_payload(
        command, profile=profile, alter=(no_filter, drop(("payload", DropCapabilities))), profile_changes={"uid": 0, "gid": 0}
    )
    assert b"PermissionError" in run.err


SECRETS = (
    "cmdline", "config.gz", "kcore", "kallsyms", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "sysrq-trigger", "slabinfo", "vmallocinfo",
    "modules", "interrupts", "kpagecount", "kpageflags", "kpagecgroup", "acpi", "scsi", "driver", "sys/kernel/random/boot_id",
)  # fmt: skip


def _word(name: str) -> str:
    return name.rpartition("/")[2]


def read_proc(*, profile: str = "default", alter: Any = (), **how: Any) -> Any:
    return run_payload("a6_proc.py", *SECRETS, profile=profile, alter=alter, **how)


@pytest.mark.parametrize("profile", ["strict", "python"])
def test_proc_of_processes_only(profile: str) -> None:
    """Rule: subset=pid and hidepid remove most at once; no /sys. Removed: the subset, and with it the host's facts are there to be masked."""
    run = read_proc(profile=profile)
    assert {run[_word(name)] for name in SECRETS} == {"ENOENT"}
    assert (run["sys-files"], run["writable"], run["sysfs"], run["init"]) == ("0", "0", "absent", "ENOENT")
    run = read_proc(profile=profile, profile_changes={"proc": ProcMode.FULL}, alter=drop(MaskProc))
    assert int(run["sys-files"]) > 100 and run["cmdline"] == "ok"


@pytest.mark.parametrize("profile", ["default", "build", "shell"])
def test_masks_of_a_whole_proc(profile: str) -> None:
    """Rule: mask kcore, keys, timer_list, kmsg, acpi … and boot_id; /proc/sys read-only. Removed: the masks; then facts are read, sysctls opened."""
    run = read_proc(profile=profile)
    assert {name: run[_word(name)] for name in SECRETS if run[_word(name)] not in ("ENOENT", "EACCES", "empty")} == {}
    assert int(run["sys-files"]) > 100 and (run["writable"], run["sysfs"], run["init"]) == ("0", "absent", "ENOENT")
    bare = read_proc(profile=profile, alter=drop(MaskProc))
    assert bare["cmdline"] == bare["boot_id"] == "ok" and int(bare["writable"]) > 0


def test_no_way_to_the_kernels_log() -> None:
    """Rule: neither /proc/kmsg nor syslog(2) nor /dev/kmsg. Removed: the filter; then syslog is the kernel's to refuse, where dmesg_restrict is set."""
    attack = [request("syslog", 10, 0, 0), request("open", "'/dev/kmsg", 0, 0), request("open", "'/proc/kmsg", 0, 0)]
    answers, run = calls(*attack, profile="default")
    assert outcomes(answers)[:2] == ["EPERM", "ENOENT"] and outcomes(answers)[2] in ("EACCES", "ENOENT")
    assert run.result.denials == {"syslog": 1}
    answers, run = calls(*attack, profile="default", alter=no_filter)
    assert not run.result.denials


def lift_core(plan: Plan) -> Plan:
    """Set RLIMIT_CORE as high as the caller may have it."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1] & uapi.RLIM_INFINITY
    payload = tuple(
        replace(step, soft=hard, hard=hard) if isinstance(step, SetLimit) and step.resource == uapi.RLIMIT_CORE else step
        for step in plan.payload
    )
    assert payload != plan.payload
    return type(plan)(arch=plan.arch, janitor=plan.janitor, init=plan.init, payload=payload, notes=plan.notes)


@pytest.mark.parametrize("profile", PROFILES)
def test_core_limit_is_one(profile: str) -> None:
    """Rule: soft = hard = 1, the only value at which the kernel runs no piped handler (fs/coredump.c). Removed: the limit."""
    command = ("sh", "-c", "ulimit -S -c; ulimit -H -c; cat /proc/self/limits")
    run = run_payload(command, profile=profile)
    line = next(line.split() for line in run.out.decode().splitlines() if line.startswith("Max core"))
    assert line[4:6] == ["1", "1"]
    line = next(line.split() for line in run_payload(command, alter=lift_core).out.decode().splitlines() if line.startswith("Max core"))
    assert line[4:6] != ["1", "1"]


def test_no_core_file_where_the_payload_may_write(tmp_path: Path) -> None:
    """Rule: no core dump. It crashes in a writable share, where the host's core_pattern would put a file. Removed: the limit; then the file is there."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|") or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(f"core_pattern `{pattern}` writes no file here, or the hard limit forbids one")
    command = ("sh", "-c", "cd /share && kill -SEGV $$")
    lifts: list[tuple[Alteration | tuple[()], bool]] = [((), False), (lift_core, True)]
    for number, (alter, leaves_file) in enumerate(lifts):
        share = shared_directory(tmp_path / str(number))
        run = run_payload(command, volumes=[f"{share}:/share:rw"], alter=alter, limits={"file-size": "none", "output": "1M"})
        assert run.result.signal == 11, run.err
        assert bool(list(share.iterdir())) is leaves_file
