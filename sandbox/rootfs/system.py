"""The part of the root that is the same for every command: system directories, a synthetic /etc, the empty writable places.

Only `rootfs.host` imports this module.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.plan.root import Bind, Directory, FileBytes, Symlink, Tmpfs
from sandbox.rootfs.sockets import find_private, is_public
from sandbox.rootfs.view import View, is_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.profile import Profile

_NOBODY = 65534  # what unmapped ids look like: kernel.overflowuid

_DATABASES = ("passwd", "group", "shadow", "hosts", "networks", "protocols", "services")


def add_base(view: View, profile: Profile) -> None:
    """Add everything that does not depend on the command, the caller's directory or the volumes.

    Args:
        view: grows.
        profile: the profile; `/proc`, `/dev` and `/dev/shm` are the plan's.
    """
    _add_system(view, profile)
    limits = profile.limits
    view.add(Tmpfs(path="/tmp", size_bytes=limits.tmp_bytes, inodes=limits.tmp_inodes))
    view.add(Tmpfs(path=profile.home, size_bytes=limits.home_bytes, inodes=limits.home_inodes, mode=0o700))
    view.add(Directory(path="/run"))
    view.add(Directory(path="/var"))
    view.add(Symlink(path="/var/tmp", target="/tmp"))
    for name, content in synthetic_etc(profile).items():
        view.add(FileBytes(path="/etc/" + name, content=content))
    view.add(Symlink(path="/etc/mtab", target="/proc/self/mounts"))
    for pattern in profile.etc:
        for path in _expand(pattern):
            _add_etc(view, path)


def synthetic_etc(profile: Profile) -> dict[str, bytes]:
    """Return the files of /etc that the sandbox makes itself, by name: they tell of the sandbox and not of the host."""
    user, home, host = profile.user, profile.home, profile.hostname
    texts = {
        "passwd": "root:x:0:0:root:/:/bin/false\n"
        + f"{user}:x:{profile.uid}:{profile.gid}:{user}:{home}:/bin/sh\n"
        + f"nobody:x:{_NOBODY}:{_NOBODY}:nobody:/:/bin/false\n",
        "group": f"root:x:0:\n{user}:x:{profile.gid}:\nnogroup:x:{_NOBODY}:\n",
        "hosts": f"127.0.0.1 localhost {host}\n::1 localhost {host} ip6-localhost ip6-loopback\n",
        "hostname": f"{host}\n",
        # Without this file glibc asks DNS and daemons of the host, which are not there.
        "nsswitch.conf": "".join(f"{name}: files\n" for name in _DATABASES),
        "resolv.conf": "",
        "shells": "/bin/sh\n/bin/bash\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def _add_system(view: View, profile: Profile) -> None:
    links: list[tuple[str, str, str]] = []
    for path in profile.system:
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            continue
        if stat.S_ISLNK(mode):
            links.append((path, os.readlink(path), os.path.realpath(path)))
        elif stat.S_ISDIR(mode):
            view.add(Bind(path=path, source=path, directory=True, why=f"system directory `{path}`"))
    for path, text, real in links:
        # /bin → usr/bin on a merged-/usr system; a link that leads out of the system directories becomes what it leads to.
        if view.shows(real):
            view.add(Symlink(path=path, target=text))
        elif os.path.isdir(real) and real.count("/") > 1:
            view.add(Bind(path=path, source=real, directory=True, why=f"system directory `{path}`"))


def _expand(pattern: str) -> list[str]:
    """Return the host paths below /etc that a pattern means; `*` matches within one name."""
    if "*" not in pattern:
        return [pattern]
    from fnmatch import fnmatchcase

    found = ["/etc"]
    for part in pattern.split("/")[2:]:
        if "*" not in part:
            found = [posixpath.join(top, part) for top in found]
            continue
        grown = []
        for top in found:
            try:
                grown += [posixpath.join(top, name) for name in sorted(os.listdir(top)) if fnmatchcase(name, part)]
            except OSError:
                continue
        found = grown
    return found


def _add_etc(view: View, path: str) -> None:
    """Share one path below /etc, if it exists and others may read it."""
    if path in view.entries or isinstance(view.cover(path), Bind):
        return
    try:
        mode = os.lstat(path).st_mode
        real = os.path.realpath(path)
        if stat.S_ISLNK(mode) and view.shows(real):
            # A link stays a link: programs read the zone's name from /etc/localtime.
            view.add(Symlink(path=path, target=real))
            return
        mode = os.stat(real).st_mode
    except OSError:
        return
    if not is_public(mode) or not is_within(real, "/etc"):
        return
    directory = stat.S_ISDIR(mode)
    masks = find_private(real) if directory else None
    if masks is not None and not masks.complete:
        return  # too large to vouch for
    view.add(Bind(path=path, source=real, directory=directory, executable=False, why=f"configuration `{path}`"))
    for private in masks.paths if masks else ():
        if os.path.isdir(private):
            view.add(Tmpfs(path=path + private[len(real) :], size_bytes=4096, inodes=8, mode=0o555, executable=False))
        else:
            view.add(Bind(path=path + private[len(real) :], source="/dev/null", directory=False, why=f"mask of `{private}`"))
