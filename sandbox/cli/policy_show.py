"""``sandbox policy show``: what happens to each system call, all files of the stack together; and what a @group holds."""

from __future__ import annotations

from sandbox.cli.options import Option, UsageError
from sandbox.cli.policy_text import (
    ARCH,
    HELP,
    JSON,
    choose_arch,
    need,
    paint,
    parse,
    print_json,
    printable,
    show_path,
    show_place,
    wrap,
    wrap_text,
)
from sandbox.policy.nearest import suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.abi.arch import Arch
    from sandbox.policy.groups import Group
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.explain import Case

OPTIONS = (
    ARCH,
    Option(name="group", short="g", metavar="@GROUP", help="this group only; `all` lists the groups themselves", many=True),
    Option(name="syscall", short="s", metavar="NAME", help="this system call only", many=True),
    Option(name="effective", short="e", help="also the calls that no rule names, which get the default"),
    JSON,
    HELP,
)
_TEXT = """Print what happens to each system call, with the place of the rule that decides, by group. Of several lines for one call the first that
matches decides. With a @GROUP instead of a policy, print that group."""


def run(words: list[str]) -> int:
    """Show a policy, or a group."""
    parsed = parse(words, OPTIONS, "show", "[--group @GROUP|all] [--syscall NAME] [--effective] [--json] POLICY|@GROUP", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    from sandbox.policy.groups import load_groups

    groups = load_groups()
    wanted = options.get("group", [])
    if "all" in wanted and not operands:
        return _print_groups(groups.values(), options)
    need(operands, 1, 1, "which policy or @group to show", "show")
    if operands[0].startswith("@"):
        return _print_groups([_find(groups, operands[0])], options)
    from sandbox.policy.load import load_policy

    arch = choose_arch(options)
    policy = load_policy(operands[0])
    chosen = list(groups.values()) if not wanted or "all" in wanted else [_find(groups, word) for word in wanted]
    syscalls = _syscalls(options.get("syscall", []), arch)
    table = _table(policy, arch, chosen, syscalls, every="effective" in options or bool(syscalls))
    if "json" in options:
        print_json(_as_json(policy, arch, table))
    else:
        print("\n".join(_lines(policy, arch, table)))
    return 0


def _find(groups: Mapping[str, Group], word: str) -> Group:
    name = word.removeprefix("@")
    if name not in groups:
        raise UsageError(
            f"unknown group `@{name}`", hint=suggest(f"@{name}", (f"@{known}" for known in groups)) or "`--group all` lists them"
        )
    return groups[name]


def _syscalls(words: list[str], arch: Arch) -> frozenset[str]:
    from sandbox.seccomp.shape import parse_call

    found = set()
    for word in words:
        shape = parse_call(word, arch.value)
        if shape.syscall is None:
            raise UsageError(f"`{word}` has no name on {arch}", hint="`sandbox policy explain` tells what happens to any number")
        found.add(shape.syscall)
    return frozenset(found)


def _print_groups(groups: Iterable[Group], options: dict[str, list[str]]) -> int:
    if "json" in options:
        print_json([{"group": group.name, "help": group.help, "syscalls": list(group.syscalls)} for group in groups])
        return 0
    for group in groups:
        print("\n".join(wrap_text(group.help, first=f"{paint(f'@{group.name}', 'head')}  ", indent="    ")))
        print("\n".join(wrap(group.syscalls, first="    ", indent="    ")))
    return 0


def _table(
    policy: SyscallPolicy, arch: Arch, groups: list[Group], only: frozenset[str], *, every: bool
) -> list[tuple[Group, list[tuple[str, tuple[Case, ...]]]]]:
    """Return the cases of each wanted syscall, by group."""
    from sandbox.abi.tables import syscall_number
    from sandbox.seccomp.explain import cases

    result = []
    for group in groups:
        rows = [
            (name, cases(policy, arch, name))
            for name in group.syscalls
            if syscall_number(arch, name) is not None and (name in only if only else every or name in policy.rules)
        ]
        if rows:
            result.append((group, rows))
    return result


def _as_json(policy: SyscallPolicy, arch: Arch, table: list[tuple[Group, list[tuple[str, tuple[Case, ...]]]]]) -> dict[str, object]:
    from sandbox.cli.policy_explain import case_json

    return {
        "policy": policy.name,
        "description": policy.description,
        "arch": str(arch),
        "files": [layer.path for layer in policy.stack],
        "default": case_json(_default_case(policy, arch)),
        "groups": [
            {
                "group": group.name,
                "help": group.help,
                "syscalls": [{"syscall": name, "cases": [case_json(case) for case in found]} for name, found in rows],
            }
            for group, rows in table
        ],
    }


def _default_case(policy: SyscallPolicy, arch: Arch) -> Case:
    from sandbox.seccomp.explain import explain_shape
    from sandbox.seccomp.shape import parse_call

    return explain_shape(policy, parse_call("0xffffffff", arch.value))[0]


def _lines(policy: SyscallPolicy, arch: Arch, table: list[tuple[Group, list[tuple[str, tuple[Case, ...]]]]]) -> list[str]:
    from sandbox.cli.policy_explain import decision

    files = ", ".join(show_path(layer.path) for layer in policy.stack)
    lines = [f"policy {policy.name} for {arch} ({files})", f"default: {decision(_default_case(policy, arch))}"]
    for group, rows in table:
        lines += ["", *wrap_text(printable(group.help), first=f"{paint(f'@{group.name}', 'head')}  ", indent="    ")]
        alike: dict[tuple[str, str], list[str]] = {}  # decided whole, in the same way and place
        for name, found in rows:
            if len(found) == 1:
                alike.setdefault((decision(found[0]), show_place(found[0].ref)), []).append(name)
        for (text, place), names in alike.items():
            lines += [*wrap(names, first="  ", indent="    "), f"      {text}  {place}"]
        for name, found in rows:
            if len(found) > 1:
                lines += [f"  {name}", *case_lines(found, "      ")]
    return lines


def case_lines(found: tuple[Case, ...], indent: str) -> list[str]:
    """Return one or more lines for each case, in the order in which they are tried."""
    from sandbox.cli.policy_explain import condition_text, decision

    lines = []
    for at, case in enumerate(found):
        first = f"{indent}{decision(case)}  {show_place(case.ref)}"
        lines += wrap_text(condition_text(case, first=at == 0), first=f"{first}  ", indent=f"{indent}    ")
    return lines
