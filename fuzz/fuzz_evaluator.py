"""Random BPF programs: whether they are valid is asked of the kernel, what they return of four judges.

`check_program` must take exactly what seccomp(2) takes. For a valid program and a call, `run_program`, a second interpreter, the prover's symbolic
reading at that call, and the kernel that really runs it must give one value; all 32 bits of it are asked of the kernel, twelve at a time.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import bpf, kernel
    from fuzz.choose import Bytes, Chooser
    from sandbox.abi.arch import audit_arch, native_arch
    from sandbox.seccomp.disassemble import disassemble
    from sandbox.seccomp.evaluate import Instruction, RejectedError, check_program, decode, describe_return, encode, pack_data, run_program
    from sandbox.seccomp.filter import make_filter
    from sandbox.seccomp.prove_diagram import OTHER, Diagram, UnprovableError
    from sandbox.seccomp.prove_program import SymbolicProgram, returned_values

EINVAL = 22
Calls = list[tuple[int, tuple[int, ...]]]


def one_input(data: bytes) -> str:
    """See `programs`; an input that begins with 0xff is a program as it stands."""
    if data[:1] == b"\xff" and len(data) >= 9:
        program = tuple(struct.iter_unpack("<HBBI", data[1 : 1 + (len(data) - 1) // 8 * 8]))
        return judge(Bytes(data[::-1]), program)
    return programs(Bytes(data))


def programs(chooser: Chooser) -> str:
    """Build one program and ask everybody."""
    return judge(chooser, bpf.program(chooser, wrong=chooser.odds(4)))


def judge(chooser: Chooser, program: tuple[Instruction, ...]) -> str:
    """Compare the judges on one program."""
    assert decode(encode(program)) == program
    try:
        check_program(program)
        refused = ""
    except RejectedError as error:
        refused = str(error)
    whole = kernel.guarded(program)
    answer = kernel.ask(whole)
    if answer is not None and len(whole) <= 4096:
        assert answer.refused in (0, EINVAL), answer
        assert (answer.refused == EINVAL) is bool(refused), f"kernel: {answer}, check_program: {refused or 'fine'}; {program}"
    if refused:
        return "".join(letter for letter in refused if not letter.isdigit())
    calls = some_calls(chooser)
    arch = native_arch()
    values = []
    for number, registers in calls:
        data = pack_data(number, audit_arch(arch), registers, chooser.pick((0, 0xFFFF_8000_0000_1234)))
        values.append(run_program(program, data))
        second = bpf.run(program, struct.pack("<16I", *data))
        assert values[-1] == second, f"evaluator {values[-1]:#x}, second interpreter {second:#x}; {program} {data}"
        assert describe_return(values[-1])
    listing = disassemble(make_filter(encode(program), arch=arch, policy="p", policy_digest="", notify=True))
    assert listing.count("\n") >= len(program)
    symbolic(chooser, program, calls)
    executed(chooser, program, calls)
    return f"{len(program).bit_length()} instructions, {len(set(values))} values"


def some_calls(chooser: Chooser) -> Calls:
    """Return calls that do nothing whatever a filter lets through."""
    calls: Calls = []
    for _ in range(5):
        number = chooser.pick((kernel.getppid(), 1000, 0x3FFF_FFFF, 0x4000_03E8, -1, -2, 0x7FFF_FFFF, chooser.integer(1000, 0xFFFF_FFFF)))
        wide = (chooser.integer(0, (1 << 64) - 1), chooser.integer(0, 0xFFFF_FFFF), 1 << 32, 0, 1, (1 << 64) - 1)
        calls.append((number - (1 << 32) if number >= 1 << 31 else number, tuple(chooser.pick(wide) for _ in range(6))))
    return calls


def symbolic(chooser: Chooser, program: tuple[Instruction, ...], calls: Calls) -> None:
    """Compare the prover's reading with the evaluator's, call by call."""
    try:
        diagram = Diagram(maximum_nodes=8000)
        values = returned_values(program)
        node = SymbolicProgram(diagram, program, values).result()
    except UnprovableError:
        return
    for number, registers in calls:
        data = pack_data(number, audit_arch(native_arch()), registers, chooser.integer(0, (1 << 64) - 1))
        actual = run_program(program, data)
        said = diagram.value(diagram.at(node, data))
        assert said == (actual if actual in values else OTHER), f"prover {said}, evaluator {actual:#x}; {program} {data}"


def executed(chooser: Chooser, program: tuple[Instruction, ...], calls: Calls) -> None:
    """Compare what the kernel's own interpreter or compiler makes of a program with the evaluator's value."""
    if any(code == 0x20 and k in (8, 12) for code, _, _, k in program):
        return  # where in libc the call is made is not known here
    shift = chooser.pick((0, 12, 24))
    telling = kernel.told(program, shift)
    if telling is None:
        return
    answer = kernel.ask(kernel.guarded(telling), calls)
    if answer is None:
        return
    assert answer.refused == 0, answer
    wanted: list[int] = []
    for number, registers in calls:
        value = run_program(telling, pack_data(number, audit_arch(native_arch()), registers))
        if value == 0:
            break  # a division by zero ends the program with 0, which kills
        whole = run_program(program, pack_data(number, audit_arch(native_arch()), registers))
        assert value == 0x50000 | whole >> shift & 0xFFF
        wanted.append(value & 0xFFF)
    killed = len(wanted) < len(calls)
    assert list(answer.results) == wanted and answer.code == (-kernel.SIGSYS if killed else 0), (
        f"kernel {answer}, evaluator {wanted}; {program}"
    )


if __name__ == "__main__":
    engine.main("evaluator", one_input, [bytes((seed * each) & 255 for each in range(1, 200)) for seed in range(1, 8)])
