"""A11, the machine view: what it says cannot be changed from inside, what it hides stays hidden, and answering calls gives nobody a way to the supervisor.

Each attack is made again with the layer that stops it taken out, and must then succeed.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from escape.support import drop, no_filter, run_payload

from sandbox.abi import uapi
from sandbox.plan import lower_machine
from sandbox.plan.steps import CoverPath, MaskProc, RestrictLandlock, RootReadOnly
from sandbox.policy.profile import MachineView
from sandbox.result import Verdict

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

REFUSED = {"EROFS", "EACCES", "EPERM", "EBUSY", "EXDEV", "ENOENT", "EINVAL", "ENOSYS", "EEXIST"}
WAYS = ("write", "truncate", "through", "chmod", "unlink", "replace", "umount", "mount", "remount", "make")
RACES = 400
LIMITS = {"memory": "192M"}


def attack(**how: Any) -> Any:
    return run_payload("machine_attack.py", str(RACES), limits=LIMITS, **how)


@pytest.mark.parametrize(("profile", "view"), [("default", "live"), ("default", "static"), ("strict", "static"), ("strict", "live")])
def test_nobody_inside_changes_what_it_says(profile: str, view: str) -> None:
    """Rule: read-only mounts, owned by a namespace above the payload's; no right over any mount; a filter that knows no mount calls."""
    run = attack(profile=profile, profile_changes={"machine_view": MachineView(view)})
    tried = {name: value for name, value in run.facts.items() if name.partition("-")[0] in WAYS}
    assert len(tried) > 30 and {name: value for name, value in tried.items() if value not in REFUSED} == {}
    assert run["same"] == "True" and run.result.ok, run.err
    # 0, 1, 2, and the one that lists them: neither the tmpfs nor the listener.
    assert run["descriptors"] == "0,1,2,3"
    assert set(run["racy"].split("|")) <= {"ok", "Bad address"}, "whatever the memory does, the answer is the kernel's"


def test_without_the_filter_the_mounts_hold() -> None:
    """The second wall by itself: nothing over mounts without a capability, nothing through a read-only mount."""
    run = attack(profile="default", profile_changes={"machine_view": MachineView.LIVE}, alter=no_filter)
    for name, value in run.facts.items():
        assert value in REFUSED or name in ("same", "descriptors", "racy"), (name, value)
    assert run["same"] == "True"


