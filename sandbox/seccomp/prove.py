"""Shows that a filter does exactly what its policy says, for every call there can be, or gives a call for which it does not.

Two sides are made into decision diagrams of the same store: the filter from its instructions (`prove_program.py`), the policy from its text
(`prove_policy.py`, which shares nothing with the compiler but the language). A diagram is unique for its function, so equality of two nodes is
equality for all architecture words, all 2^32 numbers, all argument and instruction pointer values: 2^512 calls. When the nodes differ, the smallest call
that tells them apart is asked of `evaluate.run_program` and `decide` too, so that a mistake of this prover shows as such.
Works for any two deciders: `differences` of two policies is `policy diff` by meaning, of two filters the comparison with somebody else's compiler.
Pure. Imported by `seccomp.compile` (never on a cache hit), the tools and tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.constants import decode_argument
from sandbox.abi.signatures import signature
from sandbox.abi.tables import syscall_name, syscall_table
from sandbox.errors import InternalError
from sandbox.policy.model import Outcome, RuleRef, SyscallPolicy
from sandbox.record import dataclass
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import (
    RET_KILL_PROCESS,
    RET_USER_NOTIF,
    Instruction,
    check_program,
    decode,
    describe_return,
    pack_data,
    run_program,
)
from sandbox.seccomp.filter import Filter, proof_digest
from sandbox.seccomp.prove_diagram import ARCH, FALSE, NUMBER, OTHER, WORD_BITS, Diagram, UnprovableError
from sandbox.seccomp.prove_policy import outcome_value, policy_diagram, policy_values
from sandbox.seccomp.prove_program import SymbolicProgram, returned_values

_NO_CALL = 0xFFFF_FFFF

Kind = Literal["syscall", "unnamed", "x32", "foreign"]
"""Of what a call is: a syscall that our tables name, a number that they do not, an x32 number, or a call of another architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call as a filter sees it. `arch` is whose names and numbers it is read with; `arch_word` is what the kernel says it is."""

    arch: Arch
    arch_word: int
    number: int
    arguments: tuple[int, ...]
    instruction_pointer: int = 0

    def data(self) -> tuple[int, ...]:
        """Return struct seccomp_data as sixteen words."""
        return pack_data(self.number, self.arch_word, self.arguments, self.instruction_pointer)

    def __str__(self) -> str:
        """Return the call as a person would write it, as ``ioctl(fd=0, cmd=TIOCSTI (register 0x100005412), arg=0)``."""
        own = self.arch_word == audit_arch(self.arch)
        name = syscall_name(self.arch, self.number) if own else None
        names = [argument for argument, _ in signature(name, self.arch)] if name is not None else []
        parts = [f"{argument}={decode_argument(self.arch, name or '', at, self.arguments[at])}" for at, argument in enumerate(names)]
        parts += [f"arg{at}={value:#x}" for at, value in enumerate(self.arguments) if at >= len(names) and value]
        number = f"syscall {self.number:#x}" if self.number >= X32_SYSCALL_BIT else f"syscall {self.number}"
        text = f"{name or number}({', '.join(parts)})"
        if not own:
            text += f" of architecture {self.arch_word:#010x}"
        return text + (f" at {self.instruction_pointer:#x}" if self.instruction_pointer else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An example of calls that two sides decide differently; `left` and `right` are the values they give it."""

    kind: Kind
    syscall: str
    call: Call
    left: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A filter and a policy that give every call the same value.

    `nodes` and `cases` are the size of what both mean: the nodes of the diagram, and the disjoint sets of calls it tells apart.
    """

    policy: str
    policy_digest: str
    filter_digest: str
    arch: Arch
    notify: bool
    instructions: int
    nodes: int
    cases: int
    seconds: float

    @property
    def digest(self) -> str:
        """Return what a cache entry records of this proof: SHA-256 in hex over everything it speaks of and the prover's version."""
        return proof_digest(self.policy_digest, self.filter_digest, self.arch, self.notify)

    def __str__(self) -> str:
        return (
            f"policy {self.policy} for {self.arch}{'' if self.notify else ' without a listener'}: {self.instructions} instructions "
            f"do what the text says for every call ({self.cases} cases, {self.seconds:.2f} s)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """A call for which a filter does something else than its policy says; `expected` and `actual` are return values, `rule` is what the text cites."""

    policy: str
    kind: Kind
    call: Call
    expected: int
    actual: int
    rule: RuleRef | None

    def __str__(self) -> str:
        cited = f" ({self.rule.file}:{self.rule.line})" if self.rule is not None else ""
        return f"`{self.call}`: the filter gives {describe_value(self.actual)}, the policy says {describe_value(self.expected)}{cited}"


class Decider(Protocol):
    """One side of a comparison: something that gives every call a 32-bit value."""

    def values(self) -> frozenset[int]:
        """Return every value it is known to give."""
        ...

    def node(self, diagram: Diagram, values: frozenset[int]) -> int:
        """Return its function; values outside `values` may be `OTHER`."""
        ...

    def answer(self, call: Call) -> int:
        """Return its value for one call, found without diagrams."""
        ...


class ProgramDecider:
    """A BPF program.

    Args:
        program: its instructions.

    Raises:
        RejectedError: the kernel would refuse it.
    """

    def __init__(self, program: Sequence[Instruction]) -> None:
        check_program(program)
        self.program = tuple(program)

    def values(self) -> frozenset[int]:
        """See `Decider`."""
        return returned_values(self.program)

    def node(self, diagram: Diagram, values: frozenset[int]) -> int:
        """See `Decider`."""
        return SymbolicProgram(diagram, self.program, values).result()

    def answer(self, call: Call) -> int:
        """See `Decider`."""
        return run_program(self.program, call.data())


class PolicyDecider:
    """A policy's text, read for one architecture.

    Args:
        policy: the merged policy.
        arch: whose calls it judges.
        notify: whether a supervisor listens.
        answers: tell recorded refusals apart by the errno that the supervisor answers; for comparing policies, not filters.
    """

    def __init__(self, policy: SyscallPolicy, arch: Arch, *, notify: bool = True, answers: bool = False) -> None:
        self.policy, self.arch, self.notify, self.answers = policy, arch, notify, answers

    def values(self) -> frozenset[int]:
        """See `Decider`."""
        return policy_values(self.policy, notify=self.notify, answers=self.answers)

    def node(self, diagram: Diagram, values: frozenset[int]) -> int:
        """See `Decider`."""
        return policy_diagram(diagram, self.policy, self.arch, notify=self.notify, answers=self.answers)

    def answer(self, call: Call) -> int:
        """See `Decider`."""
        if call.arch_word != audit_arch(self.arch):
            return RET_KILL_PROCESS
        decision = decide(self.policy, self.arch, call.number, call.arguments)
        return outcome_value(Outcome(action=decision.action, errno=decision.errno), notify=self.notify, answers=self.answers)


def prove(filter: Filter, policy: SyscallPolicy) -> Proof | Counterexample:
    """Compare a filter with a policy's text over all calls.

    Args:
        filter: the filter; its `arch` and `notify` say how the text is read.
        policy: the merged policy, checked.

    Returns:
        The proof, or the smallest call that refutes it: of the syscall with the lowest number if there is one, else of other numbers, of x32, or
        of another architecture.

    Raises:
        RejectedError: the kernel would refuse the program.
        UnprovableError: the comparison is too large.
        InternalError: prover and evaluator disagree.
    """
    began = time.perf_counter()
    left, right = ProgramDecider(decode(filter.bpf)), PolicyDecider(policy, filter.arch, notify=filter.notify)
    diagram = Diagram()
    node, difference = _compare(diagram, left, right, filter.arch)
    if difference is None:
        return Proof(
            policy=policy.name,
            policy_digest=policy.digest,
            filter_digest=filter.digest,
            arch=filter.arch,
            notify=filter.notify,
            instructions=filter.instructions,
            nodes=diagram.size(node),
            cases=diagram.cases(node),
            seconds=time.perf_counter() - began,
        )
    call = difference.call
    own = call.arch_word == audit_arch(filter.arch)
    rule = decide(policy, filter.arch, call.number, call.arguments).rule if own else None
    return Counterexample(policy=policy.name, kind=difference.kind, call=call, expected=difference.right, actual=difference.left, rule=rule)


def diff(left: SyscallPolicy, right: SyscallPolicy, arch: Arch) -> tuple[Difference, ...]:
    """Return the calls that two policies decide differently, by meaning: one example for each syscall and each pair of decisions.

    Values are a filter's, except that a recorded refusal carries its errno (see `describe_value`).

    Raises:
        UnprovableError: the comparison is too large.
    """
    return differences(PolicyDecider(left, arch, answers=True), PolicyDecider(right, arch, answers=True), arch)


def differences(left: Decider, right: Decider, arch: Arch) -> tuple[Difference, ...]:
    """Return the calls that two sides decide differently; empty means that they are equal for every call.

    Args:
        left: one side.
        right: the other side.
        arch: whose numbers and names are used to tell calls apart.

    Returns:
        The smallest example for each pair of values: of each syscall by number, then of numbers without a name, of x32's and of other architectures.

    Raises:
        UnprovableError: the comparison is too large, or both sides return computed words.
        InternalError: prover and evaluator disagree.
    """
    diagram = Diagram()
    return tuple(_differences(diagram, *_nodes(diagram, left, right), left, right, arch))


def _compare(diagram: Diagram, left: Decider, right: Decider, arch: Arch) -> tuple[int, Difference | None]:
    one, two = _nodes(diagram, left, right)
    return one, next(_differences(diagram, one, two, left, right, arch), None)


def _nodes(diagram: Diagram, left: Decider, right: Decider) -> tuple[int, int]:
    values = left.values() | right.values()
    one, two = left.node(diagram, values), right.node(diagram, values)
    if OTHER in diagram.values(one) and OTHER in diagram.values(two):
        raise UnprovableError("both sides return computed words")
    return one, two


def _differences(diagram: Diagram, one: int, two: int, left: Decider, right: Decider, arch: Arch) -> Iterator[Difference]:
    if one == two:
        return
    own = audit_arch(arch)
    table = syscall_table(arch)
    for syscall, number in sorted(table.items(), key=lambda item: item[1]):
        fixed = {ARCH: own, NUMBER: number}
        for _, _, data in diagram.pairs(diagram.given(one, fixed), diagram.given(two, fixed)):
            yield _difference("syscall", syscall, (number, own, *data[2:]), left, right, arch)
    number_word = diagram.word(NUMBER)
    native = words.is_equal(diagram, diagram.word(ARCH), words.known_bits(own, WORD_BITS))
    named = FALSE
    for number in table.values():
        named = diagram.either(named, words.is_equal(diagram, number_word, words.known_bits(number, WORD_BITS)))
    others = diagram.both(native, diagram.negate(named))
    high = words.is_greater(diagram, number_word, words.known_bits(X32_SYSCALL_BIT, WORD_BITS), or_equal=True)
    skipped = words.is_equal(diagram, number_word, words.known_bits(_NO_CALL, WORD_BITS))
    x32 = diagram.both(others, diagram.both(high, diagram.negate(skipped))) if arch is Arch.X86_64 else FALSE
    kinds: tuple[tuple[Kind, int], ...] = (
        ("unnamed", diagram.both(others, diagram.negate(x32))),
        ("x32", x32),
        ("foreign", diagram.negate(native)),
    )
    for kind, where in kinds:
        for _, _, data in diagram.pairs(diagram.both(where, one), diagram.both(where, two)):
            yield _difference(kind, "", data, left, right, arch)


def _difference(kind: Kind, syscall: str, data: tuple[int, ...], left: Decider, right: Decider, arch: Arch) -> Difference:
    registers = tuple(data[at] | data[at + 1] << 32 for at in range(4, 16, 2))
    call = Call(arch=arch, arch_word=data[ARCH], number=data[NUMBER], arguments=registers, instruction_pointer=data[2] | data[3] << 32)
    found = Difference(kind=kind, syscall=syscall, call=call, left=left.answer(call), right=right.answer(call))
    if found.left == found.right:
        raise InternalError(
            f"the prover says that the sides differ for `{call}`, but both give {describe_value(found.left)}",
            hint="please report this with the policy",
        )
    return found


def describe_value(value: int) -> str:
    """Return a value in the policy language's words; a recorded refusal with the errno of its answer, as ``notify EPERM``, where that is known."""
    if value > RET_USER_NOTIF and value & 0xFFFF_0000 == RET_USER_NOTIF:
        import errno

        return f"notify {errno.errorcode.get(value & 0xFFFF, value & 0xFFFF)}"
    return describe_return(value)
