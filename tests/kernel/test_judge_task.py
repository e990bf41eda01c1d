"""`judge.Task` with real programs: what each way of testing accepts and refuses, and what no submission can do about it."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import judge
from sandbox.judge import Code, Part, Task, Test, task_play

pytestmark = [pytest.mark.userns, pytest.mark.seccomp]

SECRET = "ecclesia-7781-kolossos"
ADD = """
def add(a, b):
    return a + b

if __name__ == "__main__":
    print(add(*map(int, input().split())), flush=True)
"""


LONG = 120.0
"""Seconds that no program here takes, so that none is taken for idle on a host where everybody waits for a processor."""


def _task(*tests: Test, **settings: object) -> Task:
    return Task(tests, **{"language": "python3", "time_limit": 2.0, "wall_limit": LONG, **settings})  # type: ignore[arg-type]


def _limits(code: Code | None) -> dict[str, float]:
    """Limits of time: short where they are to be met."""
    return {"time_limit": 0.5 if code is Code.TLE else 10.0, "wall_limit": 2.0 if code is Code.WTL else LONG}


def _codes(result: judge.TaskResult) -> list[Code]:
    return [test.code for test in result.tests]


# ---- plain runs -------------------------------------------------------------------------------------------------


def test_points_checkers_and_hidden_tests() -> None:
    def check(output: judge.Output) -> tuple[float, str]:
        (number,) = output.integers()
        return (0.5, "near") if number == 8 else (number == 7, "")

    task = _task(
        Test("1 2\n", "3\n", name="sample"),
        Test("3 4\n", name="checked", checker=check, points=4),
        Test("9 9", "18", name="secret", hidden=True),
        name="sum",
    )
    good = task.grade(ADD, name="alice")
    assert (good.code, good.points, good.max_points, good.ok, good.language) == (Code.AC, 6, 6, True, "python3")
    near = task.grade(ADD.replace("a + b", "a + b + 1"))
    assert (near["checked"].points, near["checked"].code, near["checked"].feedback) == (2.0, Code.WA, "wrong answer; near")
    assert near.points == 2.0 and near["sample"].feedback.startswith("wrong answer; line 1, token 1")
    none = task.grade("print('seven')")
    assert _codes(none) == [Code.WA, Code.WA, Code.WA] and "is no number" in none["checked"].feedback


def test_files_arguments_and_exit_codes() -> None:
    source = """
import os, sys
assert sorted(os.listdir(".")) == ["in.txt"], os.listdir(".")
if len(sys.argv) != 3:
    sys.exit(2)
