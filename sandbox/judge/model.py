"""What the rooms of the judge hand to each other: a problem as read, a program as built, a case as judged.

Types only, and pure; everybody in `sandbox.judge` may import this module, it imports nothing of the judge.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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


# ---- a problem package, as read ---------------------------------------------------------------------------------


class Format(StrEnum):
    """Which specification a package follows."""

    LEGACY = "legacy"
    LEGACY_ICPC = "legacy-icpc"
    V2025_09 = "2025-09"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemLimits:
    """The limits of a package, defaults filled in.

    `time_ns` is the time limit that the package states, None where it is to be derived from its own submissions. `ac_to_limit` and `limit_to_tle` are the
    multipliers (legacy: ``time_multiplier`` and ``time_safety_margin``), `resolution_ns` what a derived limit is a multiple of.
    """

    time_ns: int | None = None
    resolution_ns: int = 1_000_000_000
    ac_to_limit: float = 5.0
    limit_to_tle: float = 2.0
    memory_bytes: int = 2048 << 20
    output_bytes: int = 8 << 20
    code_bytes: int = 128 << 10
    compilation_time_ns: int = 60_000_000_000
    compilation_memory_bytes: int = 2048 << 20
    validation_time_ns: int = 60_000_000_000
    validation_memory_bytes: int = 2048 << 20
    validation_output_bytes: int = 8 << 20
    validation_passes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test case.

    Attributes:
        name: path below ``data/`` without suffix, ``secret/group1/01``; unique.
        input: host path of the input, resolved and inside the package (or the stage).
        answer: host path of the answer.
        files: host directory whose contents go into the submission's working directory, or "".
        args: command line arguments of the submission.
        output_validator_flags: words for the output validator, inherited ones included.
        input_validator_flags: likewise.
        input_validator_flags_for: where the package gives flags by the name of the validator: those; validators that are not in it get none.
            None where `input_validator_flags` are for all of them.
        sample: whether it is below ``sample/``.
        full_feedback: whether a contestant may see input, answer and messages.
        output: host path of an output that a validator is tried with (``invalid_output``, ``valid_output``), or "".
    """

    name: str
    input: str
    answer: str
    files: str = ""
    args: tuple[str, ...] = ()
    output_validator_flags: tuple[str, ...] = ()
    input_validator_flags: tuple[str, ...] = ()
    input_validator_flags_for: Mapping[str, tuple[str, ...]] | None = None
    sample: bool = False
    full_feedback: bool = False
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """How the outcomes below a group become one. Legacy keys and those of 2025-09; what a format does not know keeps its default.

    `custom` asks for the package's grader, else `flags` are the default grader's. `minimum` and `maximum` are the legacy ``range``, infinite unless said.
    2025-09: `max_score` (None is unbounded), `aggregation` ``pass-fail``, ``sum`` or ``min``, and `require_pass`, names of groups.
    With a `static_validation_score` the group has one more case, the submission's own files, which the static validator looks at.
    `aggregation` is "" for a legacy group, and says so which of both it is. `scoring` is whether scores are wanted at all.
    """

    scoring: bool = False
    on_reject_break: bool = True
    custom: bool = False
    flags: tuple[str, ...] = ()
    accept_score: float = 1.0
    reject_score: float = 0.0
    minimum: float = float("-inf")
    maximum: float = float("inf")
    max_score: float | None = None
    aggregation: str = ""
    require_pass: tuple[str, ...] = ()
    static_validation_score: float | None = None
    static_validator_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A directory of test data: ``""`` is the root, then ``sample``, ``secret``, ``secret/group1`` …; `children` in the order of judging."""

    name: str
    grading: Grading
    children: tuple[Case | Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a label demands of one submission over the cases that `cases` (a glob with ``*`` and braces; "" is all) matches.

    Attributes:
        source: where it is written: the directory's name, ``submissions.yaml:12``, or ``RESULTS tag``.
        cases: which cases it speaks of.
        permitted: verdicts of which each case must have one, in the package's four words (AC, WA, TLE, RTE), None for any.
        required: verdicts of which at least one case must have one, None for any.
        final: verdicts of which the whole submission must have one, None for any; besides the four words also CE, MLE, OLE themselves.
        or_final: verdicts of the whole with which `permitted` and `required` need not hold, None for none.
        score: inclusive range of the final score, None for any.
        partial: the score must lie strictly between the lowest and the highest possible (legacy ``partially_accepted``).
        message: must be part of a judge's message of at least one case; "" for any.
        use_for_time_limit: ``lower`` (limit must be long enough for it), ``upper`` (it must not pass), or "".
        limit_stated: whether the package says that in so many words, rather than by what it permits.
    """

    source: str
    cases: str = ""
    permitted: frozenset[str] | None = None
    required: frozenset[str] | None = None
    final: frozenset[str] | None = None
    or_final: frozenset[str] | None = None
    score: tuple[float, float] | None = None
    partial: bool = False
    message: str = ""
    use_for_time_limit: str = ""
    limit_stated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A program to be judged, with its label.

    `name` is its path below ``submissions/``; `files` maps names (relative, ``/`` separated) to contents, include files not added yet. `language` and
    `entrypoint` are stated ones, "" else. An empty `expectations` demands nothing.
    """

    name: str
    files: Mapping[str, bytes]
    language: str = ""
    entrypoint: str = ""
    expectations: tuple[Expectation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A program of the package itself: a validator or a grader. As `Submission`; may have scripts ``build`` and ``run``, which `executable` names then.

    `left_out` are files that were not read because a link leads out of the package, with their places.
    """

    name: str
    files: Mapping[str, bytes]
    executable: frozenset[str] = frozenset()
    language: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A package as read: nothing of it has run.

    Attributes:
        name: short name, the directory's.
        root: host directory that was read (a zip's is where it was unpacked).
        scoring: whether submissions get scores.
        interactive: the output validator talks with the submission.
        multi_pass: the validator may ask for another pass.
        custom_output: whether output validators are the package's.
        custom_score: whether they may give scores; a legacy one that may must.
        output_validators: the package's; legacy may have several, all must accept.
        input_validators: all must accept each input.
        grader: the legacy package's own.
        include: per language, files to put beside each submission of it.
        maximise: whether a higher score is better.
        score_range: of the whole, where it is known.
        invalid: validation cases of 2025-09 and legacy ``data/invalid_input``…, by directory name, for `--strict`.
        warnings: what is doubtful in the package but no error, with places.
        digest: SHA-256 over everything that was read, as hex.
    """

    name: str
    title: str = ""
    format: Format
    root: str
    scoring: bool = False
    interactive: bool = False
    multi_pass: bool = False
    custom_output: bool = False
    custom_score: bool = False
    limits: ProblemLimits
    data: Group
    submissions: tuple[Submission, ...] = ()
    output_validators: tuple[Source, ...] = ()
    input_validators: tuple[Source, ...] = ()
    static_validator: Source | None = None
    grader: Source | None = None
    include: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    allow_file_writing: bool = False
    maximise: bool = True
    score_range: tuple[float, float] = (float("-inf"), float("inf"))
    invalid: Mapping[str, tuple[Case, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    digest: str = ""


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
        cpu_ns: user and system time of all processes of the submission, in the largest pass (limits are per pass). Of a dialogue that the validator ended: until
            then.
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
