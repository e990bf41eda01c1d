"""Packages of the type `submit-answer`, whose submissions are files with answers; and input validators that are scripts of Checktestdata and VIVA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.judge.model import CaseResult, Code, PackageResult
from sandbox.judge.packages import run_package
from tests.unit.judge_packages import NEW, make_package

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

YAML = f"{NEW['problem.yaml']}limits: {{time_limit: 2, output: 1}}\n"
ANSWERS = f"type: submit-answer\n{YAML}"


def judge(tmp_path: Path, files: dict[str, object], monkeypatch: pytest.MonkeyPatch, *, strict: bool = False, path: str = "") -> PackageResult:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    if path:
        monkeypatch.setenv("PATH", path)
    return run_package(make_package(tmp_path, files), strict=strict)  # type: ignore[arg-type]


def cases(result: PackageResult, name: str) -> dict[str, CaseResult]:
    found = next(each for each in result.submissions if each.name == name)
    return {each.case: each for each in found.cases}


def test_answers_are_judged_as_outputs_and_programs_by_what_they_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {f"data/{name}.{end}": text for name in ("sample/1", "secret/1", "secret/2", "secret/g/2") for end, text in (("in", ""), ("ans", f"{name}\n"))}
    files = {
        "data/secret/g/test_group.yaml": "",
        "submissions/accepted/whole/sample/1.out": "sample/1",
        "submissions/accepted/whole/1.ans": "secret/1",
        "submissions/accepted/whole/2.txt": "secret/2",
        "submissions/accepted/whole/g/2": "SECRET/G/2",
        "submissions/mixed/some/1.out": "secret/1",
        "submissions/mixed/some/secret/2.out": "x" * ((1 << 20) + 1),
        "submissions/mixed/some/g/2.out": "secret/2",
        "submissions/wrong_answer/same.txt": "secret/1",
        "submissions/wrong_answer/named/2.out": "secret/2",
    }
    base: dict[str, object] = {name: None for name in NEW if name.startswith(("data", "submissions"))}
    result = judge(tmp_path, {**NEW, **base, **data, **files, "problem.yaml": ANSWERS}, monkeypatch)
    assert result.ok, [(each.name, each.label_problems) for each in result.submissions]
    assert {each.language for each in result.submissions} == {"answers"}
    found = {name: case.code for name, case in cases(result, "mixed/some").items()}
    assert found == {"sample/1": Code.WA, "secret/1": Code.AC, "secret/2": Code.OLE, "secret/g/2": Code.WA}
    assert {each.code for each in cases(result, "accepted/whole").values()} == {Code.AC}
    assert cases(result, "wrong_answer/named")["sample/1"].cause == "no answer to this case: none of its files is called `1.out`"


def test_of_answers_each_case_gets_its_own(tmp_path: Path) -> None:
    from sandbox.judge.answers import open_answers
    from sandbox.judge.check.default import DefaultChecker
    from sandbox.judge.model import RunLimits
    from sandbox.judge.problem import Case

    limits = RunLimits(cpu_ns=1, cpu_cut_ns=1, wall_ns=1, memory_bytes=1, output_bytes=8)
    found = []
    for name in ("sample/1", "secret/1", "secret/g/2"):
        path = tmp_path / name.replace("/", "-")
        path.write_text(name[:8])
        found.append(Case(name=name, input="", answer=str(path)))

    def verdicts(**files: str) -> list[Code]:
        answers = open_answers({name.replace("_", "/"): text.encode() for name, text in files.items()}, found, DefaultChecker())
        return [answers.judge(case, limits).code for case in found]

    assert verdicts(**{"1.out": "secret/1", "sample_1.out": "sample/1", "2": "secret/g"}) == [Code.AC, Code.AC, Code.AC]
    assert verdicts(**{"1.out": "secret/1"}) == [Code.WA, Code.AC, Code.WA]
    assert verdicts(**{"all.txt": "secret/1"}) == [Code.WA, Code.AC, Code.WA]
    assert verdicts(**{"all.txt": "secret/1", "more.txt": "secret/1"}) == [Code.WA, Code.WA, Code.WA]
    assert verdicts(**{"all.txt": "secret/1 "}) == [Code.OLE, Code.OLE, Code.OLE]
    (tmp_path / "secret-1").unlink()
    assert verdicts(**{"all.txt": "x"})[1] is Code.JE


def test_a_program_in_the_place_of_answers_is_run_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = judge(tmp_path, {**NEW, "problem.yaml": ANSWERS}, monkeypatch)
    assert {each.language for each in result.submissions} == {"python3"}
    assert any(text.endswith("is a program, and the problem wants answers: what it prints is judged") for text in result.warnings)


TOOL = """#!/bin/sh
# A tool that reads its script and then the input; the first word of the script is its exit code where the input is not `good`.
[ "$1" = --version ] && { echo 'tool 1.0'; exit; }
[ $# = 1 ] || { echo "$# arguments" >&2; exit 3; }
read code <"$1"
read word
[ "$word" = good ] || exit "$code"
"""


@pytest.mark.parametrize(("script", "said"), [
    ("1\n", "input validator `v.ctd` refuses input `secret/2`: exit 1"),
    ("2\n", "input validator `v.ctd` came to no answer about input `secret/2`: exit 2 (nonzero-exit)"),
])  # fmt: skip
def test_scripts_of_checktestdata_say_by_their_tools_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    tool = tmp_path / "bin" / "checktestdata"
    tool.parent.mkdir()
    tool.write_text(TOOL)
    tool.chmod(0o755)
    data = {f"data/secret/{number}.{end}": text for number, word in ((1, "good"), (2, "bad")) for end, text in (("in", f"{word}\n"), ("ans", "1\n"))}
    base: dict[str, object] = {name: None for name in NEW if name.startswith(("data/", "input_validators", "submissions/"))}
    files = {**NEW, **base, **data, "problem.yaml": YAML, "input_validators/v.ctd": script, "submissions/accepted/a.py": "print(1)\n"}
    files["data/test_group.yaml"] = "input_validator_args: [a, b]\n"
    result = judge(tmp_path, files, monkeypatch, strict=True, path=f"{tool.parent}:{os.environ['PATH']}")
    assert [text for text in result.problems if "validator" in text] == [said]


def test_a_script_whose_tool_is_absent_is_named_and_the_package_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system"
    system.mkdir()
    (system / "python3").symlink_to("/usr/bin/python3")
    files = {**NEW, "problem.yaml": YAML, "input_validators/v.viva": "", "input_validators/w.ctd": ""}
    result = judge(tmp_path, files, monkeypatch, strict=True, path=str(system))
    assert all(each.label_ok for each in result.submissions if not each.absent)
    for told in ("`v.viva` was not run: VIVA: no `viva.sh`", "`w.ctd` was not run: Checktestdata: no `checktestdata` or `pyctd`"):
        assert any(text.startswith(f"input validator {told}") for text in result.problems), result.problems
