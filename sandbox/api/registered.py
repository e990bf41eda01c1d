"""A run's side of the registry: its entry, and the answers that its supervisor gives. Only `api.execute` imports it.

To be found is no protection of anything: a run that cannot register goes on, and its notes say so.
"""

from __future__ import annotations

import os

from sandbox.errors import SandboxError, describe_errno
from sandbox.registry.entry import Registration, encode_entry, entry_names, monotonic_ns
from sandbox.registry.place import make_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.prepare import Prepared
    from sandbox.registry.control import Control
    from sandbox.supervise.monitor import Monitor

_FRESH_NS = 50_000_000
_SIGKILL = 9


class Answering:
    """What answers for one run.

    Attributes:
        refused: why nobody finds the run; empty where it can be found.
        killed_by: who asked for the end, in the words of a result's cause.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._limits = prepared.profile.limits
        self._monitor: Monitor | None = None
        self._stats = ""
        self._stats_at = 0
        self._over = False
        self.refused = ""
        self.killed_by = ""

    @property
    def fd(self) -> int:
        """What the supervisor's loop waits for, unless `refused`."""
        raise NotImplementedError

    def serve(self, monitor: Monitor) -> None:
        """Answer what was asked; for the supervisor's loop."""
        raise NotImplementedError

    def drain(self, monitor: Monitor) -> None:
        """Answer what was asked while the supervisor did not look, at the end: a run may have been ended without it."""
        raise NotImplementedError

    def answer(self, request: str, uid: int, gone: bool) -> str:
        """Answer a request; see `registry.control.Control`."""
        monitor = self._monitor
        assert monitor is not None
        verb, _, operand = request.partition(" ")
        if gone and verb != "kill":
            return ""  # it was told that nobody answers: what it wanted then must not happen now
        match verb:
            case "stats":
                return self._answer_stats(monitor)
            case "pause":
                self._stats_at = 0
                return "ok\n" if monitor.pause() else f"refused\nit is {monitor.state}"
            case "resume":
                self._stats_at = 0
                return "ok\n" if monitor.resume() else f"refused\nit is {monitor.state}"
            case "signal" if operand.isdecimal() and 0 < int(operand) < 65:
                monitor.signal(int(operand))
                return "ok\n"
            case "kill":
                self._kill(monitor, uid)
                return "ok\n"
            case _:
                return "refused\nno such request"

    def _kill(self, monitor: Monitor, uid: int) -> None:
        """End the run, unless it has ended by itself; then only the wait for whoever reads its output."""
        self._stats_at = 0
        if monitor.collected.wait_status is not None:
            if not self._over:
                monitor.signal(_SIGKILL)
            return
        from sandbox.result import Verdict

        self.killed_by = self.killed_by or f"killed by `sandbox kill` of uid {uid}"
        if self._over:
            monitor.collected.killed_for = monitor.collected.killed_for or Verdict.SIGNALED
        else:
            monitor.kill(Verdict.SIGNALED)

    def _answer_stats(self, monitor: Monitor) -> str:
        """A look costs a read of each process where there is no cgroup, so whoever asks without pause gets the last one again."""
        now = monotonic_ns()
        if not self._stats_at or now - self._stats_at >= _FRESH_NS:
            limits = self._limits
            seen = monitor.snapshot()
            fields = {
                "state": seen.state, "wall_ns": seen.wall_ns, "wall_limit_ns": limits.wall_ns, "cpu_ns": seen.cpu_ns, "cpu_limit_ns": limits.cpu_ns,
                "memory_bytes": seen.memory_bytes, "memory_limit_bytes": limits.memory_bytes, "memory_anon_bytes": seen.memory_anon_bytes,
                "memory_file_bytes": seen.memory_file_bytes, "memory_kernel_bytes": seen.memory_kernel_bytes,
                "processes": seen.processes, "processes_limit": limits.processes, "output_bytes": seen.output_bytes,
                "output_limit_bytes": limits.output_bytes, "denials": seen.denials,
            }  # fmt: skip
            self._stats = "ok\n" + "".join(f"{key} {value}\n" for key, value in fields.items() if value is not None)
            self._stats_at = now
        return self._stats


class Registered(Answering):
    """The entry of one run and what answers on its socket; nothing of it exists before `open`.

    Attributes:
        names: the entry's files, to be removed in this order.
    """

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared)
        self._prepared = prepared
        self._entry: Registration | None = None
        self._control: Control | None = None
        self._directory = -1
        self.names = entry_names(prepared.run_id)

    def describe(self, prepared: Prepared) -> None:
        """Tell of another run than the one it was made for, under the same id; before `open`."""
        self._prepared = prepared
        self._limits = prepared.profile.limits

    def reserve(self) -> bool:
        """Find the place for the entry; return whether there is one. Nothing is made yet: the janitor that removes it is to live first."""
        try:
            self._directory = make_place(os.environ, os.geteuid())
        except SandboxError as error:
            self.refused = error.message
        except OSError as error:
            self.refused = f"make an entry: {describe_errno(error.errno or 0)}"
        return not self.refused

    def open(self, janitor: int) -> None:
        """Make the entry, once a janitor lives that removes it after a SIGKILL of ours; it ends the run should we not answer."""
        prepared = self._prepared
        if self.refused:
            return
        name, argv = prepared.command.name, prepared.command.argv
        content = encode_entry(
            prepared.run_id, name=name, profile=prepared.profile.name, pid=os.getpid(), began_ns=monotonic_ns(), argv=argv
        )
        from sandbox.registry.control import Control

        directory, self._directory = self._directory, -1
        try:
            self._entry = Registration(directory, prepared.run_id, content)
            self._entry.publish(janitor)
            self._control = Control(self._entry.listener, self.answer)
        except OSError as error:
            self.refused = f"make an entry: {describe_errno(error.errno or 0)}"
            self.close()

    @property
    def directory(self) -> int:
        """The directory of the entry's files, after `reserve` and until `open`; borrowed."""
        return self._directory

    @property
    def fd(self) -> int:
        """What the supervisor's loop waits for."""
        assert self._control is not None
        return self._control.fd

    def serve(self, monitor: Monitor) -> None:
        """Answer what was asked; for the supervisor's loop."""
        self._monitor = monitor
        if self._control is not None:
            self._control.serve()

    def drain(self, monitor: Monitor) -> None:
        """Answer what was asked while the supervisor did not look: a run may have been ended without it."""
        self._monitor = monitor
        self._over = True
        if self._control is not None:
            self._control.drain()

    def close(self) -> None:
        """Hang up, and remove what the janitor has not; idempotent."""
        directory, self._directory = self._directory, -1
        if directory >= 0:
            os.close(directory)
        if self._entry is not None:
            self._entry.close()
        if self._control is not None:
            self._control.close()
            self._control = None
