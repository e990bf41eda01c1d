"""The running sandboxes of this user: find them, look at them, pause, resume and end them.

`sandbox.running` lists them. What is asked of a run is asked of its supervisor, by the socket of its entry; nothing here starts or holds anything.
"""

from __future__ import annotations

import glob
import os
import re
import select
import signal as signals
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sandbox.api.run_stats import RunStats, parse_stats
from sandbox.errors import SandboxError, describe_errno
from sandbox.record import dataclass
from sandbox.registry.facts import Facts
from sandbox.registry.place import Place, list_places, open_place
from sandbox.registry.scan import Found, Line, ask_all, await_answer, end_by_force, scan_place

ANSWER_S = 1.0
"""How long a supervisor may take to answer; one that is busy with a flood of denials takes milliseconds."""
_END_S = 10.0


class RunGone(SandboxError):
    """The run has ended."""


class RunUnresponsive(SandboxError):
    """The run's supervisor does not answer: it is stopped, or its host is out of breath."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running sandbox; it may end at any moment, and then every method raises `RunGone`.

    Attributes:
        run_id: the whole id, as in the run's result.
        name: what it was called, or empty.
        profile: the profile's name.
        argv: the command; untrusted text, and cut where it is long.
        pid: the process that supervises it.
        uid: whose it is.
    """

    run_id: str
    name: str
    profile: str
    argv: tuple[str, ...]
    pid: int
    uid: int
    _place: Place
    _facts: Facts

    @property
    def short_id(self) -> str:
        """The part of the id that differs between runs; its beginning is enough wherever a run is asked for."""
        return self.run_id.rpartition("-")[2]

    def stats(self) -> RunStats:
        """Return what it uses now.

        Raises:
            RunGone: it has ended.
            RunUnresponsive: its supervisor did not answer within a second.
        """
        with self._call() as line:
            return parse_stats(self._ask(line, "stats"), self._facts.began_ns)

    def pause(self) -> None:
        """Stop every process of it, at once where its cgroup has a freezer; its time limits stand still meanwhile. Harmless when it is paused.

        Raises:
            RunGone, RunUnresponsive: as for `stats`.
            SandboxError: it cannot be paused; the message says why.
        """
        with self._call() as line:
            self._ask(line, "pause")

    def resume(self) -> None:
        """Let it go on; harmless when it is not paused.

        Raises:
            RunGone, RunUnresponsive, SandboxError: as for `pause`.
        """
        with self._call() as line:
            self._ask(line, "resume")

    def signal(self, number: int) -> None:
        """Send a signal to its first process; a paused one gets it when it goes on.

        Raises:
            RunGone, RunUnresponsive: as for `stats`.
            ValueError: no such signal.
        """
        if not 0 < number < 65:
            raise ValueError(f"no signal has the number {number}")
        with self._call() as line:
            self._ask(line, f"signal {number}")

    def kill(self, *, timeout: float = _END_S) -> bool:
        """End it, all of it, paused or not, and wait until nothing of it is left; its result says who did it.

        Where the supervisor does not answer, the run's init is killed directly, and all its processes with it.

        Args:
            timeout: seconds to wait for the end; 0 does not wait.

        Returns:
            whether its supervisor did it; False where that does not answer: it writes its result when it goes on.

        Raises:
            RunUnresponsive: it is not known whether it has ended.
            SandboxError: it belongs to somebody else.
        """
        try:
            with self._call() as line:
                line.send("kill")
                answer = await_answer(line, ANSWER_S)
                if answer is None:
                    self._force(line, timeout)
                    return False
                if answer.startswith("ok") and timeout > 0 and await_answer(line, timeout) is None:
                    raise RunUnresponsive(f"run `{self.run_id}` was killed and is not gone after {timeout:g} s")
        except RunGone:
            pass
        return True

    def _force(self, line: Line, timeout: float) -> None:
        try:
            init = end_by_force(self._facts, line.supervisor)
        except OSError as error:
            raise RunUnresponsive(
                f"end run `{self.run_id}` without its supervisor: {error.strerror}", hint=f"`kill -KILL {line.supervisor}` ends both"
            ) from None
        if init < 0:
            return
        try:
            poll = select.poll()
            poll.register(init, select.POLLIN)
            if timeout > 0 and not poll.poll(timeout * 1000):
                raise RunUnresponsive(f"init of run `{self.run_id}` was killed and is not gone after {timeout:g} s")
        finally:
            os.close(init)

    @contextmanager
    def _call(self) -> Iterator[Line]:
        try:
            directory = open_place(self._place, self.uid)
        except OSError:
            raise RunGone(f"run `{self.run_id}` has ended") from None
        try:
            try:
                line = Line(Found(facts=self._facts, directory=directory))
            except (FileNotFoundError, ConnectionRefusedError):
                raise RunGone(f"run `{self.run_id}` has ended") from None
            except BlockingIOError:
                raise self._silent() from None
            except OSError as error:
                raise SandboxError(f"call the supervisor of run `{self.run_id}`: {describe_errno(error.errno or 0)}") from None
            try:
                yield line
            finally:
                line.close()
        finally:
            os.close(directory)

    def _ask(self, line: Line, request: str) -> str:
        line.send(request)
        answer = await_answer(line, ANSWER_S)
        if answer is None:
            raise self._silent()
        if not answer:
            raise RunGone(f"run `{self.run_id}` has ended")
        status, _, rest = answer.partition("\n")
        if status != "ok":
            raise SandboxError(f"{request} run `{self.run_id}`: {rest.strip() or status}")
        return rest

    def _silent(self) -> RunUnresponsive:
        return RunUnresponsive(
            f"the supervisor of run `{self.run_id}`, process {self.pid}, does not answer",
            hint=f"it may be stopped: `kill -CONT {self.pid}`, or `sandbox kill {self.short_id}` to end the run without it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All runs at one moment, each with what it uses, and what else lies where entries should be."""

    runs: tuple[tuple[Running, RunStats], ...]
    strange: tuple[str, ...] = ()


def running(*, all_users: bool = False) -> list[Running]:
    """Return the running sandboxes of this user, the oldest first.

    Args:
        all_users: other users' too, those in the usual directories; for root.

    Raises:
        PermissionError: `all_users`, and the caller is not root.
    """
    found: list[Running] = []
    for place, uid, directory in _open_places(all_users):
        found += [_handle(one.facts, place, uid) for one in scan_place(directory, uid).found]
    return sorted(found, key=lambda run: run.run_id)


def survey(*, all_users: bool = False) -> Survey:
    """Return all runs with what they use; the supervisors are asked at once, so that one that hangs costs a second and no more.

    Args:
        all_users: as for `running`.
    """
    handles: list[Running] = []
    began_ns: list[int] = []
    strange: list[str] = []
    lines: list[Line | None] = []
    gone: set[int] = set()
    try:
        for place, uid, directory in _open_places(all_users):
            scan = scan_place(directory, uid)
            strange += [os.path.join(place.path, name) for name in scan.strange]
            for one in scan.found:
                line: Line | None = None
                try:
                    line = Line(one)
                except (FileNotFoundError, ConnectionRefusedError):
                    gone.add(len(handles))
                except OSError:
                    pass  # its queue is full, no descriptor is left: nothing can be said of it
                handles.append(_handle(one.facts, place, uid))
                began_ns.append(one.facts.began_ns)
                lines.append(line)
        answers = ask_all(lines, "stats", ANSWER_S)
    finally:
        for line in lines:
            if line is not None:
                line.close()
    runs = []
    for index, (handle, began, answer) in enumerate(zip(handles, began_ns, answers, strict=True)):
        if index in gone or answer == "":
            continue
        runs.append((handle, parse_stats((answer or "").partition("\n")[2], began)))
    return Survey(runs=tuple(sorted(runs, key=lambda pair: pair[0].run_id)), strange=tuple(strange))


def find_runs(words: Sequence[str], among: Iterable[Running]) -> list[Running]:
    """Return the runs that words name: by name, by the whole id, or by the beginning of the id or of its second part.

    Raises:
        SandboxError: a word names none, or more than one.
    """
    runs = list(among)
    found: list[Running] = []
    for word in words:
        exact = [run for run in runs if word in (run.run_id, run.short_id)] or [run for run in runs if run.name == word]
        matches = exact or [run for run in runs if word and (run.run_id.startswith(word) or run.short_id.startswith(word))]
        if len(matches) > 1:
            raise SandboxError(f"`{word}` names {len(matches)} runs", hint="one of " + ", ".join(run.short_id for run in matches[:8]))
        if not matches:
            raise SandboxError(f"no run is called `{word}`", hint=_nearest(word, runs))
        if matches[0] not in found:
            found.append(matches[0])
    return found


def _nearest(word: str, runs: Sequence[Running]) -> str:
    from difflib import get_close_matches

    known = [name for run in runs for name in (run.name, run.short_id) if name]
    close = get_close_matches(word, known, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return "see `sandbox ps`" if runs else "nothing is running; see `sandbox ps`"


def _handle(facts: Facts, place: Place, uid: int) -> Running:
    return Running(
        run_id=facts.run_id, name=facts.name, profile=facts.profile, argv=facts.argv, pid=facts.pid, uid=uid, _place=place, _facts=facts
    )


def _open_places(all_users: bool) -> Iterator[tuple[Place, int, int]]:
    """Yield every place that exists and is what it should be, with its owner and a descriptor, which is closed after its turn."""
    own = os.geteuid()
    wanted = [(place, own) for place in list_places(os.environ, own)]
    if all_users:
        if own != 0:
            raise PermissionError(1, "only root sees other users' runs")
        paths = [*glob.glob("/run/user/*/sandbox"), *glob.glob("/tmp/sandbox-*")]
        for path in sorted(paths):
            number = re.search(r"^/run/user/([0-9]+)/sandbox$|^/tmp/sandbox-([0-9]+)$", path)
            if number is not None:
                uid = int(number[1] or number[2])
                wanted.append((Place(path, shared=number[2] is not None), uid))
    seen: set[tuple[int, int]] = set()
    held: list[int] = []
    try:
        for place, uid in wanted:
            try:
                directory = open_place(place, uid)
            except (OSError, SandboxError):
                continue
            held.append(directory)
            status = os.fstat(directory)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield place, uid, directory
    finally:
        for fd in held:
            os.close(fd)


def parse_signal(text: str) -> int:
    """Return a signal's number from ``TERM``, ``SIGTERM`` or ``15``.

    Raises:
        SandboxError: there is no such signal.
    """
    if text.isdecimal() and 0 < int(text) < 65:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        return int(signals.Signals[name])
    except KeyError:
        raise SandboxError(f"no signal is called `{text}`", hint="for example TERM, INT or 15; see `kill -l`") from None


__all__ = ["RunGone", "RunUnresponsive", "Running", "Survey", "find_runs", "parse_signal", "running", "survey"]
