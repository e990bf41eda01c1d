"""What the running host can do, as a frozen value.

`kernel.probe` fills it; `plan.build` reads it; nothing here looks at the host itself.
"""

from __future__ import annotations

from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFeatures:
    """Facts of the running host that decide the shape of a plan.

    `uid`/`gid` are the caller's effective ids. `landlock_abi` is 0 where Landlock is absent. `proc_mountable` tells whether a fresh procfs may be
    mounted in a new user namespace (the outer /proc is not masked). `root_pivotable` is False on an initial ramfs root,
    where pivot_root(2) gives EINVAL. `user_namespace_sysctl` tells whether user.max_*_namespaces can be written from a new user namespace.
    """

    arch: str
    kernel: str
    uid: int
    gid: int
    landlock_abi: int = 0
    proc_mountable: bool = True
    root_pivotable: bool = True
    keyrings: bool = True
    time_namespace: bool = True
    user_namespace_sysctl: bool = True
    notify_wait_killable: bool = True
    notify_sync_wake: bool = True
