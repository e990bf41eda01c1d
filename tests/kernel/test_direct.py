"""`DirectRun`: a run between two pipes of the caller, and its processes by the host's numbers."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

import sandbox
from sandbox.api.direct import DirectRun
from sandbox.errors import SandboxError

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
        assert select.select([self.reader], [], [], 20.0)[0]
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
        result = direct.run.wait(20)
        direct.close()
    assert said.decode().split() == wanted
    assert (result.exit_code, result.stderr, result.stdout or b"") == (7, b"said five\n", b"")


def test_its_end_is_seen_on_both_pipes(pipes: Pipes) -> None:
    with sandbox.Sandbox() as box:
        direct = pipes.start(box, "true")
        assert pipes.read() == b""
        poll = select.poll()
        poll.register(pipes.writer, 0)
        assert poll.poll(20_000)[0][1] & select.POLLERR
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
