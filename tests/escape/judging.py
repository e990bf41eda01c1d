"""The harness of the attacks on the judge: hostile submissions with what is right about each, packages to judge them on, a naive judge, and a look at the host.

A submission is a file or directory of tests/payloads/judge. Its first comments say what it is:

    idea:     what it tries
    problem:  the package that it is judged on, see `PACKAGES`
    expect:   the verdict that is right, `A|B` where the machine decides (which limit is met first)
    naive:    what the judge of tests/payloads/judge/naive.py says instead, which shows that the attack works; `shown` when it prints what is secret,
              `named` the name of a secret variable, `none` when it never gets to say anything, `-` for none
    control:  for `-`: which other test shows it at work; `yama` where ptrace may be restricted
    needs:    `cgroup`, `x86_64`

In the packages answers are random, so that nobody can compute them: accepted means that the attack got through. Only tests of this directory import this.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from escape.support import PAYLOADS, WALL_S, shared_directory

import sandbox
from sandbox.cgroup.find import explain_backend
from sandbox.judge.model import PackageResult, SubmissionResult
from sandbox.result import Result

SUBMISSIONS = PAYLOADS / "judge"
MARK = "judge-mark"
"""In the name of everything that a submission tries to leave somewhere."""
TOOLS = {".c": "gcc", ".cpp": "g++", ".py": "python3", ".rs": "rustc", ".hs": "ghc", ".go": "go", ".pas": "fpc", ".java": "javac"}
_HEADER = re.compile(r"^\s*(?:#|//|--|\{)\s*(idea|problem|expect|naive|control|needs|made): *(.*?)\s*\}?$")
HARD = "hard"
HONEST = "import sys\nprint('wrong')\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile submission and what is right about it."""

    name: str
    path: Path
    idea: str
    problem: str
    expect: tuple[str, ...]
    naive: str = "-"
    control: str = ""
    needs: tuple[str, ...] = ()
    made: str = ""

    @property
    def tool(self) -> str:
        """The program that must be installed to compile or run it."""
        return TOOLS[self.path.suffix] if self.path.is_file() else "python3"


def load_attacks() -> tuple[Attack, ...]:
    """Read the headers of all submissions; a wrong one is an error of the tests."""
    found = []
    for path in sorted(SUBMISSIONS.iterdir()):
        main = path / "__main__.py" if path.is_dir() else path
        if path.name == "naive.py" or not main.exists():
            continue
        header: dict[str, str] = {}
        for line in main.read_bytes().decode("latin-1").splitlines()[:10]:
            if match := _HEADER.match(line):
                header[match[1]] = match[2]
        unknown = [
            code
            for code in header["expect"].split("|")
            if code not in ("AC", "WA", "TLE", "WTL", "MLE", "OLE", "RTE", "NZE", "SYS", "CE", "JE")
        ]
        if unknown or header["problem"] not in PACKAGES:
            raise AssertionError(f"{path}: {unknown or header['problem']} is no verdict or package")
        needs = tuple(header.get("needs", "").split())
        found.append(
            Attack(
                name=path.stem + (path.suffix.replace(".", "_") if path.suffix != ".py" else ""),
                path=path,
                idea=header["idea"],
                problem=header["problem"],
                expect=tuple(header["expect"].split("|")),
                naive=header.get("naive", "-"),
                control=header.get("control", ""),
                needs=needs,
                made=header.get("made", ""),
            )
        )
    return tuple(found)


