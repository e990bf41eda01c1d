"""Snapshots: names for kept runs. A run's files never change once it has ended, so a name is all that it takes; while it is there the run's files stay.

`api` imports it.
"""

from __future__ import annotations

import os

from sandbox.changes.keep import collect
from sandbox.changes.model import State
from sandbox.changes.place import SNAPSHOTS, Turn, is_run_id, open_place
from sandbox.changes.record import read_record, snapshot_runs
from sandbox.errors import PolicyError, SetupError

MAXIMUM_SNAPSHOTS = 100
_NAME_LENGTH = 64
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def check_snapshot_name(name: str) -> None:
    """Refuse what cannot be a snapshot's name.

    Raises:
        PolicyError: it cannot.
    """
    if not name or len(name) > _NAME_LENGTH or not set(name) <= _LETTERS or name[0] in ".-" or is_run_id(name):
        raise PolicyError(
            f"name a snapshot `{name}`: 1 to {_NAME_LENGTH} letters, digits, `.`, `_` and `-`, not in the form of a run's id, and no `.` or `-` at the start"
        )


def make_snapshot(path: str, run: str, name: str) -> None:
    """Give a kept run a name.

    Args:
        path: of `place.changes_path`.
        run: its id; it has ended.
        name: another run's loses it.

    Raises:
        PolicyError: the name is taken or none, there are too many, or the run is still running.
    """
    check_snapshot_name(name)
    place = open_place(path, make=False)
    if place is None:
        raise PolicyError(f"make a snapshot of `{run}`: no run is kept")
    try:
        with Turn(place):
            if read_record(place, run).state is State.RUNNING:
                raise PolicyError(f"make a snapshot of `{run}`: it is still running", hint="wait for its end")
            taken = snapshot_runs(place)
            if name in taken:
                raise PolicyError(f"make a snapshot `{name}`: there is one, of run `{taken[name]}`", hint=f"`sandbox discard {name}` removes it")
            if len(taken) >= MAXIMUM_SNAPSHOTS:
                raise PolicyError(f"make a snapshot `{name}`: there are {len(taken)} already, which is the most")
            try:
                os.mkdir(SNAPSHOTS, 0o700, dir_fd=place)
            except FileExistsError:
                pass
            os.symlink(run, f"{SNAPSHOTS}/{name}", dir_fd=place)
    except OSError as error:
        raise SetupError(f"make a snapshot `{name}`", error.errno or 5) from None
    finally:
        os.close(place)


def drop_snapshot(path: str, name: str) -> None:
    """Remove a snapshot's name; the run stays, unless it was discarded already.

    Raises:
        PolicyError: there is none.
    """
    check_snapshot_name(name)
    place = open_place(path, make=False)
    if place is None:
        raise PolicyError(f"discard the snapshot `{name}`: there is none")
    try:
        with Turn(place):
            try:
                os.unlink(f"{SNAPSHOTS}/{name}", dir_fd=place)
            except OSError:
                raise PolicyError(f"discard the snapshot `{name}`: there is none") from None
            collect(place)
    finally:
        os.close(place)


__all__ = ["check_snapshot_name", "drop_snapshot", "make_snapshot"]
