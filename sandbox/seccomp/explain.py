"""Which rule decides which calls, and what the calls have in common: the cases of a syscall, by meaning.

A case is a rule's branch that some call reaches, with what is left of its condition once the given arguments are known. Found exactly, from the classes
into which all comparisons cut the registers (`policy.cubes`); each case has an example call, which is asked of `decide` too. Pure. Imported by
the policy tools and tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError
from sandbox.policy.check import entry_registers
from sandbox.policy.cubes import Cube, Leaf, Register, RegisterClass, is_true
from sandbox.policy.model import (
    PERMITTING,
    Action,
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Entry,
    Membership,
    Outcome,
    RuleRef,
    SyscallPolicy,
)
from sandbox.record import dataclass
from sandbox.seccomp.decide import decide
from sandbox.seccomp.shape import CallShape, example_arguments

Boxes = tuple[dict[int, tuple[Cube, ...]], ...]
"""A set of calls: a union of products of register sets; registers that are not named are free."""

_EVERYTHING: Cube = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Calls that one branch of one rule decides.

    `entry` is None where the default applies, or where no policy is asked (`foreign`: x32 and other architectures, which kill). `condition` is what is left
    of the rule's condition, empty where every remaining call matches; `otherwise` tells that these are the calls for which it does not hold. `arguments`
    are six registers of an example, `boxes` all of the calls.
    """

    outcome: Outcome
    ref: RuleRef | None
    entry: Entry | None
    condition: str
    otherwise: bool
    arguments: tuple[int, ...]
    boxes: Boxes
    foreign: bool = False


def cases(policy: SyscallPolicy, arch: Arch, syscall: str, fixed: Mapping[int, Cube] | None = None) -> tuple[Case, ...]:
    """Return the cases of a syscall, in the order in which rules are tried; the first that matches a call decides it.

    Args:
        policy: a merged policy, checked.
        arch: whose constants and argument order.
        syscall: a name of that architecture.
        fixed: what is known of the registers; others may have any value.

    Raises:
        PolicyError: the conditions are too complex together.
    """
    known = dict(fixed or {})
    entries = policy.rules.get(syscall, ())
    if not entries:
        return (_default(policy, known),)
    registers = [_narrow(register, known.get(register.index, _EVERYTHING)) for register in entry_registers(entries, syscall, arch)]
    settled = _settled(registers)
    found: dict[tuple[int, bool], list[tuple[RegisterClass, ...]]] = {}
    for chosen in _choices(registers):
        truths = {leaf: truth for each in chosen for leaf, truth in each.truths.items()}
        for position, entry in enumerate(entries):
            rule = entry.rule
            holds = rule.condition is None or is_true(rule.condition, truths)
            if holds or rule.otherwise is not None:
                found.setdefault((position, holds), []).append(chosen)
                break
    number = syscall_number(arch, syscall)
    result = []
    for (position, holds), members in sorted(found.items(), key=lambda item: (item[0][0], not item[0][1])):
        entry = entries[position]
        left = _simplify(entry.rule.condition, settled) if entry.rule.condition is not None else True
        outcome = entry.rule.outcome if holds else entry.rule.otherwise
        assert outcome is not None
        boxes: Boxes = tuple(
            {index: (cube,) for index, cube in known.items()} | {one.index: each.cubes for one, each in zip(registers, chosen, strict=True)}
            for chosen in members
        )
        arguments = min((_example(box) for box in boxes), key=lambda values: [value.bit_count() for value in values])
        decided = decide(policy, arch, number, arguments) if number is not None else None
        if decided is not None and (decided.rule != entry.ref or (decided.action, decided.errno) != (outcome.action, outcome.errno)):
            raise InternalError(f"explaining `{syscall}`: the cases and the policy's text disagree for {arguments}")
        condition = "" if isinstance(left, bool) else render_condition(left)
        result.append(
            Case(
                outcome=outcome, ref=entry.ref, entry=entry, condition=condition, otherwise=not holds and bool(condition), arguments=arguments,
                boxes=boxes,
            )
        )  # fmt: skip
    return tuple(result)


