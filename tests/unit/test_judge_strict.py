"""What `--strict` makes of what validators say about a package's own data; the validators are functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sandbox.judge.check import Checked
from sandbox.judge.check.inputs import InputVerdict
from sandbox.judge.pipeline.strict import DataCheck
from sandbox.judge.problem import Case, Format, Grading, Group, Problem, ProblemLimits


class Inputs:
    """Accepts inputs whose case's name has no ``bad`` in it; comes to no answer about ``mute``."""

    def check(self, case: Case) -> tuple[InputVerdict, ...]:
        accepted = None if "mute" in case.name else "bad" not in case.name
        first = InputVerdict(validator="v1", case=case.name, accepted=True)
        return first, InputVerdict(validator="v2", case=case.name, accepted=accepted, cause="exit 43", message="\nline 2\nmore")


class Outputs:
    """Accepts ``right``, rejects all else, comes to no answer about ``mute``."""

    def check(self, case: Case, output: bytes | Path) -> Checked:
        output = output if isinstance(output, bytes) else output.read_bytes()
        return Checked(accepted=None if output == b"mute" else output == b"right", judge_message="differs", cause="crashed")


def call(acts: Sequence[Callable[[], None]]) -> None:
    for act in acts:
        act()


def check(
    tmp_path: Path, cases: dict[str, bytes], *, interactive: bool = False, validators: bool = True, multi_pass: bool = False, missing: Sequence[str] = ()
) -> DataCheck:
    """Check a problem with these cases; the content is the answer, or the output for a case of ``*_output``."""
    children: list[Case] = []
    invalid: dict[str, tuple[Case, ...]] = {}
    for name, content in cases.items():
        path = tmp_path / name.replace("/", "-")
        path.write_bytes(content)
        kind = name.partition("/")[0]
        case = Case(name=name, input=str(path), answer=str(path), output=str(path), sample=kind == "sample")
        if kind in ("sample", "secret"):
            children.append(case)
        else:
            invalid[kind] = (*invalid.get(kind, ()), case)
    data = Group(name="", grading=Grading(), children=tuple(children))
    problem = Problem(
        name="p", format=Format.V2025_09, root="/p", limits=ProblemLimits(), data=data, invalid=invalid, multi_pass=multi_pass, interactive=interactive
    )
    found = DataCheck(problem, Inputs() if validators else None, None if interactive else Outputs(), missing)
    found.run(call)
    return found


@pytest.mark.parametrize(
    ("name", "content", "problem", "warning"),
    [
        ("secret/1", b"right", "", ""),
        ("secret/bad", b"right", "input validator `v2` refuses input `secret/bad`: line 2", ""),
        ("secret/mute", b"right", "input validator `v2` came to no answer about input `secret/mute`: line 2", ""),
        ("secret/1", b"wrong", "", "the answer of `secret/1` is not accepted as an output: differs"),
        ("sample/1", b"wrong", "the answer of `sample/1` is not accepted as an output: differs", ""),
        ("invalid_input/bad", b"", "", ""),
        ("invalid_input/1", b"", "no input validator refuses invalid input `invalid_input/1`", ""),
        ("invalid_input/mute", b"", "input validator `v2` came to no answer about invalid input `invalid_input/mute`: exit 43", ""),
        ("invalid_output/1", b"wrong", "", ""),
        ("invalid_output/1", b"right", "output `invalid_output/1` is accepted, and is to be refused", ""),
        ("invalid_output/1", b"mute", "no answer about output `invalid_output/1`: crashed", ""),
        ("invalid_output/bad", b"wrong", "input validator `v2` refuses input `invalid_output/bad`: line 2", ""),
        ("valid_output/1", b"right", "", ""),
        ("valid_output/1", b"wrong", "output `valid_output/1` is refused, and is to be accepted", ""),
    ],
)
def test_data(tmp_path: Path, name: str, content: bytes, problem: str, warning: str) -> None:
    found = check(tmp_path, {name: content})
    assert (found.problems, found.warnings) == ((problem,) if problem else (), (warning,) if warning else ())


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    found = check(tmp_path, {"secret/1": b"right"}, validators=False)
    assert (found.problems, found.warnings) == ((), ("it has no input validators: nothing checks its inputs",))
    found = check(tmp_path, {"secret/1": b"wrong", "valid_output/1": b"wrong"}, interactive=True)
    assert (found.problems, found.warnings) == ((), ("outputs of an interactive problem were not checked: they would have to be talked about",))
    assert check(tmp_path, {"sample/1": b"wrong"}, multi_pass=True).problems == ()


def test_a_validator_that_is_not_here_is_said_and_might_have_refused(tmp_path: Path) -> None:
    cases = {"secret/bad": b"right", "invalid_input/1": b""}
    found = check(tmp_path, cases, missing=["`v3` was not run"])
    assert (found.problems, found.warnings) == (("input validator `v2` refuses input `secret/bad`: line 2",), ("`v3` was not run",))
    found = check(tmp_path, cases, validators=False, missing=["`v3` was not run"])
    assert (found.problems, found.warnings) == ((), ("`v3` was not run",))
