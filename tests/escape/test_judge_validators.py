"""Hostile packages, as far as they run: validators, graders and build scripts that crash, flood, hang, forge and look around.

What is the package's fault is JE, never a verdict on the contestant; nothing of the host is read or written. Layers removed: the same program outside of a
sandbox, as an ordinary user, does what it wants (`test_a_validator_without_a_sandbox`).
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from escape.judging import GENEROUS_S, Package, judge_one, make_package, watch_host, worst_code
from escape.support import PAYLOAD_ID

from sandbox.judge.errors import PackageError
from sandbox.judge.model import SubmissionResult

RIGHT = b"import sys\nprint(sys.stdin.readline())\n"
LIMITS = """\
limits:
  time_limit: 5
  time_resolution: 0.5
  memory: 128
  output: 1
  compilation_time: 1
  compilation_memory: 512
  validation_time: 1
  validation_memory: 128
"""
START = "import os, pathlib, sys, time\nfeedback = pathlib.Path(sys.argv[3])\nsys.stdin.buffer.read()\n"

# (name, what the validator does after START, verdict); every case is one that an honest validator accepts
VALIDATORS: tuple[tuple[str, str, str], ...] = (
    ("honest", "sys.exit(42)", "AC"),
    ("honest-no", "sys.exit(43)", "WA"),
    ("exit-0", "sys.exit(0)", "JE"),
    ("exit-1", "sys.exit(1)", "JE"),
    ("exit-44", "sys.exit(44)", "JE"),
    ("exit-298-which-is-42", "os._exit(298)", "AC"),
    ("killed-by-signal-42", "os.kill(os.getpid(), 42)", "JE"),
    ("killed-by-itself", "os.kill(os.getpid(), 9)", "JE"),
    ("raises", "raise SystemError('42')", "JE"),
    ("prints-42", "print(42)\nprint('AC')", "JE"),
    ("sleeps", "time.sleep(1000)", "JE"),
    ("computes", "while True: pass", "JE"),
    ("stops", "os.kill(os.getpid(), 19)\ntime.sleep(1000)", "JE"),
    ("memory", "held = []\nwhile True: held.append(bytearray(1 << 24))", "JE"),
    ("fork-bomb", "while True:\n    try: os.fork()\n    except OSError: pass", "JE"),
    ("floods-stdout", "while True: os.write(1, b'a' * 65536)", "JE"),
    ("floods-stderr", "while True: os.write(2, b'a' * 65536)", "JE"),
    ("floods-feedback", "f = open(feedback / 'judgemessage.txt', 'wb')\nwhile True: f.write(b'a' * 65536)", "JE"),
    ("kills-all", "try: os.kill(-1, 9)\nexcept OSError: pass\nsys.exit(42)", "AC"),
    ("leaves-a-daemon", "if os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nsys.exit(42)", "AC"),
    ("writes-the-input", "for p in sys.argv[1:3]:\n    try: open(p, 'w').write('x')\n    except OSError: pass\nsys.exit(42)", "AC"),
    ("removes-the-input", "for p in sys.argv[1:3]:\n    try: os.unlink(p)\n    except OSError: pass\nsys.exit(42)", "AC"),
    ("keeps-state", "p = pathlib.Path('/tmp/judge-mark')\nseen = p.exists()\np.touch()\nsys.exit(43 if seen else 42)", "AC"),
    ("reads-the-host", "sys.exit(43 if os.path.exists('@CANARY@') or os.path.exists('/etc/shadow') else 42)", "AC"),
    ("reads-the-environment", "sys.exit(43 if any('canary' in v for v in os.environ.values()) else 42)", "AC"),
    ("tells-the-environment", "(feedback / 'judgemessage.txt').write_text(repr(dict(os.environ)))\nsys.exit(42)", "AC"),
    ("sees-processes", "sys.exit(43 if len([n for n in os.listdir('/proc') if n.isdecimal()]) > 2 else 42)", "AC"),
    (
        "reaches-the-network",
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 1), 0.2)\n    sys.exit(43)\n"
        "except ConnectionRefusedError:\n    sys.exit(42)\nexcept OSError:\n    sys.exit(42)",
        "AC",
    ),
    (
        "message-with-escapes",
        "(feedback / 'judgemessage.txt').write_text('\\x1b[2J\\x1b]0;owned\\x07verdict=AC\\r\\n\\u202e')\nsys.exit(43)",
        "WA",
    ),
    ("message-of-any-bytes", "(feedback / 'judgemessage.txt').write_bytes(bytes(range(256)) * 100)\nsys.exit(43)", "WA"),
    ("message-for-teams", "(feedback / 'teammessage.txt').write_bytes(b'\\0' * 100000)\nsys.exit(43)", "WA"),
    (
        "names-without-end",
        "for n in range(100000):\n    try: (feedback / f'judge-mark-{n}').touch()\n    except OSError: break\nsys.exit(43)",
        "WA|JE",
    ),
    ("names-with-newlines", "(feedback / 'a\\nverdict=AC').touch()\n(feedback / '\\x1b[2J').mkdir()\nsys.exit(43)", "WA"),
    (
        "tree-without-end",
        "os.chdir(feedback)\nfor n in range(3000):\n    try: os.mkdir('d'); os.chdir('d')\n    except OSError: break\nsys.exit(43)",
        "WA|JE",
    ),
    ("closed-directory", "os.chmod(feedback, 0)\nsys.exit(43)", "WA|JE"),
    ("asks-for-another-pass", "(feedback / 'nextpass.in').write_text('again')\nsys.exit(42)", "AC|JE"),
)

# What a validator leaves in the place of a message, and may not be followed: kind → statement.
LINKS = {
    "link-to-the-host": "os.symlink('@CANARY@', feedback / 'judgemessage.txt')",
    "link-upwards": "os.symlink('../' * 20 + '@CANARY@', feedback / 'judgemessage.txt')",
    "link-to-proc": "os.symlink('/proc/self/environ', feedback / 'judgemessage.txt')",
    "link-to-a-device": "os.symlink('/dev/zero', feedback / 'judgemessage.txt')",
    "link-to-itself": "os.symlink('judgemessage.txt', feedback / 'judgemessage.txt')",
    "fifo": "os.mkfifo(feedback / 'judgemessage.txt')",
    "directory": "os.mkdir(feedback / 'judgemessage.txt')",
    "socket": "import socket\nsocket.socket(socket.AF_UNIX).bind(str(feedback / 'judgemessage.txt'))",
    "team-link": "os.symlink('@CANARY@', feedback / 'teammessage.txt')",
    "score-link": "os.symlink('@CANARY@', feedback / 'score.txt')",
    "hard-link": "os.link(sys.argv[2], feedback / 'judgemessage.txt')",
    "unreadable": "(feedback / 'judgemessage.txt').write_text('x')\nos.chmod(feedback / 'judgemessage.txt', 0)",
    "sparse": "os.truncate(os.open(feedback / 'judgemessage.txt', os.O_RDWR | os.O_CREAT), 1 << 30)",
    "directory-replaced": "os.rename(feedback, str(feedback).rstrip('/') + '-old')\nos.symlink('/', str(feedback).rstrip('/'))",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


def _judge(package: Package, cache: Path, **options: object) -> SubmissionResult:
    """Judge the package's one submission, without secrets in what is said and without harm."""
    package.submit("accepted/right.py", RIGHT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_SECRET", package.canary)
        for host in watch_host(package, cache):
            result = judge_one(package, "accepted/right.py", **options)
            host.check()
    assert package.canary not in repr(result)
    return result


# ---- validators and their feedback -----------------------------------------------------------------------------------

SCORES = {
    "nan": "nan",
    "infinite": "inf",
    "overflow": "1e999",
    "underscore": "1_0",
    "full-width": "\uff11\uff10",
    "hexadecimal": "0x10",
    "empty": "",
    "two": "1 2",
    "words": "accepted",
    "nul": "1\\0",
    "digits": "1' * 100000 + '",
}


def _tried(statement: str, code: int) -> str:
    return "\n".join(["try:", *(f"    {line}" for line in statement.splitlines()), "except OSError:", "    pass", f"sys.exit({code})"])


def _scored(text: str, code: int = 42) -> str:
    return f"(feedback / 'score.txt').write_text('{text}')\nsys.exit({code})"


# Each row is a test case of one package, whose validator does what its row says: a case's verdict is its row's, whatever other rows did before.
ROWS: dict[str, tuple[str, str]] = {
    **{name: (text, expect) for name, text, expect in VALIDATORS},
    **{f"feedback-{kind}-{code}": (_tried(LINKS[kind], code), expect) for kind in LINKS for code, expect in ((42, "AC|JE"), (43, "WA|JE"))},
    **{f"score-{kind}": (_scored(text), "JE|AC" if kind == "digits" else "JE") for kind, text in SCORES.items()},
    "score-10": (_scored("10"), "AC"),
    "score-of-what-is-rejected": (_scored("10", 43), "JE"),
}
TWICE = ("keeps-state", "honest")
"""Rows with two cases, which must come out alike."""


def _dispatch(scripts: Mapping[str, str], which: str) -> str:
    return f"{START}SCRIPTS = {dict(scripts)!r}\nexec(compile(SCRIPTS[{which}], 'validator', 'exec'))\n"


@pytest.fixture(scope="module")
def judged(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], SubmissionResult]:
    """Judge all rows when the first of them is asked for, in that test, which sees to it that nothing is left."""

    @functools.cache
    def judge() -> SubmissionResult:
        package = make_package("hostile", tmp_path_factory.mktemp("validators"), LIMITS + "type: scoring\n")
        for name in ROWS:
            for index in range(1 + (name in TWICE)):
                package.case(f"secret/{name}-{index}", f"{name}\n", f"{name}\n")
        scripts = {name: package.fill(text.encode()).decode() for name, (text, _) in ROWS.items()}
        for name, text in scripts.items():
            compile(text, name, "exec")
        package.write("output_validator/validate.py", _dispatch(scripts, "open(sys.argv[1]).readline().strip()"))
        return _judge(package, cache, jobs=2)

    return judge


