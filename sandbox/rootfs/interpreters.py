"""Programs outside the system directories: which host directory a program needs, and how little of the host that may be.

A virtual environment, a conda or pyenv or nvm version is shared whole, read-only, at its own path; of anything else only the one file, and
every symbolic link on the way as a link. Never the home directory or anything above it. Only `rootfs` imports this module.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.plan.root import Bind, Symlink
from sandbox.rootfs.view import View, is_within, read_head, walk_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM_DIRECTORIES = ("bin", "sbin", "condabin")
_UNKNOWN = "program directory"
_CODE_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")
_PYTHONS = ("python", "pypy", "graalpy")
# Directories of a home in which programs of one kind live beside everybody's private data.
_MIXED = (".local", ".config", ".cache", ".local/share")
# (what must exist below the prefix, what the prefix is then called)
_MARKERS = (
    ("pyvenv.cfg", "virtual environment"),
    ("conda-meta", "conda environment"),
    ("include/node", "Node.js version"),
    ("lib/node_modules", "Node.js version"),
    ("lib/jvm.cfg", "Java version"),
    ("lib/modules", "Java version"),
    ("lib/rustlib", "Rust toolchain"),
    ("lib/ruby", "Ruby version"),
    ("lib/perl5", "Perl version"),
    ("pkg/tool", "Go version"),
)


class Interpreters:
    """Adds to a view what programs need; remembers what was shared and why.

    Args:
        view: grows.
        homes: the caller's home directories, resolved.
    """

    def __init__(self, view: View, homes: tuple[str, ...]) -> None:
        self.view = view
        self.homes = homes
        self.notes: list[str] = []
        self.prefixes: dict[str, str] = {}  # prefix → what it is
        self._seen: set[tuple[str, str | None]] = set()
        self._based: set[str] = set()

    def expose(self, path: str, why: str, *, chosen: bool = True) -> str:
        """Make a host file visible inside under the same path, with what it needs, and return where its links end.

        Args:
            path: absolute host path, links unresolved: a virtual environment works only under the name it was called by.
            why: for the plan, ``interpreter of `x.py```.
            chosen: the caller named it. What a script's ``#!`` line names instead may be chosen by an attacker, who would like to see
                ``/srv/app/config`` by naming ``/srv/app/bin/app``.

        Raises:
            OSError: the path leads nowhere.
        """
        end = path
        for location, text in walk_host(path):
            end = location
            if (location, text) not in self._seen:
                self._seen.add((location, text))
                self._show(location, text, why, chosen)
        return end

    def expose_environment(self, prefix: str, why: str) -> bool:
        """Share an activated environment; return whether its directory is visible inside now.

        Args:
            prefix: absolute host path of a virtual or conda environment.
            why: for the plan, ``VIRTUAL_ENV``.
        """
        kind = _kind_of(prefix)
        if kind is None:
            return False
        for name in ("python3", "python", "node"):
            program = posixpath.join(prefix, "bin", name)
            if os.path.lexists(program):
                try:
                    self.expose(program, why)
                except OSError:
                    self.notes.append(f"{kind} `{prefix}` is broken: `{program}` leads nowhere")
                break
        return self.view.trace(posixpath.join(prefix, "bin")) is not None

    def expose_user_site(self, script: str) -> str | None:
        """Share the packages that ``pip install --user`` put beside a script, and return their base for PYTHONUSERBASE.

        Args:
            script: real host path of a Python script.
        """
        base = posixpath.dirname(posixpath.dirname(script))
        if base not in (home + "/.local" for home in self.homes) or posixpath.basename(posixpath.dirname(script)) != "bin":
            return None
        for name in _python_directories(base):
            site = posixpath.join(base, "lib", name, "site-packages")
            if os.path.isdir(site) and not self.view.shows(site):
                self.view.add(Bind(path=site, source=site, directory=True, why=f"packages of `{script}`"))
        return base

    def is_wide(self, prefix: str) -> bool:
        """Tell whether a directory holds more than a program: the root, a top-level directory, a home or anything above one."""
        if prefix.count("/") < 2 or any(is_within(home, prefix) for home in self.homes):
            return True
        return any(prefix == f"{home}/{name}" for home in self.homes for name in _MIXED)

    def _show(self, location: str, text: str | None, why: str, chosen: bool) -> None:
        if self.view.shows(location):
            directory = posixpath.dirname(location)
            prefix = posixpath.dirname(directory)
            if posixpath.basename(directory) in _PROGRAM_DIRECTORIES and os.path.exists(prefix + "/pyvenv.cfg"):
                self._expose_base(prefix, why)
            return
        found = self._prefix_of(location)
        if found is not None and found[1] == _UNKNOWN and not chosen:
            self._share_code(found[0], why)
            if self.view.shows(location):
                return
        elif found is not None and self._share_prefix(found[0], found[1], why):
            if found[1] == "virtual environment":
                self._expose_base(found[0], why)
            return
        above = self.view.cover(location)
        if isinstance(above, Bind):
            self.notes.append(f"`{location}` is hidden by what is shared on `{above.path}`")
        elif text is not None:
            self.view.add(Symlink(path=location, target=text))
        elif stat.S_ISREG(os.stat(location).st_mode):
            self.view.add(Bind(path=location, source=location, directory=False, why=why))

    def _share_prefix(self, prefix: str, kind: str, why: str) -> bool:
        """Bind a whole prefix, or of a wide one its standard library; return whether a location in it is visible now."""
        if isinstance(self.view.cover(prefix), Bind) and not self.view.shows(prefix):
            return False
        if self.is_wide(prefix):
            for name in _python_directories(prefix):
                library = posixpath.join(prefix, "lib", name)
                if os.path.exists(posixpath.join(library, "os.py")):
                    self.view.add(Bind(path=library, source=library, directory=True, why=f"standard library, {why}"))
            self.notes.append(f"{kind} `{prefix}` not shared: private files live there too; only the programs that are run are")
            return False
        for entry in self.view.below(prefix):
            # What was shared file by file before comes with the directory; our links must not lie in a share.
            if isinstance(entry, Symlink) or (isinstance(entry, Bind) and entry.source == entry.path and not entry.writable):
                del self.view.entries[entry.path]
        self.view.add(Bind(path=prefix, source=prefix, directory=True, why=f"{kind}, {why}"))
        self.prefixes[prefix] = kind
        return True

    def _share_code(self, prefix: str, why: str) -> None:
        """Bind of an unknown program's directory what programs are made of, and not its configuration and data."""
        for name in _CODE_DIRECTORIES:
            path = posixpath.join(prefix, name)
            if os.path.isdir(path) and not os.path.islink(path) and self.view.cover(path) is None and not self.view.below(path):
                self.view.add(Bind(path=path, source=path, directory=True, why=f"{_UNKNOWN}, {why}"))

    def _prefix_of(self, location: str) -> tuple[str, str] | None:
        """Return the directory that a program at a location belongs to and what it is, or None for a lone file."""
        directory = posixpath.dirname(location)
        if posixpath.basename(directory) in _PROGRAM_DIRECTORIES:
            prefix = posixpath.dirname(directory)
            kind = _kind_of(prefix)
            if kind is not None:
                return prefix, kind
            if prefix.count("/") >= 2 and not any(is_within(prefix, home) for home in self.homes) and os.path.isdir(prefix + "/lib"):
                return prefix, _UNKNOWN
        head, marker, _ = location.partition("/node_modules/")
        return (head + "/node_modules", "Node.js packages") if marker else None

    def _expose_base(self, prefix: str, why: str) -> None:
        """Share the installation that a virtual environment was made from: its standard library is there."""
        if prefix in self._based:
            return
        self._based.add(prefix)
        settings = read_pyvenv(prefix)
        home = settings.get("home", "")
        candidates = [settings.get("executable", ""), *(posixpath.join(home, name) for name in ("python3", "python") if home)]
        for candidate in candidates:
            # The file may come with a hostile project: `executable = /home/me/.ssh/id_rsa` must not share a key.
            if candidate.startswith("/") and _is_python(candidate):
                self.expose(candidate, why, chosen=False)


