"""A7, resources: CPU time, wall time, output, and who outlives whom."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from escape.support import PATIENCE_S, Run, build_program, run_payload

from sandbox.result import Verdict


def load(*words: object, **how: Any) -> Run:
    return run_payload("a7_loads.c", *map(str, words), **how)


CPU_MS = 350
LATE_S = 30
"""Nothing that a limit of some hundred milliseconds ends lives so long, on the busiest machine. How exact limits are, tests/bench tells."""


@pytest.mark.parametrize("kind", ["burn", "relay", "lost"])
def test_cpu_time_of_all_processes_together(kind: str) -> None:
    """Rule: RLIMIT_CPU is per process, so the sum is limited: 60 at once, 60 one after another, and 60 for which nobody waits. Removed: the limit.

    The kernel adds the time of the last to nobody. Without a cgroup it is estimated once samples prove that; the result says so.
    """
    run = load(kind, 60, 120, limits={"cpu": f"{CPU_MS}ms"})  # 7.2 s in all, of which the supervisor of a busy machine sees some late
    if run.result.verdict is not Verdict.CPU_LIMIT:
        entry = next(entry for entry in run.result.enforced if entry.what == "cpu-time accounting")
        assert kind == "lost" and "ignores SIGCHLD is lost" in entry.weaker and not entry.how.startswith("cgroup"), run.result.cause
    else:
        used = run.result.usage.cpu_user_ns + run.result.usage.cpu_sys_ns
        assert CPU_MS * 10**6 <= used < 10 * CPU_MS * 10**6
    run = load(kind, 6, 120, limits={"cpu": "none"})
    assert run.result.ok and run["got"] == "6"


@pytest.mark.parametrize(("kind", "ms"), [("lost", 2), ("relay", 2)])
def test_short_lives_hide_no_time_without_a_cgroup(kind: str, ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: whoever's end nobody waits for is counted all the same, however short it lives. Removed: the proof; then a tenth of the time is seen."""
    monkeypatch.setattr("sandbox.api.prepare.find_backend", lambda: None)
    run = load(kind, 15_000 // ms, ms, limits={"cpu": "300ms"})
    assert run.result.verdict is Verdict.CPU_LIMIT, run.result.cause
    if kind == "lost":
        monkeypatch.setattr("sandbox.cgroup.unheeded.Unheeded._prove", lambda *_: None)
        run = load(kind, 600 // ms, ms, limits={"cpu": "300ms"})
        assert run.result.ok and run.result.usage.cpu_ns < 300_000_000


@pytest.mark.parametrize("kind", ["sleep", "stop", "vfork", "fifo"])
def test_who_uses_no_cpu_meets_the_wall_limit(kind: str) -> None:
    """Rule: always also a wall limit: a sleeper, one that stops itself, a parent in vfork, an open FIFO. Removed: the limit, four times as long."""
    for wall_ms in (150, 600):
        run = load(kind, limits={"wall": f"{wall_ms}ms"})
        assert run.result.verdict is Verdict.WALL_LIMIT
        assert wall_ms <= run.result.usage.wall_ns // 10**6 < wall_ms + 1000 * LATE_S


@pytest.mark.parametrize("blocked", [(), ("15", "2", "1", "3", "14", "10", "12")])
def test_signals_do_not_help(blocked: tuple[str, ...]) -> None:
    """Rule: the end is a SIGKILL of the namespace's init, which no signal handling delays. Removed: nothing; the first run has no traps, the second all."""
    script = "".join(f"trap '' {number};" for number in blocked) + "while :; do :; done"
    run = run_payload(("sh", "-c", script), limits={"wall": "200ms"})
    assert run.result.verdict is Verdict.WALL_LIMIT and run.result.usage.wall_ns < LATE_S * 10**9


@pytest.mark.parametrize(("stream", "name"), [(1, "stdout"), (2, "stderr"), (3, "both in turn")])
def test_output_is_counted_not_buffered(stream: int, name: str) -> None:
    """Rule: count and kill (snekbox test_stdout_flood). A tebibyte against 256 KiB. Removed: the limit, for 8 MiB."""
    began = time.monotonic()
    run = load("output", stream, 1 << 30, limits={"output": "256K"})
    assert run.result.verdict is Verdict.OUTPUT_LIMIT and len(run.out) + len(run.err) <= 256 << 10
    assert time.monotonic() - began < LATE_S, "emptying the pipe took long"
    run = load("output", stream, 8192, limits={"output": "64M"})
    assert run.result.ok and len(run.out) + len(run.err) == 8 << 20


def test_supervisor_memory_under_an_endless_flood() -> None:
    """Rule: not by buffering. With the limit removed 128 MiB pass through to a reader, and the supervisor does not grow."""
    reader, writer = os.pipe()
    with subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE) as counter:
        os.close(reader)
        before = _own_memory_kib()
        try:
            run = load("output", 1, 128 << 10, stdout=writer, limits={"output": "none"})
        finally:
            os.close(writer)
        grown = _own_memory_kib() - before
        assert counter.stdout is not None and int(counter.stdout.read()) == 128 << 20
    assert run.result.ok and grown < 16 << 10, grown


def _own_memory_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.orphans
def test_a_daemon_that_holds_the_pipe(tmp_path: Path) -> None:
    """Rule: the end is the end of the main process, and everything dies with it. Removed: the sandbox; then the reader waits for the daemon."""
    began = time.monotonic()
    run = load("daemon", 100_000)
    assert run.result.ok and run.facts == {"main": "ended"} and time.monotonic() - began < PATIENCE_S
    program = tmp_path / "program"
    program.write_bytes(build_program("a7_loads.c"))
    program.chmod(0o755)
    done = subprocess.run([program, "daemon", "300"], capture_output=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == b"main=ended\nsurvived=yes\n"


def test_many_daemons_die_with_the_run() -> None:
    """Rule: survivors into the next test (DMOJ#318). Forty processes in sessions of their own, ignoring signals; after the run none is left."""
    mark = f"a7-survivor-{os.getpid()}"
    script = f"i=0; while [ $i -lt 40 ]; do setsid sh -c 'trap \"\" 1 2 3 15; : {mark}; while :; do read x </dev/zero; done' & i=$((i+1)); done; sleep 0.2"
    run = run_payload(("sh", "-c", script), limits={"processes": 64, "cpu": "none"})
    assert run.result.ok
    left = [name for name in os.listdir("/proc") if name.isdecimal() and mark.encode() in _command_line(name)]
    assert left == []


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_time_is_measured_to_the_end_of_the_payload() -> None:
    """Rule: kill everything, then measure: CPU of children that were still alive counts. Compare a run whose children use none."""
    busy = load("spent", 2, 300)
    idle = load("spent", 2, 0)
    assert busy["got"] == idle["got"] == "2"  # both children live on
    assert busy.result.usage.cpu_ns >= 550_000_000 and busy.result.usage.cpu_ns > 3 * idle.result.usage.cpu_ns
