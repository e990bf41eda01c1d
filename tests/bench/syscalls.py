"""What a filter costs: system calls in a C loop without a filter, under ours and under others, and the installing of each filter.

Paired and interleaved: one process for each filter, all on one processor; each round asks every process once, in an order shuffled anew, and ratios are
medians of the rounds' own. Needs gcc; `--docker FILE` takes Docker's default profile (moby/profiles, seccomp/default.json).
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyseccomp
from docker import LIST, TREE, compile_docker, empty_filter, export_filter

from sandbox.abi.arch import native_arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.load import load_policy
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.lower import Tree, decision_tree, return_value

CALLS = ("getpid", "read", "openat+close", "futex", "fcntl", "ioctl")
_SOURCE = Path(__file__).with_name("syscalls.c")
_LOOPS = 20_000


def main(rounds: int, policies: tuple[str, ...], docker: str | None, seed: int) -> int:
    """Measure and print."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        print("syscalls: no C compiler; `apt-get install gcc`")
        return 2
    cpu = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        program = Path(directory, "syscalls")
        subprocess.run([compiler, "-O2", "-o", str(program), str(_SOURCE)], check=True)
        filters = dict(_filters(policies, docker))
        paths = {}
        for index, (name, bpf) in enumerate(filters.items()):
            paths[name] = Path(directory, f"{index}.bpf")
            paths[name].write_bytes(bpf)
        os.sched_setaffinity(0, {cpu})
        ask: dict[str, Callable[[str], float]] = {}
        for name in ("no filter", *filters):
            line = [str(program), *([str(paths[name])] if name in paths else [])]
            process = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            ask[name] = _asker(process)
        order = random.Random(seed)
        print(
            f"processor {cpu}, {rounds} rounds of {_LOOPS} calls, uid {os.geteuid()}, load {os.getloadavg()[0] / (os.cpu_count() or 1):.1f} a processor\n"
        )
        print("| | instructions | install, µs | " + " | ".join(CALLS) + " |\n|---|---:|---:|" + "---:|" * len(CALLS))
        times = {name: {call: [] for call in CALLS} for name in ask}  # type: dict[str, dict[str, list[float]]]
        installs: dict[str, list[float]] = {name: [] for name in filters}
        for _ in range(rounds):
            for name in order.sample(list(ask), len(ask)):
                for call in CALLS:
                    times[name][call].append(ask[name](call))
                if name in filters:
                    done = subprocess.run([str(program), "install", str(paths[name]), "5"], capture_output=True, text=True, check=True)
                    installs[name].append(statistics.median(map(float, done.stdout.split())) / 1000)
        for name in ask:
            cells = []
            for call in CALLS:
                own, bare = times[name][call], times["no filter"][call]
                ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
                cells.append(f"{statistics.median(own):.0f} ns" + (f" ({ratio:.2f})" if name in filters else ""))
            size = f"{len(filters[name]) // 8} | {statistics.median(installs[name]):.0f}" if name in filters else "0 | "
            print(f"| {name} | {size} | " + " | ".join(cells) + " |")
    return 0


def _asker(process: subprocess.Popen[str]) -> Callable[[str], float]:
    def ask(call: str) -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{call} {_LOOPS}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return ask


def _filters(policies: tuple[str, ...], docker: str | None) -> Iterator[tuple[str, bytes]]:
    for name in policies:
        policy = load_policy(name)
        yield name, compile_filter(policy, native_arch()).bpf
        yield f"{name}, no listener", compile_filter(policy, native_arch(), notify=False).bpf
    first = load_policy(policies[0])
    for text, optimize in (("tree", TREE), ("list", LIST)):
        yield f"{policies[0]} as libseccomp's {text}", _plain(first, optimize)
    if docker is not None:
        yield "Docker's default, libseccomp's tree", compile_docker(Path(docker), TREE)
        yield "Docker's default, libseccomp's list", compile_docker(Path(docker), LIST)


def _plain(policy: SyscallPolicy, optimize: int) -> bytes:
    """Return a policy's filter as libseccomp makes it from one set of rules, without `link`."""
    arch, default = native_arch(), return_value(policy.default, notify=True)
    tree = empty_filter(default, optimize)
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue
        for tests, value in _paths(decision_tree(policy, syscall, arch, notify=True)):
            if value != default:
                tree.add_rule_exactly(
                    value, number, *(pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, wanted) for index, mask, wanted in tests)
                )
    return export_filter(tree)


def _paths(tree: Tree) -> Iterator[tuple[tuple[tuple[int, int, int], ...], int]]:
    if isinstance(tree, int):
        yield (), tree
        return
    for cubes, below in tree.ways:
        for tests, value in _paths(below):
            for care, wanted in cubes:
                yield ((tree.index, care, wanted), *tests), value
