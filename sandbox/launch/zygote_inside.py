"""What a zygote's interpreter does besides being an executor: it sees whether it can be forked, and serves with forks of itself.

Its text is handed over behind `executor.py`'s (`zygote.serving_text`), for none of our files are inside; the imports are for whoever reads and checks it here.
Nobody imports this module.
"""

from __future__ import annotations

import os

from sandbox.launch.executor import _CLOSE_RANGE, _PRCTL, _call, _Server
from sandbox.plan import fds

_MOST = 1024
"""Members at a time."""


def fit_to_fork() -> str:
    """Return why a fork of this interpreter would not be whole, or nothing."""
    if len(os.listdir("/proc/self/task")) > 1:
        return "a module has started threads, which a fork would not have"
    if len(os.listdir("/proc/self/fd")) > 4:  # one is the listing's own
        return "a module keeps descriptors open, which a fork would not have"
    if _shares_memory():
        return "a module has mapped memory that all forks would write to"
    return ""


def _shares_memory() -> bool:
    """Whether a mapping is one that forks share, and can be written to or made so. Source: proc_pid_smaps(5), ms and mw."""
    with open("/proc/self/smaps", "rb") as file:
        flags = [line.split() for line in file if line.startswith(b"VmFlags:")]
    return any(b"ms" in words and b"mw" in words for words in flags)


def serve_forked() -> None:
    """The life of a zygote, whose requests come on standard input; comes back in each member, with that one's streams, confined."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.dup2(0, fds.REQUESTS)
    _call(_CLOSE_RANGE, 0, fds.REQUESTS - 1, 0)
    _call(_PRCTL, 4, 0)  # PR_SET_DUMPABLE: its members have the same user
    _Server(fds.REQUESTS, _MOST, -1, forked=True).serve()