def test_without_the_seal_the_files_are_the_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same attack where the clone over the tmpfs is not made read-only, and Landlock does not stand in for it."""
    monkeypatch.setattr(lower_machine, "_SEALED", lower_machine._SEALED & ~uapi.MOUNT_ATTR_RDONLY)
    run = attack(profile="default", profile_changes={"machine_view": MachineView.LIVE}, alter=drop(RestrictLandlock))
    assert run["write-proc-meminfo"] == run["truncate-sys-fs-cgroup-memory-max"] == run["unlink-sys-machine-meminfo"] == "ok"
    assert run["same"] == "False"


def test_the_seal_is_needed_where_the_root_is_not_read_only() -> None:
    """The control of a static view: its files are on the root, whose mount is made read-only after they were mounted elsewhere."""
    static = {"machine_view": MachineView.STATIC}
    kept = attack(profile="default", profile_changes=static, alter=drop(RestrictLandlock, RootReadOnly))
    assert kept["chmod-proc-meminfo"] == kept["chmod-sys-machine-meminfo"] == kept["chmod-sys-devices-system-cpu-online"] == "EROFS"
    assert kept["same"] == "True"

    def unsealed(plan: Any) -> Any:
        from dataclasses import replace

        return replace(plan, init=tuple(step for step in plan.init if not (isinstance(step, CoverPath) and step.path == step.source)))

    bare = attack(profile="default", profile_changes=static, alter=(drop(RestrictLandlock, RootReadOnly), unsealed))
    assert bare["chmod-sys-machine-meminfo"] == bare["unlink-sys-devices-system-cpu-online"] == "ok" and bare["same"] == "False"


FACTS = (
    "boot-id", "command-line", "nodename", "hostname", "etc-hostname", "meminfo", "zoneinfo", "buddyinfo", "mhz", "stat-context", "btime", "softirqs",
    "schedstat", "uptime", "idle", "boottime", "start", "loadavg-pids", "vmstat", "diskstats", "partitions", "builder", "iomem", "sysinfo-uptime",
    "sysinfo-total",
)  # fmt: skip


def host_facts() -> dict[str, str]:
    def read(path: str) -> str:
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return ""

    def number(path: str, pattern: str) -> str:
        found = re.search(pattern, read(path), re.MULTILINE)
        return found[1] if found else ""

    return {
        "boot-id": read("/proc/sys/kernel/random/boot_id").strip(), "command-line": read("/proc/cmdline").strip(), "nodename": os.uname().nodename,
        "hostname": os.uname().nodename, "etc-hostname": read("/etc/hostname").strip(), "meminfo": number("/proc/meminfo", r"^MemTotal: +(\d+)"),
        "zoneinfo": number("/proc/zoneinfo", r"present +(\d+)"), "buddyinfo": read("/proc/buddyinfo")[:8],
        "btime": number("/proc/stat", r"^btime (\d+)"), "softirqs": read("/proc/softirqs")[:40].strip(), "schedstat": read("/proc/schedstat")[:7],
        "diskstats": " ".join(read("/proc/diskstats").split()[:3]), "partitions": "".join(read("/proc/partitions").split("\n")[2:]).strip(),
        "builder": number("/proc/version", r"\((\S+@\S+)\)"), "iomem": read("/proc/iomem")[:8],
        "sysinfo-total": str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
    }  # fmt: skip


def shows(name: str, inside: str, host: dict[str, str]) -> bool:
    """Tell whether what was read inside tells of the host."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME)
    if name in ("uptime", "boottime", "sysinfo-uptime"):
        return abs(float(inside or 0) - age) < 60
    if name == "start":
        return abs(int(inside) / os.sysconf("SC_CLK_TCK") - age) < 60
    if name == "idle":
        return float(inside or 0) > age / 4
    if name in ("stat-context", "vmstat"):
        return int(inside or 0) > 100_000
    if name == "loadavg-pids":
        return int(inside or 0) > 1000
    if name == "mhz":
        return inside != ""
    return inside != "" and host.get(name, "") != "" and (inside.startswith(host[name]) or inside == host[name])


def test_facts_of_the_host_are_hidden_in_all_of_these_places() -> None:
    """With the view none of 25; without it, and without the masks that every profile has, the same program finds most of them: they were there to be hidden."""
    host = host_facts()
    run = run_payload("machine_facts.py", profile="default", limits=LIMITS)
    assert {name: run[name] for name in FACTS if shows(name, run[name], host)} == {}
    assert run["meminfo"] == str(192 << 10) and run["sysinfo-total"] == str(192 << 20) and run["dmi"] == "False" and run["swaps"] == ""
    assert run["pressure"] in ("0", "") and run["pci"] == "" and int(run["sysinfo-procs"]) < 10
    bare = run_payload("machine_facts.py", profile="default", limits=LIMITS, profile_changes={"machine_view": MachineView.OFF}, alter=drop(MaskProc))
    found = {name for name in FACTS if shows(name, bare[name], host)}
    hidden_anyway = {"nodename", "hostname", "etc-hostname"}
    there = {name for name in FACTS if name not in host or host[name]}  # what this host has to show at all
    assert there - found <= hidden_anyway | {"start", "mhz", "vmstat", "loadavg-pids", "stat-context", "iomem"}, there - found
    assert len(found) >= 12


def test_minimal_stays_minimal() -> None:
    run = run_payload("machine_facts.py", profile="strict", limits=LIMITS)
    assert run["sysinfo-total"] == str(192 << 20) and int(run["sysinfo-uptime"]) < 60
    assert {run[name] for name in ("meminfo", "btime", "uptime", "loadavg-pids", "diskstats", "builder", "boot-id", "command-line")} == {""}


def test_calls_of_other_kinds_are_killed_as_before() -> None:
    """i386's and x32's numbers of the emulated calls reach no listener."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86_64 has those entries")
    from escape.raw import calls

    for entry in ("int80:116:@", "int80:242:0,128,@"):
        answers, run = calls(entry, profile="strict")
        assert answers == ["signal 31"] and run.result.verdict in (Verdict.OK, Verdict.DENIED_SYSCALL, Verdict.NONZERO_EXIT, Verdict.SIGNALED)
    for number in (99, 204):
        answers, _ = calls(f"syscall:{number + 0x4000_0000}:@", profile="strict")
        assert answers == ["signal 31"]
