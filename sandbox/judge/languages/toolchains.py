"""Which toolchain of a language is here: its programs are found, and its version command is run, in a sandbox, to see that it works.

What it printed is kept below the cache directory until a program of it changes: a JVM's answer costs half a second. `table` and `building` import this module.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading

import sandbox
from sandbox.audit.events import escape_untrusted
from sandbox.errors import ExecuteError, PolicyError
from sandbox.judge.languages.definition import Language, Toolchain, fill, fill_variables
from sandbox.judge.languages.programs import Found, existing_mounts, find_need, is_shown, system_marks
from sandbox.judge.model import PROGRAM_DIRECTORY
from sandbox.record import dataclass, field
from sandbox.store import cache_path, open_directory, read_entry, write_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from sandbox.result import Result

_VERSION_LENGTH = 200
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_ENTRY_BYTES = 4096
_ENTRY_SCHEMA = 3
_MEMORY = "1024"
"""MiB, for runtimes that are told of it while they say their version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A toolchain that is here and works.

    Attributes:
        version: first line that its version command printed.
        programs: path of each of its needs.
        volumes: host paths to share with its sandboxes.
        identity: plain values for a digest, which differ when another compiler would run.
    """

    language: Language
    toolchain: Toolchain
    version: str
    programs: Mapping[str, str]
    volumes: tuple[str, ...] = ()
    identity: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A language that cannot be compiled or run here, with the reason in words, and what to do."""

    language: Language
    reason: str
    hint: str = ""


@dataclass(slots=True, kw_only=True)
class Toolchains:
    """Finds toolchains, each once.

    Args:
        environ: PATH and the places of the user's own.
    """

    environ: Mapping[str, str]
    _known: dict[str, Installed | Absent] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _marks: list[list[object]] | None = None

    def find(self, language: Language) -> Installed | Absent:
        """Return the first toolchain of a language that is here and works, or why there is none. Safe from any thread."""
        with self._lock:
            lock = self._locks.setdefault(language.id, threading.Lock())
            if self._marks is None:
                self._marks = system_marks()
        with lock:
            if language.id not in self._known:
                self._known[language.id] = self._look(language)
            return self._known[language.id]

    def _look(self, language: Language) -> Installed | Absent:
        reasons: dict[str, None] = {}
        for toolchain in language.toolchains:
            found: dict[str, Found] = {}
            for name, candidates in toolchain.needs.items():
                need = find_need(candidates, self.environ, found)
                if need is None:
                    reasons[f"no {' or '.join(f'`{each}`' for each in candidates)}"] = None
                    break
                found[name] = need
            else:
                reason, version = self._version(toolchain, found)
                if not reason:
                    return self._installed(language, toolchain, found, version)
                reasons[reason] = None
        hints = [each.hint for each in language.toolchains if each.hint]
        return Absent(language=language, reason="; ".join(reasons), hint=hints[0] if hints else "")

    def _installed(self, language: Language, toolchain: Toolchain, found: Mapping[str, Found], version: str) -> Installed:
        programs = {name: need.path for name, need in found.items()}
        return Installed(
            language=language, toolchain=toolchain, version=version, programs=programs,
            volumes=_volumes(toolchain, found, {toolchain.run[0], *toolchain.compile[:1]}),
            identity=(language.digest, language.toolchains.index(toolchain), version, {name: found[name].identity() for name in sorted(found)}, self._marks),
        )  # fmt: skip

    def _version(self, toolchain: Toolchain, found: Mapping[str, Found]) -> tuple[str, str]:
        """Return why a toolchain does not work, and else the version."""
        programs = {name: need.path for name, need in found.items()}
        words = fill(toolchain.version, programs)
        environment = fill_variables(toolchain.compile_environment, {**programs, "memory": _MEMORY, "program": PROGRAM_DIRECTORY})
        volumes = _volumes(toolchain, found, {toolchain.version[0]})
        whole = [_ENTRY_SCHEMA, sandbox.__version__, words, environment, volumes, {name: found[name].identity() for name in sorted(found)}]
        text = json.dumps(whole, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        directory = open_directory(cache_path(self.environ, "judge-versions"))
        try:
            if directory is not None and (kept := read_entry(directory, key, _ENTRY_BYTES)) is not None:
                return "", kept.decode(errors="replace")
            reason, version = _ask(words, environment, volumes)
            if directory is not None and not reason and version:
                write_entry(directory, key, version.encode())
            return reason, version
        finally:
            if directory is not None:
                os.close(directory)


def _volumes(toolchain: Toolchain, found: Mapping[str, Found], started: AbstractSet[str]) -> tuple[str, ...]:
    """Return what to share for a command: the first word of one is found and shared by the sandbox itself, whatever it needs; a library beside it is not."""
    extra = [f"{need.path}:{need.path}:ro" for name, need in found.items() if not is_shown(need.path) and "{" + name + "}" not in started]
    return (*extra, *existing_mounts(toolchain.mounts))


def _ask(words: tuple[str, ...], environment: Mapping[str, str], volumes: tuple[str, ...]) -> tuple[str, str]:
    shown = " ".join([os.path.basename(words[0]), *words[1:]])
    try:
        result = sandbox.run(
            words, profile="judge-compile", volumes=volumes, env=dict(environment), limits={"cpu": "20s", "wall": "60s", "output": "64K"}
        )  # fmt: skip
    except (ExecuteError, PolicyError) as error:  # any other error is the sandbox's, and says nothing of the compiler
        return f"`{shown}`: {error.message}", ""
    if not result.ok:
        said = escape_untrusted(first_line(result), _VERSION_LENGTH)
        return f"`{shown}` ended with {result.cause}" + (f": {said}" if said else ""), ""
    return "", _version_line(result) or escape_untrusted(first_line(result), _VERSION_LENGTH) or "unknown version"


def _version_line(result: Result) -> str:
    """Return the first line with a digit that is no warning: a JVM has much to say before the compiler in it speaks."""
    for stream in (result.stdout, result.stderr):
        for line in (stream or b"")[:_ENTRY_BYTES].decode(errors="replace").splitlines():
            if "warning" not in line.lower() and any(each.isdigit() for each in line):
                return escape_untrusted(" ".join(line.split()), _VERSION_LENGTH)
    return ""


def first_line(result: Result) -> str:
    """Return the first line that is not blank of what a run printed, cut; untrusted text."""
    for stream in (result.stdout, result.stderr):
        for line in plain_quotes((stream or b"")[:_ENTRY_BYTES].decode(errors="replace")).splitlines():
            if line.strip():
                return " ".join(line.split())[:_VERSION_LENGTH]
    return ""


def plain_quotes(text: str) -> str:
    """Return what a compiler printed with quotes that are ASCII, as they are in its other locales: escaped they would hide what is quoted."""
    return text.translate(_QUOTES)


__all__ = ["Absent", "Installed", "Toolchains", "first_line", "plain_quotes"]
