"""Checks that need the signatures and constants: every condition means something, and every rule can matter.

Exact: conditions are compared as sets of calls (`cubes.py`), for each architecture. Runs when a policy is compiled or inspected, never on
the run path. Pure. Imported by `load.py` and `seccomp.compile`.
"""

from __future__ import annotations

from sandbox.abi.arch import Arch
from sandbox.abi.constants import constant
from sandbox.abi.signatures import argument_index, is_per_command, is_pointer, signature
from sandbox.abi.tables import syscall_number
from sandbox.errors import PolicyError
from sandbox.policy.conditions import ConditionError, leaves, names
from sandbox.policy.cubes import EVERYTHING, Cube, condition_cubes, intersect, subtract
from sandbox.policy.model import Action, Comparison, Condition, Entry, Membership, Operator, Outcome, Rule, SyscallPolicy
from sandbox.policy.nearest import suggest

_ALLOWING = (Action.ALLOW, Action.LOG)


def check_policy(policy: SyscallPolicy) -> None:
    """Raise `PolicyError` at the first condition or rule that cannot be what its author meant.

    Rules of lower files that an upper file decides are checked too: a file is right or wrong by itself.
    """
    for layer in policy.stack:
        for rule in layer.rules:
            if rule.condition is not None:
                for mention in rule.mentions:
                    _check_condition(rule.condition, rule, mention.syscall)
    for syscall, entries in policy.rules.items():
        if len(entries) > 1:
            _check_order(syscall, entries)


def _origin(rule: Rule, key: str = "") -> str:
    return f"{rule.place}, rule[{rule.index}]" + (f".{key}" if key else "")


def _check_condition(condition: Condition, rule: Rule, syscall: str) -> None:
    origin = _origin(rule, "when")
    arches = [arch for arch in Arch if syscall_number(arch, syscall) is not None]
    for name in names(condition):
        if all(constant(name, arch) is None for arch in arches):
            from sandbox.abi.constants import constant_names

            raise PolicyError(f"unknown constant `{name}`", origin=origin, hint=suggest(name, constant_names()))
    for leaf in leaves(condition):
        for arch in arches:
            index = argument_index(syscall, leaf.argument, arch)
            known = [name for name, _ in signature(syscall, arch)]
            if index is None:
                listed = f"its arguments: {', '.join(known)}" if known else "it has none"
                raise PolicyError(
                    f"syscall `{syscall}` has no argument `{leaf.argument}`; {listed}", origin=origin, hint=suggest(leaf.argument, known)
                )
            if is_pointer(syscall, index, arch) and not _tests_null(leaf):
                raise PolicyError(
                    f"argument `{leaf.argument}` of `{syscall}` is a pointer; a filter cannot see what it points to",
                    origin=origin,
                    hint="a pointer can only be compared with 0, by `==` or `!=`",
                )
            if is_per_command(syscall, index, arch):
                _check_per_command(leaf, rule, syscall, origin)
    verdicts: list[str] = []
    for arch in arches:
        try:
            cubes = condition_cubes(condition, syscall, arch)
        except ConditionError as error:
            raise PolicyError(f"{error} (`{syscall}` on {arch})", origin=origin) from None
        verdicts.append("never" if not cubes else "" if subtract([EVERYTHING], cubes) else "always")
    for verdict in ("never", "always"):
        if verdicts and all(found == verdict for found in verdicts):
            advice = "drop the rule" if verdict == "never" else "drop the condition"
            raise PolicyError(f"condition {verdict} holds for `{syscall}`", origin=origin, hint=advice)


def _tests_null(leaf: Comparison | Membership) -> bool:
    if isinstance(leaf, Membership) or leaf.mask is not None:
        return False
    return leaf.operator in (Operator.EQ, Operator.NE) and leaf.value.program == (0,)


