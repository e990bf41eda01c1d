"""Runs a seccomp BPF program as the kernel does, and checks it as the kernel does before it lets one in.

Classic BPF, 32-bit accumulator and index, sixteen words of scratch, forward jumps only. Pure; no shortcut may be taken here that the kernel does not
take, because the tests hold filters and the prover to this. Imported by `seccomp.compile`, the prover, tools and tests.

Source: net/core/filter.c (bpf_check_classic, check_load_and_stores), kernel/seccomp.c (seccomp_check_filter).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from sandbox.seccomp.filter import INSTRUCTION_BYTES, MAXIMUM_INSTRUCTIONS

Instruction = tuple[int, int, int, int]
"""code, jt, jf, k."""

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, MEM, LEN = 0x00, 0x20, 0x60, 0x80
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
X = 0x08
RET_A = 0x10
TXA = 0x80
SECCOMP_DATA_BYTES = 64
_MEMORY_WORDS = 16
_U32 = 0xFFFF_FFFF

RET_KILL_PROCESS = 0x8000_0000
RET_TRAP = 0x0003_0000
RET_ERRNO = 0x0005_0000
RET_USER_NOTIF = 0x7FC0_0000
RET_LOG = 0x7FFC_0000
RET_ALLOW = 0x7FFF_0000

_ALU_OPERATIONS = (ADD, SUB, MUL, DIV, AND, OR, XOR, LSH, RSH)
_ALLOWED = frozenset(
    [LD | ABS, LD | LEN, LDX | LEN, LD | IMM, LDX | IMM, LD | MEM, LDX | MEM, ST, STX, RET, RET | RET_A, MISC, MISC | TXA]
    + [ALU | operation | source for operation in _ALU_OPERATIONS for source in (0, X)]
    + [ALU | NEG, JMP | JA]
    + [JMP | test | source for test in (JEQ, JGT, JGE, JSET) for source in (0, X)]
)


class RejectedError(ValueError):
    """The kernel would refuse this program with EINVAL."""


def decode(bpf: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of a program given as an array of little-endian struct sock_filter.

    Raises:
        RejectedError: it is not a whole number of instructions.
    """
    if len(bpf) % INSTRUCTION_BYTES:
        raise RejectedError(f"{len(bpf)} bytes are not a whole number of instructions")
    return tuple(struct.iter_unpack("<HBBI", bpf))


def encode(program: Sequence[Instruction]) -> bytes:
    """Return a program as an array of little-endian struct sock_filter."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def check_program(program: Sequence[Instruction]) -> None:
    """Refuse what the kernel refuses.

    Raises:
        RejectedError: with the instruction's number.
    """
    size = len(program)
    if not 0 < size <= MAXIMUM_INSTRUCTIONS:
        raise RejectedError(f"a program has 1 to {MAXIMUM_INSTRUCTIONS} instructions, not {size}")
    valid = 0
    masks = [0xFFFF] * size
    for at, (code, jt, jf, k) in enumerate(program):
        if code not in _ALLOWED:
            raise RejectedError(f"instruction {at}: opcode {code:#x} is not allowed in a filter")
        if code == LD | ABS and (k >= SECCOMP_DATA_BYTES or k & 3):
            raise RejectedError(f"instruction {at}: load at {k} is outside seccomp_data or unaligned")
        if code == ALU | DIV and k == 0:
            raise RejectedError(f"instruction {at}: division by zero")
        if code in (ALU | LSH, ALU | RSH) and k >= 32:
            raise RejectedError(f"instruction {at}: shift by {k}")
        if code in (LD | MEM, LDX | MEM, ST, STX) and k >= _MEMORY_WORDS:
            raise RejectedError(f"instruction {at}: scratch word {k}")
        valid &= masks[at]
        if code in (ST, STX):
            valid |= 1 << k
        elif code in (LD | MEM, LDX | MEM) and not valid & 1 << k:
            raise RejectedError(f"instruction {at}: scratch word {k} is read before it is written")
        elif code & 7 == JMP:
            for offset in (k,) if code == JMP | JA else (jt, jf):
                if at + 1 + offset >= size:
                    raise RejectedError(f"instruction {at}: jump out of the program")
                masks[at + 1 + offset] &= valid
            valid = 0xFFFF
    if program[-1][0] & 7 != RET:
        raise RejectedError("the last instruction does not return")


def pack_data(number: int, arch_word: int, arguments: Sequence[int], instruction_pointer: int = 0) -> tuple[int, ...]:
    """Return struct seccomp_data as sixteen little-endian 32-bit words.

    Args:
        number: the syscall number, signed or unsigned.
        arch_word: AUDIT_ARCH_*.
        arguments: up to six registers; missing ones are 0.
        instruction_pointer: where the call was made.
    """
    words = [number & _U32, arch_word & _U32, instruction_pointer & _U32, instruction_pointer >> 32 & _U32]
    for index in range(6):
        argument = arguments[index] if index < len(arguments) else 0
        words += [argument & _U32, argument >> 32 & _U32]
    return tuple(words)


def run_program(program: Sequence[Instruction], data: Sequence[int]) -> int:
    """Return the 32-bit value with which a checked program ends for a call.

    Args:
        program: instructions that `check_program` accepts.
        data: sixteen words, as `pack_data` makes them.
    """
    a = x = at = 0
    memory = [0] * _MEMORY_WORDS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind = code & 7
        if kind == JMP:
            test = code & 0xF0
            if test == JA:
                at += k
                continue
            operand = x if code & X else k
            if test == JEQ:
                taken = a == operand
            elif test == JGT:
                taken = a > operand
            elif test == JGE:
                taken = a >= operand
            else:
                taken = bool(a & operand)
            at += jt if taken else jf
        elif kind == LD:
            mode = code & 0xE0
            a = data[k >> 2] if mode == ABS else k if mode == IMM else memory[k] if mode == MEM else SECCOMP_DATA_BYTES
        elif kind == RET:
            return a if code & 0x18 == RET_A else k
        elif kind == ALU:
            operation = code & 0xF0
            operand = x if code & X else k
            if operation == DIV and operand == 0:
                return 0  # the kernel ends the program with 0, which is KILL_THREAD
            a = _compute(operation, a, operand)
        elif kind == LDX:
            mode = code & 0xE0
            x = k if mode == IMM else memory[k] if mode == MEM else SECCOMP_DATA_BYTES
        elif kind == ST:
            memory[k] = a
        elif kind == STX:
            memory[k] = x
        elif code & TXA:
            a = x
        else:
            x = a


def _compute(operation: int, a: int, operand: int) -> int:
    if operation == AND:
        return a & operand
    if operation == OR:
        return a | operand
    if operation == XOR:
        return a ^ operand
    if operation == ADD:
        return (a + operand) & _U32
    if operation == SUB:
        return (a - operand) & _U32
    if operation == MUL:
        return (a * operand) & _U32
    if operation == DIV:
        return a // operand
    if operation == LSH:
        return (a << (operand & 31)) & _U32
    if operation == RSH:
        return a >> (operand & 31)
    return -a & _U32


def describe_return(value: int) -> str:
    """Return a filter's return value in the policy language's words, as ``errno EPERM``."""
    import errno

    action, data = value & 0xFFFF_0000, value & 0xFFFF
    if action == RET_ERRNO:
        return f"errno {errno.errorcode.get(data, data)}"
    plain = {RET_ALLOW: "allow", RET_LOG: "log", RET_USER_NOTIF: "notify", RET_TRAP: "trap", RET_KILL_PROCESS: "kill-process"}
    return plain.get(action, f"return {value:#x}") if not data else f"return {value:#x}"
