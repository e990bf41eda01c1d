"""Named volumes between the floors: the front ends' door to `sandbox.volumes`, and the id maps that a root run mounts them with."""

from __future__ import annotations

import os

from sandbox.errors import SetupError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.volumes.manage import NamedVolume, VolumeInUse, create, find, find_all, labels_of, prune, remove
    from sandbox.volumes.opening import Opened, open_volumes

_PROGRAMS = ("/usr/bin/unshare", "/bin/unshare")
_ECHO = ("/bin/cat", "/usr/bin/cat")


def __getattr__(name: str) -> Any:
    if name in ("Opened", "open_volumes"):
        from sandbox.volumes import opening

        return getattr(opening, name)
    if name in __all__:
        from sandbox.volumes import manage

        return getattr(manage, name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


def open_maps(opened: Opened, number: int) -> list[int]:
    """Return, for each volume of a root run in the order of their names, a user namespace that maps the id of its files on the disk to the run's.

    Args:
        opened: the volumes.
        number: the run's host id.

    Returns:
        descriptors; the caller owns them.

    Raises:
        SetupError: no such namespace can be made.
    """
    made: list[int] = []
    by_owner: dict[int, int] = {}
    try:
        for _, owner in sorted(opened.owners.items()):
            if owner in by_owner:
                made.append(os.dup(by_owner[owner]))
            else:
                made.append(_make_namespace(owner, number))
                by_owner[owner] = made[-1]
        return made
    except BaseException:
        for fd in made:
            os.close(fd)
        raise


def _make_namespace(inside: int, outside: int) -> int:
    """Make a user namespace of a process that only lives to have it: our own has threads, which may not enter one."""
    from sandbox.launch.idmap import write_maps

    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), None)
    echo = next((path for path in _ECHO if os.access(path, os.X_OK)), None)
    if program is None or echo is None:
        raise UnsupportedError("unshare(1)", "volumes", reason="root's runs need an id map for them", hint="install util-linux")
    ends: list[int] = []
    child = 0
    try:
        for _ in range(2):
            ends += os.pipe2(os.O_CLOEXEC)
        in_r, in_w, out_r, out_w = ends
        actions = [(os.POSIX_SPAWN_DUP2, in_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1)]
        child = os.posix_spawn(program, ["unshare", "--user", "--", echo], {}, file_actions=actions)
        for fd in (in_r, out_w):
            ends.remove(fd)
            os.close(fd)
        # What comes back has passed through the new namespace.
        os.write(in_w, b"x")
        if os.read(out_r, 1) != b"x":
            raise SetupError("make a user namespace for the volumes' ids", 1, step="id map of a volume")
        write_maps(child, inside_uid=inside, inside_gid=inside, outside=outside)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in ends:
            os.close(fd)
        if child:
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass  # the caller's own SIGCHLD handling was faster


__all__ = [
    "NamedVolume", "Opened", "VolumeInUse", "create", "find", "find_all", "labels_of", "open_maps", "open_volumes", "prune", "remove",
]  # fmt: skip
