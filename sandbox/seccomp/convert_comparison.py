"""One test of a container's profile (register, operator, 64-bit value) as a comparison of the policy language, in the words of the syscall's signature.

Every constant that is written is checked to have the very value on each architecture that has the syscall, so that names make a policy readable and
cannot change it. Pure; imported by `convert_toml.py`.
"""

from __future__ import annotations

from functools import cache

from sandbox.abi.arch import Arch
from sandbox.abi.constants import decode_argument
from sandbox.abi.signatures import argument_index, argument_mask, is_per_command, is_pointer, signature
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import U64, ConditionError, evaluate_value, parse_condition
from sandbox.policy.model import Comparison
from sandbox.record import dataclass
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.convert_oci import OciArg

_SIGNS = {"NE": "!=", "LT": "<", "LE": "<=", "EQ": "==", "GE": ">=", "GT": ">"}
_MOST_NAMES = 8
_ALLOWING = (bpf.RET_ALLOW, bpf.RET_LOG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """``operand sign value``; `operand` includes a mask."""

    operand: str
    sign: str
    value: str

    @property
    def text(self) -> str:
        """Return it as it is written."""
        return f"{self.operand} {self.sign} {self.value}"

    @property
    def is_equality(self) -> bool:
        """Tell whether it can become an element of ``in {…}``."""
        return self.sign == "=="


def test_of(syscall: str, arg: OciArg, arch: Arch, *, exact: bool, action: int) -> Test | bool:
    """Return a test in the language's words, or whether it always or never holds.

    Args:
        syscall: whose argument it is.
        arg: the test.
        arch: whose register order the profile is read with.
        exact: compare all 64 bits, also of narrower arguments.
        action: the rule's return value: what may be refused by value is less than what may be allowed.
    """
    name, width = _operand(syscall, arg, arch, exact=exact, action=action)
    mask, value = U64, arg.value
    if arg.op == "MASKED_EQ":
        # libseccomp drops value bits outside the mask.
        mask, value = arg.value, arg.value & arg.value_two
    op = "EQ" if arg.op == "MASKED_EQ" and mask == U64 else arg.op
    folded = _fold(value, mask, width, op)
    if folded is None:
        # No value of the argument's type has these bits: equality never holds, and every value is less.
        return arg.op in ("NE", "LT", "LE")
    mask, value = mask & width, folded
    sign = "==" if arg.op == "MASKED_EQ" else _SIGNS[arg.op]
    if mask == 0 or (sign, value) == (">=", 0) or (sign, value) == ("<=", width):
        return True
    if (sign, value) == ("<", 0) or (sign, value) == (">", width):
        return False
    operand = name
    if mask != width:
        words = _symbol(syscall, arg.index, mask, width, arch, mask=True)
        operand += f" & ({words})" if "|" in words else f" & {words}"
    if sign not in ("==", "!=") and value > width >> 1:
        return Test(operand=operand, sign=sign, value=hex(value))  # an order against a negative number reads as another
    return Test(operand=operand, sign=sign, value=_symbol(syscall, arg.index, value, width, arch))


def _fold(value: int, mask: int, width: int, op: str) -> int | None:
    """Return a 64-bit value in an argument's width; None when no value of the argument is meant."""
    high = U64 ^ width
    if not value & high & mask:
        return value & width
    # -1 as 64 bits is the int -1.
    top = (width >> 1) + 1
    if op in ("EQ", "NE") and value & high == high and value & top:
        return value & width
    return None


def _operand(syscall: str, arg: OciArg, arch: Arch, *, exact: bool, action: int) -> tuple[str, int]:
    """Return what to call a register, and the bits of it that are then compared."""
    arches = [each for each in Arch if syscall_number(each, syscall) is not None]
    names = signature(syscall, arch) if arch in arches else signature(syscall, arches[0])
    if arg.index >= len(names):
        return f"register({arg.index})", U64
    name = names[arg.index][0]
    if any(argument_index(syscall, name, each) != arg.index for each in arches):
        return f"register({arg.index})", U64  # clone's last two are elsewhere on the other architecture
    width = argument_mask(syscall, arg.index)
    # What `policy.check` lets a condition say about pointers and about arguments whose type depends on another one.
    allowed = arg.op == "EQ" and action in _ALLOWING
    is_null = arg.op in ("EQ", "NE") and arg.value == 0
    if (is_pointer(syscall, arg.index) and not is_null) or (is_per_command(syscall, arg.index) and not allowed):
        return f"register({name})", U64
    if exact and width != U64 and not (arg.op == "MASKED_EQ" and arg.value <= width):
        return f"register({name})", U64
    return name, width


@cache
def _symbol(syscall: str, index: int, value: int, width: int, arch: Arch, *, mask: bool = False) -> str:
    """Return a number by its constants' names where they are worth exactly that, else as a number."""
    arches = [each for each in Arch if syscall_number(each, syscall) is not None]
    decoded = decode_argument(arch if arch in arches else arches[0], syscall, index, value)
    words = decoded.split("|")
    named = all(word[0].isalpha() for word in words) and len(words) <= _MOST_NAMES
    if named or (decoded.startswith("-") and not mask and int(decoded) > -4096):
        try:
            condition = parse_condition(f"x == {' | '.join(words)}")
            if isinstance(condition, Comparison) and all(evaluate_value(condition.value, each, width) == value for each in arches):
                return " | ".join(words)
        except ConditionError:
            pass
    return hex(value) if mask or value > 9999 else str(value)
