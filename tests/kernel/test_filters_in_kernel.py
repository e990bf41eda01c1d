"""Compiled filters in the running kernel: it decides every call as the evaluator and the policy's text do, and none of the calls happens.

tests/payloads/filter_calls.c installs the unmodified bytes and has everything that they allow skipped by a tracer. x86_64 is executed, aarch64 evaluated
(tests/unit/test_seccomp_filters.py). Numbers 335 and 336 are left out: newer kernels never ask a filter about `uretprobe` and `uprobe`, which only work
from the kernel's own trampoline (kernel/seccomp.c, seccomp_uprobe_exception).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch, audit_arch, native_arch
from sandbox.policy import locate
from sandbox.policy.conditions import holds
from sandbox.policy.load import load_policy
from sandbox.policy.model import Outcome, SyscallPolicy
from sandbox.seccomp.cache import load_filter
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_LOG,
    RET_TRAP,
    RET_USER_NOTIF,
    Instruction,
    decode,
    encode,
    pack_data,
    run_program,
)
from sandbox.seccomp.prove import PolicyDecider, differences
from sandbox.seccomp.prove_policy import outcome_value

sys.path.append(str(Path(__file__).resolve().parent.parent / "suites"))

from filter_table import Arguments, calls_of, conditional_leaves, numbers_of

pytestmark = [
    pytest.mark.seccomp,
    pytest.mark.notify,
    pytest.mark.skipif(native_arch() is not Arch.X86_64, reason="the tracer reads and writes registers of x86_64"),
]

X86 = Arch.X86_64
OWN = audit_arch(X86)
I386 = 0x4000_0003
SHIPPED = tuple(sorted(path.stem for path in locate.data_dir("policies").glob("*.toml") if path.stem != "groups"))
SOURCE = Path(__file__).resolve().parent.parent / "payloads" / "filter_calls.c"
UPROBES = (335, 336)
PLAIN_NUMBERS = (*range(1024), 0x3FFF_FFFF, -1, 39 | 1 << 32, 39 | 1 << 63, 0xFFFF_FFFF)
X32_NUMBERS = (0x4000_0000, 0x4000_0001, 0x4000_0027, 0x4000_0200, 0x4000_0223, 0x7FFF_FFFF, 0x8000_0000, -2)
I386_NUMBERS = (0, 1, 11, 20, 39, 102, 120, 288, 466, 0x4000_0000, -1)

SYSCALL, INT80 = 0, 1
Call = tuple[int, int, Arguments]
"""entry, number as the register holds it, arguments."""


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("filter_calls") / "filter_calls"
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-pthread", "-o", str(program), str(SOURCE)], check=True, timeout=240)
    return program


@cache
def program_of(name: str, notify: bool) -> tuple[Instruction, ...]:
    return decode(load_filter(load_policy(name), X86, notify=notify).bpf)


def in_kernel(harness: Path, directory: Path, program: Sequence[Instruction], calls: Sequence[Call], *, notify: bool) -> list[str]:
    """Return what the kernel does with each call."""
    path = directory / "filter.bpf"
    path.write_bytes(encode(program))
    table = b"".join(struct.pack("<8Q", entry, number & (1 << 64) - 1, *arguments) for entry, number, arguments in calls)
    done = subprocess.run(
        [str(harness), str(path), "listener" if notify else "alone"], input=table, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    kinds = ("nothing", "errno", "passed", "notified", "trapped", "killed", "ended")
    answers = [f"{kinds[kind]} {value}" if kind == 1 else kinds[kind] for kind, value in struct.iter_unpack("<II", done.stdout)]
    assert len(answers) == len(calls)
    return answers


def in_words(value: int) -> str:
    """Return what a filter's value does to a call, as `in_kernel` says it."""
    if value & 0xFFFF_0000 == RET_ERRNO:
        return f"errno {value & 0xFFFF}"
    # A tracer comes before the log, so the two ways of allowing cannot be told apart.
    return {RET_ALLOW: "passed", RET_LOG: "passed", RET_USER_NOTIF: "notified", RET_TRAP: "trapped", RET_KILL_PROCESS: "killed"}[value]


def evaluated(program: Sequence[Instruction], call: Call) -> str:
    entry, number, arguments = call
    if entry == INT80:
        arguments = tuple(argument & 0xFFFF_FFFF for argument in arguments)
    return in_words(run_program(program, pack_data(number, I386 if entry == INT80 else OWN, arguments)))


