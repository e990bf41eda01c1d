"""Policy → rules that libseccomp cannot read in two ways: disjoint masked-equality tests, as plain values.

Between the policy's meaning (first match wins) and libseccomp's (rules of a syscall form a set) stands this table: for each syscall number, tests of which
at most one holds for any call, arranged as a tree over the registers. Pure; the prover will start from here too.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.check import outcome_cubes
from sandbox.policy.cubes import EVERYTHING, Cube, intersect, register_cube, register_of, subtract, subtract_cube
from sandbox.policy.model import Action, Outcome, SyscallPolicy
from sandbox.seccomp import evaluate

Test = tuple[int, int, int]
"""register index, mask, value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRule:
    """One rule for libseccomp: a call of `number` for which every test holds returns `value`."""

    number: int
    tests: tuple[Test, ...]
    value: int


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


def partition(policy: SyscallPolicy, syscall: str, arch: Arch, notify: bool) -> dict[int, list[Cube]]:
    """Return the calls of a syscall by the value that the filter returns for them; together the disjoint sets cover every call."""
    result: dict[int, list[Cube]] = {}
    rest = [EVERYTHING]
    for entry in policy.rules[syscall]:
        for outcome, cubes in outcome_cubes(entry, syscall, arch):
            result.setdefault(return_value(outcome, notify), []).extend(intersect(rest, cubes))
        rest = subtract(rest, [cube for _, cubes in outcome_cubes(entry, syscall, arch) for cube in cubes])
        if not rest:
            break
    return {value: _join(cubes) for value, cubes in result.items() if cubes}


def lower_policy(policy: SyscallPolicy, arch: Arch, notify: bool) -> tuple[NumberRule, ...]:
    """Return every rule of a filter, ordered by number; whatever they leave gets the policy's default."""
    default = return_value(policy.default, notify)
    rules: list[NumberRule] = []
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue  # a call of the other architecture only
        values = partition(policy, syscall, arch, notify)
        if len(values) == 1:
            (value,) = values
            if value != default:
                rules.append(NumberRule(number=number, tests=(), value=value))
            continue
        pieces = [(cube, value) for value, cubes in sorted(values.items()) if value != default for cube in cubes]
        rules += [NumberRule(number=number, tests=tests, value=value) for tests, value in _paths(pieces, 0)]
    return tuple(sorted(rules, key=lambda rule: (rule.number, rule.tests, rule.value)))


def _join(cubes: list[Cube]) -> list[Cube]:
    """Return the same set in fewer cubes: two that differ in one cared-for bit become one, until none do."""
    pending = sorted(set(cubes))
    found = set(pending)
    while pending:
        cube = pending.pop()
        if cube not in found:
            continue
        care, value = cube
        bits = care
        while bits:
            bit = bits & -bits
            bits ^= bit
            if (care, value ^ bit) in found:
                found -= {cube, (care, value ^ bit)}
                joined = (care ^ bit, value & ~bit)
                found.add(joined)
                pending.append(joined)
                break
    return sorted(found)


def _paths(pieces: list[tuple[Cube, int]], index: int) -> list[tuple[tuple[Test, ...], int]]:
    """Return a tree of tests, as its paths: at each register, alternatives of which at most one holds.

    libseccomp tests registers in ascending order. As siblings never overlap, it does not matter whether it would come back to try the next.
    """
    while index < 6 and all(register_of(cube, index)[0] == 0 for cube, _ in pieces):
        index += 1
    if index == 6:
        # Disjoint pieces that no register tells apart are one piece.
        return [((), pieces[0][1])] if pieces else []
    alternatives: list[Cube] = []
    for projection in sorted({register_of(cube, index) for cube, _ in pieces}):
        shifted = register_cube(index, *projection)
        fresh = [shifted]
        refined: list[Cube] = []
        for other in alternatives:
            common = intersect([other], [shifted])
            if common:
                refined += common + subtract_cube(other, shifted)
                fresh = subtract(fresh, [other])
            else:
                refined.append(other)
        alternatives = refined + fresh
    keep = ~(((1 << 64) - 1) << (64 * index))
    result: list[tuple[tuple[Test, ...], int]] = []
    for alternative in sorted(alternatives):
        inner = [
            ((cube[0] & keep, cube[1] & keep), value)
            for cube, value in pieces
            if not (cube[1] ^ alternative[1]) & cube[0] & alternative[0] & (((1 << 64) - 1) << (64 * index))
        ]
        care, wanted = register_of(alternative, index)
        test = ((index, care, wanted),) if care else ()
        result += [(test + tests, value) for tests, value in _paths(inner, index + 1)]
    return result
