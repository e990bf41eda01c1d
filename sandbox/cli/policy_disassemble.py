"""``sandbox policy disassemble``: the compiled filter as text that can be reviewed."""

from __future__ import annotations

from sandbox.cli.options import Option
from sandbox.cli.policy_text import ARCH, HELP, choose_arch, need, parse

OPTIONS = (ARCH, Option(name="no-notify", help="as filters are without a supervisor (--no-audit)"), HELP)
_TEXT = "Print the compiled and proven filter, one instruction a line."


def run(words: list[str]) -> int:
    """Print a filter's listing."""
    parsed = parse(words, OPTIONS, "disassemble", "[--arch ARCH] [--no-notify] POLICY", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, 1, "which policy to disassemble", "disassemble")
    from sandbox.policy.load import load_policy
    from sandbox.seccomp.compile import compile_filter
    from sandbox.seccomp.disassemble import disassemble

    print(disassemble(compile_filter(load_policy(operands[0]), choose_arch(options), notify="no-notify" not in options)), end="")
    return 0
