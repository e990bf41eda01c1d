"""The fuzz targets' stored inputs, every input that once broke one, and a short deterministic slice of what each generates."""

from __future__ import annotations

import importlib
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fuzz import bpf, engine, facts, kernel, oracle
from fuzz.choose import Bytes, Drawn
from fuzz.fuzz_compiler import compiles
from fuzz.fuzz_compiler import replay as replay_compiler
from fuzz.fuzz_evaluator import judge as judge_program
from fuzz.fuzz_evaluator import programs
from fuzz.fuzz_merge import stacks
from sandbox.abi.arch import Arch
from sandbox.abi.constants import constant
from sandbox.abi.signatures import argument_mask, is_per_command, is_pointer, signature
from sandbox.abi.tables import syscall_names, syscall_number
from sandbox.errors import PolicyError
from sandbox.policy.load import load_policy
from sandbox.seccomp.evaluate import Instruction, check_program, decode, encode, pack_data, run_program

ROOT = Path(__file__).resolve().parents[2]
TARGETS = tuple(sorted(path.stem.removeprefix("fuzz_") for path in (ROOT / "fuzz").glob("fuzz_*.py")))
CRASHES = sorted(path for path in (ROOT / "fuzz" / "crashes").glob("*/*") if path.is_file())
SLICE = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    kernel.stop()


def target(name: str) -> ModuleType:
    return importlib.import_module(f"fuzz.fuzz_{name}")


@pytest.mark.parametrize("name", TARGETS)
def test_stored_inputs_pass(name: str) -> None:
    inputs = [path for path in engine.corpus(name) if path.parent.parent.name == "corpus"]
    assert inputs, "every target keeps a corpus"
    outcomes = {target(name).one_input(path.read_bytes()) for path in inputs}
    assert len(outcomes) > 5, "a corpus that reaches nothing"


