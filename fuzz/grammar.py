"""Builds policies out of decisions: mostly right ones, because a wrong one is refused at its first mistake and shows nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from fuzz import facts, oracle
from fuzz.choose import Chooser
from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number

ACTIONS = ("allow", "errno EPERM", "errno EACCES", "errno ENOSYS", "log", "trap", "kill-process", "notify EPERM", "notify ENOTSUP")
ALLOWING = ("allow", "log")
REFUSING = ("errno EPERM", "errno ENOSYS", "trap", "kill-process", "notify EACCES")
LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'
SYSCALLS = tuple(sorted(facts.SIGNATURES["x86_64"]))
_NAMES = tuple(sorted(set(facts.CONSTANTS["x86_64"])))
_BOTH = tuple(name for name in _NAMES if facts.CONSTANTS["x86_64"][name] == facts.CONSTANTS["aarch64"][name])


@dataclass(frozen=True, slots=True)
class Shape:
    """What a generator may use. `spoil` lets it make mistakes now and then."""

    actions: tuple[str, ...] = ACTIONS
    final: bool = True
    spoil: bool = False


def digits(chooser: Chooser, value: int) -> str:
    """Return a number in one of the ways to write it."""
    form = chooser.integer(0, 4)
    if value < 0:
        return f"-{-value}"
    return (str(value), hex(value), hex(value), f"0o{value:o}" if value else "0", f"0b{value:b}")[form]


def number(chooser: Chooser, bits: int) -> tuple[str, int]:
    """Return a number's text and its value, within so many bits."""
    kind = chooser.integer(0, 7)
    if kind <= 2:
        value = chooser.pick((0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 0x7F, 0x80, 0xFF))
    elif kind == 3:
        value = chooser.integer(0, 0xFFFF)
    elif kind == 4:
        value = (1 << chooser.integer(0, bits - 1)) - chooser.integer(0, 1)
    elif kind == 5:
        value = (1 << bits) - 1 - chooser.integer(0, 16)
    elif kind == 6:
        value = chooser.integer(0, (1 << bits) - 1)
    else:
        value = -chooser.integer(1, 1 << chooser.integer(0, bits - 1))
    return digits(chooser, value), value


def value(chooser: Chooser, bits: int, depth: int = 0) -> str:
    """Return an expression of constants that fits so many bits on both architectures, nearly always."""
    kind = chooser.integer(0, 9)
    if kind <= 4 or depth > 2:
        return number(chooser, bits)[0]
    if kind <= 7:
        names = [name for name in _NAMES if all(-(1 << bits - 1) <= facts.CONSTANTS[arch][name] < 1 << bits for arch in Arch)]
        return chooser.pick(names)
    if kind == 8:
        return f"~{chooser.pick(('', ' '))}{_wrapped(value(chooser, bits, depth + 1))}"
    return " | ".join(value(chooser, bits, depth + 1) for _ in range(chooser.integer(1, 3)))


def _wrapped(text: str) -> str:
    return f"({text})" if "|" in text or text.startswith("-") else text


def comparison(chooser: Chooser, syscall: str, arguments: tuple[facts.Argument, ...]) -> str:
    """Return one comparison of one of a syscall's arguments."""
    name, bits, kind = chooser.pick(arguments)
    if chooser.odds(8):
        name, bits, kind = f"register({chooser.pick((name, '5', '2'))})", 64, "i"
    if kind == "p":
        return f"{name} {chooser.pick(('==', '!='))} 0"
    if chooser.odds(3):
        mask_text, mask = number(chooser, bits)
        if chooser.odds(2):
            mask_text, mask = f"~{_wrapped(mask_text)}", ~mask
        mask %= 1 << bits
        left = chooser.pick((f"{name} & {mask_text}", f"({name} & {mask_text})", f"{name}&{mask_text}"))
        wanted = [chooser.integer(0, (1 << bits) - 1) & mask for _ in range(chooser.integer(1, 3))]
        if chooser.odds(2):
            wanted = sorted({each & 0xFF & mask for each in wanted})
        if len(set(wanted)) == 1:
            return f"{left} {chooser.pick(('==', '!='))} {digits(chooser, wanted[0])}"
        return f"{left} {chooser.pick(('in', 'not in'))} {{{', '.join(digits(chooser, each) for each in dict.fromkeys(wanted))}}}"
    if chooser.odds(3):
        values = list(dict.fromkeys(value(chooser, bits) for _ in range(chooser.integer(1, 4))))
        return f"{name} {chooser.pick(('in', 'not in'))} {{{', '.join(values)}}}"
    return f"{name} {chooser.pick(('==', '!=', '<', '<=', '>', '>='))} {value(chooser, bits)}"


def condition(chooser: Chooser, syscall: str, arguments: tuple[facts.Argument, ...], depth: int = 0) -> str:
    """Return a condition on a syscall's arguments."""
    if depth > 2 or not chooser.odds(2):
        return comparison(chooser, syscall, arguments)
    parts = [condition(chooser, syscall, arguments, depth + 1) for _ in range(chooser.integer(2, 3))]
    parts = [f"({part})" if " and " in part or " or " in part or chooser.odds(8) else part for part in parts]
    return chooser.pick((" and ", " or ", "\n and ", "\n  or ")).join(parts)


def usable(syscall: str, allowing: bool = True) -> tuple[facts.Argument, ...]:
    """Return the arguments that a condition may name; by-command ones are left out, but for permissions."""
    both = [facts.SIGNATURES[arch].get(syscall) for arch in Arch]
    names = set.intersection(*({each[0] for each in arguments} for arguments in both if arguments is not None))
    first = next(arguments for arguments in both if arguments is not None)
    return tuple(each for each in first if each[0] in names and each[2] != "c")


