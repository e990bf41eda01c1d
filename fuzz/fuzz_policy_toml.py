"""Bytes as a policy file: only `PolicyError` may come out, with a place that exists; what is accepted means what a second reading says.

An even first byte: the rest is the file. An odd one: the rest decides how a mostly right file is built, and then spoiled in a few places.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import grammar
    from fuzz.choose import Bytes
    from fuzz.policies import agree, check_error, load, oracle_of, outcome, write_files
    from sandbox.abi.arch import Arch
    from sandbox.errors import PolicyError
    from sandbox.policy.mistakes import load_or_explain

HEAD = 'name = "p"\ndescription = "d"\n'
WORDS = (
    'name = "p"', 'description = "d"', "extends = [", 'default = "errno ENOSYS"', "default_audit = false", "[[rule]]", "[rule]", "rule = [", "syscalls = [",
    '"@clock"', '"@keyring"', '"ioctl"', '"socket"', '"clone"', 'action = "allow"', '"errno EPERM"', '"notify EPERM"', '"kill-process"', "when = '", "else = ",
    "audit = true", "reason = ", "cmd == TIOCSTI", "family in {AF_UNIX, AF_INET}", " and ", " or ", "not in", "flags & ~(O_CREAT | O_TRUNC)", '"""', "'''",
    "\\u0000", "\ufeff", "\r\n", "0xffffffffffffffff", "register(", "{", "}", "[[", "]]", "#", '"base"', '"strict"', '"./p.toml"', '"/dev/zero"', "1979-05-27",
    "9" * 4400, "0x" + "9" * 20,
)  # fmt: skip
SEEDS = (
    b"\0" + HEAD.encode() + b'default = "errno ENOSYS"\n[[rule]]\nsyscalls = ["read"]\naction = "allow"\n',
    b"\0" + HEAD.encode() + b'extends = ["base"]\n[[rule]]\nsyscalls = ["@clock", "ioctl"]\naction = "errno EPERM"\nreason = "r"\n',
    b"\0"
    + HEAD.encode()
    + b"default = 'trap'\n[[rule]]\nsyscalls = ['socket']\naction = 'allow'\nwhen = 'family == AF_UNIX'\nelse = 'errno EPERM'\n",
    b"\1" + bytes(range(256)) * 2,
)


def one_input(data: bytes) -> str:
    """Load one file and ask both readings about calls around its conditions."""
    kind, rest = data[:1], data[1:]
    chooser = Bytes(rest)
    if kind and kind[0] & 1:
        content = spoil(chooser, grammar.policy(chooser, shape=grammar.Shape(spoil=True)))
    else:
        content = rest
    folder = write_files({"p.toml": content})
    policy = load(f"{folder}/p.toml")
    if isinstance(policy, PolicyError):
        if len(data) % 4 == 0:  # it reads a file again for each mistake
            every_mistake(f"{folder}/p.toml", policy)
        return outcome(policy)
    judge = oracle_of(policy)
    chooser = Bytes(data[::-1])
    for arch in Arch:
        for number, registers in grammar.calls(chooser, judge, arch, 12):
            agree(policy, judge, arch, number, registers)
    return f"accepted, {len(policy.stack)} files, {len(policy.stack[0].rules)} rules"


def every_mistake(path: str, first: PolicyError) -> None:
    """Make sure that listing all mistakes of a refused file finds some, each with its place."""
    policy, mistakes = load_or_explain(path)
    assert policy is None and mistakes, f"no mistake is found, but loading says: {first}"
    for mistake in mistakes:
        check_error(mistake)


def spoil(chooser: Bytes, text: str) -> bytes:
    """Return a file with a few places changed: characters, words, lines."""
    lines = text.split("\n")
    for _ in range(chooser.integer(0, 2)):
        at = chooser.integer(0, len(lines) - 1)
        line = lines[at]
        place = chooser.integer(0, len(line))
        match chooser.integer(0, 6):
            case 0:
                lines[at] = line[:place] + chr(chooser.integer(0, 0x7F)) + line[place + 1 :]
            case 1:
                lines[at] = line[:place] + line[place + 1 :]
            case 2:
                lines[at] = line[:place] + chooser.pick(WORDS) + line[place:]
            case 3:
                lines.insert(at, chooser.pick(lines))
            case 4:
                del lines[at]
                lines = lines or [""]
            case 5:
                lines[at] = line.replace("==", chooser.pick(("=", "<", "in", "&", "===")))
            case 6:
                other = chooser.integer(0, len(lines) - 1)
                lines[at], lines[other] = lines[other], line
    content = "\n".join(lines).encode()
    if chooser.odds(30):
        at = chooser.integer(0, len(content))
        content = content[:at] + bytes([chooser.integer(128, 255)]) + content[at:]
    return content


if __name__ == "__main__":
    engine.main("policy_toml", one_input, SEEDS, WORDS)
