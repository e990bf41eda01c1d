"""What the command prints about hostile submissions: nothing of theirs moves a cursor, forges a line or breaks a format; and compilers that are fed to burst.

Removed: the escaping; then what a submission prints is in the terminal as it was printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from escape.judging import SUBMISSIONS, Package, judge_one, make_package, worst_code

FORGERS = ("forge_report.py", "flood_terminal.py")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _forged(tmp_path: Path) -> Package:
    """A package whose submissions, file names and messages are all made for the reader's terminal and parser."""
    package = make_package("custom", tmp_path)
    for name in FORGERS:
        package.submit(f"wrong_answer/{name}", (SUBMISSIONS / name).read_bytes())
    package.submit("wrong_answer/compile.c", (SUBMISSIONS / "compile_error_escapes.c").read_bytes())
    package.submit("run_time_error/fails.py", b"import sys\nsys.stderr.write('\\x1b[2J\\u202eAC\\n' * 50)\nsys.exit(1)\n")
    package.submit("time_limit_exceeded/\u202eCA.py", b"print(1)\n")
    return package


def _run(cli: Any, package: Package, cache: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    done: subprocess.CompletedProcess[bytes] = cli("judge", str(package.root), *words, env={"XDG_CACHE_HOME": str(cache)}, timeout=600)
    assert done.returncode == 1, done
    return done


def test_the_table_is_the_judges_own(sandbox_cli: Any, tmp_path: Path) -> None:
    """No control character, no line that a submission wrote, in the table or in what goes to standard error."""
    done = _run(sandbox_cli, _forged(tmp_path), tmp_path / "cache", "--verbose")
    for stream in (done.stdout.decode(), done.stderr.decode()):
        assert not CONTROL.search(stream.replace("\n", "")), [line for line in stream.splitlines() if CONTROL.search(line)]
        assert not [line for line in stream.splitlines() if line.startswith(("verdict=AC", "AC accepted", "42", '{"code"'))]


def test_json_has_the_verdicts_and_nothing_else(sandbox_cli: Any, tmp_path: Path) -> None:
    """One JSON value in ASCII, with our verdicts, whatever the submissions print."""
    done = _run(sandbox_cli, _forged(tmp_path), tmp_path / "cache", "--format", "json")
    done.stdout.decode("ascii")
    found = json.loads(done.stdout)["packages"][0]
    codes = {each["name"]: each["verdict"] for each in found["submissions"]}
    assert {name: codes[f"wrong_answer/{name}"] for name in FORGERS} == dict.fromkeys(FORGERS, "WA")
    assert codes["wrong_answer/compile.c"] in ("CE", None) and codes["run_time_error/fails.py"] == "NZE"


def test_junit_is_xml(sandbox_cli: Any, tmp_path: Path) -> None:
    """Well-formed, with one case for each submission, none of them made by a submission."""
    done = _run(sandbox_cli, _forged(tmp_path), tmp_path / "cache", "--format", "junit")
    cases = ElementTree.fromstring(done.stdout).iter("testcase")
    names = [case.get("name", "") for case in cases]
    assert "x" not in names and any("forge_report.py" in name for name in names)


def test_without_escaping_it_would_be_there(tmp_path: Path) -> None:
    """The control: run alone, the same submissions print control characters and lines of a report."""
    for name in FORGERS:
        said = subprocess.run(["/usr/bin/python3", str(SUBMISSIONS / name)], capture_output=True, timeout=120, check=False)
        assert b"\x1b[" in said.stdout
    assert (
        "verdict=AC\n"
        in subprocess.run(
            ["/usr/bin/python3", str(SUBMISSIONS / FORGERS[0])], capture_output=True, text=True, timeout=120, check=False
        ).stdout
    )


_BURNER = f"burner_{os.getpid()}"  # no other session's


@pytest.mark.orphans
def test_a_killed_judge_leaves_nothing(sandbox_cli: Any, tmp_path: Path) -> None:
    """SIGKILL of the command while submissions burn and daemons live: every process is gone, and the next command finds and removes the stage."""
    package = make_package("one", tmp_path)
    for number in range(4):
        package.submit(f"wrong_answer/{_BURNER}_{number}.py", (SUBMISSIONS / "time_children.py").read_bytes() + b"# judge-mark-killed\n")
    cache = tmp_path / "cache"
    process = sandbox_cli.popen("judge", str(package.root), "--jobs", "2", "--time-limit", "1000", env={"XDG_CACHE_HOME": str(cache)})
    stage = cache / "sandbox/judge/stage"
    try:
        _wait(lambda: len(_burning()) >= 2)
        assert os.listdir(stage)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    _wait(lambda: not _burning())
    _run(sandbox_cli, package, cache, "--submission", "accepted/*", "--submission", f"wrong_answer/{_BURNER}_0.py", "--time-limit", "0.1")
    assert not [name for name in os.listdir(stage) if (stage / name).is_dir()]


def _burning() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if _BURNER.encode() in words and b"judge/program" in words:
                    found.append(int(name))
            except OSError:
                continue
    return found


def _wait(condition: Any) -> None:
    import select
    import time

    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)


MANY = b"int main(void) { return 0; }\n" + b"".join(b"int f%d(void) { return x%d; }\n" % (number, number) for number in range(8000))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_flood_of_compiler_messages_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of errors are a compile error with the beginning of them. Control: the compiler prints more than is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = make_package("one", tmp_path)
    package.submit("wrong_answer/many.c", MANY)
    result = judge_one(package, "wrong_answer/many.c")
    assert worst_code(result) == "CE" and result.built is not None and 1000 < len(result.built.output) <= 1 << 17
    source = tmp_path / "many.c"
    source.write_bytes(MANY)
    assert len(subprocess.run(["gcc", "-fsyntax-only", str(source)], capture_output=True, check=False).stderr) > 1 << 17


@pytest.mark.skipif(shutil.which("javac") is None, reason="no javac")
def test_an_annotation_processor_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled processor that is handed in beside the source runs in the compiler's sandbox, or not at all. Control: outside, javac runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = make_package("one", tmp_path)
    work = tmp_path / "work"
    (work / "META-INF/services").mkdir(parents=True)
    mark = tmp_path / "mark"  # its own: the control leaves it, and /tmp is looked at by the tests of another user too
    for name in ("Main.java", "Processor.java"):
        source = package.fill((SUBMISSIONS / "compile_java_processor" / name).read_bytes())
        (work / name).write_bytes(source.replace(b"/tmp/judge-mark-java", os.fsencode(mark)))
    subprocess.run(["javac", "-proc:none", "-d", str(work), "Processor.java"], cwd=work, check=True, timeout=300)
    (work / "META-INF/services/javax.annotation.processing.Processor").write_text("Processor\n")
    outside = subprocess.run(
        ["javac", "-cp", str(work), "-d", str(tmp_path / "out"), "Main.java"],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert package.canary in outside.stderr
    mark.unlink()
    (work / "Processor.java").unlink()
    files = {str(path.relative_to(work)): path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    package.submit("wrong_answer/java", files)
    result = judge_one(package, "wrong_answer/java")
    assert worst_code(result) in ("WA", "CE"), result
    assert package.canary not in repr(result) and not mark.exists()
