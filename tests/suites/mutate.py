"""Every way to spoil one instruction of a compiled filter, or one word of its policy, and whether the prover notices.

Run by hand or by the tests: ``python tests/suites/mutate.py [--exact] [--every N] [--jobs N] [--policy-side] [all|small|POLICY]… [ARCH]…``
(default: small and strict, x86_64). A mutant changes one instruction: another opcode, another constant, other jumps. Each is run concretely and compared by
the prover:

- refused: the kernel would not load it;
- caught: the prover gives a call, and the evaluator confirms that the spoiled filter treats it otherwise;
- unproven: it changes what the filter does and is too complex to compare: no such filter would ever be used (undecided: the same, but no call was
  found that it changes);
- equal: the prover says that it still does what the policy says. These are what it could be wrong about, so they are run on calls around every constant
  of every path that reaches the instruction, and with --exact (needs the `z3-solver` package) an SMT solver compares them over all calls;
- missed: said to be equal, but one of those finds a difference.

With --policy-side the filter stays and the text is spoiled (`mutate_policy.py`). Exit status 0 when nothing was missed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from mutate_check import calls_by_instruction, smt_differs

from sandbox.abi.arch import Arch, audit_arch
from sandbox.policy import locate
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.evaluate import Instruction, RejectedError, check_program, decode, run_program
from sandbox.seccomp.prove_diagram import Diagram, UnprovableError
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
SHIPPED = tuple(sorted(path.stem for path in locate.data_dir("policies").glob("*.toml") if path.stem != "groups"))


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


# ---------------------------------------------------------------- the measurement


@dataclass(slots=True)
class Figures:
    """What became of the mutants of one filter; `missed` lists those that were wrongly called equal."""

    instructions: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    missed: list[tuple[int, Instruction]] = field(default_factory=list)
    equal: list[tuple[int, Instruction]] = field(default_factory=list)
    seconds: float = 0.0

    HEAD: ClassVar[str] = (
        "instructions | mutants | refused by the kernel | caught | unproven | undecided | equal | missed | caught of changed | s |"
    )

    def __str__(self) -> str:
        changed = self.counts["caught"] + self.counts["unproven"] + len(self.missed)
        share = 100 * (changed - len(self.missed)) / max(changed, 1)
        kinds = " | ".join(str(self.counts[kind]) for kind in ("refused", "caught", "unproven", "undecided", "equal"))
        total = sum(self.counts.values())
        return f"{self.instructions} | {total} | {kinds} | {len(self.missed)} | {share:.2f} % | {self.seconds:.0f}"


def measure(
    policy: SyscallPolicy,
    arch: Arch,
    *,
    every: int = 1,
    phase: int = 0,
    exact: bool = False,
    growth: int = 30_000,
) -> Figures:
    """Spoil a policy's filter and count what the prover says.

    Args:
        policy: the policy.
        arch: whose filter.
        every: take each n-th mutant only.
        phase: the first one to take, counted from 0.
        exact: let an SMT solver compare those called equal.
        growth: nodes that a mutant may need beyond those of the good filter; one that needs more is "unproven". Far below the prover's own limit.
    """
    began = time.process_time()
    program = decode(compile_filter(policy, arch).bpf)
    assert audit_arch(arch) == program[1][3], "the filter does not begin with its architecture"
    reached = calls_by_instruction(program)
    figures = Figures(instructions=len(program))
    values = policy_values(policy, notify=True) | returned_values(program)
    diagram = Diagram()
    meaning = policy_diagram(diagram, policy, arch, notify=True)
    whole = SymbolicProgram(diagram, program, values)
    assert whole.result() == meaning
    mark = diagram.mark()
    diagram.maximum = len(diagram) + growth
    number = -1
    for at, instruction in enumerate(program):
        good = [(data, run_program(program, data)) for data in reached[at]]
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
            diagram.roll_back(mark)
            try:
                node = SymbolicProgram(diagram, spoiled, values, like=whole, same_from=at + 1).result()
            except UnprovableError:
                changed = any(run_program(spoiled, data) != value for data, value in good)
                figures.counts["unproven" if changed else "undecided"] += 1
                continue
            if node != meaning:
                _, _, data = next(diagram.pairs(node, meaning))
                assert run_program(spoiled, data) != run_program(program, data), (at, mutant, data)
                figures.counts["caught"] += 1
                continue
            figures.counts["equal"] += 1
            figures.equal.append((at, mutant))
            if any(run_program(spoiled, data) != value for data, value in good) or (exact and smt_differs(program, spoiled)):
                figures.missed.append((at, mutant))
    figures.seconds = time.process_time() - began
    return figures


def _policy(name: str) -> SyscallPolicy:
    return small_policy() if name == "small" else load_policy(name)


def _task(task: tuple[str, Arch, int, bool, bool]) -> tuple[str, list[str]]:
    name, arch, every, exact, policy_side = task
    if policy_side:
        from mutate_policy import measure_policy

        found = measure_policy(_policy(name), arch, every=every)
        return f"| {name} | {arch} | {found} |", found.missed
    figures = measure(_policy(name), arch, every=every, exact=exact)
    return f"| {name} | {arch} | {figures} |", [f"instruction {at}: {mutant}" for at, mutant in figures.missed]


def main() -> int:
    """Parse the command line."""
    words = sys.argv[1:]
    exact, policy_side = "--exact" in words, "--policy-side" in words
    counts = {word: int(words[at + 1]) for at, word in enumerate(words) if word in ("--every", "--jobs")}
    names = [word for at, word in enumerate(words) if not word.startswith("--") and (at == 0 or words[at - 1] not in counts)]
    arches = [Arch(name) for name in names if name in list(Arch)] or [Arch.X86_64]
    policies = [name for name in names if name not in list(Arch)] or ["small", "strict"]
    policies = [each for name in policies for each in (SHIPPED if name == "all" else (name,))]
    tasks = [(name, arch, counts.get("--every", 1), exact, policy_side) for name in policies for arch in arches]
    missed = 0
    os.nice(10)
    print("| policy | arch | " + ("mutants | caught | equal | missed | s |" if policy_side else Figures.HEAD), flush=True)
    with multiprocessing.get_context("spawn").Pool(min(2, counts.get("--jobs", 1))) as pool:
        for line, lost in pool.imap(_task, tasks):
            print(line, flush=True)
            for each in lost:
                print(f"  MISSED {each}", flush=True)
            missed += len(lost)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
