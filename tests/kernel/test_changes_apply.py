"""Applying what a run changed: by choice, against an original that was changed as well, killed at any moment, and what is never applied unasked."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.api.changes import ApplyError, ConflictError, RunChanges, discard_word, find_kept, kept_runs
from sandbox.changes import apply as apply_module
from sandbox.changes import exchange, takeup
from sandbox.changes.autorun import why_autorun
from sandbox.changes.model import Change, Facts, Kind, Type
from sandbox.changes.status import Source, Standing, stand
from sandbox.errors import PolicyError
from tests.kernel.overlays import changed, view

pytestmark = [pytest.mark.userns]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an original, and a place for runs."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    top = tmp_path / "tree"
    (top / "src/deep").mkdir(parents=True)
    for name in ("a", "b", "src/one.py", "src/two.txt", "src/deep/three.py"):
        (top / name).write_text(f"{name}\n")
    return top


def left(tree: Path, act: Callable[[Path], object]) -> RunChanges:
    """Keep a run that did this."""

    def quiet(top: Path) -> None:
        act(top)

    record, _ = changed(tree.parent / "state/changes", tree, quiet)
    assert record is not None
    return find_kept(record.run)


def edit_all(top: Path) -> None:
    """Change every file, and make one beside each."""
    for path in [path for path in top.rglob("*") if path.is_file()]:
        path.write_text("theirs\n")
        (path.parent / f"{path.name}.new").write_text("new\n")


@pytest.mark.parametrize(
    ("patterns", "made"),
    [
        (("a",), ["a"]),
        (("src",), ["src/deep/three.py", "src/deep/three.py.new", "src/one.py", "src/one.py.new", "src/two.txt", "src/two.txt.new"]),
        (("src/*.py",), ["src/one.py"]),
        (("src/**/*.py",), ["src/deep/three.py", "src/one.py"]),
        (("**/*.new",), ["a.new", "b.new", "src/deep/three.py.new", "src/one.py.new", "src/two.txt.new"]),
        (("./src/deep/", "b"), ["b", "src/deep/three.py", "src/deep/three.py.new"]),
        (("?",), ["a", "b"]),
    ],
)
def test_what_is_named_is_applied_and_nothing_else(tree: Path, patterns: tuple[str, ...], made: list[str]) -> None:
    run = left(tree, edit_all)
    before = view(tree)
    report = run.apply(*patterns)
    assert sorted(change.path for change in report.changes) == made and not report.removed
    after = view(tree)
    assert sorted(path for path in after if after[path] != before.get(path)) == made
    assert run.apply().removed and kept_runs() == []


def test_an_absolute_path_and_one_that_means_nothing(tree: Path) -> None:
    run = left(tree, edit_all)
    with pytest.raises(PolicyError, match="no change there"):
        run.apply("a", "missing")
    with pytest.raises(PolicyError, match="no change there"):
        run.apply(str(tree.parent / "elsewhere"))
    assert [change.path for change in run.apply(str(tree / "a")).changes] == ["a"]


def test_directories_that_a_choice_needs_are_made(tree: Path) -> None:
    def act(top: Path) -> None:
        (top / "new/in").mkdir(parents=True)
        (top / "new/in").chmod(0o750)
        (top / "new/in/file").write_text("x")
        (top / "new/other").write_text("x")

    run = left(tree, act)
    run.apply("new/in/file")
    assert sorted(os.listdir(tree / "new")) == ["in"] and stat.S_IMODE((tree / "new/in").stat().st_mode) == 0o750


def test_a_dry_run_touches_nothing(tree: Path) -> None:
    run = left(tree, edit_all)
    before = view(tree)
    report = run.apply(dry_run=True)
    assert len(report.changes) == 10 and view(tree) == before and not report.removed


CONFLICTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("edited", lambda tree: (tree / "a").write_text("mine\n"), "a"),
    ("edited-in-place-same-size-and-time", lambda tree: _sly(tree / "a"), "a"),
    ("gone", lambda tree: (tree / "a").unlink(), "a"),
    ("replaced", lambda tree: os.replace(shutil.copy2(tree / "a", tree / "z"), tree / "a"), "a"),
    ("mode", lambda tree: (tree / "a").chmod(0o600), "a"),
    ("a-link-now", lambda tree: ((tree / "a").unlink(), (tree / "a").symlink_to("b")), "a"),
    ("a-directory-now", lambda tree: ((tree / "a").unlink(), (tree / "a").mkdir()), "a"),
    ("made-too", lambda tree: (tree / "a.new").write_text("mine\n"), "a.new"),
    ("parent-gone", lambda tree: shutil.rmtree(tree / "src"), "src/one.py"),
    ("parent-a-link", lambda tree: ((tree / "src").rename(tree / "old"), (tree / "src").symlink_to("old")), "src/one.py"),
]


def _sly(path: Path) -> None:
    """Write a file and put its time back: its ctime tells."""
    status = path.stat()
    _write_later(path, b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _write_later(path: Path, content: bytes) -> None:
    """Write a file, so that its times are later than this moment: a file system's clock may go by ticks of some milliseconds."""
    now = time.time_ns()
    while path.stat().st_ctime_ns <= now:
        path.write_bytes(content)


