"""Deciding whether a program's output is right: by comparison, or by a function of the author's that is called outside of any sandbox."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from typing import TypeVar

from sandbox.audit.events import escape_untrusted
from sandbox.record import dataclass, field

_Number = TypeVar("_Number", int, float)
_DIGITS = 1000
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MESSAGE = 2000
_TRACEBACK = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a checker is given. Everything that the program wrote is a stranger's: parse it as such.

    Attributes:
        stdout: what it printed; at most the limit's size.
        stderr: likewise.
        files: what it wrote into files that were collected, by name.
        exit_code: with which it ended.
        stdin: what it was given.
        expected: what the test calls right, None where it says nothing.
        args: its arguments.
        name: the test's.
    """

    stdout: bytes
    stderr: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    exit_code: int = 0
    stdin: bytes = b""
    expected: bytes | None = None
    args: tuple[str, ...] = ()
    name: str = ""

    @property
    def text(self) -> str:
        """What it printed, as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """The lines of it, without their ends."""
        return self.text.splitlines()

    @property
    def tokens(self) -> list[str]:
        """What white space parts."""
        return self.text.split()

    def integers(self) -> list[int]:
        """Return the tokens as numbers; one that is none, or has more than a thousand digits, is a wrong answer."""
        return [self._number(place, token, int, _INTEGER) for place, token in enumerate(self.tokens, 1)]

    def floats(self) -> list[float]:
        """Return the tokens as decimal numbers; one that is none, which ``nan`` and ``inf`` are not, is a wrong answer."""
        return [self._number(place, token, float, _DECIMAL) for place, token in enumerate(self.tokens, 1)]

    def _number(self, place: int, token: str, kind: Callable[[str], _Number], form: re.Pattern[str]) -> _Number:
        if len(token) > _DIGITS or form.fullmatch(token) is None:
            raise AssertionError(f"token {place}, `{escape_untrusted(token, 60)}`, is no number")
        return kind(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a checker may return instead of a bool or a number.

    Attributes:
        fraction: of the test's points, 0 to 1; 1 is right.
        message: for the contestant, unless the test is hidden.
        private: for those who grade.
    """

    fraction: float
    message: str = ""
    private: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"a fraction must be 0 to 1, not {self.fraction}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A checker's answer, or that it gave none: `outcome` None is the judge's own failure, of which `cause` tells."""

    outcome: Outcome | None
    cause: str = ""


def call_checker(checker: Callable[[Output], object], output: Output) -> Judged:
    """Call a function of the author's and read its answer: a bool, a fraction from 0 to 1, ``(fraction, message)``, or an `Outcome`.

    A failed ``assert`` in it is a wrong answer, with its message; whatever else it raises is a failure of the judge's, also the `SystemExit` of what was
    a program once, and so is None: a forgotten ``return`` must not pass everybody.
    """
    try:
        answer = checker(output)
    except AssertionError as error:
        return Judged(outcome=Outcome(fraction=0.0, message=_text(error)))
    except (Exception, SystemExit) as error:
        return Judged(outcome=None, cause=f"the checker raised {describe(error)}")
    return read_answer(answer)


def read_answer(answer: object) -> Judged:
    """Return what a checker's value means."""
    try:
        if isinstance(answer, Outcome):
            return Judged(outcome=answer)
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
            return Judged(outcome=Outcome(fraction=_fraction(answer[0]), message=answer[1]))
        return Judged(outcome=Outcome(fraction=_fraction(answer)))
    except (TypeError, ValueError) as error:
        return Judged(outcome=None, cause=f"the checker's answer is of no use: {error}")


def _fraction(answer: object) -> float:
    if isinstance(answer, (bool, int, float)):
        return float(answer)
    hint = "; did it forget to `return`?" if answer is None else ""
    raise TypeError(f"it must be a bool, a fraction or an `Outcome`, not {type(answer).__name__}{hint}")


def describe(error: BaseException) -> str:
    """Return an exception of the author's with its traceback, cut in front."""
    text = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {_text(error)}\n{text[-_TRACEBACK:]}"


def _text(error: BaseException) -> str:
    return str(error)[:_MESSAGE]
