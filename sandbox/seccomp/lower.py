"""Policy → rules that libseccomp cannot read in two ways: disjoint masked-equality tests, as plain values.

Between the policy's meaning (first match wins) and libseccomp's (a syscall's rules form a set, and all calls without a rule get one default) stands a
tree for each syscall: at each register, alternatives of which exactly one holds. Each branch becomes a *unit*, a small filter of its own, whose default
is whichever alternative would need the most tests: `resource != RLIMIT_CORE` is one test for equality, not 32 for the ways to differ.
`link.py` puts the units together. Pure; the prover does not look here.
"""

from __future__ import annotations

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import CompileError
from sandbox.policy.check import entry_outcome, entry_registers
from sandbox.policy.cubes import Cube, Leaf, join
from sandbox.policy.model import Action, Outcome, SyscallPolicy
from sandbox.record import dataclass
from sandbox.seccomp import evaluate
from sandbox.seccomp.filter import MAXIMUM_INSTRUCTIONS

_RET_TRACE = 0x7FF0_0000

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
        notify: whether a supervisor listens; if not, `notify` becomes a plain errno in the kernel, and what would be emulated is allowed.
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
        case Action.EMULATE:
            return evaluate.RET_USER_NOTIF if notify else evaluate.RET_ALLOW
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


class Link:
    """Values with which a unit says "as unit n decides". They are SECCOMP_RET_TRACE, which no policy can ask for."""

    @staticmethod
    def value(unit: int) -> int:
        """Return the value that stands for a unit."""
        return _RET_TRACE | unit

    @staticmethod
    def unit(value: int) -> int | None:
        """Return which unit a value stands for, None for a filter's own return value."""
        return value & 0xFFFF if value & 0xFFFF_0000 == _RET_TRACE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One filter for libseccomp. Unit 0 tells numbers apart and no arguments; every other tests one register of calls of number 0."""

    default: int
    rules: tuple[NumberRule, ...]


def lower_policy(policy: SyscallPolicy, arch: Arch, notify: bool) -> tuple[Unit, ...]:
    """Return the units of a filter; the first decides by number, and what no rule of it names gets the policy's default.

    Raises:
        CompileError: more rules than a filter can hold.
    """
    default = return_value(policy.default, notify)
    numbers: list[NumberRule] = []
    units: list[Unit] = []
    places: dict[Tree, int] = {}
    made = 0

    def place(tree: Tree) -> int:
        """Return the value for a tree, making its units first; equal trees are made once."""
        nonlocal made
        if isinstance(tree, int):
            return tree
        if tree not in places:
            # max takes the first of equals, and the ways have a fixed order.
            rest = max(tree.ways, key=lambda way: len(way[0]))
            rules = [
                NumberRule(number=0, tests=((tree.index, care, wanted),), value=value)
                for way in tree.ways
                if way is not rest
                for value in (place(way[1]),)
                for care, wanted in way[0]
            ]
            units.append(Unit(default=place(rest[1]), rules=tuple(sorted(rules, key=lambda rule: rule.tests))))
            made += len(rules)
            places[tree] = len(units)
        return Link.value(places[tree])

    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue  # a call of the other architecture only
        value = place(decision_tree(policy, syscall, arch, notify))
        if value != default:
            numbers.append(NumberRule(number=number, tests=(), value=value))
        if made + len(numbers) > MAXIMUM_INSTRUCTIONS:
            raise CompileError(
                f"compile policy `{policy.name}` for {arch}: its rules for `{syscall}` need more tests than a filter can hold"
            )
    return (Unit(default=default, rules=tuple(sorted(numbers, key=lambda rule: rule.number))), *units)
