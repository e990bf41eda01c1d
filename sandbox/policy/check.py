"""Checks that need the signatures and constants: every condition means something, and every rule can matter.

Exact: every way in which calls can differ is enumerated (`cubes.py`), for each architecture. Runs when a policy is compiled or inspected, never on
the run path. Pure. Imported by `load.py` and `seccomp.compile`.
"""

from __future__ import annotations

from sandbox.abi.arch import Arch
from sandbox.abi.constants import choices, constant
from sandbox.abi.signatures import argument_index, is_per_command, is_pointer, signature
from sandbox.abi.tables import syscall_number
from sandbox.errors import PolicyError
from sandbox.policy.conditions import ConditionError, leaves, names
from sandbox.policy.cubes import Register, Truths, classify_registers, combinations, is_true, limited_work
from sandbox.policy.model import (
    PERMITTING,
    Comparison,
    Condition,
    Entry,
    Layer,
    Membership,
    Mention,
    Operator,
    Outcome,
    Rule,
    SyscallPolicy,
    Value,
)
from sandbox.policy.nearest import suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ORDERS = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)


def check_policy(policy: SyscallPolicy) -> None:
    """Raise `PolicyError` at the first condition or rule that cannot be what its author meant.

    Rules of lower files that an upper file decides are checked too: a file is right or wrong by itself.
    """
    with limited_work():
        _check(policy)


def _check(policy: SyscallPolicy) -> None:
    for layer in policy.stack:
        for rule in layer.rules:
            if rule.condition is not None:
                for mention in rule.mentions:
                    _check_condition(rule.condition, rule, mention.syscall)
    for layer in policy.stack:
        _check_layer(layer)
    for syscall, entries in policy.rules.items():
        if len(entries) > 1:
            _check_permissions(syscall, entries)


def _origin(rule: Rule, key: str = "") -> str:
    place = f"{rule.place.file}:{rule.condition_line}" if key == "when" else str(rule.place)
    return f"{place}, rule[{rule.index}]" + (f".{key}" if key else "")


def _check_condition(condition: Condition, rule: Rule, syscall: str) -> None:
    origin = _origin(rule, "when")
    arches = [arch for arch in Arch if syscall_number(arch, syscall) is not None]
    for name in names(condition):
        if all(constant(name, arch) is None for arch in arches):
            from sandbox.abi.constants import constant_names

            raise PolicyError(f"unknown constant `{name}`", origin=origin, hint=suggest(name, constant_names()))
    for leaf in leaves(condition):
        _check_choices(leaf, syscall, origin)
        for arch in arches:
            if leaf.register and leaf.argument.isdigit():
                continue
            index = argument_index(syscall, leaf.argument, arch)
            known = [name for name, _ in signature(syscall, arch)]
            if index is None:
                listed = f"its arguments: {', '.join(known)}" if known else "it has none"
                raise PolicyError(
                    f"syscall `{syscall}` has no argument `{leaf.argument}`; {listed}", origin=origin, hint=suggest(leaf.argument, known)
                )
            if leaf.register:
                continue  # what the kernel makes of the register is not this condition's business; it says so
            if is_pointer(syscall, index, arch) and not _tests_null(leaf):
                raise PolicyError(
                    f"argument `{leaf.argument}` of `{syscall}` is a pointer; a filter cannot see what it points to",
                    origin=origin,
                    hint="a pointer can only be compared with 0, by `==` or `!=`",
                )
            if is_per_command(syscall, index, arch):
                _check_per_command(leaf, rule, syscall, origin)
    verdicts: set[str] = set()
    for arch in arches:
        try:
            found = {is_true(condition, truths) for truths in combinations(classify_registers([condition], syscall, arch))}
        except ConditionError as error:
            raise PolicyError(f"{error} (`{syscall}` on {arch})", origin=origin) from None
        verdicts.add("depends" if len(found) == 2 else "always" if True in found else "never")
    for verdict, advice in (("never", "drop the rule"), ("always", "drop the condition")):
        if verdicts == {verdict}:
            raise PolicyError(f"condition {verdict} holds for `{syscall}`", origin=origin, hint=advice)


def _check_choices(leaf: Comparison | Membership, syscall: str, origin: str) -> None:
    """Raise where what is written means something else to a reader.

    Constants are or-ed of which an argument holds one: AF_UNIX | AF_INET is AF_AX25, and "either" was meant. Or an order begins at a negative number.
    """
    if isinstance(leaf, Comparison) and leaf.operator in _ORDERS and _is_negative(leaf.value):
        raise PolicyError(
            f"`{leaf.argument} {leaf.operator} {leaf.value.text}` orders unsigned numbers, of which `{leaf.value.text}` is one of the largest",
            origin=origin,
            hint=f"list the values, as in `{leaf.argument} in {{-2, -1, 0}}`",
        )
    known = choices(syscall, leaf.argument)
    for value in (leaf.value,) if isinstance(leaf, Comparison) else leaf.values:
        joined = [word for word in value.program if isinstance(word, str) and word in known]
        if len(joined) > 1 and "|" in value.program:
            raise PolicyError(
                f"`{leaf.argument}` of `{syscall}` holds one of its constants, and `{value.text}` is a number of its own, not either of them",
                origin=origin,
                hint=f"for any of them write `{leaf.argument} in {{{', '.join(joined)}}}`",
            )


def _is_negative(value: Value) -> bool:
    return "-" in value.program or any((constant(word, arch) or 0) < 0 for word in value.program if isinstance(word, str) for arch in Arch)


