"""Filling a volume: the merged tree of layers, and the copy of it. Each case is what Docker documents, or the place where we differ on purpose."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.errors import PolicyError, SetupError
from sandbox.volumes import fill as filling
from sandbox.volumes.fill import Filled, fill
from sandbox.volumes.layers import Layers
from sandbox.volumes.place import Target


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, 0)


def opaque(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.setxattr(path, "user.overlay.opaque", b"y")


def make(top: Path, *names: str) -> Path:
    for name in names:
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{top.name}:{name}")
    return top


def tree(top: Path) -> dict[str, str]:
    """Return what a tree holds, by path: text, link or kind."""
    found: dict[str, str] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text() if path.is_file() else "/"
    return found


@contextmanager
def target(volume: Path) -> Iterator[Target]:
    fd = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Target(volume=fd, temporary="fill", parent=fd, name="data", owner=os.geteuid())
    finally:
        os.close(fd)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume/data").mkdir(parents=True)
    return tmp_path / "volume"


def run(volume: Path, *layers: Path, inside: str = "/d", public: bool = False, **options: int) -> Filled | None:
    with target(volume) as to:
        done = fill(to, [str(layer) for layer in layers], inside, public=public, **options)  # type: ignore[arg-type]
    assert sorted(os.listdir(volume)) == ["data"]  # no half of a copy, whatever came of it
    return done


def test_a_whiteout_hides_what_lies_below_and_is_not_copied(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/kept", "d/gone", "d/sub/gone", "d/sub/kept")
    high = make(tmp_path / "high", "d/sub/", "d/new")
    whiteout(high / "d/gone")
    whiteout(high / "d/sub/gone")
    run(volume, high, low)
    assert tree(volume / "data") == {"kept": "low:d/kept", "new": "high:d/new", "sub": "/", "sub/kept": "low:d/sub/kept"}
    # The control: without the whiteouts they are there.
    for name in ("gone", "sub/gone"):
        (high / "d" / name).unlink()
    with Layers([str(high), str(low)]) as layers:
        top = layers.resolve("/d")
        assert top is not None and sorted(layers.list(top, 99).others[1]) == ["gone", "kept"]


def test_an_opaque_directory_hides_the_one_below(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/sub/old", "d/other/old")
    middle = make(tmp_path / "middle", "d/sub/middle")
    high = make(tmp_path / "high", "d/sub/new", "d/other/new")
    opaque(middle / "d/sub")
    run(volume, high, middle, low)
    assert tree(volume / "data") == {
        "other": "/", "other/new": "high:d/other/new", "other/old": "low:d/other/old", "sub": "/", "sub/middle": "middle:d/sub/middle",
        "sub/new": "high:d/sub/new",
    }  # fmt: skip


def test_an_opaque_top_and_an_opaque_parent(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "a/d/old")
    high = make(tmp_path / "high", "a/d/new")
    opaque(high / "a")
    run(volume, high, low, inside="/a/d")
    assert tree(volume / "data") == {"new": "high:a/d/new"}


def test_a_file_over_a_directory_and_a_directory_over_a_file(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/one/below", "d/two")
    high = make(tmp_path / "high", "d/one", "d/two/new")
    run(volume, high, low)
    assert tree(volume / "data") == {"one": "high:d/one", "two": "/", "two/new": "high:d/two/new"}
    # A directory over a file does not join the directory two layers below.
    lowest = make(tmp_path / "lowest", "d/two/old")
    os.rmdir(_emptied(volume))
    (volume / "data").mkdir()
    run(volume, high, low, lowest)
    assert "two/old" not in tree(volume / "data") and "two/new" in tree(volume / "data")


def _emptied(volume: Path) -> Path:
    import shutil

    shutil.rmtree(volume / "data")
    (volume / "data").mkdir()
    return volume / "data"


def test_a_directory_that_is_whited_out_is_absent(tmp_path: Path, volume: Path) -> None:
    low, high = make(tmp_path / "low", "d/x"), make(tmp_path / "high", "e/")
    whiteout(high / "d")
    assert run(volume, high, low) is None and tree(volume / "data") == {}
    assert run(volume, high, low, inside="/nowhere/at/all") is None
    assert run(volume, low, inside="/d") is not None  # the control


def test_links_on_the_way_are_followed_inside_the_layers(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "real/x", "etc/passwd/inside")
    for name, text in (("abs", "/real"), ("rel", "deeper/../real"), ("out", "../../../real"), ("host", "/etc/passwd"), ("loop", "loop")):
        (low / name).symlink_to(text)
    make(low, "deeper/")
    for inside in ("/abs", "/rel", "/out", "/abs/../real", "//real/."):
        run(volume, low, inside=inside)
        assert tree(volume / "data") == {"x": "low:real/x"}
        _emptied(volume)
    run(volume, low, inside="/host")  # the layers' own /etc/passwd, which is a directory; never the host's
    assert tree(volume / "data") == {"inside": "low:etc/passwd/inside"}
    _emptied(volume)
    assert run(volume, low, inside="/loop") is None
    # A link in a layer above hides the directory below it.
    high = make(tmp_path / "high", "other/y")
    (high / "real").symlink_to("other")
    run(volume, high, low, inside="/abs")
    assert tree(volume / "data") == {"y": "high:other/y"}


def test_a_file_in_the_place_is_refused(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d", "e/f")
    (low / "link").symlink_to("d")
    for inside in ("/d", "/link", "/e/f/g"):
        with pytest.raises(PolicyError, match="is a file, or leads to one"):
            run(volume, low, inside=inside)


def test_modes_times_links_and_attributes_are_kept(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/a", "d/sub/b", "d/script")
    os.chmod(low / "d/script", 0o750)
    os.chmod(low / "d/sub", 0o1711)
    os.chmod(low / "d", 0o775)
    os.link(low / "d/a", low / "d/sub/same")
    os.link(low / "d/a", low / "d/again")
    (low / "d/link").symlink_to("/etc/shadow")
    os.setxattr(low / "d/a", "user.mine", b"1")
    for name in ("d/sub", "d/a"):
        os.utime(low / name, ns=(10**18, 10**18 + 7))
    os.utime(low / "d/link", ns=(5, 5), follow_symlinks=False)
    done = run(volume, low)
    data = volume / "data"
    assert done is not None and done.entries == 7 and not done.left
    assert stat.S_IMODE(data.stat().st_mode) == 0o775 and stat.S_IMODE((data / "script").stat().st_mode) == 0o750
    assert stat.S_IMODE((data / "sub").stat().st_mode) == 0o1711 and (data / "sub").stat().st_mtime_ns == 10**18 + 7
    assert (data / "a").samefile(data / "sub/same") and (data / "a").samefile(data / "again") and (data / "a").stat().st_nlink == 3
    assert os.readlink(data / "link") == "/etc/shadow" and (data / "link").lstat().st_mtime_ns == 5
    assert os.getxattr(data / "a", "user.mine") == b"1" and (data / "a").stat().st_mtime_ns == 10**18 + 7


def test_an_empty_directory_gives_its_mode(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/")
    os.chmod(low / "d", 0o1777)
    run(volume, low)
    assert tree(volume / "data") == {} and stat.S_IMODE((volume / "data").stat().st_mode) == 0o1777


def test_set_id_bits_and_special_files_stay_behind(tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = make(tmp_path / "low", "d/suid", "d/sub/sgid")
    os.chmod(low / "d/suid", 0o4755)
    os.chmod(low / "d/sub/sgid", 0o2755)
    os.chmod(low / "d/sub", 0o3777)
    os.mkfifo(low / "d/fifo")
    whiteout(low / "d/whiteout")
    monkeypatch.chdir(low / "d")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        done = run(volume, low)
    data = volume / "data"
    assert sorted(tree(data)) == ["sub", "sub/sgid", "suid"]
    for name, mode in (("suid", 0o755), ("sub/sgid", 0o755), ("sub", 0o1777)):
        assert stat.S_IMODE((data / name).stat().st_mode) == mode
    assert done is not None and sorted(done.left["a device, socket or FIFO"]) == ["fifo", "sock"]
    assert done.notes() == [f"2 entries left out, a device, socket or FIFO: `/{done.left['a device, socket or FIFO'][0]}` and so on"]


def test_only_what_others_may_read_is_taken_of_the_host(tmp_path: Path, volume: Path) -> None:
    """Root would copy a private file for a program that may not read it where it is: the volume's files are its own."""
    low = make(tmp_path / "low", "d/public", "d/group", "d/own", "d/closed/x", "d/open/y")
    for name, mode in (("group", 0o640), ("own", 0o600), ("closed", 0o750), ("public", 0o604)):
        os.chmod(low / "d" / name, mode)
    done = run(volume, low, public=True)
    assert sorted(tree(volume / "data")) == ["open", "open/y", "public"]
    assert done is not None and sorted(done.left["not for others to read"]) == ["closed", "group", "own"]
    _emptied(volume)
    done = run(volume, low, inside="/d/closed", public=True)  # nor what lies behind a closed door
    assert tree(volume / "data") == {} and done is not None and done.notes() == ["not filled: not for others to read"]
    run(volume, low)  # the control: of an image everything is the program's
    assert len(tree(volume / "data")) == 7


