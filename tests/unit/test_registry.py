"""Entries of running sandboxes: where they may be, what is in one, what dead, strange and hostile ones do to whoever looks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SandboxError
from sandbox.registry.control import Control
from sandbox.registry.entry import JANITOR, Registration, encode_entry, start_ticks
from sandbox.registry.facts import MAXIMUM_BYTES, Facts, check_name, decode_facts, parent_pid
from sandbox.registry.place import Place, list_places, make_place, open_place
from sandbox.registry.scan import Found, Line, _remove, ask_all, await_answer, end_by_force, scan_place

UID = os.geteuid()
RUN = "19abcdef012-0123abcd"
OTHER = "19abcdef013-fedc9876"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """Return a descriptor of an empty place."""
    tmp_path.chmod(0o700)
    (tmp_path / "sandbox").mkdir(0o700)
    fd = os.open(tmp_path / "sandbox", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def encode(facts: Facts) -> bytes:
    """Return an entry's bytes, its janitor included."""
    data = encode_entry(facts.run_id, name=facts.name, profile=facts.profile, pid=facts.pid, began_ns=facts.began_ns, argv=facts.argv)
    return data.replace(JANITOR.format(0, 0).encode(), JANITOR.format(*facts.janitor).encode())


def register(directory: int, run_id: str = RUN, **facts: Any) -> Registration:
    """Make an entry."""
    return Registration(os.dup(directory), run_id, encode(Facts(run_id=run_id, **facts)))


# ---- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "uid", "paths"),
    [
        ({}, 1000, ["/run/user/1000/sandbox", "/tmp/sandbox-1000"]),
        ({"XDG_RUNTIME_DIR": "/run/user/1000/"}, 1000, ["/run/user/1000/sandbox", "/tmp/sandbox-1000"]),
        ({"XDG_RUNTIME_DIR": "/x"}, 1000, ["/x/sandbox", "/run/user/1000/sandbox", "/tmp/sandbox-1000"]),
        ({"XDG_RUNTIME_DIR": "relative"}, 1000, ["/run/user/1000/sandbox", "/tmp/sandbox-1000"]),
        ({}, 0, ["/run/user/0/sandbox", "/run/sandbox", "/tmp/sandbox-0"]),
    ],
)
def test_places(environ: dict[str, str], uid: int, paths: list[str]) -> None:
    assert [place.path for place in list_places(environ, uid)] == paths


def test_a_place_is_made_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for _ in range(2):
        fd = make_place({"XDG_RUNTIME_DIR": str(tmp_path)}, UID)
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "sandbox"))
        os.close(fd)
    assert stat.S_IMODE(os.stat(tmp_path / "sandbox").st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777, 0o1777, 0o710])
def test_a_place_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox").chmod(mode)
    with pytest.raises(SandboxError, match="others could look in"):
        open_place(Place(f"{tmp_path}/sandbox"), UID)


def test_a_place_below_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "sandbox").mkdir(0o700)
    with pytest.raises(SandboxError, match="others may write to it"):
        open_place(Place(f"{tmp_path}/sandbox"), UID)
    os.close(open_place(Place(f"{tmp_path}/sandbox", shared=True), UID))


def test_somebody_elses_place_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "sandbox").mkdir(0o700)
    with pytest.raises(SandboxError, match=f"belongs to uid {UID}"):
        open_place(Place(f"{tmp_path}/sandbox", shared=True), UID + 1)


def test_a_link_is_no_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "sandbox").symlink_to("real")
    with pytest.raises(OSError):
        open_place(Place(f"{tmp_path}/sandbox"), UID)


# ---- what an entry says ----------------------------------------------------------------------------------------------

FACTS = Facts(
    run_id=RUN, name="web", profile="strict", pid=7, began_ns=12345, janitor=(8, 999), argv=("sh", "-c", "a\nb", "", "\udcff\x1b[")
)


def test_facts_survive() -> None:
    assert decode_facts(encode(FACTS)) == FACTS


@pytest.mark.parametrize("argv", [(), ("",), ("a" * 5000, "b"), ("", "")])
def test_any_command_can_be_told(argv: tuple[str, ...]) -> None:
    data = encode(Facts(run_id=RUN, argv=argv))
    assert len(data) < MAXIMUM_BYTES
    facts = decode_facts(data)
    assert facts is not None
    assert facts.argv == tuple(word[:2048] for word in argv)[:1] if len(data) > 2048 else facts.argv == argv