# ---- packages --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Package:
    """A package below `root`, and the secrets that it was made with."""

    root: Path
    canary: str = ""
    canary_file: Path = Path("/nonexistent")
    tokens: tuple[str, ...] = ()
    number: int = field(default_factory=lambda: secrets.randbelow(1 << 40))

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> Path:
        """Write one file of it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def case(self, name: str, given: str | bytes, answer: str | bytes) -> None:
        """Write one test case."""
        self.write(f"data/{name}.in", given)
        self.write(f"data/{name}.ans", answer)

    def submit(self, name: str, files: Mapping[str, bytes] | bytes) -> None:
        """Write a submission; `name` is its path below submissions/, a directory where it has several files."""
        for inner, content in ({"": files} if isinstance(files, bytes) else files).items():
            self.write(f"submissions/{name}/{inner}".rstrip("/"), content)

    def fill(self, text: bytes) -> bytes:
        """Put the paths into a source that an attacker could only guess."""
        values = {
            b"@PACKAGE@": os.fsencode(self.root),
            b"@CANARY@": os.fsencode(self.canary_file),
            b"@ANSWER_BYTES@": str(_ANSWER_BYTES).encode(),
            b"@NUMBER@": str(self.number).encode(),
        }
        for name, value in values.items():
            text = text.replace(name, value)
        return text


_ANSWER_BYTES = len(f"token-01-{'0' * 32}\n")
_LIMITS = """\
limits:
  time_limit: 0.5
  time_resolution: 0.5
  memory: 128
  output: 1
  compilation_time: 4
  compilation_memory: 512
  validation_time: 2
  code: 512
"""
_IDENTITY = "problem_format_version: 2025-09\nname: {name}\nuuid: 00000000-0000-4000-8000-0000000000{number:02}\nlicense: public domain\n"

CUSTOM = """\
import pathlib
import sys

answer = pathlib.Path(sys.argv[2]).read_text().split()
output = sys.stdin.buffer.read().decode(errors="replace")
feedback = pathlib.Path(sys.argv[3])
(feedback / "judgemessage.txt").write_text("the output was: " + output[:2000])
if output.split() != answer:
    sys.exit(43)
sys.exit(42)
"""

REWRITE = """\
import hashlib
import pathlib
import sys

wanted = pathlib.Path(sys.argv[1]).read_text().split()[1]
sys.exit(42 if hashlib.sha256(sys.stdin.buffer.read().strip()).hexdigest() == wanted else 43)
"""

GUESS = """\
import pathlib
import sys

secret = pathlib.Path(sys.argv[1]).read_text().split()[1]
line = sys.stdin.readline()
sys.exit(42 if line.strip() == secret else 43)
"""


def _token(case: int) -> str:
    return f"token-{case:02}-{secrets.token_hex(16)}"


def _secret(package: Package, cases: int = 2) -> None:
    """Answers are random. Each input holds the answer of the case before it, the first that of the last."""
    tokens = [_token(case) for case in range(1, cases + 1)]
    for index, token in enumerate(tokens):
        package.case(f"secret/{index + 1:02}", f"case {index + 1:02}\n{tokens[index - 1] if cases > 1 else ''}\n", f"{token}\n")
    package.tokens = tuple(tokens)
    table = {f"{index + 1:02}": token for index, token in enumerate(tokens)}
    package.submit("accepted/jury.py", f"import sys\nprint({table!r}[sys.stdin.readline().split()[1]])\n".encode())


def _one(package: Package) -> None:
    """One case, whose input holds nothing."""
    _secret(package, 1)


def _state(package: Package) -> None:
    """Two equal inputs with different answers: right on both is only who knows which time it is."""
    package.case("secret/01", "go\n", "first\n")
    package.case("secret/02", "go\n", "second\n")


def _rewrite(package: Package) -> None:
    """The answer is a preimage of what the input says, so only who changes the input is right."""
    for case in (1, 2):
        package.case(f"secret/{case:02}", f"{HARD} {hashlib.sha256(secrets.token_bytes(32)).hexdigest()}\n", "\n")
    package.write("output_validator/validate.py", REWRITE)


def _custom(package: Package) -> None:
    """A validator in Python that quotes what it was given."""
    _secret(package)
    package.write("output_validator/validate.py", CUSTOM)


def _interactive(package: Package) -> None:
    """A validator that waits for one number, which it says nothing about."""
    package.case("secret/01", f"number {secrets.randbelow(10**18)}\n", "\n")
    package.write("output_validator/validate.py", GUESS)


PACKAGES = {"secret": _secret, "one": _one, "state": _state, "rewrite": _rewrite, "custom": _custom, "interactive": _interactive}


def make_package(kind: str, place: Path, limits: str = _LIMITS) -> Package:
    """Write a package of a kind into a new directory, with a secret file of the caller's beside it."""
    root = place / kind
    root.mkdir(mode=0o755)
    package = Package(root=root, canary=f"canary-{secrets.token_hex(12)}", canary_file=place / "secret-of-the-host.txt")
    package.canary_file.write_text(f"{package.canary}\n")
    package.canary_file.chmod(0o600)
    identity = _IDENTITY.format(name=kind, number=list(PACKAGES).index(kind) if kind in PACKAGES else 99)
    package.write("problem.yaml", identity + ("type: interactive\n" if kind == "interactive" else "") + limits)
    if kind in PACKAGES:
        PACKAGES[kind](package)
    return package