@pytest.mark.parametrize("path", CRASHES, ids=[f"{path.parent.name}-{path.name[:24]}" for path in CRASHES])
def test_what_once_broke_a_target_does_so_no_more(path: Path) -> None:
    module = target(path.parent.name)
    if path.suffix == ".txt":
        module.replay(path.read_text())
    else:
        module.one_input(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_pass(name: str) -> None:
    chance = random.Random(name)
    pool = [path.read_bytes() for path in engine.corpus(name)]
    for _ in range(20):
        target(name).one_input(engine.mutate(chance, pool, [word.encode() for word in getattr(target(name), "WORDS", ())]))


@SLICE
@given(st.data())
def test_random_stacks_keep_the_laws(data: st.DataObject) -> None:
    stacks(Drawn(data))


@SLICE
@given(st.data())
def test_random_policies_compile_to_their_text(data: st.DataObject) -> None:
    compiles(Drawn(data))


@SLICE
@given(st.data())
def test_random_programs_run_as_in_the_kernel(data: st.DataObject) -> None:
    programs(Drawn(data))


# ---------------------------------------------------------------- the oracle itself


@pytest.mark.parametrize("arch", Arch)
def test_facts_written_by_hand_are_those_of_the_tables(arch: Arch) -> None:
    for name, arguments in facts.SIGNATURES[arch].items():
        assert tuple(each for each, _, _ in arguments) == tuple(each for each, _ in signature(name, arch)), name
        for place, (argument, bits, kind) in enumerate(arguments):
            assert bits == argument_mask(name, place, arch).bit_length(), (name, argument)
            assert (kind == "p", kind == "c") == (is_pointer(name, place, arch), is_per_command(name, place, arch)), (name, argument)
    for name, value in facts.CONSTANTS[arch].items():
        assert constant(name, arch) == value, name


def test_the_oracle_parses_every_argument_name() -> None:
    for arch in Arch:
        for name in sorted(syscall_names(arch)):
            for place, (argument, _) in enumerate(signature(name, arch)):
                registers = [0, 0, 0, 0, 0, 0]
                registers[place] = 7
                assert oracle.condition_holds(f"{argument} == 7", name, arch, registers), (name, argument)


@pytest.mark.parametrize("name", ["strict", "default", "build"])
def test_both_readings_of_what_ships_agree(name: str) -> None:
    from fuzz.grammar import calls
    from fuzz.policies import agree, oracle_of

    policy = load_policy(name)
    judge = oracle_of(policy)
    chooser = Bytes(random.Random(name).randbytes(20_000))
    verdicts = {agree(policy, judge, arch, *call) for arch in Arch for call in calls(chooser, judge, arch, 200)}
    assert len(verdicts) >= 4


def test_the_oracle_can_disagree(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    text = 'name = "p"\ndescription = "d"\ndefault = "errno EPERM"\n[[rule]]\nsyscalls = ["lseek"]\naction = "allow"\nwhen = "whence < 3"\n'
    path.write_text(text + 'else = "trap"\n')
    from fuzz.policies import agree, oracle_of

    policy = load_policy(str(path))
    path.write_text(text.replace("< 3", "<= 3") + 'else = "trap"\n')
    number = syscall_number(Arch.X86_64, "lseek")
    assert number is not None
    agree(policy, oracle_of(policy), Arch.X86_64, number, (0, 0, 2, 0, 0, 0))
    with pytest.raises(AssertionError, match="decided"):
        agree(policy, oracle_of(policy), Arch.X86_64, number, (0, 0, 3, 0, 0, 0))


def test_oracle_reads_widths_masks_and_complements() -> None:
    def holds(text: str, *registers: int, syscall: str = "openat") -> bool:
        return oracle.condition_holds(text, syscall, Arch.X86_64, (*registers, *[0] * (6 - len(registers))))

    assert holds("mode == ~0x1ff", 0, 0, 0, 0xFFFF_0000 | 0xFE00)
    assert holds("flags & ~(O_CREAT | O_TRUNC) in {O_WRONLY,\n O_RDWR}", 0, 0, 1 << 32 | 0o1101)
    assert holds("dfd == AT_FDCWD and (flags == 0 or mode != 0)", 0xFFFF_FF9C)
    assert not holds("dfd not in {AT_FDCWD}", 0xFFFF_FFFF_FFFF_FF9C)


# ---------------------------------------------------------------- each judge can say no

CLOSE = (
    'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n'
    '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'
    '[[rule]]\nsyscalls = ["socket"]\naction = "allow"\nwhen = "family < AF_INET"\nelse = "trap"\n'
)


def test_a_width_that_everybody_but_the_oracle_gets_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # CVE-2019-7303's kind. `decide`, the compiler and the prover take the width from one place, so that none of them sees it.
    replay_compiler(CLOSE)
    monkeypatch.setattr("sandbox.policy.conditions.argument_mask", lambda *arguments: (1 << 64) - 1)
    with pytest.raises(AssertionError, match="decided"):
        replay_compiler(CLOSE)


def test_a_constant_that_everybody_but_the_oracle_gets_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.policy.conditions.constant", lambda name, arch: 3)
    with pytest.raises(AssertionError, match="decided"):
        replay_compiler(CLOSE)


def test_a_filter_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.fuzz_compiler.run_program", lambda program, data: 0x7FFF0000)
    with pytest.raises(AssertionError, match="filter 0x7fff0000, text"):
        replay_compiler(CLOSE)


def test_a_refusal_that_is_not_true_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PolicyError("condition never holds for `socket`", origin=f"{path}:7, rule[2].when")

    monkeypatch.setattr("fuzz.fuzz_compiler.load_policy", refuse)
    with pytest.raises(AssertionError, match="condition never holds for `socket`, but not for"):
        replay_compiler(CLOSE)


def test_an_order_of_files_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.policy import load

    good = load.read_stack
    monkeypatch.setattr(load, "read_stack", lambda *arguments: good(*arguments)[:1] + good(*arguments)[:0:-1])
    chance = random.Random(1)
    with pytest.raises(AssertionError):
        for _ in range(60):
            stacks(Bytes(chance.randbytes(900)))


@pytest.mark.seccomp
def test_a_check_that_differs_from_the_kernels_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    unwritten = ((0x60, 0, 0, 3), (0x06, 0, 0, 0))
    judge_program(Bytes(b""), unwritten)
    monkeypatch.setattr("fuzz.fuzz_evaluator.check_program", lambda program: None)
    with pytest.raises(AssertionError, match="refused=22"):
        judge_program(Bytes(b""), unwritten)


@pytest.mark.seccomp
@pytest.mark.parametrize("second", [True, False], ids=["both-interpreters-wrong", "evaluator-wrong"])
def test_an_evaluator_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, second: bool) -> None:
    program = ((0x20, 0, 0, 0), (0x35, 0, 1, 1000), (0x06, 0, 0, 0x5_1001), (0x06, 0, 0, 0x5_2002))
    judge_program(Bytes(b""), program)

    def swapped(program: Sequence[Instruction], data: Sequence[int]) -> int:
        return run_program([(0x25 if code == 0x35 else code, jt, jf, k) for code, jt, jf, k in program], data)

    monkeypatch.setattr("fuzz.fuzz_evaluator.run_program", swapped)
    if second:  # then only the kernel and the prover know better
        monkeypatch.setattr("fuzz.bpf.run", lambda program, data: swapped(program, struct.unpack("<16I", data)))
        monkeypatch.setattr("fuzz.fuzz_evaluator.symbolic", lambda *arguments: None)
    with pytest.raises(AssertionError, match="kernel" if second else "second interpreter"):
        judge_program(Bytes(bytes([1]) * 200), program)


def test_a_case_of_explain_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from sandbox.seccomp.explain import explain_shape

    calltext = target("calltext")
    assert calltext.one_input(b"\0" + b"ioctl(0, TIOCSTI)") == "1 cases, 2 fixed"
    denied = replace(load_policy("strict").default, errno=77)
    monkeypatch.setattr(
        calltext, "explain_shape", lambda *arguments: tuple(replace(case, outcome=denied) for case in explain_shape(*arguments))
    )
    with pytest.raises(AssertionError, match="explained"):
        calltext.one_input(b"\0" + b"ioctl(0, TIOCSTI)")


def test_json_that_is_misread_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    converters = target("converters")
    test = b'"args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]'
    content = b'{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ALLOW",' + test + b"}]}"
    assert converters.foreign(Bytes(bytes([1]) * 200), content).startswith("converted")
    good = converters.convert
    monkeypatch.setattr(converters, "convert", lambda content, arch, **options: good(content.replace(b"NE", b"GT"), arch, **options))
    with pytest.raises(AssertionError, match="the JSON says"):
        converters.foreign(Bytes(bytes([1]) * 200), content)


@pytest.mark.seccomp
def test_the_kernel_is_asked() -> None:
    answer = kernel.ask(kernel.guarded(((0x06, 0, 0, 0x50007),)), [(1000, (0,) * 6), (kernel.getppid(), (0,) * 6)])
    assert answer == kernel.Answer(refused=0, code=0, results=(7, 7))
    refused = kernel.ask(kernel.guarded(((0x60, 0, 0, 3), (0x06, 0, 0, 0))))
    assert refused is not None and refused.refused == 22
    killed = kernel.ask(kernel.guarded(((0x06, 0, 0, 0x80000000),)), [(1000, (0,) * 6)])
    assert killed == kernel.Answer(refused=0, code=-kernel.SIGSYS, results=())


def test_telling_programs_tell_twelve_bits() -> None:
    program = ((0x20, 0, 0, 16), (0x45, 0, 1, 1), (0x16, 0, 0, 0), (0x06, 0, 0, 0x7FFF0000))
    for shift in (0, 12, 24):
        telling = kernel.told(program, shift)
        assert telling is not None
        check_program(telling)
        for word in (0xABCD_EF01, 0x1234_5678):
            data = pack_data(1000, 0, (word,))
            assert run_program(telling, data) == 0x50000 | run_program(program, data) >> shift & 0xFFF
    assert decode(encode(program)) == program and bpf.run(program, bytes(16) + (3).to_bytes(4, "little") + bytes(44)) == 3
