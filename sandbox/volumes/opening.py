"""Opens the named volumes of one run: makes, fills and locks what its plan will mount. On the path of every run that has one; `api` imports this module."""

from __future__ import annotations

import errno
import os
import time

from sandbox.errors import PolicyError, SandboxError, SetupError, describe_errno
from sandbox.volumes.place import DATA, FILL, Store, Target, new_facts, open_below, open_store, read_facts
from sandbox.volumes.uses import Use, VolumeInUse, await_end, conflicts, describe_uses, find_uses, register, take_mutex, unregister

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.plan.root import VolumeUse

_TRIES = 100


class Opened:
    """The volumes of a run, held until `close`; a context manager.

    Attributes:
        locks: descriptors that must stay open somewhere as long as anything of the run lives.
        owners: the id that the files of each volume have on the disk, by the volume's name; empty where that is the caller's own.
        notes: for the user.
    """

    def __init__(self) -> None:
        self.locks: list[int] = []
        self.owners: dict[str, int] = {}
        self.notes: list[str] = []
        self._held: list[tuple[int, int, str]] = []

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """The run is over: let others know; idempotent."""
        while self._held:
            volume, lock, entry = self._held.pop()
            unregister(volume, lock, entry)
            os.close(volume)
        self.locks.clear()

    def _hold(self, volume: int, lock: int, entry: str) -> None:
        self._held.append((volume, lock, entry))
        self.locks.append(lock)


def open_volumes(uses: Sequence[VolumeUse], *, run_id: str, name: str = "", wakes: Sequence[int] = ()) -> Opened:
    """Make, fill and lock the volumes of a run, in the order of their names, so that two runs cannot each wait for what the other has.

    Args:
        uses: the run's mounts of named volumes.
        run_id: whose.
        name: the run's name, for messages.
        wakes: see `uses.await_end`.

    Raises:
        VolumeInUse: another run keeps one of them.
        SandboxError: one cannot be made, filled or used; nothing is held.
    """
    opened = Opened()
    try:
        by_name: dict[str, list[VolumeUse]] = {}
        for use in uses:
            by_name.setdefault(use.name, []).append(use)
        for _, mounts in sorted(by_name.items()):
            _open(opened, mounts, run_id, name, wakes)
        return opened
    except OSError as error:
        opened.close()
        raise SetupError("open the volumes", error.errno or errno.EIO) from error
    except BaseException:
        opened.close()
        raise


def _open(opened: Opened, mounts: list[VolumeUse], run_id: str, run_name: str, wakes: Sequence[int]) -> None:
    first = mounts[0]
    wanted = Use(
        run_id=run_id, name=run_name, pid=os.getpid(), writable=any(use.writable for use in mounts), locked=first.lock,
        began_ns=time.time_ns(), entry=f"{run_id}-{os.urandom(4).hex()}",
    )  # fmt: skip
    deadline = time.monotonic_ns() + first.wait_ns
    for _ in range(_TRIES):
        store = open_store(first.store, make=True)
        assert store is not None
        with store:
            volume = _find_or_make(store, first)
            try:
                mutex = take_mutex(volume)
                try:
                    if not store.is_current(first.name, volume):
                        continue  # it was removed before we had the mutex
                    uses = find_uses(volume)
                    in_the_way = conflicts(wanted, uses)
                    if not in_the_way:
                        _make_ready(opened, volume, mounts, uses)
                        lock = register(volume, wanted)
                        opened._hold(volume, lock, wanted.entry)
                        volume = -1
                        return
                finally:
                    os.close(mutex)
                if not await_end(volume, in_the_way[0], deadline, wakes):
                    raise _in_use(first, wanted, in_the_way)
            finally:
                if volume >= 0:
                    os.close(volume)
    raise SandboxError(f"open volume `{first.name}`: it is removed and locked again and again", origin=first.origin)


def _in_use(mount: VolumeUse, wanted: Use, uses: Sequence[Use]) -> VolumeInUse:
    waited = f" after {mount.wait_ns / 1e9:g} s" if mount.wait_ns else ""
    what = "lock" if wanted.locked else "write to"
    hint = f"`sandbox kill {uses[0].run_id}` ends it"
    hint += "" if mount.wait_ns else "; `lock,wait=30s` waits for it" if wanted.locked else "; `ro` reads beside it"
    return VolumeInUse(f"{what} volume `{mount.name}`: taken{waited} by {describe_uses(uses)}", uses=uses, origin=mount.origin, hint=hint)


