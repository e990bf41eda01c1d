"""An ordinary user in a login session, which is not delegated: the user's systemd makes a scope on our request, and nothing is left of it.

Nothing here runs in ``systemd-run``; that is what the other tests of this directory are for. ``./dev vm leftovers`` repeats the last two
tests 1000 and 500 times.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api import scope
from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.cgroup.systemd import ScopeOffer

pytestmark = [
    pytest.mark.userns,
    pytest.mark.seccomp,
    pytest.mark.notify,
    pytest.mark.skipif(os.geteuid() == 0, reason="root needs no scope"),
]

MIB = 1 << 20
RUNS = int(os.environ.get("SANDBOX_RUNS", "40"))
KILLS = int(os.environ.get("SANDBOX_KILLS", "30"))
EAT = "import mmap\narea = mmap.mmap(-1, 200 << 20)\nfor at in range(0, 200 << 20, 4096): area[at] = 1\n"


def manager() -> str:
    uid = os.geteuid()
    return f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service"


def scopes() -> list[str]:
    return glob.glob(f"{manager()}/**/sandbox-*.scope", recursive=True)


def processes() -> list[str]:
    """Return the user's processes that are ours by their name."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if os.stat(path).st_uid == os.geteuid() and (words := Path(path, "cmdline").read_bytes()).startswith(b"sandbox-"):
                found.append(f"{path} {words!r}")
        except OSError:
            continue
    return found


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, (scopes(), processes())
        select.select([], [], [], 0.02)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    assert scopes() == []
    own = Path("/proc/self/cgroup").read_text()
    yield
    assert Path("/proc/self/cgroup").read_text() == own, "the caller has not been moved"
    scope.close_scopes()
    until(lambda: not scopes() and not processes())
    units = subprocess.run(
        ["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "sandbox-*"], capture_output=True, text=True, check=True
    ).stdout
    assert units == ""


def test_a_scope_is_offered_and_only_made_when_it_is_needed() -> None:
    assert "/session-" in Path("/proc/self/cgroup").read_text()
    report = explain_backend()
    assert report.backend == "cgroup2" and "transient scope of the user's systemd" in report.reason
    assert {"memory", "processes", "cpu", "cpus", "cpu-weight"} <= set(report.provides)
    assert isinstance(find_backend(), ScopeOffer)
    assert scopes() == [], "looking makes nothing"


def test_limits_hold_in_it_and_later_runs_share_it() -> None:
    result = sandbox.run([sys.executable, "-S", "-c", EAT], profile="strict", limits={"memory": "64M"}, timeout=90, require_cgroup=True)
    assert (result.verdict, result.exit_code) == ("memory-limit", 137), result
    assert result.usage.oom_kills and result.usage.memory_source == "memory.peak"
    (made,) = scopes()
    assert sandbox.run(["true"], profile="strict", timeout=90, require_cgroup=True).ok
    assert scopes() == [made]
    assert [entry.name for entry in os.scandir(made) if entry.is_dir()] == ["sandbox-supervisor"], "no run is left in it"
    how = {entry.what: entry.how for entry in result.enforced}
    assert how["memory"] == "cgroup2 memory.max" and how["processes"] == "cgroup2 pids.max"


def test_shares_of_processors() -> None:
    limits = {"cpus": 0.2, "cpu-weight": 50}
    result = sandbox.run(
        [sys.executable, "-S", "-c", "sum(range(3_000_000))"], profile="strict", limits=limits, timeout=120, require_cgroup=True
    )
    assert result.ok, result
    how = {entry.what: entry.how for entry in result.enforced}
    assert how["cpus"] == "cgroup2 cpu.max" and how["cpu weight"] == "cgroup2 cpu.weight"
    assert result.usage.cpu_ns < 0.3 * result.usage.wall_ns + 50_000_000


def test_what_is_not_delegated_is_refused_with_the_command_that_gets_it() -> None:
    with pytest.raises(sandbox.UnsupportedError) as caught:
        sandbox.run(["true"], profile="strict", limits={"io": {"device": "/", "read": "1M"}})
    assert "user@.service.d/delegate.conf" in str(caught.value.hint) and "Delegate=cpu cpuset io memory pids" in str(caught.value.hint)


def test_without_a_bus_the_fallback_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.cgroup.systemd.find_buses", lambda environ, uid: ())
    result = sandbox.run(["true"], profile="strict", timeout=90)
    assert result.ok and any("rlimits and sampling" in note for note in result.notes)
    with pytest.raises(sandbox.UnsupportedError, match="no bus in XDG_RUNTIME_DIR"):
        sandbox.run(["true"], profile="strict", require_cgroup=True)


def test_a_systemd_that_refuses_is_the_fallback_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.cgroup.systemd.scope_call", _refused_call)
    result = sandbox.run(["true"], profile="strict", timeout=90)
    assert result.ok and any("systemd:" in note and "it says:" in note for note in result.notes), result.notes
    assert any("rlimits and sampling" in note for note in result.notes)
    with pytest.raises(sandbox.UnsupportedError, match="it says:"):
        sandbox.run(["true"], profile="strict", require_cgroup=True)


def _refused_call(unit: str, pid: int, serial: int) -> bytes:
    from sandbox.cgroup.dbus import make_call

    return make_call(
        serial, "NoSuchMethod", destination="org.freedesktop.systemd1", path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager",
    )  # fmt: skip


def test_doctor_makes_one_and_says_what_is_missing(sandbox_cli: Any) -> None:
    done = sandbox_cli("doctor", "--json", timeout=120)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["cgroup limits"]["status"] == "works" and "made as `/sys/fs/cgroup" in findings["cgroup limits"]["detail"]
    assert "delegate.conf" in findings["hardware shares"]["fix"]


def test_a_fork_has_a_scope_of_its_own() -> None:
    assert sandbox.run(["true"], profile="strict", timeout=90, require_cgroup=True).ok
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if sandbox.run(["true"], profile="strict", timeout=90, require_cgroup=True).ok and len(scopes()) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sandbox.run(["true"], profile="strict", timeout=90, require_cgroup=True).ok


def test_runs_back_to_back_leave_nothing(record_property: Any) -> None:
    took = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        assert sandbox.run(["true"], profile="strict", timeout=90, require_cgroup=True).ok
        took.append(time.perf_counter() - begin)
    (made,) = scopes()
    assert [entry.name for entry in os.scandir(made) if entry.is_dir()] == ["sandbox-supervisor"]
    rest = sorted(took[1:])
    print(
        f"\nfirst {took[0] * 1e3:.0f} ms, then median {rest[len(rest) // 2] * 1e3:.0f} ms, p99 {rest[len(rest) * 99 // 100] * 1e3:.0f} ms"
    )


@pytest.mark.orphans
def test_clients_killed_at_random_moments_leave_nothing() -> None:
    chosen = random.Random(11)
    counts = {"scope": 0, "run": 0, "end": 0}
    span = 0.0
    for turn in range(KILLS):
        begin = time.monotonic()
        client = os.fork()
        if client == 0:
            try:
                sandbox.run(["sh", "-c", "sleep 5 & sleep 5" if turn else "true"], profile="strict", timeout=90, require_cgroup=True)
            finally:
                os._exit(0)
        pidfd = os.pidfd_open(client)
        if turn == 0:
            os.waitpid(client, 0)
            span = 1.3 * (time.monotonic() - begin)
        else:
            ended = bool(select.select([pidfd], [], [], chosen.uniform(0, span))[0])
            there = scopes()
            runs = [path for path in there if glob.glob(f"{path}/run-*")]
            counts["end" if ended else "run" if runs else "scope" if there else "end"] += 1
            os.kill(client, signal.SIGKILL)
            os.waitpid(client, 0)
        os.close(pidfd)
        if turn % 20 == 0:
            until(lambda: not scopes() and not processes())
    until(lambda: not scopes() and not processes())
    print(f"\n{KILLS} kills within {span * 1e3:.0f} ms: {counts}")
    assert counts["run"] > KILLS // 20, "many while the run was there"
