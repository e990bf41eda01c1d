"""The registry under violence: supervisors killed at random moments, and many runs looked at, paused and killed at once."""

from __future__ import annotations

import errno
import glob
import os
import random
import select
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel.running import DEADLINE_S, Runs, eventually

import sandbox

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.orphans]


def start_raw(runs: Runs, *words: str) -> Any:
    """Start a run and do not wait for anything."""
    process = runs.cli.popen("exec", "-q", "-p", "strict", "--cwd", "no", "-l", "wall=600", *words)
    runs.started.append(process)
    return process


def removed(path: str) -> bool:
    """Remove a cgroup; false as long as there are traces of a process in it, which may outlast its name in the list."""
    try:
        os.rmdir(path)
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


@pytest.mark.parametrize("part", range(4))
def test_supervisors_killed_at_random_moments(runs: Runs, part: int, find_processes: Any) -> None:
    """A quarter of 40 in each part: nothing of the run lives on, no entry is left that a look does not remove, and while looks go on all the time."""
    chance = random.Random(part)
    marker = f"crash-{os.getpid()}-{part}"
    swept_by_hand = 0
    for _ in range(10):
        process = start_raw(runs, "--", "sh", "-c", "sleep 600", marker)
        if chance.random() < 0.6:
            eventually(lambda: os.path.isdir(runs.directory) and len(os.listdir(runs.directory)) > 0, "it registers")
            select.select([], [], [], chance.uniform(0, 0.05))
        else:
            select.select([], [], [], chance.uniform(0, 0.6))
        process.kill()
        sandbox.running()  # a look in the middle of it
        process.communicate(timeout=DEADLINE_S)
        eventually(lambda: find_processes(marker) == {}, "every process is gone")
        if os.path.isdir(runs.directory) and os.listdir(runs.directory):
            before = len(os.listdir(runs.directory))
            assert sandbox.running() == []
            swept_by_hand += before - len(os.listdir(runs.directory))
        assert not os.path.isdir(runs.directory) or os.listdir(runs.directory) == []
    print(f"left for the sweep: {swept_by_hand} files")


