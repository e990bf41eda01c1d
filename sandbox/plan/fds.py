"""Which descriptor is what in the janitor, init and the payload until its execve. Pure constants.

The spawner puts them there; `close_range` in the janitor's first row closes everything above.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


TABLE: Final = 3  # sealed memfd; closed by the executor once mapped
STATUS: Final = 4  # SOCK_SEQPACKET, records to the supervisor
GO: Final = 5  # pipe: one byte per permission to go on (id maps written; execve)
CONTROL: Final = 6  # pipe to init: signal numbers; end of file kills everything
SUPERVISOR: Final = 7  # pidfd of the process that runs the supervisor; only the janitor keeps it
RELEASE: Final = 8  # pipe to the janitor: end of file means the counters were read, remove the cgroups
# Words are bytes, never only the end of a pipe: a fork of the caller's own may hold the other end open.
WORD_MADE: Final = ord("m")  # on GO: id maps and cgroups are made
WORD_GO: Final = ord("g")  # on GO: execve
WORD_STOP: Final = ord("x")  # on GO: give up
WORD_RELEASE: Final = ord("r")  # on RELEASE
# On CONTROL, where any other byte is a signal for the payload.
HOLD: Final = 252  # everything will be frozen: init's own deadline does not run until RESUME
STOP_ALL: Final = 253  # the same where nothing can be frozen: init stops everything by SIGSTOP
RESUME: Final = 254  # init's deadline begins anew, and what it stopped goes on
KILL_ALL: Final = 255
LAST_SIGNAL: Final = 64

FIRST_EXTRA: Final = 9  # cgroup.procs files, then directories to remove cgroups from

SERVED_EXTRA: Final = 7
"""The first of a run's extra descriptors when a server starts it: there is no janitor that needs the two before `FIRST_EXTRA`."""
REQUESTS: Final = 96
"""Of a server: SOCK_SEQPACKET, one request of `codec.REQUEST` a message, with the run's descriptors, which take the lowest free numbers."""
SERVER_PROC: Final = 97
"""Of a server with a template: O_PATH of the host's /proc, which the runs inherit until their execve."""
MAXIMUM_PASSED: Final = 64
"""How many descriptors one request may bring; they stay below `REQUESTS`."""
