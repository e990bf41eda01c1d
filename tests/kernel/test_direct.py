"""`DirectRun`: a run between two pipes of the caller, and its processes by the host's numbers."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api import streams
from sandbox.api.direct import DirectRun
from sandbox.api.streams import Streams
from sandbox.errors import InternalError, SandboxError

pytestmark = [pytest.mark.userns, pytest.mark.seccomp]


class Pipes:
    """Two pipes: the run's ends are closed by `start`."""

    def __init__(self) -> None:
        self.stdin, self.writer = os.pipe()
        self.reader, self.stdout = os.pipe()

    def start(self, box: sandbox.Sandbox, *argv: str) -> DirectRun:
        try:
            direct = DirectRun(box, argv, stdin=self.stdin, stdout=self.stdout, options={})
            direct.wait_for_start()
            return direct
        finally:
            os.close(self.stdin)
            os.close(self.stdout)

    def read(self) -> bytes:
        assert select.select([self.reader], [], [], 120.0)[0]
        return os.read(self.reader, 4096)

    def close(self) -> None:
        for fd in (self.writer, self.reader):
            if fd >= 0:
                os.close(fd)
        self.writer = self.reader = -1


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


@pytest.mark.parametrize("resident", [True, False])
def test_the_payload_has_the_pipes_themselves(pipes: Pipes, resident: bool) -> None:
    wanted = [f"pipe:[{os.fstat(fd).st_ino}]" for fd in (pipes.writer, pipes.reader)]
    with sandbox.Sandbox(resident=resident) as box:
        direct = pipes.start(box, "sh", "-c", "read word; readlink /proc/self/fd/0 /proc/$$/fd/1; echo said $word >&2; exit 7")
        os.write(pipes.writer, b"five\n")
        said = b""
        while data := pipes.read():
            said += data
        result = direct.run.wait(120)
        direct.close()
    assert said.decode().split() == wanted
    assert (result.exit_code, result.stderr, result.stdout or b"") == (7, b"said five\n", b"")


def test_the_pipes_are_taken_at_once(pipes: Pipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's ends may be other files before the run's thread comes to them: the payload never has those, and root gives them to nobody."""
    arrived, closed = threading.Event(), threading.Event()
    make = streams._open_streams

    def make_late(asked: Streams) -> Any:
        if asked.made is not None:
            arrived.set()
            assert closed.wait(120)
        return make(asked)

    monkeypatch.setattr(streams, "_open_streams", make_late)
    (tmp_path / "secret").write_text("another's\n")
    with sandbox.Sandbox() as box:
        direct = DirectRun(box, ("sh", "-c", "cat; echo said"), stdin=pipes.stdin, stdout=pipes.stdout, options={})
        assert arrived.wait(120)  # from here on no other thread opens anything
        for fd in (pipes.stdin, pipes.stdout):
            os.close(fd)
        others = [os.open(tmp_path / "secret", os.O_RDONLY), os.open(tmp_path, os.O_DIRECTORY)]
        assert {pipes.stdin, pipes.stdout} <= set(others)
        owner = os.fstat(others[1]).st_uid
        closed.set()
        direct.wait_for_start()
        os.write(pipes.writer, b"ours\n")
        os.close(pipes.writer)
        pipes.writer = -1
        said = b""
        while data := pipes.read():
            said += data
        assert direct.run.wait(120).ok and said == b"ours\nsaid\n"
        direct.close()
        assert os.fstat(others[1]).st_uid == owner
        for fd in others:
            os.close(fd)


def test_one_that_is_let_go_before_it_begins(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    make = streams._open_streams
    monkeypatch.setattr(streams, "_open_streams", lambda asked: make(asked) if asked.made is None or let_go.wait(120) else None)
    with sandbox.Sandbox() as box:
        direct = DirectRun(box, ("true",), stdin=pipes.stdin, stdout=pipes.stdout, options={})
        direct.close()
        let_go.set()
        with pytest.raises(SandboxError, match="its pipes were closed"):
            direct.wait_for_start()
    os.close(pipes.stdin)
    os.close(pipes.stdout)


def test_only_a_pipe_is_given_away(tmp_path: Path) -> None:
    """The second line of defence: whatever descriptor comes here by a bug, root gives the payload's id no file that has a name."""
    nobodys = os.memfd_create("input")
    for fd in (*os.pipe(), nobodys):
        streams.give_away(fd, os.geteuid())
        os.close(fd)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", "/dev/null"):
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(InternalError, match=f"descriptor {fd}, which is {path}"):
            streams.give_away(fd, os.geteuid())
        os.close(fd)


def test_its_end_is_seen_on_both_pipes(pipes: Pipes) -> None:
    with sandbox.Sandbox() as box:
        direct = pipes.start(box, "true")
        assert pipes.read() == b""
        poll = select.poll()
        poll.register(pipes.writer, 0)
        assert poll.poll(120_000)[0][1] & select.POLLERR
        direct.run.join()
        direct.close()


def test_its_processes_are_known_while_it_runs(pipes: Pipes) -> None:
    with sandbox.Sandbox() as box:
        direct = pipes.start(box, "sh", "-c", "exec 3<&0; (echo ready; read word <&3) & wait")
        assert pipes.read() == b"ready\n"
        pids = direct.run.pids()
        parents = {pid: _parent(pid) for pid in pids}
        assert direct.run.payload_pid in pids
        assert pids[0] == parents[direct.run.payload_pid], "init comes first"
        assert direct.run.payload_pid in parents.values(), "its child is among them"
        assert direct.run.cpu_ns() > 0
        assert direct.stderr_waiting() == 0
        os.close(pipes.writer)
        pipes.writer = -1
        direct.run.join()
        assert direct.run.pids() == [] and direct.run.cpu_ns() == 0
        direct.close()
        assert direct.stderr_waiting() == 0


def _parent(pid: int) -> int:
    """Source: proc_pid_stat(5). 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def test_what_cannot_be_executed_is_an_error_and_leaves_nothing(pipes: Pipes) -> None:
    with sandbox.Sandbox() as box:
        with pytest.raises(SandboxError, match="/nowhere/at/all"):
            pipes.start(box, "/nowhere/at/all")
        assert pipes.read() == b""
