"""Becomes the registry client: a process of ours that cannot outlive us and cannot fill the disk.

Run by `images.client` as a program, in the session that it was started in. Imports nothing heavy.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from sandbox.kernel.calls import set_death_signal

_GONE = 120


def main(parent: int, file_bytes: int, command: list[str]) -> None:
    """Limit this process, tie it to its parent, and execute the client.

    Args:
        parent: the process that waits for this one.
        file_bytes: the longest file that it may write (RLIMIT_FSIZE).
        command: the client's path and arguments.
    """
    set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_GONE)  # it was killed before the line above
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it holds credentials
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"execute `{command[0]}`: {error.strerror}", file=sys.stderr)
        os._exit(127)
