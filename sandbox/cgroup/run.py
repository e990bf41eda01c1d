"""What the runs of both cgroup versions share: owned fds, making with undo, removing, closing.

`v1` and `v2` subclass it; nobody else imports it.
"""

from __future__ import annotations

import errno
import os

from sandbox.cgroup.files import NodeFiles, remove_run, remove_shared
from sandbox.cgroup.model import CgroupNow, CgroupUsage
from sandbox.errors import SandboxError, SetupError, UnsupportedError
from sandbox.policy.profile import Limits
from sandbox.result import Enforcement

_MAKE_TRIES = 100


class RunBase:
    """One directory per node, each a cgroup of this run.

    Args:
        nodes: where the run's directories will be; takes their fds.
        shared: parents to make on demand and to remove when empty, as nodes of the same fds.
        limits: what to apply.
    """

    backend = ""

    def __init__(self, nodes: tuple[NodeFiles, ...], shared: tuple[NodeFiles, ...], limits: Limits) -> None:
        self._nodes = nodes
        self._shared = shared
        self._limits = limits
        self._made: list[NodeFiles] = []
        self._fds: list[int] = sorted({node.fd for node in nodes if node.fd >= 0})
        self._cpu_fd = -1
        self._open: dict[tuple[str, str], int] = {}
        self.join_fds: tuple[int, ...] = ()
        self.directories: tuple[int, ...] = ()
        self.enforced: tuple[Enforcement, ...] = ()
        self.oom_fd: int | None = None

    @property
    def removals(self) -> tuple[tuple[int, str], ...]:
        """See `CgroupRun.removals`."""
        return tuple((node.fd, node.relative) for node in self._nodes + self._shared)

    @property
    def joins(self) -> tuple[tuple[int, str], ...]:
        """See `CgroupRun.joins`."""
        return tuple((node.fd, f"{node.relative}/cgroup.procs") for node in self._nodes)

    @property
    def thaws(self) -> tuple[tuple[int, str], ...]:
        """See `CgroupRun.thaws`; v2 kills what is frozen."""
        return ()

    def clear_way(self) -> None:
        """See `CgroupRun.clear_way`; v1 takes processes anywhere."""

    def make(self) -> None:
        """See `CgroupRun.make`."""
        try:
            self._make_directories()
            self._apply()
            fds = []
            for node in self._nodes:
                fds.append(node.open("cgroup.procs", os.O_WRONLY))
                self._fds.append(fds[-1])
            self.join_fds = tuple(fds)
            self.directories = self._open_directories()
        except BaseException:
            self._undo()
            raise

    def _open_directories(self) -> tuple[int, ...]:
        found = []
        for node in self._nodes:
            try:
                found.append(os.open(node.relative, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=node.fd))
            except OSError as error:
                raise SetupError(f"open `{node.path('').rstrip('/')}`", error.errno or errno.EIO, step="cgroup") from None
            self._fds.append(found[-1])
        return tuple(found)

    def cpu_ns(self) -> int:
        """See `CgroupRun.cpu_ns`."""
        try:
            return self._parse_cpu(os.pread(self._cpu_fd, 4096, 0))
        except OSError as error:
            raise SetupError(f"read CPU time of `{self._nodes[0].path('').rstrip('/')}`", error.errno or errno.EIO, step="cgroup") from None

    def usage(self) -> CgroupUsage:
        """See `CgroupRun.usage`."""
        raise NotImplementedError

    def current(self) -> CgroupNow:
        """See `CgroupRun.current`."""
        raise NotImplementedError

    def freeze(self) -> bool:
        """See `CgroupRun.freeze`."""
        raise NotImplementedError

    def thaw(self) -> bool:
        """See `CgroupRun.thaw`."""
        raise NotImplementedError

    def kill(self) -> bool:
        """See `CgroupRun.kill`."""
        raise NotImplementedError

    def remove(self) -> None:
        """See `CgroupRun.remove`."""
        # Only what this object made: after EEXIST the directory belongs to somebody else.
        while self._made:
            remove_run(self._made[-1])
            self._made.pop()
        for node in self._shared:
            if node.fd >= 0:
                remove_shared(node.fd, node.relative)

    def close(self) -> None:
        """See `CgroupRun.close`."""
        while self._fds:
            os.close(self._fds.pop())
        for node in self._nodes + self._shared:
            node.fd = -1  # the number may be somebody else's file by now
        self._made.clear()
        self._open.clear()
        self.join_fds = ()
        self.directories = ()
        self.oom_fd = None
        self._cpu_fd = -1

    def _apply(self) -> None:
        """Write the limits, fill `enforced`, open what stays open."""
        raise NotImplementedError

    def _read_now(self, node: NodeFiles | None, name: str) -> str | None:
        """Return a control file's content through an fd that stays open; None where there is no such file."""
        if node is None:
            return None
        key = (node.shown, name)
        fd = self._open.get(key)
        if fd is None:
            try:
                fd = node.open(name, os.O_RDONLY)
            except SetupError as error:
                if error.errno != errno.ENOENT or not self._made:
                    raise
                fd = -1
            else:
                self._fds.append(fd)
            self._open[key] = fd
        if fd < 0:
            return None
        try:
            return os.pread(fd, 16384, 0).decode("ascii", "replace")
        except OSError as error:
            raise SetupError(f"read `{node.path(name)}`", error.errno or errno.EIO, step="cgroup") from None

    def _parse_cpu(self, content: bytes) -> int:
        raise NotImplementedError

    def _prepare_shared(self, node: NodeFiles) -> None:
        """Make a shared parent ready for children."""

    def _make_directories(self) -> None:
        """Make parents and then the run; another run that ends may remove an empty parent between the two, so begin again."""
        for attempt in range(_MAKE_TRIES):
            try:
                for node in self._shared:
                    self._make_one(node, exist_ok=True)
                    self._prepare_shared(node)
                for node in self._nodes:
                    self._make_one(node, exist_ok=False)
                    self._made.append(node)
                return
            except SetupError as error:
                if not self._shared or error.errno not in (errno.ENOENT, errno.ENODEV) or attempt == _MAKE_TRIES - 1:
                    raise

    @staticmethod
    def _make_one(node: NodeFiles, *, exist_ok: bool) -> None:
        try:
            os.mkdir(node.relative, 0o755, dir_fd=node.fd)
        except FileExistsError:
            if not exist_ok:
                # A second run with this id: joining it would share one limit and one verdict between two runs.
                raise SetupError(f"mkdir `{node.path('').rstrip('/')}`", errno.EEXIST, step="cgroup") from None
        except OSError as error:
            raise SetupError(f"mkdir `{node.path('').rstrip('/')}`", error.errno or errno.EIO, step="cgroup") from None

    def _undo(self) -> None:
        try:
            self.remove()
        except SandboxError:
            pass  # the first error is the one to report
        self.close()