os.mkdir("logs")
open("logs/one", "w").write("1")
open(sys.argv[2], "w").writelines(sorted(open(sys.argv[1])))
"""
    files = {"in.txt": "3\n1\n2\n"}
    task = _task(
        Test(args=["in.txt", "out.txt"], files=files, expected_files={"out.txt": "1\n2\n3\n"}),
        Test(args=["in.txt", "out.txt"], files=files, collect=["logs/*"], checker=lambda output: output.files == {"logs/one": b"1"}),
        Test(args=["in.txt", "out.txt"], files=files, expected_files={"other.txt": ""}),
        Test(files=files, exit_code=2),
        Test(files=files),
        Test(args=["a", "b", "c"], files=files, exit_code=None),
    )
    result = task.grade(source)
    assert _codes(result) == [Code.AC, Code.AC, Code.WA, Code.AC, Code.NZE, Code.AC]
    assert result.tests[2].message == "file `other.txt` was not written"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("while True: pass", Code.TLE),
        ("import time; time.sleep(60)", Code.WTL),
        ("x = bytearray(400 << 20)", Code.NZE),
        ("print('x' * 200_000)", Code.OLE),
        ("import os; os.kill(os.getpid(), 11)", Code.RTE),
        ("raise SystemExit(4)", Code.NZE),
        ("def f(:", Code.CE),
    ],
)
def test_how_programs_fail(source: str, code: Code) -> None:
    task = _task(Test(), **_limits(code), output_limit="64K")
    result = task.grade(source)
    if source.startswith("x ="):  # without a counting cgroup the allocation is refused, and Python says so; with one it may be killed
        assert result.code in (Code.NZE, Code.MLE)
    else:
        assert result.code is code, result.render(private=True)
    assert result.points == 0 and result.complete
    if code is Code.CE:
        assert result.tests[0].skipped == "does not compile"
        assert "main.py" in result.compiler_output or "main.py" in result.cause


def test_groups_and_stopping() -> None:
    tests = [Test(str(number), str(number), group="small" if number < 3 else "large", name=str(number)) for number in range(6)]
    task = _task(*tests, groups={"small": 30, "large": 70}, stop=True)
    result = task.grade("n = int(input())\nprint(n if n != 3 else 0)")
    assert [(group.name, group.points) for group in result.groups] == [("small", 30.0), ("large", 0.0)]
    assert [test.name for test in result.tests if test.skipped] == ["4", "5"]
    assert result.points == 30 and result.code is Code.WA


def test_one_run_of_a_compiled_program(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = tmp_path / "sum.c"
    source.write_text('#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }\n')
    good = judge.run_case(source, "1 2", "3")
    assert good.ok and good.case is not None and good.case.cpu_ns > 0
    assert judge.run_case(source, "1 2", "4").code is Code.WA
    broken = judge.run_case({"x.c": "int main(void) {"}, "1 2", "3")
    assert broken.code is Code.CE and b"x.c" in broken.stderr


@pytest.mark.parametrize("language", ["python3", "pypy3"])
def test_text_in_a_stated_language(language: str) -> None:
    result = Task([Test(call=_units), Test("1 2", "3")], language=language, time_limit=10, wall_limit=LONG).grade(ADD)
    if language == "pypy3" and shutil.which("pypy3") is None:
        assert (result.code, result.complete) == (Code.JE, False) and "PyPy" in result.cause
    else:
        assert result.ok and result.language == language, result.render(private=True)


NAMED = {
    "java": (
        "javac",
        "/* public class Main */\nimport java.util.*;\nclass Doubler { static int of(int n) { return 2 * n; } }\npublic class Solution {\n"
        "    public static void main(String[] args) { System.out.println(Doubler.of(new Scanner(System.in).nextInt())); }\n}\n",
        "Solution",
        "Other",
    ),
    "erlang": (
        "erlc",
        '-module(solution).\n-export([main/1]).\nmain(_) -> {ok, [N]} = io:fread("", "~d"), io:format("~w~n", [2 * N]).\n',
        "solution.erl",
        "other.erl",
    ),
    "modula2": (
        "gm2",
        "MODULE solution;\nFROM StrIO IMPORT WriteString, WriteLn;\nBEGIN\n  WriteString (\"42\"); WriteLn\nEND solution.\n",
        "solution",
        "",  # its compiler starts the file that there is
    ),
}


@pytest.mark.parametrize("language", NAMED)
def test_text_becomes_a_file_of_the_name_that_its_compiler_wants(language: str) -> None:
    compiler, text, name, other = NAMED[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    limits = {"time_limit": 10, "wall_limit": LONG, "memory_limit": "512M"}
    made = judge.run_case(text, "21", "42", language=language, **limits)  # type: ignore[arg-type]
    assert made.ok, (made.cause, made.stderr)
    stated = judge.run_case(text, "21", "42", language=language, entrypoint=name, **limits)  # type: ignore[arg-type]
    assert stated.ok, (stated.cause, stated.stderr)
    if other:
        wrong = judge.run_case(text, "21", "42", language=language, entrypoint=other, **limits)  # type: ignore[arg-type]
        assert wrong.code is Code.CE and name.removesuffix(".erl").encode() in wrong.stderr, "what the author states wins"


def test_an_absent_language_is_nobodys_fault(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text(
        'name = "None"\nextensions = [".none"]\npriority = 1\nentry = "file"\n[[toolchain]]\nneeds = { none = "no-such-compiler" }\n'
        'version = ["{none}", "--version"]\nrun = ["{none}", "{main}"]\n'
    )  # fmt: skip
    from sandbox.judge.languages.table import load_languages

    result = Task([Test()], languages=load_languages([str(tmp_path)])).grade({"x.none": ""})
    assert (result.code, result.complete, result.points) == (Code.JE, False, 0)
    assert "None" in result.cause


# ---- functions of the submission, and dialogues -----------------------------------------------------------------


def _units(student: judge.Student) -> None:
    assert student.add(1, 2) == 3
    with student.raises_("TypeError"):
        student.add(1, "x")


UNITS = """
assert add(1, 2) == 3
try:
    add(1, "x")
