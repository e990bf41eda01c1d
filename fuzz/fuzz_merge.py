"""Random stacks of policy files, and the laws of stacking.

- what the stack decides is what a naive reading of the files decides;
- a file on top that only allows never makes a call refused, one that only refuses never makes one allowed;
- extending what is already extended changes nothing: a file counts once, wherever it is named again;
- two files that name different calls may be named in either order.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import grammar
    from fuzz.choose import Bytes, Chooser
    from fuzz.policies import agree, load, oracle_of, outcome, write_files
    from sandbox.abi.arch import Arch
    from sandbox.errors import PolicyError
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.decide import decide

PERMITTED = ("allow", "log")


def one_input(data: bytes) -> str:
    """See `stacks`."""
    return stacks(Bytes(data))


def replay(text: str) -> str:
    """Hold files that are written out to the laws: each after a line ``#file NAME``, `p` last, which extends the one before it."""
    files = dict(part.split("\n", 1) for part in text.split("#file ")[1:])
    return hold(Bytes(text.encode()[::-1]), files, list(files)[-2], 2)


def stacks(chooser: Chooser) -> str:
    """Build a stack of files and hold it to the laws."""
    names = ["a", "b", "c", "e"][: chooser.integer(1, 4)]
    files = {}
    for at, name in enumerate(names):
        below = tuple(f"./{other}.toml" for other in names[:at] if chooser.odds(2))
        shape = grammar.Shape(final=at == 0 or chooser.odds(2))
        files[name] = grammar.policy(chooser, name, below, shape, default=not below)
    top = names[-1]
    extended = (f"./{top}.toml",)
    kind = chooser.integer(0, 3)
    upper = {
        0: grammar.Shape(actions=grammar.ALLOWING, final=chooser.odds(2)),
        1: grammar.Shape(actions=grammar.REFUSING, final=chooser.odds(2)),
    }.get(kind, grammar.Shape())
    if kind == 3:
        extended = tuple(f"./{name}.toml" for name in dict.fromkeys((*names[:-1], *names[: chooser.integer(0, 2)], top)) if name in names)
    files["p"] = (
        without_else(grammar.policy(chooser, "p", extended, upper, default=False)) if kind < 2 else grammar.policy(chooser, "p", extended)
    )
    return hold(chooser, files, top, kind)


def hold(chooser: Chooser, files: dict[str, str], top: str, kind: int) -> str:
    """Hold a stack of files to the laws.

    Args:
        chooser: where the calls come from.
        files: name → text, with `p`.
        top: the policy that `p` extends last.
        kind: 0 if `p` only allows, 1 if it only refuses.
    """
    folder = write_files({f"{name}.toml": text.encode() for name, text in files.items()}, "stack")
    base, whole = load(f"{folder}/{top}.toml"), load(f"{folder}/p.toml")
    if isinstance(base, PolicyError):
        # What a file leaves open, the one on top may close; a mistake within a file is one in every stack.
        open_ends = ("no rule decides", "no `default`", "rule changes nothing")
        assert isinstance(whole, PolicyError) or base.message.startswith(open_ends), "a stack is right although the file below is wrong"
        return outcome(base)
    if isinstance(whole, PolicyError):
        return f"p: {outcome(whole)}"
    law = {0: (PERMITTED, "allow"), 1: None}.get(kind)
    judge = oracle_of(whole)
    for arch in Arch:
        for number, registers in grammar.calls(chooser, judge, arch, 16):
            after = agree(whole, judge, arch, number, registers)[0]
            before = str(decide(base, arch, number, registers).action)
            same_default = whole.default == base.default
            if law is not None and same_default and before in PERMITTED:
                assert after in PERMITTED, f"a file that only allows refused {number} {registers}: {before}, then {after}"
            if kind == 1 and same_default and before not in PERMITTED:
                assert after not in PERMITTED, f"a file that only refuses allowed {number} {registers}: {before}, then {after}"
    once(files, folder, whole)
    return f"{len(whole.stack)} files, {kind}"


def without_else(text: str) -> str:
    """Return a file without its `else` lines: what does not match goes on to the file below."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("else"))


def once(files: dict[str, str], folder: str, whole: SyscallPolicy) -> None:
    """Name every file of the stack once more, from the bottom: nothing may change."""
    bottom_up = [layer.name for layer in reversed(whole.stack)][:-1]
    before, _, after = files["p"].partition("extends = ")
    if not after or not bottom_up:
        return
    listed = ", ".join(f'"./{name}.toml"' for name in bottom_up)
    again = f"{before}extends = [{listed}]{after.partition(']')[2]}"
    write_files({"p.toml": again.encode()}, "stack")
    flat = load(f"{folder}/p.toml")
    assert not isinstance(flat, PolicyError), str(flat)
    assert [layer.name for layer in flat.stack] == [layer.name for layer in whole.stack]
    assert {name: [(entry.layer.name, entry.rule.index) for entry in entries] for name, entries in flat.rules.items()} == {
        name: [(entry.layer.name, entry.rule.index) for entry in entries] for name, entries in whole.rules.items()
    }


if __name__ == "__main__":
    engine.main("merge", one_input, [bytes(range(seed, 256)) * 2 for seed in range(4)], replay=replay)
