"""The cache of built programs: what is kept, what is believed, what goes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.judge.cache import Cache, Entry, open_cache, prune
from sandbox.store import open_private

KEY = "a" * 64
OTHER = "b" * 64
FILES = {"a.out": b"\x7fELF", "lib/x.py": b"x = 1\n", "lib/deep/y": b""}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(str(tmp_path / "compiled")) as made:
        yield made


def entry_of(cache: Cache, key: str = KEY) -> Path:
    return Path(cache.directory, key)


def test_what_is_kept_is_found_with_its_bytes_readable_by_whoever_runs_it_and_writable_by_nobody(cache: Cache) -> None:
    assert cache.find(KEY) is None
    made = cache.add(KEY, FILES, {"output": "a warning"})
    assert made == cache.find(KEY) == Entry(key=KEY, directory=str(entry_of(cache) / "files"), notes={"output": "a warning"})
    found = {str(path.relative_to(made.directory)): path for path in Path(made.directory).rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.values()} == {0o555}
    assert stat.S_IMODE(os.stat(entry_of(cache)).st_mode) == 0o700 == stat.S_IMODE(os.stat(cache.directory).st_mode)
    assert cache.said(KEY) == ""


def test_of_two_writers_the_first_wins_and_nothing_is_left_of_the_second(cache: Cache) -> None:
    cache.add(KEY, FILES, {"output": "first"})
    assert cache.add(KEY, FILES, {"output": "second"}).notes["output"] == "first"
    assert sorted(os.listdir(cache.directory)) == [KEY, "lock"]


def change(path: Path, content: bytes) -> None:
    path.chmod(0o755)
    path.write_bytes(content)
    path.chmod(0o555)


def rewrite_manifest(entry: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((entry / "entry.json").read_text())
    change(manifest)
    (entry / "entry.json").write_text(json.dumps(manifest))


def link_over(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


POISON: list[tuple[str, Callable[[Path], object], str]] = [
    ("a byte", lambda e: change(e / "files/a.out", b"\x7fELG"), "`a.out` was changed"),
    ("longer", lambda e: change(e / "files/a.out", b"\x7fELF" * 1000), "`a.out` was changed"),
    ("shorter", lambda e: change(e / "files/lib/x.py", b""), "`lib/x.py` was changed"),
    ("a new file", lambda e: (e / "files/sitecustomize.py").write_text("evil"), "`sitecustomize.py` was put there"),
    ("a file beside", lambda e: (e / "more").write_text("evil"), "a file was put beside it"),
    ("a missing file", lambda e: (e / "files/lib/x.py").unlink(), "`lib/x.py` is missing"),
    ("a symbolic link", lambda e: link_over(e / "files/a.out", "/bin/true"), "`a.out` is a link or no file"),
    ("a hard link", lambda e: os.link(e / "files/a.out", e.parent / "outside"), "`a.out` is not the caller's alone"),
    ("a fifo", lambda e: (e / "files/a.out").unlink() or os.mkfifo(e / "files/a.out"), "`a.out` is a link or no file"),
    ("a writable file", lambda e: (e / "files/a.out").chmod(0o777), "`a.out` is not the caller's alone"),
    ("another mode", lambda e: (e / "files/a.out").chmod(0o4555), "the mode of `a.out` was changed"),
    ("a writable directory", lambda e: (e / "files/lib").chmod(0o777), "the mode or owner of `lib/` was changed"),
    ("a writable entry", lambda e: e.chmod(0o777), "somebody else can write to it"),
    ("no manifest", lambda e: (e / "entry.json").unlink(), "No such file or directory"),
    ("half a manifest", lambda e: (e / "entry.json").write_text('{"schema": 1, "fi'), "`entry.json` is damaged"),
    ("a deep manifest", lambda e: (e / "entry.json").write_text("[" * 100_000), "`entry.json` is damaged"),
    ("no text", lambda e: (e / "entry.json").write_bytes(b'{"key": "\xff"}'), "`entry.json` is damaged"),
    ("an endless number", lambda e: (e / "entry.json").write_text("9" * 5000), "`entry.json` is damaged"),
    ("another schema", lambda e: rewrite_manifest(e, lambda m: m.update(schema=0)), "it is of another form"),
    ("odd files", lambda e: rewrite_manifest(e, lambda m: m.update(files=3)), "it is of another form"),
    ("no facts", lambda e: rewrite_manifest(e, lambda m: m["files"].update({"a.out": 3})), "`entry.json` is damaged"),
    ("facts of another form", lambda e: rewrite_manifest(e, lambda m: m["files"].update({"a.out": ["4", ""]})), "`entry.json` is damaged"),
    ("an endless size", lambda e: rewrite_manifest(e, lambda m: m["files"].update({"a.out": [10**30, ""]})), "`a.out` was changed"),
    ("a size that is no number", lambda e: rewrite_manifest(e, lambda m: m["files"].update({"a.out": [float("inf"), ""]})), "`entry.json` is damaged"),
    ("another key", lambda e: rewrite_manifest(e, lambda m: m.update(key=OTHER)), "it is the entry of another program, `bbbbbbbbbbbb`"),
    ("a name that leads out", lambda e: rewrite_manifest(e, lambda m: m["files"].update({"../../x": [0, ""]})), "`../../x` is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "poison", "reason"), POISON, ids=[what for what, _, _ in POISON])
def test_what_was_changed_is_not_believed_and_is_made_again(cache: Cache, what: str, poison: Callable[[Path], object], reason: str) -> None:
    cache.add(KEY, FILES, {})
    assert cache.find(KEY) is not None
    poison(entry_of(cache))
    assert cache.find(KEY) is None
    assert cache.said(KEY) == f"compiled program `{KEY[:12]}`: {reason}; it is made again" and cache.said(KEY) == ""
    assert not entry_of(cache).exists()
    cache.add(KEY, FILES, {})
    assert cache.find(KEY) is not None


def test_an_entry_under_anothers_key_is_not_believed(cache: Cache) -> None:
    cache.add(KEY, FILES, {})
    os.rename(entry_of(cache), entry_of(cache, OTHER))
    assert cache.find(OTHER) is None and "another program" in cache.said(OTHER)


def test_an_entry_that_is_a_link_or_a_file_is_not_believed(cache: Cache, tmp_path: Path) -> None:
    entry_of(cache).symlink_to(tmp_path)
    assert cache.find(KEY) is None and tmp_path.is_dir()
    entry_of(cache).write_text("")
    assert cache.find(KEY) is None and not entry_of(cache).exists()


@pytest.mark.root
def test_what_belongs_to_somebody_else_is_not_believed(cache: Cache) -> None:
    for path in ("", "files", "files/lib", "files/a.out", "entry.json"):
        cache.add(KEY, FILES, {})
        os.lchown(entry_of(cache) / path, 65534, 65534)
        assert cache.find(KEY) is None, path
        assert cache.said(KEY) and not entry_of(cache).exists()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(SandboxError, match="as a cache of compiled programs: others may write to `"):
        Cache(str(tmp_path))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(SandboxError):
        Cache(str(link))
    with pytest.raises(SandboxError, match="neither XDG_CACHE_HOME nor HOME"):
        open_cache({})


def test_a_directory_that_others_can_put_another_in_the_place_of_is_refused(tmp_path: Path) -> None:
    """Nothing but the way to it is theirs: they would swap it between the check of an entry and its use."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    environ = {"XDG_CACHE_HOME": str(shared / "mine")}
    for keep in (True, False):
        with pytest.raises(SandboxError, match="everybody may write to `"):
            open_cache(environ, keep=keep)
    shared.chmod(0o1777)  # as /tmp: what is ours there is ours to rename
    with open_cache(environ) as cache:
        assert cache.add(KEY, FILES, {}) == cache.find(KEY)
    shared.chmod(0o777)
    with pytest.raises(SandboxError, match="everybody may write to `"):
        open_cache(environ)