except StudentError as error:
    assert error.kind == "TypeError"
else:
    raise AssertionError("took a text")
"""

CHEATS = {
    "right": (ADD, Code.AC),
    "wrong": (ADD.replace("a + b", "a - b"), Code.WA),
    "raises": (ADD.replace("return a + b", "raise KeyError('k')"), Code.RTE),
    "equal to everything": ("class Yes:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\ndef add(a, b): return Yes()", Code.WA),
    "a number that is equal": ("class Yes(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Yes(7)", Code.WA),
    "ends well at once": ("import os\nos._exit(0)", Code.WA),
    "ends well when called": ("import os\ndef add(a, b): os._exit(0)", Code.WA),
    "exits": ("import sys\ndef add(a, b): sys.exit(0)", Code.RTE),
    "crashes": ("import os\ndef add(a, b): os.kill(os.getpid(), 6)", Code.RTE),
    "kills all": ("import os\ndef add(a, b): os.kill(-1, 9)", None),
    "loops": ("def add(a, b):\n    while True: pass", Code.TLE),
    "sleeps": ("import time\ndef add(a, b): time.sleep(600)", Code.WTL),
    "writes answers of its own": (
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'{\"id\": 1, \"value\": 3}\\n' * 9)\n    except OSError: pass\n"
        "def add(a, b): return 0", Code.WA,
    ),
    "changes the assertions": (
        "import builtins, sys\nbuiltins.AssertionError = type('A', (Exception,), {'__init__': lambda *_: sys.exit(0)})\n"
        "for frame in [sys._getframe(n) for n in range(3)]: frame.f_globals.update(status=0)\ndef add(a, b): return 0", Code.WA,
    ),
    "a thread that stays": ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n" + ADD, Code.AC),
    "is not there": ("def subtract(a, b): return a - b", Code.RTE),
    "does not load": ("1 / 0", Code.RTE),
}  # fmt: skip


@pytest.mark.parametrize("way", ["call", "code"])
@pytest.mark.parametrize("name", CHEATS)
def test_units_and_those_who_cheat_at_them(name: str, way: str) -> None:
    source, code = CHEATS[name]
    result = _task(Test(call=_units) if way == "call" else Test(code=UNITS), **_limits(code)).grade(source)
    if code is None:  # how a sandbox words it whose processes kill each other differs; nobody is accepted, and the judge has not failed
        assert result.code not in (Code.AC, Code.JE), result.render(private=True)
    else:
        assert result.code is code, result.render(private=True)
    assert result.ok == (code is Code.AC)


def test_what_the_separation_is_for() -> None:
    """The control: with the tests in the submission's own process, as harnesses have it, ending early is passing."""
    cheat, honest = "import os\ndef add(a, b): os._exit(0)\n", "def add(a, b): return 0\n"
    joined = _task(Test())
    assert joined.grade(cheat + UNITS.replace("StudentError", "TypeError")).ok
    assert not joined.grade(honest + UNITS.replace("StudentError", "TypeError")).ok
    assert not _task(Test(code=UNITS)).grade(cheat).ok


def test_a_wrong_test_is_not_the_submissions_fault() -> None:
    def wrong(student: judge.Student) -> None:
        student.add(object(), 1)

    assert _codes(_task(Test(call=wrong), Test(code="add(object(), 1)")).grade(ADD)) == [Code.JE, Code.JE]


def test_a_test_that_exits_ends_no_grader() -> None:
    task = _task(Test(call=lambda _: sys.exit(1)), Test(talk=lambda _: sys.exit(0)), Test("1 2\n", checker=lambda _: sys.exit(42)))
    for result in task.grade_all({"ada": ADD, "ben": ADD}):
        assert _codes(result) == [Code.JE] * 3 and not result.complete
        assert "SystemExit: 42" in result.tests[2].cause


def test_text_that_is_not_all_characters_keeps_no_other_from_being_graded() -> None:
    results = list(_task(Test("1 2\n", "3\n")).grade_all({"eve": json.loads('"print(\'\\ud800\')"'), "ada": ADD}))
    assert [result.code for result in results] == [Code.CE, Code.AC] and "U+D800" in results[0].cause


