"""The supervisor's loop: one poll over records, streams, denials and the clock, from STARTED to the end.

Here is what comes of the run and what others ask for; what time brings is in `clock`, what is done to its processes in `reins`. It decides no policy and
knows no profile: limits come as values, what to do at a stage as callables. Whatever happens in here, `run` ends with every process of the sandbox dead.
"""

from __future__ import annotations

import errno
import os
import select
import time

from sandbox.cgroup.none import process_cpu_ns
from sandbox.errors import InternalError, SandboxError, SetupError
from sandbox.launch.shield import Shield
from sandbox.plan import fds
from sandbox.plan.codec import Kind, Record
from sandbox.result import Verdict
from sandbox.supervise.clock import RunClock
from sandbox.supervise.deadlines import SETUP_NS
from sandbox.supervise.handover import fetch_descriptors, take_init
from sandbox.supervise.loop import Loop
from sandbox.supervise.records import Collected, Snapshot, StatusChannel
from sandbox.supervise.reins import Reins
from sandbox.supervise.streams import StreamSet
from sandbox.supervise.watched import Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.launch.spawn import Launched
    from sandbox.policy.profile import Limits
    from sandbox.supervise.instructions import Instructions
    from sandbox.supervise.used import Used

_SIGKILL, _SIGCONT = 9, 18


