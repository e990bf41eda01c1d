"""Hardening of our own processes by prctl; the only module that imports python-prctl, and of that the compiled half: the other one costs a millisecond.

The command-line program calls it before it supervises: a payload that found a way to look at it finds nothing to read.
The Python API does not: the process belongs to the user.
"""

from __future__ import annotations


def harden_supervisor() -> tuple[str, ...]:
    """Make this process undumpable and give it a name; return what could not be done.

    An undumpable process cannot be traced, and its /proc/PID/{environ,mem,fd} cannot be read by processes of the same user.
    """
    try:
        import _prctl
    except ImportError:
        return ("python-prctl is not installed: the supervisor stays dumpable",)
    _prctl.prctl(_prctl.PR_SET_DUMPABLE, 0)
    _prctl.prctl(_prctl.PR_SET_NAME, "sandbox")
    return ()