def _tests_null(leaf: Comparison | Membership) -> bool:
    if isinstance(leaf, Membership) or leaf.mask is not None:
        return False
    return leaf.operator in (Operator.EQ, Operator.NE) and leaf.value.program == (0,)


def _check_per_command(leaf: Comparison | Membership, rule: Rule, syscall: str, origin: str) -> None:
    # The kernel casts such an argument by command: refusing the value 1 leaves 1 | 1 << 32, which it may treat alike (CVE-2019-7303's kind).
    # Allowing exact 64-bit values is sound.
    positive = (isinstance(leaf, Membership) and not leaf.negated) or (isinstance(leaf, Comparison) and leaf.operator is Operator.EQ)
    if positive and leaf.mask is None and rule.outcome.action in PERMITTING:
        return
    raise PolicyError(
        f"argument `{leaf.argument}` of `{syscall}` has a type that depends on another argument, so refusing values of it can be bypassed",
        origin=origin,
        hint="allow exact values instead: action `allow` with `==` or `in`, and `else`",
    )


def rule_outcome(rule: Rule, truths: Truths) -> Outcome | None:
    """Return what a rule does with the calls of some classes, or None when they go on to the next rule.

    Args:
        rule: one of a syscall's rules.
        truths: the truth of every comparison in its condition.
    """
    if rule.condition is None or is_true(rule.condition, truths):
        return rule.outcome
    return rule.otherwise


def rule_registers(rules: Iterable[Rule], syscall: str, arch: Arch) -> tuple[Register, ...]:
    """Return the registers that a syscall's rules look at, cut into classes.

    Raises:
        PolicyError: the conditions are too complex together.
    """
    conditional = [rule for rule in rules if rule.condition is not None]
    try:
        return classify_registers([rule.condition for rule in conditional if rule.condition is not None], syscall, arch)
    except ConditionError as error:
        raise PolicyError(f"{error} (`{syscall}` on {arch})", origin=_origin(conditional[0])) from None


def entry_outcome(entry: Entry, truths: Truths) -> Outcome | None:
    """Return `rule_outcome` of an entry's rule."""
    return rule_outcome(entry.rule, truths)


def entry_registers(entries: Iterable[Entry], syscall: str, arch: Arch) -> tuple[Register, ...]:
    """Return `rule_registers` of the entries' rules."""
    return rule_registers((entry.rule for entry in entries), syscall, arch)


def _outcomes(rules: tuple[Rule, ...], syscall: str) -> Iterator[list[Outcome | None]]:
    """Yield what each rule does, for every way in which calls of a syscall can differ on any architecture."""
    for arch in Arch:
        if syscall_number(arch, syscall) is None:
            continue
        try:
            for truths in combinations(rule_registers(rules, syscall, arch)):
                yield [rule_outcome(rule, truths) for rule in rules]
        except ConditionError as error:
            raise PolicyError(f"{error} (`{syscall}` on {arch})", origin=_origin(rules[0])) from None


def _mentioned(rule: Rule, syscall: str) -> Mention:
    return next(mention for mention in rule.mentions if mention.syscall == syscall)


def _check_layer(layer: Layer) -> None:
    """Raise when a rule of a file can decide no call that the file's earlier rules leave, whatever lies above or below."""
    by_syscall: dict[str, list[Rule]] = {}
    for rule in layer.rules:
        for mention in rule.mentions:
            by_syscall.setdefault(mention.syscall, []).append(rule)
    for syscall, rules in by_syscall.items():
        # A group's rule is the general case, it may be idle for one of its members.
        idle = {position for position in range(1, len(rules)) if not _mentioned(rules[position], syscall).group}
        if not idle:
            continue
        for outcomes in _outcomes(tuple(rules), syscall):
            idle.discard(next((position for position, outcome in enumerate(outcomes) if outcome is not None), 0))
        for position in sorted(idle):
            places = ", ".join(f"{rule.place}, rule[{rule.index}]" for rule in rules[:position])
            raise PolicyError(
                f"rule is shadowed for `{syscall}`: earlier rules already decide every call it could match",
                origin=f"{_origin(rules[position])}; earlier: {places}",
            )


def _check_permissions(syscall: str, entries: tuple[Entry, ...]) -> None:
    """Raise when a rule permits only what would be permitted without it: "only these" was meant.

    A refusal that changes nothing may still be there for its reason; and that the files above leave a rule no call is their right.
    """
    useless = {
        position
        for position, entry in enumerate(entries)
        if entry.rule.condition is not None and entry.rule.otherwise is None and entry.rule.outcome.action in PERMITTING
        if not _mentioned(entry.rule, syscall).group
    }
    if not useless:
        return
    reached: set[int] = set()
    for outcomes in _outcomes(tuple(entry.rule for entry in entries), syscall):
        first = next((position for position, outcome in enumerate(outcomes) if outcome is not None), None)
        if first is None:
            continue
        reached.add(first)
        below = next((outcome for outcome in outcomes[first + 1 :] if outcome is not None), None)
        if below != outcomes[first]:
            useless.discard(first)
    for position in sorted(useless & reached):
        raise PolicyError(
            f"rule changes nothing for `{syscall}`: what lies below already decides these calls in the same way",
            origin=f"{_origin(entries[position].rule)}; below: {_origin(entries[position + 1].rule)}",
            hint="to make this rule the whole decision for the syscall, add `else`",
        )
