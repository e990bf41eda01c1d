"""What an author of a grader states: tests, parts of a task with several programs, submissions; and how their contents are read.

Text is always text, a path object always a file: no guess is made. Of a submission's directory nothing but regular files is read, and no link is followed:
students choose their links' targets.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

from sandbox.audit.events import escape_untrusted
from sandbox.errors import SandboxError
from sandbox.record import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.dialogue import Dialogue
    from sandbox.judge.remote import Student
    from sandbox.judge.task_check import Output

Contents = bytes | str | os.PathLike[str]
"""Bytes, text (encoded as UTF-8), or a path object of a host file that is read when the task is made."""

Files = Mapping[str, Contents]
Submitted = Files | os.PathLike[str] | str
"""A submission: names and contents; a path object of a file or a directory; or the text of a program whose language the task states."""

MAXIMUM_FILES = 1000
MAXIMUM_BYTES = 64 << 20


class SubmissionError(SandboxError):
    """A submission cannot be taken as a program: it is too large, or holds what is no regular file."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a `Task`.

    Attributes:
        stdin: standard input.
        expected: standard output that is right, as `flags` compare it; None leaves it to `checker`, `expected_files`, or how the program ends.
        name: unique within the task; numbered where it is empty.
        points: what passing it is worth; None is 1, or what its group gives.
        args: command line arguments.
        files: names and contents in the working directory.
        expected_files: files that the program has to write there, compared as `expected` is.
        collect: patterns of more files to read from there, for a checker: ``out/*.txt``.
        checker: a function that judges instead; called outside of any sandbox. The task's unless given.
        flags: how to compare, the words of problem packages: ``case_sensitive``, ``space_change_sensitive``, ``float_tolerance 1e-6``.
        exit_code: the exit code that is right, None for any.
        call: a function that tests functions of the submission, which has to be Python: `Student` says how.
        code: the same as text, which is run in a sandbox of its own; names that it does not define are the submission's.
        talk: a function that talks with the program while it runs: `Dialogue` says how.
        hidden: contestants see that they failed, and nothing else of it.
        hint: what they see when they failed, hidden or not.
        group: tests of a group earn its points together, as many as its worst one; see `Task.groups`.
        time_limit: seconds of CPU time, None is the task's.
        memory_limit: likewise.
    """

    __test__ = False  # pytest collects classes of that name

    stdin: Contents = b""
    expected: Contents | None = None
    name: str = ""
    points: float | None = None
    args: Sequence[str] = ()
    files: Files = field(default_factory=dict)
    expected_files: Files = field(default_factory=dict)
    collect: Sequence[str] = ()
    checker: Callable[[Output], object] | None = None
    flags: str = ""
    exit_code: int | None = 0
    call: Callable[[Student], object] | None = None
    code: str = ""
    talk: Callable[[Dialogue], object] | None = None
    hidden: bool = False
    hint: str = ""
    group: str = ""
    time_limit: float | None = None
    memory_limit: int | str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One program of a task in which several run at a time.

    Attributes:
        program: its files, None for the submission. A program of the author's own gets a sandbox, too, and whatever goes wrong in it is no fault of the
            contestant's.
        args: arguments before those of the test.
        language: as for `Task`.
        entrypoint: likewise.
    """

    program: Files | None = None
    args: Sequence[str] = ()
    language: str = ""
    entrypoint: str = ""


def read_contents(contents: Contents) -> bytes:
    """Return contents as bytes.

    Raises:
        SandboxError: a file cannot be read.
        TypeError: it is something else.
    """
    if isinstance(contents, bytes):
        return contents
    if isinstance(contents, str):
        return contents.encode()
    if isinstance(contents, os.PathLike):
        try:
            with open(contents, "rb") as file:
                return file.read()
        except OSError as error:
            raise SandboxError(f"read `{os.fspath(contents)}`: {error.strerror}") from None
    raise TypeError(f"contents must be bytes, text or a path object, not {type(contents).__name__}")


def read_files(files: Files) -> dict[str, bytes]:
    """Return names and contents as bytes; errors as `read_contents`."""
    if not isinstance(files, Mapping):
        raise TypeError(f"files must be a mapping of names to contents, not {type(files).__name__}")
    return {name: read_contents(contents) for name, contents in files.items()}


def check_callable(checker: object, what: str) -> None:
    """Refuse a checker that cannot be called, before anybody's submission is judged by it."""
    if checker is not None and not callable(checker):
        raise TypeError(f"{what} must be a function, not {type(checker).__name__}")


def settle_test(test: Test, number: int) -> Test:
    """Return a test with its contents read, its name and its points.

    Raises:
        TypeError: something is of the wrong kind.
        ValueError: it contradicts itself.
    """
    if not isinstance(test, Test):
        raise TypeError(f"test {number} must be a `Test`, not {type(test).__name__}")
    name = test.name or f"test {number}"
    ways = [way for way in ("call", "code", "talk") if getattr(test, way)]
    if len(ways) > 1 or (ways and (test.expected is not None or test.checker is not None or test.expected_files or test.collect)):
        raise ValueError(
            f"`{name}`: `{ways[0]}` judges for itself: leave out `expected`, `checker`, `expected_files`, `collect` and other ways"
        )
    if isinstance(test.args, (str, bytes)) or isinstance(test.collect, (str, bytes)):
        raise TypeError(f"`{name}`: `args` and `collect` are sequences of texts")
    args = tuple(test.args)
    for word in args:
        if not isinstance(word, (str, os.PathLike)):
            raise TypeError(f"`{name}`: arguments must be texts, not {type(word).__name__}")
        if "\0" in os.fspath(word):
            raise ValueError(f"`{name}`: no argument of a program can have a NUL in it")
    check_callable(test.checker, f"checker of `{name}`")
    if test.group and test.points is not None:
        raise ValueError(f"`{name}`: the points of a test in a group are the group's: leave `points` out")
    points = 0.0 if test.group else 1.0 if test.points is None else float(test.points)
    if not 0 <= points < float("inf"):
        raise ValueError(f"`{name}`: points must be 0 or more, not {test.points}")
    return replace(
        test,
        name=name,
        points=points,
        stdin=read_contents(test.stdin),
        expected=None if test.expected is None else read_contents(test.expected),
        args=args,
        collect=tuple(test.collect),
        files=read_files(test.files),
        expected_files=read_files(test.expected_files),
    )


def read_submission(submitted: Submitted, source_name: str = "") -> dict[str, bytes]:
    """Return a submission's files.

    Args:
        submitted: what was handed in.
        source_name: the file that text becomes.

    Raises:
        SubmissionError: a directory holds too much, or what is neither a regular file nor a directory; text is not all characters.
        SandboxError: something cannot be read.
        TypeError: it is something else.
        ValueError: it is text, and no language was stated.
    """
    if isinstance(submitted, str) and not source_name:
        raise ValueError("the submission is text: state the task's `language`, or give names and contents, or a path object for a file")
    if isinstance(submitted, (str, Mapping)):
        try:
            return read_files({source_name: submitted} if isinstance(submitted, str) else submitted)
        except UnicodeEncodeError as error:  # what was JSON may have it
            raise SubmissionError(f"the submission's text has a lone surrogate, U+{ord(error.object[error.start]):04X}, which is no character") from None
    if not isinstance(submitted, os.PathLike):
        raise TypeError(f"a submission must be names and contents, a path object or text, not {type(submitted).__name__}")
    path = os.fspath(submitted)
    try:
        if os.path.isdir(path):
            return _read_tree(path)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        return {os.path.basename(path): _read_regular(fd, os.path.basename(path), MAXIMUM_BYTES)}
    except OSError as error:
        raise _unreadable(error, path) from None


def _read_tree(path: str) -> dict[str, bytes]:
    """Read a directory by descriptors, so that no link can be put in the way meanwhile."""
    found: dict[str, bytes] = {}
    left = MAXIMUM_BYTES
    for name, fd in _walk(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "", 0):
        found[name] = _read_regular(fd, name, left)
        left -= len(found[name])
        if len(found) > MAXIMUM_FILES:
            raise SubmissionError(f"the submission has more than {MAXIMUM_FILES} files")
    return found


def _walk(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    """Yield names and open descriptors of all files below; takes the directory's."""
    try:
        if depth > 32:
            raise SubmissionError(f"`{_shown(prefix)}` is nested too deep")
        for name in sorted(os.listdir(directory)):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            except OSError as error:
                raise _unreadable(error, prefix + name) from None
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                yield from _walk(fd, f"{prefix}{name}/", depth + 1)
            else:
                yield prefix + name, fd
    finally:
        os.close(directory)


def _read_regular(fd: int, name: str, most: int) -> bytes:
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SubmissionError(f"`{_shown(name)}` is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise SubmissionError(f"the submission is larger than {MAXIMUM_BYTES >> 20} MiB")
    return data


def _unreadable(error: OSError, path: str) -> SandboxError:
    import errno

    if error.errno == errno.ELOOP:
        return SubmissionError(f"`{_shown(path)}` is a link, and links of a submission are not followed")
    if error.errno == errno.ENXIO:
        return SubmissionError(f"`{_shown(path)}` is no regular file")
    return SandboxError(f"read `{_shown(path)}`: {error.strerror}")


def _shown(name: str) -> str:
    return escape_untrusted(name, 200)