def rule(chooser: Chooser, syscalls: list[str], shape: Shape, *, last: bool) -> str:
    """Return one rule; the last one for its syscalls decides whatever reaches it."""
    action = chooser.pick(shape.actions)
    lines = [f"syscalls = [{', '.join(quoted(chooser, name) for name in syscalls)}]", f'action = "{action}"']
    arguments = usable(syscalls[0]) if len(syscalls) == 1 else ()
    outcomes = [action]
    if arguments and (not last or chooser.odds(2)):
        text = condition(chooser, syscalls[0], arguments)
        quote = '"""' if "\n" in text else chooser.pick(('"', "'"))
        lines.append(f"when = {quote}{text}{quote}")
        if last:
            other = chooser.pick([each for each in ACTIONS if each != action])
            outcomes.append(other)
            lines.append(f'else = "{other}"')
    if any(each.startswith("errno") for each in outcomes) and not any(each.startswith("notify") for each in outcomes) and chooser.odds(3):
        lines.append(f"audit = {chooser.pick(('false', 'true'))}")
    if chooser.odds(4):
        lines.append('reason = "because # \\"quoted\\" [[rule]]"')
    if chooser.odds(6):
        lines.reverse()
    head = chooser.pick(("[[rule]]", "[[rule]] # comment", "[[ rule ]]", '[["rule"]]', "  [[rule]]"))
    return "\n".join((head, *lines)) + "\n" + chooser.pick(("", "\n", "# [[rule]]\n"))


def quoted(chooser: Chooser, name: str) -> str:
    """Return a name as a TOML string."""
    return chooser.pick((f'"{name}"', f"'{name}'", f'\n  "{name}"'))


def policy(chooser: Chooser, name: str = "p", extends: tuple[str, ...] = (), shape: Shape | None = None, default: bool = True) -> str:
    """Return one policy file.

    Args:
        chooser: where decisions come from.
        name: the policy's name.
        extends: what it extends.
        shape: what it may use.
        default: whether it must have a default.
    """
    shape = shape or Shape()
    lines = [f'name = "{name}"', f'description = "{chooser.pick(("d", "two words", "[[rule]]"))}"']
    if extends:
        lines.append(f"extends = [{', '.join(quoted(chooser, each) for each in extends)}]")
    if default or chooser.odds(3):
        action = chooser.pick(shape.actions)
        lines.append(f'default = "{action}"')
        if action.startswith("errno") and chooser.odds(2):
            lines.append(f"default_audit = {chooser.pick(('false', 'true'))}")
    if chooser.odds(8):
        lines.reverse()
    chains: list[list[str]] = []
    taken: set[str] = set()
    for _ in range(chooser.integer(0, 4)):
        syscall = chooser.pick(SYSCALLS)
        if syscall in taken:
            continue
        taken.add(syscall)
        together = [syscall]
        while chooser.odds(4) and (more := chooser.pick(SYSCALLS)) not in taken:
            taken.add(more)
            together.append(more)
        rules = chooser.integer(0, 3) if usable(syscall) and len(together) == 1 else 0
        chain = [rule(chooser, together, shape, last=False) for _ in range(rules)]
        if shape.final or not rules:
            chain.append(rule(chooser, together, shape, last=True))
        chains.append(chain)
    text = chooser.pick(("\n", "\r\n") if chooser.odds(20) else ("\n",)).join(lines) + "\n"
    while any(chains):
        chain = chooser.pick([chain for chain in chains if chain])
        text += chain.pop(0)
    return text


def registers(chooser: Chooser, points: dict[int, set[int]]) -> tuple[int, ...]:
    """Return six registers, most of them where a condition may change its mind."""
    result = []
    for place in range(6):
        near = sorted(points.get(place, ()))
        if near and not chooser.odds(4):
            result.append(chooser.pick(near))
        elif chooser.odds(3):
            result.append(chooser.integer(0, oracle.ALL_BITS))
        else:
            result.append(chooser.pick((0, 1, 1 << 32, oracle.ALL_BITS, 0xFFFF_FFFF, 0xFFFF_FF9C, 1 << 63)))
    return tuple(result)


def calls(chooser: Chooser, judge: oracle.Oracle, arch: Arch, count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return calls near everything that a policy's conditions name, and a few others."""
    points: dict[str, dict[int, set[int]]] = {}
    for each in judge.rules():
        for name in judge.members(each):
            known = points.setdefault(name, {})
            if "when" in each and syscall_number(arch, name) is not None:
                for place, values in oracle.edges(str(each["when"]), name, arch).items():
                    known.setdefault(place, set()).update(values)
    found: list[tuple[int, tuple[int, ...]]] = []
    names = sorted(name for name in points if syscall_number(arch, name) is not None)
    busy = [name for name in names if points[name]] or names
    for _ in range(count):
        if busy and not chooser.odds(6):
            name = chooser.pick(busy)
            number = syscall_number(arch, name) or 0
            found.append((number, registers(chooser, points[name])))
        else:
            odd = (
                0,
                39,
                462,
                1000,
                0x3FFF_FFFF,
                0x4000_0000,
                0x4000_0010,
                0x7FFF_FFFF,
                0xFFFF_FFFE,
                0xFFFF_FFFF,
                -1,
                chooser.integer(0, 511),
            )
            found.append((chooser.pick(odd), registers(chooser, {})))
    return found
