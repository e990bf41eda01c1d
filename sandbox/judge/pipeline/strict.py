"""Whether a package keeps its own rules: what its input validators say of inputs, its output validators of answers, and both of what has to be refused.

The programs run in sandboxes; this module only compares what they say with what they should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sandbox.judge.check import Checked
from sandbox.judge.check.inputs import InputVerdict, all_accept
from sandbox.judge.problem import Case, Problem, cases_of

Together = Callable[[Sequence[Callable[[], None]]], None]
"""Calls functions, several at a time, and returns when all have returned."""


class Inputs(Protocol):
    """What says whether inputs are valid."""

    def check(self, case: Case) -> tuple[InputVerdict, ...]:
        """Return what each input validator says."""


class Outputs(Protocol):
    """What says whether an output is right."""

    def check(self, case: Case, output: bytes | Path) -> Checked:
        """Return what the output validators say of bytes, or of what a file has."""


class DataCheck:
    """The check of a problem's data.

    Args:
        problem: staged.
        inputs: None where it has no input validators.
        outputs: None where it is interactive: a validator that talks cannot be shown an answer.
        missing: why input validators are not among `inputs`, in words.

    Attributes:
        problems: what is wrong.
        warnings: what is doubtful.
    """

    def __init__(self, problem: Problem, inputs: Inputs | None, outputs: Outputs | None, missing: Sequence[str] = ()) -> None:
        self._problem = problem
        self._inputs = inputs
        self._outputs = outputs
        self._missing = tuple(missing)
        self.problems: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()

    def run(self, together: Together) -> None:
        """Check everything."""
        problem = self._problem
        doubts: list[str] = [*self._missing]
        wrong: list[Callable[[], str]] = []
        doubtful: list[Callable[[], str]] = []
        cases = tuple(cases_of(problem.data))
        if self._inputs is None and not self._missing:
            doubts.append("it has no input validators: nothing checks its inputs")
        elif self._inputs is not None:
            wrong += [self._valid_input(self._inputs, case) for case in cases]
            if not self._missing:  # else the one that is not here may be who refuses it
                wrong += [self._invalid_input(self._inputs, case) for case in problem.invalid.get("invalid_input", ())]
            for kind in ("invalid_output", "valid_output"):
                wrong += [self._valid_input(self._inputs, case) for case in problem.invalid.get(kind, ())]
        if self._outputs is not None:
            if not problem.multi_pass:
                for case in cases:
                    (wrong if case.sample else doubtful).append(self._answer(self._outputs, case))
            for kind, accepted in (("invalid_output", False), ("valid_output", True)):
                wrong += [self._output(self._outputs, case, accepted) for case in problem.invalid.get(kind, ())]
        elif problem.invalid.get("invalid_output") or problem.invalid.get("valid_output"):
            doubts.append("outputs of an interactive problem were not checked: they would have to be talked about")
        found = [""] * (len(wrong) + len(doubtful))

        def keep(index: int, act: Callable[[], str]) -> Callable[[], None]:
            def call() -> None:
                found[index] = act()

            return call

        together([keep(index, act) for index, act in enumerate([*wrong, *doubtful])])
        self.problems = tuple(dict.fromkeys(text for text in found[: len(wrong)] if text))
        self.warnings = tuple(dict.fromkeys([*doubts, *(text for text in found[len(wrong) :] if text)]))

    def _valid_input(self, inputs: Inputs, case: Case) -> Callable[[], str]:
        def check() -> str:
            for said in inputs.check(case):
                if said.accepted is not True:
                    verb = "refuses" if said.accepted is False else "came to no answer about"
                    return f"input validator `{said.validator}` {verb} input `{case.name}`: {_first(said.message) or said.cause}"
            return ""

        return check

    def _invalid_input(self, inputs: Inputs, case: Case) -> Callable[[], str]:
        def check() -> str:
            said = inputs.check(case)
            if all_accept(said) is False:
                return ""
            silent = next((each for each in said if each.accepted is None), None)
            if silent is not None:
                return f"input validator `{silent.validator}` came to no answer about invalid input `{case.name}`: {silent.cause}"
            return f"no input validator refuses invalid input `{case.name}`"

        return check

    def _answer(self, outputs: Outputs, case: Case) -> Callable[[], str]:
        def check() -> str:
            said = outputs.check(case, Path(case.answer))
            return "" if said.accepted else f"the answer of `{case.name}` is not accepted as an output: {_first(said.judge_message) or said.cause}"

        return check

    def _output(self, outputs: Outputs, case: Case, accepted: bool) -> Callable[[], str]:
        def check() -> str:
            said = outputs.check(case, Path(case.output))
            if said.accepted is accepted:
                return ""
            if said.accepted is None:
                return f"no answer about output `{case.name}`: {said.cause}"
            return f"output `{case.name}` is {'accepted' if said.accepted else 'refused'}, and is to be {'accepted' if accepted else 'refused'}"

        return check


def _first(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


__all__ = ["DataCheck", "Inputs", "Outputs", "Together"]
