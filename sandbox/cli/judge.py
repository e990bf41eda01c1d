"""``sandbox judge PACKAGE…``: judge the submissions of problem packages; ``languages`` and ``environment`` are modules of their own."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import tempfile
import threading

from sandbox.cli.operands import need, parse
from sandbox.cli.options import Option, UsageError
from sandbox.errors import SandboxError
from sandbox.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn, TextIO

    from sandbox.judge.pipeline.judging import Options
    from sandbox.judge.progress import Display
    from sandbox.judge.report import Judged

OPTIONS = (
    Option(name="submission", short="s", metavar="GLOB", help="only submissions of this name or directory", many=True),
    Option(name="jobs", short="j", metavar="N", help="runs at a time; the physical cores, unless given"),
    Option(name="format", short="f", metavar="FORMAT", help="of the report", values=("table", "json", "junit")),
    Option(name="output", short="o", metavar="FILE", help="write the report there, print the table", values=("@files",)),
    Option(name="strict", help="check the package, too; doubts count as wrong"),
    Option(name="time-limit", short="t", metavar="TIME", help="instead of the package's limit"),
    Option(name="repeat", short="r", metavar="N", help="run each case so often, tell how it varies"),
    Option(name="follow", metavar="DIR", help="links of packages may lead there", many=True, values=("@files",)),
    Option(name="no-cache", help="compile everything anew, and keep nothing"),
    Option(name="verbose", short="v", help="in the table, every case"),
    Option(name="quiet", short="q", help="no progress on standard error"),
    Option(name="help", short="h", help="this text"),
)
COMMANDS = {
    "languages": "which languages are known, and which are installed",
    "environment": "what of this host makes times vary",
}
_SYNOPSIS = "[OPTION...] PACKAGE..."
_ABOUT = """Judge the submissions of problem packages (Kattis and ICPC) and compare each
verdict with its label. Exit status: 0 all labels hold, 1 one does not, 2 a
package or the judge failed. Commands besides:

""" + "\n".join(f"  sandbox judge {name:<13}{text}" for name, text in COMMANDS.items()) + "\n\nMore: sandbox-judge(1)."
_MOST_JOBS = 1024
_NARROWEST = 40
_MOST_REPEATS = 10_000
_DESCRIPTORS = 1024


class Ended(BaseException):
    """A signal asks to end; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(words: list[str]) -> int:
    """Run the verb."""
    if words[:1] == ["languages"]:
        from sandbox.cli import judge_languages

        return judge_languages.run(words[1:])
    if words[:1] == ["environment"]:
        from sandbox.cli import judge_environment

        return judge_environment.run(words[1:])
    parsed = parse(words[1:] if words[:1] == ["run"] else words, OPTIONS, "judge", _SYNOPSIS, _ABOUT)
    if parsed is None:
        return 0
    given, paths = parsed
    need(paths, 1, None, "which package", "judge")
    return _judge(given, paths)


def _judge(given: dict[str, list[str]], paths: list[str]) -> int:
    form = given.get("format", ["table"])[0]
    if form not in ("table", "json", "junit"):
        raise UsageError(f"`--format {form}` is none of table, json and junit")
    options = _options(given)
    for path in given.get("follow", []):
        _check_directory(path)
    _make_room()
    from sandbox.judge.progress import Display
    from sandbox.judge.report import exit_code

    with _Output(given.get("output", [""])[0]) as output, _signals():
        judged: list[Judged] = []
        display = Display(None)
        try:
            for path in paths:
                display = Display(None if "quiet" in given else sys.stderr, live=_is_terminal(sys.stderr))
                try:
                    judged.append(_judge_one(path, options, display, cache="no-cache" not in given, follow=given.get("follow", [])))
                finally:
                    display.close()
            packages = tuple(judged)
            if output.path or form == "table":
                paint = _is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
                _print(_render("table", packages, paint=paint, verbose="verbose" in given))
            if output.path:
                output.write(_render(form, packages, verbose="verbose" in given))
            elif form != "table":
                _print(_render(form, packages))
        except Ended as ended:
            _leave(ended.number, judged, display, len(paths))
    return exit_code(packages)


def _make_room() -> None:
    """Do with what an odd caller left us: a umask that takes our own rights to what we make, few descriptors of the many that we may have."""
    import resource

    os.umask(os.umask(0o077) & 0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS) if hard != resource.RLIM_INFINITY else _DESCRIPTORS, hard))


def _options(given: dict[str, list[str]]) -> Options:
    from sandbox.judge.pipeline.cores import count_cores
    from sandbox.judge.pipeline.judging import Options

    time_limit = None
    if "time-limit" in given:
        time_limit = parse_duration(given["time-limit"][0], where="option `--time-limit`")
        if not time_limit:
            raise UsageError("`--time-limit` must be more than nothing")
    return Options(
        submissions=tuple(given.get("submission", ())),
        jobs=_count(given["jobs"][0], "jobs", _MOST_JOBS) if "jobs" in given else count_cores(),
        time_limit_ns=time_limit,
        strict="strict" in given,
        repeat=_count(given["repeat"][0], "repeat", _MOST_REPEATS) if "repeat" in given else 1,
    )


