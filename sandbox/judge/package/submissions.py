"""Example submissions and what their labels demand: directories, ``submissions.yaml``, and DOMjudge's tags in sources.

Source: Problem package format, ``legacy`` and ``2025-09``, example submissions; DOMjudge manual, expected results.
"""

from __future__ import annotations

import re

from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import shown
from sandbox.judge.package.expected import Entrance, read_submissions_yaml
from sandbox.judge.package.sources import is_junk, is_no_submission, read_files
from sandbox.judge.package.yaml_source import present, read_yaml
from sandbox.judge.problem import Expectation, Format, Submission
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.problem_yaml import Settings

_LEGACY = {
    "accepted": Expectation(source="accepted", permitted=frozenset(("AC",)), or_final=frozenset(("AC",)), use_for_time_limit="lower"),
    "partially_accepted": Expectation(source="partially_accepted", final=frozenset(("AC",)), partial=True),
    "wrong_answer": Expectation(
        source="wrong_answer", permitted=frozenset(("AC", "WA")), required=frozenset(("WA",)), or_final=frozenset(("WA",))
    ),
    "time_limit_exceeded": Expectation(
        source="time_limit_exceeded",
        permitted=frozenset(("AC", "WA", "TLE")),
        required=frozenset(("TLE",)),
        or_final=frozenset(("TLE",)),
        use_for_time_limit="upper",
    ),
    "run_time_error": Expectation(source="run_time_error", required=frozenset(("RTE",)), or_final=frozenset(("RTE",))),
}
_RESULTS = {
    "ACCEPTED": "AC", "CORRECT": "AC", "WRONG-ANSWER": "WA", "NO-OUTPUT": "WA", "TIMELIMIT": "TLE", "TIME-LIMIT-EXCEEDED": "TLE", "RUN-ERROR": "RTE",
    "RUN-TIME-ERROR": "RTE", "COMPILER-ERROR": "CE", "CHECK-MANUALLY": "", "OUTPUT-LIMIT": "OLE", "MEMORY-LIMIT": "MLE",
    "AC": "AC", "WA": "WA", "TLE": "TLE", "RTE": "RTE", "CE": "CE", "OLE": "OLE", "MLE": "MLE",
}  # fmt: skip
_DOMJUDGE = {"compiler_error": "CE", "no_output": "WA", "output_limit": "OLE", "memory_limit": "MLE"}
_UNLABELLED = ("mixed", "multiple")
_DECIDED = ("accepted", "wrong_answer", "time_limit_exceeded", "run_time_error")
_TAG = re.compile(rb"@EXPECTED_(RESULTS|SCORE)@: ([^\n]{0,400})", re.IGNORECASE)
_SCORE = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_MAXIMUM_SUBMISSIONS = 5_000
MAXIMUM_GLOB_STEPS = 1_000_000_000
"""Of all labels on all submissions, and of those that speak of some cases on all cases; no step takes a microsecond."""


def read_submissions(tree: Tree, settings: Settings) -> tuple[Submission, ...]:
    """Return all submissions with their labels, in order of their paths.

    Raises:
        PackageError: one cannot be read, or ``submissions.yaml`` is wrong.
    """
    new = settings.format is Format.V2025_09
    entrances = read_submissions_yaml(tree, settings) if new else []
    details = _entry_points(tree)
    cost = sum(entrance.glob.cost for entrance in entrances)
    letters = 0
    found: list[Submission] = []
    for directory in tree.list("submissions"):
        if directory.trouble is not None:
            raise directory.trouble
        if not directory.directory or is_junk(directory):
            if directory.name != "submissions.yaml" and not directory.name.lower().startswith("readme"):
                tree.warn("submissions are in directories of `submissions`; it is not read", directory.path)
            elif directory.name == "submissions.yaml" and not new:
                tree.warn("is of the format 2025-09; it is not read", directory.path)
            continue
        programs = [entry for entry in tree.list(directory.path) if not is_junk(entry)]
        for entry in programs:
            if is_no_submission(entry, answers=settings.submit_answer):
                tree.warn("is no program; it is not judged", entry.path)
                continue
            files, _ = read_files(tree, entry, settings.constants)
            if not files:
                tree.warn("submission without files", entry.path)
                continue
            name = f"{directory.name}/{entry.name}"
            letters += len(name)
            if len(found) >= _MAXIMUM_SUBMISSIONS or letters * cost > MAXIMUM_GLOB_STEPS:
                raise PackageError("read submissions: more of them, or of labels, than will be read", origin=tree.place("submissions"))
            found.append(_label(tree, settings, Submission(name=name, files=files), entrances, details))
        if programs and not any(each.expectations for each in found if each.name.startswith(f"{directory.name}/")) and directory.name not in _UNLABELLED:
            tree.warn("is no directory that has a meaning: its submissions have no label", directory.path)
    for entrance in entrances:
        if entrance.line and not any(entrance.glob.matches(each.name) for each in found):
            tree.warn(f"`{shown(entrance.glob.pattern)}` matches no submission", "submissions/submissions.yaml", entrance.line)
    if not any(each.name.startswith("accepted/") for each in found):
        tree.warn("has no accepted submission", "submissions")
    return tuple(found)


