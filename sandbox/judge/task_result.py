"""What came of grading: for those who grade, and what of it a contestant may see. Pure.

`to_dict` and `render` give the contestant's view unless ``private=True`` asks for the other one. Of a hidden test that has the name, whether it was passed,
points and the author's hint; nothing that the program read or wrote, no time and no verdict, which could carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.audit.events import escape_untrusted
from sandbox.judge.model import CaseResult, Code
from sandbox.record import dataclass, field

_SHOWN_BYTES = 4000
_WORDS = {
    Code.AC: "right", Code.WA: "wrong answer", Code.TLE: "too slow", Code.WTL: "did not end in time", Code.MLE: "too much memory",
    Code.OLE: "too much output", Code.RTE: "crashed", Code.NZE: "ended with an error", Code.SYS: "ended for a forbidden system call",
    Code.CE: "does not compile", Code.JE: "not judged: the judge failed, not the program",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What came of one test.

    Attributes:
        name: the test's.
        code: the verdict; a test that earned a part of its points only is WA.
        fraction: of its points, 0 to 1.
        points: earned, of `max_points`; both 0 for a test in a group.
        hidden: whether contestants see only that much.
        group: to which it belongs.
        hint: the author's words for whoever fails it.
        cause: why, in words for those who grade.
        message: the checker's words for the contestant.
        private: the checker's words for those who grade.
        stdin: what the program was given; `expected`, what was right; `stdout` and `stderr`, what it printed.
        files: what it wrote into files that were collected.
        transcript: of a test that talked with it.
        case: times, memory, evidence, refused system calls; None where nothing ran.
        skipped: why it was not run, "" where it was; `code` means nothing then.
    """

    __test__ = False

    name: str
    code: Code
    fraction: float = 0.0
    points: float = 0.0
    max_points: float = 0.0
    hidden: bool = False
    group: str = ""
    hint: str = ""
    cause: str = ""
    message: str = ""
    private: str = ""
    stdin: bytes = b""
    expected: bytes | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    transcript: tuple[str, ...] = ()
    case: CaseResult | None = None
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was passed in full."""
        return self.code is Code.AC and not self.skipped

    @property
    def feedback(self) -> str:
        """What the contestant may be told, in words: of a hidden test the hint."""
        if self.skipped:
            return "" if self.hidden else f"not run: {self.skipped}"
        if self.hidden:
            return self.hint if not self.ok else ""
        parts = [] if self.ok else [_WORDS[self.code]]
        parts += [part for part in (self.message, self.hint if not self.ok else "") if part]
        return "; ".join(parts)

    def to_dict(self, *, private: bool = False) -> dict[str, object]:
        """Return plain JSON types, for a contestant unless `private`; contents are cut."""
        found: dict[str, object] = {
            "name": self.name, "passed": self.ok, "points": _number(self.points), "max_points": _number(self.max_points), "group": self.group,
            "hidden": self.hidden, "feedback": self.feedback,
        }  # fmt: skip
        if self.hidden and not private:
            return found
        found |= {
            "code": str(self.code), "skipped": self.skipped, "stdin": _shown(self.stdin),
            "expected": None if self.expected is None else _shown(self.expected),
            "stdout": _shown(self.stdout), "stderr": _shown(self.stderr), "files": {escape_untrusted(name): _shown(data) for name, data in self.files.items()},
            "transcript": list(self.transcript),
            "cpu_ns": self.case.cpu_ns if self.case else None, "memory_bytes": self.case.memory_bytes if self.case else None,
        }  # fmt: skip
        if private:
            found |= {
                "fraction": self.fraction,
                "cause": self.cause,
                "private": self.private,
                "case": None if self.case is None else plain_record(self.case),
            }
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPoints:
    """What a group of tests earned: all its points where each test is passed, else as much of them as its worst test."""

    name: str
    points: float
    max_points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What came of one submission to a `Task`.

    Attributes:
        task: the task's name.
        name: the submission's.
        language: in which it was taken to be written.
        code: AC where every test is passed, else JE if any test has that, CE, or the first failed test's verdict.
        points: of `max_points`.
        tests: in the task's order.
        groups: where there are any.
        cause: why it was not run at all.
        compiler_output: what the compiler printed; a stranger's text, for the contestant to see.
    """

    task: str
    name: str
    language: str = ""
    code: Code
    points: float
    max_points: float
    tests: tuple[TestResult, ...]
    groups: tuple[GroupPoints, ...] = ()
    cause: str = ""
    compiler_output: str = ""

    @property
    def ok(self) -> bool:
        """Whether every test is passed."""
        return self.code is Code.AC

    @property
    def complete(self) -> bool:
        """Whether the points count: False where the judge or the author's own programs failed, so that it should be graded again."""
        return self.code is not Code.JE

    def __getitem__(self, name: str) -> TestResult:
        """Return the test of a name."""
        for test in self.tests:
            if test.name == name:
                return test
        raise KeyError(name)

    def to_dict(self, *, private: bool = False) -> dict[str, object]:
        """Return plain JSON types, for a contestant unless `private`."""
        found: dict[str, object] = {
            "schema": 1, "task": self.task, "name": self.name, "language": self.language, "passed": self.ok, "complete": self.complete,
            "points": _number(self.points), "max_points": _number(self.max_points), "compiler_output": _shown(self.compiler_output.encode()),
            "groups": [{"name": group.name, "points": _number(group.points), "max_points": _number(group.max_points)} for group in self.groups],
            "tests": [test.to_dict(private=private) for test in self.tests],
        }  # fmt: skip
        if private:
            found |= {"code": str(self.code), "cause": self.cause}
        elif self.code is Code.CE:
            found |= {"code": "CE", "cause": self.cause}
        return found

    def render(self, *, private: bool = False) -> str:
        """Return a table for a person, printable ASCII: for a contestant unless `private`."""
        title = self.name or "submission"
        state = str(self.code) if private or self.code is Code.CE else "passed" if self.ok else "not passed"
        lines = [f"{escape_untrusted(title)}: {state}, {_points(self.points)} of {_points(self.max_points)} points"]
        if self.cause and (private or self.code is Code.CE):
            lines.append(f"  {escape_untrusted(self.cause, 400)}")
        width = max([4, *(len(escape_untrusted(test.name, 40)) for test in self.tests)])
        for test in self.tests:
            code = "-" if test.skipped else str(test.code) if private or not test.hidden else "pass" if test.ok else "fail"
            earned = f"{_points(test.points)}/{_points(test.max_points)}" if not test.group else test.group
            said = (test.skipped or test.cause) if private else test.feedback
            lines.append(
                f"  {escape_untrusted(test.name, 40):<{width}}  {code:<4}  {escape_untrusted(earned, 40):<9}  {escape_untrusted(said, 400)}".rstrip()
            )
        lines += [f"  {escape_untrusted(group.name, 40)}: {_points(group.points)} of {_points(group.max_points)}" for group in self.groups]
        return "\n".join(lines)


