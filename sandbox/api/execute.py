"""Start a prepared launch, supervise it, and turn what was seen into a `Result`."""

from __future__ import annotations

import errno
import os

from sandbox.api.prepare import Prepared, build_request, cgroup_directories, open_backend, uptime_s
from sandbox.api.registered import Registered
from sandbox.api.tables import ANY_ID, generalize, make_table, name_run
from sandbox.api.usage import make_usage
from sandbox.audit.sinks import NullSink, Sink
from sandbox.audit.summary import DenialSummary
from sandbox.errors import ExecuteError, InternalError, SandboxError, SetupError, describe_errno
from sandbox.launch.idmap import HostId, claim_host_id, write_maps, write_range_maps
from sandbox.launch.spawn import SIGNALS, Launched, spawn
from sandbox.plan.steps import CloneInit, ClonePayload, Execute, InstallFilter, MapIds, MountRoot, Plan, PrivateMounts, SetWorkdir
from sandbox.policy.profile import IdMode
from sandbox.record import dataclass, field, replace
from sandbox.result import Enforcement, Result, Verdict, decode_wait_status
from sandbox.seccomp.decide import decide
from sandbox.supervise.monitor import Monitor, Watched
from sandbox.supervise.notify import NotifyListener
from sandbox.supervise.pump import Pump
from sandbox.verdict import Outcome, classify_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from sandbox.cgroup.model import CgroupRun, CgroupUsage
    from sandbox.plan.build import Request
    from sandbox.plan.codec import Table
    from sandbox.supervise.records import Collected
else:
    import _signal as signal  # `signal` makes enumerations of it

_make_table = make_table


@dataclass(slots=True, kw_only=True)
class Streams:
    """Where the standard streams of one run go.

    `stdin` is bytes, a descriptor (borrowed), or None for an empty one. `stdout` and `stderr` are descriptors (borrowed) or None to capture.
    With `terminal` the payload has a pty of its own between the descriptors `stdin` and `stdout`; `terminal` is told its master (borrowed) before
    anything moves.
    """

    stdin: bytes | int | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: Callable[[int], None] | None = None


