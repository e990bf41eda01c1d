"""The volumes of a profile and of ``-v`` and ``--tmpfs``: tables and texts to `Volume`, and which names a volume may have.

Pure. `profile_fields`, `profile_load`, `rootfs` and `volumes` import this module.
"""

from __future__ import annotations

import os
import posixpath
import re

from sandbox.errors import PolicyError
from sandbox.policy.nearest import suggest
from sandbox.policy.profile import Volume, VolumeKind
from sandbox.policy.profile_values import boolean, mount_target, size, string
from sandbox.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.policy.places import Where

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""A volume's name. It has no ``/`` and does not begin with a dot, so that no path that is written as one can be taken for it, nor a file of ours."""

NAME_WORDS = "letters, digits, `_`, `.` and `-`, the first a letter or digit, 63 at most"
TMPFS_BYTES = 64 << 20
_MODE = re.compile(r"[01]?[0-7]{3}")
_DEPTH = 64  # of a subpath
_COMMON = ("target", "writable")
_KEYS = {
    VolumeKind.PATH: ("source", *_COMMON),
    VolumeKind.NAMED: ("name", *_COMMON, "copy", "lock", "wait", "subpath"),
    VolumeKind.TMPFS: ("type", "target", "size", "mode", "executable"),
}
_ALL_KEYS = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))
VOLUME_OPTIONS = ("ro", "rw", "nocopy", "lock", "wait", "subpath")
TMPFS_OPTIONS = ("size", "mode", "exec")


def check_name(name: object, where: Where) -> str:
    """Return a volume's name, or refuse what is none."""
    text = string(name, where)
    if NAME.fullmatch(text) is None:
        where.fail(f"volume name `{text}` is not made of {NAME_WORDS}", hint="for a path write it as one: `./NAME` or `/PATH`" if text else None)
    return text


