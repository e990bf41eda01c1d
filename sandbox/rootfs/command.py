"""Finds the program that a command line means, as the caller's shell would, and what its ``#!`` line needs.

Raises `CommandNotFound`, which carries the shell's exit code; front ends catch it. Only `rootfs` imports the rest of this module.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat

from sandbox.errors import ExecuteError, SandboxError
from sandbox.plan.root import FileBytes
from sandbox.rootfs.interpreters import Interpreters, find_pyenv, is_pyenv_shims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.rootfs.view import View

STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
_SHEBANG_DEPTH = 4  # as the kernel: BINPRM_BUF_SIZE of 256 and five levels, execve(2); four interpreters after the script
_HEAD = 1024
# pip, uv and conda write this where the interpreter's path is too long for a #! line, or has a space.
_EXEC_TRICK = re.compile(rb"""\A#!\s*/bin/sh\s*\n'''exec'\s+(?:"([^"\n]+)"|(\S+))\s""")


class CommandNotFound(ExecuteError):
    """There is no such program to run, inside or outside; `exit_code` is 127, or 126 for one that is not executable.

    Found before anything was started, but to the caller the same as an execve(2) that failed.
    """

    def __init__(self, message: str, *, exit_code: int, origin: str | None = None, hint: str | None = None) -> None:
        SandboxError.__init__(self, message, origin=origin, hint=hint)
        self.call = message
        self.errno = errno.EACCES if exit_code == 126 else errno.ENOENT
        self.step = origin
        self.exit_code = exit_code


class Resolver:
    """Finds programs and makes them visible.

    Args:
        view: the root so far, volumes and working directory included.
        interpreters: adds to the view what a program needs.
        search: the caller's PATH, split.
        cwd: the caller's working directory, resolved, where relative names start; None when there is none, then nothing
            relative is looked for on the host.
        workdir: where the program will start, in the view of the sandbox.
        environ: the caller's environment, for pyenv.
    """

    def __init__(
        self, view: View, interpreters: Interpreters, *, search: list[str], cwd: str | None, workdir: str, environ: Mapping[str, str]
    ) -> None:
        self.view = view
        self.interpreters = interpreters
        self.search = search
        self.cwd = cwd
        self.workdir = workdir
        self.environ = environ
        self.replaced: dict[str, list[str]] = {}  # directories of PATH that were found through another
        self.python_user_base: str | None = None

    def resolve(self, argv0: str) -> str:
        """Return the path to execute inside for a command's first word, and share what it needs.

        Raises:
            CommandNotFound: as a shell would say it.
        """
        if not argv0 or "\0" in argv0:
            raise CommandNotFound(f"run `{argv0}`: not a file name", exit_code=127)
        path = self._named(argv0) if "/" in argv0 else self._searched(argv0, argv0)
        self._follow_shebangs(path, argv0)
        return path

    def _named(self, name: str) -> str:
        path = posixpath.join(self.workdir, name)
        problem = self._problem(path)
        if problem == "missing" and self.cwd is not None:
            # The caller's directory may not be shared; then only the file is.
            path = posixpath.join(self.cwd, name)
        if problem is None or self.cwd is not None or name.startswith("/"):
            problem = self._find(path, f"command `{name}`")
        if problem is not None:
            raise self._not_found(name, name, problem)
        normal = posixpath.normpath(path)
        # `a/../b` is `b` only while `a` is no symbolic link.
        return normal if self.view.trace(normal) == self.view.trace(path) else path

    def _searched(self, name: str, command: str) -> str:
        """Search PATH, in each directory the sandbox's view first."""
        worst = "missing"
        pyenv = ""
        for directory in self.search:
            if not directory.startswith("/"):
                if self.cwd is None:
                    continue
                directory = posixpath.join(self.cwd, directory)
            directory = posixpath.normpath(directory)
            path = posixpath.join(directory, name)
            if is_pyenv_shims(directory) and os.path.isfile(path):
                program, version = find_pyenv(path, self.cwd or "/", self.environ)
                if program is None:
                    pyenv = f"pyenv's version `{version}` has no `{name}`"
                    continue
                self.replaced.setdefault(directory, []).append(posixpath.dirname(program))
                path = program
            problem = self._find(path, f"command `{command}`")
            if problem is None:
                return path
            if problem != "missing":
                worst = problem
        raise self._not_found(name, command, worst, pyenv)

    def _find(self, path: str, why: str, *, chosen: bool = True) -> str | None:
        """Make the program at a path visible with what it needs; return what is wrong with it, or None. `chosen` as in `Interpreters.expose`."""
        end = self.view.trace(path)
        problem = self._problem(path)
        if problem is None and end is not None and self.view.host_path(end) != os.path.realpath(path):
            return None  # there under another name than outside, through a volume, or made by us
        if problem not in (None, "missing"):
            return problem
        outside = host_problem(path)
        if outside is not None:
            return outside
        try:
            # Also for a visible one: a virtual environment in the working directory has its library elsewhere.
            self.interpreters.expose(path, why, chosen=chosen)
        except OSError:
            return "missing"
        return self._problem(path)

    def _problem(self, path: str) -> str | None:
        """Return what keeps a path inside from being executed, or None."""
        end = self.view.trace(path)
        if end is None:
            return "missing"
        entry = self.view.entries.get(end)
        if isinstance(entry, FileBytes):
            return None if entry.mode & 0o111 else "not executable"
        host = self.view.host_path(end)
        return host_problem(host) if host is not None else "a directory"

    def _not_found(self, name: str, command: str, problem: str, hint: str = "") -> CommandNotFound:
        origin = f"needed by `{command}`" if name != command else None
        if problem == "missing":
            reason = "no such file" if "/" in name else "not found in PATH"
            return CommandNotFound(f"run `{name}`: {reason}", exit_code=127, origin=origin, hint=hint or None)
        reason = "it is a directory" if problem == "a directory" else "it is not executable"
        hint = hint or (f"`chmod +x {name}`, or name its interpreter: `python3 {name}`" if problem != "a directory" and "/" in name else "")
        return CommandNotFound(f"run `{name}`: {reason}", exit_code=126, origin=origin, hint=hint or None)

    def _follow_shebangs(self, path: str, command: str) -> None:
        """Make visible every interpreter that the kernel, or ``env``, will look for."""
        for _ in range(_SHEBANG_DEPTH):
            end = self.view.trace(path)
            head = self.view.read_head(end, _HEAD) if end is not None else None
            if end is None or head is None or not head.startswith(b"#!"):
                return
            words = parse_shebang(head)
            if not words:
                return
            interpreter = words[0]
            if posixpath.basename(interpreter) == "env":
                self._need(interpreter, command)
                program = env_program(words[1:])
                if program is None:
                    return
                interpreter = program
            script = end
            path = self._need(interpreter, command)
            if posixpath.basename(path).startswith(("python", "pypy")):
                self.python_user_base = self.interpreters.expose_user_site(script) or self.python_user_base

    def _need(self, name: str, command: str) -> str:
        """Find an interpreter; a relative one starts from the directory where the program starts."""
        if "/" not in name:
            return self._searched(name, command)
        path = posixpath.join(self.workdir, name)
        problem = self._find(path, f"interpreter of `{command}`", chosen=False)
        if problem is not None:
            raise self._not_found(name, command, problem)
        return path


