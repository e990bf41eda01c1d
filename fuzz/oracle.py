"""A second reading of policy files, as naive as it can be and without a line of `sandbox.policy`: the TOML by tomllib, conditions by Python's own parser.

The two languages agree on purpose where it matters here: in Python, too, `&` and `|` bind tighter than a comparison, and that tighter than `and`.
What a policy means is read off the files again for every call. It judges only files that the product has accepted. Facts about arguments and
constants are `facts.py`'s where that has them, and the product's tables' otherwise.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz import facts
from sandbox.abi import constants, signatures
from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_name

Verdict = tuple[str, int]
"""Action in the language's words (a recorded `errno` is `notify`), and the errno."""

ALL_BITS = (1 << 64) - 1
_SHIPPED = Path(__file__).resolve().parent.parent / "policies"


@dataclass(slots=True)
class Oracle:
    """The files of one policy, read from disk.

    `top` is the policy's own path, `groups` the members of each @group; `texts` gives the text of files that are not on disk.
    """

    top: str
    groups: Mapping[str, Sequence[str]]
    texts: Mapping[str, str] = field(default_factory=dict)
    stack: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        upwards: dict[str, dict[str, object]] = {}

        def climb(path: str) -> None:
            table = tomllib.loads(self.texts[path] if path in self.texts else Path(path).read_bytes().decode())
            for below in table.get("extends", []):
                is_path = "/" in below or below.endswith(".toml")
                where = os.path.realpath(os.path.join(os.path.dirname(path), below) if is_path else _SHIPPED / f"{below}.toml")
                if where not in upwards:
                    climb(where)
            upwards.setdefault(path, table)

        climb(os.path.realpath(self.top) if self.top not in self.texts else self.top)
        self.stack = list(reversed(upwards.values()))

    def decide(self, arch: Arch, number: int, registers: Sequence[int]) -> Verdict:
        """Return what happens to one call."""
        number %= 1 << 32
        if arch is Arch.X86_64 and 0x4000_0000 <= number != 0xFFFF_FFFF:
            return "kill-process", 0
        name = syscall_name(arch, number)
        for file in self.stack:
            for rule in file.get("rule", []):  # type: ignore[attr-defined]
                if name is None or name not in self.members(rule):
                    continue
                if "when" not in rule or condition_holds(rule["when"], name, arch, registers):
                    return verdict(rule["action"], rule.get("audit", True))
                if "else" in rule:
                    return verdict(rule["else"], rule.get("audit", True))
        for file in self.stack:
            if "default" in file:
                return verdict(str(file["default"]), bool(file.get("default_audit", True)))
        raise AssertionError("an accepted policy has no default")

    def members(self, rule: Mapping[str, object]) -> list[str]:
        """Return the syscalls that a rule names."""
        found: list[str] = []
        for word in rule["syscalls"]:  # type: ignore[attr-defined]
            found += self.groups[word[1:]] if word.startswith("@") else [word]
        return found

    def rules(self) -> Iterator[Mapping[str, object]]:
        """Yield every rule of every file."""
        for file in self.stack:
            yield from file.get("rule", [])  # type: ignore[attr-defined]


def verdict(action: str, audit: bool) -> Verdict:
    """Return what an action's words mean."""
    words = action.split()
    if len(words) == 1:
        return words[0], 0
    number = facts.ERRNOS[words[1]] if words[1] in facts.ERRNOS else getattr(errno, words[1])
    return ("notify" if audit or words[0] == "notify" else "errno"), number


def argument(name: str, syscall: str, arch: Arch) -> tuple[int, int]:
    """Return the register and the number of bits of an argument."""
    name = "from" if name == "from_" else name
    known = facts.SIGNATURES[arch].get(syscall)
    if known is not None:
        return next((place, bits) for place, (own, bits, _) in enumerate(known) if own == name)
    place = signatures.argument_index(syscall, name, arch)
    assert place is not None
    return place, signatures.argument_mask(syscall, place, arch).bit_length()


