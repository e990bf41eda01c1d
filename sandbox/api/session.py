"""`Sandbox`: many runs with the same settings, each in a sandbox of its own. Blocking, open-ended, over many inputs, and as coroutines.

Here are the forms in which a run is asked for; how it begins, and what is kept for the next one, is in `runs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, cast

from sandbox.api import RunFailed
from sandbox.api.call import Settings, Words, execute_call, open_sink, read_stdin
from sandbox.api.execute import Hooks
from sandbox.api.many import Many
from sandbox.api.process import PIPE, Process, Stream
from sandbox.api.python import parse_python
from sandbox.api.runs import RunOptions, Runs
from sandbox.api.streams import Streams
from sandbox.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox.api.aio import AsyncProcess
    from sandbox.api.background import BackgroundRun
    from sandbox.api.changes import RunChanges
    from sandbox.api.pool_ahead import Ahead
    from sandbox.api.python import Python
    from sandbox.api.sealed import SealedInput
    from sandbox.audit.sinks import Sink
    from sandbox.policy.profile import Profile, Volume
    from sandbox.result import Result


class Sandbox(Runs):
    """Settings for runs. Each run has fresh namespaces, root, limits and filter; nothing is left of one when the next begins.

    Safe to use from any thread. As a context manager it ends, on leaving, whatever is still running.

    Args:
        profile: a profile's name or path, or a loaded one.
        policy: another policy than the profile's.
        volumes: host paths to share in every run.
        limits: limits to change, as in a profile's ``[limits]``.
        env: variables to set inside.
        cwd: host directory to share as the profile says and to start in.
        audit: a file for denied system calls as JSON lines, or a sink (yours to close).
        require_cgroup: refuse to run where a limit would be enforced by rlimits and sampling.
        executor: ``auto``, ``native`` or ``python``.
        image: an image of the store to be the root of every run; each has what it writes for itself.
        entrypoint: words in the place of the image's entry point and command.
        cow: directories that every run sees writable and that stay as they are; see `sandbox.run`, also for the next four.
        cow_size: see there.
        cow_memory: see there.
        keep: see there.
        resume: see there.
        machine_view: ``off``, ``static`` or ``live`` instead of what the profile says.
        resident: keep a server that starts the runs, where it can (`Result.launched`); False starts each as `sandbox.run` does.
        pool: sandboxes to make ahead, so that a run has only its command to start: how many, or a mapping; see `sandbox.api.pool_ahead.Ahead`.
        python: warm interpreters for runs of Python: ``True``, the modules to import ahead, or a mapping; see `sandbox.api.python.Python`. They are made
            as soon as the Sandbox is.
    """

    def __init__(
        self,
        profile: str | Profile = "strict",
        *,
        policy: str | None = None,
        volumes: Sequence[str | Volume] = (),
        limits: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        audit: str | os.PathLike[str] | Sink | None = None,
        require_cgroup: bool = False,
        executor: str = "auto",
        image: str | None = None,
        entrypoint: Sequence[str] | None = None,
        cow: Sequence[str | os.PathLike[str]] = (),
        cow_size: int | str = 0,
        cow_memory: bool = False,
        keep: bool = False,
        resume: str | RunChanges = "",
        machine_view: str | None = None,
        resident: bool = True,
        pool: Ahead | Mapping[str, Any] | int | None = None,
        python: Python | Mapping[str, Any] | Iterable[str] | bool = False,
    ) -> None:
        settings = Settings(
            profile=profile,
            policy=policy,
            volumes=tuple(volumes),
            limits=None if limits is None else dict(limits),
            env=None if env is None else dict(env),
            cwd=cwd,
            audit=audit,
            require_cgroup=require_cgroup,
            executor=executor,
            image=image,
            entrypoint=entrypoint,
            cow=cow if isinstance(cow, (str, bytes)) else tuple(cow),
            cow_size=cow_size,
            cow_memory=cow_memory,
            keep=keep,
            resume=resume,
            machine_view=machine_view,
        )
        if (cow or resume or keep) and (pool or python is not False):
            raise PolicyError("what is made ahead writes to nothing of yours: `pool` and `python` are not to be given with `cow`, `keep` or `resume`")
        wanted = parse_python(python)
        ahead: Ahead | None = None
        if pool:
            from sandbox.api.pool_ahead import parse_ahead

            ahead = parse_ahead(pool)
            if not resident:
                raise PolicyError("a pool needs a server", hint="leave out `resident=False`")
        super().__init__(settings, resident=resident, ahead=ahead, python=wanted)

    def run(
        self,
        argv: Words,
        *,
        stdin: bytes | str | int | SealedInput | None = None,
        capture_output: bool = True,
        check: bool = False,
        **options: Unpack[RunOptions],
    ) -> Result:
        """Run a command and wait for its end; see `sandbox.run` for arguments and errors."""
        self._check_stdin(stdin)
        feed = read_stdin(stdin)
        streams = Streams(stdin=feed, stdout=None if capture_output else 1, stderr=None if capture_output else 2)
        member = self._take_member(argv, streams, options)
        if member is not None:
            try:
                return checked(member.wait(), check)
            finally:
                if not member.ended:  # interrupted
                    member.kill()
                    member.join()
        call = self._prepare(argv, options)
        sink, owned = open_sink(self._settings.audit)
        try:
            result = execute_call(call, streams, Hooks(sink=sink), self._launcher)
        finally:
            if owned:
                sink.close()
        return checked(result, check)

    def popen(
        self,
        argv: Words,
        *,
        stdin: bytes | str | SealedInput | Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        **options: Unpack[RunOptions],
    ) -> Process:
        """Start a command and return while it runs.

        Args:
            argv: the command and its arguments.
            stdin: `PIPE` to write to `Process.stdin`, bytes, text or a `SealedInput` that are all of it, a descriptor or file (borrowed), None for an
                empty one.
            stdout: `PIPE`, `DEVNULL`, a descriptor or file (borrowed), or None to keep it in the result.
            stderr: likewise; for both in one order let a shell in the sandbox join them (``2>&1``).
            options: as for `run`.

        Raises:
            SandboxError: the sandbox could not be set up. That the command itself cannot be executed shows at the latest in `Process.wait`.
        """

        self._check_stdin(stdin)

        def start(streams: Streams, owned: tuple[int, ...]) -> BackgroundRun:
            return self._begin(argv, streams, options, owned)

        return Process(tuple(os.fspath(word) for word in argv), stdin=stdin, stdout=stdout, stderr=stderr, start=start)

    def map(
        self,
        argv: Words,
        inputs: Iterable[bytes | str | Mapping[str, object]],
        *,
        workers: int | None = None,
        **options: Unpack[RunOptions],
    ) -> Iterator[Result]:
        """Run a command once for each input, several at a time, and yield the results in the order of the inputs.

        Inputs are taken as they are needed, so there may be endlessly many. Closing the iterator, or an error, ends what still runs.

        Args:
            argv: the command and its arguments.
            inputs: the standard input of each run; or a mapping with `argv`, `stdin` and the options of `run`, which change these of this call.
            workers: how many runs at a time; None is one for each processor that this process may use.
            options: as for `run`.

        Raises:
            SandboxError: the sandbox failed for one of the inputs; results before it were yielded.
        """
        return iter(Many(partial(self._start, argv, options), iter(inputs), workers))

    def _start(self, argv: Words, options: RunOptions, item: bytes | str | Mapping[str, object]) -> BackgroundRun:
        if not isinstance(item, (bytes, bytearray, memoryview, str, Mapping)):  # a number would be taken for one of our descriptors
            raise TypeError(f"an input must be bytes, text or a mapping, not {type(item).__name__}")
        given: dict[str, Any] = dict(item) if isinstance(item, Mapping) else {"stdin": item}
        words, stdin = given.pop("argv", argv), given.pop("stdin", None)
        self._check_stdin(stdin)
        feed = read_stdin(stdin)
        return self._begin(words, Streams(stdin=feed), cast("RunOptions", {**options, **given}))

    # ---- as coroutines -------------------------------------------------------------------------------------

    async def run_async(
        self, argv: Words, *, stdin: bytes | str | int | None = None, check: bool = False, **options: Unpack[RunOptions]
    ) -> Result:
        """Run a command without blocking the event loop; cancelling it ends the run and everything in it, and waits for that.

        Args and errors as for `run`; output is always captured.
        """
        from sandbox.api import aio

        run = await aio.in_thread(lambda: self._start(argv, options, {"stdin": stdin}))
        return checked(await aio.wait_for_end(run), check)

    async def popen_async(
        self,
        argv: Words,
        *,
        stdin: bytes | str | Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        **options: Unpack[RunOptions],
    ) -> AsyncProcess:
        """Start a command as `popen` does; its pipes are asyncio streams."""
        from sandbox.api import aio

        def start() -> Process:
            return self.popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, **options)

        return await aio.AsyncProcess.open(await aio.in_thread(start))

    async def map_async(
        self,
        argv: Words,
        inputs: Iterable[bytes | str | Mapping[str, object]],
        *,
        workers: int | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[Result]:
        """Yield what `map` yields, without blocking the event loop; closing or cancelling it ends what still runs."""
        from sandbox.api import aio

        many = Many(partial(self._start, argv, options), iter(inputs), workers)
        async for result in aio.iterate(iter(many), many.give_up):
            yield result

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        from sandbox.api import aio

        await aio.in_thread(self.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def checked(result: Result, check: bool) -> Result:
    """Return a result, or raise `RunFailed` if that was asked for and it did not end well."""
    if check and not result.ok:
        raise RunFailed(result)
    return result
