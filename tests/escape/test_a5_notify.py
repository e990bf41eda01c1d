"""A5, user notification: it refuses and records; it never lets a call go on, is bounded in what it costs, and closed when it is gone.

The kernel's own words: "the seccomp notifier cannot be used to implement a security policy" (include/uapi/linux/seccomp.h, about CONTINUE).
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from escape.raw import write_policy
from escape.support import PATIENCE_S, PAYLOADS, WALL_S, build_program, change, run_payload, shared_directory

import sandbox.api
from sandbox.audit.events import Denial
from sandbox.audit.tally import Tally
from sandbox.errors import SandboxError
from sandbox.kernel import seccomp_notify
from sandbox.plan.steps import InstallFilter
from sandbox.result import Verdict
from sandbox.supervise import notify
from sandbox.supervise.notify import NotifyListener

ROOT = PAYLOADS.parent.parent
REFUSE_MKDIR = '[[rule]]\nsyscalls = ["mkdir", "mkdirat"]\naction = "errno EPERM"\n'
ONE_BILLION = 10**9


def test_a_refused_call_never_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: never answer CONTINUE. A thread rewrites the path meanwhile. Removed: an answer with that flag instead; then directories are made."""
    policy = write_policy(tmp_path, REFUSE_MKDIR)
    run = run_payload("a5_notify.c", "race", "300", "/tmp/x", policy=policy, limits={"cpu": "none"})
    assert run.out == b"0\n" and run.result.denials["mkdir"] == 300

    def go_on(fd: int, identity: int, error: int) -> bool:
        ioctl(fd, seccomp_notify.NOTIF_SEND, struct.pack("=QqiI", identity, 0, 0, 1))
        return True

    monkeypatch.setattr(notify, "refuse_call", go_on)
    # So often that the other thread cannot stand still with the wrong path all the time, however busy the machine is; the first success ends it.
    assert int(run_payload("a5_notify.c", "race", "10000000", "/tmp/x", policy=policy, limits={"cpu": "none"}).out) > 0


def test_a_closed_listener_means_enosys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: without a supervisor calls get ENOSYS. The listener is closed at the first denial. Removed: the refusal itself, by the policy."""

    def give_up(self: NotifyListener, budget: int) -> int:
        self.hung_up = True
        self.close()
        return 0

    monkeypatch.setattr(NotifyListener, "handle_ready", give_up)
    policy = write_policy(tmp_path, REFUSE_MKDIR)
    run = run_payload(("mkdir", "/tmp/a", "/tmp/b"), policy=policy)
    assert run.result.exit_code == 1 and run.err.count(os.strerror(errno.ENOSYS).encode()) == 2
    assert run_payload(("mkdir", "/tmp/a", "/tmp/b")).result.ok


def test_a_supervisor_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: fail closed. The listener raises an error of its own; the payload, which would go on for 100 s, is killed and nothing is left of it."""

    def break_down(self: NotifyListener, budget: int) -> int:
        raise MemoryError

    monkeypatch.setattr(NotifyListener, "handle_ready", break_down)
    began = time.monotonic()
    with pytest.raises((MemoryError, SandboxError)):
        run_payload("a5_notify.c", "flood", "1", "100000", limits={"wall": 200, "cpu": "none"})
    assert time.monotonic() - began < 60


@pytest.mark.orphans
def test_killing_the_supervisor_kills_the_payload(tmp_path: Path) -> None:
    """Rule: if the supervisor dies calls fail closed, and here the run with them. Compare the same command without a sandbox, which lives on."""
    shared_directory(tmp_path)
    (tmp_path / "program").write_bytes(build_program("a5_notify.c"))
    (tmp_path / "program").chmod(0o755)
    mark = f"20{os.getpid()}"
    code = f"import sandbox.api; sandbox.api.run(['./program', 'flood', '1', '{mark}'], cwd='.', timeout=900, capture_output=False)"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    ) as caller:
        _wait(lambda: _running(mark))
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        _wait(lambda: not _running(mark))


def _running(mark: str) -> bool:
    """Tell whether a payload with this argument lives anywhere on the machine."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if Path(f"/proc/{name}/cmdline").read_bytes().endswith(f"flood\0001\0{mark}\0".encode()):
                    return True
            except OSError:
                continue
    return False


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def flood(log: Path, *words: str, **limits: object) -> tuple[Any, int]:
    """Flood the audit with denials of four processes; return the result and the log's size."""
    result = sandbox.api.run(
        ["./program", *words],
        files={"program": build_program("a5_notify.c")},
        limits={"wall": WALL_S, "cpu": "none", **limits},
        audit=log,
    )
    return result, log.stat().st_size


