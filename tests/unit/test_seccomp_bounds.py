"""Policies made to be expensive end with a clear error after a bounded amount of work, wherever on the way the explosion is."""

from __future__ import annotations

import pytest

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError, PolicyError
from sandbox.policy import cubes
from sandbox.policy.conditions import ConditionError
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.compile import compile_filter

LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'


def build(rules: str) -> SyscallPolicy:
    text = f'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n{LAUNCH}{rules}'
    return merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)


def rule(syscall: str, when: str, action: str = "allow", otherwise: str = "") -> str:
    text = f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "{action}"\nwhen = "{when}"\nreason = "r"\n'
    return text + (f'else = "{otherwise}"\n' if otherwise else "")


def last(syscall: str) -> str:
    return f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "errno EPERM"\nreason = "r"\n'


ACTIONS = ("allow", "log", "errno EACCES")
BITS = [f"{1 << bit:#x}" for bit in range(32)]


def some_of(count: int, *arguments: str) -> str:
    """Return "one of these bits is off in all of these arguments": as many classes as there are sets of bits."""
    return " or ".join("(" + " and ".join(f"{each} & {BITS[bit]} == 0" for each in arguments) + ")" for bit in range(count)).replace(
        "()", ""
    )


def numbers(count: int, step: int, first: int = 0) -> str:
    return "{" + ", ".join(str(first + step * each) for each in range(count)) + "}"


POLICIES: dict[str, tuple[str, type[Exception], str]] = {
    "bits of one register": (
        rule("mmap", some_of(20, "prot").replace("(", "").replace(")", ""), otherwise="errno EPERM"),
        PolicyError, "condition is too complex to become a filter (`mmap` on x86_64)",
    ),
    "bits of two registers": (
        rule("mmap", some_of(16, "prot", "flags"), otherwise="errno EPERM"),
        PolicyError, "condition is too complex to become a filter (`mmap` on x86_64)",
    ),
    "bits of two registers, for many calls": (
        "".join(
            rule(syscall, some_of(7, *arguments), otherwise="errno EPERM")
            for syscall, arguments in (
                ("socket", ("family", "type")), ("socketpair", ("family", "type")), ("setpriority", ("which", "niceval")), ("getpriority", ("which", "who")),
                ("shmget", ("size", "shmflg")), ("semget", ("nsems", "semflg")), ("lseek", ("offset", "whence")), ("fchmod", ("fd", "mode")),
                ("fallocate", ("mode", "offset")),
            )
        ),
        PolicyError, "conditions are together too complex to become a filter",
    ),
    "many rules about two registers": (
        "".join(rule("mmap", f"prot & 0x3ff == {each}", ACTIONS[each % 3]) for each in range(200))
        + "".join(rule("mmap", f"flags & 0x3ff == {each}", ACTIONS[each % 3]) for each in range(70)) + last("mmap"),
        PolicyError, "conditions are together too complex to become a filter (`mmap` on x86_64)",
    ),
    "long lists": (
        "".join(rule("ioctl", f"cmd in {numbers(1200, 9, each)}", ACTIONS[each]) for each in range(3)) + last("ioctl"),
        PolicyError, "conditions are together too complex to become a filter (`ioctl` on",
    ),
    "a list of scattered values": (
        rule("ioctl", f"cmd not in {numbers(600, 7_158_278)}", "errno EACCES") + last("ioctl"),
        PolicyError, "condition is too complex to become a filter (`ioctl` on x86_64)",
    ),
    "overlapping masks": (
        rule("mmap", " or ".join(f"prot & {0x1021 << bit} == {0x1001 << bit}" for bit in range(13)), otherwise="errno EPERM"),
        CompileError, "the kernel would refuse the filter: a program has 1 to 4096 instructions, not",
    ),
    "orders of two registers": (
        rule("mmap", " or ".join(f"(len < {0x1_2345_6789 * each + 12345} and prot > {each * 12345})" for each in range(1, 30)), otherwise="errno EPERM"),
        CompileError, "its conditions are too complex to be proven: the comparison needs more than 250000 nodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", POLICIES)
def test_an_explosion_is_refused(kind: str) -> None:
    rules, error, message = POLICIES[kind]
    with pytest.raises(error) as caught:
        compile_filter(build(rules), Arch.X86_64)
    assert message in str(caught.value)


def test_what_ships_is_far_from_the_bound() -> None:
    policy = load_policy("permissive")
    with cubes.limited_work(cubes._MAXIMUM_WORK // 100):
        compile_filter(policy, Arch.X86_64)
    with pytest.raises(PolicyError, match="together too complex"), cubes.limited_work(1000):
        compile_filter(policy, Arch.X86_64)


def test_the_bound_is_for_the_whole_block_and_ends_with_it() -> None:
    one, other = [(1, 0), (1, 1)], [(2, 0), (2, 2)]
    with cubes.limited_work(10):
        with cubes.limited_work(1000):  # the outer one holds
            cubes.intersect(one, other)
            cubes.intersect(one, other)
        with pytest.raises(ConditionError):
            cubes.intersect(one, other)
    for _ in range(5):
        cubes.intersect(one, other)
