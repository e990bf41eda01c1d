"""``sandbox policy prove``: that the compiled filter gives every call what the text says, or a call for which it does not."""

from __future__ import annotations

from sandbox.cli.options import Option
from sandbox.cli.policy_text import HELP, JSON, choose_arch, need, paint, parse, print_json, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.seccomp.prove import Counterexample, Proof

OPTIONS = (
    Option(name="arch", short="a", metavar="ARCH", help="x86_64 or aarch64; default: both", values=("x86_64", "aarch64")),
    Option(name="no-notify", help="as filters are without a supervisor (--no-audit)"),
    JSON,
    HELP,
)
_TEXT = """Compile each policy and compare the filter with the policy's text over all calls: every architecture word, number and argument value.
Exit status: 0 when proven, 1 when a call refutes it, 125 for errors."""


def run(words: list[str]) -> int:
    """Prove policies."""
    parsed = parse(words, OPTIONS, "prove", "[--arch ARCH] [--no-notify] [--json] POLICY...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which policies to prove", "prove")
    from sandbox.abi.arch import Arch
    from sandbox.errors import InternalError
    from sandbox.policy.load import load_policy
    from sandbox.seccomp.compile import compile_filter
    from sandbox.seccomp.prove import Proof, prove

    arches = [choose_arch(options)] if "arch" in options else list(Arch)
    status = 0
    report: list[dict[str, object]] = []
    for operand in operands:
        policy = load_policy(operand)
        for arch in arches:
            entry: dict[str, object] = {"policy": policy.name, "arch": str(arch)}
            report.append(entry)
            try:
                # Compiling proves, too, and refuses to return what is wrong; here the very bytes are proven for what is printed.
                result = prove(compile_filter(policy, arch, notify="no-notify" not in options), policy)
            except InternalError as error:
                entry |= {"proven": False, "message": error.message}
                verdict, text = paint("refuted", "bad"), error.message
            else:
                entry |= _describe(result)
                proven = isinstance(result, Proof)
                verdict = paint("proven", "good") if proven else paint("refuted", "bad")
                text = str(result) if proven else f"policy {policy.name} for {arch}: {result}"
            if not entry["proven"]:
                status = 1
            if "json" not in options:
                print(f"{verdict}  {printable(text)}")
    if "json" in options:
        print_json(report)
    return status


def _describe(result: Proof | Counterexample) -> dict[str, object]:
    from sandbox.seccomp.prove import Proof, describe_value

    if isinstance(result, Proof):
        return {
            "proven": True, "instructions": result.instructions, "cases": result.cases, "nodes": result.nodes,
            "seconds": round(result.seconds, 3), "proof": result.digest,
        }  # fmt: skip
    return {
        "proven": False, "message": str(result), "call": str(result.call), "expected": describe_value(result.expected),
        "actual": describe_value(result.actual),
    }  # fmt: skip