def test_holes_stay_holes(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/")
    with open(low / "d/sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"middle")
    done = run(volume, low, most_bytes=1 << 20)  # a limit that the apparent size is far above
    copy = volume / "data/sparse"
    assert copy.stat().st_size == 1 << 40 and copy.stat().st_blocks < 1000
    with open(copy, "rb") as file:
        file.seek(1 << 30)
        assert file.read(7) == b"middle\0"
    assert done is not None and done.size_bytes < 1 << 20


def test_bytes_entries_and_depth_are_bounded(tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = make(tmp_path / "low", *(f"d/{number}" for number in range(20)))
    with pytest.raises(PolicyError, match="fill the volume from `/d`: it has more than 50 B"):
        run(volume, low, most_bytes=50)
    monkeypatch.setattr(filling, "MAXIMUM_ENTRIES", 19)
    with pytest.raises(PolicyError, match="`/d` has more than 19 names"):
        run(volume, low)
    monkeypatch.setattr(filling, "MAXIMUM_ENTRIES", 20)
    run(volume, low)
    _emptied(volume)
    monkeypatch.setattr(filling, "MAXIMUM_DEPTH", 5)
    deep = make(tmp_path / "deep", "d/" + "n/" * 6 + "x")
    with pytest.raises(PolicyError, match="is nested more than 5 deep"):
        run(volume, deep)
    monkeypatch.setattr(filling, "MAXIMUM_DEPTH", 6)
    run(volume, deep)
    assert tree(volume / "data")  # the control of both


def test_a_volume_that_is_not_empty_is_not_replaced(tmp_path: Path, volume: Path) -> None:
    (volume / "data/mine").write_text("mine")
    with pytest.raises(SetupError, match="fill the volume from `/d`"):
        run(volume, make(tmp_path / "low", "d/x"))
    assert tree(volume / "data") == {"mine": "mine"}


def test_names_that_are_no_text_and_long_paths(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", "d/")
    deep = os.fsencode(low / "d")
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(60):  # a path of 12 000 bytes, three times what the kernel takes at once
        os.mkdir(b"\xff" + b"n" * 199, dir_fd=fd)
        below = os.open(b"\xff" + b"n" * 199, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("end", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    done = run(volume, low)
    assert done is not None and done.entries == 61
    from sandbox.volumes.trees import measure_tree, remove_tree

    for top in (volume, low):
        fd = os.open(top, os.O_RDONLY)
        assert measure_tree(fd)[1:] == (62, True) if top == volume else True
        remove_tree(fd, "data" if top == volume else "d")
        os.close(fd)
        assert os.listdir(top) == []


_KILLED = """
import os, sys
from sandbox.volumes import fill as filling
from sandbox.volumes.place import Target
copy = filling._Copy._copy_file
left = int(sys.argv[3])
def counted(self, *words):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    copy(self, *words)
filling._Copy._copy_file = counted
fd = os.open(sys.argv[1], os.O_RDONLY)
filling.fill(Target(volume=fd, temporary="fill", parent=fd, name="data", owner=os.geteuid()), [sys.argv[2]], "/d", public=False)
"""


def test_a_killed_fill_leaves_an_empty_volume_and_the_next_begins_anew(tmp_path: Path, volume: Path) -> None:
    low = make(tmp_path / "low", *(f"d/{number}" for number in range(6)))
    for left in range(6):
        done = subprocess.run([sys.executable, "-c", _KILLED, str(volume), str(low), str(left)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert os.listdir(volume / "data") == [] and len(os.listdir(volume / "fill")) == left
    done_whole = subprocess.run([sys.executable, "-c", _KILLED, str(volume), str(low), "6"], check=False)
    assert done_whole.returncode == 0
    assert len(os.listdir(volume / "data")) == 6 and os.listdir(volume) == ["data"]
