"""The life of a kept run: made before it begins, finished after its end, opened by commands, discarded.

`prepare_changes` and `finish_changes` are what a run needs; the rest is for the commands. `api` imports this module.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from sandbox.changes import compare
from sandbox.changes.files import Ajar, open_directory
from sandbox.changes.model import Change, Record, State, Tree
from sandbox.changes.place import MAXIMUM_BYTES, MAXIMUM_RUNS, Turn, is_held, list_runs, lock_run, open_place, open_run
from sandbox.changes.record import RECORD, read_all, read_changes, read_record, read_run, snapshot_runs, write_changes, write_record
from sandbox.changes.remove import remove_tree
from sandbox.errors import PolicyError, SetupError, describe_errno
from sandbox.record import dataclass, replace
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ARGV_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class Kept:
    """A run that is being kept, in the hands of who runs it.

    Attributes:
        path: its directory.
        place: descriptor of the directory of all kept runs.
        directory: descriptor of its own.
        lock: descriptor whose copies say that the run is not over; the janitor is given one.
        record: as it was written.
    """

    path: str
    place: int
    directory: int
    lock: int
    record: Record

    def close(self) -> None:
        """Let go of it; idempotent."""
        for fd in (self.lock, self.directory, self.place):
            if fd >= 0:
                os.close(fd)
        self.lock = self.directory = self.place = -1


def upper_path(directory: str, number: int) -> str:
    """Return the directory that has a tree's `upper` and `work`, of the directory of a run."""
    return os.path.join(directory, "trees", str(number))


def clock_ns() -> int:
    """Return the time as files have it."""
    return time.time_ns()


def prepare_changes(path: str, run: str, trees: Sequence[Tree], argv: Sequence[str], *, base: Record | None = None) -> Kept:
    """Make the directories of a run that is about to begin; take the run.

    Args:
        path: of `changes_path`.
        run: its id.
        trees: what it is to see copy-on-write.
        argv: its command, for people.
        base: the kept run that it goes on from.

    Raises:
        PolicyError: as many runs are kept as may be, or the directory cannot be used.
        SetupError: something cannot be made; nothing is left.
    """
    place = open_place(path, make=True)
    assert place is not None
    directory = lock = -1
    try:
        with Turn(place):
            _sweep(place)
            check_room(place)
            if base is not None:
                read_record(place, base.run)  # it may be gone by now; from here on it cannot go
            now = clock_ns()
            record = Record(
                run=run, argv=_short(argv), state=State.RUNNING, since_ns=now if base is None else base.since_ns, began_ns=now,
                trees=tuple(trees), chain=() if base is None else (base.run, *base.chain),
            )  # fmt: skip
            os.mkdir(run, 0o700, dir_fd=place)
            try:
                directory = open_run(place, run)
                lock = lock_run(directory, run)
                os.mkdir("trees", 0o700, dir_fd=directory)
                for number in range(len(trees)):
                    for name in ("", "/upper", "/work"):
                        os.mkdir(f"trees/{number}{name}", 0o700, dir_fd=directory)
                    _dress(place, directory, record, number)
                write_record(directory, record)
            except BaseException:
                remove_tree(place, run)
                raise
        return Kept(path=os.path.join(path, run), place=place, directory=directory, lock=lock, record=record)
    except BaseException as error:
        for fd in (directory, lock, place):
            if fd >= 0:
                os.close(fd)
        if isinstance(error, OSError):
            raise SetupError(f"make the directories of run `{run}` in `{path}`", error.errno or errno.EIO) from None
        raise


def finish_changes(kept: Kept, exit_code: int | None) -> Record | None:
    """List what a run changed; a run that changed nothing is not kept.

    Args:
        kept: the run, all of whose processes are dead; closed, whatever happens.
        exit_code: what it ended with.

    Returns:
        the record, or None where nothing is kept.

    Raises:
        SandboxError: it cannot be listed or written; what there is stays, as that of an interrupted run.
    """
    try:
        record = _list(kept.place, kept.directory, replace(kept.record, state=State.ENDED, exit_code=exit_code))
        if record.total or not record.complete:
            return record
        with Turn(kept.place):
            remove_tree(kept.place, record.run)
            collect(kept.place)
        return None
    except OSError as error:
        raise SetupError(f"list what run `{kept.record.run}` changed", error.errno or errno.EIO) from None
    finally:
        kept.close()


