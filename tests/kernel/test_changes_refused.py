"""What `apply` leaves out with something else, what it cannot read, and what its messages make of a program's names."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.api.changes import ApplyError, ConflictError, RunChanges, find_kept, kept_runs
from sandbox.changes import exchange
from sandbox.cli.changes import changes as changes_verb
from sandbox.cli.main import error_text
from sandbox.errors import PolicyError
from tests.kernel.overlays import changed
from tests.kernel.test_changes_apply import _apply_in_child

pytestmark = [pytest.mark.userns]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an original, and a place for runs."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    top = tmp_path / "tree"
    (top / "p/q").mkdir(parents=True)
    (top / "p/q/f").write_text("f\n")
    (top / "a").write_text("a\n")
    return top


def left(tree: Path, act: Callable[[Path], object]) -> RunChanges:
    """Keep a run that did this."""

    def quiet(top: Path) -> None:
        act(top)

    record, _ = changed(tree.parent / "state/changes", tree, quiet)
    assert record is not None
    return find_kept(record.run)


def test_what_was_to_be_in_a_directory_is_left_out_with_it(tree: Path) -> None:
    def act(top: Path) -> None:
        (top / "new/deep").mkdir(parents=True)
        (top / "new/deep/file").write_text("x")
        (top / "other").write_text("x")

    run = left(tree, act)
    (tree / "new").write_text("mine\n")
    with pytest.raises(ConflictError):
        run.apply()
    report = run.apply(skip_conflicts=True)
    assert [change.path for change in report.changes] == ["other"] and (tree / "new").read_text() == "mine\n"
    assert [path for path, _ in report.left] == ["new", "new/deep", "new/deep/file"] and not report.removed
    assert run.apply(force=True).removed and (tree / "new/deep/file").read_text() == "x"


def test_a_directory_with_one_in_it_that_stays_stays(tree: Path) -> None:
    def act(top: Path) -> None:
        (top / "p/q/f").unlink()
        (top / "p/q").rmdir()
        (top / "p").rmdir()

    run = left(tree, act)
    (tree / "p/q/mine").write_text("mine\n")
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert dict(caught.value.conflicts) == {"p": "`q` in it stays", "p/q": "`mine` in it stays"}
    report = run.apply(skip_conflicts=True)
    assert [change.path for change in report.changes] == ["p/q/f"] and (tree / "p/q/mine").exists() and not report.removed


def test_an_empty_path_is_not_everything(tree: Path) -> None:
    run = left(tree, lambda top: (top / "a").write_text("b\n"))
    with pytest.raises(PolicyError, match="empty path"):
        run.apply("")
    assert (tree / "a").read_text() == "a\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0, 0o200])
def test_what_its_owner_may_not_read_is_compared_and_applied_untouched(tree: Path, mode: int) -> None:
    """To read it by giving ourselves the right would change its inode, which then counts as somebody else's work."""
    (tree / "a").chmod(mode)
    (tree / "p/q/f").chmod(mode)
    before = {path: path.stat() for path in (tree / "a", tree / "p/q/f")}

    def act(top: Path) -> None:
        (top / "a").chmod(0o600)
        (top / "a").write_text("more\n")
        (top / "p/q/f").chmod(0o640)

    run = left(tree, act)
    assert {change.path: change.what for change in run.list()} == {"a": ("content", "mode"), "p/q/f": ("mode",)}
    run.apply(dry_run=True)
    assert all(path.stat().st_ctime_ns == status.st_ctime_ns for path, status in before.items())
    assert run.apply().removed and (tree / "a").read_text() == "more\n" and (tree / "p/q/f").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_nobody_may_read_any_more_is_applied_once(tree: Path) -> None:
    def act(top: Path) -> None:
        (top / "a").write_text("hidden\n")
        (top / "a").chmod(0)

    run = left(tree, act)
    run.apply(keep=True)
    report = run.apply(keep=True)
    assert (report.done, report.changes) == (1, ())
    assert run.apply().removed and kept_runs() == []
    (tree / "a").chmod(0o600)
    assert (tree / "a").read_text() == "hidden\n"


