"""Volumes and the working directory: what the user shares, checked before anything is mounted.

Resolves each source once, refuses what no read-only flag makes harmless, and keeps the sandbox's own files from being shared writable.
`rootfs.host` and the front ends (for `parse_volume`) import this module.
"""

from __future__ import annotations

import os
import posixpath
import stat
import sys

from sandbox.errors import PolicyError, describe_errno
from sandbox.plan.root import Bind
from sandbox.policy.locate import data_path
from sandbox.policy.places import Where
from sandbox.policy.profile import Profile, Volume, VolumeKind
from sandbox.policy.profile_values import mount_target
from sandbox.policy.profile_volumes import VOLUME_OPTIONS, read_options
from sandbox.rootfs.view import is_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_KERNEL_TREES = ("/proc", "/sys", "/dev")
_KINDS = {
    stat.S_IFSOCK: "a socket: whoever reaches it talks to a program outside, read-only or not",
    stat.S_IFIFO: "a FIFO: its other end is outside",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def parse_volume(text: str, cwd: str, *, option: str = "-v") -> Volume:
    """Read ``SRC[:DST][:ro|rw]`` or ``NAME:DST[:OPTION,...]``.

    As for Docker, a SRC without a slash is the name of a volume and no path; ``./NAME`` is one, and so are ``.``, ``..`` and what begins with ``~``. A path's
    DST is SRC's own absolute path unless said, its mode ``ro``; a named volume is writable.

    Args:
        text: what the user wrote; a path with a colon cannot be written so, the Python interface takes it.
        cwd: where a relative SRC starts from, absolute.
        option: how the option was spelled, for messages.

    Raises:
        PolicyError: the text has another form, or DST is no mount target.
    """
    origin = f"option `{option} {text}`"
    where = Where(key=origin, origin=origin)
    if "\0" in text:
        raise PolicyError("volume contains a NUL byte", origin=origin)
    parts = text.split(":")
    named = _is_name(parts[0])
    form = "NAME:DST[:OPTION,...]" if named else "SRC[:DST][:ro|rw]"
    words: list[str] = []
    # The last part is options where it is the third, or of none but known ones: no target looks like them.
    if len(parts) > 1 and (len(parts) == 3 or all(word.partition("=")[0] in VOLUME_OPTIONS for word in parts[-1].split(","))):
        last = parts.pop()
        words = last.split(",") if last else []
        if not last:
            raise PolicyError(f"volume `{text}` is not of the form {form}", origin=origin)
        if not named and any(word not in ("ro", "rw") for word in words):
            raise PolicyError(f"volume `{text}` is not of the form {form}", origin=origin, hint=f"`{last}` is neither `ro` nor `rw`")
    if len(parts) > 2 or not all(parts):
        raise PolicyError(f"volume `{text}` is not of the form {form}", origin=origin)
    source, beside = parts[0], ""
    if named:
        beside = os.path.join(cwd, source)
        beside = beside if os.path.lexists(beside) else ""
        if len(parts) == 1:
            hint = f"the directory is `./{source}`" if beside else f"`{option} {source}:/PATH`; a relative path begins with `./`"
            raise PolicyError(f"named volume `{source}` needs a target", origin=origin, hint=hint)
    else:
        source = os.path.normpath(os.path.join(cwd, os.path.expanduser(source)))
    target = parts[1] if len(parts) == 2 else source
    return read_options(
        VolumeKind.NAMED if named else VolumeKind.PATH, source, _normal_target(target, where), words, where, beside=beside
    )  # fmt: skip


def parse_tmpfs(text: str, *, option: str = "--tmpfs") -> Volume:
    """Read ``DST[:size=64M,mode=1777,exec]``.

    Raises:
        PolicyError: the text has another form, or DST is no mount target.
    """
    origin = f"option `{option} {text}`"
    where = Where(key=origin, origin=origin)
    target, colon, rest = text.partition(":")
    if not target or (colon and not rest) or "\0" in text:
        raise PolicyError(f"tmpfs `{text}` is not of the form DST[:OPTION,...]", origin=origin, hint=f"`{option} /scratch:size=64M`")
    return read_options(VolumeKind.TMPFS, "", _normal_target(target, where), rest.split(",") if colon else [], where)


def _is_name(text: str) -> bool:
    """Whether a SRC is a volume's name, or would be if its characters were allowed: everything that is not written as a path."""
    return bool(text) and "/" not in text and text[0] not in ".~"


def _normal_target(target: str, where: Where) -> str:
    return mount_target(posixpath.normpath("/" + target.lstrip("/")) if target.startswith("/") else target, where)


def check_volume(volume: Volume, protected: Mapping[str, str]) -> Bind:
    """Resolve a volume's source and return its mount.

    Args:
        volume: from an option, a profile or the Python interface.
        protected: see `protected_paths`.

    Raises:
        PolicyError: the source is missing, of a kind that cannot be shared, or may not be shared writable.
    """
    where = volume.origin or f"volume `{volume.source}`"
    target = mount_target(volume.target, Where(key=where, origin=where))
    if not volume.source.startswith("/"):
        raise PolicyError(f"volume source `{volume.source}` must be an absolute path", origin=where)
    try:
        real = os.path.realpath(volume.source, strict=True)
        mode = os.stat(real).st_mode
    except OSError as error:
        raise PolicyError(f"share `{volume.source}`: {describe_errno(error.errno or 0)}", origin=where) from None
    if real == "/":
        raise PolicyError(
            f"share `{volume.source}`: it is the host's whole file system",
            origin=where,
            hint="name the directories that are needed, each with its own `-v`",
        )
    for tree in _KERNEL_TREES:
        if is_within(real, tree):
            hint = f"the sandbox has a `{tree}` of its own or none"
            raise PolicyError(f"share `{volume.source}`: it lies in the host's `{tree}`", origin=where, hint=hint)
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise PolicyError(f"share `{volume.source}`: it is {kind}", origin=where)
    if volume.writable:
        check_writable(real, volume.source, protected, where)
    return Bind(path=target, source=real, directory=stat.S_ISDIR(mode), writable=volume.writable, why=where)


def check_writable(real: str, shown: str, protected: Mapping[str, str], where: str) -> None:
    """Refuse to share something writable that holds, or lies in, files that decide over the next sandbox.

    A program that can write them, or create them where they are absent, writes its own policy (firejail #7154, #7132).
    """
    for path, what in protected.items():
        if is_within(path, real) or is_within(real, path):
            relation = "contains" if is_within(path, real) else "lies in"
            raise PolicyError(
                f"share `{shown}` writable: it {relation} {what} (`{path}`)",
                origin=where,
                hint="share a directory beside it, or share this one read-only",
            )


def protected_paths(profile: Profile, environ: Mapping[str, str], homes: tuple[str, ...]) -> dict[str, str]:
    """Return host paths that must never be writable inside, with what each is; they need not exist.

    Args:
        profile: the files it came from are protected too.
        environ: the caller's environment, for the XDG directories.
        homes: the caller's home directories.
    """
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    paths = {package: "the sandbox's own code"}
    paths[data_path("profiles")] = "the shipped profiles"
    paths[data_path("policies")] = "the shipped policies"
    for variable, default, what in (
        ("XDG_CONFIG_HOME", ".config", "configuration"),
        ("XDG_STATE_HOME", ".local/state", "state"),
        ("XDG_CACHE_HOME", ".cache", "cache"),
        ("XDG_DATA_HOME", ".local/share", "data"),
    ):
        bases = [environ.get(variable, "")] + [f"{home}/{default}" for home in homes]
        for base in bases:
            if base.startswith("/"):
                paths[os.path.realpath(os.path.join(base, "sandbox"))] = f"the sandbox's {what} directory"
    for variable, what in (("SANDBOX_DATA_DIR", "data"), ("SANDBOX_STATE_DIR", "state")):
        if environ.get(variable, "").startswith("/"):
            paths[os.path.realpath(environ[variable])] = f"the sandbox's {what} directory"
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable or "/usr/bin/python3"))):
        paths[os.path.realpath(prefix)] = "the Python that runs the sandbox"
    files = {profile.path, *profile.sources}
    if "/" in profile.policy:
        files.add(profile.policy)
    for file in files:
        if file.startswith("/"):
            paths.setdefault(os.path.realpath(file), "a file of this run's profile")
    return paths


def caller_homes(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the caller's home directories, resolved: of the environment and of the user database, which may differ."""
    import pwd

    homes = [environ.get("HOME", "")]
    try:
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        pass
    return tuple(dict.fromkeys(os.path.realpath(home) for home in homes if home.startswith("/") and home != "/"))