def convert_volumes(value: object, where: Where) -> tuple[Volume, ...]:
    """Return the volumes of a list of tables."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        where.fail(f"`{where.key}` must be a list of tables, not `{value!r}`", hint='{ source = "/srv/in", target = "/in" }')
    return tuple(_volume(item, where.child(f"{where.key}[{index}]")) for index, item in enumerate(value))


def _volume(item: dict[str, object], where: Where) -> Volume:
    for key in item:
        if key not in _ALL_KEYS:
            where.child(f"{where.key}.{key}").fail(f"unknown key `{where.key}.{key}`", hint=suggest(key, _ALL_KEYS))
    kind = VolumeKind.NAMED if "name" in item else VolumeKind.TMPFS if "type" in item else VolumeKind.PATH
    for key in item:
        if key not in _KEYS[kind]:
            belongs = next(other for other in VolumeKind if key in _KEYS[other])
            what = {VolumeKind.PATH: "a host path (`source`)", VolumeKind.NAMED: "a named volume (`name`)", VolumeKind.TMPFS: "a tmpfs (`type`)"}
            where.child(f"{where.key}.{key}").fail(f"`{where.key}.{key}` is a key of {what[belongs]}, and this is {what[kind]}")
    origin = f"{where.origin}, {where.key}"

    def at(key: str) -> Where:
        return where.child(f"{where.key}.{key}")

    if kind is VolumeKind.PATH:
        if "source" not in item:
            where.fail(f"`{where.key}` has no `source`")
        source = string(item["source"], at("source"))
        source = os.path.normpath(os.path.join(where.base, os.path.expanduser(source))) if source else ""
        if not source.startswith("/"):
            where.fail(f"volume source `{item['source']}` must be an absolute path")
        target = mount_target(item.get("target", source), at("target"))
        return Volume(source=source, target=target, writable=boolean(item.get("writable", False), at("writable")), origin=origin)
    if "target" not in item:
        where.fail(f"`{where.key}` has no `target`", hint="where it is mounted inside")
    target = mount_target(item["target"], at("target"))
    if kind is VolumeKind.TMPFS:
        if item["type"] != "tmpfs":
            at("type").fail(f"`{where.key}.type` must be `tmpfs`, not `{item['type']}`", hint="a host path has `source`, a named volume `name`")
        executable = boolean(item.get("executable", False), at("executable"))
        return _tmpfs(target, item.get("size", TMPFS_BYTES), item.get("mode", "1777"), executable, origin, at("size"), at("mode"))
    return Volume(
        kind=VolumeKind.NAMED,
        source=check_name(item["name"], at("name")),
        target=target,
        writable=boolean(item.get("writable", True), at("writable")),
        copy=boolean(item.get("copy", True), at("copy")),
        lock=boolean(item.get("lock", False), at("lock")),
        wait_ns=_wait(item.get("wait", 0), "lock" in item and item["lock"] is True, at("wait")),
        subpath=_subpath(item.get("subpath", ""), at("subpath")),
        origin=origin,
    )


def read_options(kind: VolumeKind, source: str, target: str, words: Iterable[str], where: Where, *, beside: str = "") -> Volume:
    """Return the volume of an option's text, whose last part is split at its commas.

    Args:
        kind: what `source` is.
        source: a host path, a name, or empty.
        target: path inside.
        words: ``ro``, ``nocopy``, ``wait=30s`` and so on.
        where: the option, for messages.
        beside: see `Volume`.
    """
    known = {VolumeKind.PATH: VOLUME_OPTIONS[:2], VolumeKind.NAMED: VOLUME_OPTIONS, VolumeKind.TMPFS: TMPFS_OPTIONS}[kind]
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in known:
            where.fail(f"unknown option `{word}` of a {_CALLED[kind]}", hint=suggest(key, known) or f"one of {', '.join(known)}")
        if bool(equals) != (key in ("wait", "subpath", "size", "mode")):
            where.fail(f"option `{word}` of a {_CALLED[kind]}: " + (f"`{key}` takes no value" if equals else f"`{key}` needs a value"))
        if key in given:
            where.fail(f"option `{key}` of a {_CALLED[kind]} is given twice")
        given[key] = value
    if "ro" in given and "rw" in given:
        where.fail("`ro` and `rw` exclude each other")
    origin = where.origin
    match kind:
        case VolumeKind.PATH:
            return Volume(source=source, target=target, writable="rw" in given, origin=origin)
        case VolumeKind.TMPFS:
            return _tmpfs(target, given.get("size", TMPFS_BYTES), given.get("mode", "1777"), "exec" in given, origin, where, where)
        case VolumeKind.NAMED:
            return Volume(
                kind=kind, source=check_name(source, where), target=target, writable="ro" not in given, copy="nocopy" not in given,
                lock="lock" in given, wait_ns=_wait(given.get("wait", 0), "lock" in given, where),
                subpath=_subpath(given.get("subpath", ""), where), origin=origin, beside=beside,
            )  # fmt: skip


_CALLED = {VolumeKind.PATH: "shared path", VolumeKind.NAMED: "named volume", VolumeKind.TMPFS: "tmpfs"}


def _wait(value: object, lock: bool, where: Where) -> int:
    number = parse_duration(value, where=where.origin)
    if number and not lock:
        where.fail("`wait` without `lock`: there is nothing to wait for")
    return number


def _subpath(value: object, where: Where) -> str:
    text = string(value, where)
    if not text:
        return ""
    if text.startswith("/") or posixpath.normpath(text) != text or text.split("/")[0] in (".", ".."):
        where.fail(f"subpath `{text}` is not a relative path without `.` and `..`")
    if text.count("/") >= _DEPTH or any(len(os.fsencode(part)) > 255 for part in text.split("/")):
        where.fail(f"subpath `{text}` is too long")
    return text


def _tmpfs(target: str, given: object, mode: object, executable: bool, origin: str, at_size: Where, at_mode: Where) -> Volume:
    if not isinstance(mode, str) or _MODE.fullmatch(mode) is None:
        at_mode.fail(f"mode `{mode}` is not an octal text such as `1777`", hint="no set-id bits: they count for nothing inside")
    number = size(4096)(given, at_size)
    assert isinstance(number, int)
    return Volume(
        kind=VolumeKind.TMPFS, source="", target=target, writable=True, size_bytes=number, mode=int(mode, 8), executable=executable, origin=origin
    )  # fmt: skip


def check_volume_targets(volumes: Iterable[Volume]) -> None:
    """Refuse two volumes with one target: whichever won, someone would read one line and get the other; and one volume twice with two answers."""
    seen: dict[str, Volume] = {}
    locks: dict[str, Volume] = {}
    for volume in volumes:
        if volume.target in seen:
            raise PolicyError(f"two volumes have the target `{volume.target}`", origin=_origins(seen[volume.target], volume))
        seen[volume.target] = volume
        if volume.kind is VolumeKind.NAMED:
            before = locks.setdefault(volume.source, volume)
            if (before.lock, before.wait_ns) != (volume.lock, volume.wait_ns):
                raise PolicyError(f"volume `{volume.source}` is mounted twice, once with `lock` and once without", origin=_origins(before, volume))


def _origins(*volumes: Volume) -> str | None:
    return "\n".join(filter(None, (volume.origin for volume in volumes))) or None