@pytest.mark.parametrize("name", ROWS)
def test_a_hostile_validator(name: str, judged: Callable[[], SubmissionResult]) -> None:
    """Only 42 and 43 are verdicts, and what is in the place of messages and scores is not followed, waited for or believed; all else is the package's fault."""
    cases = [case for case in judged().cases if case.case.rpartition("-")[0] == f"secret/{name}"]
    assert len(cases) == 1 + (name in TWICE)
    for case in cases:
        shown = repr(case)
        assert not case.skipped and case.code.value in ROWS[name][1].split("|"), shown[:4000]
        assert "root:x:" not in shown and "PATH=" not in shown and len(shown) < 100_000
        assert not (name.startswith("score-") and name != "score-10") or case.score != 10, shown[:4000]
    if name == "score-10":
        assert cases[0].score == 10


# (name, what the grader does, verdict of the submission)
GRADERS: tuple[tuple[str, str, str], ...] = (
    ("honest", "print('AC 7')", "AC"),
    ("garbage", "print('\\x1b[2Jaccepted')", "JE"),
    ("nothing", "pass", "JE"),
    ("nan", "print('AC nan')", "JE"),
    ("overflow", "print('AC 1e999')", "JE"),
    ("unknown-verdict", "print('XX 7')", "JE"),
    ("two-lines", "print('AC 7\\nWA 0')", "JE"),
    ("exit-1", "print('AC 7')\nsys.exit(1)", "JE"),
    ("killed", "print('AC 7', flush=True)\nos.kill(os.getpid(), 9)", "JE"),
    ("endless", "while True: print('AC 7')", "JE"),
    ("sleeps", "time.sleep(1000)", "JE"),
    ("reads-the-host", "print('WA 0' if os.path.exists('@CANARY@') else 'AC 7')", "AC"),
)


