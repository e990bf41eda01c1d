"""Fills an empty volume from what the root has at its target: as Docker does, with modes, times and links; without what has no place in a volume.

What is copied is a stranger's tree: nothing in it is followed, set-id bits and devices stay behind, entries, bytes and depth are bounded. The copy is made
beside the volume's directory and takes its place by one rename, so that a SIGKILL leaves an empty volume and a copy that the next fill removes.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import PolicyError, SetupError, describe_errno
from sandbox.record import dataclass, field
from sandbox.units import format_size
from sandbox.volumes.layers import Directory, Layers
from sandbox.volumes.place import Target, open_below
from sandbox.volumes.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAXIMUM_ENTRIES = 1_000_000
MAXIMUM_BYTES = 64 << 30
MAXIMUM_DEPTH = 256
_MAXIMUM_XATTRS = 64 << 10
_MAXIMUM_LINK_PATH = 3072
_PIECE = 8 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_HERE = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS)


@dataclass(slots=True, kw_only=True)
class Filled:
    """What was copied, and what was left out with why, the first few of each."""

    entries: int = 0
    size_bytes: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, why: str, path: str) -> None:
        """Note what is left out."""
        self.left.setdefault(why, []).append(path)

    def notes(self) -> list[str]:
        """Return a line for each reason."""
        return [
            f"{len(paths)} {'entry' if len(paths) == 1 else 'entries'} left out, {why}: `/{paths[0]}`" + (" and so on" if len(paths) > 1 else "")
            if paths != [""]
            else f"not filled: {why}"
            for why, paths in self.left.items()
        ]


def fill(target: Target, sources: Sequence[str], inside: str, *, public: bool, most_bytes: int = MAXIMUM_BYTES) -> Filled | None:
    """Copy a directory into an empty one; None where there is no directory to copy.

    Args:
        target: where to.
        sources: host directories, topmost first, in overlay form.
        inside: the directory's absolute path in them.
        public: take only what others may read.
        most_bytes: of all files together.

    Raises:
        PolicyError: a file is there instead, or it is too large.
        SetupError: it cannot be read or written; the volume is as it was.
    """
    remove_tree(target.volume, target.temporary)
    path = ""
    try:
        with Layers(sources) as layers:
            top = layers.resolve(inside)
            if top is None:
                return None
            os.mkdir(target.temporary, 0o700, dir_fd=target.volume)
            root = os.open(target.temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target.volume)
            try:
                copy = _Copy(layers, root, target.owner, public, most_bytes)
                try:
                    entered = copy.run(top)
                finally:
                    path = copy.at
            finally:
                os.close(root)
        if entered:
            os.rename(target.temporary, target.name, src_dir_fd=target.volume, dst_dir_fd=target.parent)
        else:
            remove_tree(target.volume, target.temporary)
        return copy.filled
    except PolicyError as error:
        remove_tree(target.volume, target.temporary)
        raise PolicyError(f"fill the volume from `{inside}`: {error.message}", hint=error.hint or "`nocopy` leaves it empty") from None
    except OSError as error:
        remove_tree(target.volume, target.temporary)
        raise SetupError(f"fill the volume from `{inside}`", error.errno or errno.EIO, step=f"at `/{path}`" if path else None) from None
    except BaseException:
        remove_tree(target.volume, target.temporary)
        raise


class _Copy:
    def __init__(self, layers: Layers, root: int, owner: int, public: bool, most_bytes: int) -> None:
        self.filled = Filled()
        self.at = ""
        self._layers, self._root, self._public, self._most = layers, root, public, most_bytes
        self._owner = owner if os.geteuid() == 0 else -1
        self._links: dict[tuple[int, int], str] = {}
        self._made: list[tuple[str, os.stat_result]] = []

    def run(self, top: Directory) -> bool:
        """Copy it all; return whether the directory itself may be taken."""
        parts = top.path.split("/")
        # The way there may be closed to others as well.
        ways = [Directory("/".join(parts[:count]), top.layers) for count in range(1, len(parts) + 1)] if self._public else []
        if not all(self.may_enter(way, "") for way in ways):
            return False
        queue: list[tuple[Directory, str]] = [(top, "")]
        while queue:
            directory, path = queue.pop()
            queue += self._copy_directory(directory, path)
        # Modes last, the deepest first: one may forbid what was still to be made in it.
        for path, status in reversed(self._made):
            fd = open_below(self._root, path)
            try:
                if self._owner >= 0:
                    os.fchown(fd, self._owner, self._owner)
                os.fchmod(fd, stat.S_IMODE(status.st_mode) & 0o1777)
                os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(fd)
        return True

    def _copy_directory(self, directory: Directory, path: str) -> list[tuple[Directory, str]]:
        """Copy the files of one directory; return the ones in it, made and still empty."""
        self.at = directory.path
        if path.count("/") >= MAXIMUM_DEPTH:
            raise PolicyError(f"`/{directory.path[:200]}` is nested more than {MAXIMUM_DEPTH} deep")
        listing = self._layers.list(directory, MAXIMUM_ENTRIES - self.filled.entries)
        below = open_below(self._root, path)
        try:
            for layer in directory.layers:
                source = self._layers.open(directory, layer)
                try:
                    if layer == directory.layers[0]:
                        status = os.fstat(source)
                        self._made.append((path, status))
                        self._copy_xattrs(source, below)
                    for name in listing.others.get(layer, ()):
                        self.at = f"{directory.path}/{name}".lstrip("/")
                        self._copy_entry(source, layer, name, below, f"{path}/{name}".lstrip("/"))
                finally:
                    os.close(source)
            found = []
            for name, layers in listing.directories.items():
                child = Directory(f"{directory.path}/{name}".lstrip("/"), layers)
                self.at = child.path
                made = f"{path}/{name}".lstrip("/")
                if not self.may_enter(child, made):
                    continue
                self._count()
                os.mkdir(name, 0o700, dir_fd=below)
                found.append((child, made))
            return found
        finally:
            os.close(below)

    def may_enter(self, directory: Directory, path: str) -> bool:
        """Whether a directory is taken; it is noted where it is not."""
        for layer in directory.layers:
            try:
                fd = self._layers.open(directory, layer)
            except PermissionError:
                self.filled.leave("unreadable", path)
                return False
            try:
                if self._public and os.fstat(fd).st_mode & 0o005 != 0o005:
                    self.filled.leave("not for others to read", path)
                    return False
            finally:
                os.close(fd)
        return True

    def _copy_entry(self, source: int, layer: int, name: str, below: int, path: str) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            self._count()
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=below)
            if self._owner >= 0:
                os.chown(name, self._owner, self._owner, dir_fd=below, follow_symlinks=False)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=below, follow_symlinks=False)
        elif stat.S_ISREG(status.st_mode):
            if self._public and not status.st_mode & 0o004:
                self.filled.leave("not for others to read", path)
                return
            self._copy_file(source, layer, name, below, path)
        else:
            self.filled.leave("a device, socket or FIFO", path)

    def _copy_file(self, source: int, layer: int, name: str, below: int, path: str) -> None:
        try:
            fd = os.open(name, _READ, dir_fd=source)
        except PermissionError:
            self.filled.leave("unreadable", path)
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise PolicyError(f"`/{path}` changed while it was copied")
            self._count()
            key = (status.st_dev, status.st_ino)
            first = self._links.get(key) if status.st_nlink > 1 else None
            if first is not None:
                try:
                    os.link(first, name, src_dir_fd=self._root, dst_dir_fd=below, follow_symlinks=False)
                    return
                except OSError as error:
                    if error.errno != errno.EMLINK:
                        raise
            out = os.open(name, _WRITE, 0o600, dir_fd=below)
            try:
                self._copy_bytes(fd, out, status.st_size)
                self._copy_xattrs(fd, out)
                if self._owner >= 0:
                    os.fchown(out, self._owner, self._owner)
                os.fchmod(out, stat.S_IMODE(status.st_mode) & 0o1777)
                os.utime(out, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(out)
            if status.st_nlink > 1 and len(os.fsencode(path)) < _MAXIMUM_LINK_PATH:
                self._links[key] = path
        finally:
            os.close(fd)

    def _copy_bytes(self, source: int, out: int, size: int) -> None:
        """Copy the data of a file and leave its holes."""
        os.ftruncate(out, size)
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
                end = os.lseek(source, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole is left
                raise
            self.filled.size_bytes += end - at
            if self.filled.size_bytes > self._most:
                raise PolicyError(f"it has more than {format_size(self._most)}")
            os.lseek(source, at, os.SEEK_SET)
            os.lseek(out, at, os.SEEK_SET)
            while at < end:
                count = _move(source, out, min(_PIECE, end - at))
                if not count:
                    raise PolicyError("a file became shorter while it was copied")
                at += count

    def _copy_xattrs(self, source: int, out: int) -> None:
        try:
            names = os.listxattr(source)
        except OSError:
            return
        total = 0
        for name in names:
            if not name.startswith("user.") or name.startswith("user.overlay."):
                continue
            value = os.getxattr(source, name)
            total += len(name) + len(value)
            if total > _MAXIMUM_XATTRS:
                self.filled.leave("attributes beyond 64 KiB", self.at)
                return
            try:
                os.setxattr(out, name, value)
            except OSError as error:
                self.filled.leave(f"attributes: {describe_errno(error.errno or 0)}", self.at)
                return

    def _count(self) -> None:
        self.filled.entries += 1
        if self.filled.entries > MAXIMUM_ENTRIES:
            raise PolicyError(f"it has more than {MAXIMUM_ENTRIES} entries")


def _move(source: int, out: int, count: int) -> int:
    """Copy some bytes at the descriptors' positions, in the kernel where it can."""
    try:
        return os.copy_file_range(source, out, count)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EBADF, *_NOT_HERE):
            raise
    data = os.read(source, count)
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
    return len(data)


__all__ = ["MAXIMUM_BYTES", "MAXIMUM_DEPTH", "MAXIMUM_ENTRIES", "Filled", "fill"]
