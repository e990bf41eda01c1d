"""Validators and graders are strangers' programs: what each does with its exit code, its feedback directory, its limits and a hostile output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel.judged import LIMITS, MB, MS, Bench, S

from sandbox.judge.case import judge_case
from sandbox.judge.check import Checked, open_checker
from sandbox.judge.check.inputs import InputChecker, all_accept
from sandbox.judge.check.static import FEEDBACK, StaticChecker
from sandbox.judge.check.validator import ValidatorChecker
from sandbox.judge.grader_program import GraderProgram
from sandbox.judge.model import Code
from sandbox.judge.problem import Format, Grading, Group, Submission
from sandbox.judge.running import Runner

pytestmark = [pytest.mark.userns, pytest.mark.seccomp]
SAME = "sys.exit(42 if sys.stdin.read().split() == open(answer).read().split() else 43)"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a place for programs and cases."""
    return Bench(tmp_path)


def check(bench: Bench, *sources: str, output: bytes = b"3\n", flags: tuple[str, ...] = (), limits: dict[str, Any] | None = None, **problem: Any) -> Checked:
    """Return what validators say of an output."""
    case = bench.case(output_validator_flags=flags)
    described = bench.problem([case], limits=limits, **problem)
    with ValidatorChecker([bench.validator(source) for source in sources], described) as checker:
        return checker.check(case, output)


@pytest.mark.parametrize(("source", "accepted", "code", "cause"), [
    (SAME, True, 42, ""),
    ("sys.exit(43)", False, 43, "output validator `program-1` rejected it"),
    ("open(feedback + 'judgemessage.txt', 'w').write('\\n3 is not 4\\nmore'); sys.exit(43)", False, 43, "output validator `program-1` rejected it: 3 is not 4"),
    # What is no answer, whoever caused it.
    ("sys.exit(0)", None, 0, "exit 0, which is neither 42 nor 43"),
    ("sys.exit(1)", None, 1, "exit 1, which is neither 42 nor 43"),
    ("sys.exit(44)", None, 44, "exit 44, which is neither 42 nor 43"),
    ("raise ValueError('hostile')", None, 1, "exit 1, which is neither 42 nor 43"),
    ("os.abort()", None, None, "signal 6 (SIGABRT) (signaled)"),
    ("os.kill(os.getpid(), 9)", None, None, "signal 9 (SIGKILL) (signaled)"),
    ("os._exit(42 + 128)", None, 170, "exit 170, which is neither 42 nor 43"),
    # Limits.
    ("while True: pass", None, None, "(cpu-limit)"),
    ("import time; time.sleep(60)", None, None, "(wall-limit)"),
    ("while True: print('x' * 10000)", None, None, "(output-limit)"),
    ("x = []\nwhile True: x.append(bytearray(b'1') * 1000000)", None, None, "(memory-limit)"),
    # It answers, and leaves somebody behind, who is ended: nothing survives a run.
    ("import time\nif os.fork(): os._exit(42)\nos.setsid()\ntime.sleep(60)", True, 42, ""),
    # Its parent dies, its child would accept: the exit code is the program's.
    ("if os.fork(): os._exit(43)\nos._exit(42)", False, 43, "output validator `program-1` rejected it"),
    # The feedback directory as a weapon.
    ("os.symlink('/etc/passwd', feedback + 'judgemessage.txt'); sys.exit(42)", None, 42, "`judgemessage.txt`: a link or no regular file"),
    ("os.symlink(answer, feedback + 'score.txt'); sys.exit(42)", None, 42, "`score.txt`: a link or no regular file"),
    ("os.link('x', feedback + 'score.txt') if open('x', 'w').write('9') else 0; sys.exit(42)", None, 42, "`score.txt`: a link or no regular file"),
    ("os.mkfifo(feedback + 'nextpass.in'); sys.exit(42)", None, 42, "`nextpass.in`: a link or no regular file"),
    ("os.mkfifo(feedback + 'other'); sys.exit(42)", True, 42, ""),
    ("os.mkdir(feedback + 'score.txt'); sys.exit(42)", True, 42, ""),
    ("open(feedback + 'judgemessage.txt', 'w').truncate(1 << 20); sys.exit(42)", True, 42, ""),
    ("open(feedback + 'judgemessage.txt', 'w').truncate((1 << 20) + 1); sys.exit(42)", None, 42, "`judgemessage.txt`: 1048577 bytes, of"),
    ("open(feedback + 'huge', 'w').truncate(1 << 40); sys.exit(42)", None, None, ""),
    ("for n in range(500): open(feedback + str(n), 'w').write('x')\nsys.exit(42)", True, 42, ""),
    ("print('x' * 600000); open(feedback + 'x', 'w').write('x' * 600000); sys.exit(42)", None, 42, "wrote 1200001 bytes to its outputs and feedback files"),
    ("os.chmod(feedback, 0); sys.exit(42)", True, 42, ""),
    ("open(feedback + 'judgemessage.txt', 'w').write('x'); os.chmod(feedback, 0); sys.exit(42)", None, 42, "`judgemessage.txt`: Permission denied (EACCES)"),
    ("sys.stdout.close(); os.close(1); os.close(2); sys.exit(42)", True, 42, ""),
    ("os.chmod(0, 0); sys.exit(42)", True, 42, ""),
])  # fmt: skip
def test_what_a_validator_may_do(bench: Bench, source: str, accepted: bool | None, code: int | None, cause: str) -> None:
    """42 and 43 are answers; anything else is a judge's error that says what happened, and never AC or WA."""
    met = cause in ("(cpu-limit)", "(wall-limit)")
    limits = {"validation_time_ns": 300 * MS if met else 20 * S, "validation_memory_bytes": 100 * MB}
    if "Permission denied" in cause and os.geteuid() == 0:
        accepted, cause = True, ""  # root's supervisor reads it all the same
    found = check(bench, source, limits=limits)
    assert found.accepted is accepted, found
    assert not met or found.cause.endswith("; `limits.validation_time` says how much")
    assert found.failed == (cause == "(wall-limit)"), "for that alone a busy host may be the reason"
    if code is not None:
        assert found.exit == code, found
    if accepted is not True and cause:
        assert cause in found.cause, found.cause
    if accepted is not None:
        assert found.cause == cause


