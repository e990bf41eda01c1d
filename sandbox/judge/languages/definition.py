"""The text of a language: its TOML keys, what each may hold, and the frozen value that comes of a file.

Pure. A file defines one language, and its name is the language's id. Errors name file, line and key. Only `table` reads files with it.
"""

from __future__ import annotations

import hashlib
import re

from sandbox.judge.languages.named_after import RULES
from sandbox.policy.nearest import suggest
from sandbox.policy.places import Where
from sandbox.policy.profile_values import string
from sandbox.record import dataclass, field
from sandbox.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.policy.toml_source import TomlSource

ENTRIES = ("binary", "file", "class")
"""What a program of a language is started by: a file that the compiler made, a source file, or a class of the Java virtual machine."""

_ID = re.compile(r"[a-z][a-z0-9_+-]{0,31}")
_EXTENSION = re.compile(r"\.[A-Za-z0-9+_-]{1,16}")
_FILE = re.compile(r"[A-Za-z0-9_]{1,32}\.[A-Za-z0-9]{1,8}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_OWN = frozenset({"files", "main", "class", "binary", "program", "memory", "stem"})
TOP_KEYS = {
    "name", "aliases", "extensions", "shared", "interpreters", "include", "priority", "entry", "main", "time-factor", "memory-extra", "processes",
    "accepts", "rejects", "hello", "hello-file", "named-after", "toolchain",
}  # fmt: skip
TOOLCHAIN_KEYS = {"needs", "version", "compile", "binary", "run", "mounts", "environment", "compile-environment", "hint"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """One way to compile and run a language.

    Attributes:
        needs: programs and files that must be here, by the name that commands use: candidates of which the first that is found counts. One without a slash
            is looked up in PATH, one with a slash is a path, in which ``*`` matches within a name; it may begin with a need before it, which is that file's own
            path, links followed: ``{kotlinc}/../../lib/kotlin-stdlib.jar``.
        version: command that prints the version; its success is the proof that the toolchain works.
        compile: command, empty where nothing is compiled. Its working directory holds the sources.
        binary: what the file is called that the compiler makes.
        run: command that starts the program.
        mounts: host paths outside the system directories that it needs, where they exist; ``*`` within a name.
        environment: variables of the run; `compile_environment` of the compiler.
        hint: what to install where it is missing.
    """

    needs: Mapping[str, tuple[str, ...]]
    version: tuple[str, ...]
    compile: tuple[str, ...] = ()
    binary: str = "a.out"
    run: tuple[str, ...]
    mounts: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    compile_environment: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language as defined; whether it is here is another question.

    Attributes:
        id: the code, as in the specification's table of languages.
        extensions: of files that tell of the language.
        shared: of its source files that tell of another language, unless their first line names one of `interpreters`.
        interpreters: names of programs in a ``#!`` line that tell of the language.
        include: ids of other languages whose included files fit this one, tried after its own.
        priority: the highest wins where a program has as many files of two languages.
        entry: one of `ENTRIES`.
        main: default entry points, tried in order: names of files, or of classes.
        time_factor: what a time limit is multiplied with.
        memory_extra_bytes: what the runtime needs besides the program's memory.
        processes: threads and processes that the runtime may have.
        accepts: of a language of nothing but input validators, the exit code by which its tool says that an input is valid; None for all others.
        rejects: likewise, that it is not.
        hello: a program that prints ``Hello, NAME!`` for each line NAME of its input, in a file called `hello_file`; of an input validator one that accepts
            the line ``5``.
        named_after: of a language whose compiler wants a file to be called like something in it, what: one of `named_after.RULES`; "" for none.
        digest: SHA-256 of the file that defined it.
        origin: that file.
    """

    id: str
    name: str
    priority: int
    entry: str
    toolchains: tuple[Toolchain, ...]
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    main: tuple[str, ...] = ()
    time_factor: float = 1.0
    memory_extra_bytes: int = 0
    processes: int = 64
    accepts: int | None = None
    rejects: int | None = None
    hello: str = ""
    hello_file: str = ""
    named_after: str = ""
    digest: str = ""
    origin: str = ""

    def is_source(self, name: str) -> bool:
        """Whether a file of that name is one of the language's sources."""
        return name.endswith((*self.extensions, *self.shared)) if self.extensions or self.shared else False


def parse_language(source: TomlSource, identity: str) -> Language:
    """Return the language that a file defines.

    Args:
        source: the file.
        identity: its name without suffix.

    Raises:
        PolicyError: anything in it is not understood; `origin` has file, line and key.
    """
    table = source.table

    def where(key: str) -> Where:
        return Where(key=key, origin=source.origin(key), locate=source.origin)

    if not _ID.fullmatch(identity):
        where("").fail(f"`{identity}` is no id of a language: lower-case letters, digits, `_`, `+`, `-`")
    _known(table, TOP_KEYS, where, "")
    for key in ("name", "priority", "entry", "toolchain"):
        if key not in table:
            where("").fail(f"key `{key}` is missing")
    entry = string(table["entry"], where("entry"))
    if entry not in ENTRIES:
        where("entry").fail(f"`entry` must be {', '.join(f'`{word}`' for word in ENTRIES)}, not `{entry}`", hint=suggest(entry, ENTRIES))
    extensions, shared = (_texts(table.get(key, []), where(key), _EXTENSION, "an extension such as `.cc`") for key in ("extensions", "shared"))
    if not table["toolchain"] or not isinstance(table["toolchain"], list):
        where("toolchain").fail("a language needs at least one table `[[toolchain]]`")
    accepts, rejects = (_whole(table[key], where(key), 0, 255) if key in table else None for key in ("accepts", "rejects"))
    if (accepts is None) != (rejects is None) or (accepts is not None and accepts == rejects):
        where("accepts" if "accepts" in table else "rejects").fail("`accepts` and `rejects` must be two exit codes")
    named_after = string(table.get("named-after", ""), where("named-after"))
    if "named-after" in table and named_after not in RULES:
        listed = ", ".join(f"`{word}`" for word in RULES)
        where("named-after").fail(f"`named-after` must be one of {listed}, not `{named_after}`", hint=suggest(named_after, tuple(RULES)))
    return Language(
        id=identity,
        name=string(table["name"], where("name")),
        priority=_whole(table["priority"], where("priority"), 0, 1_000_000),
        entry=entry,
        toolchains=tuple(_toolchain(each, entry, at, where) for at, each in enumerate(table["toolchain"])),
        aliases=_texts(table.get("aliases", []), where("aliases")),
        extensions=extensions,
        shared=shared,
        interpreters=_texts(table.get("interpreters", []), where("interpreters")),
        include=_texts(table.get("include", []), where("include"), _ID, "an id of a language"),
        main=_texts(table.get("main", []), where("main")),
        time_factor=_factor(table.get("time-factor", 1.0), where("time-factor")),
        memory_extra_bytes=parse_size(table.get("memory-extra", 0), where=f"{source.origin('memory-extra')}, memory-extra"),
        processes=_whole(table.get("processes", 64), where("processes"), 1, 4096),
        accepts=accepts,
        rejects=rejects,
        hello=_multiline(table.get("hello", ""), where("hello")),
        hello_file=string(table.get("hello-file", ""), where("hello-file")),
        named_after=named_after,
        digest=hashlib.sha256(source.data).hexdigest(),
        origin=source.path,
    )


def _toolchain(table: object, entry: str, at: int, where: Callable[[str], Where]) -> Toolchain:
    prefix = f"toolchain[{at}]"
    here = where(prefix)
    if not isinstance(table, dict):
        here.fail("`toolchain` must be tables `[[toolchain]]`")
    _known(table, TOOLCHAIN_KEYS, where, prefix + ".")
    for key in ("needs", "version", "run"):
        if key not in table:
            here.fail(f"key `{key}` of `[[toolchain]]` is missing")
    needs_at = where(f"{prefix}.needs")
    if not isinstance(table["needs"], dict) or not table["needs"]:
        needs_at.fail("`needs` must be a table of names and programs: `{ compiler = \"gcc\" }`")
    needs: dict[str, tuple[str, ...]] = {}
    for name, value in table["needs"].items():
        if not _PLACE.fullmatch("{" + name + "}") or name in _OWN:
            needs_at.fail(f"`{name}` cannot be the name of a need", hint="lower-case letters and digits, and not " + ", ".join(sorted(_OWN)))
        needs[name] = _texts([value] if isinstance(value, str) else value, needs_at)
        for candidate in needs[name]:
            beside = _PLACE.match(candidate)
            if "/" in candidate and not candidate.startswith("/") and (beside is None or beside[1] not in needs or beside[1] == name):
                needs_at.fail(f"`{candidate}` must be the name of a program, an absolute path, or begin with another need: `{{javac}}/../..`")
    ambient = frozenset({"memory", "program"})
    commands = {}
    for key, places in (
        ("version", frozenset[str]()),
        ("compile", frozenset({"files", "main", "stem", "binary", "memory", "program"})),
        ("run", frozenset({"main", "stem", "class", "binary", "memory", "program"})),
    ):
        commands[key] = _command(table.get(key, []), where(f"{prefix}.{key}"), places | needs.keys())
    starts = {"file": ("{main}", "{stem}")}.get(entry, ("{" + entry + "}",))
    if not any(start in word for word in commands["run"] for start in starts):
        where(f"{prefix}.run").fail(f"`run` does not use `{starts[0]}`, which `entry = \"{entry}\"` says that the program is started by")
    if entry != "file" and not commands["compile"]:
        here.fail(f"`entry = \"{entry}\"` needs a `compile` command")
    binary = string(table.get("binary", "a.out"), where(f"{prefix}.binary"))
    if not _FILE.fullmatch(binary):
        where(f"{prefix}.binary").fail(f"`{binary}` is no name of a file such as `a.out`")
    mounts = _texts(table.get("mounts", []), where(f"{prefix}.mounts"))
    for path in mounts:
        if not path.startswith("/") or ".." in path.split("/") or path.count("/") < 2:
            where(f"{prefix}.mounts").fail(f"`{path}` must be an absolute path of a file or directory that holds nothing else")
    return Toolchain(
        needs=needs, version=commands["version"], compile=commands["compile"], binary=binary, run=commands["run"], mounts=mounts,
        environment=_variables(table.get("environment", {}), where(f"{prefix}.environment"), ambient | needs.keys()),
        compile_environment=_variables(table.get("compile-environment", {}), where(f"{prefix}.compile-environment"), ambient | needs.keys()),
        hint=string(table.get("hint", ""), where(f"{prefix}.hint")),
    )  # fmt: skip


def _known(table: Mapping[str, object], known: set[str], where: Callable[[str], Where], prefix: str) -> None:
    for key in table:
        if key not in known:
            where(prefix + key).fail(f"key `{key}` is not known", hint=suggest(key, sorted(known)))


def _texts(value: object, where: Where, form: re.Pattern[str] | None = None, noun: str = "") -> tuple[str, ...]:
    if not isinstance(value, list):
        where.fail(f"`{where.key}` must be a list of texts, not `{value!r}`")
    for item in value:
        if not string(item, where) or (form is not None and not form.fullmatch(item)):
            where.fail(f"`{item}` is not {noun or 'a word'}")
        if value.count(item) > 1:
            where.fail(f"`{item}` is listed twice in `{where.key}`")
    return tuple(value)


def _multiline(value: object, where: Where) -> str:
    if not isinstance(value, str):
        where.fail(f"`{where.key}` must be text, not `{value!r}`")
    return value


def _whole(value: object, where: Where, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        where.fail(f"`{where.key}` must be a whole number from {low} to {high}, not `{value!r}`")
    return value


def _factor(value: object, where: Where) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.1 <= value <= 100:
        where.fail(f"`{where.key}` must be a number from 0.1 to 100, not `{value!r}`")
    return float(value)


def _command(value: object, where: Where, places: frozenset[str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        where.fail(f"`{where.key}` must be a list of words, not `{value!r}`", hint="no shell reads them: `[\"{gcc}\", \"-O2\", \"{files}\"]`")
    for word in value:
        _check_places(_multiline(word, where), where, places)
        if "{files}" in word and word != "{files}":
            where.fail("`{files}` must be a word of its own: it becomes one word for each file")
    return tuple(value)


def _check_places(word: str, where: Where, places: frozenset[str]) -> None:
    for place in _PLACE.findall(word):
        if place not in places:
            listed = ", ".join(f"`{{{name}}}`" for name in sorted(places))
            where.fail(f"`{{{place}}}` has no meaning here", hint=f"known are {listed}")


def _variables(value: object, where: Where, places: frozenset[str]) -> dict[str, str]:
    if not isinstance(value, dict):
        where.fail(f"`{where.key}` must be a table of texts, not `{value!r}`")
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name):
            where.fail(f"`{name}` cannot be the name of a variable")
        _check_places(string(text, where), where, places)
    return dict(value)


def fill_variables(variables: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return variables with the places in their values filled."""
    return {name: _PLACE.sub(lambda match: values[match[1]], text) for name, text in variables.items()}


def fill(words: tuple[str, ...], values: Mapping[str, str], files: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return a command with its places filled; ``{files}`` becomes one word for each file.

    Args:
        words: of a `Toolchain`; every place in it is known.
        values: what the places become.
        files: what ``{files}`` becomes.
    """
    made: list[str] = []
    for word in words:
        if word == "{files}":
            made += files
        else:
            made.append(_PLACE.sub(lambda match: values[match[1]], word))
    return tuple(made)


__all__ = ["ENTRIES", "TOOLCHAIN_KEYS", "TOP_KEYS", "Language", "Toolchain", "fill", "fill_variables", "parse_language"]
