"""What `apply` leaves out with something else, what it cannot read, and what its messages make of a program's names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.api.changes import ConflictError, RunChanges, find_kept, kept_runs
from sandbox.cli.main import error_text
from sandbox.errors import PolicyError
from tests.kernel.overlays import changed

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