def test_a_profile_cannot_forge_a_line() -> None:
    facts = decode_facts(encode(Facts(run_id=RUN, profile="x\npid 1\n\n", pid=5)))
    assert facts is not None
    assert facts.pid == 5
    assert facts.profile == "x?pid 1??"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: b"sandbox-run 2\n" + data[14:],
        lambda data: data.replace(b"pid 7", b"pid -7"),
        lambda data: data.replace(b"pid 7", b"pid 99999999999999999999999"),
        lambda data: data.replace(b"pid 7", b"pid \xd9\xa7"),
        lambda data: data.replace(b"janitor ", b"janitors"),
        lambda data: data.replace(RUN.encode(), b"../../../etc/passwd"),
        lambda data: data.replace(b"\n\n", b"\n"),
        lambda data: b"\xff" * 100_000,
    ],
)
def test_what_is_no_entry(change: object) -> None:
    assert decode_facts(change(encode(FACTS))) is None  # type: ignore[operator]


def test_a_later_version_may_say_more() -> None:
    assert decode_facts(encode(FACTS).replace(b"pid 7", b"colour blue\npid 7")) == FACTS


@pytest.mark.parametrize("name", ["", ".", "-x", "a b", "a/b", "ä", "x" * 65, RUN, "a\n"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(SandboxError, match="cannot be a run's name"):
        check_name(name)


def test_stat_of_a_process_with_a_forged_name() -> None:
    text = b"77 (x) S 1 1) R 12 77 77 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1\n"
    assert (parent_pid(text), start_ticks(text)) == (12, 987654)
    assert (parent_pid(b""), start_ticks(b"1 (x")) == (0, 0)


# ---- life and death ---------------------------------------------------------------------------------------------------


def test_an_entry_lives_as_long_as_its_registration(directory: int) -> None:
    entry = register(directory, name="web", argv=("true",))
    scan = scan_place(directory, UID)
    assert [(one.facts.run_id, one.facts.name) for one in scan.found] == [(RUN, "web")]
    assert set(os.listdir(directory)) == set(entry.names) == {RUN, f"{RUN}.sock"}
    entry.close()
    entry.close()
    assert os.listdir(directory) == []
    assert scan_place(directory, UID).found == ()


def test_a_dead_entry_is_swept(directory: int) -> None:
    pid = os.fork()
    if not pid:
        register(directory)
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(os.listdir(directory)) == 2
    assert scan_place(directory, UID).found == ()
    assert os.listdir(directory) == []


def test_a_living_entry_is_not_swept(directory: int) -> None:
    """The lock is what protects it. Removed: by hand; then the entry is taken for a dead one's."""
    entry = register(directory)
    for _ in range(3):
        assert len(scan_place(directory, UID).found) == 1
    fcntl.flock(entry._file, fcntl.LOCK_UN)
    assert scan_place(directory, UID).found == ()
    assert os.listdir(directory) == []
    entry.close()


def test_a_socket_alone_is_swept(directory: int) -> None:
    entry = register(directory)
    os.unlink(RUN, dir_fd=directory)
    assert scan_place(directory, UID).found == ()
    assert os.listdir(directory) == []
    entry.close()


def sweep_before_lock(directory: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    real, met = fcntl.flock, list[int]()

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and len(met) < 2:
            met.append(fd)
            scan_place(directory, UID)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    return met


@pytest.mark.parametrize("nameless", [True, False])
def test_a_registration_that_a_sweep_met(nameless: bool, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of the file and its lock a sweep would take it for dead: it has no name then, or it is made anew."""
    if not nameless:
        refuse_nameless(monkeypatch)
    met = sweep_before_lock(directory, monkeypatch)
    entry = register(directory)
    assert len(met) == (1 if nameless else 2)
    assert [one.facts.run_id for one in scan_place(directory, UID).found] == [RUN]
    entry.close()


def refuse_nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("nameless", [True, False])
def test_a_sweep_in_the_midst_of_removing_takes_its_own_find_only(nameless: bool, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that has the lock of a new file is stopped before it removes it; the entry that comes of it is a living one's."""
    if not nameless:
        refuse_nameless(monkeypatch)
    real, sweeps, go = fcntl.flock, list[threading.Thread](), threading.Event()
    held = threading.Event()

    def remove(at: int, name: str) -> None:
        held.set()
        go.wait(60)
        _remove(at, name)

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not sweeps:
            sweeps.append(threading.Thread(target=scan_place, args=(directory, UID)))
            sweeps[0].start()
            held.wait(1 if nameless else 60)  # nameless, it never comes to that
            threading.Timer(0.05, go.set).start()
        real(fd, operation)

    monkeypatch.setattr("sandbox.registry.scan._remove", remove)
    monkeypatch.setattr(fcntl, "flock", flock)
    entry = register(directory)
    go.set()
    sweeps[0].join()
    monkeypatch.undo()
    assert [one.facts.run_id for one in scan_place(directory, UID).found] == [RUN]
    entry.close()


def test_two_first_runs_make_the_directory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = os.mkdir

    def mkdir(path: str, mode: int) -> None:
        made(path, mode)  # the other one
        made(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    tmp_path.chmod(0o700)
    os.close(make_place({"SANDBOX_RUNTIME_DIR": str(tmp_path / "first")}, UID))
    assert os.listdir(tmp_path) == ["first"]


def test_a_removed_directory_hurts_nobody(directory: int, tmp_path: Path) -> None:
    entry = register(directory)
    for name in os.listdir(directory):
        os.unlink(name, dir_fd=directory)
    (tmp_path / "sandbox").rmdir()
    entry.publish(os.getpid())
    entry.close()


def test_a_directory_that_cannot_be_written_leaves_nothing(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sandbox.registry.entry._listen", refuse)
    with pytest.raises(OSError, match="No space"):
        register(directory)
    assert os.listdir(directory) == []


def test_the_janitor_is_published_in_place(directory: int) -> None:
    entry = register(directory)
    entry.publish(os.getpid())
    facts = scan_place(directory, UID).found[0].facts
    assert facts.janitor == (os.getpid(), start_ticks(Path("/proc/self/stat").read_bytes()))
    entry.close()


# ---- hostile entries ---------------------------------------------------------------------------------------------------


def test_strange_entries_hide_no_others(directory: int, tmp_path: Path) -> None:
    place = tmp_path / "sandbox"
    good = register(directory, OTHER)
    kept = []
    os.mkfifo(place / "19abcdef012-00000001")
    (place / "19abcdef012-00000002").symlink_to("/etc/passwd")
    (place / "19abcdef012-00000003").mkdir()
    for number, content in ((4, b"nonsense"), (5, b"x" * 10_000_000), (6, encode(FACTS))):
        path = place / f"19abcdef012-0000000{number}"
        path.write_bytes(content)
        kept.append(open(path, "rb"))
        fcntl.flock(kept[-1], fcntl.LOCK_EX)  # as if it lived
    (place / "notes.txt").write_text("not mine\n")
    (place / "19abcdef012-00000007.sock").mkdir()
    scan = scan_place(directory, UID)
    assert [one.facts.run_id for one in scan.found] == [OTHER]
    assert set(scan.strange) == {"notes.txt", *(f"19abcdef012-0000000{number}" for number in range(1, 7))}
    for file in kept:
        file.close()
    good.close()
    assert scan_place(directory, UID).found == ()
    assert (place / "notes.txt").exists()


def test_an_entry_of_another_user_is_strange(directory: int) -> None:
    entry = register(directory)
    scan = scan_place(directory, UID + 1)
    assert scan.found == ()
    assert scan.strange == (RUN,)
    entry.close()


# ---- the line ------------------------------------------------------------------------------------------------------------


class Answering:
    """An entry whose socket is answered when `turn` is called."""

    def __init__(self, directory: int, answer: object = None) -> None:
        self.asked: list[tuple[str, int, bool]] = []
        self.entry = register(directory)
        self.control = Control(self.entry.listener, answer or self._answer)  # type: ignore[arg-type]

    def _answer(self, request: str, uid: int, gone: bool) -> str:
        self.asked.append((request, uid, gone))
        return "ok\n" + request.upper()

    def close(self) -> None:
        """End the run."""
        self.entry.close()
        self.control.close()


@pytest.fixture
def answering(directory: int) -> Iterator[Answering]:
    """Return a run that answers."""
    made = Answering(directory)
    yield made
    made.close()


def found(directory: int) -> Found:
    """Return the one entry."""
    return scan_place(directory, UID).found[0]


def test_asking(directory: int, answering: Answering) -> None:
    line = Line(found(directory))
    assert line.supervisor == os.getpid()
    for word in ("stats", "pause"):
        line.send(word)
        answering.control.serve()
        answering.control.serve()
        assert await_answer(line, 5) == f"ok\n{word.upper()}"
    assert answering.asked == [("stats", UID, False), ("pause", UID, False)]
    answering.close()
    assert await_answer(line, 5) == ""
    line.close()


def test_nobody_waits_for_one_who_is_silent(directory: int, answering: Answering) -> None:
    line = Line(found(directory))
    line.send("stats")
    assert ask_all([line, None], None, 0.01) == [None, None]
    line.close()


def test_a_late_answer_is_given_to_whoever_hung_up(directory: int, answering: Answering) -> None:
    """`kill` that was sent while the supervisor was stopped is found at the end of the run."""
    line = Line(found(directory))
    line.send("kill")
    line.close()
    answering.control.drain()
    assert answering.asked == [("kill", UID, True)]


def test_a_dead_socket_refuses(directory: int, answering: Answering) -> None:
    one = found(directory)
    os.close(answering.entry.listener)
    answering.entry.listener = -1
    answering.control.close()
    with pytest.raises(ConnectionRefusedError):
        Line(one)


@pytest.mark.parametrize("request_", [b"x" * 65, b"x" * 100_000, b""])
def test_wrong_requests_end_the_call(directory: int, answering: Answering, request_: bytes) -> None:
    line = Line(found(directory))
    line._socket.send(request_)
    answering.control.drain()
    assert await_answer(line, 5) == ""
    assert answering.asked == []
    line.close()


def test_a_fork_does_not_hide_the_end(directory: int, answering: Answering) -> None:
    """A child that the caller forks meanwhile has copies of all connections; who waits for the run's end is told all the same."""
    line = Line(found(directory))
    line.send("stats")
    answering.control.serve()
    answering.control.serve()
    assert await_answer(line, 5)
    held, release = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(release)
            os.read(held, 1)
        finally:
            os._exit(0)
    try:
        answering.control.close()
        assert await_answer(line, 5) == ""
    finally:
        os.close(release)
        os.close(held)
        os.waitpid(child, 0)
        line.close()


def test_whoever_does_not_read_is_dropped(directory: int) -> None:
    run = Answering(directory, lambda *_: "x" * 5000)
    line = Line(found(directory))
    sent = 0
    with pytest.raises(OSError):
        for _ in range(10_000):
            line._socket.send(b"stats")
            sent += 1
            run.control.serve()
    assert sent < 9_000
    line.close()
    run.close()


def test_many_callers_push_out_the_oldest_and_hold_nothing(directory: int, answering: Answering) -> None:
    before = len(os.listdir("/proc/self/fd"))
    calls = [Line(found(directory)) for _ in range(40)]
    for _ in range(10):
        answering.control.serve()
    assert len(os.listdir("/proc/self/fd")) <= before + 40 + 16
    assert await_answer(calls[0], 5) == ""
    calls[-1].send("stats")
    answering.control.serve()
    assert await_answer(calls[-1], 5) == "ok\nSTATS"
    for line in calls:
        line.close()


def test_a_turn_is_bounded(directory: int, answering: Answering) -> None:
    line = Line(found(directory))
    answering.control.serve()
    for _ in range(50):
        line.send("stats")
    answering.control.serve()
    assert len(answering.asked) <= 16
    line.close()


# ---- ending a run whose supervisor hangs -------------------------------------------------------------------------------


def test_force_wants_the_kernels_word(directory: int) -> None:
    """A forged entry names a process that is not the listener's child, or another that got the number; nobody is killed."""
    victim = os.fork()
    if not victim:
        signal_wait()
    started = start_ticks(Path(f"/proc/{victim}/stat").read_bytes())
    try:
        for pid, ticks, supervisor in (
            (victim, started, os.getppid()),  # no child of the one that listens
            (victim, started + 1, os.getpid()),  # another process with that number
            (1, 1, os.getpid()),
            (0, 0, os.getpid()),
            (4_000_000, 5, os.getpid()),
            (victim, started, 1),
        ):
            with pytest.raises(ProcessLookupError):
                end_by_force(Facts(run_id=RUN, janitor=(pid, ticks)), supervisor)
        # The same with the right figures: it is a janitor without an init, so there is nothing to end.
        assert end_by_force(Facts(run_id=RUN, janitor=(victim, started)), os.getpid()) == -1
        assert os.waitpid(victim, os.WNOHANG) == (0, 0)
    finally:
        os.kill(victim, 9)
        os.waitpid(victim, 0)


def signal_wait() -> None:
    """Sleep until killed, in a child."""
    import signal

    while True:
        signal.pause()


def test_another_users_listener_is_not_spoken_to(directory: int, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        return os.stat_result((*status[:4], UID + 1, *status[5:])) if fd == directory else status

    one = found(directory)
    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(PermissionError, match="another user listens"):
        Line(one)


def test_long_paths_can_be_bound(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir(0o700)
    fd = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    entry = register(fd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as plain, pytest.raises(OSError, match="too long"):
        plain.connect(f"{deep}/{RUN}.sock")
    Line(Found(facts=Facts(run_id=RUN), directory=fd)).close()
    entry.close()
    os.close(fd)
