"""Where kept runs are, who holds one, and how many there may be.

``$SANDBOX_STATE_DIR/changes``, or ``$XDG_STATE_HOME/sandbox/changes``, by default below ``~/.local/state``: 0700, the caller's alone, never seen inside
a sandbox. Each run has a directory of its id: ``lock``, ``record.json``, ``changes`` (the listing, one JSON list a line) and ``trees/N/{upper,work}``.
The lock is held by the caller and by the run's janitor, which outlives every process of the run: whoever gets it knows that they are dead. Only this floor
imports it, and `api` for the paths.
"""

from __future__ import annotations

import fcntl
import os

from sandbox.errors import PolicyError, SetupError, describe_errno
from sandbox.store import is_ours, state_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "SANDBOX_STATE_DIR"
MAXIMUM_RUNS = 100
MAXIMUM_BYTES = 32 << 30
SNAPSHOTS = "snapshots"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changes_path(environ: Mapping[str, str]) -> str:
    """Return the directory of kept runs.

    Raises:
        PolicyError: there is no place for one.
    """
    path = state_path(environ, "changes")
    if path is None:
        raise PolicyError(
            "find a directory for what a run changes: none of SANDBOX_STATE_DIR, XDG_STATE_HOME and HOME is an absolute path",
            hint=f"set {VARIABLE}",
        )
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # a home may be a link; what is mounted is taken through none


def open_place(path: str, *, make: bool) -> int | None:
    """Open the directory of kept runs; None where there is none and none is to be made.

    Args:
        path: of `changes_path`.
        make: make it where it is missing.

    Raises:
        PolicyError: others could write to it, or it cannot be made.
    """
    try:
        if make:
            os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(f"open `{path}`: {describe_errno(error.errno or 0)}", hint=f"set {VARIABLE} to a directory of yours") from None
    status = os.fstat(fd)
    if is_ours(status) and not status.st_mode & 0o077:
        return fd
    os.close(fd)
    raise PolicyError(f"open `{path}`: others could look in or write to it", hint=f"`chmod 700 {path}`, or set {VARIABLE}")


def list_runs(place: int) -> list[str]:
    """Return the ids of all runs in the directory, the oldest first."""
    return sorted(name for name in os.listdir(place) if is_run_id(name))


def is_run_id(name: str) -> bool:
    """Whether a text has the form of a run's id."""
    began, dash, chance = name.partition("-")
    return bool(dash) and len(chance) == 8 and all(one in "0123456789abcdef" for one in began + chance) and bool(began)


def open_run(place: int, run: str) -> int:
    """Open a run's directory.

    Raises:
        PolicyError: there is none.
    """
    try:
        return os.open(run, _DIRECTORY, dir_fd=place)
    except OSError as error:
        raise PolicyError(f"open the kept run `{run}`: {describe_errno(error.errno or 0)}", hint="`sandbox changes` lists them") from None


def lock_run(directory: int, run: str, *, wait: bool = False) -> int:
    """Take a run for ourselves, until the descriptor that is returned, and every copy of it, is closed.

    Args:
        directory: the run's; borrowed.
        run: its id, for messages.
        wait: until whoever has it is done; else it refuses.

    Raises:
        PolicyError: it is still running, or another command works on it.
    """
    fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        raise PolicyError(
            f"take the kept run `{run}`: it is still running, or another command works on it", hint=f"`sandbox kill {run}` ends a run"
        ) from None
    except OSError as error:
        os.close(fd)
        raise SetupError(f"lock the kept run `{run}`", error.errno or 5) from None
    return fd


def is_held(directory: int) -> bool:
    """Whether somebody has a run: its caller, its janitor, or a command."""
    try:
        fd = os.open("lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


class Turn:
    """The directory of kept runs, for whoever makes, removes or names one: one at a time.

    Args:
        place: its descriptor; borrowed.
    """

    def __init__(self, place: int) -> None:
        self._fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *args: object) -> None:
        os.close(self._fd)


__all__ = [
    "MAXIMUM_BYTES", "MAXIMUM_RUNS", "SNAPSHOTS", "VARIABLE", "Turn", "changes_path", "is_held", "is_run_id", "list_runs", "lock_run", "open_place", "open_run",
]  # fmt: skip
