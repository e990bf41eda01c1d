#!/usr/bin/env python3
"""Grade a directory of uploads: tests in files, points, hidden tests, a table for you and feedback for each student.

    python3 examples/grade.py --language python3 TASK UPLOADS RESULTS

TASK has `sample/` and `hidden/`, each with pairs NAME.in and NAME.ans, and optionally NAME.hint for who fails; UPLOADS has a file or a directory for each
student. RESULTS gets `grades.csv` and one JSON for each student, in which there is nothing of the hidden tests but whether they were passed.

Exit status: 0 everybody is graded, 1 something of somebody has to be graded again, 2 the arguments are wrong.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import sandbox
from sandbox import judge


def read_tests(task, points):
    """Return the tests of a directory, hidden ones last."""
    found = []
    for folder, hidden in (("sample", False), ("hidden", True)):
        for given in sorted((task / folder).glob("*.in")):
            hint = given.with_suffix(".hint")
            found.append(
                judge.Test(
                    given,
                    given.with_suffix(".ans"),
                    name=f"{folder}/{given.stem}",
                    points=points if hidden else 0,
                    hidden=hidden,
                    hint=hint.read_text().strip() if hint.exists() else "",
                )
            )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("uploads", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--language", default="", help="id of `sandbox judge languages`; told by the files' names unless given")
    parser.add_argument("--points", type=float, default=1, help="of each hidden test")
    parser.add_argument("--time-limit", type=float, default=2, metavar="SECONDS", help="CPU time of a test")
    parser.add_argument("--memory-limit", default="256M")
    parser.add_argument("--flags", default="", help="how to compare, such as `float_tolerance 1e-6`")
    parser.add_argument("--jobs", type=int, help="submissions at a time; the physical cores unless given")
    options = parser.parse_args()
    tests = read_tests(options.task, options.points)
    uploads = {path.stem: path for path in sorted(options.uploads.iterdir())} if options.uploads.is_dir() else {}
    if not tests or not uploads:
        parser.error(f"no {'upload' if tests else 'test'} found")

    task = judge.Task(
        tests,
        name=options.task.name,
        language=options.language,
        time_limit=options.time_limit,
        memory_limit=options.memory_limit,
        flags=options.flags,
    )
    options.results.mkdir(parents=True, exist_ok=True)
    again = []
    with open(options.results / "grades.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["student", "points", "of", "verdict", "why"])
        for result in task.grade_all(uploads, jobs=options.jobs, progress=True):
            failed = next((test for test in result.tests if not test.ok), None)
            table.writerow([result.name, result.points, result.max_points, result.code, result.cause or (failed.cause if failed else "")])
            file.flush()  # Ctrl-C keeps what is done
            (options.results / f"{result.name}.json").write_text(json.dumps(result.to_dict(), indent=2))
            if not result.complete:
                again.append(result.name)
    for name in again:
        print(f"grade again: {name}", file=sys.stderr)
    return 1 if again else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (sandbox.SandboxError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
