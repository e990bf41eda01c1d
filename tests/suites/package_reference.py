"""The reference tools: how a package is given to them, and what they say of submissions.

`verifyproblem` of PyPI's problemtools is the first. It reads a draft of the format 2025-09, and what it leaves out of a package is written down beside its
verdicts. For packages of that format ``bt`` of BAPCtools can be asked in its place, which is made for it. Neither is confined: the packages that `packages.py`
compares are trusted.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MOST_S = 400
"""How long it may take for a package: by its CPU time it would wait for ever for a program that sleeps."""
_MOST_BYTES = 256 << 20

ITS_NAME = "2023-07-draft"
"""What this version of it calls the format 2025-09."""

FOUR = {
    "AC": "AC",
    "WA": "WA",
    "TLE": "TLE",
    "WTL": "TLE",
    "RTE": "RTE",
    "NZE": "RTE",
    "MLE": "RTE",
    "SYS": "RTE",
    "OLE": "RTE",
    "CE": "CE",
    "JE": "JE",
}
"""Our verdicts in the words of the packages, and of the reference tool but for MLE and OLE, which it has and packages have not."""


def four(code: str) -> str:
    """Return a verdict in the packages' words."""
    return FOUR.get(code, code)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the reference tool said of a submission: its verdict, score, and whether it found the label fulfilled.

    A `code` of ``CE`` is a compiler's error, also that of a compiler that is absent, and ``JE`` its own failure to judge; `why` has the reason. An empty one:
    it did not judge it, and why.
    """

    code: str
    score: float | None
    fulfilled: bool
    sensitive: bool = False
    language: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """All that it said of a package: verdicts by submission, its time limit in seconds, why there are none, and what it left out."""

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    seconds: float = 0.0
    limit_s: float | None = None
    trouble: str = ""
    leaves_out: tuple[str, ...] = ()
    given_as: str = ""


_VERDICT = re.compile(
    r"^\s*(?:ERROR |WARNING )?(?P<name>\S+/\S+) \((?P<language>.*?)\) (?P<how>OK|OK with extra time|got|was fully accepted)(?:: | )"
    r"(?P<code>[A-Z]+)(?: \((?P<score>-?[\d.]+)\))?(?: \[(?P<more>.*?)(?:, CPU|\]))?"
)
_SENSITIVE = re.compile(r"WARNING (?P<name>\S+/\S+) \(.*?\) sensitive to time limit")
_NOT_COMPILED = re.compile(r"ERROR Compile error for (?P<name>\S+/\S+) \((?P<language>.*?)\)(?::$| \((?P<why>.*)\)$|$)")
_NOT_JUDGED = re.compile(r"ERROR Submission (?P<name>\S+/\S+) (?P<why>does not match .*?)(?:;|$)")
_LIMIT = re.compile(r"setting timelim to ([\d.]+) secs")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def read_verdicts(text: str) -> dict[str, Verdict]:
    """Read what the reference tool printed."""
    found: dict[str, Verdict] = {}
    sensitive = set()
    lines = _COLOURS.sub("", text).splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if match := _SENSITIVE.search(line):
            sensitive.add(match["name"])
        elif match := _NOT_COMPILED.search(line):
            found[match["name"]] = Verdict("CE", None, False, language=match["language"], why=match["why"] or after.strip())
        elif match := _NOT_JUDGED.search(line):
            found[match["name"]] = Verdict("", None, False, why=match["why"])
        elif (match := _VERDICT.match(line)) and "on sample" not in line:
            score = float(match["score"]) if match["score"] else None
            fulfilled = match["how"].startswith("OK")
            why = match["more"] or "" if match["code"] == "JE" else ""
            found[match["name"]] = Verdict(match["code"], score, fulfilled, match["name"] in sensitive, match["language"], why)
    return found


def read_limit(text: str) -> float | None:
    """Return the time limit that it judged under, in seconds; None where it does not say."""
    match = _LIMIT.search(_COLOURS.sub("", text))
    return float(match[1]) if match else None


def read_trouble(text: str) -> str:
    """Return why it gave no verdict: its first error, or the end of what it printed."""
    lines = [line.strip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith(("ERROR", "CRITICAL"))]
    return "; ".join(lines[errors[0] : errors[0] + 3] if errors else lines[-3:])[:300]


def ask_reference(verifyproblem: str, package: Path, place: Path, environment: Mapping[str, str]) -> Said:
    """Run the reference tool on a package.

    Args:
        verifyproblem: its program.
        package: which.
        place: an empty directory, for a copy where it is needed.
        environment: of `make_environment`.
    """
    given, name = make_copy(package, place)
    command = [verifyproblem, "-p", "submissions", "-l", "warning", "--max_additional_info", "3", "--", str(given)]
    text, seconds, late = _run(command, environment, given.parent)
    verdicts = read_verdicts(text)
    return Said(verdicts, seconds, read_limit(text), late or ("" if verdicts else read_trouble(text)), what_it_leaves_out(package), name)


def _run(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> tuple[str, float, str]:
    """Run a tool; return what it printed, the seconds that it took, and that it was ended where it was.

    It sets no limit to the time that a program sleeps, nor to what it writes; so all of it is ended after `MOST_S`, and no file grows beyond `_MOST_BYTES`.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=directory,
        env={**environment, "PYTHONUNBUFFERED": "1"}, start_new_session=True, preexec_fn=_bound,
    )  # fmt: skip
    late = ""
    try:
        text, _ = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        late = f"was ended after {MOST_S} s"
        _end_session(process.pid)
        text, _ = process.communicate()
    return text, time.monotonic() - began, late


