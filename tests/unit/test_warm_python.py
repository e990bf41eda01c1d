"""What is asked of warm interpreters, and which command lines one can take."""

from __future__ import annotations

import marshal
import os
from typing import Any

import pytest

from sandbox.api.python import Answer, Python, encode_program, is_early, parse_program, parse_python, waiting_argv
from sandbox.errors import PolicyError
from sandbox.supervise.held import HeldFeed, HeldOutput


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (False, None),
        (None, None),
        (True, Python()),
        (["json", "xml.dom"], Python(modules=("json", "xml.dom"))),
        ({"size": 3, "modules": ["json"], "command": ["python3", "-u"]}, Python(size=3, modules=("json",), command=("python3", "-u"))),
        ({"memory": "1M", "max_age": 5}, Python(memory="1M", max_age=5)),
        (Python(size=4), Python(size=4)),
    ],
)
def test_settings(given: Any, wanted: Python | None) -> None:
    assert parse_python(given) == wanted


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("json", TypeError, "a sequence of modules"),
        ({"modules": "json"}, TypeError, "`modules` must be a sequence of words"),
        ({"command": "python3"}, TypeError, "`command` must be a sequence of words"),
        ({"modulez": []}, PolicyError, "unknown key `modulez`"),
        ({"command": ()}, PolicyError, "must begin with an interpreter"),
        ({"command": ("-c",)}, PolicyError, "must begin with an interpreter"),
        ({"command": ("python3", "-c")}, PolicyError, "`-c`, which is no option"),
        ({"command": ("python3", "-m")}, PolicyError, "`-m`, which is no option"),
        ({"command": ("python3", "-i")}, PolicyError, "`-i`, which is no option"),
        ({"command": ("python3", "-S")}, PolicyError, "`-S`, which is no option"),
        ({"command": ("python3", "-xu")}, PolicyError, "`-xu`, which is no option"),
        ({"command": ("python3", "main.py")}, PolicyError, "`main.py`, which is no option"),
        ({"command": ("python3", "-W")}, PolicyError, "option `-W` of `command` lacks its value"),
        ({"modules": ("os; evil()",)}, PolicyError, "`os; evil()` is no name of a module"),
        ({"modules": ("a..b",)}, PolicyError, "`a..b` is no name of a module"),
        ({"mode": "magic"}, PolicyError, "unknown mode `magic`"),
        ({"size": 0}, PolicyError, "size must be a number from 1 to 256, not 0"),
        ({"size": True}, PolicyError, "not True"),
        ({"size": 1000}, PolicyError, "not 1000"),
        ({"memory": "much"}, PolicyError, "python: memory"),
        ({"max_age": 0}, PolicyError, "max_age must be a positive number of seconds, not 0"),
        ({"max_age": float("nan")}, PolicyError, "not nan"),
    ],
)
def test_wrong_settings(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        parse_python(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("command", "argv", "wanted"),
    [
        ("python3", "python3 main.py a -c", ("f", "main.py", ("a", "-c"))),
        ("python3", "python3 -c code a", ("c", "code", ("a",))),
        ("python3", "python3 -m mod -x", ("m", "mod", ("-x",))),
        ("python3 -u", "python3 -u main.py", ("f", "main.py", ())),
        ("python3 -W error", "python3 -W error main.py", ("f", "main.py", ())),
        ("python3", "python3", None),
        ("python3", "python3 -", None),
        ("python3", "python3 -u main.py", None),
        ("python3", "python3 -ccode", None),
        ("python3", "python3 -c", None),
        ("python3", "python3 -m", None),
        ("python3", "python main.py", None),
        ("python3", "/usr/bin/python3 main.py", None),
        ("python3 -u", "python3 main.py", None),
    ],
)
def test_command_lines(command: str, argv: str, wanted: tuple[str, str, tuple[str, ...]] | None) -> None:
    program = parse_program(Python(command=tuple(command.split())), argv.split())
    assert (program and (program.kind, program.target, program.arguments)) == wanted


def test_empty_script_is_no_program() -> None:
    assert parse_program(Python(), ["python3", ""]) is None


def test_what_is_sent() -> None:
    program = parse_program(Python(), ["python3", "-c", "\udcff", "a"])
    assert program is not None
    data = encode_program(program, path="/usr/bin/python3", argv=["python3", "-c", "\udcff", "a"], environment={"A": "ä"}, files={"x/y": b"z"})
    assert int.from_bytes(data[:8], "little") == len(data) - 8
    assert marshal.loads(data[8:]) == (
        "c", b"\xff", 1, b"/usr/bin/python3", (b"python3", b"-c", b"\xff", b"a"), {b"A": "ä".encode()}, ((b"x/y", b"z"),),
    )  # fmt: skip


def test_waiting_command_line_is_one_program_and_one_frame() -> None:
    argv = waiting_argv(Python(command=("python3", "-u"), modules=("json",)))
    assert argv[:3] == ("python3", "-u", "-c")
    first, second = argv[3].splitlines()
    compile(argv[3], "x", "exec")
    assert second == "with w:w.take()()"
    assert len(first) < 100_000


def _answers(*pieces: bytes) -> tuple[list[bool | None], Answer]:
    answer = Answer()
    return [answer.feed(piece) for piece in pieces], answer


def test_answers() -> None:
    token = next(word for word in waiting_argv(Python())[-1].split("'") if len(word) == 24 and set(word) <= set("0123456789abcdef")).encode()
    assert _answers(token + b"+")[0] == [True]
    assert _answers(b"noise" * 5000, token[:5], token[5:] + b"+", b"more", b"")[0] == [None, None, True, None, None]
    known, answer = _answers(b"noise", token + b"-mod: ImportError", b": no", b"")
    assert known == [None, None, None, False]
    assert (answer.failure, answer.said) == ("mod: ImportError: no", True)
    known, answer = _answers(b"+-" * 10, b"")
    assert (known, answer.failure, answer.said) == ([None, False], "it ended", False)


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "LC_ALL", "LANG", "TZ", "HOME", "PATH", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"])
def test_variables_that_count_only_from_the_start(name: str) -> None:
    assert is_early(name)
    assert not is_early("MY_" + name.replace("_NUM_THREADS", ""))


def test_feed_that_is_held() -> None:
    reader, writer = os.pipe()
    other_reader, other_writer = os.pipe()
    feed = HeldFeed(writer)
    assert not feed.ended
    assert (feed.read_fd(), feed.write_fd()) == (-1, -1)
    feed.release(b"first", other_reader)
    assert os.read(reader, 99) == b"first"
    os.write(other_writer, b"then")
    feed.fill(None)
    assert os.read(reader, 99) == b"then"
    os.close(other_writer)
    feed.fill(None)
    assert feed.ended
    assert os.read(reader, 9) == b""
    os.close(reader)
    os.close(other_reader)


def test_feed_that_is_given_up_is_closed() -> None:
    reader, writer = os.pipe()
    HeldFeed(writer).close()
    assert os.read(reader, 9) == b""
    os.close(reader)


def test_output_that_is_held_is_shown_and_forgotten() -> None:
    shown: list[bytes] = []
    reader, writer = os.pipe()
    output = HeldOutput(reader, shown.append)
    os.write(writer, b"before")
    output.fill(None)
    os.write(writer, b"late")
    output.release(-1)
    assert (shown, output.captured, output.count) == ([b"before"], bytearray(), True)
    os.write(writer, b"own")
    output.fill(None)
    assert output.captured == b"own"
    os.close(writer)
    output.fill(None)
    assert output.ended
    assert shown == [b"before"]
