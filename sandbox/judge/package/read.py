"""A problem package as one value, and its snapshot: the face of this room."""

from __future__ import annotations

import hashlib
import math
import os
import re

from sandbox.errors import describe_errno
from sandbox.judge.errors import PackageError
from sandbox.judge.package.archive import is_archive, unpack_archive
from sandbox.judge.package.confine import Tree, shown
from sandbox.judge.package.places import place_of
from sandbox.judge.package.problem_yaml import Settings, read_settings
from sandbox.judge.package.sources import read_include, read_programs
from sandbox.judge.package.stage import open_stage
from sandbox.judge.package.submissions import MAXIMUM_GLOB_STEPS, read_submissions
from sandbox.judge.package.testdata import read_test_data
from sandbox.judge.package.words import Glob
from sandbox.judge.problem import Format, Group, Problem, cases_of, groups_of
from sandbox.record import fields, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox.judge.problem import Expectation, Source, Submission

__all__ = ("forget_package", "open_stage", "read_package")

_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_SECONDS = re.compile(r"\s*([0-9]{1,5}(?:\.[0-9]{1,6})?)\s*", re.ASCII)
_INI_TIME = re.compile(r"^[ \t]*timelimit[ \t]*=[ \t]*['\"]?([0-9]{1,5}(?:\.[0-9]{1,6})?)['\"]?[ \t\r]*$", re.MULTILINE | re.ASCII)
_MAXIMUM_SMALL = 64 << 10


def read_package(path: str, *, follow: Sequence[str] = ()) -> Problem:
    """Return a problem package as read; the paths of its cases are in the package itself.

    Args:
        path: a directory, or a zip archive of one (``.zip``, ``.kpp``), which is unpacked below the cache and removed by `forget_package`, the end of
            `open_stage` or of the process, or by the next command.
        follow: directories outside of the package that its symbolic links may lead to.

    Raises:
        PackageError: it is no package, or one that cannot be judged; with the file and line.
    """
    if not path:  # a variable of a script that is not set; the system would take the working directory
        raise PackageError("open a package: its path is empty")
    try:
        name = os.path.basename(os.path.abspath(path))
    except OSError as error:
        raise PackageError(f"open package `{path}`: the working directory: {error.strerror}") from None
    if is_archive(path):
        name = name.rpartition(".")[0]
        root = unpack_archive(path, name)
        label = path
    else:
        root, label = path, path.rstrip("/") or path
    try:
        with Tree(root, shown=label, follow=follow) as tree:
            return _read(tree, name)
    except BaseException:
        _remove(root)
        raise


def forget_package(problem: Problem) -> None:
    """Remove what `read_package` unpacked of an archive; idempotent, and nothing for a directory. `open_stage` does so too when it ends."""
    _remove(problem.root)


def _remove(root: str) -> None:
    unpacked = place_of(root)
    if unpacked is not None:
        unpacked.remove()


def _read(tree: Tree, name: str) -> Problem:
    settings, text = read_settings(tree)
    limits = settings.limits
    stated = _other_time_limit(tree, settings)
    if stated is not None:
        limits = replace(limits, time_ns=stated)
    if not _NAME.fullmatch(name):
        tree.warn(f"name `{shown(name)}` is not of lowercase letters and digits")
    new = settings.format is Format.V2025_09
    constants = settings.constants
    data, invalid = read_test_data(tree, settings)
    submissions = read_submissions(tree, settings)
    _check_labels(tree, data, submissions)
    old_validators = not tree.missing("input_format_validators") and not new
    input_validators = read_programs(tree, "input_format_validators" if old_validators else "input_validators", constants, inputs=True)
    output_validators = _output_validators(tree, settings)
    graders = () if data.grading.aggregation else read_programs(tree, "graders", constants)
    if len(graders) > 1:
        raise PackageError("package has more than one grader", origin=tree.place("graders"))
    if not graders and any(group.grading.custom for group in groups_of(data)):
        raise PackageError("`grading: custom` needs a program in `graders`", origin=tree.place("graders"))
    static = read_programs(tree, "static_validator", constants, one=True) if new else ()
    if static and settings.submit_answer:
        raise PackageError("a problem of type `submit-answer` cannot have a static validator", origin=tree.place("static_validator"))
    include = read_include(tree, constants)
    problem = Problem(
        name=name,
        title=settings.title,
        format=settings.format,
        root=tree.root,
        scoring=settings.scoring,
        interactive=settings.interactive,
        multi_pass=settings.multi_pass,
        submit_answer=settings.submit_answer,
        custom_output=bool(output_validators),
        custom_score=settings.custom_score,
        limits=limits,
        data=data,
        submissions=submissions,
        output_validators=output_validators,
        input_validators=input_validators,
        static_validator=static[0] if static else None,
        grader=graders[0] if graders else None,
        include=include,
        languages=settings.languages,
        allow_file_writing=settings.allow_file_writing,
        maximise=settings.maximise,
        score_range=_score_range(data, settings),
        invalid=invalid,
        warnings=tuple(tree.warnings),
    )
    return replace(problem, digest=_digest(problem, text))


