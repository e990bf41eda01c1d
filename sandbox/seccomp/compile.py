"""Policy → BPF through libseccomp. The only importer of pyseccomp, whose import costs some 20 ms: `cache.py` keeps a run from needing this.

libseccomp is given nothing to decide: tests are disjoint and confined to the bits the kernel keeps (`lower.py`), numbers come from our own tables
(libseccomp 2.5.4 does not know the newest calls), and every result is proven equal to the policy's text for every call before anybody may use it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence

import pyseccomp

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch, native_arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import CompileError, InternalError
from sandbox.policy.check import check_policy
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.record import replace
from sandbox.seccomp.evaluate import ABS, JEQ, JGE, JMP, LD, RET_KILL_PROCESS, Instruction, RejectedError, check_program, decode, encode
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

ForeignRule = tuple[int, int, tuple[tuple[int, str, int, int], ...]]
"""Return value, number, and tests that must all hold: register, libseccomp's operator (``MASKED_EQ``), datum_a, datum_b."""

_OFFSET_ARCH = 4
_BINARY_TREE = 2
_API_LEVEL = 5  # USER_NOTIF; set explicitly so that the bytes do not depend on the kernel that compiles


def compile_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool = True, launch: bool = True) -> Filter:
    """Compile a policy.

    Args:
        policy: the merged policy; it is checked first.
        arch: the architecture whose calls the filter judges; calls of any other kill.
        notify: whether a supervisor will listen. Without one, recorded refusals become plain errnos in the kernel, and calls that would be emulated are made.
        launch: whether our own launch will run under it; for other programs' launchers the policy need not allow `LAUNCH_CALLS`.

    Raises:
        PolicyError: the policy's meaning is wrong (`check_policy`).
        CompileError: the launch path's own calls are not allowed, the filter is too large or too complex to be proven, or the host cannot compile
            for `arch`.
        InternalError: the filter does not do what the policy says.
    """
    if launch:
        _require_launch_calls(policy, arch)
    check_policy(policy)
    program = _assemble(f"policy `{policy.name}`", arch, lower_policy(policy, arch, notify))
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


def compile_foreign(rules: Iterable[ForeignRule], default: int, arch: Arch, what: str) -> bytes:
    """Return the filter that libseccomp makes of somebody else's rules, given to it one by one as a container runtime does.

    It is the other side of a comparison (`convert.py`), nothing that we would install.

    Args:
        rules: return value, number and tests of each; numbers are ours, so that libseccomp's knowledge of names does not matter.
        default: the return value of calls that no rule matches.
        arch: the architecture whose calls the filter judges; calls of any other kill.
        what: what errors call the rules.

    Raises:
        CompileError: libseccomp refuses a rule, as it refuses two that differ in nothing but the action.
    """
    host = _host_for(what, arch)
    try:
        pyseccomp.set_api(_API_LEVEL)
        tree = _new_tree(default)
        for value, number, tests in rules:
            tree.add_rule(value, number, *(pyseccomp.Arg(index, getattr(pyseccomp, sign), one, two) for index, sign, one, two in tests))
        program = _export(tree)
    except OSError as error:
        raise _refused(what, arch, error) from None
    return encode(program if host is arch else _retarget(program, host, arch))


def _host_for(what: str, arch: Arch) -> Arch:
    """Return the machine's architecture, on which filters for `arch` can be made."""
    host = native_arch()
    if host is not arch and host is not Arch.X86_64:
        raise CompileError(
            f"compile {what} for {arch}: on {host} only {host} filters can be made",
            hint="libseccomp adds the x32 test only where x86_64 is native; compile on an x86_64 machine",
        )
    return host


def _refused(what: str, arch: Arch, error: OSError) -> CompileError:
    return CompileError(
        f"compile {what} for {arch}: libseccomp: {os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0)})",
        hint="two rules for one call differ in nothing but the action; container runtimes refuse them, too" if error.errno == errno.EEXIST else None,
    )


def _assemble(what: str, arch: Arch, units: Sequence[Unit]) -> tuple[Instruction, ...]:
    host = _host_for(what, arch)
    weights = {number: weight for name, weight in HOT_CALLS.items() if (number := syscall_number(arch, name)) is not None}
    try:
        pyseccomp.set_api(_API_LEVEL)
        programs = [_compile_unit(unit) for unit in units]
    except OSError as error:
        raise _refused(what, arch, error) from None
    return link_programs(programs, host, arch, weights)


def _compile_unit(unit: Unit) -> tuple[Instruction, ...]:
    tree = _new_tree(unit.default)
    for rule in unit.rules:
        arguments = [pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value) for index, mask, value in rule.tests]
        tree.add_rule_exactly(rule.value, rule.number, *arguments)
    return _export(tree)


def _new_tree(default: int) -> pyseccomp.SyscallFilter:
    tree = pyseccomp.SyscallFilter(default)
    # Always the native collection: for a foreign one libseccomp would translate our numbers by name, and it lacks the newest names.
    tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
    tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    return tree


def _export(tree: pyseccomp.SyscallFilter) -> tuple[Instruction, ...]:
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        tree.export_bpf(file)
        file.seek(0)
        return decode(file.read())


def _retarget(made: Sequence[Instruction], host: Arch, arch: Arch) -> tuple[Instruction, ...]:
    """Return a program made for x86_64 with the audit word of another architecture and without the x32 test."""
    program = list(made)
    word = audit_arch(host)
    x32 = [at for at, (code, _, _, k) in enumerate(program[:8]) if code == JMP | JGE and k == X32_SYSCALL_BIT]
    if program[0] != (LD | ABS, 0, 0, _OFFSET_ARCH) or program[1][0] != JMP | JEQ or program[1][3] != word or len(x32) != 1:
        raise InternalError(f"libseccomp's filter for {host} does not begin as expected, so it cannot be retargeted to {arch}")
    code, jt, jf, _ = program[1]
    program[1] = (code, jt, jf, audit_arch(arch))
    code, _, jf, k = program[x32[0]]
    program[x32[0]] = (code, jf, jf, k)  # whatever the number: go on
    return tuple(program)


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
