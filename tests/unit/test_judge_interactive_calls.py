"""What a blocked system call proves, by a table; nothing else proves anything."""

from __future__ import annotations

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.judge.interactive.calls import Call, Wait, explain, is_helper, parse_call

GRAPH = frozenset(("pipe:[10]", "pipe:[11]"))
FDS = {0: "pipe:[10]", 1: "pipe:[11]", 2: "pipe:[12]", 3: "anon_inode:[eventfd]", 4: "anon_inode:[timerfd]", 5: "socket:[7]", 6: "/dev/null"}
QUIET = ("pipe:[10]", "pipe:[11]", "pipe:[12]", "/dev/null", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")
MINUS_ONE = (1 << 64) - 1
MINUS_ONE_INT = (1 << 32) - 1


def seen(name: str, *args: int, kinds: tuple[str, ...] | None = QUIET) -> Wait:
    call = Call(name=name, args=(*args, *[0] * (6 - len(args))))
    return explain(call, lambda fd: FDS.get(fd, ""), lambda: kinds, GRAPH).wait


TABLE = [
    (("read", 0), Wait.READS), (("readv", 0), Wait.READS), (("write", 1), Wait.WRITES), (("writev", 1), Wait.WRITES),
    (("read", 2), Wait.OWN), (("write", 2), Wait.OWN), (("read", 3), Wait.OWN),
    (("read", 4), Wait.OPEN), (("read", 5), Wait.OPEN), (("read", 6), Wait.OPEN), (("read", 9), Wait.OPEN), (("write", 3), Wait.OPEN),
    (("futex", 0, 0, 0, 0), Wait.OWN), (("futex", 0, 0x80 | 9, 0, 0), Wait.OWN), (("futex", 0, 0x189, 0, 0), Wait.OWN), (("futex", 0, 0x86, 0, 0), Wait.OWN),
    (("futex", 0, 0x80, 0, 0x7FFF), Wait.OPEN), (("futex", 0, 0x189, 0, 0x7FFF), Wait.OPEN), (("futex", 0, 1, 0, 0), Wait.OPEN),
    (("wait4", MINUS_ONE), Wait.OWN), (("waitid", 0), Wait.OWN), (("pause",), Wait.OWN), (("rt_sigsuspend",), Wait.OWN),
    (("rt_sigtimedwait", 1, 0, 0), Wait.OPEN), (("rt_sigtimedwait", 1, 0, 0x7FFF), Wait.OPEN),
    (("poll", 1, 1, MINUS_ONE_INT), Wait.READS), (("poll", 1, 1, MINUS_ONE), Wait.READS), (("poll", 1, 1, 100), Wait.OPEN), (("poll", 1, 1, 0), Wait.OPEN),
    (("ppoll", 1, 1, 0), Wait.READS), (("ppoll", 1, 1, 0x7FFF), Wait.OPEN),
    (("select", 1, 1, 0, 0, 0), Wait.READS), (("select", 1, 1, 0, 0, 0x7FFF), Wait.OPEN), (("pselect6", 1, 1, 0, 0, 0), Wait.READS),
    (("pselect6", 1, 1, 0, 0, 0x7FFF), Wait.OPEN),
    (("epoll_wait", 3, 1, 1, MINUS_ONE_INT), Wait.READS), (("epoll_wait", 3, 1, 1, 1000), Wait.OPEN), (("epoll_pwait", 3, 1, 1, MINUS_ONE_INT), Wait.READS),
    (("epoll_pwait2", 3, 1, 1, 0), Wait.READS), (("epoll_pwait2", 3, 1, 1, 0x7FFF), Wait.OPEN),
    (("nanosleep", 1), Wait.OPEN), (("clock_nanosleep", 1), Wait.OPEN), (("restart_syscall",), Wait.OPEN), (("accept", 5), Wait.OPEN),
    (("recvfrom", 5), Wait.OPEN), (("flock", 6), Wait.OPEN), (("io_uring_enter", 5), Wait.OPEN), (("", 0), Wait.OPEN),
]  # fmt: skip


@pytest.mark.parametrize(("call", "wait"), TABLE, ids=[" ".join(map(str, call)) for call, _ in TABLE])
def test_what_a_call_proves(call: tuple[str, int], wait: Wait) -> None:
    assert seen(*call) is wait


@pytest.mark.parametrize("other", ["anon_inode:[timerfd]", "socket:[7]", "anon_inode:[signalfd]", "anon_inode:inotify", "anon_inode:[io_uring]", ""])
def test_a_poll_proves_nothing_beside_a_descriptor_that_anybody_may_make_ready(other: str) -> None:
    assert seen("poll", 1, 1, MINUS_ONE_INT, kinds=(*QUIET, other)) is Wait.OPEN


def test_a_poll_without_a_stream_waits_for_its_own_party() -> None:
    assert seen("epoll_wait", 3, 1, 1, MINUS_ONE_INT, kinds=("anon_inode:[eventfd]",)) is Wait.OWN
    assert seen("epoll_wait", 3, 1, 1, MINUS_ONE_INT, kinds=None) is Wait.OPEN


def test_a_thread_that_runs() -> None:
    assert parse_call(b"running\n", Arch.X86_64) is None
    assert explain(None, lambda fd: "", lambda: (), GRAPH).wait is Wait.RUNS


@pytest.mark.parametrize("arch", list(Arch))
def test_the_files_form(arch: Arch) -> None:
    number = syscall_number(arch, "read")
    assert parse_call(f"{number} 0x0 0x7f6 0x20000 0x1 0xffffffff 0x0 0x7ffc 0x7f".encode(), arch) == Call(
        name="read", args=(0, 0x7F6, 0x20000, 1, 0xFFFFFFFF, 0)
    )


@pytest.mark.parametrize("text", [b"", b"-1 0x7ffc 0x7f", b"running", b"0 0x0"])
def test_what_is_no_call(text: bytes) -> None:
    assert parse_call(text, Arch.X86_64) is None


@pytest.mark.parametrize("name", ["VM Periodic Tas", "GC Thread#0", "C2 CompilerThre", "G1 Service", "Common-Cleaner"])
def test_threads_of_a_jvm(name: str) -> None:
    assert is_helper("java", name)
    assert not is_helper("party", name), "only the runtime that has such threads is believed"


@pytest.mark.parametrize("name", ["java", "main", "Thread-0", "Finalizer", "Reference Handl", "pool-1-thread-1", "Timer-0"])
def test_threads_that_run_a_programs_code(name: str) -> None:
    assert not is_helper("java", name)
