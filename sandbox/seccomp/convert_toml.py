"""A container's seccomp profile as a policy in TOML that people can read, in one of two meanings.

*By type* (the default): an argument is compared in its C width, as everywhere in this language, so that bits that the kernel drops cannot change a
decision. *Exact*: ``register(…)`` compares all 64 bits where libseccomp does, so that the policy is the profile's filter, holes included. What either
differs in is for the prover to say. Pure; the front end and tests import this.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import PolicyError
from sandbox.policy.conditions import ConditionError, parse_condition
from sandbox.record import dataclass, field
from sandbox.seccomp.convert_comparison import Test, test_of
from sandbox.seccomp.convert_meaning import Meaning, Way, action_word, meanings
from sandbox.seccomp.convert_oci import OciProfile, OciRule
from sandbox.seccomp.prove_diagram import FALSE, TRUE, Diagram, UnprovableError
from sandbox.seccomp.prove_policy import condition_diagram

_WIDTH = 140
_INDENT = "  "


@dataclass(slots=True)
class _Block:
    """One ``[[rule]]`` to be."""

    order: tuple[int, ...]
    action: str
    when: str
    otherwise: str
    reason: str
    syscalls: list[str] = field(default_factory=list)


def convert_to_toml(
    profile: OciProfile, arch: Arch, *, name: str, description: str, exact: bool, notes: list[str], heading: Iterable[str] = ()
) -> str:
    """Return a profile as the text of a policy file.

    Args:
        profile: what `convert_oci_read.select` gave, its actions replaced where the language has none.
        arch: whose register order names the arguments.
        name: the policy's name.
        description: one line of text.
        exact: compare whole registers as libseccomp does.
        notes: gets a line for everything that is not carried over.
        heading: lines of the comment at the top.

    Raises:
        PolicyError: an action that the language does not have, or rules that contradict each other; with the place in the profile.
    """
    default = action_word(profile.default, profile.default_where)
    index = {id(rule): at for at, rule in enumerate(profile.rules)}
    blocks: dict[tuple[object, ...], _Block] = {}

    def add(syscall: str, block: _Block) -> None:
        key = (block.order, block.action, block.when, block.otherwise)
        blocks.setdefault(key, block).syscalls.append(syscall)

    for meaning in meanings(profile, notes):
        for rules, when, otherwise in _decisions(meaning, arch, exact, notes):
            add(
                meaning.syscall,
                _Block(
                    order=tuple(dict.fromkeys(index[id(rule)] for rule in rules)),
                    action=action_word(rules[0].action, rules[0].where),
                    when=when,
                    otherwise=default if otherwise else "",
                    reason=next((rule.comment for rule in rules if rule.comment), ""),
                ),
            )
    lines = [f"# {_plain(line)}".rstrip() for line in heading]
    lines += ["", f"name = {_quote(name)}", f"description = {_quote(description)}", f"default = {_quote(default)}"]
    # Where one syscall has several rules, the first of them in the profile comes first; the last one has the `else`.
    for block in sorted(blocks.values(), key=lambda block: (block.order[0], bool(block.otherwise))):
        sources = ", ".join(dict.fromkeys(profile.rules[at].path for at in block.order))
        lines += ["", f"[[rule]] # {_plain(sources)}", *_syscall_lines(block.syscalls), f"action = {_quote(block.action)}"]
        if block.when:
            lines.append(f"when = {_quote(block.when)}")
        if block.otherwise:
            lines.append(f"else = {_quote(block.otherwise)}")
        if block.reason:
            lines.append(f"reason = {_quote(block.reason)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _decisions(meaning: Meaning, arch: Arch, exact: bool, notes: list[str]) -> Iterator[tuple[list[OciRule], str, bool]]:
    """Yield (rules, condition or nothing, whether the others get the default) for each action of a syscall, in the order to try them."""
    if meaning.whole is not None:
        yield [meaning.whole], "", False
        return
    by_action: dict[int, list[Way]] = {}
    for way in meaning.ways:
        by_action.setdefault(way[0].action, []).append(way)
    found: list[tuple[list[OciRule], str]] = []
    for ways in by_action.values():
        text = _condition(meaning.syscall, ways, arch, exact)
        verdict = _verdict(meaning.syscall, text, ways[0][0].where) if text else ("always" if text == "" else "never")
        if verdict == "never":
            notes.append(f"the rule for `{meaning.syscall}` at {ways[0][0].where} never matches a call, and is left out")
            continue
        found.append(([rule for rule, _ in ways], text if verdict == "depends" and text else ""))
    _refuse_overlaps(meaning.syscall, found, exact)
    for at, (rules, text) in enumerate(found):
        yield rules, text, bool(text) and at == len(found) - 1


def _condition(syscall: str, ways: list[Way], arch: Arch, exact: bool) -> str | None:
    """Return the condition that any of some ways matches: empty when all calls do, None when none does."""
    parts: list[tuple[Test, ...]] = []
    for rule, args in ways:
        tests: list[Test] = []
        for arg in args:
            test = test_of(syscall, arg, arch, exact=exact, action=rule.action)
            if test is False:
                break
            if test is not True and test not in tests:
                tests.append(test)
        else:
            if not tests:
                return ""
            if tuple(tests) not in parts:
                parts.append(tuple(tests))
    if not parts:
        return None
    texts: list[str] = []
    for part in parts:
        first = part[0]
        if len(part) == 1 and first.is_equality:
            same = [other[0] for other in parts if len(other) == 1 and other[0].is_equality and other[0].operand == first.operand]
            if len(same) > 1:
                text = f"{first.operand} in {{{', '.join(test.value for test in same)}}}"
                if text not in texts:
                    texts.append(text)
                continue
        joined = " and ".join(test.text for test in part)
        texts.append(f"({joined})" if len(part) > 1 and len(parts) > 1 else joined)
    return " or ".join(texts)


def _verdict(syscall: str, text: str, where: str) -> str:
    """Tell whether a condition always, never or sometimes holds, as `policy.check` does."""
    verdicts = {
        "always" if node == TRUE else "never" if node == FALSE else "depends"
        for arch in _arches(syscall)
        for node in (_node(Diagram(), syscall, text, arch, where),)
    }
    return verdicts.pop() if len(verdicts) == 1 else "depends"


def _arches(syscall: str) -> tuple[Arch, ...]:
    return tuple(arch for arch in Arch if syscall_number(arch, syscall) is not None)


def _node(diagram: Diagram, syscall: str, text: str, arch: Arch, where: str) -> int:
    """Return a condition as a node of a diagram.

    Raises:
        PolicyError: it is too complex.
    """
    try:
        return condition_diagram(diagram, parse_condition(text), syscall, arch) if text else TRUE
    except (ConditionError, UnprovableError) as error:
        raise PolicyError(f"the rules for `{syscall}` cannot become a policy: {error}", origin=where) from None


def _can_meet(syscall: str, one: str, two: str, arch: Arch, where: str) -> bool:
    """Tell whether some call fulfils both conditions."""
    diagram = Diagram()
    return diagram.both(_node(diagram, syscall, one, arch, where), _node(diagram, syscall, two, arch, where)) != FALSE


def _refuse_overlaps(syscall: str, found: list[tuple[list[OciRule], str]], exact: bool) -> None:
    """Raise when a call can fulfil the conditions of two actions."""
    for at, (rules, text) in enumerate(found):
        for others, other_text in found[at + 1 :]:
            if any(_can_meet(syscall, text, other_text, arch, rules[0].where) for arch in _arches(syscall)):
                raise PolicyError(
                    f"two rules for `{syscall}` with different actions match the same call"
                    + ("; libseccomp decides by an order of its own" if exact else " when its arguments are compared in their C width"),
                    origin=f"{rules[0].where}; {others[0].where}",
                    hint="make their conditions exclude each other" if exact else "`--exact` compares whole registers",
                )


def _syscall_lines(names: list[str]) -> list[str]:
    line = f"syscalls = [{', '.join(_quote(name) for name in names)}]"
    if len(line) <= _WIDTH:
        return [line]
    body = textwrap.wrap(", ".join(_quote(name) for name in names) + ",", _WIDTH - len(_INDENT), break_long_words=False)
    return ["syscalls = [", *(_INDENT + each for each in body), "]"]


def _plain(text: str) -> str:
    """Return text for a comment: whatever is no printable character, or could end the line, becomes `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _quote(text: str) -> str:
    """Return a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'