def test_tests_that_loop_are_not_the_submissions_fault() -> None:
    result = _task(Test(code="while True: pass"), time_limit=0.2, wall_limit=30).grade(ADD)
    assert result.code is Code.JE and not result.complete, result.render(private=True)


def test_only_python_can_be_called() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    result = Task([Test(call=_units)]).grade({"x.c": "int main(void) { return 0; }"})
    assert result.code is Code.CE and "has to be Python" in result.tests[0].cause


def test_what_a_called_function_reads_and_prints() -> None:
    def call(student: judge.Student) -> None:
        assert student.shout() == 3
        assert student.printed_() == "ABC"

    source = "import sys\ndef shout():\n    return sys.stdout.write(sys.stdin.read().upper())\n"
    assert _task(Test("abc", call=call)).grade(source).ok


def _guess(program: judge.Dialogue) -> object:
    secret = 417
    for _ in range(10):
        number = int(program.read_line())
        if number == secret:
            program.write_line("right")
            return True
        program.write_line("less" if secret < number else "more")
    return 0.0, "ten guesses are enough"


GUESSER = """
low, high = 1, 1000
while True:
    middle = (low + high) // 2
    print(middle, flush=True)
    answer = input()
    if answer == "right": break
    if answer == "less": high = middle - 1
    else: low = middle + 1
"""


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (GUESSER, Code.AC),
        (GUESSER.replace("(low + high) // 2", "low"), Code.WA),
        (GUESSER.replace("middle, flush", "'x', flush"), Code.WA),
        ("", Code.WA),
        ("input()", Code.WTL),
        ("print(500, flush=True)\nwhile True: pass", Code.TLE),
        ("print('5' * (1 << 22))", Code.OLE),
        ("while True: print(1, flush=True)", Code.WA),
        ("import os\nos.close(0)\nwhile True: os.write(1, b'500\\n')", Code.OLE),
        (GUESSER.replace("break", "\n        while True: print('x' * 4096)"), Code.OLE),
        (GUESSER.replace("break", "raise SystemExit(3)"), Code.NZE),
        (GUESSER.replace("break", "import time; time.sleep(600)"), Code.WTL),
        ("import os; os.close(1); os.close(0)\nwhile True: pass", Code.TLE),
    ],
)
def test_a_dialogue(source: str, code: Code) -> None:
    result = _task(Test(talk=_guess), **_limits(code), output_limit="1M").grade(source)
    assert result.code is code, result.render(private=True)
    if code is Code.AC:
        assert result.tests[0].transcript[:2] == ("< 500", "> less")


# ---- several programs -------------------------------------------------------------------------------------------

CODEC = """
import sys
sent = input()
print(sent[::-1], flush=True)
"""
REFEREE = """
import sys
secret, answer = int(open("input").read()), open("answer").read()
for line in sys.stdin:
    if line.strip() == str(secret):
        sys.exit(42)
    print("less" if line.strip().isdigit() and secret < int(line) else "more", flush=True)
print("gave up, " + answer, file=sys.stderr)
sys.exit(43)
"""


@pytest.mark.parametrize(
    ("source", "code", "who"),
    [
        (CODEC, Code.AC, ""),
        (CODEC.replace("[::-1]", "[1:]"), Code.WA, ""),
        ("import sys\nif sys.argv[1] == 'encode': sys.exit(5)\ninput()", Code.NZE, "sender"),
        ("import sys\nif sys.argv[1] == 'encode':\n    while True: pass\ninput()", Code.TLE, "sender"),
    ],
)
def test_two_runs_of_a_submission_with_a_pipe(source: str, code: Code, who: str) -> None:
    task = _task(
        Test("hello\n", "hello\n"),
        parts={"sender": Part(args=["encode"]), "receiver": Part(args=["decode"])},
        pipes=[("sender", "receiver")],
        **_limits(code),
    )
    result = task.grade(source)
    assert result.code is code, result.render(private=True)
    case = result.tests[0].case
    assert case is not None and case.blame == who


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (GUESSER.replace("answer = input()", "answer = input() if middle != 417 else 'right'"), Code.AC),
        ("print(1)", Code.WA), ("input()", Code.WTL), ("raise ValueError", Code.NZE),
    ],
)  # fmt: skip
def test_a_referee_of_the_authors(source: str, code: Code) -> None:
    task = _task(
        Test("417", "the answer is 417"), parts={"referee": Part({"referee.py": REFEREE}), "guesser": Part()}, referee="referee",
        pipes=[("referee", "guesser"), ("guesser", "referee")],
    )  # fmt: skip
    result = task.grade(source)
    assert result.code is code, result.render(private=True)
    if code is Code.WA:
        assert "gave up, the answer is 417" in result.tests[0].cause