def test_a_gigabyte_of_output(bench: Bench) -> None:
    """It is ended at the limit, and what we keep of it is no more than that."""
    found = check(bench, "while True: os.write(2, b'x' * (1 << 20))", limits={"validation_output_bytes": 8 * MB})
    assert found.accepted is None and "output-limit" in found.cause and found.result is not None
    assert len(found.result.stderr or b"") <= 8 * MB + 1 and len(found.judge_message) < 600


def test_what_it_is_told(bench: Bench) -> None:
    """Input, answer, feedback directory with its separator, flags; the output as standard input in a file; a directory of its own."""
    source = """
    assert sys.argv[1:] == ["/judge/package/1.in", "/judge/package/1.ans", "/judge/feedback/", "float_tolerance", "a b"], sys.argv
    assert os.getcwd() + "/" == feedback and os.listdir(feedback) == [], os.listdir(feedback)
    assert open(input).read() == "1 2\\n" and open(answer).read() == "3\\n"
    assert os.fstat(0).st_size == 2 and sys.stdin.read() == "3\\n"
    for path in (input, answer, "/judge/program/main.py"):
        try: open(path, "a")
        except OSError: continue
        sys.exit("it can write " + path)
    open(feedback + "teammessage.txt", "w").write("for the team")
    open(feedback + "judgemessage.txt", "wb").write(b"\\x1b[1mfor judges\\xff")
    sys.exit(42)
    """
    found = check(bench, source, flags=("float_tolerance", "a b"))
    assert found.accepted is True, (found.cause, found.judge_message, found.notes)
    assert (found.team_message, found.judge_message) == ("for the team", "\\x1b[1mfor judges\ufffd")


