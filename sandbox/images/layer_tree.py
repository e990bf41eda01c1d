"""The tree of one layer while it is unpacked: where a path leads in it, what makes room for what, and what is put on a finished file.

Everything goes by descriptor. A link on the way is resolved here, inside the tree and the layers below it, never by the kernel. While a layer is unpacked
every directory of it has mode 0700; what the archive says of directories waits in `directories` for `layer_end`. Only `unpacking` and `layer_end` import this.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.images.bounds import MAXIMUM_PATH, Budget, ImageError
from sandbox.images.facts import LayerFacts
from sandbox.images.lower import Found, LowerView
from sandbox.images.treeops import copy_content, open_directory_beneath, remove_at, status_at
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.tarread import Member

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
DEFAULT_MODE = 0o755
_MAXIMUM_LINKS = 40  # as the kernel: MAXSYMLINKS
_OVERLAY_XATTRS = b"user.overlay."
_NOBODY = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Who owns files on the disk: maps of the archive's ids to those of the user namespace that unpacks."""

    uid: Callable[[int], int]
    gid: Callable[[int], int]


@dataclass(slots=True, kw_only=True)
class DirectoryFacts:
    """What a directory gets when everything in it is there."""

    mode: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]
    owner: tuple[int, int]


class LayerTree:
    """A tree that is being made.

    `gone` are paths that the archive says are not to be seen any more, `opaque` directories of which nothing below is; both as the archive has them.

    Args:
        tree: the new, empty directory; borrowed.
        trash: another one beside it; borrowed.
        below: the layers under it.
        budget: of the whole import.
        owners: None leaves all files the caller's.
    """

    def __init__(self, tree: int, trash: int, below: LowerView, budget: Budget, owners: Owners | None = None) -> None:
        self.root = tree
        self.budget = budget
        self.facts = LayerFacts()
        self.directories: dict[bytes, DirectoryFacts] = {}
        self.gone: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self._trash = trash
        self._below = below
        self._owners = owners
        self._kept: tuple[tuple[bytes, ...], bytes, int] | None = None

    def close(self) -> None:
        """Close what is kept open between entries."""
        if self._kept is not None:
            os.close(self._kept[2])
            self._kept = None

    # ---- where a path leads ----

    def parent(self, parts: tuple[bytes, ...], mtime_ns: int) -> tuple[bytes, int]:
        """Return the canonical path of a directory and a descriptor of it, borrowed until the next call.

        Raises:
            ImageError: as `resolve`.
        """
        if self._kept is None or self._kept[0] != parts:
            path, fd = self.open_resolved(parts, mtime_ns)
            self.close()
            self._kept = (parts, path, fd)
        return self._kept[1], self._kept[2]

    def open_resolved(self, parts: tuple[bytes, ...], mtime_ns: int) -> tuple[bytes, int]:
        """Return the same, with a descriptor for the caller to close."""
        path = b"/".join(parts)
        try:
            return path, open_directory_beneath(self.root, path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        path = self.resolve(parts, mtime_ns)
        return path, open_directory_beneath(self.root, path)

    def resolve(self, parts: tuple[bytes, ...], mtime_ns: int, *, make: bool = True) -> bytes:
        """Follow links inside the tree, this layer's and those below, and return the canonical path of a directory.

        Args:
            parts: names below the root.
            mtime_ns: for directories that nothing says anything of.
            make: make the directories that the archive only implies.

        Raises:
            ImageError: something on the way is no directory; too many links, or names.
        """
        todo = list(reversed(parts))
        at: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del at[-1:]
                continue
            path = b"/".join([*at, name])
            if len(path) > MAXIMUM_PATH:
                raise ImageError(f"a path longer than {MAXIMUM_PATH} bytes, with its links")
            status = status_at(self.root, path)
            if status is None:
                found = self.look_below(path)
                if found is None or found.is_directory:
                    if make:
                        self._imply(path, found, mtime_ns)
                    at.append(name)
                    continue
                if not found.is_link:
                    raise ImageError(f"it lies below `{shown(path)}`, which is no directory in the layers below")
                target = os.readlink(path, dir_fd=found.layer.root)
            elif stat.S_ISDIR(status.st_mode):
                at.append(name)
                continue
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(path, dir_fd=self.root)
            else:
                raise ImageError(f"it lies below `{shown(path)}`, which is no directory")
            links += 1
            self.budget.check_time()
            if links > _MAXIMUM_LINKS:
                raise ImageError(f"it lies below `{shown(path)}`, a loop of symbolic links")
            if target.startswith(b"/"):
                at = []
            todo.extend(reversed([part for part in target.split(b"/") if part and part != b"."]))
            if len(todo) + len(at) > self.budget.bounds.depth:
                raise ImageError(f"a path of more than {self.budget.bounds.depth} names, with its links")
        return b"/".join(at)

    def look_below(self, path: bytes) -> Found | None:
        """Look a canonical path up in the layers below, as far as this one lets them be seen."""
        self.budget.check_time()
        at = path
        while True:
            if at in self.gone or (at != path and at in self.opaque):
                return None
            if not at:
                return self._below.look_up(path)
            at = at.rpartition(b"/")[0]

    def names_below_root(self) -> set[bytes]:
        """Return every name in the root of the layers below."""
        return self._below.list_root()

    def _imply(self, path: bytes, found: Found | None, mtime_ns: int) -> None:
        """Make a directory that the archive does not name, like the one below where there is one."""
        self.budget.entry()
        self.budget.remember(len(path))
        os.mkdir(path, 0o700, dir_fd=self.root)
        self.directories[path] = self.facts_like(path, found, mtime_ns)

    def facts_like(self, path: bytes, found: Found | None, mtime_ns: int) -> DirectoryFacts:
        """Return a directory's facts as the layers below have them, or the usual ones."""
        if found is None:
            return DirectoryFacts(mode=DEFAULT_MODE, mtime_ns=mtime_ns, xattrs={}, owner=_NOBODY)
        owner = found.layer.facts.owners.get(path, _NOBODY)
        if owner != _NOBODY:
            self.facts.owners[path] = owner
        status = found.status
        return DirectoryFacts(mode=stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns, xattrs=_user_xattrs(found, path), owner=owner)

    # ---- making room ----

    def place(self, parent: int, name: bytes, make: Callable[[], int | None]) -> int:
        """Make something under a name, in the place of what an earlier entry made there; return what `make` returns."""
        try:
            return make() or 0
        except FileExistsError:
            self.clear(parent, name)
            return make() or 0

    def clear(self, parent: int, name: bytes) -> None:
        """Remove what an earlier entry of this archive made."""
        kept = self._kept
        if kept is not None and not os.path.samestat(os.fstat(kept[2]), os.fstat(parent)):
            status = status_at(parent, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self.close()  # it may lie in there
        remove_at(parent, name, self._trash)

    # ---- what is put on a file ----

    def dress(self, fd: int, mode: int, mtime_ns: int, xattrs: dict[bytes, bytes], owner: tuple[int, int]) -> None:
        """Put owner, attributes, mode and time on an open file or directory, in this order: chown(2) takes set-id bits away."""
        if self._owners is not None:
            os.fchown(fd, self._owners.uid(owner[0]), self._owners.gid(owner[1]))
        for key, value in xattrs.items():
            if reaches_disk(key):
                try:
                    os.setxattr(fd, key, value)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL):
                        shown = key[:80].decode("utf-8", "backslashreplace")
                        raise ImageError(f"attribute `{shown}` of {len(value)} bytes, which the file system does not take") from None
                    if error.errno != errno.ENOTSUP:
                        raise
                    self.facts.leave_out("xattr, on a file system without them")
        os.fchmod(fd, mode)
        os.utime(fd, ns=(mtime_ns, mtime_ns))

    def dress_unopened(self, parent: int, name: bytes, member: Member, mode: int | None) -> None:
        """The same for a new link, which has no mode, or FIFO: neither is ever opened."""
        if self._owners is not None:
            os.chown(name, self._owners.uid(member.uid), self._owners.gid(member.gid), dir_fd=parent, follow_symlinks=False)
        if mode is not None:
            os.chmod(name, mode, dir_fd=parent)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    # ---- files of the layers below ----

    def copy_up(self, path: bytes, directory: int, name: bytes) -> os.stat_result | None:
        """Bring a file of a lower layer into this one, as linking to it through overlay would.

        Args:
            path: its canonical path.
            directory: the directory of it in this layer; borrowed.
            name: its last name.

        Returns:
            what it is, None where there is none; a directory is not brought.
        """
        found = self.look_below(path)
        if found is None or found.is_directory:
            return found.status if found is not None else None
        self.budget.entry()
        status = found.status
        owner = found.layer.facts.owners.get(path, _NOBODY)
        lower = open_directory_beneath(found.layer.root, path.rpartition(b"/")[0])
        try:
            if stat.S_ISREG(status.st_mode):
                self.budget.content(status.st_size)
                self._copy_file(lower, name, directory, status, owner)
            else:
                # A link or a FIFO has no content: one inode may stand in both layers.
                os.link(name, name, src_dir_fd=lower, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(lower)
        if owner != _NOBODY:
            self.facts.owners[path] = owner
        if path in found.layer.facts.capabilities:
            self.facts.capabilities[path] = found.layer.facts.capabilities[path]
        return status_at(directory, name)

    def _copy_file(self, lower: int, name: bytes, directory: int, status: os.stat_result, owner: tuple[int, int]) -> None:
        try:
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=lower)
        except PermissionError:
            os.link(name, name, src_dir_fd=lower, dst_dir_fd=directory, follow_symlinks=False)  # its owner may not read it
            return
        try:
            fd = os.open(name, NEW_FILE, 0o600, dir_fd=directory)
            try:
                copy_content(source, fd, status.st_size)
                xattrs = {os.fsencode(key): os.getxattr(source, key) for key in os.listxattr(source)}
                self.dress(fd, stat.S_IMODE(status.st_mode), status.st_mtime_ns, xattrs, owner)
            finally:
                os.close(fd)
        finally:
            os.close(source)


def reaches_disk(key: bytes) -> bool:
    """Only users' own attributes: some of overlay's would hide or forge files, and security's and the system's are for the host's eyes."""
    return key.startswith(b"user.") and not key.startswith(_OVERLAY_XATTRS)


def shown(path: bytes) -> str:
    """Return a path for a message."""
    return path[:300].decode("utf-8", "backslashreplace")


def _user_xattrs(found: Found, path: bytes) -> dict[bytes, bytes]:
    """Return the users' attributes of a directory below."""
    try:
        fd = open_directory_beneath(found.layer.root, path)
    except OSError:
        return {}
    try:
        place = f"/proc/self/fd/{fd}"
        keys = [os.fsencode(key) for key in os.listxattr(place)]
        return {key: os.getxattr(place, key) for key in keys if reaches_disk(key)}
    except OSError:
        return {}  # its owner may not read it, or the file system has none
    finally:
        os.close(fd)


__all__ = ["DEFAULT_MODE", "NEW_FILE", "DirectoryFacts", "LayerTree", "Owners", "reaches_disk", "shown"]
