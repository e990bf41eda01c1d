"""A4, what is shared stays as it is shared: read-only and all of it, without sockets, leases and locks; and nothing of a run is left."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import (
    Alteration,
    Run,
    drop,
    give,
    in_child,
    insert,
    neighbour,
    no_filter,
    run_payload,
    shared_directory,
)

from sandbox.abi import uapi
from sandbox.api.prepare import Prepared
from sandbox.errors import PolicyError
from sandbox.kernel.probe import probe_landlock
from sandbox.plan import lower_mounts
from sandbox.plan.landlock import RESOLVE_UNIX, landlock_step
from sandbox.plan.root import Bind, RootSpec, Tmpfs
from sandbox.plan.steps import AttachTree, CloneDevice, CloneTree, MountTmpfs, Plan, RestrictLandlock, RootReadOnly

no_landlock: Alteration = drop(RestrictLandlock)


def share(path: Path, **files: str) -> Path:
    """Make a directory with files that the payload owns (`same_user`)."""
    shared_directory(path)
    for name, content in files.items():
        (path / name).write_text(content)
        give(path / name)
    return path


# ---- read-only -------------------------------------------------------------------------------------------------------

ATTACKS = ("create", "write", "truncate", "chmod", "touch", "mark", "link", "remove")


def writable_trees(plan: Plan) -> Plan:
    """Take the read-only attribute off every volume below /data."""

    def swap(step: Any) -> Any:
        if isinstance(step, CloneTree) and step.bind.path.startswith("/data"):
            return replace(step, bind=replace(step.bind, writable=True))
        return step

    return replace(plan, janitor=tuple(map(swap, plan.janitor)), init=tuple(map(swap, plan.init)))


@pytest.mark.parametrize(
    ("alter", "stopped"),
    [
        ((), ATTACKS),
        ((no_landlock,), ATTACKS),
        ((writable_trees,), ("create", "write", "truncate", "link", "remove")),
        ((writable_trees, no_landlock), ()),
    ],
    ids=["whole", "mount attribute alone", "Landlock alone", "none"],
)
def test_a_shared_directory_is_read_only(tmp_path: Path, alter: Sequence[Alteration], stopped: Sequence[str]) -> None:
    """Rule: read-only by the mount, and by Landlock (which knows no chmod, utimes, xattr). The files are the payload's own by uid."""
    host = share(tmp_path / "d", file="untouched")
    before = (host / "file").stat()
    run = run_payload("a4_write.py", "/data", volumes=[f"{host}:/data"], alter=alter, same_user=True)
    assert {name for name in ATTACKS if run[f"{name}-data"] != "ok"} == set(stopped)
    if set(stopped) == set(ATTACKS):
        after = (host / "file").stat()
        assert os.listdir(host) == ["file"] and (host / "file").read_text() == "untouched"
        assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, before.st_nlink)


def in_own_mounts(function: Callable[[], Any]) -> Any:
    """Call a function as a caller who may mount: in user and mount namespaces of its own, with its uid unchanged."""

    def caller() -> Any:
        uid, gid = os.geteuid(), os.getegid()
        libc = ctypes.CDLL(None, use_errno=True)
        flags = uapi.CLONE_NEWNS | (uapi.CLONE_NEWUSER if uid else 0)
        if libc.unshare(flags):
            pytest.fail(f"unshare: {os.strerror(ctypes.get_errno())}")
        if uid:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        if libc.mount(None, b"/", None, ctypes.c_ulong(uapi.MS_REC | uapi.MS_PRIVATE), None):
            pytest.fail(f"mount: {os.strerror(ctypes.get_errno())}")
        return function()

    return in_child(caller)


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "not recursive"])
def test_mounts_below_a_shared_directory_are_read_only_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walled: bool) -> None:
    """Rule: mount_setattr(AT_RECURSIVE): a read-only bind with a tmpfs below it. Removed: AT_RECURSIVE (and Landlock); then the tmpfs is written to."""
    host = share(tmp_path / "d", file="untouched")
    shared_directory(host / "below")
    if not walled:
        real = lower_mounts.set_attributes

        def flat(low: Any, mount: Any, attributes: int, **options: Any) -> None:
            real(low, mount, attributes, **{**options, "recursive": False})

        monkeypatch.setattr(lower_mounts, "set_attributes", flat)

    def attack() -> tuple[Run, list[str]]:
        if ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(host / "below"), b"tmpfs", ctypes.c_ulong(0), b"mode=777"):
            pytest.fail(f"mount: {os.strerror(ctypes.get_errno())}")
        give(host / "below")
        (host / "below" / "file").write_text("untouched")
        give(host / "below" / "file")
        run = run_payload("a4_write.py", "/data", "/data/below", volumes=[f"{host}:/data"], alter=no_landlock, same_user=True)
        return run, os.listdir(host / "below")

    run, left = in_own_mounts(attack)
    assert run["create-data"] == "EROFS"
    assert run["create-data-below"] == ("EROFS" if walled else "ok")
    assert ("made" in left) is not walled


