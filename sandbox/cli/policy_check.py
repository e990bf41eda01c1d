"""``sandbox policy check``: every mistake with its place; then the filters, compiled and proven; then what the policy may not mean."""

from __future__ import annotations

from sandbox.cli.options import Option
from sandbox.cli.policy_text import HELP, JSON, need, paint, parse, print_json, printable, show_path

OPTIONS = (
    Option(name="strict", short="s", help="warnings count: exit 1"),
    Option(name="accept", metavar="ID", help="leave out the warnings of one kind", many=True),
    JSON,
    HELP,
)
_TEXT = """Load each policy, compile it for both architectures, prove that the filters do what it says, and warn of known gaps.
Exit status: 0 when nothing is wrong, 1 when something is, 125 when it could not be found out."""


def run(words: list[str]) -> int:
    """Check policies."""
    parsed = parse(words, OPTIONS, "check", "[--strict] [--accept ID] [--json] POLICY...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which policies to check", "check")
    from sandbox.policy.mistakes import load_or_explain

    accepted = _accepted(options.get("accept", []))
    status = 0
    report: list[dict[str, object]] = []
    for operand in operands:
        policy, mistakes = load_or_explain(operand)
        errors = [{"message": each.message, "origin": each.origin, "hint": each.hint} for each in mistakes]
        entry: dict[str, object] = {
            "policy": policy.name if policy is not None else operand,
            "errors": errors,
            "filters": [],
            "warnings": [],
        }
        report.append(entry)
        if policy is None:
            status = 1
            if "json" not in options:
                _print_mistakes(operand, entry)
            continue
        from sandbox.abi.arch import Arch
        from sandbox.errors import CompileError
        from sandbox.seccomp.compile import compile_filter
        from sandbox.seccomp.lint import lint

        filters = []
        for arch in Arch:
            try:
                compiled = compile_filter(policy, arch)
            except CompileError as error:
                errors.append({"message": error.message, "origin": error.origin, "hint": error.hint})
                status = 1
                continue
            filters.append({"arch": str(arch), "instructions": compiled.instructions, "digest": compiled.digest, "proof": compiled.proof})
        warnings = [found for found in lint(policy) if found.id not in accepted]
        entry |= {
            "filters": filters,
            "rules": sum(len(layer.rules) for layer in policy.stack),
            "warnings": [
                {"id": found.id, "file": found.ref.file, "line": found.ref.line, "message": found.message, "advice": found.advice}
                for found in warnings
            ],
        }
        if warnings and "strict" in options:
            status = 1
        if "json" in options:
            continue
        if errors:
            _print_mistakes(operand, entry)
        else:
            files = ", ".join(show_path(layer.path) for layer in policy.stack)
            sizes = ", ".join(f"{each['instructions']} instructions for {each['arch']}" for each in filters)
            print(f"{paint('ok', 'good')}  {printable(policy.name)}: {entry['rules']} rules ({files}); {sizes}, proven")
        for found in warnings:
            print(f"{show_path(found.ref.file)}:{found.ref.line}: {paint('warning', 'warn')} {found.id}: {printable(found.message)}")
            print(f"    {printable(found.advice)}")
    if "json" in options:
        print_json(report)
    return status


def _accepted(words: list[str]) -> frozenset[str]:
    if not words:
        return frozenset()
    from sandbox.cli.options import UsageError
    from sandbox.policy.nearest import suggest
    from sandbox.seccomp.lint import IDS

    for word in words:
        if word not in IDS:
            raise UsageError(f"unknown warning `{word}`", hint=suggest(word, IDS) or "sandbox-policy(1) lists them")
    return frozenset(words)


def _print_mistakes(operand: str, entry: dict[str, object]) -> None:
    errors = entry["errors"]
    assert isinstance(errors, list)
    print(f"{paint('wrong', 'bad')}  {printable(operand)}: {len(errors)} mistake{'s' if len(errors) > 1 else ''}")
    for error in errors:
        place = "".join(f"{printable(line)}: " for line in str(error["origin"] or "").split("\n")[:1] if line)
        print(f"  {place}{printable(error['message'])}")
        if error["hint"]:
            print(f"    hint: {printable(error['hint'])}")
