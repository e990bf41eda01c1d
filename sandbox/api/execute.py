"""Start a prepared launch, supervise it, and turn what was seen into a `Result`."""

from __future__ import annotations

import errno
import os

from sandbox.api.registered import Registered
from sandbox.api.start import Start, StartGoneError, cgroup_directories
from sandbox.errors import SetupError, describe_errno
from sandbox.launch.shield import SIGNALS
from sandbox.launch.spawn import Launched, spawn
from sandbox.record import dataclass, field
from sandbox.supervise.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from functools import partial
    from typing import Protocol

    from sandbox.api.finish import Finished
    from sandbox.api.prepare import Prepared
    from sandbox.api.sealed import SealedInput
    from sandbox.api.start import Launcher
    from sandbox.audit.sinks import Sink
    from sandbox.cgroup.model import CgroupRun
    from sandbox.launch.idmap import HostId
    from sandbox.plan.build import Request
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.machine_view import MachineState
    from sandbox.supervise.monitor import Monitor
    from sandbox.supervise.notify import NotifyListener
else:
    import _signal as signal  # `signal` makes enumerations of it
    from _functools import partial

    Protocol = object

_TRIES = 10  # whoever was to start it had died, and so on

# What a run needs only after its processes were started is imported then: they take longer to set everything up.


def _null_sink() -> Sink:
    from sandbox.audit.sinks import NullSink

    return NullSink()


@dataclass(slots=True, kw_only=True)
class Streams:
    """Where the standard streams of one run go.

    `stdin` is bytes, a descriptor (borrowed), a file to be made for the run, or None for an empty one. `stdout` and `stderr` are descriptors (borrowed)
    or None to capture.
    With `terminal` the payload has a pty of its own between the descriptors `stdin` and `stdout`; `terminal` is told its master (borrowed) before
    anything moves. `made` makes the payload's ends and the pumps of ours instead, for a run whose streams are known only later; `pipe` makes one pipe.
    """

    stdin: bytes | int | SealedInput | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: Callable[[int], None] | None = None
    made: Callable[[], tuple[tuple[int, int, int], list[Pump]]] | None = None
    pipe: Callable[[], tuple[int, int]] | None = None


@dataclass(slots=True, kw_only=True)
class Hooks:
    """What a front end adds.

    `on_spawn` is called when the processes were started and set themselves up. `watches` are descriptors (borrowed) and what to do when one is
    readable; `Monitor.watch` adds more while the run goes on. `on_start` is called
    when the payload is confined and about to be let go; an exception of either ends the run. `ended_by` says at the end who ended it, of what was watched,
    or nothing. `held` makes of it a run that waits for its command.
    """

    watches: tuple[tuple[int, Callable[[Monitor], None]], ...] = ()
    on_start: Callable[[Monitor], None] | None = None
    on_spawn: Callable[[], object] | None = None
    ended_by: Callable[[], str] | None = None
    sink: Sink = field(default_factory=_null_sink)
    held: Held | None = None


class Held(Protocol):
    """A run that is made before anybody has asked for it.

    Attributes:
        prepared: what was asked for, once it was: the result is told in its words.
    """

    prepared: Prepared | None

    def on_confined(self, monitor: Monitor, cgroup: CgroupRun | None, register: Callable[[Prepared], None]) -> None:
        """Its payload is confined, and waits until somebody calls `Monitor.begin`; `register` makes the entry, before that."""


def execute(prepared: Prepared, streams: Streams, hooks: Hooks, launcher: Launcher | None = None) -> Finished:
    """Run a prepared launch to its end.

    Args:
        prepared: what to run.
        streams: its standard streams.
        hooks: what the front end adds.
        launcher: who starts it; None is this process.

    Raises:
        SandboxError: the sandbox could not be set up; nothing of it is left.
    """
    if prepared.keeping is None:
        return execute_once(prepared, streams, hooks, launcher)
    # What one run writes to is nobody else's: it is never started from a root that others have.
    if not prepared.keeping.path:
        return execute_once(prepared, streams, hooks)
    from sandbox.api.keeping import execute_keeping

    return execute_keeping(prepared, streams, hooks)