def test_the_authors_own_part_that_fails_blames_nobody() -> None:
    broken = _task(
        Test(), parts={"referee": Part({"r.py": "1 / 0"}), "a": Part()}, referee="referee", pipes=[("referee", "a"), ("a", "referee")]
    )
    failed = broken.grade("input()").tests[0]
    assert failed.code is Code.JE and failed.cause.endswith("referee: exit 1: ZeroDivisionError: division by zero")
    assert "Traceback" in failed.private and "Zero" not in failed.feedback, "for the author alone"
    unbuilt = _task(
        Test(), parts={"referee": Part({"r.py": "def f(:"}), "a": Part()}, referee="referee", pipes=[("referee", "a"), ("a", "referee")]
    )
    result = unbuilt.grade("input()")
    assert result.code is Code.JE and "the author's part `referee`" in result.cause


YES = "import os\nos.write(1, b'4\\n')\nwhile True: os.write(1, bytes(65536))\n"
FEEDERS = {"a great deal": YES, "a little at a time": "print(4)\nwhile True: print(0, flush=True)\n"}


def _feed(feeder: str) -> judge.TaskResult:
    parts = {"feeder": Part(program={"main.py": feeder}, language="python3"), "solver": Part()}
    return _task(Test(expected="8"), parts=parts, pipes=[("feeder", "solver")]).grade("print(2 * int(input()))")


@pytest.mark.parametrize("feeder", FEEDERS.values(), ids=FEEDERS)
def test_the_authors_own_part_may_write_for_ever_to_one_that_ends(feeder: str) -> None:
    result = _feed(feeder)
    assert result.ok, result.render(private=True)
    assert any("feeder has ended: signal 9" in line for line in result.tests[0].transcript[-3:]), "it would have gone on"


def test_without_an_end_with_its_reader_it_would_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    party = task_play.Party
    monkeypatch.setattr(task_play, "Party", lambda **settings: party(**{**settings, "ends_with_reader": False}))
    result = _feed(YES)
    assert result.code is Code.JE and "feeder: wrote more than" in result.tests[0].cause and "nobody read" in result.tests[0].cause


LATE_REFEREE = "import sys, time\nwords = sys.stdin.read().split()\ntime.sleep(3)\nsys.exit(42 if words == ['8'] else 43)\n"  # later than the feeder's end
DEAF = "import os, time\nprint({answer}, flush=True)\nos.close(0)\ntime.sleep(5)\n"


@pytest.mark.parametrize(("answer", "code"), [(8, Code.AC), (9, Code.WA)])
def test_the_end_of_a_part_with_its_reader_takes_no_time_from_the_referee(answer: int, code: Code) -> None:
    parts = {
        "feeder": Part(program={"main.py": YES}, language="python3"), "solver": Part(),
        "referee": Part(program={"main.py": LATE_REFEREE}, language="python3"),
    }  # fmt: skip
    task = _task(Test(), parts=parts, pipes=[("feeder", "solver"), ("solver", "referee")], referee="referee", wall_limit=60)
    result = task.grade(DEAF.format(answer=answer))
    assert result.code is code, result.render(private=True)


def test_a_submissions_part_that_writes_for_ever_to_one_that_ends_is_to_blame() -> None:
    source = "import os, sys\nif sys.argv[1] == 'encode':\n    while True: os.write(1, bytes(65536))\n"
    parts = {"sender": Part(args=["encode"]), "receiver": Part(args=["decode"])}
    result = _task(Test(expected=""), parts=parts, pipes=[("sender", "receiver")]).grade(source)
    assert result.code is Code.OLE and result.tests[0].case is not None and result.tests[0].case.blame == "sender"


# ---- what submissions cannot reach ------------------------------------------------------------------------------

