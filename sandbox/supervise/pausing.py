"""Stopping a whole run and letting it go on, by the cgroup's freezer or by init's SIGSTOP, and killing it while it is stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from sandbox.cgroup.model import CgroupRun
from sandbox.plan import fds

_SIGKILL = 9


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
                    os.kill(pid, _SIGKILL)
                except OSError:
                    pass
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
