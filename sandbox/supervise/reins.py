"""What is done to the processes of one run: words to init on its pipes, signals, and what the cgroup can do to all of them at once.

When it is done is decided elsewhere. A whole run is stopped by the cgroup's freezer, or by init's SIGSTOP where there is none.
"""

from __future__ import annotations

import os

from sandbox.errors import SandboxError
from sandbox.kernel.calls import pidfd_send_signal
from sandbox.plan import fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox.cgroup.model import CgroupRun
    from sandbox.launch.spawn import Descriptors

_SIGKILL = 9


class Reins:
    """How one run is let go, stopped and killed.

    Args:
        ends: of the pipes that init reads; borrowed, until `drop` or `close`.
        cgroup: the run's, where there is one.

    Attributes:
        init: a descriptor of init's process, -1 before it is known; whoever finds it puts it here, and `close` closes it.
        init_pid: init's number on this host, 0 before it is known.
        doomed: init was to be killed before it was known.
    """

    def __init__(self, ends: Descriptors, cgroup: CgroupRun | None) -> None:
        self._ends = ends
        self._cgroup = cgroup
        self._frozen = False
        self.init = -1
        self.init_pid = 0
        self.doomed = False

    # ---- words ---------------------------------------------------------------------------------------------

    def tell(self, word: int) -> None:
        """Write to init's control pipe: a signal for the payload, or one of `fds`' words."""
        _write_word(self._ends.control, word)

    def answer(self, word: int) -> None:
        """Write what init waits for while it makes the sandbox."""
        _write_word(self._ends.go, word)

    def let_go(self, words: bytes) -> None:
        """Write what the payload waits for. A long one may not fit into the pipe, but is read as it is written."""
        try:
            while words:
                words = words[os.write(self._ends.go, words) :]
        except BrokenPipeError:
            pass  # it is dead already, which its records tell

    # ---- stopping ------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether the pause is the freezer's, out of which nothing comes by itself."""
        return self._frozen

    def pause(self) -> None:
        """Stop everything; where there is no freezer the payload's parents may notice."""
        # First: a frozen init could not read it, and would take its own deadline for passed when it is thawed.
        self.tell(fds.HOLD)
        self._frozen = self._cgroup is not None and self._cgroup.freeze()
        if not self._frozen:
            self.tell(fds.STOP_ALL)

    def stop_again(self) -> None:
        """Stop what has continued itself since a pause without a freezer began."""
        self.tell(fds.STOP_ALL)

    def resume(self) -> None:
        """Let everything go on."""
        self.tell(fds.RESUME)
        self._thaw()

    def _thaw(self) -> None:
        if self._frozen and self._cgroup is not None:
            self._cgroup.thaw()
            self._frozen = False

    # ---- the end -------------------------------------------------------------------------------------------

    def have_killed(self, pids: Iterable[int]) -> None:
        """Let init kill everything.

        What we froze gets its SIGKILL before it is thawed, so that no instruction of it is executed any more. Nothing can fork or end while it is
        frozen, so these pids are the run's; whatever was missed init kills a moment later.

        Args:
            pids: of the run, looked at where it is frozen. Init is left out, for it must live to report.
        """
        if self._frozen:
            for pid in pids:
                if pid == self.init_pid:
                    continue
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
        self.tell(fds.KILL_ALL)
        self._thaw()

    def kill(self, *, begun: bool) -> None:
        """Kill init, and with it everything, which cannot fail; one that is not known yet is told to give up, and `doomed`.

        Args:
            begun: the payload was let go, and so everything is in the cgroup.
        """
        if self.init < 0:
            self.doomed = True
            self.answer(fds.WORD_STOP)
            return
        try:
            pidfd_send_signal(self.init, _SIGKILL)
        except ProcessLookupError:
            pass
        if begun and self._cgroup is not None:
            try:
                self._cgroup.kill()  # on v1 it only thaws it, whoever froze it, for there SIGKILL waits for that
            except SandboxError:
                pass  # no descriptor is left for its file; who removes the cgroup thaws it, too
            self._frozen = False

    def drop(self) -> None:
        """Close the control pipe, whose end kills everything, also an init that is not known yet."""
        self._ends.close_one("control")
        self.doomed = True

    def close(self, discard: Callable[[int], None], *, pipes: bool) -> None:
        """Let go of init's process; idempotent.

        Args:
            discard: closes a descriptor.
            pipes: close them as well, for nobody else does.
        """
        if self.init >= 0:
            discard(self.init)
            self.init = -1
        if pipes:
            for fd in (self._ends.go, self._ends.control):
                if fd >= 0:
                    discard(fd)
            self._ends.go = self._ends.control = -1


def _write_word(fd: int, word: int) -> None:
    if fd >= 0:
        try:
            os.write(fd, bytes([word]))
        except OSError:
            pass  # nobody reads any more: the run is over


__all__ = ["Reins"]