def abandon_changes(kept: Kept) -> None:
    """Forget a run that never began; closes `kept`."""
    try:
        with Turn(kept.place):
            remove_tree(kept.place, kept.record.run)
            collect(kept.place)
    finally:
        kept.close()


def check_room(place: int) -> None:
    """Refuse one more run where too many are kept.

    Raises:
        PolicyError: there are; the message says what to do.
    """
    runs = list_runs(place)
    if len(runs) >= MAXIMUM_RUNS:
        raise PolicyError(
            f"keep another run: {len(runs)} are kept already, which is the most",
            hint="`sandbox changes` lists them, `sandbox discard RUN` lets one go",
        )
    size = sum(record.bytes for record in read_all(place))
    if size >= MAXIMUM_BYTES:
        raise PolicyError(
            f"keep another run: those that are kept take {format_size(size)}, which is more than {format_size(MAXIMUM_BYTES)}",
            hint="`sandbox changes` lists them, `sandbox discard RUN` lets one go",
        )


class Opened:
    """A kept run in the hands of a command: locked, listed, its layers open.

    Args:
        path: of `changes_path`.
        run: its id.

    Attributes:
        record: the run's.
        place: descriptor of the directory of all kept runs.
        directory: descriptor of the run's.

    Raises:
        PolicyError: there is no such run, or it is still running.
    """

    def __init__(self, path: str, run: str) -> None:
        self._fds: list[int] = []
        self._ajar = Ajar()
        self._layers: dict[int, tuple[list[int], list[int]]] = {}
        try:
            place = open_place(path, make=False)
            if place is None:
                raise PolicyError(f"open the kept run `{run}`: none is kept")
            self.place = self._own(place)
            self.directory = self._own(open_run(place, run))
            self._own(lock_run(self.directory, run))
            self.record = read_run(self.directory, run)
            if not self.record.listed:
                self.record = _list(self.place, self.directory, replace(self.record, state=State.INTERRUPTED))
        except BaseException:
            self.close()
            raise

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def changes(self) -> Iterator[Change]:
        """Yield what it changed, in the order of trees and paths."""
        return read_changes(self.directory)

    def layers(self, tree: int) -> tuple[list[int], list[int]]:
        """Return the uppers and the original's directories of a tree, topmost first; ours.

        Raises:
            PolicyError: one of them is gone.
        """
        if tree not in self._layers:
            layers = _open_layers(self.place, self.record, tree)
            self._layers[tree] = layers
            self._fds += [*layers[0], *layers[1]]
        return self._layers[tree]

    def close(self) -> None:
        """Let go of it; idempotent."""
        self._ajar.close()
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds = []
        self._layers = {}

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def discard(path: str, run: str) -> bool:
    """Let a run go; return whether its files are gone: where another goes on from it, or a snapshot names it, they stay with that.

    Raises:
        PolicyError: there is no such run, or it is still running.
        SetupError: it cannot be removed.
    """
    place = open_place(path, make=False)
    if place is None:
        raise PolicyError(f"discard the kept run `{run}`: none is kept")
    try:
        directory = open_run(place, run)
        try:
            lock = lock_run(directory, run)
            try:
                with Turn(place):
                    try:
                        record = read_run(directory, run)
                    except PolicyError:
                        remove_tree(place, run)  # what cannot be read can still go
                        return True
                    if run in _needed(place, without=run):
                        write_record(directory, replace(record, hidden=True))
                        return False
                    remove_tree(place, run)
                    collect(place)
                    return True
            finally:
                os.close(lock)
        finally:
            os.close(directory)
    finally:
        os.close(place)


def collect(place: int) -> None:
    """Remove discarded runs that nothing goes on from any more; the caller has the turn."""
    needed = _needed(place)
    for record in read_all(place):
        if record.hidden and record.run not in needed:
            remove_tree(place, record.run)


