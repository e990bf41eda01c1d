"""`sandbox.run` as a program uses it: from threads, forks and coroutines, with wrong arguments, and without a trace afterwards."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from typing import Any

import pytest

import sandbox
from sandbox.audit.sinks import MemorySink
from sandbox.policy.profile import Volume
from sandbox.policy.profile_load import load_profile
from sandbox.result import Verdict

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

PYTHON = "/usr/bin/python3"


def open_files() -> set[str]:
    """Return our descriptors with what they lead to."""
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def run_apart(program: str, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a Python program that imports `sandbox` in a process of its own."""
    command = [sys.executable, "-I", "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


# ---- concurrency ---------------------------------------------------------------------------------------------------------


def test_two_hundred_runs_from_fifty_threads() -> None:
    sandbox.run(["true"])
    before = open_files()
    gate = threading.Barrier(50)

    def work(number: int) -> list[sandbox.Result]:
        gate.wait(240)
        return [
            sandbox.run(["sh", "-c", "cat; echo $0 >&2; exit $0", str(number)], stdin=f"{number} {turn}", timeout=240, limits={"cpu": 60})
            for turn in range(4)
        ]

    with ThreadPoolExecutor(50) as pool:
        everything = list(pool.map(work, range(50)))
    for number, results in enumerate(everything):
        for turn, result in enumerate(results):
            assert (result.exit_code, result.stdout, result.stderr) == (number, f"{number} {turn}".encode(), f"{number}\n".encode())
    assert len({result.run_id for results in everything for result in results}) == 200
    assert open_files() == before


def test_no_descriptor_is_lost_by_runs_that_end_badly() -> None:
    before = open_files()
    for _ in range(3):
        assert sandbox.run(["sleep", "9"], timeout=0.05).verdict is Verdict.WALL_LIMIT
        assert sandbox.run(["sh", "-c", "kill -9 $$"]).signal == 9
        assert sandbox.run(["sh", "-c", "yes"], limits={"output": 1000}).verdict is Verdict.OUTPUT_LIMIT
        assert sandbox.run(["sh", "-c", "unshare -U true"]).exit_code
        for wrong in (["/bin/true", "x" * 200_000], ["no-such-command"]):
            with pytest.raises(sandbox.ExecuteError):
                sandbox.run(wrong)
        with pytest.raises(sandbox.PolicyError):
            sandbox.run(["true"], profile="no-such-profile")
    assert open_files() == before


def test_run_dies_with_its_caller_although_a_forked_child_of_that_lives() -> None:
    """What holds the supervisor's pipes open (a child that was forked in the middle) must not keep the run alive."""
    program = """
import multiprocessing, os, sys, threading, time, sandbox
context = multiprocessing.get_context("fork")
threading.Thread(target=sandbox.run, args=(["sleep", "600"],), kwargs={"timeout": 500}, daemon=True).start()
here = os.getpid()
tasks = []
while not tasks:
    time.sleep(0.01)
    tasks = [pid for task in os.listdir("/proc/self/task") for pid in open(f"/proc/self/task/{task}/children").read().split()]
child = context.Process(target=time.sleep, args=(600,))
child.start()
print(tasks[0], child.pid, flush=True)
os.kill(here, 9)
"""
    done = subprocess.Popen([sys.executable, "-I", "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True)
    with done:
        assert done.stdout is not None
        janitor, child = map(int, done.stdout.readline().split())
        done.wait(120)
        assert os.waitpid(janitor, 0)[0] == janitor  # ours now: we are a subreaper
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the forked child is still there"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_caller_that_ignores_sigchld() -> None:
    program = """
import signal, sandbox
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for number in range(5):
    result = sandbox.run(["sh", "-c", f"sleep 0.01 & exit {number}"])
    assert result.exit_code == number, result
assert sandbox.run(["sleep", "5"], timeout=0.1).verdict == "wall-limit"
print("done")
"""
    done = run_apart(program)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_caller_that_waits_for_all_its_children_itself() -> None:
    program = """
import os, signal, sandbox
def reap(number, frame):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, reap)
for number in range(5):
    assert sandbox.run(["sh", "-c", f"exit {number}"]).exit_code == number
print("done")
"""
    done = run_apart(program)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_caller_with_blocked_signals_and_closed_streams() -> None:
    program = """
import os, signal, sys, sandbox
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
out = os.dup(1)
os.dup2(out, 50); os.close(out)
for number in (0, 1, 2): os.close(number)
result = sandbox.run(["sh", "-c", "cat; (sleep 9; echo late) & kill -TERM $!; wait $!; echo $?"], stdin=b"text\\n")
os.write(50, result.stdout)
os._exit(result.exit_code)
"""
    done = run_apart(program)
    assert (done.stdout, done.returncode) == ("text\n143\n", 0), done.stderr


def test_from_coroutines() -> None:
    async def main() -> list[sandbox.Result]:
        return await asyncio.gather(*(asyncio.to_thread(sandbox.run, ["sh", "-c", f"exit {number}"]) for number in range(8)))

    assert [result.exit_code for result in asyncio.run(main())] == list(range(8))


def test_event_loop_is_not_held_up() -> None:
    """The run goes on until the loop has come round a few times: one that is held up never does."""

    async def main() -> sandbox.Result:
        reader, writer = os.pipe()
        try:
            os.write(writer, b"begun, ")
            task = asyncio.create_task(asyncio.to_thread(sandbox.run, ["cat"], stdin=reader, timeout=120))
            while ioctl(reader, FIONREAD, bytes(4)) != bytes(4) and not task.done():
                await asyncio.sleep(0.001)
            for _ in range(10):
                await asyncio.sleep(0.001)
            assert not task.done()
            os.write(writer, b"ended by the loop")
            os.close(writer)
            return await task
        finally:
            os.close(reader)

    result = asyncio.run(main())
    assert result.ok and result.stdout == b"begun, ended by the loop"


INTERRUPTED = """
import os, signal, sys, threading, time, sandbox
def children(pid):
    found = []
    try: tasks = os.listdir(f"/proc/{pid}/task")
    except OSError: return found  # it has just ended
    for task in tasks:
        try: found += open(f"/proc/{pid}/task/{task}/children").read().split()
        except OSError: pass
    return found
def below(depth):
    level = [os.getpid()]
    for _ in range(depth): level = [child for pid in level for child in children(pid)]
    return level
def interrupt():
    while not below(int(sys.argv[1])): time.sleep(0.001)  # janitor, init, shell, sleep
    time.sleep(float(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGINT)
before = set(os.listdir("/proc/self/fd"))
began = time.monotonic()
try:
    threading.Thread(target=interrupt).start()
    sandbox.run(["sh", "-c", "trap '' INT TERM; sleep 600"], timeout=500)
except KeyboardInterrupt:
    assert time.monotonic() - began < 120
    assert not children(os.getpid()), children(os.getpid())
    after = set(os.listdir("/proc/self/fd"))
    assert sandbox.run(["true"]).ok
    print("interrupted", *(after - before))
"""


def test_keyboard_interrupt_ends_the_run() -> None:
    done = run_apart(INTERRUPTED, "4", "0.05")
    assert done.stdout == "interrupted\n", done.stderr


def test_keyboard_interrupt_during_the_launch_leaves_no_process() -> None:
    """A descriptor that was just opened may be lost then, as anywhere in Python; a process must not be."""
    for depth, pause in (("0", "0.05"), ("1", "0"), ("1", "0.002"), ("2", "0"), ("2", "0.003"), ("3", "0")):
        done = run_apart(INTERRUPTED, depth, pause)
        assert done.stdout.startswith("interrupted"), done.stderr


# ---- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "error"), [
    (lambda: sandbox.run(["echo", "a\0b"]), ValueError),
    (lambda: sandbox.run(["tr\0ue"]), ValueError),
    (lambda: sandbox.run(["true"], env={"A": "b\0c"}), ValueError),
    (lambda: sandbox.run(["true"], env={"A\0": "b"}), ValueError),
    (lambda: sandbox.run([]), ValueError),
    (lambda: sandbox.run("true"), TypeError),
    (lambda: sandbox.run([1]), TypeError),
    (lambda: sandbox.run(["true"], stdin=1.5), TypeError),
    (lambda: sandbox.run(["true"], files={"a": 5}), TypeError),
    (lambda: sandbox.run(["true"], no_such_option=1), TypeError),
    (lambda: sandbox.run(["true"], profile="no-such"), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], policy="no-such"), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], limits={"no-such": 1}), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], limits={"memory": "much"}), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], timeout=-1), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], volumes=["/no/such/path"]), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], files={"../up": b""}), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], files={"/top": b""}), sandbox.PolicyError),
    (lambda: sandbox.run(["true"], executor="no-such"), sandbox.SandboxError),
])  # fmt: skip
def test_wrong_arguments(call: Callable[[], object], error: type[Exception]) -> None:
    before = open_files()
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value)
    del caught
    assert open_files() == before