def explain_shape(policy: SyscallPolicy, shape: CallShape) -> tuple[Case, ...]:
    """Return the cases of the calls that a text means; see `cases`."""
    if shape.foreign:
        killed = Outcome(action=Action.KILL_PROCESS)
        boxes: Boxes = ({index: (cube,) for index, cube in shape.fixed.items()},)
        return (
            Case(
                outcome=killed, ref=None, entry=None, condition="", otherwise=False, arguments=example_arguments(shape.fixed), boxes=boxes,
                foreign=True,
            ),
        )  # fmt: skip
    if shape.syscall is None:
        return (_default(policy, shape.fixed),)
    return cases(policy, shape.arch, shape.syscall, shape.fixed)


def _default(policy: SyscallPolicy, known: dict[int, Cube]) -> Case:
    boxes: Boxes = ({index: (cube,) for index, cube in known.items()},)
    return Case(
        outcome=policy.default, ref=policy.default_ref, entry=None, condition="", otherwise=False, arguments=example_arguments(known),
        boxes=boxes,
    )  # fmt: skip


def _narrow(register: Register, known: Cube) -> Register:
    """Return a register's classes as far as they have values that may occur."""
    classes = []
    for each in register.classes:
        cubes = tuple(
            (care | known[0], value | known[1]) for care, value in each.cubes if not (value ^ known[1]) & care & known[0]
        )  # fmt: skip
        if cubes:
            classes.append(RegisterClass(truths=each.truths, cubes=cubes))
    return Register(index=register.index, classes=tuple(classes))


def _settled(registers: list[Register]) -> dict[Leaf, bool]:
    """Return the comparisons whose truth is the same for every call that may occur."""
    result: dict[Leaf, bool] = {}
    for register in registers:
        for leaf in register.classes[0].truths:
            truths = {each.truths[leaf] for each in register.classes}
            if len(truths) == 1:
                result[leaf] = truths.pop()
    return result


def _choices(registers: list[Register]) -> list[tuple[RegisterClass, ...]]:
    result: list[tuple[RegisterClass, ...]] = [()]
    for register in registers:
        result = [(*chosen, each) for chosen in result for each in register.classes]
    return result


def _example(box: Mapping[int, tuple[Cube, ...]]) -> tuple[int, ...]:
    """Return the registers of the call whose set bits are fewest."""
    return tuple(
        min((value for _, value in box.get(index, (_EVERYTHING,))), key=lambda value: (value.bit_count(), value)) for index in range(6)
    )


def _simplify(condition: Condition, settled: Mapping[Leaf, bool]) -> Condition | bool:
    """Return what is left of a condition when some comparisons are known."""
    if not isinstance(condition, (AllOf, AnyOf)):
        return settled.get(condition, condition)
    absorbing = isinstance(condition, AnyOf)
    left: list[Condition] = []
    for part in condition.parts:
        rest = _simplify(part, settled)
        if rest is absorbing:
            return absorbing
        if not isinstance(rest, bool):
            left.append(rest)
    if not left:
        return not absorbing
    return left[0] if len(left) == 1 else type(condition)(parts=tuple(left))


def render_condition(condition: Condition) -> str:
    """Return a condition in the language's own form."""
    match condition:
        case AllOf() | AnyOf():
            word = " and " if isinstance(condition, AllOf) else " or "
            return word.join(
                f"({render_condition(part)})" if isinstance(part, (AllOf, AnyOf)) else render_condition(part) for part in condition.parts
            )
        case Comparison():
            return f"{_subject(condition)} {condition.operator} {condition.value.text}"
        case Membership():
            listed = ", ".join(value.text for value in condition.values)
            return f"{_subject(condition)} {'not in' if condition.negated else 'in'} {{{listed}}}"


def _subject(leaf: Leaf) -> str:
    subject = f"register({leaf.argument})" if leaf.register else leaf.argument
    return f"{subject} & {leaf.mask.text}" if leaf.mask is not None else subject


def outcome_text(outcome: Outcome) -> str:
    """Return an outcome in the policy language's words, as ``errno EPERM``; whether it is recorded is `is_recorded`'s."""
    if outcome.action in (Action.ERRNO, Action.NOTIFY):
        import errno

        return f"errno {errno.errorcode.get(outcome.errno, outcome.errno)}"
    return str(outcome.action)


def is_recorded(outcome: Outcome) -> bool | None:
    """Tell whether the supervisor records a refused call; None for what is not refused by an errno."""
    return outcome.action is Action.NOTIFY if outcome.action in (Action.ERRNO, Action.NOTIFY) else None


def is_permitted(outcome: Outcome) -> bool:
    """Tell whether the call is made, or answered as if it were."""
    return outcome.action in PERMITTING