def test_without_a_home_what_is_not_kept_lies_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_cache({}, keep=False) as cache:
        assert cache.add(KEY, FILES, {}) == cache.find(KEY) and cache.directory.startswith(str(tmp_path))
    assert list(tmp_path.rglob(KEY)) == []


def test_closing_removes_what_is_old_or_too_much_but_not_under_somebody_elses_feet(tmp_path: Path) -> None:
    directory = str(tmp_path / "compiled")
    first = Cache(directory, bytes_limit=10_000)
    for at, key in enumerate("cde"):
        first.add(key * 64, {"f": bytes(4000)}, {})
        os.utime(Path(directory, key * 64, "entry.json"), (time.time() - 1000 + at,) * 2)
    os.mkdir(Path(directory, ".new-left"))
    second = Cache(directory)
    first.close()
    assert {"c" * 64, "d" * 64, "e" * 64, ".new-left"} < set(os.listdir(directory))
    second.close()  # with a larger limit: only what a killed writer left
    assert sorted(os.listdir(directory)) == ["c" * 64, "d" * 64, "e" * 64, "lock"]
    Cache(directory, bytes_limit=10_000).close()
    assert sorted(os.listdir(directory)) == ["d" * 64, "e" * 64, "lock"]
    os.utime(Path(directory, "d" * 64, "entry.json"), (1, 1))
    assert prune(directory, bytes_limit=1 << 30, age_limit_ns=10**9 * 10**6) == 1
    assert sorted(os.listdir(directory)) == ["e" * 64, "lock"]


def test_a_private_cache_ends_with_its_process_and_that_of_a_killed_one_with_the_next(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    base = tmp_path / "sandbox" / "judge" / "private"
    killed = os.fork()
    if not killed:
        open_cache(environ, keep=False).add(KEY, FILES, {})
        os._exit(0)
    os.waitpid(killed, 0)
    (left,) = os.listdir(base)
    with open_cache(environ, keep=False) as one, open_cache(environ, keep=False) as two:
        assert sorted(os.listdir(base)) == sorted(os.path.basename(each.directory) for each in (one, two)) and left not in os.listdir(base)
        assert one.find(KEY) is None
    assert os.listdir(base) == []


@pytest.mark.parametrize("mask", [0, 0o027, 0o777])
def test_directories_are_the_callers_alone_whatever_the_umask(mask: int, tmp_path: Path) -> None:
    """With 0 everybody could put another cache in its place; with 0777 nobody could use it, not even later."""
    before = os.umask(mask)
    try:
        fd = open_private(str(tmp_path / "a/b/c"))
    finally:
        os.umask(before)
    assert fd is not None
    os.close(fd)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3


def test_a_private_cache_that_is_taken_away_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands begin at once, and one takes the other's for that of a killed one."""
    real, taken = fcntl.flock, list[str]()

    def lock(fd: int, operation: int) -> None:
        if not taken:
            taken.append(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
            shutil.rmtree(taken[0])
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    with Cache(str(tmp_path / "private"), private=True) as cache:
        assert taken[0] != cache.directory
        assert cache.add(KEY, FILES, {}) == cache.find(KEY)
    assert os.listdir(tmp_path / "private") == []


def test_nothing_is_left_of_an_entry_that_cannot_be_written(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sandbox.judge.cache_entry.os.fchmod", full)
    with pytest.raises(SandboxError, match=r"keep a compiled program in .*: No space left on device \(ENOSPC\)"):
        cache.add(KEY, FILES, {})
    assert os.listdir(cache.directory) == ["lock"]
