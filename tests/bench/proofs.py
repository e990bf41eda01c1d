"""How long a policy takes from text to a filter that may be used, and how much of that is its proof. Processor time, so that other work does not count."""

from __future__ import annotations

import statistics
import time

from sandbox.abi.arch import Arch
from sandbox.policy import locate
from sandbox.policy.load import load_policy
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.prove import Proof, prove


def main(rounds: int) -> int:
    """Print the table."""
    print(
        "| policy | architecture | listener | instructions | nodes | cases | compile and prove, s | proof alone, s |\n|---|---|---|---:|---:|---:|---:|---:|"
    )
    for path in sorted(locate.data_dir("policies").glob("*.toml")):
        if path.stem == "groups":
            continue
        policy = load_policy(path.stem)
        for arch in Arch:
            for notify in (True, False):
                compiling, proving = [], []
                for _ in range(rounds):
                    began = time.process_time()
                    made = compile_filter(policy, arch, notify=notify)
                    middle = time.process_time()
                    found = prove(made, policy)
                    proving.append(time.process_time() - middle)
                    compiling.append(middle - began)
                    if not isinstance(found, Proof):
                        raise SystemExit(str(found))
                    proof = found
                row = (path.stem, arch, "yes" if notify else "no", proof.instructions, proof.nodes, proof.cases)
                print(
                    "| " + " | ".join(map(str, row)) + f" | {statistics.median(compiling):.2f} | {statistics.median(proving):.2f} |",
                    flush=True,
                )
    return 0
