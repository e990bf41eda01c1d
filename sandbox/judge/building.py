"""From sources to a `Program`: the compiler runs in a sandbox of its own, and what it made is kept by the digest of all that went in.

Sources, compilers and what they print are untrusted: the sandbox sees the sources and the system, nothing else; its files are read when everything in it
is dead; nothing of it is executed here. `packages`, `task` and the tests use `Builder`.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import threading

import sandbox
from sandbox.audit.events import escape_untrusted
from sandbox.errors import InternalError, ProtocolError, SandboxError, SetupError
from sandbox.judge.cache import Cache, Entry, open_cache
from sandbox.judge.languages.definition import fill, fill_variables
from sandbox.judge.languages.table import Absent, Installed, Language, Languages, load_languages, undefined_language
from sandbox.judge.languages.toolchains import first_line, plain_quotes
from sandbox.judge.model import PROGRAM_DIRECTORY, Built, Code, Program
from sandbox.judge.naming import run_name
from sandbox.judge.problem import ProblemLimits, Source, Submission
from sandbox.judge.source_files import BadSource, Sources, choose_class, choose_main, merge, put_together, script_of, show
from sandbox.policy.load import load_policy
from sandbox.policy.profile_load import load_profile
from sandbox.record import dataclass, field, replace
from sandbox.result import Verdict
from sandbox.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from sandbox.result import Result

_OUTPUT = 64 << 10
_LINE = 200
_PROGRAM_BYTES = 64 << 20
_TOO_LARGE = re.compile(r": \d+ bytes, of \d+ in all \d+ are left$")
_NAMES = 512 << 10
_LONGEST_NAME = 2048
"""Bytes of the names of what a compiler leaves, of all together and of one: above them lie the cache's directory and what the system allows."""
_KEY_SCHEMA = 1
_ACCEPTS = 42
_WALL_FACTOR = 5
"""Wall time of a compiler as a multiple of its CPU time: idle time would count what it waits for a processor, and blame the contestant for a busy host."""
_OWN = "the definition's own program"
_COMPILE_PROFILE = "judge-compile"
_RUN_PROFILES = {True: "judge", False: "judge-validate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be built: sources, the command, and everything that the result depends on."""

    name: str
    language: str
    sources: Sources
    command: tuple[str, ...]
    volumes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    identity: object = None
    wanted: str = ""


class Builder:
    """Builds programs and keeps them. Safe from any thread; as a context manager, or by `close`, it lets go of the cache.

    A `Program` that it returned can be run as long as the builder is open.

    Args:
        languages: the table; loaded unless given.
        cache: where programs are kept; the user's own unless given, closed with the builder in either case.
        environ: for the places of the user's own.
    """

    def __init__(self, languages: Languages | None = None, *, cache: Cache | None = None, environ: Mapping[str, str] | None = None) -> None:
        environ = dict(os.environ) if environ is None else environ
        self.languages = load_languages(environ=environ) if languages is None else languages
        self.cache = open_cache(environ) if cache is None else cache
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}
        self._broken: dict[str, str] = {}
        self._settings = _settings_digest()

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cache. Programs built before may vanish from now on."""
        self.cache.close()

    def build(
        self,
        source: Submission | Source,
        *,
        include: Mapping[str, Mapping[str, bytes]] | None = None,
        limits: ProblemLimits | None = None,
        language: str = "",
    ) -> Built:
        """Build a submission, or a validator or grader of the package.

        Args:
            source: its files.
            include: a package's files to put beside each submission, by language and ``default``; they take the place of files of the same name.
            limits: the package's; its compilation limits hold for the compiler, its memory limit for runtimes that are told of it.
            language: id or alias, instead of what the files tell.

        Returns:
            A `Built`: a program (with a cause, if one that was kept could not be believed), or `Code.CE` with the compiler's words, or `Code.JE` when the
            judge or the compiler itself failed, or a language that is absent. It never raises for what is in the files.

        Raises:
            PolicyError: `language` names no language.
        """
        limits = ProblemLimits() if limits is None else limits
        name = source.name
        stated = language or source.language
        try:
            submitted = isinstance(source, Submission)
            if submitted and (size := sum(map(len, source.files.values()))) > limits.code_bytes:
                return Built(name=name, code=Code.CE, cause=f"{size} bytes of code are more than the limit of {limits.code_bytes}")
            if isinstance(source, Source) and not stated and {"build", "run"} & source.files.keys():
                return self._build_scripts(source, limits)
            known = self._find(source, stated, language, submitted)
            if known is None and (missing := undefined_language(stated, source.files)):
                return Built(name=name, absent=f"{missing}: no definition", cause="docs/how-to/add-a-language.md")
            if known is None:
                return Built(name=name, code=Code.CE, cause="no language is known by " + ", ".join(f"`{show(each)}`" for each in sorted(source.files)[:4]))
            installed = self.languages.toolchain(known)
            if isinstance(installed, Absent):
                return Built(name=name, language=known.id, absent=f"{known.name}: {installed.reason}", cause=installed.hint)
            entrypoint = source.entrypoint if isinstance(source, Submission) else ""
            sources = merge(source.files, known, include if submitted else None, entrypoint)
            return self._build_language(name, known, installed, sources, limits, submitted)
        except BadSource as error:
            return Built(name=name, language=stated, code=Code.CE, cause=str(error))
        except (SetupError, ProtocolError, InternalError) as error:
            return Built(name=name, language=stated, code=Code.JE, cause=f"look for the compiler of `{name}`: {error.message}")

    def _find(self, source: Submission | Source, stated: str, language: str, submitted: bool) -> Language | None:
        """Return the language that is asked for, stated or told by the files; no submission is in one of those that input validators alone are written in."""
        if language:
            return self.languages.find(language)
        known = self.languages.get(stated) if stated else self.languages.detect(source.files, validator=not submitted)
        return None if known is None or (submitted and known.accepts is not None) else known

    def _build_language(self, name: str, language: Language, installed: Installed, sources: Sources, limits: ProblemLimits, submitted: bool) -> Built:
        toolchain = installed.toolchain
        main = choose_main(sources, language)
        binary = sources.free_name(toolchain.binary)
        values = {
            **installed.programs, "main": sources.word(main), "stem": posixpath.splitext(main)[0], "binary": binary, "program": PROGRAM_DIRECTORY,
            "memory": str(limits.compilation_memory_bytes >> 20),
        }  # fmt: skip
        files = tuple(sources.word(each) for each in sources.of(language))
        job = _Job(
            name=name, language=language.id, sources=sources, command=fill(toolchain.compile, values, files), volumes=installed.volumes,
            environment=fill_variables(toolchain.compile_environment, values), identity=installed.identity, wanted=binary if language.entry == "binary" else "",
        )  # fmt: skip
        entry, built = self._obtain(job, limits)
        if entry is None:
            return built if name == _OWN else self._blame(built, language, installed, limits)
        memory_bytes = limits.memory_bytes if submitted else limits.validation_memory_bytes
        values |= {
            "main": f"{PROGRAM_DIRECTORY}/{main}", "stem": f"{PROGRAM_DIRECTORY}/{posixpath.splitext(main)[0]}",
            "binary": f"{PROGRAM_DIRECTORY}/{binary}", "memory": str(memory_bytes >> 20),
            "class": choose_class(entry.directory, sources, language, main) if language.entry == "class" else "",
        }  # fmt: skip
        program = Program(
            name=name, language=language.id, directory=entry.directory, command=fill(toolchain.run, values), profile=_RUN_PROFILES[submitted],
            environment=fill_variables(toolchain.environment, values), volumes=installed.volumes, time_factor=language.time_factor,
            memory_extra_bytes=language.memory_extra_bytes, processes=language.processes, digest=entry.key,
            accepts=_ACCEPTS if language.accepts is None else language.accepts, rejects=language.rejects,
        )  # fmt: skip
        return _with_program(built, program)

    def _blame(self, built: Built, language: Language, installed: Installed, limits: ProblemLimits) -> Built:
        """Return what came of a compiler that ended by itself with an error: the judge's fault where it cannot compile the definition's own program either."""
        if built.code is not Code.CE or built.result is None or built.result.limits_hit or _out_of_time(built.result, limits) or not language.hello:
            return built
        with self._lock:
            broken = self._broken.get(language.id)
        if broken is None:
            try:
                # Under the usual limits: whether it works is asked, not whether the package leaves it enough.
                own = self._build_language(_OWN, language, installed, Sources(files={language.hello_file: language.hello.encode()}), ProblemLimits(), True)
                broken = "" if own.program is not None else own.cause
            except BadSource as error:
                broken = str(error)
            with self._lock:
                self._broken[language.id] = broken
        if not broken:
            return built
        return replace(built, code=Code.JE, cause=f"{language.name} does not work here, not even its definition's own program compiles: {broken}")

    def _build_scripts(self, source: Source, limits: ProblemLimits) -> Built:
        """Build a program of the package's that brings the scripts ``build`` and ``run``."""
        command: tuple[str, ...] = ()
        for script in ("build", "run"):
            if script in source.files and script not in source.executable:
                return Built(name=source.name, code=Code.CE, cause=f"`{script}` is not executable")
        sources = Sources(files=source.files)
        identity: list[object] = []
        if "build" in source.files:
            command = ("/bin/sh", "-c", script_of(sorted(source.executable)))
            # A script may call anything that is installed; these three are promised to it, and packages of the system are in each identity.
            for each in ("c", "cpp", "python3"):
                known = self.languages.get(each)
                found = None if known is None else self.languages.toolchain(known)
                identity.append(found.identity if isinstance(found, Installed) else None)
        entry, built = self._obtain(_Job(name=source.name, language="scripts", sources=sources, command=command, identity=identity, wanted="run"), limits)
        if entry is None:
            return built
        program = Program(
            name=source.name, language="scripts", directory=entry.directory, command=(f"{PROGRAM_DIRECTORY}/run",), profile=_RUN_PROFILES[False],
            digest=entry.key,
        )  # fmt: skip
        return _with_program(built, program)

    def _obtain(self, job: _Job, limits: ProblemLimits) -> tuple[Entry | None, Built]:
        """Return the entry of a job, of the cache or made now, and what there is to say; no entry where it does not compile."""
        key = self._key(job, limits)
        with self._lock:
            lock = self._building.setdefault(key, threading.Lock())
        with lock:
            built = Built(name=job.name, language=job.language)
            try:
                entry = self.cache.find(key)
                if entry is not None:
                    return entry, Built(name=job.name, language=job.language, output=entry.notes.get("output", ""), cached=True)
                said = self.cache.said(key)
                if not job.command:
                    return self.cache.add(key, job.sources.files, {}), replace(built, cause=said)
                result = _compile(job, limits)
                output = _said(result)
                cause = _why_not(job, result, limits)
                if cause:
                    return None, Built(name=job.name, language=job.language, code=Code.CE, cause=cause, output=output, result=result)
                entry = self.cache.add(key, put_together(result.files, job.sources.files), {"output": output})
                return entry, Built(name=job.name, language=job.language, output=output, result=result, cause=said)
            except SandboxError as error:
                return None, Built(name=job.name, language=job.language, code=Code.JE, cause=f"compile `{job.name}`: {error.message}")

    def _key(self, job: _Job, limits: ProblemLimits) -> str:
        # What compiles in a minute does not in a second: a verdict must not hang on what some other package allowed before.
        allowed = (limits.compilation_time_ns, limits.compilation_memory_bytes) if job.command else ()
        files = {name: hashlib.sha256(content).hexdigest() for name, content in job.sources.files.items()}
        whole = [
            _KEY_SCHEMA, sandbox.__version__, os.uname().machine, self._settings, job.language, files, job.command, job.volumes,
            sorted(job.environment.items()), job.identity, job.wanted, allowed,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _compile(job: _Job, limits: ProblemLimits) -> Result:
    time_ns = limits.compilation_time_ns
    return sandbox.run(
        job.command, profile=_COMPILE_PROFILE, files=dict(job.sources.files), volumes=job.volumes, env=dict(job.environment), collect=["**"],
        collect_limit=_PROGRAM_BYTES, name=run_name(),
        limits={"cpu": time_ns / 1e9, "wall": _WALL_FACTOR * time_ns / 1e9, "memory": limits.compilation_memory_bytes},
    )  # fmt: skip


def _why_not(job: _Job, result: Result, limits: ProblemLimits) -> str:
    """Return why a compiler's run gave no program, empty if it gave one."""
    program = posixpath.basename(job.command[0]) if job.language != "scripts" else "build"
    if result.verdict is not Verdict.OK:
        if _out_of_time(result, limits):
            return f"`{program}` took {format_duration(result.usage.cpu_ns)} of CPU time, limit {format_duration(limits.compilation_time_ns)}"
        return f"`{program}` ended with {result.cause}" + (f": {escape_untrusted(line, _LINE)}" if (line := first_line(result)) else "")
    if any(_TOO_LARGE.search(note) for note in result.notes):
        return f"`{program}` made more than {format_size(_PROGRAM_BYTES)} of files"
    if sum(len(os.fsencode(name)) for name in result.files) > _NAMES or any(len(os.fsencode(name)) > _LONGEST_NAME for name in result.files):
        return f"`{program}` left files whose names are too long"
    if job.wanted and job.wanted not in result.files and job.wanted not in job.sources.files:
        left_out = [note for note in result.notes if note.startswith("not collected:")]
        return f"`{program}` made no file `{job.wanted}`" + (f" ({left_out[0]})" if left_out else "")
    return ""


def _out_of_time(result: Result, limits: ProblemLimits) -> bool:
    """Whether CPU time was what a compiler lacked, whichever clock was first: a driver of several programs ends by itself when one of them gets SIGXCPU."""
    return result.verdict is Verdict.CPU_LIMIT or result.usage.cpu_ns > limits.compilation_time_ns


def _said(result: Result) -> str:
    """Return what a compiler printed, cut: untrusted text, of errors first."""
    text = (result.stderr or b"")[:_OUTPUT] + (result.stdout or b"")[:_OUTPUT]
    return plain_quotes(text[:_OUTPUT].decode("utf-8", "replace"))


def _with_program(built: Built, program: Program) -> Built:
    return replace(built, program=program)


def _settings_digest() -> list[str]:
    """Return the digests of how compilers are confined: with another profile they might make something else."""
    profile = load_profile(_COMPILE_PROFILE)
    return [profile.digest, load_policy(profile.policy, check=False).digest]  # compiling it checks it


__all__ = ["Builder"]
