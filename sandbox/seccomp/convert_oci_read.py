"""Reads seccomp profiles of containers: the OCI runtime's form and Docker's (and Podman's), which it is generated from.

Whatever is not understood is refused with its place, because a key that is skipped may be the one that refuses something. Pure; imported by the front end
and tests.
"""

from __future__ import annotations

import errno as _errno
import re
from collections.abc import Iterable

from sandbox.abi.arch import Arch
from sandbox.abi.tables import known_anywhere, syscall_names
from sandbox.errors import PolicyError
from sandbox.policy.model import Place
from sandbox.policy.nearest import suggest
from sandbox.record import replace
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.convert_json import U64 as _U64
from sandbox.seccomp.convert_json import Node, read_json
from sandbox.seccomp.convert_oci import ACTIONS, CAPABILITIES, OCI_ARCH, OPERATORS, RET_TRACE, Kernel, OciArg, OciProfile, OciRule

_TOP_KEYS = (
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "syscalls", "flags", "listenerPath", "listenerMetadata",
)  # fmt: skip
_RULE_KEYS = ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
_ARG_KEYS = ("index", "value", "valueTwo", "op")
_FILTER_KEYS = ("caps", "arches", "minKernel")
_ARCH_KEYS = ("architecture", "subArchitectures")
_FLAGS = (
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)
_KERNEL = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)
_ARCH_NAME = re.compile(r"SCMP_ARCH_[A-Z0-9_]+", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,10}", re.ASCII)
_MAXIMUM_DATA = 0xFFF
"""MAX_ERRNO; libseccomp refuses more, and the kernel would make 4095 of it (Source: kernel/seccomp.c)."""


def read_oci(content: bytes, file: str) -> OciProfile:
    """Return a profile as a value.

    Args:
        content: the JSON text.
        file: what errors call it.

    Raises:
        PolicyError: with file, line and path of what is not understood.
    """
    top = read_json(content, file)
    table = _table(top, _TOP_KEYS, "profile")
    if isinstance(table.get("listenerMetadata"), Node) and "listenerPath" not in table:
        raise table["listenerMetadata"].fail("`listenerMetadata` without `listenerPath`")
    if "defaultAction" not in table:
        raise top.fail("profile has no `defaultAction`")
    notes: list[str] = []
    for key in ("listenerPath", "listenerMetadata"):
        if key in table and _text(table[key]):
            notes.append(f"`{key}` is left out: the supervisor listens itself")
    for flag in _list(table.get("flags")):
        if _text(flag) not in _FLAGS:
            raise flag.fail(f"unknown flag `{_text(flag)}`", suggest(_text(flag), _FLAGS))
        notes.append(f"flag `{_text(flag)}` is left out: it belongs to the loading of a filter, not to the filter")
    default = _action(table["defaultAction"], table.get("defaultErrnoRet"), table.get("defaultErrno"), "defaultErrnoRet")
    architectures, subs = _architectures(table)
    rules = [_rule(node) for node in _list(table.get("syscalls"))]
    return OciProfile(
        file=file,
        default=default,
        default_where=f"{file}:{table['defaultAction'].line}, defaultAction",
        rules=tuple(rules),
        architectures=architectures,
        sub_architectures=subs,
        notes=tuple(notes),
    )


def select(profile: OciProfile, arch: Arch, capabilities: Iterable[str], kernel: Kernel, *, strict: bool = False) -> OciProfile:
    """Return what a runtime makes of a profile for one container: the rules that apply, with the names that exist.

    Args:
        profile: as read.
        arch: the machine's architecture.
        capabilities: the container's bounding set.
        kernel: version and major revision, as (6, 1).
        strict: refuse names that neither architecture has, instead of noting that they are left out as runtimes do.

    Raises:
        PolicyError: the profile is not for this architecture, or `strict` and a name is unknown.
    """
    owned = frozenset(capabilities)
    notes = list(profile.notes)
    _check_architecture(profile, arch, notes)
    rules: list[OciRule] = []
    unknown: dict[str, str] = {}
    for rule in profile.rules:
        if not rule.applies(arch, owned, kernel):
            continue
        known = [(name, where) for name, where in rule.names if known_anywhere(name)]
        for name, where in rule.names:
            if not known_anywhere(name):
                unknown.setdefault(name, where)
        if known:
            rules.append(replace(rule, names=tuple(known)))
    if unknown and strict:
        name, where = next(iter(unknown.items()))
        raise PolicyError(
            f"unknown syscall `{name}`", origin=where, hint=suggest(name, syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64))
        )
    if unknown:
        notes.append(f"left out, because neither x86_64 nor aarch64 has them: {', '.join(unknown)}")
    return replace(profile, rules=tuple(rules), notes=tuple(notes))


