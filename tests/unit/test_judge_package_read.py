"""What is read of packages that are right, in every format, and what is said of those that are doubtful."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.judge.package.read import read_package
from sandbox.judge.problem import Case, Expectation, Format, Group, Problem, Submission, cases_of, groups_of
from tests.unit.judge_packages import LEGACY, NEW, NEW_SCORING, SCORING, Files, Link, make_package

HEAD = "problem_format_version: 2025-09\nname: Sum\nuuid: 5ca6ba5b\n"


def read(tmp_path: Path, files: Files) -> Problem:
    return read_package(make_package(tmp_path, files))


def case(problem: Problem, name: str) -> Case:
    return next(each for each in cases_of(problem.data) if each.name == name)


def group(problem: Problem, name: str) -> Group:
    return next(each for each in groups_of(problem.data) if each.name == name)


def submission(problem: Problem, name: str) -> Submission:
    return next(each for each in problem.submissions if each.name == name)


def doubts(problem: Problem) -> list[str]:
    return [each.replace(problem.root, "~") for each in problem.warnings]


# ---- problem.yaml ------------------------------------------------------------------------------------------------


def test_legacy_limits_and_their_defaults(tmp_path: Path) -> None:
    limits = read(tmp_path, LEGACY).limits
    assert (limits.time_ns, limits.ac_to_limit, limits.limit_to_tle, limits.resolution_ns) == (None, 5.0, 2.0, 10**9)
    assert (limits.memory_bytes, limits.output_bytes, limits.code_bytes, limits.validation_passes) == (2048 << 20, 8 << 20, 128 << 10, 1)
    text = "limits: {time_multiplier: 2., time_safety_margin: 4, memory: 512, output: 1, code: 3, compilation_time: 1.5, validation_memory: 7}\n"
    limits = read(tmp_path / "b", {**LEGACY, "problem.yaml": text}).limits
    assert (limits.ac_to_limit, limits.limit_to_tle, limits.memory_bytes, limits.output_bytes) == (2.0, 4.0, 512 << 20, 1 << 20)
    assert (limits.code_bytes, limits.compilation_time_ns, limits.validation_memory_bytes) == (3 << 10, 1_500_000_000, 7 << 20)


def test_new_limits_and_their_defaults(tmp_path: Path) -> None:
    limits = read(tmp_path, NEW).limits
    assert (limits.time_ns, limits.ac_to_limit, limits.limit_to_tle, limits.validation_passes) == (None, 2.0, 1.5, 1)
    text = HEAD + "type: multi-pass\nlimits:\n  time_limit: 0.75\n  time_resolution: 0.25\n  time_multipliers: {ac_to_time_limit: 3, time_limit_to_tle: 4}\n"
    limits = read(tmp_path / "b", {**NEW, "problem.yaml": text, "output_validator/v.py": ""}).limits
    assert (limits.time_ns, limits.resolution_ns, limits.ac_to_limit, limits.limit_to_tle) == (750_000_000, 250_000_000, 3.0, 4.0)
    assert limits.validation_passes == 2


@pytest.mark.parametrize(
    ("version", "found"),
    [("legacy", Format.LEGACY), ("legacy-icpc", Format.LEGACY_ICPC), ("2025-09", Format.V2025_09), ("2023-07-draft", Format.V2025_09)],
)
def test_formats(version: str, found: Format, tmp_path: Path) -> None:
    name = "name: {en: Sum, sv: Summa}\nuuid: x\n" if found is Format.V2025_09 else "name: Sum\n"
    problem = read(tmp_path, {**LEGACY, "problem.yaml": f"problem_format_version: {version}\n{name}"})
    assert (problem.format, problem.title, problem.name) == (found, "Sum", "sum")
    assert bool(doubts(problem)) == ("draft" in version)


def test_kinds_of_problems(tmp_path: Path) -> None:
    text = "type: scoring\nvalidation: custom score interactive multi-pass\nvalidator_flags: a 'b c'\ngrading: {objective: min}\n"
    files = {**LEGACY, "problem.yaml": text, "output_validators/v.py": "", "output_validators/w/w.cc": "", "output_validators/README.md": ""}
    problem = read(tmp_path, files)
    assert (problem.scoring, problem.interactive, problem.multi_pass, problem.custom_output, problem.custom_score) == (True,) * 5
    assert not problem.maximise
    assert [each.name for each in problem.output_validators] == ["v.py", "w"]
    assert case(problem, "secret/01").output_validator_flags == ("a", "b c")
    text = HEAD + "type: [interactive, scoring]\nlanguages: [cpp, python3]\nallow_file_writing: true\n"
    problem = read(tmp_path / "b", {**NEW, "problem.yaml": text, "output_validator/v.cc": "x", "output_validator/v.h": "y"})
    assert (problem.scoring, problem.interactive, problem.multi_pass) == (True, True, False)
    assert (problem.languages, problem.allow_file_writing) == (("cpp", "python3"), True)
    assert problem.output_validators[0].files == {"v.cc": b"x", "v.h": b"y"}


def test_what_is_named_almost_right_is_told(tmp_path: Path) -> None:
    misnamed = doubts(read(tmp_path, {**LEGACY, "data/secret/testdata.yml": "on_reject: break\n", "data/secret/test_group.yml": ""}))
    assert misnamed == [
        "~/data/secret/test_group.yml: is not read: the name is `test_group.yaml`", "~/data/secret/testdata.yml: is not read: the name is `testdata.yaml`",
    ]  # fmt: skip


def test_doubts_come_in_the_order_of_cases(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(20)]
    found = doubts(read(tmp_path, {**LEGACY, **{f"data/secret/x/{name}.in": "" for name in names}}))
    assert [each for each in found if "no answer" in each] == [f"~/data/secret/x/{name}.in: has no answer; it is no case" for name in names]


@pytest.mark.parametrize(("most", "told"), [(60, False), (70, True)])
def test_groups_that_earn_more_than_there_is_are_told(tmp_path: Path, most: int, told: bool) -> None:
    found = doubts(read(tmp_path, {**NEW_SCORING, "data/secret/g2/test_group.yaml": f"max_score: {most}\n"}))
    text = "~/data/secret: groups can earn 110 together, and `max_score` of `secret` is 100: more than that is an error of the judge"
    assert found == ([text] if told else [])


def test_constants_are_filled_into_programs_and_groups_only(tmp_path: Path) -> None:
    text = HEAD + "constants:\n  N: 5\n  BIG: {value: 1e6, tex: ten}\n  S: '{{N}}'\nsource: '{{N}}'\n"
    files: Files = {
        **NEW,
        "problem.yaml": text,
        "submissions/accepted/a.py": "{{N}} {{ N }} {{BIG.tex}} {{BIG}} {{no}} {{S}}",
        "submissions/accepted/b.bin": b"\xff{{N}}",
        "include/cpp/h.h": "{{BIG.value}}",
        "input_validators/v.py": "{{N}}",
        "data/secret/test_group.yaml": "args: ['{{N}}']\n",
        "data/secret/01.in": "{{N}}",
    }
    problem = read(tmp_path, files)
    assert submission(problem, "accepted/a.py").files["a.py"] == b"5 {{ N }} ten 1e6 {{no}} {{N}}"
    assert submission(problem, "accepted/b.bin").files["b.bin"] == b"\xff{{N}}"
    assert problem.include["cpp"]["h.h"] == b"1e6"
    text = "constants are filled in, as the format says; BAPCtools leaves submissions as they are"
    assert doubts(problem) == [f"~/submissions/accepted/a.py: {text}"]
    assert problem.input_validators[0].files["v.py"] == b"5"
    assert case(problem, "secret/01").args == ("5",)
    assert Path(case(problem, "secret/01").input).read_text() == "{{N}}"


def test_anchors_and_merges_are_read_as_yaml_has_them(tmp_path: Path) -> None:
    text = "limits: &l\n  memory: &m 64\n  output: *m\ngrading:\n  <<: {objective: min}\n  objective: max\ntype: scoring\n"
    problem = read(tmp_path, {**LEGACY, "problem.yaml": text})
    assert (problem.limits.output_bytes, problem.maximise) == (64 << 20, True)


@pytest.mark.parametrize(("file", "text"), [(".timelimit", "2.5\n"), ("domjudge-problem.ini", "name = x\ntimelimit='2.5'\n")])
def test_time_limits_of_other_tools(file: str, text: str, tmp_path: Path) -> None:
    problem = read(tmp_path, {**LEGACY, file: text})
    assert problem.limits.time_ns == 2_500_000_000
    assert doubts(problem) == [f"~/{file}: states the time limit, 2.5 s; `limits.time_limit` is the place for it"]
    problem = read(tmp_path / "b", {**NEW, "problem.yaml": HEAD + "limits: {time_limit: 3}\n", file: text})
    assert problem.limits.time_ns == 3_000_000_000
    assert doubts(problem) == [f"~/{file}: is not read: `problem.yaml` states a time limit"]


# ---- test data ---------------------------------------------------------------------------------------------------


def test_legacy_groups_inherit(tmp_path: Path) -> None:
    files = {
        **SCORING,
        "data/secret/testdata.yaml": "on_reject: continue\ngrader_flags: avg\noutput_validator_flags: float_tolerance 1e-4\naccept_score: 7\n",
        "data/secret/g1/testdata.yaml": "accept_score: 9\ninput_validator_flags: n=1\n",
        "data/secret/g2/testdata.yaml": "input_validator_flags: {name: v.py, flags: n=2}\n",
        "data/secret/g1/deep/x.in": "",
        "data/secret/g1/deep/x.ans": "",
    }
    problem = read(tmp_path, files)
    assert [each.name for each in groups_of(problem.data)] == ["", "sample", "secret", "secret/g1", "secret/g1/deep", "secret/g2"]
    deep, first = group(problem, "secret/g1/deep").grading, group(problem, "secret/g1")
    assert (deep.accept_score, deep.on_reject_break, deep.flags, deep.scoring, deep.aggregation) == (9.0, False, ("avg",), True, "")
    assert (deep.minimum, deep.maximum) == (0.0, 100.0)
    assert [each.name for each in first.children] == ["secret/g1/a", "secret/g1/b", "secret/g1/deep"]
    assert case(problem, "secret/g1/deep/x").input_validator_flags == ("n=1",)
    assert case(problem, "secret/g1/a").output_validator_flags == ("float_tolerance", "1e-4")
    assert case(problem, "secret/g2/a").input_validator_flags_for == {"v.py": ("n=2",)}
    assert group(problem, "").grading.flags == ("ignore_sample",)
    assert problem.score_range == (0.0, 100.0)


def test_ignore_sample_is_for_the_root_alone(tmp_path: Path) -> None:
    problem = read(tmp_path, {**SCORING, "data/secret/testdata.yaml": "grader_flags: max ignore_sample\n", "data/sample/testdata.yaml": None})
    assert (group(problem, "sample").grading.flags, group(problem, "secret").grading.flags) == ((), ("max",))
    assert doubts(problem) == ["~/data/secret/testdata.yaml:1: `ignore_sample` is for the root of the test data; it is not read"]


def test_cases_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["sample/2", "sample/10", "secret/1-a", "secret/1", "secret/10", "secret/B", "secret/a"]
    data: Files = {f"data/{name}.{ending}": "x" for name in names for ending in ("in", "ans")}
    problem = read(tmp_path, {"problem.yaml": "name: a\n", "submissions/accepted/a.py": "", **data})
    assert [each.name for each in cases_of(problem.data)] == [
        "sample/10", "sample/2", "secret/1", "secret/1-a", "secret/10", "secret/B", "secret/a",
    ]  # fmt: skip
    assert [each.sample for each in cases_of(problem.data)] == [True] * 2 + [False] * 5


def test_new_groups(tmp_path: Path) -> None:
    files = {
        **NEW_SCORING,
        "data/secret/test_group.yaml": "output_validator_args: [case_sensitive]\n",
        "data/secret/g1/sub/x.in": "",
        "data/secret/g1/sub/x.ans": "",
        "data/secret/g1/sub/x.yaml": "args: [-n, '1']\ninput_validator_args: [k]\nfull_feedback: true\n",
        "data/secret/g1/a.files/f.txt": "hello",
    }
    problem = read(tmp_path, files)
    assert [each.name for each in groups_of(problem.data)] == ["", "sample", "secret", "secret/g1", "secret/g2"]
    secret, first, second = (group(problem, name).grading for name in ("secret", "secret/g1", "secret/g2"))
    assert (secret.aggregation, secret.max_score, problem.score_range) == ("sum", 100.0, (0.0, 100.0))
    assert (first.aggregation, first.max_score, first.require_pass) == ("pass-fail", 40.0, ())
    assert (second.aggregation, second.max_score, second.require_pass) == ("min", 60.0, ("sample", "secret/g1"))
    inner = case(problem, "secret/g1/sub/x")
    assert (inner.args, inner.input_validator_flags, inner.output_validator_flags, inner.full_feedback) == (
        ("-n", "1"), ("k", "-n", "1"), ("case_sensitive",), True,
    )  # fmt: skip
    assert case(problem, "secret/g1/a").files == f"{problem.root}/data/secret/g1/a.files"
    assert (case(problem, "sample/1").full_feedback, case(problem, "secret/g1/a").full_feedback) == (True, False)


def test_flat_secret_has_the_default_of_a_hundred_points(tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW, "problem.yaml": HEAD + "type: scoring\n"})
    assert (group(problem, "secret").grading.aggregation, group(problem, "secret").grading.max_score) == ("sum", 100.0)


def test_drafts_with_testdata_yaml_are_graded_the_legacy_way(tmp_path: Path) -> None:
    text = "problem_format_version: 2023-07-draft\ntype: scoring\nname: a\nuuid: x\n"
    problem = read(tmp_path, {**SCORING, "problem.yaml": text})
    assert problem.format is Format.V2025_09
    assert (group(problem, "").grading.flags, group(problem, "secret/g1").grading.aggregation) == (("ignore_sample",), "")
    assert doubts(problem) == [
        "~/problem.yaml:1: format `2023-07-draft` is read as `2025-09`",
        "~/data: groups are read from `testdata.yaml`, as in the legacy format and drafts of this one",
    ]


def test_validation_cases(tmp_path: Path) -> None:
    files = {
        **NEW,
        "data/invalid_input/test_group.yaml": "input_validator_args: {v.py: [q]}\n",
        "data/invalid_input/a.in": "",
        "data/valid_output/b.in": "",
        "data/valid_output/b.ans": "",
        "data/valid_output/b.out": "",
        "data/valid_output/b.yaml": "output_validator_args: [case_sensitive]\n",
    }
    problem = read(tmp_path, files)
    assert sorted(problem.invalid) == ["invalid_input", "valid_output"]
    (one,), (other,) = problem.invalid["invalid_input"], problem.invalid["valid_output"]
    assert (one.answer, one.input_validator_flags_for) == ("", {"v.py": ("q",)})
    assert (other.output, other.output_validator_flags) == (f"{problem.root}/data/valid_output/b.out", ("case_sensitive",))
    assert "invalid_input/a" not in [each.name for each in cases_of(problem.data)]


# ---- labels ------------------------------------------------------------------------------------------------------


def test_legacy_directories(tmp_path: Path) -> None:
    names = ["accepted", "partially_accepted", "wrong_answer", "time_limit_exceeded", "run_time_error", "slow", "mixed"]
    problem = read(tmp_path, {**SCORING, **{f"submissions/{name}/x.py": "" for name in names}})
    wanted: dict[str, tuple[Expectation, ...]] = {each.name: each.expectations for each in problem.submissions}
    words = {name: [(each.permitted, each.required, each.final, each.partial, each.use_for_time_limit) for each in found] for name, found in wanted.items()}
    assert words == {
        "accepted/a.py": [({"AC"}, None, None, False, "lower")],
        "accepted/x.py": [({"AC"}, None, None, False, "lower")],
        "partially_accepted/x.py": [(None, None, {"AC"}, True, "")],
        "wrong_answer/x.py": [({"AC", "WA"}, {"WA"}, None, False, "")],
        "time_limit_exceeded/x.py": [({"AC", "WA", "TLE"}, {"TLE"}, None, False, "upper")],
        "run_time_error/x.py": [(None, {"RTE"}, None, False, "")],
        "slow/x.py": [],
        "mixed/x.py": [],
    }
    assert doubts(problem) == ["~/submissions/slow: is no directory that has a meaning: its submissions have no label"]


def test_new_directories(tmp_path: Path) -> None:
    names = ["rejected", "wrong_answer", "time_limit_exceeded", "run_time_error", "brute_force"]
    problem = read(tmp_path, {**NEW, **{f"submissions/{name}/x.py": "" for name in names}})
    words = {each.name: [(one.permitted, one.required, one.use_for_time_limit) for one in each.expectations] for each in problem.submissions}
    assert words == {
        "accepted/a.py": [({"AC"}, None, "lower")],
        "brute_force/x.py": [({"AC", "RTE", "TLE"}, {"RTE", "TLE"}, "")],
        "rejected/x.py": [({"AC", "WA", "TLE", "RTE"}, {"WA", "TLE", "RTE"}, "")],
        "run_time_error/x.py": [({"AC", "RTE"}, {"RTE"}, "lower")],
        "time_limit_exceeded/x.py": [({"AC", "TLE"}, {"TLE"}, "upper")],
        "wrong_answer/x.py": [({"AC", "WA"}, {"WA"}, "lower")],
    }


def test_submissions_yaml(tmp_path: Path) -> None:
    text = """
