"""From the arguments of the Python interface to a prepared launch: the one place that reads them.

`run`, `Sandbox` and its processes use it. It checks types, changes the profile and prepares; it starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, Prepared, check_log_place, load_command_profile, open_backend, prepare
from sandbox.api.streams import Streams
from sandbox.audit.events import escape_untrusted
from sandbox.errors import PolicyError
from sandbox.policy.profile_load import override_profile
from sandbox.record import dataclass, replace
from sandbox.rootfs.collect import collect_files, parse_patterns
from sandbox.rootfs.volumes import parse_volume
from sandbox.units import parse_size

if TYPE_CHECKING:
    from sandbox.api.changes import RunChanges
    from sandbox.api.keeping import CowRequest
    from sandbox.api.recipe import Recipes
    from sandbox.api.sealed import SealedInput
    from sandbox.api.start import Launcher
    from sandbox.audit.sinks import Sink
    from sandbox.policy.profile import Profile, Volume
    from sandbox.result import Result
    from sandbox.supervise.monitor import Monitor

_NOTE = 500

Words = Sequence[str | os.PathLike[str]]
Contents = Mapping[str, bytes | str | os.PathLike[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every run of one `Sandbox` has in common."""

    profile: str | Profile = "strict"
    policy: str | None = None
    volumes: Sequence[str | Volume] = ()
    limits: Mapping[str, object] | None = None
    env: Mapping[str, str] | None = None
    cwd: str | os.PathLike[str] | None = None
    audit: str | os.PathLike[str] | Sink | None = None
    require_cgroup: bool = False
    executor: str = "auto"
    image: str | None = None
    entrypoint: Sequence[str] | None = None
    cow: Sequence[str | os.PathLike[str]] = ()
    cow_size: int | str = 0
    cow_memory: bool = False
    keep: bool = False
    resume: str | RunChanges = ""
    machine_view: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one run adds to the settings."""

    files: Contents | None = None
    volumes: Sequence[str | Volume] = ()
    limits: Mapping[str, object] | None = None
    timeout: float | None = None
    env: Mapping[str, str] | None = None
    collect: Sequence[str] = ()
    collect_limit: int | str = "64M"
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prepared run and what is to be read from its working directory at the end."""

    prepared: Prepared
    patterns: tuple[tuple[str, ...], ...]
    collect_bytes: int


def prepare_call(argv: Words, settings: Settings, changes: Changes, *, origin: str, recipes: Recipes | None = None) -> Call:
    """Check the arguments of one run and prepare it.

    Args:
        argv: the command and its arguments.
        settings: what the caller set for all runs.
        changes: what this run adds; the same limit or variable here counts.
        origin: what errors of profile values call these arguments.
        recipes: where calls are kept; only calls with these very settings.

    Raises:
        SandboxError: as `prepare`.
        ValueError: an empty `argv`, or an embedded NUL.
        TypeError: `argv` is one text.
    """
    if isinstance(argv, (str, bytes)):
        raise TypeError("argv must be a sequence of words, not one text; shlex.split() makes one of a command line")
    words = tuple(os.fspath(word) for word in argv)
    image = settings.image or load_command_profile(settings.profile).image
    if not words and not image:
        raise ValueError("argv is empty")
    if isinstance(settings.entrypoint, (str, bytes)):
        raise TypeError("entrypoint must be a sequence of words, not one text")
    files = read_files(changes.files)
    if recipes is None or settings.cow or settings.resume or settings.keep:  # each run writes to a place of its own
        return _make_call(words, settings, changes, files, origin)
    if image:  # never kept: its name means what it means now, and the command line is partly the image's
        call = _make_call(words, settings, changes, files, origin)
        return replace(call, prepared=open_backend(call.prepared))
    if changes.name:
        from sandbox.registry.facts import check_name

        check_name(changes.name)
    for word in words:
        if "\0" in word:
            raise ValueError(f"embedded NUL in {word!r}")
    # By their text: 1 and True are equal, and a list is no key.
    key = repr((changes.volumes, changes.limits, changes.timeout, changes.env, changes.collect, changes.collect_limit))
    given = [item.partition(":")[0] if isinstance(item, str) else item.source for item in (*settings.volumes, *changes.volumes)]
    if settings.cwd is not None:
        given.append(os.fspath(settings.cwd))
    given = [os.path.expanduser(path) for path in given]

    def make(marks: Mapping[str, bytes]) -> Call:
        call = _make_call(words, settings, changes, marks, origin)
        return replace(call, prepared=open_backend(call.prepared))

    return recipes.find(key, words, files, changes.name, given, make)


def read_stdin(stdin: object) -> bytes | int | SealedInput | None:
    """Return what a run is given to read, as `Streams` has it; text is encoded.

    Raises:
        TypeError: it is neither bytes, text, a descriptor, a `SealedInput` nor None.
    """
    if stdin is None or isinstance(stdin, (bytes, int)):
        return stdin
    if isinstance(stdin, str):
        return stdin.encode()
    if isinstance(stdin, (bytearray, memoryview)):
        return bytes(stdin)
    from sandbox.api.sealed import SealedInput

    if isinstance(stdin, SealedInput):
        return stdin
    raise TypeError(f"stdin must be bytes, text, a descriptor, a SealedInput or None, not {type(stdin).__name__}")


