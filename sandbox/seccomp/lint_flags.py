"""Refusals of one value of an argument that has flags: ``type == SOCK_RAW`` does not refuse ``SOCK_RAW | SOCK_CLOEXEC``.

Pure; imported by `lint.py` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.constants import decode_argument, flag_fields
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import evaluate_value, leaves, locate_argument
from sandbox.policy.cubes import Cube, Leaf, intersect
from sandbox.policy.model import Comparison, Entry, Operator, SyscallPolicy
from sandbox.seccomp.explain import Case, cases, is_permitted
from sandbox.seccomp.prove import Call

_EVERYTHING: Sequence[Cube] = ((0, 0),)


def refused_values(policy: SyscallPolicy, syscall: str, entries: Iterable[Entry], arch: Arch) -> Iterator[tuple[Entry, str]]:
    """Yield the rules that refuse a value, where the same call with a flag more is permitted; with the sentence that says so.

    Args:
        policy: a merged policy, checked.
        syscall: one of the architecture's.
        entries: the policy's for it.
        arch: whose constants and argument order.
    """
    found: tuple[Case, ...] = ()
    for entry in entries:
        for leaf in leaves(entry.rule.condition) if entry.rule.condition is not None else ():
            index, width = locate_argument(leaf, syscall, arch)
            fields = flag_fields(syscall, leaf.argument, arch)
            if fields is None or leaf.mask is not None or leaf.register or not _is_equality(leaf):
                continue
            found = found or cases(policy, arch, syscall)
            refusing = [case for case in found if case.entry is entry and not is_permitted(case.outcome)]
            for value in (leaf.value,) if isinstance(leaf, Comparison) else leaf.values:
                number = evaluate_value(value, arch, width)
                wider = (width & ~(fields[1] & ~number), number)  # the value with any flags more
                box = _way_round(refusing, [case for case in found if is_permitted(case.outcome)], index, (width, number), wider)
                if number and box is not None:
                    shown = decode_argument(arch, syscall, index, number)
                    yield entry, f"`{leaf.argument}` of `{syscall}` may not be {shown}, but where a flag is added it may, as in `{_call(box, syscall, arch)}`"
                    return


def _is_equality(leaf: Leaf) -> bool:
    return not isinstance(leaf, Comparison) or leaf.operator in (Operator.EQ, Operator.NE)


def _way_round(refusing: list[Case], permitting: list[Case], index: int, exact: Cube, wider: Cube) -> Mapping[int, Sequence[Cube]] | None:
    """Return permitted calls that differ from refused ones with a value in nothing but flags that are added to it."""
    for refused in (box for case in refusing for box in case.boxes):
        if not intersect(refused.get(index, _EVERYTHING), [exact]):
            continue
        for permitted in (box for case in permitting for box in case.boxes):
            common = {at: intersect(refused.get(at, _EVERYTHING), permitted.get(at, _EVERYTHING)) for at in {*refused, *permitted} - {index}}
            common[index] = intersect(permitted.get(index, _EVERYTHING), [wider])
            if all(common.values()):
                return common
    return None


def _call(box: Mapping[int, Sequence[Cube]], syscall: str, arch: Arch) -> Call:
    number = syscall_number(arch, syscall)
    assert number is not None
    registers = tuple(min((value for _, value in box.get(at, _EVERYTHING)), key=int.bit_count) for at in range(6))
    return Call(arch=arch, arch_word=audit_arch(arch), number=number, arguments=registers)


def field_advice(entry: Entry, syscall: str, arch: Arch) -> str:
    """Return how to compare what a rule means: the field of bits that holds one value, or the single flags."""
    assert entry.rule.condition is not None
    for leaf in leaves(entry.rule.condition):
        if (fields := flag_fields(syscall, leaf.argument, arch)) is not None and leaf.mask is None:
            if fields[0]:
                return f"compare the bits that hold the value, `{leaf.argument} & {fields[0]:#x}`"
            return f"ask for the flags one by one, as in `{leaf.argument} & FLAG != 0`"
    return "compare with a mask"

