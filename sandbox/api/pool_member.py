"""A member: a run that was made before anybody asked for it, and waits, confined, for its one command. Only the pools of `api` import it.

It is a `BackgroundRun` whose command, streams and limits of time come later. What was used until then is nobody's, what was printed is thrown away. The pool
decides who gets it; here is how it is handed over, and how it ends when nobody does.
"""

from __future__ import annotations

import os
import threading
import time

from sandbox.abi import uapi
from sandbox.api.background import BackgroundRun
from sandbox.api.call import Call, with_files
from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import new_run_id
from sandbox.api.python import Answer
from sandbox.api.streams import Streams
from sandbox.audit.events import escape_untrusted
from sandbox.audit.sinks import NullSink
from sandbox.cgroup.none import process_cpu_ns
from sandbox.errors import SandboxError
from sandbox.record import dataclass, field, replace
from sandbox.supervise.held import HeldFeed, HeldOutput
from sandbox.supervise.used import Used, read_used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.prepare import Prepared
    from sandbox.api.start import Launcher
    from sandbox.audit.sinks import Sink
    from sandbox.cgroup.model import CgroupRun
    from sandbox.result import Result
    from sandbox.supervise.monitor import Monitor
    from sandbox.supervise.pump import Pump

AHEAD_CPU_S = 60
"""CPU time of each process, in seconds, that may be used before the command comes; the set-up's deadline ends it sooner."""

_SECOND_NS = 1_000_000_000
_SHOWN = 500
_SOON_NS = 5_000_000  # making a member takes the time of one that is about to end
_NOBODY = "nobody asked for it"


class NeverTakenError(SandboxError):
    """A member ended, or was ended, without a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a member is told to be.

    Attributes:
        call: the run that was asked for; of its limits only those of time and output may be others than the member's.
        streams: as for any run.
        sink: where denials go.
        owns_sink: whether the sink is closed at the end.
        owned: descriptors among those of `streams` that are closed at the end.
        processors: those of the caller, which the run may use where the profile names none.
        prefix: what the interpreter reads before the run's own input.
        then: is called when the run has ended, or goes on for a while: now is the time to make the next member.
    """

    call: Call
    streams: Streams
    sink: Sink
    owns_sink: bool
    owned: tuple[int, ...] = ()
    processors: frozenset[int]
    prefix: bytes = b""
    then: Callable[[], object]


@dataclass(slots=True, kw_only=True)
class _Turn:
    """Who has a member, and how far it is."""

    state: str = "building"  # waiting, taken, over
    order: Order | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)