def as_written(policy: SyscallPolicy, call: Call, notify: bool) -> str:
    entry, number, arguments = call
    if entry == INT80:
        return "killed"
    decision = decide(policy, X86, number, arguments)
    return in_words(outcome_value(Outcome(action=decision.action, errno=decision.errno), notify=notify))


def table_of(policy: SyscallPolicy, program: Sequence[Instruction]) -> list[Call]:
    calls: list[Call] = []
    for number, syscall in numbers_of(policy, X86).items():

        def answer(arguments: Arguments, number: int = number) -> int:
            return run_program(program, pack_data(number, OWN, arguments))

        calls += [(SYSCALL, number, arguments) for arguments in calls_of(policy, syscall, X86, answer)]
    calls += [(SYSCALL, number, (0,) * 6) for number in (*PLAIN_NUMBERS, *X32_NUMBERS)]
    calls += [(INT80, number, (0,) * 6) for number in I386_NUMBERS]
    return [call for call in calls if call[1] not in UPROBES]


@pytest.mark.parametrize("notify", [True, False], ids=["notify", "alone"])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_kernel_decides_as_the_evaluator_and_the_text(name: str, notify: bool, harness: Path, tmp_path: Path) -> None:
    policy, program = load_policy(name), program_of(name, notify)
    calls = table_of(policy, program)
    answers = in_kernel(harness, tmp_path, program, calls, notify=notify)
    wrong = [
        (call, answer, evaluated(program, call), as_written(policy, call, notify))
        for call, answer in zip(calls, answers, strict=True)
        if not answer == evaluated(program, call) == as_written(policy, call, notify)
    ]
    assert not wrong, wrong[:10]
    assert {"passed", "killed", "notified" if notify else "errno 1"} <= set(answers) and len(calls) > 4000


@pytest.mark.parametrize("name", SHIPPED)
def test_the_table_meets_every_rule_and_both_truths_of_every_comparison(name: str) -> None:
    policy, program = load_policy(name), program_of(name, True)
    made: dict[int, list[Arguments]] = {}
    for entry, number, arguments in table_of(policy, program):
        if entry == SYSCALL:
            made.setdefault(number, []).append(arguments)
    comparisons = 0
    for number, syscall in numbers_of(policy, X86).items():
        if number in UPROBES:
            continue
        for leaf in conditional_leaves(policy, syscall):
            comparisons += 1
            assert {holds(leaf, syscall, X86, arguments) for arguments in made[number]} == {True, False}, (syscall, leaf)
        decided = {decide(policy, X86, number, arguments).rule for arguments in made[number]}
        for entry_ in policy.rules[syscall]:
            if entry_.ref not in decided:
                # Then no call at all is decided by it: without it the policy means the same.
                less = _without(policy, syscall, entry_)
                assert not differences(PolicyDecider(policy, X86, answers=True), PolicyDecider(less, X86, answers=True), X86), (
                    syscall,
                    entry_.ref,
                )
    assert comparisons > 10


def _without(policy: SyscallPolicy, syscall: str, left_out: object) -> SyscallPolicy:
    from dataclasses import replace

    return replace(policy, rules={**policy.rules, syscall: tuple(entry for entry in policy.rules[syscall] if entry is not left_out)})


@pytest.mark.parametrize("kind", ["a constant", "a jump", "a return"])
def test_a_corrupted_instruction_shows(kind: str, harness: Path, tmp_path: Path) -> None:
    """Shows that the comparison can fail: the kernel gets one other instruction than the evaluator."""
    policy, program = load_policy("strict"), program_of("strict", True)
    calls = table_of(policy, program)
    spoiled = list(program)
    if kind == "a return":
        at = program.index((0x06, 0, 0, RET_USER_NOTIF))
        spoiled[at] = (0x06, 0, 0, RET_ALLOW)
    else:
        # The last test of an argument: only some calls of one syscall come there.
        at = max(at for at, (code, _, _, _) in enumerate(program) if code == 0x15)
        code, jt, jf, k = program[at]
        spoiled[at] = (code, jt, jf, k ^ 1) if kind == "a constant" else (code, jf, jt, k)
    answers = in_kernel(harness, tmp_path, spoiled, calls, notify=True)
    wrong = [call for call, answer in zip(calls, answers, strict=True) if answer != evaluated(program, call)]
    assert wrong and all(evaluated(spoiled, call) != evaluated(program, call) for call in wrong)
