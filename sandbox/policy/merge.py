"""Stacks policy files into one `SyscallPolicy`.

The rule: *everything a file extends lies below it, in the order named, and each file once; a call is decided by the first rule that matches it, reading
from the top file down and each file from its first line.* A rule without `when`, or with `else`, matches every call of its syscalls.
Pure. Imported by `load.py` and tests.
"""

from __future__ import annotations

import hashlib

from sandbox.errors import PolicyError
from sandbox.policy.model import Entry, Layer, Mention, Rule, RuleRef, SyscallPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.load import GroupMembers

_LANGUAGE = b"sandbox policy language 1\n"


def is_final(rule: Rule) -> bool:
    """Tell whether a rule decides every call of its syscalls."""
    return rule.condition is None or rule.otherwise is not None


def merge_layers(stack: tuple[Layer, ...], groups: GroupMembers) -> SyscallPolicy:
    """Return the policy of a stack of files, the top one first.

    Args:
        stack: as `load.read_stack` gives it.
        groups: members of each @group, for the digest.

    Raises:
        PolicyError: two rules of one file compete for a syscall, some calls of a syscall are left undecided, or there is no default.
    """
    top = stack[0]
    tried: dict[str, list[tuple[Entry, Mention]]] = {}
    closed: set[str] = set()
    for layer in stack:
        deciding: dict[str, tuple[Rule, Mention]] = {}
        for rule in layer.rules:
            entry = Entry(
                rule=rule,
                layer=layer,
                ref=RuleRef(file=rule.place.file, line=rule.place.line, reason=rule.reason, name=layer.name),
            )
            for mention in rule.mentions:
                name = mention.syscall
                if name in deciding:
                    _compete(layer, rule, mention, *deciding[name])
                    continue
                if is_final(rule):
                    deciding[name] = (rule, mention)
                if name not in closed:
                    tried.setdefault(name, []).append((entry, mention))
        closed.update(deciding)
    for name, entries in tried.items():
        if name not in closed:
            entry, mention = entries[-1]
            raise PolicyError(
                f"no rule decides the calls of `{name}` for which this condition does not hold",
                origin=f"{entry.layer.path}:{mention.line}, rule[{entry.rule.index}]",
                hint='add `else`, as in `else = "errno EPERM"`',
            )
    for layer in stack:
        if layer.default is not None:
            default, place, owner = layer.default, layer.default_place, layer
            break
    else:
        raise PolicyError(
            "no `default` in this policy or in any that it extends",
            origin=f"{top.path}:1",
            hint='add `default = "errno ENOSYS"`: what unknown and newer calls get',
        )
    return SyscallPolicy(
        name=top.name,
        description=top.description,
        default=default,
        rules={name: tuple(entry for entry, _ in tried[name]) for name in sorted(tried)},
        stack=stack,
        digest=_digest(stack, groups),
        default_ref=RuleRef(file=place.file, line=place.line, reason="no rule of the policy names this call", name=owner.name),
        sources=tuple(layer.path for layer in stack),
    )


def _compete(layer: Layer, rule: Rule, mention: Mention, earlier: Rule, earlier_mention: Mention) -> None:
    """Raise unless a group meets a syscall that an earlier rule of the file singled out by name."""
    if mention.group and not earlier_mention.group:
        return
    by_group = f" through `@{mention.group}`" if mention.group else ""
    earlier_group = f" (through `@{earlier_mention.group}`)" if earlier_mention.group else ""
    same = rule.outcome == earlier.outcome and rule.condition is None and earlier.condition is None
    hint = "a syscall named by itself must come before the group it is in" if earlier_mention.group and not mention.group else None
    raise PolicyError(
        f"syscall `{mention.syscall}` is {'repeated' if same else 'shadowed'} here{by_group}: "
        f"line {earlier_mention.line} of this file{earlier_group} already decides all its calls",
        origin=f"{layer.path}:{mention.line}, rule[{rule.index}]; earlier: {layer.path}:{earlier_mention.line}, rule[{earlier.index}]",
        hint=hint,
    )


def _digest(stack: tuple[Layer, ...], groups: GroupMembers) -> str:
    digest = hashlib.sha256(_LANGUAGE)
    used: set[str] = set()
    for layer in stack:
        digest.update(b"file %d\n" % len(layer.content))
        digest.update(layer.content)
        used.update(mention.group for rule in layer.rules for mention in rule.mentions if mention.group)
    for name in sorted(used):
        digest.update(f"@{name} {' '.join(groups[name])}\n".encode())
    return digest.hexdigest()
