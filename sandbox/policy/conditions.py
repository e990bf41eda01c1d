"""The condition language of a rule's `when`: parsing, checking against a syscall's signature, and direct evaluation.

``family in {AF_UNIX, AF_INET} and type & 0xf == SOCK_STREAM``. `&` binds tighter than a comparison (not as in C), and `and` may not be
mixed with `or` without parentheses: both readings that a reviewer could get wrong are impossible. An argument is compared in its C width;
``register(family) == AF_VSOCK`` compares all 64 bits of its register, as other people's filters do. `holds` is the meaning of a condition; the cubes that the
compiler uses are derived elsewhere (`cubes.py`) and tested against it. Pure. Imported by `policy` and `seccomp`.
"""

from __future__ import annotations

import re

from sandbox.abi.constants import constant
from sandbox.abi.signatures import argument_index, argument_mask
from sandbox.policy.model import AllOf, AnyOf, Comparison, Condition, Membership, Operator, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.abi.arch import Arch

_TOKEN = re.compile(r"\s*(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|[0-9]+|[A-Za-z_][A-Za-z0-9_]*|==|!=|<=|>=|[<>&|~(){},-])", re.ASCII)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|0|[1-9][0-9]*", re.ASCII)
_WORDS = ("and", "or", "not", "in")
_ADVICE = {"=": "`==`", "!": "`!=` or `not in`", "[": "a set in braces", "'": "constants by their names", '"': "constants by their names"}
_MAXIMUM_LENGTH = 8192
_MAXIMUM_DIGITS = 66  # 64 bits as 0b…
_MAXIMUM_DEPTH = 32
U64 = (1 << 64) - 1


class ConditionError(ValueError):
    """The text is not a condition; `load.py` adds file and line."""


