"""The report for a person: a line for each submission, what is wrong below, then the time limit, what was not judged, and doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sandbox.audit.events import escape_untrusted
from sandbox.judge.model import CaseResult, Code, PackageResult, SubmissionResult
from sandbox.judge.repeat import Determinism, measure_determinism
from sandbox.judge.report import FailedPackage, Judged
from sandbox.judge.report.fit import cut, shorten, shrink, wrap
from sandbox.units import format_size

Paint = Callable[[str, str], str]
"""Gives a text a colour: ``good``, ``bad``, ``doubtful``, ``faint`` or ``title``."""

_CASES = 5
_LINES = 8
_WIDTH = 160
_GAP = 2
_LEAST = {"SUBMISSION": 20, "DECIDED BY": 12, "LABEL": 18}
"""How narrow a column may be made for a terminal; the others are as wide as they are."""
_NARROW = {**_LEAST, "SUBMISSION": 14, "DECIDED BY": 9}
"""Where that is not enough, before a row goes on below."""
_COLOURS = {"good": "32", "bad": "31", "doubtful": "33", "faint": "2", "title": "1"}


def plain(text: str, kind: str) -> str:
    """Return the text as it is."""
    return text


def coloured(text: str, kind: str) -> str:
    """Return the text with a terminal's sequences around it."""
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if text else text


def render_table(packages: Sequence[Judged], paint: Paint = plain, *, verbose: bool = False, width: int | None = None) -> str:
    """Return the report; every line ends in a newline.

    Args:
        packages: in their order.
        paint: colours, or none.
        verbose: a line for each case as well.
        width: columns of the terminal that it goes to, None for none.
    """
    text = "\n".join(_package(each, paint, verbose, width) if isinstance(each, PackageResult) else _failed(each, paint) for each in packages)
    return text if width is None else wrap(text, width)


def _failed(failed: FailedPackage, paint: Paint) -> str:
    lines = [paint(f"{_line(failed.path)}: not judged", "bad"), f"  {_long(failed.message)}"]
    lines += [f"  {_long(line)}" for line in failed.origin.split("\n") if line]
    if failed.hint:
        lines.append(f"  hint: {_long(failed.hint)}")
    return "\n".join(lines) + "\n"


def _package(result: PackageResult, paint: Paint, verbose: bool, width: int | None) -> str:
    parts = [
        _submissions(result, paint, width),
        *(_details(each, paint) for each in result.submissions if needs_details(each)),
        *((_cases(each, paint) for each in result.submissions) if verbose else ()),
        _determinism(result, paint),
        _doubts(result, paint),
        _end(result, paint),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def needs_details(result: SubmissionResult) -> bool:
    """Whether somebody has to look at it: its label does not hold, or the judge or the package failed."""
    return result.label_ok is False or result.code is Code.JE or any(case.code is Code.JE and not case.skipped for case in result.cases)


def cpu_seconds(ns: int) -> str:
    """Return a CPU time as a person compares it."""
    return f"{ns / 1e9:.3f} s"


def score_text(score: float | None) -> str:
    """Return a score without needless digits, "" for none."""
    return "" if score is None else f"{score:.6g}"


def describe_case(case: CaseResult) -> Iterator[str]:
    """Yield what is known of a judged case, the most telling first; harmless for a terminal."""
    memory = f", {format_size(case.memory_bytes)}" if case.memory_bytes is not None else ""
    cause = f": {_line(case.cause)}" if case.cause else ""
    yield f"{_line(case.case)} {case.code}{cause} ({cpu_seconds(case.cpu_ns)} CPU, {cpu_seconds(case.wall_ns)} wall{memory})"
    others = [str(flag) for flag in case.flags if flag is not case.code]
    if others:
        yield f"  also held: {', '.join(others)}"
    if case.validator_exit is not None and case.code in (Code.WA, Code.JE):
        yield f"  validator: exit {case.validator_exit}"
    yield from _block("judge message", case.judge_message)
    yield from _block("team message", case.team_message)
    if case.denials:
        yield "  denied: " + ", ".join(f"{_line(name)} x{count}" for name, count in sorted(case.denials.items())[:20])
    if case.code in (Code.RTE, Code.NZE, Code.JE, Code.SYS):
        yield from _block("stderr", case.stderr)
    if case.blame:
        yield f"  ended by: {_line(case.blame)}"
    if case.transcript:
        yield "  transcript:"
        yield from (f"    {_said(line)}" for line in case.transcript[-_LINES:])
    for note in case.notes:
        yield f"  note: {_line(note)}"


def wrong_cases(result: SubmissionResult) -> list[CaseResult]:
    """Return the cases to look at, the deciding one first, then the others that are not AC."""
    judged = [case for case in result.cases if not case.skipped and case.code is not Code.AC]
    return sorted(judged, key=lambda case: (case.case != result.decided_by, case.code is not Code.JE))


def _submissions(result: PackageResult, paint: Paint, width: int | None) -> list[str]:
    scoring = any(each.score is not None for each in result.submissions)
    titles = ["SUBMISSION", "VERDICT", "DECIDED BY", "SLOWEST", *(["SCORE"] if scoring else []), "LABEL"]
    rows: list[list[str]] = []
    kinds: list[str] = []
    for each in result.submissions:
        label, kind = _label(each)
        verdict = "-" if each.code is None else str(each.code)
        slowest = cpu_seconds(each.max_cpu_ns) if any(not case.skipped for case in each.cases) else "-"
        row = [
            _line(each.name),
            verdict,
            _line(each.decided_by) or "-",
            slowest,
            *([score_text(each.score) or "-"] if scoring else []),
            label,
        ]
        rows.append(row)
        kinds.append(kind)
    lines = [paint(f"{_line(result.problem)} ({result.format})", "title")]
    if not rows:
        return [*lines, "no submissions"]
    widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(titles))]
    if width is not None and sum(widths) + _GAP * (len(widths) - 1) > width:
        rows = [[*row[:-1], _short_label(row, each)] for row, each in zip(rows, result.submissions, strict=True)]
        widths[-1] = min(max(len(row[-1]) for row in [titles, *rows]), _LEAST["LABEL"])
        for bounds in (_LEAST, _NARROW):
            least = [min(size, bounds.get(title, size)) for size, title in zip(widths, titles, strict=True)]
            widths = shrink(widths, least, sum(widths) + _GAP * (len(widths) - 1) - width)
        left = max(_LEAST["LABEL"], width - sum(widths[:-1]) - _GAP * (len(widths) - 1))
        rows = [[*(shorten(text, size) for text, size in zip(row[:-1], widths, strict=False)), cut(row[-1], left)] for row in rows]
    right = {"SLOWEST", "SCORE"}

    def cells(row: Sequence[str]) -> list[str]:
        return [
            text.rjust(width) if title in right else text.ljust(width) for text, width, title in zip(row[:-1], widths, titles, strict=False)
        ]

    lines.append(paint("  ".join([*cells(titles), titles[-1]]), "faint"))
    for row, kind in zip(rows, kinds, strict=True):
        lines.append("  ".join([*cells(row), paint(row[-1], kind)]))
    return lines


