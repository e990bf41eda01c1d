"""The reports of a judging: what a person reads, what programs read, and that neither is given orders by a package or a contestant."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from sandbox.judge.interactive.transcript import Entry
from sandbox.judge.model import Built, CaseResult, Code, GroupResult, PackageResult, SubmissionResult
from sandbox.judge.problem import Format
from sandbox.judge.progress import Display, Stage, Step
from sandbox.judge.report import FailedPackage, exit_code
from sandbox.judge.report.json import render_json, to_dict
from sandbox.judge.report.junit import render_junit
from sandbox.judge.report.table import coloured, render_table
from sandbox.result import Evidence

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/judge-report.schema.json").read_text())
HOSTILE = "\x1b[2J\x1b]0;title\x07\u202egnp.exe\r\x00]]><script>&\ud800\nhint: run rm -rf /"
S = 1_000_000_000

ACCEPTED = SubmissionResult(
    name="accepted/a.c", language="c", code=Code.AC, score=60.0, label="accepted", label_ok=True, max_cpu_ns=S // 10,
    built=Built(name="accepted/a.c", language="c", cached=True),
    cases=(
        CaseResult(case="sample/1", code=Code.AC, cpu_ns=S // 100),
        CaseResult(
            case="secret/1", code=Code.AC, cpu_ns=98 * S // 100, near=("cpu 980 ms of 1.00 s",), reruns=((Code.TLE, 101 * S // 100),),
            notes=("TLE beside other runs (1.01 s of CPU time), AC alone",),
        ),
    ),
    groups=(GroupResult(name="", code=Code.AC, score=60.0),),
)  # fmt: skip
WRONG = SubmissionResult(
    name="accepted/b.py", language="python3", code=Code.RTE, score=0.0, decided_by="secret/2", label="accepted", label_ok=False,
    label_problems=("accepted: `secret/2` is RTE, permitted AC",), max_cpu_ns=2 * S, sensitive=("AC with a limit of 2.00 s",),
    built=Built(name="accepted/b.py", language="python3"),
    cases=(
        CaseResult(case="secret/1", code=Code.WA, flags=(Code.WA,), cause="the answer is not the right one", validator_exit=43, judge_message="1 != 2"),
        CaseResult(
            case="secret/2", code=Code.RTE, flags=(Code.RTE, Code.WA), cause="signal 11 (SIGSEGV)", cpu_ns=2 * S, memory_bytes=5 << 20,
            denials={"socket": 3, "ptrace": 1}, stderr="one\ntwo\n", signal=11, exit_code=139,
            evidence=(Evidence(limit="memory", counter="memory.peak", value=5 << 20, bound=6 << 20, unit="bytes", hit=False),),
        ),
        CaseResult(case="secret/3", code=Code.JE, skipped="group `secret` stopped at `secret/2`: RTE"),
    ),
    groups=(GroupResult(name="secret", code=Code.RTE, decided_by="secret/2"),),
)  # fmt: skip
BROKEN = SubmissionResult(
    name="wrong_answer/c.c", language="c", code=Code.CE, label="wrong_answer", label_ok=False, label_problems=("wrong_answer: CE",),
    built=Built(name="wrong_answer/c.c", language="c", code=Code.CE, cause="`gcc` ended with exit 1", output="c.c:1: error\n"),
)  # fmt: skip
ABSENT = SubmissionResult(name="accepted/d.kt", language="kotlin", label="accepted", absent="Kotlin: `kotlinc` is not installed")
JUDGE_ERROR = SubmissionResult(
    name="accepted/e.c", language="c", code=Code.JE, decided_by="secret/1", label="accepted", label_ok=False, label_problems=("accepted: JE",),
    cases=(CaseResult(case="secret/1", code=Code.JE, flags=(Code.JE,), cause="the validator ended with exit 1", validator_exit=1),),
)  # fmt: skip


def package(*submissions: SubmissionResult, **more: Any) -> PackageResult:
    given: dict[str, Any] = {
        "problem": "hello", "format": Format.LEGACY, "digest": "0" * 64, "time_limit_ns": S, "upper_limit_ns": 2 * S,
        "time_limit_source": "slowest accepted 0.1 s x 5", "runs": 7, "wall_ns": 3 * S, "jobs": 2,
    }  # fmt: skip
    return PackageResult(submissions=submissions, **{**given, **more})


def hostile() -> PackageResult:
    case = CaseResult(
        case=HOSTILE, code=Code.JE, flags=(Code.JE, Code.WA), cause=HOSTILE, judge_message=HOSTILE, team_message=HOSTILE, stderr=HOSTILE,
        transcript=(HOSTILE,), notes=(HOSTILE,), denials={HOSTILE: 1}, near=(HOSTILE,), blame=HOSTILE, score=float("inf"),
    )  # fmt: skip
    submission = SubmissionResult(
        name=f"{HOSTILE}/{HOSTILE}", language=HOSTILE, code=Code.JE, decided_by=HOSTILE, label=HOSTILE, label_ok=False, label_problems=(HOSTILE,),
        cases=(case,), groups=(GroupResult(name=HOSTILE, code=Code.JE, problems=(HOSTILE,)),), sensitive=(HOSTILE,), score=float("-inf"),
        built=Built(name=HOSTILE, code=Code.CE, cause=HOSTILE, output=HOSTILE),
    )  # fmt: skip
    absent = SubmissionResult(name=HOSTILE, language=HOSTILE, absent=HOSTILE)
    return package(submission, absent, problem=HOSTILE, problems=(HOSTILE,), warnings=(HOSTILE,), enforced=(HOSTILE,), time_limit_source=HOSTILE, repeat=2)


def test_table() -> None:
    text = render_table([package(ACCEPTED, WRONG, ABSENT, warnings=("a doubt",))])
    assert text == """\
