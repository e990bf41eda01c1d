"""A problem package as it was read: what `package.read` makes of files, and everybody judges by.

Types only, and pure; everybody in `sandbox.judge` may import this module, it imports nothing of the judge.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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
        submit_answer: submissions are files with answers, or programs that print them.
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
    submit_answer: bool = False
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


def groups_of(group: Group) -> Iterator[Group]:
    """Yield a group and all below it, outer ones first."""
    pending = [group]
    while pending:
        at = pending.pop()
        yield at
        pending += [each for each in reversed(at.children) if isinstance(each, Group)]


def cases_of(group: Group | Case) -> Iterator[Case]:
    """Yield all cases of a group, or the case, in the order of judging."""
    pending: list[Case | Group] = [group]
    while pending:
        at = pending.pop()
        if isinstance(at, Case):
            yield at
        else:
            pending += reversed(at.children)