class GuardedNames:
    """See `Guarded`.

    Args:
        removals: as of `CgroupRun`.
        thaws: likewise.
        owned: descriptors of theirs, taken.
    """

    def __init__(self, removals: tuple[tuple[int, str], ...], thaws: tuple[tuple[int, str], ...], owned: list[int]) -> None:
        self.removals = removals
        self.thaws = thaws
        self._owned = owned

    def close(self) -> None:
        """See `Guarded.close`."""
        while self._owned:
            os.close(self._owned.pop())


def refuse_missing(provides: frozenset[str], limits: Limits, name: str) -> None:
    """Refuse limits for which the backend has no controller.

    Raises:
        UnsupportedError: naming the profile key and the controller.
    """
    for what in sorted(asked_of_cgroup(limits) - provides):
        raise UnsupportedError(f"the {name} controller `{CONTROLLER_OF[what]}`", f"limits.{what}", origin="cgroup")


CONTROLLER_OF = {"memory": "memory", "processes": "pids", "cpus": "cpu", "cpu-weight": "cpu", "cpuset": "cpuset", "io": "io"}
"""Profile key to the controller that keeps it; on v1 `io` is called blkio."""


def asked_of_cgroup(limits: Limits) -> frozenset[str]:
    """Return the profile keys of the limits that are set and that only a cgroup can keep whole."""
    asked = {
        "memory": limits.memory_bytes is not None,
        "processes": limits.processes is not None,
        "cpus": limits.cpu_quota_ppm is not None,
        "cpu-weight": limits.cpu_weight is not None,
        "cpuset": bool(limits.cpuset),
        "io": bool(limits.io),
    }
    return frozenset(key for key, is_asked in asked.items() if is_asked)


CPU_PERIOD_US = 100_000
"""The kernel's default, for a quota of CPU time."""


def cpu_quota_us(limits: Limits) -> int | None:
    """Return the quota for one period in microseconds."""
    return None if limits.cpu_quota_ppm is None else limits.cpu_quota_ppm * CPU_PERIOD_US // 1_000_000
