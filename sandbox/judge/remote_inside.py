"""What runs inside when functions of a submission are called: the driver that loads it, and the frame of tests that are text.

Programs as texts; only `task_play` and `task_talk` run them.
"""

from __future__ import annotations

import inspect

from sandbox.api import plain
from sandbox.judge.remote import Function, Link, Raises, Remote, Student, StudentError, TestError, begin, packed

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


def _tests_text() -> str:
    shared = (StudentError, TestError, Raises, Link, packed, Function, Remote, Student, begin)
    sources = "\n\n".join(inspect.getsource(each) for each in shared)
    return inspect.getsource(plain) + "\n\n" + sources + _CHANNEL


TESTS = _tests_text()
"""Runs tests that are text in a sandbox of their own: ``tests.py`` and ``stdin`` in its working directory, the driver at its standard streams."""