SEARCH = f"""
import os, sys
marker = "".join([{SECRET[:8]!r}, {SECRET[8:]!r}])  # a sum of the two would be folded, and found in the compiled file
seen = []
def look(path):
    try:
        if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
            with open(path, "rb") as file:
                if marker.encode() in file.read() and os.path.abspath(path) != os.path.abspath(__file__):
                    seen.append(path)
    except OSError:
        pass
for top in ("/judge", "/tmp", "/home", "/root", "/run", "/dev/shm", "/var/tmp", "/mnt", "/srv", "/opt", os.getcwd(), os.path.expanduser("~")):
    for folder, _, names in os.walk(top):
        for name in names[:2000]:
            look(os.path.join(folder, name))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "mountinfo"):
        look(f"/proc/{{pid}}/{{name}}")
    try:
        for fd in os.listdir(f"/proc/{{pid}}/fd"):
            look(f"/proc/{{pid}}/fd/{{fd}}")
    except OSError:
        pass
print("found" if seen else "nothing", *seen)
"""


def test_nothing_that_is_expected_can_be_found() -> None:
    tests = [Test(SECRET.replace("7781", "other"), SECRET, name="answer", exit_code=0), Test("x", "nothing", name="search")]
    found = _task(*tests, time_limit=60, wall_limit=120).grade(SEARCH)["search"]  # a search of a machine takes as long as it takes
    assert found.ok, (found.code, found.case)
    # The control: what the author puts beside the submission is found.
    assert (
        _task(Test("x", "nothing"), include={"notes.txt": SECRET})
        .grade(SEARCH)
        .tests[0]
        .stdout.startswith(b"found /judge/program/notes.txt")
    )


def test_nothing_of_one_test_is_there_in_the_next() -> None:
    source = """
import os
left = [os.path.join(top, name) for top in (".", "/tmp", "/dev/shm", "/var/tmp") if os.path.isdir(top) for name in os.listdir(top)]
for top in (".", "/tmp", "/dev/shm", "/var/tmp", "/judge/program"):
    try:
        open(os.path.join(top, "mark"), "w").write("1")
    except OSError:
        pass
print(*left)
"""
    result = _task(Test(expected=""), Test(expected=""), Test(expected="")).grade(source)
    assert result.ok, result.render(private=True)


# ---- many -------------------------------------------------------------------------------------------------------


def test_a_class_is_graded_whatever_one_of_it_hands_in(tmp_path: Path) -> None:
    link = tmp_path / "eve"
    link.mkdir()
    (link / "main.py").symlink_to("/etc/passwd")
    submissions: dict[str, object] = {f"student {number}": ADD for number in range(8)}
    submissions |= {
        "loop": "while True: pass",
        "missing": tmp_path / "nothing.py",
        "link": link,
        "syntax": "def",
        "binary": {"main.py": b"\0\xff"},
        "empty": {},
    }
    submissions |= {"last": ADD}
    steps: list[judge.Step] = []
    task = _task(Test("1 2", "3"), Test("2 2", "4", hidden=True), time_limit=1)
    results = list(task.grade_all(submissions, jobs=2, progress=steps.append))  # type: ignore[arg-type]
    assert [result.name for result in results] == list(submissions)
    found = {result.name: result.code for result in results}
    assert {name for name, code in found.items() if code is Code.AC} == {*(f"student {number}" for number in range(8)), "last"}
    expected = {"loop": Code.TLE, "missing": Code.JE, "link": Code.CE, "syntax": Code.CE, "binary": Code.CE, "empty": Code.CE}
    assert {name: code for name, code in found.items() if code is not Code.AC} == expected
    assert [result.name for result in results if not result.complete] == ["missing"]
    assert steps[-1].judged == steps[-1].total == len(submissions)
    assert json.dumps([result.to_dict() for result in results])


def test_giving_up_ends_what_runs() -> None:
    """Nothing is left: the fixture of all tests sees to it."""
    submissions = {"quick": "print(3)", **{str(number): "while True: pass" for number in range(4)}}
    grading = _task(Test("1 2", "3"), Test("1 2", "3"), time_limit=30).grade_all(submissions, jobs=2)
    assert next(grading).ok
    grading.close()  # type: ignore[attr-defined]