wrong_answer/:
  required: [AC]
accepted/*.py:
  language: python3
  entrypoint: a.py
  authors: Bob
  model_solution: true
  message: fine
  secret/*{1, 2 }:
    permitted: AC
    use_for_time_limit: false
  sample:
    use_for_time_limit: lower
tle:
  use_for_time_limit: upper
nobody:
  permitted: [WA]
"""
    files = {**NEW, "submissions/submissions.yaml": text, "submissions/wrong_answer/w.py": "", "submissions/tle/t.py": ""}
    problem = read(tmp_path, files)
    found = submission(problem, "accepted/a.py")
    assert (found.language, found.entrypoint) == ("python3", "a.py")
    assert [(each.source, each.cases, each.permitted, each.message, each.use_for_time_limit) for each in found.expectations] == [
        ("accepted", "", {"AC"}, "", "lower"),
        ("submissions.yaml:4", "", None, "fine", ""),
        ("submissions.yaml:10", "secret/*{1, 2 }", {"AC"}, "", ""),
        ("submissions.yaml:13", "sample", {"AC", "WA", "RTE"}, "", "lower"),
    ]
    wrong = submission(problem, "wrong_answer/w.py").expectations
    assert [(each.permitted, each.required, each.source) for each in wrong] == [({"AC", "WA"}, {"AC"}, "submissions.yaml:2")]
    late = submission(problem, "tle/t.py").expectations
    assert [(each.required, each.use_for_time_limit) for each in late] == [({"TLE"}, "upper")]
    assert doubts(problem) == ["~/submissions/submissions.yaml:17: `nobody` matches no submission"]


@pytest.mark.parametrize(
    ("directory", "tag", "final", "score"),
    [
        ("mixed", b"@EXPECTED_RESULTS@: WRONG-ANSWER, TIMELIMIT\n", {"WA", "TLE"}, None),
        ("mixed", b"/* @expected_results@: run_time_error */", {"RTE"}, None),
        ("mixed", b"@EXPECTED_RESULTS@: COMPILER-ERROR,NO-OUTPUT", {"CE", "WA"}, None),
        ("mixed", b"@EXPECTED_SCORE@: 42.5\n", None, (42.5, 42.5)),
        ("rejected", b"@EXPECTED_RESULTS@: OUTPUT-LIMIT\r\n", {"OLE"}, None),
        ("mixed", b"@EXPECTED_RESULTS@: CHECK-MANUALLY\n@EXPECTED_SCORE@: 1\n", None, (1.0, 1.0)),
    ],
)
def test_tags_in_sources(directory: str, tag: bytes, final: set[str] | None, score: tuple[float, float] | None, tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW, f"submissions/{directory}/x.c": b"// " + tag})
    expectation = submission(problem, f"{directory}/x.c").expectations[-1]
    assert (expectation.final, expectation.score, expectation.source) == (final, score, "tag in the source")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (b"@EXPECTED_RESULTS@: CORRECT\n@EXPECTED_RESULTS@: CORRECT\n", "has several tags of expected results; none counts"),
        (b"@EXPECTED_RESULTS@: GREAT\n", "tag of expected results has `GREAT`, which is none"),
    ],
)
def test_doubtful_tags_count_for_nothing(tags: bytes, message: str, tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW, "submissions/mixed/x.c": tags})
    assert submission(problem, "mixed/x.c").expectations == ()
    assert doubts(problem) == [f"~/submissions/mixed/x.c: {message}"]


