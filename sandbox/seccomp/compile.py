"""Policy → BPF through libseccomp. The only importer of pyseccomp, whose import costs some 20 ms: `cache.py` keeps a run from needing this.

libseccomp is given nothing to decide: tests are disjoint and confined to the bits the kernel keeps (`lower.py`), numbers come from our own tables
(libseccomp 2.5.4 does not know the newest calls), and every result is proven equal to the policy's text for every call before anybody may use it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyseccomp

from sandbox.abi.arch import Arch, native_arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import CompileError, InternalError
from sandbox.policy.check import check_policy
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.seccomp.evaluate import RET_KILL_PROCESS, Instruction, RejectedError, check_program, decode, encode
from sandbox.seccomp.filter import Filter, make_filter
from sandbox.seccomp.link import link_programs
from sandbox.seccomp.lower import Unit, lower_policy
from sandbox.seccomp.prove import Proof, prove
from sandbox.seccomp.prove_diagram import UnprovableError

LAUNCH_CALLS = ("read", "write", "execve", "exit_group", "rt_sigreturn")
"""What the executor itself still calls once the filter is in place."""

HOT_CALLS: Mapping[str, int] = {"futex": 16, "ioctl": 8, "fcntl": 8, "clone": 4, "prctl": 2}
"""Calls that programs make often and that arguments decide, with their weight beside 1 for a range. What is allowed whatever its arguments does not
count: the kernel remembers it and does not run the filter (kernel/seccomp.c, seccomp_cache_check_allow)."""

_BINARY_TREE = 2
_API_LEVEL = 5  # USER_NOTIF; set explicitly so that the bytes do not depend on the kernel that compiles


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
    program = _assemble(policy, arch, lower_policy(policy, arch, notify))
    try:
        check_program(program)
    except RejectedError as error:
        raise CompileError(f"compile policy `{policy.name}` for {arch}: the kernel would refuse the filter: {error}") from None
    result = make_filter(encode(program), arch=arch, policy=policy.name, policy_digest=policy.digest, notify=notify)
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


def _assemble(policy: SyscallPolicy, arch: Arch, units: Sequence[Unit]) -> tuple[Instruction, ...]:
    host = native_arch()
    if host is not arch and host is not Arch.X86_64:
        raise CompileError(
            f"compile policy `{policy.name}` for {arch}: on {host} only {host} filters can be made",
            hint="libseccomp adds the x32 test only where x86_64 is native; compile on an x86_64 machine",
        )
    weights = {number: weight for name, weight in HOT_CALLS.items() if (number := syscall_number(arch, name)) is not None}
    try:
        pyseccomp.set_api(_API_LEVEL)
        programs = [_compile_unit(unit) for unit in units]
    except OSError as error:
        raise CompileError(
            f"compile policy `{policy.name}` for {arch}: libseccomp: {os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0)})"
        ) from None
    return link_programs(programs, host, arch, weights)


def _compile_unit(unit: Unit) -> tuple[Instruction, ...]:
    tree = pyseccomp.SyscallFilter(unit.default)
    # Always the native collection: for a foreign one libseccomp would translate our numbers by name, and it lacks the newest names.
    tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
    tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for rule in unit.rules:
        arguments = [pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value) for index, mask, value in rule.tests]
        tree.add_rule_exactly(rule.value, rule.number, *arguments)
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        tree.export_bpf(file)
        file.seek(0)
        return decode(file.read())


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