def _check_architecture(profile: OciProfile, arch: Arch, notes: list[str]) -> None:
    own = OCI_ARCH[arch]
    if profile.architectures is not None and own not in profile.architectures:
        # libseccomp always judges the native architecture; a profile that does not name it was written for another machine.
        listed = ", ".join(profile.architectures) or "none"
        raise PolicyError(
            f"profile is not for {arch}: its architectures are {listed}", origin=profile.file, hint="choose another by `--arch`"
        )
    others = [name for name in profile.architectures or () if name != own and not profile.sub_architectures]
    others += profile.sub_architectures.get(own, ())
    if others:
        notes.append(f"calls of {', '.join(others)} are killed; the profile would judge them by name")


def _table(node: Node, keys: tuple[str, ...], what: str) -> dict[str, Node]:
    """Return an object's members but those that are null, after refusing keys that are not known."""
    if not isinstance(node.value, dict):
        raise node.fail(f"{what} must be an object" if not node.path else f"`{node.path}` must be an object")
    for key, value in node.value.items():
        if key not in keys:
            raise value.fail(f"unknown key `{key}`", suggest(key, keys))
    return {key: value for key, value in node.value.items() if value.value is not None}


def _list(node: Node | None) -> list[Node]:
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        raise node.fail(f"`{node.path}` must be a list")
    return node.value


def _text(node: Node) -> str:
    if not isinstance(node.value, str):
        raise node.fail(f"`{node.path}` must be text")
    return node.value


def _number(node: Node, maximum: int) -> int:
    if not isinstance(node.value, int) or isinstance(node.value, bool):
        raise node.fail(f"`{node.path}` must be a number")
    if node.value > maximum:
        raise node.fail(f"`{node.path}` is {node.value}; at most {maximum} is possible")
    return node.value


def _action(node: Node, number: Node | None, name: Node | None, key: str) -> int:
    """Return a filter's return value; an errno that is not said is EPERM, as in runc and crun."""
    word = _text(node)
    if word not in ACTIONS:
        raise node.fail(f"unknown action `{word}`", suggest(word, ACTIONS))
    value = ACTIONS[word]
    carries = value in (bpf.RET_ERRNO, RET_TRACE)
    if name is not None and _text(name):
        names = {text: code for code, text in _errno.errorcode.items()}
        text = _text(name)
        if not _DIGITS.fullmatch(text) and text not in names:
            raise name.fail(f"unknown errno `{text}`", suggest(text, names))
        found = names[text] if text in names else int(text)
        if found > _MAXIMUM_DATA:
            # More bits would be another action: SCMP_ACT_ERRNO with 0x7fff0000 is SCMP_ACT_ALLOW.
            raise name.fail(f"`{name.path}` is {text}; at most {_MAXIMUM_DATA} is possible")
        if number is not None and _number(number, _MAXIMUM_DATA) != found:
            raise name.fail(f"`{name.path}` is {text} but `{number.path}` is {number.value}")
        data: int | None = found
    else:
        data = _number(number, _MAXIMUM_DATA) if number is not None else None
    if data is not None and not carries and data:
        raise (number or name or node).fail(f"`{key}` goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only")
    return value | (_errno.EPERM if data is None else data) if carries else value