@pytest.mark.parametrize(
    ("alter", "created"),
    [((), False), ((no_landlock,), False), ((drop(RootReadOnly),), False), ((drop(RootReadOnly), no_landlock), True)],
    ids=["whole", "read-only alone", "Landlock alone", "none"],
)
def test_the_root_is_read_only(alter: Sequence[Alteration], created: bool) -> None:
    """Rule: the root tmpfs is sealed: no /etc/ld.so.preload, no new directory beside ours. Two walls, each enough."""
    places = ("/", "/etc", "/dev", "/var/empty", "/home")
    run = run_payload("a4_write.py", *places, alter=alter)
    for name in ("root", "etc", "dev", "home"):
        assert (run[f"create-{name}"] == "ok") is created, name


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "without the attributes"])
def test_no_mount_honours_setuid_or_devices(monkeypatch: pytest.MonkeyPatch, walled: bool) -> None:
    """Rule: every mount nosuid, and nodev but the six nodes; of every mount inside, by /proc's own word. Removed: the attributes."""
    if not walled:
        monkeypatch.setattr(lower_mounts, "SAFE", 0)
    run = run_payload(["/bin/cat", "/proc/self/mountinfo"], profile="default")
    mounts = [(fields[4], set(fields[5].split(","))) for fields in map(str.split, run.out.decode().splitlines())]
    assert len(mounts) > 10
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    weak = {path for path, options in mounts if "nosuid" not in options}
    # A mask in /proc is the node /dev/null, so it is one of the six.
    weak |= {
        path for path, options in mounts if "nodev" not in options and path not in nodes | {"/dev/pts"} and not path.startswith("/proc/")
    }
    assert weak == set() if walled else {"/", "/tmp", "/dev/shm"} <= weak


# ---- sockets, leases -------------------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket of a program outside in a directory that is shared, such as that of D-Bus or Docker."""
    host = shared_directory(tmp_path / "d")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(host / "s"))
        (host / "s").chmod(0o777)
        server.listen()
        yield host, server


def heard(server: socket.socket) -> bool:
    return bool(select.select([server], [], [], 0)[0])


def test_a_socket_cannot_be_shared(listener: tuple[Path, socket.socket]) -> None:
    """Rule: refuse to bind sockets: a read-only bind does not stop connect(2)."""
    host, _ = listener
    with pytest.raises(PolicyError, match="socket"):
        run_payload(["/bin/true"], volumes=[f"{host / 's'}:/run/docker.sock"])


def unmasked(prepared: Prepared) -> Prepared:
    """Take the masks of sockets away."""
    entries = tuple(
        entry for entry in prepared.root.entries if not (isinstance(entry, Bind) and entry.why.startswith("mask of the socket"))
    )
    return replace(prepared, root=replace(prepared.root, entries=entries))


@pytest.mark.parametrize(
    ("profile", "refit", "alter", "reached"),
    [
        ("strict", None, (), False),
        ("default", None, (), False),
        ("python", None, (), False),
        ("strict", unmasked, (), False),
        ("default", None, (no_filter,), False),
        ("default", unmasked, (no_filter,), True),
    ],
    ids=["strict", "default", "python", "strict's filter alone", "mask alone", "none"],
)
def test_a_socket_in_a_shared_directory_is_out_of_reach(
    listener: tuple[Path, socket.socket], profile: str, refit: Any, alter: Sequence[Alteration], reached: bool
) -> None:
    """bubblewrap's README. Rule: sockets in shared directories are masked; strict has no connect at all. Removed: both; then the host is called."""
    host, server = listener
    run = run_payload("a4_connect.py", "/data/s", profile=profile, volumes=[f"{host}:/data:rw"], refit=refit, alter=alter, stdin=b"\n")
    assert (run["connect"] == "ok") is reached
    assert heard(server) is reached


@pytest.mark.parametrize("profile", ["strict", "default"])
def test_a_socket_made_after_the_start(tmp_path: Path, profile: str) -> None:
    """Rule: Landlock's RESOLVE_UNIX where available. The mask is made at the start; a socket that a program outside makes later in a shared directory
    is stopped by strict's filter, and in profiles with `connect` by Landlock from ABI 9 on. On older kernels those reach it: a limit that is documented.
    """
    reached = profile == "default" and probe_landlock() < 9
    host = shared_directory(tmp_path / "d")
    with neighbour("a4_connect.py", "/data/late", profile=profile, volumes=[f"{host}:/data"]) as beside:
        beside.wait_for("ready")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(str(host / "late"))
            (host / "late").chmod(0o777)
            server.listen()
            beside.write(b"\n")
            assert (beside.wait_for("connect") == "ok") is reached
            assert heard(server) is reached