class Monitor:
    """One run under supervision; takes the status socket of what was launched."""

    def __init__(self, launched: Launched, watched: Watched) -> None:
        arrived = watched.arrived
        if arrived is None:
            self._channel = StatusChannel(launched.descriptors.status)
            launched.descriptors.status = -1
        else:
            self._channel = arrived.channel
        self._launched = launched
        self._watched = watched
        self._loop = Loop()
        self._streams = StreamSet(self._loop.poll, watched.pumps, watched.limits.output_bytes)
        self._reins = Reins(launched.descriptors, watched.cgroup)
        self.collected = Collected()
        self._clock = RunClock(watched, self._reins, self.collected)
        self._instructions: Instructions | None = None
        self.payload_pid = 0
        self._done = False
        self._closed = False
        self._vanished = False
        self._hurried = False
        self._failure: SandboxError | None = None

    def run(self) -> Collected:
        """Supervise until the end.

        Raises:
            SandboxError: the set-up failed; nothing of the run is left.
        """
        try:
            self._supervise()
            if self._failure is not None:
                raise self._failure
            self._drain()
            self.collected.output_bytes = self._streams.output_bytes
            if self._instructions is not None:
                self.collected.instructions = self._instructions.read()
                self.collected.instructions_source = self._instructions.source
            return self.collected
        finally:
            self.close()

    def kill(self, verdict: Verdict | None) -> None:
        """Kill the whole run; the first verdict given stays.

        For a verdict init is asked to do it, because only what init reaps itself is counted in the usage (the kernel throws the children
        of a killed pid 1 away uncounted); if it does not at once, or without a verdict, init itself is killed, which cannot fail.
        """
        if self.collected.killed_for is None:
            self.collected.killed_for = verdict
        self._hurried |= verdict is Verdict.SIGNALED  # whoever asks for the end does not wait for a reader of its output
        if verdict is not None and self._clock.phase in ("running", "paused"):
            self._reins.have_killed(self._clock.pids() if self.state == "paused" and self._reins.frozen else ())
            self._clock.doom()
        else:
            self._reins.kill(begun=self._clock.begun)

    def signal(self, number: int) -> None:
        """Pass a signal on to the payload, through init; once it has ended, a signal ends the wait for whoever reads its output.

        SIGKILL ends a paused run: a frozen init would not hear of it before the pause is over, and whoever sends it may wait for the end.
        """
        if self._done:
            self.hurry()
        elif number == _SIGKILL and self.state == "paused":
            self.kill(Verdict.SIGNALED)
        elif 0 < number <= fds.LAST_SIGNAL and not (number == _SIGCONT and self.state == "paused"):
            self._reins.tell(number)

    def hurry(self) -> None:
        """Do not wait, once everything is dead, for whoever reads its output: what they have not taken by then is lost, and said to be."""
        self._hurried = True

    # ---- what others ask for -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``paused`` or ``ending``."""
        return "ending" if self._done else self._clock.phase

    def pause(self) -> bool:
        """Stop every process of the run until `resume`; return whether it is paused now. Its limits of time do not run meanwhile.

        By the cgroup's freezer, of which the payload sees nothing; where there is none, by SIGSTOP from init, which a parent in the run may notice.
        """
        if self.state != "running":
            return self.state == "paused"
        self._reins.pause()
        self._clock.hold()
        return True

    def resume(self) -> bool:
        """Let a paused run go on; return whether it is running now."""
        if self.state != "paused":
            return self.state == "running"
        self._reins.resume()
        self._clock.go_on()
        return True

    @property
    def init_pid(self) -> int:
        """Init's number on this host, 0 before it is known."""
        return self._reins.init_pid

    def snapshot(self) -> Snapshot:
        """Return what the run uses at this moment, as far as this host can tell."""
        now = time.monotonic_ns()
        at = Snapshot(
            state=self.state,
            init_pid=self.init_pid,
            wall_ns=self._clock.lived_ns(now) if not self._done else self.collected.wall_ns,
            paused_ns=self._clock.stood_ns(now),
            output_bytes=self._streams.output_bytes,
            denials=sum(self.collected.listener.summary().by_syscall().values()) if self.collected.listener is not None else 0,
        )
        return at if self._done else self._clock.describe(at)

    def watch(self, fd: int, callback: Callable[[Monitor], None], events: int = select.POLLIN) -> None:
        """Call back in the loop when a descriptor is ready, until `unwatch`; an exception of it ends the run.

        Args:
            fd: borrowed; take it out before it is closed.
            callback: must not block.
            events: what to wait for.
        """
        self._loop.add(fd, lambda: callback(self), events)

    def unwatch(self, fd: int) -> None:
        """Wait for that descriptor no more."""
        self._loop.remove(fd)

    # ---- the loop ------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        watched, loop, streams = self._watched, self._loop, self._streams
        if watched.cgroup is not None and not watched.needs_word and not watched.served:
            raise InternalError("a cgroup without a word for init")
        loop.add(self._channel.fileno(), self._on_status)
        if self._launched.pidfd >= 0:
            loop.add(self._launched.pidfd, self._on_janitor_gone)
        for fd, callback in watched.watches:
            self.watch(fd, callback)
        if watched.arrived is not None:
            for record in watched.arrived.records:
                try:
                    self._on_record(record)
                except (SandboxError, OSError) as failure:
                    self._fail(failure)
        while not self._done:
            streams.arm()
            resume = self.collected.listener.arm(loop) if self.collected.listener is not None else None
            ready = loop.wait(*self._clock.next_moments(resume))
            self._check_time()  # before anything else: moving bytes and answering denials may take a millisecond
            for fd, _ in ready:
                if not loop.handle(fd):
                    streams.on_ready(fd)
            if streams.exceeded and self.collected.killed_for is None:
                self.kill(Verdict.OUTPUT_LIMIT)

    def _check_time(self) -> None:
        now, clock = time.monotonic_ns(), self._clock
        clock.run_errands(now)
        if clock.patience_is_over(now):
            self.kill(None)
        elif (passed := clock.judge(now)) is not None:
            if passed is Verdict.SETUP_FAILED:
                late = SetupError("set up the sandbox", errno.ETIMEDOUT, step=f"nothing came for {SETUP_NS // 10**9} s")
                self._failure = self._failure or late
            self.kill(passed)

    # ---- what can happen -----------------------------------------------------------------------------------

    def _on_janitor_gone(self) -> None:
        """Its last record may still be in the socket; without the janitor init dies, so there is nothing else to wait for."""
        while not self._done and self._on_status():
            pass
        self._done = True

    def _on_status(self) -> bool:
        """Take one record; False when there is none now."""
        try:
            record = self._channel.receive()
            if record is None:
                if self._channel.ended and not self._done:
                    self._on_end()
                return False
            self._on_record(record)
        except (SandboxError, OSError) as failure:
            self._fail(failure)
        return True

    def _fail(self, failure: SandboxError | OSError) -> None:
        if isinstance(failure, SandboxError):
            self._failure = self._failure or failure
        else:
            # The payload has died while it waited, which is told elsewhere when its server did.
            self._vanished = self._failure is None and failure.errno == errno.ESRCH
            self._failure = self._failure or SetupError(failure.strerror or str(failure), failure.errno or 0, step="supervisor")
        self.kill(None)

    def _on_end(self) -> None:
        self._done = True
        if self._watched.served and self.collected.killed_for is None and (self._failure is None or self._vanished):
            self._failure = SetupError(
                "wait for the run", errno.ECONNRESET, step="the server died, and every run of it", hint="was it killed, or the host out of memory?"
            )  # fmt: skip

    def _on_record(self, record: Record) -> None:
        match record.kind:
            case Kind.FAILED:
                # When we gave up ourselves, init's complaint that no word came says nothing.
                self._failure = self._failure or self._watched.explain(record.row, record.a)
            case Kind.STARTED:
                if not take_init(self._watched, self._reins, record.pid, self._launched.pid):
                    return  # it failed and was reaped already; its own record comes next and says why
                if self._reins.doomed:
                    self.kill(None)
                    return
                self._watched.started(record.pid)
                if self._watched.cgroup is not None and self._watched.cgroup.oom_fd is not None:
                    self._loop.add(self._watched.cgroup.oom_fd, self._on_oom)
                if self._watched.needs_word:
                    self._reins.answer(fds.WORD_MADE)
            case Kind.READY:
                self._on_ready(record)
            case Kind.EXITED:
                self.collected.wait_status = record.a
                self.collected.tree = record.rusage
                self._clock.note_end(record.b)
                if self._watched.served:
                    self.collected.init_used_ns = process_cpu_ns(self.init_pid)
                    self._done = True
            case Kind.REAPED:
                self.collected.whole = record.rusage
                if self._clock.begun and not self.collected.wall_ns:
                    self._clock.note_end(time.monotonic_ns())
                self._done = True

    def _on_ready(self, record: Record) -> None:
        try:
            fetch_descriptors(self._watched, self.collected, record)
        except ProcessLookupError:
            if self._watched.hold is not None:
                raise
            # A signal that was passed on ended it while it waited for us: init's record comes next and says which.
            self._clock.begin()
            return
        self.payload_pid = record.pid
        if self._watched.hold is not None:
            self._reins.tell(fds.HOLD)  # init's own deadline is not running yet either
            self._watched.hold(self)
        else:
            self.begin(self._watched.go)

    def run_ahead(self) -> None:
        """Let a payload that is held be executed all the same: what it executes does not count before `begin`."""
        self._reins.let_go(self._watched.go)

    def wait_on(self, until_ns: int) -> None:
        """A payload that is held is ready: its set-up may take until that moment of CLOCK_MONOTONIC, when it is ended."""
        self._clock.wait_on(until_ns)

    def remind(self, at_ns: int, callback: Callable[[], object]) -> None:
        """Call back once, at that moment of CLOCK_MONOTONIC or soon after it, unless the run is over by then."""
        self._clock.remind(at_ns, callback)

    def begin(self, words: bytes = b"", *, limits: Limits | None = None, before: Used | None = None) -> None:
        """Let the payload go: what it uses from here on is its own.

        Args:
            words: what it waits for; nothing where it was told by another way.
            limits: those of time and output, where they are others than it was made with.
            before: what it has used already, where it was executed ahead.
        """
        watched = self._watched
        if limits is not None:
            watched.limits = limits
            self._streams.limit = limits.output_bytes
            self._clock.take_limits()
        self._clock.prepare(self.payload_pid)
        if before is not None:
            self.collected.before = before
            self.collected.setup_payload_ns += before.waited_ns
        if watched.instructions:
            from sandbox.supervise.instructions import Instructions

            self._instructions = Instructions(self.payload_pid, begun=before is not None)
        if watched.on_start is not None:
            watched.on_start(self)
        if watched.hold is not None:
            self._reins.tell(fds.RESUME)
        self._clock.begin()
        if words:
            self._reins.let_go(words)

    def _on_oom(self) -> None:
        assert self._watched.cgroup is not None and self._watched.cgroup.oom_fd is not None
        self._loop.remove(self._watched.cgroup.oom_fd)
        self.collected.cgroup_oom = True
        self.kill(Verdict.MEMORY_LIMIT)

    # ---- the end -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Everything is dead: move what is left in the pipes."""
        loop, streams = self._loop, self._streams
        loop.remove(self._channel.fileno())
        loop.remove(self._launched.pidfd)
        if self.collected.listener is not None:
            loop.remove(self.collected.listener.fileno())
        while not streams.empty_sources():
            streams.arm()
            if not streams.waiting:
                continue
            for fd, _ in loop.wait(0 if self._hurried else None):
                if not loop.handle(fd):
                    streams.on_ready(fd)
            if self._hurried:
                streams.cut()
        if self._streams.exceeded and self.collected.killed_for is None:
            self.collected.killed_for = Verdict.OUTPUT_LIMIT

    def close(self) -> None:
        """End what still runs, wait for that where nobody else does, and let go of everything; idempotent."""
        if self._closed:
            return
        if not self._done:
            self.kill(None)
            if self._watched.served:
                self._await_end()
        self._closed = True
        self._streams.close()
        if self._instructions is not None:
            self._instructions.close()
        if self._watched.machine is not None:
            self._watched.machine.close()
        served = self._watched.served
        discard = self._watched.discard if served and self.collected.tree is not None else os.close
        if self.collected.listener is not None:
            self.collected.listener.close(discard)
        self._loop.close()
        self._channel.close(discard)
        self._reins.close(discard, pipes=served)
        self._clock.close()

    def _over(self) -> bool:
        return self._done

    def _await_end(self) -> None:
        """Wait until init is gone, and with it everything, as the reaping of a janitor does; interrupts wait meanwhile."""
        with Shield():
            self._reins.drop()
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            deadline = time.monotonic_ns() + SETUP_NS
            while not self._over() and (left := deadline - time.monotonic_ns()) > 0:
                poll.poll(left // 1_000_000 + 1)
                while not self._over() and self._on_status():
                    pass


__all__ = ["Monitor", "Watched"]