def _find_or_make(store: Store, mount: VolumeUse) -> int:
    for _ in range(_TRIES):
        volume = store.open_volume(mount.name)
        if volume is not None:
            return volume
        if mount.beside:
            raise PolicyError(
                f"volume `{mount.name}`: there is none of that name, but `{mount.beside}`", origin=mount.origin,
                hint=f"write `./{mount.name}` for the path; `sandbox volume create {mount.name}` makes the volume",
            )  # fmt: skip
        store.sweep()
        store.make(mount.name, new_facts("run"))
    raise SandboxError(f"make volume `{mount.name}`: it is removed again and again", origin=mount.origin)


def _make_ready(opened: Opened, volume: int, mounts: list[VolumeUse], uses: Sequence[Use]) -> None:
    """Fill what is empty and make the mount points of what is mounted inside; the caller has the mutex."""
    owner, most = os.geteuid(), 0
    if owner == 0:
        facts = read_facts(volume)
        owner, most = facts.owner, facts.size_bytes
        opened.owners[mounts[0].name] = owner
    for mount in mounts:
        parent_path, _, last = "/".join(filter(None, (DATA, mount.subpath))).rpartition("/")
        try:
            parent = open_below(volume, parent_path, only_path=True)
        except OSError as error:
            raise _no_subpath(mount, error) from None
        try:
            try:
                top = open_below(parent, last, only_path=True)
            except OSError as error:
                raise _no_subpath(mount, error) from None
            try:
                empty = mount.copy and bool(mount.sources) and _is_empty(top)
            finally:
                os.close(top)
            if empty and uses:
                # What they have mounted would not be what took its place.
                opened.notes.append(f"volume `{mount.name}` is empty and was not filled: {describe_uses(uses)}")
            elif empty:
                _fill(opened, mount, Target(volume=volume, temporary=FILL, parent=parent, name=last, owner=owner), most)
            if mount.points:
                top = open_below(parent, last, only_path=True)
                try:
                    for point, directory in mount.points:
                        _make_point(mount, top, point, directory, owner)
                finally:
                    os.close(top)
        finally:
            os.close(parent)


def _no_subpath(mount: VolumeUse, error: OSError) -> SandboxError:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or not mount.subpath:
        return SandboxError(f"open volume `{mount.name}`: {describe_errno(error.errno or 0)}", origin=mount.origin)
    if error.errno == errno.ENOENT:
        hint = f"`sandbox exec -v {mount.name}:/v -- mkdir -p /v/{mount.subpath}` makes it"
        return PolicyError(f"volume `{mount.name}` has no directory `{mount.subpath}`", origin=mount.origin, hint=hint)
    return PolicyError(f"volume `{mount.name}`: `{mount.subpath}` is no directory, or has a symbolic link in it", origin=mount.origin)


def _is_empty(directory: int) -> bool:
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False  # a program took the right away: not a new one
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def _fill(opened: Opened, mount: VolumeUse, target: Target, most: int) -> None:
    from sandbox.volumes.fill import MAXIMUM_BYTES, fill

    try:
        filled = fill(target, mount.sources, mount.inside, public=mount.public, most_bytes=most or MAXIMUM_BYTES)
    except SetupError:
        raise
    except SandboxError as error:
        raise PolicyError(f"volume `{mount.name}`: {error.message}", origin=mount.origin, hint=error.hint) from None
    if filled is not None:
        opened.notes += [f"volume `{mount.name}`: {note}" for note in filled.notes()]


def _make_point(mount: VolumeUse, top: int, path: str, directory: bool, owner: int) -> None:
    """Make a mount point that is missing, name by name and through no link: what is in the volume was written by other runs."""
    fd = os.dup(top)
    try:
        *parents, last = path.split("/")
        for name, is_directory in (*((name, True) for name in parents), (last, directory)):
            try:
                found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECTORY if is_directory else 0), dir_fd=fd)
            except FileNotFoundError:
                if not mount.writable:
                    raise PolicyError(
                        f"mount on `{mount.target}/{path}`: volume `{mount.name}` has nothing there and is read-only", origin=mount.origin,
                        hint="mount it writable once",
                    ) from None  # fmt: skip
                if is_directory:
                    os.mkdir(name, 0o755, dir_fd=fd)
                else:
                    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd))
                if os.geteuid() == 0:
                    os.chown(name, owner, owner, dir_fd=fd, follow_symlinks=False)
                found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = found
    except OSError as error:
        raise SandboxError(
            f"mount on `{mount.target}/{path}`: in volume `{mount.name}`: {describe_errno(error.errno or 0)}", origin=mount.origin
        ) from None
    finally:
        os.close(fd)


__all__ = ["Opened", "open_volumes"]
