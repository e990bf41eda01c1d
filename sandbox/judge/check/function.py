"""A Python function as a checker: it runs in this process, outside of any sandbox, and sees the output as bytes or text."""

from __future__ import annotations

from sandbox.judge.check import Checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from sandbox.judge.problem import Case
    from sandbox.judge.running import Ran

_MESSAGE = 2000


class FunctionChecker:
    """Checks outputs by calling a function.

    What the function does with a hostile output is its author's affair: it should be linear in its size, and `eval`, `pickle` or `int` of millions of digits
    are no ways to read it. An exception is a judge's error, with its last line as the cause, never an accepted or a wrong answer.

    Args:
        function: called with the output and the answer. It returns whether the output is accepted; a number between 0 and 1, the share of what the case is
            worth (anything above 0 is accepted); a pair of one of these and a message; or a `Checked`.
        text: whether it takes text, decoded as UTF-8 (what is none becomes U+FFFD), instead of bytes.
        answers: contents by case name, for cases without an answer file.
    """

    def __init__(
        self, function: Callable[..., object], *, text: bool = True, answers: Mapping[str, bytes] | None = None
    ) -> None:
        self._function = function
        self._text = text
        self._answers = answers or {}

    def check(
        self, case: Case, output: bytes, *, ran: Ran | None = None, given: bytes | None = None, feedback: Mapping[str, bytes] | None = None
    ) -> Checked:
        """See `Checker.check`."""
        answer = self._answers.get(case.name)
        if answer is None and case.answer:
            try:
                with open(case.answer, "rb", buffering=0) as file:
                    answer = file.readall() or b""
            except OSError as error:
                return Checked(accepted=None, cause=f"answer of `{case.name}`: {error.strerror}")
        pair = (output, answer or b"")
        name = getattr(self._function, "__name__", "checker")
        try:
            said = self._function(*(each.decode("utf-8", "replace") for each in pair)) if self._text else self._function(*pair)
            return _read(said)
        except Exception as error:
            return Checked(accepted=None, cause=f"checker `{name}`: {type(error).__name__}: {str(error)[:_MESSAGE]}")

    def close(self) -> None:
        """Nothing is kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _read(said: object) -> Checked:
    if isinstance(said, Checked):
        return said
    message = ""
    if isinstance(said, tuple) and len(said) == 2 and isinstance(said[1], str):
        said, message = said
    if isinstance(said, bool):
        return Checked(accepted=said, judge_message=message[:_MESSAGE], cause="" if said else message[:_MESSAGE] or "the checker rejected it")
    if isinstance(said, (int, float)) and 0 <= said <= 1:
        share = float(said)
        return Checked(
            accepted=share > 0, multiplier=share if share > 0 else None, judge_message=message[:_MESSAGE],
            cause="" if share > 0 else message[:_MESSAGE] or "the checker rejected it",
        )  # fmt: skip
    raise TypeError(f"a checker returns True, False, a number from 0 to 1, a pair of one of these and a message, or a Checked, not {said!r}"[:_MESSAGE])


__all__ = ["FunctionChecker"]
