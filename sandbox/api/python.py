"""Warm interpreters, as values: what a `Sandbox` was asked to keep, which command lines one can take, and the bytes in which it gets them.

`api.pool_python` keeps and runs them; the text that waits inside is `launch/interpreter.py`. Nothing here is ever read back from a sandbox but one word,
which is looked at as text.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sandbox.errors import PolicyError
from sandbox.record import dataclass
from sandbox.units import parse_size

MODES = ("started", "forked")
"""``started``: every member starts its own Python in its own sandbox, with a hash seed and an address-space layout of its own. ``forked``: members are forks of
one that has imported the modules, and share both; the modules are imported under fewer walls than a program has (docs/explanation/launching.md)."""

_NAME = "w"
_TOKEN = os.urandom(12).hex().encode()
_BARE = frozenset("bBdEIOPqRsuv")  # options of Python that are the same for a program that comes later
_WITH_WORD = frozenset("WX")
_SIZE, _MOST = 2, 256
_TAIL = 4096
# What the interpreter, the dynamic linker or a library reads when it starts: another value later would be no cold run's.
_EARLY = ("PYTHON", "LD_", "GLIBC_", "MALLOC_", "LC_", "OMP_", "OPENBLAS_", "MKL_", "BLIS_", "NUMEXPR_", "VECLIB_", "GOMP_", "KMP_", "NPY_", "OPENSSL_")
_EARLY_NAMES = frozenset({"LANG", "LANGUAGE", "TZ", "HOME", "PATH", "VIRTUAL_ENV"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """Warm interpreters of a `Sandbox`: single-use sandboxes in which Python already runs and waits for its program.

    Attributes:
        command: how runs that may use one begin: ``("python3",)``, or with options such as ``("python3", "-u")``.
        modules: imported before the program is there. What they do on import is done under every wall of the sandbox, and not billed to the run.
        mode: ``started`` or ``forked``, see `MODES`.
        size: how many wait.
        memory: what all that wait may hold together, in bytes or as text such as ``"512M"``; None for no bound but `size`.
        max_age: seconds after which one that nobody took is replaced.
    """

    command: tuple[str, ...] = ("python3",)
    modules: tuple[str, ...] = ()
    mode: str = "started"
    size: int = _SIZE
    memory: int | str | None = None
    max_age: float = 600.0

    @property
    def memory_bytes(self) -> int | None:
        """The bound in bytes."""
        return None if self.memory is None else parse_size(self.memory, where="python: memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What follows an interpreter's options on a command line: ``c`` code, ``m`` a module or ``f`` a file, and its arguments."""

    kind: str
    target: str
    arguments: tuple[str, ...]


def parse_python(given: Python | Mapping[str, Any] | Iterable[str] | bool | None) -> Python | None:
    """Return what the argument `python` of a `Sandbox` means: None for no warm interpreters.

    Args:
        given: ``True``, names of modules, the attributes of `Python` as a mapping, or one.

    Raises:
        PolicyError: a value is wrong.
        TypeError: it is something else.
    """
    if given is None or given is False:
        return None
    if given is True:
        given = Python()
    elif isinstance(given, str):
        raise TypeError(f"python must be True, a sequence of modules or a mapping; for one module write `python=[{given!r}]`")
    elif isinstance(given, Mapping):
        unknown = sorted(set(given) - {"command", "modules", "mode", "size", "memory", "max_age"})
        if unknown:
            raise PolicyError(f"unknown key `{unknown[0]}` of `python`", hint="command, modules, mode, size, memory and max_age")
        words = dict(given)
        for key in ("command", "modules"):
            if key in words:
                if isinstance(words[key], (str, bytes)):
                    raise TypeError(f"python: `{key}` must be a sequence of words, not one text")
                words[key] = tuple(map(os.fspath, words[key]))
        given = Python(**words)
    elif not isinstance(given, Python):
        given = Python(modules=tuple(map(os.fspath, given)))
    _check(given)
    return given


def _check(python: Python) -> None:
    if not python.command or not python.command[0] or python.command[0].startswith("-"):
        raise PolicyError("python: `command` must begin with an interpreter", hint='for example ("python3",)')
    for number, word in enumerate(python.command[1:]):
        if not _is_option(word) and not (number and _takes_word(python.command[number])):
            raise PolicyError(f"python: `command` has `{word}`, which is no option that a warm interpreter can be started with")
    if len(python.command) > 1 and _takes_word(python.command[-1]):
        raise PolicyError(f"python: option `{python.command[-1]}` of `command` lacks its value")
    for name in python.modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise PolicyError(f"python: `{name}` is no name of a module")
    if python.mode not in MODES:
        raise PolicyError(f"python: unknown mode `{python.mode}`", hint=f"one of {', '.join(MODES)}")
    if type(python.size) is not int or not 0 < python.size <= _MOST:
        raise PolicyError(f"python: size must be a number from 1 to {_MOST}, not {python.size!r}")
    _ = python.memory_bytes  # which checks it
    if type(python.max_age) not in (int, float) or not python.max_age > 0:
        raise PolicyError(f"python: max_age must be a positive number of seconds, not {python.max_age!r}")


