"""The warm interpreters of one `Sandbox`: which run one can take, how it is told, and what one is made of.

A run fits when the sandbox that a member waits in is the one that the run would have got: same profile, policy, root, limits and variables that count from the
start. What it may have of its own are its command line, input, streams, files, further variables, name, and limits of time and output.
"""

from __future__ import annotations

import os
import threading

from sandbox.abi import uapi
from sandbox.api.call import Call, Changes, read_files
from sandbox.api.pool import Pool
from sandbox.api.pool_member import AHEAD_CPU_S, Member, Order
from sandbox.api.python import encode_program, is_early, parse_program, waiting_argv
from sandbox.api.recipe import hides_something, identify_shared
from sandbox.api.tables import Kept
from sandbox.errors import PolicyError, SandboxError
from sandbox.plan.build_root import mounts_in_shared
from sandbox.plan.root import Tmpfs
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from sandbox.api.pool import PoolStats
    from sandbox.api.prepare import Prepared
    from sandbox.api.python import Python
    from sandbox.api.start import Launcher
    from sandbox.api.streams import Streams
    from sandbox.audit.sinks import Sink
    from sandbox.policy.profile import Limits

_SECOND_NS = 1_000_000_000
_JUDGED = 64


class Interpreters:
    """The warm interpreters of one `Sandbox`; thread-safe.

    Args:
        python: what was asked for.
        prepare: prepares a call of these words with these changes; calls alike are kept.
        launcher: who starts the members; None is this process.
    """

    def __init__(self, python: Python, prepare: Callable[[tuple[str, ...], Changes], Call], launcher: Launcher | None) -> None:
        self._python = python
        self._argv = waiting_argv(python)
        self._prepare = prepare
        self._launcher = launcher if python.mode == "started" else _forks(launcher, python)
        self._base: Prepared | None = None
        self._model: Prepared | None = None
        self._shared: Hashable = None
        self._hides = False
        self._judged: dict[tuple[int, int, int], tuple[Prepared, Prepared, bool]] = {}
        self._lock = threading.Lock()
        self._pool = Pool(python.size, python.memory_bytes, self._build)

    def fill(self) -> None:
        """Begin to make members.

        Raises:
            SandboxError: what they are made of is wrong.
        """
        self._renew(self._prepare(self._argv, Changes()).prepared)
        self._refill()

    def start(
        self, argv: Sequence[str], changes: Changes, streams: Streams, sink: Callable[[], tuple[Sink, bool]], owned: tuple[int, ...]
    ) -> Member | None:
        """Give a run to a member, and return it; None when the run has to be started cold, and then nothing was used.

        Args:
            argv: the command line.
            changes: what the run adds to the settings.
            streams: its streams.
            sink: opens where its denials go.
            owned: descriptors among the streams that are closed at the end.

        Raises:
            SandboxError: as preparing a run does; or the modules cannot be imported, and never could.
        """
        program = parse_program(self._python, argv)
        if program is None:
            self._pool.count_unfit()
            return None
        base = self._prepare(self._argv, Changes()).prepared
        if changes == Changes():
            call = Call(prepared=base, patterns=(), collect_bytes=0)
        else:
            call = self._prepare(self._argv, replace(changes, files=None))
        model = self._renew(base)
        files = read_files(changes.files)
        if self._hides or not self._fits(call.prepared, base, model) or not _files_fit(files, base):
            self._pool.count_unfit()
            self._refill()
            return None
        prepared = call.prepared
        prefix = encode_program(
            program, path=prepared.root.argv0, argv=argv,
            environment=None if prepared.environment == base.environment else dict(prepared.environment), files=files,
        )  # fmt: skip
        call = replace(call, prepared=replace(prepared, command=replace(prepared.command, argv=tuple(argv), files=files)))
        member = self._give(model, call, prefix, streams, sink, owned)
        if member is None:
            self._refill()
        return member

    def _give(
        self, model: Prepared, call: Call, prefix: bytes, streams: Streams, sink: Callable[[], tuple[Sink, bool]], owned: tuple[int, ...]
    ) -> Member | None:
        while True:
            member = self._pool.take()
            if member is None:
                return None
            if member.model is not model:  # another thread has looked at the profile before us, or after
                self._pool.forsake(member)
                return None
            at_once = member.state == "waiting"
            try:
                if member.settle():
                    opened, owns = sink()
                    order = Order(
                        call=call, streams=streams, sink=opened, owns_sink=owns, owned=owned, prefix=prefix, then=self._refill,
                        processors=frozenset(os.sched_getaffinity(0)),
                    )  # fmt: skip
                    if member.take(order):
                        self._pool.found(at_once=at_once)
                        return member
                    if owns:
                        opened.close()
            except BaseException:  # the file for denials cannot be opened, an interrupt: nobody else knows of the member any more
                self._pool.forsake(member)
                raise
            self._pool.lose(member)
            if member.import_failure and not self._pool.stats().built:
                raise SandboxError(
                    f"warm interpreter: import `{member.import_failure}`", hint="`modules` are imported in the sandbox, with what is installed there"
                )

    def _refill(self) -> None:
        if not self._hides:
            self._pool.fill()

    def _renew(self, base: Prepared) -> Prepared:
        """Make members of what is there now, and return it; those that were made of something else go."""
        with self._lock:
            return self._make_model(base)

    def _make_model(self, base: Prepared) -> Prepared:
        before, model = self._base, self._model
        if before is not None and model is not None and before.kept is base.kept:
            return model  # the recipe was looked at, and is what it was
        shared = identify_shared(base)
        if before is not None and model is not None and self._shared == shared and _plain(before) == _plain(base):
            self._base = base
            return model
        self._shared = shared
        self._hides = hides_something(base)
        rlimits = tuple(
            (number, soft + AHEAD_CPU_S, hard + AHEAD_CPU_S) if number == uapi.RLIMIT_CPU else (number, soft, hard)
            for number, soft, hard in base.rlimits
        )
        self._base = base
        model = self._model = replace(base, rlimits=rlimits, kept=Kept())
        self._judged.clear()
        self._pool.renew()
        return model

    def _build(self, on_warm: Callable[[Member], None], on_over: Callable[[Member], None]) -> Member:
        assert self._model is not None
        max_age_ns = round(self._python.max_age * _SECOND_NS)
        return Member(self._model, launcher=self._launcher, max_age_ns=max_age_ns, on_warm=on_warm, on_over=on_over)

    def _fits(self, asked: Prepared, base: Prepared, model: Prepared) -> bool:
        key = (id(asked.root), id(asked.profile), id(model))
        known = self._judged.get(key)
        if known is None:
            if len(self._judged) >= _JUDGED:
                self._judged.clear()
            known = self._judged[key] = (asked, model, _fits(asked, base))  # kept with it, so that the ids stay theirs
        return known[2]

    def stats(self) -> PoolStats:
        """Return the pool's figures."""
        return self._pool.stats()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all members wait."""
        return self._pool.wait(timeout)

    def close(self, *, wait: bool = True) -> None:
        """End all members that nobody has."""
        self._pool.close(wait=wait)
        self._base = self._model = self._launcher = None
        self._judged.clear()


def _forks(launcher: Launcher | None, python: Python) -> Launcher:
    from sandbox.api.forks import Forks
    from sandbox.api.resident import Residents

    if not isinstance(launcher, Residents):
        raise PolicyError("python: mode `forked` needs a server", hint="leave `resident` as it is, or use mode `started`")
    return Forks(launcher, python)


def _plain(prepared: Prepared) -> Prepared:
    """What of a prepared launch decides what the sandbox is."""
    backend = prepared.backend
    return replace(
        prepared, run_id="", kept=None, backend=None, command=replace(prepared.command, argv=(), name="", files={}, environ={}),
        notes=(type(backend).__name__, repr(sorted(vars(backend).items())) if hasattr(backend, "__dict__") else ""),
    )  # fmt: skip


def _fits(asked: Prepared, base: Prepared) -> bool:
    """Whether the sandbox of `base` is the one that `asked` would get."""
    if mounts_in_shared(asked.root):
        return False  # what hides something of the host's may have been lost while it waited
    limits, ours = asked.profile.limits, base.profile.limits
    if ours.wall_ns is not None and (limits.wall_ns is None or limits.wall_ns > ours.wall_ns):
        return False  # init would end it before
    variables, known = dict(asked.environment), dict(base.environment)
    if any(variables.get(name) != known.get(name) and is_early(name) for name in variables.keys() | known.keys()):
        return False

    def free(limits: Limits) -> Limits:
        return replace(limits, wall_ns=ours.wall_ns, idle_ns=ours.idle_ns, output_bytes=ours.output_bytes)

    profile = replace(asked.profile, limits=free(limits), env_set=base.profile.env_set, origins=base.profile.origins)
    alike = replace(asked, profile=profile, environment=base.environment, cgroup_limits=free(asked.cgroup_limits), enforced=base.enforced)
    alike = replace(alike, command=replace(alike.command, profile=base.command.profile))
    return _plain(alike) == _plain(base)


def _files_fit(files: Mapping[str, bytes], base: Prepared) -> bool:
    """Whether an interpreter can make these files itself; what is wrong with them is said by the run that is started cold."""
    if not files:
        return True
    root = base.root
    home = next((entry for entry in root.entries if entry.path == root.workdir), None)
    if not isinstance(home, Tmpfs) or sum(map(len, files.values())) > home.size_bytes // 2 or len(files) > home.inodes // 2:
        return False
    names = set(files)
    for name in files:
        parts = name.split("/")
        if "\0" in name or any(part in ("", ".", "..") or len(part) > 80 for part in parts) or len(parts) > 8:
            return False
        if any("/".join(parts[:count]) in names for count in range(1, len(parts))):
            return False
    return not any(entry.path.startswith(root.workdir + "/") for entry in root.entries)


__all__ = ["Interpreters"]
