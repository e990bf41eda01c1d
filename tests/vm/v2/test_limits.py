"""Cgroup v2 in a booted Debian: the kernel holds the limits, says which one was met, and nothing is left when the client is killed.

As an ordinary user everything runs as the documents say, in ``systemd-run --user --scope -p Delegate=yes``, from a login session that is not
delegated itself. As root it runs as it is.
"""

from __future__ import annotations

import glob
import json
import os
import random
import select
import signal
import subprocess
import sys
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
KILLS = 8

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


class Server:
    """`server.py` in a scope that is delegated to this user, or as root in none."""

    def __init__(self) -> None:
        command = [*SCOPE, sys.executable, "-I", str(Path(__file__).with_name("server.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *argv: str, **options: Any) -> dict[str, Any]:
        """Call `sandbox.run` there with `require_cgroup`, and return the result as JSON has it, with `out` and `err`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"argv": argv, "timeout": 90, "require_cgroup": True, **options}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def held_by_cgroup2(result: dict[str, Any]) -> None:
    how = {entry["what"]: entry["how"] for entry in result["enforced"]}
    assert how["memory"] == "cgroup2 memory.max" and how["processes"] == "cgroup2 pids.max"
    assert not any("rlimit" in note for note in result["notes"]), result["notes"]


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_the_machine_is_what_these_tests_are_about() -> None:
    assert Path("/proc/1/comm").read_text().strip() == "systemd"
    assert [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"] == ["/sys/fs/cgroup"]
    if os.geteuid():
        assert "/session-" in node(), "a login session"
        assert not os.access(f"{node()}/cgroup.procs", os.W_OK), "which is not delegated"


def test_required_cgroup_is_found(sandbox_cli: Any, place: Path) -> None:
    report = place / "result.json"
    words = ["exec", "-p", "strict", "-l", "wall=60s", "--require-cgroup", "--result", str(report), "--", "cat", "/proc/self/cgroup"]
    done = subprocess.run(
        [*SCOPE, *sandbox_cli.command, *words], cwd=place, stdin=subprocess.DEVNULL, capture_output=True, timeout=SLOW_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"0::/\n", "the payload's own cgroup is the root of its cgroup namespace"
    held_by_cgroup2(json.loads(report.read_text()))


@pytest.mark.parametrize("executor", ["native", "python"])
def test_limits_are_the_kernels(server: Server, executor: str) -> None:
    result = server.run("true", limits={"memory": "128M", "processes": 20}, executor=executor)
    assert result["verdict"] == "ok"
    held_by_cgroup2(result)
    assert (result["cpu_source"], result["memory_source"], result["processes_source"]) == ("cpu.stat", "memory.peak", "pids.peak")
    assert 0 < result["memory_peak_bytes"] < 128 * MIB
    assert result["processes_peak"] >= 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no delegation")
def test_without_delegation_a_scope_is_made_and_without_that_the_way_is_named(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--require-cgroup", "--", "cat", "/proc/self/cgroup", timeout=SLOW_S)
    assert (done.returncode, done.stdout) == (0, b"0::/\n"), done.stderr
    named = {**os.environ, "SANDBOX_CGROUP": node()}
    done = sandbox_cli("exec", "-p", "strict", "--require-cgroup", "--", "true", timeout=SLOW_S, env=named)
    assert done.returncode == 125, "an explicit wish is met or refused"
    assert b"systemd-run --user --scope -p Delegate=yes" in done.stderr
    fallback = sandbox_cli("exec", "-p", "strict", "--", "true", timeout=SLOW_S, env=named)
    assert fallback.returncode == 0
    assert b"enforced by rlimits and sampling" in fallback.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's scopes are delegated by hand above")
def test_root_in_a_delegated_scope_stays_below_it(sandbox_cli: Any, place: Path) -> None:
    report = place / "result.json"
    scope = ["systemd-run", "--scope", "--quiet", "-p", "Delegate=yes"]
    payload = ["exec", "-p", "strict", "-l", "wall=60s", "--require-cgroup", "--result", str(report), "--", "cat", "/proc/self/cgroup"]
    done = subprocess.run(
        [*scope, *sandbox_cli.command, *payload], stdin=subprocess.DEVNULL, capture_output=True, timeout=SLOW_S, check=False
    )
    assert done.returncode == 0, done.stderr
    held_by_cgroup2(json.loads(report.read_text()))


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_memory_of_many_processes_together(server: Server) -> None:
    result = server.run(*PYTHON, HUNGRY, "24", "4", limits={"memory": "64M"})
    assert "held 4" not in result["out"]
    assert (result["exit_code"], result["verdict"]) == (137, "memory-limit")
    assert result["oom_kills"] >= 1, "memory.events says so"
    assert "memory.peak" in result["cause"] and "memory.events oom_kill" in result["cause"]
    proof = next(fact for fact in result["evidence"] if fact["counter"] == "memory.events oom_kill")
    assert proof["hit"] and proof["value"] == result["oom_kills"] and result["limits_hit"] == ["memory"]
    assert 60 * MIB < result["memory_peak_bytes"] <= 64 * MIB
    result = server.run(*PYTHON, HUNGRY, "24", "4", limits={"memory": "256M"})
    assert (result["exit_code"], result["verdict"], result["oom_kills"]) == (0, "ok", 0), "the same below its limit"
    assert "held 4" in result["out"]
    assert result["memory_peak_bytes"] > 96 * MIB


def test_killed_by_itself_is_not_the_memory_limit(server: Server) -> None:
    result = server.run(*PYTHON, HUNGRY, "4", "2", "die", limits={"memory": "64M"})
    assert "held 2" in result["out"]
    assert (result["exit_code"], result["verdict"], result["oom_kills"]) == (137, "signaled", 0)


def test_processes(server: Server) -> None:
    result = server.run(*PYTHON, FORKS, limits={"processes": 12})
    assert (result["exit_code"], result["out"].strip()) == (3, "12"), "exactly as many as asked for"
    assert result["verdict"] == "process-limit"
    assert result["process_limit_hits"] >= 1 and "pids.events" in result["cause"]
    assert result["processes_peak"] == 12


def test_cpu_time_of_all_processes_together(server: Server) -> None:
    result = server.run(*PYTHON, SPINS, limits={"cpu": "4s"})
    assert (result["exit_code"], result["verdict"]) == (137, "cpu-limit")
    assert result["cpu_source"] == "cpu.stat" and "cpu.stat" in result["cause"]
    # RLIMIT_CPU counts each of the eight by itself and would have let them have 32 s.
    assert 4 * 10**9 <= result["cpu_user_ns"] + result["cpu_sys_ns"] < 8 * 10**9


def test_a_cgroup_is_not_used_twice(server: Server) -> None:
    """A killed cgroup kills what is cloned into it later, on several kernels: after a limit the next run is in another one."""
    runs_before = [server.run("true")["run"], server.run(*PYTHON, HUNGRY, "24", "4", limits={"memory": "64M"})["run"]]
    for _ in range(3):
        result = server.run("true")
        assert result["verdict"] == "ok"
        runs_before.append(result["run"])
    assert len(set(runs_before)) == len(runs_before)


# ---- killed clients --------------------------------------------------------------------------------------------------


@pytest.mark.orphans
def test_killed_client_leaves_no_cgroup(sandbox_cli: Any, place: Path) -> None:
    command = [*SCOPE, *sandbox_cli.command, "exec", "-p", "strict", "-l", "wall=90s", "--require-cgroup", "--"]
    seen = 0
    chosen = random.Random(7)
    for turn in range(KILLS):
        process = subprocess.Popen(
            [*command, "sh", "-c", "echo up; sleep 600 & sleep 600"], cwd=place,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        # systemd-run becomes the client, so this pid is the client's from its start to its end.
        if turn % 2:
            select.select([process.stdout], [], [], SLOW_S)
        else:
            select.select([process.stdout], [], [], chosen.uniform(0.05, 3))
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
    assert seen >= KILLS // 2, "whenever the payload was up there was a cgroup"


# ---- what the program is told of it ----------------------------------------------------------------------------------

VIEW = """
import os, time
held = bytearray(b'x') * (24 << 20)
deadline = time.monotonic() + 60
while int(open('/sys/fs/cgroup/memory.current').read()) < 24 << 20 and time.monotonic() < deadline:
    sum(range(1000))
meminfo = {line.split(':')[0]: int(line.split()[1]) for line in open('/proc/meminfo')}
print(os.cpu_count(), sorted(os.sched_getaffinity(0)), os.sysconf('SC_PHYS_PAGES') * 4096 >> 20)
print(meminfo['MemTotal'] >> 10, open('/sys/fs/cgroup/cpu.max').read().strip())
print(int(open('/sys/fs/cgroup/memory.current').read()) >= 24 << 20, meminfo['MemFree'] < meminfo['MemTotal'] - (24 << 10))
"""


def test_a_machine_view_says_what_the_cgroup_allows_and_what_is_used(server: Server) -> None:
    result = server.run(*PYTHON, VIEW, profile="default", limits={"memory": 128 * MIB, "cpus": 1})
    assert result["verdict"] == "ok", result["err"]
    assert result["out"] == "1 [0] 128\n128 100000 100000\nTrue True\n"
