"""Sets of register values as disjoint cubes, and the classes into which conditions cut a register.

A cube is a pair (care, value) of 64-bit integers: the register values whose cared-for bits equal `value`. It is exactly what a masked-equality test
can say. A condition looks at a register only through its comparisons; values on which all comparisons agree form a class, and a policy treats every
call of the same classes alike. So what a policy does can be enumerated exactly, without sampling. Pure. Imported by `policy.check` and `seccomp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product

from sandbox.abi.arch import Arch
from sandbox.policy.conditions import ConditionError, evaluate_value, leaves, locate_argument
from sandbox.policy.model import AllOf, AnyOf, Comparison, Condition, Membership, Operator
from sandbox.record import dataclass

Cube = tuple[int, int]
Leaf = Comparison | Membership
Truths = Mapping[Leaf, bool]
EVERYTHING: Cube = (0, 0)
_MAXIMUM_CUBES = 4096
_MAXIMUM_COMBINATIONS = 16384
_MAXIMUM_WORK = 8_000_000
"""Cubes and comparisons that may be looked at for one policy: two seconds or so. Shipped ones need some ten thousand."""

_work: ContextVar[list[int] | None] = ContextVar("work", default=None)


@contextmanager
def limited_work(most: int = _MAXIMUM_WORK) -> Iterator[None]:
    """Refuse policies that would take minutes: `ConditionError` once so much has been looked at within the block, or in the block around it."""
    if _work.get() is not None:
        yield
        return
    token = _work.set([most])
    try:
        yield
    finally:
        _work.reset(token)


def _spend(units: int) -> None:
    left = _work.get()
    if left is not None:
        left[0] -= units
        if left[0] < 0:
            raise ConditionError("conditions are together too complex to become a filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterClass:
    """Values of one register on which every comparison agrees; `cubes` are disjoint and not empty."""

    truths: Truths
    cubes: tuple[Cube, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """One register that conditions look at, and its classes, which together are all its values."""

    index: int
    classes: tuple[RegisterClass, ...]


def subtract_cube(cube: Cube, hole: Cube) -> list[Cube]:
    """Return disjoint cubes that make up `cube` less `hole`; at most one for each bit that the hole fixes and the cube leaves free."""
    care, value = cube
    hole_care, hole_value = hole
    if (value ^ hole_value) & care & hole_care:
        return [cube]
    pieces: list[Cube] = []
    free = hole_care & ~care
    while free:
        # From the top bit down, so that what is left around one value is the leaves of its prefix tree.
        bit = 1 << (free.bit_length() - 1)
        pieces.append((care | bit, value | (~hole_value & bit)))
        care |= bit
        value |= hole_value & bit
        free ^= bit
    return pieces


def subtract(cubes: Iterable[Cube], holes: Iterable[Cube]) -> list[Cube]:
    """Return disjoint cubes of the first set without the second; the first must be disjoint.

    Raises:
        ConditionError: the result has too many pieces to become a filter.
    """
    rest = list(cubes)
    for hole in holes:
        _spend(len(rest))
        rest = [piece for cube in rest for piece in subtract_cube(cube, hole)]
        _limit(rest)
    return rest


def intersect(left: Iterable[Cube], right: Iterable[Cube]) -> list[Cube]:
    """Return the common part of two sets, disjoint if both are."""
    others, left = list(right), list(left)
    _spend(len(left) * len(others))
    result = [
        (care | other_care, value | other_value)
        for care, value in left
        for other_care, other_value in others
        if not (value ^ other_value) & care & other_care
    ]
    _limit(result)
    return result


def _limit(cubes: list[Cube]) -> None:
    if len(cubes) > _MAXIMUM_CUBES:
        raise ConditionError("condition is too complex to become a filter")


def join(cubes: Iterable[Cube]) -> tuple[Cube, ...]:
    """Return the same set in fewer cubes, sorted: two that differ in one cared-for bit become one, until none do."""
    found = set(cubes)
    pending = sorted(found)
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
    return tuple(sorted(found))


def _below(bound: int, width: int) -> list[Cube]:
    """Return the cubes of the values less than `bound`: one for each of its set bits, the prefix that turns off there."""
    bits = (1 << position for position in range(width.bit_length()))
    return [(width & ~(bit - 1), bound & ~(bit - 1) ^ bit) for bit in bits if bound & bit]


def leaf_cubes(leaf: Leaf, syscall: str, arch: Arch) -> list[Cube]:
    """Return disjoint cubes of the values of its register for which one comparison holds.

    Args:
        leaf: the comparison.
        syscall: whose signature sizes the argument; bits that the kernel drops are in no cube.
        arch: whose constants and argument order.

    Raises:
        ConditionError: an unknown argument or constant, or a value that does not fit.
    """
    _, width = locate_argument(leaf, syscall, arch)
    mask = width if leaf.mask is None else evaluate_value(leaf.mask, arch, width)
    if isinstance(leaf, Membership):
        points = {evaluate_value(value, arch, width): value for value in leaf.values}
        if len(points) < len(leaf.values):
            raise ConditionError(f"condition lists a value of `{leaf.argument}` twice")
        negated = leaf.negated
    else:
        expected = evaluate_value(leaf.value, arch, width)
        match leaf.operator:
            case Operator.LT:
                return _below(expected, width)
            case Operator.LE:
                return [*_below(expected, width), (width, expected)]
            case Operator.GE:
                return subtract([EVERYTHING], _below(expected, width))
            case Operator.GT:
                return subtract([EVERYTHING], [*_below(expected, width), (width, expected)])
        points = {expected: leaf.value}
        negated = leaf.operator is Operator.NE
    for number, value in points.items():
        if number & ~mask:
            text = leaf.mask.text if leaf.mask is not None else ""
            raise ConditionError(f"value `{value.text}` has bits outside the mask `{text}`, so it can never be equal")
    cubes = [(mask, number) for number in points]
    return subtract([EVERYTHING], cubes) if negated else cubes


def classify_registers(conditions: Iterable[Condition], syscall: str, arch: Arch) -> tuple[Register, ...]:
    """Return the registers that conditions look at, in ascending order, each cut into its classes.

    Args:
        conditions: all conditions of a syscall's rules.
        syscall: the call's name.
        arch: whose constants and argument order.

    Raises:
        ConditionError: as `leaf_cubes`; or too complex.
    """
    by_register: dict[int, dict[Leaf, list[Cube]]] = {}
    for condition in conditions:
        for leaf in leaves(condition):
            index, _ = locate_argument(leaf, syscall, arch)
            by_register.setdefault(index, {}).setdefault(leaf, leaf_cubes(leaf, syscall, arch))
    result = []
    for index, sets in sorted(by_register.items()):
        classes: list[tuple[dict[Leaf, bool], Iterable[Cube]]] = [({}, [EVERYTHING])]
        for leaf, inside in sets.items():
            cut: list[tuple[dict[Leaf, bool], Iterable[Cube]]] = []
            for truths, cubes in classes:
                _spend(len(truths) + 10)
                for truth, part in ((True, intersect(cubes, inside)), (False, subtract(cubes, inside))):
                    if part:
                        cut.append(({**truths, leaf: truth}, join(part)))
            classes = cut
            if len(classes) > _MAXIMUM_COMBINATIONS:
                raise ConditionError("condition is too complex to become a filter")
        result.append(Register(index=index, classes=tuple(RegisterClass(truths=truths, cubes=tuple(cubes)) for truths, cubes in classes)))
    return tuple(result)


def combinations(registers: Iterable[Register]) -> Iterator[dict[Leaf, bool]]:
    """Yield the truths of every comparison, once for each combination of classes: every way in which calls can differ.

    Raises:
        ConditionError: there are too many to enumerate.
    """
    choices = [register.classes for register in registers]
    total = 1
    for classes in choices:
        total *= len(classes)
    if total > _MAXIMUM_COMBINATIONS:
        raise ConditionError("condition is too complex to become a filter")
    comparisons = sum(len(classes[0].truths) for classes in choices)
    for combination in product(*choices):
        _spend(4 * comparisons + 20)
        yield {leaf: truth for chosen in combination for leaf, truth in chosen.truths.items()}


def is_true(condition: Condition, truths: Truths) -> bool:
    """Tell whether a condition holds, given the truth of each of its comparisons."""
    match condition:
        case AllOf():
            return all(is_true(part, truths) for part in condition.parts)
        case AnyOf():
            return any(is_true(part, truths) for part in condition.parts)
        case _:
            return truths[condition]
