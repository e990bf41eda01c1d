"""The report for programs. Its keys are described in docs/reference/judge-report.schema.json; `schema` grows when one changes its meaning."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from sandbox.judge.model import Built, CaseResult, GroupResult, PackageResult, SubmissionResult
from sandbox.judge.repeat import measure_determinism
from sandbox.judge.report import FailedPackage, Judged, exit_code

SCHEMA = 1


def render_json(packages: Sequence[Judged]) -> str:
    """Return the report as one JSON object, in ASCII, with a newline at its end."""
    return json.dumps(to_dict(packages), indent=2, allow_nan=False) + "\n"


def to_dict(packages: Sequence[Judged]) -> dict[str, object]:
    """Return the report as plain JSON types; times in nanoseconds, sizes in bytes, null for what is not known."""
    return {
        "schema": SCHEMA,
        "exit": exit_code(tuple(packages)),
        "packages": [package_dict(each) if isinstance(each, PackageResult) else _failed(each) for each in packages],
    }


def _failed(failed: FailedPackage) -> dict[str, object]:
    return {"path": failed.path, "error": {"message": failed.message, "origin": failed.origin, "hint": failed.hint}}


def package_dict(result: PackageResult) -> dict[str, object]:
    """Return the report of one package as plain JSON types."""
    return {
        "problem": result.problem,
        "format": str(result.format),
        "digest": result.digest,
        "ok": result.ok,
        "time_limit_ns": result.time_limit_ns,
        "time_limit_source": result.time_limit_source,
        "upper_limit_ns": result.upper_limit_ns,
        "strict": result.strict,
        "repeat": result.repeat,
        "jobs": result.jobs,
        "runs": result.runs,
        "wall_ns": result.wall_ns,
        "problems": list(result.problems),
        "warnings": list(result.warnings),
        "weaker": list(result.enforced),
        "submissions": [_submission(each, result) for each in result.submissions],
    }


def _submission(each: SubmissionResult, result: PackageResult) -> dict[str, object]:
    return {
        "name": each.name,
        "language": each.language,
        "verdict": None if each.code is None else str(each.code),
        "score": _number(each.score),
        "decided_by": each.decided_by,
        "max_cpu_ns": each.max_cpu_ns,
        "label": {"source": each.label, "ok": each.label_ok, "problems": list(each.label_problems)},
        "sensitive": list(each.sensitive),
        "absent": each.absent,
        "build": None if each.built is None else _built(each.built),
        "determinism": measure_determinism(each, result.time_limit_ns).to_dict() if result.repeat > 1 and not each.absent else None,
        "groups": [_group(group) for group in each.groups],
        "cases": [_case(case) for case in each.cases],
    }


def _built(built: Built) -> dict[str, object]:
    return {
        "verdict": None if built.code is None else str(built.code),
        "cause": built.cause,
        "output": built.output,
        "cached": built.cached,
        "digest": "" if built.program is None else built.program.digest,
    }


def _group(group: GroupResult) -> dict[str, object]:
    return {
        "name": group.name,
        "verdict": None if group.skipped else str(group.code),
        "score": _number(group.score),
        "decided_by": group.decided_by,
        "problems": list(group.problems),
        "skipped": group.skipped,
    }


def _case(case: CaseResult) -> dict[str, object]:
    if case.skipped:
        return {"case": case.case, "verdict": None, "skipped": case.skipped}
    return {
        "case": case.case,
        "verdict": str(case.code),
        "skipped": "",
        "flags": [str(flag) for flag in case.flags],
        "cause": case.cause,
        "cpu_ns": case.cpu_ns,
        "wall_ns": case.wall_ns,
        "own_ns": case.own_ns,
        "memory_bytes": case.memory_bytes,
        "memory_source": case.memory_source,
        "exit_code": case.exit_code,
        "signal": case.signal,
        "score": _number(case.score),
        "multiplier": _number(case.multiplier),
        "validator_exit": case.validator_exit,
        "judge_message": case.judge_message,
        "team_message": case.team_message,
        "denials": dict(sorted(case.denials.items())),
        "evidence": [
            {"limit": fact.limit, "counter": fact.counter, "value": fact.value, "bound": fact.bound, "unit": fact.unit, "hit": fact.hit}
            for fact in case.evidence
        ],
        "near": list(case.near),
        "reruns": [{"verdict": str(code), "cpu_ns": cpu_ns} for code, cpu_ns in case.reruns],
        "passes": case.passes,
        "transcript": list(case.transcript),
        "blame": case.blame,
        "stdout_bytes": case.stdout_bytes,
        "stderr": case.stderr,
        "notes": list(case.notes),
    }


def _number(value: float | None) -> float | None:
    """JSON has no infinity; a score that is none is not known."""
    return value if value is not None and math.isfinite(value) else None


__all__ = ["SCHEMA", "package_dict", "render_json", "to_dict"]