@pytest.mark.parametrize(("meanwhile", "where"), [item[1:] for item in CONFLICTS], ids=[item[0] for item in CONFLICTS])
def test_an_original_that_was_changed_as_well_is_named_and_nothing_is_touched(tree: Path, meanwhile: Callable[[Path], object], where: str) -> None:
    run = left(tree, edit_all)
    meanwhile(tree)
    before = view(tree)
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert where in dict(caught.value.conflicts)
    assert view(tree) == before
    report = run.apply(skip_conflicts=True)
    assert where in dict(report.left) and not report.removed
    after = view(tree)
    assert after.get(where) == before.get(where) and (tree / "b").read_text() == "theirs\n"


def test_force_lets_the_run_win(tree: Path) -> None:
    run = left(tree, edit_all)
    (tree / "a").write_text("mine\n")
    (tree / "b").unlink()
    (tree / "a.new").mkdir()
    run.apply(force=True)
    assert (tree / "a").read_text() == (tree / "b").read_text() == "theirs\n" and (tree / "a.new").read_text() == "new\n"


def test_what_changed_while_the_run_went_on_is_a_conflict(tree: Path) -> None:
    """Recorded at the end of the run it looks unchanged; but the run has copied what was there before."""

    def act(top: Path) -> None:
        with (top / "a").open("a") as file:
            file.write("theirs\n")
        _write_later(tree / "a", b"mine, meanwhile\n")

    run = left(tree, act)
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert caught.value.conflicts == (("a", "it was changed in the original after the run began"),)
    assert (tree / "a").read_text() == "mine, meanwhile\n"


def test_a_clock_that_was_set_back_hides_no_edit(tree: Path) -> None:
    """A ctime before the run's beginning vouches for nothing alone: what the file was is compared as well."""
    run = left(tree, edit_all)
    (tree / "a").write_text("mine\n")
    with run.open() as opened:
        change = next(change for change in opened.changes() if change.path == "a")
        uppers, lowers = opened.layers(0)
        found = stand(change, lowers[0], Source(uppers), 1 << 62)
    assert found.standing is Standing.CONFLICT


def test_the_same_change_made_by_somebody_else_is_no_conflict(tree: Path) -> None:
    run = left(tree, edit_all)
    (tree / "a").write_text("theirs\n")
    report = run.apply()
    assert report.done == 1 and report.removed


def test_a_directory_with_something_new_in_it_stays(tree: Path) -> None:
    run = left(tree, lambda top: shutil.rmtree(top / "src"))
    (tree / "src/mine").write_text("mine\n")
    with pytest.raises(ConflictError) as caught:
        run.apply()
    assert dict(caught.value.conflicts) == {"src": "`mine` in it stays"}
    run.apply(skip_conflicts=True)
    assert os.listdir(tree / "src") == ["mine"]


def test_another_directory_at_its_path_is_refused(tree: Path) -> None:
    run = left(tree, edit_all)
    tree.rename(tree.parent / "moved")
    shutil.copytree(tree.parent / "moved", tree)
    with pytest.raises(PolicyError, match="another directory now"):
        run.apply()


def test_names_of_one_file_are_applied_as_names_of_one_file(tree: Path) -> None:
    def act(top: Path) -> None:
        os.link(top / "a", top / "a2")
        (top / "c").write_text("c")
        os.link(top / "c", top / "src/c2")
        os.link(top / "c", top / "c3")

    run = left(tree, act)
    run.apply("src/c2")
    assert (tree / "src/c2").read_text() == "c" and not (tree / "c").exists(), "without the other, a file of its own"
    (tree / "src/c2").unlink()
    run.apply()
    assert (tree / "a").samefile(tree / "a2") and (tree / "c").samefile(tree / "src/c2") and (tree / "c").samefile(tree / "c3")


def test_other_names_in_the_original_are_said_to_keep_what_they_have(tree: Path) -> None:
    os.link(tree / "a", tree / "twin")
    run = left(tree, lambda top: (top / "a").write_text("theirs\n"))
    report = run.apply()
    assert report.notes == ("`a`: 1 other names of it in the original keep what they have",)
    assert (tree / "twin").read_text() == "a\n"


