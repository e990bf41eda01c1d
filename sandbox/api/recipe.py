"""What a `Sandbox` keeps of a run for the next one like it: the prepared launch and its table.

To prepare is to look at the host: at directories, links, the mount table, sysctls. For a second what was seen is taken as it is; then it is looked at
anew. Not so what the caller itself changes and expects to count at once: profile and policy files, its environment, working directory, ids and resource
limits, the calling thread's priority, and which directories and files it shares. What could not be prepared is never kept.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from resource import getrlimit
from typing import TYPE_CHECKING

from sandbox.api.limits import caller_scheduling
from sandbox.api.prepare import new_run_id
from sandbox.api.recall import SETTLED_NS, source_paths, source_state
from sandbox.api.tables import KEPT_BYTES, Kept, looked_at, placeholder, placeholder_size
from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, Tmpfs
from sandbox.record import replace

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from sandbox.api.call import Call
    from sandbox.api.prepare import Command, Prepared
    from sandbox.api.recall import State
    from sandbox.cgroup.model import Backend

AGE_NS = 1_000_000_000
"""How long what was seen of the host is taken as it was."""

_RECIPES = 64
RLIM_NLIMITS = 16  # asm-generic/resource.h
_Identity = tuple[tuple[str, tuple[int, int, int] | None], ...]


class _Recipe:
    """One kept call, and what shows that it still holds."""

    __slots__ = ("began_ns", "call", "circumstances", "marks", "paths", "shared", "sources", "trees")

    def __init__(
        self, call: Call, began_ns: int, circumstances: tuple[object, ...], given: Sequence[str], marks: Mapping[str, bytes]
    ) -> None:
        self.call = call
        self.began_ns = began_ns
        self.circumstances = circumstances
        self.marks = marks
        prepared = call.prepared
        self.shared = _identify((*given, *_shared_paths(prepared), prepared.root.argv0))
        self.trees = identify_shared(prepared)
        self.paths = source_paths(prepared.profile, prepared.policy)
        state = source_state(self.paths)
        # A file that changed while it was read has a young ctime: good for this run, not for the next.
        self.sources: State | None = None if any(item[4] > time.time_ns() - SETTLED_NS for item in state) else state

    def holds(self, circumstances: tuple[object, ...]) -> bool:
        return (
            time.monotonic_ns() - self.began_ns < AGE_NS
            and self.circumstances == circumstances
            and self.sources == source_state(self.paths)
            and self.shared == _identify(path for path, _ in self.shared)
        )


class Recipes:
    """The kept calls of one `Sandbox`; thread-safe.

    Args:
        by_processors: whether threads on different processors have calls of their own: a program is told of its processors. Warm interpreters are for
            all threads; each run moves to its caller's processors.
    """

    def __init__(self, *, by_processors: bool = True) -> None:
        self._by_processors = by_processors
        self._lock = threading.Lock()
        self._kept: dict[object, _Recipe] = {}

    def find(
        self, key: object, argv: tuple[str, ...], files: Mapping[str, bytes], name: str, given: Sequence[str],
        make: Callable[[Mapping[str, bytes]], Call],
    ) -> Call:  # fmt: skip
        """Return a call like the one that was asked for before, or make it.

        Args:
            key: all that the caller said, but for argv, files and the run's name.
            argv: the command line, of which only the first word decides what is prepared; without NUL.
            files: contents by name.
            name: the run's name, checked already.
            given: paths to share in the caller's words, absolute.
            make: prepares a call with these files.

        Raises:
            SandboxError: as `make`.
        """
        if sum(map(len, files.values())) > KEPT_BYTES:
            return make(files)
        processors = frozenset(os.sched_getaffinity(0)) if self._by_processors else None
        key = (key, argv[0], tuple((file, *_shape(content)) for file, content in files.items()), processors)
        circumstances = _circumstances()
        with self._lock:
            recipe = self._kept.get(key)
        if recipe is None or not recipe.holds(circumstances):
            marks = recipe.marks if recipe is not None else {file: placeholder(content) for file, content in files.items()}
            began = time.monotonic_ns()
            try:
                call = make(marks)
            except PolicyError:
                if not files:
                    raise
                return make(files)  # a limit that the files are just below
            recipe = self._keep(key, recipe, _Recipe(call, began, circumstances, given, marks))
        call = recipe.call
        prepared = call.prepared
        command = prepared.command
        if files or name != command.name or argv != command.argv:
            command = replace(command, name=name, files=files, argv=argv)
        prepared = replace(prepared, run_id=new_run_id(), command=command)
        return type(call)(prepared=prepared, patterns=call.patterns, collect_bytes=call.collect_bytes)

    def begin_anew(self) -> None:
        """In a fork: a thread that is not there may have been in the middle of anything."""
        self._lock = threading.Lock()
        self._kept = {}

    def forget(self) -> None:
        """Keep nothing: the next runs look at the host anew."""
        with self._lock:
            self._kept.clear()

    def _keep(self, key: object, before: _Recipe | None, made: _Recipe) -> _Recipe:
        """Keep a call; where the host looks as it did, the tables of the one before go on to be good."""
        if before is not None and before.shared == made.shared and before.trees == made.trees and _same(before.call, made.call):
            made.call = before.call
        else:
            made.call = replace(made.call, prepared=replace(made.call.prepared, kept=Kept(made.marks, made.trees)))
        with self._lock:
            if len(self._kept) >= _RECIPES and key not in self._kept:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = made
        return made


def _same(before: Call, made: Call) -> bool:
    """Whether two prepared calls are the same but for what each run has of its own."""
    ours, theirs = before.prepared, made.prepared
    return replace(before, prepared=replace(ours, kept=None, run_id="", command=_common(ours))) == replace(
        made, prepared=replace(theirs, run_id="", command=_common(theirs), backend=_same_place(ours.backend, theirs.backend))
    )


def _common(prepared: Prepared) -> Command:
    return replace(prepared.command, name="", argv=prepared.command.argv[:1])


def _same_place(ours: Backend | None, theirs: Backend | None) -> Backend | None:
    """Backends are made anew by each look; those of one place are the same."""
    if ours is not None and type(ours) is type(theirs) and vars(ours) == vars(theirs):
        return ours
    return theirs


def _shape(content: bytes) -> tuple[int, bytes]:
    return placeholder_size(content), looked_at(content)


def _circumstances() -> tuple[object, ...]:
    """Return what a caller may change between two runs and expects to count at once."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    return (_environment(), here, caller_scheduling(), identify_caller())


