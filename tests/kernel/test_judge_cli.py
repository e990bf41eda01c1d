"""`sandbox judge` as a person meets it: packages in, a report and an exit code out, and nothing left whatever ends it."""

from __future__ import annotations

import json
import math
import os
import re
import select
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/judge-report.schema.json").read_text())
ADDS = "a, b = map(int, input().split())\nprint(a + b)\n"
LATE = "while True: pass\n"
FAILS = "a, b = map(int, input().split())\nif a == 3: raise SystemExit(1)\nprint(a + b)\n"
MULTIPLIES = "a, b = map(int, input().split())\nprint(a * b)\n"


class Place:
    """Where a package is, and the cache of the judge that judges it."""

    def __init__(self, directory: Path, sandbox_cli: Any) -> None:
        self.cli = sandbox_cli
        self.package = directory / "sum"
        self.cache = directory / "cache"
        self.cache.mkdir(mode=0o700)
        self.env = {"XDG_CACHE_HOME": str(self.cache), "TERM": "xterm"}
        self.write("problem.yaml", "name: Sum\nlimits:\n  time_multiplier: 5\n")
        for number, (a, b) in enumerate([(1, 1), (2, 2), (3, 4), (5, 6)]):
            where = "sample" if number == 0 else "secret"
            self.write(f"data/{where}/{number}.in", f"{a} {b}\n")
            self.write(f"data/{where}/{number}.ans", f"{a + b}\n")

    def write(self, name: str, text: str) -> Path:
        path = self.package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def judge(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[bytes]:
        done = self.cli("judge", *words, str(self.package), env=self.env, timeout=timeout)
        assert self.left() == []
        return done

    def report(self, *words: str) -> Any:
        done = self.judge("--quiet", "--format", "json", "--time-limit", "5", *words)
        assert done.stderr == b""
        found = json.loads(done.stdout)
        jsonschema.validate(found, SCHEMA)
        assert found["exit"] == done.returncode
        return found["packages"][0]

    def left(self) -> list[str]:
        """Return what is left of stages."""
        base = self.cache / "sandbox" / "judge"
        return [str(path) for name in ("stage", "private") if (base / name).is_dir() for path in (base / name).iterdir() if path.is_dir()]


@pytest.fixture
def place(tmp_path: Path, sandbox_cli: Any) -> Place:
    tmp_path.chmod(0o755)
    return Place(tmp_path, sandbox_cli)


def test_labels_that_hold(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("submissions/wrong_answer/multiplies.py", MULTIPLIES)
    place.write("submissions/run_time_error/fails.py", FAILS)
    done = place.judge()
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stdout.decode()
    assert lines[0] == "sum (legacy)" and "3 of 3 labels hold" in lines
    rows = {line.split()[0]: line.split()[1:3] for line in lines[2:5]}
    assert rows == {
        "accepted/adds.py": ["AC", "-"], "run_time_error/fails.py": ["NZE", "secret/2"], "wrong_answer/multiplies.py": ["WA", "sample/0"],
    }  # fmt: skip
    (said,) = (line for line in lines if line.startswith("time limit "))
    found = re.fullmatch(
        r"time limit (\d+) s, run up to (\d+) s: slowest accepted `accepted/adds\.py` on `.*`, ([\d.]+) s, times 5, in steps of 1 s", said
    )
    assert found is not None, said
    limit, upper, slowest = int(found[1]), int(found[2]), float(found[3])
    assert limit in {max(1, math.ceil(5 * (slowest + shown))) for shown in (-0.0005, 0.0005)} and upper == 2 * limit, said
    assert b"\x1b" not in done.stdout and f"time limit: {limit}.00 s: ".encode() in done.stderr
    assert b"3/3 " in done.stderr


def test_a_label_that_does_not_hold(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("submissions/accepted/multiplies.py", MULTIPLIES)
    found = place.report()
    assert not found["ok"] and [each["label"]["ok"] for each in found["submissions"]] == [True, False]
    wrong = found["submissions"][1]
    assert (wrong["verdict"], wrong["decided_by"]) == ("WA", "sample/0")
    assert wrong["cases"][1]["skipped"] == "the judging stopped at `sample`: WA"
    assert place.judge("-q").returncode == 1


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_reports_do_not_depend_on_jobs(place: Place, jobs: str) -> None:
    for name, text in (("accepted/adds", ADDS), ("wrong_answer/multiplies", MULTIPLIES), ("run_time_error/fails", FAILS)):
        place.write(f"submissions/{name}.py", text)
    found = place.report("--jobs", jobs)
    seen = [(each["name"], each["verdict"], [case["verdict"] for case in each["cases"]]) for each in found["submissions"]]
    assert seen == [
        ("accepted/adds.py", "AC", ["AC", "AC", "AC", "AC"]),
        ("run_time_error/fails.py", "NZE", ["AC", "AC", "NZE", None]),
        ("wrong_answer/multiplies.py", "WA", ["WA", None, None, None]),
    ]
    assert found["jobs"] == int(jobs)


def test_files_of_reports(place: Place) -> None:
    place.write("submissions/accepted/multiplies.py", MULTIPLIES)
    output = place.cache.parent / "report.xml"
    done = place.judge("-q", "-t", "5", "--format", "junit", "--output", str(output))
    assert done.returncode == 1 and b"0 of 1 labels hold" in done.stdout
    root = ElementTree.parse(output).getroot()
    assert root.get("failures") == "1" and root[0].get("name") == "sum"
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
    refused = place.judge("-q", "--output", str(place.cache.parent / "missing" / "x"))
    assert refused.returncode == 125 and b"missing/x`: No such file or directory" in refused.stderr


def test_repeats(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    found = place.report("--repeat", "3")
    (only,) = found["submissions"]
    assert found["runs"] >= 12 and only["determinism"]["flips"] == []
    assert [case["runs"] for case in only["determinism"]["cases"]] == [3, 3, 3, 3]


def test_choosing_submissions(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("submissions/wrong_answer/multiplies.py", MULTIPLIES)
    assert [each["name"] for each in place.report("-s", "wrong_answer/*")["submissions"]] == ["wrong_answer/multiplies.py"]
    done = place.judge("-q", "-s", "nothing*")
    assert done.returncode == 2 and b"no submission of `sum` is called `nothing*`\n  hint: there are `accepted/adds.py`" in done.stdout


def test_what_is_no_package(place: Place) -> None:
    place.write("problem.yaml", "name: [\n")
    place.write("submissions/accepted/adds.py", ADDS)
    done = place.judge("-q")
    assert done.returncode == 2 and b"problem.yaml" in done.stdout and b": not judged" in done.stdout
    found = json.loads(place.judge("-q", "-f", "json").stdout)
    jsonschema.validate(found, SCHEMA)
    assert found["exit"] == 2 and "problem.yaml" in json.dumps(found["packages"][0]["error"])


def test_a_validator_that_lacks_a_file_outside_is_told_of_follow(place: Place) -> None:
    """The build script needs what a link out of the package leads to; with `--follow` it has it."""
    shared = place.package.parent / "shared"
    place.write("submissions/accepted/a.py", "pass\n")
    place.write("problem.yaml", "problem_format_version: 2025-09\nname: x\nuuid: 5ca6ba5b-36d5-4eff-8aa7-d967cbc4375e\n")
    shared.mkdir()
    (shared / "run").write_text("#!/bin/sh\nexit 42\n")
    place.write("output_validator/build", "#!/bin/sh\ncp given run && chmod 755 run\n").chmod(0o755)
    (place.package / "output_validator/given").symlink_to("../../shared/run")
    done = place.judge("-q", "--no-cache")
    assert done.returncode == 2, done
    assert b"cannot be built" in done.stdout and b"output_validator/given` was not read" in done.stdout and b"--follow DIR" in done.stdout, done.stdout
    done = place.judge("-q", "--no-cache", "--follow", str(shared))
    assert done.returncode == 0, done


def test_a_command_that_is_misspelt_is_no_package(sandbox_cli: Any) -> None:
    done = sandbox_cli("judge", "langauges")
    assert done.returncode == 2 and b"\n  hint: did you mean `sandbox judge languages`?\n" in done.stdout


def test_a_validator_that_asks_for_passes_that_there_are_none_of_is_told(place: Place) -> None:
    place.write("problem.yaml", "name: Sum\nvalidation: custom\n")
    place.write("output_validators/v.py", "import sys\nopen(sys.argv[3] + 'nextpass.in', 'w').write('1 1')\nsys.exit(42)\n")
    place.write("submissions/accepted/a.py", ADDS)
    found = place.report()
    assert found["submissions"][0]["verdict"] == "AC"
    assert [text for text in found["warnings"] if "nextpass.in" in text] == [
        "the output validator asks for another pass by `nextpass.in`, and the problem is not `multi-pass`: there was none"
    ]


def test_several_packages_are_judged_though_one_is_none(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    done = place.cli("judge", "-q", "-t", "5", "/nowhere", str(place.package), env=place.env)
    assert done.returncode == 2 and b"/nowhere: not judged" in done.stdout and b"1 of 1 labels hold" in done.stdout


def test_a_zip_is_a_package(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    archive = shutil.make_archive(str(place.cache.parent / "sum"), "zip", place.package.parent, "sum")
    done = place.cli("judge", "-q", "-t", "5", archive, env=place.env)
    assert done.returncode == 0, done.stdout.decode()
    assert place.left() == []


def test_strict_looks_at_the_package(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("input_validators/small.py", "import sys\nsys.exit(42 if max(map(int, sys.stdin.read().split())) < 5 else 43)\n")
    assert place.judge("-q", "-t", "5").returncode == 0
    found = place.report("--strict")
    assert any("refuses input `secret/3`" in text for text in found["problems"]) and not any("secret/2" in text for text in found["problems"])
    assert found["strict"] and not found["ok"]


def test_a_static_validator_judges_the_files(place: Place) -> None:
    """It sees the submission's files in its working directory, language, entry point and its arguments, and gives points like a case."""
    shutil.rmtree(place.package / "data")
    place.write("problem.yaml", "problem_format_version: 2025-09\nname: Sum\nuuid: 8ee7605a-95a3-86c2-3995-0a10d365de46\ntype: scoring\nlicense: cc0\n")
    for name in ("sample/1", "secret/g/1", "secret/g/2"):
        place.write(f"data/{name}.in", "1 1\n")
        place.write(f"data/{name}.ans", "2\n")
    place.write("data/secret/g/test_group.yaml", "max_score: 100\nscore_aggregation: sum\nstatic_validation_score: 20\nstatic_validator_args: [print]\n")
    source = """
        import sys
        language, entrypoint, feedback, word = sys.argv[1:]
        assert language == "python3" and feedback.endswith("/"), sys.argv
        found = open(entrypoint).read().count(word)
        open(feedback + "judgemessage.txt", "w").write(f"{found} times {word}")
        sys.exit(42 if found == 1 else 43)
    """
    place.write("static_validator/check.py", textwrap.dedent(source))
    place.write("submissions/accepted/once.py", ADDS)
    place.write("submissions/mixed/twice.py", ADDS + "print()\n")
    once, twice = place.report()["submissions"]
    assert (once["verdict"], once["score"]) == ("AC", 100) and (twice["verdict"], twice["score"]) == ("AC", 80)
    files = [next(case for case in each["cases"] if case["case"] == "secret/g/static_validation") for each in (once, twice)]
    assert [(each["verdict"], each["judge_message"]) for each in files] == [("AC", "1 times print"), ("WA", "2 times print")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], b"error: say which package\n"),
        (["--jobs", "0", "x"], b"error: `--jobs 0` is not a number from 1 to 1024\n"),
        (["--repeat", "x", "x"], b"error: `--repeat x` is not a number from 1 to 10000\n"),
        (["--format", "xml", "x"], b"error: `--format xml` is none of table, json and junit\n"),
        (["--time-limit", "0", "x"], b"error: `--time-limit` must be more than nothing\n"),
        (["--follow", "/none", "x"], b"error: `--follow /none`: No such file or directory\n"),
        (["--follow", "/etc/passwd", "x"], b"error: `--follow /etc/passwd`: Not a directory\n"),
        (["--tim-limit", "0", "x"], b"error: unknown option `--tim-limit`\n\nhint: did you mean `--time-limit`?\n"),
    ],
)
def test_mistakes_on_the_command_line(sandbox_cli: Any, words: list[str], message: bytes) -> None:
    done = sandbox_cli("judge", *words)
    assert done.returncode == 125 and done.stderr.startswith(message) and done.stdout == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_all_and_leaves_nothing(place: Place, number: int, code: int) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("submissions/time_limit_exceeded/late.py", LATE)
    before = signal.signal(number, signal.SIG_DFL)  # who runs the tests may ignore it, and the judge would
    try:
        process = place.cli.popen("judge", "-t", "60", "-j", "2", str(place.package), env=place.env)
    finally:
        signal.signal(number, before)
    with process:
        try:
            told = _read_until(process, b"1/2 accepted/adds.py")
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code, (told, err)
    assert b"0 of 1 packages are judged, and of the next 1 of 2 submissions:\n  accepted/adds.py: AC, label holds\n" in err and out == b""
    assert place.left() == []


@pytest.mark.orphans
def test_what_a_killed_judge_left_is_removed_by_the_next(place: Place) -> None:
    place.write("submissions/accepted/adds.py", ADDS)
    place.write("submissions/time_limit_exceeded/late.py", LATE)
    with place.cli.popen("judge", "-t", "60", str(place.package), env=place.env) as process:
        _read_until(process, b"1/2 accepted/adds.py")
        process.kill()
        process.communicate(timeout=120)
    assert len(place.left()) == 1, "the stage was not there, so that the next has nothing to remove"
    (place.package / "submissions/time_limit_exceeded/late.py").unlink()
    assert place.judge("-q", "-t", "5").returncode == 0


def _read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stderr is not None
    seen, until = b"", time.monotonic() + 300
    while text not in seen:
        ready = select.select([process.stderr], [], [], max(0.0, until - time.monotonic()))[0]
        chunk = os.read(process.stderr.fileno(), 65536) if ready else b""
        assert chunk, (seen, process.poll())
        seen += chunk
    return seen
