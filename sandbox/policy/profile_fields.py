"""The keys of a profile's TOML: what each may hold and which field of `Profile` it becomes.

Pure: converters from TOML values to typed values, with errors that name file, line and key. Only `profile_load` imports this module.
"""

from __future__ import annotations

import os
import posixpath
import re

from sandbox.policy.nearest import suggest
from sandbox.policy.places import Where
from sandbox.policy.profile import UNLIMITED, CwdMode, IdMode, LandlockMode, MachineView, NetworkMode, OverlayMode, ProcMode
from sandbox.policy.profile_shares import convert_cpus, convert_cpuset, convert_io, convert_io_priority
from sandbox.policy.profile_values import Converter, mount_target
from sandbox.policy.profile_values import boolean as _boolean
from sandbox.policy.profile_values import size as _size
from sandbox.policy.profile_values import string as _string
from sandbox.policy.profile_volumes import convert_volumes
from sandbox.units import format_duration, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:

    from sandbox.enums import StrEnum


_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FALLBACKS = ("memory", "processes", "cpu")
# What the sandbox makes itself below /etc; a host file there would tell about the host, or undo the synthetic one.
SYNTHETIC_ETC = ("passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf", "shells", "mtab")


def _text(value: object, where: Where) -> str:
    if not isinstance(value, str) or not value.strip():
        where.fail(f"`{where.key}` must be text, not `{value!r}`")
    return " ".join(value.split())


def _strings(value: object, where: Where) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        where.fail(f"`{where.key}` must be a list of texts, not `{value!r}`")
    for item in value:
        _string(item, where)
        if value.count(item) > 1:
            where.fail(f"`{item}` is listed twice in `{where.key}`")
    return tuple(value)


def _integer(low: int, high: int) -> Converter:
    def convert(value: object, where: Where) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            where.fail(f"`{where.key}` must be a whole number, not `{value!r}`")
        if not low <= value <= high:
            where.fail(f"`{where.key}` must be {low} to {high}, not {value}")
        return value

    return convert


def _duration(value: object, where: Where) -> int:
    number = parse_duration(value, where=f"{where.origin}, {where.key}")
    if number < 1_000_000:
        where.fail(f"`{where.key}` must be at least {format_duration(1_000_000)}, not `{value}`")
    return number


def _stack(value: object, where: Where) -> object:
    return UNLIMITED if value == "unlimited" else _size(128 << 10)(value, where)


def _or_none(convert: Converter) -> Converter:
    """Let the text ``none`` take a limit away, so that a profile can lift what its parent set."""
    return lambda value, where: None if value == "none" else convert(value, where)


def _choice(kind: type[StrEnum]) -> Converter:
    def convert(value: object, where: Where) -> StrEnum:
        words = [str(member) for member in kind]
        if not isinstance(value, str) or value not in words:
            hint = suggest(value, words) if isinstance(value, str) else None
            listed = ", ".join(f"`{word}`" for word in words[:-1])
            where.fail(f"`{where.key}` must be {listed} or `{words[-1]}`, not `{value}`", hint=hint)
        return kind(value)

    return convert


def _home(value: object, where: Where) -> str:
    path = mount_target(value, where)
    if path.count("/") < 2 or path.startswith(("/etc/", "/usr/", "/tmp/", "/var/", "/bin/", "/sbin/", "/lib")):
        where.fail(f"home `{path}` must be a directory of its own, such as `/home/user`")
    return path


def _system(value: object, where: Where) -> tuple[str, ...]:
    for path in _strings(value, where):
        mount_target(path, where)
        if path in ("/etc", "/home", "/root", "/run", "/tmp", "/var") or path.startswith(("/etc/", "/run/", "/tmp/")):
            where.fail(f"`{path}` cannot be a system directory: it holds more than programs")
    return _strings(value, where)


def _etc(value: object, where: Where) -> tuple[str, ...]:
    paths = []
    for text in _strings(value, where):
        relative = text.removeprefix("/etc/")
        if not relative or relative.startswith("/") or posixpath.normpath(relative) != relative or relative.split("/")[0] in (".", ".."):
            where.fail(f"`{text}` is not a name below /etc", hint="write `ssl/certs` or `/etc/ssl/certs`; `*` matches within one name")
        if relative in SYNTHETIC_ETC or relative.split("/")[0] == "*":
            where.fail(f"`/etc/{relative}` cannot be shared: the sandbox makes its own")
        paths.append("/etc/" + relative)
    return tuple(paths)


def _patterns(value: object, where: Where) -> tuple[str, ...]:
    for text in _strings(value, where):
        check_variable(text, where, "environment pattern")
    return _strings(value, where)


def check_variable(name: str, where: Where, what: str = "environment variable") -> None:
    """Refuse a name that no environment variable can have; a pattern may end in ``*``, but a bare ``*`` would let everything through."""
    pattern = what.endswith("pattern")
    if not _VARIABLE.fullmatch(name.removesuffix("*") if pattern else name):
        hint = "letters, digits and `_`; a pattern may end in `*`, as `LC_*`" if pattern else None
        where.fail(f"{what} `{name}` is not a name", hint=hint)