def identify_caller() -> Hashable:
    """Return what a child has of its caller for good, and a server of who started it: ids, groups and resource limits."""
    return os.getresuid(), os.getresgid(), tuple(os.getgroups()), tuple(map(getrlimit, range(RLIM_NLIMITS)))


def _environment() -> Mapping[str, str]:
    # A copy of the encoded variables costs a tenth of one of the texts.
    data = getattr(os.environ, "_data", os.environ)
    return dict(data)  # both of bytes or both of texts: only compared


def identify_shared(prepared: Prepared) -> Hashable:
    """Return what tells the host's directories and files in a launch's root, what is mounted in them, and the caller from others in their places."""
    sources = tuple(entry.source for entry in prepared.root.entries if isinstance(entry, Bind))
    # As mountinfo spells them, proc_pid_mountinfo(5).
    below = tuple(re.sub(rb"[ \t\n\\]", lambda one: b"\\%03o" % one[0][0], os.fsencode(source)) + b"/" for source in sources)
    try:
        with open("/proc/self/mountinfo", "rb", buffering=0) as file:
            lines = [line.split(b" ", 5) for line in (file.readall() or b"").splitlines()]
    except OSError:
        lines = []
    mounts = tuple((words[0], words[4]) for words in lines if len(words) == 6 and (words[4] + b"/").startswith(below))
    return _identify(sources), mounts, identify_caller()


def hides_something(prepared: Prepared) -> bool:
    """Whether no sandbox may wait with this root. The kernel drops what covers something in a shared tree when the host puts another file there; and who waits
    with a volume would keep others from it.
    """
    if prepared.volumes:
        return True
    trees = tuple(entry.path + "/" for entry in prepared.root.entries if isinstance(entry, Bind) and entry.directory)
    covers = (entry.path for entry in prepared.root.entries if isinstance(entry, Tmpfs) or (isinstance(entry, Bind) and entry.source == "/dev/null"))
    return any(path.startswith(trees) for path in covers)


def _shared_paths(prepared: Prepared) -> tuple[str, ...]:
    return tuple(entry.source for entry in prepared.root.entries if isinstance(entry, Bind) and not entry.source.startswith("/etc/"))


def _identify(paths: Iterable[str]) -> _Identity:
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append((path, (status.st_dev, status.st_ino, status.st_mode)))
        except OSError:
            found.append((path, None))
    return tuple(found)


__all__ = ["AGE_NS", "Recipes", "hides_something", "identify_caller", "identify_shared"]
