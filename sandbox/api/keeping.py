"""A run that sees directories copy-on-write: what was asked for, its mounts, and its life from before its processes to after them.

`prepare` asks `plan_keeping`, which looks and changes nothing; `execute` runs what was planned through `execute_keeping`. Neither is imported by a run that
keeps nothing.
"""

from __future__ import annotations

import os
import stat
import time

from sandbox.changes.keep import Kept, abandon_changes, finish_changes, prepare_changes, upper_path
from sandbox.changes.measure import give_tree, measure_tree
from sandbox.changes.model import Record, Tree
from sandbox.changes.place import changes_path, open_place
from sandbox.changes.record import read_record
from sandbox.errors import PolicyError, SandboxError, UnsupportedError, describe_errno
from sandbox.kernel.calls import timerfd_create, timerfd_settime
from sandbox.plan.root import Bind, Overlay, RootEntry, RootSpec
from sandbox.policy.profile import Volume
from sandbox.record import dataclass, replace
from sandbox.result import Verdict
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.api.execute import Hooks
    from sandbox.api.finish import Finished
    from sandbox.api.prepare import Prepared
    from sandbox.api.streams import Streams
    from sandbox.images.model import Image
    from sandbox.supervise.monitor import Monitor

DISK_BYTES = 4 << 30
"""What a run may write over its directories on the disk, unless told otherwise."""
MEMORY_BYTES = 256 << 20
"""The same where it is kept in memory."""
MAXIMUM_INODES = 1_000_000
RESERVE_BYTES = 256 << 20
"""What is left free on the file system of the changes, whatever a run may write."""
_MEMORY_INODES = 262_144
PIN = "changes-"
"""How what keeps an image in the store for a kept run is called; the run's id follows."""
_LOOK_NS = 250_000_000
_KERNEL_TREES = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class CowRequest:
    """What was asked for.

    Attributes:
        directories: host directories, as they were written.
        resume: the id of the kept run to go on from, resolved; its trees are taken.
        root: keep what is written over the image that is the root.
        memory: keep the changes in memory, and no record of them.
        limit_bytes: what may be written; 0 takes the default.
    """

    directories: tuple[str, ...] = ()
    resume: str = ""
    root: bool = False
    memory: bool = False
    limit_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What is to be kept of a run, looked up.

    Attributes:
        path: the directory of kept runs; empty where everything is in memory.
        trees: what it sees copy-on-write.
        modes: of the tops of the trees.
        base: the kept run that it goes on from.
        limit_bytes: what may be written.
        lock: descriptor that the run's janitor is given a copy of, while it runs; -1 before.
    """

    path: str
    trees: tuple[Tree, ...]
    modes: tuple[int, ...]
    base: Record | None = None
    limit_bytes: int = DISK_BYTES
    lock: int = -1


def plan_keeping(request: CowRequest, environ: Mapping[str, str]) -> Keeping:
    """Look up what is to be seen copy-on-write.

    Args:
        request: what was asked for.
        environ: the caller's environment, for where runs are kept.

    Raises:
        PolicyError: something is no directory, lies where it may not, or is given twice; the run to go on from is none.
    """
    if request.resume and (request.directories or request.memory):
        raise PolicyError("go on from a kept run: it brings its own directories, so `cow` is not to be given with it")
    if request.root and request.memory:
        raise PolicyError("keep what is written over an image: that is on the disk, not in memory")
    path = "" if request.memory else changes_path(environ)
    base = _find_base(path, request.resume) if request.resume else None
    if base is not None:
        trees = base.trees
    else:
        trees = tuple(_look_at(text, path or changes_path(environ)) for text in request.directories)
    for number, tree in enumerate(trees):
        for other in trees[:number]:
            if tree.path == other.path or _is_within(tree.path, other.path) or _is_within(other.path, tree.path):
                raise PolicyError(f"copy-on-write of `{tree.path}`: it and `{other.path}` overlap", hint="name the upper of the two")
    modes = tuple(stat.S_IMODE(os.stat(tree.lowers[0]).st_mode) for tree in trees)
    return Keeping(
        path=path, trees=trees, modes=modes, base=base, limit_bytes=request.limit_bytes or (MEMORY_BYTES if request.memory else DISK_BYTES)
    )  # fmt: skip


def keep_image(keeping: Keeping, request: CowRequest, image: Image) -> tuple[Keeping, Image]:
    """Return what is to be kept with the image, where that is asked for, and the image as the run that is gone on from has left it.

    Raises:
        PolicyError: the run to go on from was on another image.
    """
    of_image = [number for number, tree in enumerate(keeping.trees) if tree.image]
    if keeping.base is not None and of_image:
        number = of_image[0]
        if keeping.trees[number].image != image.digest:
            raise PolicyError(f"go on from run `{keeping.base.run}`: it was on image `{keeping.trees[number].image[7:19]}`, this is `{image.short_id}`")
        uppers = [
            os.path.join(upper_path(os.path.join(keeping.path, run), number), "upper") for run in (keeping.base.run, *keeping.base.chain)
        ]
        return keeping, replace(image, layers=(*uppers, *image.layers))
    if not request.root:
        return keeping, image
    if keeping.base is not None:
        raise PolicyError(f"go on from run `{keeping.base.run}`: it kept nothing of an image")
    tree = Tree(path="/", lowers=image.layers, image=image.digest)
    return replace(keeping, trees=(*keeping.trees, tree), modes=(*keeping.modes, 0o755)), image


def image_of(run: str, environ: Mapping[str, str]) -> str:
    """Return the digest of the image that a kept run was on, where it kept what it wrote over it."""
    base = _find_base(changes_path(environ), run)
    return next((tree.image for tree in base.trees if tree.image), "")


def _find_base(path: str, run: str) -> Record:
    place = open_place(path, make=False)
    if place is None:
        raise PolicyError(f"go on from run `{run}`: none is kept")
    try:
        base = read_record(place, run)
    finally:
        os.close(place)
    if not base.listed:
        raise PolicyError(
            f"go on from run `{run}`: it is {base.state}",
            hint=f"`sandbox changes {run}` looks at an interrupted one first",
        )
    for tree in base.trees:
        if tree.image:
            continue
        try:
            found = os.stat(tree.lowers[0])
        except OSError as error:
            raise PolicyError(f"go on from run `{run}`: `{tree.path}`: {describe_errno(error.errno or 0)}") from None
        if (found.st_dev, found.st_ino) != (tree.device, tree.inode):
            raise PolicyError(f"go on from run `{run}`: `{tree.path}` is another directory now than that run has seen")
    return base


def _look_at(text: str, path: str) -> Tree:
    origin = f"copy-on-write of `{text}`"
    wanted = os.path.join(os.getcwd(), os.path.expanduser(text))
    try:
        real = os.path.realpath(wanted, strict=True)
        found = os.stat(real)
    except OSError as error:
        raise PolicyError(f"{origin}: {describe_errno(error.errno or 0)}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise PolicyError(f"{origin}: it is not a directory", hint="name the directory that the file is in")
    for tree in _KERNEL_TREES:
        if _is_within(real, tree):
            raise PolicyError(f"{origin}: it lies in the host's `{tree}`")
    place = os.path.realpath(path)
    if _is_within(place, real) or _is_within(real, place):
        relation = "contains" if _is_within(place, real) else "lies in"
        raise PolicyError(
            f"{origin}: it {relation} the directory where changes are kept (`{place}`)",
            hint="set SANDBOX_STATE_DIR to a directory elsewhere, or name a directory below it",
        )
    return Tree(path=real, lowers=(real,), device=found.st_dev, inode=found.st_ino)


def _is_within(path: str, top: str) -> bool:
    return path == top or top == "/" or path.startswith(top + "/")


def volumes_of(keeping: Keeping) -> list[Volume]:
    """Return the trees as volumes, so that everything that holds of what is shared holds of them: what is refused, hidden and masked."""
    return [
        Volume(source=tree.path, target=tree.path, origin=f"copy-on-write of `{tree.path}`") for tree in keeping.trees if not tree.image
    ]  # fmt: skip


def with_overlays(root: RootSpec, keeping: Keeping, run: str, *, is_root: bool) -> RootSpec:
    """Return the root with each of those volumes in overlay form."""
    directory = os.path.join(keeping.path, run) if keeping.path else ""
    base = [] if keeping.base is None else [keeping.base.run, *keeping.base.chain]
    entries: list[RootEntry] = []
    numbers = {tree.path: number for number, tree in enumerate(keeping.trees)}
    for entry in root.entries:
        number = numbers.get(entry.path, -1)
        if number < 0 or not isinstance(entry, (Bind, Overlay)):
            entries.append(entry)
            continue
        tree = keeping.trees[number]
        uppers = tuple(os.path.join(upper_path(os.path.join(keeping.path, one), number), "upper") for one in base)
        where = upper_path(directory, number) if directory else None
        if isinstance(entry, Overlay):  # of an image, whose layers have those uppers on top already
            entries.append(replace(entry, upper=where, size_bytes=0, inodes=0) if where else entry)
            continue
        overlay = Overlay(
            path=tree.path,
            lowers=(*uppers, *tree.lowers),
            upper=where,
            size_bytes=0 if where else keeping.limit_bytes,
            inodes=0 if where else _MEMORY_INODES,
            mode=keeping.modes[number],
            executable=entry.executable,
            why=entry.why,
            owner=os.stat(tree.lowers[0]).st_uid if is_root else -1,
        )
        entries.append(overlay)
    if any(tree.image for tree in keeping.trees) and not any(isinstance(entry, Overlay) and entry.path == "/" for entry in entries):
        raise UnsupportedError("an overlay mount in a user namespace", "keep", reason="the image is a read-only copy without one")
    return replace(root, entries=tuple(entries))


def execute_keeping(prepared: Prepared, streams: Streams, hooks: Hooks) -> Finished:
    """Run what keeps its changes on the disk to its end, and list what it changed.

    Raises:
        SandboxError: as `execute`, or the changes cannot be kept.
    """
    from sandbox.api.execute import execute_once
    from sandbox.api.finish import with_notes

    keeping = prepared.keeping
    assert keeping is not None
    kept = prepare_changes(keeping.path, prepared.run_id, keeping.trees, prepared.command.argv, base=keeping.base)
    bound: _Bound | None = None
    try:
        try:
            bound = _Bound(kept, keeping.limit_bytes, hooks)
            hooks = replace(hooks, watches=(*hooks.watches, (bound.fd, bound.on_time)), ended_by=bound.why)
            finished = execute_once(replace(prepared, keeping=replace(keeping, lock=kept.lock)), streams, hooks)
        except SandboxError:
            if not _has_content(kept, len(keeping.trees)):
                abandon_changes(kept)
            raise
        if prepared.as_root:
            for number, tree in enumerate(keeping.trees):
                owner = os.stat(tree.lowers[0])
                give_tree(kept.directory, f"trees/{number}/upper", owner.st_uid, owner.st_gid)
        try:
            record = finish_changes(kept, finished.result.exit_code)
        except SandboxError as error:  # the run has ended well or ill; that its files wait for another look must not hide it
            return with_notes(finished, f"what the run changed is not listed yet: {error.message}; `sandbox changes {prepared.run_id}` tries again")
        if record is None:
            return finished
        if prepared.image is not None and any(tree.image for tree in keeping.trees):
            from sandbox.images.pins import pin_image

            pin_image(prepared.image, prepared.command.environ or os.environ, PIN + record.run)
        from sandbox.api.changes import RunChanges

        return replace(finished, result=replace(finished.result, changes=RunChanges(keeping.path, record)))
    finally:
        if bound is not None:
            bound.close()
        kept.close()


def give_to(path: str, keeping: Keeping, run: str, host_id: int) -> None:
    """Let root's payload, who is another user on the host, write to the uppers of its run."""
    for number in range(len(keeping.trees)):
        for name in ("", "upper", "work"):
            os.chown(os.path.join(upper_path(os.path.join(path, run), number), name), host_id, host_id, follow_symlinks=False)