def _architectures(table: dict[str, Node]) -> tuple[tuple[str, ...] | None, dict[str, tuple[str, ...]]]:
    def name(node: Node) -> str:
        if not _ARCH_NAME.fullmatch(_text(node)):
            raise node.fail(f"unknown architecture `{_text(node)}`", suggest(_text(node), OCI_ARCH.values()))
        return _text(node)

    plain, mapped = _list(table.get("architectures")), _list(table.get("archMap"))
    if plain and mapped:
        raise table["archMap"].fail("both `architectures` and `archMap` are given; one of them decides")
    if plain:
        return tuple(name(node) for node in plain), {}
    if not mapped:
        return None, {}
    subs: dict[str, tuple[str, ...]] = {}
    for node in mapped:
        entry = _table(node, _ARCH_KEYS, "archMap")
        if "architecture" not in entry:
            raise node.fail(f"`{node.path}` has no `architecture`")
        subs.setdefault(name(entry["architecture"]), tuple(name(sub) for sub in _list(entry.get("subArchitectures"))))
    return tuple(subs), subs


def _rule(node: Node) -> OciRule:
    table = _table(node, _RULE_KEYS, "rule")
    names = _list(table.get("names"))
    if "name" in table and _text(table["name"]):
        if names:
            raise table["name"].fail("both `name` and `names` are given")
        names = [table["name"]]
    if not names:
        raise node.fail(f"`{node.path}` names no syscall")
    if "action" not in table:
        raise node.fail(f"`{node.path}` has no `action`")
    includes, excludes = (_filter(table[key]) if key in table else ((), (), None) for key in ("includes", "excludes"))
    return OciRule(
        names=tuple((_name(each), f"{each.file}:{each.line}, {each.path}") for each in names),
        action=_action(table["action"], table.get("errnoRet"), table.get("errno"), f"{node.path}.errnoRet"),
        args=tuple(_arg(each) for each in _list(table.get("args"))),
        place=Place(file=node.file, line=node.line),
        path=node.path,
        comment=" ".join(_text(table["comment"]).split()) if "comment" in table else "",
        include_arches=includes[0],
        include_caps=includes[1],
        include_kernel=includes[2],
        exclude_arches=excludes[0],
        exclude_caps=excludes[1],
        exclude_kernel=excludes[2],
    )


def _name(node: Node) -> str:
    name = _text(node)
    if not name or not name.isascii() or not name.isprintable() or " " in name:
        raise node.fail(f"`{name}` is not a syscall's name")
    return name


def _filter(node: Node) -> tuple[tuple[str, ...], tuple[str, ...], Kernel | None]:
    """Return (arches, capabilities, kernel) of `includes` or `excludes`."""
    table = _table(node, _FILTER_KEYS, "filter")
    caps = []
    for each in _list(table.get("caps")):
        if _text(each) not in CAPABILITIES:
            raise each.fail(f"unknown capability `{_text(each)}`", suggest(_text(each), CAPABILITIES))
        caps.append(_text(each))
    kernel: Kernel | None = None
    if "minKernel" in table and _text(table["minKernel"]):
        match = _KERNEL.fullmatch(_text(table["minKernel"]))
        if match is None or match[0] == "0.0":
            raise table["minKernel"].fail(f"kernel version `{_text(table['minKernel'])}` is not two numbers, as `4.8`")
        kernel = (int(match[1]), int(match[2]))
    return tuple(_text(each) for each in _list(table.get("arches"))), tuple(caps), kernel


def _arg(node: Node) -> OciArg:
    table = _table(node, _ARG_KEYS, "argument")
    for key in ("index", "value", "op"):
        if key not in table:
            raise node.fail(f"`{node.path}` has no `{key}`")
    word = _text(table["op"])
    op = word.removeprefix("SCMP_CMP_")
    if op not in OPERATORS or op == word:
        raise table["op"].fail(f"unknown operator `{word}`", suggest(word, [f"SCMP_CMP_{name}" for name in OPERATORS]))
    two = _number(table["valueTwo"], _U64) if "valueTwo" in table else 0
    if two and op != "MASKED_EQ":
        raise table["valueTwo"].fail("`valueTwo` goes with SCMP_CMP_MASKED_EQ only")
    return OciArg(
        index=_number(table["index"], 5),
        op=op,
        value=_number(table["value"], _U64),
        value_two=two,
        where=f"{node.file}:{node.line}, {node.path}",
    )