def _label(
    tree: Tree, settings: Settings, submission: Submission, entrances: list[Entrance], details: Mapping[str, tuple[str, str]]
) -> Submission:
    directory = submission.name.partition("/")[0]
    path = f"submissions/{submission.name}"
    language, entrypoint = details.get(submission.name, ("", ""))
    expectations: list[Expectation] = []
    for entrance in entrances:
        if entrance.glob.matches(submission.name):
            for mine, theirs, key in ((language, entrance.language, "language"), (entrypoint, entrance.entrypoint, "entrypoint")):
                if mine and theirs and mine != theirs:
                    tree.warn(f"`{key}` is both `{shown(mine)}` and `{shown(theirs)}`", path)
            language = language or entrance.language
            entrypoint = entrypoint or entrance.entrypoint
            expectations += entrance.expectations
    if settings.format is not Format.V2025_09 and directory in _LEGACY:
        expectations.append(_LEGACY[directory])
    elif directory == "partially_accepted":
        # No directory of 2025-09, but the reference tool takes it.
        expectations.append(_LEGACY[directory])
    if directory == "partially_accepted" and not settings.scoring:
        tree.warn("`partially_accepted` is for problems of type `scoring`", "submissions/partially_accepted")
        expectations = [replace(each, partial=False) for each in expectations]
    if directory in _DOMJUDGE:
        expectations.append(Expectation(source=directory, final=frozenset((_DOMJUDGE[directory],))))
    tag = read_tag(submission.files.items(), tree, path)
    if tag is not None:
        if directory in _DECIDED:
            known = {"accepted": "AC", "wrong_answer": "WA", "time_limit_exceeded": "TLE", "run_time_error": "RTE"}[directory]
            if tag.final != frozenset((known,)):
                tree.warn(f"tag of expected results does not count in `{directory}`", path)
        else:
            expectations.append(tag)
    return replace(submission, language=language, entrypoint=entrypoint, expectations=tuple(expectations))


def read_tag(files: Iterable[tuple[str, bytes]], tree: Tree, path: str) -> Expectation | None:
    """Return what a tag ``@EXPECTED_RESULTS@: WRONG-ANSWER, TIMELIMIT`` or ``@EXPECTED_SCORE@: 42`` demands, None without one."""
    found = [(match[1].upper(), match[2]) for _, data in files for match in _TAG.finditer(data)]
    if not found:
        return None
    if len({kind for kind, _ in found}) != len(found):
        tree.warn("has several tags of expected results; none counts", path)
        return None
    final: frozenset[str] | None = None
    score: tuple[float, float] | None = None
    for kind, text in found:
        words = [word.strip().upper().replace("_", "-") for word in text.decode("utf-8", "replace").split("*/")[0].split(",")]
        if kind == b"SCORE" and len(words) == 1 and _SCORE.fullmatch(words[0]):
            score = float(words[0]), float(words[0])
            continue
        unknown = [word for word in words if word not in _RESULTS]
        if unknown:
            tree.warn(f"tag of expected results has `{shown(unknown[0])}`, which is none", path)
        results = frozenset(_RESULTS[word] for word in words if word in _RESULTS)
        final = results if results and "" not in results else None
    return Expectation(source="tag in the source", final=final, score=score) if final or score else None


def _entry_points(tree: Tree) -> dict[str, tuple[str, str]]:
    """Return (language, entry point) by submission, of DOMjudge's ``submissions.json``. JSON is YAML."""
    path = "submissions.json"
    if tree.missing(path):
        return {}
    found = {}
    for name, node in read_yaml(tree, path)[0].mapping().items():
        details = node.mapping()
        language, entry = present(details, "langid"), present(details, "entry_point")
        found[name.removeprefix("submissions/").rstrip("/")] = (language.text() if language else "", entry.text() if entry else "")
    return found
