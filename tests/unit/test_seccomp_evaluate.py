"""The BPF interpreter, instruction by instruction, and the checks the kernel makes before it accepts a program."""

from __future__ import annotations

import pytest

from sandbox.seccomp.evaluate import (
    Instruction,
    RejectedError,
    check_program,
    decode,
    describe_return,
    encode,
    pack_data,
    run_program,
)

DATA = pack_data(-1, 0xC000003E, (0x1_0000_0002, 0xFFFF_FFFF_FFFF_FFFF, 7), instruction_pointer=0x5_0000_0006)
RET_A = (0x16, 0, 0, 0)


def result(*program: Instruction) -> int:
    check_program(program)
    return run_program(program, DATA)


@pytest.mark.parametrize(
    ("offset", "word"),
    [(0, 0xFFFF_FFFF), (4, 0xC000003E), (8, 6), (12, 5), (16, 2), (20, 1), (24, 0xFFFF_FFFF), (28, 0xFFFF_FFFF), (32, 7), (60, 0)],
)
def test_load_reads_seccomp_data(offset: int, word: int) -> None:
    assert result((0x20, 0, 0, offset), RET_A) == word


@pytest.mark.parametrize(
    ("code", "a", "k", "value"),
    [
        (0x04, 0xFFFF_FFFF, 2, 1),  # add wraps
        (0x14, 1, 2, 0xFFFF_FFFF),  # sub wraps
        (0x24, 0x1_0001, 0x1_0001, 0x2_0001),  # mul wraps
        (0x34, 7, 2, 3),
        (0x44, 5, 2, 7),
        (0x54, 6, 3, 2),
        (0x64, 0x8000_0001, 1, 2),
        (0x74, 0x8000_0000, 31, 1),
        (0x84, 1, 0, 0xFFFF_FFFF),
        (0xA4, 6, 3, 5),
    ],
)
def test_arithmetic(code: int, a: int, k: int, value: int) -> None:
    assert result((0x00, 0, 0, a), (code, 0, 0, k), RET_A) == value
    if code != 0x84:
        assert result((0x01, 0, 0, k), (0x00, 0, 0, a), (code | 8, 0, 0, 0), RET_A) == value


def test_division_by_an_index_of_zero_ends_the_program_with_kill() -> None:
    assert result((0x00, 0, 0, 5), (0x01, 0, 0, 0), (0x3C, 0, 0, 0), (0x06, 0, 0, 9)) == 0


def test_shift_by_an_index_uses_five_bits() -> None:
    assert result((0x00, 0, 0, 1), (0x01, 0, 0, 33), (0x6C, 0, 0, 0), RET_A) == 2


@pytest.mark.parametrize(
    ("code", "a", "k", "taken"),
    [
        (0x15, 5, 5, True),
        (0x15, 5, 6, False),
        (0x25, 6, 5, True),
        (0x25, 5, 5, False),
        (0x25, 0x8000_0000, 1, True),  # unsigned
        (0x35, 5, 5, True),
        (0x35, 4, 5, False),
        (0x45, 6, 2, True),
        (0x45, 6, 9, False),
    ],
)
def test_jumps(code: int, a: int, k: int, taken: bool) -> None:
    tail = ((0x06, 0, 0, 100), (0x06, 0, 0, 200))
    assert result((0x00, 0, 0, a), (code, 1, 0, k), *tail) == (200 if taken else 100)
    assert result((0x01, 0, 0, k), (0x00, 0, 0, a), (code | 8, 0, 1, 0), *tail) == (100 if taken else 200)


def test_scratch_registers_and_length() -> None:
    assert result((0x00, 0, 0, 8), (0x02, 0, 0, 15), (0x00, 0, 0, 0), (0x60, 0, 0, 15), RET_A) == 8
    assert result((0x01, 0, 0, 9), (0x03, 0, 0, 0), (0x60, 0, 0, 0), RET_A) == 9
    assert result((0x00, 0, 0, 8), (0x02, 0, 0, 1), (0x61, 0, 0, 1), (0x87, 0, 0, 0), RET_A) == 8
    assert result((0x00, 0, 0, 8), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x87, 0, 0, 0), RET_A) == 8
    assert result((0x80, 0, 0, 0), RET_A) == 64
    assert result((0x81, 0, 0, 0), (0x87, 0, 0, 0), RET_A) == 64
    assert result((0x05, 0, 0, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)) == 2


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ([], "1 to 4096"),
        ([(0x06, 0, 0, 0)] * 4097, "1 to 4096"),
        ([(0x20, 0, 0, 0)], "does not return"),
        ([(0x20, 0, 0, 64), RET_A], "outside seccomp_data"),
        ([(0x20, 0, 0, 2), RET_A], "unaligned"),
        ([(0x30, 0, 0, 0), RET_A], "opcode 0x30"),
        ([(0x94, 0, 0, 3), RET_A], "opcode 0x94"),
        ([(0x34, 0, 0, 0), RET_A], "division by zero"),
        ([(0x64, 0, 0, 32), RET_A], "shift by 32"),
        ([(0x02, 0, 0, 16), RET_A], "scratch word 16"),
        ([(0x60, 0, 0, 3), RET_A], "read before it is written"),
        ([(0x15, 0, 1, 3), (0x02, 0, 0, 0), (0x60, 0, 0, 0), RET_A], "read before it is written"),
        ([(0x05, 0, 0, 1), RET_A], "jump out"),
        ([(0x15, 0, 1, 0), RET_A], "jump out"),
    ],
)
def test_what_the_kernel_refuses(program: list[Instruction], why: str) -> None:
    with pytest.raises(RejectedError, match=why):
        check_program(program)


def test_coding_is_struct_sock_filter() -> None:
    program = ((0x15, 1, 2, 0xC000003E), (0x06, 0, 0, 0x7FFF0000))
    assert encode(program) == bytes.fromhex("1500 0102 3e0000c0 0600 0000 0000ff7f")
    assert decode(encode(program)) == program
    with pytest.raises(RejectedError):
        decode(b"1234567")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0x7FFF_0000, "allow"),
        (0x7FFC_0000, "log"),
        (0x7FC0_0000, "notify"),
        (0x0003_0000, "trap"),
        (0x8000_0000, "kill-process"),
        (0x0005_0001, "errno EPERM"),
        (0x7FF0_0001, "return 0x7ff00001"),
    ],
)
def test_returns_read_as_actions(value: int, text: str) -> None:
    assert describe_return(value) == text
