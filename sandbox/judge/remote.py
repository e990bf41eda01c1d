"""Functions of a submission, called from outside of its sandbox: tests of units whose assertions no submission can reach.

A driver inside loads the submission and answers requests, one line each; values are plain data both ways (`sandbox.api.plain`), everything else stays
inside and is named by a number. What comes out may be any plain value that the submission likes, and nothing else: no class of its own, so no
``__eq__`` that is always true, and ending early passes no test. The classes below run here, and also in the sandbox of tests that are text (`TESTS`), so
they use nothing of ours but `plain` and what `Channel` asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Protocol

from sandbox.api import plain
from sandbox.api.plain import dump_plain, load_plain


class Channel(Protocol):
    """What requests go out by; `Dialogue` is one."""

    def write(self, data: bytes | str) -> None:
        """Send."""

    def read_bytes_line(self) -> bytes:
        """Return the next line, or raise when there is none."""


class StudentError(Exception):
    """A function of the submission raised.

    `kind` is the name of the exception's class, `message` and `traceback` are its texts; all of them a stranger's.
    """

    def __init__(self, kind: str, message: str, traceback: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.traceback = traceback


class TestError(Exception):
    """The author's test is wrong, whatever the submission does."""

    __test__ = False


class Raises:
    """A context in which a function of the submission has to raise; see `Student.raises_`."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, value: object, trace: object) -> bool:
        """End; the exception that was asked for goes no further."""
        if isinstance(value, StudentError):
            if value.kind in self._kinds:
                return True
            raise AssertionError(f"raised {value.kind}, not {' or '.join(self._kinds)}") from value
        if value is None:
            raise AssertionError(f"did not raise {' or '.join(self._kinds)}")
        return False


class Link:
    """Requests and answers over a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._number = 0

    def ask(self, request: dict[str, object]) -> Any:
        """Send a request and return the value of its answer: plain, or a `Remote`.

        Raises:
            StudentError: the submission raised.
            TestError: the request cannot be sent.
            AssertionError: the submission answered something else.
        """
        self._number += 1
        try:
            line = dump_plain({**request, "id": self._number})
        except (TypeError, ValueError) as error:
            raise TestError(f"arguments must be plain values: {error}") from None
        self._channel.write(line + "\n")
        try:
            answer = load_plain(self._channel.read_bytes_line())
        except ValueError as error:
            raise AssertionError(f"its answer is no value: {error}") from None
        if type(answer) is dict and answer.pop("id", None) == self._number:
            if set(answer) == {"value"}:
                return answer["value"]
            if set(answer) == {"handle", "kind"} and type(answer["handle"]) is int and type(answer["kind"]) is str:
                return Remote(self, answer["handle"], answer["kind"])
            if set(answer) == {"error", "message", "traceback"} and all(type(text) is str for text in answer.values()):
                raise StudentError(answer["error"][:200], answer["message"][:2000], answer["traceback"])
        raise AssertionError("the submission wrote an answer of its own")


def _packed(value: object) -> list[object]:
    return ["handle", value._handle] if isinstance(value, Remote) else ["plain", value]


