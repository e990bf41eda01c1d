"""The life of running sandboxes, from beside them: list, look, pause, resume, end; by the command line and by Python."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel.running import DEADLINE_S, Runs, children_of, end_of, eventually, said, stands_still

import sandbox

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.orphans]


def state_of(runs: Runs, name: str) -> str:
    """Return the state of one run as ``ps`` tells it."""
    return next(run["state"] for run in runs.ps() if run["name"] == name)


# ---- ps and stats ------------------------------------------------------------------------------------------------------


def test_nothing_runs(runs: Runs) -> None:
    done = runs.cli("ps")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == [b"ID", b"NAME", b"PROFILE", b"STATE", b"AGE", b"CPU", b"MEMORY", b"PROCS", b"PID", b"COMMAND"]
    assert runs.ps() == []
    assert runs.cli("ps", "-q").stdout == runs.cli("ps", "--no-header").stdout == b""


def test_ps(runs: Runs) -> None:
    first = runs.start("first", "sleep 600 & sleep 601 & wait", "-l", "memory=64M", "-l", "processes=9")
    runs.start("second")
    eventually(lambda: runs.handle("first").stats().processes == 3, "its children are there")
    found = {run["name"]: run for run in runs.ps()}
    assert [run["name"] for run in runs.ps()] == ["first", "second"]
    run = found["first"]
    assert run["pid"] == first.pid
    assert run["uid"] == os.geteuid()
    assert run["profile"] == "strict"
    assert run["state"] == "running"
    assert run["argv"] == ["sh", "-c", "echo started\nsleep 600 & sleep 601 & wait"]
    assert (run["memory_limit_bytes"], run["processes_limit"], run["wall_limit_ns"]) == (64 << 20, 9, 600_000_000_000)
    assert run["processes"] == 3
    assert 100_000 < run["memory_bytes"] < 64 << 20
    assert 0 <= run["wall_ns"] <= run["age_ns"]
    assert run["cpu_ns"] > 0
    assert run["output_bytes"] == len("started\n")
    text = runs.cli("ps").stdout.decode().splitlines()
    assert len(text) == 3
    assert text[1].startswith(run["id"] + "  first   strict   running")
    assert text[1].endswith(r"sh -c 'echo started\x0asleep 600 & sleep 601 & wait'")
    assert runs.cli("ps", "--no-header").stdout.decode().splitlines()[0].split()[0] == run["id"]
    assert runs.cli("ps", "-q").stdout.decode().split() == [found[name]["id"] for name in ("first", "second")]


def test_untrusted_words_reach_no_terminal(runs: Runs) -> None:
    runs.start("evil", ": \x1b]0;owned\x07 \u202e\nexec sleep 600")
    for verb in (("ps",), ("stats", "evil"), ("top", "--once")):
        out = runs.cli(*verb).stdout
        assert b"owned" in out
        assert all(byte == 10 or 32 <= byte < 127 for byte in out), out


def test_stats(runs: Runs) -> None:
    runs.start("one", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 600")
    runs.start("two")
    lines = dict(line.split(None, 1) for line in runs.cli("stats", "one").stdout.decode().splitlines())
    assert lines["run"].endswith("(one)")
    assert lines["state"] == "running"
    assert lines["processes"] == "1 of 64"
    assert lines["denials"] == "0"
    objects = [json.loads(line) for line in runs.cli("stats", "--json").stdout.splitlines()]
    assert [one["name"] for one in objects] == ["one", "two"]
    handle = runs.handle("one")
    seen = handle.stats()
    assert seen.state is sandbox.RunState.RUNNING
    assert seen.cpu_ns is not None and seen.cpu_ns > 0
    assert seen.memory_limit_bytes == 256 << 20


def test_watching_ends_with_the_run(runs: Runs) -> None:
    process = runs.start("one", "read x; exit 3", "--no-tty")
    watch = runs.cli.popen("stats", "--watch", "--json", "one")
    assert json.loads(watch.stdout.readline())["name"] == "one"
    assert json.loads(watch.stdout.readline())["name"] == "one"
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert end_of(process)[0] == 3
    assert end_of(watch)[0] == 0


# ---- naming a run ------------------------------------------------------------------------------------------------------


def test_every_name_of_a_run(runs: Runs) -> None:
    runs.start("web")
    run = runs.ps()[0]
    for word in ("web", run["run"], run["id"], run["id"][:1], run["run"][:5]):
        assert json.loads(runs.cli("stats", "--json", word).stdout)["run"] == run["run"], word


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stats", "wev"), "error: no run is called `wev`\n\nhint: did you mean `web`?\n"),
        (("kill", "web", "nobody"), "error: no run is called `nobody`\n\nhint: see `sandbox ps`\n"),
        (("pause",), "error: say which runs, or `--all`\n\nhint: see `sandbox ps`\n"),
        (("kill", "--all", "web"), "error: name runs or say `--all`, not both\n\nhint: see `sandbox ps`\n"),
        (("kill", "-s", "NOPE", "web"), "error: no signal is called `NOPE`\n\nhint: for example TERM, INT or 15; see `kill -l`\n"),
        (("ps", "web"), "error: `sandbox ps` takes no `web`\n\nhint: `sandbox stats web` looks at one run\n"),
        (("top", "web"), "error: `sandbox top` takes no `web`\n\nhint: `sandbox stats --watch web` watches one run\n"),
        (("resume", "--al"), "error: unknown option `--al`\n\nhint: did you mean `--all`?\n"),
        (("stats", ""), "error: no run is called ``\n\nhint: see `sandbox ps`\n"),
    ],
)
def test_wrong_words(runs: Runs, words: tuple[str, ...], said: str) -> None:
    runs.start("web")
    done = runs.cli(*words)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (125, b"", said)
    assert state_of(runs, "web") == "running"


def test_a_word_that_names_two(runs: Runs) -> None:
    runs.start("twin")
    runs.start("twin")
    done = runs.cli("kill", "twin")
    assert done.returncode == 125
    assert done.stderr.decode().startswith("error: `twin` names 2 runs\n\nhint: one of ")
    assert len(runs.ps()) == 2


def test_a_name_must_be_one(runs: Runs) -> None:
    done = runs.cli("exec", "--name", "a b", "--", "true")
    assert (done.returncode, done.stderr.split(b"\n")[0]) == (125, b"error: `a b` cannot be a run's name")
    with pytest.raises(sandbox.SandboxError, match="cannot be a run's name"):
        sandbox.run(["true"], name="../x")


# ---- pause and resume ---------------------------------------------------------------------------------------------------


def test_pause_and_resume(runs: Runs) -> None:
    process = runs.start("busy", "while :; do :; done")
    handle = runs.handle("busy")
    (init,) = children_of(handle._facts.janitor[0])
    spinner = children_of(init)
    assert runs.cli("pause", "busy").returncode == 0
    assert state_of(runs, "busy") == "paused"
    eventually(lambda: stands_still(spinner), "a paused run stands still")
    before = handle.stats()
    select.select([], [], [], 0.2)
    after = handle.stats()
    assert (after.state, after.cpu_ns) == (sandbox.RunState.PAUSED, before.cpu_ns)
    assert after.age_ns > before.age_ns
    assert after.wall_ns == before.wall_ns
    handle.pause()  # again: harmless
    assert runs.cli("resume", "busy").returncode == 0
    eventually(lambda: (handle.stats().cpu_ns or 0) > (after.cpu_ns or 0), "it goes on")
    handle.resume()
    assert handle.stats().state is sandbox.RunState.RUNNING
    assert process.poll() is None


def test_a_paused_run_does_not_pass_its_wall_limit(runs: Runs) -> None:
    """The limit is passed twice over while it is paused. The same without the pause ends as wall-limit."""
    process = runs.start("slow", "read x; echo read", "-l", "wall=3")
    runs.handle("slow").pause()
    select.select([], [], [], 6.0)
    assert process.poll() is None
    runs.handle("slow").resume()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, b"read\n"), err
    other = runs.start("other", "exec sleep 600", "-l", "wall=1")
    assert end_of(other)[0] == 137


def test_all_at_once(runs: Runs) -> None:
    started = [runs.start(f"n{number}") for number in range(3)]
    assert runs.cli("pause", "--all").returncode == 0
    assert {run["state"] for run in runs.ps()} == {"paused"}
    assert runs.cli("resume", "-a").returncode == 0
    assert {run["state"] for run in runs.ps()} == {"running"}
    assert runs.cli("kill", "--all").returncode == 0
    assert runs.ps() == []
    assert [end_of(process)[0] for process in started] == [137] * 3
    assert runs.cli("kill", "--all").returncode == 0


# ---- the end -----------------------------------------------------------------------------------------------------------


def test_kill_ends_all_of_it_and_the_result_says_so(runs: Runs, tmp_path: Path, find_processes: Any) -> None:
    marker = f"marker-{os.getpid()}-{tmp_path.name}"
    script = f"setsid sh -c 'trap : TERM HUP INT; while :; do sleep 600; done' {marker} & (sh -c 'sleep 600' {marker} &) ; wait"
    process = runs.start("tree", script, "--result", str(tmp_path / "result"))
    assert len(find_processes(marker)) > 1
    done = runs.cli("kill", "tree")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert runs.ps() == []  # it waits for the end
    code, err = end_of(process)
    assert find_processes(marker) == {}
    assert code == 137
    assert f"sandbox: signaled: killed by `sandbox kill` of uid {os.geteuid()}" in err.decode()
    result = json.loads((tmp_path / "result").read_text())
    assert (result["verdict"], result["exit_code"], result["signal"]) == ("signaled", 137, 9)
    assert result["cause"] == f"killed by `sandbox kill` of uid {os.geteuid()}"
    assert result["cpu_user_ns"] + result["cpu_sys_ns"] > 0


def test_kill_of_a_paused_run(runs: Runs) -> None:
    process = runs.start("busy", "while :; do :; done")
    runs.handle("busy").pause()
    assert runs.handle("busy").kill() is True
    assert end_of(process)[0] == 137


def test_a_signal_instead(runs: Runs) -> None:
    process = runs.start("trap", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
    said(process, b"ready")
    assert runs.cli("kill", "-s", "TERM", "trap").returncode == 0
    assert end_of(process)[0] == 9
    other = runs.start("usr", "exec sleep 600")
    assert runs.cli("kill", "--signal=usr1", "usr").returncode == 0
    assert end_of(other)[0] == 128 + signal.SIGUSR1


def test_kill_and_signal_9_are_one(runs: Runs) -> None:
    process = runs.start("one")
    assert runs.cli("kill", "-s", "9", "one").returncode == 0
    assert "killed by" in end_of(process)[1].decode()


def test_a_handle_outlives_its_run(runs: Runs) -> None:
    process = runs.start("short")
    handle = runs.handle("short")
    handle.kill()
    end_of(process)
    assert handle.kill() is True  # there is nothing left to do
    for act in (handle.stats, handle.pause, handle.resume, lambda: handle.signal(15)):
        with pytest.raises(sandbox.RunGone, match=f"run `{handle.run_id}` has ended"):
            act()


def test_killed_while_its_output_is_not_read(runs: Runs) -> None:
    """The payload has ended and its output waits for a reader: a kill ends the wait, and the verdict stays its own."""
    process = runs.start("flood", "head -c 100000 /dev/zero; exit 4")
    eventually(lambda: state_of(runs, "flood") == "ending", "all of it is in pipes")
    assert runs.cli("kill", "flood").returncode == 0
    code, err = end_of(process)
    assert code == 4
    assert b"standard output was lost" in err


def test_killed_while_it_writes_and_nobody_reads(runs: Runs) -> None:
    process = runs.start("flood", "exec cat /dev/zero", "-l", "output=1G")
    assert runs.cli("kill", "flood").returncode == 0
    code, err = end_of(process)
    assert code == 137
    assert b"killed by" in err


# ---- a supervisor that does not answer -----------------------------------------------------------------------------------


def test_a_stopped_supervisor(runs: Runs, tmp_path: Path, find_processes: Any) -> None:
    marker = f"marker-{os.getpid()}-{tmp_path.name}"
    process = runs.start("hung", f"sh -c 'sleep 600; :' {marker} & wait", "--result", str(tmp_path / "result"))
    runs.start("fine")
    process.send_signal(signal.SIGSTOP)
    states = {run["name"]: (run["state"], run["memory_bytes"] is None) for run in runs.ps()}
    assert states == {"hung": ("unresponsive", True), "fine": ("running", False)}
    for act in (runs.handle("hung").stats, runs.handle("hung").pause):
        with pytest.raises(sandbox.RunUnresponsive, match=f"process {process.pid}, does not answer"):
            act()
    done = runs.cli("kill", "hung")
    assert done.returncode == 0
    assert f"was ended without its supervisor, process {process.pid}" in done.stderr.decode()
    assert set(find_processes(marker)) == {process.pid}  # its own command line
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    code, err = end_of(process)
    assert code == 137, err
    result = json.loads((tmp_path / "result").read_text())
    assert (result["verdict"], result["cause"]) == ("signaled", f"killed by `sandbox kill` of uid {os.geteuid()}")
    assert [run["name"] for run in runs.ps()] == ["fine"]


def test_a_stopped_supervisor_of_a_paused_run(runs: Runs, find_processes: Any, tmp_path: Path) -> None:
    """On cgroup v1 a frozen process does not see its SIGKILL; whoever ends the run from outside has to thaw it."""
    marker = f"marker-{os.getpid()}-{tmp_path.name}"
    process = runs.start("hung", f"sh -c 'sleep 600; :' {marker} & wait")
    runs.handle("hung").pause()
    process.send_signal(signal.SIGSTOP)
    assert set(find_processes(marker)) > {process.pid}
    assert runs.handle("hung").kill() is False
    assert set(find_processes(marker)) == {process.pid}
    process.send_signal(signal.SIGCONT)
    assert end_of(process)[0] == 137


def test_a_forged_entry_cannot_direct_the_kill(runs: Runs) -> None:
    """An entry whose socket does not answer names a victim as its janitor: the kernel does not confirm it, so it lives. Removed: that check."""
    victim = runs.start("victim")
    handle = runs.handle("victim")
    forged_id = "19abcdef012-0123abcd"
    path = Path(runs.directory) / forged_id
    text = (Path(runs.directory) / handle.run_id).read_bytes().replace(handle.run_id.encode(), forged_id.encode())
    path.write_bytes(text)
    # Held and listening by another process than the one that has the janitor: ours.
    import fcntl

    with open(path, "rb+") as file, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        fcntl.flock(file, fcntl.LOCK_EX)
        listener.bind(f"{path}.sock")
        listener.listen()
        forged = next(run for run in sandbox.running() if run.run_id == forged_id)
        with pytest.raises(sandbox.RunUnresponsive, match="no child of the process that listens"):
            forged.kill()
        assert victim.poll() is None
        from sandbox.registry.scan import end_by_force

        # The wall taken away: the parent that the forger would have to be. Then its word is enough.
        os.close(end_by_force(forged._facts, victim.pid))
        assert end_of(victim)[0] in (125, 137)
    os.unlink(path)
    os.unlink(f"{path}.sock")


# ---- many at once, and a directory that vanishes --------------------------------------------------------------------------


def test_threads_of_one_process(runs: Runs) -> None:
    """Runs of one caller are its own and do not mix; each is ended alone."""
    results: dict[str, sandbox.Result] = {}

    def work(name: str) -> None:
        results[name] = sandbox.run(["sleep", "600"], name=name, timeout=60)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len([run for run in sandbox.running() if run.stats().state is sandbox.RunState.RUNNING]) == 4, "four runs")
    assert {run.pid for run in sandbox.running()} == {os.getpid()}
    runs.handle("t2").kill()
    threads[2].join(DEADLINE_S)
    assert set(results) == {"t2"}
    for run in sandbox.running():
        run.kill()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert {result.cause for result in results.values()} == {f"killed by `sandbox kill` of uid {os.geteuid()}"}


def test_the_directory_is_removed_under_it(runs: Runs) -> None:
    process = runs.start("lost", "read x; exit 5")
    for name in os.listdir(runs.directory):
        os.unlink(f"{runs.directory}/{name}")
    os.rmdir(runs.directory)
    assert runs.ps() == []
    runs.start("next")
    assert [run["name"] for run in runs.ps()] == ["next"]
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert end_of(process)[0] == 5


def test_a_run_that_cannot_register_goes_on_and_says_so(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o755)
    monkeypatch.setenv("SANDBOX_RUNTIME_DIR", str(place))
    result = sandbox.run(["true"])
    assert result.ok
    assert result.notes[-1] == f"not listed by `sandbox ps`: `{place}`: its mode is 0755, others could look in"
    assert list(place.iterdir()) == []
    place.chmod(0o700)
    assert not [note for note in sandbox.run(["true"]).notes if "listed" in note]


def test_strange_files_are_said_and_left(runs: Runs) -> None:
    runs.start("good")
    path = Path(runs.directory) / "notes\x1b.txt"
    path.write_text("")
    done = runs.cli("ps", "-q")
    assert (done.returncode, len(done.stdout.split())) == (0, 1)
    assert done.stderr.decode() == f"sandbox: `{runs.directory}/notes\\x1b.txt`: not an entry of a run; left alone\n"
    path.unlink()
