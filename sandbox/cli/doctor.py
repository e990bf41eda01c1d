"""`sandbox doctor`: each feature of this host works, or here is the one command that mends it.

Collects the kernel's findings and adds those of the other floors; words and layout live here, judgements do not. Nothing
but the command line's dispatcher may import this module; it forks, so no library code may.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import textwrap
from pathlib import Path

from sandbox.api.stored import store_path
from sandbox.cgroup.find import controllers_fix, explain_backend, manual_fix
from sandbox.errors import SandboxError
from sandbox.kernel import probe_calls
from sandbox.kernel.probe_deep import probe_deep
from sandbox.kernel.probe_judge import Finding, Need, Status
from sandbox.kernel.probe_userns import apparmor_profile
from sandbox.record import replace
from sandbox.store import open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.cgroup.model import BackendReport

USAGE = """usage: sandbox doctor [--json | --apparmor-profile]

Try every kernel feature that the sandbox uses, and say which work, which are
missing, and the one command that mends each.

  --json               print the findings as JSON
  --apparmor-profile   print the AppArmor profile that lets this installation
                       make user namespaces on Ubuntu 23.10 and later
  -h, --help           print this text

exit status: 0 the profile `strict` can run in full, 1 it runs degraded,
125 it cannot run
"""

_WIDTH = 80
_NAME_WIDTH = 18
_STATUS_WIDTH = 9
_COMMANDS = frozenset({"sudo", "sandbox", "docker", "podman", "lxc", "pip", "systemd-nspawn", "flatpak-spawn"})
_LIMITS = frozenset({"memory", "processes", "cpu"})
_SHARES = frozenset({"cpus", "cpu-weight", "cpuset", "io"})
_VERDICTS = {
    0: "`strict` can run in full",
    1: "`strict` runs degraded: the lines marked * say how",
    125: "nothing can run: the lines marked ! say why",
}


def run(argv: list[str]) -> int:
    """Run the command with the arguments after ``doctor``; return its exit status: 0 full, 1 degraded, 125 impossible or misused."""
    if argv in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    if argv == ["--apparmor-profile"]:
        sys.stdout.write(apparmor_profile(find_executable()))
        return 0
    if argv not in ([], ["--json"]):
        wrong = next((argument for argument in argv if argument not in ("--json", "--apparmor-profile")), " ".join(argv))
        sys.stderr.write(f"error: doctor does not take `{escape_text(wrong)}`\n\nhint: sandbox doctor --help\n")
        return 125
    findings = collect_findings()
    name = os.uname()
    host = {"kernel": name.release, "arch": name.machine, "uid": str(os.geteuid())}
    sys.stdout.write(render_json(findings, host) if argv else render_table(findings, host))
    return grade(findings)


def collect_findings() -> list[Finding]:
    """Return the findings of all floors, the most needed first."""
    executable = find_executable()
    findings = [
        *probe_deep(executable),
        judge_cgroup(report := explain_opened()),
        judge_shares(report, controllers_fix(_SHARES - set(report.provides))),
        judge_executor(executable, native_executor()),
        judge_compiler(probe_calls.libseccomp_version(), importlib.util.find_spec("pyseccomp") is not None),
        judge_store(path := store_path(os.environ), count_entries(path)),
    ]
    return sorted(findings, key=lambda finding: list(Need).index(finding.need))


def grade(findings: Sequence[Finding]) -> int:
    """Return the exit status: 125 when a run's own need is missing, 1 when `strict` would be weaker, else 0."""
    if any(finding.need is Need.EVERY and finding.status is Status.MISSING for finding in findings):
        return 125
    return int(any(_mark(finding) for finding in findings))


def judge_cgroup(report: BackendReport) -> Finding:
    """Turn the cgroup backend's report into a finding (pure)."""
    lost = sorted(_LIMITS - set(report.provides))
    detail, status = f"{report.backend}: {report.reason}", Status.WORKS
    if lost:
        detail = f"{', '.join(lost)} limited by rlimits and sampling: {report.reason}"
        status = Status.DEGRADED
    return Finding(name="cgroup limits", status=status, detail=detail, fix=report.fix, needed_by="limits without a gap", need=Need.STRICT)