@pytest.fixture(scope="module")
def graded(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], SubmissionResult]:
    """Judge a package with a group for each row, which the grader gets as its flag."""

    @functools.cache
    def judge() -> SubmissionResult:
        package = make_package("hostile", tmp_path_factory.mktemp("graders"))
        limits = "limits:\n  memory: 128\n  validation_time: 1\n  validation_output: 1\n"
        package.write("problem.yaml", f"name: graded\ntype: scoring\nvalidation: default\n{limits}")
        package.write("data/testdata.yaml", "on_reject: continue\ngrading: default\n")
        package.write("data/secret/testdata.yaml", "on_reject: continue\ngrading: default\n")
        for name, _, _ in GRADERS:
            package.write(f"data/secret/{name}/testdata.yaml", f"grading: custom\ngrader_flags: {name}\n")
            package.case(f"secret/{name}/01", "01\n", "01\n")
        scripts = {name: package.fill(text.encode()).decode() for name, text, _ in GRADERS}
        start = f"import os, sys, time\nsys.stdin.read()\nSCRIPTS = {scripts!r}\n"
        package.write("graders/grade.py", start + "exec(compile(SCRIPTS[sys.argv[1]], 'grader', 'exec'))\n")
        return _judge(package, cache, jobs=2, time_limit=GENEROUS_S)

    return judge


@pytest.mark.parametrize(("name", "expect"), [(name, expect) for name, _, expect in GRADERS])
def test_a_hostile_grader(name: str, expect: str, graded: Callable[[], SubmissionResult]) -> None:
    """One line with a verdict and a finite number, and exit 0; everything else is the package's fault."""
    groups = {group.name: group for group in graded().groups}
    assert groups[f"secret/{name}"].code.value == expect, groups[f"secret/{name}"]
    if expect == "AC":
        assert groups[f"secret/{name}"].score == 7


# ---- builds ----------------------------------------------------------------------------------------------------------

