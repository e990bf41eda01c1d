"""The supervisor's loop: one poll over records, streams, denials and deadlines, from STARTED to the end.

It decides no policy and knows no profile: limits come as values, what to do at a stage as callables. Whatever happens in
here, `run` ends with every process of the sandbox dead.
"""

from __future__ import annotations

import errno
import os
import select
import time

from sandbox.cgroup.none import process_cpu_ns
from sandbox.errors import InternalError, SandboxError, SetupError
from sandbox.kernel.calls import pidfd_send_signal, set_slice
from sandbox.launch.shield import Shield
from sandbox.plan import fds
from sandbox.plan.codec import Kind, Record
from sandbox.result import Verdict
from sandbox.supervise.deadlines import PATIENCE_NS, SETUP_NS, Deadlines, count_processors, earliest
from sandbox.supervise.handover import fetch_descriptors, open_init
from sandbox.supervise.instructions import Instructions
from sandbox.supervise.loop import Loop
from sandbox.supervise.pausing import Pausing, StopWatch
from sandbox.supervise.records import Collected, Snapshot, StatusChannel
from sandbox.supervise.sampling import Sampling
from sandbox.supervise.streams import StreamSet
from sandbox.supervise.watched import Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from functools import partial

    from sandbox.launch.spawn import Launched
    from sandbox.policy.profile import Limits
    from sandbox.supervise.used import Used
else:
    from _functools import partial

