"""The prover: every shipped filter is proven, planted bugs are found with a call, and its two readings agree with the evaluator and the text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.tables import syscall_number, syscall_table
from sandbox.errors import CompileError, InternalError
from sandbox.policy import locate
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import compile as compiler
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp import prove as prover
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import Instruction, RejectedError, check_program, decode, encode, run_program
from sandbox.seccomp.filter import Filter, make_filter
from sandbox.seccomp.initfilter import INIT_CALLS, REFERENCE_CALLS, build_init_filter
from sandbox.seccomp.prove import (
    Call,
    Counterexample,
    PolicyDecider,
    ProgramDecider,
    Proof,
    describe_value,
    diff,
    differences,
    prove,
)
from sandbox.seccomp.prove_diagram import ARCH, FALSE, NUMBER, OTHER, WORD_BITS, Diagram, UnprovableError
from sandbox.seccomp.prove_program import SymbolicProgram, returned_values

SHIPPED = tuple(sorted(path.stem for path in locate.data_dir("policies").glob("*.toml") if path.stem != "groups"))
X86 = Arch.X86_64


@pytest.fixture
def unproven_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiler return what it made without asking the prover."""
    monkeypatch.setattr(compiler, "_verify", lambda *arguments: "")


@cache
def policy_of(name: str) -> SyscallPolicy:
    return load_policy(name)


# ---------------------------------------------------------------- what ships is proven


@pytest.mark.usefixtures("unproven_compiler")
@pytest.mark.parametrize("notify", [True, False], ids=["notify", "alone"])
@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_filter_is_proven(name: str, arch: Arch, notify: bool) -> None:
    policy = policy_of(name)
    result = prove(compiler.compile_filter(policy, arch, notify=notify), policy)
    assert isinstance(result, Proof), str(result)
    assert result.cases > 300 and result.policy_digest == policy.digest


def test_the_compiler_returns_the_proof_it_asked_for() -> None:
    policy = policy_of("base")
    made = compiler.compile_filter(policy, X86)
    result = prove(made, policy)
    assert isinstance(result, Proof) and made.proof == result.digest and len(made.proof) == 64
    assert str(result).startswith(f"policy base for x86_64: {made.instructions} instructions do what the text says for every call")


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("arch", Arch)
def test_init_filter_allows_exactly_its_calls(arch: Arch, reference: bool) -> None:
    diagram = Diagram()
    program = decode(build_init_filter(arch, reference=reference))
    check_program(program)
    allowed = FALSE
    for name in INIT_CALLS + (REFERENCE_CALLS if reference else ()):
        number = syscall_number(arch, name)
        assert number is not None
        allowed = diagram.either(allowed, words.is_equal(diagram, diagram.word(NUMBER), words.known_bits(number, WORD_BITS)))
    own = words.is_equal(diagram, diagram.word(ARCH), words.known_bits(audit_arch(arch), WORD_BITS))
    expected = diagram.choose(diagram.both(own, allowed), diagram.leaf(bpf.RET_ALLOW), diagram.leaf(bpf.RET_KILL_PROCESS))
    assert SymbolicProgram(diagram, program, returned_values(program)).result() == expected


# ---------------------------------------------------------------- what is refuted (the rest: test_seccomp_planted.py)


LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'


def build(rules: str, default: str = "errno ENOSYS") -> SyscallPolicy:
    text = f'name = "p"\ndescription = "d"\ndefault = "{default}"\n{LAUNCH}{rules}'
    return merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)


def rule(syscall: str, action: str, when: str = "", otherwise: str = "", extra: str = "") -> str:
    text = f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "{action}"\nreason = "r"\n{extra}'
    return text + (f'when = "{when}"\n' if when else "") + (f'else = "{otherwise}"\n' if otherwise else "")


def refuted(made: Filter, policy: SyscallPolicy) -> Counterexample:
    result = prove(made, policy)
    assert isinstance(result, Counterexample), str(result)
    # The call is a real one: run and read here, not by the prover.
    program = decode(made.bpf)
    assert run_program(program, result.call.data()) == result.actual != result.expected
    if result.kind != "foreign":
        decision = decide(policy, made.arch, result.call.number, result.call.arguments)
        assert (result.expected & 0xFFFF == decision.errno) or decision.action == "notify"
        assert result.rule == decision.rule
    return result