def test_a_tag_does_not_weaken_a_directory(tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW, "submissions/wrong_answer/x.c": "@EXPECTED_RESULTS@: CORRECT\n"})
    assert [each.source for each in submission(problem, "wrong_answer/x.c").expectations] == ["wrong_answer"]
    assert doubts(problem) == ["~/submissions/wrong_answer/x.c: tag of expected results does not count in `wrong_answer`"]


def test_what_is_no_program_is_not_judged(tmp_path: Path) -> None:
    names = ["README", "notes.md", "x.py.disabled", "d.disabled/x.py", "y.template"]
    problem = read(tmp_path, {**NEW, **{f"submissions/accepted/{name}": "" for name in names}})
    assert [each.name for each in problem.submissions] == ["accepted/a.py"]
    assert doubts(problem) == [f"~/submissions/accepted/{name.partition('/')[0]}: is no program; it is not judged" for name in sorted(names)]


def test_entry_points_of_domjudge(tmp_path: Path) -> None:
    text = '{"submissions/accepted/a.py": {"langid": "python3", "entry_point": "a.py"}, "submissions/accepted/d/": {"entry_point": "x.py"}}'
    problem = read(tmp_path, {**LEGACY, "submissions.json": text, "submissions/accepted/d/x.py": ""})
    assert [(each.language, each.entrypoint) for each in problem.submissions] == [("python3", "a.py"), ("", "x.py")]


