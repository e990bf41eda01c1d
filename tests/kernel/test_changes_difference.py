"""Differences as `patch` reads them: what it makes of the original is what the run made of it; and bounded, whatever the files are."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.api.changes import find_kept
from sandbox.changes.difference import quote
from sandbox.changes.remove import remove_tree
from tests.kernel.overlays import changed

pytestmark = [pytest.mark.userns]
PATCH = shutil.which("patch")
lines = st.lists(st.sampled_from(["a", "b", "c", "", "longer line", "\tx", " y", "-z", "+z", "@@", "\\", "é"]), max_size=25)
texts = st.tuples(lines, st.booleans()).map(lambda item: "\n".join(item[0]) + ("\n" if item[1] and item[0] else ""))


def difference(place: Path, before: dict[str, str | None], after: dict[str, str | None]) -> str:
    """Return the difference that a run shows which made `after` of `before`."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("tree", "state"):
            remove_tree(fd, name)
    finally:
        os.close(fd)
    tree = place / "tree"
    tree.mkdir()
    for name, text in before.items():
        if text is not None:
            (tree / name).write_text(text)

    def act(top: Path) -> None:
        for name, text in after.items():
            if text is not None:
                (top / name).write_text(text)
            elif (top / name).exists():
                (top / name).unlink()

    record, _ = changed(place / "state/changes", tree, act)
    return "" if record is None else find_kept(record.run).diff()


@pytest.mark.skipif(PATCH is None, reason="patch is not installed")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=st.dictionaries(st.sampled_from(["one", "two"]), texts), after=st.dictionaries(st.sampled_from(["one", "two", "three"]), texts, min_size=1))
def test_patch_makes_the_same(
    tmp_path: Path, monkeypatch_module: pytest.MonkeyPatch, before: dict[str, str], after: dict[str, str]
) -> None:
    monkeypatch_module.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    wanted: dict[str, str | None] = {name: after.get(name) for name in {*before, *after}}
    text = difference(tmp_path, dict(before), wanted)
    tree = tmp_path / "tree"
    if "---" in text:
        done = subprocess.run(["patch", "-p1", "-E", "--no-backup-if-mismatch"], cwd=tree, input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, (text, done.stdout)
        assert b"fuzz" not in done.stdout and b"offset" not in done.stdout
    # An empty file has no lines, so a difference cannot say that it is there.
    assert {path.name: path.read_text() for path in tree.iterdir() if path.stat().st_size} == {name: text for name, text in after.items() if text}


@pytest.fixture(scope="module")
def monkeypatch_module() -> object:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_what_is_not_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "binary").write_bytes(b"\0\1")
    (tree / "large").write_text("x\n")

    def act(top: Path) -> None:
        (top / "binary").write_bytes(b"\0\2")
        (top / "latin").write_bytes(b"caf\xe9\n")
        (top / "large").write_text("x\n" * (1 << 20))
        (top / "empty").touch()
        (top / "mode").touch()
        os.mkfifo(top / "fifo")
        os.symlink("to", top / "link")
        (top / "dir").mkdir()

    record, _ = changed(tmp_path / "state/changes", tree, act)
    assert record is not None
    assert find_kept(record.run).diff().splitlines() == [
        "Binary files a/binary and b/binary differ", "added directory dir", "added empty file empty", "added fifo fifo",
        "a/large and b/large differ: larger than 1 MiB", "Binary files /dev/null and b/latin differ", "--- /dev/null", "+++ b/link", "@@ -0,0 +1 @@", "+to",
        "\\ No newline at end of file", "added empty file mode",
    ]  # fmt: skip


def test_no_matcher_of_quadratic_time_sees_a_long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lines than a bound are told as replaced; the control: fewer are matched."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    seen: list[int] = []
    real = difflib.SequenceMatcher

    def counted(junk: None, one: list[str], other: list[str]) -> object:
        seen.append(len(one) + len(other))
        return real(junk, one, other)

    monkeypatch.setattr(difflib, "SequenceMatcher", counted)
    one = "".join(f"{number % 7}\n" for number in range(100_000))
    other = "".join(f"{number % 5}\n" for number in range(100_000))
    text = difference(tmp_path, {"one": one}, {"one": other})
    assert text.count("\n-") > 90_000 and text.count("\n+") > 90_000 and seen == []
    difference(tmp_path, {"one": one[:1000]}, {"one": other[:1000]})
    assert len(seen) == 1 and seen[0] <= 1000


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("plain/name", "plain/name"), ("with space", "with space"), ("é", "é"), ("a\nb", '"a\\nb"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"'),
        ("\x1b[2J", '"\\033[2J"'),
        ("bad\udcff", '"bad\\377"'), ("\u202egpj", '"\\342\\200\\256gpj"'),
    ],
)  # fmt: skip
def test_names_are_quoted_as_git_does(path: str, quoted: str) -> None:
    assert quote(path) == quoted
