"""What is listed of a run equals a file-by-file comparison of before and after; what is applied equals having run outside; what is discarded was never there.

Random trees and random work on them, done twice: in an overlay, and outside on a copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.changes.apply import apply
from sandbox.changes.choose import Choices, choose
from sandbox.changes.keep import Opened, discard
from sandbox.changes.remove import remove_tree
from tests.kernel.overlays import View, as_compared, changed, compare_views, listed, view

pytestmark = [pytest.mark.userns]

NAMES = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "f", "f/a", "new\nline", "d/\x1b[2J", "f/\udcff")
CONTENTS = (b"", b"one\n", b"two\nlines", b"\x00binary\xff", b"x" * 70_000)
MODES = (0o644, 0o600, 0o755, 0o444, 0o777, 0o640)
paths = st.sampled_from(NAMES)
times = st.integers(min_value=1, max_value=5).map(lambda second: second * 1_000_000_000 + 1_500_000_000_000_000_000)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), paths, st.sampled_from(CONTENTS), times),
        st.tuples(st.just("append"), paths, st.sampled_from(CONTENTS), times),
        st.tuples(st.just("rewrite"), paths, times),
        st.tuples(st.just("open"), paths),
        st.tuples(st.just("mkdir"), paths),
        st.tuples(st.just("remove"), paths),
        st.tuples(st.just("again"), paths),
        st.tuples(st.just("move"), paths, paths),
        st.tuples(st.just("link"), paths, paths),
        st.tuples(st.just("symlink"), paths, st.sampled_from(("a", "d/a", "/etc/passwd", "../../..", "nowhere"))),
        st.tuples(st.just("chmod"), paths, st.sampled_from(MODES)),
        st.tuples(st.just("touch"), paths, times),
        st.tuples(st.just("attribute"), paths, st.sampled_from((b"1", b"2", None))),
        st.tuples(st.just("truncate"), paths, st.integers(min_value=0, max_value=100_000), times),
    ),
    max_size=14,
)


def work(top: Path, steps: list[tuple[object, ...]]) -> None:
    """Do the steps, in order; one that cannot be done, here or there, is none."""
    for step in steps:
        with contextlib.suppress(OSError):
            _do(top, *step)


def _do(top: Path, name: str, path: str, *rest: object) -> None:
    at = top / path
    match name, rest:
        case "write", (bytes(content), int(when)):
            if at.is_symlink():
                return
            at.write_bytes(content)
            os.utime(at, ns=(when, when))
        case "append", (bytes(content), int(when)):
            if at.is_symlink() or not at.exists():
                return
            with at.open("ab") as file:
                file.write(content)
            os.utime(at, ns=(when, when))
        case "rewrite", (int(when),):
            content = _read(at)
            os.unlink(at)
            at.write_bytes(content)
            os.utime(at, ns=(when, when))
        case "open", ():
            os.close(os.open(at, os.O_RDWR | os.O_NOFOLLOW))
        case "mkdir", ():
            at.mkdir()
        case "remove", ():
            _remove(at)
        case "again", ():
            _remove(at)
            at.mkdir()
        case "move", (str(target),):
            _move(at, top / target)
        case "link", (str(target),):
            os.link(at, top / target, follow_symlinks=False)
        case "symlink", (str(text),):
            os.symlink(text, at)
        case "chmod", (int(mode),):
            if not at.is_symlink():
                os.chmod(at, mode | (0o700 if at.is_dir() else 0))
        case "touch", (int(when),):
            if at.is_file() and not at.is_symlink():
                os.utime(at, ns=(when, when))
        case "attribute", (value,):
            if at.is_symlink():
                return
            if value is None:
                os.removexattr(at, "user.test")
            else:
                assert isinstance(value, bytes)
                os.setxattr(at, "user.test", value)
        case "truncate", (int(size), int(when)):
            if not at.is_symlink():
                os.truncate(at, size)
                os.utime(at, ns=(when, when))
        case _:
            raise AssertionError(name)


def _read(at: Path) -> bytes:
    if at.is_symlink():
        raise OSError(errno.ELOOP, "a link")
    return at.read_bytes()


def _remove(at: Path) -> None:
    if at.is_dir() and not at.is_symlink():
        shutil.rmtree(at)
    else:
        os.unlink(at)


def _move(source: Path, target: Path) -> None:
    """As mv(1) does where the kernel refuses to rename a directory (EXDEV): copied and removed, here and there alike."""
    if not source.is_dir() or source.is_symlink():
        os.rename(source, target)
        return
    if target.exists() or str(target).startswith(f"{source}/") or not target.parent.is_dir():
        return
    shutil.copytree(source, target, symlinks=True)
    shutil.rmtree(source)


def _fresh(parent: Path) -> tuple[Path, Path, Path]:
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("tree", "outside", "state"):
            remove_tree(fd, name)  # an overlay's work directory is closed to its owner
    finally:
        os.close(fd)
    (parent / "tree/d/e").mkdir(parents=True)
    for name in ("a", "d/a", "d/b", "d/e/b"):  # so that most of the work meets something
        (parent / "tree" / name).write_text(f"{name}\n")
        os.utime(parent / "tree" / name, ns=(1_400_000_000_000_000_000,) * 2)
    os.setxattr(parent / "tree/d/b", "user.test", b"0")
    return parent / "tree", parent / "outside", parent / "state"


def _copy(source: Path, target: Path) -> None:
    """Copy a tree with its links, times and attributes; cp(1) keeps hard links, which shutil does not."""
    import subprocess

    subprocess.run(["cp", "-a", source, target], check=True)


def _plain(found: View) -> View:
    """Leave out which names are one file: a merged tree gives those of a copied-up file different numbers (overlayfs.rst, non-standard behaviour)."""
    return {path: (*entry[:5], path) if entry[0] == "file" else entry for path, entry in found.items()}


def _in_and_out(steps: list[tuple[object, ...]]) -> Callable[[Path], object]:
    def act(top: Path) -> object:
        work(top, steps)
        return {path: list(entry) for path, entry in view(top).items()}

    return act


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=operations, steps=operations)
def test_changes_equal_a_comparison_and_applied_they_equal_running_outside(
    tmp_path: Path, before: list[tuple[object, ...]], steps: list[tuple[object, ...]]
) -> None:
    tree, outside, state = _fresh(tmp_path)
    work(tree, before)
    _copy(tree, outside)
    first = view(tree)
    record, answer = changed(state, tree, _in_and_out(steps))
    assert isinstance(answer, dict)
    after: View = {path: tuple(entry) for path, entry in answer.items()}
    assert view(tree) == first, "the original is as it was"
    found = listed(state, record)
    expected = compare_views(_plain(first), _plain(after))
    links = {change.path for change in found if "link" in change.what}
    assert {path: item for path, item in as_compared(found).items() if path not in links} == {
        path: item for path, item in expected.items() if path not in links
    }
    assert (record is None) == (not found)
    # Original names of one file are two after one of them was written to inside; outside they stay one. So both are compared without such a tree.
    many = any(entry[0] == "file" and entry[5] != path for path, entry in first.items())
    if record is None or many:
        return
    with Opened(str(state), record.run) as opened:
        choices = Choices(autorun="apply")
        chosen = choose(opened, choices)
        assert not chosen.conflicts and not chosen.left
        applied = apply(opened, chosen, choices)
        assert not applied.failed
        assert len(chosen.todo) == applied.made
        again = choose(opened, choices)
        assert not again.todo and not again.conflicts, "applied twice it is the same"
    work(outside, steps)
    assert view(tree) == view(outside)
    assert discard(str(state), record.run)
    assert sorted(os.listdir(state)) == ["lock"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=operations, one=operations, two=operations)
def test_a_run_on_top_of_another_is_compared_with_the_original(
    tmp_path: Path, before: list[tuple[object, ...]], one: list[tuple[object, ...]], two: list[tuple[object, ...]]
) -> None:
    tree, _, state = _fresh(tmp_path)
    work(tree, before)
    first = view(tree)
    base, _ = changed(state, tree, _in_and_out(one))
    if base is None:
        return
    record, answer = changed(state, tree, _in_and_out(two), base)
    assert isinstance(answer, dict)
    after: View = {path: tuple(entry) for path, entry in answer.items()}
    found = listed(state, record)
    if record is not None:
        links = {change.path for change in found if "link" in change.what}
        assert {path: item for path, item in as_compared(found).items() if path not in links} == {
            path: item for path, item in compare_views(_plain(first), _plain(after)).items() if path not in links
        }
    assert view(tree) == first


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=operations, steps=operations)
def test_discarded_changes_were_never_there(tmp_path: Path, before: list[tuple[object, ...]], steps: list[tuple[object, ...]]) -> None:
    tree, outside, state = _fresh(tmp_path)
    work(tree, before)
    _copy(tree, outside)
    record, _ = changed(state, tree, _in_and_out(steps))
    if record is not None:
        assert discard(str(state), record.run)
    assert view(tree) == view(outside)
    assert sorted(os.listdir(state)) == ["lock"]
