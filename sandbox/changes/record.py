"""The files of kept runs: records, listings and the names of snapshots, read and written. What is in a run's directory beside its trees is ours alone.

Only this floor and `api` import it.
"""

from __future__ import annotations

import json
import os

from sandbox.changes.model import Change, Record, State, change_from_row, change_to_row, record_from_json, record_to_json
from sandbox.changes.place import SNAPSHOTS, is_held, is_run_id, list_runs, open_run
from sandbox.errors import PolicyError, describe_errno
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECORD = "record.json"
_LISTING = "changes"
_MAXIMUM_RECORD = 4 << 20


def read_all(place: int) -> list[Record]:
    """Return the records of all runs, the oldest first; a directory without one that can be read is passed over."""
    found = []
    for run in list_runs(place):
        try:
            found.append(read_record(place, run))
        except PolicyError:
            continue
    return found


def read_record(place: int, run: str) -> Record:
    """Return a run's record, its state as it is now.

    Raises:
        PolicyError: there is no such run, or its record is damaged.
    """
    directory = open_run(place, run)
    try:
        return read_run(directory, run)
    finally:
        os.close(directory)


def read_run(directory: int, run: str) -> Record:
    """Do what `read_record` does, for a run's directory that is open."""
    try:
        fd = os.open(RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        with open(fd, "rb") as file:
            record = record_from_json(json.loads(file.read(_MAXIMUM_RECORD)))
        if record.run != run:
            raise ValueError("it is of another run")
    except OSError as error:
        raise PolicyError(f"read the record of run `{run}`: {describe_errno(error.errno or 0)}", hint=f"`sandbox discard {run}`") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PolicyError(f"read the record of run `{run}`: it is damaged ({type(error).__name__})", hint=f"`sandbox discard {run}`") from None
    if record.state is State.RUNNING and not is_held(directory):
        return replace(record, state=State.INTERRUPTED)
    return record


def write_record(directory: int, record: Record) -> None:
    """Write a run's record, whole or not at all."""
    _replace_file(directory, RECORD, json.dumps(record_to_json(record), ensure_ascii=True).encode("ascii"))


def read_changes(directory: int) -> Iterator[Change]:
    """Yield what a run changed, of its listing.

    Raises:
        PolicyError: it is not there or damaged.
    """
    try:
        fd = os.open(_LISTING, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise PolicyError(f"read the listing of a run: {describe_errno(error.errno or 0)}") from None
    with open(fd, "rb") as file:
        for line in file:
            try:
                yield change_from_row(json.loads(line))
            except (ValueError, TypeError) as error:
                raise PolicyError(f"read the listing of a run: it is damaged ({type(error).__name__})") from None


def write_changes(directory: int, changes: Sequence[Change]) -> None:
    """Write what a run changed, whole or not at all."""
    lines = bytearray()
    for change in changes:
        lines += json.dumps(change_to_row(change), ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
    _replace_file(directory, _LISTING, bytes(lines))


def snapshot_runs(place: int) -> dict[str, str]:
    """Return the snapshots: names, and the run that each is of."""
    try:
        names = os.open(SNAPSHOTS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return {}
    try:
        found = {}
        for name in sorted(os.listdir(names)):
            try:
                run = os.readlink(name, dir_fd=names)
            except OSError:
                continue
            if is_run_id(run):
                found[name] = run
        return found
    finally:
        os.close(names)


def _replace_file(directory: int, name: str, content: bytes) -> None:
    temporary = f".{name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "wb") as file:
        file.write(content)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


__all__ = ["RECORD", "read_all", "read_changes", "read_record", "read_run", "snapshot_runs", "write_changes", "write_record"]