def _label(result: SubmissionResult) -> tuple[str, str]:
    if result.absent:
        return f"not judged: {_line(result.absent)}", "doubtful"
    if result.label_ok is None:
        return "no label", "faint"
    word = _line(result.label) or "label"
    return (f"ok ({word})", "good") if result.label_ok else (f"NOT OK ({word})", "bad")


def _short_label(row: Sequence[str], result: SubmissionResult) -> str:
    """Return the label's cell without what the submission's name says already."""
    return row[-1].removesuffix(f" ({result.label})") if result.label and result.name.startswith(f"{result.label}/") else row[-1]


def _details(result: SubmissionResult, paint: Paint) -> list[str]:
    lines = [paint(f"{_line(result.name)}: {'label does not hold' if result.label_ok is False else 'judge error'}", "bad")]
    lines += [f"  {_line(problem)}" for problem in result.label_problems]
    built = result.built
    if built is not None and built.program is None and built.code is not None:
        lines.append(f"  {built.code}: {_line(built.cause)}")
        lines += ["  " + line for line in _block("compiler", built.output)]
    for group in result.groups:
        lines += [f"  group {_line(group.name) or 'of all'}: {_line(problem)}" for problem in group.problems]
    wrong = wrong_cases(result)
    for case in wrong[:_CASES]:
        lines += ["  " + line for line in describe_case(case)]
    if len(wrong) > _CASES:
        lines.append(f"  and {len(wrong) - _CASES} more cases")
    lines += [f"  {_line(text)}" for text in result.sensitive]
    return lines


def _cases(result: SubmissionResult, paint: Paint) -> list[str]:
    lines = [paint(_line(result.name), "title")]
    for case in result.cases:
        if case.skipped:
            lines.append(paint(f"  {_line(case.case)} not run: {_line(case.skipped)}", "faint"))
        elif case.code is Code.AC:
            score = f", score {score_text(case.score)}" if case.score is not None else ""
            lines.append(f"  {_line(case.case)} AC ({cpu_seconds(case.cpu_ns)} CPU, {cpu_seconds(case.wall_ns)} wall{score})")
        else:
            lines += ["  " + line for line in describe_case(case)]
    for group in result.groups:
        score = f", score {score_text(group.score)}" if group.score is not None else ""
        lines.append(f"  group {_line(group.name) or 'of all'}: {'not judged' if group.skipped else group.code}{score}")
    return lines