def test_a_name_with_a_line_in_it_adds_no_line_to_what_is_refused(tree: Path) -> None:
    name = "x\nconflict: `a`: nothing to see\x1b[2J"
    run = left(tree, lambda top: (top / name).write_text("theirs\n"))
    (tree / name).write_text("mine\n")
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert caught.value.conflicts[0][0] == name
    text = error_text(caught.value)
    assert text.count("\n  ") == 1 and "\x1b" not in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root makes no directory writable first")
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_leaves_no_directory_writable_and_no_half_fifo(tree: Path, after: bool) -> None:
    """Between any two steps: the next apply, or a discard, gives the directory its mode back, and nothing of ours is in conflict."""
    (tree / "p/q/g").write_text("g\n")
    pristine = tree.parent / "pristine"
    shutil.copytree(tree, pristine)

    def act(top: Path) -> None:
        (top / "p/q").chmod(0o755)
        (top / "p/q/f").write_text("theirs\n")
        (top / "p/q/g").unlink()
        (top / "p/q/new").write_text("new\n")
        os.mkfifo(top / "p/q/fifo")
        (top / "p/q/fifo").chmod(0o640)
        (top / "p/q").chmod(0o555)

    step = opened = 0
    while True:
        (tree / "p/q").chmod(0o755)
        shutil.rmtree(tree)
        shutil.copytree(pristine, tree)
        (tree / "p/q").chmod(0o555)
        run = left(tree, act)
        if _apply_in_child(run, step, after=after, special=True):
            break
        opened += stat.S_IMODE((tree / "p/q").stat().st_mode) != 0o555
        if step % 2:
            assert run.apply(special=True).removed, step
            assert stat.S_IMODE((tree / "p/q/fifo").stat().st_mode) == 0o640 and sorted(os.listdir(tree / "p/q")) == ["f", "fifo", "new"]
        else:
            assert run.discard()
        assert stat.S_IMODE((tree / "p/q").stat().st_mode) == 0o555, step
        step += 1
    assert opened > 5, "no kill came while it was writable: the test does not see what it should"
    run.discard()
    (tree / "p/q").chmod(0o755)


@pytest.mark.parametrize("kind", ["written", "deleted"])
@pytest.mark.parametrize("second", ["saved", "removed"])
def test_no_version_is_lost_of_a_file_that_is_saved_twice_while_it_is_applied(
    tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str, second: str
) -> None:
    """Saved once before the exchange and once after it: what comes back by the second exchange is the later version, not ours to remove."""
    run = left(tree, lambda top: (top / "a").write_text("theirs\n") if kind == "written" else (top / "a").unlink())
    rename = exchange.rename_with
    calls = 0

    def save(text: str) -> None:
        (tree / "editor").write_text(text)
        (tree / "editor").rename(tree / "a")

    def raced(*words: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            save("first, and longer\n")
        elif calls == 2 and second == "saved":
            save("second, and longer still\n")
        elif calls == 2:
            (tree / "a").unlink(missing_ok=True)
        rename(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(exchange, "rename_with", raced)
    with pytest.raises(ApplyError) as caught:
        run.apply()
    found = {path.name: path.read_text() for path in tree.iterdir() if path.is_file()}
    assert "first, and longer\n" in found.values() and "theirs\n" not in found.values()
    assert second == "removed" or "second, and longer still\n" in found.values()
    assert not [name for name in found if name.endswith(".tmp")] and all(name in str(caught.value.failed) for name in found if name.endswith(".kept"))


def test_paths_are_looked_at_as_they_are_applied(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who looks at a path and sees nothing takes it for unchanged."""

    def act(top: Path) -> None:
        (top / "p/q/f").write_text("theirs\n")
        (top / "a").write_text("theirs\n")

    run = left(tree, act)
    for name in ("p/q/f", "./p/q", "p/*/f", "p/", str(tree / "p"), f"{tree}/p/q/../q/f"):
        assert changes_verb(["-q", run.short_id, name]) == 0
        assert capsys.readouterr().out == "p/q/f\n", name
        assert run.diff(name).startswith("--- a/p/q/f\n"), name
    for name in ("P", "", str(tree.parent)):
        with pytest.raises(PolicyError, match="look at"):
            changes_verb([run.short_id, "--diff", name])


def test_hooks_where_the_originals_configuration_has_them_are_told(tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".git/config").write_text("[core]\n\thooksPath = p/q\n")
    run = left(tree, lambda top: [(top / name).write_text("theirs\n") for name in ("p/q/pre-commit", "a")])
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert [path for path, _ in caught.value.autorun] == ["p/q/pre-commit"] and not caught.value.conflicts
    assert [change.path for change in run.apply(autorun="skip").changes] == ["a"] and not (tree / "p/q/pre-commit").exists()