def test_files_beside_the_stage(bench: Bench) -> None:
    """An input or answer that lies elsewhere, or that could not be read inside, is given as a copy."""
    case = bench.case()
    source = "assert input.startswith(feedback + '.given-by-the-judge/') == answer.startswith(feedback + '.given-by-the-judge/') == True, input\n" + SAME
    validator = bench.validator(source)
    elsewhere = bench.directory / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for name, path in (("in", case.input), ("ans", case.answer)):
        (elsewhere / name).write_bytes(Path(path).read_bytes())
    moved = replace(case, input=str(elsewhere / "in"), answer=str(elsewhere / "ans"))
    with ValidatorChecker([validator], bench.problem([case])) as checker:
        assert checker.check(moved, b"3\n").accepted is True
        assert checker.check(moved, b"4\n").accepted is False
    if os.geteuid() == 0:
        with ValidatorChecker([validator], bench.problem([moved])) as checker:
            found = checker.check(moved, b"3\n")
            assert found.accepted is True, found


def test_several_must_all_accept(bench: Bench) -> None:
    """A legacy package may have several: the first that does not accept decides, and their words are all kept."""
    yes, no, broken = (f"open(feedback + 'judgemessage.txt', 'w').write('{word}'); sys.exit({code})" for word, code in (("yes", 42), ("no", 43), ("bad", 1)))
    found = check(bench, yes, yes)
    assert (found.accepted, found.judge_message) == (True, "yes\nyes")
    found = check(bench, yes, no, broken)
    assert (found.accepted, found.judge_message) == (False, "yes\nno") and "rejected it: no" in found.cause
    found = check(bench, yes, broken, no)
    assert found.accepted is None and "exit 1" in found.cause


@pytest.mark.parametrize(("source", "problem", "score", "cause"), [
    ("open(feedback + 'score.txt', 'w').write('12.5'); sys.exit(42)", {"custom_score": True}, 12.5, ""),
    ("open(feedback + 'score.txt', 'w').write('-1'); sys.exit(42)", {"custom_score": True}, -1.0, ""),
    ("open(feedback + 'score.txt', 'w').write('-1'); sys.exit(42)", {"custom_score": True, "format": Format.V2025_09}, None, "-1 is negative"),
    ("open(feedback + 'score.txt', 'w').write('1'); sys.exit(42)", {}, None, "lets validators give no score"),
    ("open(feedback + 'score.txt', 'w').write('1'); sys.exit(43)", {"custom_score": True}, None, "it wrote `score.txt` and rejected the output"),
    ("sys.exit(42)", {"custom_score": True}, None, "it wrote no `score.txt`, which the problem demands"),
    ("sys.exit(42)", {"custom_score": True, "format": Format.V2025_09}, None, ""),
])  # fmt: skip
def test_scores(bench: Bench, source: str, problem: Mapping[str, Any], score: float | None, cause: str) -> None:
    """They are numbers, and the format says who may give them."""
    found = check(bench, source, scoring=True, **problem)
    assert found.score == score or found.accepted is None
    assert (found.accepted is None) == bool(cause) and cause in found.cause, found


def test_a_hostile_output_breaks_a_validator(bench: Bench) -> None:
    """What a contestant prints may crash a careless validator: that is told as what it is, with what the validator said, and is neither AC nor WA."""
    source = "sys.exit(42 if eval(sys.stdin.read()) == 3 else 43)"
    assert check(bench, source, output=b"1 + 2").accepted is True
    for output in (b"((" * 5000, b"__import__('os').abort()", b"1/0", b"\xff\x00"):
        found = check(bench, source, output=output)
        assert found.accepted is None and found.cause, found
    found = check(bench, source, output=b"1/0")
    assert "ZeroDivisionError" in found.judge_message and any("ZeroDivisionError" in note for note in found.notes)
    # What eval lets it do stays in the validator's sandbox: the package is read-only there, the host is not there, and it has no other case's output.
    case = bench.case()
    check(bench, source, output=f"open({case.answer!r}, 'w').write('9')".encode())
    check(bench, source, output=b"open('/judge/package/1.ans', 'w').write('9')")
    assert Path(case.answer).read_bytes() == b"3\n"


