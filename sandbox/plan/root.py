"""What the new root contains, as values: the answer of `rootfs`, the question to `plan.build`.

Only types live here. Paths are absolute and normal (no ``.``, ``..``, doubled or trailing slash) in the view of the sandbox unless a field says "host".
"""

from __future__ import annotations

from typing import TypeAlias

from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """An empty directory on the root tmpfs."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Symlink:
    """A symbolic link on the root tmpfs; `target` is its text."""

    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBytes:
    """A small regular file made by us (synthetic /etc, files of the API)."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory shared at `path`.

    `source` is a host path with every symlink resolved; a later swap for a symlink is refused when it is opened. `directory` is what the source was
    when it was looked at. `why` is shown in the plan and in errors ("volume `-v /srv/in`", "system directory").
    """

    path: str
    source: str
    directory: bool
    writable: bool = False
    executable: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """An empty tmpfs with caps in bytes and inodes, writable by the payload."""

    path: str
    size_bytes: int
    inodes: int
    mode: int = 0o1777
    executable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """Directories seen as one, read-only below and with everything that is written in a place of its own: the whole root (`path` ``/``), or a tree in it.

    `lowers` are host directories with every symlink resolved, topmost first, in overlay form (a whiteout is the character device 0/0, an opaque directory
    has the xattr ``user.overlay.opaque``). `upper` is a host directory that has ``upper`` and ``work``, on one file system and both the caller's own, for the
    run alone; ``upper`` has the mode that the tree's top is to have. None: both are on a tmpfs of the run, capped by `size_bytes` and `inodes`, which say
    nothing of a directory, its top of `mode`. `why` is shown in the plan and in errors ("image `debian:12`", "copy-on-write `/home/me/tree`").
    """

    path: str
    lowers: tuple[str, ...]
    upper: str | None = None
    size_bytes: int = 0
    inodes: int = 0
    mode: int = 0o755
    executable: bool = True
    why: str = ""


RootEntry: TypeAlias = Directory | Symlink | FileBytes | Bind | Tmpfs | Overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSpec:
    """Everything of the new root but /proc and /dev, which the plan adds itself.

    `entries` are in any order; the plan sorts them by path, parents first, and makes missing parents on the root tmpfs.
    An entry below a `Bind`, or an `Overlay` that is not the root, needs its mount point to exist there. Over a root that is an `Overlay` every entry hides
    what the layers have at its path, and of its parents what is no directory; those take the mode of a `Directory` entry.
    `workdir` is where the payload starts. `argv0` is the path to execute inside. `notes` are lines for the user
    ("working directory not shared: it is the home directory").
    """

    entries: tuple[RootEntry, ...]
    workdir: str
    argv0: str
    notes: tuple[str, ...] = ()
