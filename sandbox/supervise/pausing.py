"""Stopping a whole run and letting it go on, by the cgroup's freezer or by init's SIGSTOP, and killing it while it is stopped."""

from __future__ import annotations

import os

from sandbox.kernel.calls import pidfd_send_signal
from sandbox.plan import fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox.cgroup.model import CgroupRun

_SIGKILL = 9
_SOON_NS, _LATE_NS = 20_000_000, 160_000_000  # between two looks at a pause without a freezer
_NOISE_NS = 1_000_000  # of CPU time, that the end of being stopped may take


class Pausing:
    """How one run is paused.

    Args:
        tell: writes a word to init's control pipe.
        cgroup: the run's, where there is one.
    """

    def __init__(self, tell: Callable[[int], None], cgroup: CgroupRun | None) -> None:
        self._tell = tell
        self._cgroup = cgroup
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether the pause is the freezer's, out of which nothing comes by itself."""
        return self._frozen

    def stop_again(self) -> None:
        """Stop what has continued itself since a pause without a freezer began."""
        self._tell(fds.STOP_ALL)

    def pause(self) -> None:
        """Stop everything; where there is no freezer the payload's parents may notice."""
        # First: a frozen init could not read it, and would take its own deadline for passed when it is thawed.
        self._tell(fds.HOLD)
        self._frozen = self._cgroup is not None and self._cgroup.freeze()
        if not self._frozen:
            self._tell(fds.STOP_ALL)

    def resume(self) -> None:
        """Let everything go on."""
        self._tell(fds.RESUME)
        self._thaw()

    def kill_all(self, pids: Iterable[int]) -> None:
        """Let init kill everything.

        What we froze gets its SIGKILL before it is thawed, so that no instruction of it is executed any more. Nothing can fork or end while it is
        frozen, so these pids are the run's; whatever was missed init kills a moment later.

        Args:
            pids: of the run, without init, which must live to report.
        """
        if self._frozen:
            for pid in pids:
                try:
                    pidfd = os.pidfd_open(pid)
                except OSError:
                    continue
                try:
                    pidfd_send_signal(pidfd, _SIGKILL)
                except OSError:
                    pass
                finally:
                    os.close(pidfd)
        self._tell(fds.KILL_ALL)
        self._thaw()

    def kill_cgroup(self) -> None:
        """Kill what is in the cgroup; on v1 only thaw it, whoever froze it, for there SIGKILL waits for that."""
        if self._cgroup is not None:
            self._cgroup.kill()
            self._frozen = False

    def _thaw(self) -> None:
        if self._frozen and self._cgroup is not None:
            self._cgroup.thaw()
            self._frozen = False


class StopWatch:
    """Whether what SIGSTOP has stopped goes on by itself, as by a SIGCONT of a timer: its CPU time is looked at, ever more rarely while nothing happens."""

    def __init__(self) -> None:
        self._looked = self._used = 0
        self._step = _SOON_NS

    def begin(self, now: int, used: int) -> None:
        """Everything has been told to stop."""
        self._looked, self._used, self._step = now, used, _SOON_NS

    @property
    def next_ns(self) -> int:
        """When to look."""
        return self._looked + self._step

    def look(self, now: int, used: int) -> int | None:
        """Return since when it may have run, None when it has not.

        Args:
            now: the time.
            used: its CPU time.
        """
        since = self._looked
        if used - self._used > _NOISE_NS:
            self.begin(now, used)
            return since
        self._looked, self._step = now, min(_LATE_NS, 2 * self._step)
        return None