def test_directories_of_domjudge(tmp_path: Path) -> None:
    text = "validation: custom multi-pass\n"
    problem = read(tmp_path, {**LEGACY, "problem.yaml": text, "output_validator/v.py": "", "submissions/output_limit/x.py": "", "submissions/mixed/x.py": ""})
    assert [each.name for each in problem.output_validators] == ["v.py"]
    assert doubts(problem) == ["~/output_validator: in this format output validators are in `output_validators`"]
    assert [each.final for each in submission(problem, "output_limit/x.py").expectations] == [{"OLE"}]


def test_keys_of_another_format_that_say_nothing(tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW, "problem.yaml": HEAD + "source_url: x\nauthor: y\n"})
    assert doubts(problem) == ["~/problem.yaml:5: `author` is a key of another format", "~/problem.yaml:4: `source_url` is a key of another format"]


def test_links_of_a_legacy_case_that_lead_nowhere_make_it_none(tmp_path: Path) -> None:
    problem = read(tmp_path, {**LEGACY, "data/secret/02.in": Link("x"), "data/secret/02.ans": "", "data/secret/03.in": "", "data/secret/03.ans": Link("x")})
    assert [each.name for each in cases_of(problem.data)] == ["sample/1", "secret/01"]
    assert doubts(problem) == [
        "~/data/secret/02.in: link leads nowhere; it is not read",
        "~/data/secret/03.ans: link leads nowhere; it is not read",
        "~/data/secret/03.in: has no answer; it is no case",
    ]


