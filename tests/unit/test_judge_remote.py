"""Functions called from outside: the driver against what a test asks of it, and every lie that a submission could answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.judge.dialogue import Closed, Dialogue, Flooded
from sandbox.judge.remote import Function, Link, Remote, Student, StudentError, TestError, begin
from sandbox.judge.remote_inside import DRIVER, TESTS

SUBMISSION = """
import sys
ANSWER = 42
print("loaded")
def add(a, b=1): return a + b
def echo(value): return value
def fail(): raise ValueError("no\\nmore")
def leave(): sys.exit(3)
def read(): return sys.stdin.read()
def say(text): print(text, end=""); return None
def counted(n):
    yield from range(n)
def object_(): return object()
def deep():
    value = []
    for _ in range(100): value = [value]
    return value
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def __len__(self): return len(self.items)
    def __getitem__(self, at): return self.items[at]
    def __eq__(self, other): return True
    def size(self): return len(self.items)
def sizes(*stacks): return [stack.size() for stack in stacks]
"""


@contextmanager
def _driven(tmp_path: Path, source: str, stdin: bytes = b"") -> Iterator[tuple[Student, subprocess.Popen[bytes]]]:
    """Drive a module that is ours, without a sandbox."""
    (tmp_path / "work").mkdir()
    file = tmp_path / "submission.py"
    file.write_text(source)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(file)], cwd=tmp_path / "work", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        with Dialogue(os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()), 1 << 20) as talk:
            process.stdin.close()
            yield Student(begin(talk, stdin)), process
            talk.close_input()
            assert process.wait(120) == 0, process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_functions_values_and_prints(tmp_path: Path) -> None:
    with _driven(tmp_path, SUBMISSION, b"given") as (student, _):
        assert student.printed_() == "loaded\n"
        assert student.add(2) == 3
        assert student.add(2, b=5) == 7
        assert student.add("a", "b") == "ab"
        assert student.value_("ANSWER") == 42
        assert student.has_("add") and not student.has_("subtract")
        assert student.read() == "given"
        assert student.say("hello\n") is None
        assert student.printed_() == "hello\n"
        assert student.printed_() == ""
        assert os.listdir(tmp_path / "work") == []


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(10**40), 1.5, "x\u2028\n", b"\0\xff", [1, [2]], (1, (2,)), {1, 2}, frozenset({1}), {"a": {1: (2,)}}, {"$": 1}],
)
def test_plain_values_come_back_as_they_went(tmp_path: Path, value: object) -> None:
    with _driven(tmp_path, SUBMISSION) as (student, _):
        found = student.echo(value)
        assert found == value and type(found) is type(value)


def test_exceptions_are_told(tmp_path: Path) -> None:
    with _driven(tmp_path, SUBMISSION) as (student, _):
        with pytest.raises(StudentError) as caught:
            student.fail()
        assert (caught.value.kind, caught.value.message) == ("ValueError", "no\nmore")
        assert "in fail" in caught.value.traceback and "<string>" not in caught.value.traceback
        with student.raises_("ValueError", "KeyError"):
            student.fail()
        with pytest.raises(AssertionError, match="raised ValueError, not KeyError"), student.raises_("KeyError"):
            student.fail()
        with pytest.raises(AssertionError, match="did not raise"), student.raises_("ValueError"):
            student.add(1)
        with pytest.raises(StudentError, match="SystemExit: 3"):
            student.leave()
        with pytest.raises(StudentError, match="AttributeError"):
            student.nothing()
        assert student.add(1) == 2


def test_objects_stay_inside(tmp_path: Path) -> None:
    with _driven(tmp_path, SUBMISSION) as (student, _):
        stack = student.Stack(1, 2)
        assert isinstance(stack, Remote) and "Stack" in repr(stack)
        assert stack.push(3) is not None
        assert (stack.size(), len(stack), stack[0], list(stack), stack.value_("items")) == (3, 3, 1, [1, 2, 3], [1, 2, 3])
        assert student.sizes(stack, student.Stack()) == [3, 0]
        assert list(student.counted(3)) == [0, 1, 2]
        assert isinstance(student.deep(), Remote)


def test_an_object_passes_no_assertion(tmp_path: Path) -> None:
    """Its `__eq__` says yes to everything, and nobody asks it."""
    with _driven(tmp_path, SUBMISSION) as (student, _):
        stack = student.Stack()
        assert stack.call_("__eq__", 5) is True
        assert not stack == 5 and stack != [] and not stack == student.Stack()
        with pytest.raises(AssertionError, match="no plain value"):
            assert student.object_()
        with pytest.raises(AssertionError, match="is a function"):
            assert student.add


def test_loading_that_raises(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="ZeroDivisionError"), _driven(tmp_path, "1 / 0\n"):
        pass


def test_the_main_part_does_not_run(tmp_path: Path) -> None:
    with _driven(tmp_path, "import sys\nif __name__ == '__main__': sys.exit(9)\ndef f(): return __name__\n") as (student, _):
        assert student.f() == "submission"


def test_arguments_that_cannot_be_sent_are_the_authors_fault(tmp_path: Path) -> None:
    with _driven(tmp_path, SUBMISSION) as (student, _):
        with pytest.raises(TestError, match="object is no plain value"):
            student.echo(object())
        assert student.echo(1) == 1


class _Liar:
    """A channel on which the submission answers what it likes."""

    def __init__(self, *answers: str | bytes) -> None:
        self._answers = [answer.encode() if isinstance(answer, str) else answer for answer in answers]
        self.asked: list[dict[str, object]] = []

    def write(self, data: bytes | str) -> None:
        self.asked.append(json.loads(data))

    def read_bytes_line(self) -> bytes:
        if not self._answers:
            raise Closed("over")
        return self._answers.pop(0)


@pytest.mark.parametrize(
    "answer",
    [
        "", "null", "[]", "1", '"x"', "{}", '{"id": 1}', '{"value": 3}', '{"id": 2, "value": 3}', '{"id": true, "value": 3, "x": 1}',
        '{"id": 1, "value": 3, "more": 1}',
        '{"id": 1, "value": {"$": "object", "of": []}}', '{"id": 1, "handle": "x", "kind": "y"}',
        '{"id": 1, "error": 1, "message": "", "traceback": ""}', "{" * 100_000, b"\xff\xfe",
        '{"id": 1, "value": {"$": "set", "of": [[]]}}',
    ],
)  # fmt: skip
def test_lies_are_wrong_answers(answer: str | bytes) -> None:
    with pytest.raises(AssertionError):
        Student(Link(_Liar(answer))).add(1, 2)


def test_what_a_lie_can_be_at_most() -> None:
    """Plain values, and numbers of objects, which mean something to the liar alone."""
    assert Student(Link(_Liar('{"id": 1, "value": 3}'))).add(1, 2) == 3
    remote = Student(Link(_Liar('{"id": 1, "handle": 99, "kind": "\\u001b[31m"}'))).add(1, 2)
    assert isinstance(remote, Remote) and repr(remote).isprintable()
    with pytest.raises(Closed):
        Student(Link(_Liar())).add(1, 2)


@pytest.mark.parametrize("answer", ['{"id": 1, "value": -1}', '{"id": 1, "value": "x"}', f'{{"id": 1, "value": {1 << 70}}}'])
def test_a_length_that_is_none(answer: str) -> None:
    with pytest.raises(AssertionError, match="its length"):
        len(Remote(Link(_Liar(answer)), 1, "x"))


def test_an_early_answer_is_not_taken_for_the_next() -> None:
    """Answers written ahead do not shift: each has its number."""
    student = Student(Link(_Liar('{"id": 1, "value": 1}', '{"id": 1, "value": 1}')))
    assert student.f() == 1
    with pytest.raises(AssertionError):
        student.f()


def test_requests_name_what_they_mean() -> None:
    liar = _Liar('{"id": 1, "value": 0}')
    Function(Link(liar), 4, "size")(1, x=Remote(Link(liar), 7, "T"))
    assert liar.asked == [{"do": "call", "of": 4, "name": "size", "args": [["plain", 1]], "kwargs": {"x": ["handle", 7]}, "id": 1}]


# ---- tests that are text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "status", "said"),
    [
        ("assert add(1, 2) == 3\nassert student.add(2) == 3\nassert max(1, 2) == 2", 0, ""),
        ("def check(candidate):\n    assert candidate(1) == 3\ncheck(add)", 11, "failed: assert candidate(1) == 3"),
        ("assert add(1) == 3, 'add one'", 11, "add one"),
        ("fail()", 12, "ValueError: no\nmore"),
        ("try:\n    fail()\nexcept StudentError as error:\n    assert error.kind == 'ValueError'", 0, ""),
        ("add(object())", 14, "TestError"),
        ("add(1, 2) + 'x'", 15, "TypeError"),
        ("def broken(:", 15, "SyntaxError"),
        ("import os\nos._exit(7)", 7, ""),
    ],
)
def test_tests_as_text(tmp_path: Path, tests: str, status: int, said: str) -> None:
    work = tmp_path / "tests"
    work.mkdir()
    (work / "tests.py").write_text(tests)
    (work / "stdin").write_bytes(b"")
    (tmp_path / "submission.py").write_text(SUBMISSION)
    (tmp_path / "inside").mkdir()
    to_driver, from_driver = os.pipe(), os.pipe()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "submission.py")], cwd=tmp_path / "inside", stdin=to_driver[0], stdout=from_driver[1]
    )
    harness = subprocess.Popen([sys.executable, "-c", TESTS], cwd=work, stdin=from_driver[0], stdout=to_driver[1], stderr=subprocess.PIPE)
    for fd in (*to_driver, *from_driver):
        os.close(fd)
    _, stderr = harness.communicate(timeout=120)
    assert driver.wait(120) == 0
    assert harness.returncode == status, stderr.decode()
    assert said in stderr.decode()


# ---- dialogues --------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Dialogue, int, int]]:
    """A dialogue of at most 1000 bytes, and the program's two ends."""
    reader, to_program = os.pipe()
    from_program, writer = os.pipe()
    with Dialogue(to_program, from_program, 1000) as talk:
        try:
            yield talk, reader, writer
        finally:
            for fd in (reader, writer):
                try:
                    os.close(fd)
                except OSError:
                    pass


