"""`run_package`: a problem package from its path to its result. The command line and graders call it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandbox.judge.building import Builder
from sandbox.judge.cache import open_cache
from sandbox.judge.errors import PackageError
from sandbox.judge.model import PackageResult
from sandbox.judge.package.read import forget_package, read_package
from sandbox.judge.package.stage import open_stage
from sandbox.judge.pipeline.cores import count_cores
from sandbox.judge.pipeline.judging import Judging, Options, choose
from sandbox.judge.pipeline.tools import open_tools
from sandbox.judge.progress import Progress, Stage, Step


def run_package(
    path: str | os.PathLike[str],
    *,
    submissions: str | Sequence[str] = (),
    jobs: int | None = None,
    time_limit: float | None = None,
    strict: bool = False,
    repeat: int = 1,
    cache: bool = True,
    follow: Sequence[str] = (),
    progress: Progress | None = None,
) -> PackageResult:
    """Judge the submissions of a problem package and compare each verdict with its label.

    Args:
        path: a directory, or an archive of one.
        submissions: globs for names below ``submissions/`` (``accepted/*``), file names or directories; empty judges all.
        jobs: how many runs at a time; None is the physical cores that may be used.
        time_limit: seconds, instead of what the package states or what its own submissions make of it.
        strict: check the package as well: inputs by its input validators, what has to be refused; warnings become problems.
        repeat: how often each case is run, to see how times and verdicts vary.
        cache: keep compiled programs, and use kept ones.
        follow: directories outside of the package that its symbolic links may lead to.
        progress: called with a `sandbox.judge.progress.Step` whenever something has happened.

    Raises:
        PackageError: it is no package, or cannot be judged.
        SandboxError: a sandbox could not be made.
        ValueError: `jobs`, `repeat` or `time_limit` is not positive.
    """
    if (jobs is not None and jobs < 1) or repeat < 1 or (time_limit is not None and not 0 < time_limit < 1e6):
        raise ValueError("`jobs`, `repeat` and `time_limit` must be positive")
    options = Options(
        submissions=(submissions,) if isinstance(submissions, str) else tuple(submissions),
        jobs=count_cores() if jobs is None else jobs,
        time_limit_ns=None if time_limit is None else max(1, round(time_limit * 1e9)),
        strict=strict,
        repeat=repeat,
    )
    return judge_package(os.fspath(path), options, progress, cache=cache, follow=follow)


def judge_package(
    path: str, options: Options, progress: Progress | None = None, *, cache: bool = True, follow: Sequence[str] = ()
) -> PackageResult:
    """Judge a package; as `run_package`, with checked options."""
    if progress is not None:
        progress(Step(stage=Stage.READ, text=path))
    problem = read_package(path, follow=follow)
    try:
        choose(problem, options.submissions)
        with open_stage(problem) as staged, Builder(cache=open_cache(os.environ, keep=cache)) as builder, open_tools(staged, builder) as tools:
            return Judging(staged, tools, options, progress).run()
    finally:
        forget_package(problem)


__all__ = ["PackageError", "judge_package", "run_package"]
