"""What the new root contains, as values: the answer of `rootfs`, the question to `plan.build`.

Only types live here. Paths are absolute and normal (no ``.``, ``..``, doubled or trailing slash) in the view of the sandbox unless a field says "host".
"""

from __future__ import annotations

from typing import TypeAlias

from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """An empty directory on the root tmpfs; `owner` is the uid and gid inside where that is not who is the caller outside."""

    path: str
    mode: int = 0o755
    owner: tuple[int, int] | None = None


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
    when it was looked at. `why` is shown in the plan and in errors ("volume `-v /srv/in`", "system directory"). `mapped` names the volume that it is,
    whose files belong to the payload whatever host id that has.
    """

    path: str
    source: str
    directory: bool
    writable: bool = False
    executable: bool = True
    why: str = ""
    mapped: str = ""


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
    nothing of a directory, its top of `mode`. `owner` is the host uid whose files in the layers are the payload's own where root calls (an id-mapped mount),
    or -1: they are nobody's, then, and cannot be changed. `why` is shown in the plan and in errors ("image `debian:12`", "copy-on-write `/home/me/tree`").
    """

    path: str
    lowers: tuple[str, ...]
    upper: str | None = None
    size_bytes: int = 0
    inodes: int = 0
    mode: int = 0o755
    executable: bool = True
    why: str = ""
    owner: int = -1

    @property
    def mapping(self) -> str:
        """The name of the id map that its layers are taken with (`Bind.mapped`); empty for none."""
        return "" if self.owner < 0 else f":{self.owner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFiles:
    """Small files of one run on a tmpfs of its own at `path`, read-only for the payload; the supervisor may change what they say.

    `files` are relative names and contents, in `directories` or at the top.
    """

    path: str
    files: tuple[tuple[str, bytes], ...]
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """A file or directory of the new root that is mounted over another, read-only, after /proc was: what is at `path` then says what `source` does.

    Sources lie below /sys, which is all ours. A name below /proc that this kernel does not have is not covered.
    """

    path: str
    source: str


RootEntry: TypeAlias = Directory | Symlink | FileBytes | Bind | Tmpfs | Overlay | LiveFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeUse:
    """One mount of a named volume: what is to be made, filled and locked before it, by `volumes.opening`.

    Attributes:
        name: the volume's.
        store: host directory of all volumes; need not exist.
        target: path inside.
        writable: whether the program may write there.
        copy: fill it, where it is empty, from `sources`.
        lock: keep other writers out.
        wait_ns: how long to wait for a run that keeps us out.
        subpath: directory in it that is mounted, or empty for its top.
        sources: host directories whose merged content is what the root has without the volume, topmost first, in overlay form.
        inside: path below them of what the volume covers, absolute, with links still to be followed.
        public: only what others may read is taken from `sources`: they are the host's.
        points: paths below the mounted directory where something else is mounted, with whether it is a directory.
        beside: see `Volume`.
        origin: who asked.
    """

    name: str
    store: str
    target: str
    writable: bool
    copy: bool = True
    lock: bool = False
    wait_ns: int = 0
    subpath: str = ""
    sources: tuple[str, ...] = ()
    inside: str = "/"
    public: bool = False
    points: tuple[tuple[str, bool], ...] = ()
    beside: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSpec:
    """Everything of the new root but /proc and /dev, which the plan adds itself.

    `entries` are in any order; the plan sorts them by path, parents first, and makes missing parents on the root tmpfs.
    An entry below a `Bind`, or an `Overlay` that is not the root, needs its mount point to exist there. Over a root that is an `Overlay` every entry hides
    what the layers have at its path, and of its parents what is no directory; those take the mode of a `Directory` entry.
    `workdir` is where the payload starts. `argv0` is the path to execute inside. `notes` are lines for the user
    ("working directory not shared: it is the home directory"). `volumes` are the named volumes among the entries. `covers` come last of all that is mounted.
    """

    entries: tuple[RootEntry, ...]
    workdir: str
    argv0: str
    notes: tuple[str, ...] = ()
    volumes: tuple[VolumeUse, ...] = ()
    covers: tuple[Cover, ...] = ()
