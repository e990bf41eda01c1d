"""Calls as people write them: ``socket(AF_VSOCK, SOCK_STREAM, 0)``, ``ioctl(cmd=TIOCSTI)``, ``openat``, ``41``, ``0x40000029``.

A text means a *set* of calls: an argument that is not given, or is ``_`` or a string, may have any value; so may the bits of a register that the kernel
drops. Numbers are C's, as strace and the audit log print them. Pure. Imported by the policy tools and tests.
"""

from __future__ import annotations

import re
from typing import Literal

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.constants import constant, constant_names
from sandbox.abi.signatures import Signature, argument_mask, is_pointer, signature
from sandbox.abi.tables import syscall_name, syscall_names, syscall_number
from sandbox.errors import SandboxError
from sandbox.policy.conditions import U64, ConditionError, evaluate_value
from sandbox.policy.cubes import Cube
from sandbox.policy.model import Value
from sandbox.policy.nearest import suggest
from sandbox.record import dataclass

Abi = Literal["x86_64", "aarch64", "x32", "i386"]
"""How a call enters the kernel. ``i386`` is ``int 0x80`` on x86_64, ``x32`` its numbers with bit 30."""

ABIS: tuple[Abi, ...] = ("x86_64", "aarch64", "x32", "i386")
AUDIT_ARCH_I386 = 0x4000_0003
_NO_CALL = 0xFFFF_FFFF
_MAXIMUM_LENGTH = 4096
_MAXIMUM_DEPTH = 32
_ARGUMENTS = 6
_TOKEN = re.compile(
    r"""0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|[0-9]+|[A-Za-z_][A-Za-z0-9_]*|\.\.\.|"(?:[^"\\]|\\.)*"|[#(),=|~-]""", re.ASCII
)