def _check_labels(tree: Tree, data: Group, submissions: Sequence[Submission]) -> None:
    """Refuse labels that would take hours to be held against the cases."""
    costs = {glob: Glob(glob).cost for each in submissions for glob in {one.cases for one in each.expectations if one.cases}}
    cost = sum(costs[one.cases] for each in submissions for one in each.expectations if one.cases)
    if cost * sum(len(case.name) for case in cases_of(data)) > MAXIMUM_GLOB_STEPS:
        raise PackageError("read labels: more for single cases than will be read", origin=tree.place("submissions/submissions.yaml"))


def _output_validators(tree: Tree, settings: Settings) -> tuple[Source, ...]:
    """Return the package's own output validators, none where the default one judges."""
    new = settings.format is Format.V2025_09
    here, there = ("output_validator", "output_validators") if new else ("output_validators", "output_validator")
    if not tree.missing(there):
        tree.warn(f"in this format output validators are in `{here}`", there)
        if not new and settings.custom_output and tree.missing(here):
            return read_programs(tree, there, settings.constants, one=True)  # as DOMjudge's examples have it
    needed = settings.interactive or settings.multi_pass or settings.custom_output
    if not new and not settings.custom_output:
        if tree.list(here):
            tree.warn("is not used: `validation` is `default`", here)
        return ()
    found = read_programs(tree, here, settings.constants, one=new)
    if needed and not found:
        raise PackageError("package needs an output validator and has none", origin=tree.place(here))
    return found


def _other_time_limit(tree: Tree, settings: Settings) -> int | None:
    """Return the limit that files of other tools state, None where ``problem.yaml`` states one or none does."""
    for path, pattern in ((".timelimit", _SECONDS), ("domjudge-problem.ini", _INI_TIME)):
        if tree.missing(path):
            continue
        text = tree.read(path, _MAXIMUM_SMALL, f"`{path}`").decode("utf-8", "replace")
        found = pattern.fullmatch(text) if pattern is _SECONDS else pattern.search(text)
        if found is None:
            if pattern is _SECONDS:
                tree.warn("states no time limit; it is not read", path)
            continue
        if settings.limits.time_ns is not None:
            tree.warn("is not read: `problem.yaml` states a time limit", path)
            continue
        tree.warn(f"states the time limit, {float(found[1]):g} s; `limits.time_limit` is the place for it", path)
        return max(1, round(float(found[1]) * 1_000_000)) * 1000
    return None


def _score_range(data: Group, settings: Settings) -> tuple[float, float]:
    """Return the lowest and highest score of the whole, infinite where the package does not say."""
    if not settings.scoring:
        return -math.inf, math.inf
    secret = next((each for each in data.children if isinstance(each, Group) and each.name == "secret"), data)
    if secret.grading.aggregation:
        return 0.0, math.inf if secret.grading.max_score is None else secret.grading.max_score
    low, high = data.grading.minimum, data.grading.maximum
    return (secret.grading.minimum, secret.grading.maximum) if (low, high) == (-math.inf, math.inf) else (low, high)


def _digest(problem: Problem, text: bytes) -> str:
    """Return a digest over everything that was read: programs by content, cases by name, size and flags. The stage's adds their content."""
    found = hashlib.sha256()

    def put(*parts: bytes | str) -> None:
        for part in parts:
            raw = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            found.update(b"%d:" % len(raw))
            found.update(raw)

    put(problem.format.value, text)
    for submission in problem.submissions:
        put("submission", submission.name, submission.language, submission.entrypoint, *map(_spell, submission.expectations))
        _put_files(put, submission.files.items())
    for kind, sources in (
        ("output", problem.output_validators),
        ("input", problem.input_validators),
        ("other", tuple(each for each in (problem.grader, problem.static_validator) if each is not None)),
    ):
        for source in sources:
            put(kind, source.name, repr(sorted(source.executable)))
            _put_files(put, source.files.items())
    for language, files in sorted(problem.include.items()):
        put("include", language)
        _put_files(put, files.items())
    for group in groups_of(problem.data):
        put("group", group.name, repr(group.grading))
    for case in (*cases_of(problem.data), *(case for cases in problem.invalid.values() for case in cases)):
        put("case", case.name, repr((case.args, case.output_validator_flags, case.input_validator_flags, case.input_validator_flags_for)))
        put(*(_size(each) if each else "" for each in (case.input, case.answer, case.output)))
    return found.hexdigest()


def _size(path: str) -> str:
    try:
        return str(os.lstat(path).st_size)
    except OSError as error:  # it was taken away meanwhile, or its whole path is longer than the system takes
        raise PackageError(f"read `{shown(path)}`: {describe_errno(error.errno or 0)}") from None


def _spell(expectation: Expectation) -> str:
    """Return all of an expectation as text, the same in every process: the order of a set is not."""
    values = ((each.name, getattr(expectation, each.name)) for each in fields(expectation))
    return repr([(name, sorted(value) if isinstance(value, frozenset) else value) for name, value in values])


def _put_files(put: object, files: Iterable[tuple[str, bytes]]) -> None:
    for name, data in sorted(files):
        put(name, data)  # type: ignore[operator]
