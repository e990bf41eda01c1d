"""The listener of denied system calls: it records, counts and refuses, and never lets one through. What is emulated it hands to who answers.

The supervisor's event loop owns one `NotifyListener` per run. `decide` (the policy, evaluated again) only chooses which errno the
caller sees and which rule is named: that the call is denied has been settled by the filter in the kernel. Who closes the listener,
or dies with it, leaves the kernel to answer ENOSYS.

The payload chooses how often and with what this code runs. So no step blocks, every count and cache is bounded, records are
rationed (`sandbox.audit.tally`), and beyond a burst calls are answered at a fixed rate: callers just wait, which costs them and not us.
"""

from __future__ import annotations

import errno as _errno
import os
import select
import time

from sandbox.abi.arch import Arch, audit_arch
from sandbox.audit.tally import Counter, Tally, TokenBucket
from sandbox.errors import InternalError, describe_errno
from sandbox.kernel.seccomp_notify import (
    Notification,
    notification_buffer,
    notification_is_valid,
    receive_notification,
    refuse_call,
    set_sync_wake_up,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from sandbox.audit.sinks import Sink
    from sandbox.audit.summary import DenialSummary
    from sandbox.supervise.loop import Loop
    from sandbox.supervise.machine_view import Emulator
else:
    Protocol = object

_SECOND_NS = 1_000_000_000
_PAUSE_NS = 10_000_000  # when the rate is used up, wait for this much of it, not for one call: fewer wake-ups
_CALLS_A_TURN = 64  # of the loop, whose other work (limits, output) has its turn, too
_CACHE_ENTRIES = 1024
_COMM_BYTES = 64  # the kernel's TASK_COMM_LEN is 16, kernel threads show more
_ALLOWING = ("allow", "log")
_EMULATE = "emulate"
_FOREIGN = -1 << 32  # counter key of calls from another architecture; no syscall number


class RuleLike(Protocol):
    """The rule that decided, as far as a record needs it."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def reason(self) -> str: ...


class DecisionLike(Protocol):
    """What the policy says about one call, as `sandbox.policy.model.Decision` does; an errno of 0 or None means that there is none."""

    @property
    def action(self) -> str: ...
    @property
    def errno(self) -> int | None: ...
    @property
    def rule(self) -> RuleLike | None: ...


class _Answer:
    """A decision made ready: what to send, what to record and, after its first use, what counts it."""

    __slots__ = ("counter", "emulated", "errno", "errno_name", "file", "line", "mismatch", "reason")

    def __init__(self, errno: int, reason: str, *, file: str = "", line: int = 0, mismatch: bool = False, emulated: bool = False) -> None:
        self.emulated = emulated
        self.errno = errno
        self.errno_name = _errno.errorcode.get(errno, str(errno))
        self.file = file
        self.line = line
        self.reason = reason
        self.mismatch = mismatch
        self.counter: Counter | None = None


class NotifyListener:
    """Answers the denied calls of one run.

    `arm` has the supervisor's loop call `handle_ready` when `fileno()` is readable, but not before `resume_at_ns()`; once `hung_up` is true, every
    process under the filter is gone and it is left out for good. (Linux 6.1 says so only after they were reaped: the run's end is what the pidfd
    says, not this.) When the run has ended, `close`.

    Args:
        fd: the listener; taken. It is made close-on-exec.
        decide: maps a number and six arguments to a decision; must depend on nothing else, since answers are kept.
        run_id: the run's id, for records.
        arch: the architecture that the filter was made for.
        sink: where records go; borrowed, closed by whoever made it.
        clock: CLOCK_REALTIME in ns, for records.
        monotonic: a clock in ns that does not jump, for rates.
        tally: counters and ration of records, if not the usual ones.
        burst: how many calls are answered at once.
        rate_per_s: how many calls a second are answered in the long run; one that is emulated counts as two.
        emulator: answers the calls that the policy has emulated; without one they get ENOSYS.
    """

    def __init__(
        self,
        fd: int,
        *,
        decide: Callable[[int, tuple[int, ...]], DecisionLike],
        run_id: str,
        arch: Arch,
        sink: Sink,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
        tally: Tally | None = None,
        burst: int = 2000,
        rate_per_s: int = 5000,
        emulator: Emulator | None = None,
    ) -> None:
        now_ns = monotonic()
        os.set_inheritable(fd, False)
        self._fd = fd
        self._decide = decide
        self._run_id = run_id
        self._arch = arch
        self._audit_arch = audit_arch(arch)
        self._sink = sink
        self._emulator = emulator
        self._emulated = emulator.direct if emulator is not None else frozenset[int]()
        self._clock = clock
        self._monotonic = monotonic
        self._tally = Tally(now_ns) if tally is None else tally
        self._calls = TokenBucket(burst, rate_per_s, now_ns)
        self._pause_calls = max(1, min(burst, rate_per_s * _PAUSE_NS // _SECOND_NS))
        self._pause_ns = -(-self._pause_calls * _SECOND_NS // rate_per_s)
        self._resume_at_ns: int | None = None
        self._answers: dict[tuple[int, tuple[int, ...]], _Answer] = {}
        self._foreign = _Answer(_errno.ENOSYS, "bug: the filter kills calls of another architecture")
        self._buffer = notification_buffer()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._suppressed_at_ns = now_ns
        self._mismatches = 0
        self._interrupted = 0
        self._armed = False
        self.hung_up = False
        self.sync_wake_up = set_sync_wake_up(fd)

    def fileno(self) -> int:
        """Return the listener for epoll; -1 when closed."""
        return self._fd

    def resume_at_ns(self) -> int | None:
        """Return the time on `monotonic` before which `handle_ready` does nothing, or None when there is no pause."""
        return self._resume_at_ns

    def arm(self, loop: Loop) -> int | None:
        """Have a loop wait for denied calls, but not while they are held up, nor once nobody can make any; return until when they are held up."""
        resume = self._resume_at_ns
        wanted = not self.hung_up and (resume is None or resume <= self._monotonic())
        if wanted != self._armed:
            self._armed = wanted
            if wanted:
                loop.add(self._fd, lambda: self.handle_ready(_CALLS_A_TURN))
            else:
                loop.remove(self._fd)
        return None if wanted else resume

    def summary(self) -> DenialSummary:
        """Return what was denied so far."""
        return self._tally.summarize(mismatches=self._mismatches, interrupted=self._interrupted)

    def begin(self, sink: Sink) -> None:
        """Count and record from here on: what was refused before belongs to nobody.

        Args:
            sink: where records go; borrowed.
        """
        self._sink = sink
        self._tally = Tally(self._monotonic())
        self._mismatches = self._interrupted = 0
        for answer in self._answers.values():
            answer.counter = None
        self._foreign.counter = None

    def handle_ready(self, budget: int) -> int:
        """Answer the calls that wait, without blocking, and return how many were looked at.

        Args:
            budget: how many at most.

        Raises:
            InternalError: the listener itself does not work; the caller must end the run, and closing the fd fails closed.
        """
        if self._fd < 0:
            return 0
        now_ns = self._monotonic()
        if self._resume_at_ns is not None:
            if now_ns < self._resume_at_ns:
                return 0
            self._resume_at_ns = None
        self._calls.refill(now_ns)
        handled = 0
        try:
            while handled < budget and self._is_ready():
                if not self._calls.take(now_ns):
                    self._resume_at_ns = now_ns + self._pause_ns
                    break
                handled += 1
                notification = receive_notification(self._fd, self._buffer)
                if notification is None:
                    self._interrupted += 1
                else:
                    self._refuse(notification, now_ns)
        except OSError as failure:
            raise InternalError(f"answer a denied system call: {describe_errno(failure.errno or 0)}") from failure
        if now_ns - self._suppressed_at_ns >= _SECOND_NS:
            self._record_suppressed(now_ns)
        return handled

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close the listener: calls that wait and calls to come get ENOSYS from the kernel. A second close does nothing.

        Args:
            close: closes the descriptor; where nobody is left who could call, it may take its time.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        close(fd)
        self._resume_at_ns = None
        self._record_suppressed(self._monotonic())

    def _is_ready(self) -> bool:
        for _, mask in self._poll.poll(0):
            if mask & select.POLLIN:
                return True
            self.hung_up = True
        return False

    def _refuse(self, notification: Notification, now_ns: int) -> None:
        number, args = notification.number, notification.args
        foreign = notification.arch != self._audit_arch
        if number in self._emulated and not foreign:
            self._emulate(notification, now_ns)
            return
        answer = self._foreign if foreign else self._answers.get((number, args))
        if answer is None:
            answer = self._answer(number, args)
        if answer.emulated:
            self._emulate(notification, now_ns)
            return
        if answer.mismatch:
            self._mismatches += 1
        if answer.counter is None:
            answer.counter = self._find_counter(number, answer, now_ns)
        if self._tally.count(answer.counter, now_ns):
            self._record(notification, answer, foreign)
        if not refuse_call(self._fd, notification.identity, answer.errno):
            self._interrupted += 1

    def _emulate(self, notification: Notification, now_ns: int) -> None:
        """Have a call answered. Nothing of it is recorded: it succeeds, or fails as the kernel would have it."""
        assert self._emulator is not None
        self._calls.take(now_ns)
        if not self._emulator.answer(self._fd, notification):
            self._interrupted += 1

    def _find_counter(self, number: int, answer: _Answer, now_ns: int) -> Counter:
        foreign = answer is self._foreign
        key = _FOREIGN if foreign else number
        from sandbox.audit.decode import name_syscall

        name = "foreign architecture" if foreign else name_syscall(self._arch, number)
        return self._tally.find(key) or self._tally.open(
            key, now_ns, name=name, errno=answer.errno_name, rule_file=answer.file, rule_line=answer.line, reason=answer.reason
        )

    def _answer(self, number: int, args: tuple[int, ...]) -> _Answer:
        try:
            decision = self._decide(number, args)
        except Exception as failure:
            # Whatever is wrong with the policy's evaluation, a caller that waits for ever or a dead listener is worse.
            answer = _Answer(_errno.ENOSYS, f"bug: the policy could not be evaluated: {type(failure).__name__}", mismatch=True)
        else:
            rule = decision.rule
            file, line, reason = (rule.file, rule.line, rule.reason) if rule is not None else ("", 0, "")
            if decision.action == _EMULATE and self._emulator is not None:
                answer = _Answer(0, reason, file=file, line=line, emulated=True)
            elif decision.action in _ALLOWING:
                answer = _Answer(_errno.EPERM, "bug: the policy allows this call", file=file, line=line, mismatch=True)
            elif decision.errno is None or not 0 < decision.errno < 4096:
                answer = _Answer(_errno.ENOSYS, reason, file=file, line=line)
            else:
                answer = _Answer(decision.errno, reason, file=file, line=line)
        if len(self._answers) >= _CACHE_ENTRIES:  # arguments are the payload's choice
            self._answers.clear()
        self._answers[number, args] = answer
        return answer

    def _record(self, notification: Notification, answer: _Answer, foreign: bool) -> None:
        comm = _read_comm(notification.pid)
        if not notification_is_valid(self._fd, notification.identity):
            comm = b""  # the caller is gone, and its pid may be somebody else's by now
        number = notification.number
        from sandbox.audit.decode import decode_arguments, name_arch, name_syscall
        from sandbox.audit.events import Denial

        name = f"#{number}" if foreign else name_syscall(self._arch, number)
        decoded = () if foreign else decode_arguments(self._arch, name, notification.args)
        self._sink.write(
            Denial(
                time_ns=self._clock(),
                run=self._run_id,
                syscall=name,
                number=number,
                arch=name_arch(notification.arch),
                args=notification.args,
                decoded=decoded,
                pid=notification.pid,
                comm=comm,
                errno=answer.errno_name,
                rule_file=answer.file,
                rule_line=answer.line,
                reason=answer.reason,
            )
        )

    def _record_suppressed(self, now_ns: int) -> None:
        self._suppressed_at_ns = now_ns
        counts = self._tally.take_suppressed()
        if counts:
            from sandbox.audit.events import Suppressed

            self._sink.write(Suppressed(time_ns=self._clock(), run=self._run_id, counts=counts))


def _read_comm(pid: int) -> bytes:
    """Return what a thread calls itself, raw; empty when it cannot be read."""
    if pid <= 0:
        return b""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _COMM_BYTES).removesuffix(b"\n")
    except OSError:
        return b""
    finally:
        os.close(fd)