def explain_opened() -> BackendReport:
    """Return what `explain_backend` says, and where that is a scope still to be made, make one: only then it is known to work."""
    from sandbox.cgroup.find import find_backend
    from sandbox.cgroup.systemd import ScopeOffer

    report, offer = explain_backend(), find_backend()
    if not isinstance(offer, ScopeOffer):
        return report
    from sandbox.api.scope import close_scopes, open_scope

    try:
        scope = open_scope(offer, "auto")
        return replace(report, provides=tuple(sorted(scope.backend.provides)), reason=f"{report.reason}: made as `{scope.backend.where}`")
    except SandboxError as error:
        reason = f"{report.reason}, which fails: {error.message}" + (f" ({error.hint})" if error.hint else "")
        return replace(report, backend=None, provides=(), reason=reason, fix=manual_fix())
    finally:
        close_scopes()


def judge_shares(report: BackendReport, fix: str) -> Finding:
    """Say which limits on shares of processors and disks can be had (pure).

    Args:
        report: of the backend.
        fix: the command that gets what is missing, where there is one.
    """
    lost = sorted(_SHARES - set(report.provides))
    detail = f"not here: {', '.join(lost)}; a profile that sets one is refused" if lost else ", ".join(sorted(_SHARES))
    status = Status.DEGRADED if lost else Status.WORKS
    return Finding(
        name="hardware shares",
        status=status,
        detail=detail,
        fix=(fix or report.fix) if lost else "",
        needed_by="these limits",
        need=Need.OPTIONAL,
    )


def judge_executor(executable: str, native: Path) -> Finding:
    """Say which executor runs (pure but for the two paths, which come from `find_executable` and `native_executor`)."""
    name, needed_by = "native executor", "fast starts"
    if executable == str(native):
        return Finding(name=name, status=Status.WORKS, detail="sandbox-init is built", needed_by=needed_by)
    detail = "not built: the slower Python executor runs"
    fix = "install gcc and libc6-dev, then install this package again"
    return Finding(name=name, status=Status.DEGRADED, detail=detail, fix=fix, needed_by=needed_by)


def judge_compiler(libseccomp: str | None, binding: bool) -> Finding:
    """Say whether policies can be compiled (pure).

    Args:
        libseccomp: its version; None where it cannot be loaded.
        binding: whether pyseccomp is installed.
    """
    name, needed_by, need = "libseccomp", "compiling a policy that is not cached yet", Need.EVERY
    if libseccomp is None:
        return Finding(
            name=name, status=Status.MISSING, detail="not installed", fix="sudo apt-get install libseccomp2", needed_by=needed_by, need=need
        )
    if not binding:
        return Finding(
            name=name,
            status=Status.MISSING,
            detail="its Python binding is missing",
            fix="pip install pyseccomp",
            needed_by=needed_by,
            need=need,
        )
    old = tuple(int(part) for part in libseccomp.split(".")[:2] if part.isdecimal()) < (2, 5)
    detail = f"{libseccomp}, with pyseccomp" + (": no user notification before 2.5" if old else "")
    fix = "install libseccomp 2.5 or newer" if old else ""
    return Finding(name=name, status=Status.MISSING if old else Status.WORKS, detail=detail, fix=fix, needed_by=needed_by, need=need)


def judge_store(path: str | None, entries: int | None) -> Finding:
    """Say whether prepared launches are stored, and where (pure).

    Args:
        path: where; None for nowhere.
        entries: how many there are; None where the directory cannot be trusted or made.
    """
    name, needed_by = "stored launches", "fast starts of `sandbox exec`"
    if path is None:
        detail = "turned off by SANDBOX_CACHE, or neither XDG_CACHE_HOME nor HOME is a path"
        return Finding(name=name, status=Status.MISSING, detail=detail, needed_by=needed_by)
    if entries is None:
        detail, fix = f"`{path}` is not a directory of yours that nobody else can write to", f"`chmod -R go-w {path}`, or set XDG_CACHE_HOME"
        return Finding(name=name, status=Status.DEGRADED, detail=detail, fix=fix, needed_by=needed_by)
    return Finding(name=name, status=Status.WORKS, detail=f"{entries} in `{path}`", needed_by=needed_by)


