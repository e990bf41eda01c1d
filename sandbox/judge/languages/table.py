"""The table of languages: the shipped files and the user's own, and which language a program is in.

What is read of a program are its files' names and their first lines, both untrusted. Anybody in `judge` may import this module.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re

from sandbox.audit.events import escape_untrusted
from sandbox.errors import PolicyError
from sandbox.judge.languages.definition import Language, parse_language
from sandbox.judge.languages.toolchains import Absent, Installed, Toolchains
from sandbox.policy.nearest import suggest
from sandbox.policy.toml_source import parse_source, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SUFFIX = ".toml"
# Of the package format's table, those that have no definition here: a submission in one is not judged, which is no compile error of its author's.
UNDEFINED = {
    "APL": ("apl", ".apl"), "Dart": ("dart", ".dart"), "F#": ("fsharp", ".fs"), "Gerbil": ("gerbil", ".ss"), "Java with Algs4": ("javaalgs4", ""),
    "Julia": ("julia", ".jl"), "Odin": ("odin", ".odin"), "Simula": ("simula", ".sim"), "Snobol": ("snobol", ".sno"),
}  # fmt: skip
_SHEBANG_BYTES = 256
_SHEBANG = re.compile(rb"#![ \t]*(\S+)(?:[ \t]+(\S+))?(?:[ \t]+(\S+))?")


class Languages:
    """Languages by id, and the toolchains of those that are here.

    Args:
        languages: each id once.
        environ: for `Toolchains`; the caller's own unless given.
    """

    def __init__(self, languages: Sequence[Language], environ: Mapping[str, str] | None = None) -> None:
        self._languages = {each.id: each for each in sorted(languages, key=lambda each: each.id)}
        self._toolchains = Toolchains(environ=dict(os.environ) if environ is None else environ)
        self._interpreters = {name: each for each in self._by_priority() for name in each.interpreters}
        self._extensions = {extension: each for each in self._by_priority() for extension in each.extensions}

    def __iter__(self) -> Iterator[Language]:
        return iter(self._languages.values())

    def __len__(self) -> int:
        return len(self._languages)

    def get(self, identity: str) -> Language | None:
        """Return the language of an id or an alias, or None."""
        found = self._languages.get(identity)
        if found is None:
            found = next((each for each in self if identity in each.aliases), None)
        return found

    def find(self, word: str) -> Language:
        """Return the language that an id, an alias, a name or an extension means.

        Raises:
            PolicyError: none is called that.
        """
        found = self.get(word.lower()) or self._extensions.get(word) or next((each for each in self if each.name.lower() == word.lower()), None)
        if found is None:
            raise PolicyError(f"no language is called `{word}`", hint=suggest(word, [*self._languages]) or "`sandbox judge languages` lists them")
        return found

    def of_file(self, name: str, content: bytes) -> Language | None:
        """Return the language of one file: of its first line where that names an interpreter and the extension leaves the choice, else of its extension."""
        extension = posixpath.splitext(posixpath.basename(name))[1]
        named = self._interpreters.get(_interpreter(content)) if content[:2] == b"#!" else None
        if named is not None and (not extension or extension in (*named.shared, *named.extensions)):
            return named
        return self._extensions.get(extension)

    def detect(self, files: Mapping[str, bytes], *, validator: bool = False) -> Language | None:
        """Return the language of most files of a program, of the highest priority where two have as many; None where no file tells.

        Args:
            files: names and contents.
            validator: whether it may be one of those that nothing but input validators are written in.
        """
        counts: dict[str, int] = {}
        for name, content in files.items():
            found = self.of_file(name, content)
            if found is not None and (validator or found.accepts is None):
                counts[found.id] = counts.get(found.id, 0) + 1
        if not counts:
            return None
        return self._languages[max(counts, key=lambda identity: (counts[identity], self._languages[identity].priority, identity))]

    def toolchain(self, language: Language) -> Installed | Absent:
        """Return what compiles and runs a language here, or why nothing does. Its first use runs the version command, in a sandbox."""
        return self._toolchains.find(language)

    def _by_priority(self) -> list[Language]:
        return sorted(self._languages.values(), key=lambda each: each.priority)


def shipped_directory() -> str:
    """Return where the shipped definitions are."""
    return os.path.dirname(os.path.realpath(__file__))


def user_directory(environ: Mapping[str, str]) -> str | None:
    """Return ``$XDG_CONFIG_HOME/sandbox/languages`` (default ``~/.config``), or None when neither variable gives an absolute path."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = os.path.join(home, ".config")
    return os.path.join(base, "sandbox", "languages")