_DENIALS_A_TURN = 64
_SETTLE_NS = 1_500_000  # after the start: a run that is over by then needs none of it
_SLICE_NS = 100_000  # the supervisor and init act in microseconds, and what they act against spins on every processor
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
        self._deadlines = Deadlines(watched.limits, count_processors())
        self._pausing = Pausing(partial(self._tell, "control"), watched.cgroup)
        self._sampling: Sampling | None = None
        self._instructions: Instructions | None = None
        self._stop_watch = StopWatch()
        self._init_pidfd = -1
        self._init_pid = 0
        self.payload_pid = 0
        self._go_ns = 0
        self._settle_ns: int | None = None
        self._reminder: tuple[int, Callable[[], object]] | None = None
        self._short = False
        self._listening = False
        self._done = False
        self._closed = False
        self._vanished = False
        self._doomed = False
        self._hurried = False
        self._failure: SandboxError | None = None
        self.collected = Collected()

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
        if verdict is not None and self._go_ns and self._deadlines.kill_at is None:
            tree = self._sampling.pids if self._sampling is not None and self.state == "paused" else list
            self._pausing.kill_all(pid for pid in tree() if pid != self._init_pid)
            self._deadlines.doom(time.monotonic_ns())
        elif self._init_pidfd >= 0:
            try:
                pidfd_send_signal(self._init_pidfd, _SIGKILL)
            except ProcessLookupError:
                pass
            if self._go_ns:
                self._pausing.kill_cgroup()
        else:
            self._doomed = True  # init is not known yet; it is killed as soon as it is
            self._tell("go", fds.WORD_STOP)

    def signal(self, number: int) -> None:
        """Pass a signal on to the payload, through init; once it has ended, a signal ends the wait for whoever reads its output.

        SIGKILL ends a paused run: a frozen init would not hear of it before the pause is over, and whoever sends it may wait for the end.
        """
        if self._done:
            self.hurry()
        elif number == _SIGKILL and self.state == "paused":
            self.kill(Verdict.SIGNALED)
        elif 0 < number <= fds.LAST_SIGNAL and not (number == _SIGCONT and self.state == "paused"):
            self._tell("control", number)

    def hurry(self) -> None:
        """Do not wait, once everything is dead, for whoever reads its output: what they have not taken by then is lost, and said to be."""
        self._hurried = True

    # ---- what others ask for -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``paused`` or ``ending``."""
        if self._done or self._deadlines.kill_at is not None:
            return "ending"
        if not self._go_ns:
            return "starting"
        return "running" if self._deadlines.paused_at is None else "paused"

    def pause(self) -> bool:
        """Stop every process of the run until `resume`; return whether it is paused now. Its limits of time do not run meanwhile.

        By the cgroup's freezer, of which the payload sees nothing; where there is none, by SIGSTOP from init, which a parent in the run may notice.
        """
        if self.state != "running":
            return self.state == "paused"
        self._pausing.pause()
        now = time.monotonic_ns()
        self._deadlines.hold(now)
        if self._sampling is not None:
            self._stop_watch.begin(now, self._sampling.cpu_ns())
        return True

    def resume(self) -> bool:
        """Let a paused run go on; return whether it is running now."""
        if self.state != "paused":
            return self.state == "running"
        self._pausing.resume()
        self._deadlines.go_on(time.monotonic_ns())
        return True

    @property
    def init_pid(self) -> int:
        """Init's number on this host, 0 before it is known."""
        return self._init_pid

    def snapshot(self) -> Snapshot:
        """Return what the run uses at this moment, as far as this host can tell."""
        now = time.monotonic_ns()
        at = Snapshot(
            state=self.state,
            init_pid=self._init_pid,
            wall_ns=self._deadlines.lived_ns(now) if not self._done else self.collected.wall_ns,
            paused_ns=self._deadlines.paused_ns + (now - self._deadlines.paused_at if self._deadlines.paused_at is not None else 0),
            output_bytes=self._streams.output_bytes,
            denials=sum(self.collected.listener.summary().by_syscall().values()) if self.collected.listener is not None else 0,
        )
        return at if self._sampling is None or self._done else self._sampling.describe(at)

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

    def _tell(self, pipe: str, word: int) -> None:
        fd = getattr(self._launched.descriptors, pipe)
        if fd >= 0:
            try:
                os.write(fd, bytes([word]))
            except OSError:
                pass  # nobody reads any more: the run is over

    def _let_go(self, word: bytes) -> None:
        """Write what the payload waits for. A long one may not fit into the pipe, but is read as it is written."""
        try:
            while word:
                word = word[os.write(self._launched.descriptors.go, word) :]
        except BrokenPipeError:
            pass  # it is dead already, which its records tell

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
            self._arm_listener()
            ready = loop.wait(*self._next_moments())
            self._check_deadlines()  # before anything else: moving bytes and answering denials may take a millisecond
            for fd, _ in ready:
                if not loop.handle(fd):
                    streams.on_ready(fd)
            if streams.exceeded and self.collected.killed_for is None:
                self.kill(Verdict.OUTPUT_LIMIT)

    def _arm_listener(self) -> None:
        """Wait for denied calls, but not while they are held up, nor once nobody can make any."""
        listener = self.collected.listener
        if listener is None:
            return
        resume = listener.resume_at_ns()
        wanted = not listener.hung_up and (resume is None or resume <= time.monotonic_ns())
        if wanted != self._listening:
            self._listening = wanted
            if wanted:
                self._loop.add(listener.fileno(), partial(listener.handle_ready, _DENIALS_A_TURN))
            else:
                self._loop.remove(listener.fileno())

    def _next_moments(self) -> tuple[int | None, int | None]:
        """Return when a limit may be passed, and when there is something to look at."""
        due = self._deadlines.next_ns()
        if self._sampling is None:
            return due, None
        state = self.state
        sample = self._sampling.next_ns if state == "running" else None
        if state == "paused" and not self._pausing.frozen:
            sample = self._stop_watch.next_ns
        listener = self.collected.listener
        # In the past it says nothing: then the listener itself is waited for.
        resume = listener.resume_at_ns() if not self._listening and listener is not None else None
        reminder = self._reminder[0] if self._reminder is not None else None
        if self._watched.sample:
            due, sample = earliest(due, sample), None  # a look may end the run
        view = self._watched.machine.next_ns if self._watched.machine is not None and state == "running" else None
        if resume is not None or self._settle_ns is not None or reminder is not None or view is not None:
            sample = earliest(sample, resume, self._settle_ns, reminder, view)
        return due, sample

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
                self._init_pid = record.pid
                self._init_pidfd, stat = open_init(self._watched, record.pid, self._launched.pid)
                if self._init_pidfd < 0:
                    return  # it failed and was reaped already; its own record comes next and says why
                if self._watched.adopted is not None:
                    self._watched.adopted(record.pid, stat)
                if self._doomed:
                    self.kill(None)
                    return
                self._watched.started(record.pid)
                if self._watched.cgroup is not None and self._watched.cgroup.oom_fd is not None:
                    self._loop.add(self._watched.cgroup.oom_fd, self._on_oom)
                if self._watched.needs_word:
                    self._tell("go", fds.WORD_MADE)
            case Kind.READY:
                self._on_ready(record)
            case Kind.EXITED:
                self.collected.wait_status = record.a
                self.collected.tree = record.rusage
                self._note_end(record.b)
                if self._watched.served:
                    self.collected.init_used_ns = process_cpu_ns(self._init_pid)
                    self._done = True
            case Kind.REAPED:
                self.collected.whole = record.rusage
                if self._go_ns and not self.collected.wall_ns:
                    self._note_end(time.monotonic_ns())
                self._done = True

    def _note_end(self, at_ns: int) -> None:
        self.collected.wall_ns = self._deadlines.lived_ns(at_ns)
        self.collected.paused_ns = self._deadlines.paused_ns
        if self._sampling is not None:
            self._sampling.finish(at_ns)

    def _on_ready(self, record: Record) -> None:
        try:
            fetch_descriptors(self._watched, self.collected, record)
        except ProcessLookupError:
            if self._watched.hold is not None:
                raise
            # A signal that was passed on ended it while it waited for us: init's record comes next and says which.
            self._go_ns = time.monotonic_ns()
            self._deadlines.begin(self._go_ns)
            return
        self.payload_pid = record.pid
        if self._watched.hold is not None:
            self._tell("control", fds.HOLD)  # init's own deadline is not running yet either
            self._watched.hold(self)
        else:
            self.begin(self._watched.go)

    def run_ahead(self) -> None:
        """Let a payload that is held be executed all the same: what it executes does not count before `begin`."""
        self._let_go(self._watched.go)

    def wait_on(self, until_ns: int) -> None:
        """A payload that is held is ready: its set-up may take until that moment of CLOCK_MONOTONIC, when it is ended."""
        self._deadlines.setup_at = until_ns

    def remind(self, at_ns: int, callback: Callable[[], object]) -> None:
        """Call back once, at that moment of CLOCK_MONOTONIC or soon after it, unless the run is over by then."""
        self._reminder = (at_ns, callback)

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
            self._deadlines = Deadlines(limits, count_processors())
        self._sampling = Sampling(self._init_pid, self.payload_pid, watched.limits, watched.sample, self.collected, watched.cgroup)
        if before is not None:
            self.collected.before = before
            self.collected.setup_payload_ns += before.waited_ns
        if watched.instructions:
            self._instructions = Instructions(self.payload_pid, begun=before is not None)
        if watched.on_start is not None:
            watched.on_start(self)
        if watched.hold is not None:
            self._tell("control", fds.RESUME)
        self._go_ns = time.monotonic_ns()
        self._settle_ns = self._go_ns + _SETTLE_NS
        self._deadlines.begin(self._go_ns)
        if watched.machine is not None:
            watched.machine.begin(self._go_ns, self._sampling)
        if words:
            self._let_go(words)

    def _on_oom(self) -> None:
        assert self._watched.cgroup is not None and self._watched.cgroup.oom_fd is not None
        self._loop.remove(self._watched.cgroup.oom_fd)
        self.collected.cgroup_oom = True
        self.kill(Verdict.MEMORY_LIMIT)

    def _check_deadlines(self) -> None:
        now = time.monotonic_ns()
        due = self._deadlines
        if self._settle_ns is not None and now >= self._settle_ns:
            self._settle_ns = None
            if self._watched.meanwhile is not None:
                self._watched.meanwhile()
            self._short = set_slice(0, _SLICE_NS)
            set_slice(self._init_pid, _SLICE_NS)
        if self._reminder is not None and now >= self._reminder[0]:
            (_, callback), self._reminder = self._reminder, None
            callback()
        if due.kill_at is not None and now >= due.kill_at:
            self.kill(None)
            due.kill_at = now + PATIENCE_NS
        elif due.setup_at is not None and now >= due.setup_at:
            self._failure = self._failure or SetupError(
                "set up the sandbox", errno.ETIMEDOUT, step=f"nothing came for {SETUP_NS // 10**9} s"
            )
            due.setup_at = now + PATIENCE_NS
            self.kill(Verdict.SETUP_FAILED)
        if self._sampling is None or self.state != "running":
            if self._sampling is not None and self.state == "paused" and not self._pausing.frozen:
                self._check_stopped(self._sampling, now)
            return
        if due.wall_at is not None and now >= due.wall_at:
            self.kill(Verdict.WALL_LIMIT)
        elif due.cpu_at is not None and now >= due.cpu_at and (passed := due.judge_cpu(now, used := self._sampling.cpu_ns())):
            self.collected.idle_ns = due.lived_ns(now) - used
            self.kill(Verdict.CPU_LIMIT if passed == "cpu" else Verdict.IDLE_LIMIT)
        elif self._sampling.next_ns is not None and now >= self._sampling.next_ns and not self._sampling.put_off(due.wall_at, now):
            self._sampling.look(now)
            if self._sampling.over_memory:
                self.kill(Verdict.MEMORY_LIMIT)
        elif self._watched.machine is not None and (view := self._watched.machine.next_ns) is not None and now >= view:
            self._watched.machine.look(now)

    def _check_stopped(self, sampling: Sampling, now: int) -> None:
        """Where what is stopped goes on by itself, its limits count, and it is stopped again."""
        if now < self._stop_watch.next_ns:
            return
        used = sampling.cpu_ns()
        since = self._stop_watch.look(now, used)
        if since is None:
            return
        self._pausing.stop_again()
        cpu = self._watched.limits.cpu_ns
        if cpu is not None and used > cpu:
            self.kill(Verdict.CPU_LIMIT)
        elif self._deadlines.count(since, now):
            self.kill(Verdict.WALL_LIMIT)
        elif self._watched.sample:
            sampling.look(now)
            if sampling.over_memory:
                self.kill(Verdict.MEMORY_LIMIT)

    # ---- the end -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Everything is dead: move what is left in the pipes."""
        loop, streams = self._loop, self._streams
        loop.remove(self._channel.fileno())
        loop.remove(self._launched.pidfd)
        if self._listening and self.collected.listener is not None:
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
        if self._init_pidfd >= 0:
            discard(self._init_pidfd)
            self._init_pidfd = -1
        self._loop.close()
        self._channel.close(discard)
        if served:
            ends = self._launched.descriptors
            for fd in (ends.go, ends.control):
                if fd >= 0:
                    discard(fd)
            ends.go = ends.control = -1
        if self._short:
            set_slice(0, 0)

    def _over(self) -> bool:
        return self._done

    def _await_end(self) -> None:
        """Wait until init is gone, and with it everything, as the reaping of a janitor does; interrupts wait meanwhile."""
        with Shield():
            self._launched.descriptors.close_one("control")  # whose end kills everything, also an init that is not known yet
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            deadline = time.monotonic_ns() + SETUP_NS
            while not self._over() and (left := deadline - time.monotonic_ns()) > 0:
                poll.poll(left // 1_000_000 + 1)
                self._doomed = True
                while not self._over() and self._on_status():
                    pass


__all__ = ["Monitor", "Watched"]
