"""What a judging tells while it goes on, and how a person sees it: one live line on a terminal, a line for each submission elsewhere.

Whatever comes from a package or a contestant is escaped here. `cli` makes a `Display`; everybody else hands on a callable that takes `Step`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from sandbox.audit.events import escape_untrusted
from sandbox.enums import StrEnum
from sandbox.judge.model import SubmissionResult
from sandbox.judge.report.fit import shorten
from sandbox.record import dataclass


class Stage(StrEnum):
    """What is being done."""

    READ = "reading the package"
    BUILD = "building"
    CHECK = "checking the package"
    MEASURE = "measuring for the time limit"
    JUDGE = "judging"
    LIMIT = "time limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something has happened.

    Attributes:
        stage: in which part of the work.
        submission: which one is meant, "" for none.
        case: what was run of it last, "" for none.
        judged: how many submissions are done, of `total`.
        runs: how many runs of submissions there were so far, in all.
        alone: whether a case is run with nothing beside it, because it came near a limit.
        result: of a submission that is done now.
        text: for a person, such as what the time limit is.
    """

    stage: Stage
    submission: str = ""
    case: str = ""
    judged: int = 0
    total: int = 0
    runs: int = 0
    alone: bool = False
    result: SubmissionResult | None = None
    text: str = ""


Progress = Callable[[Step], None]
"""Called from any of the judge's threads, one at a time; what it raises ends the judging."""

_GAP_S = 0.1
_NAME = 40
_CLEAR = "\r\x1b[K"


class Display:
    """Shows steps on a stream, usually standard error.

    Args:
        stream: where to write; None only remembers.
        live: whether it is a terminal that can write over a line.

    Attributes:
        done: the submissions that are done, in the order of their ends, of `total`.
    """

    def __init__(self, stream: TextIO | None, *, live: bool = False) -> None:
        self._stream = stream
        self._live = live
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._drawn = 0.0
        self._shown = False
        self.done: list[SubmissionResult] = []
        self.total = 0

    def __call__(self, step: Step) -> None:
        """Take a step."""
        with self._lock:
            self.total = step.total or self.total
            if step.result is not None:
                self.done.append(step.result)
            if self._stream is None:
                return
            if self._live:
                self._draw(step, self._stream)
            elif step.result is not None:
                self._stream.write(f"{len(self.done)}/{self.total} {_name(step.result.name)}: {summary(step.result)}\n")
                self._stream.flush()
            elif step.text:
                self._stream.write(f"{step.stage}: {escape_untrusted(step.text, 400)}\n")
                self._stream.flush()

    def close(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._shown and self._stream is not None:
                self._stream.write(_CLEAR)
                self._stream.flush()
                self._shown = False

    def _draw(self, step: Step, stream: TextIO) -> None:
        now = time.monotonic()
        if step.result is None and not step.text and now - self._drawn < _GAP_S:
            return
        self._drawn = now
        try:
            width = os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):
            width = 80
        parts = [f"{now - self._began:.0f} s", *([f"{step.judged}/{step.total}"] if step.total else [])]
        parts.append(str(step.stage) + (", alone" if step.alone else ""))
        parts += [_name(word) for word in (step.submission, step.case) if word]
        if step.text:
            parts.append(escape_untrusted(step.text, 200))
        if step.runs:
            parts.append(f"{step.runs} run{'s' if step.runs > 1 else ''}")
        line = "  ".join(parts)[: width - 1]
        stream.write(_CLEAR + line)
        stream.flush()
        self._shown = True


def summary(result: SubmissionResult) -> str:
    """Return one submission's outcome in a few words: ``WA, as its label says``."""
    if result.absent:
        return f"not judged: {escape_untrusted(result.absent, 200)}"
    verdict = str(result.code) if result.code is not None else "no verdict"
    label = {True: "label holds", False: "LABEL DOES NOT HOLD", None: "no label"}[result.label_ok]
    return f"{verdict}, {label}"


def _name(text: str) -> str:
    return shorten(escape_untrusted(text, 400), _NAME)


__all__ = ["Display", "Progress", "Stage", "Step", "summary"]
