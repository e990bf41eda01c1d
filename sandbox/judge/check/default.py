"""The default output validator: token by token, with its flags, in this process.

Outputs are hostile. Everything here is linear in their size, looks at a bounded piece at a time (so that other threads of the judge get their turn), and
parses nothing but decimal numbers.

Source: Kattis problem package format, 2025-09 and legacy, "Default output validator specification".
"""

from __future__ import annotations

import re

from sandbox.judge.check import Checked
from sandbox.judge.check.text import Text, open_text
from sandbox.judge.problem import Format
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from sandbox.judge.problem import Case
    from sandbox.judge.running import Ran

_WINDOW = 256 << 10
_AHEAD = 4 << 10
_SHOWN = 60
_SPACE = rb" \t\n\v\f\r"
# No two repetitions here can match the same characters, so that no token takes more than linear time.
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DIGITS = re.compile(rb"[-+.0-9eE]*")
_INFINITE = {float("inf"), float("-inf")}
_TOKEN = re.compile(rb"[^%b]+" % _SPACE)
_PIECE = re.compile(rb"[^%b]+|[%b]+" % (_SPACE, _SPACE))
_AFTER_TOKEN = re.compile(rb"(?<=[^%b])(?=[%b])" % (_SPACE, _SPACE))
_TOLERANCES = ("float_tolerance", "float_relative_tolerance", "float_absolute_tolerance")


class FlagError(ValueError):
    """A flag that the default validator does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the flags of the default validator ask for; a tolerance that is None was not given."""

    case_sensitive: bool = False
    space_change_sensitive: bool = False
    relative: float | None = None
    absolute: float | None = None

    @property
    def numbers(self) -> bool:
        """Whether tokens are compared as numbers."""
        return self.relative is not None or self.absolute is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first difference: why an output is wrong, and where: byte, line and token of the output, line of the answer; all but the byte from 1."""

    why: str
    byte: int
    line: int
    token: int
    answer_line: int

    def __str__(self) -> str:
        beside = f" (line {self.answer_line} of the answer)" if self.answer_line != self.line else ""
        return f"line {self.line}, token {self.token}, byte {self.byte}{beside}: {self.why}"


def parse_flags(flags: Sequence[str], *, strict: bool = False) -> Rules:
    """Return what flags ask for.

    Args:
        flags: words.
        strict: refuse a tolerance that is given twice, as 2025-09 does; else the last one holds.

    Raises:
        FlagError: an unknown flag, or a tolerance that is none.
    """
    case_sensitive = space_change_sensitive = False
    given: dict[str, float] = {}
    relative: float | None = None
    absolute: float | None = None
    words = iter(flags)
    for word in words:
        if word == "case_sensitive":
            case_sensitive = True
        elif word == "space_change_sensitive":
            space_change_sensitive = True
        elif word in _TOLERANCES:
            text = next(words, None)
            value = None if text is None else _number(text.encode("utf-8", "surrogateescape"))
            if value is None or value < 0:
                raise FlagError(f"`{word}` needs a number that is not negative" + (f", not `{text[:_SHOWN]}`" if text is not None else ""))
            if strict and (word in given or (given and "float_tolerance" in (word, *given))):
                raise FlagError(f"`{word}` is given beside another tolerance")
            given[word] = value
            if word != "float_absolute_tolerance":
                relative = value
            if word != "float_relative_tolerance":
                absolute = value
        else:
            raise FlagError(f"the default output validator has no flag `{word[:_SHOWN]}`")
    return Rules(case_sensitive=case_sensitive, space_change_sensitive=space_change_sensitive, relative=relative, absolute=absolute)


def compare(output: bytes | Text, answer: bytes | Text, rules: Rules) -> Difference | None:
    """Return the first difference between an output and an answer, None where the output is right. Raises `OSError` as `Text.read`."""
    ours, theirs = (each if isinstance(each, Text) else Text(each) for each in (output, answer))
    if ours.equals(theirs):
        return None
    return _compare(ours, theirs, rules, _PIECE if rules.space_change_sensitive else _TOKEN)


def _compare(output: Text, answer: Text, rules: Rules, pattern: re.Pattern[bytes]) -> Difference | None:
    """Compare piece by piece: tokens, and where space counts what is between them."""
    ours, theirs = _Pieces(output, pattern), _Pieces(answer, pattern)
    token = 0
    while True:
        mine, his = ours.look(), theirs.look()
        count = min(len(mine), len(his))
        if not count:
            break
        if mine[:count] != his[:count] and not (rules.numbers and _all_near(mine[:count], his[:count], rules)):
            for index in range(count):
                why = "" if mine[index] == his[index] else _differ(mine[index], his[index], rules)
                if why:
                    return _place(ours, theirs, index, token, why, pattern)
        token += count
        ours.take(count)
        theirs.take(count)
    if mine:
        return _place(ours, theirs, 0, token, f"the answer ends here, the output goes on with {_show(mine[0])}", pattern)
    if his:
        told = "is empty" if not output.size else "has white space only" if _is_blank(output) else "ends here"
        return _place(ours, theirs, 0, token, f"the output {told}, the answer goes on with {_show(his[0])}", pattern)
    return None


class _Pieces:
    """The pieces of a text, a window's worth at a time."""

    def __init__(self, text: Text, pattern: re.Pattern[bytes]) -> None:
        self.text = text
        self._pattern = pattern
        self._windows = _windows(text)
        self._part = b""
        self._pieces: list[bytes] = []
        self._next = 0
        self.window = 0
        self.taken = 0

    def look(self) -> list[bytes]:
        """Return what is next, nothing at the end."""
        while self._next == len(self._pieces):
            window = next(self._windows, None)
            if window is None:
                return []
            self.window, self._part = window
            self._next = self.taken = 0
            self._pieces = self._part.split() if self._pattern is _TOKEN else self._pattern.findall(self._part)
        if self._next:
            del self._pieces[: self._next]
            self._next = 0
        return self._pieces

    def take(self, count: int) -> None:
        """Go on by some of what `look` returned."""
        self._next = count
        self.taken += count

    def offset(self, index: int) -> int:
        """Return where a piece of the last look begins; where the last of all ended, if there was no more; the end of a text without any."""
        end = self.window
        for number, found in enumerate(self._pattern.finditer(self._part)):
            if number == self.taken + index:
                return self.window + found.start()
            end = self.window + found.end()
        return end or self.text.size  # a window begins where a token ends


