"""The end of a whole tree: whatever state its processes are in, a limit ends all of them, and output is taken only when nobody is left."""

from __future__ import annotations

import json
import os
import select
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, prepare
from sandbox.api.streams import Streams
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.result import Verdict

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

PYTHON = "/usr/bin/python3"
Finder = Callable[[str], dict[int, str]]

STATES = {
    "stopped": """
import os, signal
for _ in range(5):
    if not os.fork():
        os.kill(os.getpid(), signal.SIGSTOP)
print("there", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "parent of vfork": """
import ctypes
libc = ctypes.PyDLL(None)
print("there", flush=True)
if libc.vfork() == 0:
    libc.pause()      # the parent waits for our exec or exit, in a state that only a fatal signal ends
""",
    "opening a FIFO": """
import os
os.mkfifo("/tmp/fifo")
for _ in range(5):
    if not os.fork(): open("/tmp/fifo")
print("there", flush=True)
open("/tmp/fifo")
""",
    "zombies and orphans": """
import os, signal
for _ in range(10):
    if not os.fork():
        os.setsid()
        if not os.fork(): os._exit(0)
        signal.pause()
print("there", flush=True)
signal.pause()
""",
    "ignoring everything": """
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(4): os.fork()
print("there", flush=True)
while True: pass
""",
    "much memory": """
import mmap, os
area = mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(area), 4096): area[at] = 1
for _ in range(8):
    if not os.fork(): break
print("there", flush=True)
while True: pass
""",
    "a lock that nobody gives back": """