def test_landlock_is_asked_to_refuse_sockets_outside() -> None:
    """The same, for kernels of tomorrow: the ruleset handles RESOLVE_UNIX from ABI 9 on (not before: the kernel would refuse it) and grants it nowhere."""
    root = RootSpec(
        entries=(Tmpfs(path="/tmp", size_bytes=1, inodes=1), Bind(path="/data", source="/", directory=True, writable=True)),
        workdir="/",
        argv0="/x",
    )
    for abi in (8, 9, 10):
        step = landlock_step(root, abi, proc_writable=True)
        assert step is not None and bool(step.handled & RESOLVE_UNIX) is (abi >= 9)
        assert not any(access & RESOLVE_UNIX for _, access in step.rules)


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "without the filter"])
def test_a_lease_on_a_shared_file_is_refused(tmp_path: Path, walled: bool) -> None:
    """Rule: fcntl F_SETLEASE and F_NOTIFY denied: a lease on a file shared read-only stalls whoever opens it for writing. Removed: the filter."""
    host = share(tmp_path / "d", file="content")
    with neighbour("a4_lease.py", "/data/file", volumes=[f"{host}:/data"], alter=() if walled else no_filter, same_user=True) as beside:
        beside.wait_for("ready")
        assert (beside.facts["lease"], beside.facts["notify"]) == (("EPERM", "EPERM") if walled else ("ok", "ok"))
        try:
            os.close(os.open(host / "file", os.O_WRONLY | os.O_NONBLOCK))
            stalled = False
        except BlockingIOError:
            stalled = True
        assert stalled is not walled
        run = beside.end()
    assert run.result.denials.get("fcntl", 0) == (3 if walled else 0)


@pytest.mark.parametrize("policy", ["judge", "strict"])
def test_locks_on_shared_files_carry_nothing_under_judge(tmp_path: Path, policy: str) -> None:
    """isolate 2.4. Rule: no locks on shared inodes where contestants could talk by them. Removed: that rule of `judge`; under `strict` the lock is
    taken and a program outside sees it, which is documented as a covert channel."""
    host = share(tmp_path / "d", file="content")
    with neighbour("a4_lock.py", "/data/file", policy=policy, volumes=[f"{host}:/data"], same_user=True) as beside:
        beside.wait_for("ready")
        with (host / "file").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                noticed = False
            except BlockingIOError:
                noticed = True
        assert noticed is (beside.facts["flock"] == "ok") is (policy == "strict")
        assert (beside.facts["record"] == "ok") is (policy == "strict")


# ---- what is left ----------------------------------------------------------------------------------------------------


def test_litter_dies_with_the_run(tmp_path: Path) -> None:
    """Rule: scratch is a tmpfs that dies with the namespace. A 1500-deep tree, a locked directory and nasty names leave nothing to remove.

    What others of this machine make in the same places meanwhile has other names.
    """
    watched = (Path("/tmp"), Path("/dev/shm"), Path("/home"), Path("/home/user"), tmp_path)
    before = [litter(path) for path in watched]
    run = run_payload("a4_litter.py", "1500", "/tmp", "/home/user")
    assert run["done"] == "yes"
    assert [litter(path) for path in watched] == before


def test_litter_stays_where_scratch_is_the_hosts(tmp_path: Path) -> None:
    """Removed: the tmpfs (a writable volume in its place); then the tree is on the host, and deeper than a path may be long."""
    host = shared_directory(tmp_path / "d")
    run = run_payload("a4_litter.py", "600", "/data", volumes=[f"{host}:/data:rw"], same_user=True)
    assert run["done"] == "yes" and litter(host) == LITTER
    _remove(host)


LITTER = {b"-rf", b"\n", b"\x1b[2J", b"\xff\xfe", b" ", b"*", b"deep", b"locked"}
"""What a4_litter.py leaves in a directory."""


def litter(place: Path) -> set[bytes]:
    """Return what of it is there."""
    return LITTER & set(os.listdir(os.fsencode(place))) if place.exists() else set()


def _remove(top: Path) -> None:
    """Remove what the payload left, by descriptor, as no path is short enough."""
    (top / "locked").chmod(0o700)
    depth = [os.open(top / "deep", os.O_RDONLY | os.O_DIRECTORY)]
    here = depth[0]
    count = 0
    while True:
        try:
            below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        except FileNotFoundError:
            break
        os.close(here)
        here = below
        count += 1
    for _ in range(count):
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = above
        os.rmdir("deeper", dir_fd=here)
    os.close(here)


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "shared"])
def test_shared_memory_is_per_run(tmp_path: Path, walled: bool) -> None:
    """isolate shared /dev/shm until 2.6. Rule: a new tmpfs for every run. Removed: the tmpfs, the same directory in both runs in its place."""
    host = shared_directory(tmp_path / "shm")

    def common(plan: Plan) -> Plan:
        bind = Bind(path="/dev/shm", source=str(host), directory=True, writable=True)
        plan = insert("janitor" if os.geteuid() == 0 else "init", CloneDevice, CloneTree(bind=bind, key="shm"))(plan)
        steps = [
            AttachTree(path="/dev/shm", key="shm") if isinstance(step, MountTmpfs) and step.path == "/dev/shm" else step
            for step in plan.init
        ]
        return replace(plan, init=tuple(steps))

    alter = () if walled else common
    run_payload(["/bin/sh", "-c", "echo note >/dev/shm/note"], alter=alter)
    run = run_payload(["/bin/sh", "-c", "echo note=$(cat /dev/shm/note 2>/dev/null)"], alter=alter)
    assert run["note"] == ("" if walled else "note")