# ---- programs ----------------------------------------------------------------------------------------------------


def test_programs_and_what_lies_beside_them(tmp_path: Path) -> None:
    files = {
        **LEGACY,
        "input_validators/a.cpp": "a",
        "input_validators/lib.h": "h",
        "input_validators/b/b.py": "b",
        "input_validators/b/__pycache__/b.pyc": "",
        "input_validators/c.ctd": "",
        "input_validators/notes.md": "",
        "input_validators/data.xyz": "",
        "submissions/accepted/d/x/y.c": "y",
        "submissions/accepted/d/.hidden": "",
        "submissions/accepted/__pycache__/a.pyc": "",
    }
    problem = read(tmp_path, files)
    found = {each.name: dict(each.files) for each in problem.input_validators}
    assert found == {
        "a.cpp": {"a.cpp": b"a", "lib.h": b"h"},
        "b": {"b.py": b"b"},
        "c.ctd": {"c.ctd": b"", "lib.h": b"h"},
        "v.py": {"lib.h": b"h", "v.py": LEGACY["input_validators/v.py"].encode()},  # type: ignore[union-attr]
    }
    assert submission(problem, "accepted/d").files == {"x/y.c": b"y"}
    assert doubts(problem) == [
        "~/input_validators/data.xyz: is no program in a language of the package format; it is not run",
    ]


