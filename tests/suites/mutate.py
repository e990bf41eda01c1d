"""Every way to spoil one instruction of a compiled filter, and whether the prover notices.

Run by hand or by the tests: ``python tests/suites/mutate.py [--exact] [--every N] [POLICY|small [ARCH]]…`` (default: small and strict, x86_64).
A mutant changes one instruction: another opcode, another constant, other jumps. Each is run concretely and compared by the prover:

- refused: the kernel would not load it;
- caught: the prover gives a call, and the evaluator confirms that the spoiled filter treats it otherwise;
- unproven: it changes what the filter does and is too complex to compare: no such filter would ever be used (undecided: the same, but no call was
  found that it changes);
- equal: the prover says that it still does what the policy says. These are what it could be wrong about, so they are run on calls around every constant
  of every path that reaches the instruction, and with --exact (needs the `z3-solver` package) an SMT solver compares them over all calls;
- missed: said to be equal, but one of those finds a difference.

Exit status 0 when nothing was missed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sandbox.abi.arch import Arch, audit_arch
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.evaluate import Instruction, RejectedError, check_program, decode, pack_data, run_program
from sandbox.seccomp.prove_diagram import ARCH, NUMBER, Diagram, UnprovableError
from sandbox.seccomp.prove_policy import policy_diagram, policy_values
from sandbox.seccomp.prove_program import SymbolicProgram, returned_values

SMALL = """
name = "small"
description = "every kind of test"
default = "errno ENOSYS"
[[rule]]
syscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]
action = "allow"
[[rule]]
syscalls = ["socket"]
action = "allow"
when = "family in {AF_UNIX, AF_INET} and type & 0xf == SOCK_STREAM"
else = "errno EPERM"
reason = "r"
[[rule]]
syscalls = ["ioctl"]
action = "allow"
when = "cmd in {TCGETS, TIOCGWINSZ}"
else = "errno ENOTTY"
reason = "r"
[[rule]]
syscalls = ["lseek"]
action = "log"
when = "offset < 0x100000001"
else = "errno EPERM"
reason = "r"
[[rule]]
syscalls = ["clone3"]
action = "errno ENOSYS"
audit = false
"""

_U32 = 0xFFFF_FFFF
_WORDS = 16
Words = tuple[int, ...]


def small_policy() -> SyscallPolicy:
    """Return a policy whose filter can be spoiled in every way within seconds."""
    return merge_layers((parse_layer(SMALL.encode(), "small.toml", GROUPS),), GROUPS)


def mutations(instruction: Instruction) -> Iterator[Instruction]:
    """Yield every other instruction that differs in the opcode, in the constant by one or a bit, or in the jumps by one, a bit or an exchange."""
    code, jt, jf, k = instruction
    found = {(other, jt, jf, k) for other in sorted(bpf._ALLOWED)}
    found |= {(code, jt, jf, value & _U32) for value in (k + 1, k - 1, 0, *(k ^ 1 << bit for bit in range(32)))}
    if code & 7 == bpf.JMP and code & 0xF0 != bpf.JA:
        steps = [(jf, jt), (jt, jt), (jf, jf)]
        steps += [(value & 0xFF, jf) for value in (jt + 1, jt - 1, *(jt ^ 1 << bit for bit in range(8)))]
        steps += [(jt, value & 0xFF) for value in (jf + 1, jf - 1, *(jf ^ 1 << bit for bit in range(8)))]
        found |= {(code, one, two, k) for one, two in steps}
    yield from sorted(found - {instruction})


# ---------------------------------------------------------------- calls to try, found by running


def _trace(program: Sequence[Instruction], data: Words) -> tuple[list[int], list[tuple[int, int, int]]]:
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


def _near(k: int) -> list[int]:
    return sorted({value & _U32 for value in (0, _U32, k, k + 1, k - 1, *(k ^ 1 << bit for bit in range(32)))})


def calls_by_instruction(program: Sequence[Instruction], per_instruction: int = 400) -> list[list[Words]]:
    """Return for each instruction calls that reach it: from plain ones outwards, around every constant that is met on a new way.

    Only for what libseccomp makes (loads, masks, comparisons, returns). Nothing of the prover is used.
    """
    own = next(k for code, _, _, k in program if code == bpf.JMP | bpf.JEQ)
    numbers = {*range(512), -1, 0x3FFF_FFFF, 0x4000_0000, 0x7FFF_FFFF, -(1 << 31)}
    seeds: list[Words] = [pack_data(number, own, (0,) * 6) for number in sorted(numbers)] + [pack_data(0, word, ()) for word in _near(own)]
    reached: list[list[Words]] = [[] for _ in program]
    ways: set[tuple[int, ...]] = set()
    tried: set[Words] = set()
    while seeds:
        data = seeds.pop()
        if data in tried:
            continue
        tried.add(data)
        ran, tests = _trace(program, data)
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
            for value in _near(k):
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


# ---------------------------------------------------------------- the measurement


@dataclass(slots=True)
class Figures:
    """What became of the mutants of one filter; `missed` lists those that were wrongly called equal."""

    instructions: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    missed: list[tuple[int, Instruction]] = field(default_factory=list)
    equal: list[tuple[int, Instruction]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        changed = self.counts["caught"] + self.counts["unproven"] + len(self.missed)
        caught = changed - len(self.missed)
        words = ", ".join(f"{self.counts[kind]} {kind}" for kind in ("refused", "caught", "unproven", "undecided", "equal"))
        return (
            f"{self.instructions} instructions, {sum(self.counts.values())} mutants: {words}; "
            f"changed behaviour {changed}, of these caught {caught} ({100 * caught / max(changed, 1):.2f} %), "
            f"missed {len(self.missed)}; {self.seconds:.0f} s"
        )


def measure(
    policy: SyscallPolicy,
    arch: Arch,
    *,
    every: int = 1,
    phase: int = 0,
    exact: bool = False,
    progress: bool = False,
    maximum_nodes: int = 240_000,
) -> Figures:
    """Spoil a policy's filter and count what the prover says.

    Args:
        policy: the policy.
        arch: whose filter.
        every: take each n-th mutant only.
        phase: the first one to take, counted from 0.
        exact: let an SMT solver compare those called equal.
        progress: write a line to stderr now and then.
        maximum_nodes: of a diagram; a mutant that needs more costs seconds and is "unproven". Below the prover's own limit, because many share one.
    """
    began = time.perf_counter()
    made = compile_filter(policy, arch)
    program = decode(made.bpf)
    reached = calls_by_instruction(program)
    figures = Figures(instructions=len(program))
    values = policy_values(policy, notify=True) | returned_values(program)
    own = audit_arch(arch)
    diagram, meaning, whole = Diagram(), -1, None
    number = -1
    for at, instruction in enumerate(program):
        for mutant in mutations(instruction):
            number += 1
            if (number - phase) % every:
                continue
            spoiled = (*program[:at], mutant, *program[at + 1 :])
            try:
                check_program(spoiled)
            except RejectedError:
                figures.counts["refused"] += 1
                continue
            if whole is None or len(diagram) > 2 * maximum_nodes // 3:
                diagram = Diagram(maximum_nodes)
                meaning = policy_diagram(diagram, policy, arch, notify=True)
                whole = SymbolicProgram(diagram, program, values)
                assert whole.result() == meaning
            try:
                node = SymbolicProgram(diagram, spoiled, values, like=whole, same_from=at + 1).result()
            except UnprovableError:
                changed = any(run_program(spoiled, data) != run_program(program, data) for data in reached[at])
                figures.counts["unproven" if changed else "undecided"] += 1
                whole = None
                continue
            if node != meaning:
                _, _, data = next(diagram.pairs(node, meaning))
                assert run_program(spoiled, data) != run_program(program, data), (at, mutant, data)
                figures.counts["caught"] += 1
                continue
            figures.counts["equal"] += 1
            figures.equal.append((at, mutant))
            if any(run_program(spoiled, data) != run_program(program, data) for data in reached[at]) or (
                exact and smt_differs(program, spoiled)
            ):
                figures.missed.append((at, mutant))
        if progress and at % 50 == 49:
            print(f"  {at + 1} of {len(program)} instructions, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    assert own == program[1][3], "the filter does not begin with its architecture"
    figures.seconds = time.perf_counter() - began
    return figures


def main() -> int:
    """Parse the command line."""
    words = sys.argv[1:]
    exact = "--exact" in words
    every = int(words[words.index("--every") + 1]) if "--every" in words else 1
    names = [word for at, word in enumerate(words) if not word.startswith("--") and (at == 0 or words[at - 1] != "--every")]
    arches = [Arch(name) for name in names if name in list(Arch)] or [Arch.X86_64]
    missed = 0
    for name in [name for name in names if name not in list(Arch)] or ["small", "strict"]:
        for arch in arches:
            figures = measure(small_policy() if name == "small" else load_policy(name), arch, every=every, exact=exact, progress=True)
            print(f"{name} {arch}: {figures}", flush=True)
            for at, mutant in figures.missed:
                print(f"  MISSED instruction {at}: {mutant}", flush=True)
            missed += len(figures.missed)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
