"""Start a prepared launch, supervise it, and turn what was seen into a `Result`."""

from __future__ import annotations

import errno
import os

from sandbox.api.spawned import Spawned
from sandbox.api.start import StartGoneError
from sandbox.api.streams import Streams
from sandbox.errors import SetupError, describe_errno
from sandbox.launch.shield import SIGNALS
from sandbox.launch.spawn import Launched
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
    from sandbox.api.start import Launcher, Start
    from sandbox.audit.sinks import Sink
    from sandbox.cgroup.model import CgroupRun
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
        captured = tuple(pump.captured if pump.destination < 0 and not streams.terminal else None for pump in outputs)
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
        except BaseException:  # another may have come as it was entered; what was done is not done again
            if monitor is not None:
                monitor.close()
            raise
        finally:
            try:
                for pump in pumps:
                    pump.close()
                if monitor is None or launched.pids:
                    launched.close()
            except BaseException:  # an interrupt, before the janitor was seen to
                if monitor is None or launched.pids:
                    launched.close()
                raise
            finally:
                if start is not None:
                    start.close()


def _import_the_end() -> None:
    from sandbox.api import finish  # noqa: F401


__all__ = ["Hooks", "Streams", "execute", "execute_once"]