def test_scripts_that_check_inputs_check_nothing_else(tmp_path: Path) -> None:
    problem = read(tmp_path, {**LEGACY, "problem.yaml": "validation: custom\n", "output_validators/v.py": "", "output_validators/v.viva": ""})
    assert [each.name for each in problem.output_validators] == ["v.py"]
    assert doubts(problem) == ["~/output_validators/v.viva: scripts of Checktestdata and VIVA check inputs and nothing else; it is not run"]


def test_answers_are_submissions_where_the_problem_wants_them(tmp_path: Path) -> None:
    files = {
        **NEW,
        "problem.yaml": f"{NEW['problem.yaml']}type: submit-answer\n",
        "submissions/accepted/whole/01.out": "1",
        "submissions/accepted/one.txt": "1",
        "submissions/accepted/README.md": "",
    }
    problem = read(tmp_path, files)
    assert problem.submit_answer and {"accepted/whole", "accepted/one.txt"} < {each.name for each in problem.submissions}
    assert "~/submissions/accepted/README.md: is no program; it is not judged" in doubts(problem)
    # The control: elsewhere a text is a document.
    assert "accepted/one.txt" not in {each.name for each in read(tmp_path / "b", {**files, "problem.yaml": NEW["problem.yaml"]}).submissions}


def test_scripts_make_one_program(tmp_path: Path) -> None:
    files = {**LEGACY, "output_validators/v/build": "#!/bin/sh\n", "output_validators/v/x.c": "", "problem.yaml": "validation: custom\n"}
    (validator,) = read(tmp_path, files).output_validators
    assert (validator.name, sorted(validator.files), validator.executable) == ("v", ["build", "x.c"], {"build"})
    files = {**NEW, "output_validator/run": "#!/bin/sh\n", "output_validator/x.c": ""}
    (validator,) = read(tmp_path / "b", files).output_validators
    assert (validator.name, sorted(validator.files), validator.executable) == ("output_validator", ["run", "x.c"], {"run"})