def _end_session(session: int) -> None:
    """Kill all processes of a session: programs that talk are in groups of their own."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(each.read_text(errors="replace").rpartition(")")[2].split()[3]) == session:
                os.kill(int(each.parent.name), signal.SIGKILL)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, _MOST_BYTES))


_BT = re.compile(r"^(?P<name>\S+/\S+):\s+(?:(?P<code>AC|WA|TLE|RTE|CE|VC)\s+[\d.]+s @|(?P<why>(?:required|missing)\b.*)|(?P<failed>Build failed|.*compil.*))")
_BT_LIMIT = re.compile(r"using \D*timelimit: ([\d.]+)s")


def read_bt(text: str) -> dict[str, Verdict]:
    """Read what ``bt run`` printed; a verdict whose label does not hold is printed after a line that says why."""
    found: dict[str, Verdict] = {}
    broken: dict[str, str] = {}
    for line in _COLOURS.sub("", text).splitlines():
        if (match := _BT.match(line)) is None:
            continue
        name = match["name"]
        if match["failed"] is not None:
            found.setdefault(name, Verdict("CE", None, False, why=match["failed"]))
        elif match["why"] is not None or "permitted:" in line:
            broken[name] = (match["why"] or line[line.index("permitted:") :]).strip()
        if match["code"] is not None:
            code = "JE" if match["code"] == "VC" else match["code"]
            found[name] = Verdict(code, None, name not in broken)
    return found


def ask_bt(command: Sequence[str], package: Path, environment: Mapping[str, str]) -> Said:
    """Run ``bt run`` on a package as it is, without making test data."""
    text, seconds, late = _run([*command, "run", "--no-bar", "--no-generate", "--jobs", "1"], environment, package)
    verdicts = read_bt(text)
    limit = _BT_LIMIT.search(_COLOURS.sub("", text))
    return Said(verdicts, seconds, float(limit[1]) if limit else None, late or ("" if verdicts else read_trouble(text)))


def make_copy(package: Path, place: Path) -> tuple[Path, str]:
    """Return what is given to the tool, and under which name of the format: a package of 2025-09 as a copy that says `ITS_NAME`.

    The tool takes each file of ``output_validator`` for a program, as in the legacy format; in the copy they are in a directory of their own, which is one.
    """
    text = (package / "problem.yaml").read_text(errors="surrogateescape")
    changed, count = re.subn(r"(?m)^(problem_format_version:\s*)['\"]?2025-09(?:-draft)?['\"]?(?=\s|$)", rf"\g<1>{ITS_NAME}", text)
    if not count:
        return package, ""
    copy = place / package.name
    shutil.copytree(package, copy, ignore=_dangling)
    (copy / "problem.yaml").write_text(changed, errors="surrogateescape")
    validator = copy / "output_validator"
    if validator.is_dir() and any(each.is_file() for each in validator.iterdir()):
        validator.rename(copy / "validator")
        validator.mkdir()
        (copy / "validator").rename(validator / "validator")
    return copy, ITS_NAME


def _dangling(directory: str, names: Sequence[str]) -> list[str]:
    """Return links that lead nowhere; what `copytree` itself calls dangling is any relative link that leads nowhere from here."""
    return [each for each in names if not os.path.exists(os.path.join(directory, each))]


def what_it_leaves_out(package: Path) -> tuple[str, ...]:
    """Return which parts of a package the tool does not read, though verdicts may depend on them."""
    found = []
    data = package / "data"
    if any(data.rglob("test_group.yaml")):
        found.append("`test_group.yaml`")
    if any(path.with_suffix(".in").exists() for path in data.rglob("*.yaml")):
        found.append("options of single cases")
    if (package / "submissions" / "submissions.yaml").exists():
        found.append("`submissions.yaml`")
    if re.search(r"(?m)^constants:", (package / "problem.yaml").read_text(errors="replace")):
        found.append("`constants`")
    return tuple(found)


def make_environment(place: Path) -> tuple[dict[str, str], str]:
    """Return the environment of the tool, and what of its own settings was changed: it wants a JDK of 21, which is not everywhere."""
    environment = dict(os.environ)
    release = _java_release()
    if release is None or release >= 21:
        return environment, ""
    (place / "problemtools").mkdir(parents=True)
    command = f"javac -source {release} -encoding UTF-8 -sourcepath {{path}} -d {{path}} {{files}}"
    (place / "problemtools" / "languages.yaml").write_text(f"java:\n    compile: '{command}'\n")
    return {**environment, "XDG_CONFIG_HOME": str(place)}, f"Java is compiled with `-source {release}`, for that is the JDK here; its own setting is 21"


def _java_release() -> int | None:
    try:
        done = subprocess.run(["javac", "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r"javac (\d+)", done.stdout + done.stderr)
    return int(match[1]) if match else None
