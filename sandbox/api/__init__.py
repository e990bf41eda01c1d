"""The Python interface: `run` and the types around it.

`sandbox.run` has the habits of `subprocess.run`: it blocks, is safe from any thread, and returns a `Result` whatever the
payload did; it raises only when the sandbox itself could not do what was asked.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.api.changes import RunChanges
    from sandbox.api.sealed import SealedInput
    from sandbox.audit.sinks import Sink
    from sandbox.policy.profile import Profile, Volume
    from sandbox.result import Result


class RunFailed(SandboxError):
    """`run(check=True)`: the payload did not end well; `result` has everything."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"run ended as {result.verdict}: {result.cause}")
        self.result = result


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    profile: str | Profile = "strict",
    policy: str | None = None,
    stdin: bytes | str | int | SealedInput | None = None,
    files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
    volumes: Sequence[str | Volume] = (),
    limits: Mapping[str, object] | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    collect: Sequence[str] = (),
    collect_limit: int | str = "64M",
    capture_output: bool = True,
    check: bool = False,
    audit: str | os.PathLike[str] | Sink | None = None,
    require_cgroup: bool = False,
    executor: str = "auto",
    machine_view: str | None = None,
    name: str = "",
    image: str | None = None,
    entrypoint: Sequence[str] | None = None,
    cow: Sequence[str | os.PathLike[str]] = (),
    cow_size: int | str = 0,
    cow_memory: bool = False,
    keep: bool = False,
    resume: str | RunChanges = "",
) -> Result:
    """Run a command in a sandbox of its own and wait for its end.

    Args:
        argv: the command and its arguments; found like a shell would, by PATH or relative to `cwd`.
        profile: a profile's name or path, or a loaded one.
        policy: another policy than the profile's.
        stdin: the payload's whole standard input, or a descriptor to read it from (borrowed); None is empty. A `SealedInput` is a regular file of the
            run's own instead of a pipe.
        files: names under the working directory and their contents; written before the start. Text is encoded as UTF-8, a path is a host file
            that is read now.
        volumes: host paths to share, as `SRC[:DST][:ro|rw]` or `Volume`.
        limits: limits to change, keys and values as in a profile's ``[limits]``: ``{"memory": "64M", "processes": 8}``.
        timeout: wall-clock limit in seconds; passing it ends the run with verdict ``wall-limit``, it does not raise.
        env: variables to set inside; nothing of the caller's environment is passed but what the profile lists.
        cwd: host directory to share as the profile says and to start in; None shares none and starts in the sandbox's home.
        collect: patterns of files below the working directory to read into `Result.files` after the end, such as ``out/*.txt`` or ``**/*.log``.
            Links and special files are left out, which `Result.notes` says.
        collect_limit: bytes of all collected files together; one that does not fit is left out.
        capture_output: keep stdout and stderr as bytes in the result; False passes them on to our own.
        check: raise `RunFailed` unless the verdict is ``ok``.
        audit: a file for denied system calls as JSON lines, or a sink.
        require_cgroup: refuse to run where a limit would be enforced by rlimits and sampling.
        executor: ``auto``, ``native`` or ``python``.
        machine_view: ``off``, ``static`` or ``live`` instead of what the profile says: whose processors and memory programs are told of.
        name: what `sandbox.running` and ``sandbox ps`` call it.
        image: an image of the store (``debian:12``) to be the root, in the place of the host's system; `argv` may be empty then, for what the
            image runs, and is preceded by the image's entry point.
        entrypoint: words in the place of the image's entry point and command.
        cow: host directories that the program sees writable at their own paths and that stay as they are; `Result.changes` has what it changed.
        cow_size: bytes that it may write there, ``"4G"`` unless given; more ends the run.
        cow_memory: keep that in memory, and nothing of it afterwards.
        keep: with `image`: keep what is written over it, for `Result.changes` and ``sandbox image commit``.
        resume: a kept run, its id or a snapshot's name, to go on from, in the place of `cow`.

    Raises:
        PolicyError: a profile, policy, limit or volume is wrong.
        UnsupportedError: this host cannot enforce something that was asked for.
        ExecuteError: the command cannot be executed (`exit_code` 126 or 127).
        SetupError: a system call of the set-up failed.
        RunFailed: only with `check`.
        ValueError: an argument has an embedded NUL, or `argv` is empty.
        TypeError: `argv` is one text, or something else has a wrong type.
    """
    from sandbox.api.call import Changes, Settings, execute_call, open_sink, prepare_call, read_stdin
    from sandbox.api.execute import Hooks
    from sandbox.api.streams import Streams

    settings = Settings(
        profile=profile, policy=policy, cwd=cwd, audit=audit, require_cgroup=require_cgroup, executor=executor, image=image, entrypoint=entrypoint,
        cow=cow, cow_size=cow_size, cow_memory=cow_memory, keep=keep, resume=resume,
        machine_view=machine_view,
    )  # fmt: skip
    changes = Changes(files=files, volumes=volumes, limits=limits, timeout=timeout, env=env, collect=collect, collect_limit=collect_limit, name=name)
    sink, owned = open_sink(audit)
    try:
        call = prepare_call(argv, settings, changes, origin="argument of `sandbox.run`")
        feed = read_stdin(stdin)
        streams = Streams(stdin=feed, stdout=None if capture_output else 1, stderr=None if capture_output else 2)
        result = execute_call(call, streams, Hooks(sink=sink))
    finally:
        if owned:
            sink.close()
    if check and not result.ok:
        raise RunFailed(result)
    return result


__all__ = ["PolicyError", "RunFailed", "run"]
