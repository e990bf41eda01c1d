"""Killing our own processes at any moment: whatever dies, everything of the run dies with it and nothing is left on the host.

This process is a subreaper (see conftest), so whatever loses its parent becomes our child and is seen here.
"""

from __future__ import annotations

import glob
import json
import os
import random
import re
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.conftest import _held_by_others, _is_ours

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.orphans]

DEADLINE_S = 120.0
Finder = Callable[[str], dict[int, str]]


def child_pids(pid: int) -> set[int]:
    """Return the children of all threads of a process. One that ends while the kernel writes the list may hide others in it, so two lists must agree."""
    found = list_children(pid)
    while (again := list_children(pid)) != found:
        found = again
    return found


def list_children(pid: int) -> set[int]:
    """Return them as the kernel lists them once."""
    found: set[int] = set()
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            found.update(map(int, Path(path).read_text().split()))
        except OSError:
            continue
    return found


def descendants(pid: int) -> set[int]:
    """Return every process below one."""
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for parent in level for child in child_pids(parent)} - found
        found |= level
    return found


def await_silence(before: set[int], began: float) -> float:
    """Wait until no process but those of `before` is below us, reap what became ours, return how long it took."""
    deadline = began + DEADLINE_S
    while fresh := descendants(os.getpid()) - before:
        for pid in child_pids(os.getpid()) - before:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ended, _, _ = select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
            os.close(pidfd)
            if ended:
                os.waitpid(pid, 0)
        if time.monotonic() >= deadline:
            words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in fresh}
            pytest.fail(f"{DEADLINE_S} s after the kill there still is {words}")
    return time.monotonic() - began


def await_janitor(process: subprocess.Popen[bytes]) -> int:
    """Wait for the first child of a CLI and return its pid."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        children = child_pids(process.pid)
        if children:
            return min(children)
        if process.poll() is not None:
            pytest.fail(f"the CLI ended by itself: {process.stderr.read() if process.stderr else b''!r}")
        select.select([], [], [], 0.0005)
    pytest.fail("no janitor came")


def only_child(pid: int) -> int:
    """Wait for the one child of a process and return its pid."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        children = child_pids(pid)
        if children:
            assert len(children) == 1
            return children.pop()
        select.select([], [], [], 0.0005)
    pytest.fail(f"process {pid} has no child")


_ENTRY = re.compile(r"cache/sandbox/(filters|modules|launches)/[0-9a-f]+")


def run_cgroups() -> set[str]:
    """Return the cgroup directories of this user's runs, also of those that go on beside us."""
    found = {path for path in glob.glob("/sys/fs/cgroup/**/sandbox*/*/", recursive=True) if "-" in os.path.basename(path.rstrip("/"))}
    return {path for path in found if _is_ours(path)}


class Place:
    """Directories of one CLI's own: HOME, TMPDIR and XDG, so that every file it leaves is found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("home", "tmp", "cache", "state", "config", "data", "run", "work"):
            (path / name).mkdir()
        self.environment = {
            "HOME": str(path / "home"), "TMPDIR": str(path / "tmp"), "XDG_CACHE_HOME": str(path / "cache"), "XDG_STATE_HOME": str(path / "state"),
            "XDG_CONFIG_HOME": str(path / "config"), "XDG_DATA_HOME": str(path / "data"), "XDG_RUNTIME_DIR": str(path / "run"),
            "SANDBOX_RUNTIME_DIR": str(path / "run" / "sandbox"),
        }  # fmt: skip

    def files(self) -> set[str]:
        """Return every file below, by relative path, but for whole entries of the caches, which any run may make."""
        found = {str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir()}
        return {name for name in found if not _ENTRY.fullmatch(name)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return directories of one CLI's own."""
    return Place(tmp_path)


