"""The system calls of a run that Python's `os` lacks: one thin ctypes wrapper each.

`supervise` and `launch` may import it. Nothing here decides anything; every wrapper raises `OSError` naming call and operands.
"""

from __future__ import annotations

import ctypes
import os

_PIDFD_GETFD = 438  # one number on every architecture
_PIDFD_SEND_SIGNAL = 424

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 5


def pidfd_getfd(pidfd: int, target: int) -> int:
    """Return a close-on-exec copy of another process's descriptor.

    Args:
        pidfd: the process; borrowed.
        target: the descriptor's number there.

    Raises:
        OSError: EPERM when that process may not be traced by us (Yama's ptrace_scope 3, another uid), EBADF, ESRCH.

    Source: pidfd_getfd(2). Since: Linux 5.6.
    """
    result = int(_syscall(_PIDFD_GETFD, pidfd, target, 0, 0))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"pidfd_getfd `{target}`: {os.strerror(number)}")
    return result


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to exactly that process.

    Raises:
        OSError: ESRCH when it has been reaped.

    Source: pidfd_send_signal(2). Since: Linux 5.1.
    """
    if int(_syscall(_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"pidfd_send_signal `{number}`: {os.strerror(error)}")