def test_nothing_is_left_for_the_next_check(bench: Bench) -> None:
    """Each run has a feedback directory, a /tmp and a /dev/shm of its own."""
    source = """
    places = [feedback, "/tmp/", "/dev/shm/"]
    if any(os.path.exists(place + "left") for place in places): sys.exit(1)
    for place in places: open(place + "left", "w").write("x")
    sys.exit(42)
    """
    case = bench.case()
    with ValidatorChecker([bench.validator(source)], bench.problem([case])) as checker:
        for _ in range(3):
            assert checker.check(case, b"").accepted is True


# ---- more passes than one --------------------------------------------------------------------------------------

ECHO = "import sys; print(sys.stdin.read().strip())"
COUNT = """
seen = open(input).read().strip()
assert seen == sys.stdin.read().strip()
log = open(feedback + "log", "a+"); log.write(seen + ";"); log.flush()
log.seek(0); passes = log.read()
open(feedback + "judgemessage.txt", "a").write(f"pass with {seen}\\n")
if os.path.exists(feedback + "nextpass.in"): sys.exit("it is still there")
if passes.count(";") > 1 and not os.path.exists(feedback + "my_nextpass.in"): sys.exit("a file of another name is gone")
open(feedback + "my_nextpass.in", "w").close()
if passes.count(";") < int(sys.argv[4]):
    open(feedback + "nextpass.in", "w").write(str(passes.count(";")))
sys.exit(int(sys.argv[5]) if len(sys.argv) > 5 and passes.count(";") == int(sys.argv[4]) else 42)
"""


@pytest.mark.parametrize(("flags", "passes", "flag", "cause", "message"), [
    (("1",), 1, (), "", "pass with 1 2\n"),
    (("3",), 3, (), "", "pass with 1 2\npass with 1\npass with 2\n"),
    (("3", "43"), 3, (Code.WA,), "pass 3: output validator `program-2` rejected it: pass with 1 2", "pass with 1 2\npass with 1\npass with 2\n"),
    (("3", "7"), 3, (Code.JE,), "pass 3: output validator `program-2`: exit 7, which is neither 42 nor 43", "pass with 1 2\npass with 1\npass with 2\n"),
    (("9",), 4, (Code.JE,), "pass 4: the output validator asks for more passes than 4", "pass with 1 2\npass with 1\npass with 2\npass with 3\n"),
])  # fmt: skip
def test_passes(bench: Bench, flags: tuple[str, ...], passes: int, flag: tuple[Code, ...], cause: str, message: str) -> None:
    """The next input is the validator's, its files stay but for that one, and there is an end."""
    case = bench.case(output_validator_flags=flags)
    problem = bench.problem([case], multi_pass=True, limits={"validation_passes": 4})
    with Runner(bench.program(ECHO)) as runner, open_checker(problem, [bench.validator(COUNT)]) as checker:
        found = judge_case(runner, checker, problem, case, LIMITS)
    assert (found.flags, found.passes, found.cause, found.judge_message) == (flag, passes, cause, message), found


def test_the_largest_pass_counts(bench: Bench) -> None:
    """Limits are of each pass: the figures are those of the one that used most, and one over its limit ends it."""
    source = """
    import sys, time
    number = int(sys.stdin.read().split()[0])
    while time.process_time() < [0, 1, 0.9][number]: pass
    print(number)
    """
    validator = "number = int(sys.stdin.read())\nif number < 2: open(feedback + 'nextpass.in', 'w').write(str(number + 1))\nsys.exit(42)"
    case = bench.case(input=b"0")
    problem = bench.problem([case], multi_pass=True, limits={"validation_passes": 5})
    with Runner(bench.program(source)) as runner, open_checker(problem, [bench.validator(validator)]) as checker:
        found = judge_case(runner, checker, problem, case, replace(LIMITS, cpu_ns=5 * S))
        assert found.code is Code.AC and found.passes == 3 and S <= found.cpu_ns < 1900 * MS, found
        found = judge_case(runner, checker, problem, case, replace(LIMITS, cpu_ns=700 * MS))
        assert (found.code, found.passes) == (Code.TLE, 2) and found.cause.startswith("pass 2: CPU time"), found