def test_modes_are_changed_in_place_and_closed_directories_are_written_to(tree: Path) -> None:
    (tree / "closed").mkdir()
    (tree / "closed/file").write_text("x")
    (tree / "closed").chmod(0o555)

    def act(top: Path) -> None:
        (top / "a").chmod(0o751)
        (top / "closed").chmod(0o755)
        (top / "closed/new").write_text("new")
        (top / "closed/file").unlink()
        (top / "closed").chmod(0o555)
        (top / "made").mkdir()
        (top / "made/file").write_text("x")
        (top / "made").chmod(0o500)

    inode = (tree / "a").stat().st_ino
    run = left(tree, act)
    run.apply()
    assert (tree / "a").stat().st_ino == inode and stat.S_IMODE((tree / "a").stat().st_mode) == 0o751
    assert os.listdir(tree / "closed") == ["new"] and stat.S_IMODE((tree / "closed").stat().st_mode) == 0o555
    assert os.listdir(tree / "made") == ["file"] and stat.S_IMODE((tree / "made").stat().st_mode) == 0o500


def test_holes_stay_holes(tree: Path) -> None:
    def act(top: Path) -> None:
        with (top / "sparse").open("wb") as file:
            file.seek(1 << 32)
            file.write(b"end")

    run = left(tree, act)
    run.apply()
    status = (tree / "sparse").stat()
    assert status.st_size == (1 << 32) + 3 and status.st_blocks < 64
    with (tree / "sparse").open("rb") as file:
        file.seek(1 << 32)
        assert file.read() == b"end"


def test_special_files_are_made_when_asked(tree: Path) -> None:
    def act(top: Path) -> None:
        os.mkfifo(top / "fifo", 0o640)
        (top / "a").chmod(0o4755)

    run = left(tree, act)
    report = run.apply()
    assert dict(report.left) == {"fifo": "a FIFO; `--special` makes it"} and not report.removed
    assert stat.S_IMODE((tree / "a").stat().st_mode) == 0o755
    run.apply(special=True)
    assert stat.S_ISFIFO((tree / "fifo").stat().st_mode)


def test_a_change_that_cannot_be_made_is_named_and_the_others_are_made(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = left(tree, edit_all)
    real = apply_module._Tree._write_file

    def full(self: object, parent: int, name: str, *rest: object) -> None:
        if name == "one.py":
            raise OSError(28, "No space left on device")
        real(self, parent, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(apply_module._Tree, "_write_file", full)
    with pytest.raises(ApplyError) as caught:
        run.apply()
    assert caught.value.failed == (("src/one.py", "No space left on device (ENOSPC)"),)
    assert (tree / "src/one.py").read_text() == "src/one.py\n" and (tree / "a").read_text() == "theirs\n"
    monkeypatch.undo()
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tree.parent / "state"))
    assert run.apply().removed and (tree / "src/one.py").read_text() == "theirs\n"


def _everything(top: Path) -> None:
    edit_all(top)
    (top / "b").unlink()
    (top / "b").mkdir()
    (top / "b/in").write_text("in\n")
    shutil.rmtree(top / "src/deep")
    (top / "src/deep").symlink_to("one.py")
    (top / "src/two.txt").unlink()
    os.link(top / "a", top / "twin")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_every_file_is_old_or_new_and_it_goes_on(tree: Path, after: bool) -> None:
    """SIGKILL before, or right after, each call that changes the original; then once more to the end."""
    old = {path: entry[:1] + entry[3:4] for path, entry in view(tree).items() if entry[0] == "file"}
    pristine = tree.parent / "pristine"
    subprocess.run(["cp", "-a", tree, pristine], check=True)
    steps = 0
    while True:
        subprocess.run(["rm", "-rf", tree / "src", *tree.iterdir()], check=True)
        subprocess.run(["cp", "-a", f"{pristine}/.", tree], check=True)
        run = left(tree, _everything)
        if _apply_in_child(run, steps, after=after):
            break
        for path, entry in view(tree).items():
            if entry[0] == "file" and ".sandbox-" not in path:
                assert entry[3] in (bytes.hex(b"theirs\n"), bytes.hex(b"new\n"), bytes.hex(b"in\n"), old.get(path, ("", ""))[1]), (steps, path)
        report = run.apply()
        assert report.removed, (steps, report)
        _assert_applied(tree)
        steps += 1
    assert steps > 15
    _assert_applied(tree)


def _assert_applied(tree: Path) -> None:
    assert not [path for path in tree.rglob("*") if ".sandbox-" in path.name]
    assert (tree / "b/in").read_text() == "in\n" and os.readlink(tree / "src/deep") == "one.py" and (tree / "a").samefile(tree / "twin")
    assert (tree / "src/one.py").read_text() == "theirs\n" and not (tree / "src/two.txt").exists() and (tree / "src/two.txt.new").exists()


