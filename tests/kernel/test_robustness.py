"""What goes wrong around a run: no descriptor left, signals at odd moments, odd streams and names. It leaves no trace and shows no traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel.running import DEADLINE_S, eventually

import sandbox
from sandbox.api import execute
from sandbox.cgroup.find import find_backend
from sandbox.cgroup.v1 import V1Run
from sandbox.cgroup.v2 import V2Run
from sandbox.launch import spawn
from sandbox.launch.shield import Shield
from sandbox.plan.render import render_text
from sandbox.plan.steps import MakeDirectory, Plan
from sandbox.supervise.monitor import Monitor
from sandbox.supervise.sampling import Sampling

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

STRICT = ("exec", "-q", "-p", "strict")


def run_apart(program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program that imports `sandbox` in a process of its own."""
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=600, check=False)


CHILDREN = """
import os
def children():
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            try: stat = open(f'/proc/{name}/stat').read()
            except OSError: continue
            if int(stat.rpartition(')')[2].split()[1]) == os.getpid(): found.append(stat[:40])
    return found
def files(): return len(os.listdir('/proc/self/fd'))
"""


def test_no_descriptor_left_at_any_point_of_the_launch() -> None:
    """Low numbers are taken, so that each descriptor of the launch, the janitor's pidfd too, is once the one that is too many."""
    done = run_apart(
        CHILDREN
        + """
import resource, sandbox
sandbox.run(['true'])
held = [os.open('/dev/null', 0) for _ in range(100)]
before, wrong, refused, soft = files(), [], 0, resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in range(104, 145):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, soft[1]))
    try: sandbox.run(['true'])
    except sandbox.SandboxError: refused += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    if files() != before or children(): wrong.append((limit, files() - before, children()))
print(refused > 10, wrong)
"""
    )
    assert (done.stdout, done.stderr) == ("True []\n", "")


@pytest.mark.parametrize("resident", [False, True])
def test_no_descriptor_left_for_the_files_of_a_cgroup_while_the_run_goes_on(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at the run fails, and so does the cgroup's part of killing it: it is over all the same, and its janitor and descriptors are not left."""
    backend = find_backend()
    if backend is None:
        pytest.skip("no cgroups here")
    calls: list[str] = []

    def refuse(name: str) -> Callable[..., None]:
        def call(*_: object) -> None:
            calls.append(name)
            raise sandbox.SetupError(f"open `{name}`", errno.EMFILE, step="cgroup")

        return call

    with sandbox.Sandbox(resident=resident, limits={"wall": "300s", "memory": "64M"}) as box:
        assert box.run(["true"]).ok
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(Sampling, "look", refuse("memory.stat"))
            patch.setattr(V1Run if backend.name == "cgroup1" else V2Run, "kill", refuse("freezer.state"))
            with pytest.raises(sandbox.SandboxError, match=r"open `memory\.stat`"):
                box.run(["sleep", "600"])
        assert calls == ["memory.stat", "freezer.state"]
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, "everything is let go of")
        assert box.run(["true"]).ok


def test_a_limit_of_open_files_that_is_too_low_is_said() -> None:
    """Descriptors get numbers above a fixed one, and the kernel calls a limit below that number an invalid argument."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, before[1]))
    try:
        with pytest.raises(sandbox.SandboxError, match=r"(?s)EMFILE.*numbers up to \d+ for its descriptors: `ulimit -n`"):
            sandbox.run(["true"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_keyboard_interrupts_while_starting_leave_no_process() -> None:
    """An interrupt within posix_spawn(3) is raised when it returns, before anybody knows the child."""
    done = run_apart(
        CHILDREN
        + """
import random, signal, time, sandbox
def interrupt(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
sandbox.run(['true'])
others = {}
for _ in range(150):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.02))
        sandbox.run(['true'])
        time.sleep(0.05)
    except KeyboardInterrupt: pass
    except BaseException as error: others[repr(error)] = 1
print(children(), others)
"""
    )
    assert (done.stdout, done.stderr) == ("[] {}\n", "")


@pytest.mark.parametrize("entrance", [(Monitor, "close"), (spawn.Launched, "close"), (Shield, "__enter__")], ids=["monitor", "close", "shield"])
def test_an_interrupt_before_signals_wait_leaves_no_process(entrance: tuple[type, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python looks for signals as it enters a function, an exception of a handler comes before anything in there."""
    owner, name = entrance
    real, entered = getattr(owner, name), list[int]()
    before = os.listdir("/proc/self/fd")

    def enter(self: object) -> object:
        if not entered and sys._getframe(1).f_code is ending:
            entered.append(1)
            raise KeyboardInterrupt
        return real(self)

    ending = spawn.Launched._close.__code__ if owner is Shield else execute._run.__code__
    monkeypatch.setattr(owner, name, enter)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run(["true"])
    assert entered and os.listdir("/proc/self/fd") == before


