"""What `execute` asks of a way to start runs: a launcher opens a start, which is one run from before its processes to after them."""

from __future__ import annotations

import os

from sandbox.errors import SandboxError
from sandbox.plan import fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sandbox.api.prepare import Prepared
    from sandbox.api.registered import Answering
    from sandbox.api.streams import Streams
    from sandbox.cgroup.model import CgroupRun
    from sandbox.launch.spawn import Launched
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.arrived import Arrived
    from sandbox.supervise.pump import Pump
else:
    Protocol = object


class StartGoneError(SandboxError):
    """Whoever was to start the run has died; nothing was started, and another start may be opened."""


class Start:
    """One run of a launcher.

    Attributes:
        tier: what `Result.launched` says.
        prepared: the launch, as it is run.
        cgroup: the run's, where there is one; its counters are read after the end.
        entry: what answers to those who look for runs.
        needs_word: whether init waits for `started` to be over.
        served: see `Watched`.
        parent: likewise.
        go: likewise.
        held: nobody has asked for it yet, so it is not to be found before `register`.
        announced: whether `entry` tells of it already.
        arrived: likewise.
        notes: for the result.
    """

    tier = "spawned"
    prepared: Prepared
    cgroup: CgroupRun | None = None
    entry: Answering
    needs_word = False
    served = False
    parent = 0
    go = bytes([fds.WORD_GO])
    held = False
    announced = True
    arrived: Arrived | None = None
    notes: tuple[str, ...] = ()

    def begin(self, launched: Launched, pumps: list[Pump], streams: Streams) -> tuple[Plan, Table]:
        """Start the processes, or take those that were started before, and return what they do; all signals are blocked.

        Whatever happens, `launched` and `pumps` hold what is to be closed.

        Raises:
            StartGoneError: see there.
            SandboxError: it cannot be started.
            OSError: likewise.
        """
        raise NotImplementedError

    def announce(self) -> None:
        """Let it be found, unless that was done or is for `register` to do: somebody is about to be told that it runs."""

    def adopted(self, pid: int, stat: bytes) -> None:
        """Init is known; `stat` is its /proc/PID/stat. It is `announced` then."""

    def started(self, pid: int) -> None:
        """Do what init waits for."""

    def confined(self, pid: int) -> None:
        """The payload is confined and about to be let go."""

    def meanwhile(self) -> None:
        """It goes on for a while: a moment for what nobody waits for. For a run that is over before, `close` is that moment."""

    def register(self, asked: Prepared) -> None:
        """Somebody has asked for it, as this: let it be found.

        Args:
            asked: with the run's own id.
        """
        raise NotImplementedError

    def discard(self, fd: int) -> None:
        """Close a descriptor of a run that has come to its end."""
        os.close(fd)

    def explain(self, plan: Plan, table: Table, row: int, error: int) -> SandboxError:
        """Turn a failure record into an error."""
        from sandbox.api.finish import explain_failure

        return explain_failure(plan, table, row, error, run_id=self.prepared.run_id)

    def close(self) -> None:
        """Nothing of it runs any more: remove what was made for it; idempotent."""
        raise NotImplementedError


def cgroup_directories(cgroup: CgroupRun | None) -> tuple[int, ...]:
    """Return the directory descriptors that the janitor and init are given for a run's cgroup, each once, in the order that the plan counts on."""
    return () if cgroup is None else tuple(dict.fromkeys(fd for fd, _ in (*cgroup.joins, *cgroup.removals, *cgroup.thaws)))


class Launcher(Protocol):
    """A way to start runs."""

    def open(self, prepared: Prepared, held: bool = False) -> Start:
        """Return what one run needs; nothing of it is running. `held`: see `Start`.

        Raises:
            SandboxError: it cannot be had.
            OSError: likewise.
        """


__all__ = ["Launcher", "Start", "StartGoneError", "cgroup_directories"]
