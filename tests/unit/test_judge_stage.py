"""Links and races that would lead out of a package, and the stage: private, whole, and gone in the end, whoever is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.judge.errors import PackageError
from sandbox.judge.package import confine, places, yaml_source
from sandbox.judge.package.confine import LinkError, Tree
from sandbox.judge.package.places import make_place, place_of, stage_path
from sandbox.judge.package.read import open_stage, read_package
from sandbox.judge.problem import cases_of
from tests.conftest import ROOT
from tests.unit.judge_packages import LEGACY, NEW, Link, make_package


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def left() -> list[str]:
    return sorted(os.listdir(stage_path())) if os.path.isdir(stage_path()) else []


# ---- links -------------------------------------------------------------------------------------------------------


def secret_package(tmp_path: Path, link: str) -> str:
    (tmp_path / "secret").write_text("secret")
    root = make_package(tmp_path, LEGACY)
    os.symlink(link, f"{root}/x")
    return root


@pytest.mark.parametrize("link", ["../secret", "data/../../secret", "data/sample/../../../secret", "../sum/../secret", "d/secret", "./.././secret"])
def test_no_link_leads_out(link: str, tmp_path: Path) -> None:
    root = secret_package(tmp_path, link)
    os.symlink("..", f"{root}/d")
    # The control: the system would follow it.
    assert Path(root, "x").read_text() == "secret"
    with Tree(root) as tree, pytest.raises(LinkError, match="leads out of the package"):
        tree.read("x", 100, "it")


def test_no_path_leads_out(tmp_path: Path) -> None:
    root = secret_package(tmp_path, "nothing")
    with Tree(root) as tree, pytest.raises(LinkError):
        tree.read("data/../../secret", 100, "it")


def test_links_inside_are_followed_and_named(tmp_path: Path) -> None:
    root = secret_package(tmp_path, "data/./sample//../secret/01.in")
    os.symlink("data/secret", f"{root}/d")
    with Tree(root) as tree:
        assert tree.read("x", 100, "it") == b"2 2\n"
        assert tree.host_path("d/01.in") == f"{root}/data/secret/01.in"


def test_chain_of_links_ends(tmp_path: Path) -> None:
    root = secret_package(tmp_path, "l0")
    for number in range(60):
        os.symlink(f"l{number + 1}", f"{root}/l{number}")
    Path(root, "l60").write_text("end")
    with Tree(root) as tree, pytest.raises(LinkError, match="round in a circle"):
        tree.read("x", 100, "it")


def test_long_links_end(tmp_path: Path) -> None:
    root = secret_package(tmp_path, "./" * 2000 + "y")
    os.symlink("./" * 2000 + "z", f"{root}/y")
    os.symlink("./" * 2000 + "x", f"{root}/z")
    with Tree(root) as tree, pytest.raises(LinkError, match=r"too many steps|circle"):
        tree.read("x", 100, "it")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_special_files_are_not_opened(kind: str, tmp_path: Path) -> None:
    root = make_package(tmp_path, LEGACY)
    path = f"{root}/submissions/accepted/b.py"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    else:
        pytest.skip("only root makes devices")
    with pytest.raises(PackageError, match="neither file nor directory"):
        read_package(root)


def test_a_directory_swapped_for_a_link_while_it_is_read_leads_nowhere(tmp_path: Path) -> None:
    """A race: between a look and an open the directory becomes a link to a place outside. 2000 readings against a thread that swaps."""
    root = make_package(tmp_path, {**LEGACY, "data/secret/01.in": "inside"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "01.in").write_text("secret")
    os.symlink(outside, f"{root}/link")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(f"{root}/data/secret", f"{root}/away")
            os.rename(f"{root}/link", f"{root}/data/secret")
            os.rename(f"{root}/data/secret", f"{root}/link")
            os.rename(f"{root}/away", f"{root}/data/secret")

    found: dict[str, int] = {}
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        with Tree(root) as tree:
            for _ in range(2000):
                try:
                    text = tree.read("data/secret/01.in", 100, "it").decode()
                except PackageError:
                    text = "refused"
                found[text] = found.get(text, 0) + 1
    finally:
        stop.set()
        thread.join()
    assert set(found) <= {"inside", "refused"}, found


def test_the_race_is_won_by_a_plain_open(tmp_path: Path) -> None:
    """The control of the race: who looks with lstat and then opens the path reads what is outside, when the swap falls between."""
    root = make_package(tmp_path, {**LEGACY, "data/secret/01.in": "inside"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "01.in").write_text("secret")
    assert stat.S_ISDIR(os.lstat(f"{root}/data/secret").st_mode)
    os.rename(f"{root}/data/secret", f"{root}/away")
    os.symlink(outside, f"{root}/data/secret")
    assert Path(root, "data/secret/01.in").read_text() == "secret"
    with Tree(root) as tree, pytest.raises(LinkError):
        tree.read("data/secret/01.in", 100, "it")


def test_bounds_on_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_package(tmp_path, {**LEGACY, "submissions/accepted/big.c": "x" * 5000})
    monkeypatch.setattr(confine, "MAXIMUM_SOURCE_BYTES", 4000)
    with pytest.raises(PackageError, match="programs of more than 4000 bytes"):
        read_package(root)
    monkeypatch.setattr(confine, "MAXIMUM_ENTRIES", 5)
    with pytest.raises(PackageError, match="more than 5 files"):
        read_package(root)


def test_a_file_that_grows_is_not_read_for_ever(tmp_path: Path) -> None:
    with Tree(make_package(tmp_path, {**LEGACY, "x": "y" * 101})) as tree, pytest.raises(PackageError, match="read it: larger than 100 bytes"):
        tree.read("x", 100, "it")


# ---- the stage ---------------------------------------------------------------------------------------------------


def test_stage_is_private_and_whole(tmp_path: Path) -> None:
    root = make_package(tmp_path, {**NEW, "data/secret/01.files/d/f": "file", "data/secret/02.in": Link("01.in"), "data/secret/02.ans": Link("01.ans")})
    problem = read_package(root)
    with open_stage(problem) as staged:
        (name,) = left()
        assert stat.S_IMODE(os.stat(f"{stage_path()}/{name}").st_mode) == 0o700
        first, second = [each for each in cases_of(staged.data) if not each.sample]
        for case in (first, second):
            for path in (case.input, case.answer):
                assert path.startswith(f"{staged.root}/data/secret/") and not os.path.islink(path)
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o444  # what is above lets nobody in
        assert Path(second.input).read_text() == "2 2\n"
        assert Path(first.files, "d/f").read_text() == "file"
        assert staged.digest != problem.digest
        # What happens to the package now does not matter.
        Path(root, "data/secret/01.in").write_text("other")
        assert Path(first.input).read_text() == "2 2\n"
    assert left() == []


def test_digest_of_a_stage_is_of_contents(tmp_path: Path) -> None:
    root = make_package(tmp_path, NEW)
    problem = read_package(root)

    def digest() -> str:
        with open_stage(problem) as staged:
            return staged.digest

    before = digest()
    assert digest() == before
    Path(root, "data/secret/01.in").write_text("3 2\n")
    assert read_package(root).digest == problem.digest  # as long as before
    assert digest() != before


@pytest.mark.parametrize("spoil", ["remove", "link", "directory"])
def test_package_that_changed_is_refused_and_the_stage_goes(spoil: str, tmp_path: Path) -> None:
    root = make_package(tmp_path, NEW)
    problem = read_package(root)
    path = Path(root, "data/secret/01.in")
    path.unlink()
    if spoil == "link":
        path.symlink_to("/etc/passwd")
    elif spoil == "directory":
        path.mkdir()
    with pytest.raises(PackageError, match=r"No such file|link is absolute|not a regular file"), open_stage(problem):
        pytest.fail("a stage was made")
    assert left() == []


@pytest.mark.parametrize("call", ["write", "mkdir"])
def test_a_full_disk_is_said_with_its_place_and_the_stage_goes(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = read_package(make_package(tmp_path, NEW))
    real = getattr(os, call)

    def full(target: object, *rest: object, **more: object) -> object:
        if call == "write" or str(target).endswith("/data"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(target, *rest, **more)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(SandboxError, match="No space left on device") as caught, open_stage(problem):
        pytest.fail("a stage was made")
    assert stage_path() in str(caught.value) and "XDG_CACHE_HOME" in str(caught.value.hint)
    assert left() == []


def test_an_empty_path_is_no_package_though_the_working_directory_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_package(tmp_path, NEW))
    with pytest.raises(PackageError, match="its path is empty"):
        read_package("")
    assert read_package(".").name == "sum"


def test_names_that_are_longer_together_than_the_system_takes_are_an_error_of_the_package(tmp_path: Path) -> None:
    root = make_package(tmp_path, NEW)
    here = os.open(f"{root}/data/secret", os.O_RDONLY)
    try:
        for _ in range(17):
            os.mkdir("d" * 250, dir_fd=here)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        for suffix in ("in", "ans"):
            os.close(os.open(f"x.{suffix}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
    finally:
        os.close(here)
    with pytest.raises(PackageError, match="File name too long"):
        read_package(root)


def test_stage_goes_when_its_user_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_stage(read_package(make_package(tmp_path, NEW))):
        raise ZeroDivisionError
    assert left() == []


KILLED = """
import os, sys
from sandbox.judge.package.read import open_stage, read_package
with open_stage(read_package(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_stage_of_a_killed_command_is_removed_by_the_next(tmp_path: Path) -> None:
    root = make_package(tmp_path, NEW)
    process = subprocess.Popen([sys.executable, "-c", KILLED, root], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        (theirs,) = left()
        with open_stage(read_package(root)):
            assert theirs in left() and len(left()) == 2  # it lives, so its stage stays
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left() == [theirs]
    with open_stage(read_package(root)):
        assert theirs not in left()
    assert left() == []


def test_a_stage_that_looks_stale_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command removes the directory between its making and its lock."""
    calls = []
    real = fcntl.flock

    def lock(fd: int, operation: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not calls:
            os.rmdir(path)
        calls.append(path)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    place = make_place("stage")
    try:
        assert len(calls) == 2 and place.path == calls[1] != calls[0]
        assert place_of(f"{place.path}/x") is place
    finally:
        place.remove()
        place.remove()
    assert left() == []


def test_what_has_no_name_of_a_place_is_not_removed_as_one(tmp_path: Path) -> None:
    theirs = Path(stage_path(), "precious")
    theirs.mkdir(parents=True)
    stale = Path(stage_path(), "stage-0123456789abcdef")
    stale.mkdir()
    make_place("stage").remove()
    assert left() == ["precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_stage_is_not_made_where_a_strangers_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home the stage is in /tmp, where somebody may have put a link of that name, and what is stale there is removed."""
    (tmp_path / "ours").mkdir()
    link = tmp_path / "link"
    link.symlink_to("ours")
    monkeypatch.setenv("XDG_CACHE_HOME", str(link))
    make_place("stage").remove()
    os.lchown(link, 4711, 4711)
    with pytest.raises(SandboxError, match="link` is somebody else's"):
        make_place("stage")


def test_stage_is_not_made_where_others_write(tmp_path: Path) -> None:
    path = Path(stage_path())
    path.mkdir(parents=True)
    path.chmod(0o777)
    with pytest.raises(SandboxError, match=r"make stage `.*`: others may write to `"), open_stage(read_package(make_package(tmp_path, NEW))):
        pytest.fail("a stage was made")


def test_yaml_of_a_package_is_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_package(tmp_path, {**NEW, "data/secret/01.yaml": "#" * 300})
    monkeypatch.setattr(yaml_source, "MAXIMUM_TOGETHER", 300)
    with pytest.raises(PackageError, match="files of more than 300 bytes together"):
        read_package(root)


def test_a_place_that_is_taken_for_a_stale_one_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command removes what nobody has locked yet, also before it can be opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make, removed = places.make_private, list[str]()

    def make_and_lose(path: str) -> None:
        make(path)
        if len(removed) < 2:
            removed.append(path)
            os.rmdir(path)

    monkeypatch.setattr(places, "make_private", make_and_lose)
    place = places.make_place("stage")
    assert len(removed) == 2 and os.path.isdir(place.path)
    place.remove()
