"""Launches and modules on disk that are not to be believed, or not to be written: an edit of our own code, damage, other owners, races, a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.cli import modules
from sandbox.store import mark_of
from tests.kernel.stored import NOTE, Place, copy_package, make_place

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

Change = Callable[[Place], None]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that may be edited."""
    top = tmp_path_factory.mktemp("copy")
    for path in (top, *top.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)
    return copy_package(top)


@pytest.mark.parametrize(("module", "before", "after", "shown"), [
    ("rootfs/system.py", "ip6-loopback", "ip6-loopbacc", b"ip6-loopbacc"),  # has a part in preparing only
    ("api/stored.py", "def whole(", "def  whole(", b"ip6-loop"),  # has a part in every run
], ids=["preparing", "running"])  # fmt: skip
def test_an_edit_of_our_own_code(tmp_path: Path, copy: Path, module: str, before: str, after: str, shown: bytes) -> None:
    place = Place(tmp_path / "place", copy)
    words = ("cat", "/etc/hosts")
    place.miss(*words)
    place.hit(*words)
    assert place.modules.is_dir() and len(list(place.modules.iterdir())) == 1
    place.hit(*words)
    path = copy / "sandbox" / module
    text = path.read_text()
    try:
        path.write_text(text.replace(before, after, 1))  # in place, its directory is not touched
        assert shown in place.miss(*words).stdout
    finally:
        path.write_text(text)


def test_an_edit_of_a_module_that_is_loaded_from_one_file(tmp_path: Path, copy: Path) -> None:
    place = Place(tmp_path / "place", copy)
    for _ in range(3):
        place.run("true", options=["--name", "x"])
    path = copy / "sandbox" / "cli" / "exec.py"
    text = path.read_text()
    wrong = ("true", "-x")
    assert b"is not KEY=VALUE" in place.run("true", options=["-l", "wrong", "--no-cache"]).stderr, wrong
    try:
        path.write_text(text.replace("is not KEY=VALUE", "is not KEI=VALUE"))
        assert b"is not KEI=VALUE" in place.run("true", options=["-l", "wrong", "--no-cache"]).stderr
    finally:
        path.write_text(text)


def _flip(at: float) -> Change:
    def change(place: Place) -> None:
        path = place.entry()
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 0x10
        path.write_bytes(bytes(content))

    return change


def _cut(share: float) -> Change:
    return lambda place: os.truncate(place.entry(), int(share * place.entry().stat().st_size))


def _longer(place: Place) -> None:
    with open(place.entry(), "ab") as file:
        file.write(b"x" * (8 << 20))


def _mode(mode: int, *, directory: bool = False) -> Change:
    return lambda place: os.chmod(place.launches if directory else place.entry(), mode)


def _linked(place: Place) -> None:
    path = place.entry()
    os.rename(path, place.top / "entry")
    os.symlink(place.top / "entry", path)


def _linked_directory(place: Place) -> None:
    os.rename(place.launches, place.top / "launches")
    os.symlink(place.top / "launches", place.launches)


def _fifo(place: Place) -> None:
    path = place.entry()
    path.unlink()
    os.mkfifo(path, 0o600)


def _a_file_for_the_directory(place: Place) -> None:
    shutil.rmtree(place.launches)
    place.launches.write_text("")


def _another_entry(place: Place) -> None:
    path = place.entry()
    place.miss("echo", "other", options=["-l", "open-files=44"])
    (other,) = (each for each in place.launches.iterdir() if each != path)
    os.replace(other, path)


def _foreign(place: Place) -> None:
    os.chown(place.entry(), 12345, 12345)


def _foreign_directory(place: Place) -> None:
    os.chown(place.launches, 12345, 12345)


AS_ROOT = pytest.param(_foreign, id="another owner", marks=pytest.mark.root)
DIRECTORY_AS_ROOT = pytest.param(_foreign_directory, id="the directory of another owner", marks=pytest.mark.root)