class Function:
    """A function or a class of the submission, or a method of an object of it."""

    def __init__(self, link: Link, handle: int, name: str) -> None:
        self._link = link
        self._handle = handle
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call it inside; arguments are plain values or objects of the submission."""
        packed = {name: _packed(value) for name, value in kwargs.items()}
        return self._link.ask(
            {"do": "call", "of": self._handle, "name": self._name, "args": [_packed(arg) for arg in args], "kwargs": packed}
        )

    def __repr__(self) -> str:
        return f"<`{self._name}` of the submission>"

    def __bool__(self) -> bool:
        raise AssertionError(f"`{self._name}` is a function of the submission: call it, or use `value_` for a constant")


class Remote:
    """An object that stayed inside. Its methods are called like functions; it is equal to nothing but itself, and has no truth."""

    def __init__(self, link: Link, handle: int, kind: str) -> None:
        self._link = link
        self._handle = handle
        self._kind = kind

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):
            raise AttributeError(name)
        return Function(self._link, self._handle, name)

    def call_(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a method by its name, such as ``__eq__``."""
        return Function(self._link, self._handle, name)(*args, **kwargs)

    def value_(self, name: str) -> Any:
        """Return an attribute's value."""
        return self._link.ask({"do": "value", "of": self._handle, "name": name})

    def __len__(self) -> int:
        try:
            found = self.call_("__len__")
        except StudentError as error:
            if error.kind == "AttributeError":
                raise TypeError("it has no length") from None  # as `list` asks, which can do without
            raise
        if type(found) is not int or not 0 <= found < 1 << 62:
            raise AssertionError(f"its length is {found!r}")
        return found

    def __getitem__(self, key: object) -> Any:
        return self.call_("__getitem__", key)

    def __iter__(self) -> Iterator[Any]:
        items = self._link.ask({"do": "iterate", "of": self._handle})
        if not isinstance(items, Remote):
            raise AssertionError("it cannot be iterated over")
        while True:
            try:
                item = self._link.ask({"do": "next", "of": items._handle})
            except StudentError as error:
                if error.kind == "StopIteration":
                    return
                raise
            yield item

    def __repr__(self) -> str:
        return f"<a {self._kind[:100]!a} of the submission>"

    def __bool__(self) -> bool:
        raise AssertionError(f"it is a {self._kind[:100]!a}, no plain value")


class Student:
    """The submission as a module: ``student.median([3, 1, 2])`` calls its function `median` in the sandbox and returns the value.

    Names of its own end in an underscore, so that they hide none of the submission's.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):
            raise AttributeError(name)
        return Function(self._link, 0, name)

    def call_(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a function by its name."""
        return Function(self._link, 0, name)(*args, **kwargs)

    def value_(self, name: str) -> Any:
        """Return what a name of the module stands for."""
        return self._link.ask({"do": "value", "of": 0, "name": name})

    def has_(self, name: str) -> bool:
        """Whether the module has such a name."""
        return self._link.ask({"do": "has", "of": 0, "name": name}) is True

    def printed_(self) -> str:
        """Return what was printed since the last time; bytes that are not UTF-8 become U+FFFD."""
        found = self._link.ask({"do": "printed"})
        if type(found) is not bytes:
            raise AssertionError("the submission wrote an answer of its own")
        return found.decode("utf-8", "replace")

    def raises_(self, *kinds: str) -> Raises:
        """Return a context that fails unless the submission raises an exception of one of these classes, by name, in it."""
        return Raises(kinds)


# ---- inside -----------------------------------------------------------------------------------------------------

_LOAD = """
import importlib.util, os, sys
_requests = os.fdopen(os.dup(0), "rb")
_answers = os.fdopen(os.dup(1), "wb")
_file = sys.argv[1]
_printed = os.open(".printed", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(_printed, 1)
_begin = load_plain(_requests.readline())
_given = os.open(".given", os.O_RDWR | os.O_CREAT, 0o600)
with os.fdopen(os.dup(_given), "wb") as _text:
    _text.write(_begin["stdin"])
os.lseek(_given, 0, 0)
os.dup2(_given, 0)
os.unlink(".printed"), os.unlink(".given")
sys.path[0] = os.path.dirname(_file)
_name = os.path.basename(_file).rpartition(".")[0]
sys.argv = [_file]
_objects, _read = [None], 0

def _unpack(pair):
    return _objects[pair[1]] if pair[0] == "handle" else pair[1]

def _do(given):
    global _read
    what = given["do"]
    if what == "load":
        spec = importlib.util.spec_from_file_location(_name, _file)
        _objects[0] = sys.modules[_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_objects[0])
        return None
    if what == "printed":
        sys.stdout.flush()
        data = os.pread(_printed, 1 << 24, _read)
        _read += len(data)
        return data
    target = _objects[given["of"]]
    if what == "iterate":
        return iter(target)
    if what == "next":
        return next(target)
    if what == "has":
        return hasattr(target, given["name"])
    found = getattr(target, given["name"])
    if what == "value":
        return found
    return found(*map(_unpack, given["args"]), **{name: _unpack(pair) for name, pair in given["kwargs"].items()})

_line = dump_plain({"do": "load", "id": 0})
while _line:
    _given = load_plain(_line)
    _answer = {"id": _given["id"]}
    try:
        _value = _do(_given)
        try:
            _text = dump_plain({**_answer, "value": _value})
        except (TypeError, ValueError, RecursionError):
            _objects.append(_value)
            _text = dump_plain({**_answer, "handle": len(_objects) - 1, "kind": type(_value).__name__})
    except SystemExit as _error:
        _text = dump_plain({**_answer, "error": "SystemExit", "message": str(_error.code), "traceback": ""})
    except BaseException as _error:
        import traceback
        _trace = _error.__traceback__.tb_next.tb_next if _error.__traceback__ and _error.__traceback__.tb_next else None
        _lines = traceback.format_exception(type(_error), _error, _trace)
        _text = dump_plain({**_answer, "error": type(_error).__name__, "message": str(_error), "traceback": "".join(_lines)[-20000:]})
    _answers.write(_text.encode() + b"\\n")
    _answers.flush()
    _line = _requests.readline()
try:
    sys.stdout.flush()
finally:
    os._exit(0)
"""