def _needed(place: int, without: str = "") -> set[str]:
    """Return the runs that others go on from, or that snapshots name."""
    needed = set(snapshot_runs(place).values())
    for run in list(needed):
        try:
            needed |= set(read_record(place, run).chain)
        except PolicyError:
            continue
    for record in read_all(place):
        if record.run != without and not record.hidden:
            needed |= set(record.chain)
    return needed


def _open_layers(place: int, record: Record, tree: int) -> tuple[list[int], list[int]]:
    uppers: list[int] = []
    lowers: list[int] = []
    try:
        for run in (record.run, *record.chain):
            uppers.append(open_directory(place, f"{run}/trees/{tree}/upper"))
        for lower in record.trees[tree].lowers:
            lowers.append(os.open(lower, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        for fd in (*uppers, *lowers):
            os.close(fd)
        where = record.trees[tree].path
        raise PolicyError(
            f"open `{error.filename or where}` of run `{record.run}`: {describe_errno(error.errno or 0)}",
            origin=f"copy-on-write of `{where}`",
            hint="what the run went on from, or the original, is gone; `sandbox discard` lets the run go",
        ) from None
    return uppers, lowers


def _list(place: int, directory: int, record: Record) -> Record:
    """Find out what was changed, write the listing and then the record."""
    found = compare.Found(changes=[])
    ajar = Ajar()
    try:
        for number in range(len(record.trees)):
            uppers, lowers = _open_layers(place, record, number)
            try:
                compare.compare(number, uppers, lowers, found)
            finally:
                for fd in (*uppers, *lowers):
                    os.close(fd)
    finally:
        ajar.close()
    found.changes = _with_base(place, record, found.changes)
    counts: dict[str, int] = {}
    for change in found.changes:
        counts[str(change.kind)] = counts.get(str(change.kind), 0) + 1
    write_changes(directory, found.changes)
    record = replace(record, counts=tuple(counts.items()), bytes=found.bytes, complete=found.complete, listed=True)
    write_record(directory, record)
    return record


def _with_base(place: int, record: Record, changes: list[Change]) -> list[Change]:
    """Take the originals as the run that this one went on from has found them: what became of them since, neither has seen."""
    if not record.chain:
        return changes
    known = {}
    try:
        directory = open_run(place, record.chain[0])
        try:
            known = {(change.tree, change.path): change.before for change in read_changes(directory)}
        finally:
            os.close(directory)
    except PolicyError:
        return changes
    return [
        replace(change, before=known[change.tree, change.path]) if known.get((change.tree, change.path)) and change.before else change
        for change in changes
    ]


def _dress(place: int, directory: int, record: Record, number: int) -> None:
    """Give an upper the mode of what it is to lie over: it is what the top of the tree shows."""
    below = f"{record.chain[0]}/trees/{number}/upper" if record.chain else record.trees[number].lowers[0]
    above = os.stat(below, dir_fd=place, follow_symlinks=False)
    upper = open_directory(directory, f"trees/{number}/upper")
    try:
        os.fchmod(upper, stat.S_IMODE(above.st_mode) & 0o1777)
    finally:
        os.close(upper)


def _sweep(place: int) -> None:
    """Remove what a kill in the middle of making or removing a run has left: a directory without a record that nobody holds."""
    for run in list_runs(place):
        try:
            directory = open_run(place, run)
        except PolicyError:
            continue
        try:
            orphaned = not os.access(RECORD, os.F_OK, dir_fd=directory) and not is_held(directory)
        finally:
            os.close(directory)
        if orphaned:
            remove_tree(place, run)


def _short(argv: Sequence[str]) -> tuple[str, ...]:
    kept = []
    left = _ARGV_BYTES
    for word in argv:
        if left <= 0:
            break
        kept.append(word[:left])
        left -= len(word) + 1
    return tuple(kept)


__all__ = ["Kept", "Opened", "abandon_changes", "check_room", "collect", "discard", "finish_changes", "prepare_changes", "upper_path"]