class _Parser:
    """Recursive descent over the tokens of one condition; depth is bounded so that no text can exhaust the stack."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAXIMUM_LENGTH:
            raise ConditionError(f"condition is longer than {_MAXIMUM_LENGTH} characters")
        self.tokens: list[str] = []
        end = len(text.rstrip())
        position = 0
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                rest = text[position:end].lstrip()
                advice = next((f": write {word}" for symbol, word in _ADVICE.items() if rest.startswith(symbol)), "")
                raise ConditionError(f"condition has an unexpected `{rest[:1]}`{advice}")
            self.tokens.append(match[1])
            position = match.end()
            if match[1][0].isdigit() and position < end and (text[position].isalnum() or text[position] == "_"):
                raise ConditionError(f"condition has a malformed number `{match[1] + text[position]}`")
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, wanted: str, context: str) -> None:
        found = self.take()
        if found != wanted:
            raise ConditionError(f"condition needs `{wanted}` {context}, " + (f"not `{found}`" if found else "but ends there"))

    def enter(self) -> None:
        self.depth += 1
        if self.depth > _MAXIMUM_DEPTH:
            raise ConditionError(f"condition is nested more than {_MAXIMUM_DEPTH} deep")

    def condition(self) -> Condition:
        self.enter()
        parts = [self.term()]
        joined = ""
        while self.peek() in ("and", "or"):
            word = self.take()
            if joined and word != joined:
                raise ConditionError("condition mixes `and` with `or`: add parentheses")
            joined = word
            parts.append(self.term())
        self.depth -= 1
        if len(parts) == 1:
            return parts[0]
        return AllOf(parts=tuple(parts)) if joined == "and" else AnyOf(parts=tuple(parts))

    def term(self) -> Condition:
        if self.peek() != "(":
            return self.comparison()
        self.take()
        # `(flags & MASK) == VALUE`, as in C, or a parenthesised condition.
        operand_words = 4 if self.tokens[self.at : self.at + 2] == ["register", "("] else 1
        if self.tokens[self.at + operand_words : self.at + operand_words + 1] == ["&"] and self._closes_before_comparison():
            argument, mask, register = self.operand()
            self.expect(")", "after the mask")
            return self.relation(argument, mask, register)
        inner = self.condition()
        self.expect(")", "to close the parenthesis")
        return inner

    def _closes_before_comparison(self) -> bool:
        level = 0
        for token in self.tokens[self.at :]:
            level += (token == "(") - (token == ")")
            if level < 0:
                return True
            if token in ("==", "!=", "<", "<=", ">", ">=", "in", "not"):
                return False
        return False

    def comparison(self) -> Condition:
        return self.relation(*self.operand())

    def operand(self) -> tuple[str, Value | None, bool]:
        token = self.take()
        if not token:
            raise ConditionError("condition ends where an argument's name is needed")
        if not (token[0].isalpha() or token[0] == "_") or token in _WORDS:
            advice = "; write `!=` or `not in`" if token == "not" else ""
            raise ConditionError(f"condition needs an argument's name, not `{token}`{advice}")
        register = token == "register" and self.peek() == "("
        if register:
            self.take()
            token = self.take()
            if token not in tuple("012345") and (not token[:1].isalpha() or token in _WORDS):
                raise ConditionError("condition needs an argument's name or a register's number, 0 to 5, in `register(...)`")
            self.expect(")", "after the register")
        if self.peek() != "&":
            return token, None, register
        self.take()
        start = self.at
        program = list(self.unary())
        return token, self.value(start, program), register

    def relation(self, argument: str, mask: Value | None, register: bool) -> Condition:
        token = self.take()
        if token in ("not", "in"):
            if token == "not":
                self.expect("in", "after `not`")
            self.expect("{", "after `in`")
            values = [self.expression()]
            while self.peek() == ",":
                self.take()
                values.append(self.expression())
            self.expect("}", "after the values")
            return Membership(argument=argument, mask=mask, negated=token == "not", values=tuple(values), register=register)
        try:
            operator = Operator(token)
        except ValueError:
            if token == "|":
                raise ConditionError(
                    f"condition needs parentheses around a mask of several bits, as in `{argument} & (A | B) == 0`"
                ) from None
            raise ConditionError(
                f"condition needs a comparison after `{argument}`, " + (f"not `{token}`" if token else "but ends there")
            ) from None
        if mask is not None and operator not in (Operator.EQ, Operator.NE):
            raise ConditionError(f"condition uses `{operator}` on a masked argument; a mask goes with `==`, `!=` and `in`")
        return Comparison(argument=argument, mask=mask, operator=operator, value=self.expression(), register=register)

    def expression(self) -> Value:
        start = self.at
        program = list(self.unary())
        while self.peek() == "|":
            self.take()
            program += [*self.unary(), "|"]
        return self.value(start, program)

    def unary(self) -> Iterator[int | str]:
        self.enter()
        token = self.take()
        if token in ("~", "-"):
            yield from self.unary()
            yield token
        elif token == "(":
            yield from self.unary()
            while self.peek() == "|":
                self.take()
                yield from self.unary()
                yield "|"
            self.expect(")", "to close the parenthesis")
        elif _NUMBER.fullmatch(token):
            # Python refuses to read thousands of decimal digits.
            number = int(token, 0) if len(token) <= _MAXIMUM_DIGITS else U64 + 1
            if number > U64:
                shown = token if len(token) <= 24 else f"{token[:16]}…"
                raise ConditionError(f"condition has `{shown}`, which is more than 64 bits")
            yield number
        elif token and token[0].isdigit():
            raise ConditionError(f"condition has `{token}`: octal numbers are written `0o{token.lstrip('0')}`")
        elif token and (token[0].isalpha() or token[0] == "_") and token not in _WORDS:
            yield token
        else:
            advice = "; write `or` between comparisons" if token == "|" else ""
            raise ConditionError("condition needs a number or a constant, " + (f"not `{token}`{advice}" if token else "but ends there"))
        self.depth -= 1

    def value(self, start: int, program: list[int | str]) -> Value:
        text = " ".join(self.tokens[start : self.at]).replace("~ ", "~").replace("- ", "-").replace("( ", "(").replace(" )", ")")
        return Value(text=text, program=tuple(program))


def parse_condition(text: str) -> Condition:
    """Return the condition that a `when` text means; names are not looked up yet.

    Raises:
        ConditionError: what is wrong, without place.
    """
    parser = _Parser(text)
    if not parser.tokens:
        raise ConditionError("condition is empty")
    result = parser.condition()
    if parser.at < len(parser.tokens):
        advice = ": write `and`" if parser.tokens[parser.at : parser.at + 2] == ["&", "&"] else ""
        raise ConditionError(f"condition goes on with `{parser.peek()}` where it should end{advice}")
    return result


def leaves(condition: Condition) -> Iterator[Comparison | Membership]:
    """Yield every comparison of a condition, left to right."""
    if isinstance(condition, (AllOf, AnyOf)):
        for part in condition.parts:
            yield from leaves(part)
    else:
        yield condition


def values(leaf: Comparison | Membership) -> Iterator[Value]:
    """Yield every value expression of a comparison, the mask first."""
    if leaf.mask is not None:
        yield leaf.mask
    if isinstance(leaf, Comparison):
        yield leaf.value
    else:
        yield from leaf.values


def names(condition: Condition) -> Iterator[str]:
    """Yield every constant's name that a condition uses."""
    for leaf in leaves(condition):
        for value in values(leaf):
            yield from (word for word in value.program if isinstance(word, str) and word not in ("|", "~", "-"))


