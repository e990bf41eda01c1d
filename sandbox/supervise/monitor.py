"""The supervisor's loop: one epoll over records, streams, denials and deadlines, from STARTED to REAPED.

It decides no policy and knows no profile: limits come as values, what to do at a stage as callables. Whatever happens in
here, `run` ends with every process of the sandbox dead and the janitor reaped.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.cgroup.model import CgroupRun
from sandbox.cgroup.none import TreeSampler, parse_stat
from sandbox.errors import InternalError, ProtocolError, SandboxError, SetupError
from sandbox.kernel.calls import pidfd_getfd, pidfd_send_signal
from sandbox.launch.spawn import Launched
from sandbox.plan import fds
from sandbox.plan.codec import RECORD, Kind, Record, decode_record
from sandbox.policy.profile import Limits
from sandbox.result import Verdict
from sandbox.supervise.notify import NotifyListener
from sandbox.supervise.pump import Pump

_SETUP_NS = 30_000_000_000
_SAMPLE_NS = 20_000_000
_PATIENCE_NS = 50_000_000
_DENIALS_A_TURN = 64
_SIGKILL = 9
_ALWAYS_READY = -1  # instead of an epoll mask: a regular file
_UCRED = struct.Struct("iII")


@dataclass(slots=True, kw_only=True)
class Watched:
    """What the monitor needs besides the launched processes.

    `started` is called with init's pid before it is let on (id maps, cgroups); `needs_word` says that init waits for that. `listen` makes the
    listener of denials from its fd. `terminal` is called with the pty master (taken) and returns the pumps of it.
    `sample` names the limits that are enforced by sampling. `explain` turns a failure record into an error.
    """

    limits: Limits
    started: Callable[[int], None]
    needs_word: bool
    explain: Callable[[int, int], SandboxError]
    pumps: list[Pump]
    cgroup: CgroupRun | None = None
    listen: Callable[[int], NotifyListener] | None = None
    terminal: Callable[[int], list[Pump]] | None = None
    wake_fd: int = -1
    on_wake: Callable[[Monitor], None] | None = None
    sample: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Collected:
    """The raw facts of a run that came to its end."""

    wait_status: int | None = None
    killed_for: Verdict | None = None
    wall_ns: int = 0
    cpu_user_ns: int = 0
    cpu_sys_ns: int = 0
    maxrss_bytes: int = 0
    sampled_cpu_ns: int = 0
    sampled_memory_bytes: int = 0
    sampled_processes: int = 0
    samples: int = 0
    output_bytes: int = 0
    cgroup_oom: bool = False
    listener: NotifyListener | None = field(default=None)


class Monitor:
    """One run under supervision; takes the status socket of what was launched."""

    def __init__(self, launched: Launched, watched: Watched) -> None:
        import _socket

        # One object for the whole run: one made for each record would close the descriptor if an interrupt came before it was detached.
        self._channel = _socket.socket(fileno=launched.descriptors.status)
        launched.descriptors.status = -1
        self._launched = launched
        self._watched = watched
        self._epoll = select.epoll()
        self._interest: dict[int, int] = {}
        self._init_pidfd = -1
        self._init_pid = 0
        self._sampler: TreeSampler | None = None
        self._began_ns = time.monotonic_ns()
        self._go_ns = 0
        self._done = False
        self._doomed = False
        self._hurried = False
        self._failure: SandboxError | None = None
        self._cpu_check_ns: int | None = None
        self._sample_at_ns: int | None = None
        self._kill_at_ns: int | None = None
        self._cpus = len(os.sched_getaffinity(0)) or 1
        self.collected = Collected()

    def run(self) -> Collected:
        """Supervise until the end.

        Raises:
            SandboxError: the set-up failed; nothing of the run is left.
        """
        try:
            self._loop()
            if self._failure is not None:
                raise self._failure
            self._drain()
            return self.collected
        finally:
            self._finish()

    def kill(self, verdict: Verdict | None) -> None:
        """Kill the whole run; the first verdict given stays.

        For a verdict init is asked to do it, because only what init reaps itself is counted in the usage (the kernel throws the children
        of a killed pid 1 away uncounted); if it does not at once, or without a verdict, init itself is killed, which cannot fail.
        """
        if self.collected.killed_for is None:
            self.collected.killed_for = verdict
        if verdict is not None and self._go_ns and self._kill_at_ns is None:
            self._tell("control", fds.KILL_ALL)
            self._kill_at_ns = time.monotonic_ns() + _PATIENCE_NS
        elif self._init_pidfd >= 0:
            try:
                pidfd_send_signal(self._init_pidfd, _SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self._doomed = True  # init is not known yet; it is killed as soon as it is
            self._tell("go", fds.WORD_STOP)

    def signal(self, number: int) -> None:
        """Pass a signal on to the payload, through init; once it has ended, a signal ends the wait for whoever reads its output."""
        if self._done:
            self._hurried = True
        elif 0 < number < fds.KILL_ALL:
            self._tell("control", number)

    def _tell(self, pipe: str, word: int) -> None:
        fd = getattr(self._launched.descriptors, pipe)
        if fd >= 0:
            try:
                os.write(fd, bytes([word]))
            except OSError:
                pass  # nobody reads any more: the run is over

    # ---- the loop ------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        status = self._channel.fileno()
        self._epoll.register(status, select.EPOLLIN)
        self._epoll.register(self._launched.pidfd, select.EPOLLIN)
        if self._watched.wake_fd >= 0:
            self._epoll.register(self._watched.wake_fd, select.EPOLLIN)
        if self._watched.cgroup is not None and not self._watched.needs_word:
            raise InternalError("a cgroup without a word for init")
        while not self._done:
            ready_now = self._arm()
            timeout = 0.0 if ready_now else self._timeout()
            for fd, events in self._epoll.poll(timeout, 16):
                if fd == status:
                    self._on_status()
                elif fd == self._launched.pidfd:
                    self._on_janitor_gone()
                elif fd == self._watched.wake_fd and self._watched.on_wake is not None:
                    self._watched.on_wake(self)
                elif self.collected.listener is not None and fd == self.collected.listener.fileno():
                    self._on_denial()
                elif self._watched.cgroup is not None and fd == self._watched.cgroup.oom_fd:
                    self._on_oom(fd)
                else:
                    self._on_stream(fd, events)
            for pump in ready_now:
                self._move(pump)
            self._check_deadlines()

    def _arm(self) -> list[Pump]:
        """Bring epoll's interest up to date; return pumps on files that epoll does not take because they are always ready."""
        wanted: dict[int, int] = {}
        immediate: list[Pump] = []
        for pump in self._watched.pumps:
            if (fd := pump.read_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.EPOLLIN
            elif (fd := pump.write_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.EPOLLOUT
        if (listener := self.collected.listener) is not None and not listener.hung_up:
            resume = listener.resume_at_ns()
            if resume is None or resume <= time.monotonic_ns():
                wanted[listener.fileno()] = select.EPOLLIN
        for fd in [fd for fd in self._interest if fd not in wanted]:
            del self._interest[fd]
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed meanwhile, or a regular file
        for fd, events in wanted.items():
            before = self._interest.get(fd)
            if before in (events, _ALWAYS_READY):
                continue
            self._interest[fd] = events
            try:
                if before is None:
                    self._epoll.register(fd, events)
                else:
                    self._epoll.modify(fd, events)
            except PermissionError:  # a regular file
                self._interest[fd] = _ALWAYS_READY
            except FileNotFoundError:
                self._epoll.register(fd, events)
            except FileExistsError:
                self._epoll.modify(fd, events)
        for pump in self._watched.pumps:
            fd = pump.read_fd() if pump.read_fd() >= 0 else pump.write_fd()
            if fd >= 0 and self._interest.get(fd) == _ALWAYS_READY:
                immediate.append(pump)
        return immediate

    def _timeout(self) -> float:
        now = time.monotonic_ns()
        moments = [self._deadline_ns()]
        if self.collected.killed_for is None:
            moments += [self._cpu_check_ns, self._sample_at_ns]
        if self.collected.listener is not None and (resume := self.collected.listener.resume_at_ns()) is not None:
            moments.append(resume)
        due = min((moment for moment in moments if moment is not None), default=None)
        return -1.0 if due is None else max(0.0, (due - now) / 1e9)

    def _deadline_ns(self) -> int | None:
        if self.collected.killed_for is not None:
            return self._kill_at_ns
        if not self._go_ns:
            return self._began_ns + _SETUP_NS
        wall = self._watched.limits.wall_ns
        return None if wall is None else self._go_ns + wall

    # ---- what can happen -----------------------------------------------------------------------------------

    def _on_janitor_gone(self) -> None:
        """Its last record may still be in the socket; without the janitor init dies, so there is nothing else to wait for."""
        while not self._done and self._on_status():
            pass
        self._done = True

    def _on_status(self) -> bool:
        """Take one record; False when there is none now."""
        import _socket

        try:
            data, ancillary, _, _ = self._channel.recvmsg(RECORD.size, _socket.CMSG_SPACE(_UCRED.size), _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                raise
            data, ancillary = b"", []
        if not data:
            self._done = True
            return False
        pid = next((_UCRED.unpack(content[: _UCRED.size])[0] for _, kind, content in ancillary if kind == _socket.SCM_CREDENTIALS), 0)
        record = decode_record(data, pid)
        if record is None or record.pid <= 0:
            self._failure = ProtocolError(f"executor sent {len(data)} bytes that are no record")
            self.kill(None)
            return True
        try:
            self._on_record(record)
        except SandboxError as failure:
            self._failure = self._failure or failure
            self.kill(None)
        except OSError as failure:
            self._failure = self._failure or SetupError(failure.strerror or str(failure), failure.errno or 0, step="supervisor")
            self.kill(None)
        return True

    def _on_record(self, record: Record) -> None:
        match record.kind:
            case Kind.FAILED:
                # When we gave up ourselves, init's complaint that no word came says nothing.
                self._failure = self._failure or self._watched.explain(record.row, record.a)
            case Kind.STARTED:
                self._init_pid = record.pid
                if not self._adopt(record.pid):
                    return  # it failed and was reaped already; its own record comes next and says why
                if self._doomed:
                    self.kill(None)
                    return
                self._watched.started(record.pid)
                if self._watched.cgroup is not None and self._watched.cgroup.oom_fd is not None:
                    self._epoll.register(self._watched.cgroup.oom_fd, select.EPOLLIN)
                if self._watched.needs_word:
                    self._tell("go", fds.WORD_MADE)
            case Kind.READY:
                self._on_ready(record)
            case Kind.EXITED:
                self.collected.wait_status = record.a
                self.collected.wall_ns = max(0, record.b - self._go_ns)
                self.collected.maxrss_bytes = record.maxrss_bytes
            case Kind.REAPED:
                self.collected.cpu_user_ns = record.utime_ns
                self.collected.cpu_sys_ns = record.stime_ns
                self.collected.maxrss_bytes = max(self.collected.maxrss_bytes, record.maxrss_bytes)
                if self._go_ns and not self.collected.wall_ns:
                    self.collected.wall_ns = time.monotonic_ns() - self._go_ns
                self._done = True

    def _adopt(self, pid: int) -> bool:
        """Open init's pidfd; False when that process is gone, even if its number is somebody else's by now: only the janitor has init as a child."""
        try:
            self._init_pidfd = os.pidfd_open(pid)
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                stat = parse_stat(file.read())
        except (ProcessLookupError, FileNotFoundError):
            stat = None
        if stat is not None and stat.parent == self._launched.pid:
            return True
        if self._init_pidfd >= 0:
            os.close(self._init_pidfd)
            self._init_pidfd = -1
        return False

    def _on_ready(self, record: Record) -> None:
        pidfd = os.pidfd_open(record.pid)
        try:
            if record.a >= 0:
                if self._watched.listen is None:
                    raise ProtocolError("a listener that nobody asked for")
                self.collected.listener = self._watched.listen(pidfd_getfd(pidfd, record.a))
            if record.b >= 0 and self._watched.terminal is not None:
                self._watched.pumps += self._watched.terminal(pidfd_getfd(pidfd, record.b))
        except PermissionError as error:
            raise SetupError(
                "fetch the audit's descriptor with pidfd_getfd", error.errno or errno.EPERM, step="audit",
                hint="kernel.yama.ptrace_scope 3 forbids it: `sysctl kernel.yama.ptrace_scope=1`",
            ) from None  # fmt: skip
        finally:
            os.close(pidfd)
        limits, sample = self._watched.limits, self._watched.sample
        if sample or (limits.cpu_ns is not None and self._watched.cgroup is None):
            self._sampler = TreeSampler(self._init_pid)
        self._go_ns = time.monotonic_ns()
        if limits.cpu_ns is not None:
            self._cpu_check_ns = self._go_ns + limits.cpu_ns // self._cpus
        if sample:
            self._sample_at_ns = self._go_ns + _SAMPLE_NS // 4
        self._tell("go", fds.WORD_GO)

    def _on_denial(self) -> None:
        listener = self.collected.listener
        assert listener is not None
        listener.handle_ready(_DENIALS_A_TURN)

    def _on_oom(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self.collected.cgroup_oom = True
        self.kill(Verdict.MEMORY_LIMIT)

    def _on_stream(self, fd: int, events: int) -> None:
        for pump in self._watched.pumps:
            if fd in (pump.read_fd(), pump.write_fd()):
                self._move(pump)

    def _move(self, pump: Pump) -> None:
        before = {pump.source, pump.destination}
        self._move_once(pump)
        for fd in before - {pump.source, pump.destination}:
            self._interest.pop(fd, None)  # closed: the number may be another file's before the next look

    def _move_once(self, pump: Pump) -> None:
        if pump.write_fd() >= 0:
            pump.flush()
        else:
            self._take(pump)

    def _take(self, pump: Pump) -> int:
        limit = self._watched.limits.output_bytes if pump.count else None
        allowance = None if limit is None else max(0, limit - self.collected.output_bytes)
        got = pump.fill(allowance)
        if pump.count:
            self.collected.output_bytes += got
        if allowance is not None and got > allowance:
            self.kill(Verdict.OUTPUT_LIMIT)
        return got

    def _check_deadlines(self) -> None:
        if self._done:
            return
        now = time.monotonic_ns()
        deadline = self._deadline_ns()
        if deadline is not None and now >= deadline:
            if self._kill_at_ns is not None:
                self.kill(None)
                self._kill_at_ns = now + _PATIENCE_NS
            elif self._go_ns:
                self.kill(Verdict.WALL_LIMIT)
            else:
                self._failure = SetupError("set up the sandbox", errno.ETIMEDOUT, step=f"nothing came for {_SETUP_NS // 10**9} s")
                self.kill(Verdict.SETUP_FAILED)
        if self.collected.killed_for is not None:
            return
        if self._sample_at_ns is not None and now >= self._sample_at_ns:
            self._sample(now)
        if self._cpu_check_ns is not None and now >= self._cpu_check_ns:
            self._check_cpu(now)

    def _check_cpu(self, now: int) -> None:
        limit = self._watched.limits.cpu_ns
        assert limit is not None
        used = self._cpu_used()
        if used > limit:
            self.kill(Verdict.CPU_LIMIT)
        else:
            # The earliest moment at which all processors together could have used what is left.
            self._cpu_check_ns = now + max(1_000_000, (limit - used) // self._cpus)

    def _cpu_used(self) -> int:
        if self._watched.cgroup is not None:
            return self._watched.cgroup.cpu_ns()
        if self._sampler is None:
            return 0
        sample = self._sampler.sample()
        self.collected.sampled_cpu_ns = max(self.collected.sampled_cpu_ns, sample.cpu_ns)
        return sample.cpu_ns

    def _sample(self, now: int) -> None:
        assert self._sampler is not None
        sample = self._sampler.sample()
        facts, limits = self.collected, self._watched.limits
        facts.samples += 1
        facts.sampled_cpu_ns = max(facts.sampled_cpu_ns, sample.cpu_ns)
        facts.sampled_processes = max(facts.sampled_processes, sample.threads)
        memory = sample.rss_bytes
        if limits.memory_bytes is not None and memory > limits.memory_bytes and "memory" in self._watched.sample:
            memory = min(memory, self._sampler.proportional_bytes())
            if memory > limits.memory_bytes or sample.truncated:
                self.kill(Verdict.MEMORY_LIMIT)
        facts.sampled_memory_bytes = max(facts.sampled_memory_bytes, memory)
        cost = time.monotonic_ns() - now
        self._sample_at_ns = now + max(_SAMPLE_NS, 20 * cost)  # at most a twentieth of one processor

    # ---- the end -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Everything is dead: move what is left in the pipes, to where they are empty (a fork of the caller's may keep them from ending)."""
        for pump in self._watched.pumps:
            if not pump.count:
                pump.close()
        while not all(pump.ended for pump in self._watched.pumps):
            for pump in self._watched.pumps:
                while pump.read_fd() >= 0:
                    if not self._take(pump):
                        pump.end_source()
            immediate = self._arm()
            if not self._interest:
                continue
            for fd, _ in self._epoll.poll(0 if immediate else -1, 16):
                if fd == self._watched.wake_fd and self._watched.on_wake is not None:
                    self._watched.on_wake(self)
                else:
                    self._on_stream(fd, 0)
            for pump in immediate:
                self._move(pump)
            if self._hurried:
                for pump in self._watched.pumps:
                    pump.cut()

    def _finish(self) -> None:
        if not self._done:
            self.kill(None)
        for pump in self._watched.pumps:
            pump.close()
        if self.collected.listener is not None:
            self.collected.listener.close()
        if self._init_pidfd >= 0:
            os.close(self._init_pidfd)
            self._init_pidfd = -1
        self._epoll.close()
        self._channel.close()
