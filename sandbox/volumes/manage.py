"""Named volumes for whoever manages them: make, list, look at, remove. Off the path of a run; `sandbox.volumes` is its front door."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from sandbox.errors import PolicyError, SandboxError
from sandbox.policy.nearest import suggest
from sandbox.policy.places import Where
from sandbox.policy.profile_volumes import check_name
from sandbox.record import dataclass
from sandbox.store import data_path
from sandbox.units import parse_size
from sandbox.volumes.place import DATA, FILL, RUNS, Facts, Store, new_facts, open_store, read_facts
from sandbox.volumes.quota import check_quota, forget_limit, new_project
from sandbox.volumes.trees import measure_tree, remove_tree
from sandbox.volumes.uses import Use, VolumeInUse, describe_uses, find_uses, take_mutex

_TRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedVolume:
    """A volume as it is at one moment.

    Attributes:
        name: what it is called.
        path: host directory of its files; for backups, never for ``-v``.
        created_ns: since the epoch.
        last_used_ns: when a run last began or ended using it, since the epoch; when it was made, where none has.
        made: ``create``, or ``run`` for one that a run's ``-v`` made.
        labels: what it was given at its making.
        limit_bytes: what the file system lets it grow to; None is no limit.
        uses: the runs that use it now.
    """

    name: str
    path: str
    created_ns: int
    last_used_ns: int
    made: str
    labels: Mapping[str, str]
    limit_bytes: int | None
    uses: tuple[Use, ...]

    def measure(self) -> tuple[int, int, bool]:
        """Return the bytes its files take on the disk, how many there are, and whether that is all of it (a program may have made too many to count)."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:
            return 0, 0, False  # a program has taken the right away
        try:
            return measure_tree(fd)
        finally:
            os.close(fd)

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "name": self.name, "path": self.path, "created_ns": self.created_ns, "last_used_ns": self.last_used_ns, "made": self.made,
            "labels": dict(self.labels), "limit_bytes": self.limit_bytes,
            "runs": [{"run": use.run_id, "name": use.name, "pid": use.pid, "writable": use.writable, "locked": use.locked} for use in self.uses],
        }  # fmt: skip


def create(name: str, *, labels: Mapping[str, str] | None = None, size: int | str | None = None, origin: str = "volume") -> NamedVolume:
    """Make an empty volume.

    Args:
        name: letters, digits, ``_``, ``.`` and ``-``.
        labels: texts to find it by.
        size: what it may grow to, where the host can enforce it.
        origin: who asks, for messages.

    Raises:
        PolicyError: the name or a label is none, or taken.
        UnsupportedError: the host cannot limit a volume's size.
        SandboxError: it cannot be made.
    """
    where = Where(key=origin, origin=origin)
    check_name(name, where)
    for key, value in (labels or {}).items():
        if not key or "=" in key or any(ord(one) < 32 or ord(one) == 127 for one in key + value) or len(key) + len(value) > 1024:
            where.fail(f"label `{key}={value}` has a control character, is too long, or has no name")
    size_bytes = 0 if size is None else parse_size(size, where=origin)
    if size is not None and size_bytes < 65536:
        where.fail(f"size `{size}` must be at least 64 KiB")
    store = _open(make=True)
    assert store is not None
    with store:
        store.sweep()
        if size_bytes:
            check_quota(store.fd, store.path, "size")
        facts = new_facts("create", size_bytes=size_bytes, project=new_project() if size_bytes else 0, labels=labels)
        if not store.make(name, facts):
            where.fail(f"there is a volume `{name}`", hint=f"`sandbox volume show {name}`")
        return _look(store, name) or _gone(name)


def find_all() -> tuple[NamedVolume, ...]:
    """Return every volume, by name."""
    store = _open(make=False)
    if store is None:
        return ()
    with store:
        store.sweep()
        return tuple(found for name in store.names() if (found := _look(store, name)) is not None)


def find(name: str) -> NamedVolume:
    """Return one volume.

    Raises:
        PolicyError: there is none of that name.
    """
    store = _open(make=False)
    if store is not None:
        with store:
            found = _look(store, name) if _is_name(name) else None
            if found is not None:
                return found
            names = store.names()
    else:
        names = []
    raise PolicyError(f"there is no volume `{name}`", hint=suggest(name, names) or "see `sandbox volume ls`")


