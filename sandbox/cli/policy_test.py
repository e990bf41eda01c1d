"""``sandbox policy test``: hold policies to files of expected decisions."""

from __future__ import annotations

from sandbox.cli.options import Option
from sandbox.cli.policy_text import HELP, JSON, need, paint, parse, print_json, printable, show_place, wrap, wrap_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.expectations import ExpectationFile
    from sandbox.seccomp.expect import Check

OPTIONS = (
    Option(name="verbose", short="v", help="print the calls that are decided as expected, too"),
    Option(name="coverage", short="c", help="list the rules that no case of the files touches"),
    JSON,
    HELP,
)
_TEXT = """Run files of expected decisions (sandbox-policy-test(5)). A call with missing arguments stands for all of their values.
Exit status: 0 when all is as expected, 1 when not, 125 for errors."""


def run(words: list[str]) -> int:
    """Run test files."""
    parsed = parse(words, OPTIONS, "test", "[--verbose] [--coverage] [--json] FILE...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which files to run", "test")
    from sandbox.policy.expectations import load_expectations
    from sandbox.seccomp.expect import run_expectations

    files = [load_expectations(path) for path in operands]  # a mistake in the last one should not come after minutes
    report = []
    every: list[Check] = []
    status = 0
    for file in files:
        checks = []
        for check in run_expectations(file):
            checks.append(check)
            if "json" in options:
                report.append(_as_json(check))
            elif check.failure is not None or "verbose" in options:
                print("\n".join(_lines(check)))
        every += checks
        failed = sum(check.failure is not None for check in checks)
        status = 1 if failed else status
        if "json" not in options:
            print(_summary(file, checks, failed))
    if "json" in options:
        print_json(report)
    elif "coverage" in options:
        print("\n".join(_untouched(files, every)))
    return status


def _untouched(files: list[ExpectationFile], checks: list[Check]) -> list[str]:
    from sandbox.policy.load import load_policy
    from sandbox.seccomp.expect import untouched_rules

    lines = []
    for name in dict.fromkeys(name for file in files for name in file.policies):
        policy = load_policy(name)
        left = untouched_rules(policy, checks)
        lines.append(f"{policy.name}: {'every rule is touched' if not left else f'{len(left)} rules are not touched'}")
        for entry in left:
            named = dict.fromkeys(f"@{mention.group}" if mention.group else mention.syscall for mention in entry.rule.mentions)
            lines += wrap(named, first=f"  {show_place(entry.ref)}  ", indent="      ")
    return lines


def _lines(check: Check) -> list[str]:
    from sandbox.seccomp.expect import expected_text

    failure = check.failure
    where = f"{printable(check.place.file)}:{check.place.line}"
    head = f"{printable(check.text)} in {check.policy} for {check.abi}"
    if failure is None:
        return [f"{where}: {paint('ok', 'good')}  {head}: {expected_text(check.expectation)}"]
    recorded = "" if failure.recorded is not False else ", not recorded"
    lines = [f"{where}: {paint('FAILED', 'bad')}  {head}: expected {expected_text(check.expectation)}, but"]
    lines += wrap_text(f"{failure.call} gets {failure.actual}{recorded}", first="    ", indent="        ")
    if failure.rule is not None:
        reason = f"  {printable(failure.rule.reason)}" if failure.rule.reason else ""
        lines += wrap_text(f"{show_place(failure.rule)}{reason}", first="    by ", indent="        ")
    if check.expectation.why:
        lines += wrap_text(printable(check.expectation.why), first="    expected because ", indent="        ")
    return lines


def _summary(file: ExpectationFile, checks: list[Check], failed: int) -> str:
    examples = sum(check.examples for check in checks)
    verdict = paint(f"{failed} FAILED", "bad") if failed else paint("ok", "good")
    texts = f"{len(file.cases)} case{'s' if len(file.cases) != 1 else ''}"
    return f"{verdict}  {printable(file.path)}: {texts}, {len(checks)} checks, {examples} calls run ({printable(', '.join(file.policies))})"


def _as_json(check: Check) -> dict[str, object]:
    from sandbox.seccomp.expect import expected_text

    failure = check.failure
    result: dict[str, object] = {
        "file": check.place.file,
        "line": check.place.line,
        "policy": check.policy,
        "call": check.text,
        "abi": check.abi,
        "expected": expected_text(check.expectation),
        "why": check.expectation.why,
        "ok": failure is None,
    }
    if failure is not None:
        result |= {
            "example": failure.call,
            "actual": failure.actual,
            "recorded": failure.recorded,
            "rule_file": failure.rule.file if failure.rule is not None else None,
            "rule_line": failure.rule.line if failure.rule is not None else None,
        }
    return result
