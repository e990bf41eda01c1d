"""Notes every question that preparing a launch puts to the host, with its answer; `questions` asks them again.

While it listens, the functions of `os` and a few others that look at the host are replaced by ones that also note what was asked and what came of it; so no
module that prepares need know of it, and none can forget to. What cannot be noted (a file opened for writing, a path relative to a descriptor) makes
the notes void. Only for a process with one thread: the command line's own.
"""

from __future__ import annotations

import io
import os
import time
from stat import S_ISLNK

from sandbox.api.answers import Content, Entries, Entry, Environment, Flags, Status, User
from sandbox.api.questions import digest, is_unfiltered, kinds_digest, names_digest, read_digest, stamp_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any

    from sandbox.api.questions import Notes

MAXIMUM = 4000
"""How many questions are worth asking again; with more a launch is prepared anew."""

_READ_BYTES = 32 << 20
_PIECE = 1 << 16  # a sysctl refuses to be read into megabytes
# A directory whose names were last changed so long ago tells by its times when they are again; coarser than any file system's clock.
_SETTLED_NS = 2_000_000_000


class Listener:
    """Context manager that notes questions.

    Attributes:
        notes: for `holds`.
        void: why they are of no use, or empty.
        environment: an image's, which is below the caller's variables; None where the root is no image.
        before: words that an image puts before the caller's.
    """

    def __init__(self) -> None:
        self.notes: Notes = {
            kind: {}
            for kind in (
                "variable", "lstat", "stat", "readlink", "access", "read", "list", "scan", "statvfs", "mkdir", "xattr", "scheduler", "priority",
                "processors", "affinity", "sysconf", "user", "unfiltered", "kernel", "unchanged",
            )
        }  # fmt: skip
        self.void = ""
        self.environment: tuple[tuple[str, str], ...] | None = None
        self.before: tuple[str, ...] = ()
        self._files: dict[int, tuple[str, bytes, int]] = {}  # descriptor → path, what was read of it, how much was asked for
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Listener:
        import builtins
        import pwd

        from sandbox.api import questions
        from sandbox.kernel import calls

        questions.listening = self
        self._real_stat = os.stat
        self._real_open, self._real_read, self._real_fstat, self._real_close = os.open, os.read, os.fstat, os.close
        replacements: list[tuple[Any, str, Any]] = [
            (os, "stat", self._status("stat", os.stat)),
            (os, "lstat", self._status("lstat", os.lstat)),
            (os, "readlink", self._simple("readlink", os.readlink)),
            (os, "access", self._access(os.access)),
            (os, "listdir", self._listdir(os.listdir)),
            (os, "scandir", self._scandir(os.scandir)),
            (os, "statvfs", self._statvfs(os.statvfs)),
            (os, "mkdir", self._mkdir(os.mkdir)),
            (os, "getxattr", self._getxattr(os.getxattr)),
            (os, "open", self._open),
            (os, "read", self._read),
            (os, "fstat", self._fstat),
            (os, "close", self._close),
            (os, "sched_getscheduler", self._simple("scheduler", os.sched_getscheduler)),
            (os, "getpriority", self._number("priority", os.getpriority)),
            (os, "cpu_count", self._simple("processors", os.cpu_count)),
            (os, "sched_getaffinity", self._simple("affinity", os.sched_getaffinity)),
            (os, "sysconf", self._simple("sysconf", os.sysconf)),
            (os, "environ", Environment(os.environ, self.notes["variable"])),
            (os, "fdopen", self._refused("os.fdopen", os.fdopen)),
            (builtins, "open", self._file),
            (pwd, "getpwuid", self._user(pwd.getpwuid)),
            (calls, "ask_kernel", self._kernel(calls.ask_kernel)),
        ]
        for module, name, made in replacements:
            self._before.append((module, name, getattr(module, name)))
            setattr(module, name, made)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        from sandbox.api import questions

        questions.listening = None
        self.pause()
        links, files = self.notes["lstat"], self.notes["stat"]
        for path in [path for path, answer in files.items() if links.get(path) == answer and not isinstance(answer, int) and not S_ISLNK(answer[0])]:
            del files[path]  # what is no link answers both
        if self._count() > MAXIMUM:
            self.void = self.void or f"{self._count()} questions"

    def pause(self) -> Callable[[], None]:
        """Listen no more; return a function that goes on."""
        now = [(module, name, getattr(module, name)) for module, name, _ in self._before]
        for module, name, before in reversed(self._before):
            setattr(module, name, before)

        def resume() -> None:
            for module, name, made in now:
                setattr(module, name, made)

        return resume

    def look_at(self, path: str) -> None:
        """Note what a file holds, for somebody who finds it out in another way."""
        self._note("read", (path, _READ_BYTES), self.aside(read_digest)(path, _READ_BYTES))

    def of_image(self, environment: tuple[tuple[str, str], ...], before: tuple[str, ...]) -> None:
        """Take what an image says of a command: see the attributes."""
        self.environment, self.before = environment, before

    def aside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose questions are not noted: others stand for them."""

        def call(*args: Any, **named: Any) -> Any:
            resume = self.pause()
            try:
                return function(*args, **named)
            finally:
                resume()

        return call

    def _count(self) -> int:
        return sum(len(answers) for answers in self.notes.values())

    def _note(self, kind: str, key: Any, answer: Any) -> None:
        """Note an answer; where an earlier one was another, nothing can be said."""
        if self.notes[kind].setdefault(key, answer) != answer:
            self.void = self.void or f"{kind} of `{key}` changed meanwhile"

    def _path(self, path: Any, named: Mapping[str, Any]) -> str | None:
        """Return a path that can be asked about again, or None."""
        if isinstance(path, int):
            self.void = self.void or "a question about a descriptor"
            return None
        if any(value is not None for name, value in named.items() if name.endswith("dir_fd")):
            self.void = self.void or "a path relative to a descriptor"
            return None
        return os.fsdecode(path)

    def _status(self, kind: str, ask: Callable[..., os.stat_result]) -> Callable[..., Any]:
        def call(path: Any, **named: Any) -> Any:
            name = self._path(path, named)
            noted = "lstat" if named.get("follow_symlinks") is False else kind
            try:
                found = ask(path, **named)
            except OSError as error:
                if name is not None:
                    self._note(noted, name, error.errno)
                raise
            return found if name is None else Status(found, self, noted, name)

        return call

    def _simple(self, kind: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            key = self._path(args[0], named) if kind == "readlink" else args[0] if args else 0
            try:
                found = ask(*args, **named)
            except OSError as error:
                self._note(kind, key, error.errno)
                raise
            self._note(kind, key, found)
            return found

        return call

    def _number(self, kind: str, ask: Callable[..., int]) -> Callable[..., int]:
        def call(*args: int) -> int:
            found = ask(*args)
            self._note(kind, args, found)
            return found

        return call

    def _kernel(self, ask: Callable[[str], int]) -> Callable[[str], int]:
        def call(question: str) -> int:
            found = ask(question)
            try:
                if self.aside(is_unfiltered)():
                    # Nothing but another boot, or a filter, makes another answer: two reads instead of the import that calls need.
                    self.look_at("/proc/sys/kernel/random/boot_id")
                    self._note("unfiltered", 0, True)
                    return found
            except OSError:
                pass
            self._note("kernel", question, found)
            return found

        return call

    def _access(self, ask: Callable[..., bool]) -> Callable[..., bool]:
        def call(path: Any, mode: int, *, effective_ids: bool = False, **named: Any) -> bool:
            name = self._path(path, named)
            found = ask(path, mode, effective_ids=effective_ids, **named)
            if named:
                self.void = self.void or "access with options"
            elif name is not None:
                self._note("access", (name, mode, effective_ids), found)
            return found

        return call

    def _listdir(self, ask: Callable[..., list[str]]) -> Callable[..., list[str]]:
        def call(path: Any = ".") -> list[str]:
            name = self._path(path, {})
            try:
                before = stamp_of(self._real_stat(path))
                found = ask(path)
            except OSError as error:
                self._note("list", name, error.errno)
                raise
            if before[-1] < time.time_ns() - _SETTLED_NS:
                self._note("unchanged", name, before)
            else:
                self._note("list", name, names_digest(found))
            return found

        return call

    def _scandir(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".") -> Any:
            name = self._path(path, {})
            try:
                before = stamp_of(self._real_stat(path))
                with ask(path) as entries:
                    found = list(entries)
            except OSError as error:
                self._note("scan", name, error.errno)
                raise
            if before[-1] < time.time_ns() - _SETTLED_NS:
                self._note("unchanged", name, before)
            else:
                self._note("scan", name, kinds_digest(found))
            return Entries([Entry(entry) for entry in found])

        return call

    def _statvfs(self, ask: Callable[..., os.statvfs_result]) -> Callable[..., Any]:
        def call(path: Any) -> Any:
            name = self._path(path, {})
            try:
                found = ask(path)
            except OSError as error:
                self._note("statvfs", name, error.errno)
                raise
            self._note("statvfs", name, found.f_flag)
            return Flags(found.f_flag)

        return call

    def _mkdir(self, ask: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, mode: int = 0o777, **named: Any) -> None:
            name = self._path(path, named)
            try:
                ask(path, mode, **named)
            except OSError as error:
                self._note("mkdir", (name, mode), error.errno)
                raise
            self._note("mkdir", (name, mode), 0)

        return call

    def _getxattr(self, ask: Callable[..., bytes]) -> Callable[..., bytes]:
        def call(path: Any, name: str) -> bytes:
            key = (self._path(path, {}), name)
            try:
                found = ask(path, name)
            except OSError as error:
                self._note("xattr", key, error.errno)
                raise
            self._note("xattr", key, digest(found))
            return found

        return call

    def _user(self, ask: Callable[[int], Any]) -> Callable[[int], Any]:
        def call(number: int) -> Any:
            try:
                found = ask(number)
            except KeyError:
                self._note("user", number, None)
                raise
            self._note("user", number, found.pw_dir)
            return User(found.pw_dir)

        return call

    def _refused(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.void = self.void or f"{what} was called"
            return function(*args, **named)

        return call

    # What is read of a file is noted as one question: its first bytes, as many as were asked for.

    def _open(self, path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
        name = self._path(path, named)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_PATH | os.O_NOFOLLOW) or name is None:
            self.void = self.void or f"`{name}` was opened for more than reading"
            return self._real_open(path, flags, mode, **named)
        try:
            fd = self._real_open(path, flags)
        except OSError as error:
            self._note("read", (name, 1), error.errno)
            raise
        self._files[fd] = (name, b"", 0)
        return fd

    def _fstat(self, fd: int) -> Any:
        found = self._real_fstat(fd)
        if fd not in self._files:
            self.void = self.void or "a question about a descriptor"
            return found
        return Status(found, self, "stat", self._files[fd][0])

    def _read(self, fd: int, count: int) -> bytes:
        try:
            content = self._real_read(fd, count)
        except OSError:
            self.void = self.void or "a file could not be read"
            raise
        if fd not in self._files:
            self.void = self.void or "a descriptor was read"
            return content
        name, before, asked = self._files[fd]
        self._files[fd] = (name, before + content, asked + count)
        return content

    def _close(self, fd: int) -> None:
        name, content, asked = self._files.pop(fd, ("", b"", 0))
        if asked:
            # One byte more than there was shows that a file has grown.
            self._note("read", (name, min(asked, len(content) + 1)), digest(content))
        self._real_close(fd)

    def _file(self, path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if isinstance(path, int) or set(mode) - set("rbt"):
            self.void = self.void or "a file was opened for more than reading"
            return open(path, mode, *args, **named)
        fd = self._open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b""
            while part := self._read(fd, _PIECE):
                content += part
        finally:
            self._close(fd)
        made = Content(content)
        return made if "b" in mode else io.TextIOWrapper(made, encoding=named.get("encoding"))


__all__ = ["MAXIMUM", "Listener"]
