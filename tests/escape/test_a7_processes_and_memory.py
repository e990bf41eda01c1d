"""A7, resources: processes and memory. Each load is bounded itself; it runs against a limit, and again with that limit lifted.

Where a cgroup holds the limits (root here, or a delegated subtree) everything below is caught. Where rlimits and sampling stand in, some loads are not, and the
tests say which: memory that no process maps. The result of such a run must then say so in words.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from escape.support import Alteration, Run, drop, neighbour, run_payload

from sandbox.plan.steps import LimitWatches, Plan, SetLimit
from sandbox.result import Verdict

ROOMY = {"tmp": "200M", "shm": "200M", "home": "200M", "file-size": "300M"}
UNSEEN = "memory that no process maps is not seen"


def load(*words: object, **how: Any) -> Run:
    return run_payload("a7_loads.c", *map(str, words), **how)


def without_limit(name: str) -> Alteration:
    """Return the alteration that leaves one rlimit as the caller has it."""

    def alter(plan: Plan) -> Plan:
        payload = tuple(step for step in plan.payload if not (isinstance(step, SetLimit) and step.name == name))
        assert payload != plan.payload, name
        return type(plan)(arch=plan.arch, janitor=plan.janitor, init=plan.init, payload=payload, notes=plan.notes)

    return alter


@pytest.mark.parametrize("kind", ["forks", "threads", "zombies"])
@pytest.mark.parametrize("profile", ["strict", "default"])
def test_a_bomb_stops_at_the_limit(kind: str, profile: str) -> None:
    """Rule: pids cgroup, or RLIMIT_NPROC in an own user namespace; threads and zombies count. 2000 of each. Removed: the limit; then 300 of 300 live."""
    run = load(kind, 2000, profile=profile, limits={"processes": 64})
    assert int(run["got"]) <= 64 and run["errno"] == "11", run.facts  # EAGAIN
    run = load(kind, 300, profile=profile, limits={"processes": 600})
    assert run["got"] == "300"


def test_a_bomb_is_counted_for_its_run_alone() -> None:
    """Rule: NPROC counts per uid across sandboxes (moby#31424, podman#29209) unless it is in an own user namespace. Two full ones side by side.

    Removed: the separation cannot be; so the second of two bombs of 40 under a limit of 64 tells.
    """
    with neighbour("a7_loads.c", "forks", "40", limits={"processes": 64}) as beside:
        beside.wait_for("got")
        run = load("forks", 40, limits={"processes": 64})
        assert run["got"] == "40" and beside.facts["got"] == "40"


def limited(run: Run) -> bool:
    """Tell whether a run was ended for its memory; otherwise it must be one whose result names that weakness."""
    if run.result.verdict is Verdict.MEMORY_LIMIT:
        return True
    entry = next(entry for entry in run.result.enforced if entry.what == "memory")
    assert not entry.how.startswith("cgroup") and UNSEEN in entry.weaker, entry
    return False


HOLD_MS = 10_000
"""What a sample finds is held until one is taken, however busy the machine is; the control holds it a moment only."""

# (what, words, whether sampling sees it) — 64 MiB are allowed, each takes about twice that.
MEMORY = [
    ("many processes", ("processes", 8, 20, HOLD_MS), True),
    ("page tables", ("tables", 150, HOLD_MS), True),
    ("memfd", ("memfd", 6, 20), False),
    ("socket buffers", ("sockets", 100, 2), False),
    ("tmpfs", ("fill", 100, "/tmp/load"), False),
    ("/dev/shm", ("fill", 100, "/dev/shm/load"), False),
    ("SysV shared memory", ("shm", 6, 20), False),
]


@pytest.mark.parametrize(("what", "words", "sampled"), MEMORY, ids=[what for what, _, _ in MEMORY])
def test_memory_in_every_form(what: str, words: tuple[object, ...], sampled: bool) -> None:
    """Rule: a memory cgroup counts them all; sampling counts what is mapped. Removed: the limit; then the load gets what it asked for."""
    profile = "default" if words[0] == "shm" else "strict"
    run = load(*words, profile=profile, limits={"memory": "64M", **ROOMY})
    caught = limited(run)
    assert caught or not sampled, what
    if caught and any(entry.what == "memory" and entry.how.startswith("cgroup") for entry in run.result.enforced):
        peak = run.result.usage.memory_peak_bytes  # not a byte more; what sampling overshoots depends on the machine
        assert peak is not None and 63 << 20 < peak <= 64 << 20
    run = load(*(400 if word == HOLD_MS else word for word in words), profile=profile, limits={"memory": "1G", **ROOMY})
    assert run.result.ok and int(run["got"]) >= 100, (run.result.cause, run.facts)


def test_pipe_buffers() -> None:
    """Rule: pipe buffers are memory. The kernel allows one user 64 MiB of them, whatever the limits (pipe-user-pages-soft); a cgroup counts these, too."""
    run = load("pipes", 100, 1, limits={"memory": "32M"})
    assert limited(run) or int(run["got"]) <= 64
    run = load("pipes", 100, 1, limits={"memory": "1G"})
    assert run.result.ok and int(run["got"]) >= 40


@pytest.mark.parametrize(
    ("place", "limits", "code"),
    [
        ("/tmp/load", {"tmp": "8M"}, "28"), ("/dev/shm/load", {"shm": "8M"}, "28"), ("/home/user/load", {"home": "8M"}, "28"),
        ("/tmp/load", {"file-size": "8M"}, "27"),
    ],
)  # fmt: skip
def test_scratch_has_a_size(place: str, limits: dict[str, str], code: str) -> None:
    """Rule: size= on every tmpfs, RLIMIT_FSIZE for each file: where sampling does not see a tmpfs, its cap bounds it. Removed: the cap, to 64 MiB."""
    run = load("fill", 30, place, limits={"tmp": "64M", "shm": "64M", "home": "64M", **limits})
    assert int(run["got"]) <= 8
    run = load("fill", 30, place, limits={"tmp": "64M", "shm": "64M", "home": "64M"})
    assert run["got"] == "30"


@pytest.mark.parametrize(("place", "key"), [("/tmp", "tmp-inodes"), ("/dev/shm", "shm-inodes"), ("/home/user", "home-inodes")])
def test_scratch_has_a_number_of_files(place: str, key: str) -> None:
    """Rule: nr_inodes= on every tmpfs, since an inode is a kilobyte of kernel. Removed: the number, to that of the profile."""
    run = load("inodes", 900, place, limits={key: 100})
    assert int(run["got"]) <= 100 and run["errno"] == "28"
    assert load("inodes", 900, place)["got"] == "900"


@pytest.mark.parametrize("place", ["/", "/dev", "/etc", "/proc", "/usr", "/var/empty", "/run", "/dev/pts"])
def test_nothing_else_takes_files(place: str) -> None:
    """Rule: what has no cap is not writable. Removed: the cap's own place; /tmp takes the same file."""
    assert load("inodes", 1, place)["got"] == "0"
    assert load("inodes", 1, "/tmp")["got"] == "1"


def test_open_files() -> None:
    """Rule: NOFILE. Removed: the limit, raised."""
    run = load("files", 500, limits={"open-files": 64})
    assert int(run["got"]) < 64 and run["errno"] == "24"
    assert load("files", 500, limits={"open-files": 600})["got"] == "500"


def test_message_queues() -> None:
    """Rule: RLIMIT_MSGQUEUE; strict has no queues at all. Removed: the limit; then the caller's own of usually 800 KiB counts."""
    assert load("queues", 20)["got"] == "0"
    run = load("queues", 20, profile="default")
    assert run["got"] == "0" and run["errno"] == "24"  # each would take 80 KiB of 64
    assert int(load("queues", 20, profile="default", alter=without_limit("RLIMIT_MSGQUEUE"), profile_changes=_landlock_off())["got"]) > 0


def _landlock_off() -> dict[str, Any]:
    from sandbox.policy.profile import LandlockMode

    return {"landlock": LandlockMode.OFF}  # Landlock knows no path of a queue, so it allows none


def test_inotify_instances_of_the_host_stay() -> None:
    """Rule: inotify instances are charged to the real user, too: with all 128 in a sandbox nobody of that id can watch a file. strict refuses inotify,
    the others are left 32. Removed: that bound; then the sandbox holds what it asks for."""
    assert load("inotify", 200, 0)["got"] == "0"
    with neighbour("a7_loads.c", "inotify", "200", "300", profile="default") as beside:
        assert int(beside.wait_for("got")) <= 32
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(0o2000000)
        assert fd >= 0, "the host's user has no inotify instance left"
        ctypes.CDLL(None).close(fd)
    assert int(load("inotify", 100, 0, profile="default", alter=drop(LimitWatches))["got"]) > 32