@pytest.mark.parametrize(
    ("meant", "made", "offset"),
    [("<= 5", "< 5", 5), ("< 5", "<= 5", 5), (">= 0x100000000", "> 0x100000000", 1 << 32), ("> 7", ">= 7", 7), ("!= 0", "> 1", 1)],
)
def test_a_bound_off_by_one_is_found(meant: str, made: str, offset: int) -> None:
    policy, other = (build(rule("lseek", "allow", when=f"offset {text}", otherwise="errno EPERM")) for text in (meant, made))
    result = refuted(compiler.compile_filter(other, X86), policy)
    assert result.call.arguments == (0, offset, 0, 0, 0, 0) and result.call.number == syscall_number(X86, "lseek")


def test_the_rest_of_the_numbers_counts() -> None:
    policy = build("", default="kill-process")
    good = decode(compiler.compile_filter(policy, X86).bpf)
    # One number far from any that our tables name is let through.
    own = ((bpf.LD | bpf.ABS, 0, 0, 4), (bpf.JMP | bpf.JEQ, 0, 3, audit_arch(X86)))
    odd = ((bpf.LD | bpf.ABS, 0, 0, 0), (bpf.JMP | bpf.JEQ, 0, 1, 0x1234_5678), (bpf.RET, 0, 0, bpf.RET_ALLOW))
    program = (*own, *odd, *good)
    result = refuted(make_filter(encode(program), arch=X86, policy="p", policy_digest="", notify=True), policy)
    assert (result.kind, result.call.number, result.actual) == ("unnamed", 0x1234_5678, bpf.RET_ALLOW)


def test_what_no_text_mentions_counts() -> None:
    # The instruction pointer and registers beyond the last argument are inputs, too.
    policy = build("", default="kill-process")
    good = decode(compiler.compile_filter(policy, X86).bpf)
    for offset, text in ((12, "read(fd=0, buf=NULL, count=0) at 0x4100000000"), (60, "read(fd=0, buf=NULL, count=0, arg5=0x4100000000)")):
        head = ((bpf.LD | bpf.ABS, 0, 0, offset), (bpf.JMP | bpf.JEQ, 0, 1, 0x41), (bpf.RET, 0, 0, bpf.RET_LOG))
        result = refuted(make_filter(encode((*head, *good)), arch=X86, policy="p", policy_digest="", notify=True), policy)
        assert str(result.call) == text


# ---------------------------------------------------------------- the tools' side


def test_diff_by_meaning() -> None:
    left = build(
        rule("lseek", "allow", when="offset < 10", otherwise="errno EPERM")
        + rule("getpid", "allow")
        + rule("getppid", "errno EPERM")
        + rule("umask", "errno EPERM", extra="audit = false\n")
    )
    right = build(
        rule("lseek", "allow", when="offset <= 9", otherwise="errno EPERM")  # the same in other words
        + rule("getpid", "log")
        + rule("getppid", "errno EACCES")
        + rule("umask", "errno EPERM")
    )
    assert diff(left, left, X86) == ()
    found = [(str(each.call), describe_value(each.left), describe_value(each.right)) for each in diff(left, right, X86)]
    assert found == [
        ("getpid()", "allow", "log"),
        ("umask(mask=0)", "errno EPERM", "notify EPERM"),
        ("getppid()", "notify EPERM", "notify EACCES"),
    ]
    others = [each for each in diff(build(""), build("", default="trap"), X86) if each.kind != "syscall"]
    # x32 and other architectures are killed by every policy.
    assert [(each.kind, each.syscall, each.call.number) for each in others] == [("unnamed", "", 337)]