def count_entries(path: str | None) -> int | None:
    """Return how many launches are stored in a directory, which is made where it is missing; None where that cannot be."""
    directory = open_directory(path)
    if directory is None:
        return None
    try:
        return len(os.listdir(directory))
    finally:
        os.close(directory)


def native_executor() -> Path:
    """Return where the native executor is when it is built."""
    return Path(__file__).resolve().parent.parent / "launch" / "native" / "sandbox-init"


def find_executable() -> str:
    """Return the program that makes the namespaces of a run: the native executor, or this interpreter's real file."""
    native = native_executor()
    return str(native) if os.access(native, os.X_OK) else os.path.realpath(sys.executable)


def render_table(findings: Sequence[Finding], host: dict[str, str]) -> str:
    """Lay the findings out in 80 columns, each fix below its line; text of the host is escaped.

    ``!`` marks what stops every run, ``*`` what weakens `strict`.
    """
    lines = [f"Linux {escape_text(host['kernel'])} {escape_text(host['arch'])}, uid {host['uid']}", ""]
    indent = " " * (2 + _STATUS_WIDTH + _NAME_WIDTH)
    for finding in findings:
        first = f"{_mark(finding) or ' '} {finding.status:<{_STATUS_WIDTH}}{escape_text(finding.name):<{_NAME_WIDTH}}"
        lines += textwrap.wrap(escape_text(finding.detail), _WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
        if finding.status is not Status.WORKS and finding.needed_by:
            lines += textwrap.wrap(f"for: {escape_text(finding.needed_by)}", _WIDTH, initial_indent="    ", subsequent_indent=" " * 9)
        if finding.fix and finding.status is not Status.WORKS:
            lines += wrap_fix(escape_text(finding.fix), "    fix: ", "         ")
    return "\n".join([*lines, "", _VERDICTS[grade(findings)], ""])


def render_json(findings: Sequence[Finding], host: dict[str, str]) -> str:
    """Return the findings as one JSON object, all ASCII."""
    rows = [
        {
            "name": finding.name,
            "status": str(finding.status),
            "need": str(finding.need),
            "detail": finding.detail,
            "fix": finding.fix,
            "needed_by": finding.needed_by,
        }
        for finding in findings
    ]
    verdict = {0: "full", 1: "degraded", 125: "impossible"}[grade(findings)]
    host = {**host, "executable": find_executable()}
    return json.dumps({"schema": 1, "strict": verdict, "host": host, "findings": rows}, indent=2, ensure_ascii=True) + "\n"


def wrap_fix(text: str, first: str, rest: str) -> list[str]:
    """Wrap a sentence as prose, and a command so that it can be pasted."""
    if text.split(" ", 1)[0] in _COMMANDS:
        return wrap_command(text, first, rest)
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)


def wrap_command(text: str, first: str, rest: str) -> list[str]:
    """Wrap a command at spaces to 80 columns, each broken line ending in a backslash so that the whole can be pasted.

    Spaces inside quotes are no place to break, but for the script of a ``sh -c '…'``, where the inner shell joins the lines
    again. A word longer than a line stays whole.
    """
    pieces: list[str] = []
    quote, word, script = "", "", "sh -c '" in text
    for one in text:
        if quote and not (one == " " and script):
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
        elif one == " ":
            pieces.append(word)
            word = ""
            continue
        word += one
    pieces.append(word)
    lines, line = [], first + pieces[0]
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) + 2 > _WIDTH:
            lines.append(line + " \\")
            line = rest + piece
        else:
            line += " " + piece
    return [*lines, line]


def escape_text(text: str) -> str:
    """Make text from the host harmless for a terminal: anything not printable becomes ``\\x1b`` and the like."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii") for one in text)


def _mark(finding: Finding) -> str:
    if finding.status is Status.WORKS or finding.need is Need.OPTIONAL:
        return ""
    return "!" if finding.need is Need.EVERY and finding.status is Status.MISSING else "*"
