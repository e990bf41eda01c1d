"""Volumes and the working directory: what may be shared, what is refused and in which words."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import PolicyError
from sandbox.plan.root import Bind
from sandbox.policy.profile import Profile, Volume
from sandbox.rootfs import sockets
from sandbox.rootfs.sockets import find_private, find_sockets
from sandbox.rootfs.volumes import check_volume, parse_volume, protected_paths

PACKAGE = os.path.dirname(os.path.realpath(sandbox.__file__))


@pytest.mark.parametrize(
    ("text", "source", "target", "writable"),
    [
        ("/a", "/a", "/a", False),
        (".", "/cwd", "/cwd", False),
        (".:rw", "/cwd", "/cwd", True),
        ("sub/../x:ro", "/cwd/x", "/cwd/x", False),
        ("/a:/b", "/a", "/b", False),
        ("/a:/b:rw", "/a", "/b", True),
        ("/a:/b//c/", "/a", "/b/c", False),
        ("./rw", "/cwd/rw", "/cwd/rw", False),
        ("a/b", "/cwd/a/b", "/cwd/a/b", False),
        ("..:/up", "/", "/up", False),
        (".hidden:/h:rw", "/cwd/.hidden", "/h", True),
    ],
)
def test_parse_volume(text: str, source: str, target: str, writable: bool) -> None:
    assert parse_volume(text, "/cwd") == Volume(source=source, target=target, writable=writable, origin=f"option `-v {text}`")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "volume `` is not of the form SRC[:DST][:ro|rw]", None),
        (":/x", "volume `:/x` is not of the form SRC[:DST][:ro|rw]", None),
        ("/a:", "volume `/a:` is not of the form SRC[:DST][:ro|rw]", None),
        ("/a:/b:wr", "volume `/a:/b:wr` is not of the form SRC[:DST][:ro|rw]", "`wr` is neither `ro` nor `rw`"),
        ("/a:/b:/c:rw", "volume `/a:/b:/c:rw` is not of the form SRC[:DST][:ro|rw]", None),
        ("/a:b", "path `b` must be absolute", None),
        ("/a:RW", "path `RW` must be absolute", None),
        ("/a:/", "`/` cannot be a mount target: the sandbox makes it itself", None),
        ("/", "`/` cannot be a mount target: the sandbox makes it itself", None),
        ("/a:/x/../proc", "`/proc` cannot be a mount target: the sandbox makes it itself", None),
        ("/a:/dev/null", "`/dev/null` cannot be a mount target: the sandbox makes it itself", None),
        ("/sys", "`/sys` cannot be a mount target: the sandbox makes it itself", None),
        ("/a:/\nb", "`option `-v /a:/\nb`` contains a control character", None),
        ("/a\0:/b", "volume contains a NUL byte", None),
    ],
)
def test_parse_volume_refuses(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_volume(text, "/cwd")
    assert caught.value.message == message and caught.value.hint == hint
    assert caught.value.origin == f"option `-v {text}`"


def test_check_volume_resolves_the_source_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    bind = check_volume(Volume(source=f"{tmp_path}/link", target="/in", origin="here"), {})
    assert bind == Bind(path="/in", source=f"{tmp_path}/real", directory=True, why="here")
    assert check_volume(Volume(source=f"{tmp_path}/file", target="/in"), {}).directory is False


def test_check_volume_refuses_what_no_flag_makes_harmless(tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "fd").symlink_to("/proc/self/fd")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        table = {
            f"{tmp_path}/none": "No such file or directory (ENOENT)",
            f"{tmp_path}/root": "it is the host's whole file system",
            "/proc/1": "it lies in the host's `/proc`",
            "/sys": "it lies in the host's `/sys`",
            "/dev/null": "it lies in the host's `/dev`",
            f"{tmp_path}/s": "it is a socket: whoever reaches it talks to a program outside, read-only or not",
            f"{tmp_path}/fifo": "it is a FIFO: its other end is outside",
        }
        for source, reason in table.items():
            with pytest.raises(PolicyError) as caught:
                check_volume(Volume(source=source, target="/in", origin="here"), {})
            assert caught.value.message == f"share `{source}`: {reason}" and caught.value.origin == "here"
    # /proc/self/fd is a different file in each process: whatever it resolves to lies in /proc.
    with pytest.raises(PolicyError, match="it lies in the host's `/proc`"):
        check_volume(Volume(source=f"{tmp_path}/fd", target="/in"), {})
    with pytest.raises(PolicyError, match="volume source `rel` must be an absolute path"):
        check_volume(Volume(source="rel", target="/in"), {})
    with pytest.raises(PolicyError, match="`/proc` cannot be a mount target"):
        check_volume(Volume(source=str(tmp_path), target="/proc"), {})


def _protected(tmp_path: Path) -> dict[str, str]:
    profile = Profile(name="p", description="d", path=f"{tmp_path}/own/p.toml", policy="strict", sources=(f"{tmp_path}/base/b.toml",))
    return protected_paths(profile, {"XDG_CONFIG_HOME": f"{tmp_path}/config"}, (f"{tmp_path}/home",))


def test_nothing_that_decides_over_the_next_run_is_writable(tmp_path: Path) -> None:
    for name in ("config", "home/.config", "home/.local/state", "home/.cache", "own", "base", "free"):
        (tmp_path / name).mkdir(parents=True)
    protected = _protected(tmp_path)
    # The directories called sandbox do not exist: a program that could create them would write its own profile.
    refused = {
        f"{tmp_path}/config": "it contains the sandbox's configuration directory",
        f"{tmp_path}/home": "it contains the sandbox's configuration directory",
        f"{tmp_path}/home/.local": "it contains the sandbox's state directory",
        f"{tmp_path}/home/.cache": "it contains the sandbox's cache directory",
        f"{tmp_path}/own": "it contains a file of this run's profile",
        f"{tmp_path}/base": "it contains a file of this run's profile",
        PACKAGE: "it contains the sandbox's own code",
        f"{PACKAGE}/policy": "it lies in the sandbox's own code",
        os.path.dirname(PACKAGE): "it contains the sandbox's own code",
        os.path.realpath(sys.base_prefix): "",
        os.path.dirname(os.__file__): "it lies in the Python that runs the sandbox",
    }
    for source, reason in refused.items():
        check_volume(Volume(source=source, target="/in"), protected)  # read-only is fine
        with pytest.raises(PolicyError) as caught:
            check_volume(Volume(source=source, target="/in", writable=True), protected)
        assert caught.value.message.startswith(f"share `{source}` writable: {reason}")
        assert caught.value.hint == "share a directory beside it, or share this one read-only"
    assert check_volume(Volume(source=f"{tmp_path}/free", target="/in", writable=True), protected).writable


def test_find_sockets_sees_all_depths_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)  # sun_path is short
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind("a/b/deep")
        two.bind("top")
        scan = find_sockets(str(tmp_path))
    assert scan.complete and sorted(scan.paths) == [f"{tmp_path}/a/b/deep", f"{tmp_path}/fifo", f"{tmp_path}/top"]


def test_find_sockets_leaves_out_installed_trees_below_the_top(tmp_path: Path) -> None:
    top = tmp_path / "node_modules"
    (top / "node_modules").mkdir(parents=True)
    for index in range(5):
        (top / f"node_modules/{index}").touch()
    assert find_sockets(str(top), limit=1).complete and not find_sockets(str(top / "node_modules"), limit=4).complete


def test_find_sockets_says_when_it_stops_early(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"f{index}").touch()
    assert find_sockets(str(tmp_path), limit=20).complete
    assert not find_sockets(str(tmp_path), limit=19).complete
    assert not find_sockets(str(tmp_path), budget_ns=-1).complete
    assert find_sockets(f"{tmp_path}/absent").complete


def test_find_private_finds_group_readable_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name, mode in {"public": 0o644, "group": 0o640, "own": 0o600, "d/deep": 0o640}.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "closed").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("own")
    scan = find_private(str(tmp_path))
    assert sorted(scan.paths) == [f"{tmp_path}/{name}" for name in ("closed", "d/deep", "group", "own")] and scan.complete
    assert not find_private(str(tmp_path), limit=2).complete


@pytest.mark.parametrize("change", ["mode", "new", "gone", "deep"])
def test_find_private_looks_again_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(sockets, "_SETTLED_NS", -(10**18))  # remember at once
    (tmp_path / "d").mkdir()
    for name in ("a", "d/b"):
        (tmp_path / name).touch(mode=0o644)
    own = tmp_path / "own"
    own.touch(mode=0o600)
    first = find_private(str(tmp_path))
    assert find_private(str(tmp_path)) is first and first.paths == (str(own),)
    changed = {"mode": tmp_path / "a", "new": tmp_path, "gone": tmp_path, "deep": tmp_path / "d" / "b"}[change]
    before = changed.stat().st_ctime_ns
    while changed.stat().st_ctime_ns == before:  # a kernel's clock for files ticks every few milliseconds
        if change == "new":
            (tmp_path / "b").touch(mode=0o600)
            (tmp_path / "b").rename(tmp_path / "c")
        elif change == "gone":
            own.unlink(missing_ok=True)
            own.touch()
            own.unlink()
        else:
            changed.chmod(0o600)
    wanted = {"new": {str(own), str(tmp_path / "c")}, "gone": set()}.get(change, {str(own), str(changed)})
    assert set(find_private(str(tmp_path)).paths) == wanted


def test_find_private_does_not_remember_what_changed_a_moment_ago(tmp_path: Path) -> None:
    assert find_private(str(tmp_path)) is not find_private(str(tmp_path))