class CallError(SandboxError):
    """A call's text is wrong; `origin` shows the text with a caret below the place."""

    def __init__(self, message: str, text: str, position: int, hint: str | None = None) -> None:
        super().__init__(message, origin=f"{text}\n{' ' * min(position, len(text))}^", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """A set of calls of one number.

    `arch` is whose tables it is read with, `arch_word` what the kernel calls the architecture. `syscall` is None for a number that has no name, and for
    a call of another architecture. `fixed` maps argument places to the register values they may have, `given` to the texts of those values.
    """

    text: str
    abi: Abi
    arch: Arch
    arch_word: int
    number: int
    syscall: str | None
    fixed: dict[int, Cube]
    given: dict[int, str]

    @property
    def foreign(self) -> bool:
        """Tell whether no policy can speak about these calls: another architecture's, or x32's."""
        x32 = self.arch is Arch.X86_64 and self.number >= X32_SYSCALL_BIT and self.number != _NO_CALL
        return self.arch_word != audit_arch(self.arch) or x32


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    at: int


class _Reader:
    """Recursive descent over one call's words."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAXIMUM_LENGTH:
            raise CallError(f"call is longer than {_MAXIMUM_LENGTH} characters", text[:40], 0)
        self.words: list[_Word] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            if text[position].isspace():
                position += 1
                continue
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.fail(f"call has an unexpected `{text[position]}`", position)
            word = match[0]
            if word[0].isdigit() and match.end() < end and (text[match.end()].isalnum() or text[match.end()] == "_"):
                raise self.fail(f"call has a malformed number `{word}{text[match.end()]}`", position)
            self.words.append(_Word(word, position))
            position = match.end()
        self.end = _Word("", end)
        self.at = 0
        self.depth = 0

    def fail(self, message: str, at: int, hint: str | None = None) -> CallError:
        return CallError(message, self.text, at, hint)

    def peek(self, ahead: int = 0) -> _Word:
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else self.end

    def take(self) -> _Word:
        word = self.peek()
        self.at += 1
        return word

    def expression(self) -> Value:
        start = self.at
        program = self.alternatives()
        return Value(text=self.spelled(start), program=tuple(program))

    def spelled(self, start: int) -> str:
        """Return words as the condition language writes them: its octal numbers have an ``o``."""
        shown = [f"0o{word.text[1:]}" if re.fullmatch("0[0-7]+", word.text) else word.text for word in self.words[start : self.at]]
        return " ".join(shown).replace("~ ", "~").replace("- ", "-").replace("( ", "(").replace(" )", ")")

    def alternatives(self) -> list[int | str]:
        program = self.unary()
        while self.peek().text == "|":
            self.take()
            program += [*self.unary(), "|"]
        return program

    def unary(self) -> list[int | str]:
        self.depth += 1
        word = self.take()
        token = word.text
        if self.depth > _MAXIMUM_DEPTH:
            raise self.fail(f"call is nested more than {_MAXIMUM_DEPTH} deep", word.at)
        if token in ("~", "-"):
            program: list[int | str] = [*self.unary(), token]
        elif token == "(":
            program = self.alternatives()
            closing = self.take()
            if closing.text != ")":
                raise self.fail("call needs `)` to close the parenthesis", closing.at)
        elif token and token[0].isdigit():
            program = [self.number(word)]
        elif token == "NULL":
            program = [0]
        elif token and (token[0].isalpha() or token[0] == "_"):
            if all(constant(token, arch) is None for arch in Arch):
                raise self.fail(f"unknown constant `{token}`", word.at, suggest(token, constant_names()))
            program = [token]
        else:
            raise self.fail("call needs a value here" + (f", not `{token}`" if token else ""), word.at)
        self.depth -= 1
        return program

    def number(self, word: _Word) -> int:
        digits = word.text
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            if any(digit in "89" for digit in digits):
                raise self.fail(f"call has a malformed octal number `{digits}`", word.at)
            digits = f"0o{digits[1:]}"
        value = int(digits, 0)
        if value > U64:
            raise self.fail(f"call has `{word.text}`, which is more than 64 bits", word.at)
        return value


def parse_call(text: str, abi: Abi) -> CallShape:
    """Return the calls that a text means.

    Args:
        text: a name or number (decimal, hexadecimal, or ``#`` and a number), with or without arguments in parentheses. Arguments stand in the kernel's
            order or are named (``cmd=TIOCSTI``); ``_``, a string, and whatever is not given are any value.
        abi: how the call is made; names are x86_64's for `x32`, and their numbers get its bit.

    Raises:
        CallError: unknown syscall, argument or constant, or text that is no call; with the place.
    """
    reader = _Reader(text)
    arch = Arch.AARCH64 if abi == "aarch64" else Arch.X86_64
    arch_word = AUDIT_ARCH_I386 if abi == "i386" else audit_arch(arch)
    name, number = _head(reader, arch, abi)
    arguments: Signature = signature(name, arch) if name is not None else ()
    fixed: dict[int, Cube] = {}
    given: dict[int, str] = {}
    opening = reader.take()
    if opening.text == "(":
        _arguments(reader, arch, name, arguments, fixed, given)
        opening = reader.take()
    if opening.text:
        raise reader.fail(f"call goes on with `{opening.text}` where it should end", opening.at)
    foreign = abi == "i386" or (arch is Arch.X86_64 and number >= X32_SYSCALL_BIT and number != _NO_CALL)
    return CallShape(
        text=text.strip(),
        abi=abi,
        arch=arch,
        arch_word=arch_word,
        number=number,
        syscall=None if foreign else name,
        fixed=fixed,
        given=given,
    )


def _head(reader: _Reader, arch: Arch, abi: Abi) -> tuple[str | None, int]:
    """Return a call's name, or None where the number has none, and its number."""
    word = reader.take()
    if word.text == "#":
        word = reader.take()
    if word.text and word.text[0].isdigit():
        number = reader.number(word)
        if number > _NO_CALL:
            raise reader.fail(f"syscall number `{word.text}` is more than 32 bits", word.at)
        return syscall_name(arch, number & ~X32_SYSCALL_BIT if abi == "x32" else number), number | (X32_SYSCALL_BIT if abi == "x32" else 0)
    if not word.text or not (word.text[0].isalpha() or word.text[0] == "_"):
        raise reader.fail("call needs a syscall's name or number" + (f", not `{word.text}`" if word.text else ""), word.at)
    found = syscall_number(arch, word.text)
    if found is None:
        others = [other for other in Arch if syscall_number(other, word.text) is not None]
        if others:
            raise reader.fail(f"{arch} has no syscall `{word.text}`", word.at, f"{others[0]} has it: `--arch {others[0]}`")
        raise reader.fail(f"unknown syscall `{word.text}`", word.at, suggest(word.text, syscall_names(arch)))
    return word.text, found | (X32_SYSCALL_BIT if abi == "x32" else 0)


def _arguments(reader: _Reader, arch: Arch, name: str | None, arguments: Signature, fixed: dict[int, Cube], given: dict[int, str]) -> None:
    """Read the arguments up to and with the closing parenthesis."""
    known = [argument for argument, _ in arguments]
    limit = len(known) if name is not None else _ARGUMENTS
    seen: set[int] = set()
    named = False
    position = 0
    while reader.peek().text != ")":
        word = reader.peek()
        if word.text == "...":
            reader.take()
            if reader.peek().text != ")":
                raise reader.fail("`...` stands for all further arguments, so nothing may follow it", reader.peek().at)
            break
        if reader.peek(1).text == "=":
            if word.text not in known:
                listed = f"its arguments: {', '.join(known)}" if known else "it has none that have names"
                raise reader.fail(
                    f"syscall `{name or 'without a name'}` has no argument `{word.text}`; {listed}", word.at, suggest(word.text, known)
                )
            reader.take()
            reader.take()
            index = known.index(word.text)
            named = True
            if index in seen:
                raise reader.fail(f"argument `{word.text}` is given twice", word.at)
        elif named:
            raise reader.fail("an argument without its name follows one with a name", word.at)
        else:
            index = position
            position += 1
            if index >= limit:
                listed = f": {', '.join(known)}" if known else ""
                raise reader.fail(f"syscall `{name or 'without a name'}` has {limit} arguments{listed}", word.at)
        seen.add(index)
        _value(reader, arch, name, index, fixed, given)
        separator = reader.peek()
        if separator.text == ",":
            reader.take()
        elif separator.text != ")":
            raise reader.fail("call needs `,` or `)` here" + (f", not `{separator.text}`" if separator.text else ""), separator.at)
    reader.take()


def _value(reader: _Reader, arch: Arch, name: str | None, index: int, fixed: dict[int, Cube], given: dict[int, str]) -> None:
    word = reader.peek()
    if word.text == "_":
        reader.take()
        return
    if word.text.startswith('"'):
        if name is not None and not is_pointer(name, index, arch):
            raise reader.fail(f"a text can only stand for a pointer, and argument {index + 1} of `{name}` is none", word.at)
        reader.take()
        return
    value = reader.expression()
    if reader.peek().text == "(" and reader.peek(1).text == "register":
        # The audit log's and our own way of showing that a caller set bits which the kernel drops.
        reader.take()
        reader.take()
        fixed[index] = (U64, reader.number(reader.take()))
        given[index] = hex(fixed[index][1])
        closing = reader.take()
        if closing.text != ")":
            raise reader.fail("call needs `)` after the register's value", closing.at)
        return
    width = argument_mask(name, index, arch) if name is not None else U64
    try:
        fixed[index] = (width, evaluate_value(value, arch, width))
    except ConditionError as error:
        try:  # a register can hold what the argument cannot
            fixed[index] = (U64, evaluate_value(value, arch, U64))
        except ConditionError:
            raise reader.fail(str(error), word.at) from None
    given[index] = value.text


def example_arguments(fixed: dict[int, Cube]) -> tuple[int, ...]:
    """Return six registers of a shape's smallest call."""
    return tuple(fixed.get(index, (0, 0))[1] for index in range(_ARGUMENTS))