class Killer:
    """Starts CLIs, kills them, and collects how long what they left took to vanish."""

    def __init__(self, sandbox_cli: Any, place: Place) -> None:
        self.cli = sandbox_cli
        self.place = place
        self.marker = f"victim-{uuid.uuid4().hex}"
        self.latencies: list[float] = []

    def start(self, script: str, *options: str) -> subprocess.Popen[bytes]:
        """Start ``sandbox exec`` of a shell script whose command line holds the marker."""
        words = ("exec", "-q", "-p", "strict", "-l", "wall=600", "-l", "processes=200", *options, "--", "sh", "-c", script, self.marker)
        process: subprocess.Popen[bytes] = self.cli.popen(*words, env=self.place.environment, cwd=self.place.path / "work")
        return process

    def kill(self, process: subprocess.Popen[bytes], before: set[int], victim: int | None = None) -> None:
        """Kill the CLI (or another process of the run) and wait until nothing of the run is left."""
        began = time.monotonic()
        os.kill(process.pid if victim is None else victim, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
        self.latencies.append(await_silence(before, began))


@pytest.fixture
def killer(sandbox_cli: Any, place: Place, find_processes: Finder) -> Iterator[Killer]:
    """Return a `Killer`; afterwards the host must look as before (mounts are looked at after every test)."""
    killer = Killer(sandbox_cli, place)
    cgroups = run_cgroups()
    with killer.start("exit 0") as process:  # writes the cache of filters
        assert process.wait(DEADLINE_S) == 0
    files = place.files()
    assert list(place.path.glob("cache/sandbox/filters/*"))
    yield killer
    assert find_processes(killer.marker) == {}
    assert place.files() == files
    left = run_cgroups() - cgroups
    deadline = time.monotonic() + DEADLINE_S
    while left and time.monotonic() < deadline:
        left -= _held_by_others(left)
        select.select([], [], [], 0.01)
        left &= run_cgroups()
    assert left == set()


# ---- SIGKILL of the CLI --------------------------------------------------------------------------------------------------

ONE = "sleep 600"
HUNDRED = "for i in $(seq 100); do sleep 600 & done; wait"


def kill_at_random_moments(killer: Killer, seed: int, moments: int, script: str, *options: str) -> None:
    """Kill a third of the CLIs at any moment of their life, two thirds up to 40 ms after their first child came to be."""
    chance = random.Random(seed)
    before = descendants(os.getpid())
    with killer.start("exit 0", *options) as process:
        began = time.monotonic()
        assert process.wait(DEADLINE_S) == 0
        whole = time.monotonic() - began
    await_silence(before, time.monotonic())
    for number in range(moments):
        with killer.start(script, *options) as process:
            if number % 3:
                await_janitor(process)
                select.select([], [], [], chance.uniform(0, 0.040))
            else:
                select.select([], [], [], chance.uniform(0, 1.5 * whole))
            assert process.poll() is None
            killer.kill(process, before)


@pytest.mark.parametrize("part", range(4))
def test_killed_cli_leaves_nothing(killer: Killer, part: int) -> None:
    kill_at_random_moments(killer, part, 45, ONE)
    print(f"worst latency of {len(killer.latencies)} kills: {max(killer.latencies) * 1000:.0f} ms")
    assert len(killer.latencies) == 45, "after each of them it was silent"


def test_killed_cli_of_a_hundred_processes_leaves_nothing(killer: Killer) -> None:
    kill_at_random_moments(killer, 5, 8, HUNDRED)
    before = descendants(os.getpid())
    for _ in range(12):
        with killer.start(f"echo started; {HUNDRED}") as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"s"
            killer.kill(process, before)
    print(f"worst latency of {len(killer.latencies)} kills: {max(killer.latencies) * 1000:.0f} ms")


def test_killed_cli_of_the_reference_executor_leaves_nothing(killer: Killer) -> None:
    kill_at_random_moments(killer, 6, 10, ONE, "--executor", "python")


def test_killed_cli_under_a_flood_of_denials_leaves_nothing(killer: Killer) -> None:
    before = descendants(os.getpid())
    flood = "echo started; while :; do unshare -U true; done 2>/dev/null"
    for _ in range(4):
        with killer.start(flood) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"s"
            killer.kill(process, before)


def test_killed_caller_of_the_api_leaves_nothing(killer: Killer) -> None:
    """The same for a program that uses the library: its run dies although a forked child of it lives on."""
    program = (
        "import os, sys, sandbox, time\n"
        "r, w = os.pipe()\n"
        "if not os.fork():\n"
        " os.close(w); os.read(r, 1); os._exit(0)\n"  # lives until the test closes our stdin's other end
        "import threading\n"
        "for _ in range(3):\n"
        " threading.Thread(target=sandbox.run, args=(['sh', '-c', 'echo in; sleep 600', sys.argv[1]],), kwargs={'timeout': 600}, daemon=True).start()\n"
        "time.sleep(0.2 + float(sys.argv[2])); print('now', flush=True); time.sleep(600)\n"
    )
    before = descendants(os.getpid())
    command = killer.cli.command[:-1]
    for pause in ("0", "0.005", "0.01", "0.02", "0.1"):
        with subprocess.Popen([*command, "-c", program, killer.marker, pause], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read(3) == b"now"
            killer.kill(process, before)


# ---- SIGKILL of the others -------------------------------------------------------------------------------------------------


def test_killed_janitor_takes_everything_along(killer: Killer, find_processes: Finder) -> None:
    before = descendants(os.getpid())
    with killer.start(f"echo started; {HUNDRED}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        killer.kill(process, before, victim=await_janitor(process))
        assert process.returncode == 125
    assert find_processes(killer.marker) == {}


def test_killed_init_takes_everything_along(killer: Killer, place: Place) -> None:
    before = descendants(os.getpid())
    report = place.path / "work" / "result.json"
    with killer.start(f"echo started; {HUNDRED}", "--result", str(report)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        killer.kill(process, before, victim=only_child(await_janitor(process)))
    result = json.loads(report.read_text())
    report.unlink()
    assert process.returncode == 125
    assert (result["verdict"], result["cause"]) == ("setup-failed", "the sandbox's init ended without a report")
    assert result["wall_ns"] > 0


def test_killed_payload_is_a_signal_like_any_other(killer: Killer) -> None:
    before = descendants(os.getpid())
    with killer.start("echo started; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        killer.kill(process, before, victim=only_child(only_child(await_janitor(process))))
        assert process.returncode == 137


def test_stopped_janitor_does_not_outlive_the_kill(killer: Killer) -> None:
    """A janitor that cannot act (stopped by somebody) still goes when its parent is dead and it is continued."""
    before = descendants(os.getpid())
    with killer.start("echo started; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        janitor = await_janitor(process)
        os.kill(janitor, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
        began = time.monotonic()
        os.kill(janitor, signal.SIGCONT)
        await_silence(before, began)


# ---- signals that are passed on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_payload(killer: Killer, name: str) -> None:
    with killer.start(f"trap 'echo caught; exit 7' {name}; echo started; sleep 600 & wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == b"caught\n"
        assert process.wait(DEADLINE_S) == 7


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_payload_without_a_handler_dies_of_the_signal(killer: Killer, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with killer.start("echo started; exec sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 128 + number


def test_ignored_hangup_stays_ignored(killer: Killer) -> None:
    """As under nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = killer.start("echo started; read line; echo $line")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"still here\n"
        assert process.wait(DEADLINE_S) == 0


def test_terminated_at_random_moments(killer: Killer) -> None:
    """SIGTERM before, during and after the launch: the CLI ends soon, and nothing is left."""
    chance = random.Random(7)
    before = descendants(os.getpid())
    for number in range(24):
        with killer.start("exec sleep 600") as process:
            if number % 4:
                await_janitor(process)
                select.select([], [], [], chance.uniform(0, 0.030))
            else:
                select.select([], [], [], chance.uniform(0, 0.2))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode in (143, -signal.SIGTERM)
            await_silence(before, began)


def test_library_is_whole_after_a_kill(killer: Killer) -> None:
    """A run after all that killing works as ever: nothing on the host blocks it."""
    kill_at_random_moments(killer, 8, 3, ONE)
    assert sandbox.run(["true"]).ok
