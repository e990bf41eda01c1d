"""A policy for a run without a machine view: what its text would have the supervisor answer is made instead.

Pure. `api` and `cli` import it.
"""

from __future__ import annotations

from sandbox.policy.model import Action, Outcome, SyscallPolicy
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import Entry

_ALLOWED = Outcome(action=Action.ALLOW)


def emulates(policy: SyscallPolicy, syscall: str) -> bool:
    """Tell whether the supervisor would answer every call of that name."""
    entries = policy.rules.get(syscall, ())
    return bool(entries) and entries[0].rule.condition is None and entries[0].rule.outcome.action is Action.EMULATE


def without_emulation(policy: SyscallPolicy) -> SyscallPolicy:
    """Return a policy in which `emulate` is `allow`, with a digest of its own; the policy itself where nothing in it is emulated."""
    changed = {name: tuple(map(_plain, entries)) for name, entries in policy.rules.items() if any(map(_emulates, entries))}
    if not changed:
        return policy
    import hashlib

    digest = hashlib.sha256(f"without emulation {policy.digest}\n".encode()).hexdigest()
    return replace(policy, rules={**policy.rules, **changed}, digest=digest)


def _emulates(entry: Entry) -> bool:
    rule = entry.rule
    return rule.outcome.action is Action.EMULATE or (rule.otherwise is not None and rule.otherwise.action is Action.EMULATE)


def _plain(entry: Entry) -> Entry:
    rule = entry.rule
    if rule.outcome.action is Action.EMULATE:
        rule = replace(rule, outcome=_ALLOWED)
    if rule.otherwise is not None and rule.otherwise.action is Action.EMULATE:
        rule = replace(rule, otherwise=_ALLOWED)
    return replace(entry, rule=rule)
