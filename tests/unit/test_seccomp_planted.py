"""Bugs planted by hand, each in the place where such a bug would be made: no filter, no cache entry, and a call that shows it.

The three that policies of others had: all 64 bits of an int compared (CVE-2019-7303 in snapd, CVE-2019-10063 in flatpak), no test for x32 numbers, and a
bound off by one. And what else can go wrong on the way: lowering, libseccomp, linking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.abi.arch import Arch, audit_arch
from sandbox.errors import InternalError
from sandbox.policy import check, cubes
from sandbox.policy.load import GROUPS, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import AllOf, AnyOf, Operator, SyscallPolicy
from sandbox.seccomp import cache, link, lower
from sandbox.seccomp import compile as compiler
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import Instruction, decode, run_program
from sandbox.seccomp.lower import Unit
from sandbox.seccomp.prove import Counterexample, prove

X86, ARM = Arch.X86_64, Arch.AARCH64
LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'

TIOCSTI = '[[rule]]\nsyscalls = ["ioctl"]\naction = "errno EPERM"\naudit = false\nwhen = "cmd == TIOCSTI"\nelse = "allow"\n'
BOUND = '[[rule]]\nsyscalls = ["lseek"]\naction = "allow"\nwhen = "offset <= 0x100000000"\nelse = "errno EPERM"\nreason = "r"\n'
SOCKET = """
[[rule]]
syscalls = ["socket"]
action = "allow"
when = "family == AF_INET and type & 0xf == SOCK_STREAM"
else = "errno EPERM"
reason = "r"
[[rule]]
syscalls = ["getpid"]
action = "errno EACCES"
audit = false
"""
ORDER = """
[[rule]]
syscalls = ["lseek"]
action = "errno EACCES"
audit = false
when = "offset < 0x1000"
[[rule]]
syscalls = ["lseek"]
action = "allow"
"""


def build(rules: str, default: str = "errno ENOSYS") -> SyscallPolicy:
    text = f'name = "p"\ndescription = "d"\ndefault = "{default}"\n{LAUNCH}{rules}'
    return merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)


# ---------------------------------------------------------------- bugs of the compiler's parts

Plant = Callable[[pytest.MonkeyPatch], None]


def in_units(change: Callable[[Sequence[Unit]], Sequence[Unit]]) -> Plant:
    """Return a bug in what is given to libseccomp."""
    good = compiler.lower_policy
    return lambda patch: patch.setattr(compiler, "lower_policy", lambda *arguments: tuple(change(good(*arguments))))


def in_tests(change: Callable[[tuple[int, int, int]], tuple[int, int, int]]) -> Plant:
    """Return a bug in every test of a register."""

    def changed(unit: Unit) -> Unit:
        return replace(unit, rules=tuple(replace(rule, tests=tuple(change(test) for test in rule.tests)) for rule in unit.rules))

    return in_units(lambda units: [changed(unit) for unit in units])


def in_numbers(change: Callable[[int], int]) -> Plant:
    """Return a bug in the numbers of unit 0."""

    def changed(units: Sequence[Unit]) -> list[Unit]:
        return [replace(units[0], rules=tuple(replace(rule, number=change(rule.number)) for rule in units[0].rules)), *units[1:]]

    return in_units(changed)


def in_comparisons(change: Callable[[Any], Any]) -> Plant:
    """Return a bug in how a comparison is read."""
    good = cubes.leaf_cubes
    return lambda patch: patch.setattr(cubes, "leaf_cubes", lambda leaf, syscall, arch: good(change(leaf), syscall, arch))


def in_program(change: Callable[[list[Instruction]], None]) -> Plant:
    """Return a bug in the linked program."""

    def changed(*arguments: Any) -> tuple[Instruction, ...]:
        program = list(link.link_programs(*arguments))
        change(program)
        return tuple(program)

    return lambda patch: patch.setattr(compiler, "link_programs", changed)


def at_first(wanted: Callable[[Instruction], bool], new: Callable[[Instruction], Instruction]) -> Callable[[list[Instruction]], None]:
    def change(program: list[Instruction]) -> None:
        at = next(at for at, instruction in enumerate(program) if wanted(instruction))
        program[at] = new(program[at])

    return change


def less_for_at_most(leaf: Any) -> Any:
    return replace(leaf, operator=Operator.LT) if getattr(leaf, "operator", None) is Operator.LE else leaf


def any_for_all(patch: pytest.MonkeyPatch) -> None:
    good = check.is_true
    patch.setattr(check, "is_true", lambda it, truths: good(AnyOf(parts=it.parts) if isinstance(it, AllOf) else it, truths))


def last_match_wins(patch: pytest.MonkeyPatch) -> None:
    good = lower.decision_tree
    patch.setattr(
        lower,
        "decision_tree",
        lambda policy, syscall, *rest: good(replace(policy, rules={syscall: policy.rules[syscall][::-1]}), syscall, *rest),
    )


def one_errno(patch: pytest.MonkeyPatch) -> None:
    good = lower.return_value
    patch.setattr(lower, "return_value", lambda *arguments: 0x5_0001 if good(*arguments) == 0x5_000D else good(*arguments))


def foreign_word(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(link, "audit_arch", lambda arch: audit_arch(X86))


def keeps_x32(patch: pytest.MonkeyPatch) -> None:
    word = audit_arch(ARM)
    good = link.link_programs
    patch.setattr(
        compiler,
        "link_programs",
        lambda *arguments: tuple((*it[:3], word) if it[3] == audit_arch(X86) else it for it in good(arguments[0], X86, X86, arguments[3])),
    )


X32 = 0x4000_0000
GETPID = 39

# bug: (rules, default, plant, architecture, the call and what it shows)
PLANTED: dict[str, tuple[str, str, Plant, Arch, str]] = {
    "64 bits of an int (CVE-2019-7303)": (
        TIOCSTI, "allow", in_tests(lambda it: (it[0], it[1] | 0xFFFF_FFFF << 32, it[2])), X86,
        "`ioctl(fd=0, cmd=TIOCSTI (register 0x100005412), arg=0)`: the filter gives allow, the policy says errno EPERM (p.toml:7)",
    ),
    "no x32 test": (
        TIOCSTI, "allow", in_program(at_first(lambda it: it[0] == bpf.JMP | bpf.JGE and it[3] == X32, lambda it: (it[0], it[2], it[2], it[3]))), X86,
        "`syscall 0x40000000()`: the filter gives allow, the policy says kill-process",
    ),
    "< for <=": (
        BOUND, "errno ENOSYS", in_comparisons(less_for_at_most), X86,
        "`lseek(fd=0, offset=4294967296, whence=SEEK_SET)`: the filter gives notify, the policy says allow (p.toml:7)",
    ),
    "a mask forgotten": (
        SOCKET, "errno ENOSYS", in_comparisons(lambda leaf: replace(leaf, mask=None)), X86,
        "`socket(family=AF_INET, type=SOCK_STREAM|0x10, protocol=0)`: the filter gives notify, the policy says allow (p.toml:8)",
    ),
    "the next argument": (
        SOCKET, "errno ENOSYS", in_tests(lambda it: (it[0] ^ 1, it[1], it[2])), X86,
        "`socket(family=AF_UNIX, type=SOCK_DGRAM, protocol=0)`: the filter gives allow, the policy says notify (p.toml:8)",
    ),
    "another errno": (
        SOCKET, "errno ENOSYS", one_errno, X86,
        "`getpid()`: the filter gives errno EPERM, the policy says errno EACCES (p.toml:14)",
    ),
    "a number off by one": (
        SOCKET, "errno ENOSYS", in_numbers(lambda number: number + (number == GETPID)), X86,
        "`getpid()`: the filter gives notify, the policy says errno EACCES (p.toml:14)",
    ),
    "a rule lost": (
        TIOCSTI, "errno ENOSYS", in_units(lambda units: [replace(units[0], rules=units[0].rules[1:]), *units[1:]]), X86,
        "`read(fd=0, buf=NULL, count=0)`: the filter gives notify, the policy says allow (p.toml:4)",
    ),
    "any for all": (SOCKET, "errno ENOSYS", any_for_all, X86,
        "`socket(family=AF_UNSPEC, type=SOCK_STREAM, protocol=0)`: the filter gives allow, the policy says notify (p.toml:8)",
    ),
    "the last match wins": (ORDER, "errno ENOSYS", last_match_wins, X86,
        "`lseek(fd=0, offset=0, whence=SEEK_SET)`: the filter gives allow, the policy says errno EACCES (p.toml:8)",
    ),
    "the wrong default": (
        SOCKET, "errno ENOSYS", in_units(lambda units: [replace(units[0], default=bpf.RET_LOG), *units[1:]]), X86,
        "`open(filename=NULL, flags=O_RDONLY, mode=0)`: the filter gives log, the policy says notify (p.toml:3)",
    ),
    "no architecture test": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it[3] == audit_arch(X86), lambda it: (it[0], it[1], it[1], it[3]))), X86,
        "`syscall 0() of architecture 0x00000000`: the filter gives allow, the policy says kill-process",
    ),
    "jumps exchanged": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it[0] == bpf.JMP | bpf.JEQ and it[3] == 2, lambda it: (it[0], it[2], it[1], it[3]))), X86,
        "`socket(family=AF_UNSPEC, type=SOCK_STREAM, protocol=0)`: the filter gives allow, the policy says notify (p.toml:8)",
    ),
    "a range off by one": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it[0] == bpf.JMP | bpf.JGE, lambda it: (it[0], it[1], it[2], it[3] + 1))), X86,
        "`exit(status=0)`: the filter gives allow, the policy says notify (p.toml:3)",
    ),
    "> for >=": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it[0] == bpf.JMP | bpf.JGE, lambda it: (bpf.JMP | bpf.JGT, *it[1:]))), X86,
        "`exit(status=0)`: the filter gives allow, the policy says notify (p.toml:3)",
    ),
    "the upper half": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it == (0x20, 0, 0, 16), lambda it: (0x20, 0, 0, 20))), X86,
        "`socket(family=AF_INET, type=SOCK_STREAM, protocol=0)`: the filter gives notify, the policy says allow (p.toml:8)",
    ),
    "the number returned": (
        SOCKET, "errno ENOSYS", in_program(at_first(lambda it: it == (bpf.RET, 0, 0, bpf.RET_ALLOW), lambda it: (bpf.RET | bpf.RET_A, 0, 0, 0))), X86,
        "`read(fd=0, buf=NULL, count=0)`: the filter gives return 0x0, the policy says allow (p.toml:4)",
    ),
    "a foreign word": (SOCKET, "errno ENOSYS", foreign_word, ARM,
        "`io_setup(nr_events=0, ctxp=NULL)`: the filter gives kill-process, the policy says notify (p.toml:3)",
    ),
    "x32 where there is none": (SOCKET, "errno ENOSYS", keeps_x32, ARM,
        "`syscall 0x40000000()`: the filter gives kill-process, the policy says notify (p.toml:3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_yields_no_filter(bug: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rules, default, plant, arch, text = PLANTED[bug]
    policy = build(rules, default)
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(InternalError) as caught:
            cache.load_filter(policy, arch, cache_dir=str(tmp_path / "filters"))
    assert caught.value.message == f"compiled policy `p` for {arch} differs from its text: {text}"
    assert not list((tmp_path / "filters").iterdir())
    # The same policy without the bug is proven and kept.
    assert cache.load_filter(policy, arch, cache_dir=str(tmp_path / "filters")).proof
    assert len(list((tmp_path / "filters").iterdir())) == 1


@pytest.mark.parametrize("bug", PLANTED)
def test_without_the_proof_the_bug_would_be_in_use(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, default, plant, arch, text = PLANTED[bug]
    policy = build(rules, default)
    monkeypatch.setattr(compiler, "_verify", lambda *arguments: "")
    with monkeypatch.context() as patch:
        plant(patch)
        made = compiler.compile_filter(policy, arch)
    result = prove(made, policy)
    assert isinstance(result, Counterexample) and str(result) == text
    # The call is a real one: run and read here, not by the prover.
    assert run_program(decode(made.bpf), result.call.data()) == result.actual != result.expected
    if result.call.arch_word == audit_arch(arch):
        decision = decide(policy, arch, result.call.number, result.call.arguments)
        assert result.rule == decision.rule and (decision.action == "notify" or result.expected & 0xFFFF == decision.errno)