def test_an_interrupt_ends_everything() -> None:
    """And the caller hears of it; what would go on for a minute is dead, or the fixture of all tests would find it."""
    script = """
import signal
from sandbox.judge import Task, Test
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
task = Task([Test("1 2", "3")], language="python3", time_limit=60, wall_limit=300)
for result in task.grade_all({"quick": "print(3)", "a": "while True: pass", "b": "while True: pass", "c": "while True: pass"}, jobs=3):
    print(result.name, result.code, flush=True)
"""
    root = Path(judge.__file__).parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as grader:
        assert grader.stdout is not None and grader.stderr is not None
        try:
            assert grader.stdout.readline() == "quick AC\n"
            grader.send_signal(signal.SIGINT)
            assert grader.wait(120) == -signal.SIGINT
            assert grader.stdout.read() == ""
            assert grader.stderr.read().rstrip().endswith("KeyboardInterrupt")
        finally:
            grader.kill()


NEVER = {
    "checker": "Test('1 2', checker=never)",
    "checker of parts": "Test('1 2', checker=never)",
    "talk": "Test(talk=never)",
    "call": "Test(call=never)",
}


@pytest.mark.parametrize("waits", ["while True: pass", "threading.Event().wait()"], ids=["busy", "asleep"])
@pytest.mark.parametrize("way", NEVER)
def test_an_interrupt_leaves_a_function_that_never_returns(way: str, waits: str) -> None:
    """One interrupt: two submissions' functions stand still, and Python ends no thread."""
    parts = "parts={'a': Part()}" if way == "checker of parts" else ""
    script = f"""
import os, signal, sys, threading
from sandbox.judge import Part, Task, Test
signal.signal(signal.SIGINT, signal.default_int_handler)
def never(given):
    os.write(1, b"called\\n")
    {waits}
task = Task([{NEVER[way]}], language="python3", time_limit=60, wall_limit=300, {parts})
source = "def add(a, b): return a + b\\nif __name__ == '__main__': print(3)\\n"
for result in task.grade_all({{"a": source, "b": source}}, jobs=2, tests_at_a_time=2):
    print(result.name, result.code, result.cause, flush=True)
"""
    root = Path(judge.__file__).parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as grader:
        assert grader.stdout is not None and grader.stderr is not None
        try:
            assert [grader.stdout.readline() for _ in range(2)] == ["called\n"] * 2
            grader.send_signal(signal.SIGINT)
            assert grader.wait(120) == -signal.SIGINT
            assert grader.stdout.read() == ""
            assert grader.stderr.read().rstrip().endswith("KeyboardInterrupt")
        finally:
            grader.kill()


def test_giving_up_leaves_a_checker_that_never_returns() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def checker(output: judge.Output) -> bool:
        if output.text == "quick\n":
            return True
        begun.set()
        return go_on.wait()

    grading = _task(Test(checker=checker)).grade_all({"quick": "print('quick')", "slow": "print('slow')"}, jobs=2)
    assert next(grading).ok and begun.wait(60)
    grading.close()  # type: ignore[attr-defined]
    (left,) = (thread for thread in threading.enumerate() if thread.name == "author")
    assert left.daemon, "or no exit of the interpreter would be without it"
    go_on.set()
    left.join(60)
    assert not left.is_alive()


def test_an_exception_of_the_callers_ends_everything() -> None:
    def progress(step: judge.Step) -> None:
        if step.case:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        list(_task(Test("1 2", "3")).grade_all({"a": ADD, "b": ADD}, jobs=2, progress=progress))


def test_progress_for_a_person(capfd: pytest.CaptureFixture[str]) -> None:
    _task(Test("1 2", "3")).grade(ADD, name="ali\x1bce", progress=True)
    shown = capfd.readouterr()
    assert shown.out == "" and "1 of 1 points" in shown.err and "\x1b" not in shown.err


def test_tests_of_one_submission_at_a_time() -> None:
    task = _task(*(Test(f"{number} 1", str(number + 1)) for number in range(6)))
    result = task.grade(ADD, jobs=3)
    assert result.ok and [test.name for test in result.tests] == [f"test {number}" for number in range(1, 7)]