def test_supervisor_and_janitor_killed_together(runs: Runs) -> None:
    """Nobody is left to remove the entry: the next look does. The forked child of a caller that holds the lock is another matter, see below."""
    process = runs.start("both")
    janitor, run_id = runs.handle("both")._facts.janitor[0], runs.handle("both").run_id
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(janitor, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    assert len(os.listdir(runs.directory)) == 2
    assert sandbox.running() == []
    assert os.listdir(runs.directory) == []
    for path in glob.glob(f"/sys/fs/cgroup/*/*{run_id}*"):  # that nobody removes cgroups then is the price of having no daemon
        eventually(lambda path=path: removed(path), "its last process is gone")  # type: ignore[misc]


def test_a_fork_of_the_caller_keeps_no_entry(runs: Runs) -> None:
    """It inherits the lock and the socket; the janitor removes the entry when the caller is killed all the same."""
    program = (
        "import os, sys, threading, time, sandbox\n"
        "threading.Thread(target=sandbox.run, args=(['sleep', '600'],), kwargs={'name': 'forked'}, daemon=True).start()\n"
        "def runs():\n"
        " try: return [run for run in sandbox.running() if run.stats().state == 'running']\n"
        " except sandbox.RunUnresponsive: return []\n"
        "while not runs(): time.sleep(0.01)\n"
        "if not os.fork():\n"
        " sys.stdin.read(); os._exit(0)\n"
        "print('now', flush=True); time.sleep(600)\n"
    )
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        assert [run.name for run in sandbox.running()] == ["forked"]
        process.kill()
        process.wait(DEADLINE_S)
        eventually(lambda: os.listdir(runs.directory) == [], "the janitor removes it while the fork lives")


def test_many_at_once(runs: Runs) -> None:
    """Ten runs, looked at, paused, resumed and killed by four others at the same time: each ends, none is lost, nothing is left."""
    processes = [start_raw(runs, "--name", f"n{number}", "--", "sh", "-c", "while :; do sleep 0.05; done") for number in range(10)]
    wrong: list[BaseException] = []
    over = threading.Event()

    def disturb(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not over.is_set():
                for run in sandbox.running():
                    try:
                        chance.choice([run.stats, run.pause, run.resume, run.stats])()
                    except (sandbox.RunGone, sandbox.RunUnresponsive):
                        pass
                    except sandbox.SandboxError as error:
                        if "it is " not in error.message:  # starting or ending: cannot be paused
                            raise
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(sandbox.running()) == 10, "all of them are there")
        for number in range(10):
            eventually(lambda name=f"n{number}": _is_up(runs, name), "it runs")  # type: ignore[misc]
            runs.handle(f"n{number}").kill(timeout=DEADLINE_S)
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert wrong == []
    assert {process.wait(DEADLINE_S) for process in processes} == {137}
    assert sandbox.running() == []
    eventually(lambda: os.listdir(runs.directory) == [], "every entry is gone")


def _is_up(runs: Runs, name: str) -> bool:
    try:
        return runs.handle(name).stats().state in (sandbox.RunState.RUNNING, sandbox.RunState.PAUSED)
    except (StopIteration, sandbox.RunGone, sandbox.RunUnresponsive):
        return False


def test_killed_while_it_starts(runs: Runs) -> None:
    """A kill that comes before the command runs ends the run, and says so."""
    seen = set()
    for _ in range(6):
        process = start_raw(runs, "--name", "early", "--", "sleep", "600")
        eventually(lambda: bool(sandbox.running()), "it registers")
        try:
            seen.add(str(sandbox.running()[0].stats().state))
            sandbox.running()[0].kill(timeout=DEADLINE_S)
        except (IndexError, sandbox.RunUnresponsive):
            for run in sandbox.running():
                run.kill(timeout=DEADLINE_S)
        assert process.wait(DEADLINE_S) in (125, 137)
    print(seen)


@pytest.mark.root
def test_users_do_not_see_each_other(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users' places below the same tree: each list has its owner's runs, root's too unless it asks; nobody else can enter, connect or kill."""
    import json
    import subprocess

    other = 61235
    try:
        subprocess.run([runs.cli.command[0], "-c", ""], user=other, group=other, extra_groups=[], env={}, cwd="/", check=False)
    except PermissionError:
        pytest.skip("an ordinary user cannot execute the interpreter of this checkout")
    runtime = Path("/run/user")
    runtime.mkdir(exist_ok=True)
    place = runtime / str(other)
    place.mkdir(mode=0o700)
    os.chown(place, other, other)
    monkeypatch.delenv("SANDBOX_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    command = [*runs.cli.command]

    def as_other(*words: str, **options: Any) -> Any:
        env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
        return subprocess.Popen(
            [*command, *words], user=other, group=other, extra_groups=[], env=env, cwd="/", stdout=subprocess.PIPE, **options
        )

    root = runs.start("roots")
    process = as_other("exec", "-q", "-p", "strict", "--cwd", "no", "-l", "wall=600", "--name", "theirs", "--", "sh", "-c", "echo started; exec sleep 600")
    try:
        first = process.stdout.readline()
        if first != b"started\n":
            pytest.skip("an ordinary user cannot read this checkout")
        with as_other("ps", "--json") as listed:
            assert [run["name"] for run in json.load(listed.stdout)] == ["theirs"]
        mine = {run["name"]: run for run in runs.ps()}
        assert "roots" in mine and "theirs" not in mine
        everybody = {run["name"]: run for run in runs.ps("--all-users")}
        assert everybody["theirs"]["uid"] == other
        assert everybody["theirs"]["state"] == "running"
        with as_other("kill", "roots", stderr=subprocess.PIPE) as refused:
            assert b"no run is called `roots`" in refused.stderr.read()
        with as_other("ps", "--all-users", stderr=subprocess.PIPE) as refused:
            assert b"only root sees other users' runs" in refused.stderr.read()
        assert root.poll() is None
        (handle,) = [run for run in sandbox.running(all_users=True) if run.name == "theirs"]
        handle.kill()
        assert process.wait(DEADLINE_S) == 137
    finally:
        process.kill()
        process.communicate()
        import shutil

        shutil.rmtree(place)
