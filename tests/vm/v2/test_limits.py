"""Cgroup v2 in a booted Debian: the kernel holds the limits, says which one was met, and nothing is left when the client is killed.

As an ordinary user every command runs as the documents say: ``systemd-run --user --scope -p Delegate=yes sandbox exec …``, from a login session that
is not delegated itself. As root it runs as it is.
"""

from __future__ import annotations

import glob
import json
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

SCOPE = () if os.geteuid() == 0 else ("systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes")
PYTHON = ("/usr/bin/python3", "-S", "-c")
MIB = 1 << 20
SLOW_S = 120.0  # an emulated processor, and perhaps a busy one under it
KILLS = 20

# Four processes of 24 MiB: together over a limit that no single one meets, so no rlimit can have counted them.
HUNGRY = """
import mmap, os, signal, sys
each, count = int(sys.argv[1]) << 20, int(sys.argv[2])
held, word = os.pipe()
for _ in range(count):
    if not os.fork():
        area = mmap.mmap(-1, each, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, each, mmap.PAGESIZE):
            area[at] = 1
        os.write(word, b"x")
        signal.pause()
os.close(word)
whole = b""
while len(whole) < count and (got := os.read(held, count)):
    whole += got
print("held", len(whole), flush=True)
os.kill(0, signal.SIGKILL) if len(sys.argv) > 3 else os._exit(0)
"""
FORKS = """
import os, signal, sys
children = []
try:
    while len(children) < 200:
        pid = os.fork()
        if not pid:
            signal.pause()
            os._exit(0)
        children.append(pid)
except BlockingIOError:
    print(1 + len(children), flush=True)
    sys.exit(3)
"""
SPINS = """
import os
for _ in range(3):
    os.fork()
while True:
    pass
"""


def node() -> str:
    """Return where this process's cgroup is, as a directory."""
    own = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::")
    return f"/sys/fs/cgroup{own}"


def runs() -> set[str]:
    """Return the cgroups of runs below what this user may write."""
    top = "/sys/fs/cgroup/sandbox" if os.geteuid() == 0 else f"/sys/fs/cgroup/user.slice/user-{os.geteuid()}.slice"
    return set(glob.glob(f"{top}/**/run-*", recursive=True)) - set(glob.glob(f"{top}/**/run-*.scope", recursive=True))


@pytest.fixture(autouse=True)
def no_cgroup_left() -> Iterator[None]:
    assert not runs()
    yield
    deadline = time.monotonic() + 5
    while (left := runs()) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    assert not left


class Client:
    """Runs `sandbox exec -p strict` as this user is told to, and returns its exit code, output and the JSON result."""

    def __init__(self, command: tuple[str, ...], path: Path) -> None:
        self._command = command
        self._path = path

    def words(self, *options: str, result: Path | None = None) -> list[str]:
        """Return the argument vector up to the command."""
        report = ["--result", str(result)] if result else []
        return [*SCOPE, *self._command, "exec", "-p", "strict", "-l", "wall=90s", *report, *options, "--"]

    def __call__(self, *options: str, payload: tuple[str, ...]) -> tuple[int, str, dict[str, Any]]:
        report = self._path / "result.json"
        report.unlink(missing_ok=True)
        done = subprocess.run(
            [*self.words(*options, result=report), *payload], cwd=self._path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SLOW_S, check=False,
        )  # fmt: skip
        assert report.exists(), f"exit {done.returncode}: {done.stderr}"
        return done.returncode, done.stdout, json.loads(report.read_text())


@pytest.fixture
def client(sandbox_cli: Any, tmp_path: Path) -> Client:
    return Client(sandbox_cli.command, tmp_path)


