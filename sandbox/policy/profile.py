"""The profile: a complete description of one sandbox, as a frozen value.

Only types live here; `profile_load.py` fills them from TOML. Every floor may import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the run may use; None means no limit.

    Times are nanoseconds, sizes are bytes. `output_bytes` counts stdout and stderr together.
    `tmp_*`, `shm_*` and `home_*` are the caps of the tmpfs mounted there; None is not allowed for them.
    """

    wall_ns: int | None = None
    cpu_ns: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    output_bytes: int | None = None
    open_files: int = 1024
    file_bytes: int | None = None
    stack_bytes: int | None = None
    tmp_bytes: int = 64 << 20
    tmp_inodes: int = 8192
    shm_bytes: int = 16 << 20
    shm_inodes: int = 1024
    home_bytes: int = 64 << 20
    home_inodes: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A host path that the user shares; `origin` says who asked (option or file:line)."""

    source: str
    target: str
    writable: bool = False
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named, complete sandbox description.

    `fallback` names the limits (``memory``, ``processes``, ``cpu``) that may be enforced by rlimits and sampling where
    there is no cgroup; a limit that is not named there refuses the run instead. `etc` lists host files and directories below /etc
    that are shared read-only when they exist. `digest` covers every byte of every file in `sources`, which the profile came from.
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
    landlock: LandlockMode = LandlockMode.REQUIRED
    system: tuple[str, ...] = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
    etc: tuple[str, ...] = ()
    env_pass: tuple[str, ...] = ()
    env_set: tuple[tuple[str, str], ...] = ()
    volumes: tuple[Volume, ...] = ()
    limits: Limits = field(default_factory=Limits)
    fallback: tuple[str, ...] = ()
    origins: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()
