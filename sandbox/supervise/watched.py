"""What a monitor is told of its run: values for limits, callables for what happens at a stage."""

from __future__ import annotations

import os

from sandbox.plan import fds
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.cgroup.model import CgroupRun
    from sandbox.errors import SandboxError
    from sandbox.policy.profile import Limits
    from sandbox.supervise.arrived import Arrived
    from sandbox.supervise.machine_view import MachineState
    from sandbox.supervise.monitor import Monitor
    from sandbox.supervise.notify import NotifyListener
    from sandbox.supervise.pump import Pump


@dataclass(slots=True, kw_only=True)
class Watched:
    """What the monitor needs besides the launched processes.

    `started` is called with init's pid before it is let on (id maps, cgroups); `needs_word` says that init waits for that. `listen` makes the
    listener of denials from its fd. `terminal` is called with the pty master (taken) and returns the pumps of it.
    `sample` names the limits that are enforced by sampling. `explain` turns a failure record into an error.
    `watches` are descriptors of the caller's, borrowed, and what to do when one is readable; `on_start` is called when the payload is confined
    and about to be let go. `hold` is called when it is confined, and it waits so until somebody calls `Monitor.begin`.

    Attributes:
        served: a server has cloned init, there is no janitor. Then the run is over with init's report, by which time it has reaped everything, or
            with the server's that init is gone; the end of the socket without either means that the server died.
        parent: the process of which init is a child; 0 is what was launched.
        adopted: called with init's pid and the bytes of its /proc/PID/stat, before `started`.
        go: the bytes with which the payload is let go.
        discard: closes a descriptor of a served run that came to its end; it may take its time.
        meanwhile: called when it has been: what takes a moment and nobody waits for.
        arrived: what was received before; its socket instead of the one that was launched.
        machine: what the run is shown of its machine; taken, and closed at its end.
    """

    limits: Limits
    started: Callable[[int], None]
    needs_word: bool
    explain: Callable[[int, int], SandboxError]
    pumps: list[Pump]
    cgroup: CgroupRun | None = None
    listen: Callable[[int], NotifyListener] | None = None
    terminal: Callable[[int], list[Pump]] | None = None
    watches: tuple[tuple[int, Callable[[Monitor], None]], ...] = ()
    on_start: Callable[[Monitor], None] | None = None
    hold: Callable[[Monitor], None] | None = None
    sample: frozenset[str] = frozenset()
    instructions: bool = False
    served: bool = False
    parent: int = 0
    adopted: Callable[[int, bytes], None] | None = None
    go: bytes = bytes([fds.WORD_GO])
    discard: Callable[[int], None] = os.close
    meanwhile: Callable[[], None] | None = None
    arrived: Arrived | None = None
    machine: MachineState | None = None


__all__ = ["Watched"]