def test_a_dialogue_by_lines(ends: tuple[Dialogue, int, int]) -> None:
    talk, reader, writer = ends
    talk.write_line(1, "b")
    assert os.read(reader, 100) == b"1 b\n"
    os.write(writer, b"one\ntw\xff\nrest")
    assert (talk.read_line(), talk.read_line()) == ("one", "tw\ufffd")
    os.close(writer)
    assert talk.read_line() == "rest"
    with pytest.raises(Closed):
        talk.read_line()
    assert talk.transcript == ["> 1 b", "< one", "< tw\\xff", "< rest"]


def test_a_program_that_went_away(ends: tuple[Dialogue, int, int]) -> None:
    talk, reader, _ = ends
    os.close(reader)
    with pytest.raises(Closed, match="reads no more"):
        talk.write("x")


def test_a_flood_ends(ends: tuple[Dialogue, int, int]) -> None:
    talk, _, writer = ends
    thread = threading.Thread(target=os.write, args=(writer, b"x" * 1001))
    thread.start()
    with pytest.raises(Flooded):
        talk.read_line()
    thread.join()


def test_all_the_rest(ends: tuple[Dialogue, int, int]) -> None:
    talk, _, writer = ends
    os.write(writer, b"a\nb\n")
    assert talk.read_line() == "a"
    os.close(writer)
    assert talk.read_rest() == b"b\n"
    talk.drain()
    talk.close_input()
    with pytest.raises(Closed, match="is closed"):
        talk.write("x")