def _check_per_command(leaf: Comparison | Membership, rule: Rule, syscall: str, origin: str) -> None:
    # The kernel casts such an argument by command: refusing the value 1 leaves 1 | 1 << 32, which it may treat alike (CVE-2019-7303's kind).
    # Allowing exact 64-bit values is sound.
    positive = (isinstance(leaf, Membership) and not leaf.negated) or (isinstance(leaf, Comparison) and leaf.operator is Operator.EQ)
    if positive and leaf.mask is None and rule.outcome.action in _ALLOWING:
        return
    raise PolicyError(
        f"argument `{leaf.argument}` of `{syscall}` has a type that depends on another argument, so refusing values of it can be bypassed",
        origin=origin,
        hint="allow exact values instead: action `allow` with `==` or `in`, and `else`",
    )


def _entry_cubes(entry: Entry, syscall: str, arch: Arch) -> list[Cube]:
    """Return the calls that an entry decides."""
    rule = entry.rule
    if rule.condition is None or rule.otherwise is not None:
        return [EVERYTHING]
    return condition_cubes(rule.condition, syscall, arch)


def outcome_cubes(entry: Entry, syscall: str, arch: Arch) -> list[tuple[Outcome, list[Cube]]]:
    """Return what an entry does, as disjoint sets of calls; calls in none go on to the next entry.

    Args:
        entry: one of the policy's entries of this syscall.
        syscall: the call's name.
        arch: an architecture that has it.
    """
    rule = entry.rule
    if rule.condition is None:
        return [(rule.outcome, [EVERYTHING])]
    matching = condition_cubes(rule.condition, syscall, arch)
    if rule.otherwise is None:
        return [(rule.outcome, matching)]
    return [(rule.outcome, matching), (rule.otherwise, subtract([EVERYTHING], matching))]


def _check_order(syscall: str, entries: tuple[Entry, ...]) -> None:
    arches = [arch for arch in Arch if syscall_number(arch, syscall) is not None]
    for position, entry in enumerate(entries):
        mention = next(mention for mention in entry.rule.mentions if mention.syscall == syscall)
        if mention.group:
            continue  # a group's rule is the general case, it may be idle for one of its members
        before = entries[:position]
        after = entries[position + 1 :]
        if before and all(_is_covered(entry, before, syscall, arch) for arch in arches):
            places = ", ".join(str(other.rule.place) for other in before if other.layer is entry.layer) or str(before[-1].rule.place)
            if any(other.layer is entry.layer for other in before):
                raise PolicyError(
                    f"rule is shadowed for `{syscall}`: earlier rules already decide every call it could match",
                    origin=f"{_origin(entry.rule)}; earlier: {places}",
                )
        # A refusal that changes nothing may still be there for its reason; a permission is a misunderstanding: "only these" was meant.
        if entry.rule.condition is not None and entry.rule.otherwise is None and after and entry.rule.outcome.action in _ALLOWING:
            if all(_changes_nothing(entry, before, after, syscall, arch) for arch in arches):
                raise PolicyError(
                    f"rule changes nothing for `{syscall}`: what lies below already decides these calls in the same way",
                    origin=f"{_origin(entry.rule)}; below: {after[0].rule.place}",
                    hint="to make this rule the whole decision for the syscall, add `else`",
                )


def _is_covered(entry: Entry, before: tuple[Entry, ...], syscall: str, arch: Arch) -> bool:
    rest = _entry_cubes(entry, syscall, arch)
    for other in before:
        if other.layer is entry.layer:
            rest = subtract(rest, _entry_cubes(other, syscall, arch))
    return not rest


def _changes_nothing(entry: Entry, before: tuple[Entry, ...], after: tuple[Entry, ...], syscall: str, arch: Arch) -> bool:
    rest = _entry_cubes(entry, syscall, arch)
    for other in before:
        rest = subtract(rest, _entry_cubes(other, syscall, arch))
    if not rest:
        return False  # the files above decide it all, which is their right
    for other in after:
        for outcome, cubes in outcome_cubes(other, syscall, arch):
            if outcome != entry.rule.outcome and intersect(rest, cubes):
                return False
        rest = subtract(rest, _entry_cubes(other, syscall, arch))
    return True