def execute_once(prepared: Prepared, streams: Streams, hooks: Hooks, launcher: Launcher | None = None) -> Finished:
    """Do what `execute` does, where what is to be kept is ready."""
    make = Spawned if launcher is None else launcher.open
    if prepared.volumes and prepared.opened is None:
        from sandbox.volumes.opening import open_volumes

        wakes = [fd for fd, _ in hooks.watches]  # a word for a run that waits for a lock ends the waiting
        with open_volumes(prepared.volumes, run_id=prepared.run_id, name=prepared.command.name, wakes=wakes) as opened:
            return execute_once(prepared.with_volumes(opened), streams, hooks, launcher)
    held = -1
    if prepared.image is not None:
        from sandbox.images.lookup import hold_image

        held = hold_image(prepared.image, getattr(prepared.command, "environ", None) or os.environ)
    try:
        for _ in range(_TRIES):
            try:
                return _run(make, prepared, streams, hooks)
            except StartGoneError:
                continue
        return _run(make, prepared, streams, hooks)
    except OSError as error:  # too many open files, no memory for a pipe
        raise SetupError(f"start the sandbox{f' with `{error.filename}`' if error.filename else ''}", error.errno or errno.EIO) from error
    finally:
        if held >= 0:
            os.close(held)


def _run(make: Callable[[Prepared, bool], Start], prepared: Prepared, streams: Streams, hooks: Hooks) -> Finished:
    def listen(fd: int) -> NotifyListener:
        from sandbox.supervise.notify import NotifyListener

        def decision(number: int, args: tuple[int, ...]) -> object:
            from sandbox.seccomp.decide import decide

            return decide(prepared.policy, prepared.arch, number, args)

        emulator = None
        if state is not None:
            from sandbox.supervise.machine_view import Emulator

            emulator = Emulator(state)
        return NotifyListener(
            fd, decide=decision, run_id=prepared.run_id, arch=prepared.arch, sink=hooks.sink, emulator=emulator,  # type: ignore[arg-type]
        )  # fmt: skip

    def attach(master: int) -> list[Pump]:
        assert streams.terminal is not None and isinstance(streams.stdin, int) and streams.stdout is not None
        back = os.dup(master)
        streams.terminal(back)
        return [Pump(streams.stdin, back, close_source=False, close_destination=True), Pump(master, streams.stdout, count=True)]

    def on_start(monitor: Monitor) -> None:
        assert start is not None
        start.confined(monitor.payload_pid)
        if hooks.on_start is not None:
            hooks.on_start(monitor)

    def meanwhile() -> None:
        assert start is not None
        start.meanwhile()
        _import_the_end()

    def adopted(pid: int, stat: bytes) -> None:
        assert start is not None and monitor is not None
        announced = start.announced
        start.adopted(pid, stat)
        if start.announced and not announced and not start.entry.refused:
            monitor.watch(start.entry.fd, start.entry.serve)

    def register(monitor: Monitor, asked: Prepared) -> None:
        assert start is not None
        start.register(asked)
        if not start.entry.refused:
            monitor.watch(start.entry.fd, start.entry.serve)

    # Made before anything that it ends: an exception of a signal handler (KeyboardInterrupt) may come at any moment.
    launched, pumps, held = Launched(), list[Pump](), hooks.held
    start: Start | None = None
    monitor: Monitor | None = None
    state: MachineState | None = None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # it may raise what a handler raises, and has blocked them then, too
            opened = start = make(prepared, held is not None)
            prepared, cgroup, entry = opened.prepared, opened.cgroup, opened.entry
            plan, table = opened.begin(launched, pumps, streams)
            if hooks.on_spawn is not None:
                opened.announce()
                hooks.on_spawn()
            from sandbox.supervise import notify  # noqa: F401  # in time for `listen`
            from sandbox.supervise.monitor import Monitor, Watched

            if prepared.machine is not None:
                from sandbox.api.machine import open_state

                state = open_state(prepared)
            watched = Watched(
                limits=prepared.profile.limits,
                started=opened.started,
                needs_word=opened.needs_word,
                explain=lambda row, error: opened.explain(plan, table, row, error),
                pumps=pumps,
                cgroup=cgroup,
                listen=listen,
                terminal=attach if streams.terminal is not None else None,
                watches=(*hooks.watches, (entry.fd, entry.serve)) if opened.announced and held is None and not entry.refused else hooks.watches,
                on_start=on_start,
                hold=None if held is None else lambda monitor: held.on_confined(monitor, cgroup, partial(register, monitor)),
                sample=prepared.sampled,
                instructions=prepared.profile.measure_instructions,
                served=opened.served,
                parent=opened.parent,
                adopted=adopted,
                go=opened.go,
                discard=opened.discard,
                meanwhile=meanwhile,
                arrived=opened.arrived,
                machine=state,
            )
            outputs = pumps[1:]
            monitor = Monitor(launched, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        collected = monitor.run()
        if held is not None and held.prepared is not None:
            prepared = held.prepared
        entry.drain(monitor)
        for pump in pumps:
            pump.close()
        counted = cgroup.usage() if cgroup is not None else None
        captured = tuple(bytes(pump.captured) if pump.destination < 0 and not streams.terminal else None for pump in outputs)
        stdout, stderr = captured if len(captured) == 2 else (None, None)
        if streams.stdout is not None:
            stdout = None
        if streams.stderr is not None:
            stderr = None
        enforced = cgroup.enforced if cgroup is not None else ()
        from sandbox.api.finish import finish, with_notes

        killed_by = entry.killed_by or (hooks.ended_by() if hooks.ended_by is not None else "")
        finished = finish(prepared, plan, collected, counted, enforced, stdout, stderr, killed_by, opened.tier)
        names = ("standard output", "standard error")
        lost = tuple(f"{name} was lost: {describe_errno(pump.error)}" for name, pump in zip(names, outputs, strict=False) if pump.error)
        standing = ("the files of the machine view stay as they were at the start",) if state is not None and state.stands else ()
        notes = (*lost, *standing, *opened.notes, *([f"not listed by `sandbox ps`: {entry.refused}"] if entry.refused else []))
        if notes:
            from sandbox.record import replace

            finished = replace(with_notes(finished, *notes), lost=lost)
        return finished
    finally:
        try:
            if monitor is not None:
                monitor.close()  # an interrupt may have come before it ran
            for pump in pumps:
                pump.close()
            if monitor is None or launched.pids:
                launched.close()
        finally:
            if start is not None:
                start.close()


def _import_the_end() -> None:
    from sandbox.api import finish  # noqa: F401


class Spawned(Start):
    """A run that this process starts itself, with a janitor."""

    def __init__(self, prepared: Prepared, held: bool = False) -> None:
        self.held = held
        if prepared.backend is not None and not prepared.backend.ready:
            from sandbox.api.prepare import open_backend

            prepared = open_backend(prepared.whole())
        self.prepared = prepared
        self.entry = self._entry = Registered(prepared)
        self._host_id: HostId | None = None
        self._janitor = 0
        self._maps: list[int] = []
        self._locks: list[int] = []
        if prepared.opened is not None:
            self._locks, self.notes = prepared.opened.locks, tuple(prepared.opened.notes)
        try:
            if prepared.as_root:
                from sandbox.launch.idmap import claim_host_id

                self._host_id = claim_host_id()
                if prepared.keeping is not None and prepared.keeping.path:
                    from sandbox.api.keeping import give_to

                    give_to(prepared.keeping.path, prepared.keeping, prepared.run_id, self._host_id.number)
                if prepared.opened is not None:
                    from sandbox.api.volumes import open_maps

                    self._maps = open_maps(prepared.opened, self._host_id.number)
                for owner in prepared.owners:
                    from sandbox.launch.idmap import make_namespace

                    self._maps.append(make_namespace(owner, self._host_id.number))
            if prepared.backend is not None:
                self.cgroup = prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
                self.cgroup.clear_way()
        except BaseException:
            self.close()
            raise
        self.needs_word = prepared.external_map or self.cgroup is not None

    def begin(self, launched: Launched, pumps: list[Pump], streams: Streams) -> tuple[Plan, Table]:
        """See `Start.begin`."""
        prepared, cgroup, entry = self.prepared, self.cgroup, self._entry
        directories = cgroup_directories(cgroup)
        listed = entry.reserve()
        if listed:
            directories += (entry.directory,)
        if prepared.keeping is not None and prepared.keeping.lock >= 0:
            directories += (prepared.keeping.lock,)  # held until the janitor has seen everything dead
        directories += (*self._locks, *self._maps)
        outside_id = self._host_id.number if self._host_id is not None else -1
        plan, table = _find_table(prepared, outside_id, cgroup, entry.names if listed else ())
        children = open_children(pumps, streams, self._host_id)
        try:
            spawn(launched, table, stdio=children, extra=directories, executor=prepared.command.executor, anchor=prepared.anchor)
        finally:
            close_children(children, pumps)
        self._janitor = launched.pid
        if not self.held:
            entry.open(launched.pid)
        return plan, table

    def register(self, asked: Prepared) -> None:
        """See `Start.register`."""
        self._entry.describe(asked)
        self._entry.open(self._janitor)

    def started(self, pid: int) -> None:
        """See `Start.started`."""
        if self.cgroup is not None:
            self.cgroup.make()
        write_id_maps(self.prepared, pid, self._host_id)

    def close(self) -> None:
        """See `Start.close`."""
        cgroup, self.cgroup = self.cgroup, None
        host_id, self._host_id = self._host_id, None
        try:
            if cgroup is not None:
                try:
                    cgroup.remove()
                finally:
                    cgroup.close()
        finally:
            while self._maps:
                os.close(self._maps.pop())
            if host_id is not None:
                host_id.close()
            self._entry.close()  # last: whoever waits for the end of the run is told by it


def open_children(pumps: list[Pump], streams: Streams, host_id: HostId | None) -> tuple[int, int, int]:
    """Open the streams of a run and add ours to `pumps`; return the payload's ends, for `close_children` once they are passed on."""
    children, made = _open_streams(streams)
    pumps += made
    if host_id is not None and streams.terminal is None:
        try:
            # Pipes belong to who made them; `echo >/dev/stderr` opens one anew, which only its owner may.
            for fd in children:
                os.fchown(fd, host_id.number, host_id.number)
        except BaseException:
            close_children(children, pumps)
            raise
    return children


def close_children(children: tuple[int, ...], pumps: list[Pump]) -> None:
    """Close the payload's ends, but for those that a pump keeps."""
    kept = {pump.writer for pump in pumps}
    for fd in children:
        if fd not in kept:
            os.close(fd)


def _find_table(prepared: Prepared, outside_id: int, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> tuple[Plan, Table]:
    found = prepared.find_table(cgroup, entries)
    if found is not None:
        return found
    from sandbox.api.prepare import build_request, inner_argv, uptime_s
    from sandbox.api.tables import build_table, generalize, name_run
    from sandbox.record import replace

    whole = prepared.whole()

    def request() -> Request:
        return build_request(whole, outside_id=outside_id, cgroup=cgroup, entries=entries)

    kept = whole.kept
    if kept is None:
        return _make_table(request(), whole.run_id)
    # A root run's id is in no table: the maps are written from outside.
    variant = ("spawned", bool(entries), uptime_s(whole))
    made = kept.find(variant, lambda: build_table(generalize(request(), whole.run_id)))
    data = kept.fill(variant, made, whole.command.files, inner_argv(whole), whole.environment)
    return made[0], replace(made[1], data=name_run(data, whole.run_id))


def _make_table(request: Request, run_id: str) -> tuple[Plan, Table]:
    from sandbox.api.tables import make_table

    return make_table(request, run_id)


def _open_streams(streams: Streams) -> tuple[tuple[int, int, int], list[Pump]]:
    """Make the payload's ends (for the child, to be closed after the spawn) and the pumps of ours.

    Pipes always, never the caller's own files: through /proc/self/fd a same-uid payload could reopen those for writing.
    """
    if streams.made is not None:
        return streams.made()
    if streams.terminal is not None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return (null, os.dup(null), os.dup(null)), []
    made: list[int] = []
    try:
        pairs = []
        given = streams.stdin
        piped = given is None or isinstance(given, (bytes, int))
        for _ in range(3 if piped else 2):
            pairs.append(os.pipe2(os.O_CLOEXEC) if streams.pipe is None else streams.pipe())
            made += pairs[-1]
        (stdout_r, stdout_w), (stderr_r, stderr_w) = pairs[-2:]
        if given is None or isinstance(given, (bytes, int)):
            stdin_r, stdin_w = pairs[0]
            made.remove(stdin_w)  # its pump's, which may close it at once: interrupted then, we would close another's
            if isinstance(given, int):
                feed = Pump(given, stdin_w, close_source=False, close_destination=True)
            else:
                feed = Pump(-1, stdin_w, data=given or b"", close_destination=True)
        else:
            stdin_r = given.open()
            made.append(stdin_r)
            feed = Pump(-1, -1)  # nothing to move
        out = _make_output(stdout_r, stdout_w, streams.stdout)
        err = _make_output(stderr_r, stderr_w, streams.stderr)
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return (stdin_r, stdout_w, stderr_w), [feed, out, err]


def _make_output(source: int, writer: int, destination: int | None) -> Pump:
    """Return the pump of an output. Where somebody reads along, the payload's closing of it is passed on."""
    if destination is None:
        return Pump(source, -1, count=True, writer=writer)
    return Pump(source, destination, count=True)


def write_id_maps(prepared: Prepared, pid: int, host_id: HostId | None) -> None:
    """Write the maps that the user namespace of a process cannot write itself: root's, and a range."""
    if not prepared.external_map:
        return
    from sandbox.launch.idmap import write_maps, write_range_maps

    profile = prepared.profile
    if host_id is not None:
        write_maps(pid, inside_uid=profile.uid, inside_gid=profile.gid, outside=host_id.number)
    else:
        import pwd

        from sandbox.api.prepare import map_centre

        user = pwd.getpwuid(prepared.host.uid).pw_name
        inside = map_centre(profile)
        write_range_maps(pid, inside_uid=inside[0], inside_gid=inside[1], uid=prepared.host.uid, gid=prepared.host.gid, user=user)


__all__ = ["Hooks", "Spawned", "Streams", "close_children", "execute", "execute_once", "open_children", "write_id_maps"]
