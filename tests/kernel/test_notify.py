"""The listener of denied calls against the running kernel: refuses, records, survives its callers, fails closed.

Works as an ordinary user: no_new_privs and a hand-written filter in a forked process, which hands its listener over by SCM_RIGHTS. It
calls the kernel by ctypes lines of its own, so that a mistake of the package's wrappers cannot hide on both sides.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.abi.arch import native_arch
from sandbox.audit.events import Denial, Suppressed
from sandbox.audit.sinks import FileSink, MemorySink
from sandbox.audit.tally import Tally
from sandbox.errors import InternalError
from sandbox.kernel import seccomp_notify
from sandbox.policy.model import Action, Decision, RuleRef
from sandbox.supervise.loop import Loop
from sandbox.supervise.notify import DecisionLike, NotifyListener

pytestmark = pytest.mark.notify

ARCH = native_arch()
SECOND = 1_000_000_000
X86 = ARCH == "x86_64"
SECCOMP = 317 if X86 else 277
GETPPID = 110 if X86 else 173
CLOCK_SETTIME = 227 if X86 else 112
UNKNOWN = 1021
DENIED = (GETPPID, CLOCK_SETTIME, UNKNOWN)
NEW_LISTENER = 8
WAIT_KILLABLE_RECV = 32

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def raw_call(number: int, *args: int) -> int:
    """Make a system call; return its errno, 0 when it succeeded."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value) for value in args))
    return ctypes.get_errno() if result == -1 else 0