@pytest.mark.parametrize("change", [
    *(pytest.param(_flip(at), id=f"a bit at {at}") for at in (0.0, 0.00005, 0.0001, 0.0002, 0.1, 0.3)),
    *(pytest.param(_cut(share), id=f"cut at {share}") for share in (0.0, 0.0001, 0.001, 0.2)),
    pytest.param(_longer, id="too long"), pytest.param(_mode(0o620), id="written by the group"), pytest.param(_mode(0o602), id="written by others"),
    pytest.param(_mode(0o770, directory=True), id="the directory written by the group"), pytest.param(_linked, id="a link"),
    pytest.param(_linked_directory, id="a linked directory"), pytest.param(_fifo, id="a FIFO"),
    pytest.param(_a_file_for_the_directory, id="no directory"), pytest.param(_another_entry, id="another entry's content"), AS_ROOT, DIRECTORY_AS_ROOT,
])  # fmt: skip
def test_an_entry_that_is_not_to_be_believed(place: Place, change: Change) -> None:
    words = ("sh", "-c", "echo fine; ulimit -n")
    place.miss(*words)
    good = place.hit(*words)
    change(place)
    usable = place.launches.is_dir() and not place.launches.is_symlink() and not stat.S_IMODE(place.launches.stat().st_mode) & 0o022
    usable = usable and place.launches.stat().st_uid == os.geteuid()
    before = place.state()
    done = place.run(*words)
    assert (done.returncode, done.stdout, NOTE.sub(b"", done.stderr)) == (0, good, b"")
    assert (place.state() != before) == usable, "it was believed" if usable else "it was written to"
    if usable:
        assert place.hit(*words) == good


@pytest.mark.parametrize("change", [_flip(0.5), _flip(0.9), _cut(0.9)], ids=["a bit", "a bit late", "cut"])
def test_what_is_decoded_late_may_be_damaged(place: Place, change: Change) -> None:
    """The part that only a denial needs has a digest of its own: then the launch is prepared once more."""
    words = ("sh", "-c", "unshare -U true; echo fine")
    first = place.miss(*words)
    assert b"denied unshare (" in first.stderr
    change(place)
    done = place.run(*words)
    assert (done.returncode, done.stdout) == (0, b"fine\n") and NOTE.sub(b"", done.stderr) == NOTE.sub(b"", first.stderr)


@pytest.mark.parametrize("damage", [b"", b"x", b"sandbox modules 1\n" + bytes(500)], ids=["empty", "short", "wrong"])
def test_damaged_modules_are_not_loaded(place: Place, damage: bytes) -> None:
    place.run("true")
    place.hit("true")
    (path,) = place.modules.iterdir()
    whole = path.read_bytes()
    for content in (damage, whole[:-1], whole[:100000] + bytes([whole[100000] ^ 1]) + whole[100001:]):
        path.write_bytes(content)
        assert place.hit("true") == b""
        made = path.read_bytes()
        assert made != content and len(made) == len(whole), "a run that could not use them writes them anew"


def test_modules_that_others_can_write_are_not_loaded(place: Place) -> None:
    """Its bytes are code: the group's bit alone keeps it from being run."""
    place.run("true")
    place.hit("true")
    (path,) = place.modules.iterdir()
    content = path.read_bytes()
    planted = content.replace(b"is not KEY=VALUE", b"is not KEI=VALUE")
    assert planted != content
    body = planted[modules._HEAD_BYTES :]
    path.write_bytes(modules._MAGIC + mark_of(body) + body)
    assert b"KEI=VALUE" in place.run("true", options=["-l", "wrong"]).stderr, "the code of the file is what runs"
    path.chmod(0o620)
    assert b"KEY=VALUE" in place.run("true", options=["-l", "wrong"]).stderr
    path.chmod(0o600)
    place.modules.chmod(0o770)
    assert b"KEY=VALUE" in place.run("true", options=["-l", "wrong"]).stderr


def test_many_at_once(place: Place) -> None:
    place.run("true", options=["--no-cache"])
    command = [sys.executable, "-I", "-S", str(place.package / "sandbox" / "__main__.py"), "exec", "-q", "--", "echo", "fine"]
    running = [
        subprocess.Popen(command, cwd=place.work, env=place.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    for process in running:
        assert (process.communicate(timeout=120), process.returncode) == ((b"fine\n", b""), 0)
    assert place.hit("echo", "fine", options=["-q"]) == b"fine\n"
    assert len(list(place.launches.iterdir())) == 1


def test_a_full_disk_is_no_error(place: Place) -> None:
    """RLIMIT_FSIZE refuses the writing as a full disk does, with an error instead of a signal where that is ignored."""

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, 130_000))

    place.run("true", options=["--no-cache"])
    command = [sys.executable, "-I", "-S", str(place.package / "sandbox" / "__main__.py"), "exec", "-q", "-l", "file-size=1000", "--", "echo", "fine"]
    done = subprocess.run(command, cwd=place.work, env=place.environ, stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=small, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"fine\n", b"")
    assert place.state() == {}
