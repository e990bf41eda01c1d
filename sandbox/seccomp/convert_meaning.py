"""What libseccomp makes of the rules of a profile, syscall by syscall, before it makes a filter of it.

Rules of one syscall are a set, not a list: of several with one action any may match; one without tests swallows those with tests, whatever
their actions, and the first such one stays. What the order of its tree decides (two rules with tests that one call fulfils, and different actions) is no
meaning that anybody could read: `convert_toml.py` refuses it. Pure.

Source: libseccomp src/db.c (_db_col_rule_add, _db_tree_add); opencontainers/runc libcontainer/seccomp (matchCall).
"""

from __future__ import annotations

import errno as _errno
from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import PolicyError
from sandbox.policy.model import Action
from sandbox.record import dataclass, replace
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.convert_oci import RET_KILL_THREAD, RET_TRACE, OciArg, OciProfile, OciRule

Way = tuple[OciRule, tuple[OciArg, ...]]
"""A rule and tests of its that must all hold."""

ForeignRule = tuple[int, int, tuple[tuple[int, str, int, int], ...]]
"""See `compile.ForeignRule`."""

REPLACEABLE: Mapping[str, int] = {"kill-thread": RET_KILL_THREAD, "trace": RET_TRACE, "notify": bpf.RET_USER_NOTIF}
"""Actions that the policy language does not have, or has with another meaning, by the word that asks to replace them."""

_PLAIN: Mapping[int, Action] = {
    bpf.RET_ALLOW: Action.ALLOW,
    bpf.RET_LOG: Action.LOG,
    bpf.RET_TRAP: Action.TRAP,
    bpf.RET_KILL_PROCESS: Action.KILL_PROCESS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """One syscall: `whole` decides every call; without it, a call that a way of `ways` matches gets its rule's action, any other the default."""

    syscall: str
    whole: OciRule | None
    ways: tuple[Way, ...] = ()


def replace_actions(profile: OciProfile, values: Mapping[str, int]) -> OciProfile:
    """Return a profile with other actions.

    Args:
        profile: any profile.
        values: a word of `REPLACEABLE` → the return value to take instead.
    """
    by_action = {REPLACEABLE[word]: value for word, value in values.items()}

    def changed(value: int) -> int:
        return by_action.get(value & 0xFFFF_0000 if value & 0xFFFF_0000 == RET_TRACE else value, value)

    rules = tuple(replace(rule, action=changed(rule.action)) for rule in profile.rules)
    return replace(profile, default=changed(profile.default), rules=rules)


def action_word(value: int, where: str) -> str:
    """Return a return value in the policy language's words.

    Raises:
        PolicyError: the language has no such action.
    """
    if value in _PLAIN:
        return str(_PLAIN[value])
    data = value & 0xFFFF
    if value & 0xFFFF_0000 == bpf.RET_ERRNO:
        if data in _errno.errorcode:
            return f"errno {_errno.errorcode[data]}"
        raise PolicyError(f"action SCMP_ACT_ERRNO with {data}, which is no errno, cannot be said in a policy", origin=where)
    word, name, why = next(
        found
        for found in (
            ("kill-thread", "SCMP_ACT_KILL (of the thread)", "a killed thread leaves the others of its process with half of their state"),
            ("trace", "SCMP_ACT_TRACE", "nobody traces the payload"),
            ("notify", "SCMP_ACT_NOTIFY", "the agent that would answer is not part of the profile"),
        )
        if REPLACEABLE[found[0]] == (value & 0xFFFF_0000 if value & 0xFFFF_0000 == RET_TRACE else value)
    )
    instead = "kill-process" if word == "kill-thread" else "errno EPERM"
    raise PolicyError(f"action {name} cannot be said in a policy: {why}", origin=where, hint=f"choose another: `--as '{word}={instead}'`")


def meanings(profile: OciProfile, notes: list[str]) -> tuple[Meaning, ...]:
    """Return what libseccomp decides about each syscall, in the order in which the profile names them first.

    Args:
        profile: what `convert_oci_read.select` gave.
        notes: gets a line for each rule that has no effect because another swallows it.
    """
    whole: dict[str, OciRule] = {}
    ways: dict[str, list[Way]] = {}
    for rule in profile.rules:
        if rule.action == profile.default:
            continue  # runtimes leave such rules out: libseccomp refuses them
        for name, where in rule.names:
            found = ways.setdefault(name, [])
            if name in whole:
                if whole[name].action != rule.action:
                    notes.append(f"`{name}` at {where} has no effect: {whole[name].where} decides all its calls")
            elif not rule.args:
                if any(other.action != rule.action for other, _ in found):
                    notes.append(f"the rule for `{name}` at {found[0][0].where} has no effect: {rule.where} decides all its calls")
                whole[name] = rule
            else:
                found.extend((rule, tests) for tests in rule.variants() if (rule, tests) not in found)
    return tuple(Meaning(syscall=name, whole=whole.get(name), ways=() if name in whole else tuple(found)) for name, found in ways.items())


def foreign_rules(profile: OciProfile, arch: Arch) -> tuple[ForeignRule, ...]:
    """Return what a runtime gives to libseccomp for a profile: every rule as it stands, whatever libseccomp makes of it.

    Args:
        profile: what `convert_oci_read.select` gave.
        arch: whose numbers.
    """
    rules: list[ForeignRule] = []
    for rule in profile.rules:
        if rule.action == profile.default:
            continue
        for name, _ in rule.names:
            number = syscall_number(arch, name)
            if number is None:
                continue
            for tests in rule.variants():
                rules.append((rule.action, number, tuple((arg.index, arg.op, arg.value, arg.value_two) for arg in tests)))
    return tuple(rules)