def _windows(text: Text) -> Iterator[tuple[int, bytes]]:
    """Yield parts, with where they begin, that begin and end where a token ends; a token longer than a window is in one part."""
    start = 0
    while start < text.size:
        parts = [text.read(start, start + _WINDOW)]
        end, ahead = start + len(parts[0]), _AHEAD
        while end < text.size:
            more = text.read(end - 1, end + ahead)  # with the byte before, which tells whether a token ends right here
            found = _AFTER_TOKEN.search(more, 1)
            stop = len(more) if found is None else found.start()
            parts.append(more[1:stop])
            end += stop - 1
            if found is not None:
                break
            ahead = min(4 * ahead, _WINDOW)
        yield start, b"".join(parts)
        start = end


def _is_blank(text: Text) -> bool:
    return all(not part.strip() for _, part in _windows(text))


def _differ(mine: bytes, his: bytes, rules: Rules) -> str:
    """Say why two pieces do not go together, or nothing."""
    if mine[:1].isspace() or his[:1].isspace():  # only where space counts
        return f"white space differs: expected {_show(his)}, got {_show(mine)}"
    if rules.numbers:
        wanted = _number(his)
        if wanted is not None:
            return _differ_as_numbers(mine, his, wanted, rules)
    if not rules.case_sensitive and mine.lower() == his.lower():
        return ""
    return f"expected {_show(his, mine)}, got {_show(mine, his)}"


def _differ_as_numbers(mine: bytes, his: bytes, wanted: float, rules: Rules) -> str:
    value = _number(mine)
    if value is None:
        return f"expected a number ({_show(his)}), got {_show(mine)}"
    error = abs(value - wanted)
    if (rules.absolute is not None and error <= rules.absolute) or (rules.relative is not None and error <= rules.relative * abs(wanted)):
        return ""
    bounds = [f"absolute {error:.6e}, tolerance {rules.absolute:g}"] if rules.absolute is not None else []
    if rules.relative is not None:
        bounds.append(f"relative {f'{error / abs(wanted):.6e}' if wanted else 'undefined'}, tolerance {rules.relative:g}")
    return f"expected {_show(his)}, got {_show(mine)}; the error is too large: " + "; ".join(bounds)