def sum_up(tests: tuple[TestResult, ...], groups: Mapping[str, float]) -> tuple[Code, float, float, tuple[GroupPoints, ...]]:
    """Return verdict, points, highest points and groups of a submission's tests.

    Args:
        tests: in order.
        groups: each with its points.
    """
    codes = [test.code for test in tests if not test.skipped]
    failed = [code for code in codes if code is not Code.AC]
    if Code.JE in failed:
        code = Code.JE
    elif failed:
        code = failed[0]
    else:
        code = Code.AC if len(codes) == len(tests) else Code.JE
    found = []
    for name, most in groups.items():
        least = min((test.fraction for test in tests if test.group == name), default=0.0)
        found.append(GroupPoints(name=name, points=most * least, max_points=most))
    points = sum(test.points for test in tests) + sum(group.points for group in found)
    most = sum(test.max_points for test in tests) + sum(groups.values())
    return code, points, most, tuple(found)


def plain_record(value: object) -> object:
    """Return plain JSON types for one of the judge's records and what is in it."""
    slots = getattr(type(value), "__slots__", None)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return _shown(value)
    if isinstance(value, Mapping):
        return {str(key): plain_record(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_record(item) for item in value]
    return {name: plain_record(getattr(value, name)) for name in slots or ()}


def _shown(data: bytes) -> str:
    text = data[:_SHOWN_BYTES].decode("utf-8", "replace")
    return text if len(data) <= _SHOWN_BYTES else f"{text}\n... {len(data) - _SHOWN_BYTES} more bytes"


def _number(points: float) -> float | int:
    return int(points) if points == int(points) else round(points, 6)


def _points(points: float) -> str:
    return f"{points:.6g}"