def install_filter(numbers: tuple[int, ...], flags: int) -> int:
    """Notify these calls and allow the rest; return the listener. The filter does not look at the architecture: one test wants that."""
    rows = [(0x20, 0, 0, 0)]  # A = nr
    rows += [(0x15, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    rows += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FC00000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
    program = ctypes.create_string_buffer(struct.pack("=H6xQ", len(rows), ctypes.addressof(code)))
    if libc.prctl(38, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    fd = libc.syscall(ctypes.c_long(SECCOMP), ctypes.c_long(1), ctypes.c_ulong(NEW_LISTENER | flags), program)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp(SET_MODE_FILTER)")
    return int(fd)


class Child:
    """A forked process under the filter. Its `body` runs once the listener is ours; what it returns becomes the exit code."""

    def __init__(self, body: Callable[[], int], numbers: tuple[int, ...], flags: int) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                ours.close()
                listener = install_filter(numbers, flags)
                socket.send_fds(theirs, [b"."], [listener])
                os.close(listener)
                theirs.close()
                code = body()
            finally:
                os._exit(code)
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)
        self._code: int | None = None
        with ours:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        self.listener: int = fds[0]

    def wait_exit(self) -> None:
        """Wait for the end without reaping."""
        assert select.select([self.pidfd], [], [], 120)[0]

    def reap(self) -> int:
        """Wait for the end; return the exit code or minus the signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def close(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
        os.close(self.pidfd)


Start = Callable[..., Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def begin(body: Callable[[], int], *, numbers: tuple[int, ...] = DENIED, flags: int = WAIT_KILLABLE_RECV) -> Child:
        children.append(Child(body, numbers, flags))
        return children[-1]

    yield begin
    for child in children:
        child.close()


RULE = RuleRef(file="/p/strict.toml", line=41, reason="because", name="strict")


def decide(number: int, args: tuple[int, ...]) -> Decision:
    if number == UNKNOWN:
        return Decision(action=Action.NOTIFY, errno=0, rule=None)
    return Decision(action=Action.NOTIFY, errno=errno.EACCES if number == GETPPID else errno.EPERM, rule=RULE)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = SECOND

    def __call__(self) -> int:
        return self.now


@dataclass
class Options:
    """Arguments of `listen` that most tests leave alone."""

    decide: Callable[[int, tuple[int, ...]], DecisionLike] = decide
    monotonic: Callable[[], int] | None = None
    burst: int = 1_000_000
    rate_per_s: int = 1_000_000


def listen(child: Child, sink: FileSink | MemorySink, options: Options | None = None) -> NotifyListener:
    options = options or Options()
    monotonic = options.monotonic or Clock()
    return NotifyListener(
        child.listener,
        decide=options.decide,
        run_id="run-1",
        arch=ARCH,
        sink=sink,
        monotonic=monotonic,
        burst=options.burst,
        rate_per_s=options.rate_per_s,
        tally=Tally(monotonic(), burst=20, rate_per_s=1.0),
    )


def serve(listener: NotifyListener, child: Child) -> int:
    """The supervisor's loop, until the child is gone; returns how many calls were handled."""
    handled = 0
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    poll.register(child.pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll(120_000))
        assert ready, "nothing happened for 120 s"
        handled += listener.handle_ready(64)
        if listener.hung_up and listener.fileno() in ready:
            poll.unregister(listener.fileno())
        if child.pidfd in ready:
            return handled


def test_denied_calls_get_their_errno_and_a_record(start: Start) -> None:
    def body() -> int:
        got = raw_call(GETPPID), raw_call(CLOCK_SETTIME, 0, 4096), raw_call(UNKNOWN, 1, 2, 3, 4, 5, 2**64 - 1)
        return 0 if got == (errno.EACCES, errno.EPERM, errno.ENOSYS) else 1

    child = start(body)
    sink = MemorySink()
    listener = listen(child, sink)
    assert serve(listener, child) == 3
    assert child.reap() == 0
    listener.close()
    first, second, third = sink.events
    assert isinstance(first, Denial) and isinstance(second, Denial) and isinstance(third, Denial)
    assert (first.syscall, first.errno, first.reason) == ("getppid", "EACCES", "because")
    assert (first.rule_file, first.rule_line) == ("/p/strict.toml", 41)
    assert (first.run, first.arch, first.pid) == ("run-1", ARCH, child.pid)
    assert first.comm and b"\n" not in first.comm
    assert (second.syscall, second.errno, second.args[:2]) == ("clock_settime", "EPERM", (0, 4096))
    assert second.decoded[0].endswith("=CLOCK_REALTIME") and len(second.decoded) == 2
    assert (third.syscall, third.errno, third.rule_file) == (f"#{UNKNOWN}", "ENOSYS", "")
    assert third.args == (1, 2, 3, 4, 5, 2**64 - 1) and third.decoded == ()
    assert listener.summary().by_syscall() == {"getppid": 1, "clock_settime": 1, f"#{UNKNOWN}": 1}
    assert listener.summary().mismatches == 0


def test_listener_is_not_inherited(start: Start) -> None:
    child = start(lambda: 0)
    os.set_inheritable(child.listener, True)
    listener = listen(child, MemorySink())
    assert not os.get_inheritable(listener.fileno())
    listener.close()


def test_caller_killed_before_its_call_is_fetched(start: Start) -> None:
    child = start(lambda: raw_call(GETPPID))
    listener = listen(child, MemorySink())
    assert select.select([listener], [], [], 120)[0]
    os.kill(child.pid, signal.SIGKILL)
    child.wait_exit()
    # As if it died between poll and RECV; then as it is.
    assert seccomp_notify.receive_notification(listener.fileno(), seccomp_notify.notification_buffer()) is None
    assert listener.handle_ready(10) == 0
    assert child.reap() == -signal.SIGKILL
    listener.handle_ready(10)
    assert listener.hung_up
    assert listener.summary().total == 0
    listener.close()


def test_caller_killed_while_its_call_is_decided(start: Start) -> None:
    sink = MemorySink()
    child = start(lambda: raw_call(GETPPID))

    def kill_first(number: int, args: tuple[int, ...]) -> Decision:
        os.kill(child.pid, signal.SIGKILL)
        child.wait_exit()
        return decide(number, args)

    listener = listen(child, sink, Options(decide=kill_first))
    serve(listener, child)
    assert child.reap() == -signal.SIGKILL
    (event,) = sink.events
    assert isinstance(event, Denial)
    assert event.comm == b""  # a name that is read after the caller's death may be another's
    assert listener.summary().interrupted == 1 and listener.summary().total == 1
    listener.close()


def test_caller_interrupted_by_a_signal_loses_its_answer_only(start: Start) -> None:
    """Without WAIT_KILLABLE_RECV a signal ends the call with EINTR and SEND finds nobody; the next call works."""
    told, tell = os.pipe()

    def body() -> int:
        signal.signal(signal.SIGUSR1, lambda *_: os.write(tell, b"."))
        signal.siginterrupt(signal.SIGUSR1, True)
        return 0 if (raw_call(GETPPID), raw_call(CLOCK_SETTIME)) == (errno.EINTR, errno.EPERM) else 1

    child = start(body, flags=0)

    def interrupt(number: int, args: tuple[int, ...]) -> Decision:
        if number == GETPPID:
            os.kill(child.pid, signal.SIGUSR1)
            assert select.select([told], [], [], 120)[0]
        return decide(number, args)

    listener = listen(child, MemorySink(), Options(decide=interrupt))
    serve(listener, child)
    assert child.reap() == 0
    assert listener.summary().interrupted == 1 and listener.summary().total == 2
    listener.close()
    os.close(told)
    os.close(tell)


def test_ten_thousand_denials_stay_bounded_in_the_log(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    child = start(lambda: int(any(raw_call(GETPPID) != errno.EACCES for _ in range(10_000))))
    sink = FileSink(str(path))
    listener = listen(child, sink)
    assert serve(listener, child) == 10_000
    assert child.reap() == 0
    listener.close()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["event"] for line in lines] == ["denial"] * 20 + ["suppressed"]
    assert lines[-1]["counts"] == [["getppid", 9_980]]
    assert path.stat().st_size < 20 * 1024
    assert listener.summary().total == 10_000 and listener.summary().suppressed == 9_980
    sink.close()


def test_suppressed_records_come_once_a_second(start: Start) -> None:
    clock = Clock()
    sink = MemorySink()
    child = start(lambda: int(any(raw_call(GETPPID) != errno.EACCES for _ in range(100))))
    listener = listen(child, sink, Options(monotonic=clock))
    handled = 0
    while handled < 60:
        assert select.select([listener], [], [], 120)[0]
        handled += listener.handle_ready(1)
    assert not any(isinstance(event, Suppressed) for event in sink.events)
    clock.now += SECOND
    assert select.select([listener], [], [], 120)[0]
    listener.handle_ready(1)  # a second later one record may be written again
    serve(listener, child)
    listener.close()
    told = [event.counts for event in sink.events if isinstance(event, Suppressed)]
    assert told == [(("getppid", 40),), (("getppid", 39),)]
    assert listener.summary().suppressed == 79


def test_flood_is_answered_at_a_rate_and_callers_wait(start: Start) -> None:
    clock = Clock()
    child = start(lambda: int(any(raw_call(GETPPID) != errno.EACCES for _ in range(8))))
    listener = listen(child, MemorySink(), Options(monotonic=clock, burst=5, rate_per_s=100))
    loop = Loop()
    assert listener.arm(loop) is None
    handled = 0
    while listener.resume_at_ns() is None:
        assert select.select([listener], [], [], 120)[0]
        handled += listener.handle_ready(100)
    assert handled == 5
    assert listener.resume_at_ns() == clock.now + SECOND // 100
    assert select.select([listener], [], [], 120)[0]  # the sixth waits
    assert listener.handle_ready(100) == 0
    assert listener.arm(loop) == clock.now + SECOND // 100 and loop.poll.poll(0) == []  # nor does it wake the supervisor
    clock.now += SECOND // 100
    assert listener.arm(loop) is None and [fd for fd, _ in loop.poll.poll(0)] == [listener.fileno()]
    assert listener.handle_ready(100) == 1
    clock.now += SECOND
    serve(listener, child)
    assert child.reap() == 0
    assert listener.resume_at_ns() is None and listener.summary().total == 8
    listener.handle_ready(1)
    assert listener.hung_up and listener.arm(loop) is None and loop.poll.poll(0) == []
    listener.close()


@pytest.mark.parametrize("fetched", [False, True])
def test_closing_fails_closed(start: Start, fetched: bool) -> None:
    child = start(lambda: 0 if (raw_call(GETPPID), raw_call(CLOCK_SETTIME)) == (errno.ENOSYS, errno.ENOSYS) else 1)
    listener = listen(child, MemorySink())
    assert select.select([listener], [], [], 120)[0]
    if fetched:
        assert seccomp_notify.receive_notification(listener.fileno(), seccomp_notify.notification_buffer()) is not None
    listener.close()
    listener.close()
    assert listener.handle_ready(10) == 0
    assert child.reap() == 0


def test_a_supervisor_that_dies_fails_closed(start: Start) -> None:
    child = start(lambda: 0 if raw_call(GETPPID) == errno.ENOSYS else 1)
    supervisor = os.fork()
    if supervisor == 0:
        listener = listen(child, MemorySink(), Options(decide=lambda number, args: os._exit(3)))
        select.select([listener], [], [], 120)
        listener.handle_ready(1)
        os._exit(4)
    os.close(child.listener)
    assert os.waitstatus_to_exitcode(os.waitpid(supervisor, 0)[1]) == 3
    assert child.reap() == 0


def test_a_forged_name_stays_one_line(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    name = b"a\nFORGED\x1b[2J"

    def body() -> int:
        libc.prctl(15, ctypes.c_char_p(name), 0, 0, 0)
        return raw_call(GETPPID)

    child = start(body)
    sink = FileSink(str(path))
    listener = listen(child, sink)
    serve(listener, child)
    listener.close()
    sink.close()
    data = path.read_bytes()
    assert data.count(b"\n") == 1 and b"\x1b" not in data
    assert json.loads(data)["comm"] == r"a\x0aFORGED\x1b[2J"
    assert child.reap() == errno.EACCES


@pytest.mark.parametrize(
    ("answer", "expected", "mismatches"),
    [
        (SimpleNamespace(action="allow", errno=0, rule=RULE), errno.EPERM, 1),
        (SimpleNamespace(action="log", errno=0, rule=None), errno.EPERM, 1),
        (SimpleNamespace(action="notify", errno=None, rule=None), errno.ENOSYS, 0),
        (SimpleNamespace(action="notify", errno=-1, rule=None), errno.ENOSYS, 0),
        (SimpleNamespace(action="notify", errno=1 << 32, rule=None), errno.ENOSYS, 0),
        (SimpleNamespace(action="kill-process", errno=0, rule=RULE), errno.ENOSYS, 0),
        (ZeroDivisionError(), errno.ENOSYS, 1),
    ],
)
def test_no_decision_lets_a_call_through(
    start: Start, monkeypatch: pytest.MonkeyPatch, answer: DecisionLike | Exception, expected: int, mismatches: int
) -> None:
    """Whatever the policy answers, what goes to the kernel is an errno with all flags clear: never CONTINUE."""
    sent: list[tuple[int, int, int]] = []

    def spy(fd: int, request: int, argument: bytes | bytearray | int) -> int | bytes:
        if request == seccomp_notify.NOTIF_SEND:
            assert isinstance(argument, bytes)
            sent.append(struct.unpack("=8xqiI", argument))
        return ioctl(fd, request, argument)

    monkeypatch.setattr(seccomp_notify, "ioctl", spy)

    def stub(number: int, args: tuple[int, ...]) -> DecisionLike:
        if isinstance(answer, Exception):
            raise answer
        return answer

    child = start(lambda: raw_call(GETPPID))
    sink = MemorySink()
    listener = listen(child, sink, Options(decide=stub))
    serve(listener, child)
    listener.close()
    assert child.reap() == expected
    assert sent == [(0, -expected, 0)]
    assert listener.summary().mismatches == mismatches
    (event,) = sink.events
    assert isinstance(event, Denial) and event.errno == errno.errorcode[expected]


def test_refusal_needs_an_errno() -> None:
    for number in (0, -1, 4096, 1 << 32):
        with pytest.raises(ValueError, match="errno"):
            seccomp_notify.refuse_call(0, 1, number)


def test_answers_are_kept_but_not_without_bound(start: Start) -> None:
    asked = 0

    def count(number: int, args: tuple[int, ...]) -> Decision:
        nonlocal asked
        asked += 1
        return decide(number, args)

    child = start(lambda: int(any(raw_call(GETPPID, 7, 7, 7, 7, 7, 7) != errno.EACCES for _ in range(50))))
    listener = listen(child, MemorySink(), Options(decide=count))
    serve(listener, child)
    assert asked == 1 and child.reap() == 0
    listener.close()

    child = start(lambda: int(any(raw_call(GETPPID, index, 7, 7, 7, 7, 7) != errno.EACCES for index in range(3000))))
    listener = listen(child, MemorySink(), Options(decide=count))
    serve(listener, child)
    assert asked == 3001 and child.reap() == 0
    assert len(listener._answers) <= 1024
    listener.close()


@pytest.mark.skipif(not X86, reason="int 0x80 exists on x86_64 only")
def test_a_call_of_another_architecture_gets_enosys(start: Start) -> None:
    """The real filter kills these; the listener must not look the number up in the wrong table."""
    i386_getppid = 64

    def body() -> int:
        with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            page.write(b"\xb8" + struct.pack("=I", i386_getppid) + b"\xcd\x80\xc3")  # mov eax, 64; int 0x80; ret
            view = ctypes.c_char.from_buffer(page)
            result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(view))()
            del view
        return 0 if result == -errno.ENOSYS else 1

    child = start(body, numbers=(i386_getppid,))
    sink = MemorySink()
    listener = listen(child, sink)
    serve(listener, child)
    listener.close()
    code = child.reap()
    if code == -signal.SIGSEGV:
        pytest.skip("the kernel has no i386 emulation")
    assert code == 0
    (event,) = sink.events
    assert isinstance(event, Denial)
    assert (event.syscall, event.arch, event.errno, event.decoded) == ("#64", "i386", "ENOSYS", ())


def test_kernel_has_the_structures_that_the_wrappers_know() -> None:
    sizes = (ctypes.c_uint16 * 3)()
    assert libc.syscall(ctypes.c_long(SECCOMP), ctypes.c_long(3), ctypes.c_long(0), ctypes.byref(sizes)) == 0
    assert seccomp_notify.check_sizes((sizes[0], sizes[1], sizes[2]))
    assert not seccomp_notify.check_sizes((sizes[0] + 8, sizes[1], sizes[2]))


def test_what_is_no_listener_is_an_error_of_ours() -> None:
    reader, writer = os.pipe()
    os.write(writer, b".")
    listener = NotifyListener(reader, decide=decide, run_id="r", arch=ARCH, sink=MemorySink())
    assert not listener.sync_wake_up
    with pytest.raises(InternalError, match="answer a denied system call"):
        listener.handle_ready(1)
    listener.close()
    os.close(writer)


def test_the_listener_imports_nothing_slow() -> None:
    """On the run path: no tables until a record needs them."""
    code = "import sys; before = set(sys.modules); import sandbox.supervise.notify; print(*sorted(set(sys.modules) - before))"
    pid_out, pid_in = os.pipe()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, pid_in, 1)])
    os.close(pid_in)
    with open(pid_out) as stream:
        modules = set(stream.read().split())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "sandbox.kernel.seccomp_notify" in modules
    assert not modules & {"json", "ctypes", "logging", "argparse", "subprocess", "inspect", "sandbox.abi.tables", "sandbox.abi.signatures"}
