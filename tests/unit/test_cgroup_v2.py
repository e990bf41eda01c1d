"""Cgroup v2 for real, in whatever subtree this process may write: a delegated scope, or the root's.

Skipped where there is none; an ordinary user runs them with
``systemd-run --user --scope -p Delegate=yes python3 -m pytest tests/unit/test_cgroup_v2.py``.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.cgroup.v2 import SUPERVISOR, V2Backend, V2Run
from sandbox.errors import SetupError
from sandbox.policy.profile import Limits

pytestmark = pytest.mark.cgroup2
MEMORY = 48 << 20


def runs(backend: V2Backend) -> list[str]:
    return [name for name in os.listdir(backend.where) if name.startswith("run-")] if os.path.isdir(backend.where) else []


@pytest.fixture
def backend() -> Iterator[V2Backend]:
    found = find_backend()
    assert isinstance(found, V2Backend), explain_backend()
    yield found
    assert runs(found) == []


@pytest.fixture
def made(backend: V2Backend) -> Iterator[V2Run]:
    run = backend.create(f"pytest-{os.getpid()}", Limits(memory_bytes=MEMORY, processes=5))
    yield run
    run.remove()
    run.close()


def fork_into(run: V2Run, payload: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            for fd in run.join_fds:
                os.write(fd, b"0")
            payload()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def touch(size: int) -> None:
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(20_000))


def test_memory_bomb_ends_the_whole_run(made: V2Run) -> None:
    back, out = os.pipe()

    def bystander() -> None:
        os.write(out, b"x")
        signal.pause()

    innocent = fork_into(made, bystander)
    os.read(back, 1)
    assert wait(fork_into(made, lambda: touch(64 << 20))) == -signal.SIGKILL
    assert wait(innocent) == -signal.SIGKILL, "memory.oom.group"
    usage = made.usage()
    assert usage.oom_kills is not None and usage.oom_kills >= 1
    assert usage.memory_peak_bytes is not None and MEMORY - (1 << 20) <= usage.memory_peak_bytes <= MEMORY
    os.close(back)
    os.close(out)


def test_process_limit(made: V2Run) -> None:
    def payload() -> None:
        children = []
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
        except BlockingIOError:
            pass
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os._exit(len(children))

    assert wait(fork_into(made, payload)) == 5
    usage = made.usage()
    assert usage.process_limit_hits == 1
    assert usage.processes_peak in (5, None)


def test_cpu_time_of_dead_children(made: V2Run) -> None:
    def payload() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody's rusage has their time
        for _ in range(3):
            child = os.fork()
            if child == 0:
                spin(0.1)
                os._exit(0)
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass

    assert wait(fork_into(made, payload)) == 0
    usage = made.usage()
    assert 280_000_000 < made.cpu_ns() < 3_000_000_000
    assert usage.cpu_user_ns + usage.cpu_sys_ns == pytest.approx(made.cpu_ns(), abs=2_000)


@pytest.mark.orphans
def test_kill_and_remove_before_anybody_waited(made: V2Run) -> None:
    back, out = os.pipe()

    def payload() -> None:
        os.fork()
        os.write(out, b"x")
        signal.pause()

    pid = fork_into(made, payload)
    for _ in range(2):
        os.read(back, 1)
    assert made.kill()
    made.remove()
    assert wait(pid) == -signal.SIGKILL
    os.close(back)
    os.close(out)


def until(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        os.sched_yield()


@pytest.mark.orphans
def test_frozen_members_stand_still_go_on_and_die(made: V2Run) -> None:
    pid = fork_into(made, lambda: spin(600))
    until(lambda: made.current().cpu_ns > 5_000_000)
    assert made.current().frozen is False
    assert made.freeze()
    until(lambda: made.current().frozen)
    before = made.current().cpu_ns
    assert select.select([], [], [], 0.2) == ([], [], []) and made.current().cpu_ns == before
    assert made.thaw()
    until(lambda: made.current().cpu_ns > before + 5_000_000)
    assert made.freeze()
    until(lambda: made.current().frozen)
    assert made.kill(), "v2 kills what is frozen"
    assert wait(pid) == -signal.SIGKILL


def test_current_tells_kinds_of_memory_apart(made: V2Run, tmp_path: object) -> None:
    path = f"{tmp_path}/big"
    with open(path, "wb") as file:
        file.write(bytes(8 << 20))
    back, out = os.pipe()

    def payload() -> None:
        area = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, 16 << 20, mmap.PAGESIZE):
            area[at] = 1
        shared = os.memfd_create("x")
        os.write(shared, bytes(4 << 20))
        os.write(out, b"x")
        signal.pause()

    assert made.current().memory_anon_bytes == 0
    pid = fork_into(made, payload)
    try:
        os.read(back, 1)
        now = made.current()
        opened = len(os.listdir("/proc/self/fd"))
        again = made.current()
        assert len(os.listdir("/proc/self/fd")) == opened, "the files stay open"
        assert now.processes == again.processes == 0, "the one process stands for init"
        assert now.memory_anon_bytes is not None and 19 << 20 <= now.memory_anon_bytes < 34 << 20, "and what the fork copies of pytest"
        assert now.memory_kernel_bytes is not None and 0 < now.memory_kernel_bytes < 4 << 20
        assert now.memory_bytes is not None and 20 << 20 <= now.memory_bytes <= MEMORY
        usage = made.usage()
        assert usage.pressure_cpu_ns is not None and usage.pressure_memory_ns is not None
        assert usage.memory_max_hits == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        os.close(back)
        os.close(out)


def test_living_member_is_named(made: V2Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.cgroup.files._REMOVE_TIMEOUT_S", 0.3)
    back, out = os.pipe()

    def payload() -> None:
        os.write(out, b"x")
        signal.pause()

    pid = fork_into(made, payload)
    os.read(back, 1)
    begin = time.monotonic()
    with pytest.raises(SetupError, match="EBUSY"):
        made.remove()
    assert time.monotonic() - begin >= 0.3
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    os.close(back)
    os.close(out)


def test_removal_waits_for_a_member_that_ends_by_itself(made: V2Run) -> None:
    back, out = os.pipe()

    def payload() -> None:
        os.write(out, b"x")
        select.select([], [], [], 0.2)

    pid = fork_into(made, payload)
    os.read(back, 1)
    made.remove()
    wait(pid)
    os.close(back)
    os.close(out)


def test_fifty_at_once(backend: V2Backend) -> None:
    problems: list[BaseException] = []

    def one(number: int) -> None:
        try:
            run = backend.create(f"pytest-{os.getpid()}-{number}", Limits(memory_bytes=MEMORY, processes=4))
            assert run.usage().oom_kills == 0
            run.remove()
            run.close()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_we_sit_beside_the_runs(made: V2Run) -> None:
    """An ordinary user's own process has moved out of the node, and a search from there finds the same node again."""
    if os.geteuid() == 0:
        pytest.skip("root's runs are below the real root, nothing has to move")
    with open("/proc/self/cgroup") as file:
        own = file.read().strip().rpartition("::")[2]
    assert own.endswith("/" + SUPERVISOR)
    again = find_backend()
    assert again is not None and again.where == made._base.shown


def test_children_cannot_be_made_inside(made: V2Run) -> None:
    """Without this a payload that can mount cgroup2 makes our rmdir fail."""
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        os.mkdir(f"{made._node.path('x')}")