def answering(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measure what answering costs this thread from here on, in CPU seconds, one figure for each turn of the loop."""
    spent: list[float] = []
    real = NotifyListener.handle_ready

    def handle_ready(self: NotifyListener, budget: int) -> int:
        began = time.thread_time()
        try:
            return real(self, budget)
        finally:
            spent.append(time.thread_time() - began)

    monkeypatch.setattr(NotifyListener, "handle_ready", handle_ready)
    return spent


def test_a_flood_of_denials_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a token bucket, counters, a cap on the log; the supervisor's CPU is bounded. Removed: the ration of records; that of answers, changed."""
    spent = answering(monkeypatch)
    result, size = flood(tmp_path / "whole", "calls", "4", "5000")
    answers, wall_s, cpu_s = int(result.stdout), result.usage.wall_ns / 1e9, sum(spent)
    assert result.ok and answers == 20000 and result.denials == {"sethostname": answers} and result.denials_suppressed >= answers - 30 - 3 * wall_s
    assert size < (16 << 10) + (2 << 10) * wall_s and answers <= 2000 + 5000 * (wall_s + 0.1)
    assert cpu_s < answers * 500e-6, cpu_s

    generous = functools.partial(Tally, burst=ONE_BILLION, rate_per_s=1e9, total_burst=ONE_BILLION, total_rate_per_s=1e9)
    with monkeypatch.context() as patch:
        patch.setattr(notify, "Tally", generous)
        _, unrationed = flood(tmp_path / "records", "calls", "4", "5000")
    assert unrationed > 20 * size

    # The ration of answers, at a rate that a busy machine reaches, too; the shipped one is what was measured above.
    listener = functools.partial(NotifyListener, burst=10, rate_per_s=30)
    spent.clear()
    monkeypatch.setattr("sandbox.supervise.notify.NotifyListener", listener)
    result, _ = flood(tmp_path / "answers", "flood", "4", "1000")
    rationed, rationed_s = int(result.stdout), sum(spent)
    assert rationed <= 10 + 30 * (result.usage.wall_ns / 1e9 + 0.1)
    assert rationed < answers / 2 and rationed_s < cpu_s / 2, (answers, rationed, cpu_s, rationed_s)


def test_the_log_has_a_hard_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a hard cap on the log's size, even where nothing is rationed. Removed: the cap; then it grows past it."""
    generous = functools.partial(Tally, burst=ONE_BILLION, rate_per_s=1e9, total_burst=ONE_BILLION, total_rate_per_s=1e9)
    monkeypatch.setattr(notify, "Tally", generous)
    from sandbox.audit import sinks

    plain = sinks.FileSink
    monkeypatch.setattr(sinks, "FileSink", functools.partial(plain, limit_bytes=8 << 10))
    result, size = flood(tmp_path / "capped", "calls", "4", "200")
    assert size <= 8 << 10 and b"limit" in (tmp_path / "capped").read_bytes().splitlines()[-1]
    assert result.denials["sethostname"] == int(result.stdout) == 800  # counted all the same
    monkeypatch.setattr(sinks, "FileSink", plain)
    assert flood(tmp_path / "uncapped", "calls", "4", "200")[1] > 16 << 10


def test_limits_hold_during_a_flood(tmp_path: Path) -> None:
    """Rule: limits are enforced by what never waits on the listener: the wall limit comes on time. Removed: the limit; then the flood runs its second."""
    result, _ = flood(tmp_path / "log", "flood", "4", "100000", wall="400ms")
    assert result.verdict is Verdict.WALL_LIMIT and result.usage.wall_ns < 50_000_000_000
    result, _ = flood(tmp_path / "log", "flood", "4", "1000")
    assert result.ok and result.usage.wall_ns >= 1_000_000_000


def test_callers_killed_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: ENOENT and EINTR on RECV and SEND are no errors ([m]: a naive logger died of the first). Removed: that tolerance; then the run breaks.

    First 150 callers killed at any moment, then one between its question and the answer for certain.
    """
    run = run_payload("a5_notify.c", "killed", "150", limits={"cpu": "none"})
    assert run.result.ok and run.out == b"150\n"
    assert any(isinstance(event, Denial) and event.syscall == "sethostname" for event in run.events)

    def receive_and_kill(fd: int, buffer: bytearray) -> seccomp_notify.Notification | None:
        got = seccomp_notify.receive_notification(fd, buffer)
        if got is not None:
            os.kill(got.pid, signal.SIGKILL)
            _wait(lambda: not seccomp_notify.notification_is_valid(fd, got.identity))
        return got

    command = ("sh", "-c", "hostname x; echo went-on=yes")
    monkeypatch.setattr(notify, "receive_notification", receive_and_kill)
    run = run_payload(command)
    assert run["went-on"] == "yes" and run.result.denials == {"sethostname": 1}

    def strict_about_it(fd: int, identity: int, error: int) -> bool:
        ioctl(fd, seccomp_notify.NOTIF_SEND, struct.pack("=QqiI", identity, 0, -error, 0))
        return True

    monkeypatch.setattr(notify, "refuse_call", strict_about_it)
    with pytest.raises(SandboxError):
        run_payload(command)


def test_a_storm_of_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: WAIT_KILLABLE_RECV (5.19). A timer interrupts the waiting caller every 100 us. Removed: the flag; then calls come twice, or never end.

    The timer may be late on a busy host, so the first call is interrupted for certain, between its question and the answer.
    """

    def receive_and_interrupt(fd: int, buffer: bytearray) -> seccomp_notify.Notification | None:
        got = seccomp_notify.receive_notification(fd, buffer)
        if got is not None and not interrupted:
            interrupted.append(got.pid)
            os.kill(got.pid, signal.SIGALRM)
            if not whole:
                _wait(lambda: not seccomp_notify.notification_is_valid(fd, got.identity))
        return got

    monkeypatch.setattr(notify, "receive_notification", receive_and_interrupt)
    whole, interrupted = True, list[int]()
    run = run_payload("a5_notify.c", "storm", "500")
    assert run.result.ok and run.out == b"500\n" and interrupted
    assert run.result.denials["sethostname"] == 500  # each refused once: none was restarted behind the listener's back
    whole, interrupted = False, list[int]()
    run = run_payload("a5_notify.c", "storm", "500", alter=change(("payload", InstallFilter), wait_killable=False), limits={"wall": 20})
    assert interrupted and (run.result.denials["sethostname"] > 500 or run.result.verdict is Verdict.WALL_LIMIT), "not one call came twice"


def test_the_payload_cannot_reach_the_listener() -> None:
    """Rule: the notify fd is not in the payload. Removed: nothing; the supervisor takes its own copy and execve closes the other."""
    run = run_payload(("ls", "-l", "/proc/self/fd"))
    assert run.result.ok and b"seccomp" not in run.out
