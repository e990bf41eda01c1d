"""System calls to try a policy with: every comparison both ways, its bounds, every bit it looks at, and what the kernel drops. Only tests import this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import evaluate_value, leaves, locate_argument, values
from sandbox.policy.cubes import Leaf
from sandbox.policy.model import SyscallPolicy

Arguments = tuple[int, ...]
_U64 = (1 << 64) - 1
_DROPPED = (1 << 32, 1 << 63, 0xFFFF_FFFF << 32)
_BASES = 24
"""How many settings of the other registers each value is tried with."""


def conditional_leaves(policy: SyscallPolicy, syscall: str) -> list[Leaf]:
    """Return every comparison that a syscall's rules make."""
    conditions = [entry.rule.condition for entry in policy.rules[syscall] if entry.rule.condition is not None]
    return [leaf for condition in conditions for leaf in leaves(condition)]


def _points(leaf: Leaf, syscall: str, arch: Arch) -> tuple[int, set[int], set[int]]:
    """Return (register, plain values, all values to try) of a comparison."""
    index, width = locate_argument(leaf, syscall, arch)
    named = [evaluate_value(value, arch, width) for value in values(leaf)]
    plain = {0, *named}
    tried = {0, width, _U64}
    for value in named:
        tried |= {(value + step) & _U64 for step in (-1, 0, 1)} | {value ^ 1 << bit for bit in range(width.bit_length())}
        tried |= {value | upper for upper in _DROPPED}
    return index, plain, tried


def calls_of(policy: SyscallPolicy, syscall: str, arch: Arch, answer: Callable[[Arguments], object]) -> Iterator[Arguments]:
    """Yield arguments for one syscall; those of calls without conditions are a plain and a garbage set.

    Args:
        policy: the policy.
        syscall: one of its syscalls.
        arch: whose numbers, constants and widths.
        answer: what a filter says of arguments: settings of the other registers under which a register makes a difference are preferred.
    """
    yield (0,) * 6
    yield (_U64,) * 6
    plain: dict[int, set[int]] = {}
    tried: dict[int, set[int]] = {}
    for leaf in conditional_leaves(policy, syscall):
        index, some, more = _points(leaf, syscall, arch)
        plain.setdefault(index, set()).update(some)
        tried.setdefault(index, set()).update(more)
    for index, candidates in tried.items():
        others = [sorted(plain[at]) if at in plain and at != index else [0] for at in range(6)]
        bases: dict[object, list[Arguments]] = {}
        for base in product(*others):
            probes = tuple(answer((*base[:index], value, *base[index + 1 :])) for value in sorted(plain[index]))
            bases.setdefault(probes, []).append(base)
        # A few settings of every kind of answer, so that no kind is left out and no kind fills the list.
        share = max(2, _BASES // len(bases))
        for base in (base for kind in bases.values() for base in kind[:share]):
            yield from ((*base[:index], value, *base[index + 1 :]) for value in sorted(candidates))


def numbers_of(policy: SyscallPolicy, arch: Arch) -> dict[int, str]:
    """Return the numbers that a policy names on an architecture, with their syscalls."""
    return {number: syscall for syscall in policy.rules if (number := syscall_number(arch, syscall)) is not None}