def _is_option(word: str) -> bool:
    letters = word[1:]
    if word[:1] != "-" or not letters:
        return False
    bare = letters.rstrip("WX")
    if len(letters) > 1 and letters[0] in _WITH_WORD:  # -Werror, -Xdev
        return True
    return all(letter in _BARE for letter in bare) and len(letters) - len(bare) <= 1


def _takes_word(word: str) -> bool:
    return word[:1] == "-" and word[-1] in _WITH_WORD and (len(word) == 2 or word[1] not in _WITH_WORD)


def parse_program(python: Python, argv: Sequence[str]) -> Program | None:
    """Return what a command line gives to a warm interpreter, or None when it must be started cold.

    Args:
        python: which interpreter waits.
        argv: the whole command line.
    """
    count = len(python.command)
    if tuple(argv[:count]) != python.command or len(argv) == count:
        return None
    first, *rest = argv[count:]
    if first in ("-c", "-m"):
        return Program(kind=first[1], target=rest[0], arguments=tuple(rest[1:])) if rest else None
    if not first or first.startswith("-"):  # further options, or the program comes from standard input
        return None
    return Program(kind="f", target=first, arguments=tuple(rest))


def waiting_argv(python: Python) -> tuple[str, ...]:
    """Return the command line of an interpreter that waits."""
    return (*python.command, "-c", _waiting_text(python, f'{_NAME}["Member"]({_NAME!r},{_TOKEN!r},{python.modules!r})'))


def zygote_text(python: Python, serving: Callable[[bytes], str]) -> str:
    """Return what a zygote runs as ``-c``: the same, but that it is forked for each program once its modules are there.

    Args:
        python: which interpreter.
        serving: returns Python that defines `serve_zygote`, given the token that its words are to begin with.
    """
    made = f'exec(compile({serving(_TOKEN)!r},"<zygote>","exec"),{_NAME});'
    return _waiting_text(python, f'{_NAME}["Member"]({_NAME!r},{_TOKEN!r},{python.modules!r},{_NAME}["serve_zygote"])', made)


def _waiting_text(python: Python, member: str, before: str = "") -> str:
    global _text
    if _text is None:
        from sandbox.launch.spawn import REFERENCE

        with open(os.path.join(os.path.dirname(REFERENCE), "interpreter.py"), encoding="utf-8") as file:
            _text = file.read()
    first = f'{_NAME}={{"__name__":"__warm__"}};exec(compile({_text!r},"<warm>","exec"),{_NAME});{before}{_NAME}={member}'
    # The second line is the one frame below the program.
    return f"{first}\nwith {_NAME}:{_NAME}.take()()"


_text: str | None = None


def encode_program(
    program: Program, *, path: str, argv: Sequence[str], environment: Mapping[str, str] | None, files: Mapping[str, bytes]
) -> bytes:
    """Return the bytes that a waiting interpreter reads before anything else.

    Args:
        program: what it runs.
        path: the interpreter, as a cold run would execute it inside.
        argv: the whole command line.
        environment: the run's, None for the one that it was started with.
        files: to be made in the working directory first.
    """
    variables = None if environment is None else {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    words = tuple(os.fsencode(word) for word in argv)
    made = tuple((os.fsencode(name), content) for name, content in files.items())
    command = (program.kind, os.fsencode(program.target), len(program.arguments), os.fsencode(path), words, variables, made)
    data = marshal.dumps(command, 2)  # a format that every Python 3 reads
    return len(data).to_bytes(8, "little") + data


class Answer:
    """What comes on a waiting interpreter's standard output before it is warm; untrusted.

    `failure` says why it is not warm, and `said` whether it told so itself. All else that was printed is thrown away.
    """

    def __init__(self) -> None:
        self.failure = ""
        self.said = False
        self._known = False
        self._tail = b""

    def feed(self, data: bytes) -> bool | None:
        """Take what was read, nothing at the end of the stream; return, once, whether it is warm, and None as long as that is not known and afterwards."""
        if self._known:
            return None
        self._tail = (self._tail + data)[-_TAIL:]
        if data and _TOKEN + b"+" not in self._tail:
            return None
        self._known = True
        if data:
            return True
        _, mark, told = self._tail.partition(_TOKEN + b"-")
        self.said = bool(mark)
        self.failure = told.decode("utf-8", "replace") if mark else "it ended"
        return False


def token() -> bytes:
    """Return what a waiting interpreter's words begin with."""
    return _TOKEN


def is_early(name: str) -> bool:
    """Tell whether a variable counts only when it is there from the start."""
    return name in _EARLY_NAMES or name.startswith(_EARLY) or name.endswith("_NUM_THREADS")


__all__ = ["MODES", "Answer", "Program", "Python", "encode_program", "is_early", "parse_program", "parse_python", "token", "waiting_argv", "zygote_text"]