def load_languages(extra_dirs: Sequence[str] = (), *, environ: Mapping[str, str] | None = None) -> Languages:
    """Return the shipped languages with the user's own, which take the place of shipped ones of the same id.

    Args:
        extra_dirs: more directories of ``ID.toml`` files; later ones win, and all of them win over the user's.
        environ: where the user's are and which programs there are; the process's own unless given.

    Raises:
        PolicyError: a file is not understood, with file, line and key; or two languages claim one extension, alias or interpreter.
    """
    environ = dict(os.environ) if environ is None else environ
    found: dict[str, Language] = {}
    for directory, optional in [(shipped_directory(), False), (user_directory(environ), True), *[(each, False) for each in extra_dirs]]:
        if directory is None:
            continue
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            if optional:
                continue
            raise PolicyError(f"list `{directory}`: no such directory", origin="languages") from None
        except OSError as error:
            raise PolicyError(f"list `{directory}`: {error.strerror}", origin="languages") from None
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                identity = name[: -len(_SUFFIX)]
                path = os.path.join(directory, name)
                found[identity] = _parse(path, *read_text(path, origin="languages"), identity)
    _check_claims(found)
    return Languages([*found.values()], environ)


@functools.lru_cache(maxsize=256)
def _parse(path: str, data: bytes, text: str, identity: str) -> Language:
    """Parse a definition, once in a process: whoever judges much loads the table again and again."""
    return parse_language(parse_source(path, data, text), identity)


def undefined_language(stated: str, files: Mapping[str, bytes]) -> str:
    """Return what to call a language that a package names or uses and that has no definition, empty where its files tell of none that is known by name."""
    if stated:
        return next((name for name, (identity, _) in UNDEFINED.items() if identity == stated), f"`{escape_untrusted(stated, 40)}`")
    extensions = {posixpath.splitext(name)[1] for name in files}
    return next((name for name, (_, extension) in UNDEFINED.items() if extension and extension in extensions), "")


def _check_claims(languages: Mapping[str, Language]) -> None:
    """Refuse a table in which one word means two languages: whichever won, somebody would be judged in the other."""
    owners: dict[tuple[str, str], Language] = {}
    for language in languages.values():
        claims = [("id or alias", word) for word in (language.id, *language.aliases)]
        claims += [("extension", word) for word in language.extensions] + [("interpreter", word) for word in language.interpreters]
        claims.append(("priority", str(language.priority)))
        for kind, word in claims:
            other = owners.setdefault((kind, word), language)
            if other is not language:
                raise PolicyError(f"{kind} `{word}` belongs to two languages, `{other.id}` and `{language.id}`", origin=f"{other.origin}\n{language.origin}")


def _interpreter(content: bytes) -> str:
    """Return the name of the program in a ``#!`` line, past env(1); empty where there is none."""
    match = _SHEBANG.match(content[:_SHEBANG_BYTES].split(b"\n", 1)[0])
    if match is None:
        return ""
    words = [posixpath.basename(word.decode(errors="replace")) for word in match.groups() if word is not None]
    if words[0] == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    return words[0] if words else ""


__all__ = ["UNDEFINED", "Absent", "Installed", "Language", "Languages", "load_languages", "shipped_directory", "undefined_language", "user_directory"]