def test_a_next_pass_that_was_not_asked_for(bench: Bench) -> None:
    """In a problem of one pass the file means nothing; in a rejection it is a judge's error."""
    accept = "open(feedback + 'nextpass.in', 'w').write('x'); sys.exit(42)"
    case = bench.case()
    problem = bench.problem([case])
    with Runner(bench.program(ECHO)) as runner, open_checker(problem, [bench.validator(accept)]) as checker:
        assert judge_case(runner, checker, problem, case, LIMITS).code is Code.AC
    found = check(bench, accept.replace("42", "43"), multi_pass=True)
    assert found.accepted is None and "it wrote `nextpass.in` and rejected the output" in found.cause


# ---- input validators and graders ------------------------------------------------------------------------------


def test_input_validators(bench: Bench) -> None:
    """42 accepts, anything else rejects, a limit says nothing; flags are everybody's or by name, the case's own words follow."""
    programs = [
        bench.program("import sys; sys.exit(42 if len(sys.stdin.read().split()) == 2 else 43)", profile="judge-validate"),
        bench.program("import sys; assert int(input().split()[0]) < 10; sys.exit(42)", profile="judge-validate"),
    ]
    good, bad = bench.case(1), bench.case(2, input=b"11 2\n")
    problem = bench.problem([good, bad])
    with InputChecker(programs, problem) as checker:
        assert [each.accepted for each in checker.check(good)] == [True, True]
        found = checker.check(bad)
        assert [each.accepted for each in found] == [True, False] and "AssertionError" in found[1].message and found[1].cause == "exit 1"
        assert all_accept(checker.check(good)) is True and all_accept(found) is False
    with InputChecker([bench.program("import sys; sys.exit(0)", profile="judge-validate")], problem) as checker:
        assert checker.check(good)[0].cause == "exit 0, and only 42 accepts"
    spin = bench.program("while True: pass", profile="judge-validate")
    with InputChecker([spin], bench.problem([good, bad], limits={"validation_time_ns": 300 * MS})) as checker:
        found = checker.check(good)
        assert found[0].accepted is None and "cpu-limit" in found[0].cause and all_accept(found) is None
    words = bench.program("import sys, os; print(sys.argv[1:], sorted(os.listdir('.'))); sys.exit(42)", profile="judge-validate", name="words.py")
    words = replace(words, name="input_validators/words.py", command=(*words.command[:-1], "/judge/program/words.py"))
    files = bench.directory / "1.files"
    files.mkdir()
    (files / "beside").touch()
    for by_name, told in ((None, ["a"]), ({"words": ("b",)}, ["b"]), ({"words.py": ("c",)}, ["c"]), ({"other": ("d",)}, [])):
        case = bench.case(input_validator_flags=("a",), input_validator_flags_for=by_name, args=("z",), files=str(files))
        with InputChecker([words], problem) as checker:
            assert checker.check(case)[0].message == f"{[*told, 'z']} ['beside']"