class Member(BackgroundRun):
    """One warm interpreter, from its sandbox's making to the end of its one run.

    Args:
        model: what it is made from: an interpreter that waits, with limits that hold for every run that may take it.
        launcher: see `execute`.
        max_age_ns: how long it may wait.
        on_warm: is called, in its thread, when it waits.
        on_over: is called, in its thread, when it is over and nobody had asked for it.

    Attributes:
        model: see there.
        memory_bytes: what its process holds while it waits; 0 before.
        import_failure: why a module could not be imported; empty otherwise.
        expired: it waited too long.
    """

    prepared: Prepared | None

    def __init__(
        self,
        model: Prepared,
        *,
        launcher: Launcher | None,
        max_age_ns: int,
        on_warm: Callable[[Member], None],
        on_over: Callable[[Member], None],
    ) -> None:
        self.prepared = None
        self.model = model
        self.began_ns = time.monotonic_ns()
        self.warm_ns = 0
        self.failure = ""
        self.import_failure = ""
        self.memory_bytes = 0
        self.expired = False
        self._max_age_ns = max_age_ns
        self._on_warm = on_warm
        self._on_over = on_over
        self._turn = _Turn()
        self._answer = Answer()
        self._monitor: Monitor | None = None
        self._cgroup: CgroupRun | None = None
        self._register: Callable[[Prepared], None] | None = None
        self._used = Used()
        self._held: tuple[HeldFeed, HeldOutput, HeldOutput] | None = None
        self._directory = -1
        streams = Streams(made=self._make_streams)
        prepared = replace(model, run_id=new_run_id())
        super().__init__(Call(prepared=prepared, patterns=(), collect_bytes=0), streams, sink=NullSink(), owns_sink=False, launcher=launcher)

    # ---- for the pool, from any thread -------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``building``, ``waiting``, ``taken`` or ``over``."""
        return self._turn.state

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until it is built, or so many seconds; return whether it waits for a command then."""
        turn = self._turn
        with turn.changed:
            turn.changed.wait_for(lambda: turn.state != "building", timeout)
            return turn.state == "waiting"

    def take(self, order: Order) -> bool:
        """Give it its command; False when it cannot take one, and then nothing of the order was used."""
        turn = self._turn
        with turn.changed:
            if turn.state != "waiting":
                return False
            turn.state, turn.order = "taken", order
            self._sink, self._owns_sink, self._owned = order.sink, order.owns_sink, order.owned
            self.signal(0)  # wakes its thread
        return True

    def discard(self) -> bool:
        """End it if nobody has it; return whether that was so."""
        turn = self._turn
        with turn.changed:
            mine = turn.state in ("building", "waiting")
            if mine:
                turn.state = "over"
                turn.changed.notify_all()
        if mine:
            self.kill()
        return mine

    # ---- in its own thread ---------------------------------------------------------------------------------

    def _execute(self, hooks: Hooks) -> Result:
        call, self._call = self._call, None
        launcher, self._launcher = self._launcher, None
        assert call is not None
        hooks.held = self
        try:
            result = replace(execute(call.prepared, self._streams, hooks, launcher).result, launched="interpreter")
            order = self._turn.order
            if order is None:
                raise NeverTakenError(f"a warm interpreter ended: {self.failure or _NOBODY}")
            return result if self._directory < 0 else with_files(result, self._directory, order.call)
        except SandboxError as error:
            self.failure = self.failure or error.message
            self.import_failure = self.import_failure or getattr(error, "import_failure", "")  # a zygote's, of which it should have been a fork
            raise
        finally:
            if self._directory >= 0:
                os.close(self._directory)
            self._end()

    def _end(self) -> None:
        turn = self._turn
        with turn.changed:
            taken = turn.state == "taken"
            self.expired = turn.state == "waiting" and time.monotonic_ns() >= self.warm_ns + self._max_age_ns
            turn.state = "over"
            turn.changed.notify_all()
        if not taken:
            self._on_over(self)

    def _work(self) -> None:
        super()._work()
        order = self._turn.order
        if order is not None:  # whoever waits for the result has it by now
            order.then()
        elif self._error is not None:
            self._error = NeverTakenError(self.failure)  # nobody reads it, and its frames hold the servers

    def _make_streams(self) -> tuple[tuple[int, int, int], list[Pump]]:
        made: list[int] = []
        try:
            for _ in range(3):
                made += os.pipe2(os.O_CLOEXEC)
            stdin_r, stdin_w, stdout_r, stdout_w, stderr_r, stderr_w = made
            self._held = HeldFeed(stdin_w), HeldOutput(stdout_r, self._hear), HeldOutput(stderr_r, lambda data: None)
        except BaseException:
            for fd in made:
                os.close(fd)
            raise
        return (stdin_r, stdout_w, stderr_w), list(self._held)

    def on_confined(self, monitor: Monitor, cgroup: CgroupRun | None, register: Callable[[Prepared], None]) -> None:
        """Let the interpreter start; see `execute.Held`."""
        self._monitor, self._cgroup, self._register = monitor, cgroup, register
        if self._killed:
            monitor.kill(None)
        else:
            monitor.run_ahead()

    def _hear(self, data: bytes) -> None:
        """Look at what came on standard output while it warmed up."""
        monitor = self._monitor
        if monitor is None:
            return
        warm = self._answer.feed(data)
        if warm:
            self._used = read_used(monitor.payload_pid, self._cgroup)
            self.memory_bytes = _resident_bytes(monitor.payload_pid)
            self.warm_ns = time.monotonic_ns()
            monitor.wait_on(self.warm_ns + self._max_age_ns)
            with self._turn.changed:
                if self._turn.state == "building":
                    self._turn.state = "waiting"
                    self._turn.changed.notify_all()
            self._on_warm(self)
        elif warm is False:
            self.failure = self._answer.failure
            self.import_failure = escape_untrusted(self._answer.failure, _SHOWN) if self._answer.said else ""
            monitor.kill(None)

    def _on_word(self, monitor: Monitor) -> None:
        order = self._turn.order
        if order is None or self.prepared is not None:
            if self._killed and order is None:
                os.eventfd_read(self._wake)
                self._words.clear()
                monitor.kill(None)
            else:
                super()._on_word(monitor)
            return
        self.prepared = replace(order.call.prepared, run_id=self.run_id)
        try:
            self._hand_over(monitor, order)
        finally:
            super()._on_word(monitor)

    def _hand_over(self, monitor: Monitor, order: Order) -> None:
        assert self.prepared is not None and self._held is not None and self._register is not None
        feed, *outputs = self._held
        streams = order.streams
        self._streams.stdout, self._streams.stderr = streams.stdout, streams.stderr
        if order.call.patterns:
            self._directory = os.open(f"/proc/{monitor.payload_pid}/cwd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = monitor.collected.listener
        if listener is not None:
            listener.begin(order.sink)
        for output, destination in zip(outputs, (streams.stdout, streams.stderr), strict=True):
            output.release(-1 if destination is None else destination)
        limits = self.prepared.profile.limits
        if limits.cpu_ns is not None:
            _limit_cpu(monitor.payload_pid, limits.cpu_ns, self.prepared.rlimits)
        if not self.prepared.scheduling.affinity:
            _move(monitor.payload_pid, order.processors)
        monitor.begin(limits=limits, before=self._used)
        if isinstance(streams.stdin, int):
            feed.release(order.prefix, streams.stdin)
        else:
            assert streams.stdin is None or isinstance(streams.stdin, bytes)  # `Sandbox` refuses a file
            feed.release(order.prefix + (streams.stdin or b""))
        self._register(self.prepared)
        monitor.remind(time.monotonic_ns() + _SOON_NS, order.then)


def _resident_bytes(pid: int) -> int:
    """Return the anonymous memory of one process, in bytes; 0 for one that is gone. Source: proc_pid_statm(5)."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _move(pid: int, processors: frozenset[int]) -> None:
    """Put a process, all of its threads, on the processors of whoever runs it now."""
    try:
        if os.sched_getaffinity(pid) != processors:
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), processors)
    except (ProcessLookupError, FileNotFoundError):
        pass  # it ended meanwhile, and its run will say so


def _limit_cpu(pid: int, cpu_ns: int, rlimits: tuple[tuple[int, int, int], ...]) -> None:
    """Set the second line of the CPU limit as a run of its own has it, counted from here."""
    import resource

    used = -(-process_cpu_ns(pid) // _SECOND_NS)
    for number, soft, hard in rlimits:
        if number == uapi.RLIMIT_CPU:
            try:
                resource.prlimit(pid, number, (soft + used, hard + used))
            except ProcessLookupError:
                pass  # it ended meanwhile, and its run will say so


__all__ = ["AHEAD_CPU_S", "Member", "NeverTakenError", "Order"]