def _variables(value: object, where: Where) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        where.fail(f"`{where.key}` must be a table of texts, not `{value!r}`")
    pairs = []
    for name, text in value.items():
        check_variable(name, where)
        if not isinstance(text, str) or "\0" in text:
            where.fail(f"environment variable `{name}` must be text without NUL, not `{text!r}`")
        pairs.append((name, text))
    return tuple(pairs)


def _fallback(value: object, where: Where) -> tuple[str, ...]:
    for name in _strings(value, where):
        if name not in FALLBACKS:
            where.fail(f"`{name}` has no fallback; there is one for `memory`, `processes` and `cpu`", hint=suggest(name, FALLBACKS))
    return _strings(value, where)


def _hostname(value: object, where: Where) -> str:
    name = _string(value, where)
    # Source: sethostname(2): HOST_NAME_MAX is 64 on Linux. RFC 1123 for the labels.
    if len(name) > 64 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        where.fail(f"hostname `{name}` must be labels of letters, digits and `-`, 64 characters at most")
    return name


def _user(value: object, where: Where) -> str:
    name = _string(value, where)
    if not _USER.fullmatch(name) or name in ("root", "nobody"):
        where.fail(f"user `{name}` must be a lower-case login name other than `root` and `nobody`")
    return name


def _policy(value: object, where: Where) -> str:
    name = _string(value, where)
    if not name:
        where.fail("`policy` must name a policy")
    if ("/" in name or name.endswith(".toml")) and where.base:
        return os.path.normpath(os.path.join(where.base, name))
    return name


def _image(value: object, where: Where) -> str:
    name = _string(value, where)
    if not name or name != name.strip():
        where.fail(f"`{where.key}` must name an image, such as `debian:12`, not `{name}`")
    return name


# A tmpfs of size or nr_inodes 0 has no limit at all, so the smallest cap is one page and a handful of inodes.
# Source: Linux Documentation/filesystems/tmpfs.rst.
_CAP = _size(4096)
_INODES = _integer(8, 1 << 32)
LIMITS: dict[str, tuple[str, Converter]] = {
    "wall": ("wall_ns", _or_none(_duration)),
    "cpu": ("cpu_ns", _or_none(_duration)),
    "memory": ("memory_bytes", _or_none(_size(1 << 20))),
    "processes": ("processes", _or_none(_integer(1, 4_194_304))),
    "output": ("output_bytes", _or_none(_size(0))),
    "open-files": ("open_files", _integer(8, 1 << 20)),
    "file-size": ("file_bytes", _or_none(_size(0))),
    "stack": ("stack_bytes", _or_none(_stack)),
    "idle": ("idle_ns", _or_none(_duration)),
    "cpus": ("cpu_quota_ppm", _or_none(convert_cpus)),
    "cpu-weight": ("cpu_weight", _or_none(_integer(1, 10_000))),
    "cpuset": ("cpuset", convert_cpuset),
    "nice": ("nice", _integer(0, 19)),
    "io-priority": ("io_priority", _or_none(convert_io_priority)),
    "io": ("io", convert_io),
    "tmp": ("tmp_bytes", _CAP),
    "tmp-inodes": ("tmp_inodes", _INODES),
    "shm": ("shm_bytes", _CAP),
    "shm-inodes": ("shm_inodes", _INODES),
    "home": ("home_bytes", _CAP),
    "home-inodes": ("home_inodes", _INODES),
    "root": ("root_bytes", _CAP),
    "root-inodes": ("root_inodes", _INODES),
}
FIELDS: dict[str, tuple[str, Converter]] = {
    "description": ("description", _text),
    "policy": ("policy", _policy),
    "landlock": ("landlock", _choice(LandlockMode)),
    "machine-view": ("machine_view", _choice(MachineView)),
    "fallback": ("fallback", _fallback),
    "mounts.cwd": ("cwd", _choice(CwdMode)),
    "mounts.volumes": ("volumes", convert_volumes),
    "mounts.etc": ("etc", _etc),
    "mounts.system": ("system", _system),
    "mounts.image": ("image", _image),
    "mounts.overlay": ("overlay", _choice(OverlayMode)),
    "environment.pass": ("env_pass", _patterns),
    "environment.set": ("env_set", _variables),
    "namespaces.proc": ("proc", _choice(ProcMode)),
    "namespaces.network": ("network", _choice(NetworkMode)),
    "namespaces.time": ("time_namespace", _boolean),
    "namespaces.nested": ("nested_namespaces", _boolean),
    "namespaces.ids": ("ids", _choice(IdMode)),
    "measure.instructions": ("measure_instructions", _boolean),
    "launch.template": ("launch_template", _boolean),
    "launch.recycle-network": ("launch_recycle_network", _boolean),
    "launch.cgroups-ahead": ("launch_cgroups_ahead", _boolean),
    "identity.hostname": ("hostname", _hostname),
    "identity.user": ("user", _user),
    "identity.uid": ("uid", _integer(1, 65533)),
    "identity.gid": ("gid", _integer(1, 65533)),
    "identity.home": ("home", _home),
}
FIELDS.update({f"limits.{key}": (attribute, convert) for key, (attribute, convert) in LIMITS.items()})
TABLES = ("limits", "mounts", "environment", "namespaces", "identity", "measure", "launch")
TOP_KEYS = ("extends", *(key for key in FIELDS if "." not in key), *TABLES)

