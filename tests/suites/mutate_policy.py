"""Every way to spoil one word of a policy's text after its filter was made, and whether the prover notices that the two no longer agree.

A mutant changes one rule as it applies to one syscall: its action or errno, what the others get, a comparison's operator, mask, value or argument, `and`
or `or`, the order of rules, a rule left out; or the policy's default. Those that the prover calls equal are decided by the text's own reading
(`decide`) around every value that either text names.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from sandbox.abi.arch import Arch
from sandbox.abi.signatures import signature
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import ConditionError, condition_values
from sandbox.policy.model import Action, AllOf, AnyOf, Comparison, Condition, Entry, Membership, Operator, Outcome, SyscallPolicy, Value
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import decode, run_program
from sandbox.seccomp.prove import PolicyDecider
from sandbox.seccomp.prove_diagram import Diagram
from sandbox.seccomp.prove_policy import outcome_value, policy_diagram, policy_values
from sandbox.seccomp.prove_program import SymbolicProgram, returned_values

_U64 = (1 << 64) - 1


def _outcomes(outcome: Outcome) -> Iterator[Outcome]:
    other = errno.EACCES if outcome.errno != errno.EACCES else errno.EPERM
    choices = [Outcome(action=action) for action in (Action.ALLOW, Action.LOG, Action.TRAP, Action.KILL_PROCESS)]
    choices += [
        Outcome(action=action, errno=number) for action in (Action.ERRNO, Action.NOTIFY) for number in (outcome.errno or other, other)
    ]
    yield from (choice for choice in choices if choice != outcome)


def _values(value: Value) -> Iterator[Value]:
    for text, more in (("+1", (1, "|")), ("-", ("-",)), ("~", ("~",)), ("| 0x80000000", (0x8000_0000, "|")), ("| 1 << 32", (1 << 32, "|"))):
        yield Value(text=f"{value.text} {text}", program=(*value.program, *more))
    yield Value(text="0", program=(0,))


def conditions(condition: Condition, names: tuple[str, ...]) -> Iterator[Condition]:
    """Yield a condition with one word changed.

    Args:
        condition: from a rule.
        names: arguments that it could speak of instead.
    """
    match condition:
        case AllOf() | AnyOf():
            yield AnyOf(parts=condition.parts) if isinstance(condition, AllOf) else AllOf(parts=condition.parts)
            for at, part in enumerate(condition.parts):
                before, after = condition.parts[:at], condition.parts[at + 1 :]
                yield from (replace(condition, parts=(*before, changed, *after)) for changed in conditions(part, names))
                yield replace(condition, parts=before + after) if len(condition.parts) > 2 else (*before, *after)[0]
            return
    yield from (replace(condition, argument=name) for name in names if name != condition.argument)
    if condition.mask is None:
        yield from (replace(condition, mask=Value(text=hex(mask), program=(mask,))) for mask in (1, 0xFFFF, 0x7FFF_FFFF))
    else:
        yield replace(condition, mask=None)
        yield from (replace(condition, mask=mask) for mask in _values(condition.mask))
    if isinstance(condition, Membership):
        yield replace(condition, negated=not condition.negated)
        for at, value in enumerate(condition.values):
            before, after = condition.values[:at], condition.values[at + 1 :]
            yield replace(condition, values=before + after)
            yield from (replace(condition, values=(*before, changed, *after)) for changed in _values(value))
        return
    assert isinstance(condition, Comparison)
    yield from (replace(condition, operator=operator) for operator in Operator if operator is not condition.operator)
    yield from (replace(condition, value=value) for value in _values(condition.value))


def _entries(entries: tuple[Entry, ...], names: tuple[str, ...]) -> Iterator[tuple[str, tuple[Entry, ...]]]:
    for at, entry in enumerate(entries):
        rule = entry.rule
        before, after = entries[:at], entries[at + 1 :]

        def one(
            entry: Entry = entry, before: tuple[Entry, ...] = before, after: tuple[Entry, ...] = after, **change: object
        ) -> tuple[Entry, ...]:
            return (*before, replace(entry, rule=replace(entry.rule, **change)), *after)  # type: ignore[arg-type]

        where = f"rule at {rule.place}"
        yield f"{where} left out", before + after
        if after:
            yield f"{where} after the next", (*before, after[0], entry, *after[1:])
        for outcome in _outcomes(rule.outcome):
            yield f"{where} gives {outcome.action} {outcome.errno}", one(outcome=outcome)
        if rule.otherwise is not None:
            yield f"{where} without else", one(otherwise=None)
            for outcome in _outcomes(rule.otherwise):
                yield f"{where} else {outcome.action} {outcome.errno}", one(otherwise=outcome)
        if rule.condition is not None:
            yield f"{where} without when", one(condition=None)
            for condition in conditions(rule.condition, names):
                yield f"{where} when {condition}", one(condition=condition)


def spoiled(policy: SyscallPolicy, arch: Arch) -> Iterator[tuple[str, str, SyscallPolicy]]:
    """Yield (syscall or nothing, what was changed, policy)."""
    for outcome in _outcomes(policy.default):
        yield "", f"default {outcome.action} {outcome.errno}", replace(policy, default=outcome)
    for syscall, entries in policy.rules.items():
        if syscall_number(arch, syscall) is None:
            continue
        names = tuple(name for name, _ in signature(syscall, arch))
        for text, changed in _entries(entries, names):
            yield syscall, text, replace(policy, rules={**policy.rules, syscall: changed})


def _calls(policies: tuple[SyscallPolicy, ...], syscall: str, arch: Arch) -> Iterator[tuple[int, ...]]:
    points: dict[int, set[int]] = {}
    for policy in policies:
        for entry in policy.rules.get(syscall, ()):
            for index, value in condition_values(entry.rule.condition, syscall, arch) if entry.rule.condition is not None else ():
                points.setdefault(index, {0, _U64}).update(
                    each & _U64 for each in (value - 1, value, value + 1, value ^ 1 << 31, value | 1 << 32)
                )
    chosen = [sorted(points.get(index, {0}))[: 24 if len(points) < 3 else 12] for index in range(6)]
    yield from product(*chosen)


@dataclass(slots=True)
class PolicyFigures:
    """What became of the mutants of one policy's text."""

    mutants: int = 0
    caught: int = 0
    equal: int = 0
    impossible: int = 0
    seconds: float = 0.0
    missed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.mutants} | {self.caught} | {self.equal} | {len(self.missed)} | {self.seconds:.0f}"