def _apply_in_child(run: RunChanges, step: int, *, after: bool, special: bool = False) -> bool:
    """Apply in a child that is killed at one step; return whether it came to its end before that."""
    child = os.fork()
    if child == 0:
        count = 0

        def stepped(call: Callable[..., object]) -> Callable[..., object]:
            def act(*words: object, **more: object) -> object:
                nonlocal count
                count += 1
                mine = count
                if mine == step + 1 and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return call(*words, **more)
                finally:
                    if mine == step + 1:
                        os.kill(os.getpid(), signal.SIGKILL)

            return act

        try:
            for module, called in ((exchange, "rename_with"), (exchange, "remove"), (apply_module, "remove"), (takeup, "remove")):
                setattr(module, called, stepped(getattr(module, called)))
            for name in ("link", "unlink", "rmdir", "mkdir", "symlink", "fchmod", "chmod", "utime"):
                setattr(os, name, stepped(getattr(os, name)))
            run.apply(keep=True, special=special)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.waitstatus_to_exitcode(status) == 0
    return True


def test_what_is_left_by_a_kill_goes_with_a_discard_too_and_somebodys_work_stays(tree: Path) -> None:
    run = left(tree, edit_all)
    step = 0
    while not list(tree.glob(".sandbox-*")):
        assert not _apply_in_child(run, step, after=True), "no kill left anything: the test does not see what it should"
        step += 1
    run.discard()
    assert not list(tree.glob(".sandbox-*")) and kept_runs() == []
    other = left(tree, lambda top: (top / "a").write_text("theirs again\n"))
    with other.open() as opened:
        takeup.begin_apply(opened)
    name = takeup.temporary_name(other.run_id)
    (tree / name).write_text("an edit that an exchange brought out, and a kill kept from going back\n")
    report = other.apply()
    assert [note for note in report.notes if ".kept" in note]
    assert (tree / f"{name}.1.kept").read_text().startswith("an edit")


def test_two_commands_on_one_run_are_told(tree: Path) -> None:
    run = left(tree, edit_all)
    with run.open(), pytest.raises(PolicyError, match="another command"):
        run.apply()
    assert "is gone" in discard_word(run.short_id)


# ---- files that run by themselves ------------------------------------------------------------------------------------


def _file(path: str, mode: int = 0o644) -> Change:
    facts = Facts(type=Type.FILE, mode=mode, size=1, mtime_ns=0, device=1, inode=1, ctime_ns=0)
    return Change(tree=0, path=path, kind=Kind.ADDED, after=facts)


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/pre-commit", "sub/.git/hooks/post-checkout", ".git/config", ".git/modules/lib/hooks/pre-push", ".git/modules/lib/config",
        "bare.git/hooks/update", ".git/worktrees/w/config.worktree", ".git", ".bashrc", "home/.zshenv", ".envrc", "a/b/.envrc",
        ".vscode/tasks.json", ".vscode/settings.json",
        ".devcontainer/devcontainer.json", ".husky/pre-commit", ".ssh/authorized_keys", ".config/autostart/x.desktop", ".config/systemd/user/x.service",
        "venv/lib/python3.11/site-packages/x.pth", "lib/python3/dist-packages/sitecustomize.py", ".npmrc",
        ".local/bin/ls", ".idea/workspace.xml", ".gitmodules",
    ],
)  # fmt: skip
def test_files_that_run_by_themselves_are_known(path: str) -> None:
    assert why_autorun(_file(path), "/home/me/project")


@pytest.mark.parametrize(
    "path",
    [
        "Makefile", "package.json", "setup.py", "src/main.py", ".git/index", ".git/objects/ab/cd", ".git/refs/heads/main", ".git/hooks/pre-commit.sample",
        ".git/HEAD", ".git/COMMIT_EDITMSG", ".git/logs/HEAD", "node_modules/x/package.json", "docs/.envrc.md", "bashrc", ".gitignore",
        "venv/lib/python3.11/site-packages/x.py", "hooks/pre-commit", ".git/modules/lib/refs/heads/main", "x.pth",
    ],
)  # fmt: skip
def test_files_that_do_not_are_not(path: str) -> None:
    assert not why_autorun(_file(path), "/home/me/project")


def test_the_place_of_a_tree_counts() -> None:
    assert why_autorun(_file("pre-commit"), "/home/me/project/.git/hooks")
    assert why_autorun(_file("ls", 0o755), "/home/me/bin", "/usr/bin:/home/me/bin")
    assert not why_autorun(_file("ls", 0o644), "/home/me/bin", "/usr/bin:/home/me/bin")
    gone = Change(tree=0, path=".git/hooks/pre-commit", kind=Kind.DELETED)
    assert not why_autorun(gone, "/home/me/project")