DRIVER = inspect.getsource(plain) + _LOAD
"""Runs in the submission's sandbox, with the file to load as its argument."""

_CHANNEL = """
class _Channel:
    def __init__(self):
        import os
        self._in, self._out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)

    def write(self, data):
        self._out.write(data.encode() if isinstance(data, str) else data)
        self._out.flush()

    def read_bytes_line(self):
        line = self._in.readline()
        if not line:
            raise _Ended
        return line


class _Ended(BaseException):
    pass


class _Names(dict):
    def __missing__(self, name):
        import builtins
        if hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        return Function(_link, 0, name)


def _main():
    import os, sys, traceback
    global _link
    channel = _Channel()
    with open("tests.py", encoding="utf-8") as file:
        text = file.read()
    with open("stdin", "rb") as file:
        given = file.read()
    status = 0
    try:
        _link = begin(channel, given)
        names = _Names(__name__="__tests__", student=Student(_link), StudentError=StudentError)
        exec(compile(text, "tests.py", "exec"), names)
    except _Ended:
        status = 13
    except StudentError as error:
        print(f"{error}\\n{error.traceback}", file=sys.stderr)
        status = 12
    except AssertionError as error:
        traceback.print_exc()
        trace, number = error.__traceback__, 0
        while trace:
            number = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests.py" else number
            trace = trace.tb_next
        print(str(error) or "failed: " + (text.splitlines()[number - 1].strip() if number else "an assertion"), file=sys.stderr)
        status = 11
    except TestError as error:
        traceback.print_exc()
        status = 14
    except BaseException:
        traceback.print_exc()
        status = 15
    sys.stderr.flush()
    os._exit(status)


_main()
"""
PASSED, FAILED, RAISED, ENDED, WRONG, BROKEN = 0, 11, 12, 13, 14, 15
"""With which `TESTS` ends: passed; an assertion failed; the submission raised; it ended; the tests cannot be right; they raised something else."""


def begin(channel: Channel, stdin: bytes) -> Link:
    """Have the driver load the submission, and return the link to it.

    Raises:
        StudentError: loading raised.
    """
    link = Link(channel)
    link._number = -1
    channel.write(dump_plain({"stdin": stdin}) + "\n")
    # The driver answers to a request of its own first; number 0 has been counted.
    link._number = 0
    answer = load_plain(channel.read_bytes_line())
    if (
        type(answer) is dict
        and set(answer) == {"id", "error", "message", "traceback"}
        and all(type(answer[key]) is str for key in answer if key != "id")
    ):
        raise StudentError(answer["error"][:200], answer["message"][:2000], answer["traceback"])
    if answer != {"id": 0, "value": None}:
        raise AssertionError("the submission wrote an answer of its own")
    return link


def _tests_text() -> str:
    shared = (StudentError, TestError, Raises, Link, _packed, Function, Remote, Student, begin)
    sources = "\n\n".join(inspect.getsource(each) for each in shared)
    return inspect.getsource(plain) + "\n\n" + sources + _CHANNEL


TESTS = _tests_text()
"""Runs tests that are text in a sandbox of their own: ``tests.py`` and ``stdin`` in its working directory, the driver at its standard streams."""