def test_a_busy_host_makes_no_program_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended for wall time where everybody waits for a processor gets a second run, and no third."""
    from sandbox.judge import task_work

    source = "import time\ntime.sleep(4)\nprint('late')"
    monkeypatch.setattr(task_work, "is_busy", lambda: False)
    quiet = _task(Test(expected="late"), time_limit=0.5, wall_limit=None).grade(source).tests[0]
    assert quiet.code is Code.WTL and quiet.case is not None and quiet.case.reruns == ()
    monkeypatch.setattr(task_work, "is_busy", lambda: True)
    busy = _task(Test(expected="late"), time_limit=0.5, wall_limit=None).grade(source).tests[0]
    assert busy.ok and busy.case is not None and [code for code, _ in busy.case.reruns] == [Code.WTL]
    assert "second run" in busy.case.notes[-1]
    # A limit that the author stated is meant.
    assert _task(Test(expected="late"), time_limit=0.5, wall_limit=1).grade(source).code is Code.WTL


# ---- generated programs -----------------------------------------------------------------------------------------


def _human_eval() -> dict[str, dict[str, str]]:
    data = Path(__file__).parent.parent / "data" / "human-eval" / "HumanEval.jsonl.gz"
    with gzip.open(data, "rt", encoding="utf-8") as file:
        return {problem["task_id"]: problem for problem in map(json.loads, file)}


def _make_task(problem: dict[str, str]) -> Task:
    return _task(Test(code=f"{problem['test']}\ncheck({problem['entry_point']})\n"), time_limit=10)


@pytest.mark.parametrize("number", range(0, 164, 20))
def test_generated_programs_are_judged_by_tests_that_they_cannot_reach(number: int) -> None:
    problem = _human_eval()[f"HumanEval/{number}"]
    task = _make_task(problem)
    samples: dict[str, Callable[[], str] | str] = {
        "reference": problem["canonical_solution"], "nothing": "    return None\n", "exit": "    import os; os._exit(0)\n",
        "equal": "    return type('Yes', (), {'__eq__': lambda *_: True, '__bool__': lambda _: True, '__len__': lambda _: 1})()\n",
    }  # fmt: skip
    results = {result.name: result.ok for result in task.grade_all({name: problem["prompt"] + text for name, text in samples.items()})}  # type: ignore[operator]
    assert results == {"reference": True, "nothing": False, "exit": False, "equal": False}
    assert judge.pass_at_k(4, sum(results.values()), 1) == 0.25


def test_the_face_imports_little_until_it_is_used() -> None:
    script = "import sys; import sandbox.judge; print([name for name in sys.modules if name.startswith('sandbox.')])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(judge.__file__).parent.parent.parent
    )
    assert found.stdout == "['sandbox.judge']\n"


def test_every_name_of_the_face_is_there() -> None:
    assert all(getattr(judge, name).__doc__ for name in judge.__all__)


# ---- the example ------------------------------------------------------------------------------------------------


def test_the_example_grades_a_class(tmp_path: Path) -> None:
    for folder, name, given, answer in (("sample", "1", "4", "8"), ("hidden", "1", "21", "42"), ("hidden", "2", SECRET, "?")):
        (tmp_path / "double" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "double" / folder / f"{name}.in").write_text(given)
        (tmp_path / "double" / folder / f"{name}.ans").write_text(answer)
    (tmp_path / "double" / "hidden" / "2.hint").write_text("what if it is no number?\n")
    uploads = tmp_path / "uploads"
    (uploads / "ben").mkdir(parents=True)
    (uploads / "ada.py").write_text("text = input()\nprint(int(text) * 2 if text.isdigit() else '?')")
    (uploads / "ben" / "main.py").write_text("print(int(input()) * 2)")
    (uploads / "eve.py").symlink_to(tmp_path / "double" / "hidden" / "2.ans")
    example = Path(__file__).resolve().parent.parent.parent / "examples" / "grade.py"
    words = [sys.executable, str(example), str(tmp_path / "double"), str(uploads), str(tmp_path / "results"), "--points", "5"]
    environment = {
        "PYTHONPATH": str(example.parent.parent),
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(",")[:4] for line in (tmp_path / "results" / "grades.csv").read_text().splitlines()]
    assert rows == [
        ["student", "points", "of", "verdict"],
        ["ada", "10.0", "10.0", "AC"],
        ["ben", "5.0", "10.0", "NZE"],
        ["eve", "0.0", "10.0", "CE"],
    ]
    shown = (tmp_path / "results" / "ben.json").read_text()
    assert SECRET not in shown and "what if it is no number?" in shown
    assert "ada: 10 of 10 points" in done.stderr
    nothing = subprocess.run(
        [*words[:3], str(tmp_path / "none"), words[4]], capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert nothing.returncode == 2 and "no upload found" in nothing.stderr
