"""The profile: a complete description of one sandbox, as a frozen value.

Only types live here; `profile_load.py` fills them from TOML. Every floor may import this module.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY: no limit whatever the caller's own soft limit is, where None leaves that alone. Source: getrlimit(2)."""


class ProcMode(StrEnum):
    """What is mounted on /proc."""

    MINIMAL = "minimal"  # subset=pid: processes only
    FULL = "full"  # all of procfs, with host facts masked and /proc/sys read-only
    NONE = "none"  # nothing: for hosts whose own /proc is masked


class NetworkMode(StrEnum):
    """What the network namespace of the run contains; it is always its own."""

    NONE = "none"  # not even loopback is up
    LOOPBACK = "loopback"  # 127.0.0.1 and ::1, nothing else


class CwdMode(StrEnum):
    """Whether the caller's working directory is shared at the same path."""

    NO = "no"
    READ_ONLY = "ro"
    WRITABLE = "rw"


class IdMode(StrEnum):
    """How many ids the user namespace maps."""

    SINGLE = "single"
    RANGE = "range"  # through newuidmap/newgidmap and /etc/subuid


class LandlockMode(StrEnum):
    """Whether Landlock, the second wall over the same paths, may be missing."""

    REQUIRED = "required"
    BEST_EFFORT = "best-effort"
    OFF = "off"


class OverlayMode(StrEnum):
    """Whether a run on an image may do without overlayfs: read-only, with empty writable places."""

    REQUIRED = "required"
    BEST_EFFORT = "best-effort"


class MachineView(StrEnum):
    """Whether programs are told of the sandbox's processors and memory, or of the host's."""

    OFF = "off"
    STATIC = "static"  # what the limits say, and nothing used
    LIVE = "live"  # and what is used, while it runs


class IoClass(StrEnum):
    """When the payload's requests to a block device are served; a scheduler such as BFQ must be in use on the device."""

    BEST_EFFORT = "best-effort"
    IDLE = "idle"  # only when nobody else has used the device for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class IoPriority:
    """Class and level (0 first to 7 last; always 7 in the class idle). Source: ioprio_set(2)."""

    kind: IoClass
    level: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimit:
    """What may pass between the run and one block device in a second; None means no limit.

    `device` is a block device's path, its ``MAJOR:MINOR``, or any path: then it is the disk below its file system.
    """

    device: str
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_operations: int | None = None
    write_operations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the run may use; None means no limit.

    Times are nanoseconds, sizes are bytes. `output_bytes` counts stdout and stderr together.
    `tmp_*`, `shm_*` and `home_*` are the caps of the tmpfs mounted there, `root_*` those of what is written over an image; None is not allowed for them.

    Attributes:
        idle_ns: wall time minus CPU time of all processes together.
        cpu_quota_ppm: CPU time of all processes together in any 100 ms, in millionths of one processor.
        stack_bytes: of each process; `UNLIMITED` lifts the caller's soft limit, None leaves it.
        cpuset: numbers of the processors that may be used, ascending; empty means all.
        cpu_weight: share of CPU time when others want it too, 1 to 10000; 100 is what anybody has.
        nice: 0 to 19.
        io_priority: None means that it follows from `nice`.
        io: limits of block devices, one entry for each.
    """

    wall_ns: int | None = None
    cpu_ns: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    output_bytes: int | None = None
    open_files: int = 1024
    file_bytes: int | None = None
    stack_bytes: int | None = None
    idle_ns: int | None = None
    cpu_quota_ppm: int | None = None
    cpuset: tuple[int, ...] = ()
    cpu_weight: int | None = None
    nice: int = 0
    io_priority: IoPriority | None = None
    io: tuple[IoLimit, ...] = ()
    tmp_bytes: int = 64 << 20
    tmp_inodes: int = 8192
    shm_bytes: int = 16 << 20
    shm_inodes: int = 1024
    home_bytes: int = 64 << 20
    home_inodes: int = 8192
    root_bytes: int = 256 << 20
    root_inodes: int = 65536


class VolumeKind(StrEnum):
    """What a volume's `source` is."""

    PATH = "path"  # of the host
    NAMED = "volume"  # a name: kept for the user between runs
    TMPFS = "tmpfs"  # nothing: an empty file system in memory, which ends with the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Something that the user mounts at `target`; `origin` says who asked (option or file:line).

    Attributes:
        source: a host path, a volume's name, or empty, as `kind` says.
        copy: fill a named volume that is empty from what the root has at `target`.
        lock: nobody else may write to the named volume meanwhile; see `volumes.uses`.
        wait_ns: how long to wait for a named volume that another run has locked.
        subpath: directory in the named volume to mount instead of its top; relative, normal.
        size_bytes, mode, executable: of a tmpfs.
        beside: the host path of that name in the caller's working directory, where there is one: to be told, should it have been meant.
    """

    source: str
    target: str
    writable: bool = False
    origin: str = ""
    kind: VolumeKind = VolumeKind.PATH
    copy: bool = True
    lock: bool = False
    wait_ns: int = 0
    subpath: str = ""
    size_bytes: int = 0
    mode: int = 0o1777
    executable: bool = False
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named, complete sandbox description.

    `fallback` names the limits (``memory``, ``processes``, ``cpu``) that may be enforced by rlimits and sampling where
    there is no cgroup; a limit that is not named there refuses the run instead. `etc` lists host files and directories below /etc
    that are shared read-only when they exist. `launch_*` allow what a `Sandbox` may keep or make before a run needs it. `digest` covers
    every byte of every file in `sources`, which the profile came from. `image` names an image of the store that is the root, in the place of the
    host's `system` and `etc`; then `user`, `uid`, `gid` and `home` are the image's.
    """

    name: str
    description: str
    path: str
    policy: str
    digest: str = ""
    hostname: str = "sandbox"
    user: str = "user"
    uid: int = 1000
    gid: int = 1000
    ids: IdMode = IdMode.SINGLE
    home: str = "/home/user"
    proc: ProcMode = ProcMode.MINIMAL
    network: NetworkMode = NetworkMode.NONE
    cwd: CwdMode = CwdMode.READ_ONLY
    time_namespace: bool = False
    nested_namespaces: bool = False
    measure_instructions: bool = False
    launch_template: bool = True
    launch_recycle_network: bool = True
    launch_cgroups_ahead: bool = True
    landlock: LandlockMode = LandlockMode.REQUIRED
    machine_view: MachineView = MachineView.OFF
    system: tuple[str, ...] = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
    etc: tuple[str, ...] = ()
    env_pass: tuple[str, ...] = ()
    env_set: tuple[tuple[str, str], ...] = ()
    volumes: tuple[Volume, ...] = ()
    image: str = ""
    overlay: OverlayMode = OverlayMode.BEST_EFFORT
    limits: Limits = field(default_factory=Limits)
    fallback: tuple[str, ...] = ()
    origins: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()
