"""Sets of calls as disjoint cubes: the algebra behind the policy checks and the compiler.

A cube is a pair (care, value) of 384-bit integers, 64 bits for each of the six registers: the calls whose cared-for bits have the value. It is exactly
what masked-equality tests can say, so a set of disjoint cubes can be handed to libseccomp with no order among its rules left to matter.
Pure. Imported by `policy.merge` and `seccomp`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.abi.arch import Arch
from sandbox.policy.conditions import U64, ConditionError, evaluate_value, locate_argument
from sandbox.policy.model import AllOf, Comparison, Condition, Membership, Operator

Cube = tuple[int, int]
EVERYTHING: Cube = (0, 0)
_MAXIMUM_CUBES = 8192


def subtract_cube(cube: Cube, hole: Cube) -> list[Cube]:
    """Return disjoint cubes that make up `cube` less `hole`; at most one for each bit that the hole fixes and the cube leaves free."""
    care, value = cube
    hole_care, hole_value = hole
    if (value ^ hole_value) & care & hole_care:
        return [cube]
    pieces: list[Cube] = []
    free = hole_care & ~care
    # Register 0 first, and in it from the top bit down: what is left of one call then is the leaves of a tree over registers and prefixes.
    for index in range(6):
        rest = free >> (64 * index) & U64
        while rest:
            top = 1 << (rest.bit_length() - 1)
            rest ^= top
            bit = top << (64 * index)
            pieces.append((care | bit, value | (~hole_value & bit)))
            care |= bit
            value |= hole_value & bit
    return pieces


def subtract(cubes: Iterable[Cube], holes: Iterable[Cube]) -> list[Cube]:
    """Return disjoint cubes of the first set without the second; the first must be disjoint.

    Raises:
        ConditionError: the result has too many pieces to become a filter.
    """
    rest = list(cubes)
    for hole in holes:
        rest = [piece for cube in rest for piece in subtract_cube(cube, hole)]
        if len(rest) > _MAXIMUM_CUBES:
            raise ConditionError("condition is too complex to become a filter")
    return rest


def intersect(left: Iterable[Cube], right: Iterable[Cube]) -> list[Cube]:
    """Return the common part of two sets, disjoint if both are."""
    others = list(right)
    result = [
        (care | other_care, value | other_value)
        for care, value in left
        for other_care, other_value in others
        if not (value ^ other_value) & care & other_care
    ]
    if len(result) > _MAXIMUM_CUBES:
        raise ConditionError("condition is too complex to become a filter")
    return result


def union(left: list[Cube], right: list[Cube]) -> list[Cube]:
    """Return disjoint cubes of both sets, each of which is disjoint."""
    return left + subtract(right, left)


def register_cube(index: int, care: int, value: int) -> Cube:
    """Return the cube of the calls whose register `index` has `value` in the `care` bits."""
    return care << (64 * index), (value & care) << (64 * index)


def register_of(cube: Cube, index: int) -> Cube:
    """Return (care, value) of one register, 64 bits each."""
    return cube[0] >> (64 * index) & U64, cube[1] >> (64 * index) & U64


def _below(index: int, bound: int, width: int) -> list[Cube]:
    """Return the cubes of the values less than `bound`: one for each set bit, the prefixes that leave the bound's path to the left."""
    pieces: list[Cube] = []
    for position in range(width.bit_length()):
        bit = 1 << position
        if bound & bit:
            pieces.append(register_cube(index, width & ~(bit - 1), bound ^ bit))
    return pieces


def condition_cubes(condition: Condition, syscall: str, arch: Arch) -> list[Cube]:
    """Return disjoint cubes of the calls for which a condition holds.

    Args:
        condition: parsed condition.
        syscall: the syscall whose signature names and sizes the arguments. Bits that the kernel drops are in no cube.
        arch: whose constants and argument order.

    Raises:
        ConditionError: an unknown argument or constant, a value that does not fit, or too complex.
    """
    match condition:
        case Comparison() | Membership():
            return _leaf_cubes(condition, syscall, arch)
        case AllOf():
            result = [EVERYTHING]
            for part in condition.parts:
                result = intersect(result, condition_cubes(part, syscall, arch))
            return result
    result = []
    for part in condition.parts:
        result = union(result, condition_cubes(part, syscall, arch))
    return result


def _leaf_cubes(leaf: Comparison | Membership, syscall: str, arch: Arch) -> list[Cube]:
    index, width = locate_argument(leaf, syscall, arch)
    mask = width if leaf.mask is None else evaluate_value(leaf.mask, arch, width)
    if isinstance(leaf, Membership):
        points = {evaluate_value(value, arch, width): value for value in leaf.values}
        if len(points) < len(leaf.values):
            raise ConditionError(f"condition lists a value of `{leaf.argument}` twice")
        negated = leaf.negated
    else:
        expected = evaluate_value(leaf.value, arch, width)
        if leaf.operator not in (Operator.EQ, Operator.NE):
            below = _below(index, expected, width)
            point = [register_cube(index, width, expected)]
            match leaf.operator:
                case Operator.LT:
                    return below
                case Operator.LE:
                    return below + point
                case Operator.GE:
                    return subtract([EVERYTHING], below)
                case _:
                    return subtract([EVERYTHING], below + point)
        points = {expected: leaf.value}
        negated = leaf.operator is Operator.NE
    for number, value in points.items():
        if number & ~mask:
            text = leaf.mask.text if leaf.mask is not None else ""
            raise ConditionError(f"value `{value.text}` has bits outside the mask `{text}`, so it can never be equal")
    cubes = [register_cube(index, mask, number) for number in points]
    return subtract([EVERYTHING], cubes) if negated else cubes
