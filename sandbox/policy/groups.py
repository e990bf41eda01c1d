"""The @groups: named sets of syscalls, read from `policies/groups.toml`.

Every syscall stands in exactly one group, so a rule on two groups never contradicts itself and a new kernel's calls cannot be overlooked.
`load.py` expands groups, the front end lists them; nothing here knows actions. Reads that one file.
"""

from __future__ import annotations

import re
from functools import cache
from types import MappingProxyType

from sandbox.errors import PolicyError
from sandbox.policy.locate import data_path
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_HEADER = re.compile(r"^\[([a-z0-9-]+)\]", re.ASCII | re.MULTILINE)
_KEYS = ("help", "syscalls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One @group; `name` is without the @, `syscalls` are sorted, `line` is where groups.toml begins it."""

    name: str
    help: str
    syscalls: tuple[str, ...]
    line: int


def groups_path() -> str:
    """Return the path of the shipped groups.toml."""
    return data_path("policies") + "/groups.toml"


@cache
def load_groups() -> Mapping[str, Group]:
    """Return name (without the @) → group, in the file's order.

    Raises:
        PolicyError: the shipped file is damaged; `origin` has file and line.
    """
    return read_groups(groups_path())


def read_groups(path: str) -> Mapping[str, Group]:
    """Read a file of groups.

    Args:
        path: absolute path of the file.

    Raises:
        PolicyError: not TOML, a table that is not a group, an unknown syscall, or one that stands in two groups.
    """
    import tomli

    from sandbox.abi.tables import known_anywhere

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        tables = tomli.loads(text)
    except (OSError, ValueError):
        raise _fail(path, "", f"read `{path}`") from None
    # Every run reads this file: where keys stand is worked out only for an error.
    lines: dict[str, int] = {}
    at, line = 0, 1
    for match in _HEADER.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        lines.setdefault(match[1], line)
    groups: dict[str, Group] = {}
    owner: dict[str, str] = {}
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            raise _fail(path, name, f"`{name}` is not a group: a table with a lower-case name is needed")
        syscalls = _read_syscalls(name, table, path)
        for syscall in syscalls:
            if not known_anywhere(syscall):
                raise _fail(path, f"{name}.syscalls", f"unknown syscall `{syscall}` in @{name}", syscall)
            if syscall in owner:
                raise _fail(path, f"{name}.syscalls", f"syscall `{syscall}` is in @{owner[syscall]} and in @{name}")
            owner[syscall] = name
        groups[name] = Group(name=name, help=table["help"], syscalls=tuple(sorted(syscalls)), line=lines.get(name, 0))
    return MappingProxyType(groups)


def _read_syscalls(name: str, table: dict[str, object], path: str) -> list[str]:
    """Return a group's syscalls after checking the table's shape."""
    for key in table:
        if key not in _KEYS:
            raise _fail(path, f"{name}.{key}", f"unknown key `{key}` in @{name}: a group has {' and '.join(_KEYS)}")
    help_line = table.get("help")
    if not isinstance(help_line, str) or not help_line or "\n" in help_line:
        raise _fail(path, f"{name}.help", f"@{name} needs `help`, one line of text")
    syscalls = table.get("syscalls")
    if not isinstance(syscalls, list) or not syscalls or not all(isinstance(syscall, str) for syscall in syscalls):
        raise _fail(path, f"{name}.syscalls", f"@{name} needs `syscalls`, a list of names")
    return syscalls


def _fail(path: str, key: str, message: str, unknown: str | None = None) -> PolicyError:
    """Return the error with the place of a dotted key; read again, because a file that cannot be read says why better than we do."""
    from sandbox.abi.signatures import SIGNATURES
    from sandbox.policy.nearest import suggest
    from sandbox.policy.toml_source import read_toml

    try:
        origin = read_toml(path).origin(key)
    except PolicyError as error:
        return error
    return PolicyError(message, origin=origin, hint=suggest(unknown, SIGNATURES) if unknown else None)


@cache
def _owners() -> dict[str, str]:
    return {syscall: group.name for group in load_groups().values() for syscall in group.syscalls}


def primary_group(syscall: str) -> str:
    """Return the name (without the @) of the one group that a syscall stands in.

    Raises:
        KeyError: no group has it, so no architecture's table has it either.
    """
    return _owners()[syscall]
