"""Hostile trees: a run's files are looked at, shown, applied and discarded, and nothing outside of the original is touched, nor more of it than was listed.

What the trees try is said where they are made (`hostile_uppers`). For each defence there is a control, in which it is taken away and the attack succeeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.api.changes import ConflictError, RunChanges, find_kept, open_shelf
from sandbox.changes import exchange, files
from sandbox.changes.keep import finish_changes
from sandbox.changes.model import Record
from sandbox.changes.remove import remove_tree
from sandbox.cli import changes as verbs
from sandbox.errors import SandboxError
from tests.kernel.hostile_uppers import TREES, Hostile
from tests.kernel.overlays import View, keep, view

pytestmark = [pytest.mark.userns]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make an original, a victim beside it, and a place for runs."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # for this test's own os.walk; what is tested does without recursion
    tree, victim = tmp_path / "tree", tmp_path / "victim"
    (tree / "sub").mkdir(parents=True)
    (victim / "deeper").mkdir(parents=True)  # where a link in the middle of a path would lead
    (victim / "deeper/secret").write_text("secret\n")
    (tree / "a").write_text("one\n")
    (tree / "sub/b").write_text("b\n")
    (victim / "secret").write_text("secret\n")
    (victim / "b").write_text("secret\n")
    yield tmp_path
    sys.setrecursionlimit(limit)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("state", "tree"):  # pytest's own way of removing is none for what may be left of a test that failed
            remove_tree(fd, name)
    finally:
        os.close(fd)


def leave(place: Path, hostile: Hostile) -> Record | None:
    """Make the original and a run that left these files."""
    hostile.before(place / "tree", place / "victim")
    kept = keep(place / "state/changes", place / "tree")
    hostile.after(Path(kept.path) / "trees/0/upper", place / "victim")
    return finish_changes(kept, 0)


def around(place: Path) -> View:
    """Return everything that nobody may touch."""
    return view(place / "victim") | dict.fromkeys(os.listdir(place), ())


def test_there_are_as_many_as_were_asked_for() -> None:
    assert len(TREES) >= 150
    assert len({hostile.name for hostile in TREES}) == len(TREES)


@pytest.mark.parametrize("hostile", TREES, ids=lambda hostile: hostile.name)
def test_a_hostile_tree_harms_nothing(place: Path, hostile: Hostile, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (place / "state").mkdir()
    before = around(place)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record = leave(place, hostile)
    assert around(place) == before
    if record is None:
        return
    run = find_kept(record.run)
    for words in ([record.run], [record.run, "--diff"], [record.run, "--format", "json"], [record.run, "-q"], []):
        with contextlib.suppress(SandboxError):
            assert verbs.changes(words) == 0
    sys.stdout.flush()
    shown = capfdbinary.readouterr().out
    assert len(shown) < 60 << 20
    with run.open() as opened:
        paths = [change.path for change in opened.changes()]
    assert all(path and not path.startswith("/") and ".." not in path.split("/") for path in paths)
    hostile.meanwhile(place / "tree", place / "victim")
    before = around(place)
    original = view(place / "tree")
    if record.complete:
        _try(run)  # refused, or harmless
        assert around(place) == before
    _apply_everything(run, record)
    assert around(place) == before, "nothing outside of the original"
    after = _view_all(place / "tree")
    touched = {path for path in after.keys() | original.keys() if after.get(path) != original.get(path)}
    assert touched <= set(paths), "nothing of it that was not listed"
    _assert_tame(place / "tree", touched)
    for kept in open_shelf().runs:
        kept.discard()
    assert sorted(os.listdir(place / "state/changes")) == ["lock"], "it is gone, however it was made"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 600 << 10, "bounded"


def _try(run: RunChanges) -> None:
    with contextlib.suppress(ConflictError, SandboxError):
        run.apply(keep=True)


def _apply_everything(run: RunChanges, record: Record) -> None:
    with contextlib.suppress(SandboxError):
        run.apply(force=True, autorun="apply", special=True, keep=True)
    with contextlib.suppress(SandboxError):
        run.apply(skip_conflicts=True, autorun="apply", special=True, keep=True)
    assert record.complete or not record.listed or list(run.list()) is not None


def _view_all(tree: Path) -> View:
    """Look at a tree in which something may be closed to its owner, or a terabyte long."""
    found: View = {}
    for directory, directories, names in os.walk(tree):
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o400:
                os.chmod(path, status.st_mode | 0o700)
    for path, entry in _safe_view(tree).items():
        found[path] = entry
    return found


def _safe_view(tree: Path) -> View:
    small: View = {}
    for directory, directories, names in os.walk(tree):
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            if os.lstat(path).st_size > 1 << 24 or not os.access(path, os.R_OK, follow_symlinks=False):
                small[os.path.relpath(path, tree)] = ("changed",)
    for directory, directories, names in os.walk(tree):
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            if os.path.relpath(path, tree) in small and os.path.isfile(path) and not os.path.islink(path):
                os.chmod(path, 0o600)
                os.truncate(path, 0)
    return view(tree) | small


def _assert_tame(tree: Path, touched: set[str]) -> None:
    for path in touched:
        try:
            status = os.lstat(tree / path)
        except OSError:
            continue
        assert not stat.S_ISSOCK(status.st_mode) and not stat.S_ISCHR(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            assert not status.st_mode & 0o6000
        if not stat.S_ISLNK(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
            assert not [name for name in os.listxattr(tree / path) if name.startswith("user.overlay.")]


def test_what_is_shown_is_one_line_a_name_and_moves_no_cursor(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    names = ("a\nD  .bashrc", "\x1b[2Jx", "\u202egpj.exe", "bad\udcff")

    def after(upper: Path, victim: Path) -> None:
        for name in names:
            (upper / name).write_text("\x1b]0;x\x07\n")
        os.symlink("\x1b[1mto", upper / "link")

    record = leave(place, Hostile(name="", tries="", after=after))
    assert record is not None
    for words in ([record.run], [record.run, "-q"]):
        verbs.changes(words)
        sys.stdout.flush()
        lines = capfdbinary.readouterr().out.splitlines()
        assert len(lines) == 5
        assert all(line.isascii() and not any(byte < 0x20 or byte == 0x7F for byte in line) for line in lines)
    verbs.changes([record.run, "--format", "json"])
    sys.stdout.flush()
    shown = json.loads(capfdbinary.readouterr().out)
    assert {one["path"] for one in shown["changes"]} == {*names, "link"}, "exact in JSON"
    verbs.changes([record.run, "-q", "-z"])
    sys.stdout.flush()
    assert set(capfdbinary.readouterr().out.rstrip(b"\0").split(b"\0")) == {os.fsencode(name) for name in (*names, "link")}
    assert verbs._harmless("+\x1b[2J\tx\\") == "+\\x1b[2J\tx\\", "on a terminal, contents too"


# ---- controls: what happens without ----------------------------------------------------------------------------------


def _swap(name: str) -> Hostile:
    return next(hostile for hostile in TREES if hostile.name == name)


def test_control_without_beneath_the_victim_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of the original became a link to the victim: opened by its path it is followed."""
    hostile = _swap("swap-link-to-victim")
    record = leave(place, hostile)
    assert record is not None
    hostile.meanwhile(place / "tree", place / "victim")
    run = find_kept(record.run)
    with contextlib.suppress(SandboxError):
        run.apply(force=True, keep=True)
    assert (place / "victim/secret").read_text() == "secret\n"

    def follow(root: int, path: str, flags: int) -> int:
        return os.open(path, (flags | os.O_CLOEXEC) & ~os.O_NOFOLLOW, dir_fd=root)

    monkeypatch.setattr(files, "open_beneath", follow)
    with contextlib.suppress(SandboxError):
        run.apply(force=True, keep=True)
    assert (place / "victim/secret").read_text() == "theirs\n"


