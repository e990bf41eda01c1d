"""The anchor for real: what it starts is this process's child in the anchor's place, and it ends with whom it serves."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import sandbox
from sandbox.api import scope, spawned
from sandbox.api.prepare import Prepared
from sandbox.errors import SetupError
from sandbox.launch.anchor import Anchor
from sandbox.launch.spawn import Launched, executor_command
from sandbox.plan.anchor import build_waiting_table

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


@pytest.fixture
def anchor() -> Iterator[Anchor]:
    made = Anchor(executor_command("auto"), "sandbox-init")
    made.settle()
    yield made
    made.close()


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[Anchor], None]:
    def through(anchor: Anchor) -> None:
        made = spawned.Spawned.__init__

        def init(self: spawned.Spawned, prepared: Prepared, held: bool = False) -> None:
            made(self, replace(prepared.whole(), anchor=anchor), held)

        monkeypatch.setattr(spawned.Spawned, "__init__", init)

    return through


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("executor", ["native", "python"])
def test_runs_through_an_anchor_are_runs(executor: str, through: Callable[[Anchor], None]) -> None:
    anchor = Anchor(executor_command(executor), "sandbox-init")
    try:
        through(anchor)
        anchor.settle()
        before = sorted(os.listdir("/proc/self/fd"))
        for number in range(3):
            result = sandbox.run(["sh", "-c", "cat; ls /proc/self/fd | wc -l; exit 3"], stdin=b"%d\n" % number, executor=executor)
            assert (result.exit_code, result.stdout) == (3, b"%d\n4\n" % number), "0, 1, 2 and the directory"
            assert anchor.alive()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert sandbox.run(["sh", "-c", "sleep 60"], timeout=0.2, executor=executor).verdict == "wall-limit"
    finally:
        anchor.close()


def test_what_it_starts_is_our_child_and_not_its_own(anchor: Anchor, through: Callable[[Anchor], None]) -> None:
    through(anchor)
    seen: list[tuple[int, int]] = []
    original = spawned.spawn

    def spawn(launched: Launched, *args: Any, **options: Any) -> None:
        original(launched, *args, **options)
        seen.append((launched.pid, parent(launched.pid)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawned, "spawn", spawn)
        assert sandbox.run(["true"]).ok
    assert seen[0][1] == os.getpid() and seen[0][0] != anchor.pid
    assert parent(anchor.pid) == os.getpid()


def test_nothing_of_the_caller_stays_open_in_it(anchor: Anchor, through: Callable[[Anchor], None]) -> None:
    through(anchor)
    assert sandbox.run(["true"]).ok
    assert sandbox.run(["true"]).ok, "it has gone its round"
    while len(os.listdir(f"/proc/{anchor.pid}/fd")) != 3:
        os.sched_yield()
    targets = sorted(os.readlink(f"/proc/{anchor.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{anchor.pid}/fd"))
    assert targets == ["/memfd", "anon_inode", "socket"]
    assert os.readlink(f"/proc/{anchor.pid}/cwd") == "/"
    with open(f"/proc/{anchor.pid}/environ", "rb") as file:
        assert file.read() == b""


@pytest.mark.orphans
def test_it_ends_with_a_killed_client() -> None:
    ready, word = os.pipe()
    client = os.fork()
    if client == 0:
        try:
            made = Anchor(executor_command("auto"), "sandbox-init")
            made.settle()
            if os.fork() == 0:  # holds a copy of the anchor's socket
                os.close(word)
                signal.pause()
            os.write(word, b"%d\n" % made.pid)
            signal.pause()
        finally:
            os._exit(9)
    os.close(word)
    pid = int(os.read(ready, 20))
    pidfd = os.pidfd_open(pid)
    with open(f"/proc/{client}/task/{client}/children") as file:
        (fork,) = [int(child) for child in file.read().split() if int(child) != pid]
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    try:
        assert select.select([pidfd], [], [], 120)[0], "the fork of the client does not keep it alive"
    finally:
        os.kill(fork, signal.SIGKILL)
        os.close(pidfd)
        os.close(ready)


@pytest.mark.orphans
def test_while_it_is_being_moved_it_outlives_a_killed_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd that is about to move it must find it alive: it would keep the scope of one that has just ended."""
    monkeypatch.setattr("sandbox.plan.anchor.GRACE_S", 1)
    build_waiting_table.cache_clear()
    ready, word = os.pipe()
    client = os.fork()
    if client == 0:
        try:
            os.write(word, b"%d\n" % Anchor(executor_command("auto"), "sandbox-init").pid)
            signal.pause()
        finally:
            os._exit(9)
    os.close(word)
    pidfd = os.pidfd_open(int(os.read(ready, 20)))
    try:
        began = time.monotonic()
        os.kill(client, signal.SIGKILL)
        os.waitpid(client, 0)
        assert select.select([pidfd], [], [], 120)[0], "it ends"
        assert time.monotonic() - began >= 1, "having waited"
    finally:
        build_waiting_table.cache_clear()
        os.close(pidfd)
        os.close(ready)


@pytest.mark.orphans
def test_a_killed_anchor_is_an_error_and_harms_no_run(anchor: Anchor, through: Callable[[Anchor], None]) -> None:
    through(anchor)
    original = spawned.spawn

    def spawn(*args: Any, **options: Any) -> Any:
        launched = original(*args, **options)
        os.kill(anchor.pid, signal.SIGKILL)
        return launched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawned, "spawn", spawn)
        assert sandbox.run(["echo", "x"]).stdout == b"x\n"
    assert not anchor.alive() or select.select([anchor._pidfd], [], [], 120)[0]
    with pytest.raises(SetupError, match="through the anchor"):
        sandbox.run(["true"])


REFUSED = """
import errno, sys
import pyseccomp
from sandbox.errors import SetupError
from sandbox.launch.anchor import Anchor
from sandbox.launch.spawn import executor_command
filter = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
filter.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
if sys.argv[2] == "refused":
    filter.load()
anchor = Anchor(executor_command(sys.argv[1]), "sandbox-init")
try:
    anchor.spawn([0])
except SetupError as error:
    print(error)
finally:
    anchor.close()
"""


@pytest.mark.orphans
@pytest.mark.parametrize("executor", ["native", "python"])
def test_a_clone_that_is_refused_to_it_is_told_with_the_cause(executor: str) -> None:
    """As in a service with RestrictNamespaces=yes, whose filter refuses clone3."""

    def words(how: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", REFUSED, executor, how], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=True
        )
        return done.stdout

    told = words("refused")
    assert told.startswith("clone3: Function not implemented (ENOSYS)\n  start a process through the anchor"), told
    assert "hint:" in told and "a seccomp filter" in told and "fix:" in told, told
    assert words("let") == "", "without the filter nothing is refused"


def test_a_fork_forgets_the_anchors_of_its_parent(anchor: Anchor) -> None:
    scope._scopes[("test",)] = scope.Scope(backend=None, anchor=anchor)  # type: ignore[arg-type]
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if not scope._scopes and anchor._pidfd == -1 and anchor._socket.fileno() == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert scope._scopes and anchor.alive()
    finally:
        del scope._scopes[("test",)]


def test_an_anchor_with_other_rlimits_is_another_one() -> None:
    """Its children would have the rlimits of when it was started: a caller that has limited itself since would not pass that on."""
    program = (
        "import resource; from sandbox.api import scope; one = scope._inherited(); same = scope._inherited(); "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)); print(one == same, one != scope._inherited())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