def test_files_are_made_before_the_start() -> None:
    files = {"plain.txt": "héllo\n", "deep/er/data": bytes(range(256)), "run.sh": "#!/bin/sh\necho ran\n", "empty": b""}
    result = sandbox.run(
        ["sh", "-c", "pwd; cat plain.txt; ./run.sh; wc -c <deep/er/data; wc -c <empty; echo more >new && cat new"], files=files
    )
    assert (result.stdout or b"").decode() == "/home/user\nhéllo\nran\n256\n0\nmore\n", result.stderr
    data = sandbox.run(["cat", "deep/er/data"], files=files).stdout
    assert data == bytes(range(256))


def test_script_among_the_files_is_a_command() -> None:
    assert sandbox.run(["./go", "on"], files={"go": "#!/bin/sh\necho go $1\n"}).stdout == b"go on\n"


def test_files_of_one_run_are_not_seen_by_another() -> None:
    sandbox.run(["sh", "-c", "echo secret >/tmp/kept; echo secret >kept"], files={"mine": b"x"})
    assert sandbox.run(["sh", "-c", "ls -A /tmp . /dev/shm"]).stdout == b".:\n\n/dev/shm:\n\n/tmp:\n"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory that everybody may read and write."""
    tmp_path.chmod(0o777)
    (tmp_path / "given").write_text("given\n")
    return tmp_path


def test_volumes(shared: Path) -> None:
    result = sandbox.run(["sh", "-c", "cat /in/given; echo x >/in/given"], volumes=[f"{shared}:/in"])
    assert result.stdout == b"given\n"
    assert result.exit_code == 2 and b"Read-only file system" in (result.stderr or b"")
    result = sandbox.run(["sh", "-c", "echo made >/out/made"], volumes=[f"{shared}:/out:rw"])
    assert result.ok, result.stderr
    assert (shared / "made").read_text() == "made\n"
    result = sandbox.run(["cat", "/in/given"], volumes=[Volume(source=str(shared), target="/in")])
    assert result.stdout == b"given\n"


def test_cwd_is_shared_read_only(shared: Path) -> None:
    result = sandbox.run(["sh", "-c", "pwd; cat given; echo x >given"], cwd=shared)
    assert result.stdout == f"{shared}\ngiven\n".encode()
    assert result.exit_code == 2 and (shared / "given").read_text() == "given\n"


def test_environment() -> None:
    os.environ["A_SECRET_TOKEN"] = "token"
    try:
        result = sandbox.run(["env"], env={"GIVEN": "a=b c", "PATH": "/usr/bin:/bin"})
    finally:
        del os.environ["A_SECRET_TOKEN"]
    inside = dict(line.split("=", 1) for line in (result.stdout or b"").decode().splitlines())
    assert inside["GIVEN"] == "a=b c"
    assert inside["HOME"] == "/home/user"
    assert "token" not in (result.stdout or b"").decode()


def test_timeout_is_the_wall_limit() -> None:
    began = time.monotonic()
    result = sandbox.run(["sleep", "60"], timeout=0.2)
    assert (result.verdict, result.exit_code, result.ok) == (Verdict.WALL_LIMIT, 137, False)
    assert time.monotonic() - began < 30


def test_limits_given_as_in_a_profile() -> None:
    result = sandbox.run(["sh", "-c", "ulimit -n"], limits={"open-files": 77, "memory": "64M", "processes": 8})
    assert result.stdout == b"77\n"


def test_check_raises_with_the_result() -> None:
    assert sandbox.run(["true"], check=True).ok
    with pytest.raises(sandbox.RunFailed) as caught:
        sandbox.run(["sh", "-c", "echo out; exit 3"], check=True)
    assert (caught.value.result.exit_code, caught.value.result.stdout) == (3, b"out\n")
    assert isinstance(caught.value, sandbox.SandboxError)


def test_loaded_profile_and_other_policy() -> None:
    result = sandbox.run(["true"], profile=load_profile("default"), policy="strict")
    assert (result.profile, result.policy) == ("default", "strict")


def test_denials_reach_the_sink_and_the_result() -> None:
    sink = MemorySink()
    result = sandbox.run([PYTHON, "-c", "import time; time.clock_settime(time.CLOCK_REALTIME, 0)"], audit=sink)
    assert result.exit_code == 1
    assert result.denials == {"clock_settime": 1}
    assert any("clock_settime" in str(event) for event in sink.events)


def test_denials_reach_a_file(tmp_path: Path) -> None:
    path = tmp_path / "denied.jsonl"
    result = sandbox.run([PYTHON, "-c", "import time; time.clock_settime(time.CLOCK_REALTIME, 0)"], audit=path)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["syscall"] for event in events] == ["clock_settime"]
    assert events[0]["run"] == result.run_id


def test_output_can_be_passed_on() -> None:
    program = (
        "import sandbox; r = sandbox.run(['sh', '-c', 'echo out; echo err >&2'], capture_output=False); assert r.stdout is r.stderr is None"
    )
    done = run_apart(program)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)


def test_result_is_a_frozen_value() -> None:
    result = sandbox.run(["sh", "-c", "exit 3"])
    with pytest.raises(FrozenInstanceError):
        result.exit_code = 0  # type: ignore[misc]
    shown = result.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["exit_code"] == 3 and "stdout" not in shown
    assert {entry.what for entry in result.enforced} >= {
        "namespaces",
        "root filesystem",
        "system calls",
        "capabilities",
        "wall time",
        "output",
    }


def test_python_executor_gives_the_same() -> None:
    for executor in ("native", "python"):
        result = sandbox.run(["sh", "-c", "cat; exit 4"], stdin="in", executor=executor)
        assert (result.exit_code, result.stdout) == (4, b"in")


def test_import_is_light() -> None:
    """What `import sandbox` and the first run load is paid by every caller."""
    heavy = ["argparse", "subprocess", "logging", "asyncio", "pyseccomp", "pyroute2", "prctl", "json", "socket"]
    heavy += ["dataclasses", "inspect", "pathlib", "urllib", "secrets", "random"]
    program = f"import sys, sandbox; sandbox.run(['true']); print([name for name in {heavy!r} if name in sys.modules])"
    run_apart("import sandbox; sandbox.run(['true'])")  # fills the cache of filters
    done = run_apart(program)
    assert done.stdout == "[]\n", done.stderr


@pytest.fixture(autouse=True)
def caller_is_untouched() -> Iterator[None]:
    """Fail a test after which signal handlers, masks, umask, directory or environment of the caller differ."""

    def facts() -> dict[str, Any]:
        mask = os.umask(0)
        os.umask(mask)
        return {
            "umask": mask, "cwd": os.getcwd(), "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
            "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()), "wakeup": signal.set_wakeup_fd(-1),
            "handlers": [signal.getsignal(number) for number in range(1, 32)],
        }  # fmt: skip

    before = facts()
    yield
    assert facts() == before
