"""The order in which a submission meets the cases, and what stops it: a generator over groups that asks for one case after another. Pure.

What is asked for depends on nothing but the results of the cases before, so it is the same whatever was run ahead and by how many workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

from sandbox.judge.model import CaseResult, Code, GroupResult
from sandbox.judge.problem import Case, Group, cases_of
from sandbox.record import dataclass

Outcome = CaseResult | GroupResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides in a walk.

    Attributes:
        grade: makes one result of those of a group's children that were judged.
        stops: whether the rest of a group is not judged after these outcomes.
        bars: why a group is not judged at all, given the groups before it by name; "" when it is.
        barred: makes the result of such a group.
    """

    grade: Callable[[Group, Sequence[Outcome]], GroupResult]
    stops: Callable[[Group, Sequence[Outcome]], bool]
    bars: Callable[[Group, Mapping[str, GroupResult]], str]
    barred: Callable[[Group, str], GroupResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What a walk came to: every case in the order of judging, those that were skipped as well; groups, children before parents; the root's result."""

    cases: tuple[CaseResult, ...]
    groups: tuple[GroupResult, ...]
    final: GroupResult


class _Frame:
    """A group that the walk is in."""

    __slots__ = ("fresh", "group", "left", "outcomes", "stopped")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.left = deque(group.children)
        self.outcomes: list[Outcome] = []
        self.stopped = ""
        self.fresh = True


def walk(root: Group, rules: Rules, static: Callable[[Group], CaseResult] | None = None) -> Generator[Case, CaseResult, Walked]:
    """Yield the cases that are needed, one at a time; send the result of each.

    Args:
        root: all test data.
        rules: what decides.
        static: judges the submission's own files, for groups that ask for it; None leaves that out.
    """
    cases: list[CaseResult] = []
    groups: dict[str, GroupResult] = {}
    stack = [_Frame(root)]  # not recursion: how deep directories go is the package's choice
    while True:
        frame = stack[-1]
        if frame.fresh:
            frame.fresh = False
            if static is not None and frame.group.grading.static_validation_score is not None:
                result = static(frame.group)
                cases.append(result)
                _note(frame, result, result.case, rules)
        if frame.stopped:
            for child in frame.left:
                cases += [skipped(case, frame.stopped) for case in cases_of(child)]
            frame.left.clear()
        if frame.left:
            child = frame.left.popleft()
            if isinstance(child, Case):
                result = yield child
                cases.append(result)
                _note(frame, result, result.case, rules)
                continue
            reason = rules.bars(child, groups)
            if reason:
                cases += [skipped(case, reason) for case in cases_of(child)]
                groups[child.name] = rules.barred(child, reason)
                _note(frame, groups[child.name], child.name, rules)
            else:
                stack.append(_Frame(child))
            continue
        final = rules.grade(frame.group, frame.outcomes)
        groups[frame.group.name] = final
        stack.pop()
        if not stack:
            return Walked(cases=tuple(cases), groups=tuple(groups.values()), final=final)
        _note(stack[-1], final, frame.group.name, rules)


def skipped(case: Case, reason: str) -> CaseResult:
    """Return what stands for a case that was not run; its code means nothing, and is the one that nobody takes for a pass."""
    return CaseResult(case=case.name, code=Code.JE, skipped=reason)


def _note(frame: _Frame, outcome: Outcome, name: str, rules: Rules) -> None:
    frame.outcomes.append(outcome)
    if rules.stops(frame.group, frame.outcomes):
        where = f"group `{frame.group.name}`" if frame.group.name else "the judging"
        frame.stopped = f"{where} stopped at `{name}`: {outcome.code}"


__all__ = ["Outcome", "Rules", "Walked", "skipped", "walk"]
