"""Every way to get a problem package wrong that we could think of, with the whole message: words, place, and what to do."""

# ruff: noqa: E501  -- one line for each message
from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.judge.errors import PackageError
from sandbox.judge.package.read import read_package
from tests.unit.judge_packages import LEGACY, NEW, NEW_SCORING, SCORING, Files, Link, make_package

HEAD = "problem_format_version: 2025-09\nname: Sum\nuuid: 5ca6ba5b\n"
KNOWN = "known are `legacy`, `legacy-icpc`, `2025-09`, `2025-09-draft`, `2023-07`, `2023-07-draft`, `draft`"


def legacy(text: str) -> Files:
    return {**LEGACY, "problem.yaml": text}


def new(text: str) -> Files:
    return {**NEW, "problem.yaml": HEAD + text}


def group(text: str, base: Files = NEW_SCORING) -> Files:
    return {**base, "data/secret/g1/test_group.yaml": text}


def labels(text: str, base: Files = NEW) -> Files:
    return {**base, "submissions/submissions.yaml": text}


# What is wrong, the package and the whole error; ~ is the package's path.
BAD: list[tuple[str, Files, str]] = [
    # YAML
    ("no YAML", legacy("name: [\n"), "read YAML: expected the node content, but found '<stream end>'\n  ~/problem.yaml:2"),
    ("tab", legacy("name: a\nlimits:\n\tmemory: 1\n"), "read YAML: found character '\\t' that cannot start any token\n  ~/problem.yaml:3"),
    ("no UTF-8", {**LEGACY, "problem.yaml": b"name: a\nsource: \xff\n"}, "read YAML: not UTF-8\n  ~/problem.yaml:2"),
    ("control character", {**LEGACY, "problem.yaml": b"name: a\nsource: \x01\n"}, "read YAML: has a character that may not be there\n  ~/problem.yaml:2"),
    ("two documents", legacy("name: a\n---\nname: b\n"), "read YAML: has more than one document\n  ~/problem.yaml:2"),
    ("key twice", legacy("name: a\nlimits:\n  memory: 1\n  memory: 2\n"), "read YAML: `memory` is there twice, first in line 3\n  ~/problem.yaml:4"),
    ("tag", legacy("name: !!python/object:os.system a\n"), "read YAML: tag `tag:yaml.org,2002:python/object:os.system`: tags are not read\n  ~/problem.yaml:1"),
    ("own tag", legacy("name: !foo a\n"), "read YAML: tag `!foo`: tags are not read\n  ~/problem.yaml:1"),
    ("alias of nothing", legacy("name: *a\n"), "read YAML: alias `*a` has no anchor before it\n  ~/problem.yaml:1"),
    ("alias of itself", legacy("name: &a [*a]\n"), "read YAML: alias `*a` has no anchor before it\n  ~/problem.yaml:1"),
    ("anchor twice", legacy("name: &a b\nsource: &a c\n"), "read YAML: anchor `&a` is there twice\n  ~/problem.yaml:2"),
    ("key is a list", legacy("? [a]\n: b\n"), "read YAML: a key must be text\n  ~/problem.yaml:1"),
    ("merge of text", legacy("<<: b\n"), "read YAML: `<<` takes a map\n  ~/problem.yaml:1"),
    ("deep", legacy("[" * 40 + "]" * 40), "read YAML: nested deeper than 32\n  ~/problem.yaml:1"),
    ("many values", legacy("keywords: [" + "a," * 20_001 + "]\n"), "read YAML: more than 20000 values\n  ~/problem.yaml:1"),
    ("large", legacy("#" * (1 << 20) + "\n"), "read `problem.yaml`: larger than 1048576 bytes\n  ~/problem.yaml"),
    ("list", legacy("- a\n"), "`problem.yaml` must be a map\n  ~/problem.yaml:1"),
    # problem.yaml, all formats
    ("missing", {**LEGACY, "problem.yaml": None}, "`~` is no problem package: it has no `problem.yaml`"),
    ("unknown format", legacy("problem_format_version: 2019\n"), f"unknown format `2019`\n  ~/problem.yaml:1\n\nhint: {KNOWN}"),
    ("unknown key", legacy("name: a\n\nlimit: 1\n"), "unknown key `limit`\n  ~/problem.yaml:3\n\nhint: `limits` is known"),
    ("unknown key, new", new("colour: red\n"), "unknown key `colour`\n  ~/problem.yaml:4"),
    ("unknown limit", legacy("limits:\n  memry: 1\n"), "unknown key `limits.memry`\n  ~/problem.yaml:2\n\nhint: `memory` is known"),
    ("limits is text", legacy("limits: 3\n"), "`limits` must be a map, not `3`\n  ~/problem.yaml:1"),
    ("memory", legacy("limits: {memory: much}\n"), "`limits.memory` must be a number above 0, not `much`\n  ~/problem.yaml:1"),
    ("no memory", legacy("limits: {memory: 0}\n"), "`limits.memory` must be a number above 0, not `0`\n  ~/problem.yaml:1"),
    ("endless memory", legacy("limits: {memory: .inf}\n"), "`limits.memory` must be a number above 0, not `.inf`\n  ~/problem.yaml:1"),
    ("outputs that fill the judge", legacy("limits: {output: 8192}\n"), "`limits.output` must be a number above 0, 1024 at most, not `8192`\n  ~/problem.yaml:1"),
    ("long number", legacy(f"limits: {{memory: {'9' * 5000}}}\n"), f"`limits.memory` must be a number above 0, not `{'9' * 80}…`\n  ~/problem.yaml:1"),
    ("multiplier", legacy("limits:\n  time_multiplier: 0.5\n"), "`limits.time_multiplier` must be a number of at least 1, not `0.5`\n  ~/problem.yaml:2"),
    ("negative time", new("limits: {time_limit: -1}\n"), "`limits.time_limit` must be a number above 0 of seconds, not `-1`\n  ~/problem.yaml:4"),
    ("time is a list", new("limits: {time_limit: [1]}\n"), "`limits.time_limit` must be a number above 0 of seconds, not a list\n  ~/problem.yaml:4"),
    ("no multiple", new("limits: {time_limit: 1.5}\n"), "`limits.time_limit` must be a multiple of `limits.time_resolution`, which is 1\n  ~/problem.yaml:4"),
    ("passes", new("type: multi-pass\nlimits: {validation_passes: 1}\n"), "`limits.validation_passes` must be a whole number of at least 2, not `1`\n  ~/problem.yaml:5"),
    # legacy
    ("legacy type", legacy("type: interactive\n"), "`type` must be `pass-fail` or `scoring`, not `interactive`\n  ~/problem.yaml:1"),
    ("validation", legacy("validation: strict\n"), "`validation` must begin with `default` or `custom`, not `strict`\n  ~/problem.yaml:1"),
    ("default with more", legacy("validation: default score\n"), "`validation: default` knows no `score`\n  ~/problem.yaml:1"),
    ("custom with more", legacy("validation: custom fast\n"), "`validation: custom` knows no `fast`\n  ~/problem.yaml:1"),
    ("score without scoring", legacy("validation: custom score\n"), "`validation: custom score` is for problems of type `scoring`\n  ~/problem.yaml:1"),
    ("objective", legacy("type: scoring\ngrading: {objective: most}\n"), "`grading.objective` must be `max` or `min`, not `most`\n  ~/problem.yaml:2"),
    ("null byte in flags", legacy('validator_flags: "a\\0b"\n'), "`validator_flags` must be at most 4096 characters without a null byte\n  ~/problem.yaml:1"),
    ("no validator", legacy("validation: custom\n"), "package needs an output validator and has none\n  ~/output_validators"),
    # 2025-09
    ("key of legacy", new("validation: custom\n"), "`validation` is a key of the legacy format\n  ~/problem.yaml:4\n\nhint: here it is `type`"),
    ("new type", new("type: best\n"), "`type` knows no `best`\n  ~/problem.yaml:4\n\nhint: known are `pass-fail`, `scoring`, `multi-pass`, `interactive`, `submit-answer`"),
    ("incompatible", new("type: [pass-fail, scoring]\n"), "`type` cannot be both `pass-fail` and `scoring`\n  ~/problem.yaml:4"),
    ("type twice", new("type: [scoring, scoring]\n"), "`type` names a type twice\n  ~/problem.yaml:4"),
    ("submit-answer", new("type: [submit-answer, multi-pass]\n"), "`type` cannot be both `submit-answer` and `multi-pass`\n  ~/problem.yaml:4"),
    ("submit-answer, static", {**new("type: submit-answer\n"), "static_validator/v.py": ""}, "a problem of type `submit-answer` cannot have a static validator\n  ~/static_validator"),
    ("file writing", new("allow_file_writing: maybe\n"), "`allow_file_writing` must be `true` or `false`, not `maybe`\n  ~/problem.yaml:4"),
    ("constant name", new("constants: {1a: 1}\n"), "`constants` has a name that is none: `1a`\n  ~/problem.yaml:4"),
    ("constant without value", new("constants:\n  a: {tex: x}\n"), "`constants.a` has no `value`\n  ~/problem.yaml:5"),
    ("constant of list", new("constants: {a: [1]}\n"), "`constants.a` must be text, not a list\n  ~/problem.yaml:4"),
    ("interactive without validator", new("type: interactive\n"), "package needs an output validator and has none\n  ~/output_validator"),
    ("two validators", {**new("type: interactive\n"), "output_validator/a/a.py": "", "output_validator/b/b.py": ""}, "`output_validator` must be one program, not 2\n  ~/output_validator"),
    # test data
    ("no data", {"problem.yaml": "name: a\n", "submissions/accepted/a.py": ""}, "package has no test data\n  ~/data"),
    ("data is a file", {"problem.yaml": "name: a\n", "data": "x"}, "read a package: not a directory\n  ~/data"),
    ("no answer", {**NEW, "data/secret/01.ans": None}, "case `secret/01` has no answer\n  ~/data/secret/01.in"),
    ("on_reject", {**SCORING, "data/secret/testdata.yaml": "on_reject: stop\n"}, "`on_reject` must be `break` or `continue`, not `stop`\n  ~/data/secret/testdata.yaml:1"),
    ("grading", {**SCORING, "data/testdata.yaml": "\ngrading: own\n"}, "`grading` must be `default` or `custom`, not `own`\n  ~/data/testdata.yaml:2"),
    ("custom without grader", {**SCORING, "data/testdata.yaml": "grading: custom\n"}, "`grading: custom` needs a program in `graders`\n  ~/graders"),
    ("two graders", {**SCORING, "graders/a.py": "", "graders/b.py": ""}, "package has more than one grader\n  ~/graders"),
    ("range", {**SCORING, "data/testdata.yaml": "range: 100 0\n"}, "`range` must be two numbers, the lower one first, not `100 0`\n  ~/data/testdata.yaml:1"),
    ("range of words", {**SCORING, "data/testdata.yaml": "range: low high\n"}, "`range` must be two numbers, the lower one first, not `low`\n  ~/data/testdata.yaml:1"),
    ("score", {**SCORING, "data/testdata.yaml": "accept_score: nan\n"}, "`accept_score` must be a number, not `nan`\n  ~/data/testdata.yaml:1"),
    ("unknown group key", {**SCORING, "data/secret/g1/testdata.yaml": "rnge: 1\n"}, "unknown key `rnge`\n  ~/data/secret/g1/testdata.yaml:1\n\nhint: `range` is known"),
    ("group key of pass-fail", {**NEW, "data/secret/test_group.yaml": "max_score: 3\n"}, "`max_score` is not for problems of type `pass-fail`\n  ~/data/secret/test_group.yaml:1"),
    ("score of sample", {**NEW_SCORING, "data/sample/test_group.yaml": "max_score: 3\n"}, "`max_score` is not for `sample`\n  ~/data/sample/test_group.yaml:1"),
    ("aggregation", group("max_score: 3\nscore_aggregation: max\n"), "`score_aggregation` must be `pass-fail`, `sum` or `min`, not `max`\n  ~/data/secret/g1/test_group.yaml:2"),
    ("max_score", group("max_score: 1.5\n"), "`max_score` must be a whole number, not negative, or `unbounded`, not `1.5`\n  ~/data/secret/g1/test_group.yaml:1"),
    ("unbounded group", group("max_score: unbounded\n"), "group `secret/g1` needs a `max_score`\n  ~/data/secret/g1/test_group.yaml"),
    ("require later", group("max_score: 40\nrequire_pass: secret/g2\n"), "`require_pass` names `secret/g2`, which is no earlier group\n  ~/data/secret/g1/test_group.yaml:2"),
    ("require nothing", group("max_score: 40\nrequire_pass: g7\n"), "`require_pass` names `g7`, which is no earlier group\n  ~/data/secret/g1/test_group.yaml:2"),
    ("require scores", group("max_score: 40\nscore_aggregation: sum\n"), "`require_pass` names `secret/g1`, which does not pass or fail but has scores\n  ~/data/secret/g2/test_group.yaml:3"),
    ("secret requires a group", {**NEW_SCORING, "data/secret/test_group.yaml": "require_pass: g1\n"}, "`require_pass` of `secret` can only be `sample`\n  ~/data/secret/test_group.yaml:1"),
    ("secret passes", {**NEW_SCORING, "data/secret/test_group.yaml": "score_aggregation: pass-fail\n"}, "`secret` passes or fails, so must all its groups\n  ~/data/secret/g2/test_group.yaml"),
    ("loose case", {**NEW_SCORING, "data/secret/x.in": "", "data/secret/x.ans": ""}, "`secret` has groups, so `secret/x` must be in one\n  ~/data/secret/x.in"),
    ("group in a group", {**NEW_SCORING, "data/secret/g1/h/test_group.yaml": ""}, "groups have no groups in them\n  ~/data/secret/g1/h/test_group.yaml"),
    (
        "group in a group that passes or fails",
        {**NEW, "data/secret/g/h/test_group.yaml": "args: [a]\nstatic_validation_score: pass-fail\n"},
        "groups have no groups in them\n  ~/data/secret/g/h/test_group.yaml",
    ),
    ("empty group", {**NEW_SCORING, "data/secret/g3/test_group.yaml": "max_score: 0\n"}, "group `secret/g3` has no cases\n  ~/data/secret/g3"),
    ("static score", group("max_score: 40\nstatic_validation_score: 3\n"), "`static_validation_score` must be `pass-fail` where a group passes or fails\n  ~/data/secret/g1/test_group.yaml:2"),
    ("static args alone", group("max_score: 40\nstatic_validator_args: [a]\n"), "`static_validator_args` needs `static_validation_score`\n  ~/data/secret/g1/test_group.yaml:2"),
    ("case called test_group", {**NEW, "data/secret/test_group.in": "", "data/secret/test_group.ans": ""}, "a case must not be called `test_group`\n  ~/data/secret/test_group.in"),
    ("case key", {**NEW, "data/secret/01.yaml": "arg: [a]\n"}, "unknown key `arg`\n  ~/data/secret/01.yaml:1\n\nhint: `args` is known"),
    ("args is a map", {**NEW, "data/secret/01.yaml": "args: {a: b}\n"}, "`args` must be a list, not a map\n  ~/data/secret/01.yaml:1"),
    ("feedback", {**NEW, "data/secret/01.yaml": "\nfull_feedback: 3\n"}, "`full_feedback` must be `true` or `false`, not `3`\n  ~/data/secret/01.yaml:2"),
    ("invalid output without output", {**NEW, "data/invalid_output/a.in": "", "data/invalid_output/a.ans": ""}, "`invalid_output/a` has no `out` file\n  ~/data/invalid_output/a.in"),
    # links
    ("case leads out", {**LEGACY, "data/secret/01.in": Link("../../../../etc/passwd")}, "link leads out of the package\n  ~/data/secret/01.in"),
    ("absolute case", {**LEGACY, "data/secret/01.in": Link("/etc/passwd")}, "link is absolute, it must stay inside the package\n  ~/data/secret/01.in"),
    ("case leads nowhere", {**NEW, "data/secret/01.ans": Link("02.ans")}, "link leads nowhere\n  ~/data/secret/01.ans"),
    ("circle", {**LEGACY, "data/secret/01.ans": Link("01.ans")}, "links lead round in a circle\n  ~/data/secret/01.ans"),
    ("group leads out", {**LEGACY, "data/secret/g": Link("../../../..")}, "link leads out of the package\n  ~/data/secret/g"),
    ("group leads up", {**LEGACY, "data/secret/g": Link("../..")}, "read test data: directories nested deeper than 32\n  ~/data"),
    ("submission leads out", {**LEGACY, "submissions/accepted/b.py": Link("../../../../etc/passwd")}, "link leads out of the package\n  ~/submissions/accepted/b.py"),
    ("directory leads out", {**LEGACY, "submissions/wrong_answer": Link("/etc")}, "link is absolute, it must stay inside the package\n  ~/submissions/wrong_answer"),
    ("problem.yaml leads out", {**LEGACY, "problem.yaml": Link("../../problem.yaml")}, "link leads out of the package\n  ~/problem.yaml"),
    # submissions.yaml
    ("verdict", labels("accepted:\n  permitted: [OK]\n"), "`accepted.permitted` must be a list of `AC`, `WA`, `TLE` and `RTE`\n  ~/submissions/submissions.yaml:2"),
    ("contradiction", labels("x:\n  permitted: [AC]\n  required: [WA]\n"), "`x` requires what it does not permit\n  ~/submissions/submissions.yaml:1"),
    ("unknown label key", labels("accepted:\n  allowed: [AC]\n"), "unknown key `allowed` of `accepted`\n  ~/submissions/submissions.yaml:2\n\nhint: keys for some cases begin with `sample`, `secret` or `*`"),
    ("unknown case key", labels("accepted:\n  sample:\n    language: c\n"), "unknown key `language` of `accepted`, `sample`\n  ~/submissions/submissions.yaml:3"),
    ("label is text", labels("accepted: yes\n"), "`accepted` must be a map, not `yes`\n  ~/submissions/submissions.yaml:1"),
    ("score without scoring, label", labels("accepted:\n  score: 3\n"), "`accepted.score` is for problems of type `scoring`\n  ~/submissions/submissions.yaml:2"),
    ("score range", labels("accepted:\n  score: [3, 2]\n", NEW_SCORING), "`accepted.score` must be a number, or a list of two, the lower one first\n  ~/submissions/submissions.yaml:2"),
    ("limit use", labels("a:\n  use_for_time_limit: both\n"), "`a.use_for_time_limit` must be `true` or `false`, not `both`\n  ~/submissions/submissions.yaml:2"),
    ("limit use against permitted", labels("a:\n  permitted: [AC]\n  use_for_time_limit: upper\n"), "`use_for_time_limit: upper` contradicts `permitted`\n  ~/submissions/submissions.yaml:3"),
    ("braces in braces", labels('"a{b,{c,d}}":\n  permitted: [AC]\n'), "glob `a{b,{c,d}}` has braces in braces\n  ~/submissions/submissions.yaml:1"),
    ("long glob", labels(f"? {'a' * 900}{'*' * 200}\n: permitted: [AC]\n"), f"glob `{'a' * 80}…` longer than 1024 characters\n  ~/submissions/submissions.yaml:1"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message"), [pytest.param(files, message, id=what) for what, files, message in BAD])
def test_bad_package_is_named_with_its_place(files: Files, message: str, tmp_path: Path) -> None:
    root = make_package(tmp_path, files)
    with pytest.raises(PackageError) as caught:
        read_package(root)
    assert str(caught.value).replace(root, "~") == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("base", [LEGACY, NEW, SCORING, NEW_SCORING], ids=["legacy", "2025-09", "legacy scoring", "2025-09 scoring"])
def test_what_they_are_made_of_is_right(base: Files, tmp_path: Path) -> None:
    assert read_package(make_package(tmp_path, base)).warnings == ()


def test_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(PackageError) as caught:
        read_package(str(tmp_path / "none"))
    assert str(caught.value) == f"open package `{tmp_path}/none`: No such file or directory (ENOENT)"


def test_what_may_have_been_meant_is_said(tmp_path: Path) -> None:
    """A directory of packages, and a file that is no archive by its name."""
    package = make_package(tmp_path, LEGACY)
    (tmp_path / "problem.txt").touch()
    for path, hint in (
        (str(tmp_path), f"it holds packages: `{package}`"),
        (str(tmp_path / "problem.txt"), "a package is a directory, or an archive whose name ends in `.zip` or `.kpp`"),
        (str(tmp_path / "sum/data"), None),
    ):
        with pytest.raises(PackageError) as caught:
            read_package(path)
        assert caught.value.hint == hint


def test_no_name_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_package(tmp_path, LEGACY))
    with pytest.raises(PackageError, match="its path is empty"):
        read_package("")
