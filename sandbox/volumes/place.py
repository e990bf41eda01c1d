"""Where named volumes are, and how one gets there and away whole: everything appears by a rename and is renamed away before it is removed.

The directory is 0700 and the caller's own, so that no other user, and no run (`store.hidden_paths`), gets past it. In it:

- ``.lock``: shared by whoever has something in ``.tmp``, exclusive for whoever clears that.
- ``.tmp``: what is being made or removed; a SIGKILL leaves it there for the next command.
- ``NAME/volume``: what is known of the volume, see `Facts`. ``NAME/lock``: held while something about it is decided, see `uses`. ``NAME/runs``: who uses
  it. ``NAME/fill``: the copy that is being made. ``NAME/data``: what is mounted.

No volume's name begins with a dot. The rest of `volumes` imports this module.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from sandbox.errors import SandboxError, describe_errno
from sandbox.record import dataclass
from sandbox.store import make_directory
from sandbox.volumes.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DATA, RUNS, LOCK, FILL, FACTS = "data", "runs", "lock", "fill", "volume"
_FIRST = "sandbox-volume 1"
_TMP, _STORE_LOCK = ".tmp", ".lock"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FACTS_BYTES = 1 << 20
ROOT_OWNER = 0x6FFFFFFF
"""The id that a volume's files have on the disk where root calls: no login's and no run's, whose ids are above. The mount maps it to the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is written down of a volume: `created_ns` since the epoch, the id that its files have on the disk, `made` by ``create`` or by a ``run``.

    `size_bytes` is the limit that the file system enforces on `project`; 0 is none.
    """

    created_ns: int
    owner: int
    made: str
    size_bytes: int = 0
    project: int = 0
    labels: tuple[tuple[str, str], ...] = ()


class Target:
    """Where a copy is made and goes.

    Args:
        volume: descriptor of the volume's own directory, where the copy is made under the name `temporary`; borrowed.
        temporary: that name; what is there goes.
        parent: descriptor of the directory that the volume's (or subpath's) is in; borrowed.
        name: its name there.
        owner: the id that everything gets where root calls.
    """

    __slots__ = ("name", "owner", "parent", "temporary", "volume")

    def __init__(self, *, volume: int, temporary: str, parent: int, name: str, owner: int) -> None:
        self.volume, self.temporary, self.parent, self.name, self.owner = volume, temporary, parent, name, owner


class Store:
    """The directory of all volumes, open; a context manager."""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def names(self) -> list[str]:
        """Return the names of all volumes, sorted."""
        return sorted(entry.name for entry in _scan(self.fd) if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False))

    def open_volume(self, name: str) -> int | None:
        """Return a descriptor of a volume's directory, or None where there is no such volume."""
        try:
            return os.open(name, _OPEN, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SandboxError(f"open volume `{self.path}/{name}`: {describe_errno(error.errno or 0)}") from None

    def is_current(self, name: str, fd: int) -> bool:
        """Whether a volume's name still means that directory."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return False
        ours = os.fstat(fd)
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def make(self, name: str, facts: Facts) -> bool:
        """Make an empty volume; return False where there is one of that name.

        Raises:
            SandboxError: it cannot be made; nothing of it is left.
        """
        made = ""
        lock = self._lock(fcntl.LOCK_SH)
        try:
            made = self._make_temporary()
            top = os.open(made, _OPEN, dir_fd=self.fd)
            try:
                if facts.size_bytes:
                    from sandbox.volumes.quota import set_limit

                    set_limit(top, facts.project, facts.size_bytes)
                for directory in (DATA, RUNS):
                    os.mkdir(directory, 0o700, dir_fd=top)
                for file, content in ((LOCK, b""), (FACTS, encode_facts(facts))):
                    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=top)
                    with os.fdopen(fd, "wb") as stream:
                        stream.write(content)
                prepare_top(top, DATA, facts.owner)
            finally:
                os.close(top)
            os.rename(made, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            made = ""
            return True
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise SandboxError(f"make volume `{self.path}/{name}`: {describe_errno(error.errno or 0)}") from None
        finally:
            if made:
                remove_tree(self.fd, made)
            os.close(lock)

    def take_away(self, name: str) -> None:
        """Remove a volume that nobody uses; its name is free at once."""
        lock = self._lock(fcntl.LOCK_SH)
        try:
            self._temporary_directory()
            away = f"{_TMP}/{os.urandom(8).hex()}"
            os.rename(name, away, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            remove_tree(self.fd, away)
        except OSError as error:
            raise SandboxError(f"remove volume `{self.path}/{name}`: {describe_errno(error.errno or 0)}") from None
        finally:
            os.close(lock)

    def sweep(self) -> int:
        """Remove what a SIGKILL has left in ``.tmp``, unless somebody is at work there; return how many trees that were."""
        try:
            fd = os.open(_TMP, _OPEN, dir_fd=self.fd)
        except OSError:
            return 0
        try:
            names = os.listdir(fd)
            if not names:
                return 0
            lock = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock < 0:
                return 0
            try:
                for name in names:
                    remove_tree(fd, name)
            finally:
                os.close(lock)
            return len(names)
        finally:
            os.close(fd)

    def _lock(self, operation: int) -> int:
        fd = os.open(_STORE_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(fd, operation)
        except BlockingIOError:
            os.close(fd)
            return -1
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _temporary_directory(self) -> None:
        try:
            os.mkdir(_TMP, 0o700, dir_fd=self.fd)
        except FileExistsError:
            pass

    def _make_temporary(self) -> str:
        self._temporary_directory()
        made = f"{_TMP}/{os.urandom(8).hex()}"
        os.mkdir(made, 0o700, dir_fd=self.fd)
        return made


def open_store(path: str, *, make: bool) -> Store | None:
    """Open the directory of volumes; None where it is not there and not to be made.

    Raises:
        SandboxError: it cannot be made or opened, or is not the caller's alone.
    """
    try:
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            if not make:
                return None
            make_directory(path)
            fd = os.open(path, _OPEN)
    except OSError as error:
        raise SandboxError(f"open the directory of volumes `{path}`: {describe_errno(error.errno or 0)}") from None
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return Store(path, fd)
    os.close(fd)
    if status.st_uid != os.geteuid():
        raise SandboxError(
            f"the directory of volumes `{path}` belongs to uid {status.st_uid}", hint="run as that user, or set SANDBOX_DATA_DIR"
        )
    raise SandboxError(
        f"the directory of volumes `{path}` has mode {stat.S_IMODE(status.st_mode):04o}: others could look in", hint=f"`chmod 700 {path}`"
    )


def new_facts(made: str, *, size_bytes: int = 0, project: int = 0, labels: Mapping[str, str] | None = None) -> Facts:
    """Return the facts of a volume that is made now."""
    owner = os.geteuid() or ROOT_OWNER
    return Facts(
        created_ns=time.time_ns(), owner=owner, made=made, size_bytes=size_bytes, project=project, labels=tuple(sorted((labels or {}).items()))
    )  # fmt: skip


def encode_facts(facts: Facts) -> bytes:
    """Return the bytes of a volume's file; labels have no control characters."""
    lines = [_FIRST, f"created {facts.created_ns}", f"owner {facts.owner}", f"made {facts.made}", f"size {facts.size_bytes} {facts.project}"]
    lines += [f"label {key}={value}" for key, value in facts.labels]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def read_facts(volume: int) -> Facts:
    """Return the facts of a volume; later versions may write more lines.

    Raises:
        SandboxError: the file is missing or no such file.
    """
    try:
        fd = os.open(FACTS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=volume)
        try:
            text = os.read(fd, _FACTS_BYTES).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
        first, *lines = text.split("\n")
        pairs = [line.partition(" ")[::2] for line in lines]
        fields = dict(pairs)
        if first != _FIRST:
            raise ValueError
        size, project = map(int, fields["size"].split())
        return Facts(
            created_ns=int(fields["created"]), owner=int(fields["owner"]), made=fields["made"], size_bytes=size, project=project,
            labels=tuple((key, value) for name, text in pairs if name == "label" for key, _, value in (text.partition("="),)),
        )  # fmt: skip
    except OSError as error:
        raise SandboxError(f"read what is known of a volume: {describe_errno(error.errno or 0)}") from None
    except (KeyError, ValueError):
        raise SandboxError("read what is known of a volume: the file is damaged", hint="its data is whole: `sandbox volume show` has the path") from None


def prepare_top(directory: int, name: str, owner: int) -> None:
    """Give a directory that will be mounted the mode and owner that a run needs there."""
    os.chmod(name, 0o755, dir_fd=directory)
    if os.geteuid() == 0:
        os.chown(name, owner, owner, dir_fd=directory, follow_symlinks=False)


def open_below(directory: int, path: str, *, only_path: bool = False) -> int:
    """Return a descriptor of a directory below another one, opened name by name without following a link.

    Args:
        directory: borrowed.
        path: relative; empty for the directory itself.
        only_path: with O_PATH, which a directory without any right to read can be opened with.

    Raises:
        OSError: a component is missing (ENOENT), no directory or a link (ENOTDIR, ELOOP).
    """
    fd = os.dup(directory)
    for part in _parts(path):
        try:
            below = os.open(part, _OPEN | os.O_PATH if only_path else _OPEN, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _parts(path: str) -> Iterable[str]:
    return [part for part in path.split("/") if part]


def _scan(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        yield from entries


__all__ = [
    "DATA", "FACTS", "FILL", "LOCK", "ROOT_OWNER", "RUNS", "Facts", "Store", "Target", "encode_facts", "new_facts", "open_below", "open_store",
    "prepare_top", "read_facts",
]  # fmt: skip
