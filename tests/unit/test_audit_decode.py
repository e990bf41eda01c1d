"""What a denied call's numbers are called in a record."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_names, syscall_number
from sandbox.audit.decode import decode_arguments, name_arch, name_syscall

UNSAVED = settings(database=None)  # the checkout may belong to another user
TIOCSTI = 0x5412


@pytest.mark.parametrize(("arch", "number", "name"), [(Arch.X86_64, 227, "clock_settime"), (Arch.AARCH64, 112, "clock_settime")])
def test_a_syscall_has_the_name_of_its_own_architecture(arch: Arch, number: int, name: str) -> None:
    assert name_syscall(arch, number) == name


@pytest.mark.parametrize("number", [-1, 1021, 0x40000000, 2**31 - 1, -(2**31)])
def test_an_unknown_number_is_named_by_itself(number: int) -> None:
    assert name_syscall(Arch.X86_64, number) == f"#{number}"


def test_architectures() -> None:
    assert [name_arch(word) for word in (0xC000003E, 0xC00000B7, 0x40000003, 0x15)] == ["x86_64", "aarch64", "i386", "0x00000015"]


@pytest.mark.parametrize(
    ("syscall", "args", "expected"),
    [
        ("clock_settime", (0, 0x7FFF1000), ("clockid=CLOCK_REALTIME", "tp=0x7fff1000")),
        ("getppid", (1, 2), ()),
        ("ioctl", (0, TIOCSTI, 0x10), ("fd=0", "cmd=TIOCSTI", "arg=0x10")),
        ("socket", (40, 1, 0), ("family=AF_VSOCK", "type=SOCK_STREAM", "protocol=0")),
        ("#1021", (1, 2), ()),
    ],
)
def test_arguments_in_words(syscall: str, args: tuple[int, ...], expected: tuple[str, ...]) -> None:
    assert decode_arguments(Arch.X86_64, syscall, (*args, *[0xDEAD] * (6 - len(args)))) == expected


def test_bits_that_the_kernel_drops_show() -> None:
    """TIOCSTI | 1 << 32 is TIOCSTI (CVE-2019-7303); the record says both."""
    command = decode_arguments(Arch.X86_64, "ioctl", (0, TIOCSTI | 1 << 32, 0, 0, 0, 0))[1]
    assert command.startswith("cmd=TIOCSTI") and "0x100005412" in command


@pytest.mark.parametrize("arch", Arch)
@UNSAVED
@given(st.data())
def test_every_call_with_any_registers_is_decoded(arch: Arch, data: st.DataObject) -> None:
    """The payload chooses the registers, so decoding must not fail on any."""
    name = data.draw(st.sampled_from(sorted(syscall_names(arch))))
    args = data.draw(st.tuples(*[st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300))] * 6))
    number = syscall_number(arch, name)
    assert number is not None and name_syscall(arch, number) == name
    assert len(decode_arguments(arch, name, args)) <= 6
