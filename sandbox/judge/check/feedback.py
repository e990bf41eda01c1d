"""What a validator left in its feedback directory, read as data of an untrusted program. Pure.

The directory is the validator's working directory, in memory, gone with its run; its regular files were read when nothing ran there any more.
"""

from __future__ import annotations

import re

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIRECTORY = "/judge/feedback/"
"""The directory as a validator is told it, with the separator that the format demands."""

PLACE = ".given-by-the-judge"
"""Where in it a validator finds an input or answer that is no file of the stage; never read back."""

NEXT_PASS, SCORE, MULTIPLIER = "nextpass.in", "score.txt", "score_multiplier.txt"
JUDGE_MESSAGE, TEAM_MESSAGE = "judgemessage.txt", "teammessage.txt"
_SPECIAL = (NEXT_PASS, SCORE, MULTIPLIER, JUDGE_MESSAGE, TEAM_MESSAGE)
_MESSAGE = 8192
_LONGEST = 1000
_FLOAT = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_COLLECTED = "not collected: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The files that mean something, and all files by name; `problem` says what the validator did wrong, "" for nothing."""

    score: float | None = None
    multiplier: float | None = None
    judge_message: str = ""
    team_message: str = ""
    next_pass: bytes | None = None
    files: Mapping[str, bytes]
    problem: str = ""


def read_feedback(files: Mapping[str, bytes], notes: Sequence[str], *, accepted: bool, scores: bool, needs_score: bool, negative: bool) -> Feedback:
    """Return what a validator that exited with 42 or 43 left.

    Args:
        files: contents by name, as collected from its directory.
        notes: of its result, which name what was not collected.
        accepted: whether it exited with 42.
        scores: whether the problem lets validators give scores.
        needs_score: whether it must, for an output that it accepts.
        negative: whether a score may be below 0.
    """
    own = {name: content for name, content in files.items() if not name.startswith(PLACE + "/")}
    problem = _find_unreadable(notes)
    score = multiplier = None
    try:
        score = _read_number(own, SCORE)
        multiplier = _read_number(own, MULTIPLIER)
    except ValueError as error:
        problem = problem or str(error)
    given = [name for name in (SCORE, MULTIPLIER) if name in own]
    if problem:
        pass
    elif len(given) == 2:
        problem = f"it wrote both `{SCORE}` and `{MULTIPLIER}`"
    elif given and not accepted:
        problem = f"it wrote `{given[0]}` and rejected the output"
    elif given and not scores:
        problem = f"it wrote `{given[0]}`, and the problem lets validators give no score"
    elif score is not None and score < 0 and not negative:
        problem = f"`{SCORE}`: {score:g} is negative"
    elif multiplier is not None and not 0 <= multiplier <= 1:
        problem = f"`{MULTIPLIER}`: {multiplier:g} is not between 0 and 1"
    elif NEXT_PASS in own and not accepted:
        problem = f"it wrote `{NEXT_PASS}` and rejected the output"
    elif needs_score and accepted and score is None and NEXT_PASS not in own:
        problem = f"it wrote no `{SCORE}`, which the problem demands"
    return Feedback(
        score=score, multiplier=multiplier, judge_message=clean_text(own.get(JUDGE_MESSAGE, b"")), team_message=clean_text(own.get(TEAM_MESSAGE, b"")),
        next_pass=own.get(NEXT_PASS), files=own, problem=problem,
    )  # fmt: skip


def _find_unreadable(notes: Sequence[str]) -> str:
    """Say which file that would mean something could not be read, or that there was too much."""
    for note in notes:
        if not note.startswith(_NOT_COLLECTED):
            continue
        told = note.removeprefix(_NOT_COLLECTED)
        if told.startswith(tuple(f"`{name}`:" for name in _SPECIAL)):
            return told
        if not told.startswith("`") or " bytes, of " in told:
            return f"it left too many files, or too much in them: {told}"
    return ""


def _read_number(files: Mapping[str, bytes], name: str) -> float | None:
    content = files.get(name)
    if content is None:
        return None
    text = content.strip() if len(content) <= _LONGEST else b""
    value = float(text) if _FLOAT.fullmatch(text) else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"`{name}` holds no number: {clean_text(content[:40]).strip()!r}")
    return value


def clean_text(content: bytes, limit: int = _MESSAGE) -> str:
    """Return untrusted bytes as text that is safe on a terminal and in a report: controls but newline and tab are spelled, and it is cut."""
    text = content[: 4 * limit].decode("utf-8", "replace")
    cleaned = "".join(_spell(char) for char in text[:limit])
    return cleaned + (f"… ({len(content)} bytes)" if len(text) > limit or len(content) > 4 * limit else "")


def _spell(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    code = ord(char)
    return "" if char == "\r" else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


__all__ = ["DIRECTORY", "PLACE", "Feedback", "clean_text", "read_feedback"]
