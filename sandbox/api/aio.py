"""The interface for asyncio: runs that are awaited, and processes whose pipes are asyncio streams.

A cancelled coroutine ends its run, and goes on only when nothing of it is left.
"""

from __future__ import annotations

import asyncio
from asyncio.streams import FlowControlMixin
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sandbox.api.background import BackgroundRun
    from sandbox.api.process import Process
    from sandbox.result import Result

_Value = TypeVar("_Value")
_LIMIT = 1 << 16
_END = object()


async def in_thread(call: Callable[[], _Value], give_up: Callable[[], None] | None = None) -> _Value:
    """Call something that blocks for a moment; it is not interrupted by a cancellation, so that nothing it made is lost.

    Args:
        call: what blocks.
        give_up: makes it return soon, should it take longer than a moment; called when we are cancelled.
    """
    task = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if give_up is not None:
            give_up()
        await _settle(task)
        if not task.cancelled() and task.exception() is None:
            await _settle(asyncio.get_running_loop().run_in_executor(None, _discard, task.result()))
        raise


def _discard(made: object) -> None:
    """End what was started for somebody who is gone, and wait for that."""
    from sandbox.api.background import BackgroundRun
    from sandbox.api.process import Process

    if isinstance(made, Process):
        made.__exit__(None, None, None)
    elif isinstance(made, BackgroundRun):
        made.kill()
        made.join()


async def _settle(task: asyncio.Future[_Value]) -> None:
    """Wait until a future is done, whoever cancels us meanwhile."""
    while not task.done():
        try:
            await asyncio.shield(asyncio.wait([task]))
        except asyncio.CancelledError:
            continue


def _future_of(run: BackgroundRun | Process) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not future.done():
            future.set_result(None)

    def at_end() -> None:
        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    run.call_at_end(at_end)
    return future


async def wait_for_end(run: BackgroundRun) -> Result:
    """Return the result of a run; cancelled, end the run first."""
    future = _future_of(run)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        run.kill()
        await _settle(future)
        raise
    return run.result()


async def iterate(results: Iterator[Result], give_up: Callable[[], None]) -> AsyncIterator[Result]:
    """Yield what an iterator that blocks yields; `give_up` makes it end soon."""
    try:
        while True:
            item = await in_thread(lambda: next(results, _END), give_up)
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        await in_thread(results.close)  # type: ignore[attr-defined]


class AsyncProcess:
    """A command that runs in a sandbox of its own; made by `Sandbox.popen_async`.

    `stdin` is an `asyncio.StreamWriter`, `stdout` and `stderr` are `asyncio.StreamReader`, where `PIPE` was asked for, else None.
    Leaving the ``async with`` block, or being cancelled there, ends the run.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._transports: list[asyncio.BaseTransport] = []
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    @classmethod
    async def open(cls, process: Process) -> AsyncProcess:
        """Take a process and connect its pipes to the running loop."""
        self = cls(process)
        loop = asyncio.get_running_loop()
        try:
            if process.stdin is not None:
                transport, protocol = await loop.connect_write_pipe(FlowControlMixin, process.stdin)
                self._transports.append(transport)
                self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
            self.stdout = await self._reader(process.stdout)
            self.stderr = await self._reader(process.stderr)
        except BaseException:
            self._close()
            process.kill()
            raise
        return self

    async def _reader(self, file: object) -> asyncio.StreamReader | None:
        if file is None:
            return None
        reader = asyncio.StreamReader(limit=_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        self._transports.append(transport)
        return reader

    @property
    def run_id(self) -> str:
        """The run's id, as in the audit log and the result."""
        return self._process.run_id

    @property
    def returncode(self) -> int | None:
        """The exit code that a shell would report, None while it runs."""
        return self._process.returncode

    async def wait(self) -> Result:
        """Return the result once the run is over; cancelled, it goes on.

        Raises:
            SandboxError: the sandbox failed.
        """
        await _future_of(self._process)
        return self._process.wait()

    async def communicate(self, input: bytes | str | None = None) -> tuple[bytes | None, bytes | None]:
        """Feed standard input, read both outputs to their ends, and wait; cancelled, end the run."""
        if input is not None and self.stdin is None:
            raise ValueError("input was given, but stdin is no pipe")
        try:
            _, out, err = await asyncio.gather(self._feed(input), _read(self.stdout), _read(self.stderr))
            await self.wait()
        except asyncio.CancelledError:
            await self._end()
            raise
        return out, err

    async def _feed(self, input: bytes | str | None) -> None:
        if self.stdin is None:
            return
        try:
            if input:
                self.stdin.write(input.encode() if isinstance(input, str) else input)
                await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the program reads no more
        self.stdin.close()

    def send_signal(self, signal: int) -> None:
        """Send the program a signal; nothing happens when it is over."""
        self._process.send_signal(signal)

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End the program and everything that it started."""
        self._process.kill()

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()

    async def _end(self) -> None:
        self._process.kill()
        self._close()
        await _settle(_future_of(self._process))

    def _close(self) -> None:
        for transport in self._transports:
            if transport.is_closing():
                continue
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            else:
                transport.close()


async def _read(reader: asyncio.StreamReader | None) -> bytes | None:
    return None if reader is None else await reader.read()