@dataclass(slots=True, kw_only=True)
class Hooks:
    """What a front end adds.

    `watches` are descriptors (borrowed) and what to do when one is readable; `Monitor.watch` adds more while the run goes on. `on_start` is called
    when the payload is confined and about to be let go; an exception of either ends the run.
    """

    watches: tuple[tuple[int, Callable[[Monitor], None]], ...] = ()
    on_start: Callable[[Monitor], None] | None = None
    sink: Sink = field(default_factory=NullSink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A result, and what the human's lines are made of: the denials, and output that its destination refused."""

    result: Result
    denials: DenialSummary
    lost: tuple[str, ...] = ()


def execute(prepared: Prepared, streams: Streams, hooks: Hooks) -> Finished:
    """Run a prepared launch to its end.

    Raises:
        SandboxError: the sandbox could not be set up; nothing of it is left.
    """
    host_id: HostId | None = None
    cgroup: CgroupRun | None = None
    prepared = open_backend(prepared)
    entry = Registered(prepared)
    try:
        if prepared.as_root:
            host_id = claim_host_id()
        if prepared.backend is not None:
            cgroup = prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
            cgroup.clear_way()
        finished = _run(prepared, streams, hooks, host_id, cgroup, entry)
        return _with_notes(finished, f"not listed by `sandbox ps`: {entry.refused}") if entry.refused else finished
    except OSError as error:  # too many open files, no memory for a pipe
        raise SetupError(f"start the sandbox{f' with `{error.filename}`' if error.filename else ''}", error.errno or errno.EIO) from error
    finally:
        try:
            if cgroup is not None:
                try:
                    cgroup.remove()
                finally:
                    cgroup.close()
        finally:
            if host_id is not None:
                host_id.close()
            entry.close()  # last: whoever waits for the end of the run is told by it


def _run(
    prepared: Prepared, streams: Streams, hooks: Hooks, host_id: HostId | None, cgroup: CgroupRun | None, entry: Registered
) -> Finished:  # fmt: skip
    directories = cgroup_directories(cgroup)
    outside_id = host_id.number if host_id is not None else -1
    plan, table = _find_table(prepared, outside_id, cgroup, entry.names)

    def on_started(pid: int) -> None:
        if cgroup is not None:
            cgroup.make()
        _write_maps(prepared, pid, host_id)

    def listen(fd: int) -> NotifyListener:
        def decision(number: int, args: tuple[int, ...]) -> object:
            return decide(prepared.policy, prepared.arch, number, args)

        return NotifyListener(fd, decide=decision, run_id=prepared.run_id, arch=prepared.arch, sink=hooks.sink)  # type: ignore[arg-type]

    def attach(master: int) -> list[Pump]:
        assert streams.terminal is not None and isinstance(streams.stdin, int) and streams.stdout is not None
        back = os.dup(master)
        streams.terminal(back)
        return [Pump(streams.stdin, back, close_source=False, close_destination=True), Pump(master, streams.stdout, count=True)]

    # Made before anything that it ends: an exception of a signal handler (KeyboardInterrupt) may come at any moment.
    launched, pumps = Launched(), list[Pump]()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        try:
            if entry.reserve():
                directories += (entry.directory,)
            else:
                plan, table = _find_table(prepared, outside_id, cgroup, ())
            _start(launched, pumps, prepared, streams, table, directories, host_id)
            entry.open(launched.pid)
            watched = Watched(
                limits=prepared.profile.limits,
                started=on_started,
                needs_word=prepared.external_map or cgroup is not None,
                explain=lambda row, error: explain_failure(plan, table, row, error, run_id=prepared.run_id),
                pumps=pumps,
                cgroup=cgroup,
                listen=listen,
                terminal=attach if streams.terminal is not None else None,
                watches=hooks.watches if entry.refused else (*hooks.watches, (entry.fd, entry.serve)),
                on_start=hooks.on_start,
                sample=prepared.sampled,
                instructions=prepared.profile.measure_instructions,
            )
            outputs = pumps[1:]
            monitor = Monitor(launched, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        collected = monitor.run()
        entry.drain(monitor)
        for pump in pumps:
            pump.close()
        counted = cgroup.usage() if cgroup is not None else None
    finally:
        for pump in pumps:
            pump.close()
        launched.close()
    captured = tuple(bytes(pump.captured) if pump.destination < 0 and not streams.terminal else None for pump in outputs)
    stdout, stderr = captured if len(captured) == 2 else (None, None)
    if streams.stdout is not None:
        stdout = None
    if streams.stderr is not None:
        stderr = None
    enforced = cgroup.enforced if cgroup is not None else ()
    finished = _finish(prepared, plan, collected, counted, enforced, stdout, stderr, entry.killed_by)
    names = ("standard output", "standard error")
    lost = tuple(f"{name} was lost: {describe_errno(pump.error)}" for name, pump in zip(names, outputs, strict=False) if pump.error)
    return replace(_with_notes(finished, *lost), lost=lost) if lost else finished


def _with_notes(finished: Finished, *notes: str) -> Finished:
    return replace(finished, result=replace(finished.result, notes=(*finished.result.notes, *notes)))


def _start(
    launched: Launched,
    pumps: list[Pump],
    prepared: Prepared,
    streams: Streams,
    table: Table,
    directories: tuple[int, ...],
    host_id: HostId | None,
) -> None:
    """Open the streams and start the executor; when it raises nothing is left but what `launched` and `pumps` hold."""
    children, made = _open_streams(streams)
    pumps += made
    try:
        if host_id is not None and streams.terminal is None:
            # Pipes belong to who made them; `echo >/dev/stderr` opens one anew, which only its owner may.
            for fd in children:
                os.fchown(fd, host_id.number, host_id.number)
        spawn(launched, table, stdio=children, extra=directories, executor=prepared.command.executor, anchor=prepared.anchor)
    finally:
        for fd in children:
            os.close(fd)


def _find_table(prepared: Prepared, outside_id: int, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> tuple[Plan, Table]:
    def request() -> Request:
        return build_request(prepared, outside_id=outside_id, cgroup=cgroup, entries=entries)

    kept = prepared.kept
    if kept is None:
        return _make_table(request(), prepared.run_id)
    # A root run's id is in no table: the maps are written from outside.
    variant = ("spawned", bool(entries), uptime_s(prepared))
    plan, table = kept.find(variant, lambda: generalize(request(), prepared.run_id))
    return plan, replace(table, data=name_run(kept.fill(variant, table, prepared.command.files), prepared.run_id))


def _open_streams(streams: Streams) -> tuple[tuple[int, int, int], list[Pump]]:
    """Make the payload's ends (for the child, to be closed after the spawn) and the pumps of ours.

    Pipes always, never the caller's own files: through /proc/self/fd a same-uid payload could reopen those for writing.
    """
    if streams.terminal is not None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return (null, os.dup(null), os.dup(null)), []
    made: list[int] = []
    try:
        pairs = []
        for _ in range(3):
            pairs.append(os.pipe2(os.O_CLOEXEC))
            made += pairs[-1]
        (stdin_r, stdin_w), (stdout_r, stdout_w), (stderr_r, stderr_w) = pairs
        if isinstance(streams.stdin, int):
            feed = Pump(streams.stdin, stdin_w, close_source=False, close_destination=True)
        else:
            feed = Pump(-1, stdin_w, data=streams.stdin or b"", close_destination=True)
        out = Pump(stdout_r, -1 if streams.stdout is None else streams.stdout, count=True)
        err = Pump(stderr_r, -1 if streams.stderr is None else streams.stderr, count=True)
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return (stdin_r, stdout_w, stderr_w), [feed, out, err]


def _write_maps(prepared: Prepared, pid: int, host_id: HostId | None) -> None:
    profile = prepared.profile
    if host_id is not None:
        write_maps(pid, inside_uid=profile.uid, inside_gid=profile.gid, outside=host_id.number)
    elif profile.ids is IdMode.RANGE:
        import pwd

        user = pwd.getpwuid(prepared.host.uid).pw_name
        write_range_maps(pid, inside_uid=profile.uid, inside_gid=profile.gid, uid=prepared.host.uid, gid=prepared.host.gid, user=user)


def explain_failure(plan: Plan, table: Table, row: int, error: int, *, run_id: str = ANY_ID) -> SandboxError:
    """Turn (row, errno) into an error in the words of the step it belongs to."""
    if not 0 <= row < len(table.rows):
        return InternalError(f"the executor ran past its table (row {row})", hint="please report this")
    entry = table.rows[row]
    steps = plan.steps()
    step = steps[entry.step]
    place = f"step {entry.step + 1} of {len(steps)}, {step.describe()}".replace(ANY_ID, run_id)
    hint: str | None = None
    match step:
        case Execute(path=path):
            if error == errno.ENOENT and os.path.exists(path):
                hint = "the file's interpreter (its `#!` line, or the dynamic linker) does not exist inside the sandbox"
            elif error == errno.EACCES:
                hint = "the payload's user may not execute it; see `ls -l`"
            return ExecuteError(path, error, step=place, hint=hint)
        # Ubuntu's AppArmor lets the clone pass and refuses what comes after it.
        case CloneInit() | ClonePayload() | MapIds() | PrivateMounts() | MountRoot():
            from sandbox.kernel.probe_userns import gather_userns_facts, userns_refusal_hint
            from sandbox.launch.spawn import executor_command

            hint = userns_refusal_hint(error, gather_userns_facts(executor_command()[0])) or None
        case InstallFilter(listener=True) if error == errno.EBUSY:
            hint = "another seccomp listener is active (nested sandbox?); run with `--no-audit`"
        case SetWorkdir(path=path):
            hint = f"`{path}` is not a directory that the payload's user may enter"
        case _:
            pass
    return SetupError(entry.label.replace(ANY_ID, run_id), error, step=place, hint=hint)


def _finish(
    prepared: Prepared, plan: Plan, collected: Collected, counted: CgroupUsage | None, counted_enforced: tuple[Enforcement, ...],
    stdout: bytes | None, stderr: bytes | None, killed_by: str,
) -> Finished:  # fmt: skip
    usage = make_usage(collected, counted, prepared.backend.name if prepared.backend is not None else "")
    summary = collected.listener.summary() if collected.listener is not None else DenialSummary()
    limits = prepared.profile.limits
    asked = {
        "wall_ns": limits.wall_ns, "cpu_ns": limits.cpu_ns, "idle_ns": limits.idle_ns, "memory_bytes": limits.memory_bytes,
        "processes": limits.processes, "output_bytes": limits.output_bytes,
    }  # fmt: skip
    outcome = Outcome(
        wait_status=collected.wait_status,
        killed_for=collected.killed_for,
        idle_ns=collected.idle_ns,
        usage=usage,
        mapped_file_bytes=collected.sampled_file_bytes if "memory" in prepared.sampled else None,
        killed_by=killed_by,
    )
    judged = classify_outcome(outcome, asked)
    verdict = judged.verdict
    if collected.wait_status is not None and collected.killed_for is None:
        code, number = decode_wait_status(collected.wait_status)
    elif verdict is Verdict.SETUP_FAILED:
        code, number = 125, None  # how the payload ended is not known: the failure is ours
    else:
        code, number = 137, 9
    if not code and verdict is not Verdict.OK:
        code = 137  # it ended by itself, over a limit: no caller may take that for success
    result = Result(
        verdict=verdict,
        cause=judged.cause,
        exit_code=code,
        signal=number,
        usage=usage,
        run_id=prepared.run_id,
        profile=prepared.profile.name,
        profile_digest=prepared.profile.digest,
        policy=prepared.policy.name,
        policy_digest=prepared.policy.digest,
        stdout=stdout,
        stderr=stderr,
        denials=summary.by_syscall(),
        denials_suppressed=summary.suppressed,
        evidence=judged.evidence,
        near_limits=judged.near_limits,
        enforced=(*prepared.enforced, *counted_enforced, *_watched_limits(prepared)),
        notes=(*prepared.notes, *plan.notes),
    )
    return Finished(result=result, denials=summary)


def _watched_limits(prepared: Prepared) -> tuple[Enforcement, ...]:
    limits = prepared.profile.limits
    entries = []
    if limits.wall_ns is not None:
        entries.append(Enforcement(what="wall time", how="supervisor's deadline"))
    if limits.idle_ns is not None:
        entries.append(Enforcement(what="idle time", how="supervisor's deadline, CPU time read then"))
    if limits.output_bytes is not None:
        entries.append(Enforcement(what="output", how="counted by the supervisor"))
    return tuple(entries)


__all__ = ["Finished", "Hooks", "Monitor", "Streams", "Verdict", "execute", "explain_failure"]
