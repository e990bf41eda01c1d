"""What checks the prover without it: calls found by running programs, and somebody else's solver. Used by `mutate.py` and the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.evaluate import Instruction, pack_data
from sandbox.seccomp.prove_diagram import ARCH, NUMBER

_U32 = 0xFFFF_FFFF
_WORDS = 16
Words = tuple[int, ...]


def trace(program: Sequence[Instruction], data: Words) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Return the instructions that a call runs, and (word, mask, constant) of each comparison on the way."""
    at, ran, tests = 0, [], []
    word, mask = -1, _U32
    while True:
        ran.append(at)
        code, jt, jf, k = program[at]
        if code == bpf.LD | bpf.ABS:
            word, mask = k >> 2, _U32
        elif code == bpf.ALU | bpf.AND:
            mask &= k
        elif code & 7 == bpf.RET:
            return ran, tests
        elif code == bpf.JMP | bpf.JA:
            at += k
        else:
            tests.append((word, mask, k))
            value = data[word] & mask
            test = code & 0xF0
            taken = value == k if test == bpf.JEQ else value > k if test == bpf.JGT else value >= k if test == bpf.JGE else bool(value & k)
            at += jt if taken else jf
        at += 1


def near(k: int) -> list[int]:
    return sorted({value & _U32 for value in (0, _U32, k, k + 1, k - 1, *(k ^ 1 << bit for bit in range(32)))})


def calls_by_instruction(program: Sequence[Instruction], per_instruction: int = 400) -> list[list[Words]]:
    """Return for each instruction calls that reach it: from plain ones outwards, around every constant that is met on a new way.

    Only for what libseccomp makes (loads, masks, comparisons, returns). Nothing of the prover is used.
    """
    own = next(k for code, _, _, k in program if code == bpf.JMP | bpf.JEQ)
    numbers = {*range(512), -1, 0x3FFF_FFFF, 0x4000_0000, 0x7FFF_FFFF, -(1 << 31)}
    seeds: list[Words] = [pack_data(number, own, (0,) * 6) for number in sorted(numbers)] + [pack_data(0, word, ()) for word in near(own)]
    reached: list[list[Words]] = [[] for _ in program]
    ways: set[tuple[int, ...]] = set()
    tried: set[Words] = set()
    while seeds:
        data = seeds.pop()
        if data in tried:
            continue
        tried.add(data)
        ran, tests = trace(program, data)
        for at in ran:
            if len(reached[at]) < per_instruction:
                reached[at].append(data)
        way = tuple(ran)
        if way in ways:
            continue
        ways.add(way)
        for word, mask, k in tests:
            if word == ARCH:
                continue
            for value in near(k):
                filled = value if word == NUMBER else (value & mask) | (data[word] & ~mask)
                seeds.append((*data[:word], filled, *data[word + 1 :]))
    return reached


# ---------------------------------------------------------------- exact, by somebody else's solver


def smt_differs(one: Sequence[Instruction], two: Sequence[Instruction]) -> bool:
    """Tell by an SMT solver whether two programs give any call different values.

    Raises:
        ImportError: `z3-solver` is not installed.
    """
    import z3  # type: ignore[import-not-found]

    data = [z3.BitVec(f"word{index}", 32) for index in range(_WORDS)]
    solver = z3.SolverFor("QF_BV")
    solver.add(_smt_result(z3, one, data) != _smt_result(z3, two, data))
    answer = solver.check()
    if answer == z3.unknown:
        raise RuntimeError("the solver gave up")
    return bool(answer == z3.sat)


def _smt_result(z3: object, program: Sequence[Instruction], data: list[object]) -> object:
    """Return a program's result as a term: states that meet are merged under the conditions of their ways."""
    zero = z3.BitVecVal(0, 32)
    # Per instruction: (condition of being there, A, X, scratch words).
    states: list[tuple[object, list[object]] | None] = [None] * len(program)
    states[0] = (z3.BoolVal(True), [zero] * 18)
    result = zero

    def go(target: int, condition: object, slots: list[object]) -> None:
        known = states[target]
        if known is None:
            states[target] = (condition, slots)
            return
        merged = [old if old is new else z3.If(condition, new, old) for old, new in zip(known[1], slots, strict=True)]
        states[target] = (z3.Or(known[0], condition), merged)

    for at, (code, jt, jf, k) in enumerate(program):
        state = states[at]
        if state is None:
            continue
        here, slots = state[0], list(state[1])
        a, x = slots[16], slots[17]
        kind = code & 7
        operand = x if code & bpf.X else z3.BitVecVal(k, 32)
        if kind == bpf.RET:
            result = z3.If(here, a if code & 0x18 == bpf.RET_A else operand if not code & bpf.X else x, result)
            continue
        if kind == bpf.JMP:
            test = code & 0xF0
            if test == bpf.JA:
                go(at + 1 + k, here, slots)
                continue
            holds = (
                a == operand
                if test == bpf.JEQ
                else z3.UGT(a, operand)
                if test == bpf.JGT
                else z3.UGE(a, operand)
                if test == bpf.JGE
                else a & operand != 0
            )
            go(at + 1 + jt, z3.And(here, holds), slots)
            go(at + 1 + jf, z3.And(here, z3.Not(holds)), slots)
            continue
        if kind in (bpf.LD, bpf.LDX):
            mode = code & 0xE0
            loaded = data[k >> 2] if mode == bpf.ABS else slots[k] if mode == bpf.MEM else z3.BitVecVal(k if mode == bpf.IMM else 64, 32)
            slots[16 if kind == bpf.LD else 17] = loaded
        elif kind in (bpf.ST, bpf.STX):
            slots[k] = a if kind == bpf.ST else x
        elif kind == bpf.MISC:
            slots[16 if code & bpf.TXA else 17] = x if code & bpf.TXA else a
        else:
            operation = code & 0xF0
            if operation == bpf.DIV:
                result = z3.If(z3.And(here, operand == 0), zero, result)
                here = z3.And(here, operand != 0)
            terms: dict[int, Callable[[], object]] = {
                bpf.ADD: lambda a=a, b=operand: a + b,
                bpf.SUB: lambda a=a, b=operand: a - b,
                bpf.MUL: lambda a=a, b=operand: a * b,
                bpf.DIV: lambda a=a, b=operand: z3.UDiv(a, b),
                bpf.OR: lambda a=a, b=operand: a | b,
                bpf.AND: lambda a=a, b=operand: a & b,
                bpf.XOR: lambda a=a, b=operand: a ^ b,
                bpf.LSH: lambda a=a, b=operand: a << (b & 31),
                bpf.RSH: lambda a=a, b=operand: z3.LShR(a, b & 31),
                bpf.NEG: lambda a=a: -a,
            }
            slots[16] = terms[operation]()
        go(at + 1, here, slots)
    return result
