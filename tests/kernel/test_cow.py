"""Runs that see a directory copy-on-write: what they may do there, what is kept of it, and what becomes of that when things go wrong."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.api.changes import find_kept, kept_runs
from sandbox.changes.model import State
from tests.conftest import ROOT
from tests.kernel.overlays import view

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
LIMITS = {"memory": "none", "processes": "none", "cpu": "none"}
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep runs below the test's own directory."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "changes"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a small tree."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_text("one\ntwo\n")
    (top / "sub/b").write_text("b\n")
    return top


@pytest.fixture
def cli(state: Path, tree: Path) -> Cli:
    """Run the command line in the tree."""

    def call(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "sandbox", *words], cwd=tree, env=environ, capture_output=True, text=True, timeout=240, check=False, **more,  # type: ignore[call-overload]
        )  # fmt: skip

    return call


def run(tree: Path, script: str, **more: object) -> sandbox.Result:
    """Run a shell script on the tree."""
    return sandbox.run(["sh", "-c", script], profile="default", cow=[tree], cwd=tree, limits=LIMITS, **more)  # type: ignore[arg-type]


def test_a_program_writes_and_the_original_stays(tree: Path, state: Path) -> None:
    before = view(tree)
    result = run(tree, "echo three >>a; echo new >sub/c; rm sub/b; cat a; ls sub; pwd")
    assert result.ok and result.stdout == f"one\ntwo\nthree\nc\n{tree}\n".encode()
    assert view(tree) == before
    assert result.changes is not None
    assert {change.path: str(change.kind) for change in result.changes.list()} == {"a": "modified", "sub/b": "deleted", "sub/c": "added"}
    assert result.changes.counts == {"modified": 1, "deleted": 1, "added": 1}
    assert result.changes.diff("a") == "--- a/a\n+++ b/a\n@@ -1,2 +1,3 @@\n one\n two\n+three\n"
    report = result.changes.apply()
    assert [change.path for change in report.changes] == ["a", "sub/b", "sub/c"] and report.removed
    assert (tree / "a").read_text() == "one\ntwo\nthree\n" and sorted(os.listdir(tree / "sub")) == ["c"]
    assert kept_runs() == []


def test_a_run_that_changes_nothing_is_not_kept(tree: Path, state: Path) -> None:
    """To open a file for writing copies it up; that alone is no change."""
    result = run(tree, "exec 3<>a; touch x; rm x; mkdir y; rmdir y; cat a >/dev/null")
    assert result.ok and result.changes is None
    assert os.listdir(state) == ["lock"]


def test_in_memory_nothing_is_kept(tree: Path, state: Path) -> None:
    result = run(tree, "echo x >>a; cat a", cow_memory=True)
    assert result.stdout == b"one\ntwo\nx\n" and result.changes is None
    assert (tree / "a").read_text() == "one\ntwo\n" and not state.exists()
    full = run(tree, "dd if=/dev/zero of=big bs=64k count=64 2>&1", cow_memory=True, cow_size="1M")
    assert b"No space left" in (full.stdout or b"")


def test_the_command_line_from_a_run_to_nothing(cli: Cli, tree: Path, state: Path) -> None:
    done = cli("exec", "--cow", ".", "--", "sh", "-c", "echo new >c; rm a")
    assert done.returncode == 0 and "1 added, 1 deleted in" in done.stderr, done.stderr
    run_id = cli("changes", "-q").stdout.strip()
    for verb in ("changes", "apply", "discard"):
        assert f"`sandbox {verb} {run_id}`" in done.stderr
    listed = cli("changes", run_id).stdout.splitlines()
    assert [line.split() for line in listed] == [["D", "a"], ["A", "4B", "c"]]
    assert cli("changes", run_id, "--diff").stdout == "--- a/a\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n--- /dev/null\n+++ b/c\n@@ -0,0 +1 @@\n+new\n"
    shown = json.loads(cli("changes", run_id, "--format", "json").stdout)
    assert [(one["path"], one["kind"], one["standing"]) for one in shown["changes"]] == [("a", "deleted", "pending"), ("c", "added", "pending")]
    dry = cli("apply", run_id, "--dry-run")
    assert dry.returncode == 0 and "2 would be applied" in dry.stdout and not (tree / "c").exists()
    assert cli("apply", run_id, "c").returncode == 0 and (tree / "c").read_text() == "new\n" and (tree / "a").exists()
    assert "in the original already" in cli("changes", run_id).stdout
    assert cli("discard", run_id).stdout == f"run `{run_id}` is gone\n" and (tree / "a").exists()
    assert "ID" in cli("changes").stdout and cli("changes", "-q").stdout == ""
    lost = cli("changes", run_id)
    assert lost.returncode == 125 and "no kept run is called" in lost.stderr


def test_result_and_exit_code_are_the_programs_own(cli: Cli, tmp_path: Path) -> None:
    done = cli("exec", "--cow", ".", "--result", str(tmp_path / "result.json"), "--", "sh", "-c", "echo >c; exit 7")
    assert done.returncode == 7
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["changes"]["added"] == 1 and result["changes"]["run"] == result["run"]


def test_several_directories_each_at_its_own_path(tree: Path, tmp_path: Path, state: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = sandbox.run(
        ["sh", "-c", f"echo x >a; echo y >{other}/new"], profile="default", cow=[tree, other], cwd=tree, limits=LIMITS
    )  # fmt: skip
    assert result.ok and result.changes is not None
    assert [(change.tree, change.path) for change in result.changes.list()] == [(0, "a"), (1, "new")]
    result.changes.apply(f"{other}/new")
    assert (other / "new").read_text() == "y\n" and (tree / "a").read_text() == "one\ntwo\n"
    result.changes.apply()
    assert (tree / "a").read_text() == "x\n" and not list(other.glob(".*"))


def test_a_snapshot_is_gone_on_from(cli: Cli, tree: Path, state: Path) -> None:
    cli("exec", "--cow", ".", "--", "sh", "-c", "echo 1 >step; rm sub/b")
    first = cli("changes", "-q").stdout.strip()
    assert cli("snapshot", first, "stone").returncode == 0
    done = cli("exec", "--resume", "stone", "--", "sh", "-c", "cat step; ls sub; echo 2 >>step; echo late >sub/b")
    assert done.stdout == "1\n", done.stderr
    second = find_kept(cli("changes", "-q").stdout.split()[-1])
    assert {change.path: change.what for change in second.list()} == {"step": (), "sub/b": ("content",)}
    again = cli("exec", "--resume", "stone", "--", "cat", "step")
    assert again.stdout == "1\n", "a run changes nothing of what it goes on from"
    assert "its files stay" in cli("discard", first).stdout
    third = cli("exec", "--resume", second.run_id, "--", "sh", "-c", "cat step; rm step")
    assert third.stdout == "1\n2\n", third.stderr
    last = find_kept(cli("changes", "-q").stdout.split()[-1])
    assert [change.path for change in last.list()] == ["sub/b"], "added by one and removed by the next is nothing"
    assert cli("apply", last.run_id).returncode == 0 and (tree / "sub/b").read_text() == "late\n"
    assert cli("discard", "--all").returncode == 0 and sorted(os.listdir(state)) == ["lock", "snapshots"]


@pytest.mark.orphans
def test_a_killed_caller_leaves_an_interrupted_run(tree: Path, state: Path) -> None:
    reader, writer = os.pipe()
    code = (
        "import sandbox, sys\n"
        f"sandbox.run(['sh', '-c', 'echo half >c; echo ready; sleep 1000'], profile='default', cow=[{str(tree)!r}], cwd={str(tree)!r},"
        f" limits={LIMITS!r}, capture_output=False)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=writer, cwd=ROOT)
    os.close(writer)
    try:
        assert select.select([reader], [], [], 120)[0] and os.read(reader, 64) == b"ready\n"
        (running,) = kept_runs()
        assert running.record.state is State.RUNNING
        with pytest.raises(sandbox.PolicyError, match="still running"):
            running.list()
        with pytest.raises(sandbox.PolicyError, match="still running"):
            running.discard()
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    while os.read(reader, 64):  # the payload's end of the pipe; the pump of the killed caller was the other
        pass
    os.close(reader)
    (kept,) = kept_runs()
    _wait_free(state / kept.run_id / "lock")
    (kept,) = kept_runs()
    assert kept.record.state is State.INTERRUPTED
    assert [change.path for change in kept.list()] == ["c"]
    kept.apply()
    assert (tree / "c").read_text() == "half\n" and kept_runs() == []


def _wait_free(lock: Path) -> None:
    """Wait until nobody holds a lock: until the janitor has seen everything dead."""
    import fcntl

    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_a_run_that_cannot_be_set_up_leaves_nothing(tree: Path, state: Path) -> None:
    (tree / "broken").write_bytes(b"\0\1\2")
    (tree / "broken").chmod(0o755)
    with pytest.raises(sandbox.ExecuteError):
        sandbox.run([str(tree / "broken")], profile="default", cow=[tree], cwd=tree, limits=LIMITS)
    assert os.listdir(state) == ["lock"]


def test_changes_that_cannot_be_listed_do_not_hide_how_the_run_ended(tree: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.changes import compare

    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compare, "compare", full)
    result = run(tree, "echo new >c; exit 3")
    assert result.exit_code == 3 and result.changes is None
    assert any("not listed yet" in note and "sandbox changes" in note for note in result.notes)
    monkeypatch.undo()
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(state.parent))
    (kept,) = kept_runs()
    assert kept.record.state is State.INTERRUPTED and [change.path for change in kept.list()] == ["c"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cow": ["missing"]}, "No such file"),
        ({"cow": ["tree/a"]}, "not a directory"),
        ({"cow": ["tree", "tree/sub"]}, "overlap"),
        ({"cow": ["."]}, "where changes are kept"),
        ({"cow": ["state"]}, "where changes are kept"),
        ({"cow": ["/proc/self"]}, "/proc"),
        ({"resume": "nothing"}, "no kept run is called"),
        ({"cow": ["tree"], "resume": "nothing"}, "no kept run"),
        ({"cow_memory": True}, "not given"),
    ],
)
def test_what_cannot_be_is_refused(tree: Path, state: Path, arguments: dict[str, object], words: str) -> None:
    state.mkdir(parents=True, mode=0o700)
    given = dict(arguments)
    if "cow" in given:
        given["cow"] = [os.path.join(tree.parent, str(path)) for path in given["cow"]]  # type: ignore[attr-defined]
    with pytest.raises(sandbox.PolicyError, match=words):
        sandbox.run(["true"], profile="default", limits=LIMITS, **given)  # type: ignore[arg-type]


def test_the_place_of_the_changes_is_seen_by_nobody(tree: Path, state: Path) -> None:
    run(tree, "echo x >c")
    seen = sandbox.run(["sh", "-c", f"ls -A {state}; cat {state}/*/record.json"], profile="default", volumes=[f"{state.parent}:ro"], limits=LIMITS)
    assert seen.stdout == b"" and seen.exit_code != 0
    with pytest.raises(sandbox.PolicyError):
        sandbox.run(["true"], profile="default", volumes=[f"{state}:ro"], limits=LIMITS)
    with pytest.raises(sandbox.PolicyError):
        sandbox.run(["true"], profile="default", volumes=[f"{state.parent}:rw"], limits=LIMITS)


def test_as_many_runs_are_kept_as_may_be(tree: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.changes.keep.MAXIMUM_RUNS", 2)
    run(tree, "echo x >c")
    run(tree, "echo x >c")
    with pytest.raises(sandbox.PolicyError, match="2 are kept already") as caught:
        run(tree, "echo x >c")
    assert "sandbox discard" in str(caught.value)
    kept_runs()[0].discard()
    assert run(tree, "echo x >c").changes is not None


def test_a_run_that_writes_too_much_is_ended(tree: Path, state: Path) -> None:
    """In pieces of which each is within the limit of one file; what ends it is named, and what it wrote is kept until it is let go."""
    result = run(tree, "i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=8 2>/dev/null; i=$((i+1)); sleep 0.02; done", cow_size="48M", timeout=240)
    assert str(result.verdict) == "signaled" and "--cow-size" in result.cause, result.cause
    # What is measured has directories in it, too, and what is kept is counted by files: a little less may be more than the limit.
    assert result.changes is not None and 47 << 20 < result.changes.record.bytes < 3 << 30
    assert result.changes.discard()


def test_a_sandbox_keeps_each_of_its_runs(tree: Path, state: Path) -> None:
    with sandbox.Sandbox(profile="default", cow=[tree], cwd=tree, limits=LIMITS) as box:
        results = list(box.map(["sh", "-c", "cat >c; cat a"], ["1", "2", "3"]))
        assert [result.stdout for result in results] == [b"one\ntwo\n"] * 3
        assert [result.changes.diff("c").splitlines()[-2] for result in results if result.changes] == ["+1", "+2", "+3"]
        with box.popen(["sh", "-c", "echo x >d"]) as process:
            ended = process.wait()
        assert ended.changes is not None and [change.path for change in ended.changes.list()] == ["d"]
    assert len(kept_runs()) == 4
    with pytest.raises(sandbox.PolicyError, match="pool"):
        sandbox.Sandbox(cow=[tree], pool=2)


@pytest.fixture(autouse=True)
def _in_reach(tmp_path: Path) -> Iterator[None]:
    tmp_path.chmod(0o755)
    yield


def test_runs_are_kept_where_the_way_leads_through_a_link(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /home is one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "link"))
    result = run(tree, "echo new >c")
    assert result.ok and result.changes is not None
    assert result.changes.apply().removed and (tree / "c").read_text() == "new\n"
    assert os.listdir(tmp_path / "real/changes") == ["lock"]