def constant(name: str, arch: Arch) -> int:
    """Return a constant's value."""
    if name in facts.CONSTANTS[arch]:
        return facts.CONSTANTS[arch][name]
    value = constants.constant(name, arch)
    assert value is not None
    return value


def parse(text: str) -> ast.expr:
    """Return a condition as Python reads it."""
    # `from` is an argument of ioperm, and a word of Python's.
    return ast.parse("(" + re.sub(r"\bfrom\b", "from_", text).replace("\t", " ") + "\n)", mode="eval").body


def condition_holds(text: str, syscall: str, arch: Arch, registers: Sequence[int]) -> bool:
    """Tell whether a condition's text holds for a call."""
    return _holds(parse(text), syscall, arch, registers)


def _holds(node: ast.expr, syscall: str, arch: Arch, registers: Sequence[int]) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_holds(part, syscall, arch, registers) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=parts):
            return any(_holds(part, syscall, arch, registers) for part in parts)
        case ast.Compare(left=left, ops=[relation], comparators=[right]):
            place, bits, mask = operand(left, syscall, arch)
            modulus = 1 << bits
            actual = registers[place] % modulus & mask % modulus
            if isinstance(right, ast.Set):
                among = actual in [number(each, arch) % modulus for each in right.elts]
                return among if isinstance(relation, ast.In) else not among
            expected = number(right, arch) % modulus
            match relation:
                case ast.Eq():
                    return actual == expected
                case ast.NotEq():
                    return actual != expected
                case ast.Lt():
                    return actual < expected
                case ast.LtE():
                    return actual <= expected
                case ast.Gt():
                    return actual > expected
                case ast.GtE():
                    return actual >= expected
    raise AssertionError(f"not a condition: {ast.dump(node)}")


def operand(node: ast.expr, syscall: str, arch: Arch) -> tuple[int, int, int]:
    """Return register, bits and mask of the left side of a comparison."""
    match node:
        case ast.Name(id=name):
            return (*argument(name, syscall, arch), -1)
        case ast.BinOp(left=left, op=ast.BitAnd(), right=mask):
            place, bits, _ = operand(left, syscall, arch)
            return place, bits, number(mask, arch)
        case ast.Call(func=ast.Name(id="register"), args=[ast.Name(id=name)]):
            return argument(name, syscall, arch)[0], 64, -1
        case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=int(place))]):
            return place, 64, -1
    raise AssertionError(f"not an operand: {ast.dump(node)}")


def number(node: ast.expr, arch: Arch) -> int:
    """Return the value of an expression of constants, with as many bits as it takes."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            return constant(name, arch)
        case ast.UnaryOp(op=ast.Invert(), operand=inner):
            return ~number(inner, arch)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -number(inner, arch)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return number(left, arch) | number(right, arch)
    raise AssertionError(f"not a number: {ast.dump(node)}")


def edges(text: str, syscall: str, arch: Arch) -> dict[int, set[int]]:
    """Return for each register the values around which a condition can change its mind."""
    found: dict[int, set[int]] = {}
    for node in ast.walk(parse(text)):
        if not isinstance(node, ast.Compare):
            continue
        place, bits, mask = operand(node.left, syscall, arch)
        (right,) = node.comparators
        values = [number(each, arch) for each in (right.elts if isinstance(right, ast.Set) else [right])]
        points = found.setdefault(place, set())
        for value in (*values, *([mask, ~mask] if mask != -1 else [])):
            value %= 1 << bits
            for near in (value, value - 1, value + 1, value ^ 1 << bits - 1, ~value % (1 << bits)):
                points |= {near & ALL_BITS, near & ALL_BITS | 1 << 32, near & ALL_BITS ^ 1 << 63, near % (1 << bits)}
        points |= {0, ALL_BITS, 1 << 32, 1 << 31, (1 << 32) - 1}
    return found
