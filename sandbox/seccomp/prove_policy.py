"""A policy as a decision diagram: what its text says about every call.

Read from the rules as `decide` reads them, with conditions for bits, and with nothing of the way to the filter: no cubes, no classes, no trees, no
libseccomp. What the two ways share is the language itself: the value of a constant and the width of an argument
(`conditions.evaluate_value`, `conditions.locate_argument`). Pure; imported by `seccomp.prove` and tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import evaluate_value, locate_argument
from sandbox.policy.model import Action, AllOf, AnyOf, Condition, Membership, Operator, Outcome, SyscallPolicy, Value
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.prove_diagram import ARCH, FALSE, NUMBER, TRUE, WORD_BITS, Bits, Diagram

_NO_CALL = 0xFFFF_FFFF
_PLAIN: Mapping[Action, int] = {
    Action.ALLOW: bpf.RET_ALLOW,
    Action.LOG: bpf.RET_LOG,
    Action.TRAP: bpf.RET_TRAP,
    Action.KILL_PROCESS: bpf.RET_KILL_PROCESS,
}


def outcome_value(outcome: Outcome, *, notify: bool, answers: bool = False) -> int:
    """Return the value with which a filter gives an outcome; written anew here, so that the compiler's own can be wrong.

    Args:
        outcome: what the policy says.
        notify: whether a supervisor listens.
        answers: tell recorded refusals apart by the errno that the supervisor answers, which no filter returns; what it emulates has none.
    """
    if outcome.action is Action.NOTIFY and notify:
        return bpf.RET_USER_NOTIF + (outcome.errno if answers else 0)
    if outcome.action is Action.EMULATE:
        return bpf.RET_USER_NOTIF if notify else bpf.RET_ALLOW
    if outcome.action in (Action.NOTIFY, Action.ERRNO):
        return bpf.RET_ERRNO + outcome.errno
    return _PLAIN[outcome.action]


def policy_values(policy: SyscallPolicy, *, notify: bool, answers: bool = False) -> frozenset[int]:
    """Return every value that a policy may give."""
    outcomes = {policy.default}
    for entries in policy.rules.values():
        for entry in entries:
            outcomes |= {entry.rule.outcome, *([entry.rule.otherwise] if entry.rule.otherwise is not None else [])}
    return frozenset({bpf.RET_KILL_PROCESS, *(outcome_value(outcome, notify=notify, answers=answers) for outcome in outcomes)})


def policy_diagram(diagram: Diagram, policy: SyscallPolicy, arch: Arch, *, notify: bool, answers: bool = False) -> int:
    """Return the node of the function from calls to return values that a policy's text means.

    Args:
        diagram: where it is made.
        policy: the merged policy.
        arch: the architecture it is read for; calls of any other are killed.
        notify: see `outcome_value`.
        answers: see `outcome_value`.
    """

    def leaf(outcome: Outcome) -> int:
        return diagram.leaf(outcome_value(outcome, notify=notify, answers=answers))

    number_word = diagram.word(NUMBER)
    result = leaf(policy.default)
    for syscall, entries in policy.rules.items():
        number = syscall_number(arch, syscall)
        if number is None:
            continue
        decided = leaf(policy.default)
        for entry in reversed(entries):
            rule = entry.rule
            holds = TRUE if rule.condition is None else condition_diagram(diagram, rule.condition, syscall, arch)
            decided = diagram.choose(holds, leaf(rule.outcome), decided if rule.otherwise is None else leaf(rule.otherwise))
        result = diagram.choose(words.is_equal(diagram, number_word, _known(number)), decided, result)
    killed = diagram.leaf(bpf.RET_KILL_PROCESS)
    if arch is Arch.X86_64:
        x32 = words.is_greater(diagram, number_word, _known(X32_SYSCALL_BIT), or_equal=True)
        skipped = words.is_equal(diagram, number_word, _known(_NO_CALL))
        result = diagram.choose(diagram.both(x32, diagram.negate(skipped)), killed, result)
    return diagram.choose(words.is_equal(diagram, diagram.word(ARCH), _known(audit_arch(arch))), result, killed)


def _known(value: int) -> Bits:
    return words.known_bits(value, WORD_BITS)


def condition_diagram(diagram: Diagram, condition: Condition, syscall: str, arch: Arch) -> int:
    """Return the condition on the argument registers that a rule's `when` means.

    Args:
        diagram: where it is made.
        condition: a checked condition.
        syscall: whose signature sizes the arguments.
        arch: whose constants and argument order.
    """
    match condition:
        case AllOf():
            result = TRUE
            for part in condition.parts:
                result = diagram.both(result, condition_diagram(diagram, part, syscall, arch))
            return result
        case AnyOf():
            result = FALSE
            for part in condition.parts:
                result = diagram.either(result, condition_diagram(diagram, part, syscall, arch))
            return result
    index, width = locate_argument(condition, syscall, arch)
    kept = width if condition.mask is None else evaluate_value(condition.mask, arch, width)
    actual = tuple(bit if kept >> place & 1 else FALSE for place, bit in enumerate(diagram.register(index)))

    def equals(value: Value) -> int:
        return words.is_equal(diagram, actual, words.known_bits(evaluate_value(value, arch, width), len(actual)))

    if isinstance(condition, Membership):
        member = FALSE
        for value in condition.values:
            member = diagram.either(member, equals(value))
        return diagram.negate(member) if condition.negated else member
    expected = words.known_bits(evaluate_value(condition.value, arch, width), len(actual))
    match condition.operator:
        case Operator.EQ:
            return equals(condition.value)
        case Operator.NE:
            return diagram.negate(equals(condition.value))
        case Operator.GT:
            return words.is_greater(diagram, actual, expected, or_equal=False)
        case Operator.GE:
            return words.is_greater(diagram, actual, expected, or_equal=True)
        case Operator.LE:
            return diagram.negate(words.is_greater(diagram, actual, expected, or_equal=False))
        case Operator.LT:
            return diagram.negate(words.is_greater(diagram, actual, expected, or_equal=True))
