"""One run in a thread of its own: what `Process`, `Sandbox.map` and the coroutines stand on.

The thread runs `execute`; everybody else talks to it through an eventfd that its loop watches. A thread blocks in epoll and costs little; the caller's
process is not forked, and when it dies the janitor ends the run.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandbox.api import workers
from sandbox.api.call import Call, execute_call
from sandbox.api.execute import Hooks
from sandbox.api.streams import Streams
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from sandbox.api.start import Launcher
    from sandbox.audit.sinks import Sink
    from sandbox.result import Result
    from sandbox.supervise.monitor import Monitor

_SIGKILL = 9


class BackgroundRun:
    """A run that was started and not waited for.

    Args:
        call: what to run.
        streams: its streams; descriptors in `owned` among them are closed when the run has ended.
        sink: where denials go; closed at the end if `owns_sink`.
        owned: descriptors of ours that only the run uses.
        launcher: see `execute`.

    Attributes:
        payload_pid: the program's number on this host, 0 before it is there; another process may have it once the run has ended.
    """

    def __init__(
        self,
        call: Call,
        streams: Streams,
        *,
        sink: Sink,
        owns_sink: bool,
        owned: tuple[int, ...] = (),
        launcher: Launcher | None = None,
    ) -> None:
        self.run_id = call.prepared.run_id
        self._made_by = os.getpid()
        self._call: Call | None = call
        self._streams = streams
        self._sink = sink
        self._owns_sink = owns_sink
        self._owned = owned
        self._launcher = launcher
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.RLock()  # a signal handler, or the end of a lost Process, may kill while this thread holds it
        self._words: deque[int] = deque()
        self._killed = False
        self._changed = threading.Event()  # started or ended
        self._ended = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._init_pid = 0
        self.payload_pid = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            workers.start(self._work, f"sandbox {self.run_id}")
        except BaseException:
            self._close()
            raise

    def started(self) -> None:
        """Wait until the payload is about to be executed.

        Raises:
            SandboxError: it could not be set up; the run is over.
        """
        self._refuse_fork()
        self._changed.wait()
        if self._error is not None:
            self._ended.wait()
            raise self._error

    @property
    def ended(self) -> bool:
        """Whether everything is over: no process of it is left, and the result is there."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> Result:
        """Return the result, waiting for it.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimeoutError: it is not over yet; it goes on.
            SandboxError: the sandbox failed; or this is a fork of the process that started it.
        """
        self._refuse_fork()
        if not self._ended.wait(timeout):
            raise TimeoutError(f"run {self.run_id} is not over after {timeout} s")
        return self.result()

    def result(self) -> Result:
        """Return the result of a run that is over, or raise what it failed with."""
        if self._error is not None:
            raise self._error
        assert self._result is not None, "a run that ended has a result or an error"
        return self._result

    def join(self) -> None:
        """Wait for the end, whatever it is. A fork does not: the run is its parent's, and so is the thread that would tell."""
        if not self._is_foreign:
            self._ended.wait()

    @property
    def _is_foreign(self) -> bool:
        return os.getpid() != self._made_by

    def _refuse_fork(self) -> None:
        if self._is_foreign and not self._ended.is_set():
            raise SandboxError(f"wait for run {self.run_id}: it belongs to process {self._made_by}, this is {os.getpid()}")

    def pids(self) -> list[int]:
        """Return every process of the run as this host numbers them, init first; empty before the start and after the end."""
        if not self._init_pid or self.ended:
            return []
        from sandbox.cgroup.none import TreeSampler

        return TreeSampler(self._init_pid).pids()

    def cpu_ns(self) -> int:
        """Return the CPU time of its processes so far, in nanoseconds: of those that live, and in ticks of those that were waited for; not init's own."""
        if not self._init_pid or self.ended:
            return 0
        from sandbox.cgroup.none import TreeSampler, process_cpu_ns

        init_ns = process_cpu_ns(self._init_pid)
        return max(0, TreeSampler(self._init_pid).cpu_ns() - init_ns)

    def call_at_end(self, callback: Callable[[], object]) -> None:
        """Have a callable called once everything is over: in the run's thread, or now if it is. It must not raise."""
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def signal(self, number: int) -> None:
        """Send the payload a signal; after the end, and in a fork, it does nothing."""
        if self._is_foreign:
            return
        with self._lock:
            if self._wake >= 0:
                self._words.append(number)
                os.eventfd_write(self._wake, 1)

    def kill(self) -> None:
        """End the run and everything in it, during the set-up, too; output that nobody reads is not waited for."""
        self._killed = True
        self.signal(_SIGKILL)

    def _work(self) -> None:
        try:
            hooks = Hooks(watches=((self._wake, self._on_word),), on_start=self._on_start, sink=self._sink)
            self._result = self._execute(hooks)
        except BaseException as error:  # everything, SystemExit too, belongs to whoever waits
            self._error = error
        finally:
            self._close()
            with self._lock:
                self._ended.set()
            self._changed.set()
            for callback in self._callbacks:
                callback()

    def _execute(self, hooks: Hooks) -> Result:
        # What is kept for many runs is let go of with this one.
        call, self._call = self._call, None
        launcher, self._launcher = self._launcher, None
        assert call is not None
        return execute_call(call, self._streams, hooks, launcher)

    def _on_start(self, monitor: Monitor) -> None:
        self._init_pid, self.payload_pid = monitor.init_pid, monitor.payload_pid
        self._changed.set()
        if self._killed:  # the word came before there was a payload
            monitor.hurry()
            monitor.signal(_SIGKILL)

    def _on_word(self, monitor: Monitor) -> None:
        os.eventfd_read(self._wake)
        if self._killed:
            monitor.hurry()
        while self._words:
            monitor.signal(self._words.popleft())

    def _close(self) -> None:
        with self._lock:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)
        for fd in self._owned:
            os.close(fd)
        self._owned = ()
        if self._owns_sink:
            self._sink.close()
