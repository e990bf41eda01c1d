"""Names of source files: which are a language's, which is the main one, and that none leads out of its directory. Pure but for `choose_class`.

Names and contents are a contestant's. A name becomes a word of a compiler's command line only in a form that no compiler reads as an option or as a list
of arguments.
"""

from __future__ import annotations

import os
import posixpath
import re

from sandbox.audit.events import escape_untrusted
from sandbox.judge.class_files import main_classes
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.judge.languages.definition import Language

_NAMES = 1000
_DEPTH = 16
_NAME_BYTES = 255
_CLASS = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*")
_PLAIN = re.compile(r"[A-Za-z0-9_]")


class BadSource(Exception):
    """Something about the files cannot become a program; the message is for whoever wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Files of a program, included ones among them.

    `entrypoint` is the stated one, `included` the names that the package put there.
    """

    files: Mapping[str, bytes]
    entrypoint: str = ""
    included: frozenset[str] = field(default_factory=frozenset)

    def of(self, language: Language) -> list[str]:
        """Return the names of a language's sources, sorted."""
        return sorted(name for name in self.files if language.is_source(name)) or sorted(self.files)

    def word(self, name: str) -> str:
        """Return a name as a word of a command: ``-o``, ``@list`` and the like would be read as something else."""
        return name if _PLAIN.match(name) else "./" + name

    def free_name(self, name: str) -> str:
        """Return a name that no file or directory of the sources has."""
        while any(each == name or each.startswith(name + "/") for each in self.files):
            name = name.replace(".", "_.", 1)
        return name


def merge(files: Mapping[str, bytes], language: Language, include: Mapping[str, Mapping[str, bytes]] | None, entrypoint: str = "") -> Sources:
    """Return a program's files with those that the package includes for its language.

    Raises:
        BadSource: there are no files, too many, or one whose name leads out.
    """
    merged = dict(files)
    included: dict[str, bytes] = {}
    if include:
        included.update(include.get("default", {}))
        own = next((include[each] for each in (language.id, *language.include) if each in include), {})
        included.update(own)
        merged.update(included)
    check_names(merged)
    return Sources(files=merged, entrypoint=entrypoint, included=frozenset(included))


def _is_name(part: str) -> bool:
    try:
        return part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) <= _NAME_BYTES
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False


def check_names(files: Mapping[str, bytes]) -> None:
    """Check the names of files.

    Raises:
        BadSource: none or too many, or one that is no relative path, or both a file and a directory.
    """
    if not files:
        raise BadSource("there are no source files")
    if len(files) > _NAMES:
        raise BadSource(f"{len(files)} files are more than {_NAMES}")
    for name in files:
        parts = name.split("/")
        if not all(map(_is_name, parts)) or len(parts) > _DEPTH:
            raise BadSource(f"`{show(name)}` cannot be the name of a source file")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                raise BadSource(f"`{show('/'.join(parts[:depth]))}` is a file and a directory")


def put_together(made: Mapping[str, bytes], sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what a compiler left with the sources that it took away, but not those that lie where it left something else: a file for a directory."""
    directories = {name[:at] for name in made for at, char in enumerate(name) if char == "/"}
    found = dict(made)
    for name, text in sources.items():
        if name not in directories and not any(name[:at] in made for at, char in enumerate(name) if char == "/"):
            found.setdefault(name, text)
    return found


def choose_main(sources: Sources, language: Language) -> str:
    """Return the source file that a program starts with: the stated one, the package's own, a default name, ``main.*``, the only one, the first.

    Raises:
        BadSource: the stated one is not there.
    """
    names = sources.of(language)
    if sources.entrypoint and language.entry == "file":
        if sources.entrypoint in sources.files:
            return sources.entrypoint
        raise BadSource(f"the stated entry point `{show(sources.entrypoint)}` is not among the files")
    drivers = [name for name in names if name in sources.included]
    for group in (drivers, names):
        for wanted in language.main:
            if wanted in group:
                return wanted
        for name in group:
            if posixpath.splitext(name)[0].lower() == "main":
                return name
    return names[0]


def choose_class(directory: str, sources: Sources, language: Language, main: str) -> str:
    """Return the class that a program starts with.

    The stated one; else of those with a method ``main``: a default name, the one named like the main file, the first.

    Args:
        directory: host directory of the compiled classes; bytes in it are untrusted.
        sources: what they were compiled from.
        language: its `main` has default names.
        main: the main source file.

    Raises:
        BadSource: no class can be started.
    """
    if sources.entrypoint:
        stated = sources.entrypoint.removesuffix(".java").removesuffix(".class")
        if not _CLASS.fullmatch(stated):
            raise BadSource(f"the stated entry point `{show(sources.entrypoint)}` is no name of a class")
        return stated
    found = [name for name in main_classes(directory) if _CLASS.fullmatch(name)]
    if not found:
        raise BadSource("no class has a method `public static void main(String[])`")
    stem = posixpath.splitext(posixpath.basename(main))[0]
    likely = [*language.main, stem, stem[:1].upper() + stem[1:], stem[:1].upper() + stem[1:] + "Kt"]
    for wanted in likely:
        for name in found:
            if name == wanted or name.endswith("." + wanted):
                return name
    return found[0]


def show(name: str) -> str:
    """Return a name as messages have it."""
    return escape_untrusted(name, 100)


def script_of(executable: Sequence[str]) -> str:
    """Return a shell script that runs ``./build`` as it is meant, and leaves plain files where it left links, of which none is taken out of the sandbox."""
    quoted = " ".join("'./" + name.replace("'", "'\\''") + "'" for name in executable)
    return "\n".join(
        [
            f"chmod +x -- {quoted} || exit 125" if quoted else ":",
            "./build || exit",
            'find . \\( -type l -o -links +1 \\) ! -type d -exec sh -c \'for each; do [ -f "$each" ] && cp -L -- "$each" "$each.copy" && '
            'mv -f -- "$each.copy" "$each"; done; :\' sh {} +',
            "test -x run || { echo 'build made no executable file run' >&2; exit 1; }",
        ]
    )


__all__ = ["BadSource", "Sources", "check_names", "choose_class", "choose_main", "merge", "put_together", "script_of", "show"]
