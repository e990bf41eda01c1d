"""``sandbox policy COMMAND``: the tools around policies. Each command is the module ``policy_COMMAND`` beside this one, imported when it is called.

Such a module has `OPTIONS` (for its help and for completion) and ``run(words) -> int``. Exit status: 0, 1 for findings as diff(1) and grep(1) have it, 125
for errors.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from sandbox.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_TABLE = {
    "check": "find mistakes and gaps, compile and prove",
    "show": "what happens to each system call",
    "explain": "which rule decides a call, and why",
    "test": "run files of expected decisions",
    "diff": "the calls that two policies decide differently",
    "new": "write a policy that allows or refuses a little more",
    "prove": "show that the filter does what the text says",
    "disassemble": "print the compiled filter",
    "convert": "read and write other programs' policies",
    "schema": "print the JSON Schema for editors",
}


def commands() -> dict[str, str]:
    """Return command → what it does, for those that this installation has."""
    return {name: text for name, text in _TABLE.items() if find_spec(_module(name)) is not None}


def load_command(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(_module(name))


def _module(name: str) -> str:
    return f"sandbox.cli.policy_{name}"


def run(words: list[str]) -> int:
    """Run one of the tools."""
    known = commands()
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: sandbox policy COMMAND [OPTION...] POLICY...\n\nTools for system call policies. POLICY is a name or a path.\n")
        print("\n".join(f"  {name:<13}{text}" for name, text in known.items()))
        print("\n  sandbox policy explain strict 'socket(AF_VSOCK, SOCK_STREAM, 0)'\n\n`sandbox policy COMMAND --help` tells more.")
        return 0 if words else 125
    if words[0] not in known:
        from difflib import get_close_matches

        close = get_close_matches(words[0], known, n=1)
        hint = f"did you mean `sandbox policy {close[0]}`?" if close else "see `sandbox policy --help`"
        raise UsageError(f"unknown command `policy {words[0]}`", hint=hint)
    status = int(load_command(words[0]).run(words[1:]))
    sys.stdout.flush()  # here, where a reader that went away is dealt with
    return status