def _has_content(kept: Kept, trees: int) -> bool:
    """Whether a run that failed has come so far as to write."""
    return any(os.listdir(os.path.join(upper_path(kept.path, number), "upper")) for number in range(trees))


class _Bound:
    """Ends a run that writes more than it may: no kernel counts what an ordinary user writes to one directory, so it is looked at.

    The file system's free space is asked for four times a second, which costs microseconds. Only when it has shrunk by half of what is left of the limit is
    the run's own share measured, file by file. What one file may grow to is RLIMIT_FSIZE's affair (limit `file-size`).

    Args:
        kept: the run; borrowed.
        limit_bytes: what it may write.
        hooks: where else it may have been ended.
    """

    def __init__(self, kept: Kept, limit_bytes: int, hooks: Hooks) -> None:
        self._kept = kept
        self._limit = limit_bytes
        self._reason = ""
        self._before: Callable[[], str] | None = hooks.ended_by
        self._free = self._next = self._free_bytes()
        self._next -= limit_bytes // 2
        self._files = self._next_files = os.fstatvfs(kept.directory).f_favail
        self._next_files -= MAXIMUM_INODES // 2
        self.fd = timerfd_create()
        self._arm()

    def _free_bytes(self) -> int:
        found = os.fstatvfs(self._kept.directory)
        return found.f_bavail * found.f_frsize

    def _arm(self) -> None:
        timerfd_settime(self.fd, time.monotonic_ns() + _LOOK_NS)

    def why(self) -> str:
        """Return why the run was ended, or nothing."""
        return self._reason or (self._before() if self._before is not None else "")

    def on_time(self, monitor: Monitor) -> None:
        """Look; for the supervisor's loop."""
        os.read(self.fd, 8)
        free, files = self._free_bytes(), os.fstatvfs(self._kept.directory).f_favail
        if free < RESERVE_BYTES and self._free - free > RESERVE_BYTES // 16:
            self._end(monitor, f"only {format_size(free)} are left on the file system of its changes")
        elif free <= self._next or files <= self._next_files:
            used, count = self._measure()
            if used > self._limit:
                self._end(monitor, f"its changes take {format_size(used)}, more than {format_size(self._limit)} (`--cow-size`)")
            elif count > MAXIMUM_INODES:
                self._end(monitor, f"its changes are more than {MAXIMUM_INODES} files, or deeper than a path can say")
            self._next = free - max(1 << 20, (self._limit - used) // 2)
            self._next_files = files - max(1000, (MAXIMUM_INODES - count) // 2)
        self._arm()

    def _end(self, monitor: Monitor, why: str) -> None:
        if not self._reason:
            self._reason = f"killed by the sandbox: {why}"
            monitor.kill(Verdict.SIGNALED)

    def _measure(self) -> tuple[int, int]:
        return measure_tree(self._kept.directory, "trees", limit_bytes=self._limit, limit_files=MAXIMUM_INODES)

    def close(self) -> None:
        """Let go of the timer; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


__all__ = ["PIN", "CowRequest", "Keeping", "execute_keeping", "give_to", "image_of", "keep_image", "plan_keeping", "volumes_of", "with_overlays"]