def sources(attack: Attack, package: Package) -> dict[str, bytes] | bytes:
    """Return the files of a submission, filled in and made."""
    if attack.made == "deep":
        return attack.path.read_bytes() + b"x = " + b"(" * 5000 + b")" * 5000 + b"\nprint('wrong')\n"
    if attack.made == "codec":
        return b"# coding: unicode_escape\nprint('wrong')\\x0aprint('token')\n"
    if attack.path.is_dir():
        return {path.name: package.fill(path.read_bytes()) for path in sorted(attack.path.iterdir())}
    return package.fill(attack.path.read_bytes())


# ---- the two judges --------------------------------------------------------------------------------------------------


def judge(package: Package, submissions: str = "*", **options: object) -> PackageResult:
    """Judge a package with the judge of this checkout."""
    from sandbox.judge.packages import run_package

    return run_package(str(package.root), submissions=submissions, **{"jobs": 1, **options})  # type: ignore[arg-type]


GENEROUS_S = 10
"""A time limit for what is no attack on it: how much CPU time a program takes, its start included, hangs on what else the machine does."""


def let_compute(patch: pytest.MonkeyPatch) -> None:
    """Move wall limits far off from time limits: on a busy machine half a second of CPU time takes long, and who asks for it is to be ended for that."""
    patch.setattr("sandbox.judge.running._WALL_EXTRA_NS", 100_000_000_000)


def judge_one(package: Package, name: str, **options: object) -> SubmissionResult:
    """Judge one submission of a package, by its path below submissions/."""
    result = judge(package, name, **options)
    assert [each.name for each in result.submissions] == [name], [each.name for each in result.submissions]
    return result.submissions[0]


def worst_code(result: SubmissionResult) -> str:
    """Return the verdict on a submission: of its first case that is not accepted."""
    assert result.code is not None, f"{result.name} was not judged: {result.absent or result.built}"
    return result.code.value


def judge_naively(package: Package, attack: Attack, place: Path) -> Result:
    """Judge a submission with the naive judge, which is held by one sandbox."""
    inside = Package(root=Path("/package"), canary=package.canary, canary_file=Path("/canary"), tokens=package.tokens)
    made = sources(attack, inside)
    place.mkdir(exist_ok=True)
    hostile = shared_directory(place / "hostile")
    target = hostile / attack.path.name
    if isinstance(made, bytes):
        target.write_bytes(made)
        target.chmod(0o644)
    else:
        shared_directory(target)
        for name, content in made.items():
            (target / name).write_bytes(content)
            (target / name).chmod(0o644)
    shutil.copy(SUBMISSIONS / "naive.py", hostile / "naive.py")
    (hostile / "naive.py").chmod(0o644)
    open_canary = place / "canary-for-the-control"
    open_canary.write_text(package.canary_file.read_text())
    open_canary.chmod(0o644)
    return sandbox.run(
        ["/usr/bin/python3", "-B" if attack.name != "state_bytecode" else "-b", "/hostile/naive.py", f"/hostile/{attack.path.name}"],
        profile="build",
        policy="default",
        volumes=[f"{package.root}:/package", f"{hostile}:/hostile", f"{open_canary}:/canary"],
        env={"JUDGE_SECRET": package.canary, "PYTHONNOUSERSITE": "", "PYTHONDONTWRITEBYTECODE": "1"},
        limits={"wall": WALL_S, "processes": 64, "memory": "512M", "output": "8M", "cpu": 60},
        machine_view="off",
    )