def _make_call(words: tuple[str, ...], settings: Settings, changes: Changes, files: Mapping[str, bytes], origin: str) -> Call:
    env = {**(settings.env or {}), **(changes.env or {})}
    for word in (*words, *env.keys(), *env.values()):
        if "\0" in word:
            raise ValueError(f"embedded NUL in {word!r}")
    patterns = parse_patterns(changes.collect, origin)
    collect_bytes = parse_size(changes.collect_limit, where=f"{origin}, collect_limit")
    limits: dict[str, object] = {**(settings.limits or {}), **(changes.limits or {})}
    if changes.timeout is not None:
        limits["wall"] = changes.timeout
    volumes = [parse_volume(item, os.getcwd()) if isinstance(item, str) else item for item in (*settings.volumes, *changes.volumes)]
    cow = _cow(settings, origin)
    image = settings.image
    if cow is not None and cow.resume and image is None:
        from sandbox.api.keeping import image_of

        image = image_of(cow.resume, os.environ) or None
    prepared = prepare(
        Command(
            argv=words,
            profile=override_profile(
                load_command_profile(settings.profile),
                limits=limits,
                volumes=volumes,
                env=env or None,
                policy=settings.policy,
                image=image,
                machine_view=settings.machine_view,
                origin=origin,
            ),
            entrypoint=None if settings.entrypoint is None else tuple(settings.entrypoint),
            cwd=None if settings.cwd is None else os.path.realpath(os.fspath(settings.cwd)),
            environ=dict(os.environ),
            files=files,
            require_cgroup=settings.require_cgroup,
            executor=settings.executor,
            name=changes.name,
            cow=cow,
        )
    )
    if isinstance(settings.audit, (str, os.PathLike)):
        check_log_place(prepared, os.fspath(settings.audit))
    return Call(prepared=prepared, patterns=patterns, collect_bytes=collect_bytes)


def _cow(settings: Settings, origin: str) -> CowRequest | None:
    """Return what is to be seen copy-on-write; nothing for a run without."""
    if not settings.cow and not settings.resume and not settings.keep:
        if settings.cow_memory or settings.cow_size:
            raise PolicyError("`cow_memory` and `cow_size` say how `cow` is kept, which is not given", origin=origin)
        return None
    if isinstance(settings.cow, (str, bytes)):
        raise TypeError("cow must be a sequence of directories, not one text")
    from sandbox.api.keeping import CowRequest

    resume = ""
    if settings.resume:
        from sandbox.api.changes import RunChanges, find_kept

        resume = settings.resume.run_id if isinstance(settings.resume, RunChanges) else find_kept(settings.resume).run_id
    return CowRequest(
        directories=tuple(os.fspath(path) for path in settings.cow),
        resume=resume,
        root=settings.keep,
        memory=settings.cow_memory,
        limit_bytes=parse_size(settings.cow_size, where=f"{origin}, cow_size") if settings.cow_size else 0,
    )


def execute_call(call: Call, streams: Streams, hooks: Hooks, launcher: Launcher | None = None) -> Result:
    """Run a prepared call to its end, and read the files that were asked for; arguments as for `execute`.

    Raises:
        SandboxError: as `execute`.
    """
    if not call.patterns:
        return execute(call.prepared, streams, hooks, launcher).result
    directory = -1

    def on_start(monitor: Monitor) -> None:
        nonlocal directory
        # The payload stands in its working directory and waits for GO. The descriptor keeps that file system after its namespace is gone.
        directory = os.open(f"/proc/{monitor.payload_pid}/cwd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if hooks.on_start is not None:
            hooks.on_start(monitor)

    try:
        result = execute(call.prepared, streams, replace(hooks, on_start=on_start), launcher).result
        return with_files(result, directory, call)
    finally:
        if directory >= 0:
            os.close(directory)


def with_files(result: Result, directory: int, call: Call) -> Result:
    """Return the result with the files that were asked for.

    Args:
        result: of a run that is over.
        directory: its working directory; borrowed.
        call: what was asked.
    """
    found = collect_files(directory, call.patterns, call.collect_bytes)
    skipped = (f"not collected: {escape_untrusted(text, _NOTE)}" for text in found.skipped)
    return replace(result, files=found.files, notes=(*result.notes, *skipped))


def read_files(files: Contents | None) -> dict[str, bytes]:
    """Return the contents of files that were given as text, bytes or paths."""
    return {name: _content(content) for name, content in (files or {}).items()}


def _content(content: bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, os.PathLike):
        with open(content, "rb") as file:
            return file.read()
    return bytes(memoryview(content))


def open_sink(audit: str | os.PathLike[str] | Sink | None) -> tuple[Sink, bool]:
    """Return the sink of denials that an `audit` argument means, and whether it is ours to close."""
    from sandbox.audit.sinks import FileSink, NullSink

    if audit is None:
        return NullSink(), True
    if isinstance(audit, (str, os.PathLike)):
        return FileSink(os.fspath(audit)), True
    return audit, False


__all__ = ["Call", "Changes", "Contents", "Settings", "Words", "execute_call", "open_sink", "prepare_call", "read_files", "read_stdin", "with_files"]