@pytest.mark.parametrize(("source", "code", "told"), [
    ("sys.exit(42)", Code.AC, ""),
    ("sys.exit(43 if 'eval' in open(entry).read() else 42)", Code.WA, "rejected it"),
    ("open(feedback + 'judgemessage.txt', 'w').write('no eval'); sys.exit(43)", Code.WA, "rejected it: no eval"),
    ("sys.exit(0)", Code.JE, "exit 0, which is neither 42 nor 43"),
    ("os.abort()", Code.JE, "signal 6 (SIGABRT)"),
    ("while True: pass", Code.JE, "(cpu-limit)"),
    ("os.symlink('/etc/passwd', feedback + 'score.txt'); sys.exit(42)", Code.JE, "`score.txt`: a link or no regular file"),
    ("open(feedback + 'huge', 'w').write('x' * 3000000); sys.exit(42)", Code.JE, ""),
    # What the submission brought is no feedback, wherever it lies.
    ("assert sys.argv[1:3] == ['python3', 'main.py'] and sys.argv[4:] == ['a b']; sys.exit(42)", Code.AC, ""),
    ("assert sorted(os.listdir('.'))[1:] == ['judgemessage.txt', 'main.py', 'nextpass.in', 'score.txt'], os.listdir('.'); sys.exit(42)", Code.AC, ""),
    ("assert os.listdir(feedback) == ['.keep'], os.listdir(feedback); sys.exit(42)", Code.AC, ""),
])  # fmt: skip
def test_static_validators(bench: Bench, source: str, code: Code, told: str) -> None:
    """They see the submission's files in their working directory, say what output validators say, and get no feedback from the submission."""
    program = bench.program("import os, sys\nlanguage, entry, feedback = sys.argv[1:4]\n" + source, profile="judge-validate")
    files = {"main.py": b"eval(input())", "score.txt": b"100", "judgemessage.txt": b"forged", "nextpass.in": b"", f"{FEEDBACK}/score.txt": b"100"}
    limits = {"validation_time_ns": 300 * MS if told == "(cpu-limit)" else 20 * S}
    problem = bench.problem([], limits=limits, scoring=True, custom_score=True, format=Format.V2025_09)
    group = Group(name="secret", grading=Grading(aggregation="sum", static_validation_score=20.0, static_validator_args=("a b",)), children=())
    with StaticChecker(program, problem) as checker:
        found = checker.check(Submission(name="x", files=files), "python3", "main.py", group)
    assert (found.code, found.score) == (code, None) and "forged" not in found.judge_message, found
    assert told in found.cause and (code is not Code.AC) == bool(found.cause), found


@pytest.mark.parametrize(("source", "code", "score", "cause"), [
    ("import sys; print('AC', sum(float(line.split()[1]) for line in sys.stdin))", Code.AC, 3.5, ""),
    ("import sys; print('  WA   7  ')", Code.WA, None, ""),
    ("import sys; sys.stdout.write('TLE 0')", Code.TLE, None, ""),
    ("import sys; print('AC', sys.argv[1])", Code.AC, 60.0, ""),
    ("import sys; print([line.split()[0] for line in sys.stdin])", Code.JE, None, "printed no verdict and score but \"['AC', 'RTE', 'TLE']\\n\""),
    ("print('AC')", Code.JE, None, "printed no verdict and score but 'AC\\n'"),
    ("print('AC nan')", Code.JE, None, "printed no verdict"),
    ("print('AC 1e999')", Code.JE, None, "a score that no number holds"),
    ("print('AC 1'); print('AC 2')", Code.JE, None, "printed no verdict"),
    ("print('XX 1')", Code.JE, None, "printed no verdict"),
    ("", Code.JE, None, "printed no verdict and score but ''"),
    ("print('AC 1'); raise SystemExit(1)", Code.JE, None, "exit 1 (nonzero-exit)"),
    ("raise ValueError('why')", Code.JE, None, "ValueError: why"),
    ("while True: pass", Code.JE, None, "(cpu-limit)"),
    ("while True: print('AC 1')", Code.JE, None, "(output-limit)"),
])  # fmt: skip
def test_graders(bench: Bench, source: str, code: Code, score: float | None, cause: str) -> None:
    """One line comes back, or it is a judge's error; a score counts only with AC."""
    problem = bench.problem([], limits={"validation_time_ns": 300 * MS if cause == "(cpu-limit)" else 20 * S})
    with GraderProgram(bench.program(source, profile="judge-validate"), problem) as grader:
        found = grader.grade([(Code.AC, 1.5), (Code.NZE, None), (Code.WTL, 2.0)], ("60",))
    assert (found.code, found.score) == (code, score) and cause in found.cause, found
