"""What an author states, what a checker's answer means, and who may see what of a result; without any sandbox."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import judge
from sandbox.cli.judge_environment import OPTIONS
from sandbox.errors import SandboxError
from sandbox.judge import Outcome, Output, Part, Task, TaskResult, Test, TestResult
from sandbox.judge.environment import read_facts
from sandbox.judge.host import Tree
from sandbox.judge.interactive.played import Ended, Ending, Played
from sandbox.judge.model import Built, CaseResult, Code, RunLimits
from sandbox.judge.task_check import call_checker
from sandbox.judge.task_parts import MAXIMUM_FILES, SubmissionError, read_contents, read_submission, settle_test
from sandbox.judge.task_play import first_cause
from sandbox.judge.task_result import GroupPoints, plain_record, sum_up
from sandbox.judge.task_run import Rules, compare_output, settle_exit
from sandbox.result import Evidence, Result, Usage, Verdict

SECRET = "ecclesia-7781"


def _output(stdout: bytes, **more: object) -> Output:
    return Output(stdout=stdout, **more)  # type: ignore[arg-type]


# ---- checkers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "fraction", "message"),
    [
        (True, 1.0, ""), (False, 0.0, ""), (1, 1.0, ""), (0.25, 0.25, ""), ((True, "well done"), 1.0, "well done"), ((0.5, "half"), 0.5, "half"),
        (Outcome(fraction=0.75, message="almost", private="missed one"), 0.75, "almost"),
    ],
)  # fmt: skip
def test_answers_of_a_checker(answer: object, fraction: float, message: str) -> None:
    judged = call_checker(lambda _: answer, _output(b""))
    assert judged.outcome is not None
    assert (judged.outcome.fraction, judged.outcome.message) == (fraction, message)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (None, "forget to `return`"), ("yes", "not str"), (2, "must be 0 to 1"), (-0.1, "must be 0 to 1"), (float("nan"), "must be 0 to 1"),
        ((True, 5), "not tuple"), ([True], "not list"), (object(), "not object"),
    ],
)  # fmt: skip
def test_other_answers_accept_nobody_and_blame_nobody(answer: object, cause: str) -> None:
    judged = call_checker(lambda _: answer, _output(b""))
    assert judged.outcome is None
    assert cause in judged.cause


def test_a_failed_assertion_is_a_wrong_answer_with_its_message() -> None:
    def check(output: Output) -> bool:
        raise AssertionError("say x\nand y")  # not `assert`, which pytest rewrites

    judged = call_checker(check, _output(b"y"))
    assert judged.outcome is not None
    assert (judged.outcome.fraction, judged.outcome.message) == (0.0, "say x\nand y")


def test_another_exception_is_the_judges_failure_with_its_place() -> None:
    def check(output: Output) -> bool:
        return int(output.text) == 7

    judged = call_checker(check, _output(b"seven"))
    assert judged.outcome is None
    assert "ValueError" in judged.cause and "test_judge_task.py" in judged.cause


def test_a_checker_that_was_a_program_once_ends_no_grader() -> None:
    judged = call_checker(lambda _: sys.exit(42), _output(b""))
    assert judged.outcome is None and "SystemExit: 42" in judged.cause


def test_numbers_of_a_stranger() -> None:
    output = _output(b" 3 -4\n+5 ")
    assert output.integers() == [3, -4, 5]
    assert _output(b"1.5 -2e3 .5 7").floats() == [1.5, -2000.0, 0.5, 7.0]


@pytest.mark.parametrize("token", [b"x", b"1_000", b"0x10", b"1.5", "٣".encode(), b"9" * 1001, b"\xff", b"--1"])
def test_what_is_no_integer_is_a_wrong_answer(token: bytes) -> None:
    judged = call_checker(lambda output: output.integers() == [1], _output(b"1 " + token))
    assert judged.outcome is not None and judged.outcome.fraction == 0.0
    assert "token 2" in judged.outcome.message and judged.outcome.message.isascii()


@pytest.mark.parametrize("token", [b"nan", b"inf", b"-Infinity", b"1e", b"0x1p3", b"1_0.0"])
def test_what_is_no_decimal_is_a_wrong_answer(token: bytes) -> None:
    judged = call_checker(lambda output: bool(output.floats()), _output(token))
    assert judged.outcome is not None and judged.outcome.fraction == 0.0


def test_output_as_text() -> None:
    output = _output(b"a\xffb\nc\n")
    assert output.text == "a\ufffdb\nc\n"
    assert output.lines == ["a\ufffdb", "c"]
    assert output.tokens == ["a\ufffdb", "c"]


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
def test_fractions_have_bounds(fraction: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        Outcome(fraction=fraction)


# ---- comparison and exit codes ----------------------------------------------------------------------------------


def test_comparison_by_tokens_unless_flags_say_more() -> None:
    assert compare_output(_output(b"A  b\n", expected=b"a b"), {}, "").outcome == Outcome(fraction=1.0)
    wrong = compare_output(_output(b"A  b\n", expected=b"a b"), {}, "case_sensitive").outcome
    assert wrong is not None and wrong.fraction == 0.0 and "line 1" in wrong.message
    assert compare_output(_output(b"3.14159", expected=b"3.1416"), {}, "float_tolerance 1e-3").outcome == Outcome(fraction=1.0)


def test_files_are_compared_as_output_is() -> None:
    output = _output(b"", files={"out.txt": b"1 2", "more": b"x"})
    assert compare_output(output, {"out.txt": b"1\n2\n"}, "").outcome == Outcome(fraction=1.0)
    wrong = compare_output(output, {"out.txt": b"1\n3\n"}, "").outcome
    assert wrong is not None and wrong.message.startswith("`out.txt`, line 1, token 2")
    missing = compare_output(output, {"other": b""}, "").outcome
    assert missing is not None and missing.message == "file `other` was not written"


def _result(verdict: Verdict, exit_code: int, signal: int | None = None) -> Result:
    return Result(
        verdict=verdict, cause=f"exit {exit_code}", exit_code=exit_code, signal=signal, usage=Usage(wall_ns=1, cpu_user_ns=1, cpu_sys_ns=1, cpu_source=""),
        run_id="", profile="", profile_digest="", policy="", policy_digest="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "exit_code", "flags", "code"),
    [
        (0, 0, (), Code.AC), (0, 3, (Code.NZE,), Code.NZE), (2, 2, (Code.NZE,), Code.AC), (2, 3, (Code.NZE,), Code.NZE), (2, 0, (), Code.WA),
        (None, 0, (), Code.AC), (None, 77, (Code.NZE,), Code.AC), (None, 1, (Code.TLE, Code.NZE), Code.TLE), (2, 2, (Code.OLE, Code.NZE), Code.OLE),
    ],
)  # fmt: skip
def test_the_exit_code_that_is_right(wanted: int | None, exit_code: int, flags: tuple[Code, ...], code: Code) -> None:
    result = _result(Verdict.NONZERO_EXIT if exit_code else Verdict.OK, exit_code)
    found = settle_exit(Test(exit_code=wanted), result, flags[0] if flags else Code.AC, flags, "")
    assert found[0] is code


def test_a_signal_is_no_exit_code() -> None:
    found = settle_exit(Test(exit_code=139), _result(Verdict.SIGNALED, 139, 11), Code.RTE, (Code.RTE,), "signal 11")
    assert found[0] is Code.RTE


# ---- submissions ------------------------------------------------------------------------------------------------


def test_text_is_text_and_a_path_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text("from a file")
    assert read_contents("in.txt") == b"in.txt"
    assert read_contents(file) == b"from a file"
    assert read_contents(b"\xff") == b"\xff"
    with pytest.raises(SandboxError, match="No such file"):
        read_contents(tmp_path / "none")
    with pytest.raises(TypeError, match="not int"):
        read_contents(7)  # type: ignore[arg-type]


def test_submissions_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "main.py").write_text("1")
    (tmp_path / "deep" / "er" / "x.py").write_text("2")
    assert read_submission(tmp_path) == {"main.py": b"1", "deep/er/x.py": b"2"}
    assert read_submission(tmp_path / "main.py") == {"main.py": b"1"}
    assert read_submission({"a.py": "x"}) == {"a.py": b"x"}
    assert read_submission("print()", "main.py") == {"main.py": b"print()"}
    with pytest.raises(ValueError, match="state the task's `language`"):
        read_submission("print()")


@pytest.mark.parametrize("submitted", ["print('\ud800')", {"main.py": "print('\ud800')"}])
def test_text_that_json_allows_and_no_file_can_have_is_the_submissions_fault(submitted: str | dict[str, str]) -> None:
    with pytest.raises(SubmissionError, match=r"lone surrogate, U\+D800"):
        read_submission(submitted, "main.py")


@pytest.mark.parametrize("kind", ["link", "directory link", "link to itself", "fifo", "link as the submission"])
def test_what_a_student_may_not_hand_in(tmp_path: Path, kind: str) -> None:
    """A link to the answers beside the upload would hand them to the program."""
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "1.ans").write_text(SECRET)
    upload = tmp_path / "upload"
    upload.mkdir()
    (upload / "main.py").write_text("1")
    match kind:
        case "link":
            (upload / "x.py").symlink_to(tmp_path / "answers" / "1.ans")
        case "directory link":
            (upload / "x").symlink_to(tmp_path / "answers")
        case "link to itself":
            (upload / "x").symlink_to(upload / "x")
        case "fifo":
            os.mkfifo(upload / "x")
        case "link as the submission":
            upload = tmp_path / "alias.py"
            upload.symlink_to(tmp_path / "answers" / "1.ans")
    with pytest.raises(SubmissionError) as caught:
        read_submission(upload)
    assert SECRET not in str(caught.value)
    # The control: with a regular file there it is read.
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "x.py").write_text(SECRET)
    assert read_submission(tmp_path / "plain") == {"x.py": SECRET.encode()}


def test_submissions_have_bounds(tmp_path: Path) -> None:
    for number in range(MAXIMUM_FILES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(SubmissionError, match="more than 1000 files"):
        read_submission(tmp_path)


def test_a_large_submission_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(SubmissionError, match="larger than 64 MiB"):
        read_submission(tmp_path)


def test_a_deep_submission_is_refused(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(SubmissionError, match="nested too deep"):
        read_submission(tmp_path)


# ---- tasks ------------------------------------------------------------------------------------------------------


def test_a_test_is_settled() -> None:
    test = settle_test(Test("in", "out", files={"a": "b"}, args=["x"]), 3)
    assert (test.name, test.points, test.stdin, test.expected, dict(test.files), test.args) == (
        "test 3",
        1.0,
        b"in",
        b"out",
        {"a": b"b"},
        ("x",),
    )
    assert settle_test(Test(group="g"), 1).points == 0.0


def _never(_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": []}, "at least one test"),
        ({"tests": [Test(name="a"), Test(name="a")]}, "two tests are called `a`"),
        ({"tests": [Test(group="g")]}, "to which the task gives no points"),
        ({"tests": [Test(points=2, group="g")], "groups": {"g": 1}}, "leave `points` out"),
        ({"tests": [Test()], "groups": {"g": 1}}, "no test is in the group `g`"),
        ({"tests": [Test(points=-1)]}, "0 or more"),
        ({"tests": [Test(points=float("nan"))]}, "0 or more"),
        ({"tests": [Test(call=_never, expected="x")]}, "`call` judges for itself"),
        ({"tests": [Test(call=_never, talk=_never)]}, "judges for itself"),
        ({"tests": [Test(code="pass", checker=_never)]}, "`code` judges for itself"),
        ({"tests": [Test()], "time_limit": 0}, "time_limit: from 0.001 s"),
        ({"tests": [Test(time_limit=float("nan"))]}, "time_limit of `test 1`"),
        ({"tests": [Test()], "wall_limit": -1}, "wall_limit"),
        ({"tests": [Test()], "memory_limit": "lots"}, "argument `memory_limit`"),
        ({"tests": [Test(memory_limit="x")]}, "test `test 1`"),
        ({"tests": [Test(flags="float_tolerance")]}, "`float_tolerance` needs a number"),
        ({"tests": [Test()], "flags": "sloppy"}, "no flag `sloppy`"),
        ({"tests": [Test()], "pipes": [("a", "b")]}, "need `parts`"),
        ({"tests": [Test()], "parts": {"a": Part()}, "pipes": [("a", "b")]}, "no part is called `b`"),
        ({"tests": [Test()], "parts": {"a": Part(), "b": Part(), "c": Part()}, "pipes": [("a", "c"), ("b", "c")]}, "in two pipes"),
        ({"tests": [Test()], "parts": {"a": Part({"x.py": ""})}}, "no part is the submission's"),
        ({"tests": [Test()], "parts": {"a": Part(), "b": Part()}}, "exactly one part"),
        ({"tests": [Test()], "parts": {"a": Part(), "b": Part()}, "pipes": [("a", "b"), ("b", "a")]}, "exactly one part"),
        ({"tests": [Test()], "parts": {"a": Part()}, "referee": "a"}, "program of your own"),
        ({"tests": [Test(call=_never)], "parts": {"a": Part()}}, "several parts"),
        ({"tests": [Test(args=["a\0b"])]}, "`test 1`: no argument of a program can have a NUL"),
    ],
)
def test_tasks_that_contradict_themselves(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, SandboxError)) as caught:
        Task(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (Test(args="x"), "sequences of texts"), (Test(collect="x"), "sequences of texts"), (Test(args=[1]), "arguments must be texts, not int"),  # type: ignore[list-item]
        (Test(files=["x"]), "must be a mapping"), (Test(stdin=3), "must be bytes"),  # type: ignore[arg-type]
        (Test(checker="x"), "checker of `test 1` must be a function, not str"), ("x", "test 1 must be a `Test`, not str"),  # type: ignore[arg-type]
        (Test(time_limit="2s"), "time_limit of `test 1` must be a number of seconds, not str"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_kinds(test: Test, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Task([test])


@pytest.mark.parametrize(("name", "value"), [("checker", "x"), ("time_limit", "2s"), ("wall_limit", "2s")])
def test_wrong_kinds_of_a_task(name: str, value: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be"):
        Task([Test()], **{name: value})  # type: ignore[arg-type]


def test_points_of_a_task() -> None:
    task = Task([Test(points=2), Test(), Test(group="g"), Test(group="g")], groups={"g": 40})
    assert task.max_points == 43


# ---- results ----------------------------------------------------------------------------------------------------


def test_without_the_referees_word_nothing_is_accepted() -> None:
    killed, parts = _result(Verdict.SIGNALED, -1, 9), {"feeder": Part({"f": ""}), "solver": Part(), "referee": Part({"r": ""})}
    rules = Rules(
        time_limit=1, wall_limit=None, memory_bytes=1 << 26, output_bytes=1 << 16, processes=None, checker=None, flags="", parts=parts,
        pipes=(("feeder", "solver"), ("solver", "referee")), referee="referee",
    )  # fmt: skip
    endings = {"feeder": Ending.LINGERED, "solver": Ending.DECIDED, "referee": Ending.LINGERED}
    limits = dict.fromkeys(parts, RunLimits(cpu_ns=10**9, cpu_cut_ns=10**9, wall_ns=10**10, memory_bytes=1 << 26, output_bytes=1 << 16))
    ended = {name: Ended(name=name, result=killed, place=place, ending=endings[name]) for place, name in enumerate(parts)}
    assert first_cause(Played(parties=ended), rules, limits)[::2] == (Code.JE, "referee")
    ended["referee"] = Ended(name="referee", result=_result(Verdict.NONZERO_EXIT, 42), place=2)
    assert first_cause(Played(parties=ended), rules, limits) == (Code.AC, "", "")


def _test(name: str, code: Code = Code.AC, **more: object) -> TestResult:
    fraction = 1.0 if code is Code.AC else 0.0
    return TestResult(**{"name": name, "code": code, "fraction": fraction, "points": fraction, "max_points": 1.0, **more})  # type: ignore[arg-type]


def test_groups_earn_as_much_as_their_worst_test() -> None:
    tests = (
        _test("a", group="g", points=0.0, max_points=0.0), _test("b", Code.WA, group="g", fraction=0.5, points=0.0, max_points=0.0),
        _test("c", points=3.0, max_points=3.0),
    )  # fmt: skip
    assert sum_up(tests, {"g": 40}) == (Code.WA, 23.0, 43.0, (GroupPoints(name="g", points=20.0, max_points=40.0),))


@pytest.mark.parametrize(
    ("codes", "code"),
    [([Code.AC, Code.AC], Code.AC), ([Code.AC, Code.TLE, Code.WA], Code.TLE), ([Code.WA, Code.JE], Code.JE)],
)
def test_the_verdict_of_all(codes: list[Code], code: Code) -> None:
    assert sum_up(tuple(_test(str(number), each) for number, each in enumerate(codes)), {})[0] is code


def test_skipped_tests_alone_are_no_success() -> None:
    assert sum_up((_test("a", Code.AC, skipped="grading was ended"),), {})[0] is not Code.AC


def _graded() -> TaskResult:
    """Everything that a hidden test has, marked; nothing of the mark may be seen."""
    evidence = Evidence(limit="cpu", counter=SECRET, value=1, bound=2, unit="ns", hit=False)
    case = CaseResult(
        case="hidden", code=Code.TLE, cause=SECRET, cpu_ns=123456789, evidence=(evidence,), stderr=SECRET, judge_message=SECRET
    )
    secret = SECRET.encode()
    hidden = _test(
        "hidden", Code.TLE, hidden=True, hint="try large inputs", cause=SECRET, message=SECRET, private=SECRET, stdin=secret, expected=secret,
        stdout=secret, stderr=secret, files={SECRET: secret}, transcript=(SECRET,), case=case,
    )  # fmt: skip
    shown = _test(
        "shown", Code.WA, cause="not it", message="line 1", private=SECRET, stdin=b"1\n", expected=b"2\n", stdout=b"3\n", hint="count again"
    )
    skipped = _test("skipped", Code.WA, hidden=True, skipped=SECRET)
    return TaskResult(task="t", name="alice", code=Code.WA, points=0.0, max_points=3.0, tests=(shown, hidden, skipped), cause=SECRET)


def test_a_contestant_sees_nothing_of_hidden_tests() -> None:
    graded = _graded()
    for text in (json.dumps(graded.to_dict()), graded.render()):
        assert SECRET not in text
        assert "TLE" not in text and "123456789" not in text
        assert "try large inputs" in text and "line 1" in text and "count again" in text
    hidden = graded.to_dict()["tests"][1]  # type: ignore[index]
    assert hidden == {
        "name": "hidden", "passed": False, "points": 0, "max_points": 1, "group": "", "hidden": True, "feedback": "try large inputs",
    }  # fmt: skip


def test_those_who_grade_see_everything() -> None:
    graded = _graded()
    text = json.dumps(graded.to_dict(private=True))
    assert text.count(SECRET) > 10
    assert "TLE" in graded.render(private=True)


def test_a_hint_is_for_those_who_fail() -> None:
    assert _test("a", hidden=True, hint="no").feedback == ""
    assert _test("a", hint="no").feedback == ""
    assert _test("a", Code.WA, hint="yes").feedback == "wrong answer; yes"


def test_texts_of_strangers_reach_no_terminal() -> None:
    graded = TaskResult(
        task="t", name="\x1b[2Jalice", code=Code.CE, points=0, max_points=1, cause="\x1b[31m", tests=(_test("a\x1b", Code.WA, message="\x07"),)
    )  # fmt: skip
    for private in (False, True):
        assert graded.render(private=private).isprintable() or "\n" in graded.render(private=private)
        assert "\x1b" not in graded.render(private=private) and "\x07" not in graded.render(private=private)


def test_long_outputs_are_cut() -> None:
    shown = _test("a", stdout=b"x" * 10_000).to_dict()["stdout"]
    assert isinstance(shown, str) and shown.endswith("... 6000 more bytes") and len(shown) < 4100


def test_a_test_is_found_by_its_name() -> None:
    graded = _graded()
    assert graded["shown"].code is Code.WA
    with pytest.raises(KeyError):
        graded["none"]


def test_records_become_plain() -> None:
    built = Built(name="x", code=Code.CE, output="o")
    found = json.loads(json.dumps(plain_record(built)))
    assert found["code"] == "CE" and found["program"] is None


# ---- documents --------------------------------------------------------------------------------------------------


def _reference() -> str:
    text = (Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "python.md").read_text()
    return text.partition("## sandbox.judge\n")[2].partition("\n## Exceptions\n")[0]


@pytest.mark.parametrize("function", [Task.__init__, Task.grade, Task.grade_all, Test, Part, judge.run_case, judge.run_package])
def test_every_argument_and_its_default_are_in_the_reference(function: Callable[..., object]) -> None:
    text = " ".join(_reference().split())
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if parameter.default is inspect.Parameter.empty:
            assert re.search(rf"\b{name}\b", text), name
        else:
            default = {"_MISSING": "{}"}.get(str(parameter.default), repr(parameter.default)).replace("'", '"')
            assert f"{name}={default}" in text or f"{name}={{}}" in text, f"{name}={default}"


def test_every_name_of_the_face_and_every_field_is_in_the_reference() -> None:
    text = _reference()
    assert [name for name in judge.__all__ if f"`{name}" not in text] == []
    for record in (TaskResult, TestResult, Output, Outcome):
        assert [name for name in record.__slots__ if f"`{name}`" not in text] == [], record


def test_every_option_of_environment_has_an_entry() -> None:
    page = (Path(__file__).resolve().parent.parent.parent / "docs" / "man" / "sandbox-judge-environment.1.md").read_text()
    described = set(re.findall(r"`(--?[a-z-]+)", page.partition("## OPTIONS")[2].partition("\n## ")[0]))
    existing = {f"--{option.name}" for option in OPTIONS} | {f"-{option.short}" for option in OPTIONS if option.short}
    assert described == existing
    assert [fact.name for fact in read_facts(Tree()) if f"| `{fact.name}` |" not in page] == []
