"""Real code that nobody here wrote: HumanEval's reference solutions must pass, its hostile samples must harm nothing.

Data: openai/human-eval (MIT), see tests/data/human-eval/LICENSE.
"""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox

DATA = Path(__file__).parent.parent / "data" / "human-eval"
PYTHON = "/usr/bin/python3"


def _problems() -> dict[str, dict[str, str]]:
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return {problem["task_id"]: problem for problem in map(json.loads, file)}


def _program(problem: dict[str, str], completion: str) -> str:
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def _run(program: str, profile: str) -> sandbox.Result:
    """Run it with all limits of the profile but the wall's: how long an honest solution takes is a matter of who else is busy."""
    return sandbox.run([PYTHON, "program.py"], profile=profile, files={"program.py": program}, timeout=600)


@pytest.mark.userns
@pytest.mark.parametrize("profile", ["strict", "python"])
def test_reference_solutions_pass(profile: str) -> None:
    problems = _problems()
    assert len(problems) == 164
    with ThreadPoolExecutor(2) as pool:
        results = dict(
            zip(problems, pool.map(lambda p: _run(_program(p, p["canonical_solution"]), profile), problems.values()), strict=True)
        )
    failed = {name: (result.verdict, result.cause, result.stderr) for name, result in results.items() if not result.ok}
    assert not failed
    # Nothing an honest solution does is worth an audit event.
    assert not {name: result.denials for name, result in results.items() if result.denials}


@pytest.mark.userns
def test_wrong_solution_fails() -> None:
    """The check above can fail: a solution that returns nothing does not pass."""
    problem = next(iter(_problems().values()))
    result = _run(_program(problem, "    return None\n"), "strict")
    assert result.verdict is sandbox.Verdict.NONZERO_EXIT
    assert b"AssertionError" in (result.stderr or b"")


@pytest.mark.userns
def test_hostile_samples_harm_nothing(tmp_path: Path) -> None:
    """The samples that ship with the data set: endless loops and wrong answers end with a verdict, in time."""
    with open(DATA / "example_problem.jsonl", encoding="utf-8") as file:
        problems = {problem["task_id"]: problem for problem in map(json.loads, file)}
    with open(DATA / "example_samples.jsonl", encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]
    # One of them runs `rm -rf tmp` in its working directory: give it one to lose, and shared at that.
    canary = tmp_path / "tmp" / "canary"
    canary.parent.mkdir()
    canary.write_text("untouched")
    tmp_path.chmod(0o755)
    assert len(samples) >= 3
    for sample in samples:
        problem = problems[sample["task_id"]]
        program = _program(problem, sample["completion"])
        (tmp_path / "program.py").write_text(program)
        result = sandbox.run([PYTHON, "program.py"], profile="strict", cwd=tmp_path, limits={"wall": "2s", "cpu": "1s"})
        assert result.usage.wall_ns < 60_000_000_000, sample
        assert result.verdict in (
            sandbox.Verdict.OK,
            sandbox.Verdict.NONZERO_EXIT,
            sandbox.Verdict.CPU_LIMIT,
            sandbox.Verdict.WALL_LIMIT,
            sandbox.Verdict.MEMORY_LIMIT,
            sandbox.Verdict.SIGNALED,
        )
    assert canary.read_text() == "untouched"