def _is_python(path: str) -> bool:
    """Tell whether a host path ends at a program that is called like a Python."""
    end = os.path.realpath(path)
    return posixpath.basename(end).startswith(_PYTHONS) and os.path.isfile(end) and os.access(end, os.X_OK)


def read_pyvenv(prefix: str) -> dict[str, str]:
    """Return the settings of a virtual environment's ``pyvenv.cfg``, keys in lower case. Source: PEP 405."""
    data = read_head(posixpath.join(prefix, "pyvenv.cfg"), 65536) or b""
    pairs = (line.partition("=") for line in os.fsdecode(data).splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _python_directories(prefix: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(posixpath.join(prefix, "lib")) if name.startswith(("python3", "pypy3")))
    except OSError:
        return []


def _kind_of(prefix: str) -> str | None:
    """Return what a prefix is by what is in it, or None."""
    for marker, kind in _MARKERS:
        if os.path.exists(posixpath.join(prefix, marker)):
            return kind
    for name in _python_directories(prefix):
        if os.path.exists(posixpath.join(prefix, "lib", name, "os.py")):
            return "Python version"
    return None


def find_pyenv(shim: str, cwd: str, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the program that a pyenv shim would run, and the version text it came from.

    The program is None when the version is ``system`` or has no such program: the search then goes on behind the shims.

    Args:
        shim: absolute path in a ``shims`` directory that `is_pyenv_shims` knows.
        cwd: the caller's working directory, where ``.python-version`` is looked for, and above.
        environ: the caller's environment, for PYENV_VERSION.

    Source: pyenv, libexec/pyenv-version-file, pyenv-version-name, pyenv-which.
    """
    root, name = posixpath.dirname(posixpath.dirname(shim)), posixpath.basename(shim)
    text = environ.get("PYENV_VERSION", "").replace(":", " ")
    directory = cwd
    while not text.strip():
        head = read_head(posixpath.join(directory, ".python-version"), 4096)
        if head is None and directory == "/":
            text = _words(read_head(posixpath.join(root, "version"), 4096)) or "system"
            break
        text = _words(head)
        if directory != "/":
            directory = posixpath.dirname(directory)
        elif not text:
            text = "system"
    for version in text.split():
        if version == "system" or "/" in version or version in (".", ".."):
            continue
        installed = _pyenv_version(root, version)
        program = posixpath.join(root, "versions", installed, "bin", name) if installed else ""
        if program and os.path.isfile(program) and os.access(program, os.X_OK):
            return program, text
    return None, text


def is_pyenv_shims(directory: str) -> bool:
    """Tell whether a directory of PATH holds pyenv's shims."""
    return posixpath.basename(directory) == "shims" and os.path.isdir(posixpath.join(posixpath.dirname(directory), "versions"))


def _words(data: bytes | None) -> str:
    lines = os.fsdecode(data or b"").splitlines()
    return " ".join(word for line in lines for word in line.partition("#")[0].split())


def _pyenv_version(root: str, version: str) -> str | None:
    """Return an installed version's directory name; ``3.12`` means the newest 3.12.x."""
    names = [version, version.removeprefix("python-")]
    for name in names:
        if os.path.isdir(posixpath.join(root, "versions", name)):
            return name
    try:
        installed = os.listdir(posixpath.join(root, "versions"))
    except OSError:
        return None
    matching = [name for name in installed if name.startswith(names[1] + ".") and name.replace(".", "").isdigit()]
    return max(matching, key=lambda name: [int(part) for part in name.split(".")], default=None)