def enforcement(result: dict[str, Any]) -> dict[str, str]:
    return {entry["what"]: entry["how"] for entry in result["enforced"]}


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_the_machine_is_what_these_tests_are_about() -> None:
    assert Path("/proc/1/comm").read_text().strip() == "systemd"
    assert [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"] == ["/sys/fs/cgroup"]
    if os.geteuid():
        assert "/session-" in node(), "a login session"
        assert not os.access(f"{node()}/cgroup.procs", os.W_OK), "which is not delegated"


@pytest.mark.parametrize("executor", ["native", "python"])
def test_required_cgroup_is_found(client: Client, executor: str) -> None:
    code, _, result = client("--require-cgroup", "--executor", executor, "-l", "memory=128M", "-l", "processes=20", payload=("true",))
    assert (code, result["verdict"]) == (0, "ok")
    how = enforcement(result)
    assert how["memory"] == "cgroup2 memory.max" and how["processes"] == "cgroup2 pids.max"
    assert (result["cpu_source"], result["memory_source"], result["processes_source"]) == ("cpu.stat", "memory.peak", "pids.peak")
    assert 0 < result["memory_peak_bytes"] < 128 * MIB
    assert result["processes_peak"] >= 1
    assert not any("rlimit" in note for note in result["notes"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no delegation")
def test_without_delegation_the_way_to_get_it_is_named(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--require-cgroup", "--", "true", timeout=SLOW_S)
    assert done.returncode == 125
    assert b"systemd-run --user --scope -p Delegate=yes" in done.stderr
    fallback = sandbox_cli("exec", "-p", "strict", "--", "true", timeout=SLOW_S)
    assert fallback.returncode == 0
    assert b"enforced by rlimits and sampling" in fallback.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's scopes are delegated by hand above")
def test_root_in_a_delegated_scope_stays_below_it(sandbox_cli: Any, tmp_path: Path) -> None:
    report = tmp_path / "result.json"
    scope = ["systemd-run", "--scope", "--quiet", "-p", "Delegate=yes"]
    payload = ["exec", "-p", "strict", "-l", "wall=60s", "--require-cgroup", "--result", str(report), "--", "cat", "/proc/self/cgroup"]
    done = subprocess.run(
        [*scope, *sandbox_cli.command, *payload], stdin=subprocess.DEVNULL, capture_output=True, timeout=SLOW_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert enforcement(json.loads(report.read_text()))["memory"] == "cgroup2 memory.max"


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_memory_of_many_processes_together(client: Client) -> None:
    code, out, result = client("--require-cgroup", "-l", "memory=64M", payload=(*PYTHON, HUNGRY, "24", "4"))
    assert "held 4" not in out
    assert (code, result["verdict"]) == (137, "memory-limit")
    assert result["oom_kills"] >= 1, "memory.events says so"
    assert "memory.peak" in result["cause"] and "oom kills" in result["cause"]
    assert 60 * MIB < result["memory_peak_bytes"] <= 64 * MIB
    code, out, result = client("--require-cgroup", "-l", "memory=256M", payload=(*PYTHON, HUNGRY, "24", "4"))
    assert (code, result["verdict"], result["oom_kills"]) == (0, "ok", 0), "the same below its limit"
    assert "held 4" in out
    assert result["memory_peak_bytes"] > 96 * MIB


def test_killed_by_itself_is_not_the_memory_limit(client: Client) -> None:
    code, out, result = client("--require-cgroup", "-l", "memory=64M", payload=(*PYTHON, HUNGRY, "4", "2", "die"))
    assert "held 2" in out
    assert (code, result["verdict"], result["oom_kills"]) == (137, "signaled", 0)


def test_processes(client: Client) -> None:
    code, out, result = client("--require-cgroup", "-l", "processes=12", payload=(*PYTHON, FORKS))
    assert (code, out.strip()) == (3, "12"), "exactly as many as asked for"
    assert result["verdict"] == "process-limit"
    assert result["process_limit_hits"] >= 1 and "pids.events" in result["cause"]
    assert result["processes_peak"] == 12


def test_cpu_time_of_all_processes_together(client: Client) -> None:
    code, _, result = client("--require-cgroup", "-l", "cpu=4s", payload=(*PYTHON, SPINS))
    assert (code, result["verdict"]) == (137, "cpu-limit")
    assert result["cpu_source"] == "cpu.stat" and "cpu.stat" in result["cause"]
    spent = result["cpu_user_ns"] + result["cpu_sys_ns"]
    # RLIMIT_CPU counts each of the eight by itself and would have let them have 32 s.
    assert 4 * 10**9 <= spent < 8 * 10**9


# ---- killed clients --------------------------------------------------------------------------------------------------


def test_killed_client_leaves_no_cgroup(client: Client) -> None:
    seen = 0
    chosen = random.Random(7)
    for turn in range(KILLS):
        process = subprocess.Popen(
            [*client.words("--require-cgroup"), "sh", "-c", "echo up; sleep 600 & sleep 600"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        # systemd-run becomes the client, so this pid is the client's from its start to its end.
        if turn % 2:
            select.select([process.stdout], [], [], SLOW_S)
        else:
            select.select([process.stdout], [], [], chosen.uniform(0.05, 1.5))
        seen += bool(runs())
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10
        while (left := runs()) and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        assert not left, f"turn {turn}"
        # The write end is open in everything that is left of the run.
        while select.select([process.stdout], [], [], 10)[0] and os.read(process.stdout.fileno(), 4096):
            pass
        process.stdout.close()
    assert seen >= KILLS // 2, "at the other moments there was no cgroup to leave"
