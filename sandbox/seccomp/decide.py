"""What a policy says about one call, read directly from its rules.

This is the meaning of a policy: the supervisor asks it which rule refused a call, and the tests hold every compiled filter to it. It knows nothing of
cubes, libseccomp or BPF, so a mistake there cannot hide here. Pure. Imported by `audit`, `supervise`, the tools and tests.
"""

from __future__ import annotations

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch
from sandbox.abi.tables import syscall_name
from sandbox.policy.conditions import holds
from sandbox.policy.model import Action, Decision, Outcome, RuleRef, SyscallPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_CALL = 0xFFFF_FFFF


def decide(policy: SyscallPolicy, arch: Arch, number: int, arguments: Sequence[int]) -> Decision:
    """Return what happens to a call of the filter's own architecture; calls of any other are killed.

    Args:
        policy: the merged policy.
        arch: the architecture the filter is compiled for.
        number: the call's number as the kernel has it, signed or unsigned 32 bits.
        arguments: the six registers, 64 bits each.

    Returns:
        The decision. `rule` names the default's line when no rule mentions the call, and is None for a call that no policy can
        speak about: x86_64's numbers with the x32 bit, which always kill (-1, which a tracer uses to skip a call, gets the default).
    """
    number &= 0xFFFF_FFFF
    if arch is Arch.X86_64 and number >= X32_SYSCALL_BIT and number != _NO_CALL:
        return Decision(action=Action.KILL_PROCESS, errno=0, rule=None)
    name = syscall_name(arch, number)
    for entry in policy.rules.get(name, ()) if name is not None else ():
        rule = entry.rule
        if rule.condition is None or holds(rule.condition, name or "", arch, arguments):
            return _decision(rule.outcome, entry.ref)
        if rule.otherwise is not None:
            return _decision(rule.otherwise, entry.ref)
    return _decision(policy.default, policy.default_ref)


def _decision(outcome: Outcome, ref: RuleRef) -> Decision:
    return Decision(action=outcome.action, errno=outcome.errno, rule=ref)
