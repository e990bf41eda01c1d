"""Policy → BPF through libseccomp. The only importer of pyseccomp, whose import costs some 20 ms: `cache.py` keeps a run from needing this.

libseccomp is given nothing to decide: tests are disjoint and confined to the bits the kernel keeps (`lower.py`), numbers come from our own tables
(libseccomp 2.5.4 does not know the newest calls), and every result is proven equal to the policy's text for every call before anybody may use it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pyseccomp

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch, native_arch
from sandbox.errors import CompileError, InternalError
from sandbox.policy.check import check_policy
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.seccomp.evaluate import ABS, JEQ, JGE, JMP, LD, RET_KILL_PROCESS, RejectedError, check_program, decode, encode
from sandbox.seccomp.filter import Filter, make_filter
from sandbox.seccomp.lower import NumberRule, lower_policy, return_value
from sandbox.seccomp.prove import Proof, prove
from sandbox.seccomp.prove_diagram import UnprovableError

LAUNCH_CALLS = ("read", "write", "execve", "exit_group", "rt_sigreturn")
"""What the executor itself still calls once the filter is in place."""

_BINARY_TREE = 2
_API_LEVEL = 5  # USER_NOTIF; set explicitly so that the bytes do not depend on the kernel that compiles
_OFFSET_ARCH = 4


def compile_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool = True) -> Filter:
    """Compile a policy.

    Args:
        policy: the merged policy; it is checked first.
        arch: the architecture whose calls the filter judges; calls of any other kill.
        notify: whether a supervisor will listen. Without one, recorded refusals become plain errnos in the kernel.

    Raises:
        PolicyError: the policy's meaning is wrong (`check_policy`).
        CompileError: the launch path's own calls are not allowed, the filter is too large or too complex to be proven, or the host cannot compile
            for `arch`.
        InternalError: the filter does not do what the policy says.
    """
    _require_launch_calls(policy, arch)
    check_policy(policy)
    rules = lower_policy(policy, arch, notify)
    bpf = _assemble(policy, arch, rules, return_value(policy.default, notify))
    try:
        check_program(decode(bpf))
    except RejectedError as error:
        raise CompileError(f"compile policy `{policy.name}` for {arch}: the kernel would refuse the filter: {error}") from None
    result = make_filter(bpf, arch=arch, policy=policy.name, policy_digest=policy.digest, notify=notify)
    return replace(result, proof=_verify(result, policy))


def _require_launch_calls(policy: SyscallPolicy, arch: Arch) -> None:
    for name in LAUNCH_CALLS:
        entries = policy.rules.get(name, ())
        outcome = entries[0].rule.outcome if entries and entries[0].rule.condition is None else None
        if name not in policy.rules:
            outcome = policy.default
        if outcome is None or outcome.action is not Action.ALLOW:
            place = f"{entries[0].rule.place}, rule[{entries[0].rule.index}]" if entries else str(policy.stack[0].path)
            raise CompileError(
                f"compile policy `{policy.name}` for {arch}: syscall `{name}` must be allowed unconditionally, the launch itself needs it",
                origin=place,
                hint='extend `base`, which allows it: `extends = ["base"]`',
            )


def _assemble(policy: SyscallPolicy, arch: Arch, rules: tuple[NumberRule, ...], default: int) -> bytes:
    host = native_arch()
    if host is not arch and host is not Arch.X86_64:
        raise CompileError(
            f"compile policy `{policy.name}` for {arch}: on {host} only {host} filters can be made",
            hint="libseccomp adds the x32 test only where x86_64 is native; compile on an x86_64 machine",
        )
    try:
        pyseccomp.set_api(_API_LEVEL)
        tree = pyseccomp.SyscallFilter(default)
        # Always the native collection: for a foreign one libseccomp would translate our numbers by name, and it lacks the newest names.
        tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
        tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
        for rule in rules:
            arguments = [pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value) for index, mask, value in rule.tests]
            tree.add_rule_exactly(rule.value, rule.number, *arguments)
        with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
            tree.export_bpf(file)
            file.seek(0)
            bpf = file.read()
    except OSError as error:
        raise CompileError(
            f"compile policy `{policy.name}` for {arch}: libseccomp: {os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0)})"
        ) from None
    return bpf if host is arch else _retarget(bpf, host, arch)


def _retarget(bpf: bytes, host: Arch, arch: Arch) -> bytes:
    """Return a program made for x86_64 with the audit word of another architecture and without the x32 test."""
    program = list(decode(bpf))
    word = audit_arch(host)
    tests = [at for at, (code, _, _, k) in enumerate(program) if code == JMP | JEQ and k == word]
    x32 = [at for at, (code, _, _, k) in enumerate(program[:8]) if code == JMP | JGE and k == X32_SYSCALL_BIT]
    if program[0] != (LD | ABS, 0, 0, _OFFSET_ARCH) or tests != [1] or len(x32) != 1:
        raise InternalError(f"libseccomp's filter for {host} does not begin as expected, so it cannot be retargeted to {arch}")
    code, jt, jf, _ = program[1]
    program[1] = (code, jt, jf, audit_arch(arch))
    code, _, jf, k = program[x32[0]]
    program[x32[0]] = (code, jf, jf, k)  # whatever the number: go on
    return encode(program)


def _verify(filter: Filter, policy: SyscallPolicy) -> str:
    """Return the digest of the proof that a filter does what the policy's text says; a difference is a bug of ours and no filter."""
    try:
        result = prove(filter, policy)
    except UnprovableError as error:
        raise CompileError(
            f"compile policy `{policy.name}` for {filter.arch}: its conditions are too complex to be proven: {error}"
        ) from None
    if isinstance(result, Proof):
        return result.digest
    raise InternalError(
        f"compiled policy `{policy.name}` for {filter.arch} differs from its text: {result}",
        hint="please report this with the policy; the filter was not used",
    )