def host_problem(path: str) -> str | None:
    """Return ``missing``, ``a directory`` or ``not executable`` for a host path, None for a program."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "missing"
    if stat.S_ISDIR(mode):
        return "a directory"
    return None if stat.S_ISREG(mode) and os.access(path, os.X_OK) else "not executable"


def parse_shebang(head: bytes) -> list[str]:
    """Return the words of a script's ``#!`` line; the kernel gives the rest as one argument and ``env -S`` splits it: words do for both.

    Source: execve(2), fs/binfmt_script.c.
    """
    trick = _EXEC_TRICK.match(head)
    if trick:
        return [os.fsdecode(trick[1] or trick[2])]
    line = head[2:256].partition(b"\n")[0].partition(b"\0")[0]  # the kernel's own strings end there, too
    return [os.fsdecode(word) for word in line.split()]


def env_program(words: list[str]) -> str | None:
    """Return the program that ``env`` will look for, given its words: options and assignments come before it."""
    queue = iter(words)
    for word in queue:
        if word in ("-u", "--unset", "-C", "--chdir"):
            next(queue, None)
        elif word.startswith("-S") and len(word) > 2:
            return word[2:] if "=" not in word else env_program([word[2:], *queue])
        elif not word.startswith("-") and "=" not in word:
            return word
    return None


def compose_path(resolver: Resolver) -> str:
    """Return PATH for the inside: the caller's directories that exist there, in their order, then the standard ones.

    A pyenv shim directory becomes the directory that its shims led to; whatever is not visible would only tell about the host.
    """
    found = list(dict.fromkeys((*_visible(resolver), *(path for path in STANDARD_PATH if resolver.view.trace(path) is not None))))
    return ":".join(found) or ":".join(STANDARD_PATH)


def _visible(resolver: Resolver) -> Iterator[str]:
    for directory in resolver.search:
        directory = posixpath.normpath(directory) if directory.startswith("/") else ""
        for path in resolver.replaced.get(directory, [directory]):
            if path and ":" not in path and resolver.view.trace(path) is not None:
                yield path
