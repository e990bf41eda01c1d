"""A policy as text for kafel, the policy language of nsjail.

Calls are written by number and their arguments declared as registers (``SYSCALL[41](a0, a1)``), because kafel's own tables end with older kernels and give
sizes to arguments that a test must not depend on; the name stands in a comment. The first rule that matches decides in kafel, so what most ways through a
syscall's decision tree lead to is said last and without tests. Pure; the front end and tests import this.

Source: google/kafel README.md and src/parser.y.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import CompileError
from sandbox.policy.conditions import U64
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.convert_paths import tree_paths
from sandbox.seccomp.lower import Test, decision_tree, return_value

_NAMES: Mapping[int, str] = {
    bpf.RET_ALLOW: "ALLOW",
    bpf.RET_LOG: "LOG",
    bpf.RET_USER_NOTIF: "USER_NOTIF",
    bpf.RET_KILL_PROCESS: "KILL_PROCESS",
    bpf.RET_TRAP: "TRAP(0)",
}
_MAXIMUM_EXPRESSIONS = 100
"""kafel bounds how deep expressions nest, and a long ``||`` nests; more alternatives become several rules."""


def convert_to_kafel(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> str:
    """Return a policy as kafel text for one architecture.

    Args:
        policy: the merged policy, checked.
        arch: whose numbers, constants and argument order; compile the text for no other.
        notify: write recorded refusals as USER_NOTIF, for a supervisor to answer, instead of as the errno they get.

    Raises:
        CompileError: the policy allows what it does not name, which on x86_64 would allow x32's calls: kafel cannot test for them.
        PolicyError: conditions of a syscall are too complex together.
    """
    if arch is Arch.X86_64 and policy.default.action in (Action.ALLOW, Action.LOG):
        raise CompileError(
            f"convert policy `{policy.name}` to kafel: its default allows, and kafel cannot refuse the x32 calls of x86_64",
            hint="give the policy a default that refuses, as `errno ENOSYS`",
        )
    default = return_value(policy.default, notify)
    tested: dict[int, list[tuple[str, str]]] = {}
    plain: dict[int, list[tuple[str, str]]] = {}
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue
        ways: dict[int, list[tuple[Test, ...]]] = {}
        for tests, value in tree_paths(decision_tree(policy, syscall, arch, notify)):
            ways.setdefault(value, []).append(tests)
        rest = max(ways, key=lambda value: (len(ways[value]), value == default, value))
        for value, alternatives in ways.items():
            if value != rest:
                tested.setdefault(value, []).extend((text, syscall) for text in _filters(number, alternatives))
        if rest != default:
            plain.setdefault(rest, []).append((f"SYSCALL[{number}]", syscall))
    blocks = [_block(value, part[value]) for part in (tested, plain) for value in sorted(part, reverse=True)]
    head = f"// {policy.name} for {arch}: the numbers mean something else on any other architecture"
    return "\n".join([head, *([",\n".join(blocks)] if blocks else []), f"DEFAULT {_action(default)}"]) + "\n"


def _block(value: int, filters: list[tuple[str, str]]) -> str:
    """Return ``ACTION { … }``; kafel knows no comma after the last filter."""
    last = len(filters) - 1
    lines = [f"  {text}{',' if at < last else ''}  // {name}" for at, (text, name) in enumerate(filters)]
    return "\n".join([f"{_action(value)} {{", *lines, "}"])


def _filters(number: int, alternatives: list[tuple[Test, ...]]) -> list[str]:
    """Return a syscall's filters for some alternatives, none of them without a test."""
    registers = 1 + max(index for tests in alternatives for index, _, _ in tests)
    head = f"SYSCALL[{number}]({', '.join(f'a{index}' for index in range(registers))})"
    texts = [" && ".join(_test(*test) for test in tests) for tests in alternatives]
    parts = [texts[at : at + _MAXIMUM_EXPRESSIONS] for at in range(0, len(texts), _MAXIMUM_EXPRESSIONS)]
    return [f"{head} {{ {' || '.join(f'({text})' if len(part) > 1 else text for text in part)} }}" for part in parts]


def _test(index: int, mask: int, value: int) -> str:
    register = f"a{index}"
    return f"{register} == {value:#x}" if mask == U64 else f"({register} & {mask:#x}) == {value:#x}"


def _action(value: int) -> str:
    return f"ERRNO({value & 0xFFFF})" if value & 0xFFFF_0000 == bpf.RET_ERRNO else _NAMES[value]