def _all_near(mine: list[bytes], his: list[bytes], rules: Rules) -> bool:
    """Whether all pieces are numbers, and near enough. Says no where it is not worth looking at each: then somebody looks at each."""
    if _DIGITS.fullmatch(b"".join(his)) is None or _DIGITS.fullmatch(b"".join(mine)) is None:
        return False
    try:
        # Of these characters `float` takes nothing but the numbers of the format.
        ours, theirs = list(map(float, mine)), list(map(float, his))
    except ValueError:
        return False
    if _INFINITE & set(ours) or _INFINITE & set(theirs):
        return False
    absolute = -1.0 if rules.absolute is None else rules.absolute
    relative = -1.0 if rules.relative is None else rules.relative
    return all(abs(a - b) <= absolute or abs(a - b) <= relative * abs(b) for a, b in zip(ours, theirs, strict=True))


def _number(token: bytes) -> float | None:
    """Return the value of a decimal number, None for anything else and for what no double can hold."""
    if _NUMBER.fullmatch(token) is None:
        return None
    value = float(token)
    return None if value in (float("inf"), float("-inf")) else value


def _place(ours: _Pieces, theirs: _Pieces, index: int, token: int, why: str, pattern: re.Pattern[bytes]) -> Difference:
    byte, beside = ours.offset(index), theirs.offset(index)
    number = token + index + 1
    if pattern is _PIECE:
        number = 1 + sum(len(_TOKEN.findall(part[: byte - start])) for start, part in _windows(ours.text) if start < byte)
    return Difference(
        why=why, byte=byte, line=ours.text.count_lines(byte) + 1, token=number, answer_line=theirs.text.count_lines(beside) + 1
    )  # fmt: skip


def _show(piece: bytes, other: bytes = b"") -> str:
    """Return a piece as text of ours, cut; of a long one the part where it differs from another."""
    start = 0
    if len(piece) > _SHOWN and other:
        same = _same(piece, other)
        start = max(0, same - _SHOWN // 2) if same > _SHOWN // 2 else 0
    part = piece[start : start + _SHOWN]
    text = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"`\\" else f"\\x{byte:02x}" for byte in part)
    more = len(piece) - start - len(part)
    return f"`{'…' if start else ''}{text}{'…' if more else ''}`" + (f" ({len(piece)} bytes)" if more or start else "")


def _same(piece: bytes, other: bytes) -> int:
    """Return how many bytes are alike at the beginning."""
    low, high = 0, min(len(piece), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if piece[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class DefaultChecker:
    """The default output validator of one format; keeps nothing.

    Args:
        format: 2025-09 refuses tolerances that contradict each other.
    """

    def __init__(self, format: Format = Format.LEGACY) -> None:
        self._strict = format is Format.V2025_09
        self._rules: dict[tuple[str, ...], Rules] = {}

    def check(
        self,
        case: Case,
        output: bytes | os.PathLike[str],
        *,
        ran: Ran | None = None,
        given: bytes | None = None,
        feedback: Mapping[str, bytes] | None = None,
    ) -> Checked:
        """See `Checker.check`."""
        try:
            rules = self._rules.get(case.output_validator_flags)
            if rules is None:
                rules = self._rules[case.output_validator_flags] = parse_flags(case.output_validator_flags, strict=self._strict)
            with open_text(output) as ours, open_text(case.answer) as theirs:
                found = compare(ours, theirs, rules)
        except FlagError as error:
            return Checked(accepted=None, cause=f"output validator flags of `{case.name}`: {error}")
        except OSError as error:
            return Checked(accepted=None, cause=f"answer of `{case.name}`: {error.strerror}")
        if found is None:
            return Checked(accepted=True, exit=42)
        return Checked(accepted=False, exit=43, judge_message=str(found), cause=str(found))

    def close(self) -> None:
        """Nothing is kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


__all__ = ["DefaultChecker", "Difference", "FlagError", "Rules", "compare", "parse_flags"]
