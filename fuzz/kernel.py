"""The kernel as a judge of BPF programs: whether it takes one, and what one returns."""

from __future__ import annotations

import atexit
import functools
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.abi.arch import native_arch
from sandbox.abi.tables import syscall_number

Instruction = tuple[int, int, int, int]

_ALLOW = 0x7FFF0000
_ERRNO = 0x50000
SIGSYS = 31
HARMLESS_FROM = 1000

# The program under test judges only calls that do nothing; what the child itself still needs is allowed before it. The last line undoes the load.
PREFIX = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """`refused` is the errno with which the kernel refused the program, 0 if it took it; `code` is how the child ended, negative for a signal;
    `results` the errno of each call that returned."""

    refused: int
    code: int
    results: tuple[int, ...]


def getppid() -> int:
    """Return the number of getppid here."""
    number = syscall_number(native_arch(), "getppid")
    assert number is not None
    return number


def guarded(program: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Return a program that judges harmless calls as the given one does, and allows all others."""
    return (
        (0x20, 0, 0, 0),  # A = number
        (0x35, 2, 0, HARMLESS_FROM),
        (0x15, 1, 0, getppid()),
        (0x06, 0, 0, _ALLOW),
        (0x00, 0, 0, 0),  # A = 0, as at a program's start
        *program,
    )


def told(program: Sequence[Instruction], shift: int) -> tuple[Instruction, ...] | None:
    """Return a program that answers with twelve bits of what the given one returns, as an errno; None when a jump becomes too long.

    Args:
        program: what the kernel takes.
        shift: the lowest of the bits that are told.
    """
    starts: list[int] = []
    size = 0
    for code, _, _, _ in program:
        starts.append(size)
        size += 4 if code == 0x16 else 1
    result: list[Instruction] = []
    for at, (code, jt, jf, k) in enumerate(program):
        here = starts[at]
        if code == 0x06:
            result.append((code, 0, 0, _ERRNO | k >> shift & 0xFFF))
        elif code == 0x16:
            result += [(0x74, 0, 0, shift), (0x54, 0, 0, 0xFFF), (0x44, 0, 0, _ERRNO), (0x16, 0, 0, 0)]
        elif code == 0x05:
            result.append((code, jt, jf, starts[at + 1 + k] - here - 1))
        elif code & 7 == 5:
            new = (starts[at + 1 + jt] - here - 1, starts[at + 1 + jf] - here - 1)
            if max(new) > 255:
                return None
            result.append((code, *new, k))
        else:
            result.append((code, jt, jf, k))
    return tuple(result)


def stop() -> None:
    """End the process that asks; the next question starts another."""
    if server.cache_info().currsize:
        process = server()
        server.cache_clear()
        if process is not None:
            atexit.unregister(process.kill)
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


@functools.cache
def server() -> subprocess.Popen[bytes] | None:
    """Return the process that asks, None where filters cannot be installed."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("kernel_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", "")},
    )
    atexit.register(process.kill)
    assert process.stdin is not None
    answer = _ask(process, ((0x06, 0, 0, _ALLOW),), ())
    return process if answer.refused == 0 and answer.code == 0 else None


def ask(program: Sequence[Instruction], calls: Sequence[tuple[int, Sequence[int]]] = ()) -> Answer | None:
    """Return the kernel's answer, None where it cannot be asked.

    Args:
        program: `guarded`.
        calls: number and six registers of each.
    """
    process = server()
    return None if process is None else _ask(process, program, calls)


def _ask(process: subprocess.Popen[bytes], program: Sequence[Instruction], calls: Sequence[tuple[int, Sequence[int]]]) -> Answer:
    assert process.stdin is not None and process.stdout is not None
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    process.stdin.write(struct.pack("<II", len(code), len(calls)) + code)
    process.stdin.write(b"".join(struct.pack("<q6Q", number, *registers) for number, registers in calls))
    process.stdin.flush()
    ended, size = struct.unpack("<iI", process.stdout.read(8))
    words = [word for (word,) in struct.iter_unpack("<i", process.stdout.read(size))]
    return Answer(refused=words[0] if words else -1, code=ended, results=tuple(words[1:]))
