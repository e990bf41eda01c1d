"""The runs of one `Sandbox`: what they have in common, who begins each, and the end of them all. The forms in which they are asked for are `session`'s."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypedDict

from sandbox.api.background import BackgroundRun
from sandbox.api.call import Call, Changes, open_sink, prepare_call
from sandbox.api.pool import Stats
from sandbox.api.pool_python import Interpreters
from sandbox.api.recipe import Recipes
from sandbox.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.api.call import Contents, Settings, Words
    from sandbox.api.pool_ahead import Ahead
    from sandbox.api.python import Python
    from sandbox.api.resident import Residents
    from sandbox.api.streams import Streams
    from sandbox.policy.profile import Volume


class RunOptions(TypedDict, total=False):
    """What one run may add to the settings of its `Sandbox`; the meanings are those of `sandbox.run`."""

    files: Contents | None
    volumes: Sequence[str | Volume]
    limits: Mapping[str, object] | None
    timeout: float | None
    env: Mapping[str, str] | None
    collect: Sequence[str]
    collect_limit: int | str
    name: str


class Runs:
    """What a `Sandbox` keeps from one run to the next; thread-safe.

    Args:
        settings: of all runs.
        resident: whether a server starts them, where one can.
        ahead: sandboxes to make ahead, by that server.
        python: warm interpreters to keep.

    Raises:
        SandboxError: what is to be made ahead cannot be prepared.
    """

    def __init__(self, settings: Settings, *, resident: bool, ahead: Ahead | None, python: Python | None) -> None:
        self._settings = settings
        self._recipes = Recipes(by_processors=python is None)
        _all.add(self)
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[BackgroundRun] = weakref.WeakSet()
        self._closed = False
        self._launcher: Residents | None = None
        if resident:
            from sandbox.api.resident import Residents

            self._launcher = Residents(ahead)
        self._interpreters: Interpreters | None = None
        if python is not None:
            recipes = self._recipes

            def prepare_waiting(argv: tuple[str, ...], changes: Changes) -> Call:  # not a method: it would keep us alive
                return prepare_call(argv, settings, changes, origin="argument of `Sandbox`", recipes=recipes)

            self._interpreters = Interpreters(python, prepare_waiting, self._launcher)
            # Not a `__del__`: members live in threads, which the end of the interpreter would meet in the middle of what they do.
            weakref.finalize(self, self._interpreters.close)
            self._interpreters.fill()
        if ahead is not None and self._launcher is not None and self._launcher.pool is not None:
            weakref.finalize(self, self._launcher.close_pool)  # what waits keeps its launcher
            # Runs of most commands are alike but for the command; what is made for this one fits them.
            self._launcher.fill(self._prepare(("true",), {}).prepared)

    def _begin(self, argv: Words, streams: Streams, options: RunOptions, owned: tuple[int, ...] = ()) -> BackgroundRun:
        """Start a run with a thread of its own; the descriptors in `owned` are closed at its end, or here when it cannot be started."""
        run: BackgroundRun | None = None
        try:
            run = self._take_member(argv, streams, options, owned)
            if run is None:
                call = self._prepare(argv, options)
                sink, owns_sink = open_sink(self._settings.audit)
                given, owned = owned, ()
                run = BackgroundRun(call, streams, sink=sink, owns_sink=owns_sink, owned=given, launcher=self._launcher)
        finally:
            if run is None:
                for fd in owned:
                    os.close(fd)
        self._remember(run)
        return run

    def _check_stdin(self, stdin: object) -> None:
        """Refuse a file for runs that may have waited: their standard input was made before it.

        Raises:
            PolicyError: it is one.
        """
        if self._interpreters is not None or (self._launcher is not None and self._launcher.pool is not None):
            from sandbox.api.sealed import SealedInput

            if isinstance(stdin, SealedInput):
                raise PolicyError("a run that was made ahead has a pipe as standard input: a `SealedInput` is not to be given with `pool` or `python`")

    def _take_member(self, argv: Words, streams: Streams, options: RunOptions, owned: tuple[int, ...] = ()) -> BackgroundRun | None:
        """Give a run to a warm interpreter, if there is one for it."""
        if self._interpreters is None or isinstance(argv, (str, bytes)) or self._closed:
            return None
        words = [os.fspath(word) for word in argv]
        return self._interpreters.start(words, Changes(**options), streams, lambda: open_sink(self._settings.audit), owned)

    def _prepare(self, argv: Words, options: RunOptions) -> Call:
        if self._closed:
            raise ValueError("this Sandbox is closed")
        return prepare_call(argv, self._settings, Changes(**options), origin="argument of `Sandbox`", recipes=self._recipes)

    def stats(self) -> Stats:
        """Return how the runs of this Sandbox were started, as far as it keeps something ahead."""
        pool = self._launcher.pool if self._launcher is not None else None
        return Stats(
            pool=None if pool is None else pool.stats(), python=None if self._interpreters is None else self._interpreters.stats()
        )  # fmt: skip

    def warm(self, timeout: float | None = None) -> bool:
        """Wait until everything that is to be kept ahead is there; return whether it is.

        Args:
            timeout: seconds; None waits as long as it takes. It returns at once when nothing more is being made, because it failed: see `stats`.
        """
        began = time.monotonic()
        if self._launcher is not None and not self._launcher.warm(timeout):
            return False
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        return self._interpreters is None or self._interpreters.wait(left)

    def _remember(self, run: BackgroundRun) -> None:
        with self._lock:
            closed = self._closed
            self._open.add(run)
        if closed:
            run.kill()

    def _begin_anew(self) -> None:
        """In a fork: let go of what is the parent's, the locks of its threads first."""
        self._lock = threading.Lock()
        self._open = weakref.WeakSet()
        self._recipes.begin_anew()

    def close(self) -> None:
        """End every run that is still going on and wait for that; idempotent."""
        with self._lock:
            self._closed = True
            runs = list(self._open)
        for run in runs:
            run.kill()
        for run in runs:
            run.join()
        if self._interpreters is not None:
            self._interpreters.close()
        self._recipes.forget()
        if self._launcher is not None:
            self._launcher.close()


def begin_run(runs: Runs, argv: Words, streams: Streams, options: RunOptions) -> BackgroundRun:
    """Start a run with streams of the caller's making: for what is built on a `Sandbox` and is not of its interface.

    Raises:
        SandboxError: it could not be started.
    """
    return runs._begin(argv, streams, options)


_all: weakref.WeakSet[Runs] = weakref.WeakSet()


def _after_fork() -> None:
    for runs in list(_all):
        runs._begin_anew()


os.register_at_fork(after_in_child=_after_fork)


__all__ = ["RunOptions", "Runs", "begin_run"]
