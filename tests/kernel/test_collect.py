"""Files out of a sandbox: what was asked for and nothing else, however the program arranges its links, names and sizes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import sandbox
from sandbox.rootfs.collect import collect_files, parse_patterns


def collect(root: Path, *patterns: str, limit: int = 1 << 20) -> tuple[dict[str, bytes], list[str]]:
    """Collect from a directory of the host."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = collect_files(fd, parse_patterns(patterns, "test"), limit)
    finally:
        os.close(fd)
    return dict(found.files), found.skipped


def wide_open(root: Path, path: str) -> bytes:
    """Read as a supervisor without care would: by path."""
    return (root / path).read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with good files and hostile ones, beside a secret."""
    (tmp_path / "secret").write_text("token")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.txt").write_text("token")
    root = tmp_path / "work"
    (root / "out" / "deep").mkdir(parents=True)
    (root / "out" / "a.txt").write_text("a")
    (root / "out" / "deep" / "b.txt").write_text("b")
    (root / "top.txt").write_text("top")
    (root / "link.txt").symlink_to(tmp_path / "secret")
    (root / "out" / "dir").symlink_to(tmp_path / "secrets")
    os.link(tmp_path / "secret", root / "hard.txt")
    os.mkfifo(root / "fifo.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.txt"))
    with open(root / "sparse.txt", "wb") as file:
        file.truncate(2 << 30)
    (root / "new\nline.txt").write_text("n")
    (root / os.fsdecode(b"\xff.txt")).write_text("x")
    return root


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("top.txt",), {"top.txt"}),
        (("out/*.txt",), {"out/a.txt"}),
        (("out/**/*.txt",), {"out/a.txt", "out/deep/b.txt"}),
        (("**/b.txt",), {"out/deep/b.txt"}),
        (("out/**",), {"out/a.txt", "out/deep/b.txt"}),
        (("out",), set()),
        (("./out//a.txt", "top.txt"), {"out/a.txt", "top.txt"}),
        (("*.txt",), {"top.txt", "new\nline.txt", "\udcff.txt"}),
        (("nothing",), set()),
        (("out/dir/key.txt", "link.txt", "hard.txt", "fifo.txt", "socket.txt", "sparse.txt"), set()),
    ],
)
def test_patterns(tree: Path, patterns: tuple[str, ...], expected: set[str]) -> None:
    files, _ = collect(tree, *patterns)
    assert set(files) == expected


def test_what_is_left_out_is_named_and_would_have_leaked(tree: Path) -> None:
    files, skipped = collect(tree, "*.txt")
    assert b"token" not in b"".join(files.values())
    for name in ("link.txt", "hard.txt", "fifo.txt", "socket.txt", "sparse.txt"):
        assert any(text.startswith(f"`{name}`") for text in skipped), name
    # The control: without the care, the same names give the secret.
    assert wide_open(tree, "link.txt") == wide_open(tree, "hard.txt") == wide_open(tree, "out/dir/key.txt") == b"token"


def test_sizes_are_counted_together(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
    files, skipped = collect(tmp_path, "*", limit=250)
    assert set(files) == {"a", "b"} and skipped == ["`c`: 100 bytes, of 250 in all 50 are left"]


def test_trees_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path
    for _ in range(70):
        deep = deep / "d"
        deep.mkdir()
    (deep / "x").write_text("x")
    files, skipped = collect(tmp_path, "**/x")
    assert not files and len(skipped) == 1 and skipped[0].endswith("nested too deep")
    monkeypatch.setattr("sandbox.rootfs.collect._MAXIMUM_ENTRIES", 10)
    for number in range(20):
        (tmp_path / f"f{number}").write_text("")
    files, skipped = collect(tmp_path, "f*")
    assert len(files) <= 10 and "more than 10 names" in skipped


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "."])
def test_patterns_that_lead_out_are_refused(pattern: str) -> None:
    with pytest.raises(sandbox.PolicyError, match="below the working directory"):
        parse_patterns([pattern], "test")
    with pytest.raises(TypeError):
        parse_patterns("out.txt", "test")


@pytest.mark.userns
@pytest.mark.seccomp
@pytest.mark.notify
class TestRuns:
    """Real ones."""

    HOSTILE = "echo good > out.txt; ln -s /etc/passwd link.txt; mkfifo fifo.txt; ln out.txt hard.txt; mkdir d; echo d > d/e.txt; sleep 60 & exit 0"

    def test_run_collects_after_the_end(self) -> None:
        script = "mkdir out; echo 42 > out/answer.txt; ln -s /etc/passwd out/evil.txt; echo $$ > unasked"
        result = sandbox.run(["sh", "-c", script], collect=["out/*.txt"])
        assert result.ok and dict(result.files) == {"out/answer.txt": b"42\n"}
        assert [note for note in result.notes if note.startswith("not collected")] == [
            "not collected: `out/evil.txt`: a link or no regular file"
        ]
        assert "files" not in result.to_dict()

    def test_files_of_a_run_that_was_killed(self) -> None:
        result = sandbox.run(["sh", "-c", "echo partial > log; exec yes"], limits={"output": "1M"}, collect=["log"])
        assert result.verdict == "output-limit" and dict(result.files) == {"log": b"partial\n"}

    def test_a_survivor_writes_nothing_any_more(self) -> None:
        script = "echo one > log; (while :; do echo more >> log; done) & while [ ! -s log ]; do :; done; exit 0"
        first = sandbox.run(["sh", "-c", script], collect=["log"], collect_limit="64M")
        assert first.ok and dict(first.files)["log"].startswith(b"one\n")

    def test_files_come_with_every_way_to_run(self) -> None:
        with sandbox.Sandbox() as box:
            assert box.run(["sh", "-c", "echo x > f"], collect=["f"]).files == {"f": b"x\n"}
            with box.popen(["sh", "-c", "echo y > f"], collect=["f"]) as process:
                process.communicate()
                assert process.wait().files == {"f": b"y\n"}
            found = [result.files["f"] for result in box.map(["sh", "-c", "cat > f"], ["1", "2"], collect=["f"])]
            assert found == [b"1", b"2"]

    def test_wrong_arguments_start_nothing(self) -> None:
        with pytest.raises(sandbox.PolicyError):
            sandbox.run(["true"], collect=["/etc/passwd"])
        with pytest.raises(sandbox.PolicyError, match="collect_limit"):
            sandbox.run(["true"], collect=["x"], collect_limit="lots")


def test_names_and_notes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files deep down cost the program an inode each, and us their whole path."""
    monkeypatch.setattr("sandbox.rootfs.collect._MAXIMUM_NAMES", 100)
    for number in range(300):
        (tmp_path / f"{number:020}").touch()
    files, skipped = collect(tmp_path, "*")
    assert len(files) == 5
    assert len(skipped) == 101 and "longer than 100 characters" in skipped[0] and skipped[-1] == "and 195 more"


@pytest.mark.userns
def test_notes_are_harmless_for_a_terminal() -> None:
    result = sandbox.run(["sh", "-c", "ln -s x \"$(printf 'a\\033[2Jb')\""], collect=["*"])
    (note,) = [note for note in result.notes if note.startswith("not collected")]
    assert note == "not collected: `a\\x1b[2Jb`: a link or no regular file"