def test_control_without_the_mask_a_set_id_file_is_made(place: Path) -> None:
    record = leave(place, _swap("set-id"))
    assert record is not None
    run = find_kept(record.run)
    run.apply("new", keep=True)
    assert stat.S_IMODE((place / "tree/new").stat().st_mode) == 0o755
    (place / "tree/new").unlink()
    run.apply("new", set_id=True, keep=True)
    assert stat.S_IMODE((place / "tree/new").stat().st_mode) == 0o6755


def test_control_without_a_question_a_hook_is_made(place: Path) -> None:
    record = leave(place, _swap("autorun-0"))
    assert record is not None
    run = find_kept(record.run)
    with pytest.raises(ConflictError) as caught:
        run.apply(keep=True)
    assert caught.value.autorun == ((".git/hooks/pre-commit", "git executes it"),) and not (place / "tree/.git").exists()
    run.apply(autorun="apply")
    assert (place / "tree/.git/hooks/pre-commit").exists()


def test_control_without_the_exchange_a_racing_edit_is_lost(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody edits the file between the look at it and its replacement."""

    def after(upper: Path, victim: Path) -> None:
        (upper / "a").write_text("theirs\n")

    record = leave(place, Hostile(name="", tries="", after=after))
    assert record is not None
    run = find_kept(record.run)
    real = exchange.rename_with

    def edited_first(source: int, old: str, target: int, new: str, flags: int) -> None:
        monkeypatch.setattr(exchange, "rename_with", real)
        (place / "tree/a").write_text("mine, just now\n")
        real(source, old, target, new, flags)

    monkeypatch.setattr(exchange, "rename_with", edited_first)
    with pytest.raises(SandboxError) as caught:
        run.apply(keep=True)
    assert "at this moment" in str(caught.value)
    assert (place / "tree/a").read_text() == "mine, just now\n" and sorted(os.listdir(place / "tree")) == ["a", "sub"]

    monkeypatch.setattr(exchange.Names, "_is_expected", staticmethod(lambda *args: True))
    monkeypatch.setattr(exchange, "rename_with", edited_first)
    run.apply(force=True, keep=True)
    assert (place / "tree/a").read_text() == "theirs\n"


def test_control_with_links_followed_a_secret_is_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's file became a link to a secret: a difference that follows it prints what is there."""

    def after(upper: Path, victim: Path) -> None:
        (upper / "a").write_text("theirs\n")

    record = leave(place, Hostile(name="", tries="", after=after))
    assert record is not None
    (place / "tree/a").unlink()
    (place / "tree/a").symlink_to(place / "victim/secret")
    run = find_kept(record.run)
    assert "secret" not in run.diff()
    from sandbox.changes import difference

    monkeypatch.setattr(files, "_READ", os.O_RDONLY | os.O_CLOEXEC)
    monkeypatch.setattr(difference, "look", lambda directory, name: os.stat(name, dir_fd=directory))
    assert "-secret" in run.diff()
