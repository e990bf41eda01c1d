"""The new root while it is being put together: entries by path, and what a path will mean inside.

Looks at the host with lstat and readlink only; makes no decision of its own about what is shared. Only `rootfs` imports this module.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, FileBytes, Overlay, RootEntry, Symlink, Tmpfs
from sandbox.rootfs.layers import locate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_KERNELS = ("/proc/", "/dev/")  # what an image has there is hidden by what is mounted there; to believe it would be to follow the kernel's own links
_MAXIMUM_LINKS = 40  # as the kernel: MAXSYMLINKS, path_resolution(7)


def is_within(path: str, top: str) -> bool:
    """Tell whether an absolute normal path is `top` or below it."""
    return path == top or top == "/" or path.startswith(top + "/")


class View:
    """Entries by path, with the questions that the rest of `rootfs` asks about them."""

    def __init__(self) -> None:
        self.entries: dict[str, RootEntry] = {}
        self._parents: set[str] = {"/"}

    def add(self, entry: RootEntry) -> None:
        """Add an entry, in the place of one with the same path."""
        self.entries[entry.path] = entry
        parent = posixpath.dirname(entry.path)
        while parent not in self._parents:
            self._parents.add(parent)
            parent = posixpath.dirname(parent)

    def cover(self, path: str) -> RootEntry | None:
        """Return the entry at a path or nearest above it."""
        while True:
            entry = self.entries.get(path)
            if entry is not None or path == "/":
                return entry
            path = posixpath.dirname(path)

    def below(self, path: str) -> list[RootEntry]:
        """Return the entries strictly below a path."""
        return [entry for name, entry in self.entries.items() if name.startswith(path + "/")] if path in self._parents else []

    def host_path(self, path: str) -> str | None:
        """Return the host file that stands at a path inside, or None for what is ours or in a named volume; symbolic links are not followed.

        What is in a volume was written by other runs, and is perhaps yet to be filled in: nothing is decided by it.
        """
        entry = self.cover(path)
        if isinstance(entry, Overlay):
            upper = () if entry.upper is None else (f"{entry.upper}/upper",)
            return locate((*upper, *entry.lowers), path[len(entry.path) :])
        return entry.source + path[len(entry.path) :] if isinstance(entry, Bind) and not entry.mapped else None

    def shows(self, path: str) -> bool:
        """Tell whether a host path is visible inside under its own name."""
        return self.host_path(path) == path

    def trace(self, path: str) -> str | None:
        """Follow every symbolic link of a path as the program inside will, and return where it ends, or None if nothing is there."""
        todo = path.split("/")[::-1]
        at = "/"
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                at = posixpath.dirname(at)
                continue
            here = posixpath.join(at, name)
            text = self._link_text(here)
            if text is None:
                return None
            if not text:
                at = here
                continue
            links += 1
            if links > _MAXIMUM_LINKS:
                return None
            todo.extend(text.split("/")[::-1])
            if text.startswith("/"):
                at = "/"
        return at

    def _link_text(self, path: str) -> str | None:
        """Return the text of a link inside, "" for anything else that exists, None for nothing."""
        entry = self.entries.get(path)
        if isinstance(entry, Symlink):
            return entry.target
        if entry is not None or path in self._parents:
            return ""
        cover = self.cover(path)
        if isinstance(cover, Bind) and cover.mapped:
            return ""
        if isinstance(cover, Overlay) and cover.path == "/" and f"{path}/".startswith(_KERNELS):
            return "" if path.count("/") == 1 else None
        host = self.host_path(path)
        if host is None:
            return None
        try:
            return os.readlink(host) if stat.S_ISLNK(os.lstat(host).st_mode) else ""
        except OSError:
            return None

    def read_head(self, path: str, count: int) -> bytes | None:
        """Return the first bytes of the regular file at a traced path, or None when it is none or cannot be read."""
        entry = self.entries.get(path)
        if isinstance(entry, FileBytes):
            return entry.content[:count]
        host = self.host_path(path)
        return read_head(host, count) if host is not None else None

    def check(self) -> None:
        """Refuse what the plan could not mount, or could mount only by writing to the host.

        Raises:
            PolicyError: an entry lies below a shared directory and has no mount point there, or lies below a file or one of our links.
        """
        for path, entry in self.entries.items():
            above = self.cover(posixpath.dirname(path)) if path != "/" else None
            why = getattr(entry, "why", "") or "the sandbox's own"
            if isinstance(above, Symlink):
                hint = f"use a target below `/{above.target.lstrip('/')}`"
                raise PolicyError(f"mount on `{path}`: `{above.path}` is a symbolic link inside", origin=why, hint=hint)
            if isinstance(above, FileBytes) or (isinstance(above, Bind) and not above.directory):
                raise PolicyError(f"mount on `{path}`: `{above.path}` is a file inside", origin=why)
            if not isinstance(above, Bind):
                continue
            if not isinstance(entry, (Bind, Tmpfs)):
                # A file or link of ours would be written through the share, to the host.
                raise PolicyError(f"share on `{above.path}`: the sandbox makes `{path}` itself", origin=above.why)
            if above.mapped:
                continue  # made when the volume is opened
            kind = _mount_point_kind(above.source, path[len(above.path) + 1 :])
            wanted = "directory" if isinstance(entry, Tmpfs) or entry.directory else "file"
            if kind != wanted:
                found = f"there is no {wanted} at" if kind == "nothing" else f"a {kind} is at"
                hint = f"make the {wanted} there or choose another target"
                raise PolicyError(f"mount on `{path}`: {found} `{above.source}{path[len(above.path) :]}`", origin=why, hint=hint)


def _mount_point_kind(source: str, relative: str) -> str:
    """Return what a path below a shared directory is; a symbolic link on the way counts as one, for it could be swapped."""
    at = source
    kind = "directory"
    for name in relative.split("/"):
        at = posixpath.join(at, name)
        try:
            mode = os.lstat(at).st_mode
        except OSError:
            return "nothing"
        kind = "directory" if stat.S_ISDIR(mode) else "symbolic link" if stat.S_ISLNK(mode) else "file"
        if kind != "directory":
            break
    return kind if at == posixpath.join(source, relative) or kind == "symbolic link" else "nothing"


def read_head(path: str, count: int) -> bytes | None:
    """Return the first bytes of a regular host file, or None; a FIFO or device of that name is neither opened for long nor read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.read(fd, count) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def walk_host(path: str) -> Iterator[tuple[str, str | None]]:
    """Yield every symbolic link that resolving an absolute host path meets, as (location, text), then (end, None).

    Locations have no link above them. Raises `OSError` where the path leads nowhere.
    """
    todo = path.split("/")[::-1]
    at = "/"
    links = 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = posixpath.dirname(at)
            continue
        here = posixpath.join(at, name)
        if not stat.S_ISLNK(os.lstat(here).st_mode):
            at = here
            continue
        links += 1
        if links > _MAXIMUM_LINKS:
            import errno

            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        text = os.readlink(here)
        yield here, text
        todo.extend(text.split("/")[::-1])
        if text.startswith("/"):
            at = "/"
    yield at, None