# ---- the host --------------------------------------------------------------------------------------------------------


def _tree(root: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        text = str(status.st_size)
        if path.is_symlink():
            text = os.readlink(path)
        elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 26:
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, text)
    return found


def _marks() -> set[str]:
    """Return what bears the mark in places that everybody can write to, and in the caller's home."""
    places = ["/tmp", "/dev/shm", "/var/tmp", "/dev/mqueue", "/run", os.path.expanduser("~"), "/", os.getcwd()]
    return {f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place) if MARK in name}


def _sysv() -> set[str]:
    return {
        line.split()[1]
        for name in ("shm", "sem", "msg")
        for line in Path(f"/proc/sysvipc/{name}").read_text().splitlines()[1:]
        if "1296126539" in line
    }


@dataclass(slots=True)
class Host:
    """What must be as it was when the judge is done: the package, a file and a process of the caller's, scratch directories, IPC, clock and priorities."""

    package: Package
    cache: Path
    victim: subprocess.Popen[bytes]
    before: dict[str, object] = field(default_factory=dict)

    def look(self) -> dict[str, object]:
        """Return the state of everything."""
        pid = self.victim.pid
        return {
            "package": _tree(self.package.root),
            "secret": (self.package.canary_file.read_text(), self.package.canary_file.stat().st_mode),
            "marks": _marks(),
            "sysv": _sysv(),
            "victim": (
                self.victim.poll(),
                os.getpriority(os.PRIO_PROCESS, pid),
                frozenset(os.sched_getaffinity(pid)),
                os.sched_getscheduler(pid),
            ),
            "own": (os.getpriority(os.PRIO_PROCESS, 0), frozenset(os.sched_getaffinity(0)), os.getsid(0), os.getpgrp()),
            "stopped": Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T",
        }

    def check(self) -> None:
        """Fail where anything is not as it was, or a stage is left."""
        after = self.look()
        assert after == self.before, {key: (self.before[key], value) for key, value in after.items() if value != self.before[key]}
        stage = self.cache / "sandbox" / "judge" / "stage"
        left = os.listdir(stage) if stage.exists() else []
        assert not [name for name in left if (stage / name).is_dir()], f"left in the stage: {left}"


def watch_host(package: Package, cache: Path) -> Iterator[Host]:
    """Yield a look at the host, with a process of the caller's to be harmed; the end is checked by the caller."""
    reader, writer = os.pipe()
    victim = subprocess.Popen(["/bin/cat"], stdin=reader, stdout=subprocess.DEVNULL)
    os.close(reader)
    try:
        host = Host(package=package, cache=cache, victim=victim)
        host.before = host.look()
        yield host
    finally:
        os.close(writer)
        victim.kill()
        victim.wait()


def require(attack: Attack) -> None:
    """Skip the test where what the submission needs is not here, and say what."""
    if shutil.which(attack.tool) is None:
        pytest.skip(f"no {attack.tool}")
    if "cgroup" in attack.needs and explain_backend().backend is None:
        pytest.skip("no cgroup: memory that nobody maps is not seen, see the table of limits")
    if "x86_64" in attack.needs and os.uname().machine != "x86_64":
        pytest.skip("numbers of x86-64")
