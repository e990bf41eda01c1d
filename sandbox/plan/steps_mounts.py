"""Steps that build and enter the root. Values only; `steps.py` says what a step is, `lower_mounts.py` makes rows of them."""

from __future__ import annotations

from sandbox.plan.root import Bind
from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMounts:
    """No mount event travels between the host's tree and ours."""

    def describe(self) -> str:
        return "make all mounts private"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHostProc:
    """Keep an fd of the host's /proc for the id maps and sysctls; closed before execve."""

    def describe(self) -> str:
        return "open the host's /proc (closed before execve)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneTree:
    """openat2(no symlinks) + open_tree(clone) + mount_setattr of one shared host path; attached later.

    `map_fd` is a descriptor of a user namespace that maps the ids of the files on the disk to the run's, or -1.
    """

    bind: Bind
    key: str
    map_fd: int = -1

    def describe(self) -> str:
        kind = "writable" if self.bind.writable else "read-only"
        return (
            f"take `{self.bind.source}` {kind}"
            + ("" if self.bind.executable else ", noexec")
            + ("" if self.map_fd < 0 else ", its files the run's own")
            + (f" ({self.bind.why})" if self.bind.why else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneDevice:
    """The same for a device node, with its number checked (CVE-2025-31133: a replaced /dev/null)."""

    name: str
    major: int
    minor: int
    key: str

    def describe(self) -> str:
        return f"take device `/dev/{self.name}` ({self.major}:{self.minor})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRoot:
    """A fresh tmpfs that becomes the root; everything below is built by fd on it."""

    size_bytes: int
    inodes: int

    def describe(self) -> str:
        return "mount an empty tmpfs as the new root"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    path: str
    mode: int = 0o755
    owner: tuple[int, int] | None = None

    def describe(self) -> str:
        return f"make directory `{self.path}`" + (f" of {self.owner[0]}:{self.owner[1]}" if self.owner is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSymlink:
    path: str
    target: str

    def describe(self) -> str:
        return f"make symlink `{self.path}` -> `{self.target}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFile:
    path: str
    content: bytes
    mode: int = 0o644

    def describe(self) -> str:
        return f"write file `{self.path}` ({len(self.content)} bytes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFile:
    """Another name for a file that was written before: files of one content cost one call instead of three."""

    path: str
    source: str

    def describe(self) -> str:
        return f"link file `{self.path}`, the same as `{self.source}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachTree:
    """move_mount(2) of a tree taken before; `within`: the mount point lies in a shared tree or an overlay and is opened without following links."""

    path: str
    key: str
    within: bool = False

    def describe(self) -> str:
        return f"attach at `{self.path}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountTmpfs:
    """An empty tmpfs; `within` as for `AttachTree`."""

    path: str
    size_bytes: int
    inodes: int
    mode: int
    executable: bool
    within: bool = False

    def describe(self) -> str:
        return f"mount tmpfs at `{self.path}` ({self.size_bytes} bytes, {self.inodes} inodes)" + ("" if self.executable else ", noexec")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginSkeleton:
    """From here on directories, files and links are made in the topmost layer of the root, which lies on the tmpfs and hides what the image has there.

    So no mount point is looked for in the image, whose links could lead elsewhere, and none is written to where the changes are kept.
    """

    def describe(self) -> str:
        return "begin the topmost layer of the root, on the tmpfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOverlay:
    """The layers, seen as one: the root itself, which comes over the skeleton's tmpfs, or a tree in it.

    Attributes:
        path: where; ``/`` is the root.
        lowers: keys of the layers' trees, topmost first.
        upper: key of the tree that has `upper` and `work`; "" for a tmpfs of `size_bytes` and `inodes`.
        mode: of the top directory, where it is on a tmpfs.
        size_bytes: cap of the tmpfs.
        inodes: likewise.
        executable: whether programs in it may be executed.
        why: what for.
    """

    path: str
    lowers: tuple[str, ...]
    upper: str = ""
    mode: int = 0o755
    size_bytes: int = 0
    inodes: int = 0
    executable: bool = True
    why: str = ""

    def describe(self) -> str:
        layers = f"{len(self.lowers)} layer" + "s" * (len(self.lowers) != 1)
        place = "in a directory of the host's" if self.upper else f"on a tmpfs ({self.size_bytes} bytes, {self.inodes} inodes)"
        return (
            f"mount overlay at `{self.path}`: {layers} read-only, changes {place}"
            + ("" if self.executable else ", noexec")
            + (f" ({self.why})" if self.why else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc:
    """A fresh procfs of the own pid namespace; hidepid hides init; subset=pid hides the host's facts."""

    minimal: bool

    def describe(self) -> str:
        return "mount /proc, hidepid" + (", processes only" if self.minimal else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskProc:
    """Hide or write-protect what procfs says of the host, on fds of the fresh procfs (CVE-2025-52881); `empty` is an empty directory of ours."""

    files: tuple[str, ...]
    directories: tuple[str, ...]
    read_only: tuple[str, ...]
    empty: str = "/var/empty"

    def describe(self) -> str:
        return f"mask /proc/{{{','.join(self.files + self.directories)}}}, read-only /proc/{{{','.join(self.read_only)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLive:
    """A tmpfs with files that the supervisor keeps up to date; over it its read-only clone, which is all that anybody can reach by a path."""

    path: str
    files: tuple[tuple[str, bytes], ...]
    directories: tuple[str, ...]

    def describe(self) -> str:
        return f"mount tmpfs at `{self.path}`, read-only but for the supervisor, with {{{','.join(name for name, _ in self.files)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverPath:
    """Mount a file or directory of the root over another one, or itself, read-only; on the fd of the fresh procfs where it is a name of that.

    `sealed` says that `source` lies in a read-only mount already, whose clones are as it is.
    """

    path: str
    source: str
    sealed: bool = False

    def describe(self) -> str:
        return f"make `{self.path}` read-only" if self.path == self.source else f"cover `{self.path}` with `{self.source}`, read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDevpts:
    """A devpts of the run's own: no terminal of the host exists inside."""

    def describe(self) -> str:
        return "mount devpts, new instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTerminal:
    """A pty pair in the own devpts; the slave becomes 0, 1, 2, the supervisor fetches the master."""

    def describe(self) -> str:
        return "open a pty pair for standard input, output and error"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeStash:
    """Open a tree that the server's root keeps where the run's own tmpfs will cover it; attached, that is: moved, like any other."""

    path: str
    key: str

    def describe(self) -> str:
        return f"take the tree kept at `{self.path}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootReadOnly:
    """Nothing of ours can be changed: the root tmpfs, or /dev where the root is an overlay."""

    path: str = "/"

    def describe(self) -> str:
        return "make the root tmpfs read-only" if self.path == "/" else f"make the tmpfs at `{self.path}` read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterRoot:
    """pivot_root(2) and detach the host's tree; on an initial ramfs root the mount lies over / and chroot(2) enters it.

    With `stage` the root is an overlay, and the tmpfs that it was put together on lies over the host's tree and goes with it.
    """

    pivot: bool
    stage: bool = False

    def describe(self) -> str:
        return (
            "pivot into the new root, detach the host's tree" if self.pivot else "chroot into the new root mounted over / (initial ramfs)"
        )