import fcntl, os
fds = [os.open("/tmp/lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
fcntl.flock(fds[0], fcntl.LOCK_EX)
print("there", flush=True)
fcntl.flock(fds[1], fcntl.LOCK_EX)
""",
}


GRACE_S = 120


@pytest.fixture
def patient_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let init wait for long after the limit, so that what ends a run is the supervisor."""
    from sandbox.plan import build

    monkeypatch.setattr(build, "INIT_GRACE_NS", GRACE_S * 10**9)


def end_by_limit(argv: list[str], is_there: Callable[[bytes], bool], find_processes: Finder, **how: Any) -> sandbox.Result:
    """Run what never ends under a wall limit, and a longer one where the machine was too busy for it to come to where it is to be ended."""
    marker = f"end-{uuid.uuid4().hex}"
    for wall in (1, 5, 25, 125):
        how["limits"] = {**how.get("limits", {}), "wall": wall}
        result = sandbox.run([*argv, marker], **how)
        assert result.verdict is Verdict.WALL_LIMIT, (result.cause, result.stderr)
        assert result.usage.wall_ns < (wall + GRACE_S // 2) * 10**9, "it was init that ended it"
        assert find_processes(marker) == {}
        if is_there(result.stdout or b""):
            return result
    raise AssertionError(f"not there within {wall} s: {result.stdout!r} {result.stderr!r}")


@pytest.mark.usefixtures("patient_init")
@pytest.mark.parametrize("state", STATES)
def test_a_limit_ends_what_is(state: str, find_processes: Finder) -> None:
    limits = {"cpu": 600, "memory": "512M", "processes": 40}
    end_by_limit([PYTHON, "-I", "-S", "-c", STATES[state]], lambda out: b"there" in out, find_processes, limits=limits)


TRACER = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if not pid:
    if libc.ptrace(0, 0, 0, 0): os._exit(9)
    os.kill(os.getpid(), signal.SIGSTOP)
_, status = os.waitpid(pid, 0)
print("traced" if os.WIFSTOPPED(status) else "refused", flush=True)
while True: signal.pause()
"""


@pytest.mark.usefixtures("patient_init")
def test_a_limit_ends_what_is_traced(find_processes: Finder, tmp_path: Path) -> None:
    """Only where somebody's policy lets a program trace its children: ours do not."""
    policy = tmp_path / "tracing.toml"
    policy.write_text('name = "tracing"\ndescription = "strict, and ptrace"\nextends = ["strict"]\n[[rule]]\nsyscalls = ["ptrace"]\naction = "allow"\n')
    result = end_by_limit([PYTHON, "-I", "-S", "-c", TRACER], lambda out: b"\n" in out, find_processes, policy=str(policy), limits={"processes": 40})
    assert result.stdout == b"traced\n", (result.cause, result.stderr)


@pytest.mark.usefixtures("patient_init")
def test_output_is_taken_when_everybody_is_gone(find_processes: Finder) -> None:
    """Eight processes write until they die, and nothing is lost of what was counted."""
    script = "for i in 1 2 3 4 5 6 7 8; do (while :; do echo $i; done) & done; sleep 600"
    limits = {"output": "1G", "processes": 40, "cpu": 600}
    result = end_by_limit(["sh", "-c", script], lambda out: len(out) > 1000, find_processes, limits=limits)
    assert result.usage.output_bytes == len(result.stdout or b"") + len(result.stderr or b"") > 1000


@pytest.mark.parametrize("executor", ["native", "python"])
def test_init_keeps_the_deadline_of_a_supervisor_that_does_nothing(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line: with a supervisor whose own limit is far away init ends the run by itself."""
    from sandbox.plan import build

    monkeypatch.setattr(build, "INIT_GRACE_NS", -238_000_000_000)
    profile = override_profile(load_profile("strict"), limits={"wall": 240, "cpu": 240}, origin="test")
    argv = ("/bin/sh", "-c", f"sleep 500 & echo {uuid.uuid4().hex}; sleep 600")
    prepared = prepare(Command(argv=argv, profile=profile, environ={"PATH": "/usr/bin:/bin"}, executor=executor))
    result = execute(prepared, Streams(), Hooks()).result
    assert (result.verdict, result.signal) == (Verdict.SIGNALED, 9), result.cause
    assert 400_000_000 < result.usage.wall_ns < 120_000_000_000


def test_a_stopped_supervisor_does_not_stop_the_clock(sandbox_cli: Any, find_processes: Finder, tmp_path: Path) -> None:
    """SIGSTOP to the CLI: init ends the run five seconds after its wall limit; continued, the CLI judges by the exact figure."""
    marker, report = f"end-{uuid.uuid4().hex}", tmp_path / "result.json"
    words = ("exec", "-q", "-p", "strict", "-l", "wall=5", "-l", "cpu=240", "--result", str(report))
    with sandbox_cli.popen(*words, "--", "sh", "-c", "echo $$; sleep 600 & while :; do :; done", marker) as process:
        assert process.stdout is not None and process.stdout.readline() == b"2\n"
        payloads = [os.pidfd_open(pid) for pid, line in find_processes(marker).items() if line.startswith("sh ")]
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert payloads
            for pidfd in payloads:
                assert select.select([pidfd], [], [], 120)[0], "still there long after its wall limit"
        finally:
            for pidfd in payloads:
                os.close(pidfd)
            os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=120)
    result = json.loads(report.read_text())
    assert result["verdict"] == "wall-limit" and result["limits_hit"] == ["wall"]
    assert result["wall_ns"] > 9_000_000_000
    assert find_processes(marker) == {}


TOUCH = """
import mmap, os
os.fork()
area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(area), 4096): area[at] = 1
"""


def measured(event: tuple[int, int], monkeypatch: pytest.MonkeyPatch, *, asked: bool = True) -> sandbox.result.Usage:
    """Run a program whose two processes touch 16384 pages each, with an event of perf's in the place of instructions."""
    from sandbox.supervise import instructions

    monkeypatch.setattr(instructions, "EVENT", event)
    profile = replace(override_profile(load_profile("strict"), limits={"memory": "512M"}, origin="test"), measure_instructions=asked)
    result = sandbox.run([PYTHON, "-I", "-S", "-c", TOUCH], profile=profile)
    assert result.verdict is Verdict.OK, (result.cause, result.stderr)
    return result.usage


def test_events_of_the_whole_tree_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A software event shows the way, where no counter of the processor is to be had: page faults, which rusage counts as well."""
    usage = measured((1, 2), monkeypatch)
    if usage.instructions is None:  # perf_event_paranoid 3 forbids ordinary users everything
        assert usage.instructions_source is not None and "perf_event_paranoid" in usage.instructions_source
        return
    assert 2 * 10_000 < usage.instructions <= (usage.minor_faults or 0) + (usage.major_faults or 0)
    assert measured((1, 2), monkeypatch, asked=False).instructions_source is None


def test_instructions_that_cannot_be_counted_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = measured((0, 1), monkeypatch)
    assert usage.instructions_source is not None
    assert (usage.instructions is None) == usage.instructions_source.startswith("absent: perf_event_open: ")
    assert usage.instructions is None or usage.instructions > 1_000_000
    assert measured((0, 9999), monkeypatch).instructions is None
