"""Write the tables of docs/reference/threat-table-judge.md from the attacks themselves: ``python tests/suites/judge_table.py``.

A test (`tests/escape/test_judge_submissions.py`) fails where the page is not what this would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "threat-table-judge.md"
START, END = "<!-- written by tests/suites/judge_table.py: {} -->", "<!-- end -->"
GROUPS = {
    "answers": "answers and other tests",
    "state": "state for the next case",
    "rewrite": "the next test's input",
    "forge": "validator, feedback and report",
    "flood": "floods",
    "time": "time",
    "memory": "memory",
    "call": "system calls",
    "signal": "signals and exit codes",
    "compile": "compilers",
    "interactive": "interactive problems",
}

if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join([_row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows)])


def render_submissions() -> str:
    """One table for each group of submissions."""
    from escape.judging import load_attacks

    attacks = load_attacks()
    parts = []
    for prefix, title in GROUPS.items():
        rows = []
        for attack in attacks:
            if attack.path.name.split("_")[0] != prefix:
                continue
            said = {"shown": "prints the secret", "named": "prints the secret's name", "none": "dies"}.get(attack.naive, attack.naive)
            control = "says " + said if said in ("AC", "JE", "RTE") else said
            if attack.naive == "-":
                control = f"`{attack.control}`" if attack.control.startswith("tests/") else attack.control or "–"
            rows.append((f"`{attack.path.name}`", attack.idea, " or ".join(attack.expect), control))
        parts.append(
            f"### {title[0].upper()}{title[1:]}\n\n"
            + _table(("submission", "idea", "right verdict", "naive judge, or where the control is"), rows)
        )
    missing = [attack.name for attack in attacks if attack.path.name.split("_")[0] not in GROUPS]
    if missing:
        raise AssertionError(f"no group for {missing}")
    return "\n\n".join(parts)


def render_outputs() -> str:
    """The outputs made for the parser."""
    from escape.test_judge_checker import ANSWERS, ROWS

    rows = [
        (
            f"`{name}`",
            f"`{ANSWERS[kind][0].decode()!r}`"[:40] + (f" {ANSWERS[kind][1]}" if ANSWERS[kind][1] else ""),
            f"`{expression}`",
            expect,
            "yes" if fooled else "no",
        )
        for name, kind, expression, expect, fooled in ROWS
    ]
    return _table(("output", "answer and flags", "what is printed (Python)", "right verdict", "a naive comparison accepts"), rows)


def render_packages() -> str:
    """Validators, graders, build scripts, trees, YAML and archives by name."""
    from escape import test_judge_packages as read
    from escape import test_judge_validators as run

    def names(rows: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in rows)

    by_code: dict[str, list[str]] = {}
    for name, _, expect in run.VALIDATORS:
        by_code.setdefault(expect.replace("|", " or "), []).append(name)
    rows = [("validator", names(found), code) for code, found in by_code.items()]
    rows.append(("feedback file", names(run.LINKS), "nothing is followed or waited for"))
    rows.append(("`score.txt`", names(run.SCORES), "JE"))
    by_code = {}
    for name, _, expect in run.GRADERS:
        by_code.setdefault(expect, []).append(name)
    rows += [("grader", names(found), code) for code, found in by_code.items()]
    by_code = {}
    for name, _, expect in run.BUILDS:
        by_code.setdefault(expect.replace("|", " or "), []).append(name)
    rows += [("build script of a validator", names(found), code) for code, found in by_code.items()]
    rows.append(("`nextpass.in`", names(run.PASSES), "ends; JE where it is no input"))
    rows.append(("tree", names(name for name, _, _ in read.TREES if name != "nothing"), "refused with its place, or not read"))
    rows.append(("`problem.yaml`", names(read.YAMLS), "refused with file and line"))
    rows.append(("flags", names(read.FLAGS), "words of the command, no shell"))
    rows.append(("archive", names(read.ARCHIVES), "nothing outside, nothing followed, bounded"))
    rows.append(("damaged archive", names(read.DAMAGES), "refused, or judged as if whole"))
    return _table(("what", "hostile kinds", "comes of it"), rows)


def render_page(text: str) -> str:
    """Return the page with every table written anew."""
    for name, render in (("submissions", render_submissions), ("outputs", render_outputs), ("packages", render_packages)):
        start = START.format(name)
        before, found, rest = text.partition(start)
        if not found:
            raise AssertionError(f"{PAGE}: no place for the {name}")
        text = f"{before}{start}\n{render()}\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text()))
