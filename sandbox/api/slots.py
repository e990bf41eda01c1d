"""The places of one server's runs: what each run needs outside of its sandbox and what may outlive it, by names that the server's keeper knows beforehand.

A slot has one run at a time. Its entry is made once; its cgroups are used once each, and the next is made while a run goes on.
"""

from __future__ import annotations

import os
import threading

from sandbox.api.registered import Answering
from sandbox.errors import SandboxError, describe_errno
from sandbox.registry.control import Control
from sandbox.registry.entry import SOCKET, monotonic_ns, start_ticks
from sandbox.registry.slot import SlotEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.prepare import Prepared
    from sandbox.cgroup.model import Backend, CgroupRun
    from sandbox.policy.profile import Limits
    from sandbox.supervise.monitor import Monitor

_CGROUPS = ("a", "b", "c")


def cgroup_names(slot: str) -> tuple[str, ...]:
    """Return the names of a slot's cgroups: of the run, of the next, and of the last, whose init may still be ending."""
    return tuple(f"{slot}.{letter}" for letter in _CGROUPS)


def entry_files(slot: str) -> tuple[str, str]:
    """Return the files of a slot's entry, in the order in which they are to be removed."""
    return slot + SOCKET, slot


class Slot:
    """One place.

    Args:
        name: in the form of a run's id.
        directory: where entries are, borrowed; -1 where there is no place for them, which `refused` explains.
        refused: why nobody finds its runs, or nothing.
    """

    def __init__(self, name: str, directory: int, refused: str) -> None:
        self.name = name
        self.refused = refused
        self.entry: SlotEntry | None = None
        self.answering: Answering | None = None
        self._directory = directory
        self._control: Control | None = None
        self._free = list(cgroup_names(name))
        self._ahead: tuple[Backend, Limits, CgroupRun, str] | None = None
        self._current: tuple[CgroupRun, str] | None = None
        self._over: list[tuple[CgroupRun, str]] = []
        # A sandbox may be closed by one thread while another is in the middle of a run, or ends one.
        self._lock = threading.RLock()
        self._closed = False

    # ---- the entry -----------------------------------------------------------------------------------------

    @property
    def control(self) -> Control:
        """What serves the entry's socket.

        Raises:
            SandboxError: another thread has closed the sandbox.
        """
        control = self._control
        if control is None:
            raise SandboxError("serve the entry of a run: its sandbox was closed")
        return control

    def enter(self, prepared: Prepared, keeper: int, server: int) -> None:
        """Tell of a run; where that cannot be done `refused` says why."""
        if self.refused:
            return
        try:
            if self.entry is None:
                self.entry = SlotEntry(os.dup(self._directory), self.name, keeper=keeper, server=server)
                self._control = Control(self.entry.listener, self._answer)
            self.entry.begin(
                prepared.run_id,
                name=prepared.command.name,
                profile=prepared.profile.name,
                pid=os.getpid(),
                began_ns=monotonic_ns(),
                argv=prepared.command.argv,
            )
        except OSError as error:
            self.refused = f"make an entry: {describe_errno(error.errno or 0)}"
            self._close_entry()

    def leave(self) -> None:
        """The run is over: tell so whoever waits for that."""
        self.answering = None
        entry, control = self.entry, self._control
        if entry is not None and control is not None:
            entry.end()
            control.hang_up()

    def _answer(self, request: str, uid: int, gone: bool) -> str:
        return self.answering.answer(request, uid, gone) if self.answering is not None else ""

    def _close_entry(self) -> None:
        entry, self.entry = self.entry, None
        control, self._control = self._control, None
        if entry is not None:
            entry.close()
        if control is not None:
            control.close()

    # ---- cgroups -------------------------------------------------------------------------------------------

    def take_cgroup(self, backend: Backend, limits: Limits) -> CgroupRun:
        """Return a cgroup that no process was ever in, its limits in force.

        Raises:
            SandboxError: it cannot be made.
        """
        with self._lock:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and (same_place(ahead[0], backend) and ahead[1] == limits):
                self._current = ahead[2:]
            else:
                if ahead is not None:
                    self._over.append(ahead[2:])
                self._current = self._make(backend, limits)
            return self._current[0]

    def make_ahead(self, backend: Backend, limits: Limits) -> None:
        """Make the next run's cgroup, as it will be if that is like this one. What goes wrong is told when it is made for a run."""
        with self._lock:
            if self._ahead is None and not self._closed:
                try:
                    self._ahead = (backend, limits, *self._make(backend, limits))
                except SandboxError:
                    pass

    def retire_cgroup(self) -> None:
        """The run is over; its cgroup goes once its init has gone, which is soon."""
        with self._lock:
            self._retire()
            if self._closed:
                try:
                    self._remove_over()
                except SandboxError:
                    pass  # as at the end of a server: the keeper has tried, too

    def _retire(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._over.append(current)

    def _make(self, backend: Backend, limits: Limits) -> tuple[CgroupRun, str]:
        self._remove_over()
        name = self._free.pop()
        try:
            run = backend.reserve(name, limits)
            try:
                run.make()
            except BaseException:
                run.close()
                raise
        except BaseException:
            self._free.append(name)
            raise
        return run, name

    def _remove_over(self) -> None:
        """Remove the directories of runs that are over: a name is used again only when the cgroup that had it is gone."""
        while self._over:
            run, name = self._over[-1]
            run.remove()
            run.close()
            self._over.pop()
            self._free.append(name)

    def close(self) -> None:
        """Remove everything; no process of the slot is left. Idempotent.

        Raises:
            SandboxError: a cgroup cannot be removed; the keeper tries once more.
        """
        self._close_entry()
        with self._lock:
            self._closed = True
            self._retire()
            ahead, self._ahead = self._ahead, None
            if ahead is not None:
                self._over.append(ahead[2:])
            self._remove_over()

    def forget(self) -> None:
        """Let go of everything and remove nothing, in a fork: it is its parent's."""
        self._lock = threading.RLock()  # another thread of the parent's may have held it
        entry, self.entry = self.entry, None
        control, self._control = self._control, None
        if entry is not None:
            entry.forget()
        if control is not None:
            control.forget()
        runs = [*self._over, *([self._current] if self._current else []), *([self._ahead[2:]] if self._ahead else [])]
        for run, _ in runs:
            run.close()
        self._over, self._current, self._ahead = [], None, None


def same_place(ours: Backend | None, theirs: Backend | None) -> bool:
    """Whether two backends, which each look at the host makes anew, are of one place."""
    return ours is theirs or (type(ours) is type(theirs) and ours is not None and vars(ours) == vars(theirs))


class SlotAnswering(Answering):
    """What answers for a run in a slot."""

    def __init__(self, prepared: Prepared, slot: Slot) -> None:
        super().__init__(prepared)
        self._slot = slot
        self.refused = slot.refused

    @property
    def fd(self) -> int:
        """See `Answering.fd`."""
        return self._slot.control.fd

    def serve(self, monitor: Monitor) -> None:
        """See `Answering.serve`."""
        self._monitor = monitor
        self._slot.control.serve()

    def drain(self, monitor: Monitor) -> None:
        """See `Answering.drain`."""
        self._monitor = monitor
        self._over = True
        if not self.refused and self._slot.answering is self:
            self._slot.control.drain()

    def describe(self, prepared: Prepared) -> None:
        """Answer for another run than the one it was made for, under the same id; and see whether that one can be found."""
        self._limits = prepared.profile.limits
        self.refused = self._slot.refused

    def publish(self, pid: int, stat: bytes) -> None:
        """Add init, by which the run can be ended should we not answer."""
        if self._slot.answering is self and self._slot.entry is not None:
            self._slot.entry.publish(pid, start_ticks(stat))


__all__ = ["Slot", "SlotAnswering", "cgroup_names", "entry_files", "same_place"]
