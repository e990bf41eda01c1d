"""What a run's denials come to, and the few lines about them that a person reads.

Pure values and text. Every floor above may import this module.
"""

from __future__ import annotations

from sandbox.audit.events import escape_untrusted
from sandbox.errors import describe_errno
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.audit.sinks import SinkReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialCount:
    """The denials of one system call; rule, errno and reason are those of the first.

    `suppressed` of the `count` denials have no record of their own. `rule_file` is empty when no rule of a policy decided.
    """

    syscall: str
    count: int
    suppressed: int = 0
    errno: str = ""
    rule_file: str = ""
    rule_line: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialSummary:
    """All denials of a run, in the order in which each system call was first denied.

    `mismatches` counts refused calls that the policy, asked again, allowed or could not judge: a bug of ours. `interrupted` counts
    callers that were gone before their answer.
    """

    counts: tuple[DenialCount, ...] = ()
    mismatches: int = 0
    interrupted: int = 0

    @property
    def total(self) -> int:
        """How many calls were refused."""
        return sum(entry.count for entry in self.counts)

    @property
    def suppressed(self) -> int:
        """How many of them have no record of their own."""
        return sum(entry.suppressed for entry in self.counts)

    def by_syscall(self) -> dict[str, int]:
        """Return how often each system call was refused, as `Result.denials` holds it."""
        counts: dict[str, int] = {}
        for entry in self.counts:
            counts[entry.syscall] = counts.get(entry.syscall, 0) + entry.count
        return counts


def summary_lines(summary: DenialSummary, log: SinkReport | None = None, *, maximum: int = 8) -> list[str]:
    """Return at most `maximum` short lines about a run's denials; none when there is nothing to say.

    The most frequent calls come first; what does not fit is counted in one last line. Lines are printable ASCII without a newline.

    Args:
        summary: what was denied.
        log: what the sink says about the log, if there is one.
        maximum: how many lines, at least 3.
    """
    notes = _notes(summary, log)
    room = max(maximum - len(notes), 1)
    ranked = sorted(summary.counts, key=lambda entry: -entry.count)
    shown = ranked if len(ranked) <= room else ranked[: room - 1]
    lines = [_line(entry) for entry in shown]
    rest = ranked[len(shown) :]
    if rest:
        lines.append(f"denied {len(rest)} more system calls ({sum(entry.count for entry in rest)})")
    return lines + notes


def _line(entry: DenialCount) -> str:
    text = f"denied {escape_untrusted(entry.syscall, 48)} ({entry.count}): "
    if entry.rule_file:
        text += f"{escape_untrusted(entry.rule_file.rpartition('/')[2], 64)}:{entry.rule_line} "
    return text + (escape_untrusted(entry.reason, 120) or escape_untrusted(entry.errno, 24))


def _notes(summary: DenialSummary, log: SinkReport | None) -> list[str]:
    """The lines that must not be lost in the crowd, at most two."""
    notes: list[str] = []
    if summary.mismatches:
        notes.append(f"bug: {summary.mismatches} refused calls that the policy allows or cannot judge; please report the policy")
    missing = []
    if summary.suppressed:
        missing.append(f"{summary.suppressed} denials are counted but not recorded")
    if log is not None and log.dropped:
        missing.append(f"{log.dropped} records are missing: the log is full")
    if log is not None and log.lost and log.error is not None:
        missing.append(f"{log.lost} records are lost: {describe_errno(log.error)}")
    if missing:
        notes.append("audit log: " + "; ".join(missing))
    return notes