def evaluate_value(value: Value, arch: Arch, width: int) -> int:
    """Return a value expression as an unsigned number of the argument's width.

    Args:
        value: the expression.
        arch: whose constants.
        width: the bits the argument keeps, as a mask of ones (0xffff, 0xffffffff or 64 ones).

    Raises:
        ConditionError: the value does not fit, or a constant is unknown.
    """
    stack: list[int] = []
    for word in value.program:
        if isinstance(word, int):
            stack.append(word)
        elif word == "|":
            right = stack.pop()
            stack.append(stack.pop() | right)
        elif word == "~":
            stack.append(width ^ _fit(stack.pop(), value, width))  # the complement within the argument's width
        elif word == "-":
            stack.append(-stack.pop())
        else:
            number = constant(word, arch)
            if number is None:
                raise ConditionError(f"constant `{word}` is unknown on {arch}")
            stack.append(number)
    (number,) = stack
    return _fit(number, value, width)


def _fit(number: int, value: Value, width: int) -> int:
    # A negative number is C's: -1 is all ones. Anything that loses bits would compare with a value no call can have.
    if number > width or number < -((width >> 1) + 1):
        raise ConditionError(f"value `{value.text}` does not fit the argument's {width.bit_length()} bits")
    return number & width


def locate_argument(condition: Comparison | Membership, syscall: str, arch: Arch) -> tuple[int, int]:
    """Return (register index, mask of the bits that are compared) of the argument that a comparison names.

    The mask holds the bits that the kernel keeps, and all 64 for ``register(...)``.

    Raises:
        ConditionError: the syscall has no such argument.
    """
    if condition.register and condition.argument.isdigit():
        return int(condition.argument), U64
    index = argument_index(syscall, condition.argument, arch)
    if index is None:
        raise ConditionError(f"syscall `{syscall}` has no argument `{condition.argument}`")
    return index, U64 if condition.register else argument_mask(syscall, index, arch)


def condition_values(condition: Condition, syscall: str, arch: Arch) -> Iterator[tuple[int, int]]:
    """Yield (register index, number) for every mask and value that a condition names: where its decision can change.

    Args:
        condition: a checked condition.
        syscall: whose arguments it names.
        arch: whose constants.
    """
    for leaf in leaves(condition):
        index, width = locate_argument(leaf, syscall, arch)
        for value in values(leaf):
            yield index, evaluate_value(value, arch, width)


def holds(condition: Condition, syscall: str, arch: Arch, arguments: Sequence[int]) -> bool:
    """Tell whether a condition holds for a call: the definition of the language.

    Args:
        condition: a checked condition.
        syscall: the call's name.
        arch: the call's architecture.
        arguments: the six raw 64-bit registers; bits that the kernel would drop are ignored here too, but in ``register(...)``.
    """
    match condition:
        case AllOf():
            return all(holds(part, syscall, arch, arguments) for part in condition.parts)
        case AnyOf():
            return any(holds(part, syscall, arch, arguments) for part in condition.parts)
    index, width = locate_argument(condition, syscall, arch)
    actual = arguments[index] & width
    if condition.mask is not None:
        actual &= evaluate_value(condition.mask, arch, width)
    if isinstance(condition, Membership):
        return (actual in [evaluate_value(value, arch, width) for value in condition.values]) is not condition.negated
    expected = evaluate_value(condition.value, arch, width)
    match condition.operator:
        case Operator.EQ:
            return actual == expected
        case Operator.NE:
            return actual != expected
        case Operator.LT:
            return actual < expected
        case Operator.LE:
            return actual <= expected
        case Operator.GT:
            return actual > expected
        case Operator.GE:
            return actual >= expected