def _determinism(result: PackageResult, paint: Paint) -> list[str]:
    if result.repeat < 2:
        return []
    lines = [
        paint(
            f"each case {result.repeat} times: CPU time min / median / p95 / max of the case that varied most, verdicts that changed",
            "title",
        )
    ]
    for each in result.submissions:
        found: Determinism = measure_determinism(each, result.time_limit_ns)
        if not found.cases:
            continue
        widest = next(case for case in found.cases if case.case == found.widest)
        times = " / ".join(
            f"{ns / 1e9:.3f}" for ns in (widest.cpu_ns.minimum, widest.cpu_ns.median, widest.cpu_ns.p95, widest.cpu_ns.maximum)
        )
        lines.append(f"  {_line(each.name)}: {times} s at {_line(found.widest)} (p95/median {found.ratio:.2f})")
        for case in found.cases:
            if case.flipped:
                codes = ", ".join(f"{code} x{count}" for code, count in case.codes.items())
                lines.append(paint(f"    {_line(case.case)} flips: {codes}", "bad"))
    return lines


def _doubts(result: PackageResult, paint: Paint) -> list[str]:
    lines = [paint(f"problem: {_line(text)}", "bad") for text in result.problems]
    lines += [paint(f"warning: {_line(text)}", "doubtful") for text in result.warnings]
    for each in result.submissions:
        if not needs_details(each):
            lines += [
                paint(f"warning: `{_line(each.name)}` is sensitive to the time limit: {_line(text)}", "doubtful") for text in each.sensitive
            ]
        near = [case for case in each.cases if case.near and not case.skipped]
        for case in near[:_CASES]:
            runs = ", ".join(f"{code} {cpu_seconds(ns)}" for code, ns in ((case.code, case.cpu_ns), *case.reruns))
            what = ", ".join(_line(word) for word in case.near)
            lines.append(
                paint(f"warning: `{_line(each.name)}` came near a limit at `{_line(case.case)}` ({what}); its runs: {runs}", "doubtful")
            )
        if len(near) > _CASES:
            lines.append(paint(f"warning: `{_line(each.name)}` came near a limit at {len(near) - _CASES} more cases", "doubtful"))
    lines += [paint(f"weaker here: {_long(text)}", "doubtful") for text in result.enforced]
    missing = {each.absent.partition(":")[0]: each.built.cause for each in result.absent if each.built is not None and each.built.cause}
    lines += [f"hint: {_line(language)}: {_long(hint)}" for language, hint in missing.items()]
    return lines


def _end(result: PackageResult, paint: Paint) -> list[str]:
    held = sum(each.label_ok is True for each in result.submissions)
    broken = sum(each.label_ok is False for each in result.submissions)
    free = sum(each.label_ok is None and not each.absent for each in result.submissions)
    counts = [f"{held} of {held + broken} labels hold"]
    if free:
        counts.append(f"{free} without a label")
    if result.absent:
        languages = ", ".join(dict.fromkeys(_line(each.language or "no language that is known") for each in result.absent))
        counts.append(paint(f"{len(result.absent)} not judged (absent: {languages})", "doubtful"))
    if result.problems:
        many = "s" if len(result.problems) > 1 else ""
        counts.append(paint(f"{len(result.problems)} problem{many} of the package", "bad"))
    upper = f", run up to {result.upper_limit_ns / 1e9:g} s" if result.upper_limit_ns > result.time_limit_ns else ""
    return [
        f"time limit {result.time_limit_ns / 1e9:g} s{upper}: {_line(result.time_limit_source)}",
        f"{result.runs} run{'s' if result.runs != 1 else ''} in {result.wall_ns / 1e9:.1f} s, {result.jobs} at a time",
        paint("; ".join(counts), "good" if result.ok and not result.absent else "title"),
    ]


def _block(name: str, text: str) -> Iterator[str]:
    lines = text.strip("\n").split("\n") if text.strip() else []
    if len(lines) == 1:
        yield f"  {name}: {_line(lines[0])}"
    elif lines:
        yield f"  {name}:"
        for line in lines[:_LINES]:
            yield f"    {_line(line.rstrip())}"
        if len(lines) > _LINES:
            yield f"    ({len(lines) - _LINES} more lines)"


def _said(line: str) -> str:
    """Return a transcript's line, whose messages are escaped already: twice, `\\n` would be told from nothing."""
    text = line.replace("…", "...")
    return text[:_WIDTH] if text.isascii() and text.isprintable() else _line(text)


def _line(text: str) -> str:
    return escape_untrusted(text, _WIDTH)


def _long(text: str) -> str:
    return escape_untrusted(text, 4000)


__all__ = ["Paint", "coloured", "cpu_seconds", "describe_case", "needs_details", "plain", "render_table", "score_text", "wrong_cases"]