def test_validators_of_another_format_are_said(tmp_path: Path) -> None:
    problem = read(tmp_path, {**LEGACY, "output_validator/v.py": "", "output_validators/w.py": ""})
    assert problem.output_validators == ()
    assert doubts(problem) == [
        "~/output_validator: in this format output validators are in `output_validators`",
        "~/output_validators: is not used: `validation` is `default`",
    ]


def test_grader(tmp_path: Path) -> None:
    problem = read(tmp_path, {**SCORING, "graders/g.py": "", "data/testdata.yaml": "grading: custom\ngrader_flags: a b\n"})
    assert problem.grader is not None and problem.grader.name == "g.py"
    assert (group(problem, "").grading.custom, group(problem, "").grading.flags) == (True, ("a", "b"))


# ---- what real packages have ------------------------------------------------------------------------------------------


def test_test_data_shared_by_links(tmp_path: Path) -> None:
    files = {**LEGACY, "data/secret/g2/x.in": Link("../../sample/1.in"), "data/secret/g2/x.ans": Link("../../sample/1.ans"), "data/secret/g3": Link("g2")}
    problem = read(tmp_path, files)
    assert case(problem, "secret/g2/x").input == f"{problem.root}/data/sample/1.in"
    assert case(problem, "secret/g3/x").input == f"{problem.root}/data/sample/1.in"


def test_names_that_no_package_may_have_are_left_out(tmp_path: Path) -> None:
    problem = read(tmp_path, {**LEGACY, "data/secret/a b.in": "", "data/secret/.x.in": "", "data/secret/é.in": "", ".git/config": ""})
    assert [each.name for each in cases_of(problem.data)] == ["sample/1", "secret/01"]
    assert sorted(doubts(problem)) == [
        "~/data/secret: `a b.in` is not read: names are of letters, digits, `_`, `.` and `-`",
        "~/data/secret: `é.in` is not read: names are of letters, digits, `_`, `.` and `-`",
    ]


def test_links_out_of_a_program_are_left_out_unless_the_caller_follows(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "v.h").write_text("shared")
    files = {**LEGACY, "input_validators/w/w.cc": "w", "input_validators/w/v.h": Link("../../../shared/v.h")}
    root = make_package(tmp_path, files)
    problem = read_package(root)
    assert {name for each in problem.input_validators for name in each.files} == {"v.py", "w.cc"}
    assert doubts(problem) == ["~/input_validators/w/v.h: link leads out of the package; it is not read"]
    assert {each.name: each.left_out for each in problem.input_validators} == {"v.py": (), "w": (f"{root}/input_validators/w/v.h",)}
    problem = read_package(root, follow=[str(shared)])
    assert {each.name: each.files.get("v.h") for each in problem.input_validators} == {"v.py": None, "w": b"shared"}
    assert doubts(problem) == [] and not any(each.left_out for each in problem.input_validators)


