"""Linking: units become one small program of the same meaning, whatever their size, and what libseccomp never made before is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import compile as compiler
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.evaluate import Instruction, check_program, decode, pack_data, run_program
from sandbox.seccomp.link import link_programs
from sandbox.seccomp.lower import Link, Unit, lower_policy
from sandbox.seccomp.prove import ProgramDecider, differences

X86, ARM = Arch.X86_64, Arch.AARCH64
LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'


def build(rules: str) -> SyscallPolicy:
    text = f'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n{LAUNCH}{rules}'
    return merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)


@cache
def units_of(name: str, arch: Arch = X86) -> tuple[Unit, ...]:
    return lower_policy(load_policy(name), arch, notify=True)


def steps(program: Sequence[Instruction], data: Sequence[int]) -> int:
    """Return how many instructions a call runs, in a program of the kinds that `link` makes."""
    at = ran = a = 0
    while True:
        code, jt, jf, k = program[at]
        ran += 1
        at += 1
        if code == bpf.LD | bpf.ABS:
            a = data[k >> 2]
        elif code == bpf.ALU | bpf.AND:
            a &= k
        elif code == bpf.JMP | bpf.JA:
            at += k
        elif code == bpf.RET:
            return ran
        else:
            test = code & 0xF0
            at += jt if (a == k if test == bpf.JEQ else a >= k if test == bpf.JGE else a > k if test == bpf.JGT else bool(a & k)) else jf


@pytest.mark.parametrize("arch", Arch)
def test_what_is_linked_is_smaller(arch: Arch) -> None:
    units = units_of("strict", arch)
    programs = [compiler._compile_unit(unit) for unit in units]
    linked = link_programs(programs, X86, arch, {})
    check_program(linked)
    assert len(linked) < len(programs[0])
    # Under the mask 0 every value is 0: such a test is never asked.
    assert any(code == bpf.ALU | bpf.AND and k == 0 for program in programs for code, _, _, k in program)
    assert not any(code == bpf.ALU | bpf.AND and k == 0 for code, _, _, k in linked)


def test_hot_calls_take_fewer_steps() -> None:
    policy = load_policy("strict")
    programs = [compiler._compile_unit(unit) for unit in units_of("strict")]
    weights = {number: weight for name, weight in compiler.HOT_CALLS.items() if (number := syscall_number(X86, name)) is not None}
    plain, hot = (link_programs(programs, X86, X86, each) for each in ({}, weights))
    assert differences(ProgramDecider(plain), ProgramDecider(hot), X86) == ()
    assert decode(compile_filter(policy, X86).bpf) == hot
    own = audit_arch(X86)
    wake = pack_data(syscall_number(X86, "futex") or 0, own, (0, 0x81))
    assert steps(hot, wake) < steps(plain, wake)
    total = [sum(weight * steps(each, pack_data(number, own, ())) for number, weight in weights.items()) for each in (plain, hot)]
    assert total[1] < total[0]


def test_jumps_reach_far() -> None:
    # A conditional jump reaches 255 instructions; these blocks are longer.
    rules = ""
    for syscall, argument in (("ioctl", "cmd"), ("fcntl", "cmd"), ("prctl", "option")):
        values = ", ".join(str(7 * value + 1) for value in range(300))
        rules += (
            f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "log"\nwhen = "{argument} in {{{values}}}"\nelse = "errno EPERM"\nreason = "r"\n'
        )
    made = compile_filter(build(rules), X86)
    program = decode(made.bpf)
    assert made.proof and len(program) > 500
    far = [at for at, (code, _, _, _) in enumerate(program) if code == bpf.JMP | bpf.JA]
    assert far or sum(code == bpf.RET for code, _, _, _ in program) > 4
    assert run_program(program, pack_data(16, audit_arch(X86), (0, 8))) == bpf.RET_LOG


def test_x32_numbers_are_only_where_x32_is() -> None:
    for arch, value in ((X86, bpf.RET_KILL_PROCESS), (ARM, bpf.RET_USER_NOTIF)):
        program = decode(compile_filter(load_policy("strict"), arch).bpf)
        for number in (0x4000_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE):
            assert run_program(program, pack_data(number, audit_arch(arch), ())) == value
        assert run_program(program, pack_data(0xFFFF_FFFF, audit_arch(arch), ())) == bpf.RET_USER_NOTIF


@pytest.mark.parametrize(
    "odd", [(bpf.ALU | bpf.OR, 0, 0, 1), (bpf.LD | bpf.IMM, 0, 0, 0), (bpf.JMP | bpf.JEQ | bpf.X, 0, 0, 0), (bpf.ST, 0, 0, 0)]
)
def test_an_instruction_that_libseccomp_never_made_is_refused(odd: Instruction) -> None:
    good = compiler._compile_unit(units_of("base")[0])
    with pytest.raises(InternalError, match="has an instruction of a kind that it never had"):
        link_programs([(odd, *good)], X86, X86, {})


def test_links_cannot_be_mistaken() -> None:
    assert [Link.unit(Link.value(unit)) for unit in (1, 77, 0xFFFF)] == [1, 77, 0xFFFF]
    for value in (bpf.RET_ALLOW, bpf.RET_LOG, bpf.RET_ERRNO | 38, bpf.RET_USER_NOTIF, bpf.RET_TRAP, bpf.RET_KILL_PROCESS):
        assert Link.unit(value) is None


def test_the_same_bytes_in_every_process() -> None:
    script = (
        "from sandbox.abi.arch import Arch; from sandbox.policy.load import load_policy; from sandbox.seccomp.compile import compile_filter\n"
        "print([compile_filter(load_policy(name), arch, notify=notify).digest"
        " for name in ('strict', 'default') for arch in Arch for notify in (True, False)])"
    )
    found = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        found.add(done.stdout)
    assert len(found) == 1 and found.pop().count("'") == 16
