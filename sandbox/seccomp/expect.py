"""Holds policies to files of expected decisions, for *all* calls that a text means.

A call with missing arguments stands for every value of them: the policy's decision diagram is cut down to those calls, and each value that it still gives
must be the expected one. An example of each value is asked of `decide` and run through the compiled filter, too. Pure but for reading policies and
groups. Imported by the policy tools and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError, PolicyError
from sandbox.policy.expectations import Expectation, ExpectationFile
from sandbox.policy.groups import load_groups
from sandbox.policy.load import load_policy
from sandbox.policy.model import PERMITTING, Action, Entry, Outcome, Place, RuleRef, SyscallPolicy
from sandbox.policy.nearest import suggest
from sandbox.record import dataclass
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import Instruction, decode, describe_return, run_program
from sandbox.seccomp.explain import cases, is_recorded, outcome_text
from sandbox.seccomp.prove import Call
from sandbox.seccomp.prove_diagram import ARCH, NUMBER, TRUE, Diagram
from sandbox.seccomp.prove_policy import outcome_value, policy_diagram
from sandbox.seccomp.shape import Abi, CallError, CallShape, parse_call

_MARK = -2  # a leaf that no policy gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that is not decided as expected; `rule` is None where no policy is asked."""

    call: str
    actual: str
    recorded: bool | None
    rule: RuleRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One text of a case, for one policy and architecture.

    `examples` is how many calls were run, `rules` are those that decided them; `failure` is None when all is as expected.
    """

    policy: str
    expectation: Expectation
    text: str
    place: Place
    abi: Abi
    examples: int
    rules: frozenset[RuleRef]
    failure: Failure | None


class _Subject:
    """One policy for one architecture: its diagram and its filter."""

    def __init__(self, policy: SyscallPolicy, arch: Arch) -> None:
        self.policy, self.arch = policy, arch
        self.diagram = Diagram()
        self.node = policy_diagram(self.diagram, policy, arch, notify=True, answers=True)
        self.program: tuple[Instruction, ...] = decode(compile_filter(policy, arch).bpf)
        self.mark = self.diagram.leaf(_MARK)

    def examples(self, shape: CallShape) -> Iterator[Call]:
        """Yield one call of a shape for each value that it gets."""
        diagram = self.diagram
        inside = TRUE
        for index, (care, value) in shape.fixed.items():
            bits = tuple(bit if care >> at & 1 else 0 for at, bit in enumerate(diagram.register(index)))
            inside = diagram.both(inside, words.is_equal(diagram, bits, words.known_bits(value & care, len(bits))))
        given = diagram.given(self.node, {ARCH: shape.arch_word, NUMBER: shape.number})
        for _, _, data in diagram.pairs(diagram.both(inside, given), diagram.both(inside, self.mark)):
            registers = tuple(data[at] | data[at + 1] << 32 for at in range(4, 16, 2))
            yield Call(arch=self.arch, arch_word=shape.arch_word, number=shape.number, arguments=registers)

    def decided(self, shape: CallShape, call: Call) -> tuple[Outcome, RuleRef | None]:
        """Return a call's decision by the text, after asking the filter.

        Raises:
            InternalError: they disagree.
        """
        if shape.foreign:
            outcome, rule = Outcome(action=Action.KILL_PROCESS), None
        else:
            decision = decide(self.policy, self.arch, call.number, call.arguments)
            outcome, rule = Outcome(action=decision.action, errno=decision.errno), decision.rule
        returned = run_program(self.program, call.data())
        if returned != outcome_value(outcome, notify=True):
            raise InternalError(
                f"filter of `{self.policy.name}` gives `{call}` {describe_return(returned)}, the text says {outcome_text(outcome)}",
                hint="please report this with the policy",
            )
        return outcome, rule


def run_expectations(file: ExpectationFile) -> Iterator[Check]:
    """Yield one check for each call text, policy and architecture, in the file's order.

    Raises:
        PolicyError: a policy cannot be loaded, or a call's text is wrong; with the place in the file.
        CompileError: a policy cannot become a filter.
    """
    for name in file.policies:
        policy = load_policy(name)
        subjects: dict[Arch, _Subject] = {}
        for expectation in file.cases:
            for text, place in expectation.calls:
                for shape in _shapes(text, place, expectation):
                    subject = subjects.get(shape.arch)
                    if subject is None:
                        subject = subjects[shape.arch] = _Subject(policy, shape.arch)
                    yield _check(subject, shape, expectation, place)


def _shapes(text: str, place: Place, expectation: Expectation) -> list[CallShape]:
    """Return what a text means on each architecture that has the call."""
    abis: tuple[Abi, ...] = tuple(abi for abi in ("x86_64", "aarch64", "x32", "i386") if abi in expectation.arches)
    asked: tuple[Abi, ...] = abis or ("x86_64", "aarch64")
    if text.startswith("@"):
        groups = load_groups()
        if text[1:] not in groups:
            raise PolicyError(f"unknown group `{text}`", origin=str(place), hint=suggest(text, (f"@{name}" for name in groups)))
        members = [
            parse_call(syscall, abi)
            for syscall in groups[text[1:]].syscalls
            for abi in asked
            if syscall_number(Arch.AARCH64 if abi == "aarch64" else Arch.X86_64, syscall) is not None
        ]
        if not members:  # a case of no calls would hold for any policy
            raise PolicyError(f"{', '.join(asked)} has no syscall of `{text}`", origin=str(place))
        return members
    found: list[CallShape] = []
    first: CallError | None = None
    for abi in asked:
        try:
            found.append(parse_call(text, abi))
        except CallError as error:
            first = first or error
            if abis or not error.message.startswith(f"{abi} has no syscall"):
                first = error
                found = []
                break
    if not found and first is not None:
        raise PolicyError(first.message, origin=f"{place}\n{first.origin}", hint=first.hint)
    return found


def _check(subject: _Subject, shape: CallShape, expectation: Expectation, place: Place) -> Check:
    count = 0
    rules: set[RuleRef] = set()
    failure = None
    for call in subject.examples(shape):
        count += 1
        outcome, rule = subject.decided(shape, call)
        if rule is not None:
            rules.add(rule)
        if not _is_expected(outcome, expectation) and failure is None:
            failure = Failure(call=str(call), actual=outcome_text(outcome), recorded=is_recorded(outcome), rule=rule)
    return Check(
        policy=subject.policy.name,
        expectation=expectation,
        text=shape.text,
        place=place,
        abi=shape.abi,
        examples=count,
        rules=frozenset(rules),
        failure=failure,
    )


def _is_expected(outcome: Outcome, expectation: Expectation) -> bool:
    if expectation.recorded is not None and is_recorded(outcome) is not expectation.recorded:
        return False
    permitted = outcome.action in PERMITTING
    match expectation.decision:
        case "permitted":
            return permitted
        case "refused":
            return not permitted
        case "errno":
            return outcome.action in (Action.ERRNO, Action.NOTIFY) and outcome.errno == expectation.errno
        case _:
            return outcome.action == expectation.decision


def untouched_rules(policy: SyscallPolicy, checks: Iterable[Check]) -> tuple[Entry, ...]:
    """Return one entry for each rule of a policy that decides some call, but none that the checks ran."""
    touched = {rule for check in checks if check.policy == policy.name for rule in check.rules}
    left: dict[RuleRef, Entry] = {}
    for arch in Arch:
        for syscall in policy.rules:
            if syscall_number(arch, syscall) is not None:
                for case in cases(policy, arch, syscall):
                    if case.entry is not None and case.entry.ref not in touched:
                        left.setdefault(case.entry.ref, case.entry)
    order = {layer.path: at for at, layer in enumerate(policy.stack)}
    return tuple(sorted(left.values(), key=lambda entry: (order[entry.layer.path], entry.ref.line)))


def expected_text(expectation: Expectation) -> str:
    """Return an expectation in the file's words."""
    import errno

    text = f"errno {errno.errorcode.get(expectation.errno, expectation.errno)}" if expectation.decision == "errno" else expectation.decision
    if expectation.recorded is None:
        return text
    return f"{text}, {'recorded' if expectation.recorded else 'not recorded'}"
