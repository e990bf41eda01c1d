"""The root of a run: system, /etc, working directory, files, environment, and what must not be in it."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, Directory, FileBytes, RootSpec, Symlink, Tmpfs
from sandbox.policy.profile import CwdMode, Profile, Volume
from sandbox.policy.profile_load import load_profile
from sandbox.rootfs import system
from sandbox.rootfs.environment import compose_environment
from sandbox.rootfs.host import build_root_spec
from sandbox.rootfs.submounts import Mounts
from sandbox.rootfs.view import View


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("strict")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/proj").mkdir(parents=True)
    return tmp_path / "home"


def build(profile: Profile, home: Path, *, cwd: Path | str | None = None, argv: tuple[str, ...] = ("sh",), **more: object) -> RootSpec:
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return build_root_spec(profile, argv=argv, cwd=str(cwd) if cwd else None, environ=environ, **{"is_root": False, **more})[0]  # type: ignore[arg-type]


def entries(spec: RootSpec) -> dict[str, object]:
    assert len({entry.path for entry in spec.entries}) == len(spec.entries)
    return {entry.path: entry for entry in spec.entries}


def test_the_root_holds_system_scratch_and_a_synthetic_etc_only(profile: Profile, home: Path) -> None:
    spec = build(profile, home)
    found = entries(spec)
    assert spec.workdir == "/home/user" and spec.notes == ()
    assert spec.argv0 in ("/usr/bin/sh", "/bin/sh")
    tops = {path.split("/")[1] for path in found}
    assert tops <= {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "home", "tmp", "run", "var"}
    usr = found["/usr"]
    assert isinstance(usr, Bind) and usr.source == "/usr" and not usr.writable
    assert found["/tmp"] == Tmpfs(path="/tmp", size_bytes=64 << 20, inodes=8192)
    assert found["/home/user"] == Tmpfs(path="/home/user", size_bytes=64 << 20, inodes=8192, mode=0o700)
    assert found["/run"] == Directory(path="/run") and found["/var/tmp"] == Symlink(path="/var/tmp", target="/tmp")
    texts = {path: entry.content.decode() for path, entry in found.items() if isinstance(entry, FileBytes)}
    assert texts["/etc/passwd"].splitlines()[1] == "user:x:1000:1000:user:/home/user:/bin/sh"
    assert texts["/etc/group"] == "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"
    assert texts["/etc/hosts"].startswith("127.0.0.1 localhost sandbox\n") and texts["/etc/hostname"] == "sandbox\n"
    assert texts["/etc/resolv.conf"] == "" and "hosts: files\n" in texts["/etc/nsswitch.conf"]
    assert not any(isinstance(entry, Bind) and entry.writable for entry in spec.entries)


def test_merged_usr_links_are_recreated_and_leading_out_are_shared(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    names = ("bin", "lib", "usr", "file", "absent")
    view = View()
    system._add_system(view, replace(profile, system=tuple(f"{tmp_path}/{name}" for name in names)))
    assert view.entries[f"{tmp_path}/bin"] == Symlink(path=f"{tmp_path}/bin", target="usr/bin")
    lib = view.entries[f"{tmp_path}/lib"]
    assert isinstance(lib, Bind) and lib.source == f"{tmp_path}/elsewhere"
    assert set(view.entries) == {f"{tmp_path}/{name}" for name in ("bin", "lib", "usr")}


def test_etc_shares_only_what_others_may_read(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = tmp_path / "etc"
    (etc / "certs").mkdir(parents=True)
    for name, mode in {"public": 0o644, "secret": 0o640, "certs/ok.pem": 0o644, "certs/key.pem": 0o640, "java-1-openjdk": 0o644}.items():
        (etc / name).write_text("x")
        (etc / name).chmod(mode)
    (etc / "certs/private").mkdir(mode=0o710)
    (etc / "closed").mkdir(mode=0o750)
    (etc / "out").symlink_to(tmp_path)
    view = View()
    # The checks look at the real /etc by name; here another tree stands in for it.
    monkeypatch.setattr(system, "is_within", lambda path, top: path.startswith(str(etc)) if top == "/etc" else path.startswith(top))
    for name in ("public", "secret", "certs", "closed", "out", "absent"):
        system._add_etc(view, str(etc / name))
    assert {path.removeprefix(f"{etc}/") for path in view.entries} == {"public", "certs", "certs/key.pem", "certs/private"}
    key = view.entries[f"{etc}/certs/key.pem"]
    assert isinstance(key, Bind) and key.source == "/dev/null"
    assert isinstance(view.entries[f"{etc}/certs/private"], Tmpfs)


def test_a_link_in_etc_stays_a_link_when_its_end_is_visible(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/zone").touch()
    (tmp_path / "localtime").symlink_to("usr/zone")
    view = View()
    view.add(Bind(path=f"{tmp_path}/usr", source=f"{tmp_path}/usr", directory=True))
    system._add_etc(view, f"{tmp_path}/localtime")
    assert view.entries[f"{tmp_path}/localtime"] == Symlink(path=f"{tmp_path}/localtime", target=f"{tmp_path}/usr/zone")


def test_the_working_directory_is_shared_at_the_same_path(profile: Profile, home: Path) -> None:
    spec = build(profile, home, cwd=home / "proj")
    assert spec.workdir == f"{home}/proj" and spec.notes == ()
    assert entries(spec)[f"{home}/proj"] == Bind(path=f"{home}/proj", source=f"{home}/proj", directory=True, why="working directory")
    writable = entries(build(replace(profile, cwd=CwdMode.WRITABLE), home, cwd=home / "proj"))[f"{home}/proj"]
    assert isinstance(writable, Bind) and writable.writable
    spec = build(replace(profile, cwd=CwdMode.NO), home, cwd=home / "proj")
    assert spec.workdir == "/home/user" and f"{home}/proj" not in entries(spec) and spec.notes == ()


@pytest.mark.parametrize(
    ("cwd", "reason"),
    [
        ("/", "it is the host's root"),
        ("{home}", "it is a home directory; start from a directory in it, or share what is needed with `-v`"),
        ("{home}/..", "it contains the home directory; start from a directory in it, or share what is needed with `-v`"),
        ("/tmp", "it contains the home directory; start from a directory in it, or share what is needed with `-v`"),
        ("/var", "the sandbox has its own there; start from a directory in it"),
        ("/etc/ssl", "it belongs to the host's system"),
        ("/proc/self", "it belongs to the host's system"),
        ("/run", "it belongs to the host's system"),
        ("/dev", "it belongs to the host's system"),
        ("{home}/absent", "No such file or directory (ENOENT)"),
        ("{home}/file", "it is not a directory"),
        ("{home}/link", "it is a home directory; start from a directory in it, or share what is needed with `-v`"),
    ],
)
def test_some_directories_are_never_shared(profile: Profile, home: Path, cwd: str, reason: str) -> None:
    (home / "file").touch()
    (home / "link").symlink_to(".")
    path = cwd.format(home=home)
    spec = build(profile, home, cwd=path)
    assert spec.workdir == "/home/user"
    assert spec.notes == (f"working directory `{os.path.realpath(path)}` not shared: {reason}",)
    assert os.path.realpath(path) not in {entry.path for entry in spec.entries if isinstance(entry, Bind)}


def test_a_system_directory_is_visible_already(profile: Profile, home: Path) -> None:
    spec = build(profile, home, cwd="/usr/lib")
    assert spec.workdir == "/usr/lib" and spec.notes == () and "/usr/lib" not in entries(spec)


def test_a_volume_on_the_working_directory_decides(profile: Profile, home: Path) -> None:
    volume = Volume(source=f"{home}/proj", target=f"{home}/proj", writable=True, origin="option")
    spec = build(replace(profile, volumes=(volume,)), home, cwd=home / "proj")
    assert spec.workdir == f"{home}/proj"
    assert entries(spec)[f"{home}/proj"] == Bind(path=f"{home}/proj", source=f"{home}/proj", directory=True, writable=True, why="option")
    spec = build(replace(profile, cwd=CwdMode.NO, volumes=(volume,)), home, cwd=home / "proj")
    assert spec.workdir == f"{home}/proj"


def test_a_working_directory_below_var_tmp_takes_the_place_of_the_link(profile: Profile, home: Path, tmp_path: Path) -> None:
    volume = Volume(source=str(home), target="/var/tmp/x", origin="option")
    found = entries(build(replace(profile, volumes=(volume,)), home))
    assert isinstance(found["/var/tmp"], Directory) and isinstance(found["/var/tmp/x"], Bind)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/bin/x", "mount on `/bin/x`: `/bin` is a symbolic link inside"),
        ("/bin", "mount on `/bin`: it is a symbolic link inside"),
        ("/etc", "share on `/etc`: the sandbox makes `/etc/passwd` itself"),
        ("/var", "share on `/var`: the sandbox makes `/var/tmp` itself"),
        ("/etc/passwd/x", "mount on `/etc/passwd/x`: `/etc/passwd` is a file inside"),
        ("/usr/no-such-place", "mount on `/usr/no-such-place`: there is no directory at `/usr/no-such-place`"),
        ("{home}/proj/link/x", "mount on `{home}/proj/link/x`: a symbolic link is at `{home}/proj/link/x`"),
        ("{home}/proj/link", "mount on `{home}/proj/link`: a symbolic link is at `{home}/proj/link`"),
        ("{home}/proj/file", "mount on `{home}/proj/file`: a file is at `{home}/proj/file`"),
    ],
)
def test_bad_targets(profile: Profile, home: Path, target: str, message: str) -> None:
    if target.startswith("/bin") and not os.path.islink("/bin"):
        pytest.skip("/bin is no link on this host")
    (home / "data").mkdir()
    (home / "proj/file").touch()
    (home / "proj/link").symlink_to("/")
    volume = Volume(source=f"{home}/data", target=target.format(home=home), origin="option")
    with pytest.raises(PolicyError) as caught:
        build(replace(profile, volumes=(volume,)), home, cwd=home / "proj")
    assert caught.value.message.startswith(message.format(home=home)) and caught.value.origin == "option"


def test_good_targets(profile: Profile, home: Path) -> None:
    (home / "data").mkdir()
    (home / "proj/data").mkdir()
    targets = ("/data", "/tmp/x", "/home/user/x", "/etc/x", "/usr/share", f"{home}/proj/data")
    volumes = tuple(Volume(source=f"{home}/data", target=target) for target in targets)
    found = entries(build(replace(profile, volumes=volumes), home, cwd=home / "proj"))
    assert all(isinstance(found[target], Bind) for target in targets)
    found = entries(build(replace(profile, volumes=(Volume(source=f"{home}/data", target="/tmp"),)), home))
    assert isinstance(found["/tmp"], Bind)


def test_a_writable_working_directory_is_checked_like_a_volume(profile: Profile, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    (home / ".config").mkdir()
    with pytest.raises(PolicyError, match="writable: it contains the sandbox's configuration directory"):
        build(replace(profile, cwd=CwdMode.WRITABLE), home, cwd=home / ".config")
    assert build(profile, home, cwd=home / ".config").workdir == f"{home}/.config"


def test_sockets_in_shared_directories_are_masked(profile: Profile, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data/own").mkdir(parents=True)
    monkeypatch.chdir(home)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two, socket.socket(socket.AF_UNIX) as three:
        one.bind("proj/agent")
        two.bind("data/bus")
        three.bind("data/own/covered")
        volumes = (Volume(source=f"{home}/data", target="/data"), Volume(source=f"{home}/proj", target="/data/own"))
        shared = replace(profile, volumes=volumes)
        found = entries(build(shared, home, cwd=home / "proj"))
        unmasked = entries(build(shared, home, cwd=home / "proj", mask_sockets=False))
    masks = {path for path, entry in found.items() if isinstance(entry, Bind) and entry.source == "/dev/null"}
    assert masks == {f"{home}/proj/agent", "/data/bus", "/data/own/agent"}
    assert set(found) - set(unmasked) == masks


def test_a_scan_cut_short_is_said(profile: Profile, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sandbox.rootfs.host.find_sockets", lambda top: __import__("sandbox.rootfs.sockets").rootfs.sockets.find_sockets(top, 0)
    )
    (home / "proj/x").touch()
    assert build(profile, home, cwd=home / "proj").notes == (f"`{home}/proj` is too large to look for sockets in all of it",)


def test_files_are_made_in_the_home_inside(profile: Profile, home: Path) -> None:
    spec = build(profile, home, argv=("./run.sh",), files={"run.sh": b"#!/bin/sh\n", "a/b/c.txt": b"x"})
    found = entries(spec)
    assert spec.argv0 == "/home/user/run.sh" and spec.workdir == "/home/user"
    assert found["/home/user/run.sh"] == FileBytes(path="/home/user/run.sh", content=b"#!/bin/sh\n", mode=0o755)
    assert found["/home/user/a/b/c.txt"] == FileBytes(path="/home/user/a/b/c.txt", content=b"x")
    assert found["/home/user/a/b"] == Directory(path="/home/user/a/b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../x": b""}, "make file `../x`: not a relative path inside the working directory"),
        ({"/etc/x": b""}, "make file `/etc/x`: not a relative path inside the working directory"),
        ({"a/../../x": b""}, "make file `a/../../x`: not a relative path inside the working directory"),
        ({"": b""}, "make file ``: not a relative path inside the working directory"),
        ({"a//b": b""}, "make file `a//b`: not a relative path inside the working directory"),
        ({"a/": b""}, "make file `a/`: not a relative path inside the working directory"),
        ({"a\0b": b""}, "make file `a\0b`: not a relative path inside the working directory"),
        ({"x" * 256: b""}, f"make file `{'x' * 256}`: name too long"),
        ({"a": b"", "a/b": b""}, "make file `a`: another file's directory has that name"),
        ({"shared/x": b""}, "make file `shared/x`: a volume is shared there"),
        ({"x": b"y" * 4097}, "make files in `/home/user`: 4097 bytes are more than its limit of 4096"),
        ({str(i): b"" for i in range(16)}, "make files in `/home/user`: 16 files are more than its limit of 16 inodes allows"),
    ],
)
def test_bad_files(profile: Profile, home: Path, files: dict[str, bytes], message: str) -> None:
    small = replace(
        profile,
        limits=replace(profile.limits, home_bytes=4096, home_inodes=16),
        volumes=(Volume(source=str(home), target="/home/user/shared"),),
    )
    with pytest.raises(PolicyError) as caught:
        build(small, home, files=files)
    assert caught.value.message == message


def test_files_are_never_written_to_the_host(profile: Profile, home: Path) -> None:
    with pytest.raises(PolicyError, match=f"make files in `{home}/proj`: it is not a place of the sandbox's own"):
        build(replace(profile, cwd=CwdMode.WRITABLE), home, cwd=home / "proj", files={"x": b""})


def test_environment_is_an_allow_list(profile: Profile) -> None:
    environ = {
        "LANG": "de_DE.UTF-8", "LC_TIME": "C", "TERM": "xterm", "AWS_SECRET_ACCESS_KEY": "s", "LD_PRELOAD": "/x.so", "LCX": "1",
        "HOME": "/root", "USER": "root", "PATH": "/secret/bin", "PYTHONPATH": "/x", "SSH_AUTH_SOCK": "/s", "DBUS_SESSION_BUS_ADDRESS": "d",
    }  # fmt: skip
    env = compose_environment(profile, environ, path="/usr/bin", extra={"VIRTUAL_ENV": "/v"})
    assert env == {
        "LANG": "de_DE.UTF-8", "LC_TIME": "C", "TERM": "xterm", "HOME": "/home/user", "USER": "user", "LOGNAME": "user",
        "PATH": "/usr/bin", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "VIRTUAL_ENV": "/v",
    }  # fmt: skip
    assert compose_environment(profile, {}, path="/b", extra={})["LANG"] == "C.UTF-8"
    wild = replace(profile, env_pass=("*",), env_set=(("PATH", "/mine"), ("X", "1")))
    env = compose_environment(wild, environ, path="/b", extra={})
    assert env["PATH"] == "/mine" and env["X"] == "1" and "LD_PRELOAD" not in env


def test_root_is_told_what_its_other_user_cannot_read(profile: Profile, home: Path) -> None:
    (home / "proj").chmod(0o700)
    (home / "proj/tool").write_text("#!/bin/sh\n")
    (home / "proj/tool").chmod(0o700)
    spec = build(profile, home, cwd=home / "proj", argv=("./tool",), is_root=True)
    assert spec.notes == (
        f"`{home}/proj` cannot be read inside: the program runs as another user than root; `chmod o+rX` it",
        f"`{home}/proj/tool` cannot be entered or executed inside: the program runs as another user than root; `chmod o+rx` it",
        f"`{home}/proj` cannot be entered or executed inside: the program runs as another user than root; `chmod o+rx` it",
    )
    assert build(profile, home, cwd=home / "proj", argv=("./tool",)).notes == ()
    (home / "out").mkdir(mode=0o755)
    volume = Volume(source=f"{home}/out", target="/out", writable=True)
    spec = build(replace(profile, volumes=(volume,)), home, is_root=True)
    assert spec.notes == (f"`{home}/out` cannot be written inside: the program runs as another user than root; `chmod o+w` it",)


def test_no_command(profile: Profile, home: Path) -> None:
    with pytest.raises(PolicyError, match="no command given"):
        build(profile, home, argv=())


MOUNTINFO = rb"""21 1 0:20 / / rw - ext4 /dev/root rw
22 21 0:21 / /srv/jail/proc rw shared:5 - proc proc rw
23 22 0:22 / /srv/jail/proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
24 21 0:23 / /srv/ja\040il\134x/sys rw - sysfs sysfs rw
25 21 0:24 / /srv/jail/data rw - xfs /dev/b rw
26 21 0:25 / /srv/jail/data rw - tmpfs tmpfs rw
rubbish
"""


def test_kernel_file_systems_are_found_by_mount_point() -> None:
    mounts = Mounts(MOUNTINFO)
    assert mounts.kernel_mounts_below("/srv/jail") == ["/srv/jail/proc"]
    assert mounts.kernel_mounts_below("/srv/jail/proc") == ["/srv/jail/proc/sys/fs/binfmt_misc"]
    assert mounts.kernel_mounts_below("/srv/ja il\\x") == ["/srv/ja il\\x/sys"]
    assert [mounts.kernel_type(path) for path in ("/srv", "/srv/jail/data/x", "/srv/jail/proc/1")] == [None, None, "proc"]


def test_a_kernel_file_system_below_a_share_is_covered_and_one_itself_refused(
    profile: Profile, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "jail" / "proc").mkdir(parents=True)
    line = f"22 21 0:21 / {work}/jail/proc rw - proc proc rw\n"
    monkeypatch.setattr("sandbox.rootfs.host.read_mounts", lambda: Mounts(line.encode()))
    spec = build(profile, home, cwd=work)
    cover = entries(spec)[f"{work}/jail/proc"]
    assert isinstance(cover, Tmpfs) and cover.mode == 0o555
    assert f"`{work}/jail/proc` is hidden inside: it is a file system of the host's kernel" in spec.notes
    with pytest.raises(PolicyError, match="lies in the kernel's file system `proc`"):
        build(replace(profile, volumes=(Volume(source=f"{work}/jail/proc", target="/x"),)), home)