def test_each_pair_of_decisions_has_its_example() -> None:
    left, right = policy_of("strict"), policy_of("default")
    found = diff(left, right, X86)
    pairs = {(each.syscall, each.left, each.right) for each in found}
    assert len(pairs) == len(found) and {each.kind for each in found} == {"syscall"}
    for each in found:
        for policy, value in ((left, each.left), (right, each.right)):
            assert PolicyDecider(policy, X86, answers=True).answer(each.call) == value
    assert [each.syscall for each in found] == sorted((each.syscall for each in found), key=syscall_table(X86).__getitem__)
    back = diff(right, left, X86)
    assert {(each.syscall, each.right, each.left) for each in back} == pairs


def test_two_filters_can_be_compared() -> None:
    policy = build(rule("getppid", "errno EPERM"))
    one, two = (decode(compiler.compile_filter(policy, X86, notify=notify).bpf) for notify in (True, False))
    assert differences(ProgramDecider(one), ProgramDecider(one), X86) == ()
    found = differences(ProgramDecider(one), ProgramDecider(two), X86)
    assert ("getppid", bpf.RET_USER_NOTIF, bpf.RET_ERRNO | 1) in {(each.syscall, each.left, each.right) for each in found}
    computed = ((bpf.LD | bpf.ABS, 0, 0, 0), (bpf.RET | bpf.RET_A, 0, 0, 0))
    with pytest.raises(UnprovableError, match="both sides return computed words"):
        differences(ProgramDecider(computed), ProgramDecider(computed), X86)
    with pytest.raises(RejectedError):
        ProgramDecider(((bpf.JMP | bpf.JA, 0, 0, 5), (bpf.RET, 0, 0, 0)))


@pytest.mark.parametrize(
    ("word", "number", "arguments", "text"),
    [
        (audit_arch(X86), 41, (40, 1), "socket(family=AF_VSOCK, type=SOCK_STREAM, protocol=0)"),
        (audit_arch(X86), 39, (7,), "getpid(arg0=0x7)"),
        (audit_arch(X86), 5000, (0, 1 << 40), "syscall 5000(arg1=0x10000000000)"),
        (0x40000003, 41, (1,), "syscall 41(arg0=0x1) of architecture 0x40000003"),
        (audit_arch(X86), 0xFFFF_FFFF, (), "syscall 0xffffffff()"),
    ],
)
def test_calls_read_like_calls(word: int, number: int, arguments: tuple[int, ...], text: str) -> None:
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    assert str(Call(arch=X86, arch_word=word, number=number, arguments=padded)) == text


# ---------------------------------------------------------------- the prover's own failures


def test_too_large_a_comparison_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    product = (
        (bpf.LD | bpf.ABS, 0, 0, 16),
        (bpf.MISC, 0, 0, 0),
        (bpf.LD | bpf.ABS, 0, 0, 24),
        (bpf.ALU | bpf.MUL | bpf.X, 0, 0, 0),
        (bpf.JMP | bpf.JEQ, 0, 1, 12345),
        (bpf.RET, 0, 0, bpf.RET_ALLOW),
        (bpf.RET, 0, 0, bpf.RET_KILL_PROCESS),
    )
    check_program(product)
    with pytest.raises(UnprovableError, match="more than 5000 nodes"):
        SymbolicProgram(Diagram(5000), product, returned_values(product)).result()

    def too_large(*arguments: object) -> Proof:
        raise UnprovableError("the comparison needs more than 5000 nodes")

    monkeypatch.setattr(compiler, "prove", too_large)
    with pytest.raises(CompileError, match=r"its conditions are too complex to be proven: the comparison needs more than 5000 nodes"):
        compiler.compile_filter(policy_of("base"), X86)


def test_a_prover_that_the_evaluator_contradicts_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = build("")
    made = compiler.compile_filter(policy, X86)
    wrong = make_filter(
        made.bpf.replace(b"\x06\0\0\0\0\0\xff\x7f", b"\x06\0\0\0\0\0\x03\0"), arch=X86, policy="p", policy_digest="", notify=True
    )
    assert isinstance(prove(wrong, policy), Counterexample)
    monkeypatch.setattr(prover, "run_program", lambda program, data: bpf.RET_ALLOW)
    with pytest.raises(InternalError, match="the prover says that the sides differ for `read"):
        prove(wrong, policy)


