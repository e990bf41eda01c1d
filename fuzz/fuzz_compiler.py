"""Random policies, compiled: the filter must do for every call what a second reading of the policy's text says.

Three judges who share no code: the proof (which the compiler runs itself), the filter run by the evaluator, and `oracle.py` on the text. A policy
that is refused must be refused by `PolicyError` or `CompileError`, and when it is refused because a condition always or never holds, that must be
so for every call that is tried.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import grammar, oracle
    from fuzz.choose import Bytes, Chooser
    from fuzz.policies import agree, check_error, oracle_of, outcome, write_files
    from sandbox.abi.arch import Arch, audit_arch
    from sandbox.abi.tables import syscall_number
    from sandbox.errors import CompileError, PolicyError
    from sandbox.policy.load import load_policy
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.compile import compile_filter
    from sandbox.seccomp.disassemble import disassemble
    from sandbox.seccomp.evaluate import decode, pack_data, run_program

VALUES = {"allow": 0x7FFF0000, "log": 0x7FFC0000, "trap": 0x30000, "kill-process": 0x80000000, "errno": 0x50000}
LISTENER = 0x7FC00000
KILL = 0x80000000


def one_input(data: bytes) -> str:
    """See `compiles`."""
    return compiles(Bytes(data))


def replay(text: str) -> str:
    """Compile a policy that is written out."""
    return hold(Bytes(text.encode()[::-1]), text)


def compiles(chooser: Chooser) -> str:
    """Build one random policy and see what becomes of it."""
    text = grammar.policy(chooser, shape=grammar.Shape(actions=chooser.pick((grammar.ACTIONS, ("allow", "errno EPERM")))))
    extends = chooser.odds(8)
    if extends:
        text = text.replace('description = "', 'extends = ["base"]\ndescription = "', 1) if "extends" not in text else text
    else:
        text += grammar.LAUNCH
    return hold(chooser, text)


def hold(chooser: Chooser, text: str) -> str:
    """Compile a policy, and hold its filter to its text and its refusal to the truth."""
    arch = chooser.pick(tuple(Arch))
    notify = not chooser.odds(4)
    folder = write_files({"p.toml": text.encode()}, "compile")
    try:
        policy = load_policy(f"{folder}/p.toml")
    except PolicyError as error:
        check_error(error)
        check_refusal(chooser, text, error)
        return outcome(error)
    try:
        made = compile_filter(policy, arch, notify=notify)
    except CompileError as error:
        assert error.message.startswith("compile policy `p`"), error.message
        return re.sub(r"\d+", "N", error.message)
    program = decode(made.bpf)
    judge = oracle_of(policy)
    own = audit_arch(arch)
    for number, registers in grammar.calls(chooser, judge, arch, 40):
        action, errno = agree(policy, judge, arch, number, registers)
        wanted = filter_value(action, errno, notify)
        pointer = chooser.pick((0, oracle.ALL_BITS))
        actual = run_program(program, pack_data(number, own, registers, pointer))
        assert actual == wanted, f"{arch} {number} {[hex(each) for each in registers]}: filter {actual:#x}, text {wanted:#x}"
    for word in (own ^ 1, own ^ 0x80000000, 0x40000003, chooser.integer(0, 0xFFFF_FFFF)):
        if word != own:
            assert run_program(program, pack_data(chooser.integer(0, 511), word, (0,) * 6)) == KILL
    assert disassemble(made).count("\n") >= made.instructions
    return f"compiled, {made.instructions.bit_length()} {shape_of(policy)}"


def filter_value(action: str, errno: int, notify: bool) -> int:
    """Return the kernel's value for a decision."""
    if action == "notify":
        return LISTENER if notify else VALUES["errno"] | errno
    return VALUES[action] | errno


def shape_of(policy: SyscallPolicy) -> str:
    """Return a word for a policy's size."""
    entries = sum(len(entries) for entries in policy.rules.values())
    return f"{len(policy.stack)} files, {entries.bit_length()}"


def check_refusal(chooser: Chooser, text: str, error: PolicyError) -> None:
    """Make sure that a condition which is refused for always or never holding does so for the calls tried."""
    found = re.fullmatch(r"condition (always|never) holds for `(\w+)`", error.message)
    if found is None:
        return
    verdict, syscall = found[1] == "always", found[2]
    place = re.search(r"rule\[(\d+)\]", error.origin or "")
    assert place is not None
    judge = oracle.Oracle(top="p", groups={}, texts={"p": text}) if "extends" not in text else None
    if judge is None:
        return
    condition = str(list(judge.rules())[int(place[1]) - 1]["when"])
    for arch in Arch:
        if syscall_number(arch, syscall) is not None:
            for _ in range(20):
                registers = grammar.registers(chooser, oracle.edges(condition, syscall, arch))
                assert oracle.condition_holds(condition, syscall, arch, registers) is verdict, (
                    f"{error.message}, but not for {[hex(each) for each in registers]} on {arch}: {condition}"
                )


if __name__ == "__main__":
    engine.main("compiler", one_input, [bytes((seed * each) & 255 for each in range(1, 400)) for seed in range(1, 12)], replay=replay)
