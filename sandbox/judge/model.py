"""What the rooms of the judge hand to each other: a program as built, a case as judged. The package as it was read is in `problem`.

Types only, and pure; everybody in `sandbox.judge` may import this module, it imports nothing of the judge but `problem`.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.problem import Format
    from sandbox.result import Evidence, Result


class Code(StrEnum):
    """A judge's verdict.

    AC accepted; WA wrong answer; TLE CPU time; WTL wall or idle time; MLE memory; OLE output; RTE ended by a signal; NZE ended with a code other than 0;
    SYS ended by the filter for a system call; CE does not compile; JE the judge or something of the package failed, which is never the contestant's fault.
    """

    AC = "AC"
    WA = "WA"
    TLE = "TLE"
    WTL = "WTL"
    MLE = "MLE"
    OLE = "OLE"
    RTE = "RTE"
    NZE = "NZE"
    SYS = "SYS"
    CE = "CE"
    JE = "JE"


# ---- a program, as built ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Something that can be run in a sandbox.

    Attributes:
        name: for messages.
        language: id in the table of languages.
        directory: host directory with its files, shared read-only at `PROGRAM_DIRECTORY` inside; "" for a command of the system.
        command: words of the command as seen inside; arguments are appended.
        profile: profile that it runs under.
        environment: variables to set.
        volumes: more host paths that it needs, as `sandbox.run` takes them.
        time_factor: what the language's time limit is multiplied with.
        memory_extra_bytes: what the language's runtime needs besides the program's memory.
        processes: threads and processes that its runtime needs.
        accepts: the exit code by which an input validator says that an input is valid.
        rejects: likewise that it is not; None where every other end says so.
        digest: of everything that its files were made of.
    """

    name: str
    language: str
    directory: str
    command: tuple[str, ...]
    profile: str = "judge"
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    time_factor: float = 1.0
    memory_extra_bytes: int = 0
    processes: int = 64
    accepts: int = 42
    rejects: int | None = None
    digest: str = ""


PROGRAM_DIRECTORY = "/judge/program"
"""Where a program's files are inside its sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came of building a program: a `Program`; or `Code.CE` or `Code.JE` with a cause; or a language that is `absent` here.

    `output` is what the compiler printed, untrusted. `cached` is whether nothing had to be compiled.
    """

    name: str
    language: str = ""
    program: Program | None = None
    code: Code | None = None
    absent: str = ""
    cause: str = ""
    output: str = ""
    cached: bool = False
    result: Result | None = None


# ---- a case, as judged ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of one run of a submission. CPU time counts; wall and idle are there to end what does not compute.

    `cpu_ns` is the time limit that the verdict is about; the run is let go on to `cpu_cut_ns`, so that its time may be judged by another limit.
    """

    cpu_ns: int
    cpu_cut_ns: int
    wall_ns: int
    memory_bytes: int
    output_bytes: int
    processes: int = 64
    idle_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The verdict about one submission on one case, with what it rests on.

    Attributes:
        case: the case's name.
        code: the verdict.
        flags: every verdict whose condition held, in the order of precedence, `code` first; empty for AC.
        cause: why, in a person's words.
        failed: a sandbox could not be made, or the validator was late by the clock on the wall: JE for which a busy host may be the reason.
        cpu_ns: user and system time of all processes of the submission, in the largest pass (limits are per pass). Of a dialogue that the validator
            ended: until then.
        wall_ns: from its start to its end, likewise.
        own_ns: of a dialogue: wall time in which it did not wait for the validator, as far as `cpu_ns` counts; None where it is no dialogue.
        memory_bytes: highest use, None where it is not known; `memory_source` says what counted.
        score: what the validator or the case's group gave, None for none.
        multiplier: what the validator wrote to ``score_multiplier.txt``, None for none; grading makes a score of it.
        validator_exit: the output validator's exit code, None where none ran or it did not exit.
        judge_message: the validator's words for judges; `team_message` for contestants. Untrusted text, cut.
        denials: refused system calls by name.
        evidence: counters beside limits, as the sandbox measured them.
        near: limits so near that the next run might get another verdict.
        reruns: verdicts and CPU times of further runs of the same case: near a limit, or because repetition was asked for.
        passes: how many there were.
        transcript: of an interactive case, as lines; see `sandbox.judge.interactive`.
        blame: for an interactive case: who ended it, ``submission``, ``validator`` or "".
        stdout_bytes: bytes of output.
        stderr: the beginning of what the submission printed there, untrusted.
        skipped: the case was not run, and why; `code` means nothing then.
        weaker: what this host enforced or measured less well than was asked for.
    """

    case: str
    code: Code
    flags: tuple[Code, ...] = ()
    cause: str = ""
    failed: bool = False
    cpu_ns: int = 0
    wall_ns: int = 0
    own_ns: int | None = None
    memory_bytes: int | None = None
    memory_source: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    score: float | None = None
    multiplier: float | None = None
    validator_exit: int | None = None
    judge_message: str = ""
    team_message: str = ""
    denials: Mapping[str, int] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    near: tuple[str, ...] = ()
    reruns: tuple[tuple[Code, int], ...] = ()
    passes: int = 1
    transcript: tuple[str, ...] = ()
    blame: str = ""
    stdout_bytes: int = 0
    stderr: str = ""
    skipped: str = ""
    notes: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """What came of a group: one verdict, one score.

    `decided_by` names the case or group that the verdict comes from. `problems` is what the package did wrong there, such as a score out of its own range.
    `skipped` says why nothing of it was judged.
    """

    name: str
    code: Code
    score: float | None = None
    decided_by: str = ""
    problems: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionResult:
    """What came of a submission.

    `label_ok` is None where its label demands nothing or its language is absent; `label_problems` says what did not hold. `sensitive` names other time
    limits within the safety margin under which the verdict would have been another.
    """

    name: str
    language: str = ""
    built: Built | None = None
    code: Code | None = None
    score: float | None = None
    cases: tuple[CaseResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    decided_by: str = ""
    max_cpu_ns: int = 0
    label: str = ""
    label_ok: bool | None = None
    label_problems: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageResult:
    """What came of a package: the limit that was used, every submission, and whether every label holds.

    Attributes:
        upper_limit_ns: to which programs were let run, so that verdicts sensitive to the limit are seen.
        problems: what is wrong with the package itself; `strict` looks for more of it, and counts `warnings` among them.
        repeat: how often each case was run on purpose.
        jobs: how many runs at a time.
        runs: how many runs of submissions there were.
        wall_ns: how long all of it took.
    """

    problem: str
    format: Format
    digest: str
    time_limit_ns: int
    time_limit_source: str
    submissions: tuple[SubmissionResult, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    enforced: tuple[str, ...] = ()
    upper_limit_ns: int = 0
    strict: bool = False
    repeat: int = 1
    jobs: int = 1
    runs: int = 0
    wall_ns: int = 0

    @property
    def absent(self) -> tuple[SubmissionResult, ...]:
        """The submissions that were not judged, because their language is not installed."""
        return tuple(each for each in self.submissions if each.absent)

    @property
    def ok(self) -> bool:
        """Whether every label that could be checked holds and nothing of the package is wrong."""
        return not self.problems and all(each.label_ok is not False for each in self.submissions)
