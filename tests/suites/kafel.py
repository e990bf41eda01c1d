"""Our policies as kafel text, compiled by kafel itself, against our own filters: the same, for every call of the architecture?

Run by hand: ``python tests/suites/kafel.py CHECKOUT [POLICY]…`` with a built checkout of https://github.com/google/kafel (``make`` needs flex and
bison), which is not part of this repository. With ``SANDBOX_KAFEL=CHECKOUT`` the tests run it. What may differ, because kafel has no words for it:
calls of other architectures (it kills the thread), and on x86_64 x32's numbers (they get the default). Exit status 0 when nothing else does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError
from sandbox.policy import locate
from sandbox.policy.load import load_policy
from sandbox.policy.model import Action
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.convert_kafel import convert_to_kafel
from sandbox.seccomp.evaluate import decode
from sandbox.seccomp.prove import Difference, ProgramDecider, describe_value, differences

SHIPPED = tuple(name for name in locate.names("policies"))


def build(checkout: str, directory: str) -> str:
    """Return the path of a program that compiles kafel text, built in a directory."""
    program = os.path.join(directory, "kafel")
    source = str(Path(__file__).with_name("kafel.c"))
    subprocess.run(["cc", "-O1", "-I", f"{checkout}/include", "-o", program, source, f"{checkout}/libkafel.a"], check=True)
    return program


def compare(program: str, text: str, bpf: bytes, arch: Arch) -> tuple[int, tuple[Difference, ...]]:
    """Return how many instructions kafel needs, and where its filter differs from ours."""
    made = subprocess.run([program, arch], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    return len(made) // 8, differences(ProgramDecider(decode(made)), ProgramDecider(decode(bpf)), arch)


def study(checkout: str, names: tuple[str, ...] = SHIPPED, write: Callable[[str], object] = print) -> bool:
    """Compare policies; return whether all are equal but for what kafel cannot say."""
    good = True
    with tempfile.TemporaryDirectory() as directory:
        program = build(checkout, directory)
        for name in names:
            policy = load_policy(name)
            for arch in Arch:
                for notify in (True, False):
                    try:
                        text = convert_to_kafel(policy, arch, notify=notify)
                    except CompileError as error:
                        good = good and policy.default.action in (Action.ALLOW, Action.LOG)
                        write(f"{name} {arch}: refused: {error.message}")
                        continue
                    ours = compile_filter(policy, arch, notify=notify)
                    size, found = compare(program, text, ours.bpf, arch)
                    wrong = [one for one in found if one.kind not in ("foreign", "x32")]
                    good = good and not wrong
                    kinds = ", ".join(sorted({one.kind for one in found}))
                    write(
                        f"{name} {arch}{'' if notify else ' without a listener'}: kafel's {size} instructions, ours {ours.instructions}: "
                        f"{'DIFFERENT' if wrong else 'equal'} but for {kinds or 'nothing'}"
                    )
                    for one in wrong:
                        write(f"    {one.call}: kafel's {describe_value(one.left)}, ours {describe_value(one.right)}")
    return good


def main(words: list[str]) -> int:
    """Study the policies named, by default all that are shipped."""
    if not words:
        print(__doc__)
        return 2
    return 0 if study(words[0], tuple(words[1:]) or SHIPPED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