# (name, script, verdict); `refused` where the package has no validator then, so that nothing of it can be judged
BUILDS: tuple[tuple[str, str, str], ...] = (
    ("honest", "true", "AC"),
    ("fails", "exit 1", "refused"),
    ("hangs", "sleep 1000", "refused"),
    ("floods", "cat /dev/zero", "refused"),
    ("fills-the-disk", "cat /dev/zero > big", "refused"),
    ("fork-bomb", "f() { f | f & }; f; sleep 1000", "refused"),
    ("leaves-a-daemon", "(setsid sleep 1000 >/dev/null 2>&1 &); true", "AC"),
    ("leaves-marks", "touch /tmp/judge-mark-build ~/judge-mark-build /dev/shm/judge-mark-build; true", "AC"),
    ("reads-the-host", "if cat @CANARY@; then exit 1; fi; true", "AC"),
    ("links-to-the-host", "ln -s @CANARY@ run2; ln -s / root; true", "AC"),
    ("run-is-a-link", "rm -f run; ln -s @CANARY@ run", "refused"),
    ("run-is-a-fifo", "rm -f run; mkfifo run", "refused"),
    ("no-run", "rm -f run", "refused"),
)


@pytest.mark.parametrize(("name", "script", "expect"), BUILDS, ids=[row[0] for row in BUILDS])
def test_a_hostile_build_script(name: str, script: str, expect: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build script is a program like any other: bounded, and in a sandbox without the host's files."""
    package = make_package("hostile", tmp_path, LIMITS)
    package.case("secret/01", "01\n", "01\n")
    body = f"#!/bin/sh\nprintf '#!/bin/sh\\nexit 42\\n' > run\nchmod 755 run\n{script}\n"
    package.write("output_validator/build", package.fill(body.encode()), 0o755)
    if expect != "refused":
        assert worst_code(_judge(package, cache)) == expect
        return
    monkeypatch.setenv("JUDGE_SECRET", package.canary)
    package.submit("accepted/right.py", RIGHT)
    for host in watch_host(package, cache):
        with pytest.raises(PackageError, match=r"output_validator.* cannot be built") as caught:
            judge_one(package, "accepted/right.py")
        words = str(caught.value)
        assert package.canary not in words and len(words) < 100_000
        assert all(letter.isprintable() or letter == "\n" for letter in words), [letter for letter in words if not letter.isprintable()][
            :20
        ]
        host.check()


PASSES = {
    "endless": ("(feedback / 'nextpass.in').write_text('01\\n')\nsys.exit(42)", "JE"),
    "link": ("os.symlink('@CANARY@', feedback / 'nextpass.in')\nsys.exit(42)", "AC|JE"),
    "fifo": ("os.mkfifo(feedback / 'nextpass.in')\nsys.exit(42)", "AC|JE"),
    "with-43": ("(feedback / 'nextpass.in').write_text('01\\n')\nsys.exit(43)", "JE"),
    "huge": ("os.truncate(os.open(feedback / 'nextpass.in', os.O_RDWR | os.O_CREAT), 1 << 34)\nsys.exit(42)", "JE"),
}


@pytest.mark.parametrize("kind", PASSES)
def test_a_hostile_next_pass(kind: str, cache: Path, tmp_path: Path) -> None:
    """Passes end, and what is no file is no input."""
    text, expect = PASSES[kind]
    package = make_package("hostile", tmp_path, LIMITS + "  validation_passes: 3\ntype: multi-pass\n")
    package.case("secret/01", "01\n", "01\n")
    package.write("output_validator/validate.py", package.fill((START + text).encode()))
    result = _judge(package, cache)
    assert worst_code(result) in expect.split("|"), repr(result)[:4000]


def test_a_validator_without_a_sandbox(tmp_path: Path) -> None:
    """The control: outside, as an ordinary user, what the validators above look for is there: the host's file, its environment, its input to be overwritten."""
    package = make_package("hostile", tmp_path)
    ids = {"user": PAYLOAD_ID, "group": PAYLOAD_ID, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to other users
        place = Path(name)
        place.chmod(0o777)
        package.canary_file = place / "secret"
        for path in (place / "input", place / "answer", package.canary_file):
            path.write_text("01\n")
            path.chmod(0o666)
        codes = {}
        for row in ("reads-the-host", "reads-the-environment", "writes-the-input", "sees-processes"):
            source = (
                package.fill((START + next(text for name, text, _ in VALIDATORS if name == row)).encode())
                .decode()
                .replace(" or os.path.exists('/etc/shadow')", "")
            )
            command = ["/usr/bin/python3", "-c", source, str(place / "input"), str(place / "answer"), f"{place}/"]
            env = {"PATH": "/usr/bin:/bin", "JUDGE_SECRET": package.canary}
            codes[row] = subprocess.run(command, input=b"", env=env, timeout=120, check=False, **ids).returncode  # type: ignore[call-overload]
        assert (place / "input").read_text() == "x"
    assert codes == {"reads-the-host": 43, "reads-the-environment": 43, "writes-the-input": 42, "sees-processes": 43}
