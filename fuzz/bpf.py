"""Builds BPF programs out of decisions, and runs them in a third way: each opcode one line, as linux/filter.h and bpf(4) describe it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuzz.choose import Chooser

Instruction = tuple[int, int, int, int]

_U32 = 0xFFFF_FFFF
_OPERATIONS = (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0)
_PLAIN = (0x20, 0x00, 0x01, 0x80, 0x81, 0x02, 0x03, 0x60, 0x61, 0x07, 0x87, 0x84)
_ODD = (0x28, 0x30, 0x40, 0x48, 0x50, 0xB1, 0x94, 0x9C, 0xA4 | 8 << 1, 0x0E, 0x16, 0x25 | 0x80, 0xFFFF, 0x108, 0x18, 0x8C, 0x0D)
_VALUES = (0, 1, 2, 31, 32, 0xFF, 0x8000_0000, _U32, 0x7FFF_0000, 0x5_0001, 110, 1000, 0x4000_0000, 0xC000_003E)
_RETURNS = (0x7FFF0000, 0x50001, 0x50FFF, 0x5FFFF, 0x30000, 0x7FC00000, 0x7FFC0000, 0x80000000, 0, 0x7FF00000, 0x12345678)


def program(chooser: Chooser, *, wrong: bool = False) -> tuple[Instruction, ...]:
    """Return a program; with `wrong` one in which something may be what the kernel does not take."""
    size = chooser.integer(1, 24)
    result: list[Instruction] = []
    stored: set[int] = set()
    for at in range(size - 1):
        left = size - at - 2  # how far a jump may go
        kind = chooser.integer(0, 9)
        k = chooser.pick(_VALUES) if chooser.odds(2) else chooser.integer(0, _U32)
        if wrong and chooser.odds(12):
            jumps = chooser.integer(0, 255), chooser.integer(0, 255)
            result.append((chooser.pick(_ODD) if chooser.odds(2) else chooser.integer(0, 0xFF), *jumps, k & chooser.pick((_U32, 15, 63))))
        elif kind <= 1:
            result.append((0x20, 0, 0, 4 * chooser.integer(0, 15)))
        elif kind <= 4 and left > 0:
            test = chooser.pick((0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D))
            result.append((test, chooser.integer(0, left), chooser.integer(0, left), k))
        elif kind == 5 and left > 0 and chooser.odds(3):
            result.append((0x05, 0, 0, chooser.integer(0, left)))
        elif kind == 6:
            code = chooser.pick(_PLAIN)
            word = chooser.integer(0, 15)
            if code in (0x60, 0x61):
                # A word stored on every way here, or at least on some: the kernel wants the former.
                word = chooser.pick(sorted(stored)) if stored else word
                code = code if stored else 0x02
            if code in (0x02, 0x03):
                stored.add(word)
            result.append((code, 0, 0, word if code in (0x02, 0x03, 0x60, 0x61) else 4 * word if code == 0x20 else k))
        elif kind == 7 and chooser.odds(4):
            result.append((0x06, 0, 0, chooser.pick(_RETURNS)))
        else:
            operation = chooser.pick(_OPERATIONS)
            source = 8 * chooser.integer(0, 1)
            if operation in (0x60, 0x70) and not source:
                k &= 31
            if operation == 0x30 and not source:
                k = k or 1
            result.append((0x04 | operation | source, 0, 0, k))
    result.append((0x16, 0, 0, 0) if chooser.odds(3) else (0x06, 0, 0, chooser.pick(_RETURNS)))
    if wrong and chooser.odds(8):
        result.pop()
    return tuple(result)


_ARITHMETIC: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, y: a + y,
    0x10: lambda a, y: a - y,
    0x20: lambda a, y: a * y,
    0x30: lambda a, y: a // y,
    0x40: lambda a, y: a | y,
    0x50: lambda a, y: a & y,
    0x60: lambda a, y: a << y % 32,
    0x70: lambda a, y: a >> y % 32,
    0xA0: lambda a, y: a ^ y,
}
_TESTS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, y: a == y,
    0x20: lambda a, y: a > y,
    0x30: lambda a, y: a >= y,
    0x40: lambda a, y: a & y != 0,
}


def run(program: Sequence[Instruction], data: bytes) -> int:
    """Return what a program returns for a struct seccomp_data."""
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 64, 4)]
    a, x, at = 0, 0, 0
    m: dict[int, int] = {}
    while True:
        code, jt, jf, k = program[at]
        at += 1
        y = x if code & 8 else k
        match code:
            case 0x06:
                return k
            case 0x16:
                return a
            case 0x20:
                a = words[k // 4]
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0x80:
                a = 64
            case 0x81:
                x = 64
            case 0x60:
                a = m[k]
            case 0x61:
                x = m[k]
            case 0x02:
                m[k] = a
            case 0x03:
                m[k] = x
            case 0x07:
                x = a
            case 0x87:
                a = x
            case 0x84:
                a = -a % (1 << 32)
            case 0x05:
                at += k
            case _ if code & 7 == 5:
                at += jt if _TESTS[code & 0xF0](a, y) else jf
            case 0x3C if y == 0:
                return 0
            case _:
                a = _ARITHMETIC[code & 0xF0](a, y) & _U32
