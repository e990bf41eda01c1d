"""``sandbox policy explain``: which rule decides a call, where it stands, why, and that the compiled filter does the same."""

from __future__ import annotations

from sandbox.cli.options import Option, UsageError
from sandbox.cli.policy_text import HELP, JSON, need, paint, parse, print_json, printable, show_place, wrap_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.explain import Case
    from sandbox.seccomp.shape import Abi, CallShape

OPTIONS = (
    Option(
        name="arch",
        short="a",
        metavar="ARCH",
        help="x86_64, aarch64, x32 or i386 (int 0x80); default: this machine's",
        values=("x86_64", "aarch64", "x32", "i386"),
    ),
    JSON,
    HELP,
)
_TEXT = """Tell what happens to calls, by which rule, and why. A CALL is a system call's name or number, with or without arguments:
socket(AF_INET, SOCK_STREAM, 0), ioctl(cmd=TIOCSTI), openat, 41. Where the decision depends on what is not given, every case is told."""


def run(words: list[str]) -> int:
    """Explain calls."""
    parsed = parse(words, OPTIONS, "explain", "[--arch ARCH] [--json] POLICY 'CALL'...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 2, None, "a policy and a call", "explain")
    from sandbox.policy.load import load_policy
    from sandbox.seccomp.explain import explain_shape
    from sandbox.seccomp.shape import parse_call

    abi = choose_abi(options)
    policy = load_policy(operands[0])
    shapes = [parse_call(text, abi) for text in operands[1:]]
    report = []
    for at, shape in enumerate(shapes):
        found = explain_shape(policy, shape)
        filtered = _filtered(policy, shape, found)
        if "json" in options:
            cases = [case_json(case) | {"filter": returned} for case, returned in zip(found, filtered, strict=True)]
            report.append(
                {
                    "call": shape.text,
                    "abi": shape.abi,
                    "syscall": shape.syscall,
                    "number": shape.number,
                    "policy": policy.name,
                    "cases": cases,
                }
            )
            continue
        if at:
            print()
        print("\n".join(_lines(shape, found, filtered)))
    if "json" in options:
        print_json(report)
    return 0


def choose_abi(options: dict[str, list[str]]) -> Abi:
    """Return how calls are made, by ``--arch``; by default as this machine's own."""
    from sandbox.cli.policy_text import choose_arch
    from sandbox.policy.nearest import suggest
    from sandbox.seccomp.shape import ABIS

    words = options.get("arch")
    if words is None:
        return choose_arch({}).value
    alias = {"int80": "i386"}.get(words[0], words[0])
    for abi in ABIS:
        if abi == alias:
            return abi
    raise UsageError(f"unknown architecture `{words[0]}`; known: {', '.join(ABIS)}", hint=suggest(words[0], ABIS))


def _filtered(policy: SyscallPolicy, shape: CallShape, found: tuple[Case, ...]) -> list[str]:
    """Return what the compiled filter gives the example of each case.

    Raises:
        InternalError: that is not what the text says.
    """
    from sandbox.errors import InternalError
    from sandbox.policy.model import Action, Outcome
    from sandbox.seccomp.cache import load_filter
    from sandbox.seccomp.evaluate import RET_USER_NOTIF, decode, describe_return, pack_data, run_program
    from sandbox.seccomp.prove_policy import outcome_value

    program = decode(load_filter(policy, shape.arch).bpf)
    result = []
    for case in found:
        value = run_program(program, pack_data(shape.number, shape.arch_word, case.arguments))
        expected = outcome_value(Outcome(action=case.outcome.action, errno=case.outcome.errno), notify=True)
        if value != expected:
            raise InternalError(
                f"filter of `{policy.name}` gives `{shape.text}` {describe_return(value)}, the text says {describe_return(expected)}",
                hint="please report this with the policy",
            )
        if value == RET_USER_NOTIF and case.outcome.action is Action.EMULATE:
            told = ": the supervisor answers; allow without a machine view"
        else:
            told = ": the supervisor refuses and records it" if value == RET_USER_NOTIF else ""
        result.append(describe_return(value) + told)
    return result


def decision(case: Case) -> str:
    """Return what happens, as ``errno EPERM, not recorded``."""
    from sandbox.seccomp.explain import is_permitted, is_recorded, outcome_text

    text = paint(outcome_text(case.outcome), "good" if is_permitted(case.outcome) else "bad")
    return f"{text}, not recorded" if is_recorded(case.outcome) is False else text


def condition_text(case: Case, *, first: bool) -> str:
    """Return for which calls a case is, as ``when …``, ``otherwise``, or nothing for all."""
    if case.otherwise or (not case.condition and not first):
        return "otherwise"
    return f"when {printable(case.condition)}" if case.condition else ""


def example_text(shape_arch: str, number: int, case: Case) -> str:
    """Return a case's example call in words."""
    from sandbox.abi.arch import Arch, audit_arch
    from sandbox.seccomp.prove import Call

    arch = Arch(shape_arch)
    return str(Call(arch=arch, arch_word=audit_arch(arch), number=number, arguments=case.arguments))


def _lines(shape: CallShape, found: tuple[Case, ...], filtered: list[str]) -> list[str]:
    entry = {"x32": " as an x32 call", "i386": " by int 0x80"}.get(shape.abi, "")
    lines = [paint(f"{printable(shape.text)}{entry}", "head")]
    for at, (case, returned) in enumerate(zip(found, filtered, strict=True)):
        if len(found) > 1:
            lines += wrap_text(condition_text(case, first=at == 0), first="  ", indent="      ")
        pad = "    " if len(found) > 1 else "  "
        lines.append(f"{pad}{decision(case)}")
        lines += _rule_lines(case, pad)
        if len(found) > 1:
            lines += wrap_text(example_text(shape.arch, shape.number, case), first=f"{pad}example  ", indent=f"{pad}         ")
        lines.append(f"{pad}filter   {returned}")
    return lines


def _rule_lines(case: Case, pad: str) -> list[str]:
    if case.foreign:
        reason = "calls of other architectures, and x32's, kill the process whatever a policy says"
        return wrap_text(reason, first=f"{pad}reason   ", indent=f"{pad}         ")
    if case.entry is None:
        assert case.ref is not None
        return [f"{pad}rule     {show_place(case.ref)}, the default of `{case.ref.name}`", f"{pad}reason   {case.ref.reason}"]
    rule = case.entry.rule
    lines = [f"{pad}rule     {show_place(case.ref)}, rule {rule.index} of `{case.entry.layer.name}`"]
    if rule.condition_text:
        lines += wrap_text(printable(rule.condition_text), first=f"{pad}when     ", indent=f"{pad}         ")
    if rule.reason:
        lines += wrap_text(printable(rule.reason), first=f"{pad}reason   ", indent=f"{pad}         ")
    return lines


def case_json(case: Case) -> dict[str, object]:
    """Return a case as JSON; `when` is what is left of the rule's condition, `rule_when` all of it."""
    from sandbox.seccomp.explain import is_recorded, outcome_text

    ref = case.ref
    return {
        "decision": outcome_text(case.outcome),
        "recorded": is_recorded(case.outcome),
        "when": case.condition,
        "otherwise": case.otherwise,
        "file": ref.file if ref is not None else None,
        "line": ref.line if ref is not None else None,
        "policy": ref.name if ref is not None else None,
        "rule": case.entry.rule.index if case.entry is not None else None,
        "rule_when": case.entry.rule.condition_text if case.entry is not None else "",
        "reason": ref.reason if ref is not None else "",
        "example": [hex(value) for value in case.arguments],
    }