def remove(name: str) -> None:
    """Remove a volume and all that is in it.

    Raises:
        PolicyError: there is none of that name.
        VolumeInUse: a run uses it.
        SandboxError: something of it cannot be removed; what is left has no name any more, and goes with the next command.
    """
    find(name)
    store = _open(make=False)
    if store is None:
        return
    with store:
        store.sweep()
        if not _remove(store, name):
            _gone(name)


def prune(
    *, labels: Mapping[str, str | None] | None = None, unused_ns: int = 0, every: bool = False, dry_run: bool = False
) -> tuple[NamedVolume, ...]:
    """Remove the volumes that no run uses now and that are meant; return them.

    Nothing in a volume says whether anybody wants it again, so there is no default: without `every`, `labels` or `unused_ns` only what a SIGKILL
    left behind goes.

    Args:
        labels: only with all of these labels; None stands for any value.
        unused_ns: only where no run has used it for so long.
        every: all of them.
        dry_run: only say which.

    Raises:
        SandboxError: one cannot be removed.
    """
    store = _open(make=False)
    if store is None:
        return ()
    removed = []
    with store:
        store.sweep()
        for name in store.names():
            found = _look(store, name)
            if found is None or found.uses or not (every or labels or unused_ns):
                continue
            if any(key not in found.labels or (value is not None and found.labels[key] != value) for key, value in (labels or {}).items()):
                continue
            if found.last_used_ns > time.time_ns() - unused_ns:
                continue
            try:
                if dry_run or _remove(store, name):
                    removed.append(found)
            except VolumeInUse:
                continue  # a run was faster
    return tuple(removed)


def _open(*, make: bool) -> Store | None:
    path = data_path(os.environ, "volumes")
    if path is None:
        raise SandboxError("there is no place for volumes", hint="set HOME, or SANDBOX_DATA_DIR")
    return open_store(os.path.realpath(path), make=make)


def _is_name(name: str) -> bool:
    return "/" not in name and not name.startswith(".") and "\0" not in name and bool(name)


def _look(store: Store, name: str) -> NamedVolume | None:
    volume = store.open_volume(name)
    if volume is None:
        return None
    try:
        mutex = take_mutex(volume, wait=False)  # somebody may be filling it, for minutes
        try:
            if not store.is_current(name, volume):
                return None
            facts = _facts(name, volume)
            uses = find_uses(volume, sweep=mutex >= 0)
            if mutex >= 0:
                remove_tree(volume, FILL)  # a fill has the mutex: this one was killed
            last = os.stat(RUNS, dir_fd=volume, follow_symlinks=False).st_mtime_ns
        finally:
            if mutex >= 0:
                os.close(mutex)
    finally:
        os.close(volume)
    return NamedVolume(
        name=name, path=f"{store.path}/{name}/{DATA}", created_ns=facts.created_ns, last_used_ns=max(last, facts.created_ns), made=facts.made,
        labels=dict(facts.labels), limit_bytes=facts.size_bytes or None, uses=tuple(uses),
    )  # fmt: skip


def _facts(name: str, volume: int) -> Facts:
    try:
        return read_facts(volume)
    except SandboxError as error:
        raise SandboxError(f"volume `{name}`: {error.message}", hint=error.hint) from None


def _remove(store: Store, name: str) -> bool:
    """Remove a volume; return False where it is not there any more."""
    for _ in range(_TRIES):
        volume = store.open_volume(name)
        if volume is None:
            return False
        try:
            mutex = take_mutex(volume)
            try:
                if not store.is_current(name, volume):
                    continue
                uses = find_uses(volume)
                if uses:
                    hint = f"`sandbox kill {uses[0].run_id}` ends it"
                    raise VolumeInUse(f"remove volume `{name}`: {describe_uses(uses)}", uses=uses, hint=hint)
                facts = _read_some_facts(volume)
                store.take_away(name)
                if facts is not None and facts.size_bytes:
                    forget_limit(store.fd, facts.project)
                return True
            finally:
                os.close(mutex)
        finally:
            os.close(volume)
    return False


def _read_some_facts(volume: int) -> Facts | None:
    try:
        return read_facts(volume)
    except SandboxError:
        return None  # damaged, and to be removed all the same


def _gone(name: str) -> NamedVolume:
    raise PolicyError(f"there is no volume `{name}`: it was removed meanwhile")


def labels_of(texts: Iterable[str]) -> dict[str, str | None]:
    """Return the labels of ``KEY`` and ``KEY=VALUE`` texts, None for any value."""
    found: dict[str, str | None] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        found[key] = value if equals else None
    return found


__all__ = ["NamedVolume", "VolumeInUse", "create", "find", "find_all", "labels_of", "prune", "remove"]