def test_arithmetic_on_unknown_words_is_exact() -> None:
    diagram = Diagram()
    one, two = diagram.word(4)[:4], diagram.word(6)[:4]
    operations: dict[str, tuple[tuple[int, ...], Callable[[int, int], int]]] = {
        "add": (words.add(diagram, one, two), lambda a, b: a + b & 15),
        "subtract": (words.subtract(diagram, one, two), lambda a, b: a - b & 15),
        "multiply": (words.multiply(diagram, one, two), lambda a, b: a * b & 15),
        "divide": (words.divide(diagram, one, two), lambda a, b: a // b if b else -1),
        "and": (words.bit_and(diagram, one, two), lambda a, b: a & b),
        "or": (words.bit_or(diagram, one, two), lambda a, b: a | b),
        "xor": (words.bit_xor(diagram, one, two), lambda a, b: a ^ b),
        "equal": ((words.is_equal(diagram, one, two),), lambda a, b: a == b),
        "greater": ((words.is_greater(diagram, one, two, or_equal=False),), lambda a, b: a > b),
        "at least": ((words.is_greater(diagram, one, two, or_equal=True),), lambda a, b: a >= b),
    }
    for name, (bits, meaning) in operations.items():
        for a in range(16):
            for b in range(16):
                data = (0, 0, 0, 0, a, 0, b, *(0,) * 9)
                value = sum(diagram.at(bit, data) << place for place, bit in enumerate(bits))
                assert value == meaning(a, b) or meaning(a, b) == -1, (name, a, b)


# ---------------------------------------------------------------- random programs: the symbolic machine against the evaluator


SMALL_K = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 31, 0xFF, 0x8000_0000, 0xFFFF_FFFF])
OPCODES = sorted(bpf._ALLOWED)
WORD = SMALL_K | st.integers(0, 0xFFFF_FFFF)


@st.composite
def instructions(draw: st.DrawFn, left: int) -> Instruction:
    code = draw(st.sampled_from(OPCODES))
    jump = st.integers(0, max(0, min(4, left - 1)))
    if code == bpf.LD | bpf.ABS:
        return code, 0, 0, 4 * draw(st.sampled_from([4, 4, 5, 6]))
    if code in (bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM, bpf.ST, bpf.STX):
        return code, 0, 0, draw(st.integers(0, 1))
    if code == bpf.JMP | bpf.JA:
        return code, 0, 0, draw(jump)
    if code & 7 == bpf.JMP:
        return code, draw(jump), draw(jump), draw(SMALL_K)
    if code in (bpf.ALU | bpf.LSH, bpf.ALU | bpf.RSH):
        return code, 0, 0, draw(st.integers(0, 31))
    return code, 0, 0, draw(SMALL_K)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Instruction, ...]:
    size = draw(st.integers(1, 14))
    # Two words in A and X and two in scratch, so that most of what follows is about unknown values.
    head = [(0x20, 0, 0, 16), (0x02, 0, 0, 0), (0x07, 0, 0, 0), (0x20, 0, 0, 20), (0x02, 0, 0, 1)]
    body = [draw(instructions(size - at)) for at in range(size)]
    return (*head, *body, (bpf.RET | draw(st.sampled_from([0, bpf.RET_A])), 0, 0, draw(SMALL_K)))


@settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), data=st.lists(st.tuples(WORD, WORD, WORD), min_size=12, max_size=12))
def test_random_programs_mean_what_the_evaluator_does(program: tuple[Instruction, ...], data: list[tuple[int, int, int]]) -> None:
    try:
        check_program(program)
    except RejectedError:
        assume(False)
    calls = [(0, 0, 0, 0, *words_, *(0,) * 9) for words_ in data]
    diagram = Diagram(8000)
    values = returned_values(program) | {run_program(program, call) for call in calls[::2]}
    try:
        node = SymbolicProgram(diagram, program, values).result()
    except UnprovableError:
        assume(False)
    for call in calls:
        actual = run_program(program, call)
        assert diagram.value(diagram.at(node, call)) == (actual if actual in values else OTHER), call
