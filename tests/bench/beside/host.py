"""The machine: what it is, how busy it is, which processes are whose, and what memory they take."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_TICKS = os.sysconf("SC_CLK_TCK")
_ACCOUNT = Path("/sys/fs/cgroup/cpuacct/sandbox-bench")
_VERSIONS = ("bwrap", "nsjail", "isolate", "firejail", "crun", "runc", "podman")


class Failed(Exception):
    """A launch did not end well, a row is not what it says, or a measure cannot be taken here."""


def describe(variables: Mapping[str, str]) -> dict[str, object]:
    """Return what a reader must know of the machine and the versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    hypervisor = Path("/sys/class/dmi/id/product_name")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": models[0].split(":", 1)[1].strip() if models else "?",
        "cpus": len(os.sched_getaffinity(0)),
        "product": hypervisor.read_text().strip() if hypervisor.exists() else "",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "uid": os.geteuid(),
        "load": os.getloadavg(),
        "commit": _say(("git", "-C", str(_ROOT), "describe", "--always", "--dirty"), variables),
        "versions": {name: said for name in _VERSIONS if (said := _say((name, "--version"), variables))},
    }


def _say(words: tuple[str, ...], variables: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(words, env=dict(variables), capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else ((done.stdout or done.stderr).strip().splitlines() or [""])[0]


def busy_share(seconds: float) -> float:
    """Return how much of all processors was busy during a time from now."""

    def used() -> int:
        fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4]  # not idle, not waiting for disks

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return min(1.0, (used() - before) / _TICKS / ((time.monotonic() - began) * (os.cpu_count() or 1)))


def settle(limit: float) -> float:
    """Wait until the machine is quiet, for at most `limit` seconds: namespaces are torn down after their last process. Return the busy share then."""
    end = time.monotonic() + limit
    while True:
        share = busy_share(min(0.05, limit)) if limit > 0 else 0.0
        if share < 0.1 or time.monotonic() >= end:
            return share


def take_shares(shares: int) -> None:
    """Give this process and all that it starts a weight against other work on the machine (1024 is that of everybody); needs root and cgroup v1.

    Raises:
        Failed: it cannot be had.
    """
    group = Path("/sys/fs/cgroup/cpu/sandbox-bench")
    try:
        group.mkdir(exist_ok=True)
        (group / "cpu.shares").write_text(str(shares))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        _ACCOUNT.mkdir(exist_ok=True)
        (_ACCOUNT / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise Failed(f"--cpu-shares: {error}") from None


def processor_seconds() -> float | None:
    """Return the processor time of this measurement's processes so far, without the kernel's own threads; None without `take_shares`."""
    try:
        return int((_ACCOUNT / "cpuacct.usage").read_text()) / 1e9
    except OSError:
        return None


def become_subreaper() -> None:
    """Let what loses its parent become a child of this process: it is found as a descendant then."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def kill_strays() -> None:
    """End what became ours because its parent left it, like the process that podman leaves behind."""
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (OSError, ChildProcessError):
            pass  # not ours to end, or no child of this process


def parents() -> dict[int, int]:
    """Return every process that can be seen, with its parent."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            found[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    return found


def descendants(pid: int, known: dict[int, int] | None = None) -> list[int]:
    """Return the children of a process and theirs."""
    by_parent: dict[int, list[int]] = {}
    for child, parent in (parents() if known is None else known).items():
        by_parent.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        children = by_parent.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def command_name(pid: int) -> str:
    """Return the name of a process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def wait_for_sleepers(count: int, candidates: Callable[[], Iterable[int]], seconds: float = 60) -> None:
    """Return once so many of the candidates run `sleep`.

    Raises:
        Failed: they did not come in time.
    """
    end = time.monotonic() + seconds
    while (found := sum(command_name(pid) == "sleep" for pid in candidates())) < count:
        if time.monotonic() > end:
            raise Failed(f"{found} of {count} idle sandboxes came up")
        time.sleep(0.05)


def kernel_bytes() -> int:
    """Return what the kernel uses for itself: slab, stacks, page tables, per-processor data."""
    wanted = ("Slab", "KernelStack", "PageTables", "SecPageTables", "Percpu")
    lines = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(rest.split()[0]) * 1024 for name, rest in lines if name in wanted)

