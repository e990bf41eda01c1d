"""Policy → rules that libseccomp cannot read in two ways: disjoint masked-equality tests, as plain values.

Between the policy's meaning (first match wins) and libseccomp's (a syscall's rules form a set) stands a tree for each syscall: at each register,
alternatives of which exactly one holds. libseccomp tests registers in ascending order too, so it does not matter whether it would come back
from a failed inner test to try the next alternative. Pure; the prover does not look here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import CompileError
from sandbox.policy.check import entry_outcome, entry_registers
from sandbox.policy.cubes import Cube, Leaf, join
from sandbox.policy.model import Action, Outcome, SyscallPolicy
from sandbox.seccomp import evaluate
from sandbox.seccomp.filter import MAXIMUM_INSTRUCTIONS

Test = tuple[int, int, int]
"""register index, mask, value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRule:
    """One rule for libseccomp: a call of `number` for which every test holds returns `value`."""

    number: int
    tests: tuple[Test, ...]
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A choice by one register: disjoint sets of its values, all of them together, each with what follows."""

    index: int
    ways: tuple[tuple[tuple[Cube, ...], Tree], ...]


Tree = int | Branch
"""A filter's return value, or a choice."""


def return_value(outcome: Outcome, notify: bool) -> int:
    """Return the filter's 32-bit result for an outcome.

    Args:
        outcome: what the policy says.
        notify: whether a supervisor listens; if not, `notify` becomes a plain errno in the kernel.
    """
    match outcome.action:
        case Action.ALLOW:
            return evaluate.RET_ALLOW
        case Action.LOG:
            return evaluate.RET_LOG
        case Action.ERRNO:
            return evaluate.RET_ERRNO | outcome.errno
        case Action.NOTIFY:
            return evaluate.RET_USER_NOTIF if notify else evaluate.RET_ERRNO | outcome.errno
        case Action.TRAP:
            return evaluate.RET_TRAP
        case Action.KILL_PROCESS:
            return evaluate.RET_KILL_PROCESS


def decision_tree(policy: SyscallPolicy, syscall: str, arch: Arch, notify: bool) -> Tree:
    """Return what the filter returns for a syscall, as a tree over the registers that matter, in ascending order.

    Raises:
        PolicyError: the conditions are too complex together.
    """
    entries = policy.rules[syscall]
    registers = entry_registers(entries, syscall, arch)

    def grow(depth: int, truths: dict[Leaf, bool]) -> Tree:
        if depth == len(registers):
            outcome = next(found for entry in entries if (found := entry_outcome(entry, truths)) is not None)
            return return_value(outcome, notify)
        branches: dict[Tree, list[Cube]] = {}
        for chosen in registers[depth].classes:
            below = grow(depth + 1, {**truths, **chosen.truths})
            branches.setdefault(below, []).extend(chosen.cubes)
        if len(branches) == 1:
            return next(iter(branches))  # this register makes no difference here
        return Branch(
            index=registers[depth].index, ways=tuple(sorted(((join(cubes), tree) for tree, cubes in branches.items()), key=_first))
        )

    return grow(0, {})


def _first(way: tuple[tuple[Cube, ...], Tree]) -> tuple[Cube, ...]:
    return way[0]


def tree_paths(tree: Tree) -> Iterator[tuple[tuple[Test, ...], int]]:
    """Yield every path of a tree: tests of which exactly one path's hold for any call, and the value at its end."""
    if isinstance(tree, int):
        yield (), tree
        return
    for cubes, below in tree.ways:
        for tests, value in tree_paths(below):
            for care, wanted in cubes:
                yield ((tree.index, care, wanted), *tests), value


def lower_policy(policy: SyscallPolicy, arch: Arch, notify: bool) -> tuple[NumberRule, ...]:
    """Return every rule of a filter, ordered by number; whatever they leave gets the policy's default.

    Raises:
        CompileError: more rules than a filter can hold.
    """
    default = return_value(policy.default, notify)
    rules: list[NumberRule] = []
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue  # a call of the other architecture only
        for tests, value in tree_paths(decision_tree(policy, syscall, arch, notify)):
            if value != default:
                rules.append(NumberRule(number=number, tests=tests, value=value))
            if len(rules) > MAXIMUM_INSTRUCTIONS:
                raise CompileError(
                    f"compile policy `{policy.name}` for {arch}: its rules for `{syscall}` need more tests than a filter can hold"
                )
    return tuple(sorted(rules, key=lambda rule: (rule.number, rule.tests, rule.value)))
