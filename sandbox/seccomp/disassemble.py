"""A filter as text that can be read and reviewed: one instruction a line, with labels, syscall names and actions.

Golden files of every shipped policy are made of this, so that a change of a policy is a change that a reviewer sees. Pure. Imported by tools and tests.
"""

from __future__ import annotations

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_name
from sandbox.seccomp.evaluate import (
    ABS,
    ALU,
    AND,
    IMM,
    JA,
    JEQ,
    JGE,
    JGT,
    JMP,
    JSET,
    LD,
    LDX,
    LEN,
    MEM,
    RET,
    ST,
    STX,
    TXA,
    Instruction,
    X,
    decode,
    describe_return,
)
from sandbox.seccomp.filter import Filter

_TESTS = {JEQ: "==", JGT: ">", JGE: ">=", JSET: "&"}
_OPERATIONS = {0x00: "+", 0x10: "-", 0x20: "*", 0x30: "/", 0x40: "|", AND: "&", 0x60: "<<", 0x70: ">>", 0xA0: "^"}


def _field(offset: int) -> str:
    if offset == 0:
        return "nr"
    if offset == 4:
        return "arch"
    if offset < 16:
        return "ip.low" if offset == 8 else "ip.high"
    index, half = divmod(offset - 16, 8)
    return f"arg{index}.{'high' if half else 'low'}"


def disassemble(filter: Filter) -> str:
    """Return a listing of a filter, ending in a newline.

    Each line has the instruction's number, its text, and where it goes; ``-> n`` alone means both ways lead there.
    """
    program = decode(filter.bpf)
    head = f"# policy {filter.policy}, {filter.arch}, {'notify' if filter.notify else 'no notify'}, {filter.instructions} instructions\n"
    lines = []
    loaded = ""
    targets = {at + 1 + offset for at, (code, jt, jf, k) in enumerate(program) if code & 7 == JMP for offset in _offsets(code, jt, jf, k)}
    # What A holds at a jump's target is known where every way there agrees; forward jumps make one pass enough.
    holding: dict[int, str] = {}
    for at, instruction in enumerate(program):
        if at in targets:
            loaded = holding.get(at, loaded) if not _falls_in(program, at) else _agree(holding.get(at, loaded), loaded)
        text, loaded = _describe(instruction, at, loaded, filter.arch)
        code, jt, jf, k = instruction
        if code & 7 == JMP:
            for offset in _offsets(code, jt, jf, k):
                target = at + 1 + offset
                holding[target] = _agree(holding[target], loaded) if target in holding else loaded
        lines.append(f"{at:4}  {text}\n")
    return head + "".join(lines)


def _offsets(code: int, jt: int, jf: int, k: int) -> tuple[int, ...]:
    return (k,) if code == JMP | JA else (jt, jf)


def _falls_in(program: tuple[Instruction, ...], at: int) -> bool:
    return at > 0 and program[at - 1][0] & 7 not in (JMP, RET)


def _agree(left: str, right: str) -> str:
    return left if left == right else ""


def _describe(instruction: Instruction, at: int, loaded: str, arch: Arch) -> tuple[str, str]:
    """Return an instruction's text and what the accumulator holds after it (empty when unknown)."""
    code, jt, jf, k = instruction
    kind = code & 7
    operand = "x" if code & X else f"{k:#x}"
    if kind == LD and code & 0xE0 == ABS:
        return f"a = {_field(k)}", _field(k)
    if kind in (LD, LDX):
        register = "a" if kind == LD else "x"
        mode = code & 0xE0
        source = f"{k:#x}" if mode == IMM else f"mem[{k}]" if mode == MEM else "len" if mode == LEN else f"?{mode:#x}"
        return f"{register} = {source}", "" if kind == LD else loaded
    if kind in (ST, STX):
        return f"mem[{k}] = {'a' if kind == ST else 'x'}", loaded
    if kind == ALU:
        operation = _OPERATIONS.get(code & 0xF0)
        if operation is None:
            return "a = -a", ""
        return f"a = a {operation} {operand}", loaded if not loaded or operation != "&" else f"{loaded} & {operand}"
    if kind == RET:
        return f"return {describe_return(k) if not code & 0x18 else 'a'}", ""
    if kind != JMP:
        return ("a = x", "") if code & TXA else ("x = a", loaded)
    if code == JMP | JA:
        return f"-> {at + 1 + k}", loaded
    subject = loaded or "a"
    note = ""
    if not code & X:
        if subject == "nr" and k < X32_SYSCALL_BIT and syscall_name(arch, k) is not None:
            operand = f"{syscall_name(arch, k)} ({k})"
        elif subject == "nr" and k == X32_SYSCALL_BIT:
            note = "  # x32"
        elif subject == "arch" and k == audit_arch(arch):
            note = f"  # {arch}"
    if jt == jf:
        return f"-> {at + 1 + jt}{note}", loaded
    return f"if {subject} {_TESTS[code & 0x70]} {operand} -> {at + 1 + jt} else {at + 1 + jf}{note}", loaded