def measure_policy(policy: SyscallPolicy, arch: Arch, *, notify: bool = False, every: int = 1, phase: int = 0) -> PolicyFigures:
    """Spoil a policy's text under its filter and count what the prover says.

    Args:
        policy: the policy.
        arch: whose filter.
        notify: whether a supervisor listens; without one the errno of a recorded refusal is in the filter, too, and can be caught.
        every: take each n-th mutant only.
        phase: the first one to take, counted from 0.
    """
    began = time.process_time()
    program = decode(compile_filter(policy, arch, notify=notify).bpf)
    figures = PolicyFigures()
    diagram, node = Diagram(), -1
    for number, (syscall, text, changed) in enumerate(spoiled(policy, arch)):
        if (number - phase) % every:
            continue
        if node < 0 or len(diagram) > 150_000:
            diagram = Diagram()
            node = SymbolicProgram(diagram, program, policy_values(policy, notify=notify) | returned_values(program)).result()
        try:
            meaning = policy_diagram(diagram, changed, arch, notify=notify)
        except ConditionError:
            figures.impossible += 1  # a value that does not fit: no such text is ever read
            continue
        figures.mutants += 1
        if meaning != node:
            one, two, data = next(diagram.pairs(node, meaning))
            registers = tuple(data[at] | data[at + 1] << 32 for at in range(4, 16, 2))
            assert run_program(program, data) == diagram.value(one) != diagram.value(two), text
            decision = decide(changed, arch, data[0], registers)
            assert outcome_value(Outcome(action=decision.action, errno=decision.errno), notify=notify) == diagram.value(two), text
            figures.caught += 1
            continue
        figures.equal += 1
        if not syscall:
            continue
        sides = [PolicyDecider(each, arch, notify=notify) for each in (policy, changed)]
        call_number = syscall_number(arch, syscall) or 0
        for arguments in _calls((policy, changed), syscall, arch):
            decisions = [decide(side.policy, arch, call_number, arguments) for side in sides]
            values = {outcome_value(Outcome(action=each.action, errno=each.errno), notify=notify) for each in decisions}
            if len(values) > 1:
                figures.missed.append(f"{syscall}{arguments}: {text}")
                break
    figures.seconds = time.process_time() - began
    return figures