def test_options_of_a_directory_within_a_group(tmp_path: Path) -> None:
    """BAPCtools writes them; where nothing has a score they can only be options."""
    files = {**NEW, "data/secret/g/h/01.in": "1 2\n", "data/secret/g/h/01.ans": "3\n", "data/secret/test_group.yaml": "args: [a]\n"}
    problem = read(tmp_path, {**files, "data/secret/g/h/test_group.yaml": "args: [b]\n"})
    assert {name: case(problem, name).args for name in ("secret/01", "secret/g/h/01")} == {"secret/01": ("a",), "secret/g/h/01": ("b",)}
    assert doubts(problem) == ["~/data/secret/g/h/test_group.yaml: groups have no groups in them; only its options are read, for the cases below"]


GENERATORS = "solution: /submissions/accepted/a.py\ntest_group.yaml:\n  output_validator_args:\n    - case_sensitive\ndata: {}\n"
NOT_MADE = "~/generators/generators.yaml:3: gives the output validator `output_validator_args`, which no file of `data` does: what it makes has not been made"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generators/generators.yaml": GENERATORS}, [NOT_MADE]),
        ({"generators/generators.yaml": GENERATORS, "data/secret/test_group.yaml": "output_validator_args: [case_sensitive]\n"}, []),
        ({"generators/generators.yaml": GENERATORS, "data/secret/01.yaml": "output_validator_args: [case_sensitive]\n"}, []),
        ({"generators/generators.yaml": "data: {}\n# output_validator_args: [a]\n"}, []),
        ({"generators/generators.yaml": "data: {x: {output_validator_args: ["}, []),
        (
            {"generators/generators.yaml": GENERATORS, "data/secret/01.in": None, "data/secret/01.ans": None},
            ["~/data/secret: package has no secret test data; `generators/generators.yaml` makes it", NOT_MADE],
        ),
        ({"data/secret/01.in": None, "data/secret/01.ans": None}, ["~/data/secret: package has no secret test data"]),
    ],
    ids=["not made", "made", "made for a case", "a comment", "no YAML", "no secret data either", "no generators"],
)
def test_flags_that_only_the_generators_have(change: Files, said: list[str], tmp_path: Path) -> None:
    """A checkout whose test data is generated has no flags for its validator before that, which then refuses to judge."""
    assert doubts(read(tmp_path, {**NEW, **change})) == said


def test_digest_is_of_what_counts(tmp_path: Path) -> None:
    base = read(tmp_path / "1", NEW).digest
    assert len(base) == 64
    assert read(tmp_path / "2", {**NEW, "README.md": "x", ".git/x": "y"}).digest == base
    for number, change in enumerate(
        ({"problem.yaml": HEAD}, {"data/secret/01.in": "longer\n"}, {"submissions/accepted/a.py": "pass"}, {"data/secret/test_group.yaml": "args: [a]"})
    ):
        assert read(tmp_path / f"c{number}", {**NEW, **change}).digest != base, change


def test_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    """The order of a set is another in each."""
    package = make_package(tmp_path, {**LEGACY, "submissions/time_limit_exceeded/b.py": "", "submissions/wrong_answer/c.py": ""})
    program = "import sys; from sandbox.judge.package.read import read_package; print(read_package(sys.argv[1]).digest)"
    found = {
        subprocess.run([sys.executable, "-c", program, package], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        for seed in "12345"
    }
    assert len(found) == 1


def test_blank_lines_of_another_tools_file_take_no_time(tmp_path: Path) -> None:
    """Each of them was looked at once for each before it, which are billions."""
    began = time.process_time()
    assert read(tmp_path, {**LEGACY, "domjudge-problem.ini": "\n" * (1 << 16)}).limits.time_ns is None
    assert time.process_time() - began < 5


def test_unbounded_scores(tmp_path: Path) -> None:
    problem = read(tmp_path, {**NEW_SCORING, "data/secret/test_group.yaml": "max_score: unbounded\n"})
    assert problem.score_range == (0.0, math.inf)
