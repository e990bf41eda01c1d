"""What comes of a run: a result from what was seen, an error from a failure record. Only `api.execute` and what starts runs import it."""

from __future__ import annotations

import errno
import os

from sandbox.api.usage import make_usage
from sandbox.audit.summary import DenialSummary
from sandbox.errors import ExecuteError, InternalError, SandboxError, SetupError
from sandbox.record import dataclass, replace
from sandbox.result import Enforcement, Result, Verdict, decode_wait_status
from sandbox.verdict import Outcome, classify_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.prepare import Prepared
    from sandbox.cgroup.model import CgroupUsage
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.records import Collected


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A result, and what the human's lines are made of: the denials, and output that its destination refused."""

    result: Result
    denials: DenialSummary
    lost: tuple[str, ...] = ()


def with_notes(finished: Finished, *notes: str) -> Finished:
    """Return the same with more notes."""
    return replace(finished, result=replace(finished.result, notes=(*finished.result.notes, *notes)))


def explain_failure(plan: Plan, table: Table, row: int, error: int, *, run_id: str = "", executed: str = "") -> SandboxError:
    """Turn (row, errno) into an error in the words of the step it belongs to; `executed` is what a payload that waited was told to execute."""
    from sandbox.api.tables import ANY_ID
    from sandbox.plan.steps import (
        CloneInit,
        ClonePayload,
        Execute,
        ExecuteCommand,
        InstallFilter,
        MapIds,
        MountOverlay,
        MountRoot,
        NewKeyring,
        PrivateMounts,
        SetWorkdir,
    )

    run_id = run_id or ANY_ID
    if not 0 <= row < len(table.rows):
        return InternalError(f"the executor ran past its table (row {row})", hint="please report this")
    entry = table.rows[row]
    steps = plan.steps()
    step = steps[entry.step]
    place = f"step {entry.step + 1} of {len(steps)}, {step.describe()}".replace(ANY_ID, run_id)
    hint: str | None = None
    if isinstance(step, ExecuteCommand):
        step = Execute(path=executed, argv=(), environment=())
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
        case NewKeyring() if error == errno.EDQUOT:
            hint = (
                "a user may have only so many keys (`sysctl kernel.keys.maxkeys`), one for each running sandbox; runs of one `Sandbox` whose policy refuses "
                "keyctl, add_key and request_key share one"
            )
        case MountOverlay() if entry.label.startswith("mount overlay"):
            from sandbox.api.layered import overlay_hint

            hint = overlay_hint(error)
        case SetWorkdir(path=path):
            hint = f"`{path}` is not a directory that the payload's user may enter"
        case _:
            pass
    return SetupError(entry.label.replace(ANY_ID, run_id), error, step=place, hint=hint)


def finish(
    prepared: Prepared, plan: Plan, collected: Collected, counted: CgroupUsage | None, counted_enforced: tuple[Enforcement, ...],
    stdout: bytes | None, stderr: bytes | None, killed_by: str, tier: str,
) -> Finished:  # fmt: skip
    """Return the result of what was seen.

    Args:
        prepared: what was run.
        plan: how.
        collected: facts of the supervisor.
        counted: the cgroup's counters, where there was one.
        counted_enforced: what it enforced.
        stdout: captured.
        stderr: likewise.
        killed_by: who asked for the end, or nothing.
        tier: `Result.launched`.
    """
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
        table_bytes=collected.sampled_table_bytes,
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
        launched=tier,
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