def test_the_janitor_is_waited_for_and_no_other_child() -> None:
    """A caller that reaps everything may have the janitor's number given to another child of its own."""
    done = run_apart(
        """
import os, sandbox, sandbox.launch.spawn as spawn
close = spawn.Launched.close
child = os.fork()
if child == 0:
    import time
    time.sleep(60)
def confused(self):
    self.pids[0] = child
    close(self)
spawn.Launched.close = confused
result = sandbox.run(['true'])
os.kill(child, 9)
print(result.ok, os.waitpid(child, 0)[0] == child)
"""
    )
    assert done.stdout == "True True\n"


def test_standard_input_that_cannot_be_read_is_empty(sandbox_cli: Any) -> None:
    """nohup(1) opens /dev/null for writing as standard input."""
    with sandbox_cli.popen(*STRICT, "--", "wc", "-c", stdin=(fd := os.open("/dev/null", os.O_WRONLY))) as process:
        os.close(fd)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (0, b"0\n", b"")


def test_a_signal_ends_the_wait_for_a_reader_who_does_not_read(sandbox_cli: Any) -> None:
    reader, writer = os.pipe()
    try:
        # More than the caller's pipe holds and less than that and the payload's own: the payload ends, its output is stuck with us.
        with sandbox_cli.popen(*STRICT, "--name", "stuck", "--", "head", "-c", "100000", "/dev/zero", stdout=writer) as process:
            eventually(lambda: [run for run in sandbox.running() if run.pid == process.pid] != [], "it registers")
            (run,) = [run for run in sandbox.running() if run.pid == process.pid]

            eventually(lambda: run.stats().state is sandbox.RunState.ENDING, "it is seen that the payload is gone")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 125 and b"standard output was lost" in err
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "line", [b"#!\0\n", b"#!/bin/\0sh\n", b"#!\n", b"#!", b"#!/usr/bin/env -S \xff\n", b"#!./self\n", b"#!" + b"/a" * 4000]
)
def test_odd_interpreter_lines_are_the_command_not_ours(sandbox_cli: Any, tmp_path: Path, line: bytes) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "self"
    script.write_bytes(line)
    script.chmod(0o755)
    done = sandbox_cli(*STRICT, "--", "./self", cwd=tmp_path)
    assert done.returncode in (126, 127) and done.stderr.startswith(b"error: ")
    assert b"bug" not in done.stderr and b"Traceback" not in done.stderr


def test_names_cannot_speak_to_the_terminal_in_a_dry_run() -> None:
    plan = Plan(arch="x86_64", janitor=(MakeDirectory(path="/a\n  1  forged\x1b[2J\udcff"),), init=(), payload=())
    assert render_text(plan, ("note\x07",)) == (
        "janitor:\n    1  make directory `/a\\n  1  forged\\x1b[2J\\udcff`\ninit:\npayload:\nnote: note\\x07"
    )


def test_result_file_goes_where_it_was_when_the_run_began(sandbox_cli: Any, tmp_path: Path) -> None:
    """The payload may write there, and puts a link to elsewhere in the way."""
    elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
    for directory in (tmp_path, elsewhere, work, work / "out"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
    script = f"mv out moved && ln -s {elsewhere} out && echo swapped"
    done = sandbox_cli(*STRICT, "--cwd", "rw", "--result", "out/result.json", "--", "sh", "-c", script, cwd=work)
    assert (done.returncode, done.stdout) == (0, b"swapped\n")
    assert list(elsewhere.iterdir()) == []
    assert json.loads((work / "moved" / "result.json").read_text())["verdict"] == "ok"


def test_audit_log_that_the_payload_could_rewrite_is_refused(sandbox_cli: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = sandbox_cli(*STRICT, "--cwd", "rw", "--audit", "log", "--", "true", cwd=tmp_path)
    assert done.returncode == 125 and b"shared writable" in done.stderr
    assert not (tmp_path / "log").exists()
    assert sandbox_cli(*STRICT, "--audit", "log", "--", "true", cwd=tmp_path).returncode == 0


def test_a_supervisor_that_cannot_start_leaves_no_signal_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may take the last descriptor at that moment; a caller with all signals blocked is deaf to its user from then on."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor is left")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr("sandbox.supervise.monitor.Monitor", refuse)
    try:
        with pytest.raises(sandbox.SandboxError, match="EMFILE"):
            sandbox.run(["true"])
    finally:
        after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before
