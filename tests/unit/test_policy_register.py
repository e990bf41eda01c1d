"""``register(…)`` in conditions: the whole register, in all three readings of the language (the definition, the cubes, the prover)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.abi.arch import Arch
from sandbox.errors import PolicyError
from sandbox.policy.check import check_policy
from sandbox.policy.conditions import ConditionError, holds, parse_condition
from sandbox.policy.load import GROUPS, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.evaluate import RET_ALLOW, RET_ERRNO, decode, pack_data, run_program
from sandbox.seccomp.prove import PolicyDecider, differences

X86 = Arch.X86_64
AF_VSOCK = 40
HIGH = 1 << 32


def policy(when: str, syscall: str = "socket", action: str = "allow", other: str = "errno EPERM") -> SyscallPolicy:
    text = f'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n[[rule]]\nsyscalls = ["{syscall}"]\naction = "{action}"\n'
    text += f"when = '{when}'\nelse = \"{other}\"\n"
    return merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)


def test_the_bits_above_an_int_count_in_a_register_only() -> None:
    calls = ([AF_VSOCK, 1, 0], [AF_VSOCK | HIGH, 1, 0])
    assert [holds(parse_condition("family == AF_VSOCK"), "socket", X86, call) for call in calls] == [True, True]
    assert [holds(parse_condition("register(family) == AF_VSOCK"), "socket", X86, call) for call in calls] == [True, False]
    assert [holds(parse_condition("register(0) == AF_VSOCK"), "socket", X86, call) for call in calls] == [True, False]
    assert [holds(parse_condition("(register(family) & 0x100000000) == 0"), "socket", X86, call) for call in calls] == [True, False]


def test_the_filter_compares_what_the_text_says() -> None:
    program = decode(compile_filter(policy("register(family) != AF_VSOCK"), X86, notify=False, launch=False).bpf)
    results = [run_program(program, pack_data(41, 0xC000003E, (family,))) for family in (AF_VSOCK, AF_VSOCK | HIGH, 1)]
    assert results == [RET_ERRNO | 1, RET_ALLOW, RET_ALLOW]


def test_the_prover_tells_the_two_meanings_apart_by_a_call() -> None:
    found = differences(PolicyDecider(policy("register(family) != AF_VSOCK"), X86), PolicyDecider(policy("family != AF_VSOCK"), X86), X86)
    assert [difference.call.arguments[0] & 0xFFFF_FFFF for difference in found] == [AF_VSOCK]
    assert found[0].call.arguments[0] > 0xFFFF_FFFF and found[0].left == RET_ALLOW


@pytest.mark.parametrize("when", ["register(addr) == 0x1000", "register(5) == 1", "register(2) & 3 in {1, 2}"])
def test_pointers_and_registers_without_an_argument_have_registers_too(when: str) -> None:
    found = policy(when, syscall="munmap")
    check_policy(found)
    compile_filter(found, X86, launch=False)  # which proves it, too


def test_refusing_values_of_an_argument_whose_type_depends_takes_the_explicit_form() -> None:
    with pytest.raises(PolicyError, match="can be bypassed"):
        check_policy(policy("arg == 5", "fcntl", "errno EPERM", "allow"))
    check_policy(policy("register(arg) == 5", "fcntl", "errno EPERM", "allow"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("register() == 1", "condition needs an argument's name or a register's number, 0 to 5, in `register(...)`"),
        ("register(6) == 1", "condition needs an argument's name or a register's number, 0 to 5, in `register(...)`"),
        ("register(not) == 1", "condition needs an argument's name or a register's number, 0 to 5, in `register(...)`"),
        ("register(family == 1", "condition needs `)` after the register, not `==`"),
        ("register == 1", None),
    ],
)
def test_bad_forms_are_refused(text: str, message: str | None) -> None:
    if message is None:  # a plain name; that no syscall has such an argument is found with the signature
        with pytest.raises(PolicyError, match="no argument `register`"):
            check_policy(policy(text))
        return
    with pytest.raises(ConditionError) as caught:
        parse_condition(text)
    assert str(caught.value) == message


def test_an_unknown_name_in_a_register_is_refused() -> None:
    with pytest.raises(PolicyError, match="no argument `famly`"):
        check_policy(policy("register(famly) == 1"))


@given(st.integers(0, (1 << 64) - 1), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.integers(0, (1 << 64) - 1))
def test_a_register_compares_as_64_bits(value: int, operator: str, actual: int) -> None:
    expected = {
        "==": actual == value,
        "!=": actual != value,
        "<": actual < value,
        "<=": actual <= value,
        ">": actual > value,
        ">=": actual >= value,
    }[operator]
    assert holds(parse_condition(f"register(type) {operator} {value}"), "socket", X86, [0, actual, 0]) is expected