def _count(text: str, option: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= most):
        raise UsageError(f"`--{option} {text}` is not a number from 1 to {most}")
    return int(text)


def _check_directory(path: str) -> None:
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise UsageError(f"`--follow {path}`: {error.strerror}") from None


def _judge_one(path: str, options: Options, display: Display, *, cache: bool, follow: list[str]) -> Judged:
    """Judge one package; one that cannot be judged does not keep the others from it."""
    from sandbox.judge.errors import PackageError
    from sandbox.judge.packages import judge_package
    from sandbox.judge.report import FailedPackage

    try:
        return judge_package(path, options, display, cache=cache, follow=follow)
    except PackageError as error:
        return FailedPackage(path=path, message=error.message, origin=error.origin or "", hint=error.hint or _hint_command(path))
    except SandboxError as error:
        error.origin = "\n".join(filter(None, (error.origin, f"package `{path}`")))
        raise


def _hint_command(path: str) -> str:
    """Return which command may have been meant by a word that is no package's name."""
    from difflib import get_close_matches

    close = [] if os.path.lexists(path) else get_close_matches(path, COMMANDS, n=1)
    return f"did you mean `sandbox judge {close[0]}`?" if close else ""


def _render(form: str, packages: tuple[Judged, ...], *, paint: bool = False, verbose: bool = False) -> str:
    if form == "json":
        from sandbox.judge.report.json import render_json

        return render_json(packages)
    if form == "junit":
        from sandbox.judge.report.junit import render_junit

        return render_junit(packages)
    from sandbox.judge.report.table import coloured, plain, render_table

    return render_table(packages, coloured if paint else plain, verbose=verbose, width=_columns(sys.stdout))


# ---- the end by a signal ------------------------------------------------------------------------------------------


class _signals:
    """Context manager: signals that ask to end become `Ended`, and a second one ends on the spot: runs die with us, and the next command clears up."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in self._NUMBERS}
        self._asked = False
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        raise Ended(number)

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def _leave(number: int, judged: list[Judged], display: Display, total: int) -> NoReturn:
    """Say what was done, and end."""
    name = signal.Signals(number).name
    lines = [f"sandbox: ended by {name}: {len(judged)} of {total} packages are judged"]
    if display.done and len(judged) < total:
        lines[0] += f", and of the next {len(display.done)} of {display.total} submissions:"
        lines += [f"  {line}" for line in _summaries(display)]
    print("\n".join(lines), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith("judge-") for thread in threading.enumerate()):
        os._exit(128 + number)  # a worker that is busy in a sandbox: that dies with us
    raise SystemExit(128 + number)


def _summaries(display: Display) -> Iterator[str]:
    from sandbox.audit.events import escape_untrusted
    from sandbox.judge.progress import summary

    for each in display.done:
        yield f"{escape_untrusted(each.name, 80)}: {summary(each)}"


# ---- where the report goes ----------------------------------------------------------------------------------------


class _Output:
    """A report's file: that it can be made shows before anything is judged, and it is there when it is whole.

    It is written to a file without a name, which no kill leaves behind, where the file system has such files.

    Raises:
        UsageError: it cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._target = ""
        self._fd = -1

    def __enter__(self) -> _Output:
        if not self.path:
            return self
        try:
            if os.path.lexists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)  # /dev/stderr, a pipe
            else:
                self._target = os.path.realpath(self.path)
                self._fd = _open_nameless(os.path.dirname(self._target))
                mask = os.umask(0o077)
                os.umask(mask)
                os.fchmod(self._fd, 0o666 & ~mask)
        except OSError as error:
            raise UsageError(f"write `{self.path}`: {error.strerror}") from None
        return self

    def write(self, text: str) -> None:
        """Write all of it."""
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            if self._target:
                _name(self._fd, self._target)
        except OSError as error:
            raise SandboxError(f"write `{self.path}`: {error.strerror}") from None

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _open_nameless(directory: str) -> int:
    """Return a new file of a directory that has no name yet; of another place, where that cannot be had."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    fd, name = tempfile.mkstemp(dir=directory)
    os.unlink(name)
    return fd


def _name(fd: int, target: str) -> None:
    """Put a file without a name where another may be: at every moment the old one or the new one is there."""
    directory, name = os.path.split(target)
    short = f".{name[:100]}.{os.urandom(6).hex()}"
    new = os.path.join(directory, short)
    above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", short, dst_dir_fd=above, follow_symlinks=True)
    except OSError:  # it had a name once, or there is no /proc: copy it
        with open(new, "xb", opener=lambda path, flags: os.open(path, flags, os.fstat(fd).st_mode & 0o777)) as file:
            os.lseek(fd, 0, os.SEEK_SET)
            while data := os.read(fd, 1 << 20):
                file.write(data)
    finally:
        os.close(above)
    try:
        os.replace(new, target)
    except BaseException:
        os.unlink(new)
        raise


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SandboxError(f"write the report to standard output: {error.strerror}") from None


def _columns(stream: TextIO) -> int | None:
    """Return how wide a terminal is, None where there is none."""
    if not _is_terminal(stream):
        return None
    try:
        return max(_NARROWEST, os.get_terminal_size(stream.fileno()).columns or 80)
    except (OSError, ValueError):
        return 80


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "") not in ("", "dumb")  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False