hello (legacy)
SUBMISSION     VERDICT  DECIDED BY  SLOWEST  SCORE  LABEL
accepted/a.c   AC       -           0.100 s     60  ok (accepted)
accepted/b.py  RTE      secret/2    2.000 s      0  NOT OK (accepted)
accepted/d.kt  -        -                 -      -  not judged: Kotlin: `kotlinc` is not installed

accepted/b.py: label does not hold
  accepted: `secret/2` is RTE, permitted AC
  secret/2 RTE: signal 11 (SIGSEGV) (2.000 s CPU, 0.000 s wall, 5 MiB)
    also held: WA
    denied: ptrace x1, socket x3
    stderr:
      one
      two
  secret/1 WA: the answer is not the right one (0.000 s CPU, 0.000 s wall)
    validator: exit 43
    judge message: 1 != 2
  AC with a limit of 2.00 s

warning: a doubt
warning: `accepted/a.c` came near a limit at `secret/1` (cpu 980 ms of 1.00 s); its runs: AC 0.980 s, TLE 1.010 s

time limit 1 s, run up to 2 s: slowest accepted 0.1 s x 5
7 runs in 3.0 s, 2 at a time
1 of 2 labels hold; 1 not judged (absent: kotlin)
"""


def test_table_of_what_was_not_built_and_of_failed_packages() -> None:
    failed = FailedPackage(path="bad/", message="`problem.yaml` has no `name`", origin="bad/problem.yaml:3", hint="add one")
    text = render_table([failed, package(BROKEN)])
    assert "bad/: not judged\n  `problem.yaml` has no `name`\n  bad/problem.yaml:3\n  hint: add one\n\nhello (legacy)" in text
    assert "  CE: `gcc` ended with exit 1\n    compiler: c.c:1: error\n" in text


def test_table_with_every_case() -> None:
    text = render_table([package(ACCEPTED, WRONG)], verbose=True)
    assert "\n  sample/1 AC (0.010 s CPU, 0.000 s wall)\n" in text
    assert "\n  secret/3 not run: group `secret` stopped at `secret/2`: RTE\n  group secret: RTE\n" in text


def test_table_of_repeats() -> None:
    runs = tuple((Code.TLE if number == 4 else Code.AC, number * S // 10) for number in range(1, 5))
    each = SubmissionResult(name="a", code=Code.AC, cases=(CaseResult(case="x", code=Code.AC, cpu_ns=S // 10, reruns=runs),))
    text = render_table([package(each, repeat=5)])
    assert "  a: 0.100 / 0.200 / 0.380 / 0.400 s at x (p95/median 1.90)\n    x flips: AC x4, TLE x1\n" in text


def test_colours_are_only_added() -> None:
    packages = [package(ACCEPTED, WRONG, BROKEN, ABSENT, JUDGE_ERROR, problems=("p",), warnings=("w",), repeat=3)]
    painted = render_table(packages, coloured)
    assert painted != (text := render_table(packages)) and re.sub(r"\x1b\[[0-9]+m", "", painted) == text


def test_what_is_to_be_installed_is_told_once_for_a_language() -> None:
    absent = replace(ABSENT, built=Built(name="", language="kotlin", absent=ABSENT.absent, cause="apt install kotlin\x1b"))
    text = render_table([package(absent, replace(absent, name="accepted/e.kt"), ABSENT)])
    assert text.count("hint: ") == 1 and "\nhint: Kotlin: apt install kotlin\\x1b\n" in text


def test_a_terminal_gets_no_line_that_is_too_long() -> None:
    """Names give what they can spare in their middle, labels what the name says already, and other lines go on below."""
    long = replace(
        WRONG, name="accepted/a_solution_by_somebody_who_likes_long_names_above_all.cpp", decided_by="secret/group_of_the_large_ones/0001-random-large",
    )  # fmt: skip
    packages = [package(ACCEPTED, long, BROKEN, replace(ABSENT, absent="Kotlin: " + "not here " * 20), JUDGE_ERROR, warnings=("w " * 60,), repeat=3)]
    text = render_table(packages, width=80, verbose=True)
    assert max(map(len, text.split("\n"))) <= 80 < max(map(len, render_table(packages).split("\n")))
    rows = [line.split() for line in text.split("\n")[2:7]]
    assert rows[1][0].startswith("acce") and rows[1][0].endswith("above_all.cpp") and "..." in rows[1][0]
    assert rows[0][-1] == "ok" and rows[1][-2:] == ["NOT", "OK"], "the directory says which label"
    assert ("w " * 60).split() == text.partition("warning: ")[2].partition("warning: ")[0].split()
    painted = render_table(packages, coloured, width=80, verbose=True)
    assert painted != text == re.sub(r"\x1b\[[0-9]+m", "", painted)
    narrow = [package(ACCEPTED, WRONG)]
    assert render_table(narrow, width=200) == render_table(narrow), "nothing is done where all fits"


def test_a_row_is_a_line_on_sixty_columns() -> None:
    long = replace(WRONG, name="accepted/a_solution_by_somebody_who_likes_long_names_above_all.cpp", decided_by="secret/group_of_the_large_ones/0001")
    rows = render_table([package(ACCEPTED, long)], width=60).split("\n\n")[0].split("\n")
    assert len(rows) == 4 and max(map(len, rows)) <= 60, "title, head and two submissions"


def test_a_dialogue_is_escaped_once() -> None:
    lines = (str(Entry(at_ns=S, source="a", sink="b", size=900, head=b"pass 1\n\xff\\n")), "1.5 b has ended: exit 0")
    text = render_table([package(replace(JUDGE_ERROR, cases=(replace(JUDGE_ERROR.cases[0], transcript=lines),)))])
    assert r"    1.000000 a > b 900 B 'pass 1\n\xff\\n'..." in text and "    1.5 b has ended: exit 0" in text


@pytest.mark.parametrize("form", ["table", "narrow", "json", "junit"])
def test_no_report_gives_orders(form: str) -> None:
    failed = FailedPackage(path=HOSTILE, message=HOSTILE, origin=HOSTILE, hint=HOSTILE)
    render = {
        "table": lambda given: render_table(given, verbose=True), "narrow": lambda given: render_table(given, verbose=True, width=40),
        "json": render_json, "junit": render_junit,
    }[form]  # fmt: skip
    text = render([hostile(), failed])
    assert text.isascii() and all(line.isprintable() for line in text.split("\n"))
    assert "hint: run rm" in text and not any(line.startswith("hint: run rm") for line in text.split("\n"))


def test_a_live_line_gives_no_orders() -> None:
    for live in (False, True):
        stream = io.StringIO()
        display = Display(stream, live=live)
        display(Step(stage=Stage.JUDGE, submission=HOSTILE, case=HOSTILE, total=1, result=hostile().submissions[0]))
        display(Step(stage=Stage.LIMIT, text=HOSTILE))
        display.close()
        shown = stream.getvalue().replace("\r\x1b[K", "")
        assert shown and shown.isascii() and all(line.isprintable() for line in shown.split("\n"))


def test_display_of_steps() -> None:
    stream = io.StringIO()
    display = Display(stream)
    display(Step(stage=Stage.LIMIT, text="1.00 s: stated", total=2))
    display(Step(stage=Stage.JUDGE, submission="a", case="secret/1", total=2, runs=1))
    display(Step(stage=Stage.JUDGE, submission="a", result=ACCEPTED, total=2))
    display(Step(stage=Stage.JUDGE, submission="b", result=WRONG, total=2))
    display.close()
    assert stream.getvalue() == "time limit: 1.00 s: stated\n1/2 accepted/a.c: AC, label holds\n2/2 accepted/b.py: RTE, LABEL DOES NOT HOLD\n"
    assert [each.name for each in display.done] == ["accepted/a.c", "accepted/b.py"] and display.total == 2
    silent = Display(None)
    silent(Step(stage=Stage.JUDGE, submission="a", result=ACCEPTED, total=2))
    assert silent.done == [ACCEPTED]


def test_json_is_as_its_schema_says() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    failed = FailedPackage(path="bad", message="no")
    found = to_dict([package(ACCEPTED, WRONG, BROKEN, ABSENT, JUDGE_ERROR), package(ACCEPTED, repeat=2), hostile(), failed])
    jsonschema.validate(found, SCHEMA)
    assert json.loads(render_json([package(WRONG)]))["packages"][0]["submissions"][0]["cases"][1]["denials"] == {"ptrace": 1, "socket": 3}
    cases: Any = to_dict([package(WRONG)])
    assert cases["packages"][0]["submissions"][0]["cases"][2] == {
        "case": "secret/3", "verdict": None, "skipped": "group `secret` stopped at `secret/2`: RTE",
    }  # fmt: skip


def test_the_schema_can_refuse() -> None:
    for where in ("packages", 0), ("packages", 0, "submissions", 0), ("packages", 0, "submissions", 0, "cases", 1):
        found: Any = to_dict([package(ACCEPTED)])
        node = found
        for step in where:
            node = node[step]
        node["surprise"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found, SCHEMA)


def test_junit() -> None:
    document = render_junit([package(ACCEPTED, WRONG, BROKEN, ABSENT, JUDGE_ERROR, warnings=("w",)), FailedPackage(path="bad", message="no")])
    root = ElementTree.fromstring(document)
    assert root.attrib == {"name": "sandbox judge", "tests": "7", "failures": "2", "errors": "2", "skipped": "1"}
    assert root[0].attrib == {"name": "hello", "time": "3.000", "tests": "6", "failures": "2", "errors": "1", "skipped": "1"}
    kinds = {test.get("name"): [child.tag for child in test] for test in root[0]}
    assert kinds == {
        "package": ["system-out"],
        "accepted/a.c": ["system-out"],
        "accepted/b.py": ["failure", "system-out"],
        "wrong_answer/c.c": ["failure", "system-out"],
        "accepted/d.kt": ["skipped"],
        "accepted/e.c": ["error", "system-out"],
    }
    failure = root[0].find("testcase[@name='accepted/b.py']/failure")
    assert failure is not None and failure.get("type") == "RTE" and "secret/2 RTE: signal 11 (SIGSEGV)" in (failure.text or "")
    assert root[0][1].get("classname") == "hello.accepted"


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ((package(ACCEPTED),), 0),
        ((package(ACCEPTED, ABSENT),), 0),
        ((package(ACCEPTED, WRONG),), 1),
        ((package(ACCEPTED), package(BROKEN)), 1),
        ((package(JUDGE_ERROR),), 2),
        ((package(ACCEPTED, problems=("p",)),), 2),
        ((FailedPackage(path="a", message="b"), package(ACCEPTED)), 2),
        ((package(WRONG), package(JUDGE_ERROR)), 2),
    ],
)
def test_exit_code(packages: tuple[PackageResult | FailedPackage, ...], expected: int) -> None:
    assert exit_code(packages) == expected == to_dict(packages)["exit"]
