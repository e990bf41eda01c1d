"""Finds the programs and files of a toolchain on the host, and says what identifies them.

It looks and executes nothing. Only `toolchains` imports this module.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import stat

from sandbox.errors import PolicyError
from sandbox.policy.toml_source import read_toml
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_STANDARD_PATH = "/usr/local/bin:/usr/bin:/bin"
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of a toolchain: the path that commands use, where its links end, and what changes when somebody replaces it."""

    path: str
    real: str
    size: int
    mtime_ns: int
    inode: int
    device: int

    def identity(self) -> list[object]:
        """Return plain values for a digest."""
        return [self.path, self.real, self.size, self.mtime_ns, self.inode, self.device]


def find_need(candidates: Sequence[str], environ: Mapping[str, str], found_before: Mapping[str, Found] | None = None) -> Found | None:
    """Return the first candidate that is here.

    Args:
        candidates: names of programs, looked up in PATH, and absolute patterns.
        environ: for PATH, and for where rustup keeps its toolchains.
        found_before: needs that patterns may begin with.
    """
    for candidate in candidates:
        if candidate.startswith("{"):
            name, _, rest = candidate[1:].partition("}")
            candidate = posixpath.normpath((found_before or {})[name].real + rest)
        for path in _paths(candidate, environ):
            found = _look(path, program="/" not in candidate)
            if found is not None and posixpath.basename(found.real) == "rustup":
                behind = _behind_rustup(posixpath.basename(path), environ)
                found = None if behind is None else _look(behind, program=True)
            if found is not None:
                return found
    return None


def system_marks() -> list[list[object]]:
    """Return what changes when packages of the system do: headers and libraries are part of what a compiler makes, and nobody lists them."""
    marks = (_look(path, program=False) for path in ("/etc/ld.so.cache", "/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/pacman/local"))
    return [mark.identity() for mark in marks if mark is not None]


def existing_mounts(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the paths that patterns match, as read-only volumes at their own paths; what the system directories show anyway is left out."""
    found = []
    for pattern in patterns:
        found += [path for path in sorted(glob.glob(pattern)) if not path.startswith(_SYSTEM) and ":" not in path]
    return tuple(f"{path}:{path}:ro" for path in found)


def is_shown(path: str) -> bool:
    """Whether a sandbox shows a path without being told to: it lies in a system directory."""
    return path.startswith(_SYSTEM)


def _paths(candidate: str, environ: Mapping[str, str]) -> Iterator[str]:
    if "/" in candidate:
        yield from sorted(glob.glob(candidate), key=_by_number, reverse=True)  # the highest version, where a pattern says so
        return
    directories = [each for each in environ.get("PATH", _STANDARD_PATH).split(":") if each.startswith("/")]
    # A shim chooses by the directory it is started in, and a judge's interpreter must not: what lies behind is looked for first.
    directories.sort(key=lambda each: posixpath.basename(each.rstrip("/")) == "shims")
    for directory in dict.fromkeys(directories):
        yield posixpath.join(directory, candidate)


def _by_number(path: str) -> list[tuple[int, str]]:
    """Return a key by which 10.0 comes after 9.0."""
    return [(int(digits or 0), rest) for digits, rest in re.findall(r"([0-9]{0,18})([^0-9]*)", path, re.ASCII)]


def _look(path: str, *, program: bool) -> Found | None:
    try:
        status = os.stat(path)
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return None
    if program and (not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK)):
        return None
    return Found(path=path, real=real, size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, device=status.st_dev)


def _behind_rustup(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the program of the default toolchain that rustup's proxy of that name would start.

    Source: The rustup book, "Environment variables" and "Toolchains"; settings.toml has the key default_toolchain.
    """
    home = environ.get("RUSTUP_HOME", "") or posixpath.join(environ.get("HOME", ""), ".rustup")
    if not home.startswith("/"):
        return None
    toolchain: object = environ.get("RUSTUP_TOOLCHAIN", "")
    if not toolchain:
        try:
            toolchain = read_toml(posixpath.join(home, "settings.toml")).table.get("default_toolchain")
        except PolicyError:
            return None
    if not isinstance(toolchain, str) or not toolchain or "/" in toolchain:
        return None
    return posixpath.join(home, "toolchains", toolchain, "bin", name)


__all__ = ["Found", "existing_mounts", "find_need", "is_shown", "system_marks"]
