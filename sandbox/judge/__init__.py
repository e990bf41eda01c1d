"""The judge: problem packages, submissions and verdicts with evidence.

Above `api`, below `cli`. `sandbox.judge` is the face for graders' authors; names are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.dialogue import Closed, Dialogue
    from sandbox.judge.errors import PackageError
    from sandbox.judge.model import CaseResult, Code, PackageResult, SubmissionResult
    from sandbox.judge.packages import run_package
    from sandbox.judge.progress import Step
    from sandbox.judge.remote import Student, StudentError
    from sandbox.judge.repeat import pass_at_k
    from sandbox.judge.task import Task, run_case
    from sandbox.judge.task_check import Outcome, Output
    from sandbox.judge.task_parts import Part, SubmissionError, Test
    from sandbox.judge.task_result import TaskResult, TestResult

_HOMES = {
    "Closed": "dialogue", "Dialogue": "dialogue", "PackageError": "errors", "CaseResult": "model", "Code": "model", "PackageResult": "model",
    "SubmissionResult": "model", "run_package": "packages", "Step": "progress", "Student": "remote", "StudentError": "remote", "pass_at_k": "repeat",
    "Task": "task", "run_case": "task", "Outcome": "task_check", "Output": "task_check", "Part": "task_parts", "SubmissionError": "task_parts",
    "Test": "task_parts", "TaskResult": "task_result", "TestResult": "task_result",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `sandbox.judge` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(f"sandbox.judge.{_HOMES[name]}"), name)


__all__ = [
    "CaseResult", "Closed", "Code", "Dialogue", "Outcome", "Output", "PackageError", "PackageResult", "Part", "Step", "Student", "StudentError",
    "SubmissionError", "SubmissionResult", "Task", "TaskResult", "Test", "TestResult", "pass_at_k", "run_case", "run_package",
]  # fmt: skip
