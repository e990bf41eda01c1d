"""What a policy that is well-formed may still not mean: known ways round a refusal, and refusals that break programs.

Decided by meaning: which calls a policy permits is taken from its cases (`explain.py`), not from the names in its rules. A way round is warned of when a rule
refuses calls that another system call can make instead, and that one is permitted where the first is not; sets of arguments are compared exactly, as
decision diagrams. What a policy leaves to its default is no statement of its author and is not guarded. Pure. Imported by the policy tools and tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations, product

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.constants import choices, constant
from sandbox.abi.signatures import argument_index, argument_mask, is_signed, signature
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import U64, evaluate_value, leaves, locate_argument, parse_condition, values
from sandbox.policy.cubes import Cube, Leaf, intersect, leaf_cubes
from sandbox.policy.model import Action, Comparison, Entry, Operator, RuleRef, SyscallPolicy
from sandbox.record import dataclass, replace
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.explain import Case, cases, explain_shape, is_permitted, outcome_text
from sandbox.seccomp.lint_families import BLIND, FAMILIES, PROBED, Family, Member
from sandbox.seccomp.lint_flags import field_advice, refused_values
from sandbox.seccomp.prove import Call
from sandbox.seccomp.prove_diagram import FALSE, TRUE, Diagram, register_words
from sandbox.seccomp.shape import parse_call

_ORDERING = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_PIDS = ("pid", "tgid", "tid", "upid", "pgid")
_OTHERS = {
    "clone3-errno": "clone3 is refused with something else than ENOSYS",
    "fd-value": "a condition tests a descriptor's number",
    "foreign-constant": "an argument is compared with a constant that belongs to another argument",
    "flag-value": "one value of an argument of flags is refused, and with another flag it is permitted",
    "kill-probe": "what runtimes merely try ends the process",
    "listener": "the program may put a listener of its own over its own calls",
    "open-personality": "any personality may be set",
    "open-prctl": "any prctl option is permitted",
    "pid-value": "a condition tests a process's number",
    "pointer-argument": "a condition tests what does not matter: the decisive argument lies in memory",
    "signed-order": "an ordering on a signed argument, compared unsigned",
    "upper-bits": "bits that the kernel drops make a refused call a permitted one",
    "terminal-input": "input can be pushed into a terminal",
}
IDS = {family.id: f"a refusal to {family.what} can be gone round" for family in FAMILIES} | _OTHERS
"""Every kind of warning, with what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One warning: its kind, the rule to look at, what is wrong in words, and what to do."""

    id: str
    ref: RuleRef
    message: str
    advice: str


def lint(policy: SyscallPolicy) -> tuple[Finding, ...]:
    """Return the warnings about a policy, by place; what both architectures have in common once.

    Args:
        policy: a merged policy, checked.
    """
    order = {layer.path: at for at, layer in enumerate(policy.stack)}
    found: dict[tuple[str, RuleRef, str], Finding] = {}
    for arch in Arch:
        for each in (*_ways_round(policy, arch), *_decisions(policy, arch), *_conditions(policy, arch)):
            found.setdefault((each.id, each.ref, each.message.partition(" where ")[0]), each)
    return tuple(sorted(found.values(), key=lambda each: (order.get(each.ref.file, 0), each.ref.line, each.id, each.message)))


# ---- ways round ------------------------------------------------------------------------------------------------------


def _ways_round(policy: SyscallPolicy, arch: Arch) -> Iterator[Finding]:
    for family in FAMILIES:
        diagram = Diagram()
        refused: dict[tuple[str, RuleRef], list[tuple[str, RuleRef, str]]] = {}
        for guard, way in permutations(family.members, 2):
            if not guard.is_guard or not way.is_way or guard.syscall not in policy.rules:
                continue
            if syscall_number(arch, guard.syscall) is None or syscall_number(arch, way.syscall) is None:
                continue
            found = _compare(diagram, policy, arch, family, guard, way)
            if found is not None:
                permitting, refusing, example = found
                refused.setdefault((way.syscall, permitting), []).append((guard.syscall, refusing, example))
        for (way_name, ref), guards in refused.items():
            listed = ", ".join(f"`{name}`" for name, _, _ in guards[:6]) + (f" and {len(guards) - 6} more" if len(guards) > 6 else "")
            place = f"{guards[0][1].file.rpartition('/')[2]}:{guards[0][1].line}"
            yield Finding(
                id=family.id,
                ref=ref,
                message=f"`{way_name}` can {family.what} where {listed} may not ({place}), as in `{guards[0][2]}`",
                advice=family.advice,
            )


def _compare(
    diagram: Diagram, policy: SyscallPolicy, arch: Arch, family: Family, guard: Member, way: Member
) -> tuple[RuleRef, RuleRef, str] | None:
    """Return (rule that permits, rule that refuses, example) when `way` may do something that `guard` is refused."""
    guarded, open_ways = cases(policy, arch, guard.syscall), cases(policy, arch, way.syscall)
    refusing = [case for case in guarded if not is_permitted(case.outcome) and case.ref is not None]
    if not refusing or not any(is_permitted(case.outcome) for case in open_ways):
        return None
    # Meanings that the guard has, whatever the way sees of them; one that it has not it cannot be said to refuse.
    meanings = sorted({*guard.arguments, *guard.constants}) if guard.arguments or guard.constants else []
    masks = [_mask(family, meaning, arch, guard, way) for meaning in meanings]
    permitted = FALSE
    for case in guarded:
        if is_permitted(case.outcome):
            permitted = diagram.either(permitted, _project(diagram, case, guard, arch, meanings, masks))
    if not meanings and not guard.where:
        permitted = FALSE  # a refusal of some calls of a kind can be gone round by a call of another kind
    sought = diagram.negate(permitted)
    for at, (meaning, mask) in enumerate(zip(meanings, masks, strict=True)):
        sought = diagram.both(sought, _domain(diagram, family, meaning, at, mask, arch))
        if meaning in guard.constants:
            sought = diagram.both(sought, _in_cube(diagram, at, (mask, _number(guard.constants[meaning], arch) & mask)))
    for case in open_ways:
        if not is_permitted(case.outcome) or case.ref is None:
            continue
        both = diagram.both(sought, _project(diagram, case, way, arch, meanings, masks))
        if both != FALSE:
            _, _, data = next(diagram.pairs(both, FALSE))
            return case.ref, refusing[0].ref or case.ref, _example(case, way, arch, meanings, masks, data)
    return None


def _mask(family: Family, meaning: str, arch: Arch, *members: Member) -> int:
    mask = _number(family.masks[meaning], arch) if meaning in family.masks else U64
    for member in members:
        if meaning in member.arguments:
            index = argument_index(member.syscall, member.arguments[meaning], arch)
            assert index is not None, (member.syscall, meaning)
            mask &= argument_mask(member.syscall, index, arch)
    return mask


def _project(diagram: Diagram, case: Case, member: Member, arch: Arch, meanings: Sequence[str], masks: Sequence[int]) -> int:
    """Return for which meanings some call of a case exists."""
    result = FALSE
    for box in case.boxes:
        cut = dict(box)
        if member.where:
            for leaf in _leaves(member.where):
                index, _ = locate_argument(leaf, member.syscall, arch)
                cut[index] = tuple(intersect(cut.get(index, ((0, 0),)), leaf_cubes(leaf, member.syscall, arch)))
        if not all(cut.values()):
            continue
        part = TRUE
        for at, (meaning, mask) in enumerate(zip(meanings, masks, strict=True)):
            if meaning in member.constants:
                part = diagram.both(part, _in_cube(diagram, at, (mask, _number(member.constants[meaning], arch) & mask)))
            elif meaning in member.arguments:
                index, _ = _place(member, meaning, arch)
                cubes = cut.get(index, ((0, 0),))
                part = diagram.both(part, _in_cubes(diagram, at, [(care & mask, value & mask) for care, value in cubes]))
        result = diagram.either(result, part)
    return result


def _place(member: Member, meaning: str, arch: Arch) -> tuple[int, int]:
    index = argument_index(member.syscall, member.arguments[meaning], arch)
    assert index is not None, (member.syscall, meaning)
    return index, argument_mask(member.syscall, index, arch)


def _domain(diagram: Diagram, family: Family, meaning: str, register: int, mask: int, arch: Arch) -> int:
    if meaning not in family.domain:
        return TRUE
    listed = family.domain[meaning]
    if not listed:
        return diagram.negate(_in_cube(diagram, register, (mask, 0)))
    return _in_cubes(diagram, register, [(mask, _number(text, arch) & mask) for text in listed])


def _in_cubes(diagram: Diagram, register: int, cubes: Sequence[Cube]) -> int:
    result = FALSE
    for cube in cubes:
        result = diagram.either(result, _in_cube(diagram, register, cube))
    return result


def _in_cube(diagram: Diagram, register: int, cube: Cube) -> int:
    care, value = cube
    bits = tuple(bit if care >> at & 1 else FALSE for at, bit in enumerate(diagram.register(register)))
    return words.is_equal(diagram, bits, words.known_bits(value, len(bits)))


def _example(case: Case, way: Member, arch: Arch, meanings: Sequence[str], masks: Sequence[int], data: tuple[int, ...]) -> str:
    """Return a call of a case that has the meanings of `data`, as a person would write it."""
    visible = [(at, *_place(way, meaning, arch)) for at, meaning in enumerate(meanings) if meaning in way.arguments]
    low = {at: data[register_words(at)[0]] | data[register_words(at)[1]] << 32 for at, _, _ in visible}
    asked = [(locate_argument(leaf, way.syscall, arch)[0], leaf_cubes(leaf, way.syscall, arch)) for leaf in _leaves(way.where)]
    arguments = case.arguments
    # Nothing but the meaning's own bits, if there is such a call; else with others that do not count.
    for exact, box in product((True, False), case.boxes):
        wanted = asked + [(index, [(kept if exact else masks[at], low[at])]) for at, index, kept in visible]
        found: dict[int, list[Cube]] = {}
        for index, cubes in wanted:
            found[index] = intersect(cubes, found.get(index, box.get(index, ((0, 0),))))
        if all(found.values()):
            chosen = {index: min(value for _, value in cubes) for index, cubes in (*box.items(), *found.items())}
            arguments = tuple(chosen.get(index, 0) for index in range(len(arguments)))
            break
    number = syscall_number(arch, way.syscall)
    assert number is not None
    return str(Call(arch=arch, arch_word=audit_arch(arch), number=number, arguments=arguments))


def _leaves(condition: str) -> list[Leaf]:
    return list(leaves(parse_condition(condition))) if condition else []


@cache
def _number(text: str, arch: Arch) -> int:
    leaf = parse_condition(f"x == {text}")
    assert isinstance(leaf, Comparison)
    return evaluate_value(leaf.value, arch, U64)


# ---- decisions -------------------------------------------------------------------------------------------------------


def _decisions(policy: SyscallPolicy, arch: Arch) -> Iterator[Finding]:
    """Yield what a policy does with calls whose danger, or whose use by libc, is known."""
    typing = {text: _permitted(policy, arch, text) for text in ("ioctl(cmd=TIOCSTI)", "ioctl(cmd=TIOCLINUX)")}
    open_ways = [text for text, found in typing.items() if found]
    if open_ways:
        yield _finding(
            "terminal-input",
            typing[open_ways[0]][0],
            f"{' and '.join(f'`{text}`' for text in open_ways)} {'is' if len(open_ways) == 1 else 'are'} permitted: "
            "input can be pushed into a terminal (CVE-2017-5226, CVE-2023-28100)",
            "refuse TIOCSTI and TIOCLINUX by a condition on `cmd`, or allow a list of requests",
        )
    for case in _permitted(policy, arch, "seccomp(SECCOMP_SET_MODE_FILTER, flags=SECCOMP_FILTER_FLAG_NEW_LISTENER)"):
        yield _finding(
            "listener",
            case,
            "a program may install a filter with a listener of its own, which answers calls before this policy's supervisor sees them",
            "refuse `flags & SECCOMP_FILTER_FLAG_NEW_LISTENER`",
        )
    for syscall, what in (("prctl", "option"), ("personality", "value")):
        found = cases(policy, arch, syscall)
        if all(is_permitted(case.outcome) for case in found):
            yield _finding(
                f"open-{syscall}",
                found[0],
                f"`{syscall}` is permitted with every {what}",
                "allow a list of options" if syscall == "prctl" else "personalities weaken address randomisation: allow a list of values",
            )
    for case in cases(policy, arch, "clone3"):
        if not is_permitted(case.outcome) and outcome_text(case.outcome) != "errno ENOSYS":
            yield _finding(
                "clone3-errno",
                case,
                f"`clone3` gets {outcome_text(case.outcome)}: glibc falls back to clone on ENOSYS only, so threads cannot be made",
                'refuse it with `action = "errno ENOSYS"`, `audit = false`',
            )
    for syscall in PROBED:
        if syscall_number(arch, syscall) is None:
            continue
        for case in cases(policy, arch, syscall):
            if case.outcome.action in (Action.KILL_PROCESS, Action.TRAP) and syscall in policy.rules:
                yield _finding(
                    "kill-probe",
                    case,
                    f"`{syscall}` gets {case.outcome.action}, but runtimes merely try it at their start and take a no",
                    "refuse it with an errno (ENOSYS or EPERM)",
                )


def _permitted(policy: SyscallPolicy, arch: Arch, text: str) -> list[Case]:
    found = explain_shape(policy, parse_call(text, arch.value))
    return [case for case in found if is_permitted(case.outcome)][:1]


def _finding(id: str, case: Case, message: str, advice: str) -> Finding:
    assert case.ref is not None
    return Finding(id=id, ref=case.ref, message=message, advice=advice)


# ---- conditions ------------------------------------------------------------------------------------------------------


def _conditions(policy: SyscallPolicy, arch: Arch) -> Iterator[Finding]:
    """Yield conditions that do not say what they seem to."""
    for syscall, entries in policy.rules.items():
        if syscall_number(arch, syscall) is None:
            continue
        for entry in entries:
            if entry.rule.condition is not None:
                yield from _condition(entry, syscall, arch)
        for entry, message in refused_values(policy, syscall, entries, arch):
            yield Finding(id="flag-value", ref=entry.ref, message=message, advice=field_advice(entry, syscall, arch))
        if any(leaf.register for entry in entries if entry.rule.condition is not None for leaf in leaves(entry.rule.condition)):
            yield from _upper_bits(policy, syscall, arch)


def _upper_bits(policy: SyscallPolicy, syscall: str, arch: Arch) -> Iterator[Finding]:
    """Yield when bits that the kernel drops make a refused call a permitted one (CVE-2019-7303)."""
    diagram = Diagram()
    names = [argument for argument, _ in signature(syscall, arch)]
    member = Member(syscall=syscall, arguments={name: name for name in names})
    masks = [argument_mask(syscall, index, arch) for index in range(len(names))]
    plain = FALSE
    found = [case for case in cases(policy, arch, syscall) if is_permitted(case.outcome)]
    for case in found:
        boxes = tuple(
            {index: tuple(intersect(cubes, [(U64 ^ masks[index], 0)])) if index < len(masks) else cubes for index, cubes in box.items()}
            for box in case.boxes
        )
        kept = replace(case, boxes=tuple(box for box in boxes if all(box.values())))
        plain = diagram.either(plain, _project(diagram, kept, member, arch, names, masks))
    for case in found:
        dropped = diagram.both(_project(diagram, case, member, arch, names, masks), diagram.negate(plain))
        if dropped != FALSE:
            _, _, data = next(diagram.pairs(dropped, FALSE))
            yield _finding(
                "upper-bits",
                case,
                f"`{syscall}` is permitted where it is refused without bits that the kernel drops, as in `{_example(case, member, arch, names, masks, data)}`",
                "compare the argument itself, not its register: `register(...)` looks at all 64 bits",
            )
            return


def _condition(entry: Entry, syscall: str, arch: Arch) -> Iterator[Finding]:
    assert entry.rule.condition is not None
    if syscall in BLIND:
        yield Finding(
            id="pointer-argument",
            ref=entry.ref,
            message=f"a condition on `{syscall}` cannot see {BLIND[syscall]}, which lies in memory",
            advice="decide the call as a whole; what it reaches is the matter of mounts, Landlock and the network namespace",
        )
    for leaf in leaves(entry.rule.condition):
        index, _ = locate_argument(leaf, syscall, arch)
        c_type = dict(signature(syscall, arch)).get(leaf.argument)
        if c_type is None:
            continue  # a register by its number
        if isinstance(leaf, Comparison) and leaf.operator in _ORDERING and is_signed(syscall, index, arch):
            yield Finding(
                id="signed-order",
                ref=entry.ref,
                message=f"`{leaf.argument} {leaf.operator} {leaf.value.text}` of `{syscall}`: {leaf.argument} is signed, but comparisons are "
                "unsigned, so a negative value counts as a very large one",
                advice="list the values with `in`, or bound it from both sides as unsigned numbers",
            )
        for name in _foreign(leaf, syscall):
            yield Finding(
                id="foreign-constant",
                ref=entry.ref,
                message=f"`{leaf.argument}` of `{syscall}` is compared with {name}, which is none of its constants",
                advice="a name of another argument's stands for a number that means something else here; if the number is meant, write it",
            )
        numbers = {evaluate_value(value, arch, U64) for value in values(leaf)}
        is_pid = c_type == "pid_t" or leaf.argument in _PIDS
        if is_pid and numbers - {0, U64}:
            yield Finding(
                id="pid-value",
                ref=entry.ref,
                message=f"`{leaf.argument}` of `{syscall}` is compared with a process number: numbers are reused, and differ by pid namespace",
                advice="0 and -1 have a meaning of their own; for anything else rely on the pid namespace",
            )
        named_fd = leaf.argument == "fd" or leaf.argument.endswith("fd") or leaf.argument == "fildes"
        if named_fd and c_type in ("int", "unsigned int", "u32-truncated") and numbers - {0xFFFF_FF9C, U64, U64 - 99}:
            yield Finding(
                id="fd-value",
                ref=entry.ref,
                message=f"`{leaf.argument}` of `{syscall}` is compared with a descriptor's number: dup2 gives any file that number",
                advice="drop the condition, or do not let the program have the descriptor",
            )


def _foreign(leaf: Leaf, syscall: str) -> Iterator[str]:
    """Yield the constants that an argument is compared with and that are none of those it can hold."""
    known = choices(syscall, leaf.argument)
    for value in (leaf.value,) if isinstance(leaf, Comparison) else leaf.values:
        for word in value.program if known else ():
            is_name = isinstance(word, str) and any(constant(word, arch) is not None for arch in Arch)
            # IPPROTO_TCP is SOL_TCP's other name, and IORING_… a flag beside the opcode.
            if is_name and word not in known and not str(word).startswith(("IPPROTO_", "IORING_")):
                yield str(word)
